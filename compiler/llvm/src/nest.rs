//! What of a kernel's units can be cut into pieces that any thread may do in any order.
//!
//! Kernels are planned for few cores: a unit may be a thousand rows in order. Where rows have nothing to do with each other, each is a piece of its own on a GPU. The loops
//! that are taken apart stand one in the other around everything that is stored, with nothing between but values; and each of their passes has its part of every array
//! that is written, by the strides and extents of its index.

use crate::host::Facts;
use optc_ir::kernel::{AxisId, BufferId, Expr, Extent, Index, Kernel, LOCAL, LoopKind, Stmt};

/// Passes that a loop has at least whose passes are dealt out within a block.
const FEW: i64 = 8;

/// Loops around the rest of a kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nest {
    /// The parallel loop.
    pub(crate) parallel: Option<AxisId>,
    /// Loops in order whose passes are independent, outermost first.
    pub(crate) apart: Vec<(AxisId, i64)>,
    /// Values that are defined between them.
    pub(crate) between: Vec<Stmt>,
    /// What each pass of all of them does.
    pub(crate) body: Vec<Stmt>,
}

impl Nest {
    /// Pieces of a unit.
    pub(crate) fn pieces(&self) -> i64 {
        self.apart.iter().map(|a| a.1).product()
    }
}

/// Accesses of some statements, with the extents of the loops around each that are within them.
fn accesses<'s>(
    body: &'s [Stmt],
    inner: &mut Vec<(AxisId, Extent)>,
    found: &mut dyn FnMut(BufferId, &'s Index, bool, &[(AxisId, Extent)]),
) {
    for stmt in body {
        match stmt {
            Stmt::For { axis, extent, body, .. } => {
                inner.push((*axis, *extent));
                accesses(body, inner, found);
                inner.pop();
            }
            Stmt::Let { expr: Expr::Load { buffer, index, .. }, .. } => found(*buffer, index, false, inner),
            Stmt::Store { buffer, index, .. } => found(*buffer, index, true, inner),
            _ => {}
        }
    }
}

/// The buffers that are stored to.
pub(crate) fn written(body: &[Stmt]) -> Vec<BufferId> {
    let mut all = Vec::new();
    accesses(body, &mut Vec::new(), &mut |buffer, _, store, _| {
        if store && !all.contains(&buffer) {
            all.push(buffer);
        }
    });
    all
}

/// Accumulators that are read or updated before they are set, in the order of the text.
fn carried(body: &[Stmt], set: &mut Vec<usize>) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Init { acc, .. } => {
            set.push(*acc);
            false
        }
        Stmt::Update { acc, .. } | Stmt::Let { expr: Expr::Acc(acc), .. } => !set.contains(acc),
        Stmt::For { body, .. } => {
            // What is set in a loop may not be set after it.
            let before = set.len();
            let found = carried(body, set);
            set.truncate(before);
            found
        }
        _ => false,
    })
}

/// The place of a buffer, if nothing else overlaps it.
pub(crate) fn place(buffer: BufferId, facts: &Facts) -> Option<BufferId> {
    if buffer >= LOCAL { Some(buffer) } else { facts.place(buffer) }
}

/// Whether passes of a loop touch different parts of everything that is written.
pub(crate) fn independent(axis: AxisId, passes: i64, body: &[Stmt], facts: &Facts) -> bool {
    if carried(body, &mut Vec::new()) {
        return false;
    }
    let Some(written) = written(body).into_iter().map(|b| place(b, facts).filter(|&b| b < LOCAL)).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut fine = true;
    accesses(body, &mut Vec::new(), &mut |buffer, index, _, inner| {
        let Some(buffer) = place(buffer, facts).filter(|b| written.contains(b)) else { return };
        fine &= index.values.is_empty() && index.sized.is_empty();
        let Some(part) = Part::new(buffer, index, (axis, passes), inner) else {
            fine = false;
            return;
        };
        match parts.iter_mut().find(|p| p.buffer == buffer) {
            None => parts.push(part),
            Some(all) => fine &= all.join(part),
        }
    });
    fine && parts.iter().all(|p| p.span < p.stride.abs() || (p.same && p.one_to_one))
}

/// What one pass of a loop touches of a buffer.
struct Part {
    buffer: BufferId,
    /// Elements from pass to pass.
    stride: i64,
    low: i64,
    /// Elements from the first to the last.
    span: i64,
    /// Loops around that one, with strides.
    outer: Vec<(AxisId, i64)>,
    /// The index, as far as it moves within; accesses with the same one are to the same elements.
    form: (i64, Vec<(AxisId, i64)>),
    /// All accesses have the same form.
    same: bool,
    /// No element belongs to two passes.
    one_to_one: bool,
}

impl Part {
    /// Nothing if extents are not known.
    fn new(buffer: BufferId, index: &Index, (axis, passes): (AxisId, i64), inner: &[(AxisId, Extent)]) -> Option<Part> {
        let (mut stride, mut low, mut high) = (0, index.offset, index.offset);
        let (mut outer, mut moves, mut form) = (Vec::new(), Vec::new(), Vec::new());
        for &(a, s) in &index.axes {
            if a == axis {
                stride += s;
            } else if let Some((_, extent)) = inner.iter().find(|i| i.0 == a) {
                let Extent::Const(n) = extent else { return None };
                low += (s * (n - 1)).min(0);
                high += (s * (n - 1)).max(0);
                moves.push((s.abs(), *n));
                form.push((a, s));
            } else {
                outer.push((a, s));
            }
        }
        outer.sort_unstable();
        form.sort_unstable();
        // In mixed radix no two numbers are the same.
        moves.push((stride.abs(), passes));
        moves.sort_unstable();
        let mut reach = 0;
        let mut one_to_one = true;
        for &(s, n) in &moves {
            one_to_one &= s > reach;
            reach += s * (n - 1);
        }
        Some(Part { buffer, stride, low, span: high - low, outer, form: (index.offset, form), same: true, one_to_one })
    }

    /// Adds another access; whether the passes are still to be told apart.
    fn join(&mut self, other: Part) -> bool {
        let fine = self.stride == other.stride && self.outer == other.outer;
        let high = (self.low + self.span).max(other.low + other.span);
        self.low = self.low.min(other.low);
        self.span = high - self.low;
        self.same &= self.form == other.form;
        fine
    }
}

/// How often each accumulator is named.
fn named(body: &[Stmt], counts: &mut Vec<usize>) {
    for stmt in body {
        match stmt {
            Stmt::Init { acc, .. } | Stmt::Update { acc, .. } | Stmt::Let { expr: Expr::Acc(acc), .. } => {
                counts.resize(counts.len().max(acc + 1), 0);
                counts[*acc] += 1;
            }
            Stmt::For { body, .. } => named(body, counts),
            _ => {}
        }
    }
}

/// Whether passes of a loop in order can be dealt out to parts of a block that do not wait for each other: they are apart, and nobody outside asks for their accumulators.
pub(crate) fn dealt(kernel: &Kernel, axis: AxisId, extent: Extent, body: &[Stmt], facts: &Facts) -> bool {
    let Extent::Const(passes) = extent else { return false };
    let (mut here, mut all) = (Vec::new(), Vec::new());
    named(body, &mut here);
    named(&kernel.body, &mut all);
    let own = here.iter().zip(&all).all(|(h, a)| *h == 0 || h == a);
    passes >= FEW && own && body.iter().any(|s| matches!(s, Stmt::For { .. })) && independent(axis, passes, body, facts)
}

/// Takes loops apart as far as that can be.
pub(crate) fn nest(kernel: &Kernel, facts: &Facts) -> Nest {
    let mut nest = Nest::default();
    let mut body: &[Stmt] = &kernel.body;
    // What the whole kernel writes is read between the loops by nobody.
    let all: Vec<Option<BufferId>> = written(body).into_iter().map(|b| place(b, facts)).collect();
    let quiet = |stmt: &Stmt| match stmt {
        Stmt::Let { expr: Expr::Load { buffer, .. }, .. } => {
            let here = place(*buffer, facts);
            here.is_some() && !all.contains(&here)
        }
        Stmt::Let { expr: Expr::Acc(_), .. } => false,
        Stmt::Let { .. } => true,
        _ => false,
    };
    while let Some((Stmt::For { axis, extent, kind, body: inside }, before)) = body.split_last() {
        // Values of an innermost loop's statements stay where they are.
        let taken = match (kind, extent) {
            (LoopKind::Parallel, _) => true,
            (LoopKind::Serial, Extent::Const(n)) => *n > 0 && independent(*axis, *n, inside, facts),
            _ => false,
        };
        if !taken || !before.iter().all(quiet) {
            break;
        }
        match (kind, extent) {
            (LoopKind::Serial, Extent::Const(n)) => nest.apart.push((*axis, *n)),
            _ => nest.parallel = Some(*axis),
        }
        nest.between.extend(before.iter().cloned());
        body = inside;
    }
    nest.body = body.to_vec();
    nest
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::DType;
    use optc_ir::graph::ReduceOp;
    use optc_ir::kernel::{Acc, AccOp, Access, BufferParam};

    fn at(offset: i64, axes: &[(usize, i64)]) -> Index {
        Index { offset, axes: axes.to_vec(), ..Index::default() }
    }
    fn load(value: usize, buffer: usize, index: Index) -> Stmt {
        Stmt::Let { value, dtype: DType::F32, expr: Expr::Load { buffer, index, guard: None } }
    }
    fn over(axis: usize, n: i64, kind: LoopKind, body: Vec<Stmt>) -> Stmt {
        Stmt::For { axis, extent: Extent::Const(n), kind, body }
    }
    fn kernel(body: Vec<Stmt>) -> Kernel {
        let param = |access| BufferParam { dtype: DType::F32, access };
        Kernel {
            buffers: vec![param(Access::Read), param(Access::ReadWrite)],
            axes: 4,
            values: 8,
            accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Sum) }],
            body,
            ..Kernel::default()
        }
    }
    fn pieces(body: Vec<Stmt>) -> i64 {
        nest(&kernel(body), &Facts::default()).pieces()
    }
    fn copy(from: Index, to: Index) -> Vec<Stmt> {
        vec![load(0, 0, from), Stmt::Store { buffer: 1, index: to, value: 0 }]
    }

    #[test]
    fn rows_that_are_apart_are_pieces() {
        use LoopKind::{Parallel, Serial, Vector};
        let rows = |to: &[(usize, i64)]| {
            let body = copy(at(0, &[(0, 40), (1, 8), (2, 1)]), at(0, to));
            pieces(vec![over(0, 4, Parallel, vec![over(1, 5, Serial, vec![over(2, 8, Vector, body)])])])
        };
        assert_eq!(rows(&[(0, 40), (1, 8), (2, 1)]), 5);
        assert_eq!(rows(&[(0, 40), (1, 1), (2, 5)]), 5, "a transpose");
        assert_eq!(rows(&[(0, 40), (1, -8), (2, 1)]), 5, "backwards");
        assert_eq!(rows(&[(0, 40), (1, 7), (2, 1)]), 1, "rows that overlap");
        assert_eq!(rows(&[(0, 40), (2, 1)]), 1, "rows that are one");
        assert_eq!(rows(&[(0, 40), (1, 1), (2, 4)]), 1, "columns that meet");
        // Two loops without a parallel one.
        let two = vec![over(
            0,
            3,
            Serial,
            vec![over(1, 5, Serial, vec![over(2, 8, Vector, copy(at(0, &[(2, 1)]), at(0, &[(0, 40), (1, 8), (2, 1)])))])],
        )];
        assert_eq!(pieces(two), 15);
    }

    #[test]
    fn what_is_carried_from_pass_to_pass_stays_in_order() {
        use LoopKind::{Serial, Vector};
        let zero = Stmt::Let { value: 1, dtype: DType::F32, expr: Expr::Const(optc_ir::kernel::Literal::Float(0.0)) };
        let init = Stmt::Init { acc: 0, value: 1 };
        let sum = over(1, 8, Vector, vec![load(0, 0, at(0, &[(0, 8), (1, 1)])), Stmt::Update { acc: 0, value: 0 }]);
        let read = Stmt::Let { value: 2, dtype: DType::F32, expr: Expr::Acc(0) };
        let store = Stmt::Store { buffer: 1, index: at(0, &[(0, 1)]), value: 2 };
        // A sum of each row, and a running one.
        assert_eq!(pieces(vec![over(0, 6, Serial, vec![zero.clone(), init.clone(), sum.clone(), read.clone(), store.clone()])]), 6);
        assert_eq!(pieces(vec![zero, init, over(0, 6, Serial, vec![sum, read, store])]), 1);
        // A row from the one before.
        let before = vec![load(0, 1, at(-8, &[(0, 8), (1, 1)])), Stmt::Store { buffer: 1, index: at(0, &[(0, 8), (1, 1)]), value: 0 }];
        assert_eq!(pieces(vec![over(0, 6, Serial, vec![over(1, 8, Vector, before)])]), 1);
    }
}
