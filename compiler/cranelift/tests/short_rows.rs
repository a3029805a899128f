//! Loops over rows shorter than a register, sixteen of which go side by side: every length, in place, into another buffer, through a local array, with rows apart, positions, accumulators of all
//! kinds; and rows that depend on each other, which go one after the other.

mod common;

use common::{Body, Rng, at, bind, check, lit, load, plan_of, read, reduce, run_plan_as, same, write};
use optc_abi::plan::Instr;
use optc_abi::{DType, Tensor};
use optc_cranelift::{Config, Vectors};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, Access, BufferParam, Expr, Extent, Index, Kernel, LOCAL, Local, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::kernel_verify::verify_kernel;
use optc_ir::scalar::ScalarOp;

const F: DType = DType::F32;

/// Where what the second loop makes waits for the third.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    /// In the rows themselves.
    InPlace,
    /// In another buffer, as wide as this.
    Apart(i64),
    /// In a local array.
    Local,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: i64,
    n: i64,
    /// Elements from row to row, and before the first.
    stride: i64,
    offset: i64,
    between: Between,
    kind: LoopKind,
    reductions: [ReduceOp; 2],
    /// Whether the position of the row is used.
    position: bool,
}

/// A kernel like a softmax with a bias and its derivative. Buffers: rows, bias, labels, one number for each row, where the result goes, what lies between.
fn kernel(c: Case) -> (Kernel, Vec<Tensor>) {
    let row = |axis: usize| Index { offset: c.offset, ..at(&[(0, c.stride), (axis, 1)]) };
    let place = |axis: usize| match c.between {
        Between::InPlace => row(axis),
        Between::Apart(w) => at(&[(0, w), (axis, 1)]),
        Between::Local => at(&[(axis, 1)]),
    };
    let between = match c.between {
        Between::InPlace => 0,
        Between::Apart(_) => 5,
        Between::Local => LOCAL,
    };
    let out = if c.between == Between::InPlace { 0 } else { 4 };
    let mut b = Body::default();
    let zero = b.bind(F, lit(0.0));
    let start = b.bind(F, lit(-1.5));
    b.stmts.push(Stmt::Init { acc: 0, value: zero });
    b.stmts.push(Stmt::Init { acc: 1, value: start });
    let label = b.bind(DType::I32, load(2, at(&[(0, 1)])));
    b.inner(1, c.n, |b| {
        let (x, bias) = (b.bind(F, load(0, row(1))), b.bind(F, load(1, at(&[(1, 1)]))));
        let y = b.map(F, ScalarOp::Add, &[x, bias]);
        let k = b.bind(DType::I32, Expr::Axis(1));
        let hit = b.map(DType::Bool, ScalarOp::Eq, &[k, label]);
        let picked = b.map(F, ScalarOp::Select, &[hit, y, zero]);
        b.stmts.push(Stmt::Update { acc: 0, value: picked });
        b.stmts.push(Stmt::Update { acc: 1, value: y });
    });
    let (picked, most) = (b.bind(F, Expr::Acc(0)), b.bind(F, Expr::Acc(1)));
    b.stmts.push(Stmt::Init { acc: 2, value: zero });
    b.inner(2, c.n, |b| {
        let (x, bias) = (b.bind(F, load(0, row(2))), b.bind(F, load(1, at(&[(2, 1)]))));
        let y = b.map(F, ScalarOp::Add, &[x, bias]);
        let z = b.map(F, ScalarOp::Sub, &[y, most]);
        let e = b.map(F, ScalarOp::Mul, &[z, z]);
        b.stmts.push(Stmt::Store { buffer: between, index: place(2), value: e });
        b.stmts.push(Stmt::Update { acc: 2, value: e });
    });
    // Once more outside of a loop.
    b.stmts.push(Stmt::Update { acc: 2, value: picked });
    let whole = b.bind(F, Expr::Acc(2));
    let told = if c.position {
        let at = b.bind(DType::I32, Expr::Axis(0));
        let at = b.bind(F, Expr::Cast(at));
        b.map(F, ScalarOp::Add, &[whole, at])
    } else {
        whole
    };
    b.stmts.push(Stmt::Store { buffer: 3, index: at(&[(0, 1)]), value: told });
    b.inner(3, c.n, |b| {
        let e = b.bind(F, load(between, place(3)));
        let k = b.bind(DType::I32, Expr::Axis(3));
        let hit = b.map(DType::Bool, ScalarOp::Eq, &[label, k]);
        let share = b.map(F, ScalarOp::Div, &[e, whole]);
        let less = b.map(F, ScalarOp::Sub, &[share, picked]);
        let y = b.map(F, ScalarOp::Select, &[hit, less, share]);
        b.stmts.push(Stmt::Store { buffer: out, index: if out == 0 { row(3) } else { at(&[(0, c.n), (3, 1)]) }, value: y });
    });
    let both = |dtype| BufferParam { dtype, access: Access::ReadWrite };
    let length = c.offset + (c.rows - 1) * c.stride + c.n.max(c.stride);
    let width = if let Between::Apart(w) = c.between { w } else { 1 };
    let mut rng = Rng((c.rows * 1000 + c.n * 10 + c.stride) as u64);
    let labels: Vec<f64> = (0..c.rows).map(|_| rng.below(c.n as usize) as f64).collect();
    let tensors = vec![
        rng.tensor(F, length as usize),
        rng.tensor(F, c.n as usize),
        Tensor::from_f64(DType::I32, &[c.rows as usize], &labels),
        Tensor::zeros(F, &[c.rows as usize]),
        Tensor::zeros(F, &[(c.rows * c.n) as usize]),
        Tensor::zeros(F, &[(c.rows * width) as usize]),
    ];
    let buffers =
        vec![if c.between == Between::InPlace { both(F) } else { read(F) }, read(F), read(DType::I32), write(F), write(F), both(F)];
    let accs: Vec<Acc> = [ReduceOp::Sum, c.reductions[0], c.reductions[1]].map(|op| reduce(F, op)).to_vec();
    let body = vec![Stmt::For { axis: 0, extent: Extent::Const(c.rows), kind: c.kind, body: b.stmts }];
    let locals = if c.between == Between::Local { vec![Local { dtype: F, len: c.n as usize }] } else { Vec::new() };
    let kernel = Kernel { buffers, axes: 4, values: b.next, accs, locals, body, ..Kernel::default() };
    verify_kernel(&kernel).unwrap_or_else(|e| panic!("{e}\n{}", optc_ir::text::print_kernel("k", &kernel)));
    (kernel, tensors)
}

/// Whether rows go side by side, where the processor can: nothing of such a kernel else has a wide loop.
#[cfg(target_arch = "x86_64")]
fn side_by_side(kernel: &Kernel, tensors: &[Tensor]) -> Option<bool> {
    let can = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    can.then(|| optc_cranelift::asm(std::slice::from_ref(kernel), &plan_of(kernel, tensors, &[])).contains("vunpcklps"))
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(_: &Kernel, _: &[Tensor]) -> Option<bool> {
    None
}

fn expect(kernel: &Kernel, tensors: &[Tensor], wanted: bool, what: &str) {
    assert!(side_by_side(kernel, tensors).is_none_or(|is| is == wanted), "{what}\n{}", optc_ir::text::print_kernel("k", kernel));
    check(kernel, tensors, &[]);
}

#[test]
fn rows_of_all_lengths_go_side_by_side() {
    let ops = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod];
    let mut rng = Rng(7);
    for n in 4..=24 {
        for between in [Between::InPlace, Between::Apart(n), Between::Apart(n + 3), Between::Local] {
            let rows = rng.pick(&[16, 21, 37, 64]);
            let kind = rng.pick(&[LoopKind::Serial, LoopKind::Parallel]);
            let case = Case {
                rows,
                n,
                stride: n + rng.pick(&[0, 0, 1, 5]),
                offset: rng.pick(&[0, 0, 3]),
                between,
                kind,
                reductions: [rng.pick(&ops), rng.pick(&ops)],
                position: kind == LoopKind::Serial && rng.below(3) == 0,
            };
            let (kernel, tensors) = kernel(case);
            expect(&kernel, &tensors, true, &format!("{case:?}"));
        }
    }
}

/// Threads begin in the middle of the rows: what depends on the number of a row, also where only its parity counts, is that of the row.
#[test]
fn rows_of_several_threads_keep_their_numbers() {
    for odd in [false, true] {
        let (mut kernel, tensors) = kernel(Case { rows: 100, kind: LoopKind::Parallel, ..PLAIN });
        let (number, mask, parity, as_float, told) =
            (kernel.values, kernel.values + 1, kernel.values + 2, kernel.values + 3, kernel.values + 4);
        kernel.values += 5;
        let Stmt::For { body, .. } = &mut kernel.body[0] else { panic!("a loop") };
        let at_store = body.iter().position(|s| matches!(s, Stmt::Store { buffer: 3, .. })).expect("a store for each row");
        let Stmt::Store { value, .. } = &mut body[at_store] else { panic!("a store") };
        let whole = std::mem::replace(value, told);
        let used = if odd { parity } else { number };
        let statements = [
            bind(number, DType::I32, Expr::Axis(0)),
            bind(mask, DType::I32, Expr::Const(optc_ir::kernel::Literal::Int(1))),
            bind(parity, DType::I32, Expr::Map(ScalarOp::And, vec![number, mask])),
            bind(as_float, F, Expr::Cast(used)),
            bind(told, F, Expr::Map(ScalarOp::Add, vec![whole, as_float])),
        ];
        body.splice(at_store..at_store, statements);
        grained(&kernel, &tensors);
    }
    let (plain, tensors) = kernel(Case { rows: 100, kind: LoopKind::Parallel, ..PLAIN });
    grained(&plain, &tensors);
}

/// As [`check`], seventeen rows at a time.
fn grained(kernel: &Kernel, tensors: &[Tensor]) {
    let mut want = tensors.to_vec();
    run_kernel_on(kernel, &mut want, &[]).expect("it runs");
    for (threads, vectors) in [(1, Vectors::Bits512), (2, Vectors::Bits512), (3, Vectors::Bits256), (2, Vectors::Bits128)] {
        let mut plan = plan_of(kernel, tensors, &[]);
        for instr in &mut plan.code {
            if let Instr::Kernel { calls, .. } = instr {
                calls.iter_mut().for_each(|c| c.grain = 17);
            }
        }
        let mut got = tensors.to_vec();
        let config = Config { threads, vectors, ..Config::default() };
        run_plan_as(std::slice::from_ref(kernel), plan, &mut got, &config).expect("it runs");
        assert!(got.iter().zip(&want).all(|(a, b)| same(a, b)), "{threads} threads, {vectors:?}");
    }
}

const PLAIN: Case = Case {
    rows: 32,
    n: 10,
    stride: 10,
    offset: 0,
    between: Between::InPlace,
    kind: LoopKind::Serial,
    reductions: [ReduceOp::Max, ReduceOp::Sum],
    position: false,
};

/// Sets the third accumulator before all rows.
fn begun(kernel: &mut Kernel) {
    kernel.body.insert(0, bind(kernel.values, F, lit(0.5)));
    kernel.body.insert(1, Stmt::Init { acc: 2, value: kernel.values });
    kernel.values += 1;
}

#[test]
fn rows_that_depend_on_each_other_stay_in_order() {
    // Rows that overlap, each of which is read after the one before was written.
    let (kernel_over, tensors) = kernel(Case { stride: 9, ..PLAIN });
    expect(&kernel_over, &tensors, false, "rows that overlap");
    // A sum that goes on from row to row.
    let (mut carried, tensors) = kernel(PLAIN);
    let Stmt::For { body, .. } = &mut carried.body[0] else { panic!("a loop") };
    body.retain(|s| !matches!(s, Stmt::Init { acc: 2, .. }));
    begun(&mut carried);
    expect(&carried, &tensors, false, "an accumulator over all rows");
    // One that is read before it begins anew.
    let (mut late, tensors) = kernel(PLAIN);
    let value = late.values;
    late.values += 1;
    let Stmt::For { body, .. } = &mut late.body[0] else { panic!("a loop") };
    body.insert(0, bind(value, F, Expr::Acc(2)));
    body.push(Stmt::Store { buffer: 3, index: at(&[(0, 1)]), value });
    begun(&mut late);
    expect(&late, &tensors, false, "an accumulator of the row before");
    // What each row leaves in the same place.
    let (mut one, tensors) = kernel(PLAIN);
    let Stmt::For { body, .. } = &mut one.body[0] else { panic!("a loop") };
    for s in body {
        if let Stmt::Store { buffer: 3, index, .. } = s {
            *index = at(&[]);
        }
    }
    expect(&one, &tensors, false, "an element that all rows write");
    // An accumulator that is read after all rows.
    let (mut after, tensors) = kernel(PLAIN);
    let value = after.values;
    after.values += 1;
    after.body.push(bind(value, F, Expr::Acc(2)));
    after.body.push(Stmt::Store { buffer: 4, index: at(&[]), value });
    expect(&after, &tensors, false, "an accumulator that is read behind the loop");
}
