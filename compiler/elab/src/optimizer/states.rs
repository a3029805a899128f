//! States of a body: declared in the first pass, read and handed out in the others.

use super::*;
use crate::settings::mentions;
use optc_front::ast::FnKind;

impl Evaluator<'_> {
    /// Whether some state of an optimizer begins with a function of the gradient.
    pub(crate) fn state_uses_gradient(&mut self, optimizer: &OptimizerValue) -> bool {
        match optimizer {
            OptimizerValue::Chain(parts) => parts.iter().any(|p| self.state_uses_gradient(p)),
            OptimizerValue::Groups { groups, .. } => {
                groups.iter().any(|g| g.optimizer.as_ref().is_some_and(|o| self.state_uses_gradient(o)))
            }
            OptimizerValue::Inner { of, .. } => self.state_uses_gradient(of),
            OptimizerValue::Single { item, args, .. } => {
                let ItemKind::Fn(f) = &self.program.item(*item).kind else { return false };
                let held =
                    f.params.iter().enumerate().filter(|(_, p)| p.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)));
                for (k, param) in held {
                    let named = args.iter().find(|a| a.name.as_deref() == Some(&*param.name.text));
                    let Some(arg) = named.or_else(|| args.get(k).filter(|a| a.name.is_none())) else { continue };
                    // Mistakes in it are found where it runs.
                    let known = self.diagnostics.len();
                    let value = self.expr(&mut arg.scope.clone(), &arg.expr);
                    self.diagnostics.truncate(known);
                    let Ok(value) = value else { continue };
                    if self.as_optimizer(&value, arg.expr.span).is_some_and(|o| self.state_uses_gradient(&o)) {
                        return true;
                    }
                }
                match &f.body.kind {
                    ExprKind::Block(b) => self.block_states_use_gradient(&b.stmts),
                    // A named chain: any of the optimizers it names may run.
                    _ => self.chain_states_use_gradient(*item, &mut Vec::new()),
                }
            }
        }
    }

    /// Whether a state of some optimizer that a named chain mentions begins with a function of the gradient.
    fn chain_states_use_gradient(&mut self, item: ItemRef, seen: &mut Vec<ItemRef>) -> bool {
        let Some(f) = self.fn_item(item).filter(|f| f.kind == FnKind::Optimizer && !seen.contains(&item)) else { return false };
        seen.push(item);
        if let ExprKind::Block(b) = &f.body.kind {
            return self.block_states_use_gradient(&b.stmts);
        }
        let mut names: Vec<(Arc<str>, Span)> = Vec::new();
        crate::walk::expr(&f.body, &mut |e| {
            if let ExprKind::Name(n) = &e.kind
                && f.params.iter().all(|p| p.name.text != *n)
            {
                names.push((n.clone(), e.span));
            }
            true
        });
        let known = self.diagnostics.len();
        let found = names.into_iter().any(|(name, span)| {
            let named = self.lookup(&Scope::new(item.module), &name, span).ok().flatten();
            match named.map(|v| self.as_optimizer(&v, span)) {
                Some(Some(o)) => matches!(&*o, OptimizerValue::Single { item, .. } if self.chain_states_use_gradient(*item, seen)),
                _ => false,
            }
        });
        self.diagnostics.truncate(known);
        found
    }

    fn block_states_use_gradient(&self, stmts: &[Stmt]) -> bool {
        stmts.iter().any(|s| match &s.kind {
            StmtKind::State { init, .. } => {
                let text = self.program.sources.slice(init.span);
                std::iter::once("g").chain(collectives::OF_LOSS.iter().copied()).any(|word| mentions(text, word))
            }
            StmtKind::Expr(e) | StmtKind::Let { value: e, .. } | StmtKind::Update { value: e, .. } => self.expr_states_use_gradient(e),
            _ => false,
        })
    }

    fn expr_states_use_gradient(&self, e: &Expr) -> bool {
        match &e.kind {
            ExprKind::If { then, otherwise, .. } => {
                self.block_states_use_gradient(&then.stmts) || otherwise.as_ref().is_some_and(|b| self.block_states_use_gradient(&b.stmts))
            }
            ExprKind::Block(b) => self.block_states_use_gradient(&b.stmts),
            _ => false,
        }
    }

    /// An update of what a body is given.
    pub(crate) fn not_of_the_body(&mut self, name: &str, at: Span, declared: Span) -> Eval<()> {
        let d = Diagnostic::error(Code("E0222"), at, format!("`{name}` cannot be updated"));
        let d = if declared == Span::default() { d } else { d.label(declared, "declared here, with `let` or as a hyperparameter") };
        self.fail(match name {
            "t" | "step" | "total_steps" => d.help("steps are counted by themselves; a count of your own is a state: `state n: i32 = 0`, `n <- n + 1`"),
            "loss" | "name" => d.help("a body updates `w`, `g`, its states and its variables"),
            _ => d.help(format!("for this step alone: `var {name} = …`; what lasts from step to step is a `state` (a number for all leaves: `shared state {name}: f32 = …`)")),
        })
    }

    pub(super) fn declare_state(
        &mut self,
        scopes: &mut [Scope],
        active: &[usize],
        (leaf, incoming): (usize, &Scope),
        shared: bool,
        name: &optc_front::ast::Name,
        ty: Option<&optc_front::ast::Type>,
        init: &Expr,
    ) -> Eval<()> {
        let (pass, stage, info) = {
            let run = self.opt_run();
            (run.inputs.pass, run.body.label.clone(), run.instance.leaves[leaf].leaf.clone())
        };
        if self.opt_run().body.conditional {
            return self.fail(
                Diagnostic::error(Code("E0343"), name.span, "`state` cannot stand under a run-time condition or in a loop")
                    .help("declare it at the top of the body, or under a condition that is known at compile time"),
            );
        }
        self.enter_leaf(if shared { None } else { Some(leaf) });
        let compute = compute_type(info.w.dtype);
        let mut scope = incoming.clone();
        let value = self.expr(&mut scope, init)?;
        let written = match ty {
            Some(ty) => Some(self.state_type(&mut scope, ty, &info.w)?),
            None => None,
        };
        if let (Value::Unknown, None) = (&value, &written) {
            // Not known while checking: neither is its shape.
            for &target in if shared { active } else { std::slice::from_ref(&leaf) } {
                scopes[target].bind(name.text.clone(), Value::Unknown, LetKind::Var, name.span);
                self.hoist(&mut scopes[target], &name.text, &Value::Unknown, name.span);
            }
            self.note_state(name, leaf, shared, Vec::new());
            return Ok(());
        }
        let base =
            if shared { format!("optimizer.{stage}.{}", name.text) } else { format!("optimizer.{stage}.{}.{}", name.text, info.path) };
        let is_scalar = |v: &Value| match v {
            Value::Int(_) | Value::Float(_) => true,
            Value::Array(a) => a.shape.is_empty(),
            _ => false,
        };
        // Reading widens to what the body computes in.
        let seen = |storage: Storage| match storage {
            Storage::Plain(d) if compute_type(d) == d => d,
            _ => compute,
        };
        let value = match (&written, shared) {
            (Some((storage, shape)), _) => Value::Array(self.fit(&value, seen(*storage), shape, &name.text, init.span)?),
            (None, false) if is_scalar(&value) => Value::Array(self.fit(&value, compute, &info.w.shape, &name.text, init.span)?),
            (None, true) if is_scalar(&value) => Value::Array(self.fit(&value, compute, &[], &name.text, init.span)?),
            _ => value,
        };
        let mut parts: Vec<StatePart> = Vec::new();
        let mut current = Vec::new();
        for (path, part) in self.tree_leaves(&value, init.span)? {
            let full = if path.is_empty() { base.clone() } else { format!("{base}.{path}") };
            let Some(val) = part.to_val() else {
                return self.fail(Diagnostic::error(
                    Code("E0333"),
                    init.span,
                    format!("state `{}` holds something that is no array", name.text),
                ));
            };
            let array = match optc_ops::materialize(&mut self.cx, &val, None) {
                Ok(a) => a,
                Err(e) => return self.fail(e.diagnostic(init.span)),
            };
            let storage = written.as_ref().map_or(Storage::Plain(array.dtype), |w| w.0);
            let part = StatePart { name: full, storage, shape: array.shape.clone(), seen: seen(storage) };
            if shared && !self.opt_run().shared_slots.contains(&part.name) {
                self.opt_run().shared_slots.push(part.name.clone());
            }
            if pass == Pass::Init {
                let run = self.opt_run();
                let known = |s: &StageState| s.parts.iter().any(|p| p.name == part.name);
                if run.body.stage_states.iter().any(known) || parts.iter().any(|p| p.name == part.name) {
                    return self.fail(Diagnostic::error(Code("E0345"), name.span, format!("state `{}` is declared twice", name.text)));
                }
                let owner = (!shared).then(|| self.opt_run().instance.leaves[leaf].index);
                for (slot, array) in self.slots_of(&part, &array, None) {
                    let short = format!("{}{}", name.text, slot.strip_prefix(&*base).unwrap_or_default());
                    self.opt_run().outputs.owners.entry(slot.clone()).or_insert_with(|| (owner, stage.clone(), Arc::from(short)));
                    // What a wrapper holds may be mentioned several times: the first mention sets the initial values.
                    self.opt_run().states.entry(slot).or_insert(array);
                }
            }
            let now = match self.read_slots(&part) {
                Some(a) => a,
                // While checking there are no slots: the type is what matters.
                None => self.cast_array(&array, part.seen),
            };
            parts.push(part);
            current.push(Value::Array(now));
        }
        let bound = self.rebuild_tree(&value, &mut current.into_iter());
        for &target in if shared { active } else { std::slice::from_ref(&leaf) } {
            scopes[target].bind(name.text.clone(), bound.clone(), LetKind::Var, name.span);
            self.hoist(&mut scopes[target], &name.text, &bound, name.span);
        }
        self.note_state(name, leaf, shared, parts);
        Ok(())
    }

    fn note_state(&mut self, name: &optc_front::ast::Name, leaf: usize, shared: bool, parts: Vec<StatePart>) {
        let run = &mut self.opt_run().body;
        if shared {
            run.shared.push(name.text.clone());
            run.own.retain(|n| *n != name.text);
        } else if !run.own.contains(&name.text) {
            run.own.push(name.text.clone());
        }
        run.stage_states.push(StageState { name: name.text.clone(), leaf: if shared { None } else { Some(leaf) }, parts });
    }

    /// States declared inside a branch must be readable when the body ends: they live in the body's outermost block under a reserved name.
    pub(super) fn hoist(&mut self, scope: &mut Scope, name: &Arc<str>, value: &Value, span: Span) {
        let key = format!("state {name}");
        if scope.get(&key).is_none() {
            scope.bind_at(1, key, value.clone(), LetKind::Var, span);
        }
    }

    /// After an update of a value kept in a narrow type: what is read later is what was stored.
    pub(super) fn round_stored(&mut self, scope: &mut Scope, root: Option<&str>, leaf: usize, span: Span) -> Eval<()> {
        let Some(root) = root else { return Ok(()) };
        let own;
        let (parts, of): (Vec<StatePart>, Option<usize>) = if root == "w" {
            let w = self.opt_run().instance.leaves[leaf].leaf.w.clone();
            own = StatePart { name: String::new(), storage: Storage::Plain(w.dtype), shape: w.shape, seen: compute_type(w.dtype) };
            (vec![own], Some(leaf))
        } else {
            let states = &self.opt_run().body.stage_states;
            let found = states.iter().rev().find(|s| &*s.name == root && s.leaf.is_none_or(|l| l == leaf));
            found.map(|s| (s.parts.clone(), s.leaf)).unwrap_or_default()
        };
        let Some(value) = scope.get(root).map(|b| b.value.clone()) else { return Ok(()) };
        let mut value = value;
        if parts.iter().any(|p| p.storage != Storage::Plain(p.seen)) {
            // Draws of random rounding belong to the leaf.
            self.enter_leaf(of);
            let mut rounded = Vec::new();
            for ((_, now), part) in self.tree_leaves(&value, span)?.iter().zip(&parts) {
                let fitted = self.fit(now, part.seen, &part.shape, root, span)?;
                rounded.push(Value::Array(self.as_stored(part, &fitted, span)));
            }
            value = self.rebuild_tree(&value, &mut rounded.into_iter());
            scope.set(root, value.clone());
        }
        if root != "w" && root != "g" {
            scope.set(&format!("state {root}"), value);
        }
        Ok(())
    }

    /// Hands out the states a stage leaves.
    pub(super) fn finish_stage(&mut self, scopes: &[Scope], item: &FnItem) -> Eval<()> {
        if self.opt_run().inputs.pass != Pass::Step {
            return Ok(());
        }
        let states = self.opt_run().body.stage_states.clone();
        for state in states {
            let scope = &scopes[state.leaf.unwrap_or(0)];
            let value = scope.get(&format!("state {}", state.name)).or_else(|| scope.get(&state.name)).map(|b| b.value.clone());
            let value = value.unwrap_or(Value::Unknown);
            self.enter_leaf(state.leaf);
            let parts = self.tree_leaves(&value, item.span)?;
            for (part, (_, now)) in state.parts.iter().zip(parts) {
                let fitted = self.fit(&now, part.seen, &part.shape, &state.name, item.span)?;
                for (slot, array) in self.slots_of(part, &fitted, Some(item.span)) {
                    if let Some(kept) = self.opt_run().states.get_mut(&slot) {
                        *kept = array;
                    }
                }
            }
        }
        Ok(())
    }
}
