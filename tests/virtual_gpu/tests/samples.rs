//! What our own compiler writes.

mod common;
use common::*;

#[test]
fn samples_of_our_compiler_are_read() {
    let gpu = Gpu::new();
    let folder = std::env::var("SAMPLES").unwrap_or_else(|_| format!("{}/tests/samples", env!("CARGO_MANIFEST_DIR")));
    let mut n = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "ptx") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("# train").map(|p| p.split_once('\n').map_or("", |x| x.1)).filter(|p| p.contains(".version")) {
            if let Err((code, words)) = gpu.try_load(part) {
                panic!("{}: {code} {words}", path.display())
            }
            n += 1;
        }
    }
    println!("{n} texts");
    assert!(n > 0);
}

#[test]
fn adds() {
    let gpu = Gpu::new();
    let out = gpu.body(
        &(0..32).collect::<Vec<u32>>(),
        32,
        32,
        "
mul.wide.u32 %rd2, %r0, 4;
add.s64 %rd3, %rd0, %rd2;
add.s64 %rd4, %rd1, %rd2;
ld.global.u32 %r1, [%rd3];
add.u32 %r2, %r1, 7;
st.global.u32 [%rd4], %r2;",
    );
    assert_eq!(out, (7..39).collect::<Vec<u32>>());
}
