//! Warps: lanes that run the same instructions for as long as they agree where to go.
//!
//! Lanes of a warp are split into fragments; those of a fragment stand at the same instruction of the same calls. A branch on which they disagree splits one, and
//! fragments that meet at a label become one again. The one that is furthest behind runs first, so they usually meet. Nothing that a kernel can rely on depends on it: with
//! [`Launch::apart`] every lane is a fragment of its own from one meeting of the warp to the next.

use super::block::Launch;
use super::memory::Pending;
use super::program::*;
use super::{Fault, FaultKind, Seen};
use crate::ptx::Space;

/// Instructions that a warp may run before others get their turn.
const SLICE: u64 = 1 << 16;

/// Where a function's registers and local bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) routine: u32,
    pub(super) base: usize,
    pub(super) local: usize,
}

/// What lanes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// The other lanes of a mask.
    Warp {
        members: u32,
        sync: bool,
    },
    /// A barrier: its number, how many threads it takes (0: all).
    Block {
        number: u32,
        threads: u32,
    },
}

/// Lanes at one place.
#[derive(Clone, Debug)]
pub(super) struct Fragment {
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) frame: Frame,
    pub(super) stack: Vec<(Frame, u32)>,
    pub(super) wait: Wait,
    /// When it last stopped running because its time was up.
    pub(super) stamp: u64,
}

impl Fragment {
    pub(super) fn meets(&self, other: &Fragment) -> bool {
        self.pc == other.pc && self.frame == other.frame && self.stack == other.stack
    }
}

/// 32 lanes.
pub(super) struct Warp {
    pub(super) index: u32,
    /// Lanes that have not ended.
    pub(super) alive: u32,
    pub(super) fragments: Vec<Fragment>,
    pub(super) regs: Vec<Row>,
    pub(super) local: *mut u8,
    pub(super) copies: Vec<Pending>,
    /// Groups of copies that each lane has closed.
    pub(super) group: [u32; WARP],
    pub(super) seen: Seen,
}

/// What a block's warps share while they run.
pub(super) struct Room<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) block: [u32; 3],
    pub(super) shared: *mut u8,
    pub(super) shared_bytes: usize,
    pub(super) seen: Seen,
    /// Instructions that warps have run.
    pub(super) steps: u64,
    /// Whether the block has done something atomic, by which blocks can order what they do.
    pub(super) met: bool,
    /// Threads that have arrived at barriers without waiting, by number.
    pub(super) arrived: [u32; 16],
}

/// Whether lanes go on after an instruction.
pub(super) enum After {
    Next,
    /// They wait or have ended; the fragment has been put away.
    Gone,
}

impl Room<'_> {
    /// Where a thread is in its block.
    fn thread(&self, warp: &Warp, lane: usize) -> [u32; 3] {
        let n = warp.index * WARP as u32 + lane as u32;
        let [x, y, _] = self.launch.block;
        [n % x, n / x % y, n / (x * y)]
    }

    #[cold]
    pub(super) fn fault(&self, warp: &Warp, lane: usize, line: u32, kind: FaultKind, words: String) -> Fault {
        Fault { kind, words, block: self.block, thread: self.thread(warp, lane), line }
    }

    /// Runs a warp until all its lanes wait or have ended, or its time is up.
    pub(super) fn run_warp(&mut self, warp: &mut Warp) -> Result<(), Fault> {
        let end = self.steps + SLICE;
        let mut late = false;
        while let Some(n) = self.pick(warp, late) {
            let fragment = warp.fragments.swap_remove(n);
            late = self.run_fragment(warp, fragment, end.min(self.steps + SLICE / 4), late)?;
            if self.steps >= end {
                break;
            }
        }
        Ok(())
    }

    /// The fragment to run next: the one furthest behind, or the one that has waited longest if one has used up its time.
    fn pick(&self, warp: &Warp, late: bool) -> Option<usize> {
        let ready = warp.fragments.iter().enumerate().filter(|(_, f)| f.wait == Wait::Nothing);
        if late {
            return ready.min_by_key(|(_, f)| f.stamp).map(|(n, _)| n);
        }
        ready.min_by_key(|(_, f)| (usize::MAX - f.stack.len(), f.pc)).map(|(n, _)| n)
    }

    /// Runs a fragment until it waits, ends or, unless it is `late`, gives way to another; whether its time was up.
    fn run_fragment(&mut self, warp: &mut Warp, mut f: Fragment, end: u64, late: bool) -> Result<bool, Fault> {
        let launch = self.launch;
        let program = launch.program;
        let code = program.code.as_ptr();
        let mut lanes = lanes_of(warp, &f, program);
        loop {
            // SAFETY: every function ends with `ret`, and jumps go to labels.
            let ins = unsafe { &*code.add(f.pc as usize) };
            self.steps += 1;
            let mut m = f.mask;
            if ins.guard != NONE {
                m &= guard(&lanes, ins);
                if let Op::Bra(target) = &ins.op {
                    let rest = f.mask & !m;
                    if m == 0 {
                        f.pc += 1;
                    } else if rest == 0 {
                        f.pc = *target;
                    } else {
                        // They part: those that are behind go on.
                        let mut other = f.clone();
                        (f.mask, other.mask) = if *target < f.pc { (m, rest) } else { (rest, m) };
                        (f.pc, other.pc) = if *target < f.pc { (*target, f.pc + 1) } else { (f.pc + 1, *target) };
                        warp.fragments.push(other);
                    }
                    continue;
                }
                if m == 0 {
                    f.pc += 1;
                    continue;
                }
            }
            match &ins.op {
                Op::Alu(alu) => {
                    // SAFETY: operands were checked when the program was made.
                    unsafe { alu(&lanes, ins, m) };
                    f.pc += 1;
                }
                Op::Label => {
                    if self.steps >= end {
                        f.stamp = self.steps;
                        warp.fragments.push(f);
                        return Ok(true);
                    }
                    if !warp.fragments.is_empty() && self.gives_way(warp, &mut f) && !late {
                        warp.fragments.push(f);
                        return Ok(false);
                    }
                    f.pc += 1;
                }
                Op::Bra(target) => f.pc = *target,
                Op::Load(access) => {
                    self.load(warp, &lanes, ins, access, m)?;
                    warp.seen = self.seen;
                    f.pc += 1;
                }
                Op::Store(access) => {
                    self.store(warp, &lanes, ins, access, m)?;
                    warp.seen = self.seen;
                    f.pc += 1;
                }
                Op::Special(special) => {
                    self.special(warp, &lanes, ins, *special, m);
                    f.pc += 1;
                }
                Op::FrameAddress(at) => {
                    let value = LOCAL_START + (f.frame.local + at) as u64;
                    each(m, |l| set(&lanes, ins.d, l, value));
                    f.pc += 1;
                }
                Op::Atomic(atomic) => {
                    self.atomic(warp, &lanes, ins, atomic, m)?;
                    warp.seen = self.seen;
                    f.pc += 1;
                }
                Op::ActiveMask => {
                    each(m, |l| set(&lanes, ins.d, l, m.into()));
                    f.pc += 1;
                }
                Op::IsSpace(space) => {
                    each(m, |l| {
                        let is = match get(&lanes, ins.a, l) >> 56 {
                            0x20 => Space::Shared,
                            0x10 => Space::Local,
                            _ => Space::Global,
                        };
                        set(&lanes, ins.d, l, u64::from(is == *space));
                    });
                    f.pc += 1;
                }
                Op::CopyAsync(copy) => {
                    self.copy_async(warp, &lanes, ins, copy, m)?;
                    f.pc += 1;
                }
                Op::Commit => {
                    each(m, |l| warp.group[l] += 1);
                    f.pc += 1;
                }
                Op::WaitGroup(keep) => {
                    self.wait_copies(warp, ins, *keep, m)?;
                    f.pc += 1;
                }
                Op::Trap => return Err(self.fault(warp, m.trailing_zeros() as usize, ins.line, FaultKind::Trap, "trap".into())),
                // What follows concerns whole fragments: lanes that the guard leaves out go on by themselves.
                Op::Brx(_) | Op::Call(_) | Op::Ret | Op::Exit | Op::Barrier(_) | Op::Together(_) => {
                    if m != f.mask {
                        let mut other = f.clone();
                        other.mask &= !m;
                        other.pc += 1;
                        warp.fragments.push(other);
                        f.mask = m;
                    }
                    match self.flow(warp, &lanes, ins, &mut f)? {
                        After::Next => lanes = lanes_of(warp, &f, program),
                        After::Gone => return Ok(false),
                    }
                }
            }
        }
    }

    /// At a label: joins the fragments that stand here too; whether another one is further behind.
    fn gives_way(&self, warp: &mut Warp, f: &mut Fragment) -> bool {
        if self.launch.apart {
            return false;
        }
        let mut behind = false;
        let mut n = 0;
        while n < warp.fragments.len() {
            let other = &warp.fragments[n];
            if other.wait == Wait::Nothing {
                if other.meets(f) {
                    f.mask |= other.mask;
                    warp.fragments.swap_remove(n);
                    continue;
                }
                behind |= (other.stack.len(), f.pc) > (f.stack.len(), other.pc);
            }
            n += 1;
        }
        behind
    }

    /// Branches over tables, calls, ends and meetings.
    fn flow(&mut self, warp: &mut Warp, lanes: &Lanes, ins: &Ins, f: &mut Fragment) -> Result<After, Fault> {
        let first = f.mask.trailing_zeros() as usize;
        match &ins.op {
            Op::Brx(targets) => {
                let index = get(lanes, ins.a, first) & 0xFFFF_FFFF;
                self.split_by(warp, f, |l| get(lanes, ins.a, l) & 0xFFFF_FFFF == index);
                match targets.get(index as usize) {
                    Some(pc) => f.pc = *pc,
                    None => {
                        return Err(self.fault(
                            warp,
                            first,
                            ins.line,
                            FaultKind::Failed,
                            format!("a branch to number {index} of {} labels", targets.len()),
                        ));
                    }
                }
                Ok(After::Next)
            }
            Op::Call(call) => self.call(warp, lanes, ins, call, f),
            Op::Ret => {
                let Some((frame, pc)) = f.stack.pop() else { return Ok(self.exit(warp, f)) };
                let program = self.launch.program;
                let Op::Call(call) = &program.code[pc as usize].op else { return Ok(After::Gone) };
                let callee = &program.routines[f.frame.routine as usize];
                for (from, to) in callee.results.iter().zip(&call.results) {
                    self.pass(warp, f.mask, (f.frame, from.0), (frame, to.0), from.1.min(to.1));
                }
                f.frame = frame;
                f.pc = pc + 1;
                Ok(After::Next)
            }
            Op::Exit => Ok(self.exit(warp, f)),
            Op::Barrier(barrier) => self.barrier(warp, lanes, ins, barrier, f),
            Op::Together(together) => self.meet(warp, lanes, ins, together, f),
            _ => Ok(After::Next),
        }
    }

    /// Lanes for which something does not hold stay behind at this instruction.
    fn split_by(&self, warp: &mut Warp, f: &mut Fragment, holds: impl Fn(usize) -> bool) {
        let mut stay = 0;
        each(f.mask, |l| stay |= u32::from(!holds(l)) << l);
        if stay != 0 {
            let mut other = f.clone();
            other.mask = stay;
            f.mask &= !stay;
            warp.fragments.push(other);
        }
    }

    fn exit(&self, warp: &mut Warp, f: &Fragment) -> After {
        warp.alive &= !f.mask;
        // Copies of a thread that has ended are nobody's.
        warp.copies.retain(|c| !c.of(f.mask));
        // Whoever waited for these lanes looks again.
        for other in &mut warp.fragments {
            if matches!(other.wait, Wait::Warp { .. }) {
                other.wait = Wait::Nothing;
            }
        }
        After::Gone
    }

    fn call(&mut self, warp: &mut Warp, lanes: &Lanes, ins: &Ins, call: &Call, f: &mut Fragment) -> Result<After, Fault> {
        let program = self.launch.program;
        let first = f.mask.trailing_zeros() as usize;
        let target = match call.target {
            Some(n) => n,
            None => {
                let address = get(lanes, ins.a, first);
                self.split_by(warp, f, |l| get(lanes, ins.a, l) == address);
                let n = address.wrapping_sub(FUNCTION_WINDOW) as usize;
                if n == 0 || n >= program.routines.len() {
                    return Err(self.fault(warp, first, ins.line, FaultKind::Failed, format!("{address:#x} is no function")));
                }
                n
            }
        };
        let (caller, callee) = (&program.routines[f.frame.routine as usize], &program.routines[target]);
        if callee.params.len() != call.args.len() || callee.results.len() != call.results.len() {
            return Err(self.fault(
                warp,
                first,
                ins.line,
                FaultKind::Failed,
                format!("`{}` is called with other parameters than it has", callee.name),
            ));
        }
        let frame = Frame { routine: target as u32, base: f.frame.base + caller.registers, local: f.frame.local + caller.frame };
        if frame.local + callee.frame > program.local || f.stack.len() > 4096 {
            return Err(self.fault(warp, first, ins.line, FaultKind::Stack, format!("too many calls of `{}` in one another", callee.name)));
        }
        let needed = frame.base + callee.registers;
        if warp.regs.len() < needed {
            warp.regs.resize(needed, Row([u64::MAX; WARP]));
        }
        for (from, to) in call.args.iter().zip(&callee.params) {
            self.pass(warp, f.mask, (f.frame, from.0), (frame, to.0), from.1.min(to.1));
        }
        f.stack.push((f.frame, f.pc));
        f.frame = frame;
        f.pc = callee.start;
        Ok(After::Next)
    }

    /// Hands bytes from a place of one frame to one of another.
    fn pass(&self, warp: &mut Warp, mask: u32, from: (Frame, Place), to: (Frame, Place), bytes: usize) {
        let all = self.launch.program.local;
        each(mask, |l| {
            let mut data = [0u8; 8];
            // Longer ones lie in frames on both sides.
            let local = |frame: Frame, at: usize| warp.local.wrapping_add(l * all + frame.local + at);
            if let (Place::Frame(a), Place::Frame(b)) = (from.1, to.1) {
                // SAFETY: both lie within the frames, which lie within the thread's local memory.
                unsafe { std::ptr::copy(local(from.0, a), local(to.0, b), bytes) };
                return;
            }
            let n = bytes.min(8);
            match from.1 {
                Place::Reg(r) => data = warp.regs[from.0.base + r as usize].0[l].to_le_bytes(),
                // SAFETY: as above.
                Place::Frame(at) => unsafe { std::ptr::copy_nonoverlapping(local(from.0, at), data.as_mut_ptr(), n) },
            }
            match to.1 {
                Place::Reg(r) => warp.regs[to.0.base + r as usize].0[l] = u64::from_le_bytes(data),
                // SAFETY: as above.
                Place::Frame(at) => unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), local(to.0, at), n) },
            }
        });
    }

    fn special(&self, warp: &Warp, lanes: &Lanes, ins: &Ins, special: Special, mask: u32) {
        let launch = self.launch;
        let threads: u32 = launch.block.iter().product();
        each(mask, |l| {
            let value = match special {
                Special::Tid(n) => self.thread(warp, l)[n as usize].into(),
                Special::Ntid(n) => launch.block[n as usize].into(),
                Special::Ctaid(n) => self.block[n as usize].into(),
                Special::Nctaid(n) => launch.grid[n as usize].into(),
                Special::Lane => l as u64,
                Special::Warp => warp.index.into(),
                Special::Warps => threads.div_ceil(WARP as u32).into(),
                Special::MaskEq => 1 << l,
                Special::MaskLt => (1 << l) - 1,
                Special::MaskLe => (2 << l) - 1,
                Special::MaskGt => 0xFFFF_FFFF & !((2 << l) - 1),
                Special::MaskGe => 0xFFFF_FFFF & !((1 << l) - 1),
                Special::Clock => self.steps,
                Special::DynamicShared => launch.dynamic as u64,
                Special::TotalShared => self.shared_bytes as u64,
                Special::Nanoseconds => self.steps,
                Special::Multiprocessor => 0,
                Special::Multiprocessors => launch.multiprocessors.into(),
            };
            set(lanes, ins.d, l, value);
        });
    }
}

impl Pending {
    fn of(&self, mask: u32) -> bool {
        mask >> self.lane() & 1 == 1
    }
}

/// Registers of a fragment's frame.
pub(super) fn lanes_of(warp: &mut Warp, f: &Fragment, program: &Program) -> Lanes {
    Lanes { regs: warp.regs[f.frame.base..].as_mut_ptr(), consts: program.consts.as_ptr() }
}

/// Lanes for which an instruction's guard holds.
#[inline(always)]
fn guard(lanes: &Lanes, ins: &Ins) -> u32 {
    // SAFETY: the guard is a register of the frame.
    let row = unsafe { &*lanes.source(ins.guard).cast::<[u64; WARP]>() };
    let mut mask = 0;
    for l in 0..WARP {
        mask |= ((row[l] & 1) as u32) << l;
    }
    if ins.negated { !mask } else { mask }
}

/// Calls a function for each lane of a mask.
#[inline(always)]
pub(super) fn each(mask: u32, mut f: impl FnMut(usize)) {
    let mut rest = mask;
    while rest != 0 {
        f(rest.trailing_zeros() as usize);
        rest &= rest - 1;
    }
}

/// A lane's value of an operand.
#[inline(always)]
pub(super) fn get(lanes: &Lanes, operand: i32, lane: usize) -> u64 {
    // SAFETY: operands were checked when the program was made.
    unsafe { *lanes.source(operand).add(lane) }
}

/// Sets a lane's value of a register.
#[inline(always)]
pub(super) fn set(lanes: &Lanes, register: i32, lane: usize, value: u64) {
    // SAFETY: as above.
    unsafe { *lanes.target(register).add(lane) = value }
}
