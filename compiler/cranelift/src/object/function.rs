//! The functions of an object file: over many leaves, over one, and what all rules share.

use super::flat::Action;
use super::{ABI, Function, Hyper, Library, Object, Rule, code, trouble};
use crate::Error;
use crate::emit::plain;
use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, AbiParam, Block, BlockArg, FuncRef, InstBuilder, StackSlotData, StackSlotKind, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{FuncId, Linkage, Module};
use std::collections::BTreeSet;

/// Offset of hyperparameter 0 in the structure that holds them: after its size and version.
pub(super) const HYPER: i32 = 8;

/// Bytes of what is combined over leaves: the number so far, and whether there is one.
pub(super) const FOLD: usize = 16;

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
        let flat = &function.flat;
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for action in flat.actions() {
            action.walk(&mut |a| {
                if let Action::Scalars { kernel, .. } | Action::Pass { kernel, .. } = a {
                    used.insert(*kernel);
                }
            });
        }
        used.extend(flat.reductions.iter().flat_map(|r| [r.start, r.combine, r.finish]));
        used.extend(flat.folds.iter().map(|f| f.combine));
        let mut works = Vec::new();
        for k in 0..self.levels.len() {
            let kernels = self.kernels(&flat.kernels, &used, k, false)?;
            works.push(self.work(function, &kernels)?);
        }
        let name = format!("{}_{}", rule.name, function.name);
        let several = flat.rounds() > 1;
        let checked = self.checked(&name, library, function, &works, level)?;
        let many = if several { self.all_rounds(&name, function, checked)? } else { checked };
        self.single(&name, function, many)?;
        self.xla(&name, library, function, checked)
    }

    /// Checks what it is given and does the work: `RULE_NAME_many`, or, where there are several rounds, `RULE_NAME_round`.
    fn checked(
        &mut self,
        name: &str,
        library: &Library,
        function: &Function,
        works: &[FuncId],
        level: Option<Level>,
    ) -> Result<FuncId, Error> {
        let several = function.flat.rounds() > 1;
        let mut params = vec![types::I64, types::I64];
        if function.stepping {
            params.extend([types::I32, types::I64]);
        }
        if several {
            params.extend([types::I32, types::I64]);
        }
        let name = format!("{name}_{}", if several { "round" } else { "many" });
        self.define(Some(&name), &params, Some(types::I32), |object, c| {
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
            let (mut round, mut folds) = (c.b.ins().iconst(types::I32, 0), c.b.ins().iconst(types::I64, 0));
            if several {
                (round, folds) = (c.params[params.len() - 2], c.params[params.len() - 1]);
                let beyond = c.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, round, function.flat.rounds() as i64);
                c.when(beyond, code::ROUND);
                c.unless_null(folds, code::NULL);
            }
            let arguments = [count, leaves, step, hyper, round, folds];
            let result = object.by_level(c, level, works, &arguments);
            c.b.ins().return_(&[result]);
            Ok(())
        })
    }

    /// Calls the one of these functions that is for the processor's level, and gives the code that it returns.
    pub(super) fn by_level(&mut self, c: &mut Code<'_>, level: Option<Level>, works: &[FuncId], arguments: &[Value]) -> Value {
        let works: Vec<FuncRef> = works.iter().map(|&w| self.module.declare_func_in_func(w, c.b.func)).collect();
        let (Some(level), [plain_work, better @ ..]) = (level, &*works) else {
            let call = c.b.ins().call(works[0], arguments);
            return c.b.inst_results(call)[0];
        };
        let known = self.module.declare_data_in_func(level.known, c.b.func);
        let known = c.b.ins().symbol_value(types::I64, known);
        let find = self.module.declare_func_in_func(level.find, c.b.func);
        let (ask, go, done) = (c.block(), c.block(), c.block());
        c.b.append_block_param(go, types::I32);
        c.b.append_block_param(done, types::I32);
        let found = c.b.ins().load(types::I32, plain(), known, 0);
        c.b.ins().brif(found, go, &[BlockArg::Value(found)], ask, &[]);
        c.enter(ask);
        let call = c.b.ins().call(find, &[]);
        let found = c.b.inst_results(call)[0];
        c.b.ins().store(plain(), found, known, 0);
        c.b.ins().jump(go, &[BlockArg::Value(found)]);
        c.enter(go);
        let found = c.b.block_params(go)[0];
        let run = |c: &mut Code<'_>, work: FuncRef| {
            let call = c.b.ins().call(work, arguments);
            let result = c.b.inst_results(call)[0];
            c.b.ins().jump(done, &[BlockArg::Value(result)]);
        };
        // Levels count from 1; the best one first.
        for (k, work) in better.iter().enumerate().rev() {
            let (this, next) = (c.block(), c.block());
            let enough = c.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, found, k as i64 + 2);
            c.b.ins().brif(enough, this, &[], next, &[]);
            c.enter(this);
            run(c, *work);
            c.enter(next);
        }
        run(c, *plain_work);
        c.enter(done);
        c.b.block_params(done)[0]
    }

    /// `RULE_NAME_many` where there are several rounds: one after the other.
    fn all_rounds(&mut self, name: &str, function: &Function, round: FuncId) -> Result<FuncId, Error> {
        let params = [types::I64, types::I64, types::I32, types::I64];
        self.define(Some(&format!("{name}_many")), &params[..if function.stepping { 4 } else { 2 }], Some(types::I32), |object, c| {
            let bytes = FOLD * function.flat.folds();
            let folds = c.slot(bytes, 4);
            let zero = c.b.ins().iconst(types::I64, 0);
            for offset in (0..bytes).step_by(8) {
                c.b.ins().store(plain(), zero, folds, offset as i32);
            }
            let callee = object.module.declare_func_in_func(round, c.b.func);
            for k in 0..function.flat.rounds() {
                let number = c.b.ins().iconst(types::I32, k as i64);
                let arguments = [&c.params[..], &[number, folds]].concat();
                let call = c.b.ins().call(callee, &arguments);
                let result = c.b.inst_results(call)[0];
                let (stop, next) = (c.block(), c.block());
                c.b.ins().brif(result, stop, &[], next, &[]);
                c.enter(stop);
                c.b.ins().return_(&[result]);
                c.enter(next);
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
