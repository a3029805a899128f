//! Writing whole files so that they are there completely or not at all.

use crate::error::{Result, TrainError};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The folder a file lies in; `.` for a bare name.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a file is written before it gets its name: hidden, in the same folder, marked with the process.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map_or_else(Default::default, |n| n.to_string_lossy().into_owned());
    folder(path).join(format!(".{name}.{}{TEMPORARY}", std::process::id()))
}

/// Ending of unfinished files.
pub(crate) const TEMPORARY: &str = ".unfinished";

/// Creates the folders above `path`, writes the file under a temporary name, flushes it to the disk, renames it and flushes the folder.
/// Whenever the process dies, `path` is the old file or the new one, whole. `R0102` on failure.
pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let dir = folder(path);
    fs::create_dir_all(dir).map_err(|e| TrainError::write(path, e))?;
    let temporary = temporary(path);
    let attempt = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        // Makes the rename itself durable.
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        TrainError::write(path, e)
    })
}

/// [`write_with`] for bytes at hand.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.txt");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half")?;
            Err(std::io::Error::other("power cut"))
        });
        assert_eq!(failed.unwrap_err().code, "R0102");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
        assert_eq!(write(Path::new("/proc/no/such"), b"").unwrap_err().code, "R0102");
    }
}
