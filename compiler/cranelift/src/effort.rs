//! How much work the compiler puts into each kernel: as much as its share of the run repays.

use optc_abi::plan::{Instr, KernelCall, LibOp, Plan, Trip};
use optc_ir::kernel::{Extent, Kernel, LoopKind, Stmt};

/// How a function is compiled; the results are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Code that runs once: instructions as they come, registers in one pass.
    Once,
    /// Code around wide loops, which do the work, or with little to do: optimized, registers in one pass.
    Around,
    /// Code whose own loops do the work.
    Loops,
}

/// Work is counted in statements of kernels done once, some 0.1 ns each in vector loops.
type Work = f64;

/// What a call costs beside its statements.
const CALL: Work = 300.0;
/// Floating-point operations of a matrix product in the time of a statement.
const PRODUCT: Work = 10.0;
/// Passes of a loop whose number is known only when it runs.
const PASSES: usize = 100;
/// Work of a kernel up to which a program that runs once does not gain from better code.
const QUICK: Work = 1e8;
/// Share of the run that all kernels with little to do may have together.
const LITTLE: Work = 0.02;

/// What is known of kernels before they are compiled.
pub(crate) struct Efforts {
    once: Vec<bool>,
    little: Vec<bool>,
}

impl Efforts {
    /// For the kernels of a plan; `once` if the plan runs once.
    pub(crate) fn new(kernels: &[Kernel], plan: &Plan, once: bool) -> Efforts {
        let mut tally = Tally { kernels, work: vec![0.0; kernels.len()], library: 0.0 };
        tally.code(&plan.code, 1.0);
        let total = tally.library + tally.work.iter().sum::<Work>();
        let mut order: Vec<usize> = (0..kernels.len()).collect();
        order.sort_by(|&a, &b| tally.work[a].total_cmp(&tally.work[b]));
        let (mut little, mut sum) = (vec![false; kernels.len()], 0.0);
        for k in order {
            sum += tally.work[k];
            little[k] = sum <= LITTLE * total;
        }
        Efforts { once: tally.work.iter().map(|&w| once && w <= QUICK).collect(), little }
    }

    /// For kernel number `k`; `own_loops` if some innermost loop is in the function itself.
    pub(crate) fn of(&self, k: usize, own_loops: bool) -> Effort {
        match (self.once[k], own_loops && !self.little[k]) {
            (true, _) => Effort::Once,
            (false, true) => Effort::Loops,
            (false, false) => Effort::Around,
        }
    }
}

struct Tally<'a> {
    kernels: &'a [Kernel],
    /// By kernel.
    work: Vec<Work>,
    library: Work,
}

impl Tally<'_> {
    fn code(&mut self, code: &[Instr], times: Work) {
        for instr in code {
            match instr {
                Instr::Kernel { kernel, calls } => {
                    let body = &self.kernels[*kernel].body;
                    self.work[*kernel] += times * calls.iter().map(|call| CALL + statements(body, call)).sum::<Work>();
                }
                Instr::Gemm(g) => {
                    let each = 2.0 * g.m as Work * g.n as Work * g.k as Work;
                    self.library += times * g.batch.iter().product::<usize>() as Work * each / PRODUCT;
                }
                Instr::Conv(c) => {
                    let d = &c.dims;
                    let each = 2.0 * d.filter.iter().product::<usize>() as Work * (d.in_channels / d.groups) as Work;
                    self.library += times * d.output_len() as Work * each / PRODUCT;
                }
                Instr::Loop { trip, body, .. } => {
                    let passes = if let Trip::Const(n) = trip { *n } else { PASSES };
                    self.code(body, times * passes as Work);
                }
                Instr::Cond { then, otherwise, .. } => {
                    self.code(then, times);
                    self.code(otherwise, times);
                }
                Instr::Lib { op: LibOp::Attention { attention, .. }, .. } => {
                    self.library += times * attention.operations() as Work / PRODUCT
                }
                Instr::Lib { .. } | Instr::Copy { .. } | Instr::Guard { .. } => {}
            }
        }
    }
}

/// Statements that a call does.
fn statements(body: &[Stmt], call: &KernelCall) -> Work {
    let of = |stmt: &Stmt| match stmt {
        Stmt::For { extent, kind, body, .. } => {
            let passes = match (kind, extent) {
                (LoopKind::Parallel, _) => call.range,
                (_, Extent::Const(n)) => *n,
                (_, Extent::Size(s)) => call.sizes[*s],
            };
            passes as Work * statements(body, call)
        }
        _ => 1.0,
    };
    body.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_ir::kernel::{Expr, Literal};

    /// A kernel of one loop with one statement.
    fn kernel() -> Kernel {
        let constant = Stmt::Let { value: 0, dtype: optc_abi::DType::F32, expr: Expr::Const(Literal::Float(1.0)) };
        let body = vec![Stmt::For { axis: 0, extent: Extent::Size(0), kind: LoopKind::Vector, body: vec![constant] }];
        Kernel { sizes: 1, axes: 1, values: 1, body, ..Kernel::default() }
    }

    fn call(kernel: usize, size: i64) -> Instr {
        Instr::Kernel { kernel, calls: vec![KernelCall { buffers: Vec::new(), sizes: vec![size], range: 1, grain: 1 }] }
    }

    #[test]
    fn effort_follows_the_share_of_the_run() {
        let kernels = [kernel(), kernel(), kernel()];
        let plan = Plan { code: vec![call(0, 10), call(1, 1_000_000), call(2, 500_000_000)], ..Plan::default() };
        let of = |once| {
            let efforts = Efforts::new(&kernels, &plan, once);
            [0, 1, 2].map(|k| efforts.of(k, true))
        };
        assert_eq!(of(false), [Effort::Around, Effort::Around, Effort::Loops]);
        assert_eq!(of(true), [Effort::Once, Effort::Once, Effort::Loops]);
        assert_eq!(Efforts::new(&kernels, &plan, false).of(2, false), Effort::Around);
        // In a loop a kernel runs often.
        let body = vec![call(1, 1_000_000)];
        let counter = optc_abi::plan::BufRef::whole(0);
        let looped = Instr::Loop { id: 0, trip: Trip::Const(1000), reverse: false, counter, body };
        let plan = Plan { code: vec![call(0, 10), looped, call(2, 500_000_000)], ..Plan::default() };
        assert_eq!(Efforts::new(&kernels, &plan, true).of(1, true), Effort::Loops);
    }
}
