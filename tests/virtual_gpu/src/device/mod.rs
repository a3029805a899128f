//! Devices: memory, streams of queued work, events, graphs.

pub mod capture;
pub mod code;
pub mod collective;
pub mod drain;
pub mod log;
pub mod memory;
pub mod module;
pub mod product;
pub mod races;
pub mod state;
pub mod work;
