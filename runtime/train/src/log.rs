//! Logs of recorded values: CSV, JSON lines and TensorBoard event files, continued exactly after a resume.

use crate::error::{Result, TrainError};
use crate::tfevents;
use optc_abi::number::exact_as_stored;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `metrics.csv`: a column `step` and one for each name; a field is empty where nothing was recorded.
    Csv,
    /// `metrics.jsonl`: an object a line; numbers JSON lacks (NaN, infinities) are `null`.
    Jsonl,
    /// `events.out.tfevents.optc`: scalars for TensorBoard.
    Tensorboard,
}

impl Format {
    /// The name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
            Format::Tensorboard => "tensorboard",
        }
    }
    /// The format with this name.
    pub fn parse(name: &str) -> Option<Format> {
        [Format::Csv, Format::Jsonl, Format::Tensorboard].into_iter().find(|f| f.name() == name)
    }
    fn file(self) -> &'static str {
        match self {
            Format::Csv => "metrics.csv",
            Format::Jsonl => "metrics.jsonl",
            Format::Tensorboard => "events.out.tfevents.optc",
        }
    }
}

struct Sink {
    format: Format,
    path: PathBuf,
    out: BufWriter<File>,
}

/// Writes one record a step to several files of a folder.
pub struct Logger {
    columns: Vec<String>,
    sinks: Vec<Sink>,
    buffer: Vec<u8>,
}

impl Logger {
    /// Opens the log files of these formats in the folder `dir`, which is created. `columns` are all names that will be recorded.
    ///
    /// Without `resume` old files are replaced. With the step to resume from, what was logged after it (and a line or record a killed
    /// run left unfinished) is cut off and writing goes on; a file that does not exist is begun. `R0118` if the file has other columns.
    pub fn open(dir: &Path, formats: &[Format], columns: &[String], resume: Option<u64>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| TrainError::write(dir, e))?;
        let mut sinks = Vec::new();
        for &format in formats {
            let path = dir.join(format.file());
            let fail = |e| TrainError::write(&path, e);
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
            let keep = match resume {
                None => 0,
                Some(step) => {
                    let mut old = Vec::new();
                    file.read_to_end(&mut old).map_err(|e| TrainError::read(&path, e))?;
                    match format {
                        Format::Csv => keep_csv(&old, columns, step).map_err(|e| e.at(&path))?,
                        Format::Jsonl => {
                            keep_lines(&old, 0, step, |line| serde_json::from_slice::<serde_json::Value>(line).ok()?["step"].as_u64())
                        }
                        Format::Tensorboard => tfevents::keep(&old, step),
                    }
                }
            };
            file.set_len(keep as u64).map_err(fail)?;
            file.seek(SeekFrom::End(0)).map_err(fail)?;
            let mut out = BufWriter::new(file);
            if keep == 0 {
                match format {
                    Format::Csv => out.write_all(&header(columns)).map_err(fail)?,
                    Format::Jsonl => {}
                    Format::Tensorboard => out.write_all(&tfevents::version_record(now())).map_err(fail)?,
                }
            }
            sinks.push(Sink { format, path, out });
        }
        Ok(Logger { columns: columns.to_vec(), sinks, buffer: Vec::new() })
    }
    /// Writes what was recorded at this step, by name. Panics on a name that is not among the columns.
    pub fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        for (name, _) in values {
            assert!(self.columns.iter().any(|c| c == name), "compiler bug: `{name}` is no column of the log");
        }
        for sink in &mut self.sinks {
            self.buffer.clear();
            match sink.format {
                Format::Csv => {
                    self.buffer.extend_from_slice(step.to_string().as_bytes());
                    for column in &self.columns {
                        self.buffer.push(b',');
                        if let Some((_, v)) = values.iter().find(|(name, _)| name == column) {
                            self.buffer.extend_from_slice(exact_as_stored(*v).as_bytes());
                        }
                    }
                    self.buffer.push(b'\n');
                }
                Format::Jsonl => {
                    write!(self.buffer, "{{\"step\":{step}").expect("memory takes bytes");
                    for (name, v) in values {
                        let name = serde_json::Value::from(*name);
                        let v = if v.is_finite() { exact_as_stored(*v) } else { "null".to_string() };
                        write!(self.buffer, ",{name}:{v}").expect("memory takes bytes");
                    }
                    self.buffer.extend_from_slice(b"}\n");
                }
                Format::Tensorboard => self.buffer.extend_from_slice(&tfevents::scalars_record(now(), step, values)),
            }
            sink.out.write_all(&self.buffer).map_err(|e| TrainError::write(&sink.path, e))?;
        }
        Ok(())
    }
    /// Hands everything to the operating system, so that other programs see it. Call it now and then, at each checkpoint and at the
    /// end.
    pub fn flush(&mut self) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|s| s.out.flush().map_err(|e| TrainError::write(&s.path, e)))
    }
    /// The files written.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sinks.iter().map(|s| s.path.as_path())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn header(columns: &[String]) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().from_writer(Vec::new());
    let names = std::iter::once("step").chain(columns.iter().map(String::as_str));
    out.write_record(names).expect("memory takes bytes");
    out.into_inner().expect("memory takes bytes")
}

fn keep_csv(old: &[u8], columns: &[String], step: u64) -> Result<usize> {
    let header = header(columns);
    if !old.starts_with(&header) {
        // Nothing but an unfinished header.
        if header.starts_with(old) {
            return Ok(0);
        }
        let first = old.split(|&b| b == b'\n').next().unwrap_or_default();
        let first: String = String::from_utf8_lossy(first).chars().take(80).collect();
        return Err(TrainError::new("R0118", format!("the log has other columns: `{}`", first.trim_end()))
            .help("log to another folder, or move the file away"));
    }
    Ok(keep_lines(old, header.len(), step, |line| std::str::from_utf8(line.split(|&b| b == b',').next()?).ok()?.parse().ok()))
}

/// How many bytes hold whole lines, from byte `start` on, up to the last whose step is at most `step`.
fn keep_lines(old: &[u8], start: usize, step: u64, step_of: impl Fn(&[u8]) -> Option<u64>) -> usize {
    let mut kept = start;
    for line in old[start..].split_inclusive(|&b| b == b'\n') {
        match line.strip_suffix(b"\n").and_then(&step_of) {
            Some(s) if s <= step => kept += line.len(),
            _ => break,
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 3] = [Format::Csv, Format::Jsonl, Format::Tensorboard];

    fn columns() -> Vec<String> {
        vec!["loss".into(), "acc, top 1".into()]
    }

    fn write(dir: &Path, steps: std::ops::Range<u64>, resume: Option<u64>) {
        let mut log = Logger::open(dir, &ALL, &columns(), resume).unwrap();
        for s in steps {
            log.write(s, &[("loss", 1.0 / s as f64)]).unwrap();
            if s % 2 == 0 {
                log.write(s, &[("acc, top 1", f64::NAN)]).unwrap();
            }
        }
        log.flush().unwrap();
    }

    fn read(dir: &Path, format: Format) -> Vec<u8> {
        fs::read(dir.join(format.file())).unwrap()
    }

    #[test]
    fn a_resumed_log_equals_an_uninterrupted_one() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
        write(&whole, 1..9, None);
        write(&cut, 1..7, None);
        for format in ALL {
            // A kill leaves half a record.
            let mut bytes = read(&cut, format);
            bytes.truncate(bytes.len() - 3);
            fs::write(cut.join(format.file()), bytes).unwrap();
        }
        write(&cut, 5..9, Some(4));
        for format in [Format::Csv, Format::Jsonl] {
            assert_eq!(String::from_utf8(read(&whole, format)), String::from_utf8(read(&cut, format)));
        }
        let steps = |dir| {
            tfevents::decode(&read(dir, Format::Tensorboard)).unwrap().into_iter().map(|e| (e.step, e.scalars.len())).collect::<Vec<_>>()
        };
        assert_eq!(steps(&whole), steps(&cut));
        assert!(String::from_utf8(read(&whole, Format::Csv)).unwrap().starts_with("step,loss,\"acc, top 1\"\n1,1,\n2,0.5,\n2,,nan\n"));
        assert!(String::from_utf8(read(&whole, Format::Jsonl)).unwrap().contains("{\"step\":2,\"acc, top 1\":null}\n"));
    }

    #[test]
    fn a_fresh_log_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..9, None);
        write(dir.path(), 1..2, None);
        assert_eq!(read(dir.path(), Format::Csv), b"step,loss,\"acc, top 1\"\n1,1,\n");
    }

    #[test]
    fn any_cut_can_be_continued() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..4, None);
        for format in ALL {
            let whole = read(dir.path(), format);
            for n in 0..whole.len() {
                fs::write(dir.path().join(format.file()), &whole[..n]).unwrap();
                Logger::open(dir.path(), &[format], &columns(), Some(2)).unwrap().write(3, &[("loss", 1.0)]).unwrap();
            }
        }
    }

    #[test]
    fn other_columns_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..4, None);
        let e = Logger::open(dir.path(), &ALL, &["x".to_string()], Some(2)).err().unwrap();
        assert_eq!(e.code, "R0118");
    }
}
