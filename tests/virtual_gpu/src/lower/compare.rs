//! Comparisons and choices.

use super::whole::each;
use super::{Compute, Mods};
use crate::exec::alu::{three, two};
use crate::exec::num::{b, d, f, flush, h};
use crate::exec::program::Alu;
use crate::ptx::Ty;

const WHOLE: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const FLOAT: &[&str] = &["equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// A comparison of two values of a type.
fn comparison(name: &str, ty: Ty, ftz: bool) -> Option<Alu> {
    if !ty.float() {
        return match name {
            "eq" => each!(ty, [B16, B32, B64, U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a == b)),
            "ne" => each!(ty, [B16, B32, B64, U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a != b)),
            "lt" => each!(ty, [U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a < b)),
            "le" => each!(ty, [U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a <= b)),
            "gt" => each!(ty, [U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a > b)),
            "ge" => each!(ty, [U16, U32, U64, S16, S32, S64], two (a, b) u64::from(a >= b)),
            "lo" => each!(ty, [U16, U32, U64], two (a, b) u64::from(a < b)),
            "ls" => each!(ty, [U16, U32, U64], two (a, b) u64::from(a <= b)),
            "hi" => each!(ty, [U16, U32, U64], two (a, b) u64::from(a > b)),
            "hs" => each!(ty, [U16, U32, U64], two (a, b) u64::from(a >= b)),
            _ => None,
        };
    }
    macro_rules! typed {
        (|$x:ident, $y:ident| $e:expr) => {
            Some(match (ty, ftz) {
                (Ty::F32, false) => two(|a, b| {
                    let ($x, $y) = (f(a), f(b));
                    u64::from($e)
                }),
                (Ty::F32, true) => two(|a, b| {
                    let ($x, $y) = (flush(f(a)), flush(f(b)));
                    u64::from($e)
                }),
                (Ty::F64, false) => two(|a, b| {
                    let ($x, $y) = (d(a), d(b));
                    u64::from($e)
                }),
                (Ty::F16, false) => two(|a, b| {
                    let ($x, $y) = (h(a), h(b));
                    u64::from($e)
                }),
                (Ty::BF16, false) => two(|p, q| {
                    let ($x, $y) = (b(p), b(q));
                    u64::from($e)
                }),
                _ => return None,
            })
        };
    }
    match name {
        "eq" => typed!(|x, y| x == y),
        "ne" => typed!(|x, y| x != y && !x.is_nan() && !y.is_nan()),
        "lt" => typed!(|x, y| x < y),
        "le" => typed!(|x, y| x <= y),
        "gt" => typed!(|x, y| x > y),
        "ge" => typed!(|x, y| x >= y),
        "equ" => typed!(|x, y| x == y || x.is_nan() || y.is_nan()),
        "neu" => typed!(|x, y| x != y),
        "ltu" => typed!(|x, y| x < y || x.is_nan() || y.is_nan()),
        "leu" => typed!(|x, y| x <= y || x.is_nan() || y.is_nan()),
        "gtu" => typed!(|x, y| x > y || x.is_nan() || y.is_nan()),
        "geu" => typed!(|x, y| x >= y || x.is_nan() || y.is_nan()),
        "num" => typed!(|x, y| !(x.is_nan() || y.is_nan())),
        "nan" => typed!(|x, y| x.is_nan() || y.is_nan()),
        _ => None,
    }
}

/// What `setp` or `set` asks.
pub(super) struct Question {
    /// Whether the two compare so.
    pub(super) alu: Alu,
    /// What the answer is combined with a predicate by.
    pub(super) combine: Option<&'static str>,
    /// Type of the values.
    pub(super) ty: Ty,
    /// For `set`: type of the result.
    pub(super) result: Option<Ty>,
}

/// Reads the modifiers of `setp` or `set`.
pub(super) fn question(op: &str, mods: &mut Mods) -> Option<Question> {
    let ftz = mods.take("ftz");
    let name = mods.choose(FLOAT).or_else(|| mods.choose(WHOLE))?;
    let combine = mods.choose(&["and", "or", "xor"]);
    let types = mods.types();
    let (result, ty) = match (op, &types[..]) {
        ("setp", [ty]) => (None, *ty),
        ("set", [result @ (Ty::U32 | Ty::S32 | Ty::F32), ty]) => (Some(*result), *ty),
        _ => return None,
    };
    Some(Question { alu: comparison(name, ty, ftz)?, combine, ty, result })
}

/// `selp` and `slct`.
pub(super) fn choice(op: &str, mods: &mut Mods) -> Option<Compute> {
    let ftz = mods.take("ftz");
    let types = mods.types();
    match (op, &types[..]) {
        ("selp", &[ty]) if !ftz && ty != Ty::Pred => {
            Some(Compute::new(three(|a, b, c| if c & 1 != 0 { a } else { b }), ty, vec![ty, ty, Ty::Pred]))
        }
        ("slct", &[ty, Ty::S32]) if !ftz => {
            Some(Compute::new(three(|a, b, c| if c as i32 >= 0 { a } else { b }), ty, vec![ty, ty, Ty::S32]))
        }
        ("slct", &[ty, Ty::F32]) => Some(Compute::new(three(|a, b, c| if f(c) >= 0.0 { a } else { b }), ty, vec![ty, ty, Ty::F32])),
        _ => None,
    }
}
