//! `optc search`: running searches, looking at archives, simplification and translation of programs.

mod archive;
mod finish;
mod hunt;
mod judge;
mod live;
mod regress;
mod top;

pub use hunt::run;

use super::say;
use crate::cli::{RuleClass, SearchAction};
use crate::messages::Messages;
use crate::search::paths::same;
use crate::search::seed::{Refused, Seed, seed};
use crate::search::spec;
use crate::session::{Failed, Session, canonical, read_text};
use optc_base::SourceMap;
use optc_front::ast::{FnKind, ItemKind};
use optc_search::fun::Fun;
use optc_search::genome::Genome;
use optc_search::live::without_dead_code;
use optc_search::simplify::{Applied, Class, Simplified, simplify};
use optc_search::text;
use std::path::Path;

/// Does what is asked.
///
/// # Errors
/// If that fails; why has been printed.
pub fn search(action: &SearchAction, messages: &Messages) -> Result<(), Failed> {
    match action {
        SearchAction::Simplify { file, optimizer, class, quiet } => {
            for program in programs(file, optimizer.as_deref(), messages)? {
                show_simplified(&program, *class, *quiet);
            }
            Ok(())
        }
        SearchAction::Merge { archives, output } => archive::merge(archives, output, messages),
        SearchAction::Resume { archive, options } => hunt::resume(archive, options, messages),
        SearchAction::Time { file, name, seconds, children } => hunt::time(file, name.as_deref(), *seconds, *children, messages),
        SearchAction::Judge { file, names, optimizers, tasks, reference, tune, rates, seeds, audits } => {
            let reference = reference.as_deref();
            let how = judge::How { optimizers, tasks, reference, tune: *tune, rates: *rates, seeds: *seeds, audits: *audits };
            judge::run(file, names, &how, messages)
        }
        SearchAction::Report { archive, html } => archive::report(archive, html.as_deref(), messages),
        SearchAction::Top { archive, n, families, arm } => {
            top::top(archive, &top::What { n: *n, families: *families, arm: arm.as_deref() }, messages)
        }
        SearchAction::Lineage { archive, hash } => archive::lineage(archive, hash, messages),
        SearchAction::Explain { archive, hash } => archive::explain(archive, hash, messages),
        SearchAction::Emit { archive, hash, output } => archive::emit(archive, hash, output.as_deref(), messages),
        SearchAction::ImportHero { file, output } => {
            let program = hero(file, messages)?;
            let doc = [format!("Translated from `{}`.", file.file_name().unwrap_or_default().to_string_lossy())];
            let spec = spec::of(&program.genome, &program.name, &doc, program.lr);
            print_or_write(&spec, output.as_deref(), &[file], messages)
        }
    }
}

/// Prints a spec, or writes it to a file, which is none of those that it is made from.
fn print_or_write(spec: &str, output: Option<&Path>, sources: &[&Path], messages: &Messages) -> Result<(), Failed> {
    let Some(path) = output else {
        say(spec.trim_end());
        return Ok(());
    };
    if let Some(source) = sources.iter().find(|s| same(s, path)) {
        let why = format!("{} would overwrite {}, which it is made from", path.display(), source.display());
        messages.error("R0102", &why, Some("name another file"));
        return Err(Failed);
    }
    std::fs::write(path, spec).map_err(|e| {
        messages.error("R0102", &format!("cannot write {}: {e}", path.display()), None);
        Failed
    })
}

/// A program with a name.
struct Named {
    name: String,
    genome: Genome,
    lr: f64,
}

/// A program in Hero's form.
fn hero(file: &Path, messages: &Messages) -> Result<Named, Failed> {
    let content = read_text(file).map_err(|why| {
        messages.error("R0101", &format!("cannot read {}: {why}", file.display()), None);
        Failed
    })?;
    let mut sources = SourceMap::default();
    let source = sources.add(canonical(file), content.as_str());
    match text::read(source, &content) {
        Ok(read) => Ok(Named { name: spec::name(&read.name), genome: read.genome, lr: 1e-3 }),
        Err(diagnostic) => {
            messages.print(&[diagnostic], &sources);
            Err(Failed)
        }
    }
}

/// The programs of a file: that of Hero's form, or the optimizers of a spec.
fn programs(file: &Path, optimizer: Option<&str>, messages: &Messages) -> Result<Vec<Named>, Failed> {
    if file.extension().is_some_and(|e| e == "py") {
        return Ok(vec![hero(file, messages)?]);
    }
    let session = Session::open(file, &[], messages)?;
    let names: Vec<String> = match optimizer {
        Some(expression) => vec![expression.to_string()],
        None => session
            .items()
            .filter_map(|(_, item)| match &item.kind {
                ItemKind::Fn(f) if f.kind == FnKind::Optimizer => Some(f.name.text.to_string()),
                _ => None,
            })
            .collect(),
    };
    if names.is_empty() {
        messages.error(
            "R0145",
            &format!("{} has no optimizer", file.display()),
            Some("name one with `--optimizer`, also of the standard library"),
        );
        return Err(Failed);
    }
    names.iter().map(|name| of_spec(name, file, messages)).collect()
}

fn of_spec(expression: &str, file: &Path, messages: &Messages) -> Result<Named, Failed> {
    match seed(expression, Some(file)) {
        Ok(Seed { genome, lr, .. }) => Ok(Named { name: spec::name(expression), genome, lr }),
        Err(Refused::Spec(session)) => {
            messages.print(&session.diagnostics, &session.program.sources);
            Err(Failed)
        }
        Err(Refused::Beyond(why)) => {
            let help =
                "programs are straight lines of elementwise functions and of sums over a leaf or all leaves, with states like the leaf";
            messages.error("R0145", &format!("`{expression}` is no program of the search: {why}"), Some(help));
            Err(Failed)
        }
    }
}

/// A number without the digits that a product leaves at its end.
fn plain(x: f64) -> f64 {
    optc_abi::number::shown(x, 12).parse().unwrap_or(x)
}

fn class_of(class: RuleClass) -> Class {
    match class {
        RuleClass::Exact => Class::Exact,
        RuleClass::Real => Class::Real,
        RuleClass::Approximate => Class::Approximate,
    }
}

fn in_words(class: Class) -> &'static str {
    match class {
        Class::Exact => "X, every bit is the same",
        Class::Real => "R, exact over the reals",
        Class::Approximate => "A, near or in a regime",
    }
}

fn show_simplified(program: &Named, class: Option<RuleClass>, quiet: bool) {
    let most = class.map_or(Class::Real, class_of);
    // Programs that were read have been checked.
    let Ok(simplified) = simplify(&program.genome, most) else { return };
    print_one(program, &simplified, &program.name, quiet);
    if class.is_none()
        && let Ok(near) = simplify(&program.genome, Class::Approximate)
        && near.genome.body.len() < simplified.genome.body.len()
    {
        say("");
        if !quiet {
            say("# A suggestion, where its conditions hold:");
        }
        print_one(program, &near, &format!("{}_near", program.name), quiet);
    }
}

/// Statements that matter and compute something.
fn operations(genome: &Genome) -> usize {
    without_dead_code(genome).body.iter().filter(|s| s.fun != Fun::Copy).count()
}

/// What became of operations, in words.
fn became(before: usize, after: usize, rules: usize) -> String {
    let of = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match rules {
        0 => format!("{}: no rule makes it shorter", of(before, "operation")),
        _ => format!("{} became {after} by {}:", of(before, "operation"), of(rules, "application") + " of rules"),
    }
}

fn print_one(program: &Named, simplified: &Simplified, name: &str, quiet: bool) {
    let doc: Vec<String> = if simplified.rate == 1.0 {
        Vec::new()
    } else {
        vec![format!("The learning rate is {} times that of the program it was made from.", text::number(simplified.rate))]
    };
    say(spec::of(&simplified.genome, name, &doc, plain(program.lr * simplified.rate)).trim_end());
    if quiet {
        return;
    }
    let (before, after) = (operations(&program.genome), operations(&simplified.genome));
    say(&format!("\n# {}", became(before, after, simplified.steps.len())));
    for Applied { rule, class, condition, before, after } in &simplified.steps {
        say(&format!("#   {before}  ->  {after}"));
        say(&format!("#       {rule} [{}]: {condition}", in_words(*class)));
    }
}

#[cfg(test)]
mod tests {
    use super::{became, operations};
    use optc_search::simplify::{Class, simplify};
    use optc_search::text::read;

    #[test]
    fn operations_are_counted_alike_before_and_after() {
        let of = |text: &str| read(Default::default(), text).map(|r| r.genome).unwrap_or_default();
        // One product is one product, in whatever registers.
        let sgd = of("def train(w, g, lr):\n  update = g * lr\n  return update");
        let same = simplify(&sgd, Class::Real).expect("a program");
        assert_eq!(became(operations(&sgd), operations(&same.genome), same.steps.len()), "1 operation: no rule makes it shorter");
        // Dead code is not counted, nor is a copy.
        let dead = of("def train(w, g, lr):\n  x = cosh(g)\n  a = abs(g)\n  a = abs(a)\n  u = a * lr\n  update = u\n  return update");
        let short = simplify(&dead, Class::Real).expect("a program");
        assert_eq!(
            became(operations(&dead), operations(&short.genome), short.steps.len()),
            "3 operations became 2 by 1 application of rules:"
        );
    }
}
