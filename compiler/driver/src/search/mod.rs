//! `optc search`: programs from specs and back, simplification, and the search itself.

pub mod after;
pub mod archive;
pub mod audit;
pub mod block;
pub mod emit;
pub mod evaluate;
pub mod funnel;
pub mod hunt;
pub mod judge;
pub mod polish;
pub mod seed;
pub mod spec;
pub mod task;
