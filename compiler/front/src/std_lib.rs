//! The embedded standard library: which items there are, in which file, and how to show them.

use crate::ast::ItemKind;
use crate::item_names::items;
use optc_base::SourceId;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

/// A file of the standard library.
#[derive(Debug)]
pub struct StdFile {
    /// Its folder, as in imports: `std.optim`.
    pub folder: &'static str,
    /// Its canonical name: `std/optim/lion.opt`.
    pub name: &'static str,
    /// Names of its items.
    pub items: &'static [&'static str],
    /// Its text.
    pub text: &'static str,
}

/// The embedded files, sorted by name.
static EMBEDDED: &[StdFile] = include!(concat!(env!("OUT_DIR"), "/stdlib.rs"));

/// All files, sorted by name. The folder that `OPTC_STDLIB` names takes the place of what is embedded: a changed library is tried without a build.
static FILES: LazyLock<&[StdFile]> = LazyLock::new(|| match (SETTLED.get(), replacement()) {
    (Some(None), _) => EMBEDDED,
    (Some(Some(files)), _) => library(files.clone()),
    (None, Some(folder)) => library(read_folder(Path::new(&folder))),
    (None, None) => EMBEDDED,
});

/// What [`settle`] was given.
static SETTLED: OnceLock<Option<Vec<(String, String)>>> = OnceLock::new();

/// The folder that stands for the embedded library, if there is one.
fn replacement() -> Option<OsString> {
    std::env::var_os("OPTC_STDLIB").filter(|folder| !folder.is_empty())
}

/// Makes these files the library, whatever the environment says: their names (`std/optim/lion.opt`) and texts; the embedded ones if there are none. To be called before the
/// library is first used.
pub fn settle(files: Option<Vec<(String, String)>>) {
    // A second call would be about a library that is in use.
    let _ = SETTLED.set(files);
}

/// Names and texts of the files that stand for the embedded library, if the environment names some.
pub fn replaced() -> Option<Vec<(String, String)>> {
    replacement().map(|_| FILES.iter().map(|f| (f.name.to_string(), f.text.to_string())).collect())
}

/// Names and texts of the files in a folder. Files that cannot be read are left out: names from them will not be found.
fn read_folder(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "opt") {
                let Ok(text) = std::fs::read_to_string(&path) else { continue };
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                found.push((format!("std/{relative}"), text));
            }
        }
    }
    found
}

/// A library of these files, for the life of the process.
fn library(files: Vec<(String, String)>) -> &'static [StdFile] {
    let keep = |s: String| -> &'static str { Box::leak(s.into_boxed_str()) };
    let mut found: Vec<StdFile> = files
        .into_iter()
        .map(|(name, text)| {
            let text = keep(text);
            let folder = name.rsplit_once('/').map_or("", |(f, _)| f).replace('/', ".");
            StdFile { folder: keep(folder), name: keep(name), items: items(text).leak(), text }
        })
        .collect();
    found.sort_by_key(|f| f.name);
    found.leak()
}

/// Names that are built in and may be imported from `std.nn` all the same.
pub const BUILT_IN: &[&str] = &["relu", "silu", "gelu", "softmax", "log_softmax", "softplus", "sigmoid", "tanh"];

/// All files of the standard library.
pub fn std_files() -> &'static [StdFile] {
    &FILES
}

/// The folders: `std.init`, `std.loss`, ….
pub fn std_folders() -> Vec<&'static str> {
    let mut folders: Vec<&str> = FILES.iter().map(|f| f.folder).collect();
    folders.dedup();
    folders
}

/// The public items of a folder, sorted.
pub fn std_members(folder: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = FILES.iter().filter(|f| f.folder == folder).flat_map(|f| f.items.iter().copied()).collect();
    names.retain(|n| !n.starts_with('_'));
    names.sort_unstable();
    names
}

/// The file that holds `item` of `folder`.
pub fn std_file_of(folder: &str, item: &str) -> Option<&'static StdFile> {
    std_files_of(folder, item).next()
}

/// The files that define `item` of `folder`: one, unless the library is at fault.
pub fn std_files_of<'a>(folder: &'a str, item: &'a str) -> impl Iterator<Item = &'static StdFile> + 'a {
    FILES.iter().filter(move |f| f.folder == folder && f.items.contains(&item))
}

/// The paths under which the standard library has an item of this name, layers and losses before schedules and initializers.
pub fn std_paths(name: &str) -> Vec<String> {
    if name.starts_with('_') {
        return Vec::new();
    }
    let mut found: Vec<&StdFile> = FILES.iter().filter(|f| f.items.contains(&name)).collect();
    let order = ["std.nn", "std.loss", "std.optim", "std.schedule"];
    found.sort_by_key(|f| order.iter().position(|o| *o == f.folder).unwrap_or(order.len()));
    found.into_iter().map(|f| format!("{}.{name}", f.folder)).collect()
}

/// The path of an item of the standard library (`std.optim.lion` for `lion`), for suggestions.
pub fn std_lookup(name: &str) -> Option<String> {
    std_paths(name).into_iter().next()
}

/// The text of an item with its documentation (`std.optim.lion`), or the list of a folder (`std.optim`, `std`).
pub fn std_source(path: &str) -> Option<String> {
    if path == "std" {
        let lines = std_folders().into_iter().map(|f| format!("{f}: {}\n", std_members(f).join(" ")));
        return Some(lines.collect());
    }
    let members = std_members(path);
    if !members.is_empty() {
        let mut out = String::new();
        for name in members {
            let summary = std_source(&format!("{path}.{name}"))?;
            let first = summary.lines().find_map(|l| l.strip_prefix("## ")).unwrap_or("");
            out.push_str(&format!("{path}.{name}: {first}\n"));
        }
        return Some(out);
    }
    let (folder, item) = path.rsplit_once('.')?;
    let file = std_file_of(folder, item)?;
    let (tree, _) = crate::parse(SourceId(0), file.text);
    let found = tree.items.iter().find(|i| i.name().is_some_and(|n| &*n.text == item) && !matches!(i.kind, ItemKind::Import(_)))?;
    let mut out = String::new();
    for line in found.doc.lines() {
        out.push_str(format!("## {line}").trim_end());
        out.push('\n');
    }
    out.push_str(&file.text[found.span.range()]);
    out.push('\n');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_agrees_with_the_parser() {
        for file in std_files() {
            let (tree, errors) = crate::parse(SourceId(0), file.text);
            assert!(errors.is_empty(), "{}", file.name);
            let names: Vec<&str> = tree.items.iter().filter_map(|i| i.name()).map(|n| &*n.text).collect();
            assert_eq!(names, file.items, "{}", file.name);
        }
    }

    #[test]
    fn a_library_in_a_folder_is_the_embedded_one() {
        let read = library(read_folder(Path::new("../../stdlib")));
        let lines =
            |files: &[StdFile]| files.iter().map(|f| format!("{} {} {:?} {}", f.folder, f.name, f.items, f.text)).collect::<Vec<_>>();
        assert_eq!(lines(read), lines(EMBEDDED));
    }

    #[test]
    fn a_public_name_is_in_one_file_of_its_folder() {
        for folder in std_folders() {
            let names = std_members(folder);
            let twice: Vec<&str> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
            assert!(twice.is_empty(), "{folder}: {twice:?} in several files");
        }
    }

    #[test]
    fn names_are_found_and_shown() {
        assert_eq!(std_lookup("lion").as_deref(), Some("std.optim.lion"));
        assert_eq!(std_paths("linear"), ["std.nn.linear", "std.schedule.linear"]);
        assert_eq!(std_lookup("no_such_thing"), None);
        let lion = std_source("std.optim.lion").expect("lion is there");
        assert!(lion.starts_with("## Lion:") && lion.ends_with("}\n"), "{lion}");
        assert!(std_source("std.optim").is_some_and(|s| s.contains("std.optim.sgd: ")));
        assert!(std_source("std").is_some_and(|s| s.contains("std.optim: ")));
        assert_eq!(std_source("std.optim.lyon"), None);
    }
}
