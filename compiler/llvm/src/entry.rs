//! What is launched, in PTX and on the emulator: entries with parameters of 8 bytes each.

use crate::emit::Emit;
use crate::gpu::{GLOBAL, PTX_KERNEL, SHARED};
use crate::ins::{IntCC, Opcode, T, V};
use crate::machine::Machine;
use crate::simt::Launch;
use inkwell::llvm_sys::LLVMLinkage;

/// A parameter of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// Of global memory.
    Address,
    /// An i64.
    Number,
}

/// An entry, and what it is launched with.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) launch: Launch,
}

/// Entries of a module under construction.
pub(crate) struct Entries {
    pub(crate) e: Emit,
    /// Attributes of every function.
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) made: Vec<Entry>,
    /// The GPU has asynchronous copies and products of matrices of bf16: from sm_80 on.
    pub(crate) copies: bool,
    /// Blocks of the entries to come that a multiprocessor should have room for, which limits their registers; 0 leaves it to the assembler, which then rather spills a little than use many.
    pub(crate) crowd: i64,
    /// Bytes of shared memory that a block may have.
    pub(crate) room: i64,
    /// For tests: rows and columns of a tile and parts of a sum, instead of what would be chosen.
    pub(crate) cut: Option<[i64; 3]>,
}

/// The name of the function that is a thread of an entry on the emulator.
pub(crate) fn thread(name: &str) -> String {
    format!("{name}.thread")
}

impl Entries {
    pub(crate) fn new(e: Emit, attributes: Vec<(String, String)>, copies: bool) -> Entries {
        Entries { e, attributes, made: Vec::new(), copies, crowd: 0, room: 48 << 10, cut: None }
    }

    /// Begins an entry; gives its parameters.
    pub(crate) fn open(&mut self, name: &str, parameters: &[Parameter], launch: Launch) -> Vec<V> {
        self.made.push(Entry { name: name.to_string(), launch });
        let e = &mut self.e;
        let (pointer, long) = (e.address(), e.i.int_type(64));
        let ty = |p| if p == Parameter::Address { pointer } else { long };
        if e.machine == Machine::Nvptx {
            let types: Vec<T> = parameters.iter().map(|&p| ty(p)).collect();
            let ty = e.i.function_type(e.i.void(), &types);
            let mut attributes = vec![("nvvm.maxntid".to_string(), launch.threads.to_string())];
            if self.crowd > 0 {
                attributes.push(("nvvm.minctasm".to_string(), self.crowd.to_string()));
            }
            let function = e.i.begin(name, ty, LLVMLinkage::LLVMExternalLinkage, &attributes);
            e.i.convention(function, PTX_KERNEL);
            return (0..parameters.len()).map(|p| e.i.parameter(p)).collect();
        }
        // The parameters lie one after the other in memory.
        let outer = e.i.function_type(e.i.void(), &[pointer]);
        e.i.begin(&thread(name), outer, LLVMLinkage::LLVMExternalLinkage, &self.attributes);
        let load = |(n, &p)| e.i.load(ty(p), e.i.element(long, e.i.parameter(0), e.i.i64(n as i64)), 8);
        parameters.iter().enumerate().map(load).collect()
    }

    /// Ends an entry.
    pub(crate) fn close(self) -> Entries {
        self.e.i.ret();
        self
    }
}

impl Emit {
    /// The type of addresses of global memory.
    pub(crate) fn address(&self) -> T {
        self.i.pointer(if self.machine == Machine::Nvptx { GLOBAL } else { 0 })
    }

    /// A block's shared memory of the entry or function under construction: the same for all that are given a name.
    pub(crate) fn block_memory(&self, name: &str, bytes: i64) -> V {
        if self.machine == Machine::Nvptx {
            return self.i.memory(&format!("{name}_shared"), bytes, SHARED, 128);
        }
        let ty = self.i.function_type(self.i.pointer(0), &[]);
        self.i.call(self.i.declared("optc_simt_shared", ty), ty, &[])
    }

    /// Shared memory whose bytes the launch says, of the entry under construction.
    pub(crate) fn launch_memory(&self, name: &str) -> V {
        if self.machine == Machine::Nvptx {
            return self.i.memory_of_launch(&format!("{name}_shared"), SHARED, 128);
        }
        self.block_memory(name, 0)
    }

    /// The number of the block, and how many there are, as i64.
    pub(crate) fn block_index(&self) -> V {
        self.i.cast(Opcode::LLVMZExt, self.special("ctaid.x"), self.i.int_type(64))
    }
    pub(crate) fn block_count(&self) -> V {
        self.i.cast(Opcode::LLVMZExt, self.special("nctaid.x"), self.i.int_type(64))
    }

    /// A loop from `from` up to `to` by `step`.
    pub(crate) fn looped(&mut self, from: V, to: V, step: V, body: impl FnOnce(&mut Emit, V)) {
        let i = &self.i;
        let (head, done) = (i.block(), i.block());
        let any = i.icmp(IntCC::LLVMIntSLT, from, to);
        let before = i.here();
        i.branch(any, head, done);
        i.go_to(head);
        let at = i.phi(i.type_of(from));
        i.comes(at, from, before);
        body(self, at);
        let i = &self.i;
        let next = i.add(at, step);
        let more = i.icmp(IntCC::LLVMIntSLT, next, to);
        i.comes(at, next, i.here());
        i.branch(more, head, done);
        i.go_to(done);
    }

    /// Something done only where a condition holds.
    pub(crate) fn when(&mut self, condition: V, then: impl FnOnce(&mut Emit)) {
        let (yes, after) = (self.i.block(), self.i.block());
        self.i.branch(condition, yes, after);
        self.i.go_to(yes);
        then(self);
        self.i.jump(after);
        self.i.go_to(after);
    }
}
