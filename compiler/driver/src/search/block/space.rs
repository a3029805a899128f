//! The `space` of a search: the functions, limits and requirements of its programs.

use super::{Read, SearchSpec, bad, call, constant, name_of, number, once, text, unknown, whole};
use crate::search::seed::seed;
use crate::session::Session;
use optc_base::{Code, Diagnostic, Span, nearest};
use optc_front::ast::{BinaryOp, Clause, Expr, ExprKind, Setting, UnaryOp};
use optc_search::dag::Input;
use optc_search::fun::{ALIASES, Fun, HERO};
use optc_search::genome::MAX_STATES;
use optc_search::interval::Given;
use optc_search::require::Require;

/// Settings of a space.
const SETTINGS: &[&str] = &["ops", "constants", "statements", "states", "step_count"];
/// Requirements, as they are written.
const REQUIREMENTS: &str = "`elementwise`, `not elementwise`, `scale_degree(g) == 0`, `scale_degree(w) == 1`, `parity(g) == odd`, `parity(w) == even`, `state_bytes <= 8`, `cost <= 1.5`, `finite` and `finite(1e3)`";

impl SearchSpec {
    pub(super) fn set_space(&mut self, session: &Session, s: &Setting) -> Read<()> {
        once(s.values.iter().filter_map(|(name, _)| name.as_ref()))?;
        let mut limits: Vec<(&str, Span)> = Vec::new();
        for (name, e) in &s.values {
            let Some(name) = name else {
                let what = self.limit(e)?;
                if let Some((_, before)) = limits.iter().find(|(other, _)| *other == what) {
                    let d = Diagnostic::error(Code("E0527"), e.span, format!("`{what}` is limited twice"));
                    return Err(d.label(*before, "limited here before"));
                }
                limits.push((what, e.span));
                continue;
            };
            match &*name.text {
                "ops" => self.space.functions = functions(session, e)?,
                "constants" => {
                    let Some(("log", args)) = call(e) else { return Err(bad(e.span, "constants are drawn from `log(low, high)`")) };
                    let [low, high] = args[..] else { return Err(bad(e.span, "`log(low, high)` takes two numbers here")) };
                    let (low, high) = (number(low)?, number(high)?);
                    if low > 0.0 && low > high {
                        let help = format!("`constants = log({high}, {low})`");
                        return Err(bad(e.span, format!("the constants of the space are reversed: {low} is above {high}")).help(help));
                    }
                    if !(low > 0.0 && high > low && high.is_finite()) {
                        return Err(bad(e.span, format!("constants lie between two positive numbers, not {low} and {high}")));
                    }
                    self.space.constants = (low, high);
                }
                "step_count" => match e.kind {
                    ExprKind::Bool(b) => self.space.step_count = b,
                    _ => return Err(bad(e.span, "`step_count` is true or false")),
                },
                _ => return Err(unknown(name, "`space`", SETTINGS.iter().copied())),
            }
        }
        let (required, forbidden): (Vec<&Clause>, Vec<&Clause>) = s.clauses.iter().partition(|c| &*c.word.text == "require");
        let mut spans: Vec<(Require, Span)> = Vec::new();
        for e in required.iter().filter_map(|c| c.value.as_ref()) {
            let required = requirement(e)?;
            if let Some((other, before)) = spans.iter().find(|(other, _)| required.excludes(*other)) {
                return Err(bad(e.span, format!("no program is both `{other}` and `{required}`"))
                    .label(*before, format!("`{other}` is required here")));
            }
            spans.push((required, e.span));
        }
        self.space.require = spans.iter().map(|s| s.0).collect();
        for e in forbidden.iter().filter_map(|c| c.value.as_ref()) {
            // What is forbidden is forbidden without protection too.
            let gone = functions(session, e)?;
            self.forbidden.extend(gone.iter().flat_map(|f| [Some(*f), f.plain()]).flatten());
        }
        let SearchSpec { space, forbidden, .. } = self;
        space.functions.retain(|f| !forbidden.contains(f));
        if self.space.require.contains(&Require::Elementwise(true)) {
            self.space.functions.retain(|f| f.elementwise());
        }
        Ok(())
    }

    /// `statements <= 24`, `states <= 2`; what is limited.
    fn limit(&mut self, e: &Expr) -> Read<&'static str> {
        let ExprKind::Binary(BinaryOp::Le, what, most) = &e.kind else {
            return Err(bad(e.span, "a limit is expected here").help("`statements <= 24`, `states <= 2`"));
        };
        match name_of(what) {
            Some("statements") => {
                self.space.statements = whole(most, 1, 500, "the number of statements")? as usize;
                Ok("statements")
            }
            Some("states") => {
                self.space.states = whole(most, 0, MAX_STATES as u64, "the number of states")? as usize;
                Ok("states")
            }
            Some(what @ ("state_bytes" | "cost")) => Err(bad(e.span, format!("`{what}` is required"))
                .help(format!("`require {}`", if what == "cost" { "cost <= 1.5" } else { "state_bytes <= 8" }))),
            _ => Err(bad(what.span, "`statements` and `states` have limits")),
        }
    }
}

/// What is impossible whatever the tasks are.
///
/// # Errors
/// Why no program is in the space.
pub(super) fn check(spec: &SearchSpec) -> Read<()> {
    let space = &spec.space;
    if space.functions.is_empty() {
        return Err(
            bad(spec.span, "no function is left in the space").help("`ops` without what `forbid` and `require elementwise` take away")
        );
    }
    if !spec.starts.is_empty() {
        return Ok(());
    }
    // From nothing, all that a program does is done by functions of the space.
    if space.functions.iter().all(|f| f.arity() == 0) {
        return Err(bad(spec.span, "no program of the space reads the gradient: its functions take no arguments")
            .help("from `empty`, functions such as `mul` and `interpolate` are needed"));
    }
    if space.require.contains(&Require::Elementwise(false)) && space.functions.iter().all(|f| f.elementwise()) {
        return Err(bad(spec.span, "no program of the space combines elements, which is required: its functions go element by element")
            .help("`norm`, `global_norm`, `dot`, `cosine_sim` and `clip_by_global_norm` combine elements"));
    }
    Ok(())
}

/// `g` or `w` of `scale_degree(g)`.
fn of(name: &str, args: &[&Expr], e: &Expr) -> Read<Input> {
    match args {
        [one] if name_of(one) == Some("g") => Ok(Input::G),
        [one] if name_of(one) == Some("w") => Ok(Input::W),
        _ => Err(bad(e.span, format!("`{name}` is one in the gradient or in the weights")).help(format!("`{name}(g)`, `{name}(w)`"))),
    }
}

fn requirement(e: &Expr) -> Read<Require> {
    let not_known = || bad(e.span, "this cannot be required").help(format!("requirements are {REQUIREMENTS}"));
    match &e.kind {
        ExprKind::Unary(UnaryOp::Not, x) if name_of(x) == Some("elementwise") => Ok(Require::Elementwise(false)),
        ExprKind::Binary(BinaryOp::Eq, left, right) => match call(left) {
            Some(("scale_degree", args)) => {
                let degree = number(right)?;
                Ok(Require::Degree { of: of("scale_degree", &args, left)?, degree })
            }
            Some(("parity", args)) => {
                let of = of("parity", &args, left)?;
                match name_of(right) {
                    Some("odd") => Ok(Require::Parity { of, odd: true }),
                    Some("even") => Ok(Require::Parity { of, odd: false }),
                    _ => Err(bad(right.span, "a parity is `odd` or `even`")
                        .help("odd: with -g instead of g the update is the negative; even: it is the same")),
                }
            }
            _ => Err(not_known()),
        },
        ExprKind::Binary(BinaryOp::Le, what, most) if name_of(what) == Some("state_bytes") => {
            Ok(Require::StateBytes(whole(most, 0, 1 << 10, "bytes of state for each parameter")? as usize))
        }
        ExprKind::Binary(BinaryOp::Le, what, most) if name_of(what) == Some("cost") => {
            let times = number(most)?;
            if !(times > 0.0 && times.is_finite()) {
                return Err(bad(most.span, "the cost of a step is above 0, as a multiple of AdamW's"));
            }
            let adamw = seed("adamw", None).ok().and_then(|s| s.genome.dag().ok()).map(|dag| dag.cost().0);
            Ok(Require::Cost { most: times, reference: adamw.ok_or_else(not_known)? })
        }
        ExprKind::Call { .. } => match call(e) {
            Some(("finite", args)) => {
                let size = match args[..] {
                    [size] => number(size)?,
                    _ => return Err(not_known()),
                };
                if !(size > 0.0 && size.is_finite()) {
                    return Err(bad(e.span, "the size of gradients and weights is above 0"));
                }
                Ok(Require::Finite(size))
            }
            _ => Err(not_known()),
        },
        _ => match name_of(e) {
            Some("elementwise") => Ok(Require::Elementwise(true)),
            Some("finite") => Ok(Require::Finite(Given::default().size)),
            _ => Err(not_known()),
        },
    }
}

/// Functions: a set of the library, or a list of names.
fn functions(session: &Session, e: &Expr) -> Read<Vec<Fun>> {
    if let Some(name) = name_of(e) {
        return match constant(session, name) {
            Some(list) => functions(session, &list).map_err(|d| bad(e.span, format!("`{name}`: {}", d.message))),
            None => Err(bad(e.span, format!("there is no set of functions `{name}`"))
                .help("`std.search.hero_ops`, `std.search.lion_ops`, or a list: `[add, mul, sign]`")),
        };
    }
    let ExprKind::List(items) = &e.kind else { return Err(bad(e.span, "functions are a list of names, or a set of them")) };
    items.iter().map(function).collect()
}

/// The function that an entry of a list names, with or without quotation marks.
fn function(item: &Expr) -> Read<Fun> {
    let quoted = text(item).unwrap_or_default();
    let name = name_of(item).unwrap_or(&quoted);
    Fun::named(name).ok_or_else(|| no_function(item.span, name))
}

fn no_function(span: Span, name: &str) -> Diagnostic {
    let d = bad(span, format!("there is no function `{}`", if name.is_empty() { "…" } else { name }));
    match nearest(name, HERO.iter().chain(ALIASES).map(|(n, _)| *n)) {
        Some(near) => d.help(format!("did you mean `{near}`")),
        None => d.help("functions have Hero's names: `optc show std.search.hero`"),
    }
}
