//! Items, parameters, types, settings.

use super::build::{Builder, P, kids};
use super::numbers;
use crate::ast::*;
use crate::sub::Sub;
use optc_base::Span;
use optc_grammar::Rule;
use std::sync::Arc;

impl Builder<'_> {
    /// `item`
    pub fn item(&mut self, pair: P<'_>) -> Item {
        let span = self.span(&pair);
        let doc = self.doc(span.start as usize);
        let inner = pair.into_inner().next().expect("an item has a kind");
        let kind = match inner.as_rule() {
            Rule::import_item => ItemKind::Import(self.import(inner)),
            Rule::const_item => {
                let (mut name, mut ty, mut value) = (None, None, None);
                for p in kids(inner) {
                    match p.as_rule() {
                        Rule::name => name = Some(self.name(&p)),
                        Rule::ty => ty = Some(self.ty(p)),
                        Rule::expr => value = Some(self.expr(p)),
                        _ => {}
                    }
                }
                let value = value.unwrap_or_else(|| self.make(ExprKind::Error, span));
                ItemKind::Const { name: name.expect("a constant has a name"), ty, value }
            }
            Rule::type_item => {
                let mut parts = kids(inner).peekable();
                let name = parts.next().map(|p| self.name(&p)).expect("a type has a name");
                let dims = parts.next_if(|p| p.as_rule() == Rule::names).map(|p| self.names(p)).unwrap_or_default();
                let ty = self.ty(parts.next().expect("a type follows"));
                ItemKind::TypeAlias { name, dims, ty }
            }
            Rule::extern_item => self.extern_item(inner),
            Rule::experiment_item => {
                let mut parts = kids(inner).peekable();
                let name = parts.next().map(|p| self.name(&p)).expect("an experiment has a name");
                let params = parts.next_if(|p| p.as_rule() == Rule::params).map(|p| self.params(p)).unwrap_or_default();
                self.host = true;
                let body = self.expect_body(parts.next(), span);
                self.host = false;
                ItemKind::Experiment(Arc::new(ExperimentItem { name, params, body, span }))
            }
            Rule::block_item => self.block_item(inner),
            Rule::fn_item => self.fn_item(inner),
            other => unreachable!("compiler bug: {other:?} is no item"),
        };
        Item { doc, span, kind }
    }

    /// The `##` lines right above byte `start`.
    fn doc(&self, start: usize) -> String {
        let mut lines = Vec::new();
        let mut before = self.text[..start].trim_end_matches([' ', '\t']);
        while let Some(rest) = before.strip_suffix('\n') {
            let line_start = rest.rfind('\n').map_or(0, |i| i + 1);
            let line = rest[line_start..].trim();
            let Some(text) = line.strip_prefix("##") else { break };
            lines.push(text.strip_prefix(' ').unwrap_or(text));
            before = &rest[..line_start];
        }
        lines.reverse();
        lines.join("\n")
    }

    fn import(&mut self, pair: P<'_>) -> Import {
        let mut path: Option<(Arc<str>, Span)> = None;
        let mut alias = None;
        let mut segments = Vec::new();
        let mut names = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::string => path = Some((self.plain_string(&p), self.span(&p))),
                Rule::name => alias = Some(self.name(&p)),
                Rule::import_path => {
                    for part in kids(p) {
                        match part.as_rule() {
                            Rule::lc_names => names = Some(self.names(part)),
                            _ => segments.push(self.name(&part)),
                        }
                    }
                }
                _ => {}
            }
        }
        match path {
            Some((path, path_span)) => Import::File { path, path_span, alias },
            None => {
                let names = names.unwrap_or_else(|| segments.pop().into_iter().collect());
                Import::Std { path: segments, names, alias }
            }
        }
    }

    fn extern_item(&mut self, pair: P<'_>) -> ItemKind {
        let span = self.span(&pair);
        let (mut name, mut command, mut result) = (None, None, None);
        let mut options = Vec::new();
        let mut params = Vec::new();
        for p in kids(pair) {
            match p.as_rule() {
                Rule::name => name = Some(self.name(&p)),
                Rule::string => command = Some(self.string(&p)),
                Rule::option => options.push(self.option(p)),
                Rule::params => params = self.params(p),
                Rule::ty => result = Some(self.ty(p)),
                _ => {}
            }
        }
        ItemKind::Extern(Arc::new(ExternItem {
            name: name.expect("an extern process has a name"),
            command: command.expect("an extern process has a command"),
            options,
            params,
            result: result.expect("an extern process has a result type"),
            span,
        }))
    }

    fn fn_item(&mut self, pair: P<'_>) -> ItemKind {
        let span = self.span(&pair);
        let mut kind = FnKind::Fn;
        let (mut name, mut result, mut body, mut gradient) = (None, None, None, None);
        let mut params = Vec::new();
        for p in kids(pair) {
            match p.as_rule() {
                Rule::fn_word => {
                    kind = match p.as_str() {
                        "fn" => FnKind::Fn,
                        "layer" => FnKind::Layer,
                        "model" => FnKind::Model,
                        "loss" => FnKind::Loss,
                        "schedule" => FnKind::Schedule,
                        "optimizer" => FnKind::Optimizer,
                        _ => FnKind::HostFn,
                    }
                }
                Rule::name => name = Some(self.name(&p)),
                Rule::params => params = self.params(p),
                Rule::ty => result = Some(self.ty(p)),
                Rule::gradient => gradient = Some(self.gradient(p)),
                _ => {
                    self.host = kind == FnKind::HostFn;
                    body = Some(self.fn_body(p));
                    self.host = false;
                }
            }
        }
        let body = body.unwrap_or_else(|| self.make(ExprKind::Error, span));
        ItemKind::Fn(Arc::new(FnItem { kind, name: name.expect("a function has a name"), params, result, body, gradient, span }))
    }

    /// `expr` after `=`, or `body`.
    fn fn_body(&mut self, pair: P<'_>) -> Expr {
        if pair.as_rule() == Rule::expr {
            return self.expr(pair);
        }
        let block = self.block(pair);
        let span = block.span;
        self.make(ExprKind::Block(block), span)
    }

    fn gradient(&mut self, pair: P<'_>) -> Gradient {
        let span = self.span(&pair);
        let mut parts = kids(pair);
        let cotangents = parts.next().map(|p| self.names(p)).unwrap_or_default();
        let body = match parts.next() {
            Some(p) => self.fn_body(p),
            None => self.make(ExprKind::Error, span),
        };
        Gradient { cotangents, body, span }
    }

    fn params(&mut self, pair: P<'_>) -> Vec<Param> {
        kids(pair).filter(|p| p.as_rule() == Rule::param).map(|p| self.param(p)).collect()
    }

    fn param(&mut self, pair: P<'_>) -> Param {
        let span = self.span(&pair);
        let mut is_const = false;
        let (mut name, mut ty, mut range, mut default) = (None, None, None, None);
        for p in kids(pair) {
            match p.as_rule() {
                Rule::kw_const => is_const = true,
                Rule::name => name = Some(self.name(&p)),
                Rule::ty => ty = Some(self.ty(p)),
                Rule::range => range = Some(self.range(p)),
                Rule::expr => default = Some(self.expr(p)),
                _ => {}
            }
        }
        Param { name: name.expect("a parameter has a name"), is_const, ty, range, default, span }
    }

    fn range(&mut self, pair: P<'_>) -> Range {
        let span = self.span(&pair);
        let mut range = Range { low: None, high: None, among: Vec::new(), span };
        let mut op = "";
        let mut first = true;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::choices => range.among = kids(p).filter(|p| p.as_rule() == Rule::string).map(|p| self.plain_string(&p)).collect(),
                Rule::bound_op => op = p.as_str(),
                Rule::range_open => op = if p.as_str() == "[" { "[>=" } else { "[>" },
                Rule::range_close => {
                    if let Some(high) = &mut range.high {
                        high.inclusive = p.as_str() == "]";
                    }
                }
                Rule::arith => {
                    let value = self.expr(p);
                    match op {
                        "<" | "<=" => range.high = Some(Bound { value, inclusive: op == "<=" }),
                        ">" | ">=" => range.low = Some(Bound { value, inclusive: op == ">=" }),
                        _ if first => range.low = Some(Bound { value, inclusive: op == "[>=" }),
                        _ => range.high = Some(Bound { value, inclusive: true }),
                    }
                    first = false;
                }
                _ => {}
            }
        }
        range
    }

    fn block_item(&mut self, pair: P<'_>) -> ItemKind {
        let span = self.span(&pair);
        let mut kind = BlockKind::Data;
        let mut name = None;
        let mut params = Vec::new();
        let mut entries = Vec::new();
        let mut previous: Option<Span> = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::block_word => {
                    kind = match p.as_str() {
                        "data" => BlockKind::Data,
                        "train" => BlockKind::Train,
                        _ => BlockKind::Search,
                    }
                }
                Rule::name => name = Some(self.name(&p)),
                Rule::params => params = self.params(p),
                Rule::entry => {
                    let at = self.span(&p);
                    if let Some(before) = previous {
                        self.check_separated(before, at, "setting");
                    }
                    previous = Some(at);
                    entries.push(self.entry(p));
                }
                _ => {}
            }
        }
        ItemKind::Block(Arc::new(BlockItem { kind, name: name.expect("a block has a name"), params, entries, span }))
    }

    fn entry(&mut self, pair: P<'_>) -> BlockEntry {
        let span = self.span(&pair);
        let inner = pair.into_inner().next().expect("an entry has a kind");
        match inner.as_rule() {
            Rule::entry_let => {
                let mut parts = kids(inner);
                let pattern = self.pattern(parts.next().expect("a pattern"));
                let value = self.expect_expr(parts.next(), span);
                BlockEntry::Let { pattern, value, span }
            }
            Rule::entry_field => {
                let mut parts = kids(inner);
                let name = parts.next().map(|p| self.name(&p)).expect("a field has a name");
                let value = self.expect_expr(parts.next(), span);
                BlockEntry::Field { name, value }
            }
            _ => BlockEntry::Setting(self.setting(inner)),
        }
    }

    fn setting(&mut self, pair: P<'_>) -> Setting {
        let span = self.span(&pair);
        let mut setting =
            Setting { word: Name { text: Arc::from(""), span }, values: Vec::new(), clauses: Vec::new(), options: Vec::new(), span };
        let mut first = true;
        for p in pair.into_inner() {
            let at = self.span(&p);
            match p.as_rule() {
                Rule::kw_stop | Rule::kw_on | Rule::kw_space | Rule::kw_task => setting.word = self.name(&p),
                Rule::name if first => setting.word = self.name(&p),
                Rule::kw_nan => {
                    let nan = self.make(ExprKind::Name(Arc::from("nan")), at);
                    setting.values.push((None, nan));
                }
                Rule::body => {
                    let block = self.block(p);
                    let value = self.make(ExprKind::Block(block), at);
                    setting.values.push((None, value));
                }
                Rule::clause_when => {
                    let word = Name { text: Arc::from("when"), span: Span { end: at.start + 4, ..at } };
                    let value = kids(p).find(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p));
                    setting.clauses.push(Clause { word, variable: None, value });
                }
                Rule::call_path => {
                    let value = self.call_path(p);
                    setting.values.push((None, value));
                }
                Rule::brace_record => self.task_record(&mut setting, p),
                Rule::space_entry => self.space_entry(&mut setting, p),
                Rule::setting_first => {
                    let (name, value) = self.maybe_named(p);
                    setting.values.push((name, value));
                }
                Rule::setting_more => self.setting_more(&mut setting, p),
                Rule::clause => self.clause(&mut setting, p),
                _ => {}
            }
            first = false;
        }
        setting
    }

    /// `{ steps = 300 }` after the value of `task` or `strategy`: overrides of a run, or named arguments.
    fn task_record(&mut self, setting: &mut Setting, pair: P<'_>) {
        let record = self.record(pair);
        let Some((_, target)) = setting.values.pop() else { return };
        let span = target.span.to(record.span);
        let kind = match record.kind {
            ExprKind::Record(fields) if &*setting.word.text == "strategy" => {
                let args = fields.into_iter().map(|(path, value)| Arg { name: path.into_iter().next(), value }).collect();
                ExprKind::Call { callee: Sub::new(target), args }
            }
            kind => {
                let record = Expr { kind, ..record };
                ExprKind::Run { target: Sub::new(target), overrides: Some(Sub::new(record)) }
            }
        };
        let value = self.make(kind, span);
        setting.values.push((None, value));
    }

    fn space_entry(&mut self, setting: &mut Setting, pair: P<'_>) {
        let mut word = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::kw_require => word = Some(self.name(&p)),
                Rule::option => {
                    let (name, value) = self.option(p);
                    setting.values.push((Some(name), value));
                }
                _ => {
                    let value = self.expr(p);
                    match word.take() {
                        Some(word) => setting.clauses.push(Clause { word, variable: None, value: Some(value) }),
                        None => setting.values.push((None, value)),
                    }
                }
            }
        }
    }

    fn maybe_named(&mut self, pair: P<'_>) -> (Option<Name>, Expr) {
        let span = self.span(&pair);
        let mut name = None;
        let mut value = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::name => name = Some(self.name(&p)),
                Rule::expr => value = Some(self.expr(p)),
                _ => {}
            }
        }
        (name, value.unwrap_or_else(|| self.make(ExprKind::Error, span)))
    }

    fn setting_more(&mut self, setting: &mut Setting, pair: P<'_>) {
        let ratio = pair.clone().into_inner().find(|p| p.as_rule() == Rule::ratio_word).map(|p| self.name(&p));
        let (name, value) = self.maybe_named(pair);
        let players = matches!(&*setting.word.text, "model" | "loss" | "optimizer");
        let named_values = (players || setting.clauses.is_empty()) && setting.values.first().is_some_and(|v| v.0.is_some());
        match (ratio, name) {
            (Some(word), variable) => setting.clauses.push(Clause { word, variable, value: Some(value) }),
            (None, Some(name)) if !named_values => setting.options.push((name, value)),
            (None, name) => setting.values.push((name, value)),
        }
    }

    fn clause(&mut self, setting: &mut Setting, pair: P<'_>) {
        let mut word: Option<Name> = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::kw_over | Rule::clause_word => word = Some(self.name(&p)),
                Rule::over_one => {
                    let (variable, value) = self.option(p);
                    let word = word.clone().unwrap_or_else(|| variable.clone());
                    setting.clauses.push(Clause { word, variable: Some(variable), value: Some(value) });
                }
                Rule::expr => {
                    let value = self.expr(p);
                    if let Some(word) = word.clone() {
                        setting.clauses.push(Clause { word, variable: None, value: Some(value) });
                    }
                }
                _ => {}
            }
        }
    }

    /// `ty`
    pub fn ty(&mut self, pair: P<'_>) -> Type {
        let span = self.span(&pair);
        let inner = pair.into_inner().next().expect("a type has a kind");
        let kind = match inner.as_rule() {
            Rule::ty_fn => {
                let mut types: Vec<Type> = kids(inner.clone()).filter(|p| p.as_rule() == Rule::ty).map(|p| self.ty(p)).collect();
                let result = types.pop();
                TypeKind::Fn(result.map(|r| (types, Box::new(r))))
            }
            Rule::ty_tuple => TypeKind::Tuple(kids(inner).filter(|p| p.as_rule() == Rule::ty).map(|p| self.ty(p)).collect()),
            Rule::ty_record => {
                let fields = kids(inner).filter(|p| p.as_rule() == Rule::ty_field);
                TypeKind::Record(
                    fields
                        .map(|f| {
                            let mut parts = kids(f);
                            let name = parts.next().map(|p| self.name(&p)).expect("a field has a name");
                            (name, self.ty(parts.next().expect("a field has a type")))
                        })
                        .collect(),
                )
            }
            Rule::ty_list => TypeKind::List(Box::new(self.ty(kids(inner).next().expect("a list has a type")))),
            _ => self.ty_atom(inner),
        };
        Type { kind, span }
    }

    fn ty_atom(&mut self, pair: P<'_>) -> TypeKind {
        let mut word = None;
        let mut args = None;
        let mut dims: Option<Vec<DimExpr>> = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::dtype | Rule::name => word = Some(self.name(&p)),
                Rule::call => args = Some(self.args(p)),
                Rule::dims => {
                    let list = kids(p).filter(|p| p.as_rule() == Rule::dim);
                    dims = Some(
                        list.map(|d| {
                            let span = self.span(&d);
                            match kids(d).next() {
                                Some(p) if p.as_rule() == Rule::expr => DimExpr::Expr(self.expr(p)),
                                _ => DimExpr::Ellipsis(span),
                            }
                        })
                        .collect(),
                    );
                }
                _ => {}
            }
        }
        let word = word.expect("a type has a name");
        if let Some(args) = args
            && &*word.text == "q8"
        {
            return TypeKind::Array { elem: ElemType::Quantized(args), dims };
        }
        match (&*word.text, &dims) {
            ("bool", None) => return TypeKind::Bool,
            ("int", None) => return TypeKind::Int,
            ("str", None) => return TypeKind::Str,
            ("model", None) => return TypeKind::Model,
            ("optimizer", None) => return TypeKind::Optimizer,
            ("data", None) => return TypeKind::Data,
            ("type", None) => return TypeKind::Type,
            ("tree", None) => return TypeKind::Tree,
            _ => {}
        }
        if let Some(elem) = numbers::dtype(&word.text) {
            return TypeKind::Array { elem, dims };
        }
        let dims = dims.unwrap_or_default();
        if dims.iter().any(|d| matches!(d, DimExpr::Ellipsis(_))) {
            return TypeKind::Array { elem: ElemType::Named(word), dims: Some(dims) };
        }
        let args = dims.into_iter().filter_map(|d| if let DimExpr::Expr(e) = d { Some(e) } else { None }).collect();
        TypeKind::Named { name: word, args }
    }
}
