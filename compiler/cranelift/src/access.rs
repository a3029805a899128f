//! Element addresses of a kernel, and its loads and stores in scalar and in four-lane code.

use crate::emit::{scalar_type, vector_type};
use crate::kernel::{Builder, GROUP, Lanes, Position};
use crate::ops::Val;
use cranelift_codegen::ir::{InstBuilder, Value};
use optc_abi::DType;
use optc_ir::kernel::{BufferId, Index, LOCAL, ValueId};

/// Where the elements of an access lie.
enum Place {
    /// One element, at address + offset.
    One(Value, i32),
    /// Lane `l` at address + offset + l * stride (bytes).
    Strided(Value, i32, i64),
    /// Each lane somewhere.
    Scattered([Value; GROUP]),
}

/// The type a buffer's elements have as values.
fn value_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        _ => dtype,
    }
}

impl Builder<'_, '_> {
    fn lane_count(&self) -> usize {
        match self.position {
            Some(Position { lanes: Lanes::Group { count, .. }, .. }) => count,
            _ => GROUP,
        }
    }

    /// An index value of one lane, as i64.
    fn index_lane(&mut self, v: ValueId, lane: usize) -> Value {
        let (dtype, x) = (self.dtypes[v], self.value(v));
        let s = self.e.lane(x, dtype, lane);
        self.e.cast(dtype, DType::I64, Val::One(s)).units()[0]
    }

    /// Address of the first element of a parameter or local array.
    fn base(&self, buffer: BufferId) -> Value {
        match buffer.checked_sub(LOCAL) {
            Some(local) => self.locals[local],
            None => self.buffers[buffer],
        }
    }

    fn axis_value(&self, axis: usize) -> Value {
        self.axes[axis].unwrap_or_else(|| panic!("compiler bug: axis {axis} is used outside its loop"))
    }

    fn place(&mut self, buffer: BufferId, index: &Index) -> Place {
        let size = self.kernel.dtype(buffer).size() as i64;
        let lane_axis = self.position.map(|p| p.axis);
        let mut address = self.base(buffer);
        let mut constant = index.offset * size;
        // Terms that do not change along the vector axis come first, so that they can leave the loop together.
        for &(axis, stride) in index.axes.iter().filter(|(a, _)| Some(*a) != lane_axis) {
            let at = self.axis_value(axis);
            let term = self.e.mul_const(at, stride * size);
            address = self.e.b.ins().iadd(address, term);
        }
        let mut sized_lane = Vec::new();
        for &(axis, stride, s) in &index.sized {
            let row = self.sizes[s];
            let row = self.e.mul_const(row, stride * size);
            if Some(axis) == lane_axis {
                sized_lane.push(row);
                continue;
            }
            let at = self.axis_value(axis);
            let term = self.e.b.ins().imul(at, row);
            address = self.e.b.ins().iadd(address, term);
        }
        for &(v, stride) in &index.values {
            if !self.value(v).varies() {
                let at = self.index_lane(v, 0);
                let term = self.e.mul_const(at, stride * size);
                address = self.e.b.ins().iadd(address, term);
            }
        }
        let varying: Vec<(ValueId, i64)> = index.values.iter().copied().filter(|&(v, _)| self.value(v).varies()).collect();
        let mut lane_stride = 0;
        if let Some(p) = self.position {
            for &(_, stride) in index.axes.iter().filter(|(a, _)| *a == p.axis) {
                let term = self.e.mul_const(p.start, stride * size);
                address = self.e.b.ins().iadd(address, term);
                constant += p.add * stride * size;
                lane_stride += stride * size;
            }
            for &row in &sized_lane {
                let at = self.e.add_const(p.start, p.add);
                let term = self.e.b.ins().imul(at, row);
                address = self.e.b.ins().iadd(address, term);
            }
        }
        let offset = i32::try_from(constant).ok().filter(|c| *c < i32::MAX - 64).unwrap_or_else(|| {
            address = self.e.add_const(address, constant);
            0
        });
        if varying.is_empty() && sized_lane.is_empty() {
            return if lane_stride == 0 { Place::One(address, offset) } else { Place::Strided(address, offset, lane_stride) };
        }
        let first = self.e.add_const(address, offset.into());
        let mut lanes = [first; GROUP];
        let count = self.lane_count();
        for (lane, at) in lanes.iter_mut().enumerate().take(count) {
            *at = self.e.add_const(*at, lane as i64 * lane_stride);
            for &row in &sized_lane {
                let term = self.e.mul_const(row, lane as i64);
                *at = self.e.b.ins().iadd(*at, term);
            }
            for &(v, stride) in &varying {
                let i = self.index_lane(v, lane);
                let term = self.e.mul_const(i, stride * size);
                *at = self.e.b.ins().iadd(*at, term);
            }
        }
        Place::Scattered(lanes)
    }

    /// The address of an element outside vector code.
    pub(crate) fn address(&mut self, buffer: BufferId, index: &Index) -> Value {
        let place = self.place(buffer, index);
        let (address, offset) = self.lane_address(&place, 0);
        self.e.add_const(address, offset.into())
    }

    /// Address and offset of one lane.
    fn lane_address(&mut self, place: &Place, lane: usize) -> (Value, i32) {
        match place {
            Place::One(address, offset) => (*address, *offset),
            Place::Strided(address, offset, stride) => match i32::try_from(i64::from(*offset) + lane as i64 * stride) {
                Ok(offset) => (*address, offset),
                Err(_) => (self.e.add_const(*address, lane as i64 * stride), *offset),
            },
            Place::Scattered(lanes) => (lanes[lane], 0),
        }
    }

    /// Loads lane by lane, from the buffer's start where the guard is false.
    fn load_lanes(&mut self, buffer: BufferId, place: &Place, guard: Option<Val>) -> Val {
        let dtype = self.kernel.dtype(buffer);
        let value = value_type(dtype);
        let lanes: Vec<Value> = (0..self.lane_count())
            .map(|lane| {
                let (mut address, mut offset) = self.lane_address(place, lane);
                if let Some(guard) = guard {
                    let allowed = self.e.lane(guard, DType::Bool, lane);
                    let wanted = self.e.add_const(address, offset.into());
                    let start = self.base(buffer);
                    (address, offset) = (self.e.select(allowed, wanted, start), 0);
                }
                let s = self.e.load_scalar(dtype, address, offset);
                self.e.lane_form(s, value)
            })
            .collect();
        self.e.gather(value, &lanes)
    }

    pub(crate) fn load(&mut self, buffer: BufferId, index: &Index, guard: Option<(ValueId, ValueId)>) -> Val {
        let dtype = self.kernel.dtype(buffer);
        let value = value_type(dtype);
        let mut place = self.place(buffer, index);
        let Some((condition, otherwise)) = guard else { return self.load_at(buffer, &place) };
        let (condition, otherwise) = (self.value(condition), self.value(otherwise));
        if let (Val::One(allowed), Place::One(..) | Place::Strided(..)) = (condition, &place) {
            // One decision for all lanes: where nothing may be loaded, the (aligned, never empty) start of the buffer is read instead.
            let start = self.base(buffer);
            match &mut place {
                Place::One(address, offset) | Place::Strided(address, offset, _) => {
                    let wanted = self.e.add_const(*address, (*offset).into());
                    (*address, *offset) = (self.e.select(allowed, wanted, start), 0);
                }
                Place::Scattered(_) => {}
            }
            if let Place::Strided(address, offset, stride) = place
                && stride != dtype.size() as i64
            {
                place = self.strided_or_start(address, offset, stride, allowed, start);
            }
            let x = self.load_at(buffer, &place);
            return self.choose(value, condition, x, otherwise);
        }
        if let (Val::Four(mask), Place::Strided(address, offset, stride)) = (condition, &place)
            && *stride == dtype.size() as i64
            && self.lane_count() == GROUP
        {
            let (address, offset) = (*address, *offset);
            // Mostly all lanes may be loaded; at the edges of the padding each goes its way.
            let (whole, edge, after) = (self.e.b.create_block(), self.e.b.create_block(), self.e.b.create_block());
            let units = if value.size() == 8 { 2 } else { 1 };
            (0..units).for_each(|_| {
                self.e.b.append_block_param(after, vector_type(value));
            });
            let all = self.e.b.ins().vall_true(mask);
            self.e.b.ins().brif(all, whole, &[], edge, &[]);
            self.e.b.switch_to_block(whole);
            self.e.b.seal_block(whole);
            let x = self.e.load_four(dtype, address, offset);
            let arguments: Vec<_> = x.units().iter().map(|&u| u.into()).collect();
            self.e.b.ins().jump(after, &arguments);
            self.e.b.switch_to_block(edge);
            self.e.b.seal_block(edge);
            let x = self.load_lanes(buffer, &place, Some(condition));
            let x = self.choose(value, condition, x, otherwise);
            let arguments: Vec<_> = x.units().iter().map(|&u| u.into()).collect();
            self.e.b.ins().jump(after, &arguments);
            self.e.b.switch_to_block(after);
            self.e.b.seal_block(after);
            let params = self.e.b.block_params(after).to_vec();
            return if let [x, y] = params[..] { Val::Pair([x, y]) } else { Val::Four(params[0]) };
        }
        let x = self.load_lanes(buffer, &place, Some(condition));
        self.choose(value, condition, x, otherwise)
    }

    /// Strided lanes that all fall on the buffer's start where nothing may be loaded.
    fn strided_or_start(&mut self, address: Value, offset: i32, stride: i64, allowed: Value, start: Value) -> Place {
        let lanes = std::array::from_fn(|lane| {
            let at = self.e.add_const(address, i64::from(offset) + lane as i64 * stride);
            self.e.select(allowed, at, start)
        });
        Place::Scattered(lanes)
    }

    fn choose(&mut self, dtype: DType, condition: Val, x: Val, otherwise: Val) -> Val {
        self.e.map(optc_ir::scalar::ScalarOp::Select, dtype, &[condition, x, otherwise])
    }

    fn load_at(&mut self, buffer: BufferId, place: &Place) -> Val {
        let dtype = self.kernel.dtype(buffer);
        match place {
            Place::One(address, offset) => Val::One(self.e.load_scalar(dtype, *address, *offset)),
            Place::Strided(address, offset, stride) if *stride == dtype.size() as i64 && self.lane_count() == GROUP => {
                self.e.load_four(dtype, *address, *offset)
            }
            _ => self.load_lanes(buffer, place, None),
        }
    }

    pub(crate) fn store(&mut self, buffer: BufferId, index: &Index, value: ValueId) {
        let dtype = self.kernel.dtype(buffer);
        let x = self.value(value);
        let place = self.place(buffer, index);
        if self.position.is_none() {
            let (address, offset) = self.lane_address(&place, 0);
            self.e.store_scalar(dtype, x.units()[0], address, offset);
            return;
        }
        if let Place::Strided(address, offset, stride) = place
            && stride == dtype.size() as i64
            && self.lane_count() == GROUP
        {
            let lanes = self.e.spread(x, value_type(dtype));
            self.e.store_four(dtype, lanes, address, offset);
            return;
        }
        // Lane by lane, in order: of several stores to one element the last wins.
        for lane in 0..self.lane_count() {
            let (address, offset) = self.lane_address(&place, lane);
            let s = self.e.lane(x, value_type(dtype), lane);
            debug_assert_eq!(self.e.type_of(s), scalar_type(value_type(dtype)));
            self.e.store_scalar(dtype, s, address, offset);
        }
    }
}
