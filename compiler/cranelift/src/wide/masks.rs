//! Masks of 512-bit code. Comparisons give a bit for each lane in a register of masks, where 256-bit code has lanes of ones and zeros; a value that is such
//! lanes stays in a register of masks as long as it is used as a mask, and becomes lanes where something else needs it.

use super::asm::{self, Lanes, Mask, Opcode, RAX};
use super::emit::{Emitter, NEVER};
use super::program::{Inst, Program, V};
use optc_ir::kernel::LANES;

/// Registers of masks; the first stands for "no mask" in instructions.
const MASKS: usize = 8;
/// Holds the bits of odd lanes, for blends of words, where there are any.
const ODD: Mask = 7;
/// Lanes that [`asm::BLEND_WORDS`] takes from its second operand.
const ODD_LANES: u16 = 0xAAAA;

/// What the registers of masks hold.
pub(super) struct Masks {
    holds: [Option<V>; MASKS],
    /// Whether odd lanes have their register.
    odd: bool,
    /// Registers that the instruction under way reads.
    locked: u8,
}

impl Masks {
    pub(super) fn new(program: &Program) -> Self {
        let odd = program.insts.iter().any(|i| matches!(i, Inst::Binary(asm::BLEND_WORDS, ..)));
        Masks { holds: [None; MASKS], odd, locked: 0 }
    }
}

/// Instructions whose result is lanes of ones and zeros.
fn compares(op: Opcode) -> bool {
    matches!(op, asm::CMP | asm::IEQ | asm::IGT)
}

impl Emitter<'_> {
    /// Whether registers have 512 bits.
    pub(super) fn long(&self) -> bool {
        self.program.width == LANES
    }

    pub(super) fn open_masks(&mut self) {
        if self.long() && self.masks.odd {
            self.asm.constant_mask(ODD, ODD_LANES, RAX);
        }
    }

    /// Whether the value is lanes of ones and zeros, so that a mask is all of it; otherwise a mask has its signs alone.
    pub(super) fn is_mask(&self, v: V) -> bool {
        match self.program.insts[v as usize] {
            Inst::Binary(op, ..) if compares(op) => true,
            Inst::Binary(asm::AND | asm::OR | asm::XOR, a, b, _) => self.is_mask(a) && self.is_mask(b),
            Inst::Const(bits) => bits == 0 || bits == u32::MAX,
            _ => false,
        }
    }

    /// A free register of masks; the value that is needed last makes room if there is none.
    fn take_mask(&mut self) -> Mask {
        let usable = |e: &Self, k: usize| e.masks.locked >> k & 1 == 0 && !(e.masks.odd && k == usize::from(ODD));
        let k = (1..MASKS).find(|&k| usable(self, k) && self.masks.holds[k].is_none()).unwrap_or_else(|| {
            let last = (1..MASKS).filter(|&k| usable(self, k)).max_by_key(|&k| self.masks.holds[k].map_or(NEVER, |v| self.next_use(v)));
            last.unwrap_or_else(|| panic!("compiler bug: an instruction needs more than {MASKS} masks"))
        });
        if let Some(v) = self.masks.holds[k] {
            let s = &self.states[v as usize];
            if s.register.is_none() && s.home.is_none() && self.next_use(v) != NEVER {
                self.in_register(v);
            }
            self.release_mask(v);
        }
        self.masks.locked |= 1 << k;
        k as Mask
    }

    fn give_mask(&mut self, k: Mask, v: V) {
        self.masks.holds[usize::from(k)] = Some(v);
        self.states[v as usize].mask = Some(k);
    }

    /// Forgets that a mask holds the value.
    pub(super) fn release_mask(&mut self, v: V) {
        if let Some(k) = self.states[v as usize].mask.take() {
            self.masks.holds[usize::from(k)] = None;
        }
    }

    /// The signs of the value's lanes as a mask.
    pub(super) fn in_mask(&mut self, v: V) -> Mask {
        self.masks.locked = 0;
        if let Some(k) = self.states[v as usize].mask {
            self.masks.locked |= 1 << k;
            return k;
        }
        let r = self.in_register(v);
        let k = self.take_mask();
        self.cost += 4;
        self.asm.signs(k, r);
        self.give_mask(k, v);
        k
    }

    /// The mask that holds all of the value.
    fn whole_mask(&self, v: V) -> Option<Mask> {
        self.states[v as usize].mask.filter(|_| self.is_mask(v))
    }

    /// Emits a binary instruction that makes a mask or is best done with one; `false` if it is neither.
    pub(super) fn with_masks(&mut self, i: usize, op: Opcode, a: V, b: V, immediate: Option<u8>) -> bool {
        self.masks.locked = 0;
        if compares(op) {
            let (a, b) = if op == asm::IEQ && self.states[a as usize].register.is_none() { (b, a) } else { (a, b) };
            let (a, b) = (self.in_register(a), self.operand(b));
            // Before the operands' registers are free: what makes room may need one.
            let k = self.take_mask();
            self.finish_uses(i);
            self.asm.compare_lanes(op, k, a, b, immediate);
            self.give_mask(k, i as V);
            return true;
        }
        if op == asm::BLEND_WORDS {
            let (a, b) = (self.in_register(a), self.operand(b));
            self.finish_uses(i);
            let r = self.result(i);
            self.asm.masked(asm::BLEND_MASK, r, a, b, Lanes::Keep(ODD));
            return true;
        }
        let logic = match op {
            asm::AND => asm::MASK_AND,
            asm::OR => asm::MASK_OR,
            asm::XOR => asm::MASK_XOR,
            _ => return false,
        };
        let ones = |e: &Self, v: V| e.program.bits(v) == Some(u32::MAX);
        match (self.whole_mask(a), self.whole_mask(b)) {
            (Some(x), Some(y)) => self.mask_logic(i, logic, x, y),
            (Some(x), None) if op == asm::XOR && ones(self, b) => self.mask_logic(i, asm::MASK_NOT, x, x),
            (None, Some(y)) if op == asm::XOR && ones(self, a) => self.mask_logic(i, asm::MASK_NOT, y, y),
            (Some(k), None) if op == asm::AND => self.kept(i, k, b),
            (None, Some(k)) if op == asm::AND => self.kept(i, k, a),
            _ => return false,
        }
        true
    }

    fn mask_logic(&mut self, i: usize, op: Opcode, a: Mask, b: Mask) {
        self.finish_uses(i);
        let k = self.take_mask();
        self.asm.masks(op, k, a, b);
        self.give_mask(k, i as V);
    }

    /// The value where the mask is set, 0 elsewhere.
    fn kept(&mut self, i: usize, k: Mask, x: V) {
        let x = self.operand(x);
        self.finish_uses(i);
        let r = self.result(i);
        self.asm.masked(asm::MOVE, r, 0, x, Lanes::Zero(k));
    }
}
