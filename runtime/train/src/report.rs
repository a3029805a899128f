//! The report of a run: one self-contained HTML file with what was run, what came out, and the curves.

mod highlight;
mod style;

use crate::atomic;
use crate::error::Result;
use crate::plot::Plot;
use crate::table::Table;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Everything a report shows; empty parts are left out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The heading, for example the experiment's name.
    pub title: String,
    /// Name of the spec file.
    pub spec_name: String,
    /// Its text.
    pub spec: String,
    /// The command that made the report.
    pub command: String,
    /// When it was made, as text.
    pub date: String,
    /// Further facts for the heading: version, machine, threads, seconds.
    pub facts: Vec<(String, String)>,
    /// The body, in order.
    pub sections: Vec<Section>,
}

/// A part of a report.
#[derive(Clone, Debug)]
pub enum Section {
    /// A heading.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// What the run printed, line by line.
    Printed(Vec<String>),
    /// A table.
    Table(Table),
    /// A chart.
    Plot(Plot),
    /// Claims that were checked.
    Checks(Vec<Check>),
    /// A training run.
    Run(RunSummary),
}

/// A claim that was checked.
#[derive(Clone, Debug)]
pub struct Check {
    /// The claim.
    pub claim: String,
    /// Whether it held.
    pub passed: bool,
    /// The values compared, or why it failed; may be empty.
    pub detail: String,
}

/// A training run: its settings, results and curves.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    /// Name, with what was overridden.
    pub name: String,
    /// Settings (steps, batch, optimizer, seed, …) by name.
    pub settings: Vec<(String, String)>,
    /// Results (last loss, metrics, seconds, steps/s, …) by name.
    pub results: Vec<(String, String)>,
    /// Its curves.
    pub plots: Vec<Plot>,
}

/// SHA-256 in hexadecimal; what reports and checkpoints call a spec's hash.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Text with the characters that mean something in HTML replaced, and control characters that HTML forbids left out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => {}
            c => out.push(c),
        }
    }
    out
}

/// A list of names and values.
fn facts(pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let rows: String = pairs.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value))).collect();
    format!("<dl>{rows}</dl>\n")
}

/// A chart; one without points is mentioned instead, since a report should not fail for it.
fn figure(plot: &Plot) -> String {
    match plot.svg() {
        Ok(svg) => format!("<figure>{svg}</figure>\n"),
        Err(e) => {
            format!("<p class=\"note\">{}: {}</p>\n", escape(if plot.title.is_empty() { "plot" } else { &plot.title }), escape(&e.message))
        }
    }
}

fn checks(list: &[Check]) -> String {
    let failed = list.iter().filter(|c| !c.passed).count();
    let (class, verdict) = match failed {
        0 => ("pass", format!("{} of {} checks passed", list.len(), list.len())),
        n => ("fail", format!("{n} of {} checks failed", list.len())),
    };
    let items: String = list
        .iter()
        .map(|c| {
            let (class, mark, word) = if c.passed { ("pass", "✓", "passed") } else { ("fail", "✗", "failed") };
            let detail = if c.detail.is_empty() { String::new() } else { format!("<small>{}</small>", escape(&c.detail)) };
            format!("<li class=\"{class}\"><b aria-label=\"{word}\">{mark}</b><span>{}{detail}</span></li>", escape(&c.claim))
        })
        .collect();
    format!("<p class=\"verdict {class}\">{verdict}</p>\n<ul class=\"checks\">{items}</ul>\n")
}

impl Section {
    fn html(&self) -> String {
        match self {
            Section::Heading(text) => format!("<h2>{}</h2>\n", escape(text)),
            Section::Text(text) => format!("<p>{}</p>\n", escape(text)),
            Section::Printed(lines) if lines.is_empty() => String::new(),
            Section::Printed(lines) => format!("<pre class=\"out\">{}</pre>\n", escape(&lines.join("\n"))),
            Section::Table(table) => format!("<div class=\"wide\">{}</div>\n", table.html()),
            Section::Plot(plot) => figure(plot),
            Section::Checks(list) if list.is_empty() => String::new(),
            Section::Checks(list) => checks(list),
            Section::Run(run) => {
                let parts = |title: &str, pairs: &[(String, String)]| {
                    if pairs.is_empty() { String::new() } else { format!("<div><h4>{title}</h4>{}</div>", facts(pairs)) }
                };
                let plots: String = run.plots.iter().map(figure).collect();
                let columns = parts("Settings", &run.settings) + &parts("Results", &run.results);
                format!("<section class=\"run\"><h3>{}</h3><div class=\"columns\">{columns}</div>{plots}</section>\n", escape(&run.name))
            }
        }
    }
}

impl Report {
    /// The report as one HTML document that needs nothing else: styles and charts are inside, and there are no scripts.
    pub fn html(&self) -> String {
        let mut head = self.facts.clone();
        let mut fact = |at: usize, name: &str, value: String| {
            if !value.is_empty() {
                head.insert(at.min(head.len()), (name.to_string(), value));
            }
        };
        if !self.spec.is_empty() {
            fact(0, "SHA-256", sha256(self.spec.as_bytes()));
        }
        fact(0, "Spec", self.spec_name.clone());
        fact(0, "Date", self.date.clone());
        fact(0, "Command", self.command.clone());
        let body: String = self.sections.iter().map(Section::html).collect();
        let spec = if self.spec.is_empty() {
            String::new()
        } else {
            let name = if self.spec_name.is_empty() { "Spec" } else { &self.spec_name };
            format!("<h2>{}</h2>\n<pre class=\"spec\"><code>{}</code></pre>\n", escape(name), highlight::html(&self.spec))
        };
        let (title, style) = (escape(&self.title), style::CSS);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n\
             <body>\n<main>\n<header><h1>{title}</h1>\n{}</header>\n{body}{spec}</main>\n</body>\n</html>\n",
            facts(&head)
        )
    }
    /// Writes the report, atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write(path, self.html().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Line;

    fn sample() -> Report {
        let mut table = Table::new(["optimizer", "accuracy"]);
        table.push(["<lion>".into(), 0.97222.into()]);
        let plot = Plot { lines: vec![Line::values("loss", &[3.0, 2.0, 1.0])], ..Plot::default() };
        let run = RunSummary {
            name: "digits_mlp with { seed = 1 }".into(),
            settings: vec![("steps".into(), "1000".into())],
            results: vec![("loss".into(), "0.1".into())],
            plots: vec![plot.clone(), Plot::default()],
        };
        let check = |claim: &str, passed| Check { claim: claim.into(), passed, detail: "0.9 >= 0.8".into() };
        Report {
            title: "lion & <adamw>".into(),
            spec_name: "digits.opt".into(),
            spec: "let a = \"</code><script>\" # <b>".into(),
            command: "optc run digits.opt --report r.html".into(),
            date: "2026-01-01".into(),
            facts: vec![("Threads".into(), "2".into())],
            sections: vec![
                Section::Heading("Results".into()),
                Section::Text("a < b".into()),
                Section::Printed(vec!["one".into(), "two\u{1b}[0m".into()]),
                Section::Table(table),
                Section::Plot(plot),
                Section::Checks(vec![check("lion keeps up", true), check("adamw keeps up", false)]),
                Section::Run(run),
            ],
        }
    }

    /// Names of open tags at each point; fails if they do not nest.
    fn assert_nested(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            let end = at + rest[at..].find('>').unwrap();
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "in {}", &html[..html.len().min(200)]);
            } else if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta") {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_report_is_whole_and_well_formed() {
        let html = sample().html();
        assert_nested(&html);
        for part in [
            "lion &amp; &lt;adamw&gt;",
            "0.9722",
            "&lt;lion&gt;",
            "1 of 2 checks failed",
            "2026-01-01",
            "Threads",
            "two[0m",
            &sha256(sample().spec.as_bytes()),
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert_eq!(html.matches("<svg").count(), 2);
        assert_nested(&Report::default().html());
    }

    #[test]
    fn nothing_is_loaded_and_nothing_runs() {
        let html = sample().html().replace("http://www.w3.org/2000/svg", "");
        for bad in ["<script", "http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(bad), "{bad}");
        }
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
