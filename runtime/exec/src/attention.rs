//! Attention and its derivatives on the processor ([`optc_abi::attention`]): what a GPU is held against, and what does the work of one whose memory is too small.
//!
//! Units are the matrices of the batch. Of each, operands are brought together in the type that sums are made in; probabilities are those of one query at a time.

use crate::gemm::Address;
use crate::pool::Pool;
use half::bf16;
use optc_abi::DType;
use optc_abi::plan::{Attention, AttentionKind, Strides};

/// Runs attention on resolved addresses (operands, then results).
///
/// # Safety
/// `buffers` must hold one valid address per operand and result, of the extents and strides that are stated.
pub unsafe fn run(pool: &Pool, a: &Attention, strides: &[Strides], dtype: DType, buffers: *const *mut u8) {
    // SAFETY: as the caller promises.
    let addresses: Vec<Address<u8>> = (0..strides.len()).map(|n| Address(unsafe { *buffers.add(n) })).collect();
    pool.run(a.batch.iter().product(), &|unit| {
        let addresses = addresses.iter().map(|p| p.0).collect();
        match dtype {
            // SAFETY: as the caller promises; units write different matrices.
            DType::F64 => unsafe { Problem::<f64>::run(&Memory { a, strides, dtype, addresses, unit }) },
            _ => unsafe { Problem::<f32>::run(&Memory { a, strides, dtype, addresses, unit }) },
        }
    });
}

/// The type of sums.
trait Sum: Copy + PartialOrd + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> + std::ops::Sub<Output = Self> {
    const ZERO: Self;
    fn of(x: f64) -> Self;
    fn exp(self) -> Self;
    fn inverse(self) -> Self;
    fn is_nan(self) -> bool;
    /// # Safety
    /// There is an element of the type at the address.
    unsafe fn read(at: *const u8, dtype: DType) -> Self;
    /// # Safety
    /// As [`Sum::read`].
    unsafe fn write(self, at: *mut u8, dtype: DType);
}

impl Sum for f64 {
    const ZERO: f64 = 0.0;
    fn of(x: f64) -> f64 {
        x
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn inverse(self) -> f64 {
        1.0 / self
    }
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
    unsafe fn read(at: *const u8, _: DType) -> f64 {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<f64>().read() }
    }
    unsafe fn write(self, at: *mut u8, _: DType) {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<f64>().write(self) }
    }
}

impl Sum for f32 {
    const ZERO: f32 = 0.0;
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn exp(self) -> f32 {
        f32::exp(self)
    }
    fn inverse(self) -> f32 {
        1.0 / self
    }
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
    unsafe fn read(at: *const u8, dtype: DType) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { if dtype == DType::BF16 { at.cast::<bf16>().read().to_f32() } else { at.cast::<f32>().read() } }
    }
    unsafe fn write(self, at: *mut u8, dtype: DType) {
        // SAFETY: as the caller promises.
        unsafe {
            if dtype == DType::BF16 {
                at.cast::<bf16>().write(bf16::from_f32(self));
            } else {
                at.cast::<f32>().write(self);
            }
        }
    }
}

/// The memory of one matrix of the batch.
struct Memory<'a> {
    a: &'a Attention,
    strides: &'a [Strides],
    dtype: DType,
    addresses: Vec<*mut u8>,
    unit: usize,
}

impl Memory<'_> {
    fn at(&self, n: usize, size: usize, row: usize, column: usize) -> *mut u8 {
        let s = &self.strides[n];
        let element = s.of_batch(&self.a.batch, self.unit) + row as i64 * s.row + column as i64 * s.column;
        self.addresses[n].wrapping_offset(element as isize * size as isize)
    }

    /// The elements of operand `n`, row by row.
    unsafe fn matrix<S: Sum>(&self, n: usize, dtype: DType, (rows, columns): (usize, usize)) -> Vec<S> {
        let places = (0..rows * columns).map(|e| self.at(n, dtype.size(), e / columns, e % columns));
        // SAFETY: as the caller of `run` promises.
        places.map(|at| unsafe { S::read(at, dtype) }).collect()
    }

    unsafe fn put<S: Sum>(&self, n: usize, dtype: DType, columns: usize, values: &[S]) {
        for (e, value) in values.iter().enumerate() {
            // SAFETY: as the caller of `run` promises.
            unsafe { value.write(self.at(n, dtype.size(), e / columns, e % columns), dtype) };
        }
    }
}

/// One matrix of the batch.
struct Problem<'a, S> {
    a: &'a Attention,
    q: Vec<S>,
    k: Vec<S>,
    v: Vec<S>,
    mask: Vec<u8>,
    bias: Vec<S>,
}

fn dot<S: Sum>(a: &[S], b: &[S]) -> S {
    // Sums side by side, so that additions do not wait for each other.
    let mut lanes = [S::ZERO; 8];
    let (whole, rest) = (a.len() / 8 * 8, a.len() % 8);
    for (x, y) in a[..whole].chunks_exact(8).zip(b.chunks_exact(8)) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(l, (&x, &y))| *l = *l + x * y);
    }
    let mut sum = lanes.into_iter().fold(S::ZERO, |s, x| s + x);
    for n in whole..whole + rest {
        sum = sum + a[n] * b[n];
    }
    sum
}

fn add_scaled<S: Sum>(to: &mut [S], by: S, x: &[S]) {
    to.iter_mut().zip(x).for_each(|(t, &x)| *t = *t + by * x);
}

impl<S: Sum> Problem<'_, S> {
    unsafe fn run(memory: &Memory<'_>) {
        let (a, dtype) = (memory.a, memory.dtype);
        let (tall, wide) = ((a.queries, a.keys), (a.width, a.out_width));
        // SAFETY: as the caller promises, here and below.
        unsafe {
            let mut next = 3;
            let mut given = |there: bool| {
                next += usize::from(there);
                next - 1
            };
            let places = || (0..tall.0 * tall.1).map(|e| (e / tall.1, e % tall.1));
            let n = given(a.mask);
            let mask = if a.mask { places().map(|(i, j)| memory.at(n, 1, i, j).read()).collect() } else { Vec::new() };
            let n = given(a.bias);
            let bias = if a.bias { memory.matrix(n, dtype, tall) } else { Vec::new() };
            let p = Problem {
                a,
                q: memory.matrix::<S>(0, dtype, (tall.0, wide.0)),
                k: memory.matrix(1, dtype, (tall.1, wide.0)),
                v: memory.matrix(2, dtype, (tall.1, wide.1)),
                mask,
                bias,
            };
            let sums = Attention::sums(dtype);
            match a.kind {
                AttentionKind::Forward => {
                    let [out, statistics] = p.forward();
                    memory.put(next, dtype, wide.1, &out);
                    memory.put(next + 1, sums, 2, &statistics);
                }
                AttentionKind::Backward => {
                    let out = memory.matrix(next, dtype, (tall.0, wide.1));
                    let statistics = memory.matrix(next + 1, sums, (tall.0, 2));
                    let d = memory.matrix(next + 2, dtype, (tall.0, wide.1));
                    let results = p.backward(&out, &statistics, &d);
                    for (n, (values, columns)) in results.iter().zip([wide.0, wide.0, wide.1]).enumerate() {
                        memory.put(next + 3 + n, dtype, columns, values);
                    }
                }
            }
        }
    }

    fn seen(&self, i: usize, j: usize) -> bool {
        let a = self.a;
        a.causal.is_none_or(|offset| j as i64 <= i as i64 + offset) && (!a.mask || self.mask[i * a.keys + j] != 0)
    }

    /// Scores of a query.
    fn scores(&self, i: usize, scores: &mut [S]) {
        let a = self.a;
        let (scale, hidden) = (S::of(a.scale.get()), S::of(a.hidden.get()));
        let q = &self.q[i * a.width..(i + 1) * a.width];
        for (j, score) in scores.iter_mut().enumerate() {
            *score = hidden;
            if self.seen(i, j) {
                *score = scale * dot(q, &self.k[j * a.width..(j + 1) * a.width]);
                if a.bias {
                    *score = *score + self.bias[i * a.keys + j];
                }
            }
        }
    }

    fn forward(&self) -> [Vec<S>; 2] {
        let a = self.a;
        let (mut out, mut statistics) = (vec![S::ZERO; a.queries * a.out_width], Vec::new());
        let mut z = vec![S::ZERO; a.keys];
        for i in 0..a.queries {
            self.scores(i, &mut z);
            let larger = |m: S, &x: &S| if m.is_nan() || m > x { m } else { x };
            let top = z.iter().fold(S::of(f64::NEG_INFINITY), larger);
            z.iter_mut().for_each(|x| *x = (*x - top).exp());
            let inverse = z.iter().fold(S::ZERO, |sum, &e| sum + e).inverse();
            let row = &mut out[i * a.out_width..(i + 1) * a.out_width];
            z.iter().zip(self.v.chunks_exact(a.out_width)).for_each(|(&e, v)| add_scaled(row, e * inverse, v));
            statistics.extend([top, inverse]);
        }
        [out, statistics]
    }

    fn backward(&self, out: &[S], statistics: &[S], d: &[S]) -> [Vec<S>; 3] {
        let a = self.a;
        let scale = S::of(a.scale.get());
        let zeros = |rows: usize, columns: usize| vec![S::ZERO; rows * columns];
        let (mut dq, mut dk, mut dv) = (zeros(a.queries, a.width), zeros(a.keys, a.width), zeros(a.keys, a.out_width));
        let mut z = vec![S::ZERO; a.keys];
        for i in 0..a.queries {
            self.scores(i, &mut z);
            let of = |n: usize, width: usize| n * width..(n + 1) * width;
            let (d, q) = (&d[of(i, a.out_width)], &self.q[of(i, a.width)]);
            let mean = dot(&out[of(i, a.out_width)], d);
            for (j, &z) in z.iter().enumerate() {
                let p = (z - statistics[2 * i]).exp() * statistics[2 * i + 1];
                add_scaled(&mut dv[of(j, a.out_width)], p, d);
                if self.seen(i, j) {
                    let t = scale * (p * (dot(d, &self.v[of(j, a.out_width)]) - mean));
                    add_scaled(&mut dq[of(i, a.width)], t, &self.k[of(j, a.width)]);
                    add_scaled(&mut dk[of(j, a.width)], t, q);
                }
            }
        }
        [dq, dk, dv]
    }
}
