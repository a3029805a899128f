//! Who is trained: the settings `model`, `loss`, `optimizer` and `players` of a `train` block.

use crate::evaluator::{Eval, Evaluator};
use crate::model::ParamLeaf;
use crate::names::nearest;
use crate::scope::Scope;
use crate::settings::{Overrides, TrainSetup};
use crate::value::{CallArg, ModelValue, OptimizerValue, Value};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BlockItem, Expr, ExprKind, Name, Pattern, Setting};
use std::rc::Rc;
use std::sync::Arc;

/// Who steps: with what loss, by what optimizer, how often.
#[derive(Clone, Debug)]
pub struct Player {
    /// The name it shares with its model; `None` for the one player of a train whose settings have no names, who owns the parameters of all models.
    pub name: Option<Arc<str>>,
    /// Its loss.
    pub loss: Expr,
    /// Its optimizer.
    pub optimizer: Rc<OptimizerValue>,
    /// Whether the initial value of some state mentions the gradient.
    pub state_uses_gradient: bool,
    /// It steps in the steps of the train whose number, counted from 1, is a multiple of this.
    pub every: u64,
    /// How often it steps in each of them, on the same batch with the same draws.
    pub times: u64,
}

impl Player {
    /// Whether a leaf is its own, by its path with the name of the model in front.
    pub fn owns(&self, path: &str) -> bool {
        match &self.name {
            None => true,
            Some(name) => path.strip_prefix(&**name).is_some_and(|rest| rest.starts_with('.')),
        }
    }
    /// The name under which what several players have is recorded: `loss.gen`; plain where there is one player without a name.
    pub fn recorded(&self, what: &str) -> String {
        match &self.name {
            None => what.to_string(),
            Some(name) => format!("{what}.{name}"),
        }
    }
    /// A leaf's path as its optimizer sees it: without the name of the model, where that is the only one it has.
    pub(crate) fn short_path(&self, setup: &TrainSetup, path: &str) -> Arc<str> {
        match (&self.name, setup.models.as_slice()) {
            (Some(name), _) | (None, [(name, _)]) => Arc::from(path.strip_prefix(&format!("{name}.")).unwrap_or(path)),
            _ => Arc::from(path),
        }
    }
    /// What stands in front of the numbers of its optimizer's bodies, and so in the names of its states.
    pub(crate) fn prefix(&self) -> String {
        self.name.as_ref().map_or(String::new(), |name| format!("{name}."))
    }
    /// The words for it in a message.
    pub(crate) fn described(&self) -> String {
        self.name.as_ref().map_or(String::from("the loss"), |name| format!("the loss of `{name}`"))
    }
}

/// The models of a `train` block.
pub(crate) struct Models {
    /// By name, unbound.
    pub models: Vec<(Arc<str>, Value)>,
    /// Starting points: model, tree, place.
    pub given: Vec<(Arc<str>, Value, Span)>,
    /// What the weights of a model are stored in, by name, where `stored bf16` says it.
    pub stored: Vec<(Arc<str>, DType)>,
}

type Named<'a> = Vec<(Option<&'a Name>, &'a Expr)>;

/// The values of all settings of one word.
fn values_of<'a>(words: &[&'a Setting], word: &str) -> Named<'a> {
    let of_word = words.iter().filter(|s| &*s.word.text == word);
    of_word.flat_map(|s| s.values.iter().map(|(name, e)| (name.as_ref(), e))).collect()
}

impl Evaluator<'_> {
    /// The models, with the arguments and starting points that overrides give.
    pub(crate) fn read_models(&mut self, words: &[&Setting], scope: &mut Scope, overrides: &Overrides, used: &mut [bool]) -> Eval<Models> {
        let mut out = Models { models: Vec::new(), given: Vec::new(), stored: Vec::new() };
        for s in words.iter().filter(|s| &*s.word.text == "model") {
            for (name, e) in &s.values {
                let Some(name) = name else {
                    return self
                        .fail(Diagnostic::error(Code("E0528"), e.span, "a model needs a name").help("`model net = mlp(hidden = 64)`"));
                };
                if out.models.iter().any(|(n, _)| *n == name.text) {
                    return self.fail(
                        Diagnostic::error(Code("E0527"), name.span, format!("there are two models `{}`", name.text))
                            .help("give each a name of its own"),
                    );
                }
                let prefix = format!("{}.", name.text);
                // A model is wanted, not its value: arrays it is given are settings too.
                let constructing = std::mem::replace(&mut self.constructing, true);
                let model = self.expr(scope, e);
                self.constructing = constructing;
                let mut model = model?;
                for (k, (n, v, at)) in overrides.iter().enumerate() {
                    let Some(field) = n.strip_prefix(&prefix) else { continue };
                    used[k] = true;
                    if field == "params" {
                        out.given.push((name.text.clone(), v.clone(), *at));
                    } else if let Value::Model(m) = &model {
                        let mut m = ModelValue::clone(m);
                        m.args.retain(|a| a.name.as_deref() != Some(field));
                        m.args.push(CallArg { name: Some(Arc::from(field)), value: v.clone(), span: *at });
                        model = Value::Model(Rc::new(m));
                    }
                }
                match model {
                    Value::Model(_) | Value::Unknown => out.models.push((name.text.clone(), model)),
                    _ => {
                        return self.fail(
                            Diagnostic::error(Code("E0528"), e.span, "this is not a model")
                                .help("declare it with `model name(x: …) -> … { … }`"),
                        );
                    }
                }
            }
            for clause in s.clauses.iter().filter(|c| &*c.word.text == "stored") {
                // Behind the first model it is that one's, behind the others it names one.
                let dtype = self.dtype_setting(scope, clause.value.as_ref(), s.span)?;
                let names: Vec<Arc<str>> = s.values.iter().filter_map(|(n, _)| n.as_ref().map(|n| n.text.clone())).collect();
                let model = match &clause.variable {
                    Some(one) if !names.contains(&one.text) => {
                        let d = Diagnostic::error(Code("E0546"), one.span, format!("this setting has no model `{}`", one.text));
                        return self.fail(d.help(format!("its models are {}", names.join(", "))));
                    }
                    Some(one) => Some(one.text.clone()),
                    None => names.first().cloned(),
                };
                let Some(model) = model else { continue };
                if out.stored.iter().any(|(n, _)| *n == model) {
                    return self.error("E0527", clause.word.span, format!("what `{model}` is stored in is said twice"));
                }
                out.stored.push((model, dtype));
            }
        }
        Ok(out)
    }

    /// Losses and optimizers, in the order of the optimizers; whether all players see the weights that came in.
    pub(crate) fn read_players(
        &mut self,
        item: &BlockItem,
        words: &[&Setting],
        models: &[(Arc<str>, Value)],
        drawn: &[(Pattern, Expr)],
        scope: &mut Scope,
        overrides: &Overrides,
        used: &mut [bool],
    ) -> Eval<(Vec<Player>, bool)> {
        let (losses, optimizers) = (values_of(words, "loss"), values_of(words, "optimizer"));
        let name = &item.name;
        if losses.is_empty() {
            let d = Diagnostic::error(Code("E0529"), name.span, format!("`{}` has no loss", name.text));
            return self.fail(d.help("add `loss mse(net(x), y)`"));
        }
        let given = |word: &str| overrides.iter().rposition(|(n, ..)| n == word);
        if optimizers.is_empty() && given("optimizer").is_none() {
            let d = Diagnostic::error(Code("E0529"), name.span, format!("`{}` has no optimizer", name.text));
            return self.fail(d.help("add `optimizer adamw(lr = 1e-3)`"));
        }
        let simultaneous = self.read_order(words, overrides, used)?;
        let named = losses.iter().chain(&optimizers).any(|(name, _)| name.is_some());
        if !named {
            self.one_player(words, &losses, &optimizers, overrides)?;
            let (value, at) = match given("optimizer") {
                Some(k) => {
                    used[k] = true;
                    (overrides[k].1.clone(), overrides[k].2)
                }
                None => {
                    self.no_let_of_steps(optimizers[0].1, drawn)?;
                    (self.expr(scope, optimizers[0].1)?, optimizers[0].1.span)
                }
            };
            let player = self.player(None, losses[0].1, value, at)?;
            return Ok((vec![player], false));
        }
        self.matched(&losses, &optimizers, models)?;
        let chosen = self.chosen_optimizers(&optimizers, overrides, used)?;
        let mut players = Vec::new();
        for (owner, e) in optimizers.iter().filter_map(|(name, e)| Some(((*name)?, *e))) {
            let (value, at) = match chosen.iter().rev().find(|(n, ..)| *n == owner.text) {
                Some((_, value, at)) => (value.clone(), *at),
                None => {
                    self.no_let_of_steps(e, drawn)?;
                    (self.expr(scope, e)?, e.span)
                }
            };
            let loss = losses.iter().find(|(n, _)| n.is_some_and(|n| n.text == owner.text)).expect("every player has a loss").1;
            players.push(self.player(Some(owner.text.clone()), loss, value, at)?);
        }
        self.read_ratios(words, scope, &mut players)?;
        Ok((players, simultaneous))
    }

    fn player(&mut self, name: Option<Arc<str>>, loss: &Expr, optimizer: Value, at: Span) -> Eval<Player> {
        let optimizer = match optimizer {
            Value::Optimizer(o) => o,
            // A parameter of a function: any. Its bodies are checked where they are written.
            Value::Unknown if self.checking() => Rc::new(OptimizerValue::Chain(Vec::new())),
            _ => {
                return self.fail(
                    Diagnostic::error(Code("E0528"), at, "this is not an optimizer")
                        .help("call one: `adamw(lr = 1e-3)`, or chain several with `|>`"),
                );
            }
        };
        let state_uses_gradient = self.state_uses_gradient(&optimizer);
        Ok(Player { name, loss: loss.clone(), optimizer, state_uses_gradient, every: 1, times: 1 })
    }

    /// `players simultaneous`, or `with { players = "simultaneous" }`.
    fn read_order(&mut self, words: &[&Setting], overrides: &Overrides, used: &mut [bool]) -> Eval<bool> {
        let word = |text: &str| match text {
            "simultaneous" => Some(true),
            "alternating" => Some(false),
            _ => None,
        };
        let (found, at) = if let Some(k) = overrides.iter().rposition(|(n, ..)| n == "players") {
            used[k] = true;
            (if let Value::Str(text) = &overrides[k].1 { word(text) } else { None }, overrides[k].2)
        } else if let Some(s) = words.iter().find(|s| &*s.word.text == "players") {
            let name = match s.values.as_slice() {
                [(None, Expr { kind: ExprKind::Name(n), .. })] => word(n),
                _ => None,
            };
            (name, s.span)
        } else {
            return Ok(false);
        };
        match found {
            Some(simultaneous) => Ok(simultaneous),
            None => self.fail(
                Diagnostic::error(Code("E0546"), at, "`players` is `simultaneous` or `alternating`")
                    .help("`players simultaneous`: all see the weights that came in; otherwise each sees the newest ones"),
            ),
        }
    }

    /// A train without names has one loss and one optimizer.
    fn one_player(&mut self, words: &[&Setting], losses: &Named<'_>, optimizers: &Named<'_>, overrides: &Overrides) -> Eval<()> {
        let several = |what: &str, values: &Named<'_>| {
            let (_, second) = values.get(1)?;
            Some(
                Diagnostic::error(Code("E0546"), second.span, format!("a second {what} needs players with names"))
                    .label(values[0].1.span, "the first one")
                    .help(format!("name each after its model: `{what} gen = …, disc = …`; or add losses up to train all models together")),
            )
        };
        if let Some(d) = several("loss", losses).or_else(|| several("optimizer", optimizers)) {
            return self.fail(d);
        }
        let ratio = words.iter().filter(|s| &*s.word.text == "optimizer").flat_map(|s| &s.clauses).next();
        if let Some(clause) = ratio {
            return self.fail(
                Diagnostic::error(
                    Code("E0546"),
                    clause.word.span,
                    format!("`{}` sets how often a player steps, but there are none", clause.word.text),
                )
                .help("name models, losses and optimizers: `optimizer gen = …, disc = …, disc every 5`"),
            );
        }
        if let Some((name, _, at)) = overrides.iter().find(|(n, ..)| n.starts_with("optimizer.") || n == "players") {
            return self.fail(
                Diagnostic::error(Code("E0546"), *at, format!("`{name}` is for players, but there are none"))
                    .help("`optimizer = …` is the optimizer of a train with one loss"),
            );
        }
        Ok(())
    }

    /// Each player has a model, a loss and an optimizer of its name.
    fn matched(&mut self, losses: &Named<'_>, optimizers: &Named<'_>, models: &[(Arc<str>, Value)]) -> Eval<()> {
        let mixed = [("loss", losses), ("optimizer", optimizers)].into_iter().find_map(|(what, values)| {
            let unnamed = values.iter().find(|(name, _)| name.is_none())?;
            let other = losses.iter().chain(optimizers).find_map(|(name, _)| *name).expect("some name");
            Some((what, unnamed.1.span, other))
        });
        if let Some((what, at, other)) = mixed {
            return self.fail(
                Diagnostic::error(Code("E0546"), at, format!("this {what} has no name, but there are players"))
                    .label(other.span, "a player")
                    .help(format!("name it after the model it trains: `{what} {} = …`", other.text)),
            );
        }
        let name_of = |values: &Named<'_>| values.iter().filter_map(|(name, _)| (*name).cloned()).collect::<Vec<Name>>();
        let (with_loss, with_optimizer) = (name_of(losses), name_of(optimizers));
        for (what, names) in [("losses", &with_loss), ("optimizers", &with_optimizer)] {
            for (k, name) in names.iter().enumerate() {
                if let Some(first) = names[..k].iter().find(|n| n.text == name.text) {
                    let why = if what == "losses" {
                        "add them up"
                    } else {
                        "chain them with `|>`, or give groups of its parameters one each: `{ \"*.bias\": sgd(), _: adamw() }`"
                    };
                    return self.fail(
                        Diagnostic::error(Code("E0546"), name.span, format!("`{}` has two {what}", name.text))
                            .label(first.span, "the first one")
                            .help(why),
                    );
                }
            }
        }
        for name in with_optimizer.iter().chain(&with_loss) {
            if !models.iter().any(|(m, _)| *m == name.text) {
                let names: Vec<&str> = models.iter().map(|(m, _)| &**m).collect();
                let d = Diagnostic::error(Code("E0546"), name.span, format!("there is no model `{}`", name.text))
                    .note("a player has the name of the model whose parameters it steps");
                return self.fail(match nearest(&name.text, names.iter().copied()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("the models are {}", names.join(", "))),
                });
            }
        }
        for (what, names, others) in [("loss", &with_loss, &with_optimizer), ("optimizer", &with_optimizer, &with_loss)] {
            if let Some(lonely) = others.iter().find(|n| !names.iter().any(|m| m.text == n.text)) {
                return self.fail(
                    Diagnostic::error(Code("E0546"), lonely.span, format!("the player `{}` has no {what}", lonely.text))
                        .help(format!("add `{what} {} = …`", lonely.text)),
                );
            }
        }
        Ok(())
    }

    /// Optimizers that overrides give: `optimizer.gen = …`, `optimizer = { gen = … }`.
    fn chosen_optimizers(
        &mut self,
        optimizers: &Named<'_>,
        overrides: &Overrides,
        used: &mut [bool],
    ) -> Eval<Vec<(Arc<str>, Value, Span)>> {
        let mut chosen: Vec<(Arc<str>, Value, Span)> = Vec::new();
        for (k, (name, value, at)) in overrides.iter().enumerate() {
            let given: Vec<(Arc<str>, Value)> = match (name.strip_prefix("optimizer."), value) {
                (Some(player), value) => vec![(Arc::from(player), value.clone())],
                (None, Value::Record(fields)) if name == "optimizer" => fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
                (None, _) if name == "optimizer" => {
                    let one = optimizers.iter().find_map(|(n, _)| *n).map_or("", |n| &n.text);
                    return self.fail(
                        Diagnostic::error(Code("E0546"), *at, "each player has an optimizer of its own")
                            .help(format!("`optimizer.{one} = …` gives one of them another")),
                    );
                }
                _ => continue,
            };
            used[k] = true;
            for (player, value) in given {
                let names: Vec<&str> = optimizers.iter().filter_map(|(n, _)| n.map(|n| &*n.text)).collect();
                if !names.contains(&&*player) {
                    let d = Diagnostic::error(Code("E0546"), *at, format!("there is no player `{player}`"));
                    return self.fail(match nearest(&player, names.iter().copied()) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d.help(format!("the players are {}", names.join(", "))),
                    });
                }
                chosen.push((player, value, *at));
            }
        }
        Ok(chosen)
    }

    /// `disc every 5`, `disc times 5` behind the optimizers.
    fn read_ratios(&mut self, words: &[&Setting], scope: &mut Scope, players: &mut [Player]) -> Eval<()> {
        let mut seen: Vec<(Arc<str>, Arc<str>, Span)> = Vec::new();
        for clause in words.iter().filter(|s| &*s.word.text == "optimizer").flat_map(|s| &s.clauses) {
            let word = &clause.word;
            if !matches!(&*word.text, "every" | "times") {
                let d = Diagnostic::error(Code("E0546"), word.span, format!("`optimizer` has no clause `{}`", word.text));
                return self.fail(d.help("`disc every 5` and `disc times 5` set how often a player steps"));
            }
            let Some(whose) = &clause.variable else {
                let d = Diagnostic::error(Code("E0546"), word.span, format!("`{}` does not say which player it is about", word.text));
                return self.fail(d.help(format!("behind the optimizers: `optimizer gen = …, disc = …, disc {} 5`", word.text)));
            };
            let names: Vec<Arc<str>> = players.iter().filter_map(|p| p.name.clone()).collect();
            let Some(at) = names.iter().position(|n| *n == whose.text) else {
                let d = Diagnostic::error(Code("E0546"), whose.span, format!("there is no player `{}`", whose.text));
                return self.fail(match nearest(&whose.text, names.iter().map(|n| &**n)) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("the players are {}", names.join(", "))),
                });
            };
            if let Some((_, _, first)) = seen.iter().find(|(n, w, _)| *n == whose.text && *w == word.text) {
                return self.fail(
                    Diagnostic::error(Code("E0527"), whose.span, format!("`{} {}` is set twice", whose.text, word.text))
                        .label(*first, "set here before"),
                );
            }
            seen.push((whose.text.clone(), word.text.clone(), whose.span));
            let Some(e) = &clause.value else { return self.error("E0516", word.span, format!("`{}` needs a number", word.text)) };
            let value = self.expr(scope, e)?;
            let n = self.host_int(&value, e.span, &word.text)?;
            if n < 1 {
                return self.error("E0516", e.span, format!("`{}` needs a positive number, not {n}", word.text));
            }
            let player = &mut players[at];
            *(if &*word.text == "every" { &mut player.every } else { &mut player.times }) = n as u64;
        }
        Ok(())
    }

    /// With players, every parameter that is trained belongs to one, and every player has some.
    pub(crate) fn all_owned(&mut self, setup: &TrainSetup, leaves: &[ParamLeaf]) -> Eval<()> {
        let trained = || leaves.iter().filter(|l| !l.buffer && !l.frozen);
        if let Some(leaf) = trained().find(|l| !setup.players.iter().any(|p| p.owns(&l.path))) {
            let model = leaf.path.split('.').next().unwrap_or_default().to_string();
            return self.fail(
                Diagnostic::error(Code("E0546"), setup.span, format!("the parameters of `{model}` belong to no player"))
                    .note(format!("`{}` would never change", leaf.path))
                    .help(format!("add `loss {model} = …` and `optimizer {model} = …`, or keep it as it is: `freeze(…, \"*\")`")),
            );
        }
        // While checking, a model may not have been followed to its end.
        let idle = setup.players.iter().find(|p| p.name.is_some() && !self.checking() && !trained().any(|l| p.owns(&l.path)));
        if let Some(player) = idle {
            let name = player.name.as_deref().unwrap_or_default();
            let d = Diagnostic::error(Code("E0521"), player.loss.span, format!("the player `{name}` has no parameters to train"));
            let frozen = leaves.iter().any(|l| l.frozen && player.owns(&l.path));
            return self.fail(if frozen {
                d.help("all its parameters are frozen: leave some out of `freeze`, or leave the player out")
            } else {
                d.help(format!("call `{name}` in some loss, and declare `param`s in it"))
            });
        }
        Ok(())
    }
}
