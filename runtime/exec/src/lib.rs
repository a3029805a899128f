//! Runs plans: arena memory, thread pool, matrix products, convolutions.
//!
//! Nothing here depends on the number of threads: work is cut into units by shape alone, and each unit's arithmetic is fixed.

mod attention;
pub mod conv;
pub mod gemm;
pub mod host_call;
pub mod lib_call;
mod matvec;
pub mod narrow;
pub mod offload;
#[cfg(target_arch = "x86_64")]
mod packed;
pub mod pool;
pub mod program;
pub mod remote;
mod simd;
mod winograd;

pub use host_call::HostCall;
pub use pool::Pool;
pub use program::{Callback, Program, RunError, Spent};
pub use remote::{Remote, Trouble};
