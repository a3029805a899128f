//! Array operations of the language: shape rules with symbolic dimensions, and their expansion into graph nodes.
