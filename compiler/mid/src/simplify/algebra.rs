//! Elementwise operations: order of operands, folding, broadcasts, the rule table, conversions.

use super::Exactness::{Budget, Exact};
use super::build::{Builder, Move};
use super::facts::never_minus_zero;
use super::pattern::{VARS, is_commutative, rules_of, splat_value};
use optc_abi::DType;
use optc_ir::graph::{Axes, NodeId, Op, Origin, Shape, Ty};
use optc_ir::interp::evaluate;
use optc_ir::scalar::{Class, ScalarOp};

/// In the order they are tried.
pub const MOVES: &[Move] = &[
    Move { name: "operands of commutative operations in order", exactness: Exact, step: order_operands },
    Move { name: "exact operations on literals", exactness: Exact, step: fold_exact },
    Move { name: "operations on literals", exactness: Budget, step: fold_literals },
    Move { name: "operations on equal broadcasts", exactness: Exact, step: sink_broadcast },
    Move { name: "rule table", exactness: Exact, step: apply_rules },
    Move { name: "division by a power of two", exactness: Exact, step: divide_by_power_of_two },
    Move { name: "conversions of conversions", exactness: Exact, step: convert },
    Move { name: "sum of neighboring pads", exactness: Exact, step: join_pads },
];

/// Literals last, else the older node first.
fn order_operands(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Map(s) = op else { return None };
    if !is_commutative(*s) {
        return None;
    }
    let rank = |id: NodeId| (splat_value(&b.out, id).is_some() || matches!(b.op_of(id), Op::Const(_)), id);
    if rank(x[0]) > rank(x[1]) { Some(b.make(op.clone(), &[x[1], x[0]], ty.clone(), origin)) } else { None }
}

/// Operations that every back end rounds alike.
fn fold_exact(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    if matches!(op, Op::Map(s) if s.row().ulp > 0.0) { None } else { fold_literals(b, op, x, ty, origin) }
}

/// Evaluates an operation on literals. Shared with movement.
pub fn fold_literals(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    if x.is_empty() || ty.len() > b.context.config.fold_limit {
        return None;
    }
    let mut tensors = Vec::with_capacity(x.len());
    for &id in x {
        let Op::Const(t) = b.op_of(id) else { return None };
        tensors.push(t.clone());
    }
    let operands: Vec<_> = tensors.iter().map(|t| &**t).collect();
    let value = evaluate(op, &operands, ty).ok()?;
    Some(b.constant(value.into(), origin))
}

/// `map(broadcast(a), broadcast(b))` is `broadcast(map(a, b))` if both are broadcast alike; broadcast scalars go along.
fn sink_broadcast(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let mut inner: Option<(Axes, Shape)> = None;
    for &id in x {
        let Op::Broadcast { dims } = b.op_of(id) else { return None };
        let shape = &b.ty(b.operand(id)).shape;
        if dims.is_empty() {
            continue;
        }
        match &inner {
            None => inner = Some((dims.clone(), shape.clone())),
            Some((d, s)) if d == dims && s == shape => {}
            Some(_) => return None,
        }
    }
    let (dims, shape) = inner.unwrap_or_default();
    if shape.iter().product::<usize>() >= ty.len() {
        return None;
    }
    let sources: Vec<NodeId> = x
        .iter()
        .map(|&id| {
            let source = b.operand(id);
            b.broadcast_scalar(source, &shape, origin)
        })
        .collect();
    let small = Ty { dtype: ty.dtype, shape };
    let result = b.make(op.clone(), &sources, small, origin);
    Some(b.broadcast(result, &dims, &ty.shape, origin))
}

impl Builder<'_> {
    /// A scalar under a larger shape; anything else as it is.
    fn broadcast_scalar(&mut self, x: NodeId, shape: &[usize], origin: Origin) -> NodeId {
        if self.ty(x).rank() == 0 { self.broadcast(x, &[], shape, origin) } else { x }
    }
}

fn apply_rules(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Map(s) = op else { return None };
    let main = b.ty(x[if s.row().class == Class::Select { 1 } else { 0 }]).dtype;
    for compiled in rules_of(*s) {
        let rule = compiled.rule;
        if !b.allows(rule.exactness) || !rule.kind.fits(main) {
            continue;
        }
        let mut bound = [None; VARS];
        if !compiled.pattern.matches_operands(&b.out, x, &mut bound) {
            continue;
        }
        if rule.a_is_not_minus_zero && !bound[0].is_some_and(|a| never_minus_zero(&b.out, a)) {
            continue;
        }
        return Some(compiled.replacement.build(b, &bound, ty, main, origin));
    }
    None
}

/// x / 2^k is x * 2^-k, as long as both powers are normal numbers.
fn divide_by_power_of_two(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Map(ScalarOp::Div) = op else { return None };
    let range = match ty.dtype {
        DType::F32 | DType::BF16 => 2f64.powi(-126)..=2f64.powi(126),
        DType::F64 => 2f64.powi(-1022)..=2f64.powi(1022),
        _ => return None,
    };
    let v = splat_value(&b.out, x[1])?;
    if !range.contains(&v.abs()) || v.to_bits() << 12 != 0 {
        return None;
    }
    let inverse = b.splat(ty, 1.0 / v, origin);
    Some(b.map(ScalarOp::Mul, &[x[0], inverse], origin))
}

/// Conversions that lose nothing vanish when taken back; conversions to the same type vanish.
fn convert(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Cast = op else { return None };
    let middle = b.ty(x[0]).dtype;
    if middle == ty.dtype {
        return Some(x[0]);
    }
    if let Op::Cast = b.op_of(x[0]) {
        let source = b.operand(x[0]);
        let from = b.ty(source).dtype;
        // A float in the middle saturates where a direct conversion of integers wraps.
        let saturates = from.is_int() && middle.is_float() && ty.dtype.is_int() && ty.dtype != from && !lossless(from, ty.dtype);
        if lossless(from, middle) && !saturates {
            return Some(b.make(Op::Cast, &[source], ty.clone(), origin));
        }
    }
    None
}

/// Whether every value of `from` is one of `to`, and converting it further gives the same as converting directly.
fn lossless(from: DType, to: DType) -> bool {
    use DType::*;
    match from {
        Bool => true,
        U8 => !matches!(to, Bool | BF16),
        I32 => matches!(to, I64 | F64),
        U32 => matches!(to, I64 | F64),
        F32 => to == F64,
        BF16 | F16 => matches!(to, F32 | F64),
        I64 | F64 => false,
    }
}

/// At most so many pads of one sum are looked at.
const MAX_PADS: usize = 32;

/// One term of a sum of pads with zeros: the padded array and its place along the axis.
struct Term {
    node: NodeId,
    lo: Axes,
    hi: Axes,
}

/// A sum of pads with zeros that do not overlap along one axis: neighbors are joined before they are padded. What additions do to -0 stays.
fn join_pads(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Map(ScalarOp::Add) = op else { return None };
    let mut terms = Vec::new();
    if !x.iter().all(|&id| collect_pads(b, id, MAX_PADS, &mut terms)) {
        return None;
    }
    let (lo, hi) = (&terms[0].lo, &terms[0].hi);
    let differs = |a: usize| terms.iter().any(|t| t.lo[a] != lo[a] || t.hi[a] != hi[a]);
    let apart: Vec<usize> = (0..ty.rank()).filter(|&a| differs(a)).collect();
    let [axis] = apart[..] else { return None };
    terms.sort_by_key(|t| t.lo[axis]);
    let end = |t: &Term| ty.shape[axis] - t.hi[axis];
    if terms.windows(2).any(|w| end(&w[0]) > w[1].lo[axis]) || !terms.windows(2).any(|w| end(&w[0]) == w[1].lo[axis]) {
        return None;
    }
    let zero = b.splat(&Ty::scalar(ty.dtype), 0.0, origin);
    let mut groups: Vec<(Axes, Axes, Vec<NodeId>)> = Vec::new();
    for term in terms {
        let part_ty = b.ty(term.node).clone();
        let zeros = b.splat(&part_ty, 0.0, origin);
        let part = b.map(ScalarOp::Add, &[term.node, zeros], origin);
        match groups.last_mut() {
            Some((_, hi, parts)) if ty.shape[axis] - hi[axis] == term.lo[axis] => {
                *hi = term.hi;
                parts.push(part);
            }
            _ => groups.push((term.lo, term.hi, vec![part])),
        }
    }
    let none: Axes = (0..ty.rank()).map(|_| 0).collect();
    let padded: Vec<NodeId> = groups
        .into_iter()
        .map(|(lo, hi, parts)| {
            let joined = if let [one] = parts[..] { one } else { b.concat(&parts, axis, origin) };
            b.pad(joined, zero, &lo, &hi, &none, origin)
        })
        .collect();
    padded.into_iter().reduce(|sum, next| b.map(ScalarOp::Add, &[sum, next], origin))
}

/// The pads of a sum; false as soon as a term is something else. The newer operand comes first: it is the pad in a long chain.
fn collect_pads(b: &Builder, id: NodeId, depth: usize, terms: &mut Vec<Term>) -> bool {
    let node = b.out.node(id);
    match &node.op {
        Op::Map(ScalarOp::Add) => depth > 0 && node.operands.iter().rev().all(|&o| collect_pads(b, o, depth - 1, terms)),
        Op::Pad { lo, hi, interior } if interior.iter().all(|&i| i == 0) && terms.len() < MAX_PADS => {
            terms.push(Term { node: node.operands[0], lo: lo.clone(), hi: hi.clone() });
            splat_value(&b.out, node.operands[1]).is_some_and(|v| v == 0.0 && !v.is_sign_negative())
        }
        _ => false,
    }
}
