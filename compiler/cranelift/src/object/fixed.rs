//! Functions for leaves of given shapes: whole plans, with all that the compiler knows of the shapes.
//!
//! A function takes a table of the addresses of all arrays and a piece of memory for what lies between instructions and what products pack. Products (`product`) and random words (`spare.rs`) are functions of
//! the object, so that nothing is needed of the runtime; all run on the calling thread.

use super::function::{Code, HYPER, Level};
use super::product::Packed;
use super::spare::{self, Made};
use super::{Library, Object, code};
use crate::Error;
use crate::emit::plain;
use crate::isa;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, BlockArg, FuncRef, InstBuilder, Value, types};
use cranelift_module::{FuncId, Module};
use optc_abi::plan::{BufRef, Gemm, Instr, KernelCall, LoopId, Place, Plan, Trip};
use optc_ir::kernel::Kernel;
use std::collections::VecDeque;

/// Where an input comes from or an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Array `k` of the table.
    Array(usize),
    /// The number of steps made before.
    Counter,
    /// Hyperparameter `k`.
    Hyper(usize),
    /// The seed, two words.
    Seed,
    /// Only a training run has it.
    Nothing,
}

/// A function.
#[derive(Clone, Debug)]
pub struct Whole {
    /// `step` or `init`.
    pub name: &'static str,
    /// What it does.
    pub plan: Plan,
    /// With these kernels.
    pub kernels: Vec<Kernel>,
    /// Where inputs come from.
    pub inputs: Vec<Given>,
    /// Where outputs go.
    pub outputs: Vec<Given>,
    /// Whether it takes the number of the step and hyperparameters.
    pub stepping: bool,
    /// Whether it takes a seed.
    pub seeded: bool,
}

/// An array in the table of a function with a form for XLA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array {
    /// It is an operand.
    pub read: bool,
    /// It is a result; one that is an operand too is updated in place.
    pub written: bool,
    /// Its size.
    pub bytes: usize,
}

/// Makes an object file of functions for given shapes; `rules` are prefixes of names and their functions.
///
/// # Errors
/// A target that Cranelift does not know; an operation that needs the runtime, in words.
pub fn fixed(library: &Library, rules: &[(String, Vec<Whole>)], triple: Option<&str>) -> Result<Vec<u8>, Error> {
    fixed_for_xla(library, rules, &[], triple)
}

/// The same, with forms for XLA: of the functions of each rule the arrays in the table.
///
/// # Errors
/// As [`fixed`].
pub fn fixed_for_xla(
    library: &Library,
    rules: &[(String, Vec<Whole>)],
    arrays: &[Vec<Vec<Array>>],
    triple: Option<&str>,
) -> Result<Vec<u8>, Error> {
    let mut object = Object::new(library, isa::of_triple(triple)?)?;
    object.shared(library)?;
    let level = object.level()?;
    for (k, (prefix, functions)) in rules.iter().enumerate() {
        for (j, whole) in functions.iter().enumerate() {
            let made = object.whole(library, prefix, whole, level)?;
            if let Some(arrays) = arrays.get(k) {
                object.whole_xla(&format!("{prefix}_{}", whole.name), library, whole, &arrays[j], made)?;
            }
        }
    }
    object.module.finish().emit().map_err(|e| Error(e.to_string()))
}

/// What a plan does that needs the runtime, in words.
pub fn beyond(plan: &Plan) -> Option<String> {
    spare::kernels(&plan.code, &mut Vec::new(), &mut Vec::new(), &mut VecDeque::new()).err().map(|e| e.0)
}

/// Alignment of what products pack.
const LINE: usize = 64;

impl Whole {
    /// Bytes of memory that the function needs: for what lies between instructions, then for products.
    pub fn work(&self) -> usize {
        let mut products = 0;
        self.plan.walk(&mut |instr| {
            if let Instr::Gemm(gemm) = instr {
                products = products.max(Packed::new(gemm).map_or(0, |p| p.bytes()));
            }
        });
        if products == 0 { self.plan.arena_bytes } else { self.plan.arena_bytes.next_multiple_of(LINE) + products }
    }
}

impl Object {
    fn whole(&mut self, library: &Library, prefix: &str, whole: &Whole, level: Option<Level>) -> Result<FuncId, Error> {
        let mut kernels = whole.kernels.clone();
        let (mut products, mut special) = (Vec::new(), VecDeque::new());
        spare::kernels(&whole.plan.code, &mut kernels, &mut products, &mut special)?;
        let wanted = (0..kernels.len()).collect();
        let mut works = Vec::new();
        for k in 0..self.levels.len() {
            let made = self.kernels(&kernels, &wanted, k, true)?;
            let made: Vec<FuncId> = (0..kernels.len()).map(|k| made[&k]).collect();
            let products = products.iter().map(|p| Ok((self.product(k, p)?, p.exchanged))).collect::<Result<Vec<_>, Error>>()?;
            works.push(self.walked(whole, &kernels, (&made, &products), special.clone())?);
        }
        let mut params = vec![types::I64, types::I64];
        if whole.stepping {
            params.extend([types::I32, types::I64]);
        }
        if whole.seeded {
            params.push(types::I64);
        }
        let name = format!("{prefix}_{}", whole.name);
        self.define(Some(&name), &params, Some(types::I32), |object, c| {
            c.unless_null(c.params[0], code::NULL);
            if whole.work() > 0 {
                c.unless_null(c.params[1], code::NULL);
            }
            let zero = c.b.ins().iconst(types::I64, 0);
            let (mut step, mut hyper) = (c.b.ins().iconst(types::I32, 0), zero);
            if whole.stepping {
                hyper = c.params[3];
                c.hyperparameters(hyper, &library.hyper);
                let early = c.b.ins().icmp_imm_s(IntCC::SignedLessThan, c.params[2], 1);
                c.when(early, code::STEP);
                step = c.b.ins().iadd_imm_s(c.params[2], -1);
            }
            let seed = if whole.seeded { c.params[params.len() - 1] } else { zero };
            let arguments = [c.params[0], c.params[1], step, hyper, seed];
            let result = object.by_level(c, level, &works, &arguments);
            c.b.ins().return_(&[result]);
            Ok(())
        })
    }

    /// The plan with the kernels of one level: (table of arrays, memory, steps made before, hyperparameters, seed), gives a code.
    fn walked(
        &mut self,
        whole: &Whole,
        kernels: &[Kernel],
        (made, products): (&[FuncId], &[(FuncId, bool)]),
        special: VecDeque<Made>,
    ) -> Result<FuncId, Error> {
        let constants = whole.plan.constants.iter().map(|t| self.data(Some(t.bytes().to_vec()), 64)).collect::<Result<Vec<_>, _>>()?;
        let params = [types::I64, types::I64, types::I32, types::I64, types::I64];
        self.define(None, &params, Some(types::I32), |object, c| {
            let most = kernels.iter().map(|k| k.buffers.len()).max().unwrap_or(1);
            let sizes = kernels.iter().map(|k| k.sizes).max().unwrap_or(0);
            let (counter, key, status) = (c.slot(16, 4), c.slot(16, 4), c.slot(64, 4));
            let zero = c.b.ins().iconst(types::I64, 0);
            c.b.ins().store(plain(), zero, status, 0);
            c.b.ins().store(plain(), c.params[2], counter, 0);
            c.b.ins().store(plain(), c.params[4], key, 0);
            let mut walk = Walk {
                whole,
                made: made.iter().map(|&id| object.module.declare_func_in_func(id, c.b.func)).collect(),
                products: products.iter().map(|&(id, exchanged)| (object.module.declare_func_in_func(id, c.b.func), exchanged)).collect(),
                special,
                counter,
                key,
                status,
                addresses: c.slot(8 * most.max(1), 4),
                sizes: c.slot(8 * sizes.max(1), 4),
                constants: constants
                    .iter()
                    .map(|&d| {
                        let at = object.module.declare_data_in_func(d, c.b.func);
                        c.b.ins().symbol_value(types::I64, at)
                    })
                    .collect(),
                counters: Vec::new(),
            };
            walk.code(object, c, &whole.plan.code)?;
            let found = c.b.ins().load(types::I32, plain(), status, 0);
            let fine = c.b.ins().icmp_imm_s(IntCC::Equal, found, 0);
            let (ok, index) = (c.b.ins().iconst(types::I32, i64::from(code::OK)), c.b.ins().iconst(types::I32, i64::from(code::INDEX)));
            let result = c.b.ins().select(fine, ok, index);
            c.b.ins().return_(&[result]);
            Ok(())
        })
    }
}

/// A plan that is being written down.
struct Walk<'p> {
    whole: &'p Whole,
    made: Vec<FuncRef>,
    /// Packed products, and whether their operands change places.
    products: Vec<(FuncRef, bool)>,
    /// What products and library calls are, in the order of the plan.
    special: VecDeque<Made>,
    counter: Value,
    key: Value,
    status: Value,
    addresses: Value,
    sizes: Value,
    constants: Vec<Value>,
    counters: Vec<(LoopId, Value)>,
}

impl Walk<'_> {
    fn code(&mut self, object: &mut Object, c: &mut Code<'_>, code: &[Instr]) -> Result<(), Error> {
        code.iter().try_for_each(|instr| self.instr(object, c, instr))
    }

    /// Address of a place.
    fn address(&self, c: &mut Code<'_>, at: &BufRef) -> Result<Value, Error> {
        let given = |c: &mut Code<'_>, given: Given| match given {
            Given::Array(k) => Ok(c.b.ins().load(types::I64, plain(), c.params[0], 8 * k as i32)),
            Given::Counter => Ok(self.counter),
            Given::Hyper(k) => Ok(c.b.ins().iadd_imm_s(c.params[3], i64::from(HYPER) + 8 * k as i64)),
            Given::Seed => Ok(self.key),
            Given::Nothing => Err(Error("it reads what only a training run has".to_string())),
        };
        let base = match self.whole.plan.buffers[at.buffer].place {
            Place::Arena(offset) => c.b.ins().iadd_imm_s(c.params[1], offset as i64),
            Place::Input(k) => given(c, self.whole.inputs[k])?,
            Place::Output(k) => given(c, self.whole.outputs[k])?,
            Place::Constant(k) => self.constants[k],
        };
        let mut address = c.b.ins().iadd_imm_s(base, at.offset);
        for (id, step) in &at.steps {
            let found = self.counters.iter().find(|(open, _)| open == id).map(|x| x.1);
            let pass = found.unwrap_or_else(|| panic!("compiler bug: a step of loop {id} outside of it"));
            let moved = c.b.ins().imul_imm_s(pass, *step);
            address = c.b.ins().iadd(address, moved);
        }
        Ok(address)
    }

    fn call(&self, c: &mut Code<'_>, kernel: usize, places: &[Value], sizes: &[i64], range: i64) {
        for (k, &place) in places.iter().enumerate() {
            c.b.ins().store(plain(), place, self.addresses, 8 * k as i32);
        }
        for (k, &size) in sizes.iter().enumerate() {
            let size = c.b.ins().iconst(types::I64, size);
            c.b.ins().store(plain(), size, self.sizes, 8 * k as i32);
        }
        let (begin, end) = (c.b.ins().iconst(types::I64, 0), c.b.ins().iconst(types::I64, range));
        c.b.ins().call(self.made[kernel], &[self.addresses, self.sizes, begin, end, self.status]);
    }

    fn instr(&mut self, object: &mut Object, c: &mut Code<'_>, instr: &Instr) -> Result<(), Error> {
        match instr {
            Instr::Kernel { kernel, calls } => {
                for KernelCall { buffers, sizes, range, .. } in calls.iter().filter(|call| call.range > 0) {
                    let places = buffers.iter().map(|b| self.address(c, b)).collect::<Result<Vec<_>, _>>()?;
                    self.call(c, *kernel, &places, sizes, *range);
                }
            }
            Instr::Gemm(gemm) => {
                let made = self.next();
                let [a, b, out] = [&gemm.a, &gemm.b, &gemm.c].map(|m| self.address(c, &m.data));
                self.product(c, gemm, made, [a?, b?, out?], 0)?;
            }
            Instr::Lib { buffers, .. } => {
                let made = self.next();
                let places = buffers.iter().map(|b| self.address(c, b)).collect::<Result<Vec<_>, _>>()?;
                self.special_call(c, made, &places);
            }
            Instr::Copy { src, dst, bytes } => {
                let mut signature = object.module.make_signature();
                signature.params.extend([AbiParam::new(types::I64); 3]);
                signature.returns.push(AbiParam::new(types::I64));
                let copy = object.import("memcpy", &signature)?;
                let copy = object.module.declare_func_in_func(copy, c.b.func);
                let (from, to) = (self.address(c, src)?, self.address(c, dst)?);
                let bytes = c.b.ins().iconst(types::I64, *bytes as i64);
                c.b.ins().call(copy, &[to, from, bytes]);
            }
            Instr::Loop { id, trip, reverse, counter, body } => self.counted(object, c, (*id, trip, *reverse), counter, body)?,
            Instr::Cond { pred, then, otherwise } => {
                let pred = self.address(c, pred)?;
                let truth = c.b.ins().load(types::I8, plain(), pred, 0);
                let blocks = [c.block(), c.block(), c.block()];
                c.b.ins().brif(truth, blocks[0], &[], blocks[1], &[]);
                for (block, code) in [(blocks[0], then), (blocks[1], otherwise)] {
                    c.enter(block);
                    self.code(object, c, code)?;
                    c.b.ins().jump(blocks[2], &[]);
                }
                c.enter(blocks[2]);
            }
            Instr::Conv(_) | Instr::Guard { .. } => return Err(Error("it convolves".to_string())),
        }
        Ok(())
    }

    fn next(&mut self) -> Made {
        self.special.pop_front().unwrap_or_else(|| panic!("compiler bug: an instruction without its kernel"))
    }

    /// Calls what stands for the runtime.
    fn special_call(&self, c: &mut Code<'_>, made: Made, places: &[Value]) {
        match made {
            Made::Kernel(kernel) => self.call(c, kernel, places, &[], 1),
            Made::Product(k) => {
                let (product, exchanged) = self.products[k];
                let (a, b) = if exchanged { (places[1], places[0]) } else { (places[0], places[1]) };
                let arena = self.whole.plan.arena_bytes.next_multiple_of(LINE);
                let memory = c.b.ins().iadd_imm_s(c.params[1], arena as i64);
                c.b.ins().call(product, &[a, b, places[2], memory]);
            }
        }
    }

    /// The product for all indices of its batch from axis `axis` on.
    fn product(&self, c: &mut Code<'_>, gemm: &Gemm, made: Made, places: [Value; 3], axis: usize) -> Result<(), Error> {
        let Some(&extent) = gemm.batch.get(axis) else {
            self.special_call(c, made, &places);
            return Ok(());
        };
        let size = gemm.dtype.size() as i64;
        let steps = [&gemm.a, &gemm.b, &gemm.c].map(|m| m.batch_strides[axis] * size);
        let (one, count) = (c.b.ins().iconst(types::I64, 1), c.b.ins().iconst(types::I64, extent as i64));
        c.counted(count, one, |c, k| {
            let mut moved = places;
            for (place, step) in moved.iter_mut().zip(steps) {
                let offset = c.b.ins().imul_imm_s(k, step);
                *place = c.b.ins().iadd(*place, offset);
            }
            self.product(c, gemm, made, moved, axis + 1)
        })
    }

    fn counted(
        &mut self,
        object: &mut Object,
        c: &mut Code<'_>,
        (id, trip, reverse): (LoopId, &Trip, bool),
        counter: &BufRef,
        body: &[Instr],
    ) -> Result<(), Error> {
        let n = match trip {
            Trip::Const(n) => c.b.ins().iconst(types::I64, *n as i64),
            Trip::Run(at) | Trip::While { most: at, .. } => {
                let at = self.address(c, at)?;
                c.b.ins().sload32(plain(), at, 0)
            }
        };
        let zero = c.b.ins().iconst(types::I64, 0);
        let (head, inside, done) = (c.block(), c.block(), c.block());
        let pass = c.b.append_block_param(head, types::I64);
        c.b.ins().jump(head, &[BlockArg::Value(zero)]);
        c.b.switch_to_block(head);
        let more = c.b.ins().icmp(IntCC::SignedLessThan, pass, n);
        c.b.ins().brif(more, inside, &[], done, &[]);
        c.enter(inside);
        if let Trip::While { go, .. } = trip {
            let place = self.address(c, go)?;
            let go = c.b.ins().load(types::I8, plain(), place, 0);
            let on = c.block();
            c.b.ins().brif(go, on, &[], done, &[]);
            c.enter(on);
        }
        let mut at = pass;
        if reverse {
            let last = c.b.ins().iadd_imm_s(n, -1);
            at = c.b.ins().isub(last, pass);
        }
        let place = self.address(c, counter)?;
        c.b.ins().istore32(plain(), at, place, 0);
        self.counters.push((id, at));
        self.code(object, c, body)?;
        self.counters.pop();
        let next = c.b.ins().iadd_imm_s(pass, 1);
        c.b.ins().jump(head, &[BlockArg::Value(next)]);
        c.b.seal_block(head);
        c.enter(done);
        Ok(())
    }
}
