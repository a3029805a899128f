//! What the command line sets: `--set name=value` as settings of runs and arguments of experiments. Where a string is wanted, a bare word is one.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::settings::Overrides;
use crate::value::{BlockValue, CallArg, Value};
use optc_base::Span;
use optc_front::ast::{BlockEntry, BlockItem, Expr, ExprKind, ItemKind, Param, PatternKind, TypeKind};
use optc_front::modules::Def;
use optc_front::{ItemRef, ModuleId};
use optc_ops::Dim;

/// Settings of a `train` block that are paths or names.
const TEXTS: &[&str] = &["checkpoint", "log", "device"];

impl Evaluator<'_> {
    /// Adds what the command line sets; it wins over the script.
    pub(crate) fn with_command_line(&mut self, block: &BlockValue, mut overrides: Overrides) -> Eval<Overrides> {
        let settings = self.script.settings.clone();
        for (name, e, _) in &settings.set {
            let value = self.set_value(e, self.wants_text(block.item, name))?;
            overrides.push((name.clone(), value, e.span));
        }
        if let Some(seed) = settings.seed {
            overrides.push(("seed".into(), Value::Int(Dim::from(seed.cast_signed())), Span::default()));
        }
        if settings.resume {
            overrides.push(("resume".into(), Value::Bool(Some(true)), Span::default()));
        }
        Ok(overrides)
    }
    /// The arguments that the command line gives an experiment; runs do not see them.
    pub(crate) fn set_arguments(&mut self, params: &[Param]) -> Eval<Vec<CallArg>> {
        let is_param = |name: &str| params.iter().any(|p| &*p.name.text == name);
        let (set, rest) = std::mem::take(&mut self.script.settings.set).into_iter().partition(|(name, _, _)| is_param(name));
        self.script.settings.set = rest;
        let set: Vec<(String, Expr, optc_base::SourceId)> = set;
        let mut args: Vec<CallArg> = Vec::new();
        for (name, e, _) in &set {
            let Some(param) = params.iter().find(|p| *p.name.text == **name) else { continue };
            let value = self.set_value(e, is_text(param))?;
            args.retain(|a| a.name.as_deref() != Some(name));
            args.push(CallArg { name: Some(param.name.text.clone()), value, span: e.span });
        }
        Ok(args)
    }
    fn set_value(&mut self, e: &Expr, text: bool) -> Eval {
        match &e.kind {
            ExprKind::None => Ok(Value::None),
            ExprKind::Name(n) if &**n == "all" => Ok(Value::None),
            ExprKind::Str(_) => self.expr(&mut Scope::new(ModuleId(0)), e),
            ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Bool(_) => self.expr(&mut Scope::new(ModuleId(0)), e),
            _ if text => Ok(Value::Str(self.program.sources.slice(e.span).into())),
            _ => self.expr(&mut Scope::new(ModuleId(0)), e),
        }
    }
    /// Whether a setting, parameter, `let` or argument of a model of a `train` block takes a string.
    fn wants_text(&self, item: ItemRef, name: &str) -> bool {
        let ItemKind::Block(block) = &self.program.item(item).kind else { return false };
        if let Some((model, argument)) = name.split_once('.') {
            return self.model_params(block, item.module, model).iter().any(|p| &*p.name.text == argument && is_text(p));
        }
        if let Some(param) = block.params.iter().find(|p| &*p.name.text == name) {
            return is_text(param);
        }
        let declared = block.entries.iter().any(|e| match e {
            BlockEntry::Let { pattern, value, .. } => {
                matches!(&pattern.kind, PatternKind::Name(n) if &**n == name) && matches!(value.kind, ExprKind::Str(_))
            }
            _ => false,
        });
        declared || TEXTS.contains(&name)
    }
    /// The parameters of the model that a `train` block has under a name.
    fn model_params(&self, block: &BlockItem, module: ModuleId, model: &str) -> &[Param] {
        let settings = block.entries.iter().filter_map(|e| match e {
            BlockEntry::Setting(s) if &*s.word.text == "model" => Some(&s.values),
            _ => None,
        });
        let made = settings.flatten().find(|(n, _)| n.as_ref().is_some_and(|n| &*n.text == model)).map(|(_, e)| e);
        let name = match made.map(|e| &e.kind) {
            Some(ExprKind::Name(f)) => f,
            Some(ExprKind::Call { callee, .. }) => match &callee.kind {
                ExprKind::Name(f) => f,
                _ => return &[],
            },
            _ => return &[],
        };
        match self.program.lookup(module, name) {
            Some(Def::Item(item)) => match &self.program.item(item).kind {
                ItemKind::Fn(f) => &f.params,
                _ => &[],
            },
            _ => &[],
        }
    }
}

fn is_text(param: &Param) -> bool {
    matches!(param.ty.as_ref().map(|t| &t.kind), Some(TypeKind::Str))
        || matches!(param.default.as_ref().map(|e| &e.kind), Some(ExprKind::Str(_)))
}
