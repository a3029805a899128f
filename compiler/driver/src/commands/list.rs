//! `optc list`: what the standard library has.

use super::say;
use crate::cli::{ListFormat, Listed};
use crate::library::{self, Costed, Entry};
use crate::reference;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// Lists the items of a kind, each with the first line of its documentation; optimizers with what they cost.
pub fn list(what: Listed, format: ListFormat) {
    let folder = match what {
        Listed::Optimizers => "std.optim",
        Listed::Schedules => "std.schedule",
        Listed::Losses => "std.loss",
        Listed::Layers => "std.nn",
        Listed::Initializers => "std.init",
        Listed::Minimizers => "std.minimize",
    };
    let mut entries = library::entries(folder);
    if what == Listed::Optimizers {
        entries.retain(|e| e.kind == "optimizer");
        return optimizers(&entries, format);
    }
    let all: Vec<&Entry> = entries.iter().collect();
    match format {
        ListFormat::Json => say(&Value::Array(all.iter().map(|e| item_json(e)).collect()).to_string()),
        ListFormat::Markdown => say(reference::item_table(&all, |_| None).trim_end()),
        ListFormat::Text => say(&aligned(all.iter().map(|e| vec![e.name.clone(), e.summary().to_string()]).collect(), &[])),
    }
}

fn optimizers(entries: &[Entry], format: ListFormat) {
    let all: Vec<&Entry> = entries.iter().collect();
    let costs = library::costs(&all, counter(all.len()));
    let rows: Vec<(&Entry, &Costed)> = all.iter().copied().zip(&costs).collect();
    match format {
        ListFormat::Json => say(&Value::Array(rows.iter().map(|(e, c)| optimizer_json(e, c)).collect()).to_string()),
        ListFormat::Markdown => say(reference::optimizer_table(&rows, |_, _| None).trim_end()),
        ListFormat::Text => {
            let mut lines = vec![["optimizer", "state B", "moved B", "passes", "needs", ""].map(str::to_string).to_vec()];
            for (entry, costed) in rows {
                let [state, moved, passes] = reference::figures(costed);
                lines.push(vec![entry.name.clone(), state, moved, passes, reference::needs(entry, costed), entry.summary().to_string()]);
            }
            say(&aligned(lines, &[1, 2, 3]));
            say(&format!("\n{}", reference::table_legend()));
        }
    }
}

/// Shows on a terminal how many of so many are done.
pub(crate) fn counter(of: usize) -> impl Fn(usize) + Sync {
    let terminal = std::io::stderr().is_terminal();
    move |done| {
        if terminal {
            let mut out = std::io::stderr().lock();
            // Nobody is left to tell if standard error is closed.
            let _ = if done < of { write!(out, "\r{done} of {of} ") } else { write!(out, "\r{:20}\r", "") };
            let _ = out.flush();
        }
    }
}

/// Columns as wide as their widest cell, the last as it is; numbers at the right.
fn aligned(lines: Vec<Vec<String>>, numbers: &[usize]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |k: usize| lines.iter().filter_map(|l| l.get(k)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let shown = lines.iter().map(|line| {
        let cells = line.iter().enumerate().map(|(k, cell)| match widths[k] {
            w if numbers.contains(&k) => format!("{cell:>w$}"),
            w if k + 1 < columns => format!("{cell:w$}"),
            _ => cell.clone(),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn item_json(entry: &Entry) -> Value {
    json!({ "name": entry.name, "path": entry.path(), "kind": entry.kind, "summary": entry.summary(), "signature": entry.signature.line() })
}

fn optimizer_json(entry: &Entry, costed: &Costed) -> Value {
    let mut out = item_json(entry);
    out["call"] = json!(costed.call);
    out["needs_optimizer"] = json!(entry.wraps);
    match &costed.cost {
        Ok(cost) => {
            out["transform"] = json!(costed.transform);
            out["state_bytes"] = json!(cost.state_bytes);
            out["bytes_read"] = json!(cost.read);
            out["bytes_written"] = json!(cost.written);
            out["passes"] = json!(cost.passes);
            out["needs"] = json!(cost.needs.words());
        }
        Err(why) => out["error"] = json!(why),
    }
    out
}
