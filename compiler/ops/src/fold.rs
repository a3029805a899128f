//! Operators on compile-time values.

use crate::arith::BinOp;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::value::Val;

/// A compile-time number.
#[derive(Clone, Debug)]
pub(crate) enum Number {
    /// An integer.
    Int(Dim),
    /// A float, perhaps not known while checking.
    Float(Option<f64>),
}

impl Number {
    pub(crate) fn of(cx: &mut Cx, v: &Val) -> Option<Number> {
        match v {
            Val::Int(d) => Some(Number::Int(d.clone())),
            Val::Float(f) => Some(Number::Float(*f)),
            Val::Bool(Some(b)) => Some(Number::Int(Dim::from(i64::from(*b)))),
            Val::Bool(None) => Some(Number::Int(cx.fresh_symbol("?"))),
            _ => None,
        }
    }
    pub(crate) fn float(&self) -> Option<f64> {
        match self {
            Number::Int(d) => d.known().map(|n| n as f64),
            Number::Float(f) => *f,
        }
    }
}

impl From<Number> for Val {
    fn from(n: Number) -> Val {
        match n {
            Number::Int(d) => Val::Int(d),
            Number::Float(f) => Val::Float(f),
        }
    }
}

/// The result, if both operands are compile-time values.
pub(crate) fn binary(cx: &mut Cx, op: BinOp, a: &Val, b: &Val) -> Res<Option<Val>> {
    use BinOp::*;
    if let (And | Or, Val::Bool(x), Val::Bool(y)) = (op, a, b) {
        let dominant = Some(op == Or);
        let known = x.is_some() && y.is_some();
        return Ok(Some(Val::Bool(if *x == dominant || *y == dominant {
            dominant
        } else if known {
            Some(op == And)
        } else {
            None
        })));
    }
    if let Eq | Ne = op {
        let equal = match (a, b) {
            (Val::Str(x), Val::Str(y)) => Some(x == y),
            (Val::DType(x), Val::DType(y)) => Some(x == y),
            (Val::None, _) | (_, Val::None) => Some(a == b),
            (Val::Str(_) | Val::DType(_), _) | (_, Val::Str(_) | Val::DType(_)) => {
                return Err(crate::error::OpError::new(
                    "E0302",
                    format!("{} of {} and {}", op.shown(), crate::show::kind(a), crate::show::kind(b)),
                )
                .help("compare values of one kind"));
            }
            _ => None,
        };
        if let Some(equal) = equal {
            return Ok(Some(Val::Bool(Some(equal == (op == Eq)))));
        }
    }
    if let (Add, Val::Str(x), Val::Str(y)) = (op, a, b) {
        return Ok(Some(Val::Str(format!("{x}{y}").into())));
    }
    let (Some(x), Some(y)) = (Number::of(cx, a), Number::of(cx, b)) else { return Ok(None) };
    if matches!(op, And | Or | MatMul) {
        return Ok(None);
    }
    Ok(Some(match (&x, &y) {
        (Number::Int(x), Number::Int(y)) => ints(cx, op, x, y)?,
        _ => floats(op, x.float(), y.float())?,
    }))
}

fn zero_division() -> OpError {
    OpError::new("E0306", "integer division by zero").help("the divisor is a compile-time value that is 0 here")
}

fn ints(cx: &mut Cx, op: BinOp, x: &Dim, y: &Dim) -> Res<Val> {
    use BinOp::*;
    let both = x.known().zip(y.known());
    let order = x.sub(y).known().map(|d| d.cmp(&0));
    let mut bits = |f: fn(i64, i64) -> i64| match both {
        Some((a, b)) => Val::Int(Dim::from(f(a, b))),
        None => Val::Int(cx.fresh_symbol("?")),
    };
    Ok(match op {
        Add => Val::Int(x.add(y)),
        Sub => Val::Int(x.sub(y)),
        Mul => Val::Int(x.mul(y)),
        Div => Val::Float(both.map(|(a, b)| a as f64 / b as f64)),
        FloorDiv => Val::Int(x.floor_div(y).ok_or_else(zero_division)?),
        Rem => Val::Int(x.rem(y).ok_or_else(zero_division)?),
        Pow => int_power(cx, x, y),
        Eq => Val::Bool(order.map(|o| o.is_eq())),
        Ne => Val::Bool(order.map(|o| o.is_ne())),
        Lt => Val::Bool(order.map(|o| o.is_lt())),
        Le => Val::Bool(order.map(|o| o.is_le())),
        Gt => Val::Bool(order.map(|o| o.is_gt())),
        Ge => Val::Bool(order.map(|o| o.is_ge())),
        BitAnd => bits(|a, b| a & b),
        BitOr => bits(|a, b| a | b),
        BitXor => bits(|a, b| a ^ b),
        Shl => bits(|a, b| if (0..64).contains(&b) { a.wrapping_shl(b as u32) } else { 0 }),
        Shr => bits(|a, b| a >> b.clamp(0, 63)),
        And | Or | MatMul => unreachable!("compiler bug: not arithmetic"),
    })
}

fn int_power(cx: &mut Cx, x: &Dim, y: &Dim) -> Val {
    match y.known() {
        // Powers of sums of names grow without use.
        Some(9..=64) if x.known().is_none() => Val::Int(cx.fresh_symbol("?")),
        Some(k @ 0..=64) => Val::Int((0..k).fold(Dim::one(), |p, _| p.mul(x))),
        Some(k) => match x.known() {
            Some(0 | 1) if k > 0 => Val::Int(x.clone()),
            Some(x) => Val::Float(Some((x as f64).powf(k as f64))),
            None => Val::Float(None),
        },
        None => Val::Int(cx.fresh_symbol("?")),
    }
}

fn floats(op: BinOp, x: Option<f64>, y: Option<f64>) -> Res<Val> {
    use BinOp::*;
    let both = x.zip(y);
    let number = |f: fn(f64, f64) -> f64| Val::Float(both.map(|(a, b)| f(a, b)));
    let flag = |f: fn(f64, f64) -> bool| Val::Bool(both.map(|(a, b)| f(a, b)));
    Ok(match op {
        Add => number(|a, b| a + b),
        Sub => number(|a, b| a - b),
        Mul => number(|a, b| a * b),
        Div => number(|a, b| a / b),
        FloorDiv => number(|a, b| (a / b).floor()),
        Rem => number(|a, b| a - b * (a / b).floor()),
        Pow => number(f64::powf),
        Eq => flag(|a, b| a == b),
        Ne => flag(|a, b| a != b),
        Lt => flag(|a, b| a < b),
        Le => flag(|a, b| a <= b),
        Gt => flag(|a, b| a > b),
        Ge => flag(|a, b| a >= b),
        BitAnd | BitOr | BitXor | Shl | Shr => {
            return Err(OpError::new("E0302", format!("{} needs integers, not floats", op.shown())).help("convert with `as i32`"));
        }
        And | Or | MatMul => unreachable!("compiler bug: not arithmetic"),
    })
}
