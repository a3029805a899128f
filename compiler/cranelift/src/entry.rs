//! The plan as one function: kernel calls, library calls, copies, loops, conditionals, guards.

use crate::Config;
use crate::emit::{Emit, plain};
use crate::helpers::{self, CallTable};
use crate::isa::Features;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Type, Value, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use optc_abi::DType;
use optc_abi::plan::{BufRef, Gemm, Instr, KernelCall, LoopId, Plan, RawCall, RuntimeTable, Trip, status};
use std::mem::offset_of;

/// Argument sets up to which a call is spelled out in code instead of being run from a table.
const SPELLED_OUT: usize = 3;
/// Kernel instructions of a plan up to which that is done at all: in longer plans, making the code takes longer than it saves.
const SHORT_PLAN: usize = 32;
/// Bytes up to which a copy is made of loads and stores.
const INLINE_COPY: usize = 64;

/// What the entry's code refers to by address and must live as long as it.
#[derive(Default)]
pub(crate) struct Statics {
    #[expect(clippy::vec_box, reason = "the code holds addresses of the tables")]
    pub(crate) tables: Vec<Box<CallTable>>,
    pub(crate) sizes: Vec<Box<[i64]>>,
}

/// Signature of the entry.
pub(crate) fn signature(call_conv: CallConv) -> ir::Signature {
    let mut s = ir::Signature::new(call_conv);
    s.params.extend([AbiParam::new(types::I64); 2]);
    s.returns.push(AbiParam::new(types::I32));
    s
}

struct Entry<'p, 'f> {
    e: Emit<'f>,
    plan: &'p Plan,
    /// Address of the table of kernel addresses.
    kernels: usize,
    direct: bool,
    /// The plan is long: all kernels are run from tables.
    long: bool,
    profile: bool,
    runtime: Value,
    bases: Value,
    /// Pass counters of the open loops.
    counters: Vec<(LoopId, Value)>,
    statics: Statics,
    addresses: StackSlot,
    raw: StackSlot,
    gemms: i64,
    convs: i64,
    libs: i64,
    /// Instructions met so far, in pre-order.
    instructions: i64,
}

/// Fills `func` with the plan's code. `kernels` is the address of a table with the address of each kernel; for one thread kernels are called
/// without the thread pool.
pub(crate) fn build(
    plan: &Plan,
    kernels: usize,
    config: &Config,
    features: Features,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) -> Statics {
    let mut b = FunctionBuilder::new(func, context);
    let block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    b.seal_block(block);
    let params = b.block_params(block).to_vec();
    let (mut most, mut kernels_run) = (1, 0);
    plan.walk(&mut |instr| match instr {
        Instr::Kernel { calls, .. } => {
            most = calls.iter().map(|c| c.buffers.len()).fold(most, usize::max);
            kernels_run += 1;
        }
        Instr::Lib { buffers, .. } => most = most.max(buffers.len()),
        _ => {}
    });
    let mut slot = |bytes: usize| b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 3));
    let (addresses, raw) = (slot(8 * most), slot(size_of::<RawCall>()));
    let mut entry = Entry {
        e: Emit::new(b, features),
        plan,
        kernels,
        direct: config.threads == 1,
        long: kernels_run > SHORT_PLAN,
        profile: config.profile,
        runtime: params[0],
        bases: params[1],
        counters: Vec::new(),
        statics: Statics::default(),
        addresses,
        raw,
        gemms: 0,
        convs: 0,
        libs: 0,
        instructions: 0,
    };
    entry.mark(-1);
    entry.block(&plan.code);
    let ok = entry.e.int(types::I32, status::OK.into());
    entry.e.b.ins().return_(&[ok]);
    entry.e.b.finalize(features.frontend);
    entry.statics
}

impl Entry<'_, '_> {
    fn block(&mut self, code: &[Instr]) {
        for instr in code {
            self.instr(instr);
        }
    }

    fn field(&mut self, offset: usize) -> Value {
        let flags = plain().with_readonly();
        self.e.b.ins().load(types::I64, flags, self.runtime, offset as i32)
    }

    /// Address of a place.
    fn address(&mut self, at: &BufRef) -> Value {
        let flags = plain().with_readonly();
        let base = 8 * self.plan.base_index(at.buffer) as i32;
        let mut address = self.e.b.ins().load(types::I64, flags, self.bases, base);
        for &(id, step) in &at.steps {
            let counter = self.counters.iter().find(|(open, _)| *open == id).map(|c| c.1);
            let counter = counter.unwrap_or_else(|| panic!("compiler bug: a step of loop {id} outside of it"));
            let term = self.e.mul_const(counter, step);
            address = self.e.b.ins().iadd(address, term);
        }
        self.e.add_const(address, self.plan.base_offset(at.buffer) + at.offset)
    }

    fn instr(&mut self, instr: &Instr) {
        let index = self.instructions;
        self.instructions += 1;
        match self.plan.offload.binary_search_by_key(&(index as usize), |t| t.instr) {
            Err(_) => self.run(instr),
            Ok(touch) => self.offloaded(instr, touch as i64),
        }
        // Loops and conditionals have no time of their own: what they hold is marked.
        if !matches!(instr, Instr::Loop { .. } | Instr::Cond { .. }) {
            self.mark(index);
        }
    }

    /// In code for profiling: tells the runtime that an instruction has ended.
    fn mark(&mut self, index: i64) {
        if self.profile {
            self.runtime_call(offset_of!(RuntimeTable, mark), Some(index), &[]);
        }
    }

    fn run(&mut self, instr: &Instr) {
        match instr {
            Instr::Kernel { kernel, calls } => self.kernel(*kernel, calls),
            Instr::Gemm(Gemm { a, b, c, .. }) => {
                let operands = [a, b, c].map(|m| self.address(&m.data));
                let index = self.gemms;
                self.gemms += 1;
                self.runtime_call(offset_of!(RuntimeTable, gemm), Some(index), &operands);
            }
            Instr::Conv(c) => {
                let operands = [&c.lhs, &c.rhs, &c.out, &c.scratch].map(|r| self.address(r));
                let index = self.convs;
                self.convs += 1;
                self.runtime_call(offset_of!(RuntimeTable, conv), Some(index), &operands);
            }
            Instr::Lib { buffers, .. } => {
                let index = self.libs;
                self.libs += 1;
                let list = self.store_addresses(buffers);
                self.runtime_call(offset_of!(RuntimeTable, lib), Some(index), &[list]);
            }
            Instr::Copy { src, dst, bytes } => self.copy(src, dst, *bytes),
            Instr::Loop { id, trip, reverse, counter, body } => self.counted(*id, trip, *reverse, counter, body),
            Instr::Cond { pred, then, otherwise } => {
                let at = self.address(pred);
                let truth = self.e.b.ins().load(types::I8, plain(), at, 0);
                let blocks = [self.e.b.create_block(), self.e.b.create_block(), self.e.b.create_block()];
                self.e.b.ins().brif(truth, blocks[0], &[], blocks[1], &[]);
                for (block, code) in [(blocks[0], then), (blocks[1], otherwise)] {
                    self.enter(block);
                    self.block(code);
                    self.e.b.ins().jump(blocks[2], &[]);
                }
                self.enter(blocks[2]);
            }
            Instr::Guard { value, dtype } => self.guard(value, *dtype),
        }
    }

    /// An instruction that uses arrays in files: a kernel is run by the runtime, others between two calls of it.
    fn offloaded(&mut self, instr: &Instr, touch: i64) {
        if let Instr::Kernel { kernel, .. } = instr {
            let table = self.e.int(types::I64, (self.kernels + 8 * kernel) as i64);
            let code = self.e.b.ins().load(types::I64, plain().with_readonly(), table, 0);
            let bases = self.bases;
            self.storage(offset_of!(RuntimeTable, stream), touch, &[code, bases]);
            return;
        }
        let [before, after] = [0, 1].map(|done| self.e.int(types::I64, done));
        self.storage(offset_of!(RuntimeTable, touch), touch, &[before]);
        self.run(instr);
        self.storage(offset_of!(RuntimeTable, touch), touch, &[after]);
    }

    /// Calls a function of the runtime that may fail, and returns from the plan with its code if it does.
    fn storage(&mut self, field: usize, touch: i64, arguments: &[Value]) {
        let callee = self.field(field);
        let mut all = vec![self.field(offset_of!(RuntimeTable, ctx)), self.e.int(types::I64, touch)];
        all.extend(arguments);
        let mut s = ir::Signature::new(self.e.b.func.signature.call_conv);
        s.params.extend(all.iter().map(|_| AbiParam::new(types::I64)));
        s.returns.push(AbiParam::new(types::I32));
        let s = self.e.b.import_signature(s);
        let call = self.e.b.ins().call_indirect(s, callee, &all);
        let code = self.e.b.inst_results(call)[0];
        let (stop, next) = (self.e.b.create_block(), self.e.b.create_block());
        self.e.b.set_cold_block(stop);
        self.e.b.ins().brif(code, stop, &[], next, &[]);
        self.enter(stop);
        self.e.b.ins().return_(&[code]);
        self.enter(next);
    }

    fn enter(&mut self, block: ir::Block) {
        self.e.b.switch_to_block(block);
        self.e.b.seal_block(block);
    }

    /// Calls a function of the runtime table with its context, an index if any, and arguments.
    fn runtime_call(&mut self, field: usize, index: Option<i64>, arguments: &[Value]) {
        let callee = self.field(field);
        let mut all = vec![self.field(offset_of!(RuntimeTable, ctx))];
        if let Some(index) = index {
            all.push(self.e.int(types::I64, index));
        }
        all.extend(arguments);
        self.indirect(callee, &all);
    }

    fn indirect(&mut self, callee: Value, arguments: &[Value]) {
        let mut s = ir::Signature::new(self.e.b.func.signature.call_conv);
        s.params.extend(arguments.iter().map(|_| AbiParam::new(types::I64)));
        let s = self.e.b.import_signature(s);
        self.e.b.ins().call_indirect(s, callee, arguments);
    }

    /// Writes addresses to the stack and gives the address of the list.
    fn store_addresses(&mut self, buffers: &[BufRef]) -> Value {
        for (i, buffer) in buffers.iter().enumerate() {
            let at = self.address(buffer);
            self.e.b.ins().stack_store(types::I64, at, self.addresses, 8 * i as i32);
        }
        self.e.b.ins().stack_addr(types::I64, self.addresses, 0)
    }

    fn kernel(&mut self, kernel: usize, calls: &[KernelCall]) {
        let table = self.e.int(types::I64, (self.kernels + 8 * kernel) as i64);
        let code = self.e.b.ins().load(types::I64, plain().with_readonly(), table, 0);
        let still = calls.iter().all(|c| c.buffers.iter().all(|b| b.steps.is_empty()));
        if (self.long || calls.len() > SPELLED_OUT) && still {
            self.table_call(code, calls);
            return;
        }
        for call in calls.iter().filter(|c| c.range > 0) {
            let buffers = self.store_addresses(&call.buffers);
            let sizes = call.sizes.clone().into_boxed_slice();
            let sizes_at = self.e.int(types::I64, if sizes.is_empty() { 0 } else { sizes.as_ptr() as i64 });
            self.statics.sizes.push(sizes);
            if self.direct || call.range <= call.grain.max(1) {
                let (begin, end) = (self.e.int(types::I64, 0), self.e.int(types::I64, call.range));
                let status = self.field(offset_of!(RuntimeTable, status));
                self.indirect(code, &[buffers, sizes_at, begin, end, status]);
                continue;
            }
            let (range, grain) = (self.e.int(types::I64, call.range), self.e.int(types::I64, call.grain));
            for (value, offset) in [
                (buffers, offset_of!(RawCall, buffers)),
                (sizes_at, offset_of!(RawCall, sizes)),
                (range, offset_of!(RawCall, range)),
                (grain, offset_of!(RawCall, grain)),
            ] {
                self.e.b.ins().stack_store(types::I64, value, self.raw, offset as i32);
            }
            let raw = self.e.b.ins().stack_addr(types::I64, self.raw, 0);
            let one = self.e.int(types::I64, 1);
            self.runtime_call(offset_of!(RuntimeTable, parallel), None, &[code, raw, one]);
        }
    }

    /// Many argument sets: a helper resolves the addresses of a prepared table.
    fn table_call(&mut self, code: Value, calls: &[KernelCall]) {
        let table = Box::new(CallTable {
            buffers: calls
                .iter()
                .flat_map(|c| &c.buffers)
                .map(|b| (self.plan.base_index(b.buffer), self.plan.base_offset(b.buffer) + b.offset))
                .collect(),
            arity: calls[0].buffers.len(),
            sizes: calls.iter().flat_map(|c| &c.sizes).copied().collect(),
            sizes_each: calls[0].sizes.len(),
            ranges: calls.iter().map(|c| (c.range, c.grain)).collect(),
        });
        let table_at = self.e.int(types::I64, std::ptr::from_ref(&*table) as i64);
        self.statics.tables.push(table);
        // One unit of work needs no pool.
        let single = calls.len() == 1 && calls[0].range <= calls[0].grain.max(1);
        let direct = self.e.int(types::I64, (self.direct || single).into());
        let (runtime, bases) = (self.runtime, self.bases);
        self.e.call(helpers::run_calls as *const () as usize, &[table_at, runtime, bases, code, direct], None);
    }

    fn copy(&mut self, src: &BufRef, dst: &BufRef, bytes: usize) {
        let (from, to) = (self.address(src), self.address(dst));
        if bytes > INLINE_COPY {
            let n = self.e.int(types::I64, bytes as i64);
            self.e.call(helpers::copy_bytes as *const () as usize, &[from, to, n], None);
            return;
        }
        let mut at = 0;
        while at < bytes {
            let ty: Type = match bytes - at {
                16.. => types::I8X16,
                8.. => types::I64,
                4.. => types::I32,
                2.. => types::I16,
                _ => types::I8,
            };
            let x = self.e.b.ins().load(ty, plain(), from, at as i32);
            self.e.b.ins().store(plain(), x, to, at as i32);
            at += ty.bytes() as usize;
        }
    }

    fn counted(&mut self, id: LoopId, trip: &Trip, reverse: bool, counter: &BufRef, body: &[Instr]) {
        let n = match trip {
            Trip::Const(n) => self.e.int(types::I64, *n as i64),
            Trip::Run(at) | Trip::While { most: at, .. } => {
                let at = self.address(at);
                self.e.b.ins().sload32(plain(), at, 0)
            }
        };
        let zero = self.e.int(types::I64, 0);
        let (head, done) = (self.e.b.create_block(), self.e.b.create_block());
        let pass = self.e.b.append_block_param(head, types::I64);
        let any = self.e.icmp(IntCC::SignedLessThan, zero, n);
        self.e.b.ins().brif(any, head, &[zero.into()], done, &[]);
        self.e.b.switch_to_block(head);
        if let Trip::While { go, .. } = trip {
            let place = self.address(go);
            let go = self.e.b.ins().load(types::I8, plain(), place, 0);
            let on = self.e.b.create_block();
            self.e.b.ins().brif(go, on, &[], done, &[]);
            self.enter(on);
        }
        let at = if reverse {
            let last = self.e.add_const(n, -1);
            self.e.b.ins().isub(last, pass)
        } else {
            pass
        };
        let place = self.address(counter);
        self.e.b.ins().istore32(plain(), at, place, 0);
        self.counters.push((id, at));
        self.block(body);
        self.counters.pop();
        let next = self.e.add_const(pass, 1);
        let more = self.e.icmp(IntCC::SignedLessThan, next, n);
        self.e.b.ins().brif(more, head, &[next.into()], done, &[]);
        self.e.b.seal_block(head);
        self.enter(done);
    }

    /// Returns from the plan if a scalar is not finite.
    fn guard(&mut self, value: &BufRef, dtype: DType) {
        let at = self.address(value);
        let x = self.e.load_scalar(dtype, at, 0);
        let ty = self.e.type_of(x);
        let size = self.e.b.ins().fabs(x);
        let inf = self.e.float_of(ty, f64::INFINITY);
        let finite = self.e.b.ins().fcmp(FloatCC::LessThan, size, inf);
        let (stop, next) = (self.e.b.create_block(), self.e.b.create_block());
        self.e.b.set_cold_block(stop);
        self.e.b.ins().brif(finite, next, &[], stop, &[]);
        self.enter(stop);
        let code = self.e.int(types::I32, status::NOT_FINITE.into());
        self.e.b.ins().return_(&[code]);
        self.enter(next);
    }
}
