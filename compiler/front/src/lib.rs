//! Text to syntax tree: parsing with recovery, modules and imports, formatting; the embedded standard library.

pub mod ast;
mod load;
pub mod modules;
pub mod parse;
pub mod std_lib;

pub use load::load;
pub use modules::{Def, FileLoader, ItemRef, Module, ModuleId, Program};
pub use parse::parse;
pub use std_lib::{std_lookup, std_source};
