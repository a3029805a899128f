//! Conditionals: both sides are planned on the same memory, in place where they may be.

use crate::block::{Asked, Block, Target, plan_block};
use crate::net::N;
use crate::schedule::{InPlace, Read, Unit};
use optc_abi::plan::{BufRef, Instr};
use optc_ir::Op;
use optc_ir::graph::Graph;

impl Block<'_> {
    /// A conditional. A result that overwrites an input of this block which is an operand too is made in place: a branch that leaves it alone has nothing to do.
    pub fn branch(&mut self, n: N, then: &Graph, otherwise: &Graph) -> Unit {
        let net = self.net;
        let operands = net.nodes[n].operands.clone();
        let args: Vec<N> = operands[1..].iter().map(|&o| net.strip(o)).collect();
        let mut unit = Unit::new(n);
        let pred = self.place(operands[0]);
        let mut inputs: Vec<BufRef> = args.iter().map(|&o| self.place(o)).collect();
        let types = then.output_types();
        let results: Vec<BufRef> = types.iter().map(|t| BufRef::whole(self.store.temporary(t.dtype, t.len(), self.within))).collect();
        let mut targets: Vec<Target> = results.iter().map(|r| Target { memory: r.clone(), alias: None, update: false }).collect();
        let mut in_place: Vec<N> = Vec::new();
        for r in self.results_of(n) {
            let Op::Result { index } = net.nodes[r].op else { continue };
            let Some(&input) = self.overwritten.get(&r) else { continue };
            let Some(at) = args.iter().position(|&a| a == input) else { continue };
            if in_place.contains(&input) || self.bytes(input) != self.bytes(r) {
                continue;
            }
            in_place.push(input);
            let changed = [then, otherwise].map(|g| !leaves_alone(g, &args, index, input));
            unit.in_place.push(InPlace { node: r, pred: operands[0], changed });
            let own = results[index].clone();
            unit.code.push(Instr::Copy { src: inputs[at].clone(), dst: own.clone(), bytes: self.bytes(r) });
            unit.reads.push(Read { node: input, call: index, aligned: true, last: 0 });
            targets[index].alias = Some(at);
            inputs[at] = own;
        }
        self.reads_all(&mut unit, operands.iter().copied().filter(|&o| !in_place.contains(&net.strip(o))));
        let watch = self.watched_results(n);
        let mut side = |graph: &Graph| {
            let mut side = net.inside(graph);
            // What is handed over twice is one array: one of the two may be overwritten.
            for (k, arg) in args.iter().enumerate() {
                let first = args.iter().position(|a| a == arg).unwrap_or(k);
                if first < k {
                    side.merge_inputs(k, first);
                }
            }
            plan_block(self.store, side, &inputs, &targets, Asked { guards: &[], watch: &watch }, self.within)
        };
        let (then, otherwise) = (side(then), side(otherwise));
        unit.code.push(Instr::Cond { pred, then, otherwise });
        self.take_results(n, &results, &mut unit);
        unit
    }
}

/// Whether an output of a branch is the array `input` among its arguments.
fn leaves_alone(branch: &Graph, args: &[N], output: usize, input: N) -> bool {
    let mut node = branch.outputs[output];
    while matches!(branch.node(node).op, Op::Reshape | Op::StopGradient) {
        node = branch.node(node).operands[0];
    }
    matches!(branch.node(node).op, Op::Input { index } if args[index as usize] == input)
}
