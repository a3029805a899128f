//! A file read and written past the cache of the operating system where that is possible, in whole blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Unit of reading and writing: a multiple of every disk's sector, and the size of a page.
pub const BLOCK: usize = 4096;
/// Alignment of memory that is read into or written from past the cache.
pub(crate) const SECTOR: usize = 512;

/// An open file.
pub(crate) struct Disk {
    file: File,
}

/// Opens a file for reading and writing past the cache.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Disk {
    /// Opens an existing file; through the cache where the file system knows no other way.
    pub fn open(path: &Path) -> io::Result<Disk> {
        if let Ok(file) = open_direct(path) {
            let disk = Disk { file };
            // Some file systems accept the flag and refuse the first access, or want memory aligned to more than a sector.
            let mut probe = memmap2::MmapMut::map_anon(2 * BLOCK)?;
            if disk.read(&mut probe[SECTOR..SECTOR + BLOCK], 0).is_ok() {
                return Ok(disk);
            }
        }
        Ok(Disk { file: OpenOptions::new().read(true).write(true).open(path)? })
    }

    /// Fills `to` from the bytes at `at`; an error if the file ends before.
    pub fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, to, at);
        #[cfg(windows)]
        {
            let mut done = 0;
            while done < to.len() {
                match std::os::windows::fs::FileExt::seek_read(&self.file, &mut to[done..], at + done as u64)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => done += n,
                }
            }
            Ok(())
        }
    }

    /// Writes `from` to the bytes at `at`; an error if the file has been cut off there, which writing would hide by a hole.
    pub fn write(&self, from: &[u8], at: u64) -> io::Result<()> {
        if self.len()? < at + from.len() as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has been cut off"));
        }
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_all_at(&self.file, from, at);
        #[cfg(windows)]
        {
            let mut done = 0;
            while done < from.len() {
                done += std::os::windows::fs::FileExt::seek_write(&self.file, &from[done..], at + done as u64)?;
            }
            Ok(())
        }
    }

    /// Bytes of the file now.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
