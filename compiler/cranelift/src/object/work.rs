//! The part of a function that does the work: its actions for each leaf, round by round.

use super::flat::{Action, At, Flat};
use super::function::{Code, FOLD, HYPER};
use super::{Function, Object, UNIT, code};
use crate::Error;
use crate::emit::plain;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, FuncRef, InstBuilder, Value, types};
use cranelift_module::{FuncId, Module};
use optc_ir::kernel::{LANES, REDUCED_WHOLE};
use rustc_hash::FxHashMap;

impl Object {
    /// What is done, with the kernels of one level: (number of leaves, leaves, steps made so far, hyperparameters, round, folds).
    pub(super) fn work(&mut self, function: &Function, kernels: &FxHashMap<usize, FuncId>) -> Result<FuncId, Error> {
        let flat = &function.flat;
        let constants = flat.constants.iter().map(|c| self.data(Some(c.clone()), 16)).collect::<Result<Vec<_>, Error>>()?;
        let params = [types::I64, types::I64, types::I32, types::I64, types::I32, types::I64];
        self.define(None, &params, Some(types::I32), |object, c| {
            let (step, hyper, round, folds) = (c.params[2], c.params[3], c.params[4], c.params[5]);
            let mut most = 2;
            for action in flat.actions() {
                action.walk(&mut |a| {
                    if let Action::Scalars { buffers, .. } | Action::Pass { buffers, .. } = a {
                        most = most.max(buffers.len());
                    }
                });
            }
            let scratch = c.slot(flat.scratch.max(16), 4);
            let counter = c.slot(16, 4);
            let mut w = Work {
                flat,
                scratch,
                counter,
                hyper,
                folds,
                leaf: None,
                addresses: c.slot(8 * most, 4),
                sizes: c.slot(16, 4),
                running: c.slot(16 * LANES * flat.reductions.len().max(1), 4),
                // Kernels report indices out of range there; those here have none.
                status: c.slot(64, 4),
                kernels: kernels.iter().map(|(&k, &id)| (k, object.module.declare_func_in_func(id, c.b.func))).collect(),
                constants: constants
                    .iter()
                    .map(|&d| {
                        let at = object.module.declare_data_in_func(d, c.b.func);
                        c.b.ins().symbol_value(types::I64, at)
                    })
                    .collect(),
            };
            c.b.ins().store(plain(), step, w.counter, 0);
            for k in 0..flat.rounds() {
                let last = k + 1 == flat.rounds();
                let next = if last {
                    None
                } else {
                    let is = c.b.ins().icmp_imm_s(IntCC::Equal, round, k as i64);
                    let (this, next) = (c.block(), c.block());
                    c.b.ins().brif(is, this, &[], next, &[]);
                    c.enter(this);
                    Some(next)
                };
                w.round(object, c, function, k)?;
                c.finish(code::OK);
                if let Some(next) = next {
                    c.enter(next);
                }
            }
            Ok(())
        })
    }
}

/// The leaf that is worked on.
struct Leaf {
    at: Value,
    n: Value,
    units: Value,
    rest: Value,
    takes: Vec<usize>,
}

/// Addresses in a function that does the work.
struct Work<'f> {
    flat: &'f Flat,
    scratch: Value,
    counter: Value,
    hyper: Value,
    folds: Value,
    leaf: Option<Leaf>,
    addresses: Value,
    sizes: Value,
    /// For each reduction its running values and as many partial results.
    running: Value,
    status: Value,
    kernels: FxHashMap<usize, FuncRef>,
    constants: Vec<Value>,
}

impl Work<'_> {
    /// One round: what is done once, then for each leaf.
    fn round(&mut self, object: &mut Object, c: &mut Code<'_>, function: &Function, number: usize) -> Result<(), Error> {
        let (flat, count, leaves) = (self.flat, c.params[0], c.params[1]);
        let stride = 8 * (1 + function.takes.len() as i64);
        let one = c.b.ins().iconst(types::I64, 1);
        self.leaf = Some(Leaf { at: leaves, n: one, units: one, rest: one, takes: function.takes.clone() });
        for shared in &flat.shared {
            let (from, to) = (self.array(c, shared.array), c.b.ins().iadd_imm_s(self.scratch, shared.old));
            copy(c, from, to, shared.size);
        }
        self.leaf = None;
        for action in &flat.rounds[number].once {
            self.action(object, c, action)?;
        }
        c.counted(count, one, |c, k| {
            let offset = c.b.ins().imul_imm_s(k, stride);
            let leaf = c.b.ins().iadd(leaves, offset);
            let n = c.b.ins().load(types::I64, plain(), leaf, 0);
            let units = c.b.ins().ushr_imm_s(n, i64::from(UNIT.trailing_zeros()));
            let rest = c.b.ins().band_imm_s(n, UNIT - 1);
            if let Some(offset) = flat.length {
                let length = c.b.ins().fcvt_from_uint(types::F64, n);
                c.b.ins().store(plain(), length, self.scratch, offset as i32);
            }
            self.leaf = Some(Leaf { at: leaf, n, units, rest, takes: function.takes.clone() });
            for action in &flat.rounds[number].each {
                self.action(object, c, action)?;
            }
            Ok(())
        })?;
        if number + 1 < flat.rounds() || flat.shared.is_empty() {
            return Ok(());
        }
        c.counted(count, one, |c, k| {
            let offset = c.b.ins().imul_imm_s(k, stride);
            let at = c.b.ins().iadd(leaves, offset);
            self.leaf = Some(Leaf { at, n: one, units: one, rest: one, takes: function.takes.clone() });
            for shared in &flat.shared {
                let (from, to) = (c.b.ins().iadd_imm_s(self.scratch, shared.new), self.array(c, shared.array));
                copy(c, from, to, shared.size);
            }
            Ok(())
        })
    }

    fn leaf(&self) -> &Leaf {
        self.leaf.as_ref().unwrap_or_else(|| panic!("compiler bug: arrays outside of the loop over leaves"))
    }

    /// Address of array `k` of the leaf.
    fn array(&self, c: &mut Code<'_>, k: usize) -> Value {
        let leaf = self.leaf();
        let place = leaf.takes.iter().position(|&t| t == k).unwrap_or_else(|| panic!("compiler bug: array {k} is not among the arguments"));
        c.b.ins().load(types::I64, plain(), leaf.at, 8 + 8 * place as i32)
    }

    fn address(&self, c: &mut Code<'_>, at: &At) -> Value {
        match *at {
            At::Array(k, _) => self.array(c, k),
            At::Scratch(offset) => c.b.ins().iadd_imm_s(self.scratch, offset),
            At::Counter => self.counter,
            At::Hyper(k) => c.b.ins().iadd_imm_s(self.hyper, i64::from(HYPER) + 8 * k as i64),
            At::Constant(k, offset) => c.b.ins().iadd_imm_s(self.constants[k], offset),
            At::Partial(k) => self.partial(c, k),
            At::Fold(k) => c.b.ins().iadd_imm_s(self.folds, (FOLD * k) as i64),
        }
    }

    /// Address of the running values of a reduction.
    fn running(&self, c: &mut Code<'_>, k: usize) -> Value {
        c.b.ins().iadd_imm_s(self.running, (16 * LANES * k) as i64)
    }

    /// Address of as many of its partial results.
    fn partial(&self, c: &mut Code<'_>, k: usize) -> Value {
        c.b.ins().iadd_imm_s(self.running, (16 * LANES * k + 8 * LANES) as i64)
    }

    /// Calls a kernel on `0..range`.
    fn call(&self, c: &mut Code<'_>, kernel: usize, sizes: Value, range: Value) {
        let zero = c.b.ins().iconst(types::I64, 0);
        c.b.ins().call(self.kernels[&kernel], &[self.addresses, sizes, zero, range, self.status]);
    }

    /// Calls a kernel without a parallel loop on these places; its size, if it has one.
    fn small(&self, c: &mut Code<'_>, kernel: usize, places: &[Value], size: Option<Value>) {
        for (k, &place) in places.iter().enumerate() {
            c.b.ins().store(plain(), place, self.addresses, 8 * k as i32);
        }
        if let Some(size) = size {
            c.b.ins().store(plain(), size, self.sizes, 0);
        }
        let one = c.b.ins().iconst(types::I64, 1);
        self.call(c, kernel, self.sizes, one);
    }

    fn action(&self, object: &mut Object, c: &mut Code<'_>, action: &Action) -> Result<(), Error> {
        match action {
            Action::Scalars { kernel, buffers } => {
                for (k, at) in buffers.iter().enumerate() {
                    let address = self.address(c, at);
                    c.b.ins().store(plain(), address, self.addresses, 8 * k as i32);
                }
                let one = c.b.ins().iconst(types::I64, 1);
                self.call(c, *kernel, self.sizes, one);
            }
            Action::Pass { kernel, buffers } => self.pass(c, *kernel, buffers)?,
            Action::CopyScalar { from, to, bytes } => {
                let (from, to) = (self.address(c, from), self.address(c, to));
                copy(c, from, to, *bytes);
            }
            Action::Fold(k) => self.fold(c, *k),
            Action::CopyArray { from, to, size } => {
                let mut signature = object.module.make_signature();
                signature.params.extend([AbiParam::new(types::I64); 3]);
                signature.returns.push(AbiParam::new(types::I64));
                let copy = object.import("memcpy", &signature)?;
                let copy = object.module.declare_func_in_func(copy, c.b.func);
                let (from, to) = (self.array(c, *from), self.array(c, *to));
                let bytes = c.b.ins().imul_imm_s(self.leaf().n, *size);
                c.b.ins().call(copy, &[to, from, bytes]);
            }
            Action::Cond { pred, then, otherwise } => {
                let pred = self.address(c, pred);
                let truth = c.b.ins().load(types::I8, plain(), pred, 0);
                let blocks = [c.block(), c.block(), c.block()];
                c.b.ins().brif(truth, blocks[0], &[], blocks[1], &[]);
                for (block, actions) in [(blocks[0], then), (blocks[1], otherwise)] {
                    c.enter(block);
                    for action in actions {
                        self.action(object, c, action)?;
                    }
                    c.b.ins().jump(blocks[2], &[]);
                }
                c.enter(blocks[2]);
            }
            Action::Fill { to, scalar, element } => {
                let to = self.array(c, *to);
                let (one, mut count) = (c.b.ins().iconst(types::I64, 1), self.leaf().n);
                if *scalar {
                    count = one;
                }
                c.counted(count, one, |c, k| {
                    let place = c.b.ins().imul_imm_s(k, element.len() as i64);
                    let place = c.b.ins().iadd(to, place);
                    let mut bytes = element.as_slice();
                    while !bytes.is_empty() {
                        let (ty, width) = match bytes.len() {
                            8.. => (types::I64, 8),
                            4.. => (types::I32, 4),
                            2.. => (types::I16, 2),
                            _ => (types::I8, 1),
                        };
                        let (now, later) = bytes.split_at(width);
                        let word = now.iter().rev().fold(0i64, |word, &b| (word << 8) | i64::from(b));
                        let word = c.b.ins().iconst(ty, word);
                        c.b.ins().store(plain(), word, place, (element.len() - bytes.len()) as i32);
                        bytes = later;
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// A leaf's part into a fold; the first one begins it.
    fn fold(&self, c: &mut Code<'_>, k: usize) {
        let fold = &self.flat.folds[k];
        let (so_far, part) = (self.address(c, &At::Fold(k)), c.b.ins().iadd_imm_s(self.scratch, fold.part));
        let begun = c.b.ins().load(types::I64, plain(), so_far, 8);
        let (first, more, done) = (c.block(), c.block(), c.block());
        c.b.ins().brif(begun, more, &[], first, &[]);
        c.enter(first);
        copy(c, part, so_far, fold.size);
        let one = c.b.ins().iconst(types::I64, 1);
        c.b.ins().store(plain(), one, so_far, 8);
        c.b.ins().jump(done, &[]);
        c.enter(more);
        self.small(c, fold.combine, &[so_far, part], None);
        c.b.ins().jump(done, &[]);
        c.enter(done);
    }

    /// As [`Work::pass`], for a kernel that gives partial results: as many units at a time as there are lanes, in order.
    fn reducing(&self, c: &mut Code<'_>, kernel: usize, buffers: &[At]) -> Result<(), Error> {
        let leaf = self.leaf();
        let (n, units, rest) = (leaf.n, leaf.units, leaf.rest);
        let places: Vec<Value> = buffers.iter().map(|at| self.address(c, at)).collect();
        let reduced: Vec<usize> = buffers.iter().filter_map(|at| if let At::Partial(k) = at { Some(*k) } else { None }).collect();
        for &k in &reduced {
            let running = self.running(c, k);
            self.small(c, self.flat.reductions[k].start, &[running], None);
        }
        // `count` partial results into the running values from `first` on.
        let combine = |c: &mut Code<'_>, first: Option<Value>, count: Value| {
            for &k in &reduced {
                let reduction = &self.flat.reductions[k];
                let mut running = self.running(c, k);
                if let Some(first) = first {
                    let offset = c.b.ins().imul_imm_s(first, reduction.size);
                    running = c.b.ins().iadd(running, offset);
                }
                let partial = self.partial(c, k);
                self.small(c, reduction.combine, &[running, partial], Some(count));
            }
        };
        // The kernel's places: arrays `skip` elements on, partial results `skipped` of them before the first.
        let aim = |c: &mut Code<'_>, skip: Option<Value>, skipped: Option<Value>| {
            for (k, (at, &place)) in buffers.iter().zip(&places).enumerate() {
                let mut place = place;
                match (at, skip, skipped) {
                    (At::Array(_, size), Some(skip), _) if *size > 0 => {
                        let bytes = c.b.ins().imul_imm_s(skip, *size);
                        place = c.b.ins().iadd(place, bytes);
                    }
                    (At::Partial(k), _, Some(skipped)) => {
                        let bytes = c.b.ins().imul_imm_s(skipped, self.flat.reductions[*k].size);
                        place = c.b.ins().isub(place, bytes);
                    }
                    _ => {}
                }
                c.b.ins().store(plain(), place, self.addresses, 8 * k as i32);
            }
        };
        let sizes = |c: &mut Code<'_>, first: Value, second: Value| {
            c.b.ins().store(plain(), first, self.sizes, 0);
            c.b.ins().store(plain(), second, self.sizes, 8);
        };
        let one = c.b.ins().iconst(types::I64, 1);
        let (some, small, large, part, done) = (c.block(), c.block(), c.block(), c.block(), c.block());
        c.b.ins().brif(n, some, &[], done, &[]);
        c.enter(some);
        let whole = c.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, n, REDUCED_WHOLE);
        c.b.ins().brif(whole, small, &[], large, &[]);
        c.enter(small);
        aim(c, None, None);
        sizes(c, n, one);
        self.call(c, kernel, self.sizes, one);
        combine(c, None, one);
        c.b.ins().jump(done, &[]);
        c.enter(large);
        let lanes = c.b.ins().iconst(types::I64, LANES as i64);
        c.counted(units, lanes, |c, begin| {
            let left = c.b.ins().isub(units, begin);
            let few = c.b.ins().icmp(IntCC::UnsignedLessThan, left, lanes);
            let count = c.b.ins().select(few, left, lanes);
            let end = c.b.ins().iadd(begin, count);
            aim(c, None, Some(begin));
            let unit = c.b.ins().iconst(types::I64, UNIT);
            sizes(c, unit, units);
            c.b.ins().call(self.kernels[&kernel], &[self.addresses, self.sizes, begin, end, self.status]);
            combine(c, None, count);
            Ok(())
        })?;
        c.b.ins().brif(rest, part, &[], done, &[]);
        c.enter(part);
        let gone = c.b.ins().imul_imm_s(units, UNIT);
        aim(c, Some(gone), None);
        sizes(c, rest, one);
        self.call(c, kernel, self.sizes, one);
        let lane = c.b.ins().band_imm_s(units, LANES as i64 - 1);
        combine(c, Some(lane), one);
        c.b.ins().jump(done, &[]);
        c.enter(done);
        for &k in &reduced {
            let reduction = &self.flat.reductions[k];
            let (running, result) = (self.running(c, k), c.b.ins().iadd_imm_s(self.scratch, reduction.result));
            self.small(c, reduction.finish, &[running, result], None);
        }
        Ok(())
    }

    /// A kernel over the whole units of a leaf, then over the rest.
    fn pass(&self, c: &mut Code<'_>, kernel: usize, buffers: &[At]) -> Result<(), Error> {
        if buffers.iter().any(|at| matches!(at, At::Partial(_))) {
            return self.reducing(c, kernel, buffers);
        }
        let leaf = self.leaf();
        let places: Vec<Value> = buffers.iter().map(|at| self.address(c, at)).collect();
        for (k, &address) in places.iter().enumerate() {
            c.b.ins().store(plain(), address, self.addresses, 8 * k as i32);
        }
        let (units, rest) = (leaf.units, leaf.rest);
        let unit = c.b.ins().iconst(types::I64, UNIT);
        let (whole, then) = (c.block(), c.block());
        c.b.ins().brif(units, whole, &[], then, &[]);
        c.enter(whole);
        c.b.ins().store(plain(), unit, self.sizes, 0);
        c.b.ins().store(plain(), units, self.sizes, 8);
        self.call(c, kernel, self.sizes, units);
        c.b.ins().jump(then, &[]);
        c.enter(then);
        let (part, done) = (c.block(), c.block());
        c.b.ins().brif(rest, part, &[], done, &[]);
        c.enter(part);
        for (k, (at, &address)) in buffers.iter().zip(&places).enumerate() {
            let At::Array(_, size) = at else { continue };
            let skip = c.b.ins().imul_imm_s(units, UNIT * size);
            let address = c.b.ins().iadd(address, skip);
            c.b.ins().store(plain(), address, self.addresses, 8 * k as i32);
        }
        let one = c.b.ins().iconst(types::I64, 1);
        c.b.ins().store(plain(), rest, self.sizes, 0);
        c.b.ins().store(plain(), one, self.sizes, 8);
        self.call(c, kernel, self.sizes, one);
        c.b.ins().jump(done, &[]);
        c.enter(done);
        Ok(())
    }
}

/// Copies a few bytes.
fn copy(c: &mut Code<'_>, from: Value, to: Value, bytes: usize) {
    for k in 0..bytes {
        let x = c.b.ins().load(types::I8, plain(), from, k as i32);
        c.b.ins().store(plain(), x, to, k as i32);
    }
}
