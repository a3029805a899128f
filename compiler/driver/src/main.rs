//! The `optc` binary.
fn main() {}
