//! The settings of a `train` block, read by the host, with the overrides of `run … with`.

use crate::data::CheckedData;
use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::DataTable;
use crate::players::{Models, Player};
use crate::program::OffloadSpec;
use crate::scope::Scope;
use crate::value::{BlockValue, CallArg, ModelValue, Value};
use optc_abi::DType;
use optc_abi::device::Target;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BlockEntry, BlockItem, BlockKind, Expr, ExprKind, ItemKind, LetKind, Name, Param, Pattern, PatternKind, Setting};
use optc_front::{ModuleId, Program};
use std::rc::Rc;
use std::sync::Arc;

/// What `with { … }` sets: dotted name, value, place.
pub type Overrides = Vec<(String, Value, Span)>;

/// The words of a `train` block.
const WORDS: &[&str] = &[
    "data",
    "model",
    "loss",
    "optimizer",
    "steps",
    "epochs",
    "seed",
    "metric",
    "accumulate",
    "checkpoint",
    "resume",
    "log",
    "offload",
    "stop",
    "on",
    "precision",
    "device",
    "players",
];

/// A `train` block, read.
#[derive(Clone, Debug)]
pub struct TrainSetup {
    /// Its name.
    pub name: Arc<str>,
    /// Where its name stands.
    pub span: Span,
    /// Parameters and `let`s.
    pub scope: Scope,
    /// `let`s that draw, and those that mention them: evaluated in each step, in order.
    pub drawn: Vec<(Pattern, Expr)>,
    /// Models by name, unbound.
    pub models: Vec<(Arc<str>, Value)>,
    /// Starting points: model, tree, place.
    pub given: Vec<(Arc<str>, Value, Span)>,
    /// Who is trained, in the order of their steps: one player without a name, or several with the names of their models.
    pub players: Vec<Player>,
    /// `players simultaneous`: all see the weights that came in, not the newest ones.
    pub simultaneous: bool,
    /// Training data.
    pub data: Option<Rc<DataTable>>,
    /// What is known of it while checking.
    pub checked: Option<Rc<CheckedData>>,
    /// Fields the step needs.
    pub fields: Vec<Arc<str>>,
    /// Batch size.
    pub batch: usize,
    /// Whether the size of a batch is known from the text alone.
    pub batch_known: bool,
    /// Batches per step.
    pub accumulate: usize,
    /// Whether examples are shuffled.
    pub shuffle: bool,
    /// Steps.
    pub steps: u64,
    /// Seed.
    pub seed: u64,
    /// Metrics.
    pub metrics: Vec<Setting>,
    /// Folder, every, keep.
    pub checkpoint: Option<(String, u64, usize)>,
    /// Whether to resume.
    pub resume: bool,
    /// Path and formats.
    pub log: Option<(String, Vec<String>)>,
    /// Which arrays live in files.
    pub offload: Option<OffloadSpec>,
    /// `stop when`
    pub stop_when: Option<Expr>,
    /// `on nan { stop }`
    pub stop_on_nan: bool,
    /// `device`
    pub device: Target,
    /// `precision`
    pub precision: DType,
    /// What the weights of a model are stored in, by its name, where `stored bf16` says it.
    pub stored: Vec<(Arc<str>, DType)>,
}

impl TrainSetup {
    /// What the weights of the model `name` are stored in, if that is said.
    pub(crate) fn stored_as(&self, name: &str) -> Option<DType> {
        self.stored.iter().find(|(n, _)| **n == *name).map(|(_, dtype)| *dtype)
    }
    /// The element type `f32` stands for.
    pub fn working(&self) -> DType {
        working(self.precision)
    }
    /// Names under which the losses are recorded.
    pub fn loss_names(&self) -> Vec<Arc<str>> {
        self.players.iter().map(|p| Arc::from(p.recorded("loss"))).collect()
    }
    /// Names of metrics that hyperparameters may use.
    pub fn watched_names(&self) -> Vec<Arc<str>> {
        self.metrics.iter().filter_map(|m| m.values.first().and_then(|(n, _)| n.as_ref()).map(|n| n.text.clone())).collect()
    }
}

/// The element type `f32` stands for in the block: `precision f64` makes it f64; `precision bf16` narrows the models only.
fn working(precision: DType) -> DType {
    if precision == DType::F64 { DType::F64 } else { DType::F32 }
}

/// What overrides give for a name, the last of them; all of that name are used.
fn take(name: &str, overrides: &Overrides, used: &mut [bool]) -> Option<Value> {
    let mut found = None;
    for (k, (_, value, _)) in overrides.iter().enumerate().filter(|(_, (n, ..))| n == name) {
        used[k] = true;
        found = Some(value.clone());
    }
    found
}

/// Whether a text holds a word.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(|c| part(c) || c == '.');
        let after = text[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// The fields of a data set that any of these expressions (or a `let` of the train) mentions.
pub(crate) fn mentioned_fields(program: &Program, data: &DataTable, spans: &[Span], setup: &TrainSetup) -> Vec<Arc<str>> {
    let texts = || spans.iter().chain(setup.drawn.iter().map(|(_, e)| &e.span)).map(|&s| program.sources.slice(s));
    data.fields.keys().filter(|name| texts().any(|t| mentions(t, name))).cloned().collect()
}

impl Evaluator<'_> {
    /// Binds the parameters of a `data`, `train` or `experiment` item.
    pub fn bind_block_params(&mut self, module: ModuleId, name: &Name, params: &[Param], args: &[CallArg], span: Span) -> Eval<Scope> {
        if self.mode == Mode::Check && args.is_empty() {
            // A block that is checked by itself: whatever its parameters may be.
            return Ok(self.checked_params(module, params, 0)?.scope);
        }
        self.bind_params(&name.text, module, params, args.to_vec(), span)
    }

    /// An error about a setting nobody knows.
    pub fn unknown_setting<T>(&mut self, word: &Name, block: &str, known: &[&str]) -> Eval<T> {
        let d = Diagnostic::error(Code("E0226"), word.span, format!("a `{block}` block has no setting `{}`", word.text));
        self.fail(match crate::names::nearest(&word.text, known.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`")),
            None => d.help(format!("its settings are {}", known.join(", "))),
        })
    }

    /// An integer the script knows now.
    pub fn host_int(&mut self, value: &Value, span: Span, what: &str) -> Eval<i64> {
        match value {
            Value::Int(d) => match d.known() {
                Some(n) => Ok(n),
                None => Ok(1),
            },
            Value::Float(Some(x)) if x.fract() == 0.0 => Ok(*x as i64),
            Value::Float(None) | Value::Unknown => Ok(1),
            Value::Array(a) if a.shape.is_empty() && self.mode != Mode::Check => {
                let x = self.force(a, span)?.get_f64(0);
                if x.fract() == 0.0 { Ok(x as i64) } else { self.error("E0516", span, format!("`{what}` must be an integer, not {x}")) }
            }
            Value::Array(a) if a.shape.is_empty() => Ok(1),
            _ => self.error("E0516", span, format!("`{what}` must be an integer")),
        }
    }

    /// A number the script knows now.
    pub fn host_number(&mut self, value: &Value, span: Span) -> Eval<f64> {
        match value {
            Value::Int(d) => Ok(d.known().map_or(f64::NAN, |n| n as f64)),
            Value::Float(x) => Ok(x.unwrap_or(f64::NAN)),
            Value::Bool(b) => Ok(b.map_or(f64::NAN, |b| f64::from(u8::from(b)))),
            Value::Unknown => Ok(f64::NAN),
            Value::Array(a) if a.shape.is_empty() => {
                if self.mode == Mode::Check {
                    return Ok(f64::NAN);
                }
                Ok(self.force(a, span)?.get_f64(0))
            }
            _ => self.error("E0333", span, "this must be a number"),
        }
    }

    fn train_item(&mut self, block: &BlockValue, span: Span) -> Eval<Arc<BlockItem>> {
        match &self.program.item(block.item).kind {
            ItemKind::Block(b) if b.kind == BlockKind::Train => Ok(b.clone()),
            _ => {
                let name = self.program.item(block.item).name().map_or(String::new(), |n| n.text.to_string());
                self.fail(
                    Diagnostic::error(Code("E0526"), span, format!("`{name}` is not a train block"))
                        .help("`run` takes the name of a `train` block"),
                )
            }
        }
    }

    /// Reads a `train` block.
    ///
    /// # Errors
    /// Whatever is wrong in its settings; recorded.
    pub fn read_train(&mut self, block: &BlockValue, overrides: &Overrides, span: Span) -> Eval<TrainSetup> {
        if self.reading.contains(&block.item) {
            let name = self.program.item(block.item).name().map_or("", |n| &n.text);
            return self.fail(
                Diagnostic::error(Code("E0350"), span, format!("`{name}` runs itself"))
                    .help("a train block may run another one in a `let`, as a starting point; experiments run it"),
            );
        }
        let block = &self.overridden(block, overrides, span)?;
        self.reading.push(block.item);
        let precision = self.read_precision(block, overrides, span);
        let setup = precision.and_then(|precision| {
            let mut setup = self.isolated(crate::train::RUN_PLACE, None, |ev| {
                ev.with_float(working(precision), |ev| ev.read_settings(block, overrides, span))
            })?;
            if working(precision) != precision {
                for (_, model) in &mut setup.models {
                    if let Value::Model(m) = model {
                        *model = Value::Model(Rc::new(ModelValue { float: Some(precision), ..(**m).clone() }));
                    }
                }
            }
            Ok(TrainSetup { precision, ..setup })
        });
        self.reading.pop();
        setup
    }

    /// The block with the arguments that overrides give.
    fn overridden(&mut self, block: &BlockValue, overrides: &Overrides, span: Span) -> Eval<BlockValue> {
        let params = self.train_item(block, span)?.params.iter().map(|p| p.name.text.clone()).collect::<Vec<_>>();
        let mut block = block.clone();
        for (name, value, at) in overrides {
            let Some(position) = params.iter().position(|p| **p == **name) else { continue };
            // Arguments without a name belong to the parameters in order.
            let given = block.args.iter().position(|a| a.name.as_deref() == Some(name));
            let unnamed = || block.args.iter().enumerate().filter(|(_, a)| a.name.is_none()).nth(position).map(|(k, _)| k);
            match given.or_else(unnamed) {
                Some(k) => (block.args[k].value, block.args[k].span) = (value.clone(), *at),
                None => block.args.push(CallArg { name: Some(params[position].clone()), value: value.clone(), span: *at }),
            }
        }
        Ok(block)
    }

    /// `precision`: read before all else, because it says what floats are.
    fn read_precision(&mut self, block: &BlockValue, overrides: &Overrides, span: Span) -> Eval<DType> {
        let item = self.train_item(block, span)?;
        if let Some((_, value, at)) = overrides.iter().rev().find(|(word, _, _)| word == "precision") {
            return match value {
                Value::DType(d) if d.is_float() => Ok(*d),
                Value::Unknown => Ok(DType::F32),
                _ => self.fail(Diagnostic::error(Code("E0516"), *at, "`precision` is a float element type").help("bf16, f16, f32 or f64")),
            };
        }
        let setting = item.entries.iter().find_map(|e| match e {
            BlockEntry::Setting(s) if &*s.word.text == "precision" => Some(s),
            _ => None,
        });
        let Some(s) = setting else { return Ok(DType::F32) };
        let mut scope = self.bind_block_params(block.item.module, &item.name, &item.params, &block.args, span)?;
        self.dtype_setting(&mut scope, s.values.first().map(|(_, e)| e), s.span)
    }

    fn read_settings(&mut self, block: &BlockValue, overrides: &Overrides, span: Span) -> Eval<TrainSetup> {
        let item = self.train_item(block, span)?;
        let mut scope = self.bind_block_params(block.item.module, &item.name, &item.params, &block.args, span)?;
        scope.push();
        let mut used = vec![false; overrides.len()];
        let mut drawn: Vec<(Pattern, Expr)> = Vec::new();
        let mut words: Vec<&Setting> = Vec::new();
        for entry in &item.entries {
            match entry {
                BlockEntry::Let { pattern, value, .. } => {
                    let name = if let PatternKind::Name(n) = &pattern.kind { Some(n.clone()) } else { None };
                    if let Some(given) = name.as_deref().and_then(|n| take(n, overrides, &mut used)) {
                        let given = self.with_parts(given, name.as_deref().unwrap_or_default(), overrides, &mut used)?;
                        self.bind_pattern(&mut scope, pattern, given, LetKind::Let)?;
                    } else {
                        match self.settled(&scope, pattern, value, &drawn)? {
                            Some(mut v) => {
                                if let Some(name) = &name {
                                    v = self.with_parts(v, name, overrides, &mut used)?;
                                }
                                self.bind_pattern(&mut scope, pattern, v, LetKind::Let)?;
                            }
                            None => drawn.push((pattern.clone(), value.clone())),
                        }
                    }
                }
                BlockEntry::Field { name, .. } => return self.unknown_setting(name, "train", WORDS),
                BlockEntry::Setting(s) if WORDS.contains(&&*s.word.text) => words.push(s),
                BlockEntry::Setting(s) => return self.unknown_setting(&s.word, "train", WORDS),
            }
        }
        let find = |word: &str| words.iter().copied().find(|s| &*s.word.text == word);
        self.key = self.settings_key(&scope, overrides, find("seed"))?;
        for word in
            ["data", "loss", "optimizer", "players", "steps", "epochs", "seed", "accumulate", "checkpoint", "log", "offload", "precision"]
        {
            // Players have settings of their own, with their names.
            let mut all = words.iter().filter(|s| &*s.word.text == word && s.values.iter().all(|(name, _)| name.is_none()));
            if let (Some(first), Some(second)) = (all.next(), all.next()) {
                let d = Diagnostic::error(Code("E0527"), second.word.span, format!("`{word}` is set twice"))
                    .label(first.word.span, "set here before");
                return self.fail(match word {
                    "optimizer" => {
                        d.help("one for all parameters, a chain `a |> b`, or groups: `{ \"*.bias\": sgd(lr = 0.1), _: adamw() }`")
                    }
                    "loss" => d.help("add them up: `loss a + 0.1 * b`"),
                    _ => d,
                });
            }
        }
        let Models { models, given, stored } = self.read_models(&words, &mut scope, overrides, &mut used)?;
        let (players, simultaneous) = self.read_players(&item, &words, &models, &drawn, &mut scope, overrides, &mut used)?;
        // Data.
        let data_setting = find("data");
        let mut setup = TrainSetup {
            name: item.name.text.clone(),
            span: item.name.span,
            scope,
            drawn,
            models,
            given,
            players,
            simultaneous,
            data: None,
            checked: None,
            fields: Vec::new(),
            batch: 1,
            batch_known: false,
            accumulate: 1,
            shuffle: false,
            steps: 0,
            seed: 0,
            metrics: words.iter().filter(|s| &*s.word.text == "metric").map(|s| (*s).clone()).collect(),
            checkpoint: None,
            resume: false,
            log: None,
            offload: None,
            stop_when: None,
            stop_on_nan: true,
            device: Target::Cpu,
            precision: DType::F32,
            stored,
        };
        let mut take = |name: &str| -> Option<(Value, Span)> {
            let at = overrides.iter().rposition(|(n, _, _)| n == name)?;
            used[at] = true;
            Some((overrides[at].1.clone(), overrides[at].2))
        };
        let mut batch: Option<(Value, Span)> = None;
        if let Some(s) = data_setting {
            let overridden = take("data");
            self.read_data(&mut setup, s, overridden)?;
            for (name, e) in &s.options {
                match &*name.text {
                    "batch" => batch = Some((self.all_or(&mut setup.scope, e)?, e.span)),
                    "shuffle" => {
                        let v = self.expr(&mut setup.scope, e)?;
                        setup.shuffle = self.flag(&v, e.span)?;
                    }
                    _ => return self.unknown_setting(name, "data", &["batch", "shuffle"]),
                }
            }
        }
        batch = take("batch").or(batch);
        if let Some((v, at)) = take("shuffle") {
            setup.shuffle = self.flag(&v, at)?;
        }
        self.read_rest(&mut setup, &words)?;
        self.override_files(&mut setup, take("checkpoint"), take("log"), take("offload"))?;
        let mut int = |ev: &mut Self, setup: &mut TrainSetup, word: &str, low: i64| -> Eval<Option<i64>> {
            let (value, at) = match take(word) {
                Some(v) => v,
                None => match words.iter().find(|s| &*s.word.text == word) {
                    None => return Ok(None),
                    Some(s) => match s.values.first() {
                        Some((_, e)) => (ev.expr(&mut setup.scope, e)?, e.span),
                        None => return ev.error("E0516", s.span, format!("`{word}` needs a number")),
                    },
                },
            };
            let n = ev.host_int(&value, at, word)?;
            if n < low {
                return ev.error("E0516", at, format!("`{word}` must be at least {low}, not {n}"));
            }
            Ok(Some(n))
        };
        setup.seed = int(self, &mut setup, "seed", i64::MIN)?.unwrap_or(0).cast_unsigned();
        setup.accumulate = int(self, &mut setup, "accumulate", 1)?.unwrap_or(1) as usize;
        let steps = int(self, &mut setup, "steps", 0)?;
        let epochs = int(self, &mut setup, "epochs", 0)?;
        let n = setup.data.as_deref().map_or(1, DataTable::len);
        setup.batch = match batch {
            None | Some((Value::None, _)) => n.max(1),
            Some((v, at)) => {
                let b = self.host_int(&v, at, "batch")?;
                if b < 1 || (self.mode != Mode::Check && b as usize > n) {
                    return self.fail(
                        Diagnostic::error(Code("E0516"), at, format!("a batch of {b} examples cannot be taken from {n}"))
                            .help("use `batch = all` for the whole split"),
                    );
                }
                setup.batch_known = matches!(&v, Value::Int(d) if d.known().is_some());
                b as usize
            }
        };
        setup.steps = match (steps, epochs) {
            (Some(s), _) => s as u64,
            (None, Some(e)) => (e as u64) * (n / (setup.batch * setup.accumulate)).max(1) as u64,
            (None, None) => {
                return self.fail(
                    Diagnostic::error(Code("E0529"), item.name.span, format!("`{}` does not say how long to train", item.name.text))
                        .help("add `steps 1000` or `epochs 10`"),
                );
            }
        };
        for (word, value, at) in overrides {
            match word.as_str() {
                "resume" => setup.resume = self.flag(value, *at)?,
                "precision" => {}
                _ => {
                    let k = overrides.iter().position(|(w, _, _)| w == word).unwrap_or(0);
                    if !used[k] && !item.params.iter().any(|p| *p.name.text == **word) {
                        let hyper =
                            matches!(word.as_str(), "lr" | "learning_rate" | "weight_decay" | "momentum" | "beta1" | "beta2" | "eps");
                        let d = Diagnostic::error(Code("E0520"), *at, format!("`{}` has no setting `{word}` to override", setup.name));
                        if hyper {
                            return self.fail(d.help("hyperparameters are overridden with the optimizer, `with { optimizer = sgd(lr = 0.1) }`, or by a `let` of the train block"));
                        }
                        return self.fail(
                            d.help("settings, `let`s and parameters of the train block, and arguments of its models (`net.hidden`) can be overridden"),
                        );
                    }
                }
            }
        }
        if let Some(data) = &setup.data {
            let mut spans: Vec<Span> = setup.players.iter().map(|p| p.loss.span).collect();
            spans.extend(setup.metrics.iter().filter(|m| m.clauses.iter().all(|c| &*c.word.text != "on")).map(|m| m.span));
            setup.fields = mentioned_fields(self.program, data, &spans, &setup);
        }
        Ok(setup)
    }

    /// A setting that is a tree, with the parts that overrides give: `target.b = 1`.
    fn with_parts(&mut self, mut value: Value, name: &str, overrides: &Overrides, used: &mut [bool]) -> Eval {
        for (k, (path, new, at)) in overrides.iter().enumerate() {
            let Some(part) = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else { continue };
            used[k] = true;
            if matches!(value, Value::Unknown) {
                continue;
            }
            match crate::tree::with_leaf(&value, part, new) {
                Some(changed) => value = changed,
                None => {
                    let d = Diagnostic::error(Code("E0520"), *at, format!("`{name}` has no part `{part}` to override"));
                    return self.fail(d.help(format!("it is {}", crate::tree::describe(&value))));
                }
            }
        }
        Ok(value)
    }

    fn read_data(&mut self, setup: &mut TrainSetup, s: &Setting, overridden: Option<(Value, Span)>) -> Eval<()> {
        let (value, at) = match overridden {
            Some(v) => v,
            None => match s.values.as_slice() {
                [(None, e)] => (self.expr(&mut setup.scope, e)?, e.span),
                _ => {
                    return self.fail(
                        Diagnostic::error(Code("E0510"), s.span, "`data` takes one data set").help("`data digits.train, batch = 64`"),
                    );
                }
            },
        };
        match value {
            Value::Block(b) if self.mode == Mode::Check => {
                setup.checked = Some(self.check_data(&b, at)?);
                Ok(())
            }
            Value::Block(b) => {
                setup.data = Some(self.table_of(&b, at)?);
                Ok(())
            }
            Value::Data(t) => {
                setup.data = Some(t);
                Ok(())
            }
            Value::Unknown => Ok(()),
            _ => self.fail(
                Diagnostic::error(Code("E0510"), at, "this is not a data set")
                    .help("name a `data` block or one of its splits: `digits.train`"),
            ),
        }
    }

    /// The table of a data block, in host mode whatever the mode is now.
    pub(crate) fn table_of(&mut self, block: &BlockValue, span: Span) -> Eval<Rc<DataTable>> {
        let mode = self.mode;
        self.mode = if mode == Mode::Check { Mode::Check } else { Mode::Host };
        let table = if mode == Mode::Check {
            let checked = self.check_data(block, span)?;
            Ok(Rc::new(DataTable {
                name: String::from("data"),
                fields: checked.fields.keys().map(|k| (k.clone(), Arc::new(optc_abi::Tensor::zeros(DType::F32, &[1])))).collect(),
                ..DataTable::default()
            }))
        } else {
            self.load_data(block, span)
        };
        self.mode = mode;
        table
    }

    /// `batch = all`
    fn all_or(&mut self, scope: &mut Scope, e: &Expr) -> Eval {
        match &e.kind {
            ExprKind::Name(n) if &**n == "all" && scope.get("all").is_none() => Ok(Value::None),
            _ => self.expr(scope, e),
        }
    }

    fn flag(&mut self, v: &Value, span: Span) -> Eval<bool> {
        match v {
            Value::Bool(b) => Ok(b.unwrap_or(false)),
            Value::Unknown => Ok(false),
            _ => self.error("E0516", span, "this must be true or false"),
        }
    }

    pub(crate) fn dtype_setting(&mut self, scope: &mut Scope, e: Option<&Expr>, span: Span) -> Eval<DType> {
        let Some(e) = e else { return self.error("E0516", span, "an element type is missing") };
        if let ExprKind::DType(optc_front::ast::ElemType::Concrete(d)) = &e.kind
            && d.is_float()
        {
            return Ok(*d);
        }
        match self.expr(scope, e)? {
            Value::DType(d) if d.is_float() => Ok(d),
            _ => self.fail(Diagnostic::error(Code("E0516"), e.span, "this must be a float element type").help("bf16, f16, f32 or f64")),
        }
    }
}
