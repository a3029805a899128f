//! Text to syntax tree: parsing with recovery, modules and imports, formatting; the embedded standard library.

pub mod ast;
pub mod modules;

pub use modules::{Def, FileLoader, ItemRef, Module, ModuleId, Program};
