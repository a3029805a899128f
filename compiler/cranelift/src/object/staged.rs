//! Functions in several stages: elements of a leaf are combined in one, and the result is used in the next.
//!
//! A reduction goes through the units of a leaf in order; its partial results are combined in [`LANES`] running values, as the vector loop over all partial results would, so that memory for them does not
//! grow with the leaf and the bits are those of the compiler's own plans. What is combined over all leaves ends a round: all leaves are gone through before the next stage begins.

use super::flat::{self, Action, Flat, NotFlat, SCALAR, Source};
use optc_abi::DType;
use optc_abi::plan::Plan;
use optc_ir::ScalarOp;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, Index, Kernel, LANES, LoopKind, Stmt, identity};
use rustc_hash::{FxHashMap, FxHashSet};

/// A combination of all elements of a leaf.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduction {
    /// Where its result is kept among the scalars.
    pub(super) result: i64,
    /// Bytes of an element.
    pub(super) size: i64,
    /// Kernels: the running values begin; partial results are combined into them; they are combined.
    pub(super) start: usize,
    pub(super) combine: usize,
    pub(super) finish: usize,
}

/// A combination over all leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// Where a leaf's part is kept among the scalars.
    pub(super) part: i64,
    pub(super) size: usize,
    pub(super) op: ScalarOp,
    pub(super) dtype: DType,
    /// The kernel that combines a part into it.
    pub(super) combine: usize,
}

/// A state that all leaves share: each leaf has a copy, all are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Its number among the arrays of a leaf.
    pub(super) array: usize,
    pub(super) size: usize,
    /// Where its old and new values are kept among the scalars.
    pub(super) old: i64,
    pub(super) new: i64,
}

/// Where scalars that several stages know are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub length: Option<i64>,
    pub reductions: Vec<Reduction>,
    pub folds: Vec<Fold>,
    pub shared: Vec<Shared>,
}

impl Layout {
    /// Places of scalars that belong to a leaf.
    pub fn leafy(&self) -> FxHashSet<i64> {
        self.length.into_iter().chain(self.reductions.iter().map(|r| r.result)).collect()
    }
}

/// A stage of a function.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its plan for a leaf of some length.
    pub plan: Plan,
    /// Its kernels.
    pub kernels: Vec<Kernel>,
    /// Where its inputs come from.
    pub inputs: Vec<Source>,
    /// Where its outputs go.
    pub outputs: Vec<Source>,
}

/// What is done for all leaves before anything is known that is combined over them.
#[derive(Clone, Debug, Default)]
pub struct RoundOf {
    /// In order.
    pub stages: Vec<Stage>,
    /// Folds to which leaves contribute then.
    pub folds: Vec<usize>,
}

/// A function in stages.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// In order.
    pub rounds: Vec<RoundOf>,
    /// Reductions of a leaf.
    pub reductions: Vec<(ReduceOp, DType)>,
    /// Combinations over leaves.
    pub folds: Vec<(ScalarOp, DType)>,
    /// Shared states: their numbers among the arrays of a leaf.
    pub shared: Vec<(usize, DType)>,
}

impl Staged {
    /// What it does, from plans for a leaf of `length` elements.
    ///
    /// # Errors
    /// As [`super::flatten`].
    pub fn flatten(&self, length: usize) -> Result<Flat, NotFlat> {
        let mut kernels: Vec<Kernel> = Vec::new();
        let mut constants: Vec<Vec<u8>> = Vec::new();
        let mut scratch = 0;
        let mut scalar = || {
            scratch += SCALAR;
            (scratch - SCALAR) as i64
        };
        let mut layout = Layout { length: Some(scalar()), ..Layout::default() };
        let mut known: FxHashMap<(ReduceOp, DType), usize> = FxHashMap::default();
        for &(op, dtype) in &self.reductions {
            let first = *known.entry((op, dtype)).or_insert_with(|| {
                kernels.extend([start(op, dtype), combine(op, dtype), finish(op, dtype)]);
                kernels.len() - 3
            });
            let size = dtype.size() as i64;
            layout.reductions.push(Reduction { result: scalar(), size, start: first, combine: first + 1, finish: first + 2 });
        }
        for &(op, dtype) in &self.folds {
            kernels.push(fold(op, dtype));
            layout.folds.push(Fold { part: scalar(), size: dtype.size(), op, dtype, combine: kernels.len() - 1 });
        }
        for &(array, dtype) in &self.shared {
            layout.shared.push(Shared { array, size: dtype.size(), old: scalar(), new: scalar() });
        }
        let mut rounds = Vec::new();
        for round in &self.rounds {
            let mut actions = Vec::new();
            for stage in &round.stages {
                let mut own = flat::read(&stage.plan, length, &stage.inputs, &stage.outputs, &layout, scratch)?;
                own.iter_mut().for_each(|a| a.shift(kernels.len(), constants.len()));
                actions.extend(own);
                kernels.extend(stage.kernels.iter().cloned());
                constants.extend(stage.plan.constants.iter().map(|t| t.bytes().to_vec()));
                scratch += SCALAR * stage.plan.buffers.len();
            }
            actions.extend(round.folds.iter().map(|&k| Action::Fold(k)));
            rounds.push(actions);
        }
        Flat::new(rounds, scratch, constants, kernels, layout)
    }
}

fn at(axis: usize) -> Index {
    Index { axes: vec![(axis, 1)], ..Index::default() }
}

fn kernel(buffers: &[(DType, Access)], sizes: usize, values: usize, acc: Option<(ReduceOp, DType)>, body: Vec<Stmt>) -> Kernel {
    let buffers = buffers.iter().map(|&(dtype, access)| BufferParam { dtype, access }).collect();
    let accs = acc.into_iter().map(|(op, dtype)| Acc { dtype, op: AccOp::Reduce(op) }).collect();
    Kernel { buffers, locals: Vec::new(), sizes, axes: 1, values, accs, body }
}

fn literal(op: ReduceOp, dtype: DType) -> Stmt {
    Stmt::Let { value: 0, dtype, expr: Expr::Const(identity(op, dtype)) }
}

fn load(value: usize, dtype: DType, buffer: usize, index: Index) -> Stmt {
    Stmt::Let { value, dtype, expr: Expr::Load { buffer, index, guard: None } }
}

/// Running values at the value that changes nothing.
fn start(op: ReduceOp, dtype: DType) -> Kernel {
    let store = Stmt::Store { buffer: 0, index: at(0), value: 0 };
    let body =
        vec![literal(op, dtype), Stmt::For { axis: 0, extent: Extent::Const(LANES as i64), kind: LoopKind::Serial, body: vec![store] }];
    kernel(&[(dtype, Access::Write)], 0, 1, None, body)
}

/// Partial results, as many as the size says, into the running values of the same place.
fn combine(op: ReduceOp, dtype: DType) -> Kernel {
    let body = vec![
        load(0, dtype, 0, at(0)),
        Stmt::Init { acc: 0, value: 0 },
        load(1, dtype, 1, at(0)),
        Stmt::Update { acc: 0, value: 1 },
        Stmt::Let { value: 2, dtype, expr: Expr::Acc(0) },
        Stmt::Store { buffer: 0, index: at(0), value: 2 },
    ];
    let body = vec![Stmt::For { axis: 0, extent: Extent::Size(0), kind: LoopKind::Serial, body }];
    kernel(&[(dtype, Access::ReadWrite), (dtype, Access::Read)], 1, 3, Some((op, dtype)), body)
}

/// The running values, as lanes of one vector loop, to the result.
fn finish(op: ReduceOp, dtype: DType) -> Kernel {
    let inside = vec![load(1, dtype, 0, at(0)), Stmt::Update { acc: 0, value: 1 }];
    let body = vec![
        literal(op, dtype),
        Stmt::Init { acc: 0, value: 0 },
        Stmt::For { axis: 0, extent: Extent::Const(LANES as i64), kind: LoopKind::Vector, body: inside },
        Stmt::Let { value: 2, dtype, expr: Expr::Acc(0) },
        Stmt::Store { buffer: 1, index: Index::default(), value: 2 },
    ];
    kernel(&[(dtype, Access::Read), (dtype, Access::Write)], 0, 3, Some((op, dtype)), body)
}

/// Any number of partial results, as the size says, to the result.
pub(super) fn whole(op: ReduceOp, dtype: DType) -> Kernel {
    let mut few = finish(op, dtype);
    few.sizes = 1;
    for stmt in &mut few.body {
        if let Stmt::For { extent, .. } = stmt {
            *extent = Extent::Size(0);
        }
    }
    few
}

/// A leaf's part into what the leaves before it have contributed.
fn fold(op: ScalarOp, dtype: DType) -> Kernel {
    let body = vec![
        load(0, dtype, 0, Index::default()),
        load(1, dtype, 1, Index::default()),
        Stmt::Let { value: 2, dtype, expr: Expr::Map(op, vec![0, 1]) },
        Stmt::Store { buffer: 0, index: Index::default(), value: 2 },
    ];
    Kernel { axes: 0, ..kernel(&[(dtype, Access::ReadWrite), (dtype, Access::Read)], 0, 3, None, body) }
}
