//! Loads, stores, atomic operations and copies beside the thread.

use super::{Lower, Mods};
use crate::exec::num::*;
use crate::exec::program::*;
use crate::ptx::{Error, Instruction, Operand, Space, Ty};

fn space(mods: &mut Mods) -> Space {
    match mods.choose(&["global", "shared", "shared::cta", "local", "param", "param::entry", "param::func", "const"]) {
        Some("global") => Space::Global,
        Some("shared" | "shared::cta") => Space::Shared,
        Some("local") => Space::Local,
        Some("param" | "param::entry" | "param::func") => Space::Param,
        Some("const") => Space::Const,
        _ => Space::Generic,
    }
}

impl Lower<'_> {
    pub(super) fn memory(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        match op {
            "ld" | "ldu" | "st" => {
                let strong = mods.strong();
                mods.hints();
                let read_only = mods.take("nc");
                let space = space(&mut mods);
                let n = match mods.choose(&["v2", "v4", "v8"]) {
                    Some("v2") => 2,
                    Some("v4") => 4,
                    Some(_) => 8,
                    None => 1,
                };
                let types = mods.types();
                let (&[ty], true, true) = (&types[..], mods.done(), ins.args.len() >= 2) else { return Ok(false) };
                if n * ty.bytes() > 32 || ty.bits() > 64 {
                    return self.fail(format!("{n} elements of {} bits at a time", ty.bits()));
                }
                let (value, at) = if op == "st" { (&ins.args[1], &ins.args[0]) } else { (&ins.args[0], &ins.args[1]) };
                let at = self.address(at, space)?;
                let parts = match value {
                    Operand::Vector(parts) if parts.len() == n => &parts[..],
                    Operand::Vector(_) => return self.fail("the number of parts is not that of the type"),
                    one if n == 1 => std::slice::from_ref(one),
                    _ => return self.fail("parts in braces expected"),
                };
                let mut rows = Vec::new();
                let mut extend = 0;
                for part in parts {
                    if op == "st" {
                        rows.push(self.source(part, ty, true)?);
                    } else {
                        rows.push(self.target(part, ty, true)?);
                        if let Operand::Reg(r) = part {
                            extend = if ty.signed() { self.registers[*r as usize].bits() as u8 } else { 0 };
                        }
                    }
                }
                let touch = match op {
                    _ if strong => Touch::Strong,
                    "st" => Touch::Write,
                    _ if read_only => Touch::ReadOnly,
                    _ => Touch::Read,
                };
                let access = Box::new(Access { space: at.space, bytes: ty.bytes() as u8, extend, offset: at.offset, touch, rows });
                if op == "st" && matches!(at.space, Space::Param | Space::Const) {
                    return self.fail("nothing can be stored there");
                }
                let new = self.push(if op == "st" { Op::Store(access) } else { Op::Load(access) });
                new.a = at.base;
                Ok(true)
            }
            "atom" | "red" => self.atomic(op == "atom", mods, ins),
            "cp" if mods.take("async") => self.copy(mods, ins),
            _ => Ok(false),
        }
    }

    fn atomic(&mut self, returns: bool, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        mods.hints();
        let space = space(&mut mods);
        let name = mods.choose(&["add", "exch", "cas", "min", "max", "and", "or", "xor", "inc", "dec"]);
        let types = mods.types();
        let (&[ty], true, Some(name)) = (&types[..], mods.done(), name) else { return Ok(false) };
        let Some(apply) = application(name, ty) else { return Ok(false) };
        let operands = if name == "cas" { 2 } else { 1 };
        let first = usize::from(returns);
        if ins.args.len() != first + 1 + operands {
            return self.fail(format!("`{}` has {} operands", ins.op, first + 1 + operands));
        }
        let at = self.address(&ins.args[first], space)?;
        let b = self.source(&ins.args[first + 1], ty, false)?;
        let c = if operands == 2 { self.source(&ins.args[first + 2], ty, false)? } else { !0 };
        let d = if returns { self.target(&ins.args[0], ty, false)? } else { NONE };
        if !matches!(at.space, Space::Global | Space::Shared | Space::Generic) {
            return self.fail("an atomic operation is on global or shared memory");
        }
        let atomic = Atomic { space: at.space, bytes: ty.bytes() as u8, offset: at.offset, apply, returns };
        let new = self.push(Op::Atomic(Box::new(atomic)));
        (new.d, new.a, new.b, new.c) = (d, at.base, b, c);
        Ok(true)
    }

    fn copy(&mut self, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        if mods.take("commit_group") && mods.done() {
            self.push(Op::Commit);
            return Ok(true);
        }
        if mods.take("wait_all") && mods.done() {
            self.push(Op::WaitGroup(None));
            return Ok(true);
        }
        if mods.take("wait_group") && mods.done() {
            let [Operand::Int(n)] = &ins.args[..] else { return self.fail("`cp.async.wait_group` has a number") };
            self.push(Op::WaitGroup(Some(*n as u32)));
            return Ok(true);
        }
        let bypass = mods.take("cg");
        mods.hints();
        let shared = mods.take("shared") || mods.take("shared::cta");
        if !shared || !mods.take("global") || !mods.done() || ins.args.len() < 3 {
            return Ok(false);
        }
        let Operand::Int(bytes) = ins.args[2] else { return self.fail("the size of a copy is a number") };
        if !matches!((bypass, bytes), (_, 16) | (false, 4 | 8)) {
            return self.fail(format!("copies of {bytes} bytes"));
        }
        let to = self.address(&ins.args[0], Space::Shared)?;
        let from = self.address(&ins.args[1], Space::Global)?;
        let (mut size, mut ignore) = (NONE, NONE);
        if let Some(last) = ins.args.get(3) {
            match last {
                Operand::Reg(r) if self.registers[*r as usize] == Ty::Pred => ignore = *r as i32,
                other => size = self.source(other, Ty::U32, false)?,
            }
        }
        let copy = CopyAsync { to: to.offset, from: from.offset, bytes: bytes as u8, size, ignore };
        let new = self.push(Op::CopyAsync(Box::new(copy)));
        (new.a, new.b) = (to.base, from.base);
        Ok(true)
    }
}

/// What becomes of the old value.
fn application(name: &str, ty: Ty) -> Option<fn(u64, u64, u64) -> u64> {
    Some(match (name, ty) {
        ("add", Ty::U32 | Ty::S32) => |old, b, _| (old as u32).wrapping_add(b as u32).into(),
        ("add", Ty::U64 | Ty::S64) => |old, b, _| old.wrapping_add(b),
        ("add", Ty::F32) => |old, b, _| fr(f(old) + f(b)),
        ("add", Ty::F64) => |old, b, _| dr(d(old) + d(b)),
        ("add", Ty::F16) => |old, b, _| hr(add_odd(h(old).into(), h(b).into())),
        ("add", Ty::BF16) => |old, y, _| br(add_odd(b(old).into(), b(y).into())),
        ("add", Ty::F16x2) => {
            |old, b, _| hr(add_odd(h(old >> 16).into(), h(b >> 16).into())) << 16 | hr(add_odd(h(old).into(), h(b).into()))
        }
        ("add", Ty::BF16x2) => {
            |old, y, _| br(add_odd(b(old >> 16).into(), b(y >> 16).into())) << 16 | br(add_odd(b(old).into(), b(y).into()))
        }
        ("exch", Ty::B32 | Ty::B64) => |_, b, _| b,
        ("cas", Ty::B16 | Ty::B32 | Ty::B64) => |old, b, c| if old == b { c } else { old },
        ("and", Ty::B32 | Ty::B64) => |old, b, _| old & b,
        ("or", Ty::B32 | Ty::B64) => |old, b, _| old | b,
        ("xor", Ty::B32 | Ty::B64) => |old, b, _| old ^ b,
        ("inc", Ty::U32) => |old, b, _| if old as u32 >= b as u32 { 0 } else { old + 1 },
        ("dec", Ty::U32) => |old, b, _| if old as u32 == 0 || old as u32 > b as u32 { b & 0xFFFF_FFFF } else { old - 1 },
        ("min", Ty::U32 | Ty::U64) => |old, b, _| old.min(b),
        ("max", Ty::U32 | Ty::U64) => |old, b, _| old.max(b),
        ("min", Ty::S32) => |old, b, _| (old as i32).min(b as i32) as u32 as u64,
        ("max", Ty::S32) => |old, b, _| (old as i32).max(b as i32) as u32 as u64,
        ("min", Ty::S64) => |old, b, _| (old as i64).min(b as i64) as u64,
        ("max", Ty::S64) => |old, b, _| (old as i64).max(b as i64) as u64,
        _ => return None,
    })
}
