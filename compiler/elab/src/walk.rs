//! Walks over the syntax tree: all expressions in textual order, and the variables a block assigns.

use crate::exits::Exits;
use optc_base::Span;
use optc_front::ast::{Block, Expr, ExprKind, GroupKey, IndexItem, Stmt, StmtKind, StrPart};
use std::sync::Arc;

/// Calls `f` on the expression and, if it returns true, on all parts of it, in textual order.
pub fn expr(e: &Expr, f: &mut dyn FnMut(&Expr) -> bool) {
    // Along chains of operators, which are as deep as they are long, without recursion.
    let mut rights: Vec<&Expr> = Vec::new();
    let mut at = e;
    while let ExprKind::Binary(_, a, b) | ExprKind::Pipe(a, b) | ExprKind::Range(a, b) = &at.kind {
        if !f(at) {
            break;
        }
        rights.push(b);
        at = a;
    }
    if !matches!(at.kind, ExprKind::Binary(..) | ExprKind::Pipe(..) | ExprKind::Range(..)) {
        parts(at, f);
    }
    while let Some(right) = rights.pop() {
        expr(right, f);
    }
}

/// [`expr`] on an expression that is no chain of operators.
fn parts(e: &Expr, f: &mut dyn FnMut(&Expr) -> bool) {
    if !f(e) {
        return;
    }
    match &e.kind {
        ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Quantity(..)
        | ExprKind::Bool(_)
        | ExprKind::None
        | ExprKind::Name(_)
        | ExprKind::DType(_)
        | ExprKind::Error => {}
        ExprKind::Str(parts) => {
            for part in parts {
                if let StrPart::Expr(e, _) = part {
                    expr(e, f);
                }
            }
        }
        ExprKind::Tuple(items) | ExprKind::List(items) => items.iter().for_each(|e| expr(e, f)),
        ExprKind::Comprehension { element, clauses } => {
            for clause in clauses {
                expr(&clause.iter, f);
                if let Some(c) = &clause.cond {
                    expr(c, f);
                }
            }
            expr(element, f);
        }
        ExprKind::Record(fields) => fields.iter().for_each(|(_, e)| expr(e, f)),
        ExprKind::Groups(groups) => {
            for (key, e) in groups {
                group_key(key, f);
                expr(e, f);
            }
        }
        ExprKind::Block(b) | ExprKind::Time(b) => block(b, f),
        ExprKind::Lambda(l) => expr(&l.body, f),
        ExprKind::Unary(_, a) | ExprKind::Field(a, _) | ExprKind::Cast(a, _) | ExprKind::NameCall(a, _) => expr(a, f),
        ExprKind::Binary(..) | ExprKind::Pipe(..) | ExprKind::Range(..) => {}
        ExprKind::Call { callee, args } => {
            expr(callee, f);
            args.iter().for_each(|a| expr(&a.value, f));
        }
        ExprKind::Index { base, items } => {
            expr(base, f);
            for item in items {
                match item {
                    IndexItem::At(e) => expr(e, f),
                    IndexItem::Slice { start, stop, step, .. } => [start, stop, step].into_iter().flatten().for_each(|e| expr(e, f)),
                    IndexItem::Ellipsis(_) | IndexItem::NewAxis(_) => {}
                }
            }
        }
        ExprKind::Reduction { indices, body, .. } => {
            indices.iter().filter_map(|i| i.extent.as_ref()).for_each(|e| expr(e, f));
            expr(body, f);
        }
        ExprKind::If { cond, then, otherwise } => {
            expr(cond, f);
            block(then, f);
            if let Some(b) = otherwise {
                block(b, f);
            }
        }
        ExprKind::For(l) => {
            expr(&l.iter, f);
            block(&l.body, f);
        }
        ExprKind::While { cond, at_most, body } => {
            expr(cond, f);
            if let Some(e) = at_most {
                expr(e, f);
            }
            block(body, f);
        }
        ExprKind::With { settings, body } => {
            settings.iter().for_each(|(_, e)| expr(e, f));
            block(body, f);
        }
        ExprKind::Run { target, overrides } => {
            expr(target, f);
            if let Some(e) = overrides {
                expr(e, f);
            }
        }
    }
}

fn group_key(key: &GroupKey, f: &mut dyn FnMut(&Expr) -> bool) {
    match key {
        GroupKey::Any | GroupKey::Patterns(_) => {}
        GroupKey::Compare(_, _, e) => expr(e, f),
        GroupKey::And(a, b) => {
            group_key(a, f);
            group_key(b, f);
        }
    }
}

/// [`expr`] on all expressions of a block.
pub fn block(b: &Block, f: &mut dyn FnMut(&Expr) -> bool) {
    b.stmts.iter().for_each(|s| stmt(s, f));
}

/// [`expr`] on all expressions of a statement.
pub fn stmt(s: &Stmt, f: &mut dyn FnMut(&Expr) -> bool) {
    match &s.kind {
        StmtKind::Let { value, .. }
        | StmtKind::LetIndexed { value, .. }
        | StmtKind::SharedLayer { value, .. }
        | StmtKind::Eval { value, .. }
        | StmtKind::Metric { value, .. } => expr(value, f),
        StmtKind::Update { target, value } => {
            expr(target, f);
            expr(value, f);
        }
        StmtKind::Param { init, .. } | StmtKind::Buffer { init, .. } | StmtKind::State { init, .. } => expr(init, f),
        StmtKind::Yield(e) | StmtKind::Expr(e) => expr(e, f),
        StmtKind::Break(c) | StmtKind::Continue(c) => {
            if let Some(e) = c {
                expr(e, f);
            }
        }
        StmtKind::Output { values, options, .. } => {
            values.iter().for_each(|e| expr(e, f));
            options.iter().for_each(|(_, e)| expr(e, f));
        }
        StmtKind::Check { parts, claim } => {
            for part in parts {
                expr(&part.cond, f);
                if let Some((bound, _)) = &part.within {
                    expr(bound, f);
                }
            }
            claim.iter().for_each(|e| expr(e, f));
        }
        StmtKind::Sweep { domain, body, .. } => {
            expr(domain, f);
            block(body, f);
        }
        StmtKind::Error => {}
    }
}

/// Calls `f` on every statement of a body, also in nested blocks (not in lambdas, which run elsewhere).
pub fn stmts(body: &[Stmt], f: &mut dyn FnMut(&Stmt)) {
    for s in body {
        f(s);
        if let StmtKind::Sweep { body, .. } = &s.kind {
            stmts(&body.stmts, f);
        }
        nested_blocks(s, &mut |b| stmts(&b.stmts, f));
    }
}

/// Calls `f` on the blocks directly inside a statement.
fn nested_blocks(s: &Stmt, f: &mut dyn FnMut(&Block)) {
    stmt(s, &mut |e| match &e.kind {
        ExprKind::Lambda(_) => false,
        ExprKind::Block(b) | ExprKind::Time(b) => {
            f(b);
            false
        }
        ExprKind::If { then, otherwise, .. } => {
            f(then);
            if let Some(b) = otherwise {
                f(b);
            }
            false
        }
        ExprKind::For(l) => {
            f(&l.body);
            false
        }
        ExprKind::While { body, .. } | ExprKind::With { body, .. } => {
            f(body);
            false
        }
        _ => true,
    });
}

/// The variable an update goes to.
pub fn root(target: &Expr) -> Option<Arc<str>> {
    match &target.kind {
        ExprKind::Name(n) => Some(n.clone()),
        ExprKind::Field(base, _) | ExprKind::Index { base, .. } => root(base),
        _ => None,
    }
}

/// The first `yield` of the loop whose body these statements are: among them or in branches, not in loops inside.
pub fn first_yield(body: &[Stmt]) -> Option<Span> {
    let mut found = None;
    for s in body {
        match &s.kind {
            StmtKind::Yield(_) => return found.or(Some(s.span)),
            StmtKind::Sweep { .. } => {}
            _ => stmt(s, &mut |e| match &e.kind {
                ExprKind::Lambda(_) | ExprKind::For(_) | ExprKind::While { .. } => false,
                ExprKind::Block(b) | ExprKind::Time(b) | ExprKind::With { body: b, .. } => {
                    found = found.or_else(|| first_yield(&b.stmts));
                    false
                }
                ExprKind::If { then, otherwise, .. } => {
                    found = found.or_else(|| first_yield(&then.stmts));
                    found = found.or_else(|| first_yield(&otherwise.as_ref()?.stmts));
                    false
                }
                _ => true,
            }),
        }
    }
    found
}

/// How statements leave the loop whose body they are: by a `break` or `continue` among them or in branches, not in loops inside.
pub fn exits(body: &[Stmt]) -> Exits {
    let mut out = Exits::default();
    for s in body {
        match &s.kind {
            StmtKind::Break(_) => out.breaks = true,
            StmtKind::Continue(_) => out.continues = true,
            StmtKind::Sweep { .. } => {}
            _ => stmt(s, &mut |e| match &e.kind {
                ExprKind::Lambda(_) | ExprKind::For(_) | ExprKind::While { .. } => false,
                ExprKind::Block(b) | ExprKind::Time(b) | ExprKind::With { body: b, .. } => {
                    out.add(exits(&b.stmts));
                    false
                }
                ExprKind::If { then, otherwise, .. } => {
                    out.add(exits(&then.stmts));
                    out.add(otherwise.as_ref().map_or(Exits::default(), |b| exits(&b.stmts)));
                    false
                }
                _ => true,
            }),
        }
    }
    out
}

/// Names of the variables that a body changes, by updates or by letting lists grow and shrink, each once, in order (those declared inside too).
pub fn assigned(body: &[Stmt]) -> Vec<Arc<str>> {
    let mut out = updated(body);
    for s in body {
        stmt(s, &mut |e| {
            if let ExprKind::Call { callee, .. } = &e.kind
                && let ExprKind::Field(list, method) = &callee.kind
                && matches!(&*method.text, "push" | "pop")
                && let Some(name) = root(list)
                && !out.contains(&name)
            {
                out.push(name);
            }
            true
        });
    }
    out
}

/// Names of the variables that updates go to, each once, in order (those declared inside too).
pub fn updated(body: &[Stmt]) -> Vec<Arc<str>> {
    let mut out: Vec<Arc<str>> = Vec::new();
    let mut add = |target: &Expr| {
        if let Some(name) = root(target)
            && !out.contains(&name)
        {
            out.push(name);
        }
    };
    stmts(body, &mut |s| {
        if let StmtKind::Update { target, .. } = &s.kind {
            match &target.kind {
                ExprKind::Tuple(items) => items.iter().for_each(&mut add),
                _ => add(target),
            }
        }
    });
    out
}

/// Whether any statement or expression of a block satisfies a test.
pub fn any(b: &Block, on_stmt: &dyn Fn(&Stmt) -> bool, on_expr: &dyn Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    stmts(&b.stmts, &mut |s| found |= on_stmt(s));
    block(b, &mut |e| {
        found |= on_expr(e);
        !found
    });
    found
}
