//! Which blocks of a launch have touched a word of memory.

use crate::exec::program::Touch;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

/// Bits of the number of a block; all of them: several.
const BLOCK: u32 = 20;
const SEVERAL: u64 = (1 << BLOCK) - 1;

/// A word for each four bytes of an allocation: number of the launch that touched it last, which block of that has written it, which has read it; 0 is none.
type Shadow = Arc<Vec<AtomicU64>>;

static SHADOWS: RwLock<Option<HashMap<u64, Shadow>>> = RwLock::new(None);
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// A number for a launch.
pub fn next_launch() -> u64 {
    LAUNCHES.fetch_add(1, Relaxed) % ((1 << 24) - 1) + 1
}

/// An allocation is no more.
pub fn forget(base: u64) {
    if let Some(all) = SHADOWS.write().unwrap_or_else(|e| e.into_inner()).as_mut() {
        all.remove(&base);
    }
}

fn shadow(base: u64, len: u64) -> Shadow {
    if let Some(found) = SHADOWS.read().unwrap_or_else(|e| e.into_inner()).as_ref().and_then(|all| all.get(&base)) {
        return found.clone();
    }
    let mut all = SHADOWS.write().unwrap_or_else(|e| e.into_inner());
    let new = || Arc::new((0..len.div_ceil(4)).map(|_| AtomicU64::new(0)).collect());
    all.get_or_insert_default().entry(base).or_insert_with(new).clone()
}

/// A block touches bytes of an allocation; in words, whom it meets there.
pub fn touched(base: u64, len: u64, offset: u64, bytes: u64, launch: u64, block: u64, how: Touch) -> Result<(), String> {
    if how == Touch::Strong || bytes < 4 {
        return Ok(());
    }
    let shadow = shadow(base, len);
    let me = block % (SEVERAL - 1) + 1;
    for word in offset / 4..(offset + bytes).div_ceil(4) {
        let cell = &shadow[word as usize];
        let mut told = None;
        let change = |old: u64| {
            let (writer, reader) = if old >> (2 * BLOCK) == launch { (old >> BLOCK & SEVERAL, old & SEVERAL) } else { (0, 0) };
            let by = |n: u64| if n == SEVERAL { "several blocks have".to_string() } else { format!("block {} has", n - 1) };
            told = match how {
                _ if writer != 0 && writer != me => Some(format!("{} written what block {block} touches in the same launch", by(writer))),
                Touch::ReadOnly if writer != 0 => {
                    Some("the launch itself has written what is read as memory that nobody writes".to_string())
                }
                Touch::Write if reader != 0 && reader != me => {
                    Some(format!("{} read what block {block} writes in the same launch", by(reader)))
                }
                _ => None,
            };
            let (writer, reader) = match how {
                Touch::Write => (me, reader),
                _ => (writer, if reader == 0 || reader == me { me } else { SEVERAL }),
            };
            Some(launch << (2 * BLOCK) | writer << BLOCK | reader)
        };
        _ = cell.fetch_update(Relaxed, Relaxed, change);
        if let Some(words) = told {
            return Err(words);
        }
    }
    Ok(())
}
