//! `optc search FILE`, `optc search resume`.

use super::judge::show;
use crate::cli::SearchOptions;
use crate::commands::{catch_interrupt, say};
use crate::messages::Messages;
use crate::search::archive::{Archive, RunRow};
use crate::search::block::{self, Budget, SearchSpec};
use crate::search::emit::{emit, noise_line, rounded, rung_line};
use crate::search::hunt::{Hunt, Trouble};
use crate::search::{seed, task};
use crate::session::{Failed, Session, read_text};
use optc_train::{Cell, Table};
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn trouble(why: &str, help: Option<&str>, messages: &Messages) -> Failed {
    messages.error("R0146", why, help);
    Failed
}

/// Runs a search of a spec.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(file: &Path, name: Option<&str>, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let session = Session::open(file, &[], messages)?;
    let spec = read(&session, name, messages)?;
    let path = crate::host_env::folder_of(file).join(&spec.archive);
    let row = RunRow { spec: file.to_string_lossy().into_owned(), spec_text: session.text.clone(), name: spec.name.clone() };
    // Everything that may be wrong is found before the archive is made.
    let budget = budget(&spec, options, messages)?;
    let archive = Archive::create(&path, &row).map_err(|why| {
        let help = format!("`optc search resume {}` goes on with it; remove it, or give `archive` another path", path.display());
        trouble(&format!("cannot make an archive: {why}"), Some(&help), messages)
    })?;
    let made = hunt(spec, file, archive, "", options, messages);
    match made {
        Ok(hunt) => go(hunt, file, &path, budget, options, messages),
        Err(failed) => {
            // An archive in which nothing is.
            let _ = std::fs::remove_file(&path);
            Err(failed)
        }
    }
}

/// Goes on with a search.
///
/// # Errors
/// If that fails; why has been printed.
pub fn resume(path: &Path, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let no = |why: String| trouble(&format!("cannot go on from {}: {why}", path.display()), None, messages);
    let archive = Archive::open(path).map_err(no)?;
    let (row, state) = archive.run().map_err(no)?;
    let file = Path::new(&row.spec);
    let now = read_text(file).map_err(|why| no(format!("cannot read {}: {why}", row.spec)))?;
    if now != row.spec_text {
        let help = "the archive holds the text it was started with; a changed spec is another search, with an archive of its own";
        return Err(trouble(&format!("{} has changed since the search was started", row.spec), Some(help), messages));
    }
    let session = Session::open(file, &[], messages)?;
    let spec = read(&session, Some(&row.name), messages)?;
    let budget = budget(&spec, options, messages)?;
    let hunt = hunt(spec, file, archive, &state, options, messages)?;
    go(hunt, file, path, budget, options, messages)
}

/// Says what a candidate costs.
///
/// # Errors
/// If that fails; why has been printed.
pub fn time(file: &Path, name: Option<&str>, seconds: f64, messages: &Messages) -> Result<(), Failed> {
    let session = Session::open(file, &[], messages)?;
    let spec = read(&session, name, messages)?;
    let archive = Archive::none().map_err(|why| trouble(&why, None, messages))?;
    let (seeds, rates) = (spec.seeds.len(), spec.rates.len());
    let mut hunt = hunt(spec, file, archive, "", &SearchOptions::default(), messages)?;
    let before = resident();
    let each = Duration::from_secs_f64(seconds.clamp(0.01, 3600.0));
    let costs = hunt.costs(each).map_err(|why| trouble(&why, None, messages))?;
    say(&format!(
        "a child (mutation, meaning, hash, look-up)   {:.1} us, {:.0} in a second; {:.0} % are programs that were not seen before",
        1e6 * costs.child,
        1.0 / costs.child,
        100.0 * costs.unique as f64 / costs.children.max(1) as f64
    ));
    say(&format!(
        "code of a candidate                          {:.1} us, {:.0} in a second; {} made, memory of the process grew by {:.1} MB in all",
        1e6 * costs.compile,
        1.0 / costs.compile,
        costs.compiled,
        (resident() - before).max(0.0)
    ));
    for (expression, run, steps) in costs.runs {
        say(&format!(
            "{expression}: {seeds} seeds x {rates} rates in {:.3} ms: {:.0} programs/s, {:.0} steps/s",
            1e3 * run,
            1.0 / run,
            steps
        ));
    }
    Ok(())
}

/// Megabytes of memory that the process holds, where the system says so.
fn resident() -> f64 {
    const PAGE: f64 = 4096.0;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|p| p.parse::<f64>().ok()).map_or(0.0, |pages| pages * PAGE / 1e6)
}

pub(super) fn read(session: &Session, name: Option<&str>, messages: &Messages) -> Result<SearchSpec, Failed> {
    let blocks = block::blocks(session);
    let found = match (name, blocks.as_slice()) {
        (Some(name), _) => blocks.iter().find(|b| &*b.name.text == name).copied(),
        (None, [one]) => Some(*one),
        (None, _) => None,
    };
    let Some(block) = found else {
        let names: Vec<&str> = blocks.iter().map(|b| &*b.name.text).collect();
        let has = if names.is_empty() { "it has no `search` block".to_string() } else { format!("it has {}", names.join(", ")) };
        let why = name.map_or_else(
            || "name one search of the file".to_string(),
            |n| format!("there is no search `{n}` in {}", session.path.display()),
        );
        return Err(trouble(&why, Some(&has), messages));
    };
    block::read(session, block).map_err(|diagnostics| {
        messages.print(&diagnostics, &session.program.sources);
        Failed
    })
}

/// The budget of the command line, else of the block.
fn budget(spec: &SearchSpec, options: &SearchOptions, messages: &Messages) -> Result<Budget, Failed> {
    if let Some(n) = options.children {
        return Ok(Budget::Children(n));
    }
    let Some(text) = &options.budget else { return Ok(spec.budget) };
    let units = [("min", 60.0), ("ms", 1e-3), ("s", 1.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds = units.iter().find_map(|(unit, factor)| Some(text.trim().strip_suffix(unit)?.trim().parse::<f64>().ok()? * factor));
    match seconds.filter(|s| *s > 0.0 && *s < 1e9) {
        Some(s) => Ok(Budget::Time(Duration::from_secs_f64(s))),
        None => {
            messages.error("", &format!("`{text}` is no time"), Some("`--budget 90s`, `--budget 10min`, `--budget 2h`"));
            Err(crate::wrong_usage())
        }
    }
}

fn hunt(
    spec: SearchSpec,
    file: &Path,
    archive: Archive,
    state: &str,
    options: &SearchOptions,
    messages: &Messages,
) -> Result<Hunt, Failed> {
    let jobs = options.jobs.clamp(1, spec.strategy.islands);
    Hunt::new(spec, file, archive, state, jobs).map_err(|t| print_trouble(t, messages))
}

/// Prints what is wrong.
pub(super) fn print_trouble(t: Trouble, messages: &Messages) -> Failed {
    match t {
        Trouble::Words(why) => trouble(&why, None, messages),
        Trouble::Seed(_, seed::Refused::Spec(session)) | Trouble::Task(_, task::Refused::Spec(session)) => {
            messages.print(&session.diagnostics, &session.program.sources);
            Failed
        }
        Trouble::Seed(name, seed::Refused::Beyond(why)) => trouble(&format!("`{name}` is no program of the search: {why}"), None, messages),
        Trouble::Task(_, task::Refused::Beyond(why)) => {
            trouble(&why, Some("a task is a train with one player, f32 weights and one batch a step"), messages)
        }
        Trouble::Task(_, task::Refused::Run(d, session)) => {
            messages.print(&[*d], &session.program.sources);
            Failed
        }
    }
}

/// Runs, tells, and writes what was found.
fn go(mut hunt: Hunt, file: &Path, archive: &Path, budget: Budget, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    catch_interrupt();
    if std::io::stdin().is_terminal() && !options.quiet {
        eprintln!("`q` and Enter, or Ctrl-C, stop after this round; the archive holds everything");
        std::thread::spawn(|| {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line.trim() == "q" {
                    crate::trainer::INTERRUPTED.store(true, Ordering::SeqCst);
                }
            }
        });
    }
    let before = hunt.counters();
    let mut spent = Duration::ZERO;
    let done = hunt.run(budget, |hunt, elapsed| {
        spent = elapsed;
        if !options.quiet {
            eprintln!("{}", line(hunt, elapsed, before.children));
        }
    });
    done.map_err(|why| trouble(&why, None, messages))?;
    say(&table(&hunt));
    let counters = hunt.counters();
    let all: u64 = hunt.arms.iter().map(|a| a.counters().evaluated).sum();
    say(&format!(
        "{} children of evolution, {} programs run in all arms, {:.0} s; archive {}",
        counters.children,
        all,
        spent.as_secs_f64(),
        archive.display()
    ));
    if counters.fp_hit > 0 {
        say(&format!(
            "fingerprints: {} new programs had that of another; {}",
            counters.fp_hit,
            if hunt.spec.strategy.skip {
                "they were not run".to_string()
            } else {
                format!("{} of them score otherwise", counters.fp_wrong)
            }
        ));
    }
    let after = hunt.after(file).map_err(|t| print_trouble(t, messages))?;
    for (k, rung) in after.funnel.iter().enumerate() {
        say(&rung_line(k, rung));
    }
    if let Some(noise) = &after.noise {
        say(&noise_line(noise, counters.evaluated));
    }
    for verdict in &after.held_out {
        say("");
        show(verdict, hunt.spec.rates.len());
    }
    if !after.held_out.is_empty() {
        say(&format!("held out: {}", opened(after.opened)));
    }
    after.winner.iter().flat_map(|w| &w.notes).for_each(|note| say(note));
    if let (Some(to), Some(text)) = (hunt.spec.emit.clone(), emit(&hunt, &after)) {
        let to = crate::host_env::folder_of(file).join(to);
        let written = to.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&to, text));
        written.map_err(|e| {
            messages.error("R0102", &format!("cannot write {}: {e}", to.display()), None);
            Failed
        })?;
        say(&format!("the best: {}", to.display()));
    }
    Ok(())
}

/// How often tasks that were held out have been looked at.
pub(super) fn opened(times: i64) -> String {
    match times {
        1 => "measured for the first time in this archive; no score of these tasks selected a program".to_string(),
        n => format!("measured for the {n}. time: what was learnt from them before may have selected what is measured now"),
    }
}

/// One line about a search under way.
fn line(hunt: &Hunt, elapsed: Duration, before: u64) -> String {
    let c = hunt.counters();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let share = |n: u64| 100.0 * n as f64 / c.children.max(1) as f64;
    let best: Vec<String> =
        hunt.arms.iter().map(|a| format!("{} {}", a.kind.name(), a.best().map_or("-".to_string(), |b| rounded(b.fitness)))).collect();
    let run: u64 = hunt.arms.iter().map(|a| a.counters().evaluated).sum();
    format!(
        "{seconds:6.1} s  {} children ({:.0}/s), {:.0} % run, {:.0} % known, {:.0} % invalid; {:.0} programs/s; best: {}",
        c.children,
        (c.children - before) as f64 / seconds,
        share(c.evaluated),
        share(c.known),
        share(c.invalid),
        run as f64 / seconds,
        best.join(", ")
    )
}

/// First programs and arms with their scores.
fn table(hunt: &Hunt) -> String {
    let mut table = Table::new(["", "fitness", "programs run", "statements", "states"]);
    let text = |t: &str| Cell::Text(t.to_string());
    for s in &hunt.starts {
        let states = s.genome.states.len();
        table.push([
            text(&s.expression),
            text(&rounded(s.fitness)),
            text("1"),
            text(&s.genome.body.len().to_string()),
            text(&states.to_string()),
        ]);
    }
    for arm in &hunt.arms {
        let best = arm.best().map(|b| optc_search::live::without_dead_code(&b.genome));
        let (statements, states) = best.map_or((0, 0), |b| (b.body.len(), b.states.len()));
        let fitness = arm.best().map_or("-".to_string(), |b| rounded(b.fitness));
        let run = arm.counters().evaluated.to_string();
        table.push([text(arm.kind.name()), text(&fitness), text(&run), text(&statements.to_string()), text(&states.to_string())]);
    }
    table.text()
}
