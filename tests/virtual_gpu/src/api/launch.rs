//! Launches of kernels.

use super::{attribute, here};
use crate::device::code::{Answer, Code};
use crate::device::drain::enqueue;
use crate::device::state::Held;
use crate::device::work::{Kernel, Work};
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// What a launch is configured with, as the interface lays it out.
#[repr(C)]
pub struct Config {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub stream: *mut c_void,
    pub attributes: *const Attribute,
    pub count: c_uint,
}

/// An attribute of a launch.
#[repr(C, align(8))]
pub struct Attribute {
    pub id: c_uint,
    pub pad: [u8; 4],
    pub value: [u8; 64],
}

const COOPERATIVE: c_uint = 2;
const CLUSTER: c_uint = 4;

/// Markers in the list of extra arguments.
const BUFFER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// The parameters' bytes as a kernel sees them.
fn parameters(program: &crate::exec::program::Program, list: *const *const c_void, extra: *const *const c_void) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; program.param_bytes];
    if !extra.is_null() {
        if !list.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let (mut buffer, mut size) = (std::ptr::null::<u8>(), None);
        // SAFETY: a list of markers and values that ends with a null.
        unsafe {
            let mut at = extra;
            while !(*at).is_null() {
                match *at as usize {
                    BUFFER => buffer = (*at.add(1)).cast(),
                    BUFFER_SIZE => size = Some(*(*at.add(1)).cast::<usize>()),
                    _ => return Err(Code::INVALID_VALUE),
                }
                at = at.add(2);
            }
        }
        // The size may include what aligns the whole.
        let fits = size.is_some_and(|s| s == program.param_bytes || s == program.param_bytes.next_multiple_of(8));
        if !fits || (buffer.is_null() && program.param_bytes > 0) {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller has so many bytes there.
        unsafe { std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), program.param_bytes) };
        return Ok(bytes);
    }
    if list.is_null() {
        return if program.params.is_empty() { Ok(bytes) } else { Err(Code::INVALID_VALUE) };
    }
    for (n, param) in program.params.iter().enumerate() {
        // SAFETY: the list has a pointer for each parameter, to as many bytes as it has.
        unsafe {
            let from = *list.add(n);
            if from.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(from.cast(), bytes.as_mut_ptr().add(param.offset), param.bytes);
        }
    }
    Ok(bytes)
}

/// Blocks, threads and shared memory of a launch.
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) dynamic: usize,
    pub(super) cooperative: bool,
}

/// A launch that is checked, with its parameters taken.
pub(super) fn kernel(
    state: &Held,
    device: usize,
    function: u64,
    shape: Shape,
    list: *const *const c_void,
    extra: *const *const c_void,
) -> Answer<Kernel> {
    let f = crate::device::module::function(state, function, device)?;
    let program = f.program.clone();
    let Shape { grid, block, dynamic, cooperative } = shape;
    let product = |n: [u32; 3]| n.iter().fold(1u64, |a, b| a.saturating_mul((*b).into()));
    let threads = product(block);
    if grid.contains(&0) || block.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(Code::INVALID_VALUE);
    }
    if threads > attribute::THREADS.into() || block[2] > 64 || dynamic > f.dynamic {
        return Err(Code::INVALID_VALUE);
    }
    if program.max_threads.is_some_and(|most| threads > product(most)) || program.required_threads.is_some_and(|wanted| wanted != block) {
        return Err(Code::INVALID_VALUE);
    }
    if cooperative {
        let limit = attribute::shared_limit(crate::options::options().capability) + 1024;
        let each = (program.shared + dynamic + 1024).next_multiple_of(128);
        let fit = (2048 / threads).min(32).min((limit / each) as u64);
        if product(grid) > fit * u64::from(attribute::MULTIPROCESSORS) {
            return Err(Code::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
    }
    let module = state.modules.get(&f.module).ok_or(Code::INVALID_HANDLE)?;
    let (alive, text) = (module.alive.clone(), module.text.clone());
    let params = parameters(&program, list, extra)?;
    Ok(Kernel { program, alive, text, params, grid, block, dynamic, cooperative })
}

fn launch(
    state: &mut Held,
    device: usize,
    function: u64,
    shape: Shape,
    stream: u64,
    list: *const *const c_void,
    extra: *const *const c_void,
) -> Answer {
    let stream = state.stream(stream, device)?;
    let kernel = kernel(state, device, function, shape, list, extra)?;
    let name = kernel.program.name.clone();
    let queued = enqueue(state, stream, Work::Kernel(Arc::new(kernel)), &[])?;
    if queued.is_some() {
        state.log.launched(&name);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    list: *const *const c_void,
    extra: *const *const c_void,
) -> i32 {
    here(|state, device| {
        let shape =
            Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic: shared as usize, cooperative: false };
        launch(state, device, function as u64, shape, stream as u64, list, extra)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    list: *const *const c_void,
) -> i32 {
    here(|state, device| {
        let shape =
            Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic: shared as usize, cooperative: true };
        launch(state, device, function as u64, shape, stream as u64, list, std::ptr::null())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const Config,
    function: *mut c_void,
    list: *const *const c_void,
    extra: *const *const c_void,
) -> i32 {
    here(|state, device| {
        if config.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller's configuration, with as many attributes as it says.
        let config = unsafe { &*config };
        let mut cooperative = false;
        for n in 0..config.count as usize {
            // SAFETY: as above.
            let attribute = unsafe { &*config.attributes.add(n) };
            let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|b| attribute.value[4 * at + b]));
            match attribute.id {
                COOPERATIVE => cooperative = word(0) != 0,
                CLUSTER if (0..3).any(|d| word(d) > 1) => return Err(Code::NOT_SUPPORTED),
                _ => {}
            }
        }
        let shape = Shape { grid: config.grid, block: config.block, dynamic: config.shared as usize, cooperative };
        launch(state, device, function as u64, shape, config.stream as u64, list, extra)
    })
}
