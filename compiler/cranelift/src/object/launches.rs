//! A function over leaves as launches of a GPU.

use super::flat::{Action, At, Flat, SCALAR};
use super::staged;
use optc_abi::plan::Status;
use optc_ir::kernel::AccOp;
use optc_ir::launches::{Do, Finish, Folded, Launch, Launches, Spot, When};
use rustc_hash::{FxHashMap, FxHashSet};

impl Flat {
    /// The same as launches, for leaves with so many arrays and so many hyperparameters.
    ///
    /// # Errors
    /// What there is no launch for, in words.
    pub fn launches(&self, arrays: usize, hyper: usize) -> Result<Launches, String> {
        let mut shared = size_of::<Status>().next_multiple_of(SCALAR) as i64;
        let mut room = |bytes: usize| {
            shared += bytes.next_multiple_of(SCALAR) as i64;
            shared - bytes.next_multiple_of(SCALAR) as i64
        };
        let hyper: Vec<i64> = (0..hyper).map(|_| room(8)).collect();
        let counter = room(SCALAR);
        let constants = self.constants.iter().map(|bytes| (room(bytes.len()), bytes.clone())).collect();
        let scratch = room(self.scratch);
        let out = Launches { kernels: self.kernels.clone(), arrays, hyper, counter, constants, ..Launches::default() };
        let mut leafy: FxHashSet<i64> = self.length.into_iter().chain(self.reductions.iter().map(|r| r.result)).collect();
        for action in self.rounds.iter().flat_map(|r| &r.each) {
            leafy.extend(action.writes(&self.kernels));
        }
        let mut made = Maker { flat: self, out, scratch, leafy, own: FxHashMap::default(), whole: FxHashMap::default() };
        for number in 0..self.rounds.len() {
            made.round(number)?;
        }
        let own = made.own.len() as i64 * SCALAR as i64;
        let partials = self.reductions.iter().map(|r| r.size).collect();
        Ok(Launches { shared, own, partials, folds: self.folds.len(), ..made.out })
    }
}

/// What is to be done for each leaf before the next pass.
#[derive(Default)]
struct Pending {
    finish: Vec<Finish>,
    does: Vec<Do>,
}

struct Maker<'f> {
    flat: &'f Flat,
    out: Launches,
    /// Where scalars that all leaves share begin.
    scratch: i64,
    /// Scalars that each leaf has for itself.
    leafy: FxHashSet<i64>,
    /// Where those are.
    own: FxHashMap<Kept, i64>,
    /// Kernels that make one of all partial results, by those that combine a few.
    whole: FxHashMap<usize, usize>,
}

/// What a leaf keeps between launches.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kept {
    /// A scalar of the function.
    Scalar(i64),
    /// A condition, by the order in which they come.
    Pred(usize),
}

impl Maker<'_> {
    fn round(&mut self, number: usize) -> Result<(), String> {
        let (flat, first, last) = (self.flat, number == 0, number + 1 == self.flat.rounds.len());
        let round = &flat.rounds[number];
        let mut does: Vec<Do> = Vec::new();
        for shared in &flat.shared {
            does.push(Do::Copy { from: Spot::Array(shared.array, 0), to: self.spot(&At::Scratch(shared.old)), bytes: shared.size });
        }
        for action in &round.once {
            does.push(self.scalars(action)?);
        }
        let mut launches = Vec::new();
        if first {
            launches.push(Launch::Begin(does));
        } else if !does.is_empty() {
            launches.push(Launch::Once(does));
        }
        self.out.rounds.push(launches);
        let mut pending = Pending::default();
        let length = flat.length.filter(|&o| round.each.iter().any(|a| reads(a, &At::Scratch(o))));
        if let Some(offset) = length {
            pending.does.push(Do::Length(self.spot(&At::Scratch(offset))));
        }
        let mut folds = Vec::new();
        self.each(&round.each, &[], &mut pending, &mut folds)?;
        if last {
            for shared in &flat.shared {
                let from = self.spot(&At::Scratch(shared.new));
                pending.does.push(Do::Copy { from, to: Spot::Array(shared.array, 0), bytes: shared.size });
            }
        }
        self.flush(&mut pending);
        if !folds.is_empty() {
            self.push(Launch::Fold(folds));
        }
        Ok(())
    }

    fn push(&mut self, launch: Launch) {
        if let Some(round) = self.out.rounds.last_mut() {
            round.push(launch);
        }
    }

    fn flush(&mut self, pending: &mut Pending) {
        let Pending { finish, does } = std::mem::take(pending);
        if !finish.is_empty() || !does.is_empty() {
            self.push(Launch::Leaves { finish, does });
        }
    }

    /// Where a leaf keeps something.
    fn kept(&mut self, what: Kept) -> Spot {
        let next = self.own.len() as i64 * SCALAR as i64;
        Spot::Own(*self.own.entry(what).or_insert(next))
    }

    fn spot(&mut self, at: &At) -> Spot {
        match *at {
            At::Array(k, size) => Spot::Array(k, size),
            At::Scratch(offset) if self.leafy.contains(&offset) => self.kept(Kept::Scalar(offset)),
            At::Scratch(offset) => Spot::Shared(self.scratch + offset),
            At::Counter => Spot::Shared(self.out.counter),
            At::Hyper(k) => Spot::Shared(self.out.hyper[k]),
            At::Constant(k, offset) => Spot::Shared(self.out.constants[k].0 + offset),
            At::Partial(k) => Spot::Partial(k),
            At::Fold(k) => Spot::Fold(k),
        }
    }

    fn spots(&mut self, places: &[At]) -> Vec<Spot> {
        places.iter().map(|at| self.spot(at)).collect()
    }

    /// What one thread does.
    fn scalars(&mut self, action: &Action) -> Result<Do, String> {
        Ok(match action {
            Action::Scalars { kernel, buffers } => Do::Kernel { kernel: *kernel, spots: self.spots(buffers) },
            Action::CopyScalar { from, to, bytes } => Do::Copy { from: self.spot(from), to: self.spot(to), bytes: *bytes },
            Action::Cond { pred, then, otherwise } => {
                let pred = self.spot(pred);
                let mut side = |actions: &[Action]| actions.iter().map(|a| self.scalars(a)).collect::<Result<Vec<Do>, String>>();
                Do::Cond { pred, then: side(then)?, otherwise: side(otherwise)? }
            }
            Action::Pass { .. } | Action::CopyArray { .. } | Action::Fill { .. } | Action::Fold(_) => {
                return Err("an array where only single numbers are".to_string());
            }
        })
    }

    /// What is done for each leaf under conditions.
    fn each(&mut self, actions: &[Action], when: &[When], pending: &mut Pending, folds: &mut Vec<Folded>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Cond { pred, then, otherwise } if !action.on_scalars() => {
                    // What a branch writes may be the bool itself.
                    let (from, to) = (self.spot(pred), self.kept(Kept::Pred(self.own.len())));
                    pending.does.push(under(when, Do::Copy { from, to, bytes: 1 }));
                    for (branch, value) in [(then, true), (otherwise, false)] {
                        let inside: Vec<When> = when.iter().copied().chain([(to, value)]).collect();
                        self.each(branch, &inside, pending, folds)?;
                    }
                }
                Action::Pass { kernel, buffers } => {
                    let spots = self.spots(buffers);
                    self.before(&spots, when, pending);
                    self.push(Launch::Pass { kernel: *kernel, spots, when: when.to_vec() });
                    for at in buffers {
                        let At::Partial(k) = at else { continue };
                        let reduction = &self.flat.reductions[*k];
                        let finish =
                            Finish { kernel: self.finish(reduction.finish)?, partial: *k, to: self.spot(&At::Scratch(reduction.result)) };
                        pending.finish.push(finish);
                    }
                }
                Action::CopyArray { from, to, size } => {
                    self.before(&[Spot::Array(*from, *size), Spot::Array(*to, *size)], when, pending);
                    self.push(Launch::Copy { from: *from, to: *to, size: *size, when: when.to_vec() });
                }
                Action::Fold(k) => {
                    let fold = &self.flat.folds[*k];
                    folds.push(Folded { fold: *k, part: self.spot(&At::Scratch(fold.part)), op: fold.op, dtype: fold.dtype });
                }
                Action::Fill { .. } => return Err("it fills arrays".to_string()),
                other => {
                    let made = self.scalars(other)?;
                    pending.does.push(under(when, made));
                }
            }
        }
        Ok(())
    }

    /// Before a pass over these: what it needs of what is pending.
    fn before(&mut self, spots: &[Spot], when: &[When], pending: &mut Pending) {
        let mut touched: FxHashSet<Spot> = pending.finish.iter().flat_map(|f| [f.to, Spot::Partial(f.partial)]).collect();
        pending.does.iter().for_each(|d| touch(d, &mut touched));
        if spots.iter().chain(when.iter().map(|w| &w.0)).any(|s| touched.contains(s)) {
            self.flush(pending);
        }
    }

    /// The kernel that makes one of any number of partial results.
    fn finish(&mut self, few: usize) -> Result<usize, String> {
        if let Some(&known) = self.whole.get(&few) {
            return Ok(known);
        }
        let made = match self.flat.kernels[few].accs.first() {
            Some(acc) => match acc.op {
                AccOp::Reduce(op) => staged::whole(op, acc.dtype),
                AccOp::Assign => return Err("it combines elements in an order of its own".to_string()),
            },
            None => return Err("it combines elements in a way of its own".to_string()),
        };
        self.out.kernels.push(made);
        let place = self.out.kernels.len() - 1;
        self.whole.insert(few, place);
        Ok(place)
    }
}

/// Something under conditions.
fn under(when: &[When], does: Do) -> Do {
    when.iter().rev().fold(does, |does, &(pred, value)| match value {
        true => Do::Cond { pred, then: vec![does], otherwise: Vec::new() },
        false => Do::Cond { pred, then: Vec::new(), otherwise: vec![does] },
    })
}

/// Places that something reads or writes.
fn touch(does: &Do, touched: &mut FxHashSet<Spot>) {
    match does {
        Do::Kernel { spots, .. } => touched.extend(spots.iter().copied()),
        Do::Copy { from, to, .. } => touched.extend([*from, *to]),
        Do::Length(to) => touched.extend([*to]),
        Do::Cond { pred, then, otherwise } => {
            touched.insert(*pred);
            then.iter().chain(otherwise).for_each(|d| touch(d, touched));
        }
    }
}

/// Whether an action uses a place.
fn reads(action: &Action, place: &At) -> bool {
    let mut found = false;
    action.walk(&mut |a| found |= a.places().contains(&place));
    found
}
