//! Modules and their functions.

use super::{attribute, give, here, offer, safe};
use crate::device::code::{Answer, Code};
use crate::device::module::{Refused, load};
use crate::device::state::{Held, Kind};
use crate::options::options;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering;

/// Numbers of options of `cuModuleLoadDataEx`.
const INFO_LOG: c_uint = 3;
const INFO_LOG_SIZE: c_uint = 4;
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_SIZE: c_uint = 6;

fn load_text(state: &mut Held, device: usize, image: *const c_void, module: *mut *mut c_void) -> Result<(), Refused> {
    let plain = |code: Code, words: &str| Refused { code, words: words.to_string() };
    if image.is_null() || module.is_null() {
        return Err(plain(Code::INVALID_VALUE, "no image"));
    }
    // SAFETY: an image of this kind ends with a zero; others begin with bytes that no text has.
    let bytes = unsafe { CStr::from_ptr(image.cast()) }.to_bytes();
    if bytes.starts_with(b"\x7fELF") || bytes.starts_with(&[0x50, 0xED, 0x55, 0xBA]) {
        return Err(plain(Code::NO_BINARY_FOR_GPU, "machine code; a virtual GPU runs PTX as text"));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Err(plain(Code::INVALID_IMAGE, "the image is no text")) };
    let capability = options().capability;
    let loaded = load(state, device, text, capability)?;
    let handle = state.handle(Kind::Module);
    state.modules.insert(handle, loaded);
    state.log.modules += 1;
    // SAFETY: the caller's pointer, which is not null.
    unsafe { *module = handle as *mut c_void };
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> i32 {
    safe(|state, device| {
        load_text(state, device, image, module).map_err(|refused| {
            eprintln!("virtual GPU: {}", refused.words);
            refused.code
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    count: c_uint,
    names: *const c_uint,
    values: *mut *mut c_void,
) -> i32 {
    safe(|state, device| {
        let result = load_text(state, device, image, module);
        let words = result.as_ref().err().map(|r| r.words.clone()).unwrap_or_default();
        let find = |wanted: c_uint| {
            // SAFETY: the caller gives so many names and values.
            (0..count as usize).find(|n| unsafe { *names.add(*n) } == wanted)
        };
        for (buffer, size, text) in [(INFO_LOG, INFO_LOG_SIZE, ""), (ERROR_LOG, ERROR_LOG_SIZE, words.as_str())] {
            let (Some(buffer), Some(size)) = (find(buffer), find(size)) else { continue };
            // SAFETY: as above; the size of a buffer stands in the place of a pointer, and so does its filled part afterwards.
            unsafe {
                let room = *values.add(size) as usize;
                let at: *mut u8 = (*values.add(buffer)).cast();
                if at.is_null() || room == 0 {
                    continue;
                }
                let n = text.len().min(room - 1);
                std::ptr::copy_nonoverlapping(text.as_ptr(), at, n);
                *at.add(n) = 0;
                *values.add(size) = (n + 1) as *mut c_void;
            }
        }
        result.map_err(|refused| refused.code)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> i32 {
    safe(|state, device| {
        let handle = module as u64;
        if state.modules.get(&handle).ok_or(Code::INVALID_HANDLE)?.device != device {
            return Err(Code::INVALID_CONTEXT);
        }
        let module = state.modules.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        module.alive.store(false, Ordering::Relaxed);
        state.functions.retain(|_, f| f.module != handle);
        for (address, len) in module.variables.values() {
            state.devices[device].used -= len;
            let remains = state.heap.free(*address);
            state.remains.extend(remains);
        }
        Ok(())
    })
}

fn name(text: *const c_char) -> Answer<String> {
    if text.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller's text, ended by a zero.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, text: *const c_char) -> i32 {
    here(|state, device| {
        let (module, name) = (module as u64, name(text)?);
        let found = state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let program = found.kernels.get(&name).ok_or(Code::NOT_FOUND)?.clone();
        if let Some(known) = found.functions.get(&name) {
            // SAFETY: the caller's pointer.
            return unsafe { give(function, *known as *mut c_void) };
        }
        let handle = state.handle(Kind::Function);
        let dynamic = attribute::SHARED.saturating_sub(program.shared);
        state.functions.insert(handle, crate::device::module::Function { device, module, program, dynamic });
        if let Some(found) = state.modules.get_mut(&module) {
            found.functions.insert(name, handle);
        }
        // SAFETY: as above.
        unsafe { give(function, handle as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: *mut c_void, text: *const c_char) -> i32 {
    here(|state, _| {
        let found = state.modules.get(&(module as u64)).ok_or(Code::INVALID_HANDLE)?;
        let (at, len) = found.variables.get(&name(text)?).copied().ok_or(Code::NOT_FOUND)?;
        // SAFETY: the caller's pointers.
        unsafe {
            offer(address, at);
            offer(bytes, len as usize);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, number: c_int, function: *mut c_void) -> i32 {
    here(|state, device| {
        let f = crate::device::module::function(state, function as u64, device)?;
        let threads = f.program.max_threads.or(f.program.required_threads).map_or(attribute::THREADS, |[x, y, z]| x * y * z);
        let found = match number {
            // Threads, static shared, constant and local bytes.
            0 => threads as i32,
            1 => f.program.shared as i32,
            2 => 0,
            3 => f.program.local as i32,
            // Registers are not allotted here: no more than a thread may have.
            4 => f.program.routines[0].registers.clamp(16, 255) as i32,
            5 | 6 => options().capability as i32,
            7 => 0,
            8 => f.dynamic as i32,
            9 => -1,
            _ => return Err(Code::INVALID_VALUE),
        };
        // SAFETY: as above.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: *mut c_void, number: c_int, value: c_int) -> i32 {
    here(|state, device| {
        let limit = attribute::shared_limit(options().capability);
        let f = crate::device::module::function(state, function as u64, device)?;
        match number {
            8 if value < 0 || value as usize + f.program.shared > limit => Err(Code::INVALID_VALUE),
            8 => {
                if let Some(f) = state.functions.get_mut(&(function as u64)) {
                    f.dynamic = value as usize;
                }
                Ok(())
            }
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: *mut c_void, _config: c_uint) -> i32 {
    here(|state, device| crate::device::module::function(state, function as u64, device).map(drop))
}

/// Blocks that fit by threads and shared memory; registers are not counted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: *mut c_void,
    threads: c_int,
    dynamic: usize,
) -> i32 {
    here(|state, device| {
        let f = crate::device::module::function(state, function as u64, device)?;
        if threads < 1 {
            return Err(Code::INVALID_VALUE);
        }
        let all = attribute::shared_limit(options().capability) + 1024;
        let each = (f.program.shared + dynamic + 1024).next_multiple_of(128);
        let allowed = threads as u32 <= attribute::THREADS && dynamic <= f.dynamic;
        let fit = if allowed { (2048 / threads as usize).min(32).min(all / each) } else { 0 };
        // SAFETY: as above.
        unsafe { give(blocks, fit as c_int) }
    })
}
