//! Numerical library calls: the matrices of a batch are cut into units of work by their size alone, each matrix is worked on by one thread, so results do
//! not depend on the number of threads.
//!
//! faer does the work on column-major copies, rustfft the transforms; the copies are scaled by a power of two where the scale could matter to an iteration.
//! Memory is kept by each thread from call to call, so that a step allocates nothing once the first has run.
//!
//! A crate of its own because faer's generic code takes long to compile.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::{cholesky, evd, householder, matmul, qr, svd, triangular_solve};
use faer::traits::RealField;
use faer::{Accum, Auto, Conj, MatMut, MatRef, Par, Spec};
use optc_abi::DType;
use optc_abi::library::{self, AssignmentSpace, LibCall, LibDims};
use rustfft::num_complex::Complex;
use rustfft::{FftNum, FftPlanner};
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Elements that make a unit of work worth handing to a thread.
const UNIT_ELEMENTS: usize = 1 << 12;
/// Columns of a panel of the LU factorization.
const PANEL: usize = 32;

/// A call on resolved addresses.
pub struct Operands {
    call: LibCall,
    dims: LibDims,
    dtype: DType,
    addresses: [*mut u8; MOST],
    grain: usize,
}

// SAFETY: whoever makes one promises that the memory is there; units use disjoint parts of the results.
unsafe impl Sync for Operands {}

impl Operands {
    /// The operands (without the matrix of a solve by factors), then the results.
    ///
    /// # Safety
    /// `buffers` must hold one address per operand and result, valid while this lives, of the extents that `dims` states.
    pub unsafe fn new(call: LibCall, dims: LibDims, dtype: DType, buffers: *const *mut u8) -> Operands {
        // SAFETY: as the caller promises.
        let at = |k: usize| if k < places(call) { unsafe { *buffers.add(k) } } else { std::ptr::null_mut() };
        let grain = (UNIT_ELEMENTS / (dims.m * dims.n).max(1)).max(1);
        Operands { call, dims, dtype, addresses: std::array::from_fn(at), grain }
    }

    /// Number of independent units of work; depends on the extents only.
    pub fn units(&self) -> usize {
        self.dims.batch.div_ceil(self.grain)
    }

    /// Does one unit of work.
    pub fn run(&self, unit: usize) {
        match (self.call, self.dtype) {
            (LibCall::Svd | LibCall::Eigh | LibCall::Pinv, DType::F32 | DType::F64) => self.run_decomposition(unit),
            (_, DType::F32) => self.run_as::<f32>(unit),
            (_, DType::F64) => self.run_as::<f64>(unit),
            _ => panic!("compiler bug: {} of {}", self.call.name(), self.dtype),
        }
    }

    fn run_as<T: Element>(&self, unit: usize) {
        T::with_space(|space| {
            for i in unit * self.grain..((unit + 1) * self.grain).min(self.dims.batch) {
                // SAFETY: matrices of a batch do not overlap, and each belongs to one unit.
                unsafe { one(self.call, self.dims, i, &self.addresses, space) };
            }
        });
    }
}

impl Operands {
    /// Eigenvalues and singular values are computed in f64: in f32 the iterations lose two digits, and one element type is less to compile than two.
    fn run_decomposition(&self, unit: usize) {
        let (m, n, k) = (self.dims.m, self.dims.n, self.dims.k());
        // The operand, then the results.
        let lengths: &[usize] = match self.call {
            LibCall::Svd => &[m * n, m * k, k, k * n],
            LibCall::Eigh => &[n * n, n, n * n],
            _ => &[m * n, m * n],
        };
        f64::with_space(|space| {
            let mut memory = std::mem::take(&mut space.wide);
            let wide = take(&mut memory, if self.dtype == DType::F32 { lengths.iter().sum() } else { 0 }, 0.0);
            for i in unit * self.grain..((unit + 1) * self.grain).min(self.dims.batch) {
                // SAFETY: matrices of a batch do not overlap, and each belongs to one unit.
                unsafe {
                    if self.dtype == DType::F64 {
                        decomposition(self.call, self.dims, i, &self.addresses, f64::EPSILON, space);
                        continue;
                    }
                    let from = part::<f32>(&self.addresses[0], i, lengths[0]);
                    wide.iter_mut().zip(&*from).for_each(|(to, &x)| *to = f64::from(x));
                    let mut at = [std::ptr::null_mut(); MOST];
                    let mut next = wide.as_mut_ptr();
                    for (address, &len) in at.iter_mut().zip(lengths) {
                        (*address, next) = (next.cast::<u8>(), next.add(len));
                    }
                    decomposition(self.call, self.dims, 0, &at, f64::from(f32::EPSILON), space);
                    let mut found = &wide[lengths[0]..];
                    for (address, &len) in self.addresses[1..].iter().zip(&lengths[1..]) {
                        part::<f32>(address, i, len).iter_mut().zip(found).for_each(|(to, &x)| *to = x as f32);
                        found = &found[len..];
                    }
                }
            }
            space.wide = memory;
        });
    }
}

/// The most operands and results a call has.
const MOST: usize = 4;

/// Number of operands and results.
fn places(call: LibCall) -> usize {
    match call {
        LibCall::Cholesky | LibCall::Pinv | LibCall::Assignment { .. } => 2,
        LibCall::TriangularSolve { .. } | LibCall::Qr | LibCall::Eigh => 3,
        LibCall::Lu | LibCall::LuSolve { .. } | LibCall::Svd | LibCall::Fft { .. } => 4,
    }
}

/// An element type, with the memory each thread keeps for it.
trait Element: RealField + FftNum + Copy + 'static {
    const MAX_EXPONENT: i32;
    fn with_space<R>(f: impl FnOnce(&mut Space<Self>) -> R) -> R;
    fn wide(self) -> f64;
    fn from_wide(x: f64) -> Self;
}

macro_rules! element {
    ($t:ty, $max:expr) => {
        impl Element for $t {
            const MAX_EXPONENT: i32 = $max;
            fn with_space<R>(f: impl FnOnce(&mut Space<Self>) -> R) -> R {
                thread_local! {
                    static SPACE: RefCell<Space<$t>> = RefCell::new(Space::new());
                }
                SPACE.with_borrow_mut(f)
            }
            fn wide(self) -> f64 {
                f64::from(self)
            }
            fn from_wide(x: f64) -> Self {
                x as $t
            }
        }
    };
}
element!(f32, 120);
element!(f64, 1000);

/// Memory of one thread.
struct Space<T: FftNum> {
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<T>,
    stack: Vec<MaybeUninit<u8>>,
    complex: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
    planner: FftPlanner<T>,
    wide: Vec<f64>,
    assignment: AssignmentSpace,
}

impl<T: Element> Space<T> {
    fn new() -> Self {
        Space {
            a: Vec::new(),
            b: Vec::new(),
            c: Vec::new(),
            stack: Vec::new(),
            complex: Vec::new(),
            scratch: Vec::new(),
            planner: FftPlanner::new(),
            wide: Vec::new(),
            assignment: AssignmentSpace::default(),
        }
    }
}

/// The first `len` elements, made if there are fewer.
fn take<T: Copy>(v: &mut Vec<T>, len: usize, fill: T) -> &mut [T] {
    if v.len() < len {
        v.resize(len, fill);
    }
    &mut v[..len]
}

fn stack(memory: &mut Vec<MaybeUninit<u8>>, need: StackReq) -> &mut MemStack {
    MemStack::new(take(memory, need.unaligned_bytes_required(), MaybeUninit::uninit()))
}

fn defaults<C: Auto<T>, T>() -> Spec<C, T> {
    Spec::new(C::auto())
}

/// The part of an operand or result that belongs to problem `i`.
unsafe fn part<'a, T>(address: &*mut u8, i: usize, len: usize) -> &'a mut [T] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts_mut(address.cast::<T>().add(i * len), len) }
}

unsafe fn one<T: Element>(call: LibCall, d: LibDims, i: usize, at: &[*mut u8; MOST], s: &mut Space<T>) {
    let (m, n, k) = (d.m, d.n, d.k());
    if k == 0 {
        if call == LibCall::Lu {
            // SAFETY: one sign per matrix.
            unsafe { part(&at[3], i, 1).fill(one_of::<T>()) };
        }
        return;
    }
    // SAFETY: the extents of the operands and results follow from the call's.
    unsafe {
        match call {
            LibCall::Cholesky => cholesky_one(n, part(&at[0], i, n * n), part(&at[1], i, n * n), s),
            LibCall::TriangularSolve { lower, transposed, unit } => {
                let (a, b, x) = (part::<T>(&at[0], i, m * m), part(&at[1], i, m * n), part(&at[2], i, m * n));
                x.copy_from_slice(b);
                triangular(a, x, (m, n), lower, transposed, unit);
            }
            LibCall::Lu => lu_one(n, part(&at[0], i, n * n), part(&at[1], i, n * n), part(&at[2], i, n), part(&at[3], i, 1), s),
            LibCall::LuSolve { transposed } => {
                let (lu, perm) = (part::<T>(&at[0], i, m * m), part::<i32>(&at[1], i, m));
                lu_solve(lu, perm, part(&at[2], i, m * n), part(&at[3], i, m * n), (m, n), transposed, s);
            }
            LibCall::Qr => qr_one((m, n), part(&at[0], i, m * n), part(&at[1], i, m * k), part(&at[2], i, k * n), s),
            LibCall::Fft { inverse } => {
                let (re, im) = (part::<T>(&at[0], i, m), part::<T>(&at[1], i, m));
                fft_one(inverse, re, im, part(&at[2], i, m), part(&at[3], i, m), s);
            }
            LibCall::Assignment { maximize } => {
                let cost = part::<T>(&at[0], i, m * n);
                let wide = take(&mut s.wide, m * n, 0.0);
                wide.iter_mut().zip(&*cost).for_each(|(to, c)| *to = c.wide());
                library::assign(wide, m, n, maximize, &mut s.assignment, part(&at[1], i, m));
            }
            LibCall::Svd | LibCall::Eigh | LibCall::Pinv => panic!("compiler bug: {} is done in f64", call.name()),
        }
    }
}

/// Problem `i` of a decomposition; `eps` is the spacing of the numbers that its operand was given in.
unsafe fn decomposition(call: LibCall, d: LibDims, i: usize, at: &[*mut u8; MOST], eps: f64, s: &mut Space<f64>) {
    let (m, n, k) = (d.m, d.n, d.k());
    if k == 0 {
        return;
    }
    // SAFETY: the extents of the operands and results follow from the call's.
    unsafe {
        match call {
            LibCall::Svd => {
                let (u, values, vt) = (part(&at[1], i, m * k), part(&at[2], i, k), part(&at[3], i, k * n));
                svd_one((m, n), part(&at[0], i, m * n), u, values, vt, s);
            }
            LibCall::Eigh => eigh_one(n, part(&at[0], i, n * n), part(&at[1], i, n), part(&at[2], i, n * n), s),
            _ => pinv_one((m, n), part(&at[0], i, m * n), part(&at[1], i, m * n), eps, s),
        }
    }
}

/// A row-major matrix as faer sees it.
fn rows<T>(x: &[T], m: usize, n: usize) -> MatRef<'_, T> {
    MatRef::from_row_major_slice(x, m, n)
}

/// A column-major matrix as faer sees it.
fn columns_mut<T>(x: &mut [T], m: usize, n: usize) -> MatMut<'_, T> {
    MatMut::from_column_major_slice_mut(x, m, n)
}

/// Writes the transpose of an `m` by `n` row-major matrix, times `scale`.
fn transpose<T: Element>(from: &[T], to: &mut [T], (m, n): (usize, usize), scale: T) {
    for i in 0..m {
        for j in 0..n {
            to[j * m + i] = from[i * n + j] * scale;
        }
    }
}

fn one_of<T: Element>() -> T {
    T::from_wide(1.0)
}

fn fill_nan<T: Element>(results: &mut [&mut [T]]) {
    results.iter_mut().for_each(|r| r.fill(T::from_wide(f64::NAN)));
}

/// The power of two that brings the largest element near 1; `None` if one is not finite.
fn scale_of<T: Element>(a: &[T]) -> Option<T> {
    let mut largest = 0.0f64;
    for x in a {
        let x = x.wide();
        if !x.is_finite() {
            return None;
        }
        largest = largest.max(x.abs());
    }
    let exponent = if largest == 0.0 { 0 } else { (largest.log2().floor() as i32).clamp(-T::MAX_EXPONENT, T::MAX_EXPONENT) };
    Some(T::from_wide((-f64::from(exponent)).exp2()))
}

fn cholesky_one<T: Element>(n: usize, a: &mut [T], l: &mut [T], s: &mut Space<T>) {
    let work = take(&mut s.a, n * n, one_of());
    let mut finite = true;
    for i in 0..n {
        for j in 0..=i {
            let x = a[i * n + j];
            finite &= x.wide().is_finite();
            work[j * n + i] = x;
        }
    }
    let params = defaults();
    let need = cholesky::llt::factor::cholesky_in_place_scratch::<T>(n, Par::Seq, params);
    let factored = finite
        && cholesky::llt::factor::cholesky_in_place(
            columns_mut(work, n, n),
            Default::default(),
            Par::Seq,
            stack(&mut s.stack, need),
            params,
        )
        .is_ok();
    if !factored {
        return fill_nan(&mut [l]);
    }
    for i in 0..n {
        for j in 0..n {
            l[i * n + j] = if j <= i { work[j * n + i] } else { T::from_wide(0.0) };
        }
    }
}

/// Solves in place.
fn triangular<T: Element>(a: &[T], x: &mut [T], (n, k): (usize, usize), lower: bool, transposed: bool, unit: bool) {
    let a = if transposed { rows(a, n, n).transpose() } else { rows(a, n, n) };
    let x = MatMut::from_row_major_slice_mut(x, n, k);
    match (lower != transposed, unit) {
        (true, false) => triangular_solve::solve_lower_triangular_in_place(a, x, Par::Seq),
        (true, true) => triangular_solve::solve_unit_lower_triangular_in_place(a, x, Par::Seq),
        (false, false) => triangular_solve::solve_upper_triangular_in_place(a, x, Par::Seq),
        (false, true) => triangular_solve::solve_unit_upper_triangular_in_place(a, x, Par::Seq),
    }
}

/// Right-looking with partial pivoting, panel by panel. Unlike faer's, it goes on past a column without a pivot, so that the determinant of a singular
/// matrix comes out as zero.
fn lu_one<T: Element>(n: usize, a: &mut [T], lu: &mut [T], perm: &mut [i32], sign: &mut [T], s: &mut Space<T>) {
    perm.iter_mut().enumerate().for_each(|(i, p)| *p = i as i32);
    if scale_of(a).is_none() {
        return fill_nan(&mut [lu, sign]);
    }
    let w = take(&mut s.a, n * n, one_of());
    transpose(a, w, (n, n), one_of());
    let mut even = true;
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        for j in start..end {
            let column = &w[j * n..(j + 1) * n];
            let mut best = j;
            for i in j + 1..n {
                if column[i].wide().abs() > column[best].wide().abs() {
                    best = i;
                }
            }
            if best != j {
                (0..n).for_each(|c| w.swap(c * n + j, c * n + best));
                perm.swap(j, best);
                even = !even;
            }
            let pivot = w[j * n + j];
            // Without a pivot all below is zero already.
            if pivot.wide() != 0.0 {
                w[j * n + j + 1..(j + 1) * n].iter_mut().for_each(|x| *x /= pivot);
            }
            for c in j + 1..end {
                let (left, right) = w.split_at_mut(c * n);
                let (factors, column) = (&left[j * n..(j + 1) * n], &mut right[..n]);
                let by = column[j];
                column[j + 1..].iter_mut().zip(&factors[j + 1..]).for_each(|(x, f)| *x -= *f * by);
            }
        }
        let (done, rest) = w.split_at_mut(end * n);
        let panel = MatRef::from_column_major_slice(&done[start * n..], n, end - start);
        let (_, panel) = panel.split_at_row(start);
        let (corner, below) = panel.split_at_row(end - start);
        let (_, rest) = columns_mut(rest, n, n - end).split_at_row_mut(start);
        let (mut beside, after) = rest.split_at_row_mut(end - start);
        triangular_solve::solve_unit_lower_triangular_in_place(corner, beside.as_mut(), Par::Seq);
        matmul::matmul(after, Accum::Add, below, beside.as_ref(), T::from_wide(-1.0), Par::Seq);
    }
    transpose(w, lu, (n, n), one_of());
    sign[0] = T::from_wide(if even { 1.0 } else { -1.0 });
}

fn lu_solve<T: Element>(lu: &[T], perm: &[i32], b: &[T], x: &mut [T], (m, n): (usize, usize), transposed: bool, s: &mut Space<T>) {
    let row = |i: usize| i * n..(i + 1) * n;
    if transposed {
        let work = take(&mut s.a, m * n, one_of());
        work.copy_from_slice(b);
        triangular(lu, work, (m, n), false, true, false);
        triangular(lu, work, (m, n), true, true, true);
        perm.iter().enumerate().for_each(|(i, &p)| x[row(p as usize)].copy_from_slice(&work[row(i)]));
    } else {
        perm.iter().enumerate().for_each(|(i, &p)| x[row(i)].copy_from_slice(&b[row(p as usize)]));
        triangular(lu, x, (m, n), true, false, true);
        triangular(lu, x, (m, n), false, false, false);
    }
}

fn qr_one<T: Element>((m, n): (usize, usize), a: &mut [T], q: &mut [T], r: &mut [T], s: &mut Space<T>) {
    let k = m.min(n);
    let Some(scale) = scale_of(a) else { return fill_nan(&mut [q, r]) };
    let work = take(&mut s.a, m * n, one_of());
    transpose(a, work, (m, n), scale);
    // Column-major is the transpose in row-major order: `work` now has the columns of A one after the other.
    let block = qr::no_pivoting::factor::recommended_block_size::<T>(m, n);
    let factors = take(&mut s.b, block * k, one_of());
    factors.fill(T::from_wide(0.0));
    let params = defaults();
    let need = qr::no_pivoting::factor::qr_in_place_scratch::<T>(m, n, block, Par::Seq, params);
    let memory = stack(&mut s.stack, need);
    qr::no_pivoting::factor::qr_in_place(columns_mut(work, m, n), columns_mut(factors, block, k), Par::Seq, memory, params);
    let full = take(&mut s.c, m * k, one_of());
    full.fill(T::from_wide(0.0));
    (0..k).for_each(|j| full[j * m + j] = one_of());
    let need = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, k);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        MatRef::from_column_major_slice(&work[..m * k], m, k),
        MatRef::from_column_major_slice(factors, block, k),
        Conj::No,
        columns_mut(full, m, k),
        Par::Seq,
        stack(&mut s.stack, need),
    );
    for j in 0..k {
        let flip = if work[j * m + j].wide() < 0.0 { T::from_wide(-1.0) } else { one_of() };
        (0..m).for_each(|i| q[i * k + j] = full[j * m + i] * flip);
        (0..n).for_each(|c| r[j * n + c] = if c < j { T::from_wide(0.0) } else { work[c * m + j] * flip / scale });
    }
}

/// The singular value decomposition of an `m` by `n` matrix in `s.a` (column-major); `u` and `v` are column-major.
fn decompose(
    (m, n): (usize, usize),
    a: &[f64],
    u: &mut [f64],
    values: &mut [f64],
    v: &mut [f64],
    memory: &mut Vec<MaybeUninit<u8>>,
) -> bool {
    let k = m.min(n);
    let params = defaults();
    let thin = svd::ComputeSvdVectors::Thin;
    let need = svd::svd_scratch::<f64>(m, n, thin, thin, Par::Seq, params);
    let a = MatRef::from_column_major_slice(a, m, n);
    let (left, right) = (columns_mut(u, m, k), columns_mut(v, n, k));
    let memory = stack(memory, need);
    if svd::svd(a, DiagMut::from_slice_mut(values), Some(left), Some(right), Par::Seq, memory, params).is_err() {
        return false;
    }
    // Rounding may have left values near zero negative, or out of order.
    for j in 0..k {
        if values[j] < 0.0 {
            values[j] = -values[j];
            v[j * n..(j + 1) * n].iter_mut().for_each(|x| *x = -*x);
        }
        for i in (0..j).rev() {
            if values[i] >= values[i + 1] {
                break;
            }
            values.swap(i, i + 1);
            (0..m).for_each(|r| u.swap(i * m + r, (i + 1) * m + r));
            (0..n).for_each(|r| v.swap(i * n + r, (i + 1) * n + r));
        }
    }
    true
}

fn svd_one((m, n): (usize, usize), a: &mut [f64], u: &mut [f64], values: &mut [f64], vt: &mut [f64], s: &mut Space<f64>) {
    let k = m.min(n);
    let Some(scale) = scale_of(a) else { return fill_nan(&mut [u, values, vt]) };
    let work = take(&mut s.a, m * n, one_of());
    transpose(a, work, (m, n), scale);
    let left = take(&mut s.b, m * k, one_of());
    // V column by column is Vt row by row.
    if !decompose((m, n), work, left, values, vt, &mut s.stack) {
        return fill_nan(&mut [u, values, vt]);
    }
    transpose(left, u, (k, m), one_of());
    values.iter_mut().for_each(|x| *x /= scale);
}

fn pinv_one((m, n): (usize, usize), a: &mut [f64], z: &mut [f64], eps: f64, s: &mut Space<f64>) {
    let k = m.min(n);
    let Some(scale) = scale_of(a) else { return fill_nan(&mut [z]) };
    let work = take(&mut s.a, m * n, one_of());
    transpose(a, work, (m, n), scale);
    let left = take(&mut s.b, m * k, one_of());
    let right = take(&mut s.c, n * k + k, one_of());
    let (right, values) = right.split_at_mut(n * k);
    if !decompose((m, n), work, left, values, right, &mut s.stack) {
        return fill_nan(&mut [z]);
    }
    let least = values.first().map_or(0.0, |v| *v) * m.max(n) as f64 * eps;
    let rank = values.iter().take_while(|v| **v > least).count();
    for j in 0..rank {
        let by = scale / values[j];
        right[j * n..(j + 1) * n].iter_mut().for_each(|x| *x *= by);
    }
    let left = MatRef::from_column_major_slice(&left[..m * rank], m, rank);
    let right = MatRef::from_column_major_slice(&right[..n * rank], n, rank);
    matmul::matmul(MatMut::from_row_major_slice_mut(z, n, m), Accum::Replace, right, left.transpose(), 1.0, Par::Seq);
}

fn eigh_one(n: usize, a: &mut [f64], values: &mut [f64], vectors: &mut [f64], s: &mut Space<f64>) {
    let work = take(&mut s.a, n * n, one_of());
    for i in 0..n {
        for j in 0..=i {
            (work[j * n + i], work[i * n + j]) = (a[i * n + j], a[i * n + j]);
        }
    }
    let Some(scale) = scale_of(work) else { return fill_nan(&mut [values, vectors]) };
    work.iter_mut().for_each(|x| *x *= scale);
    let params = defaults();
    let need = evd::self_adjoint_evd_scratch::<f64>(n, evd::ComputeEigenvectors::Yes, Par::Seq, params);
    let found = take(&mut s.b, n * n, one_of());
    let done = evd::self_adjoint_evd(
        MatRef::from_column_major_slice(work, n, n),
        DiagMut::from_slice_mut(values),
        Some(columns_mut(found, n, n)),
        Par::Seq,
        stack(&mut s.stack, need),
        params,
    );
    if done.is_err() {
        return fill_nan(&mut [values, vectors]);
    }
    transpose(found, vectors, (n, n), one_of());
    values.iter_mut().for_each(|x| *x /= scale);
}

fn fft_one<T: Element>(inverse: bool, re: &[T], im: &[T], out_re: &mut [T], out_im: &mut [T], s: &mut Space<T>) {
    let zero = Complex::new(T::from_wide(0.0), T::from_wide(0.0));
    let n = re.len();
    let plan = if inverse { s.planner.plan_fft_inverse(n) } else { s.planner.plan_fft_forward(n) };
    let x = take(&mut s.complex, n, zero);
    x.iter_mut().zip(re.iter().zip(im)).for_each(|(x, (&re, &im))| *x = Complex::new(re, im));
    let scratch = take(&mut s.scratch, plan.get_inplace_scratch_len(), zero);
    plan.process_with_scratch(x, scratch);
    x.iter().zip(out_re.iter_mut().zip(out_im)).for_each(|(x, (re, im))| (*re, *im) = (x.re, x.im));
}
