//! Runs kernels both ways: compiled and by the reference interpreter. The tests of `optc-llvm` include these files; there its back end compiles.
#![allow(dead_code, unexpected_cfgs)]

use optc_abi::plan::{BufRef, BufferDecl, Instr, KernelCall, Place, Plan, PlanFn, SlotDecl};
use optc_abi::{DType, Tensor};
use optc_cranelift::{Config, Vectors};
use optc_exec::{Pool, Program};
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt, ValueId};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::scalar::ScalarOp;
use std::any::Any;
use std::sync::Arc;

/// Random kernels of one test; LLVM takes its time.
pub const COUNT: u64 = if cfg!(feature = "llvm") { 80 } else { 250 };

/// A plan whose inputs are the tensors and whose code is given.
pub fn plan_over(tensors: &[Tensor], code: Vec<Instr>) -> Plan {
    Plan {
        buffers: tensors.iter().enumerate().map(|(k, t)| BufferDecl { dtype: t.dtype, len: t.len(), place: Place::Input(k) }).collect(),
        arena_bytes: 64,
        inputs: tensors
            .iter()
            .enumerate()
            .map(|(k, t)| SlotDecl { name: format!("x{k}"), dtype: t.dtype, shape: t.shape.clone(), alias: None })
            .collect(),
        code,
        origins: vec![(0, 0, 0); 64],
        ..Plan::default()
    }
}

/// Compiles and runs a plan on tensors; gives the error code.
pub fn run_plan(kernels: &[Kernel], plan: Plan, tensors: &mut [Tensor], threads: usize) -> Result<(), optc_exec::RunError> {
    run_plan_as(kernels, plan, tensors, &Config { threads, ..Config::default() })
}

/// As [`run_plan`], compiled as told.
pub fn run_plan_as(kernels: &[Kernel], plan: Plan, tensors: &mut [Tensor], config: &Config) -> Result<(), optc_exec::RunError> {
    let plan = Arc::new(plan);
    let (entry, code) = compiled(kernels, &plan, config);
    let mut program = Program::new(plan, entry, code, Pool::new(config.threads));
    program.run(tensors).map(|_| ())
}

#[cfg(not(feature = "llvm"))]
fn compiled(kernels: &[Kernel], plan: &Arc<Plan>, config: &Config) -> (PlanFn, Arc<dyn Any + Send + Sync>) {
    let code = optc_cranelift::compile(kernels, plan, config).expect("compiles");
    (code.entry, Arc::new(code))
}

#[cfg(feature = "llvm")]
fn compiled(kernels: &[Kernel], plan: &Arc<Plan>, config: &Config) -> (PlanFn, Arc<dyn Any + Send + Sync>) {
    // The same kernels are run with several numbers of threads.
    static CACHE: std::sync::LazyLock<Arc<Kept>> = std::sync::LazyLock::new(Arc::default);
    let llvm = optc_llvm::Config { cache: Some(CACHE.clone()), ..Default::default() };
    let made = optc_llvm::compile(kernels, plan, &llvm).expect("LLVM compiles");
    let code = optc_cranelift::compile_around(&made.kernels, plan, config).expect("compiles");
    (code.entry, Arc::new((code, made)))
}

/// A cache in memory.
#[cfg(feature = "llvm")]
#[derive(Debug, Default)]
pub struct Kept(pub std::sync::Mutex<std::collections::HashMap<[u8; 32], Vec<u8>>>);

#[cfg(feature = "llvm")]
impl optc_llvm::Cache for Kept {
    fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.lock().expect("no panic").get(key).cloned()
    }
    fn put(&self, key: &[u8; 32], object: &[u8]) {
        self.0.lock().expect("no panic").insert(*key, object.to_vec());
    }
}

/// The extent of the kernel's parallel loop, 1 if there is none.
pub fn range_of(kernel: &Kernel, sizes: &[i64]) -> i64 {
    kernel
        .body
        .iter()
        .find_map(|s| match s {
            Stmt::For { extent, kind: LoopKind::Parallel, .. } => Some(match extent {
                Extent::Const(n) => *n,
                Extent::Size(s) => sizes[*s],
            }),
            _ => None,
        })
        .unwrap_or(1)
}

/// Runs a kernel compiled.
pub fn run_compiled(kernel: &Kernel, tensors: &mut [Tensor], sizes: &[i64], threads: usize) -> Result<(), optc_exec::RunError> {
    run_compiled_as(kernel, tensors, sizes, &Config { threads, ..Config::default() })
}

/// The plan that runs one kernel.
pub fn plan_of(kernel: &Kernel, tensors: &[Tensor], sizes: &[i64]) -> Plan {
    let call = KernelCall {
        buffers: (0..tensors.len()).map(BufRef::whole).collect(),
        sizes: sizes.to_vec(),
        range: range_of(kernel, sizes),
        grain: 1,
    };
    plan_over(tensors, vec![Instr::Kernel { kernel: 0, calls: vec![call] }])
}

/// Runs a kernel compiled as told.
pub fn run_compiled_as(kernel: &Kernel, tensors: &mut [Tensor], sizes: &[i64], config: &Config) -> Result<(), optc_exec::RunError> {
    run_plan_as(std::slice::from_ref(kernel), plan_of(kernel, tensors, sizes), tensors, config)
}

/// Whether two tensors have the same bits; NaNs of any kind are equal.
pub fn same(a: &Tensor, b: &Tensor) -> bool {
    a == b
        || a.dtype.is_float()
            && a.len() == b.len()
            && (0..a.len()).all(|i| {
                let (x, y) = (a.get_f64(i), b.get_f64(i));
                x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
            })
}

/// Runs a kernel compiled, with 1, 2 and 3 threads and loops of every width, and interpreted; everything must agree bit for bit.
pub fn check(kernel: &Kernel, tensors: &[Tensor], sizes: &[i64]) {
    let mut want = tensors.to_vec();
    let status = run_kernel_on(kernel, &mut want, sizes).unwrap_or_else(|e| panic!("interpreter: {e}\n{kernel:#?}"));
    for (threads, vectors) in
        [(1, Vectors::Bits512), (1, Vectors::Bits256), (1, Vectors::Bits128), (2, Vectors::Bits512), (3, Vectors::Bits256)]
    {
        let mut got = tensors.to_vec();
        let result = run_compiled_as(kernel, &mut got, sizes, &Config { threads, vectors, ..Config::default() });
        let code = result.err().map_or(0, |e| e.status.code);
        assert_eq!(code, status.code, "status of {kernel:#?}");
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            if !same(a, b) {
                let at = (0..a.len()).find(|&j| a.get_f64(j).to_bits() != b.get_f64(j).to_bits());
                let text = optc_ir::text::print_kernel("k", kernel);
                panic!("buffer {i}, element {at:?}: compiled ({vectors:?})\n{:?}\ninterpreted\n{:?}\n{text}", a.to_f64(), b.to_f64());
            }
        }
    }
}

pub fn at(axes: &[(usize, i64)]) -> Index {
    Index { axes: axes.to_vec(), ..Index::default() }
}
pub fn read(dtype: DType) -> BufferParam {
    BufferParam { dtype, access: Access::Read }
}
pub fn write(dtype: DType) -> BufferParam {
    BufferParam { dtype, access: Access::Write }
}
pub fn bind(value: usize, dtype: DType, expr: Expr) -> Stmt {
    Stmt::Let { value, dtype, expr }
}
pub fn load(buffer: usize, index: Index) -> Expr {
    Expr::Load { buffer, index, guard: None }
}
pub fn lit(x: f64) -> Expr {
    Expr::Const(Literal::Float(x))
}
pub fn int(x: i64) -> Expr {
    Expr::Const(Literal::Int(x))
}
pub fn reduce(dtype: DType, op: optc_ir::graph::ReduceOp) -> Acc {
    Acc { dtype, op: AccOp::Reduce(op) }
}

/// Statements with numbered values.
#[derive(Default)]
pub struct Body {
    pub stmts: Vec<Stmt>,
    pub next: ValueId,
}

impl Body {
    pub fn bind(&mut self, dtype: DType, expr: Expr) -> ValueId {
        self.stmts.push(bind(self.next, dtype, expr));
        self.next += 1;
        self.next - 1
    }
    pub fn map(&mut self, dtype: DType, op: ScalarOp, x: &[ValueId]) -> ValueId {
        self.bind(dtype, Expr::Map(op, x.to_vec()))
    }
    /// An operation with a constant i32.
    pub fn with(&mut self, op: ScalarOp, x: ValueId, constant: i64) -> ValueId {
        let c = self.bind(DType::I32, int(constant));
        self.map(DType::I32, op, &[x, c])
    }
    pub fn store(&mut self, buffer: usize, index: Index, value: ValueId) {
        self.stmts.push(Stmt::Store { buffer, index, value });
    }
    pub fn take(&mut self) -> Vec<Stmt> {
        std::mem::take(&mut self.stmts)
    }
    /// A vector loop with what is made in it.
    pub fn inner(&mut self, axis: usize, n: i64, body: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.stmts);
        body(self);
        let body = std::mem::replace(&mut self.stmts, outer);
        self.stmts.push(Stmt::For { axis, extent: Extent::Const(n), kind: LoopKind::Vector, body });
    }
}

/// A small generator of pseudo-random numbers.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// A tensor with plain and special values.
    pub fn tensor(&mut self, dtype: DType, n: usize) -> Tensor {
        let special = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 65504.0, 3e9, -3e9, 1e-6];
        let values: Vec<f64> = (0..n)
            .map(|_| {
                let x = (self.below(2001) as f64 - 1000.0) / 37.0;
                match (self.below(8), dtype) {
                    (_, DType::Bool) => self.below(2) as f64,
                    (0, _) => self.pick(&special),
                    (_, d) if d.is_float() => x,
                    (1, _) => x * 1e8,
                    _ => x.trunc(),
                }
            })
            .collect();
        Tensor::from_f64(dtype, &[n], &values)
    }
}

/// Assembles PTX with `ptxas` (of the environment variable `OPTC_PTXAS`, or on the path); gives what it says, for each kernel its registers and spills. Nothing without it.
#[cfg(feature = "llvm")]
pub fn assemble(ptx: &str, gpu: &str) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let arguments = ["-v", "--gpu-name", gpu, "--output-file", "/dev/null", "-"];
    let started = Command::new(&program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        eprintln!("skipped: no {program} (pip install nvidia-cuda-nvcc, then OPTC_PTXAS=.../ptxas)");
        return None;
    };
    child.stdin.take().expect("a pipe").write_all(ptx.as_bytes()).expect("ptxas reads");
    let done = child.wait_with_output().expect("ptxas ends");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ptxas refuses:\n{said}");
    Some(said)
}
