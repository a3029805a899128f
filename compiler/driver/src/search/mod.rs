//! `optc search`: programs from specs and back, simplification, and the search itself.

pub mod archive;
pub mod block;
pub mod emit;
pub mod evaluate;
pub mod hunt;
pub mod judge;
pub mod seed;
pub mod spec;
pub mod task;
