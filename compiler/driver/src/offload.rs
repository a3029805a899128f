//! Slots of a run that live in files: making the files, handing them to the runtime, saying what went wrong.

use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_elab::TrainProgram;
use optc_exec::Program;
use optc_exec::offload::{Failure, Moved, Options, Stored};
use optc_train::{ArrayFile, TrainError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Bytes of an arena for initial values from which it lies in a file, where arrays do so too.
const LARGE_ARENA: usize = 64 << 20;

/// The files of a run's slots; by default there are none.
#[derive(Debug, Default)]
pub struct Files {
    dir: PathBuf,
    /// By slot.
    files: Vec<Option<ArrayFile>>,
}

impl Files {
    /// Makes a file of zeros for each slot that lives in one.
    ///
    /// # Errors
    /// A folder that cannot be written to, a disk without room.
    pub fn create(program: &TrainProgram, dir: &Path) -> Result<Files, TrainError> {
        let offloaded = program.offloaded();
        let arrays = offloaded.iter().map(|&k| {
            let slot = &program.slots[k];
            (slot.name.as_str(), slot.ty.dtype, &slot.ty.shape[..])
        });
        let mut made = ArrayFile::create_all(dir, arrays)?.into_iter();
        let mut files = vec![None; program.slots.len()];
        for k in offloaded {
            files[k] = made.next();
        }
        Ok(Files { dir: dir.to_path_buf(), files })
    }

    /// The file of a slot.
    pub fn get(&self, slot: usize) -> Option<&ArrayFile> {
        self.files.get(slot)?.as_ref()
    }

    /// Whether all slots are in memory.
    pub fn is_empty(&self) -> bool {
        self.files.iter().all(Option::is_none)
    }

    /// A slot's present value: that of its file, looked at where it is, or a copy of the memory. Only between steps.
    ///
    /// # Errors
    /// A file that is gone or cut off.
    pub fn value(&self, slot: usize, memory: &Tensor) -> Result<Tensor, TrainError> {
        match self.get(slot) {
            Some(file) => file.view(),
            None => Ok(memory.clone()),
        }
    }

    /// Memory in a file without a name, for what is needed once and is large; none where ordinary memory does.
    ///
    /// # Errors
    /// A disk without room.
    pub fn scratch(&self, bytes: usize) -> Result<Option<Tensor>, TrainError> {
        if self.is_empty() || bytes < LARGE_ARENA {
            return Ok(None);
        }
        let file = ArrayFile::create_all(&self.dir, [("scratch", DType::U8, &[bytes][..])])?.remove(0);
        let memory = file.map();
        std::fs::remove_file(&file.path).map_err(|e| TrainError::write(&file.path, e))?;
        memory.map(Some)
    }

    /// Gives a program a file without a name for what leaves memory within its steps, if anything does.
    ///
    /// # Errors
    /// A disk without room.
    pub fn swap(&self, program: &mut Program, options: &Options, span: Span) -> Result<(), Diagnostic> {
        let bytes = program.swapped_bytes(options) as usize;
        if bytes == 0 || self.dir.as_os_str().is_empty() {
            return Ok(());
        }
        let file = |e: TrainError| crate::trainer::file_error(&e, span);
        let made = ArrayFile::create_all(&self.dir, [("activations", DType::U8, &[bytes][..])]).map_err(file)?.remove(0);
        program.swap(&made.path, options).map_err(|e| failed(&e, "before the first step", span))?;
        std::fs::remove_file(&made.path).map_err(|e| file(TrainError::write(&made.path, e)))
    }

    /// Writes initial values that are still in memory to the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn settle(&self) -> Result<(), TrainError> {
        self.files.iter().flatten().try_for_each(ArrayFile::settle)
    }

    /// Makes them ordinary `.npy` files, once nothing more is written.
    ///
    /// # Errors
    /// A file that is gone.
    pub fn finish(&self) -> Result<(), TrainError> {
        self.files.iter().flatten().try_for_each(ArrayFile::finish)
    }

    /// What the runtime needs to know of them.
    pub fn stored(&self) -> Vec<Stored> {
        let stored = |(input, file): (usize, &Option<ArrayFile>)| {
            let file = file.as_ref()?;
            let offset = optc_train::array_file::BLOCK as u64;
            Some(Stored { input, name: file.name.clone(), path: file.path.clone(), offset, bytes: file.bytes() as u64 })
        };
        self.files.iter().enumerate().filter_map(stored).collect()
    }

    /// Bytes of all files' arrays.
    pub fn bytes(&self) -> usize {
        self.files.iter().flatten().map(ArrayFile::bytes).sum()
    }
}

/// How the runtime moves the arrays of a train.
pub fn options(program: &TrainProgram) -> Options {
    let o = program.offload.as_ref();
    o.map_or_else(Options::default, |o| Options { chunk: o.chunk, depth: o.depth, throttle: o.throttle })
}

/// What a script sees as `r.offload`.
pub fn record(files: &Files, moved: &Moved) -> Vec<(&'static str, f64)> {
    vec![
        ("bytes", files.bytes() as f64),
        ("read", moved.read as f64),
        ("written", moved.written as f64),
        ("swapped", moved.swapped as f64),
        ("peak", moved.peak as f64),
        ("stepping", moved.stepping.as_secs_f64()),
        ("reading", moved.reading.as_secs_f64()),
        ("writing", moved.writing.as_secs_f64()),
        ("computing", moved.computing.as_secs_f64()),
        ("waiting", moved.waiting.as_secs_f64()),
    ]
}

/// A file that failed while a step ran.
pub fn failed(failure: &Failure, what: &str, span: Span) -> Diagnostic {
    let (code, verb) = match (failure.error.kind(), failure.writing) {
        (ErrorKind::UnexpectedEof, true) => ("R0129", "written"),
        (ErrorKind::UnexpectedEof | ErrorKind::NotFound, false) => ("R0129", "read"),
        (_, true) => ("R0102", "written"),
        (_, false) => ("R0101", "read"),
    };
    let message = format!("{what}: `{}` cannot be {verb}: {}: {}", failure.name, failure.path.display(), failure.error);
    Diagnostic::error(Code(code), span, message)
        .note("the step was not finished and the files hold half of it; checkpoints are whole")
        .help("go on from the newest checkpoint with `--resume`")
}
