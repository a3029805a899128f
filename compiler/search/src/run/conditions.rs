//! Conditions under which runs can be made, to see what an optimizer depends on: other coordinates, narrow memory, a restart, weights without gradient. Searches have none of them.

use super::Maker;
use crate::rng::Stream;
use optc_abi::DType;
use optc_abi::plan::{BufRef, BufferId, Gemm, Instr, MatRef, Place};
use optc_ir::ScalarOp;
use optc_ir::kernel::{Access, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt};

/// What is different from a search's own runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The optimizer sees each leaf turned: every [`TURNED`] neighboring weights (the last ones of a leaf: as many as are left) by a random rotation.
    pub rotated: bool,
    /// Weights and states are kept in bf16: rounded to nearest before the first step and behind each.
    pub narrow: bool,
    /// Before this step, counted from 0, the optimizer begins anew: its states have their first values, its count of steps is that of the first.
    pub restart: Option<usize>,
    /// The last four of every sixteen weights of a leaf have a gradient of 0 throughout.
    pub bare: bool,
}

/// Weights that are turned together.
pub const TURNED: usize = 64;
/// Of so many weights the last ones have no gradient, see [`Conditions::bare`].
const BARE_OF: usize = 16;
/// See `BARE_OF`.
const BARE: usize = 4;

/// A random rotation or reflection of `n` coordinates, by rows: Gram and Schmidt's method on normal numbers, which gives the uniform distribution.
pub fn rotation(n: usize) -> Vec<f32> {
    let mut rng = Stream::at([0x726F, 0x7461], n as u32, 0);
    let mut rows: Vec<Vec<f64>> = Vec::new();
    while rows.len() < n {
        let mut row: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        // Twice: once leaves what rounding made of parallel parts.
        for _ in 0..2 {
            for other in &rows {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let norm = row.iter().map(|a| a * a).sum::<f64>().sqrt();
        if norm > 1e-3 {
            rows.push(row.into_iter().map(|a| a / norm).collect());
        }
    }
    rows.into_iter().flatten().map(|x| x as f32).collect()
}

/// An array of all leaves in the arena: its buffer and where it begins.
pub(super) type Memory = (BufferId, usize);

/// What the optimizer of a run works on.
pub(super) struct Seen {
    /// Weights, gradients.
    pub weights: Memory,
    /// See `weights`.
    pub gradients: Memory,
    /// Steps that it has made.
    pub step: BufferId,
}

/// Code of the conditions.
pub(super) struct Code {
    /// Before the first step, the weights being there.
    pub begin: Vec<Instr>,
    /// Between the gradients and the optimizer.
    pub before: Vec<Instr>,
    /// Behind the optimizer.
    pub behind: Vec<Instr>,
    /// What the optimizer works on.
    pub seen: Seen,
}

/// What conditions are about.
pub(super) struct Of<'a> {
    /// Weights as the task sees them, gradients, steps of the run.
    pub own: Seen,
    /// States.
    pub states: &'a [BufferId],
    /// Their first values, an input, one state after the other.
    pub first_states: BufferId,
    /// Elements of each leaf, where it begins, and elements of all.
    pub leaves: &'a [usize],
    /// See `leaves`.
    pub offsets: &'a [usize],
    /// See `leaves`.
    pub padded: usize,
}

/// The code of the conditions, nothing where there are none.
pub(super) fn code(m: &mut Maker, of: Of<'_>, conditions: Conditions) -> Code {
    let Seen { weights, gradients, step } = of.own;
    let mut code = Code { begin: Vec::new(), before: Vec::new(), behind: Vec::new(), seen: Seen { weights, gradients, step } };
    if conditions.bare {
        let zeros = m.kernel(bare(of.padded), vec![BufRef::whole(gradients.0)]);
        code.before.push(zeros);
    }
    if conditions.rotated {
        let seen = (m.own(DType::F32, of.padded), m.own(DType::F32, of.padded));
        let mut turns = Turns { m, matrices: Vec::new() };
        code.begin.extend(turns.all(&of, weights, seen.0, false));
        code.before.extend(turns.all(&of, gradients, seen.1, false));
        code.behind.extend(turns.all(&of, seen.0, weights, true));
        code.seen.weights = seen.0;
        code.seen.gradients = seen.1;
    }
    if let Some(restart) = conditions.restart {
        let age = m.own(DType::I32, 1).0;
        let counts = m.kernel(counts_from(restart), vec![BufRef::whole(step), BufRef::whole(age)]);
        code.before.push(counts);
        for (k, state) in of.states.iter().enumerate() {
            let mut first = BufRef::whole(of.first_states);
            first.offset = (k * of.padded * 4) as i64;
            let anew = m.kernel(anew(restart, of.padded), vec![BufRef::whole(step), first, BufRef::whole(*state)]);
            code.before.push(anew);
        }
        code.seen.step = age;
    }
    if conditions.narrow {
        let half = m.own(DType::BF16, of.padded).0;
        let round = |m: &mut Maker, buffer: BufferId| {
            let (whole, half) = (BufRef::whole(buffer), BufRef::whole(half));
            [
                m.kernel(moved(DType::F32, DType::BF16, of.padded), vec![whole.clone(), half.clone()]),
                m.kernel(moved(DType::BF16, DType::F32, of.padded), vec![half, whole]),
            ]
        };
        let begin = round(m, code.seen.weights.0);
        code.begin.extend(begin);
        // What the optimizer has made is rounded before the task sees it.
        let mut rounded: Vec<Instr> = round(m, code.seen.weights.0).into();
        for state in of.states {
            rounded.extend(round(m, *state));
        }
        code.behind.splice(0..0, rounded);
    }
    code
}

/// Products with rotations.
struct Turns<'m> {
    m: &'m mut Maker,
    /// Those there are, by their size.
    matrices: Vec<(usize, BufferId)>,
}

impl Turns<'_> {
    fn matrix(&mut self, n: usize) -> BufferId {
        if let Some((_, buffer)) = self.matrices.iter().find(|(size, _)| *size == n) {
            return *buffer;
        }
        self.m.plan.constants.push(optc_abi::Tensor::from_slice(&[n, n], &rotation(n)));
        let constant = Place::Constant(self.m.plan.constants.len() - 1);
        let buffer = self.m.buffer(DType::F32, n * n, constant);
        self.matrices.push((n, buffer));
        buffer
    }

    /// All leaves of an array turned into another one, or turned back.
    fn all(&mut self, of: &Of<'_>, from: Memory, to: Memory, back: bool) -> Vec<Instr> {
        let mut code = Vec::new();
        for (len, offset) in of.leaves.iter().zip(of.offsets) {
            let whole = len / TURNED * TURNED;
            for (start, rows, n) in [(0, len / TURNED, TURNED), (whole, 1, len - whole)] {
                if rows == 0 || n == 0 {
                    continue;
                }
                let q = self.matrix(n);
                let part = |m: &mut Maker, memory: Memory| {
                    let place = Place::Arena(memory.1 + 4 * (offset + start));
                    let data = BufRef::whole(m.buffer(DType::F32, rows * n, place));
                    MatRef { data, row_stride: n as i64, col_stride: 1, batch_strides: Vec::new() }
                };
                // Rows are vectors: x Qᵀ, and back x Q.
                let (row_stride, col_stride) = if back { (n as i64, 1) } else { (1, n as i64) };
                let b = MatRef { data: BufRef::whole(q), row_stride, col_stride, batch_strides: Vec::new() };
                let (a, c) = (part(self.m, from), part(self.m, to));
                let product = Gemm { dtype: DType::F32, m: rows, n, k: n, batch: Vec::new(), a, b, c, accumulate: false, symmetric: false };
                code.push(Instr::Gemm(product));
            }
        }
        code
    }
}

/// Element `first + by * i`.
fn at(by: i64, first: i64) -> Index {
    Index { offset: first, axes: vec![(0, by)], ..Index::default() }
}

fn over(len: usize, buffers: &[(DType, Access)], values: usize, before: Vec<Stmt>, body: Vec<Stmt>) -> Kernel {
    let mut whole = before;
    whole.push(Stmt::For { axis: 0, extent: Extent::Const(len as i64), kind: LoopKind::Vector, body });
    let buffers = buffers.iter().map(|(dtype, access)| BufferParam { dtype: *dtype, access: *access }).collect();
    Kernel { buffers, axes: 1, values, body: whole, ..Kernel::default() }
}

fn let_(value: usize, dtype: DType, expr: Expr) -> Stmt {
    Stmt::Let { value, dtype, expr }
}

fn load(buffer: usize, index: Index) -> Expr {
    Expr::Load { buffer, index, guard: None }
}

/// A kernel that writes zeros over the last of every sixteen elements.
fn bare(padded: usize) -> Kernel {
    let zero = let_(0, DType::F32, Expr::Const(Literal::Float(0.0)));
    let stores = (0..BARE).map(|k| Stmt::Store { buffer: 0, index: at(BARE_OF as i64, (BARE_OF - BARE + k) as i64), value: 0 });
    let body = std::iter::once(zero).chain(stores).collect();
    over(padded / BARE_OF, &[(DType::F32, Access::ReadWrite)], 1, Vec::new(), body)
}

/// A kernel that copies an array to one of another type.
fn moved(from: DType, to: DType, len: usize) -> Kernel {
    let body = vec![let_(0, DType::F32, load(0, at(1, 0))), Stmt::Store { buffer: 1, index: at(1, 0), value: 0 }];
    over(len, &[(from, Access::Read), (to, Access::Write)], 1, Vec::new(), body)
}

/// Statements that say (value 2) whether the step in buffer 0 is this one (`Eq`), or before it (`Lt`).
fn compared(op: ScalarOp, step: usize) -> Vec<Stmt> {
    vec![
        let_(0, DType::I32, load(0, Index::default())),
        let_(1, DType::I32, Expr::Const(Literal::Int(step as i64))),
        let_(2, DType::Bool, Expr::Map(op, vec![0, 1])),
    ]
}

/// A kernel that counts steps (i32) anew from this one on.
fn counts_from(step: usize) -> Kernel {
    let mut body = compared(ScalarOp::Lt, step);
    body.push(let_(3, DType::I32, Expr::Map(ScalarOp::Sub, vec![0, 1])));
    body.push(let_(4, DType::I32, Expr::Map(ScalarOp::Select, vec![2, 0, 3])));
    body.push(Stmt::Store { buffer: 1, index: Index::default(), value: 4 });
    let buffers = [Access::Read, Access::Write].map(|access| BufferParam { dtype: DType::I32, access }).into();
    Kernel { buffers, values: 5, body, ..Kernel::default() }
}

/// A kernel that gives a state its first values at this step.
fn anew(step: usize, len: usize) -> Kernel {
    let body = vec![
        let_(3, DType::F32, load(1, at(1, 0))),
        let_(4, DType::F32, load(2, at(1, 0))),
        let_(5, DType::F32, Expr::Map(ScalarOp::Select, vec![2, 3, 4])),
        Stmt::Store { buffer: 2, index: at(1, 0), value: 5 },
    ];
    let buffers = [(DType::I32, Access::Read), (DType::F32, Access::Read), (DType::F32, Access::ReadWrite)];
    over(len, &buffers, 6, compared(ScalarOp::Eq, step), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_keep_lengths_and_angles() {
        for n in [1, 2, 5, TURNED] {
            let q = rotation(n);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let product: f64 = (0..n).map(|k| f64::from(q[i * n + k]) * f64::from(q[j * n + k])).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-6, "{n}: rows {i} and {j}: {product}");
            }
        }
    }
}
