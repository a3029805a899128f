//! The library of matrix products against products as one writes them down.

mod common;

use common::*;
use std::ffi::c_void;
use virtual_cuda::api::{context::*, graph::*, products::*, stream::*};

/// Handles of a product.
struct Made {
    library: *mut c_void,
    operation: *mut c_void,
    layouts: [*mut c_void; 3],
    way: Way,
    workspace: usize,
}

fn set<T>(f: unsafe extern "C" fn(*mut c_void, u32, *const c_void, usize) -> i32, of: *mut c_void, attribute: u32, value: T) {
    assert_eq!(unsafe { f(of, attribute, (&raw const value).cast(), size_of::<T>()) }, 0);
}

/// `sizes`: rows, columns, leading dimension and stride of the batch, of a, b and c.
fn make(double: bool, transposed: [i32; 2], sizes: [(u64, u64, i64, i64); 3], batch: i32) -> Result<Made, i32> {
    let (mut library, mut operation, mut preference) = (NULL, NULL, NULL);
    let (compute, ty) = if double { (70, 1) } else { (68, 0) };
    unsafe {
        assert_eq!(cublasLtCreate(&mut library), 0);
        assert_eq!(cublasLtMatmulDescCreate(&mut operation, compute, ty), 0);
        assert_eq!(cublasLtMatmulPreferenceCreate(&mut preference), 0);
    }
    set(cublasLtMatmulDescSetAttribute, operation, 3, transposed[0]);
    set(cublasLtMatmulDescSetAttribute, operation, 4, transposed[1]);
    set(cublasLtMatmulPreferenceSetAttribute, preference, 1, 1u64 << 20);
    let layouts = sizes.map(|(rows, columns, leading, stride)| {
        let mut layout = NULL;
        unsafe { assert_eq!(cublasLtMatrixLayoutCreate(&mut layout, ty, rows, columns, leading), 0) };
        set(cublasLtMatrixLayoutSetAttribute, layout, 5, batch);
        set(cublasLtMatrixLayoutSetAttribute, layout, 6, stride);
        layout
    });
    let mut found = Suggestion { way: Way { data: [0; 8] }, workspace: 0, state: 9, waves: 0.0, reserved: [0; 4] };
    let mut count = 0;
    let [a, b, c] = layouts;
    let code = unsafe { cublasLtMatmulAlgoGetHeuristic(library, operation, a, b, c, c, preference, 1, &mut found, &mut count) };
    assert_eq!(cublasLtMatmulPreferenceDestroy(preference), 0);
    if code != 0 {
        return Err(code);
    }
    assert_eq!((count, found.state), (1, 0));
    Ok(Made { library, operation, layouts, way: found.way, workspace: found.workspace })
}

impl Made {
    fn queue(&self, gpu: &Gpu, [a, b, c]: [u64; 3], alpha: *const c_void, beta: *const c_void, stream: *mut c_void) -> i32 {
        let [la, lb, lc] = self.layouts;
        let workspace = gpu.alloc(self.workspace.max(1));
        unsafe {
            cublasLtMatmul(
                self.library,
                self.operation,
                alpha,
                a,
                la,
                b,
                lb,
                beta,
                c,
                lc,
                c,
                lc,
                &self.way,
                workspace,
                self.workspace,
                stream,
            )
        }
    }
}

fn number(n: usize) -> f32 {
    ((n * 7 + n / 3) % 9) as f32 - 4.0
}

#[test]
fn products_with_transposes_and_batches() {
    let gpu = Gpu::new();
    let (m, n, k, batch) = (3usize, 4usize, 5usize, 2usize);
    for transposed in [[0, 0], [1, 0], [0, 1], [1, 1]] {
        let shape = |rows: usize, columns: usize, turned: i32| if turned == 1 { (columns, rows) } else { (rows, columns) };
        let ((ar, ac), (br, bc)) = (shape(m, k, transposed[0]), shape(k, n, transposed[1]));
        // Leading dimensions of one more than needed, matrices of the batch behind each other.
        let (la, lb, lc) = (ar + 1, br + 1, m + 1);
        let (sa, sb, sc) = (la * ac, lb * bc, lc * n);
        let fill = |len: usize, by: usize| (0..len).map(|x| number(x + by)).collect::<Vec<f32>>();
        let (a, b, c) = (fill(sa * batch, 0), fill(sb * batch, 4), fill(sc * batch, 8));
        let sizes = [(ar, ac, la, sa), (br, bc, lb, sb), (m, n, lc, sc)].map(|(r, c, l, s)| (r as u64, c as u64, l as i64, s as i64));
        let made = make(false, transposed, sizes, batch as i32).unwrap();
        let places = [gpu.upload(&a), gpu.upload(&b), gpu.upload(&c)];
        let (alpha, beta) = (2f32, 0.5f32);
        let s = gpu.stream();
        assert_eq!(made.queue(&gpu, places, (&raw const alpha).cast(), (&raw const beta).cast(), s), 0);
        // Queued like everything else.
        assert_eq!(gpu.download::<f32>(places[2], c.len()), c);
        assert_eq!(cuStreamSynchronize(s), 0);
        let out: Vec<f32> = gpu.download(places[2], c.len());
        let mut wanted = c.clone();
        for x in 0..batch {
            for i in 0..m {
                for j in 0..n {
                    let left = |l: usize| if transposed[0] == 1 { a[x * sa + i * la + l] } else { a[x * sa + l * la + i] };
                    let right = |l: usize| if transposed[1] == 1 { b[x * sb + l * lb + j] } else { b[x * sb + j * lb + l] };
                    let sum: f32 = (0..k).map(|l| left(l) * right(l)).sum();
                    wanted[x * sc + j * lc + i] = 2.0 * sum + 0.5 * c[x * sc + j * lc + i];
                }
            }
        }
        assert_eq!(out, wanted, "{transposed:?}");
        assert_eq!((cublasLtMatmulDescDestroy(made.operation), cublasLtMatmulDescDestroy(made.operation)), (0, 7));
    }
}

#[test]
fn products_are_recorded_and_checked() {
    let gpu = Gpu::new();
    let square = [(2, 2, 2, 0); 3];
    let made = make(true, [0, 0], square, 1).unwrap();
    let (a, b, c) = (gpu.upload(&[1f64, 2.0, 3.0, 4.0]), gpu.upload(&[1f64, 0.0, 0.0, 2.0]), gpu.upload(&[0f64; 4]));
    let (one, more) = (1f64, 1f64);
    let s = gpu.stream();
    // Beta is 1: every replay adds.
    let workspace = gpu.alloc(made.workspace);
    let [l, _, _] = made.layouts;
    assert_eq!(cuStreamBeginCapture_v2(s, 1), 0);
    let (alpha, beta) = ((&raw const one).cast(), (&raw const more).cast());
    let queued = unsafe {
        cublasLtMatmul(made.library, made.operation, alpha, a, l, b, l, beta, c, l, c, l, &made.way, workspace, made.workspace, s)
    };
    assert_eq!(queued, 0);
    let (mut graph, mut exec) = (NULL, NULL);
    unsafe {
        assert_eq!(cuStreamEndCapture(s, &mut graph), 0);
        assert_eq!(cuGraphInstantiateWithFlags(&mut exec, graph, 0), 0);
    }
    assert_eq!((cuGraphLaunch(exec, s), cuGraphLaunch(exec, s), cuStreamSynchronize(s)), (0, 0, 0));
    assert_eq!(gpu.download::<f64>(c, 4), [2.0, 4.0, 12.0, 16.0]);
    // The workspace is the library's.
    assert_eq!(gpu.download::<u8>(workspace, 4), [255; 4]);
    assert!(counters().contains("\"cublasLtMatmul\": 2"));
    // Shapes that do not fit, a workspace that is too small, a matrix that ends too early.
    assert_eq!(make(true, [0, 0], [(2, 3, 2, 0), (2, 2, 2, 0), (2, 2, 2, 0)], 1).err(), Some(7));
    assert_eq!(make(true, [0, 0], [(2, 2, 1, 0), (2, 2, 2, 0), (2, 2, 2, 0)], 1).err(), Some(7));
    let small = unsafe { cublasLtMatmul(made.library, made.operation, alpha, a, l, b, l, beta, c, l, c, l, &made.way, workspace, 8, s) };
    assert_eq!(small, 7);
    assert_eq!(made.queue(&gpu, [a, b, c + 8], alpha, beta, s), 0);
    assert_eq!(cuStreamSynchronize(s), 700);
}
