//! `optc search judge`.

use super::archive::best_of_arms;
use super::hunt::{print_trouble, read};
use super::{Named, of_spec, programs};
use crate::commands::say;
use crate::messages::Messages;
use crate::search::archive::Archive;
use crate::search::audit::{Audit, audits};
use crate::search::block::{SearchSpec, blocks};
use crate::search::emit::rounded;
use crate::search::judge::orderings::orderings;
use crate::search::judge::{Contest, FIRST_SEED, Judged, Role, Row, TUNING, Verdict, WIDER, comparisons, judge};
use crate::search::seed::seed;
use crate::search::suite;
use crate::session::{Failed, Session};
use optc_search::hash::keys;
use optc_search::stats::profiles;
use optc_search::text::number;
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};

/// What everything is compared with, and what else is owed: tuned baselines with the same learning rates.
const BASELINES: &[&str] = &["adamw", "sgd(momentum = 0.9)", "lion", "adabelief", "nadamw"];

/// How optimizers are judged.
pub struct How<'a> {
    /// Expressions, specs and archives.
    pub optimizers: &'a [String],
    /// Tasks, by name; all of the search where none is named.
    pub tasks: &'a [String],
    /// What all are compared with, by name; the first baseline where nothing is said.
    pub reference: Option<&'a str>,
    /// Runs in which the numbers of each are tuned.
    pub tune: usize,
    /// How many learning rates, if not those of the search.
    pub rates: Option<usize>,
    /// Seeds.
    pub seeds: usize,
    /// Whether scores are looked at under other conditions.
    pub audits: bool,
}

fn trouble(why: &str, help: &str, messages: &Messages) -> Failed {
    messages.error("R0146", why, Some(help));
    Failed
}

/// Optimizers that are judged, each program once.
#[derive(Default)]
struct Rows {
    judged: Vec<Judged>,
    keys: Vec<u128>,
}

impl Rows {
    fn push(&mut self, named: Named, role: Role, among: Option<u64>) {
        let key = named.genome.dag().map_or(0, |d| keys(&d).exact);
        if let Some(same) = self.keys.iter().position(|k| *k == key && key != 0) {
            say(&format!("`{}` is the same program as `{}`: it has no row of its own", named.name, self.judged[same].name));
            return;
        }
        let mut name = named.name;
        // What was found may be called as a baseline is.
        while self.judged.iter().any(|j| j.name == name) {
            name.push('\'');
        }
        self.judged.push(Judged { name, genome: named.genome, role, among });
        self.keys.push(key);
    }

    /// Takes what is named on the command line: a file, an archive, an expression.
    fn take(&mut self, text: &str, file: &Path, messages: &Messages) -> Result<(), Failed> {
        let path = PathBuf::from(text);
        if path.extension().is_some_and(|e| e == "opt" || e == "py") {
            programs(&path, None, messages)?.into_iter().for_each(|n| self.push(n, Role::Found, None));
        } else if is_archive(&path) {
            for best in best_of_arms(&path, messages)? {
                self.push(best.named, if best.control { Role::Control } else { Role::Found }, Some(best.among));
            }
        } else {
            self.push(Named { name: text.to_string(), ..of_spec(text, file, messages)? }, Role::Found, None);
        }
        Ok(())
    }

    /// Puts the reference first.
    fn refer(&mut self, name: &str, messages: &Messages) -> Result<(), Failed> {
        let Some(at) = self.judged.iter().position(|j| j.name == name) else {
            let names: Vec<&str> = self.judged.iter().map(|j| j.name.as_str()).collect();
            let help = format!("`--reference` takes one of {}", names.join(", "));
            return Err(trouble(&format!("`{name}` is not among the optimizers that are judged"), &help, messages));
        };
        let first = self.judged.remove(at);
        self.judged.insert(0, first);
        Ok(())
    }
}

/// The tasks, and what of the command line is to be judged on them: those of a search of the file, or of the suite where the file has none.
fn tasks_of<'a>(file: &'a Path, names: &'a [String], messages: &Messages) -> Result<(SearchSpec, &'a Path, Vec<String>), Failed> {
    if is_archive(file) {
        let (spec, name) =
            Archive::open(file).and_then(|a| a.run()).map_or(("SPEC".to_string(), String::new()), |(row, _)| (row.spec, row.name));
        let help = format!("`optc search judge {spec} {name} --optimizer {}`", file.display());
        return Err(trouble(&format!("{} is an archive of a search, not a spec with tasks", file.display()), &help, messages));
    }
    let hero = file.extension().is_some_and(|e| e == "py");
    let session = if hero { None } else { Some(Session::open(file, &[], messages)?) };
    if let Some(session) = session.filter(|s| !blocks(s).is_empty()) {
        if names.len() > 1 {
            let help = format!("`optc search judge {} {} --optimizer {}`", file.display(), names[0], names[1]);
            return Err(trouble("a file with a search is judged by one of its searches", &help, messages));
        }
        return Ok((read(&session, names.first().map(String::as_str), messages)?, file, Vec::new()));
    }
    let suite = Path::new(suite::PATH);
    let spec = read(&Session::open(suite, &[], messages)?, None, messages)?;
    let given = std::iter::once(file.to_string_lossy().into_owned()).chain(names.iter().cloned()).collect();
    Ok((spec, suite, given))
}

/// Leaves only the tasks that are named.
fn chosen(spec: &mut SearchSpec, names: &[String], messages: &Messages) -> Result<(), Failed> {
    let has: Vec<String> = spec.tasks.iter().map(|t| t.label.clone()).collect();
    if let Some(other) = names.iter().find(|n| !has.contains(n)) {
        return Err(trouble(&format!("there is no task `{other}`"), &format!("there are {}", has.join(", ")), messages));
    }
    spec.tasks.retain(|t| names.is_empty() || names.contains(&t.label));
    Ok(())
}

/// Judges optimizers on the tasks of a search, or on the suite.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(file: &Path, names: &[String], how: &How<'_>, messages: &Messages) -> Result<(), Failed> {
    let (mut spec, tasks, given) = tasks_of(file, names, messages)?;
    chosen(&mut spec, how.tasks, messages)?;
    let mut rows = Rows::default();
    for baseline in BASELINES {
        // Those of the library, whatever the file calls its own.
        let Ok(found) = seed(baseline, None) else {
            return Err(trouble(&format!("`{baseline}` is no program of the search"), "this is a mistake of optc", messages));
        };
        rows.push(Named { name: (*baseline).to_string(), genome: found.genome, lr: found.lr }, Role::Baseline, None);
    }
    for text in given.iter().chain(how.optimizers) {
        rows.take(text, file, messages)?;
    }
    if let Some(name) = how.reference {
        rows.refer(name, messages)?;
    }
    let judged = rows.judged;
    let rates = match how.rates {
        None => spec.rates.clone(),
        Some(n) => spread(&spec.rates, n).map_err(|why| {
            let help = "`--rates 13` judges with more learning rates than the search had, between its first and last";
            trouble(&why, help, messages)
        })?,
    };
    let contest = Contest {
        file: tasks,
        tasks: &spec.tasks,
        metric: spec.metric.as_deref(),
        rates: &rates,
        first: FIRST_SEED,
        seeds: how.seeds.clamp(2, 1000),
        tune: how.tune,
    };
    let verdicts = judge(&contest, &judged).map_err(|t| print_trouble(t, messages))?;
    for verdict in &verdicts {
        show(verdict, rates.len());
    }
    if how.audits {
        for audit in audits(&contest, &judged, &verdicts).map_err(|t| print_trouble(t, messages))? {
            show_audit(&audit);
        }
    }
    if verdicts.len() > 1 {
        show_profiles(&verdicts);
    }
    legend(&verdicts, how.tune);
    orderings(&verdicts).iter().for_each(|line| say(&format!("known ordering: {line}")));
    Ok(())
}

/// What the numbers are.
fn legend(verdicts: &[Verdict], tune: usize) {
    say(&format!(
        "differences are medians over paired seeds, with 95 % bootstrap intervals, below 0 where the optimizer scores better; p is Wilcoxon's signed-rank test, corrected by Holm for all {} comparisons, over all tasks",
        comparisons(verdicts)
    ));
    let budget = match tune {
        0 => "numbers of all optimizers are as given: `--tune N` tunes those of each in N runs a task".to_string(),
        n => format!(
            "numbers of each optimizer were tuned on each task in at most {n} runs of CMA-ES, over all learning rates and {TUNING} seeds each"
        ),
    };
    say(&budget);
    let rows = verdicts.first().map_or(&[][..], |v| &v.rows);
    let found: Vec<String> = rows.iter().filter_map(|r| Some(format!("`{}` was found among {} programs", r.name, r.among?))).collect();
    if !found.is_empty() {
        say(&format!("{}: the seeds here selected none of them, and p counts the comparisons here, not those programs", found.join(", ")));
    }
    let edge: Vec<String> =
        verdicts.iter().flat_map(|v| v.rows.iter().filter(|r| r.edge).map(|r| format!("`{}` on `{}`", r.name, v.task))).collect();
    if !edge.is_empty() {
        say(&format!(
            "no claim is made of rows at the edge of their learning rates, {WIDER} beyond the given ones included: {}",
            edge.join(", ")
        ));
    }
}

/// Whether a file is a database, whatever it is called.
fn is_archive(path: &Path) -> bool {
    const HEAD: &[u8; 16] = b"SQLite format 3\0";
    let mut head = [0; HEAD.len()];
    std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head)).is_ok_and(|()| head == *HEAD)
}

/// So many rates, even in their logarithm, from the least to the largest of a search.
fn spread(rates: &[f64], n: usize) -> Result<Vec<f64>, String> {
    let (low, high) = rates.iter().fold((f64::INFINITY, 0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    if low >= high {
        return Err("the search has one learning rate alone: there is nothing between its first and last".to_string());
    }
    if !(2..=MOST_RATES).contains(&n) {
        return Err(format!("{n} learning rates cannot be tried: 2 to {MOST_RATES} can"));
    }
    let step = (high / low).ln() / (n - 1) as f64;
    Ok((0..n).map(|k| if k + 1 == n { high } else { low * (step * k as f64).exp() }).collect())
}

/// The most learning rates that optimizers are judged with.
const MOST_RATES: usize = 200;

/// Factors of performance profiles.
const FACTORS: &[f64] = &[1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0];

/// Shares of tasks on which optimizers are within factors of the best.
fn show_profiles(verdicts: &[Verdict]) {
    let scores: Vec<Vec<f64>> = verdicts.iter().map(|v| v.rows.iter().map(|r| r.median).collect()).collect();
    say(&format!(
        "performance profiles: the share of the {} tasks on which the median is within a factor of the best there",
        verdicts.len()
    ));
    let heads =
        ["optimizer".to_string()].into_iter().chain(FACTORS.iter().map(|f| if *f == 1.0 { "best".to_string() } else { format!("x {f}") }));
    let mut table = Table::new(heads);
    for (row, shares) in verdicts[0].rows.iter().zip(profiles(&scores, FACTORS)) {
        let cells = [row.name.clone()].into_iter().chain(shares.iter().map(|s| format!("{:.0} %", 100.0 * s)));
        table.push(cells.map(Cell::Text));
    }
    say(&table.text());
}

fn show_audit(audit: &Audit) {
    say(&format!("audits of `{}`, not scored: medians over {} seeds with the learning rates chosen above", audit.task, audit.seeds));
    let mut table = Table::new(["optimizer".to_string()].into_iter().chain(audit.conditions.iter().cloned()));
    for (name, medians) in &audit.rows {
        let cells =
            [name.clone()].into_iter().chain(medians.iter().map(|m| if m.is_finite() { rounded(*m) } else { "failed".to_string() }));
        table.push(cells.map(Cell::Text));
    }
    say(&table.text());
}

/// A comparison in four cells: difference, interval, wins and losses, p.
fn cells_of(beside: &optc_search::stats::Paired, p: f64) -> [String; 4] {
    [
        rounded(beside.median),
        format!("{} to {}", rounded(beside.interval.0), rounded(beside.interval.1)),
        format!("{} / {}", beside.wins, beside.losses),
        optc_abi::number::shown(p, 2),
    ]
}

/// Optimizers on a task.
pub(super) fn show(verdict: &Verdict, rates: usize) {
    let reference = &verdict.rows[0].name;
    say(&format!(
        "task `{}`: {rates} learning rates each, chosen on {TUNING} seeds of their own; {} seeds, {reference} is the reference",
        verdict.task, verdict.seeds
    ));
    let among = verdict.rows.iter().any(|r| r.among.is_some());
    let mut heads = vec!["optimizer", "lr", "median", "failed", "difference", "95 % interval", "better / worse", "p (Holm)"];
    if among {
        heads.insert(1, "found among");
    }
    let mut table = Table::new(heads);
    for row in &verdict.rows {
        let Row { name, rate, edge, widened, median, failed, beside, p, .. } = row;
        let wider = if *widened > 0 { format!(" (+{widened} rates)") } else { String::new() };
        let rate = format!("{}{wider}{}", rounded(*rate), if *edge { " (edge)" } else { "" });
        let mut cells = vec![name.clone(), rate, rounded(*median), failed.to_string()];
        if among {
            cells.insert(1, row.among.map_or(String::new(), |n| n.to_string()));
        }
        match beside {
            None => cells.extend(["", "", "", ""].map(String::from)),
            Some(b) => cells.extend(cells_of(b, *p)),
        }
        table.push(cells.into_iter().map(Cell::Text));
    }
    say(&table.text());
    if !verdict.pairs.is_empty() {
        say("beside other baselines and controls:");
        let mut table = Table::new(["optimizer", "beside", "difference", "95 % interval", "better / worse", "p (Holm)"]);
        for pair in &verdict.pairs {
            let names = [pair.row, pair.with].map(|k| verdict.rows[k].name.clone());
            table.push(names.into_iter().chain(cells_of(&pair.beside, pair.p)).map(Cell::Text));
        }
        say(&table.text());
    }
    for (name, tuned) in verdict.rows.iter().filter_map(|r| Some((&r.name, r.tuned.as_ref()?))) {
        let numbers: Vec<String> =
            tuned.numbers.iter().map(|(a, b)| if a == b { number(*a) } else { format!("{} -> {}", number(*a), rounded(*b)) }).collect();
        if numbers.is_empty() {
            say(&format!("{name}: no numbers to tune"));
        } else {
            say(&format!("{name}, tuned in {} runs: {}", tuned.runs, numbers.join(", ")));
        }
    }
    let same = &verdict.same;
    say(&format!(
        "{reference} against itself on other seeds: {} ({} to {}), p {}",
        rounded(same.median),
        rounded(same.interval.0),
        rounded(same.interval.1),
        optc_abi::number::shown(same.p, 2)
    ));
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rates_are_spread_between_those_of_the_search() {
        let rates = spread(&[1e-3, 1e-1, 1e-2], 5).expect("rates");
        let want = [1e-3, 10f64.powf(-2.5), 1e-2, 10f64.powf(-1.5), 1e-1];
        assert!(rates.iter().zip(want).all(|(a, b)| (a / b - 1.0).abs() < 1e-14) && rates.len() == 5, "{rates:?}");
        assert_eq!((rates[0], rates[4]), (1e-3, 1e-1));
        assert!(spread(&[0.1], 5).is_err() && spread(&[0.1, 1.0], 1).is_err() && spread(&[0.1, 1.0], 1000).is_err());
    }
}
