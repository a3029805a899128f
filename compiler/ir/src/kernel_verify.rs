//! The verifier of kernels: the invariants stated in `kernel.rs`.

use crate::kernel::{AccId, AccOp, Access, AxisId, BufferId, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt, ValueId};
use crate::scalar::{Class, ScalarOp};
use optc_abi::DType;

/// Facts a successful verification has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelInfo {
    /// Type of each value; `None` for a number that no statement defines.
    pub value_types: Vec<Option<DType>>,
    /// Extent of the parallel loop, if there is one.
    pub parallel: Option<Extent>,
    /// Deepest nesting of loops.
    pub depth: usize,
}

/// Checks a kernel.
///
/// # Errors
/// The first broken invariant, in words.
pub fn verify_kernel(kernel: &Kernel) -> Result<KernelInfo, String> {
    let mut check = Check {
        kernel,
        info: KernelInfo { value_types: vec![None; kernel.values], ..KernelInfo::default() },
        visible: vec![false; kernel.values],
        axes: vec![AxisState::Unbound; kernel.axes],
        initialized: vec![false; kernel.accs.len()],
        vector: None,
        depth: 0,
    };
    for (i, acc) in kernel.accs.iter().enumerate() {
        check.value_type(acc.dtype).map_err(|m| format!("accumulator {i}: {m}"))?;
        let logical = matches!(acc.op, AccOp::Reduce(crate::graph::ReduceOp::And | crate::graph::ReduceOp::Or));
        if logical && acc.dtype != DType::Bool {
            return Err(format!("accumulator {i}: {:?} of {}", acc.op, acc.dtype));
        }
    }
    for (i, local) in kernel.locals.iter().enumerate() {
        check.value_type(local.dtype).map_err(|m| format!("local array {i}: {m}"))?;
    }
    check.block(&kernel.body, true)?;
    Ok(check.info)
}

#[derive(Clone, Copy, PartialEq)]
enum AxisState {
    Unbound,
    Open,
    Closed,
}

struct Check<'a> {
    kernel: &'a Kernel,
    info: KernelInfo,
    visible: Vec<bool>,
    axes: Vec<AxisState>,
    initialized: Vec<bool>,
    /// Accumulators updated by the enclosing vector loop.
    vector: Option<Vec<AccId>>,
    depth: usize,
}

fn need(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

/// The type a buffer's elements have as values.
pub fn loaded_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

impl Check<'_> {
    fn value_type(&self, dtype: DType) -> Result<(), String> {
        need(!matches!(dtype, DType::BF16 | DType::F16), || format!("a value of type {dtype}"))
    }

    fn block(&mut self, body: &[Stmt], outermost: bool) -> Result<(), String> {
        let mut defined = Vec::new();
        for stmt in body {
            self.stmt(stmt, outermost, &mut defined)?;
        }
        for value in defined {
            self.visible[value] = false;
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt, outermost: bool, defined: &mut Vec<ValueId>) -> Result<(), String> {
        match stmt {
            Stmt::For { axis, extent, kind, body } => {
                need(self.axes.get(*axis) == Some(&AxisState::Unbound), || format!("axis {axis} is bound twice or does not exist"))?;
                match extent {
                    Extent::Const(n) => need(*n >= 0, || format!("loop of {n} passes"))?,
                    Extent::Size(s) => need(*s < self.kernel.sizes, || format!("size parameter {s} does not exist"))?,
                }
                need(self.vector.is_none(), || format!("loop over axis {axis} inside a vector loop"))?;
                match kind {
                    LoopKind::Parallel => {
                        need(outermost && self.info.parallel.is_none(), || {
                            format!("parallel loop over axis {axis} is not the outermost one")
                        })?;
                        self.info.parallel = Some(*extent);
                    }
                    LoopKind::Vector => {
                        let mut updated = Vec::new();
                        updates(body, &mut updated);
                        self.vector = Some(updated);
                    }
                    LoopKind::Serial => {}
                }
                self.axes[*axis] = AxisState::Open;
                self.depth += 1;
                self.info.depth = self.info.depth.max(self.depth);
                self.block(body, false)?;
                self.depth -= 1;
                self.axes[*axis] = AxisState::Closed;
                if *kind == LoopKind::Vector {
                    self.vector = None;
                }
                Ok(())
            }
            Stmt::Let { value, dtype, expr } => {
                need(*value < self.kernel.values, || format!("value {value} does not exist"))?;
                need(self.info.value_types[*value].is_none(), || format!("value {value} is defined twice"))?;
                self.value_type(*dtype)?;
                self.expr(expr, *dtype).map_err(|m| format!("value {value}: {m}"))?;
                self.info.value_types[*value] = Some(*dtype);
                self.visible[*value] = true;
                defined.push(*value);
                Ok(())
            }
            Stmt::Init { acc, value } => {
                need(self.vector.is_none(), || format!("accumulator {acc} is set inside a vector loop"))?;
                self.acc(*acc, *value)?;
                self.initialized[*acc] = true;
                Ok(())
            }
            Stmt::Update { acc, value } => {
                self.acc(*acc, *value)?;
                need(self.initialized[*acc], || format!("accumulator {acc} is updated before it is set"))?;
                let assign = self.kernel.accs[*acc].op == AccOp::Assign;
                need(!(assign && self.vector.is_some()), || format!("accumulator {acc} is overwritten inside a vector loop"))
            }
            Stmt::Store { buffer, index, value } => {
                let param = self.param(*buffer)?;
                need(param.access != Access::Read, || format!("store to buffer {buffer}, which is only read"))?;
                let dtype = self.value(*value)?;
                need(dtype == loaded_type(param.dtype), || format!("store of {dtype} to buffer {buffer} of {}", param.dtype))?;
                self.index(index)
            }
        }
    }

    /// A parameter; a local array counts as one that is read and written.
    fn param(&self, buffer: BufferId) -> Result<BufferParam, String> {
        let local = self.kernel.local(buffer).map(|l| BufferParam { dtype: l.dtype, access: Access::ReadWrite });
        local.or_else(|| self.kernel.buffers.get(buffer).cloned()).ok_or_else(|| format!("buffer {buffer} does not exist"))
    }

    fn acc(&self, acc: AccId, value: ValueId) -> Result<(), String> {
        let declared = self.kernel.accs.get(acc).ok_or_else(|| format!("accumulator {acc} does not exist"))?;
        let dtype = self.value(value)?;
        need(dtype == declared.dtype, || format!("accumulator {acc} is {}, not {dtype}", declared.dtype))
    }

    fn value(&self, value: ValueId) -> Result<DType, String> {
        match self.info.value_types.get(value) {
            Some(Some(dtype)) if self.visible[value] => Ok(*dtype),
            _ => Err(format!("value {value} is not defined here")),
        }
    }

    fn axis(&self, axis: AxisId) -> Result<(), String> {
        need(self.axes.get(axis) == Some(&AxisState::Open), || format!("axis {axis} is not bound here"))
    }

    fn index(&self, index: &Index) -> Result<(), String> {
        let mut seen = Vec::new();
        for &(axis, stride) in &index.axes {
            self.axis(axis)?;
            need(stride != 0 && !seen.contains(&axis), || format!("index uses axis {axis} twice or with stride 0"))?;
            seen.push(axis);
        }
        for &(value, stride) in &index.values {
            let dtype = self.value(value)?;
            need(matches!(dtype, DType::I32 | DType::I64) && stride != 0, || format!("index uses value {value} of type {dtype}"))?;
        }
        for &(axis, stride, size) in &index.sized {
            self.axis(axis)?;
            need(stride != 0 && size < self.kernel.sizes, || format!("index uses size parameter {size}"))?;
        }
        Ok(())
    }

    fn expr(&self, expr: &Expr, dtype: DType) -> Result<(), String> {
        let expect = |value: ValueId, wanted: DType| {
            let found = self.value(value)?;
            need(found == wanted, || format!("operand {value} is {found}, not {wanted}"))
        };
        match expr {
            Expr::Const(literal) => {
                let fits = matches!(literal, Literal::Float(_)) == dtype.is_float();
                need(fits, || format!("literal {literal:?} of type {dtype}"))
            }
            Expr::Axis(axis) => {
                need(dtype.is_int(), || format!("a loop variable as {dtype}"))?;
                self.axis(*axis)
            }
            Expr::Load { buffer, index, guard } => {
                let param = self.param(*buffer)?;
                need(param.access != Access::Write, || format!("load from buffer {buffer}, which is only written"))?;
                need(dtype == loaded_type(param.dtype), || format!("load of {dtype} from buffer {buffer} of {}", param.dtype))?;
                if let Some((guard, otherwise)) = guard {
                    expect(*guard, DType::Bool)?;
                    expect(*otherwise, dtype)?;
                }
                self.index(index)
            }
            Expr::Map(op, operands) => {
                let types: Vec<DType> = operands.iter().map(|&v| self.value(v)).collect::<Result<_, _>>()?;
                need(map_type(*op, &types) == Some(dtype), || format!("{} of {types:?} as {dtype}", op.name()))
            }
            Expr::Cast(value) => self.value(*value).map(|_| ()),
            Expr::Bitcast(value) => {
                let from = self.value(*value)?;
                need(from.size() == dtype.size(), || format!("bits of {from} as {dtype}"))
            }
            Expr::Acc(acc) => {
                let declared = self.kernel.accs.get(*acc).ok_or_else(|| format!("accumulator {acc} does not exist"))?;
                need(declared.dtype == dtype, || format!("accumulator {acc} is {}, not {dtype}", declared.dtype))?;
                need(self.initialized[*acc], || format!("accumulator {acc} is read before it is set"))?;
                let updated_here = self.vector.as_ref().is_some_and(|updated| updated.contains(acc));
                need(!updated_here, || format!("accumulator {acc} is read inside the vector loop that updates it"))
            }
            Expr::Philox { key, counter, word } => {
                need(dtype == DType::U32 && *word < 4, || format!("word {word} of a draw as {dtype}"))?;
                key.iter().chain(counter).try_for_each(|&v| expect(v, DType::U32))
            }
            Expr::CheckedIndex { index, extent, .. } => {
                need(matches!(dtype, DType::I32 | DType::I64) && *extent >= 0, || format!("checked index of type {dtype} below {extent}"))?;
                expect(*index, dtype)
            }
        }
    }
}

/// The result type of a scalar operation, `None` if it does not take these operands.
pub fn map_type(op: ScalarOp, types: &[DType]) -> Option<DType> {
    if types.len() != op.arity() {
        return None;
    }
    let values = if op == ScalarOp::Select { &types[1..] } else { types };
    let d = values[0];
    if values.iter().any(|&t| t != d) {
        return None;
    }
    let (fits, result) = match op.row().class {
        Class::Float => (d.is_float(), d),
        Class::Number => (d != DType::Bool, d),
        Class::Bits => (d.is_int() || (d == DType::Bool && !matches!(op, ScalarOp::Shl | ScalarOp::Shr)), d),
        Class::Compare => (true, DType::Bool),
        Class::Test => (d.is_float(), DType::Bool),
        Class::Select => (types[0] == DType::Bool, d),
    };
    fits.then_some(result)
}

/// Accumulators a block updates.
pub(crate) fn updates(body: &[Stmt], out: &mut Vec<AccId>) {
    for stmt in body {
        match stmt {
            Stmt::Update { acc, .. } if !out.contains(acc) => out.push(*acc),
            Stmt::For { body, .. } => updates(body, out),
            _ => {}
        }
    }
}
