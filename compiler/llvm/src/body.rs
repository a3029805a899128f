//! What kernels for processors and for GPUs have in common: statements, values, accumulators.

use crate::emit::Emit;
use crate::host::Facts;
use crate::ins::{Block, IntCC, T, V};
use crate::simt::Simt;
use optc_abi::DType;
use optc_ir::kernel::{AccId, AccOp, Access, AxisId, BufferId, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt, combine_op};
use optc_ir::scalar::ScalarOp;

/// What the vector axis is while its lanes are emitted.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) axis: AxisId,
    /// Index of the first lane.
    pub(crate) start: V,
    pub(crate) lanes: usize,
    pub(crate) real: Real,
}

/// Lanes that stand for passes of the loop.
#[derive(Clone, Copy)]
pub(crate) enum Real {
    All,
    /// So many from the first.
    First(usize),
    /// Those whose bit is set.
    Where(V),
}

/// State of one kernel's emission.
pub(crate) struct Body<'k> {
    pub(crate) e: Emit,
    pub(crate) kernel: &'k Kernel,
    pub(crate) dtypes: Vec<DType>,
    pub(crate) buffers: Vec<V>,
    pub(crate) locals: Vec<V>,
    pub(crate) sizes: Vec<V>,
    pub(crate) begin: V,
    pub(crate) end: V,
    pub(crate) status: V,
    /// Buffers that nothing writes while the kernel runs.
    pub(crate) constant: Vec<bool>,
    /// Alignment of the start of each buffer, in bytes.
    pub(crate) aligned: Vec<u32>,
    pub(crate) axes: Vec<Option<V>>,
    pub(crate) values: Vec<Option<V>>,
    /// Where accumulators are: memory that LLVM turns into registers.
    pub(crate) accs: Vec<V>,
    pub(crate) position: Option<Position>,
    /// The same for lanes, of the vector loop under way.
    pub(crate) lane_accs: Vec<(AccId, V)>,
    /// For GPUs: how threads share the work.
    pub(crate) simt: Option<Simt>,
}

/// The accumulators that a loop without loops inside updates.
pub(crate) fn updated(body: &[Stmt]) -> Vec<AccId> {
    let mut found = Vec::new();
    for stmt in body {
        if let Stmt::Update { acc, .. } = stmt
            && !found.contains(acc)
        {
            found.push(*acc);
        }
    }
    found
}

/// The type of a function whose parameters are a kernel's buffers, its sizes, the range of its units and the status; `pointer` is the type of addresses.
pub(crate) fn function_type(e: &Emit, kernel: &Kernel, pointer: T) -> T {
    let mut parameters = vec![pointer; kernel.buffers.len()];
    parameters.extend(vec![e.i.int_type(64); kernel.sizes + 2]);
    parameters.push(pointer);
    e.i.function_type(e.i.void(), &parameters)
}

impl<'k> Body<'k> {
    /// The body of `function`, which has been begun with [`function_type`]. `own` says of a buffer that all its accesses are to be seen in the function.
    pub(crate) fn new(e: Emit, kernel: &'k Kernel, facts: &Facts, function: V, own: impl Fn(usize) -> bool) -> Body<'k> {
        let buffers = kernel.buffers.len();
        for (b, &aliased) in facts.aliased.iter().enumerate() {
            if !aliased && own(b) {
                e.i.attribute(function, 1 + b as u32, "noalias", 0);
            }
            e.i.attribute(function, 1 + b as u32, "align", facts.aligned[b].into());
        }
        Body {
            buffers: (0..buffers).map(|b| e.i.parameter(b)).collect(),
            sizes: (0..kernel.sizes).map(|s| e.i.parameter(buffers + s)).collect(),
            begin: e.i.parameter(buffers + kernel.sizes),
            end: e.i.parameter(buffers + kernel.sizes + 1),
            status: e.i.parameter(buffers + kernel.sizes + 2),
            e,
            kernel,
            dtypes: vec![DType::F32; kernel.values],
            locals: Vec::new(),
            constant: kernel.buffers.iter().zip(&facts.aliased).map(|(b, &a)| b.access == Access::Read && !a).collect(),
            aligned: facts.aligned.clone(),
            axes: vec![None; kernel.axes],
            values: vec![None; kernel.values],
            accs: Vec::new(),
            position: None,
            lane_accs: Vec::new(),
            simt: None,
        }
    }

    /// Room for accumulators, which start at zero.
    pub(crate) fn open_accs(&mut self) {
        for acc in &self.kernel.accs {
            let at = self.e.i.stack(self.e.i.scalar(acc.dtype), 8);
            let zero = self.e.literal(acc.dtype, Literal::Int(0));
            self.e.i.store(zero, at, 8);
            self.accs.push(at);
        }
    }

    pub(crate) fn is_constant(&self, buffer: BufferId) -> bool {
        self.constant.get(buffer).copied().unwrap_or(false)
    }

    /// What is known of the alignment of the first element of an access.
    pub(crate) fn align(&self, buffer: BufferId, index: &Index) -> u32 {
        let size = self.kernel.dtype(buffer).size() as i64;
        let Some(&whole) = self.aligned.get(buffer) else { return size as u32 };
        let mut align = i64::from(whole);
        // Lanes lie at multiples of their number.
        let lane = self.position.map(|p| (p.axis, p.lanes as i64));
        let mut reduce = |bytes: i64| {
            while align > size && bytes % align != 0 {
                align /= 2;
            }
        };
        reduce(index.offset * size);
        for &(axis, stride) in &index.axes {
            let step = lane.filter(|l| l.0 == axis).map_or(1, |l| l.1);
            reduce(stride * step * size);
        }
        if !index.values.is_empty() || !index.sized.is_empty() {
            align = size;
        }
        align as u32
    }

    pub(crate) fn value(&self, id: usize) -> V {
        self.values[id].unwrap_or_else(|| panic!("compiler bug: value {id} is used before its definition"))
    }

    /// Which lanes are real, as a vector of bits; none if all are.
    pub(crate) fn mask(&self) -> Option<V> {
        let position = self.position?;
        match position.real {
            Real::All => None,
            Real::First(n) => Some(self.e.i.lanes_const(self.e.i.int_type(1), (0..position.lanes).map(|l| i64::from(l < n)))),
            Real::Where(mask) => Some(mask),
        }
    }

    /// A loop variable; the first lane's of the vector axis.
    pub(crate) fn axis_start(&self, axis: AxisId) -> V {
        match self.position {
            Some(p) if p.axis == axis => p.start,
            _ => self.axes[axis].unwrap_or_else(|| panic!("compiler bug: axis {axis} is used outside its loop")),
        }
    }

    pub(crate) fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::For { axis, extent, kind, body } => self.a_loop(*axis, *extent, *kind, body),
            Stmt::Let { value, dtype, expr } => {
                self.before(std::slice::from_ref(stmt));
                self.dtypes[*value] = *dtype;
                let v = self.expr(*dtype, expr);
                self.values[*value] = Some(v);
            }
            Stmt::Init { acc, value } => {
                let x = self.value(*value);
                self.e.i.store(x, self.accs[*acc], 8);
            }
            Stmt::Update { acc, value } => self.update(*acc, *value),
            Stmt::Store { buffer, index, value } => {
                self.before(std::slice::from_ref(stmt));
                self.store(*buffer, index, *value);
            }
        }
    }

    fn a_loop(&mut self, axis: AxisId, extent: Extent, kind: LoopKind, body: &[Stmt]) {
        if matches!(extent, Extent::Const(n) if n <= 0) && kind != LoopKind::Parallel {
            return;
        }
        let n = match extent {
            Extent::Const(n) => self.e.i.i64(n),
            Extent::Size(s) => self.sizes[s],
        };
        match kind {
            LoopKind::Parallel if self.simt.is_some() => self.units(axis, body),
            LoopKind::Parallel => {
                let (begin, end) = (self.begin, self.end);
                self.counted(axis, begin, end, 1, |b| b.block(body));
            }
            LoopKind::Serial if matches!(extent, Extent::Const(1)) => {
                self.axes[axis] = Some(self.e.i.i64(0));
                self.block(body);
            }
            LoopKind::Serial if self.dealt_loop(axis, extent, n, body) => {}
            LoopKind::Serial => {
                let zero = self.e.i.i64(0);
                self.counted(axis, zero, n, 1, |b| {
                    b.block(body);
                    b.again(body);
                });
            }
            LoopKind::Vector if self.simt.is_some() => self.shared_loop(axis, extent, n, body),
            LoopKind::Vector => self.vector(axis, extent, n, body),
        }
    }

    /// A loop from `from` up to `to`, the axis growing by `step`.
    pub(crate) fn counted(&mut self, axis: AxisId, from: V, to: V, step: i64, body: impl FnOnce(&mut Self)) {
        let step = self.e.i.i64(step);
        self.strided(axis, from, to, step, body);
    }

    /// The same with a step that is known when it runs.
    pub(crate) fn strided(&mut self, axis: AxisId, from: V, to: V, step: V, body: impl FnOnce(&mut Self)) {
        let i = &self.e.i;
        let (head, done) = (i.block(), i.block());
        let any = i.icmp(IntCC::LLVMIntSLT, from, to);
        let before = i.here();
        i.branch(any, head, done);
        i.go_to(head);
        let at = i.phi(i.int_type(64));
        i.comes(at, from, before);
        self.axes[axis] = Some(at);
        body(self);
        let i = &self.e.i;
        let next = i.add(at, step);
        let more = i.icmp(IntCC::LLVMIntSLT, next, to);
        let end = i.here();
        i.comes(at, next, end);
        i.branch(more, head, done);
        i.go_to(done);
    }

    /// Something done only where a condition holds.
    pub(crate) fn when(&mut self, condition: V, then: impl FnOnce(&mut Self)) {
        let (yes, after) = (self.e.i.block(), self.e.i.block());
        self.e.i.branch(condition, yes, after);
        self.e.i.go_to(yes);
        then(self);
        self.e.i.jump(after);
        self.e.i.go_to(after);
    }

    fn expr(&mut self, dtype: DType, expr: &Expr) -> V {
        match expr {
            Expr::Const(literal) => self.e.literal(dtype, *literal),
            Expr::Axis(axis) => self.axis(dtype, *axis),
            Expr::Load { buffer, index, guard } => self.load(*buffer, index, *guard),
            Expr::Map(op, x) => {
                let operand = self.dtypes[x[if *op == ScalarOp::Select { 1 } else { 0 }]];
                let x: Vec<V> = x.iter().map(|&v| self.value(v)).collect();
                self.e.map(*op, operand, &x)
            }
            Expr::Cast(x) => self.e.convert(self.dtypes[*x], dtype, self.value(*x)),
            Expr::Bitcast(x) => self.e.bitcast(dtype, self.value(*x)),
            Expr::Acc(acc) => self.acc(*acc),
            Expr::Philox { key, counter, word } => {
                let (key, counter) = (key.map(|v| self.value(v)), counter.map(|v| self.value(v)));
                self.e.philox(key, counter, *word)
            }
            Expr::CheckedIndex { index, extent, origin } => self.checked(*index, *extent, *origin),
        }
    }

    /// The present value of an accumulator.
    pub(crate) fn acc(&self, acc: AccId) -> V {
        self.e.i.load(self.e.i.scalar(self.kernel.accs[acc].dtype), self.accs[acc], 8)
    }

    fn axis(&self, dtype: DType, axis: AxisId) -> V {
        let i = &self.e.i;
        let start = self.axis_start(axis);
        match self.position {
            Some(p) if p.axis == axis => {
                // 32 bits are enough for 32-bit results, and twice as fast.
                let whole = if dtype == DType::I64 || dtype.is_float() { DType::I64 } else { DType::I32 };
                let first = self.e.convert(DType::I64, whole, start);
                let steps = i.lanes_const(i.scalar(whole), 0..p.lanes as i64);
                self.e.convert(whole, dtype, i.add(i.splat(first, p.lanes), steps))
            }
            _ => self.e.convert(DType::I64, dtype, start),
        }
    }

    fn update(&mut self, acc: AccId, value: usize) {
        let dtype = self.kernel.accs[acc].dtype;
        let x = self.value(value);
        let op = match self.kernel.accs[acc].op {
            AccOp::Reduce(op) => combine_op(op),
            AccOp::Assign => {
                self.e.i.store(x, self.accs[acc], 8);
                return;
            }
        };
        let lanes = self.lane_accs.iter().find(|(a, _)| *a == acc).map(|l| l.1);
        let Some(at) = lanes else {
            let old = self.acc(acc);
            let new = self.e.map(op, dtype, &[old, x]);
            self.e.i.store(new, self.accs[acc], 8);
            return;
        };
        let scalar = self.e.i.scalar(dtype);
        let ty = self.position.map_or(scalar, |p| self.e.i.vector(scalar, p.lanes));
        let old = self.e.i.load(ty, at, 64);
        let mut new = self.e.map(op, dtype, &[old, x]);
        if let Some(mask) = self.mask() {
            new = self.e.i.select(mask, new, old);
        }
        self.e.i.store(new, at, 64);
    }

    fn checked(&mut self, index: usize, extent: i64, origin: u32) -> V {
        let (dtype, x) = (self.dtypes[index], self.value(index));
        let zero = self.e.literal(dtype, Literal::Int(0));
        let last = self.e.literal(dtype, Literal::Int(extent - 1));
        let x = match self.mask() {
            Some(mask) => self.e.map(ScalarOp::Select, dtype, &[mask, x, zero]),
            None => x,
        };
        let low = self.e.map(ScalarOp::Max, dtype, &[x, zero]);
        let inside = self.e.map(ScalarOp::Min, dtype, &[low, last]);
        let differs = self.e.map(ScalarOp::Ne, dtype, &[inside, x]);
        let (bad, after): (Block, Block) = (self.e.i.block(), self.e.i.block());
        let any = self.e.any(differs);
        self.e.i.branch_seldom(any, bad, after);
        self.e.i.go_to(bad);
        let long = self.e.convert(dtype, DType::I64, x);
        match self.e.i.lanes(long) {
            None => self.report(long, extent, origin),
            Some(lanes) => {
                for lane in 0..lanes {
                    let n = self.e.i.lane(long, self.e.i.i32(lane as i64));
                    self.report(n, extent, origin);
                }
            }
        }
        self.e.i.jump(after);
        self.e.i.go_to(after);
        inside
    }

    /// Records an index outside `0..extent`; those inside are passed over.
    fn report(&mut self, index: V, extent: i64, origin: u32) {
        if self.simt.is_some() { self.report_simt(index, extent, origin) } else { self.report_by_call(index, extent, origin) }
    }

    pub(crate) fn report_by_call(&mut self, index: V, extent: i64, origin: u32) {
        let i = &self.e.i;
        let ty = i.function_type(i.void(), &[i.pointer(0), i.int_type(64), i.int_type(64), i.int_type(64)]);
        let function = i.declared(crate::host::REPORT, ty);
        i.attribute(function, u32::MAX, "nounwind", 0);
        i.call(function, ty, &[self.status, index, i.i64(extent), i.i64(origin.into())]);
    }

    /// A store of one element outside vector loops.
    pub(crate) fn store_once(&mut self, x: V, at: V, align: u32) {
        match self.simt.as_ref().and_then(|s| s.store_by) {
            Some(condition) => self.when(condition, |b| b.write(x, at, align)),
            None => self.write(x, at, align),
        }
    }
}
