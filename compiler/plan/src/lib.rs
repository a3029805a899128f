//! From graph to fused kernels to an execution plan with static memory.

use optc_abi::plan::Plan;
use optc_ir::Graph;
use optc_ir::kernel::NamedKernel;

/// How a graph is planned.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Outputs that overwrite the memory of an input: (output, input).
    pub alias: Vec<(usize, usize)>,
    /// Index of a scalar float output that must be finite before anything aliased is overwritten.
    pub guard: Option<usize>,
}

/// A plan and the kernels it runs.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// Instructions and memory.
    pub plan: Plan,
    /// Kernel `k` of the plan; structurally equal kernels are one entry.
    pub kernels: Vec<NamedKernel>,
}

/// Fuses and schedules a verified graph. Panics only if the graph breaks its invariants (a compiler bug).
pub fn plan(graph: &Graph, _config: &Config) -> Planned {
    assert!(graph.is_empty(), "compiler bug: planning of {} nodes is not there yet", graph.len());
    Planned::default()
}
