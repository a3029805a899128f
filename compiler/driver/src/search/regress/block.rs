//! The block of a symbolic regression, read and checked.

use super::super::block::{
    Budget, Read, bad, budget, call, constant, expressions, name_of, number, once, only, outputs, text, unknown, whole,
};
use crate::session::Session;
use optc_base::{Diagnostic, Span, nearest};
use optc_front::ast::{BinaryOp, BlockEntry, BlockItem, BlockKind, Expr, ExprKind, ItemKind, Name, Setting};
use optc_front::{Def, ModuleId};
use optc_ir::ScalarOp;
use optc_search::fun::Fun;
use optc_search::regress::evolve::Strategy;
use optc_search::regress::formula::{LARGEST, named, names};
use optc_search::regress::grow::{PLAIN, Space};
use optc_search::regress::view::View;
use std::path::PathBuf;
use std::time::Duration;

/// A column of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Where it is named.
    pub span: Span,
}

/// A symbolic regression.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, that of what it finds.
    pub name: String,
    /// Where.
    pub span: Span,
    /// The variables: columns of the data.
    pub variables: Vec<Column>,
    /// The data, as an expression of the spec.
    pub data: Option<Expr>,
    /// How the data is called there.
    pub data_text: String,
    /// The share of the rows that no formula is fitted on.
    pub holdout: f64,
    /// The column that is predicted.
    pub target: Column,
    /// The loss of `prediction` and `target`, as an expression of the spec; the square where there is none.
    pub loss: Option<(String, Span)>,
    /// The column of weights.
    pub weight: Option<Column>,
    /// The formulas that may be reached.
    pub space: Space,
    /// The strategy.
    pub strategy: Strategy,
    /// Whether random formulas are made beside, as many.
    pub control: bool,
    /// What share of the loss of a constant is little enough to stop.
    pub enough: Option<f64>,
    /// How long.
    pub budget: Budget,
    /// Where everything is kept.
    pub archive: PathBuf,
    /// Where the best is written.
    pub emit: Option<PathBuf>,
    /// The seed.
    pub seed: u64,
}

/// The words of a block.
const WORDS: &[&str] = &["data", "target", "loss", "weight", "space", "strategy", "stop", "control", "budget", "archive", "emit", "seed"];
/// Words of a search for optimizers, which has no data.
const OTHERS: &[&str] = &["start", "task", "fitness", "funnel", "held_out", "pareto"];
/// Most variables.
const VARIABLES: usize = 200;

/// Whether a search is one for a formula.
pub fn is_regression(block: &BlockItem) -> bool {
    !block.params.is_empty()
}

/// Reads a block.
///
/// # Errors
/// All that is wrong with it.
pub fn read(session: &Session, block: &BlockItem) -> Result<Spec, Vec<Diagnostic>> {
    let functions = PLAIN.iter().filter_map(|n| named(n)).collect();
    let space =
        Space { functions, variables: block.params.len(), size: 30, constants: Some((1e-2, 10.0)), powers: true, required: Vec::new() };
    let mut spec = Spec {
        name: block.name.text.to_string(),
        span: block.name.span,
        variables: Vec::new(),
        data: None,
        data_text: String::new(),
        holdout: 0.0,
        target: Column { name: String::new(), span: block.name.span },
        loss: None,
        weight: None,
        space,
        strategy: Strategy::default(),
        control: true,
        enough: None,
        budget: Budget::Time(Duration::from_secs(60)),
        archive: PathBuf::from(format!("out/{}.sqlite", block.name.text)),
        emit: None,
        seed: 0,
    };
    let mut errors = Vec::new();
    spec.set_variables(block, &mut errors);
    let mut seen: Vec<&Setting> = Vec::new();
    for entry in &block.entries {
        let setting = match entry {
            BlockEntry::Setting(s) => s,
            BlockEntry::Let { span, .. } => {
                errors.push(
                    bad(*span, "a search has no `let`")
                        .help("its settings are written out; columns that are computed belong to the `data` block"),
                );
                continue;
            }
            BlockEntry::Field { name, .. } => {
                errors.push(unknown(name, "a `search` for a formula", WORDS.iter().copied()));
                continue;
            }
        };
        errors.extend(seen.iter().find_map(|s| once([&s.word, &setting.word]).err()));
        seen.push(setting);
        errors.extend(spec.set(session, setting).err());
    }
    for (word, help) in [
        ("data", "`data d` names a `data` block of the file, or a part of one: `data d.train`"),
        ("target", "`target z` names the column that is predicted"),
    ] {
        if !seen.iter().any(|s| &*s.word.text == word) {
            errors.push(bad(spec.span, format!("`{}` has no {word}", spec.name)).help(help));
        }
    }
    if errors.is_empty() {
        errors.extend(spec.check_columns(session));
    }
    errors.extend(outputs(session, &seen, spec.span, &spec.archive, spec.emit.as_deref()));
    if errors.is_empty() { Ok(spec) } else { Err(errors) }
}

impl Spec {
    /// Names of the variables.
    pub fn names(&self) -> Vec<String> {
        self.variables.iter().map(|c| c.name.clone()).collect()
    }

    fn set_variables(&mut self, block: &BlockItem, errors: &mut Vec<Diagnostic>) {
        if block.params.len() > VARIABLES {
            errors.push(bad(block.params[0].span, format!("{} variables are more than {VARIABLES}", block.params.len())));
        }
        for p in &block.params {
            let name = p.name.text.to_string();
            if p.ty.is_some() || p.default.is_some() || p.is_const {
                errors.push(bad(p.span, format!("`{name}` is a column of the data, which has neither type nor default here")));
            }
            if named(&name).is_some() || name == "pi" {
                errors.push(
                    bad(p.span, format!("`{name}` is the name of a function or number that formulas may have"))
                        .help("give the column of the data another name"),
                );
            }
            self.variables.push(Column { name, span: p.name.span });
        }
    }

    fn set(&mut self, session: &Session, s: &Setting) -> Read<()> {
        match &*s.word.text {
            "data" => self.set_data(session, s),
            "target" => {
                self.target = column(only(s)?)?;
                Ok(())
            }
            "weight" => {
                self.weight = Some(column(only(s)?)?);
                Ok(())
            }
            "loss" => {
                let e = only(s)?;
                self.loss = expressions(session, e).into_iter().next();
                Ok(())
            }
            "space" => self.set_space(session, s),
            "strategy" => self.set_strategy(only(s)?),
            "stop" => self.set_stop(s),
            "control" => {
                let e = only(s)?;
                self.control = match name_of(e) {
                    Some("random") => true,
                    Some("none") => false,
                    _ if matches!(e.kind, ExprKind::None) => false,
                    _ => {
                        let d = bad(e.span, "the control of a search for a formula is `random`, or there is `none`");
                        return Err(d.help("random formulas, as many, are made where nothing is said: `control none` leaves them out"));
                    }
                };
                Ok(())
            }
            "budget" => {
                self.budget = budget(only(s)?)?;
                Ok(())
            }
            "archive" => {
                self.archive = PathBuf::from(text(only(s)?)?);
                Ok(())
            }
            "emit" => {
                self.emit = Some(PathBuf::from(text(only(s)?)?));
                Ok(())
            }
            "seed" => {
                self.seed = whole(only(s)?, 0, u64::MAX >> 12, "a seed")?;
                Ok(())
            }
            word if OTHERS.contains(&word) => Err(bad(s.word.span, format!("`{word}` belongs to a search for optimizers")).help(
                "a search with variables is one for a formula: it has `data` and `target`; a search for optimizers has no variables",
            )),
            _ => Err(unknown(&s.word, "a `search` for a formula", WORDS.iter().copied())),
        }
    }

    /// `data d, holdout = 20%`
    fn set_data(&mut self, session: &Session, s: &Setting) -> Read<()> {
        let named = s.values.iter().filter_map(|(n, v)| n.as_ref().map(|n| (n, v)));
        for (name, value) in named.chain(s.options.iter().map(|(n, v)| (n, v))) {
            match &*name.text {
                "holdout" => {
                    self.holdout = number(value)?;
                    if !(0.0..1.0).contains(&self.holdout) {
                        return Err(bad(value.span, "what is held out is a share of the rows, from 0 to below 100 %")
                            .help("`data d, holdout = 20%`"));
                    }
                }
                _ => return Err(unknown(name, "`data`", ["holdout"].into_iter())),
            }
        }
        match s.values.iter().filter(|(n, _)| n.is_none()).map(|(_, e)| e).collect::<Vec<_>>()[..] {
            [e] => {
                self.data = Some(e.clone());
                self.data_text = session.program.sources.slice(e.span).to_string();
                Ok(())
            }
            _ => Err(bad(s.span, "`data` takes one data set")),
        }
    }

    fn set_space(&mut self, session: &Session, s: &Setting) -> Read<()> {
        once(s.values.iter().filter_map(|(name, _)| name.as_ref()))?;
        for (name, e) in &s.values {
            let Some(name) = name else {
                let ExprKind::Binary(BinaryOp::Le, what, most) = &e.kind else {
                    return Err(bad(e.span, "a limit is expected here").help("`size <= 30`"));
                };
                if name_of(what) != Some("size") {
                    return Err(bad(what.span, "`size` has a limit, the number of nodes of a formula"));
                }
                self.space.size = whole(most, 1, LARGEST as u64 / 2, "the size of a formula")? as usize;
                continue;
            };
            match &*name.text {
                "ops" => {
                    self.space.functions = functions(session, e)?;
                    self.space.powers = self.space.functions.contains(&Fun::Plain(ScalarOp::Pow));
                }
                "constants" => self.space.constants = constants(e)?,
                _ => return Err(unknown(name, "`space`", ["ops", "constants", "size"].into_iter())),
            }
        }
        for clause in &s.clauses {
            let Some(e) = &clause.value else { continue };
            if &*clause.word.text == "require" {
                self.space.required = list(e).into_iter().map(|e| self.variable(e)).collect::<Read<_>>()?;
            } else {
                let gone = functions(session, e)?;
                self.space.functions.retain(|f| !gone.contains(f));
                self.space.powers &= !gone.contains(&Fun::Plain(ScalarOp::Pow));
            }
        }
        if self.space.functions.is_empty() {
            return Err(bad(s.span, "no function is left in the space"));
        }
        Ok(())
    }

    /// The number of a variable that is named.
    fn variable(&self, e: &Expr) -> Read<u16> {
        let name = name_of(e).unwrap_or("");
        match self.variables.iter().position(|c| c.name == name) {
            Some(k) => Ok(k as u16),
            None => {
                let d = bad(e.span, "`require` takes variables of the search");
                Err(match nearest(name, self.variables.iter().map(|c| c.name.as_str())) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help("`require x` keeps formulas that have `x`"),
                })
            }
        }
    }

    fn set_strategy(&mut self, e: &Expr) -> Read<()> {
        const NAME: &str = "regularized_evolution";
        let ExprKind::Call { callee, args } = &e.kind else {
            return if name_of(e) == Some(NAME) { Ok(()) } else { Err(bad(e.span, format!("the strategy is `{NAME} {{ … }}`"))) };
        };
        if name_of(callee) != Some(NAME) {
            return Err(bad(callee.span, format!("the strategy is `{NAME} {{ … }}`")));
        }
        let own = &mut self.strategy;
        once(args.iter().filter_map(|a| a.name.as_ref()))?;
        for arg in args {
            let Some(name) = &arg.name else { return Err(bad(arg.value.span, "settings of a strategy have names")) };
            let v = &arg.value;
            match &*name.text {
                "islands" => own.islands = whole(v, 1, 1024, "the number of islands")? as usize,
                "population" => own.population = whole(v, 2, 100_000, "a population")? as usize,
                "tournament" => own.tournament = whole(v, 1, 10_000, "a tournament")? as usize,
                "restart_after" => own.restart_after = whole(v, 1, 1 << 40, "a number of children")?,
                "round" => own.round = whole(v, 1, 1 << 20, "a number of children")?,
                "views" => own.views = views(v)?,
                _ => {
                    let known = ["islands", "population", "tournament", "restart_after", "round", "views"];
                    return Err(unknown(name, &format!("`{NAME}`"), known.into_iter()));
                }
            }
        }
        if own.tournament > own.population {
            return Err(bad(e.span, format!("a tournament of {} does not fit a population of {}", own.tournament, own.population)));
        }
        Ok(())
    }

    /// `stop when unexplained < 1e-12`
    fn set_stop(&mut self, s: &Setting) -> Read<()> {
        let help = "`stop when unexplained < 1e-12`: the loss as a share of that of the best number for all rows";
        let Some(e) = s.clauses.iter().find_map(|c| c.value.as_ref()) else {
            return Err(bad(s.span, "`stop` takes a condition").help(help));
        };
        match &e.kind {
            ExprKind::Binary(BinaryOp::Lt | BinaryOp::Le, what, most) if name_of(what) == Some("unexplained") => {
                let most = number(most)?;
                if !(most > 0.0 && most < 1.0) {
                    return Err(bad(e.span, "a share between 0 and 1 is expected here").help(help));
                }
                self.enough = Some(most);
                Ok(())
            }
            _ => Err(bad(e.span, "a search stops by what is left unexplained").help(help)),
        }
    }

    /// Columns that the data does not have, where its block is one of the file and says what it has.
    fn check_columns(&self, session: &Session) -> Vec<Diagnostic> {
        let Some(e) = &self.data else { return Vec::new() };
        let base = match &e.kind {
            ExprKind::Field(of, _) => name_of(of),
            ExprKind::Call { callee, .. } => name_of(callee),
            _ => name_of(e),
        };
        let Some(base) = base else {
            return vec![bad(e.span, "this is not a data set").help("name a `data` block or one of its splits: `data d.train`")];
        };
        let block = match session.program.lookup(ModuleId(0), base) {
            Some(Def::Item(item)) => match &session.program.item(item).kind {
                ItemKind::Block(b) if b.kind == BlockKind::Data => b.clone(),
                _ => return vec![bad(e.span, format!("`{base}` is not a data block")).help("declare it with `data name { … }`")],
            },
            // A module of another name: its data is looked at when the search runs.
            Some(Def::Module(_)) => return Vec::new(),
            _ => {
                let scope = session.program.module(ModuleId(0)).scope.keys().map(|k| &**k);
                let d = bad(e.span, format!("there is no data block `{base}`"));
                return vec![match nearest(base, scope) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help("declare it with `data name { … }`"),
                }];
            }
        };
        let fields: Vec<&Name> =
            block.entries.iter().filter_map(|e| if let BlockEntry::Field { name, .. } = e { Some(name) } else { None }).collect();
        let mut out = Vec::new();
        for column in self.variables.iter().chain([&self.target]).chain(&self.weight) {
            if fields.iter().any(|f| *f.text == column.name) {
                continue;
            }
            let d = bad(column.span, format!("`{base}` has no column `{}`", column.name)).label(block.name.span, "declared here");
            let known: Vec<&str> = fields.iter().map(|f| &*f.text).collect();
            out.push(match nearest(&column.name, known.iter().copied()) {
                Some(near) => d.help(format!("did you mean `{near}`")),
                None => d.help(format!("it has {}", known.join(", "))),
            });
        }
        if self.variables.iter().any(|v| v.name == self.target.name) {
            out.push(bad(self.target.span, format!("`{}` is a variable: it would predict itself", self.target.name)));
        }
        out
    }
}

fn list(e: &Expr) -> Vec<&Expr> {
    if let ExprKind::List(items) = &e.kind { items.iter().collect() } else { vec![e] }
}

fn column(e: &Expr) -> Read<Column> {
    match &e.kind {
        ExprKind::Name(n) => Ok(Column { name: n.to_string(), span: e.span }),
        _ => Err(bad(e.span, "the name of a column is expected here")
            .help("columns that are computed belong to the `data` block: `log_z = log(z)`")),
    }
}

/// `log(1e-2, 10)`, or `none` for formulas without numbers of their own.
fn constants(e: &Expr) -> Read<Option<(f64, f64)>> {
    if matches!(e.kind, ExprKind::None) {
        return Ok(None);
    }
    let Some(("log", args)) = call(e) else { return Err(bad(e.span, "constants are drawn from `log(low, high)`, or there are `none`")) };
    let [low, high] = args[..] else { return Err(bad(e.span, "`log(low, high)` takes two numbers here")) };
    let (low, high) = (number(low)?, number(high)?);
    if !(low > 0.0 && high > low && high.is_finite()) {
        return Err(bad(e.span, format!("constants lie between two positive numbers, not {low} and {high}")));
    }
    Ok(Some((low, high)))
}

fn views(e: &Expr) -> Read<Vec<View>> {
    let known = View::ALL.map(View::name);
    let found = list(e)
        .into_iter()
        .map(|e| {
            let name = name_of(e).unwrap_or("");
            View::ALL.into_iter().find(|v| v.name() == name).ok_or_else(|| {
                let d = bad(e.span, format!("there is no view `{name}`"));
                match nearest(name, known.iter().copied()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("views are {}", known.join(", "))),
                }
            })
        })
        .collect::<Read<Vec<View>>>()?;
    if found.is_empty() { Err(bad(e.span, "at least one view is needed")) } else { Ok(found) }
}

/// Functions: a list of names, or a constant of the spec that is one.
fn functions(session: &Session, e: &Expr) -> Read<Vec<Fun>> {
    if let ExprKind::Name(name) = &e.kind
        && let Some(list) = constant(session, name)
    {
        return functions(session, &list).map_err(|d| bad(e.span, format!("`{name}`: {}", d.message)));
    }
    let one = |item: &Expr| {
        let quoted = text(item).unwrap_or_default();
        let name = name_of(item).unwrap_or(&quoted);
        named(name).ok_or_else(|| {
            let d = bad(item.span, format!("there is no function `{}`", if name.is_empty() { "…" } else { name }));
            let known = names();
            match nearest(name, known.iter().copied()) {
                Some(near) => d.help(format!("did you mean `{near}`")),
                None => d.help("functions of formulas are operations of the language on one or two numbers: add, sub, mul, div, pow, square, sqrt, exp, log, sin, …"),
            }
        })
    };
    list(e).into_iter().map(one).collect()
}
