//! From graph nodes to scalar expressions: the value of a node at an index.

use crate::build::Builder;
use crate::group::Grouping;
use crate::index::{Dims, Idx, through};
use crate::lin::{Lin, Misfit, Term};
use crate::net::{N, Net};
use crate::rows::Class;
use crate::stage::Stage;
use optc_abi::DType;
use optc_base::Span;
use optc_ir::kernel::{Access, AxisId, BufferId, Expr, Extent, LoopKind, ValueId};
use optc_ir::{Op, ScalarOp};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// What a buffer parameter of a kernel stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// The memory of a node.
    Node(N),
    /// Memory of this kernel alone: position in [`Emitter::scratch`].
    Scratch(usize),
    /// One row of the member in a local array.
    Row(N),
}

/// The type of a kernel value that holds elements of a type.
pub(crate) fn value_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// Builds the expressions of one kernel.
pub(crate) struct Emitter<'a> {
    pub b: Builder,
    pub net: &'a Net,
    pub grouping: &'a Grouping,
    /// The kernel's group, if it is one.
    pub group: Option<usize>,
    pub slots: Vec<Slot>,
    slot_ids: FxHashMap<Slot, BufferId>,
    /// Types and lengths of scratch memory.
    pub scratch: Vec<(DType, usize)>,
    /// Row results of reductions: their value holds for the present row.
    pub row_values: FxHashMap<N, ValueId>,
    /// Members that this kernel has put into memory so far.
    pub in_memory: FxHashMap<N, Slot>,
    memo: FxHashMap<(N, Idx, Option<ValueId>), (ValueId, usize)>,
    /// The loop over rows, which cannot be cut.
    pub row_axis: Option<AxisId>,
    /// How many rows there are.
    pub rows: usize,
    /// The position every aligned access has in the present loop.
    pub here: Option<(Lin, usize)>,
    /// Buffers read at other places than the one being written.
    pub unaligned: Vec<bool>,
    origins: &'a mut Origins,
}

/// The plan's table of origins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    pub table: Vec<(u32, u32, u32)>,
    known: FxHashMap<(u32, u32, u32), u32>,
}

impl Origins {
    fn index(&mut self, span: Span) -> u32 {
        let key = span_key(span);
        *self.known.entry(key).or_insert_with(|| {
            self.table.push(key);
            self.table.len() as u32 - 1
        })
    }
}

fn span_key(span: Span) -> (u32, u32, u32) {
    (span.source.0, span.start, span.end)
}

impl<'a> Emitter<'a> {
    pub fn new(net: &'a Net, grouping: &'a Grouping, group: Option<usize>, origins: &'a mut Origins) -> Self {
        Emitter {
            b: Builder::new(),
            net,
            grouping,
            group,
            slots: Vec::new(),
            slot_ids: FxHashMap::default(),
            scratch: Vec::new(),
            row_values: FxHashMap::default(),
            in_memory: FxHashMap::default(),
            memo: FxHashMap::default(),
            row_axis: None,
            rows: 1,
            here: None,
            unaligned: Vec::new(),
            origins,
        }
    }

    /// The buffer parameter of a slot.
    pub fn buffer(&mut self, slot: Slot, access: Access) -> BufferId {
        if let Some(&id) = self.slot_ids.get(&slot) {
            if matches!(slot, Slot::Row(_)) {
                return id;
            }
            let param = &mut self.b.kernel.buffers[id];
            if param.access != access {
                param.access = Access::ReadWrite;
            }
            return id;
        }
        let dtype = match slot {
            Slot::Node(n) => self.net.nodes[n].ty.dtype,
            Slot::Scratch(k) => self.scratch[k].0,
            Slot::Row(n) => {
                let id = self.b.local(self.dtype(n), self.net.len_of(n) / self.rows);
                self.slot_ids.insert(slot, id);
                return id;
            }
        };
        let id = self.b.buffer(dtype, access);
        self.slots.push(slot);
        self.unaligned.push(false);
        self.slot_ids.insert(slot, id);
        id
    }

    /// Where an element of an array lies in its memory: a local array holds the present row.
    pub fn place_in(&self, slot: Slot, at: &Lin) -> Lin {
        let mut at = at.clone();
        if matches!(slot, Slot::Row(_)) {
            at.terms.retain(|&mut (t, _)| self.row_axis.is_none_or(|row| t != Term::Axis(row)));
        }
        at
    }

    fn shape(&self, n: N) -> &'a [usize] {
        let net: &'a Net = self.net;
        &net.nodes[n].ty.shape
    }

    pub fn dtype(&self, n: N) -> DType {
        value_type(self.net.nodes[n].ty.dtype)
    }

    /// Runs `body` inside loops over `extents` (outermost first), given the position in each. A loop is cut in two when an index in the
    /// body asks for it; then the body is built again. The innermost loop is of kind `inner`.
    pub fn nest(
        &mut self,
        extents: &[usize],
        inner: LoopKind,
        body: &mut dyn FnMut(&mut Self, &[Lin]) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        let mut cuts: Vec<SmallVec<[i64; 4]>> = extents.iter().map(|&e| SmallVec::from_slice(&[e as i64])).collect();
        loop {
            let depth = self.b.depth();
            let mut left = cuts.iter().flatten().filter(|&&f| f > 1).count();
            // (axis, loop of `extents`, factor) of what was opened.
            let mut opened: SmallVec<[(AxisId, usize, usize); 6]> = SmallVec::new();
            let mut at: SmallVec<[Lin; 4]> = SmallVec::new();
            for (which, factors) in cuts.iter().enumerate() {
                let mut lin = Lin::default();
                for (position, &factor) in factors.iter().enumerate() {
                    lin = lin.scaled(factor);
                    if factor > 1 {
                        left -= 1;
                        let axis = self.b.open(Extent::Const(factor), if left == 0 { inner } else { LoopKind::Serial });
                        opened.push((axis, which, position));
                        lin = lin.add_scaled(&Lin::axis(axis), 1);
                    }
                }
                at.push(lin);
            }
            match body(self, &at) {
                Ok(()) => {
                    opened.iter().for_each(|_| self.b.close());
                    return Ok(());
                }
                Err(Misfit(Some((axis, part)))) if let Some(&(_, which, position)) = opened.iter().find(|o| o.0 == axis) => {
                    self.b.abandon(depth);
                    cuts[which][position] /= part;
                    cuts[which].insert(position + 1, part);
                }
                Err(misfit) => {
                    self.b.abandon(depth);
                    return Err(misfit);
                }
            }
        }
    }

    /// Quotient and remainder; asks for a cut of a loop where that makes them linear.
    pub fn div_rem(&mut self, lin: &Lin, d: i64) -> Result<(Lin, Lin), Misfit> {
        match lin.div_rem(d, &|t| self.b.most(t)) {
            Ok(parts) => Ok(parts),
            Err(Misfit(Some((axis, _)))) if Some(axis) == self.row_axis => Ok(self.b.div_rem(lin, d)),
            Err(Misfit(None)) => Ok(self.b.div_rem(lin, d)),
            Err(misfit) => Err(misfit),
        }
    }

    fn dims(&mut self, n: N, idx: &Idx) -> Result<Dims, Misfit> {
        let shape = self.shape(n);
        let lin = match idx {
            Idx::Dims(dims) => return Ok(dims.clone()),
            Idx::Flat(lin) => lin,
        };
        let mut out: Dims = shape.iter().map(|_| Lin::default()).collect();
        let Some(first) = shape.iter().position(|&d| d > 1) else { return Ok(out) };
        let mut rest = lin.clone();
        for axis in (first + 1..shape.len()).rev().filter(|&a| shape[a] > 1) {
            let (q, r) = self.div_rem(&rest, shape[axis] as i64)?;
            (out[axis], rest) = (r, q);
        }
        out[first] = rest;
        Ok(out)
    }

    /// Where the kernel finds a node in memory, if it is there.
    fn memory(&self, n: N) -> Option<Slot> {
        if let Some(&slot) = self.in_memory.get(&n) {
            return Some(slot);
        }
        let here = self.group.is_some() && self.grouping.group_of[n] == self.group;
        let class = self.grouping.class[n];
        let stored = class == Class::Leaf || (class != Class::View && !here && self.grouping.stored[n]) || class == Class::Apart;
        stored.then_some(Slot::Node(n))
    }

    /// The value of `n` at `idx`. If `guard` is false there, the value is arbitrary but nothing out of range is touched.
    pub fn emit(&mut self, n: N, idx: &Idx, guard: Option<ValueId>) -> Result<ValueId, Misfit> {
        if let Some(&value) = self.row_values.get(&n) {
            return Ok(value);
        }
        let memory = self.memory(n);
        // What is in memory is known by its row-major position, so that a value computed in this pass is found again.
        let flat;
        let idx = match (memory, idx) {
            (Some(_), Idx::Dims(_)) => {
                flat = Idx::Flat(idx.flat(self.shape(n)));
                &flat
            }
            _ => idx,
        };
        let key = (n, idx.clone(), guard);
        if let Some(&(value, home)) = self.memo.get(&key)
            && self.b.home(value) == Some(home)
        {
            return Ok(value);
        }
        let value = match memory {
            Some(slot) => self.load(n, slot, idx, guard),
            None => self.compute(n, idx, guard)?,
        };
        self.remember(key, value);
        Ok(value)
    }

    fn remember(&mut self, key: (N, Idx, Option<ValueId>), value: ValueId) {
        let home = self.b.home(value).expect("compiler bug: a value outside all loops");
        self.memo.insert(key, (value, home));
    }

    /// Computes a node that is going to be stored at this position, and keeps the value for others in the same pass.
    pub fn emit_stage(&mut self, n: N, at: &Lin) -> Result<ValueId, Misfit> {
        let idx = Idx::Flat(at.clone());
        let value = self.compute(n, &idx, None)?;
        self.remember((n, idx, None), value);
        Ok(value)
    }

    /// The value to store for a stage: memory of a narrow type rounds itself, so a conversion need not; others in the pass find the rounded value.
    pub fn emit_stored(&mut self, stage: &Stage, at: &Lin) -> Result<ValueId, Misfit> {
        let net: &'a Net = self.net;
        let n = stage.node;
        let rounded = self.emit_stage(n, at)?;
        let narrow = stage.slot == Slot::Node(n) && value_type(net.nodes[n].ty.dtype) != net.nodes[n].ty.dtype;
        if !narrow || net.nodes[n].op != Op::Cast {
            return Ok(rounded);
        }
        let value = self.emit(net.nodes[n].operands[0], &Idx::Flat(at.clone()), None)?;
        Ok(self.b.cast(value, DType::F32))
    }

    fn load(&mut self, n: N, slot: Slot, idx: &Idx, guard: Option<ValueId>) -> ValueId {
        let lin = self.place_in(slot, &idx.flat(self.shape(n)));
        let dtype = self.dtype(n);
        let buffer = self.buffer(slot, Access::Read);
        let guard = guard.map(|g| (g, self.b.literal(dtype, 0.0, 0)));
        let (value, fresh) = self.b.load(buffer, dtype, &lin, guard);
        if fresh && !matches!(slot, Slot::Row(_)) {
            let whole = self.net.len_of(n);
            let aligned = match &self.here {
                Some((here, size)) => *here == lin && *size == whole,
                None => false,
            };
            let single = whole == 1 && self.row_axis.is_none();
            if !aligned && !single {
                self.unaligned[buffer] = true;
            }
        }
        value
    }

    fn compute(&mut self, n: N, idx: &Idx, guard: Option<ValueId>) -> Result<ValueId, Misfit> {
        let net: &'a Net = self.net;
        let node = &net.nodes[n];
        let dtype = self.dtype(n);
        let x = &node.operands;
        match &node.op {
            Op::Const(_) => {
                let (float, int) = net.splat_value(n).unwrap_or((0.0, 0));
                Ok(self.b.literal(dtype, float, int))
            }
            Op::Iota { axis } => {
                let at = self.dims(n, idx)?;
                Ok(self.b.lin_value(&at[*axis], dtype))
            }
            Op::Reshape => self.emit(x[0], &Idx::Flat(idx.flat(&node.ty.shape)), guard),
            Op::Map(op) => {
                let mut operands: SmallVec<[ValueId; 3]> = SmallVec::new();
                for &o in x {
                    operands.push(self.emit(o, idx, guard)?);
                }
                Ok(self.b.map(*op, dtype, &operands))
            }
            Op::Cast => {
                let value = self.emit(x[0], idx, guard)?;
                let value = self.b.cast(value, dtype);
                Ok(self.narrow(value, node.ty.dtype, net.nodes[x[0]].ty.dtype))
            }
            Op::Bitcast => {
                let value = self.emit(x[0], idx, guard)?;
                Ok(if self.b.dtype(value) == dtype { value } else { self.b.pure(dtype, Expr::Bitcast(value)) })
            }
            Op::Pad { lo, interior, .. } => self.pad(n, idx, guard, lo, interior),
            Op::Gather { axis } => {
                let at = self.dims(n, idx)?;
                let ids_rank = net.nodes[x[1]].ty.rank();
                let ids: Dims = at[*axis..axis + ids_rank].to_vec();
                let index = self.checked(x[1], &Idx::Dims(ids), net.nodes[x[0]].ty.shape[*axis], n, guard)?;
                let place: Dims = at[..*axis].iter().cloned().chain([index]).chain(at[axis + ids_rank..].iter().cloned()).collect();
                self.emit(x[0], &Idx::Dims(place), guard)
            }
            Op::Broadcast { .. } if net.len_of(x[0]) == 1 => self.emit(x[0], &Idx::Flat(Lin::default()), guard),
            op => {
                let at = self.dims(n, idx)?;
                let Some(inner) = through(op, self.shape(*x.first().expect("an operand")), &at) else {
                    panic!("compiler bug: {op:?} of {} is not in memory where it is read", node.ty)
                };
                self.emit(x[0], &Idx::Dims(inner), guard)
            }
        }
    }

    /// Rounds a value to a narrow float type where the program asks for a conversion.
    fn narrow(&mut self, x: ValueId, to: DType, from: DType) -> ValueId {
        if from == to || !matches!(to, DType::BF16 | DType::F16) {
            return x;
        }
        let f = DType::F32;
        let drop = if to == DType::BF16 { 16 } else { 13 };
        // Round the significand to nearest even on the bits.
        let bits = self.b.pure(DType::U32, Expr::Bitcast(x));
        let int = |s: &mut Self, v: i64| s.b.literal(DType::U32, 0.0, v);
        let float = |s: &mut Self, v: f64| s.b.literal(f, v, 0);
        let (shift, one) = (int(self, drop), int(self, 1));
        let half = int(self, (1 << (drop - 1)) - 1);
        let mask = int(self, 0xFFFF_FFFF & !((1 << drop) - 1));
        let odd = self.b.map(ScalarOp::Shr, DType::U32, &[bits, shift]);
        let odd = self.b.map(ScalarOp::And, DType::U32, &[odd, one]);
        let up = self.b.map(ScalarOp::Add, DType::U32, &[half, odd]);
        let sum = self.b.map(ScalarOp::Add, DType::U32, &[bits, up]);
        let cut = self.b.map(ScalarOp::And, DType::U32, &[sum, mask]);
        let mut rounded = self.b.pure(f, Expr::Bitcast(cut));
        if to == DType::F16 {
            // Subnormal results are multiples of 2^-24; adding 0.75, whose last bit is worth that much, rounds to one.
            let magic = float(self, 0.75);
            let (least, most) = (float(self, 2f64.powi(-14)), float(self, 65504.0));
            let size = self.b.map(ScalarOp::Abs, f, &[x]);
            let small = self.b.map(ScalarOp::Add, f, &[size, magic]);
            let small = self.b.map(ScalarOp::Sub, f, &[small, magic]);
            let sign = self.b.map(ScalarOp::Sign, f, &[x]);
            let small = self.b.map(ScalarOp::Mul, f, &[small, sign]);
            let is_small = self.b.map(ScalarOp::Lt, DType::Bool, &[size, least]);
            rounded = self.b.map(ScalarOp::Select, f, &[is_small, small, rounded]);
            let size = self.b.map(ScalarOp::Abs, f, &[rounded]);
            let is_large = self.b.map(ScalarOp::Lt, DType::Bool, &[most, size]);
            let infinity = float(self, f64::INFINITY);
            let infinite = self.b.map(ScalarOp::Mul, f, &[rounded, infinity]);
            rounded = self.b.map(ScalarOp::Select, f, &[is_large, infinite, rounded]);
        }
        let nan = self.b.map(ScalarOp::IsNan, DType::Bool, &[x]);
        self.b.map(ScalarOp::Select, f, &[nan, x, rounded])
    }

    /// An index read from an array, checked against the extent of the axis it selects from.
    pub fn checked(&mut self, ids: N, at: &Idx, extent: usize, user: N, guard: Option<ValueId>) -> Result<Lin, Misfit> {
        let mut index = self.emit(ids, at, guard)?;
        if let Some(guard) = guard {
            let dtype = self.b.dtype(index);
            let zero = self.b.literal(dtype, 0.0, 0);
            index = self.b.map(ScalarOp::Select, dtype, &[guard, index, zero]);
        }
        let origin = self.origins.index(self.net.nodes[user].origin.span);
        let dtype = self.b.dtype(index);
        let checked = self.b.pure(dtype, Expr::CheckedIndex { index, extent: extent as i64, origin });
        self.b.bound(checked, extent as i64 - 1);
        Ok(Lin::term(Term::Value(checked)))
    }

    fn pad(&mut self, n: N, idx: &Idx, guard: Option<ValueId>, lo: &[usize], interior: &[usize]) -> Result<ValueId, Misfit> {
        let net: &'a Net = self.net;
        let node = &net.nodes[n];
        let (x, fill) = (node.operands[0], node.operands[1]);
        let mut at = self.dims(n, idx)?;
        let mut inside: Option<ValueId> = None;
        for (axis, &extent) in self.shape(x).iter().enumerate() {
            let step = interior[axis] as i64 + 1;
            let place = at[axis].plus(-(lo[axis] as i64));
            let last = (extent as i64 - 1) * step;
            let (least, most) = place.range(&|t| self.b.most(t));
            if least < 0 || most > last {
                let value = self.b.lin_value(&place, DType::I64);
                let (zero, end) = (self.b.literal(DType::I64, 0.0, 0), self.b.literal(DType::I64, 0.0, last));
                if least < 0 {
                    let holds = self.b.map(ScalarOp::Le, DType::Bool, &[zero, value]);
                    inside = Some(self.b.and(inside, holds));
                }
                if most > last {
                    let holds = self.b.map(ScalarOp::Le, DType::Bool, &[value, end]);
                    inside = Some(self.b.and(inside, holds));
                }
            }
            at[axis] = place;
            if step > 1 {
                let (q, r) = self.div_rem(&at[axis], step)?;
                if r != Lin::default() {
                    let value = self.b.lin_value(&r, DType::I64);
                    let zero = self.b.literal(DType::I64, 0.0, 0);
                    let holds = self.b.map(ScalarOp::Eq, DType::Bool, &[value, zero]);
                    inside = Some(self.b.and(inside, holds));
                }
                at[axis] = q;
            }
        }
        let Some(inside) = inside else { return self.emit(x, &Idx::Dims(at), guard) };
        let both = self.b.and(guard, inside);
        let value = self.emit(x, &Idx::Dims(at), Some(both))?;
        let fill = self.emit(fill, &Idx::Flat(Lin::default()), guard)?;
        let dtype = self.dtype(n);
        Ok(self.b.map(ScalarOp::Select, dtype, &[inside, value, fill]))
    }
}
