//! Which values depend on the differentiated inputs, and on which the differentiated outputs depend.
//!
//! Both analyses are per result, follow only operands through which a derivative flows, and go through loops (to a fixed point),
//! conditionals and calls. Only values with both properties get tangents.

use super::scalar::has_partial;
use optc_ir::graph::{Graph, LibCall, LoopOp, Node, NodeTy, Op};
use smallvec::{SmallVec, smallvec};

/// One flag per result of a node (one for an array).
pub type Flags = SmallVec<[bool; 1]>;

/// The result of an LU factorization that is the sign of its permutation.
const LU_SIGN: usize = 2;

/// Which results of a node are floats.
pub fn float_results(node: &Node) -> Flags {
    match &node.ty {
        NodeTy::Array(ty) => smallvec![ty.dtype.is_float()],
        NodeTy::Tuple(types) => types.iter().map(|t| t.dtype.is_float()).collect(),
    }
}

/// Whether a derivative flows from the operand at `position` to the result of an operation that yields one array.
pub fn flows(op: &Op, position: usize) -> bool {
    match op {
        Op::Input { .. }
        | Op::Const(_)
        | Op::Iota { .. }
        | Op::Bitcast
        | Op::ArgReduce { .. }
        | Op::ArgSort { .. }
        | Op::RandomBits { .. }
        | Op::RandomFold { .. }
        | Op::StopGradient => false,
        Op::Map(s) => has_partial(*s, position),
        Op::Gather { .. } => position == 0,
        Op::Scatter { .. } => position != 1,
        // The factors are there for the solve; the derivative flows through the matrix itself.
        Op::Lib(LibCall::LuSolve { .. }) => position == 0 || position == 3,
        Op::Lib(LibCall::Assignment { .. }) => false,
        _ => true,
    }
}

/// For each node, which results depend on the inputs marked in `inputs`.
pub fn active(f: &Graph, inputs: &[bool]) -> Vec<Flags> {
    let mut out: Vec<Flags> = Vec::with_capacity(f.len());
    for id in f.ids() {
        let node = f.node(id);
        let mut flags: Flags = match &node.op {
            Op::Input { index } => smallvec![inputs[*index as usize]],
            Op::Result { index } => smallvec![out[node.operands[0].index()][*index]],
            _ => {
                let operands: Vec<bool> = node.operands.iter().map(|o| out[o.index()][0]).collect();
                match &node.op {
                    _ if !operands.contains(&true) => float_results(node).iter().map(|_| false).collect(),
                    Op::Loop(l) => {
                        let (ins, outs) = loop_active(l, &operands[usize::from(l.trip.is_none())..]);
                        (0..outs.len()).map(|k| if k < l.carried { ins[1 + k] } else { outs[k] }).collect()
                    }
                    Op::Cond { then, otherwise } => {
                        let (a, b) = (active_outputs(then, &operands[1..]), active_outputs(otherwise, &operands[1..]));
                        a.iter().zip(&b).map(|(a, b)| *a || *b).collect()
                    }
                    Op::Call(c) if c.vjp.is_none() => active_outputs(&c.body, &operands).into(),
                    Op::Call(_) | Op::Callback { .. } | Op::AllReduce => float_results(node),
                    op @ Op::Lib(call) => {
                        let flowing = operands.iter().enumerate().any(|(i, &a)| a && flows(op, i));
                        (0..float_results(node).len()).map(|k| flowing && !(*call == LibCall::Lu && k == LU_SIGN)).collect()
                    }
                    op => smallvec![operands.iter().enumerate().any(|(i, &a)| a && flows(op, i))],
                }
            }
        };
        for (flag, float) in flags.iter_mut().zip(float_results(node)) {
            *flag &= float;
        }
        out.push(flags);
    }
    out
}

fn active_outputs(f: &Graph, inputs: &[bool]) -> Vec<bool> {
    let flags = active(f, inputs);
    f.outputs.iter().map(|o| flags[o.index()][0]).collect()
}

/// Activity of a loop body's inputs and outputs, given that of the loop's operands (without the trip count).
pub fn loop_active(l: &LoopOp, operands: &[bool]) -> (Vec<bool>, Vec<bool>) {
    let mut ins = vec![false];
    ins.extend(operands);
    loop {
        let outs = active_outputs(&l.body, &ins);
        let mut grown = false;
        for k in 0..l.carried {
            if outs[k] && !ins[1 + k] {
                ins[1 + k] = true;
                grown = true;
            }
        }
        if !grown {
            return (ins, outs);
        }
    }
}

/// For each node, on which results the outputs marked in `outputs` depend.
pub fn needed(f: &Graph, outputs: &[bool]) -> Vec<Flags> {
    let mut out: Vec<Flags> = f.ids().map(|id| float_results(f.node(id)).iter().map(|_| false).collect()).collect();
    for (id, &wanted) in f.outputs.iter().zip(outputs) {
        out[id.index()][0] |= wanted;
    }
    for id in f.ids().rev() {
        let node = f.node(id);
        let flags = out[id.index()].clone();
        if !flags.contains(&true) {
            continue;
        }
        if let Op::Result { index } = node.op {
            out[node.operands[0].index()][index] = true;
            continue;
        }
        let operands: Vec<bool> = match &node.op {
            Op::Loop(l) => {
                let (ins, outs) = loop_needed(l, &flags);
                let mut operands = vec![false; usize::from(l.trip.is_none())];
                // With no pass at all a carried result is its initial value.
                let may_skip = l.trip.is_none_or(|n| n == 0);
                operands.extend((1..ins.len()).map(|i| ins[i] || (may_skip && i <= l.carried && outs[i - 1])));
                operands
            }
            Op::Cond { then, otherwise } => {
                let (a, b) = (needed_inputs(then, &flags), needed_inputs(otherwise, &flags));
                std::iter::once(false).chain(a.iter().zip(&b).map(|(a, b)| *a || *b)).collect()
            }
            Op::Call(c) if c.vjp.is_none() => needed_inputs(&c.body, &flags),
            Op::Call(_) => vec![true; node.operands.len()],
            op => (0..node.operands.len()).map(|i| flows(op, i)).collect(),
        };
        for (o, wanted) in node.operands.iter().zip(operands) {
            out[o.index()][0] |= wanted;
        }
    }
    out
}

/// Which inputs the marked outputs depend on.
pub fn needed_inputs(f: &Graph, outputs: &[bool]) -> Vec<bool> {
    let flags = needed(f, outputs);
    f.inputs.iter().map(|i| flags[i.node.index()][0]).collect()
}

/// Need of a loop body's inputs and outputs, given that of the loop's results.
pub fn loop_needed(l: &LoopOp, results: &[bool]) -> (Vec<bool>, Vec<bool>) {
    let mut outs = results.to_vec();
    loop {
        let ins = needed_inputs(&l.body, &outs);
        let mut grown = false;
        for k in 0..l.carried {
            if ins[1 + k] && !outs[k] {
                outs[k] = true;
                grown = true;
            }
        }
        if !grown {
            return (ins, outs);
        }
    }
}
