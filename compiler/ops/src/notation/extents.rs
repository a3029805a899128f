//! Extents of indices, inferred from the arrays they index.

use super::affine::{Affine, affine};
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::ixpr::{IxExpr, IxId, IxKind, IxVar};
use crate::meet::join_dim;
use crate::show;
use crate::value::{Array, Val};
use indexmap::IndexMap;
use optc_base::Span;
use std::sync::Arc;

/// Ids from here on stand for unnamed leading axes, counted from the last.
const LEAD: u32 = u32::MAX - 1024;

struct Entry {
    name: Arc<str>,
    span: Span,
    extent: Option<Dim>,
    given: bool,
    /// The array and axis that gave the extent.
    from: Option<(Array, usize, Span)>,
}

/// What is known of the indices of one expression.
pub(super) struct Extents {
    entries: IndexMap<IxId, Entry>,
    /// Extents of the leading axes, the last first.
    lead: Vec<Dim>,
    /// Indices on the left, in order.
    left: Vec<IxId>,
}

impl Extents {
    /// The ids of `n` leading axes.
    pub fn leads(n: usize) -> Vec<IxId> {
        (0..n).rev().map(|k| IxId(LEAD + k as u32)).collect()
    }
    /// Whether an id stands for a leading axis.
    pub fn is_lead(id: IxId) -> bool {
        id.0 >= LEAD
    }
    /// The ids of all leading axes in order.
    pub fn lead_ids(&self) -> Vec<IxId> {
        Extents::leads(self.lead.len())
    }
    /// The extent, if it is known already.
    pub fn try_extent(&self, id: IxId) -> Option<Dim> {
        if Extents::is_lead(id) {
            return self.lead.get((id.0 - LEAD) as usize).cloned();
        }
        self.entries.get(&id).and_then(|e| e.extent.clone())
    }
    /// The extent.
    pub fn extent(&self, id: IxId) -> Dim {
        self.try_extent(id).expect("compiler bug: an index without extent")
    }
    /// The place of an index on the left, leading axes first.
    pub fn order_of(&self, id: IxId) -> Option<usize> {
        if Extents::is_lead(id) { Some(0) } else { self.left.iter().position(|l| *l == id).map(|p| p + 1) }
    }
    /// The name in messages.
    pub fn name(&self, id: IxId) -> Arc<str> {
        if Extents::is_lead(id) { Arc::from("...") } else { self.entries.get(&id).map_or_else(|| Arc::from("?"), |e| e.name.clone()) }
    }
}

fn declare(e: &mut Extents, v: &IxVar) -> Res<()> {
    if v.extent.as_ref().and_then(Dim::known).is_some_and(|n| n < 0) {
        return Err(OpError::new("E0405", format!("the extent of index `{}` is negative", v.name)).at(v.span, ""));
    }
    let entry = Entry { name: v.name.clone(), span: v.span, extent: v.extent.clone(), given: v.extent.is_some(), from: None };
    e.entries.insert(v.id, entry);
    Ok(())
}

fn declare_inner(e: &mut Extents, x: &IxExpr) -> Res<()> {
    match &x.kind {
        IxKind::Value(Val::Array(a)) => lead_axes(e, &a.shape, x.span),
        IxKind::Value(_) | IxKind::Index(_) => Ok(()),
        IxKind::Access { base, subscripts } => {
            if let (Some(at), Val::Array(a)) = (subscripts.iter().position(Option::is_none), base) {
                let named = subscripts.len() - 1;
                let count = a.shape.len().saturating_sub(named);
                lead_axes(e, a.shape.get(at..at + count).unwrap_or(&[]), x.span)?;
            }
            subscripts.iter().flatten().try_for_each(|s| declare_inner(e, s))
        }
        IxKind::Apply { args, .. } => args.iter().try_for_each(|a| declare_inner(e, a)),
        IxKind::Cast(inner, _) => declare_inner(e, inner),
        IxKind::Reduce { indices, body, .. } => {
            indices.iter().try_for_each(|v| declare(e, v))?;
            declare_inner(e, body)
        }
    }
}

fn lead_axes(e: &mut Extents, shape: &[Dim], span: Span) -> Res<()> {
    for (k, n) in shape.iter().rev().enumerate() {
        match e.lead.get_mut(k) {
            None => e.lead.push(n.clone()),
            Some(have) => match join_dim(have, n) {
                Some(d) => *have = d,
                None => {
                    return Err(OpError::new("E0401", format!("leading axes do not broadcast: {have} is not {n}"))
                        .at(span, "")
                        .help("axes written `...` are aligned at the end; extents must be equal, or one of them 1"));
                }
            },
        }
    }
    Ok(())
}

/// Extents of the indices declared on the left and by reductions.
pub(super) fn infer(left: &[&IxVar], body: &IxExpr) -> Res<Extents> {
    let mut e = Extents { entries: IndexMap::new(), lead: Vec::new(), left: left.iter().map(|v| v.id).collect() };
    left.iter().try_for_each(|v| declare(&mut e, v))?;
    declare_inner(&mut e, body)?;
    let mut sites = Vec::new();
    collect(body, &mut sites);
    for site in &sites {
        if let Some(id) = site.affine.plain() {
            whole_axis(&mut e, id, site)?;
        }
    }
    // `i + u`: as many as fit, once the others are known.
    loop {
        let mut changed = false;
        for site in &sites {
            changed |= solve(&mut e, site);
        }
        if !changed {
            break;
        }
    }
    if let Some((_, entry)) = e.entries.iter().find(|(_, entry)| entry.extent.is_none()) {
        let name = &entry.name;
        return Err(OpError::new("E0407", format!("the extent of index `{name}` cannot be inferred"))
            .at(entry.span, "no array has it as a whole axis")
            .help(format!("give it where the index is introduced: `{name} < N`")));
    }
    for site in &sites {
        check(&e, site)?;
    }
    Ok(e)
}

/// One affine subscript.
struct Site<'a> {
    base: &'a Array,
    axis: usize,
    affine: Affine,
    span: Span,
}

fn collect<'a>(x: &'a IxExpr, out: &mut Vec<Site<'a>>) {
    match &x.kind {
        IxKind::Value(_) | IxKind::Index(_) => {}
        IxKind::Access { base, subscripts } => {
            let named = subscripts.iter().flatten().count();
            for (k, s) in subscripts.iter().enumerate() {
                let Some(s) = s else { continue };
                collect(s, out);
                let Val::Array(base) = base else { continue };
                let after_dots = subscripts[..k].iter().any(Option::is_none);
                let axis = if after_dots { (k + base.shape.len()).checked_sub(named + 1) } else { Some(k) };
                if let (Some(axis), Some(affine)) = (axis.filter(|&a| a < base.shape.len()), affine(s)) {
                    out.push(Site { base, axis, affine, span: s.span });
                }
            }
        }
        IxKind::Apply { args, .. } => args.iter().for_each(|a| collect(a, out)),
        IxKind::Cast(inner, _) => collect(inner, out),
        IxKind::Reduce { body, .. } => collect(body, out),
    }
}

fn whole_axis(e: &mut Extents, id: IxId, site: &Site<'_>) -> Res<()> {
    let Some(entry) = e.entries.get_mut(&id) else {
        return Err(OpError::new("E0407", "an index is used outside the expression that introduces it").at(site.span, ""));
    };
    let n = &site.base.shape[site.axis];
    match &entry.extent {
        None => {
            entry.extent = Some(n.clone());
            entry.from = Some((site.base.clone(), site.axis, site.span));
        }
        Some(_) if entry.given => {}
        Some(have) => match have.fit(n) {
            Fit::Different => {
                let name = entry.name.clone();
                let mut err = OpError::new("E0407", format!("index `{name}` has extent {have} in one place and {n} in another"))
                    .at(site.span, format!("{n} here"));
                if let Some((other, axis, span)) = &entry.from {
                    err = err
                        .label(*span, format!("{have} here"))
                        .note(show::pair(("first", other, Some(*axis)), ("here", site.base, Some(site.axis))));
                }
                return Err(err.help(format!("if only a part is meant, give the extent: `{name} < …`")));
            }
            _ => entry.extent = join_dim(have, n),
        },
    }
    Ok(())
}

/// Finds the extent of the only unknown index of a subscript: as many as stay within the axis.
fn solve(e: &mut Extents, site: &Site<'_>) -> bool {
    let open: Vec<&(IxId, Dim)> = site.affine.terms.iter().filter(|(id, _)| e.try_extent(*id).is_none()).collect();
    let [(id, c)] = open.as_slice() else { return false };
    let others = Affine { offset: site.affine.offset.clone(), terms: site.affine.terms.iter().filter(|(i, _)| i != id).cloned().collect() };
    let Some((low, high)) = others.range(e) else { return false };
    let room = match c.known() {
        Some(k) if k < 0 => low,
        _ => site.base.shape[site.axis].sub(&Dim::one()).sub(&high),
    };
    let by = if c.known().is_some_and(|k| k < 0) { c.neg() } else { c.clone() };
    let extent = room.floor_div(&by).unwrap_or_default().add(&Dim::one());
    let extent = if extent.known().is_some_and(|n| n < 0) { Dim::zero() } else { extent };
    let Some(entry) = e.entries.get_mut(id) else { return false };
    entry.extent = Some(extent);
    entry.from = Some((site.base.clone(), site.axis, site.span));
    true
}

/// Whether a subscript stays within its axis.
fn check(e: &Extents, site: &Site<'_>) -> Res<()> {
    let Some((low, high)) = site.affine.range(e) else { return Ok(()) };
    let n = &site.base.shape[site.axis];
    let (under, over) = (low.known().is_some_and(|l| l < 0), n.sub(&high).known().is_some_and(|left| left <= 0));
    // A constant may count from the end.
    let from_end = site.affine.terms.is_empty() && under && low.add(n).known().is_none_or(|l| l >= 0);
    if (!under || from_end) && !over {
        return Ok(());
    }
    let reached = if under { low } else { high };
    let what = match site.affine.terms.is_empty() {
        true => format!("index {reached} is out of range"),
        false => format!("a subscript reaches {reached}"),
    };
    Err(OpError::new("E0403", format!("{what}: axis {} of `{}` has {n} elements", site.axis, show::array(site.base)))
        .at(site.span, format!("must stay within 0 to {n} - 1"))
        .help("give the index a smaller extent, such as `i < N - 1`, or pad the array"))
}
