//! Operations that move elements: views, padding, joins, gathers and scatters.

use super::Rounding;
use super::element::around;
use super::value::{Data, Value};
use crate::build::strides;
use crate::eval::{eval_int, round_to};
use crate::graph::{Op, ScatterMode, Ty};
use crate::scalar::ScalarOp;
use std::rc::Rc;

/// Calls `visit` on `offset + sum of index * step` for every index of `shape` in row-major order.
pub fn for_each_position(shape: &[usize], offset: isize, steps: &[isize], mut visit: impl FnMut(usize)) {
    if shape.contains(&0) {
        return;
    }
    let Some((&last, outer)) = shape.split_last() else {
        visit(offset as usize);
        return;
    };
    let mut index = vec![0usize; outer.len()];
    let mut base = offset;
    loop {
        for k in 0..last {
            visit((base + k as isize * steps[outer.len()]) as usize);
        }
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            base += steps[axis];
            if index[axis] < outer[axis] {
                break;
            }
            base -= steps[axis] * outer[axis] as isize;
            index[axis] = 0;
        }
    }
}

fn view(x: &Value, ty: &Ty, offset: isize, steps: &[isize]) -> Value {
    fn pick<T: Copy>(v: &[T], ty: &Ty, offset: isize, steps: &[isize]) -> Vec<T> {
        let mut out = Vec::with_capacity(ty.len());
        for_each_position(&ty.shape, offset, steps, |at| out.push(v[at]));
        out
    }
    let data = match &x.data {
        Data::Float(v) => Data::Float(pick(v, ty, offset, steps)),
        Data::Int(v) => Data::Int(pick(v, ty, offset, steps)),
    };
    Value { ty: ty.clone(), data }
}

pub fn rearrange(op: &Op, x: &[Rc<Value>], ty: &Ty) -> Value {
    let from: Vec<isize> = x.first().map(|x| strides(&x.ty.shape).iter().map(|&s| s as isize).collect()).unwrap_or_default();
    match op {
        Op::Iota { axis } => {
            let mut out = Vec::with_capacity(ty.len());
            let steps: Vec<isize> = (0..ty.rank()).map(|i| isize::from(i == *axis)).collect();
            for_each_position(&ty.shape, 0, &steps, |at| out.push(at as i64));
            Value { ty: ty.clone(), data: Data::Int(out) }
        }
        Op::Broadcast { dims } => {
            let mut steps = vec![0; ty.rank()];
            for (i, &d) in dims.iter().enumerate() {
                if x[0].ty.shape[i] == ty.shape[d] {
                    steps[d] = from[i];
                }
            }
            view(&x[0], ty, 0, &steps)
        }
        Op::Permute { perm } => {
            let steps: Vec<isize> = perm.iter().map(|&p| from[p]).collect();
            view(&x[0], ty, 0, &steps)
        }
        Op::Slice { start, step, .. } => {
            let offset = start.iter().zip(&from).map(|(&s, &f)| s as isize * f).sum();
            let steps: Vec<isize> = step.iter().zip(&from).map(|(&s, &f)| s as isize * f).collect();
            view(&x[0], ty, offset, &steps)
        }
        Op::Flip { axes } => {
            let mut steps = from.clone();
            let mut offset = 0;
            for axis in (0..ty.rank()).filter(|a| axes.contains(a)) {
                offset += (ty.shape[axis] as isize - 1) * from[axis];
                steps[axis] = -from[axis];
            }
            view(&x[0], ty, offset, &steps)
        }
        Op::Window { axis, stride, dilation, .. } => {
            let mut steps = from.clone();
            steps[*axis] = from[*axis] * *stride as isize;
            steps.insert(axis + 1, from[*axis] * *dilation as isize);
            view(&x[0], ty, 0, &steps)
        }
        Op::Pad { lo, interior, .. } => {
            let to = strides(&ty.shape);
            let offset = lo.iter().zip(&to).map(|(&l, &t)| (l * t) as isize).sum();
            let steps: Vec<isize> = interior.iter().zip(&to).map(|(&i, &t)| ((i + 1) * t) as isize).collect();
            fn fill<T: Copy>(v: &[T], around: T, len: usize, shape: &[usize], offset: isize, steps: &[isize]) -> Vec<T> {
                let mut out = vec![around; len];
                let mut source = v.iter();
                for_each_position(shape, offset, steps, |at| out[at] = *source.next().expect("an element"));
                out
            }
            let data = match (&x[0].data, &x[1].data) {
                (Data::Float(v), Data::Float(p)) => Data::Float(fill(v, p[0], ty.len(), &x[0].ty.shape, offset, &steps)),
                (Data::Int(v), Data::Int(p)) => Data::Int(fill(v, p[0], ty.len(), &x[0].ty.shape, offset, &steps)),
                _ => panic!("compiler bug: pad of {} with {}", x[0].ty, x[1].ty),
            };
            Value { ty: ty.clone(), data }
        }
        Op::Concat { axis } => {
            let mut out = Value::zeros(ty.clone());
            let (outer, total, inner) = around(ty, *axis);
            let mut before = 0;
            for part in x {
                let n = part.ty.shape[*axis];
                for o in 0..outer {
                    let to = (o * total + before) * inner..(o * total + before + n) * inner;
                    let from = o * n * inner..(o + 1) * n * inner;
                    match (&mut out.data, &part.data) {
                        (Data::Float(a), Data::Float(b)) => a[to].copy_from_slice(&b[from]),
                        (Data::Int(a), Data::Int(b)) => a[to].copy_from_slice(&b[from]),
                        _ => panic!("compiler bug: concat of {} into {ty}", part.ty),
                    }
                }
                before += n;
            }
            out
        }
        _ => panic!("compiler bug: {op:?} does not move elements"),
    }
}

fn in_range(ids: &Value, extent: usize) -> Result<Vec<usize>, String> {
    let check = |&id: &i64| {
        if id >= 0 && (id as usize) < extent { Ok(id as usize) } else { Err(format!("index {id} is out of range 0..{extent}")) }
    };
    ids.ints().iter().map(check).collect()
}

pub fn gather(x: &Value, ids: &Value, axis: usize, ty: &Ty) -> Result<Value, String> {
    let (outer, n, inner) = around(&x.ty, axis);
    let ids = in_range(ids, n)?;
    fn pick<T: Copy>(v: &[T], outer: usize, n: usize, inner: usize, ids: &[usize]) -> Vec<T> {
        let mut out = Vec::with_capacity(outer * ids.len() * inner);
        for o in 0..outer {
            for &id in ids {
                out.extend_from_slice(&v[(o * n + id) * inner..(o * n + id + 1) * inner]);
            }
        }
        out
    }
    let data = match &x.data {
        Data::Float(v) => Data::Float(pick(v, outer, n, inner, &ids)),
        Data::Int(v) => Data::Int(pick(v, outer, n, inner, &ids)),
    };
    Ok(Value { ty: ty.clone(), data })
}

pub fn scatter(x: &Value, ids: &Value, updates: &Value, axis: usize, mode: ScatterMode, rounding: Rounding) -> Result<Value, String> {
    let (outer, n, inner) = around(&x.ty, axis);
    let ids = in_range(ids, n)?;
    let mut out = x.clone();
    let dtype = x.ty.dtype;
    for o in 0..outer {
        for (k, &id) in ids.iter().enumerate() {
            for i in 0..inner {
                let (to, from) = ((o * n + id) * inner + i, (o * ids.len() + k) * inner + i);
                match (&mut out.data, &updates.data) {
                    (Data::Float(a), Data::Float(b)) => match mode {
                        ScatterMode::Set => a[to] = b[from],
                        ScatterMode::Add => {
                            let sum = a[to] + b[from];
                            a[to] = if rounding == Rounding::Typed { round_to(dtype, sum) } else { sum };
                        }
                    },
                    (Data::Int(a), Data::Int(b)) => match mode {
                        ScatterMode::Set => a[to] = b[from],
                        ScatterMode::Add => a[to] = eval_int(ScalarOp::Add, dtype, &[a[to], b[from]]),
                    },
                    _ => panic!("compiler bug: scatter of {} into {}", updates.ty, x.ty),
                }
            }
        }
    }
    Ok(out)
}
