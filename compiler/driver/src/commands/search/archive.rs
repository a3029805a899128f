//! `optc search report | top | lineage | explain`: what an archive holds.

use super::finish::opened;
use super::live::front;
use super::{Named, print_one, print_or_write, regress};
use crate::commands::date;
use crate::commands::say;
use crate::messages::Messages;
use crate::search::archive::{Archive, ProgramRow};
use crate::search::emit::{noise_line, of_archive, rounded, rung_line, validation_line};
use crate::search::judge::held_out_table;
use crate::search::lineage::lineage as lineage_of;
use crate::search::merge::merge as merging;
use crate::search::paths::same;
use crate::search::report::{self, short};
use crate::search::{seed, validation};
use crate::session::Failed;
use optc_search::evolve::Kind;
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::live::without_dead_code;
use optc_search::simplify::{Class, Simplified, simplify};
use optc_search::{text, traits};
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};

fn trouble(why: &str, help: Option<&str>, messages: &Messages) -> Failed {
    messages.error("R0146", why, help);
    Failed
}

fn open(path: &Path, messages: &Messages) -> Result<Archive, Failed> {
    Archive::open(path).map_err(|why| trouble(&format!("cannot read {}: {why}", path.display()), None, messages))
}

fn read(row: &ProgramRow, messages: &Messages) -> Result<Genome, Failed> {
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

/// What a search found, under the name of the search, and the best of its controls.
///
/// # Errors
/// An archive that cannot be read, or of which there is nothing to be judged.
pub(super) fn best_of_arms(path: &Path, messages: &Messages) -> Result<Vec<Named>, Failed> {
    let archive = open(path, messages)?;
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
            all.push(Named { name, genome: genome(&text, messages)?, lr: 1.0 });
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
    let formulas = archive.formulas().map_err(no)?;
    if !formulas.is_empty() {
        if html.is_some() {
            return Err(trouble(
                "the report of a search for a formula is its table",
                Some("`optc search report ARCHIVE`, without `--html`"),
                messages,
            ));
        }
        let (row, _) = archive.run().map_err(no)?;
        say(&format!("search `{}` of {}", row.name, row.spec));
        say(&regress::table(&formulas));
        return Ok(());
    }
    if let Some(to) = html {
        let command: Vec<String> = std::env::args().collect();
        if [path, Path::new(&archive.run().map_err(no)?.0.spec)].iter().any(|s| same(s, to)) {
            return Err(trouble(&format!("{} is what the report is made from", to.display()), Some("name another file"), messages));
        }
        let made = report::report(&archive, path, &report::Heading { command: command.join(" "), date: date() }).map_err(no)?;
        made.write(to).map_err(|e| {
            messages.trouble(&e);
            Failed
        })?;
        say(&format!("report: {}", to.display()));
        return Ok(());
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
        say(&format!("held out: {}", opened(times)));
    }
    Ok(())
}

/// Makes one archive of several.
///
/// # Errors
/// Archives that do not belong together, or cannot be read or written.
pub fn merge(archives: &[PathBuf], output: &Path, messages: &Messages) -> Result<(), Failed> {
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

/// The best programs.
///
/// # Errors
/// An archive that cannot be read.
pub fn top(path: &Path, n: usize, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    let formulas = archive.formulas().map_err(|why| trouble(&why, None, messages))?;
    if !formulas.is_empty() {
        // The largest formulas of a front are its best.
        say(&regress::table(&formulas[formulas.len().saturating_sub(n)..]));
        return Ok(());
    }
    let rows = archive.top(n).map_err(|why| trouble(&why, None, messages))?;
    let axes = archive.axes().map_err(|why| trouble(&why, None, messages))?;
    let front = archive.front(&axes).map_err(|why| trouble(&why, None, messages))?;
    let mut table = Table::new(["hash", "fitness", "arm", "statements", "states", "degree in g", "front", "program"]);
    for row in &rows {
        let genome = read(row, messages)?;
        let dag = genome.dag().ok();
        let degree = dag.and_then(|d| traits::traits(&d).degree).map_or("-".to_string(), |d| format!("{d}"));
        let body: Vec<String> = row.text.lines().skip(1).map(str::trim).filter(|l| !l.starts_with("return")).map(str::to_string).collect();
        let mut line = body.join("; ");
        if line.chars().count() > 90 {
            line = line.chars().take(89).chain(['…']).collect();
        }
        let on = if front.points().iter().any(|p| p.key == row.hash) { "yes" } else { "" };
        let (fitness, statements, states) = (rounded(row.fitness), row.statements.to_string(), row.states.to_string());
        let cells = [short(row.hash), fitness, row.arm.clone(), statements, states, degree, on.to_string(), line];
        table.push(cells.map(Cell::Text));
    }
    say(&table.text());
    let axes: Vec<&str> = axes.iter().map(|a| a.name()).collect();
    say(&format!(
        "front: no program of the archive is as good in {} and better in one; `optc search report` lists all {} of them",
        axes.join(", "),
        front.points().len()
    ));
    Ok(())
}

/// A program and those it came from.
///
/// # Errors
/// An archive that cannot be read; a hash that is none.
pub fn lineage(path: &Path, prefix: &str, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
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

/// Optimizers whose form a program is compared with.
const KNOWN: &[&str] = &[
    "sgd",
    "sgd(momentum = 0.9)",
    "sign_sgd",
    "signum",
    "lion",
    "rmsprop",
    "adagrad",
    "adam",
    "adamw",
    "adabelief",
    "yogi",
    "adamax",
    "amsgrad",
    "tiger",
];

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
            if m.sign { ", K' the sign" } else { "" },
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
    }
    let family = simplified.dag().map(|d| keys(&d).family).unwrap_or_default();
    let same: Vec<&str> = KNOWN.iter().copied().filter(|name| of_family(name, family)).collect();
    line("same form as", if same.is_empty() { "no known optimizer".to_string() } else { same.join(", ") });
    let near = KNOWN.iter().filter_map(|name| {
        let known = seed::seed(name, None).ok()?.genome.dag().ok()?;
        Some((*name, traits::likeness(&dag, &known)))
    });
    if let Some((name, cosine)) = near.max_by(|a, b| a.1.total_cmp(&b.1)) {
        line("nearest known optimizer", format!("{name}: a cosine of {cosine:.3} between their updates in forty steps"));
    }
    Ok(())
}

/// Whether a known optimizer, simplified, has this form.
fn of_family(name: &str, family: u128) -> bool {
    let Ok(known) = seed::seed(name, None) else { return false };
    let simplified = simplify(&known.genome, Class::Real).map(|s| s.genome).unwrap_or(known.genome);
    simplified.dag().is_ok_and(|d| keys(&d).family == family)
}
