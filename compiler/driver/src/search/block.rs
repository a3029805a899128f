//! The `search` block of a spec, read and checked: what is impossible or not there is an error with its place.

mod names;
mod space;
mod strategy;
mod tasks;

use super::paths::{self, Output};
use super::regress::block as regress;
use crate::session::Session;
use optc_base::{Code, Diagnostic, Span, nearest};
use optc_front::ast::{BlockEntry, BlockItem, BlockKind, Expr, ExprKind, ItemKind, Name, Setting, StrPart, UnaryOp, Unit};
use optc_front::std_lib;
use optc_search::evolve::Strategy;
use optc_search::fun::Fun;
use optc_search::mutate::Space;
use optc_search::pareto::{self, AXES, Axis};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A task of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpec {
    /// The train, as the file names it: `digits`, or `tasks.digits` of an import with another name.
    pub train: String,
    /// What results call it.
    pub label: String,
    /// Overrides, `name=value`.
    pub set: Vec<String>,
    /// Its share of the fitness.
    pub weight: f64,
    /// Where it is named.
    pub span: Span,
    /// The names of its overrides with the places of their values.
    pub given: Vec<(String, Span)>,
}

/// A rung of a funnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// Steps of its runs; `None` for those of the tasks.
    pub steps: Option<u64>,
    /// The share of the programs that is kept.
    pub keep: f64,
    /// Expressions of optimizers that are to be beaten.
    pub beat: Vec<(String, Span)>,
}

/// How the scores of seeds become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The middle one.
    Median,
    /// The mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// How long a search goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So long, all arms together.
    Time(Duration),
    /// So many children of the evolution.
    Children(u64),
}

/// A `search` block.
#[derive(Clone, Debug)]
pub struct SearchSpec {
    /// Its name.
    pub name: String,
    /// Where.
    pub span: Span,
    /// Expressions of the first programs; empty for the empty program alone.
    pub starts: Vec<(String, Span)>,
    /// The programs that may be reached.
    pub space: Space,
    /// Functions that no program has.
    pub forbidden: Vec<Fun>,
    /// Tasks.
    pub tasks: Vec<TaskSpec>,
    /// Tasks that select no parent, on which the best is measured while the search goes on.
    pub validation: Vec<TaskSpec>,
    /// After how many rounds each time.
    pub validate_every: u64,
    /// Measurements without a better one after which the search ends; 0 for none.
    pub patience: usize,
    /// Tasks that select nothing; the best is measured on them when the search ends.
    pub held_out: Vec<TaskSpec>,
    /// The metric that is scored; `None` for the loss.
    pub metric: Option<String>,
    /// Where it is named.
    pub metric_span: Span,
    /// How seeds are combined.
    pub combine: Combine,
    /// Seeds of runs.
    pub seeds: Vec<u64>,
    /// Learning rates that are swept.
    pub rates: Vec<f64>,
    /// The strategy.
    pub strategy: Strategy,
    /// How many times the score of the first program that of a program may be on the tasks so far, for it to be run on the next; infinite where nothing is said.
    pub hurdle: f64,
    /// Where programs are only simplified: how much worse than the best first program, relatively, they may score.
    pub margin: Option<f64>,
    /// Children by which the best is simplified when the search ends.
    pub simplify: u64,
    /// Whether the controls run.
    pub constants_only: bool,
    /// See `constants_only`.
    pub random: bool,
    /// Rungs behind the search, on each of which a share of the programs is kept.
    pub funnel: Vec<Rung>,
    /// How often the best first program is compared with itself when the search ends.
    pub a_a: usize,
    /// The axes of the Pareto front that is kept; it selects nothing.
    pub pareto: Vec<Axis>,
    /// How long.
    pub budget: Budget,
    /// Where everything is kept.
    pub archive: PathBuf,
    /// Where the best is written.
    pub emit: Option<PathBuf>,
    /// The seed of the search.
    pub seed: u64,
}

/// Comparisons of the best first program with itself where a block does not say.
const A_A: usize = 20;

/// The words of a block.
const WORDS: &[&str] = &[
    "start",
    "space",
    "task",
    "fitness",
    "strategy",
    "control",
    "budget",
    "archive",
    "emit",
    "seed",
    "funnel",
    "validation",
    "held_out",
    "pareto",
];
pub(super) type Read<T> = Result<T, Diagnostic>;

pub(super) fn bad(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Code("E0810"), span, message)
}

/// Whether no two of these names are the same.
///
/// # Errors
/// The first that is.
pub(super) fn once<'a>(names: impl IntoIterator<Item = &'a Name>) -> Read<()> {
    let mut seen: Vec<&Name> = Vec::new();
    for name in names {
        if let Some(before) = seen.iter().find(|n| n.text == name.text) {
            return Err(
                Diagnostic::error(Code("E0527"), name.span, format!("`{}` is set twice", name.text)).label(before.span, "set here before")
            );
        }
        seen.push(name);
    }
    Ok(())
}

/// The constant of this name, of the spec or of `std.search`.
pub(super) fn constant(session: &Session, name: &str) -> Option<Expr> {
    let of = |kind: &ItemKind| match kind {
        ItemKind::Const { name: n, value, .. } if &*n.text == name => Some(value.clone()),
        _ => None,
    };
    session.items().find_map(|(_, i)| of(&i.kind)).or_else(|| {
        let text = std_lib::std_source(&format!("std.search.{name}"))?;
        let (file, _) = optc_front::parse(Default::default(), &text);
        file.items.iter().find_map(|i| of(&i.kind))
    })
}

/// A number that is written out.
pub(super) fn number(e: &Expr) -> Read<f64> {
    match &e.kind {
        ExprKind::Int(n) => Ok(*n as f64),
        ExprKind::Float(x) => Ok(*x),
        ExprKind::Quantity(x, Unit::Percent) => Ok(*x),
        ExprKind::Unary(UnaryOp::Neg, x) => Ok(-number(x)?),
        _ => {
            Err(bad(e.span, "a number is expected here")
                .help("settings of a search are written out: `statements <= 24`, `log(1e-4, 1e-1, 4)`"))
        }
    }
}

pub(super) fn whole(e: &Expr, least: u64, most: u64, what: &str) -> Read<u64> {
    let x = number(e)?;
    if x.fract() != 0.0 || x < least as f64 || x > most as f64 {
        return Err(bad(e.span, format!("{what} is a whole number from {least} to {most}, not {x}")));
    }
    Ok(x as u64)
}

pub(super) fn text(e: &Expr) -> Read<String> {
    match &e.kind {
        ExprKind::Str(parts) => match parts.as_slice() {
            [StrPart::Text(t)] => Ok(t.to_string()),
            _ => Err(bad(e.span, "a path without `{…}` is expected here")),
        },
        _ => Err(bad(e.span, "a path in quotation marks is expected here")),
    }
}

pub(super) fn name_of(e: &Expr) -> Option<&str> {
    match &e.kind {
        ExprKind::Name(n) => Some(n),
        ExprKind::Field(_, n) => Some(&n.text),
        _ => None,
    }
}

/// The name of a call and its arguments.
pub(super) fn call(e: &Expr) -> Option<(&str, Vec<&Expr>)> {
    let ExprKind::Call { callee, args } = &e.kind else { return None };
    Some((name_of(callee)?, args.iter().map(|a| &a.value).collect()))
}

/// The texts of a list of expressions, or of one.
pub(super) fn expressions(session: &Session, e: &Expr) -> Vec<(String, Span)> {
    let all: Vec<&Expr> = if let ExprKind::List(items) = &e.kind { items.iter().collect() } else { vec![e] };
    all.into_iter().map(|e| (session.program.sources.slice(e.span).to_string(), e.span)).collect()
}

/// The one value of a setting.
pub(super) fn only(s: &Setting) -> Read<&Expr> {
    match s.values.as_slice() {
        [(None, e)] => Ok(e),
        _ => Err(bad(s.span, format!("`{}` takes one value", s.word.text))),
    }
}

pub(super) fn unknown<'a>(name: &Name, what: &str, known: impl Iterator<Item = &'a str> + Clone) -> Diagnostic {
    let d = Diagnostic::error(Code("E0226"), name.span, format!("{what} has no setting `{}`", name.text));
    match nearest(&name.text, known.clone()) {
        Some(near) => d.help(format!("did you mean `{near}`")),
        None => d.help(format!("its settings are {}", known.collect::<Vec<_>>().join(", "))),
    }
}

/// `search` blocks of the root file.
pub fn blocks(session: &Session) -> Vec<&BlockItem> {
    let of = |kind: &ItemKind| matches!(kind, ItemKind::Block(b) if b.kind == BlockKind::Search);
    session
        .items()
        .filter(|(_, i)| of(&i.kind))
        .filter_map(|(_, i)| if let ItemKind::Block(b) = &i.kind { Some(&**b) } else { None })
        .collect()
}

/// What tells whether the fitness of two searches can be compared: the text around the searches, tasks, and how they are scored.
pub fn measure(session: &Session, spec: &SearchSpec) -> String {
    let mut text = session.text.clone();
    let mut searches: Vec<Span> = session
        .items()
        .map(|(_, i)| i)
        .filter(|i| matches!(&i.kind, ItemKind::Block(b) if b.kind == BlockKind::Search))
        .map(|i| i.span)
        .collect();
    searches.sort_by_key(|s| std::cmp::Reverse(s.start));
    for span in searches {
        text.replace_range(span.start as usize..span.end as usize, "");
    }
    let tasks: Vec<_> = spec.tasks.iter().map(|t| (&t.train, &t.set, t.weight)).collect();
    let scored = (tasks, &spec.metric, spec.combine, &spec.seeds, &spec.rates, spec.hurdle, &spec.starts.first().map(|s| &s.0));
    optc_train::report::sha256(format!("{text}{scored:?}").as_bytes())
}

/// What is wrong with the searches of a spec.
pub fn check(session: &Session) -> Vec<Diagnostic> {
    let (mut found, mut specs) = (Vec::new(), Vec::new());
    for b in blocks(session) {
        if regress::is_regression(b) {
            found.extend(regress::read(session, b).err().unwrap_or_default());
            continue;
        }
        match read(session, b) {
            Ok(spec) => specs.push(spec),
            Err(errors) => found.extend(errors),
        }
    }
    found.extend(names::check(session, &specs));
    found
}

/// Reads a block.
///
/// # Errors
/// All that is wrong with it.
pub fn read(session: &Session, block: &BlockItem) -> Result<SearchSpec, Vec<Diagnostic>> {
    let mut spec = SearchSpec {
        name: block.name.text.to_string(),
        span: block.name.span,
        starts: Vec::new(),
        space: Space::default(),
        forbidden: Vec::new(),
        tasks: Vec::new(),
        validation: Vec::new(),
        validate_every: 1,
        patience: 0,
        held_out: Vec::new(),
        metric: None,
        metric_span: block.name.span,
        combine: Combine::Median,
        seeds: vec![0],
        rates: vec![1e-4, 1e-3, 1e-2, 1e-1],
        strategy: Strategy::default(),
        hurdle: f64::INFINITY,
        margin: None,
        simplify: 200,
        constants_only: true,
        random: true,
        funnel: Vec::new(),
        a_a: A_A,
        pareto: pareto::DEFAULT.to_vec(),
        budget: Budget::Time(Duration::from_secs(600)),
        archive: PathBuf::from(format!("out/{}.sqlite", block.name.text)),
        emit: None,
        seed: 0,
    };
    let mut errors = Vec::new();
    let mut seen: Vec<&Setting> = Vec::new();
    for entry in &block.entries {
        let setting = match entry {
            BlockEntry::Setting(s) => s,
            BlockEntry::Let { span, .. } => {
                errors.push(bad(*span, "a search has no `let`").help("its settings are written out"));
                continue;
            }
            BlockEntry::Field { name, .. } => {
                errors.push(unknown(name, "a `search` block", WORDS.iter().copied()));
                continue;
            }
        };
        if &*setting.word.text != "task" {
            errors.extend(seen.iter().find_map(|s| once([&s.word, &setting.word]).err()));
        }
        seen.push(setting);
        if let Err(d) = spec.set(session, setting) {
            errors.push(d);
        }
    }
    let missing = |word: &str| !seen.iter().any(|s| &*s.word.text == word);
    if missing("task") {
        errors.push(
            bad(spec.span, format!("`{}` has no task", spec.name)).help("`task digits_mlp { steps = 300 }` names a train of this file"),
        );
    }
    if missing("start") {
        errors.push(bad(spec.span, format!("`{}` has no start", spec.name)).help("`start [adamw, lion]`, or `start empty`"));
    }
    if !missing("start") {
        errors.extend(space::check(&spec).err());
    }
    if spec.hurdle.is_finite() && spec.tasks.len() == 1 {
        errors.push(
            bad(spec.span, "a hurdle stands between tasks, and there is one task alone")
                .help("leave `hurdle` out, or begin with a task that is quickly done"),
        );
    }
    if spec.margin.is_some() {
        if spec.starts.is_empty() && !missing("start") {
            errors.push(
                bad(spec.span, "there is nothing to simplify in `empty`")
                    .help("`start [found]` with an optimizer of the file or of an import"),
            );
        }
        // These look for better programs, not for shorter ones.
        let unfit = [
            ("control", spec.constants_only || spec.random),
            ("funnel", !spec.funnel.is_empty()),
            ("validation", !spec.validation.is_empty()),
        ];
        for (word, _) in unfit.iter().filter(|(word, asks)| *asks && !missing(word)) {
            errors.push(
                bad(spec.span, format!("a search that simplifies has no {word}: it looks for shorter programs, not for better ones"))
                    .help(format!("leave `{word}` out")),
            );
        }
        (spec.constants_only, spec.random) = (false, false);
    }
    errors.extend(tasks::label(&mut spec).err());
    errors.extend(outputs(session, &seen, spec.span, &spec.archive, spec.emit.as_deref()));
    if errors.is_empty() { Ok(spec) } else { Err(errors) }
}

/// What is wrong with the places that a block writes to. `name` is where the archive is named that has no other name.
pub(super) fn outputs(session: &Session, seen: &[&Setting], name: Span, archive: &Path, emit: Option<&Path>) -> Vec<Diagnostic> {
    let span = |word: &str| {
        let setting = seen.iter().find(|s| &*s.word.text == word);
        setting.and_then(|s| s.values.first()).map_or(name, |(_, e)| e.span)
    };
    let archive = Output { word: "archive", path: archive, span: span("archive") };
    let emit = emit.map(|path| Output { word: "emit", path, span: span("emit") });
    paths::check(session, &[archive].into_iter().chain(emit).collect::<Vec<_>>())
}

/// A budget: a time, or a number of children.
pub(super) fn budget(e: &Expr) -> Read<Budget> {
    match &e.kind {
        ExprKind::Quantity(x, Unit::Seconds) if *x > 0.0 => Ok(Budget::Time(Duration::from_secs_f64(*x))),
        ExprKind::Int(n) if *n > 0 => Ok(Budget::Children(*n as u64)),
        _ => Err(bad(e.span, "a budget is a time, or a number of children").help("`budget 10min`, `budget 100_000`")),
    }
}

impl SearchSpec {
    fn set(&mut self, session: &Session, s: &Setting) -> Read<()> {
        let (word, options) = (&*s.word.text, s.options.first());
        if let Some((name, _)) = options.filter(|_| !matches!(word, "task" | "validation")) {
            return Err(bad(name.span, format!("`{word}` has no option `{}`", name.text)));
        }
        match &*s.word.text {
            "start" => self.set_start(session, only(s)?),
            "space" => self.set_space(session, s),
            "task" => self.set_task(session, s),
            "held_out" => self.set_held_out(session, s),
            "validation" => self.set_validation(session, s),
            "funnel" => self.set_funnel(session, only(s)?),
            "fitness" => self.set_fitness(s),
            "strategy" => self.set_strategy(only(s)?),
            "control" => self.set_control(s),
            "budget" => {
                self.budget = budget(only(s)?)?;
                Ok(())
            }
            "archive" => {
                self.archive = PathBuf::from(text(only(s)?)?);
                Ok(())
            }
            "emit" => {
                self.emit = Some(PathBuf::from(text(only(s)?)?));
                Ok(())
            }
            "seed" => {
                self.seed = whole(only(s)?, 0, u64::MAX >> 12, "a seed")?;
                Ok(())
            }
            "pareto" => self.set_pareto(only(s)?),
            _ => Err(unknown(&s.word, "a `search` block", WORDS.iter().copied())),
        }
    }

    fn set_start(&mut self, session: &Session, e: &Expr) -> Read<()> {
        if name_of(e) == Some("empty") {
            return Ok(());
        }
        self.starts = expressions(session, e);
        if self.starts.is_empty() {
            return Err(bad(e.span, "a search starts from at least one program").help("`start empty` is the program that does nothing"));
        }
        Ok(())
    }

    fn set_fitness(&mut self, s: &Setting) -> Read<()> {
        let e = only(s)?;
        let Some((combine, args)) = call(e) else {
            return Err(bad(e.span, "a fitness is a combination of what runs give")
                .help("`fitness median(validation_loss) over seed in 0..3, lr in log(1e-4, 1e-1, 4)`"));
        };
        self.combine = match combine {
            "median" => Combine::Median,
            "mean" => Combine::Mean,
            "max" => Combine::Max,
            "min" => Combine::Min,
            other => return Err(bad(e.span, format!("`{other}` does not combine runs")).help("median, mean, max and min do")),
        };
        let [metric] = args[..] else { return Err(bad(e.span, "one metric is scored")) };
        self.metric_span = metric.span;
        let Some(metric) = name_of(metric) else { return Err(bad(metric.span, "the name of a metric is expected here, or `loss`")) };
        self.metric = (metric != "loss").then(|| metric.to_string());
        for clause in s.clauses.iter() {
            let (Some(variable), Some(value)) = (&clause.variable, &clause.value) else { continue };
            match &*variable.text {
                "seed" => self.seeds = seeds(value)?,
                "lr" => self.rates = rates(value)?,
                _ => return Err(bad(variable.span, format!("runs differ in `seed` and `lr`, not in `{}`", variable.text))),
            }
        }
        Ok(())
    }

    /// `[fitness, state_bytes, statements]`
    fn set_pareto(&mut self, e: &Expr) -> Read<()> {
        let all: Vec<&Expr> = if let ExprKind::List(items) = &e.kind { items.iter().collect() } else { vec![e] };
        let help = "`pareto [fitness, state_bytes, statements]`";
        let mut axes = Vec::new();
        for item in all {
            let Some(name) = name_of(item) else { return Err(bad(item.span, "the axes of a front are names").help(help)) };
            let Some(axis) = Axis::named(name) else {
                let d = bad(item.span, format!("programs are not measured by `{name}`"));
                let known = AXES.iter().map(|(n, _)| *n);
                return Err(match nearest(name, known.clone()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("the axes of a front are {}", known.collect::<Vec<_>>().join(", "))),
                });
            };
            if axes.contains(&axis) {
                return Err(bad(item.span, format!("`{name}` is there twice")));
            }
            axes.push(axis);
        }
        if axes.len() < 2 || !axes.contains(&Axis::Fitness) {
            return Err(bad(e.span, "a front has `fitness` and at least one other axis").help(help));
        }
        self.pareto = axes;
        Ok(())
    }

    fn set_control(&mut self, s: &Setting) -> Read<()> {
        let none = s.values.iter().all(|(name, e)| name.is_none() && name_of(e) == Some("none") || matches!(e.kind, ExprKind::None));
        (self.constants_only, self.random, self.a_a) = (false, false, if none { 0 } else { A_A });
        once(s.values.iter().filter_map(|(name, _)| name.as_ref()))?;
        for (name, e) in &s.values {
            match (name.as_ref().map(|n| &*n.text), name_of(e)) {
                (None, Some("constants_only")) => self.constants_only = true,
                (None, Some("random")) => self.random = true,
                (None, Some("none")) => {}
                (Some("a_a"), _) => self.a_a = whole(e, 0, 1000, "the number of comparisons")? as usize,
                _ if matches!(e.kind, ExprKind::None) => {}
                _ => return Err(bad(e.span, "controls are `constants_only`, `random` and `a_a = n`")),
            }
        }
        Ok(())
    }
}

fn seeds(e: &Expr) -> Read<Vec<u64>> {
    const MOST: u64 = 1 << 20;
    match &e.kind {
        ExprKind::Range(a, b) => {
            let (a, b) = (whole(a, 0, MOST, "a seed")?, whole(b, 0, MOST, "a seed")?);
            if b <= a || b - a > 1000 {
                return Err(bad(e.span, "one to 1000 seeds are expected"));
            }
            Ok((a..b).collect())
        }
        ExprKind::List(items) if !items.is_empty() => items.iter().map(|i| whole(i, 0, MOST, "a seed")).collect(),
        _ => Err(bad(e.span, "seeds are a range or a list").help("`over seed in 0..3`")),
    }
}

fn rates(e: &Expr) -> Read<Vec<f64>> {
    let found: Vec<f64> = match (&e.kind, call(e)) {
        (ExprKind::List(items), _) => items.iter().map(number).collect::<Read<_>>()?,
        (_, Some(("log", args))) => {
            let [low, high, n] = args[..] else { return Err(bad(e.span, "`log(low, high, n)` takes three numbers here")) };
            let (low, high, n) = (number(low)?, number(high)?, whole(n, 1, 100, "the number of learning rates")?);
            if !(low > 0.0 && high >= low) {
                return Err(bad(e.span, format!("learning rates lie between two positive numbers, not {low} and {high}")));
            }
            let step = if n > 1 { (high / low).ln() / (n - 1) as f64 } else { 0.0 };
            (0..n).map(|k| low * (step * k as f64).exp()).collect()
        }
        _ => return Err(bad(e.span, "learning rates are a list or `log(low, high, n)`")),
    };
    if found.is_empty() || found.iter().any(|r| !(*r > 0.0 && r.is_finite())) {
        return Err(bad(e.span, "learning rates are above 0"));
    }
    Ok(found)
}
