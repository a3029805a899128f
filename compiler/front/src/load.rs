//! Loads a program: parses the root, follows its imports, makes the scopes.

use crate::ast::{File, Import, ItemKind, Name, Param};
use crate::modules::{Def, FileLoader, ItemRef, Module, ModuleId, Program};
use crate::std_lib::{self, StdFile};
use indexmap::IndexMap;
use optc_base::{Code, Diagnostic, Span, nearest};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// No such module of the standard library.
pub(crate) const UNKNOWN_MODULE: Code = Code("E0250");
/// A module has no such item.
pub(crate) const UNKNOWN_MEMBER: Code = Code("E0251");
/// An imported file cannot be read.
pub(crate) const FILE: Code = Code("E0252");
/// Files import each other.
pub(crate) const CYCLE: Code = Code("E0253");
/// Two items of one name.
pub(crate) const DUPLICATE: Code = Code("E0254");
/// Two parameters of one name.
pub(crate) const DUPLICATE_PARAM: Code = Code("E0255");
/// A private item of another file.
pub(crate) const PRIVATE: Code = Code("E0256");

/// Loads the program whose root is the file `path_name` with this text. Files are read through `files`; the standard library is embedded, and only the files
/// of it that are imported are parsed. The program is usable whatever the diagnostics: what could not be resolved is missing from the scopes.
pub fn load(path_name: &str, text: &str, files: &dyn FileLoader) -> (Program, Vec<Diagnostic>) {
    let mut loader = Loader {
        files,
        program: Program::default(),
        errors: Vec::new(),
        by_name: FxHashMap::default(),
        edges: Vec::new(),
        std_modules: FxHashMap::default(),
    };
    loader.add(path_name, text);
    // Modules are appended while their importers are resolved.
    let mut next = 0;
    while next < loader.program.modules.len() {
        loader.scan_items(ModuleId(next as u32));
        loader.follow_imports(ModuleId(next as u32));
        next += 1;
    }
    for index in 0..loader.program.modules.len() {
        loader.fill_scope(ModuleId(index as u32));
    }
    loader.report_cycles();
    (loader.program, loader.errors)
}

/// An import as it was resolved.
enum Target {
    /// Whole modules: (module, alias, span).
    File(ModuleId, Option<Name>, Span),
    /// Items of the standard library.
    Items(Vec<(Name, ItemRef)>),
    /// A folder of the standard library.
    Folder(Name, ModuleId),
}

struct Loader<'a> {
    files: &'a dyn FileLoader,
    program: Program,
    errors: Vec<Diagnostic>,
    by_name: FxHashMap<String, ModuleId>,
    /// Per module: what it imports.
    edges: Vec<Vec<Target>>,
    /// Folders of the standard library imported as a whole.
    std_modules: FxHashMap<String, ModuleId>,
}

impl Loader<'_> {
    /// Parses a text as a new module.
    fn add(&mut self, name: &str, text: &str) -> ModuleId {
        let id = ModuleId(self.program.modules.len() as u32);
        let source = self.program.sources.add(name, text);
        let (file, errors) = crate::parse(source, text);
        self.errors.extend(errors);
        self.program.modules.push(Module { name: Arc::from(name), source, file, scope: IndexMap::new() });
        self.edges.push(Vec::new());
        self.by_name.insert(name.to_string(), id);
        id
    }

    fn std_file(&mut self, file: &StdFile) -> ModuleId {
        match self.by_name.get(file.name) {
            Some(id) => *id,
            None => self.add(file.name, file.text),
        }
    }

    /// The module that stands for a whole folder: no text, the folder's public items in its scope.
    fn std_folder(&mut self, folder: &str) -> ModuleId {
        if let Some(id) = self.std_modules.get(folder) {
            return *id;
        }
        let id = ModuleId(self.program.modules.len() as u32);
        let source = self.program.sources.add(folder, "");
        self.program.modules.push(Module { name: Arc::from(folder), source, file: File::default(), scope: IndexMap::new() });
        self.edges.push(Vec::new());
        self.std_modules.insert(folder.to_string(), id);
        let mut scope = IndexMap::new();
        for file in std_lib::std_files().iter().filter(|f| f.folder == folder) {
            let module = self.std_file(file);
            for item in file.items.iter().filter(|i| !i.starts_with('_')) {
                if let Some(found) = self.find(module, item) {
                    scope.insert(Arc::from(*item), Def::Item(found));
                }
            }
        }
        self.program.modules[id.0 as usize].scope = scope;
        id
    }

    /// The item `name` defined in `module` itself.
    fn find(&self, module: ModuleId, name: &str) -> Option<ItemRef> {
        let items = &self.program.module(module).file.items;
        let index = items.iter().position(|i| i.name().is_some_and(|n| &*n.text == name))?;
        Some(ItemRef { module, index: index as u32 })
    }

    /// Own items into the scope; reports those defined twice, and parameters named twice.
    fn scan_items(&mut self, id: ModuleId) {
        let mut scope: IndexMap<Arc<str>, Def> = IndexMap::new();
        let mut errors = Vec::new();
        let module = self.program.module(id);
        for (index, item) in module.file.items.iter().enumerate() {
            let params = match &item.kind {
                ItemKind::Fn(f) => &f.params,
                ItemKind::Block(b) => &b.params,
                ItemKind::Experiment(e) => &e.params,
                ItemKind::Extern(e) => &e.params,
                _ => &Vec::new(),
            };
            duplicate_params(params, &mut errors);
            let Some(name) = item.name() else { continue };
            match scope.get(&name.text) {
                Some(Def::Item(first)) => {
                    let first = module.file.items[first.index as usize].name().map_or(name.span, |n| n.span);
                    errors.push(
                        Diagnostic::error(DUPLICATE, name.span, format!("`{}` is defined twice", name.text))
                            .at("defined again here")
                            .label(first, "first defined here")
                            .help("rename one of them"),
                    );
                }
                _ => {
                    scope.insert(name.text.clone(), Def::Item(ItemRef { module: id, index: index as u32 }));
                }
            }
        }
        self.errors.extend(errors);
        let own = &mut self.program.modules[id.0 as usize].scope;
        // A folder's scope is already there.
        if own.is_empty() {
            *own = scope;
        }
    }

    fn follow_imports(&mut self, id: ModuleId) {
        let imports: Vec<(Import, Span)> = self
            .program
            .module(id)
            .file
            .items
            .iter()
            .filter_map(|i| if let ItemKind::Import(import) = &i.kind { Some((import.clone(), i.span)) } else { None })
            .collect();
        for (import, span) in imports {
            let target = match import {
                Import::Std { path, names, alias } => self.std_import(&path, &names, alias),
                Import::File { path, path_span, alias } => {
                    let from = self.program.module(id).name.clone();
                    match self.files.read(&from, &path) {
                        Ok((name, text)) => {
                            let known = self.by_name.get(&name).copied();
                            let module = known.unwrap_or_else(|| self.add(&name, &text));
                            Some(Target::File(module, alias, span))
                        }
                        Err(why) => {
                            self.errors.push(
                                Diagnostic::error(FILE, path_span, format!("cannot import `{path}`"))
                                    .at(why)
                                    .help("the path is relative to the file that imports it"),
                            );
                            None
                        }
                    }
                }
            };
            self.edges[id.0 as usize].extend(target);
        }
    }

    fn std_import(&mut self, path: &[Name], names: &[Name], alias: Option<Name>) -> Option<Target> {
        let dotted = |parts: &[&Name]| parts.iter().map(|n| &*n.text).collect::<Vec<_>>().join(".");
        let place = |parts: &[&Name]| match (parts.first(), parts.last()) {
            (Some(a), Some(b)) => a.span.to(b.span),
            _ => Span::default(),
        };
        let front: Vec<&Name> = path.iter().collect();
        // `import std.optim` or `import std.optim as o`: the last segment is the folder.
        if let [last] = names {
            let whole: Vec<&Name> = path.iter().chain([last]).collect();
            let name = dotted(&whole);
            if std_lib::std_folders().contains(&name.as_str()) {
                let module = self.std_folder(&name);
                return Some(Target::Folder(alias.unwrap_or_else(|| last.clone()), module));
            }
        }
        let folder = dotted(&front);
        let folders = std_lib::std_folders();
        if !folders.contains(&folder.as_str()) {
            let all: Vec<&Name> = if front.len() < 2 { path.iter().chain(names).collect() } else { front };
            let asked = dotted(&all);
            let mut error = Diagnostic::error(UNKNOWN_MODULE, place(&all), format!("there is no module `{asked}`"));
            let found = names.iter().find_map(|n| std_lib::std_lookup(&n.text));
            error.help = Some(match (found, nearest(&asked, folders.iter().copied())) {
                (Some(path), _) => format!("did you mean `import {path}`"),
                (None, Some(near)) => format!("did you mean `{near}`"),
                (None, None) => format!("the modules are {}; a file is imported by its path: `import \"layers.opt\"`", folders.join(", ")),
            });
            self.errors.push(error);
            return None;
        }
        let mut items = Vec::new();
        for name in names {
            if folder == "std.nn" && std_lib::BUILT_IN.contains(&&*name.text) {
                continue;
            }
            if name.text.starts_with('_') {
                self.errors.push(private(name, &folder));
                continue;
            }
            let mut found = std_lib::std_files_of(&folder, &name.text);
            match (found.next(), found.next()) {
                (Some(first), Some(second)) => {
                    let message = format!("`{folder}.{}` is defined twice", name.text);
                    self.errors.push(
                        Diagnostic::error(DUPLICATE, name.span, message)
                            .at(format!("in `{}` and in `{}`", first.name, second.name))
                            .help("items of a folder are imported by its name alone: rename one of them"),
                    );
                }
                (Some(file), None) => {
                    let module = self.std_file(file);
                    let bound = if names.len() == 1 { alias.clone().unwrap_or_else(|| name.clone()) } else { name.clone() };
                    items.extend(self.find(module, &name.text).map(|item| (bound, item)));
                }
                (None, _) => self.errors.push(unknown_member(name, &folder, std_lib::std_members(&folder))),
            }
        }
        Some(Target::Items(items))
    }

    /// Imported names into the scope, after those of the file itself.
    fn fill_scope(&mut self, id: ModuleId) {
        let targets = std::mem::take(&mut self.edges[id.0 as usize]);
        let mut places: FxHashMap<Arc<str>, Span> = FxHashMap::default();
        for target in &targets {
            match target {
                Target::Items(items) => {
                    for (name, item) in items {
                        self.bring(id, name.text.clone(), name.span, Def::Item(*item), &mut places);
                    }
                }
                Target::Folder(name, module) => self.bring(id, name.text.clone(), name.span, Def::Module(*module), &mut places),
                Target::File(module, Some(alias), _) => {
                    self.bring(id, alias.text.clone(), alias.span, Def::Module(*module), &mut places);
                }
                Target::File(module, None, span) if *module != id => {
                    let names: Vec<(Arc<str>, ItemRef)> = self
                        .program
                        .module(*module)
                        .file
                        .items
                        .iter()
                        .enumerate()
                        .filter_map(|(index, item)| Some((item.name()?.text.clone(), ItemRef { module: *module, index: index as u32 })))
                        .filter(|(name, _)| !name.starts_with('_'))
                        .collect();
                    for (name, item) in names {
                        self.bring(id, name, *span, Def::Item(item), &mut places);
                    }
                }
                Target::File(..) => {}
            }
        }
        self.edges[id.0 as usize] = targets;
    }

    fn bring(&mut self, id: ModuleId, name: Arc<str>, span: Span, def: Def, places: &mut FxHashMap<Arc<str>, Span>) {
        let module = &self.program.modules[id.0 as usize];
        match module.scope.get(&name) {
            Some(old) if *old == def => {}
            Some(old) => {
                let first = places.get(&name).copied().or(match old {
                    Def::Item(item) => self.program.item(*item).name().map(|n| n.span),
                    Def::Module(_) => None,
                });
                let mut error = Diagnostic::error(DUPLICATE, span, format!("`{name}` is imported, and defined or imported elsewhere"))
                    .help("give the import another name with `as`, or rename the item");
                if let Some(first) = first {
                    error = error.label(first, "the other one");
                }
                self.errors.push(error);
            }
            None => {
                places.insert(name.clone(), span);
                self.program.modules[id.0 as usize].scope.insert(name, def);
            }
        }
    }

    /// Reports each ring of files that import each other, once.
    fn report_cycles(&mut self) {
        let count = self.program.modules.len();
        let mut done = vec![false; count];
        let mut reported = vec![false; count];
        for root in 0..count {
            // Depth first, without recursion: (module, next edge).
            let mut stack: Vec<(usize, usize)> = if done[root] { Vec::new() } else { vec![(root, 0)] };
            while let Some((module, edge)) = stack.last_mut() {
                let here = *module;
                let Some(target) = self.edges[here].get(*edge) else {
                    done[here] = true;
                    stack.pop();
                    continue;
                };
                *edge += 1;
                let Target::File(next, ..) = target else { continue };
                let next = next.0 as usize;
                if let Some(start) = stack.iter().position(|s| s.0 == next) {
                    if !stack[start..].iter().any(|s| reported[s.0]) {
                        let ring: Vec<(usize, usize)> = stack[start..].iter().map(|s| (s.0, s.1 - 1)).collect();
                        ring.iter().for_each(|r| reported[r.0] = true);
                        let error = self.cycle(&ring);
                        self.errors.push(error);
                    }
                } else if !done[next] {
                    stack.push((next, 0));
                }
            }
        }
    }

    fn cycle(&self, ring: &[(usize, usize)]) -> Diagnostic {
        let labels: Vec<(Span, String)> = ring
            .iter()
            .filter_map(|(module, edge)| match &self.edges[*module][*edge] {
                Target::File(next, _, span) => {
                    Some((*span, format!("`{}` imports `{}`", self.program.modules[*module].name, self.program.module(*next).name)))
                }
                _ => None,
            })
            .collect();
        let mut labels = labels.into_iter();
        let (span, first) = labels.next().unwrap_or_default();
        let mut error = Diagnostic::error(CYCLE, span, "these files import each other").at(first);
        for (span, text) in labels {
            error = error.label(span, text);
        }
        error.help("move what both need into a third file that imports neither")
    }
}

/// An item that starts with `_` belongs to its file.
pub(crate) fn private(name: &Name, module: &str) -> Diagnostic {
    Diagnostic::error(PRIVATE, name.span, format!("`{}` is private to `{module}`", name.text))
        .help("a leading `_` hides an item from other files; rename it to share it")
}

/// No such item in a module that has `members`.
pub(crate) fn unknown_member<'m>(name: &Name, module: &str, members: impl IntoIterator<Item = &'m str>) -> Diagnostic {
    let mut error = Diagnostic::error(UNKNOWN_MEMBER, name.span, format!("`{module}` has no item `{}`", name.text));
    error.help = match (nearest(&name.text, members), std_lib::std_lookup(&name.text)) {
        (Some(near), _) => Some(format!("did you mean `{near}`")),
        (None, Some(path)) => Some(format!("there is `{path}`")),
        (None, None) => None,
    };
    error
}

fn duplicate_params(params: &[Param], errors: &mut Vec<Diagnostic>) {
    for (i, param) in params.iter().enumerate() {
        if let Some(first) = params[..i].iter().find(|p| p.name.text == param.name.text && &*p.name.text != "_") {
            errors.push(
                Diagnostic::error(DUPLICATE_PARAM, param.name.span, format!("two parameters are named `{}`", param.name.text))
                    .at("named again here")
                    .label(first.name.span, "first here")
                    .help("rename one of them"),
            );
        }
    }
}
