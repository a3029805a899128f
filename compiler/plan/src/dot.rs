//! Matrix products on memory as it is laid out: views of an operand become strides.

use crate::index::{Idx, through};
use crate::lin::{Lin, Term};
use crate::net::{N, Net};
use crate::rows::Class;
use optc_abi::plan::{BufRef, Gemm, MatRef};
use optc_ir::Op;
use optc_ir::graph::DotDims;

/// A view of a stored array with constant strides, in elements.
#[derive(Clone, Debug)]
pub(crate) struct Strided {
    pub base: N,
    pub offset: i64,
    /// Per axis of the view.
    pub strides: Vec<i64>,
}

/// The node as a strided view of an array that has or can have memory, if it is one.
pub(crate) fn strided(net: &Net, class: &[Class], n: N) -> Option<Strided> {
    let shape = &net.nodes[n].ty.shape;
    let most = |term: Term| match term {
        Term::Axis(a) => shape[a] as i64 - 1,
        Term::Value(_) => 0,
    };
    let mut at = Idx::Dims(shape.iter().enumerate().map(|(i, &d)| if d == 1 { Lin::default() } else { Lin::axis(i) }).collect());
    let mut current = n;
    while class[current] == Class::View {
        let node = &net.nodes[current];
        match &node.op {
            Op::Const(_) => break,
            Op::Reshape => at = Idx::Flat(at.flat(&node.ty.shape)),
            op => {
                let operand = &net.nodes[*node.operands.first()?].ty.shape;
                at = Idx::Dims(through(op, operand, &at.dims(&node.ty.shape, &most).ok()?)?);
            }
        }
        current = node.operands[0];
    }
    let flat = at.flat(&net.nodes[current].ty.shape);
    let mut strides = vec![0; shape.len()];
    for &(term, stride) in &flat.terms {
        let Term::Axis(axis) = term else { return None };
        if stride < 0 {
            return None;
        }
        strides[axis] = stride;
    }
    Some(Strided { base: current, offset: flat.offset, strides })
}

/// One axis of the product's index space: extent, and strides in a, b and c (0 where absent).
#[derive(Clone, Copy, Debug)]
struct Axis {
    extent: usize,
    a: i64,
    b: i64,
    c: i64,
}

/// Neighbors that step like one axis become one; axes of extent 1 go.
fn collapse(axes: &[Axis]) -> Vec<Axis> {
    let mut out: Vec<Axis> = Vec::new();
    for &axis in axes.iter().filter(|a| a.extent > 1) {
        let step = axis.extent as i64;
        match out.last_mut() {
            Some(last) if last.a == axis.a * step && last.b == axis.b * step && last.c == axis.c * step => {
                *last = Axis { extent: last.extent * axis.extent, ..axis };
            }
            _ => out.push(axis),
        }
    }
    out
}

/// The product instruction. `c_strides` are the strides of the result's axes in memory; the storage of the operands starts at `a_ref`, `b_ref`.
/// None if the contracted axes do not step like one axis.
pub(crate) fn gemm(
    net: &Net,
    n: N,
    (a, a_ref): (&Strided, BufRef),
    (b, b_ref): (&Strided, BufRef),
    (c_strides, c_ref): (&[i64], BufRef),
) -> Option<Gemm> {
    let node = &net.nodes[n];
    let Op::Dot(dims) = &node.op else { panic!("compiler bug: a product that is none") };
    let (ta, tb) = (&net.nodes[node.operands[0]].ty, &net.nodes[node.operands[1]].ty);
    let DotDims { lhs_batch, rhs_batch, lhs_contract, rhs_contract } = dims;
    let free = |rank: usize, p: &[usize], q: &[usize]| (0..rank).filter(|i| !p.contains(i) && !q.contains(i)).collect::<Vec<_>>();
    let (free_a, free_b) = (free(ta.rank(), lhs_batch, lhs_contract), free(tb.rank(), rhs_batch, rhs_contract));
    let mut c = c_strides.iter().copied();
    let mut next = || c.next().expect("one stride per axis of the result");
    let batch: Vec<Axis> =
        lhs_batch.iter().zip(rhs_batch).map(|(&i, &j)| Axis { extent: ta.shape[i], a: a.strides[i], b: b.strides[j], c: next() }).collect();
    let rows: Vec<Axis> = free_a.iter().map(|&i| Axis { extent: ta.shape[i], a: a.strides[i], b: 0, c: next() }).collect();
    let cols: Vec<Axis> = free_b.iter().map(|&j| Axis { extent: tb.shape[j], a: 0, b: b.strides[j], c: next() }).collect();
    let inner: Vec<Axis> = lhs_contract
        .iter()
        .zip(rhs_contract)
        .map(|(&i, &j)| Axis { extent: ta.shape[i], a: a.strides[i], b: b.strides[j], c: 0 })
        .collect();
    let inner = collapse(&inner);
    if inner.len() > 1 {
        return None;
    }
    let k = inner.first().copied().unwrap_or(Axis { extent: 1, a: 1, b: 1, c: 0 });
    // What does not collapse to one row and one column axis is repeated as a batch axis.
    let (mut rows, mut cols) = (collapse(&rows), collapse(&cols));
    let m = rows.pop().unwrap_or(Axis { extent: 1, a: k.a * k.extent as i64, b: 0, c: 1 });
    let n_axis = cols.pop().unwrap_or(Axis { extent: 1, a: 0, b: 1, c: 1 });
    let batch: Vec<Axis> = collapse(&batch).into_iter().chain(rows).chain(cols).collect();
    let place = |base: BufRef, elements: i64| BufRef { offset: base.offset + elements * node.ty.dtype.size() as i64, ..base };
    Some(Gemm {
        dtype: node.ty.dtype,
        m: m.extent,
        n: n_axis.extent,
        k: k.extent,
        batch: batch.iter().map(|x| x.extent).collect(),
        a: MatRef { data: place(a_ref, a.offset), row_stride: m.a, col_stride: k.a, batch_strides: batch.iter().map(|x| x.a).collect() },
        b: MatRef {
            data: place(b_ref, b.offset),
            row_stride: k.b,
            col_stride: n_axis.b,
            batch_strides: batch.iter().map(|x| x.b).collect(),
        },
        c: MatRef { data: c_ref, row_stride: m.c, col_stride: n_axis.c, batch_strides: batch.iter().map(|x| x.c).collect() },
        accumulate: false,
        symmetric: node.symmetric,
    })
}
