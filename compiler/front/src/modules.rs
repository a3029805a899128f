//! Modules: files of a program, what each has in scope, and who imports whom.

use crate::ast::{File, Item};
use indexmap::IndexMap;
use optc_base::{SourceId, SourceMap};
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
    /// A file imported as a whole (`import "layers.opt" as l`).
    Module(ModuleId),
}

/// One parsed file with its scope.
#[derive(Clone, Debug)]
pub struct Module {
    /// Canonical name: a path, or `std.optim` with the file (`std/optim/lion.opt`).
    pub name: Arc<str>,
    /// Its text.
    pub source: SourceId,
    /// Its items.
    pub file: File,
    /// Names visible in it.
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
}

/// Reads files for imports; the front itself touches none.
pub trait FileLoader {
    /// The canonical name and text of `path` as written in the file named `from`.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String>;
}
