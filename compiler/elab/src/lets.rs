//! The `let`s of a `train` block: which of them belong to the run and which to a step.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::settings::Overrides;
use crate::value::Value;
use optc_base::{Code, Diagnostic};
use optc_front::ast::{Block, Expr, ExprKind, Pattern, PatternKind, Setting, StmtKind};
use optc_ops::Array;
use std::sync::Arc;

impl Evaluator<'_> {
    /// The value of a `let` of a train block that is the same in all steps; `None` for one that belongs to a step: it draws, or speaks of what only a step has.
    pub(crate) fn settled(&mut self, scope: &Scope, pattern: &Pattern, value: &Expr, drawn: &[(Pattern, Expr)]) -> Eval<Option<Value>> {
        let of_steps: Vec<Arc<str>> = drawn.iter().flat_map(|(p, _)| names_of(p)).collect();
        let free = free_names(value);
        if free.iter().chain(&names_of(pattern)).any(|n| of_steps.contains(n)) {
            return Ok(None);
        }
        for name in &free {
            // The size of the batch, its fields and the models.
            if self.lookup(scope, name, value.span)?.is_none() && !matches!(&**name, "random" | "tree" | "...") {
                return Ok(None);
            }
        }
        let before = self.draws;
        let value = self.expr(&mut scope.clone(), value)?;
        Ok((self.draws == before).then_some(value))
    }
    /// Hyperparameters do not see what a step draws: they may draw themselves.
    pub(crate) fn no_let_of_steps(&mut self, optimizer: &Expr, drawn: &[(Pattern, Expr)]) -> Eval<()> {
        let of_steps: Vec<Arc<str>> = drawn.iter().flat_map(|(p, _)| names_of(p)).collect();
        let free = free_names(optimizer);
        let Some(name) = free.iter().find(|n| of_steps.contains(n)) else { return Ok(()) };
        let mut at = optimizer.span;
        crate::walk::expr(optimizer, &mut |e| {
            if matches!(&e.kind, ExprKind::Name(n) if n == name) {
                at = e.span;
            }
            true
        });
        self.fail(
            Diagnostic::error(Code("E0220"), at, format!("the optimizer does not see `{name}`, which each step makes anew"))
                .help("a hyperparameter may draw itself: `lr = 0.1 * random.uniform()` is one number per step"),
        )
    }
    /// The key of what the settings of a run draw once, such as arguments of its models: made from the run's seed. `None` while nothing is computed.
    pub(crate) fn settings_key(&mut self, scope: &Scope, overrides: &Overrides, setting: Option<&Setting>) -> Eval<Option<Array>> {
        if !self.cx.emitting() {
            return Ok(None);
        }
        let given = overrides.iter().rev().find(|(word, _, _)| word == "seed").map(|(_, v, at)| (v.clone(), *at));
        let value = match (given, setting.and_then(|s| s.values.first())) {
            (Some(given), _) => Some(given),
            (None, Some((_, e))) => Some((self.expr(&mut scope.clone(), e)?, e.span)),
            (None, None) => None,
        };
        let seed = match value {
            Some((v, at)) => self.host_int(&v, at, "seed")?,
            None => 0,
        };
        let key = self.seed_key(seed.cast_unsigned());
        Ok(Some(self.fold_key(&key, crate::train::FOLD_SETTINGS, None)))
    }
}

/// The names a pattern binds.
pub fn names_of(pattern: &Pattern) -> Vec<Arc<str>> {
    match &pattern.kind {
        PatternKind::Name(n) => vec![n.clone()],
        PatternKind::Ignore => Vec::new(),
        PatternKind::Tuple(items) => items.iter().flat_map(names_of).collect(),
        PatternKind::Record(fields) => fields.iter().flat_map(|(_, p)| names_of(p)).collect(),
    }
}

/// The names an expression mentions without binding them somewhere inside, each once.
pub fn free_names(e: &Expr) -> Vec<Arc<str>> {
    let (mut mentioned, mut bound): (Vec<Arc<str>>, Vec<Arc<str>>) = (Vec::new(), Vec::new());
    let bind_in = |b: &Block, bound: &mut Vec<Arc<str>>| {
        for s in &b.stmts {
            match &s.kind {
                StmtKind::Let { pattern, .. } => bound.extend(names_of(pattern)),
                StmtKind::LetIndexed { name, indices, .. } => {
                    bound.push(name.text.clone());
                    bound.extend(indices.iter().map(|i| i.name.text.clone()));
                }
                _ => {}
            }
        }
    };
    crate::walk::expr(e, &mut |e| {
        match &e.kind {
            ExprKind::Name(n) => mentioned.push(n.clone()),
            ExprKind::Lambda(l) => bound.extend(l.params.iter().flat_map(names_of)),
            ExprKind::Comprehension { clauses, .. } => bound.extend(clauses.iter().flat_map(|c| names_of(&c.pattern))),
            ExprKind::Reduction { indices, .. } => bound.extend(indices.iter().map(|i| i.name.text.clone())),
            ExprKind::For(l) => {
                bound.extend(names_of(&l.pattern));
                bind_in(&l.body, &mut bound);
            }
            ExprKind::Block(b) | ExprKind::Time(b) => bind_in(b, &mut bound),
            ExprKind::While { body, .. } | ExprKind::With { body, .. } => bind_in(body, &mut bound),
            ExprKind::If { then, otherwise, .. } => {
                bind_in(then, &mut bound);
                otherwise.iter().for_each(|b| bind_in(b, &mut bound));
            }
            _ => {}
        }
        true
    });
    let mut free: Vec<Arc<str>> = Vec::new();
    for name in mentioned {
        if !bound.contains(&name) && !free.contains(&name) {
            free.push(name);
        }
    }
    free
}
