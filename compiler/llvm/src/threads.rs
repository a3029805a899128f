//! What threads of a GPU can ask and do, in PTX and in calls of the emulator.

use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use crate::machine::Machine;
use optc_abi::DType;

impl Emit {
    fn emulated(&self) -> bool {
        matches!(self.machine, Machine::Emulated { .. })
    }

    /// A function of the emulator.
    fn ask(&self, name: &str, result: crate::ins::T, arguments: &[V]) -> V {
        let types: Vec<_> = arguments.iter().map(|&x| self.i.type_of(x)).collect();
        let ty = self.i.function_type(result, &types);
        let function = self.i.declared(name, ty);
        self.i.attribute(function, u32::MAX, "nounwind", 0);
        self.i.call(function, ty, arguments)
    }

    /// One of `tid.x`, `ctaid.x`, `nctaid.x`, as i32.
    pub(crate) fn special(&self, name: &str) -> V {
        if !self.emulated() {
            return self.i.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], &[]);
        }
        let function = match name {
            "tid.x" => "optc_simt_thread",
            "ctaid.x" => "optc_simt_block",
            _ => "optc_simt_blocks",
        };
        self.ask(function, self.i.int_type(32), &[])
    }

    /// All threads of the block wait for each other.
    pub(crate) fn block_barrier(&self) {
        if self.emulated() {
            self.ask("optc_simt_barrier", self.i.void(), &[]);
        } else {
            self.i.intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", &[], &[self.i.i32(0)]);
        }
    }

    /// All threads of the warp wait for each other.
    pub(crate) fn warp_sync(&self) {
        if self.emulated() {
            self.ask("optc_simt_warp_sync", self.i.void(), &[]);
        } else {
            self.i.intrinsic("llvm.nvvm.bar.warp.sync", &[], &[self.i.i32(-1)]);
        }
    }

    /// The value that the thread `distance` away in the warp (by exclusive or) has.
    pub(crate) fn shuffle(&self, dtype: DType, x: V, distance: i64) -> V {
        let i = &self.i;
        let (word, long) = (i.int_type(32), i.int_type(64));
        let one = |bits: V| {
            if self.emulated() {
                self.ask("optc_simt_shuffle", word, &[bits, i.i32(distance)])
            } else {
                i.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &[], &[i.i32(-1), bits, i.i32(distance), i.i32(31)])
            }
        };
        if crate::simt::words(dtype) == 2 {
            let bits = i.bits(x, long);
            let low = one(i.cast(Opcode::LLVMTrunc, bits, word));
            let high = one(i.cast(Opcode::LLVMTrunc, i.op2(Opcode::LLVMLShr, bits, i.i64(32)), word));
            let high = i.op2(Opcode::LLVMShl, i.cast(Opcode::LLVMZExt, high, long), i.i64(32));
            return i.bits(i.op2(Opcode::LLVMOr, i.cast(Opcode::LLVMZExt, low, long), high), i.scalar(dtype));
        }
        let ty = i.scalar(dtype);
        match dtype {
            DType::Bool | DType::U8 => i.cast(Opcode::LLVMTrunc, one(i.cast(Opcode::LLVMZExt, x, word)), ty),
            _ => i.bits(one(i.bits(x, word)), ty),
        }
    }

    /// Begins a copy of 4, 8 or 16 bytes from global to shared memory; zeros where `real` does not hold. For GPUs from sm_80 on.
    pub(crate) fn copy_async(&self, to: V, from: V, bytes: i64, real: Option<V>) {
        let i = &self.i;
        let count = match real {
            Some(real) => i.select(real, i.i32(bytes), i.i32(0)),
            None => i.i32(bytes),
        };
        if self.emulated() {
            self.ask("optc_simt_copy", i.void(), &[to, from, i.i32(bytes), count]);
            return;
        }
        let name = match bytes {
            4 => "llvm.nvvm.cp.async.ca.shared.global.4.s",
            8 => "llvm.nvvm.cp.async.ca.shared.global.8.s",
            _ => "llvm.nvvm.cp.async.cg.shared.global.16.s",
        };
        i.intrinsic(name, &[], &[to, from, count]);
    }

    /// Closes a group of copies.
    pub(crate) fn end_copies(&self) {
        if self.emulated() {
            self.ask("optc_simt_copies_end", self.i.void(), &[]);
        } else {
            self.i.intrinsic("llvm.nvvm.cp.async.commit.group", &[], &[]);
        }
    }

    /// Waits until of the thread's groups of copies only so many may be under way.
    pub(crate) fn wait_copies(&self, but: i64) {
        if self.emulated() {
            self.ask("optc_simt_copies_wait", self.i.void(), &[self.i.i32(but)]);
        } else {
            self.i.intrinsic("llvm.nvvm.cp.async.wait.group", &[], &[self.i.i32(but)]);
        }
    }

    /// Four matrices of 8 x 8 halfwords from shared memory, each lane naming one of their 32 rows.
    pub(crate) fn load_matrices(&self, row: V, transposed: bool) -> [V; 4] {
        let (i, word) = (&self.i, self.i.int_type(32));
        if self.emulated() {
            let room = i.stack(i.array(word, 4), 16);
            self.ask("optc_simt_matrices", i.void(), &[row, i.i32(transposed.into()), room]);
            return std::array::from_fn(|n| i.load(word, i.element(word, room, i.i64(n as i64)), 4));
        }
        let name =
            if transposed { "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16" } else { "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16" };
        let all = i.intrinsic(name, &[i.type_of(row)], &[row]);
        std::array::from_fn(|n| i.part(all, n as u32))
    }

    /// `c + a b` of the warp's matrices, 16 x 16 by 16 x 8 of bf16 or f16, sums in f32.
    pub(crate) fn multiply_matrices(&self, of: DType, a: [V; 4], b: [V; 2], c: [V; 4]) -> [V; 4] {
        let (i, word, float) = (&self.i, self.i.int_type(32), self.i.scalar(DType::F32));
        let f16 = of == DType::F16;
        if self.emulated() {
            let room = i.stack(i.array(word, 10), 16);
            let at = |n: usize| i.element(word, room, i.i64(n as i64));
            a.iter().chain(&b).enumerate().for_each(|(n, &x)| i.store(x, at(n), 4));
            c.iter().enumerate().for_each(|(n, &x)| i.store(x, at(6 + n), 4));
            self.ask("optc_simt_product", i.void(), &[room, i.i32(f16.into())]);
            return std::array::from_fn(|n| i.load(float, at(n), 4));
        }
        // Words of two numbers, which one of the two has as vectors.
        let pair = |x: V| if f16 { i.bits(x, i.vector(i.half(), 2)) } else { x };
        let all: Vec<V> = a.into_iter().chain(b).map(pair).chain(c).collect();
        let name = if f16 { "llvm.nvvm.mma.m16n8k16.row.col.f32.f32" } else { "llvm.nvvm.mma.m16n8k16.row.col.bf16" };
        let d = i.intrinsic(name, &[], &all);
        std::array::from_fn(|n| i.part(d, n as u32))
    }

    /// A value as shared memory holds it, and its bytes.
    pub(crate) fn stored(&self, dtype: DType, x: V) -> (V, i64) {
        if dtype == DType::Bool { (self.i.cast(Opcode::LLVMZExt, x, self.i.int_type(8)), 1) } else { (x, dtype.size() as i64) }
    }

    /// What [`Emit::stored`] has made, read.
    pub(crate) fn read_back(&self, dtype: DType, at: V) -> V {
        let i = &self.i;
        self.noted_read(at, if dtype == DType::Bool { 1 } else { dtype.size() as i64 });
        if dtype == DType::Bool {
            let byte = i.load(i.int_type(8), at, 8);
            return i.icmp(IntCC::LLVMIntNE, byte, i.int(i.int_type(8), 0));
        }
        i.load(i.scalar(dtype), at, 8)
    }

    /// Tells the emulator of a load that follows.
    pub(crate) fn noted_read(&self, at: V, bytes: i64) {
        if self.emulated() {
            self.ask("optc_simt_read", self.i.void(), &[at, self.i.i64(bytes)]);
        }
    }

    /// Tells the emulator of a store that follows.
    pub(crate) fn noted_write(&self, at: V, bytes: i64) {
        if self.emulated() {
            self.ask("optc_simt_write", self.i.void(), &[at, self.i.i64(bytes)]);
        }
    }
}
