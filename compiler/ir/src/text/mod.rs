//! Text forms: graphs, which can be read back, and kernels as pseudo code.
//!
//! One node a line: `%2 = add %0, %1 : f32[3]`. Attributes stand between name and operands (`reduce kind=sum axes=[0] %2 : f32`), sub-graphs in
//! braces behind the type, `return` lists the outputs, and `#` starts a comment. Origins are no part of the text, but can be shown as comments.

mod kernel;
mod print;
mod read;

pub use kernel::print_kernel;
pub use print::{PrintOptions, print, print_full, print_with};
pub use read::{ReadError, read};

use crate::graph::{Graph, Op};

/// Whether two graphs have the same nodes, inputs and outputs; sub-graphs are compared by content. Origins do not count.
pub fn same_graph(a: &Graph, b: &Graph) -> bool {
    a.len() == b.len()
        && a.inputs == b.inputs
        && a.outputs == b.outputs
        && a.ids().all(|id| {
            let (x, y) = (a.node(id), b.node(id));
            x.operands == y.operands && x.ty == y.ty && same_op(&x.op, &y.op)
        })
}

fn same_op(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Loop(a), Op::Loop(b)) => {
            (a.trip, a.reverse, a.carried, a.scanned, a.guard) == (b.trip, b.reverse, b.carried, b.scanned, b.guard)
                && same_graph(&a.body, &b.body)
        }
        (Op::Cond { then: a, otherwise: b }, Op::Cond { then: c, otherwise: d }) => same_graph(a, c) && same_graph(b, d),
        (Op::Call(a), Op::Call(b)) => {
            let same_rule = match (&a.vjp, &b.vjp) {
                (Some(a), Some(b)) => same_graph(a, b),
                (None, None) => true,
                _ => false,
            };
            a.name == b.name && same_graph(&a.body, &b.body) && same_rule
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
