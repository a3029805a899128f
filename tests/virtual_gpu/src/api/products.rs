//! The part of the library of matrix products (cuBLASLt) that the device runtime calls.

use super::context::current;
use super::{give, offer};
use crate::device::drain::enqueue;
use crate::device::product::{Element, Layout, Product};
use crate::device::state::{Held, Kind, hold};
use crate::device::work::{IN_HOST_FUNCTION, Work};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

/// Results of this library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(i32);

const NOT_INITIALIZED: Status = Status(1);
const INVALID_VALUE: Status = Status(7);
const EXECUTION_FAILED: Status = Status(13);
const NOT_SUPPORTED: Status = Status(15);

/// What a handle of the library stands for.
#[derive(Clone, Copy, Debug)]
pub enum Described {
    Library,
    Operation {
        compute: c_uint,
        scale: c_uint,
        transposed: [bool; 2],
    },
    Matrix(Layout),
    /// Memory that a way of doing it may use.
    Preference(u64),
}

/// Memory that the one way of doing it asks for where it may; it is spoiled.
const WORKSPACE: usize = 1024;
/// Marks ways that were made here.
const MARK: u64 = 0x6F70_7463_6D61_746D;

/// A way of doing a product, as the interface lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    pub data: [u64; 8],
}

/// What the library suggests.
#[repr(C)]
pub struct Suggestion {
    pub way: Way,
    pub workspace: usize,
    pub state: c_int,
    pub waves: f32,
    pub reserved: [c_int; 4],
}

fn call(f: impl FnOnce(&mut Held) -> Result<(), Status>) -> i32 {
    if IN_HOST_FUNCTION.get() {
        return EXECUTION_FAILED.0;
    }
    let run = || {
        let mut state = hold();
        if !state.initialized {
            return Err(NOT_INITIALIZED);
        }
        f(&mut state)
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.0,
        Err(_) => 14,
    }
}

fn make(to: *mut *mut c_void, what: Described) -> i32 {
    call(|state| {
        let handle = state.handle(Kind::Product);
        state.described.insert(handle, what);
        // SAFETY: the caller's pointer.
        unsafe { give(to, handle as *mut c_void) }.map_err(|_| INVALID_VALUE)
    })
}

fn forget(handle: *mut c_void) -> i32 {
    call(|state| state.described.remove(&(handle as u64)).map(drop).ok_or(INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut *mut c_void) -> i32 {
    match call(|state| current(state).map(drop).map_err(|_| NOT_INITIALIZED)) {
        0 => make(handle, Described::Library),
        status => status,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(handle: *mut c_void) -> i32 {
    forget(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(handle: *mut *mut c_void, compute: c_uint, scale: c_uint) -> i32 {
    make(handle, Described::Operation { compute, scale, transposed: [false; 2] })
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescDestroy(handle: *mut c_void) -> i32 {
    forget(handle)
}

/// A value that an attribute is set to.
///
/// # Safety
/// The pointer has so many bytes.
unsafe fn value<const N: usize>(from: *const c_void, bytes: usize) -> Result<[u8; N], Status> {
    if from.is_null() || bytes != N {
        return Err(INVALID_VALUE);
    }
    // SAFETY: as above.
    Ok(unsafe { from.cast::<[u8; N]>().read_unaligned() })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(handle: *mut c_void, attribute: c_uint, from: *const c_void, bytes: usize) -> i32 {
    call(|state| {
        let Some(Described::Operation { transposed, .. }) = state.described.get_mut(&(handle as u64)) else { return Err(INVALID_VALUE) };
        match attribute {
            3 | 4 => {
                // SAFETY: the caller's pointer.
                let operation = i32::from_le_bytes(unsafe { value(from, bytes)? });
                if !(0..=2).contains(&operation) {
                    return Err(INVALID_VALUE);
                }
                transposed[attribute as usize - 3] = operation != 0;
                Ok(())
            }
            _ => Err(NOT_SUPPORTED),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(handle: *mut *mut c_void, ty: c_uint, rows: u64, columns: u64, leading: i64) -> i32 {
    let element = match ty {
        0 => Element::F32,
        1 => Element::F64,
        2 => Element::F16,
        14 => Element::BF16,
        _ => return NOT_SUPPORTED.0,
    };
    make(handle, Described::Matrix(Layout { element, rows, columns, leading, by_rows: false, batch: 1, stride: 0 }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutDestroy(handle: *mut c_void) -> i32 {
    forget(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    handle: *mut c_void,
    attribute: c_uint,
    from: *const c_void,
    bytes: usize,
) -> i32 {
    call(|state| {
        let Some(Described::Matrix(layout)) = state.described.get_mut(&(handle as u64)) else { return Err(INVALID_VALUE) };
        // SAFETY: the caller's pointer.
        unsafe {
            match attribute {
                1 => match i32::from_le_bytes(value(from, bytes)?) {
                    order @ (0 | 1) => layout.by_rows = order == 1,
                    _ => return Err(NOT_SUPPORTED),
                },
                2 => layout.rows = u64::from_le_bytes(value(from, bytes)?),
                3 => layout.columns = u64::from_le_bytes(value(from, bytes)?),
                4 => layout.leading = i64::from_le_bytes(value(from, bytes)?),
                5 => layout.batch = i32::from_le_bytes(value(from, bytes)?),
                6 => layout.stride = i64::from_le_bytes(value(from, bytes)?),
                _ => return Err(NOT_SUPPORTED),
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(handle: *mut *mut c_void) -> i32 {
    make(handle, Described::Preference(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(handle: *mut c_void) -> i32 {
    forget(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    handle: *mut c_void,
    attribute: c_uint,
    from: *const c_void,
    bytes: usize,
) -> i32 {
    call(|state| {
        let Some(Described::Preference(most)) = state.described.get_mut(&(handle as u64)) else { return Err(INVALID_VALUE) };
        match attribute {
            // SAFETY: as above.
            1 => *most = u64::from_le_bytes(unsafe { value(from, bytes)? }),
            // Alignments: any will do here.
            5..=8 => {
                // SAFETY: as above.
                let alignment = u32::from_le_bytes(unsafe { value(from, bytes)? });
                if !alignment.is_power_of_two() {
                    return Err(INVALID_VALUE);
                }
            }
            0 | 3 => {}
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    })
}

/// A product of what handles describe, without its numbers and places.
fn described(state: &Held, operation: *mut c_void, layouts: [*mut c_void; 4]) -> Result<Product, Status> {
    let Some(&Described::Operation { compute, scale, transposed }) = state.described.get(&(operation as u64)) else {
        return Err(INVALID_VALUE);
    };
    let mut found = Vec::new();
    for layout in layouts {
        let Some(Described::Matrix(layout)) = state.described.get(&(layout as u64)) else { return Err(INVALID_VALUE) };
        found.push(*layout);
    }
    let layouts: [Layout; 4] = [found[0], found[1], found[2], found[3]];
    // 32 or 64 bits, with the scale's type.
    let double = layouts[0].element == Element::F64;
    let right = match compute {
        68 | 69 => scale == 0 && !double,
        70 | 71 => scale == 1 && double,
        _ => false,
    };
    let product = Product { transposed, layouts, addresses: [0; 4], alpha: 1.0, beta: 0.0, workspace: (0, 0) };
    match (right, product.fits()) {
        (false, _) => Err(NOT_SUPPORTED),
        (_, false) => Err(INVALID_VALUE),
        _ => Ok(product),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: *mut c_void,
    operation: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    preference: *mut c_void,
    wanted: c_int,
    found: *mut Suggestion,
    count: *mut c_int,
) -> i32 {
    // SAFETY: the caller's pointer.
    unsafe { offer(count, 0) };
    call(|state| {
        let Some(Described::Library) = state.described.get(&(handle as u64)) else { return Err(NOT_INITIALIZED) };
        let Some(&Described::Preference(most)) = state.described.get(&(preference as u64)) else { return Err(INVALID_VALUE) };
        if wanted < 1 {
            return Err(INVALID_VALUE);
        }
        described(state, operation, [a, b, c, d])?;
        let workspace = if most >= WORKSPACE as u64 { WORKSPACE } else { 0 };
        let way = Way { data: [MARK, workspace as u64, 0, 0, 0, 0, 0, 0] };
        // SAFETY: as above.
        unsafe {
            give(found, Suggestion { way, workspace, state: 0, waves: 1.0, reserved: [0; 4] }).map_err(|_| INVALID_VALUE)?;
            give(count, 1).map_err(|_| INVALID_VALUE)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: *mut c_void,
    operation: *mut c_void,
    alpha: *const c_void,
    a: u64,
    a_layout: *mut c_void,
    b: u64,
    b_layout: *mut c_void,
    beta: *const c_void,
    c: u64,
    c_layout: *mut c_void,
    d: u64,
    d_layout: *mut c_void,
    way: *const Way,
    workspace: u64,
    bytes: usize,
    stream: *mut c_void,
) -> i32 {
    call(|state| {
        let Some(Described::Library) = state.described.get(&(handle as u64)) else { return Err(NOT_INITIALIZED) };
        let device = current(state).map_err(|_| EXECUTION_FAILED)?;
        let mut product = described(state, operation, [a_layout, b_layout, c_layout, d_layout])?;
        if alpha.is_null() || beta.is_null() {
            return Err(INVALID_VALUE);
        }
        let double = product.layouts[0].element == Element::F64;
        // SAFETY: numbers of the scale's type.
        let number = |at: *const c_void| unsafe { if double { *at.cast::<f64>() } else { f64::from(*at.cast::<f32>()) } };
        (product.alpha, product.beta) = (number(alpha), number(beta));
        product.addresses = [a, b, c, d];
        if !way.is_null() {
            // SAFETY: the caller's pointer.
            let way = unsafe { *way };
            if way.data[0] != MARK || (bytes as u64) < way.data[1] {
                return Err(INVALID_VALUE);
            }
            product.workspace = (workspace, way.data[1] as usize);
        }
        let stream = state.stream(stream as u64, device).map_err(|_| INVALID_VALUE)?;
        let queued = enqueue(state, stream, Work::Product(Arc::new(product)), &[]).map_err(|_| EXECUTION_FAILED)?;
        if queued.is_some() {
            state.log.launched("cublasLtMatmul");
        }
        Ok(())
    })
}
