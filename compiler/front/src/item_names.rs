//! What a file of the standard library holds, read without the parser: the build script, which embeds the library, uses this too.

/// Names of the items of a file: the second word of lines that start with a word of items.
pub fn items(text: &str) -> Vec<&str> {
    let words = ["fn", "layer", "model", "loss", "schedule", "optimizer", "const", "type", "data", "train", "experiment"];
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("host ").unwrap_or(line);
        let Some((word, rest)) = line.split_once(' ') else { continue };
        if words.contains(&word) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            names.push(&rest[..end]);
        }
    }
    names
}
