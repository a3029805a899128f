//! Compiled kernels on disk, so that a slow compiler makes each only once.
//!
//! One file per kernel in a folder that any number of processes share: each is written under another name and then renamed, so that nobody sees half of one. A file that is damaged
//! counts as absent. Nothing here is ever an error: a cache that cannot be read or written is none.

use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// What every file opens with; then comes the digest of the rest, then the rest.
const MAGIC: &[u8; 8] = b"optc-k1\n";
const HEAD: usize = MAGIC.len() + 32;
/// Bytes that all files together may take, by default.
const LIMIT: u64 = 256 << 20;
/// Age from which a file that was never renamed is nobody's.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Time a file's last use is known up to.
const NOTED: Duration = Duration::from_secs(600);

/// A folder of compiled kernels.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    limit: u64,
    /// Bytes written since the folder was last looked through; at first more than it may hold.
    written: AtomicU64,
}

impl Disk {
    /// A cache in a folder, of at most so many bytes (more while several processes fill it).
    pub fn new(folder: impl Into<PathBuf>, limit: u64) -> Disk {
        Disk { folder: folder.into(), limit, written: AtomicU64::new(u64::MAX / 2) }
    }

    /// The one of this process: what `OPTC_CACHE` says (`off`, or a folder), else `optc` in `XDG_CACHE_HOME` or in `~/.cache`; of `OPTC_CACHE_MB` megabytes.
    pub fn of_process() -> Option<Arc<Disk>> {
        static ONE: OnceLock<Option<Arc<Disk>>> = OnceLock::new();
        ONE.get_or_init(|| {
            let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
            let folder = folder(variable)?;
            let limit =
                variable("OPTC_CACHE_MB").and_then(|v| v.to_str()?.parse::<u64>().ok()).map_or(LIMIT, |mb| mb.saturating_mul(1 << 20));
            Some(Arc::new(Disk::new(folder, limit)))
        })
        .clone()
    }

    fn path(&self, key: &[u8; 32]) -> PathBuf {
        let name: String = key.iter().map(|b| format!("{b:02x}")).collect();
        self.folder.join(name + ".kernel")
    }

    /// What was put under a key, if it is there and whole.
    pub fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut bytes = fs::read(&path).ok()?;
        let whole = bytes.len() >= HEAD && bytes.starts_with(MAGIC) && bytes[MAGIC.len()..HEAD] == *digest(&bytes[HEAD..]);
        if !whole {
            // The next `put` would replace it anyhow.
            let _ = fs::remove_file(&path);
            return None;
        }
        note_use(&path);
        bytes.drain(..HEAD);
        Some(bytes)
    }

    /// Keeps bytes under a key.
    pub fn put(&self, key: &[u8; 32], bytes: &[u8]) {
        let size = (HEAD + bytes.len()) as u64;
        if size > self.limit {
            return;
        }
        // Whatever goes wrong, the code is there and the next run makes it again.
        if self.write(key, bytes).is_ok() && self.written.fetch_add(size, Ordering::Relaxed) + size > self.limit / 16 {
            self.written.store(0, Ordering::Relaxed);
            self.trim();
        }
    }

    fn write(&self, key: &[u8; 32], bytes: &[u8]) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        create(&self.folder)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("{}-{number}.draft", std::process::id()));
        let all = || -> std::io::Result<()> {
            let mut file = fs::File::create(&draft)?;
            file.write_all(MAGIC)?;
            file.write_all(&digest(bytes))?;
            file.write_all(bytes)?;
            fs::rename(&draft, self.path(key))
        };
        all().inspect_err(|_| drop(fs::remove_file(&draft)))
    }

    /// Removes what was used longest ago until there is room again, and what was left unfinished.
    fn trim(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let (Ok(about), Some(ending)) = (entry.metadata(), path.extension()) else { continue };
            let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if ending == "kernel" {
                files.push((used, about.len(), path));
            } else if ending == "draft" && now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
        let mut total: u64 = files.iter().map(|f| f.1).sum();
        if total <= self.limit {
            return;
        }
        files.sort();
        for (_, bytes, path) in files {
            if total <= self.limit / 4 * 3 {
                break;
            }
            // Another process may have been faster.
            let _ = fs::remove_file(path);
            total -= bytes;
        }
    }
}

#[cfg(feature = "llvm")]
impl optc_llvm::Cache for Disk {
    fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        Disk::get(self, key)
    }
    fn put(&self, key: &[u8; 32], object: &[u8]) {
        Disk::put(self, key, object);
    }
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// Where the cache is, by the environment.
fn folder(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    if let Some(asked) = variable("OPTC_CACHE") {
        return (asked != "off").then(|| PathBuf::from(asked));
    }
    // A path that is not absolute is to be ignored, says the specification of these folders.
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("optc"))
}

/// Makes the folder; it is the user's alone, as whoever writes there says what code runs.
fn create(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Notes that a file was used, which is why it stays longer than others.
fn note_use(path: &Path) {
    let now = SystemTime::now();
    let used = fs::metadata(path).and_then(|about| about.modified());
    if used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > NOTED))
        && let Ok(file) = fs::File::options().append(true).open(path)
    {
        let _ = file.set_modified(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> [u8; 32] {
        [n; 32]
    }
    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    }

    #[test]
    fn what_was_put_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(dir.path().join("not/yet/there"), LIMIT);
        assert_eq!(disk.get(&key(1)), None);
        disk.put(&key(1), b"code");
        disk.put(&key(2), b"");
        assert_eq!(disk.get(&key(1)).as_deref(), Some(&b"code"[..]));
        assert_eq!(disk.get(&key(2)).as_deref(), Some(&b""[..]));
        assert_eq!(disk.get(&key(3)), None);
        // A later process.
        assert_eq!(Disk::new(&disk.folder, LIMIT).get(&key(1)).as_deref(), Some(&b"code"[..]));
        disk.put(&key(1), b"other code");
        assert_eq!(disk.get(&key(1)).as_deref(), Some(&b"other code"[..]));
    }

    #[test]
    fn damaged_files_count_as_absent_and_are_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(dir.path(), LIMIT);
        let damages: [fn(&mut Vec<u8>); 5] =
            [|b| b.truncate(HEAD + 2), |b| b.truncate(3), |b| b.clear(), |b| *b.last_mut().expect("bytes") ^= 1, |b| b[0] = b'x'];
        for damage in damages {
            disk.put(&key(1), b"code");
            let path = disk.path(&key(1));
            let mut bytes = fs::read(&path).expect("the file");
            damage(&mut bytes);
            fs::write(&path, bytes).expect("written");
            assert_eq!(disk.get(&key(1)), None);
            assert!(!path.exists());
        }
        disk.put(&key(1), b"code");
        assert!(disk.get(&key(1)).is_some());
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_was_used_last() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(dir.path(), 100_000);
        let bytes = [7; 10_000 - HEAD];
        for n in 0..8 {
            disk.put(&key(n), &bytes);
            // The first ones were used long ago.
            let file = fs::File::options().append(true).open(disk.path(&key(n))).expect("the file");
            file.set_modified(SystemTime::now() - Duration::from_secs(86_400 - 3600 * u64::from(n))).expect("set");
        }
        assert!(disk.get(&key(0)).is_some(), "now it was used last");
        for n in 8..12 {
            disk.put(&key(n), &bytes);
        }
        let total: u64 = fs::read_dir(dir.path()).expect("a folder").flatten().map(|e| e.metadata().expect("a file").len()).sum();
        assert!(total <= 100_000, "{total}");
        assert!(disk.get(&key(0)).is_some() && disk.get(&key(11)).is_some());
        assert!(disk.get(&key(1)).is_none() && disk.get(&key(2)).is_none());
        disk.put(&key(50), &[0; 200_000]);
        assert!(disk.get(&key(50)).is_none(), "larger than everything");
    }

    #[test]
    fn unfinished_files_of_processes_long_gone_are_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, age) in [("1-0.draft", 2 * ABANDONED), ("2-0.draft", ABANDONED / 2)] {
            let file = fs::File::create(dir.path().join(name)).expect("a file");
            file.set_modified(SystemTime::now() - age).expect("set");
        }
        Disk::new(dir.path(), LIMIT).put(&key(1), b"code");
        assert!(!dir.path().join("1-0.draft").exists() && dir.path().join("2-0.draft").exists());
    }

    #[test]
    fn many_at_once_see_whole_files_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let content = |n: u8| vec![n; 5000 + usize::from(n)];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let disk = Disk::new(dir.path(), LIMIT);
                    for n in (0..50).cycle().take(200) {
                        disk.put(&key(n), &content(n));
                        // As each key has one content, a damaged file would have been removed.
                        assert_eq!(disk.get(&key(n)), Some(content(n)));
                    }
                });
            }
        });
        assert_eq!(files(dir.path()), 50);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        fs::write(&file, b"").expect("written");
        let disk = Disk::new(file.join("below"), LIMIT);
        disk.put(&key(1), b"code");
        assert_eq!(disk.get(&key(1)), None);
    }

    #[test]
    fn the_environment_says_where() {
        let with = |pairs: &'static [(&'static str, &'static str)]| {
            folder(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.into())).map(|p| p.to_string_lossy().into_owned())
        };
        assert_eq!(with(&[("HOME", "/home/u")]).as_deref(), Some("/home/u/.cache/optc"));
        assert_eq!(with(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/optc"));
        assert_eq!(with(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "relative")]).as_deref(), Some("/home/u/.cache/optc"));
        assert_eq!(with(&[("HOME", "/home/u"), ("OPTC_CACHE", "/mine")]).as_deref(), Some("/mine"));
        assert_eq!(with(&[("HOME", "/home/u"), ("OPTC_CACHE", "off")]), None);
        assert_eq!(with(&[]), None);
    }
}
