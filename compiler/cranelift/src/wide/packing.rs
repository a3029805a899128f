//! Stores of bytes and halves: which values may be packed, and how.

use super::asm::{self, Opcode};
use super::program::{Inst, Kind, Pack, Place, V};
use super::select::Selector;
use optc_ir::lanes::Lanes;

impl Selector<'_> {
    /// Stores what waits for the groups of a pass to be packed together, bytes of two buffers at once.
    pub(super) fn store_bytes(&mut self) {
        let mut waiting: Vec<(Place, [V; 2], Pack)> = Vec::new();
        for (place, values) in std::mem::take(&mut self.bytes) {
            if let [x] = values[..] {
                self.store_whole(place, x);
                continue;
            }
            if let ([a, b], Kind::Halves) = (&values[..], place.kind) {
                self.program.push(Inst::Halves(place, [*a, *b]));
                continue;
            }
            let forms: Vec<Option<(V, Pack)>> = values.iter().map(|&x| self.packable(x)).collect();
            match forms[..] {
                [Some((a, pack)), Some((b, other))] if pack == other => waiting.push((place, [a, b], pack)),
                _ => {
                    for (group, &x) in values.iter().enumerate() {
                        let place = Place { offset: place.offset + (self.program.width * group) as i32, ..place };
                        self.program.push(Inst::Store(place, x));
                    }
                }
            }
        }
        for pair in waiting.chunks(2) {
            self.program.push(match *pair {
                [(p, a, how), (q, b, other)] => Inst::TwoBytes([p, q], [a, b], [how, other]),
                [(p, a, how), ..] => Inst::Bytes(p, a, how),
                [] => return,
            });
        }
    }

    /// Stores the bytes or halves of a pass that is one register: the last bits of each lane.
    fn store_whole(&mut self, place: Place, x: V) {
        let inst = match self.packable(x).filter(|_| place.kind == Kind::Byte) {
            Some((y, Pack::Last)) => Inst::Store(place, y),
            Some((y, Pack::Saturated)) if self.program.range(y).is_some_and(|r| r.0 >= 0 && r.1 <= 255) => Inst::Store(place, y),
            Some((y, Pack::Saturated)) => {
                let zero = self.i(0);
                Inst::Saturated(place, self.binary(asm::SMAX, y, zero))
            }
            None => match self.program.insts[x as usize] {
                Inst::Binary(asm::AND, y, bits, _) if place.kind == Kind::Byte && self.program.bits(bits) == Some(0xFF) => {
                    Inst::Store(place, y)
                }
                _ => Inst::Store(place, x),
            },
        };
        self.program.push(inst);
    }

    /// The value whose packing into a byte gives the byte to be stored, if it has 16 bits.
    fn packable(&self, x: V) -> Option<(V, Pack)> {
        let p = &self.program;
        let word = |v: V| p.range(v).filter(|r| r.0 >= i64::from(i16::MIN) && r.1 <= i64::from(i16::MAX));
        let plain = |v: V| if p.range(v).is_some_and(|r| r.0 >= 0 && r.1 <= 255) { Pack::Saturated } else { Pack::Last };
        let operand = |v: V, op: Opcode, bits: u32| match p.insts[v as usize] {
            Inst::Binary(found, a, b, _) if found == op && p.bits(b) == Some(bits) => Some(a),
            Inst::Binary(found, a, b, _) if found == op && p.bits(a) == Some(bits) => Some(b),
            _ => None,
        };
        if let Some(y) = operand(x, asm::AND, 0xFF)
            && word(y).is_some()
        {
            let clamped = |y: V, first: (Opcode, u32), second: (Opcode, u32)| {
                operand(operand(y, first.0, first.1)?, second.0, second.1).filter(|&z| word(z).is_some())
            };
            let (low, high) = ((asm::SMAX, 0), (asm::SMIN, 255));
            let inner = clamped(y, high, low).or_else(|| clamped(y, low, high));
            return Some(inner.map_or((y, plain(y)), |z| (z, Pack::Saturated)));
        }
        word(x).map(|_| (x, plain(x)))
    }
}
