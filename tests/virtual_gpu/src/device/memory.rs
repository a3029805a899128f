//! Memory of devices. Addresses are numbers of their own: each allocation has a window of 256 GiB of addresses that no process can use, so that whatever goes beyond
//! it, or comes after its end, meets nothing; and a device pointer that is taken for one of the host faults at once.

use super::code::{Answer, Code};
use crate::exec::program::Touch;
use crate::exec::{Fabric, Seen};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

const TAG: u64 = 1 << 62;
const WINDOW: u32 = 38;
const SLOTS: usize = 1 << 16;
/// What every device promises, and no more.
const ALIGNMENT: u64 = 256;
/// Freed slots that wait before one is used again.
const REST: usize = 1 << 12;

struct Slot {
    base: AtomicU64,
    /// 0: nothing is here.
    len: AtomicU64,
    host: AtomicUsize,
    device: AtomicU32,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { base: AtomicU64::new(0), len: AtomicU64::new(0), host: AtomicUsize::new(0), device: AtomicU32::new(0) } }; SLOTS];

/// Memory of the host that devices reach.
static PINNED: RwLock<BTreeMap<usize, Pinned>> = RwLock::new(BTreeMap::new());

#[derive(Clone, Copy, Debug)]
struct Pinned {
    len: usize,
    /// Whether the driver has allocated it.
    owned: bool,
}

fn slot_of(address: u64) -> usize {
    (address >> WINDOW) as usize & (SLOTS - 1)
}

/// Whether an address is one of a device.
pub fn is_device(address: u64) -> bool {
    address & TAG != 0
}

/// Bytes with an alignment, filled with 0xFF; none if the host has no room.
fn allocate(len: usize, align: usize) -> Option<usize> {
    let layout = Layout::from_size_align(len.max(1), align).ok()?;
    // SAFETY: the size is not zero.
    let at = unsafe { std::alloc::alloc(layout) };
    if at.is_null() {
        return None;
    }
    // SAFETY: just allocated.
    unsafe { std::ptr::write_bytes(at, 0xFF, layout.size()) };
    Some(at as usize)
}

/// Memory that is no more; given back when no kernel runs.
pub struct Remains {
    host: usize,
    len: usize,
    align: usize,
}

impl Drop for Remains {
    fn drop(&mut self) {
        let Ok(layout) = Layout::from_size_align(self.len.max(1), self.align) else { return };
        // SAFETY: allocated with the same layout, and nobody knows it any more.
        unsafe { std::alloc::dealloc(self.host as *mut u8, layout) };
    }
}

/// Allocations of all devices.
#[derive(Default)]
pub struct Heap {
    next: usize,
    freed: std::collections::VecDeque<usize>,
    /// How often a slot has been used.
    age: BTreeMap<usize, u64>,
    /// Allocations that become memory only when their stream comes to it.
    reserved: BTreeMap<u64, u64>,
}

impl Heap {
    /// New memory; `now`: it can be used at once, else when [`Heap::open`] is called.
    pub fn allocate(&mut self, device: usize, len: u64, now: bool) -> Answer<u64> {
        let slot = if self.next < SLOTS {
            self.next += 1;
            self.next - 1
        } else if self.freed.len() > REST {
            self.freed.pop_front().ok_or(Code::OUT_OF_MEMORY)?
        } else {
            return Err(Code::OUT_OF_MEMORY);
        };
        let host = allocate(len as usize, ALIGNMENT as usize).ok_or(Code::OUT_OF_MEMORY)?;
        let age = self.age.entry(slot).or_insert(0);
        *age = (*age + 1) & 0x7F;
        // An odd multiple of the alignment, so that nobody can take more of it for granted.
        let base = TAG | *age << (WINDOW + 16) | (slot as u64) << WINDOW | (ALIGNMENT * (2 * (slot as u64 % 64) + 1));
        let entry = &TABLE[slot];
        entry.base.store(base, Relaxed);
        entry.host.store(host, Relaxed);
        entry.device.store(device as u32, Relaxed);
        if now {
            entry.len.store(len, Relaxed);
        } else {
            self.reserved.insert(base, len);
        }
        Ok(base)
    }

    /// Reserved memory can be used from now on.
    pub fn open(&mut self, base: u64) {
        if let Some(len) = self.reserved.remove(&base) {
            TABLE[slot_of(base)].len.store(len, Relaxed);
        }
    }

    /// Bytes of the allocation that begins here; reserved ones too.
    pub fn len(&self, base: u64) -> Option<u64> {
        let entry = &TABLE[slot_of(base)];
        if !is_device(base) || entry.base.load(Relaxed) != base {
            return None;
        }
        let len = entry.len.load(Relaxed);
        if len > 0 { Some(len) } else { self.reserved.get(&base).copied() }
    }

    /// Ends an allocation; gives the memory that is left of it.
    pub fn free(&mut self, base: u64) -> Option<Remains> {
        let len = self.len(base)?;
        self.reserved.remove(&base);
        super::races::forget(base);
        let slot = slot_of(base);
        TABLE[slot].len.store(0, Relaxed);
        self.freed.push_back(slot);
        Some(Remains { host: TABLE[slot].host.load(Relaxed), len: len as usize, align: ALIGNMENT as usize })
    }

    /// All allocations of a device.
    pub fn of(&self, device: usize) -> Vec<u64> {
        let all = TABLE[..self.next].iter().filter(|s| s.device.load(Relaxed) == device as u32).map(|s| s.base.load(Relaxed));
        all.filter(|base| self.len(*base).is_some()).collect()
    }
}

/// The allocation that an address lies in: its first address, its bytes and device.
pub fn piece(address: u64) -> Option<(u64, u64, usize)> {
    let entry = &TABLE[slot_of(address)];
    let (base, len) = (entry.base.load(Relaxed), entry.len.load(Relaxed));
    (is_device(address) && address.wrapping_sub(base) < len).then(|| (base, len, entry.device.load(Relaxed) as usize))
}

/// Where device memory lies in this process, if all the bytes are one allocation's on a device of the mask.
pub fn host_of(address: u64, bytes: u64, devices: u64) -> Option<*mut u8> {
    let (base, len, device) = piece(address)?;
    let offset = address - base;
    if devices >> device & 1 == 0 || bytes > len - offset {
        return None;
    }
    Some((TABLE[slot_of(address)].host.load(Relaxed) + offset as usize) as *mut u8)
}

/// New page-locked memory.
pub fn pin_new(len: usize) -> Answer<usize> {
    let at = allocate(len, 4096).ok_or(Code::OUT_OF_MEMORY)?;
    PINNED.write().unwrap_or_else(|e| e.into_inner()).insert(at, Pinned { len, owned: true });
    Ok(at)
}

/// Locks memory of the program.
pub fn pin(at: usize, len: usize) -> Answer {
    let mut pinned = PINNED.write().unwrap_or_else(|e| e.into_inner());
    if pinned.range(..at + len).next_back().is_some_and(|(start, p)| start + p.len > at) {
        return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
    }
    pinned.insert(at, Pinned { len, owned: false });
    Ok(())
}

/// Ends page-locked memory; `owned`: what the driver has allocated.
pub fn unpin(at: usize, owned: bool) -> Answer<Option<Remains>> {
    let mut pinned = PINNED.write().unwrap_or_else(|e| e.into_inner());
    match pinned.get(&at).copied() {
        Some(p) if p.owned == owned => {
            pinned.remove(&at);
            Ok(owned.then(|| Remains { host: at, len: p.len, align: 4096 }))
        }
        _ => Err(if owned { Code::INVALID_VALUE } else { Code::HOST_MEMORY_NOT_REGISTERED }),
    }
}

/// The page-locked memory that an address of the host lies in.
fn pinned(address: usize) -> Option<(usize, usize)> {
    let pinned = PINNED.read().unwrap_or_else(|e| e.into_inner());
    pinned.range(..=address).next_back().filter(|(start, p)| address - **start < p.len).map(|(start, p)| (*start, p.len))
}

/// Whether bytes of the host are page-locked.
pub fn is_pinned(address: usize, len: usize) -> bool {
    pinned(address).is_some_and(|(start, all)| address - start + len <= all)
}

/// What kernels of a device may touch: the devices of a mask, and page-locked memory.
pub struct View {
    pub devices: u64,
    /// Number of the launch if its blocks are watched, else 0.
    pub launch: u64,
}

impl Fabric for View {
    fn piece(&self, address: u64) -> Option<Seen> {
        if is_device(address) {
            let (base, len, device) = piece(address)?;
            let host = TABLE[slot_of(address)].host.load(Relaxed);
            return (self.devices >> device & 1 == 1).then_some(Seen { base, len, host });
        }
        let (start, len) = pinned(address as usize)?;
        Some(Seen { base: start as u64, len: len as u64, host: start })
    }

    fn touched(&self, address: u64, bytes: u64, block: u64, how: Touch) -> Result<(), String> {
        match piece(address) {
            Some((base, len, _)) => super::races::touched(base, len, address - base, bytes, self.launch, block, how),
            None => Ok(()),
        }
    }

    fn explain(&self, address: u64, bytes: u64) -> String {
        if !is_device(address) {
            return format!("{bytes} bytes at what is no device address");
        }
        let entry = &TABLE[slot_of(address)];
        let (base, len) = (entry.base.load(Relaxed), entry.len.load(Relaxed));
        match piece(address) {
            Some((_, _, device)) if self.devices >> device & 1 == 0 => format!("memory of device {device}, to which there is no access"),
            _ if base >> WINDOW == address >> WINDOW && base != 0 && len > 0 => {
                format!("{bytes} bytes at offset {} of an allocation of {len}", address.wrapping_sub(base) as i64)
            }
            _ if base >> WINDOW == address >> WINDOW && base != 0 => {
                format!("{bytes} bytes of memory that has been freed or is not there yet")
            }
            _ => format!("{bytes} bytes where nothing was ever allocated"),
        }
    }
}

impl Heap {
    /// Bytes from an address to the end of the reserved allocation that it lies in.
    pub fn reserved_at(&self, address: u64) -> Option<u64> {
        let (base, len) = self.reserved.range(..=address).next_back()?;
        (address - base < *len).then(|| base + len - address)
    }
}
