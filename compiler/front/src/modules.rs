//! Modules: files of a program, what each has in scope, and who imports whom.

use crate::ast::{File, Item, Name};
use crate::load;
use crate::std_lib;
use indexmap::IndexMap;
use optc_base::{Diagnostic, SourceId, SourceMap, nearest};
use std::sync::Arc;

/// A file of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// An item of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemRef {
    /// The file.
    pub module: ModuleId,
    /// Position in [`File::items`].
    pub index: u32,
}

/// What a name at top level stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Def {
    /// An item, of this file or imported.
    Item(ItemRef),
    /// A file imported as a whole (`import "layers.opt" as l`), or a folder of the standard library (`import std.optim as o`).
    Module(ModuleId),
}

/// One parsed file with its scope.
#[derive(Clone, Debug)]
pub struct Module {
    /// Canonical name: a path, a file of the standard library (`std/optim/lion.opt`), or a folder of it taken as a whole (`std.optim`: no items, only a scope).
    pub name: Arc<str>,
    /// Its text.
    pub source: SourceId,
    /// Its items.
    pub file: File,
    /// Names visible in it: its own items, and what it imports.
    pub scope: IndexMap<Arc<str>, Def>,
}

/// All files of a program. Module 0 is the root.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Texts.
    pub sources: SourceMap,
    /// Files; imported ones after those that ask for them.
    pub modules: Vec<Module>,
}

impl Program {
    /// The file with this id.
    pub fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id.0 as usize]
    }
    /// The item.
    pub fn item(&self, item: ItemRef) -> &Item {
        &self.module(item.module).file.items[item.index as usize]
    }
    /// What `name` stands for at the top level of `module`.
    pub fn lookup(&self, module: ModuleId, name: &str) -> Option<Def> {
        self.module(module).scope.get(name).copied()
    }

    /// What `name` stands for behind a module: `l.dense` after `import "layers.opt" as l`. Only items defined there count, not its imports.
    ///
    /// # Errors
    /// The module has no such item, or it is private.
    pub fn member(&self, module: ModuleId, name: &Name) -> Result<Def, Diagnostic> {
        let target = self.module(module);
        let is_folder = target.file.items.is_empty();
        let found = self.lookup(module, &name.text).filter(|def| is_folder || matches!(def, Def::Item(item) if item.module == module));
        match found {
            Some(_) if name.text.starts_with('_') => Err(load::private(name, &target.name)),
            Some(def) => Ok(def),
            None => {
                let own = target.scope.iter().filter(|(_, def)| is_folder || matches!(def, Def::Item(item) if item.module == module));
                Err(load::unknown_member(name, &target.name, own.map(|(n, _)| &**n).filter(|n| !n.starts_with('_'))))
            }
        }
    }

    /// A help line for a name that `module` does not know: the nearest among its scope and `others` (locals, built-in names), or a missing import.
    pub fn suggest<'a>(&'a self, module: ModuleId, name: &str, others: impl IntoIterator<Item = &'a str>) -> Option<String> {
        if let Some(path) = std_lib::std_lookup(name) {
            return Some(format!("missing import: `import {path}`"));
        }
        let scope = self.module(module).scope.keys().map(|k| &**k);
        if let Some(near) = nearest(name, scope.chain(others)) {
            return Some(format!("did you mean `{near}`"));
        }
        let library = std_lib::std_files().iter().flat_map(|f| f.items.iter().copied()).filter(|n| !n.starts_with('_'));
        let near = nearest(name, library)?;
        Some(format!("did you mean `{near}`, with `import {}`", std_lib::std_lookup(near)?))
    }
}

/// Reads files for imports; the front itself touches none.
pub trait FileLoader {
    /// The canonical name and text of `path` as written in the file named `from`.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String>;
}
