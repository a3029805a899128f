//! The step of a rule as kernels for NVIDIA GPUs, and a Python module that launches them.

use super::rule::Built;

/// The module; `@TOKEN@`s are filled in.
#[cfg(feature = "llvm")]
const TEMPLATE: &str = include_str!("gpu_template.py");

/// The two files.
pub struct Files {
    /// Name and text of the module.
    pub module: (String, String),
    /// Name and text of the kernels.
    pub ptx: (String, String),
}

/// Kernels for a GPU by LLVM's name for it (`sm_80`).
///
/// # Errors
/// Why there are none, in words.
#[cfg(feature = "llvm")]
pub fn files(built: &Built, gpu: &str) -> Result<Files, String> {
    use super::source::tuple;
    use optc_llvm::LeafForm;
    use std::fmt::Write;
    let name = &built.library.name;
    let mut rules = Vec::new();
    for (rule, variant) in built.library.rules.iter().zip(&built.variants) {
        let Some(step) = rule.functions.iter().find(|f| f.name == "step") else { continue };
        rules.push((rule.name.clone(), step.flat.launches(super::rule::STATES + variant.states.len(), built.hyper.len())?));
    }
    let words = format!("{name}_words");
    let steps = optc_llvm::leaf_steps(&rules, &words, gpu).map_err(|e| e.to_string())?;
    let mut forms = String::new();
    for (((_, launches), rounds), variant) in rules.iter().zip(&steps.rules).zip(&built.variants) {
        let entry = |e: &optc_llvm::LeafEntry| {
            let form = match e.form {
                LeafForm::Begin => "begin",
                LeafForm::Once => "once",
                LeafForm::Threads => "threads",
                LeafForm::Blocks => "blocks",
                LeafForm::Parts => "parts",
            };
            let narrow = e.narrow.as_ref().map_or_else(|| "None".to_string(), |n| format!("{n:?}"));
            format!("({:?}, {narrow}, {form:?}, {})", e.name, e.threads)
        };
        let rounds: Vec<String> = rounds.iter().map(|r| format!("[{}]", r.iter().map(entry).collect::<Vec<_>>().join(", "))).collect();
        let _ = writeln!(
            forms,
            "    {:?}: _Form({}, {}, {:?}, {}, [{}]),",
            variant.stored.dtype().name(),
            launches.shared,
            launches.own,
            launches.partials,
            launches.folds,
            rounds.join(", ")
        );
    }
    let (least, beyond, runs_on) = optc_llvm::runs_on(gpu).map_err(|e| e.to_string())?;
    let pair = |(major, minor): (u32, u32)| tuple(&[major, minor].map(|n| n.to_string()));
    let (module, ptx) = (format!("{name}_gpu.py"), format!("{name}_gpu.ptx"));
    let tokens = [
        ("EXPRESSION", built.expression.clone()),
        ("PTX", ptx.clone()),
        ("CAPABILITY_WORDS", runs_on),
        ("CAPABILITY", pair(least)),
        ("BEYOND", pair(beyond)),
        ("HYPERS", built.hyper.len().to_string()),
        ("WORDS", steps.words.clone()),
        ("WORD_COUNT", steps.word_count.to_string()),
        ("FORMS", forms),
    ];
    let text = tokens.iter().fold(TEMPLATE.to_string(), |text, (token, value)| text.replace(&format!("@{token}@"), value));
    Ok(Files { module: (module, text), ptx: (ptx, steps.text) })
}

/// Without LLVM there are none.
#[cfg(not(feature = "llvm"))]
pub fn files(_: &Built, _: &str) -> Result<Files, String> {
    Err("optc was built without LLVM".to_string())
}
