//! The control of a search: random formulas, as many as evolution has children, seen through the same views and with their numbers fitted alike. None descends from another.

use super::evolve::{Counters, Problem, Whole, keep};
use super::rows::Scratch;
use super::threads::shared_out;
use super::view::Memory;
use rustc_hash::FxHashSet;

/// What random formulas of a view have come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// By size the least share of the target that was left unexplained.
    pub least: Vec<f64>,
    /// What was done.
    pub counters: Counters,
}

/// What random formulas have come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// By view.
    pub views: Vec<Sampled>,
    /// The best formula of each size, by size.
    pub hall: Vec<Option<Whole>>,
}

impl Control {
    /// What all views have done.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        self.views.iter().for_each(|v| all.add(&v.counters));
        all
    }
}

impl Problem {
    /// A control before its first formula.
    pub(super) fn sampled(&self) -> Control {
        let view = Sampled { least: vec![f64::INFINITY; self.space.size + 1], counters: Counters::default() };
        Control { views: vec![view; self.lenses.len()], hall: vec![None; self.space.size + 1] }
    }

    /// Makes random formulas until there are so many in all, evenly of all views, on so many threads.
    pub(super) fn sample(&self, control: &mut Control, total: u64, threads: usize) {
        let views = control.views.len() as u64;
        let hall = std::mem::take(&mut control.hall);
        let upto = |k: usize| total / views + u64::from((k as u64) < total % views);
        let found = shared_out(control.views.iter_mut(), threads, |lot| {
            let (mut scratch, mut memory) = (Scratch::default(), Memory::default());
            lot.into_iter().map(|(k, view)| (k, self.sample_view(k, view, upto(k), &hall, &mut scratch, &mut memory))).collect()
        });
        control.hall = hall;
        for whole in found.into_iter().flatten() {
            keep(&mut control.hall, whole);
        }
    }

    fn sample_view(
        &self,
        number: usize,
        view: &mut Sampled,
        upto: u64,
        hall: &[Option<Whole>],
        scratch: &mut Scratch,
        memory: &mut Memory,
    ) -> Vec<Whole> {
        let lens = &self.lenses[number];
        let (mut found, mut known) = (Vec::new(), FxHashSet::default());
        while view.counters.children < upto {
            let mut rng = self.stream(0x5000_0000 | number as u32, view.counters.children);
            view.counters.children += 1;
            // All sizes, small ones more often: as many up to 5 as from there to 25.
            let size = (self.space.size as f64).powf(rng.uniform()).floor() as usize;
            let formula = self.space.random(size.max(1), &mut rng);
            if !known.insert(formula.text()) {
                view.counters.known += 1;
                continue;
            }
            view.counters.evaluated += 1;
            let left = lens.unexplained(&formula, scratch, memory);
            if !left.is_finite() || formula.size() > self.space.size {
                view.counters.invalid += u64::from(!left.is_finite());
                continue;
            }
            if view.least[..=formula.size()].iter().any(|l| left >= *l) {
                continue;
            }
            view.least[formula.size()] = left;
            let Some(whole) = lens.whole(&formula, scratch) else { continue };
            view.counters.fitted += 1;
            let worth = |size: usize, loss: f64| hall.iter().take(size + 1).flatten().all(|w| loss < w.loss);
            let Some((formula, loss)) = self.polish(&whole, &worth, scratch) else { continue };
            if self.space.allows(&formula) {
                found.push(Whole { formula, loss, island: number, child: view.counters.children });
            }
        }
        found
    }
}
