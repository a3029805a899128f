//! What a search under way shows: a table that is redrawn on a terminal, lines elsewhere.

use crate::search::block::Budget;
use crate::search::emit::rounded;
use crate::search::report::short;
use crate::search::view::{View, shares, shown};
use optc_search::evolve::measured;
use optc_search::pareto::Front;
use optc_train::board::Board;
use optc_train::progress::{Mode, duration};
use optc_train::{Cell, Table};
use std::time::Duration;

/// Programs of the front that are shown at most.
const MOST: usize = 8;

/// Shows a search.
pub struct Live {
    board: Board,
    name: String,
    budget: Budget,
    /// How it is stopped.
    stops: String,
    /// First programs with their fitness.
    starts: Vec<(String, f64)>,
    /// Children and programs before this process, which do not count for its speed.
    before: (u64, u64),
}

impl Live {
    /// Nothing is shown yet. `before` are the children and programs that there were when the search was taken up.
    pub fn new(name: &str, budget: Budget, starts: Vec<(String, f64)>, before: (u64, u64), stops: &str, quiet: bool) -> Live {
        let mode = Mode::detect(quiet);
        Live { board: Board::new(mode), name: name.to_string(), budget, stops: stops.to_string(), starts, before }
    }

    /// Shows how it stands.
    pub fn show(&mut self, view: &View, elapsed: Duration) {
        let Live { board, name, budget, stops, starts, before } = self;
        board.show(|| lines(name, *budget, stops, starts, *before, view, elapsed), || line(*before, view, elapsed));
    }
}

/// Children and programs a second.
fn speeds(before: (u64, u64), view: &View, elapsed: Duration) -> (f64, f64) {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let since = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
    (since(view.children(), before.0), since(view.evaluated(), before.1))
}

/// One line about a search under way.
fn line(before: (u64, u64), view: &View, elapsed: Duration) -> String {
    let (children, programs) = speeds(before, view, elapsed);
    let best: Vec<String> = view.arms.iter().map(|a| format!("{} {}", a.kind.name(), best(a.best))).collect();
    let [unique, run, invalid] = view.arms.first().map_or([0.0; 3], |a| shares(&a.counters));
    format!(
        "{:6.1} s  {} children ({children:.0}/s), {unique:.0} % unique, {run:.0} % run, {invalid:.0} % invalid; {programs:.0} programs/s; best: {}; front of {}",
        elapsed.as_secs_f64(),
        view.children(),
        best.join(", "),
        view.front.points().len()
    )
}

fn best(fitness: f64) -> String {
    if measured(fitness) { rounded(fitness) } else { "-".to_string() }
}

/// The table of a search under way.
fn lines(name: &str, budget: Budget, stops: &str, starts: &[(String, f64)], before: (u64, u64), view: &View, elapsed: Duration) -> String {
    let (children, programs) = speeds(before, view, elapsed);
    let of = match budget {
        Budget::Time(t) => format!("{} of {}", duration(elapsed.as_secs_f64()), duration(t.as_secs_f64())),
        Budget::Children(n) => format!("{} of {n} children, {}", view.children(), duration(elapsed.as_secs_f64())),
    };
    let mut arms = Table::new(["arm", "best", "children", "unique", "run", "invalid", "programs run", "restarts"]);
    for a in &view.arms {
        let [unique, run, invalid] = shares(&a.counters);
        let percent = |x: f64| format!("{x:.1} %");
        let cells = [
            a.kind.name().to_string(),
            best(a.best),
            a.counters.children.to_string(),
            percent(unique),
            percent(run),
            percent(invalid),
            a.counters.evaluated.to_string(),
            a.restarts.to_string(),
        ];
        arms.push(cells.map(Cell::Text));
    }
    let first: Vec<String> = starts.iter().map(|(name, fitness)| format!("{name} {}", best(*fitness))).collect();
    format!(
        "search `{name}`: {of}; round {}; {children:.0} children/s, {programs:.0} programs/s\n{}\nfirst programs: {}\n{}\n{stops}",
        view.rounds,
        arms.text().trim_end(),
        first.join(", "),
        front(&view.front, MOST).trim_end()
    )
}

/// A front as a table, the best fitness first, of so many programs at most.
pub fn front(front: &Front, most: usize) -> String {
    let axes: Vec<&str> = front.axes().iter().map(|a| a.name()).collect();
    let mut table = Table::new(["Pareto front"].into_iter().chain(axes.iter().copied()).chain(["arm"]));
    let points = sorted(front);
    for p in points.iter().take(most) {
        let values = front.axes().iter().zip(&p.values).map(|(a, v)| shown(*a, *v));
        let cells = [short(p.key)].into_iter().chain(values).chain([p.arm.name().to_string()]);
        table.push(cells.map(Cell::Text));
    }
    let mut text = table.text();
    if points.len() > most {
        text.push_str(&format!("\nand {} more", points.len() - most));
    }
    text
}

/// Programs of a front, the best fitness first.
fn sorted(front: &Front) -> Vec<&optc_search::pareto::Point> {
    let at = front.axes().iter().position(|a| *a == optc_search::pareto::Axis::Fitness).unwrap_or(0);
    let mut points: Vec<_> = front.points().iter().collect();
    points.sort_by(|a, b| a.values[at].total_cmp(&b.values[at]).then(a.key.cmp(&b.key)));
    points
}
