//! Object files: functions over leaves whose length is known when they are called, and that need nothing of the runtime.
//!
//! A rule is flat if its plan for one leaf is scalar kernels followed by passes over the leaf in units of [`UNIT`] elements. Then the same kernels do for any length:
//! [`flatten`] reads the passes off the plan and refuses what is not of this form. On x86-64 every function is there twice, for processors with 256-bit registers and without;
//! the first call finds out which (`cpu.rs`), in both the results are the same bits.

mod cpu;
mod fixed;
mod flat;
mod function;
mod launches;
mod product;
mod spare;
mod staged;
mod work;
mod xla;

pub use fixed::{Array, Given, Whole, beyond, fixed, fixed_for_xla};
pub use flat::{Flat, NotFlat, Source, flatten};
pub use staged::{RoundOf, Stage, Staged};

use crate::isa::{self, Target};
use crate::{Error, assemble, kernel, kernel_function, wide};
use cranelift_codegen::Context;
use cranelift_codegen::ir::{self, AbiParam, types};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleRelocTarget};
use cranelift_object::{ObjectBuilder, ObjectModule};
use optc_ir::kernel::{Expr, Kernel, Stmt};
use optc_ir::scalar::ScalarOp;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// Elements of a leaf that one pass of a kernel's outer loop goes over.
pub const UNIT: i64 = optc_ir::kernel::FLAT_UNIT;

/// Codes that the functions return.
pub mod code {
    /// All went well.
    pub const OK: i32 = 0;
    /// A pointer that must not be null is.
    pub const NULL: i32 = 1;
    /// The caller was compiled with another header.
    pub const VERSION: i32 = 2;
    /// The step's number is not positive.
    pub const STEP: i32 = 3;
    /// There is no such round.
    pub const ROUND: i32 = 4;
    /// An index that was computed lies outside its axis.
    pub const INDEX: i32 = 5;
    /// Hyperparameter `k` (from 0) is outside its range: this plus `k`.
    pub const RANGE: i32 = 16;
}

/// Version of the layout that headers declare.
pub const ABI: u32 = 1;

/// A hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// Its default.
    pub default: f64,
    /// The lower end of its range: the number, and whether it belongs to the range.
    pub low: Option<(f64, bool)>,
    /// The upper end.
    pub high: Option<(f64, bool)>,
}

/// What a function does; all take the arrays of a leaf, numbered in one order, less those they have no use for.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name without that of the rule: `step`.
    pub name: &'static str,
    /// What it does.
    pub flat: Flat,
    /// Which arrays of a leaf it takes, in this order, by their number.
    pub takes: Vec<usize>,
    /// Whether it takes the number of the step and hyperparameters.
    pub stepping: bool,
    /// Its form for XLA, if it has one.
    pub xla: Option<Xla>,
}

/// What a function takes and gives in its form for XLA, for each leaf.
#[derive(Clone, Debug)]
pub struct Xla {
    /// Arrays that are operands; the first has all elements of the leaf.
    pub operands: Vec<usize>,
    /// Arrays that are results, with the bytes of an element; for an array of one element, its bytes negative. One that is also an operand is updated in place.
    pub results: Vec<(usize, i64)>,
}

/// All functions of one rule on one element type.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Prefix of the functions' names: `adamw_f32`.
    pub name: String,
    /// Its functions.
    pub functions: Vec<Function>,
}

/// What an object file holds.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// Prefix of what all rules share: `adamw`.
    pub name: String,
    /// Hyperparameters, in the order of the C structure.
    pub hyper: Vec<Hyper>,
    /// The rule on several element types.
    pub rules: Vec<Rule>,
    /// What each code means, from [`code::OK`] on.
    pub messages: Vec<(i32, String)>,
}

/// Makes an object file for a target: a triple such as `aarch64-unknown-linux-gnu`, or this machine's architecture.
///
/// # Errors
/// A target that Cranelift does not know; an operation that needs the runtime, in words.
pub fn object(library: &Library, triple: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut object = Object::new(library, isa::of_triple(triple)?)?;
    object.shared(library)?;
    let level = object.level()?;
    for rule in &library.rules {
        for function in &rule.functions {
            object.function(library, rule, function, level)?;
        }
    }
    object.module.finish().emit().map_err(|e| Error(e.to_string()))
}

fn trouble(e: cranelift_module::ModuleError) -> Error {
    Error(e.to_string())
}

/// An object file under construction.
struct Object {
    module: ObjectModule,
    /// Functions of the C library, by name.
    imported: FxHashMap<&'static str, FuncId>,
    /// The instruction sets code is made for, from the plainest.
    levels: Vec<Target>,
    /// What products call, by level.
    routines: FxHashMap<(usize, product::Routine), FuncId>,
    frontend: FunctionBuilderContext,
}

impl Object {
    fn new(library: &Library, levels: Vec<Target>) -> Result<Object, Error> {
        let around = levels[0].isa(crate::effort::Effort::Around).clone();
        let builder = ObjectBuilder::new(around, library.name.clone(), cranelift_module::default_libcall_names()).map_err(trouble)?;
        Ok(Object {
            module: ObjectModule::new(builder),
            imported: FxHashMap::default(),
            levels,
            routines: FxHashMap::default(),
            frontend: FunctionBuilderContext::new(),
        })
    }

    /// `NAME_defaults` and `NAME_error`.
    fn shared(&mut self, library: &Library) -> Result<(), Error> {
        self.defaults(library)?;
        self.errors(library)
    }

    /// Bytes that are only read, or zeros that are written.
    fn data(&mut self, contents: Option<Vec<u8>>, align: u64) -> Result<DataId, Error> {
        let id = self.module.declare_anonymous_data(contents.is_none(), false).map_err(trouble)?;
        let mut data = DataDescription::new();
        match contents {
            Some(bytes) => data.define(bytes.into_boxed_slice()),
            None => data.define_zeroinit(8),
        }
        data.set_align(align);
        self.module.define_data(id, &data).map_err(trouble)?;
        Ok(id)
    }

    /// The kernels of a function for one instruction set, as functions of the object. Those that compute places are refused unless `computed` places may be.
    fn kernels(
        &mut self,
        kernels: &[Kernel],
        wanted: &BTreeSet<usize>,
        level: usize,
        computed: bool,
    ) -> Result<FxHashMap<usize, FuncId>, Error> {
        let target = self.levels[level].clone();
        let mut done = FxHashMap::default();
        let mut context = Context::new();
        for &k in wanted {
            if !computed && indexes(&kernels[k].body) {
                return Err(Error("it reads elements at computed places, which may be out of range".to_string()));
            }
            context.clear();
            let call_conv = target.isa(crate::effort::Effort::Around).default_call_conv();
            let (func, built) = kernel_function(&kernels[k], call_conv, target.features, &mut self.frontend);
            context.func = func;
            let effort = if built.own_loops { crate::effort::Effort::Loops } else { crate::effort::Effort::Around };
            let mut code = assemble(target.isa(effort), &mut context)?;
            let mut loops = Vec::new();
            for program in &built.wide {
                let id = self.module.declare_anonymous_function(&kernel::wide_signature()).map_err(trouble)?;
                self.module.define_function_bytes(id, crate::WIDE_ALIGN, &wide::emit(program, false).0, &[]).map_err(trouble)?;
                loops.push(id);
            }
            for reloc in &mut code.relocs {
                match reloc.name {
                    ModuleRelocTarget::User { namespace: crate::WIDE_NAMESPACE, index } => reloc.name = loops[index as usize].into(),
                    ModuleRelocTarget::User { namespace: MATH_NAMESPACE, index } => reloc.name = self.math(index)?.into(),
                    _ => {}
                }
            }
            let id = self.module.declare_anonymous_function(&kernel::signature(call_conv)).map_err(trouble)?;
            self.module.define_function_bytes(id, code.align, &code.bytes, &code.relocs).map_err(trouble)?;
            done.insert(k, id);
        }
        Ok(done)
    }

    /// A function of the C library's mathematics, by its place in [`MATH`].
    fn math(&mut self, index: u32) -> Result<FuncId, Error> {
        let &(name, float, arity) = &MATH[index as usize];
        let mut signature = self.module.make_signature();
        signature.params.extend(std::iter::repeat_n(AbiParam::new(float), arity));
        signature.returns.push(AbiParam::new(float));
        self.import(name, &signature)
    }

    fn import(&mut self, name: &'static str, signature: &ir::Signature) -> Result<FuncId, Error> {
        if let Some(id) = self.imported.get(name) {
            return Ok(*id);
        }
        let id = self.module.declare_function(name, Linkage::Import, signature).map_err(trouble)?;
        self.imported.insert(name, id);
        Ok(id)
    }
}

/// Whether a kernel has places that are computed and checked.
fn indexes(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => indexes(body),
        Stmt::Let { expr, .. } => matches!(expr, Expr::CheckedIndex { .. }),
        _ => false,
    })
}

/// Names of functions of [`MATH`] in code of objects.
pub(crate) const MATH_NAMESPACE: u32 = 2;

/// Functions of the C library that stand for scalar operations: name, type, how many arguments.
const MATH: &[(&str, ir::Type, usize)] = &[
    ("fmod", types::F64, 2),
    ("pow", types::F64, 2),
    ("atan2", types::F64, 2),
    ("cbrt", types::F64, 1),
    ("exp", types::F64, 1),
    ("exp2", types::F64, 1),
    ("expm1", types::F64, 1),
    ("log", types::F64, 1),
    ("log1p", types::F64, 1),
    ("log2", types::F64, 1),
    ("sin", types::F64, 1),
    ("cos", types::F64, 1),
    ("tan", types::F64, 1),
    ("asin", types::F64, 1),
    ("acos", types::F64, 1),
    ("atan", types::F64, 1),
    ("sinh", types::F64, 1),
    ("cosh", types::F64, 1),
    ("tanh", types::F64, 1),
    ("asinh", types::F64, 1),
    ("acosh", types::F64, 1),
    ("atanh", types::F64, 1),
    ("erf", types::F64, 1),
    ("floor", types::F64, 1),
    ("ceil", types::F64, 1),
    ("rint", types::F64, 1),
    ("trunc", types::F64, 1),
    ("fma", types::F64, 3),
    ("fmaf", types::F32, 3),
];

/// The place in [`MATH`] of the function that computes an operation in f64.
pub(crate) fn math_of(op: ScalarOp) -> u32 {
    use ScalarOp::*;
    let name = match op {
        Rem => "fmod",
        Pow => "pow",
        Atan2 => "atan2",
        Cbrt => "cbrt",
        Exp => "exp",
        Exp2 => "exp2",
        Expm1 => "expm1",
        Log => "log",
        Log1p => "log1p",
        Log2 => "log2",
        Sin => "sin",
        Cos => "cos",
        Tan => "tan",
        Asin => "asin",
        Acos => "acos",
        Atan => "atan",
        Sinh => "sinh",
        Cosh => "cosh",
        Tanh => "tanh",
        Asinh => "asinh",
        Acosh => "acosh",
        Atanh => "atanh",
        Erf => "erf",
        Floor => "floor",
        Ceil => "ceil",
        Round => "rint",
        Trunc => "trunc",
        Fma => "fma",
        _ => panic!("compiler bug: no function for {}", op.name()),
    };
    place(name)
}

/// The place of a function in [`MATH`].
pub(crate) fn place(name: &str) -> u32 {
    MATH.iter().position(|(n, ..)| *n == name).unwrap_or_else(|| panic!("compiler bug: {name} is not in the table")) as u32
}

/// Type and number of arguments of a function of [`MATH`].
pub(crate) fn math_signature(index: u32) -> (ir::Type, usize) {
    let (_, float, arity) = MATH[index as usize];
    (float, arity)
}
