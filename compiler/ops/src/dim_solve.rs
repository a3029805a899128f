//! Matching of the dimensions of a signature with those of an argument.

use crate::dim::{Atom, Dim, Symbol};
use crate::dim_arith::Fit;
use std::collections::BTreeMap;

/// What the names of a signature stand for at one call.
pub type Bindings = BTreeMap<Symbol, Dim>;

/// The dimension with its bound symbols replaced. A division by what turned out to be zero gives zero.
pub fn substitute(dim: &Dim, bindings: &Bindings) -> Dim {
    let mut sum = Dim::zero();
    for (product, c) in &dim.terms {
        let mut term = Dim::from(*c);
        for atom in product {
            let pair = |a: &Dim, b: &Dim| (substitute(a, bindings), substitute(b, bindings));
            let value = match atom {
                Atom::Symbol(s) => bindings.get(s).cloned().unwrap_or_else(|| Dim::symbol(s.clone())),
                Atom::FloorDiv(a, b) => {
                    let (a, b) = pair(a, b);
                    a.floor_div(&b).unwrap_or_default()
                }
                Atom::Rem(a, b) => {
                    let (a, b) = pair(a, b);
                    a.rem(&b).unwrap_or_default()
                }
                Atom::Max(a, b) => {
                    let (a, b) = pair(a, b);
                    Dim::max(&a, &b)
                }
                Atom::Min(a, b) => {
                    let (a, b) = pair(a, b);
                    Dim::min(&a, &b)
                }
            };
            term = term.mul(&value);
        }
        sum = sum.add(&term);
    }
    sum
}

impl Dim {
    /// The dimension with its bound symbols replaced, see [`substitute`].
    pub fn substitute(&self, bindings: &Bindings) -> Dim {
        substitute(self, bindings)
    }
}

/// Matches a dimension of a signature with an actual one. A single unbound symbol that the pattern holds linearly (`N`, `2*D`, `N - 1`) is solved for and bound;
/// a pattern without unbound symbols is compared. `None` where the pattern holds several unbound symbols, or one in another way: try again when others are bound.
pub fn unify(pattern: &Dim, actual: &Dim, bindings: &mut Bindings) -> Option<Fit> {
    let unbound: Vec<Symbol> = pattern.symbols().into_iter().filter(|s| !bindings.contains_key(s)).collect();
    match unbound.as_slice() {
        [] => Some(substitute(pattern, bindings).fit(actual)),
        [symbol] => {
            let alone = vec![Atom::Symbol(symbol.clone())];
            let coefficient = pattern.terms.iter().find(|(p, _)| *p == alone).map(|(_, c)| *c)?;
            let rest = pattern.sub(&Dim::symbol(symbol.clone()).mul(&Dim::from(coefficient)));
            if rest.symbols().contains(symbol) {
                return None;
            }
            let difference = actual.sub(&substitute(&rest, bindings));
            let by = Dim::from(coefficient);
            if difference.known().is_some() && difference.rem(&by)?.known() != Some(0) {
                return Some(Fit::Different);
            }
            let value = difference.floor_div(&by)?;
            if value.known().is_some_and(|v| v < 0) {
                return Some(Fit::Different);
            }
            bindings.insert(symbol.clone(), value);
            Some(Fit::Equal)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn sym(name: &str) -> Symbol {
        Symbol { name: Arc::from(name), id: 1 }
    }
    fn n(v: i64) -> Dim {
        Dim::from(v)
    }

    #[test]
    fn linear_patterns_are_solved() {
        let d = Dim::symbol(sym("D"));
        let mut b = Bindings::new();
        assert_eq!(unify(&n(2).mul(&d), &n(6), &mut b), Some(Fit::Equal));
        assert_eq!(b[&sym("D")], n(3));
        assert_eq!(unify(&d.add(&n(1)), &n(4), &mut b), Some(Fit::Equal));
        assert_eq!(unify(&d.add(&n(1)), &n(5), &mut b), Some(Fit::Different));
        let mut b = Bindings::new();
        assert_eq!(unify(&n(2).mul(&d), &n(7), &mut b), Some(Fit::Different));
        assert_eq!(unify(&d.add(&n(3)), &n(2), &mut b), Some(Fit::Different));
    }

    #[test]
    fn others_wait_until_they_are_bound() {
        let (h, k) = (Dim::symbol(sym("H")), Dim::symbol(sym("K")));
        let mut b = Bindings::new();
        assert_eq!(unify(&h.sub(&k), &n(4), &mut b), None);
        assert_eq!(unify(&k, &n(3), &mut b), Some(Fit::Equal));
        assert_eq!(unify(&h.sub(&k), &n(4), &mut b), Some(Fit::Equal));
        assert_eq!(b[&sym("H")], n(7));
    }

    #[test]
    fn substitution_folds() {
        let (h, k) = (Dim::symbol(sym("H")), Dim::symbol(sym("K")));
        let out = h.sub(&k).floor_div(&n(2)).unwrap().add(&n(1));
        let b = Bindings::from([(sym("H"), n(8)), (sym("K"), n(3))]);
        assert_eq!(out.substitute(&b), n(3));
        assert_eq!(Dim::max(&h, &k).substitute(&b), n(8));
    }
}
