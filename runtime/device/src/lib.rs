//! Plans on NVIDIA GPUs.
//!
//! The driver is loaded when the first GPU is opened ([`Gpu::open`]); without one that is an error in words, and nothing else needs it. [`Code`] is a plan's code as the driver
//! has compiled it, [`DevicePlan`] the plan bound to memory: an [`optc_exec::Remote`], so that a program on a GPU is used like any other.
//!
//! A run is put into a stream and not waited for. From the second run on it is one recorded graph. Hyperparameters, counters and states are memory of the GPU; an error is a word
//! there which every kernel looks at first, so that nothing is written behind it and nobody has to wait to find out. What a run reads of this computer's memory is
//! copied to memory that does not move and from there behind the computer's back; results come the same way.
//!
//! Several GPUs ([`Team`]) run a plan together ([`TeamPlan`]), each with its part of a batch, and add up what only all of them know with NVIDIA's library NCCL.

mod blas;
mod code;
mod driver;
mod error;
mod gpu;
mod memory;
mod nccl;
mod parallel;
mod plan;
mod ring;
mod steps;
mod stream;
mod tables;
mod team;
mod timing;
mod utilities;
mod walk;

pub use code::Code;
pub use error::{DeviceError, Result};
pub use gpu::{Gpu, Mirror, Properties, count};
pub use parallel::TeamPlan;
pub use plan::DevicePlan;
pub use team::Team;
