//! Specs the driver writes itself: an optimizer alone on given gradients, the values of a schedule. They are compiled like any other, so that what is reported is what runs.

use crate::session::{Files, Session, canonical, read_text};
use optc_abi::DType;
use optc_front::ast::{ElemType, FnItem, FnKind, Import, ItemKind, Param, TypeKind};
use optc_front::{FileLoader, std_lib};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Names of the generated spec; users cannot collide with them in a file they import, where a leading `_` is private.
const TRAIN: &str = "_step";

/// A number that is added to the loss of an optimizer alone, so that a rule that reads the loss is known from one that multiplies weights and gradients.
pub const LOSS_MARK: f64 = 0.618_033_988_75;

/// The user's own spec, which an expression may use.
#[derive(Clone, Copy, Debug)]
pub enum Own<'a> {
    /// In a file.
    File(&'a Path),
    /// A text, with the name that stands for it.
    Text {
        /// Its name.
        name: &'a str,
        /// The text.
        text: &'a str,
    },
}

impl Own<'_> {
    fn name(&self) -> String {
        match self {
            Own::File(path) => canonical(path),
            Own::Text { name, .. } => name.to_string(),
        }
    }

    fn read(&self) -> Result<(String, String), String> {
        match self {
            Own::File(path) => Ok((canonical(path), read_text(path)?)),
            Own::Text { name, text } => Ok((name.to_string(), text.to_string())),
        }
    }
}

/// What the generated root calls the user's spec.
const SPEC: &str = "spec.opt";

/// Hands out the user's spec where the generated root asks for it, other files as the spec itself would find them.
struct Around<'a> {
    own: Option<Own<'a>>,
    root: &'a str,
}

impl FileLoader for Around<'_> {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        match self.own {
            Some(own) if from == self.root && path == SPEC => own.read(),
            Some(own) if from == self.root => Files.read(&own.name(), path),
            _ => Files.read(from, path),
        }
    }
}

/// Names in an expression.
fn names(expression: &str) -> Vec<&str> {
    let mut found: Vec<&str> = expression
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| w.starts_with(|c: char| c.is_alphabetic() || c == '_'))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The import of a user's spec of this name as the generated root needs it: where it brings names of an expression that are not among `known` ones, which they become.
fn taken_on(spec: &str, import: &Import, wanted: &[&str], known: &mut Vec<String>) -> String {
    let is_wanted = |name: &str, known: &[String]| wanted.contains(&name) && !known.iter().any(|k| k == name);
    match import {
        Import::File { path, alias: Some(alias), .. } if is_wanted(&alias.text, known) => {
            known.push(alias.text.to_string());
            format!("import \"{path}\" as {}\n", alias.text)
        }
        Import::File { path, alias: None, .. } => {
            let Ok((_, text)) = Files.read(spec, path) else { return String::new() };
            let (parsed, _) = optc_front::parse(Default::default(), &text);
            let brought: Vec<String> = parsed.items.iter().filter_map(|i| i.name()).map(|n| n.text.to_string()).collect();
            let brought: Vec<String> = brought.into_iter().filter(|n| is_wanted(n, known)).collect();
            let any = !brought.is_empty();
            known.extend(brought);
            if any { format!("import \"{path}\"\n") } else { String::new() }
        }
        Import::Std { path, names, alias: Some(alias) } if is_wanted(&alias.text, known) => {
            known.push(alias.text.to_string());
            let path: Vec<&str> = path.iter().chain(names).map(|n| &*n.text).collect();
            format!("import {} as {}\n", path.join("."), alias.text)
        }
        _ => String::new(),
    }
}

/// Imports for an expression: the user's spec, and what that imports from files or under other names, and what it uses of the given folders of the standard library that neither has.
fn imports(expression: &str, given: Option<Own<'_>>, folders: &[&str]) -> String {
    let mut out = String::new();
    let mut own = Vec::new();
    if let Some(given) = given {
        let _ = writeln!(out, "import \"{SPEC}\"");
        // What it cannot read is reported when the import is followed.
        if let Ok((name, text)) = given.read() {
            let (parsed, _) = optc_front::parse(Default::default(), &text);
            own.extend(parsed.items.iter().filter_map(|i| i.name()).map(|n| n.text.to_string()));
            let imported = parsed.items.iter().filter_map(|i| if let ItemKind::Import(import) = &i.kind { Some(import) } else { None });
            for import in imported {
                out.push_str(&taken_on(&name, import, &names(expression), &mut own));
            }
        }
    }
    for name in names(expression).into_iter().filter(|n| !own.iter().any(|o| o == n)) {
        if let Some(folder) = folders.iter().find(|f| std_lib::std_members(f).contains(&name)) {
            let _ = writeln!(out, "import {folder}.{name}");
        }
    }
    out
}

/// Imports of what an expression uses of the optimizers and schedules of the library, but for names that are `known`.
pub(crate) fn missing_imports(expression: &str, known: impl Fn(&str) -> bool) -> String {
    let wanted: Vec<&str> = names(expression).into_iter().filter(|n| !known(n)).collect();
    imports(&wanted.join(" "), None, &["std.optim", "std.schedule"])
}

/// `name` as a call, if it is not one yet.
pub(crate) fn called(expression: &str) -> String {
    let plain = expression.chars().all(|c| c.is_alphanumeric() || c == '_');
    if plain { format!("{expression}()") } else { expression.to_string() }
}

/// What a wrapper is shown around, if nothing is said.
const INNER: &str = "sgd(lr = 0.01)";

/// `name` as a call, if it is not one yet. Optimizers that it needs are gradient descent, numbers are 1; where it needs something else, the call is the one in its documentation's example.
pub(crate) fn completed(expression: &str, file: Option<&Path>) -> String {
    let Some((rule, doc)) = declared(expression, file) else { return called(expression) };
    let needed: Vec<&Param> = rule.params.iter().filter(|p| p.default.is_none()).collect();
    if needed.is_empty() {
        return called(expression);
    }
    let argument = |p: &&Param| match p.ty.as_ref().map(|t| &t.kind) {
        Some(TypeKind::Optimizer) => Some(format!("{} = {INNER}", p.name.text)),
        Some(TypeKind::Array { elem: ElemType::Float, dims: None }) => Some(format!("{} = 1.0", p.name.text)),
        _ => None,
    };
    match needed.iter().map(argument).collect::<Option<Vec<String>>>() {
        Some(arguments) => format!("{expression}({})", arguments.join(", ")),
        None => example(expression, &doc).unwrap_or_else(|| called(expression)),
    }
}

/// Whether a parameter is an optimizer.
pub(crate) fn is_optimizer(p: &Param) -> bool {
    p.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer))
}

/// The first call of `name` in the section `Example` of its documentation.
fn example(name: &str, doc: &str) -> Option<String> {
    let (_, section) = doc.split_once("# Example\n")?;
    let section = section.split("\n# ").next().unwrap_or(section);
    let begins = |at: usize| !section[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
    let (at, head) = section.match_indices(&format!("{name}(")).find(|(at, _)| begins(*at))?;
    let mut depth = 0;
    for (k, c) in section[at + head.len() - 1..].char_indices() {
        depth += match c {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(section[at..at + head.len() + k].to_string());
        }
    }
    None
}

/// The optimizer `name` of the file or the standard library, and its documentation.
fn declared(name: &str, file: Option<&Path>) -> Option<(Arc<FnItem>, String)> {
    let own = file.and_then(|path| read_text(path).ok());
    let library = optc_front::std_lookup(name).and_then(|path| std_lib::std_source(&path));
    own.into_iter().chain(library).find_map(|text| {
        let (parsed, _) = optc_front::parse(Default::default(), &text);
        parsed.items.into_iter().find_map(|item| match item.kind {
            ItemKind::Fn(f) if f.kind == FnKind::Optimizer && &*f.name.text == name => Some((f, item.doc)),
            _ => None,
        })
    })
}

/// Terms of one sum in a generated spec.
const TERMS: usize = 500;

/// How the leaves of a generated spec are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Stored {
    /// Weights, gradients and states in f32.
    #[default]
    F32,
    /// All in f64.
    F64,
    /// Weights and gradients in bf16, states as the rule says.
    Bf16,
}

impl Stored {
    /// The element type of weights and gradients.
    pub fn dtype(self) -> DType {
        match self {
            Stored::F32 => DType::F32,
            Stored::F64 => DType::F64,
            Stored::Bf16 => DType::BF16,
        }
    }
}

/// A spec that trains leaves of these shapes with an optimizer (`lion`, `clip(1.0) |> adamw(lr = 1e-3)`; of `file`, or the standard library) on gradients that are inputs of the step.
/// Where the loss is `curved` they are the weights more than these inputs: for rules that look at the loss again, which would otherwise find the same gradient everywhere.
/// The train is the last item of the root file.
pub fn optimizer(expression: &str, file: Option<&Path>, shapes: &[Vec<usize>], stored: Stored, curved: bool) -> Session {
    let own = file.map(Own::File);
    let mut text = asked(expression, own);
    let dims = |shape: &[usize]| shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    // In f64 a spec says `f32` too (`precision f64`), but data is what it is.
    let kind = if stored == Stored::F64 { "f64" } else { "f32" };
    let narrow = if stored == Stored::Bf16 { " as bf16" } else { "" };
    let given = stored.dtype().name();
    text.push_str("data _gradients {\n");
    for (k, shape) in shapes.iter().enumerate() {
        let n: usize = shape.iter().product();
        let _ = writeln!(text, "  c{k} = reshape(cos(iota({n}) as {kind}), 1, {}){narrow}", dims(shape));
    }
    text.push_str("}\nmodel _leaves() {\n");
    for (k, shape) in shapes.iter().enumerate() {
        let _ = writeln!(text, "  param w{k}: f32[{}] = 0.5", dims(shape));
    }
    let list = |f: &dyn Fn(usize) -> String, sep: &str| (0..shapes.len()).map(f).collect::<Vec<_>>().join(sep);
    let _ = writeln!(text, "  {{ {} }}\n}}", list(&|k| format!("w{k} = w{k}"), ", "));
    let _ = writeln!(text, "loss _along(p, {}) -> f32 {{", list(&|k| format!("c{k}: {given}[1, {}]", dims(&shapes[k])), ", "));
    // The operators of one expression are limited.
    let leaves: Vec<usize> = (0..shapes.len()).collect();
    for (part, leaves) in leaves.chunks(TERMS).enumerate() {
        let bend = |k: usize| if curved { format!(" + 0.5 * sum(p.w{k}^2)") } else { String::new() };
        let terms: Vec<String> = leaves.iter().map(|&k| format!("sum(p.w{k} * (c{k}[0] as f32)){}", bend(k))).collect();
        let _ = writeln!(text, "  let s{part} = {}", terms.join(" + "));
    }
    let parts: Vec<String> = (0..shapes.len().div_ceil(TERMS)).map(|part| format!("s{part}")).collect();
    let _ = writeln!(text, "  {} + {LOSS_MARK}\n}}", parts.join(" + "));
    let _ = writeln!(
        text,
        "train {TRAIN} {{\n  data _gradients, batch = 1\n  model net = _leaves(){}\n  loss _along(net(), {})\n  optimizer _asked()\n  steps 1\n{}}}",
        if stored == Stored::Bf16 { " stored bf16" } else { "" },
        list(&|k| format!("c{k}"), ", "),
        if stored == Stored::F64 { "  precision f64\n" } else { "" }
    );
    spec("command line", text, own)
}

/// An optimizer without parameters that is the expression, with what it imports. What the user wrote comes first, so that messages about it show their own words.
fn asked(expression: &str, own: Option<Own<'_>>) -> String {
    format!("optimizer _asked() = {}\n{}", called(expression), imports(expression, own, &["std.optim", "std.schedule"]))
}

/// An expression, completed, with gradient descent behind it.
pub fn followed(expression: &str, file: Option<&Path>) -> String {
    format!("{} |> sgd(lr = 0.01)", called(&completed(expression, file)))
}

/// A spec whose first item is an optimizer without parameters that is the expression (as for [`optimizer`]).
pub fn rule(expression: &str, own: Option<Own<'_>>) -> Session {
    spec("optimizer", asked(expression, own), own)
}

/// A spec with items of its own before all that a file has, which is its second module.
pub fn in_front_of(path: &Path, items: &str) -> Session {
    let own = Some(Own::File(path));
    spec("command line", format!("{items}import \"{SPEC}\"\n"), own)
}

/// A spec whose first item is a function with these parameters that is the expression, which may use what the file has and `std.loss`.
pub fn function(expression: &str, parameters: &str, file: &Path) -> Session {
    let own = Some(Own::File(file));
    spec("command line", format!("fn _asked({parameters}) = {expression}\n{}", imports(expression, own, &["std.loss"])), own)
}

/// A spec whose only experiment plots the first `steps` values of a schedule.
pub fn schedule(expression: &str, file: Option<&Path>, steps: usize) -> Session {
    let mut text = format!("fn _asked() = {}\n", called(expression));
    let own = file.map(Own::File);
    text.push_str(&imports(expression, own, &["std.schedule"]));
    let _ = writeln!(
        text,
        "experiment _values {{\n  let s = _asked()\n  let values = for k in 0..{steps} {{ yield s(k) * 1.0 }}\n  plot {{ schedule = values }}\n}}"
    );
    spec("command line", text, own)
}

fn spec(root: &str, text: String, own: Option<Own<'_>>) -> Session {
    Session::from_text(root, text, &Around { own, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_brings_what_it_needs() {
        let text = imports("clip_by_global_norm(1.0) |> adamw(lr = cosine(1e-3, total = 10))", None, &["std.optim", "std.schedule"]);
        assert_eq!(text, "import std.optim.adamw\nimport std.optim.clip_by_global_norm\nimport std.schedule.cosine\n");
        assert_eq!(completed("lookahead", None), "lookahead(inner = sgd(lr = 0.01))");
        assert_eq!(completed("scale", None), "scale(factor = 1.0)");
        assert_eq!(completed("frank_wolfe", None), "frank_wolfe(x -> l1_vertex(x, 10.0))");
        assert_eq!(example("f", "Text.\n\n# Example\n`of(1) |> f([(2)], \"x\")`\n# Source\nf(3)").as_deref(), Some("f([(2)], \"x\")"));
        assert_eq!((example("f", "# Example\n`g(1)`\n\n# Source\nf(3)"), example("f", "# Example\n`f(1`")), (None, None));
        assert_eq!((completed("adamw", None), completed("nothing", None)), ("adamw()".to_string(), "nothing()".to_string()));
        assert_eq!((called("lion"), called("lion(lr = 1)")), ("lion()".to_string(), "lion(lr = 1)".to_string()));
    }

    #[test]
    fn thousands_of_leaves_make_a_spec_that_checks() {
        // Evaluation nests deeper than the stack of a test's thread.
        let checked = std::thread::Builder::new().stack_size(256 << 20).spawn(|| {
            let mut session = optimizer("lion", None, &vec![vec![2]; 2_500], Stored::F32, true);
            session.check();
            session.diagnostics
        });
        let diagnostics = checked.expect("a thread can be started").join().expect("checking does not panic");
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
    }
}
