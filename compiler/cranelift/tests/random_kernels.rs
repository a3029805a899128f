//! Random kernels of exact operations: compiled code agrees with the reference interpreter bit for bit, for 1, 2 and 3 threads.
#![allow(unexpected_cfgs)]

mod common;

use common::{COUNT, Rng, bind, check, int, lit, plan_of, read, reduce, write};
use optc_abi::{DType, Tensor};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, BufferParam, Expr, Extent, Index, Kernel, LoopKind, Stmt};
use optc_ir::scalar::{Class, ScalarOp, TABLE};

const VALUES: [DType; 7] = [DType::F32, DType::F64, DType::I32, DType::I64, DType::U32, DType::U8, DType::Bool];

/// Types of values that wide loops take.
const WORDS: [DType; 4] = [DType::F32, DType::I32, DType::U32, DType::Bool];

struct Maker {
    rng: Rng,
    /// Long loops over 32-bit values.
    words: bool,
    buffers: Vec<BufferParam>,
    tensors: Vec<Tensor>,
    dtypes: Vec<DType>,
    rows: i64,
    n: i64,
}

impl Maker {
    fn value_type(dtype: DType) -> DType {
        if matches!(dtype, DType::BF16 | DType::F16) { DType::F32 } else { dtype }
    }

    fn any(&mut self) -> DType {
        if self.words { self.rng.pick(&WORDS) } else { self.rng.pick(&VALUES) }
    }

    fn float(&mut self) -> DType {
        if self.words { DType::F32 } else { self.rng.pick(&[DType::F32, DType::F32, DType::F64]) }
    }

    /// A type with addition.
    fn number(&mut self) -> DType {
        if self.words { self.rng.pick(&WORDS[..3]) } else { self.rng.pick(&VALUES[..6]) }
    }

    fn integer(&mut self) -> DType {
        if self.words { self.rng.pick(&WORDS[1..3]) } else { self.rng.pick(&VALUES[2..6]) }
    }

    fn define(&mut self, body: &mut Vec<Stmt>, dtype: DType, expr: Expr) -> usize {
        let value = self.dtypes.len();
        self.dtypes.push(dtype);
        body.push(bind(value, dtype, expr));
        value
    }

    /// A value of a type from those defined so far, a constant if there is none.
    fn operand(&mut self, body: &mut Vec<Stmt>, dtype: DType) -> usize {
        let known: Vec<usize> = (0..self.dtypes.len()).filter(|&v| self.dtypes[v] == dtype).collect();
        if !known.is_empty() && self.rng.below(5) > 0 {
            let late = known.len().saturating_sub(6);
            return known[late + self.rng.below(known.len() - late)];
        }
        let expr = match dtype {
            d if d.is_float() => {
                let x = self.rng.pick(&[0.0, 1.0, -2.5, 1e10]);
                lit(x)
            }
            DType::Bool => int(self.rng.below(2) as i64),
            _ => {
                let x = self.rng.pick(&[0, 1, 3, 7]);
                int(x)
            }
        };
        self.define(body, dtype, expr)
    }

    /// An index whose greatest element is below `rows * n * 2`.
    fn index(&mut self, depth: usize) -> Index {
        let mut axes = Vec::new();
        if depth > 0 && self.rng.below(4) > 0 {
            axes.push((0, self.n));
        }
        if depth > 1 && self.rng.below(5) > 0 {
            let stride = if self.words { 1 } else { self.rng.pick(&[1, 1, 1, 1, 2]) };
            axes.push((1, if axes.is_empty() || stride == 1 { stride } else { 1 }));
        }
        Index { axes, ..Index::default() }
    }

    fn load(&mut self, body: &mut Vec<Stmt>, depth: usize) {
        let dtype = if self.words {
            self.rng.pick(&[DType::F32, DType::F32, DType::BF16, DType::F16, DType::I32, DType::U32, DType::Bool])
        } else {
            self.rng.pick(&DType::ALL)
        };
        let elements = (self.rows * self.n * 2 + 8) as usize;
        self.tensors.push(self.rng.tensor(dtype, elements));
        self.buffers.push(read(dtype));
        let buffer = self.buffers.len() - 1;
        let mut index = self.index(depth);
        let value = Self::value_type(dtype);
        match self.rng.below(6) {
            0 if !self.words => {
                let source = self.operand(body, DType::I32);
                let checked = self.define(body, DType::I32, Expr::CheckedIndex { index: source, extent: 5, origin: 3 });
                index.values.push((checked, 1));
                self.define(body, value, Expr::Load { buffer, index, guard: None });
            }
            1 => {
                let (cond, otherwise) = (self.operand(body, DType::Bool), self.operand(body, value));
                self.define(body, value, Expr::Load { buffer, index, guard: Some((cond, otherwise)) });
            }
            _ => {
                self.define(body, value, Expr::Load { buffer, index, guard: None });
            }
        }
    }

    fn step(&mut self, body: &mut Vec<Stmt>, depth: usize) {
        match self.rng.below(10) {
            0 | 1 => self.load(body, depth),
            2 => {
                let (from, to) = (self.any(), self.any());
                let x = self.operand(body, from);
                self.define(body, to, Expr::Cast(x));
            }
            3 if depth > 0 => {
                let dtype = if self.words { DType::I32 } else { self.rng.pick(&[DType::I32, DType::I64, DType::U32]) };
                let axis = self.rng.below(depth);
                self.define(body, dtype, Expr::Axis(axis));
            }
            4 => {
                let pairs = [(DType::F32, DType::I32), (DType::U32, DType::F32), (DType::I64, DType::F64), (DType::F64, DType::I64)];
                let (from, to) = self.rng.pick(if self.words { &pairs[..2] } else { &pairs });
                let x = self.operand(body, from);
                self.define(body, to, Expr::Bitcast(x));
            }
            5 if self.rng.below(3) == 0 => {
                let key = [0; 2].map(|_| self.operand(body, DType::U32));
                let counter = [0; 4].map(|_| self.operand(body, DType::U32));
                let word = self.rng.below(4) as u8;
                self.define(body, DType::U32, Expr::Philox { key, counter, word });
            }
            _ => self.map(body),
        }
    }

    fn map(&mut self, body: &mut Vec<Stmt>) {
        // These have no wide form.
        let narrow = |op: ScalarOp| matches!(op, ScalarOp::FloorDiv | ScalarOp::Rem);
        let exact: Vec<_> = TABLE.iter().filter(|r| r.ulp == 0.0 && r.op != ScalarOp::Fma && !(self.words && narrow(r.op))).collect();
        let row = exact[self.rng.below(exact.len())];
        let dtype = match row.class {
            Class::Float | Class::Test => self.float(),
            Class::Number => self.number(),
            Class::Bits if matches!(row.op, ScalarOp::Shl | ScalarOp::Shr) => self.integer(),
            Class::Bits if self.words => self.rng.pick(&WORDS[1..]),
            Class::Bits => self.rng.pick(&VALUES[2..]),
            Class::Compare if self.words => self.number(),
            Class::Compare | Class::Select => self.any(),
        };
        let mut x: Vec<usize> = (0..row.arity).map(|_| self.operand(body, dtype)).collect();
        if row.class == Class::Select {
            x[0] = self.operand(body, DType::Bool);
        }
        let result = if matches!(row.class, Class::Compare | Class::Test) { DType::Bool } else { dtype };
        self.define(body, result, Expr::Map(row.op, x));
    }

    fn store(&mut self, body: &mut Vec<Stmt>, depth: usize, value: usize) {
        let dtype = match self.dtypes[value] {
            DType::F32 => self.rng.pick(&[DType::F32, DType::BF16, DType::F16]),
            d => d,
        };
        self.tensors.push(Tensor::zeros(dtype, &[(self.rows * self.n + 8) as usize]));
        self.buffers.push(write(dtype));
        let axes = [(0, self.n), (1, 1)][..depth].to_vec();
        body.push(Stmt::Store { buffer: self.buffers.len() - 1, index: Index { axes, ..Index::default() }, value });
    }
}

fn make(seed: u64, words: bool) -> (Kernel, Vec<Tensor>, Vec<i64>) {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1);
    let rows = rng.pick(&[1, 2, 3]);
    let n = if words { rng.pick(&[48, 64, 70, 127, 160]) } else { rng.pick(&[1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 20, 31, 33, 48, 70]) };
    let mut m = Maker { rng, words, buffers: Vec::new(), tensors: Vec::new(), dtypes: Vec::new(), rows, n };
    let sized = m.rng.below(2) == 0;
    let mut outer = Vec::new();
    m.load(&mut outer, 1);
    let mut accs: Vec<Acc> = Vec::new();
    let mut updates = Vec::new();
    let mut inner = Vec::new();
    let count = 2 + m.rng.below(if words { 60 } else { 14 });
    // Accumulators of any type, set before the loop.
    for _ in 0..m.rng.below(if words { 5 } else { 3 }) {
        let dtype = m.any();
        let op = match dtype {
            DType::Bool => m.rng.pick(&[ReduceOp::And, ReduceOp::Or]),
            _ => m.rng.pick(&[ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min]),
        };
        let start = m.operand(&mut outer, dtype);
        outer.push(Stmt::Init { acc: accs.len(), value: start });
        accs.push(reduce(dtype, op));
    }
    let before = m.dtypes.len();
    for _ in 0..count {
        m.step(&mut inner, 2);
    }
    for (acc, declared) in accs.iter().enumerate() {
        let value = m.operand(&mut inner, declared.dtype);
        updates.push(Stmt::Update { acc, value });
    }
    inner.extend(updates);
    for _ in 0..1 + m.rng.below(2) {
        let value = m.rng.below(m.dtypes.len());
        m.store(&mut inner, 2, value);
    }
    // Values of the inner loop are not visible after it.
    let inside = m.dtypes.split_off(before);
    m.dtypes.extend(inside.iter().map(|_| DType::F16));
    let kind = if m.rng.below(8) == 0 { LoopKind::Serial } else { LoopKind::Vector };
    outer.push(Stmt::For { axis: 1, extent: if sized { Extent::Size(0) } else { Extent::Const(n) }, kind, body: inner });
    for (acc, declared) in accs.iter().enumerate() {
        let value = m.define(&mut outer, declared.dtype, Expr::Acc(acc));
        m.store(&mut outer, 1, value);
    }
    let kind = m.rng.pick(&[LoopKind::Parallel, LoopKind::Serial]);
    let kernel = Kernel {
        buffers: m.buffers,
        sizes: 1,
        axes: 2,
        values: m.dtypes.len(),
        accs,
        body: vec![Stmt::For { axis: 0, extent: Extent::Const(rows), kind, body: outer }],
        ..Kernel::default()
    };
    (kernel, m.tensors, vec![n])
}

#[test]
fn random_kernels_agree_with_the_interpreter() {
    for seed in 0..COUNT {
        let (kernel, tensors, sizes) = make(seed, false);
        check(&kernel, &tensors, &sizes);
    }
}

#[test]
fn random_kernels_of_words_agree_with_the_interpreter() {
    let mut wide = 0;
    for seed in 0..COUNT {
        let (kernel, tensors, sizes) = make(seed, true);
        check(&kernel, &tensors, &sizes);
        wide += usize::from(optc_cranelift::asm(std::slice::from_ref(&kernel), &plan_of(&kernel, &tensors, &sizes)).contains("wide loop"));
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        assert!(wide > COUNT as usize / 3, "only {wide} of {COUNT} kernels had a wide loop");
    }
    let _ = wide;
}

/// Every kind of kernel has PTX that NVIDIA's assembler takes.
#[cfg(feature = "llvm")]
#[test]
fn ptx_of_random_kernels_assembles() {
    let kernels: Vec<Kernel> = (0..60).flat_map(|seed| [make(seed, false).0, make(seed, true).0]).collect();
    let ptx = optc_llvm::ptx(&[("random", &kernels, &optc_abi::plan::Plan::default())], "sm_80").expect("LLVM makes PTX");
    assert_eq!(ptx.launches.len(), kernels.len());
    common::assemble(&ptx.text, "sm_80");
}
