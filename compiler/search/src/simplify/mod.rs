//! Simplification by equalities: all programs that the rules make equal are held at once, and the cheapest is taken. Each rule has a class of soundness and a side condition;
//! both are told with every application.

mod back;
mod formula;
mod rules;
mod term;

pub use formula::shortest;
pub use rules::{Class, Rule, TABLE};

use crate::dag::Dag;
use crate::genome::{Fault, Genome};
use crate::interval::{ALL, Given, Interval, of_states};
use crate::live::without_dead_code;
use egg::{AstSize, CostFunction, Extractor, FlatTerm, Id, Language, RecExpr, Rewrite, Runner, SimpleScheduler, StopReason};
use rules::Part;
use std::time::Duration;
use term::{Facts, Op, Term};

/// Rounds of rewriting; programs of some dozens of statements are done after fewer.
const ROUNDS: usize = 24;
/// Terms held at once.
const TERMS: usize = 8_000;

/// Price of a program, each use of a value counted, up to which it is simplified.
const LARGEST: u64 = 100_000;

/// A rule that was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its name in the table.
    pub rule: &'static str,
    /// Its class.
    pub class: Class,
    /// When it holds.
    pub condition: &'static str,
    /// The term before, in the text form of programs.
    pub before: String,
    /// The term after.
    pub after: String,
}

/// A simplified program.
#[derive(Clone, Debug)]
pub struct Simplified {
    /// The program.
    pub genome: Genome,
    /// The rules that lead to it, in order, changes of the order of operands left out.
    pub steps: Vec<Applied>,
    /// What the learning rate is multiplied by where the given program is meant: its unit is free.
    pub rate: f64,
}

/// The worst class among the rules applied.
pub fn worst(steps: &[Applied]) -> Class {
    steps.iter().map(|s| s.class).max().unwrap_or(Class::Exact)
}

/// What is cheap to read and to compute.
struct Price;

impl CostFunction<Term> for Price {
    type Cost = u64;
    fn cost<C: FnMut(Id) -> u64>(&mut self, node: &Term, mut costs: C) -> u64 {
        let own = match node.op {
            Op::Program => 0,
            Op::Input(_) => 10,
            // Short numbers are easier to read: 0.999 rather than 1 - 0.999.
            Op::Const(bits) => 10 + crate::text::number(f64::from_bits(bits)).len() as u64 / 6,
            Op::Fun(fun) => term::price(fun),
        };
        node.children().iter().fold(own, |sum, id| sum.saturating_add(costs(*id)))
    }
}

/// The cheapest program that the rules up to a class make equal.
///
/// # Errors
/// A program that means nothing.
pub fn simplify(genome: &Genome, most: Class) -> Result<Simplified, Fault> {
    genome.check()?;
    let bare = without_dead_code(genome);
    let start = term::of(&bare);
    // As a tree, a program that doubles a value again and again is larger than memory.
    if Price.cost_rec(&start) > LARGEST {
        return Ok(Simplified { genome: bare, steps: Vec::new(), rate: 1.0 });
    }
    let states = bare.dag().map(|dag| bounds(&bare, &dag)).unwrap_or_default();
    // What is 0 whatever its operands goes first, and again at the end: a class that holds 0 and such terms makes all others grow without end.
    let (mut best, mut steps) = (start, Vec::new());
    for part in [Part::Vanishing, Part::Rest, Part::Vanishing] {
        let (next, done) = pass(&bare, &best, &rules::rewrites(most, part), &states);
        steps.extend(done);
        best = next;
    }
    let simplified = without_dead_code(&back::genome(&bare, &best));
    let (genome, rate) = if most >= Class::Real { back::free_rate(simplified) } else { (simplified, 1.0) };
    if rate != 1.0 {
        steps.push(Applied {
            rule: "rate",
            class: Class::Real,
            condition: rules::RATE,
            before: format!("lr * {}", crate::text::number(rate)),
            after: "lr".to_string(),
        });
    }
    Ok(Simplified { genome, steps, rate })
}

/// The cheapest term that rules make equal to another, and the rules that lead there.
fn pass(genome: &Genome, start: &RecExpr<Term>, rules: &[Rewrite<Term, Facts>], states: &[Interval]) -> (RecExpr<Term>, Vec<Applied>) {
    let runner: Runner<Term, Facts> = Runner::new(Facts { states: states.to_vec() })
        .with_explanations_enabled()
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(ROUNDS)
        .with_node_limit(TERMS)
        .with_time_limit(Duration::from_secs(30))
        .with_expr(start)
        .run(rules);
    debug_assert!(!matches!(runner.stop_reason, Some(StopReason::TimeLimit(_))), "rules run away");
    let mut egraph = runner.egraph;
    let (_, best) = Extractor::new(&egraph, Price).find_best(runner.roots[0]);
    let mut explanation = egraph.explain_equivalence(start, &best);
    let terms = explanation.make_flat_explanation();
    let steps = terms.windows(2).filter_map(|pair| difference(genome, &pair[0], &pair[1])).collect();
    (best, steps)
}

/// The values of a program's states, by their number in it.
fn bounds(genome: &Genome, dag: &Dag) -> Vec<Interval> {
    let mut all = vec![ALL; genome.states.len()];
    for (k, values) in dag.origin.iter().zip(of_states(dag, &Given::default())) {
        all[usize::from(*k)] = values;
    }
    all
}

/// Number of terms, for tests of the size of explanations.
pub fn size(genome: &Genome) -> usize {
    AstSize.cost_rec(&term::of(&without_dead_code(genome)))
}

/// The rule between two terms that follow each other, and the place it changed.
fn difference(genome: &Genome, before: &FlatTerm<Term>, after: &FlatTerm<Term>) -> Option<Applied> {
    if let Some(name) = after.forward_rule.or(after.backward_rule) {
        let rule = rules::find(name.as_str());
        if rule.is_some_and(|r| r.silent) {
            return None;
        }
        let (rule_name, class, condition) = match rule {
            Some(rule) => (rule.name, rule.class, rule.condition),
            None => ("constant", Class::Exact, "numbers are computed in f64"),
        };
        return Some(Applied {
            rule: rule_name,
            class,
            condition,
            before: back::text(genome, &expr(before)),
            after: back::text(genome, &expr(after)),
        });
    }
    before.children.iter().zip(&after.children).find_map(|(a, b)| difference(genome, a, b))
}

/// A term with its own nodes.
fn expr(term: &FlatTerm<Term>) -> RecExpr<Term> {
    fn add(term: &FlatTerm<Term>, out: &mut RecExpr<Term>) -> Id {
        let children: Vec<Id> = term.children.iter().map(|c| add(c, out)).collect();
        let mut node = term.node.clone();
        node.children_mut().copy_from_slice(&children);
        out.add(node)
    }
    let mut out = RecExpr::default();
    add(term, &mut out);
    out
}
