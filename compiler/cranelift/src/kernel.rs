//! One kernel to one function: loops, accumulators, element addresses.

use crate::accs::VectorAcc;
use crate::emit::{Emit, scalar_type};
use crate::hoist::{Hoisted, Node, hoist};
use crate::isa::Features;
use crate::ops::Val;
use crate::wide;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, Value, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use optc_abi::DType;
use optc_ir::kernel::{AxisId, Expr, Extent, Kernel, LANES, Literal, Local, LoopKind, Stmt};
use optc_ir::native;
use optc_ir::scalar::ScalarOp;

/// Lanes of one group.
pub(crate) const GROUP: usize = 4;
/// Groups of one pass of an unrolled loop; together they are the virtual lanes.
pub(crate) const GROUPS: usize = LANES / GROUP;
/// Cost (by the scalar table) up to which a loop's body is repeated for each group of a pass.
const UNROLL_COST: usize = 12;

/// Instructions that a wide loop of known length must replace to be worth the call.
const WIDE_WORK: i64 = 32;

/// Signature of a kernel.
pub(crate) fn signature(call_conv: CallConv) -> ir::Signature {
    let mut s = ir::Signature::new(call_conv);
    s.params.extend([AbiParam::new(types::I64); 5]);
    s
}

/// Where a vector loop's accumulators are while a group is emitted.
#[derive(Clone, Copy)]
pub(crate) enum Lanes {
    /// In registers, this group of them; so many lanes of the group are real.
    Group { group: usize, count: usize },
    /// In memory, the group at the loop's position.
    Stored,
}

/// What the vector axis is while a group is emitted.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) axis: AxisId,
    /// Index of the first lane is `start + add`.
    pub(crate) start: Value,
    pub(crate) add: i64,
    pub(crate) lanes: Lanes,
}

/// Rows of a kernel from which on the next one is asked for beforehand.
const LEAST_ROWS: i64 = 16;
/// Elements of such a row: fewer are not worth it, more would push out what is at work.
const ROWS_AHEAD: std::ops::RangeInclusive<i64> = 256..=4096;

/// Signature of a wide loop: the address of its arguments.
pub(crate) fn wide_signature() -> ir::Signature {
    let mut s = ir::Signature::new(CallConv::SystemV);
    s.params.push(AbiParam::new(types::I64));
    s
}

/// State of one kernel's emission.
pub(crate) struct Builder<'k, 'f> {
    pub(crate) e: Emit<'f>,
    pub(crate) kernel: &'k Kernel,
    pub(crate) dtypes: Vec<DType>,
    pub(crate) buffers: Vec<Value>,
    pub(crate) locals: Vec<Value>,
    pub(crate) sizes: Vec<Value>,
    status: Value,
    begin: Value,
    end: Value,
    pub(crate) axes: Vec<Option<Value>>,
    values: Vec<Option<Val>>,
    pub(crate) accs: Vec<Variable>,
    pub(crate) position: Option<Position>,
    /// The vector axis whose scalar tail is being emitted.
    pub(crate) tail_axis: Option<AxisId>,
    pub(crate) vector_accs: Vec<VectorAcc>,
    constants: wide::Constants,
    /// Wide loops called so far.
    wide: Vec<wide::Program>,
    /// Some innermost loop is Cranelift's.
    own_loops: bool,
    /// Compiling fast comes first: whatever loop can be wide is.
    quick: bool,
}

/// What is known of a kernel once its function is made.
pub(crate) struct Built {
    /// The wide loops it calls.
    pub(crate) wide: Vec<wide::Program>,
    /// Some innermost loop is in the function itself.
    pub(crate) own_loops: bool,
}

/// Fills `func` (with the signature of a kernel) with the kernel's code; tells what loops it has. `quick`: wide loops are made, which takes a fraction of the time, also where they are short.
pub(crate) fn build(
    kernel: &Kernel,
    features: Features,
    quick: bool,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) -> Built {
    let mut b = FunctionBuilder::new(func, context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let params = b.block_params(entry).to_vec();
    let Hoisted { body, dtypes } = hoist(kernel);
    let mut constants = wide::Constants::default();
    if features.vectors.lanes().is_some() {
        wide::constants(&kernel.body, &mut constants);
    }
    let mut e = Emit::new(b, features);
    let flags = crate::emit::plain().with_readonly();
    let buffers = (0..kernel.buffers.len()).map(|i| e.b.ins().load(types::I64, flags, params[0], 8 * i as i32)).collect();
    let locals = kernel.locals.iter().map(|l| local(&mut e, l)).collect();
    let sizes = (0..kernel.sizes).map(|i| e.b.ins().load(types::I64, flags, params[1], 8 * i as i32)).collect();
    let mut k = Builder {
        kernel,
        dtypes,
        buffers,
        locals,
        sizes,
        begin: params[2],
        end: params[3],
        status: params[4],
        axes: vec![None; kernel.axes],
        values: vec![None; kernel.values],
        accs: Vec::new(),
        position: None,
        tail_axis: None,
        vector_accs: Vec::new(),
        constants,
        wide: Vec::new(),
        own_loops: false,
        quick,
        e,
    };
    for acc in &kernel.accs {
        let var = k.e.b.declare_var(scalar_type(acc.dtype));
        let zero = k.zero(acc.dtype);
        k.e.b.def_var(var, zero);
        k.accs.push(var);
    }
    k.nodes(&body);
    k.e.b.ins().return_(&[]);
    let built = Built { wide: std::mem::take(&mut k.wide), own_loops: k.own_loops };
    k.e.b.finalize(features.frontend);
    built
}

/// The address of a local array, at the start of a line of the cache: frames are aligned to less.
fn local(e: &mut Emit<'_>, array: &Local) -> Value {
    const LINE: i64 = 64;
    let bytes = array.len * array.dtype.size() + LINE as usize;
    let slot = e.b.create_sized_stack_slot(ir::StackSlotData::new(ir::StackSlotKind::ExplicitSlot, bytes as u32, 4));
    let address = e.b.ins().stack_addr(types::I64, slot, 0);
    let address = e.add_const(address, LINE - 1);
    let mask = e.int(types::I64, -LINE);
    e.b.ins().band(address, mask)
}

/// Whether a vector loop's body is cheap enough to be repeated for every group of a pass. Long bodies keep the processor busy across passes anyway,
/// and compile faster when they appear once.
fn repeats(body: &[Node]) -> bool {
    let cost: usize = body
        .iter()
        .map(|node| match node {
            Node::Leaf(Stmt::Let { expr: Expr::Map(op, _), .. }) => op.row().cost.into(),
            Node::Leaf(Stmt::Let { expr: Expr::Philox { .. }, .. }) => UNROLL_COST,
            _ => 1,
        })
        .sum();
    cost <= UNROLL_COST
}

/// Whether a loop with this body holds no other.
fn innermost(body: &[Node]) -> bool {
    !body.iter().any(|node| matches!(node, Node::For { .. }))
}

impl Builder<'_, '_> {
    fn zero(&mut self, dtype: DType) -> Value {
        self.literal(dtype, Literal::Int(0))
    }

    pub(crate) fn literal(&mut self, dtype: DType, literal: Literal) -> Value {
        let ty = scalar_type(dtype);
        match literal {
            Literal::Float(x) if dtype.is_float() => self.e.float_of(ty, x),
            Literal::Int(n) if dtype.is_float() => self.e.float_of(ty, n as f64),
            Literal::Int(n) => self.e.int(ty, n),
            Literal::Float(x) => self.e.int(ty, x as i64),
        }
    }

    fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            match node {
                Node::Leaf(stmt) => self.stmt(stmt),
                Node::For { axis, extent, kind, before, body } => self.a_loop(*axis, *extent, *kind, before, body),
            }
        }
    }

    fn a_loop(&mut self, axis: AxisId, extent: Extent, kind: LoopKind, before: &[Stmt], body: &[Node]) {
        let after = self.e.b.create_block();
        match (kind, extent) {
            (LoopKind::Parallel, _) => {
                let (begin, end) = (self.begin, self.end);
                self.when(IntCC::SignedLessThan, begin, end, after);
                before.iter().for_each(|s| self.stmt(s));
                let program = self.rows_program(axis, None, body);
                self.own_loops |= innermost(body) || program.is_some();
                match program {
                    None => self.counted(axis, begin, end, 1, |k| k.nodes(body)),
                    Some(program) => self.wide_rows(axis, begin, end, false, body, program),
                }
            }
            (_, Extent::Const(n)) if n <= 0 => {}
            _ => {
                let zero = self.e.int(types::I64, 0);
                let n = match extent {
                    Extent::Const(n) => self.e.int(types::I64, n),
                    Extent::Size(s) => {
                        let n = self.sizes[s];
                        self.when(IntCC::SignedLessThan, zero, n, after);
                        n
                    }
                };
                before.iter().for_each(|s| self.stmt(s));
                let program = if kind == LoopKind::Vector { self.wide_program(axis, extent, body) } else { None };
                self.own_loops |= innermost(body) && program.is_none() && !matches!(extent, Extent::Const(1));
                match (kind, extent) {
                    (LoopKind::Vector, Extent::Const(n)) => match program {
                        Some(program) => self.wide_const(axis, n, body, program),
                        None => self.vector_const(axis, n, body),
                    },
                    (LoopKind::Vector, Extent::Size(_)) => self.vector_sized(axis, n, body, program),
                    (_, Extent::Const(1)) => {
                        self.axes[axis] = Some(zero);
                        self.nodes(body);
                    }
                    _ => match self.rows_program(axis, Some(extent), body) {
                        None => self.counted(axis, zero, n, 1, |k| k.nodes(body)),
                        Some(program) => {
                            let whole = matches!(extent, Extent::Const(n) if n % LANES as i64 == 0);
                            self.wide_rows(axis, zero, n, whole, body, program);
                        }
                    },
                }
            }
        }
        self.e.b.ins().jump(after, &[]);
        self.e.b.switch_to_block(after);
        self.e.b.seal_block(after);
    }

    /// Goes on in a new block if the comparison holds, else at `otherwise`.
    fn when(&mut self, cc: IntCC, a: Value, b: Value, otherwise: ir::Block) {
        let next = self.e.b.create_block();
        let holds = self.e.icmp(cc, a, b);
        self.e.b.ins().brif(holds, next, &[], otherwise, &[]);
        self.e.b.switch_to_block(next);
        self.e.b.seal_block(next);
    }

    /// A loop from `from` up to `to`, at least one pass, the axis growing by `step`.
    fn counted(&mut self, axis: AxisId, from: Value, to: Value, step: i64, body: impl FnOnce(&mut Self)) {
        let (head, done) = (self.e.b.create_block(), self.e.b.create_block());
        let at = self.e.b.append_block_param(head, types::I64);
        self.e.b.ins().jump(head, &[from.into()]);
        self.e.b.switch_to_block(head);
        self.axes[axis] = Some(at);
        body(self);
        let next = self.e.add_const(at, step);
        let more = self.e.icmp(IntCC::SignedLessThan, next, to);
        self.e.b.ins().brif(more, head, &[next.into()], done, &[]);
        self.e.b.seal_block(head);
        self.e.b.switch_to_block(done);
        self.e.b.seal_block(done);
    }

    /// Emits the body for four lanes (or fewer) at `start + add`.
    fn group(&mut self, axis: AxisId, start: Value, add: i64, lanes: Lanes, body: &[Node]) {
        self.position = Some(Position { axis, start, add, lanes });
        self.nodes(body);
        self.position = None;
    }

    fn vector_const(&mut self, axis: AxisId, n: i64, body: &[Node]) {
        let n = n as usize;
        self.open_accs(body, false);
        // Short loops are a few groups one after the other: a loop would move accumulators about for two or three passes.
        let per_pass = if repeats(body) || n < LANES { LANES } else { GROUP };
        let main = n / per_pass * per_pass;
        let zero = self.e.int(types::I64, 0);
        let pass = |k: &mut Self, at: Value, first: usize, count: usize| {
            for group in 0..count.div_ceil(GROUP) {
                let add = first + group * GROUP;
                let real = (count - group * GROUP).min(GROUP);
                k.group(axis, at, add as i64, Lanes::Group { group, count: real }, body);
            }
        };
        if main > per_pass {
            let to = self.e.int(types::I64, main as i64);
            self.counted(axis, zero, to, per_pass as i64, |k| {
                let at = k.axes[axis].expect("the loop has set its axis");
                pass(k, at, 0, per_pass);
                if per_pass == GROUP {
                    k.rotate_accs(1);
                }
            });
        } else if main == per_pass {
            pass(self, zero, 0, per_pass);
            if per_pass == GROUP {
                self.rotate_accs(1);
            }
        }
        if main < n {
            pass(self, zero, main, n - main);
        }
        if per_pass == GROUP {
            // Back to where each group's lanes belong.
            self.rotate_accs((GROUPS - main / GROUP % GROUPS) % GROUPS);
        }
        self.close_accs();
    }

    fn vector_sized(&mut self, axis: AxisId, n: Value, body: &[Node], program: Option<wide::Program>) {
        self.open_accs(body, true);
        let unrolled = program.is_none() && repeats(body);
        let zero = self.e.int(types::I64, 0);
        // Positions reached by whole passes, then by whole groups.
        let whole = self.e.int(types::I64, -(LANES as i64));
        let whole = self.e.b.ins().band(n, whole);
        let grouped = self.e.int(types::I64, -(GROUP as i64));
        let grouped = self.e.b.ins().band(n, grouped);
        let mut at = zero;
        if unrolled {
            let after = self.e.b.create_block();
            self.when(IntCC::SignedLessThan, at, whole, after);
            self.counted(axis, at, whole, LANES as i64, |k| {
                let at = k.axes[axis].expect("the loop has set its axis");
                for group in 0..GROUPS {
                    k.group(axis, at, (group * GROUP) as i64, Lanes::Group { group, count: GROUP }, body);
                }
            });
            self.e.b.ins().jump(after, &[]);
            self.e.b.switch_to_block(after);
            self.e.b.seal_block(after);
            at = whole;
        }
        self.spill_accs();
        if let Some(program) = program {
            let after = self.e.b.create_block();
            self.when(IntCC::SignedLessThan, zero, whole, after);
            self.call_wide(whole, program);
            self.e.b.ins().jump(after, &[]);
            self.e.b.switch_to_block(after);
            self.e.b.seal_block(after);
            at = whole;
        }
        let after = self.e.b.create_block();
        self.when(IntCC::SignedLessThan, at, grouped, after);
        self.counted(axis, at, grouped, GROUP as i64, |k| {
            let at = k.axes[axis].expect("the loop has set its axis");
            k.group(axis, at, 0, Lanes::Stored, body);
        });
        self.e.b.ins().jump(after, &[]);
        self.e.b.switch_to_block(after);
        self.e.b.seal_block(after);
        let after = self.e.b.create_block();
        self.when(IntCC::SignedLessThan, grouped, n, after);
        // One by one, in scalar code.
        self.tail_axis = Some(axis);
        self.counted(axis, grouped, n, 1, |k| k.nodes(body));
        self.tail_axis = None;
        self.e.b.ins().jump(after, &[]);
        self.e.b.switch_to_block(after);
        self.e.b.seal_block(after);
        self.refill_accs();
        self.close_accs();
    }

    /// Elements of a row where a kernel goes over each of many rows in several loops. The processor foresees where one loop goes on in memory, but not that the
    /// first loop goes on where the next row begins, on another page.
    fn row_ahead(&self, extent: Extent) -> Option<i64> {
        let Extent::Const(n) = extent else { return None };
        let loops = |stmt: &Stmt| match stmt {
            Stmt::For { extent: Extent::Const(rows), kind: LoopKind::Parallel, body, .. } if *rows >= LEAST_ROWS => {
                let same = |s: &&Stmt| matches!(s, Stmt::For { extent: Extent::Const(m), kind: LoopKind::Vector, .. } if *m == n);
                body.iter().filter(same).count()
            }
            _ => 0,
        };
        let several = self.kernel.body.iter().map(loops).max().is_some_and(|count| count > 1);
        (several && ROWS_AHEAD.contains(&n)).then_some(n)
    }

    /// The program of a vector loop that is worth a wide loop.
    fn wide_program(&self, axis: AxisId, extent: Extent, body: &[Node]) -> Option<wide::Program> {
        let lanes = self.e.features.vectors.lanes()?;
        if matches!(extent, Extent::Const(n) if n < LANES as i64) {
            return None;
        }
        let leaves: Vec<&Stmt> =
            body.iter().map(|node| if let Node::Leaf(stmt) = node { Some(stmt) } else { None }).collect::<Option<_>>()?;
        let program = wide::select(lanes, self.kernel, &self.dtypes, &self.constants, axis, self.row_ahead(extent), &leaves).ok()?;
        // Of instructions on 256 bits, whatever the registers.
        let work = (program.invariant.iter().filter(|i| !**i).count() * 2 / program.groups()) as i64;
        let pays = self.quick || !matches!(extent, Extent::Const(n) if n / LANES as i64 * work < WIDE_WORK);
        (pays && wide::fits(&program)).then_some(program)
    }

    /// The program of a loop over rows shorter than a register, sixteen of which go side by side. `extent` is that of the loop if it begins at its first row.
    fn rows_program(&self, axis: AxisId, extent: Option<Extent>, body: &[Node]) -> Option<wide::Program> {
        let lanes = self.e.features.vectors.lanes()?;
        if matches!(extent, Some(Extent::Const(n)) if n < LANES as i64) {
            return None;
        }
        let program = wide::rows(lanes, self.kernel, &self.dtypes, &self.constants, axis, extent.is_some(), body).ok()?;
        wide::fits(&program).then_some(program)
    }

    /// A loop over rows, sixteen at a time; the rest one by one, of which there is none if their number is known to be a multiple.
    fn wide_rows(&mut self, axis: AxisId, from: Value, to: Value, multiple: bool, body: &[Node], program: wide::Program) {
        if multiple {
            self.axes[axis] = Some(from);
            self.call_wide(to, program);
            return;
        }
        let count = self.e.b.ins().isub(to, from);
        let mask = self.e.int(types::I64, -(LANES as i64));
        let whole = self.e.b.ins().band(count, mask);
        let zero = self.e.int(types::I64, 0);
        let after = self.e.b.create_block();
        self.when(IntCC::SignedLessThan, zero, whole, after);
        self.axes[axis] = Some(from);
        self.call_wide(whole, program);
        self.e.b.ins().jump(after, &[]);
        self.e.b.switch_to_block(after);
        self.e.b.seal_block(after);
        let (rest, done) = (self.e.b.ins().iadd(from, whole), self.e.b.create_block());
        self.when(IntCC::SignedLessThan, rest, to, done);
        self.counted(axis, rest, to, 1, |k| k.nodes(body));
        self.e.b.ins().jump(done, &[]);
        self.e.b.switch_to_block(done);
        self.e.b.seal_block(done);
    }

    /// A vector loop of known length, its whole passes wide.
    fn wide_const(&mut self, axis: AxisId, n: i64, body: &[Node], program: wide::Program) {
        let whole = n / LANES as i64 * LANES as i64;
        self.open_accs(body, true);
        let count = self.e.int(types::I64, whole);
        self.call_wide(count, program);
        self.refill_accs();
        let zero = self.e.int(types::I64, 0);
        let rest = (n - whole) as usize;
        for group in 0..rest.div_ceil(GROUP) {
            let count = (rest - group * GROUP).min(GROUP);
            self.group(axis, zero, whole + (group * GROUP) as i64, Lanes::Group { group, count }, body);
        }
        self.close_accs();
    }

    /// Calls a wide loop for the first `count` passes, which leaves the accumulators' lanes in memory.
    fn call_wide(&mut self, count: Value, program: wide::Program) {
        let bytes = wide::Arguments::bytes(&program);
        let slot = self.e.b.create_sized_stack_slot(ir::StackSlotData::new(ir::StackSlotKind::ExplicitSlot, bytes, 3));
        self.e.b.ins().stack_store(types::I64, count, slot, 0);
        for (i, (buffer, index)) in program.pointers.iter().enumerate() {
            let at = self.address(*buffer, index);
            self.e.b.ins().stack_store(types::I64, at, slot, wide::Arguments::pointer(i));
        }
        for (i, &acc) in program.accs.iter().enumerate() {
            let at = self.acc_memory(acc);
            self.e.b.ins().stack_store(types::I64, at, slot, wide::Arguments::acc(&program, i));
        }
        for (i, source) in program.uniforms.iter().enumerate() {
            let (dtype, x) = match *source {
                wide::Source::Value(v) => (self.dtypes[v], self.one(v)),
                wide::Source::Acc(a) => (self.kernel.accs[a].dtype, self.e.b.use_var(self.accs[a])),
            };
            let x = self.e.lane_form(x, dtype);
            self.e.b.ins().stack_store(types::I64, x, slot, wide::Arguments::uniform(&program, i));
        }
        let arguments = self.e.b.ins().stack_addr(types::I64, slot, 0);
        let signature = self.e.b.import_signature(wide_signature());
        let name = ir::UserExternalName { namespace: crate::WIDE_NAMESPACE, index: self.wide.len() as u32 };
        let name = self.e.b.func.declare_imported_user_function(name);
        let name = ir::ExternalName::user(name);
        let function = self.e.b.import_function(ir::ExtFuncData { name, signature, colocated: self.e.features.object, patchable: false });
        self.e.b.ins().call(function, &[arguments]);
        self.wide.push(program);
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::For { .. } => panic!("compiler bug: a loop among plain statements"),
            Stmt::Let { value, dtype, expr } => {
                let v = self.expr(*dtype, expr);
                self.values[*value] = Some(v);
            }
            Stmt::Init { acc, value } => {
                let v = self.one(*value);
                self.e.b.def_var(self.accs[*acc], v);
            }
            Stmt::Update { acc, value } => self.update(*acc, self.value(*value)),
            Stmt::Store { buffer, index, value } => self.store(*buffer, index, *value),
        }
    }

    pub(crate) fn value(&self, id: usize) -> Val {
        self.values[id].unwrap_or_else(|| panic!("compiler bug: value {id} is used before its definition"))
    }

    fn one(&self, id: usize) -> Value {
        match self.value(id) {
            Val::One(x) => x,
            _ => panic!("compiler bug: value {id} must be a scalar here"),
        }
    }

    fn expr(&mut self, dtype: DType, expr: &Expr) -> Val {
        match expr {
            Expr::Const(literal) => Val::One(self.literal(dtype, *literal)),
            Expr::Axis(axis) => self.axis(dtype, *axis),
            Expr::Load { buffer, index, guard } => self.load(*buffer, index, *guard),
            Expr::Map(op, x) => {
                let operand = self.dtypes[x[if *op == ScalarOp::Select { 1 } else { 0 }]];
                let x: Vec<Val> = x.iter().map(|&v| self.value(v)).collect();
                self.e.map(*op, operand, &x)
            }
            Expr::Cast(x) => {
                let (from, x) = (self.dtypes[*x], self.value(*x));
                self.e.cast(from, dtype, x)
            }
            Expr::Bitcast(x) => {
                let x = self.value(*x);
                self.e.bitcast(dtype, x)
            }
            Expr::Acc(acc) => Val::One(self.e.b.use_var(self.accs[*acc])),
            Expr::Philox { key, counter, word } => {
                let (key, counter) = (key.map(|v| self.value(v)), counter.map(|v| self.value(v)));
                self.e.philox(key, counter, *word)
            }
            Expr::CheckedIndex { index, extent, origin } => self.checked(*index, *extent, *origin),
        }
    }

    fn axis(&mut self, dtype: DType, axis: AxisId) -> Val {
        match self.position {
            Some(p) if p.axis == axis => {
                let first = self.e.add_const(p.start, p.add);
                if dtype == DType::I64 {
                    let v = self.e.b.ins().splat(types::I64X2, first);
                    let pair = [[0u64, 1], [2, 3]].map(|[a, b]| {
                        let words = [a, b].map(|x| x as i32);
                        let c = self.e.lanes_const([words[0], 0, words[1], 0]);
                        let c = self.e.bits(types::I64X2, c);
                        self.e.b.ins().iadd(v, c)
                    });
                    return Val::Pair(pair);
                }
                let first = self.e.b.ins().ireduce(types::I32, first);
                let v = self.e.b.ins().splat(types::I32X4, first);
                let steps = self.e.lanes_const([0, 1, 2, 3]);
                let v = self.e.b.ins().iadd(v, steps);
                let whole = if dtype == DType::U8 { DType::I32 } else { dtype };
                self.e.cast(whole, dtype, Val::Four(v))
            }
            _ => {
                let x = self.axes[axis].unwrap_or_else(|| panic!("compiler bug: axis {axis} is used outside its loop"));
                self.e.cast(DType::I64, dtype, Val::One(x))
            }
        }
    }

    fn checked(&mut self, index: usize, extent: i64, origin: u32) -> Val {
        let (dtype, x) = (self.dtypes[index], self.value(index));
        let zero = Val::One(self.literal(dtype, Literal::Int(0)));
        let last = Val::One(self.literal(dtype, Literal::Int(extent - 1)));
        let low = self.e.map(ScalarOp::Max, dtype, &[x, zero]);
        let inside = self.e.map(ScalarOp::Min, dtype, &[low, last]);
        let differs = self.e.map(ScalarOp::Ne, dtype, &[inside, x]);
        let (bad, after) = (self.e.b.create_block(), self.e.b.create_block());
        self.e.b.set_cold_block(bad);
        let any = match differs {
            Val::One(d) => d,
            _ => self.e.b.ins().vany_true(differs.units()[0]),
        };
        self.e.b.ins().brif(any, bad, &[], after, &[]);
        self.e.b.switch_to_block(bad);
        self.e.b.seal_block(bad);
        let lanes = match (x, self.position) {
            (Val::One(_), _) | (_, None) => 1,
            (_, Some(Position { lanes: Lanes::Group { count, .. }, .. })) => count,
            _ => GROUP,
        };
        let (extent, origin) = (self.e.int(types::I64, extent), self.e.int(types::I64, origin.into()));
        for lane in 0..lanes {
            let i = self.e.lane(x, dtype, lane);
            let i = self.e.cast(dtype, DType::I64, Val::One(i)).units()[0];
            self.e.call(native::report as *const () as usize, &[self.status, i, extent, origin], None);
        }
        self.e.b.ins().jump(after, &[]);
        self.e.b.switch_to_block(after);
        self.e.b.seal_block(after);
        inside
    }
}
