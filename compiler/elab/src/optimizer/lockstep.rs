//! Statements of a body, evaluated for every leaf before the next one begins.

use super::*;

impl Evaluator<'_> {
    pub(super) fn lock_block(&mut self, scopes: &mut [Scope], active: &[usize], block: &Block) -> Eval<Vec<Value>> {
        for &leaf in active {
            scopes[leaf].push();
        }
        let last = self.lock_stmts(scopes, active, &block.stmts)?;
        for &leaf in active {
            scopes[leaf].pop();
        }
        Ok(last)
    }

    /// Statements in the scopes at hand; gives the values of the last.
    pub(super) fn lock_stmts(&mut self, scopes: &mut [Scope], active: &[usize], stmts: &[Stmt]) -> Eval<Vec<Value>> {
        let mut last = vec![Value::None; active.len()];
        for (k, stmt) in stmts.iter().enumerate() {
            last = self.lock_stmt(scopes, active, stmt)?;
            let Some(&first) = active.first() else { continue };
            if !self.exits.any() {
                continue;
            }
            // As in any loop that can be left: what follows runs where the pass is not over.
            let rest = &stmts[k + 1..];
            match scopes[first].get(crate::exits::LEFT).map(|b| b.value.clone()) {
                Some(Value::Bool(Some(true))) => return Ok(vec![Value::None; active.len()]),
                Some(left @ Value::Array(_)) if !rest.is_empty() => {
                    return self.lock_if(scopes, active, (&left, stmt.span), [&[], rest], stmt.span);
                }
                _ => {}
            }
        }
        Ok(last)
    }

    pub(super) fn begin_statement(&mut self, scopes: &[Scope], active: &[usize]) {
        let depth = self.depth;
        let run = &mut self.opt_run().body;
        run.snapshot = scopes.to_vec();
        run.active = active.to_vec();
        run.cache.clear();
        run.depth = depth;
    }

    /// Sets the key for draws of one leaf, or for what all share. Metrics are recorded for the first leaf only.
    pub(super) fn enter_leaf(&mut self, leaf: Option<usize>) {
        let run = self.opt_run();
        let first = run.body.active.first().copied();
        run.body.leaf = leaf;
        self.recorder.muted = leaf.is_some() && leaf != first;
        self.key = self.leaf_key(leaf);
        self.opt_run().body.key = self.key.clone();
    }

    /// The key of one leaf, or of what all share, in the body at hand.
    fn leaf_key(&mut self, leaf: Option<usize>) -> Option<Array> {
        let label = self.opt_run().body.label.clone();
        let key = self.stage_key(&label)?;
        Some(match leaf {
            Some(leaf) => self.entered(&key, leaf),
            None => key,
        })
    }

    fn stage_key(&mut self, label: &str) -> Option<Array> {
        let key = self.opt_run().inputs.key.clone()?;
        Some(self.fold_key(&key, stage_number(label), None))
    }

    /// A key within a leaf.
    fn entered(&mut self, key: &Array, leaf: usize) -> Array {
        match self.opt_run().instance.leaves.get(leaf).map(|member| member.index) {
            Some(index) => self.fold_key(key, index as u32 + 1, None),
            None => key.clone(),
        }
    }

    /// The key in force (that of the leaf `here`, unless a seed was set since) for a leaf that an expression about all leaves comes to.
    pub(super) fn key_within(&mut self, key: Option<&Array>, leaf: usize) -> Option<Array> {
        let key = key?;
        let ours = self.opt_run().body.key.as_ref().is_some_and(|k| k.node == key.node);
        if ours { self.leaf_key(Some(leaf)) } else { Some(self.entered(key, leaf)) }
    }

    /// Evaluates an argument of the optimizer: what it draws is the same for all leaves and depends on the parameter's name, not on where the argument is written.
    pub(super) fn drawn_by_name<T>(&mut self, label: &str, param: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let key = self.stage_key(label);
        let by_text = std::mem::replace(&mut self.by_text, false);
        let counters = self.counters.clone();
        let result = self.isolated(crate::rng::text_hash(param), key, |ev| {
            ev.counters = counters;
            f(ev)
        });
        self.by_text = by_text;
        result
    }

    pub(super) fn lock_stmt(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<Vec<Value>> {
        let lifted = std::mem::take(&mut self.opt_run().body.lifted);
        let before = (self.opt_run().inputs.pass == Pass::Eval).then(|| scopes.to_vec());
        self.lift_branches(scopes, active, stmt)?;
        let result = self.lock_stmt_as_it_stands(scopes, active, stmt);
        self.opt_run().body.lifted = lifted;
        // After a step, states and weights are what it left: they are not changed again, in branches and loops neither.
        if let Some(before) = before {
            for name in crate::walk::assigned(std::slice::from_ref(stmt)) {
                for name in [name.to_string(), format!("state {name}")] {
                    for &leaf in active {
                        if let Some(kept) = before[leaf].get(&name) {
                            scopes[leaf].set(&name, kept.value.clone());
                        }
                    }
                }
            }
        }
        result
    }

    /// Branches that step what a wrapper holds, in the middle of an expression (`w <- w + if wide { inner.delta(a) } else { inner.delta(b) }`): they are executed before the
    /// statement, each for its own leaves, and the expression takes what they gave.
    fn lift_branches(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<()> {
        let Some(&first) = active.first() else { return Ok(()) };
        let value = match &stmt.kind {
            StmtKind::Let { value, .. } | StmtKind::Update { value, .. } | StmtKind::Expr(value) if !is_control(value) => value,
            _ => return Ok(()),
        };
        let mut branches: Vec<Expr> = Vec::new();
        crate::walk::expr(value, &mut |e| match &e.kind {
            ExprKind::If { .. } => {
                if self.steps_inner(&scopes[first], e) {
                    branches.push(e.clone());
                }
                false
            }
            ExprKind::Block(_) | ExprKind::Lambda(_) | ExprKind::For(_) | ExprKind::While { .. } => false,
            ExprKind::Comprehension { .. } | ExprKind::Reduction { .. } | ExprKind::With { .. } => false,
            _ => true,
        });
        for e in branches {
            let values = self.lock_expr(scopes, active, &e)?;
            let values = active.iter().copied().zip(values).collect();
            self.opt_run().body.lifted.push(Lifted { id: e.id, span: e.span, values });
        }
        Ok(())
    }

    /// What a branch in the middle of an expression gave for the leaf at hand, if it has been executed before the statement.
    pub(crate) fn lifted_branch(&self, e: &Expr) -> Option<Value> {
        let body = &self.opt.as_ref()?.body;
        let found = body.lifted.iter().find(|l| l.id == e.id && l.span == e.span)?;
        let leaf = body.leaf.or(body.active.first().copied())?;
        found.values.iter().find(|(l, _)| *l == leaf).map(|(_, v)| v.clone())
    }

    fn lock_stmt_as_it_stands(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<Vec<Value>> {
        let nothing = || vec![Value::None; active.len()];
        let Some(&first) = active.first() else { return Ok(Vec::new()) };
        self.begin_statement(scopes, active);
        let pass = self.opt_run().inputs.pass;
        match &stmt.kind {
            StmtKind::State { shared, name, ty, init } => {
                if *shared {
                    self.shared_value(&name.text, init)?;
                }
                // Initial values are taken before the first step: they see the incoming parameters and gradients, of all leaves.
                let mut incoming = scopes.to_vec();
                for &leaf in active {
                    let of = self.opt_run().instance.leaves[leaf].leaf.clone();
                    let compute = compute_type(of.w.dtype);
                    let (w, g) = (self.cast_array(&of.w, compute), self.cast_array(&of.g, compute));
                    incoming[leaf].push();
                    incoming[leaf].bind("w", Value::Array(w), LetKind::Let, name.span);
                    incoming[leaf].bind("g", Value::Array(g), LetKind::Let, name.span);
                }
                self.begin_statement(&incoming, active);
                for &leaf in if *shared { &active[..1] } else { active } {
                    self.declare_state(scopes, active, (leaf, &incoming[leaf]), *shared, name, ty.as_ref(), init)?;
                }
                Ok(nothing())
            }
            StmtKind::Let { shared: true, pattern, value, kind, .. } => {
                let name = if let optc_front::ast::PatternKind::Name(n) = &pattern.kind { n.clone() } else { Arc::from("this") };
                self.shared_value(&name, value)?;
                self.enter_leaf(None);
                let value = self.expr(&mut scopes[first], value)?;
                for &leaf in active {
                    self.bind_pattern(&mut scopes[leaf], pattern, value.clone(), *kind)?;
                }
                if let optc_front::ast::PatternKind::Name(n) = &pattern.kind {
                    self.opt_run().body.shared.push(n.clone());
                }
                self.note_own(pattern, false);
                Ok(nothing())
            }
            StmtKind::Expr(e) if self.is_joint_loop(&scopes[first], e) && !self.checking() => {
                self.lock_loop(scopes, active, e)?;
                Ok(nothing())
            }
            StmtKind::Expr(e) if self.step_of_inner(scopes, active, e)? => Ok(nothing()),
            StmtKind::Break(_) | StmtKind::Continue(_) => {
                self.lock_leave(scopes, active, stmt)?;
                Ok(nothing())
            }
            StmtKind::Let { shared: false, pattern, value, kind, ty: None } if is_control(value) => {
                let values = self.lock_expr(scopes, active, value)?;
                for (&leaf, value) in active.iter().zip(values) {
                    self.bind_pattern(&mut scopes[leaf], pattern, value, *kind)?;
                }
                self.note_own(pattern, true);
                self.stored(scopes, active, stmt)?;
                Ok(nothing())
            }
            StmtKind::Update { .. } if pass == Pass::Eval => Ok(nothing()),
            StmtKind::Update { target, value } => {
                let root = root_name(target);
                let shared = root.as_ref().is_some_and(|r| self.opt_run().body.shared.contains(r));
                if shared {
                    let name = root.clone().unwrap_or_default();
                    self.shared_value(&name, target)?;
                    self.shared_value(&name, value)?;
                    self.enter_leaf(None);
                    self.stmt(&mut scopes[first], stmt)?;
                    self.round_stored(&mut scopes[first], root.as_deref(), first, stmt.span)?;
                    for name in root.into_iter().flat_map(|r| [r.to_string(), format!("state {r}")]) {
                        if let Some(new) = scopes[first].get(&name).map(|b| b.value.clone()) {
                            active[1..].iter().for_each(|&leaf| {
                                scopes[leaf].set(&name, new.clone());
                            });
                        }
                    }
                    return Ok(nothing());
                }
                if is_control(value) {
                    let values = self.lock_expr(scopes, active, value)?;
                    for (&leaf, value) in active.iter().zip(values) {
                        self.assign(&mut scopes[leaf], target, value, stmt.span)?;
                    }
                } else {
                    for &leaf in active {
                        self.enter_leaf(Some(leaf));
                        self.stmt(&mut scopes[leaf], stmt)?;
                    }
                }
                for &leaf in active {
                    self.round_stored(&mut scopes[leaf], root.as_deref(), leaf, stmt.span)?;
                }
                Ok(nothing())
            }
            StmtKind::Expr(e) if is_control(e) => {
                let values = self.lock_expr(scopes, active, e)?;
                self.stored(scopes, active, stmt)?;
                Ok(values)
            }
            StmtKind::Eval { value, .. } => {
                if pass == Pass::Eval {
                    let mut weights = self.opt_run().outputs.eval.take().unwrap_or_default();
                    if weights.is_empty() {
                        weights = self.opt_run().inputs.leaves.iter().map(|l| l.w.clone()).collect();
                    }
                    for &leaf in active {
                        self.enter_leaf(Some(leaf));
                        let value = self.expr(&mut scopes[leaf], value)?;
                        let at = self.opt_run().instance.leaves[leaf].index;
                        let (dtype, shape) = (weights[at].dtype, weights[at].shape.clone());
                        // Computed as bodies compute, kept as the weights are.
                        let fitted = self.fit(&value, compute_type(dtype), &shape, "eval w", stmt.span)?;
                        weights[at] = self.cast_array(&fitted, dtype);
                    }
                    self.opt_run().outputs.eval = Some(weights);
                } else if self.opt_run().inputs.pass == Pass::Step {
                    // Only its existence matters here.
                    self.opt_run().outputs.eval.get_or_insert_with(Vec::new);
                }
                Ok(nothing())
            }
            StmtKind::Metric { name, value } => {
                if pass == Pass::Step {
                    self.enter_leaf(None);
                    let v = self.expr(&mut scopes[first], value)?;
                    self.record_metric(&name.text, &v, value.span)?;
                }
                Ok(nothing())
            }
            _ => {
                // While checking, a loop about all leaves is looked at like any other.
                let joint = matches!(&stmt.kind, StmtKind::Expr(e) if self.is_joint_loop(&scopes[first], e));
                let outer = self.joint_loop;
                self.joint_loop |= joint;
                let mut values = Vec::with_capacity(active.len());
                for &leaf in active {
                    self.enter_leaf(Some(leaf));
                    values.push(self.stmt(&mut scopes[leaf], stmt));
                }
                self.joint_loop = outer;
                let values = values.into_iter().collect::<Eval<Vec<Value>>>()?;
                self.stored(scopes, active, stmt)?;
                if let StmtKind::Let { pattern, value, .. } = &stmt.kind {
                    let own = self.own_part(value).is_some();
                    self.note_own(pattern, own);
                }
                Ok(values)
            }
        }
    }

    /// What a statement assigned inside it, in branches and loops, is kept like what it assigns itself.
    fn stored(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<()> {
        for name in crate::walk::assigned(std::slice::from_ref(stmt)) {
            for &leaf in active {
                self.round_stored(&mut scopes[leaf], Some(&name), leaf, stmt.span)?;
            }
        }
        Ok(())
    }

    /// `inner.step()`: what the wrapper holds steps on the present weights and gradients of all leaves. Whether the statement is one.
    fn step_of_inner(&mut self, scopes: &mut [Scope], active: &[usize], e: &Expr) -> Eval<bool> {
        let ExprKind::Call { callee, args } = &e.kind else { return Ok(false) };
        let ExprKind::Field(base, method) = &callee.kind else { return Ok(false) };
        let (ExprKind::Name(n), "step", Some(&first)) = (&base.kind, &*method.text, active.first()) else { return Ok(false) };
        let Some(Value::Optimizer(o)) = scopes[first].get(n).map(|b| b.value.clone()) else { return Ok(false) };
        let OptimizerValue::Inner { label, of } = &*o else { return Ok(false) };
        if let Some(arg) = args.first() {
            return self.fail(
                Diagnostic::error(Code("E0332"), arg.value.span, "`inner.step()` takes the present `w` and `g`")
                    .help("assign `g` before, or use `inner.delta(g, w)`, which returns the change"),
            );
        }
        if self.opt_run().inputs.pass == Pass::Eval {
            return Ok(true);
        }
        let (mut leaves, mut weights, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
        for &leaf in active {
            let member = self.opt_run().instance.leaves[leaf].clone();
            let w = self.leaf_array(&scopes[leaf], "w", leaf, e.span)?;
            gradients.push(self.leaf_array(&scopes[leaf], "g", leaf, e.span)?);
            weights.push(self.cast_array(&w, member.leaf.w.dtype));
            leaves.push(member);
        }
        let (new, g) = self.placed(e.span, |ev| ev.run_inner(label, of, leaves, weights, gradients))?;
        for (&leaf, (w, g)) in active.iter().zip(new.into_iter().zip(g)) {
            let compute = compute_type(w.dtype);
            let w = self.cast_array(&w, compute);
            scopes[leaf].set("w", Value::Array(w));
            scopes[leaf].set("g", Value::Array(g));
        }
        Ok(true)
    }

    /// Conditionals and blocks, which may hold states and collectives; all else is evaluated leaf by leaf.
    pub(super) fn lock_expr(&mut self, scopes: &mut [Scope], active: &[usize], e: &Expr) -> Eval<Vec<Value>> {
        match &e.kind {
            ExprKind::Block(block) => self.lock_block(scopes, active, block),
            ExprKind::If { cond, then, otherwise } => {
                self.begin_statement(scopes, active);
                let mut truths = Vec::with_capacity(active.len());
                let (mut run_time, mut decides) = (false, Value::Unknown);
                for &leaf in active {
                    self.enter_leaf(Some(leaf));
                    let value = self.expr(&mut scopes[leaf], cond)?;
                    if let Value::Array(_) = &value {
                        (run_time, decides) = (true, value.clone());
                    }
                    truths.push(match &value {
                        Value::Bool(Some(b)) => Some(*b),
                        _ => None,
                    });
                }
                let sides = [&then.stmts[..], otherwise.as_ref().map_or(&[][..], |b| &b.stmts[..])];
                let run_time = run_time && truths.iter().any(Option::is_none);
                let joint = run_time && sides.iter().any(|s| self.joint(&scopes[active[0]], s));
                if joint {
                    self.shared_condition(cond)?;
                }
                if truths.iter().any(Option::is_none) && self.mode == Mode::Check {
                    // Not known: both sides are checked, and what follows sees the first.
                    let mut other = scopes.to_vec();
                    let outer = self.opt_run().body.conditional;
                    self.opt_run().body.conditional |= run_time;
                    let values = self.lock_block(scopes, active, then);
                    let others = otherwise.as_ref().map(|b| self.lock_block(&mut other, active, b));
                    self.opt_run().body.conditional = outer;
                    let values = values?;
                    let Some(others) = others else { return Ok(values) };
                    let others = others?;
                    return Ok(values.iter().zip(&others).map(|(a, b)| self.join(a, b)).collect());
                }
                if joint {
                    self.truth(&decides, cond.span)?;
                    return self.lock_if(scopes, active, (&decides, cond.span), sides, e.span);
                }
                if truths.iter().any(Option::is_none) {
                    // Decided at run time, for each leaf.
                    let mut values = Vec::with_capacity(active.len());
                    for &leaf in active {
                        self.enter_leaf(Some(leaf));
                        values.push(self.expr(&mut scopes[leaf], e)?);
                    }
                    return Ok(values);
                }
                let side = |want: bool| -> Vec<usize> {
                    active.iter().zip(&truths).filter(|(_, t)| **t == Some(want)).map(|(&leaf, _)| leaf).collect()
                };
                let (yes, no) = (side(true), side(false));
                let mut results: FxHashMap<usize, Value> = FxHashMap::default();
                let parted = !yes.is_empty() && !no.is_empty() && otherwise.is_some() && self.steps_inner(&scopes[active[0]], e);
                let before = parted.then(|| self.opt_run().states.clone());
                if !yes.is_empty() {
                    let values = self.lock_block(scopes, &yes, then)?;
                    results.extend(yes.into_iter().zip(values));
                }
                let after = before.as_ref().map(|before| self.rewind_steps(before));
                if let (false, Some(otherwise)) = (no.is_empty(), otherwise) {
                    let values = self.lock_block(scopes, &no, otherwise)?;
                    results.extend(no.into_iter().zip(values));
                }
                if let (Some(before), Some(after)) = (before, after) {
                    self.join_steps(&before, &after, e.span)?;
                }
                Ok(active.iter().map(|leaf| results.remove(leaf).unwrap_or(Value::None)).collect())
            }
            _ => {
                self.begin_statement(scopes, active);
                let mut values = Vec::with_capacity(active.len());
                for &leaf in active {
                    self.enter_leaf(Some(leaf));
                    values.push(self.expr(&mut scopes[leaf], e)?);
                }
                Ok(values)
            }
        }
    }
}

/// The number draws of a body depend on.
fn stage_number(label: &str) -> u32 {
    match label.parse::<u32>() {
        Ok(n) => 0x0070_0000 + n,
        // FNV-1a, above the numbers of chains.
        Err(_) => label.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193)) | 0x4000_0000,
    }
}
