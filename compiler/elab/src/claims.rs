//! Claims of the script: `check`, its tolerances, and the count of claims that are made again and again.

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::Output;
use crate::output::DIGITS;
use crate::scope::Scope;
use crate::value::Value;
use optc_abi::Tensor;
use optc_abi::number::shown;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BinaryOp, Condition, Expr, ExprKind};
use std::sync::Arc;

/// The tolerance of `~=` where none is given.
const TOLERANCE: f64 = 1e-6;

/// How far the two sides of `~=` may be apart, and whether that is relative to the largest element of the right one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    bound: f64,
    relative: bool,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { bound: TOLERANCE, relative: false }
    }
}

/// A claim of a loop that runs, held back because the passes to come may make it too.
#[derive(Clone, Debug)]
struct Pending {
    claim: String,
    span: Span,
    times: usize,
    failures: usize,
    /// What was found when it failed first.
    detail: String,
}

/// The claims made in the loops that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// How many loops of the script are being run, one inside the other.
    loops: usize,
    pending: Vec<Pending>,
}

impl Claims {
    /// Whether a loop of the script is being run.
    pub(crate) fn in_loop(&self) -> bool {
        self.loops > 0
    }
}

impl Evaluator<'_> {
    /// Runs a loop of the script: claims that its passes repeat are reported once, with a count.
    ///
    /// # Errors
    /// What `f` reports.
    pub(crate) fn in_script_loop<T>(&mut self, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<T> {
        self.script.claims.loops += 1;
        let result = f(self);
        self.script.claims.loops -= 1;
        if self.script.claims.loops == 0 {
            let pending = std::mem::take(&mut self.script.claims.pending);
            for claim in pending {
                self.report_claim(claim)?;
            }
        }
        result
    }
    fn report_claim(&mut self, p: Pending) -> Eval<()> {
        let Pending { claim, span, times, failures, mut detail } = p;
        if failures > 0 && times > 1 {
            detail = format!("{detail} ({failures} of {times} times)");
        }
        self.emit(Output::Check { claim, times, failures, detail, span }, span)
    }
    /// A claim was made.
    fn claimed(&mut self, claim: String, passed: bool, detail: String, span: Span) -> Eval<()> {
        let new = Pending { claim, span, times: 1, failures: usize::from(!passed), detail };
        if self.script.claims.loops == 0 {
            return self.report_claim(new);
        }
        // The same statement with other words: what it said before is not repeated.
        let pending = &mut self.script.claims.pending;
        match pending.iter_mut().find(|p| p.span == span) {
            None => pending.push(new),
            Some(p) if p.claim == new.claim => {
                if p.failures == 0 {
                    p.detail = new.detail;
                }
                p.times += 1;
                p.failures += new.failures;
            }
            Some(p) => {
                let old = std::mem::replace(p, new);
                self.report_claim(old)?;
            }
        }
        Ok(())
    }
    pub(crate) fn check_claim(&mut self, scope: &mut Scope, parts: &[Condition], claim: Option<&Expr>, span: Span) -> Eval<()> {
        let claim = match claim {
            Some(e) => {
                let v = self.expr(scope, e)?;
                self.show(&v, e.span)?
            }
            None => {
                let ends = parts.first().zip(parts.last()).map(|(a, b)| a.cond.span.to(b.cond.span));
                self.program.sources.slice(ends.unwrap_or(span)).to_string()
            }
        };
        let mut failed = None;
        for part in parts {
            let tolerance = match &part.within {
                Some((e, _)) if matches!(e.kind, ExprKind::Binary(BinaryOp::Or, ..)) => {
                    return self.fail(
                        Diagnostic::error(Code("E0348"), e.span, "`or` does not follow `within`")
                            .help("conditions are joined by `and` behind a bound; compare by yourself: `abs(a - b) < 1e-3 or c`"),
                    );
                }
                Some((e, relative)) => {
                    let v = self.expr(scope, e)?;
                    Tolerance { bound: self.host_number(&v, e.span)?, relative: *relative }
                }
                None => Tolerance::default(),
            };
            let saved = std::mem::replace(&mut self.script.tolerance, tolerance);
            let result = self.conjuncts(scope, &part.cond, &mut failed);
            self.script.tolerance = saved;
            result?;
            if failed.is_some() {
                break;
            }
        }
        if self.mode == Mode::Check {
            return Ok(());
        }
        self.claimed(claim, failed.is_none(), failed.unwrap_or_default(), span)
    }
    /// `check cond, "text"` in compiled code: what a function, model or optimizer asks of those who use it, of compile-time values.
    ///
    /// # Errors
    /// A condition that does not hold, where it is used; one that is not known at compile time.
    pub(crate) fn check_when_compiled(&mut self, scope: &mut Scope, parts: &[Condition], claim: Option<&Expr>, span: Span) -> Eval<()> {
        for part in parts {
            let value = self.expr(scope, &part.cond)?;
            let known = match (&value, &part.within) {
                (Value::Bool(known), None) => *known,
                (Value::Unknown, None) => None,
                _ => {
                    let at = part.within.as_ref().map_or(part.cond.span, |(bound, _)| bound.span);
                    return self.fail(
                        Diagnostic::error(Code("E0349"), at, "in compiled code a `check` is about what is known at compile time")
                            .help("check run-time values in an experiment; sizes, `ndim(w)`, `name` and `const` parameters are known here"),
                    );
                }
            };
            match known {
                Some(true) => {}
                // Of values that are given later.
                None if self.checking() => {}
                None => return self.error("E0344", part.cond.span, "this condition is not known at compile time"),
                Some(false) => {
                    let text = match claim {
                        Some(e) => {
                            let v = self.expr(scope, e)?;
                            self.show(&v, e.span)?
                        }
                        None => format!("`{}` does not hold", self.program.sources.slice(part.cond.span)),
                    };
                    let d = match self.used_at() {
                        Some(user) if user != span => Diagnostic::error(Code("E0358"), user, text).label(span, "checked here"),
                        _ => Diagnostic::error(Code("E0358"), span, text),
                    };
                    return self.fail(d);
                }
            }
        }
        Ok(())
    }
    /// Where the code at hand is used: the innermost call, or place where the optimizer was named, outside the standard library.
    fn used_at(&mut self) -> Option<Span> {
        let named = self.optimizer_named_at();
        let calls = self.frames.iter().rev().map(|f| f.span);
        let library = |s: &Span| self.program.modules.iter().any(|m| m.source == s.source && m.name.starts_with("std/"));
        let spans: Vec<Span> = calls.chain(named).collect();
        spans.iter().find(|s| !library(s)).or(spans.last()).copied()
    }
    /// Looks at the conditions joined by `and` one by one, up to the first that does not hold: what was found there.
    fn conjuncts(&mut self, scope: &mut Scope, cond: &Expr, failed: &mut Option<String>) -> Eval<()> {
        let mut all = Vec::new();
        let mut at = cond;
        while let ExprKind::Binary(BinaryOp::And, a, b) = &at.kind {
            all.push(&**b);
            at = a;
        }
        all.push(at);
        for cond in all.into_iter().rev() {
            if self.mode == Mode::Check {
                let v = self.expr(scope, cond)?;
                self.truth(&v, cond.span)?;
            } else if let Some(detail) = self.conjunct(scope, cond)? {
                *failed = Some(detail);
                break;
            }
        }
        Ok(())
    }
    /// What was found, if a condition does not hold.
    fn conjunct(&mut self, scope: &mut Scope, cond: &Expr) -> Eval<Option<String>> {
        if let ExprKind::Binary(BinaryOp::Near, a, b) = &cond.kind {
            let (va, vb) = (self.expr(scope, a)?, self.expr(scope, b)?);
            return self.apart(&va, &vb, cond.span);
        }
        let v = self.expr(scope, cond)?;
        if self.truth(&v, cond.span)? == Some(true) {
            return Ok(None);
        }
        let ExprKind::Binary(op, a, b) = &cond.kind else { return Ok(Some("is false".to_string())) };
        if !is_comparison(*op) {
            return Ok(Some("is false".to_string()));
        }
        let mut parts = Vec::new();
        for side in [a, b] {
            let value = self.expr(scope, side)?;
            let (text, shown) = (self.program.sources.slice(side.span).to_string(), self.show(&value, side.span)?);
            // A number says what it is.
            if text != shown {
                parts.push(format!("{text} is {shown}"));
            }
        }
        Ok(Some(parts.join(", ")))
    }
    /// `a ~= b` in the script: whether they are as near as the `check` at hand asks for.
    pub(crate) fn near(&mut self, a: &Value, b: &Value, span: Span) -> Eval {
        if self.mode == Mode::Check {
            return Ok(Value::Bool(None));
        }
        Ok(Value::Bool(Some(self.apart(a, b, span)?.is_none())))
    }
    /// How far two trees are apart, if that is more than is allowed.
    fn apart(&mut self, a: &Value, b: &Value, span: Span) -> Eval<Option<String>> {
        let Tolerance { bound, relative } = self.script.tolerance;
        let mut worst = Worst::default();
        self.compare(a, b, "", span, &mut worst)?;
        let error = if relative { worst.difference / worst.largest } else { worst.difference };
        // A NaN on either side never passes; two zeros are equal.
        let error = if worst.difference == 0.0 { 0.0 } else { error };
        if error <= bound {
            return Ok(None);
        }
        let place = if worst.path.is_empty() { String::new() } else { format!(" at {}", worst.path) };
        let kind = if relative { " relative" } else { "" };
        Ok(Some(format!("differs by {}{kind}{place}, allowed are {}", shown(error, DIGITS), shown(bound, DIGITS))))
    }

    /// The largest difference between two trees and the largest element of the second.
    fn compare(&mut self, a: &Value, b: &Value, path: &str, span: Span, worst: &mut Worst) -> Eval<()> {
        let join = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match (a, b) {
            (Value::Record(x), Value::Record(y)) => {
                if x.len() != y.len() {
                    return self.error("E0347", span, format!("the two sides of `~=` have {} and {} fields", x.len(), y.len()));
                }
                for (name, vx) in x.iter() {
                    let Some(vy) = y.get(name) else {
                        return self.error("E0347", span, format!("the right side of `~=` has no `{}`", join(name)));
                    };
                    self.compare(vx, vy, &join(name), span, worst)?;
                }
                Ok(())
            }
            (Value::Tuple(x), Value::Tuple(y)) | (Value::List(x), Value::List(y))
                if x.len() == y.len() && !(crate::tree::is_arrayish(a) && crate::tree::is_arrayish(b)) =>
            {
                for (k, (vx, vy)) in x.iter().zip(y.iter()).enumerate() {
                    self.compare(vx, vy, &join(&k.to_string()), span, worst)?;
                }
                Ok(())
            }
            _ => {
                let (ta, tb) = (self.numbers(a, b, span)?, self.numbers(b, a, span)?);
                let (xa, xb) = (ta.to_f64(), tb.to_f64());
                if ta.shape != tb.shape && xa.len() != 1 && xb.len() != 1 {
                    return self.error("E0347", span, format!("the two sides of `~=` have shapes {:?} and {:?}", ta.shape, tb.shape));
                }
                for i in 0..xa.len().max(xb.len()) {
                    let (x, y) = (xa[if xa.len() == 1 { 0 } else { i }], xb[if xb.len() == 1 { 0 } else { i }]);
                    let difference = if x == y { 0.0 } else { (x - y).abs() };
                    if difference > worst.difference || difference.is_nan() {
                        worst.difference = if difference.is_nan() { f64::INFINITY } else { difference };
                        worst.path = if xa.len().max(xb.len()) == 1 { path.to_string() } else { join(&format!("[{i}]")) };
                    }
                    worst.largest = worst.largest.max(y.abs());
                }
                Ok(())
            }
        }
    }

    /// A value as numbers; `beside` is what it is compared with.
    fn numbers(&mut self, value: &Value, beside: &Value, span: Span) -> Eval<Arc<Tensor>> {
        // Numbers as they were written take the type they meet.
        let met = match beside {
            Value::Array(a) if a.dtype.is_float() && !a.weak => a.dtype,
            _ => optc_abi::DType::F64,
        };
        match value {
            Value::Series(s) => Ok(Arc::new(Tensor::from_f64(optc_abi::DType::F64, &[s.values.len()], &s.values))),
            Value::Int(_) | Value::Float(_) => {
                let x = self.host_number(value, span)?;
                Ok(Arc::new(Tensor::from_f64(met, &[], &[x])))
            }
            other => {
                let val = self.val_of(other, span)?;
                self.cx.at(span);
                let array = optc_ops::as_written(&mut self.cx, &val);
                let array = self.lift(array, span)?;
                let found = self.force(&array, span)?;
                let written = found.dtype.is_float() && crate::grad::arrays_of(other).is_empty();
                Ok(if written { Arc::new(found.cast(met)) } else { found })
            }
        }
    }
}

#[derive(Default)]
struct Worst {
    difference: f64,
    largest: f64,
    path: String,
}

fn is_comparison(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge)
}
