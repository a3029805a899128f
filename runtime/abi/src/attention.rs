//! Scaled dot-product attention as one operation, and its derivatives as another.
//!
//! For every index of the batch, with `q` of `queries` x `width`, `k` of `keys` x `width` and `v` of `keys` x `out_width`:
//!
//! ```text
//! z = scale q kᵀ + bias          where j <= i + offset (causal) and mask, else `hidden`
//! p = softmax(z) along keys,     out = p v
//! ```
//!
//! The first form also gives, of every query, the largest `z` and one over the sum of `exp(z - largest)`, from which the second one makes the probabilities again
//! ("statistics", `[queries, 2]`): with the cotangent `d` of `out` and `t = p (d vᵀ - sum over features of d out)`, where seen, else 0,
//!
//! ```text
//! dq = scale t k,                dk = scale tᵀ q,                dv = pᵀ d
//! ```
//!
//! Vaswani et al. 2017 (arXiv 1706.03762), eq. 1; Dao et al. 2022 (arXiv 2205.14135), sections 3 and B, for what is kept between the passes.

use crate::DType;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Operands q, k, v, then mask and bias if there are; results out and statistics.
    Forward,
    /// Operands of [`AttentionKind::Forward`], out, statistics, the cotangent of out; results dq, dk, dv.
    Backward,
}

/// A number that can be compared and hashed: its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Real(u64);

impl Real {
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Real {
    fn from(x: f64) -> Real {
        Real(x.to_bits())
    }
}

impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// Extents and constants of attention.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Which of the two.
    pub kind: AttentionKind,
    /// Batch extents, outermost first.
    pub batch: Vec<usize>,
    /// Rows of q and out.
    pub queries: usize,
    /// Rows of k and v.
    pub keys: usize,
    /// Columns of q and k.
    pub width: usize,
    /// Columns of v and out.
    pub out_width: usize,
    /// What scores are multiplied by.
    pub scale: Real,
    /// Query `i` sees keys up to `i +` this; all of them if there is none.
    pub causal: Option<i64>,
    /// There is an array of bools, `queries` x `keys`, of what is seen.
    pub mask: bool,
    /// There is an array of floats, `queries` x `keys`, added to scores.
    pub bias: bool,
    /// The score of what is not seen.
    pub hidden: Real,
}

/// Of an operand or result: extents of its last axes, and element type.
pub type Shape = (Vec<usize>, DType);

impl Attention {
    /// The type that sums are made in, which is that of the statistics.
    pub fn sums(dtype: DType) -> DType {
        if dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// Operands, in order: extents without the batch's, and element types. `dtype` is that of q, k and v.
    pub fn operands(&self, dtype: DType) -> Vec<Shape> {
        let mut all =
            vec![(vec![self.queries, self.width], dtype), (vec![self.keys, self.width], dtype), (vec![self.keys, self.out_width], dtype)];
        all.extend(self.mask.then(|| (vec![self.queries, self.keys], DType::Bool)));
        all.extend(self.bias.then(|| (vec![self.queries, self.keys], dtype)));
        if self.kind == AttentionKind::Backward {
            let out = || (vec![self.queries, self.out_width], dtype);
            all.extend([out(), self.statistics(dtype), out()]);
        }
        all
    }

    fn statistics(&self, dtype: DType) -> Shape {
        (vec![self.queries, 2], Attention::sums(dtype))
    }

    /// Results likewise.
    pub fn results(&self, dtype: DType) -> Vec<Shape> {
        match self.kind {
            AttentionKind::Forward => vec![(vec![self.queries, self.out_width], dtype), self.statistics(dtype)],
            AttentionKind::Backward => self.operands(dtype).into_iter().take(3).collect(),
        }
    }

    /// Products of matrices that it is made of, in multiplications and additions.
    pub fn operations(&self) -> f64 {
        let (narrow, wide) = (self.width as f64, self.out_width as f64);
        let each = match self.kind {
            AttentionKind::Forward => narrow + wide,
            AttentionKind::Backward => 3.0 * narrow + 2.0 * wide,
        };
        2.0 * self.batch.iter().product::<usize>() as f64 * self.queries as f64 * self.keys as f64 * each
    }

    /// Whether every query sees a key, and what is not seen has no weight: then keys beyond the last one that a query sees need not be looked at.
    pub fn skips(&self) -> bool {
        self.causal.is_some_and(|offset| offset >= 0) && self.hidden.get() == f64::NEG_INFINITY
    }

    /// The name of either kind.
    pub fn name(&self) -> &'static str {
        match self.kind {
            AttentionKind::Forward => "attention",
            AttentionKind::Backward => "attention_grad",
        }
    }
}

/// Where an operand or result of attention lies: elements between rows, between columns, and for each batch extent. Statistics' columns are its two numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// Between rows.
    pub row: i64,
    /// Between columns.
    pub column: i64,
    /// Between matrices, for each batch extent.
    pub batch: Vec<i64>,
}

impl Strides {
    /// Elements from the first to behind the last one of a matrix for each index of the batch.
    pub fn reach(&self, batch: &[usize], rows: usize, columns: usize) -> usize {
        if rows * columns == 0 || batch.contains(&0) {
            return 0;
        }
        let outer: i64 = batch.iter().zip(&self.batch).map(|(&n, &s)| (n as i64 - 1) * s).sum();
        let last = outer + (rows as i64 - 1) * self.row + (columns as i64 - 1) * self.column;
        usize::try_from(last).expect("compiler bug: a matrix that runs backwards") + 1
    }

    /// Elements from the start to the matrix of a number of the batch, whose last index is the fastest.
    pub fn of_batch(&self, batch: &[usize], number: usize) -> i64 {
        let mut rest = number;
        let mut at = 0;
        for (&n, &stride) in batch.iter().zip(&self.batch).rev() {
            at += (rest % n) as i64 * stride;
            rest /= n;
        }
        at
    }
}
