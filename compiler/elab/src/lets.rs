//! The `let`s of a `train` block: which of them belong to the run and which to a step.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::settings::Overrides;
use crate::value::Value;
use optc_front::ast::{Block, BlockEntry, BlockItem, Expr, ExprKind, Pattern, PatternKind, Setting, StmtKind};
use optc_ops::Array;
use std::sync::Arc;

impl Evaluator<'_> {
    /// The value of a `let` of a train block that is the same in all steps; `None` for one that belongs to a step: it draws, or speaks of what only a step has.
    pub(crate) fn settled(&mut self, scope: &Scope, pattern: &Pattern, value: &Expr, of_steps: &[Arc<str>]) -> Eval<Option<Value>> {
        let free = free_names(value);
        if free.iter().chain(&names_of(pattern)).any(|n| of_steps.contains(n)) {
            return Ok(None);
        }
        for name in &free {
            // The batch, its fields and the models.
            if self.lookup(scope, name, value.span)?.is_none() && !matches!(&**name, "random" | "tree" | "...") {
                return Ok(None);
            }
        }
        let before = self.draws;
        let value = self.expr(&mut scope.clone(), value)?;
        Ok((self.draws == before).then_some(value))
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

/// The names that only a step of a `train` block gives a value: the batch size and the models.
pub(crate) fn step_names(item: &BlockItem) -> Vec<Arc<str>> {
    let settings = item.entries.iter().filter_map(|e| match e {
        BlockEntry::Setting(s) if &*s.word.text == "model" => Some(s),
        _ => None,
    });
    let models = settings.flat_map(|s| s.values.iter().filter_map(|(name, _)| name.as_ref().map(|n| n.text.clone())));
    models.chain([Arc::from("B")]).collect()
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
