//! What the executable needs where it runs: the C library alone, of an age that machines with GPUs have, and what Open MPI brings in builds with it.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

use std::process::Command;

const OPTC: &str = env!("CARGO_BIN_EXE_optc-under-test");

/// Libraries of the C library and of the compiler that every machine has.
const EVERYWHERE: &[&str] =
    &["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libdl.so.2", "libpthread.so.0", "librt.so.1"];
/// Libraries that a build with LLVM has within it where there are archives of them.
const WITHIN: &[(&str, &str)] =
    &[("libffi.so", "libffi.a"), ("libz.so", "libz.a"), ("libzstd.so", "libzstd.a"), ("libstdc++.so", "libstdc++.a")];
/// The newest version of the C library that anything is taken from: RHEL 9 has 2.34, Ubuntu 22.04 has 2.35.
const GLIBC: (u32, u32) = (2, 34);

fn readelf(args: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("readelf").args(args).arg(OPTC).output() else {
        eprintln!("skipped: no readelf");
        return None;
    };
    assert!(output.status.success());
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has_archive(name: &str) -> bool {
    let said = Command::new("cc").arg(format!("-print-file-name={name}")).output();
    said.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).starts_with('/'))
}

#[test]
fn the_executable_needs_the_c_library_alone() {
    let Some(said) = readelf(&["-dW"]) else { return };
    let needed: Vec<&str> =
        said.lines().filter(|l| l.contains("(NEEDED)")).filter_map(|l| l.split('[').nth(1)?.strip_suffix(']')).collect();
    assert!(needed.contains(&"libc.so.6"), "{said}");
    let others: Vec<&&str> = needed
        .iter()
        .filter(|name| !EVERYWHERE.contains(name) && !name.starts_with("libmpi.so"))
        // Where there is no archive, the shared library is what is left.
        .filter(|name| !WITHIN.iter().any(|(shared, archive)| name.starts_with(shared) && !has_archive(archive)))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn the_executable_runs_with_an_old_c_library() {
    let Some(said) = readelf(&["-VW"]) else { return };
    let mut versions: Vec<(u32, u32)> = said
        .split("Name: GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let mut numbers = rest.split_whitespace().next()?.split('.').map(|n| n.parse().ok());
            Some((numbers.next()??, numbers.next()??))
        })
        .collect();
    versions.sort_unstable();
    let newest = *versions.last().expect("versions of the C library");
    if newest > GLIBC {
        let symbols = readelf(&["--dyn-syms", "-W"]).unwrap_or_default();
        let new: Vec<&str> = symbols.lines().filter(|l| l.contains(&format!("@GLIBC_{}.{}", newest.0, newest.1))).collect();
        panic!("GLIBC_{}.{} is needed: {new:#?}", newest.0, newest.1);
    }
}
