//! Files packed behind a program in one file: what a stand-alone executable carries.
//!
//! | part | bytes |
//! |---|---|
//! | program | any |
//! | [`MAGIC`] | 8 |
//! | files, one after the other, deflated where that makes them smaller | any |
//! | index in JSON: what the package says about itself; name, place, size and SHA-256 of each file, of its bytes as they lie there | any |
//! | trailer: place of the magic word, place and length of the index (u64, little endian), SHA-256 of the index, [`VERSION`] (u32), length of the trailer (u32), [`MAGIC`] | 72 |
//!
//! There is no date and no path of the machine in it: equal files give equal bytes.

use crate::data::file::Bytes;
use crate::error::{Result, TrainError};
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first and the last bytes of a package.
pub const MAGIC: [u8; 8] = *b"optcpack";
/// Of the format.
pub const VERSION: u32 = 1;
const TRAILER: usize = 72;

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// First byte, counted from the start of the whole file.
    start: u64,
    /// Bytes as they lie there.
    stored: u64,
    /// Bytes of the file.
    size: u64,
    /// Of the bytes as they lie there, in hexadecimal.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Index {
    about: serde_json::Value,
    files: BTreeMap<String, Entry>,
}

/// An opened package. Its files are unpacked when they are asked for.
pub struct Package {
    path: PathBuf,
    bytes: Bytes,
    index: Index,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn damaged(path: &Path, what: impl Into<String>) -> TrainError {
    TrainError::new("R0133", format!("what this executable carries is damaged: {}", what.into()))
        .at(path)
        .help("copy it again, or build it anew with `optc build`")
}

/// Writes a package behind `program`: what it says about itself, and its files, which are asked for one by one.
///
/// # Errors
/// `R0101` if a file cannot be read; trouble with `out`.
pub fn write(
    out: &mut dyn Write,
    program: &[u8],
    about: &serde_json::Value,
    names: impl IntoIterator<Item = String>,
    mut read: impl FnMut(&str) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<()> {
    out.write_all(program)?;
    out.write_all(&MAGIC)?;
    let first = program.len() as u64;
    let mut at = first + MAGIC.len() as u64;
    let mut index = Index { about: about.clone(), files: BTreeMap::new() };
    for name in names {
        let plain = read(&name)?;
        let mut packed = Vec::new();
        DeflateEncoder::new(&plain[..], Compression::default()).read_to_end(&mut packed)?;
        let stored = if packed.len() < plain.len() { &packed } else { &plain };
        out.write_all(stored)?;
        let entry = Entry { start: at, stored: stored.len() as u64, size: plain.len() as u64, sha256: hex(&Sha256::digest(stored)) };
        at += stored.len() as u64;
        index.files.insert(name, entry);
    }
    let index = serde_json::to_vec(&index)?;
    out.write_all(&index)?;
    let mut trailer = Vec::with_capacity(TRAILER);
    for n in [first, at, index.len() as u64] {
        trailer.extend_from_slice(&n.to_le_bytes());
    }
    trailer.extend_from_slice(&Sha256::digest(&index));
    trailer.extend_from_slice(&VERSION.to_le_bytes());
    trailer.extend_from_slice(&(TRAILER as u32).to_le_bytes());
    trailer.extend_from_slice(&MAGIC);
    out.write_all(&trailer)
}

/// Where the program ends that an executable of Linux is, as its header says: whatever follows is not its own. `None` if it is no such file.
fn program_end(file: &mut File) -> Option<u64> {
    let mut header = [0; 64];
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_exact(&mut header).ok()?;
    let elf = Elf::read(&header)?;
    if elf.sections > 0 {
        return Some(elf.sections + elf.section_size * elf.section_count);
    }
    let mut table = vec![0; usize::try_from(elf.segment_size * elf.segment_count).ok()?];
    file.seek(SeekFrom::Start(elf.segments)).ok()?;
    file.read_exact(&mut table).ok()?;
    elf.loaded_end(&table)
}

/// What the header of a 64-bit little-endian ELF file says about its tables.
struct Elf {
    segments: u64,
    sections: u64,
    segment_size: u64,
    segment_count: u64,
    section_size: u64,
    section_count: u64,
}

impl Elf {
    fn read(header: &[u8]) -> Option<Elf> {
        let long = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u64::from(u16::from_le_bytes(header.get(at..at + 2)?.try_into().ok()?)));
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        Some(Elf {
            segments: long(32)?,
            sections: long(40)?,
            segment_size: short(54)?,
            segment_count: short(56)?,
            section_size: short(58)?,
            section_count: short(60)?,
        })
    }

    /// Where the last segment ends that is loaded, from the table of segments.
    fn loaded_end(&self, table: &[u8]) -> Option<u64> {
        let size = usize::try_from(self.segment_size).ok().filter(|&s| s >= 56)?;
        let end = |segment: &[u8]| {
            let long = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().expect("eight bytes"));
            long(8).checked_add(long(32))
        };
        table.chunks_exact(size).map(end).try_fold(0, |most, e| Some(most.max(e?))).filter(|&e| e > 0)
    }
}

/// A program without what is only for debuggers: everything behind the last segment that is loaded, and the header's words about it. The program as it is if it is no
/// 64-bit ELF file, or if its tables say something else than usual.
pub fn stripped(program: &[u8]) -> Vec<u8> {
    let cut = || {
        let elf = Elf::read(program)?;
        let start = usize::try_from(elf.segments).ok()?;
        let length = usize::try_from(elf.segment_size * elf.segment_count).ok()?;
        let end = usize::try_from(elf.loaded_end(program.get(start..start.checked_add(length)?)?)?).ok()?;
        let mut short = program.get(..end)?.to_vec();
        // Place of the table of sections; their number and the section of names.
        short.get_mut(40..48)?.fill(0);
        short.get_mut(60..64)?.fill(0);
        Some(short)
    };
    cut().unwrap_or_else(|| program.to_vec())
}

impl Package {
    /// The package that a program carries; `None` if it carries none. Costs a program without one two short reads.
    ///
    /// # Errors
    /// `R0133` if it is cut off, changed or of a version that is not known; `R0101` if the file cannot be read.
    pub fn open(path: &Path) -> Result<Option<Package>> {
        let fail = |e| TrainError::read(path, e);
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut trailer = [0; TRAILER];
        if length >= TRAILER as u64 {
            file.seek(SeekFrom::Start(length - TRAILER as u64)).map_err(fail)?;
            file.read_exact(&mut trailer).map_err(fail)?;
        }
        if trailer[TRAILER - 8..] != MAGIC {
            return match program_end(&mut file) {
                // Something was appended to the program; if it begins like a package, it is what is left of one.
                Some(end) if end < length => {
                    let mut word = [0; 8];
                    file.seek(SeekFrom::Start(end)).map_err(fail)?;
                    match file.read_exact(&mut word) {
                        Ok(()) if word == MAGIC => Err(damaged(path, "its end is missing")),
                        _ => Ok(None),
                    }
                }
                _ => Ok(None),
            };
        }
        let long = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
        let version = u32::from_le_bytes(trailer[56..60].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(damaged(path, format!("its format has version {version}, this program reads {VERSION}")));
        }
        // Left where it is: data of a run may be large, and the program's own pages are mapped anyway.
        let bytes = Bytes::open(path, 1)?;
        if span(&bytes, long(0), 8) != Some(&MAGIC) || trailer[60..64] != (TRAILER as u32).to_le_bytes() {
            return Err(damaged(path, "it does not begin where the trailer says"));
        }
        let index = span(&bytes, long(8), long(16)).ok_or_else(|| damaged(path, "its index is not where the trailer says"))?;
        if Sha256::digest(index)[..] != trailer[24..56] {
            return Err(damaged(path, "its index does not have the checksum that was written"));
        }
        let index = serde_json::from_slice(index).map_err(|e| damaged(path, format!("its index cannot be read: {e}")))?;
        Ok(Some(Package { path: path.to_path_buf(), bytes, index }))
    }

    /// What it says about itself.
    pub fn about(&self) -> &serde_json::Value {
        &self.index.about
    }

    /// Names and sizes of its files, sorted by name.
    pub fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.index.files.iter().map(|(name, entry)| (&**name, entry.size))
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// `R0134` if it is not there, `R0133` if it is damaged.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.index.files.get(name).ok_or_else(|| self.missing(name))?;
        let bad = |what: String| damaged(&self.path, format!("{name}: {what}"));
        let stored = span(&self.bytes, entry.start, entry.stored).ok_or_else(|| bad("it is not where the index says".into()))?;
        if hex(&Sha256::digest(stored)) != entry.sha256 {
            return Err(bad("it does not have the checksum that was written".into()));
        }
        if entry.stored == entry.size {
            return Ok(stored.to_vec());
        }
        let mut plain = Vec::new();
        DeflateDecoder::new(stored).read_to_end(&mut plain).map_err(|e| bad(e.to_string()))?;
        Ok(plain)
    }

    /// The error about a file that is not there.
    pub fn missing(&self, name: &str) -> TrainError {
        TrainError::new("R0134", "this executable does not carry the file, and reads no data from the disk")
            .at(Path::new(name))
            .help("it carries what the run read when it was built: build it with the same `--set`, or with `--include FILE`")
    }

    /// Files and folders in a folder (an empty name is the folder of the spec), by their names, and whether each is a folder.
    pub fn entries(&self, folder: &str) -> Vec<(String, bool)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let below = self.index.files.keys().filter_map(|name| name.strip_prefix(&prefix));
        let mut found: Vec<(String, bool)> = below
            .map(|rest| match rest.split_once('/') {
                Some((sub, _)) => (format!("{prefix}{sub}"), true),
                None => (format!("{prefix}{rest}"), false),
            })
            .collect();
        found.dedup();
        found
    }
}

fn span(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn files() -> Vec<(String, Vec<u8>)> {
        let noise = (0..300u32).map(|k| (k.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        vec![
            ("a.opt".into(), b"const a = 1\n".repeat(50)),
            ("data/noise".into(), noise),
            ("data/x/1.png".into(), vec![1]),
            ("empty".into(), vec![]),
        ]
    }

    fn packed(program: &[u8]) -> Vec<u8> {
        let (files, mut out) = (files(), Vec::new());
        let names = files.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        let read = |name: &str| Ok(files.iter().find(|(n, _)| n == name).unwrap().1.clone());
        write(&mut out, program, &json!({ "train": "t" }), names, read).unwrap();
        out
    }

    fn opened(bytes: &[u8]) -> Result<Option<Package>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        std::fs::write(&path, bytes).unwrap();
        Package::open(&path)
    }

    /// A header of an ELF file with one segment of `loaded` bytes, and with sections behind it if there are any.
    fn elf(loaded: usize, sections: u16) -> Vec<u8> {
        let mut program = vec![7; loaded + usize::from(sections) * 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = if sections > 0 { loaded as u64 } else { 0 };
        for (at, n) in [(32, 64), (40, table), (72, 0), (96, loaded as u64)] {
            program[at..at + 8].copy_from_slice(&n.to_le_bytes());
        }
        for (at, n) in [(54, 56), (56, 1), (58, 64), (60, sections)] {
            program[at..at + 2].copy_from_slice(&n.to_le_bytes());
        }
        program
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let bytes = packed(b"a program");
        assert_eq!(bytes, packed(b"a program"));
        let package = opened(&bytes).unwrap().unwrap();
        assert_eq!(package.about()["train"], "t");
        for (name, plain) in files() {
            assert!(package.file(&name).unwrap() == plain, "{name}");
        }
        assert_eq!(package.entries("data"), [("data/noise".to_string(), false), ("data/x".to_string(), true)]);
        assert_eq!(package.entries("").len(), 3);
        assert_eq!(package.file("other").unwrap_err().code, "R0134");
        assert!(bytes.len() < 9 + 600 + 300 + 900, "texts are deflated: {}", bytes.len());
    }

    #[test]
    fn a_program_without_a_package_has_none() {
        for bytes in [&b""[..], b"short", &[0; 500], &elf(200, 2), &elf(200, 0)] {
            assert!(opened(bytes).unwrap().is_none());
        }
        let mut signed = elf(200, 2);
        signed.extend_from_slice(b"a signature of some other tool");
        assert!(opened(&signed).unwrap().is_none());
    }

    #[test]
    fn every_damage_is_noticed() {
        let program = elf(200, 0);
        let whole = packed(&program);
        for at in program.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let codes: Vec<&str> = match opened(&bytes) {
                Err(e) => vec![e.code],
                Ok(None) => vec![],
                Ok(Some(p)) => files().iter().filter_map(|(name, _)| p.file(name).err()).map(|e| e.code).collect(),
            };
            assert!(codes == ["R0133"], "byte {at}: {codes:?}");
        }
        for cut in [1, 50, TRAILER, TRAILER + 1, whole.len() - program.len() - 8] {
            let error = opened(&whole[..whole.len() - cut]).err().unwrap_or_else(|| panic!("{cut} bytes are missing"));
            assert_eq!(error.code, "R0133");
        }
    }

    #[test]
    fn a_stripped_program_ends_with_what_is_loaded() {
        let short = stripped(&elf(300, 5));
        assert_eq!((short.len(), &short[40..48], &short[60..64]), (300, &[0; 8][..], &[0; 4][..]));
        assert_eq!(stripped(&elf(300, 0)).len(), 300);
        assert_eq!(stripped(b"MZ and so on"), b"MZ and so on");
        assert_eq!(stripped(&elf(300, 5)[..100]), &elf(300, 5)[..100]);
    }
}
