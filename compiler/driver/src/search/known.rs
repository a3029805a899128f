//! The catalogue of known optimizers that finds are compared with: those of the library, and others as programs of the search.

use super::seed::seed;
use optc_search::dag::Dag;
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::simplify::{Class, simplify};
use optc_search::text;

/// A known optimizer.
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// Its forms: with and without decay, protected and plain quotients.
    pub programs: Vec<Genome>,
}

/// Expressions of the standard library.
const LIBRARY: &[&str] = &[
    "sgd",
    "sgd(momentum = 0.9)",
    "sgd(momentum = 0.9, nesterov = true)",
    "sign_sgd",
    "signum",
    "lion",
    "rmsprop",
    "adagrad",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "adabelief",
    "yogi",
    "adamax",
    "amsgrad",
    "tiger",
];

/// Statements of others, in Hero's form, with `m` and `v` for states; `u` is the step.
///
/// Sources: PowerSign and AddSign, Bello et al. 2017 (arXiv 1709.07417); NAdam without corrections of bias, Dozat 2016, and with it Adam, Kingma and Ba 2015; members of Lion-kappa, Chen et al. 2024 (arXiv 2310.05898), table 1.
const TEXTS: &[(&str, &[&str])] = &[
    ("SGD with an average as momentum", &["m = interpolate(g, m, 0.9)\nu = copy(m)"]),
    ("Nesterov momentum, as an average", &["m = interpolate(g, m, 0.9)\nu = interpolate(g, m, 0.9)"]),
    ("heavy ball", &["m = m * 0.9\nm = m + g\nu = copy(m)"]),
    ("Nesterov momentum", &["m = m * 0.9\nm = m + g\nu = m * 0.9\nu = u + g"]),
    (
        "Adam without correction of bias",
        &[
            "m = interpolate(g, m, 0.9)\nq = square(g)\nv = interpolate(q, v, 0.999)\nr = sqrt(v)\nu = m / r",
            "m = interpolate(g, m, 0.9)\nq = square(g)\nv = interpolate(q, v, 0.999)\nr = sqrt(v)\nr = r + 1e-8\nu = raw_div(m, r)",
        ],
    ),
    (
        "NAdam without correction of bias",
        &[
            "m = interpolate(g, m, 0.9)\nc = interpolate(g, m, 0.9)\nq = square(g)\nv = interpolate(q, v, 0.999)\nr = sqrt(v)\nu = c / r",
            "m = interpolate(g, m, 0.9)\nc = interpolate(g, m, 0.9)\nq = square(g)\nv = interpolate(q, v, 0.999)\nr = sqrt(v)\nr = r + 1e-8\nu = raw_div(c, r)",
        ],
    ),
    ("PowerSign", &["m = interpolate(g, m, 0.9)\na = sign(g)\nb = sign(m)\ns = a * b\ns = exp(s)\nu = s * g"]),
    ("AddSign", &["m = interpolate(g, m, 0.9)\na = sign(g)\nb = sign(m)\ns = a * b\ns = s + 1.0\nu = s * g"]),
    (
        "normalised SGD",
        &[
            "n = global_norm(g)\nu = g / n",
            "n = global_norm(g)\nu = raw_div(g, n)",
            "n = norm(g)\nu = g / n",
            "n = norm(g)\nu = raw_div(g, n)",
        ],
    ),
    ("clipped SGD", &["u = clip_by_global_norm(g, 1.0)", "u = min(g, 1.0)\nu = max(u, -1.0)"]),
    (
        "Lion-kappa, K a p-norm",
        &[
            "c = interpolate(g, m, 0.9)\nm = interpolate(g, m, 0.99)\ns = sign(c)\na = abs(c)\na = power(a, 0.5)\nu = s * a",
            "c = interpolate(g, m, 0.9)\nm = interpolate(g, m, 0.99)\ns = sign(c)\na = sqrt(c)\nu = s * a",
        ],
    ),
    (
        "Lion-kappa, K a dead zone",
        &[
            "c = interpolate(g, m, 0.9)\nm = interpolate(g, m, 0.99)\ns = sign(c)\na = abs(c)\na = a - 0.001\na = sign(a)\na = max(a, 0.0)\nu = s * a",
        ],
    ),
    (
        "Lion-kappa, K of Huber",
        &[
            "c = interpolate(g, m, 0.9)\nm = interpolate(g, m, 0.99)\nc = c * 1000.0\nc = min(c, 1.0)\nu = max(c, -1.0)",
            "c = interpolate(g, m, 0.9)\nm = interpolate(g, m, 0.99)\nc = min(c, 0.001)\nu = max(c, -0.001)",
        ],
    ),
];

/// A program of statements: with `u` times the learning rate as its update, and weight decay if asked for.
fn program(statements: &str, decays: bool) -> Option<Genome> {
    let is_state = |s: &&str| statements.lines().any(|l| l.starts_with(&format!("{s} = ")));
    let states: String = ["m", "v"].into_iter().filter(is_state).map(|s| format!(", {s}")).collect();
    let body: String = statements.lines().map(|l| format!("  {l}\n")).collect();
    let decay = if decays { "  d = w * 0.1\n  u = u + d\n" } else { "" };
    text::read(Default::default(), &format!("def train(w, g{states}, lr):\n{body}{decay}  update = u * lr\n  return update{states}\n"))
        .ok()
        .map(|r| r.genome)
}

/// The catalogue.
pub fn catalogue() -> Vec<Known> {
    let library = LIBRARY.iter().filter_map(|name| Some(Known { name, programs: vec![seed(name, None).ok()?.genome] }));
    let texts = TEXTS.iter().map(|(name, all)| {
        let programs = all.iter().flat_map(|t| [program(t, false), program(t, true)]).flatten().collect();
        Known { name, programs }
    });
    library.chain(texts).collect()
}

/// The hash of a program's form: simplified by rules that are exact over the reals, without its numbers.
pub fn family(genome: &Genome) -> u128 {
    let simplified = simplify(genome, Class::Real).map(|s| s.genome);
    simplified.as_ref().unwrap_or(genome).dag().map_or(0, |d| keys(&d).family)
}

impl Known {
    /// Whether one of its forms is this one.
    pub fn is_of(&self, wanted: u128) -> bool {
        wanted != 0 && self.programs.iter().any(|g| family(g) == wanted)
    }

    /// Its first form as a graph.
    pub fn dag(&self) -> Option<Dag> {
        self.programs.first()?.dag().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_catalogue_is_there_and_told_apart() {
        let all = catalogue();
        assert_eq!(all.len(), LIBRARY.len() + TEXTS.len());
        for ((name, texts), known) in TEXTS.iter().zip(&all[LIBRARY.len()..]) {
            assert_eq!(known.programs.len(), 2 * texts.len(), "{name}");
        }
        let known = |body: &str, decays: bool| {
            let found = family(&program(body, decays).expect("a program"));
            all.iter().filter(|k| k.is_of(found)).map(|k| k.name).collect::<Vec<_>>()
        };
        // Other numbers, other order, with decay or without.
        assert_eq!(
            known("b = sign(m)\nm = interpolate(g, m, 0.7)\nb = sign(m)\na = sign(g)\ns = b * a\ns = 1.0 + s\nu = g * s", false),
            ["AddSign"]
        );
        assert_eq!(known("m = interpolate(g, m, 0.8)\na = sign(g)\nb = sign(m)\ns = a * b\ns = exp(s)\nu = g * s", true), ["PowerSign"]);
        // Without its numbers the average of Nesterov's form is no other.
        let momentum = known("m = interpolate(g, m, 0.5)\nu = copy(m)", false);
        assert!(momentum.contains(&"SGD with an average as momentum") && !momentum.contains(&"heavy ball"), "{momentum:?}");
        assert!(known("m = interpolate(g, m, 0.5)\nu = sinh(m)", false).is_empty());
    }
}
