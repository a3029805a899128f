//! Construction of one kernel: open loops, placement of every value in the outermost loop that knows its operands, sharing of equal values.

use crate::lin::{Lin, Term};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::kernel::{
    Acc, AccId, AccOp, Access, AxisId, BufferId, BufferParam, Expr, Extent, Index, Kernel, LOCAL, Literal, Local, LoopKind, Stmt, ValueId,
};
use rustc_hash::FxHashMap;

/// A loop being filled.
struct Block {
    stmts: Vec<Stmt>,
    /// Its loop; none for the kernel's body.
    head: Option<(AxisId, Extent, LoopKind)>,
    /// What was remembered here, to be forgotten when the loop closes.
    values: Vec<(Expr, DType, u32)>,
    /// Distinguishes it from every other block of the kernel.
    serial: usize,
}

/// A value's facts.
#[derive(Clone, Copy)]
struct Value {
    dtype: DType,
    depth: usize,
    /// Largest value of an index (which is at least 0).
    most: i64,
}

/// A kernel under construction.
pub(crate) struct Builder {
    pub kernel: Kernel,
    blocks: Vec<Block>,
    values: Vec<Value>,
    axes: Vec<(usize, i64)>,
    known: FxHashMap<(Expr, DType, u32), ValueId>,
    /// Counts stores to a buffer: a load after a store is another value than one before.
    versions: Vec<u32>,
    local_versions: Vec<u32>,
    /// Loops below which nothing is placed: everything stays inside the parallel loop.
    base: usize,
    /// Blocks so far.
    serials: usize,
    /// Loads and stores so far.
    clock: usize,
    /// Time of the last load and first store of each buffer.
    pub times: Vec<(usize, usize)>,
}

/// The largest value of what no bound is known for.
const UNBOUNDED: i64 = i64::MAX / 4;

impl Builder {
    pub fn new() -> Builder {
        let root = Block { stmts: Vec::new(), head: None, values: Vec::new(), serial: 0 };
        Builder {
            kernel: Kernel::default(),
            blocks: vec![root],
            values: Vec::new(),
            axes: Vec::new(),
            known: FxHashMap::default(),
            versions: Vec::new(),
            local_versions: Vec::new(),
            base: 0,
            serials: 0,
            clock: 0,
            times: Vec::new(),
        }
    }

    pub fn buffer(&mut self, dtype: DType, access: Access) -> BufferId {
        self.kernel.buffers.push(BufferParam { dtype, access });
        self.versions.push(0);
        self.times.push((0, usize::MAX));
        self.kernel.buffers.len() - 1
    }

    /// A local array.
    pub fn local(&mut self, dtype: DType, len: usize) -> BufferId {
        self.kernel.locals.push(Local { dtype, len });
        self.local_versions.push(0);
        LOCAL + self.kernel.locals.len() - 1
    }

    fn version(&mut self, buffer: BufferId) -> &mut u32 {
        match buffer.checked_sub(LOCAL) {
            Some(local) => &mut self.local_versions[local],
            None => &mut self.versions[buffer],
        }
    }

    /// Opens a loop and returns its variable.
    pub fn open(&mut self, extent: Extent, kind: LoopKind) -> AxisId {
        let axis = self.kernel.axes;
        self.kernel.axes += 1;
        self.serials += 1;
        let most = if let Extent::Const(n) = extent { n - 1 } else { UNBOUNDED };
        self.blocks.push(Block { stmts: Vec::new(), head: Some((axis, extent, kind)), values: Vec::new(), serial: self.serials });
        self.axes.push((self.blocks.len() - 1, most));
        if kind == LoopKind::Parallel {
            self.base = self.blocks.len() - 1;
        }
        axis
    }

    fn pop(&mut self) -> Block {
        let block = self.blocks.pop().expect("compiler bug: no open loop");
        for key in &block.values {
            self.known.remove(key);
        }
        block
    }

    /// Closes the innermost loop.
    pub fn close(&mut self) {
        let block = self.pop();
        let (axis, extent, kind) = block.head.expect("compiler bug: closing the kernel");
        if !block.stmts.is_empty() {
            self.blocks.last_mut().expect("an outer block").stmts.push(Stmt::For { axis, extent, kind, body: block.stmts });
        }
    }

    /// Gives up loops opened since `depth` was [`Builder::depth`]; values placed further out stay.
    pub fn abandon(&mut self, depth: usize) {
        while self.depth() > depth {
            self.pop();
        }
    }

    /// Number of open loops.
    pub fn depth(&self) -> usize {
        self.blocks.len() - 1
    }

    pub fn finish(mut self) -> Kernel {
        assert!(self.blocks.len() == 1, "compiler bug: an open loop");
        self.kernel.body = self.blocks.pop().expect("the body").stmts;
        self.kernel.values = self.values.len();
        crate::tidy::tidy(&mut self.kernel);
        self.kernel
    }

    pub fn most(&self, term: Term) -> i64 {
        match term {
            Term::Axis(a) => self.axes[a].1,
            Term::Value(v) => self.values[v].most,
        }
    }

    pub fn dtype(&self, value: ValueId) -> DType {
        self.values[value].dtype
    }

    fn term_depth(&self, term: Term) -> usize {
        match term {
            Term::Axis(a) => self.axes[a].0,
            Term::Value(v) => self.values[v].depth,
        }
    }

    /// The block a value stands in; a value may be used as long as this stays the same.
    pub fn home(&self, value: ValueId) -> Option<usize> {
        self.blocks.get(self.values[value].depth).map(|b| b.serial)
    }

    pub fn lin_depth(&self, lin: &Lin) -> usize {
        lin.terms.iter().map(|&(t, _)| self.term_depth(t)).max().unwrap_or(0).max(self.base)
    }

    fn place(&mut self, depth: usize, dtype: DType, expr: Expr, version: u32) -> ValueId {
        let key = (expr, dtype, version);
        if let Some(&value) = self.known.get(&key) {
            return value;
        }
        self.known.insert(key.clone(), self.values.len());
        self.blocks[depth].values.push(key.clone());
        self.define(depth, dtype, key.0)
    }

    fn define(&mut self, depth: usize, dtype: DType, expr: Expr) -> ValueId {
        let value = self.values.len();
        self.values.push(Value { dtype, depth, most: UNBOUNDED });
        self.blocks[depth].stmts.push(Stmt::Let { value, dtype, expr });
        value
    }

    fn depth_of(&self, values: &[ValueId]) -> usize {
        values.iter().map(|&v| self.values[v].depth).max().unwrap_or(0).max(self.base)
    }

    /// A literal.
    pub fn literal(&mut self, dtype: DType, float: f64, int: i64) -> ValueId {
        let literal = if dtype.is_float() { Literal::Float(float) } else { Literal::Int(int) };
        self.place(self.base, dtype, Expr::Const(literal), 0)
    }

    /// A pure expression of values.
    pub fn pure(&mut self, dtype: DType, expr: Expr) -> ValueId {
        let depth = match &expr {
            Expr::Map(_, operands) => self.depth_of(operands),
            Expr::Cast(v) | Expr::Bitcast(v) => self.depth_of(&[*v]),
            Expr::Philox { key, counter, .. } => self.depth_of(key).max(self.depth_of(counter)),
            Expr::CheckedIndex { index, .. } => self.depth_of(&[*index]),
            Expr::Axis(a) => self.axes[*a].0.max(self.base),
            Expr::Const(_) => self.base,
            Expr::Load { .. } | Expr::Acc(_) => panic!("compiler bug: no pure expression"),
        };
        self.place(depth, dtype, expr, 0)
    }

    /// An operation. Operands that may change places stand in the order in which they were made: kernels that differ in nothing else are one.
    pub fn map(&mut self, op: ScalarOp, dtype: DType, operands: &[ValueId]) -> ValueId {
        let mut operands = operands.to_vec();
        if matches!(op, ScalarOp::Add | ScalarOp::Mul | ScalarOp::And | ScalarOp::Or | ScalarOp::Xor | ScalarOp::Eq | ScalarOp::Ne) {
            operands.sort_unstable();
        }
        self.pure(dtype, Expr::Map(op, operands))
    }

    pub fn cast(&mut self, value: ValueId, dtype: DType) -> ValueId {
        if self.dtype(value) == dtype { value } else { self.pure(dtype, Expr::Cast(value)) }
    }

    pub fn and(&mut self, a: Option<ValueId>, b: ValueId) -> ValueId {
        match a {
            Some(a) if a != b => self.map(ScalarOp::And, DType::Bool, &[a, b]),
            _ => b,
        }
    }

    /// States the largest value of an index value.
    pub fn bound(&mut self, value: ValueId, most: i64) {
        self.values[value].most = most;
    }

    fn index(lin: &Lin) -> Index {
        let mut index = Index { offset: lin.offset, ..Index::default() };
        for &(term, stride) in &lin.terms {
            match term {
                Term::Axis(a) => index.axes.push((a, stride)),
                Term::Value(v) => index.values.push((v, stride)),
            }
        }
        index
    }

    /// Loads an element, in the outermost loop that knows the index; loads separated by a store to the buffer are distinct.
    /// Also tells whether this is a new load.
    pub fn load(&mut self, buffer: BufferId, dtype: DType, at: &Lin, guard: Option<(ValueId, ValueId)>) -> (ValueId, bool) {
        let depth = self.lin_depth(at).max(guard.map_or(0, |(g, o)| self.depth_of(&[g, o])));
        let expr = Expr::Load { buffer, index: Self::index(at), guard };
        let count = self.values.len();
        let version = *self.version(buffer);
        let value = self.place(depth, dtype, expr, version);
        let fresh = value == count;
        if fresh {
            self.clock += 1;
            if let Some(times) = self.times.get_mut(buffer) {
                times.0 = self.clock;
            }
        }
        (value, fresh)
    }

    /// Loads an element here and now: for buffers the present loop changes.
    pub fn load_here(&mut self, buffer: BufferId, dtype: DType, at: &Lin) -> ValueId {
        self.clock += 1;
        self.times[buffer].0 = self.clock;
        let expr = Expr::Load { buffer, index: Self::index(at), guard: None };
        self.define(self.depth(), dtype, expr)
    }

    pub fn store(&mut self, buffer: BufferId, at: &Lin, value: ValueId) {
        self.clock += 1;
        if let Some(times) = self.times.get_mut(buffer) {
            times.1 = times.1.min(self.clock);
        }
        *self.version(buffer) += 1;
        let depth = self.depth();
        self.blocks[depth].stmts.push(Stmt::Store { buffer, index: Self::index(at), value });
    }

    pub fn acc(&mut self, dtype: DType, op: AccOp) -> AccId {
        self.kernel.accs.push(Acc { dtype, op });
        self.kernel.accs.len() - 1
    }

    /// Sets an accumulator in the present loop; called before the loop that updates it is opened.
    pub fn init(&mut self, acc: AccId, value: ValueId) {
        let depth = self.depth();
        self.blocks[depth].stmts.push(Stmt::Init { acc, value });
    }

    pub fn update(&mut self, acc: AccId, value: ValueId) {
        let depth = self.depth();
        self.blocks[depth].stmts.push(Stmt::Update { acc, value });
    }

    /// The accumulator's value now.
    pub fn read(&mut self, acc: AccId) -> ValueId {
        let dtype = self.kernel.accs[acc].dtype;
        self.define(self.depth(), dtype, Expr::Acc(acc))
    }

    /// The value of a form, as an integer type; loop-invariant parts are added outside.
    pub fn lin_value(&mut self, lin: &Lin, dtype: DType) -> ValueId {
        if let (0, [(Term::Value(v), 1)]) = (lin.offset, &lin.terms[..]) {
            return self.cast(*v, dtype);
        }
        let mut terms = lin.terms.clone();
        terms.sort_by_key(|&(t, _)| self.term_depth(t));
        let mut sum: Option<ValueId> = None;
        if lin.offset != 0 || terms.is_empty() {
            sum = Some(self.literal(dtype, lin.offset as f64, lin.offset));
        }
        for (term, stride) in terms {
            let mut value = match term {
                Term::Axis(a) => self.pure(dtype, Expr::Axis(a)),
                Term::Value(v) => self.cast(v, dtype),
            };
            if stride != 1 {
                let stride = self.literal(dtype, stride as f64, stride);
                value = self.map(ScalarOp::Mul, dtype, &[value, stride]);
            }
            sum = Some(match sum {
                Some(s) => self.map(ScalarOp::Add, dtype, &[s, value]),
                None => value,
            });
        }
        sum.expect("at least one summand")
    }

    /// Quotient and remainder of a form as index values, for what is not linear. `d` is positive; the form is not negative where it counts.
    pub fn div_rem(&mut self, lin: &Lin, d: i64) -> (Lin, Lin) {
        let (_, hi) = lin.range(&|t| self.most(t));
        let value = self.lin_value(lin, DType::I64);
        let divisor = self.literal(DType::I64, d as f64, d);
        let q = self.map(ScalarOp::FloorDiv, DType::I64, &[value, divisor]);
        let r = self.map(ScalarOp::Rem, DType::I64, &[value, divisor]);
        self.bound(q, (hi / d).max(0));
        self.bound(r, d - 1);
        (Lin::term(Term::Value(q)), Lin::term(Term::Value(r)))
    }
}
