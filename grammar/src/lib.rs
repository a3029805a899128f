//! The pest grammar of the .opt language.

#![allow(missing_docs)] // the rules are documented in `opt.pest`

/// The parser generated from `opt.pest`; its `Rule` names every rule of the grammar.
#[derive(pest_derive::Parser)]
#[grammar = "../opt.pest"]
pub struct OptParser;
