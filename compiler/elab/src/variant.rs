//! What sets a run apart from the plain run of its `train` block: the name of a folder for its files, so that different runs do not overwrite each other's.

use crate::evaluator::{Eval, Evaluator};
use crate::rng::{bytes_hash, text_hash};
use crate::scope::Scope;
use crate::settings::Overrides;
use crate::value::{BlockValue, CallArg, FnValue, ModelValue, OptimizerValue, ScheduleValue, Transform, Value};
use optc_base::Span;
use optc_front::ItemRef;
use optc_front::ast::{Expr, ExprKind, ItemKind};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Overrides that say how long a run goes on and where its files go; the run itself is the same.
const SAME_RUN: &[&str] = &["steps", "epochs", "resume", "checkpoint", "log", "offload"];
/// Longest name of a folder, in bytes; longer ones end in a hash.
const LONGEST: usize = 120;
/// Closures nested deeper than this are told apart by their text alone.
const DEEPEST: usize = 24;

impl Evaluator<'_> {
    /// A name for the run of a block with overrides, made of what differs from the block as written: `seed=3,net.hidden=32`. Empty for the plain run. Runs that differ in
    /// anything but their length have different names; values that are more than a number or word are named by what they are and a hash.
    ///
    /// # Errors
    /// An array that cannot be computed.
    pub(crate) fn variant(&mut self, block: &BlockValue, overrides: &Overrides, span: Span) -> Eval<String> {
        let mut parts: BTreeMap<String, String> = BTreeMap::new();
        for (name, text) in self.script.settings.constants.clone() {
            parts.insert(name, word(text.trim()));
        }
        let params: Vec<String> = match &self.program.item(block.item).kind {
            ItemKind::Block(b) => b.params.iter().map(|p| p.name.text.to_string()).collect(),
            _ => Vec::new(),
        };
        let mut position = 0;
        for arg in &block.args {
            let name = match &arg.name {
                Some(name) => name.to_string(),
                None => {
                    position += 1;
                    params.get(position - 1).cloned().unwrap_or_else(|| position.to_string())
                }
            };
            parts.insert(name, self.part(&arg.value, span)?);
        }
        for (name, value, at) in overrides {
            if !SAME_RUN.contains(&name.as_str()) {
                parts.insert(name.clone(), self.part(value, *at)?);
            }
        }
        let name = parts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
        if name.len() <= LONGEST {
            return Ok(name);
        }
        let end = (0..=LONGEST - 17).rev().find(|&k| name.is_char_boundary(k)).unwrap_or(0);
        Ok(format!("{}-{:016x}", &name[..end], text_hash(&name)))
    }
    /// A value as a part of a file name.
    fn part(&mut self, value: &Value, span: Span) -> Eval<String> {
        let text = self.identity(value, span, 0)?;
        let kind = match value {
            Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Str(_) | Value::DType(_) | Value::None => return Ok(word(&text)),
            Value::Array(a) if a.shape.is_empty() => return Ok(word(&text)),
            Value::Array(_) => "array".to_string(),
            Value::Optimizer(o) => self.optimizer_names(o).join("+"),
            Value::Model(m) => self.item_name(m.item),
            Value::Block(b) => self.item_name(b.item),
            Value::Data(d) => d.name.clone(),
            _ => "value".to_string(),
        };
        Ok(format!("{}-{:012x}", word(&kind), text_hash(&text) >> 16))
    }
    fn optimizer_names(&self, optimizer: &OptimizerValue) -> Vec<String> {
        match optimizer {
            OptimizerValue::Single { item, .. } => vec![self.item_name(*item)],
            OptimizerValue::Chain(parts) => parts.iter().flat_map(|p| self.optimizer_names(p)).collect(),
            OptimizerValue::Groups { groups, .. } => {
                groups.iter().flat_map(|g| g.optimizer.as_ref().map_or(vec!["none".into()], |o| self.optimizer_names(o))).collect()
            }
            OptimizerValue::Inner { of, .. } => self.optimizer_names(of),
        }
    }
    fn item_name(&self, item: ItemRef) -> String {
        self.program.item(item).name().map_or(String::new(), |n| n.text.to_string())
    }
    /// A text that is the same for two values exactly if runs with them are the same.
    fn identity(&mut self, value: &Value, span: Span, depth: usize) -> Eval<String> {
        if depth > DEEPEST {
            return Ok("…".into());
        }
        let depth = depth + 1;
        Ok(match value {
            Value::Int(d) => d.to_string(),
            Value::Float(x) => x.map_or("?".into(), |x| x.to_string()),
            Value::Bool(b) => b.map_or("?".into(), |b| b.to_string()),
            Value::Str(s) => s.to_string(),
            Value::DType(d) => d.to_string(),
            Value::Quantized(q) => q.to_string(),
            Value::None => "none".into(),
            Value::Unknown => "?".into(),
            Value::Range { start, stop, reverse } => format!("{start}..{stop} {reverse}"),
            Value::RunRange(a, b, reverse) => {
                let ends = [a, b].map(|x| self.identity(&Value::Array(x.clone()), span, depth));
                let [a, b] = ends;
                format!("{}..{} {reverse}", a?, b?)
            }
            Value::Array(a) => {
                let tensor = self.force(a, span)?;
                match tensor.shape.as_slice() {
                    [] => tensor.get_f64(0).to_string(),
                    shape => format!("{}{shape:?}{:016x}", tensor.dtype, bytes_hash(tensor.bytes())),
                }
            }
            Value::Series(s) => format!("{:?}", s.values),
            Value::Tuple(items) | Value::List(items) => {
                let parts = items.iter().map(|v| self.identity(v, span, depth)).collect::<Eval<Vec<_>>>()?;
                format!("({})", parts.join(","))
            }
            Value::Record(fields) => {
                let parts = fields.iter().map(|(n, v)| Ok(format!("{n}={}", self.identity(v, span, depth)?))).collect::<Eval<Vec<_>>>()?;
                format!("{{{}}}", parts.join(","))
            }
            Value::Model(m) => self.model_identity(m, span, depth)?,
            Value::Optimizer(o) => self.optimizer_identity(o, span, depth)?,
            Value::Schedule(s) => match &**s {
                ScheduleValue::Item { item, args, .. } => {
                    format!("{}{}", self.item_identity(*item), self.args_identity(args, span, depth)?)
                }
                ScheduleValue::Binary(op, a, b, _) => {
                    format!("({} {op:?} {})", self.identity(a, span, depth)?, self.identity(b, span, depth)?)
                }
                ScheduleValue::Neg(a, _) => format!("-{}", self.identity(a, span, depth)?),
            },
            Value::Data(d) => {
                let rows = d.rows.as_ref().map_or(0, |r| text_hash(&format!("{r:?}")));
                let mut text = format!("{} {rows:x}", d.name);
                for (name, tensor) in &d.fields {
                    let _ = write!(text, " {name}:{}{:?}", tensor.dtype, tensor.shape);
                }
                text
            }
            Value::Block(b) => {
                format!("{}{}.{:?}", self.item_identity(b.item), self.args_identity(&b.args, span, depth)?, b.split)
            }
            Value::Run(run) => {
                let mut text = String::from("run");
                for (name, model) in &run.models {
                    let _ = write!(text, " {name}={}", self.identity(model, span, depth)?);
                }
                text
            }
            Value::Module(m) => self.program.module(*m).name.to_string(),
            Value::Fn(f) => match &**f {
                FnValue::Builtin(name) => name.to_string(),
                FnValue::Item(item) => self.item_identity(*item),
                FnValue::Lambda { lambda, scope } => {
                    let text = self.program.sources.slice(lambda.span).to_string();
                    format!("{text}{}", self.captured_identity(&lambda.body, scope, span, depth)?)
                }
                FnValue::Transformed(Transform::Grad { f, wrt, value }) => {
                    format!("grad {wrt:?} {value} {}", self.identity(f, span, depth)?)
                }
                FnValue::Transformed(Transform::Jacobian { f, wrt, hessian }) => {
                    format!("jacobian {wrt:?} {hessian} {}", self.identity(f, span, depth)?)
                }
                FnValue::Transformed(Transform::Vmap { f, axes }) => format!("vmap {axes:?} {}", self.identity(f, span, depth)?),
                FnValue::Transformed(Transform::Checkpoint(f, r)) => format!("checkpoint {r:?} {}", self.identity(f, span, depth)?),
                FnValue::Transformed(Transform::Pullback { f, args }) => {
                    let args = Value::Tuple(std::rc::Rc::new(args.clone()));
                    format!("vjp {} {}", self.identity(f, span, depth)?, self.identity(&args, span, depth)?)
                }
            },
        })
    }
    fn item_identity(&self, item: ItemRef) -> String {
        format!("{}.{}", self.program.module(item.module).name, self.item_name(item))
    }
    fn args_identity(&mut self, args: &[CallArg], span: Span, depth: usize) -> Eval<String> {
        let parts = args.iter().map(|a| Ok(format!("{:?}={}", a.name, self.identity(&a.value, span, depth)?))).collect::<Eval<Vec<_>>>()?;
        Ok(format!("({})", parts.join(",")))
    }
    fn model_identity(&mut self, m: &ModelValue, span: Span, depth: usize) -> Eval<String> {
        let params = match &m.params {
            Some(p) => self.identity(p, span, depth)?,
            None => String::new(),
        };
        let frozen: Vec<_> = m.frozen.iter().map(|(p, _)| p.to_string()).collect();
        Ok(format!("{}{} {params} {frozen:?} {:?}", self.item_identity(m.item), self.args_identity(&m.args, span, depth)?, m.float))
    }
    fn optimizer_identity(&mut self, o: &OptimizerValue, span: Span, depth: usize) -> Eval<String> {
        match o {
            OptimizerValue::Chain(parts) => {
                let parts = parts.iter().map(|p| self.optimizer_identity(p, span, depth)).collect::<Eval<Vec<_>>>()?;
                Ok(parts.join("|>"))
            }
            OptimizerValue::Groups { groups, .. } => {
                let mut text = String::from("groups");
                for group in groups {
                    let own = match &group.optimizer {
                        Some(o) => self.optimizer_identity(o, span, depth)?,
                        None => "none".into(),
                    };
                    let _ = write!(text, " {}:{own}", crate::optimizer::key_text(&group.key));
                }
                Ok(text)
            }
            OptimizerValue::Inner { of, .. } => self.optimizer_identity(of, span, depth),
            OptimizerValue::Single { item, args, .. } => {
                let mut text = self.item_identity(*item);
                for arg in args {
                    let written = self.program.sources.slice(arg.expr.span).to_string();
                    let _ = write!(text, " {:?}={written}{}", arg.name, self.captured_identity(&arg.expr, &arg.scope, span, depth)?);
                }
                Ok(text)
            }
        }
    }
    /// The values that the names in an expression stand for in a scope.
    fn captured_identity(&mut self, e: &Expr, scope: &Scope, span: Span, depth: usize) -> Eval<String> {
        let mut names = std::collections::BTreeSet::new();
        crate::walk::expr(e, &mut |e| {
            if let ExprKind::Name(n) = &e.kind {
                names.insert(n.clone());
            }
            true
        });
        let mut text = String::new();
        for name in names {
            if let Some(value) = scope.get(&name).map(|b| b.value.clone()) {
                let _ = write!(text, "[{name}={}]", self.identity(&value, span, depth)?);
            }
        }
        Ok(text)
    }
}

/// A text as a part of a file name: letters, digits and some marks; if anything is lost, with a hash.
fn word(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let plain: String = text.chars().map(|c| if fits(c) { c } else { '_' }).take(40).collect();
    if plain == text {
        return plain;
    }
    format!("{plain}-{:012x}", text_hash(text) >> 16)
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn words_are_names_of_files_and_tell_texts_apart() {
        assert_eq!(word("0.001"), "0.001");
        assert_eq!(word("-3e-5"), "-3e-5");
        let (a, b) = (word("../x"), word("..\\x"));
        assert!(a.starts_with(".._x-") && b.starts_with(".._x-") && a != b, "{a} {b}");
        let long = "a".repeat(100);
        assert!(word(&long).len() < 60 && word(&long) != word(&"a".repeat(101)));
    }
}
