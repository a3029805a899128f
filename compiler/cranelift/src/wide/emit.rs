//! From the program of a wide loop to machine code: registers are given out along the straight line, the value needed last makes room.
//!
//! The code is a function with the C calling convention of System V that takes the address of its arguments: the number of elements (a multiple of
//! [`LANES`]), the pointers, the addresses for the accumulators' lanes, which start at the identity, and the uniform values, eight bytes each.

use super::asm::{self, Assembler, Gpr, Lanes, Mask, Mem, Opcode, Operand, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Vector};
use super::masks::Masks;
use super::program::{Inst, Kind, Place, Program, V, commutes};
use optc_ir::kernel::LANES;

/// Registers that hold pointers; all but the first six belong to the caller.
const POINTERS: [Gpr; 11] = [RCX, RSI, Gpr(8), Gpr(9), Gpr(10), Gpr(11), RBX, Gpr(12), Gpr(13), Gpr(14), Gpr(15)];
const SCRATCH: usize = 6;
/// Accumulators up to this number stay in registers.
const ACCS_IN_REGISTERS: usize = 3;
/// Vector registers of 512 bits; there are half as many of 256.
const MOST_REGISTERS: usize = 32;
/// Groups of a pass, of 256-bit registers.
const MOST_GROUPS: usize = 2;
/// Registers that no invariant is kept in.
const WORKING: usize = 4;
/// Lanes of a piece of a register.
const PIECE: usize = 4;
/// No further use.
pub(super) const NEVER: usize = usize::MAX;

/// Whether the program fits the registers for pointers.
pub(crate) fn fits(program: &Program) -> bool {
    program.pointers.len() <= POINTERS.len()
}

/// Where the arguments lie.
pub(crate) struct Arguments;

impl Arguments {
    pub(crate) fn pointer(i: usize) -> i32 {
        8 * (1 + i) as i32
    }
    pub(crate) fn acc(program: &Program, i: usize) -> i32 {
        8 * (1 + program.pointers.len() + i) as i32
    }
    pub(crate) fn uniform(program: &Program, i: usize) -> i32 {
        8 * (1 + program.pointers.len() + program.accs.len() + i) as i32
    }
    /// Bytes of all arguments.
    pub(crate) fn bytes(program: &Program) -> u32 {
        Self::uniform(program, program.uniforms.len()) as u32
    }
}

/// Machine code of the program, and its text if wanted. Numbers of invariants to keep in registers are tried, and the one with the cheapest loop is taken.
pub(crate) fn emit(program: &Program, listing: bool) -> (Vec<u8>, String) {
    let invariants = invariants_by_use(program).len();
    let most = invariants.min(registers(program) - WORKING);
    let first = Emitter::new(program, most, program.insts.len(), false).run();
    let mut trials = vec![(first.cost, most, first.slots)];
    // With all invariants in registers and nothing else from memory none is cheaper.
    if first.memory > 0 || most < invariants {
        trials.extend([20, 15, 10, 8, 6, 4, 2, 0].into_iter().filter(|&n| n < most).map(|n| {
            let trial = Emitter::new(program, n, program.insts.len(), false).run();
            (trial.cost, n, trial.slots)
        }));
    }
    let (_, pinned, slots) = trials.into_iter().min().unwrap_or((0, 0, program.insts.len()));
    Emitter::new(program, pinned, slots, listing).run().asm.finish()
}

/// Registers there are.
fn registers(program: &Program) -> usize {
    if program.width == LANES { MOST_REGISTERS } else { MOST_REGISTERS / 2 }
}

/// Invariants that the loop uses, most used first.
fn invariants_by_use(program: &Program) -> Vec<V> {
    let mut uses = vec![0usize; program.insts.len()];
    for (i, inst) in program.insts.iter().enumerate() {
        if !program.invariant[i] {
            inst.operands().for_each(|v| uses[v as usize] += 1);
        }
    }
    let mut all: Vec<V> = (0..program.insts.len() as V).filter(|&v| program.invariant[v as usize] && uses[v as usize] > 0).collect();
    all.sort_by_key(|&v| std::cmp::Reverse(uses[v as usize]));
    all
}

/// What is known of a value while code is emitted.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) register: Option<Vector>,
    /// The register of masks that holds it, of 512-bit code: lanes of ones and zeros, or of signs.
    pub(super) mask: Option<Mask>,
    /// Memory that holds the value, as whole lanes.
    pub(super) home: Option<Mem>,
    /// The home is a buffer's elements, good until something is stored.
    buffer: bool,
    /// Instructions of the present part that use it, and how many of them are done.
    uses: Vec<usize>,
    done: usize,
}

pub(super) struct Emitter<'p> {
    pub(super) program: &'p Program,
    pub(super) asm: Assembler,
    pub(super) states: Vec<State>,
    /// Registers there are.
    registers: usize,
    holds: [Option<V>; MOST_REGISTERS],
    pub(super) masks: Masks,
    /// Registers not given out: pinned invariants and accumulators.
    reserved: u32,
    /// Registers the instruction under way reads.
    pub(super) locked: u32,
    pinned: usize,
    /// Registers of accumulators by group; memory if there are too many.
    accs: Vec<[Option<Vector>; MOST_GROUPS]>,
    acc_slots: Vec<[Mem; MOST_GROUPS]>,
    slots: usize,
    /// Positions counted along: the instruction, its place, and what it grows by.
    counters: Vec<(usize, Operand, u32)>,
    /// Slots of the frame.
    frame: usize,
    /// Instructions of the loop so far, in quarters; memory operands count one.
    pub(super) cost: usize,
    /// Moves of the loop between registers and the frame, and operands there.
    memory: usize,
}

impl<'p> Emitter<'p> {
    fn new(program: &'p Program, pinned: usize, frame: usize, listing: bool) -> Self {
        Emitter {
            program,
            asm: Assembler::new(program.width == LANES, listing),
            states: vec![State::default(); program.insts.len()],
            registers: registers(program),
            holds: [None; MOST_REGISTERS],
            masks: Masks::new(program),
            reserved: 0,
            locked: 0,
            pinned,
            accs: Vec::new(),
            acc_slots: Vec::new(),
            slots: 0,
            counters: Vec::new(),
            frame,
            cost: 0,
            memory: 0,
        }
    }

    /// Bytes of a register.
    fn bytes(&self) -> usize {
        4 * self.program.width
    }

    fn slot(&mut self) -> Mem {
        self.slots += 1;
        // Below the saved registers and aligned: addressed from the stack pointer.
        Mem::At(RSP, (self.bytes() * (self.slots - 1)) as i32)
    }

    /// The whole function.
    fn run(mut self) -> Self {
        let saved: Vec<Gpr> = POINTERS[SCRATCH..self.program.pointers.len().max(SCRATCH)].to_vec();
        self.asm.push(RBP);
        self.asm.move_gpr(RBP, RSP);
        saved.iter().for_each(|&r| self.asm.push(r));
        self.asm.add(RSP, -((self.bytes() * (self.frame + 1)) as i32));
        self.asm.and(RSP, -(self.bytes() as i8));
        self.open_masks();
        self.open_accs();
        self.open_counters();
        self.invariants();
        for i in 0..self.program.pointers.len() {
            self.asm.load_gpr(POINTERS[i], Mem::At(RDI, Arguments::pointer(i)));
        }
        self.asm.load_gpr(RDX, Mem::At(RDI, 0));
        self.asm.clear(RAX);
        let head = self.asm.loop_head();
        self.cost = 0;
        self.memory = 0;
        self.count_uses(false);
        for i in 0..self.program.insts.len() {
            if !self.program.invariant[i] {
                self.inst(i);
            }
        }
        let cost = self.cost;
        self.count();
        for (&pointer, &by) in POINTERS.iter().zip(&self.program.steps) {
            self.asm.add(pointer, by);
        }
        self.asm.add(RAX, LANES as i32);
        self.asm.compare(RAX, RDX);
        self.asm.loop_while_less(head);
        self.close_accs();
        self.asm.zero_upper();
        self.asm.lea(RSP, Mem::At(RBP, -8 * saved.len() as i32));
        saved.iter().rev().for_each(|&r| self.asm.pop(r));
        self.asm.pop(RBP);
        self.asm.ret();
        self.cost = cost;
        self
    }

    fn open_accs(&mut self) {
        let count = self.program.accs.len();
        for i in 0..count {
            let mut registers = [None; MOST_GROUPS];
            let groups = self.program.groups();
            let slots = [(); MOST_GROUPS].map(|()| self.slot());
            let from = Operand::Mem(self.asm.constant(self.program.starts[i]));
            for group in 0..groups {
                if count <= ACCS_IN_REGISTERS {
                    let r = (self.registers - 1 - (groups * i + group)) as Vector;
                    self.reserved |= 1 << r;
                    self.asm.two(asm::LOAD, r, from, None);
                    registers[group] = Some(r);
                } else {
                    self.asm.two(asm::LOAD, 0, from, None);
                    self.asm.store(asm::STORE, Operand::Mem(slots[group]), 0, None);
                }
            }
            self.accs.push(registers);
            self.acc_slots.push(slots);
        }
    }

    fn open_counters(&mut self) {
        for (i, inst) in self.program.insts.iter().enumerate() {
            if let Inst::Start(by) = *inst {
                let step = by.wrapping_mul(LANES as u32);
                // One stays in a register: in memory it would take longer than a short pass.
                let free = (0..self.registers as Vector).rev().find(|&r| !self.is_reserved(r)).filter(|_| self.counters.is_empty());
                let r = free.unwrap_or(0);
                self.asm.three(asm::XOR, r, r, Operand::Reg(r), None);
                let place = match free {
                    Some(r) => {
                        self.reserved |= 1 << r;
                        Operand::Reg(r)
                    }
                    None => {
                        let slot = self.slot();
                        self.asm.store(asm::STORE, Operand::Mem(slot), r, None);
                        Operand::Mem(slot)
                    }
                };
                self.counters.push((i, place, step));
            }
        }
    }

    /// Moves the counters on to the next pass.
    fn count(&mut self) {
        self.locked = 0;
        for (_, place, step) in std::mem::take(&mut self.counters) {
            let step = self.asm.constant(step);
            match place {
                Operand::Reg(r) => self.asm.three(asm::IADD, r, r, Operand::Mem(step), None),
                Operand::Mem(_) => {
                    let r = self.take();
                    self.asm.two(asm::LOAD, r, place, None);
                    self.asm.three(asm::IADD, r, r, Operand::Mem(step), None);
                    self.asm.store(asm::STORE, place, r, None);
                    self.locked &= !(1 << r);
                }
            }
        }
    }

    fn close_accs(&mut self) {
        for i in 0..self.program.accs.len() {
            self.asm.load_gpr(RCX, Mem::At(RDI, Arguments::acc(self.program, i)));
            for group in 0..self.program.groups() {
                let r = self.accs[i][group].unwrap_or_else(|| {
                    self.asm.two(asm::LOAD, 0, Operand::Mem(self.acc_slots[i][group]), None);
                    0
                });
                self.asm.store(asm::STORE, Operand::Mem(Mem::At(RCX, (self.bytes() * group) as i32)), r, None);
            }
        }
    }

    /// Computes what does not change in the loop; the most used of it stays in registers, the rest has memory.
    fn invariants(&mut self) {
        self.count_uses(true);
        for i in 0..self.program.insts.len() {
            if self.program.invariant[i] {
                self.inst(i);
                if self.states[i].home.is_none() {
                    self.locked = 0;
                    self.in_register(i as V);
                    self.spill(i);
                }
                self.release_mask(i as V);
            }
        }
        for r in 0..self.registers {
            self.release(r as Vector);
        }
        let order = invariants_by_use(self.program);
        let room = self.registers - WORKING - self.reserved.count_ones() as usize;
        for &v in order.iter().take(self.pinned.min(room)) {
            self.locked = 0;
            let r = self.in_register(v);
            self.reserved |= 1 << r;
        }
    }

    /// Finds the uses of values within the invariants or within the loop.
    fn count_uses(&mut self, invariant: bool) {
        for s in &mut self.states {
            s.uses.clear();
            s.done = 0;
        }
        for (i, inst) in self.program.insts.iter().enumerate() {
            if self.program.invariant[i] == invariant {
                inst.operands().for_each(|v| self.states[v as usize].uses.push(i));
            }
        }
    }

    pub(super) fn next_use(&self, v: V) -> usize {
        let s = &self.states[v as usize];
        s.uses.get(s.done).copied().unwrap_or(NEVER)
    }

    fn is_reserved(&self, r: Vector) -> bool {
        self.reserved >> r & 1 == 1
    }

    /// Forgets what a register holds.
    fn release(&mut self, r: Vector) {
        if self.is_reserved(r) {
            return;
        }
        if let Some(v) = self.holds[usize::from(r)].take() {
            self.states[v as usize].register = None;
        }
    }

    fn spill(&mut self, v: usize) {
        let Some(r) = self.states[v].register else { return };
        let slot = self.slot();
        self.cost += 5;
        self.memory += 1;
        self.asm.store(asm::STORE, Operand::Mem(slot), r, None);
        self.states[v].home = Some(slot);
        self.states[v].buffer = false;
    }

    /// A free register; the value that is needed last makes room if there is none.
    pub(super) fn take(&mut self) -> Vector {
        let usable = |e: &Self, r: usize| (e.reserved | e.locked) >> r & 1 == 0;
        let r = (0..self.registers).find(|&r| usable(self, r) && self.holds[r].is_none()).unwrap_or_else(|| {
            let last = (0..self.registers).filter(|&r| usable(self, r)).max_by_key(|&r| self.holds[r].map_or(NEVER, |v| self.next_use(v)));
            last.unwrap_or_else(|| panic!("compiler bug: an instruction needs more than {} registers", self.registers))
        });
        if let Some(v) = self.holds[r] {
            let elsewhere = self.states[v as usize].home.is_some() || self.states[v as usize].mask.is_some() && self.is_mask(v);
            if !elsewhere && self.next_use(v) != NEVER {
                self.spill(v as usize);
            }
            self.release(r as Vector);
        }
        self.locked |= 1 << r;
        r as Vector
    }

    fn give(&mut self, r: Vector, v: V) {
        if !self.is_reserved(r) {
            self.holds[usize::from(r)] = Some(v);
        }
        self.states[v as usize].register = Some(r);
    }

    /// The value in a register.
    pub(super) fn in_register(&mut self, v: V) -> Vector {
        if let Some(r) = self.states[v as usize].register {
            self.locked |= 1 << r;
            return r;
        }
        let r = self.take();
        if let Some(k) = self.states[v as usize].mask.filter(|_| self.is_mask(v)) {
            self.cost += 4;
            self.asm.spread(r, k);
            self.give(r, v);
            return r;
        }
        let home = self.states[v as usize].home.unwrap_or_else(|| panic!("compiler bug: value {v} of a wide loop is lost"));
        self.cost += 5;
        self.memory += usize::from(!self.states[v as usize].buffer);
        self.asm.two(asm::LOAD, r, Operand::Mem(home), None);
        self.give(r, v);
        r
    }

    /// The value where it is best read: a register, or memory if this is its last use or it never changes.
    pub(super) fn operand(&mut self, v: V) -> Operand {
        let s = &self.states[v as usize];
        if s.register.is_none()
            && let Some(home) = s.home
            && (self.program.invariant[v as usize] || s.done + 1 >= s.uses.len())
        {
            let elsewhere = !s.buffer;
            self.cost += 1;
            self.memory += usize::from(elsewhere);
            return Operand::Mem(home);
        }
        Operand::Reg(self.in_register(v))
    }

    /// Marks the instruction's uses done; registers of values without further use become free.
    pub(super) fn finish_uses(&mut self, i: usize) {
        self.finish(i, self.program.insts[i].operands());
    }

    /// The same for some of its operands.
    pub(super) fn finish(&mut self, i: usize, operands: impl Iterator<Item = V> + Clone) {
        for v in operands.clone() {
            let s = &mut self.states[v as usize];
            if s.uses.get(s.done) == Some(&i) {
                s.done += 1;
            }
        }
        for v in operands {
            if self.next_use(v) == NEVER {
                self.release_mask(v);
            }
            if self.next_use(v) == NEVER
                && let Some(r) = self.states[v as usize].register
                && !self.is_reserved(r)
            {
                self.release(r);
                self.locked &= !(1 << r);
            }
        }
    }

    /// The accumulator's register if the value only goes there and the old lanes are not needed any more.
    fn acc_register(&self, v: usize) -> Option<Vector> {
        let [only] = self.states[v].uses[..] else { return None };
        let Inst::AccOut(acc, group, _) = self.program.insts[only] else { return None };
        let r = self.accs[acc][group]?;
        let old_needed =
            self.program.insts.iter().enumerate().any(|(j, inst)| *inst == Inst::AccIn(acc, group) && self.next_use(j as V) != NEVER);
        (!old_needed).then_some(r)
    }

    /// The register of an instruction's result; operands have been read.
    pub(super) fn result(&mut self, i: usize) -> Vector {
        let r = self.acc_register(i).unwrap_or_else(|| self.take());
        self.give(r, i as V);
        r
    }

    pub(super) fn mem(&self, place: Place) -> Mem {
        let base = POINTERS[place.pointer];
        let disp = place.offset << place.kind.scale();
        if place.moves { Mem::Indexed(base, RAX, place.kind.scale(), disp) } else { Mem::At(base, disp) }
    }

    /// Four elements of a row: of every fourth one, from a place on.
    fn piece(&self, place: Place, stride: i32, piece: usize) -> Mem {
        Mem::At(POINTERS[place.pointer], (place.offset << place.kind.scale()) + (PIECE * piece) as i32 * stride)
    }

    /// Values that lie in buffers come into registers before something is stored.
    pub(super) fn before_store(&mut self) {
        for v in 0..self.states.len() {
            if !self.states[v].buffer {
                continue;
            }
            if self.next_use(v as V) != NEVER {
                self.locked = 0;
                self.in_register(v as V);
            }
            self.states[v].home = None;
            self.states[v].buffer = false;
        }
        self.locked = 0;
    }

    fn inst(&mut self, i: usize) {
        self.locked = 0;
        let v = i as V;
        let inst = self.program.insts[i];
        self.cost += 4;
        match inst {
            Inst::Const(bits) => self.states[i].home = Some(self.asm.constant(bits)),
            Inst::Lanes(lanes) => self.states[i].home = Some(self.asm.vector(&lanes)),
            Inst::Uniform(at) => {
                let r = self.take();
                self.asm.two(asm::BROADCAST, r, Operand::Mem(Mem::At(RDI, Arguments::uniform(self.program, at))), None);
                self.give(r, v);
            }
            Inst::Start(_) => {
                self.cost -= 4;
                match self.counters.iter().find(|c| c.0 == i).map(|c| c.1) {
                    Some(Operand::Reg(r)) => self.states[i].register = Some(r),
                    Some(Operand::Mem(slot)) => self.states[i].home = Some(slot),
                    None => panic!("compiler bug: a position that is not counted"),
                }
            }
            Inst::Load(place) => self.load(i, place),
            Inst::MaskLoad(mask, place) if self.long() => {
                let k = self.in_mask(mask);
                let mem = self.mem(place);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.masked(asm::LOAD, r, 0, Operand::Mem(mem), Lanes::Zero(k));
            }
            Inst::MaskLoad(mask, place) => {
                let m = self.in_register(mask);
                self.finish_uses(i);
                let (mem, r) = (self.mem(place), self.result(i));
                self.asm.three(asm::MASK_LOAD, r, m, Operand::Mem(mem), None);
            }
            Inst::Unary(op, a, immediate) => {
                let a = self.operand(a);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.two(op, r, a, immediate);
            }
            Inst::Binary(op, a, b, immediate) if self.long() && self.with_masks(i, op, a, b, immediate) => {}
            Inst::Binary(op, mut a, mut b, immediate) => {
                if commutes(op) && self.states[a as usize].register.is_none() && self.states[b as usize].register.is_some() {
                    (a, b) = (b, a);
                }
                let a = self.in_register(a);
                let b = self.operand(b);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.three(op, r, a, b, immediate);
            }
            Inst::Shift(op, digit, a, bits) => {
                let a = self.in_register(a);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.shift(op, digit, r, a, bits);
            }
            Inst::Fma(a, b, c) => self.fma(i, a, b, c, [asm::FMA132, asm::FMA213, asm::FMA231]),
            Inst::Fms(a, b, c) => self.fma(i, a, b, c, [asm::FMS132, asm::FMS213, asm::FMS231]),
            Inst::Blend(mask, a, b) if self.long() => {
                let k = self.in_mask(mask);
                let b = self.in_register(b);
                let a = self.operand(a);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.masked(asm::BLEND_MASK, r, b, a, Lanes::Keep(k));
            }
            Inst::Blend(mask, a, b) => {
                let m = self.in_register(mask);
                let b = self.in_register(b);
                let a = self.operand(a);
                self.finish_uses(i);
                let r = self.result(i);
                self.asm.three(asm::BLENDV, r, b, a, Some(m << 4));
            }
            Inst::AccIn(acc, group) => match self.accs[acc][group] {
                Some(r) => self.states[i].register = Some(r),
                None => self.states[i].home = Some(self.acc_slots[acc][group]),
            },
            Inst::AccOut(acc, group, x) => {
                let x = self.in_register(x);
                match self.accs[acc][group] {
                    Some(r) if r == x => {}
                    Some(r) => self.asm.two(asm::MOVE, r, Operand::Reg(x), None),
                    None => self.asm.store(asm::STORE, Operand::Mem(self.acc_slots[acc][group]), x, None),
                }
                self.finish_uses(i);
            }
            Inst::Ahead(place) => self.asm.prefetch(self.mem(place)),
            Inst::Rows(place, stride) => {
                let r = self.take();
                for piece in 0..self.program.width / PIECE {
                    let from = Operand::Mem(self.piece(place, stride, piece));
                    match piece {
                        0 => self.asm.two(asm::BROADCAST_FOUR, r, from, None),
                        _ => self.asm.three(asm::INSERT_FOUR, r, r, from, Some(piece as u8)),
                    }
                    self.cost += 4;
                }
                self.give(r, v);
            }
            Inst::StoreRows(place, stride, x) => {
                self.before_store();
                let x = self.in_register(x);
                for piece in 0..self.program.width / PIECE {
                    self.asm.store(asm::EXTRACT_FOUR, Operand::Mem(self.piece(place, stride, piece)), x, Some(piece as u8));
                    self.cost += 4;
                }
                self.finish_uses(i);
            }
            Inst::Store(place, x) => self.store(i, place, x),
            Inst::Halves(place, parts) => self.halves(i, place, parts),
            Inst::Bytes(place, parts, pack) => self.pack(i, &[(place, parts, pack)]),
            Inst::TwoBytes(places, parts, packs) => self.pack(i, &[0, 1].map(|k| (places[k], parts[k], packs[k]))),
            Inst::Saturated(place, x) => self.narrow(i, asm::STORE_SATURATED, place, x),
        }
        // Results nobody uses (they exist where a selection was simplified) free their registers at once.
        if self.next_use(v) == NEVER && !self.program.invariant[i] {
            self.release_mask(v);
            if let Some(r) = self.states[i].register {
                self.release(r);
            }
        }
    }

    fn load(&mut self, i: usize, place: Place) {
        let mem = self.mem(place);
        if place.moves && place.kind == Kind::Word {
            // Read where it is used, or before the next store.
            self.cost -= 4;
            self.states[i].home = Some(mem);
            self.states[i].buffer = true;
            return;
        }
        let r = self.take();
        let op = match place.kind {
            Kind::Word => asm::BROADCAST,
            Kind::Halves => asm::WIDEN_HALVES,
            Kind::Half => asm::OF_HALF,
            Kind::Byte => asm::WIDEN_BYTES,
            Kind::SignedByte => asm::WIDEN_SIGNED,
        };
        self.asm.two(op, r, Operand::Mem(mem), None);
        self.give(r, i as V);
    }

    /// a * b + c, or less c, in the form that overwrites an operand no longer needed.
    fn fma(&mut self, i: usize, a: V, b: V, c: V, [op132, op213, op231]: [Opcode; 3]) {
        // Locks what is in registers, so that loading one operand does not push out another.
        for v in [a, b, c] {
            if let Some(r) = self.states[v as usize].register {
                self.locked |= 1 << r;
            }
        }
        let uses = |v: V| [a, b, c].iter().filter(|&&x| x == v).count();
        let dies = |e: &Self, v: V| {
            let s = &e.states[v as usize];
            s.register.is_some_and(|r| !e.is_reserved(r)) && s.done + uses(v) >= s.uses.len()
        };
        let (mut a, mut b) = (a, b);
        if dies(self, c) {
            if self.states[a as usize].register.is_none() {
                (a, b) = (b, a);
            }
            let (rc, ra) = (self.in_register(c), self.in_register(a));
            let b = self.operand(b);
            self.overwrite(i, rc);
            self.asm.three(op231, rc, ra, b, None);
            return;
        }
        if !dies(self, a) {
            (a, b) = (b, a);
        }
        if dies(self, a) {
            let ra = self.in_register(a);
            if self.states[b as usize].register.is_none() && self.states[c as usize].register.is_some() {
                let rc = self.in_register(c);
                let b = self.operand(b);
                self.overwrite(i, ra);
                self.asm.three(op132, ra, rc, b, None);
            } else {
                let rb = self.in_register(b);
                let c = self.operand(c);
                self.overwrite(i, ra);
                self.asm.three(op213, ra, rb, c, None);
            }
            return;
        }
        // All stay: the addend is copied.
        if self.states[a as usize].register.is_none() {
            (a, b) = (b, a);
        }
        let ra = self.in_register(a);
        let b = self.operand(b);
        let from = match (self.states[c as usize].register, self.states[c as usize].home) {
            (None, Some(home)) => Operand::Mem(home),
            _ => Operand::Reg(self.in_register(c)),
        };
        let r = self.take();
        self.cost += 4;
        self.asm.two(asm::LOAD, r, from, None);
        self.asm.three(op231, r, ra, b, None);
        self.finish_uses(i);
        self.give(r, i as V);
        // The copy's register cannot have been freed by the uses: it held none of them.
    }

    /// Gives the register of an operand that dies in this instruction to its result.
    fn overwrite(&mut self, i: usize, r: Vector) {
        self.finish_uses(i);
        self.release(r);
        self.give(r, i as V);
    }
}
