//! `optc search report | top | lineage | explain`: what an archive holds.

use super::finish::opened;
use super::live::front;
use super::{Named, print_one, print_or_write, regress};
use crate::commands::date;
use crate::commands::say;
use crate::messages::Messages;
use crate::search::archive::{Archive, ProgramRow};
use crate::search::emit::{noise_line, of_archive, rounded, rung_line, validation_line};
use crate::search::judge::{examined, held_out_pairs, held_out_table};
use crate::search::lineage::lineage as lineage_of;
use crate::search::merge::merge as merging;
use crate::search::paths::same;
use crate::search::regress::report as formulas;
use crate::search::report::{self, short};
use crate::search::{known, validation};
use crate::session::Failed;
use optc_search::evolve::Kind;
use optc_search::genome::Genome;
use optc_search::live::without_dead_code;
use optc_search::simplify::{Class, Simplified, simplify};
use optc_search::{text, traits};
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};

pub(super) fn trouble(why: &str, help: Option<&str>, messages: &Messages) -> Failed {
    messages.error("R0146", why, help);
    Failed
}

pub(super) fn open(path: &Path, messages: &Messages) -> Result<Archive, Failed> {
    Archive::open(path).map_err(|why| trouble(&format!("cannot read {}: {why}", path.display()), None, messages))
}

/// Refuses archives of searches for formulas.
pub(super) fn of_optimizers(archive: &Archive, path: &Path, what: &str, messages: &Messages) -> Result<(), Failed> {
    if archive.formulas().is_ok_and(|f| f.is_empty()) && !regress::is_formula(path) {
        return Ok(());
    }
    let why = format!("{} is of a search for a formula: `{what}` is for optimizers", path.display());
    Err(trouble(&why, Some("`optc search report`, `top` and `explain ARCHIVE NODES` tell its formulas"), messages))
}

pub(super) fn read(row: &ProgramRow, messages: &Messages) -> Result<Genome, Failed> {
    genome(&row.text, messages)
}

fn genome(written: &str, messages: &Messages) -> Result<Genome, Failed> {
    text::read(Default::default(), written)
        .map(|r| r.genome)
        .map_err(|d| trouble(&format!("a program of the archive is damaged: {}", d.message), None, messages))
}

fn found(archive: &Archive, prefix: &str, messages: &Messages) -> Result<ProgramRow, Failed> {
    let hex = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_hexdigit());
    let mut rows = if hex { archive.find(prefix).map_err(|why| trouble(&why, None, messages))? } else { Vec::new() };
    match rows.len() {
        1 => Ok(rows.remove(0)),
        0 => Err(trouble(
            &format!("no program's hash begins with `{prefix}`"),
            Some("`optc search top` lists programs with their hashes"),
            messages,
        )),
        _ => Err(trouble(&format!("several programs' hashes begin with `{prefix}`"), Some("give more digits"), messages)),
    }
}

/// The best of an arm of a search.
pub(super) struct Best {
    /// Its program.
    pub named: Named,
    /// Whether the arm is a control.
    pub control: bool,
    /// How many programs the arm ran.
    pub among: u64,
}

/// What a search found, under the name of the search, and the best of its controls.
///
/// # Errors
/// An archive that cannot be read, or of which there is nothing to be judged.
pub(super) fn best_of_arms(path: &Path, messages: &Messages) -> Result<Vec<Best>, Failed> {
    let archive = open(path, messages)?;
    of_optimizers(&archive, path, "judge", messages)?;
    let no = |why: String| trouble(&why, None, messages);
    let (run, _) = archive.run().map_err(no)?;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let mut text = None;
        if kind == Kind::Evolution {
            let validated = || archive.validated().map(|curve| validation::best(&curve).map(|v| v.text.clone()));
            text = archive.winner().and_then(|w| w.map_or_else(validated, |w| Ok(Some(w.text)))).map_err(no)?;
        }
        if text.is_none() {
            text = archive.top_of(kind).map_err(no)?.map(|row| row.text);
        }
        if let Some(text) = text {
            let name = if kind == Kind::Evolution { run.name.clone() } else { format!("{} of {}", kind.name(), run.name) };
            let (among, _) = archive.arm(kind).map_err(no)?;
            let named = Named { name, genome: genome(&text, messages)?, lr: 1.0 };
            all.push(Best { named, control: kind != Kind::Evolution, among: among.max(0) as u64 });
        }
    }
    if all.is_empty() {
        return Err(trouble(&format!("{} holds no optimizer to judge", path.display()), None, messages));
    }
    Ok(all)
}

/// What a search found: its arms, front, funnel and what else is owed; with `html`, as a file.
///
/// # Errors
/// An archive that cannot be read, a file that cannot be written.
pub fn report(path: &Path, html: Option<&Path>, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    let no = |why: String| trouble(&why, None, messages);
    let spec = archive.run().map_err(no)?.0.spec;
    if let Some(to) = html.filter(|to| [path, Path::new(&spec)].iter().any(|s| same(s, to))) {
        return Err(trouble(&format!("{} is what the report is made from", to.display()), Some("name another file"), messages));
    }
    let is_of_formulas = !archive.formulas().map_err(no)?.is_empty();
    if let Some(to) = html {
        let command: Vec<String> = std::env::args().collect();
        let heading = report::Heading { command: command.join(" "), date: date() };
        let made = if is_of_formulas { formulas::report(&archive, path, &heading) } else { report::report(&archive, path, &heading) };
        made.map_err(no)?.write(to).map_err(|e| {
            messages.trouble(&e);
            Failed
        })?;
        say(&format!("report: {}", to.display()));
        return Ok(());
    }
    if is_of_formulas {
        return regress::report(&archive, messages);
    }
    let (row, _) = archive.run().map_err(no)?;
    say(&format!("search `{}` of {}", row.name, row.spec));
    let mut table = Table::new(["arm", "programs run", "best fitness"]);
    for kind in [Kind::Evolution, Kind::ConstantsOnly, Kind::Random] {
        let (run, best) = archive.arm(kind).map_err(no)?;
        if run > 0 {
            let best = best.map_or("-".to_string(), rounded);
            table.push([Cell::Text(kind.name().to_string()), Cell::Text(run.to_string()), Cell::Text(best)]);
        }
    }
    say(&table.text());
    say("fitness is that of the search, the best of many programs on its own tasks and seeds");
    report::beside_controls(&archive).map_err(no)?.iter().for_each(|words| say(words));
    say(&format!("it has searched for {}", report::lasted(&archive).map_err(no)?));
    for s in archive.starts().map_err(no)? {
        say(&format!("first program `{}`: {}", s.expression, rounded(s.fitness)));
    }
    let axes = archive.axes().map_err(no)?;
    say(front(&archive.front(&axes).map_err(no)?, usize::MAX).trim_end());
    if let Some(line) = validation_line(&archive.validated().map_err(no)?) {
        say(&line);
    }
    for (k, rung) in archive.funnel().map_err(no)?.iter().enumerate() {
        say(&rung_line(k, rung));
    }
    let (run, _) = archive.arm(Kind::Evolution).map_err(no)?;
    if let Some(noise) = archive.noise().map_err(no)? {
        say(&noise_line(&noise, run.max(0) as u64));
    }
    let (times, rows) = archive.held_out().map_err(no)?;
    if !rows.is_empty() {
        say(&held_out_table(&rows).text());
        let pairs = archive.held_out_pairs().map_err(no)?;
        if !pairs.is_empty() {
            say(&held_out_pairs(&pairs).text());
        }
        say(&examined(&archive.examined().map_err(no)?));
        say(&format!("held out: {}", opened(times)));
    }
    Ok(())
}

/// Makes one archive of several.
///
/// # Errors
/// Archives that do not belong together, or cannot be read or written.
pub fn merge(archives: &[PathBuf], output: &Path, messages: &Messages) -> Result<(), Failed> {
    for path in archives {
        of_optimizers(&open(path, messages)?, path, "merge", messages)?;
    }
    if output.exists() {
        let help = "a merge makes a new archive; remove this one, or name another";
        return Err(trouble(&format!("{} is there already", output.display()), Some(help), messages));
    }
    let merged = merging(archives, output).map_err(|why| {
        // Nothing of an archive that is not whole is left.
        let _ = std::fs::remove_file(output);
        trouble(
            &why,
            Some("`optc search merge A B … -o ARCHIVE` takes archives of one spec, whose searches may differ in seed, space and strategy"),
            messages,
        )
    })?;
    say(&format!(
        "{} archives, {} programs, {} of them several times: {}",
        archives.len(),
        merged.programs,
        merged.shared,
        output.display()
    ));
    if !merged.missing.is_empty() {
        let missing: Vec<String> = merged.missing.iter().map(usize::to_string).collect();
        say(&format!("without the archives of processes {}", missing.join(", ")));
    }
    if !merged.goes_on {
        say("its searches go on from their own archives");
    }
    Ok(())
}

/// A program and those it came from.
///
/// # Errors
/// An archive that cannot be read; a hash that is none.
pub fn lineage(path: &Path, prefix: &str, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    of_optimizers(&archive, path, "lineage", messages)?;
    let row = found(&archive, prefix, messages)?;
    for ancestor in lineage_of(&archive, row).map_err(|why| trouble(&why, None, messages))? {
        let program = &ancestor.row;
        say(&format!(
            "{}  fitness {}  {} island {} child {}, {} statements",
            short(program.hash),
            rounded(program.fitness),
            program.arm,
            program.island,
            program.child,
            program.statements
        ));
        ancestor.changes.iter().for_each(|c| say(&format!("    {c}")));
    }
    Ok(())
}

/// Writes a program as a spec.
///
/// # Errors
/// An archive that cannot be read, a hash that is none, a file that cannot be written.
pub fn emit(path: &Path, prefix: &str, output: Option<&Path>, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    let no = |why: String| trouble(&why, None, messages);
    if !archive.formulas().map_err(no)?.is_empty() {
        return Err(trouble("a search for a formula writes all formulas of its front", Some("`emit \"out/…\"` in its block"), messages));
    }
    let row = found(&archive, prefix, messages)?;
    let text = of_archive(&archive, &row).map_err(no)?;
    let (run, _) = archive.run().map_err(no)?;
    print_or_write(&text, output, &[path, Path::new(&run.spec)], messages)
}

fn not_kappa(why: optc_search::kappa::Not) -> &'static str {
    use optc_search::kappa::Not;
    match why {
        Not::States => "it does not have one state, or depends on the step",
        Not::Momentum => "its state is no average of gradients",
        Not::Decay => "it is not linear in the weights, or not proportional to the learning rate",
        Not::Blend => "its step is no function of one blend of momentum and gradient",
        Not::Monotone => "that function is not odd and monotone",
    }
}

/// A program as a spec, with what is known of it.
///
/// # Errors
/// An archive that cannot be read; a hash that is none.
pub fn explain(path: &Path, prefix: &str, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    let formulas = archive.formulas().map_err(|why| trouble(&why, None, messages))?;
    if !formulas.is_empty() {
        return regress::explain(&archive, &formulas, prefix, messages);
    }
    let row = found(&archive, prefix, messages)?;
    let genome = read(&row, messages)?;
    let Ok(dag) = genome.dag() else { return Err(trouble("a program of the archive is damaged", None, messages)) };
    let simplified =
        simplify(&genome, Class::Real).unwrap_or_else(|_| Simplified { genome: without_dead_code(&genome), rate: 1.0, steps: Vec::new() });
    let program = Named { name: "found".to_string(), genome: genome.clone(), lr: 1e-3 };
    print_one(&program, &simplified, "found", false);
    let simplified = simplified.genome;
    say("");
    let line = |what: &str, value: String| say(&format!("  {what:<34}{value}"));
    line("fitness", rounded(row.fitness));
    line("statements, as found and simplified", format!("{}, {}", genome.body.len(), simplified.body.len()));
    line("state per parameter", format!("{} bytes", 4 * dag.states.len()));
    let (cost, functions) = dag.cost();
    line("operations per parameter", format!("{cost}, of which {functions} are functions"));
    line("passes over the elements", dag.passes().to_string());
    let seen = traits::traits(&dag);
    line("degree in the gradient", seen.degree.map_or("none".to_string(), |d| format!("{d}: the update of c g is c^{d} times that of g")));
    let limits = traits::limits(&dag).map(|d| d.map_or("none".to_string(), |d| d.to_string()));
    line("degree for small, large gradients", format!("{}, {}", limits[0], limits[1]));
    let in_weights = traits::Look::at(&dag, optc_search::dag::Input::W).degree();
    line("degree in the weights", in_weights.map_or("none".to_string(), |d| format!("{d}")));
    let given = optc_search::interval::Given::default();
    let finite = if optc_search::interval::finite(&dag, &given) { "yes" } else { "not known" };
    line("finite by intervals", format!("{finite}, for gradients and weights up to {:e}", given.size));
    let parity = match seen.parity {
        1 => "even: -g moves as g does",
        -1 => "odd: -g moves the other way",
        _ => "neither odd nor even",
    };
    line("parity", parity.to_string());
    let kappa = match optc_search::kappa::member(&dag) {
        Ok(m) => format!(
            "yes: beta1 {}, beta2 {}, decay {}{}{}",
            rounded(m.beta1),
            rounded(m.beta2),
            rounded(m.decay),
            optc_search::kappa::shape(&dag).map_or(String::new(), |k| format!(", K = {k}")),
            if m.beta1 <= m.beta2 { "" } else { "; its theory asks for beta1 <= beta2" }
        ),
        Err(why) => format!("no: {}", not_kappa(why)),
    };
    line("Lion-kappa", kappa);
    if let Ok(member) = optc_search::kappa::member(&dag) {
        let fall = optc_search::kappa::falls(&dag, &member);
        let share = format!(
            "falls at {} of {} steps of its flow on a quadratic, from {} to {}",
            fall.falling,
            fall.steps,
            rounded(fall.ends.0),
            rounded(fall.ends.1)
        );
        line("its Lyapunov function", share);
        let walls = match optc_search::kappa::walls(&dag, &member) {
            Some(w) => format!(
                "|w| <= {}: kept in {} of {} steps, from {} outside to {}",
                rounded(w.bound),
                w.kept,
                w.steps,
                rounded(w.outside.0),
                rounded(w.outside.1)
            ),
            None if member.decay > 0.0 => "none: K' is not bounded".to_string(),
            None => "none: it has no decay".to_string(),
        };
        line("its box", walls);
    }
    let (all, form) = (known::catalogue(), known::family(&simplified));
    let same: Vec<&str> = all.iter().filter(|k| k.is_of(form)).map(|k| k.name).collect();
    line("same form as", if same.is_empty() { "no known optimizer".to_string() } else { same.join(", ") });
    let near = all.iter().filter_map(|k| Some((k.name, traits::likeness(&dag, &k.dag()?))));
    if let Some((name, cosine)) = near.max_by(|a, b| a.1.total_cmp(&b.1)) {
        line("nearest known optimizer", format!("{name}: a cosine of {cosine:.3} between their updates in forty steps"));
    }
    Ok(())
}
