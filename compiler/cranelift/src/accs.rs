//! Accumulators of vector loops: sixteen virtual lanes in registers or memory, combined pairwise after the loop.

use crate::emit::{plain, vector_type};
use crate::hoist::Node;
use crate::kernel::{Builder, GROUP, GROUPS, Lanes, Position};
use crate::ops::Val;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value, types};
use cranelift_frontend::Variable;
use optc_abi::DType;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{AccId, AccOp, LANES, Stmt, combine_op, identity};
use optc_ir::scalar::ScalarOp;

/// An accumulator while a vector loop updates it.
pub(crate) struct VectorAcc {
    acc: AccId,
    /// Registers of each group.
    parts: Vec<Vec<Variable>>,
    /// Memory form, where a loop of run-time length needs one.
    slot: Option<StackSlot>,
}

/// The accumulators updated in a block without loops.
fn updated(body: &[Node]) -> Vec<AccId> {
    let mut found = Vec::new();
    for node in body {
        if let Node::Leaf(Stmt::Update { acc, .. }) = node
            && !found.contains(acc)
        {
            found.push(*acc);
        }
    }
    found
}

impl Builder<'_, '_> {
    fn units(dtype: DType) -> usize {
        if dtype.size() == 8 { 2 } else { 1 }
    }

    fn reduce_op(&self, acc: AccId) -> ReduceOp {
        match self.kernel.accs[acc].op {
            AccOp::Reduce(op) => op,
            AccOp::Assign => panic!("compiler bug: a vector loop assigns accumulator {acc}"),
        }
    }

    pub(crate) fn open_accs(&mut self, body: &[Node], in_memory: bool) {
        for acc in updated(body) {
            let (dtype, op) = (self.kernel.accs[acc].dtype, self.reduce_op(acc));
            let start = self.literal(dtype, identity(op, dtype));
            let start = self.e.spread(Val::One(start), dtype).units()[0];
            let mut parts = Vec::new();
            for _ in 0..GROUPS {
                let group: Vec<Variable> = (0..Self::units(dtype)).map(|_| self.e.b.declare_var(vector_type(dtype))).collect();
                group.iter().for_each(|&v| self.e.b.def_var(v, start));
                parts.push(group);
            }
            let slot = in_memory.then(|| {
                let bytes = (LANES * Self::units(dtype) * 4) as u32;
                self.e.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4))
            });
            self.vector_accs.push(VectorAcc { acc, parts, slot });
        }
    }

    /// Makes the accumulators of group `by` those of group 0, and so on around.
    pub(crate) fn rotate_accs(&mut self, by: usize) {
        for i in 0..self.vector_accs.len() {
            let parts = self.vector_accs[i].parts.clone();
            let now: Vec<Vec<Value>> = parts.iter().map(|group| group.iter().map(|&v| self.e.b.use_var(v)).collect()).collect();
            for (g, group) in parts.iter().enumerate() {
                for (&var, &x) in group.iter().zip(&now[(g + by) % GROUPS]) {
                    self.e.b.def_var(var, x);
                }
            }
        }
    }

    fn acc_registers(&self) -> Vec<(StackSlot, i32, Variable)> {
        let mut all = Vec::new();
        for a in &self.vector_accs {
            let Some(slot) = a.slot else { continue };
            for (i, &var) in a.parts.iter().flatten().enumerate() {
                all.push((slot, 16 * i as i32, var));
            }
        }
        all
    }

    pub(crate) fn spill_accs(&mut self) {
        for (slot, offset, var) in self.acc_registers() {
            let x = self.e.b.use_var(var);
            self.e.b.ins().stack_store(types::I64, x, slot, offset);
        }
    }

    pub(crate) fn refill_accs(&mut self) {
        for (slot, offset, var) in self.acc_registers() {
            let ty = {
                let x = self.e.b.use_var(var);
                self.e.type_of(x)
            };
            let x = self.e.b.ins().stack_load(types::I64, ty, slot, offset);
            self.e.b.def_var(var, x);
        }
    }

    /// Combines the lanes pairwise and the result with the accumulator's previous value.
    pub(crate) fn close_accs(&mut self) {
        for VectorAcc { acc, parts, .. } in std::mem::take(&mut self.vector_accs) {
            let dtype = self.kernel.accs[acc].dtype;
            let op = combine_op(self.reduce_op(acc));
            let mut level: Vec<Val> = Vec::new();
            for group in &parts {
                let units: Vec<Value> = group.iter().map(|&v| self.e.b.use_var(v)).collect();
                level.push(if let [x, y] = units[..] { Val::Pair([x, y]) } else { Val::Four(units[0]) });
            }
            while level.len() > 1 {
                let half = level.len() / 2;
                level = (0..half).map(|i| self.e.map(op, dtype, &[level[i], level[i + half]])).collect();
            }
            let mut lanes: Vec<Val> = (0..GROUP).map(|i| Val::One(self.e.lane(level[0], dtype, i))).collect();
            while lanes.len() > 1 {
                let half = lanes.len() / 2;
                lanes = (0..half).map(|i| self.e.map(op, dtype, &[lanes[i], lanes[i + half]])).collect();
            }
            let old = Val::One(self.e.b.use_var(self.accs[acc]));
            let new = self.e.map(op, dtype, &[old, lanes[0]]);
            self.e.b.def_var(self.accs[acc], new.units()[0]);
        }
    }

    pub(crate) fn update(&mut self, acc: AccId, value: Val) {
        let dtype = self.kernel.accs[acc].dtype;
        let op = match self.kernel.accs[acc].op {
            AccOp::Reduce(op) => combine_op(op),
            AccOp::Assign => {
                let Val::One(x) = value else { panic!("compiler bug: lanes assigned to accumulator {acc}") };
                self.e.b.def_var(self.accs[acc], x);
                return;
            }
        };
        let Some(i) = self.vector_accs.iter().position(|a| a.acc == acc) else {
            let old = Val::One(self.e.b.use_var(self.accs[acc]));
            let new = self.e.map(op, dtype, &[old, value]);
            self.e.b.def_var(self.accs[acc], new.units()[0]);
            return;
        };
        match self.position {
            Some(Position { lanes: Lanes::Group { group, count }, .. }) => {
                let parts = self.vector_accs[i].parts[group].clone();
                let units: Vec<Value> = parts.iter().map(|&v| self.e.b.use_var(v)).collect();
                let old = if let [x, y] = units[..] { Val::Pair([x, y]) } else { Val::Four(units[0]) };
                let mut new = self.e.map(op, dtype, &[old, value]);
                if count < GROUP {
                    let real: [i32; 4] = std::array::from_fn(|lane| if lane < count { -1 } else { 0 });
                    let mask = Val::Four(self.e.lanes_const(real));
                    new = self.e.map(ScalarOp::Select, dtype, &[mask, new, old]);
                }
                for (&var, &x) in parts.iter().zip(new.units()) {
                    self.e.b.def_var(var, x);
                }
            }
            Some(Position { lanes: Lanes::Stored, start, .. }) => {
                let address = self.acc_address(i, start);
                let old = match Self::units(dtype) {
                    2 => Val::Pair([0, 16].map(|at| self.e.b.ins().load(vector_type(dtype), plain(), address, at))),
                    _ => Val::Four(self.e.b.ins().load(vector_type(dtype), plain(), address, 0)),
                };
                let new = self.e.map(op, dtype, &[old, value]);
                for (u, &x) in new.units().iter().enumerate() {
                    self.e.b.ins().store(plain(), x, address, 16 * u as i32);
                }
            }
            None => {
                // The scalar tail of a vector loop: one lane in memory, in lane form.
                let Val::One(x) = value else { panic!("compiler bug: lanes in scalar code") };
                let at = self.tail_position();
                let address = self.acc_address(i, at);
                let ty = vector_type(dtype).lane_type();
                let stored = self.e.b.ins().load(ty, plain(), address, 0);
                let old = if dtype == DType::Bool {
                    let zero = self.e.int(ty, 0);
                    self.e.icmp(IntCC::NotEqual, stored, zero)
                } else {
                    stored
                };
                let new = self.e.map(op, dtype, &[Val::One(old), Val::One(x)]).units()[0];
                let new = self.e.lane_form(new, dtype);
                self.e.b.ins().store(plain(), new, address, 0);
            }
        }
    }

    /// Address of the lanes of an accumulator in memory.
    pub(crate) fn acc_memory(&mut self, acc: AccId) -> Value {
        let slot = self.vector_accs.iter().find(|a| a.acc == acc).and_then(|a| a.slot);
        let slot = slot.unwrap_or_else(|| panic!("compiler bug: accumulator {acc} has no memory"));
        self.e.b.ins().stack_addr(types::I64, slot, 0)
    }

    /// Address of the lane at `position % LANES` of an accumulator in memory.
    fn acc_address(&mut self, i: usize, position: Value) -> Value {
        let acc = &self.vector_accs[i];
        let slot = acc.slot.unwrap_or_else(|| panic!("compiler bug: accumulator {} has no memory", acc.acc));
        let bytes = 4 * Self::units(self.kernel.accs[acc.acc].dtype) as i64;
        let base = self.e.b.ins().stack_addr(types::I64, slot, 0);
        let mask = self.e.int(types::I64, LANES as i64 - 1);
        let lane = self.e.b.ins().band(position, mask);
        let offset = self.e.mul_const(lane, bytes);
        self.e.b.ins().iadd(base, offset)
    }

    fn tail_position(&self) -> Value {
        self.tail_axis.and_then(|a| self.axes[a]).unwrap_or_else(|| panic!("compiler bug: no vector loop is open"))
    }
}
