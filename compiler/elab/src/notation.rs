//! Index notation: `let y[i, j] = …` and `sum[k] …` from syntax to expressions over indices.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::{FnValue, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BinaryOp, Block, Expr, ExprKind, IndexItem, IndexVar, LetKind, Name, PatternKind, StmtKind, UnaryOp};
use optc_ops::{IxExpr, IxId, IxKind, IxLeft, IxVar};
use std::sync::Arc;

/// Most operators that nest to the left between elements: index notation is compiled as one expression.
const LONGEST_CHAIN: usize = 2000;

/// What a name stands for within index notation.
#[derive(Clone, Debug)]
enum Bound {
    /// An index.
    Index(IxId),
    /// A value that depends on indices: a `let` in the body, a parameter of a function written out here.
    Expr(IxExpr),
}

/// The names of an expression over indices, innermost last.
struct Names {
    names: Vec<(Arc<str>, Bound)>,
    next: u32,
    depth: usize,
    /// Operators around the expression at hand that nest to the left.
    chained: usize,
}

impl Names {
    fn get(&self, name: &str) -> Option<&Bound> {
        self.names.iter().rev().find(|(n, _)| &**n == name).map(|(_, b)| b)
    }
}

/// The name operations know an operator by.
fn op_name(op: BinaryOp) -> Option<&'static str> {
    Some(match op {
        BinaryOp::Add => "add",
        BinaryOp::Sub => "sub",
        BinaryOp::Mul => "mul",
        BinaryOp::Div => "div",
        BinaryOp::FloorDiv => "floor_div",
        BinaryOp::Rem => "rem",
        BinaryOp::Pow => "pow",
        BinaryOp::Eq => "eq",
        BinaryOp::Ne => "ne",
        BinaryOp::Lt => "lt",
        BinaryOp::Le => "le",
        BinaryOp::Gt => "gt",
        BinaryOp::Ge => "ge",
        BinaryOp::And => "and",
        BinaryOp::Or => "or",
        BinaryOp::BitAnd => "bit_and",
        BinaryOp::BitOr => "bit_or",
        BinaryOp::Xor => "xor",
        BinaryOp::Shl => "shl",
        BinaryOp::Shr => "shr",
        BinaryOp::MatMul | BinaryOp::Near | BinaryOp::Matches => return None,
    })
}

impl Evaluator<'_> {
    /// The array `let name[indices] = value` defines.
    pub(crate) fn indexed(&mut self, scope: &mut Scope, indices: &[IndexVar], value: &Expr, span: Span) -> Eval {
        let mut names = Names { names: Vec::new(), next: 0, depth: 0, chained: 0 };
        let mut left = Vec::new();
        for index in indices {
            if &*index.name.text == "..." {
                left.push(IxLeft::Ellipsis(index.name.span));
            } else {
                left.push(IxLeft::Var(self.index_var(scope, index, &mut names)?));
            }
        }
        let body = self.ix(scope, value, &mut names)?;
        if holds_unknown(&body) {
            return Ok(Value::Unknown);
        }
        self.cx.at(span);
        let result = optc_ops::indexed(&mut self.cx, &left, &body);
        self.lift(result, value.span).map(Value::from_val)
    }
    /// The value of `op[indices] body`.
    pub(crate) fn reduction(&mut self, scope: &mut Scope, op: &Name, indices: &[IndexVar], body: &Expr, span: Span) -> Eval {
        let mut names = Names { names: Vec::new(), next: 0, depth: 0, chained: 0 };
        let e = self.ix_reduction(scope, op, indices, body, span, &mut names)?;
        if holds_unknown(&e) {
            return Ok(Value::Unknown);
        }
        self.cx.at(span);
        let result = optc_ops::reduce_indexed(&mut self.cx, &e);
        self.lift(result, span).map(Value::from_val)
    }
    fn index_var(&mut self, scope: &mut Scope, index: &IndexVar, names: &mut Names) -> Eval<IxVar> {
        let extent = match &index.extent {
            None => None,
            Some(e) => match self.expr(scope, e)? {
                Value::Int(d) => Some(d),
                Value::Unknown => Some(self.cx.fresh_symbol("?")),
                other => {
                    let what = crate::tree::describe(&other);
                    return self.fail(Diagnostic::error(
                        Code("E0344"),
                        e.span,
                        format!("the extent of an index is a compile-time integer, this is {what}"),
                    ));
                }
            },
        };
        let id = IxId(names.next);
        names.next += 1;
        names.names.push((index.name.text.clone(), Bound::Index(id)));
        Ok(IxVar { id, name: index.name.text.clone(), extent, span: index.name.span })
    }
    fn ix_reduction(
        &mut self,
        scope: &mut Scope,
        op: &Name,
        indices: &[IndexVar],
        body: &Expr,
        span: Span,
        names: &mut Names,
    ) -> Eval<IxExpr> {
        let before = names.names.len();
        let mut vars = Vec::new();
        for index in indices {
            if &*index.name.text == "..." {
                return self
                    .fail(Diagnostic::error(Code("E0344"), index.name.span, "a reduction names its indices").help("`sum[k] a[..., k]`"));
            }
            vars.push(self.index_var(scope, index, names)?);
        }
        let body = self.ix(scope, body, names)?;
        names.names.truncate(before);
        Ok(IxExpr { kind: IxKind::Reduce { op: op.text.clone(), indices: vars, body: Box::new(body) }, span })
    }
    /// Whether no name that stands for an index occurs.
    fn index_free(&self, e: &Expr, names: &Names) -> bool {
        let mut free = true;
        crate::walk::expr(e, &mut |e| {
            if let ExprKind::Name(n) = &e.kind
                && names.get(n).is_some()
            {
                free = false;
            }
            free
        });
        free
    }
    fn ix(&mut self, scope: &mut Scope, e: &Expr, names: &mut Names) -> Eval<IxExpr> {
        let span = e.span;
        let make = |kind| IxExpr { kind, span };
        // A reduction stays one expression with what is around it, so that products become matrix products.
        if !matches!(e.kind, ExprKind::Reduction { .. }) && self.index_free(e, names) && !holds_reduction(e) {
            let value = self.expr(scope, e)?;
            return Ok(make(IxKind::Value(self.val_of(&value, span)?)));
        }
        match &e.kind {
            ExprKind::Name(n) => match names.get(n) {
                Some(Bound::Index(id)) => Ok(make(IxKind::Index(*id))),
                Some(Bound::Expr(x)) => Ok(x.clone()),
                None => {
                    let value = self.expr(scope, e)?;
                    Ok(make(IxKind::Value(self.val_of(&value, span)?)))
                }
            },
            ExprKind::Reduction { op, indices, body } => self.ix_reduction(scope, op, indices, body, span, names),
            ExprKind::Unary(op, a) => {
                let a = self.ix(scope, a, names)?;
                let op = match op {
                    UnaryOp::Neg => "neg",
                    UnaryOp::Not => "not",
                    UnaryOp::BitNot => "bit_not",
                };
                Ok(make(IxKind::Apply { op, args: vec![a] }))
            }
            ExprKind::Binary(op, a, b) => {
                let Some(op) = op_name(*op) else {
                    return self.fail(
                        Diagnostic::error(Code("E0352"), span, "this operator works on whole arrays, not on elements")
                            .help("write the sum: `sum[k] a[i, k] * b[k, j]`"),
                    );
                };
                if names.chained == 0 && chain_length(e) > LONGEST_CHAIN {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0104"),
                            span,
                            format!("more than {LONGEST_CHAIN} operators between the elements of one expression"),
                        )
                        .help("give a name to an inner part: `let part[i, j] = …`"),
                    );
                }
                let outer = names.chained;
                names.chained += 1;
                let a = self.ix(scope, a, names);
                names.chained = 0;
                let b = if a.is_ok() { self.ix(scope, b, names) } else { Err(crate::evaluator::Stop::Reported) };
                names.chained = outer;
                let (a, b) = (a?, b?);
                Ok(make(IxKind::Apply { op, args: vec![a, b] }))
            }
            ExprKind::Cast(a, elem) => {
                let a = self.ix(scope, a, names)?;
                match self.elem_type(scope, elem, span)? {
                    Some(d) => Ok(make(IxKind::Cast(Box::new(a), d))),
                    None => Ok(make(IxKind::Value(optc_ops::Val::Unknown))),
                }
            }
            ExprKind::Index { .. } => self.ix_access(scope, e, names),
            ExprKind::If { cond, then, otherwise } => {
                let c = self.ix(scope, cond, names)?;
                if let IxKind::Value(optc_ops::Val::Bool(Some(flag))) = &c.kind {
                    return match (flag, otherwise) {
                        (true, _) => self.ix_block(scope, then, names),
                        (false, Some(b)) => self.ix_block(scope, b, names),
                        (false, None) => self.no_value(span),
                    };
                }
                let Some(b) = otherwise else { return self.no_value(span) };
                let x = self.ix_block(scope, then, names)?;
                let y = self.ix_block(scope, b, names)?;
                Ok(make(IxKind::Apply { op: "where", args: vec![c, x, y] }))
            }
            ExprKind::Block(b) => self.ix_block(scope, b, names),
            ExprKind::Pipe(a, f) => {
                let call = match &f.kind {
                    ExprKind::Call { callee, args } => {
                        let mut all = vec![optc_front::ast::Arg { name: None, value: (**a).clone() }];
                        all.extend(args.iter().cloned());
                        Expr { kind: ExprKind::Call { callee: callee.clone(), args: all }, span, id: e.id }
                    }
                    _ => Expr {
                        kind: ExprKind::Call { callee: f.clone(), args: vec![optc_front::ast::Arg { name: None, value: (**a).clone() }] },
                        span,
                        id: e.id,
                    },
                };
                self.ix(scope, &call, names)
            }
            ExprKind::Call { callee, args } => self.ix_call(scope, e, callee, args, names),
            _ => self.fail(
                Diagnostic::error(Code("E0352"), span, "this expression cannot depend on an index")
                    .help("inside `y[i] = …` stand elements, arithmetic, elementwise functions, `where` and reductions"),
            ),
        }
    }
    fn no_value<T>(&mut self, span: Span) -> Eval<T> {
        self.fail(Diagnostic::error(Code("E0352"), span, "an element needs a value in both branches").help("add `else { … }`"))
    }
    /// A block within index notation: `let`s name expressions, the last expression is the value.
    fn ix_block(&mut self, scope: &mut Scope, b: &Block, names: &mut Names) -> Eval<IxExpr> {
        let before = names.names.len();
        scope.push();
        let mut result = Err(crate::evaluator::Stop::Reported);
        for (k, s) in b.stmts.iter().enumerate() {
            match &s.kind {
                StmtKind::Let { pattern, value, .. } => match &pattern.kind {
                    PatternKind::Name(n) if !self.index_free(value, names) => match self.ix(scope, value, names) {
                        Ok(x) => names.names.push((n.clone(), Bound::Expr(x))),
                        Err(stop) => {
                            result = Err(stop);
                            break;
                        }
                    },
                    _ => {
                        if let Err(stop) = self.stmt(scope, s) {
                            result = Err(stop);
                            break;
                        }
                    }
                },
                StmtKind::Expr(e) if k + 1 == b.stmts.len() => result = self.ix(scope, e, names),
                _ => {
                    result = self.fail(Diagnostic::error(Code("E0352"), s.span, "only `let` may stand before the value of an element"));
                    break;
                }
            }
        }
        if b.stmts.is_empty() {
            result = self.no_value(b.span);
        }
        scope.pop();
        names.names.truncate(before);
        result
    }
    /// `a[i, j + 1, ids[k], ...]`
    fn ix_access(&mut self, scope: &mut Scope, e: &Expr, names: &mut Names) -> Eval<IxExpr> {
        // `a[i][j]` is `a[i, j]`.
        let mut groups: Vec<&[IndexItem]> = Vec::new();
        let mut base = e;
        while let ExprKind::Index { base: inner, items } = &base.kind {
            groups.push(items);
            base = inner;
            if self.index_free(base, names) {
                break;
            }
        }
        groups.reverse();
        let value = if self.index_free(base, names) {
            self.expr(scope, base)?
        } else {
            return self.fail(
                Diagnostic::error(Code("E0352"), base.span, "an array that is indexed may not itself depend on an index")
                    .help("bind it first: `let t[i, j] = …`"),
            );
        };
        let at = base.span;
        let mut base = self.val_of(&value, at)?;
        if matches!(base, optc_ops::Val::List(_) | optc_ops::Val::Range(..)) {
            // Numbers in a list are the array they make.
            self.cx.at(at);
            let made = optc_ops::materialize(&mut self.cx, &base, None);
            base = optc_ops::Val::Array(self.lift(made, at)?);
        }
        let mut subscripts = Vec::new();
        for item in groups.into_iter().flatten() {
            match item {
                IndexItem::At(e) => subscripts.push(Some(self.ix(scope, e, names)?)),
                IndexItem::Ellipsis(_) => subscripts.push(None),
                IndexItem::Slice { span, .. } | IndexItem::NewAxis(span) => {
                    return self.fail(
                        Diagnostic::error(Code("E0352"), *span, "index notation addresses elements, not slices")
                            .help("give the axis an index of its own"),
                    );
                }
            }
        }
        Ok(IxExpr { kind: IxKind::Access { base, subscripts }, span: e.span })
    }
    /// A call whose arguments depend on indices: an elementwise operation, or a function of one expression, which is written out.
    fn ix_call(&mut self, scope: &mut Scope, e: &Expr, callee: &Expr, args: &[optc_front::ast::Arg], names: &mut Names) -> Eval<IxExpr> {
        let span = e.span;
        let (function, first) = match &callee.kind {
            ExprKind::Field(base, method) if self.namespaced(scope, base, method).is_none() && !self.is_module(scope, base) => {
                let f = match self.function_named(scope, &method.text, method.span)? {
                    Some(f) => f,
                    None => return self.unknown_name(scope, &method.text, method.span),
                };
                (f, Some(&**base))
            }
            _ => (self.callee(scope, callee)?, None),
        };
        let mut values = Vec::new();
        if let Some(base) = first {
            values.push((None, self.ix(scope, base, names)?));
        }
        for arg in args {
            values.push((arg.name.clone(), self.ix(scope, &arg.value, names)?));
        }
        let Value::Fn(f) = &function else {
            let what = crate::tree::describe(&function);
            return self.fail(Diagnostic::error(Code("E0352"), callee.span, format!("{what} cannot be called with an index")));
        };
        match &**f {
            FnValue::Builtin(name) => {
                let known = optc_ops::builtin_names().into_iter().find(|n| *n == &**name);
                match known {
                    Some(op) if values.iter().all(|(n, _)| n.is_none()) => {
                        Ok(IxExpr { kind: IxKind::Apply { op, args: values.into_iter().map(|(_, v)| v).collect() }, span })
                    }
                    _ => self.fail(
                        Diagnostic::error(Code("E0352"), span, format!("`{name}` does not work element by element"))
                            .help("compute the whole array first and index it"),
                    ),
                }
            }
            FnValue::Item(item) => {
                let Some(f) = self.fn_item(*item) else { return self.no_value(span) };
                let mut inner = Scope::new(item.module);
                let mut bound = Names { names: Vec::new(), next: names.next, depth: names.depth + 1, chained: 0 };
                if bound.depth > 50 {
                    return self.error("E0350", span, "calls in index notation are nested too deep");
                }
                let mut free = f.params.iter();
                let mut given: Vec<Arc<str>> = Vec::new();
                for (name, value) in values {
                    let param = match &name {
                        Some(n) => f.params.iter().find(|p| p.name.text == n.text),
                        None => free.next(),
                    };
                    let Some(p) = param else {
                        return self.fail(
                            Diagnostic::error(Code("E0332"), span, format!("`{}` has no such parameter", f.name.text))
                                .label(f.name.span, "declared here"),
                        );
                    };
                    given.push(p.name.text.clone());
                    bound.names.push((p.name.text.clone(), Bound::Expr(value)));
                }
                for p in f.params.iter().filter(|p| !given.contains(&p.name.text)) {
                    let Some(default) = &p.default else {
                        return self.fail(
                            Diagnostic::error(Code("E0331"), span, format!("`{}` needs the argument `{}`", f.name.text, p.name.text))
                                .label(p.span, "this parameter has no default"),
                        );
                    };
                    let value = self.expr(&mut inner, default)?;
                    inner.bind(p.name.text.clone(), value, LetKind::Let, p.span);
                }
                let result = self.ix(&mut inner, &f.body, &mut bound);
                names.next = bound.next;
                result
            }
            FnValue::Lambda { lambda, scope: captured } => {
                let mut inner = captured.clone();
                let mut bound = Names { names: Vec::new(), next: names.next, depth: names.depth + 1, chained: 0 };
                for (p, (_, value)) in lambda.params.iter().zip(values) {
                    if let PatternKind::Name(n) = &p.kind {
                        bound.names.push((n.clone(), Bound::Expr(value)));
                    }
                }
                let result = self.ix(&mut inner, &lambda.body, &mut bound);
                names.next = bound.next;
                result
            }
            FnValue::Transformed(_) => self.fail(Diagnostic::error(Code("E0352"), span, "a derivative does not work element by element")),
        }
    }
    fn is_module(&self, scope: &Scope, base: &Expr) -> bool {
        matches!(&base.kind, ExprKind::Name(n) if scope.get(n).is_none()
            && matches!(self.program.lookup(scope.module, n), Some(optc_front::Def::Module(_))))
    }
}

/// How many operators nest to the left.
fn chain_length(e: &Expr) -> usize {
    let mut n = 0;
    let mut e = e;
    while let ExprKind::Binary(_, a, _) = &e.kind {
        n += 1;
        e = a;
    }
    n
}

fn holds_reduction(e: &Expr) -> bool {
    let mut found = false;
    crate::walk::expr(e, &mut |e| {
        found |= matches!(e.kind, ExprKind::Reduction { .. });
        !found
    });
    found
}

fn holds_unknown(e: &IxExpr) -> bool {
    match &e.kind {
        IxKind::Value(v) => matches!(v, optc_ops::Val::Unknown),
        IxKind::Index(_) => false,
        IxKind::Access { base, subscripts } => matches!(base, optc_ops::Val::Unknown) || subscripts.iter().flatten().any(holds_unknown),
        IxKind::Apply { args, .. } => args.iter().any(holds_unknown),
        IxKind::Cast(a, _) => holds_unknown(a),
        IxKind::Reduce { body, .. } => holds_unknown(body),
    }
}
