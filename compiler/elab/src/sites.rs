//! The numbers of calls and draws within the body they stand in: decided by the text alone, so that it does not matter which of them are evaluated, or when.

use optc_base::Span;
use optc_front::Program;
use optc_front::ast::{Block, BlockEntry, Expr, ExprKind, ItemKind, Param, Setting, StmtKind};
use rustc_hash::{FxHashMap, FxHashSet};
use std::cmp::Reverse;

/// Numbers by place in the text. Within a region (the body of a function, an experiment, a lambda, a block with a seed, an initial value of a parameter) the calls that can
/// draw are numbered from 1 by where they end, which is the order of straight evaluation.
pub(crate) struct Sites {
    numbers: FxHashMap<Span, u64>,
    /// Initial values of parameters and buffers: regions of their own.
    initial: FxHashSet<Span>,
    /// What the region at hand holds so far.
    found: Vec<Span>,
}

impl Sites {
    /// The numbers of a program.
    pub fn of(program: &Program) -> Sites {
        let mut sites = Sites { numbers: FxHashMap::default(), initial: FxHashSet::default(), found: Vec::new() };
        for item in program.modules.iter().flat_map(|m| &m.file.items) {
            sites.item(&item.kind);
        }
        sites
    }
    /// The number of the call or draw with this span; `None` if the text has no call there.
    pub fn number(&self, span: Span) -> Option<u64> {
        self.numbers.get(&span).copied()
    }

    fn item(&mut self, item: &ItemKind) {
        match item {
            ItemKind::Fn(f) => {
                self.defaults(&f.name.text, &f.params);
                if let ExprKind::Block(body) = &f.body.kind {
                    self.note_initial(body);
                }
                // A schedule is read at the place that asks for it.
                let salt = if f.kind == optc_front::ast::FnKind::Schedule { crate::rng::text_hash(&f.name.text) } else { 0 };
                self.region(salt, |s| {
                    s.visit(&f.body);
                    if let Some(gradient) = &f.gradient {
                        s.visit(&gradient.body);
                    }
                });
            }
            ItemKind::Const { value, .. } => self.region(0, |s| s.visit(value)),
            ItemKind::Block(b) => {
                self.defaults(&b.name.text, &b.params);
                self.region(0, |s| {
                    for entry in &b.entries {
                        match entry {
                            BlockEntry::Let { value, .. } | BlockEntry::Field { value, .. } => s.visit(value),
                            BlockEntry::Setting(setting) => s.setting(setting),
                        }
                    }
                });
            }
            ItemKind::Experiment(e) => {
                self.defaults(&e.name.text, &e.params);
                self.region(0, |s| crate::walk::block(&e.body, &mut |e| s.step(e)));
            }
            ItemKind::Import(_) | ItemKind::TypeAlias { .. } | ItemKind::Extern(_) => {}
        }
    }
    fn setting(&mut self, setting: &Setting) {
        let values = setting.values.iter().map(|(_, e)| e);
        let clauses = setting.clauses.iter().filter_map(|c| c.value.as_ref());
        for e in values.chain(clauses).chain(setting.options.iter().map(|(_, e)| e)) {
            self.visit(e);
        }
    }
    /// Defaults of parameters are evaluated where the item is called, so their numbers are told apart from those of the caller by the item's name.
    fn defaults(&mut self, name: &str, params: &[Param]) {
        let salt = crate::rng::text_hash(name);
        self.region(salt, |s| params.iter().filter_map(|p| p.default.as_ref()).for_each(|e| s.visit(e)));
    }
    fn note_initial(&mut self, body: &Block) {
        let initial = &mut self.initial;
        crate::walk::stmts(&body.stmts, &mut |s| {
            if let StmtKind::Param { init, .. } | StmtKind::Buffer { init, .. } = &s.kind {
                initial.insert(init.span);
            }
        });
    }

    /// Numbers what `f` visits. With a salt the numbers are unlike those of any other region.
    fn region(&mut self, salt: u64, f: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.found);
        f(self);
        let mut found = std::mem::replace(&mut self.found, outer);
        found.sort_unstable_by_key(|s| (s.end, Reverse(s.start)));
        found.dedup();
        for (k, span) in found.into_iter().enumerate() {
            let number = k as u64 + 1;
            self.numbers.insert(span, if salt == 0 { number } else { crate::rng::mix(salt, number) });
        }
    }
    fn visit(&mut self, e: &Expr) {
        crate::walk::expr(e, &mut |e| self.step(e));
    }
    /// Takes one expression in; whether its parts belong to the region too.
    fn step(&mut self, e: &Expr) -> bool {
        if self.initial.remove(&e.span) {
            self.region(0, |s| s.visit(e));
            return false;
        }
        match &e.kind {
            ExprKind::Lambda(l) => {
                self.region(0, |s| s.visit(&l.body));
                false
            }
            ExprKind::With { settings, body } if settings.iter().any(|(n, _)| &*n.text == "seed") => {
                settings.iter().for_each(|(_, e)| self.visit(e));
                self.region(0, |s| crate::walk::block(body, &mut |e| s.step(e)));
                false
            }
            ExprKind::Call { callee, .. } => {
                if may_draw(callee) {
                    self.found.push(e.span);
                }
                true
            }
            ExprKind::Pipe(_, f) => {
                if !matches!(f.kind, ExprKind::Call { .. }) && may_draw(f) {
                    self.found.push(f.span);
                }
                true
            }
            _ => true,
        }
    }
}

/// Whether a call of this may draw, as far as the text says: a draw, or anything but a built-in operation.
fn may_draw(callee: &Expr) -> bool {
    match &callee.kind {
        ExprKind::Name(n) => matches!(&**n, "init" | "generate") || !crate::names::is_operation(n),
        ExprKind::Field(base, method) => match &base.kind {
            ExprKind::Name(space) if &**space == "random" => true,
            ExprKind::Name(space) if &**space == "tree" => &*method.text == "map",
            _ => !crate::names::is_operation(&method.text),
        },
        _ => true,
    }
}
