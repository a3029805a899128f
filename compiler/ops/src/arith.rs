//! Operators of the language: arithmetic, comparisons, logic, on compile-time numbers and arrays alike.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::fold;
use crate::matmul::matmul;
use crate::meet::{self, Meet, is_unknown, join_arrays, meet, to_array};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::eval::round_to;

/// A binary operator of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`, always a float quotient.
    Div,
    /// `//`
    FloorDiv,
    /// `%`
    Rem,
    /// `@`
    MatMul,
    /// `^`
    Pow,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `and`
    And,
    /// `or`
    Or,
    /// `&`
    BitAnd,
    /// `bit_or`
    BitOr,
    /// `xor`
    BitXor,
    /// `<<`
    Shl,
    /// `>>`
    Shr,
}

impl BinOp {
    /// Its spelling, in back quotes.
    pub fn shown(self) -> &'static str {
        use BinOp::*;
        match self {
            Add => "`+`",
            Sub => "`-`",
            Mul => "`*`",
            Div => "`/`",
            FloorDiv => "`//`",
            Rem => "`%`",
            MatMul => "`@`",
            Pow => "`^`",
            Eq => "`==`",
            Ne => "`!=`",
            Lt => "`<`",
            Le => "`<=`",
            Gt => "`>`",
            Ge => "`>=`",
            And => "`and`",
            Or => "`or`",
            BitAnd => "`&`",
            BitOr => "`bit_or`",
            BitXor => "`xor`",
            Shl => "`<<`",
            Shr => "`>>`",
        }
    }
    /// Whether it compares.
    pub fn is_comparison(self) -> bool {
        use BinOp::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }
    fn is_bitwise(self) -> bool {
        use BinOp::*;
        matches!(self, BitAnd | BitOr | BitXor | Shl | Shr)
    }
    /// The operator whose name as an elementwise operation of index notation is `name` (`add`, `floor_div`, `le`, …).
    pub fn parse(name: &str) -> Option<BinOp> {
        use BinOp::*;
        Some(match name {
            "add" => Add,
            "sub" => Sub,
            "mul" => Mul,
            "div" => Div,
            "floor_div" => FloorDiv,
            "rem" => Rem,
            "matmul" => MatMul,
            "pow" => Pow,
            "eq" => Eq,
            "ne" => Ne,
            "lt" => Lt,
            "le" => Le,
            "gt" => Gt,
            "ge" => Ge,
            "and" => And,
            "or" => Or,
            "bit_and" => BitAnd,
            "bit_or" => BitOr,
            "xor" => BitXor,
            "shl" => Shl,
            "shr" => Shr,
            _ => return None,
        })
    }
    /// The scalar operation and whether its operands are swapped.
    fn scalar(self) -> (ScalarOp, bool) {
        use BinOp::*;
        match self {
            Add => (ScalarOp::Add, false),
            Sub => (ScalarOp::Sub, false),
            Mul => (ScalarOp::Mul, false),
            Div => (ScalarOp::Div, false),
            FloorDiv => (ScalarOp::FloorDiv, false),
            Rem => (ScalarOp::Rem, false),
            Pow | MatMul => (ScalarOp::Pow, false),
            Eq => (ScalarOp::Eq, false),
            Ne => (ScalarOp::Ne, false),
            Lt => (ScalarOp::Lt, false),
            Le => (ScalarOp::Le, false),
            Gt => (ScalarOp::Lt, true),
            Ge => (ScalarOp::Le, true),
            And | BitAnd => (ScalarOp::And, false),
            Or | BitOr => (ScalarOp::Or, false),
            BitXor => (ScalarOp::Xor, false),
            Shl => (ScalarOp::Shl, false),
            Shr => (ScalarOp::Shr, false),
        }
    }
}

/// A prefix operator of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// `-x`
    Neg,
    /// `not x`
    Not,
    /// `~x`
    BitNot,
}

/// Applies a binary operator. Compile-time numbers stay compile-time; weak scalars stay weak among themselves; arrays broadcast.
///
/// # Errors
/// Element types that differ, shapes that do not broadcast, operands of the wrong kind.
pub fn binary(cx: &mut Cx, op: BinOp, a: &Val, b: &Val) -> Res<Val> {
    if is_unknown(a) || is_unknown(b) {
        return Ok(Val::Unknown);
    }
    if let Some(result) = fold::binary(cx, op, a, b)? {
        return Ok(result);
    }
    match op {
        BinOp::MatMul => matmul(cx, a, b).map(Val::Array),
        BinOp::Pow => power(cx, a, b),
        BinOp::And | BinOp::Or => logical(cx, op, a, b),
        _ => {
            let m = meet(cx, op.shown(), &[a, b])?;
            let m = operand_type(cx, op, m)?;
            let (scalar, swapped) = op.scalar();
            let (a, b) = if swapped { (b, a) } else { (a, b) };
            let out = apply(cx, op.shown(), scalar, &[a, b], m)?;
            Ok(Val::Array(Array { weak: m.is_weak() && !op.is_comparison(), ..out }))
        }
    }
}

/// The type in which an operator computes.
fn operand_type(cx: &Cx, op: BinOp, m: Meet) -> Res<Meet> {
    let d = m.dtype(cx);
    if op.is_comparison() {
        return Ok(m);
    }
    if op.is_bitwise() {
        if d.is_float() || (d == DType::Bool && matches!(op, BinOp::Shl | BinOp::Shr)) {
            return Err(OpError::new("E0302", format!("{} needs integers, not `{}`", op.shown(), name_of(m)))
                .help("logic on flags is `and`, `or`, `not`"));
        }
        return Ok(m);
    }
    if op == BinOp::Div {
        return Ok(match m {
            Meet::WeakInt => Meet::WeakFloat,
            Meet::Strong(d) if !d.is_float() => Meet::Strong(cx.float),
            _ => m,
        });
    }
    Ok(if d == DType::Bool { Meet::Strong(DType::I32) } else { m })
}

fn name_of(m: Meet) -> String {
    match m {
        Meet::Strong(d) => d.to_string(),
        Meet::WeakFloat | Meet::Float => "float".into(),
        Meet::WeakInt | Meet::Int => "int".into(),
        Meet::Bool => "bool".into(),
    }
}

/// Converts, broadcasts and maps. Integers that meet in a float type (`/`) are converted first.
pub(crate) fn apply(cx: &mut Cx, name: &str, op: ScalarOp, x: &[&Val], m: Meet) -> Res<Array> {
    let arrays = operands(cx, name, x, m)?;
    Ok(cx.map(op, &arrays.iter().collect::<Vec<_>>()))
}

/// The operands as arrays of one type and shape.
pub(crate) fn operands(cx: &mut Cx, name: &str, x: &[&Val], m: Meet) -> Res<Vec<Array>> {
    let mut arrays = Vec::with_capacity(x.len());
    for v in x {
        arrays.push(match v {
            Val::Array(a) if a.dtype.is_int() && m.dtype(cx).is_float() => cx.convert(a, m.dtype(cx)),
            v => to_array(cx, name, v, m.dtype(cx))?,
        });
    }
    join_arrays(cx, name, &arrays)
}

fn logical(cx: &mut Cx, op: BinOp, a: &Val, b: &Val) -> Res<Val> {
    for v in [a, b] {
        let fits = match v {
            Val::Bool(_) => true,
            Val::Array(x) => x.dtype == DType::Bool,
            Val::List(_) => meet::are_flags(v),
            _ => false,
        };
        if !fits {
            return Err(OpError::new("E0302", format!("{} needs flags, not {}", op.shown(), show::kind(v)))
                .help("compare first, such as `x != 0`; bits of integers are combined by `&`, `bit_or`, `xor`"));
        }
    }
    let dominant = Some(op == BinOp::Or);
    for (v, other) in [(a, b), (b, a)] {
        if let (Val::Bool(Some(flag)), Val::Array(x)) = (v, other) {
            if Some(*flag) != dominant {
                return Ok(other.clone());
            }
            return Ok(if x.shape.is_empty() {
                Val::Bool(Some(*flag))
            } else {
                Val::Array(cx.splat(DType::Bool, &x.shape, f64::from(u8::from(*flag))))
            });
        }
    }
    apply(cx, op.shown(), op.scalar().0, &[a, b], Meet::Strong(DType::Bool)).map(Val::Array)
}

/// `a ^ b`: small integer powers are products, an exponent of one half is a square root.
fn power(cx: &mut Cx, a: &Val, b: &Val) -> Res<Val> {
    let exponent = match b {
        Val::Int(d) => d.known().map(|k| k as f64),
        Val::Float(f) => *f,
        _ => None,
    };
    let m = meet(cx, "`^`", &[a, b]);
    // An integer exponent never changes the type of the base.
    let m = match (b, m) {
        (Val::Int(_), Ok(m)) if m.dtype(cx) == DType::Bool => Meet::Strong(DType::I32),
        (_, m) => m?,
    };
    if let (Some(e), Val::Array(_) | Val::List(_)) = (exponent, a) {
        let whole = e.fract() == 0.0;
        let float = m.dtype(cx).is_float();
        if whole && ((0.0..=64.0).contains(&e) && (!float || e <= 16.0)) {
            let x = to_array(cx, "`^`", a, m.dtype(cx))?;
            let out = whole_power(cx, &x, e as u32);
            return Ok(Val::Array(Array { weak: m.is_weak(), ..out }));
        }
        if whole && float && (-4.0..0.0).contains(&e) {
            let x = to_array(cx, "`^`", a, m.dtype(cx))?;
            let p = whole_power(cx, &x, -e as u32);
            let one = cx.splat(p.dtype, &p.shape, 1.0);
            let out = cx.map(ScalarOp::Div, &[&one, &p]);
            return Ok(Val::Array(Array { weak: m.is_weak(), ..out }));
        }
        if e == 0.5 && float {
            let x = to_array(cx, "`^`", a, m.dtype(cx))?;
            let out = cx.map(ScalarOp::Sqrt, &[&x]);
            return Ok(Val::Array(Array { weak: m.is_weak(), ..out }));
        }
    }
    let m = match m {
        Meet::WeakInt => Meet::WeakFloat,
        Meet::Strong(d) if !d.is_float() => {
            return Err(OpError::new("E0302", format!("`^` of `{d}` needs a constant exponent that is not negative"))
                .help("convert both to floats, such as `(x as f32) ^ (n as f32)`"));
        }
        m => m,
    };
    let out = apply(cx, "`^`", ScalarOp::Pow, &[a, b], m)?;
    Ok(Val::Array(Array { weak: m.is_weak(), ..out }))
}

fn whole_power(cx: &mut Cx, x: &Array, k: u32) -> Array {
    match k {
        0 => cx.splat(x.dtype, &x.shape, 1.0),
        1 => x.clone(),
        _ => {
            let half = whole_power(cx, x, k / 2);
            let square = cx.map(ScalarOp::Mul, &[&half, &half]);
            if k % 2 == 1 { cx.map(ScalarOp::Mul, &[&square, x]) } else { square }
        }
    }
}

/// Applies a prefix operator.
///
/// # Errors
/// Operands of the wrong kind.
pub fn unary(cx: &mut Cx, op: UnOp, a: &Val) -> Res<Val> {
    if is_unknown(a) {
        return Ok(Val::Unknown);
    }
    let a = &listed(cx, a)?;
    let wrong = |op: &str, want: &str| Err(OpError::new("E0302", format!("{op} needs {want}, not {}", show::kind(a))));
    match op {
        UnOp::Neg => match a {
            Val::Int(d) => Ok(Val::Int(d.neg())),
            Val::Float(f) => Ok(Val::Float(f.map(|f| -f))),
            Val::Bool(b) => Ok(b.map_or_else(|| Val::Int(cx.fresh_symbol("?")), |b| Val::Int(Dim::from(-i64::from(b))))),
            Val::Array(x) => {
                let y = if x.dtype == DType::Bool { cx.convert(x, DType::I32) } else { x.clone() };
                let out = cx.map(ScalarOp::Neg, &[&y]);
                Ok(Val::Array(Array { weak: x.weak, ..out }))
            }
            _ => wrong("`-`", "a number or an array"),
        },
        UnOp::Not => match a {
            Val::Bool(b) => Ok(Val::Bool(b.map(|b| !b))),
            Val::Array(x) if x.dtype == DType::Bool => Ok(Val::Array(cx.map(ScalarOp::Not, &[x]))),
            _ => wrong("`not`", "a flag or an array of flags"),
        },
        UnOp::BitNot => match a {
            Val::Int(d) => Ok(Val::Int(d.neg().sub(&Dim::one()))),
            Val::Array(x) if x.dtype.is_int() => {
                let out = cx.map(ScalarOp::Not, &[x]);
                Ok(Val::Array(Array { weak: x.weak, ..out }))
            }
            _ => wrong("`~`", "integers"),
        },
    }
}

/// `x as dtype`. Compile-time numbers stay compile-time, rounded; weak scalars become ordinary ones.
///
/// # Errors
/// A value that is no number.
pub fn cast(cx: &mut Cx, a: &Val, dtype: DType) -> Res<Val> {
    Ok(match a {
        v if is_unknown(v) => Val::Unknown,
        Val::Array(x) => Val::Array(cx.convert(x, dtype)),
        Val::Int(d) => match d.known() {
            _ if dtype.is_int() => {
                to_array(cx, "`as`", a, dtype)?;
                a.clone()
            }
            Some(n) if dtype == DType::Bool => Val::Bool(Some(n != 0)),
            None if dtype == DType::Bool => Val::Bool(None),
            n => Val::Float(n.map(|n| round_to(dtype, n as f64))),
        },
        Val::Float(f) => match f {
            _ if dtype.is_float() => Val::Float(f.map(|f| round_to(dtype, f))),
            _ if dtype == DType::Bool => Val::Bool(f.map(|f| f != 0.0)),
            Some(f) => Val::Int(Dim::from(optc_ir::eval::float_to_int(dtype, *f))),
            None => Val::Int(cx.fresh_symbol("?")),
        },
        Val::Bool(b) => match b {
            _ if dtype == DType::Bool => a.clone(),
            _ if dtype.is_float() => Val::Float(b.map(|b| f64::from(u8::from(b)))),
            Some(b) => Val::Int(Dim::from(i64::from(*b))),
            None => Val::Int(cx.fresh_symbol("?")),
        },
        Val::List(_) | Val::Range(..) => {
            let x = as_written(cx, a)?;
            Val::Array(cx.convert(&x, dtype))
        }
        _ => return Err(OpError::new("E0302", format!("`as` converts numbers and arrays, not {}", show::kind(a)))),
    })
}

/// The value as a run-time array that is not weak: numbers, lists of numbers, ranges and weak scalars take `dtype`, or i32, f32 and bool alone.
///
/// # Errors
/// A value that is no array or number; an array of another type than `dtype`.
pub fn materialize(cx: &mut Cx, a: &Val, dtype: Option<DType>) -> Res<Array> {
    let dtype = match dtype {
        Some(d) => d,
        None => match meet(cx, "an array", &[&as_list(a)])? {
            Meet::WeakFloat => cx.float,
            m => m.dtype(cx),
        },
    };
    to_array(cx, "an array", a, dtype)
}

/// As [`materialize`], but decimals that have met no type keep all their digits: they are f64.
///
/// # Errors
/// As [`materialize`].
pub fn as_written(cx: &mut Cx, a: &Val) -> Res<Array> {
    let list = as_list(a);
    let decimals = meet(cx, "an array", &[&list])?.dtype(cx).is_float() && !meet::holds_array(&list);
    materialize(cx, a, decimals.then_some(DType::F64))
}

/// Tuples of numbers count as lists.
fn as_list(v: &Val) -> Val {
    match v {
        Val::Tuple(x) => Val::List(x.iter().map(as_list).collect()),
        _ => v.clone(),
    }
}

/// Lists become arrays, other values stay.
pub(crate) fn listed(cx: &mut Cx, v: &Val) -> Res<Val> {
    match v {
        Val::List(_) | Val::Range(..) => materialize(cx, v, None).map(Val::Array),
        _ => Ok(v.clone()),
    }
}

/// The array broadcast to a shape by NumPy's rule.
///
/// # Errors
/// Shapes that do not fit.
pub fn broadcast_to(cx: &mut Cx, a: &Array, shape: &[Dim]) -> Res<Array> {
    let target = Array { dtype: a.dtype, shape: shape.to_vec(), weak: false, node: None };
    let joined = meet::join_shapes("a broadcast", a, &target)?;
    let fits = joined.len() == shape.len() && joined.iter().zip(shape).all(|(j, s)| j.fit(s) != crate::dim_arith::Fit::Different);
    if !fits {
        return Err(OpError::new(
            "E0401",
            format!("an array of shape {} does not broadcast to {}", show::shape(&a.shape), show::shape(shape)),
        )
        .note(show::pair(("array", a, None), ("wanted", &target, None)))
        .help("axes are aligned at the end; only axes of extent 1 repeat"));
    }
    Ok(cx.spread_to(a, shape))
}

/// An array literal `[a, b, c]`. Compile-time values give a list (it turns into an array where one is wanted); scalars of one type, one of them a run-time value, give an
/// array; so do arrays of one shape if `nested` says that the elements were themselves written in brackets. All else is a list.
///
/// # Errors
/// None of its own today; kept for literals that cannot be either.
pub fn array_literal(cx: &mut Cx, elements: &[Val], nested: bool) -> Res<Val> {
    let list = || Val::List(elements.to_vec());
    if elements.iter().any(is_unknown) {
        return Ok(list());
    }
    let runs = elements.iter().any(|e| matches!(e, Val::Array(_)));
    let scalar = |e: &Val| match e {
        Val::Array(a) => a.shape.is_empty() || nested,
        Val::Int(_) | Val::Float(_) | Val::Bool(_) => true,
        Val::List(_) => nested,
        _ => false,
    };
    if !runs || !elements.iter().all(scalar) {
        return Ok(list());
    }
    let refs: Vec<&Val> = elements.iter().collect();
    let Ok(m) = meet(cx, "an array literal", &refs) else { return Ok(list()) };
    let dtype = if m == Meet::WeakFloat { cx.float } else { m.dtype(cx) };
    let mixed = |e: &Val| matches!(e, Val::Array(a) if a.dtype == DType::Bool && dtype != DType::Bool);
    if elements.iter().any(mixed) {
        return Ok(list());
    }
    let mut parts = Vec::new();
    for e in elements {
        parts.push(to_array(cx, "an array literal", e, dtype)?);
    }
    match meet::stack(cx, "an array literal", &parts, 0) {
        Ok(a) => Ok(Val::Array(a)),
        Err(_) => Ok(list()),
    }
}
