//! Matrix products by NVIDIA's library cuBLASLt, where it is installed.
//!
//! Products keep the precision of their type: no TF32, bf16 and f16 with sums in f32. The way of a product is chosen once, when its plan is prepared, so that every run adds up in the same
//! order. `OPTC_CUBLAS=off` leaves products to the plan's own kernels.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::stream::Stream;
use cudarc::cublaslt::{result, sys};
use optc_abi::DType;
use optc_abi::plan::{BufRef, Gemm, MatRef};
use std::ffi::c_void;
use std::sync::Arc;

/// Memory that the library may use for a product, in bytes.
const WORKSPACE: usize = 32 << 20;
/// Launches that a product of many matrices may take.
const MOST_LAUNCHES: usize = 16;

/// The library, for one GPU.
pub(crate) struct Blas {
    gpu: Arc<Gpu>,
    handle: sys::cublasLtHandle_t,
}

// SAFETY: the library's handles may be used by any thread.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// The library, if there is one and nobody has said to do without.
    pub(crate) fn open(gpu: &Arc<Gpu>) -> Option<Arc<Blas>> {
        if std::env::var_os("OPTC_CUBLAS").is_some_and(|v| v == "off") {
            return None;
        }
        if !crate::driver::has_products() {
            return None;
        }
        gpu.enter().ok()?;
        Some(Arc::new(Blas { gpu: gpu.clone(), handle: result::create_handle().ok()? }))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made above; products hold the library alive.
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

/// A matrix as the library knows it: columns one after the other, perhaps of its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    rows: u64,
    columns: u64,
    /// Elements between columns.
    leading: i64,
    transposed: bool,
}

/// The layout of a `rows` by `columns` matrix with these strides, if the library has one.
fn layout(rows: usize, columns: usize, row_stride: i64, col_stride: i64) -> Option<Layout> {
    let (m, n) = (rows as i64, columns as i64);
    let fits = |step: i64, next: i64, count: i64, others: i64| (step == 1 || count == 1) && (next >= count || others == 1);
    if fits(row_stride, col_stride, m, n) {
        return Some(Layout { rows: m as u64, columns: n as u64, leading: if n == 1 { m } else { col_stride }, transposed: false });
    }
    if fits(col_stride, row_stride, n, m) {
        return Some(Layout { rows: n as u64, columns: m as u64, leading: if m == 1 { n } else { row_stride }, transposed: true });
    }
    None
}

/// Extents of a product's batch with the strides of a, b and c: one for the library, outer ones for launches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Batch {
    count: usize,
    strides: [i64; 3],
    outer: Vec<(usize, [i64; 3])>,
}

fn batch(g: &Gemm) -> Option<Batch> {
    // Neighboring extents that are one: the outer stride is the inner one times its extent, for all three matrices.
    let mut merged: Vec<(usize, [i64; 3])> = Vec::new();
    for (k, &extent) in g.batch.iter().enumerate().filter(|(_, n)| **n != 1) {
        let strides = [&g.a, &g.b, &g.c].map(|m: &MatRef| m.batch_strides[k]);
        match merged.last_mut() {
            Some((n, outer)) if (0..3).all(|i| outer[i] == strides[i] * extent as i64) => (*n, *outer) = (*n * extent, strides),
            _ => merged.push((extent, strides)),
        }
    }
    let longest = merged.iter().enumerate().max_by_key(|(_, b)| b.0).map(|(k, _)| k);
    let (count, strides) = longest.map_or((1, [0; 3]), |k| merged.remove(k));
    (merged.iter().map(|b| b.0).product::<usize>() <= MOST_LAUNCHES).then_some(Batch { count, strides, outer: merged })
}

/// The greatest power of two, up to 256, that the address of a reference is a multiple of.
fn alignment(place: &BufRef, steps: impl Iterator<Item = i64>) -> u32 {
    let all = place.steps.iter().map(|s| s.1).chain(steps).chain([place.offset]).fold(256i64, |a, n| a | n);
    1 << all.trailing_zeros().min(8)
}

/// A product, ready to be queued.
pub(crate) struct Product {
    blas: Arc<Blas>,
    describes: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    way: sys::cublasLtMatmulAlgo_t,
    workspace: Memory,
    /// The library computes the transpose: its first operand is b.
    exchanged: bool,
    wide: bool,
    accumulate: bool,
    /// Bytes from the start to the matrices of each launch.
    launches: Vec<[i64; 3]>,
}

// SAFETY: handles of the library, used by one thread at a time.
unsafe impl Send for Product {}

/// Sets an attribute of one of the library's descriptions.
macro_rules! set {
    ($function:ident, $of:expr, $attribute:expr, $value:expr) => {{
        let value = $value;
        // SAFETY: the description is alive, and the attribute has the value's size.
        unsafe { result::$function($of, $attribute, std::ptr::from_ref(&value).cast::<c_void>(), size_of_val(&value)) }.ok()?
    }};
}

impl Product {
    /// The library's way of a product; `None` if it has none (strides that it cannot walk, types, a result that has to be symmetric, a product of nothing).
    pub(crate) fn new(blas: &Arc<Blas>, g: &Gemm) -> Option<Product> {
        use sys::cublasComputeType_t as Compute;
        use sys::cudaDataType_t as Type;
        let (ty, compute, scale, wide) = match g.dtype {
            DType::F32 => (Type::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F, false),
            DType::BF16 => (Type::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F, false),
            DType::F16 => (Type::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F, false),
            DType::F64 => (Type::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F, Type::CUDA_R_64F, true),
            _ => return None,
        };
        // The library promises no symmetry; the plan's own kernels mirror one half.
        if g.m * g.n * g.k == 0 || g.symmetric {
            return None;
        }
        let batch = batch(g)?;
        let result_layout = layout(g.m, g.n, g.c.row_stride, g.c.col_stride)?;
        let exchanged = result_layout.transposed;
        let a = layout(g.m, g.k, g.a.row_stride, g.a.col_stride)?;
        let b = layout(g.k, g.n, g.b.row_stride, g.b.col_stride)?;
        // c' = b' a': the same memory, read the other way round.
        let (first, second) =
            if exchanged { (Layout { transposed: !b.transposed, ..b }, Layout { transposed: !a.transposed, ..a }) } else { (a, b) };
        let strides = if exchanged { [batch.strides[1], batch.strides[0], batch.strides[2]] } else { batch.strides };
        blas.gpu.enter().ok()?;
        let describes = Description(result::create_matmul_desc(compute, scale).ok()?);
        let operation = |transposed: bool| -> i32 { i32::from(transposed) };
        set!(
            set_matmul_desc_attribute,
            describes.0,
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
            operation(first.transposed)
        );
        set!(
            set_matmul_desc_attribute,
            describes.0,
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
            operation(second.transposed)
        );
        let mut layouts = Vec::new();
        for (l, stride) in [first, second, result_layout].into_iter().zip(strides) {
            let made = Shape(result::create_matrix_layout(ty, l.rows, l.columns, l.leading).ok()?);
            set!(
                set_matrix_layout_attribute,
                made.0,
                sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                batch.count as i32
            );
            set!(
                set_matrix_layout_attribute,
                made.0,
                sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                stride
            );
            layouts.push(made);
        }
        let prefers = Preference(result::create_matmul_pref().ok()?);
        use sys::cublasLtMatmulPreferenceAttributes_t as P;
        set!(set_matmul_pref_attribute, prefers.0, P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE as u64);
        let size = g.dtype.size() as i64;
        let aligned = |m: &MatRef| alignment(&m.data, m.batch_strides.iter().map(|s| s * size));
        let (x, y) = if exchanged { (&g.b, &g.a) } else { (&g.a, &g.b) };
        set!(set_matmul_pref_attribute, prefers.0, P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned(x));
        set!(set_matmul_pref_attribute, prefers.0, P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned(y));
        set!(set_matmul_pref_attribute, prefers.0, P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned(&g.c));
        set!(set_matmul_pref_attribute, prefers.0, P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned(&g.c));
        // SAFETY: all descriptions are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(blas.handle, describes.0, layouts[0].0, layouts[1].0, layouts[2].0, layouts[2].0, prefers.0)
        };
        let found = found.ok()?;
        let workspace = Memory::new(&blas.gpu, found.workspaceSize).ok()?;
        let mut launches = vec![[0i64; 3]];
        for (extent, strides) in &batch.outer {
            let step = |at: &[i64; 3], k: i64| [0, 1, 2].map(|i| at[i] + k * strides[i] * size);
            launches = launches.iter().flat_map(|at| (0..*extent as i64).map(|k| step(at, k)).collect::<Vec<_>>()).collect();
        }
        let layouts = <[Shape; 3]>::try_from(layouts).ok()?.map(Shape::keep);
        Some(Product {
            blas: blas.clone(),
            describes: describes.keep(),
            layouts,
            way: found.algo,
            workspace,
            exchanged,
            wide,
            accumulate: g.accumulate,
            launches,
        })
    }

    /// Queues the product of the matrices at these addresses.
    ///
    /// # Safety
    /// They hold what the product was made for.
    pub(crate) unsafe fn queue(&self, stream: &Stream, [a, b, c]: [u64; 3]) -> Result<()> {
        let (one, beta) = (1.0f64, if self.accumulate { 1.0f64 } else { 0.0 });
        let (one32, beta32) = (one as f32, beta as f32);
        let (one, beta): (*const c_void, *const c_void) = if self.wide {
            (std::ptr::from_ref(&one).cast(), std::ptr::from_ref(&beta).cast())
        } else {
            (std::ptr::from_ref(&one32).cast(), std::ptr::from_ref(&beta32).cast())
        };
        for at in &self.launches {
            let [a, b, c] = [(a, at[0]), (b, at[1]), (c, at[2])].map(|(x, by)| x.wrapping_add_signed(by));
            let (x, y) = if self.exchanged { (b, a) } else { (a, b) };
            let [first, second, result_layout] = self.layouts;
            // SAFETY: the descriptions are alive; the addresses are as the caller promises.
            let done = unsafe {
                result::matmul(
                    self.blas.handle,
                    self.describes,
                    one,
                    beta,
                    x as *const c_void,
                    first,
                    y as *const c_void,
                    second,
                    c as *const c_void,
                    result_layout,
                    c as *mut c_void,
                    result_layout,
                    &self.way,
                    self.workspace.address() as *mut c_void,
                    self.workspace.bytes(),
                    stream.raw().cast(),
                )
            };
            done.map_err(|e| crate::error::DeviceError::refused(format!("cuBLASLt, multiplying matrices: {:?}", e.0)))?;
        }
        Ok(())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if self.blas.gpu.enter().is_ok() {
            drop(Description(self.describes));
            self.layouts.into_iter().for_each(|l| drop(Shape(l)));
        }
    }
}

/// A handle of the library that is given back unless it is kept.
macro_rules! handle {
    ($name:ident, $ty:ty, $destroy:ident) => {
        struct $name($ty);
        impl $name {
            #[allow(dead_code)]
            fn keep(self) -> $ty {
                std::mem::ManuallyDrop::new(self).0
            }
        }
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the library and given back once.
                let _ = unsafe { result::$destroy(self.0) };
            }
        }
    };
}

handle!(Description, sys::cublasLtMatmulDesc_t, destroy_matmul_desc);
handle!(Shape, sys::cublasLtMatrixLayout_t, destroy_matrix_layout);
handle!(Preference, sys::cublasLtMatmulPreference_t, destroy_matmul_pref);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_have_the_library_s_layout_or_none() {
        let l = |rows, columns, leading, transposed| Some(Layout { rows, columns, leading, transposed });
        assert_eq!(layout(3, 5, 1, 3), l(3, 5, 3, false));
        assert_eq!(layout(3, 5, 5, 1), l(5, 3, 5, true));
        assert_eq!(layout(3, 5, 8, 1), l(5, 3, 8, true));
        assert_eq!(layout(3, 1, 7, 1), l(1, 3, 7, true));
        assert_eq!(layout(1, 4, 9, 2), l(1, 4, 2, false));
        assert_eq!(layout(3, 5, 10, 2), None);
        assert_eq!(layout(3, 5, 1, 0), None);
    }

    #[test]
    fn extents_of_a_batch_are_merged() {
        let m = |strides: [i64; 3]| MatRef { data: BufRef::whole(0), row_stride: 4, col_stride: 1, batch_strides: strides.to_vec() };
        let g = |a, b, c| Gemm {
            dtype: DType::F32,
            m: 4,
            n: 4,
            k: 4,
            batch: vec![2, 3, 5],
            a: m(a),
            b: m(b),
            c: m(c),
            accumulate: false,
            symmetric: false,
        };
        assert_eq!(batch(&g([240, 80, 16], [240, 80, 16], [240, 80, 16])), Some(Batch { count: 30, strides: [16; 3], outer: vec![] }));
        let found = batch(&g([240, 80, 16], [80, 0, 16], [240, 80, 16])).unwrap();
        assert_eq!((found.count, found.outer.len()), (5, 2));
    }

    #[test]
    fn alignment_is_that_of_every_pass() {
        let place = BufRef { buffer: 0, offset: 512, steps: vec![(0, 96)] };
        assert_eq!(
            (alignment(&place, [].into_iter()), alignment(&place, [8].into_iter()), alignment(&BufRef::whole(0), [].into_iter())),
            (32, 8, 256)
        );
    }
}
