//! Sums to memory.

use super::source::{batch_offset, both};
use super::{Product, Target};
use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use optc_abi::DType;
use optc_ir::kernel::Literal;

/// A problem's result.
pub(crate) struct Place<'t> {
    pub(crate) target: &'t Target,
    /// Rows and columns.
    pub(crate) extents: (i64, i64),
    /// Whether all rows, or columns, that are stored are known to be there.
    pub(crate) covered: (bool, bool),
    /// Address of its first element.
    pub(crate) base: V,
}

impl<'t> Place<'t> {
    /// The result of a product's problem with a number.
    pub(crate) fn new(e: &Emit, product: &'t Product, target: &'t Target, base: V, number: V, covered: (bool, bool)) -> Place<'t> {
        let offset = batch_offset(e, number, &product.batch, &target.batch);
        let base = e.i.element(e.memory_type(target.dtype), base, offset);
        Place { target, extents: (product.m, product.n), covered, base }
    }

    fn at(&self, e: &Emit, row: V, column: V) -> V {
        let i = &e.i;
        let long = |x: V| i.cast(Opcode::LLVMZExt, x, i.int_type(64));
        let offset = i.add(i.mul(long(row), i.i64(self.target.row)), i.mul(long(column), i.i64(self.target.column)));
        i.element(e.memory_type(self.target.dtype), self.base, offset)
    }

    fn row_is_real(&self, e: &Emit, row: V) -> Option<V> {
        (!self.covered.0).then(|| e.i.icmp(IntCC::LLVMIntULT, row, e.i.i32(self.extents.0)))
    }

    fn column_is_real(&self, e: &Emit, column: V) -> Option<V> {
        (!self.covered.1).then(|| e.i.icmp(IntCC::LLVMIntULT, column, e.i.i32(self.extents.1)))
    }

    /// Stores sums of rows from `row` on and columns from `column` on, both multiples of how many there are.
    pub(crate) fn block(&self, e: &mut Emit, row: V, column: V, sums: &[Vec<V>]) {
        let (rows, columns) = (sums.len(), sums[0].len());
        let next = |e: &Emit, x: V, n: usize| if n == 0 { x } else { e.i.add_up(x, e.i.i32(n as i64)) };
        if self.together(columns, true) {
            for (r, sums) in sums.iter().enumerate() {
                let row = next(e, row, r);
                let real = both(e, self.row_is_real(e, row), self.column_is_real(e, column));
                self.run(e, row, column, real, sums);
            }
        } else if self.together(rows, false) {
            for c in 0..columns {
                let column = next(e, column, c);
                let real = both(e, self.row_is_real(e, row), self.column_is_real(e, column));
                let sums: Vec<V> = sums.iter().map(|s| s[c]).collect();
                self.run(e, row, column, real, &sums);
            }
        } else {
            for (r, sums) in sums.iter().enumerate() {
                for (c, &sum) in sums.iter().enumerate() {
                    let (row, column) = (next(e, row, r), next(e, column, c));
                    self.one(e, row, column, sum);
                }
            }
        }
    }

    /// Whether so many neighbors along a row (or a column) can be stored at once.
    fn together(&self, width: usize, along_row: bool) -> bool {
        let t = self.target;
        let (step, other, extent) = if along_row { (t.column, t.row, self.extents.1) } else { (t.row, t.column, self.extents.0) };
        let width = width as i64;
        let bytes = width * t.dtype.size() as i64;
        let whole = |n: i64| n % width == 0;
        width > 1 && step == 1 && whole(other) && whole(extent) && t.batch.iter().all(|&s| whole(s)) && t.align % bytes == 0 && !t.symmetric
    }

    fn run(&self, e: &mut Emit, row: V, column: V, real: Option<V>, sums: &[V]) {
        let x = e.i.gathered(sums);
        let store = |e: &mut Emit| {
            let at = self.at(e, row, column);
            self.put(e, at, x, sums.len());
        };
        match real {
            Some(real) => e.when(real, store),
            None => store(e),
        }
    }

    /// One element, and its mirror image.
    pub(crate) fn one(&self, e: &mut Emit, row: V, column: V, sum: V) {
        let mut real = both(e, self.row_is_real(e, row), self.column_is_real(e, column));
        if self.target.symmetric {
            let below = e.i.icmp(IntCC::LLVMIntUGE, row, column);
            real = both(e, real, Some(below));
        }
        let store = |e: &mut Emit| {
            let at = self.at(e, row, column);
            let x = self.put(e, at, sum, 1);
            if self.target.symmetric {
                let off = e.i.icmp(IntCC::LLVMIntNE, row, column);
                e.when(off, |e| {
                    let at = self.at(e, column, row);
                    self.write(e, at, x, 1);
                });
            }
        };
        match real {
            Some(real) => e.when(real, store),
            None => store(e),
        }
    }

    /// Stores sums, added to what is there if that is wanted; gives what memory then holds.
    fn put(&self, e: &mut Emit, at: V, mut x: V, width: usize) -> V {
        let dtype = self.target.dtype;
        if self.target.accumulate {
            let memory = e.memory_type(dtype);
            let (ty, bytes) = if width == 1 { (memory, dtype.size()) } else { (e.i.vector(memory, width), width * dtype.size()) };
            e.noted_read(at, bytes as i64);
            let old = e.i.load(ty, at, bytes as u32);
            x = e.i.op2(Opcode::LLVMFAdd, e.widen(dtype, old), x);
        }
        let x = e.narrow(dtype, x);
        self.write(e, at, x, width);
        x
    }

    fn write(&self, e: &Emit, at: V, x: V, width: usize) {
        let bytes = (width * self.target.dtype.size()) as i64;
        e.noted_write(at, bytes);
        e.i.store(x, at, bytes as u32);
    }
}

/// A register for a sum, which starts at zero.
pub(crate) fn zero(e: &Emit, dtype: DType) -> V {
    let at = e.i.stack(e.i.scalar(dtype), 8);
    e.i.store(e.literal(dtype, Literal::Int(0)), at, 8);
    at
}
