//! The optc compiler driver: sessions, training runs, experiments and the command line.

pub mod cache;
pub mod host_env;
pub mod nan;
pub mod pipeline;
pub mod trainer;
