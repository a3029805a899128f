//! Kernels for this computer's processor: sixteen lanes at a time, as the kernel's meaning has them.

use crate::body::{Body, Position, Real, function_type, updated};
use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use inkwell::llvm_sys::LLVMLinkage;
use optc_ir::kernel::{AccOp, AxisId, Extent, Kernel, LANES, Stmt, combine_op, identity};

/// The C function that records an index out of range.
pub(crate) const REPORT: &str = "optc_report";

/// Bytes that local arrays are aligned to.
const LINE: u32 = 64;

/// What is known of a kernel's arguments in all its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    /// Parameters whose memory may be another parameter's too.
    pub(crate) aliased: Vec<bool>,
    /// Alignment of each parameter, in bytes.
    pub(crate) aligned: Vec<u32>,
    /// Of parameters that share memory, those that are the same place or apart in every call, by the first of them: an array that is worked on in place. Nothing of one that overlaps another in
    /// any other way. Parameters beyond the list share none.
    pub(crate) places: Vec<Option<usize>>,
}

impl Facts {
    /// The place of a parameter, by the first parameter that has it; nothing if it overlaps another one.
    pub(crate) fn place(&self, parameter: usize) -> Option<usize> {
        self.places.get(parameter).copied().unwrap_or(Some(parameter))
    }
}

/// The name of a GPU's kernel `n`.
pub(crate) fn symbol(n: usize) -> String {
    format!("optc_kernel_{n}")
}

/// Adds a kernel to a module: a function with the signature of [`optc_abi::plan::KernelFn`] around one whose parameters are the buffers.
pub(crate) fn kernel(mut e: Emit, name: &str, kernel: &Kernel, facts: &Facts, attributes: &[(String, String)]) -> Emit {
    let (pointer, long) = (e.i.pointer(0), e.i.int_type(64));
    let buffers = kernel.buffers.len();
    let ty = function_type(&e, kernel, pointer);
    let inner = e.i.begin(&format!("{name}.body"), ty, LLVMLinkage::LLVMInternalLinkage, attributes);
    e.i.attribute(inner, u32::MAX, "nounwind", 0);
    let mut body = Body::new(e, kernel, facts, inner, |_| true);
    for local in &kernel.locals {
        let ty = body.e.i.array(body.e.i.scalar(local.dtype), local.len);
        let at = body.e.i.stack(ty, LINE);
        body.locals.push(at);
    }
    body.open_accs();
    body.block(&kernel.body);
    body.e.i.ret();
    let mut e = body.e;
    let outer = e.i.function_type(e.i.void(), &[pointer, pointer, long, long, pointer]);
    e.i.begin(name, outer, LLVMLinkage::LLVMExternalLinkage, attributes);
    let i = &e.i;
    let field = |ty, list: usize, at: usize| i.load(ty, i.element(ty, i.parameter(list), i.i64(at as i64)), 8);
    let mut arguments: Vec<V> = (0..buffers).map(|b| field(pointer, 0, b)).collect();
    arguments.extend((0..kernel.sizes).map(|s| field(long, 1, s)));
    arguments.extend([2, 3, 4].map(|p| i.parameter(p)));
    i.call(inner, ty, &arguments);
    i.ret();
    e
}

impl Body<'_> {
    /// A vector loop: whole passes of [`LANES`] lanes, then the rest of them behind a mask.
    pub(crate) fn vector(&mut self, axis: AxisId, extent: Extent, n: V, body: &[Stmt]) {
        const PASS: i64 = LANES as i64;
        self.open_lanes(body);
        let zero = self.e.i.i64(0);
        match extent {
            Extent::Const(n) => {
                let whole = n / PASS * PASS;
                if whole == PASS {
                    self.lanes(axis, zero, Real::All, body);
                } else if whole > 0 {
                    let to = self.e.i.i64(whole);
                    self.counted(axis, zero, to, PASS, |b| b.pass(axis, body));
                }
                if whole < n {
                    let at = self.e.i.i64(whole);
                    self.lanes(axis, at, Real::First((n - whole) as usize), body);
                }
            }
            Extent::Size(_) => {
                let whole = self.e.i.and(n, self.e.i.i64(-PASS));
                self.counted(axis, zero, whole, PASS, |b| b.pass(axis, body));
                let rest = self.e.i.op2(Opcode::LLVMSub, n, whole);
                let some = self.e.i.icmp(IntCC::LLVMIntSGT, rest, zero);
                self.when(some, |b| {
                    let i = &b.e.i;
                    let word = i.int_type(32);
                    let count = i.splat(i.cast(Opcode::LLVMTrunc, rest, word), LANES);
                    let mask = i.icmp(IntCC::LLVMIntSLT, i.lanes_const(word, 0..PASS), count);
                    b.lanes(axis, whole, Real::Where(mask), body);
                });
            }
        }
        self.close_lanes();
    }

    fn pass(&mut self, axis: AxisId, body: &[Stmt]) {
        let at = self.axes[axis].expect("the loop has set its axis");
        self.lanes(axis, at, Real::All, body);
    }

    fn lanes(&mut self, axis: AxisId, start: V, real: Real, body: &[Stmt]) {
        self.position = Some(Position { axis, start, lanes: LANES, real });
        self.block(body);
        self.position = None;
    }

    /// Room for the lanes of the accumulators that a loop updates, which start at what changes nothing.
    fn open_lanes(&mut self, body: &[Stmt]) {
        for acc in updated(body) {
            let dtype = self.kernel.accs[acc].dtype;
            let AccOp::Reduce(op) = self.kernel.accs[acc].op else { panic!("compiler bug: a vector loop assigns accumulator {acc}") };
            let at = self.e.i.stack(self.e.i.vector(self.e.i.scalar(dtype), LANES), LINE);
            let start = self.e.i.splat(self.e.literal(dtype, identity(op, dtype)), LANES);
            self.e.i.store(start, at, LINE);
            self.lane_accs.push((acc, at));
        }
    }

    /// Combines the lanes pairwise, and the result with the accumulator's previous value.
    fn close_lanes(&mut self) {
        for (acc, at) in std::mem::take(&mut self.lane_accs) {
            let dtype = self.kernel.accs[acc].dtype;
            let AccOp::Reduce(op) = self.kernel.accs[acc].op else { panic!("compiler bug: a vector loop assigns accumulator {acc}") };
            let op = combine_op(op);
            let mut x = self.e.i.load(self.e.i.vector(self.e.i.scalar(dtype), LANES), at, LINE);
            let mut half = LANES as i64 / 2;
            while half > 0 {
                let low = self.e.i.shuffle(x, x, 0..half);
                let high = self.e.i.shuffle(x, x, half..2 * half);
                x = self.e.map(op, dtype, &[low, high]);
                half /= 2;
            }
            let lane = self.e.i.lane(x, self.e.i.i32(0));
            let old = self.acc(acc);
            let new = self.e.map(op, dtype, &[old, lane]);
            self.e.i.store(new, self.accs[acc], 8);
        }
    }
}
