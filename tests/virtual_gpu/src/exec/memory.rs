//! Accesses of threads: translation of addresses, checks, loads and stores.

use super::program::*;
use super::warp::{Room, Warp};
use super::{Fault, FaultKind};
use crate::ptx::Space;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A piece of memory that a kernel may touch: device addresses and where they lie in this process.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub base: u64,
    pub len: u64,
    pub host: usize,
}

/// Who knows which addresses are memory.
pub trait Fabric: Sync {
    /// The piece that holds an address, if there is one that the kernel may touch.
    fn piece(&self, address: u64) -> Option<Seen>;
    /// In words, why an access is none.
    fn explain(&self, address: u64, bytes: u64) -> String;
    /// A block touches memory; in words, how that meets what others have done in the same launch.
    fn touched(&self, _address: u64, _bytes: u64, _block: u64, _how: Touch) -> Result<(), String> {
        Ok(())
    }
}

/// Reads up to eight bytes that others may write.
///
/// # Safety
/// The bytes are memory, aligned to their number.
#[inline(always)]
pub(super) unsafe fn read(at: *const u8, bytes: u8) -> u64 {
    // SAFETY: as above; atomic, since other threads may write there.
    unsafe {
        match bytes {
            1 => (*at.cast::<AtomicU8>()).load(Relaxed).into(),
            2 => (*at.cast::<AtomicU16>()).load(Relaxed).into(),
            4 => (*at.cast::<AtomicU32>()).load(Relaxed).into(),
            _ => (*at.cast::<AtomicU64>()).load(Relaxed),
        }
    }
}

/// Writes up to eight bytes.
///
/// # Safety
/// As for [`read`].
#[inline(always)]
pub(super) unsafe fn write(at: *mut u8, bytes: u8, value: u64) {
    // SAFETY: as above.
    unsafe {
        match bytes {
            1 => (*at.cast::<AtomicU8>()).store(value as u8, Relaxed),
            2 => (*at.cast::<AtomicU16>()).store(value as u16, Relaxed),
            4 => (*at.cast::<AtomicU32>()).store(value as u32, Relaxed),
            _ => (*at.cast::<AtomicU64>()).store(value, Relaxed),
        }
    }
}

/// Changes a word in one go; gives the old one.
///
/// # Safety
/// As for [`read`].
unsafe fn change(at: *mut u8, bytes: u8, f: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: as above.
    unsafe {
        match bytes {
            2 => (*at.cast::<AtomicU16>()).fetch_update(Relaxed, Relaxed, |x| Some(f(x.into()) as u16)).map_or(0, u64::from),
            4 => (*at.cast::<AtomicU32>()).fetch_update(Relaxed, Relaxed, |x| Some(f(x.into()) as u32)).map_or(0, u64::from),
            _ => (*at.cast::<AtomicU64>()).fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or(0),
        }
    }
}

impl Room<'_> {
    /// Where bytes of a space lie in this process.
    #[inline(always)]
    pub(super) fn place(
        &self,
        warp: &Warp,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u64,
        seen: &mut Seen,
    ) -> Result<*mut u8, String> {
        match space {
            Space::Global | Space::Const => {
                let offset = address.wrapping_sub(seen.base);
                if offset < seen.len && bytes <= seen.len - offset {
                    return Ok((seen.host + offset as usize) as *mut u8);
                }
                self.search(address, bytes, seen)
            }
            Space::Shared => {
                let offset = address.wrapping_sub(SHARED_START);
                if offset < self.shared_bytes as u64 && bytes <= self.shared_bytes as u64 - offset {
                    return Ok((self.shared as usize + offset as usize) as *mut u8);
                }
                Err(format!("shared memory of {} bytes, {bytes} at offset {}", self.shared_bytes, offset as i64))
            }
            Space::Local => {
                let all = self.launch.program.local as u64;
                let offset = address.wrapping_sub(LOCAL_START);
                if offset < all && bytes <= all - offset {
                    return Ok((warp.local as usize + lane * all as usize + offset as usize) as *mut u8);
                }
                Err(format!("local memory of {all} bytes, {bytes} at offset {}", offset as i64))
            }
            Space::Param => {
                let all = self.launch.params.len() as u64;
                if address < all && bytes <= all - address {
                    return Ok((self.launch.params.as_ptr() as usize + address as usize) as *mut u8);
                }
                Err(format!("parameters of {all} bytes, {bytes} at offset {}", address as i64))
            }
            Space::Generic => match address >> 56 {
                0x20 => self.place(warp, lane, Space::Shared, address - SHARED_WINDOW, bytes, seen),
                0x10 => self.place(warp, lane, Space::Local, address - LOCAL_WINDOW, bytes, seen),
                _ => self.place(warp, lane, Space::Global, address, bytes, seen),
            },
        }
    }

    #[cold]
    fn search(&self, address: u64, bytes: u64, seen: &mut Seen) -> Result<*mut u8, String> {
        if let Some(found) = self.launch.fabric.piece(address) {
            let offset = address - found.base;
            *seen = found;
            if bytes <= found.len - offset {
                return Ok((found.host + offset as usize) as *mut u8);
            }
        }
        Err(self.launch.fabric.explain(address, bytes))
    }

    #[cold]
    fn astray(&self, warp: &Warp, lane: usize, ins: &Ins, address: u64, words: String) -> Fault {
        self.fault(warp, lane, ins.line, FaultKind::IllegalAddress, format!("address {address:#x} is outside: {words}"))
    }

    #[cold]
    fn misaligned(&self, warp: &Warp, lane: usize, ins: &Ins, address: u64, bytes: u64) -> Fault {
        self.fault(warp, lane, ins.line, FaultKind::Misaligned, format!("address {address:#x} is no multiple of {bytes}"))
    }

    /// Where an access of a thread lies, checked.
    #[inline(always)]
    fn checked(
        &self,
        warp: &Warp,
        lane: usize,
        ins: &Ins,
        space: Space,
        address: u64,
        bytes: u64,
        seen: &mut Seen,
    ) -> Result<*mut u8, Fault> {
        if address & (bytes - 1) != 0 {
            return Err(self.misaligned(warp, lane, ins, address, bytes));
        }
        self.place(warp, lane, space, address, bytes, seen).map_err(|words| self.astray(warp, lane, ins, address, words))
    }

    /// Tells of an access of a launch that is watched.
    #[cold]
    fn touch(&self, warp: &Warp, lane: usize, ins: &Ins, address: u64, bytes: u64, how: Touch) -> Result<(), Fault> {
        if self.met {
            return Ok(());
        }
        let [x, y, z] = self.block.map(u64::from);
        let [nx, ny, _] = self.launch.grid.map(u64::from);
        let block = (z * ny + y) * nx + x;
        let told = self.launch.fabric.touched(address, bytes, block, how);
        told.map_err(|words| self.fault(warp, lane, ins.line, FaultKind::Failed, format!("address {address:#x}: {words}")))
    }

    #[inline(always)]
    pub(super) fn load(&mut self, warp: &Warp, lanes: &Lanes, ins: &Ins, access: &Access, mask: u32) -> Result<(), Fault> {
        let all = access.bytes as u64 * access.rows.len() as u64;
        // SAFETY: rows are of the frame, addresses are checked.
        unsafe {
            let base = lanes.source(ins.a);
            let mut rest = mask;
            let mut seen = warp.seen;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let address = (*base.add(l)).wrapping_add_signed(access.offset);
                let at = self.checked(warp, l, ins, access.space, address, all, &mut seen)?;
                if self.launch.watched {
                    self.touch(warp, l, ins, address, all, access.touch)?;
                }
                for (n, row) in access.rows.iter().enumerate() {
                    let mut value = read(at.add(n * access.bytes as usize), access.bytes);
                    if access.extend != 0 {
                        let unused = 64 - 8 * u32::from(access.bytes);
                        value = ((value << unused) as i64 >> unused) as u64 & (u64::MAX >> (64 - access.extend));
                    }
                    *lanes.target(*row).add(l) = value;
                }
            }
            self.seen = seen;
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store(&mut self, warp: &Warp, lanes: &Lanes, ins: &Ins, access: &Access, mask: u32) -> Result<(), Fault> {
        let all = access.bytes as u64 * access.rows.len() as u64;
        // SAFETY: as above.
        unsafe {
            let base = lanes.source(ins.a);
            let mut rest = mask;
            let mut seen = warp.seen;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let address = (*base.add(l)).wrapping_add_signed(access.offset);
                let at = self.checked(warp, l, ins, access.space, address, all, &mut seen)?;
                if self.launch.watched {
                    self.touch(warp, l, ins, address, all, access.touch)?;
                }
                for (n, row) in access.rows.iter().enumerate() {
                    write(at.add(n * access.bytes as usize), access.bytes, *lanes.source(*row).add(l));
                }
            }
            self.seen = seen;
        }
        Ok(())
    }

    pub(super) fn atomic(&mut self, warp: &Warp, lanes: &Lanes, ins: &Ins, atomic: &Atomic, mask: u32) -> Result<(), Fault> {
        let low = u64::MAX >> (64 - 8 * u32::from(atomic.bytes));
        // From here on the block may have met others.
        self.met = true;
        // SAFETY: as above.
        unsafe {
            let (base, b, c) = (lanes.source(ins.a), lanes.source(ins.b), lanes.source(ins.c));
            let mut rest = mask;
            let mut seen = warp.seen;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let address = (*base.add(l)).wrapping_add_signed(atomic.offset);
                let at = self.checked(warp, l, ins, atomic.space, address, atomic.bytes.into(), &mut seen)?;
                let (b, c) = (*b.add(l) & low, *c.add(l) & low);
                let old = change(at, atomic.bytes, |old| (atomic.apply)(old, b, c));
                if atomic.returns {
                    *lanes.target(ins.d).add(l) = old;
                }
            }
            self.seen = seen;
        }
        Ok(())
    }

    /// Notes copies that run beside the thread; they are made when it waits for them, as late as may be.
    pub(super) fn copy_async(&mut self, warp: &mut Warp, lanes: &Lanes, ins: &Ins, copy: &CopyAsync, mask: u32) -> Result<(), Fault> {
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // SAFETY: rows are of the frame.
            let value = |row: i32| unsafe { *lanes.source(row).add(l) };
            let to = value(ins.a).wrapping_add_signed(copy.to);
            let from = value(ins.b).wrapping_add_signed(copy.from);
            let mut size = copy.bytes as u64;
            if copy.size != NONE {
                size = size.min(value(copy.size) & 0xFFFF_FFFF);
            }
            if copy.ignore != NONE && value(copy.ignore) & 1 == 1 {
                size = 0;
            }
            let mut seen = warp.seen;
            let bytes = copy.bytes as u64;
            self.checked(warp, l, ins, Space::Shared, to, bytes, &mut seen)?;
            if from & (bytes - 1) != 0 {
                return Err(self.misaligned(warp, l, ins, from, bytes));
            }
            let group = warp.group[l];
            warp.copies.push(Pending { lane: l as u8, group, to, from, bytes: copy.bytes, size: size as u8, line: ins.line });
        }
        Ok(())
    }

    /// Makes the pending copies of these lanes whose group is no longer among the last `keep`; all of them without a number.
    pub(super) fn wait_copies(&mut self, warp: &mut Warp, ins: &Ins, keep: Option<u32>, mask: u32) -> Result<(), Fault> {
        let pending = std::mem::take(&mut warp.copies);
        for copy in pending {
            let l = copy.lane as usize;
            let due = mask >> l & 1 == 1 && keep.is_none_or(|keep| copy.group + keep < warp.group[l]);
            if !due {
                warp.copies.push(copy);
                continue;
            }
            let mut seen = warp.seen;
            let at = Ins { line: copy.line, ..ins.clone() };
            let to = self.checked(warp, l, &at, Space::Shared, copy.to, copy.bytes.into(), &mut seen)?;
            let mut data = [0u8; 16];
            if copy.size > 0 {
                let from = self.place(warp, l, Space::Global, copy.from, copy.size.into(), &mut seen);
                let from = from.map_err(|words| self.astray(warp, l, &at, copy.from, words))?;
                for n in 0..copy.size as usize {
                    // SAFETY: checked above.
                    data[n] = unsafe { read(from.add(n), 1) as u8 };
                }
            }
            for n in 0..copy.bytes as usize {
                // SAFETY: checked above.
                unsafe { write(to.add(n), 1, data[n].into()) };
            }
        }
        Ok(())
    }
}

/// A copy that has been asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    lane: u8,
    group: u32,
    to: u64,
    from: u64,
    bytes: u8,
    size: u8,
    line: u32,
}

impl Pending {
    pub(super) fn lane(&self) -> u8 {
        self.lane
    }
}
