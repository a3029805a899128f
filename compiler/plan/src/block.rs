//! One graph to a list of instructions: kernels and library calls as units of work, their order, and who writes where.

use crate::carry::carry;
use crate::emit::{Emitter, Slot};
use crate::group::{Grouping, group, is_splat};
use crate::index::Idx;
use crate::lin::Lin;
use crate::loops::combine;
use crate::net::{CHUNK, N, Net};
use crate::remat::rematerialize;
use crate::rows::{self, Class};
use crate::schedule::{Claim, Guarded, Read, Unit, Write, order};
use crate::seq::SMALL_NS;
use crate::stage::{CallShape, Emitted, NS_PER_OP, chunk_calls, emit_group, finish};
use crate::{dot, store::Store};
use optc_abi::DType;
use optc_abi::plan::{BufRef, Conv, Instr, KernelCall, LibCall, LibDims, LibOp, LoopId, Trip};
use optc_abi::tensor::ALIGN;
use optc_ir::Op;
use optc_ir::build::strides;
use optc_ir::graph::{LoopOp, NodeTy, ReduceOp, ScatterMode, Ty};
use optc_ir::infer::infer;
use optc_ir::kernel::{Access, Extent, LoopKind};
use rustc_hash::FxHashMap;

/// Where a result of a block must be at its end.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub memory: BufRef,
    /// The input whose memory that is.
    pub alias: Option<usize>,
    /// It is the new value of a leaf though it overwrites none: made element by element in kernels that all leaves share.
    pub update: bool,
}

/// Outputs of a block of which something is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// Must be finite before anything aliased is overwritten.
    pub guards: &'a [usize],
    /// Must be finite where they are written.
    pub watch: &'a [usize],
}

/// Plans one graph. `inputs` are the places of its inputs, `targets` those of its outputs.
pub(crate) fn plan_block(
    store: &mut Store,
    mut net: Net,
    inputs: &[BufRef],
    targets: &[Target],
    asked: Asked<'_>,
    within: Option<LoopId>,
) -> Vec<Instr> {
    carry(&mut net, &targets.iter().map(|t| t.alias).collect::<Vec<_>>());
    let updates = |net: &Net| -> Vec<N> {
        targets.iter().zip(&net.outputs).filter(|(t, _)| t.update || t.alias.is_some()).map(|(_, &o)| o).collect()
    };
    let aliased = updates(&net);
    crate::positions::part(&mut net, &aliased);
    let mut grouping = group(&net, &updates(&net));
    rematerialize(&mut net, &mut grouping);
    grouping.watched = vec![false; net.nodes.len()];
    for &k in asked.watch {
        let node = net.outputs[k];
        grouping.watched[node] = net.nodes[node].ty.dtype.is_float() && !matches!(net.nodes[node].op, Op::Input { .. });
    }
    let net = &net;
    let overwritten = targets.iter().zip(&net.outputs).filter_map(|(t, &o)| t.alias.map(|i| (o, net.inputs[i]))).collect();
    let places = vec![None; net.nodes.len()];
    let mut block = Block { store, net, grouping: &grouping, overwritten, places, units: Vec::new(), within };
    for (&node, place) in net.inputs.iter().zip(inputs) {
        block.places[node] = Some(place.clone());
    }
    block.emit_units();
    block.watch_rest();
    let claims = block.settle(targets, asked.guards);
    let units = std::mem::take(&mut block.units);
    let (code, copies) = order(block.store, net, units, claims, &block.places);
    let mut code = code;
    code.extend(copies);
    code
}

pub(crate) struct Block<'a> {
    pub store: &'a mut Store,
    pub net: &'a Net,
    pub grouping: &'a Grouping,
    /// Outputs that overwrite an input, with that input.
    pub overwritten: FxHashMap<N, N>,
    /// Memory of nodes.
    places: Vec<Option<BufRef>>,
    pub units: Vec<Unit>,
    /// The loop whose body this is.
    pub within: Option<LoopId>,
}

impl Block<'_> {
    pub fn bytes(&self, n: N) -> usize {
        self.net.len_of(n) * self.net.nodes[n].ty.dtype.size()
    }

    /// The memory of a node, made when first asked for.
    pub fn place(&mut self, n: N) -> BufRef {
        let n = self.net.strip(n);
        if let Some(place) = &self.places[n] {
            return place.clone();
        }
        let ty = &self.net.nodes[n].ty;
        let place = match &self.net.nodes[n].op {
            Op::Const(t) => BufRef::whole(self.store.constant(t)),
            _ => BufRef::whole(self.store.temporary(ty.dtype, ty.len(), self.within)),
        };
        self.places[n] = Some(place.clone());
        place
    }

    fn emit_units(&mut self) {
        let net = self.net;
        // Loops and conditionals first: they decide where their results are.
        for n in 0..net.nodes.len() {
            if self.grouping.class[n] != Class::Apart {
                continue;
            }
            let unit = match &net.nodes[n].op {
                Op::Dot(_) => self.product(n),
                Op::Attention(attention) => self.attention(n, attention),
                Op::Conv { .. } => self.convolution(n),
                Op::ArgSort { axis, descending } => self.sort(n, *axis, *descending),
                Op::RandomBits { start } => {
                    let operands = &net.nodes[n].operands;
                    self.library(n, LibOp::RandomBits { start: *start, len: net.len_of(n), skips: operands.len() > 1 }, operands)
                }
                Op::RandomFold { place } => {
                    let number = rows::known_number(net, n);
                    let operands = &net.nodes[n].operands[..if number.is_some() { 1 } else { 2 }];
                    self.library(n, LibOp::RandomFold { place: *place, number }, operands)
                }
                Op::Lib(call) => self.numeric(n, *call),
                Op::Callback { function, results } => self.callback(n, *function, results),
                Op::AllReduce => self.all_reduce(n),
                Op::Scatter { axis, mode } => self.scatter(n, *axis, *mode),
                Op::Swap => self.swap(n),
                Op::Loop(l) => self.counted(n, l),
                Op::Cond { then, otherwise } => self.branch(n, then, otherwise),
                op => panic!("compiler bug: {op:?} has no instruction"),
            };
            self.units.push(unit);
        }
        for g in 0..self.grouping.groups.len() {
            // Members that are all computed again elsewhere need no kernel.
            let needed = |&m: &N| self.grouping.stored[m] || self.grouping.class[m] == Class::Staged;
            if !self.grouping.groups[g].members.iter().any(needed) {
                continue;
            }
            let emitted = emit_group(net, self.grouping, g, &mut self.store.origins);
            let key = *self.grouping.groups[g].members.last().expect("a group has members");
            let unit = self.kernel_unit(emitted, key);
            self.units.push(unit);
        }
    }

    /// Makes memory for what a kernel reads and writes, and the instruction.
    pub fn kernel_unit(&mut self, emitted: Emitted, key: N) -> Unit {
        let net = self.net;
        let mut unit = Unit::new(key);
        unit.small = emitted.ns <= SMALL_NS && emitted.calls.len() == 1;
        let mut places = Vec::new();
        for (k, slot) in emitted.slots.iter().enumerate() {
            let access = emitted.kernel.buffers[k].access;
            match *slot {
                Slot::Node(n) => {
                    let place = self.place(n);
                    let mine = access != Access::Read;
                    if mine {
                        unit.writes.push(Write { node: n, call: 0, first: emitted.times[k].1 });
                    } else {
                        unit.reads.push(Read { node: n, call: 0, aligned: emitted.aligned[k], last: emitted.times[k].0 });
                    }
                    // How far a chunk reaches in a flat kernel: whole chunks of arrays, one element of partial results, nothing of scalars.
                    let len = net.len_of(n);
                    let stride = if emitted.flat == 0 || len == 1 && emitted.flat != 1 {
                        0
                    } else if len == emitted.flat {
                        CHUNK
                    } else {
                        1
                    };
                    places.push((place, stride * net.nodes[n].ty.dtype.size()));
                }
                Slot::Row(_) => panic!("compiler bug: a local array among the parameters"),
                Slot::Scratch(s) => {
                    let (dtype, len) = emitted.scratch[s];
                    places.push((BufRef::whole(self.store.temporary(dtype, len, self.within)), 0));
                }
            }
        }
        let calls = emitted
            .calls
            .iter()
            .map(|c| KernelCall {
                buffers: places.iter().map(|(p, stride)| BufRef { offset: p.offset + (c.skip * stride) as i64, ..p.clone() }).collect(),
                sizes: c.sizes.clone(),
                range: c.range,
                grain: c.grain,
            })
            .collect();
        let kernel = self.store.kernel(emitted.kernel, emitted.name, net.nodes[emitted.main].origin, emitted.ns, emitted.flat);
        unit.flat = emitted.flat > 0;
        unit.code.push(Instr::Kernel { kernel, calls });
        unit
    }

    pub fn reads_all(&self, unit: &mut Unit, nodes: impl IntoIterator<Item = N>) {
        for n in nodes {
            unit.reads.push(Read { node: self.net.strip(n), call: 0, aligned: false, last: 0 });
        }
    }

    fn product(&mut self, n: N) -> Unit {
        let mut unit = Unit::new(n);
        let net = self.net;
        let operands = net.nodes[n].operands.clone();
        let mut sides = Vec::new();
        for o in operands {
            let view = dot::strided(net, &self.grouping.class, o)
                .unwrap_or_else(|| panic!("compiler bug: operand of a product that has no memory"));
            let place = self.place(view.base);
            self.reads_all(&mut unit, [view.base]);
            sides.push((view, place));
        }
        let dense = strides(&net.nodes[n].ty.shape);
        let mut c_strides: Vec<i64> = dense.iter().map(|&s| s as i64).collect();
        if let Some(layout) = &net.nodes[n].layout {
            layout.iter().zip(&dense).for_each(|(&axis, &stride)| c_strides[axis] = stride as i64);
        }
        let c = self.place(n);
        let (b, b_place) = sides.pop().expect("two operands");
        let (a, a_place) = sides.pop().expect("two operands");
        let gemm = dot::gemm(net, n, (&a, a_place), (&b, b_place), (&c_strides, c));
        unit.code.push(Instr::Gemm(gemm.unwrap_or_else(|| panic!("compiler bug: contracted axes that do not collapse"))));
        unit.writes.push(Write { node: n, call: 0, first: 0 });
        unit
    }

    fn convolution(&mut self, n: N) -> Unit {
        let Op::Conv { kind, dims } = &self.net.nodes[n].op else { panic!("compiler bug: no convolution") };
        let dtype = self.net.nodes[n].ty.dtype;
        let (x, y) = (self.net.nodes[n].operands[0], self.net.nodes[n].operands[1]);
        let mut unit = Unit::new(n);
        self.reads_all(&mut unit, [x, y]);
        let (lhs, rhs, out) = (self.place(x), self.place(y), self.place(n));
        let scratch = BufRef::whole(self.store.temporary(dtype, dims.scratch_len(*kind), self.within));
        unit.code.push(Instr::Conv(Conv { dtype, kind: *kind, dims: dims.clone(), lhs, rhs, out, scratch }));
        unit.writes.push(Write { node: n, call: 0, first: 0 });
        unit
    }

    fn sort(&mut self, n: N, axis: usize, descending: bool) -> Unit {
        let x = self.net.nodes[n].operands[0];
        let ty = &self.net.nodes[x].ty;
        assert!(axis + 1 == ty.rank(), "compiler bug: sorting along an axis that is not the last");
        let width = ty.shape[axis];
        let rows = ty.len() / width;
        self.library(n, LibOp::ArgSort { rows, n: width, descending }, &[x])
    }

    /// A library call; its type is that of the first operand.
    fn library(&mut self, n: N, op: LibOp, operands: &[N]) -> Unit {
        let mut unit = Unit::new(n);
        self.reads_all(&mut unit, operands.iter().copied());
        let buffers = operands.iter().chain([&n]).map(|&o| self.place(o)).collect();
        unit.code.push(Instr::Lib { op, dtype: self.net.nodes[operands[0]].ty.dtype, buffers });
        unit.writes.push(Write { node: n, call: 0, first: 0 });
        unit
    }

    /// An array leaves memory, or comes back.
    fn swap(&mut self, n: N) -> Unit {
        let (net, x) = (self.net, self.net.nodes[n].operands[0]);
        if net.comes_back(n) {
            let slot = self.store.swapped.iter().position(|&left| left == x).expect("compiler bug: what comes back has not left");
            let mut unit = self.library(n, LibOp::SwapIn { slot, bytes: self.bytes(n) }, &[x]);
            unit.comes_back = true;
            return unit;
        }
        self.store.swapped.push(n);
        self.library(n, LibOp::SwapOut { slot: self.store.swapped.len() - 1, bytes: self.bytes(x) }, &[x])
    }

    /// A numerical library call, with one result or several.
    fn numeric(&mut self, n: N, call: LibCall) -> Unit {
        let net = self.net;
        let operands = &net.nodes[n].operands;
        let types: Vec<NodeTy> = operands.iter().map(|&o| NodeTy::Array(net.nodes[o].ty.clone())).collect();
        let dims = LibDims::of(call, &net.nodes[operands[operands.len() - 1]].ty.shape);
        let op = LibOp::Call { call, dims };
        let results = match infer(&Op::Lib(call), &types.iter().collect::<Vec<_>>(), None) {
            Ok(NodeTy::Tuple(results)) => results,
            _ => return self.library(n, op, operands),
        };
        let mut unit = Unit::new(n);
        self.reads_all(&mut unit, operands.iter().copied());
        let results: Vec<BufRef> = results.iter().map(|t| BufRef::whole(self.store.temporary(t.dtype, t.len(), self.within))).collect();
        let buffers = operands.iter().map(|&o| self.place(o)).chain(results.iter().cloned()).collect();
        unit.code.push(Instr::Lib { op, dtype: net.nodes[operands[0]].ty.dtype, buffers });
        self.take_results(n, &results, &mut unit);
        unit
    }

    /// A call of a function outside of the plan, and a guard that ends the plan where it fails.
    fn callback(&mut self, n: N, function: u32, results: &[Ty]) -> Unit {
        let operands = &self.net.nodes[n].operands;
        let mut unit = Unit::new(n);
        self.reads_all(&mut unit, operands.iter().copied());
        let flag = BufRef::whole(self.store.temporary(DType::F64, 1, self.within));
        let results: Vec<BufRef> = results.iter().map(|t| BufRef::whole(self.store.temporary(t.dtype, t.len(), self.within))).collect();
        let operands: Vec<BufRef> = operands.iter().map(|&o| self.place(o)).collect();
        let buffers = std::iter::once(flag.clone()).chain(operands).chain(results.iter().cloned()).collect();
        unit.code.push(Instr::Lib { op: LibOp::Callback { function }, dtype: DType::F64, buffers });
        unit.code.push(Instr::Guard { value: flag, dtype: DType::F64 });
        self.take_results(n, &results, &mut unit);
        unit
    }

    /// A scatter changes its result in place, after the old array has been copied there; the copy goes when both are one memory.
    fn scatter(&mut self, n: N, axis: usize, mode: ScatterMode) -> Unit {
        let net = self.net;
        let node = &net.nodes[n];
        let (x, ids, updates) = (node.operands[0], node.operands[1], node.operands[2]);
        let shape = &node.ty.shape;
        let (before, extent, after): (usize, usize, usize) =
            (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product());
        let count = net.len_of(ids);
        let mut first = None;
        if is_splat(net, x) {
            first = Some(self.fill(n, x));
        }
        let mut e = Emitter::new(net, self.grouping, None, &mut self.store.origins);
        let out = e.buffer(Slot::Node(n), Access::ReadWrite);
        let dtype = e.dtype(n);
        let done = e.nest(&[count], LoopKind::Serial, &mut |e, which| {
            let index = e.checked(ids, &Idx::Flat(which[0].clone()), extent, n, None)?;
            e.nest(&[before, after], LoopKind::Vector, &mut |e, at| {
                let to = at[0].scaled(extent as i64).add_scaled(&index, 1).scaled(after as i64).add_scaled(&at[1], 1);
                let from = at[0].scaled(count as i64).add_scaled(&which[0], 1).scaled(after as i64).add_scaled(&at[1], 1);
                let mut value = e.emit(updates, &Idx::Flat(from), None)?;
                if mode == ScatterMode::Add {
                    let old = e.b.load_here(out, dtype, &to);
                    value = e.b.map(combine(ReduceOp::Sum), dtype, &[old, value]);
                }
                e.b.store(out, &to, value);
                Ok(())
            })
        });
        if let Err(misfit) = done {
            panic!("compiler bug: no loop owns the axis of {misfit:?}");
        }
        let ns = (net.len_of(updates) * 2 + count * 4) as f64 * NS_PER_OP;
        let calls = vec![CallShape { sizes: Vec::new(), range: 1, grain: 1, skip: 0 }];
        let emitted = finish(e, calls, 0, ns, format!("scatter.{}x{}", count, before * after), n);
        let mut unit = self.kernel_unit(emitted, n);
        match first {
            Some(fill) => unit.code.insert(0, fill),
            None => {
                let (src, dst) = (self.place(x), self.place(n));
                unit.code.insert(0, Instr::Copy { src, dst, bytes: self.bytes(n) });
                let x = net.strip(x);
                // Only the copy reads the old array, so the result may take its place.
                unit.reads.push(Read { node: x, call: 0, aligned: true, last: 0 });
            }
        }
        unit.writes.iter_mut().for_each(|w| w.first = 1);
        unit
    }

    /// Fills the memory of `n` with the literal `x` repeats.
    fn fill(&mut self, n: N, x: N) -> Instr {
        let net = self.net;
        let mut literal = x;
        while !matches!(net.nodes[literal].op, Op::Const(_)) {
            literal = net.nodes[literal].operands[0];
        }
        let (float, int) = net.splat_value(literal).expect("a splat");
        let len = net.len_of(n);
        let mut e = Emitter::new(net, self.grouping, None, &mut self.store.origins);
        e.b.kernel.sizes = 2;
        let out = e.buffer(Slot::Node(n), Access::Write);
        let dtype = e.dtype(n);
        let chunk = e.b.open(Extent::Size(1), LoopKind::Parallel);
        let i = e.b.open(Extent::Size(0), LoopKind::Vector);
        let value = e.b.literal(dtype, float, int);
        e.b.store(out, &Lin::axis(chunk).scaled(CHUNK as i64).add_scaled(&Lin::axis(i), 1), value);
        e.b.close();
        e.b.close();
        let ns = len as f64 * NS_PER_OP;
        let emitted = finish(e, chunk_calls(len, 8), len, ns, format!("fill.{}", node_dims(net, n)), n);
        let mut unit = self.kernel_unit(emitted, n);
        unit.code.pop().expect("one instruction")
    }

    fn counted(&mut self, n: N, l: &LoopOp) -> Unit {
        let net = self.net;
        let operands = net.nodes[n].operands.clone();
        let skip = usize::from(l.trip.is_none());
        let args = &operands[skip..];
        let mut unit = Unit::new(n);
        let id = self.store.new_loop();
        if l.trip.is_none() {
            self.reads_all(&mut unit, [operands[0]]);
        }
        let counter = BufRef::whole(self.store.temporary(DType::I32, 1, self.within));
        let body = net.inside(&l.body);
        let mut inputs = vec![counter.clone()];
        let mut targets = Vec::new();
        let mut results = Vec::new();
        for (k, &arg) in args.iter().enumerate() {
            let place = self.place(arg);
            let node = net.strip(arg);
            let ty = &net.nodes[arg].ty;
            if k < l.carried {
                let own = BufRef::whole(self.store.temporary(ty.dtype, ty.len(), self.within));
                unit.code.push(Instr::Copy { src: place, dst: own.clone(), bytes: self.bytes(arg) });
                unit.reads.push(Read { node, call: k, aligned: true, last: 0 });
                targets.push(Target { memory: own.clone(), alias: Some(k + 1), update: false });
                results.push(own.clone());
                inputs.push(own);
            } else if k < l.carried + l.scanned {
                unit.reads.push(Read { node, call: usize::MAX, aligned: false, last: 0 });
                let slice = self.bytes(arg) / l.trip.unwrap_or(1).max(1);
                let mut steps = place.steps.clone();
                steps.push((id, slice as i64));
                inputs.push(BufRef { steps, ..place });
            } else {
                unit.reads.push(Read { node, call: usize::MAX, aligned: false, last: 0 });
                inputs.push(place);
            }
        }
        let trip_count = l.trip.unwrap_or(0);
        for ty in &l.body.output_types()[l.carried..] {
            let own = BufRef::whole(self.store.temporary(ty.dtype, ty.len() * trip_count, self.within));
            let mut slice = own.clone();
            slice.steps.push((id, (ty.len() * ty.dtype.size()) as i64));
            targets.push(Target { memory: slice, alias: None, update: false });
            results.push(own);
        }
        let trip = match (l.trip, l.guard) {
            (Some(count), _) => Trip::Const(count),
            (None, None) => Trip::Run(self.place(operands[0])),
            // The first carried value is the flag.
            (None, Some(_)) => Trip::While { go: results[0].clone(), most: self.place(operands[0]) },
        };
        if l.trip != Some(0) {
            let watch = self.watched_results(n);
            let code = plan_block(self.store, body, &inputs, &targets, Asked { guards: &[], watch: &watch }, Some(id));
            unit.code.push(Instr::Loop { id, trip, reverse: l.reverse, counter, body: code });
        }
        self.take_results(n, &results, &mut unit);
        unit
    }

    /// The nodes that stand for the results of a tuple node.
    pub fn results_of(&self, n: N) -> Vec<N> {
        let of = |r: &N| matches!(self.net.nodes[*r].op, Op::Result { .. }) && self.net.nodes[*r].operands[0] == n;
        (n + 1..self.net.nodes.len()).filter(of).collect()
    }

    /// Gives the results of a tuple node their memory.
    pub fn take_results(&mut self, n: N, results: &[BufRef], unit: &mut Unit) {
        for r in self.results_of(n) {
            if let Op::Result { index } = self.net.nodes[r].op {
                self.places[r] = Some(results[index].clone());
                unit.writes.push(Write { node: r, call: index, first: 1 });
            }
        }
    }

    /// Decides how every output gets to its place: written there at once, or copied at the end.
    fn settle(&mut self, targets: &[Target], guards: &[usize]) -> Settled {
        let net = self.net;
        let mut producer: Vec<Option<usize>> = vec![None; net.nodes.len()];
        for (u, unit) in self.units.iter().enumerate() {
            unit.writes.iter().for_each(|w| producer[w.node] = Some(u));
        }
        let mut settled = Settled { claims: Vec::new(), copies: Vec::new(), guards: Vec::new() };
        for &g in guards {
            let node = net.outputs[g];
            let value = self.place(node);
            let guard = Instr::Guard { value, dtype: net.nodes[node].ty.dtype };
            let failed = self.units.iter().any(|u| !u.in_place.is_empty()).then(|| self.failed(node));
            settled.guards.push(Guarded { node, guard, failed });
        }
        let overwritten: Vec<N> = targets.iter().filter_map(|t| t.alias).map(|i| net.inputs[i]).collect();
        let mut taken = vec![false; net.nodes.len()];
        for (target, &node) in targets.iter().zip(&net.outputs) {
            let bytes = self.bytes(node);
            if bytes == 0 {
                continue;
            }
            let input = target.alias.map(|i| net.inputs[i]);
            if input == Some(node) {
                continue;
            }
            if let Some(unit) = producer[node]
                && !taken[node]
                && !self.is_sum_of_devices(node)
                && input.is_none_or(|i| self.may_overwrite(unit, node, i))
            {
                taken[node] = true;
                settled.claims.push(Claim { node, unit, input, memory: target.memory.clone(), bytes });
                continue;
            }
            let mut src = self.place(node);
            if overwritten.contains(&node) {
                // The old value of an input that is overwritten too: saved first.
                let ty = &net.nodes[node].ty;
                let saved = BufRef::whole(self.store.temporary(ty.dtype, ty.len(), self.within));
                let mut unit = Unit::new(net.nodes.len());
                unit.code.push(Instr::Copy { src, dst: saved.clone(), bytes });
                unit.reads.push(Read { node, call: 0, aligned: false, last: 0 });
                self.units.push(unit);
                src = saved;
            }
            settled.copies.push(Instr::Copy { src, dst: target.memory.clone(), bytes });
        }
        settled
    }

    /// Whether the unit that computes `node` reads `input` only where and before it overwrites it.
    fn may_overwrite(&self, unit: usize, node: N, input: N) -> bool {
        let unit = &self.units[unit];
        let Some(write) = unit.writes.iter().find(|w| w.node == node) else { return false };
        let net = self.net;
        if net.nodes[node].ty.dtype.size() != net.nodes[input].ty.dtype.size() {
            return false;
        }
        unit.reads.iter().filter(|r| r.node == input).all(|r| r.call == write.call && r.aligned && r.last < write.first)
    }
}

/// How outputs get to their places.
pub(crate) struct Settled {
    pub claims: Vec<Claim>,
    pub copies: Vec<Instr>,
    /// Nodes to check, with the instructions that do.
    pub guards: Vec<Guarded>,
}

pub(crate) fn node_dims(net: &Net, n: N) -> String {
    net.nodes[n].ty.shape.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("x")
}

/// Rounded up to the alignment of buffers.
pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}
