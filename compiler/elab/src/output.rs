//! What the script shows: `print`, `table`, `plot`, `save`, `check`.

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::{Cell, Chart, Curve, Output};
use crate::scope::Scope;
use crate::value::Value;
use indexmap::{IndexMap, IndexSet};
use optc_abi::Tensor;
use optc_abi::number::shown;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, Name, Stmt, StmtKind};

impl Evaluator<'_> {
    /// Executes an output statement of the script.
    pub(crate) fn output_stmt(&mut self, scope: &mut Scope, stmt: &Stmt) -> Eval {
        if !self.in_script {
            return self.fail(
                Diagnostic::error(Code("E0349"), stmt.span, "this statement belongs to the host script")
                    .help("move it to an `experiment` or `host fn`"),
            );
        }
        match &stmt.kind {
            StmtKind::Output { word, values, options } => match &*word.text {
                "print" => self.print(scope, values, stmt.span)?,
                "table" => self.table(scope, values, stmt.span)?,
                "plot" => self.plot(scope, values, options, stmt.span)?,
                _ => self.save(scope, values, stmt.span)?,
            },
            StmtKind::Check { parts, claim } => self.check_claim(scope, parts, claim.as_ref(), stmt.span)?,
            StmtKind::Sweep { name, domain, body } => {
                self.sweep(scope, name, domain, body)?;
            }
            _ => panic!("compiler bug: not an output statement"),
        }
        Ok(Value::None)
    }

    pub(crate) fn emit(&mut self, output: Output, span: Span) -> Eval<()> {
        match self.host_env(span)?.output(output) {
            Ok(()) => Ok(()),
            Err(d) => self.fail(d),
        }
    }

    fn print(&mut self, scope: &mut Scope, values: &[Expr], span: Span) -> Eval<()> {
        let mut words = Vec::new();
        for e in values {
            let value = self.expr(scope, e)?;
            words.push(self.show(&value, e.span)?);
        }
        if self.mode == Mode::Check {
            return Ok(());
        }
        self.emit(Output::Print(words.join(" ")), span)
    }

    /// A value in words.
    pub(crate) fn show(&mut self, value: &Value, span: Span) -> Eval<String> {
        let list = |ev: &mut Self, items: &[Value], open: &str, close: &str| -> Eval<String> {
            let mut words = Vec::new();
            for v in items {
                words.push(ev.show(v, span)?);
            }
            Ok(format!("{open}{}{close}", words.join(", ")))
        };
        Ok(match value {
            Value::Str(s) => s.to_string(),
            Value::Int(d) => d.to_string(),
            Value::Float(Some(x)) => shown(*x, DIGITS),
            Value::Bool(Some(b)) => b.to_string(),
            Value::DType(d) => d.to_string(),
            Value::Quantized(q) => q.to_string(),
            Value::None => "none".into(),
            Value::Tuple(items) => list(self, items, "(", ")")?,
            Value::List(items) => list(self, items, "[", "]")?,
            Value::Record(fields) => {
                let mut words = Vec::new();
                for (name, v) in fields.iter() {
                    words.push(format!("{name} = {}", self.show(v, span)?));
                }
                format!("{{ {} }}", words.join(", "))
            }
            Value::Series(s) => {
                format!("series of {} values, last {}", s.values.len(), s.values.last().map_or("none".into(), |&x| shown(x, DIGITS)))
            }
            Value::Array(a) if self.mode == Mode::Host => show_tensor(&*self.force(a, span)?),
            Value::Array(_) | Value::Unknown | Value::Float(None) | Value::Bool(None) => "?".into(),
            _ => return self.error("E0333", span, "this value cannot be printed"),
        })
    }

    fn cell(&mut self, value: &Value, span: Span) -> Eval<Cell> {
        Ok(match value {
            Value::Str(s) => Cell::Text(s.to_string()),
            Value::Bool(Some(b)) => Cell::Text(b.to_string()),
            Value::Array(a) if a.shape.is_empty() && self.mode == Mode::Host => Cell::Number(self.force(a, span)?.get_f64(0)),
            Value::Int(_) | Value::Float(_) => Cell::Number(self.host_number(value, span)?),
            other => Cell::Text(self.show(other, span)?),
        })
    }

    fn table(&mut self, scope: &mut Scope, values: &[Expr], span: Span) -> Eval<()> {
        let [e] = values else {
            return self.fail(
                Diagnostic::error(Code("E0535"), span, "`table` takes a record or a list of records")
                    .help("`table { lion = a, adamw = b }`"),
            );
        };
        let value = self.expr(scope, e)?;
        if self.mode == Mode::Check && matches!(value, Value::Record(_) | Value::List(_) | Value::Unknown) {
            return Ok(());
        }
        let rows: Vec<Value> = match &value {
            Value::List(items) => items.to_vec(),
            other => vec![other.clone()],
        };
        let mut columns: IndexSet<String> = IndexSet::new();
        let mut lines: Vec<IndexMap<String, Value>> = Vec::new();
        for row in &rows {
            if !matches!(row, Value::Record(_)) {
                return self.fail(
                    Diagnostic::error(Code("E0535"), e.span, "`table` takes a record or a list of records")
                        .help("`table { lion = a, adamw = b }`"),
                );
            }
            let mut line = IndexMap::new();
            columns_of(row, "", &mut line);
            columns.extend(line.keys().cloned());
            lines.push(line);
        }
        let mut cells = Vec::new();
        for line in &lines {
            let mut row = Vec::new();
            for name in &columns {
                row.push(match line.get(name) {
                    Some(v) => self.cell(v, e.span)?,
                    None => Cell::Text(String::new()),
                });
            }
            cells.push(row);
        }
        let columns = columns.into_iter().collect();
        self.emit(Output::Table(columns, cells), span)
    }

    /// The runs of a curve: series, arrays, or lists of them.
    fn curve(&mut self, value: &Value, x: Option<&[f64]>, span: Span) -> Eval<Vec<Vec<(f64, f64)>>> {
        let values = match value {
            Value::Series(s) if x.is_none() => {
                return Ok(vec![s.steps.iter().map(|&step| step as f64).zip(s.values.iter().copied()).collect()]);
            }
            Value::Series(s) => s.values.clone(),
            Value::List(items) if items.iter().all(|v| matches!(v, Value::Int(_) | Value::Float(_))) => {
                items.iter().map(|v| self.host_number(v, span)).collect::<Eval<_>>()?
            }
            Value::List(items) => {
                let mut runs = Vec::new();
                for v in items.iter() {
                    runs.extend(self.curve(v, x, span)?);
                }
                return Ok(runs);
            }
            other => {
                let array = self.array_of(other, span)?;
                let tensor = self.force(&array, span)?;
                match (tensor.shape.as_slice(), x) {
                    ([] | [_], _) => tensor.to_f64(),
                    // Pairs are points.
                    ([_, 2], None) => return Ok(vec![tensor.to_f64().chunks_exact(2).map(|p| (p[0], p[1])).collect()]),
                    _ => {
                        return self.fail(
                            Diagnostic::error(Code("E0535"), span, "a curve is a series, a one-dimensional array, or an array of pairs")
                                .help("`plot z, heat = true` shows a matrix as a heat map"),
                        );
                    }
                }
            }
        };
        Ok(vec![match x {
            Some(x) if x.len() != values.len() => {
                return self.fail(Diagnostic::error(
                    Code("E0535"),
                    span,
                    format!("`x` has {} elements, but a curve has {}", x.len(), values.len()),
                ));
            }
            Some(x) => x.iter().copied().zip(values).collect(),
            None => values.into_iter().enumerate().map(|(k, y)| (k as f64, y)).collect(),
        }])
    }

    fn plot(&mut self, scope: &mut Scope, values: &[Expr], options: &[(Name, Expr)], span: Span) -> Eval<()> {
        let mut chart = Chart { x_label: "step".to_string(), ..Chart::default() };
        let (mut x_values, mut heat): (Option<Vec<f64>>, bool) = (None, false);
        for (name, e) in options {
            match &*name.text {
                "x" => match &e.kind {
                    ExprKind::Name(n) if scope.get(n).is_none() => chart.x_label = n.to_string(),
                    _ => match self.expr(scope, e)? {
                        Value::Str(s) => chart.x_label = s.to_string(),
                        Value::Unknown => {}
                        other if self.mode == Mode::Host => {
                            let array = self.array_of(&other, e.span)?;
                            x_values = Some(self.force(&array, e.span)?.to_f64());
                            chart.x_label = self.program.sources.slice(e.span).to_string();
                        }
                        _ => {}
                    },
                },
                "y" | "title" => {
                    let v = self.expr(scope, e)?;
                    let text = self.show(&v, e.span)?;
                    *if &*name.text == "y" { &mut chart.y_label } else { &mut chart.title } = text;
                }
                "log_x" | "log_y" | "points" | "heat" => {
                    let v = self.expr(scope, e)?;
                    let on = matches!(v, Value::Bool(Some(true)));
                    match &*name.text {
                        "log_x" => chart.log_x = on,
                        "log_y" => chart.log_y = on,
                        "points" => chart.points = on,
                        _ => heat = on,
                    }
                }
                _ => return self.unknown_setting(name, "plot", &["x", "y", "title", "log_x", "log_y", "points", "heat"]),
            }
        }
        let [e] = values else {
            return self.fail(
                Diagnostic::error(Code("E0535"), span, "`plot` takes a record of curves")
                    .help("`plot { lion = a.loss, adamw = b.loss }, x = step`"),
            );
        };
        let value = self.expr(scope, e)?;
        if self.mode == Mode::Check {
            return Ok(());
        }
        let named: Vec<(String, Value)> = match &value {
            Value::Record(fields) => fields.iter().map(|(n, v)| (n.to_string(), v.clone())).collect(),
            other => vec![(self.program.sources.slice(e.span).to_string(), other.clone())],
        };
        if heat {
            let [(_, matrix)] = named.as_slice() else {
                return self.error("E0535", e.span, "a heat map shows one matrix");
            };
            let array = self.array_of(matrix, e.span)?;
            let tensor = self.force(&array, e.span)?;
            let &[rows, _] = tensor.shape.as_slice() else {
                return self.error(
                    "E0535",
                    e.span,
                    format!("a heat map shows a matrix, not an array of {} dimensions", tensor.shape.len()),
                );
            };
            if options.iter().all(|(n, _)| &*n.text != "x") {
                chart.x_label.clear();
            }
            chart.heat = Some((rows, tensor.to_f64()));
        } else {
            for (name, v) in named {
                chart.curves.push(Curve { name, runs: self.curve(&v, x_values.as_deref(), e.span)? });
            }
        }
        let experiment = self.script.experiment.clone();
        self.emit(Output::Plot { experiment, chart }, span)
    }
}

/// The cells of a row by the names of their columns: a record in a record has columns of its own, `adam.loss`.
fn columns_of(value: &Value, name: &str, out: &mut IndexMap<String, Value>) {
    match value {
        Value::Record(fields) if name.is_empty() || !fields.is_empty() => {
            for (field, v) in fields.iter() {
                columns_of(v, &if name.is_empty() { field.to_string() } else { format!("{name}.{field}") }, out);
            }
        }
        other => {
            out.insert(name.to_string(), other.clone());
        }
    }
}

/// Significant digits of numbers that are printed.
pub(crate) const DIGITS: usize = 6;

/// An array in words: all of a small one, the ends of a large one.
fn show_tensor(t: &Tensor) -> String {
    let element = |i: usize| shown(t.get_f64(i), DIGITS);
    if t.shape.is_empty() {
        return element(0);
    }
    if t.len() > 64 {
        let ends: Vec<String> = (0..3).chain(t.len() - 3..t.len()).map(element).collect();
        return format!("{}{:?}([{}, …, {}])", t.dtype, t.shape, ends[..3].join(", "), ends[3..].join(", "));
    }
    fn go(shape: &[usize], at: &mut usize, element: &dyn Fn(usize) -> String) -> String {
        match shape {
            [] => {
                *at += 1;
                element(*at - 1)
            }
            [n, rest @ ..] => format!("[{}]", (0..*n).map(|_| go(rest, at, element)).collect::<Vec<_>>().join(", ")),
        }
    }
    go(&t.shape, &mut 0, &element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_in_words() {
        assert_eq!(show_tensor(&Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.5])), "[[1, 2], [3, 4.5]]");
    }
}
