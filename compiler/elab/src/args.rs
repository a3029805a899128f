//! Arguments and parameters: names, defaults, ranges, dimensions.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::types::{Sig, What, dim_names};
use crate::value::{CallArg, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ModuleId;
use optc_front::ast::{Expr, ExprKind, LetKind, Name, Param, Type, TypeKind};
use std::rc::Rc;
use std::sync::Arc;

/// Whether a parameter is known at compile time and bound before arrays are matched.
fn compile_time(param: &Param) -> bool {
    param.is_const
        || match &param.ty {
            None => true,
            Some(ty) => matches!(
                ty.kind,
                TypeKind::Int
                    | TypeKind::Bool
                    | TypeKind::Str
                    | TypeKind::Fn(_)
                    | TypeKind::Model
                    | TypeKind::Optimizer
                    | TypeKind::Data
                    | TypeKind::Type
            ),
        }
}

/// Whether a parameter takes an array with axes.
pub(crate) fn takes_array(param: &Param) -> bool {
    match &param.ty {
        Some(ty) => match &ty.kind {
            TypeKind::Array { dims, .. } => dims.is_some(),
            TypeKind::Tree | TypeKind::Tuple(_) | TypeKind::Record(_) | TypeKind::List(_) | TypeKind::Named { .. } => true,
            _ => false,
        },
        None => param.default.is_none(),
    }
}

impl Evaluator<'_> {
    /// A scope with the parameters of an item bound to arguments: names, defaults, ranges, dimensions, types.
    ///
    /// # Errors
    /// Arguments that do not fit.
    pub fn bind_params(&mut self, what: &str, module: ModuleId, params: &[Param], args: Vec<CallArg>, span: Span) -> Eval<Scope> {
        let name = Name { text: Arc::from(what), span };
        self.bind_sig(&name, module, params, args, span).map(|sig| sig.scope)
    }
    pub(crate) fn bind_sig(&mut self, what: &Name, module: ModuleId, params: &[Param], args: Vec<CallArg>, span: Span) -> Eval<Sig> {
        let mut slots = self.assign_args(what, params, args, span)?;
        let mut sig = self.open_sig(module, params);
        // Compile-time values first: dimensions may mention them.
        for (param, slot) in params.iter().zip(&mut slots) {
            if compile_time(param)
                && let Some(arg) = slot.take()
            {
                self.bind_argument(&mut sig, param, arg)?;
            }
        }
        let mut open: Vec<bool> = params.iter().zip(&slots).map(|(p, s)| s.is_none() && sig.scope.get(&p.name.text).is_none()).collect();
        for (param, open) in params.iter().zip(&mut open) {
            if *open
                && compile_time(param)
                && let Some(default) = &param.default
                && self.independent(&sig, params, default)
            {
                self.bind_default(&mut sig, param, default, span)?;
                *open = false;
            }
        }
        for (param, slot) in params.iter().zip(&mut slots) {
            if let Some(arg) = slot.take() {
                self.bind_argument(&mut sig, param, arg)?;
            }
        }
        for (param, open) in params.iter().zip(open) {
            if open {
                match &param.default {
                    Some(default) => self.bind_default(&mut sig, param, default, span)?,
                    None => {
                        return self.fail(
                            Diagnostic::error(Code("E0331"), span, format!("`{}` needs the argument `{}`", what.text, param.name.text))
                                .at("not enough arguments")
                                .label(param.span, "this parameter has no default"),
                        );
                    }
                }
            }
        }
        self.close_names(&mut sig);
        Ok(sig)
    }
    /// Which argument goes to which parameter: named ones first, the others to the free parameters in order.
    fn assign_args(&mut self, what: &Name, params: &[Param], args: Vec<CallArg>, span: Span) -> Eval<Vec<Option<CallArg>>> {
        let mut slots: Vec<Option<CallArg>> = params.iter().map(|_| None).collect();
        let mut positional = Vec::new();
        let count = args.len();
        for arg in args {
            let Some(name) = arg.name.clone() else {
                positional.push(arg);
                continue;
            };
            let Some(at) = params.iter().position(|p| p.name.text == name) else {
                let d = Diagnostic::error(Code("E0221"), arg.span, format!("`{}` has no parameter `{name}`", what.text))
                    .label(what.span, "declared here");
                let d = match crate::names::nearest(&name, params.iter().map(|p| &*p.name.text)) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => {
                        let names: Vec<&str> = params.iter().map(|p| &*p.name.text).collect();
                        d.help(if names.is_empty() {
                            "it takes no arguments".to_string()
                        } else {
                            format!("its parameters are {}", names.join(", "))
                        })
                    }
                };
                return self.fail(d);
            };
            if let Some(first) = &slots[at] {
                let d = Diagnostic::error(Code("E0332"), arg.span, format!("`{name}` is given twice")).label(first.span, "first here");
                return self.fail(d);
            }
            slots[at] = Some(arg);
        }
        let mut free = 0;
        for arg in positional {
            while slots.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            if free >= slots.len() {
                return self.fail(
                    Diagnostic::error(
                        Code("E0332"),
                        arg.span,
                        format!(
                            "`{}` takes {} argument{}, {count} given",
                            what.text,
                            params.len(),
                            if params.len() == 1 { "" } else { "s" }
                        ),
                    )
                    .at("one too many")
                    .label(what.span, "declared here"),
                );
            }
            slots[free] = Some(arg);
        }
        let _ = span;
        Ok(slots)
    }
    /// A signature whose names of dimensions are open.
    pub(crate) fn open_sig(&mut self, module: ModuleId, params: &[Param]) -> Sig {
        let mut sig = Sig::new(Scope::new(module));
        sig.scope.push();
        for ty in params.iter().filter_map(|p| p.ty.as_ref()) {
            self.open_names(&mut sig, module, params, ty);
        }
        sig
    }
    /// Opens the names of dimensions in a type that nothing has bound.
    pub(crate) fn open_names(&mut self, sig: &mut Sig, module: ModuleId, params: &[Param], ty: &Type) {
        let mut found: Vec<(Arc<str>, Span)> = Vec::new();
        dim_names(ty, &mut |name, span| found.push((name.clone(), span)));
        for (name, span) in found {
            if params.iter().any(|p| p.name.text == name)
                || sig.scope.get(&name).is_some()
                || self.program.lookup(module, &name).is_some()
                || optc_ops::constant(&name).is_some()
            {
                continue;
            }
            let dim = self.cx.fresh_symbol(&name);
            if let Some(symbol) = dim.symbols().into_iter().next() {
                sig.names.insert(name.clone(), symbol);
            }
            sig.scope.bind(name, Value::Int(dim), LetKind::Let, span);
        }
    }
    /// After the arguments are matched: names of dimensions are what they were bound to, `float` and `...` too.
    pub(crate) fn close_names(&mut self, sig: &mut Sig) {
        for (name, symbol) in sig.names.clone() {
            match sig.bindings.get(&symbol) {
                Some(d) => {
                    let d = d.clone();
                    sig.scope.set(&name, Value::Int(d));
                }
                // An argument that is not known leaves its dimensions open.
                None if self.checking() => {
                    let open = self.cx.fresh_symbol("?");
                    sig.scope.set(&name, Value::Int(open));
                }
                None => {
                    sig.scope.set(&name, Value::Unknown);
                }
            }
        }
        let span = Span::default();
        let float = match sig.float {
            Some(d) => Value::DType(d),
            None if self.checking() => Value::Unknown,
            None => Value::DType(self.cx.float),
        };
        sig.scope.bind("float", float, LetKind::Let, span);
        if let Some(rest) = &sig.rest {
            let list = rest.iter().map(|d| Value::Int(d.substitute(&sig.bindings))).collect();
            sig.scope.bind("...", Value::List(Rc::new(list)), LetKind::Let, span);
        }
    }
    /// Whether a default mentions no names of dimensions and no parameters that are not bound yet.
    fn independent(&self, sig: &Sig, params: &[Param], default: &Expr) -> bool {
        let mut free = true;
        crate::walk::expr(default, &mut |e| {
            if let ExprKind::Name(n) = &e.kind
                && (sig.names.contains_key(n) || params.iter().any(|p| p.name.text == *n && sig.scope.get(n).is_none()))
            {
                free = false;
            }
            free
        });
        free
    }
    fn bind_argument(&mut self, sig: &mut Sig, param: &Param, arg: CallArg) -> Eval<()> {
        let span = arg.span;
        let name = param.name.text.clone();
        // The range is checked on the value as given, which may be a number.
        self.check_range(param, &sig.scope.clone(), &arg.value, span)?;
        let value = match &param.ty {
            Some(ty) => self.match_type(sig, ty, arg.value, span, &What::Argument(&name))?,
            None => arg.value,
        };
        sig.scope.bind(name, value, LetKind::Let, param.name.span);
        Ok(())
    }
    /// What a default draws depends on the call at `call`, as what the body draws does.
    fn bind_default(&mut self, sig: &mut Sig, param: &Param, default: &Expr, call: Span) -> Eval<()> {
        // The default sees what is bound, and may itself bind names of dimensions.
        let mut closed = sig.clone();
        self.close_names(&mut closed);
        let value = self.placed(call, |ev| ev.expr(&mut closed.scope, default))?;
        self.bind_argument(sig, param, CallArg { name: None, value, span: default.span })
    }
    /// Checks a number against the range of a parameter, if both are known.
    ///
    /// # Errors
    /// A value outside.
    pub fn check_range(&mut self, param: &Param, scope: &Scope, value: &Value, span: Span) -> Eval<()> {
        let Some(range) = &param.range else { return Ok(()) };
        if !range.among.is_empty() {
            return self.check_choice(param, range, value, span);
        }
        // The script may look; what is computed later is checked then.
        let x = match value {
            Value::Array(a) if self.may_look() && a.shape.is_empty() && self.cx.bottom_node(a).is_some() => {
                known(&self.looked_at(value.clone(), span)?)
            }
            other => known(other),
        };
        let Some(x) = x else { return Ok(()) };
        let limits = self.limits(param, scope)?;
        if let Some(must) = limits.broken_by(x) {
            return self.fail(
                Diagnostic::error(Code("E0530"), span, format!("`{}` is {x}, but must be {must}", param.name.text))
                    .at("outside the range")
                    .label(range.span, "its range"),
            );
        }
        Ok(())
    }
    /// Checks a string against those a parameter may be.
    fn check_choice(&mut self, param: &Param, range: &optc_front::ast::Range, value: &Value, span: Span) -> Eval<()> {
        let text = match value {
            Value::Unknown => return Ok(()),
            Value::Str(text) if range.among.contains(text) => return Ok(()),
            Value::Str(text) => Some(text.clone()),
            _ => None,
        };
        let list: Vec<String> = range.among.iter().map(|s| format!("{s:?}")).collect();
        let is = text.as_ref().map_or_else(|| crate::tree::describe(value), |t| format!("{t:?}"));
        let d = Diagnostic::error(Code("E0530"), span, format!("`{}` is {is}, but must be one of {}", param.name.text, list.join(", ")))
            .at("not among them")
            .label(range.span, "what it may be");
        let near =
            text.and_then(|t| crate::names::nearest(&t, range.among.iter().map(|s| &**s)).map(|near| format!("did you mean {near:?}")));
        self.fail(match near {
            Some(near) => d.help(near),
            None => d,
        })
    }
    /// The ends of the range of a parameter, as far as they are known.
    pub(crate) fn limits(&mut self, param: &Param, scope: &Scope) -> Eval<Limits> {
        let mut limits = Limits::default();
        let Some(range) = &param.range else { return Ok(limits) };
        let mut scope = scope.clone();
        for (bound, end) in [(&range.low, &mut limits.low), (&range.high, &mut limits.high)] {
            if let Some(bound) = bound {
                let limit = self.expr(&mut scope, &bound.value)?;
                *end = known(&limit).map(|x| (x, bound.inclusive));
            }
        }
        Ok(limits)
    }
}

/// A number known at compile time.
fn known(v: &Value) -> Option<f64> {
    match v {
        Value::Int(d) => d.known().map(|n| n as f64),
        Value::Float(x) => *x,
        _ => None,
    }
}

/// How far beyond an end a computed number may be for want of precision.
pub(crate) fn slack(limit: f64) -> f64 {
    1e-9 * limit.abs().max(1e-3)
}

/// The ends of a range: the number, and whether it belongs to the range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// The lower end.
    pub low: Option<(f64, bool)>,
    /// The upper end.
    pub high: Option<(f64, bool)>,
}

impl Limits {
    /// What a number must be that is outside (`at least 0`); `None` if it is inside. NaN is outside every range.
    pub fn broken_by(&self, x: f64) -> Option<String> {
        if let Some((limit, inclusive)) = self.low
            && !(x > limit || (inclusive && x == limit))
        {
            return Some(format!("{} {limit}", if inclusive { "at least" } else { "greater than" }));
        }
        match self.high {
            Some((limit, inclusive)) if !(x < limit || (inclusive && x == limit)) => {
                Some(format!("{} {limit}", if inclusive { "at most" } else { "less than" }))
            }
            _ => None,
        }
    }
    /// As [`Limits::broken_by`], for a number that was computed: what misses an end by no more than rounding is inside where the end is.
    pub fn broken_by_computed(&self, x: f64) -> Option<String> {
        let near = |end: Option<(f64, bool)>| end.is_some_and(|(limit, inclusive)| inclusive && (x - limit).abs() <= slack(limit));
        if near(self.low) || near(self.high) { None } else { self.broken_by(x) }
    }
}
