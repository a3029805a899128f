//! The type rule of every graph operation.

use crate::graph::{AttentionOp, DotDims, Graph, LibCall, NodeTy, Op, ReduceOp, Shape, Ty};
use crate::scalar::{Class, ScalarOp};
use optc_abi::DType;
use optc_abi::plan::{ConvDims, ConvKind};

/// The type of a node. `claimed` is needed by operations that carry their type (constants, conversions, reshapes, broadcasts, draws, inputs).
///
/// # Errors
/// What is wrong with the operands, in words.
pub fn infer(op: &Op, operands: &[&NodeTy], claimed: Option<&NodeTy>) -> Result<NodeTy, String> {
    if let Op::Result { index } = op {
        let [NodeTy::Tuple(types)] = operands else { return Err("result of something that is no tuple".into()) };
        return types.get(*index).cloned().map(NodeTy::Array).ok_or_else(|| format!("no result {index}"));
    }
    let arrays: Vec<&Ty> = operands
        .iter()
        .map(|t| match t {
            NodeTy::Array(ty) => Ok(ty),
            NodeTy::Tuple(_) => Err("a tuple where an array is wanted".to_string()),
        })
        .collect::<Result<_, _>>()?;
    match op {
        Op::Loop(l) => {
            let trip = usize::from(l.trip.is_none());
            need(l.guard.is_none() || (l.trip.is_none() && l.carried > 0), || "a guarded loop without run-time count or flag".into())?;
            let inputs = l.body.input_types();
            let outputs = l.body.output_types();
            let count = inputs.len().checked_sub(1).ok_or("a loop body without counter")?;
            need(arrays.len() == trip + count, || format!("loop with {} operands for a body with {count} inputs", arrays.len()))?;
            need(inputs[0] == Ty::scalar(DType::I32), || "a loop counter that is not i32".into())?;
            let args = &arrays[trip..];
            for (i, (have, want)) in args.iter().zip(&inputs[1..]).enumerate() {
                let scanned = i >= l.carried && i < l.carried + l.scanned;
                let slice = match (scanned, l.trip) {
                    (false, _) => (*have).clone(),
                    (true, Some(n)) if have.shape.first() == Some(&n) => Ty::new(have.dtype, have.shape[1..].iter().copied()),
                    (true, _) => return Err(format!("scanned operand {have} of a loop of {:?} passes", l.trip)),
                };
                need(slice == *want, || format!("loop operand {have} for body input {want}"))?;
            }
            need(l.guard.is_none() || inputs.get(1) == Some(&Ty::scalar(DType::Bool)), || {
                "a loop guarded by something that is no flag".into()
            })?;
            need(outputs.len() >= l.carried, || "a loop body with too few outputs".into())?;
            for (have, want) in outputs[..l.carried].iter().zip(&inputs[1..]) {
                need(have == want, || format!("carried value changes from {want} to {have}"))?;
            }
            let mut results = outputs[..l.carried].to_vec();
            for out in &outputs[l.carried..] {
                let n = l.trip.ok_or("a loop with a run-time count cannot stack results")?;
                results.push(Ty::new(out.dtype, std::iter::once(n).chain(out.shape.iter().copied())));
            }
            Ok(NodeTy::Tuple(results))
        }
        Op::Cond { then, otherwise } => {
            need(arrays.first().is_some_and(|p| **p == Ty::scalar(DType::Bool)), || "a condition that is no bool scalar".into())?;
            for branch in [then, otherwise] {
                check_args(branch, &arrays[1..])?;
            }
            need(then.output_types() == otherwise.output_types(), || "branches of different types".into())?;
            Ok(NodeTy::Tuple(then.output_types()))
        }
        Op::Call(c) => {
            check_args(&c.body, &arrays)?;
            Ok(NodeTy::Tuple(c.body.output_types()))
        }
        Op::Lib(call) => lib_type(*call, &arrays),
        Op::Attention(attention) => attention_type(attention, &arrays),
        Op::Callback { results, .. } => Ok(NodeTy::Tuple(results.to_vec())),
        Op::AllReduce => {
            need(arrays.iter().all(|t| t.dtype != DType::Bool), || format!("sums over devices of {arrays:?}"))?;
            Ok(NodeTy::Tuple(arrays.into_iter().cloned().collect()))
        }
        _ => array_type(op, &arrays, claimed).map(NodeTy::Array),
    }
}

/// The results of attention.
fn attention_type(attention: &AttentionOp, x: &[&Ty]) -> Result<NodeTy, String> {
    let what = &attention.what;
    let dtype = x.first().ok_or("attention without operands")?.dtype;
    let whole = |(shape, ty): (Vec<usize>, DType)| Ty::new(ty, what.batch.iter().copied().chain(shape));
    let fits = matches!(dtype, DType::F32 | DType::F64 | DType::BF16)
        && x.iter().copied().cloned().eq(what.operands(dtype).into_iter().map(whole));
    need(fits, || format!("{what:?} of {x:?}"))?;
    let results = what.results(dtype).into_iter().map(whole);
    need(attention.turned.len() == results.len(), || format!("{} results of {what:?}", attention.turned.len()))?;
    let turned = results.zip(&attention.turned).map(|(ty, axes)| {
        let mut all = axes.clone();
        all.sort_unstable();
        need(all.iter().copied().eq(0..ty.rank()), || format!("axes {axes:?} of {ty}"))?;
        Ok(Ty::new(ty.dtype, axes.iter().map(|&a| ty.shape[a])))
    });
    turned.collect::<Result<_, String>>().map(NodeTy::Tuple)
}

/// The results of a library call.
fn lib_type(call: LibCall, x: &[&Ty]) -> Result<NodeTy, String> {
    let misfit = || format!("{} of {x:?}", call.name());
    let wanted = match call {
        LibCall::TriangularSolve { .. } | LibCall::Fft { .. } => 2,
        LibCall::LuSolve { .. } => 4,
        _ => 1,
    };
    need(x.len() == wanted && x.iter().all(|t| t.rank() >= 1) && matches!(x[0].dtype, DType::F32 | DType::F64), misfit)?;
    let dtype = x[0].dtype;
    if let LibCall::Fft { .. } = call {
        need(x[0] == x[1], misfit)?;
        return Ok(NodeTy::Tuple(vec![x[0].clone(), x[0].clone()]));
    }
    need(x[0].rank() >= 2, misfit)?;
    let (batch, matrix) = x[0].shape.split_at(x[0].rank() - 2);
    let (m, n) = (matrix[0], matrix[1]);
    let k = m.min(n);
    let typed = |dtype: DType, last: &[usize]| Ty::new(dtype, batch.iter().chain(last).copied());
    let of = |last: &[usize]| typed(dtype, last);
    let square = || need(m == n, misfit);
    // A right-hand side fits the matrix.
    let side = |b: &Ty| {
        need(b.dtype == dtype && b.rank() == x[0].rank() && b.shape[..batch.len()] == *batch && b.shape[batch.len()] == n, misfit)?;
        Ok::<NodeTy, String>(NodeTy::Array(b.clone()))
    };
    match call {
        LibCall::Cholesky => {
            square()?;
            Ok(NodeTy::Array(x[0].clone()))
        }
        LibCall::TriangularSolve { .. } => {
            square()?;
            side(x[1])
        }
        LibCall::Lu => {
            square()?;
            Ok(NodeTy::Tuple(vec![x[0].clone(), typed(DType::I32, &[n]), of(&[])]))
        }
        LibCall::LuSolve { .. } => {
            square()?;
            need(x[1] == x[0] && *x[2] == typed(DType::I32, &[n]), misfit)?;
            side(x[3])
        }
        LibCall::Qr => Ok(NodeTy::Tuple(vec![of(&[m, k]), of(&[k, n])])),
        LibCall::Svd => Ok(NodeTy::Tuple(vec![of(&[m, k]), of(&[k]), of(&[k, n])])),
        LibCall::Eigh => {
            square()?;
            Ok(NodeTy::Tuple(vec![of(&[n]), x[0].clone()]))
        }
        LibCall::Pinv => Ok(NodeTy::Array(of(&[n, m]))),
        LibCall::Assignment { .. } => {
            need(m <= n, misfit)?;
            Ok(NodeTy::Array(typed(DType::I32, &[m])))
        }
        LibCall::Fft { .. } => Err(misfit()),
    }
}

fn need(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn check_args(body: &Graph, args: &[&Ty]) -> Result<(), String> {
    let inputs = body.input_types();
    need(inputs.iter().eq(args.iter().copied()), || format!("arguments {args:?} for inputs {inputs:?}"))
}

fn array_type(op: &Op, x: &[&Ty], claimed: Option<&NodeTy>) -> Result<Ty, String> {
    let claim = || match claimed {
        Some(NodeTy::Array(ty)) => Ok(ty),
        _ => Err(format!("{op:?} needs its type stated")),
    };
    let count = |n: usize| need(x.len() == n, || format!("{op:?} with {} operands", x.len()));
    let axis_of = |t: &Ty, axis: usize| need(axis < t.rank(), || format!("axis {axis} of {t}"));
    match op {
        Op::Input { .. } => claim().cloned(),
        Op::Const(t) => Ok(Ty::new(t.dtype, t.shape.iter().copied())),
        Op::Iota { axis } => {
            let ty = claim()?;
            axis_of(ty, *axis)?;
            need(ty.dtype.is_int(), || format!("iota of type {ty}"))?;
            Ok(ty.clone())
        }
        Op::Map(s) => map_type(*s, x),
        Op::Cast => {
            count(1)?;
            let ty = claim()?;
            need(ty.shape == x[0].shape, || format!("cast of {} to {ty}", x[0]))?;
            Ok(ty.clone())
        }
        Op::Bitcast => {
            count(1)?;
            let ty = claim()?;
            need(ty.shape == x[0].shape && ty.dtype.size() == x[0].dtype.size(), || format!("bitcast of {} to {ty}", x[0]))?;
            Ok(ty.clone())
        }
        Op::Reduce { kind, axes } => {
            count(1)?;
            need(axes.windows(2).all(|w| w[0] < w[1]) && axes.iter().all(|&a| a < x[0].rank()), || {
                format!("reduction of {} over {axes:?}", x[0])
            })?;
            let logical = matches!(kind, ReduceOp::And | ReduceOp::Or);
            need(logical == (x[0].dtype == DType::Bool), || format!("{kind:?} of {}", x[0]))?;
            Ok(Ty::new(x[0].dtype, without(x[0], axes)))
        }
        Op::ArgReduce { axis, .. } => {
            count(1)?;
            axis_of(x[0], *axis)?;
            need(x[0].shape[*axis] > 0, || "argmax of an empty axis".into())?;
            Ok(Ty::new(DType::I32, without(x[0], &[*axis])))
        }
        Op::Scan { axis, .. } => {
            count(1)?;
            axis_of(x[0], *axis)?;
            Ok(x[0].clone())
        }
        Op::Dot(dims) => {
            count(2)?;
            dot_type(dims, x[0], x[1])
        }
        Op::Conv { kind, dims } => {
            count(2)?;
            conv_type(*kind, dims, x[0], x[1])
        }
        Op::Reshape => {
            count(1)?;
            let ty = claim()?;
            need(ty.dtype == x[0].dtype && ty.len() == x[0].len(), || format!("reshape of {} to {ty}", x[0]))?;
            Ok(ty.clone())
        }
        Op::Broadcast { dims } => {
            count(1)?;
            let ty = claim()?;
            let fits = dims.len() == x[0].rank()
                && dims.windows(2).all(|w| w[0] < w[1])
                && dims.iter().zip(&x[0].shape).all(|(&d, &n)| d < ty.rank() && (n == ty.shape[d] || n == 1))
                && ty.dtype == x[0].dtype;
            need(fits, || format!("broadcast of {} to {ty} by {dims:?}", x[0]))?;
            Ok(ty.clone())
        }
        Op::Permute { perm } => {
            count(1)?;
            let mut seen = vec![false; x[0].rank()];
            let fits = perm.len() == x[0].rank() && perm.iter().all(|&p| p < seen.len() && !std::mem::replace(&mut seen[p], true));
            need(fits, || format!("permutation {perm:?} of {}", x[0]))?;
            Ok(Ty::new(x[0].dtype, perm.iter().map(|&p| x[0].shape[p])))
        }
        Op::Slice { start, stop, step } => {
            count(1)?;
            let r = x[0].rank();
            let fits = start.len() == r
                && stop.len() == r
                && step.len() == r
                && (0..r).all(|i| start[i] <= stop[i] && stop[i] <= x[0].shape[i] && step[i] >= 1);
            need(fits, || format!("slice {start:?}..{stop:?} by {step:?} of {}", x[0]))?;
            Ok(Ty::new(x[0].dtype, (0..r).map(|i| (stop[i] - start[i]).div_ceil(step[i]))))
        }
        Op::Pad { lo, hi, interior } => {
            count(2)?;
            let r = x[0].rank();
            need(lo.len() == r && hi.len() == r && interior.len() == r && *x[1] == Ty::scalar(x[0].dtype), || {
                format!("pad of {} with {}", x[0], x[1])
            })?;
            Ok(Ty::new(x[0].dtype, (0..r).map(|i| lo[i] + hi[i] + x[0].shape[i] + x[0].shape[i].saturating_sub(1) * interior[i])))
        }
        Op::Flip { axes } => {
            count(1)?;
            need(axes.iter().all(|&a| a < x[0].rank()), || format!("flip of {} along {axes:?}", x[0]))?;
            Ok(x[0].clone())
        }
        Op::Concat { axis } => {
            let first = x.first().ok_or("concat of nothing")?;
            axis_of(first, *axis)?;
            let mut ty = (*first).clone();
            ty.shape[*axis] = x.iter().map(|t| t.shape.get(*axis).copied().unwrap_or(0)).sum();
            let fits = x
                .iter()
                .all(|t| t.dtype == ty.dtype && t.rank() == ty.rank() && (0..ty.rank()).all(|i| i == *axis || t.shape[i] == ty.shape[i]));
            need(fits, || format!("concat of {x:?} along {axis}"))?;
            Ok(ty)
        }
        Op::Window { axis, size, stride, dilation } => {
            count(1)?;
            axis_of(x[0], *axis)?;
            let reach = (size.max(&1) - 1) * dilation + 1;
            need(*size >= 1 && *stride >= 1 && *dilation >= 1 && reach <= x[0].shape[*axis], || {
                format!("window of {size} on axis {axis} of {}", x[0])
            })?;
            let mut shape = x[0].shape.clone();
            shape[*axis] = (shape[*axis] - reach) / stride + 1;
            shape.insert(axis + 1, *size);
            Ok(Ty { dtype: x[0].dtype, shape })
        }
        Op::Gather { axis } => {
            count(2)?;
            gather_type(x[0], x[1], *axis)
        }
        Op::Scatter { axis, .. } => {
            count(3)?;
            let want = gather_type(x[0], x[1], *axis)?;
            need(want == *x[2], || format!("scatter of {} where {want} is wanted", x[2]))?;
            Ok(x[0].clone())
        }
        Op::ArgSort { axis, .. } => {
            count(1)?;
            axis_of(x[0], *axis)?;
            Ok(x[0].with_dtype(DType::I32))
        }
        Op::RandomBits { .. } => {
            need(matches!(x.len(), 1 | 2) && *x[0] == Ty::new(DType::U32, [2]), || "a draw without a key".into())?;
            need(x.get(1).is_none_or(|t| **t == Ty::scalar(DType::U32)), || format!("a draw that skips {x:?}"))?;
            let ty = claim()?;
            need(ty.dtype == DType::U32, || format!("random bits of type {ty}"))?;
            Ok(ty.clone())
        }
        Op::RandomFold { .. } => {
            need(x.len() == 2 && *x[0] == Ty::new(DType::U32, [2]) && *x[1] == Ty::scalar(DType::U32), || format!("fold of {x:?}"))?;
            Ok(x[0].clone())
        }
        Op::StopGradient | Op::Swap => {
            count(1)?;
            Ok(x[0].clone())
        }
        Op::Lib(_)
        | Op::Attention(_)
        | Op::Callback { .. }
        | Op::AllReduce
        | Op::Loop(_)
        | Op::Cond { .. }
        | Op::Call(_)
        | Op::Result { .. } => Err("a tuple operation".into()),
    }
}

fn without(ty: &Ty, axes: &[usize]) -> Shape {
    ty.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &n)| n).collect()
}

fn gather_type(x: &Ty, ids: &Ty, axis: usize) -> Result<Ty, String> {
    need(axis < x.rank() && ids.dtype == DType::I32, || format!("gather from axis {axis} of {x} by {ids}"))?;
    let shape = x.shape[..axis].iter().chain(&ids.shape).chain(&x.shape[axis + 1..]);
    Ok(Ty::new(x.dtype, shape.copied()))
}

fn map_type(op: ScalarOp, x: &[&Ty]) -> Result<Ty, String> {
    need(x.len() == op.arity(), || format!("{} with {} operands", op.name(), x.len()))?;
    need(x.windows(2).all(|w| w[0].shape == w[1].shape), || format!("{} of {x:?}: shapes differ", op.name()))?;
    let values = if op == ScalarOp::Select { &x[1..] } else { x };
    need(values.windows(2).all(|w| w[0].dtype == w[1].dtype), || format!("{} of {x:?}: element types differ", op.name()))?;
    let d = values[0].dtype;
    let (fits, result) = match op.row().class {
        Class::Float => (d.is_float(), d),
        Class::Number => (d.is_float() || d.is_int(), d),
        Class::Bits => (d.is_int() || (d == DType::Bool && !matches!(op, ScalarOp::Shl | ScalarOp::Shr)), d),
        Class::Compare => (true, DType::Bool),
        Class::Test => (d.is_float(), DType::Bool),
        Class::Select => (x[0].dtype == DType::Bool, d),
    };
    need(fits, || format!("{} of {x:?}", op.name()))?;
    Ok(values[0].with_dtype(result))
}

fn dot_type(dims: &DotDims, a: &Ty, b: &Ty) -> Result<Ty, String> {
    let fits = a.dtype == b.dtype
        && a.dtype.is_float()
        && dims.lhs_batch.len() == dims.rhs_batch.len()
        && dims.lhs_contract.len() == dims.rhs_contract.len()
        && dims.lhs_batch.iter().chain(&dims.lhs_contract).all(|&i| i < a.rank())
        && dims.rhs_batch.iter().chain(&dims.rhs_contract).all(|&i| i < b.rank())
        && dims
            .lhs_batch
            .iter()
            .zip(&dims.rhs_batch)
            .chain(dims.lhs_contract.iter().zip(&dims.rhs_contract))
            .all(|(&i, &j)| a.shape[i] == b.shape[j]);
    need(fits, || format!("dot of {a} and {b} by {dims:?}"))?;
    let batch = dims.lhs_batch.iter().map(|&i| a.shape[i]);
    let free = |t: &Ty, p: &[usize], q: &[usize]| -> Shape {
        (0..t.rank()).filter(|i| !p.contains(i) && !q.contains(i)).map(|i| t.shape[i]).collect()
    };
    let (l, r) = (free(a, &dims.lhs_batch, &dims.lhs_contract), free(b, &dims.rhs_batch, &dims.rhs_contract));
    Ok(Ty::new(a.dtype, batch.chain(l).chain(r)))
}

/// Shapes of x, w and y of a convolution.
pub fn conv_shapes(d: &ConvDims) -> (Shape, Shape, Shape) {
    let with = |first: Option<usize>, middle: &[usize], last: &[usize]| -> Shape {
        first.into_iter().chain(middle.iter().copied()).chain(last.iter().copied()).collect()
    };
    (
        with(Some(d.batch), &d.input, &[d.in_channels]),
        with(None, &d.filter, &[d.in_channels / d.groups, d.out_channels]),
        with(Some(d.batch), &d.output, &[d.out_channels]),
    )
}

fn conv_type(kind: ConvKind, d: &ConvDims, a: &Ty, b: &Ty) -> Result<Ty, String> {
    let (x, w, y) = conv_shapes(d);
    let (lhs, rhs, out) = match kind {
        ConvKind::Forward => (x, w, y),
        ConvKind::InputGrad => (y, w, x),
        ConvKind::FilterGrad => (x, y, w),
    };
    need(a.shape == lhs && b.shape == rhs && a.dtype == b.dtype && a.dtype.is_float(), || {
        format!("{kind:?} convolution of {a} and {b} with {d:?}")
    })?;
    Ok(Ty { dtype: a.dtype, shape: out })
}
