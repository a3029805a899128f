//! Kernels and plans to machine code through Cranelift.

use optc_abi::plan::{Plan, PlanFn};
use optc_ir::kernel::Kernel;
use std::fmt;
use std::sync::Arc;

/// How code is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Threads of the pool the plan will run on; with 1 kernels are called directly, without the pool.
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { threads: 1 }
    }
}

/// Why no code was made: a machine without the needed instructions, or a compiler bug.
#[derive(Clone, Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Error {}

/// Machine code of a plan; the code lives as long as this value.
pub struct Compiled {
    /// The whole plan as one function.
    pub entry: PlanFn,
}

/// Compiles kernels and the plan that calls them.
///
/// # Errors
/// If Cranelift does not support this machine.
pub fn compile(_kernels: &[Kernel], _plan: &Arc<Plan>, _config: &Config) -> Result<Compiled, Error> {
    Err(Error("code generation is not available in this build".to_string()))
}

/// Cranelift's intermediate form of every kernel and of the plan's entry, as text.
pub fn clif(kernels: &[Kernel], _plan: &Plan) -> String {
    format!("; {} kernels\n", kernels.len())
}

/// Machine code of every kernel and of the plan's entry, as text.
pub fn asm(kernels: &[Kernel], _plan: &Plan) -> String {
    format!("; {} kernels\n", kernels.len())
}
