//! Elementwise operations, conversions, reductions, searches and draws.

use super::movement::for_each_position;
use super::value::{Data, Value};
use crate::build::strides;
use crate::eval::{eval_float, eval_int, eval_typed, float_to_int, int_to_float, round_to, wrap};
use crate::graph::{ReduceOp, Ty};
use crate::scalar::{Class, ScalarOp};
use half::{bf16, f16};
use optc_abi::{DType, philox};
use std::cmp::Ordering;
use std::rc::Rc;

pub fn map(op: ScalarOp, x: &[Rc<Value>], ty: &Ty) -> Value {
    let operand = &x[if op == ScalarOp::Select { 1 } else { 0 }].ty;
    let data = match (op.row().class, operand.dtype.is_float()) {
        (Class::Select, true) => {
            let (a, b) = (x[1].floats(), x[2].floats());
            Data::Float(x[0].ints().iter().enumerate().map(|(i, &p)| if p != 0 { a[i] } else { b[i] }).collect())
        }
        (Class::Select, false) => {
            let (a, b) = (x[1].ints(), x[2].ints());
            Data::Int(x[0].ints().iter().enumerate().map(|(i, &p)| if p != 0 { a[i] } else { b[i] }).collect())
        }
        (Class::Compare | Class::Test, true) => {
            let columns: Vec<&[f64]> = x.iter().map(|v| v.floats()).collect();
            Data::Int(elements(&columns, ty.len(), |e| eval_float(op, e) as i64))
        }
        (_, true) => Data::Float(float_map(op, x, operand.dtype, ty.len())),
        (_, false) => {
            let columns: Vec<&[i64]> = x.iter().map(|v| v.ints()).collect();
            Data::Int(elements(&columns, ty.len(), |e| eval_int(op, operand.dtype, e)))
        }
    };
    Value { ty: ty.clone(), data }
}

fn float_map(op: ScalarOp, x: &[Rc<Value>], dtype: DType, len: usize) -> Vec<f64> {
    let columns: Vec<&[f64]> = x.iter().map(|v| v.floats()).collect();
    // The commonest four without a dispatch per element.
    match (op, &columns[..]) {
        (ScalarOp::Add, [a, b]) => a.iter().zip(*b).map(|(a, b)| a + b).collect(),
        (ScalarOp::Sub, [a, b]) => a.iter().zip(*b).map(|(a, b)| a - b).collect(),
        (ScalarOp::Mul, [a, b]) => a.iter().zip(*b).map(|(a, b)| a * b).collect(),
        (ScalarOp::Div, [a, b]) => a.iter().zip(*b).map(|(a, b)| a / b).collect(),
        // One rounding of an f32 result needs f32 arithmetic here; unrounded values are left alone.
        (ScalarOp::Fma, c) if c.iter().all(|c| c.iter().all(|&v| v.is_nan() || round_to(dtype, v) == v)) => {
            elements(c, len, |e| eval_typed(op, dtype, e))
        }
        _ => elements(&columns, len, |e| eval_float(op, e)),
    }
}

fn elements<T: Copy + Default, R>(columns: &[&[T]], len: usize, f: impl Fn(&[T]) -> R) -> Vec<R> {
    let mut row = [T::default(); 3];
    let n = columns.len();
    (0..len)
        .map(|i| {
            for (cell, column) in row.iter_mut().zip(columns) {
                *cell = column[i];
            }
            f(&row[..n])
        })
        .collect()
}

pub fn cast(x: &Value, ty: &Ty) -> Value {
    let dtype = ty.dtype;
    let data = match (&x.data, dtype.is_float()) {
        (Data::Float(v), true) => Data::Float(v.clone()),
        (Data::Float(v), false) => Data::Int(v.iter().map(|&e| float_to_int(dtype, e)).collect()),
        (Data::Int(v), true) => Data::Float(v.iter().map(|&e| int_to_float(dtype, e)).collect()),
        (Data::Int(v), false) if dtype == DType::Bool => Data::Int(v.iter().map(|&e| i64::from(e != 0)).collect()),
        (Data::Int(v), false) => Data::Int(v.iter().map(|&e| wrap(dtype, e)).collect()),
    };
    Value { ty: ty.clone(), data }
}

/// The bits of an element, zero-extended.
pub fn float_bits(dtype: DType, v: f64) -> u64 {
    match dtype {
        DType::F32 => u64::from((v as f32).to_bits()),
        DType::BF16 => u64::from(optc_abi::dtype::to_bf16(v).to_bits()),
        DType::F16 => u64::from(optc_abi::dtype::to_f16(v).to_bits()),
        _ => v.to_bits(),
    }
}

/// The float with these bits.
pub fn float_from_bits(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        _ => f64::from_bits(bits),
    }
}

pub fn bitcast(x: &Value, ty: &Ty) -> Value {
    let (from, to) = (x.ty.dtype, ty.dtype);
    let bits: Vec<u64> = match &x.data {
        Data::Float(v) => v.iter().map(|&e| float_bits(from, e)).collect(),
        Data::Int(v) => v.iter().map(|&e| e as u64).collect(),
    };
    let data = if to.is_float() {
        Data::Float(bits.iter().map(|&b| float_from_bits(to, b)).collect())
    } else {
        Data::Int(bits.iter().map(|&b| wrap(to, b as i64)).collect())
    };
    Value { ty: ty.clone(), data }
}

/// The scalar operation a reduction repeats.
pub fn step_of(kind: ReduceOp) -> ScalarOp {
    match kind {
        ReduceOp::Sum => ScalarOp::Add,
        ReduceOp::Prod => ScalarOp::Mul,
        ReduceOp::Max => ScalarOp::Max,
        ReduceOp::Min => ScalarOp::Min,
        ReduceOp::And => ScalarOp::And,
        ReduceOp::Or => ScalarOp::Or,
    }
}

/// What a float reduction starts from.
pub fn float_identity(kind: ReduceOp) -> f64 {
    match kind {
        ReduceOp::Prod => 1.0,
        ReduceOp::Max => f64::NEG_INFINITY,
        ReduceOp::Min => f64::INFINITY,
        _ => 0.0,
    }
}

/// What an integer or bool reduction starts from.
pub fn int_identity(kind: ReduceOp, dtype: DType) -> i64 {
    let (lowest, highest) = match dtype {
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::I64 => (i64::MIN, i64::MAX),
        DType::U32 => (0, i64::from(u32::MAX)),
        DType::U8 => (0, 255),
        _ => (0, 1),
    };
    match kind {
        ReduceOp::Prod | ReduceOp::And => 1,
        ReduceOp::Max => lowest,
        ReduceOp::Min => highest,
        ReduceOp::Sum | ReduceOp::Or => 0,
    }
}

pub fn reduce(kind: ReduceOp, x: &Value, axes: &[usize], ty: &Ty) -> Value {
    let kept = strides(&ty.shape);
    let mut next = kept.iter();
    let steps: Vec<isize> =
        (0..x.ty.rank()).map(|axis| if axes.contains(&axis) { 0 } else { *next.next().expect("a kept axis") as isize }).collect();
    let op = step_of(kind);
    let data = match &x.data {
        Data::Float(v) => {
            let mut out = vec![float_identity(kind); ty.len()];
            let mut source = v.iter();
            for_each_position(&x.ty.shape, 0, &steps, |at| {
                let e = *source.next().expect("an element");
                out[at] = if kind == ReduceOp::Sum { out[at] + e } else { eval_float(op, &[out[at], e]) };
            });
            Data::Float(out)
        }
        Data::Int(v) => {
            let mut out = vec![int_identity(kind, x.ty.dtype); ty.len()];
            let mut source = v.iter();
            for_each_position(&x.ty.shape, 0, &steps, |at| {
                out[at] = eval_int(op, x.ty.dtype, &[out[at], *source.next().expect("an element")]);
            });
            Data::Int(out)
        }
    };
    Value { ty: ty.clone(), data }
}

/// Extents before, at and after an axis.
pub fn around(ty: &Ty, axis: usize) -> (usize, usize, usize) {
    (ty.shape[..axis].iter().product(), ty.shape[axis], ty.shape[axis + 1..].iter().product())
}

pub fn scan(kind: ReduceOp, x: &Value, axis: usize, reverse: bool, ty: &Ty) -> Value {
    let (outer, n, inner) = around(&x.ty, axis);
    let op = step_of(kind);
    let mut out = Value { ty: ty.clone(), data: x.data.clone() };
    for o in 0..outer {
        for i in 0..inner {
            for k in 1..n {
                let place = |k: usize| (o * n + if reverse { n - 1 - k } else { k }) * inner + i;
                let (before, here) = (place(k - 1), place(k));
                match &mut out.data {
                    Data::Float(v) => v[here] = eval_float(op, &[v[before], v[here]]),
                    Data::Int(v) => v[here] = eval_int(op, x.ty.dtype, &[v[before], v[here]]),
                }
            }
        }
    }
    out
}

/// The order of sorting: NaN last, zeros equal.
fn order(x: &Value, a: usize, b: usize) -> Ordering {
    match &x.data {
        Data::Int(v) => v[a].cmp(&v[b]),
        Data::Float(v) => v[a].partial_cmp(&v[b]).unwrap_or_else(|| v[a].is_nan().cmp(&v[b].is_nan())),
    }
}

pub fn arg_reduce(max: bool, x: &Value, axis: usize, ty: &Ty) -> Value {
    let (outer, n, inner) = around(&x.ty, axis);
    let is_nan = |at: usize| matches!(&x.data, Data::Float(v) if v[at].is_nan());
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let place = |k: usize| (o * n + k) * inner + i;
            let mut best = 0;
            for k in 1..n {
                if is_nan(place(best)) {
                    break;
                }
                let better = if max { Ordering::Greater } else { Ordering::Less };
                if is_nan(place(k)) || order(x, place(k), place(best)) == better {
                    best = k;
                }
            }
            out.push(best as i64);
        }
    }
    Value { ty: ty.clone(), data: Data::Int(out) }
}

pub fn arg_sort(x: &Value, axis: usize, descending: bool, ty: &Ty) -> Value {
    let (outer, n, inner) = around(&x.ty, axis);
    let mut out = vec![0; ty.len()];
    for o in 0..outer {
        for i in 0..inner {
            let place = |k: usize| (o * n + k) * inner + i;
            let mut ids: Vec<usize> = (0..n).collect();
            ids.sort_by(|&a, &b| if descending { order(x, place(b), place(a)) } else { order(x, place(a), place(b)) });
            for (k, id) in ids.into_iter().enumerate() {
                out[place(k)] = id as i64;
            }
        }
    }
    Value { ty: ty.clone(), data: Data::Int(out) }
}

fn key_of(key: &Value) -> [u32; 2] {
    [key.ints()[0] as u32, key.ints()[1] as u32]
}

pub fn random_bits(key: &Value, start: u64, ty: &Ty) -> Value {
    let key = key_of(key);
    let bits = (0..ty.len()).map(|i| i64::from(philox::bits_at(key, start + i as u64))).collect();
    Value { ty: ty.clone(), data: Data::Int(bits) }
}

pub fn random_fold(key: &Value, number: &Value, place: u32, ty: &Ty) -> Value {
    let folded = philox::fold(key_of(key), number.ints()[0] as u32, place);
    Value { ty: ty.clone(), data: Data::Int(folded.map(i64::from).to_vec()) }
}
