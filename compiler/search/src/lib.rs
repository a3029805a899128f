//! Symbolic search over optimizers: programs as data, their meaning and identity, mutation, simplification, and the strategy of a search.
//!
//! A program ([`genome::Genome`]) is a straight-line optimizer body with all its redundant statements. What it computes ([`dag::Dag`]) decides everything else: whether two
//! programs are the same ([`hash`]), what they do ([`trace`]), which code is made of them. No files, no machine code: the driver evaluates and archives.

pub mod cma;
pub mod dag;
pub mod evolve;
pub mod fingerprint;
pub mod fun;
pub mod genome;
pub mod hash;
pub mod import;
pub mod interval;
pub mod kappa;
pub mod kernel;
pub mod live;
pub mod memory;
pub mod mutate;
pub mod novelty;
pub mod pareto;
pub mod print;
pub mod regress;
pub mod require;
pub mod rng;
pub mod run;
pub mod shorten;
pub mod simplify;
pub mod stats;
pub mod text;
pub mod trace;
pub mod traits;
pub mod tune;

#[cfg(test)]
mod tests;
