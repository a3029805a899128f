//! Written types: matching arguments and results against them, binding the names of dimensions.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::tree::{array_type, describe, shape_text};
use crate::value::Value;
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{self, DimExpr, ElemType, Expr, ExprKind, ItemKind, LetKind, Type, TypeKind};
use optc_front::modules::Def;
use optc_ops::{Array, Bindings, Dim, Fit, Symbol};
use std::rc::Rc;
use std::sync::Arc;

/// A signature being matched.
#[derive(Clone, Debug)]
pub struct Sig {
    /// The scope of the item: parameters, and names of dimensions as integers.
    pub scope: Scope,
    /// Names of dimensions that are inferred.
    pub names: IndexMap<Arc<str>, Symbol>,
    /// What they stand for so far.
    pub bindings: Bindings,
    /// Where each was first seen: the argument's place and name.
    pub seen: Vec<(Symbol, Span, String)>,
    /// What `...` stands for.
    pub rest: Option<Vec<Dim>>,
    /// What `float` stands for.
    pub float: Option<DType>,
}

/// What is matched against a type, for messages.
pub enum What<'a> {
    /// An argument for a parameter.
    Argument(&'a str),
    /// The result of a function.
    Result(&'a str),
    /// A `let` with a type, a parameter of a model.
    Binding(&'a str),
}

impl Sig {
    /// A signature without names.
    pub fn new(scope: Scope) -> Sig {
        Sig { scope, names: IndexMap::new(), bindings: Bindings::new(), seen: Vec::new(), rest: None, float: None }
    }
}

/// Calls `f` on the names in the dimensions of a type.
pub(crate) fn dim_names(ty: &Type, f: &mut dyn FnMut(&Arc<str>, Span)) {
    let mut of_expr = |e: &Expr| {
        crate::walk::expr(e, &mut |e| {
            match &e.kind {
                ExprKind::Name(n) => f(n, e.span),
                ExprKind::Call { args, .. } => {
                    // The callee is a function, not a dimension.
                    for a in args {
                        crate::walk::expr(&a.value, &mut |e| {
                            if let ExprKind::Name(n) = &e.kind {
                                f(n, e.span);
                            }
                            true
                        });
                    }
                    return false;
                }
                _ => {}
            }
            true
        });
    };
    match &ty.kind {
        TypeKind::Array { dims, .. } => {
            for dim in dims.iter().flatten() {
                if let DimExpr::Expr(e) = dim {
                    of_expr(e);
                }
            }
        }
        TypeKind::Tuple(items) => items.iter().for_each(|t| dim_names(t, f)),
        TypeKind::Record(fields) => fields.iter().for_each(|(_, t)| dim_names(t, f)),
        TypeKind::List(t) => dim_names(t, f),
        TypeKind::Named { args, .. } => args.iter().for_each(of_expr),
        _ => {}
    }
}

/// What is left of a type that is an alias.
pub(crate) enum Alias {
    Elem(DType),
    Unknown,
    Type { ty: Type, scope: Scope },
}

impl Evaluator<'_> {
    /// The dimensions written, `...` expanded; `None` where they hold names that are not bound yet and `solve` is off.
    fn dims(&mut self, sig: &mut Sig, dims: &[DimExpr]) -> Eval<Vec<Option<Dim>>> {
        let mut out = Vec::new();
        for dim in dims {
            match dim {
                DimExpr::Ellipsis(_) => out.push(None),
                DimExpr::Expr(e) => out.push(Some(self.dim(sig, e)?)),
            }
        }
        Ok(out)
    }
    /// A dimension: an integer expression of names and numbers, the names of the signature as they stand.
    pub(crate) fn dim(&mut self, sig: &mut Sig, e: &Expr) -> Eval<Dim> {
        let mut scope = sig.scope.clone();
        if let ExprKind::Name(n) = &e.kind
            && self.lookup(&scope, n, e.span)?.is_none()
        {
            return self.fail(
                Diagnostic::error(Code("E0220"), e.span, format!("the size `{n}` is not known here"))
                    .at("no argument has a dimension of this name")
                    .help(format!("name it in the type of an argument, or make it a parameter: `{n}: int`; a `fn` may leave out the type of its result")),
            );
        }
        match self.expr(&mut scope, e)? {
            Value::Int(d) => Ok(d),
            Value::Float(Some(x)) if x.fract() == 0.0 => Ok((x as i64).into()),
            Value::Unknown | Value::Float(None) => Ok(self.cx.fresh_symbol("?")),
            Value::Array(a) if self.in_script && a.shape.is_empty() => {
                let looked = self.looked_at(Value::Array(a), e.span)?;
                match looked {
                    Value::Int(d) => Ok(d),
                    _ => self.error("E0344", e.span, "a dimension is a compile-time integer"),
                }
            }
            other => self.fail(
                Diagnostic::error(Code("E0344"), e.span, "a dimension is a compile-time integer")
                    .at(format!("this is {}", describe(&other))),
            ),
        }
    }
    pub(crate) fn alias(&mut self, sig: &mut Sig, name: &ast::Name, args: &[Expr]) -> Eval<Alias> {
        match sig.scope.get(&name.text).map(|b| b.value.clone()) {
            Some(Value::DType(d)) => return Ok(Alias::Elem(d)),
            Some(Value::Unknown) => return Ok(Alias::Unknown),
            _ => {}
        }
        let program = self.program;
        match program.lookup(sig.scope.module, &name.text) {
            Some(Def::Item(item)) => {
                self.guard(name.span)?;
                if let ItemKind::TypeAlias { name: declared, dims, ty } = &program.item(item).kind {
                    if dims.len() != args.len() {
                        return self.fail(
                            Diagnostic::error(
                                Code("E0351"),
                                name.span,
                                format!("`{}` takes {} dimensions, {} given", name.text, dims.len(), args.len()),
                            )
                            .label(declared.span, "declared here"),
                        );
                    }
                    let mut scope = Scope::new(item.module);
                    for (n, e) in dims.iter().zip(args) {
                        let value = self.dim(sig, e)?.substitute(&sig.bindings);
                        scope.bind(n.text.clone(), Value::Int(value), LetKind::Let, n.span);
                    }
                    return Ok(Alias::Type { ty: ty.clone(), scope });
                }
                self.fail(Diagnostic::error(Code("E0351"), name.span, format!("`{}` is not a type", name.text)))
            }
            _ => {
                let aliases: Vec<&str> = ["int", "bool", "str", "float", "tree", "fn", "model", "optimizer", "f32", "f64", "i32"].to_vec();
                let mut d = Diagnostic::error(Code("E0351"), name.span, format!("unknown type `{}`", name.text));
                d = match crate::names::nearest(&name.text, aliases) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help("declare it with `type name = …`"),
                };
                self.fail(d)
            }
        }
    }
    /// Element type wanted: `Ok(None)` while it is open.
    fn wanted_elem(&mut self, sig: &Sig, elem: &ElemType, span: Span) -> Eval<Option<DType>> {
        match elem {
            ElemType::Concrete(d) => Ok(Some(self.cx.written(*d))),
            ElemType::Float => Ok(sig.float),
            other => self.elem_type(&sig.scope, other, span),
        }
    }
    /// Checks a value against a type and gives it back as that type holds it: numbers take the element type, names of dimensions are bound.
    ///
    /// # Errors
    /// A value that does not fit.
    pub(crate) fn match_type(&mut self, sig: &mut Sig, ty: &Type, value: Value, span: Span, what: &What<'_>) -> Eval {
        if matches!(value, Value::Unknown) {
            return if self.checking() { self.instance_of(sig, ty, false) } else { Ok(value) };
        }
        let value = if matches!(value, Value::Schedule(_)) { self.schedule_now(&value, span)? } else { value };
        if let (TypeKind::Array { .. }, Value::List(items), true) = (&ty.kind, &value, self.checking())
            && items.iter().any(|v| matches!(v, Value::Unknown))
        {
            return self.instance_of(sig, ty, false);
        }
        match &ty.kind {
            TypeKind::Array { elem, dims } => self.match_array(sig, ty, elem, dims.as_deref(), value, span, what),
            TypeKind::Int => match self.looked_at(value, span)? {
                v @ Value::Int(_) => Ok(v),
                Value::Float(Some(x)) if x.fract() == 0.0 && self.may_look() => Ok(Value::Int((x as i64).into())),
                other => self.wrong_type(ty, "a compile-time integer", &other, span, what),
            },
            TypeKind::Bool => match self.looked_at(value, span)? {
                v @ Value::Bool(_) => Ok(v),
                other => self.wrong_type(ty, "a compile-time flag", &other, span, what),
            },
            TypeKind::Str => match value {
                v @ Value::Str(_) => Ok(v),
                other => self.wrong_type(ty, "a string", &other, span, what),
            },
            TypeKind::Fn(_) => match value {
                v @ (Value::Fn(_) | Value::Model(_) | Value::Schedule(_)) => Ok(v),
                other => self.wrong_type(ty, "a function", &other, span, what),
            },
            TypeKind::Model => match value {
                v @ (Value::Model(_) | Value::Fn(_)) => Ok(v),
                other => self.wrong_type(ty, "a model", &other, span, what),
            },
            TypeKind::Optimizer => match value {
                v @ (Value::Optimizer(_) | Value::Fn(_)) => Ok(v),
                other => self.wrong_type(ty, "an optimizer", &other, span, what),
            },
            TypeKind::Data => match value {
                v @ (Value::Block(_) | Value::Data(_)) => Ok(v),
                other => self.wrong_type(ty, "a data set", &other, span, what),
            },
            TypeKind::Type => match value {
                v @ (Value::DType(_) | Value::Quantized(_)) => Ok(v),
                other => self.wrong_type(ty, "an element type", &other, span, what),
            },
            TypeKind::Tree => Ok(value),
            TypeKind::Tuple(types) => match &value {
                Value::Tuple(items) if items.len() == types.len() => {
                    let mut out = Vec::new();
                    for (t, v) in types.iter().zip(items.iter()) {
                        out.push(self.match_type(sig, t, v.clone(), span, what)?);
                    }
                    Ok(Value::Tuple(Rc::new(out)))
                }
                other => self.wrong_type(ty, &format!("a tuple of {}", types.len()), other, span, what),
            },
            TypeKind::Record(types) => match &value {
                Value::Record(fields) => {
                    let mut out: IndexMap<Arc<str>, Value> = (**fields).clone();
                    for (name, t) in types {
                        let Some(v) = fields.get(&name.text) else {
                            return self.wrong_type(ty, &format!("a record with a field `{}`", name.text), &value, span, what);
                        };
                        let v = self.match_type(sig, t, v.clone(), span, what)?;
                        out.insert(name.text.clone(), v);
                    }
                    Ok(Value::Record(Rc::new(out)))
                }
                other => self.wrong_type(ty, "a record", other, span, what),
            },
            TypeKind::List(inner) => match &value {
                Value::List(items) => {
                    let mut out = Vec::new();
                    for v in items.iter() {
                        out.push(self.match_type(sig, inner, v.clone(), span, what)?);
                    }
                    Ok(Value::List(Rc::new(out)))
                }
                Value::Array(a) if matches!(inner.kind, TypeKind::Int | TypeKind::Bool) && a.shape.len() == 1 && self.in_script => {
                    let items = self.elements(a, span)?;
                    self.match_type(sig, ty, items, span, what)
                }
                Value::Array(_) => Ok(value),
                Value::Series(s) => Ok(Value::List(Rc::new(s.values.iter().map(|x| Value::Float(Some(*x))).collect()))),
                other => self.wrong_type(ty, "a list", other, span, what),
            },
            TypeKind::Named { name, args } => match self.alias(sig, name, args)? {
                Alias::Elem(d) => {
                    let scalar = Type { kind: TypeKind::Array { elem: ElemType::Concrete(d), dims: None }, span: ty.span };
                    self.match_type(sig, &scalar, value, span, what)
                }
                Alias::Unknown => Ok(value),
                Alias::Type { ty, scope } => {
                    // The same signature in the scope of the alias: names of dimensions given to it are inferred through it.
                    let outer = std::mem::replace(&mut sig.scope, scope);
                    let out = self.match_type(sig, &ty, value, span, what);
                    sig.scope = outer;
                    out
                }
            },
        }
    }
    fn wrong_type<T>(&mut self, ty: &Type, want: &str, have: &Value, span: Span, what: &What<'_>) -> Eval<T> {
        let (code, message) = match what {
            What::Argument(name) => ("E0333", format!("argument `{name}` is {want}, not {}", describe(have))),
            What::Result(name) => ("E0334", format!("the result of `{name}` is declared as {want}, but this is {}", describe(have))),
            What::Binding(name) => ("E0333", format!("`{name}` is declared as {want}, but this is {}", describe(have))),
        };
        let mut d = Diagnostic::error(Code(code), span, message).at(describe(have)).label(ty.span, "declared here");
        if matches!(have, Value::Array(_)) && matches!(ty.kind, TypeKind::Int | TypeKind::Bool) {
            d = d.help("an `int` or `bool` parameter is known at compile time; declare it `i32` or `bool[]` to take a run-time value");
        }
        self.fail(d)
    }
    fn match_array(
        &mut self,
        sig: &mut Sig,
        ty: &Type,
        elem: &ElemType,
        dims: Option<&[DimExpr]>,
        value: Value,
        span: Span,
        what: &What<'_>,
    ) -> Eval {
        let want = self.wanted_elem(sig, elem, ty.span)?;
        let scalar = dims.is_none_or(<[DimExpr]>::is_empty);
        // A number for a scalar `float` stays a number: it takes the type it meets.
        if scalar && matches!(elem, ElemType::Float) {
            match value {
                Value::Float(_) => return Ok(value),
                Value::Int(d) => return Ok(Value::Float(d.known().map(|n| n as f64))),
                _ => {}
            }
        }
        if !crate::tree::is_arrayish(&value) && !matches!(value, Value::Series(_)) {
            let text = self.type_text(sig, elem, dims);
            return self.wrong_type(ty, &text, &value, span, what);
        }
        let number = matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::List(_))
            || matches!(&value, Value::Array(a) if a.weak);
        let counts = self.in_script && (want.is_some_and(DType::is_float) || matches!(elem, ElemType::Float));
        let want = match (&value, want) {
            (Value::Array(a), None) if counts && a.shape.is_empty() && a.dtype.is_int() => Some(self.cx.float),
            _ => want,
        };
        let val = self.val_of(&value, span)?;
        let val = if counts { crate::arith::counted(val) } else { val };
        let number = number || matches!(&val, optc_ops::Val::Array(a) if a.weak);
        self.cx.at(span);
        // Numbers take the type that is wanted, unless that would lose what they are.
        let lossy = matches!((&value, want), (Value::Float(_), Some(d)) if !d.is_float())
            || matches!(&value, Value::Array(a) if a.weak && a.dtype.is_float() && want.is_some_and(|d| !d.is_float()));
        let array = match optc_ops::materialize(&mut self.cx, &val, if number && !lossy { want } else { None }) {
            Ok(array) => array,
            Err(error) => return self.fail(error.diagnostic(span).label(ty.span, "declared here")),
        };
        match (elem, want) {
            (_, Some(d)) if d != array.dtype => {
                let (code, name) = self.blame(what, "E0333", "E0334");
                let d = Diagnostic::error(Code(code), span, format!("{name} has element type {}, but {d} is declared", array.dtype))
                    .at(array_type(&array))
                    .label(ty.span, "declared here")
                    .help(format!("convert it: `x as {d}`"));
                return self.fail(d);
            }
            (ElemType::Float, None) => {
                if !array.dtype.is_float() {
                    let (code, name) = self.blame(what, "E0333", "E0334");
                    let d = Diagnostic::error(Code(code), span, format!("{name} is {}, but a float type is declared", array_type(&array)))
                        .at(array_type(&array))
                        .label(ty.span, "declared here")
                        .help("convert it: `x as f32`");
                    return self.fail(d);
                }
                sig.float = Some(array.dtype);
            }
            _ => {}
        }
        self.match_shape(sig, ty, elem, dims.unwrap_or(&[]), &array, span, what)?;
        Ok(Value::Array(array))
    }
    fn blame(&self, what: &What<'_>, argument: &'static str, result: &'static str) -> (&'static str, String) {
        match what {
            What::Argument(name) => (argument, format!("argument `{name}`")),
            What::Result(name) => (result, format!("the result of `{name}`")),
            What::Binding(name) => (argument, format!("`{name}`")),
        }
    }
    fn match_shape(
        &mut self,
        sig: &mut Sig,
        ty: &Type,
        elem: &ElemType,
        dims: &[DimExpr],
        array: &Array,
        span: Span,
        what: &What<'_>,
    ) -> Eval<()> {
        let wanted = self.dims(sig, dims)?;
        let ellipsis = dims.iter().position(|d| matches!(d, DimExpr::Ellipsis(_)));
        let fixed = wanted.iter().flatten().count();
        let rank = array.shape.len();
        let rest = match ellipsis {
            None if rank != fixed => return self.wrong_shape(sig, ty, elem, dims, array, None, span, what),
            Some(_) if rank < fixed => return self.wrong_shape(sig, ty, elem, dims, array, None, span, what),
            _ => rank - fixed,
        };
        if let (Some(at), Some(known)) = (ellipsis, sig.rest.clone()) {
            let have = &array.shape[at..at + rest];
            let same =
                have.len() == known.len() && have.iter().zip(&known).all(|(a, b)| b.substitute(&sig.bindings).fit(a) != Fit::Different);
            if !same {
                return self.wrong_shape(sig, ty, elem, dims, array, None, span, what);
            }
        } else if let Some(at) = ellipsis {
            sig.rest = Some(array.shape[at..at + rest].to_vec());
        }
        // Dimensions with one unknown name are solved for it; the others wait until it is known.
        let mut pairs: Vec<(usize, Dim, Dim)> = Vec::new();
        let mut axis = 0;
        for want in wanted {
            match want {
                None => axis += rest,
                Some(d) => {
                    pairs.push((axis, d, array.shape[axis].clone()));
                    axis += 1;
                }
            }
        }
        for _ in 0..2 {
            let mut waiting = Vec::new();
            for (axis, want, have) in pairs {
                let before = sig.bindings.len();
                let unbound: Vec<Symbol> =
                    want.symbols().into_iter().filter(|s| !sig.bindings.contains_key(s) && self.is_inferred(sig, s)).collect();
                if unbound.is_empty() {
                    if want.substitute(&sig.bindings).fit(&have) == Fit::Different {
                        return self.wrong_shape(sig, ty, elem, dims, array, Some((axis, want)), span, what);
                    }
                    continue;
                }
                // Other symbols of the pattern stand for themselves.
                for symbol in want.symbols() {
                    if !self.is_inferred(sig, &symbol) {
                        sig.bindings.entry(symbol.clone()).or_insert_with(|| Dim::symbol(symbol.clone()));
                    }
                }
                match optc_ops::unify(&want, &have, &mut sig.bindings) {
                    Some(Fit::Different) => return self.wrong_shape(sig, ty, elem, dims, array, Some((axis, want)), span, what),
                    Some(_) => {
                        if sig.bindings.len() > before {
                            for symbol in unbound {
                                if sig.bindings.contains_key(&symbol) {
                                    let (_, name) = self.blame(what, "", "");
                                    sig.seen.push((symbol, span, name));
                                }
                            }
                        }
                    }
                    None => waiting.push((axis, want, have)),
                }
            }
            pairs = waiting;
        }
        // What could not be solved (two unknown names in one dimension) is not checked.
        Ok(())
    }
    fn is_inferred(&self, sig: &Sig, symbol: &Symbol) -> bool {
        sig.names.values().any(|s| s == symbol)
    }
    fn wrong_shape<T>(
        &mut self,
        sig: &mut Sig,
        ty: &Type,
        elem: &ElemType,
        dims: &[DimExpr],
        array: &Array,
        axis: Option<(usize, Dim)>,
        span: Span,
        what: &What<'_>,
    ) -> Eval<T> {
        let text = self.type_text(sig, elem, Some(dims));
        let (code, name) = self.blame(what, "E0420", "E0422");
        if let Some((axis, want)) = &axis
            && let Some((symbol, first, other)) = want.symbols().iter().find_map(|s| sig.seen.iter().find(|(t, ..)| t == s)).cloned()
            && *want == Dim::symbol(symbol.clone())
            && !matches!(what, What::Result(_))
        {
            let known = want.substitute(&sig.bindings);
            return self.fail(
                Diagnostic::error(
                    Code("E0421"),
                    span,
                    format!("`{}` is {known} in {other} and {} in {name}", symbol.name, array.shape[*axis]),
                )
                .at(format!("{} = {}", symbol.name, array.shape[*axis]))
                .label(first, format!("{} = {known}", symbol.name))
                .label(ty.span, "declared here"),
            );
        }
        let mut d = Diagnostic::error(Code(code), span, format!("{name} has shape {}, but {text} is declared", shape_text(&array.shape)))
            .at(array_type(array))
            .label(ty.span, text);
        if let Some((axis, want)) = axis {
            let known = want.substitute(&sig.bindings);
            d = d.note(format!("axis {axis} has {} elements where {known} are declared", array.shape[axis]));
        } else {
            d = d.note(format!("it has {} axes", array.shape.len()));
        }
        self.fail(d)
    }
    fn type_text(&mut self, sig: &Sig, elem: &ElemType, dims: Option<&[DimExpr]>) -> String {
        let elem = match elem {
            ElemType::Concrete(d) => self.cx.written(*d).to_string(),
            ElemType::Float => sig.float.map_or("float".to_string(), |d| d.to_string()),
            ElemType::Named(n) => n.text.to_string(),
            ElemType::Quantized(_) => "q8".to_string(),
        };
        let Some(dims) = dims.filter(|d| !d.is_empty()) else { return elem };
        let mut scratch = sig.clone();
        let mut parts = Vec::new();
        for dim in dims {
            parts.push(match dim {
                DimExpr::Ellipsis(_) => "...".to_string(),
                DimExpr::Expr(e) => match self.dim(&mut scratch, e) {
                    Ok(d) => d.substitute(&sig.bindings).to_string(),
                    Err(_) => "?".to_string(),
                },
            });
        }
        format!("{elem}[{}]", parts.join(", "))
    }
    /// The shape and element type of an array type whose dimensions are all known (`param`, `buffer`).
    pub(crate) fn array_spec(&mut self, scope: &Scope, ty: &Type) -> Eval<(DType, Vec<Dim>)> {
        let mut sig = Sig::new(scope.clone());
        let TypeKind::Array { elem, dims } = &ty.kind else {
            if let TypeKind::Named { name, args } = &ty.kind {
                match self.alias(&mut sig, name, args)? {
                    Alias::Elem(d) => return Ok((d, Vec::new())),
                    Alias::Unknown => return Ok((self.cx.float, Vec::new())),
                    Alias::Type { ty, scope } => return self.array_spec(&scope, &ty),
                }
            }
            return self.fail(
                Diagnostic::error(Code("E0351"), ty.span, "this must be an array type").help("`param w: f32[In, out] ~ random.normal()`"),
            );
        };
        let dtype = self.elem_type(scope, elem, ty.span)?.unwrap_or(self.cx.float);
        let mut shape = Vec::new();
        for dim in dims.iter().flatten() {
            match dim {
                DimExpr::Ellipsis(span) => match scope.get("...").map(|b| b.value.clone()) {
                    Some(Value::List(items)) => shape.extend(items.iter().filter_map(|v| match v {
                        Value::Int(d) => Some(d.clone()),
                        _ => None,
                    })),
                    _ => return self.error("E0351", *span, "`...` has no meaning here: the signature has none"),
                },
                DimExpr::Expr(e) => shape.push(self.dim(&mut sig, e)?),
            }
        }
        Ok((dtype, shape))
    }
    /// A value of a type, while checking: dimensions known so far, fresh sizes for the others. `item` makes the values an item's own check sees for its parameters.
    pub(crate) fn instance_of(&mut self, sig: &mut Sig, ty: &Type, item: bool) -> Eval {
        Ok(match &ty.kind {
            TypeKind::Array { elem, dims } => {
                let scalar = dims.as_ref().is_none_or(|d| d.is_empty());
                if scalar && matches!(elem, ElemType::Float) && (item || sig.float.is_none()) {
                    return Ok(Value::Float(None));
                }
                let Some(dtype) = self.wanted_elem(sig, elem, ty.span)?.or(item.then_some(self.cx.float)) else {
                    return Ok(Value::Unknown);
                };
                let mut shape = Vec::new();
                for dim in dims.iter().flatten() {
                    match dim {
                        DimExpr::Ellipsis(_) => match &sig.rest {
                            Some(rest) => shape.extend(rest.iter().cloned()),
                            None => return Ok(Value::Unknown),
                        },
                        DimExpr::Expr(e) => {
                            let d = self.dim(sig, e)?;
                            let open = d.symbols().iter().any(|s| !item && self.is_inferred(sig, s) && !sig.bindings.contains_key(s));
                            shape.push(if open { self.cx.fresh_symbol("?") } else { d.substitute(&sig.bindings) });
                        }
                    }
                }
                Value::Array(Array { dtype, shape, weak: false, node: None })
            }
            TypeKind::Int => Value::Int(self.cx.fresh_symbol("?")),
            TypeKind::Bool => Value::Bool(None),
            TypeKind::Tuple(types) => {
                let mut out = Vec::new();
                for t in types {
                    out.push(self.instance_of(sig, t, item)?);
                }
                Value::Tuple(Rc::new(out))
            }
            TypeKind::Record(types) => {
                let mut out = IndexMap::new();
                for (name, t) in types {
                    out.insert(name.text.clone(), self.instance_of(sig, t, item)?);
                }
                Value::Record(Rc::new(out))
            }
            TypeKind::Named { name, args } => match self.alias(sig, name, args)? {
                Alias::Elem(dtype) => Value::Array(Array { dtype, shape: Vec::new(), weak: false, node: None }),
                Alias::Unknown => Value::Unknown,
                Alias::Type { ty, scope } => {
                    let outer = std::mem::replace(&mut sig.scope, scope);
                    let instance = self.instance_of(sig, &ty, item);
                    sig.scope = outer;
                    instance?
                }
            },
            TypeKind::Str
            | TypeKind::Fn(_)
            | TypeKind::Model
            | TypeKind::Optimizer
            | TypeKind::Data
            | TypeKind::Type
            | TypeKind::Tree
            | TypeKind::List(_) => Value::Unknown,
        })
    }
}
