//! The best program of a search as a spec, simplified as far as its score allows.

use super::after::{After, FOUND, Noise, Reached};
use super::archive::{Archive, EMITTED, EvalRow, HeldOutRow, ProgramRow};
use super::funnel::Passed;
use super::hunt::Hunt;
use super::spec;
use super::validation::{self, Validated};
use super::view::shown;
use optc_search::evolve::measured;
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::live::without_dead_code;
use optc_search::pareto::Front;
use optc_search::simplify::{Class, simplify};
use optc_search::stats::median;
use optc_search::text;

/// How much worse a simplified program may score, relatively: rounding that a few hundred steps blow up.
pub(super) const MARGIN: f64 = 1e-3;

/// The best program in its simplest form that scores as well, and its fitness.
pub fn simplest(hunt: &mut Hunt, genome: &Genome, fitness: f64) -> (Genome, f64) {
    for class in [Class::Real, Class::Exact] {
        let Ok(made) = simplify(genome, class) else { continue };
        // The unit of the learning rate is kept: the sweep has fixed rates.
        if made.rate != 1.0 {
            continue;
        }
        // What is written is still of the space.
        if !hunt.allows(&made.genome) {
            continue;
        }
        let again = hunt.fitness(&made.genome);
        if again <= fitness + MARGIN * fitness.abs() {
            return (made.genome, again);
        }
    }
    (without_dead_code(genome), fitness)
}

/// The best program of a search, as it is written.
#[derive(Clone, Debug)]
pub struct Winner {
    /// The program, in its simplest form that scores as well once it has been polished.
    pub genome: Genome,
    /// Its fitness.
    pub fitness: f64,
    /// Its fitness on the last rung of a funnel, on seeds that did not select it.
    pub again: Option<f64>,
    /// The identity of the program it was made from, and that program's fitness.
    pub key: u128,
    /// See `key`.
    pub from: f64,
    /// What was done to it, in sentences.
    pub notes: Vec<String>,
}

impl Winner {
    /// Its own identity.
    pub fn hash(&self) -> u128 {
        self.genome.dag().map_or(self.key, |dag| keys(&dag).exact)
    }
}

/// The best program of the evolution as it was found, if one got to the end of its runs; the best one on tasks of validation, where there are some.
pub fn winner(hunt: &Hunt) -> Option<Winner> {
    let of_evolution = || hunt.arms[0].best().filter(|b| measured(b.fitness)).map(|b| (b.genome.clone(), b.fitness, b.key));
    let of_evolution = || {
        let unfinished = hunt.unfinished.as_ref().map(|f| (f.genome.clone(), f.fitness, f.keys.exact));
        unfinished.or_else(of_evolution)
    };
    let (genome, fitness, key) = hunt.validated().or_else(of_evolution)?;
    Some(Winner { genome, fitness, again: None, key, from: fitness, notes: Vec::new() })
}

/// The best program as a spec, with where it came from and how it scored.
pub fn emit(hunt: &Hunt, after: &After) -> Option<String> {
    let After { funnel, winner, noise, held_out, reached } = after;
    let winner = winner.as_ref()?;
    let spec = &hunt.spec;
    let counters = hunt.counters();
    let mut doc = vec![format!("Found by the search `{}`, seed {}.", spec.name, spec.seed), String::new(), "# Source".to_string()];
    let tasks: Vec<String> = spec.tasks.iter().map(|t| format!("`{}`", t.label)).collect();
    let of = match counters.evaluated {
        0 => format!("run on {}", tasks.join(", ")),
        n => format!("one of {n} that were run on {}; {} children in all", tasks.join(", "), counters.children),
    };
    let (own, fitness) = (winner.hash(), rounded(winner.fitness));
    if own == winner.key {
        doc.push(format!("Program {own:032x}, {of}. Fitness {fitness}."));
    } else {
        doc.push(format!(
            "Program {own:032x}, fitness {fitness}, made from program {:032x} (fitness {}), {of}.",
            winner.key,
            rounded(winner.from)
        ));
    }
    if hunt.unfinished.is_some() {
        doc.push("It is of a round that was not ended; a search that goes on makes that round again.".to_string());
    }
    for start in &hunt.starts {
        doc.push(format!("First program `{}`: {}.", start.expression, rounded(start.fitness)));
    }
    for arm in &hunt.arms[1..] {
        let (name, run) = (arm.kind.name(), arm.counters().evaluated);
        doc.push(match arm.best() {
            Some(best) => format!("Control `{name}`, {run} programs: {}.", rounded(best.fitness)),
            None => format!("Control `{name}` has run {run} programs."),
        });
    }
    doc.extend(winner.notes.iter().cloned());
    doc.extend(validation_line(hunt.curve()).map(|line| format!("{line}.")));
    doc.extend(front_lines(hunt.front()));
    doc.extend(funnel.iter().enumerate().map(|(k, rung)| format!("{}.", rung_line(k, rung))));
    if !funnel.is_empty() && winner.again.is_none() {
        doc.push("No program passed the funnel; this is the best of the evolution.".to_string());
    }
    if let Some(noise) = noise {
        doc.push(format!("{}.", noise_line(noise, counters.evaluated)));
    }
    doc.extend(held_out.rows.iter().filter_map(|row| held_out_line(&held_out.rows, row)));
    if held_out.opened > 1 {
        doc.push(format!("What was held out had been looked at {} times before.", held_out.opened - 1));
    }
    match reached {
        Reached::End => {}
        Reached::Stopped => {
            doc.push("The search was stopped before its budget was spent; what is owed at its end has not been measured.".to_string());
        }
        Reached::Owing(what) => doc.push(format!("Not measured: {}.", what.join(", "))),
    }
    let owed = "These are scores of the search itself, the best of many: measure again on other seeds and tasks before believing them.";
    let owed = if held_out.rows.is_empty() {
        owed
    } else {
        "All but those on tasks that were held out are scores of the search itself, the best of many."
    };
    doc.push(owed.to_string());
    let lr = spec.rates[spec.rates.len() / 2];
    Some(spec::of(&winner.genome, &spec::name(&spec.name), &doc, lr))
}

/// A program of an archive as a spec, as it was found, with where it came from and how it scored.
///
/// # Errors
/// An archive that cannot be read, a program that is damaged; in words.
pub fn of_archive(archive: &Archive, row: &ProgramRow) -> Result<String, String> {
    let (run, _) = archive.run()?;
    let genome = text::read(Default::default(), &row.text).map_err(|d| format!("the program is damaged: {}", d.message))?.genome;
    let seed = archive.setting("seed")?.map_or(String::new(), |s| format!(", seed {s}"));
    let mut doc = vec![format!("Of the search `{}`{seed}.", run.name), String::new(), "# Source".to_string()];
    let made = if row.arm == EMITTED {
        "written at the end of the search".to_string()
    } else {
        format!("found by `{}`, island {}, child {}", row.arm, row.island, row.child)
    };
    let parent = if row.parent == 0 { "it has no parent".to_string() } else { format!("made from program {:032x}", row.parent) };
    doc.push(format!("Program {:032x}, {made}; {parent}. Fitness {}.", row.hash, rounded(row.fitness)));
    for start in archive.starts()? {
        doc.push(format!("First program `{}`: {}.", start.expression, rounded(start.fitness)));
    }
    let scores = archive.scores(row.hash)?;
    let mut tasks: Vec<&str> = scores.iter().map(|e| e.task.as_str()).collect();
    tasks.dedup();
    let mut lr = None;
    for task in tasks {
        let of_task: Vec<&EvalRow> = scores.iter().filter(|e| e.task == task).collect();
        let (rate, middle) = best_of_rates(&of_task);
        let failed = of_task.iter().filter(|e| !e.score.is_finite()).count();
        doc.push(format!(
            "Task `{task}`: {} at the learning rate {}, the median over seeds; {failed} of {} runs did not get to their end.",
            rounded(middle),
            rounded(rate),
            of_task.len()
        ));
        lr.get_or_insert(rate);
    }
    doc.push(
        "These are scores of the search itself, one of many programs: measure again on other seeds and tasks before believing them."
            .to_string(),
    );
    Ok(spec::of(&genome, &spec::name(&run.name), &doc, lr.unwrap_or(1e-3)))
}

/// The learning rate at which the median over seeds is the least, and that median.
fn best_of_rates(scores: &[&EvalRow]) -> (f64, f64) {
    let mut rates: Vec<f64> = scores.iter().map(|e| e.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let at = |rate: f64| {
        let of: Vec<f64> =
            scores.iter().filter(|e| e.rate == rate).map(|e| if e.score.is_finite() { e.score } else { f64::INFINITY }).collect();
        (rate, median(&of))
    };
    rates.into_iter().map(at).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((f64::NAN, f64::INFINITY))
}

/// The curve of validation, in a line.
pub fn validation_line(curve: &[Validated]) -> Option<String> {
    let last = curve.last()?;
    let Some(best) = validation::best(curve) else {
        return Some(format!("Validation: none of {} programs got to the end of its runs on the tasks of validation", curve.len()));
    };
    let later = if best == last {
        ", the last of them".to_string()
    } else {
        format!("; the last, at child {}, {} with a fitness of {}", last.children, rounded(last.score), rounded(last.fitness))
    };
    let words = "Validation of the best so far, on tasks that select no parent";
    Some(format!(
        "{words}: {} programs measured, the best one, at child {}, {} with a fitness of {}{later}",
        curve.len(),
        best.children,
        rounded(best.score),
        rounded(best.fitness)
    ))
}

/// Programs of a front that are written, at most.
const FRONT: usize = 20;

/// The Pareto front of a search: a line for each program.
fn front_lines(front: &Front) -> Vec<String> {
    let axes: Vec<&str> = front.axes().iter().map(|a| a.name()).collect();
    let all = front.points();
    if all.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("Pareto front over {}:", axes.join(", "))];
    for p in all.iter().take(FRONT) {
        let values: Vec<String> = front.axes().iter().zip(&p.values).map(|(a, v)| shown(*a, *v)).collect();
        lines.push(format!("- {}, program {:032x} of `{}`", values.join(", "), p.key, p.arm.name()));
    }
    if all.len() > FRONT {
        lines.push(format!("- and {} more", all.len() - FRONT));
    }
    lines
}

/// What the noise of the fitness is, in a line.
pub fn noise_line(noise: &Noise, programs: u64) -> String {
    format!(
        "Noise: `{}` against itself on {} pairs of other seeds differs by less than {} in 95 % of them; the best of {programs} programs that are all as good would look better by up to {}",
        noise.name,
        noise.pairs.len(),
        rounded(noise.floor()),
        rounded(noise.luck(programs))
    )
}

/// What became of a rung of a funnel, in a line.
pub fn rung_line(number: usize, rung: &Passed) -> String {
    let steps = rung.steps.map_or(String::new(), |n| format!(", {n} steps"));
    let beat: Vec<String> = rung.baselines.iter().map(|(name, fitness)| format!("`{name}` {}", rounded(*fitness))).collect();
    let beat = if beat.is_empty() { String::new() } else { format!("; to beat: {}", beat.join(", ")) };
    let best = if rung.kept == 0 {
        String::new()
    } else {
        format!(", the best {} and, on further seeds, {}", rounded(rung.best), rounded(rung.again))
    };
    format!("Rung {} of the funnel{steps}: {} of {} programs kept{best}{beat}", number + 1, rung.kept, rung.entered)
}

/// How the best of a search did on a task that was held out, if the row is about that.
fn held_out_line(rows: &[HeldOutRow], row: &HeldOutRow) -> Option<String> {
    let reference = rows.iter().find(|r| r.task == row.task && r.beside.is_none())?;
    let [difference, low, high, p] = row.beside.filter(|_| row.program == FOUND)?;
    Some(format!(
        "Held out `{}`: {}, `{}` {}; difference {} ({} to {}), p {}.",
        row.task,
        rounded(row.median),
        reference.program,
        rounded(reference.median),
        rounded(difference),
        rounded(low),
        rounded(high),
        optc_abi::number::shown(p, 2)
    ))
}

/// A score with five digits.
pub fn rounded(x: f64) -> String {
    match x {
        _ if !x.is_finite() => text::number(x),
        _ if measured(x) => optc_abi::number::shown(x, 5),
        _ => "stopped at a hurdle".to_string(),
    }
}
