//! Compiled code, kept by the structure of the graph: runs that differ in seeds or hyperparameters share it.

use crate::backend::{self, Backend};
use crate::device::{self, Made, Place};
use crate::pipeline::{self, CompileError, CompileOptions, Timings};
use optc_abi::plan::Plan;
use optc_exec::{Pool, Program};
use optc_ir::Graph;
use optc_ir::graph::Op;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Machine code with its plan, shared by programs.
#[derive(Clone)]
pub struct Compiled {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Its code.
    pub made: Made,
    /// The code was made to run once.
    pub once: bool,
}

/// Compiles graphs and remembers the results.
pub struct Compiler {
    pool: Arc<Pool>,
    known: HashMap<u128, Compiled>,
    /// What compilation took so far, by stage, and how many graphs were compiled.
    pub timings: Timings,
    /// Graphs compiled (not found in the cache).
    pub compiled: usize,
    /// Code reports how long each instruction takes ([`Program::take_profile`]). Set before the first graph is compiled.
    pub profile: bool,
    /// Who makes the code: the process's choice.
    pub backend: Backend,
    /// Code that runs once is made by the same back end, however slow it is to compile, and for the same device.
    pub thorough: bool,
    /// Where programs run from now on.
    pub place: Place,
}

impl Compiler {
    /// A compiler whose programs run on `threads` threads (0: all cores).
    pub fn new(threads: usize) -> Self {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
        Compiler {
            pool: Pool::new(threads),
            known: HashMap::new(),
            timings: Timings::default(),
            compiled: 0,
            profile: false,
            backend: backend::chosen(),
            thorough: false,
            place: Place::default(),
        }
    }

    /// The thread pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A program for a graph, with memory of its own.
    ///
    /// # Errors
    /// What the back end or the device cannot do.
    pub fn program(&mut self, graph: &Graph, options: &CompileOptions) -> Result<Program, CompileError> {
        // What runs once is not worth the way to a device and the time of a slow compiler.
        let at_home = options.once && !self.thorough;
        let place = match (at_home, options.split.is_empty()) {
            (true, _) => Place::Processor,
            (_, true) => self.place.main(),
            _ => self.place.clone(),
        };
        let key = fingerprint(graph, options, place.number());
        let known = self.known.get(&key);
        let compiled = match known {
            Some(c) if !c.once => c.clone(),
            _ => {
                // Whoever asks for a program again will do so more often: now its code is worth the time.
                let options = CompileOptions { once: options.once && known.is_none(), ..options.clone() };
                let backend = if options.once && at_home { Backend::Cranelift } else { self.backend };
                let (compiled, timings) = pipeline::compile(graph.clone(), &options, &self.pool, self.profile, backend, &place)?;
                self.timings.add(&timings);
                self.compiled += 1;
                self.known.insert(key, compiled.clone());
                compiled
            }
        };
        device::program(&compiled, &self.pool)
    }
}

/// A number that two graphs share only if they are the same computation for the same place with the same constants, input types and (where run-time errors name them) places.
fn fingerprint(graph: &Graph, options: &CompileOptions, place: u64) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, place).hash(&mut hasher);
        (&options.alias, &options.guards, &options.watch, &options.offload, options.swap, options.updates, &options.split)
            .hash(&mut hasher);
        hash_graph(graph, &mut hasher);
        u128::from(hasher.finish())
    };
    half(0x9E37_79B9_7F4A_7C15) << 64 | half(0xC2B2_AE3D_27D4_EB4F)
}

fn hash_graph(graph: &Graph, hasher: &mut DefaultHasher) {
    (graph.len(), graph.inputs.len(), graph.outputs.len()).hash(hasher);
    for id in graph.ids() {
        let node = graph.node(id);
        (&node.operands, &node.ty).hash(hasher);
        match &node.op {
            Op::Loop(l) => {
                ("loop", l.trip, l.reverse, l.carried, l.scanned, l.guard).hash(hasher);
                hash_graph(&l.body, hasher);
            }
            Op::Cond { then, otherwise } => {
                "cond".hash(hasher);
                hash_graph(then, hasher);
                hash_graph(otherwise, hasher);
            }
            Op::Call(c) => {
                "call".hash(hasher);
                hash_graph(&c.body, hasher);
            }
            op => op.hash(hasher),
        }
        if matches!(node.op, Op::Gather { .. } | Op::Scatter { .. }) {
            let span = graph.origin(id).span;
            (span.source, span.start, span.end).hash(hasher);
        }
    }
    for input in &graph.inputs {
        input.node.hash(hasher);
    }
    graph.outputs.hash(hasher);
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::DType;
    use optc_ir::{Origin, ScalarOp, Ty};

    fn graph(value: f64, op: ScalarOp) -> Graph {
        let mut g = Graph::new();
        let o = Origin::default();
        let x = g.input("x", Ty::scalar(DType::F32), o);
        let c = g.scalar(DType::F32, value, o);
        let y = g.map(op, &[x, c], o);
        g.outputs = vec![y];
        g
    }

    #[test]
    fn equal_structure_has_an_equal_fingerprint() {
        let none = CompileOptions::default();
        let a = fingerprint(&graph(1.0, ScalarOp::Add), &none, 0);
        assert_eq!(a, fingerprint(&graph(1.0, ScalarOp::Add), &none, 0));
        assert_ne!(a, fingerprint(&graph(2.0, ScalarOp::Add), &none, 0));
        assert_ne!(a, fingerprint(&graph(1.0, ScalarOp::Mul), &none, 0));
        assert_ne!(a, fingerprint(&graph(1.0, ScalarOp::Add), &CompileOptions { alias: vec![(0, 0)], ..none.clone() }, 0));
    }
}
