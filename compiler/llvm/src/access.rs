//! Element addresses of a kernel, and its loads and stores, of single elements and of vectors.

use crate::body::{Body, Position, Real};
use crate::emit::Emit;
use crate::ins::{FloatCC, IntCC, Opcode, T, V};
use optc_abi::DType;
use optc_ir::kernel::{BufferId, Index, LOCAL, ValueId};

/// Where the elements of an access lie.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// One element for all lanes.
    One(V),
    /// Neighbors, the first one here.
    Run(V),
    /// Each lane's address in a vector.
    Many(V),
}

/// The type a buffer's elements have as values.
fn value_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        _ => dtype,
    }
}

impl Emit {
    /// The type of an element in memory: integers of its size where it is none of LLVM's.
    pub(crate) fn memory_type(&self, dtype: DType) -> T {
        match dtype {
            DType::BF16 => self.i.int_type(16),
            DType::F16 => self.i.half(),
            DType::Bool => self.i.int_type(8),
            _ => self.i.scalar(dtype),
        }
    }

    /// The value of what memory holds.
    pub(crate) fn widen(&self, dtype: DType, x: V) -> V {
        let i = &self.i;
        let float = i.like(i.scalar(DType::F32), x);
        match dtype {
            DType::BF16 => {
                let ty = i.like(i.int_type(32), x);
                let n = i.cast(Opcode::LLVMZExt, x, ty);
                i.bits(i.op2(Opcode::LLVMShl, n, i.int(ty, 16)), float)
            }
            DType::F16 => i.cast(Opcode::LLVMFPExt, x, float),
            DType::Bool => i.icmp(IntCC::LLVMIntNE, x, i.int(i.type_of(x), 0)),
            _ => x,
        }
    }

    /// What memory holds of a value; floats are rounded, ties to even.
    pub(crate) fn narrow(&self, dtype: DType, x: V) -> V {
        let i = &self.i;
        let memory = i.like(self.memory_type(dtype), x);
        match dtype {
            DType::BF16 => {
                // LLVM's own conversion takes denormals for zero on some processors.
                let ty = i.like(i.int_type(32), x);
                let n = i.bits(x, ty);
                let high = i.op2(Opcode::LLVMLShr, n, i.int(ty, 16));
                let odd = i.and(high, i.int(ty, 1));
                let up = i.add(odd, i.int(ty, 0x7FFF));
                let rounded = i.op2(Opcode::LLVMLShr, i.add(n, up), i.int(ty, 16));
                let quiet = i.op2(Opcode::LLVMOr, high, i.int(ty, 0x40));
                let nan = i.fcmp(FloatCC::LLVMRealUNO, x, x);
                i.cast(Opcode::LLVMTrunc, i.select(nan, quiet, rounded), memory)
            }
            DType::F16 => i.cast(Opcode::LLVMFPTrunc, x, memory),
            DType::Bool => i.cast(Opcode::LLVMZExt, x, memory),
            _ => x,
        }
    }
}

impl Body<'_> {
    /// Address of the first element of a parameter or local array.
    fn base(&self, buffer: BufferId) -> V {
        match buffer.checked_sub(LOCAL) {
            Some(local) => self.locals[local],
            None => self.buffers[buffer],
        }
    }

    /// An index value as i64.
    fn long(&self, v: ValueId) -> V {
        self.e.convert(self.dtypes[v], DType::I64, self.value(v))
    }

    fn place(&self, buffer: BufferId, index: &Index) -> Place {
        let i = &self.e.i;
        let lane_axis = self.position.map(|p| p.axis);
        let mut at = i.i64(index.offset);
        let add = |at: &mut V, axis: V, stride: V| {
            let term = i.mul(axis, stride);
            *at = if i.is_zero(*at) { term } else { i.add(*at, term) };
        };
        let mut lane_stride = 0;
        for &(axis, stride) in &index.axes {
            add(&mut at, self.axis_start(axis), i.i64(stride));
            if Some(axis) == lane_axis {
                lane_stride += stride;
            }
        }
        let mut lane_rows: Option<V> = None;
        for &(axis, stride, size) in &index.sized {
            let row = i.mul(self.sizes[size], i.i64(stride));
            add(&mut at, self.axis_start(axis), row);
            if Some(axis) == lane_axis {
                lane_rows = Some(lane_rows.map_or(row, |r| i.add(r, row)));
            }
        }
        let mut varying: Option<V> = None;
        for &(v, stride) in &index.values {
            let n = self.long(v);
            if i.lanes(n).is_none() {
                add(&mut at, n, i.i64(stride));
                continue;
            }
            let term = i.mul(n, i.int(i.type_of(n), stride));
            varying = Some(varying.map_or(term, |v| i.add(v, term)));
        }
        let (base, of) = (self.base(buffer), self.e.memory_type(self.kernel.dtype(buffer)));
        let Some(position) = self.position else { return Place::One(i.element(of, base, at)) };
        if varying.is_none() && lane_rows.is_none() {
            let first = i.element(of, base, at);
            match lane_stride {
                0 => return Place::One(first),
                1 => return Place::Run(first),
                _ => {}
            }
        }
        let ty = i.vector(i.int_type(64), position.lanes);
        let mut all = i.splat(at, position.lanes);
        if lane_stride != 0 {
            all = i.add(all, i.lanes_const(i.int_type(64), (0..position.lanes as i64).map(|l| l * lane_stride)));
        }
        if let Some(rows) = lane_rows {
            let steps = i.lanes_const(i.int_type(64), 0..position.lanes as i64);
            all = i.add(all, i.mul(i.splat(rows, position.lanes), steps));
        }
        if let Some(varying) = varying {
            all = i.add(all, varying);
        }
        debug_assert_eq!(i.type_of(all), ty);
        Place::Many(i.element(of, base, all))
    }

    /// The lanes that are real and fulfil a condition.
    fn lanes_with(&self, condition: Option<V>) -> Option<V> {
        let position = self.position?;
        let condition = condition.map(|c| if self.e.i.lanes(c).is_some() { c } else { self.e.i.splat(c, position.lanes) });
        match (self.mask(), condition) {
            (Some(a), Some(b)) => Some(self.e.i.and(a, b)),
            (a, b) => a.or(b),
        }
    }

    pub(crate) fn load(&mut self, buffer: BufferId, index: &Index, guard: Option<(ValueId, ValueId)>) -> V {
        let dtype = self.kernel.dtype(buffer);
        let memory = self.e.memory_type(dtype);
        let align = self.align(buffer, index);
        let guard = guard.map(|(c, o)| (self.value(c), self.value(o)));
        let place = self.place(buffer, index);
        let i = &self.e.i;
        let x = match place {
            Place::One(at) => {
                // Where nothing may be loaded, the (aligned, never empty) start of the buffer is read instead.
                match guard {
                    Some((c, o)) if i.lanes(c).is_none() => {
                        let at = i.select(c, at, self.base(buffer));
                        let x = self.read(buffer, memory, at, align);
                        return self.choose(dtype, c, self.e.widen(dtype, x), o);
                    }
                    Some((c, o)) => {
                        let ok = self.e.any(self.lanes_with(Some(c)).unwrap_or(c));
                        let at = i.select(ok, at, self.base(buffer));
                        let x = self.read(buffer, memory, at, align);
                        return self.choose(dtype, c, self.e.widen(dtype, x), o);
                    }
                    None => self.read(buffer, memory, at, align),
                }
            }
            Place::Run(first) => {
                let lanes = self.position.map_or(1, |p| p.lanes);
                let ty = i.vector(memory, lanes);
                match self.lanes_with(guard.map(|g| g.0)) {
                    None => self.read(buffer, ty, first, align),
                    Some(_) if let (Some(Position { real: Real::First(n), .. }), None) = (self.position, guard) => {
                        let x = self.read(buffer, i.vector(memory, n), first, align);
                        i.shuffle(x, i.null(i.type_of(x)), (0..lanes as i64).map(|l| l.min(n as i64)))
                    }
                    Some(mask) => {
                        let x = i.intrinsic("llvm.masked.load", &[ty, i.pointer(0)], &[first, mask, i.null(ty)]);
                        i.align_call(x, 1, dtype.size() as u64);
                        x
                    }
                }
            }
            Place::Many(all) => {
                let lanes = self.position.map_or(1, |p| p.lanes);
                let ty = i.vector(memory, lanes);
                let mask = self.lanes_with(guard.map(|g| g.0));
                let mask = mask.unwrap_or_else(|| i.int(i.vector(i.int_type(1), lanes), 1));
                let x = i.intrinsic("llvm.masked.gather", &[ty, i.type_of(all)], &[all, mask, i.null(ty)]);
                i.align_call(x, 1, dtype.size() as u64);
                x
            }
        };
        let x = self.e.widen(dtype, x);
        match guard {
            Some((c, o)) => self.choose(dtype, c, x, o),
            None => x,
        }
    }

    fn choose(&mut self, dtype: DType, condition: V, x: V, otherwise: V) -> V {
        self.e.map(optc_ir::scalar::ScalarOp::Select, value_type(dtype), &[condition, x, otherwise])
    }

    fn read(&self, buffer: BufferId, ty: T, at: V, align: u32) -> V {
        self.e.noted_read(at, self.e.i.bytes(ty));
        let x = self.e.i.load(ty, at, align);
        if self.is_constant(buffer) {
            self.e.i.invariant(x);
        }
        x
    }

    /// A store of one element or of neighbors.
    pub(crate) fn write(&self, x: V, at: V, align: u32) {
        self.e.noted_write(at, self.e.i.bytes(self.e.i.type_of(x)));
        self.e.i.store(x, at, align);
    }

    pub(crate) fn store(&mut self, buffer: BufferId, index: &Index, value: ValueId) {
        let dtype = self.kernel.dtype(buffer);
        let size = dtype.size() as u64;
        let align = self.align(buffer, index);
        let x = self.e.narrow(dtype, self.value(value));
        let place = self.place(buffer, index);
        let i = &self.e.i;
        let spread = |x: V, lanes: usize| if i.lanes(x).is_some() { x } else { i.splat(x, lanes) };
        match (place, self.position) {
            (Place::One(at), None) if !self.lanes_here() => self.store_once(x, at, align),
            (Place::One(at), None) => self.write(x, at, align),
            (_, None) => panic!("compiler bug: lanes outside a vector loop"),
            (Place::One(at), Some(p)) => {
                // Of several stores to one element the last wins.
                let all = i.splat(at, p.lanes);
                self.scatter(spread(x, p.lanes), all, self.mask(), p.lanes, size);
            }
            (Place::Run(first), Some(p)) => {
                let x = spread(x, p.lanes);
                match p.real {
                    Real::All => self.write(x, first, align),
                    // LLVM 22 stores too much under some constant masks of narrow lanes.
                    Real::First(n) => i.store(i.shuffle(x, x, 0..n as i64), first, align),
                    Real::Where(mask) => {
                        let s = i.intrinsic("llvm.masked.store", &[i.type_of(x), i.pointer(0)], &[x, first, mask]);
                        i.align_call(s, 2, size);
                    }
                }
            }
            (Place::Many(all), Some(p)) => self.scatter(spread(x, p.lanes), all, self.mask(), p.lanes, size),
        }
    }

    fn scatter(&self, x: V, all: V, mask: Option<V>, lanes: usize, size: u64) {
        let i = &self.e.i;
        let mask = mask.unwrap_or_else(|| i.int(i.vector(i.int_type(1), lanes), 1));
        let s = i.intrinsic("llvm.masked.scatter", &[i.type_of(x), i.type_of(all)], &[x, all, mask]);
        i.align_call(s, 2, size);
    }
}
