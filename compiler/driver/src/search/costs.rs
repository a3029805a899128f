//! What candidates of a search cost: to make, to compile, to run, and in memory.

use super::hunt::Hunt;
use optc_search::evolve::{Scores, admissible};
use optc_search::hash::keys;
use optc_search::mutate::{EVEN, mutate};
use optc_search::rng::Stream;
use std::time::{Duration, Instant};

/// What candidates cost.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Children that were made, and how many programs they are.
    pub children: u64,
    /// See `children`.
    pub unique: u64,
    /// Seconds to mutate, hash and look up one.
    pub child: f64,
    /// Programs that were compiled.
    pub compiled: u64,
    /// Seconds to compile one.
    pub compile: f64,
    /// For each first program: seconds for all its runs, and steps in a second.
    pub runs: Vec<(String, f64, f64)>,
}

/// Mutations away from a first program that children are on which costs are measured, at most.
const GENERATIONS: u64 = 30;

impl Hunt {
    /// What a candidate costs here, each measured for so long on one thread.
    ///
    /// # Errors
    /// A task that fails at run time.
    pub fn costs(&mut self, each: Duration) -> Result<Costs, String> {
        let (mut seen, mut costs, mut dags) = (Scores::default(), Costs::default(), Vec::new());
        let start = optc_search::mutate::with_states(&self.starts[0].genome, &self.plan.space);
        let (begin, mut genome) = (Instant::now(), start.clone());
        while begin.elapsed() < each {
            let mut rng = Stream::at([0, 0], 0, costs.children);
            costs.children += 1;
            // Some mutations away from the start, as in a population.
            if costs.children % GENERATIONS == 0 {
                genome.clone_from(&start);
            }
            let Some((child, _)) = mutate(&genome, &self.plan.space, EVEN, &mut rng) else { continue };
            genome = child;
            let Ok(dag) = genome.dag() else { continue };
            if admissible(&dag) && seen.insert(keys(&dag).exact, 0.0).is_none() && dags.len() < 20_000 {
                dags.push(dag);
            }
        }
        costs.unique = seen.len() as u64;
        costs.child = begin.elapsed().as_secs_f64() / costs.children.max(1) as f64;
        let begin = Instant::now();
        while begin.elapsed() < each && !dags.is_empty() {
            self.scorers[0].benches[0].compile(&dags[costs.compiled as usize % dags.len()])?;
            costs.compiled += 1;
        }
        costs.compile = begin.elapsed().as_secs_f64() / costs.compiled.max(1) as f64;
        for start in &self.starts {
            let Ok(dag) = start.genome.dag() else { continue };
            let (begin, mut runs, mut steps) = (Instant::now(), 0u64, 0u64);
            while admissible(&dag) && begin.elapsed() < each {
                for bench in &mut self.scorers[0].benches {
                    steps += bench.run(&dag)?.map_or(0, |o| o.steps);
                }
                runs += 1;
            }
            let seconds = begin.elapsed().as_secs_f64();
            costs.runs.push((start.expression.clone(), seconds / runs.max(1) as f64, steps as f64 / seconds));
        }
        Ok(costs)
    }

    /// Makes so many children and the code of those that were not seen lately, as a search does without end. How many had code, and what `look` says (the memory of the process)
    /// after a tenth of them and at the end.
    ///
    /// # Errors
    /// If the machine is not supported.
    pub fn churn(&mut self, children: u64, look: impl Fn() -> f64) -> Result<(u64, f64, f64), String> {
        /// Programs remembered.
        const SEEN: usize = 1 << 14;
        let start = optc_search::mutate::with_states(&self.starts[0].genome, &self.plan.space);
        let (mut seen, mut genome, mut compiled, mut early) = (vec![0u128; SEEN], start.clone(), 0, 0.0);
        for child in 0..children {
            if child == children / 10 {
                early = look();
            }
            if child % GENERATIONS == 0 {
                genome.clone_from(&start);
            }
            let Some((next, _)) = mutate(&genome, &self.plan.space, EVEN, &mut Stream::at([1, 0], 0, child)) else { continue };
            genome = next;
            let Ok(dag) = genome.dag() else { continue };
            let key = keys(&dag).exact;
            let place = &mut seen[key as usize % SEEN];
            if admissible(&dag) && *place != key {
                *place = key;
                self.scorers[0].benches[0].compile(&dag)?;
                compiled += 1;
            }
        }
        Ok((compiled, early, look()))
    }
}
