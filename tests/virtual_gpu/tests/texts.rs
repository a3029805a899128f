//! Texts that are broken in many ways are read or refused, and never end the process.

mod common;

use common::*;
use virtual_cuda::exec::Chance;

/// Words of a text with the spaces between them.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(|c: char| c.is_whitespace() || ";,[]{}()".contains(c)).collect()
}

#[test]
fn broken_texts() {
    let gpu = Gpu::new();
    let folder = format!("{}/tests/samples", env!("CARGO_MANIFEST_DIR"));
    let (mut read, mut refused) = (0, 0);
    for name in ["regression.ptx", "buffers.ptx", "plateaus.ptx"] {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let all = words(&text);
        let mut chance = Chance(1);
        for _ in 0..150 {
            let mut list = all.clone();
            for _ in 0..=chance.below(2) {
                let (a, b) = (chance.below(list.len() as u64) as usize, chance.below(list.len() as u64) as usize);
                match chance.below(4) {
                    0 => drop(list.remove(a)),
                    1 => list.insert(a, list[b]),
                    2 => list[a] = list[b],
                    _ => list.truncate(a.max(1)),
                }
            }
            match gpu.try_load(&list.concat()) {
                Ok(_) => read += 1,
                Err((code, words)) => {
                    assert!(matches!(code, 209 | 218 | 222) && !words.is_empty(), "{code} {words}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 10 && refused > 200, "{read} read, {refused} refused");
}
