//! A module with a `torch.optim.Optimizer` around a shared library.

use super::gpu::Files;
use super::names::{Names, class_name};
use super::rule::{Built, HyperDecl};
use super::source::{self, Dialect, truth, tuple};
use crate::synthetic::Stored;
use optc_abi::DType;
use std::fmt::Write;

/// The module; `@TOKEN@`s are filled in.
const TEMPLATE: &str = include_str!("torch_template.py");

/// The part of it that launches kernels on GPUs, if there are some.
const GPU_TEMPLATE: &str = include_str!("torch_gpu_template.py");

/// What the class says where leaves are combined.
const ALL_LEAVES: &str = "    Numbers that the rule combines over all leaves (a norm of all gradients) are combined over all parameters with gradients, of all groups.\n\n";

/// Instead of it, if there are none.
const NO_GPU: &str = "def _gpu(device):
    \"\"\"This module has no kernels for GPUs.\"\"\"
    return None


_DevicePlan = None
";

/// `torch.float32`
fn dtype(d: DType) -> String {
    format!("torch.{}", source::dtype(d))
}

/// A hyperparameter in Python: its place in `betas`, or its own name.
pub(super) enum Argument {
    /// Number `k` of the tuple `betas`.
    Beta(usize),
    /// By itself.
    Own(String),
}

/// How the hyperparameters are passed: `beta1`, `beta2`, … together as `betas` where there are at least two.
pub(super) fn arguments(hyper: &[HyperDecl]) -> Vec<Argument> {
    let betas: Vec<&str> =
        hyper.iter().map(|h| h.name.as_str()).filter(|n| n.strip_prefix("beta").is_some_and(|k| k.parse::<usize>().is_ok())).collect();
    let together = betas.len() >= 2 && betas.iter().enumerate().all(|(k, n)| *n == format!("beta{}", k + 1));
    hyper
        .iter()
        .map(|h| match betas.iter().position(|b| *b == h.name) {
            Some(k) if together => Argument::Beta(k),
            _ => Argument::Own(h.name.clone()),
        })
        .collect()
}

/// The module's text; `kernels` are those for GPUs, or why there are none.
///
/// # Errors
/// An operation of the rule that torch has no form for.
pub fn module(built: &Built, names: &Names, summary: &str, kernels: Result<&Files, &str>) -> Result<String, String> {
    let name = &built.library.name;
    let Some(first) = built.variants.first() else { return Err("no element types".to_string()) };
    let passed = arguments(&built.hyper);
    let (rule, results) = source::source(&built.source.step, &built.source.inputs, Dialect::Torch)?;
    let mut body = rule;
    let _ = writeln!(body, "    return {}", tuple(&results));
    let rule_args = built.rule_arguments();
    let kept: Vec<String> = built
        .variants
        .iter()
        .map(|v| {
            let kinds: Vec<String> = v.states.iter().map(|s| dtype(s.dtype).to_string()).collect();
            format!("{}: [{}]", dtype(v.stored.dtype()), kinds.join(", "))
        })
        .collect();
    let states: Vec<String> = first.states.iter().zip(&names.states).map(|(s, n)| format!("({n:?}, {})", truth(s.scalar))).collect();
    let suffixes: Vec<String> =
        built.variants.iter().map(|v| format!("({}, {:?})", dtype(v.stored.dtype()), v.stored.dtype().name())).collect();
    let betas: Vec<String> =
        passed.iter().zip(&names.defaults).filter(|(a, _)| matches!(a, Argument::Beta(_))).map(|(_, d)| d.clone()).collect();
    let (mut init, mut checks, mut unpack, mut args, mut defaults) = (String::new(), String::new(), Vec::new(), String::new(), Vec::new());
    for ((h, a), default) in built.hyper.iter().zip(&passed).zip(&names.defaults) {
        let (value, label) = match a {
            Argument::Beta(k) => {
                if *k == 0 {
                    let _ = write!(init, ", betas={}", tuple(&betas));
                    defaults.push("betas=tuple(betas)".to_string());
                    let _ = writeln!(args, "        betas (tuple): {} (default: {})", betas_words(&built.hyper), tuple(&betas));
                }
                unpack.push(format!("group[\"betas\"][{k}]"));
                (format!("betas[{k}]"), format!("Invalid beta parameter at index {k}: {{betas[{k}]}}"))
            }
            Argument::Own(n) => {
                let _ = write!(init, ", {n}={default}");
                defaults.push(format!("{n}={n}"));
                let _ = writeln!(args, "        {n} (float): {} (default: {default})", words(h));
                unpack.push(format!("group[{n:?}]"));
                let label = match n.as_str() {
                    "lr" => "Invalid learning rate: {lr}".to_string(),
                    "eps" => "Invalid epsilon value: {eps}".to_string(),
                    _ => format!("Invalid {n} value: {{{n}}}"),
                };
                (n.clone(), label)
            }
        };
        let mut conditions = Vec::new();
        for (e, wide, strict) in [(h.value.low, ">=", ">"), (h.value.high, "<=", "<")] {
            if let Some((x, inclusive)) = e {
                conditions.push(format!("{value} {} {x:?}", if inclusive { wide } else { strict }));
            }
        }
        if !conditions.is_empty() {
            let _ = writeln!(checks, "        if not ({}):\n            raise ValueError(f\"{label}\")", conditions.join(" and "));
        }
    }
    let extra: String = names.extra.iter().map(|(k, v)| format!(", {k}={v}")).collect();
    let plural = |n: &String| format!("{n}s");
    let function_states: Vec<String> = names.states.iter().map(plural).collect();
    let counts = built.library.rules.iter().flat_map(|r| &r.functions).any(|f| f.name == "step" && f.flat.counts_steps());
    let divisible = first.states.iter().all(|s| !s.scalar) && !built.reduces();
    let (parts, list, combine) = source::contributions(built, Dialect::Torch)?;
    let folds = built.functions("step").map(|f| f.flat.folds()).max().unwrap_or(0);
    let hyper_names: Vec<String> = built.hyper.iter().map(|h| format!("{:?}", h.name)).collect();
    let kinds: Vec<&str> = built
        .variants
        .iter()
        .map(|v| v.stored)
        .map(|s| match s {
            Stored::F32 => "float32",
            Stored::F64 => "float64",
            Stored::Bf16 => "bfloat16",
        })
        .collect();
    let lead = |items: &[String]| items.iter().map(|i| format!(", {i}")).collect::<String>();
    let doc = format!("{summary}\n\nMade by optc {} from `{}`.", env!("CARGO_PKG_VERSION"), built.expression);
    let cuda = match kernels {
        Ok(files) => format!(", CUDA tensors of these types by the kernels in {}", files.ptx.0),
        Err(why) => format!(" (there are no kernels for GPUs: {why})"),
    };
    let capturable = match kernels {
        Ok(_) => {
            "accepted; on GPUs all steps can be recorded in graphs after the first, and read a learning rate that is a CUDA tensor there."
        }
        Err(_) => "accepted for CUDA tensors, where the step's number stays on the device's host.",
    };
    let with = |text: &str, without: &str| if kernels.is_ok() { text.to_string() } else { without.to_string() };
    let tokens: &[(&str, String)] = &[
        ("GPU_IMPORTS_TOO", with("import os\n", "")),
        ("GPU_IMPORTS_LAST", with("import warnings\n", "")),
        ("GPU_IMPORTS", with("import importlib.util\n", "")),
        ("GPU_PLANS", with(GPU_TEMPLATE, NO_GPU)),
        ("GPU_MODULE", kernels.map(|f| f.module.0.clone()).unwrap_or_default()),
        ("CAPTURABLE", capturable.to_string()),
        ("CUDA", cuda),
        ("DOC", doc),
        ("CLASS_DOC", summary.to_string()),
        ("CLASS", class_name(name)),
        ("FUNCTION_STATES", lead(&function_states)),
        ("FUNCTION_HYPER", lead(&built.hyper.iter().map(|h| h.name.clone()).collect::<Vec<_>>())),
        ("FUNCTION_VALUES", built.hyper.iter().map(|h| h.name.clone()).collect::<Vec<_>>().join(", ")),
        ("FUNCTION_LISTS", function_states.join(", ")),
        ("FUNCTION", name.clone()),
        ("NAME", name.clone()),
        ("LIBRARY", format!("lib{name}.so")),
        ("DTYPES", kinds.join(", ")),
        ("ABI", optc_cranelift::object::ABI.to_string()),
        ("HYPER", tuple(&hyper_names)),
        ("STATES", format!("[{}]", states.join(", "))),
        ("KEPT", format!("{{{}}}", kept.join(", "))),
        ("COUNTS", truth(counts).to_string()),
        ("ROUNDS", built.rounds().to_string()),
        ("FOLDS", (2 * folds).to_string()),
        ("PARTS_LIST", list),
        ("PARTS", parts),
        ("COMBINE", combine),
        ("ALL_LEAVES", if built.rounds() > 1 { ALL_LEAVES.to_string() } else { String::new() }),
        ("DIVISIBLE", truth(divisible).to_string()),
        ("SUFFIXES", format!("[{}]", suffixes.join(", "))),
        ("RULE_ARGS", rule_args.join(", ")),
        ("RULE", body),
        ("ARGS", args),
        ("INIT_ARGS", init),
        ("CHECKS", checks),
        ("DEFAULTS", defaults.join(", ")),
        ("EXTRA", extra),
        ("UNPACK", format!("        values = {}\n", tuple(&unpack))),
    ];
    let mut text = TEMPLATE.to_string();
    for (token, value) in tokens {
        text = text.replace(&format!("@{token}@"), value);
    }
    Ok(text)
}

fn betas_words(hyper: &[HyperDecl]) -> String {
    hyper.iter().filter(|h| h.name.starts_with("beta")).map(|h| h.name.as_str()).collect::<Vec<_>>().join(" and ")
}

/// What a hyperparameter may be, in words.
pub(super) fn words(h: &HyperDecl) -> String {
    let end =
        |e: Option<(f64, bool)>, wide: &str, strict: &str| e.map(|(x, inclusive)| format!("{} {x}", if inclusive { wide } else { strict }));
    let ends: Vec<String> = [end(h.value.low, "at least", "above"), end(h.value.high, "at most", "below")].into_iter().flatten().collect();
    if ends.is_empty() { "any number".to_string() } else { ends.join(", ") }
}
