//! `optc search`: programs from specs and back, simplification, and the search itself.

pub mod after;
pub mod archive;
pub mod audit;
pub mod block;
pub mod emit;
pub mod evaluate;
pub mod files;
pub mod funnel;
pub mod hunt;
pub mod judge;
pub mod known;
pub mod lineage;
pub mod merge;
pub mod paths;
pub mod polish;
pub mod regress;
pub mod report;
pub mod ring;
pub mod scorer;
pub mod seed;
pub mod spec;
pub mod speed;
pub mod suite;
pub mod task;
pub mod validation;
pub mod view;
