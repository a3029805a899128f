//! From the plan for one leaf to what must be done for a leaf of any length.

use super::UNIT;
use super::staged::{Fold, Layout, Reduction, Shared};
use optc_abi::plan::{BufRef, Instr, KernelCall, Place, Plan};
use optc_ir::kernel::{Access, Kernel};
use rustc_hash::FxHashSet;
use std::fmt;

/// Where the address of an input or output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Array `k` of the leaf.
    Array(usize),
    /// The i32 number of steps made so far; the function is called with the number of the coming one.
    Counter,
    /// Hyperparameter `k`.
    Hyper(usize),
    /// The number of elements of the leaf, an f64.
    Length,
    /// As an input, reduction `k` of the leaf; as an output, its partial results.
    Reduced(usize),
    /// What the leaf contributes to fold `k`.
    Part(usize),
    /// Fold `k` over all leaves.
    Fold(usize),
    /// Shared state `k`: its old value as an input, its new one as an output.
    Shared(usize),
    /// The function has nothing to give.
    Nothing,
}

/// A place a kernel reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// An array of the leaf; bytes of an element, 0 if it holds one element whatever the leaf's length is.
    Array(usize, i64),
    /// A scalar on the stack, at this offset.
    Scratch(i64),
    /// The counter.
    Counter,
    /// A hyperparameter.
    Hyper(usize),
    /// A constant: number, offset.
    Constant(usize, i64),
    /// The partial results of a reduction.
    Partial(usize),
    /// A fold over leaves.
    Fold(usize),
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A kernel on scalars.
    Scalars { kernel: usize, buffers: Vec<At> },
    /// A kernel on the whole leaf.
    Pass { kernel: usize, buffers: Vec<At> },
    /// A scalar is copied.
    CopyScalar { from: At, to: At, bytes: usize },
    /// An array of the leaf is copied; bytes of an element.
    CopyArray { from: usize, to: usize, size: i64 },
    /// One or the other, as a bool scalar says.
    Cond { pred: At, then: Vec<Action>, otherwise: Vec<Action> },
    /// Each element of an array of the leaf (the one element, if it has one) becomes these bytes.
    Fill { to: usize, scalar: bool, element: Vec<u8> },
    /// What the leaf contributes to a fold is combined into it.
    Fold(usize),
}

impl Action {
    /// Calls `visit` on this and on what stands under conditions.
    pub(super) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Action)) {
        visit(self);
        if let Action::Cond { then, otherwise, .. } = self {
            then.iter().chain(otherwise).for_each(|a| a.walk(visit));
        }
    }

    /// Whether it touches nothing but scalars.
    pub(super) fn on_scalars(&self) -> bool {
        let mut all = true;
        self.walk(&mut |a| all &= matches!(a, Action::Scalars { .. } | Action::CopyScalar { .. } | Action::Cond { .. }));
        all
    }

    /// Places it reads or writes.
    pub(super) fn places(&self) -> Vec<&At> {
        match self {
            Action::Scalars { buffers, .. } | Action::Pass { buffers, .. } => buffers.iter().collect(),
            Action::CopyScalar { from, to, .. } => vec![from, to],
            Action::Cond { pred, .. } => vec![pred],
            Action::CopyArray { .. } | Action::Fill { .. } | Action::Fold(_) => Vec::new(),
        }
    }

    /// Counts kernels and constants from these numbers on.
    pub(super) fn shift(&mut self, kernels: usize, constants: usize) {
        let move_on = |at: &mut At| {
            if let At::Constant(k, _) = at {
                *k += constants;
            }
        };
        match self {
            Action::Scalars { kernel, buffers } | Action::Pass { kernel, buffers } => {
                *kernel += kernels;
                buffers.iter_mut().for_each(move_on);
            }
            Action::CopyScalar { from, .. } => move_on(from),
            Action::Cond { pred, then, otherwise } => {
                move_on(pred);
                then.iter_mut().chain(otherwise).for_each(|a| a.shift(kernels, constants));
            }
            Action::CopyArray { .. } | Action::Fill { .. } | Action::Fold(_) => {}
        }
    }

    /// Scalars on the stack that it writes.
    pub(super) fn writes(&self, kernels: &[Kernel]) -> Vec<i64> {
        let mut found = Vec::new();
        self.walk(&mut |a| match a {
            Action::Scalars { kernel, buffers } | Action::Pass { kernel, buffers } => {
                let written = buffers.iter().zip(&kernels[*kernel].buffers).filter(|(_, b)| b.access != Access::Read);
                found.extend(written.filter_map(|(at, _)| if let At::Scratch(offset) = at { Some(*offset) } else { None }));
            }
            Action::CopyScalar { to: At::Scratch(offset), .. } => found.push(*offset),
            _ => {}
        });
        found
    }
}

/// What is done between two looks at all leaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Round {
    /// Once, before all leaves.
    pub once: Vec<Action>,
    /// For each leaf.
    pub each: Vec<Action>,
}

/// What a function does for its leaves.
#[derive(Clone, Debug)]
pub struct Flat {
    pub(super) rounds: Vec<Round>,
    /// Bytes of scalars on the stack.
    pub(super) scratch: usize,
    pub(super) constants: Vec<Vec<u8>>,
    pub(super) kernels: Vec<Kernel>,
    /// Where the number of elements of a leaf is kept, if it matters.
    pub(super) length: Option<i64>,
    pub(super) reductions: Vec<Reduction>,
    pub(super) folds: Vec<Fold>,
    pub(super) shared: Vec<Shared>,
}

impl Flat {
    /// All actions.
    pub(super) fn actions(&self) -> impl Iterator<Item = &Action> {
        self.rounds.iter().flat_map(|r| r.once.iter().chain(&r.each))
    }

    /// How often all leaves are gone through before the next time may begin: 1, unless something is combined over all leaves.
    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// How many numbers are combined over all leaves.
    pub fn folds(&self) -> usize {
        self.folds.len()
    }

    /// Whether elements of a leaf are combined, so that it must not be cut in parts.
    pub fn reduces(&self) -> bool {
        !self.reductions.is_empty() || !self.folds.is_empty()
    }

    /// Whether the number of the step matters.
    pub fn counts_steps(&self) -> bool {
        let mut found = false;
        for action in self.actions() {
            action.walk(&mut |a| found |= a.places().contains(&&At::Counter));
        }
        found
    }

    /// Whether array `to` may lie over array `from`: no pass reads `from` after one that has written `to`.
    pub fn may_overwrite(&self, from: usize, to: usize) -> bool {
        let mut written = false;
        let mut fine = true;
        for action in self.actions() {
            action.walk(&mut |a| match a {
                Action::Pass { kernel, buffers } => {
                    let params = &self.kernels[*kernel].buffers;
                    let touches = |array: usize, write: bool| {
                        let is = |at: &At| matches!(at, At::Array(k, _) if *k == array);
                        buffers.iter().zip(params).any(|(at, b)| is(at) && (b.access != Access::Read) == write)
                    };
                    fine &= !(written && touches(from, false));
                    written |= touches(to, true);
                }
                Action::CopyArray { from: source, to: target, .. } => {
                    fine &= !(written && *source == from);
                    written |= *target == to;
                }
                _ => {}
            });
        }
        fine
    }

    /// Has each element of an array of the leaf (the one element, if it has one only) set to these bytes, after all else.
    pub fn fill(&mut self, to: usize, scalar: bool, element: &[u8]) {
        if let Some(last) = self.rounds.last_mut() {
            last.each.push(Action::Fill { to, scalar, element: element.to_vec() });
        }
    }
}

impl PartialEq for Flat {
    /// Whether the same is done; grains and names do not count.
    fn eq(&self, other: &Flat) -> bool {
        self.rounds == other.rounds && self.scratch == other.scratch && self.constants == other.constants && self.kernels == other.kernels
    }
}

/// Why a plan is not of the form that leaves of any length need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFlat(pub(super) String);

impl fmt::Display for NotFlat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Most bytes of scalars.
const SCRATCH: usize = 1 << 14;

/// Reads off a plan for a leaf of `length` elements what is to be done for any. `length` is to be a few units and a rest.
///
/// # Errors
/// What the plan does that depends on the length or needs the runtime.
pub fn flatten(plan: &Plan, kernels: &[Kernel], length: usize, inputs: &[Source], outputs: &[Source]) -> Result<Flat, NotFlat> {
    let layout = Layout::default();
    let actions = read(plan, length, inputs, outputs, &layout, 0)?;
    let constants = plan.constants.iter().map(|t| t.bytes().to_vec()).collect();
    let scratch = SCALAR * plan.buffers.len();
    Flat::new(vec![actions], scratch, constants, kernels.to_vec(), layout)
}

/// Bytes that each scalar on the stack has.
pub(super) const SCALAR: usize = 8;

/// The actions of a plan; its scalars stand from `base` on.
pub(super) fn read(
    plan: &Plan,
    length: usize,
    inputs: &[Source],
    outputs: &[Source],
    layout: &Layout,
    base: usize,
) -> Result<Vec<Action>, NotFlat> {
    let reader = Reader { plan, length, inputs, outputs, layout, base };
    let mut actions = Vec::new();
    for instr in &plan.code {
        reader.instr(instr, &mut actions)?;
    }
    Ok(actions)
}

impl Flat {
    /// From the actions of each round.
    pub(super) fn new(
        rounds: Vec<Vec<Action>>,
        scratch: usize,
        constants: Vec<Vec<u8>>,
        kernels: Vec<Kernel>,
        layout: Layout,
    ) -> Result<Flat, NotFlat> {
        if scratch > SCRATCH {
            return Err(NotFlat("it keeps too many numbers".to_string()));
        }
        // Scalars that depend on what belongs to a leaf are computed for each, others once.
        let mut leafy: FxHashSet<i64> = layout.leafy();
        let mut cut = Vec::new();
        for actions in rounds {
            let mut round = Round::default();
            for action in actions {
                let mut own = !action.on_scalars();
                action.walk(&mut |a| {
                    own |= a.places().iter().any(|at| match at {
                        At::Array(..) => true,
                        At::Scratch(offset) => leafy.contains(offset),
                        _ => false,
                    });
                });
                if own { &mut round.each } else { &mut round.once }.push(action.clone());
                if own {
                    leafy.extend(action.writes(&kernels));
                }
            }
            cut.push(round);
        }
        let Layout { length, reductions, folds, shared, .. } = layout;
        Ok(Flat { rounds: cut, scratch, constants, kernels, length, reductions, folds, shared })
    }
}

struct Reader<'a> {
    plan: &'a Plan,
    length: usize,
    inputs: &'a [Source],
    outputs: &'a [Source],
    layout: &'a Layout,
    base: usize,
}

impl Reader<'_> {
    fn instr(&self, instr: &Instr, actions: &mut Vec<Action>) -> Result<(), NotFlat> {
        let no = |what: &str| Err(NotFlat(what.to_string()));
        match instr {
            Instr::Kernel { kernel, calls } => self.kernel(*kernel, calls, actions),
            Instr::Copy { src, dst, bytes } => {
                let (from, to) = (self.at(src, 0)?, self.at(dst, 0)?);
                actions.push(match (from, to) {
                    (At::Array(from, size), At::Array(to, other)) if size > 0 && size == other && *bytes == self.length * size as usize => {
                        Action::CopyArray { from, to, size }
                    }
                    (from, to) if *bytes <= 64 => Action::CopyScalar { from, to, bytes: *bytes },
                    _ => return no("it copies parts of a leaf"),
                });
                Ok(())
            }
            Instr::Gemm(_) => no("it multiplies matrices"),
            Instr::Conv(_) => no("it convolves"),
            Instr::Lib { .. } => no("it calls the runtime's library (random numbers, sorting, factorizations)"),
            Instr::Loop { .. } => no("it has a loop at run time"),
            Instr::Cond { pred, then, otherwise } => {
                let side = |code: &[Instr]| {
                    let mut actions = Vec::new();
                    code.iter().try_for_each(|i| self.instr(i, &mut actions)).map(|()| actions)
                };
                let action = Action::Cond { pred: self.at(pred, 0)?, then: side(then)?, otherwise: side(otherwise)? };
                actions.push(action);
                Ok(())
            }
            Instr::Guard { .. } => no("it may end before it is done"),
        }
    }

    fn kernel(&self, kernel: usize, calls: &[KernelCall], actions: &mut Vec<Action>) -> Result<(), NotFlat> {
        let shape = |what: &str| Err(NotFlat(format!("{what}, so that the work depends on the leaf's length")));
        let mut rest = calls;
        while let Some((call, others)) = rest.split_first() {
            if !call.sizes.is_empty() {
                // Whole units and the rest of one array; the same may be done to several.
                let [end, others @ ..] = others else { return shape("it goes over arrays of several sizes") };
                actions.push(self.pass(kernel, call, end)?);
                rest = others;
                continue;
            }
            let buffers = call.buffers.iter().map(|b| self.at(b, 0)).collect::<Result<Vec<At>, _>>()?;
            if call.range != 1 || buffers.iter().any(|b| matches!(b, At::Array(_, size) if *size > 0) || matches!(b, At::Partial(_))) {
                return shape("it combines elements of a leaf");
            }
            actions.push(Action::Scalars { kernel, buffers });
            rest = others;
        }
        Ok(())
    }

    /// A kernel on the whole units of a leaf, and on what is left.
    fn pass(&self, kernel: usize, whole: &KernelCall, end: &KernelCall) -> Result<Action, NotFlat> {
        let shape = |what: &str| Err(NotFlat(format!("{what}, so that the work depends on the leaf's length")));
        let (units, rest) = ((self.length as i64) / UNIT, self.length as i64 % UNIT);
        if whole.sizes != [UNIT, units] || whole.range != units || end.sizes != [rest, 1] || end.range != 1 {
            return shape("it does not go over a leaf in order");
        }
        let buffers = whole.buffers.iter().map(|b| self.at(b, 0)).collect::<Result<Vec<At>, _>>()?;
        for (at, place) in buffers.iter().zip(&end.buffers) {
            let skip = match at {
                At::Array(_, size) => units * UNIT * size,
                At::Partial(_) => units * self.plan.buffers[place.buffer].dtype.size() as i64,
                _ => 0,
            };
            if self.at(place, skip)? != *at {
                return shape("it goes over parts of a leaf");
            }
        }
        Ok(Action::Pass { kernel, buffers })
    }

    /// A place, `skip` bytes after which the reference must stand.
    fn at(&self, place: &BufRef, skip: i64) -> Result<At, NotFlat> {
        let buffer = &self.plan.buffers[place.buffer];
        let (here, size) = (place.offset - skip, buffer.dtype.size() as i64);
        let scalar = |at: At| if buffer.len == 1 && here == 0 { Ok(at) } else { Err(NotFlat("it makes arrays of numbers".to_string())) };
        let parts = self.length.div_ceil(UNIT as usize);
        let from = |source: Source, output: bool| match source {
            Source::Array(k) if here == 0 && buffer.len == 1 => Ok(At::Array(k, 0)),
            Source::Array(k) if here == 0 && buffer.len == self.length => Ok(At::Array(k, size)),
            Source::Array(_) => Err(NotFlat("it goes over parts of a leaf".to_string())),
            Source::Counter => Ok(At::Counter),
            Source::Hyper(k) => Ok(At::Hyper(k)),
            Source::Length => self.layout.length.map_or_else(|| Err(NotFlat("its length matters".to_string())), |o| scalar(At::Scratch(o))),
            Source::Reduced(k) if output && here == 0 && buffer.len == parts => Ok(At::Partial(k)),
            Source::Reduced(_) if output => Err(NotFlat("it combines elements in parts of a leaf".to_string())),
            Source::Reduced(k) => scalar(At::Scratch(self.layout.reductions[k].result)),
            Source::Part(k) => scalar(At::Scratch(self.layout.folds[k].part)),
            Source::Fold(k) => scalar(At::Fold(k)),
            Source::Shared(k) => scalar(At::Scratch(if output { self.layout.shared[k].new } else { self.layout.shared[k].old })),
            Source::Nothing => Err(NotFlat("it draws random numbers or reads what only a training run has".to_string())),
        };
        match buffer.place {
            Place::Input(k) => from(self.inputs[k], false),
            Place::Output(k) => from(self.outputs[k], true),
            // Each has a place of its own, so that what is computed once for all leaves stays.
            Place::Arena(_) if buffer.len == 1 => Ok(At::Scratch((self.base + SCALAR * place.buffer) as i64)),
            Place::Arena(_) => Err(NotFlat("it keeps arrays between two passes over a leaf".to_string())),
            Place::Constant(k) if buffer.len == 1 => Ok(At::Constant(k, here)),
            Place::Constant(_) => Err(NotFlat("it reads a table".to_string())),
        }
    }
}
