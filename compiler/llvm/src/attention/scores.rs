//! From sums of products to scores: scale, what is added, what is hidden.

use super::Problem;
use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use crate::products::batch_offset;
use optc_abi::DType;
use optc_ir::kernel::Literal;

/// An operand of queries x keys.
struct Extra {
    dtype: DType,
    /// Address of the first element of a block's problem.
    base: V,
    row: i64,
    column: i64,
}

/// What scores of a problem are made with.
pub(super) struct Scorer<'p> {
    problem: &'p Problem<'p>,
    mask: Option<Extra>,
    bias: Option<Extra>,
    /// Whether all rows, and columns, of tiles of scores are there.
    covered: (bool, bool),
}

/// A score.
#[derive(Clone, Copy)]
pub(super) struct Score {
    /// That of a hidden key where it is one, and of a key that is not there minus infinity.
    pub(super) value: V,
    /// Whether the key is seen; none if it is.
    pub(super) seen: Option<V>,
    /// Whether query and key are there; none if they are.
    pub(super) real: Option<V>,
}

/// Address of the first element of a problem of operand `n`.
pub(super) fn of_problem(e: &Emit, p: &Problem<'_>, n: usize, base: V, number: V) -> V {
    let offset = batch_offset(e, number, &p.batch, &p.strides[n].batch);
    e.i.element(e.memory_type(p.shapes[n].1), base, offset)
}

/// Address of an element of operand `n` of a problem.
pub(super) fn element(e: &Emit, p: &Problem<'_>, n: usize, base: V, row: V, column: V) -> V {
    let i = &e.i;
    let long = |x: V, by: i64| i.mul(i.cast(Opcode::LLVMSExt, x, i.int_type(64)), i.i64(by));
    let s = &p.strides[n];
    i.element(e.memory_type(p.shapes[n].1), base, i.add(long(row, s.row), long(column, s.column)))
}

impl<'p> Scorer<'p> {
    /// `covered` says whether tiles of queries, and of keys, hold nothing that is not there.
    pub(super) fn new(e: &Emit, problem: &'p Problem<'p>, parameters: &[V], number: V, covered: (bool, bool)) -> Scorer<'p> {
        let extra = |n: usize| Extra {
            dtype: problem.shapes[n].1,
            base: of_problem(e, problem, n, parameters[n], number),
            row: problem.strides[n].row,
            column: problem.strides[n].column,
        };
        Scorer { problem, mask: problem.mask().map(extra), bias: problem.bias().map(extra), covered }
    }

    /// An element of an operand, as a value; any of it where there is none.
    fn read(&self, e: &Emit, extra: &Extra, query: V, key: V, real: Option<V>) -> V {
        let i = &e.i;
        let long = |x: V, by: i64| i.mul(i.cast(Opcode::LLVMSExt, x, i.int_type(64)), i.i64(by));
        let mut at = i.add(long(query, extra.row), long(key, extra.column));
        if let Some(real) = real {
            at = i.select(real, at, i.i64(0));
        }
        let ty = e.memory_type(extra.dtype);
        let at = i.element(ty, extra.base, at);
        e.noted_read(at, extra.dtype.size() as i64);
        let x = i.load(ty, at, extra.dtype.size() as u32);
        i.invariant(x);
        e.widen(extra.dtype, x)
    }

    /// The score of a query and a key (numbers in their arrays), whose product is this sum.
    pub(super) fn score(&self, e: &Emit, query: V, key: V, sum: V) -> Score {
        let (what, sums) = (self.problem.what, self.problem.sums());
        let i = &e.i;
        let below = |x: V, n: usize, covered: bool| (!covered).then(|| i.icmp(IntCC::LLVMIntULT, x, i.i32(n as i64)));
        let (query_real, key_real) = (below(query, what.queries, self.covered.0), below(key, what.keys, self.covered.1));
        let both = |a: Option<V>, b: Option<V>| match (a, b) {
            (Some(a), Some(b)) => Some(i.and(a, b)),
            (a, b) => a.or(b),
        };
        let real = both(query_real, key_real);
        let number = |x: f64| e.literal(sums, Literal::Float(x));
        let mut value = sum;
        if what.scale.get() != 1.0 {
            value = i.op2(Opcode::LLVMFMul, value, number(what.scale.get()));
        }
        if let Some(bias) = &self.bias {
            value = i.op2(Opcode::LLVMFAdd, value, self.read(e, bias, query, key, real));
        }
        let causal = what.causal.map(|offset| {
            let limit = i64::from(i32::MAX) / 4;
            let last = i.add(query, i.i32(offset.clamp(-limit, limit)));
            i.icmp(IntCC::LLVMIntSLE, key, last)
        });
        let mask = self.mask.as_ref().map(|mask| self.read(e, mask, query, key, real));
        let seen = both(causal, mask);
        if let Some(seen) = seen {
            value = i.select(seen, value, number(what.hidden.get()));
        }
        if let Some(there) = key_real {
            value = i.select(there, value, number(f64::NEG_INFINITY));
        }
        Score { value, seen, real }
    }
}
