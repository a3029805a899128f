//! A run as one executable file: this program, without what is for debuggers, and behind it a package of the spec, what it imports and the data it reads.

use crate::backend::Backend;
use crate::cli::StandaloneOptions;
use crate::commands::driver;
use crate::host_env::{Between, Driver, With, folder_of};
use crate::messages::Messages;
use crate::session::{Failed, Session, canonical, read_text};
use crate::standalone::About;
use optc_base::{Code, Diagnostic};
use optc_elab::TrainProgram;
use optc_elab::host::{HostEnv, Loaded, Output, ProcessRequest, RunResult, SourceRequest};
use optc_elab::script;
use optc_front::{FileLoader, ItemRef, std_lib};
use optc_train::data::images;
use optc_train::{TrainError, atomic, package};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was made.
pub struct Made {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Of them, those of the program.
    pub program: u64,
    /// Specs that it carries.
    pub specs: usize,
    /// Data files.
    pub data: usize,
}

/// Where the executable runs if it is told nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Who makes its machine code.
    pub backend: Option<Backend>,
    /// Its device.
    pub device: Option<&'a str>,
}

/// What goes into a package: names as seen from the spec, which lies in the folder without a name, and where the bytes are.
#[derive(Default)]
struct Contents {
    texts: BTreeMap<String, String>,
    data: BTreeMap<String, PathBuf>,
}

/// Makes an executable of a train or an experiment.
///
/// # Errors
/// A mistake in the spec; files that cannot be read or written. Why has been printed.
pub fn build(
    file: &Path,
    options: &StandaloneOptions,
    places: Places<'_>,
    output: Option<&Path>,
    messages: &Messages,
) -> Result<Made, Failed> {
    // Messages about the spec name it as the command line does.
    let seen = Session::open(file, &options.set, messages)?;
    let (name, all, what) = match (&options.train, &options.experiment) {
        (Some(train), _) => (train.as_str(), seen.trains(), "train"),
        (None, experiment) => (experiment.as_deref().unwrap_or_default(), seen.experiments(), "experiment"),
    };
    let item = seen.find(name, &all, what).map_err(|(message, help)| {
        messages.error("", &message, help.as_deref());
        Failed
    })?;
    let failed = |e: TrainError| {
        crate::standalone::report(&e, messages);
        Failed
    };
    let base = folder_of(file);
    let spec = canonical(Path::new(file.file_name().unwrap_or_default()));
    let mut contents = Contents::default();
    let session = {
        let files = Relative { base: &base, texts: RefCell::default() };
        let mut session = Session::from_text(&spec, seen.text.clone(), &files);
        session.set(&options.set, options.seed, false);
        contents.texts = files.texts.into_inner();
        contents.texts.insert(spec.clone(), seen.text.clone());
        session
    };
    let specs = contents.texts.len();
    let library = std_lib::replaced();
    contents.texts.extend(library.iter().flatten().cloned());
    let mut reads = With(Reads {
        driver: driver(&session, 0, true, false),
        base: base.clone(),
        data: BTreeMap::new(),
        saved: BTreeMap::new(),
        scratch: std::env::temp_dir().join(format!("optc-build-{}", std::process::id())),
    });
    read_data(&session, item, what == "experiment", &mut reads, messages)?;
    contents.data = std::mem::take(&mut reads.0.data);
    for path in &options.include {
        include(&base.join(path), &canonical(path), &mut contents.data).map_err(failed)?;
    }
    contents.data.retain(|name, _| !contents.texts.contains_key(name));
    let path = output.map_or_else(|| PathBuf::from(name), Path::to_path_buf);
    let path = if path.is_dir() { path.join(name) } else { path };
    let about = About {
        optc: env!("CARGO_PKG_VERSION").to_string(),
        name: name.to_string(),
        experiment: what == "experiment",
        spec,
        set: options.set.clone(),
        seed: options.seed,
        library: library.is_some(),
        backend: places.backend.map(|b| b.name().to_string()),
        device: places.device.map(str::to_string),
    };
    let size = write(&path, &base, &about, &contents).map_err(failed)?;
    Ok(Made { path, size: size.0, program: size.1, specs, data: contents.data.len() })
}

/// Specs from the disk, by their names as seen from the folder of the root.
struct Relative<'a> {
    base: &'a Path,
    texts: RefCell<BTreeMap<String, String>>,
}

impl FileLoader for Relative<'_> {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let place = folder_of(Path::new(from)).join(path);
        let (name, text) = (canonical(&place), read_text(&self.base.join(&place))?);
        self.texts.borrow_mut().insert(name.clone(), text.clone());
        Ok((name, text))
    }
}

/// Notes which data files a run reads.
fn read_data(session: &Session, item: ItemRef, experiment: bool, reads: &mut With<Reads>, messages: &Messages) -> Result<(), Failed> {
    if !experiment {
        return script::lower_only(&session.program, item, &session.settings, reads).map(|_| ()).map_err(|diagnostics| {
            messages.print(&diagnostics, &session.program.sources);
            Failed
        });
    }
    if let Err(diagnostics) = script::run_experiment(&session.program, item, &session.settings, reads) {
        let why = diagnostics.first().map_or_else(String::new, |d| format!(": {}", d.message));
        eprintln!(
            "warning: the experiment was tried with one step in each train, to see which files it reads; it did not come to its end{why}\n  \
             = help: `--include FILE` adds what it reads after that"
        );
    }
    Ok(())
}

/// The outside world of a run that is only looked at: it reads files and notes which, trains one step, and shows nothing. What it saves lies in a folder of its own, to be
/// read again.
struct Reads {
    driver: Driver,
    /// The folder of the root spec.
    base: PathBuf,
    data: BTreeMap<String, PathBuf>,
    saved: BTreeMap<String, PathBuf>,
    scratch: PathBuf,
}

impl Drop for Reads {
    fn drop(&mut self) {
        if !self.saved.is_empty() {
            // Left to the system if it cannot be removed.
            let _ = std::fs::remove_dir_all(&self.scratch);
        }
    }
}

/// The name in a package of what a spec calls `path`.
fn name_of(from: &str, path: &str) -> String {
    canonical(&folder_of(Path::new(from)).join(path))
}

impl Reads {
    /// Where a path of a spec leads to on the disk. The spec has its name as seen from the root spec's folder.
    fn place(&self, from: &str, path: &str) -> PathBuf {
        self.base.join(folder_of(Path::new(from))).join(path)
    }

    /// The name on the disk of a spec.
    fn spec(&self, from: &str) -> Arc<str> {
        Arc::from(self.base.join(from).to_string_lossy())
    }
}

impl Between for Reads {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        let name = name_of(&request.from, &request.path);
        if let Some(saved) = self.saved.get(&name) {
            return self.driver.load(&SourceRequest { path: Arc::from(saved.to_string_lossy()), ..request.clone() });
        }
        let loaded = self.driver.load(&SourceRequest { from: self.spec(&request.from), ..request.clone() })?;
        let place = self.place(&request.from, &request.path);
        if &*request.kind == "images" {
            for file in images::files(&place).map_err(|e| crate::trainer::file_error(&e, request.span))? {
                let below = file.strip_prefix(&place).unwrap_or(&file);
                self.data.insert(canonical(&Path::new(&name).join(below)), file);
            }
        } else {
            self.data.insert(name, place);
        }
        Ok(loaded)
    }

    fn train(&mut self, mut program: TrainProgram) -> Result<RunResult, Diagnostic> {
        program.steps = program.steps.min(1);
        (program.checkpoint, program.log, program.offload, program.resume) = (None, None, None, false);
        self.driver.train(program)
    }

    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        let Some(log) = &request.replay else {
            let what = format!("it talks to the process `{}`, which is not started for this", request.command);
            return Err(Diagnostic::error(Code("R0135"), request.span, what));
        };
        self.data.insert(name_of(&request.from, log), self.place(&request.from, log));
        self.driver.ask(&ProcessRequest { from: self.spec(&request.from), ..request.clone() })
    }

    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        let Output::Save { path, from, value, tree } = output else { return Ok(()) };
        let place = self.scratch.join(self.saved.len().to_string()).join(Path::new(&path).file_name().unwrap_or_default());
        self.saved.insert(name_of(&from, &path), place.clone());
        self.driver.output(Output::Save { path: place.to_string_lossy().into_owned(), from, value, tree })
    }
}

/// A file, or all files of a folder, under this name.
fn include(path: &Path, name: &str, data: &mut BTreeMap<String, PathBuf>) -> Result<(), TrainError> {
    let fail = |e| TrainError::read(path, e);
    if !std::fs::metadata(path).map_err(fail)?.is_dir() {
        data.insert(name.to_string(), path.to_path_buf());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        include(&entry.path(), &canonical(&Path::new(name).join(entry.file_name())), data)?;
    }
    Ok(())
}

/// Writes the file; tells its size and that of the program in it.
fn write(path: &Path, base: &Path, about: &About, contents: &Contents) -> Result<(u64, u64), TrainError> {
    let cannot = |what: String| TrainError::new("R0135", what).at(path);
    let own = std::env::current_exe().map_err(|e| cannot(format!("optc does not know its own file: {e}")))?;
    let target = std::fs::canonicalize(path).ok();
    let sources = contents.data.values().cloned().chain(contents.texts.keys().map(|name| base.join(name))).chain([own.clone()]);
    for source in sources {
        if target.is_some() && std::fs::canonicalize(&source).ok() == target {
            return Err(cannot(format!("it would replace {}, which it is made from", source.display())).help("name another file with `-o`"));
        }
    }
    let program = package::stripped(&std::fs::read(&own).map_err(|e| TrainError::read(&own, e))?);
    let about = serde_json::to_value(about).map_err(|e| cannot(e.to_string()))?;
    let names = contents.texts.keys().chain(contents.data.keys()).cloned();
    let unread = RefCell::new(None);
    let read = |name: &str| match contents.texts.get(name) {
        Some(text) => Ok(text.clone().into_bytes()),
        None => std::fs::read(&contents.data[name]).inspect_err(|_| *unread.borrow_mut() = Some(contents.data[name].clone())),
    };
    atomic::write_with(path, |out| package::write(out, &program, &about, names, read)).map_err(|e| match (unread.take(), e.source) {
        (Some(file), Some(source)) => TrainError::read(&file, source),
        (_, source) => TrainError { source, ..e },
    })?;
    make_executable(path).map_err(|e| TrainError::write(path, e))?;
    let size = std::fs::metadata(path).map_err(|e| TrainError::read(path, e))?.len();
    Ok((size, program.len() as u64))
}

/// Whoever may read the file may run it.
#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)?.permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
