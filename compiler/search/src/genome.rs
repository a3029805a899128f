//! Programs: straight-line bodies of optimizers, one function a statement, redundant statements included.

use crate::dag::{Builder, Dag, Input, NodeId};
use crate::fun::{Fun, Mismatch, Ty};

/// Most states a program may have.
pub const MAX_STATES: usize = 8;
/// Most registers for intermediate values.
pub const MAX_TEMPS: usize = 64;

/// Most of them in a program as it is written or mutated, so that each state may still become one.
pub const MAX_NAMED: usize = MAX_TEMPS - MAX_STATES;

/// A register. All may be assigned; what the weights, gradient, learning rate and step count are assigned holds until the end of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reg {
    /// The weights.
    W,
    /// Their gradient.
    G,
    /// The learning rate.
    Lr,
    /// Number of the step, from 1.
    T,
    /// What is subtracted from the weights at the end of the step; 0 at its start.
    Update,
    /// A state: what it holds at the end of the step it holds at the start of the next.
    State(u8),
    /// An intermediate value.
    Temp(u8),
}

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// What a register holds.
    Reg(Reg),
    /// A number.
    Const(f64),
}

/// `out = fun(args)`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stmt {
    /// Where the value goes.
    pub out: Reg,
    /// What is computed.
    pub fun: Fun,
    /// Of what; as many as the function's arity count.
    pub args: [Arg; 3],
}

impl Stmt {
    /// A statement; arguments that the function does not take are 0.
    pub fn new(out: Reg, fun: Fun, args: &[Arg]) -> Stmt {
        let mut all = [Arg::Const(0.0); 3];
        all[..args.len()].copy_from_slice(args);
        Stmt { out, fun, args: all }
    }

    /// Its arguments.
    pub fn args(&self) -> &[Arg] {
        &self.args[..self.fun.arity()]
    }

    /// The registers it reads.
    pub fn reads(&self) -> impl Iterator<Item = Reg> + '_ {
        self.args().iter().filter_map(|a| if let Arg::Reg(r) = a { Some(*r) } else { None })
    }
}

/// A state's name and first value.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Its value before the first step, in all elements.
    pub init: f64,
}

impl State {
    /// A state that starts at 0.
    pub fn zero(name: &str) -> State {
        State { name: name.to_string(), init: 0.0 }
    }
}

/// A program.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Genome {
    /// Its states.
    pub states: Vec<State>,
    /// Its statements.
    pub body: Vec<Stmt>,
}

/// Why a program means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A statement reads a register that nothing was assigned to.
    Unset {
        /// Which statement.
        statement: usize,
        /// Which register.
        register: Reg,
    },
    /// A statement applies a function to values it is not defined for.
    Types {
        /// Which statement.
        statement: usize,
        /// How so.
        why: Mismatch,
    },
}

impl Fault {
    /// The statement.
    pub fn statement(self) -> usize {
        match self {
            Fault::Unset { statement, .. } | Fault::Types { statement, .. } => statement,
        }
    }
}

/// What registers hold.
#[derive(Clone, Debug)]
pub(crate) struct Registers<T> {
    fixed: [Option<T>; 5],
    states: [Option<T>; MAX_STATES],
    temps: [Option<T>; MAX_TEMPS],
}

impl<T: Copy> Registers<T> {
    pub(crate) fn empty() -> Self {
        Registers { fixed: [None; 5], states: [None; MAX_STATES], temps: [None; MAX_TEMPS] }
    }
    fn slot(&mut self, reg: Reg) -> &mut Option<T> {
        match reg {
            Reg::W => &mut self.fixed[0],
            Reg::G => &mut self.fixed[1],
            Reg::Lr => &mut self.fixed[2],
            Reg::T => &mut self.fixed[3],
            Reg::Update => &mut self.fixed[4],
            Reg::State(k) => &mut self.states[k as usize],
            Reg::Temp(k) => &mut self.temps[k as usize],
        }
    }
    pub(crate) fn get(&self, reg: Reg) -> Option<T> {
        match reg {
            Reg::W => self.fixed[0],
            Reg::G => self.fixed[1],
            Reg::Lr => self.fixed[2],
            Reg::T => self.fixed[3],
            Reg::Update => self.fixed[4],
            Reg::State(k) => self.states[k as usize],
            Reg::Temp(k) => self.temps[k as usize],
        }
    }
    pub(crate) fn set(&mut self, reg: Reg, value: T) {
        *self.slot(reg) = Some(value);
    }
    /// Empties a register; whether it held something.
    pub(crate) fn take(&mut self, reg: Reg) -> bool {
        self.slot(reg).take().is_some()
    }
}

impl Genome {
    /// The types registers have at the start of a step.
    pub(crate) fn first_types(&self) -> Registers<Ty> {
        let mut types = Registers::empty();
        types.set(Reg::W, Ty::Leaf);
        types.set(Reg::G, Ty::Leaf);
        types.set(Reg::Lr, Ty::Scalar);
        types.set(Reg::T, Ty::Scalar);
        types.set(Reg::Update, Ty::Scalar);
        for k in 0..self.states.len() {
            types.set(Reg::State(k as u8), Ty::Leaf);
        }
        types
    }

    /// The type of what a statement assigns, given those of registers before it.
    pub(crate) fn type_of(stmt: &Stmt, types: &Registers<Ty>) -> Result<Ty, Option<Mismatch>> {
        let mut args = [Ty::Scalar; 3];
        for (slot, arg) in args.iter_mut().zip(stmt.args()) {
            if let Arg::Reg(r) = arg {
                *slot = types.get(*r).ok_or(None)?;
            }
        }
        stmt.fun.result(&args[..stmt.fun.arity()]).map_err(Some)
    }

    /// The type of the update.
    ///
    /// # Errors
    /// The first statement that means nothing.
    pub fn check(&self) -> Result<Ty, Fault> {
        let mut types = self.first_types();
        for (statement, stmt) in self.body.iter().enumerate() {
            match Genome::type_of(stmt, &types) {
                Ok(ty) => types.set(stmt.out, ty),
                Err(Some(why)) => return Err(Fault::Types { statement, why }),
                Err(None) => {
                    let register = stmt.reads().find(|r| types.get(*r).is_none()).unwrap_or(stmt.out);
                    return Err(Fault::Unset { statement, register });
                }
            }
        }
        Ok(types.get(Reg::Update).unwrap_or(Ty::Scalar))
    }

    /// What it computes.
    ///
    /// # Errors
    /// As [`Genome::check`].
    pub fn dag(&self) -> Result<Dag, Fault> {
        self.check()?;
        let mut b = Builder::default();
        let mut held: Registers<NodeId> = Registers::empty();
        for (reg, input) in [(Reg::W, Input::W), (Reg::G, Input::G), (Reg::Lr, Input::Lr), (Reg::T, Input::T)] {
            let node = b.input(input);
            held.set(reg, node);
        }
        let zero = b.constant(0.0);
        held.set(Reg::Update, zero);
        for k in 0..self.states.len() as u8 {
            let node = b.input(Input::State(k));
            held.set(Reg::State(k), node);
        }
        for stmt in &self.body {
            let mut args = [zero; 3];
            for (slot, arg) in args.iter_mut().zip(stmt.args()) {
                *slot = match arg {
                    Arg::Reg(r) => held.get(*r).expect("checked"),
                    Arg::Const(x) => b.constant(*x),
                };
            }
            let value = stmt.fun.expand(&mut b, &args[..stmt.fun.arity()]);
            held.set(stmt.out, value);
        }
        let next = |k: usize| held.get(Reg::State(k as u8)).expect("states are set from the start");
        let states: Vec<(f64, NodeId)> = self.states.iter().enumerate().map(|(k, s)| (s.init, next(k))).collect();
        let update = held.get(Reg::Update).expect("set from the start");
        Ok(b.finish(update, &states))
    }
}
