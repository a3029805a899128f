//! All leaves of an optimizer step in one launch.

use crate::common::{alone, assembled, memory, no_faults, on_host};
use crate::gpu::{self, Given, Launch, Pointer};
use optc_abi::device::DeviceCode;
use optc_abi::plan::{BufRef, BufferDecl, Instr, KernelCall, Place, Plan, SlotDecl, Status, WRITTEN_ORIGIN, status};
use optc_abi::{DType, Tensor};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, FLAT_UNIT, Index, Kernel, Literal, LoopKind, Stmt};
use optc_ir::scalar::ScalarOp::{self, Add, Div, Mul, Sqrt, Sub};
use optc_llvm::{Emulated, device_code};

struct Lines {
    next: usize,
    body: Vec<Stmt>,
}

impl Lines {
    fn bind(&mut self, dtype: DType, expr: Expr) -> usize {
        self.body.push(Stmt::Let { value: self.next, dtype, expr });
        self.next += 1;
        self.next - 1
    }
    fn number(&mut self, x: f64) -> usize {
        self.bind(DType::F32, Expr::Const(Literal::Float(x)))
    }
    fn map(&mut self, op: ScalarOp, x: &[usize]) -> usize {
        self.bind(DType::F32, Expr::Map(op, x.to_vec()))
    }
}

/// AdamW over units of a flat array: gradient; m, v and w in place. Its largest weight goes to the last buffer, one element for each unit, so that threads add up too.
fn adamw() -> Kernel {
    let flat = || Index { axes: vec![(0, FLAT_UNIT), (1, 1)], ..Index::default() };
    let mut l = Lines { next: 0, body: Vec::new() };
    let zero = l.number(0.0);
    let start = Stmt::Init { acc: 0, value: zero };
    let consts: Vec<usize> = [0.9, 0.1, 0.999, 0.001, 1e-8, 0.01, 1e-3].map(|x| l.number(x)).to_vec();
    let mut outer = std::mem::take(&mut l.body);
    outer.push(start);
    let load = |l: &mut Lines, b: usize| l.bind(DType::F32, Expr::Load { buffer: b, index: flat(), guard: None });
    let (g, m, v, w) = (load(&mut l, 0), load(&mut l, 1), load(&mut l, 2), load(&mut l, 3));
    let (a, b) = (l.map(Mul, &[m, consts[0]]), l.map(Mul, &[g, consts[1]]));
    let m = l.map(Add, &[a, b]);
    let gg = l.map(Mul, &[g, g]);
    let (a, b) = (l.map(Mul, &[v, consts[2]]), l.map(Mul, &[gg, consts[3]]));
    let v = l.map(Add, &[a, b]);
    let root = l.map(Sqrt, &[v]);
    let below = l.map(Add, &[root, consts[4]]);
    let step = l.map(Div, &[m, below]);
    let decay = l.map(Mul, &[w, consts[5]]);
    let both = l.map(Add, &[step, decay]);
    let scaled = l.map(Mul, &[both, consts[6]]);
    let w = l.map(Sub, &[w, scaled]);
    for (buffer, value) in [(1, m), (2, v), (3, w)] {
        l.body.push(Stmt::Store { buffer, index: flat(), value });
    }
    l.body.push(Stmt::Update { acc: 0, value: w });
    let inner = std::mem::take(&mut l.body);
    outer.push(Stmt::For { axis: 1, extent: Extent::Size(0), kind: LoopKind::Vector, body: inner });
    let largest = l.bind(DType::F32, Expr::Acc(0));
    outer.append(&mut l.body);
    outer.push(Stmt::Store { buffer: 4, index: Index { axes: vec![(0, 1)], ..Index::default() }, value: largest });
    let param = |access| BufferParam { dtype: DType::F32, access };
    let update = Access::ReadWrite;
    Kernel {
        buffers: vec![param(Access::Read), param(update), param(update), param(update), param(Access::Write)],
        sizes: 2,
        axes: 2,
        values: l.next,
        accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Max) }],
        body: vec![Stmt::For { axis: 0, extent: Extent::Size(1), kind: LoopKind::Parallel, body: outer }],
        ..Kernel::default()
    }
}

/// The same for small arrays, without a parallel loop, as the planner merges them.
fn adamw_small() -> Kernel {
    let mut kernel = adamw();
    let Some(Stmt::For { kind, extent, .. }) = kernel.body.first_mut() else { panic!("a loop") };
    (*kind, *extent) = (LoopKind::Serial, Extent::Const(1));
    kernel
}

/// The plan of a step, its arrays, and how many elements the leaves have.
fn step(kernel: &Kernel, leaves: &[usize]) -> (Plan, Vec<Tensor>) {
    let mut tensors = Vec::new();
    let mut calls = Vec::new();
    let units = FLAT_UNIT as usize;
    for (n, &len) in leaves.iter().enumerate() {
        for k in 0..4 {
            let value = |i: usize| (((i * 7919 + n * 31 + k * 17) % 2003) as f64 - if k == 2 { 0.0 } else { 1001.0 }) / 977.0;
            tensors.push(Tensor::from_f64(DType::F32, &[len], &(0..len).map(value).collect::<Vec<_>>()));
        }
        let whole = len / units;
        tensors.push(Tensor::zeros(DType::F32, &[whole + 1]));
        // Whole units, then the rest.
        for (first, range, size) in [(0, whole, units), (whole, 1, len % units)] {
            if range * size > 0 {
                let at = |k: usize| BufRef { offset: (first * if k == 4 { 4 } else { 4 * units }) as i64, ..BufRef::whole(5 * n + k) };
                calls.push(KernelCall {
                    buffers: (0..5).map(at).collect(),
                    sizes: vec![size as i64, range as i64],
                    range: range as i64,
                    grain: 1,
                });
            }
        }
    }
    assert_eq!(kernel.buffers.len(), 5);
    let decl = |(k, t): (usize, &Tensor)| BufferDecl { dtype: t.dtype, len: t.len(), place: Place::Input(k) };
    let slot = |t: &Tensor| SlotDecl { name: String::new(), dtype: t.dtype, shape: t.shape.clone(), alias: None };
    let plan = Plan {
        buffers: tensors.iter().enumerate().map(decl).collect(),
        arena_bytes: 64,
        inputs: tensors.iter().map(slot).collect(),
        code: vec![Instr::Kernel { kernel: 0, calls }],
        ..Plan::default()
    };
    (plan, tensors)
}

/// The table and the items of a step, as a device has them: each item is `each` units of an argument set at most.
fn lists(plan: &Plan, tensors: &[Tensor], each: i64) -> (Vec<u64>, Vec<i64>) {
    let Instr::Kernel { calls, .. } = &plan.code[0] else { panic!("a kernel") };
    let (mut table, mut items) = (Vec::new(), Vec::new());
    for call in calls {
        let row = (table.len() * 8) as i64;
        table.extend(call.buffers.iter().map(|b| tensors[b.buffer].as_ptr() as u64 + b.offset as u64));
        table.extend(call.sizes.iter().map(|&s| s as u64));
        let mut from = 0;
        while from < call.range {
            items.extend([row, from, call.range.min(from + each)]);
            from += each;
        }
    }
    (table, items)
}

/// The arrays after a step by PTX.
fn by_ptx(code: &DeviceCode, many: &str, threads: u32, plan: &Plan, tensors: &[Tensor], items: &[i64]) -> Vec<Vec<u8>> {
    let Instr::Kernel { calls, .. } = &plan.code[0] else { panic!("a kernel") };
    let mut arrays: Vec<Vec<u8>> = tensors.iter().map(|t| t.bytes().to_vec()).collect();
    let (table, list, status) = (arrays.len(), arrays.len() + 1, arrays.len() + 2);
    let (mut rows, mut pointers) = (Vec::new(), Vec::new());
    for call in calls {
        for b in &call.buffers {
            pointers.push(Pointer { array: table, at: rows.len(), to: (b.buffer, b.offset) });
            rows.extend([0; 8]);
        }
        call.sizes.iter().for_each(|s| rows.extend(s.to_le_bytes()));
    }
    arrays.push(rows);
    arrays.push(items.iter().flat_map(|n| n.to_le_bytes()).collect());
    arrays.push(vec![0; size_of::<Status>()]);
    let count = Given::Number(items.len() as i64 / 3);
    let parameters = vec![Given::Array(table, 0), Given::Array(list, 0), count, Given::Array(status, 0)];
    let launch = Launch { entry: many, blocks: 9, threads, shared: 0, parameters };
    let mut after = gpu::run_with(&code.text, &arrays, &pointers, &[launch]);
    after.truncate(tensors.len());
    after
}

#[test]
fn a_step_of_a_hundred_leaves_is_one_launch() {
    let _alone = alone();
    let leaves: Vec<usize> = (0..100).map(|n| if n % 33 == 7 { 16_384 + 257 * n } else { 1 + (n * n * 13) % 1999 }).collect();
    for (kernel, small) in [(adamw(), false), (adamw_small(), true)] {
        let leaves: Vec<usize> = if small { leaves.iter().map(|n| n % 3000 + 1).collect() } else { leaves.clone() };
        let (plan, tensors) = step(&kernel, &leaves);
        let want = on_host(std::slice::from_ref(&kernel), &plan, &tensors);
        let device = Emulated::new(std::slice::from_ref(&kernel), &plan).expect("LLVM compiles");
        let entry = &device.code.kernels[0];
        let many = entry.many.as_deref().expect("many argument sets");
        for (blocks, each) in [(3, 1), (7, 2)] {
            let got: Vec<Tensor> = tensors.clone();
            let (table, items) = lists(&plan, &got, each);
            let mut status = Status { code: status::WRITTEN, origin: WRITTEN_ORIGIN as i32, ..Status::default() };
            let count = items.len() as u64 / 3;
            let list = |start: usize, len: usize| start..start + 8 * len;
            let mut used = memory(&got);
            used.extend([list(table.as_ptr() as usize, table.len()), list(items.as_ptr() as usize, items.len())]);
            let parameters = [table.as_ptr() as u64, items.as_ptr() as u64, count, &raw mut status as u64];
            // SAFETY: the lists say what the kernel's arrays are.
            unsafe { device.launch(many, blocks, entry.threads, 0, &parameters, &used) };
            no_faults(many);
            for (n, (x, y)) in got.iter().zip(&want).enumerate() {
                assert_eq!(x.bytes(), y.bytes(), "small {small}: array {} of leaf {}", n % 5, n / 5);
            }
            // The same by PTX, with addresses of the device in the table.
            if each == 1 {
                let code = device_code(std::slice::from_ref(&kernel), &plan, "sm_90").expect("LLVM makes PTX");
                assert!(
                    by_ptx(&code, many, entry.threads, &plan, &tensors, &items)
                        == want.iter().map(|t| t.bytes().to_vec()).collect::<Vec<_>>()
                );
            }
            // After a guard nothing happens.
            status = Status { code: status::NOT_FINITE, origin: 3, ..Status::default() };
            let parameters = [table.as_ptr() as u64, items.as_ptr() as u64, count, &raw mut status as u64];
            // SAFETY: as above.
            unsafe { device.launch(many, blocks, entry.threads, 0, &parameters, &used) };
            assert!(got.iter().zip(&want).all(|(x, y)| x.bytes() == y.bytes()), "a stopped run writes nothing");
        }
    }
}

#[test]
fn both_forms_load_four_at_a_time_and_spill_nothing() {
    let kernel = adamw();
    let (plan, _) = step(&kernel, &[5000, 70_000]);
    for gpu in ["sm_80", "sm_90"] {
        let code = device_code(std::slice::from_ref(&kernel), &plan, gpu).expect("LLVM makes PTX");
        let many = code.kernels[0].many.as_deref().expect("many argument sets");
        for name in [&code.kernels[0].one, many] {
            let start = code.text.find(&format!(".entry {name}(")).expect("the entry");
            let body = &code.text[start..];
            let body = &body[..body.find("\n}").unwrap_or(body.len())];
            let wide = |what: &str| body.lines().filter(|l| l.contains(what) && l.contains(".v4")).count();
            assert!(wide("ld.global.nc") >= 1, "{name}: the gradient is read only");
            assert!(wide("ld.global") >= 4 && wide("st.global") >= 3, "{name}: {} and {}", wide("ld.global"), wide("st.global"));
            assert!(body.contains("ld.volatile.global"), "{name} looks at the status");
        }
        let Some(said) = assembled(&code.text, gpu) else { continue };
        for entry in said {
            assert!(entry.spilled == 0 && entry.registers <= 64, "{entry:?}");
        }
    }
}
