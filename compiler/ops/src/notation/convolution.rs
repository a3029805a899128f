//! Recognition of convolutions: `sum[u, v, c] x[n, s*i + u, s*j + v, c] * w[u, v, c, o]` with axes in any order, any number of spatial axes, strides and dilations.
//!
//! Indices of x in both sums and w are channels; shared indices that are not summed are groups; the rest of x is the batch, the rest of w the output channels.

use super::affine::{Affine, affine};
use super::extents::Extents;
use super::term::Term;
use crate::conv::{Geometry, convolve};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::Res;
use crate::ixpr::{IxExpr, IxId, IxKind};
use crate::value::{Array, Val};

/// An axis of x that a window slides along.
struct Spatial {
    axis: usize,
    /// Index of the result.
    out: IxId,
    /// Index of the window.
    tap: IxId,
    stride: usize,
    dilation: usize,
    offset: Dim,
}

/// The convolution of two factors, if they are one.
pub(super) fn convolution(cx: &mut Cx, e: &Extents, summed: &[IxId], a: &IxExpr, b: &IxExpr) -> Res<Option<Term>> {
    Ok(match attempt(cx, e, summed, a, b) {
        Some(t) => Some(t),
        None => attempt(cx, e, summed, b, a),
    })
}

fn operand(x: &IxExpr) -> Option<(&Array, Vec<Affine>)> {
    let IxKind::Access { base: Val::Array(base), subscripts } = &x.kind else { return None };
    let forms: Vec<Affine> = subscripts.iter().map(|s| s.as_ref().and_then(affine)).collect::<Option<_>>()?;
    let mut seen: Vec<IxId> = forms.iter().flat_map(|f| f.terms.iter().map(|(id, _)| *id)).collect();
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    (seen.len() == all && forms.len() == base.shape.len() && base.dtype.is_float() && !base.weak).then_some((base, forms))
}

fn spatial(axis: usize, form: &Affine, summed: &[IxId]) -> Option<Spatial> {
    let [(p, c), (q, d)] = form.terms.as_slice() else { return None };
    let step = |c: &Dim| c.known().filter(|&k| k > 0).map(|k| k as usize);
    let (c, d) = (step(c)?, step(d)?);
    if form.offset.known().is_some_and(|o| o < 0) {
        return None;
    }
    let offset = form.offset.clone();
    match (summed.contains(p), summed.contains(q)) {
        (false, true) => Some(Spatial { axis, out: *p, tap: *q, stride: c, dilation: d, offset }),
        (true, false) => Some(Spatial { axis, out: *q, tap: *p, stride: d, dilation: c, offset }),
        _ => None,
    }
}

fn attempt(cx: &mut Cx, e: &Extents, summed: &[IxId], x: &IxExpr, w: &IxExpr) -> Option<Term> {
    let ((x, xs), (w, ws)) = (operand(x)?, operand(w)?);
    if x.dtype != w.dtype {
        return None;
    }
    let w_ids: Vec<IxId> = ws.iter().map(Affine::plain).collect::<Option<_>>()?;
    let mut slides = Vec::new();
    let mut x_plain = Vec::new();
    for (axis, form) in xs.iter().enumerate() {
        match form.plain() {
            Some(id) => x_plain.push((axis, id)),
            None => slides.push(spatial(axis, form, summed)?),
        }
    }
    let x_ids: Vec<IxId> = x_plain.iter().map(|(_, id)| *id).collect();
    let taps: Vec<IxId> = slides.iter().map(|s| s.tap).collect();
    let outs: Vec<IxId> = slides.iter().map(|s| s.out).collect();
    if slides.is_empty() || !taps.iter().all(|t| w_ids.contains(t)) || outs.iter().any(|o| w_ids.contains(o)) {
        return None;
    }
    let both = |id: &IxId| x_ids.contains(id) && w_ids.contains(id);
    let channels: Vec<IxId> = w_ids.iter().copied().filter(|id| both(id) && summed.contains(id)).collect();
    let groups: Vec<IxId> = w_ids.iter().copied().filter(|id| both(id) && !summed.contains(id)).collect();
    let batch: Vec<IxId> = x_ids.iter().copied().filter(|id| !w_ids.contains(id)).collect();
    let out_channels: Vec<IxId> = w_ids.iter().copied().filter(|id| !x_ids.contains(id) && !taps.contains(id)).collect();
    // Every summed index must be a tap or a channel, and nothing else may be summed.
    let handled = summed.iter().all(|id| taps.contains(id) || channels.contains(id));
    if !handled || batch.iter().chain(&out_channels).any(|id| summed.contains(id)) {
        return None;
    }
    // x as [batch…, spatial…, groups…, channels…], w as [taps…, channels…, groups…, out…].
    let mut x = part(cx, e, x, &x_plain);
    for s in &slides {
        let (n, k) = (e.extent(s.out), e.extent(s.tap));
        if n.known() == Some(0) || k.known() == Some(0) {
            return None;
        }
        let reach = k.sub(&Dim::one()).mul(&Dim::from(s.dilation)).add(&Dim::one());
        let fits = s.offset.known() == Some(0)
            && x.shape[s.axis].sub(&reach).floor_div(&Dim::from(s.stride)).is_some_and(|t| t.add(&Dim::one()) == n);
        if !fits {
            let need = n.sub(&Dim::one()).mul(&Dim::from(s.stride)).add(&reach);
            x = cx.sliced(&x, s.axis, &s.offset, &need, 1);
        }
    }
    let place = |id: &IxId| x_plain.iter().find(|(_, other)| other == id).map(|(axis, _)| *axis);
    let mut perm: Vec<usize> = batch.iter().filter_map(place).collect();
    perm.extend(slides.iter().map(|s| s.axis));
    perm.extend(groups.iter().chain(&channels).filter_map(place));
    let x = cx.permuted(&x, &perm);
    let size = |ids: &[IxId]| Dim::product(&ids.iter().map(|&id| e.extent(id)).collect::<Vec<_>>());
    let spatial_shape: Vec<Dim> = (0..slides.len()).map(|k| x.shape[batch.len() + k].clone()).collect();
    let mut shape = vec![size(&batch)];
    shape.extend(spatial_shape);
    shape.push(size(&groups).mul(&size(&channels)));
    let x = cx.reshaped(&x, &shape);
    let w_plain: Vec<(usize, IxId)> = w_ids.iter().copied().enumerate().collect();
    let w = part(cx, e, w, &w_plain);
    let order: Vec<IxId> = taps.iter().chain(&channels).chain(&groups).chain(&out_channels).copied().collect();
    let perm: Vec<usize> = order.iter().filter_map(|id| w_ids.iter().position(|w| w == id)).collect();
    let w = cx.permuted(&w, &perm);
    let mut shape: Vec<Dim> = taps.iter().map(|&id| e.extent(id)).collect();
    shape.push(size(&channels));
    shape.push(size(&groups).mul(&size(&out_channels)));
    let w = cx.reshaped(&w, &shape);
    let zeros = vec![Dim::zero(); slides.len()];
    let g = Geometry {
        stride: slides.iter().map(|s| s.stride).collect(),
        dilation: slides.iter().map(|s| s.dilation).collect(),
        pad_lo: zeros.clone(),
        pad_hi: zeros,
        groups: size(&groups).known().unwrap_or(1) as usize,
        output: outs.iter().map(|&id| e.extent(id)).collect(),
    };
    let y = convolve(cx, &x, &w, &g);
    let axes: Vec<IxId> = batch.into_iter().chain(outs).chain(groups).chain(out_channels).collect();
    let shape: Vec<Dim> = axes.iter().map(|&id| e.extent(id)).collect();
    let array = cx.reshaped(&y, &shape);
    Some(Term::Indexed { array, axes, weak: false })
}

/// The part of an array that plainly indexed axes cover: given extents may be smaller.
fn part(cx: &mut Cx, e: &Extents, x: &Array, plain: &[(usize, IxId)]) -> Array {
    let mut x = x.clone();
    for (axis, id) in plain {
        let n = e.extent(*id);
        if x.shape[*axis] != n {
            x = cx.sliced(&x, *axis, &Dim::zero(), &n, 1);
        }
    }
    x
}
