//! The suite on which optimizers are judged that come without tasks: a spec within the program, found under a path of its own.

/// The path of the spec; no file is called so.
pub const PATH: &str = "<suite of std.search.tasks>";

/// Its text.
pub const TEXT: &str = include_str!("suite.opt");
