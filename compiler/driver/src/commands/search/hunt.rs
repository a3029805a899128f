//! `optc search FILE`, `optc search resume`.

use super::finish::{cannot_write, finish, resuming};
use super::live::Live;
use super::regress;
use crate::cli::SearchOptions;
use crate::commands::{catch_interrupt, date, say};
use crate::messages::Messages;
use crate::search::archive::{Archive, RunRow, VERSION, arms};
use crate::search::block::{self, Budget, SearchSpec};
use crate::search::files::{self, Hashes};
use crate::search::hunt::{Hunt, Trouble};
use crate::search::merge::{merge, of_rank};
use crate::search::paths::try_to_write;
use crate::search::regress::block::is_regression;
use crate::search::ring::Ring;
use crate::search::{seed, task};
use crate::session::{Failed, Session};
use optc_front::ast::BlockItem;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) fn trouble(why: &str, help: Option<&str>, messages: &Messages) -> Failed {
    messages.error("R0146", why, help);
    Failed
}

/// A search that can begin.
struct Ready {
    hunt: Hunt,
    file: PathBuf,
    /// The archive of the block; with several processes each has one of its own beside it.
    archive: PathBuf,
    budget: Budget,
    /// The archive was made for this run.
    made: Option<PathBuf>,
    /// What tells the search from others.
    search: String,
}

/// Runs a search of a spec.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(file: &Path, name: Option<&str>, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    if is_formula(file, name, messages) {
        let session = Session::open(file, &[], messages)?;
        return regress::run(&session, find(&session, name, messages)?, file, options, messages);
    }
    let ring = processes(messages)?;
    let ready = prepare(file, name, options, ring.as_ref(), messages);
    begin(ready, ring, options, messages)
}

/// Whether a search that one process makes is one for a formula; what is wrong with the spec is told by whoever reads it next.
fn is_formula(file: &Path, name: Option<&str>, messages: &Messages) -> bool {
    let silent = &Messages { silent: true, ..*messages };
    optc_mpi::launched().is_none()
        && Session::open(file, &[], silent).is_ok_and(|session| find(&session, name, silent).is_ok_and(is_regression))
}

fn prepare(file: &Path, name: Option<&str>, options: &SearchOptions, ring: Option<&Ring>, messages: &Messages) -> Result<Ready, Failed> {
    let common = &of_all(ring, messages);
    let session = Session::open(file, &[], common)?;
    let spec = read(&session, name, common)?;
    let path = crate::host_env::folder_of(file).join(&spec.archive);
    let row = RunRow { spec: file.to_string_lossy().into_owned(), spec_text: session.text.clone(), name: spec.name.clone() };
    // Everything that may be wrong is found before the archive is made.
    let budget = budget(spec.budget, 0.0, options, common)?;
    can_emit(file, spec.emit.as_deref(), common)?;
    let own = ring.map_or_else(|| path.clone(), |r| of_rank(&path, r.rank()));
    let cannot = |why: String, messages: &Messages| {
        let help = format!("`optc search resume {}` goes on with it; remove it, or give `archive` another path", path.display());
        trouble(&format!("cannot make an archive: {why}"), Some(&help), messages)
    };
    if own != path && path.exists() {
        return Err(cannot(format!("{} is there already", path.display()), common));
    }
    let mut archive = Archive::create(&own, &row).map_err(|why| cannot(why, messages))?;
    let begin = |archive: &mut Archive| {
        archive.set("measure", &block::measure(&session, &spec))?;
        archive.set("steers", &files::steers(&session, find(&session, name, common).map_err(|_| String::new())?, Some(&spec)))?;
        archive.set("imports", &Hashes::imports(&session).text())?;
        archive.set("started", &date())
    };
    let set = begin(&mut archive).and_then(|()| match ring {
        Some(r) => archive.set("rank", &r.rank().to_string()).and_then(|()| archive.set("ranks", &r.size().to_string())),
        None => Ok(()),
    });
    set.map_err(|why| cannot(why, messages))?;
    let search = search_of(&row, ring);
    match hunt(spec, file, archive, "", options, ring, common) {
        Ok(hunt) => Ok(Ready { hunt, file: file.to_path_buf(), archive: path, budget, made: Some(own), search }),
        Err(failed) => {
            // An archive in which nothing is.
            let _ = std::fs::remove_file(&own);
            Err(failed)
        }
    }
}

/// Goes on with a search.
///
/// # Errors
/// If that fails; why has been printed.
pub fn resume(path: &Path, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    if regress::is_formula(path) && optc_mpi::launched().is_none() {
        return resume_formula(path, options, messages);
    }
    let ring = processes(messages)?;
    let ready = reopen(path, options, ring.as_ref(), messages);
    begin(ready, ring, options, messages)
}

fn resume_formula(path: &Path, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let no = |why: String| trouble(&format!("cannot go on from {}: {why}", path.display()), None, messages);
    let archive = Archive::open(path).map_err(no)?;
    let (row, state) = archive.run().map_err(no)?;
    let file = Path::new(&row.spec);
    let session = Session::open(file, &[], messages)?;
    let block = find(&session, Some(&row.name), messages)?;
    unchanged(&session, block, None, &archive, &row, messages).map_err(no)??;
    regress::resume(&session, block, file, (path, archive, &state), options, messages)
}

/// Whether what steers the search of an archive is what it was; the text of the spec, where it has changed elsewhere.
fn unchanged(
    session: &Session,
    block: &BlockItem,
    spec: Option<&SearchSpec>,
    archive: &Archive,
    row: &RunRow,
    messages: &Messages,
) -> Result<Result<Option<String>, Failed>, String> {
    let before = archive.setting("imports")?.map(|kept| Hashes::read(&kept));
    if let Some(name) = before.as_ref().and_then(|before| before.changed(&Hashes::imports(session)).map(str::to_string)) {
        let help =
            "its scores could not be compared with those of the archive; a changed task is another search, with an archive of its own";
        let why = format!("{name}, which the spec imports, has changed since the search was started");
        return Ok(Err(trouble(&why, Some(help), messages)));
    }
    if session.text == row.spec_text {
        return Ok(Ok(None));
    }
    if archive.setting("steers")?.is_some_and(|kept| kept == files::steers(session, block, spec)) {
        return Ok(Ok(Some(session.text.clone())));
    }
    let help = "the archive holds the text it was started with; `budget`, `archive`, `emit`, `funnel`, `held_out` and `a_a` may change, the rest makes another search, with an archive of its own";
    Ok(Err(trouble(&format!("{} has changed since the search was started", row.spec), Some(help), messages)))
}

/// Whether there is a place for what is emitted: said before anything is searched.
pub(super) fn can_emit(file: &Path, emit: Option<&Path>, messages: &Messages) -> Result<(), Failed> {
    let Some(emit) = emit else { return Ok(()) };
    let to = crate::host_env::folder_of(file).join(emit);
    try_to_write(&to).map_err(|e| cannot_write(&to, &e, messages))
}

fn reopen(path: &Path, options: &SearchOptions, ring: Option<&Ring>, messages: &Messages) -> Result<Ready, Failed> {
    let common = &of_all(ring, messages);
    let own = ring.map_or_else(|| path.to_path_buf(), |r| of_rank(path, r.rank()));
    let no = |why: String| trouble(&format!("cannot go on from {}: {why}", own.display()), None, messages);
    let mut archive = Archive::open(&own).map_err(no)?;
    let (row, state) = archive.run().map_err(no)?;
    of_so_many(&archive, path, ring)
        .map_err(|(why, help)| trouble(&format!("cannot go on from {}: {why}", own.display()), Some(&help), messages))?;
    let file = &PathBuf::from(&row.spec);
    let session = Session::open(file, &[], common)?;
    let spec = read(&session, Some(&row.name), common)?;
    let block = find(&session, Some(&row.name), common)?;
    let changed = unchanged(&session, block, Some(&spec), &archive, &row, messages).map_err(no)??;
    can_emit(file, spec.emit.as_deref(), common)?;
    let row = RunRow { spec_text: session.text.clone(), ..row };
    if let Some(text) = changed {
        archive.keep_spec(&text).map_err(no)?;
        if !common.silent {
            say(&format!("{} has changed in what does not steer the search", row.spec));
        }
    }
    let budget = budget(spec.budget, archive.elapsed().map_err(no)?, options, common)?;
    let search = search_of(&row, ring);
    let hunt = hunt(spec, file, archive, &state, options, ring, common)?;
    Ok(Ready { hunt, file: file.to_path_buf(), archive: path.to_path_buf(), budget, made: None, search })
}

/// Whether an archive is that of a search of as many processes as there are; else why not, and what to do.
fn of_so_many(archive: &Archive, path: &Path, ring: Option<&Ring>) -> Result<(), (String, String)> {
    let setting = |name: &str| archive.setting(name).map_err(|why| (why, String::new()));
    let ranks = setting("ranks")?;
    match (ring, ranks) {
        (None, None) if setting("merged")?.is_some_and(|m| m == "searches") => Err((
            "it was merged from several searches".to_string(),
            "go on with the archives it was made of, and merge them again".to_string(),
        )),
        (None, None) => Ok(()),
        (None, Some(n)) => Err((
            format!("it is that of one of {n} processes"),
            format!(
                "`mpirun --enable-recovery -n {n} optc search resume` with the archive of the block, or `optc search merge` the archives of all processes"
            ),
        )),
        (Some(r), ranks) if ranks.as_deref() != Some(&r.size().to_string()) => {
            let n = ranks.unwrap_or_else(|| "1".to_string());
            Err((
                format!("the search has {n} processes, not {}", r.size()),
                format!("`mpirun --enable-recovery -n {n} optc search resume …`"),
            ))
        }
        (Some(_), _) => {
            let rounds = |archive: &Archive| -> Result<u64, (String, String)> {
                let state = archive.run().map_err(|why| (why, String::new()))?.1;
                let arms = if state.is_empty() { Vec::new() } else { arms(&state).map_err(|why| (why, String::new()))? };
                Ok(arms.first().map_or(0, |a| a.rounds))
            };
            let ahead = match Archive::open(path) {
                Ok(merged) => {
                    merged.setting("alone").map_err(|why| (why, String::new()))?.is_some_and(|a| a == "yes")
                        && rounds(&merged)? > rounds(archive)?
                }
                Err(_) => false,
            };
            if ahead {
                return Err((
                    "one process has gone on with the archive of all".to_string(),
                    format!("`optc search resume {}`, without mpirun", path.display()),
                ));
            }
            Ok(())
        }
    }
}

/// Messages that all processes would print, of which one does.
fn of_all(ring: Option<&Ring>, messages: &Messages) -> Messages {
    Messages { silent: ring.is_some_and(|r| r.rank() > 0), ..*messages }
}

/// What tells a search from others, and one version of this program from another.
fn search_of(row: &RunRow, ring: Option<&Ring>) -> String {
    let size = ring.map_or(1, Ring::size);
    optc_train::report::sha256(format!("{VERSION} {size} {} {}", row.name, row.spec_text).as_bytes())
}

/// The processes of the run, if `mpirun` started several.
fn processes(messages: &Messages) -> Result<Option<Ring>, Failed> {
    let Some((rank, _)) = optc_mpi::launched() else { return Ok(None) };
    let messages = &Messages { silent: rank > 0, ..*messages };
    #[cfg(feature = "mpi")]
    let made = optc_mpi::start().map(|world| Some(Ring::new(Box::new(world)))).map_err(|why| trouble(&why, None, messages));
    #[cfg(not(feature = "mpi"))]
    let made = Err(trouble(
        "this build does not search with several processes",
        Some(
            "`cargo build --release -p optc --features mpi` makes one that does, where there are Open MPI and libclang; or start one process, with `--jobs N` for N threads",
        ),
        messages,
    ));
    made
}

/// Begins, with the other processes where there are some.
fn begin(ready: Result<Ready, Failed>, ring: Option<Ring>, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let Some(mut ring) = ring else { return go(ready?, None, options, messages) };
    let met = match &ready {
        Ok(r) => ring.meet(&r.search, Ok((r.hunt.archived(), &r.hunt.arms))),
        Err(_) => ring.meet("", Err("it cannot begin".to_string())),
    };
    match (ready, met) {
        (Ok(ready), Ok(())) => go(ready, Some(ring), options, messages),
        (ready, met) => {
            let leads = ring.rank() == 0;
            ring.leave(false);
            if let (Ok(Ready { hunt, made, .. }), Err(why)) = (ready, met) {
                drop(hunt);
                // An archive in which nothing is.
                made.map(std::fs::remove_file);
                return Err(trouble(&why, None, &Messages { silent: !leads, ..*messages }));
            }
            Err(Failed)
        }
    }
}

/// Says what a candidate costs.
///
/// # Errors
/// If that fails; why has been printed.
pub fn time(file: &Path, name: Option<&str>, seconds: f64, children: Option<u64>, messages: &Messages) -> Result<(), Failed> {
    let session = Session::open(file, &[], messages)?;
    let block = find(&session, name, messages)?;
    if is_regression(block) {
        return regress::time(&session, block, file, seconds, messages);
    }
    let spec = read(&session, name, messages)?;
    let archive = Archive::none().map_err(|why| trouble(&why, None, messages))?;
    let (seeds, rates) = (spec.seeds.len(), spec.rates.len());
    let mut hunt = hunt(spec, file, archive, "", &SearchOptions::default(), None, messages)?;
    if let Some(children) = children {
        let (compiled, early, late) = hunt.churn(children, resident).map_err(|why| trouble(&why, None, messages))?;
        say(&format!(
            "{children} children, code of {compiled} made and freed; memory of the process after a tenth {early:.1} MB, at the end {late:.1} MB"
        ));
        return Ok(());
    }
    let before = resident();
    let each = Duration::from_secs_f64(seconds.clamp(0.01, 3600.0));
    let costs = hunt.costs(each).map_err(|why| trouble(&why, None, messages))?;
    say(&format!(
        "a child (mutation, meaning, hash, look-up)   {:.1} us, {:.0} in a second; {:.0} % are programs that were not seen before",
        1e6 * costs.child,
        1.0 / costs.child,
        100.0 * costs.unique as f64 / costs.children.max(1) as f64
    ));
    say(&format!(
        "code of a candidate                          {:.1} us, {:.0} in a second; {} made, memory of the process grew by {:.1} MB in all",
        1e6 * costs.compile,
        1.0 / costs.compile,
        costs.compiled,
        (resident() - before).max(0.0)
    ));
    for (expression, run, steps) in costs.runs {
        say(&format!(
            "{expression}: {seeds} seeds x {rates} rates in {:.3} ms: {:.0} programs/s, {:.0} steps/s",
            1e3 * run,
            1.0 / run,
            steps
        ));
    }
    Ok(())
}

/// Megabytes of memory that the process holds, where the system says so.
fn resident() -> f64 {
    const PAGE: f64 = 4096.0;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|p| p.parse::<f64>().ok()).map_or(0.0, |pages| pages * PAGE / 1e6)
}

/// The search of this name, or the only one.
fn find<'a>(session: &'a Session, name: Option<&str>, messages: &Messages) -> Result<&'a BlockItem, Failed> {
    let blocks = block::blocks(session);
    let found = match (name, blocks.as_slice()) {
        (Some(name), _) => blocks.iter().find(|b| &*b.name.text == name).copied(),
        (None, [one]) => Some(*one),
        (None, _) => None,
    };
    let Some(block) = found else {
        let names: Vec<&str> = blocks.iter().map(|b| &*b.name.text).collect();
        let has = if names.is_empty() { "it has no `search` block".to_string() } else { format!("it has {}", names.join(", ")) };
        let why = name.map_or_else(
            || "name one search of the file".to_string(),
            |n| format!("there is no search `{n}` in {}", session.path.display()),
        );
        return Err(trouble(&why, Some(&has), messages));
    };
    Ok(block)
}

/// A search for optimizers.
pub(super) fn read(session: &Session, name: Option<&str>, messages: &Messages) -> Result<SearchSpec, Failed> {
    let block = find(session, name, messages)?;
    if is_regression(block) {
        let help = "a search with variables is one for a formula: one process runs it, with `--jobs N` for N threads";
        return Err(trouble(&format!("`{}` is no search for optimizers", block.name.text), Some(help), messages));
    }
    block::read(session, block).map_err(|diagnostics| {
        messages.print(&diagnostics, &session.program.sources);
        Failed
    })
}

/// The budget of the command line, else what `elapsed` seconds have left of that of the block.
pub(super) fn budget(own: Budget, elapsed: f64, options: &SearchOptions, messages: &Messages) -> Result<Budget, Failed> {
    if let Some(n) = options.children {
        return Ok(Budget::Children(n));
    }
    let Some(text) = &options.budget else {
        return Ok(match own {
            Budget::Time(t) => Budget::Time(t.saturating_sub(Duration::from_secs_f64(elapsed.max(0.0)))),
            children => children,
        });
    };
    let units = [("min", 60.0), ("ms", 1e-3), ("s", 1.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds = units.iter().find_map(|(unit, factor)| Some(text.trim().strip_suffix(unit)?.trim().parse::<f64>().ok()? * factor));
    match seconds.filter(|s| *s > 0.0 && *s < 1e9) {
        Some(s) => Ok(Budget::Time(Duration::from_secs_f64(s))),
        None => {
            messages.error("", &format!("`{text}` is no time"), Some("`--budget 90s`, `--budget 10min`, `--budget 2h`"));
            Err(crate::wrong_usage())
        }
    }
}

fn hunt(
    spec: SearchSpec,
    file: &Path,
    archive: Archive,
    state: &str,
    options: &SearchOptions,
    ring: Option<&Ring>,
    messages: &Messages,
) -> Result<Hunt, Failed> {
    if ring.is_some() && !spec.validation.is_empty() {
        let help = "leave `validation` out; what is held out is measured when all have ended";
        return Err(trouble("several processes have no best that could be validated while they search", Some(help), messages));
    }
    let (jobs, islands) = (options.jobs.clamp(1, spec.strategy.islands), spec.strategy.islands);
    let mut hunt = Hunt::new(spec, file, archive, state, jobs).map_err(|t| print_trouble(t, messages))?;
    hunt.archive().set("threads", &jobs.to_string()).map_err(|why| trouble(&why, None, messages))?;
    hunt.begin_at(ring.map_or(0, |r| r.rank() * islands));
    Ok(hunt)
}

/// Prints what is wrong.
pub(super) fn print_trouble(t: Trouble, messages: &Messages) -> Failed {
    match t {
        Trouble::Words(why) => trouble(&why, None, messages),
        Trouble::Seed(_, seed::Refused::Spec(session)) | Trouble::Task(_, task::Refused::Spec(session)) => {
            messages.print(&session.diagnostics, &session.program.sources);
            Failed
        }
        Trouble::Seed(name, seed::Refused::Beyond(why)) => trouble(&format!("`{name}` is no program of the search: {why}"), None, messages),
        Trouble::Task(_, task::Refused::Beyond(why)) => {
            trouble(&why, Some("a task is a train with one player, f32 weights and one batch a step"), messages)
        }
        Trouble::Task(_, task::Refused::Run(d, session)) => {
            messages.print(&[*d], &session.program.sources);
            Failed
        }
    }
}

/// Runs, tells, and writes what was found.
fn go(ready: Ready, mut ring: Option<Ring>, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let Ready { mut hunt, file, archive, budget, .. } = ready;
    catch_interrupt();
    if ring.is_none() {
        hunt.archive().set("alone", "yes").map_err(|why| trouble(&why, None, messages))?;
    }
    // mpirun hands its input to the first process.
    let watched = !options.quiet && ring.as_ref().map_or_else(|| std::io::stdin().is_terminal(), |r| r.rank() == 0);
    if watched {
        stop_at_q();
    }
    let starts = hunt.starts.iter().map(|s| (s.expression.clone(), s.fitness)).collect();
    let stops = match (&ring, watched) {
        (Some(_), _) => "`q` and Enter stop the search",
        (None, true) => "`q` and Enter, or Ctrl-C, stop the search",
        (None, false) => "Ctrl-C stops the search",
    };
    // Processes have done about as much, each.
    let processes = ring.as_ref().map_or(1, |r| r.size() as u64);
    let before = (processes * hunt.counters().children, processes * hunt.arms.iter().map(|a| a.counters().evaluated).sum::<u64>());
    let mut live = Live::new(&hunt.spec.name, budget, starts, before, stops, options.quiet);
    let begin = Instant::now();
    if ring.as_ref().is_none_or(Ring::leads) {
        live.show(&hunt.view(), Duration::ZERO);
    }
    let done = hunt.run(budget, ring.as_mut(), |own, ring, elapsed| {
        if let Some(view) = ring.map_or(Some(own.clone()), |r| r.view(own)) {
            live.show(&view, elapsed);
        }
    });
    let spent = begin.elapsed();
    drop(live);
    let ended = match (done, ring) {
        (Ok(ended), None) => ended,
        (Err(why), None) => return Err(trouble(&why, None, messages)),
        (Err(why), Some(ring)) => {
            let failed = trouble(&format!("process {}: {why}", ring.rank()), None, messages);
            ring.leave(false);
            return Err(failed);
        }
        (Ok(ended), Some(mut ring)) => {
            if !ring.through(ended) {
                ring.leave(false);
                return Ok(());
            }
            let told = together(&mut hunt, &ring, &archive, messages)
                .and_then(|()| finish(hunt, &file, &archive, ring.size(), spent, ended && ring.all_ended(), messages));
            ring.leave(told.is_ok());
            return told;
        }
    };
    finish(hunt, &file, &archive, 1, spent, ended, messages)
}

/// Merges the archives of all processes.
fn together(hunt: &mut Hunt, ring: &Ring, archive: &Path, messages: &Messages) -> Result<(), Failed> {
    let no = |why: String| trouble(&format!("cannot merge the archives of all processes: {why}"), None, messages);
    let parts: Vec<PathBuf> = (0..ring.size()).map(|r| of_rank(archive, r)).filter(|p| p.exists()).collect();
    let merged = merge(&parts, archive).map_err(no)?;
    hunt.take_over(Archive::open(archive).map_err(no)?).map_err(no)?;
    say(&format!("{} processes; {} programs were run by several of them", ring.size(), merged.shared));
    for r in &merged.missing {
        let path = of_rank(archive, *r);
        say(&format!("the archive of process {r} is not here: bring {} here, and `optc search merge` all of them", path.display()));
    }
    for r in ring.lost() {
        say(&format!("process {r} was lost; what it had committed is here, and `{}` takes it up again", resuming(ring.size(), archive)));
    }
    Ok(())
}

/// Lets Ctrl-C, and `q` on a terminal, stop a search for a formula after its round.
pub(super) fn watch(quiet: bool) {
    catch_interrupt();
    if std::io::stdin().is_terminal() && !quiet {
        eprintln!("`q` and Enter, or Ctrl-C, stop after this round; the archive holds everything");
        stop_at_q();
    }
}

/// Lets `q` and Enter stop a search.
fn stop_at_q() {
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line.trim() == "q" {
                crate::trainer::INTERRUPTED.store(true, Ordering::SeqCst);
            }
        }
    });
}
