//! How the system backs large buffers: by ordinary pages at first, by large ones once they are known to be used over and over.
//!
//! A large page is dear when it is first touched: it is cleared as a whole, and a virtual machine whose free memory lies with its host has to fetch it (some
//! 1.1 ms a megabyte were measured, against 0.3 for ordinary pages). It pays back slowly: the processor translates fewer addresses, a few percent of a step.

/// Bytes from which a buffer comes from the operating system as pages of its own.
pub const LARGE: usize = 4 << 20;
/// Size and alignment of a large page.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// Asks the system for large pages behind `len` bytes that are used over and over, those touched already included. Only a hint: what the memory holds and who
/// may use it stay as they are, and where the system has no large pages nothing happens.
pub fn prefer_large(address: *const u8, len: usize) {
    if len < LARGE {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        // A buffer that begins a little after the start of a large page lies in it.
        let begin = address.addr() / LARGE_PAGE * LARGE_PAGE;
        let (begin, len) = (address.with_addr(begin).cast_mut(), address.addr() + len - begin);
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
            // SAFETY: both change how the range is backed, not what it holds; an address that is not mapped is an error, which does not matter here.
            unsafe { libc::madvise(begin.cast(), len, advice) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = address;
}

/// Bytes between two buffers up to which they count as side by side.
const NEAR: usize = 64 << 10;

/// [`prefer_large`] for many buffers, which may be small: those that lie side by side share large pages.
pub fn prefer_large_together(buffers: impl IntoIterator<Item = (*const u8, usize)>) {
    let mut buffers: Vec<(*const u8, usize)> = buffers.into_iter().filter(|b| b.1 > 0).collect();
    buffers.sort_unstable_by_key(|b| b.0.addr());
    let mut row: Option<(*const u8, usize)> = None;
    for (address, len) in buffers {
        row = match row {
            Some((first, size)) if address.addr() <= first.addr() + size + NEAR => {
                Some((first, size.max(address.addr() + len - first.addr())))
            }
            other => {
                if let Some((first, size)) = other {
                    prefer_large(first, size);
                }
                Some((address, len))
            }
        };
    }
    if let Some((first, size)) = row {
        prefer_large(first, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::AlignedBytes;

    #[test]
    fn memory_keeps_its_contents() {
        let mut bytes = AlignedBytes::zeroed(3 * LARGE);
        bytes.as_mut_slice().iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8);
        prefer_large(bytes.as_ptr(), bytes.as_slice().len());
        assert!(bytes.as_slice().iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
    }

    #[test]
    fn small_buffers_keep_their_contents_too() {
        let mut all: Vec<AlignedBytes> = (0..300).map(|_| AlignedBytes::zeroed(40_000)).collect();
        for (k, bytes) in all.iter_mut().enumerate() {
            bytes.as_mut_slice().fill(k as u8);
        }
        prefer_large_together(all.iter().map(|b| (b.as_ptr().cast_const(), b.as_slice().len())));
        assert!(all.iter().enumerate().all(|(k, bytes)| bytes.as_slice().iter().all(|b| *b == k as u8)));
    }
}
