//! Typed mutation: a statement more, one less, or one argument changed. Children mean something by construction; what cannot be mended by another draw is given up.

use crate::fun::{Fun, Ty};
use crate::genome::{Arg, Genome, MAX_NAMED, Reg, Registers, Stmt};
use crate::live::fresh_temp;
use crate::require::Require;
use crate::rng::Stream;

/// The programs that may be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// Functions of new statements.
    pub functions: Vec<Fun>,
    /// Most statements, redundant ones included.
    pub statements: usize,
    /// States a program has; those it does not use cost nothing.
    pub states: usize,
    /// New numbers are drawn log-uniformly between these.
    pub constants: (f64, f64),
    /// Whether a statement may read the number of the step.
    pub step_count: bool,
    /// What programs must be beyond meaning something.
    pub require: Vec<Require>,
}

impl Default for Space {
    /// Hero's functions, 24 statements, two states, numbers from 1e-4 to 1.
    fn default() -> Space {
        let functions = crate::fun::HERO.iter().map(|(_, fun)| *fun).collect();
        Space { functions, statements: 24, states: 2, constants: (1e-4, 1.0), step_count: false, require: Vec::new() }
    }
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// A new statement at this place.
    Insert(usize),
    /// The statement that was there is gone.
    Delete(usize),
    /// An argument of the statement at this place.
    Modify(usize, usize),
}

/// How often each kind is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// A statement more.
    pub insert: u32,
    /// A statement less.
    pub delete: u32,
    /// An argument changed.
    pub modify: u32,
}

/// As often each (Chen et al. 2023).
pub const EVEN: Mix = Mix { insert: 1, delete: 1, modify: 1 };

/// Draws until a child means something; fewer than this fail only where hardly any child does.
const TRIES: usize = 64;
/// Of eight arguments this many are numbers.
const NUMBERS_IN_EIGHT: usize = 2;

/// A child, and what was changed. `None` if no draw gave one that means something.
pub fn mutate(parent: &Genome, space: &Space, mix: Mix, rng: &mut Stream) -> Option<(Genome, Change)> {
    let total = mix.insert + mix.delete + mix.modify;
    for _ in 0..TRIES {
        let draw = rng.below(total as usize) as u32;
        let found = if draw < mix.insert {
            insert(parent, space, rng)
        } else if draw < mix.insert + mix.delete {
            delete(parent, rng)
        } else {
            modify(parent, space, rng)
        };
        if let Some(found) = found
            && found.0.check() == Ok(Ty::Leaf)
        {
            return Some(found);
        }
    }
    None
}

/// A child that differs in one number alone.
pub fn mutate_constant(parent: &Genome, rng: &mut Stream) -> Option<(Genome, Change)> {
    let places: Vec<(usize, usize)> = parent
        .body
        .iter()
        .enumerate()
        .flat_map(|(i, s)| s.args().iter().enumerate().filter(|(_, a)| matches!(a, Arg::Const(_))).map(move |(k, _)| (i, k)))
        .collect();
    if places.is_empty() {
        return None;
    }
    let (i, k) = places[rng.below(places.len())];
    let mut child = parent.clone();
    let arg = &mut child.body[i].args[k];
    if let Arg::Const(x) = arg {
        *x = scaled(*x, rng);
    }
    Some((child, Change::Modify(i, k)))
}

/// c 2^z with z standard normal. A number that has run out of range stays.
fn scaled(x: f64, rng: &mut Stream) -> f64 {
    let y = x * rng.normal().exp2();
    if y.is_finite() { y } else { x }
}

/// The types of registers before a statement.
fn types_before(genome: &Genome, at: usize) -> Registers<Ty> {
    let mut types = genome.first_types();
    for stmt in &genome.body[..at] {
        if let Ok(ty) = Genome::type_of(stmt, &types) {
            types.set(stmt.out, ty);
        }
    }
    types
}

/// Registers of a program, whether they hold something or not, for intermediate values up to `temps`.
fn registers(genome: &Genome, temps: u8) -> Vec<Reg> {
    let mut all = vec![Reg::W, Reg::G, Reg::Lr, Reg::T, Reg::Update];
    all.extend((0..genome.states.len() as u8).map(Reg::State));
    all.extend((0..temps).map(Reg::Temp));
    all
}

/// Registers that hold something, with its type, and may be read.
fn readable(genome: &Genome, space: &Space, types: &Registers<Ty>, temps: u8) -> Vec<(Reg, Ty)> {
    let all = registers(genome, temps);
    all.into_iter().filter(|r| *r != Reg::T || space.step_count).filter_map(|r| types.get(r).map(|ty| (r, ty))).collect()
}

/// The registers that a statement at this place may read.
pub(crate) fn readable_before(genome: &Genome, space: &Space, at: usize) -> Vec<(Reg, Ty)> {
    readable(genome, space, &types_before(genome, at), fresh_temp(&genome.body))
}

fn number(space: &Space, rng: &mut Stream) -> f64 {
    let (low, high) = (space.constants.0.ln(), space.constants.1.ln());
    (low + (high - low) * rng.uniform()).exp()
}

/// An argument of any type, or of one.
fn argument(from: &[(Reg, Ty)], only: Option<Ty>, space: &Space, rng: &mut Stream) -> Option<Arg> {
    let numbers = only.is_none_or(|ty| ty == Ty::Scalar);
    if numbers && rng.below(8) < NUMBERS_IN_EIGHT {
        return Some(Arg::Const(number(space, rng)));
    }
    let fitting: Vec<Reg> = from.iter().filter(|(_, ty)| only.is_none_or(|o| o == *ty)).map(|(r, _)| *r).collect();
    if fitting.is_empty() {
        return numbers.then(|| Arg::Const(number(space, rng)));
    }
    Some(Arg::Reg(fitting[rng.below(fitting.len())]))
}

fn ty_of(arg: Arg, types: &Registers<Ty>) -> Ty {
    match arg {
        Arg::Reg(r) => types.get(r).unwrap_or(Ty::Scalar),
        Arg::Const(_) => Ty::Scalar,
    }
}

fn insert(parent: &Genome, space: &Space, rng: &mut Stream) -> Option<(Genome, Change)> {
    if parent.body.len() >= space.statements || space.functions.is_empty() {
        return None;
    }
    let at = rng.below(parent.body.len() + 1);
    let types = types_before(parent, at);
    let temps = fresh_temp(&parent.body);
    let from = readable(parent, space, &types, temps);
    let fun = space.functions[rng.below(space.functions.len())];
    let mut args = Vec::with_capacity(3);
    for k in 0..fun.arity() {
        let only = if k == 1 && matches!(fun, Fun::Dot | Fun::CosineSim) { Some(ty_of(args[0], &types)) } else { None };
        args.push(argument(&from, only, space, rng)?);
    }
    // Any register may be assigned, one of them new.
    let room = usize::from(temps) < MAX_NAMED;
    let mut targets = registers(parent, temps + u8::from(room));
    targets.retain(|r| *r != Reg::T || space.step_count);
    let out = targets[rng.below(targets.len())];
    let mut child = parent.clone();
    child.body.insert(at, Stmt::new(out, fun, &args));
    Some((child, Change::Insert(at)))
}

fn delete(parent: &Genome, rng: &mut Stream) -> Option<(Genome, Change)> {
    if parent.body.len() < 2 {
        return None;
    }
    let at = rng.below(parent.body.len());
    let mut child = parent.clone();
    child.body.remove(at);
    Some((child, Change::Delete(at)))
}

fn modify(parent: &Genome, space: &Space, rng: &mut Stream) -> Option<(Genome, Change)> {
    if parent.body.is_empty() {
        return None;
    }
    let at = rng.below(parent.body.len());
    let stmt = &parent.body[at];
    let arity = stmt.fun.arity();
    if arity == 0 {
        return None;
    }
    let k = rng.below(arity);
    let new = match stmt.args[k] {
        Arg::Const(x) if rng.below(2) == 0 => Arg::Const(scaled(x, rng)),
        _ => {
            let types = types_before(parent, at);
            let from = readable(parent, space, &types, fresh_temp(&parent.body));
            let paired = matches!(stmt.fun, Fun::Dot | Fun::CosineSim);
            argument(&from, paired.then(|| ty_of(stmt.args[1 - k.min(1)], &types)), space, rng)?
        }
    };
    if new == stmt.args[k] {
        return None;
    }
    let mut child = parent.clone();
    child.body[at].args[k] = new;
    Some((child, Change::Modify(at, k)))
}

/// The program with as many states as the space has, the new ones unused.
pub fn with_states(genome: &Genome, space: &Space) -> Genome {
    let mut out = genome.clone();
    for name in ["m", "v", "a", "b", "c", "d", "e", "f", "h", "k", "p", "q"] {
        if out.states.len() >= space.states {
            break;
        }
        if !out.states.iter().any(|s| s.name == name) {
            out.states.push(crate::genome::State::zero(name));
        }
    }
    out
}
