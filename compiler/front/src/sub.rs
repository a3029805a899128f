//! Boxed parts of expressions. Trees of left-associative operators are as deep as they are long, so these are dropped and copied without recursion along such chains.

use crate::ast::{Expr, ExprId, ExprKind};
use optc_base::Span;
use std::ops::{Deref, DerefMut};

/// An expression that is part of another one.
#[derive(Debug)]
pub struct Sub(Box<Expr>);

impl Sub {
    /// An expression as a part.
    pub fn new(e: Expr) -> Sub {
        Sub(Box::new(e))
    }
    /// The expression itself.
    pub fn into_inner(mut self) -> Expr {
        self.take()
    }
    /// What it is, taken out; an [`ExprKind::Error`] stays behind.
    fn take(&mut self) -> Expr {
        std::mem::replace(&mut *self.0, Expr { kind: ExprKind::Error, span: Span::default(), id: ExprId::default() })
    }
}

impl Deref for Sub {
    type Target = Expr;
    fn deref(&self) -> &Expr {
        &self.0
    }
}

impl DerefMut for Sub {
    fn deref_mut(&mut self) -> &mut Expr {
        &mut self.0
    }
}

impl Expr {
    /// The operand at the left end of an operator, a call, an index, a field or a conversion: what chains of such nest in.
    pub fn left(&self) -> Option<&Expr> {
        match &self.kind {
            ExprKind::Binary(_, a, _)
            | ExprKind::Pipe(a, _)
            | ExprKind::Range(a, _)
            | ExprKind::Field(a, _)
            | ExprKind::Cast(a, _)
            | ExprKind::NameCall(a, _)
            | ExprKind::Call { callee: a, .. }
            | ExprKind::Index { base: a, .. } => Some(a),
            _ => None,
        }
    }
    fn left_mut(&mut self) -> Option<&mut Sub> {
        match &mut self.kind {
            ExprKind::Binary(_, a, _)
            | ExprKind::Pipe(a, _)
            | ExprKind::Range(a, _)
            | ExprKind::Field(a, _)
            | ExprKind::Cast(a, _)
            | ExprKind::NameCall(a, _)
            | ExprKind::Call { callee: a, .. }
            | ExprKind::Index { base: a, .. } => Some(a),
            _ => None,
        }
    }
    /// A copy with another operand at the left end.
    fn with_left(&self, left: Sub) -> Expr {
        let kind = match &self.kind {
            ExprKind::Binary(op, _, b) => ExprKind::Binary(*op, left, b.clone()),
            ExprKind::Pipe(_, b) => ExprKind::Pipe(left, b.clone()),
            ExprKind::Range(_, b) => ExprKind::Range(left, b.clone()),
            ExprKind::Field(_, name) => ExprKind::Field(left, name.clone()),
            ExprKind::Cast(_, ty) => ExprKind::Cast(left, ty.clone()),
            ExprKind::NameCall(_, name) => ExprKind::NameCall(left, name.clone()),
            ExprKind::Call { args, .. } => ExprKind::Call { callee: left, args: args.clone() },
            ExprKind::Index { items, .. } => ExprKind::Index { base: left, items: items.clone() },
            other => other.clone(),
        };
        Expr { kind, span: self.span, id: self.id }
    }
}

impl Clone for Sub {
    fn clone(&self) -> Sub {
        let mut chain: Vec<&Expr> = Vec::new();
        let mut e: &Expr = self;
        while let Some(left) = e.left() {
            chain.push(e);
            e = left;
        }
        let mut copy = Sub::new(e.clone());
        for e in chain.into_iter().rev() {
            copy = Sub::new(e.with_left(copy));
        }
        copy
    }
}

impl Drop for Sub {
    fn drop(&mut self) {
        if self.left().is_none() {
            // What else nests is bounded by the parser.
            return;
        }
        let mut rest = vec![self.take()];
        while let Some(mut e) = rest.pop() {
            if let Some(left) = e.left_mut() {
                rest.push(left.take());
            }
        }
    }
}
