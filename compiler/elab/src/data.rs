//! Data blocks: evaluated by the host into tables of fields with one leading example axis, and cut into splits.

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::DataTable;
use crate::value::{BlockValue, Value};
use indexmap::IndexMap;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BlockEntry, BlockItem, BlockKind, ItemKind, LetKind, Name, Setting};
use optc_ops::Array;
use std::rc::Rc;
use std::sync::Arc;

/// What is known of a data block while checking: fields as arrays with a symbolic number of examples.
#[derive(Clone, Debug)]
pub struct CheckedData {
    /// Fields.
    pub fields: IndexMap<Arc<str>, Value>,
    /// Names of splits.
    pub splits: Vec<Arc<str>>,
}

impl Evaluator<'_> {
    /// The `data` item a value stands for.
    fn data_item(&mut self, block: &BlockValue, span: Span) -> Eval<Arc<BlockItem>> {
        match &self.program.item(block.item).kind {
            ItemKind::Block(b) if b.kind == BlockKind::Data => Ok(b.clone()),
            _ => {
                let name = self.program.item(block.item).name().map_or(String::new(), |n| n.text.to_string());
                self.fail(
                    Diagnostic::error(Code("E0510"), span, format!("`{name}` is not a data block"))
                        .help("declare it with `data name { … }`"),
                )
            }
        }
    }

    /// Evaluates a data block (host script) and takes the split asked for. Each block is loaded once per set of arguments.
    pub fn load_data(&mut self, block: &BlockValue, span: Span) -> Eval<Rc<DataTable>> {
        // Data are what the file says, whatever the precision of the place that asks.
        let whole = self.with_float(DType::F32, |ev| ev.load_whole(block, span))?;
        let Some(split) = &block.split else { return Ok(whole) };
        let Some(rows) = whole.splits.get(split) else { return self.no_split(&whole.name, split, whole.splits.keys(), span) };
        Ok(Rc::new(DataTable {
            name: format!("{}.{split}", whole.name),
            fields: whole.fields.clone(),
            splits: IndexMap::new(),
            rows: Some(rows.clone()),
        }))
    }

    fn no_split<'a, T>(&mut self, data: &str, split: &str, splits: impl Iterator<Item = &'a Arc<str>>, span: Span) -> Eval<T> {
        let names: Vec<&str> = splits.map(|s| &**s).collect();
        let d = Diagnostic::error(Code("E0511"), span, format!("`{data}` has no field or split `{split}`"));
        self.fail(if names.is_empty() {
            d.help("give it splits: `split train = 0.8, test = 0.2, seed = 0`")
        } else {
            d.help(format!("its splits are {}", names.join(", ")))
        })
    }

    fn load_whole(&mut self, block: &BlockValue, span: Span) -> Eval<Rc<DataTable>> {
        let key = format!("{:?} {:?}", block.item, block.args.iter().map(|a| (&a.name, &a.value)).collect::<Vec<_>>());
        if let Some(table) = self.script.tables.get(&key) {
            return Ok(table.clone());
        }
        let item = self.data_item(block, span)?;
        // Loaded once, so what is drawn depends on the block alone, not on who asks first.
        let place = crate::rng::text_hash(&item.name.text);
        let (fields, setting) = self.isolated(place, None, |ev| ev.data_fields(&item, block, span))?;
        let mut table = DataTable { name: item.name.text.to_string(), ..DataTable::default() };
        let mut first: Option<(Arc<str>, usize)> = None;
        for (name, value, at) in fields {
            let Value::Array(array) = &value else {
                return self.fail(
                    Diagnostic::error(Code("E0512"), at, format!("field `{name}` is not an array"))
                        .help("a field is an array with one leading example axis; use `let` for other values"),
                );
            };
            let tensor = self.force(array, at)?;
            let Some(&rows) = tensor.shape.first() else {
                return self.fail(Diagnostic::error(Code("E0512"), at, format!("field `{name}` is a scalar: it has no example axis")));
            };
            match &first {
                Some((other, n)) if *n != rows => {
                    return self.fail(
                        Diagnostic::error(Code("E0513"), at, format!("field `{name}` has {rows} examples, but `{other}` has {n}"))
                            .help("all fields of a data block have the same number of examples along their first axis"),
                    );
                }
                _ => first = first.or(Some((name.clone(), rows))),
            }
            table.fields.insert(name, tensor);
        }
        let n = first.map_or(0, |(_, n)| n);
        if let Some(setting) = setting {
            let (names, fractions, seed) = self.split_setting(&item, block, &setting)?;
            let parts = self.host_env(span)?.split(n, &fractions, seed);
            table.splits = names.into_iter().zip(parts.into_iter().map(Arc::new)).collect();
        }
        let table = Rc::new(table);
        self.script.tables.insert(key, table.clone());
        Ok(table)
    }

    /// Evaluates the entries of a data block; also its `split` setting, unevaluated.
    fn data_fields(&mut self, item: &BlockItem, block: &BlockValue, span: Span) -> Eval<(Vec<(Arc<str>, Value, Span)>, Option<Setting>)> {
        let mut scope = self.bind_block_params(block.item.module, &item.name, &item.params, &block.args, span)?;
        scope.push();
        let mut fields = Vec::new();
        let mut split = None;
        for entry in &item.entries {
            match entry {
                BlockEntry::Let { pattern, value, .. } => {
                    let value = self.expr(&mut scope, value)?;
                    self.bind_pattern(&mut scope, pattern, value, LetKind::Let)?;
                }
                BlockEntry::Field { name, value } => {
                    let v = match self.expr(&mut scope, value)? {
                        // Numbers in brackets are an array here.
                        list @ Value::List(_) if crate::tree::is_arrayish(&list) => Value::Array(self.array_of(&list, value.span)?),
                        other => other,
                    };
                    scope.bind(name.text.clone(), v.clone(), LetKind::Let, name.span);
                    fields.push((name.text.clone(), v, value.span));
                }
                BlockEntry::Setting(s) if &*s.word.text == "split" => split = Some(s.clone()),
                BlockEntry::Setting(s) => return self.unknown_setting(&s.word, "data", &["split"]),
            }
        }
        Ok((fields, split))
    }

    /// The parts, their fractions and the seed of `split train = 0.8, test = 0.2, seed = 0`.
    fn split_setting(&mut self, item: &BlockItem, block: &BlockValue, setting: &Setting) -> Eval<(Vec<Arc<str>>, Vec<f64>, Option<u64>)> {
        let mut scope = self.bind_block_params(block.item.module, &item.name, &item.params, &block.args, setting.span)?;
        let named = setting.values.iter().filter_map(|(n, v)| n.as_ref().map(|n| (n, v)));
        let (mut names, mut fractions, mut seed) = (Vec::new(), Vec::new(), None);
        for (name, value) in named.chain(setting.options.iter().map(|(n, v)| (n, v))) {
            let v = self.expr(&mut scope, value)?;
            if &*name.text == "seed" {
                seed = Some(self.host_int(&v, value.span, "seed")?.cast_unsigned());
                continue;
            }
            let x = self.host_number(&v, value.span)?;
            if !(0.0..=1.0).contains(&x) {
                return self.fail(Diagnostic::error(
                    Code("E0514"),
                    value.span,
                    format!("a part of a split is a fraction between 0 and 1, not {x}"),
                ));
            }
            names.push(name.text.clone());
            fractions.push(x);
        }
        let total: f64 = fractions.iter().sum();
        if total > 1.0 + 1e-9 {
            return self.fail(
                Diagnostic::error(Code("E0514"), setting.span, format!("the parts of this split add up to {total}"))
                    .help("fractions add up to at most 1"),
            );
        }
        Ok((names, fractions, seed))
    }

    /// What is known of a data block while checking.
    pub fn check_data(&mut self, block: &BlockValue, span: Span) -> Eval<Rc<CheckedData>> {
        if let Some(known) = self.script.checked.get(&block.item) {
            return Ok(known.clone());
        }
        let item = self.data_item(block, span)?;
        let (fields, split) = self.with_float(DType::F32, |ev| ev.data_fields(&item, block, span))?;
        let splits = split
            .iter()
            .flat_map(|s| s.values.iter().filter_map(|(n, _)| n.as_ref()).chain(s.options.iter().map(|(n, _)| n)))
            .filter(|n| &*n.text != "seed")
            .map(|n| n.text.clone())
            .collect();
        // Every field has the same number of examples: one symbol stands for it, also where a source's size is not known.
        let n = self.cx.fresh_symbol("N");
        let fields = fields
            .into_iter()
            .map(|(name, value, _)| {
                let value = match value {
                    Value::Array(a) if !a.shape.is_empty() => {
                        let mut shape = a.shape.clone();
                        shape[0] = n.clone();
                        Value::Array(Array { shape, ..a })
                    }
                    other => other,
                };
                (name, value)
            })
            .collect();
        let checked = Rc::new(CheckedData { fields, splits });
        if block.args.is_empty() {
            self.script.checked.insert(block.item, checked.clone());
        }
        Ok(checked)
    }

    /// `digits.train`, `digits.x`, `digits.train.x` of a data block.
    pub fn data_field(&mut self, block: &BlockValue, field: &Name) -> Eval {
        let item = self.data_item(block, field.span)?;
        if self.mode == Mode::Check {
            let checked = self.check_data(block, field.span)?;
            if let Some(value) = checked.fields.get(&field.text) {
                return Ok(value.clone());
            }
            if block.split.is_none() && checked.splits.contains(&field.text) {
                return Ok(Value::Block(Rc::new(BlockValue { split: Some(field.text.clone()), ..block.clone() })));
            }
            return self.no_split(&item.name.text, &field.text, checked.splits.iter(), field.span);
        }
        let is_field = item.entries.iter().any(|e| matches!(e, BlockEntry::Field { name, .. } if name.text == field.text));
        if !is_field && block.split.is_none() {
            return Ok(Value::Block(Rc::new(BlockValue { split: Some(field.text.clone()), ..block.clone() })));
        }
        let table = self.load_data(block, field.span)?;
        let Some(tensor) = table.fields.get(&field.text) else {
            return self.no_split(&table.name, &field.text, table.splits.keys(), field.span);
        };
        let tensor = match &table.rows {
            None => tensor.clone(),
            Some(rows) => Arc::new(take_rows(tensor, rows)),
        };
        Ok(Value::Array(self.literal(tensor)))
    }
}

/// The rows of an array named by number.
pub fn take_rows(tensor: &Tensor, rows: &[usize]) -> Tensor {
    let mut shape = tensor.shape.clone();
    shape[0] = rows.len();
    let mut out = Tensor::zeros(tensor.dtype, &shape);
    let size = tensor.shape[1..].iter().product::<usize>() * tensor.dtype.size();
    for (k, &row) in rows.iter().enumerate() {
        out.bytes_mut()[k * size..(k + 1) * size].copy_from_slice(&tensor.bytes()[row * size..(row + 1) * size]);
    }
    out
}
