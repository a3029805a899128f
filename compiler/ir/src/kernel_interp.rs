//! The reference interpreter of kernels: the exact meaning of `kernel.rs`, one element at a time.
//!
//! Buffers may share memory as an execution plan lets them: it is reached through their addresses, an element at a time.

use crate::eval::{eval_float, eval_int, eval_typed, float_to_int, int_to_float, round_to, wrap};
use crate::interp::{float_bits, float_from_bits, float_identity, int_identity, step_of};
use crate::kernel::{AccOp, Expr, Extent, Index, Kernel, LANES, LOCAL, Literal, LoopKind, Stmt, ValueId};
use crate::kernel_verify::{KernelInfo, updates, verify_kernel};
use crate::scalar::Class;
use optc_abi::plan::{Status, status};
use optc_abi::{DType, Tensor, philox};
use std::ops::Range;

/// A scalar while a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    Float(f64),
    Int(i64),
}

impl Scalar {
    fn int(self) -> i64 {
        match self {
            Scalar::Int(v) => v,
            Scalar::Float(_) => panic!("compiler bug: a float where an integer is wanted"),
        }
    }
    fn float(self) -> f64 {
        match self {
            Scalar::Float(v) => v,
            Scalar::Int(_) => panic!("compiler bug: an integer where a float is wanted"),
        }
    }
}

/// Runs passes `begin..end` of a kernel (0..1 for one without a parallel loop). `regions[i]` is the byte range of `memory` that buffer parameter
/// `i` stands for; regions may coincide as [`crate::kernel::BufferParam`] allows. Returns what the kernel reports.
///
/// # Errors
/// If the kernel is malformed, the arguments do not fit it, or it loads or stores outside a region.
pub fn run_kernel(
    kernel: &Kernel,
    memory: &mut [u8],
    regions: &[Range<usize>],
    sizes: &[i64],
    begin: i64,
    end: i64,
) -> Result<Status, String> {
    if let Some(region) = regions.iter().find(|r| r.start > r.end || r.end > memory.len()) {
        return Err(format!("region {region:?} in a memory of {} bytes", memory.len()));
    }
    let base = memory.as_mut_ptr();
    let buffers: Vec<Memory> = regions.iter().map(|r| Memory { at: base.wrapping_add(r.start), bytes: r.len() }).collect();
    // SAFETY: all regions lie in `memory`, which nobody else has meanwhile.
    unsafe { run_verified(kernel, &verify_kernel(kernel)?, &buffers, sizes, begin, end) }
}

/// Where a buffer parameter's elements are.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Address of the first one.
    pub at: *mut u8,
    /// Bytes up to the end of the last one.
    pub bytes: usize,
}

/// [`run_kernel`] of a kernel that was verified with this result, on memory wherever it is.
///
/// # Errors
/// If the arguments do not fit the kernel, or it loads or stores outside a buffer.
///
/// # Safety
/// Each buffer's memory is there, and while this runs nobody else writes what the kernel reads or touches what it writes.
pub unsafe fn run_verified(
    kernel: &Kernel,
    info: &KernelInfo,
    buffers: &[Memory],
    sizes: &[i64],
    begin: i64,
    end: i64,
) -> Result<Status, String> {
    if buffers.len() != kernel.buffers.len() || sizes.len() != kernel.sizes {
        return Err(format!("{} buffers and {} sizes for {} and {}", buffers.len(), sizes.len(), kernel.buffers.len(), kernel.sizes));
    }
    let mut run = Run {
        kernel,
        info,
        buffers,
        sizes,
        passes: (begin, end),
        axes: vec![0; kernel.axes],
        values: vec![Scalar::Int(0); kernel.values],
        accs: vec![Scalar::Int(0); kernel.accs.len()],
        lanes: None,
        locals: kernel.locals.iter().map(|l| vec![0xFF; l.len * l.dtype.size()]).collect(),
        status: Status { code: status::OK, origin: -1, index: 0, extent: 0 },
    };
    run.block(&kernel.body)?;
    Ok(run.status)
}

/// Runs a whole kernel on tensors, one per buffer parameter, which are changed in place.
///
/// # Errors
/// As [`run_kernel`]; also if a tensor's element type is not its parameter's.
pub fn run_kernel_on(kernel: &Kernel, buffers: &mut [Tensor], sizes: &[i64]) -> Result<Status, String> {
    for (i, (tensor, param)) in buffers.iter().zip(&kernel.buffers).enumerate() {
        if tensor.dtype != param.dtype {
            return Err(format!("buffer {i} is {}, not {}", tensor.dtype, param.dtype));
        }
    }
    let mut memory = Vec::new();
    let mut regions = Vec::new();
    for tensor in buffers.iter() {
        let start = memory.len();
        memory.extend_from_slice(tensor.bytes());
        regions.push(start..memory.len());
    }
    let range = match verify_kernel(kernel)?.parallel {
        None => 1,
        Some(Extent::Const(n)) => n,
        Some(Extent::Size(s)) => *sizes.get(s).ok_or("a size parameter is missing")?,
    };
    let status = run_kernel(kernel, &mut memory, &regions, sizes, 0, range)?;
    for (tensor, region) in buffers.iter_mut().zip(regions) {
        tensor.bytes_mut().copy_from_slice(&memory[region]);
    }
    Ok(status)
}

struct Run<'a> {
    kernel: &'a Kernel,
    info: &'a KernelInfo,
    buffers: &'a [Memory],
    sizes: &'a [i64],
    passes: (i64, i64),
    axes: Vec<i64>,
    values: Vec<Scalar>,
    accs: Vec<Scalar>,
    /// Inside a vector loop: its present lane, and the lanes of each accumulator it updates.
    lanes: Option<(usize, Vec<Option<[Scalar; LANES]>>)>,
    /// Local arrays; all bits are set where nothing has been stored.
    locals: Vec<Vec<u8>>,
    status: Status,
}

impl Run<'_> {
    fn block(&mut self, body: &[Stmt]) -> Result<(), String> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), String> {
        match stmt {
            Stmt::For { axis, extent, kind, body } => {
                let n = match extent {
                    Extent::Const(n) => *n,
                    Extent::Size(s) => self.sizes[*s],
                };
                let passes = if *kind == LoopKind::Parallel { self.passes.0..self.passes.1.min(n) } else { 0..n };
                if *kind == LoopKind::Vector {
                    self.open_lanes(body);
                }
                for pass in passes {
                    self.axes[*axis] = pass;
                    if *kind == LoopKind::Parallel {
                        self.locals.iter_mut().for_each(|l| l.fill(0xFF));
                    }
                    if let Some((lane, _)) = &mut self.lanes {
                        *lane = pass as usize % LANES;
                    }
                    self.block(body)?;
                }
                if *kind == LoopKind::Vector {
                    self.close_lanes();
                }
            }
            Stmt::Let { value, dtype, expr } => self.values[*value] = self.expr(expr, *dtype)?,
            Stmt::Init { acc, value } => self.accs[*acc] = self.values[*value],
            Stmt::Update { acc, value } => {
                let new = self.values[*value];
                match &mut self.lanes {
                    Some((lane, lanes)) => {
                        let lane = *lane;
                        let old = lanes[*acc].as_ref().expect("lanes of an updated accumulator")[lane];
                        let combined = self.combine(*acc, old, new);
                        let Some((_, lanes)) = &mut self.lanes else { panic!("compiler bug: lanes vanished") };
                        lanes[*acc].as_mut().expect("lanes of an updated accumulator")[lane] = combined;
                    }
                    None => self.accs[*acc] = self.combine(*acc, self.accs[*acc], new),
                }
            }
            Stmt::Store { buffer, index, value } => {
                let at = self.place(*buffer, index)?;
                let value = self.values[*value];
                let dtype = self.kernel.dtype(*buffer);
                match buffer.checked_sub(LOCAL) {
                    Some(i) => store(dtype, &mut self.locals[i][at], value),
                    // SAFETY: `place` has checked the range, and the buffer is there as `run_verified` asks.
                    None => {
                        store(dtype, unsafe { std::slice::from_raw_parts_mut(self.buffers[*buffer].at.add(at.start), at.len()) }, value)
                    }
                }
            }
        }
        Ok(())
    }

    fn open_lanes(&mut self, body: &[Stmt]) {
        let mut updated = Vec::new();
        updates(body, &mut updated);
        let mut lanes = vec![None; self.kernel.accs.len()];
        for acc in updated {
            let declared = &self.kernel.accs[acc];
            let AccOp::Reduce(kind) = declared.op else { panic!("compiler bug: overwritten accumulator in a vector loop") };
            let identity = if declared.dtype.is_float() {
                Scalar::Float(float_identity(kind))
            } else {
                Scalar::Int(int_identity(kind, declared.dtype))
            };
            lanes[acc] = Some([identity; LANES]);
        }
        self.lanes = Some((0, lanes));
    }

    fn close_lanes(&mut self) {
        let (_, lanes) = self.lanes.take().expect("an open vector loop");
        for (acc, lanes) in lanes.into_iter().enumerate() {
            let Some(mut lanes) = lanes else { continue };
            let mut half = LANES / 2;
            while half > 0 {
                for l in 0..half {
                    lanes[l] = self.combine(acc, lanes[l], lanes[l + half]);
                }
                half /= 2;
            }
            self.accs[acc] = self.combine(acc, self.accs[acc], lanes[0]);
        }
    }

    fn combine(&self, acc: usize, old: Scalar, new: Scalar) -> Scalar {
        let declared = &self.kernel.accs[acc];
        match (declared.op, old) {
            (AccOp::Assign, _) => new,
            (AccOp::Reduce(kind), Scalar::Float(old)) => Scalar::Float(eval_typed(step_of(kind), declared.dtype, &[old, new.float()])),
            (AccOp::Reduce(kind), Scalar::Int(old)) => Scalar::Int(eval_int(step_of(kind), declared.dtype, &[old, new.int()])),
        }
    }

    /// The bytes of an element, from the start of its buffer.
    fn place(&self, buffer: usize, index: &Index) -> Result<Range<usize>, String> {
        let mut at = index.offset;
        at += index.axes.iter().map(|&(axis, stride)| self.axes[axis] * stride).sum::<i64>();
        at += index.values.iter().map(|&(value, stride)| self.values[value].int() * stride).sum::<i64>();
        at += index.sized.iter().map(|&(axis, stride, size)| self.axes[axis] * stride * self.sizes[size]).sum::<i64>();
        let width = self.kernel.dtype(buffer).size();
        let bytes = buffer.checked_sub(LOCAL).map_or_else(|| self.buffers[buffer].bytes, |i| self.locals[i].len());
        match usize::try_from(at).ok().and_then(|at| at.checked_mul(width)) {
            Some(start) if start.saturating_add(width) <= bytes => Ok(start..start + width),
            _ => Err(format!("element {at} of buffer {buffer}, which has {bytes} bytes")),
        }
    }

    fn operands(&self, ids: &[ValueId]) -> ([Scalar; 3], usize) {
        let mut out = [Scalar::Int(0); 3];
        for (cell, &id) in out.iter_mut().zip(ids) {
            *cell = self.values[id];
        }
        (out, ids.len())
    }

    fn expr(&mut self, expr: &Expr, dtype: DType) -> Result<Scalar, String> {
        let value = |run: &Self, id: ValueId| run.values[id];
        Ok(match expr {
            Expr::Const(Literal::Float(v)) => Scalar::Float(round_to(dtype, *v)),
            Expr::Const(Literal::Int(v)) => Scalar::Int(wrap(dtype, *v)),
            Expr::Axis(axis) => Scalar::Int(wrap(dtype, self.axes[*axis])),
            Expr::Load { guard: Some((guard, otherwise)), .. } if self.values[*guard].int() == 0 => self.values[*otherwise],
            Expr::Load { buffer, index, .. } => {
                let at = self.place(*buffer, index)?;
                let dtype = self.kernel.dtype(*buffer);
                match buffer.checked_sub(LOCAL) {
                    Some(i) => load(dtype, &self.locals[i][at]),
                    // SAFETY: as for stores.
                    None => load(dtype, unsafe { std::slice::from_raw_parts(self.buffers[*buffer].at.add(at.start), at.len()) }),
                }
            }
            Expr::Map(op, ids) => {
                let (x, n) = self.operands(ids);
                if op.row().class == Class::Select {
                    return Ok(if x[0].int() != 0 { x[1] } else { x[2] });
                }
                let operand = self.info.value_types[ids[0]].expect("a typed operand");
                match x[0] {
                    Scalar::Float(_) => {
                        let x = x.map(|s| if let Scalar::Float(v) = s { v } else { 0.0 });
                        match op.row().class {
                            Class::Compare | Class::Test => Scalar::Int(eval_float(*op, &x[..n]) as i64),
                            _ => Scalar::Float(eval_typed(*op, operand, &x[..n])),
                        }
                    }
                    Scalar::Int(_) => {
                        let x = x.map(|s| if let Scalar::Int(v) = s { v } else { 0 });
                        Scalar::Int(eval_int(*op, operand, &x[..n]))
                    }
                }
            }
            Expr::Cast(id) => match (value(self, *id), dtype.is_float()) {
                (Scalar::Float(v), true) => Scalar::Float(round_to(dtype, v)),
                (Scalar::Float(v), false) => Scalar::Int(float_to_int(dtype, v)),
                (Scalar::Int(v), true) => Scalar::Float(int_to_float(dtype, v)),
                (Scalar::Int(v), false) if dtype == DType::Bool => Scalar::Int(i64::from(v != 0)),
                (Scalar::Int(v), false) => Scalar::Int(wrap(dtype, v)),
            },
            Expr::Bitcast(id) => {
                let bits = match value(self, *id) {
                    Scalar::Float(v) => float_bits(self.info.value_types[*id].expect("a typed operand"), v),
                    Scalar::Int(v) => v as u64,
                };
                if dtype.is_float() { Scalar::Float(float_from_bits(dtype, bits)) } else { Scalar::Int(wrap(dtype, bits as i64)) }
            }
            Expr::Acc(acc) => self.accs[*acc],
            Expr::Philox { key, counter, word } => {
                let key = key.map(|k| value(self, k).int() as u32);
                let counter = counter.map(|c| value(self, c).int() as u32);
                Scalar::Int(i64::from(philox::philox4x32(key, counter)[usize::from(*word)]))
            }
            Expr::CheckedIndex { index, extent, origin } => {
                let index = value(self, *index).int();
                if !(0..*extent).contains(&index) && self.status.code == status::OK {
                    self.status = Status { code: status::OUT_OF_RANGE, origin: *origin as i32, index, extent: *extent };
                }
                Scalar::Int(index.clamp(0, (*extent - 1).max(0)))
            }
        })
    }
}

fn load(dtype: DType, bytes: &[u8]) -> Scalar {
    let mut bits = [0; 8];
    bits[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(bits);
    if dtype.is_float() { Scalar::Float(float_from_bits(dtype, bits)) } else { Scalar::Int(wrap(dtype, bits as i64)) }
}

fn store(dtype: DType, bytes: &mut [u8], value: Scalar) {
    let bits = match value {
        Scalar::Float(v) => float_bits(dtype, v),
        Scalar::Int(v) => v as u64,
    };
    bytes.copy_from_slice(&bits.to_le_bytes()[..bytes.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ReduceOp;
    use crate::kernel::{Acc, Access, BufferParam};
    use crate::scalar::ScalarOp;

    fn at(axes: &[(usize, i64)]) -> Index {
        Index { axes: axes.to_vec(), ..Index::default() }
    }
    fn read(dtype: DType) -> BufferParam {
        BufferParam { dtype, access: Access::Read }
    }
    fn write(dtype: DType) -> BufferParam {
        BufferParam { dtype, access: Access::Write }
    }
    fn bind(value: usize, dtype: DType, expr: Expr) -> Stmt {
        Stmt::Let { value, dtype, expr }
    }
    fn load_of(buffer: usize, index: Index) -> Expr {
        Expr::Load { buffer, index, guard: None }
    }

    /// Sum of one row of `n` elements per pass.
    fn row_sums(n: i64, kind: LoopKind) -> Kernel {
        let add = vec![bind(1, DType::F32, load_of(0, at(&[(0, n), (1, 1)]))), Stmt::Update { acc: 0, value: 1 }];
        Kernel {
            buffers: vec![read(DType::F32), write(DType::F32)],
            sizes: 1,
            axes: 2,
            values: 3,
            accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Sum) }],
            body: vec![
                bind(0, DType::F32, Expr::Const(Literal::Float(0.0))),
                Stmt::For {
                    axis: 0,
                    extent: Extent::Size(0),
                    kind: LoopKind::Parallel,
                    body: vec![
                        Stmt::Init { acc: 0, value: 0 },
                        Stmt::For { axis: 1, extent: Extent::Const(n), kind, body: add },
                        bind(2, DType::F32, Expr::Acc(0)),
                        Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 2 },
                    ],
                },
            ],
            ..Kernel::default()
        }
    }

    #[test]
    fn vector_sums_use_sixteen_lanes() {
        let x: Vec<f32> = (0..2 * 37).map(|i| ((i * 7919) % 101) as f32 * 0.37 + 1e4 / (1 + i) as f32).collect();
        let mut buffers = [Tensor::from_slice(&[2, 37], &x), Tensor::zeros(DType::F32, &[2])];
        run_kernel_on(&row_sums(37, LoopKind::Vector), &mut buffers, &[2]).unwrap();
        for row in 0..2 {
            let mut lanes = [0f32; LANES];
            for j in 0..37 {
                lanes[j % LANES] += x[row * 37 + j];
            }
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    lanes[l] += lanes[l + half];
                }
            }
            assert_eq!(buffers[1].as_slice::<f32>()[row].to_bits(), (0.0 + lanes[0]).to_bits());
        }
        run_kernel_on(&row_sums(37, LoopKind::Serial), &mut buffers, &[2]).unwrap();
        assert_eq!(buffers[1].as_slice::<f32>()[1], x[37..].iter().fold(0.0, |a, b| a + b));
    }

    #[test]
    fn only_the_asked_passes_run() {
        let mut memory = vec![0u8; 4 * 4];
        memory[..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
        let kernel = row_sums(1, LoopKind::Serial);
        run_kernel(&kernel, &mut memory, &[0..8, 8..16], &[2], 1, 2).unwrap();
        assert_eq!(memory[8..], [0, 0, 0, 0, 0, 0, 0, 64]);
        assert!(run_kernel(&kernel, &mut memory, &[0..4, 8..16], &[2], 0, 2).unwrap_err().contains("element 1 of buffer 0"));
    }

    #[test]
    fn a_wrong_index_is_reported_once_and_clamped() {
        let kernel = Kernel {
            buffers: vec![read(DType::I32), read(DType::BF16), write(DType::F16)],
            axes: 1,
            values: 3,
            body: vec![Stmt::For {
                axis: 0,
                extent: Extent::Const(3),
                kind: LoopKind::Vector,
                body: vec![
                    bind(0, DType::I32, load_of(0, at(&[(0, 1)]))),
                    bind(1, DType::I32, Expr::CheckedIndex { index: 0, extent: 2, origin: 5 }),
                    bind(2, DType::F32, load_of(1, Index { values: vec![(1, 1)], ..Index::default() })),
                    Stmt::Store { buffer: 2, index: at(&[(0, 1)]), value: 2 },
                ],
            }],
            ..Kernel::default()
        };
        let x = Tensor::from_f64(DType::BF16, &[2], &[1.5, -2.0]);
        let mut buffers = [Tensor::from_slice(&[3], &[1, 7, -1]), x, Tensor::zeros(DType::F16, &[3])];
        let status = run_kernel_on(&kernel, &mut buffers, &[]).unwrap();
        assert_eq!(status, Status { code: status::OUT_OF_RANGE, origin: 5, index: 7, extent: 2 });
        assert_eq!(buffers[2].to_f64(), [-2.0, -2.0, 1.5]);
    }

    #[test]
    fn guarded_loads_and_draws() {
        let n = 5;
        let zero = |v| bind(v, DType::U32, Expr::Const(Literal::Int(0)));
        let kernel = Kernel {
            buffers: vec![read(DType::U32), write(DType::U32)],
            axes: 1,
            values: 7,
            body: vec![
                zero(0),
                bind(1, DType::U32, Expr::Const(Literal::Int(3))),
                Stmt::For {
                    axis: 0,
                    extent: Extent::Const(n),
                    kind: LoopKind::Vector,
                    body: vec![
                        bind(2, DType::U32, Expr::Axis(0)),
                        bind(3, DType::Bool, Expr::Map(ScalarOp::Lt, vec![2, 1])),
                        bind(4, DType::U32, Expr::Philox { key: [0, 1], counter: [2, 0, 0, 0], word: 2 }),
                        bind(5, DType::U32, Expr::Load { buffer: 0, index: at(&[(0, 1)]), guard: Some((3, 4)) }),
                        Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 5 },
                    ],
                },
            ],
            ..Kernel::default()
        };
        let mut buffers = [Tensor::from_slice(&[3], &[10u32, 11, 12]), Tensor::zeros(DType::U32, &[5])];
        run_kernel_on(&kernel, &mut buffers, &[]).unwrap();
        let draw = |c| philox::philox4x32([0, 3], [c, 0, 0, 0])[2];
        assert_eq!(buffers[1].as_slice::<u32>(), [10, 11, 12, draw(3), draw(4)]);
    }

    #[test]
    fn malformed_kernels_are_refused() {
        let good = row_sums(3, LoopKind::Vector);
        let refused = |change: &dyn Fn(&mut Kernel)| {
            let mut kernel = good.clone();
            change(&mut kernel);
            verify_kernel(&kernel).unwrap_err()
        };
        assert!(verify_kernel(&good).is_ok());
        assert!(refused(&|k| k.buffers[1].access = Access::Read).contains("only read"));
        assert!(refused(&|k| k.buffers[0].dtype = DType::I32).contains("load"));
        assert!(refused(&|k| k.accs[0].op = AccOp::Assign).contains("overwritten"));
        assert!(refused(&|k| drop(k.body.remove(0))).contains("not defined"));
        assert!(refused(&|k| k.body.push(k.body[1].clone())).contains("bound twice"));
        assert!(refused(&|k| k.body.push(Stmt::Store { buffer: 1, index: Index::default(), value: 2 })).contains("not defined here"));
    }
}
