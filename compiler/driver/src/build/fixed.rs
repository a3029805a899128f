//! An optimizer as functions over leaves of given shapes: any rule but those that need the runtime's factorizations, the loss, or data.

use super::lower::{Refused, Update};
use super::roll::{Role, reads_loss};
use super::rule::{self, GRADIENT, HyperDecl, STATES, StateDecl, WEIGHT, c_name};
use super::{Emit, Request, archive, header, shared, write_file};
use crate::commands::explain;
use crate::cost;
use crate::messages::Messages;
use crate::pipeline::{self, CompileOptions, Timings};
use crate::session::Failed;
use crate::synthetic::{self, Stored};
use optc_abi::DType;
use optc_cranelift::object::{self, ABI, Given, Library, Source, Whole, code};
use optc_ir::Graph;
use optc_ir::graph::Ty;
use optc_ir::kernel::Kernel;
use std::fmt::Write;
use std::path::PathBuf;

/// A state in the table of arrays.
pub struct Kept {
    /// Its name.
    pub name: String,
    /// For each leaf its type, if the leaf has it; one for all if they share it.
    pub of: Vec<Option<Ty>>,
    /// All leaves share it.
    pub shared: bool,
}

/// The rule on one element type.
pub struct Variant {
    /// How weights and gradients are kept.
    pub stored: Stored,
    /// States, in the order of the table, behind the weights and gradients of all leaves.
    pub states: Vec<Kept>,
    /// `step` and `init`.
    pub functions: Vec<Whole>,
    /// Whether random numbers are drawn.
    pub seeded: bool,
}

impl Variant {
    /// Bytes of memory that the functions need.
    pub fn work(&self) -> usize {
        self.functions.iter().map(Whole::work).max().unwrap_or(0)
    }

    /// Entries of the table before state `k`.
    fn before(&self, k: usize, leaves: usize) -> usize {
        2 * leaves + self.states[..k].iter().map(|s| s.of.len()).sum::<usize>()
    }
}

/// A rule ready for an object file.
pub struct Fixed {
    /// The expression it was built from.
    pub expression: String,
    /// Names, hyperparameters, messages.
    pub library: Library,
    /// Hyperparameters.
    pub hyper: Vec<HyperDecl>,
    /// Shapes of the leaves.
    pub shapes: Vec<Vec<usize>>,
    /// The rule on each element type.
    pub variants: Vec<Variant>,
}

impl Fixed {
    /// Prefixes of names, and functions.
    fn rules(&self) -> Vec<(String, Vec<Whole>)> {
        let name = |v: &Variant| format!("{}_{}", self.library.name, v.stored.dtype().name());
        self.variants.iter().map(|v| (name(v), v.functions.clone())).collect()
    }
}

/// What is made for given shapes.
const MADE: &[Emit] = &[Emit::Obj, Emit::Header, Emit::Staticlib, Emit::Cdylib, Emit::Clif, Emit::Asm];

/// Builds, and tells which files were written.
///
/// # Errors
/// As [`super::build`].
pub fn build(request: &Request<'_>, messages: &Messages) -> Result<Vec<PathBuf>, Failed> {
    if request.emit.iter().any(|e| matches!(e, Emit::Torch | Emit::Jax)) {
        return super::leafwise::build(request, messages);
    }
    if let Some(emit) = request.emit.iter().find(|e| !MADE.contains(e)) {
        let what =
            format!("`--shapes` makes object files, libraries and modules for torch and JAX, not {}", format!("{emit:?}").to_lowercase());
        messages.error(
            "",
            &what,
            Some("`optc.torch.Optimizer` and `optc.optimizer` of the Python module compile any rule for the shapes at hand"),
        );
        return Err(crate::wrong_usage());
    }
    let fixed = lower(request, messages)?;
    let refused = |e: optc_cranelift::Error| {
        let why = format!("`{}` has no form without the runtime: {e}", request.optimizer);
        messages.error("R0130", &why, Some("`optc.optimizer` and `optc.torch.Optimizer` of the Python module have the runtime with them"));
        Failed
    };
    let object = object::fixed(&fixed.library, &fixed.rules(), request.target).map_err(refused)?;
    let name = &fixed.library.name;
    let mut files = Vec::new();
    for emit in request.emit {
        files.push(match emit {
            Emit::Obj => write_file(request, &format!("{name}.o"), &object, messages)?,
            Emit::Header => write_file(request, &format!("{name}.h"), text(&fixed).as_bytes(), messages)?,
            Emit::Staticlib => {
                let mut symbols = vec![format!("{name}_defaults"), format!("{name}_error")];
                symbols.extend(fixed.rules().iter().flat_map(|(prefix, f)| f.iter().map(move |f| format!("{prefix}_{}", f.name))));
                write_file(request, &format!("lib{name}.a"), &archive::archive(&format!("{name}.o"), &object, &symbols), messages)?
            }
            Emit::Cdylib => shared(request, name, &object, messages)?,
            Emit::Clif => write_file(request, &format!("{name}.clif"), shown(&fixed, optc_cranelift::clif).as_bytes(), messages)?,
            Emit::Asm => write_file(request, &format!("{name}.asm"), shown(&fixed, optc_cranelift::asm).as_bytes(), messages)?,
            _ => continue,
        });
    }
    Ok(files)
}

fn shown(fixed: &Fixed, print: impl Fn(&[Kernel], &optc_abi::plan::Plan) -> String) -> String {
    let each = |(prefix, functions): &(String, Vec<Whole>)| -> String {
        functions.iter().map(|f| format!("; ==== {prefix}_{}\n{}\n", f.name, print(&f.kernels, &f.plan))).collect()
    };
    fixed.rules().iter().map(each).collect()
}

/// Lowers the rule for its leaves. What is wrong has been printed.
///
/// # Errors
/// As [`super::build`].
pub fn lower(request: &Request<'_>, messages: &Messages) -> Result<Fixed, Failed> {
    let name = c_name(request, messages)?;
    let mut fixed = Fixed {
        expression: synthetic::completed(request.optimizer, request.file),
        library: Library { name, ..Library::default() },
        hyper: Vec::new(),
        shapes: request.shapes.to_vec(),
        variants: Vec::new(),
    };
    for &stored in request.stored {
        let help = "`optc.torch.Optimizer` and `optc.optimizer` of the Python module have the runtime with them";
        let lowered = attempt(request, stored).map_err(|refused| refused.print(request, "without the runtime", help, messages));
        let (variant, hyper) = lowered?;
        fixed.hyper = hyper;
        fixed.variants.push(variant);
    }
    fixed.library.hyper = fixed.hyper.iter().map(|h| h.value.clone()).collect();
    fixed.library.messages = rule::messages_of(&fixed.library.name, &fixed.hyper);
    fixed.library.messages.push((code::INDEX, "an index that was computed lies outside its axis".to_string()));
    Ok(fixed)
}

/// Lowers the rule on one element type.
///
/// # Errors
/// Why it is not.
pub fn attempt(request: &Request<'_>, stored: Stored) -> Result<(Variant, Vec<HyperDecl>), Refused> {
    let found = explain::find_optimizer_step(request.optimizer, request.file, request.shapes, stored, 1);
    let (program, session, transform) = found.map_err(|s| Refused::Spec(Box::new(s)))?;
    if transform {
        return Err(Refused::Transform);
    }
    if let Some(how) = program.step.asked_again.first() {
        return Err(Refused::Beyond(format!("it looks at the loss again (`{how}`)")));
    }
    let update = Update::new(&program, request.shapes);
    let (graph, roles) = update.graph(&program);
    if reads_loss(&graph) {
        return Err(Refused::Beyond("it reads the value of the loss".to_string()));
    }
    let leaves = request.shapes.len();
    let slot = |leaf: Option<usize>, state: usize| {
        let found = update.slots.iter().position(|r| r.leaf == leaf && r.source == Source::Array(STATES + state));
        found.map(|k| program.slots[k].ty.clone())
    };
    let states: Vec<Kept> = update
        .declared()
        .into_iter()
        .enumerate()
        .map(|(s, StateDecl { name, .. })| match update.states[s].shared {
            true => Kept { name, of: vec![slot(None, s)], shared: true },
            false => Kept { name, of: (0..leaves).map(|k| slot(Some(k), s)).collect(), shared: false },
        })
        .collect();
    let mut variant = Variant { stored, states, functions: Vec::new(), seeded: false };
    let given = |role: &Role, name: &str| match role.source {
        Source::Array(WEIGHT) => Given::Array(role.leaf.unwrap_or(0)),
        Source::Array(GRADIENT) => Given::Array(leaves + role.leaf.unwrap_or(0)),
        Source::Array(k) => Given::Array(variant.before(k - STATES, leaves) + role.leaf.unwrap_or(0)),
        Source::Counter => Given::Counter,
        Source::Hyper(k) => Given::Hyper(k),
        _ if name == "key" => Given::Seed,
        _ => Given::Nothing,
    };
    let all = |graph: &Graph, roles: &[Role]| -> Vec<Given> { graph.inputs.iter().zip(roles).map(|(i, r)| given(r, &i.name)).collect() };
    // As a run has it, but for the count of steps, which is the caller's.
    let (_, options) = cost::update_only(&program);
    let kept = update.kept();
    let alias = kept.iter().enumerate().map(|(output, &slot)| (output, slot)).collect();
    let inputs = all(&graph, &roles);
    let outputs: Vec<Given> = kept.iter().map(|&k| given(&update.slots[k], "")).collect();
    let step = whole("step", graph, &CompileOptions { alias, ..options }, inputs, outputs, true);
    let (start, roles, to) = update.start(&program);
    let (inputs, outputs) = (all(&start, &roles), to.iter().map(|r| given(r, "")).collect());
    let init = whole("init", start, &CompileOptions::default(), inputs, outputs, false);
    if let Some(why) = object::beyond(&step.plan).or_else(|| object::beyond(&init.plan)) {
        return Err(Refused::Beyond(why));
    }
    let seeded = step.seeded || init.seeded;
    variant.functions = vec![Whole { seeded, ..step }, Whole { seeded, ..init }];
    variant.seeded = seeded;
    Ok((variant, rule::hyperparameters(&program, &session)))
}

fn whole(name: &'static str, graph: Graph, options: &CompileOptions, inputs: Vec<Given>, outputs: Vec<Given>, stepping: bool) -> Whole {
    let pipeline::Stages { planned, simplified } = pipeline::plan(graph, options, &mut Timings::default());
    let live = simplified.live();
    let seeded = simplified.inputs.iter().zip(&inputs).any(|(i, g)| *g == Given::Seed && live[i.node.index()]);
    let kernels = planned.kernels.into_iter().map(|k| k.kernel).collect();
    Whole { name, plan: planned.plan, kernels, inputs, outputs, stepping, seeded }
}

/// The header.
pub fn text(fixed: &Fixed) -> String {
    let (name, upper) = (&fixed.library.name, fixed.library.name.to_uppercase());
    let leaves = fixed.shapes.len();
    let shape = |s: &[usize]| s.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
    let mut h = String::new();
    let _ = writeln!(
        h,
        "/* {name}: an optimizer, made by optc {} from `{}`, for {leaves} leaves:\n *",
        env!("CARGO_PKG_VERSION"),
        fixed.expression.replace("*/", "* /")
    );
    for (k, s) in fixed.shapes.iter().enumerate() {
        let _ = writeln!(h, " *   {k}: {}", shape(s));
    }
    let _ = write!(
        h,
        " *
 * Fill the structure with the addresses of all arrays, elements in row-major order. Begin with {name}_defaults and call _init once, then _step with the number of the
 * step, t = 1, 2, ... Arrays must not overlap; they need no more than the alignment of their elements. `work` is memory of as many bytes as the constant says, aligned to
 * 64 bytes; nothing in it matters between calls. Nothing is allocated. Which instructions the processor has is found in the first call and kept in one word; nothing else is
 * kept from call to call, so calls with other arrays and other memory may run in different threads. All functions return 0 or one of the codes below.
 */
#ifndef OPTC_{upper}_H
#define OPTC_{upper}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {{
#endif

#define {upper}_ABI {ABI}
#define {upper}_LEAVES {leaves}

"
    );
    header::declarations(&mut h, name, &fixed.hyper, &fixed.library.messages);
    for (variant, (prefix, functions)) in fixed.variants.iter().zip(fixed.rules()) {
        let kind = header::c_type(variant.stored.dtype());
        let _ = writeln!(h, "\n#define {}_WORK {} /* bytes */", prefix.to_uppercase(), variant.work());
        let _ = writeln!(h, "typedef struct {prefix}_arrays {{\n  {kind} *w[{leaves}];\n  const {kind} *g[{leaves}];");
        for state in &variant.states {
            let kinds: Vec<DType> = state.of.iter().flatten().map(|t| t.dtype).collect();
            let kind = if kinds.windows(2).all(|k| k[0] == k[1]) { kinds.first().map_or("void", |&d| header::c_type(d)) } else { "void" };
            if state.shared {
                let _ = writeln!(h, "  {kind} *{}; /* of all leaves */", state.name);
                continue;
            }
            let mut notes = Vec::new();
            for (k, ty) in state.of.iter().enumerate() {
                match ty {
                    None => notes.push(format!("{k}: none")),
                    Some(ty) if ty.shape[..] != fixed.shapes[k][..] || kind == "void" => {
                        let own = if kind == "void" { format!("{} ", header::c_type(ty.dtype)) } else { String::new() };
                        notes.push(format!("{k}: {own}{}", if ty.shape.is_empty() { "1".to_string() } else { shape(&ty.shape) }));
                    }
                    Some(_) => {}
                }
            }
            let notes = if notes.is_empty() { String::new() } else { format!(" /* {} */", notes.join(", ")) };
            let _ = writeln!(h, "  {kind} *{}[{leaves}];{notes}", state.name);
        }
        let _ = writeln!(h, "}} {prefix}_arrays;");
        for f in functions {
            let steps = if f.stepping { format!(", int32_t t, const {name}_hyper *hyper") } else { String::new() };
            let seed = if f.seeded { ", uint64_t seed" } else { "" };
            let _ = writeln!(h, "int32_t {prefix}_{}(const {prefix}_arrays *arrays, void *work{steps}{seed});", f.name);
        }
    }
    h.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    h
}
