//! Checking: every item once, with symbolic sizes.

use crate::evaluator::{Eval, Evaluator, Instance, Mode};
use crate::model::{ParamCx, ParamMode};
use crate::scope::Scope;
use crate::types::{Sig, What};
use crate::value::Value;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BlockKind, DimExpr, FnItem, FnKind, Gradient, ItemKind, LetKind, Param, Type, TypeKind};
use optc_front::modules::Program;
use optc_front::{ItemRef, ModuleId};
use optc_ops::{Array, Dim};
use std::rc::Rc;

/// Numbers of axes tried for `...`: a function is wrong only if it is wrong for all of them.
const RANKS: [usize; 4] = [1, 2, 0, 3];

/// Checks every item of a program with symbolic sizes; files of the standard library are taken to be right.
pub fn check(program: &Program) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    for (index, module) in program.modules.iter().enumerate() {
        if !is_std(&module.name) {
            all.extend(check_module(program, ModuleId(index as u32)));
        }
    }
    all.dedup();
    all
}

/// Whether a module belongs to the standard library.
fn is_std(name: &str) -> bool {
    name.starts_with("std/") || name.starts_with("std.") || name == "std"
}

/// Checks every item of one module.
pub fn check_module(program: &Program, module: ModuleId) -> Vec<Diagnostic> {
    let mut evaluator = Evaluator::new(program, Mode::Check);
    for index in 0..program.module(module).file.items.len() {
        // What is wrong is recorded; the other items are checked all the same.
        let _ = evaluator.check_item(ItemRef { module, index: index as u32 });
    }
    evaluator.diagnostics
}

impl Evaluator<'_> {
    /// Checks an item.
    ///
    /// # Errors
    /// If anything in it is wrong; it is recorded.
    pub fn check_item(&mut self, item: ItemRef) -> Eval<()> {
        self.too_deep = false;
        let program = self.program;
        match &program.item(item).kind {
            ItemKind::Import(_) => Ok(()),
            ItemKind::Const { name, .. } => self.item_value(item, name.span).map(|_| ()),
            ItemKind::TypeAlias { dims, ty, .. } => {
                let mut sig = Sig::new(Scope::new(item.module));
                for d in dims {
                    let size = self.cx.fresh_symbol(&d.text);
                    sig.scope.bind(d.text.clone(), Value::Int(size), LetKind::Let, d.span);
                }
                self.instance_of(&mut sig, ty, true).map(|_| ())
            }
            ItemKind::Fn(f) if f.kind == FnKind::Optimizer => self.check_optimizer_item(item),
            ItemKind::Fn(f) => self.check_fn(item, &f.clone()),
            ItemKind::Block(b) => match b.kind {
                BlockKind::Data => self.check_data_item(item),
                BlockKind::Train => self.check_train(item),
                // Its settings are words of the search, which the driver reads.
                BlockKind::Search => Ok(()),
            },
            ItemKind::Experiment(_) => self.check_experiment(item),
            ItemKind::Extern(e) => self.check_extern(item, &e.clone()),
        }
    }
    fn check_fn(&mut self, item_ref: ItemRef, item: &FnItem) -> Eval<()> {
        let open = item.params.iter().filter_map(|p| p.ty.as_ref()).any(has_ellipsis);
        if !open {
            return self.check_fn_at(item_ref, item, 0);
        }
        let known = self.diagnostics.len();
        let mut first: Option<Vec<Diagnostic>> = None;
        for rank in RANKS {
            let result = self.check_fn_at(item_ref, item, rank);
            let found = self.diagnostics.split_off(known);
            if result.is_ok() {
                return Ok(());
            }
            first.get_or_insert(found);
        }
        self.diagnostics.extend(first.unwrap_or_default());
        Err(crate::evaluator::Stop::Reported)
    }
    /// The parameters of an item as its own check sees them: names of dimensions are sizes nobody knows, `...` stands for `rank` of them.
    pub(crate) fn checked_params(&mut self, module: ModuleId, params: &[Param], rank: usize) -> Eval<Sig> {
        let mut sig = self.open_sig(module, params);
        // Sizes stand for themselves; only defaults may say what they are where nothing else does.
        let names = std::mem::take(&mut sig.names);
        let rest: Vec<Dim> = (0..rank).map(|_| self.cx.fresh_symbol("...")).collect();
        sig.rest = Some(rest);
        if params.iter().filter_map(|p| p.ty.as_ref()).any(uses_float) {
            sig.float = Some(self.cx.float);
        }
        let mut failed = false;
        let ints = |p: &&Param| matches!(p.ty.as_ref().map(|t| &t.kind), Some(TypeKind::Int));
        let order: Vec<&Param> = params.iter().filter(ints).chain(params.iter().filter(|p| !ints(p))).collect();
        for param in order {
            let name = &param.name.text;
            let value = match &param.ty {
                None => Value::Unknown,
                Some(Type { kind: TypeKind::Int, .. }) => Value::Int(self.cx.fresh_symbol(name)),
                Some(_) if param.is_const => Value::Float(None),
                Some(ty) => match self.instance_of(&mut sig, ty, true) {
                    Ok(value) => value,
                    Err(_) => {
                        failed = true;
                        Value::Unknown
                    }
                },
            };
            sig.scope.bind(name.clone(), value, LetKind::Let, param.name.span);
        }
        let span = Span::default();
        let float = sig.float.map_or(Value::Unknown, Value::DType);
        sig.scope.bind("float", float, LetKind::Let, span);
        if params.iter().filter_map(|p| p.ty.as_ref()).any(has_ellipsis) {
            let list = sig.rest.iter().flatten().cloned().map(Value::Int).collect();
            sig.scope.bind("...", Value::List(Rc::new(list)), LetKind::Let, span);
        }
        for param in params {
            let Some(default) = &param.default else { continue };
            let mut scope = sig.scope.clone();
            let checked = self.expr(&mut scope, default).and_then(|value| {
                self.check_range(param, &scope, &value, default.span)?;
                match &param.ty {
                    Some(ty) => self
                        .match_type(
                            &mut Sig { names: names.clone(), ..sig.clone() },
                            ty,
                            value,
                            default.span,
                            &What::Binding(&param.name.text),
                        )
                        .map(|_| ()),
                    None => Ok(()),
                }
            });
            failed |= checked.is_err();
        }
        if failed { Err(crate::evaluator::Stop::Reported) } else { Ok(sig) }
    }
    fn check_fn_at(&mut self, item_ref: ItemRef, item: &FnItem, rank: usize) -> Eval<()> {
        let mut sig = self.checked_params(item_ref.module, &item.params, rank)?;
        if let Some(result) = &item.result {
            // The written type itself must make sense.
            self.instance_of(&mut sig.clone(), result, false)?;
        }
        let layer = matches!(item.kind, FnKind::Layer | FnKind::Model);
        let saved_params = self.params.take();
        let names = if layer { self.numbering(item_ref, item) } else { Rc::default() };
        let saved = std::mem::replace(&mut self.instance, Instance { names, ..Instance::default() });
        if layer {
            self.params = Some(ParamCx {
                mode: ParamMode::Init(Vec::new()),
                path: Vec::new(),
                label: None,
                reuse: false,
                depth: 0,
                frozen: Vec::new(),
            });
        }
        let step = self.step.take();
        let in_script = std::mem::replace(&mut self.in_script, item.kind == FnKind::HostFn);
        if item.kind == FnKind::Schedule {
            let value = Value::Array(Array { dtype: DType::I32, shape: Vec::new(), weak: true, node: None });
            sig.scope.bind("step", value.clone(), LetKind::Let, item.span);
            self.step = Some(value);
        }
        let result = self.enter(Some(item_ref), item.span, |ev| {
            let value = ev.body(item, &mut sig)?;
            if let Some(gradient) = &item.gradient {
                ev.check_gradient(item, gradient, &sig, value)?;
            }
            Ok(())
        });
        self.step = step;
        self.in_script = in_script;
        self.instance = saved;
        self.params = saved_params;
        result
    }
    /// A gradient of one's own: its body with the cotangents bound like the result.
    fn check_gradient(&mut self, item: &FnItem, gradient: &Gradient, sig: &Sig, value: Value) -> Eval<()> {
        let mut scope = sig.scope.clone();
        scope.push();
        scope.bind("result", value.clone(), LetKind::Let, gradient.span);
        match (gradient.cotangents.as_slice(), &value) {
            ([one], _) => scope.bind(one.text.clone(), value, LetKind::Let, one.span),
            (several, Value::Tuple(items)) if items.len() == several.len() => {
                for (n, v) in several.iter().zip(items.iter()) {
                    scope.bind(n.text.clone(), v.clone(), LetKind::Let, n.span);
                }
            }
            (several, _) => {
                for n in several {
                    scope.bind(n.text.clone(), Value::Unknown, LetKind::Let, n.span);
                }
            }
        }
        let entries = self.expr(&mut scope, &gradient.body)?;
        if let Value::Tuple(items) = &entries
            && items.len() != item.params.len()
            && item.params.len() > 1
        {
            return self.fail(
                Diagnostic::error(
                    Code("E0335"),
                    gradient.body.span,
                    format!("a gradient returns one entry per argument: {} here, not {}", item.params.len(), items.len()),
                )
                .help("use `none` for arguments without a gradient"),
            );
        }
        if item.params.len() > 1 && matches!(entries, Value::Array(_) | Value::Record(_)) {
            let message = format!("a gradient returns one entry per argument: {} here", item.params.len());
            let help = "`(ct * y, ct * x)`, with `none` for arguments without a gradient";
            return self.fail(Diagnostic::error(Code("E0335"), gradient.body.span, message).help(help));
        }
        let entries = match entries {
            Value::Tuple(items) if item.params.len() > 1 => items.to_vec(),
            one => vec![one],
        };
        for (k, (param, entry)) in item.params.iter().zip(entries).enumerate() {
            let given = sig.scope.get(&param.name.text).map(|b| b.value.clone());
            let (Some(Value::Array(x)), Value::Array(d)) = (given, entry) else { continue };
            if optc_ops::broadcast_to(&mut self.cx, &d, &x.shape).is_ok() {
                continue;
            }
            let at = match &gradient.body.kind {
                optc_front::ast::ExprKind::Tuple(items) if item.params.len() > 1 => items.get(k).map_or(gradient.body.span, |e| e.span),
                _ => gradient.body.span,
            };
            let (d, x) = (crate::tree::array_type(&d), crate::tree::array_type(&x));
            return self.fail(
                Diagnostic::error(Code("E0420"), at, format!("this gradient is {d}, but the argument `{}` is {x}", param.name.text))
                    .label(param.span, x),
            );
        }
        Ok(())
    }
}

fn has_ellipsis(ty: &Type) -> bool {
    match &ty.kind {
        TypeKind::Array { dims, .. } => dims.iter().flatten().any(|d| matches!(d, DimExpr::Ellipsis(_))),
        TypeKind::Tuple(items) => items.iter().any(has_ellipsis),
        TypeKind::Record(fields) => fields.iter().any(|(_, t)| has_ellipsis(t)),
        TypeKind::List(t) => has_ellipsis(t),
        _ => false,
    }
}

fn uses_float(ty: &Type) -> bool {
    match &ty.kind {
        TypeKind::Array { elem, dims } => matches!(elem, optc_front::ast::ElemType::Float) && dims.as_ref().is_some_and(|d| !d.is_empty()),
        TypeKind::Tuple(items) => items.iter().any(uses_float),
        TypeKind::Record(fields) => fields.iter().any(|(_, t)| uses_float(t)),
        TypeKind::List(t) => uses_float(t),
        _ => false,
    }
}
