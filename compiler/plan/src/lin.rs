//! Linear index forms: a constant plus loop variables and index values times strides.

use optc_ir::kernel::{AxisId, ValueId};
use smallvec::SmallVec;

/// What a stride multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Term {
    Axis(AxisId),
    Value(ValueId),
}

/// `offset` + sum of term * stride; terms ascend, strides are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Lin {
    pub offset: i64,
    pub terms: SmallVec<[(Term, i64); 4]>,
}

/// Why a form could not be cut: perhaps it can after replacing an axis by an outer one and an inner one of this extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misfit(pub Option<(AxisId, i64)>);

impl Lin {
    pub fn constant(offset: i64) -> Lin {
        Lin { offset, terms: SmallVec::new() }
    }
    pub fn term(term: Term) -> Lin {
        Lin { offset: 0, terms: SmallVec::from_slice(&[(term, 1)]) }
    }
    pub fn axis(axis: AxisId) -> Lin {
        Lin::term(Term::Axis(axis))
    }
    /// `self + other * by`.
    pub fn add_scaled(&self, other: &Lin, by: i64) -> Lin {
        if by == 0 {
            return self.clone();
        }
        let mut out = Lin::constant(self.offset + other.offset * by);
        let (mut i, mut j) = (0, 0);
        while i < self.terms.len() || j < other.terms.len() {
            let left = self.terms.get(i);
            let right = other.terms.get(j);
            match (left, right) {
                (Some(&(a, s)), Some(&(b, t))) if a == b => {
                    if s + t * by != 0 {
                        out.terms.push((a, s + t * by));
                    }
                    (i, j) = (i + 1, j + 1);
                }
                (Some(&(a, s)), Some(&(b, _))) if a < b => {
                    out.terms.push((a, s));
                    i += 1;
                }
                (Some(&(a, s)), None) => {
                    out.terms.push((a, s));
                    i += 1;
                }
                (_, Some(&(b, t))) => {
                    out.terms.push((b, t * by));
                    j += 1;
                }
                (None, None) => unreachable!("the loop condition holds"),
            }
        }
        out
    }
    pub fn scaled(&self, by: i64) -> Lin {
        Lin::default().add_scaled(self, by)
    }
    pub fn plus(&self, offset: i64) -> Lin {
        Lin { offset: self.offset + offset, terms: self.terms.clone() }
    }
    /// Smallest and largest value; `most` gives the largest value of a term (the smallest is 0).
    pub fn range(&self, most: &impl Fn(Term) -> i64) -> (i64, i64) {
        let (mut lo, mut hi) = (self.offset, self.offset);
        for &(term, stride) in &self.terms {
            let reach = stride.saturating_mul(most(term));
            if reach < 0 {
                lo = lo.saturating_add(reach);
            } else {
                hi = hi.saturating_add(reach);
            }
        }
        (lo, hi)
    }
    /// Quotient and remainder by `d`, if both are linear.
    pub fn div_rem(&self, d: i64, most: &impl Fn(Term) -> i64) -> Result<(Lin, Lin), Misfit> {
        let (mut quotient, mut rest) = (Lin::default(), Lin::default());
        for &(term, stride) in &self.terms {
            if stride % d == 0 {
                quotient.terms.push((term, stride / d));
            } else {
                rest.terms.push((term, stride));
            }
        }
        let (lo, hi) = rest.range(most);
        // The part of the offset that stays with the remainder must bring its range into 0..d.
        let offset = (self.offset + lo).rem_euclid(d) - lo;
        if lo + offset >= 0 && hi + offset < d {
            rest.offset = offset;
            quotient.offset = (self.offset - offset) / d;
            return Ok((quotient, rest));
        }
        let cut = rest.terms.iter().find_map(|&(term, stride)| {
            let Term::Axis(axis) = term else { return None };
            let extent = most(term) + 1;
            let inner = d / stride;
            (stride > 0 && d % stride == 0 && inner > 1 && inner < extent && extent % inner == 0).then_some((axis, inner))
        });
        Err(Misfit(cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(term: Term) -> i64 {
        match term {
            Term::Axis(a) => [11, 3, 2][a],
            Term::Value(_) => 4,
        }
    }

    #[test]
    fn sums_merge_terms() {
        let a = Lin::axis(0).scaled(3).plus(2);
        let b = Lin::axis(1).add_scaled(&Lin::axis(0), -3);
        assert_eq!(a.add_scaled(&b, 1), Lin::axis(1).plus(2));
    }

    #[test]
    fn division_is_linear_when_the_ranges_allow() {
        // 4 * a1 + a1', a1 in 0..4: by 4.
        let form = Lin::axis(0).scaled(4).add_scaled(&Lin::axis(1), 1).plus(8);
        let (q, r) = form.div_rem(4, &most).unwrap();
        assert_eq!((q, r), (Lin::axis(0).plus(2), Lin::axis(1)));
    }

    #[test]
    fn division_asks_for_a_cut_of_an_axis() {
        assert_eq!(Lin::axis(0).div_rem(4, &most), Err(Misfit(Some((0, 4)))));
        assert_eq!(Lin::axis(0).div_rem(5, &most), Err(Misfit(None)));
        assert_eq!(Lin::axis(0).scaled(2).div_rem(8, &most), Err(Misfit(Some((0, 4)))));
    }

    #[test]
    fn reversed_axes_divide() {
        // 11 - a0 over rows of 12.
        let form = Lin::axis(0).scaled(-1).plus(11);
        let (q, r) = form.div_rem(12, &most).unwrap();
        assert_eq!((q, r), (Lin::constant(0), form));
    }
}
