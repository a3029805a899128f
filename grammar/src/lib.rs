//! The pest grammar of the .opt language.
