//! Simplification as a search: programs become shorter by what leaves statements out or makes two values one, and are kept where they score as well, within a margin.

use crate::fun::{Fun, Ty};
use crate::genome::{Arg, Genome, Stmt};
use crate::live::without_dead_code;
use crate::mutate::{Change, Space, readable_before};
use crate::rng::Stream;

/// What a program is to read and to run, without dead code: statements, those that are no plain arithmetic counted a little more, and states.
pub fn length(genome: &Genome) -> f64 {
    /// A state is worth so many statements: four bytes for each parameter.
    const STATE: f64 = 3.0;
    let bare = without_dead_code(genome);
    let statement = |s: &Stmt| match s.fun {
        Fun::Copy => 0.5,
        Fun::Plain(op) => 1.0 + 0.01 * f64::from(op.row().cost.min(40)),
        fun if fun.elementwise() => 1.15,
        _ => 1.5,
    };
    bare.body.iter().map(statement).sum::<f64>() + STATE * bare.states.len() as f64
}

/// Draws until a child means something.
const TRIES: usize = 64;

/// A child with a statement less, with a statement that hands on one of its arguments, or with one value in the place of another.
pub fn shorten(parent: &Genome, space: &Space, rng: &mut Stream) -> Option<(Genome, Change)> {
    if parent.body.is_empty() {
        return None;
    }
    for _ in 0..TRIES {
        let at = rng.below(parent.body.len());
        let mut child = parent.clone();
        let stmt = parent.body[at];
        let change = match rng.below(3) {
            0 if parent.body.len() > 1 => {
                child.body.remove(at);
                Change::Delete(at)
            }
            1 if stmt.fun.arity() > 0 && stmt.fun != Fun::Copy => {
                let k = rng.below(stmt.fun.arity());
                child.body[at] = Stmt::new(stmt.out, Fun::Copy, &[stmt.args[k]]);
                Change::Modify(at, k)
            }
            _ if stmt.fun.arity() > 0 => {
                let k = rng.below(stmt.fun.arity());
                let numbers: Vec<Arg> =
                    parent.body.iter().flat_map(|s| s.args().iter().copied()).filter(|a| matches!(a, Arg::Const(_))).collect();
                let others: Vec<Arg> = match stmt.args[k] {
                    Arg::Const(_) => numbers.into_iter().chain([Arg::Const(0.0), Arg::Const(1.0)]).collect(),
                    Arg::Reg(_) => readable_before(parent, space, at).into_iter().map(|(r, _)| Arg::Reg(r)).collect(),
                };
                if others.is_empty() {
                    continue;
                }
                child.body[at].args[k] = others[rng.below(others.len())];
                Change::Modify(at, k)
            }
            _ => continue,
        };
        if child != *parent && child.check() == Ok(Ty::Leaf) {
            return Some((child, change));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{length, shorten};
    use crate::mutate::Space;
    use crate::rng::Stream;
    use crate::tests::{ADAM, RAW_LION, read};

    #[test]
    fn dead_code_and_copies_cost_little() {
        let plain = length(&read("def train(w, g, lr):\n  update = g * lr\n  return update"));
        let dead = length(&read("def train(w, g, lr):\n  x = g * g\n  update = g * lr\n  return update"));
        assert_eq!(plain, dead);
        assert!(length(&read(ADAM)) > 6.0 + length(&read("def train(w, g, lr):\n  update = sign(g)\n  return update")));
    }

    #[test]
    fn children_are_never_longer_and_mean_something() {
        let (space, parent) = (Space::default(), read(RAW_LION));
        let mut kinds = std::collections::BTreeSet::new();
        for n in 0..300 {
            let Some((child, change)) = shorten(&parent, &space, &mut Stream::at([3, 4], 0, n)) else { continue };
            assert!(child.body.len() <= parent.body.len() && child.check().is_ok());
            kinds.insert(format!("{change:?}").split('(').next().unwrap_or_default().to_string());
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["Delete", "Modify"]);
    }
}
