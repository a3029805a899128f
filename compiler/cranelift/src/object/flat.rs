//! From the plan for one leaf to what must be done for a leaf of any length.

use super::UNIT;
use optc_abi::plan::{BufRef, Instr, KernelCall, Place, Plan};
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
    fn places(&self) -> Vec<&At> {
        match self {
            Action::Scalars { buffers, .. } | Action::Pass { buffers, .. } => buffers.iter().collect(),
            Action::CopyScalar { from, to, .. } => vec![from, to],
            Action::Cond { pred, .. } => vec![pred],
            Action::CopyArray { .. } | Action::Fill { .. } => Vec::new(),
        }
    }
}

/// What a function does for a leaf.
#[derive(Clone, Debug)]
pub struct Flat {
    pub(super) actions: Vec<Action>,
    /// Bytes of scalars on the stack.
    pub(super) scratch: usize,
    pub(super) constants: Vec<Vec<u8>>,
    pub(super) kernels: Vec<optc_ir::kernel::Kernel>,
    /// Scalars that belong to the leaf are among them, so that what is done to scalars is done for each leaf.
    pub(super) scalars_each: bool,
}

impl Flat {
    /// Whether the number of the step matters.
    pub fn counts_steps(&self) -> bool {
        let mut found = false;
        // What only counts on does nothing with it.
        let idle = |a: &Action| matches!(a, Action::Scalars { buffers, .. } if buffers.iter().all(|b| *b == At::Counter));
        for action in &self.actions {
            action.walk(&mut |a| found |= !idle(a) && a.places().contains(&&At::Counter));
        }
        found
    }

    /// How often it goes over the leaf.
    pub fn passes(&self) -> usize {
        let mut count = 0;
        for action in &self.actions {
            action.walk(&mut |a| count += usize::from(matches!(a, Action::Pass { .. } | Action::CopyArray { .. })));
        }
        count
    }
}

impl PartialEq for Flat {
    /// Whether the same is done; grains and names do not count.
    fn eq(&self, other: &Flat) -> bool {
        self.actions == other.actions && self.scratch == other.scratch && self.constants == other.constants && self.kernels == other.kernels
    }
}

impl Flat {
    /// Has each element of an array of the leaf (the one element, if it has one only) set to these bytes, after all else.
    pub fn fill(&mut self, to: usize, scalar: bool, element: &[u8]) {
        self.actions.push(Action::Fill { to, scalar, element: element.to_vec() });
    }
}

/// Why a plan is not of the form that leaves of any length need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFlat(String);

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
pub fn flatten(
    plan: &Plan,
    kernels: &[optc_ir::kernel::Kernel],
    length: usize,
    inputs: &[Source],
    outputs: &[Source],
) -> Result<Flat, NotFlat> {
    let reader = Reader { plan, length, inputs, outputs };
    let mut actions = Vec::new();
    for instr in &plan.code {
        reader.instr(instr, &mut actions)?;
    }
    // The arena holds scalars only, or the above would have refused it.
    let scratch = plan
        .buffers
        .iter()
        .filter_map(|b| if let Place::Arena(offset) = b.place { Some(offset + b.len * b.dtype.size()) } else { None })
        .max()
        .unwrap_or(0);
    if scratch > SCRATCH {
        return Err(NotFlat("it keeps arrays between two passes over a leaf".to_string()));
    }
    let constants: Vec<Vec<u8>> = plan.constants.iter().map(|t| t.bytes().to_vec()).collect();
    let mut scalars_each = false;
    for action in actions.iter().filter(|a| a.on_scalars()) {
        action.walk(&mut |a| scalars_each |= a.places().iter().any(|at| matches!(at, At::Array(_, 0))));
    }
    Ok(Flat { actions, scratch, constants, kernels: kernels.to_vec(), scalars_each })
}

struct Reader<'a> {
    plan: &'a Plan,
    length: usize,
    inputs: &'a [Source],
    outputs: &'a [Source],
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
        if let [call] = calls
            && call.sizes.is_empty()
        {
            let buffers = call.buffers.iter().map(|b| self.at(b, 0)).collect::<Result<Vec<At>, _>>()?;
            if call.range != 1 || buffers.iter().any(|b| matches!(b, At::Array(_, size) if *size > 0)) {
                return shape("it combines elements of a leaf");
            }
            actions.push(Action::Scalars { kernel, buffers });
            return Ok(());
        }
        let (units, rest) = ((self.length as i64) / UNIT, self.length as i64 % UNIT);
        let [whole, end] = calls else { return shape("it goes over arrays of several sizes") };
        if whole.sizes != [UNIT, units] || whole.range != units || end.sizes != [rest, 1] || end.range != 1 {
            return shape("it does not go over a leaf in order");
        }
        let buffers = whole.buffers.iter().map(|b| self.at(b, 0)).collect::<Result<Vec<At>, _>>()?;
        for (at, place) in buffers.iter().zip(&end.buffers) {
            let skip = if let At::Array(_, size) = at { units * UNIT * size } else { 0 };
            if self.at(place, skip)? != *at {
                return shape("it goes over parts of a leaf");
            }
        }
        actions.push(Action::Pass { kernel, buffers });
        Ok(())
    }

    /// A place, `skip` bytes after which the reference must stand.
    fn at(&self, place: &BufRef, skip: i64) -> Result<At, NotFlat> {
        let buffer = &self.plan.buffers[place.buffer];
        let (here, size) = (place.offset - skip, buffer.dtype.size() as i64);
        let from = |source: Source| match source {
            Source::Array(k) if here == 0 && buffer.len == 1 => Ok(At::Array(k, 0)),
            Source::Array(k) if here == 0 && buffer.len == self.length => Ok(At::Array(k, size)),
            Source::Array(_) => Err(NotFlat("it goes over parts of a leaf".to_string())),
            Source::Counter => Ok(At::Counter),
            Source::Hyper(k) => Ok(At::Hyper(k)),
            Source::Nothing => Err(NotFlat("it draws random numbers or reads what only a training run has".to_string())),
        };
        match buffer.place {
            Place::Input(k) => from(self.inputs[k]),
            Place::Output(k) => from(self.outputs[k]),
            Place::Arena(offset) if buffer.len == 1 => Ok(At::Scratch(offset as i64)),
            Place::Arena(_) => Err(NotFlat("it keeps arrays between two passes over a leaf".to_string())),
            Place::Constant(k) if buffer.len == 1 => Ok(At::Constant(k, here)),
            Place::Constant(_) => Err(NotFlat("it reads a table".to_string())),
        }
    }
}
