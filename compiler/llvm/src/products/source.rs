//! Operands of a product: where the element in row `i` and column `k` lies, and whether there is one.
//!
//! Numbers of rows and columns are written in mixed radix, and each digit moves through memory by a stride; so matrices with any strides are operands, and so are the
//! patches of a convolution, whose digits also add up to coordinates that may lie outside of the image.

use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use optc_abi::DType;

/// A digit of a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digit {
    /// Values it has.
    pub(crate) extent: i64,
    /// Elements it moves by.
    pub(crate) stride: i64,
    /// The coordinate it adds to, and how much each time.
    pub(crate) along: Option<(usize, i64)>,
}

/// A coordinate: the sum of what digits add to it and `start`. There is an element where it is a multiple of `divisor` and the quotient lies in `0..extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Along {
    pub(crate) start: i64,
    pub(crate) divisor: i64,
    pub(crate) extent: i64,
    /// Elements that the quotient moves by.
    pub(crate) stride: i64,
}

/// An operand. Digits are listed fastest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) dtype: DType,
    pub(crate) rows: Vec<Digit>,
    pub(crate) columns: Vec<Digit>,
    pub(crate) along: Vec<Along>,
    /// Elements between problems, for each batch extent.
    pub(crate) batch: Vec<i64>,
    /// Bytes that the address of the first element is a multiple of.
    pub(crate) align: i64,
}

/// What a row or a column says of its elements.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Elements from the start, and a known number of them more.
    offset: V,
    ahead: i64,
    /// Its share of each coordinate, if it has any.
    shares: Vec<Option<V>>,
    /// Whether there is such a row or column; none if there is.
    real: Option<V>,
}

/// Both if both are there.
pub(crate) fn both(e: &Emit, a: Option<V>, b: Option<V>) -> Option<V> {
    match (a, b) {
        (Some(a), Some(b)) => Some(e.i.and(a, b)),
        (a, b) => a.or(b),
    }
}

impl Source {
    /// A matrix with strides.
    pub(crate) fn matrix(dtype: DType, rows: (i64, i64), columns: (i64, i64), batch: &[i64], align: i64) -> Source {
        let digit = |(extent, stride)| vec![Digit { extent, stride, along: None }];
        Source { dtype, rows: digit(rows), columns: digit(columns), along: Vec::new(), batch: batch.to_vec(), align }
    }

    /// Rows and columns exchanged.
    pub(crate) fn turned(&self) -> Source {
        Source { rows: self.columns.clone(), columns: self.rows.clone(), ..self.clone() }
    }

    /// Whether elements of neighboring columns lie closer than those of neighboring rows.
    pub(crate) fn columns_run(&self) -> bool {
        let step = |d: &Digit| if d.extent == 1 { i64::MAX } else { d.stride.abs() };
        let first = |digits: &[Digit]| digits.iter().map(step).find(|&s| s != i64::MAX).unwrap_or(i64::MAX);
        first(&self.columns) < first(&self.rows)
    }

    /// Whether `width` neighboring rows (or columns) from each multiple of it on lie together at an address that is a multiple of their bytes, all of them there or none.
    pub(crate) fn in_chunks(&self, of_columns: bool, width: i64) -> bool {
        let (fast, slow) = if of_columns { (&self.columns, &self.rows) } else { (&self.rows, &self.columns) };
        let Some((first, rest)) = fast.split_first() else { return false };
        let whole = |n: i64| n % width == 0;
        first.stride == 1
            && first.along.is_none()
            && whole(first.extent)
            && rest.iter().chain(slow).all(|d| whole(d.stride) || d.extent == 1)
            && self.along.iter().all(|a| whole(a.stride))
            && self.batch.iter().all(|&s| whole(s))
            && self.align % (width * self.dtype.size() as i64) == 0
    }

    /// What the row (or column) `number + ahead` says; `covered` if numbers are known to be below their extent.
    pub(crate) fn part(&self, e: &Emit, of_columns: bool, number: V, ahead: i64, covered: bool) -> Part {
        let digits = if of_columns { &self.columns } else { &self.rows };
        let i = &e.i;
        let long = i.int_type(64);
        let total: i64 = digits.iter().map(|d| d.extent).product();
        let whole = i.add_up(number, i.i32(ahead));
        let real = (!covered).then(|| i.icmp(IntCC::LLVMIntULT, whole, i.i32(total)));
        // Where a number is one digit, what is known of it stays known of the address.
        let (mut rest, ahead) = match &digits[..] {
            [Digit { stride, along: None, .. }] => (number, ahead * stride),
            _ => (whole, 0),
        };
        let mut part = Part { offset: i.i64(0), ahead, shares: vec![None; self.along.len()], real };
        for (n, digit) in digits.iter().enumerate() {
            let mut value = rest;
            if n + 1 < digits.len() {
                value = i.op2(Opcode::LLVMURem, rest, i.i32(digit.extent));
                rest = i.op2(Opcode::LLVMUDiv, rest, i.i32(digit.extent));
            }
            if digit.stride != 0 {
                let term = i.mul(i.cast(Opcode::LLVMZExt, value, long), i.i64(digit.stride));
                part.offset = if i.is_zero(part.offset) { term } else { i.add(part.offset, term) };
            }
            if let Some((axis, times)) = digit.along {
                let term = i.mul(value, i.i32(times));
                let share = &mut part.shares[axis];
                *share = Some(share.map_or(term, |s| i.add(s, term)));
            }
        }
        part
    }

    /// Address of the element of a row and a column, and whether there is one (none if there is); where there is none the address is that of the first element.
    pub(crate) fn element(&self, e: &Emit, base: V, row: &Part, column: &Part) -> (V, Option<V>) {
        let i = &e.i;
        let mut offset = i.add(row.offset, column.offset);
        let mut real = both(e, row.real, column.real);
        for (axis, along) in self.along.iter().enumerate() {
            let mut at = i.i32(along.start);
            for share in [row.shares[axis], column.shares[axis]].into_iter().flatten() {
                at = i.add(at, share);
            }
            // Below zero is very large without a sign.
            let inside = i.icmp(IntCC::LLVMIntULT, at, i.i32(along.extent * along.divisor));
            real = both(e, real, Some(inside));
            if along.divisor > 1 {
                let quotient = i.op2(Opcode::LLVMUDiv, at, i.i32(along.divisor));
                let exact = i.icmp(IntCC::LLVMIntEQ, i.mul(quotient, i.i32(along.divisor)), at);
                real = both(e, real, Some(exact));
                at = quotient;
            }
            let at = i.cast(Opcode::LLVMZExt, at, i.int_type(64));
            offset = i.add(offset, i.mul(at, i.i64(along.stride)));
        }
        let (ty, ahead) = (e.memory_type(self.dtype), row.ahead + column.ahead);
        let at = match real {
            Some(real) => i.element(ty, base, i.select(real, i.add(offset, i.i64(ahead)), i.i64(0))),
            None => i.element(ty, i.element(ty, base, offset), i.i64(ahead)),
        };
        (at, real)
    }

    /// Address of the first element of a problem with this number.
    pub(crate) fn problem(&self, e: &Emit, base: V, number: V, extents: &[i64]) -> V {
        let offset = batch_offset(e, number, extents, &self.batch);
        e.i.element(e.memory_type(self.dtype), base, offset)
    }
}

/// Elements that a number of a problem, its last digit fastest, moves by.
pub(crate) fn batch_offset(e: &Emit, number: V, extents: &[i64], strides: &[i64]) -> V {
    let i = &e.i;
    let mut rest = number;
    let mut offset = i.i64(0);
    for (n, (&extent, &stride)) in extents.iter().zip(strides).enumerate().rev() {
        let mut value = rest;
        if n > 0 {
            value = i.op2(Opcode::LLVMURem, rest, i.i32(extent));
            rest = i.op2(Opcode::LLVMUDiv, rest, i.i32(extent));
        }
        if stride != 0 {
            offset = i.add(offset, i.mul(i.cast(Opcode::LLVMZExt, value, i.int_type(64)), i.i64(stride)));
        }
    }
    offset
}
