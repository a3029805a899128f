//! The best program of a search as a spec, simplified as far as its score allows.

use super::hunt::Hunt;
use super::spec;
use optc_search::genome::Genome;
use optc_search::live::without_dead_code;
use optc_search::simplify::{Class, simplify};
use optc_search::text;

/// How much worse a simplified program may score, relatively: rounding that a few hundred steps blow up.
const MARGIN: f64 = 1e-3;

/// The best program in its simplest form that scores as well, and its fitness.
pub fn simplest(hunt: &mut Hunt, genome: &Genome, fitness: f64) -> (Genome, f64) {
    for class in [Class::Real, Class::Exact] {
        let Ok(made) = simplify(genome, class) else { continue };
        // The unit of the learning rate is kept: the sweep has fixed rates.
        if made.rate != 1.0 {
            continue;
        }
        let again = hunt.fitness(&made.genome);
        if again <= fitness + MARGIN * fitness.abs() {
            return (made.genome, again);
        }
    }
    (without_dead_code(genome), fitness)
}

/// The best program as a spec, with where it came from and how it scored.
pub fn emit(hunt: &mut Hunt) -> Option<String> {
    let best = hunt.arms[0].best()?.clone();
    if !best.fitness.is_finite() {
        return None;
    }
    let (genome, fitness) = simplest(hunt, &best.genome, best.fitness);
    let spec = &hunt.spec;
    let counters = hunt.counters();
    let mut doc = vec![format!("Found by the search `{}`, seed {}.", spec.name, spec.seed), String::new(), "# Source".to_string()];
    let tasks: Vec<String> = spec.tasks.iter().map(|t| format!("`{}`", t.train)).collect();
    doc.push(format!(
        "Program {:032x}, one of {} that were run on {}; {} children in all. Fitness {}.",
        best.key,
        counters.evaluated,
        tasks.join(", "),
        counters.children,
        rounded(fitness)
    ));
    for start in &hunt.starts {
        doc.push(format!("First program `{}`: {}.", start.expression, rounded(start.fitness)));
    }
    for arm in &hunt.arms[1..] {
        let control = arm.best().map_or(f64::INFINITY, |b| b.fitness);
        doc.push(format!("Control `{}`, {} programs: {}.", arm.kind.name(), arm.counters().evaluated, rounded(control)));
    }
    doc.push(
        "These are scores of the search itself, the best of many: measure again on other seeds and tasks before believing them."
            .to_string(),
    );
    let lr = spec.rates[spec.rates.len() / 2];
    Some(spec::of(&genome, &spec::name(&spec.name), &doc, lr))
}

/// A score with five digits.
pub fn rounded(x: f64) -> String {
    if x.is_finite() { optc_abi::number::shown(x, 5) } else { text::number(x) }
}
