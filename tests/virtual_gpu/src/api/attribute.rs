//! Properties of devices.

/// Multiprocessors of every device.
pub const MULTIPROCESSORS: u32 = 16;
/// Shared memory of a block without asking for more.
pub const SHARED: usize = 48 << 10;
/// Threads of a block.
pub const THREADS: u32 = 1024;

/// Shared memory that a block may ask for.
pub fn shared_limit(capability: u32) -> usize {
    match capability {
        80 | 87 => 163 << 10,
        86 | 89 | 120..=129 => 99 << 10,
        90..=119 => 227 << 10,
        75 => 64 << 10,
        70..=79 => 96 << 10,
        _ => SHARED,
    }
}

/// The value of an attribute, by its number in the interface; none if there is no such one.
pub fn attribute(number: i32, capability: u32) -> Option<i32> {
    let limit = shared_limit(capability) as i32;
    Some(match number {
        1 => THREADS as i32,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => SHARED as i32,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536,
        // Clocks, in kHz.
        13 | 36 => 1_000_000,
        14 | 30 => 512,
        // Copies beside kernels, several at a time.
        15 => 1,
        16 => MULTIPROCESSORS as i32,
        19 => 1,
        31 | 41 => 1,
        33 => 1,
        // Width of the memory bus in bits, bytes of the second cache.
        37 => 256,
        38 => 4 << 20,
        39 => 2048,
        40 => 2,
        51 => 32,
        75 => (capability / 10) as i32,
        76 => (capability % 10) as i32,
        78..=80 => 1,
        81 => limit + 1024,
        87 => 2,
        90 | 91 => 1,
        95 => 1,
        97 => limit,
        99 => 1,
        106 => 32,
        111 => 1024,
        115 => 1,
        // What is not there: managed memory, virtual addresses, clusters, and whatever else has a number.
        17..=149 => 0,
        _ => return None,
    })
}
