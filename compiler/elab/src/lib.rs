//! Staged evaluation of the syntax tree: checking with symbolic sizes, lowering to graphs, and the host script.
