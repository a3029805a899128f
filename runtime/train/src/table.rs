//! Tables of results: as text for the terminal, as CSV and as HTML.

use crate::error::{Result, TrainError};
use comfy_table::{Cell as TextCell, CellAlignment, ContentArrangement, Table as TextTable, presets};
use optc_abi::number::{exact_as_stored, shown};

/// Significant digits of numbers in tables and progress.
pub const DIGITS: usize = 4;

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
            Cell::Number(v) => shown(*v, DIGITS),
            Cell::Int(v) => v.to_string(),
            Cell::Text(t) => t.clone(),
            Cell::Bool(b) => b.to_string(),
            Cell::Empty => String::new(),
        }
    }
    /// As a program reads it: numbers in full.
    pub fn exact(&self) -> String {
        match self {
            Cell::Number(v) => exact_as_stored(*v),
            other => other.shown(),
        }
    }
    /// Whether it stands at the right of its column.
    pub fn is_number(&self) -> bool {
        matches!(self, Cell::Number(_) | Cell::Int(_))
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
