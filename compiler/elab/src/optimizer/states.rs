//! States of a body: declared in the first pass, read and handed out in the others.

use super::*;
use crate::settings::mentions;

impl Evaluator<'_> {
    /// Whether some state of an optimizer begins with a function of the gradient.
    pub(crate) fn state_uses_gradient(&mut self, optimizer: &OptimizerValue) -> bool {
        match optimizer {
            OptimizerValue::Chain(parts) => parts.iter().any(|p| self.state_uses_gradient(p)),
            OptimizerValue::Groups { groups, .. } => {
                groups.iter().any(|g| g.optimizer.as_ref().is_some_and(|o| self.state_uses_gradient(o)))
            }
            OptimizerValue::Inner { of, .. } => self.state_uses_gradient(of),
            OptimizerValue::Single { item, args, .. } => {
                let ItemKind::Fn(f) = &self.program.item(*item).kind else { return false };
                let held =
                    f.params.iter().enumerate().filter(|(_, p)| p.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)));
                for (k, param) in held {
                    let named = args.iter().find(|a| a.name.as_deref() == Some(&*param.name.text));
                    let Some(arg) = named.or_else(|| args.get(k).filter(|a| a.name.is_none())) else { continue };
                    // Mistakes in it are found where it runs.
                    let known = self.diagnostics.len();
                    let value = self.expr(&mut arg.scope.clone(), &arg.expr);
                    self.diagnostics.truncate(known);
                    let Ok(value) = value else { continue };
                    if self.as_optimizer(&value, arg.expr.span).is_some_and(|o| self.state_uses_gradient(&o)) {
                        return true;
                    }
                }
                match &f.body.kind {
                    ExprKind::Block(b) => self.block_states_use_gradient(&b.stmts),
                    // A named chain: its parts are seen when they run; assume they may.
                    _ => false,
                }
            }
        }
    }

    fn block_states_use_gradient(&self, stmts: &[Stmt]) -> bool {
        stmts.iter().any(|s| match &s.kind {
            StmtKind::State { init, .. } => {
                let text = self.program.sources.slice(init.span);
                std::iter::once("g").chain(collectives::OF_LOSS.iter().copied()).any(|word| mentions(text, word))
            }
            StmtKind::Expr(e) | StmtKind::Let { value: e, .. } | StmtKind::Update { value: e, .. } => self.expr_states_use_gradient(e),
            _ => false,
        })
    }

    fn expr_states_use_gradient(&self, e: &Expr) -> bool {
        match &e.kind {
            ExprKind::If { then, otherwise, .. } => {
                self.block_states_use_gradient(&then.stmts) || otherwise.as_ref().is_some_and(|b| self.block_states_use_gradient(&b.stmts))
            }
            ExprKind::Block(b) => self.block_states_use_gradient(&b.stmts),
            _ => false,
        }
    }

    /// An update of what a body is given.
    pub(crate) fn not_of_the_body(&mut self, name: &str, at: Span, declared: Span) -> Eval<()> {
        let d = Diagnostic::error(Code("E0222"), at, format!("`{name}` cannot be updated"));
        let d = if declared == Span::default() { d } else { d.label(declared, "declared here, with `let` or as a hyperparameter") };
        self.fail(match name {
            "t" | "step" | "total_steps" => d.help("steps are counted by themselves; a count of your own is a state: `state n: i32 = 0`, `n <- n + 1`"),
            "loss" | "name" => d.help("a body updates `w`, `g`, its states and its variables"),
            _ => d.help(format!("for this step alone: `var {name} = …`; what lasts from step to step is a `state` (a number for all leaves: `shared state {name}: f32 = …`)")),
        })
    }

    pub(super) fn declare_state(
        &mut self,
        scopes: &mut [Scope],
        active: &[usize],
        leaf: usize,
        shared: bool,
        name: &optc_front::ast::Name,
        ty: Option<&optc_front::ast::Type>,
        init: &Expr,
    ) -> Eval<()> {
        let (pass, stage, info) = {
            let run = self.opt_run();
            (run.inputs.pass, run.body.label.clone(), run.instance.leaves[leaf].leaf.clone())
        };
        if self.opt_run().body.conditional {
            return self.fail(
                Diagnostic::error(Code("E0343"), name.span, "`state` cannot stand under a run-time condition or in a loop")
                    .help("declare it at the top of the body, or under a condition that is known at compile time"),
            );
        }
        self.enter_leaf(if shared { None } else { Some(leaf) });
        // Initial values are taken before the first step: they see the incoming parameter and gradient.
        let mut scope = scopes[leaf].clone();
        scope.push();
        let compute = compute_type(info.w.dtype);
        let (w0, g0) = (self.cast_array(&info.w, compute), self.cast_array(&info.g, compute));
        scope.bind("w", Value::Array(w0), LetKind::Let, name.span);
        scope.bind("g", Value::Array(g0), LetKind::Let, name.span);
        let value = self.expr(&mut scope, init)?;
        let written = match ty {
            Some(ty) => Some(self.state_type(&mut scope, ty, &info.w)?),
            None => None,
        };
        let base =
            if shared { format!("optimizer.{stage}.{}", name.text) } else { format!("optimizer.{stage}.{}.{}", name.text, info.path) };
        let is_scalar = |v: &Value| match v {
            Value::Int(_) | Value::Float(_) | Value::Unknown => true,
            Value::Array(a) => a.shape.is_empty(),
            _ => false,
        };
        let value = match (&written, shared) {
            (Some((dtype, shape)), _) => Value::Array(self.fit(&value, *dtype, shape, &name.text, init.span)?),
            (None, false) if is_scalar(&value) => Value::Array(self.fit(&value, compute, &info.w.shape, &name.text, init.span)?),
            (None, true) if is_scalar(&value) => Value::Array(self.fit(&value, compute, &[], &name.text, init.span)?),
            _ => value,
        };
        let mut parts = Vec::new();
        let mut current = Vec::new();
        for (path, part) in self.tree_leaves(&value, init.span)? {
            let full = if path.is_empty() { base.clone() } else { format!("{base}.{path}") };
            let Some(val) = part.to_val() else {
                return self.fail(Diagnostic::error(
                    Code("E0333"),
                    init.span,
                    format!("state `{}` holds something that is no array", name.text),
                ));
            };
            let array = match optc_ops::materialize(&mut self.cx, &val, None) {
                Ok(a) => a,
                Err(e) => return self.fail(e.diagnostic(init.span)),
            };
            parts.push((full.clone(), array.dtype));
            let array = if pass == Pass::Init {
                let run = self.opt_run();
                let twice = run.body.stage_states.iter().any(|s| s.parts.iter().any(|p| p.0 == full));
                // What a wrapper holds may be mentioned several times: the first mention sets the initial values.
                let array = run.states.entry(full.clone()).or_insert(array).clone();
                if twice || parts.iter().filter(|p: &&(String, DType)| p.0 == full).count() > 1 {
                    return self.fail(Diagnostic::error(Code("E0345"), name.span, format!("state `{}` is declared twice", name.text)));
                }
                array
            } else {
                match self.opt_run().states.get(&full) {
                    Some(a) => a.clone(),
                    // While checking there are no slots: the type is what matters.
                    None => array,
                }
            };
            let widened = self.cast_array(&array, compute_type(array.dtype));
            current.push(Value::Array(widened));
        }
        let bound = self.rebuild_tree(&value, &mut current.into_iter());
        for &target in if shared { active } else { std::slice::from_ref(&leaf) } {
            scopes[target].bind(name.text.clone(), bound.clone(), LetKind::Var, name.span);
            self.hoist(&mut scopes[target], &name.text, &bound, name.span);
        }
        let run = &mut self.opt_run().body;
        if shared {
            run.shared.push(name.text.clone());
            run.own.retain(|n| *n != name.text);
        } else if !run.own.contains(&name.text) {
            run.own.push(name.text.clone());
        }
        run.stage_states.push(StageState { name: name.text.clone(), leaf: if shared { None } else { Some(leaf) }, parts });
        Ok(())
    }

    /// States declared inside a branch must be readable when the body ends: they live in the body's outermost block under a reserved name.
    pub(super) fn hoist(&mut self, scope: &mut Scope, name: &Arc<str>, value: &Value, span: Span) {
        let key = format!("state {name}");
        if scope.get(&key).is_none() {
            scope.bind_at(1, key, value.clone(), LetKind::Var, span);
        }
    }

    /// The storage type and shape a state's type asks for; `...` is the leaf's shape.
    pub(super) fn state_type(&mut self, scope: &mut Scope, ty: &optc_front::ast::Type, w: &Array) -> Eval<(DType, Vec<Dim>)> {
        use optc_front::ast::{DimExpr, ElemType};
        let TypeKind::Array { elem, dims } = &ty.kind else {
            return self.fail(Diagnostic::error(Code("E0351"), ty.span, "the type of a state is an element type with dimensions"));
        };
        let dtype = match elem {
            ElemType::Concrete(d) => self.cx.written(*d),
            ElemType::Float => compute_type(w.dtype),
            ElemType::Named(n) => match scope.get(&n.text).map(|b| b.value.clone()) {
                Some(Value::DType(d)) => d,
                Some(Value::Unknown) => self.cx.float,
                _ => {
                    return self.fail(
                        Diagnostic::error(Code("E0351"), n.span, format!("`{}` is not an element type", n.text))
                            .help("declare the parameter as `name: type = f32`"),
                    );
                }
            },
            ElemType::Quantized(_) => {
                return self.fail(
                    Diagnostic::error(Code("E0710"), ty.span, "block-quantized states are not yet supported")
                        .help("use `bf16[...]` or `f16[...]`"),
                );
            }
        };
        let mut shape = Vec::new();
        for dim in dims.iter().flatten() {
            match dim {
                DimExpr::Ellipsis(_) => shape.extend(w.shape.iter().cloned()),
                DimExpr::Expr(e) => {
                    let value = self.expr(scope, e)?;
                    match value {
                        Value::Int(d) => shape.push(d),
                        Value::Unknown => shape.push(self.cx.fresh_symbol("?")),
                        _ => return self.fail(Diagnostic::error(Code("E0344"), e.span, "a dimension must be a compile-time integer")),
                    }
                }
            }
        }
        Ok((dtype, shape))
    }

    /// After an update of a value kept in a narrow type: what is read later is what was stored.
    pub(super) fn round_stored(&mut self, scope: &mut Scope, root: Option<&str>, leaf: usize, span: Span) -> Eval<()> {
        let Some(root) = root else { return Ok(()) };
        let storage: Vec<DType> = if root == "w" {
            vec![self.opt_run().instance.leaves[leaf].leaf.w.dtype]
        } else {
            let states = &self.opt_run().body.stage_states;
            let found = states.iter().rev().find(|s| &*s.name == root && s.leaf.is_none_or(|l| l == leaf));
            found.map(|s| s.parts.iter().map(|p| p.1).collect()).unwrap_or_default()
        };
        let Some(value) = scope.get(root).map(|b| b.value.clone()) else { return Ok(()) };
        let mut value = value;
        if storage.iter().any(|&d| compute_type(d) != d) {
            let parts = self.tree_leaves(&value, span)?;
            let mut rounded = Vec::new();
            for ((_, part), &dtype) in parts.iter().zip(&storage) {
                let Some(val) = part.to_val() else { continue };
                let array = match optc_ops::materialize(&mut self.cx, &val, Some(compute_type(dtype))) {
                    Ok(a) => a,
                    Err(e) => return self.fail(e.diagnostic(span)),
                };
                let stored = self.cast_array(&array, dtype);
                rounded.push(Value::Array(self.cast_array(&stored, compute_type(dtype))));
            }
            value = self.rebuild_tree(&value, &mut rounded.into_iter());
            scope.set(root, value.clone());
        }
        if root != "w" && root != "g" {
            scope.set(&format!("state {root}"), value);
        }
        Ok(())
    }

    /// Hands out the states a stage leaves.
    pub(super) fn finish_stage(&mut self, scopes: &[Scope], item: &FnItem) -> Eval<()> {
        if self.opt_run().inputs.pass != Pass::Step {
            return Ok(());
        }
        let states = self.opt_run().body.stage_states.clone();
        for state in states {
            let scope = &scopes[state.leaf.unwrap_or(0)];
            let value = scope.get(&format!("state {}", state.name)).or_else(|| scope.get(&state.name)).map(|b| b.value.clone());
            let value = value.unwrap_or(Value::Unknown);
            let parts = self.tree_leaves(&value, item.span)?;
            for ((full, dtype), (_, part)) in state.parts.iter().zip(parts) {
                let Some(incoming) = self.opt_run().states.get(full).cloned() else { continue };
                let shape = incoming.shape.clone();
                let fitted = self.fit(&part, compute_type(*dtype), &shape, &state.name, item.span)?;
                let stored = self.cast_array(&fitted, *dtype);
                self.opt_run().states.insert(full.clone(), stored);
            }
        }
        Ok(())
    }
}
