//! Symbolic dimensions: integer expressions over named sizes, in a canonical form.

use std::fmt;
use std::sync::Arc;

/// A named size that is not known yet (`N` of a signature being checked).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol {
    /// The name in messages.
    pub name: Arc<str>,
    /// Distinguishes symbols of one name.
    pub id: u32,
}

/// What a term of a dimension multiplies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A named size.
    Symbol(Symbol),
    /// `floor(a / b)`
    FloorDiv(Arc<Dim>, Arc<Dim>),
    /// `a mod b`
    Rem(Arc<Dim>, Arc<Dim>),
    /// `max(a, b)`
    Max(Arc<Dim>, Arc<Dim>),
    /// `min(a, b)`
    Min(Arc<Dim>, Arc<Dim>),
}

/// An integer: the sum of `coefficient * product of atoms`. Terms are sorted, without zeros, each product sorted; equal dimensions compare equal.
///
/// A value that cannot be known while checking (a size computed from a run-time flag) is a fresh symbol named `?`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Dim {
    /// Products with their coefficients; the empty product is the constant term.
    pub terms: Vec<(Vec<Atom>, i64)>,
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim { terms: if value == 0 { Vec::new() } else { vec![(Vec::new(), value)] } }
    }
}
impl From<usize> for Dim {
    fn from(value: usize) -> Dim {
        Dim::from(value as i64)
    }
}

impl Dim {
    /// The size with this name.
    pub fn symbol(symbol: Symbol) -> Dim {
        Dim { terms: vec![(vec![Atom::Symbol(symbol)], 1)] }
    }
    /// The number, if it is known.
    pub fn known(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(product, c)] if product.is_empty() => Some(*c),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (i, (product, c)) in self.terms.iter().enumerate() {
            let sign = match (i, *c < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            };
            f.write_str(sign)?;
            if product.is_empty() || c.unsigned_abs() != 1 {
                write!(f, "{}", c.unsigned_abs())?;
                if !product.is_empty() {
                    f.write_str("*")?;
                }
            }
            for (k, atom) in product.iter().enumerate() {
                if k > 0 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(s) => f.write_str(&s.name)?,
                    Atom::FloorDiv(a, b) => write!(f, "({a}) // ({b})")?,
                    Atom::Rem(a, b) => write!(f, "({a}) % ({b})")?,
                    Atom::Max(a, b) => write!(f, "maximum({a}, {b})")?,
                    Atom::Min(a, b) => write!(f, "minimum({a}, {b})")?,
                }
            }
        }
        Ok(())
    }
}
