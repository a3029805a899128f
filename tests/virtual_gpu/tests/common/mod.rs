//! A device for a test: one at a time, fresh, with what a program does with it in few words.
#![allow(dead_code, unused_imports)]

use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard};
use virtual_cuda::api::{context::*, launch::*, memory::*, module::*, stream::*};
pub use virtual_cuda::options::{Options, Order};

static ONE: Mutex<()> = Mutex::new(());

/// The device, with its context current.
pub struct Gpu {
    _one: MutexGuard<'static, ()>,
}

/// A kernel.
#[derive(Clone, Copy)]
pub struct Kernel(pub *mut c_void);

/// A parameter of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    U64(u64),
    U32(u32),
    F32(f32),
}

pub const NULL: *mut c_void = std::ptr::null_mut();

impl Gpu {
    pub fn new() -> Gpu {
        Gpu::with(Options::default())
    }

    pub fn with(options: Options) -> Gpu {
        let one = ONE.lock().unwrap_or_else(|e| e.into_inner());
        restart(options);
        assert_eq!(cuInit(0), 0);
        let mut context = NULL;
        unsafe { assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0) };
        assert_eq!(cuCtxSetCurrent(context), 0);
        Gpu { _one: one }
    }

    pub fn load(&self, text: &str) -> *mut c_void {
        match self.try_load(text) {
            Ok(module) => module,
            Err((code, words)) => panic!("{code}: {words}"),
        }
    }

    /// The code and the words of the log if a text is refused.
    pub fn try_load(&self, text: &str) -> Result<*mut c_void, (i32, String)> {
        let text = CString::new(text).unwrap();
        let (mut module, mut log) = (NULL, vec![0u8; 4096]);
        let names = [5u32, 6];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), 4096 as *mut c_void];
        let code = unsafe { cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, names.as_ptr(), values.as_mut_ptr()) };
        if code == 0 {
            return Ok(module);
        }
        let n = log.iter().position(|b| *b == 0).unwrap();
        Err((code, String::from_utf8_lossy(&log[..n]).into_owned()))
    }

    pub fn kernel(&self, module: *mut c_void, name: &str) -> Kernel {
        let (name, mut f) = (CString::new(name).unwrap(), NULL);
        unsafe { assert_eq!(cuModuleGetFunction(&mut f, module, name.as_ptr()), 0) };
        Kernel(f)
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut at = 0;
        unsafe { assert_eq!(cuMemAlloc_v2(&mut at, bytes), 0) };
        at
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let at = self.alloc(size_of_val(data).max(1));
        assert_eq!(cuMemcpyHtoD_v2(at, data.as_ptr().cast(), size_of_val(data)), 0);
        at
    }

    pub fn download<T: Copy + Default>(&self, at: u64, n: usize) -> Vec<T> {
        let mut data = vec![T::default(); n];
        assert_eq!(cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), at, n * size_of::<T>()), 0);
        data
    }

    pub fn stream(&self) -> *mut c_void {
        let mut s = NULL;
        unsafe { assert_eq!(cuStreamCreate(&mut s, 1), 0) };
        s
    }

    /// Launches; gives the code.
    pub fn launch(&self, kernel: Kernel, grid: u32, block: u32, shared: u32, stream: *mut c_void, args: &[Arg]) -> i32 {
        let list: Vec<*const c_void> = args
            .iter()
            .map(|a| match a {
                Arg::U64(x) => (x as *const u64).cast(),
                Arg::U32(x) => (x as *const u32).cast(),
                Arg::F32(x) => (x as *const f32).cast(),
            })
            .collect();
        unsafe { cuLaunchKernel(kernel.0, grid, 1, 1, block, 1, 1, shared, stream, list.as_ptr(), std::ptr::null()) }
    }

    /// Launches in the null stream and waits.
    pub fn run(&self, kernel: Kernel, grid: u32, block: u32, args: &[Arg]) {
        assert_eq!(self.launch(kernel, grid, block, 0, NULL, args), 0);
        assert_eq!(cuCtxSynchronize(), 0);
    }

    /// Runs a body of 32 threads on words: `%r0` is the lane, `%rd0` the input, `%rd1` the output; gives `out` words.
    pub fn body(&self, input: &[u32], out: usize, block: u32, body: &str) -> Vec<u32> {
        let module = self.load(&text(body));
        let kernel = self.kernel(module, "k");
        let (a, b) = (self.upload(if input.is_empty() { &[0] } else { input }), self.upload(&vec![0xDEAD_BEEFu32; out]));
        self.run(kernel, 1, block, &[Arg::U64(a), Arg::U64(b)]);
        let result = self.download(b, out);
        assert_eq!((cuMemFree_v2(a), cuMemFree_v2(b), cuModuleUnload(module)), (0, 0, 0));
        result
    }

    /// As [`Gpu::body`], but gives the code of the first call that fails.
    pub fn fails(&self, block: u32, body: &str) -> i32 {
        let kernel = self.kernel(self.load(&text(body)), "k");
        let (a, b) = (self.alloc(4096), self.alloc(4096));
        match self.launch(kernel, 1, block, 0, NULL, &[Arg::U64(a), Arg::U64(b)]) {
            0 => cuCtxSynchronize(),
            code => code,
        }
    }
}

/// A module with a kernel `k(in, out)`.
pub fn text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 pa, .param .u64 pb)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %rs<32>;\n.reg .b32 %r<64>;\n.reg .f32 %f<32>;\n.reg .b64 %rd<32>;\n.reg .f64 %fd<32>;\n\
         ld.param.u64 %rd0, [pa];\nld.param.u64 %rd1, [pb];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Puts operands into an instruction and its results beside what they should be. `types`: that of the result, then those of the operands, as `32`, `64`, `16` bits or `p`; an operand of the
/// text is `$1`, the result `$0`. Cases have bits of operands, and bits of the result.
pub fn check(gpu: &Gpu, instruction: &str, types: &[&str], cases: &[(&[u64], u64)]) {
    let mut body = String::new();
    let sources = types.len() - 1;
    let mut line = |text: String| body += &format!("{text}\n");
    line(format!("mul.wide.u32 %rd2, %r0, {};", 8 * sources.max(1)));
    line("add.s64 %rd2, %rd0, %rd2;".to_string());
    line("mul.wide.u32 %rd3, %r0, 8;".to_string());
    line("add.s64 %rd3, %rd1, %rd3;".to_string());
    let mut text = instruction.to_string();
    for (n, ty) in types[1..].iter().enumerate() {
        let at = 4 + n;
        line(format!("ld.global.b64 %rd{at}, [%rd2+{}];", 8 * n));
        let name = match *ty {
            "64" => format!("%rd{at}"),
            "32" => {
                line(format!("cvt.u32.u64 %r{at}, %rd{at};"));
                format!("%r{at}")
            }
            "16" => {
                line(format!("cvt.u16.u64 %rs{at}, %rd{at};"));
                format!("%rs{at}")
            }
            _ => {
                line(format!("setp.ne.u64 %p{at}, %rd{at}, 0;"));
                format!("%p{at}")
            }
        };
        text = text.replace(&format!("${}", n + 1), &name);
    }
    let (result, back) = match types[0] {
        "64" => ("%rd20", "mov.b64 %rd21, %rd20;"),
        "32" => ("%r20", "cvt.u64.u32 %rd21, %r20;"),
        "16" => ("%rs20", "cvt.u64.u16 %rd21, %rs20;"),
        _ => ("%p12", "selp.b64 %rd21, 1, 0, %p12;"),
    };
    line(text.replace("$0", result));
    line(back.to_string());
    line("st.global.b64 [%rd3], %rd21;".to_string());
    let input: Vec<u64> = cases.iter().flat_map(|(operands, _)| operands.iter().copied()).collect();
    assert_eq!(input.len(), sources * cases.len(), "{instruction}");
    let kernel = gpu.kernel(gpu.load(&self::text(&body)), "k");
    let (a, b) = (gpu.upload(if input.is_empty() { &[0] } else { &input }), gpu.alloc(8 * cases.len()));
    gpu.run(kernel, 1, cases.len() as u32, &[Arg::U64(a), Arg::U64(b)]);
    let found: Vec<u64> = gpu.download(b, cases.len());
    for (n, (operands, wanted)) in cases.iter().enumerate() {
        assert_eq!(found[n], *wanted, "{instruction} of {operands:x?}: {:#x}, not {wanted:#x}", found[n]);
    }
}
