//! `einsum` by way of index notation.

use crate::args::Args;
use crate::cx::Cx;
use crate::error::{OpError, Res};
use crate::ixpr::{IxExpr, IxId, IxKind, IxLeft, IxVar};
use crate::value::Val;
use optc_base::Span;
use std::sync::Arc;

/// `einsum("ij,jk->ik", a, b)`: letters name axes, repeated ones are summed over, `...` stands for leading axes. Without `->` the letters that occur once are kept, in
/// alphabetical order (NumPy's rule).
pub(crate) fn einsum(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let spec: String = args.text("spec", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let span = args.span("spec").unwrap_or_default();
    let bad =
        |why: String| OpError::new("E0407", format!("`einsum` of \"{spec}\": {why}")).at(span, "").help("write it as `\"ij,jk->ik\"`");
    let (inputs, output) = match spec.split_once("->") {
        Some((i, o)) => (i, Some(o)),
        None => (spec.as_str(), None),
    };
    let terms: Vec<&str> = inputs.split(',').collect();
    if terms.len() != args.rest.len() {
        return Err(bad(format!("{} terms for {} arrays", terms.len(), args.rest.len())));
    }
    let parse = |term: &str| -> Res<(bool, Vec<char>)> {
        let (dots, letters) = match term.strip_prefix("...") {
            Some(rest) => (true, rest),
            None => (false, term),
        };
        match letters.chars().find(|c| !c.is_alphabetic()) {
            Some(c) => Err(bad(format!("`{c}` is not a letter"))),
            None => Ok((dots, letters.chars().collect())),
        }
    };
    let id = |c: char| IxId(c as u32);
    let expr = |kind: IxKind| IxExpr { kind, span };
    let (mut factors, mut letters, mut any_dots) = (Vec::new(), Vec::new(), false);
    for (term, arg) in terms.iter().zip(&args.rest) {
        let (dots, names) = parse(term)?;
        any_dots |= dots;
        let base = match crate::arith::listed(cx, &arg.value)? {
            v @ Val::Array(_) => v,
            v => {
                return Err(
                    OpError::new("E0302", format!("`einsum` needs arrays, not {}", crate::show::kind(&v))).at(arg.span, "not an array")
                );
            }
        };
        if let Val::Array(a) = &base
            && (names.len() > a.shape.len() || (!dots && names.len() < a.shape.len()))
        {
            let (named, has) = (names.len(), a.shape.len());
            let has = if has == 1 { "1 axis".to_string() } else { format!("{has} axes") };
            let named = if named == 1 { "1 letter".to_string() } else { format!("{named} letters") };
            return Err(bad(format!("`{term}` has {named}, its array {has}")).label(arg.span, "this array"));
        }
        let mut subscripts: Vec<Option<IxExpr>> = Vec::new();
        if dots {
            subscripts.push(None);
        }
        subscripts.extend(names.iter().map(|&c| Some(expr(IxKind::Index(id(c))))));
        letters.extend(names);
        factors.push(expr(IxKind::Access { base, subscripts }));
    }
    let (out_dots, out) = match output {
        Some(o) => parse(o)?,
        None => {
            let mut once: Vec<char> = letters.iter().copied().filter(|c| letters.iter().filter(|d| *d == c).count() == 1).collect();
            once.sort_unstable();
            (any_dots, once)
        }
    };
    if let Some(c) = out.iter().find(|c| !letters.contains(c)) {
        return Err(bad(format!("`{c}` of the result is in no term")));
    }
    if any_dots && !out_dots {
        return Err(bad("`...` is missing in the result".into()));
    }
    let var = |c: char| IxVar { id: id(c), name: Arc::from(c.to_string()), extent: None, span };
    let mut summed: Vec<char> = Vec::new();
    for &c in &letters {
        if !out.contains(&c) && !summed.contains(&c) {
            summed.push(c);
        }
    }
    let mut factors = factors.into_iter();
    let Some(first) = factors.next() else { return Err(bad("there is nothing to multiply".into())) };
    let mut body = factors.fold(first, |a, b| expr(IxKind::Apply { op: "mul", args: vec![a, b] }));
    if !summed.is_empty() {
        body = expr(IxKind::Reduce { op: Arc::from("sum"), indices: summed.into_iter().map(var).collect(), body: Box::new(body) });
    }
    let mut left: Vec<IxLeft> = Vec::new();
    if out_dots && any_dots {
        left.push(IxLeft::Ellipsis(Span::default()));
    }
    left.extend(out.iter().map(|&c| IxLeft::Var(var(c))));
    crate::notation::indexed(cx, &left, &body)
}
