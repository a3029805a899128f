//! Numerical library calls: factorizations, solves, transforms and assignment. Which there are, and the extents of one call.
//!
//! All work on the last one or two axes of dense row-major arrays of f32 or f64; the axes before are a batch, the same for every operand.

/// A numerical library call. `A`, `B` are matrices (the last two axes), `k` is `min(m, n)`.
///
/// None of them fails: where a result does not exist (a matrix that is not positive definite, not finite, or on which an iteration does not converge)
/// the float results of that matrix are NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LibCall {
    /// `A[n, n]` to lower triangular `L[n, n]` with `A = L L'`. Only the lower triangle of A is read.
    Cholesky,
    /// `A[n, n], B[n, k]` to `X[n, k]` with `A X = B`, where only a triangle of A is read.
    TriangularSolve {
        /// Which triangle is read.
        lower: bool,
        /// Solves `A' X = B`.
        transposed: bool,
        /// The diagonal is 1 and not read.
        unit: bool,
    },
    /// `A[n, n]` to `LU[n, n]` (unit lower and upper triangle), `perm: i32[n]` and `sign[]`, the determinant of the permutation:
    /// row `i` of `L U` is row `perm[i]` of A. Partial pivoting; a singular matrix has a zero on the diagonal of U.
    Lu,
    /// `A[n, n], LU[n, n], perm: i32[n], B[n, k]` to `X[n, k]` with `A X = B`, by the factors that [`LibCall::Lu`] has made of A. A itself is there for the
    /// derivative and not read.
    LuSolve {
        /// Solves `A' X = B`.
        transposed: bool,
    },
    /// `A[m, n]` to `Q[m, k]` with orthonormal columns and upper triangular `R[k, n]` with `A = Q R`. The diagonal of R is not negative.
    Qr,
    /// `A[m, n]` to `U[m, k], s[k], Vt[k, n]` with `A = U diag(s) Vt`; s is descending.
    Svd,
    /// `A[n, n]` to `values[n], V[n, n]` with `A V = V diag(values)`; values are ascending. Only the lower triangle of A is read.
    Eigh,
    /// `A[m, n]` to its Moore-Penrose inverse `[n, m]`; singular values up to `max(m, n) * eps` times the largest count as zero.
    Pinv,
    /// `re[n], im[n]` to `re[n], im[n]`: `y[j] = sum over k of x[k] exp(-2 pi i j k / n)`, with `+` in the exponent if inverse. Not scaled.
    Fft {
        /// The other sign in the exponent.
        inverse: bool,
    },
    /// `cost[m, n]`, `m <= n`, to `i32[m]`: the column of each row, all different, with the least sum of costs. NaN counts as forbidden, like infinity.
    Assignment {
        /// The greatest sum.
        maximize: bool,
    },
}

impl LibCall {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            LibCall::Cholesky => "cholesky",
            LibCall::TriangularSolve { .. } => "triangular_solve",
            LibCall::Lu => "lu",
            LibCall::LuSolve { .. } => "lu_solve",
            LibCall::Qr => "qr",
            LibCall::Svd => "svd",
            LibCall::Eigh => "eigh",
            LibCall::Pinv => "pinv",
            LibCall::Fft { .. } => "fft",
            LibCall::Assignment { .. } => "assignment",
        }
    }
    /// Its flags by name, in a fixed order.
    pub fn flags(self) -> Vec<(&'static str, bool)> {
        match self {
            LibCall::TriangularSolve { lower, transposed, unit } => vec![("lower", lower), ("transposed", transposed), ("unit", unit)],
            LibCall::LuSolve { transposed } => vec![("transposed", transposed)],
            LibCall::Fft { inverse } => vec![("inverse", inverse)],
            LibCall::Assignment { maximize } => vec![("maximize", maximize)],
            _ => Vec::new(),
        }
    }
    /// The call of this name whose flags are as `flag` says; `None` if there is none of that name.
    ///
    /// # Errors
    /// What `flag` gives for a flag it does not know.
    pub fn parse<E>(name: &str, mut flag: impl FnMut(&str) -> Result<bool, E>) -> Result<Option<LibCall>, E> {
        Ok(Some(match name {
            "cholesky" => LibCall::Cholesky,
            "triangular_solve" => LibCall::TriangularSolve { lower: flag("lower")?, transposed: flag("transposed")?, unit: flag("unit")? },
            "lu" => LibCall::Lu,
            "lu_solve" => LibCall::LuSolve { transposed: flag("transposed")? },
            "qr" => LibCall::Qr,
            "svd" => LibCall::Svd,
            "eigh" => LibCall::Eigh,
            "pinv" => LibCall::Pinv,
            "fft" => LibCall::Fft { inverse: flag("inverse")? },
            "assignment" => LibCall::Assignment { maximize: flag("maximize")? },
            _ => return Ok(None),
        }))
    }
}

/// The extents of a call, taken from its last operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LibDims {
    /// Number of independent problems.
    pub batch: usize,
    /// Rows of the last operand; the length of a transform.
    pub m: usize,
    /// Columns of the last operand; 1 for a transform.
    pub n: usize,
}

impl LibDims {
    /// Of a call whose last operand has this shape (of rank 1 or more for a transform, 2 or more otherwise).
    pub fn of(call: LibCall, shape: &[usize]) -> LibDims {
        let split = shape.len() - if matches!(call, LibCall::Fft { .. }) { 1 } else { 2 };
        let (batch, last) = shape.split_at(split);
        LibDims { batch: batch.iter().product(), m: last[0], n: last.get(1).copied().unwrap_or(1) }
    }
    /// The smaller of the two extents.
    pub fn k(&self) -> usize {
        self.m.min(self.n)
    }
}

/// Memory of [`assign`], kept from call to call.
#[derive(Clone, Debug, Default)]
pub struct AssignmentSpace {
    /// Prices of rows and columns.
    u: Vec<f64>,
    v: Vec<f64>,
    /// Length of the shortest alternating path to each column so far, and the row before it.
    shortest: Vec<f64>,
    before: Vec<usize>,
    row_of: Vec<usize>,
    column_of: Vec<usize>,
    in_rows: Vec<bool>,
    in_columns: Vec<bool>,
}

/// Linear sum assignment: `columns[i]` becomes the column of row `i`, all different, such that the sum of their costs is least (or greatest). Costs are
/// `m` rows of `n >= m` numbers. Of several optimal assignments the same is found each time. Infinite costs (negative ones if maximizing) and NaN are used
/// only where nothing else is left.
///
/// # Cost
/// `O(m^2 n)` operations, `O(m + n)` memory.
///
/// # Source
/// Shortest augmenting paths with prices; Crouse 2016, "On implementing 2D rectangular assignment algorithms".
pub fn assign(cost: &[f64], m: usize, n: usize, maximize: bool, space: &mut AssignmentSpace, columns: &mut [i32]) {
    assert!(m <= n && cost.len() == m * n && columns.len() == m, "compiler bug: an assignment of {m} rows to {n} columns");
    // What is forbidden costs more than all that is allowed together, but stays a number, so that sums and differences do.
    let bound = cost.iter().filter(|c| c.is_finite()).fold(1.0f64, |a, c| a.max(c.abs()));
    let scale = if bound > 1e100 { 1e-200 } else { 1.0 };
    let forbidden = 4.0 * (bound * scale) * (m as f64 + 1.0);
    let price = |i: usize, j: usize| {
        let c = if maximize { -cost[i * n + j] } else { cost[i * n + j] } * scale;
        if c.is_finite() {
            c
        } else if c < 0.0 {
            -forbidden
        } else {
            forbidden
        }
    };
    const NOBODY: usize = usize::MAX;
    fn reset<T: Clone>(v: &mut Vec<T>, len: usize, value: T) {
        v.clear();
        v.resize(len, value);
    }
    let s = space;
    reset(&mut s.u, m, 0.0);
    reset(&mut s.v, n, 0.0);
    reset(&mut s.row_of, n, NOBODY);
    reset(&mut s.column_of, m, NOBODY);
    for start in 0..m {
        reset(&mut s.shortest, n, f64::INFINITY);
        reset(&mut s.before, n, NOBODY);
        reset(&mut s.in_rows, m, false);
        reset(&mut s.in_columns, n, false);
        let (mut row, mut least) = (start, 0.0);
        let sink = loop {
            s.in_rows[row] = true;
            let mut next = NOBODY;
            let mut lowest = f64::INFINITY;
            for j in (0..n).filter(|&j| !s.in_columns[j]) {
                let reduced = least + price(row, j) - s.u[row] - s.v[j];
                if reduced < s.shortest[j] {
                    (s.shortest[j], s.before[j]) = (reduced, row);
                }
                // A free column ends the search, so it is preferred.
                let ends_sooner = |next: usize| s.shortest[j] == lowest && s.row_of[j] == NOBODY && s.row_of[next] != NOBODY;
                if next == NOBODY || s.shortest[j] < lowest || ends_sooner(next) {
                    (lowest, next) = (s.shortest[j], j);
                }
            }
            least = lowest;
            s.in_columns[next] = true;
            match s.row_of[next] {
                NOBODY => break next,
                taken => row = taken,
            }
        };
        s.u[start] += least;
        for i in (0..m).filter(|&i| i != start && s.in_rows[i]) {
            s.u[i] += least - s.shortest[s.column_of[i]];
        }
        for j in (0..n).filter(|&j| s.in_columns[j]) {
            s.v[j] -= least - s.shortest[j];
        }
        let mut column = sink;
        loop {
            let row = s.before[column];
            s.row_of[column] = row;
            std::mem::swap(&mut s.column_of[row], &mut column);
            if row == start {
                break;
            }
        }
    }
    columns.iter_mut().zip(&s.column_of).for_each(|(to, &c)| *to = c as i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(cost: &[f64], m: usize, n: usize, maximize: bool) -> (Vec<i32>, f64) {
        let mut columns = vec![0; m];
        assign(cost, m, n, maximize, &mut AssignmentSpace::default(), &mut columns);
        let total = columns.iter().enumerate().map(|(i, &c)| cost[i * n + c as usize]).sum();
        (columns, total)
    }

    /// The least sum over all injections, by trying them.
    fn least(cost: &[f64], m: usize, n: usize, row: usize, taken: usize) -> f64 {
        if row == m {
            return 0.0;
        }
        let free = (0..n).filter(|j| taken & (1 << j) == 0);
        free.map(|j| cost[row * n + j] + least(cost, m, n, row + 1, taken | 1 << j)).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn an_assignment_is_as_good_as_any() {
        let mut state = 1u64;
        for (m, n) in [(0, 0), (0, 3), (1, 1), (1, 4), (3, 3), (4, 6), (6, 6), (5, 7)] {
            for spread in [3, 1000] {
                let cost: Vec<f64> = (0..m * n)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        ((state >> 33) % spread) as f64 - 1.0
                    })
                    .collect();
                let (columns, total) = solve(&cost, m, n, false);
                assert_eq!(total, least(&cost, m, n, 0, 0), "{m} x {n}");
                let mut sorted = columns.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), m);
                let negated: Vec<f64> = cost.iter().map(|c| -c).collect();
                assert_eq!(solve(&negated, m, n, true).0, columns);
            }
        }
    }

    #[test]
    fn forbidden_pairs_are_avoided_and_never_hang() {
        let inf = f64::INFINITY;
        assert_eq!(solve(&[inf, 1.0, 2.0, f64::NAN], 2, 2, false).0, [1, 0]);
        assert_eq!(solve(&[1.0, 5.0, inf, -inf, 1e300, -1e300, f64::NAN, f64::NAN, f64::NAN], 3, 3, false).0.len(), 3);
        assert_eq!(solve(&[f64::NAN; 4], 2, 2, true).0.iter().sum::<i32>(), 1);
        assert_eq!(solve(&[-inf, 1.0, 2.0, -inf], 2, 2, true).0, [1, 0]);
    }

    #[test]
    fn calls_are_found_by_name() {
        let all = [
            LibCall::TriangularSolve { lower: true, transposed: false, unit: true },
            LibCall::LuSolve { transposed: true },
            LibCall::Fft { inverse: true },
            LibCall::Assignment { maximize: false },
            LibCall::Svd,
        ];
        for call in all {
            let flags = call.flags();
            let flag = |name: &str| flags.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).ok_or(());
            assert_eq!(LibCall::parse(call.name(), flag), Ok(Some(call)));
        }
    }
}
