//! Differentiation of graphs: forward mode, and reverse mode by linearizing and transposing.
//!
//! Linearization (`linearize`, `control`) copies a graph and puts beside every value that matters its tangent, which is a linear
//! function of the tangents of the inputs; one row per operation, and for scalar operations the table in [`scalar`].
//! Transposition (`transpose`) reads the linear nodes backward. Every result is an ordinary graph, so derivatives of derivatives
//! need nothing of their own.
//!
//! A loop is split in two for reverse mode: the loop itself, which also stacks what its linear part needs (`residual`), and a
//! linear loop, which is transposed into one that runs backward; with a run-time number of passes it computes values anew instead
//! (`replay`). A loop that ends by a flag becomes one of as many passes as it makes at most (`bounded`). A conditional likewise hands its branches' residuals to a linear conditional.
//!
//! Tangents that are zero are never built, and cotangents are summed in a fixed order (`cotangent`).

mod activity;
mod bounded;
mod control;
mod cotangent;
mod cut;
mod fission;
mod library;
mod linearize;
mod replay;
mod residual;
pub mod scalar;
mod swap;
#[cfg(test)]
mod tests;
mod transpose;
mod transpose_control;

use cotangent::Contribution;
use cut::{depends, derived, extract};
use linearize::{Linearized, Mode, linearize};
use optc_base::Code;
use optc_ir::graph::{CallOp, Graph, NodeId, Origin};
use std::fmt;
use std::sync::Arc;

/// Why a graph cannot be differentiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffError {
    /// What kind of obstacle.
    pub code: Code,
    /// What stands in the way, as a sentence without a final period.
    pub message: String,
    /// The operation in question.
    pub origin: Origin,
}

impl fmt::Display for DiffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for DiffError {}

/// Forward mode. Inputs of the result are `f`'s inputs, then one tangent per index in `wrt` (float inputs); outputs are `f`'s
/// outputs, then one tangent per float output, in order, zeros where none.
///
/// # Errors
/// If `wrt` names an input that is not a float or names one twice.
pub fn jvp(f: &Graph, wrt: &[usize]) -> Result<Graph, DiffError> {
    let floats = float_outputs(f);
    let Linearized { mut g, inputs, input_tangents, mut outputs, output_tangents } = linearize(f, &marked(f, wrt)?, &floats, Mode::Joint)?;
    let tangents = wrt.iter().filter_map(|&i| input_tangents[i]);
    let all: Vec<NodeId> = inputs.iter().copied().chain(tangents).collect();
    for k in (0..floats.len()).filter(|&k| floats[k]) {
        let tangent = output_tangents[k].unwrap_or_else(|| zeros_like(&mut g, outputs[k]));
        outputs.push(tangent);
    }
    Ok(extract(&g, &all, &outputs))
}

/// Reverse mode. Inputs of the result are `f`'s inputs, then one cotangent per float output of `f`, in order; outputs are `f`'s
/// outputs, then one cotangent per index in `wrt` (float inputs), zeros where no output depends on it.
///
/// # Errors
/// If `wrt` names an input that is not a float or names one twice.
///
/// # Cost
/// The values once, with the residuals of loops stacked, and about twice the work of `f` for the cotangents. A loop with a
/// run-time number of passes has nowhere to stack: unless it is linear in what it carries, its cotangents take work quadratic in
/// the number of passes.
pub fn vjp(f: &Graph, wrt: &[usize]) -> Result<Graph, DiffError> {
    let floats = float_outputs(f);
    let of: Vec<usize> = (0..floats.len()).filter(|&k| floats[k]).collect();
    vjp_of(f, wrt, &of)
}

/// As [`vjp`], with cotangents for the (float) outputs in `of` only: the others are constants as far as the derivative goes, and
/// cost nothing.
///
/// # Errors
/// As [`vjp`].
pub fn vjp_of(f: &Graph, wrt: &[usize], of: &[usize]) -> Result<Graph, DiffError> {
    let floats = float_outputs(f);
    assert!(of.iter().all(|&k| floats[k]), "compiler bug: a cotangent for an output that is no float");
    let needed: Vec<bool> = (0..floats.len()).map(|k| of.contains(&k)).collect();
    let Linearized { mut g, inputs, input_tangents, mut outputs, output_tangents } = linearize(f, &marked(f, wrt)?, &needed, Mode::Split)?;
    let linear = depends(&g, input_tangents.iter().flatten().copied());
    let mut all = inputs;
    let mut seeds = Vec::new();
    for &k in of {
        let (ty, origin) = (g.ty(outputs[k]).clone(), derived(g.origin(outputs[k])));
        let ct = g.input(format!("ct{k}"), ty, origin);
        all.push(ct);
        seeds.extend(output_tangents[k].map(|tangent| (tangent, Contribution::Whole(ct))));
    }
    let targets: Vec<NodeId> = wrt.iter().filter_map(|&i| input_tangents[i]).collect();
    let cotangents = transpose::transpose(&mut g, linear, seeds, &targets)?;
    for (target, cotangent) in targets.into_iter().zip(cotangents) {
        let cotangent = cotangent.unwrap_or_else(|| zeros_like(&mut g, target));
        outputs.push(cotangent);
    }
    Ok(extract(&g, &all, &outputs))
}

/// `f` as a call whose reverse rule computes it anew from its operands instead of keeping intermediate values: a loop over such
/// calls stacks only their operands.
///
/// # Errors
/// As [`vjp`].
pub fn checkpoint(name: &str, f: Arc<Graph>) -> Result<CallOp, DiffError> {
    let types = f.input_types();
    let wrt: Vec<usize> = (0..types.len()).filter(|&i| types[i].dtype.is_float()).collect();
    let derivative = vjp(&f, &wrt)?;
    // A rule is also given the results, which this one does not read, and has a cotangent for everything, floats or not.
    let mut rule = Graph::new();
    let mut args = Vec::new();
    for (i, input) in f.inputs.iter().enumerate() {
        args.push(rule.input(input.name.clone(), types[i].clone(), f.origin(input.node)));
    }
    for (k, &out) in f.outputs.iter().enumerate() {
        rule.input(format!("result{k}"), f.ty(out).clone(), f.origin(out));
    }
    for (k, &out) in f.outputs.iter().enumerate() {
        let ct = rule.input(format!("ct{k}"), f.ty(out).clone(), derived(f.origin(out)));
        if f.ty(out).dtype.is_float() {
            args.push(ct);
        }
    }
    let results = rule.inline(&derivative, &args, "");
    let mut cotangents = results[f.outputs.len()..].iter().copied();
    for (input, ty) in f.inputs.iter().zip(&types) {
        let cotangent = if ty.dtype.is_float() { cotangents.next() } else { None };
        let cotangent = cotangent.unwrap_or_else(|| rule.splat(ty, 0.0, derived(f.origin(input.node))));
        rule.outputs.push(cotangent);
    }
    Ok(CallOp { name: name.to_string(), body: f, vjp: Some(Arc::new(rule)) })
}

fn float_outputs(f: &Graph) -> Vec<bool> {
    f.outputs.iter().map(|&o| f.ty(o).dtype.is_float()).collect()
}

/// The inputs in `wrt` as flags.
fn marked(f: &Graph, wrt: &[usize]) -> Result<Vec<bool>, DiffError> {
    let mut out = vec![false; f.inputs.len()];
    for &i in wrt {
        let input = &f.inputs[i];
        let ty = f.ty(input.node);
        let fail = |message| DiffError { code: Code("E0720"), message, origin: f.origin(input.node) };
        if !ty.dtype.is_float() {
            return Err(fail(format!("there is no derivative in `{}`, which is {ty}: only floats have one", input.name)));
        }
        if std::mem::replace(&mut out[i], true) {
            return Err(fail(format!("the derivative in `{}` is asked for twice", input.name)));
        }
    }
    Ok(out)
}

fn zeros_like(g: &mut Graph, id: NodeId) -> NodeId {
    let (ty, origin) = (g.ty(id).clone(), derived(g.origin(id)));
    g.splat(&ty, 0.0, origin)
}
