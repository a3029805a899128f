//! Kernels for GPUs: PTX, and the same for the emulator.

use crate::body::{Body, function_type};
use crate::compile::Unit;
use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::host::{Facts, symbol};
use crate::ins::{IntCC, V};
use crate::simt::{Launch, shape};
use inkwell::llvm_sys::LLVMLinkage;
use optc_abi::plan::{Status, WRITTEN_ORIGIN, status};
use optc_ir::kernel::{Access, Kernel};
use std::mem::offset_of;

/// LLVM's number of the calling convention of PTX kernels.
pub(crate) const PTX_KERNEL: u32 = 71;
/// Address spaces of PTX.
pub(crate) const GLOBAL: u32 = 1;
pub(crate) const SHARED: u32 = 3;
/// Blocks that the emulator runs one launch with at most.
const EMULATED_BLOCKS: i64 = 12;

/// What the function of a kernel's threads is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All that an entry does: it looks at the status first, and blocks share the range of units.
    Entry,
    /// What a block does with an item: the range is its own.
    Item,
}

/// Fills in the function of a kernel's threads, which has been begun.
pub(crate) fn threads(e: Emit, kernel: &Kernel, facts: &Facts, function: V, shared: Option<V>, role: Role) -> Emit {
    // What a group's other threads write lies beyond what LLVM sees of one thread: it would carry values of such memory over barriers, which it takes for nobody else's.
    let shape = shape(kernel, facts);
    let own = |b: usize| shape.group == 1 || kernel.buffers[b].access == Access::Read;
    let mut body = Body::new(e, kernel, facts, function, own);
    if role == Role::Entry {
        let agree = shape.verdict.zip(shared).map(|(at, base)| body.e.i.element(body.e.i.int_type(8), base, body.e.i.i64(at)));
        body.e.unless_stopped(body.status, agree);
    }
    body.open_simt(shape, facts, shared, role == Role::Item);
    body.open_accs();
    body.all();
    body.e.i.ret();
    body.e
}

impl Emit {
    /// Ends the thread if a guard or an index out of range has stopped the run; a watched output that is not finite does not. Where this launch itself may change the
    /// status, and its threads wait for each other, one thread looks for its block, and `agree` is where in shared memory the others find what it saw.
    pub(crate) fn unless_stopped(&mut self, status: V, agree: Option<V>) {
        let Some(slot) = agree else {
            let stopped = self.stopped(status);
            return self.leave_if(stopped);
        };
        let word = self.i.int_type(32);
        let first = self.i.icmp(IntCC::LLVMIntEQ, self.special("tid.x"), self.i.i32(0));
        self.when(first, |e| {
            let seen = e.i.cast(crate::ins::Opcode::LLVMZExt, e.stopped(status), word);
            e.noted_write(slot, 4);
            e.i.store(seen, slot, 4);
        });
        self.block_barrier();
        self.noted_read(slot, 4);
        let stopped = self.i.icmp(IntCC::LLVMIntNE, self.i.load(word, slot, 4), self.i.i32(0));
        self.leave_if(stopped);
    }

    /// Whether the run has been stopped.
    fn stopped(&self, at: V) -> V {
        let (byte, word) = (self.i.int_type(8), self.i.int_type(32));
        let field = |offset: usize| {
            let x = self.i.load(word, self.i.element(byte, at, self.i.i64(offset as i64)), 4);
            self.i.volatile(x);
            x
        };
        let (code, origin) = (field(offset_of!(Status, code)), field(offset_of!(Status, origin)));
        let fault = self.i.icmp(IntCC::LLVMIntNE, code, self.i.i32(status::OK.into()));
        self.i.and(fault, self.i.icmp(IntCC::LLVMIntNE, origin, self.i.i32(WRITTEN_ORIGIN.into())))
    }

    /// Ends the thread if a condition holds.
    pub(crate) fn leave_if(&mut self, condition: V) {
        let (out, on) = (self.i.block(), self.i.block());
        self.i.branch_seldom(condition, out, on);
        self.i.go_to(out);
        self.i.ret();
        self.i.go_to(on);
    }
}

/// Adds a kernel as an entry of PTX; gives its launch.
pub(crate) fn ptx(mut e: Emit, name: &str, kernel: &Kernel, facts: &Facts) -> (Emit, Launch) {
    let launch = shape(kernel, facts).launch;
    let shared = (launch.shared > 0).then(|| e.i.memory(&format!("{name}_shared"), launch.shared, SHARED, 16));
    let ty = function_type(&e, kernel, e.i.pointer(GLOBAL));
    let attributes = [("nvvm.maxntid".to_string(), launch.threads.to_string())];
    let function = e.i.begin(name, ty, LLVMLinkage::LLVMExternalLinkage, &attributes);
    e.i.convention(function, PTX_KERNEL);
    (threads(e, kernel, facts, function, shared, Role::Entry), launch)
}

/// Adds kernel `n` for the emulator: the body, a thread of it, and a function as [`optc_abi::plan::KernelFn`] that launches them.
pub(crate) fn emulated(mut e: Emit, unit: &Unit<'_>, attributes: &[(String, String)]) -> Emit {
    let (n, kernel, facts) = (unit.number, unit.kernel, unit.facts);
    let (pointer, long, word) = (e.i.pointer(0), e.i.int_type(64), e.i.int_type(32));
    let launch = shape(kernel, facts).launch;
    let buffers = kernel.buffers.len();
    let ty = function_type(&e, kernel, pointer);
    let body = e.i.begin(&format!("{}.body", symbol(n)), ty, LLVMLinkage::LLVMInternalLinkage, attributes);
    let shared = (launch.shared > 0).then(|| {
        let ty = e.i.function_type(pointer, &[]);
        e.i.call(e.i.declared("optc_simt_shared", ty), ty, &[])
    });
    e = threads(e, kernel, facts, body, shared, Role::Entry);
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
    let rounded = i.add(i.mul(units, i.i64(launch.pieces)), i.i64(launch.units - 1));
    let blocks = i.op2(crate::ins::Opcode::LLVMSDiv, rounded, i.i64(launch.units));
    let many = i.icmp(IntCC::LLVMIntSGT, blocks, i.i64(EMULATED_BLOCKS));
    let blocks = i.select(many, i.i64(EMULATED_BLOCKS), blocks);
    let ty = i.function_type(i.void(), &[pointer, pointer, word, word, long]);
    let start = i.declared("optc_simt_launch", ty);
    let blocks = i.cast(crate::ins::Opcode::LLVMTrunc, blocks, word);
    if let Some(around) = &unit.around {
        // The memory there is: start and end for each buffer.
        let list = i.stack(i.array(long, 2 * buffers), 8);
        for (b, range) in around.iter().enumerate() {
            let base = i.load(long, i.element(long, i.parameter(0), i.i64(b as i64)), 8);
            for (end, at) in [range.start, range.end].into_iter().enumerate() {
                i.store(i.add(base, i.i64(at)), i.element(long, list, i.i64((2 * b + end) as i64)), 8);
            }
        }
        let ty = i.function_type(i.void(), &[pointer, long]);
        i.call(i.declared("optc_simt_memory", ty), ty, &[list, i.i64(buffers as i64)]);
    }
    i.call(start, ty, &[thread, arguments, i.i32(launch.threads), blocks, i.i64(launch.shared)]);
    i.ret();
    e
}

/// Adds an entry of a kernel for the emulator, with the parameters that it has in PTX.
pub(crate) fn one(mut d: Entries, name: &str, kernel: &Kernel, facts: &Facts) -> Entries {
    let launch = shape(kernel, facts).launch;
    let ty = function_type(&d.e, kernel, d.e.address());
    let body = d.e.i.begin(&format!("{name}.body"), ty, LLVMLinkage::LLVMInternalLinkage, &d.attributes);
    let shared = (launch.shared > 0).then(|| d.e.block_memory(name, launch.shared));
    d.e = threads(d.e, kernel, facts, body, shared, Role::Entry);
    let mut parameters = vec![Parameter::Address; kernel.buffers.len()];
    parameters.extend(vec![Parameter::Number; kernel.sizes + 2]);
    parameters.push(Parameter::Address);
    let all = d.open(name, &parameters, launch);
    d.e.i.call(body, ty, &all);
    d.close()
}

/// Adds an entry that does a kernel's work for many argument sets: each block takes items from a list in turn, as [`optc_abi::device::KernelEntry::many`] says.
pub(crate) fn many(mut d: Entries, name: &str, kernel: &Kernel, facts: &Facts) -> Entries {
    let launch = shape(kernel, facts).launch;
    let (pointer, long) = (d.e.address(), d.e.i.int_type(64));
    let ty = function_type(&d.e, kernel, pointer);
    let work = d.e.i.begin(&format!("{name}.item"), ty, LLVMLinkage::LLVMInternalLinkage, &d.attributes);
    d.e.i.attribute(work, u32::MAX, "alwaysinline", 0);
    let shared = (launch.shared > 0).then(|| d.e.block_memory(name, launch.shared));
    d.e = threads(d.e, kernel, facts, work, shared, Role::Item);
    let all = d.open(name, &[Parameter::Address, Parameter::Address, Parameter::Number, Parameter::Address], launch);
    let [table, items, count, status] = all[..] else { unreachable!("as many as asked for") };
    // Another block may report an index out of range while this one begins; its threads must not part over that.
    let agree =
        shape(kernel, facts).verdict.map(|at| d.e.i.element(d.e.i.int_type(8), d.e.block_memory(name, launch.shared), d.e.i.i64(at)));
    d.e.unless_stopped(status, agree);
    let (first, step) = (d.e.block_index(), d.e.block_count());
    d.e.looped(first, count, step, |e, n| {
        // What the lists hold does not change while they are worked on.
        let word = |e: &Emit, ty, base: V, at: i64| {
            let at = e.i.element(long, base, e.i.i64(at));
            e.noted_read(at, 8);
            let x = e.i.load(ty, at, 8);
            e.i.invariant(x);
            x
        };
        let item = e.i.element(long, items, e.i.mul(n, e.i.i64(3)));
        let row = e.i.element(e.i.int_type(8), table, word(e, long, item, 0));
        let buffers = kernel.buffers.len();
        let mut all: Vec<V> = (0..buffers).map(|b| word(e, pointer, row, b as i64)).collect();
        all.extend((0..kernel.sizes).map(|s| word(e, long, row, (buffers + s) as i64)));
        all.extend([word(e, long, item, 1), word(e, long, item, 2), status]);
        e.i.call(work, ty, &all);
        if launch.shared > 0 {
            // Shared memory is the next item's.
            e.block_barrier();
        }
    });
    d.close()
}
