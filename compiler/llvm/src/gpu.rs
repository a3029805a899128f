//! Kernels for GPUs: PTX, and the same for the emulator.

use crate::body::{Body, function_type};
use crate::emit::Emit;
use crate::host::{Facts, symbol};
use crate::ins::{IntCC, V};
use crate::simt::{Launch, shape};
use inkwell::llvm_sys::LLVMLinkage;
use optc_ir::kernel::{Access, Kernel};

/// LLVM's number of the calling convention of PTX kernels.
const PTX_KERNEL: u32 = 71;
/// Address spaces of PTX.
const GLOBAL: u32 = 1;
const SHARED: u32 = 3;
/// Blocks that the emulator runs one launch with at most.
const EMULATED_BLOCKS: i64 = 12;

/// Fills in the function of a kernel's threads, which has been begun.
fn threads(e: Emit, kernel: &Kernel, facts: &Facts, function: V, shared: Option<V>) -> Emit {
    // What a group's other threads write lies beyond what LLVM sees of one thread: it would carry values of such memory over barriers, which it takes for nobody else's.
    let shape = shape(kernel);
    let own = |b: usize| shape.group == 1 || kernel.buffers[b].access == Access::Read;
    let mut body = Body::new(e, kernel, facts, function, own);
    body.open_simt(shape, &facts.aliased, shared);
    body.open_accs();
    body.block(&kernel.body);
    body.e.i.ret();
    body.e
}

/// Adds a kernel as an entry of PTX; gives its launch.
pub(crate) fn ptx(mut e: Emit, name: &str, kernel: &Kernel, facts: &Facts) -> (Emit, Launch) {
    let launch = shape(kernel).launch;
    let shared = (launch.shared > 0).then(|| e.i.memory(&format!("{name}_shared"), launch.shared, SHARED, 16));
    let ty = function_type(&e, kernel, e.i.pointer(GLOBAL));
    let attributes = [("nvvm.maxntid".to_string(), launch.threads.to_string())];
    let function = e.i.begin(name, ty, LLVMLinkage::LLVMExternalLinkage, &attributes);
    e.i.convention(function, PTX_KERNEL);
    (threads(e, kernel, facts, function, shared), launch)
}

/// Adds kernel `n` for the emulator: the body, a thread of it, and a function as [`optc_abi::plan::KernelFn`] that launches them.
pub(crate) fn emulated(mut e: Emit, n: usize, kernel: &Kernel, facts: &Facts, attributes: &[(String, String)]) -> Emit {
    let (pointer, long, word) = (e.i.pointer(0), e.i.int_type(64), e.i.int_type(32));
    let launch = shape(kernel).launch;
    let buffers = kernel.buffers.len();
    let ty = function_type(&e, kernel, pointer);
    let body = e.i.begin(&format!("{}.body", symbol(n)), ty, LLVMLinkage::LLVMInternalLinkage, attributes);
    let shared = (launch.shared > 0).then(|| {
        let ty = e.i.function_type(pointer, &[]);
        e.i.call(e.i.declared("optc_simt_shared", ty), ty, &[])
    });
    e = threads(e, kernel, facts, body, shared);
    // A thread: the arguments lie one after the other in memory.
    let thread_type = e.i.function_type(e.i.void(), &[pointer]);
    let thread = e.i.begin(&format!("{}.thread", symbol(n)), thread_type, LLVMLinkage::LLVMInternalLinkage, attributes);
    {
        let i = &e.i;
        let word_of = |ty, base: V, at: usize| i.load(ty, i.element(long, base, i.i64(at as i64)), 8);
        let arguments = i.parameter(0);
        let (list, sizes) = (word_of(pointer, arguments, 0), word_of(pointer, arguments, 1));
        let mut all: Vec<V> = (0..buffers).map(|b| word_of(pointer, list, b)).collect();
        all.extend((0..kernel.sizes).map(|s| word_of(long, sizes, s)));
        all.extend([word_of(long, arguments, 2), word_of(long, arguments, 3), word_of(pointer, arguments, 4)]);
        i.call(body, ty, &all);
        i.ret();
    }
    let outer = e.i.function_type(e.i.void(), &[pointer, pointer, long, long, pointer]);
    e.i.begin(&symbol(n), outer, LLVMLinkage::LLVMExternalLinkage, attributes);
    let i = &e.i;
    let arguments = i.stack(i.array(long, 5), 8);
    for p in 0..5 {
        i.store(i.parameter(p), i.element(long, arguments, i.i64(p as i64)), 8);
    }
    let units = i.op2(crate::ins::Opcode::LLVMSub, i.parameter(3), i.parameter(2));
    let rounded = i.add(units, i.i64(launch.units - 1));
    let blocks = i.op2(crate::ins::Opcode::LLVMSDiv, rounded, i.i64(launch.units));
    let many = i.icmp(IntCC::LLVMIntSGT, blocks, i.i64(EMULATED_BLOCKS));
    let blocks = i.select(many, i.i64(EMULATED_BLOCKS), blocks);
    let ty = i.function_type(i.void(), &[pointer, pointer, word, word, long]);
    let start = i.declared("optc_simt_launch", ty);
    let blocks = i.cast(crate::ins::Opcode::LLVMTrunc, blocks, word);
    i.call(start, ty, &[thread, arguments, i.i32(launch.threads), blocks, i.i64(launch.shared)]);
    i.ret();
    e
}
