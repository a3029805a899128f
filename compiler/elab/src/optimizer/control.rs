//! Conditionals and loops over all leaves in lockstep: where a body steps what it holds, asks about all leaves or updates what they share under a condition known at
//! run time only, both sides become graphs in which the variables of all leaves are carried together.

use super::*;
use crate::cond::Part;
use crate::exits::{DONE, LEFT};
use crate::loops::{Body, Passes};
use crate::value::{FnValue, OptimizerValue};
use crate::while_loop::GO;

/// How deep functions are followed in the search for collectives.
const DEEPEST: usize = 6;
/// Loops of at most this many passes are unrolled.
const UNROLL_BELOW: i64 = 4;

/// Statements to be executed in lockstep inside a graph of their own.
#[derive(Clone, Debug)]
pub(crate) struct LockBody<'a> {
    pub stmts: &'a [Stmt],
    /// Scopes of all leaves.
    scopes: Vec<Scope>,
    active: Vec<usize>,
    /// What is carried: variables (a tuple of their values for all leaves), states of what wrappers hold.
    pub names: Vec<Arc<str>>,
    /// The condition of a `while`, asked after the statements.
    cond: Option<&'a Expr>,
}

impl Evaluator<'_> {
    /// Whether statements are about all leaves at once.
    pub(super) fn joint(&mut self, scope: &Scope, stmts: &[Stmt]) -> bool {
        let shared = self.opt_run().body.shared.clone();
        let mut found = false;
        crate::walk::stmts(stmts, &mut |s| {
            found |= match &s.kind {
                StmtKind::Update { target, .. } => root_name(target).is_some_and(|n| shared.contains(&n)),
                StmtKind::Let { shared, .. } => *shared,
                _ => false,
            };
        });
        found || stmts.iter().any(|s| self.holds_collective(scope, &mut |f| crate::walk::stmt(s, f), true, 0))
    }

    fn expr_is_joint(&self, scope: &Scope, e: &Expr) -> bool {
        self.holds_collective(scope, &mut |f| crate::walk::expr(e, f), true, 0)
    }

    /// Whether an expression steps what a wrapper holds.
    pub(super) fn steps_inner(&self, scope: &Scope, e: &Expr) -> bool {
        self.holds_collective(scope, &mut |f| crate::walk::expr(e, f), false, 0)
    }

    /// Whether expressions hold a call about all leaves: any, or (without `any`) only one that steps what a wrapper holds.
    fn holds_collective(&self, scope: &Scope, walk: &mut dyn FnMut(&mut dyn FnMut(&Expr) -> bool), any: bool, depth: usize) -> bool {
        let mut found = false;
        let mut called: Vec<Value> = Vec::new();
        walk(&mut |e| {
            match &e.kind {
                ExprKind::Call { callee, .. } => match &callee.kind {
                    ExprKind::Name(n) if any && scope.get(n).is_none() && collectives::OF_LOSS.contains(&&**n) => found = true,
                    ExprKind::Field(base, method) => {
                        if let ExprKind::Name(n) = &base.kind {
                            found |= any && &**n == "tree" && collectives::TREE.contains(&&*method.text) && scope.get(n).is_none();
                            found |= matches!(&*method.text, "step" | "delta")
                                && matches!(scope.get(n).map(|b| &b.value), Some(Value::Optimizer(_)));
                        }
                    }
                    _ => {}
                },
                // Functions of the body that are called or passed on.
                ExprKind::Name(n) => called.extend(scope.get(n).map(|b| b.value.clone()).filter(|v| matches!(v, Value::Fn(_)))),
                _ => {}
            }
            !found
        });
        if found || depth > DEEPEST {
            return found;
        }
        called.iter().any(|f| match f {
            Value::Fn(f) => match &**f {
                FnValue::Lambda { lambda, scope } => {
                    self.holds_collective(scope, &mut |f| crate::walk::expr(&lambda.body, f), any, depth + 1)
                }
                _ => false,
            },
            _ => false,
        })
    }

    /// A part of an expression that differs from leaf to leaf, if there is one. What collectives say is the same for all, and shapes are compile-time values.
    pub(super) fn own_part(&mut self, e: &Expr) -> Option<(Arc<str>, Span)> {
        let own = self.opt_run().body.own.clone();
        let mut part = None;
        crate::walk::expr(e, &mut |e| {
            match &e.kind {
                ExprKind::Call { callee, .. } => match &callee.kind {
                    ExprKind::Name(n) if collectives::OF_LOSS[..1].contains(&&**n) || matches!(&**n, "ndim" | "shape" | "size") => {
                        return false;
                    }
                    ExprKind::Field(base, method)
                        if matches!(&base.kind, ExprKind::Name(n) if &**n == "tree") && collectives::TREE.contains(&&*method.text) =>
                    {
                        return false;
                    }
                    _ => {}
                },
                ExprKind::Name(n) if own.contains(n) => {
                    part.get_or_insert((n.clone(), e.span));
                }
                _ => {}
            }
            part.is_none()
        });
        part
    }

    /// Notes whether a variable that is bound now differs from leaf to leaf.
    pub(super) fn note_own(&mut self, pattern: &optc_front::ast::Pattern, own: bool) {
        let mut names = Vec::new();
        names.extend(crate::lets::names_of(pattern));
        let body = &mut self.opt_run().body;
        for name in names {
            body.own.retain(|n| *n != name);
            if own {
                body.own.push(name);
            }
        }
    }

    /// A condition that decides for all leaves is the same for all.
    pub(super) fn shared_condition(&mut self, cond: &Expr) -> Eval<()> {
        match self.own_part(cond) {
            None => Ok(()),
            Some((name, at)) => self.fail(
                Diagnostic::error(
                    Code("E0542"),
                    cond.span,
                    "this condition may differ from leaf to leaf, but what it decides is done for all leaves at once",
                )
                .label(at, format!("`{name}` belongs to one leaf"))
                .help("decide by what all leaves share: `t`, `loss`, `tree.norm(g)`, a `shared` variable"),
            ),
        }
    }

    /// What is one value for all leaves is computed from what is the same for all.
    pub(super) fn shared_value(&mut self, name: &str, e: &Expr) -> Eval<()> {
        match self.own_part(e) {
            None => Ok(()),
            Some((own, at)) => self.fail(
                Diagnostic::error(
                    Code("E0542"),
                    e.span,
                    format!("`{name}` is one value for all leaves, but this differs from leaf to leaf"),
                )
                .label(at, format!("`{own}` belongs to one leaf"))
                .help("combine the leaves: `tree.sum(sum(x))`, `tree.norm(x)`, `tree.dot(a, b)`; without `shared` each leaf has its own"),
            ),
        }
    }

    /// The variables and states that statements may change, of the scope of one leaf.
    fn carried_names(&mut self, scope: &Scope, stmts: &[&[Stmt]]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for stmts in stmts {
            names.extend(crate::walk::assigned(stmts));
            if crate::walk::exits(stmts).any() {
                names.extend([LEFT, DONE].map(Arc::from));
            }
        }
        let mut held: Vec<Arc<str>> = Vec::new();
        for name in scope.names() {
            if let Some(Value::Optimizer(o)) = scope.get(name).map(|b| &b.value)
                && let OptimizerValue::Inner { label, .. } = &**o
                && !held.contains(label)
            {
                held.push(label.clone());
            }
        }
        // A step may hide in a function of the body.
        if !held.is_empty() {
            names.extend(["w", "g"].map(Arc::from));
        }
        let hidden: Vec<Arc<str>> = names.iter().map(|n| Arc::from(format!("state {n}"))).collect();
        names.extend(hidden);
        let mut out: Vec<Arc<str>> = Vec::new();
        for name in names {
            if scope.get(&name).is_some() && !out.contains(&name) {
                out.push(name);
            }
        }
        let states = self.opt_run().states.keys().filter(|k| held.iter().any(|l| k.starts_with(&format!("optimizer.{l}.")))).cloned();
        out.extend(states.map(Arc::from));
        out
    }

    fn pack(&mut self, packed: &mut Scope, names: &[Arc<str>], scopes: &[Scope], active: &[usize]) {
        for name in names {
            let value = match self.opt_run().states.get(&**name) {
                Some(state) => Value::Array(state.clone()),
                None => {
                    let of = |leaf: &usize| scopes[*leaf].get(name).map_or(Value::Unknown, |b| b.value.clone());
                    // What all share is carried once.
                    if matches!(&**name, LEFT | DONE)
                        || self.opt_run().body.shared.iter().any(|s| s == name || name.strip_prefix("state ") == Some(s))
                    {
                        active.first().map_or(Value::Unknown, of)
                    } else {
                        Value::Tuple(Rc::new(active.iter().map(of).collect()))
                    }
                }
            };
            if !packed.set(name, value.clone()) {
                packed.bind(name.clone(), value, LetKind::Var, Span::default());
            }
        }
    }

    fn unpack(&mut self, packed: &Scope, names: &[Arc<str>], scopes: &mut [Scope], active: &[usize]) {
        for name in names {
            let Some(value) = packed.get(name).map(|b| b.value.clone()) else { continue };
            if let Some(state) = self.opt_run().states.get_mut(&**name) {
                if let Value::Array(a) = value {
                    *state = a;
                }
                continue;
            }
            let shared = matches!(&**name, LEFT | DONE)
                || self.opt_run().body.shared.iter().any(|s| s == name || name.strip_prefix("state ") == Some(s));
            for (k, &leaf) in active.iter().enumerate() {
                let own = match &value {
                    Value::Tuple(values) if !shared => values.get(k).cloned().unwrap_or(Value::Unknown),
                    other => other.clone(),
                };
                scopes[leaf].set(name, own);
            }
        }
    }

    /// Executes statements in lockstep in the graph on top; `packed` holds what they start from, and then what they leave.
    pub(crate) fn locked(
        &mut self,
        packed: &mut Scope,
        body: &LockBody<'_>,
        bind: &mut dyn FnMut(&mut Self, &mut Scope) -> Eval<()>,
    ) -> Eval {
        let mut scopes = body.scopes.clone();
        let states = self.opt_run().states.clone();
        let outer = self.opt_run().body.clone();
        self.opt_run().body.conditional = true;
        self.unpack(packed, &body.names, &mut scopes, &body.active);
        let mut values = Vec::new();
        for &leaf in &body.active {
            scopes[leaf].push();
            bind(self, &mut scopes[leaf])?;
        }
        let mut result = self.lock_stmts(&mut scopes, &body.active, body.stmts);
        if let Ok(v) = &result {
            values = v.clone();
        }
        if let (Some(cond), Ok(_)) = (body.cond, &result) {
            self.begin_statement(&scopes, &body.active);
            self.enter_leaf(None);
            match self.goes_on(&mut scopes[body.active[0]], cond) {
                Ok(go) => {
                    packed.set(GO, go);
                }
                Err(stop) => result = Err(stop),
            }
        }
        for &leaf in &body.active {
            scopes[leaf].pop();
        }
        self.pack(packed, &body.names, &scopes, &body.active);
        let run = self.opt_run();
        let stage_states = std::mem::take(&mut run.body.stage_states);
        run.states = states;
        run.body = BodyRun { stage_states, ..outer };
        result?;
        Ok(Value::Tuple(Rc::new(values)))
    }

    /// A conditional known at run time only, for all leaves.
    pub(super) fn lock_if(
        &mut self,
        scopes: &mut [Scope],
        active: &[usize],
        cond: (&Value, Span),
        sides: [&[Stmt]; 2],
        span: Span,
    ) -> Eval<Vec<Value>> {
        if self.opt_run().inputs.pass != Pass::Step {
            // Values do not matter: both sides show the states they hold.
            let outer = std::mem::replace(&mut self.opt_run().body.conditional, true);
            let mut other = scopes.to_vec();
            let values = self.lock_nested(scopes, active, sides[0]);
            let others = self.lock_nested(&mut other, active, sides[1]);
            self.opt_run().body.conditional = outer;
            others?;
            return values;
        }
        let names = self.carried_names(&scopes[active[0]], &sides);
        let mut packed = Scope::new(ModuleId(0));
        self.pack(&mut packed, &names, scopes, active);
        let bodies =
            sides.map(|stmts| LockBody { stmts, scopes: scopes.to_vec(), active: active.to_vec(), names: names.clone(), cond: None });
        let value = self.run_time_if(&mut packed, cond.0, cond.1, [Part::Lock(&bodies[0]), Part::Lock(&bodies[1])], span)?;
        self.unpack(&packed, &names, scopes, active);
        Ok(match value {
            Value::Tuple(values) if values.len() == active.len() => values.to_vec(),
            _ => vec![Value::None; active.len()],
        })
    }

    fn lock_nested(&mut self, scopes: &mut [Scope], active: &[usize], stmts: &[Stmt]) -> Eval<Vec<Value>> {
        active.iter().for_each(|&leaf| scopes[leaf].push());
        let values = self.lock_stmts(scopes, active, stmts);
        active.iter().for_each(|&leaf| scopes[leaf].pop());
        values
    }

    /// A loop for all leaves.
    pub(super) fn lock_loop(&mut self, scopes: &mut [Scope], active: &[usize], e: &Expr) -> Eval<()> {
        let (over, block) = match &e.kind {
            ExprKind::For(l) => (&l.iter, &l.body),
            ExprKind::While { cond, body, .. } => (&**cond, body),
            _ => panic!("compiler bug: no loop"),
        };
        if let Some(s) = block.stmts.iter().find(|s| matches!(s.kind, StmtKind::Yield(_))) {
            return self.fail(
                Diagnostic::error(Code("E0710"), s.span, "a loop about all leaves cannot stack what it yields")
                    .help("write into a variable: `shared var xs = zeros([10])`, `xs[i] <- x`"),
            );
        }
        self.shared_condition(over)?;
        self.begin_statement(scopes, active);
        self.enter_leaf(None);
        let (passes, pattern, enumerate, cond) = match &e.kind {
            ExprKind::For(l) => {
                let iter = self.expr(&mut scopes[active[0]], &l.iter)?;
                (self.passes(iter, l.iter.span)?, Some(&l.pattern), l.enumerate, None)
            }
            ExprKind::While { cond, at_most, .. } => {
                let most = match at_most {
                    Some(n) => self.most_passes(&mut scopes[active[0]], n)?,
                    None => None,
                };
                (Passes::While { most }, None, false, Some(&**cond))
            }
            _ => unreachable!("checked above"),
        };
        let exits = crate::walk::exits(&block.stmts);
        for &leaf in active {
            scopes[leaf].push();
            if exits.any() {
                scopes[leaf].bind(DONE, Value::Bool(Some(false)), LetKind::Var, Span::default());
                scopes[leaf].bind(LEFT, Value::Bool(Some(false)), LetKind::Var, Span::default());
            }
        }
        let outer = std::mem::replace(&mut self.exits, exits);
        self.yields.push(Vec::new());
        let body = Body { pattern, enumerate, cond, block, span: e.span, lock: None };
        let result = self.lock_passes(scopes, active, &body, passes, over.span);
        self.yields.pop();
        self.exits = outer;
        active.iter().for_each(|&leaf| scopes[leaf].pop());
        result
    }

    fn lock_passes(&mut self, scopes: &mut [Scope], active: &[usize], body: &Body<'_>, passes: Passes, over: Span) -> Eval<()> {
        let items = match &passes {
            Passes::Items(items) => Some(items.clone()),
            Passes::Count { start, trip, reverse } => {
                let (Some(from), Some(n)) = (start.known(), trip.known()) else {
                    return self.error("E0344", over, "the bounds of this loop are not known at compile time");
                };
                let ids = from..from + n.max(0);
                let some = || -> Vec<Value> {
                    if *reverse { ids.rev().map(|i| Value::Int(i.into())).collect() } else { ids.map(|i| Value::Int(i.into())).collect() }
                };
                (n < UNROLL_BELOW).then(some)
            }
            Passes::Unknown => return Ok(()),
            Passes::Rows(_) | Passes::Bounds { .. } | Passes::While { .. } => None,
        };
        let steps = self.opt_run().inputs.pass == Pass::Step;
        if let Some(items) = items {
            for (i, item) in items.into_iter().enumerate() {
                self.counters.push(Value::Int(i.into()));
                let result = self.lock_pass(scopes, active, body, item, Value::Int(i.into()));
                self.counters.pop();
                result?;
                if self.loop_is_over(&scopes[active[0]]) {
                    break;
                }
            }
            return Ok(());
        }
        if !steps {
            // Values do not matter: one pass shows the states.
            let item = match passes {
                Passes::Rows(a) => self.index(&Value::Array(a), vec![optc_ops::Ix::At(optc_ops::Val::Int(0i64.into()), over)], over)?,
                Passes::Bounds { start, .. } => Value::Array(Array { weak: true, ..start }),
                Passes::Count { start, .. } => Value::Int(start),
                _ => Value::Unknown,
            };
            let outer = std::mem::replace(&mut self.opt_run().body.conditional, true);
            let result = self.lock_pass(scopes, active, body, item, Value::Int(0i64.into()));
            self.opt_run().body.conditional = outer;
            return result;
        }
        let names = self.carried_names(&scopes[active[0]], &[&body.block.stmts]);
        let mut packed = Scope::new(ModuleId(0));
        self.pack(&mut packed, &names, scopes, active);
        let lock =
            LockBody { stmts: &body.block.stmts, scopes: scopes.to_vec(), active: active.to_vec(), names: names.clone(), cond: body.cond };
        if let Some(cond) = body.cond {
            self.begin_statement(scopes, active);
            self.enter_leaf(None);
            let go = self.expr(&mut scopes[active[0]], cond)?;
            self.truth(&go, cond.span)?;
            packed.bind(GO, go, LetKind::Var, cond.span);
        }
        let body = Body { lock: Some(&lock), ..*body };
        self.looped(&mut packed, &body, &passes)?;
        self.unpack(&packed, &names, scopes, active);
        Ok(())
    }

    /// One pass of an unrolled loop.
    fn lock_pass(&mut self, scopes: &mut [Scope], active: &[usize], body: &Body<'_>, item: Value, position: Value) -> Eval<()> {
        for &leaf in active {
            scopes[leaf].push();
            self.bind_element(&mut scopes[leaf], body, item.clone(), position.clone())?;
            scopes[leaf].set(LEFT, Value::Bool(Some(false)));
        }
        let done = scopes[active[0]].get(DONE).map_or(Value::Bool(Some(false)), |b| b.value.clone());
        match &done {
            Value::Array(_) => {
                self.lock_if(scopes, active, (&done, body.span), [&[], &body.block.stmts], body.span)?;
            }
            _ => {
                self.lock_stmts(scopes, active, &body.block.stmts)?;
            }
        }
        active.iter().for_each(|&leaf| scopes[leaf].pop());
        Ok(())
    }

    /// One pass of a loop that is one operation.
    pub(crate) fn locked_pass(&mut self, packed: &mut Scope, body: &Body<'_>, lock: &LockBody<'_>, item: Value, position: Value) -> Eval {
        let mut bind = |ev: &mut Self, scope: &mut Scope| ev.bind_element(scope, body, item.clone(), position.clone());
        // A `while` has no pass after a `break`.
        if !self.exits.any() || body.cond.is_some() {
            return self.locked(packed, lock, &mut bind);
        }
        packed.set(LEFT, Value::Bool(Some(false)));
        let done = packed.get(DONE).map_or(Value::Bool(Some(false)), |b| b.value.clone());
        let cond = match done {
            Value::Bool(Some(true)) => return Ok(Value::None),
            Value::Array(_) => done,
            _ => return self.locked(packed, lock, &mut bind),
        };
        // The element is bound in the branch, so that all leaves have it.
        let mut scopes = lock.scopes.clone();
        for &leaf in &lock.active {
            scopes[leaf].push();
            bind(self, &mut scopes[leaf])?;
        }
        let rest = LockBody { scopes: scopes.clone(), ..lock.clone() };
        let nothing = LockBody { stmts: &[], scopes, ..lock.clone() };
        self.run_time_if(packed, &cond, body.span, [Part::Lock(&nothing), Part::Lock(&rest)], body.span)
    }

    /// `break if c` and the like in a loop about all leaves.
    pub(super) fn lock_leave(&mut self, scopes: &mut [Scope], active: &[usize], stmt: &Stmt) -> Eval<()> {
        if let StmtKind::Break(Some(c)) | StmtKind::Continue(Some(c)) = &stmt.kind {
            self.shared_condition(c)?;
        }
        self.enter_leaf(None);
        self.stmt(&mut scopes[active[0]], stmt)?;
        for name in [LEFT, DONE] {
            if let Some(value) = scopes[active[0]].get(name).map(|b| b.value.clone()) {
                active[1..].iter().for_each(|&leaf| {
                    scopes[leaf].set(name, value.clone());
                });
            }
        }
        Ok(())
    }

    /// Whether a statement's expression is a loop or conditional about all leaves.
    pub(super) fn is_joint_loop(&mut self, scope: &Scope, e: &Expr) -> bool {
        match &e.kind {
            ExprKind::For(l) => self.joint(scope, &l.body.stmts) || self.expr_is_joint(scope, &l.iter),
            ExprKind::While { cond, body, .. } => self.joint(scope, &body.stmts) || self.expr_is_joint(scope, cond),
            _ => false,
        }
    }
}
