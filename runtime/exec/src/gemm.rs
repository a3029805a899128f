//! Matrix products, cut into units by shape: large ones through the `gemm` crate or [`packed`], small ones through [`narrow`] and [`matvec`].

mod widened;

use crate::matvec::{self, MatVec};
use crate::narrow::{self, Level, Narrow, WIDTH};
#[cfg(target_arch = "x86_64")]
use crate::packed::{self, Kind, Packed};
use crate::pool::Pool;
use crate::simd::{self, Float};
use gemm::Parallelism;
use optc_abi::DType;
use optc_abi::plan::Gemm;
use widened::Widened;

/// Multiply-adds below which a product is one unit: handing it to another thread would cost more than it saves.
const UNIT_WORK: usize = 1 << 20;
/// Multiply-adds up to which products of any width go to [`narrow`], which packs nothing.
const NARROW_WORK: usize = 1 << 17;
/// Rows or columns of one unit of a large product, a multiple of every micro-kernel's tile.
const UNIT_SIDE: usize = 96;
/// Rows of one unit of a symmetric product.
const TRIANGLE_SIDE: usize = 64;

/// A matrix product prepared for running: how it is cut depends on its shape only.
#[derive(Clone, Debug)]
pub struct PreparedGemm {
    call: Gemm,
    batches: usize,
    /// Units along rows and columns of one product, and products per unit.
    row_parts: usize,
    col_parts: usize,
    group: usize,
    /// Of a symmetric result only what the rows of a unit have up to the diagonal is made. It is mirrored in any case.
    triangle: bool,
    way: Way,
}

/// Whose code makes the parts of a product.
#[derive(Clone, Debug)]
enum Way {
    /// The `gemm` crate.
    Crate,
    /// Small enough, in the right layout, for the kernels of [`narrow`].
    Narrow(Level),
    /// A matrix times a vector, in a layout [`matvec`] can run.
    Vector(simd::Level),
    /// Whole products of panels; operands and result are exchanged if the flag says so.
    #[cfg(target_arch = "x86_64")]
    Packed(Packed, bool),
    /// A product of bf16 as one of f32.
    Widened(Box<Widened>),
}

impl PreparedGemm {
    /// Decides how the product is cut.
    pub fn new(call: &Gemm) -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::with(call, Kind::f32(), Kind::bf16());
        #[cfg(not(target_arch = "x86_64"))]
        Self::with(call)
    }

    /// As [`Self::new`], on a machine that has these kinds.
    fn with(call: &Gemm, #[cfg(target_arch = "x86_64")] f32: Option<Kind>, #[cfg(target_arch = "x86_64")] bf16: Option<Kind>) -> Self {
        let batches = call.batch.iter().product();
        let work = call.m * call.n * call.k;
        let (mut row_parts, mut col_parts, mut group) = (1, 1, 1);
        let triangle = call.symmetric && call.m >= 2 * TRIANGLE_SIDE;
        let wanted = (work / UNIT_WORK).min(8);
        if batches > 1 {
            group = (UNIT_WORK / work.max(1)).clamp(1, batches);
        } else if work >= 2 * UNIT_WORK && !triangle {
            if call.m >= call.n {
                row_parts = (call.m / UNIT_SIDE).clamp(1, wanted);
            } else {
                col_parts = (call.n / UNIT_SIDE).clamp(1, wanted);
            }
        }
        if triangle {
            row_parts = (call.m / TRIANGLE_SIDE).min(8);
        }
        let narrow = narrow::level().filter(|&level| {
            let fits = call.dtype == DType::F32 && call.n > 0 && call.c.col_stride == 1 && (call.n <= WIDTH || work <= NARROW_WORK);
            fits && narrow::can_run(level, call.n, call.k, call.b.col_stride as isize)
        });
        let half = matches!(call.dtype, DType::BF16 | DType::F16);
        let vector = !half && as_matvec(call, call.m, call.n).is_some_and(|part| part.can_run());
        let way = if vector {
            Way::Vector(simd::Level::best())
        } else if let Some(level) = narrow {
            Way::Narrow(level)
        } else {
            Way::Crate
        };
        let mut prepared = PreparedGemm { call: call.clone(), batches, row_parts, col_parts, group, triangle, way };
        #[cfg(target_arch = "x86_64")]
        if matches!(prepared.way, Way::Crate)
            && let Some((packed, exchanged)) = as_packed(call, if call.dtype == DType::BF16 { bf16 } else { f32 })
        {
            // The crate packs a right operand whose columns are contiguous anew in every unit; where its rows are, it packs nothing.
            let packs = call.m.min(call.n) > 1 && packed.b_col != 1 && row_parts * col_parts > 1;
            if call.dtype == DType::BF16 && call.m.min(call.n) > 1 || call.dtype == DType::F32 && (call.symmetric || packs) {
                prepared.way = Way::Packed(packed, exchanged);
            }
        }
        if half && matches!(prepared.way, Way::Crate) {
            #[cfg(target_arch = "x86_64")]
            let wide = |call: &Gemm| Self::with(call, f32, bf16);
            #[cfg(not(target_arch = "x86_64"))]
            let wide = Self::with;
            prepared.way = Way::Widened(Box::new(Widened::new(call, &wide)));
        }
        prepared
    }

    /// Runs it.
    ///
    /// # Safety
    /// The pointers must be valid for every element the strides of the call reach, and `c` must overlap neither operand.
    pub unsafe fn run(&self, pool: &Pool, a: *const u8, b: *const u8, c: *mut u8) {
        match &self.way {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: forwarded.
            Way::Packed(packed, exchanged) => unsafe { self.run_packed(packed, *exchanged, pool, a, b, c) },
            // SAFETY: forwarded.
            Way::Widened(wide) if self.call.dtype == DType::F16 => unsafe { wide.run::<half::f16>(pool, a.cast(), b.cast(), c.cast()) },
            // SAFETY: forwarded.
            Way::Widened(wide) => unsafe { wide.run::<half::bf16>(pool, a.cast(), b.cast(), c.cast()) },
            _ => match self.call.dtype {
                // SAFETY: forwarded.
                DType::F64 => unsafe { self.run_typed::<f64>(pool, a.cast(), b.cast(), c.cast(), 1.0, 0.0) },
                // SAFETY: forwarded.
                _ => unsafe { self.run_typed::<f32>(pool, a.cast(), b.cast(), c.cast(), 1.0, 0.0) },
            },
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn run_packed(&self, packed: &Packed, exchanged: bool, pool: &Pool, a: *const u8, b: *const u8, c: *mut u8) {
        let g = &self.call;
        let size = g.dtype.size() as isize;
        let (a, b, c) = (Address(a.cast_mut()), Address(b.cast_mut()), Address(c));
        let one = |batch: usize, pool: Option<&Pool>| {
            let [ia, ib, ic] = offsets(g, batch);
            // SAFETY: the caller vouches for all elements the strides reach.
            unsafe {
                let (a, b) = (a.at(ia * size), b.at(ib * size));
                let (a, b) = if exchanged { (b, a) } else { (a, b) };
                packed::product(packed, pool, a, b, c.at(ic * size));
            }
        };
        let work = g.m * g.n * g.k;
        // Few large products are shared among threads one by one.
        if self.batches == 1 || work >= 8 * UNIT_WORK {
            (0..self.batches).for_each(|batch| one(batch, (work >= 2 * UNIT_WORK).then_some(pool)));
        } else {
            let group = self.group;
            pool.run(self.batches.div_ceil(group), &|unit| {
                (unit * group..((unit + 1) * group).min(self.batches)).for_each(|batch| one(batch, None));
            });
        }
    }

    unsafe fn run_typed<T: Float>(&self, pool: &Pool, a: *const T, b: *const T, c: *mut T, one: T, zero: T) {
        let g = &self.call;
        let (a, b, c) = (Address(a.cast_mut()), Address(b.cast_mut()), Address(c));
        let groups = self.batches.div_ceil(self.group);
        let units = groups * self.row_parts * self.col_parts;
        let alpha = if g.accumulate { one } else { zero };
        let unit = |unit: usize| {
            let (group, part) = (unit / (self.row_parts * self.col_parts), unit % (self.row_parts * self.col_parts));
            // The longest rows of a triangle come first.
            let row_part = if self.triangle { self.row_parts - 1 - part } else { part / self.col_parts };
            let rows = cut(g.m, self.row_parts, row_part);
            let mut cols = cut(g.n, self.col_parts, part % self.col_parts);
            if self.triangle {
                cols.1 = rows.0 + rows.1;
            }
            for batch in group * self.group..((group + 1) * self.group).min(self.batches) {
                let [mut ia, mut ib, mut ic] = offsets(g, batch);
                ia += rows.0 as isize * g.a.row_stride as isize;
                ib += cols.0 as isize * g.b.col_stride as isize;
                ic += rows.0 as isize * g.c.row_stride as isize + cols.0 as isize * g.c.col_stride as isize;
                if let Way::Vector(level) = self.way
                    && let Some(part) = as_matvec(g, rows.1, cols.1)
                {
                    // SAFETY: as below.
                    unsafe {
                        let (a, b) = (a.at(ia), b.at(ib));
                        let (matrix, vector) = if g.n == 1 { (a, b) } else { (b, a) };
                        matvec::product(level, part, matrix, vector, c.at(ic));
                    }
                    continue;
                }
                #[cfg(target_arch = "x86_64")]
                if let Way::Narrow(level) = self.way {
                    let shape = Narrow {
                        m: rows.1,
                        n: cols.1,
                        k: g.k,
                        a_row: g.a.row_stride as isize,
                        a_col: g.a.col_stride as isize,
                        b_row: g.b.row_stride as isize,
                        b_col: g.b.col_stride as isize,
                        c_row: g.c.row_stride as isize,
                        accumulate: g.accumulate,
                    };
                    // SAFETY: as below; `narrow` is chosen for f32 on machines that have the instructions.
                    unsafe { narrow::product(level, shape, a.at(ia).cast::<f32>(), b.at(ib).cast::<f32>(), c.at(ic).cast::<f32>()) };
                    continue;
                }
                // SAFETY: the caller vouches for all elements the strides reach; units write disjoint parts of `c`.
                unsafe {
                    gemm::gemm(
                        rows.1,
                        cols.1,
                        g.k,
                        c.at(ic),
                        g.c.col_stride as isize,
                        g.c.row_stride as isize,
                        g.accumulate,
                        a.at(ia),
                        g.a.col_stride as isize,
                        g.a.row_stride as isize,
                        b.at(ib),
                        g.b.col_stride as isize,
                        g.b.row_stride as isize,
                        alpha,
                        one,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    )
                }
            }
        };
        pool.run(units, &unit);
        if g.symmetric {
            let (row, col) = (g.c.row_stride as isize, g.c.col_stride as isize);
            let blocks = g.m.div_ceil(TRIANGLE_SIDE);
            pool.run(self.batches * blocks, &|unit| {
                let [_, _, ic] = offsets(g, unit / blocks);
                let first = unit % blocks * TRIANGLE_SIDE;
                for i in first..(first + TRIANGLE_SIDE).min(g.m) {
                    for j in 0..i as isize {
                        // SAFETY: below the diagonal everything is written; units write columns of their own above it.
                        unsafe { *c.at(ic + j * row + i as isize * col) = *c.at(ic + i as isize * row + j * col) };
                    }
                }
            });
        }
    }
}

/// Elements from the start of a, b and c to the matrices of one product.
fn offsets(g: &Gemm, batch: usize) -> [isize; 3] {
    let mut at = [0; 3];
    let mut rest = batch;
    for axis in (0..g.batch.len()).rev() {
        let i = (rest % g.batch[axis]) as isize;
        rest /= g.batch[axis];
        for (at, side) in at.iter_mut().zip([&g.a, &g.b, &g.c]) {
            *at += i * side.batch_strides[axis] as isize;
        }
    }
    at
}

/// The product for [`packed`], and whether operands change places, if rows or columns of the result are contiguous.
#[cfg(target_arch = "x86_64")]
fn as_packed(g: &Gemm, kind: Option<Kind>) -> Option<(Packed, bool)> {
    if !matches!(g.dtype, DType::F32 | DType::BF16) {
        return None;
    }
    let stride = |s: i64| s as isize;
    let (a, b, c) = (&g.a, &g.b, &g.c);
    Packed {
        kind: kind?,
        m: g.m,
        n: g.n,
        k: g.k,
        a_row: stride(a.row_stride),
        a_col: stride(a.col_stride),
        b_row: stride(b.row_stride),
        b_col: stride(b.col_stride),
        c_row: stride(c.row_stride),
        c_col: stride(c.col_stride),
        accumulate: g.accumulate,
        symmetric: g.symmetric,
    }
    .oriented()
}

/// `rows` rows and `cols` columns of a product of which one extent is 1, as a matrix times a vector.
fn as_matvec(g: &Gemm, rows: usize, cols: usize) -> Option<MatVec> {
    let (k, accumulate) = (g.k, g.accumulate);
    let stride = |s: i64| s as isize;
    if g.n == 1 {
        let (a_row, a_col) = (stride(g.a.row_stride), stride(g.a.col_stride));
        Some(MatVec { m: rows, k, a_row, a_col, x: stride(g.b.row_stride), c: stride(g.c.row_stride), accumulate })
    } else if g.m == 1 {
        // c' = b' a'
        let (a_row, a_col) = (stride(g.b.col_stride), stride(g.b.row_stride));
        Some(MatVec { m: cols, k, a_row, a_col, x: stride(g.a.col_stride), c: stride(g.c.col_stride), accumulate })
    } else {
        None
    }
}

/// Start and length of part `part` of `parts` of `n`, cut at multiples of 16.
fn cut(n: usize, parts: usize, part: usize) -> (usize, usize) {
    let side = n.div_ceil(parts).next_multiple_of(16);
    let start = (part * side).min(n);
    (start, side.min(n - start))
}

/// An address that may be sent to the pool's threads; its users write disjoint elements.
pub(crate) struct Address<T>(pub *mut T);
// SAFETY: only an address; whoever dereferences it keeps accesses disjoint.
unsafe impl<T> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Address<T> {}
impl<T> Address<T> {
    /// The address of the element `i` places on.
    ///
    /// # Safety
    /// As for `pointer::offset`.
    pub(crate) unsafe fn at(&self, i: isize) -> *mut T {
        // SAFETY: forwarded.
        unsafe { self.0.offset(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::{BufRef, MatRef};

    fn mat(row: i64, col: i64, batch: &[i64]) -> MatRef {
        MatRef { data: BufRef::whole(0), row_stride: row, col_stride: col, batch_strides: batch.to_vec() }
    }

    /// A product to be tested: which matrices lie transposed, and how many there are.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        dtype: DType,
        m: usize,
        n: usize,
        k: usize,
        batch: usize,
        turned: [bool; 3],
        symmetric: bool,
        accumulate: bool,
    }

    fn case(m: usize, n: usize, k: usize) -> Case {
        Case { dtype: DType::F32, m, n, k, batch: 1, turned: [false; 3], symmetric: false, accumulate: false }
    }

    /// Elements as bytes of the type.
    fn stored(dtype: DType, values: &[f32]) -> Vec<u8> {
        match dtype {
            DType::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn at(dtype: DType, bytes: &[u8], i: usize) -> f64 {
        match dtype {
            DType::F64 => f64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes")),
            DType::BF16 => half::bf16::from_le_bytes(bytes[2 * i..2 * i + 2].try_into().expect("two bytes")).to_f64(),
            DType::F16 => half::f16::from_le_bytes(bytes[2 * i..2 * i + 2].try_into().expect("two bytes")).to_f64(),
            _ => f64::from(f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))),
        }
    }

    /// Runs it in every way there is here, with several numbers of threads, and compares all elements with sums in f64.
    fn check(t: Case) {
        let Case { dtype, m, n, k, batch, .. } = t;
        let layout = |rows: usize, cols: usize, turned: bool, step: usize| {
            let batches: &[i64] = if batch > 1 { &[step as i64] } else { &[] };
            if turned { mat(1, rows as i64, batches) } else { mat(cols as i64, 1, batches) }
        };
        let a: Vec<f32> = (0..batch * m * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        // A symmetric product is that of a matrix and its transpose; otherwise all batches share the right operand.
        let b: Vec<f32> = if t.symmetric { a.clone() } else { (0..k * n).map(|i| ((i * 53 % 97) as f32 - 48.0) / 64.0).collect() };
        let old: Vec<f32> = (0..batch * m * n).map(|i| ((i % (m * n) / n + i % (m * n) % n) % 13) as f32 / 8.0).collect();
        let call = Gemm {
            dtype,
            m,
            n,
            k,
            batch: if batch > 1 { vec![batch] } else { vec![] },
            a: layout(m, k, t.turned[0], m * k),
            b: if t.symmetric { layout(k, n, !t.turned[0], k * n) } else { layout(k, n, t.turned[1], 0) },
            c: layout(m, n, t.turned[2], m * n),
            accumulate: t.accumulate,
            symmetric: t.symmetric,
        };
        let (a, b, old) = (stored(dtype, &a), stored(dtype, &b), stored(dtype, &old));
        let run = |prepared: &PreparedGemm, threads: usize| {
            let mut c = if t.accumulate { old.clone() } else { stored(dtype, &vec![f32::NAN; batch * m * n]) };
            // SAFETY: the vectors hold every element the strides reach.
            unsafe { prepared.run(&Pool::new(threads), a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
            c
        };
        let mut ways = vec![PreparedGemm::new(&call)];
        #[cfg(target_arch = "x86_64")]
        ways.extend([PreparedGemm::with(&call, None, None), PreparedGemm::with(&call, Kind::f32(), Kind::f32().map(|_| Kind::Widened))]);
        let size = dtype.size();
        let index = |r: &MatRef, z: usize, i: usize, j: usize| {
            let step = r.batch_strides.first().copied().unwrap_or(0);
            (z as i64 * step + i as i64 * r.row_stride + j as i64 * r.col_stride) as usize
        };
        for prepared in &ways {
            let results: Vec<Vec<u8>> = [1, 2, 3].map(|threads| run(prepared, threads)).into();
            assert!(results[1..].iter().all(|c| *c == results[0]), "threads change bits: {t:?}");
            for (z, i, j) in (0..batch).flat_map(|z| (0..m).flat_map(move |i| (0..n).map(move |j| (z, i, j)))) {
                let to = index(&call.c, z, i, j);
                let start = if t.accumulate { at(dtype, &old, to) } else { 0.0 };
                let terms = (0..k).map(|p| at(dtype, &a, index(&call.a, z, i, p)) * at(dtype, &b, index(&call.b, z, p, j)));
                let exact = start + terms.sum::<f64>();
                let got = at(dtype, &results[0], to);
                // The sum in f32, then half a unit of the narrow type.
                let allowed = match dtype {
                    DType::F64 => 1e-14 * k as f64,
                    DType::BF16 => 1e-5 * (k as f64).sqrt() + exact.abs() / 256.0,
                    DType::F16 => 1e-5 * (k as f64).sqrt() + exact.abs() / 2048.0,
                    _ => 1e-5 * (k as f64).sqrt(),
                };
                assert!((got - exact).abs() <= allowed, "{t:?} at {z},{i},{j}: {got} and {exact}");
                if t.symmetric {
                    assert_eq!(results[0][to * size..(to + 1) * size], results[0][index(&call.c, z, j, i) * size..][..size]);
                }
            }
        }
    }

    /// With the left operand as it lies and transposed, the right one too.
    fn check_layouts(t: Case) {
        for turned in [[false; 3], [true, false, false], [false, true, false], [true, true, true]] {
            check(Case { turned, ..t });
        }
    }

    #[test]
    fn products_are_right_and_independent_of_threads() {
        for (m, n, k) in
            [(3, 5, 7), (1, 1, 1), (200, 150, 130), (129, 313, 65), (64, 10, 32), (31, 16, 32), (64, 32, 64), (64, 10, 300), (7, 3, 5)]
        {
            check_layouts(case(m, n, k));
        }
        check(Case { batch: 3, turned: [true, false, false], ..case(13, 1, 5) });
        check(Case { batch: 40, ..case(33, 17, 9) });
        check(Case { accumulate: true, turned: [false, true, false], ..case(200, 150, 300) });
        check(Case { dtype: DType::F64, ..case(70, 50, 30) });
    }

    #[test]
    fn symmetric_products_are_mirrored_to_the_bit() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for turned in [[false; 3], [true; 3]] {
                for (m, k) in [(150, 40), (257, 30), (128, 300), (20, 9), (64, 600)] {
                    check(Case { dtype, turned, symmetric: true, ..case(m, m, k) });
                }
                check(Case { dtype, turned, symmetric: true, batch: 3, ..case(135, 135, 33) });
            }
            check(Case { dtype, symmetric: true, accumulate: true, ..case(140, 140, 20) });
        }
    }

    #[test]
    fn products_of_bf16_are_summed_in_f32_and_rounded_once() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (1, 40, 33), (50, 1, 65), (130, 70, 1), (97, 49, 300), (24, 100, 1100)] {
            check_layouts(Case { dtype: DType::BF16, ..case(m, n, k) });
        }
        check(Case { dtype: DType::BF16, ..case(4100, 4, 520) });
        check_layouts(Case { dtype: DType::BF16, batch: 5, ..case(33, 17, 9) });
        check_layouts(Case { dtype: DType::BF16, accumulate: true, ..case(40, 35, 1100) });
    }

    #[test]
    fn products_of_f16_are_summed_in_f32_and_rounded_once() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (1, 40, 33), (50, 1, 65), (97, 49, 300)] {
            check_layouts(Case { dtype: DType::F16, ..case(m, n, k) });
        }
        check_layouts(Case { dtype: DType::F16, batch: 5, ..case(33, 17, 9) });
        check_layouts(Case { dtype: DType::F16, accumulate: true, ..case(40, 35, 300) });
        check(Case { dtype: DType::F16, symmetric: true, batch: 3, ..case(35, 35, 33) });
    }

    #[test]
    fn rounding_to_bf16_keeps_infinity_and_nan() {
        let of = |x: f32| stored(DType::BF16, &[x; 64 * 64]);
        let call = Gemm { dtype: DType::BF16, batch: vec![], ..product(64, 64, 64) };
        for (x, y) in [(f32::INFINITY, f32::INFINITY), (f32::NAN, f32::NAN), (3e38, f32::INFINITY), (-1e-3, -64e-3)] {
            let (a, b, mut c) = (of(x), of(1.0), of(0.0));
            // SAFETY: the vectors hold every element the strides reach.
            unsafe { PreparedGemm::new(&call).run(&Pool::new(1), a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
            let got = at(DType::BF16, &c, 77);
            assert!(
                got == f64::from(y) || got.is_nan() && y.is_nan() || (got - f64::from(y)).abs() < 4e-3 * f64::from(y).abs(),
                "{x}: {got}"
            );
        }
    }

    /// A dense product of matrices in order.
    fn product(m: usize, n: usize, k: usize) -> Gemm {
        let (a, b, c) = (mat(k as i64, 1, &[]), mat(n as i64, 1, &[]), mat(n as i64, 1, &[]));
        Gemm { dtype: DType::F32, m, n, k, batch: vec![], a, b, c, accumulate: false, symmetric: false }
    }
}
