//! Kernels whose threads do not wait where they should: each place where they do is taken out of some kernels in turn, and the emulator says what is wrong.

use crate::compile::{Unit, build};
use crate::emit::Emit;
use crate::emulator::{Fault, FaultKind, Order, observe};
use crate::host::{Facts, symbol};
use crate::ins::Ins;
use crate::jit::Jit;
use crate::machine::Machine;
use crate::unit::{self, Host};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::values::{CallSiteValue, InstructionOpcode, InstructionValue};
use optc_abi::plan::{KernelFn, Status};
use optc_abi::tensor::ALIGN;
use optc_abi::{DType, Tensor};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, Index, Kernel, LOCAL, Local, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::kernel_verify::verify_kernel;
use optc_ir::scalar::ScalarOp;

pub(crate) const ORDERS: [Order; 4] = [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2)];

/// Where threads wait, in the order of the code.
pub(crate) fn waits<'c>(module: &Module<'c>) -> Vec<InstructionValue<'c>> {
    let blocks = module.get_functions().flat_map(|f| f.get_basic_blocks());
    let calls = blocks.flat_map(|b| b.get_instructions()).filter(|i| i.get_opcode() == InstructionOpcode::Call);
    let name =
        |i: InstructionValue<'c>| CallSiteValue::try_from(i).ok()?.get_called_fn_value()?.get_name().to_str().ok().map(str::to_string);
    calls.filter(|&i| matches!(name(i).as_deref(), Some("optc_simt_barrier" | "optc_simt_warp_sync" | "optc_simt_copies_wait"))).collect()
}

/// A kernel for the emulator without the wait of a number, if there is one, and how many waits it had.
fn compile(kernel: &Kernel, without: Option<usize>) -> (Jit, usize) {
    let host = Host::new(None).expect("this machine");
    let machine = host.machine().expect("this machine");
    let context = Context::create();
    let facts = Facts { aliased: vec![false; kernel.buffers.len()], aligned: vec![ALIGN as u32; kernel.buffers.len()], ..Facts::default() };
    let module = build(
        &context,
        &[Unit { name: String::new(), number: 0, kernel, facts: &facts, around: None }],
        &host,
        &machine,
        host.fma().expect("this machine"),
        true,
    );
    let all = waits(&module);
    if let Some(n) = without {
        all[n].erase_from_basic_block();
    }
    unit::optimize(&module, &machine).expect("optimizes");
    let object = unit::machine_code(&module, &machine, false).expect("compiles").as_slice().to_vec();
    (Jit::link(&[object]).expect("links"), all.len())
}

fn run(code: &Jit, order: Order, tensors: &mut [Tensor], range: i64) -> Vec<Fault> {
    let buffers: Vec<*mut u8> = tensors.iter().map(Tensor::as_ptr).collect();
    let mut status = Status::default();
    // SAFETY: a kernel's code; the buffers are as long as it says.
    let kernel: KernelFn = unsafe { std::mem::transmute(code.address(&symbol(0)).expect("it has a name")) };
    // SAFETY: as above.
    observe(order, || unsafe { kernel(buffers.as_ptr(), std::ptr::null(), 0, range, &raw mut status) })
}

/// Statements with numbered values.
#[derive(Default)]
struct Body {
    stmts: Vec<Stmt>,
    next: usize,
}

impl Body {
    fn bind(&mut self, expr: Expr) -> usize {
        self.stmts.push(Stmt::Let { value: self.next, dtype: DType::F32, expr });
        self.next += 1;
        self.next - 1
    }
    fn load(&mut self, buffer: usize, offset: i64, axes: &[(usize, i64)]) -> usize {
        self.bind(Expr::Load { buffer, index: at(offset, axes), guard: None })
    }
    fn store(&mut self, buffer: usize, offset: i64, axes: &[(usize, i64)], value: usize) {
        self.stmts.push(Stmt::Store { buffer, index: at(offset, axes), value });
    }
    fn add(&mut self, a: usize, b: usize) -> usize {
        self.bind(Expr::Map(ScalarOp::Add, vec![a, b]))
    }
    fn zero(&mut self, acc: usize) {
        let value = self.bind(Expr::Const(optc_ir::kernel::Literal::Float(0.0)));
        self.stmts.push(Stmt::Init { acc, value });
    }
    /// A loop over what `fill` adds.
    fn each(&mut self, axis: usize, n: i64, kind: LoopKind, fill: impl FnOnce(&mut Body)) {
        let outside = std::mem::take(&mut self.stmts);
        fill(self);
        let body = std::mem::replace(&mut self.stmts, outside);
        self.stmts.push(Stmt::For { axis, extent: Extent::Const(n), kind, body });
    }
}

fn at(offset: i64, axes: &[(usize, i64)]) -> Index {
    Index { offset, axes: axes.to_vec(), ..Index::default() }
}

/// Kernels over `rows` rows of `n` elements, of x (0), into y (1) and one number a row (2).
fn kernels(rows: i64, n: i64) -> Vec<(&'static str, Kernel)> {
    type Fill = fn(&mut Body, i64);
    // The sum, then the sum of what is left of its elements.
    let sums: Fill = |b, n| {
        b.zero(0);
        b.each(1, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (1, 1)]);
            b.stmts.push(Stmt::Update { acc: 0, value: x });
        });
        let sum = b.bind(Expr::Acc(0));
        b.zero(1);
        b.each(2, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (2, 1)]);
            let x = b.add(x, sum);
            b.stmts.push(Stmt::Update { acc: 1, value: x });
            b.store(1, 0, &[(0, n), (2, 1)], x);
        });
        let both = b.bind(Expr::Acc(1));
        b.store(2, 0, &[(0, 1)], both);
    };
    // The row backwards, through a local array.
    let backwards: Fill = |b, n| {
        b.each(1, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (1, 1)]);
            b.store(LOCAL, 0, &[(1, 1)], x);
        });
        b.each(2, n, LoopKind::Vector, |b| {
            let x = b.load(LOCAL, n - 1, &[(2, -1)]);
            b.store(1, 0, &[(0, n), (2, 1)], x);
        });
        b.each(3, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (3, 1)]);
            b.store(LOCAL, n - 1, &[(3, -1)], x);
        });
    };
    // In order, each pass adds to each element what was at the other end.
    let passes: Fill = |b, n| {
        b.each(1, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (1, 1)]);
            b.store(1, 0, &[(0, n), (1, 1)], x);
        });
        b.each(2, 3, LoopKind::Serial, |b| {
            b.each(3, n, LoopKind::Vector, |b| {
                let x = b.load(1, n - 1, &[(0, n), (3, -1)]);
                b.store(LOCAL, 0, &[(3, 1)], x);
            });
            b.each(4, n, LoopKind::Vector, |b| {
                let x = b.load(LOCAL, 0, &[(4, 1)]);
                let y = b.load(1, 0, &[(0, n), (4, 1)]);
                let x = b.add(x, y);
                b.store(1, 0, &[(0, n), (4, 1)], x);
            });
        });
    };
    // A number of the row, stored by one thread and read by all.
    let number: Fill = |b, n| {
        let x = b.load(0, 3, &[(0, n)]);
        b.store(2, 0, &[(0, 1)], x);
        b.each(1, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (1, 1)]);
            let y = b.load(2, 0, &[(0, 1)]);
            let x = b.add(x, y);
            b.store(1, 0, &[(0, n), (1, 1)], x);
        });
        let y = b.load(1, 5, &[(0, n)]);
        b.store(2, 0, &[(0, 1)], y);
    };
    // A number of the row, read by all, replaced by one thread, and read again by all.
    let twice: Fill = |b, n| {
        let old = b.load(2, 0, &[(0, 1)]);
        let x = b.load(0, 3, &[(0, n)]);
        let new = b.add(old, x);
        b.store(2, 0, &[(0, 1)], new);
        let now = b.load(2, 0, &[(0, 1)]);
        b.each(1, n, LoopKind::Vector, |b| {
            let x = b.load(0, 0, &[(0, n), (1, 1)]);
            let x = b.add(x, now);
            b.store(1, 0, &[(0, n), (1, 1)], x);
        });
    };
    let parameter = |access| BufferParam { dtype: DType::F32, access };
    [("sums", sums), ("backwards", backwards), ("passes", passes), ("number", number), ("twice", twice)]
        .map(|(name, fill)| {
            let mut b = Body::default();
            b.each(0, rows, LoopKind::Parallel, |b| fill(b, n));
            let kernel = Kernel {
                buffers: vec![parameter(Access::Read), parameter(Access::ReadWrite), parameter(Access::ReadWrite)],
                locals: vec![Local { dtype: DType::F32, len: n as usize }],
                axes: 5,
                values: b.next,
                accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Sum) }; 2],
                body: b.stmts,
                ..Kernel::default()
            };
            verify_kernel(&kernel).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, kernel)
        })
        .into()
}

#[test]
fn every_wait_that_is_needed_is_missed() {
    let mut idle = Vec::new();
    // Groups of one thread, of a warp, of a block; more rows than there are groups at a time.
    for (rows, n) in [(40, 7), (200, 100), (30, 1000)] {
        for (name, kernel) in kernels(rows, n) {
            let size = (rows * n) as usize;
            let start = [
                Tensor::from_f64(DType::F32, &[size], &(0..size).map(|k| (k % 13) as f64 - 4.0).collect::<Vec<_>>()),
                Tensor::zeros(DType::F32, &[size]),
                Tensor::zeros(DType::F32, &[rows as usize]),
            ];
            let mut want = start.to_vec();
            run_kernel_on(&kernel, &mut want, &[]).expect("runs");
            let (code, waits) = compile(&kernel, None);
            for order in ORDERS {
                let mut got = start.to_vec();
                assert_eq!(run(&code, order, &mut got, rows), [], "{name} over {rows} x {n}, {order:?}");
                assert_eq!(got, want, "{name} over {rows} x {n}, {order:?}");
            }
            for without in 0..waits {
                let (code, _) = compile(&kernel, Some(without));
                let place = format!("{name} over {rows} x {n}, wait {without} of {waits}");
                let noticed = ORDERS.iter().any(|&order| {
                    let mut got = start.to_vec();
                    let faults = run(&code, order, &mut got, rows);
                    assert!(got == want || !faults.is_empty(), "{place}: wrong without, and nothing was noticed, {order:?}");
                    faults.iter().any(|f| matches!(f.kind, FaultKind::Race | FaultKind::Uninitialized))
                });
                if !noticed {
                    idle.push(place);
                }
            }
        }
    }
    // Here each thread writes what it alone has read, or the next pass of the loop begins with a wait of its own.
    let expected = [
        "backwards over 200 x 100, wait 1 of 3",
        "passes over 200 x 100, wait 2 of 3",
        "backwards over 30 x 1000, wait 1 of 3",
        "passes over 30 x 1000, wait 2 of 3",
    ];
    assert_eq!(idle, expected);
}

/// What a GPU's other threads have written before a barrier is read behind it, not kept from before.
#[test]
fn nothing_is_carried_over_a_barrier() {
    let (rows, n) = (30, 1000);
    let (_, kernel) = kernels(rows, n).pop().expect("there are some");
    let facts = Facts { aliased: vec![false; 3], aligned: vec![ALIGN as u32; 3], ..Facts::default() };
    let (triple, machine) = unit::nvptx("sm_80").expect("LLVM knows it");
    let context = Context::create();
    let module = unit::module(&context, "kernels", &triple, &machine);
    // SAFETY: context and module outlive the builder, which ends with this statement.
    drop(crate::gpu::ptx(
        Emit { i: unsafe { Ins::new(context.raw(), module.as_mut_ptr()) }, machine: Machine::Nvptx },
        "k",
        &kernel,
        &facts,
    ));
    unit::optimize(&module, &machine).expect("optimizes");
    let text = module.print_to_string().to_string();
    let last_barrier = text.rfind("call void @llvm.nvvm.barrier").expect("it waits");
    let read = |line: &str| line.contains(" = load float, ptr addrspace(1)") && !line.contains("!invariant.load");
    assert!(text[last_barrier..].lines().any(read), "{text}");
}
