//! An archive (`.a`) of one object file, with the index of symbols that linkers look in (System V format).

/// Header of a member: name, size; times, owners and modes are zero, so that the same input gives the same bytes.
fn member(name: &str, size: usize) -> Vec<u8> {
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644).into_bytes()
}

/// The archive. Names of members longer than 15 bytes are cut: they are only labels.
pub fn archive(name: &str, object: &[u8], symbols: &[String]) -> Vec<u8> {
    let names: Vec<u8> = symbols.iter().flat_map(|s| s.bytes().chain([0])).collect();
    let index = 4 + 4 * symbols.len() + names.len();
    let even = index + index % 2;
    let first = 8 + 60 + even;
    let mut out = b"!<arch>\n".to_vec();
    out.extend(member("/", even));
    out.extend((symbols.len() as u32).to_be_bytes());
    for _ in symbols {
        out.extend((first as u32).to_be_bytes());
    }
    out.extend(names);
    out.resize(first, 0);
    let label: String = name.chars().take(15).collect();
    out.extend(member(&format!("{label}/"), object.len()));
    out.extend(object);
    if object.len() % 2 == 1 {
        out.push(b'\n');
    }
    out
}
