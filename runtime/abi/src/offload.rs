//! What the instructions of a plan do with arrays that live in files: made by the compiler, used by the runtime to read ahead and write behind.

use crate::plan::{BufRef, BufferId, Instr, Place, Plan, Trip};

/// What one instruction of the plan's outermost list does with offloaded inputs. Instructions that touch none have no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Its number in the order of [`Plan::walk`].
    pub instr: usize,
    /// Its position in [`Plan::code`].
    pub position: usize,
    /// For a kernel whose passes go through offloaded arrays in order: what each of its calls reaches; otherwise empty.
    pub calls: Vec<Vec<Reach>>,
    /// The offloaded inputs it uses at any place and in any order, and whether it may write them.
    pub anywhere: Vec<(usize, bool)>,
}

/// The part of an input that passes of a kernel's parallel loop use: pass `p` touches only the bytes from `first + p * step` to `last + p * step` (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Number of the input.
    pub input: usize,
    /// Whether it is written; then no two passes touch the same byte.
    pub writes: bool,
    /// First byte touched by pass 0, from the start of the input.
    pub first: i64,
    /// End of the bytes touched by pass 0.
    pub last: i64,
    /// Bytes between one pass and the next, not negative.
    pub step: i64,
}

impl Instr {
    /// Calls `visit` on every memory reference, those of inner instructions included, and on whether it may be written.
    pub fn references(&self, visit: &mut dyn FnMut(&BufRef, bool)) {
        match self {
            // Which arguments of a kernel are written is known to the kernel alone.
            Instr::Kernel { calls, .. } => calls.iter().flat_map(|c| &c.buffers).for_each(|b| visit(b, true)),
            Instr::Gemm(g) => {
                visit(&g.a.data, false);
                visit(&g.b.data, false);
                visit(&g.c.data, true);
            }
            Instr::Conv(c) => {
                visit(&c.lhs, false);
                visit(&c.rhs, false);
                visit(&c.out, true);
                visit(&c.scratch, true);
            }
            Instr::Copy { src, dst, .. } => {
                visit(src, false);
                visit(dst, true);
            }
            Instr::Lib { buffers, .. } => buffers.iter().for_each(|b| visit(b, true)),
            Instr::Loop { trip, counter, body, .. } => {
                visit(counter, true);
                match trip {
                    Trip::Const(_) => {}
                    Trip::Run(count) => visit(count, false),
                    Trip::While { go, most } => {
                        visit(go, false);
                        visit(most, false);
                    }
                }
                body.iter().for_each(|i| i.references(visit));
            }
            Instr::Cond { pred, then, otherwise } => {
                visit(pred, false);
                then.iter().chain(otherwise).for_each(|i| i.references(visit));
            }
            Instr::Guard { value, .. } => visit(value, false),
        }
    }

    /// Number of instructions inside this one.
    pub fn inner(&self) -> usize {
        let count = |code: &[Instr]| code.iter().map(|i| 1 + i.inner()).sum::<usize>();
        match self {
            Instr::Loop { body, .. } => count(body),
            Instr::Cond { then, otherwise, .. } => count(then) + count(otherwise),
            _ => 0,
        }
    }
}

impl Plan {
    /// The input whose memory a buffer is.
    pub fn input_of(&self, buffer: BufferId) -> Option<usize> {
        match self.buffers[buffer].place {
            Place::Input(k) => Some(k),
            _ => None,
        }
    }
}
