//! States that take over an array as it is: the gradient or the weights of the step before.
//!
//! An array that already has memory, an input or a product, would be copied into that of the state. Kernels that update other states go over it anyway, so it is
//! written there: a node of its own makes it one of their results.

use crate::net::{N, Net};
use crate::rows::{Class, class};
use optc_ir::Op;

/// Bytes from which a copy is worth a thought.
const LARGE: usize = 1 << 14;

/// Makes results out of arrays that are taken over. `alias` says for each output whose memory it gets.
pub(crate) fn carry(net: &mut Net, alias: &[Option<usize>]) {
    let read: Vec<bool> = {
        let mut read = vec![false; net.nodes.len()];
        for n in 0..net.nodes.len() {
            if matches!(net.nodes[n].op, Op::Map(_)) {
                net.nodes[n].operands.iter().map(|&o| net.strip(o)).for_each(|o| read[o] |= net.len_of(o) == net.len_of(n));
            }
        }
        read
    };
    for (k, alias) in alias.iter().enumerate() {
        let Some(input) = alias.map(|i| net.inputs[i]) else { continue };
        let from = net.outputs[k];
        let large = net.len_of(from) * net.nodes[from].ty.dtype.size() >= LARGE;
        if large && from != input && read[from] && has_memory(net, from) && shared(net, from, k) {
            net.outputs[k] = net.taken_over(from);
        }
    }
}

/// Whether a node's memory is made without asking who reads it.
fn has_memory(net: &Net, n: N) -> bool {
    matches!(net.nodes[n].op, Op::Input { .. })
        || (class(net, n) == Class::Apart && matches!(net.nodes[n].op, Op::Dot(_) | Op::Conv { .. }))
}

/// Whether a kernel that gives another output reads the array.
fn shared(net: &Net, n: N, output: usize) -> bool {
    let mut serves = vec![false; net.nodes.len()];
    net.outputs.iter().enumerate().filter(|&(k, _)| k != output).for_each(|(_, &o)| serves[o] = o != n);
    for m in (0..net.nodes.len()).rev() {
        let elementwise = matches!(net.nodes[m].op, Op::Map(_) | Op::Cast | Op::Reshape) && net.len_of(m) == net.len_of(n);
        if serves[m] && elementwise {
            net.nodes[m].operands.iter().for_each(|&o| serves[o] = true);
        }
    }
    serves[n]
}
