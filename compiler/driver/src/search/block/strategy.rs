//! The `strategy` of a search.

use super::{Read, SearchSpec, bad, name_of, number, once, unknown, whole};
use optc_front::ast::{Expr, ExprKind};

/// Settings that both strategies have.
const COMMON: &[&str] = &["islands", "population", "tournament", "restart_after", "round", "fingerprint"];
/// Those of evolution.
const EVOLUTION: &[&str] = &["hurdle", "novelty", "tune", "simplify"];
/// Those of simplification.
const SIMPLIFICATION: &[&str] = &["margin"];
/// How much worse, relatively, a simplified program may score where nothing else is said.
const MARGIN: f64 = 0.01;

impl SearchSpec {
    /// `regularized_evolution { islands = 4, novelty = 10%, tune = 50 }`, `simplification { margin = 1% }`
    pub(super) fn set_strategy(&mut self, e: &Expr) -> Read<()> {
        let (what, args) = match &e.kind {
            ExprKind::Call { callee, args } => (&**callee, &args[..]),
            _ => (e, &[][..]),
        };
        let own = match name_of(what) {
            Some("regularized_evolution") => EVOLUTION,
            Some("simplification") => {
                self.margin = Some(MARGIN);
                SIMPLIFICATION
            }
            _ => return Err(bad(what.span, "the strategy is `regularized_evolution { … }` or `simplification { … }`")),
        };
        let name_of_it = if self.margin.is_some() { "`simplification`" } else { "`regularized_evolution`" };
        once(args.iter().filter_map(|a| a.name.as_ref()))?;
        for arg in args {
            let Some(name) = &arg.name else { return Err(bad(arg.value.span, "settings of a strategy have names")) };
            let v = &arg.value;
            if !COMMON.contains(&&*name.text) && !own.contains(&&*name.text) {
                return Err(unknown(name, name_of_it, COMMON.iter().chain(own).copied()));
            }
            match &*name.text {
                "islands" => self.strategy.islands = whole(v, 1, 1024, "the number of islands")? as usize,
                "population" => self.strategy.population = whole(v, 1, 100_000, "a population")? as usize,
                "tournament" => self.strategy.tournament = whole(v, 1, 10_000, "a tournament")? as usize,
                "restart_after" => self.strategy.restart_after = whole(v, 1, 1 << 40, "a number of children")?,
                "round" => self.strategy.round = whole(v, 1, 1 << 30, "a number of children")?,
                "hurdle" => {
                    let most = number(v)?;
                    if !(most > 1.0 && most.is_finite()) {
                        return Err(bad(v.span, "a hurdle is above 1: so many times the score of the first program, or worse, and a program is not run on more tasks")
                            .help("`hurdle = 2`"));
                    }
                    self.hurdle = most;
                }
                "tune" => self.strategy.tune = whole(v, 0, 1 << 20, "a number of programs")?,
                "simplify" => self.simplify = whole(v, 0, 1 << 20, "a number of children")?,
                "novelty" => self.strategy.novelty = share(v, "`novelty = 10%`: the share of parents from elites of all kinds")?,
                "margin" => self.margin = Some(share(v, "`margin = 1%`: how much worse a simplified program may score")?),
                _ => {
                    self.strategy.skip = match name_of(v) {
                        Some("skip") => true,
                        Some("count") => false,
                        _ => {
                            return Err(bad(v.span, "fingerprints `count` (the default) or `skip`")
                                .help("`skip` does not run a program with the fingerprint of another; some of these are others"));
                        }
                    };
                }
            }
        }
        let (tournament, population) = (self.strategy.tournament, self.strategy.population);
        if tournament > population {
            return Err(bad(e.span, format!("a tournament of {tournament} does not fit a population of {population}")));
        }
        Ok(())
    }
}

/// A share from 0 to 1.
fn share(e: &Expr, help: &str) -> Read<f64> {
    let x = number(e)?;
    if (0.0..=1.0).contains(&x) { Ok(x) } else { Err(bad(e.span, format!("a share from 0 to 1 is expected here, not {x}")).help(help)) }
}
