//! The reference of the standard library as Markdown pages, and the table of optimizers: generated from the documentation of the items and the plans of their steps.

use crate::cost::rounded;
use crate::library::{self, Costed, Entry, LEAF};
use crate::synthetic;
use optc_front::std_lib;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How pages are made anew; each says so.
pub const COMMAND: &str = "optc show std --pages docs/reference";

/// Longest line of a signature.
const WIDTH: usize = 110;

/// What stands in the pages of a folder.
const FOLDERS: &[(&str, &str)] = &[
    ("std.init", "initializers"),
    ("std.linalg", "linear algebra"),
    ("std.loss", "losses"),
    ("std.math", "constants and functions"),
    ("std.minimize", "minima of functions of a vector"),
    ("std.nn", "layers and activations"),
    ("std.optim", "optimizers"),
    ("std.schedule", "schedules"),
    ("std.search", "functions of programs that are searched for"),
    ("std.search.tasks", "trains that optimizers are searched and judged on"),
];

/// The pages of optimizers, by what a step needs: name, title, what belongs there. A rule stands in the first that fits.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("optim_wrappers", "around other optimizers", "Wrappers: they hold other optimizers and decide when and where these step."),
    (
        "optim_loss",
        "that look at the loss again",
        "Rules that ask for the loss, its gradient or products with its Hessian at other weights of the same step.",
    ),
    (
        "optim_transforms",
        "that change gradients",
        "Transforms: parts of a chain, `clip_by_global_norm(1.0) |> adamw(lr = 1e-3)`, in front of a rule that changes weights.",
    ),
    ("optim_matrices", "with matrices", "Rules with matrix products or factorizations."),
    ("optim_reductions", "with sums over leaves", "Rules with numbers of a leaf, a row or all parameters: norms, means, orders."),
    ("optim_elementwise", "element by element", "Rules in which an element of a weight depends on its own gradients and states only."),
    ("optim_functions", "functions", "Functions that optimizers use: projections, line searches, directions."),
];

/// The page of an item: of a function, where there is no cost.
fn family(entry: &Entry, costed: Option<&Costed>) -> &'static str {
    let Some(costed) = costed else { return "optim_functions" };
    let needs = costed.cost.as_ref().map(|c| c.needs.clone()).unwrap_or_default();
    if entry.wraps {
        "optim_wrappers"
    } else if !needs.loss.is_empty() {
        "optim_loss"
    } else if costed.transform {
        "optim_transforms"
    } else if needs.products || !needs.library.is_empty() {
        "optim_matrices"
    } else if !needs.elementwise {
        "optim_reductions"
    } else {
        "optim_elementwise"
    }
}

/// A text that stands in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The words of the column `needs`: what an optimizer is called around, what its step needs, or why it could not be found out.
pub fn needs(entry: &Entry, costed: &Costed) -> String {
    let mut words = match &costed.cost {
        Ok(cost) => cost.needs.words(),
        Err(why) => vec![why.clone()],
    };
    if entry.wraps {
        words.push("an optimizer".to_string());
    }
    words.join("; ")
}

/// State, bytes moved and passes, as they are shown; empty where they are not known.
pub fn figures(costed: &Costed) -> [String; 3] {
    match &costed.cost {
        Ok(cost) => [rounded(cost.state_bytes, 100.0), rounded(cost.read + cost.written, 100.0), cost.passes.to_string()],
        Err(_) => Default::default(),
    }
}

/// The table of optimizers; `link` gives the page of each.
pub fn optimizer_table(optimizers: &[(&Entry, &Costed)], link: impl Fn(&Entry, &Costed) -> Option<String>) -> String {
    let mut out = String::from("| optimizer | state, bytes | moved, bytes | passes | needs | |\n|---|---:|---:|---:|---|---|\n");
    for (entry, costed) in optimizers {
        let name = match link(entry, costed) {
            Some(to) => format!("[`{}`]({to})", entry.name),
            None => format!("`{}`", entry.name),
        };
        let [state, moved, passes] = figures(costed);
        let _ = writeln!(out, "| {name} | {state} | {moved} | {passes} | {} | {} |", cell(&needs(entry, costed)), cell(entry.summary()));
    }
    out
}

/// A list of items with their first lines; `link` gives the page of each.
pub fn item_table(entries: &[&Entry], link: impl Fn(&Entry) -> Option<String>) -> String {
    let mut out = String::from("| item | |\n|---|---|\n");
    for entry in entries {
        let name = match link(entry) {
            Some(to) => format!("[`{}`]({to})", entry.name),
            None => format!("`{}`", entry.name),
        };
        let _ = writeln!(out, "| {name} | {} |", cell(entry.summary()));
    }
    out
}

/// What the figures of the table mean.
pub fn table_legend() -> String {
    format!(
        "Bytes per parameter (f32, with the default hyperparameters), on one leaf of {} x {}, read off the plan of a step: what is kept, what a step reads and writes, how often it goes over arrays of \
         the leaf's size. Wrappers hold `sgd(lr = 0.01)`, transforms are followed by it; numbers without a default are 1, and a rule that needs something else is called as in its example. For rules that look at the loss \
         again the figures include those of a quadratic. `optc explain --optimizer 'EXPRESSION'` says the same of any other call.",
        LEAF[0], LEAF[1]
    )
}

/// An item: signature, documentation, and what it costs.
fn item(entry: &Entry, costed: Option<&Costed>) -> String {
    let mut out = format!("## {}\n\n```opt\n{}\n```\n\n", entry.name, entry.signature.lines(WIDTH));
    out.push_str(&prose(&entry.doc));
    if let Some(costed) = costed {
        let [state, moved, passes] = figures(costed);
        let of = if costed.call == synthetic::called(&entry.name) { String::new() } else { format!(" of `{}`", costed.call) };
        let followed = if costed.transform { ", followed by `sgd(lr = 0.01)`" } else { "" };
        let plural = if passes == "1" { "" } else { "es" };
        let plan = match &costed.cost {
            Ok(_) => format!("state {state} bytes, {moved} bytes moved, {passes} pass{plural}; {}", needs(entry, costed)),
            Err(why) => why.clone(),
        };
        let _ = writeln!(out, "\n**Plan{of}{followed}.** {plan}.");
    }
    out
}

/// Documentation as Markdown: indented lines are code, headings stand in front of their paragraphs.
fn prose(doc: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    let mut margin = 0;
    let mut lines = doc.lines().peekable();
    while let Some(line) = lines.next() {
        let indented = line.starts_with("  ");
        // An empty line between two of code belongs to them.
        let inside = code && line.is_empty() && lines.peek().is_some_and(|next| next.starts_with("  "));
        if indented != code && !inside {
            if indented && !out.is_empty() && !out.ends_with("\n\n") {
                out.push('\n');
            }
            out.push_str(if indented { "```text\n" } else { "```\n" });
            code = indented;
            margin = line.len() - line.trim_start().len();
        }
        match line.strip_prefix("# ") {
            Some(heading) if !code => {
                let code_follows = lines.peek().is_some_and(|next| next.starts_with("  "));
                let _ = write!(out, "**{heading}.**{}", if code_follows { "\n" } else { " " });
            }
            _ => {
                let spaces = line.len() - line.trim_start().len();
                let text = if code { &line[spaces.min(margin)..] } else { line };
                out.push_str(text);
                out.push('\n');
            }
        }
    }
    if code {
        out.push_str("```\n");
    }
    out
}

fn heading(title: &str) -> String {
    format!("# {title}\n\nGenerated by `{COMMAND}` from `stdlib/`: change the documentation there.\n\n")
}

/// All pages, by their file names. `progress` is told how many optimizers are done, and of how many.
pub fn pages(progress: impl Fn(usize, usize) + Sync) -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let mut index = heading("The standard library") + "| folder | items |\n|---|---|\n";
    for folder in std_lib::std_folders() {
        let what = FOLDERS.iter().find(|f| f.0 == folder).map_or("", |f| f.1);
        let stem = folder.strip_prefix("std.").unwrap_or(folder).replace('.', "_");
        let title = if what.is_empty() { folder.to_string() } else { format!("{folder}: {what}") };
        let entries = library::entries(folder);
        let _ = writeln!(index, "| [`{folder}`]({stem}.md) | {what} ({}) |", entries.len());
        if folder == "std.optim" {
            optimizers(&entries, &title, &progress, &mut pages);
            continue;
        }
        let all: Vec<&Entry> = entries.iter().collect();
        let mut page = heading(&title) + &item_table(&all, |e| Some(format!("#{}", e.name)));
        for entry in &entries {
            page += &format!("\n{}", item(entry, None));
        }
        pages.insert(format!("{stem}.md"), page);
    }
    pages.insert("std.md".to_string(), index);
    pages
}

fn optimizers(entries: &[Entry], title: &str, progress: &(impl Fn(usize, usize) + Sync), pages: &mut BTreeMap<String, String>) {
    let rules: Vec<&Entry> = entries.iter().filter(|e| e.kind == "optimizer").collect();
    let costs = library::costs(&rules, |done| progress(done, rules.len()));
    let rows: Vec<(&Entry, &Costed)> = rules.iter().copied().zip(&costs).collect();
    let costed = |entry: &Entry| rows.iter().find(|(e, _)| e.name == entry.name).map(|(_, c)| *c);
    let link = |entry: &Entry, costed: Option<&Costed>| format!("{}.md#{}", family(entry, costed), entry.name);
    let mut page = heading(title);
    let _ = writeln!(page, "{}\n\n| page | |\n|---|---|", table_legend());
    for (stem, title, what) in FAMILIES {
        let _ = writeln!(page, "| [{title}]({stem}.md) | {} |", cell(what));
    }
    page += &format!("\n{}", optimizer_table(&rows, |e, c| Some(link(e, Some(c)))));
    let functions: Vec<&Entry> = entries.iter().filter(|e| costed(e).is_none()).collect();
    page += &format!("\n{}", item_table(&functions, |e| Some(link(e, None))));
    pages.insert("optim.md".to_string(), page);
    for (stem, title, what) in FAMILIES {
        let lead = if *stem == "optim_functions" { "std.optim: " } else { "std.optim: rules " };
        let mut page = heading(&format!("{lead}{title}"));
        let _ = writeln!(page, "{what} [All of them in one table](optim.md).");
        for entry in entries.iter().filter(|e| family(e, costed(e)) == *stem) {
            page += &format!("\n{}", item(entry, costed(entry)));
        }
        pages.insert(format!("{stem}.md"), page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_becomes_markdown() {
        let doc = "A rule.\n\n  m <- g\n\n  w <- m\n\n# Domain\n`lr` is small.\n\n# Example\n    f(1)";
        let expected = "A rule.\n\n```text\nm <- g\n\nw <- m\n```\n\n**Domain.** `lr` is small.\n\n**Example.**\n\n```text\nf(1)\n```\n";
        assert_eq!(prose(doc), expected);
        assert_eq!(cell("|g| <= 1"), "\\|g\\| <= 1");
    }

    #[test]
    fn every_folder_is_named() {
        for folder in std_lib::std_folders() {
            assert!(FOLDERS.iter().any(|f| f.0 == folder), "{folder} has no title in FOLDERS");
        }
    }
}
