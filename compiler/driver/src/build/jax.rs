//! A module with an Optax transformation: the rule in `jax.numpy`, and on XLA's foreign function interface around a shared library.

use super::names::{Names, class_name};
use super::rule::{Built, MOMENTS};
use super::source::{self, Dialect, dtype, truth, tuple};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The module; `@TOKEN@`s are filled in.
const TEMPLATE: &str = include_str!("jax_template.py");

/// What Optax calls a hyperparameter: `b1` for `beta1`, `learning_rate` for `lr`.
pub(super) fn argument(name: &str) -> String {
    match name.strip_prefix("beta") {
        Some(k) if !k.is_empty() && k.bytes().all(|c| c.is_ascii_digit()) => format!("b{k}"),
        _ if name == "lr" => "learning_rate".to_string(),
        _ => name.to_string(),
    }
}

/// The module's text.
///
/// # Errors
/// An operation of the rule that has no form in `jax.numpy`.
pub fn module(built: &Built, names: &Names, summary: &str) -> Result<String, String> {
    let name = &built.library.name;
    let Some(first) = built.variants.first() else { return Err("no element types".to_string()) };
    let (rule, results) = source::source(&built.source.delta, &built.source.inputs, Dialect::Jax)?;
    let mut body = rule;
    let _ = writeln!(body, "    return {}", tuple(&results));
    let apart = built.source.change.as_ref().filter(|_| built.functions(MOMENTS).count() == built.variants.len());
    let mut change = String::new();
    if let Some(graph) = apart {
        let (text, results) = source::source(graph, &built.source.inputs, Dialect::Jax)?;
        let result = results.first().map_or("None", |r| r.as_str());
        change = format!(
            "@functools.partial(jax.jit, static_argnums=1)\ndef _change(t, dtype, {}):\n    \"\"\"The change of the weight as a function of the states after step `t`.\"\"\"\n{text}    return {result}\n\n\n",
            built.rule_arguments().join(", ")
        );
    }
    let rule_args = built.rule_arguments();
    let (parts, list, combine) = source::contributions(built, Dialect::Jax)?;
    let init_inputs: Vec<String> = built.source.init.inputs.iter().map(|i| i.name.clone()).collect();
    let (mut initial, drawn) = source::source(&built.source.init, &init_inputs, Dialect::Jax)?;
    let mut drawn = drawn.into_iter();
    let mut fresh = Vec::new();
    for (state, fill) in first.states.iter().zip(&built.source.fills) {
        let kind = dtype(state.dtype);
        fresh.push(match fill {
            Some(x) if state.scalar => format!("jnp.full((), {x:?}, jnp.{kind})"),
            Some(0.0) => format!("jnp.zeros_like(w, dtype=jnp.{kind})"),
            Some(x) => format!("jnp.full_like(w, {x:?}, dtype=jnp.{kind})"),
            // A fresh array: states are overwritten in place, the weights are not theirs.
            None => format!("jnp.array({}, copy=True)", drawn.next().unwrap_or_default()),
        });
    }
    let _ = writeln!(initial, "    return {}", tuple(&fresh));
    let kept: Vec<String> = built
        .variants
        .iter()
        .map(|v| {
            let kinds: Vec<String> = v.states.iter().map(|s| format!("{:?}", dtype(s.dtype))).collect();
            format!("({:?}, {})", dtype(v.stored.dtype()), tuple(&kinds))
        })
        .collect();
    let suffixes: Vec<String> =
        built.variants.iter().map(|v| format!("({:?}, {:?})", v.stored.dtype().name(), dtype(v.stored.dtype()))).collect();
    let kinds: Vec<&str> = built.variants.iter().map(|v| dtype(v.stored.dtype())).collect();
    let weight = built.source.inputs.iter().position(|i| i == "w");
    let mut graphs = [&built.source.delta].into_iter().chain(built.source.rounds.iter().map(|r| &r.graph));
    let needs = weight.is_some_and(|k| graphs.any(|g| g.live()[g.inputs[k].node.index()]));
    let arguments: Vec<String> = built.hyper.iter().map(|h| argument(&h.name)).collect();
    let defaults: Vec<String> = arguments.iter().zip(&names.defaults).map(|(a, d)| format!("{a}={d}")).collect();
    let fields: String = names.states.iter().map(|n| format!("    {n}: optax.Updates\n")).collect();
    let doc = format!("{summary}\n\nMade by optc {} from `{}`.", env!("CARGO_PKG_VERSION"), built.expression);
    let tokens: Vec<(&str, String)> = vec![
        ("DOC", doc),
        ("SUMMARY", summary.to_string()),
        ("CLASS", class_name(name)),
        ("FUNCTION", name.clone()),
        ("LIBRARY", format!("lib{name}.so")),
        ("DTYPES", kinds.join(", ")),
        ("SUFFIXES", tuple(&suffixes)),
        ("NAME", name.clone()),
        ("SINGLE", tuple(&first.states.iter().map(|s| truth(s.scalar).to_string()).collect::<Vec<_>>())),
        ("KEPT", tuple(&kept)),
        ("NEEDS_WEIGHTS", truth(needs).to_string()),
        ("NEEDS", if needs { String::new() } else { ", or not: this rule does not read them".to_string() }),
        ("IN_PLACE", truth(built.variants.iter().all(|v| v.change_in_place)).to_string()),
        ("FIELDS", if fields.is_empty() { String::new() } else { format!("{fields}\n") }),
        ("RULE_ARGS", rule_args.join(", ")),
        ("PARTS_LIST", list),
        ("PARTS", parts),
        ("COMBINE", combine),
        ("REDUCES", truth(built.reduces()).to_string()),
        ("CHANGE", change),
        ("APART", truth(apart.is_some()).to_string()),
        ("KINDS", if apart.is_some() { "\"delta\", \"step\", \"moments\"" } else { "\"delta\", \"step\"" }.to_string()),
        ("RULE", body),
        ("INITIAL", initial),
        ("ARGS", defaults.iter().map(|d| format!("{d}, ")).collect()),
        ("VALUES", arguments.join(", ")),
    ];
    let mut text = TEMPLATE.to_string();
    for (token, value) in &tokens {
        text = text.replace(&format!("@{token}@"), value);
    }
    // Modules of one name with other code must not share a target.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Ok(text.replace("@FINGERPRINT@", &format!("{:08x}", hasher.finish() as u32)))
}
