//! Matrix products and convolutions on a GPU.
//!
//! A block makes a tile of the result: it brings slices of both operands to shared memory while it multiplies those before, and keeps its sums in registers. Where there
//! are too few tiles for a GPU, the sums are cut into parts of consecutive terms, which a second launch adds up in order. Which part of a sum is whose depends on shapes
//! alone, so results are the same bits in every run.

mod column;
mod fma;
mod matrix;
#[cfg(test)]
mod mutants;
mod plan;
pub(crate) mod slices;
mod source;
pub(crate) mod store;

pub(crate) use plan::{Known, conv, gemm};

use optc_abi::DType;
pub(crate) use source::{Digit, Source, batch_offset};

/// Threads of a warp.
const WARP: i64 = crate::simt::WARP;

/// Where results go: the element in row `i` and column `j`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) dtype: DType,
    /// Elements between rows, between columns, and between problems for each batch extent.
    pub(crate) row: i64,
    pub(crate) column: i64,
    pub(crate) batch: Vec<i64>,
    /// Bytes that the address of the first element is a multiple of.
    pub(crate) align: i64,
    /// Add to what is there.
    pub(crate) accumulate: bool,
    /// Elements above the diagonal are those below it.
    pub(crate) symmetric: bool,
}

/// `c = a b`, for every index of `batch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) m: i64,
    pub(crate) n: i64,
    pub(crate) k: i64,
    pub(crate) batch: Vec<i64>,
    /// `m` rows, `k` columns.
    pub(crate) a: Source,
    /// The right operand turned: `n` rows, `k` columns.
    pub(crate) b: Source,
    pub(crate) c: Target,
}

impl Product {
    /// The type of sums.
    fn sums(&self) -> DType {
        if self.c.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
    fn problems(&self) -> i64 {
        self.batch.iter().product()
    }
    /// The result's rows as columns.
    fn turned(&self) -> Product {
        let c = Target { row: self.c.column, column: self.c.row, ..self.c.clone() };
        Product { m: self.n, n: self.m, a: self.b.clone(), b: self.a.clone(), c, ..self.clone() }
    }
}
