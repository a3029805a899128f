//! Identity of programs by what they compute.
//!
//! Two programs with the same [`Keys::exact`] give the same updates bit for bit (NaN payloads aside): operands of commutative operations are sorted, and of forms that differ in
//! signs and units alone [`crate::dag::Builder`] has made one; nothing else is rearranged; a state is known by its first value and by what becomes of it, not by its name or number. [`Keys::family`] also ignores numbers and the order of whole sums
//! and products: it tells families apart, and proves nothing.

use crate::dag::{Dag, Input, Node, NodeId};
use crate::fun::commutes;
use crate::genome::MAX_STATES;
use optc_ir::scalar::ScalarOp;

/// The hashes of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keys {
    /// Of what it computes.
    pub exact: u128,
    /// Of its form without numbers.
    pub family: u128,
}

/// Rounds after which states of any two programs that differ have been told apart: by the number of their states together.
const ROUNDS: usize = 2 * MAX_STATES;

/// The multiplier and increment of the mixing function, and the shifts of its finalizer, are those of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Two independent 64-bit hashes of a sequence. Stored in archives: it must not change.
pub(crate) fn combine(words: &[u128]) -> u128 {
    let (mut a, mut b) = (0x6A09_E667_F3BC_C908u64, 0xBB67_AE85_84CA_A73Bu64);
    for word in words {
        let (low, high) = (*word as u64, (*word >> 64) as u64);
        a = mix(a.rotate_left(5) ^ low).wrapping_add(mix(high ^ 0xA54F_F53A_5F1D_36F1));
        b = mix(b.rotate_left(9) ^ high).wrapping_add(mix(low ^ 0x510E_527F_ADE6_82D1));
    }
    (u128::from(mix(a)) << 64) | u128::from(mix(b))
}

/// Tags of nodes, apart from those of scalar operations.
const INPUT: u128 = 1 << 32;
const CONST: u128 = 2 << 32;
const SUM: u128 = 3 << 32;
const TOTAL: u128 = 4 << 32;
const STATE: u128 = 5 << 32;
const MAP: u128 = 6 << 32;
const CHAIN: u128 = 7 << 32;

/// What of a program is looked at.
#[derive(Clone, Copy, PartialEq)]
enum View {
    Exact,
    Family,
}

/// The hash of every node, given those of states.
fn nodes(dag: &Dag, states: &[u128], view: View, out: &mut Vec<u128>) {
    out.clear();
    for id in dag.ids() {
        let at = |x: NodeId| out[x.0 as usize];
        let hash = match *dag.node(id) {
            Node::Input(Input::State(k)) => combine(&[STATE, states[k as usize]]),
            Node::Input(input) => {
                let number = match input {
                    Input::W => 0,
                    Input::G => 1,
                    Input::Lr => 2,
                    Input::T | Input::State(_) => 3,
                };
                combine(&[INPUT, number])
            }
            Node::Const(_) if view == View::Family => combine(&[CONST]),
            Node::Const(bits) => combine(&[CONST, u128::from(bits)]),
            Node::Sum(x) => combine(&[SUM, at(x)]),
            Node::Total(x) => combine(&[TOTAL, at(x)]),
            Node::Map(op @ (ScalarOp::Add | ScalarOp::Mul), _) if view == View::Family => {
                let mut terms = Vec::new();
                chain(dag, op, id, &mut terms);
                let mut words: Vec<u128> = terms.into_iter().map(at).collect();
                words.sort_unstable();
                words.extend([CHAIN, op as u128]);
                combine(&words)
            }
            Node::Map(op, x) => {
                let mut x = x.map(at);
                if commutes(op) && x[0] > x[1] {
                    x.swap(0, 1);
                }
                // Unused operands repeat the first, as it stands before sorting.
                let count = op.arity();
                let mut words = [MAP | op as u128, 0, 0, 0];
                words[1..=count].copy_from_slice(&x[..count]);
                combine(&words[..=count])
            }
        };
        out.push(hash);
    }
}

/// The terms of a chain of one operation.
fn chain(dag: &Dag, op: ScalarOp, id: NodeId, terms: &mut Vec<NodeId>) {
    /// Longer ones (a doubling repeated) are cut into several.
    const LONGEST: usize = 64;
    for x in dag.node(id).operands() {
        match dag.node(*x) {
            Node::Map(inner, _) if *inner == op && terms.len() < LONGEST => chain(dag, op, *x, terms),
            _ => terms.push(*x),
        }
    }
}

fn hash(dag: &Dag, view: View, scratch: &mut Vec<u128>) -> u128 {
    let mut states: Vec<u128> = dag.states.iter().map(|s| if view == View::Exact { u128::from(s.init.to_bits()) } else { 0 }).collect();
    let rounds = if dag.states.is_empty() { 0 } else { ROUNDS };
    for _ in 0..rounds {
        nodes(dag, &states, view, scratch);
        let old = states.clone();
        for (k, state) in dag.states.iter().enumerate() {
            states[k] = combine(&[old[k], scratch[state.next.0 as usize]]);
        }
    }
    nodes(dag, &states, view, scratch);
    scratch[dag.update.0 as usize]
}

/// The hashes of what a program computes.
pub fn keys(dag: &Dag) -> Keys {
    let mut scratch = Vec::with_capacity(dag.nodes.len());
    Keys { exact: hash(dag, View::Exact, &mut scratch), family: hash(dag, View::Family, &mut scratch) }
}
