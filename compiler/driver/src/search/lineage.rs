//! Where a program came from: its parents, and what changed from each to the next.

use super::archive::{Archive, ProgramRow};
use std::collections::BTreeSet;

/// Most programs of a lineage.
const LONGEST: usize = 10_000;

/// A program of a lineage.
#[derive(Clone, Debug)]
pub struct Ancestor {
    /// The program.
    pub row: ProgramRow,
    /// How its statements differ from its parent's, both without dead code; nothing for the first.
    pub changes: Vec<Change>,
}

/// A difference between the statements of two programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A statement came in.
    In(String),
    /// One went out.
    Out(String),
    /// One took the place of another.
    Instead(String, String),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::In(new) => write!(f, "+ {new}"),
            Change::Out(old) => write!(f, "- {old}"),
            Change::Instead(old, new) => write!(f, "{old}  ->  {new}"),
        }
    }
}

/// The statements of a program's text.
pub fn statements(text: &str) -> Vec<&str> {
    text.lines().skip(1).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("return")).collect()
}

/// How the statements of a program differ from those of another: by a longest common subsequence, statements that went out before others that came in at the same place are paired with them.
pub fn changes(before: &str, after: &str) -> Vec<Change> {
    let (a, b) = (statements(before), statements(after));
    // Lengths of the common subsequences of what follows.
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let mut flush = |gone: &mut Vec<&str>, new: &mut Vec<&str>| {
        let paired = gone.len().min(new.len());
        out.extend(gone.iter().zip(new.iter()).map(|(o, n)| Change::Instead((*o).to_string(), (*n).to_string())));
        out.extend(gone[paired..].iter().map(|o| Change::Out((*o).to_string())));
        out.extend(new[paired..].iter().map(|n| Change::In((*n).to_string())));
        gone.clear();
        new.clear();
    };
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            flush(&mut gone, &mut new);
            i += 1;
            j += 1;
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            gone.push(a[i]);
            i += 1;
        } else {
            new.push(b[j]);
            j += 1;
        }
    }
    flush(&mut gone, &mut new);
    out
}

/// A program with those it came from, itself first.
///
/// # Errors
/// An archive that cannot be read.
pub fn lineage(archive: &Archive, of: ProgramRow) -> Result<Vec<Ancestor>, String> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = Some(of);
    while let Some(row) = next.take() {
        let parent = if seen.insert(row.hash) && seen.len() < LONGEST && row.parent != 0 { archive.program(row.parent)? } else { None };
        let parent = parent.filter(|p| !seen.contains(&p.hash));
        let changes = parent.as_ref().map_or(Vec::new(), |p| changes(&p.text, &row.text));
        all.push(Ancestor { row, changes });
        next = parent;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_statement() {
        let program = |body: &[&str]| format!("def train(w, g):\n  {}\n  return update\n", body.join("\n  "));
        let before = program(&["m = interpolate(g, m, 0.9)", "x0 = square(g)", "update = m * lr"]);
        let after = program(&["m = interpolate(g, m, 0.9)", "update = sign(m)", "update = update * lr"]);
        let seen: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(seen, ["x0 = square(g)  ->  update = sign(m)", "update = m * lr  ->  update = update * lr"]);
        let longer = program(&["m = interpolate(g, m, 0.9)", "x0 = square(g)", "x0 = sqrt(x0)", "update = m * lr"]);
        assert_eq!(changes(&before, &longer), [Change::In("x0 = sqrt(x0)".to_string())]);
        assert_eq!(changes(&longer, &before), [Change::Out("x0 = sqrt(x0)".to_string())]);
        assert!(changes(&before, &before).is_empty());
    }
}
