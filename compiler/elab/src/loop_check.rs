//! Loops while checking: what a body does to the types of the variables it updates.

use crate::evaluator::{Eval, Evaluator};
use crate::loops::{Body, Passes};
use crate::scope::Scope;
use crate::tree::{leaves, rebuild};
use crate::value::Value;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, ExprKind, StmtKind};
use optc_ops::{Array, Dim};

/// While checking, loops with literal bounds up to this are gone through pass by pass.
const CHECK_PASSES: i64 = 8;

impl Evaluator<'_> {
    /// While checking: one pass with an unknown index, or a few with known ones.
    pub(crate) fn check_loop(&mut self, scope: &mut Scope, body: &Body<'_>, passes: Passes) -> Eval {
        let (items, trip): (Vec<Value>, Option<Dim>) = match &passes {
            Passes::Items(items) => return self.unrolled(scope, body, items.clone()),
            Passes::Count { start, trip, reverse } => match (start.known(), trip.known()) {
                (Some(a), Some(n)) if n <= CHECK_PASSES => {
                    let mut items: Vec<Value> = (a..a + n.max(0)).map(|i| Value::Int(i.into())).collect();
                    if *reverse {
                        items.reverse();
                    }
                    return self.unrolled(scope, body, items);
                }
                _ => (vec![Value::Int(self.cx.fresh_symbol("?"))], Some(trip.clone())),
            },
            Passes::Bounds { .. } => (vec![Value::Array(Array { dtype: DType::I32, shape: Vec::new(), weak: true, node: None })], None),
            Passes::Rows(a) => {
                (vec![Value::Array(Array { shape: a.shape[1..].to_vec(), weak: false, ..a.clone() })], Some(a.shape[0].clone()))
            }
            Passes::While { .. } | Passes::Unknown => (vec![Value::Unknown], None),
        };
        let run_time = matches!(passes, Passes::Bounds { .. } | Passes::While { .. }) && !self.in_script;
        if run_time && self.must_unroll(scope, body.block) {
            return self.cannot_unroll(body.span, body.block);
        }
        let mut names = crate::walk::assigned(&body.block.stmts);
        // `xs.push(x)` updates a list.
        crate::walk::block(body.block, &mut |e| {
            if let ExprKind::Call { callee, .. } = &e.kind
                && let ExprKind::Field(base, method) = &callee.kind
                && matches!(&*method.text, "push" | "pop")
            {
                names.extend(crate::walk::root(base));
            }
            true
        });
        names.retain(|n| scope.get(n).is_some());
        names.dedup();
        let before = self.values_of(scope, &names);
        self.yields.push(Vec::new());
        let mut result = Ok(Value::None);
        for item in items {
            scope.push();
            let position = Value::Int(self.cx.fresh_symbol("?"));
            result = match self.bind_element(scope, body, item, position) {
                Ok(()) => self.block(scope, body.block),
                Err(stop) => Err(stop),
            };
            scope.pop();
        }
        let yields = self.yields.pop().unwrap_or_default();
        let value = result?;
        if body.block.stmts.last().is_some_and(|s| self.dropped_step(&value, s)) {
            return Err(crate::evaluator::Stop::Reported);
        }
        for (name, old) in names.iter().zip(before) {
            let new = scope.get(name).map_or(Value::Unknown, |b| b.value.clone());
            let value = self.after_pass(name, &old, &new, run_time, body)?;
            scope.set(name, value);
        }
        match yields.as_slice() {
            [] => Ok(Value::None),
            _ if run_time => self.cannot_stack(body.span),
            [_, _, ..] => self.yields_twice(body.span),
            [one] => {
                let trip = trip.unwrap_or_else(|| self.cx.fresh_symbol("?"));
                let span = body.span;
                self.map_tree(one, span, &mut |ev, _, leaf| {
                    if matches!(leaf, Value::Unknown) {
                        return Ok(Value::Unknown);
                    }
                    let a = ev.array_of(leaf, span)?;
                    let mut shape = vec![trip.clone()];
                    shape.extend(a.shape.iter().cloned());
                    Ok(Value::Array(Array { shape, weak: false, ..a }))
                })
            }
        }
    }
    /// What a variable is after any number of passes, while checking.
    fn after_pass(&mut self, name: &str, old: &Value, new: &Value, run_time: bool, body: &Body<'_>) -> Eval {
        if !run_time {
            let numbers = matches!(old, Value::Int(_) | Value::Float(_));
            return Ok(match (old, new) {
                (_, Value::Array(_)) if numbers => new.clone(),
                _ => self.join(old, new),
            });
        }
        let (p, q) = (leaves(old), leaves(new));
        if p.len() != q.len() || matches!(old, Value::Unknown) || matches!(new, Value::Unknown) {
            return Ok(self.join(old, new));
        }
        let mut out = Vec::new();
        for ((_, x), (_, y)) in p.iter().zip(&q) {
            let (Some(s), Some(t)) = (self.leaf_ty(x, body.span)?, self.leaf_ty(y, body.span)?) else {
                out.push(Value::Unknown);
                continue;
            };
            let fits = t == s || (s.weak && s.meet(&t).is_some()) || t.meet(&s).as_ref() == Some(&s);
            if !fits {
                let place = update_place(body.block, name).unwrap_or(body.span);
                return self.fail(
                    Diagnostic::error(Code("E0424"), place, format!("`{name}` changes its type from pass to pass"))
                        .at(format!("{} after a pass", t.text()))
                        .note(format!("it is {} before a pass and {} after it", s.text(), t.text()))
                        .help("what a loop carries keeps its element type and shape"),
                );
            }
            let ty = s.meet(&t).unwrap_or(t);
            out.push(Value::Array(Array { dtype: ty.dtype, shape: ty.shape, weak: ty.weak, node: None }));
        }
        Ok(rebuild(old, &mut out.into_iter()))
    }
}

/// The last update of a variable in a body.
fn update_place(b: &Block, name: &str) -> Option<Span> {
    let mut place = None;
    crate::walk::stmts(&b.stmts, &mut |s| {
        if let StmtKind::Update { target, value } = &s.kind
            && crate::walk::root(target).as_deref() == Some(name)
        {
            place = Some(value.span);
        }
    });
    place
}
