//! What a `train` block says beside what is trained: checkpoints, logs, conditions, the device.

use crate::evaluator::{Eval, Evaluator};
use crate::program::OffloadSpec;
use crate::scope::Scope;
use crate::settings::{TrainSetup, mentions};
use crate::value::Value;
use optc_abi::device::Target;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{ExprKind, Setting};

/// Bytes that a chunk of offloaded arrays has at least: one block.
const LEAST_CHUNK: i64 = 4096;

impl Evaluator<'_> {
    /// Checkpoints, logs, conditions and the like.
    pub(crate) fn read_rest(&mut self, setup: &mut TrainSetup, words: &[&Setting]) -> Eval<()> {
        let mut scope = setup.scope.clone();
        for s in words {
            match &*s.word.text {
                "checkpoint" => {
                    let folder = self.text_setting(&mut scope, s)?;
                    let mut every = 0;
                    if let Some(e) = s.clauses.iter().find(|c| &*c.word.text == "every").and_then(|c| c.value.as_ref()) {
                        let v = self.expr(&mut scope, e)?;
                        every = self.host_int(&v, e.span, "every")?.max(1) as u64;
                    }
                    let mut keep = 3;
                    for (name, e) in &s.options {
                        if &*name.text != "keep" {
                            return self.unknown_setting(name, "checkpoint", &["keep"]);
                        }
                        let v = self.expr(&mut scope, e)?;
                        keep = self.host_int(&v, e.span, "keep")?.max(1) as usize;
                    }
                    setup.checkpoint = Some((folder, every, keep));
                }
                "resume" => setup.resume = true,
                "log" => {
                    let path = self.text_setting(&mut scope, s)?;
                    let mut formats = vec!["csv".to_string()];
                    for (name, e) in &s.options {
                        if &*name.text != "formats" {
                            return self.unknown_setting(name, "log", &["formats"]);
                        }
                        let ExprKind::List(items) = &e.kind else {
                            return self.fail(
                                Diagnostic::error(Code("E0516"), e.span, "`formats` is a list")
                                    .help("`formats = [csv, jsonl, tensorboard]`"),
                            );
                        };
                        formats.clear();
                        for item in items {
                            match &item.kind {
                                ExprKind::Name(n) if ["csv", "jsonl", "tensorboard"].contains(&&**n) => formats.push(n.to_string()),
                                _ => {
                                    return self.fail(
                                        Diagnostic::error(Code("E0516"), item.span, "unknown log format")
                                            .help("csv, jsonl and tensorboard are known"),
                                    );
                                }
                            }
                        }
                    }
                    setup.log = Some((path, formats));
                }
                "offload" => setup.offload = Some(self.offload(&mut scope, s)?),
                "stop" => {
                    let cond = s.clauses.iter().find(|c| &*c.word.text == "when").and_then(|c| c.value.clone());
                    let Some(cond) = cond else {
                        return self.fail(
                            Diagnostic::error(Code("E0524"), s.span, "`stop` needs a condition").help("`stop when accuracy > 0.99`"),
                        );
                    };
                    setup.stop_when = Some(cond);
                }
                "on" => {
                    let text = self.program.sources.slice(s.span);
                    if !mentions(text, "nan") || !(mentions(text, "skip") || mentions(text, "stop")) {
                        return self.fail(Diagnostic::error(Code("E0516"), s.span, "`on` takes `nan { stop }` or `nan { skip }`"));
                    }
                    setup.stop_on_nan = !mentions(text, "skip");
                }
                "device" => {
                    let device = self.text_setting(&mut scope, s)?;
                    // Nothing is known of a text that is not known yet.
                    if !device.is_empty() {
                        let Some(target) = Target::parse(&device) else {
                            return self.fail(
                                Diagnostic::error(Code("E0516"), s.span, format!("there is no device `{device}`"))
                                    .help(format!("it may be {}", Target::FORMS)),
                            );
                        };
                        setup.device = target;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What `with { checkpoint = … }` and the like may be: a path, or `none`.
    fn override_path(&mut self, value: Value, span: Span, word: &str) -> Eval<Option<String>> {
        match value {
            Value::Str(path) => Ok(Some(path.to_string())),
            Value::None => Ok(None),
            Value::Unknown => Ok(Some(String::new())),
            _ => self.fail(
                Diagnostic::error(Code("E0516"), span, format!("`{word}` is a path")).help(format!("`{word} = \"out/name\"`, or `none`")),
            ),
        }
    }

    fn text_setting(&mut self, scope: &mut Scope, s: &Setting) -> Eval<String> {
        let Some((_, e)) = s.values.first() else { return self.error("E0516", s.span, format!("`{}` needs a string", s.word.text)) };
        match self.expr(scope, e)? {
            Value::Str(text) => Ok(text.to_string()),
            Value::Unknown => Ok(String::new()),
            _ => self.error("E0516", e.span, format!("`{}` needs a string", s.word.text)),
        }
    }

    /// `offload "dir", weights = true, states = true, activations = true, chunk = 8MiB, depth = 4, throttle = 400MiB`
    fn offload(&mut self, scope: &mut Scope, s: &Setting) -> Eval<OffloadSpec> {
        let mut spec = OffloadSpec { folder: self.text_setting(scope, s)?, ..OffloadSpec::default() };
        for (name, e) in &s.options {
            let v = self.expr(scope, e)?;
            let known = !self.checking();
            match &*name.text {
                word @ ("weights" | "states" | "activations") => {
                    let flag = match word {
                        "weights" => &mut spec.weights,
                        "states" => &mut spec.states,
                        _ => &mut spec.activations,
                    };
                    match v {
                        Value::Bool(b) => *flag = b.unwrap_or(*flag),
                        Value::Unknown => {}
                        _ => return self.error("E0516", e.span, format!("`{word}` must be true or false")),
                    }
                }
                word @ ("chunk" | "depth") => {
                    let n = self.host_int(&v, e.span, word)?;
                    let least = if word == "chunk" { LEAST_CHUNK } else { 1 };
                    // While checking, a number that is not known counts as 1.
                    if n < least && (known || matches!(&v, Value::Int(d) if d.known().is_some())) {
                        return self.error("E0516", e.span, format!("`{word}` must be at least {least}, not {n}"));
                    }
                    if word == "chunk" { spec.chunk = n as usize } else { spec.depth = n as usize }
                }
                "throttle" => {
                    let x = self.host_number(&v, e.span)?;
                    if x <= 0.0 {
                        return self.fail(
                            Diagnostic::error(Code("E0516"), e.span, format!("`throttle` must be positive, not {x}"))
                                .help("bytes a second that are read, and as many that are written: `throttle = 400MiB`"),
                        );
                    }
                    spec.throttle = Some(x);
                }
                _ => return self.unknown_setting(name, "offload", &["weights", "states", "activations", "chunk", "depth", "throttle"]),
            }
        }
        Ok(spec)
    }

    /// `with { checkpoint = …, log = …, offload = … }`, after the block's own words.
    pub(crate) fn override_files(
        &mut self,
        setup: &mut TrainSetup,
        checkpoint: Option<(Value, Span)>,
        log: Option<(Value, Span)>,
        offload: Option<(Value, Span)>,
    ) -> Eval<()> {
        if let Some((v, at)) = checkpoint {
            let folder = self.override_path(v, at, "checkpoint")?;
            let (every, keep) = setup.checkpoint.as_ref().map_or((0, 3), |c| (c.1, c.2));
            setup.checkpoint = folder.map(|folder| (folder, every, keep));
        }
        if let Some((v, at)) = log {
            let path = self.override_path(v, at, "log")?;
            let formats = setup.log.as_ref().map_or_else(|| vec!["csv".to_string()], |l| l.1.clone());
            setup.log = path.map(|path| (path, formats));
        }
        if let Some((v, at)) = offload {
            let folder = self.override_path(v, at, "offload")?;
            let spec = setup.offload.take().unwrap_or_default();
            setup.offload = folder.map(|folder| OffloadSpec { folder, ..spec });
        }
        Ok(())
    }
}
