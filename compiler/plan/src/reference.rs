//! A slow executor of plans: kernels by the kernel interpreter, library calls by plain loops. The truth that compiled plans are compared with.

use crate::Planned;
use optc_abi::plan::{
    Attention, BufRef, ConvKind, Gemm, Instr, KernelCall, LibCall, LibDims, LibOp, MatRef, Place, Plan, Status, Strides, Trip, status,
};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{NodeTy, Op, Ty};
use optc_ir::infer::{conv_shapes, infer};
use optc_ir::interp::{attention, evaluate, library_call};
use optc_ir::kernel_interp::run_kernel;

/// Why a plan did not run to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The program reported an error, such as an index out of range.
    Reported(Status),
    /// The plan or a kernel is malformed: a compiler bug.
    Broken(String),
}

/// Runs a plan on `inputs` (aliased ones are updated in place) and returns the outputs that alias no input, in order.
///
/// Memory starts as a pattern of ones, and units of a kernel run last to first, so that a read of what was never written, or an
/// order between units, shows.
///
/// # Errors
/// What the program reports, or what is wrong with the plan.
pub fn run(planned: &Planned, inputs: &mut [Tensor]) -> Result<Vec<Tensor>, Fault> {
    let plan = &planned.plan;
    let mut bases = vec![0];
    let mut memory = vec![0xFF; plan.arena_bytes];
    for (tensor, slot) in inputs.iter().zip(&plan.inputs) {
        if tensor.dtype != slot.dtype || tensor.shape != slot.shape {
            return Err(Fault::Broken(format!("input {} is {tensor:?}", slot.name)));
        }
        bases.push(memory.len());
        memory.extend_from_slice(tensor.bytes());
    }
    for slot in &plan.outputs {
        bases.push(memory.len());
        let bytes = slot.shape.iter().product::<usize>() * slot.dtype.size();
        memory.resize(memory.len() + if slot.alias.is_some() { 0 } else { bytes }, 0xFF);
    }
    for constant in &plan.constants {
        bases.push(memory.len());
        memory.extend_from_slice(constant.bytes());
    }
    let mut machine = Machine { planned, plan, bases, memory, counters: Vec::new(), swapped: Default::default() };
    machine.code(&plan.code)?;
    for (k, tensor) in inputs.iter_mut().enumerate() {
        let start = machine.bases[1 + k];
        let bytes = tensor.bytes().len();
        tensor.bytes_mut().copy_from_slice(&machine.memory[start..start + bytes]);
    }
    let mut out = Vec::new();
    for (k, slot) in plan.outputs.iter().enumerate() {
        if slot.alias.is_none() {
            let mut tensor = Tensor::zeros(slot.dtype, &slot.shape);
            let start = machine.bases[1 + plan.inputs.len() + k];
            let bytes = tensor.bytes().len();
            tensor.bytes_mut().copy_from_slice(&machine.memory[start..start + bytes]);
            out.push(tensor);
        }
    }
    Ok(out)
}

struct Machine<'a> {
    planned: &'a Planned,
    plan: &'a Plan,
    bases: Vec<usize>,
    memory: Vec<u8>,
    /// Pass counters of the loops that run now.
    counters: Vec<(usize, i64)>,
    /// What has left memory.
    swapped: std::collections::BTreeMap<usize, Vec<u8>>,
}

impl Machine<'_> {
    fn address(&self, place: &BufRef) -> Result<usize, Fault> {
        let mut at = self.bases[self.plan.base_index(place.buffer)] as i64 + self.plan.base_offset(place.buffer) + place.offset;
        for (id, step) in &place.steps {
            let Some(counter) = self.counters.iter().find(|c| c.0 == *id) else {
                return Err(Fault::Broken(format!("a step of loop {id} outside it")));
            };
            at += counter.1 * step;
        }
        Ok(at as usize)
    }

    /// Bytes from a reference to the end of its buffer.
    fn region(&self, place: &BufRef) -> Result<std::ops::Range<usize>, Fault> {
        let decl = &self.plan.buffers[place.buffer];
        let start = self.address(place)?;
        let base = self.bases[self.plan.base_index(place.buffer)] as i64 + self.plan.base_offset(place.buffer);
        let end = base as usize + decl.len * decl.dtype.size();
        if matches!(decl.place, Place::Arena(offset) if offset + decl.len * decl.dtype.size() > self.plan.arena_bytes) {
            return Err(Fault::Broken(format!("buffer {} outside the arena", place.buffer)));
        }
        if start > end { Err(Fault::Broken(format!("{place:?} outside its buffer"))) } else { Ok(start..end) }
    }

    fn tensor(&self, place: &BufRef, dtype: DType, shape: &[usize]) -> Result<Tensor, Fault> {
        let mut tensor = Tensor::zeros(dtype, shape);
        let region = self.region(place)?;
        let bytes = tensor.bytes().len();
        if region.len() < bytes {
            return Err(Fault::Broken(format!("{place:?} holds less than {dtype}{shape:?}")));
        }
        tensor.bytes_mut().copy_from_slice(&self.memory[region.start..region.start + bytes]);
        Ok(tensor)
    }

    fn put(&mut self, place: &BufRef, tensor: &Tensor) -> Result<(), Fault> {
        let region = self.region(place)?;
        let bytes = tensor.bytes();
        if region.len() < bytes.len() {
            return Err(Fault::Broken(format!("{place:?} holds less than {tensor:?}")));
        }
        self.memory[region.start..region.start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn code(&mut self, code: &[Instr]) -> Result<(), Fault> {
        code.iter().try_for_each(|instr| self.instr(instr))
    }

    fn instr(&mut self, instr: &Instr) -> Result<(), Fault> {
        match instr {
            Instr::Kernel { kernel, calls } => calls.iter().rev().try_for_each(|call| self.kernel(*kernel, call)),
            Instr::Gemm(g) => self.gemm(g),
            Instr::Conv(c) => {
                let (x, w, y) = conv_shapes(&c.dims);
                let (lhs, rhs, out) = match c.kind {
                    ConvKind::Forward => (x, w, y),
                    ConvKind::InputGrad => (y, w, x),
                    ConvKind::FilterGrad => (x, y, w),
                };
                let (lhs, rhs) = (self.tensor(&c.lhs, c.dtype, &lhs)?, self.tensor(&c.rhs, c.dtype, &rhs)?);
                let op = Op::Conv { kind: c.kind, dims: c.dims.clone() };
                let result = evaluate(&op, &[&lhs, &rhs], &Ty::new(c.dtype, out)).map_err(Fault::Broken)?;
                self.put(&c.out, &result)
            }
            Instr::Copy { src, dst, bytes } => {
                let (from, to) = (self.region(src)?, self.region(dst)?);
                if from.len() < *bytes || to.len() < *bytes {
                    return Err(Fault::Broken(format!("copy of {bytes} bytes from {src:?} to {dst:?}")));
                }
                self.memory.copy_within(from.start..from.start + bytes, to.start);
                Ok(())
            }
            Instr::Lib { op: LibOp::ArgSort { rows, n, descending }, dtype, buffers } => {
                let x = self.tensor(&buffers[0], *dtype, &[*rows, *n])?;
                let op = Op::ArgSort { axis: 1, descending: *descending };
                let result = evaluate(&op, &[&x], &Ty::new(DType::I32, [*rows, *n])).map_err(Fault::Broken)?;
                self.put(&buffers[1], &result)
            }
            Instr::Lib { op: LibOp::RandomBits { start, len, skips }, buffers, .. } => {
                let key = self.tensor(&buffers[0], DType::U32, &[2])?;
                let skipped = if *skips { self.tensor(&buffers[1], DType::U32, &[])?.get_f64(0) as u64 } else { 0 };
                let op = Op::RandomBits { start: *start + skipped };
                let result = evaluate(&op, &[&key], &Ty::new(DType::U32, [*len])).map_err(Fault::Broken)?;
                self.put(&buffers[1 + usize::from(*skips)], &result)
            }
            Instr::Lib { op: LibOp::RandomFold { place, number }, buffers, .. } => {
                let key = self.tensor(&buffers[0], DType::U32, &[2])?;
                let number = match number {
                    Some(n) => Tensor::scalar(*n),
                    None => self.tensor(&buffers[1], DType::U32, &[])?,
                };
                let result = evaluate(&Op::RandomFold { place: *place }, &[&key, &number], &Ty::new(DType::U32, [2]));
                self.put(&buffers[buffers.len() - 1], &result.map_err(Fault::Broken)?)
            }
            Instr::Lib { op: LibOp::Attention { attention, strides }, dtype, buffers } => {
                self.attention(attention, strides, *dtype, buffers)
            }
            Instr::Lib { op: LibOp::SwapOut { slot, bytes }, buffers, .. } => {
                let from = self.region(&buffers[0])?;
                self.swapped.insert(*slot, self.memory[from.start..from.start + bytes].to_vec());
                self.put(&buffers[1], &Tensor::from_f64(DType::U8, &[], &[1.0]))
            }
            Instr::Lib { op: LibOp::SwapIn { slot, bytes }, buffers, .. } => {
                let to = self.region(&buffers[1])?;
                let Some(kept) = self.swapped.remove(slot) else {
                    return Err(Fault::Broken(format!("slot {slot} comes back without having left")));
                };
                self.memory[to.start..to.start + bytes].copy_from_slice(&kept);
                Ok(())
            }
            Instr::Lib { op: LibOp::AllReduce { .. }, .. } => {
                Err(Fault::Broken("sums over devices, of which the reference is one".to_string()))
            }
            Instr::Lib { op: LibOp::Callback { function }, .. } => {
                Err(Fault::Broken(format!("function {function} is called back, but the reference has none")))
            }
            Instr::Lib { op: LibOp::Call { call, dims }, dtype, buffers } => self.numeric(*call, *dims, *dtype, buffers),
            Instr::Loop { id, trip, reverse, counter, body } => {
                let count = match trip {
                    Trip::Const(n) => *n as i64,
                    Trip::Run(place) | Trip::While { most: place, .. } => self.tensor(place, DType::I32, &[])?.get_f64(0) as i64,
                };
                for pass in 0..count {
                    if let Trip::While { go, .. } = trip
                        && self.tensor(go, DType::Bool, &[])?.get_f64(0) == 0.0
                    {
                        break;
                    }
                    let at = if *reverse { count - 1 - pass } else { pass };
                    self.put(counter, &Tensor::scalar(at as i32))?;
                    self.counters.push((*id, at));
                    self.code(body)?;
                    self.counters.pop();
                }
                Ok(())
            }
            Instr::Cond { pred, then, otherwise } => {
                let holds = self.tensor(pred, DType::Bool, &[])?.get_f64(0) != 0.0;
                self.code(if holds { then } else { otherwise })
            }
            Instr::Guard { value, dtype } => {
                if self.tensor(value, *dtype, &[])?.get_f64(0).is_finite() {
                    return Ok(());
                }
                Err(Fault::Reported(Status { code: status::NOT_FINITE, origin: -1, index: 0, extent: 0 }))
            }
        }
    }

    /// Attention by the interpreter.
    fn attention(&mut self, a: &Attention, strides: &[Strides], dtype: DType, buffers: &[BufRef]) -> Result<(), Fault> {
        let problems: usize = a.batch.iter().product();
        let operands = a.operands(dtype);
        // Of every element of an array the place where it lies, in the order of batch, rows and columns.
        let places = |m: &Machine, n: usize, (shape, ty): &(Vec<usize>, DType)| -> Result<Vec<usize>, Fault> {
            let (region, s) = (m.region(&buffers[n])?, &strides[n]);
            let rows = (0..problems).flat_map(|p| (0..shape[0]).map(move |i| (p, i)));
            let elements = rows.flat_map(|(p, i)| (0..shape[1]).map(move |j| (p, i, j)));
            let place = |(p, i, j): (usize, usize, usize)| {
                let element = s.of_batch(&a.batch, p) + i as i64 * s.row + j as i64 * s.column;
                let at = region.start as i64 + element * ty.size() as i64;
                let inside = at >= region.start as i64 && at as usize + ty.size() <= region.end;
                if inside { Ok(at as usize) } else { Err(Fault::Broken(format!("an element of attention outside {:?}", buffers[n]))) }
            };
            elements.map(place).collect()
        };
        let mut tensors = Vec::new();
        for (n, shape) in operands.iter().enumerate() {
            let whole: Vec<usize> = a.batch.iter().chain(&shape.0).copied().collect();
            let mut tensor = Tensor::zeros(shape.1, &whole);
            let size = shape.1.size();
            for (to, from) in tensor.bytes_mut().chunks_exact_mut(size).zip(places(self, n, shape)?) {
                to.copy_from_slice(&self.memory[from..from + size]);
            }
            tensors.push(tensor);
        }
        let results = attention(a, &tensors.iter().collect::<Vec<_>>());
        for (n, (result, shape)) in results.iter().zip(a.results(dtype)).enumerate() {
            let size = shape.1.size();
            for (from, to) in result.bytes().chunks_exact(size).zip(places(self, operands.len() + n, &shape)?) {
                self.memory[to..to + size].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// A numerical call by the interpreter. The plan leaves out the matrix of a solve by factors, which is not read.
    fn numeric(&mut self, call: LibCall, d: LibDims, dtype: DType, buffers: &[BufRef]) -> Result<(), Fault> {
        let b = d.batch;
        let shapes: Vec<(DType, Vec<usize>)> = match call {
            LibCall::TriangularSolve { .. } => vec![(dtype, vec![b, d.m, d.m]), (dtype, vec![b, d.m, d.n])],
            LibCall::LuSolve { .. } => vec![(dtype, vec![b, d.m, d.m]), (DType::I32, vec![b, d.m]), (dtype, vec![b, d.m, d.n])],
            LibCall::Fft { .. } => vec![(dtype, vec![b, d.m]), (dtype, vec![b, d.m])],
            _ => vec![(dtype, vec![b, d.m, d.n])],
        };
        let mut operands = shapes.iter().zip(buffers).map(|((t, s), place)| self.tensor(place, *t, s)).collect::<Result<Vec<_>, _>>()?;
        if let LibCall::LuSolve { .. } = call {
            operands.insert(0, operands[0].clone());
        }
        let types: Vec<NodeTy> = operands.iter().map(|t| NodeTy::Array(Ty::new(t.dtype, t.shape.iter().copied()))).collect();
        let ty = infer(&Op::Lib(call), &types.iter().collect::<Vec<_>>(), None).map_err(Fault::Broken)?;
        let results = library_call(call, &operands.iter().collect::<Vec<_>>(), &ty);
        results.iter().zip(&buffers[shapes.len()..]).try_for_each(|(result, place)| self.put(place, result))
    }

    fn kernel(&mut self, kernel: usize, call: &KernelCall) -> Result<(), Fault> {
        let named = &self.planned.kernels[kernel];
        let regions = call.buffers.iter().map(|b| self.region(b)).collect::<Result<Vec<_>, _>>()?;
        let units = (call.range as u64).div_ceil(call.grain.max(1) as u64) as i64;
        for unit in (0..units).rev() {
            let (begin, end) = (unit * call.grain, ((unit + 1) * call.grain).min(call.range));
            let found = run_kernel(&named.kernel, &mut self.memory, &regions, &call.sizes, begin, end)
                .map_err(|m| Fault::Broken(format!("{}: {m}", named.name)))?;
            if found.code != status::OK {
                return Err(Fault::Reported(found));
            }
        }
        Ok(())
    }

    fn gemm(&mut self, g: &Gemm) -> Result<(), Fault> {
        let size = g.dtype.size();
        let at = |m: &Machine, mat: &MatRef, batch: &[usize], row: usize, col: usize| -> Result<usize, Fault> {
            let mut element = row as i64 * mat.row_stride + col as i64 * mat.col_stride;
            batch.iter().zip(&mat.batch_strides).for_each(|(&i, &s)| element += i as i64 * s);
            let region = m.region(&mat.data)?;
            let place = region.start as i64 + element * size as i64;
            if place < region.start as i64 || place as usize + size > region.end {
                return Err(Fault::Broken(format!("a product's element outside {:?}", mat.data)));
            }
            Ok(place as usize)
        };
        let get = |m: &Machine, place: usize| match g.dtype {
            DType::BF16 => f64::from(f32::from_bits(u32::from(u16::from_le_bytes([m.memory[place], m.memory[place + 1]])) << 16)),
            DType::F16 => {
                let mut number = Tensor::zeros(DType::F16, &[]);
                number.bytes_mut().copy_from_slice(&m.memory[place..place + 2]);
                number.get_f64(0)
            }
            DType::F64 => f64::from_le_bytes(m.memory[place..place + 8].try_into().expect("eight bytes")),
            _ => f64::from(f32::from_le_bytes(m.memory[place..place + 4].try_into().expect("four bytes"))),
        };
        let batches: usize = g.batch.iter().product();
        for flat in 0..batches {
            let mut batch = vec![0; g.batch.len()];
            let mut rest = flat;
            for axis in (0..g.batch.len()).rev() {
                batch[axis] = rest % g.batch[axis];
                rest /= g.batch[axis];
            }
            for i in 0..g.m {
                for j in 0..g.n {
                    let place = at(self, &g.c, &batch, i, j)?;
                    if g.symmetric && j > i {
                        continue;
                    }
                    let mut sum = if g.accumulate { get(self, place) } else { 0.0 };
                    for k in 0..g.k {
                        sum += get(self, at(self, &g.a, &batch, i, k)?) * get(self, at(self, &g.b, &batch, k, j)?);
                    }
                    match g.dtype {
                        DType::F64 => self.memory[place..place + 8].copy_from_slice(&sum.to_le_bytes()),
                        DType::BF16 | DType::F16 => {
                            let rounded = Tensor::from_f64(g.dtype, &[], &[f64::from(sum as f32)]);
                            self.memory[place..place + 2].copy_from_slice(rounded.bytes());
                        }
                        _ => self.memory[place..place + 4].copy_from_slice(&(sum as f32).to_le_bytes()),
                    }
                }
            }
            // Half is mirrored, so that a product that only passes for symmetric shows.
            for (i, j) in (0..g.m).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|_| g.symmetric) {
                let (from, to) = (at(self, &g.c, &batch, i, j)?, at(self, &g.c, &batch, j, i)?);
                self.memory.copy_within(from..from + size, to);
            }
        }
        Ok(())
    }
}
