//! NVIDIA GPUs that code is made for, and what they have.

use crate::Error;

/// GPUs that code can be made for, each with the version of PTX: the oldest that it and the instructions in use ask for, so that every driver for it takes the code.
/// LLVM ends the process where a version is too old for a GPU, and takes an old one where it does not know a version.
/// A name that ends in `a` is for this GPU alone, one that ends in `f` for its family; `sm_101` is `sm_110` since PTX 9.0.
pub const GPUS: &[(&str, &str)] = &[
    ("sm_70", "+ptx71"),
    ("sm_72", "+ptx71"),
    ("sm_75", "+ptx71"),
    ("sm_80", "+ptx71"),
    ("sm_86", "+ptx71"),
    ("sm_87", "+ptx74"),
    ("sm_88", "+ptx90"),
    ("sm_89", "+ptx78"),
    ("sm_90", "+ptx80"),
    ("sm_90a", "+ptx80"),
    ("sm_100", "+ptx86"),
    ("sm_100a", "+ptx86"),
    ("sm_100f", "+ptx88"),
    ("sm_101", "+ptx86"),
    ("sm_101a", "+ptx86"),
    ("sm_101f", "+ptx88"),
    ("sm_103", "+ptx88"),
    ("sm_103a", "+ptx88"),
    ("sm_103f", "+ptx88"),
    ("sm_110", "+ptx90"),
    ("sm_110a", "+ptx90"),
    ("sm_110f", "+ptx90"),
    ("sm_120", "+ptx87"),
    ("sm_120a", "+ptx87"),
    ("sm_120f", "+ptx88"),
    ("sm_121", "+ptx88"),
    ("sm_121a", "+ptx88"),
    ("sm_121f", "+ptx88"),
];

/// The version of PTX for a GPU, as LLVM's feature.
///
/// # Errors
/// There is no code for it.
pub(crate) fn version(gpu: &str) -> Result<&'static str, Error> {
    GPUS.iter().find(|(name, _)| *name == gpu).map(|(_, version)| *version).ok_or_else(|| {
        let known: Vec<&str> = GPUS.iter().map(|(name, _)| *name).collect();
        Error::asked(format!("there is no code for a GPU `{gpu}`; there is for {}", known.join(", ")))
    })
}

/// Whether there is code for a GPU of this name.
///
/// # Errors
/// There is none.
pub fn check_gpu(gpu: &str) -> Result<(), Error> {
    version(gpu).map(|_| ())
}

/// The newest GPU whose code is made for the GPU at hand. For those after it LLVM takes instructions (`f32x2`, from sm_100 on) that the tests assemble and do not execute; every driver takes the older code.
const NEWEST: u32 = 90;

/// The name of the newest GPU in the list, up to sm_90, whose code runs on a GPU of this compute capability; nothing for one that is older than all of them.
pub fn gpu_for(major: u32, minor: u32) -> Option<&'static str> {
    let plain = GPUS.iter().filter_map(|(name, _)| Some((*name, name.strip_prefix("sm_")?.parse::<u32>().ok()?)));
    plain.filter(|(_, number)| *number <= NEWEST.min(10 * major + minor)).max_by_key(|(_, number)| *number).map(|(name, _)| name)
}

/// A GPU's number, 90 for `sm_90a`.
fn number(gpu: &str) -> u32 {
    gpu.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic).parse().unwrap_or(0)
}

/// The compute capabilities, major and minor, of GPUs that code for this one runs on: the oldest, the first after them that it does not run on, and both in words. Plain code runs on everything newer
/// (PTX ISA, section ".target").
///
/// # Errors
/// There is no code for such a GPU.
pub fn runs_on(gpu: &str) -> Result<((u32, u32), (u32, u32), String), Error> {
    check_gpu(gpu)?;
    let (major, minor) = (number(gpu) / 10, number(gpu) % 10);
    let (beyond, words) = match gpu.chars().last() {
        Some('a') => ((major, minor + 1), format!("{major}.{minor} alone")),
        Some('f') => ((major + 1, 0), format!("{major}.{minor} or newer up to {major}.9")),
        _ => ((u32::from(u8::MAX), 0), format!("{major}.{minor} or newer")),
    };
    Ok(((major, minor), beyond, words))
}

/// Whether a GPU has asynchronous copies and units for matrices of bf16.
pub(crate) fn has_copies(gpu: &str) -> bool {
    number(gpu) >= 80
}

/// Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
pub(crate) fn room(gpu: &str) -> i64 {
    let kib = match number(gpu) {
        70 | 72 => 96,
        75 => 64,
        80 | 87 => 163,
        86 | 88 | 89 | 120 | 121 => 99,
        _ => 227,
    };
    kib << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_takes_the_code_of_the_newest_one_before_it() {
        let expected = [
            ((7, 0), "sm_70"),
            ((7, 2), "sm_72"),
            ((8, 0), "sm_80"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90"),
            ((10, 0), "sm_90"),
            ((12, 1), "sm_90"),
        ];
        for ((major, minor), name) in expected {
            assert_eq!(gpu_for(major, minor), Some(name));
        }
        assert_eq!(gpu_for(6, 1), None);
        let runs = |gpu: &str, on: (u32, u32)| runs_on(gpu).is_ok_and(|(least, beyond, _)| least <= on && on < beyond);
        assert!(runs("sm_80", (8, 0)) && runs("sm_80", (12, 1)) && !runs("sm_80", (7, 5)));
        assert!(runs("sm_90a", (9, 0)) && !runs("sm_90a", (10, 0)) && !runs("sm_90a", (8, 9)));
        assert!(runs("sm_100f", (10, 3)) && !runs("sm_100f", (12, 0)) && runs("sm_103a", (10, 3)) && !runs("sm_103a", (10, 4)));
        assert!(runs_on("sm_61").is_err());
        assert!(GPUS.iter().all(|(name, _)| number(name) >= 70 && room(name) >= 64 << 10));
    }
}
