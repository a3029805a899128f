//! Meetings of the lanes of a warp, and barriers of a block.

use super::memory::read;
use super::num::*;
use super::program::*;
use super::warp::{After, Fragment, Room, Wait, Warp, each, get, lanes_of, set};
use super::{Fault, FaultKind};

impl Room<'_> {
    /// Lanes come to an instruction that all members of a mask execute together; the last of them executes it.
    pub(super) fn meet(
        &mut self,
        warp: &mut Warp,
        lanes: &Lanes,
        ins: &Ins,
        together: &Together,
        f: &mut Fragment,
    ) -> Result<After, Fault> {
        let first = f.mask.trailing_zeros() as usize;
        let members = get(lanes, ins.c, first) as u32;
        let mut stay = 0;
        each(f.mask, |l| stay |= u32::from(get(lanes, ins.c, l) as u32 != members) << l);
        if stay != 0 {
            let other = Fragment { mask: stay, ..f.clone() };
            f.mask &= !stay;
            warp.fragments.push(other);
        }
        if f.mask & !members != 0 {
            let lane = (f.mask & !members).trailing_zeros() as usize;
            return Err(self.fault(
                warp,
                lane,
                ins.line,
                FaultKind::Failed,
                format!("lane {lane} is not in the mask {members:#010x} that it names"),
            ));
        }
        let sync = matches!(together, Together::Sync);
        let missing = members & !warp.alive;
        if missing != 0 && !sync {
            let words = format!("the mask {members:#010x} names lanes that have ended or never were ({missing:#010x})");
            return Err(self.fault(warp, first, ins.line, FaultKind::Failed, words));
        }
        let need = members & warp.alive;
        let wait = Wait::Warp { members, sync };
        let with = |other: &Fragment| other.wait == wait && (sync || other.meets(f));
        let here = warp.fragments.iter().filter(|o| with(o)).fold(f.mask, |all, o| all | o.mask);
        if here & need != need {
            f.wait = wait;
            warp.fragments.push(f.clone());
            return Ok(After::Gone);
        }
        let mut n = 0;
        while n < warp.fragments.len() {
            let other = &mut warp.fragments[n];
            if other.wait == wait {
                if other.meets(f) {
                    f.mask |= other.mask;
                    warp.fragments.swap_remove(n);
                    continue;
                }
                if sync {
                    other.wait = Wait::Nothing;
                    other.pc += 1;
                }
            }
            n += 1;
        }
        let lanes = lanes_of(warp, f, self.launch.program);
        self.execute(warp, &lanes, ins, together, f.mask)?;
        f.pc += 1;
        if self.launch.apart {
            each(f.mask & (f.mask - 1), |l| warp.fragments.push(Fragment { mask: 1 << l, ..f.clone() }));
            f.mask &= f.mask.wrapping_neg();
        }
        Ok(After::Next)
    }

    fn execute(&mut self, warp: &Warp, lanes: &Lanes, ins: &Ins, together: &Together, mask: u32) -> Result<(), Fault> {
        let predicate = |l: usize| get(lanes, ins.a, l) & 1 == 1;
        let holds = || {
            let mut all = 0;
            each(mask, |l| all |= u32::from(predicate(l)) << l);
            all
        };
        let give = |value: u64| each(mask, |l| set(lanes, ins.d, l, value));
        match together {
            Together::Sync => {}
            Together::Shuffle(mode) => return self.shuffle(warp, lanes, ins, *mode, mask),
            Together::VoteAll => give(u64::from(holds() == mask)),
            Together::VoteAny => give(u64::from(holds() != 0)),
            Together::VoteUniform => {
                let held = holds();
                give(u64::from(held == mask || held == 0));
            }
            Together::Ballot => give(holds().into()),
            Together::MatchAny => {
                let values: Vec<u64> = (0..WARP).map(|l| get(lanes, ins.a, l)).collect();
                each(mask, |l| {
                    let mut same = 0u64;
                    each(mask, |o| same |= u64::from(values[o] == values[l]) << o);
                    set(lanes, ins.d, l, same);
                });
            }
            Together::MatchAll => {
                let value = get(lanes, ins.a, mask.trailing_zeros() as usize);
                let mut all = true;
                each(mask, |l| all &= get(lanes, ins.a, l) == value);
                give(if all { mask.into() } else { 0 });
                if ins.e != NONE {
                    each(mask, |l| set(lanes, ins.e, l, all.into()));
                }
            }
            Together::Reduce(f) => {
                let mut total = None;
                each(mask, |l| {
                    let x = get(lanes, ins.a, l) as u32;
                    total = Some(total.map_or(x, |t| f(t, x)));
                });
                give(total.unwrap_or(0).into());
            }
            Together::Elect => {
                let leader = mask.trailing_zeros() as usize;
                give(leader as u64);
                each(mask, |l| set(lanes, ins.e, l, u64::from(l == leader)));
            }
            Together::LoadMatrix { rows, transposed, offset, space } => {
                for (n, row) in rows.iter().enumerate() {
                    let matrix = self.matrix(warp, lanes, ins, n, *offset, *space)?;
                    for l in 0..WARP {
                        let element = |i: usize| {
                            let (r, c) = (l / 4, 2 * (l % 4) + i);
                            // SAFETY: eight rows of sixteen bytes, checked.
                            unsafe { if *transposed { read(matrix[c].add(2 * r), 2) } else { read(matrix[r].add(2 * c), 2) } }
                        };
                        set(lanes, *row, l, element(1) << 16 | element(0));
                    }
                }
            }
            Together::StoreMatrix { rows, transposed, offset, space } => {
                for (n, row) in rows.iter().enumerate() {
                    let matrix = self.matrix(warp, lanes, ins, n, *offset, *space)?;
                    for l in 0..WARP {
                        for i in 0..2 {
                            let (r, c) = (l / 4, 2 * (l % 4) + i);
                            let to = if *transposed { matrix[c].wrapping_add(2 * r) } else { matrix[r].wrapping_add(2 * c) };
                            // SAFETY: as above.
                            unsafe { super::memory::write(to, 2, get(lanes, *row, l) >> (16 * i)) };
                        }
                    }
                }
            }
            Together::Multiply(multiply) => product(lanes, multiply),
        }
        Ok(())
    }

    /// Rows of a matrix of 8 by 8 elements of two bytes; their addresses are those of eight lanes.
    fn matrix(
        &mut self,
        warp: &Warp,
        lanes: &Lanes,
        ins: &Ins,
        n: usize,
        offset: i64,
        space: crate::ptx::Space,
    ) -> Result<[*mut u8; 8], Fault> {
        let mut found = [std::ptr::null_mut(); 8];
        let mut seen = warp.seen;
        for r in 0..8 {
            let lane = 8 * n + r;
            let address = get(lanes, ins.a, lane).wrapping_add_signed(offset);
            if address & 15 != 0 {
                let words = format!("row {r} of a matrix at {address:#x}, no multiple of 16");
                return Err(self.fault(warp, lane, ins.line, FaultKind::Misaligned, words));
            }
            let at = self.place(warp, lane, space, address, 16, &mut seen);
            found[r] = at.map_err(|words| self.fault(warp, lane, ins.line, FaultKind::IllegalAddress, words))?;
        }
        Ok(found)
    }

    fn shuffle(&mut self, warp: &Warp, lanes: &Lanes, ins: &Ins, mode: Shuffle, mask: u32) -> Result<(), Fault> {
        let values: [u64; WARP] = std::array::from_fn(|l| get(lanes, ins.a, l) & 0xFFFF_FFFF);
        let controls: [u64; WARP] = std::array::from_fn(|l| get(lanes, ins.b, l));
        for l in 0..WARP {
            if mask >> l & 1 == 0 {
                continue;
            }
            let (b, clamp) = (controls[l] as i32 & 0x1F, (controls[l] >> 32) as i32);
            let (segment, limit, lane) = (clamp >> 8 & 0x1F, clamp & 0x1F, l as i32);
            let most = lane & segment | limit & !segment;
            let least = lane & segment;
            let (source, inside) = match mode {
                Shuffle::Up => (lane - b, lane - b >= most),
                Shuffle::Down => (lane + b, lane + b <= most),
                Shuffle::Bfly => (lane ^ b, lane ^ b <= most),
                Shuffle::Idx => (least | b & !segment, (least | b & !segment) <= most),
            };
            let source = if inside { source } else { lane };
            if mask >> source & 1 == 0 {
                let words = format!("a shuffle takes the value of lane {source}, which is not in the mask {mask:#010x}");
                return Err(self.fault(warp, l, ins.line, FaultKind::Failed, words));
            }
            set(lanes, ins.d, l, values[source as usize]);
            if ins.e != NONE {
                set(lanes, ins.e, l, inside.into());
            }
        }
        Ok(())
    }

    /// Lanes come to a barrier of the block.
    pub(super) fn barrier(
        &mut self,
        warp: &mut Warp,
        lanes: &Lanes,
        ins: &Ins,
        barrier: &Barrier,
        f: &mut Fragment,
    ) -> Result<After, Fault> {
        let first = f.mask.trailing_zeros() as usize;
        let (number, threads) = (get(lanes, ins.a, first) as u32, get(lanes, ins.b, first) as u32);
        if number >= 16 || !threads.is_multiple_of(WARP as u32) {
            let words = format!("barrier {number} of {threads} threads: numbers go to 15, threads come in warps");
            return Err(self.fault(warp, first, ins.line, FaultKind::Failed, words));
        }
        if !barrier.waits {
            self.arrived[number as usize] += f.mask.count_ones();
            f.pc += 1;
            return Ok(After::Next);
        }
        f.wait = Wait::Block { number, threads };
        match warp.fragments.iter_mut().find(|o| o.wait == f.wait && o.meets(f)) {
            Some(other) => other.mask |= f.mask,
            None => warp.fragments.push(f.clone()),
        }
        Ok(After::Gone)
    }

    /// Lets the threads go that wait at barriers which are complete; whether there were any.
    pub(super) fn release(&mut self, warps: &mut [Warp]) -> Result<bool, Fault> {
        let code = &self.launch.program.code;
        let total: u32 = self.launch.block.iter().product();
        let mut released = false;
        for number in 0..16u32 {
            let mut waiting = self.arrived[number as usize];
            let mut expected = None;
            for warp in warps.iter() {
                for f in &warp.fragments {
                    let Wait::Block { number: n, threads } = f.wait else { continue };
                    if n != number {
                        continue;
                    }
                    // Where the number of threads is given, warps count as whole ones.
                    let last = (warp.index + 1) * WARP as u32 > total && f.mask.count_ones() == total % WARP as u32;
                    waiting += if threads != 0 && last { WARP as u32 } else { f.mask.count_ones() };
                    let threads = if threads == 0 { total } else { threads };
                    if *expected.get_or_insert(threads) != threads {
                        let lane = f.mask.trailing_zeros() as usize;
                        let words = format!("threads disagree how many of them barrier {number} takes");
                        return Err(self.fault(warp, lane, code[f.pc as usize].line, FaultKind::Failed, words));
                    }
                }
            }
            let Some(expected) = expected.filter(|e| waiting >= *e) else { continue };
            self.arrived[number as usize] = 0;
            let (mut held, mut all) = (0, 0);
            for warp in warps.iter_mut() {
                let n = warp.fragments.iter().position(|f| matches!(f.wait, Wait::Block { number: n, .. } if n == number));
                let Some(n) = n else { continue };
                let f = warp.fragments[n].clone();
                let ins = &code[f.pc as usize];
                let Op::Barrier(barrier) = &ins.op else { continue };
                let lane = f.mask.trailing_zeros() as usize;
                let whole = (0..WARP as u32).filter(|l| warp.index * WARP as u32 + l < total).fold(0, |m, l| m | 1 << l);
                if barrier.aligned && f.mask != whole {
                    let words = format!("threads of a warp come to barrier {number} apart (lanes {:#010x} of {whole:#010x})", f.mask);
                    return Err(self.fault(warp, lane, ins.line, FaultKind::Failed, words));
                }
                if waiting > expected {
                    let words = format!("{waiting} threads come to barrier {number} of {expected}");
                    return Err(self.fault(warp, lane, ins.line, FaultKind::Failed, words));
                }
                for f in warp.fragments.clone() {
                    if matches!(f.wait, Wait::Block { number: n, .. } if n == number) {
                        let ins = &code[f.pc as usize];
                        let negated = matches!(&ins.op, Op::Barrier(b) if b.negated);
                        let lanes = lanes_of(warp, &f, self.launch.program);
                        each(f.mask, |l| {
                            all += 1;
                            held += u32::from((get(&lanes, ins.c, l) & 1 == 1) != negated);
                        });
                    }
                }
            }
            for warp in warps.iter_mut() {
                let mut apart = Vec::new();
                for n in 0..warp.fragments.len() {
                    if !matches!(warp.fragments[n].wait, Wait::Block { number: m, .. } if m == number) {
                        continue;
                    }
                    let ins = &code[warp.fragments[n].pc as usize];
                    if let Op::Barrier(barrier) = &ins.op
                        && barrier.gather != Gather::Nothing
                    {
                        let value = match barrier.gather {
                            Gather::And => u64::from(held == all),
                            Gather::Or => u64::from(held > 0),
                            _ => held.into(),
                        };
                        let f = warp.fragments[n].clone();
                        let lanes = lanes_of(warp, &f, self.launch.program);
                        each(f.mask, |l| set(&lanes, ins.d, l, value));
                    }
                    let f = &mut warp.fragments[n];
                    f.wait = Wait::Nothing;
                    f.pc += 1;
                    if self.launch.apart {
                        each(f.mask & (f.mask - 1), |l| apart.push(Fragment { mask: 1 << l, ..f.clone() }));
                        f.mask &= f.mask.wrapping_neg();
                    }
                }
                warp.fragments.extend(apart);
            }
            released = true;
        }
        Ok(released)
    }
}

/// `d = a b + c` over the fragments of all lanes. Whole sums: the products, which are exact, are added up in f64 by rising `k`, then `c`, and rounded once; f64
/// goes through fused multiply-adds by rising `k`, beginning with `c`.
fn product(lanes: &Lanes, p: &Multiply) {
    let (mut a, mut b, mut c) = ([[0f64; 16]; 16], [[0f64; 8]; 16], [[0f64; 8]; 16]);
    let packed = !matches!(p.kind, MmaKind::Tf32 | MmaKind::F64);
    let value = |bits: u64| match p.kind {
        MmaKind::Bf16 => f64::from(super::num::b(bits & 0xFFFF)),
        MmaKind::F16 | MmaKind::F16Half => f64::from(h(bits)),
        // What lies beyond the bits of tf32 is not looked at.
        MmaKind::Tf32 => f64::from(f(bits & 0xFFFF_E000)),
        MmaKind::F64 => d(bits),
    };
    for l in 0..WARP {
        let (group, inside) = (l / 4, l % 4);
        for (i, register) in p.a.iter().enumerate() {
            let bits = get(lanes, *register, l);
            let row = group + 8 * (i % 2) * usize::from(p.m == 16);
            if packed {
                for half in 0..2 {
                    a[row][2 * inside + half + 8 * (i / 2)] = value(bits >> (16 * half));
                }
            } else {
                a[row][inside + 4 * (i / 2)] = value(bits);
            }
        }
        for (i, register) in p.b.iter().enumerate() {
            let bits = get(lanes, *register, l);
            if packed {
                for half in 0..2 {
                    b[2 * inside + half + 8 * i][group] = value(bits >> (16 * half));
                }
            } else {
                b[inside + 4 * i][group] = value(bits);
            }
        }
        for i in 0..p.m / 4 {
            let x = match p.kind {
                MmaKind::F64 => d(get(lanes, p.c[i], l)),
                MmaKind::F16Half => h(get(lanes, p.c[i / 2], l) >> (16 * (i % 2))).into(),
                _ => f(get(lanes, p.c[i], l)).into(),
            };
            c[group + 8 * (i / 2)][2 * inside + i % 2] = x;
        }
    }
    let mut sums = [[0f64; 8]; 16];
    for i in 0..p.m {
        for j in 0..8 {
            sums[i][j] = if p.kind == MmaKind::F64 {
                (0..p.k).fold(c[i][j], |sum, k| a[i][k].mul_add(b[k][j], sum))
            } else {
                (0..p.k).fold(0.0, |sum, k| sum + a[i][k] * b[k][j]) + c[i][j]
            };
        }
    }
    for l in 0..WARP {
        let (group, inside) = (l / 4, l % 4);
        for i in 0..p.m / 4 {
            let x = sums[group + 8 * (i / 2)][2 * inside + i % 2];
            match p.kind {
                MmaKind::F64 => set(lanes, p.d[i], l, dr(x)),
                MmaKind::F16Half if i % 2 == 1 => {
                    let low = sums[group + 8 * (i / 2)][2 * inside];
                    set(lanes, p.d[i / 2], l, hr(x) << 16 | hr(low));
                }
                MmaKind::F16Half => {}
                _ => set(lanes, p.d[i], l, fr(x as f32)),
            }
        }
    }
}
