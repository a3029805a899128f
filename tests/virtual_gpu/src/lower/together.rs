//! What threads do together: barriers, shuffles, votes, products of matrices.

use super::{Lower, Mods};
use crate::exec::program::*;
use crate::ptx::{Error, Instruction, Operand, Space, Ty};

impl Lower<'_> {
    pub(super) fn together(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        match op {
            "bar" | "barrier" if mods.take("warp") => {
                let (true, true, [mask]) = (mods.take("sync"), mods.done(), &ins.args[..]) else { return Ok(false) };
                let c = self.source(mask, Ty::B32, false)?;
                self.push(Op::Together(Box::new(Together::Sync))).c = c;
                Ok(true)
            }
            "bar" | "barrier" => self.barrier(op, mods, ins),
            "shfl" if mods.take("sync") => {
                let mode = match mods.choose(&["up", "down", "bfly", "idx"]) {
                    Some("up") => Shuffle::Up,
                    Some("down") => Shuffle::Down,
                    Some("bfly") => Shuffle::Bfly,
                    _ => Shuffle::Idx,
                };
                let types = mods.types();
                let (&[Ty::B32], true, [to, a, b, clamp, mask]) = (&types[..], mods.done(), &ins.args[..]) else { return Ok(false) };
                let (d, e) = match to {
                    Operand::Pair(d, p) => (self.target(d, Ty::B32, false)?, self.target(p, Ty::Pred, false)?),
                    d => (self.target(d, Ty::B32, false)?, NONE),
                };
                let a = self.source(a, Ty::B32, false)?;
                // Distance and clamp in one operand.
                let b = self.source(b, Ty::B32, false)?;
                let clamp = self.source(clamp, Ty::B32, false)?;
                let c = self.source(mask, Ty::B32, false)?;
                let both = self.new_register(Ty::B64);
                self.helper(crate::exec::alu::two(|b, clamp| clamp << 32 | b & 0xFFFF_FFFF), both, [b, clamp, !0]);
                let new = self.push(Op::Together(Box::new(Together::Shuffle(mode))));
                (new.d, new.e, new.a, new.b, new.c) = (d, e, a, both, c);
                Ok(true)
            }
            "vote" if mods.take("sync") => {
                let what = mods.choose(&["all", "any", "uni", "ballot"]);
                let types = mods.types();
                let (&[ty], true, [d, a, mask]) = (&types[..], mods.done(), &ins.args[..]) else { return Ok(false) };
                let (kind, wanted) = match what {
                    Some("all") => (Together::VoteAll, Ty::Pred),
                    Some("any") => (Together::VoteAny, Ty::Pred),
                    Some("uni") => (Together::VoteUniform, Ty::Pred),
                    Some("ballot") => (Together::Ballot, Ty::B32),
                    _ => return Ok(false),
                };
                if wanted != ty {
                    return Ok(false);
                }
                let a = self.source(a, Ty::Pred, false)?;
                let d = self.target(d, wanted, false)?;
                let c = self.source(mask, Ty::B32, false)?;
                let new = self.push(Op::Together(Box::new(kind)));
                (new.d, new.a, new.c) = (d, a, c);
                Ok(true)
            }
            "match" => {
                let what = mods.choose(&["any", "all"]);
                let sync = mods.take("sync");
                let types = mods.types();
                let (&[ty @ (Ty::B32 | Ty::B64)], true, true, [to, a, mask]) = (&types[..], sync, mods.done(), &ins.args[..]) else {
                    return Ok(false);
                };
                let (d, e) = match to {
                    Operand::Pair(d, p) if what == Some("all") => (self.target(d, Ty::B32, false)?, self.target(p, Ty::Pred, false)?),
                    d => (self.target(d, Ty::B32, false)?, NONE),
                };
                let mut a = self.source(a, ty, false)?;
                if ty == Ty::B32 {
                    let r = self.new_register(Ty::B64);
                    self.helper(crate::exec::alu::one(|a| a & 0xFFFF_FFFF), r, [a, !0, !0]);
                    a = r;
                }
                let c = self.source(mask, Ty::B32, false)?;
                let kind = if what == Some("all") { Together::MatchAll } else { Together::MatchAny };
                let new = self.push(Op::Together(Box::new(kind)));
                (new.d, new.e, new.a, new.c) = (d, e, a, c);
                Ok(true)
            }
            "redux" if mods.take("sync") => {
                let name = mods.choose(&["add", "min", "max", "and", "or", "xor"]);
                let types = mods.types();
                let (&[ty], true, [d, a, mask]) = (&types[..], mods.done(), &ins.args[..]) else { return Ok(false) };
                let f: fn(u32, u32) -> u32 = match (name, ty) {
                    (Some("add"), Ty::U32 | Ty::S32) => |a, b| a.wrapping_add(b),
                    (Some("min"), Ty::U32) => |a, b| a.min(b),
                    (Some("max"), Ty::U32) => |a, b| a.max(b),
                    (Some("min"), Ty::S32) => |a, b| (a as i32).min(b as i32) as u32,
                    (Some("max"), Ty::S32) => |a, b| (a as i32).max(b as i32) as u32,
                    (Some("and"), Ty::B32) => |a, b| a & b,
                    (Some("or"), Ty::B32) => |a, b| a | b,
                    (Some("xor"), Ty::B32) => |a, b| a ^ b,
                    _ => return Ok(false),
                };
                let a = self.source(a, ty, false)?;
                let d = self.target(d, ty, false)?;
                let c = self.source(mask, Ty::B32, false)?;
                let new = self.push(Op::Together(Box::new(Together::Reduce(f))));
                (new.d, new.a, new.c) = (d, a, c);
                Ok(true)
            }
            "elect" if mods.take("sync") && mods.done() => {
                let [Operand::Pair(d, p), mask] = &ins.args[..] else { return Ok(false) };
                let (d, e) = (self.target(d, Ty::B32, false)?, self.target(p, Ty::Pred, false)?);
                let c = self.source(mask, Ty::B32, false)?;
                let new = self.push(Op::Together(Box::new(Together::Elect)));
                (new.d, new.e, new.c) = (d, e, c);
                Ok(true)
            }
            "activemask" => {
                let (&[Ty::B32], [d]) = (&mods.types()[..], &ins.args[..]) else { return Ok(false) };
                let d = self.target(d, Ty::B32, false)?;
                self.push(Op::ActiveMask).d = d;
                Ok(true)
            }
            "ldmatrix" | "stmatrix" => self.matrix(op == "ldmatrix", mods, ins),
            "mma" => self.multiply(mods, ins),
            _ => Ok(false),
        }
    }

    /// `bar.sync`, `barrier.cta.red` and their kin: number in `a`, threads in `b` (0: all), predicate in `c`.
    fn barrier(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        mods.take("cta");
        let aligned = mods.take("aligned") || op == "bar";
        let kind = mods.choose(&["sync", "arrive", "red"]);
        let gather = match mods.choose(&["popc", "and", "or"]) {
            None => Gather::Nothing,
            Some("popc") => Gather::Popc,
            Some("and") => Gather::And,
            Some(_) => Gather::Or,
        };
        let types = mods.types();
        let mut args = &ins.args[..];
        let mut d = NONE;
        let mut predicate = !0;
        let mut negated = false;
        match (kind, gather, &types[..]) {
            (Some("sync" | "arrive"), Gather::Nothing, []) => {}
            (Some("red"), Gather::Popc, [Ty::U32]) | (Some("red"), Gather::And | Gather::Or, [Ty::Pred]) => {
                let ([to, middle @ ..], Some(last)) = (args, args.last()) else { return Ok(false) };
                d = self.target(to, types[0], false)?;
                let inner = match last {
                    Operand::Not(inner) => {
                        negated = true;
                        inner
                    }
                    other => other,
                };
                predicate = self.source(inner, Ty::Pred, false)?;
                args = &middle[..middle.len().saturating_sub(1)];
            }
            _ => return Ok(false),
        }
        if !mods.done() || args.is_empty() || args.len() > 2 {
            return Ok(false);
        }
        let number = self.source(&args[0], Ty::U32, false)?;
        let threads = match args.get(1) {
            Some(n) => self.source(n, Ty::U32, false)?,
            None => !0,
        };
        let waits = kind != Some("arrive");
        if !waits && args.len() < 2 {
            return self.fail("`bar.arrive` says how many threads there are");
        }
        let new = self.push(Op::Barrier(Box::new(Barrier { aligned, waits, gather, negated })));
        (new.d, new.a, new.b, new.c) = (d, number, threads, predicate);
        Ok(true)
    }

    fn matrix(&mut self, load: bool, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        let fixed = mods.take("sync") && mods.take("aligned") && mods.take("m8n8");
        let n = match mods.choose(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some("x4") => 4,
            _ => return Ok(false),
        };
        let transposed = mods.take("trans");
        let shared = mods.take("shared") || mods.take("shared::cta");
        let types = mods.types();
        let (&[Ty::B16], true, true, [first, second]) = (&types[..], fixed, mods.done(), &ins.args[..]) else { return Ok(false) };
        let (value, at) = if load { (first, second) } else { (second, first) };
        let parts = match value {
            Operand::Vector(parts) => &parts[..],
            one => std::slice::from_ref(one),
        };
        if parts.len() != n {
            return self.fail(format!("{n} registers expected"));
        }
        let mut rows = Vec::new();
        for part in parts {
            rows.push(if load { self.target(part, Ty::B32, false)? } else { self.source(part, Ty::B32, false)? });
        }
        let at = self.address(at, if shared { Space::Shared } else { Space::Generic })?;
        let (space, offset) = (at.space, at.offset);
        let kind = if load {
            Together::LoadMatrix { rows, transposed, offset, space }
        } else {
            Together::StoreMatrix { rows, transposed, offset, space }
        };
        let c = self.constant(ALL.into());
        let new = self.push(Op::Together(Box::new(kind)));
        (new.a, new.c) = (at.base, c);
        Ok(true)
    }

    fn multiply(&mut self, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        let fixed = mods.take("sync") && mods.take("aligned") && mods.take("row") && mods.take("col");
        let shape = mods.choose(&["m16n8k16", "m16n8k8", "m16n8k4", "m8n8k4"]);
        mods.choose(&["rn"]);
        let types = mods.types();
        let (&[td, ta, tb, tc], true, true, Some(shape), [d, a, b, c]) = (&types[..], fixed, mods.done(), shape, &ins.args[..]) else {
            return Ok(false);
        };
        let (kind, m, k) = match (shape, td, ta, tb, tc) {
            ("m16n8k16", Ty::F32, Ty::BF16, Ty::BF16, Ty::F32) => (MmaKind::Bf16, 16, 16),
            ("m16n8k8", Ty::F32, Ty::BF16, Ty::BF16, Ty::F32) => (MmaKind::Bf16, 16, 8),
            ("m16n8k16", Ty::F32, Ty::F16, Ty::F16, Ty::F32) => (MmaKind::F16, 16, 16),
            ("m16n8k8", Ty::F32, Ty::F16, Ty::F16, Ty::F32) => (MmaKind::F16, 16, 8),
            ("m16n8k16", Ty::F16, Ty::F16, Ty::F16, Ty::F16) => (MmaKind::F16Half, 16, 16),
            ("m16n8k8", Ty::F16, Ty::F16, Ty::F16, Ty::F16) => (MmaKind::F16Half, 16, 8),
            ("m16n8k8", Ty::F32, Ty::TF32, Ty::TF32, Ty::F32) => (MmaKind::Tf32, 16, 8),
            ("m16n8k4", Ty::F32, Ty::TF32, Ty::TF32, Ty::F32) => (MmaKind::Tf32, 16, 4),
            ("m8n8k4", Ty::F64, Ty::F64, Ty::F64, Ty::F64) => (MmaKind::F64, 8, 4),
            ("m16n8k4", Ty::F64, Ty::F64, Ty::F64, Ty::F64) => (MmaKind::F64, 16, 4),
            ("m16n8k8", Ty::F64, Ty::F64, Ty::F64, Ty::F64) => (MmaKind::F64, 16, 8),
            ("m16n8k16", Ty::F64, Ty::F64, Ty::F64, Ty::F64) => (MmaKind::F64, 16, 16),
            _ => return Ok(false),
        };
        let n = 8;
        // Elements of a register.
        let (packed, sums, register, sum) = match kind {
            MmaKind::Bf16 | MmaKind::F16 => (2, 1, Ty::B32, Ty::F32),
            MmaKind::F16Half => (2, 2, Ty::B32, Ty::B32),
            MmaKind::Tf32 => (1, 1, Ty::B32, Ty::F32),
            MmaKind::F64 => (1, 1, Ty::F64, Ty::F64),
        };
        let list = |l: &mut Self, operand: &Operand, wanted: usize, ty: Ty, target: bool| {
            let parts = match operand {
                Operand::Vector(parts) => &parts[..],
                one => std::slice::from_ref(one),
            };
            if parts.len() != wanted {
                return l.fail(format!("{wanted} registers expected, {} found", parts.len()));
            }
            parts.iter().map(|p| if target { l.target(p, ty, false) } else { l.source(p, ty, false) }).collect::<Result<Vec<i32>, Error>>()
        };
        let d = list(self, d, m * n / 32 / sums, sum, true)?;
        let a = list(self, a, m * k / 32 / packed, register, false)?;
        let b = list(self, b, k * n / 32 / packed, register, false)?;
        let c = list(self, c, m * n / 32 / sums, sum, false)?;
        let mask = self.constant(ALL.into());
        let new = self.push(Op::Together(Box::new(Together::Multiply(Box::new(Multiply { kind, m, n, k, d, a, b, c })))));
        new.c = mask;
        Ok(true)
    }
}
