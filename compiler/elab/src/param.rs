//! `param` and `buffer`: leaves of a model's tree, drawn or looked up.

use crate::evaluator::{Eval, Evaluator};
use crate::model::{ParamCx, ParamLeaf, ParamMode, at_path};
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, LetKind, Name, Type};
use optc_ops::Array;

impl Evaluator<'_> {
    /// `param name: type …` and `buffer name: type …`.
    pub(crate) fn param(
        &mut self,
        scope: &mut Scope,
        name: &Name,
        ty: &Type,
        draws: bool,
        init: &Expr,
        buffer: bool,
        span: Span,
    ) -> Eval<()> {
        let Some(cx) = &self.params else {
            let word = if buffer { "buffer" } else { "param" };
            return self.fail(
                Diagnostic::error(Code("E0342"), span, format!("`{word}` stands in a function that is no model or layer"))
                    .help("declare the function with `layer` or `model`, or pass the array as an argument"),
            );
        };
        let path = cx.leaf_path(&name.text);
        let labeled = cx.labeled(&path);
        let frozen = !buffer && cx.frozen.iter().any(|pattern| crate::arith::glob(pattern, &path));
        let mode = match &cx.mode {
            ParamMode::Apply(tree) => Some(at_path(tree, &path)),
            ParamMode::Init(leaves) => match leaves.iter().find(|l| l.path == path) {
                Some(leaf) if cx.reuse || leaf.span != span => {
                    let (leaf, reuse) = (leaf.clone(), cx.reuse);
                    if !reuse {
                        return self.same_path(&path, &leaf, span);
                    }
                    Some(Some(Value::Array(leaf.array)))
                }
                Some(leaf) => {
                    let leaf = leaf.clone();
                    return self.same_path(&path, &leaf, span);
                }
                None => None,
            },
        };
        // Parameters are kept, and drawn, in f32 where the model computes in a narrower precision.
        let kept = self.cx.kept();
        let (dtype, shape) = self.with_float(kept, |ev| ev.array_spec(scope, ty))?;
        let found = match mode {
            Some(Some(found)) => Some(found),
            Some(None) => {
                return self.fail(
                    Diagnostic::error(Code("E0425"), span, format!("the parameters given have no leaf `{path}`"))
                        .help("`init` makes a tree with all leaves of a model"),
                );
            }
            None => None,
        };
        let array = match found {
            Some(Value::Unknown) => Array { dtype, shape: shape.clone(), weak: false, node: None },
            Some(value) => {
                let updated = self.recorder.buffers.as_ref().and_then(|b| b.get(&labeled)).cloned();
                let array = match updated {
                    Some(a) if buffer => a,
                    _ => self.array_of(&value, span)?,
                };
                if buffer && self.recorder.buffers.is_some() {
                    self.recorder.seen.insert(labeled.clone(), array.clone());
                }
                let fits =
                    array.shape.len() == shape.len() && !array.shape.iter().zip(&shape).any(|(a, b)| a.fit(b) == optc_ops::Fit::Different);
                if fits {
                    array
                } else if buffer {
                    // A buffer whose shape depends on the input starts anew when that changes.
                    self.with_float(kept, |ev| ev.initial(scope, ty, dtype, &shape, draws, init, &path, buffer))?
                } else {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0420"),
                            span,
                            format!(
                                "the leaf `{path}` is {}, but the model declares {}{}",
                                describe(&Value::Array(array)),
                                dtype,
                                crate::tree::shape_text(&shape)
                            ),
                        )
                        .label(ty.span, "declared here"),
                    );
                }
            }
            None => {
                if self.params.as_ref().is_some_and(|cx| cx.depth != self.depth) && !self.checking() {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0710"),
                            span,
                            "parameters that are first met inside a differentiated function are not yet supported",
                        )
                        .help("make the tree with `init` outside, and bind it with `.with(p)` inside"),
                    );
                }
                let array = self.with_float(kept, |ev| ev.initial(scope, ty, dtype, &shape, draws, init, &path, buffer))?;
                let leaf = ParamLeaf {
                    path: path.clone(),
                    array: array.clone(),
                    buffer,
                    frozen,
                    span,
                    call: self.frames.last().map_or(span, |f| f.span),
                };
                if let Some(ParamCx { mode: ParamMode::Init(leaves), .. }) = &mut self.params {
                    leaves.push(leaf);
                }
                array
            }
        };
        if buffer {
            self.instance.buffers.push((name.text.clone(), labeled));
        }
        let array = if frozen { self.stopped(&array, span) } else { array };
        let array = if array.dtype == kept { self.cast_array(&array, self.cx.float) } else { array };
        let kind = if buffer { LetKind::Var } else { LetKind::Let };
        scope.bind(name.text.clone(), Value::Array(array), kind, name.span);
        Ok(())
    }
    fn same_path(&mut self, path: &str, first: &ParamLeaf, span: Span) -> Eval<()> {
        // Two calls of one layer, or two declarations in one body.
        let call = self.frames.last().map_or(span, |f| f.span);
        let (at, before) = if call == first.call { (span, first.span) } else { (call, first.call) };
        self.fail(
            Diagnostic::error(Code("E0345"), at, format!("two parameters have the path `{path}`"))
                .label(before, "the first one is made here")
                .help("give the calls of the layer names: `linear(x, 10) as head`, or make one instance with `shared`"),
        )
    }
    /// The initial value of a parameter.
    fn initial(
        &mut self,
        scope: &Scope,
        ty: &Type,
        dtype: optc_abi::DType,
        shape: &[optc_ops::Dim],
        draws: bool,
        init: &Expr,
        path: &str,
        buffer: bool,
    ) -> Eval<Array> {
        let saved = (self.key.clone(), std::mem::take(&mut self.counters), self.draw_shape.take(), self.instance.place);
        if self.cx.emitting() {
            let key = self.current_key();
            let hash = crate::rng::text_hash(path);
            self.key = Some(self.key_fold(&key, &Value::Int(((hash >> 32) as i64).into()), hash as u32));
            self.instance.place = hash;
        }
        if draws {
            self.draw_shape = Some((shape.to_vec(), dtype));
        }
        let params = self.params.take();
        let mut inner = scope.clone();
        let value = self.expr(&mut inner, init);
        self.params = params;
        (self.key, self.counters, self.draw_shape, self.instance.place) = saved;
        let value = value?;
        if matches!(value, Value::Unknown) {
            return Ok(Array { dtype, shape: shape.to_vec(), weak: false, node: None });
        }
        let word = if buffer { "buffer" } else { "parameter" };
        let val = self.val_of(&value, init.span)?;
        self.cx.at(init.span);
        let array = match optc_ops::materialize(&mut self.cx, &val, None) {
            Ok(a) => a,
            Err(e) => return self.fail(e.diagnostic(init.span)),
        };
        let array = if array.dtype == dtype {
            array
        } else {
            match self.cast(&Value::Array(array), dtype, init.span)? {
                Value::Array(a) => a,
                _ => return self.error("E0333", init.span, "the initial value is no array"),
            }
        };
        match optc_ops::broadcast_to(&mut self.cx, &array, shape) {
            Ok(a) => Ok(a),
            Err(_) => self.fail(
                Diagnostic::error(
                    Code("E0423"),
                    init.span,
                    format!(
                        "the initial value has shape {}, but the {word} is declared {}",
                        crate::tree::shape_text(&array.shape),
                        crate::tree::shape_text(shape)
                    ),
                )
                .at(crate::tree::array_type(&array))
                .label(ty.span, "declared here")
                .help("a draw without a shape takes the one declared: `~ random.normal()`"),
            ),
        }
    }
    /// After an update: if the variable is a buffer of the layer at hand, its new value is recorded.
    pub(crate) fn record_buffer(&mut self, scope: &Scope, name: &str) {
        let Some((_, path)) = self.instance.buffers.iter().rev().find(|(n, _)| &**n == name).cloned() else { return };
        let Some(Value::Array(a)) = scope.get(name).map(|b| b.value.clone()) else { return };
        let a = if a.dtype == self.cx.float { self.cast_array(&a, self.cx.kept()) } else { a };
        if let Some(buffers) = &mut self.recorder.buffers {
            buffers.insert(path, a);
        }
    }
}
