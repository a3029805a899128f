//! Optimizers with leaves of their own: groups, and what wrappers hold.

use super::*;
use crate::tree::describe;
use crate::value::OptGroup;
use optc_front::ast::{BinaryOp, GroupKey, StrPart, UnaryOp};

impl Evaluator<'_> {
    /// `{ "*.bias": sgd(), ndim >= 2: muon(), "embed.*": none, _: adamw() }`
    pub(crate) fn groups(&mut self, scope: &mut Scope, written: &[(GroupKey, Expr)], span: Span) -> Eval {
        let mut groups = Vec::new();
        for (key, e) in written {
            self.check_key(key)?;
            let value = self.expr(scope, e)?;
            let optimizer = match &value {
                Value::None => None,
                other => match self.as_optimizer(other, e.span) {
                    Some(o) => Some(o),
                    None => {
                        return self.fail(
                            Diagnostic::error(
                                Code("E0333"),
                                e.span,
                                format!("a group has an optimizer, or `none`, this is {}", describe(other)),
                            )
                            .help("`{ \"*.bias\": sgd(lr = 0.1), \"embed.*\": none, _: adamw() }`"),
                        );
                    }
                },
            };
            groups.push(OptGroup { key: key.clone(), optimizer, span: e.span });
        }
        Ok(Value::Optimizer(Rc::new(OptimizerValue::Groups { groups, span })))
    }

    /// Whether a key compares what leaves have with what they may have.
    fn check_key(&mut self, key: &GroupKey) -> Eval<()> {
        match key {
            GroupKey::Any | GroupKey::Patterns(_) => Ok(()),
            GroupKey::And(a, b) => {
                self.check_key(a)?;
                self.check_key(b)
            }
            GroupKey::Compare(name, op, literal) => {
                let text = matches!(literal.kind, ExprKind::Str(_));
                let fits = match &*name.text {
                    "ndim" | "size" => !text,
                    "name" => text && matches!(op, BinaryOp::Eq | BinaryOp::Ne),
                    _ => false,
                };
                if fits {
                    return Ok(());
                }
                let d = match &*name.text {
                    "ndim" | "size" => {
                        Diagnostic::error(Code("E0541"), literal.span, format!("`{}` of a leaf is compared with a number", name.text))
                    }
                    "name" => Diagnostic::error(Code("E0541"), name.span, "`name` is compared with a string, by `==` or `!=`"),
                    other => Diagnostic::error(Code("E0541"), name.span, format!("leaves have no `{other}` to group them by")),
                };
                self.fail(
                    d.help(
                        "a key is `_`, patterns of names (`\"*.bias\" | \"head.*\"`), `ndim`, `size` or `name` compared with a literal, or two of these joined by `and`",
                    ),
                )
            }
        }
    }

    /// Runs each group on its leaves.
    pub(super) fn run_groups(
        &mut self,
        groups: &[OptGroup],
        span: Span,
        mut w: Vec<Array>,
        mut g: Vec<Array>,
    ) -> Eval<(Vec<Array>, Vec<Array>)> {
        let leaves = self.opt_run().instance.leaves.clone();
        let number = {
            let instance = &mut self.opt_run().instance;
            let label = format!("{}{}", instance.prefix, instance.stages);
            instance.stages += 1;
            label
        };
        let mut owner: Vec<Option<usize>> = Vec::with_capacity(leaves.len());
        for member in &leaves {
            owner.push(groups.iter().position(|group| matches(&group.key, &member.leaf)));
        }
        // While checking, an item is seen on one leaf that stands for any.
        let whole = self.opt_run().inputs.all_leaves;
        let all_known = !self.checking() || whole;
        if all_known {
            if let Some(k) = owner.iter().position(Option::is_none) {
                return self.fail(
                    Diagnostic::error(Code("E0541"), span, format!("no group has a key for `{}`", leaves[k].leaf.path))
                        .help("end with `_: …`; `_: none` leaves the others alone"),
                );
            }
            for group in groups.iter().filter(|_| whole) {
                if let Some(pattern) = unmatched(&group.key, &leaves, self.checking()) {
                    let d = Diagnostic::error(Code("E0541"), group.span, format!("no leaf has a name like `{pattern}`"));
                    let names: Vec<&str> = leaves.iter().map(|l| &*l.leaf.path).collect();
                    return self.fail(match crate::names::nearest(pattern, names.iter().copied()) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d.help(format!("the leaves are {}", names.join(", "))),
                    });
                }
            }
        }
        if whole && let Some((k, earlier)) = self.shadowed(groups, &leaves, &owner) {
            let (key, first) = (&groups[k], &groups[earlier]);
            return self.fail(
                Diagnostic::error(
                    Code("E0541"),
                    key.span,
                    format!("no leaf is left for the group {}: the first match wins", key_shown(&key.key)),
                )
                .label(first.span, "its leaves go to this group")
                .help("put the narrower key first, and `_` last"),
            );
        }
        for (k, group) in groups.iter().enumerate() {
            let Some(optimizer) = &group.optimizer else { continue };
            let mut own: Vec<usize> = (0..leaves.len()).filter(|&leaf| owner[leaf] == Some(k)).collect();
            if own.is_empty() && self.checking() && !all_known {
                own = (0..leaves.len()).collect();
            }
            if own.is_empty() {
                continue;
            }
            let (step, outer) = {
                let run = self.opt_run();
                (run.instance.step.clone(), run.instance.clone())
            };
            self.opt_run().instance = Instance {
                leaves: own.iter().map(|&leaf| leaves[leaf].clone()).collect(),
                step,
                prefix: format!("{number}.{k}."),
                stages: 0,
            };
            let pick = |all: &[Array]| own.iter().map(|&leaf| all[leaf].clone()).collect::<Vec<_>>();
            let (new, gradients) = self.run_stage(optimizer, pick(&w), pick(&g))?;
            self.opt_run().instance = outer;
            for (at, (a, b)) in own.iter().zip(new.into_iter().zip(gradients)) {
                (w[*at], g[*at]) = (a, b);
            }
        }
        Ok((w, g))
    }

    /// A group whose leaves all belong to earlier ones, and the first of these. Keys by rank and size may have no leaf: they say what holds for any model.
    fn shadowed(&self, groups: &[OptGroup], leaves: &[Member], owner: &[Option<usize>]) -> Option<(usize, usize)> {
        (0..groups.len()).find_map(|k| {
            let mut fitting = (0..leaves.len()).filter(|&leaf| matches(&groups[k].key, &leaves[leaf].leaf)).peekable();
            let first = *fitting.peek()?;
            let named = matches!(groups[k].key, GroupKey::Patterns(_));
            (named && fitting.all(|leaf| owner[leaf] != Some(k))).then_some((k, owner[first]?))
        })
    }

    /// The optimizer given for a parameter of type `optimizer`: in a block the one instance that all mentions of the parameter are.
    pub(super) fn held_optimizer(&mut self, item: &FnItem, param: &Param, value: Value, span: Span, label: &str) -> Eval {
        if matches!(value, Value::Unknown) {
            return Ok(value);
        }
        let Some(of) = self.as_optimizer(&value, span) else {
            return self.fail(
                Diagnostic::error(
                    Code("E0333"),
                    span,
                    format!("`{}` of `{}` is an optimizer, this is {}", param.name.text, item.name.text, describe(&value)),
                )
                .label(param.span, "declared here"),
            );
        };
        Ok(Value::Optimizer(match item.body.kind {
            ExprKind::Block(_) => Rc::new(OptimizerValue::Inner { label: Arc::from(format!("{label}.{}", param.name.text)), of }),
            _ => of,
        }))
    }

    /// Runs what a wrapper holds, on these leaves; it counts its own steps.
    pub(super) fn run_inner(
        &mut self,
        label: &str,
        of: &OptimizerValue,
        leaves: Vec<Member>,
        w: Vec<Array>,
        g: Vec<Array>,
    ) -> Eval<(Vec<Array>, Vec<Array>)> {
        let counter = format!("optimizer.{label}.step");
        let pass = self.opt_run().inputs.pass;
        let zero = optc_ops::materialize(&mut self.cx, &optc_ops::Val::Int(Dim::from(0i64)), Some(DType::I32));
        let zero = self.lift(zero, Span::default())?;
        let run = self.opt_run();
        let step = match pass {
            Pass::Init => run.states.entry(counter.clone()).or_insert(zero).clone(),
            // While checking there are no slots.
            _ => run.states.get(&counter).cloned().unwrap_or(zero),
        };
        let inner = Instance { leaves, step: step.clone(), prefix: format!("{label}."), stages: 0 };
        let outer = std::mem::replace(&mut run.instance, inner);
        let saved = (self.key.clone(), self.recorder.muted);
        let result = self.run_stage(of, w, g);
        (self.key, self.recorder.muted) = saved;
        self.opt_run().instance = outer;
        if pass == Pass::Step && self.opt_run().states.contains_key(&counter) {
            let next = self.offset(&step, 1);
            let next = self.cast_array(&next, DType::I32);
            let run = self.opt_run();
            if !run.counters.contains(&counter) {
                run.counters.push(counter.clone());
            }
            run.states.insert(counter, next);
        }
        result
    }

    /// Between two branches that different leaves take: what is held makes one step in both, so the second begins with the counters that the first began with. Gives the
    /// states that the first branch left.
    pub(super) fn rewind_steps(&mut self, before: &IndexMap<String, Array>) -> IndexMap<String, Array> {
        let run = self.opt_run();
        let after = run.states.clone();
        for counter in &run.counters {
            if let (Some(now), Some(old)) = (run.states.get_mut(counter), before.get(counter)) {
                *now = old.clone();
            }
        }
        after
    }

    /// Behind two branches that different leaves took: what is held has made as many steps as in either of them.
    ///
    /// # Errors
    /// A value that all leaves share was changed by both, one after the other.
    pub(super) fn join_steps(&mut self, before: &IndexMap<String, Array>, after: &IndexMap<String, Array>, span: Span) -> Eval<()> {
        let changed = |a: &Array, name: &str| before.get(name).is_some_and(|old| old.node != a.node);
        let shared = self.opt_run().shared_slots.clone();
        let both = shared.iter().find(|name| {
            let now = self.opt.as_ref().and_then(|run| run.states.get(&***name));
            after.get(&***name).is_some_and(|a| changed(a, name.as_str()))
                && now.zip(after.get(&***name)).is_some_and(|(a, b)| a.node != b.node)
        });
        if let Some(name) = both {
            let name = name.rsplit('.').next().unwrap_or(name.as_str());
            return self.fail(
                Diagnostic::error(
                    Code("E0542"),
                    span,
                    format!("both branches step the optimizer a wrapper holds, which has `{name}`, one value for all leaves"),
                )
                .help("compute its arguments in the branches and call `inner.delta` once, behind them"),
            );
        }
        for counter in self.opt_run().counters.clone() {
            let now = self.opt_run().states.get(&counter).cloned();
            let (Some(now), Some(first)) = (now, after.get(&counter)) else { continue };
            let joined = if now.node == first.node || !changed(first, &counter) {
                now
            } else if !changed(&now, &counter) {
                first.clone()
            } else {
                let most = self.builtin("maximum", vec![Value::Array(first.clone()), Value::Array(now)], span)?;
                self.array_of(&most, span)?
            };
            self.opt_run().states.insert(counter, joined);
        }
        Ok(())
    }

    /// After a step: what wrappers hold may name the weights used in evaluation.
    pub(super) fn eval_inner(&mut self, scopes: &[Scope]) -> Eval<()> {
        if self.opt_run().inputs.pass != Pass::Eval {
            return Ok(());
        }
        let Some(scope) = scopes.first() else { return Ok(()) };
        let held: Vec<(Arc<str>, Rc<OptimizerValue>)> = scope
            .names()
            .filter_map(|n| match scope.get(n).map(|b| &b.value) {
                Some(Value::Optimizer(o)) => match &**o {
                    OptimizerValue::Inner { label, of } => Some((label.clone(), of.clone())),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        for (label, of) in held {
            if !self.names_weights(&of) {
                continue;
            }
            let leaves = self.opt_run().instance.leaves.clone();
            let w = leaves.iter().map(|l| l.leaf.w.clone()).collect();
            let g = leaves.iter().map(|l| l.leaf.g.clone()).collect();
            self.run_inner(&label, &of, leaves, w, g)?;
        }
        Ok(())
    }

    /// Whether some body of an optimizer has an `eval w`.
    fn names_weights(&mut self, optimizer: &OptimizerValue) -> bool {
        match optimizer {
            OptimizerValue::Chain(parts) => parts.iter().any(|p| self.names_weights(p)),
            OptimizerValue::Groups { groups, .. } => groups.iter().filter_map(|g| g.optimizer.clone()).any(|o| self.names_weights(&o)),
            OptimizerValue::Inner { of, .. } => self.names_weights(of),
            OptimizerValue::Single { item, args, .. } => {
                let ItemKind::Fn(f) = &self.program.item(*item).kind else { return false };
                let own = match &f.body.kind {
                    ExprKind::Block(b) => crate::walk::any(b, &|s| matches!(s.kind, StmtKind::Eval { .. }), &|_| false),
                    // A named chain: its parts are seen when they run.
                    _ => true,
                };
                own || held_by(f, args).into_iter().any(|arg| {
                    let value = self.expr(&mut arg.scope.clone(), &arg.expr).ok();
                    value.and_then(|v| self.as_optimizer(&v, arg.expr.span)).is_some_and(|o| self.names_weights(&o))
                })
            }
        }
    }
}

/// The arguments for parameters of type `optimizer`.
pub(super) fn held_by(f: &FnItem, args: &[OptArg]) -> Vec<OptArg> {
    let mut positional = args.iter().filter(|a| a.name.is_none());
    let mut held = Vec::new();
    for param in &f.params {
        let arg = args.iter().find(|a| a.name.as_deref() == Some(&*param.name.text)).or_else(|| positional.next());
        if param.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)) {
            held.extend(arg.cloned());
        }
    }
    held
}

/// Whether a leaf belongs to a group.
fn matches(key: &GroupKey, leaf: &Leaf) -> bool {
    match key {
        GroupKey::Any => true,
        GroupKey::Patterns(patterns) => patterns.iter().any(|p| crate::arith::glob(p, &leaf.path)),
        GroupKey::And(a, b) => matches(a, leaf) && matches(b, leaf),
        GroupKey::Compare(name, op, literal) => {
            if &*name.text == "name" {
                return (literal_text(literal) == Some(&*leaf.path)) == (*op == BinaryOp::Eq);
            }
            let value = match &*name.text {
                "ndim" => Some(leaf.w.shape.len() as f64),
                _ => leaf.w.shape.iter().try_fold(1.0, |n, d| Some(n * d.known()? as f64)),
            };
            // While checking, sizes may not be known.
            let (Some(value), Some(bound)) = (value, literal_number(literal)) else { return true };
            match op {
                BinaryOp::Eq => value == bound,
                BinaryOp::Ne => value != bound,
                BinaryOp::Ge => value >= bound,
                BinaryOp::Le => value <= bound,
                BinaryOp::Gt => value > bound,
                _ => value < bound,
            }
        }
    }
}

/// A pattern of the key that no leaf's name matches. Numbers of layers do not count while checking: loops may not have been followed to their end.
fn unmatched<'k>(key: &'k GroupKey, leaves: &[Member], checking: bool) -> Option<&'k str> {
    let plain = |path: &str| if checking { crate::train::without_numbers(path) } else { path.to_string() };
    let found = |fits: &dyn Fn(&str) -> bool| leaves.iter().any(|l| fits(&plain(&l.leaf.path)));
    match key {
        GroupKey::Any => None,
        GroupKey::Patterns(patterns) => patterns.iter().map(|p| &**p).find(|p| !found(&|path| crate::arith::glob(&plain(p), path))),
        GroupKey::And(a, b) => unmatched(a, leaves, checking).or_else(|| unmatched(b, leaves, checking)),
        GroupKey::Compare(_, BinaryOp::Eq, literal) => literal_text(literal).filter(|text| !found(&|path| plain(text) == path)),
        GroupKey::Compare(..) => None,
    }
}

fn literal_text(e: &Expr) -> Option<&str> {
    match &e.kind {
        ExprKind::Str(parts) => match parts.as_slice() {
            [] => Some(""),
            [StrPart::Text(text)] => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn literal_number(e: &Expr) -> Option<f64> {
    match &e.kind {
        ExprKind::Int(n) => Some(*n as f64),
        ExprKind::Float(x) => Some(*x),
        ExprKind::Unary(UnaryOp::Neg, a) => literal_number(a).map(|x| -x),
        _ => None,
    }
}

/// Patterns of a key as they are written.
fn key_shown(key: &GroupKey) -> String {
    match key {
        GroupKey::Patterns(patterns) => patterns.iter().map(|p| format!("`\"{p}\"`")).collect::<Vec<_>>().join(" | "),
        other => format!("`{}`", key_text(other)),
    }
}

/// A key as text: what tells it from others.
pub(crate) fn key_text(key: &GroupKey) -> String {
    match key {
        GroupKey::Any => "_".into(),
        GroupKey::Patterns(patterns) => format!("{patterns:?}"),
        GroupKey::And(a, b) => format!("{} and {}", key_text(a), key_text(b)),
        GroupKey::Compare(name, op, literal) => {
            format!("{}{op:?}{:?}{:?}", name.text, literal_text(literal), literal_number(literal))
        }
    }
}

/// Whether an argument of an optimizer, as written in a `train`, mentions a name that its scope does not have.
pub(crate) fn arguments_mention(optimizer: &OptimizerValue, name: &str) -> bool {
    match optimizer {
        OptimizerValue::Chain(parts) => parts.iter().any(|p| arguments_mention(p, name)),
        OptimizerValue::Groups { groups, .. } => groups.iter().filter_map(|g| g.optimizer.as_ref()).any(|o| arguments_mention(o, name)),
        OptimizerValue::Inner { of, .. } => arguments_mention(of, name),
        OptimizerValue::Single { args, .. } => args.iter().any(|arg| {
            let mut found = false;
            crate::walk::expr(&arg.expr, &mut |e| {
                found |= matches!(&e.kind, ExprKind::Name(n) if &**n == name);
                !found
            });
            found && arg.scope.get(name).is_none()
        }),
    }
}
