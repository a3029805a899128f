//! The report of a search as one HTML file, made from its archive alone.

use super::after::FOUND;
use super::archive::{Archive, HeldOutRow, ProgramRow, VERSION, arms};
use super::emit::{noise_line, rounded, rung_line, validation_line};
use super::lineage::{lineage, statements};
use super::validation::Validated;
use super::view::{shares, shown};
use super::{judge, spec};
use optc_search::evolve::{Arm, Kind};
use optc_search::hash::keys;
use optc_search::pareto::{Axis, Front, Point};
use optc_search::stats::LEVEL;
use optc_search::text;
use optc_train::progress::duration;
use optc_train::report::Section;
use optc_train::{Cell, Line, Plot, Report, Table};
use std::path::Path;

/// What heads a report.
#[derive(Clone, Debug, Default)]
pub struct Heading {
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
}

/// Programs of a chart, at most: the rest is left out evenly.
const DOTS: usize = 1500;
/// Steps of a lineage that are shown, the last ones.
const STEPS: usize = 60;

type Done<T> = Result<T, String>;

/// An arm's share of a report.
struct ArmSeen {
    kind: Kind,
    run: i64,
    best: Option<f64>,
}

/// Makes the report of an archive.
///
/// # Errors
/// An archive that cannot be read, in words.
pub fn report(archive: &Archive, path: &Path, heading: &Heading) -> Done<Report> {
    let (run, held) = archive.run()?;
    let states = if held.is_empty() { Vec::new() } else { arms(&held)? };
    let mut seen = Vec::new();
    for kind in Kind::ALL {
        let (run, best) = archive.arm(kind)?;
        if run > 0 {
            seen.push(ArmSeen { kind, run, best });
        }
    }
    let axes = archive.axes()?;
    let front = archive.front(&axes)?;
    let mut facts = vec![("Archive".to_string(), path.display().to_string()), ("Version".to_string(), VERSION.to_string())];
    if let Some(seed) = archive.setting("seed")? {
        facts.push(("Seed".to_string(), seed));
    }
    facts.push(("Searched for".to_string(), lasted(archive)?));
    if let Some(parts) = archive.setting("parts")? {
        facts.push(("Merged from".to_string(), format!("{} archives", parts.split(',').count())));
    }
    let mut sections = vec![Section::Heading("Verdict".to_string())];
    sections.extend(verdict(archive, &seen)?.into_iter().map(Section::Text));
    sections.push(Section::Heading("Progress".to_string()));
    sections.extend(progress(archive, &seen)?);
    sections.push(Section::Table(arm_table(&seen, &states)));
    sections.push(Section::Table(start_table(archive)?));
    sections.push(Section::Heading("Pareto front".to_string()));
    sections.extend(pareto(archive, &front)?);
    sections.extend(best(archive)?);
    sections.extend(owed(archive, &seen)?);
    let (title, spec_name) = (format!("Search `{}`", run.name), run.spec.clone());
    let (command, date) = (heading.command.clone(), heading.date.clone());
    Ok(Report { title, spec_name, spec: run.spec_text, command, date, facts, sections })
}

/// What the best of the evolution is worth beside its controls, in sentences; nothing where there are none.
///
/// # Errors
/// An archive that cannot be read, in words.
pub fn beside_controls(archive: &Archive) -> Done<Vec<String>> {
    let of = |kind| archive.arm(kind).map(|(run, best)| ArmSeen { kind, run, best });
    let arms = Kind::ALL.into_iter().map(of).collect::<Done<Vec<_>>>()?;
    let (own, controls) = (&arms[0], &arms[1..]);
    let Some(found) = own.best else { return Ok(Vec::new()) };
    let mut ran = controls.iter().filter(|c| c.run > 0).peekable();
    if ran.peek().is_none() {
        return Ok(vec!["Controls have run nothing: how much of the gain selection made is not known.".to_string()]);
    }
    let sentence = |c: &ArmSeen| {
        let name = c.kind.name();
        let programs = format!("{} programs where the evolution ran {}", c.run, own.run);
        match c.best {
            None => format!("The control `{name}`, {programs}, got to no end of its runs."),
            Some(best) if best < found => format!(
                "The control `{name}` is better than the evolution: {} beside {} ({programs}). What the evolution found is not worth its search.",
                rounded(best),
                rounded(found)
            ),
            Some(best) if best == found => {
                format!("The control `{name}` is as good as the evolution: {} ({programs}).", rounded(best))
            }
            Some(best) => {
                format!("The evolution is better than the control `{name}`: {} beside {} ({programs}).", rounded(found), rounded(best))
            }
        }
    };
    Ok(ran.map(sentence).collect())
}

/// How long the search of an archive has gone on, on how many threads, and since when.
///
/// # Errors
/// An archive that cannot be read, in words.
pub fn lasted(archive: &Archive) -> Done<String> {
    let setting = |name: &str| archive.setting(name);
    let threads = match setting("threads")?.as_deref() {
        None => String::new(),
        Some("1") => " on one thread".to_string(),
        Some(n) => format!(" on {n} threads"),
    };
    let started = setting("started")?.map_or(String::new(), |when| format!(", started {when}"));
    Ok(format!("{}{threads}{started}", duration(archive.elapsed()?)))
}

/// What came out, in words.
fn verdict(archive: &Archive, arms: &[ArmSeen]) -> Done<Vec<String>> {
    let mut words = Vec::new();
    let Some((evolution, found)) = arms.iter().find(|a| a.kind == Kind::Evolution).and_then(|a| Some((a, a.best?))) else {
        return Ok(vec!["No program of the evolution got to the end of its runs.".to_string()]);
    };
    let starts = archive.starts()?;
    let first = starts.iter().filter(|s| s.fitness.is_finite()).min_by(|a, b| a.fitness.total_cmp(&b.fitness));
    if let Some(s) = first {
        let gain = s.fitness - found;
        let share = if s.fitness > 0.0 { format!(" ({:.1} %)", 100.0 * gain / s.fitness) } else { String::new() };
        words.push(format!(
            "The best of {} programs has a fitness of {}, the best first program, `{}`, {}: better by {}{share}.",
            evolution.run,
            rounded(found),
            s.expression,
            rounded(s.fitness),
            rounded(gain)
        ));
        for control in arms.iter().filter(|a| a.kind != Kind::Evolution) {
            let Some(best) = control.best else { continue };
            let of =
                if gain > 0.0 { format!(", {:.0} % of that gain", (100.0 * (s.fitness - best) / gain).max(0.0)) } else { String::new() };
            let what = match control.kind {
                Kind::ConstantsOnly => "Changing numbers of the first programs alone",
                _ => "Mutating the first programs without selection",
            };
            words.push(format!("{what}, with {} programs, gets to {}{of}.", control.run, rounded(best)));
        }
    }
    words.extend(beside_controls(archive)?);
    match (archive.noise()?, first) {
        (Some(noise), Some(s)) => {
            let (gain, luck) = (s.fitness - found, noise.luck(evolution.run.max(0) as u64));
            let beside = if gain > luck.max(noise.floor()) { "more than" } else { "no more than" };
            words.push(format!(
                "By chance the best of as many programs that are all as good as the first would look better by up to {}: the gain is {beside} that.",
                rounded(luck)
            ));
        }
        _ => words.push("How much of it may be chance was not measured (`control { a_a = 20 }`).".to_string()),
    }
    let (opened, held_out) = archive.held_out()?;
    words.extend(held_out_words(&held_out));
    if held_out.is_empty() {
        words.push("Nothing was held out: these are scores of the search itself, the best of many on its own tasks and seeds.".to_string());
    } else if opened > 1 {
        words.push(format!(
            "What was held out has been looked at {opened} times: what was learnt from it before may have selected what is measured now."
        ));
    }
    Ok(words)
}

/// What programs that were found did on tasks that were held out, in words.
fn held_out_words(rows: &[HeldOutRow]) -> Vec<String> {
    let found = rows.iter().filter(|r| r.program == FOUND);
    found
        .filter_map(|row| {
            let reference = rows.iter().find(|r| r.task == row.task && r.beside.is_none())?;
            let [of, low, high, p] = row.beside?;
            let told = if p < LEVEL && (low > 0.0 || high < 0.0) {
                if of < 0.0 { "better than" } else { "worse than" }
            } else {
                "not told apart from"
            };
            Some(format!(
                "On `{}`, which was held out, what was found is {told} `{}`: the median difference is {} (95 % interval {} to {}, p {}).",
                row.task,
                reference.program,
                rounded(of),
                rounded(low),
                rounded(high),
                optc_abi::number::shown(p, 2)
            ))
        })
        .collect()
}

/// The best fitness over programs run.
fn progress(archive: &Archive, arms: &[ArmSeen]) -> Done<Vec<Section>> {
    let mut lines = Vec::new();
    for arm in arms {
        let points = archive.progress(arm.kind)?;
        // Stairs: a best stays until there is a better one.
        let mut stairs: Vec<(f64, f64)> = Vec::new();
        for (n, best) in points {
            if let Some(last) = stairs.last().copied() {
                stairs.push((n as f64, last.1));
            }
            stairs.push((n as f64, best));
        }
        if !stairs.is_empty() {
            lines.push(Line { name: arm.kind.name().to_string(), curves: vec![stairs] });
        }
    }
    let (log_y, y_label) = fitness_axis(&lines);
    let plot = Plot {
        title: "Best fitness".to_string(),
        x_label: "programs run".to_string(),
        y_label,
        log_x: true,
        log_y,
        lines,
        ..Plot::default()
    };
    let mut sections = if plot.lines.is_empty() { Vec::new() } else { vec![Section::Plot(plot)] };
    sections.extend(validation(&archive.validated()?));
    Ok(sections)
}

/// The best of the evolution on its tasks, and on those of validation.
fn validation(curve: &[Validated]) -> Vec<Section> {
    let Some(line) = validation_line(curve) else { return Vec::new() };
    let of = |name: &str, value: fn(&Validated) -> f64| Line {
        name: name.to_string(),
        curves: vec![curve.iter().map(|v| (v.children as f64, value(v))).filter(|(_, y)| y.is_finite()).collect()],
    };
    let lines = vec![of("its fitness", |v| v.fitness), of("on tasks of validation", |v| v.score)];
    let (log_y, y_label) = fitness_axis(&lines);
    let plot = Plot {
        title: "The best of the evolution, and what it scores on tasks of validation".to_string(),
        x_label: "children".to_string(),
        y_label,
        log_y,
        lines,
        ..Plot::default()
    };
    vec![Section::Plot(plot), Section::Text(format!("{line}."))]
}

/// Whether the axis of the fitness is logarithmic, as it is where nothing is below 0; and what stands beside it.
fn fitness_axis(lines: &[Line]) -> (bool, String) {
    let all = || lines.iter().flat_map(|l| &l.curves).flatten().map(|(_, y)| *y);
    let log_y = all().all(|y| y >= 0.0) && all().any(|y| y > 0.0);
    let left_out = if log_y && all().any(|y| y == 0.0) { "; 0 is left out" } else { "" };
    (log_y, format!("fitness, lower is better{left_out}"))
}

fn arm_table(arms: &[ArmSeen], states: &[Arm]) -> Table {
    let mut table = Table::new(["arm", "best fitness", "programs run", "children", "unique", "run", "invalid", "restarts", "rounds"]);
    for arm in arms {
        let best = arm.best.map_or("-".to_string(), rounded);
        let mut cells = vec![arm.kind.name().to_string(), best, arm.run.to_string()];
        if let Some(state) = states.iter().find(|s| s.kind == arm.kind) {
            let counters = state.counters();
            let shares = shares(&counters).map(|x| format!("{x:.1} %"));
            let restarts: u64 = state.islands.iter().map(|i| i.restarts).sum();
            cells.push(counters.children.to_string());
            cells.extend(shares);
            cells.extend([restarts.to_string(), state.rounds.to_string()]);
        }
        cells.resize(9, String::new());
        table.push(cells.into_iter().map(Cell::Text));
    }
    table
}

fn start_table(archive: &Archive) -> Done<Table> {
    let mut table = Table::new(["first program", "fitness"]);
    for s in archive.starts()? {
        table.push([s.expression, rounded(s.fitness)].map(Cell::Text));
    }
    Ok(table)
}

/// Charts of the front over each axis beside the fitness, and its programs.
fn pareto(archive: &Archive, front: &Front) -> Done<Vec<Section>> {
    let axes = front.axes();
    let Some(fitness) = axes.iter().position(|a| *a == Axis::Fitness) else { return Ok(Vec::new()) };
    let mut points: Vec<Point> = Vec::new();
    archive.points(axes, |p| points.push(p))?;
    points.retain(|p| p.values.iter().all(|v| v.is_finite()));
    // What is far behind says nothing, and would press the rest together.
    let mut sorted: Vec<f64> = points.iter().map(|p| p.values[fitness]).collect();
    sorted.sort_by(f64::total_cmp);
    let most = sorted.get(sorted.len().saturating_sub(1) * 3 / 4).copied().unwrap_or(f64::INFINITY);
    points.retain(|p| p.values[fitness] <= most);
    let every = points.len().div_ceil(DOTS).max(1);
    let mut sections = Vec::new();
    for (k, axis) in axes.iter().enumerate().filter(|(k, _)| *k != fitness) {
        let dots = |of: &mut dyn Iterator<Item = &Point>| {
            let mut dots: Vec<(f64, f64)> = of.map(|p| (p.values[k], p.values[fitness])).collect();
            dots.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            vec![dots]
        };
        let mut lines = Vec::new();
        for kind in Kind::ALL {
            let of = dots(&mut points.iter().filter(|p| p.arm == kind).step_by(every));
            if !of[0].is_empty() {
                lines.push(Line { name: kind.name().to_string(), curves: of });
            }
        }
        lines.push(Line { name: "Pareto front".to_string(), curves: dots(&mut front.points().iter()) });
        let (log_y, y_label) = fitness_axis(&lines);
        sections.push(Section::Plot(Plot {
            title: format!("Fitness and {}", axis.name()),
            x_label: axis.name().to_string(),
            y_label,
            log_y,
            lines,
            points: true,
            ..Plot::default()
        }));
    }
    if points.len() > DOTS {
        sections.push(Section::Text(format!("Of the better three quarters of the programs every {every}. is drawn.")));
    }
    let mut table = Table::new(axes.iter().map(|a| a.name()).chain(["arm", "hash", "program"]));
    for p in front.points() {
        let values = axes.iter().zip(&p.values).map(|(a, v)| shown(*a, *v));
        let body = archive.program(p.key)?.map_or(String::new(), |row| statements(&row.text).join("; "));
        let cells = values.chain([p.arm.name().to_string(), short(p.key), body]);
        table.push(cells.map(Cell::Text));
    }
    sections.push(Section::Table(table));
    Ok(sections)
}

/// The first digits of a hash, enough to tell programs of an archive apart.
pub fn short(hash: u128) -> String {
    format!("{hash:032x}")[..12].to_string()
}

/// The best program, and where it came from.
fn best(archive: &Archive) -> Done<Vec<Section>> {
    let winner = archive.winner()?;
    let row: Option<ProgramRow> = match &winner {
        Some(w) => archive.program(w.program)?,
        None => archive.top_of(Kind::Evolution)?,
    };
    let Some(row) = row else { return Ok(Vec::new()) };
    let source = winner.as_ref().map_or(&row.text, |w| &w.text);
    let mut sections = vec![Section::Heading("The best program".to_string())];
    let mut own = row.hash;
    if let Ok(read) = text::read(Default::default(), source) {
        own = read.genome.dag().map_or(own, |dag| keys(&dag).exact);
        let lines = spec::of(&read.genome, "found", &[], 1e-3);
        sections.push(Section::Printed(lines.trim_end().lines().map(str::to_string).collect()));
    }
    let again = winner.as_ref().and_then(|w| w.again);
    let again = again.map_or(String::new(), |a| format!(", {} on the further seeds of the last rung of the funnel", rounded(a)));
    let fitness = winner.as_ref().map_or(row.fitness, |w| w.fitness);
    let made =
        if own == row.hash { String::new() } else { format!(", made from program {} (fitness {})", short(row.hash), rounded(row.fitness)) };
    sections.push(Section::Text(format!("Program {}: fitness {}{again}{made}.", short(own), rounded(fitness))));
    let row = archive.program(own)?.unwrap_or(row);
    sections.push(Section::Heading("Its lineage".to_string()));
    let all = lineage(archive, row)?;
    let mut table = Table::new(["", "hash", "fitness", "arm", "island", "child", "statements", "mutation, without what is dead"]);
    for (k, a) in all.iter().enumerate().take(STEPS) {
        let changes: Vec<String> = a.changes.iter().map(ToString::to_string).collect();
        let r = &a.row;
        let change = if k + 1 == all.len() { "first of the archive".to_string() } else { changes.join("; ") };
        let numbers = [r.island, r.child, r.statements].map(|n| n.to_string());
        let cells = [(all.len() - k).to_string(), short(r.hash), rounded(r.fitness), r.arm.clone()];
        table.push(cells.into_iter().chain(numbers).chain([change]).map(Cell::Text));
    }
    sections.push(Section::Table(table));
    if all.len() > STEPS {
        sections.push(Section::Text(format!("{} earlier programs are left out.", all.len() - STEPS)));
    }
    Ok(sections)
}

/// What was measured when the search ended.
fn owed(archive: &Archive, arms: &[ArmSeen]) -> Done<Vec<Section>> {
    let mut sections = Vec::new();
    let rungs = archive.funnel()?;
    if !rungs.is_empty() {
        sections.push(Section::Heading("Funnel".to_string()));
        let mut table = Table::new(["rung", "steps", "entered", "kept", "best", "the same on further seeds", "to beat"]);
        for (k, r) in rungs.iter().enumerate() {
            let beat: Vec<String> = r.baselines.iter().map(|(name, fitness)| format!("{name} {}", rounded(*fitness))).collect();
            let steps = r.steps.map_or("of the tasks".to_string(), |s| s.to_string());
            let (best, again) = if r.kept == 0 { (String::new(), String::new()) } else { (rounded(r.best), rounded(r.again)) };
            table.push(
                [(k + 1).to_string(), steps, r.entered.to_string(), r.kept.to_string(), best, again, beat.join(", ")].map(Cell::Text),
            );
        }
        sections.push(Section::Table(table));
        sections.extend(rungs.iter().enumerate().map(|(k, r)| Section::Text(format!("{}.", rung_line(k, r)))));
    }
    if let Some(noise) = archive.noise()? {
        sections.push(Section::Heading("Noise: the best first program against itself".to_string()));
        let run = arms.iter().find(|a| a.kind == Kind::Evolution).map_or(0, |a| a.run.max(0) as u64);
        sections.push(Section::Text(format!("{}.", noise_line(&noise, run))));
        let dots: Vec<(f64, f64)> = {
            let mut all: Vec<(f64, f64)> = noise.pairs.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            all
        };
        if !dots.is_empty() {
            sections.push(Section::Plot(Plot {
                title: format!("Fitness of {} on two sets of other seeds", noise.name),
                x_label: "first set".to_string(),
                y_label: "second set".to_string(),
                lines: vec![Line { name: String::new(), curves: vec![dots] }],
                points: true,
                ..Plot::default()
            }));
        }
    }
    let (_, rows) = archive.held_out()?;
    if !rows.is_empty() {
        sections.push(Section::Heading("Held out".to_string()));
        sections.push(Section::Table(judge::held_out_table(&rows)));
        let pairs = archive.held_out_pairs()?;
        if !pairs.is_empty() {
            sections.push(Section::Table(judge::held_out_pairs(&pairs)));
        }
        sections.push(Section::Text(judge::examined(&archive.examined()?)));
    }
    Ok(sections)
}
