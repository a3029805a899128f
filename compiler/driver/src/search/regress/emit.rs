//! What a symbolic regression found, as a spec.

use super::archive::FormulaRow;
use super::hunt::{Hunt, best};
use crate::search::emit::rounded;
use std::fmt::Write;

/// The formulas of a front as functions, the best under the search's own name, the others with their size behind it.
pub fn emit(hunt: &Hunt, rows: &[FormulaRow]) -> Option<String> {
    let chosen = best(rows)?;
    let spec = &hunt.spec;
    let (fitted, held) = hunt.rows();
    let counters = hunt.state.counters();
    let names = spec.names().join(", ");
    let mut out = String::new();
    let mut write = |name: &str, doc: &[String], row: &FormulaRow| {
        for line in doc {
            let _ = writeln!(out, "{}", if line.is_empty() { "##".to_string() } else { format!("## {line}") });
        }
        let _ = writeln!(out, "fn {name}({names}) = {}\n", row.expression);
    };
    let measured = |row: &FormulaRow| {
        let held_out = row.held_out.map_or(String::new(), |l| format!("; {} on {held} rows that were held out", rounded(l)));
        format!(
            "{} nodes, loss {} on {fitted} rows ({} of that of a constant){held_out}",
            row.size,
            rounded(row.loss),
            rounded(row.unexplained)
        )
    };
    let row = &rows[chosen];
    let doc = [
        format!("`{}` of {}, found by the search `{}`, seed {}.", spec.target.name, spec.data_text, spec.name, spec.seed),
        String::new(),
        "# Source".to_string(),
        format!("{}.", measured(row)),
        format!(
            "Found by island {}, one of {} formulas that were evaluated; {} children in all. The loss is {}.",
            row.island,
            counters.evaluated,
            counters.children,
            spec.loss.as_ref().map_or("the square of the difference".to_string(), |(text, _)| format!("`{text}`"))
        ),
        "Formulas of a search are the best of many on its own data: look at rows it has not seen before believing them.".to_string(),
    ];
    write(&spec.name, &doc, row);
    for (k, row) in rows.iter().enumerate() {
        if k != chosen {
            write(&format!("{}_{}", spec.name, row.size), &[format!("{}.", measured(row))], row);
        }
    }
    Some(optc_front::format(&out).unwrap_or(out))
}
