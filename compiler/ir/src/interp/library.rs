//! Numerical library calls by the plainest algorithm: Cholesky-Banachiewicz, Gaussian elimination, Householder, Jacobi rotations, the definition of the
//! Fourier transform. The matrices of a batch are taken one by one.

use super::value::{Data, Value};
use crate::graph::{LibCall, NodeTy};
use optc_abi::DType;
use optc_abi::library::{self, LibDims};
use std::rc::Rc;

/// The results of a call. `ty` is the type of its node.
pub fn run(call: LibCall, x: &[Rc<Value>], ty: &NodeTy) -> Vec<Value> {
    let types = match ty {
        NodeTy::Array(ty) => std::slice::from_ref(ty),
        NodeTy::Tuple(types) => types,
    };
    let mut results: Vec<Value> = types.iter().map(|t| Value::zeros(t.clone())).collect();
    let dims = LibDims::of(call, &x[x.len() - 1].ty.shape);
    let eps = if x[0].ty.dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    for i in 0..dims.batch {
        let part = |v: &Value| {
            let len = v.ty.len() / dims.batch;
            i * len..(i + 1) * len
        };
        let operands: Vec<Vec<f64>> = x
            .iter()
            .map(|v| match &v.data {
                Data::Float(f) => f[part(v)].to_vec(),
                Data::Int(n) => n[part(v)].iter().map(|&n| n as f64).collect(),
            })
            .collect();
        let found = one(call, &operands, dims, eps);
        for (result, values) in results.iter_mut().zip(found) {
            let range = part(result);
            match &mut result.data {
                Data::Float(all) => all[range].copy_from_slice(&values),
                Data::Int(all) => all[range].iter_mut().zip(values).for_each(|(to, v)| *to = v as i64),
            }
        }
    }
    results
}

fn one(call: LibCall, x: &[Vec<f64>], d: LibDims, eps: f64) -> Vec<Vec<f64>> {
    let (m, n) = (d.m, d.n);
    match call {
        LibCall::Cholesky => vec![cholesky(&x[0], n)],
        LibCall::TriangularSolve { lower, transposed, unit } => {
            let mut b = x[1].clone();
            triangular(&x[0], &mut b, (m, n), lower, transposed, unit);
            vec![b]
        }
        LibCall::Lu => lu(&x[0], n),
        LibCall::LuSolve { transposed } => {
            let (lu, perm) = (&x[1], &x[2]);
            let rows = |b: &[f64], to: &dyn Fn(usize) -> (usize, usize)| {
                let mut out = vec![0.0; b.len()];
                for i in 0..m {
                    let (target, source) = to(i);
                    out[target * n..(target + 1) * n].copy_from_slice(&b[source * n..(source + 1) * n]);
                }
                out
            };
            if transposed {
                let mut b = x[3].clone();
                triangular(lu, &mut b, (m, n), false, true, false);
                triangular(lu, &mut b, (m, n), true, true, true);
                vec![rows(&b, &|i| (perm[i] as usize, i))]
            } else {
                let mut b = rows(&x[3], &|i| (i, perm[i] as usize));
                triangular(lu, &mut b, (m, n), true, false, true);
                triangular(lu, &mut b, (m, n), false, false, false);
                vec![b]
            }
        }
        LibCall::Qr => qr(&x[0], m, n),
        LibCall::Svd => svd(&x[0], m, n),
        LibCall::Eigh => eigh(&x[0], n),
        LibCall::Pinv => vec![pinv(&x[0], m, n, eps)],
        LibCall::Fft { inverse } => dft(&x[0], &x[1], inverse),
        LibCall::Assignment { maximize } => {
            let mut columns = vec![0; m];
            library::assign(&x[0], m, n, maximize, &mut library::AssignmentSpace::default(), &mut columns);
            vec![columns.into_iter().map(f64::from).collect()]
        }
    }
}

fn finite(a: &[f64]) -> bool {
    a.iter().all(|v| v.is_finite())
}

fn cholesky(a: &[f64], n: usize) -> Vec<f64> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = a[i * n + j] - sum;
            if i != j {
                l[i * n + j] = rest / l[j * n + j];
            } else if rest > 0.0 && rest.is_finite() {
                l[i * n + i] = rest.sqrt();
            } else {
                return vec![f64::NAN; n * n];
            }
        }
    }
    l
}

fn triangular(a: &[f64], b: &mut [f64], (n, k): (usize, usize), lower: bool, transposed: bool, unit: bool) {
    let at = |i: usize, j: usize| if transposed { a[j * n + i] } else { a[i * n + j] };
    // Forward where the matrix, transposed if it is to be, is lower.
    let forward = lower != transposed;
    for step in 0..n {
        let i = if forward { step } else { n - 1 - step };
        let before = if forward { 0..i } else { i + 1..n };
        for c in 0..k {
            let sum: f64 = before.clone().map(|j| at(i, j) * b[j * k + c]).sum();
            let rest = b[i * k + c] - sum;
            b[i * k + c] = if unit { rest } else { rest / at(i, i) };
        }
    }
}

fn lu(a: &[f64], n: usize) -> Vec<Vec<f64>> {
    let mut lu = a.to_vec();
    let mut perm: Vec<usize> = (0..n).collect();
    let mut sign = 1.0;
    if !finite(a) {
        return vec![vec![f64::NAN; n * n], perm.into_iter().map(|p| p as f64).collect(), vec![f64::NAN]];
    }
    for j in 0..n {
        let mut best = j;
        for i in j + 1..n {
            if lu[i * n + j].abs() > lu[best * n + j].abs() {
                best = i;
            }
        }
        if best != j {
            (0..n).for_each(|c| lu.swap(j * n + c, best * n + c));
            perm.swap(j, best);
            sign = -sign;
        }
        let pivot = lu[j * n + j];
        for i in j + 1..n {
            // Without a pivot all below is zero already.
            let factor = if pivot == 0.0 { 0.0 } else { lu[i * n + j] / pivot };
            lu[i * n + j] = factor;
            (j + 1..n).for_each(|c| lu[i * n + c] -= factor * lu[j * n + c]);
        }
    }
    vec![lu, perm.into_iter().map(|p| p as f64).collect(), vec![sign]]
}

/// Householder reflections; the diagonal of R is made not negative in the end.
fn qr(a: &[f64], m: usize, n: usize) -> Vec<Vec<f64>> {
    let k = m.min(n);
    if !finite(a) {
        return vec![vec![f64::NAN; m * k], vec![f64::NAN; k * n]];
    }
    let mut r = a.to_vec();
    let mut reflections: Vec<Vec<f64>> = Vec::new();
    let reflect = |v: &[f64], x: &mut [f64], columns: usize| {
        let square: f64 = v.iter().map(|v| v * v).sum();
        if square == 0.0 {
            return;
        }
        for c in 0..columns {
            let scale = 2.0 * (0..m).map(|i| v[i] * x[i * columns + c]).sum::<f64>() / square;
            (0..m).for_each(|i| x[i * columns + c] -= scale * v[i]);
        }
    };
    for j in 0..k {
        let norm = (j..m).map(|i| r[i * n + j].powi(2)).sum::<f64>().sqrt();
        let mut v = vec![0.0; m];
        (j..m).for_each(|i| v[i] = r[i * n + j]);
        v[j] += if v[j] < 0.0 { -norm } else { norm };
        reflect(&v, &mut r, n);
        (j + 1..m).for_each(|i| r[i * n + j] = 0.0);
        reflections.push(v);
    }
    let mut q = vec![0.0; m * k];
    (0..k).for_each(|i| q[i * k + i] = 1.0);
    reflections.iter().rev().for_each(|v| reflect(v, &mut q, k));
    r.truncate(k * n);
    for j in 0..k {
        if r[j * n + j] < 0.0 {
            (0..n).for_each(|c| r[j * n + c] = -r[j * n + c]);
            (0..m).for_each(|i| q[i * k + j] = -q[i * k + j]);
        }
    }
    vec![q, r]
}

/// Sweeps of Jacobi rotations; far more than any matrix needs.
const SWEEPS: usize = 60;

/// The cosine and sine of the rotation that makes two columns with squares `a`, `b` and product `c` orthogonal.
fn rotation(a: f64, b: f64, c: f64) -> (f64, f64) {
    let tau = (b - a) / (2.0 * c);
    // The C library's would ask for one of 2022 (glibc 2.35).
    let t = if tau >= 0.0 { 1.0 } else { -1.0 } / (tau.abs() + libm::hypot(tau, 1.0));
    let cos = 1.0 / libm::hypot(t, 1.0);
    (cos, t * cos)
}

/// Rotates columns `p` and `q` of a matrix with `width` columns.
fn rotate(x: &mut [f64], width: usize, (p, q): (usize, usize), (cos, sin): (f64, f64)) {
    for row in x.chunks_exact_mut(width) {
        let (a, b) = (row[p], row[q]);
        (row[p], row[q]) = (cos * a - sin * b, sin * a + cos * b);
    }
}

fn eigh(a: &[f64], n: usize) -> Vec<Vec<f64>> {
    let mut s = a.to_vec();
    for i in 0..n {
        for j in i + 1..n {
            s[i * n + j] = s[j * n + i];
        }
    }
    if !finite(&s) {
        return vec![vec![f64::NAN; n], vec![f64::NAN; n * n]];
    }
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    for _ in 0..SWEEPS {
        let mut quiet = true;
        for p in 0..n {
            for q in p + 1..n {
                let c = s[p * n + q];
                if c.abs() <= f64::EPSILON * 1e-2 * (s[p * n + p].abs() * s[q * n + q].abs()).sqrt() || c.abs() < f64::MIN_POSITIVE {
                    continue;
                }
                quiet = false;
                let by = rotation(s[p * n + p], s[q * n + q], c);
                rotate(&mut s, n, (p, q), by);
                for j in 0..n {
                    let (a, b) = (s[p * n + j], s[q * n + j]);
                    (s[p * n + j], s[q * n + j]) = (by.0 * a - by.1 * b, by.1 * a + by.0 * b);
                }
                rotate(&mut v, n, (p, q), by);
            }
        }
        if quiet {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| s[i * n + i].total_cmp(&s[j * n + j]));
    let values = order.iter().map(|&i| s[i * n + i]).collect();
    let vectors = (0..n * n).map(|at| v[at / n * n + order[at % n]]).collect();
    vec![values, vectors]
}

/// One-sided Jacobi (Hestenes): the columns are rotated until they are orthogonal.
fn svd(a: &[f64], m: usize, n: usize) -> Vec<Vec<f64>> {
    let k = m.min(n);
    if !finite(a) {
        return vec![vec![f64::NAN; m * k], vec![f64::NAN; k], vec![f64::NAN; k * n]];
    }
    if m < n {
        let turned: Vec<f64> = (0..n * m).map(|at| a[at % m * n + at / m]).collect();
        let [u, s, vt]: [Vec<f64>; 3] = svd(&turned, n, m).try_into().expect("three results");
        let new_u = (0..m * k).map(|at| vt[at % k * m + at / k]).collect();
        let new_vt = (0..k * n).map(|at| u[at % n * k + at / n]).collect();
        return vec![new_u, s, new_vt];
    }
    let mut w = a.to_vec();
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let product = |w: &[f64], p: usize, q: usize| (0..m).map(|i| w[i * n + p] * w[i * n + q]).sum::<f64>();
    for _ in 0..SWEEPS {
        let mut quiet = true;
        for p in 0..n {
            for q in p + 1..n {
                let (a, b, c) = (product(&w, p, p), product(&w, q, q), product(&w, p, q));
                if c.abs() <= 1e-16 * (a * b).sqrt() || c.abs() < f64::MIN_POSITIVE {
                    continue;
                }
                quiet = false;
                let by = rotation(a, b, c);
                rotate(&mut w, n, (p, q), by);
                rotate(&mut v, n, (p, q), by);
            }
        }
        if quiet {
            break;
        }
    }
    let norms: Vec<f64> = (0..n).map(|j| product(&w, j, j).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    let largest = order.first().map_or(0.0, |&j| norms[j]);
    let mut u: Vec<Vec<f64>> = Vec::new();
    for &j in &order {
        let column: Vec<f64> = if norms[j] > largest * f64::EPSILON * 1e-2 {
            (0..m).map(|i| w[i * n + j] / norms[j]).collect()
        } else {
            // Of a singular value of zero any direction orthogonal to the others will do: the unit vector that is farthest from them, made so.
            complement(&u, m)
        };
        u.push(column);
    }
    let s = order.iter().map(|&j| norms[j]).collect();
    let vt = (0..n * n).map(|at| v[at % n * n + order[at / n]]).collect();
    vec![(0..m * n).map(|at| u[at % n][at / n]).collect(), s, vt]
}

/// A unit vector of length `m` that is orthogonal to fewer than `m` orthonormal ones.
fn complement(basis: &[Vec<f64>], m: usize) -> Vec<f64> {
    let inside = |i: usize| basis.iter().map(|b| b[i] * b[i]).sum::<f64>();
    let mut best = 0;
    for i in 1..m {
        if inside(i) < inside(best) {
            best = i;
        }
    }
    let mut x = vec![0.0; m];
    x[best] = 1.0;
    for _ in 0..2 {
        for b in basis {
            let along: f64 = x.iter().zip(b).map(|(x, b)| x * b).sum();
            x.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
        }
    }
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter().map(|x| x / norm).collect()
}

fn pinv(a: &[f64], m: usize, n: usize, eps: f64) -> Vec<f64> {
    let k = m.min(n);
    let [u, s, vt]: [Vec<f64>; 3] = svd(a, m, n).try_into().expect("three results");
    let least = s.first().copied().unwrap_or(0.0) * m.max(n) as f64 * eps;
    let mut out = vec![0.0; n * m];
    for i in 0..k {
        // NaN is not smaller than anything.
        if s[i] <= least {
            continue;
        }
        for r in 0..n {
            (0..m).for_each(|c| out[r * m + c] += vt[i * n + r] / s[i] * u[c * k + i]);
        }
    }
    out
}

fn dft(re: &[f64], im: &[f64], inverse: bool) -> Vec<Vec<f64>> {
    let n = re.len();
    let sign = if inverse { 1.0 } else { -1.0 };
    let (mut out_re, mut out_im) = (vec![0.0; n], vec![0.0; n]);
    for j in 0..n {
        for k in 0..n {
            let (sin, cos) = (sign * std::f64::consts::TAU * ((j * k) % n) as f64 / n as f64).sin_cos();
            out_re[j] += re[k] * cos - im[k] * sin;
            out_im[j] += re[k] * sin + im[k] * cos;
        }
    }
    vec![out_re, out_im]
}
