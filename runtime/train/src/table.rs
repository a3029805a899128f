//! Tables of results: as text for the terminal, as CSV and as HTML.

use crate::error::{Result, TrainError};
use comfy_table::{Cell as TextCell, CellAlignment, ContentArrangement, Table as TextTable, presets};

/// One field of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A number, shown to 4 significant digits.
    Number(f64),
    /// A whole number, shown in full.
    Int(i64),
    /// A word.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// Nothing.
    Empty,
}

impl From<f64> for Cell {
    fn from(v: f64) -> Self {
        Cell::Number(v)
    }
}
impl From<i64> for Cell {
    fn from(v: i64) -> Self {
        Cell::Int(v)
    }
}
impl From<bool> for Cell {
    fn from(v: bool) -> Self {
        Cell::Bool(v)
    }
}
impl From<&str> for Cell {
    fn from(v: &str) -> Self {
        Cell::Text(v.to_string())
    }
}
impl From<String> for Cell {
    fn from(v: String) -> Self {
        Cell::Text(v)
    }
}

impl Cell {
    /// As people read it.
    pub fn shown(&self) -> String {
        match self {
            Cell::Number(v) => number(*v),
            Cell::Int(v) => v.to_string(),
            Cell::Text(t) => t.clone(),
            Cell::Bool(b) => b.to_string(),
            Cell::Empty => String::new(),
        }
    }
    /// As a program reads it: numbers in full.
    pub fn exact(&self) -> String {
        match self {
            Cell::Number(v) => exact(*v),
            other => other.shown(),
        }
    }
    /// Whether it stands at the right of its column.
    pub fn is_number(&self) -> bool {
        matches!(self, Cell::Number(_) | Cell::Int(_))
    }
}

/// A number to 4 significant digits: `0.9722`, `1234`, `1.5e-5`, `3.2e8`, `nan`.
pub fn number(v: f64) -> String {
    if v.is_nan() {
        return "nan".to_string();
    }
    if v.is_infinite() {
        return if v > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    if v == 0.0 {
        return "0".to_string();
    }
    // The exponent after rounding to 4 digits, so that 9999.9 becomes 1e4's layout.
    let scientific = format!("{v:.3e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the e format has an e");
    let exponent: i32 = exponent.parse().expect("the e format has an exponent");
    let trim = |s: &str| if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s.to_string() };
    if (-4..7).contains(&exponent) {
        trim(&format!("{v:.*}", (3 - exponent).max(0) as usize))
    } else {
        format!("{}e{exponent}", trim(mantissa))
    }
}

/// The shortest decimal that reads back as the same number; as the same `f32` if the number is one.
pub fn exact(v: f64) -> String {
    if v.is_nan() {
        return "nan".to_string();
    }
    let magnitude = v.abs();
    let plain = magnitude == 0.0 || (1e-5..1e16).contains(&magnitude) || v.is_infinite();
    match f64::from(v as f32) == v {
        true if plain => format!("{}", v as f32),
        true => format!("{:e}", v as f32),
        false if plain => format!("{v}"),
        false => format!("{v:e}"),
    }
}

/// Rows of cells under a header.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Shown above the table if not empty.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Each as long as the header.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows.
    pub fn new(header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Table { title: String::new(), header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }
    /// From records: a column for each name that occurs, in the order of first occurrence; cells a record lacks are empty.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a [(String, Cell)]>) -> Self {
        let mut table = Table::default();
        for record in records {
            let mut row = vec![Cell::Empty; table.header.len()];
            for (name, cell) in record {
                match table.header.iter().position(|h| h == name) {
                    Some(i) => row[i] = cell.clone(),
                    None => {
                        table.header.push(name.clone());
                        row.push(cell.clone());
                    }
                }
            }
            table.rows.push(row);
        }
        table.rows.iter_mut().for_each(|r| r.resize(table.header.len(), Cell::Empty));
        table
    }
    /// Adds a row; shorter ones are filled with empty cells. Panics if it is longer than the header.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = row.into_iter().collect();
        assert!(row.len() <= self.header.len(), "compiler bug: a row longer than its table");
        row.resize(self.header.len(), Cell::Empty);
        self.rows.push(row);
    }
    /// Whether a column holds numbers only (and empty cells), at least one.
    fn numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|r| &r[column]).filter(|c| **c != Cell::Empty).peekable();
        cells.peek().is_some() && cells.all(Cell::is_number)
    }
    /// For the terminal: numbers to 4 significant digits, right-aligned, columns as wide as they need. No line break at the end.
    pub fn text(&self) -> String {
        let mut out = TextTable::new();
        out.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        let align = |c: usize| if self.numeric(c) { CellAlignment::Right } else { CellAlignment::Left };
        out.set_header(self.header.iter().enumerate().map(|(c, h)| TextCell::new(h).set_alignment(align(c))));
        for row in &self.rows {
            out.add_row(row.iter().enumerate().map(|(c, cell)| TextCell::new(cell.shown()).set_alignment(align(c))));
        }
        let table = out.trim_fmt();
        if self.title.is_empty() { table } else { format!("{}\n{table}", self.title) }
    }
    /// As CSV with a header line, numbers in full.
    pub fn csv(&self) -> Result<String> {
        let mut out = csv::WriterBuilder::new().from_writer(Vec::new());
        let fail = |e: csv::Error| TrainError::new("R0102", format!("cannot write the table: {e}"));
        if !self.header.is_empty() {
            out.write_record(&self.header).map_err(fail)?;
        }
        for row in &self.rows {
            out.write_record(row.iter().map(Cell::exact)).map_err(fail)?;
        }
        let bytes = out.into_inner().map_err(|e| TrainError::new("R0102", format!("cannot write the table: {e}")))?;
        Ok(String::from_utf8(bytes).expect("csv of strings is UTF-8"))
    }
    /// As an HTML table, numbers to 4 significant digits with the full value as a tooltip.
    pub fn html(&self) -> String {
        use crate::report::escape;
        let class = |c: usize| if self.numeric(c) { " class=\"n\"" } else { "" };
        let mut out = String::from("<table>");
        if !self.title.is_empty() {
            out += &format!("<caption>{}</caption>", escape(&self.title));
        }
        out += "<thead><tr>";
        for (c, h) in self.header.iter().enumerate() {
            out += &format!("<th{}>{}</th>", class(c), escape(h));
        }
        out += "</tr></thead><tbody>";
        for row in &self.rows {
            out += "<tr>";
            for (c, cell) in row.iter().enumerate() {
                let (shown, full) = (cell.shown(), cell.exact());
                let tip = if shown == full { String::new() } else { format!(" title=\"{}\"", escape(&full)) };
                out += &format!("<td{}{tip}>{}</td>", class(c), escape(&shown));
            }
            out += "</tr>";
        }
        out + "</tbody></table>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_significant_digits() {
        let cases = [
            (0.972222, "0.9722"),
            (1234.56, "1235"),
            (1_234_567.0, "1234567"),
            (0.000123456, "0.0001235"),
            (1.5e-5, "1.5e-5"),
            (3.21987e8, "3.22e8"),
            (-2.0, "-2"),
            (0.99999, "1"),
            (9_999_999.9, "1e7"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (-0.0, "0"),
            (100.0, "100"),
        ];
        for (v, expected) in cases {
            assert_eq!(number(v), expected);
        }
    }

    #[test]
    fn exact_numbers_read_back() {
        assert_eq!(exact(f64::from(0.1f32)), "0.1");
        for v in [0.1, 1.0 / 3.0, 1e-300, 1e300, -5.0, f64::from(1e-20f32), f64::INFINITY] {
            let back: f64 = exact(v).parse().unwrap();
            let narrow = f64::from(exact(v).parse::<f32>().unwrap());
            assert!(back == v || narrow == v, "{v} as {}", exact(v));
        }
    }

    #[test]
    fn text_is_aligned_by_column() {
        let mut t = Table::new(["name", "loss"]);
        t.push(["lion".into(), 0.123456.into()]);
        t.push(["adamw".into(), Cell::Int(12)]);
        let text = t.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].contains("│ lion  ┆ 0.1235 │"), "{text}");
        assert!(lines[4].contains("│ adamw ┆     12 │"), "{text}");
    }

    #[test]
    fn records_may_lack_fields() {
        let a = [("x".to_string(), Cell::Int(1))];
        let b = [("y".to_string(), Cell::from("a,b")), ("x".to_string(), Cell::Number(0.1))];
        let t = Table::from_records([&a[..], &b[..]]);
        assert_eq!(t.csv().unwrap(), "x,y\n1,\n0.1,\"a,b\"\n");
        assert!(t.html().contains("<th class=\"n\">x</th><th>y</th>"));
    }
}
