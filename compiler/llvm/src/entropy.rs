//! `arc4random`, which LLVM takes from a C library that has it: glibc from 2.36 on. With one of our own the program starts on older ones.

use std::ffi::{c_uint, c_void};

unsafe extern "C" {
    fn getrandom(to: *mut c_void, bytes: usize, flags: c_uint) -> isize;
}

/// A random word of the system's. LLVM names temporary files by it.
#[unsafe(no_mangle)]
extern "C" fn arc4random() -> u32 {
    let mut word = [0u8; 4];
    // SAFETY: room for four bytes; so few come all at once or, while the system starts or a signal arrives, not at all.
    while unsafe { getrandom(word.as_mut_ptr().cast(), word.len(), 0) } != word.len() as isize {
        std::thread::yield_now();
    }
    u32::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_differ() {
        let words: std::collections::HashSet<u32> = (0..64).map(|_| super::arc4random()).collect();
        assert!(words.len() > 60, "{words:?}");
    }
}
