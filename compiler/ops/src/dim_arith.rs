//! Arithmetic of symbolic dimensions in canonical form, and what can be proved of them.

use crate::dim::{Atom, Dim, Symbol};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether two dimensions are the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Always.
    Equal,
    /// It cannot be told: one is a `?`, or holds a quotient, remainder, maximum or minimum.
    Maybe,
    /// Not always: the numbers differ, or the names do.
    Different,
}

impl Dim {
    fn from_map(map: BTreeMap<Vec<Atom>, i64>) -> Dim {
        Dim { terms: map.into_iter().filter(|(_, c)| *c != 0).collect() }
    }
    fn atom(atom: Atom) -> Dim {
        Dim { terms: vec![(vec![atom], 1)] }
    }
    /// The number 1.
    pub fn one() -> Dim {
        Dim::from(1i64)
    }
    /// The number 0.
    pub fn zero() -> Dim {
        Dim::from(0i64)
    }
    /// `self + other`
    pub fn add(&self, other: &Dim) -> Dim {
        let mut map: BTreeMap<Vec<Atom>, i64> = self.terms.iter().cloned().collect();
        for (product, c) in &other.terms {
            let at = map.entry(product.clone()).or_insert(0);
            *at = at.saturating_add(*c);
        }
        Dim::from_map(map)
    }
    /// `-self`
    pub fn neg(&self) -> Dim {
        self.scale(-1)
    }
    /// `self - other`
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.neg())
    }
    fn scale(&self, by: i64) -> Dim {
        Dim::from_map(self.terms.iter().map(|(p, c)| (p.clone(), c.saturating_mul(by))).collect())
    }
    /// `self * other`
    pub fn mul(&self, other: &Dim) -> Dim {
        let mut map: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for (p, a) in &self.terms {
            for (q, b) in &other.terms {
                let mut product: Vec<Atom> = p.iter().chain(q).cloned().collect();
                product.sort();
                let at = map.entry(product).or_insert(0);
                *at = at.saturating_add(a.saturating_mul(*b));
            }
        }
        Dim::from_map(map)
    }
    /// `(q, r)` with `self = q * by + r`, where `r` holds the terms that `by` does not divide term by term.
    fn split_by(&self, by: &Dim) -> (Dim, Dim) {
        if self == by {
            return (Dim::one(), Dim::zero());
        }
        let [(divisor, k)] = by.terms.as_slice() else { return (Dim::zero(), self.clone()) };
        let (mut q, mut r) = (BTreeMap::new(), BTreeMap::new());
        for (product, c) in &self.terms {
            let mut rest = product.clone();
            let divides = c.wrapping_rem(*k) == 0
                && divisor.iter().all(|atom| match rest.iter().position(|a| a == atom) {
                    Some(at) => {
                        rest.remove(at);
                        true
                    }
                    None => false,
                });
            if divides {
                q.insert(rest, c.wrapping_div(*k));
            } else {
                r.insert(product.clone(), *c);
            }
        }
        (Dim::from_map(q), Dim::from_map(r))
    }
    /// `floor(self / by)`; `None` for division by zero.
    pub fn floor_div(&self, by: &Dim) -> Option<Dim> {
        if let (Some(a), Some(b)) = (self.known(), by.known()) {
            return (b != 0).then(|| Dim::from(floor_div(a, b)));
        }
        if by.known() == Some(0) {
            return None;
        }
        let (q, r) = self.split_by(by);
        let rest = match (r.known(), by.known()) {
            (Some(0), _) => Dim::zero(),
            (Some(a), Some(b)) => Dim::from(floor_div(a, b)),
            _ => Dim::atom(Atom::FloorDiv(Arc::new(r), Arc::new(by.clone()))),
        };
        Some(q.add(&rest))
    }
    /// `self mod by`, with the sign of the divisor; `None` for division by zero.
    pub fn rem(&self, by: &Dim) -> Option<Dim> {
        if let (Some(a), Some(b)) = (self.known(), by.known()) {
            return (b != 0).then(|| Dim::from(a.saturating_sub(b.saturating_mul(floor_div(a, b)))));
        }
        if by.known() == Some(0) {
            return None;
        }
        let (_, r) = self.split_by(by);
        if r.known().is_some() && by.known().is_some() {
            return r.rem(by);
        }
        Some(if r.known() == Some(0) { r } else { Dim::atom(Atom::Rem(Arc::new(r), Arc::new(by.clone()))) })
    }
    /// The quotient, if it is exact and provably so.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if by.known() == Some(0) {
            return None;
        }
        let (q, r) = self.split_by(by);
        if r.known() == Some(0) {
            return Some(q);
        }
        // (A + B) * C over (A + B): compare with each candidate quotient that the leading terms suggest.
        let ((p, a), (d, k)) = (self.terms.last()?, by.terms.last()?);
        let (candidate, rest) = Dim { terms: vec![(p.clone(), *a)] }.split_by(&Dim { terms: vec![(d.clone(), *k)] });
        (rest.known() == Some(0) && candidate.mul(by) == *self).then_some(candidate)
    }
    /// The larger.
    pub fn max(&self, other: &Dim) -> Dim {
        match self.compare(other) {
            Some(Ordering::Less) => other.clone(),
            Some(_) => self.clone(),
            None => {
                let (a, b) = if self < other { (self, other) } else { (other, self) };
                Dim::atom(Atom::Max(Arc::new(a.clone()), Arc::new(b.clone())))
            }
        }
    }
    /// The smaller.
    pub fn min(&self, other: &Dim) -> Dim {
        match self.compare(other) {
            Some(Ordering::Greater) => other.clone(),
            Some(_) => self.clone(),
            None => {
                let (a, b) = if self < other { (self, other) } else { (other, self) };
                Dim::atom(Atom::Min(Arc::new(a.clone()), Arc::new(b.clone())))
            }
        }
    }
    /// Their order (`Less` and `Greater` include equality in the symbolic case), if it can be proved.
    pub fn compare(&self, other: &Dim) -> Option<Ordering> {
        let difference = self.sub(other);
        if let Some(d) = difference.known() {
            return Some(d.cmp(&0));
        }
        if difference.at_least().is_some_and(|l| l >= 0) {
            return Some(Ordering::Greater);
        }
        difference.neg().at_least().is_some_and(|l| l >= 0).then_some(Ordering::Less)
    }
    /// A lower bound, if there is one: named sizes count as at least 1.
    pub fn at_least(&self) -> Option<i64> {
        let mut sum = 0i64;
        for (product, c) in &self.terms {
            if product.is_empty() {
                sum = sum.saturating_add(*c);
                continue;
            }
            if *c < 0 {
                return None;
            }
            let mut low = 1i64;
            for atom in product {
                let l = match atom {
                    Atom::Symbol(s) if &*s.name == "?" => return None,
                    Atom::Symbol(_) => 1,
                    Atom::FloorDiv(a, b) => {
                        let (a, b) = (a.at_least()?, b.at_least()?);
                        if a < 0 || b < 1 {
                            return None;
                        }
                        0
                    }
                    Atom::Rem(_, b) => b.at_least().filter(|b| *b >= 1).map(|_| 0)?,
                    Atom::Max(a, b) => match (a.at_least(), b.at_least()) {
                        (Some(a), Some(b)) => Ord::max(a, b),
                        (one, other) => one.or(other)?,
                    },
                    Atom::Min(a, b) => Ord::min(a.at_least()?, b.at_least()?),
                };
                if l < 0 {
                    return None;
                }
                low = low.saturating_mul(l);
            }
            sum = sum.saturating_add(c.saturating_mul(low));
        }
        Some(sum)
    }
    /// Whether they are always the same number.
    pub fn provably_equal(&self, other: &Dim) -> bool {
        self == other
    }
    /// Whether they are never the same number.
    pub fn provably_different(&self, other: &Dim) -> bool {
        let d = self.sub(other);
        match d.known() {
            Some(d) => d != 0,
            None => d.at_least().is_some_and(|l| l > 0) || d.neg().at_least().is_some_and(|l| l > 0),
        }
    }
    /// Whether they fit where they must be equal. Different names are different sizes: a function must be right for all of them.
    pub fn fit(&self, other: &Dim) -> Fit {
        if self == other {
            Fit::Equal
        } else if self.sub(other).known().is_some() {
            Fit::Different
        } else if self.is_opaque() || other.is_opaque() {
            Fit::Maybe
        } else {
            Fit::Different
        }
    }
    /// Whether it holds a `?`, a quotient, a remainder, a maximum or a minimum, so that equality cannot be decided by its form.
    pub fn is_opaque(&self) -> bool {
        self.atoms().any(|a| match a {
            Atom::Symbol(s) => &*s.name == "?",
            _ => true,
        })
    }
    fn atoms(&self) -> impl Iterator<Item = &Atom> {
        self.terms.iter().flat_map(|(p, _)| p)
    }
    /// The symbols in it, each once, in order of first appearance.
    pub fn symbols(&self) -> Vec<Symbol> {
        fn walk(dim: &Dim, out: &mut Vec<Symbol>) {
            for atom in dim.atoms() {
                match atom {
                    Atom::Symbol(s) => {
                        if !out.contains(s) {
                            out.push(s.clone());
                        }
                    }
                    Atom::FloorDiv(a, b) | Atom::Rem(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                        walk(a, out);
                        walk(b, out);
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &mut out);
        out
    }
    /// The product of several dimensions.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::one(), |p, d| p.mul(d))
    }
}

fn floor_div(a: i64, b: i64) -> i64 {
    let (q, r) = (a.wrapping_div(b), a.wrapping_rem(b));
    if r != 0 && (r < 0) != (b < 0) { q - 1 } else { q }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(name: &str) -> Dim {
        Dim::symbol(Symbol { name: Arc::from(name), id: name.bytes().map(u32::from).sum() })
    }
    fn n(v: i64) -> Dim {
        Dim::from(v)
    }

    #[test]
    fn sums_and_products_are_canonical() {
        let (a, b) = (s("A"), s("B"));
        assert_eq!(a.add(&b), b.add(&a));
        assert_eq!(a.add(&b).mul(&a.sub(&b)), a.mul(&a).sub(&b.mul(&b)));
        assert_eq!(a.sub(&a), n(0));
        assert_eq!(a.add(&n(1)).sub(&n(1)), a);
    }

    #[test]
    fn quotients_fold_where_exact() {
        let d = s("D");
        assert_eq!(n(2).mul(&d).floor_div(&n(2)), Some(d.clone()));
        assert_eq!(n(2).mul(&d).add(&n(3)).floor_div(&n(2)), Some(d.add(&n(1))));
        assert_eq!(d.mul(&s("H")).floor_div(&s("H")), Some(d.clone()));
        assert_eq!(n(-7).floor_div(&n(2)), Some(n(-4)));
        assert_eq!(n(-7).rem(&n(2)), Some(n(1)));
        assert_eq!(n(4).mul(&d).add(&n(5)).rem(&n(4)), Some(n(1)));
        assert_eq!(d.floor_div(&n(0)), None);
        assert_eq!(d.floor_div(&n(2)).unwrap().to_string(), "(D) // (2)");
        let sum = s("A").add(&s("B"));
        assert_eq!(sum.mul(&d).exact_div(&sum), Some(d));
    }

    #[test]
    fn order_is_proved_from_sizes_of_at_least_one() {
        let d = s("D");
        assert_eq!(Dim::max(&d, &n(0)), d);
        assert_eq!(Dim::max(&n(1), &d), d);
        assert_eq!(Dim::min(&d, &d.add(&n(2))), d);
        assert_eq!(Dim::max(&n(5), &n(3)), n(5));
        assert!(matches!(Dim::max(&d, &s("E")).terms[0].0[0], Atom::Max(..)));
        assert_eq!(Dim::max(&d, &s("E")), Dim::max(&s("E"), &d));
        assert!(d.add(&n(1)).provably_different(&d));
        assert!(!d.provably_different(&s("E")));
    }

    #[test]
    fn fit_tells_names_apart_and_forgives_quotients() {
        let m = s("M");
        assert_eq!(m.fit(&s("N")), Fit::Different);
        assert_eq!(m.fit(&m.add(&n(1))), Fit::Different);
        let half = m.floor_div(&n(2)).unwrap();
        assert_eq!(half.fit(&m.sub(&half)), Fit::Maybe);
        assert_eq!(s("?").fit(&n(3)), Fit::Maybe);
    }

    #[test]
    fn no_overflow_panics() {
        let big = n(i64::MAX);
        let _ = big.mul(&big).add(&big).sub(&n(i64::MIN));
        let _ = n(i64::MIN).floor_div(&n(-1));
    }
}
