//! Operands, and the moves that have them in every form.

use super::{Lower, Mods};
use crate::exec::alu::{one, three, two};
use crate::exec::program::*;
use crate::ptx::{Error, Instruction, Operand, Space, Ty};

/// What an address in brackets is.
pub(super) struct Address {
    pub(super) space: Space,
    pub(super) base: i32,
    pub(super) offset: i64,
}

/// A mask of the low bits.
fn low(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

impl Lower<'_> {
    /// The operand of a constant.
    pub(super) fn constant(&mut self, value: u64) -> i32 {
        let consts = &mut self.consts;
        *self.numbered.entry(value).or_insert_with(|| {
            consts.push(Row([value; WARP]));
            !(consts.len() as i32 - 1)
        })
    }

    pub(super) fn new_register(&mut self, ty: Ty) -> i32 {
        self.registers.push(ty);
        self.registers.len() as i32 - 1
    }

    /// A register whose value nobody wants.
    pub(super) fn scratch_register(&mut self) -> i32 {
        match self.scratch {
            Some(r) => r,
            None => {
                let r = self.new_register(Ty::B64);
                self.scratch = Some(r);
                r
            }
        }
    }

    pub(super) fn carry_register(&mut self) -> i32 {
        match self.carry {
            Some(r) => r,
            None => {
                let r = self.new_register(Ty::Pred);
                self.carry = Some(r);
                r
            }
        }
    }

    fn checked(&self, register: u32, ty: Ty, loose: bool) -> Result<i32, Error> {
        let has = self.registers[register as usize];
        let right = if ty == Ty::Pred || has == Ty::Pred {
            ty == has
        } else {
            has.bits() == ty.bits() || (has.bits() > ty.bits() && (loose || ty.bits() == 8))
        };
        if right {
            return Ok(register as i32);
        }
        self.fail(format!("a register of {} bits stands where {} bits are wanted", has.bits(), ty.bits()))
    }

    /// An operand that is read; `loose`: the register may be wider than the type.
    pub(super) fn source(&mut self, operand: &Operand, ty: Ty, loose: bool) -> Result<i32, Error> {
        match operand {
            Operand::Reg(r) => self.checked(*r, ty, loose),
            Operand::Int(n) if ty == Ty::Pred => Ok(self.constant(u64::from(*n != 0))),
            Operand::Int(n) if !ty.float() => Ok(self.constant(n & low(ty.bits()))),
            Operand::Int(n) if matches!(ty, Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2) => Ok(self.constant(n & low(ty.bits()))),
            Operand::Single(bits) if ty.bits() == 32 => Ok(self.constant((*bits).into())),
            Operand::Double(x) if ty == Ty::F32 => Ok(self.constant((*x as f32).to_bits().into())),
            Operand::Double(x) if ty.bits() == 64 => Ok(self.constant(x.to_bits())),
            Operand::Single(bits) if ty == Ty::F64 => Ok(self.constant(f64::from(f32::from_bits(*bits)).to_bits())),
            Operand::Name(name, offset) if ty.bits() >= 32 => self.address_of(name, *offset),
            Operand::Special(name) => {
                let special = self.special(name)?;
                let (wanted, r) = (special.1, self.new_register(special.1));
                if wanted.bits() != ty.bits() {
                    return self.fail(format!("`{name}` has {} bits, not {}", wanted.bits(), ty.bits()));
                }
                let guard = self.guard.take();
                self.push(Op::Special(special.0)).d = r;
                self.guard = guard;
                Ok(r)
            }
            Operand::Not(inner) if ty == Ty::Pred => {
                let a = self.source(inner, ty, loose)?;
                let r = self.new_register(Ty::Pred);
                self.helper(one(|a| !a & 1), r, [a, !0, !0]);
                Ok(r)
            }
            other => self.fail(format!("{other:?} cannot stand here")),
        }
    }

    /// A register that is written.
    pub(super) fn target(&mut self, operand: &Operand, ty: Ty, loose: bool) -> Result<i32, Error> {
        match operand {
            Operand::Reg(r) => self.checked(*r, ty, loose),
            Operand::Sink => Ok(self.scratch_register()),
            other => self.fail(format!("{other:?} cannot take a result")),
        }
    }

    fn special(&self, name: &str) -> Result<(Special, Ty), Error> {
        let (stem, axis) = name.split_once('.').unwrap_or((name, ""));
        let axis = match axis {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        Ok(match (stem, axis) {
            ("%tid", Some(n)) => (Special::Tid(n), Ty::U32),
            ("%ntid", Some(n)) => (Special::Ntid(n), Ty::U32),
            ("%ctaid", Some(n)) => (Special::Ctaid(n), Ty::U32),
            ("%nctaid", Some(n)) => (Special::Nctaid(n), Ty::U32),
            ("%laneid", None) => (Special::Lane, Ty::U32),
            ("%warpid", None) => (Special::Warp, Ty::U32),
            ("%nwarpid", None) => (Special::Warps, Ty::U32),
            ("%smid", None) => (Special::Multiprocessor, Ty::U32),
            ("%nsmid", None) => (Special::Multiprocessors, Ty::U32),
            ("%lanemask_eq", None) => (Special::MaskEq, Ty::U32),
            ("%lanemask_lt", None) => (Special::MaskLt, Ty::U32),
            ("%lanemask_le", None) => (Special::MaskLe, Ty::U32),
            ("%lanemask_gt", None) => (Special::MaskGt, Ty::U32),
            ("%lanemask_ge", None) => (Special::MaskGe, Ty::U32),
            ("%clock", None) => (Special::Clock, Ty::U32),
            ("%clock64", None) => (Special::Clock, Ty::U64),
            ("%globaltimer", None) => (Special::Nanoseconds, Ty::U64),
            ("%dynamic_smem_size", None) => (Special::DynamicShared, Ty::U32),
            ("%total_smem_size", None) => (Special::TotalShared, Ty::U32),
            _ => return self.fail(format!("the special register `{name}` is not known")),
        })
    }

    /// The address of a variable or function, as `mov` gives it.
    fn address_of(&mut self, name: &str, offset: i64) -> Result<i32, Error> {
        if let Some(at) = self.frame.get(name).copied() {
            let r = self.new_register(Ty::B64);
            let guard = self.guard.take();
            self.push(Op::FrameAddress((at as i64 + offset) as usize)).d = r;
            self.guard = guard;
            return Ok(r);
        }
        if self.function.entry
            && let Some(param) = self.entry_params.get(name)
        {
            let at = param.offset as i64 + offset;
            return Ok(self.constant(at as u64));
        }
        if let Some(at) = self.shared.get(name).copied() {
            return Ok(self.constant(at.wrapping_add_signed(offset)));
        }
        if let Some(at) = self.symbols.get(name).copied() {
            return Ok(self.constant(at.wrapping_add_signed(offset)));
        }
        if let Some(n) = self.routine_of.get(name).copied() {
            return Ok(self.constant(FUNCTION_WINDOW + n as u64));
        }
        self.fail(format!("the name `{name}` is not known"))
    }

    /// An address in brackets.
    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> Result<Address, Error> {
        let Operand::Memory(base, offset) = operand else {
            return self.fail(format!("an address in brackets expected, {operand:?} found"));
        };
        let is_param = |l: &Self, name: &str| l.function.entry && l.entry_params.contains_key(name);
        let space = match (&**base, space) {
            // Parameters of device functions and of calls lie in the frame.
            (Operand::Name(name, _), Space::Param) if !is_param(self, name) => Space::Local,
            (_, space) => space,
        };
        match &**base {
            Operand::Reg(r) => {
                let ty = self.registers[*r as usize];
                let base = match ty.bits() {
                    64 => *r as i32,
                    32 => {
                        let wide = self.new_register(Ty::B64);
                        self.helper(one(|a| a & 0xFFFF_FFFF), wide, [*r as i32, !0, !0]);
                        wide
                    }
                    _ => return self.fail("an address has 32 or 64 bits"),
                };
                Ok(Address { space, base, offset: *offset })
            }
            Operand::Name(name, _) => {
                let known = match space {
                    Space::Param => is_param(self, name),
                    Space::Shared => self.shared.contains_key(name),
                    Space::Global | Space::Const | Space::Generic => self.symbols.contains_key(name),
                    Space::Local => self.frame.contains_key(name),
                };
                if !known {
                    return self.fail(format!("`{name}` is no variable of the space that the instruction names"));
                }
                let base = self.address_of(name, 0)?;
                Ok(Address { space, base, offset: *offset })
            }
            Operand::Int(at) => {
                let base = self.constant(*at);
                Ok(Address { space, base, offset: *offset })
            }
            other => self.fail(format!("{other:?} is no address")),
        }
    }

    /// `mov`, `cvta`, `isspacep` and others that only hand values on.
    pub(super) fn moves(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        match op {
            "mov" => {
                let types = mods.types();
                let (&[ty], true, [to, from]) = (&types[..], mods.done(), &ins.args[..]) else { return Ok(false) };
                self.mov(ty, to, from)?;
                Ok(true)
            }
            "cvta" => {
                let to = mods.take("to");
                let space = mods.choose(&["global", "const", "shared", "local", "param"]);
                mods.take("::cta");
                let types = mods.types();
                let (&[ty @ (Ty::U64 | Ty::U32)], true, [d, a], Some(space)) = (&types[..], mods.done(), &ins.args[..], space) else {
                    return Ok(false);
                };
                let a = self.source(a, ty, false)?;
                let d = self.target(d, ty, false)?;
                let alu = match (space, to) {
                    ("global" | "const", _) => one(|a| a),
                    ("shared", false) => one(|a| a + SHARED_WINDOW),
                    ("shared", true) => one(|a| a.wrapping_sub(SHARED_WINDOW)),
                    ("local", false) => one(|a| a + LOCAL_WINDOW),
                    ("local", true) => one(|a| a.wrapping_sub(LOCAL_WINDOW)),
                    _ => return Ok(false),
                };
                let new = self.push(Op::Alu(alu));
                (new.d, new.a) = (d, a);
                Ok(true)
            }
            "isspacep" => {
                let space = mods.choose(&["global", "shared", "local", "const", "shared::cta"]);
                let (Some(space), true, [p, a]) = (space, mods.done(), &ins.args[..]) else { return Ok(false) };
                let space = match space {
                    "global" => Space::Global,
                    "local" => Space::Local,
                    "const" => Space::Const,
                    _ => Space::Shared,
                };
                let a = self.source(a, Ty::U64, false)?;
                let d = self.target(p, Ty::Pred, false)?;
                let new = self.push(Op::IsSpace(space));
                (new.d, new.a) = (d, a);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn mov(&mut self, ty: Ty, to: &Operand, from: &Operand) -> Result<(), Error> {
        let bits = |n: usize| ty.bits() / n as u32;
        let part = |bits: u32| match bits {
            8 => Some(Ty::B8),
            16 => Some(Ty::B16),
            32 => Some(Ty::B32),
            _ => None,
        };
        match (to, from) {
            (Operand::Vector(_), Operand::Vector(_)) => self.fail("a move from parts to parts"),
            (Operand::Vector(parts), _) => {
                let width = bits(parts.len());
                let Some(part) = part(width) else { return self.fail(format!("parts of {width} bits")) };
                let a = self.source(from, ty, false)?;
                // The source may be overwritten by a part.
                let copy = self.new_register(Ty::B64);
                self.helper(one(|a| a), copy, [a, !0, !0]);
                for (n, to) in parts.iter().enumerate() {
                    let d = self.target(to, part, false)?;
                    let (shift, mask) = (self.constant((n as u32 * width).into()), self.constant(low(width)));
                    let new = self.push(Op::Alu(three(|a, b, c| a >> b & c)));
                    (new.d, new.a, new.b, new.c) = (d, copy, shift, mask);
                }
                Ok(())
            }
            (_, Operand::Vector(parts)) => {
                let width = bits(parts.len());
                let Some(part) = part(width) else { return self.fail(format!("parts of {width} bits")) };
                let mut whole = self.constant(0);
                for (n, from) in parts.iter().enumerate() {
                    let a = self.source(from, part, false)?;
                    let (shift, mask) = (self.constant((n as u32 * width).into()), self.constant(low(width)));
                    let (moved, joined) = (self.new_register(Ty::B64), self.new_register(Ty::B64));
                    self.helper(three(|a, b, c| (a & c) << b), moved, [a, shift, mask]);
                    self.helper(two(|a, b| a | b), joined, [whole, moved, !0]);
                    whole = joined;
                }
                let d = self.target(to, ty, false)?;
                let new = self.push(Op::Alu(one(|a| a)));
                (new.d, new.a) = (d, whole);
                Ok(())
            }
            _ => {
                let d = self.target(to, ty, false)?;
                if let Operand::Special(name) = from {
                    let (special, wanted) = self.special(name)?;
                    if wanted.bits() != ty.bits() {
                        return self.fail(format!("`{name}` has {} bits, not {}", wanted.bits(), ty.bits()));
                    }
                    self.push(Op::Special(special)).d = d;
                    return Ok(());
                }
                let a = self.source(from, ty, false)?;
                let new = self.push(Op::Alu(one(|a| a)));
                (new.d, new.a) = (d, a);
                Ok(())
            }
        }
    }
}
