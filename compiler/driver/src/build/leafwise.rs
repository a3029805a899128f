//! Classes for torch and transformations for Optax of rules that have to know the shapes of their leaves: one set of functions for each shape, for any number of parameters of these.

use super::fixed::{self, Variant};
use super::lower::{Refused, Update};
use super::names::{self, Key, Names, class_name};
use super::rule::{self, HyperDecl, c_name};
use super::source::{dtype, truth, tuple};
use super::torch::words;
use super::{Emit, Request, shared, write_file};
use crate::commands::explain;
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic::{self, Stored};
use optc_cranelift::object::{self, ABI, Array, Given, Library, Source, Whole, code};
use optc_ir::graph::NodeId;
use rustc_hash::FxHashSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// The modules; `@TOKEN@`s are filled in.
const TORCH: &str = include_str!("torch_leafwise_template.py");
const JAX: &str = include_str!("jax_leafwise_template.py");
const HELP: &str = "`optc.torch.Optimizer` of the Python module compiles any rule for the parameters at hand";

/// The rule for leaves of one shape and element type.
struct Form {
    /// `adafactor_f32_512x512`
    prefix: String,
    shape: Vec<usize>,
    variant: Variant,
}

impl Form {
    /// What a function's form for XLA takes and gives, in the order of the table.
    fn arrays(&self, function: &str) -> Vec<Array> {
        let width = self.variant.stored.dtype().size();
        let bytes = self.shape.iter().product::<usize>() * width;
        let step = function == "step";
        let states = self.variant.states.iter().map(|s| match s.of.first() {
            Some(Some(ty)) => Array { read: step, written: true, bytes: ty.len() * ty.dtype.size() },
            _ => Array { read: false, written: false, bytes: 0 },
        });
        let gradient = Array { read: step, written: false, bytes };
        [Array { read: true, written: step, bytes }, gradient].into_iter().chain(states).collect()
    }
}

/// Builds, and tells which files were written.
///
/// # Errors
/// As [`super::build`].
pub fn build(request: &Request<'_>, messages: &Messages) -> Result<Vec<PathBuf>, Failed> {
    if request.emit.iter().any(|e| !matches!(e, Emit::Torch | Emit::Jax)) {
        messages.error(
            "",
            "for given shapes `--emit torch,jax` has no others beside",
            Some("a second call makes the object file of all leaves"),
        );
        return Err(crate::wrong_usage());
    }
    let name = c_name(request, messages)?;
    let refused = |r: Refused| r.print(request, "for each leaf by itself", HELP, messages);
    let mut shapes: Vec<Vec<usize>> = Vec::new();
    for shape in request.shapes {
        if !shapes.contains(shape) {
            shapes.push(shape.clone());
        }
    }
    let (mut forms, mut hyper): (Vec<Form>, Vec<HyperDecl>) = (Vec::new(), Vec::new());
    let mut doc = String::new();
    for &stored in request.stored {
        doc = by_itself(request, stored).map_err(refused)?;
        for shape in &shapes {
            let alone = Request { shapes: std::slice::from_ref(shape), ..*request };
            let (mut variant, own) = fixed::attempt(&alone, stored).map_err(refused)?;
            let places = joined(&mut hyper, own).map_err(refused)?;
            for given in variant.functions.iter_mut().flat_map(|f| &mut f.inputs) {
                if let Given::Hyper(k) = given {
                    *k = places[*k];
                }
            }
            let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
            forms.push(Form { prefix: format!("{name}_{}_{}", stored.dtype().name(), extents.join("x")), shape: shape.clone(), variant });
        }
    }
    let mut library = Library { name: name.clone(), ..Library::default() };
    library.hyper = hyper.iter().map(|h| h.value.clone()).collect();
    library.messages = rule::messages_of(&name, &hyper);
    library.messages.push((code::INDEX, "an index that was computed lies outside its axis".to_string()));
    let rules: Vec<(String, Vec<Whole>)> = forms.iter().map(|f| (f.prefix.clone(), f.variant.functions.clone())).collect();
    let arrays: Vec<Vec<Vec<Array>>> = match request.emit.contains(&Emit::Jax) {
        true => forms.iter().map(|f| ["step", "init"].map(|function| f.arrays(function)).to_vec()).collect(),
        false => Vec::new(),
    };
    let object = object::fixed_for_xla(&library, &rules, &arrays, request.target);
    let object = object.map_err(|e| refused(Refused::Beyond(e.to_string())))?;
    let mut files = vec![shared(request, &name, &object, messages)?];
    for emit in request.emit {
        let (framework, text) = match emit {
            Emit::Torch => ("torch", torch(request, &name, &forms, &hyper, &doc)),
            _ => ("optax", jax(request, &name, &forms, &hyper, &doc)),
        };
        files.push(write_file(request, &format!("{name}_{framework}.py"), text.as_bytes(), messages)?);
    }
    Ok(files)
}

/// Adds the hyperparameters of one form to those of all, and gives their places there.
fn joined(all: &mut Vec<HyperDecl>, own: Vec<HyperDecl>) -> Result<Vec<usize>, Refused> {
    let place = |h: HyperDecl| match all.iter().position(|known| known.name == h.name) {
        Some(k) if all[k] == h => Ok(k),
        Some(_) => Err(Refused::Beyond(format!("its hyperparameter `{}` depends on the shape of a leaf", h.name))),
        None => {
            all.push(h);
            Ok(all.len() - 1)
        }
    };
    own.into_iter().map(place).collect()
}

/// Refuses rules in which leaves have something in common; gives the documentation.
fn by_itself(request: &Request<'_>, stored: Stored) -> Result<String, Refused> {
    let shape = request.shapes.first().cloned().unwrap_or_default();
    let pair = [shape.clone(), shape];
    let found = explain::find_optimizer_step(request.optimizer, request.file, &pair, stored, 1);
    let (program, session, _) = found.map_err(|s| Refused::Spec(Box::new(s)))?;
    let update = Update::new(&program, &pair);
    let (graph, roles) = update.graph(&program);
    let kept = update.kept();
    let reached = |from: NodeId| {
        let (mut todo, mut seen) = (vec![from], FxHashSet::default());
        while let Some(n) = todo.pop() {
            if seen.insert(n) {
                todo.extend(graph.node(n).operands.iter().copied());
            }
        }
        seen
    };
    for (&output, &slot) in graph.outputs.iter().zip(&kept) {
        let (own, seen) = (update.slots[slot].leaf, reached(output));
        let strange = |(input, role): (&optc_ir::graph::Input, &super::roll::Role)| {
            seen.contains(&input.node) && matches!(role.source, Source::Array(_)) && role.leaf != own
        };
        if graph.inputs.iter().zip(&roles).any(strange) {
            return Err(Refused::Beyond("its leaves have numbers in common".to_string()));
        }
    }
    Ok(rule::documentation(&session, request.optimizer))
}

/// Names of the states that any form has.
fn states(forms: &[Form]) -> Vec<String> {
    let mut states: Vec<String> = Vec::new();
    for state in forms.iter().flat_map(|f| &f.variant.states) {
        if !states.contains(&state.name) {
            states.push(state.name.clone());
        }
    }
    states
}

/// Extents in Python.
fn shape(dims: &[usize]) -> String {
    tuple(&dims.iter().map(usize::to_string).collect::<Vec<_>>())
}

/// The first sentence of the documentation.
fn summary(doc: &str, expression: &str) -> String {
    doc.lines().next().map(str::trim).filter(|l| !l.is_empty()).unwrap_or(expression).to_string()
}

fn head(doc: &str, expression: &str) -> String {
    format!("{}\n\nMade by optc {} from `{expression}`.", summary(doc, expression), env!("CARGO_PKG_VERSION"))
}

fn filled(template: &str, tokens: &[(&str, String)]) -> String {
    tokens.iter().fold(template.to_string(), |text, (token, value)| text.replace(&format!("@{token}@"), value))
}

/// The text of the module for Optax.
fn jax(request: &Request<'_>, name: &str, forms: &[Form], hyper: &[HyperDecl], doc: &str) -> String {
    let expression = synthetic::completed(request.optimizer, request.file);
    let states = states(forms);
    let names = names::of(&states, hyper, &expression, doc, "optax");
    let mut table = String::new();
    for form in forms {
        let of_leaf = states.iter().map(|name| {
            let state = form.variant.states.iter().find(|s| s.name == *name).and_then(|s| s.of.first()?.as_ref());
            state.map_or("None".to_string(), |ty| format!("({:?}, {})", dtype(ty.dtype), shape(&ty.shape)))
        });
        let (kind, of_leaf) = (dtype(form.variant.stored.dtype()), of_leaf.collect::<Vec<_>>().join(", "));
        let _ = writeln!(table, "    ({kind:?}, {}): ({:?}, [{of_leaf}], {}),", shape(&form.shape), form.prefix, form.variant.work());
    }
    let arguments: Vec<String> = hyper.iter().map(|h| super::jax::argument(&h.name)).collect();
    let tokens: Vec<(&str, String)> = vec![
        ("DOC", head(doc, &expression)),
        ("SUMMARY", summary(doc, &expression)),
        ("CLASS", class_name(name)),
        ("FUNCTION", name.to_string()),
        ("LIBRARY", format!("lib{name}.so")),
        ("FORMS", table),
        ("FIELDS", names.states.iter().map(|n| format!("    {n}: optax.Updates\n")).collect()),
        ("STATES", states.len().to_string()),
        ("ARGS", arguments.iter().zip(&names.defaults).map(|(a, d)| format!("{a}={d}, ")).collect()),
        ("VALUES", arguments.join(", ")),
    ];
    let text = filled(JAX, &tokens);
    // Modules of one name with other code must not share a target.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    text.replace("@FINGERPRINT@", &format!("{:08x}", hasher.finish() as u32))
}

/// The text of the module for torch.
fn torch(request: &Request<'_>, name: &str, forms: &[Form], hyper: &[HyperDecl], doc: &str) -> String {
    let expression = synthetic::completed(request.optimizer, request.file);
    let states = states(forms);
    let names: Names = names::of(&states, hyper, &expression, doc, "torch");
    let shown = |state: &str| states.iter().position(|s| s == state).map_or(state, |k| names.states[k].as_str()).to_string();
    let mut table = String::new();
    for form in forms {
        let of_leaf = form.variant.states.iter().map(|s| match s.of.first() {
            Some(Some(ty)) => format!("({:?}, torch.{}, {})", shown(&s.name), dtype(ty.dtype), shape(&ty.shape)),
            _ => "None".to_string(),
        });
        let _ = writeln!(
            table,
            "    (torch.{}, {}): ({:?}, [{}], {}, {:?}),",
            dtype(form.variant.stored.dtype()),
            shape(&form.shape),
            form.prefix,
            of_leaf.collect::<Vec<_>>().join(", "),
            form.variant.work(),
            form.variant.functions.iter().map(|f| u8::from(f.seeded)).collect::<Vec<_>>()
        );
    }
    let seeded = forms.iter().any(|f| f.variant.seeded);
    let keys = keys(hyper, &names);
    let (mut init, mut defaults, mut args, mut values) = (String::new(), Vec::new(), String::new(), Vec::new());
    for (key, parts) in &keys {
        let default = match &parts[..] {
            [(None, _, default)] => default.clone(),
            _ => tuple(&parts.iter().map(|p| p.2.clone()).collect::<Vec<_>>()),
        };
        let _ = write!(init, ", {key}={default}");
        defaults.push(format!("{key}={key}"));
        let what: Vec<String> = parts.iter().map(|p| format!("{} ({})", hyper[p.1].name, words(&hyper[p.1]))).collect();
        let _ = writeln!(args, "        {key}: {} (default: {default})", what.join(", "));
    }
    for (k, _) in hyper.iter().enumerate() {
        let key = &names.keys[k];
        let place = key.place.map_or(String::new(), |p| format!("[{p}]"));
        let sign = if key.negated { "-" } else { "" };
        values.push(format!("{sign}_number(group[{:?}]{place}, dtype)", key.name));
    }
    if seeded {
        init.push_str(", seed=0");
        defaults.push("seed=seed".to_string());
        args.push_str("        seed (int): what random numbers depend on, beside the step and the place of the parameter (default: 0)\n");
    }
    let tokens: &[(&str, String)] = &[
        ("DOC", head(doc, &expression)),
        ("CLASS_DOC", summary(doc, &expression)),
        ("CLASS", class_name(name)),
        ("NAME", name.to_string()),
        ("LIBRARY", format!("lib{name}.so")),
        ("ABI", ABI.to_string()),
        ("HYPER", tuple(&hyper.iter().map(|h| format!("{:?}", h.name)).collect::<Vec<_>>())),
        ("FORMS", table),
        ("SEEDED", truth(seeded).to_string()),
        ("ARGS", args),
        ("INIT_ARGS", init),
        ("DEFAULTS", defaults.join(", ")),
        ("EXTRA", names.extra.iter().map(|(k, v)| format!(", {k}={v}")).collect()),
        ("EXTRA_ONLY", names.extra.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")),
        ("VALUES", tuple(&values)),
    ];
    filled(TORCH, tokens)
}

/// A key of a group, and for each of its places the hyperparameter and its default.
type Parts = (String, Vec<(Option<usize>, usize, String)>);

/// The keys of a group, in the order of the hyperparameters.
fn keys(hyper: &[HyperDecl], names: &Names) -> Vec<Parts> {
    let mut found: Vec<Parts> = Vec::new();
    for k in 0..hyper.len() {
        let Key { name, place, negated, default } = &names.keys[k];
        let value = match default {
            Some(written) => written.clone(),
            None if *negated => format!("-{}", names.defaults[k]),
            None => names.defaults[k].clone(),
        };
        let at = found.iter().position(|f| f.0 == *name).unwrap_or_else(|| {
            found.push((name.clone(), Vec::new()));
            found.len() - 1
        });
        found[at].1.push((*place, k, value));
        found[at].1.sort_by_key(|p| p.0);
    }
    found
}
