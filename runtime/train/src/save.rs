//! `save`: writing values by file extension.

use crate::atomic;
use crate::data::{TREE, npy, npz, safetensors};
use crate::error::{Result, TrainError};
use crate::plot::{Line, Plot};
use crate::png;
use crate::series::Series;
use crate::table::{Cell, Table};
use indexmap::IndexMap;
use optc_abi::number::exact_as_stored;
use optc_abi::{DType, Tensor};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// What can be saved.
#[derive(Clone, Debug)]
pub enum Value {
    /// An array.
    Tensor(Tensor),
    /// A recorded series.
    Series(Series),
    /// A table.
    Table(Table),
    /// A chart.
    Plot(Plot),
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<Value>),
    /// Named values.
    Record(IndexMap<String, Value>),
}

/// File extensions that [`save`] knows.
pub const EXTENSIONS: [&str; 7] = ["png", "svg", "npy", "npz", "csv", "json", "safetensors"];

/// Writes a value, atomically, in the format of the extension:
///
/// - `png`, `svg`: a plot; series or vectors (also a record of them) as a chart; in `png` also an array as an image, `[height, width]`
///   gray or `[height, width, 1 | 3 | 4]`, floats from 0 to 1, bytes as they are;
/// - `npy`: one array, number or the values of a series;
/// - `npz`, `safetensors`: a record (or list) of arrays, names joined by dots;
/// - `csv`: a table, a vector or matrix, a series as `step,value`, a record of numbers or vectors by column;
/// - `json`: anything but a plot; NaN and infinities become `null`.
///
/// `R0120` for another extension, `R0121` if the value has no form in this format.
///
/// `tree` is a text about the structure of the arrays that `npz` and `safetensors` keep beside them.
pub fn save(path: &Path, value: &Value, tree: Option<String>) -> Result<()> {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).unwrap_or_default();
    let bytes = match extension.as_str() {
        "png" => match value {
            Value::Tensor(t) if t.shape.len() >= 2 => image(t),
            _ => chart(value).and_then(|p| p.png()),
        },
        "svg" => chart(value).and_then(|p| p.svg()).map(String::into_bytes),
        "npy" => array(value).map(|t| npy::encode(&t)),
        "npz" => leaves(value).and_then(|l| npz::encode(l.iter().map(|(n, t)| (n.as_str(), t)), tree.as_deref())),
        "csv" => csv(value).map(String::into_bytes),
        "json" => json(value).map(|j| (format!("{j:#}\n")).into_bytes()),
        "safetensors" => {
            let leaves = leaves(value).map_err(|e| e.at(path))?;
            return safetensors::write(path, TREE, &leaves.iter().map(|(n, t)| (n.clone(), t)).collect(), tree);
        }
        other => {
            let message =
                if other.is_empty() { "the file name has no extension".to_string() } else { format!("unknown extension `.{other}`") };
            return Err(TrainError::new("R0120", message)
                .at(path)
                .help(format!("known are {}", EXTENSIONS.map(|e| format!(".{e}")).join(", "))));
        }
    };
    atomic::write(path, &bytes.map_err(|e| e.at(path))?)
}

fn kind(value: &Value) -> String {
    match value {
        Value::Tensor(t) => format!("an array {}{:?}", t.dtype, t.shape),
        Value::Series(_) => "a series".into(),
        Value::Table(_) => "a table".into(),
        Value::Plot(_) => "a plot".into(),
        Value::Number(_) => "a number".into(),
        Value::Bool(_) => "a truth value".into(),
        Value::Text(_) => "a text".into(),
        Value::List(_) => "a list".into(),
        Value::Record(_) => "a record".into(),
    }
}

fn refuse<T>(value: &Value, what: &str) -> Result<T> {
    Err(TrainError::new("R0121", format!("{} cannot be saved as {what}", kind(value))))
}

/// An array as the bytes of a PNG image.
pub fn image(t: &Tensor) -> Result<Vec<u8>> {
    let (h, w, channels) = match t.shape[..] {
        [h, w] => (h, w, 1),
        [h, w, c @ (1 | 3 | 4)] => (h, w, c),
        _ => return refuse(&Value::Tensor(t.clone()), "an image: it takes [height, width] or [height, width, 1 | 3 | 4]"),
    };
    if t.is_empty() {
        return refuse(&Value::Tensor(t.clone()), "an image: it is empty");
    }
    let pixels: Vec<u8> = match t.dtype {
        DType::U8 => t.bytes().to_vec(),
        DType::Bool => t.bytes().iter().map(|&b| 255 * b).collect(),
        // `as` takes NaN to 0 and cuts off below 0 and above 255.
        d if d.is_float() => (0..t.len()).map(|i| (t.get_f64(i) * 255.0).round() as u8).collect(),
        _ => (0..t.len()).map(|i| t.get_f64(i) as u8).collect(),
    };
    Ok(png::encode(w, h, channels, &pixels))
}

fn line(name: &str, value: &Value) -> Result<Line> {
    match value {
        Value::Series(s) => Ok(Line::series(name, s)),
        Value::Tensor(t) if t.shape.len() == 1 => Ok(Line::values(name, &t.to_f64())),
        Value::List(items) if !items.is_empty() && items.iter().all(|v| matches!(v, Value::Number(_))) => {
            let values: Vec<f64> = items.iter().map(|v| if let Value::Number(x) = v { *x } else { f64::NAN }).collect();
            Ok(Line::values(name, &values))
        }
        Value::List(items) if !items.is_empty() => {
            let mut curves = Vec::new();
            for item in items {
                curves.extend(line(name, item)?.curves);
            }
            Ok(Line { name: name.to_string(), curves })
        }
        _ => refuse(value, "a line of a chart: it takes series and vectors"),
    }
}

fn chart(value: &Value) -> Result<Plot> {
    let over_steps =
        |v: &Value| matches!(v, Value::Series(_)) || matches!(v, Value::List(l) if matches!(l.first(), Some(Value::Series(_))));
    match value {
        Value::Plot(p) => Ok(p.clone()),
        Value::Record(fields) => {
            let lines = fields.iter().map(|(name, v)| line(name, v)).collect::<Result<_>>()?;
            let x_label = if fields.values().any(over_steps) { "step" } else { "index" };
            Ok(Plot { x_label: x_label.into(), lines, ..Plot::default() })
        }
        _ => {
            Ok(Plot { x_label: if over_steps(value) { "step" } else { "index" }.into(), lines: vec![line("", value)?], ..Plot::default() })
        }
    }
}

fn array(value: &Value) -> Result<Tensor> {
    Ok(match value {
        Value::Tensor(t) => t.clone(),
        Value::Number(v) => Tensor::scalar(*v),
        Value::Bool(b) => Tensor::from_f64(DType::Bool, &[], &[f64::from(u8::from(*b))]),
        Value::Series(s) => Tensor::from_slice(&[s.len()], s.values()),
        Value::List(items) if !items.is_empty() => {
            let parts = items.iter().map(array).collect::<Result<Vec<Tensor>>>()?;
            let (dtype, shape) = (parts[0].dtype, parts[0].shape.clone());
            if parts.iter().any(|p| p.dtype != dtype || p.shape != shape) {
                return refuse(value, "one array: its items differ in shape or element type");
            }
            let mut out = Tensor::zeros(dtype, &[&[parts.len()], &shape[..]].concat());
            let n = parts[0].bytes().len();
            if n > 0 {
                out.bytes_mut().chunks_exact_mut(n).zip(&parts).for_each(|(o, p)| o.copy_from_slice(p.bytes()));
            }
            out
        }
        _ => return refuse(value, "one array"),
    })
}

/// The arrays of a value with their paths; `value` for one without a name.
fn leaves(value: &Value) -> Result<IndexMap<String, Tensor>> {
    fn collect(path: &str, value: &Value, out: &mut IndexMap<String, Tensor>) -> Result<()> {
        let join = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match value {
            Value::Record(fields) => fields.iter().try_for_each(|(name, v)| collect(&join(name), v, out)),
            Value::List(items) => items.iter().enumerate().try_for_each(|(i, v)| collect(&join(&i.to_string()), v, out)),
            Value::Series(s) => {
                let steps: Vec<i64> = s.steps().iter().map(|&x| x as i64).collect();
                out.insert(join("steps"), Tensor::from_slice(&[s.len()], &steps));
                out.insert(join("values"), Tensor::from_slice(&[s.len()], s.values()));
                Ok(())
            }
            _ => {
                out.insert(if path.is_empty() { "value".to_string() } else { path.to_string() }, array(value)?);
                Ok(())
            }
        }
    }
    let mut out = IndexMap::new();
    collect("", value, &mut out)?;
    Ok(out)
}

fn scalar(value: &Value) -> Option<Cell> {
    Some(match value {
        Value::Number(v) => Cell::Number(*v),
        Value::Bool(b) => Cell::Bool(*b),
        Value::Text(t) => Cell::Text(t.clone()),
        Value::Tensor(t) if t.shape.is_empty() => element(t, 0),
        _ => return None,
    })
}

fn element(t: &Tensor, i: usize) -> Cell {
    match t.dtype {
        DType::Bool => Cell::Bool(t.get_f64(i) != 0.0),
        DType::I64 => Cell::Int(t.as_slice::<i64>()[i]),
        d if d.is_int() => Cell::Int(t.get_f64(i) as i64),
        _ => Cell::Number(t.get_f64(i)),
    }
}

/// The cells of one column.
fn column(value: &Value) -> Option<Vec<Cell>> {
    match value {
        Value::Tensor(t) if t.shape.len() == 1 => Some((0..t.len()).map(|i| element(t, i)).collect()),
        Value::Series(s) => Some(s.values().iter().map(|&v| Cell::Number(v)).collect()),
        Value::List(items) => items.iter().map(scalar).collect(),
        _ => scalar(value).map(|c| vec![c]),
    }
}

fn csv(value: &Value) -> Result<String> {
    let mut table = Table::default();
    match value {
        Value::Table(t) => return t.csv(),
        Value::Series(s) => {
            table = Table::new(["step", "value"]);
            s.steps().iter().zip(s.values()).for_each(|(&step, &v)| table.push([Cell::Int(step as i64), Cell::Number(v)]));
        }
        // A matrix has no names, and reads back with `csv`.
        Value::Tensor(t) if t.shape.len() == 2 => {
            let rows: Vec<String> = (0..t.shape[0])
                .map(|r| (0..t.shape[1]).map(|c| element(t, r * t.shape[1] + c).exact()).collect::<Vec<_>>().join(","))
                .collect();
            return Ok(rows.join("\n") + "\n");
        }
        Value::List(items) if !items.is_empty() && items.iter().all(|i| matches!(i, Value::Record(_))) => {
            let mut records = Vec::new();
            for item in items {
                let Value::Record(fields) = item else { continue };
                let cells = fields.iter().map(|(n, v)| Some((n.clone(), scalar(v)?))).collect::<Option<Vec<_>>>();
                records.push(cells.map_or_else(|| refuse(value, "csv: its records hold more than scalars"), Ok)?);
            }
            return Table::from_records(records.iter().map(Vec::as_slice)).csv();
        }
        Value::Record(fields) => {
            table.header = fields.keys().cloned().collect();
            let columns = fields.values().map(column).collect::<Option<Vec<_>>>();
            let columns = columns.map_or_else(|| refuse(value, "csv: its fields are not all scalars or vectors"), Ok)?;
            let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
            for r in 0..rows {
                table.push(columns.iter().map(|c| c.get(r).cloned().unwrap_or(Cell::Empty)));
            }
        }
        _ => {
            let cells = column(value).map_or_else(|| refuse(value, "csv"), Ok)?;
            return Ok(cells.iter().map(|c| c.exact() + "\n").collect());
        }
    }
    table.csv()
}

fn json_number(v: f64) -> Json {
    // The shortest digits, also of numbers that come from f32.
    exact_as_stored(v).parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Json::Null, Json::Number)
}

fn json_cell(cell: &Cell) -> Json {
    match cell {
        Cell::Number(v) => json_number(*v),
        Cell::Int(v) => Json::from(*v),
        Cell::Text(t) => Json::from(t.as_str()),
        Cell::Bool(b) => Json::from(*b),
        Cell::Empty => Json::Null,
    }
}

fn json(value: &Value) -> Result<Json> {
    fn nested(t: &Tensor, shape: &[usize], at: &mut usize) -> Json {
        match shape.split_first() {
            None => {
                *at += 1;
                json_cell(&element(t, *at - 1))
            }
            Some((&n, rest)) => (0..n).map(|_| nested(t, rest, at)).collect(),
        }
    }
    Ok(match value {
        Value::Tensor(t) => nested(t, &t.shape, &mut 0),
        Value::Series(s) => {
            let values: Json = s.values().iter().map(|&v| json_number(v)).collect();
            Json::Object(Map::from_iter([("steps".to_string(), Json::from(s.steps())), ("values".to_string(), values)]))
        }
        Value::Table(t) => {
            let object = |row: &Vec<Cell>| Json::Object(t.header.iter().cloned().zip(row.iter().map(json_cell)).collect());
            t.rows.iter().map(object).collect()
        }
        Value::Plot(_) => return refuse(value, "json"),
        Value::Number(v) => json_number(*v),
        Value::Bool(b) => Json::from(*b),
        Value::Text(t) => Json::from(t.as_str()),
        Value::List(items) => items.iter().map(json).collect::<Result<_>>()?,
        Value::Record(fields) => Json::Object(fields.iter().map(|(n, v)| Ok((n.clone(), json(v)?))).collect::<Result<_>>()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Value {
        let w = Tensor::from_slice(&[2, 2], &[0.1f32, 2.0, 3.0, f32::NAN]);
        let layers = Value::List(vec![Value::Record(IndexMap::from([("w".to_string(), Value::Tensor(w))]))]);
        Value::Record(IndexMap::from([("layers".to_string(), layers), ("lr".to_string(), Value::Number(0.5))]))
    }

    fn written(name: &str, value: &Value) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out").join(name);
        save(&path, value, None)?;
        Ok(std::fs::read(&path).unwrap())
    }

    fn text(name: &str, value: &Value) -> String {
        String::from_utf8(written(name, value).unwrap()).unwrap()
    }

    #[test]
    fn trees_of_arrays_are_flattened() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.npz"), dir.path().join("a.safetensors"));
        save(&a, &record(), Some("tree".into())).unwrap();
        save(&b, &record(), Some("tree".into())).unwrap();
        let ((zipped, told), (st, also)) = (npz::read(&a).unwrap(), safetensors::read(&b, TREE).unwrap());
        assert_eq!((told.as_deref(), also.as_deref()), (Some("tree"), Some("tree")));
        assert_eq!(zipped.keys().collect::<Vec<_>>(), ["layers.0.w", "lr"]);
        assert_eq!(zipped["layers.0.w"], st["layers.0.w"]);
        assert_eq!(st["lr"], Tensor::scalar(0.5f64));
    }

    #[test]
    fn json_nests_and_has_no_nan() {
        let j: Json = serde_json::from_slice(&written("a.json", &record()).unwrap()).unwrap();
        assert_eq!(j, serde_json::json!({"layers": [{"w": [[0.1, 2.0], [3.0, null]]}], "lr": 0.5}));
        let big = Value::Tensor(Tensor::scalar(i64::MAX));
        assert_eq!(text("b.json", &big).trim(), i64::MAX.to_string());
    }

    #[test]
    fn csv_takes_what_has_rows() {
        let matrix = Value::Tensor(Tensor::from_slice(&[2, 2], &[1, 2, 3, 4]));
        assert_eq!(text("a.csv", &matrix), "1,2\n3,4\n");
        let series = Series::from_parts(vec![0, 5], vec![1.5, 0.1]);
        assert_eq!(text("a.csv", &Value::Series(series.clone())), "step,value\n0,1.5\n5,0.1\n");
        let columns = Value::Record(IndexMap::from([("a".to_string(), Value::Series(series)), ("b".to_string(), Value::Bool(true))]));
        assert_eq!(text("a.csv", &columns), "a,b\n1.5,true\n0.1,\n");
        let rows = Value::List(vec![columns.clone(), Value::Number(1.0)]);
        assert_eq!(written("a.csv", &rows).unwrap_err().code, "R0121");
        assert_eq!(written("a.csv", &record()).unwrap_err().code, "R0121");
    }

    #[test]
    fn arrays_become_images_and_charts() {
        let gray = Tensor::from_slice(&[1, 3], &[0.0f32, 0.5, 2.0]);
        let (w, h, c, pixels) = png::tests::decode(&written("a.png", &Value::Tensor(gray)).unwrap());
        assert_eq!((w, h, c, pixels), (3, 1, 1, vec![0, 128, 255]));
        let vector = Value::Tensor(Tensor::from_slice(&[3], &[1.0f32, 2.0, 1.5]));
        let two = Value::Record(IndexMap::from([
            ("v".to_string(), vector.clone()),
            ("w".to_string(), Value::List(vec![vector.clone(), vector])),
        ]));
        assert!(text("a.svg", &two).contains(">\nindex"));
        assert_eq!(written("a.png", &Value::Tensor(Tensor::zeros(DType::F32, &[2, 2, 2]))).unwrap_err().code, "R0121");
        assert_eq!(written("a.png", &Value::Tensor(Tensor::zeros(DType::F32, &[0, 2]))).unwrap_err().code, "R0121");
    }

    #[test]
    fn every_value_and_extension_is_written_or_refused() {
        let values = [
            Value::Tensor(Tensor::zeros(DType::F32, &[0])),
            Value::Tensor(Tensor::zeros(DType::I64, &[])),
            Value::Series(Series::new()),
            Value::Table(Table::default()),
            Value::Plot(Plot::default()),
            Value::Number(f64::NAN),
            Value::Text("t".into()),
            Value::List(vec![]),
            Value::List(vec![Value::Number(1.0), Value::Text("x".into())]),
            Value::Record(IndexMap::new()),
        ];
        for value in &values {
            for extension in EXTENSIONS {
                if let Err(e) = written(&format!("a.{extension}"), value) {
                    assert!(matches!(e.code, "R0121" | "R0119"), "{extension}: {e}");
                }
            }
        }
        let e = written("a.txt", &values[0]).unwrap_err();
        assert!(e.code == "R0120" && e.help.unwrap().contains(".safetensors"));
    }
}
