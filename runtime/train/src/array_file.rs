//! Arrays that live in files while a run goes on: one `.npy` file each, whose elements begin at a block of the disk.

use crate::data::npy;
use crate::error::{Result, TrainError};
use memmap2::{MmapMut, MmapOptions};
use optc_abi::{DType, Tensor};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Where the elements begin, and what the file's length is a multiple of.
pub const BLOCK: usize = 4096;

/// The file of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayFile {
    /// The array's name.
    pub name: String,
    /// Where the file lies.
    pub path: PathBuf,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
}

/// What may stand in the name of a file.
fn plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl ArrayFile {
    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// Makes a file of zeros for each array (name, element type, extents) in `dir`, in place of files of the same names, which whoever has them open keeps. The room on
    /// the disk is taken now. `R0128` if there is not enough, `R0102` if the folder cannot be written to; nothing of these files is left then.
    pub fn create_all<'a>(dir: &Path, arrays: impl IntoIterator<Item = (&'a str, DType, &'a [usize])>) -> Result<Vec<ArrayFile>> {
        fs::create_dir_all(dir).map_err(|e| TrainError::write(dir, e))?;
        let mut made: Vec<ArrayFile> = Vec::new();
        for (name, dtype, shape) in arrays {
            let stem: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
            let mut path = dir.join(format!("{stem}.npy"));
            for k in 1.. {
                if made.iter().all(|f| f.path != path) {
                    break;
                }
                path = dir.join(format!("{stem}-{k}.npy"));
            }
            let file = ArrayFile { name: name.to_string(), path, dtype, shape: shape.to_vec() };
            if let Err(e) = file.create() {
                for f in made.iter().chain([&file]) {
                    // What cannot be removed now was not made either, or is a matter of the folder.
                    let _ = fs::remove_file(&f.path);
                }
                return Err(e);
            }
            made.push(file);
        }
        Ok(made)
    }

    fn create(&self) -> Result<()> {
        let fail = |e: std::io::Error| match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                let message = format!("the disk has no room for the {} bytes of `{}`", self.bytes(), self.name);
                TrainError { source: Some(e), ..TrainError::new("R0128", message).at(&self.path) }
                    .help("free some space, or give `offload` a folder on another disk")
            }
            _ => TrainError::write(&self.path, e),
        };
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let mut file = File::create_new(&self.path).map_err(fail)?;
        file.write_all(&npy::aligned_header(self.dtype, &self.shape, BLOCK)).map_err(fail)?;
        let length = (BLOCK + self.bytes()).next_multiple_of(BLOCK) as u64;
        reserve(&file, length).map_err(fail)
    }

    /// The array in memory that is the file's: what is written to it is written to the file, when the system finds the time.
    pub fn map(&self) -> Result<Tensor> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(|e| TrainError::read(&self.path, e))?;
        // SAFETY: the file was made for this run, which alone changes it.
        self.tensor(unsafe { MmapOptions::new().map_mut(&file) })
    }

    /// The array as it is in the file, read as it is looked at; changes stay in memory.
    pub fn view(&self) -> Result<Tensor> {
        let file = File::open(&self.path).map_err(|e| TrainError::read(&self.path, e))?;
        // SAFETY: as in `map`; between steps nobody writes to it.
        self.tensor(unsafe { MmapOptions::new().map_copy(&file) })
    }

    fn tensor(&self, pages: std::io::Result<MmapMut>) -> Result<Tensor> {
        let pages = pages.map_err(|e| TrainError::read(&self.path, e))?;
        let short = || TrainError::new("R0129", format!("the file of `{}` is too short", self.name)).at(&self.path);
        Tensor::mapped(self.dtype, &self.shape, pages, BLOCK).ok_or_else(short)
    }

    /// Cuts off what the file has been filled up with, once no more is written to it in blocks: now it is an ordinary `.npy` file.
    pub fn finish(&self) -> Result<()> {
        let length = (BLOCK + self.bytes()) as u64;
        let file = OpenOptions::new().write(true).open(&self.path);
        file.and_then(|f| f.set_len(length)).map_err(|e| TrainError::write(&self.path, e))
    }

    /// Writes what is still in memory to the disk and lets go of the memory.
    pub fn settle(&self) -> Result<()> {
        let file = File::open(&self.path).map_err(|e| TrainError::read(&self.path, e))?;
        file.sync_data().map_err(|e| TrainError::write(&self.path, e))?;
        drop_cache(&file);
        Ok(())
    }
}

/// Gives a file its length, with room on the disk where the file system can promise it.
fn reserve(file: &File, length: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // Asking for more than there is would take all of it before it fails, and stop others meanwhile.
        let mut disk = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the descriptor is open, and the call fills the structure, all of whose bits may be zero.
        let known = unsafe { libc::fstatvfs(file.as_raw_fd(), disk.as_mut_ptr()) } == 0;
        // SAFETY: as above.
        let disk = unsafe { disk.assume_init() };
        if known && length > disk.f_bavail.saturating_mul(disk.f_frsize) {
            return Err(ErrorKind::StorageFull.into());
        }
    }
    file.set_len(length)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let length = libc::off_t::try_from(length).map_err(|_| ErrorKind::FileTooLarge)?;
        // SAFETY: the descriptor is open.
        match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } {
            0 => {}
            _ => {
                let e = std::io::Error::last_os_error();
                // Without a promise the file is filled as it is written.
                if !matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) {
                    return Err(e);
                }
            }
        }
    }
    Ok(())
}

/// Tells the system that the file's pages need not stay in memory.
fn drop_cache(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open; this is a hint.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_begin_as_zeros_at_a_block_and_are_npy_files() {
        let dir = tempfile::tempdir().unwrap();
        let arrays = [("a/b", DType::F32, &[3, 5][..]), ("a b", DType::BF16, &[7]), ("c", DType::F64, &[])];
        let files = ArrayFile::create_all(&dir.path().join("x"), arrays).unwrap();
        assert_eq!(files[1].path.file_name().unwrap(), "a_b-1.npy");
        let mut t = files[0].map().unwrap();
        assert!(t.to_f64().iter().all(|x| *x == 0.0));
        t.set_f64(14, 2.5);
        files[0].settle().unwrap();
        assert_eq!(fs::metadata(&files[0].path).unwrap().len(), 2 * BLOCK as u64);
        files[0].finish().unwrap();
        assert_eq!((npy::read(&files[0].path).unwrap(), files[0].view().unwrap()), (t.clone(), t));
        let mut v = files[2].view().unwrap();
        v.set_f64(0, 1.0);
        assert_eq!(files[2].view().unwrap().get_f64(0), 0.0, "a view is not the file");
    }

    #[test]
    fn a_new_file_leaves_the_old_one_to_those_who_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let make = || ArrayFile::create_all(dir.path(), [("m", DType::I32, &[2][..])]).unwrap().remove(0);
        let mut first = make().map().unwrap();
        first.set_f64(0, 7.0);
        assert_eq!((make().view().unwrap().get_f64(0), first.get_f64(0)), (0.0, 7.0));
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let huge = [("small", DType::F32, &[4][..]), ("huge", DType::F32, &[1 << 41])];
        let e = ArrayFile::create_all(dir.path(), huge).unwrap_err();
        assert_eq!(e.code, "R0128", "{e}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let e = ArrayFile::create_all(Path::new("/proc/none"), [("m", DType::F32, &[4][..])]).unwrap_err();
        assert_eq!(e.code, "R0102");
    }
}
