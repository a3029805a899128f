//! Text to syntax tree: parsing with recovery, name resolution, modules, formatting.
