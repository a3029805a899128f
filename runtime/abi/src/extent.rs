//! How much memory an instruction touches from the addresses it is handed.

use crate::DType;
use crate::plan::{Attention, BufRef, Conv, ConvKind, Gemm, Instr, LibCall, LibDims, LibOp, MatRef, Strides};

/// What an instruction does with the memory from a reference on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// Where it begins.
    pub place: &'a BufRef,
    /// Bytes from there.
    pub bytes: usize,
    /// What is there is used, or may stay in parts.
    pub read: bool,
    /// It is written.
    pub write: bool,
}

fn span(place: &BufRef, elements: usize, dtype: DType, read: bool, write: bool) -> Span<'_> {
    Span { place, bytes: elements * dtype.size(), read, write }
}

/// Elements from the first to behind the last one of a strided matrix.
fn reach(g: &Gemm, matrix: &MatRef, rows: usize, columns: usize) -> usize {
    if rows * columns == 0 || g.batch.contains(&0) {
        return 0;
    }
    let batches = g.batch.iter().zip(&matrix.batch_strides).map(|(&n, &s)| (n, s));
    let all = batches.chain([(rows, matrix.row_stride), (columns, matrix.col_stride)]);
    let last: i64 = all.map(|(n, stride)| (n as i64 - 1) * stride).sum();
    usize::try_from(last).expect("compiler bug: a matrix that runs backwards") + 1
}

fn of_gemm(g: &Gemm) -> Vec<Span<'_>> {
    let c = reach(g, &g.c, g.m, g.n);
    // Elements between those of the result are somebody else's.
    let dense = c == g.m * g.n * g.batch.iter().product::<usize>();
    vec![
        span(&g.a.data, reach(g, &g.a, g.m, g.k), g.dtype, true, false),
        span(&g.b.data, reach(g, &g.b, g.k, g.n), g.dtype, true, false),
        span(&g.c.data, c, g.dtype, g.accumulate || !dense, true),
    ]
}

fn of_conv(c: &Conv) -> Vec<Span<'_>> {
    let d = &c.dims;
    let product = |extents: &[usize]| extents.iter().product::<usize>();
    let x = d.batch * product(&d.input) * d.in_channels;
    let w = product(&d.filter) * (d.in_channels / d.groups) * d.out_channels;
    let y = d.batch * product(&d.output) * d.out_channels;
    let (lhs, rhs, out) = match c.kind {
        ConvKind::Forward => (x, w, y),
        ConvKind::InputGrad => (y, w, x),
        ConvKind::FilterGrad => (x, y, w),
    };
    vec![
        span(&c.lhs, lhs, c.dtype, true, false),
        span(&c.rhs, rhs, c.dtype, true, false),
        span(&c.out, out, c.dtype, false, true),
        span(&c.scratch, d.scratch_len(c.kind), c.dtype, false, true),
    ]
}

/// Elements and type of each operand and result of a numerical call, in the order of its buffers, and how many of them are operands.
fn of_call(call: LibCall, d: LibDims, dtype: DType) -> (usize, Vec<(usize, DType)>) {
    let LibDims { batch, m, n } = d;
    let k = d.k();
    let index = DType::I32;
    let (operands, lengths) = match call {
        LibCall::Cholesky => (1, vec![(n * n, dtype), (n * n, dtype)]),
        LibCall::TriangularSolve { .. } => (2, vec![(m * m, dtype), (m * n, dtype), (m * n, dtype)]),
        LibCall::Lu => (1, vec![(n * n, dtype), (n * n, dtype), (n, index), (1, dtype)]),
        LibCall::LuSolve { .. } => (3, vec![(m * m, dtype), (m, index), (m * n, dtype), (m * n, dtype)]),
        LibCall::Qr => (1, vec![(m * n, dtype), (m * k, dtype), (k * n, dtype)]),
        LibCall::Svd => (1, vec![(m * n, dtype), (m * k, dtype), (k, dtype), (k * n, dtype)]),
        LibCall::Eigh => (1, vec![(n * n, dtype), (n, dtype), (n * n, dtype)]),
        LibCall::Pinv => (1, vec![(m * n, dtype), (n * m, dtype)]),
        LibCall::Fft { .. } => (2, vec![(m * n, dtype); 4]),
        LibCall::Assignment { .. } => (1, vec![(m * n, dtype), (m, index)]),
    };
    (operands, lengths.into_iter().map(|(len, ty)| (len * batch, ty)).collect())
}

fn of_attention<'a>(a: &Attention, strides: &[Strides], dtype: DType, buffers: &'a [BufRef]) -> Vec<Span<'a>> {
    let (operands, results) = (a.operands(dtype), a.results(dtype));
    let count = operands.len();
    let shapes = operands.into_iter().chain(results).zip(strides).zip(buffers).enumerate();
    shapes
        .map(|(n, (((shape, ty), strides), place))| {
            let elements = strides.reach(&a.batch, shape[0], shape[1]);
            let dense = elements == shape.iter().chain(&a.batch).product::<usize>();
            span(place, elements, ty, n < count || !dense, n >= count)
        })
        .collect()
}

fn of_lib<'a>(op: &LibOp, dtype: DType, buffers: &'a [BufRef]) -> Option<Vec<Span<'a>>> {
    let (operands, lengths) = match op {
        LibOp::Attention { attention, strides } => return Some(of_attention(attention, strides, dtype, buffers)),
        LibOp::ArgSort { rows, n, .. } => (1, vec![(rows * n, dtype), (rows * n, DType::I32)]),
        LibOp::RandomBits { len, skips: false, .. } => (1, vec![(2, DType::U32), (*len, DType::U32)]),
        LibOp::RandomBits { len, skips: true, .. } => (2, vec![(2, DType::U32), (1, DType::U32), (*len, DType::U32)]),
        LibOp::RandomFold { number: Some(_), .. } => (1, vec![(2, DType::U32), (2, DType::U32)]),
        LibOp::RandomFold { number: None, .. } => (2, vec![(2, DType::U32), (1, DType::U32), (2, DType::U32)]),
        LibOp::SwapOut { bytes, .. } => (1, vec![(*bytes, DType::U8), (1, DType::U8)]),
        LibOp::SwapIn { bytes, .. } => (1, vec![(1, DType::U8), (*bytes, DType::U8)]),
        LibOp::Callback { .. } => return None,
        LibOp::AllReduce { len } => (0, vec![(*len, dtype)]),
        LibOp::Call { call, dims } => of_call(*call, *dims, dtype),
    };
    let spans = buffers.iter().zip(lengths).enumerate();
    Some(spans.map(|(i, (place, (len, ty)))| span(place, len, ty, i < operands, i >= operands)).collect())
}

/// The memory of a product (a, b, c), a convolution (lhs, rhs, out, scratch) or a library call (its buffers), in that order; `None` for other instructions and
/// for callbacks, whose arrays only their owner knows.
pub fn spans(instr: &Instr) -> Option<Vec<Span<'_>>> {
    match instr {
        Instr::Gemm(g) => Some(of_gemm(g)),
        Instr::Conv(c) => Some(of_conv(c)),
        Instr::Lib { op, dtype, buffers } => of_lib(op, *dtype, buffers),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strided_result_keeps_what_lies_between() {
        let m = |row_stride, col_stride, batch| MatRef { data: BufRef::whole(0), row_stride, col_stride, batch_strides: vec![batch] };
        let g = Gemm {
            dtype: DType::F32,
            m: 3,
            n: 2,
            k: 5,
            batch: vec![4],
            a: m(1, 3, 15),
            b: m(2, 1, 0),
            c: m(9, 1, 2),
            accumulate: false,
            symmetric: false,
        };
        let instr = Instr::Gemm(g);
        let found: Vec<_> = spans(&instr).unwrap().iter().map(|s| (s.bytes / 4, s.read, s.write)).collect();
        assert_eq!(found, [(60, true, false), (10, true, false), (2 * 9 + 1 + 3 * 2 + 1, true, true)]);
    }
}
