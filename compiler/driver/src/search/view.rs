//! What is told of a search under way: what its arms have done, and the programs that no other dominates.

use super::emit::rounded;
use super::hunt::Hunt;
use optc_search::evolve::{Counters, Kind};
use optc_search::pareto::{Axis, Front, Point};
use serde_json::{Value, json};

/// An arm.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmView {
    /// Which.
    pub kind: Kind,
    /// What it has done.
    pub counters: Counters,
    /// How often its islands started anew.
    pub restarts: u64,
    /// Its best fitness; infinite where no program got to the end of its runs.
    pub best: f64,
}

/// A search at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Rounds of the evolution.
    pub rounds: u64,
    /// Arms, evolution first.
    pub arms: Vec<ArmView>,
    /// The programs of all arms that no other dominates.
    pub front: Front,
}

impl Hunt {
    /// What is told of it now.
    pub fn view(&self) -> View {
        let arm = |a: &optc_search::evolve::Arm| ArmView {
            kind: a.kind,
            counters: a.counters(),
            restarts: a.islands.iter().map(|i| i.restarts).sum(),
            best: a.best().map_or(f64::INFINITY, |b| b.fitness),
        };
        View { rounds: self.arms[0].rounds, arms: self.arms.iter().map(arm).collect(), front: self.front().clone() }
    }
}

impl View {
    /// Takes in what another process has done in the same search.
    pub fn merge(&mut self, other: &View) {
        self.rounds = self.rounds.min(other.rounds);
        for o in &other.arms {
            match self.arms.iter_mut().find(|a| a.kind == o.kind) {
                Some(a) => {
                    a.counters.add(&o.counters);
                    a.restarts += o.restarts;
                    a.best = a.best.min(o.best);
                }
                None => self.arms.push(o.clone()),
            }
        }
        self.front.merge(&other.front);
    }

    /// As a value.
    pub fn value(&self) -> Value {
        let arm = |a: &ArmView| {
            let c = &a.counters;
            let counters = [c.children, c.invalid, c.known, c.evaluated, c.tuned, c.fp_hit, c.fp_wrong];
            json!([a.kind.name(), counters, a.restarts, a.best.to_bits()])
        };
        let point = |p: &Point| {
            let values: Vec<u64> = p.values.iter().map(|v| v.to_bits()).collect();
            json!([format!("{:032x}", p.key), p.arm.name(), values])
        };
        json!({
            "rounds": self.rounds,
            "arms": self.arms.iter().map(arm).collect::<Vec<_>>(),
            "axes": self.front.axes().iter().map(|a| a.name()).collect::<Vec<_>>(),
            "front": self.front.points().iter().map(point).collect::<Vec<_>>(),
        })
    }

    /// Of a value, if it is one.
    pub fn of_value(v: &Value) -> Option<View> {
        let kind = |v: &Value| Kind::named(v.as_str()?);
        let arm = |v: &Value| {
            let c = |k: usize| v[1][k].as_u64();
            let (children, invalid, known, evaluated) = (c(0)?, c(1)?, c(2)?, c(3)?);
            let counters = Counters { children, invalid, known, evaluated, tuned: c(4)?, fp_hit: c(5)?, fp_wrong: c(6)? };
            Some(ArmView { kind: kind(&v[0])?, counters, restarts: v[2].as_u64()?, best: f64::from_bits(v[3].as_u64()?) })
        };
        let point = |v: &Value| {
            let values = v[2].as_array()?.iter().map(|x| x.as_u64().map(f64::from_bits)).collect::<Option<_>>()?;
            Some(Point { key: u128::from_str_radix(v[0].as_str()?, 16).ok()?, arm: kind(&v[1])?, values })
        };
        let axes: Vec<Axis> = v["axes"].as_array()?.iter().map(|a| Axis::named(a.as_str()?)).collect::<Option<_>>()?;
        let mut front = Front::new(&axes);
        for p in v["front"].as_array()? {
            front.insert(point(p)?);
        }
        Some(View { rounds: v["rounds"].as_u64()?, arms: v["arms"].as_array()?.iter().map(arm).collect::<Option<_>>()?, front })
    }

    /// Children of the evolution.
    pub fn children(&self) -> u64 {
        self.arms.first().map_or(0, |a| a.counters.children)
    }

    /// Programs that all arms have run.
    pub fn evaluated(&self) -> u64 {
        self.arms.iter().map(|a| a.counters.evaluated).sum()
    }
}

/// Shares of the children of an arm: not seen before among those that mean something, run among all, meaningless among all; in per cent.
pub fn shares(c: &Counters) -> [f64; 3] {
    let of = |n: u64, all: u64| 100.0 * n as f64 / all.max(1) as f64;
    [of(c.evaluated, c.evaluated + c.known), of(c.evaluated, c.children), of(c.invalid, c.children)]
}

/// A value on an axis as it is shown.
pub fn shown(axis: Axis, value: f64) -> String {
    match axis {
        Axis::Fitness => rounded(value),
        Axis::Ns => optc_abi::number::shown(value, 3),
        Axis::StateBytes | Axis::Statements | Axis::Flops => format!("{value}"),
    }
}
