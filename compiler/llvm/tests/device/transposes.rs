//! Kernels whose loops are taken apart, and those that go through tiles in shared memory, against the interpreter.

use crate::common::{alone, assembled, memory, no_faults};
use crate::gpu::{self, Given, Launch};
use optc_abi::plan::{BufRef, BufferDecl, Instr, KernelCall, Place, Plan, SlotDecl, Status};
use optc_abi::{DType, Tensor};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::scalar::ScalarOp;
use optc_llvm::{Emulated, device_code};

/// An access by the strides of the loops: parallel, in order, vector.
type Strides = [i64; 3];

/// `out = f(loads)` over three loops; further stores may follow. Extents of 1 are left out of the kernel, except the vector loop.
struct Case {
    extents: [i64; 3],
    loads: Vec<(DType, Strides)>,
    stores: Vec<(DType, Strides)>,
    /// The outermost loop is parallel.
    parallel: bool,
}

fn kernel(c: &Case) -> Kernel {
    let index = |s: &Strides| Index {
        axes: (0..3).filter(|&a| s[a] != 0 && (c.extents[a] > 1 || a == 2)).map(|a| (a, s[a])).collect(),
        ..Index::default()
    };
    let mut body = Vec::new();
    let mut next = 0;
    let mut bind = |body: &mut Vec<Stmt>, dtype, expr| {
        body.push(Stmt::Let { value: next, dtype, expr });
        next += 1;
        next - 1
    };
    let mut total = None;
    for (b, (dtype, strides)) in c.loads.iter().enumerate() {
        let held = if dtype.size() == 2 { DType::F32 } else { *dtype };
        let x = bind(&mut body, held, Expr::Load { buffer: b, index: index(strides), guard: None });
        let x = if held == DType::F32 { x } else { bind(&mut body, DType::F32, Expr::Cast(x)) };
        total = Some(match total {
            None => x,
            Some(t) => bind(&mut body, DType::F32, Expr::Map(ScalarOp::Add, vec![t, x])),
        });
    }
    let total = total.expect("a load");
    for (b, (dtype, strides)) in c.stores.iter().enumerate() {
        let held = if dtype.size() == 2 { DType::F32 } else { *dtype };
        let x = if held == DType::F32 { total } else { bind(&mut body, held, Expr::Cast(total)) };
        body.push(Stmt::Store { buffer: c.loads.len() + b, index: index(strides), value: x });
    }
    let values = next;
    let mut stmt = Stmt::For { axis: 2, extent: Extent::Const(c.extents[2]), kind: LoopKind::Vector, body };
    if c.extents[1] > 1 {
        stmt = Stmt::For { axis: 1, extent: Extent::Const(c.extents[1]), kind: LoopKind::Serial, body: vec![stmt] };
    }
    if c.extents[0] > 1 {
        let kind = if c.parallel { LoopKind::Parallel } else { LoopKind::Serial };
        stmt = Stmt::For { axis: 0, extent: Extent::Const(c.extents[0]), kind, body: vec![stmt] };
    }
    let param = |access| move |&(dtype, _): &(DType, Strides)| BufferParam { dtype, access };
    let buffers = c.loads.iter().map(param(Access::Read)).chain(c.stores.iter().map(param(Access::Write))).collect();
    Kernel { buffers, axes: 3, values, body: vec![stmt], ..Kernel::default() }
}

fn plan_of(c: &Case) -> (Plan, Vec<Tensor>) {
    let len = |s: &Strides| 1 + (0..3).map(|a| s[a] * (c.extents[a] - 1)).sum::<i64>() as usize;
    let all: Vec<&(DType, Strides)> = c.loads.iter().chain(&c.stores).collect();
    let tensor = |(n, (dtype, s)): (usize, &&(DType, Strides))| {
        let values: Vec<f64> = (0..len(s)).map(|i| ((i * 31 + n * 7) % 97) as f64).collect();
        Tensor::from_f64(*dtype, &[len(s)], &values)
    };
    let tensors: Vec<Tensor> = all.iter().enumerate().map(tensor).collect();
    let range = if c.parallel { c.extents[0] } else { 1 };
    let call = KernelCall { buffers: (0..all.len()).map(BufRef::whole).collect(), sizes: Vec::new(), range, grain: 1 };
    let decl = |(k, t): (usize, &Tensor)| BufferDecl { dtype: t.dtype, len: t.len(), place: Place::Input(k) };
    let slot = |t: &Tensor| SlotDecl { name: String::new(), dtype: t.dtype, shape: t.shape.clone(), alias: None };
    let plan = Plan {
        buffers: tensors.iter().enumerate().map(decl).collect(),
        arena_bytes: 64,
        inputs: tensors.iter().map(slot).collect(),
        // Twice, so that there is a form for many argument sets.
        code: vec![Instr::Kernel { kernel: 0, calls: vec![call.clone(), call] }],
        ..Plan::default()
    };
    (plan, tensors)
}

/// Runs both forms and says how many pieces a unit has, and whether there is shared memory.
fn check(c: &Case) -> (i64, bool) {
    let kernel = kernel(c);
    let (plan, tensors) = plan_of(c);
    let mut want = tensors.clone();
    run_kernel_on(&kernel, &mut want, &[]).expect("the interpreter runs");
    let device = Emulated::new(std::slice::from_ref(&kernel), &plan).expect("LLVM compiles");
    let entry = &device.code.kernels[0];
    let range = if c.parallel { c.extents[0] } else { 1 };
    for blocks in [1, 3, (range * entry.pieces / entry.units).clamp(1, 40) as u32 + 1] {
        let got = tensors.clone();
        let mut status = Status::default();
        let mut parameters: Vec<u64> = got.iter().map(|t| t.as_ptr() as u64).collect();
        parameters.extend([0, range as u64, &raw mut status as u64]);
        // SAFETY: the kernel's arrays.
        unsafe { device.launch(&entry.one, blocks, entry.threads, 0, &parameters, &memory(&got)) };
        no_faults("one");
        let alike = got.iter().zip(&want).position(|(x, y)| x.bytes() != y.bytes());
        assert_eq!(alike, None, "{:?} in {blocks} blocks: {:?} to {:?}", c.extents, c.loads, c.stores);
        // One item for the whole.
        let got = tensors.clone();
        let table: Vec<u64> = got.iter().map(|t| t.as_ptr() as u64).collect();
        let items = [0, 0, range];
        let mut used = memory(&got);
        used.push(table.as_ptr() as usize..table.as_ptr() as usize + 8 * table.len());
        used.push(items.as_ptr() as usize..items.as_ptr() as usize + 24);
        let parameters = [table.as_ptr() as u64, items.as_ptr() as u64, 1, &raw mut status as u64];
        // SAFETY: as above.
        unsafe { device.launch(entry.many.as_deref().expect("two calls"), blocks, entry.threads, 0, &parameters, &used) };
        no_faults("many");
        assert!(got.iter().zip(&want).all(|(x, y)| x.bytes() == y.bytes()), "{:?}, many", c.extents);
    }
    let code = device_code(std::slice::from_ref(&kernel), &plan, "sm_80").expect("LLVM makes PTX");
    // The same by PTX.
    let mut arrays: Vec<Vec<u8>> = tensors.iter().map(|t| t.bytes().to_vec()).collect();
    arrays.push(vec![0; size_of::<Status>()]);
    let mut parameters: Vec<Given> = (0..tensors.len()).map(|n| Given::Array(n, 0)).collect();
    parameters.extend([Given::Number(0), Given::Number(range), Given::Array(tensors.len(), 0)]);
    let launch = Launch { entry: &entry.one, blocks: 5, threads: entry.threads, shared: 0, parameters };
    let ptx = gpu::run(&code.text, &arrays, &[launch]);
    assert!(ptx.iter().zip(&want).all(|(x, y)| x == y.bytes()), "{:?}: PTX", c.extents);
    let said = assembled(&code.text, "sm_80").unwrap_or_default();
    assert!(said.iter().all(|e| e.spilled == 0 && e.registers <= 64), "{said:?}");
    (entry.pieces, code.text.contains("_shared"))
}

const F: DType = DType::F32;

#[test]
fn transposes_go_through_tiles() {
    let _alone = alone();
    for (rows, columns) in [(64, 32), (37, 70), (100, 33), (16, 16), (5, 300)] {
        // A matrix read across, and one written across.
        let c = Case { extents: [rows, 1, columns], loads: vec![(F, [1, 0, rows])], stores: vec![(F, [columns, 0, 1])], parallel: true };
        assert!(check(&c).1, "{rows} x {columns}");
        let c = Case { extents: [rows, 1, columns], loads: vec![(F, [columns, 0, 1])], stores: vec![(F, [1, 0, rows])], parallel: true };
        assert!(check(&c).1, "{rows} x {columns}");
        // Both loops in order, by one unit.
        let c = Case {
            extents: [rows.max(16), 1, columns],
            loads: vec![(F, [1, 0, rows.max(16)])],
            stores: vec![(F, [columns, 0, 1])],
            parallel: false,
        };
        assert!(check(&c).1, "{rows} x {columns}");
    }
}

#[test]
fn transposes_in_the_middle_of_arrays() {
    let _alone = alone();
    // A transpose of each of several matrices; types of 1, 2 and 8 bytes, values that are the same along a loop.
    let (b, r, c) = (3, 40, 50);
    for dtype in [F, DType::F64, DType::BF16, DType::U8] {
        let case = Case {
            extents: [b, r, c],
            loads: vec![(dtype, [r * c, 1, r]), (F, [0, 0, 1]), (F, [r * c, c, 1]), (F, [0, 1, 0])],
            stores: vec![(dtype, [r * c, c, 1]), (F, [r * c, 1, r])],
            parallel: true,
        };
        assert!(check(&case).1, "{dtype}");
    }
    // All across: threads lie the other way, and nothing goes through shared memory.
    let case = Case { extents: [b, r, c], loads: vec![(F, [r * c, 1, r])], stores: vec![(F, [r * c, 1, r])], parallel: true };
    assert!(!check(&case).1);
}

#[test]
fn rows_in_order_are_pieces_where_they_are_apart() {
    let _alone = alone();
    let case = Case { extents: [3, 7, 100], loads: vec![(F, [700, 100, 1])], stores: vec![(F, [700, 100, 1])], parallel: true };
    assert_eq!(check(&case), (7, false));
    let case = Case { extents: [3, 7, 100], loads: vec![(F, [0, 100, 1])], stores: vec![(F, [700, 100, 1])], parallel: false };
    assert_eq!(check(&case), (21, false));
    // Each row over the one before: in order.
    let case = Case { extents: [3, 7, 100], loads: vec![(F, [700, 100, 1])], stores: vec![(F, [100, 0, 1])], parallel: true };
    assert_eq!(check(&case), (1, false));
}

/// Sums of rows, and their sum, by one unit: warps or threads of the block share the rows, and all of it waits for them.
#[test]
fn rows_of_one_unit_are_shared_within_a_block() {
    let _alone = alone();
    for (rows, n) in [(64, 10), (20, 100), (37, 5), (8, 512)] {
        let at = |axes: &[(usize, i64)]| Index { axes: axes.to_vec(), ..Index::default() };
        let bind = |value, expr| Stmt::Let { value, dtype: F, expr };
        let load = |value, buffer, axes: &[(usize, i64)]| bind(value, Expr::Load { buffer, index: at(axes), guard: None });
        let over = |axis, n, kind, body| Stmt::For { axis, extent: Extent::Const(n), kind, body };
        let zero = |value| bind(value, Expr::Const(Literal::Float(0.0)));
        let row = vec![
            zero(0),
            Stmt::Init { acc: 0, value: 0 },
            over(1, n, LoopKind::Vector, vec![load(1, 0, &[(0, n), (1, 1)]), Stmt::Update { acc: 0, value: 1 }]),
            bind(2, Expr::Acc(0)),
            Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 2 },
        ];
        let body = vec![
            over(0, rows, LoopKind::Serial, row),
            zero(3),
            Stmt::Init { acc: 1, value: 3 },
            over(2, rows, LoopKind::Vector, vec![load(4, 1, &[(2, 1)]), Stmt::Update { acc: 1, value: 4 }]),
            bind(5, Expr::Acc(1)),
            Stmt::Store { buffer: 2, index: at(&[]), value: 5 },
        ];
        let param = |access| BufferParam { dtype: F, access };
        let kernel = Kernel {
            buffers: vec![param(Access::Read), param(Access::ReadWrite), param(Access::Write)],
            axes: 3,
            values: 6,
            accs: vec![Acc { dtype: F, op: AccOp::Reduce(ReduceOp::Sum) }; 2],
            body,
            ..Kernel::default()
        };
        // Whole numbers, whose sums are exact in any order.
        let values: Vec<f64> = (0..rows * n).map(|i| (i * 31 % 97) as f64 - 48.0).collect();
        let tensors = [Tensor::from_f64(F, &[values.len()], &values), Tensor::zeros(F, &[rows as usize]), Tensor::zeros(F, &[1])];
        let mut want = tensors.to_vec();
        run_kernel_on(&kernel, &mut want, &[]).expect("the interpreter runs");
        let decl = |(k, t): (usize, &Tensor)| BufferDecl { dtype: F, len: t.len(), place: Place::Input(k) };
        let call = KernelCall { buffers: (0..3).map(BufRef::whole).collect(), sizes: Vec::new(), range: 1, grain: 1 };
        let plan = Plan {
            buffers: tensors.iter().enumerate().map(decl).collect(),
            code: vec![Instr::Kernel { kernel: 0, calls: vec![call] }],
            ..Plan::default()
        };
        let device = Emulated::new(std::slice::from_ref(&kernel), &plan).expect("LLVM compiles");
        let entry = &device.code.kernels[0];
        assert_eq!((entry.threads, entry.pieces), (256, 1), "{rows} x {n}");
        let got = tensors.to_vec();
        let mut status = Status::default();
        let mut parameters: Vec<u64> = got.iter().map(|t| t.as_ptr() as u64).collect();
        parameters.extend([0, 1, &raw mut status as u64]);
        // SAFETY: the kernel's arrays.
        unsafe { device.launch(&entry.one, 1, entry.threads, 0, &parameters, &memory(&got)) };
        no_faults("rows");
        assert!(got.iter().zip(&want).all(|(x, y)| x.bytes() == y.bytes()), "{rows} x {n}: {:?}", got[2].to_f64());
    }
}
