//! Storage of states: written types, and block-quantized arrays as codes and scales.

use super::*;
use crate::tree::describe;
use optc_front::ast::Arg;
use optc_ops::quantize::{dequantize, quantize};

/// The most elements of a block, and the fewest.
const BLOCKS: std::ops::RangeInclusive<i64> = 16..=65536;
/// Elements of a block where nothing else is said.
const BLOCK: i64 = 256;

impl Evaluator<'_> {
    /// `q8(block = 256, signed = true, rounding = nearest)`, in a state's type or as a value.
    pub(crate) fn quantized(&mut self, scope: &mut Scope, args: &[Arg], span: Span) -> Eval {
        let mut q = Quantized { block: BLOCK as usize, signed: true, stochastic: false };
        let mut known = true;
        let mut seen: Vec<&str> = Vec::new();
        for (k, arg) in args.iter().enumerate() {
            let name = match &arg.name {
                Some(name) => &*name.text,
                None if k == 0 => "block",
                None => return self.quantized_form(arg.value.span, "only the size of a block may stand without its name"),
            };
            if seen.contains(&name) {
                return self.quantized_form(arg.value.span, &format!("`{name}` is given twice"));
            }
            seen.push(name);
            match name {
                "block" => match self.expr(scope, &arg.value)? {
                    Value::Int(d) => match d.known() {
                        Some(n) if BLOCKS.contains(&n) => q.block = n as usize,
                        Some(n) => {
                            let (low, high) = (BLOCKS.start(), BLOCKS.end());
                            return self.quantized_form(arg.value.span, &format!("a block has {low} to {high} elements, not {n}"));
                        }
                        None => known = false,
                    },
                    Value::Unknown => known = false,
                    other => {
                        let what = describe(&other);
                        return self.quantized_form(arg.value.span, &format!("`block` is a compile-time integer, this is {what}"));
                    }
                },
                "signed" => match self.expr(scope, &arg.value)? {
                    Value::Bool(Some(b)) => q.signed = b,
                    Value::Bool(None) | Value::Unknown => known = false,
                    other => {
                        let what = describe(&other);
                        return self.quantized_form(arg.value.span, &format!("`signed` is `true` or `false`, this is {what}"));
                    }
                },
                "rounding" => match self.rounding(scope, &arg.value)? {
                    Some(stochastic) => q.stochastic = stochastic,
                    None => known = false,
                },
                other => return self.quantized_form(arg.name.as_ref().map_or(span, |n| n.span), &format!("`q8` has no `{other}`")),
            }
        }
        Ok(if known { Value::Quantized(q) } else { Value::Unknown })
    }

    /// `nearest` or `stochastic`, a word or (from a parameter) a string; whether the latter.
    fn rounding(&mut self, scope: &mut Scope, e: &Expr) -> Eval<Option<bool>> {
        let word = match &e.kind {
            ExprKind::Name(n) if scope.get(n).is_none() && matches!(&**n, "nearest" | "stochastic") => n.clone(),
            _ => match self.expr(scope, e)? {
                Value::Str(s) => s,
                Value::Unknown => return Ok(None),
                other => Arc::from(describe(&other)),
            },
        };
        match &*word {
            "nearest" => Ok(Some(false)),
            "stochastic" => Ok(Some(true)),
            other => {
                let message = format!("`rounding` is `nearest` or `stochastic`, this is {other}");
                self.quantized_form(e.span, &message)
            }
        }
    }

    fn quantized_form<T>(&mut self, span: Span, message: &str) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0351"), span, message.to_string())
                .help("`q8(block = 256)`; `signed = false` for numbers that are never negative; `rounding = stochastic` rounds at random, exact in the mean"),
        )
    }

    /// The storage and shape a state's type asks for; `...` is the leaf's shape.
    pub(super) fn state_type(&mut self, scope: &mut Scope, ty: &optc_front::ast::Type, w: &Array) -> Eval<(Storage, Vec<Dim>)> {
        use optc_front::ast::{DimExpr, ElemType};
        if let TypeKind::Bool = &ty.kind {
            return Ok((Storage::Plain(DType::Bool), Vec::new()));
        }
        let TypeKind::Array { elem, dims } = &ty.kind else {
            return self.fail(Diagnostic::error(Code("E0351"), ty.span, "the type of a state is an element type with dimensions"));
        };
        let storage = match elem {
            ElemType::Concrete(d) => Storage::Plain(self.cx.written(*d)),
            ElemType::Float => Storage::Plain(compute_type(w.dtype)),
            ElemType::Named(n) => match scope.get(&n.text).map(|b| b.value.clone()) {
                Some(Value::DType(d)) => Storage::Plain(d),
                Some(Value::Quantized(q)) => Storage::Blocks(q),
                Some(Value::Unknown) => Storage::Plain(self.cx.float),
                _ => {
                    return self.fail(
                        Diagnostic::error(Code("E0351"), n.span, format!("`{}` is not an element type", n.text))
                            .help("declare the parameter as `name: type = f32`"),
                    );
                }
            },
            ElemType::Quantized(args) => match self.quantized(scope, args, ty.span)? {
                Value::Quantized(q) => Storage::Blocks(q),
                _ => Storage::Plain(self.cx.float),
            },
        };
        let mut shape = Vec::new();
        for dim in dims.iter().flatten() {
            match dim {
                DimExpr::Ellipsis(_) => shape.extend(w.shape.iter().cloned()),
                DimExpr::Expr(e) => {
                    let value = self.expr(scope, e)?;
                    match value {
                        Value::Int(d) => shape.push(d),
                        Value::Unknown => shape.push(self.cx.fresh_symbol("?")),
                        _ => return self.fail(Diagnostic::error(Code("E0344"), e.span, "a dimension must be a compile-time integer")),
                    }
                }
            }
        }
        Ok((storage, shape))
    }

    /// The slots of an array of a state: names and what they hold.
    pub(super) fn slots_of(&mut self, part: &StatePart, value: &Array, draws: Option<Span>) -> Vec<(String, Array)> {
        match part.storage {
            Storage::Plain(dtype) => vec![(part.name.clone(), self.cast_array(value, dtype))],
            Storage::Blocks(q) => {
                let stored = self.coded(&q, part, value, draws);
                vec![(format!("{}.codes", part.name), stored.codes), (format!("{}.scales", part.name), stored.scales)]
            }
        }
    }

    /// What bodies see of the slots of an array of a state; `None` while there are no slots.
    pub(super) fn read_slots(&mut self, part: &StatePart) -> Option<Array> {
        let states = &self.opt_run().states;
        match part.storage {
            Storage::Plain(_) => {
                let array = states.get(&part.name)?.clone();
                Some(self.cast_array(&array, part.seen))
            }
            Storage::Blocks(q) => {
                let (codes, scales) = (states.get(&format!("{}.codes", part.name))?, states.get(&format!("{}.scales", part.name))?);
                let stored = Stored { codes: codes.clone(), scales: scales.clone() };
                Some(self.decoded(&q, part, stored))
            }
        }
    }

    /// A value as it is read again once it has been stored.
    pub(super) fn as_stored(&mut self, part: &StatePart, value: &Array, draws: Span) -> Array {
        match part.storage {
            Storage::Plain(dtype) if dtype == part.seen => value.clone(),
            Storage::Plain(dtype) => {
                let stored = self.cast_array(value, dtype);
                self.cast_array(&stored, part.seen)
            }
            Storage::Blocks(_) if self.opt_run().body.coded.iter().any(|(a, _)| a == value) => value.clone(),
            Storage::Blocks(q) => {
                let stored = self.coded(&q, part, value, Some(draws));
                self.decoded(&q, part, stored)
            }
        }
    }

    /// Codes and scales of a value; those it was read from, if it was read from some.
    fn coded(&mut self, q: &Quantized, part: &StatePart, value: &Array, draws: Option<Span>) -> Stored {
        if let Some((_, stored)) = self.opt_run().body.coded.iter().find(|(a, _)| a == value && a.node.is_some()) {
            return stored.clone();
        }
        let key = draws.filter(|_| q.stochastic).map(|span| {
            let key = self.draw_key(span);
            self.key_fold(&key, &Value::Int(Dim::from(0i64)), crate::rng::text_hash(&part.name) as u32)
        });
        quantize(&mut self.cx, q, value, key.as_ref())
    }

    fn decoded(&mut self, q: &Quantized, part: &StatePart, stored: Stored) -> Array {
        let array = dequantize(&mut self.cx, q, &stored, &part.shape);
        let array = self.cast_array(&array, part.seen);
        self.opt_run().body.coded.push((array.clone(), stored));
        array
    }
}
