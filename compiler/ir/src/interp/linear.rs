//! Matrix products and convolutions, straight from their definitions.

use super::movement::for_each_position;
use super::value::{Data, Value};
use crate::build::strides;
use crate::graph::{DotDims, Ty};
use optc_abi::plan::{ConvDims, ConvKind};

/// The operand as a dense `[batch, free, contract]` or, if `contract_first`, `[batch, contract, free]` array, with these three sizes.
fn matrix(x: &Value, batch: &[usize], contract: &[usize], contract_first: bool) -> (Vec<f64>, [usize; 3]) {
    let free: Vec<usize> = (0..x.ty.rank()).filter(|i| !batch.contains(i) && !contract.contains(i)).collect();
    let (second, third) = if contract_first { (contract, &free[..]) } else { (&free[..], contract) };
    let order: Vec<usize> = batch.iter().chain(second).chain(third).copied().collect();
    let from = strides(&x.ty.shape);
    let shape: Vec<usize> = order.iter().map(|&a| x.ty.shape[a]).collect();
    let steps: Vec<isize> = order.iter().map(|&a| from[a] as isize).collect();
    let source = x.floats();
    let mut out = Vec::with_capacity(source.len());
    for_each_position(&shape, 0, &steps, |at| out.push(source[at]));
    let size = |axes: &[usize]| axes.iter().map(|&a| x.ty.shape[a]).product();
    (out, [size(batch), size(&free), size(contract)])
}

pub fn dot(a: &Value, b: &Value, dims: &DotDims, ty: &Ty) -> Value {
    let (left, [batch, m, k]) = matrix(a, &dims.lhs_batch, &dims.lhs_contract, false);
    let (right, [_, n, _]) = matrix(b, &dims.rhs_batch, &dims.rhs_contract, true);
    let mut out = vec![0.0; batch * m * n];
    for bi in 0..batch {
        for i in 0..m {
            let row = &mut out[(bi * m + i) * n..(bi * m + i + 1) * n];
            for p in 0..k {
                let scale = left[(bi * m + i) * k + p];
                let other = &right[(bi * k + p) * n..(bi * k + p + 1) * n];
                for (cell, value) in row.iter_mut().zip(other) {
                    *cell += scale * value;
                }
            }
        }
    }
    Value { ty: ty.clone(), data: Data::Float(out) }
}

pub fn conv(kind: ConvKind, d: &ConvDims, lhs: &Value, rhs: &Value, ty: &Ty) -> Value {
    let (lhs, rhs) = (lhs.floats(), rhs.floats());
    let mut out = vec![0.0; ty.len()];
    let (group_in, group_out) = (d.in_channels / d.groups, d.out_channels / d.groups);
    let volume = |extents: &[usize]| extents.iter().product::<usize>();
    let (volume_in, volume_out) = (volume(&d.input), volume(&d.output));
    // Every place of the output meets every place of the filter; `spatial` is the input place, if not in the padding.
    for t in 0..volume_out {
        for k in 0..volume(&d.filter) {
            let Some(spatial) = input_place(d, t, k) else { continue };
            for n in 0..d.batch {
                for c_in_group in 0..group_in {
                    for o in 0..d.out_channels {
                        let c = o / group_out * group_in + c_in_group;
                        let x = (n * volume_in + spatial) * d.in_channels + c;
                        let w = (k * group_in + c_in_group) * d.out_channels + o;
                        let y = (n * volume_out + t) * d.out_channels + o;
                        match kind {
                            ConvKind::Forward => out[y] += lhs[x] * rhs[w],
                            ConvKind::InputGrad => out[x] += lhs[y] * rhs[w],
                            ConvKind::FilterGrad => out[w] += lhs[x] * rhs[y],
                        }
                    }
                }
            }
        }
    }
    Value { ty: ty.clone(), data: Data::Float(out) }
}

/// Row-major place in the input that output place `t` reads through filter place `k`.
fn input_place(d: &ConvDims, mut t: usize, mut k: usize) -> Option<usize> {
    let mut place = 0;
    let mut scale = 1;
    for axis in (0..d.input.len()).rev() {
        let at = (t % d.output[axis] * d.stride[axis] + k % d.filter[axis] * d.dilation[axis]).checked_sub(d.pad_lo[axis])?;
        if at >= d.input[axis] {
            return None;
        }
        place += at * scale;
        scale *= d.input[axis];
        t /= d.output[axis];
        k /= d.filter[axis];
    }
    Some(place)
}
