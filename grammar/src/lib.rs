//! The pest grammar of the .opt language.

#![allow(missing_docs)] // the rules are documented in `opt.pest`

// The generated parser names it. pest is used without `std`, because it then leaves out its look at the machine stack at every rule: nesting is limited before parsing.
extern crate alloc;

/// The parser generated from `opt.pest`; its `Rule` names every rule of the grammar.
#[derive(pest_derive::Parser)]
#[grammar = "../opt.pest"]
pub struct OptParser;
