//! Symbolic regression: formulas of given variables that predict a target, found by evolution.
//!
//! A formula ([`formula::Formula`]) is an expression tree. Islands ([`evolve`]) look at the target through views ([`view`]) that leave to linear algebra what it can find; what an island finds becomes a
//! formula of the target, whose numbers are fitted ([`fit`]) by derivatives of our own ([`rows`]) and made readable ([`readable`]).

pub mod control;
pub mod evolve;
pub mod fit;
pub mod formula;
pub mod grain;
pub mod grow;
pub mod import;
pub mod readable;
mod rounding;
pub mod rows;
mod threads;
pub mod tidy;
pub mod view;

#[cfg(test)]
mod tests;
