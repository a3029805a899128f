//! Numerical library calls against the identities that define them, on random and hard matrices, in both precisions; batches against single calls, and on
//! any number of threads.

use optc_abi::library::{LibCall, LibDims};
use optc_abi::{DType, Tensor};
use optc_linalg::Operands;

/// Runs a call on operands; results have these types and shapes.
fn call_on(threads: usize, call: LibCall, operands: &[Tensor], results: &[(DType, &[usize])]) -> Vec<Tensor> {
    let out: Vec<Tensor> = results.iter().map(|(dtype, shape)| Tensor::zeros(*dtype, shape)).collect();
    let buffers: Vec<*mut u8> = operands.iter().chain(&out).map(|t| t.as_ptr()).collect();
    let dims = LibDims::of(call, &operands[operands.len() - 1].shape);
    // SAFETY: one address per operand and result, of the call's extents.
    let run = unsafe { Operands::new(call, dims, operands[0].dtype, buffers.as_ptr()) };
    std::thread::scope(|scope| {
        for t in 0..threads {
            let run = &run;
            scope.spawn(move || (t..run.units()).step_by(threads).for_each(|unit| run.run(unit)));
        }
    });
    out
}

fn call(name: LibCall, operands: &[Tensor], results: &[(DType, &[usize])]) -> Vec<Tensor> {
    call_on(1, name, operands, results)
}

struct Noise(u64);
impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }
    fn matrix(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.next()).collect();
        Tensor::from_f64(dtype, shape, &values)
    }
}

/// A row-major matrix in f64.
#[derive(Clone, Debug)]
struct Mat {
    m: usize,
    n: usize,
    x: Vec<f64>,
}
impl Mat {
    fn of(t: &Tensor) -> Mat {
        let r = t.shape.len();
        Mat { m: t.shape[r - 2], n: t.shape[r - 1], x: t.to_f64() }
    }
    fn eye(n: usize) -> Mat {
        Mat { m: n, n, x: (0..n * n).map(|i| f64::from(i / n == i % n)).collect() }
    }
    fn diag(v: &[f64]) -> Mat {
        let n = v.len();
        Mat { m: n, n, x: (0..n * n).map(|i| if i / n == i % n { v[i % n] } else { 0.0 }).collect() }
    }
    fn at(&self, i: usize, j: usize) -> f64 {
        self.x[i * self.n + j]
    }
    fn t(&self) -> Mat {
        Mat { m: self.n, n: self.m, x: (0..self.m * self.n).map(|k| self.at(k % self.m, k / self.m)).collect() }
    }
    fn mul(&self, b: &Mat) -> Mat {
        assert_eq!(self.n, b.m);
        let x = (0..self.m * b.n).map(|k| (0..self.n).map(|p| self.at(k / b.n, p) * b.at(p, k % b.n)).sum()).collect();
        Mat { m: self.m, n: b.n, x }
    }
    fn size(&self) -> f64 {
        self.x.iter().fold(0.0, |a, v| a.max(v.abs()))
    }
    fn keep(&self, inside: impl Fn(usize, usize) -> bool) -> Mat {
        Mat { x: (0..self.x.len()).map(|k| if inside(k / self.n, k % self.n) { self.x[k] } else { 0.0 }).collect(), ..self.clone() }
    }
    fn tensor(&self, dtype: DType) -> Tensor {
        Tensor::from_f64(dtype, &[self.m, self.n], &self.x)
    }
}

/// Whether two matrices agree within rounding of a computation of this size.
#[track_caller]
fn near(a: &Mat, b: &Mat, dtype: DType, what: &str) {
    assert_eq!((a.m, a.n), (b.m, b.n), "{what}");
    let eps = if dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let scale = a.size().max(b.size()).max(f64::MIN_POSITIVE);
    let worst =
        a.x.iter().zip(&b.x).fold(0.0f64, |w, (x, y)| if x.is_finite() && y.is_finite() { w.max((x - y).abs()) } else { f64::INFINITY });
    assert!(worst <= 60.0 * eps * scale * (a.m.max(a.n) as f64 + 1.0), "{what} of {}x{} {dtype}: off by {worst}, scale {scale}", a.m, a.n);
}

const TYPES: [DType; 2] = [DType::F32, DType::F64];

/// Random, graded over eight orders of magnitude, rank deficient, zero, huge and tiny.
fn hard(dtype: DType, m: usize, n: usize) -> Vec<Tensor> {
    let mut noise = Noise(m as u64 * 31 + n as u64);
    let random = noise.matrix(dtype, &[m, n]);
    let change = |f: &dyn Fn(usize, usize, f64) -> f64| {
        let values: Vec<f64> = random.to_f64().iter().enumerate().map(|(k, &x)| f(k / n, k % n, x)).collect();
        Tensor::from_f64(dtype, &[m, n], &values)
    };
    let (low, high) = if dtype == DType::F32 { (1e-30, 1e30) } else { (1e-250, 1e250) };
    vec![
        random.clone(),
        change(&|i, _, x| x * 10f64.powf(-8.0 * i as f64 / m as f64)),
        change(&|i, j, _| ((i % 2) as f64 + 1.0) * ((j % 3) as f64 - 0.5)),
        change(&|_, _, _| 0.0),
        change(&|_, _, x| x * low),
        change(&|_, _, x| x * high),
        change(&|i, j, _| f64::from(i == j)),
    ]
}

#[test]
fn cholesky_and_triangular_solves() {
    for dtype in TYPES {
        for n in [1, 2, 5, 33, 70] {
            let x = Mat::of(&Noise(n as u64).matrix(dtype, &[n, n]));
            let mut a = x.mul(&x.t());
            (0..n).for_each(|i| a.x[i * n + i] += 1.0);
            let a = Mat::of(&a.tensor(dtype));
            let l = Mat::of(&call(LibCall::Cholesky, &[a.tensor(dtype)], &[(dtype, &[n, n])])[0]);
            near(&l.mul(&l.t()), &a, dtype, "L L'");
            assert!((0..n).all(|i| l.at(i, i) > 0.0 && (i + 1..n).all(|j| l.at(i, j) == 0.0)));
            let b = Mat::of(&Noise(9).matrix(dtype, &[n, 3]));
            // The full matrix: only a triangle of it may be read.
            for (lower, transposed, unit) in (0..8).map(|k| (k & 1 > 0, k & 2 > 0, k & 4 > 0)) {
                let mut t = Mat { x: a.x.iter().map(|v| v / n as f64 / 4.0).collect(), ..a.clone() };
                (0..n).for_each(|i| t.x[i * n + i] += 2.0);
                let t = Mat::of(&t.tensor(dtype));
                let op = LibCall::TriangularSolve { lower, transposed, unit };
                let got = Mat::of(&call(op, &[t.tensor(dtype), b.tensor(dtype)], &[(dtype, &[n, 3])])[0]);
                let mut full = t.keep(|i, j| if lower { j <= i } else { i <= j });
                if unit {
                    (0..n).for_each(|i| full.x[i * n + i] = 1.0);
                }
                let full = if transposed { full.t() } else { full };
                near(&full.mul(&got), &b, dtype, "T X");
            }
        }
    }
}

#[test]
fn lu_and_solves() {
    for dtype in TYPES {
        for n in [1, 2, 7, 31, 32, 33, 80] {
            for a in hard(dtype, n, n) {
                let out = call(LibCall::Lu, std::slice::from_ref(&a), &[(dtype, &[n, n]), (DType::I32, &[n]), (dtype, &[])]);
                let lu = Mat::of(&out[0]);
                let perm: Vec<usize> = out[1].to_f64().iter().map(|&p| p as usize).collect();
                let mut l = lu.keep(|i, j| j < i);
                (0..n).for_each(|i| l.x[i * n + i] = 1.0);
                assert!(l.size() <= 1.0, "pivots are largest");
                let a_mat = Mat::of(&a);
                let permuted = Mat { x: perm.iter().flat_map(|&p| a_mat.x[p * n..(p + 1) * n].to_vec()).collect(), ..a_mat.clone() };
                near(&l.mul(&lu.keep(|i, j| i <= j)), &permuted, dtype, "L U");
                let odd = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|&(i, j)| perm[i] < perm[j]).count() % 2;
                assert_eq!(out[2].get_f64(0), if odd == 1 { -1.0 } else { 1.0 });
            }
            let mut a = Mat::of(&Noise(4).matrix(dtype, &[n, n]));
            (0..n).for_each(|i| a.x[i * n + (i + 1) % n] += n as f64);
            let a = Mat::of(&a.tensor(dtype));
            let f = call(LibCall::Lu, &[a.tensor(dtype)], &[(dtype, &[n, n]), (DType::I32, &[n]), (dtype, &[])]);
            let b = Noise(5).matrix(dtype, &[n, 2]);
            for transposed in [false, true] {
                let op = LibCall::LuSolve { transposed };
                let x = Mat::of(&call(op, &[f[0].clone(), f[1].clone(), b.clone()], &[(dtype, &[n, 2])])[0]);
                let full = if transposed { a.t() } else { a.clone() };
                near(&full.mul(&x), &Mat::of(&b), dtype, "A X");
            }
        }
    }
}

#[test]
fn orthogonal_factors() {
    for dtype in TYPES {
        for (m, n) in [(1, 1), (4, 4), (7, 3), (3, 7), (40, 33), (20, 45), (130, 130), (1, 5), (5, 1)] {
            let k = m.min(n);
            for a in hard(dtype, m, n) {
                let a_mat = Mat::of(&a);
                let out = call(LibCall::Qr, std::slice::from_ref(&a), &[(dtype, &[m, k]), (dtype, &[k, n])]);
                let (q, r) = (Mat::of(&out[0]), Mat::of(&out[1]));
                near(&q.mul(&r), &a_mat, dtype, "Q R");
                near(&q.t().mul(&q), &Mat::eye(k), dtype, "Q' Q");
                assert!((0..k).all(|i| r.at(i, i) >= 0.0 && (0..i).all(|j| r.at(i, j) == 0.0)));
                let out = call(LibCall::Svd, std::slice::from_ref(&a), &[(dtype, &[m, k]), (dtype, &[k]), (dtype, &[k, n])]);
                let (u, s, vt) = (Mat::of(&out[0]), out[1].to_f64(), Mat::of(&out[2]));
                near(&u.mul(&Mat::diag(&s)).mul(&vt), &a_mat, dtype, "U S Vt");
                near(&u.t().mul(&u), &Mat::eye(k), dtype, "U' U");
                near(&vt.mul(&vt.t()), &Mat::eye(k), dtype, "Vt V");
                assert!(s.windows(2).all(|w| w[0] >= w[1]) && s.iter().all(|&s| s >= 0.0));
            }
        }
    }
}

#[test]
fn eigenvalues_of_symmetric_matrices() {
    for dtype in TYPES {
        for n in [1, 2, 3, 8, 40, 140] {
            for a in hard(dtype, n, n) {
                // Only the lower triangle is read: the upper one is anything.
                let lower = Mat::of(&a).keep(|i, j| j <= i);
                let strict = lower.keep(|i, j| j < i).t();
                let sym = Mat { x: lower.x.iter().zip(&strict.x).map(|(a, b)| a + b).collect(), ..lower.clone() };
                let out = call(LibCall::Eigh, &[a], &[(dtype, &[n]), (dtype, &[n, n])]);
                let (values, v) = (out[0].to_f64(), Mat::of(&out[1]));
                near(&v.mul(&Mat::diag(&values)).mul(&v.t()), &sym, dtype, "V L V'");
                near(&v.t().mul(&v), &Mat::eye(n), dtype, "V' V");
                assert!(values.windows(2).all(|w| w[0] <= w[1]));
            }
        }
    }
}

#[test]
fn pseudoinverses() {
    for dtype in TYPES {
        for (m, n) in [(5, 3), (3, 5), (4, 4), (30, 10)] {
            for a in hard(dtype, m, n).into_iter().enumerate().filter(|(k, _)| *k != 1).map(|(_, a)| a) {
                let a_mat = Mat::of(&a);
                let z = Mat::of(&call(LibCall::Pinv, &[a], &[(dtype, &[n, m])])[0]);
                let (az, za) = (a_mat.mul(&z), z.mul(&a_mat));
                let loose = |x: &Mat| Mat { x: x.x.iter().map(|v| v / 20.0).collect(), ..x.clone() };
                near(&loose(&az.mul(&a_mat)), &loose(&a_mat), dtype, "A Z A");
                assert!(az.x.iter().zip(&az.t().x).all(|(a, b)| (a - b).abs() < 1e-3), "A Z is symmetric");
                assert!(za.x.iter().zip(&za.t().x).all(|(a, b)| (a - b).abs() < 1e-3), "Z A is symmetric");
            }
        }
    }
}

#[test]
fn transforms_by_definition() {
    for dtype in TYPES {
        for n in [1, 2, 8, 15, 17, 64] {
            let (re, im) = (Noise(3).matrix(dtype, &[n]), Noise(8).matrix(dtype, &[n]));
            for inverse in [false, true] {
                let out = call(LibCall::Fft { inverse }, &[re.clone(), im.clone()], &[(dtype, &[n]), (dtype, &[n])]);
                let sign = if inverse { 1.0 } else { -1.0 };
                for j in 0..n {
                    let (mut a, mut b) = (0.0, 0.0);
                    for k in 0..n {
                        let (sin, cos) = (sign * std::f64::consts::TAU * (j * k) as f64 / n as f64).sin_cos();
                        a += re.get_f64(k) * cos - im.get_f64(k) * sin;
                        b += re.get_f64(k) * sin + im.get_f64(k) * cos;
                    }
                    let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-13 } * n as f64;
                    assert!((out[0].get_f64(j) - a).abs() < tolerance && (out[1].get_f64(j) - b).abs() < tolerance, "{n} {j}");
                }
            }
        }
    }
}

#[test]
fn what_has_no_result_is_nan_and_only_that() {
    let bad = |values: &[f64]| Tensor::from_f64(DType::F64, &[2, 2, 2], values);
    // A batch of which the first matrix is indefinite, singular or not finite.
    let good = [2.0, 1.0, 1.0, 2.0];
    let with = |first: [f64; 4]| bad(&[&first[..], &good[..]].concat());
    let halves = |t: &Tensor| {
        let v = t.to_f64();
        let (a, b) = v.split_at(v.len() / 2);
        (a.iter().all(|x| x.is_nan()), b.iter().all(|x| x.is_finite()))
    };
    let (f, inf) = (DType::F64, f64::INFINITY);
    let results: [(LibCall, &[(DType, &[usize])]); 5] = [
        (LibCall::Cholesky, &[(f, &[2, 2, 2])]),
        (LibCall::Qr, &[(f, &[2, 2, 2]), (f, &[2, 2, 2])]),
        (LibCall::Svd, &[(f, &[2, 2, 2]), (f, &[2, 2]), (f, &[2, 2, 2])]),
        (LibCall::Eigh, &[(f, &[2, 2]), (f, &[2, 2, 2])]),
        (LibCall::Pinv, &[(f, &[2, 2, 2])]),
    ];
    for (name, shapes) in results {
        for first in [[f64::NAN, 0.0, 0.0, 1.0], [1.0, 0.0, inf, 1.0], [1.0, 0.0, 0.0, -inf]] {
            for result in call(name, &[with(first)], shapes) {
                assert_eq!(halves(&result), (true, true), "{name:?} of {first:?}");
            }
        }
    }
    assert_eq!(halves(&call(LibCall::Cholesky, &[with([1.0, 2.0, 2.0, 1.0])], &[(f, &[2, 2, 2])])[0]), (true, true));
    let lu = call(LibCall::Lu, &[with([f64::NAN; 4])], &[(f, &[2, 2, 2]), (DType::I32, &[2, 2]), (f, &[2])]);
    assert_eq!((halves(&lu[0]), lu[1].to_f64()), ((true, true), vec![0.0, 1.0, 0.0, 1.0]));
}

#[test]
fn a_batch_is_its_matrices_on_any_number_of_threads() {
    let mut noise = Noise(77);
    for (batch, n) in [(7, 40), (300, 6)] {
        let a = noise.matrix(DType::F32, &[batch, n, n]);
        let f = DType::F32;
        let all: [(LibCall, Vec<(DType, Vec<usize>)>); 4] = [
            (LibCall::Svd, vec![(f, vec![n, n]), (f, vec![n]), (f, vec![n, n])]),
            (LibCall::Eigh, vec![(f, vec![n]), (f, vec![n, n])]),
            (LibCall::Lu, vec![(f, vec![n, n]), (DType::I32, vec![n]), (f, vec![])]),
            (LibCall::Assignment { maximize: true }, vec![(DType::I32, vec![n])]),
        ];
        for (name, shapes) in all {
            let whole: Vec<(DType, Vec<usize>)> = shapes.iter().map(|(t, s)| (*t, [&[batch][..], s].concat())).collect();
            let whole: Vec<(DType, &[usize])> = whole.iter().map(|(t, s)| (*t, &s[..])).collect();
            let one = call_on(1, name, std::slice::from_ref(&a), &whole);
            let many = call_on(3, name, std::slice::from_ref(&a), &whole);
            let single: Vec<(DType, &[usize])> = shapes.iter().map(|(t, s)| (*t, &s[..])).collect();
            for (x, y) in one.iter().zip(&many) {
                assert!(x.bytes() == y.bytes(), "{name:?} depends on the number of threads");
            }
            for i in [0, batch - 1] {
                let part = &a.to_f64()[i * n * n..(i + 1) * n * n];
                let alone = call(name, &[Tensor::from_f64(f, &[n, n], part)], &single);
                for (x, y) in one.iter().zip(&alone) {
                    let len = y.bytes().len();
                    assert!(&x.bytes()[i * len..(i + 1) * len] == y.bytes(), "{name:?} in a batch");
                }
            }
        }
    }
}

#[test]
fn nothing_is_an_empty_batch() {
    let f = DType::F64;
    let a = Tensor::zeros(f, &[0, 3, 3]);
    assert!(call(LibCall::Svd, &[a], &[(f, &[0, 3, 3]), (f, &[0, 3]), (f, &[0, 3, 3])]).iter().all(|t| t.is_empty()));
    assert_eq!(call(LibCall::Lu, &[Tensor::zeros(f, &[0, 0])], &[(f, &[0, 0]), (DType::I32, &[0]), (f, &[])])[2].get_f64(0), 1.0);
    call(LibCall::Eigh, &[Tensor::zeros(f, &[0, 0])], &[(f, &[0]), (f, &[0, 0])]);
    call(LibCall::Qr, &[Tensor::zeros(f, &[3, 0])], &[(f, &[3, 0]), (f, &[0, 0])]);
    call(LibCall::Pinv, &[Tensor::zeros(f, &[0, 3])], &[(f, &[3, 0])]);
}
