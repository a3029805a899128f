//! What names stand for: bindings, items, predeclared values, built-in operations; and what to say when there is none.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::{BlockValue, FnValue, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::ItemKind;
use optc_front::modules::Def;
use optc_front::{ItemRef, ModuleId};
use std::rc::Rc;
use std::sync::Arc;

/// Operations that work on functions, models, lists or the context, and so live here instead of among the array operations.
pub(crate) const SPECIAL: &[&str] = &[
    "grad",
    "value_and_grad",
    "jvp",
    "vjp",
    "checkpoint",
    "stop_gradient",
    "init",
    "apply",
    "rev",
    "freeze",
    "vmap",
    "hvp",
    "jacobian",
    "hessian",
    "nonzero",
];

impl Evaluator<'_> {
    /// What a name stands for, if anything.
    pub fn lookup(&mut self, scope: &Scope, name: &str, span: Span) -> Eval<Option<Value>> {
        if let Some(binding) = scope.get(name) {
            return Ok(Some(binding.value.clone()));
        }
        if let Some(def) = self.program.lookup(scope.module, name) {
            return match def {
                Def::Item(item) => self.item_value(item, span).map(Some),
                Def::Module(module) => Ok(Some(Value::Module(module))),
            };
        }
        if name == "..." {
            // `reshape(x, n, ...)`: the rest of the shape.
            return Ok(Some(Value::Str(name.into())));
        }
        if name == "training" {
            return Ok(Some(Value::Bool(self.training)));
        }
        if name == "step"
            && let Some(step) = &self.step
        {
            return Ok(Some(step.clone()));
        }
        if let Some(val) = optc_ops::constant(name) {
            return Ok(Some(Value::from_val(val)));
        }
        if is_operation(name) {
            return Ok(Some(builtin(name)));
        }
        Ok(None)
    }
    /// The value of a name.
    ///
    /// # Errors
    /// A name that stands for nothing.
    pub(crate) fn name(&mut self, scope: &Scope, name: &str, span: Span) -> Eval {
        match self.lookup(scope, name, span)? {
            Some(value) => Ok(value),
            None => self.unknown_name(scope, name, span),
        }
    }
    /// The value of an item.
    pub(crate) fn item_value(&mut self, item: ItemRef, span: Span) -> Eval {
        let program = self.program;
        match &program.item(item).kind {
            ItemKind::Fn(_) => Ok(Value::Fn(Rc::new(FnValue::Item(item)))),
            ItemKind::Block(_) => Ok(Value::Block(Rc::new(BlockValue { item, args: Vec::new(), split: None }))),
            ItemKind::Const { name, ty, value } => match self.consts.get(&(item, self.cx.float)) {
                Some(Some(value)) => Ok(value.clone()),
                Some(None) => self.fail(
                    Diagnostic::error(Code("E0225"), span, format!("the constant `{}` is defined by itself", name.text))
                        .label(name.span, "defined here"),
                ),
                None => {
                    self.consts.insert((item, self.cx.float), None);
                    let mut scope = Scope::new(item.module);
                    // A constant is the same wherever it is first met; its draws are no draws of those who mention it.
                    let drawn = self.draws;
                    let result = self.isolated(crate::rng::text_hash(&name.text), None, |ev| ev.expr(&mut scope, value));
                    self.draws = drawn;
                    self.consts.remove(&(item, self.cx.float));
                    let mut result = result?;
                    if let Some(ty) = ty {
                        let mut sig = crate::types::Sig::new(Scope::new(item.module));
                        result = self.match_type(&mut sig, ty, result, value.span, &crate::types::What::Binding(&name.text))?;
                    }
                    if !self.cx.emitting() || !holds_arrays(&result) {
                        self.consts.insert((item, self.cx.float), Some(result.clone()));
                    }
                    Ok(result)
                }
            },
            ItemKind::TypeAlias { name, .. } => self.fail(
                Diagnostic::error(Code("E0351"), span, format!("`{}` is a type, not a value", name.text)).label(name.span, "declared here"),
            ),
            ItemKind::Experiment(e) => self.fail(
                Diagnostic::error(Code("E0330"), span, format!("`{}` is an experiment: it is run from the command line", e.name.text))
                    .label(e.name.span, "declared here"),
            ),
            ItemKind::Extern(_) => Ok(Value::Fn(Rc::new(FnValue::Item(item)))),
            ItemKind::Import(_) => Ok(Value::None),
        }
    }
    /// A member of a module.
    pub(crate) fn module_member(&mut self, module: ModuleId, name: &str, span: Span) -> Eval {
        match self.program.lookup(module, name) {
            Some(Def::Item(item)) => {
                // A folder of the library has no items of its own; a file gives only its own away.
                let folder = self.program.module(module).file.items.is_empty();
                if item.module != module && !folder {
                    return self.no_member(module, name, span);
                }
                if name.starts_with('_') {
                    return self.fail(
                        Diagnostic::error(Code("E0256"), span, format!("`{name}` is private to {}", self.program.module(module).name))
                            .help("names that begin with `_` are only known in their own file"),
                    );
                }
                self.item_value(item, span)
            }
            Some(Def::Module(m)) => Ok(Value::Module(m)),
            None => self.no_member(module, name, span),
        }
    }
    fn no_member<T>(&mut self, module: ModuleId, name: &str, span: Span) -> Eval<T> {
        let file = self.program.module(module);
        let mut d = Diagnostic::error(Code("E0220"), span, format!("there is no `{name}` in {}", file.name));
        if let Some(near) = nearest(name, file.scope.keys().map(|n| &**n).filter(|n| !n.starts_with('_'))) {
            d = d.help(format!("did you mean `{near}`"));
        }
        self.fail(d)
    }
    /// Reports a name that stands for nothing.
    pub(crate) fn unknown_name<T>(&mut self, scope: &Scope, name: &str, span: Span) -> Eval<T> {
        let d = Diagnostic::error(Code("E0220"), span, format!("unknown name `{name}`")).at("not found in this scope");
        let help = match name {
            "w" | "g" | "t" => Some(format!("`{name}` is only known in the body of an optimizer")),
            _ if crate::optimizer::OF_LOSS.contains(&name) => Some(format!(
                "`{name}` is only known in the body of an optimizer, where there is a loss; elsewhere take the gradient of a function: `grad(f)(x)`"
            )),
            "step" => Some("`step` is only known in schedules and optimizers".to_string()),
            "total_steps" if self.in_optimizer => Some("nobody has said how many steps there will be".to_string()),
            "total_steps" => Some("`total_steps` is only known in optimizers".to_string()),
            "self" | "np" | "numpy" | "jnp" | "jax" | "lax" | "torch" | "math" | "linalg" | "scipy" => {
                Some("operations stand in scope by their plain names: `exp(x)`, `inv(a)`".to_string())
            }
            "return" => Some("the last expression of a block is its value".to_string()),
            _ => match (optc_front::std_lookup(name), crate::foreign::meant(name)) {
                // What people look for by the name of another library is no item that happens to be called so.
                (Some(path), Some(other)) => Some(format!("write {other}; `{path}` is an item of the library: `import {path}`")),
                (Some(path), None) => Some(format!("add `import {path}` at the top of the file")),
                (None, Some(other)) => Some(format!("write {other}")),
                (None, None) => {
                    let local: Vec<String> = scope.names().map(|n| n.to_string()).collect();
                    let items = self.program.module(scope.module).scope.keys().map(|n| n.to_string());
                    let builtins = optc_ops::operations().chain(SPECIAL.iter().copied()).map(str::to_string);
                    let all: Vec<String> = local.into_iter().chain(items).chain(builtins).collect();
                    nearest(name, all.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`"))
                }
            },
        };
        self.fail(match help {
            Some(help) => d.help(help),
            None => d,
        })
    }
}

/// Whether a name is that of an operation, where nothing hides it.
pub(crate) fn is_operation(name: &str) -> bool {
    SPECIAL.contains(&name) || crate::sources::is_source(name) || optc_ops::is_builtin(name)
}

/// A built-in operation as a value.
pub(crate) fn builtin(name: &str) -> Value {
    Value::Fn(Rc::new(FnValue::Builtin(Arc::from(name))))
}

/// Whether arrays occur in a value.
pub(crate) fn holds_arrays(value: &Value) -> bool {
    match value {
        Value::Array(_) | Value::RunRange(..) => true,
        Value::Tuple(items) | Value::List(items) => items.iter().any(holds_arrays),
        Value::Record(fields) => fields.values().any(holds_arrays),
        Value::Fn(f) => matches!(**f, FnValue::Lambda { .. } | FnValue::Transformed(_)),
        Value::Model(m) => m.params.is_some() || m.args.iter().any(|a| holds_arrays(&a.value)),
        Value::Schedule(_) | Value::Optimizer(_) | Value::Run(_) | Value::Block(_) => true,
        _ => false,
    }
}

pub use optc_base::nearest;
