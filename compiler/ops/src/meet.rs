//! What element type values take when they meet, and their broadcasting.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::{DType, Tensor};

/// The type that operands share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meet {
    /// Arrays of this element type.
    Strong(DType),
    /// Weak scalars, in f64.
    WeakFloat,
    /// Weak integers, in i32.
    WeakInt,
    /// Compile-time numbers, one of them a float.
    Float,
    /// Compile-time integers.
    Int,
    /// Compile-time flags.
    Bool,
}

impl Meet {
    /// The element type of its nodes.
    pub(crate) fn dtype(self, cx: &Cx) -> DType {
        match self {
            Meet::Strong(d) => d,
            Meet::WeakFloat => DType::F64,
            Meet::WeakInt | Meet::Int => DType::I32,
            Meet::Float => cx.float,
            Meet::Bool => DType::Bool,
        }
    }
    pub(crate) fn is_weak(self) -> bool {
        matches!(self, Meet::WeakFloat | Meet::WeakInt)
    }
}

/// Whether a value is, or holds, something unknown.
pub(crate) fn is_unknown(v: &Val) -> bool {
    match v {
        Val::Unknown => true,
        Val::List(x) | Val::Tuple(x) => x.iter().any(is_unknown),
        _ => false,
    }
}

/// Whether a value is a list of flags, nested or not.
pub fn are_flags(v: &Val) -> bool {
    match v {
        Val::List(x) => !x.is_empty() && x.iter().all(|e| matches!(e, Val::Bool(_)) || are_flags(e)),
        _ => false,
    }
}

/// Whether lists are nested like the rows of an array.
pub(crate) fn is_regular(v: &Val) -> bool {
    fn shape(v: &Val) -> Option<Vec<usize>> {
        match v {
            Val::List(x) => {
                let mut of = shape(x.first()?)?;
                if x.iter().any(|e| shape(e).as_ref() != Some(&of)) {
                    return None;
                }
                of.insert(0, x.len());
                Some(of)
            }
            Val::Int(_) | Val::Float(_) | Val::Bool(_) => Some(Vec::new()),
            Val::Array(a) if a.shape.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }
    shape(v).is_some()
}

pub(crate) fn holds_array(v: &Val) -> bool {
    match v {
        Val::Array(_) => true,
        Val::List(x) | Val::Tuple(x) => x.iter().any(holds_array),
        _ => false,
    }
}

#[derive(Default)]
struct Found {
    strong: Option<DType>,
    bool_array: bool,
    weak_float: bool,
    weak_int: bool,
    float: bool,
    int: bool,
    flag: bool,
    list: bool,
}

fn look(op: &str, v: &Val, found: &mut Found) -> Res<()> {
    match v {
        Val::Array(a) if a.weak && a.dtype.is_float() => found.weak_float = true,
        Val::Array(a) if a.weak => found.weak_int = true,
        Val::Array(a) if a.dtype == DType::Bool => found.bool_array = true,
        Val::Array(a) => match found.strong {
            Some(d) if d != a.dtype => return Err(show::mixed_types(op, d, a.dtype)),
            _ => found.strong = Some(a.dtype),
        },
        Val::Int(_) => found.int = true,
        Val::Float(_) => found.float = true,
        Val::Bool(_) => found.flag = true,
        Val::List(x) => {
            found.list = true;
            for e in x {
                look(op, e, found)?;
            }
        }
        Val::Range(..) => (found.list, found.int) = (true, true),
        _ => return Err(OpError::new("E0302", format!("{op} needs numbers or arrays, not {}", show::kind(v)))),
    }
    Ok(())
}

/// The type that operands of `op` share; flags stay flags only among themselves.
pub(crate) fn meet(cx: &Cx, op: &str, values: &[&Val]) -> Res<Meet> {
    let mut f = Found::default();
    for v in values {
        look(op, v, &mut f)?;
    }
    let floats = f.float || f.weak_float;
    let ints = f.int || f.weak_int;
    Ok(match f.strong {
        Some(d) if floats && !d.is_float() => {
            return Err(OpError::new("E0301", format!("{op} of `{d}` and a float: element types differ"))
                .note("element types are never converted silently")
                .help("convert the integers, such as `x as f32`"));
        }
        Some(d) => Meet::Strong(d),
        None if f.bool_array || f.list => Meet::Strong(match (floats, ints) {
            (true, _) => cx.float,
            (false, true) => DType::I32,
            _ => DType::Bool,
        }),
        None if f.weak_float || (f.weak_int && f.float) => Meet::WeakFloat,
        None if f.weak_int => Meet::WeakInt,
        None if f.float => Meet::Float,
        None if f.int => Meet::Int,
        None => Meet::Bool,
    })
}

/// A compile-time integer as a scalar of an element type.
fn int_scalar(cx: &mut Cx, d: &Dim, dtype: DType) -> Res<Array> {
    check_int(d, dtype)?;
    Ok(cx.size_scalar(dtype, d))
}

fn check_int(d: &Dim, dtype: DType) -> Res<()> {
    let (low, high) = match dtype {
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::U32 => (0, i64::from(u32::MAX)),
        DType::U8 => (0, 255),
        _ => return Ok(()),
    };
    match d.known() {
        Some(n) if n < low || n > high => Err(OpError::new("E0305", format!("the integer {n} does not fit in `{dtype}`"))
            .note(format!("`{dtype}` holds {low} to {high}"))
            .help("use a wider element type, such as `i64`, or a float with a point")),
        _ => Ok(()),
    }
}

/// The value as an array of an element type; scalars and lists of numbers are converted, arrays must be of that type, weak or bool.
pub(crate) fn to_array(cx: &mut Cx, op: &str, v: &Val, dtype: DType) -> Res<Array> {
    match v {
        Val::Array(a) if a.dtype == dtype => Ok(Array { weak: false, ..a.clone() }),
        Val::Array(a) if (a.weak && (dtype.is_float() || !a.dtype.is_float())) || a.dtype == DType::Bool => Ok(cx.convert(a, dtype)),
        Val::Array(a) => Err(show::mixed_types(op, a.dtype, dtype)),
        Val::Int(d) if dtype != DType::Bool => int_scalar(cx, d, dtype),
        Val::Float(f) if dtype.is_float() => Ok(cx.scalar(dtype, f.unwrap_or(0.0))),
        Val::Bool(b) => Ok(cx.scalar(dtype, f64::from(u8::from(b.unwrap_or(false))))),
        Val::Range(a, b) if dtype != DType::Bool => {
            let length = Dim::max(&b.sub(a), &Dim::zero());
            let count = cx.counting(if dtype.is_int() { dtype } else { DType::I32 }, &[length], 0);
            let count = cx.convert(&count, dtype);
            if a.known() == Some(0) {
                return Ok(count);
            }
            let start = int_scalar(cx, a, dtype)?;
            let start = cx.spread(&start, &[], &count.shape);
            Ok(cx.map(optc_ir::ScalarOp::Add, &[&count, &start]))
        }
        Val::List(x) | Val::Tuple(x) => list_to_array(cx, op, x, dtype),
        Val::Int(_) | Val::Float(_) => Err(OpError::new("E0302", format!("{op} needs `{dtype}`, not {}", show::kind(v)))),
        _ => Err(OpError::new("E0302", format!("{op} needs a number or an array, not {}", show::kind(v)))),
    }
}

fn list_to_array(cx: &mut Cx, op: &str, x: &[Val], dtype: DType) -> Res<Array> {
    if !x.iter().any(holds_array) {
        let (mut shape, mut values) = (Vec::new(), Vec::new());
        flatten(op, x, 0, dtype, &mut shape, &mut values)?;
        if !cx.emitting() {
            return Ok(Array { dtype, shape: shape.iter().map(|&n| Dim::from(n)).collect(), weak: false, node: None });
        }
        return Ok(cx.literal(Tensor::from_f64(dtype, &shape, &values)));
    }
    let mut parts = Vec::with_capacity(x.len());
    for e in x {
        parts.push(to_array(cx, op, e, dtype)?);
    }
    stack(cx, op, &parts, 0)
}

fn flatten(op: &str, x: &[Val], depth: usize, dtype: DType, shape: &mut Vec<usize>, out: &mut Vec<f64>) -> Res<()> {
    let ragged = || OpError::new("E0402", "rows of a list have different lengths").help("an array needs rows of one length");
    match shape.get(depth) {
        None => shape.push(x.len()),
        Some(&n) if n == x.len() => {}
        Some(_) => return Err(ragged()),
    }
    for e in x {
        let number = match e {
            Val::List(inner) | Val::Tuple(inner) => {
                if !out.is_empty() && shape.len() == depth + 1 {
                    return Err(ragged());
                }
                flatten(op, inner, depth + 1, dtype, shape, out)?;
                continue;
            }
            Val::Int(d) if dtype != DType::Bool => {
                check_int(d, dtype)?;
                d.known().unwrap_or(0) as f64
            }
            Val::Float(f) if dtype.is_float() => f.unwrap_or(0.0),
            Val::Bool(b) => f64::from(u8::from(b.unwrap_or(false))),
            _ => return Err(OpError::new("E0302", format!("{op} needs `{dtype}` elements, not {}", show::kind(e)))),
        };
        if shape.len() > depth + 1 {
            return Err(ragged());
        }
        out.push(number);
    }
    Ok(())
}

/// Arrays of one type and shape along a new axis.
pub(crate) fn stack(cx: &mut Cx, op: &str, parts: &[Array], axis: usize) -> Res<Array> {
    let first = parts.first().ok_or_else(|| OpError::new("E0303", format!("{op} of nothing")))?;
    for p in &parts[1..] {
        if p.dtype != first.dtype {
            return Err(show::mixed_types(op, first.dtype, p.dtype));
        }
        let differs = p.shape.len() != first.shape.len() || p.shape.iter().zip(&first.shape).any(|(a, b)| a.fit(b) == Fit::Different);
        if differs {
            return Err(OpError::new("E0402", format!("{op} of arrays of different shapes"))
                .note(show::pair(("first", first, None), ("other", p, None))));
        }
    }
    let expanded: Vec<Array> = parts.iter().map(|p| cx.expand(p, &[axis])).collect();
    Ok(cx.joined(&expanded, axis))
}

/// The shape two arrays broadcast to by NumPy's rule.
pub(crate) fn join_shapes(op: &str, a: &Array, b: &Array) -> Res<Vec<Dim>> {
    let (long, short) = if a.shape.len() >= b.shape.len() { (&a.shape, &b.shape) } else { (&b.shape, &a.shape) };
    let offset = long.len() - short.len();
    let mut out = long.clone();
    for (i, s) in short.iter().enumerate() {
        let l = &long[offset + i];
        out[offset + i] = match join_dim(l, s) {
            Some(d) => d,
            None => {
                let axis_of = |x: &Array| x.shape.len() - (short.len() - i);
                return Err(mismatch(op, a, axis_of(a), b, axis_of(b)));
            }
        };
    }
    Ok(out)
}

/// The extent that two extents broadcast to.
pub(crate) fn join_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    match a.fit(b) {
        Fit::Equal => Some(a.clone()),
        _ if a.known() == Some(1) => Some(b.clone()),
        _ if b.known() == Some(1) => Some(a.clone()),
        Fit::Maybe => Some(if is_anonymous(a) || (a.known().is_none() && b.known().is_some()) { b.clone() } else { a.clone() }),
        Fit::Different => None,
    }
}

fn is_anonymous(d: &Dim) -> bool {
    d.symbols().iter().any(|s| &*s.name == "?")
}

fn mismatch(op: &str, a: &Array, i: usize, b: &Array, j: usize) -> OpError {
    let (x, y) = (&a.shape[i], &b.shape[j]);
    let help = if x.known().is_some() && y.known().is_some() {
        "extents must be equal, or one of them 1; axes are aligned at the end".to_string()
    } else {
        format!("`{x}` and `{y}` may differ: use one name for both if they are the same size")
    };
    OpError::new(
        "E0401",
        format!("{op} of shapes {} and {} that do not broadcast: {x} is not {y}", show::shape(&a.shape), show::shape(&b.shape)),
    )
    .note(show::pair(("left", a, Some(i)), ("right", b, Some(j))))
    .help(help)
}

/// Arrays broadcast to one shape.
pub(crate) fn join_arrays(cx: &mut Cx, op: &str, x: &[Array]) -> Res<Vec<Array>> {
    let mut whole = x[0].clone();
    for a in &x[1..] {
        whole.shape = join_shapes(op, &whole, a)?;
    }
    Ok(x.iter().map(|a| cx.spread_to(a, &whole.shape)).collect())
}
