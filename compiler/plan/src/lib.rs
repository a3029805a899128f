//! From graph to fused kernels to an execution plan with static memory.
//!
//! The stages: `attention` (as one operation, for devices that have kernels for it), `net` (the planner's node list), `positions` (patterns that each reader computes), `rows`, `group` and `by_rows` (which nodes share a kernel), `stage`, `keep`, `loops`, `emit` and `build` (kernels),
//! `remat` and `peak` (what is computed again instead of kept), `symmetric` and `dot` (matrix products: which are symmetric; on memory as it lies),
//! `carry` (arrays that states take over as they are), `block`, `attend`, `all_reduce` and `schedule` (instructions and their order, who writes where),
//! `seq` (small kernels become one), `memory` (the arena).

mod all_reduce;
mod attend;
mod attention;
mod block;
mod branch;
mod build;
mod by_rows;
mod carry;
mod dot;
mod emit;
mod group;
mod index;
mod keep;
mod lin;
mod loops;
mod memory;
mod net;
mod offload;
mod peak;
mod positions;
mod print;
pub mod reference;
mod remat;
mod rows;
mod schedule;
mod seq;
mod stage;
mod store;
mod symmetric;
mod tidy;
mod watch;

pub use print::print;

use block::{Asked, Target, plan_block};
use net::Net;
use optc_abi::plan::{BufRef, BufferDecl, Instr, Place, Plan, SlotDecl};
use optc_ir::Graph;
use optc_ir::kernel::NamedKernel;
use store::{Buffer, Store};

/// How a graph is planned.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Outputs that overwrite the memory of an input: (output, input).
    pub alias: Vec<(usize, usize)>,
    /// Indices of scalar float outputs that must be finite before anything aliased is overwritten.
    pub guards: Vec<usize>,
    /// Outputs to be watched: the pass that writes them reports [`optc_abi::plan::status::WRITTEN`] where they are not finite.
    pub watch: Vec<usize>,
    /// Bytes from which arrays that may leave memory between forward and backward pass ([`optc_ir::Op::Swap`]) do; none of them if it is not given.
    pub swap: Option<usize>,
    /// Inputs whose memory is a file's: [`Plan::offload`] says what is done with them.
    pub offload: Vec<usize>,
    /// Outputs in memory of their own are updates of leaves too (changes, initial states), not only those that overwrite an input.
    pub updates: bool,
    /// Outputs that combine all elements of a large array, wanted as the partial results of its chunks of [`optc_ir::kernel::FLAT_UNIT`] elements.
    pub partials: Vec<usize>,
    /// Small kernels are not joined to one, for a device that starts each in no time and runs it with many threads.
    pub apart: bool,
    /// Attention is one operation, and so are its derivatives, where they can be: for a device that has kernels for them.
    pub attention: bool,
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
pub fn plan(graph: &Graph, config: &Config) -> Planned {
    let fused = config.attention.then(|| attention::fuse(graph));
    let graph = fused.as_ref().unwrap_or(graph);
    let mut store = Store::default();
    let alias = |output: usize| config.alias.iter().find(|a| a.0 == output).map(|a| a.1);
    let types = graph.input_types();
    let external = |store: &mut Store, dtype, len, place| {
        BufRef::whole(store.buffer(Buffer { dtype, len, place: Some(place), forward: None, within: None }))
    };
    let inputs: Vec<BufRef> = types.iter().enumerate().map(|(k, ty)| external(&mut store, ty.dtype, ty.len(), Place::Input(k))).collect();
    let mut net = Net::new(graph, config.swap, config.apart);
    let mut results = graph.output_types();
    for &k in &config.partials {
        if let Some(ty) = net.ask_for_partials(k) {
            results[k] = ty;
        }
    }
    let mut targets = Vec::new();
    for (k, ty) in results.iter().enumerate() {
        let memory = match alias(k) {
            Some(i) => inputs[i].clone(),
            None => external(&mut store, ty.dtype, ty.len(), Place::Output(k)),
        };
        targets.push(Target { memory, alias: alias(k), update: config.updates && !config.partials.contains(&k) });
    }
    let mut code = plan_block(&mut store, net, &inputs, &targets, Asked { guards: &config.guards, watch: &config.watch }, None);
    memory::resolve(&store, &mut code);
    if !config.apart {
        seq::join(&mut store, &mut code);
    }
    let (offsets, arena_bytes) = memory::place(&store, &mut code);
    let mut plan = Plan { arena_bytes, origins: std::mem::take(&mut store.origins.table), ..Plan::default() };
    for (k, ty) in types.iter().enumerate() {
        let name = graph.inputs[k].name.clone();
        plan.inputs.push(SlotDecl { name, dtype: ty.dtype, shape: ty.shape.to_vec(), alias: None });
    }
    for (k, ty) in results.iter().enumerate() {
        let name = alias(k).map_or_else(|| format!("out{k}"), |i| graph.inputs[i].name.clone());
        plan.outputs.push(SlotDecl { name, dtype: ty.dtype, shape: ty.shape.to_vec(), alias: alias(k) });
    }
    // Buffers in use get their final numbers; inputs and outputs keep one each.
    let mut number = vec![usize::MAX; store.buffers.len()];
    for (b, buffer) in store.buffers.iter().enumerate() {
        let place = buffer.place.or(offsets[b].map(Place::Arena));
        if let (Some(place), None) = (place, &buffer.forward) {
            number[b] = plan.buffers.len();
            plan.buffers.push(BufferDecl { dtype: buffer.dtype, len: buffer.len, place });
        }
    }
    plan.constants = std::mem::take(&mut store.constants);
    let mut kernel_number = vec![usize::MAX; store.kernels.len()];
    let mut kernels = Vec::new();
    renumber(&mut code, &number, &mut kernel_number, &mut kernels, &store.kernels);
    plan.code = code;
    if !config.offload.is_empty() {
        plan.offload = offload::touches(&plan, &kernels, &config.offload);
    }
    Planned { plan, kernels }
}

/// Gives buffers and kernels their final numbers, in order of first use.
fn renumber(code: &mut [Instr], buffers: &[usize], numbers: &mut [usize], kernels: &mut Vec<NamedKernel>, all: &[NamedKernel]) {
    for instr in code {
        memory::references(instr, &mut |place| place.buffer = buffers[place.buffer]);
        match instr {
            Instr::Kernel { kernel, .. } => {
                if numbers[*kernel] == usize::MAX {
                    numbers[*kernel] = kernels.len();
                    kernels.push(all[*kernel].clone());
                }
                *kernel = numbers[*kernel];
            }
            Instr::Loop { body, .. } => renumber(body, buffers, numbers, kernels, all),
            Instr::Cond { then, otherwise, .. } => {
                renumber(then, buffers, numbers, kernels, all);
                renumber(otherwise, buffers, numbers, kernels, all);
            }
            _ => {}
        }
    }
}
