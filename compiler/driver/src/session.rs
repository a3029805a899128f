//! A spec with everything it imports: found, loaded, checked.

use crate::messages::Messages;
use optc_base::{Code, Diagnostic, Severity, SourceId, Span, nearest};
use optc_elab::script::RunSettings;
use optc_front::ast::{BlockKind, Expr, ExprKind, FnKind, Item, ItemKind, Param, StrPart};
use optc_front::{FileLoader, ItemRef, ModuleId, Program};
use std::path::{Path, PathBuf};

/// The command could not do what was asked; why has been printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Largest spec that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// Reads specs from the file system.
pub struct Files;

impl FileLoader for Files {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let full = crate::host_env::folder_of(Path::new(from)).join(path);
        let text = read_text(&full)?;
        Ok((canonical(&full), text))
    }
}

/// The text of a spec.
///
/// # Errors
/// In words.
pub fn read_text(path: &Path) -> Result<String, String> {
    if path == Path::new(crate::search::suite::PATH) {
        return Ok(crate::search::suite::TEXT.to_string());
    }
    let meta = std::fs::metadata(path).map_err(|e| reason(&e))?;
    if meta.is_dir() {
        return Err("this is a folder".to_string());
    }
    if meta.len() > LARGEST {
        return Err(format!("{} bytes are too many for a spec", meta.len()));
    }
    let bytes = std::fs::read(path).map_err(|e| reason(&e))?;
    String::from_utf8(bytes).map_err(|e| format!("byte {} is not UTF-8", e.utf8_error().valid_up_to()))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_string(),
        std::io::ErrorKind::PermissionDenied => "this file may not be read".to_string(),
        _ => error.to_string(),
    }
}

/// A path without `.` and needless `..`, with `/` between its parts: one name per file. Never the name of a file of the standard library.
pub fn canonical(path: &Path) -> String {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    let name = out.to_string_lossy().replace('\\', "/");
    if name.starts_with("std/") { format!("./{name}") } else { name }
}

/// A loaded spec.
pub struct Session {
    /// Its files.
    pub program: Program,
    /// What is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
    /// Where it lies.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What the command line asks of runs.
    pub settings: RunSettings,
}

impl Session {
    /// Loads the spec at `path` with everything it imports.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    pub fn load(path: &Path) -> Result<Session, String> {
        let text = read_text(path)?;
        let name = canonical(path);
        Ok(Session::from_text(&name, text, &Files))
    }

    /// A spec that stands in no file (yet).
    pub fn from_text(name: &str, text: String, files: &dyn FileLoader) -> Session {
        let (program, diagnostics) = optc_front::load(name, &text, files);
        Session { program, diagnostics, path: PathBuf::from(name), text, settings: RunSettings::default() }
    }

    /// Takes the overrides of a command line: `name=value` each. Constants of the spec change at once, settings of trains when they run.
    pub fn set(&mut self, overrides: &[String], seed: Option<u64>, resume: bool) {
        for text in overrides {
            self.set_one(text);
        }
        self.settings.seed = seed.or(self.settings.seed);
        self.settings.resume |= resume;
    }

    fn set_one(&mut self, text: &str) {
        // What is shown has the same length as what is parsed, so that places agree: `--set lr=3` and `const vv=3`.
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let source = self.program.sources.add("command line", format!("--set {text}"));
        let at = |start: usize, end: usize| Span::new(source, 6 + start, 6 + end);
        let is_path = |n: &str| {
            n.split('.').all(|part| {
                part.starts_with(|c: char| c.is_alphabetic() || c == '_') && part.chars().all(|c| c.is_alphanumeric() || c == '_')
            })
        };
        let trimmed = name.trim();
        if !text.contains('=') || value.trim().is_empty() || !is_path(trimmed) {
            let d = Diagnostic::error(Code("E0510"), at(0, text.len()), "an override is `name=value`")
                .help("`--set steps=200`, `--set net.hidden=32`");
            self.diagnostics.push(d);
            return;
        }
        if let Some(word) = self.text_for(trimmed, value.trim()) {
            let start = text.len() - value.trim_start().len();
            let kind = ExprKind::Str(vec![StrPart::Text(word.as_str().into())]);
            self.set_const(trimmed, &Expr { kind, span: at(start, start + word.len()), id: Default::default() });
            self.settings.constants.retain(|(n, _)| n != trimmed);
            self.settings.constants.push((trimmed.to_string(), word));
            return;
        }
        let standin = format!("const {}={value}", "v".repeat(name.len()));
        let (file, mut errors) = optc_front::parse(source, &standin);
        let parsed = match file.items.into_iter().map(|i| i.kind).next() {
            Some(ItemKind::Const { value, .. }) if errors.is_empty() => value,
            _ => {
                errors.truncate(1);
                if errors.is_empty() {
                    errors.push(Diagnostic::error(Code("E0510"), at(name.len() + 1, text.len()), "this is not an expression"));
                }
                self.diagnostics.extend(errors);
                return;
            }
        };
        if self.set_const(trimmed, &parsed) {
            self.settings.constants.retain(|(n, _)| n != trimmed);
            self.settings.constants.push((trimmed.to_string(), value.trim().to_string()));
        } else {
            self.settings.set.push((trimmed.to_string(), parsed, source));
        }
    }

    /// Gives a constant of the spec another value. False if there is none of this name.
    /// The text that a constant takes which is a string, where it stands without quotation marks.
    fn text_for(&self, wanted: &str, value: &str) -> Option<String> {
        let items = &self.program.modules.first()?.file.items;
        let is_text = items.iter().any(|item| match &item.kind {
            ItemKind::Const { name, value, .. } => &*name.text == wanted && matches!(value.kind, ExprKind::Str(_)),
            _ => false,
        });
        (is_text && !value.starts_with('"') && value != "none").then(|| value.to_string())
    }

    fn set_const(&mut self, wanted: &str, new: &Expr) -> bool {
        let Some(root) = self.program.modules.first_mut() else { return false };
        for item in &mut root.file.items {
            if let ItemKind::Const { name, value, .. } = &mut item.kind
                && &*name.text == wanted
            {
                *value = new.clone();
                return true;
            }
        }
        false
    }

    /// Checks every item, in addition to what loading found; diagnostics end up in the order of the text, each once.
    pub fn check(&mut self) {
        let found = optc_elab::check(&self.program);
        self.diagnostics.extend(found);
        let searches = crate::search::block::check(self);
        self.diagnostics.extend(searches);
        self.diagnostics.sort_by_key(|d| (d.primary.span.source, d.primary.span.start));
        self.diagnostics.dedup();
    }

    /// Whether an error was found.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    /// Checks and prints what was found.
    ///
    /// # Errors
    /// If there is an error.
    pub fn checked(mut self, messages: &Messages) -> Result<Session, Failed> {
        self.check();
        if messages.print(&self.diagnostics, &self.program.sources) { Err(Failed) } else { Ok(self) }
    }

    /// Loads, applies overrides, checks, prints what was found.
    ///
    /// # Errors
    /// If the file cannot be read or there is an error in it.
    pub fn open(path: &Path, overrides: &[String], messages: &Messages) -> Result<Session, Failed> {
        let mut session = match Session::load(path) {
            Ok(s) => s,
            Err(why) => {
                messages.error("R0101", &format!("cannot read {}: {why}", path.display()), None);
                return Err(Failed);
            }
        };
        session.set(overrides, None, false);
        session.checked(messages)
    }

    /// Items of the root file.
    pub fn items(&self) -> impl Iterator<Item = (ItemRef, &Item)> {
        let items = self.program.modules.first().map_or(&[][..], |m| &m.file.items);
        items.iter().enumerate().map(|(index, item)| (ItemRef { module: ModuleId(0), index: index as u32 }, item))
    }

    /// `train` blocks of the root file.
    pub fn trains(&self) -> Vec<ItemRef> {
        self.items().filter(|(_, i)| matches!(&i.kind, ItemKind::Block(b) if b.kind == BlockKind::Train)).map(|(r, _)| r).collect()
    }

    /// Experiments of the root file.
    pub fn experiments(&self) -> Vec<ItemRef> {
        self.items().filter(|(_, i)| matches!(&i.kind, ItemKind::Experiment(_))).map(|(r, _)| r).collect()
    }

    /// The function of this name in the root file.
    pub fn function(&self, name: &str) -> Option<ItemRef> {
        let is_function = |i: &Item| matches!(&i.kind, ItemKind::Fn(f) if f.kind == FnKind::Fn && &*f.name.text == name);
        self.items().find(|(_, i)| is_function(i)).map(|(r, _)| r)
    }

    /// The name of an item ("" for an import).
    pub fn name(&self, item: ItemRef) -> &str {
        self.program.item(item).name().map_or("", |n| &n.text)
    }

    /// Whether an item can be used without arguments.
    pub fn needs_arguments(&self, item: ItemRef) -> bool {
        params(self.program.item(item)).iter().any(|p| p.default.is_none())
    }

    /// The item of this name, out of `allowed`.
    ///
    /// # Errors
    /// There is none: a message and a help line.
    pub fn find(&self, name: &str, allowed: &[ItemRef], what: &str) -> Result<ItemRef, (String, Option<String>)> {
        if let Some(found) = allowed.iter().copied().find(|&i| self.name(i) == name) {
            return Ok(found);
        }
        let names: Vec<&str> = allowed.iter().map(|&i| self.name(i)).collect();
        let list = || if names.is_empty() { format!("it has no {what}") } else { format!("it has {}", names.join(", ")) };
        if let Some((_, item)) = self.items().find(|(_, i)| i.name().is_some_and(|n| &*n.text == name)) {
            return Err((format!("`{name}` is a {}, not a {what}", kind(item)), Some(list())));
        }
        let help = nearest(name, names.iter().copied()).map(|n| format!("did you mean `{n}`")).or_else(|| Some(list()));
        Err((format!("{} has no {what} `{name}`", self.path.display()), help))
    }

    /// Adds a source for a message that is about the command line.
    pub fn command_line(&mut self, text: &str) -> SourceId {
        self.program.sources.add("command line", text)
    }
}

/// Parameters of an item.
pub fn params(item: &Item) -> &[Param] {
    match &item.kind {
        ItemKind::Fn(f) => &f.params,
        ItemKind::Block(b) => &b.params,
        ItemKind::Experiment(e) => &e.params,
        ItemKind::Extern(e) => &e.params,
        ItemKind::Import(_) | ItemKind::Const { .. } | ItemKind::TypeAlias { .. } => &[],
    }
}

/// What an item is, as its keyword.
pub fn kind(item: &Item) -> &'static str {
    match &item.kind {
        ItemKind::Import(_) => "import",
        ItemKind::Const { .. } => "const",
        ItemKind::TypeAlias { .. } => "type",
        ItemKind::Fn(f) => match f.kind {
            FnKind::Fn => "fn",
            FnKind::HostFn => "host fn",
            FnKind::Layer => "layer",
            FnKind::Model => "model",
            FnKind::Loss => "loss",
            FnKind::Schedule => "schedule",
            FnKind::Optimizer => "optimizer",
        },
        ItemKind::Block(b) => match b.kind {
            BlockKind::Data => "data block",
            BlockKind::Train => "train",
            BlockKind::Search => "search",
        },
        ItemKind::Experiment(_) => "experiment",
        ItemKind::Extern(_) => "extern process",
    }
}

/// All specs among the paths: files as they are, folders searched recursively for `.opt`, hidden folders and those named `out` or `target` left out. Sorted, each once.
///
/// # Errors
/// A path that does not exist.
pub fn specs(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|e| format!("cannot read {}: {}", path.display(), reason(&e)))?;
        if meta.is_dir() {
            let mut inside = Vec::new();
            collect(path, &mut inside).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            inside.sort();
            found.extend(inside);
        } else {
            found.push(path.clone());
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|p| seen.insert(canonical(p)));
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Links to folders are not followed: they may form rings.
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "out" && name != "target" {
                collect(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "opt") && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_name() {
        let name = |p: &str| canonical(Path::new(p));
        assert_eq!(name("a/./b/../c.opt"), "a/c.opt");
        assert_eq!(name("../x/../y.opt"), "../y.opt");
        assert_eq!(name("/../y.opt"), "/y.opt");
        assert_eq!(name("std/optim/lion.opt"), "./std/optim/lion.opt");
    }

    #[test]
    fn overrides_keep_their_places() {
        let mut s = Session::from_text("a.opt", "const k = 3\n".into(), &Files);
        s.set(&["net.hidden=32".into(), "k=5".into(), "optimizer=adamw(lr = 1e-3)".into()], Some(7), false);
        assert!(s.diagnostics.is_empty(), "{:?}", s.diagnostics);
        let (name, value, source) = &s.settings.set[0];
        assert_eq!((name.as_str(), s.program.sources.slice(value.span), value.span.source), ("net.hidden", "32", *source));
        assert_eq!(s.settings.set.len(), 2);
        assert!(
            matches!(&s.program.modules[0].file.items[0].kind, ItemKind::Const { value, .. } if s.program.sources.slice(value.span) == "5")
        );
    }

    #[test]
    fn bad_overrides_are_errors_with_a_place() {
        for bad in ["steps", "steps=", "=3", "a b=3", "steps=(", "x=1 2"] {
            let mut s = Session::from_text("a.opt", String::new(), &Files);
            s.set(&[bad.to_string()], None, false);
            assert!(s.has_errors(), "{bad}");
            let shown = s.diagnostics[0].render(&s.program.sources, false);
            assert!(shown.contains("command line:1:") && shown.contains(&format!("--set {bad}")), "{shown}");
        }
    }
}
