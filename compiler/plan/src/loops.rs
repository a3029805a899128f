//! The loops of stages that share none: reductions to several results of a row, running sums, searches, concatenations, draws.

use crate::emit::{Emitter, Slot, value_type};
use crate::index::Idx;
use crate::lin::{Lin, Misfit};
use crate::net::N;
use optc_abi::DType;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{AccOp, Access, LoopKind, ValueId};
use optc_ir::{Op, ScalarOp};

/// Vector lanes below which the other loop order is better for a reduction.
const NARROW: usize = 8;

/// Alternating runs of kept and reduced axes; extents of 1 go.
pub(crate) fn runs(shape: &[usize], reduced: impl Fn(usize) -> bool) -> Vec<(usize, bool)> {
    let mut out: Vec<(usize, bool)> = Vec::new();
    for (axis, &extent) in shape.iter().enumerate().filter(|(_, e)| **e > 1) {
        match out.last_mut() {
            Some((e, r)) if *r == reduced(axis) => *e *= extent,
            _ => out.push((extent, reduced(axis))),
        }
    }
    out
}

/// The binary operation of a reduction.
pub(crate) fn combine(kind: ReduceOp) -> ScalarOp {
    match kind {
        ReduceOp::Sum => ScalarOp::Add,
        ReduceOp::Prod => ScalarOp::Mul,
        ReduceOp::Max => ScalarOp::Max,
        ReduceOp::Min => ScalarOp::Min,
        ReduceOp::And => ScalarOp::And,
        ReduceOp::Or => ScalarOp::Or,
    }
}

impl Emitter<'_> {
    /// Memory for a stage's result: its own, or this kernel's.
    fn result_slot(&mut self, n: N) -> Slot {
        if self.grouping.stored[n] || self.group.is_none() {
            return Slot::Node(n);
        }
        self.scratch.push((value_type(self.net.nodes[n].ty.dtype), self.net.len_of(n)));
        Slot::Scratch(self.scratch.len() - 1)
    }

    /// The loops of a stage that shares none.
    pub fn own_loops(&mut self, n: N, rows: usize, row: &Lin) -> Result<(), Misfit> {
        let slot = self.result_slot(n);
        let node = &self.net.nodes[n];
        match &node.op {
            Op::Reduce { kind, axes } => self.reduction(n, *kind, axes, slot, rows, row)?,
            Op::Scan { kind, axis, reverse } => self.scan(n, *kind, *axis, *reverse, slot, rows, row)?,
            Op::ArgReduce { max, axis } => self.search(n, *max, *axis, slot, rows, row)?,
            Op::Concat { axis } => self.concat(n, *axis, slot, rows, row)?,
            op => panic!("compiler bug: {op:?} has no loops of its own"),
        }
        self.in_memory.insert(n, slot);
        Ok(())
    }

    fn reduction(&mut self, n: N, kind: ReduceOp, axes: &[usize], slot: Slot, rows: usize, row: &Lin) -> Result<(), Misfit> {
        let x = self.net.nodes[n].operands[0];
        let dtype = self.net.nodes[n].ty.dtype;
        let mut runs = runs(&self.net.nodes[x].ty.shape, |a| axes.contains(&a));
        if rows > 1 {
            runs[0].0 /= rows;
        }
        let total: usize = runs.iter().map(|r| r.0).product();
        let buffer = self.buffer(slot, Access::Write);
        // Positions in the operand and the result from the positions in the runs.
        let place = |at: &[Lin]| -> (Lin, Lin) {
            let (mut from, mut to) = (row.clone(), row.clone());
            for (&(extent, reduced), lin) in runs.iter().zip(at) {
                from = from.scaled(extent as i64).add_scaled(lin, 1);
                if !reduced {
                    to = to.scaled(extent as i64).add_scaled(lin, 1);
                }
            }
            (from, to)
        };
        let kept: Vec<usize> = runs.iter().filter(|r| !r.1).map(|r| r.0).collect();
        let reduced: Vec<usize> = runs.iter().filter(|r| r.1).map(|r| r.0).collect();
        let last = runs.last().copied().unwrap_or((1, true));
        if last.1 || last.0 < NARROW || total / last.0 < 2 {
            return self.nest(&kept, LoopKind::Serial, &mut |e, outer| {
                let acc = e.accumulator(kind, dtype);
                let mut result = Lin::default();
                e.nest(&reduced, LoopKind::Vector, &mut |e, inner| {
                    let (mut outer, mut inner) = (outer.iter(), inner.iter());
                    let at: Vec<Lin> = runs.iter().map(|r| if r.1 { inner.next() } else { outer.next() }.expect("a run").clone()).collect();
                    let (from, to) = place(&at);
                    let value = e.emit(x, &Idx::Flat(from), None)?;
                    e.b.update(acc, value);
                    result = to;
                    Ok(())
                })?;
                let value = e.b.read(acc);
                e.b.store(buffer, &result, value);
                Ok(())
            });
        }
        // The innermost axis is kept: add whole rows to a row of results, several at a time.
        let width = kept[kept.len() - 1];
        let outer_kept = &kept[..kept.len() - 1];
        let count: usize = reduced.iter().product();
        let vt = value_type(dtype);
        let wide = vt == dtype;
        let buffer = if wide { buffer } else { self.buffer_of(vt, width * rows.max(1) * outer_kept.iter().product::<usize>()) };
        let op = combine(kind);
        self.nest(outer_kept, LoopKind::Serial, &mut |e, outer| {
            let rows_of = |e: &mut Self, base: &Lin, many: usize, first: bool| -> Result<(), Misfit> {
                e.nest(&[width], LoopKind::Vector, &mut |e, column| {
                    let mut to = Lin::default();
                    let mut sum: Option<ValueId> = None;
                    for step in 0..many {
                        let mut rest = base.plus(step as i64);
                        let mut parts: Vec<Lin> = Vec::new();
                        for (k, &extent) in reduced.iter().enumerate().rev() {
                            if k == 0 {
                                parts.push(rest.clone());
                            } else {
                                let (q, r) = e.div_rem(&rest, extent as i64)?;
                                parts.push(r);
                                rest = q;
                            }
                        }
                        let mut outer = outer.iter().chain(column);
                        let at: Vec<Lin> =
                            runs.iter().map(|r| if r.1 { parts.pop() } else { outer.next().cloned() }.expect("a run")).collect();
                        let (from, result) = place(&at);
                        to = result;
                        let value = e.emit(x, &Idx::Flat(from), None)?;
                        sum = Some(match sum {
                            Some(s) => e.b.map(op, vt, &[s, value]),
                            None if first => value,
                            None => {
                                let old = e.b.load_here(buffer, vt, &to);
                                e.b.map(op, vt, &[old, value])
                            }
                        });
                    }
                    e.b.store(buffer, &to, sum.expect("at least one row"));
                    Ok(())
                })
            };
            const STEP: usize = 4;
            let head = if count.is_multiple_of(STEP) { STEP } else { count % STEP };
            rows_of(e, &Lin::default(), head, true)?;
            e.touch(buffer);
            e.nest(&[(count - head) / STEP], LoopKind::Serial, &mut |e, at| {
                if count == head {
                    return Ok(());
                }
                rows_of(e, &at[0].scaled(STEP as i64).plus(head as i64), STEP, false)
            })
        })?;
        if !wide {
            let narrow = self.buffer(slot, Access::Write);
            let all: usize = width * outer_kept.iter().product::<usize>();
            self.nest(&[all], LoopKind::Vector, &mut |e, at| {
                let at = row.scaled(all as i64).add_scaled(&at[0], 1);
                let value = e.b.load_here(buffer, vt, &at);
                e.b.store(narrow, &at, value);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn scan(&mut self, n: N, kind: ReduceOp, axis: usize, reverse: bool, slot: Slot, rows: usize, row: &Lin) -> Result<(), Misfit> {
        let node = &self.net.nodes[n];
        let (x, dtype, shape) = (node.operands[0], node.ty.dtype, &node.ty.shape);
        let buffer = self.buffer(slot, Access::Write);
        let before = shape[..axis].iter().product::<usize>() / rows;
        let (extent, after) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        if after >= NARROW && value_type(dtype) == dtype {
            // Whole lines at once, each from the one before.
            self.touch(buffer);
            return self.nest(&[before], LoopKind::Serial, &mut |e, outer| {
                let line = |step: &Lin, column: &Lin| {
                    let step = if reverse { step.scaled(-1).plus(extent as i64 - 1) } else { step.clone() };
                    let place = row.scaled(before as i64).add_scaled(&outer[0], 1).scaled(extent as i64).add_scaled(&step, 1);
                    place.scaled(after as i64).add_scaled(column, 1)
                };
                e.nest(&[after], LoopKind::Vector, &mut |e, column| {
                    let place = line(&Lin::default(), &column[0]);
                    let value = e.emit(x, &Idx::Flat(place.clone()), None)?;
                    e.b.store(buffer, &place, value);
                    Ok(())
                })?;
                if extent == 1 {
                    return Ok(());
                }
                e.nest(&[extent - 1, after], LoopKind::Vector, &mut |e, at| {
                    let place = line(&at[0].plus(1), &at[1]);
                    let value = e.emit(x, &Idx::Flat(place.clone()), None)?;
                    let before = e.b.load_here(buffer, dtype, &line(&at[0], &at[1]));
                    let sum = e.b.map(combine(kind), dtype, &[before, value]);
                    e.b.store(buffer, &place, sum);
                    Ok(())
                })
            });
        }
        self.nest(&[before, after], LoopKind::Serial, &mut |e, outer| {
            let acc = e.accumulator(kind, dtype);
            e.nest(&[extent], LoopKind::Serial, &mut |e, at| {
                let step = if reverse { at[0].scaled(-1).plus(extent as i64 - 1) } else { at[0].clone() };
                let place = row.scaled(before as i64).add_scaled(&outer[0], 1).scaled(extent as i64).add_scaled(&step, 1);
                let place = place.scaled(after as i64).add_scaled(&outer[1], 1);
                let value = e.emit(x, &Idx::Flat(place.clone()), None)?;
                e.b.update(acc, value);
                let sum = e.b.read(acc);
                e.b.store(buffer, &place, sum);
                Ok(())
            })
        })
    }

    fn search(&mut self, n: N, max: bool, axis: usize, slot: Slot, rows: usize, row: &Lin) -> Result<(), Misfit> {
        let x = self.net.nodes[n].operands[0];
        let ty = &self.net.nodes[x].ty;
        let dtype = value_type(ty.dtype);
        let buffer = self.buffer(slot, Access::Write);
        let before = ty.shape[..axis].iter().product::<usize>() / rows;
        let (extent, after) = (ty.shape[axis], ty.shape[axis + 1..].iter().product::<usize>());
        let (best, place) = (self.b.acc(dtype, AccOp::Assign), self.b.acc(DType::I32, AccOp::Assign));
        self.nest(&[before, after], LoopKind::Serial, &mut |e, outer| {
            let line = row.scaled(before as i64).add_scaled(&outer[0], 1);
            let from = |step: &Lin| line.scaled(extent as i64).add_scaled(step, 1).scaled(after as i64).add_scaled(&outer[1], 1);
            let first = e.emit(x, &Idx::Flat(from(&Lin::default())), None)?;
            let zero = e.b.literal(DType::I32, 0.0, 0);
            e.b.init(best, first);
            e.b.init(place, zero);
            e.nest(&[extent], LoopKind::Serial, &mut |e, at| {
                let value = e.emit(x, &Idx::Flat(from(&at[0])), None)?;
                let index = e.b.lin_value(&at[0], DType::I32);
                let (old, old_place) = (e.b.read(best), e.b.read(place));
                let order = if max { [old, value] } else { [value, old] };
                let mut better = e.b.map(ScalarOp::Lt, DType::Bool, &order);
                if dtype.is_float() {
                    // The first NaN beats everything.
                    let (new, was) = (e.b.map(ScalarOp::IsNan, DType::Bool, &[value]), e.b.map(ScalarOp::IsNan, DType::Bool, &[old]));
                    let was_not = e.b.map(ScalarOp::Not, DType::Bool, &[was]);
                    let first_nan = e.b.map(ScalarOp::And, DType::Bool, &[new, was_not]);
                    better = e.b.map(ScalarOp::Or, DType::Bool, &[better, first_nan]);
                }
                let (new, new_place) = (
                    e.b.map(ScalarOp::Select, dtype, &[better, value, old]),
                    e.b.map(ScalarOp::Select, DType::I32, &[better, index, old_place]),
                );
                e.b.update(best, new);
                e.b.update(place, new_place);
                Ok(())
            })?;
            let index = e.b.read(place);
            e.b.store(buffer, &line.scaled(after as i64).add_scaled(&outer[1], 1), index);
            Ok(())
        })
    }

    fn concat(&mut self, n: N, axis: usize, slot: Slot, rows: usize, row: &Lin) -> Result<(), Misfit> {
        let node = &self.net.nodes[n];
        let buffer = self.buffer(slot, Access::Write);
        let before = node.ty.shape[..axis].iter().product::<usize>() / rows;
        let after: usize = node.ty.shape[axis + 1..].iter().product();
        let line = node.ty.shape[axis] * after;
        let mut offset = 0;
        for &part in &node.operands {
            let width = self.net.nodes[part].ty.shape[axis] * after;
            self.nest(&[before, width], LoopKind::Vector, &mut |e, at| {
                let which = row.scaled(before as i64).add_scaled(&at[0], 1);
                let value = e.emit(part, &Idx::Flat(which.scaled(width as i64).add_scaled(&at[1], 1)), None)?;
                e.b.store(buffer, &which.scaled(line as i64).add_scaled(&at[1], 1).plus(offset as i64), value);
                Ok(())
            })?;
            offset += width;
        }
        Ok(())
    }

    /// Scratch memory of this kernel as a buffer parameter.
    fn buffer_of(&mut self, dtype: DType, len: usize) -> usize {
        self.scratch.push((dtype, len));
        self.buffer(Slot::Scratch(self.scratch.len() - 1), Access::Write)
    }

    /// States that a buffer is read as well as written.
    fn touch(&mut self, buffer: usize) {
        self.b.kernel.buffers[buffer].access = Access::ReadWrite;
    }
}
