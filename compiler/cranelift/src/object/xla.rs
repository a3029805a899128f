//! The form of a function that XLA calls: operands and results in a call frame (`xla/ffi/api/c_api.h`, API 0.3).
//!
//! Operands: the number of the coming step (i32 scalar), hyperparameters (f32, two for each: the number rounded, and the rest, so that f64 gets through where JAX has only f32), then
//! for each leaf its arrays. Results: for each leaf those that are written. A result that is also an operand is updated in place; where XLA gave it memory of its own, the operand is copied there first.

use super::function::{Code, FOLD, HYPER, hyper_size};
use super::{ABI, Array, Function, Library, Object, Whole, Xla};
use crate::Error;
use crate::emit::plain;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, AbiParam, Block, FuncRef, InstBuilder, Value, types};
use cranelift_module::{FuncId, FuncOrDataId, Module};

/// Offsets in `XLA_FFI_CallFrame`.
mod frame {
    pub const EXTENSION: i32 = 8;
    pub const API: i32 = 16;
    pub const STAGE: i32 = 32;
    /// `XLA_FFI_Args`: its size and its pointers.
    pub const ARGS: i32 = 40 + 16;
    pub const ARGS_AT: i32 = 40 + 32;
    /// `XLA_FFI_Rets`.
    pub const RETS_AT: i32 = 80 + 32;
}
/// Offsets in `XLA_FFI_Buffer`.
mod buffer {
    pub const DATA: i32 = 24;
    pub const RANK: i32 = 32;
    pub const DIMS: i32 = 40;
}
/// `XLA_FFI_ExecutionStage_EXECUTE`
const EXECUTE: i64 = 3;
/// `XLA_FFI_Extension_Metadata`
const METADATA: i64 = 1;
/// Offset of the version in `XLA_FFI_Metadata`: `XLA_FFI_Api_Version` stands at 8, its numbers at 16 in it.
const VERSION: i32 = 8 + 16;
/// The version of the interface this is written for.
const API: (i64, i64) = (0, 3);
/// Offset of `XLA_FFI_Error_Create` in `XLA_FFI_Api`.
const ERROR_CREATE: i32 = 48;
/// `XLA_FFI_Error_Code_INVALID_ARGUMENT`
const INVALID_ARGUMENT: i64 = 3;

/// Operands of a function for XLA, before those of leaves.
const LEADING: i64 = 2;

impl Object {
    /// `RULE_NAME_xla`, around `RULE_NAME_many` or `RULE_NAME_round`, leaf by leaf.
    pub(super) fn xla(&mut self, name: &str, library: &Library, function: &Function, many: FuncId) -> Result<(), Error> {
        let Some(form) = &function.xla else { return Ok(()) };
        let (error, copy) = self.error_and_copy(library)?;
        let wrong = self.data(Some(b"the number of operands is not that of whole leaves\0".to_vec()), 1)?;
        self.define(Some(&format!("{name}_xla")), &[types::I64], Some(types::I64), |object, c| {
            let call = c.params[0];
            executes(c, call);
            let failed = c.block();
            c.b.append_block_param(failed, types::I64);
            let operands = c.b.ins().load(types::I64, plain(), call, frame::ARGS_AT);
            let results = c.b.ins().load(types::I64, plain(), call, frame::RETS_AT);
            let count = c.b.ins().load(types::I64, plain(), call, frame::ARGS);
            let of_leaves = c.b.ins().iadd_imm_s(count, -LEADING);
            let each = c.b.ins().iconst(types::I64, form.operands.len() as i64);
            let leaves = c.b.ins().udiv(of_leaves, each);
            let product = c.b.ins().imul(leaves, each);
            let uneven = c.b.ins().icmp(IntCC::NotEqual, product, of_leaves);
            let good = c.block();
            let words = object.module.declare_data_in_func(wrong, c.b.func);
            let words = c.b.ins().symbol_value(types::I64, words);
            c.b.ins().brif(uneven, failed, &[words.into()], good, &[]);
            c.enter(good);

            let [first, second] = [0, 1].map(|k| c.b.ins().iconst(types::I64, k));
            let (_, step) = data(c, operands, first);
            let step = c.b.ins().load(types::I32, plain(), step, 0);
            let (_, pairs) = data(c, operands, second);
            let hyper = hyperparameters(c, library, pairs);
            let many = object.module.declare_func_in_func(many, c.b.func);
            let error = object.module.declare_func_in_func(error, c.b.func);
            let copy = object.module.declare_func_in_func(copy, c.b.func);
            let leaf = c.slot(8 * (1 + function.takes.len()), 4);
            let one = c.b.ins().iconst(types::I64, 1);
            let rounds = function.flat.rounds();
            let folds = c.slot(FOLD * function.flat.folds().max(1), 4);
            let zero = c.b.ins().iconst(types::I64, 0);
            for offset in (0..FOLD * function.flat.folds()).step_by(8) {
                c.b.ins().store(plain(), zero, folds, offset as i32);
            }
            let list = Operands { operands, results, many, error, copy, leaf, step, hyper, folds, each, failed };
            for round in 0..rounds {
                c.counted(leaves, one, |c, k| list.leaf(c, function, form, k, (round, rounds)))?;
            }
            let null = c.b.ins().iconst(types::I64, 0);
            c.b.ins().return_(&[null]);
            c.enter(failed);
            let words = c.b.block_params(failed)[0];
            fail(c, call, words);
            Ok(())
        })?;
        Ok(())
    }
}

impl Object {
    /// What says in words what is wrong, and what copies.
    fn error_and_copy(&mut self, library: &Library) -> Result<(FuncId, FuncId), Error> {
        let Some(FuncOrDataId::Func(error)) = self.module.get_name(&format!("{}_error", library.name)) else {
            return Err(Error("compiler bug: errors have no names yet".to_string()));
        };
        let mut copy = self.module.make_signature();
        copy.params.extend([AbiParam::new(types::I64); 3]);
        copy.returns.push(AbiParam::new(types::I64));
        Ok((error, self.import("memcpy", &copy)?))
    }

    /// `RULE_NAME_xla` around `RULE_NAME` for one leaf of a given shape. Operands: the seed (two words) and, of a step, the number of the coming step and hyperparameters; then the arrays of the leaf that are
    /// read, the weight first. Results: those that are written, and memory for the function.
    pub(super) fn whole_xla(
        &mut self,
        name: &str,
        library: &Library,
        whole: &Whole,
        arrays: &[Array],
        function: FuncId,
    ) -> Result<(), Error> {
        let (error, copy) = self.error_and_copy(library)?;
        self.define(Some(&format!("{name}_xla")), &[types::I64], Some(types::I64), |object, c| {
            let call = c.params[0];
            executes(c, call);
            let failed = c.block();
            c.b.append_block_param(failed, types::I64);
            let operands = c.b.ins().load(types::I64, plain(), call, frame::ARGS_AT);
            let results = c.b.ins().load(types::I64, plain(), call, frame::RETS_AT);
            let [function, error, copy] = [function, error, copy].map(|f| object.module.declare_func_in_func(f, c.b.func));
            let mut counts = (0, 0);
            let mut next = |c: &mut Code<'_>, result: bool| {
                let (list, count) = if result { (results, &mut counts.1) } else { (operands, &mut counts.0) };
                *count += 1;
                let k = c.b.ins().iconst(types::I64, *count - 1);
                data(c, list, k).1
            };
            let seed = next(c, false);
            let mut arguments = Vec::new();
            if whole.stepping {
                let step = next(c, false);
                let pairs = next(c, false);
                arguments.extend([c.b.ins().load(types::I32, plain(), step, 0), hyperparameters(c, library, pairs)]);
            }
            if whole.seeded {
                arguments.push(c.b.ins().load(types::I64, plain(), seed, 0));
            }
            let table = c.slot(8 * arrays.len().max(1), 4);
            for (k, array) in arrays.iter().enumerate() {
                let read = array.read.then(|| next(c, false));
                let written = array.written.then(|| next(c, true));
                if let (Some(from), Some(to)) = (read, written) {
                    let same = c.b.ins().icmp(IntCC::Equal, from, to);
                    let (apart, after) = (c.block(), c.block());
                    c.b.ins().brif(same, after, &[], apart, &[]);
                    c.enter(apart);
                    let bytes = c.b.ins().iconst(types::I64, array.bytes as i64);
                    c.b.ins().call(copy, &[to, from, bytes]);
                    c.b.ins().jump(after, &[]);
                    c.enter(after);
                }
                let at = written.or(read).unwrap_or_else(|| c.b.ins().iconst(types::I64, 0));
                c.b.ins().store(plain(), at, table, 8 * k as i32);
            }
            let work = next(c, true);
            let call_of = c.b.ins().call(function, &[&[table, work], &arguments[..]].concat());
            let code = c.b.inst_results(call_of)[0];
            let (bad, good) = (c.block(), c.block());
            c.b.ins().brif(code, bad, &[], good, &[]);
            c.enter(bad);
            let words = c.b.ins().call(error, &[code]);
            let words = c.b.inst_results(words)[0];
            c.b.ins().jump(failed, &[words.into()]);
            c.enter(good);
            let null = c.b.ins().iconst(types::I64, 0);
            c.b.ins().return_(&[null]);
            c.enter(failed);
            let words = c.b.block_params(failed)[0];
            fail(c, call, words);
            Ok(())
        })?;
        Ok(())
    }
}

/// Answers questions and leaves, unless this is the call that is to do the work.
fn executes(c: &mut Code<'_>, call: Value) {
    describe(c, call);
    let stage = c.b.ins().load(types::I32, plain(), call, frame::STAGE);
    let other = c.b.ins().icmp_imm_s(IntCC::NotEqual, stage, EXECUTE);
    return_null_if(c, other);
}

/// The structure of hyperparameters from pairs of f32.
fn hyperparameters(c: &mut Code<'_>, library: &Library, pairs: Value) -> Value {
    let hyper = c.slot(hyper_size(library.hyper.len()) as usize, 4);
    for (offset, x) in [(0, hyper_size(library.hyper.len())), (4, i64::from(ABI))] {
        let x = c.b.ins().iconst(types::I32, x);
        c.b.ins().store(plain(), x, hyper, offset);
    }
    for k in 0..library.hyper.len() as i32 {
        let [high, low] = [0, 4].map(|part| {
            let x = c.b.ins().load(types::F32, plain(), pairs, 8 * k + part);
            c.b.ins().fpromote(types::F64, x)
        });
        let x = c.b.ins().fadd(high, low);
        c.b.ins().store(plain(), x, hyper, HYPER + 8 * k);
    }
    hyper
}

/// Buffer `k` of a list, and its memory.
fn data(c: &mut Code<'_>, list: Value, k: Value) -> (Value, Value) {
    let place = c.b.ins().ishl_imm_s(k, 3);
    let place = c.b.ins().iadd(list, place);
    let at = c.b.ins().load(types::I64, plain(), place, 0);
    (at, c.b.ins().load(types::I64, plain(), at, buffer::DATA))
}

/// What is known of a call.
struct Operands {
    operands: Value,
    results: Value,
    /// Functions.
    many: FuncRef,
    error: FuncRef,
    copy: FuncRef,
    /// Room for the list of one leaf.
    leaf: Value,
    step: Value,
    hyper: Value,
    folds: Value,
    /// Operands of a leaf.
    each: Value,
    /// Takes what is wrong in words.
    failed: Block,
}

impl Operands {
    /// What one leaf needs in one round of so many. Before the last one nothing is written, so that operands are read where they are.
    fn leaf(&self, c: &mut Code<'_>, function: &Function, form: &Xla, k: Value, (round, rounds): (usize, usize)) -> Result<(), Error> {
        let offset = c.b.ins().imul(k, self.each);
        let mut elements = None;
        let mut addresses = vec![None; function.takes.len()];
        let place = |array: usize| {
            let found = function.takes.iter().position(|&t| t == array);
            found.unwrap_or_else(|| panic!("compiler bug: array {array} is no argument"))
        };
        for (i, &array) in form.operands.iter().enumerate() {
            let index = c.b.ins().iadd_imm_s(offset, LEADING + i as i64);
            let (at, data) = data(c, self.operands, index);
            addresses[place(array)] = Some(data);
            // The first operand of a leaf is the weight or the gradient, never a scalar that belongs to it.
            if elements.is_none() {
                elements = Some(length(c, at)?);
            }
        }
        let elements = elements.unwrap_or_else(|| panic!("compiler bug: a leaf without operands"));
        let base = c.b.ins().imul_imm_s(k, form.results.len() as i64);
        for (i, &(array, size)) in form.results.iter().enumerate() {
            let index = c.b.ins().iadd_imm_s(base, i as i64);
            let (_, to) = data(c, self.results, index);
            if let Some(from) = addresses[place(array)] {
                if round + 1 < rounds {
                    continue;
                }
                let same = c.b.ins().icmp(IntCC::Equal, from, to);
                let (apart, next) = (c.block(), c.block());
                c.b.ins().brif(same, next, &[], apart, &[]);
                c.enter(apart);
                let bytes = if size > 0 { c.b.ins().imul_imm_s(elements, size) } else { c.b.ins().iconst(types::I64, -size) };
                c.b.ins().call(self.copy, &[to, from, bytes]);
                c.b.ins().jump(next, &[]);
                c.enter(next);
            }
            addresses[place(array)] = Some(to);
        }
        c.b.ins().store(plain(), elements, self.leaf, 0);
        for (i, address) in addresses.into_iter().enumerate() {
            let address = address.unwrap_or_else(|| panic!("compiler bug: an argument that is neither operand nor result"));
            c.b.ins().store(plain(), address, self.leaf, 8 + 8 * i as i32);
        }
        let one = c.b.ins().iconst(types::I64, 1);
        let mut arguments = vec![one, self.leaf, self.step, self.hyper];
        if rounds > 1 {
            arguments.extend([c.b.ins().iconst(types::I32, round as i64), self.folds]);
        }
        let call = c.b.ins().call(self.many, &arguments);
        let code = c.b.inst_results(call)[0];
        let (bad, next) = (c.block(), c.block());
        c.b.ins().brif(code, bad, &[], next, &[]);
        c.enter(bad);
        let words = c.b.ins().call(self.error, &[code]);
        let words = c.b.inst_results(words)[0];
        c.b.ins().jump(self.failed, &[words.into()]);
        c.enter(next);
        Ok(())
    }
}

/// Returns null, which is success.
fn return_null_if(c: &mut Code<'_>, holds: Value) {
    let (stop, next) = (c.block(), c.block());
    c.b.ins().brif(holds, stop, &[], next, &[]);
    c.enter(stop);
    let null = c.b.ins().iconst(types::I64, 0);
    c.b.ins().return_(&[null]);
    c.enter(next);
}

/// Answers the question for the version of the interface, which comes before any other call.
fn describe(c: &mut Code<'_>, call: Value) {
    let extension = c.b.ins().load(types::I64, plain(), call, frame::EXTENSION);
    let (asked, answer, next) = (c.block(), c.block(), c.block());
    c.b.ins().brif(extension, asked, &[], next, &[]);
    c.enter(asked);
    let kind = c.b.ins().load(types::I32, plain(), extension, 8);
    let metadata = c.b.ins().icmp_imm_s(IntCC::Equal, kind, METADATA);
    c.b.ins().brif(metadata, answer, &[], next, &[]);
    c.enter(answer);
    let metadata = c.b.ins().load(types::I64, plain(), extension, 24);
    for (offset, number) in [(0, API.0), (4, API.1)] {
        let number = c.b.ins().iconst(types::I32, number);
        c.b.ins().store(plain(), number, metadata, VERSION + offset);
    }
    let null = c.b.ins().iconst(types::I64, 0);
    c.b.ins().return_(&[null]);
    c.enter(next);
}

/// Elements of a buffer.
fn length(c: &mut Code<'_>, at: Value) -> Result<Value, Error> {
    let rank = c.b.ins().load(types::I64, plain(), at, buffer::RANK);
    let dims = c.b.ins().load(types::I64, plain(), at, buffer::DIMS);
    let product = c.slot(8, 3);
    let one = c.b.ins().iconst(types::I64, 1);
    c.b.ins().store(plain(), one, product, 0);
    c.counted(rank, one, |c, k| {
        let place = c.b.ins().ishl_imm_s(k, 3);
        let place = c.b.ins().iadd(dims, place);
        let extent = c.b.ins().load(types::I64, plain(), place, 0);
        let so_far = c.b.ins().load(types::I64, plain(), product, 0);
        let so_far = c.b.ins().imul(so_far, extent);
        c.b.ins().store(plain(), so_far, product, 0);
        Ok(())
    })?;
    Ok(c.b.ins().load(types::I64, plain(), product, 0))
}

/// Returns an error with these words.
fn fail(c: &mut Code<'_>, call: Value, words: Value) {
    let api = c.b.ins().load(types::I64, plain(), call, frame::API);
    let create = c.b.ins().load(types::I64, plain(), api, ERROR_CREATE);
    let arguments = c.slot(32, 4);
    let (size, null) = (c.b.ins().iconst(types::I64, 32), c.b.ins().iconst(types::I64, 0));
    c.b.ins().store(plain(), size, arguments, 0);
    c.b.ins().store(plain(), null, arguments, 8);
    c.b.ins().store(plain(), words, arguments, 16);
    let code = c.b.ins().iconst(types::I64, INVALID_ARGUMENT);
    c.b.ins().store(plain(), code, arguments, 24);
    let mut signature = ir::Signature::new(c.b.func.signature.call_conv);
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I64));
    let signature = c.b.import_signature(signature);
    let made = c.b.ins().call_indirect(signature, create, &[arguments]);
    let made = c.b.inst_results(made)[0];
    c.b.ins().return_(&[made]);
}
