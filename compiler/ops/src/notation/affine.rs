//! Subscripts that are sums of indices times integers.

use super::extents::Extents;
use crate::dim::Dim;
use crate::ixpr::{IxExpr, IxId, IxKind};
use crate::value::Val;

/// `offset + sum of coefficient * index`; coefficients are not 0.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub offset: Dim,
    pub terms: Vec<(IxId, Dim)>,
}

impl Affine {
    fn number(d: Dim) -> Affine {
        Affine { offset: d, terms: Vec::new() }
    }
    fn add(mut self, other: Affine, sign: i64) -> Affine {
        let sign = Dim::from(sign);
        self.offset = self.offset.add(&other.offset.mul(&sign));
        for (id, c) in other.terms {
            let c = c.mul(&sign);
            match self.terms.iter_mut().find(|(i, _)| *i == id) {
                Some((_, mine)) => *mine = mine.add(&c),
                None => self.terms.push((id, c)),
            }
        }
        self.terms.retain(|(_, c)| c.known() != Some(0));
        self
    }
    fn scale(mut self, by: &Dim) -> Affine {
        self.offset = self.offset.mul(by);
        for (_, c) in &mut self.terms {
            *c = c.mul(by);
        }
        self.terms.retain(|(_, c)| c.known() != Some(0));
        self
    }
    /// The index, if the subscript is just that.
    pub fn plain(&self) -> Option<IxId> {
        match self.terms.as_slice() {
            [(id, c)] if c.known() == Some(1) && self.offset.known() == Some(0) => Some(*id),
            _ => None,
        }
    }
    /// The smallest and largest value, if the signs of the coefficients are known and no extent is 0.
    pub fn range(&self, e: &Extents) -> Option<(Dim, Dim)> {
        let (mut low, mut high) = (self.offset.clone(), self.offset.clone());
        for (id, c) in &self.terms {
            let extent = e.try_extent(*id)?;
            if extent.known() == Some(0) {
                return None;
            }
            let reach = c.mul(&extent.sub(&Dim::one()));
            match c.known() {
                Some(k) if k < 0 => low = low.add(&reach),
                Some(_) => high = high.add(&reach),
                // A symbolic coefficient is a stride or dilation: a size.
                None => high = high.add(&reach),
            }
        }
        Some((low, high))
    }
}

/// Reads a subscript; `None` if it is of another form.
pub(super) fn affine(x: &IxExpr) -> Option<Affine> {
    match &x.kind {
        IxKind::Value(Val::Int(d)) => Some(Affine::number(d.clone())),
        IxKind::Index(id) => Some(Affine { offset: Dim::zero(), terms: vec![(*id, Dim::one())] }),
        IxKind::Apply { op, args } => match (*op, args.as_slice()) {
            ("add", [a, b]) => Some(affine(a)?.add(affine(b)?, 1)),
            ("sub", [a, b]) => Some(affine(a)?.add(affine(b)?, -1)),
            ("neg", [a]) => Some(affine(a)?.scale(&Dim::from(-1i64))),
            ("mul", [a, b]) => {
                let (a, b) = (affine(a)?, affine(b)?);
                if a.terms.is_empty() {
                    Some(b.scale(&a.offset))
                } else if b.terms.is_empty() {
                    Some(a.scale(&b.offset))
                } else {
                    None
                }
            }
            _ => None,
        },
        _ => None,
    }
}
