//! Statements of a body, evaluated for every leaf before the next one begins.

use super::*;

impl Evaluator<'_> {
    pub(super) fn lock_block(&mut self, scopes: &mut [Scope], active: &[usize], block: &Block) -> Eval<Vec<Value>> {
        let mut last = vec![Value::None; active.len()];
        for &leaf in active {
            scopes[leaf].push();
        }
        for (k, stmt) in block.stmts.iter().enumerate() {
            let values = self.lock_stmt(scopes, active, stmt)?;
            if k + 1 == block.stmts.len() {
                last = values;
            }
        }
        for &leaf in active {
            scopes[leaf].pop();
        }
        Ok(last)
    }

    pub(super) fn begin_statement(&mut self, scopes: &[Scope], active: &[usize]) {
        let run = self.opt_run();
        run.snapshot = scopes.to_vec();
        run.active = active.to_vec();
        run.cache.clear();
    }

    /// Sets the key for draws of one leaf, or for what all share. Metrics are recorded for the first leaf only.
    pub(super) fn enter_leaf(&mut self, leaf: Option<usize>) {
        let (key, stage) = {
            let run = self.opt_run();
            (run.inputs.key.clone(), run.stage)
        };
        let first = self.opt_run().active.first().copied();
        self.recorder.muted = leaf.is_some() && leaf != first;
        self.key = key.map(|k| {
            let k = self.fold_key(&k, 0x0070_0000 + stage as u32, None);
            match leaf {
                Some(leaf) => self.fold_key(&k, leaf as u32 + 1, None),
                None => k,
            }
        });
    }

    pub(super) fn lock_stmt(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<Vec<Value>> {
        let nothing = || vec![Value::None; active.len()];
        let Some(&first) = active.first() else { return Ok(Vec::new()) };
        self.begin_statement(scopes, active);
        let pass = self.opt_run().inputs.pass;
        match &stmt.kind {
            StmtKind::State { shared, name, ty, init } => {
                for &leaf in if *shared { &active[..1] } else { active } {
                    self.declare_state(scopes, active, leaf, *shared, name, ty.as_ref(), init)?;
                }
                Ok(nothing())
            }
            StmtKind::Let { shared: true, pattern, value, kind, .. } => {
                self.enter_leaf(None);
                let value = self.expr(&mut scopes[first], value)?;
                for &leaf in active {
                    self.bind_pattern(&mut scopes[leaf], pattern, value.clone(), *kind)?;
                }
                if let optc_front::ast::PatternKind::Name(n) = &pattern.kind {
                    self.opt_run().shared.push(n.clone());
                }
                Ok(nothing())
            }
            StmtKind::Let { shared: false, pattern, value, kind, ty: None } if is_control(value) => {
                let values = self.lock_expr(scopes, active, value)?;
                for (&leaf, value) in active.iter().zip(values) {
                    self.bind_pattern(&mut scopes[leaf], pattern, value, *kind)?;
                }
                Ok(nothing())
            }
            StmtKind::Update { .. } if pass == Pass::Eval => Ok(nothing()),
            StmtKind::Update { target, value } => {
                let root = root_name(target);
                let shared = root.as_ref().is_some_and(|r| self.opt_run().shared.contains(r));
                if shared {
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
            StmtKind::Expr(e) if is_control(e) => self.lock_expr(scopes, active, e),
            StmtKind::Eval { value, .. } => {
                if pass == Pass::Eval {
                    let mut weights = self.opt_run().outputs.eval.take().unwrap_or_default();
                    if weights.is_empty() {
                        weights = self.opt_run().inputs.leaves.iter().map(|l| l.w.clone()).collect();
                    }
                    for &leaf in active {
                        self.enter_leaf(Some(leaf));
                        let value = self.expr(&mut scopes[leaf], value)?;
                        let (dtype, shape) = (weights[leaf].dtype, weights[leaf].shape.clone());
                        weights[leaf] = self.fit(&value, dtype, &shape, "eval w", stmt.span)?;
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
                let mut values = Vec::with_capacity(active.len());
                for &leaf in active {
                    self.enter_leaf(Some(leaf));
                    values.push(self.stmt(&mut scopes[leaf], stmt)?);
                }
                Ok(values)
            }
        }
    }

    /// Conditionals and blocks, which may hold states and collectives; all else is evaluated leaf by leaf.
    pub(super) fn lock_expr(&mut self, scopes: &mut [Scope], active: &[usize], e: &Expr) -> Eval<Vec<Value>> {
        match &e.kind {
            ExprKind::Block(block) => self.lock_block(scopes, active, block),
            ExprKind::If { cond, then, otherwise } => {
                self.begin_statement(scopes, active);
                let mut truths = Vec::with_capacity(active.len());
                for &leaf in active {
                    self.enter_leaf(Some(leaf));
                    let value = self.expr(&mut scopes[leaf], cond)?;
                    truths.push(match &value {
                        Value::Bool(Some(b)) => Some(*b),
                        _ => None,
                    });
                }
                if truths.iter().any(Option::is_none) && self.mode == Mode::Check {
                    // Not known: both sides are checked, and what follows sees the first.
                    let mut other = scopes.to_vec();
                    let values = self.lock_block(scopes, active, then)?;
                    let Some(otherwise) = otherwise else { return Ok(values) };
                    let others = self.lock_block(&mut other, active, otherwise)?;
                    return Ok(values.iter().zip(&others).map(|(a, b)| self.join(a, b)).collect());
                }
                if truths.iter().any(Option::is_none) {
                    // Decided at run time.
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
                if !yes.is_empty() {
                    let values = self.lock_block(scopes, &yes, then)?;
                    results.extend(yes.into_iter().zip(values));
                }
                if let (false, Some(otherwise)) = (no.is_empty(), otherwise) {
                    let values = self.lock_block(scopes, &no, otherwise)?;
                    results.extend(no.into_iter().zip(values));
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
