//! What an optimizer costs, read off the plan of its step.

use crate::needs::Needs;
use crate::pipeline::{self, CompileOptions, Stages, Timings};
use optc_abi::plan::{Instr, KernelCall, LibOp, Plan, Trip};
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_ir::kernel::{Expr, Extent, Kernel, LOCAL, Stmt};
use optc_ir::{Graph, Op};
use std::collections::BTreeMap;

/// The cost of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Parameters.
    pub parameters: usize,
    /// Bytes of states, per parameter.
    pub state_bytes: f64,
    /// Bytes read, per parameter.
    pub read: f64,
    /// Bytes written, per parameter.
    pub written: f64,
    /// Kernel instructions of the step.
    pub kernels: usize,
    /// How often the step goes over arrays of the leaf's size.
    pub passes: usize,
    /// Matrix products, convolutions and sorts.
    pub library_calls: usize,
    /// What it does besides arithmetic on single elements.
    pub needs: Needs,
}

/// The update alone: the step without the loss and what is recorded.
pub fn update_only(program: &TrainProgram) -> (Graph, CompileOptions) {
    let mut graph = program.step.graph.clone();
    let slots = program.slots.len();
    graph.outputs.truncate(slots);
    (graph, CompileOptions { alias: (0..slots).map(|k| (k, k)).collect(), ..CompileOptions::default() })
}

/// Whether the step gives any parameter a new value: a rule that only transforms gradients does not.
pub fn changes_weights(program: &TrainProgram) -> bool {
    let graph = &program.step.graph;
    let params = program.slots.iter().enumerate().filter(|(_, s)| s.kind == SlotKind::Param);
    params.into_iter().any(|(k, _)| !matches!(graph.node(graph.outputs[k]).op, Op::Input { .. }))
}

/// The cost of a program's update.
pub fn cost(program: &TrainProgram) -> Cost {
    let (graph, options) = update_only(program);
    let Stages { simplified, planned } = pipeline::plan(graph, &options, &mut Timings::default());
    let bytes = |kind| program.slots.iter().filter(|s| s.kind == kind).map(|s| s.ty.len() * s.ty.dtype.size()).sum::<usize>();
    let parameters: usize = program.slots.iter().filter(|s| s.kind == SlotKind::Param).map(|s| s.ty.len()).sum();
    let kernels: Vec<&Kernel> = planned.kernels.iter().map(|k| &k.kernel).collect();
    let largest = program.slots.iter().filter(|s| s.kind == SlotKind::Param).map(|s| s.ty.len()).max().unwrap_or(1);
    let mut traffic =
        Traffic { plan: &planned.plan, kernels: &kernels, large: largest.div_ceil(2).max(2), ..Traffic::new(&planned.plan, &kernels) };
    traffic.code(&planned.plan.code, 1);
    let per = |n: usize| n as f64 / parameters.max(1) as f64;
    Cost {
        parameters,
        state_bytes: per(bytes(SlotKind::State)),
        read: per(traffic.read),
        written: per(traffic.written),
        kernels: traffic.kernel_count,
        passes: traffic.passes,
        library_calls: traffic.library_calls,
        needs: Needs::of(&simplified, &program.step.asked_again),
    }
}

/// A number in units of 1 / `parts`, without needless digits.
pub fn rounded(x: f64, parts: f64) -> String {
    let rounded = (x * parts).round() / parts;
    optc_abi::number::exact_as_stored(if rounded == 0.0 { 0.0 } else { rounded })
}

/// The least an update can move: every parameter and state once in and once out, every gradient once in.
pub fn nominal_bytes(program: &TrainProgram) -> usize {
    let slots: usize = program.slots.iter().filter(|s| s.ty.len() > 1).map(|s| 2 * s.ty.len() * s.ty.dtype.size()).sum();
    let gradients: usize = program.data.iter().flat_map(|d| &d.example).map(|ty| ty.len() * ty.dtype.size()).sum();
    slots + gradients
}

/// Sums what the instructions of a plan move.
struct Traffic<'a> {
    plan: &'a Plan,
    kernels: &'a [&'a Kernel],
    /// Elements from which an array counts as one of the leaf's size.
    large: usize,
    read: usize,
    written: usize,
    kernel_count: usize,
    passes: usize,
    library_calls: usize,
}

impl<'a> Traffic<'a> {
    fn new(plan: &'a Plan, kernels: &'a [&'a Kernel]) -> Self {
        Traffic { plan, kernels, large: 2, read: 0, written: 0, kernel_count: 0, passes: 0, library_calls: 0 }
    }

    fn bytes(&self, buffer: usize) -> usize {
        let b = &self.plan.buffers[buffer];
        b.len * b.dtype.size()
    }

    fn code(&mut self, code: &[Instr], times: usize) {
        for instr in code {
            match instr {
                Instr::Kernel { kernel, calls } => {
                    self.kernel_count += times;
                    self.kernel(*kernel, calls, times);
                }
                Instr::Gemm(g) => {
                    self.library_calls += times;
                    self.passes += times;
                    self.read += times * (self.bytes(g.a.data.buffer) + self.bytes(g.b.data.buffer));
                    self.written += times * self.bytes(g.c.data.buffer);
                }
                Instr::Conv(c) => {
                    self.library_calls += times;
                    self.passes += times;
                    self.read += times * (self.bytes(c.lhs.buffer) + self.bytes(c.rhs.buffer));
                    self.written += times * self.bytes(c.out.buffer);
                }
                Instr::Copy { bytes, .. } => {
                    self.passes += times * usize::from(*bytes >= 2 * self.large);
                    self.read += times * bytes;
                    self.written += times * bytes;
                }
                // Keys of draws are a few bytes; what leaves memory costs the disk, and what is called back is not the plan's.
                Instr::Lib {
                    op: LibOp::RandomFold { .. } | LibOp::SwapOut { .. } | LibOp::SwapIn { .. } | LibOp::Callback { .. }, ..
                } => {}
                Instr::Lib { buffers, .. } => {
                    self.library_calls += times;
                    self.passes += times;
                    for b in buffers {
                        self.read += times * self.bytes(b.buffer);
                    }
                }
                Instr::Loop { trip, body, .. } => {
                    let passes = if let Trip::Const(n) = trip { *n } else { 1 };
                    self.code(body, times * passes);
                }
                Instr::Cond { then, otherwise, .. } => {
                    // The dearer branch.
                    let before = (self.read, self.written, self.kernel_count, self.passes, self.library_calls);
                    self.code(otherwise, times);
                    let other = (self.read, self.written, self.kernel_count, self.passes, self.library_calls);
                    (self.read, self.written, self.kernel_count, self.passes, self.library_calls) = before;
                    self.code(then, times);
                    if other.0 + other.1 > self.read + self.written {
                        (self.read, self.written, self.kernel_count, self.passes, self.library_calls) = other;
                    }
                }
                Instr::Guard { .. } => {}
            }
        }
    }

    /// Each statement at the top of a kernel is one pass over what it loads and stores.
    fn kernel(&mut self, kernel: usize, calls: &[KernelCall], times: usize) {
        let mut passes = 0;
        for stmt in &self.kernels[kernel].body {
            // Calls may cut one array among them, and may touch parts of it: each array counts once at most.
            let (mut loads, mut stores) = (Touched::new(), Touched::new());
            for call in calls {
                let (mut own_loads, mut own_stores) = (Touched::new(), Touched::new());
                touched(stmt, 1, &call.sizes, &mut own_loads, &mut own_stores);
                for (own, all) in [(own_loads, &mut loads), (own_stores, &mut stores)] {
                    own.into_iter().for_each(|(param, n)| *all.entry(call.buffers[param].buffer).or_default() += n);
                }
            }
            let mut goes_over = false;
            for (of, moved) in [(loads, &mut self.read), (stores, &mut self.written)] {
                for (buffer, elements) in of {
                    let b = &self.plan.buffers[buffer];
                    let elements = elements.min(b.len);
                    *moved += times * elements * b.dtype.size();
                    goes_over |= elements >= self.large;
                }
            }
            passes += usize::from(goes_over);
        }
        self.passes += times * passes;
    }
}

/// Elements of buffers that are loaded or stored.
type Touched = BTreeMap<usize, usize>;

/// Adds the loads and stores of a statement that is executed `times` times, with these run-time sizes.
fn touched(stmt: &Stmt, times: usize, sizes: &[i64], loads: &mut Touched, stores: &mut Touched) {
    match stmt {
        Stmt::For { body, extent, .. } => {
            let passes = match extent {
                Extent::Const(n) => *n,
                Extent::Size(k) => sizes[*k],
            };
            let times = times.saturating_mul(usize::try_from(passes).unwrap_or(0));
            body.iter().for_each(|s| touched(s, times, sizes, loads, stores));
        }
        Stmt::Let { expr: Expr::Load { buffer, .. }, .. } if *buffer < LOCAL => {
            let n = loads.entry(*buffer).or_default();
            *n = n.saturating_add(times);
        }
        Stmt::Store { buffer, .. } if *buffer < LOCAL => {
            let n = stores.entry(*buffer).or_default();
            *n = n.saturating_add(times);
        }
        Stmt::Let { .. } | Stmt::Init { .. } | Stmt::Update { .. } | Stmt::Store { .. } => {}
    }
}
