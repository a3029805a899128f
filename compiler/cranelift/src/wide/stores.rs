//! Stores of a wide loop: elements of a buffer have 32 bits, 16 or 8, values of registers 32.

use super::asm::{self, Opcode, Operand};
use super::emit::Emitter;
use super::program::{Kind, Pack, Place, V};

impl Emitter<'_> {
    pub(super) fn store(&mut self, i: usize, place: Place, x: V) {
        self.before_store();
        let x = self.in_register(x);
        let to = Operand::Mem(self.mem(place));
        match place.kind {
            Kind::Word => self.asm.store(asm::STORE, to, x, None),
            Kind::Half => self.asm.store(asm::TO_HALF, to, x, Some(0)),
            Kind::Halves if self.long() => self.asm.store(asm::STORE_HALVES, to, x, None),
            Kind::Byte | Kind::SignedByte if self.long() => self.asm.store(asm::STORE_BYTES, to, x, None),
            Kind::Halves | Kind::Byte | Kind::SignedByte => {
                let t = self.take();
                self.asm.store(asm::UPPER, Operand::Reg(t), x, Some(1));
                self.asm.three_low(asm::PACK_UNSIGNED, t, x, t);
                if place.kind == Kind::Halves {
                    self.asm.store_low(asm::STORE, to, t);
                } else {
                    self.asm.three_low(asm::PACK_BYTES, t, t, t);
                    self.asm.store_low(asm::STORE_LOW, to, t);
                }
            }
        }
        self.finish_uses(i);
    }

    /// Stores bytes by an instruction that makes them of whole lanes (512-bit registers).
    pub(super) fn narrow(&mut self, i: usize, op: Opcode, place: Place, x: V) {
        self.before_store();
        let x = self.in_register(x);
        let to = Operand::Mem(self.mem(place));
        self.asm.store(op, to, x, None);
        self.finish_uses(i);
    }

    /// Packs the values of both groups into halves and stores them.
    pub(super) fn halves(&mut self, i: usize, place: Place, [a, b]: [V; 2]) {
        self.before_store();
        let (ra, rb) = (self.in_register(a), self.operand(b));
        self.finish_uses(i);
        let t = self.take();
        self.asm.three(asm::PACK_UNSIGNED, t, ra, rb, None);
        // The pieces of 64 bits lie crosswise.
        let order = self.asm.vector(&[0, 1, 4, 5, 2, 3, 6, 7]);
        let u = self.take();
        self.asm.two(asm::LOAD, u, Operand::Mem(order), None);
        self.asm.three(asm::PERMUTE, t, u, Operand::Reg(t), None);
        self.asm.store(asm::STORE, Operand::Mem(self.mem(place)), t, None);
    }

    /// Packs the values of both groups into bytes and stores them.
    pub(super) fn pack(&mut self, i: usize, stores: &[(Place, [V; 2], Pack)]) {
        self.before_store();
        let mut words = Vec::new();
        for &(_, [a, b], pack) in stores {
            let (ra, rb) = (self.in_register(a), self.operand(b));
            self.finish(i, [a, b].into_iter());
            let t = self.take();
            self.cost += 4;
            self.asm.three(asm::PACK_SIGNED, t, ra, rb, None);
            if pack == Pack::Last {
                self.cost += 4;
                let last = self.asm.constant(0x00FF_00FF);
                self.asm.three(asm::AND, t, t, Operand::Mem(last), None);
            }
            words.push(t);
            self.locked = words.iter().map(|w| 1 << w).sum();
        }
        let to = |e: &Self, k: usize| Operand::Mem(e.mem(stores[k].0));
        match words[..] {
            [t] => {
                let u = self.take();
                self.asm.store(asm::UPPER, Operand::Reg(u), t, Some(1));
                self.asm.three_low(asm::PACK_BYTES, t, t, u);
                self.asm.two_low(asm::SHUFFLE, t, t, 0xD8);
                self.asm.store_low(asm::STORE, to(self, 0), t);
            }
            [t, u] => {
                // In 32-bit pieces: the first groups of both, then the second ones, each half before the other.
                self.asm.three(asm::PACK_BYTES, t, t, Operand::Reg(u), None);
                let order = self.asm.vector(&[0, 4, 1, 5, 2, 6, 3, 7]);
                self.asm.two(asm::LOAD, u, Operand::Mem(order), None);
                self.asm.three(asm::PERMUTE, t, u, Operand::Reg(t), None);
                self.asm.store_low(asm::STORE, to(self, 0), t);
                self.asm.store(asm::UPPER, to(self, 1), t, Some(1));
            }
            _ => panic!("compiler bug: {} stores of bytes at once", words.len()),
        }
    }
}
