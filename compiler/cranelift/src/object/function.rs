//! The functions of an object file: over many leaves, over one, and what all rules share.

use super::flat::{Action, At};
use super::{ABI, Function, Hyper, Library, Object, Rule, UNIT, code, trouble};
use crate::Error;
use crate::emit::plain;
use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, AbiParam, Block, BlockArg, FuncRef, InstBuilder, StackSlotData, StackSlotKind, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{FuncId, Linkage, Module};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// Offset of hyperparameter 0 in the structure that holds them: after its size and version.
pub(super) const HYPER: i32 = 8;

/// Bytes of the structure.
pub(super) fn hyper_size(count: usize) -> i64 {
    i64::from(HYPER) + 8 * count as i64
}

/// How the processor's level is found: a function that tells it, and where it is remembered.
#[derive(Clone, Copy)]
pub(super) struct Level {
    find: FuncId,
    known: cranelift_module::DataId,
}

impl Object {
    /// The function that finds the level of the processor, if there are several.
    pub(super) fn level(&mut self) -> Result<Option<Level>, Error> {
        if self.levels.len() < 2 {
            return Ok(None);
        }
        let mut signature = self.module.make_signature();
        signature.returns.push(AbiParam::new(types::I32));
        let find = self.module.declare_anonymous_function(&signature).map_err(trouble)?;
        self.module.define_function_bytes(find, 16, super::cpu::LEVEL, &[]).map_err(trouble)?;
        Ok(Some(Level { find, known: self.data(None, 8)? }))
    }

    /// A function of the object whose parameters are integers, made by `fill`.
    pub(super) fn define(
        &mut self,
        name: Option<&str>,
        params: &[Type],
        result: Option<Type>,
        fill: impl FnOnce(&mut Self, &mut Code<'_>) -> Result<(), Error>,
    ) -> Result<FuncId, Error> {
        let mut signature = self.module.make_signature();
        signature.params.extend(params.iter().map(|&t| AbiParam::new(t)));
        signature.returns.extend(result.map(AbiParam::new));
        let id = match name {
            Some(name) => self.module.declare_function(name, Linkage::Export, &signature),
            None => self.module.declare_anonymous_function(&signature),
        }
        .map_err(trouble)?;
        let mut context = Context::new();
        context.func = ir::Function::with_name_signature(ir::UserFuncName::user(0, id.as_u32()), signature);
        let mut frontend = std::mem::take(&mut self.frontend);
        let mut b = FunctionBuilder::new(&mut context.func, &mut frontend);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let params = b.block_params(entry).to_vec();
        let mut code = Code { b, params };
        fill(self, &mut code)?;
        let config = self.levels[0].features.frontend;
        code.b.finalize(config);
        self.frontend = frontend;
        self.module.define_function(id, &mut context).map_err(trouble)?;
        Ok(id)
    }

    /// `NAME_defaults(hyper *)`: size, version and defaults.
    pub(super) fn defaults(&mut self, library: &Library) -> Result<(), Error> {
        let name = format!("{}_defaults", library.name);
        self.define(Some(&name), &[types::I64], Some(types::I32), |_, c| {
            let at = c.params[0];
            c.unless_null(at, code::NULL);
            let size = c.b.ins().iconst(types::I32, hyper_size(library.hyper.len()));
            c.b.ins().store(plain(), size, at, 0);
            let version = c.b.ins().iconst(types::I32, i64::from(ABI));
            c.b.ins().store(plain(), version, at, 4);
            for (k, hyper) in library.hyper.iter().enumerate() {
                let x = c.b.ins().f64const(hyper.default);
                c.b.ins().store(plain(), x, at, HYPER + 8 * k as i32);
            }
            c.finish(code::OK);
            Ok(())
        })?;
        Ok(())
    }

    /// `const char *NAME_error(int)`.
    pub(super) fn errors(&mut self, library: &Library) -> Result<(), Error> {
        let name = format!("{}_error", library.name);
        let text = |words: &str| [words.as_bytes(), &[0]].concat();
        let unknown = self.data(Some(text("unknown code")), 1)?;
        let known =
            library.messages.iter().map(|(k, words)| Ok((*k, self.data(Some(text(words)), 1)?))).collect::<Result<Vec<_>, Error>>()?;
        self.define(Some(&name), &[types::I32], Some(types::I64), |object, c| {
            let give = |c: &mut Code<'_>, data| {
                let at = object.module.declare_data_in_func(data, c.b.func);
                let at = c.b.ins().symbol_value(types::I64, at);
                c.b.ins().return_(&[at]);
            };
            for (k, data) in known {
                let is = c.b.ins().icmp_imm_s(IntCC::Equal, c.params[0], i64::from(k));
                let (then, next) = (c.block(), c.block());
                c.b.ins().brif(is, then, &[], next, &[]);
                c.enter(then);
                give(c, data);
                c.enter(next);
            }
            give(c, unknown);
            Ok(())
        })?;
        Ok(())
    }

    /// `RULE_NAME_many`, `RULE_NAME` and, where asked for, the form for XLA.
    pub(super) fn function(&mut self, library: &Library, rule: &Rule, function: &Function, level: Option<Level>) -> Result<(), Error> {
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for action in &function.flat.actions {
            action.walk(&mut |a| {
                if let Action::Scalars { kernel, .. } | Action::Pass { kernel, .. } = a {
                    used.insert(*kernel);
                }
            });
        }
        let mut works = Vec::new();
        for k in 0..self.levels.len() {
            let kernels = self.kernels(&function.flat.kernels, &used, k)?;
            works.push(self.work(function, &kernels)?);
        }
        let name = format!("{}_{}", rule.name, function.name);
        let many = self.checked(&name, library, function, &works, level)?;
        self.single(&name, function, many)?;
        self.xla(&name, library, function, many)
    }

    /// What is done, with the kernels of one level: (number of leaves, leaves, steps made so far, hyperparameters).
    fn work(&mut self, function: &Function, kernels: &FxHashMap<usize, FuncId>) -> Result<FuncId, Error> {
        let flat = &function.flat;
        let constants = flat.constants.iter().map(|c| self.data(Some(c.clone()), 16)).collect::<Result<Vec<_>, Error>>()?;
        self.define(None, &[types::I64, types::I64, types::I32, types::I64], None, |object, c| {
            let (count, leaves, step, hyper) = (c.params[0], c.params[1], c.params[2], c.params[3]);
            let mut most = 1;
            for action in &flat.actions {
                action.walk(&mut |a| {
                    if let Action::Scalars { buffers, .. } | Action::Pass { buffers, .. } = a {
                        most = most.max(buffers.len());
                    }
                });
            }
            let scratch = c.slot(flat.scratch.max(16), 4);
            let counter = c.slot(16, 4);
            let mut w = Work {
                scratch,
                counter,
                hyper,
                leaf: None,
                addresses: c.slot(8 * most, 4),
                sizes: c.slot(16, 4),
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
            let set_counter = |w: &Work, c: &mut Code<'_>| {
                c.b.ins().store(plain(), step, w.counter, 0);
            };
            set_counter(&w, c);
            if !flat.scalars_each {
                for action in flat.actions.iter().filter(|a| a.on_scalars()) {
                    w.action(object, c, action)?;
                }
            }
            let one = c.b.ins().iconst(types::I64, 1);
            c.counted(count, one, |c, k| {
                let stride = 8 * (1 + function.takes.len() as i64);
                let offset = c.b.ins().imul_imm_s(k, stride);
                let leaf = c.b.ins().iadd(leaves, offset);
                let n = c.b.ins().load(types::I64, plain(), leaf, 0);
                let units = c.b.ins().ushr_imm_s(n, i64::from(UNIT.trailing_zeros()));
                let rest = c.b.ins().band_imm_s(n, UNIT - 1);
                w.leaf = Some(Leaf { at: leaf, n, units, rest, takes: function.takes.clone() });
                if flat.scalars_each {
                    set_counter(&w, c);
                }
                for action in flat.actions.iter().filter(|a| flat.scalars_each || !a.on_scalars()) {
                    w.action(object, c, action)?;
                }
                Ok(())
            })?;
            c.b.ins().return_(&[]);
            Ok(())
        })
    }

    /// `RULE_NAME_many`: checks what it is given and does the work.
    fn checked(
        &mut self,
        name: &str,
        library: &Library,
        function: &Function,
        works: &[FuncId],
        level: Option<Level>,
    ) -> Result<FuncId, Error> {
        let mut params = vec![types::I64, types::I64];
        if function.stepping {
            params.extend([types::I32, types::I64]);
        }
        self.define(Some(&format!("{name}_many")), &params, Some(types::I32), |object, c| {
            let (count, leaves) = (c.params[0], c.params[1]);
            let none = c.b.ins().icmp_imm_s(IntCC::Equal, count, 0);
            c.when(none, code::OK);
            c.unless_null(leaves, code::NULL);
            let (mut step, mut hyper) = (c.b.ins().iconst(types::I32, 0), c.b.ins().iconst(types::I64, 0));
            if function.stepping {
                hyper = c.params[3];
                c.hyperparameters(hyper, &library.hyper);
                let early = c.b.ins().icmp_imm_s(IntCC::SignedLessThan, c.params[2], 1);
                c.when(early, code::STEP);
                step = c.b.ins().iadd_imm_s(c.params[2], -1);
            }
            let arguments = [count, leaves, step, hyper];
            let works: Vec<FuncRef> = works.iter().map(|&w| object.module.declare_func_in_func(w, c.b.func)).collect();
            if let (Some(level), [plain_work, wide_work]) = (level, &*works) {
                let known = object.module.declare_data_in_func(level.known, c.b.func);
                let known = c.b.ins().symbol_value(types::I64, known);
                let find = object.module.declare_func_in_func(level.find, c.b.func);
                let (ask, go, wide, done) = (c.block(), c.block(), c.block(), c.block());
                let narrow = c.block();
                c.b.append_block_param(go, types::I32);
                let found = c.b.ins().load(types::I32, plain(), known, 0);
                c.b.ins().brif(found, go, &[BlockArg::Value(found)], ask, &[]);
                c.enter(ask);
                let call = c.b.ins().call(find, &[]);
                let found = c.b.inst_results(call)[0];
                c.b.ins().store(plain(), found, known, 0);
                c.b.ins().jump(go, &[BlockArg::Value(found)]);
                c.enter(go);
                let found = c.b.block_params(go)[0];
                let better = c.b.ins().icmp_imm_s(IntCC::Equal, found, 2);
                c.b.ins().brif(better, wide, &[], narrow, &[]);
                for (block, work) in [(wide, wide_work), (narrow, plain_work)] {
                    c.enter(block);
                    c.b.ins().call(*work, &arguments);
                    c.b.ins().jump(done, &[]);
                }
                c.enter(done);
            } else {
                c.b.ins().call(works[0], &arguments);
            }
            c.finish(code::OK);
            Ok(())
        })
    }

    /// `RULE_NAME`: one leaf, its arrays as arguments.
    fn single(&mut self, name: &str, function: &Function, many: FuncId) -> Result<(), Error> {
        let arrays = function.takes.len();
        let mut params = vec![types::I64; 1 + arrays];
        if function.stepping {
            params.extend([types::I32, types::I64]);
        }
        self.define(Some(name), &params, Some(types::I32), |object, c| {
            let leaf = c.slot(8 * (1 + arrays), 4);
            for k in 0..=arrays {
                if k > 0 {
                    c.unless_null(c.params[k], code::NULL);
                }
                c.b.ins().store(plain(), c.params[k], leaf, 8 * k as i32);
            }
            let one = c.b.ins().iconst(types::I64, 1);
            let mut arguments = vec![one, leaf];
            arguments.extend(&c.params[1 + arrays..]);
            let many = object.module.declare_func_in_func(many, c.b.func);
            let call = c.b.ins().call(many, &arguments);
            let result = c.b.inst_results(call)[0];
            c.b.ins().return_(&[result]);
            Ok(())
        })?;
        Ok(())
    }
}

/// A function under construction.
pub(super) struct Code<'f> {
    pub(super) b: FunctionBuilder<'f>,
    pub(super) params: Vec<Value>,
}

impl Code<'_> {
    pub(super) fn block(&mut self) -> Block {
        self.b.create_block()
    }

    /// Goes on in a block that nothing more will jump to.
    pub(super) fn enter(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    /// The address of so many bytes on the stack, aligned to a power of 2.
    pub(super) fn slot(&mut self, bytes: usize, align: u8) -> Value {
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, align));
        self.b.ins().stack_addr(types::I64, slot, 0)
    }

    pub(super) fn finish(&mut self, code: i32) {
        let code = self.b.ins().iconst(types::I32, i64::from(code));
        self.b.ins().return_(&[code]);
    }

    /// Returns a code if a condition holds.
    pub(super) fn when(&mut self, holds: Value, code: i32) {
        let (stop, next) = (self.block(), self.block());
        self.b.ins().brif(holds, stop, &[], next, &[]);
        self.enter(stop);
        self.finish(code);
        self.enter(next);
    }

    pub(super) fn unless_null(&mut self, pointer: Value, code: i32) {
        let null = self.b.ins().icmp_imm_s(IntCC::Equal, pointer, 0);
        self.when(null, code);
    }

    /// Returns a code unless the structure of hyperparameters is of this version and all lie in their ranges.
    pub(super) fn hyperparameters(&mut self, at: Value, hyper: &[Hyper]) {
        self.unless_null(at, code::NULL);
        for (offset, wanted) in [(0, hyper_size(hyper.len())), (4, i64::from(ABI))] {
            let x = self.b.ins().load(types::I32, plain(), at, offset);
            let other = self.b.ins().icmp_imm_s(IntCC::NotEqual, x, wanted);
            self.when(other, code::VERSION);
        }
        for (k, h) in hyper.iter().enumerate() {
            let x = self.b.ins().load(types::F64, plain(), at, HYPER + 8 * k as i32);
            // NaN compares false, so that it is outside every range.
            for (end, inclusive, exclusive) in
                [(h.low, FloatCC::GreaterThanOrEqual, FloatCC::GreaterThan), (h.high, FloatCC::LessThanOrEqual, FloatCC::LessThan)]
            {
                let Some((limit, belongs)) = end else { continue };
                let limit = self.b.ins().f64const(limit);
                let inside = self.b.ins().fcmp(if belongs { inclusive } else { exclusive }, x, limit);
                let outside = self.b.ins().icmp_imm_s(IntCC::Equal, inside, 0);
                self.when(outside, code::RANGE + k as i32);
            }
        }
    }

    /// A loop over `0..count`.
    pub(super) fn counted(
        &mut self,
        count: Value,
        step: Value,
        body: impl FnOnce(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (head, inside, done) = (self.block(), self.block(), self.block());
        let k = self.b.append_block_param(head, types::I64);
        let zero = self.b.ins().iconst(types::I64, 0);
        self.b.ins().jump(head, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(head);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, k, count);
        self.b.ins().brif(more, inside, &[], done, &[]);
        self.enter(inside);
        body(self, k)?;
        let next = self.b.ins().iadd(k, step);
        self.b.ins().jump(head, &[BlockArg::Value(next)]);
        self.b.seal_block(head);
        self.enter(done);
        Ok(())
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
struct Work {
    scratch: Value,
    counter: Value,
    hyper: Value,
    leaf: Option<Leaf>,
    addresses: Value,
    sizes: Value,
    status: Value,
    kernels: FxHashMap<usize, FuncRef>,
    constants: Vec<Value>,
}

impl Work {
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
        }
    }

    fn call(&self, c: &mut Code<'_>, kernel: usize, sizes: Value, range: Value) {
        let zero = c.b.ins().iconst(types::I64, 0);
        c.b.ins().call(self.kernels[&kernel], &[self.addresses, sizes, zero, range, self.status]);
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
            Action::Pass { kernel, buffers } => self.pass(c, *kernel, buffers),
            Action::CopyScalar { from, to, bytes } => {
                let (from, to) = (self.address(c, from), self.address(c, to));
                for k in 0..*bytes {
                    let x = c.b.ins().load(types::I8, plain(), from, k as i32);
                    c.b.ins().store(plain(), x, to, k as i32);
                }
            }
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

    /// A kernel over the whole units of a leaf, then over the rest.
    fn pass(&self, c: &mut Code<'_>, kernel: usize, buffers: &[At]) {
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
    }
}
