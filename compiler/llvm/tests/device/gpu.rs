//! PTX on the virtual GPU.

use optc_abi::Tensor;
use optc_abi::device::{Argument, DeviceCode, Work};
use std::ffi::{CString, c_void};
use std::sync::{Mutex, PoisonError};
use virtual_cuda::api::{context::*, launch::*, memory::*, module::*};
use virtual_cuda::options::Options;

/// A launch: entry, blocks, threads, bytes of shared memory that it says, parameters.
pub struct Launch<'c> {
    pub entry: &'c str,
    pub blocks: u32,
    pub threads: u32,
    pub shared: u32,
    pub parameters: Vec<Given>,
}

/// A parameter.
#[derive(Clone, Copy)]
pub enum Given {
    /// An array, and bytes from its start.
    Array(usize, i64),
    Number(i64),
}

/// The arrays after the launches of a module.
pub fn run(text: &str, arrays: &[Vec<u8>], launches: &[Launch<'_>]) -> Vec<Vec<u8>> {
    run_with(text, arrays, &[], launches)
}

/// The address of an array, and bytes from its start, which stand in another one at a place.
#[derive(Clone, Copy)]
pub struct Pointer {
    pub array: usize,
    pub at: usize,
    pub to: (usize, i64),
}

/// The same with addresses that stand in arrays; those are uploaded after the arrays they point to, which come before them.
pub fn run_with(text: &str, arrays: &[Vec<u8>], pointers: &[Pointer], launches: &[Launch<'_>]) -> Vec<Vec<u8>> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    restart(Options::default());
    let null = std::ptr::null_mut::<c_void>;
    assert_eq!(cuInit(0), 0);
    let (mut context, mut module) = (null(), null());
    let (source, mut log) = (CString::new(text).expect("text"), vec![0u8; 4096]);
    let names = [5u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), 4096 as *mut c_void];
    // SAFETY: the calls are those of CUDA, on memory of this function.
    unsafe {
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cuCtxSetCurrent(context), 0);
        let code = cuModuleLoadDataEx(&mut module, source.as_ptr().cast(), 2, names.as_ptr(), values.as_mut_ptr());
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&log));
    }
    let upload = |bytes: &Vec<u8>| {
        let mut at = 0;
        // SAFETY: as above.
        unsafe { assert_eq!(cuMemAlloc_v2(&mut at, bytes.len().max(1)), 0) };
        assert_eq!(cuMemcpyHtoD_v2(at, bytes.as_ptr().cast(), bytes.len()), 0);
        at
    };
    let mut addresses: Vec<u64> = Vec::new();
    for (n, bytes) in arrays.iter().enumerate() {
        let mut bytes = bytes.clone();
        for p in pointers.iter().filter(|p| p.array == n) {
            let address = addresses[p.to.0].wrapping_add_signed(p.to.1);
            bytes[p.at..p.at + 8].copy_from_slice(&address.to_le_bytes());
        }
        addresses.push(upload(&bytes));
    }
    for l in launches {
        let (name, mut f) = (CString::new(l.entry).expect("a name"), null());
        // SAFETY: as above.
        unsafe { assert_eq!(cuModuleGetFunction(&mut f, module, name.as_ptr()), 0, "{}", l.entry) };
        if l.shared > 0 {
            assert_eq!(cuFuncSetAttribute(f, 8, l.shared as i32), 0);
        }
        let words: Vec<u64> = l
            .parameters
            .iter()
            .map(|p| match *p {
                Given::Array(n, offset) => addresses[n].wrapping_add_signed(offset),
                Given::Number(n) => n as u64,
            })
            .collect();
        let list: Vec<*const c_void> = words.iter().map(|w| (&raw const *w).cast()).collect();
        // SAFETY: the parameters are those of the entry.
        let code = unsafe { cuLaunchKernel(f, l.blocks, 1, 1, l.threads, 1, 1, l.shared, null(), list.as_ptr(), std::ptr::null()) };
        assert_eq!(code, 0, "{}", l.entry);
        assert_eq!(cuCtxSynchronize(), 0, "{}", l.entry);
    }
    let download = |(at, bytes): (&u64, &Vec<u8>)| {
        let mut back = vec![0; bytes.len()];
        assert_eq!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), *at, bytes.len()), 0);
        back
    };
    addresses.iter().zip(arrays).map(download).collect()
}

/// What the buffers of an instruction, each in an array with an offset in bytes, hold after its work.
pub fn work(code: &DeviceCode, work: &Work, tensors: &[Tensor], buffers: &[(usize, i64)]) -> Vec<Vec<u8>> {
    let mut arrays: Vec<Vec<u8>> = tensors.iter().map(|t| t.bytes().to_vec()).collect();
    // The status, and memory beside the arrays that may hold anything.
    let (status, scratch) = (arrays.len(), arrays.len() + 1);
    arrays.push(vec![0; size_of::<optc_abi::plan::Status>()]);
    arrays.push(vec![0xFF; work.scratch]);
    let given = |argument: &Argument| match *argument {
        Argument::Buffer(b) => Given::Array(buffers[b].0, buffers[b].1),
        Argument::Scratch(at) => Given::Array(scratch, at as i64),
        Argument::Number(n) => Given::Number(n),
        Argument::Status => Given::Array(status, 0),
    };
    let launches: Vec<Launch<'_>> = work
        .launches
        .iter()
        .map(|l| Launch {
            entry: &l.entry,
            blocks: l.blocks[0],
            threads: l.threads,
            shared: l.shared,
            parameters: l.arguments.iter().map(given).collect(),
        })
        .collect();
    let mut after = run(&code.text, &arrays, &launches);
    after.truncate(tensors.len());
    after
}
