//! Text to syntax tree: parsing with recovery, modules and imports, formatting; the embedded standard library.

pub mod ast;
mod format;
mod item_names;
mod load;
pub mod modules;
pub mod parse;
mod print;
pub mod std_lib;
mod sub;

pub use format::format;
pub use load::load;
pub use modules::{Def, FileLoader, ItemRef, Module, ModuleId, Program};
pub use parse::parse;
pub use print::print_ast;
pub use std_lib::{std_lookup, std_source};
pub use sub::Sub;
