//! What a plan's instructions do with inputs that live in files: which bytes a pass of a kernel touches, so that the runtime can read them ahead and write them behind.

use optc_abi::offload::{Reach, Touch};
use optc_abi::plan::{Instr, KernelCall, Plan};
use optc_ir::kernel::{Access, AxisId, Expr, Extent, Index, Kernel, LOCAL, LoopKind, NamedKernel, Stmt};
use std::collections::BTreeMap;

/// Passes may read this many times what they advance by (a halo) and still count as going through an array in order.
const OVERLAP: i64 = 2;

/// One entry for each outermost instruction that uses an input of `offloaded`.
pub(crate) fn touches(plan: &Plan, kernels: &[NamedKernel], offloaded: &[usize]) -> Vec<Touch> {
    let mut out = Vec::new();
    let mut number = 0;
    for (position, instr) in plan.code.iter().enumerate() {
        let mut touch = Touch { instr: number, position, calls: Vec::new(), anywhere: Vec::new() };
        number += 1 + instr.inner();
        if let Instr::Kernel { kernel, calls } = instr {
            kernel_touch(plan, &kernels[*kernel].kernel, calls, offloaded, &mut touch);
        } else {
            instr.references(&mut |place, writes| {
                if let Some(input) = plan.input_of(place.buffer).filter(|k| offloaded.contains(k)) {
                    anywhere(&mut touch, input, writes);
                }
            });
        }
        if !touch.calls.is_empty() || !touch.anywhere.is_empty() {
            out.push(touch);
        }
    }
    out
}

fn anywhere(touch: &mut Touch, input: usize, writes: bool) {
    match touch.anywhere.iter_mut().find(|(k, _)| *k == input) {
        Some((_, w)) => *w |= writes,
        None => touch.anywhere.push((input, writes)),
    }
}

fn kernel_touch(plan: &Plan, kernel: &Kernel, calls: &[KernelCall], offloaded: &[usize], touch: &mut Touch) {
    let mut streams = Vec::new();
    for call in calls {
        let places = places(kernel, &call.sizes);
        // All parameters that are one input are taken together: in-place updates read and write by two of them.
        let mut inputs: BTreeMap<usize, (bool, Option<Reach>)> = BTreeMap::new();
        for (k, (param, place)) in kernel.buffers.iter().zip(&call.buffers).enumerate() {
            let Some(input) = plan.input_of(place.buffer).filter(|i| offloaded.contains(i)) else { continue };
            let writes = param.access != Access::Read;
            let size = param.dtype.size() as i64;
            let reach = places[k].as_ref().filter(|_| place.steps.is_empty()).map(|p| Reach {
                input,
                writes,
                first: place.offset + p.low * size,
                last: place.offset + (p.high + 1) * size,
                step: p.step * size,
            });
            let joined = match (inputs.remove(&input), reach) {
                (None, reach) => (writes, reach),
                (Some((w, Some(a))), Some(b)) if a.step == b.step => {
                    (w | writes, Some(Reach { writes: w | writes, first: a.first.min(b.first), last: a.last.max(b.last), ..a }))
                }
                (Some((w, _)), _) => (w | writes, None),
            };
            inputs.insert(input, joined);
        }
        let mut reaches = Vec::new();
        for (input, (writes, reach)) in inputs {
            match reach.filter(|r| in_order(r, call.range)) {
                Some(r) => reaches.push(r),
                None => anywhere(touch, input, writes),
            }
        }
        streams.push(reaches);
    }
    // An array that another call of the instruction uses anywhere stays whole.
    for reaches in &mut streams {
        reaches.retain(|r| touch.anywhere.iter().all(|(k, _)| *k != r.input));
    }
    let mut several: BTreeMap<usize, usize> = BTreeMap::new();
    streams.iter().flatten().filter(|r| r.writes).for_each(|r| *several.entry(r.input).or_default() += 1);
    let overlap = |input: usize| {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for (reaches, call) in streams.iter().zip(calls) {
            ranges.extend(reaches.iter().filter(|r| r.input == input).map(|r| (r.first, r.last + r.step * (call.range - 1).max(0))));
        }
        ranges.sort_unstable();
        ranges.windows(2).any(|w| w[1].0 < w[0].1)
    };
    let torn: Vec<usize> = several.into_iter().filter(|&(input, n)| n > 1 && overlap(input)).map(|(input, _)| input).collect();
    for input in torn {
        streams.iter_mut().for_each(|r| r.retain(|r| r.input != input));
        anywhere(touch, input, true);
    }
    if streams.iter().any(|r| !r.is_empty()) {
        touch.calls = streams;
    }
}

/// Whether passes go through the array without coming back, and, where they write, without meeting.
fn in_order(r: &Reach, range: i64) -> bool {
    let width = r.last - r.first;
    range <= 1 || (r.step > 0 && width <= if r.writes { r.step } else { OVERLAP * r.step })
}

/// Elements of a buffer that pass `p` of the parallel loop touches: `low + step * p ..= high + step * p`.
#[derive(Clone, Copy)]
struct Elements {
    low: i64,
    high: i64,
    step: i64,
}

/// For each buffer parameter the elements a pass touches; none if that depends on values.
fn places(kernel: &Kernel, sizes: &[i64]) -> Vec<Option<Elements>> {
    let mut walk = Walk { sizes, parallel: None, extents: vec![0; kernel.axes], places: vec![Known::Nothing; kernel.buffers.len()] };
    walk.block(&kernel.body);
    let known = |k: &Known| match k {
        Known::Range(e) => Some(*e),
        Known::Nothing | Known::Anywhere => None,
    };
    walk.places.iter().map(known).collect()
}

#[derive(Clone, Copy)]
enum Known {
    /// Not touched so far.
    Nothing,
    /// These elements.
    Range(Elements),
    /// What is touched depends on values.
    Anywhere,
}

struct Walk<'a> {
    sizes: &'a [i64],
    parallel: Option<AxisId>,
    extents: Vec<i64>,
    places: Vec<Known>,
}

impl Walk<'_> {
    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { axis, extent, kind, body } => {
                    self.extents[*axis] = match extent {
                        Extent::Const(n) => *n,
                        Extent::Size(s) => self.sizes[*s],
                    };
                    if *kind == LoopKind::Parallel {
                        self.parallel = Some(*axis);
                    }
                    if self.extents[*axis] > 0 {
                        self.block(body);
                    }
                }
                Stmt::Let { expr: Expr::Load { buffer, index, .. }, .. } | Stmt::Store { buffer, index, .. } => self.touch(*buffer, index),
                _ => {}
            }
        }
    }

    fn touch(&mut self, buffer: usize, index: &Index) {
        if buffer >= LOCAL {
            return;
        }
        let sized = index.sized.iter().map(|&(axis, stride, size)| (axis, stride * self.sizes[size]));
        let (mut low, mut high, mut step) = (index.offset, index.offset, 0);
        for (axis, stride) in index.axes.iter().copied().chain(sized) {
            if Some(axis) == self.parallel {
                step += stride;
                continue;
            }
            let far = stride * (self.extents[axis] - 1);
            low += far.min(0);
            high += far.max(0);
        }
        let place = &mut self.places[buffer];
        *place = match *place {
            _ if !index.values.is_empty() || step < 0 => Known::Anywhere,
            Known::Nothing => Known::Range(Elements { low, high, step }),
            Known::Range(e) if e.step == step => Known::Range(Elements { low: e.low.min(low), high: e.high.max(high), step }),
            Known::Range(_) | Known::Anywhere => Known::Anywhere,
        };
    }
}
