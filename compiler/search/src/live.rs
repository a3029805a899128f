//! Which statements matter.

use crate::genome::{Arg, Genome, Reg, Registers, Stmt};

/// How far ahead is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// All states count as results of the step.
    Step,
    /// A state counts if some later update depends on it.
    Run,
}

/// For each statement whether it matters.
pub fn live(genome: &Genome, horizon: Horizon) -> Vec<bool> {
    let states = genome.states.len();
    let mut wanted = vec![horizon == Horizon::Step; states];
    loop {
        let mut needed: Registers<()> = Registers::empty();
        needed.set(Reg::Update, ());
        for k in (0..states).filter(|k| wanted[*k]) {
            needed.set(Reg::State(k as u8), ());
        }
        let mut alive = vec![false; genome.body.len()];
        for (i, stmt) in genome.body.iter().enumerate().rev() {
            if needed.take(stmt.out) {
                alive[i] = true;
                stmt.reads().for_each(|r| needed.set(r, ()));
            }
        }
        let more: Vec<usize> = (0..states).filter(|k| needed.get(Reg::State(*k as u8)).is_some() && !wanted[*k]).collect();
        if more.is_empty() {
            return alive;
        }
        more.into_iter().for_each(|k| wanted[k] = true);
    }
}

/// The program without statements and states that no update ever depends on. Its trace is the same.
pub fn without_dead_code(genome: &Genome) -> Genome {
    let alive = live(genome, Horizon::Run);
    let mut body: Vec<Stmt> = genome.body.iter().zip(&alive).filter(|(_, a)| **a).map(|(s, _)| *s).collect();
    // A state that is only used as an intermediate register becomes one; one that is never used goes.
    let read_first = |k: u8| {
        for stmt in &body {
            if stmt.reads().any(|r| r == Reg::State(k)) {
                return true;
            }
            if stmt.out == Reg::State(k) {
                return false;
            }
        }
        false
    };
    let count = genome.states.len() as u8;
    let kept: Vec<bool> = (0..count).map(read_first).collect();
    let mut place: Vec<Reg> = Vec::new();
    let (mut states, mut next_temp) = (Vec::new(), fresh_temp(&body));
    for k in 0..count {
        if kept[k as usize] {
            place.push(Reg::State(states.len() as u8));
            states.push(genome.states[k as usize].clone());
        } else {
            place.push(Reg::Temp(next_temp));
            next_temp += 1;
        }
    }
    let renamed = |r: Reg| if let Reg::State(k) = r { place[k as usize] } else { r };
    for stmt in &mut body {
        stmt.out = renamed(stmt.out);
        for arg in &mut stmt.args {
            if let Arg::Reg(r) = arg {
                *r = renamed(*r);
            }
        }
    }
    Genome { states, body }
}

/// The first register for intermediate values behind all that are used. Programs leave room for their states there ([`crate::genome::MAX_NAMED`]).
pub fn fresh_temp(body: &[Stmt]) -> u8 {
    let number = |r: Reg| if let Reg::Temp(k) = r { k + 1 } else { 0 };
    body.iter().flat_map(|s| s.reads().chain([s.out])).map(number).max().unwrap_or(0)
}
