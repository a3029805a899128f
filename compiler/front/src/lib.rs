//! Text to syntax tree: parsing with recovery, modules and imports, formatting; the embedded standard library.

pub mod ast;
pub mod modules;
pub mod parse;

pub use modules::{Def, FileLoader, ItemRef, Module, ModuleId, Program};
pub use parse::parse;
