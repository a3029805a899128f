//! Data sources: built-in functions that read files (`csv`, `images`, …) or make examples (`generate`), and what is known of what they give
//! (`chars.vocab`, `shots.labels`).

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::{Fact, Loaded, SourceRequest};
use crate::scope::Scope;
use crate::value::{CallArg, Value};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, For, LetKind, Name, Pattern, PatternKind, Stmt, StmtKind};
use optc_ir::NodeId;
use optc_ops::{Array, Dim};
use rustc_hash::FxHashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A source that reads files, as far as it is known without the file.
struct Known {
    name: &'static str,
    gives: Gives,
    /// What else is known of its array.
    facts: &'static [&'static str],
}

enum Gives {
    /// An array of this element type with the number of examples and so many further dimensions.
    Array(DType, usize),
    /// An array that the file describes.
    Any,
    /// Arrays by name; one of them if it is named.
    Named,
}

const FILES: &[Known] = &[
    Known { name: "csv", gives: Gives::Array(DType::F32, 1), facts: &[] },
    Known { name: "idx", gives: Gives::Any, facts: &[] },
    Known { name: "npy", gives: Gives::Any, facts: &[] },
    Known { name: "npz", gives: Gives::Named, facts: &[] },
    Known { name: "safetensors", gives: Gives::Named, facts: &[] },
    Known { name: "text", gives: Gives::Array(DType::I32, 0), facts: &["vocab", "chars"] },
    Known { name: "images", gives: Gives::Array(DType::U8, 3), facts: &["labels", "classes"] },
    Known { name: "wav", gives: Gives::Array(DType::F32, 1), facts: &["rate"] },
];

/// The name of the source that makes its examples.
const GENERATE: &str = "generate";

/// Whether a data source has this name.
pub fn is_source(name: &str) -> bool {
    name == GENERATE || FILES.iter().any(|k| k.name == name)
}

/// What is known of the arrays that sources gave, by how they are recognized.
#[derive(Default)]
pub struct SourceFacts {
    /// While checking: the symbol of the number of examples, and the source.
    checked: Vec<(Dim, &'static Known)>,
    /// When running: the node of the array, and its facts.
    loaded: FxHashMap<NodeId, Arc<Facts>>,
}

type Facts = IndexMap<Arc<str>, Fact>;

impl SourceFacts {
    /// While checking: the source that gave an array, known by its number of examples.
    fn checked(&self, array: &Array) -> Option<&'static Known> {
        let rows = array.shape.first()?;
        self.checked.iter().find(|(symbol, _)| symbol == rows).map(|(_, known)| *known)
    }
}

impl Evaluator<'_> {
    /// A call of a data source.
    pub fn source(&mut self, scope: &mut Scope, kind: &str, args: Vec<CallArg>, span: Span) -> Eval {
        if kind == GENERATE {
            return self.generate(scope, args, span);
        }
        let known = FILES.iter().find(|k| k.name == kind).expect("a source is called by its name");
        let named = matches!(known.gives, Gives::Named);
        let text = |value: Option<&CallArg>| match value.map(|a| &a.value) {
            Some(Value::Str(s)) => Some(s.clone()),
            Some(Value::Unknown) => Some(Arc::from("")),
            _ => None,
        };
        let entry = args.get(1).filter(|_| named);
        let (path, entry) = match (text(args.first()), text(entry), args.len()) {
            (Some(path), None, 1) => (path, None),
            (Some(path), Some(entry), 2) => (path, Some(entry)),
            _ => {
                let what = if matches!(kind, "images") { "a folder" } else { "a file" };
                let d = Diagnostic::error(Code("E0515"), span, format!("`{kind}` needs the path of {what}"));
                return self.fail(match named {
                    true => d.help(format!("`{kind}(\"data/file\").name`, or `{kind}(\"data/file\", \"name\")` for one array")),
                    false => d.help(format!("`{kind}(\"data/file\")`")),
                });
            }
        };
        if self.mode == Mode::Check {
            return Ok(self.checked_source(known));
        }
        let from = self.program.module(scope.module).name.clone();
        let request = SourceRequest { kind: Arc::from(kind), path: path.clone(), from, span };
        let loaded = match self.host_env(span)?.load(&request) {
            Ok(l) => l,
            Err(d) => return self.fail(d),
        };
        match (loaded, entry) {
            (Loaded::Array { array, facts }, _) => {
                let array = self.literal(array);
                if let Some((_, node)) = array.node {
                    self.script.sources.loaded.insert(node, facts);
                }
                Ok(Value::Array(array))
            }
            (Loaded::Arrays(arrays, tree), None) => Ok(self.loaded_tree(&arrays, tree.as_deref())),
            (Loaded::Arrays(arrays, _), Some(entry)) => match arrays.get(&entry) {
                Some(t) => Ok(Value::Array(self.literal(t.clone()))),
                None => {
                    let d = Diagnostic::error(Code("E0515"), span, format!("`{path}` has no array `{entry}`"));
                    self.fail(match crate::names::nearest(&entry, arrays.keys().map(|k| &**k)) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d.help(format!("it has {}", arrays.keys().map(|k| &**k).collect::<Vec<_>>().join(", "))),
                    })
                }
            },
        }
    }

    /// What a source gives, while its file is not looked at.
    fn checked_source(&mut self, known: &'static Known) -> Value {
        let Gives::Array(dtype, further) = known.gives else { return Value::Unknown };
        let examples = self.cx.fresh_symbol("N");
        let mut shape = vec![examples.clone()];
        shape.extend((0..further).map(|_| self.cx.fresh_symbol("?")));
        if !known.facts.is_empty() {
            self.script.sources.checked.push((examples, known));
        }
        Value::Array(Array { dtype, shape, weak: false, node: None })
    }

    /// `chars.vocab`: what is known of an array that a source gave; `None` if no source with facts gave it.
    pub(crate) fn source_fact(&mut self, array: &Array, name: &Name) -> Eval<Option<Value>> {
        let sources = &self.script.sources;
        let (found, names) = if let Some((_, node)) = array.node {
            let Some(facts) = sources.loaded.get(&node).cloned().filter(|f| !f.is_empty()) else { return Ok(None) };
            let value = facts.get(&name.text).map(|fact| match fact {
                Fact::Number(n) => Value::Int((*n).into()),
                Fact::Names(names) => Value::List(Rc::new(names.iter().map(|n| Value::Str(Arc::from(n.as_str()))).collect())),
                Fact::Array(t) => Value::Array(self.literal(t.clone())),
            });
            (value, facts.keys().map(|k| k.to_string()).collect::<Vec<_>>())
        } else {
            let Some(known) = sources.checked(array) else { return Ok(None) };
            let value = known.facts.contains(&&*name.text).then(|| match &*name.text {
                "labels" => Value::Array(Array { dtype: DType::I32, shape: array.shape[..1].to_vec(), weak: false, node: None }),
                _ => Value::Unknown,
            });
            (value, known.facts.iter().map(|f| f.to_string()).collect())
        };
        if found.is_none() {
            let d = Diagnostic::error(Code("E0224"), name.span, format!("this source's array has no `{}`", name.text));
            return self.fail(d.help(format!("it has {}", names.join(" and "))));
        }
        Ok(found)
    }

    /// `chars.decode(ids)` of a text source; `None` for any other array.
    pub(crate) fn decode(&mut self, text: &Array, args: &[CallArg], span: Span) -> Eval<Option<Value>> {
        let chars = Name { text: Arc::from("chars"), span };
        let is_text = match text.node {
            Some((_, node)) => self.script.sources.loaded.get(&node).is_some_and(|f| f.contains_key(&chars.text)),
            None => self.script.sources.checked(text).is_some_and(|known| known.facts.contains(&&*chars.text)),
        };
        if !is_text {
            return Ok(None);
        }
        let [ids] = args else { return self.error("E0331", span, "`decode` takes an array of indices") };
        let ids_array = self.array_of(&ids.value, ids.span)?;
        if self.mode == Mode::Check {
            return Ok(Some(Value::Unknown));
        }
        let Some(Value::List(vocabulary)) = self.source_fact(text, &chars)? else { return Ok(None) };
        let tensor = self.force(&ids_array, ids.span)?;
        let mut out = String::new();
        for i in 0..tensor.len() {
            let id = tensor.get_f64(i);
            match vocabulary.get(id as usize) {
                Some(Value::Str(c)) if id >= 0.0 => out.push_str(c),
                _ => {
                    return self.error("E0403", ids.span, format!("index {id} is outside a vocabulary of {} characters", vocabulary.len()));
                }
            }
        }
        Ok(Some(Value::Str(Arc::from(out))))
    }

    /// `generate(n) { i -> … }`: a counted loop that stacks what the function returns.
    fn generate(&mut self, scope: &mut Scope, args: Vec<CallArg>, span: Span) -> Eval {
        let [n, f] = args.as_slice() else {
            return self.fail(
                Diagnostic::error(Code("E0515"), span, "`generate` needs a number and a function")
                    .help("`generate(100) { i -> [i / 100] }`"),
            );
        };
        let mut inner = Scope::new(scope.module);
        let (n_name, f_name): (Arc<str>, Arc<str>) = (Arc::from("generate.n"), Arc::from("generate.f"));
        inner.bind(n_name.clone(), n.value.clone(), LetKind::Let, n.span);
        inner.bind(f_name.clone(), f.value.clone(), LetKind::Let, f.span);
        // No expression of a file has an id from this end.
        let id = optc_front::ast::ExprId(u32::MAX - span.start);
        let e = |kind| Expr { kind, span, id };
        let i: Arc<str> = Arc::from("i");
        let call = e(ExprKind::Call {
            callee: optc_front::Sub::new(e(ExprKind::Name(f_name))),
            args: vec![optc_front::ast::Arg { name: None, value: e(ExprKind::Name(i.clone())) }],
        });
        let body = optc_front::ast::Block { stmts: vec![Stmt { kind: StmtKind::Yield(call), span }], span };
        let range = e(ExprKind::Range(optc_front::Sub::new(e(ExprKind::Int(0))), optc_front::Sub::new(e(ExprKind::Name(n_name)))));
        let pattern = Pattern { kind: PatternKind::Name(i), span };
        let expr = e(ExprKind::For(Box::new(For { pattern, enumerate: false, iter: range, body })));
        let mode = self.mode;
        self.mode = if mode == Mode::Host { Mode::Lower } else { mode };
        let result = self.expr(&mut inner, &expr);
        self.mode = mode;
        result
    }
}
