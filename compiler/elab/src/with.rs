//! `with` blocks: a seed, a precision, or `training` for what is evaluated inside.

use crate::evaluator::{Eval, Evaluator};
use crate::rng::OtherSites;
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::Value;
use optc_base::{Code, Diagnostic};
use optc_front::ast::{self, ElemType, Expr, ExprKind, Name};

impl Evaluator<'_> {
    /// `with seed = 7, precision = f64 { … }`
    pub(crate) fn with(&mut self, scope: &mut Scope, settings: &[(Name, Expr)], body: &ast::Block) -> Eval {
        let saved = (self.key.clone(), self.counters.clone(), self.instance.place);
        let (saved_training, saved_float) = (self.training, self.cx.float);
        let mut numbers = None;
        let mut result = Ok(());
        for (name, value) in settings {
            result = self.with_setting(scope, name, value, &mut numbers);
            if result.is_err() {
                break;
            }
        }
        let draws = self.draws;
        let value = match result {
            Ok(()) => self.block(scope, body),
            Err(stop) => Err(stop),
        };
        if numbers.is_some() {
            // What is drawn inside depends on the seed alone: to what stands around it is no draw.
            self.draws = draws;
        }
        (self.key, self.counters, self.instance.place) = saved;
        if let Some(numbers) = numbers {
            self.other_sites = numbers;
        }
        (self.training, self.cx.float) = (saved_training, saved_float);
        value
    }
    /// `numbers` keeps the numbers of draws outside, where a seed begins new ones.
    fn with_setting(&mut self, scope: &mut Scope, name: &Name, value: &Expr, numbers: &mut Option<OtherSites>) -> Eval<()> {
        // A precision is the type that is written, also where `f32` stands for another one.
        let v = match &value.kind {
            ExprKind::DType(ElemType::Concrete(d)) => Value::DType(*d),
            ExprKind::Name(n)
                if &*name.text == "precision"
                    && scope.get(n).is_none()
                    && self.program.lookup(scope.module, n).is_none()
                    && looks_like_float(n) =>
            {
                return self.fail(
                    Diagnostic::error(Code("E0333"), value.span, format!("there is no precision `{n}`")).help("bf16, f16, f32 or f64"),
                );
            }
            _ => self.expr(scope, value)?,
        };
        match &*name.text {
            "seed" => {
                let key = match self.looked_at(v, value.span)? {
                    Value::Int(d) => self.seed_key(d.known().unwrap_or(0) as u64),
                    Value::Unknown => self.key_type(),
                    Value::Array(a) if a.dtype.is_int() && a.shape.is_empty() => self.run_time_key(&a, value.span)?,
                    other => {
                        return self.fail(Diagnostic::error(
                            Code("E0333"),
                            value.span,
                            format!("a seed is an integer, this is {}", describe(&other)),
                        ));
                    }
                };
                self.key = Some(key);
                self.counters.clear();
                // Draws depend on their place in the block only, not on the callers around it nor on where the block stands: it numbers them afresh.
                self.instance.place = 0x7769_7468;
                let outer = std::mem::take(&mut self.other_sites);
                numbers.get_or_insert(outer);
            }
            "training" => match v {
                Value::Bool(b) => self.training = b,
                _ => return self.error("E0333", value.span, "`training` is a flag"),
            },
            "precision" => match v {
                Value::DType(d) if d.is_float() => self.cx.float = d,
                Value::Unknown => {}
                other => {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0333"),
                            value.span,
                            format!("a precision is a float element type, this is {}", describe(&other)),
                        )
                        .help("`with precision = f64 { … }`"),
                    );
                }
            },
            other => {
                return self.fail(
                    Diagnostic::error(Code("E0220"), name.span, format!("`with` has no setting `{other}`"))
                        .help("it has `seed`, `precision` and `training`"),
                );
            }
        }
        Ok(())
    }
}

/// `f8`, `fp16`, `float32`, `half`: what other libraries call types.
fn looks_like_float(name: &str) -> bool {
    let digits = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()));
    ["f", "fp", "bf", "tf", "float", "bfloat"].into_iter().any(digits) || matches!(name, "half" | "single" | "double")
}
