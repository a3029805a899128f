//! Searches of several processes, here threads that exchange messages by channels, late or not at all; and archives that are merged.

use super::{SPEC, contents, folder, ok, optc};
use clap::Parser;
use optc::search::archive::{Archive, RunRow};
use optc::search::block::{self, Budget};
use optc::search::hunt::Hunt;
use optc::search::merge::of_rank;
use optc::search::ring::{Post, Ring};
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A process among others.
struct Channels {
    rank: usize,
    to: Vec<mpsc::Sender<(usize, Vec<u8>)>>,
    from: mpsc::Receiver<(usize, Vec<u8>)>,
    alive: Arc<Vec<AtomicBool>>,
    /// Messages are looked at late: milliseconds to wait after each, in turn.
    late: Vec<u64>,
    looked: usize,
}

impl Post for Channels {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.to.len()
    }
    fn alive(&self, rank: usize) -> bool {
        self.alive[rank].load(Ordering::SeqCst)
    }
    fn send(&mut self, to: usize, message: Vec<u8>) {
        let _ = self.to[to].send((self.rank, message));
    }
    fn receive(&mut self) -> Option<(usize, Vec<u8>)> {
        let message = self.from.try_recv().ok();
        if !self.late.is_empty() && message.is_some() {
            self.looked += 1;
            std::thread::sleep(Duration::from_millis(self.late[(self.looked + self.rank) % self.late.len()]));
        }
        message
    }
    fn leave(self: Box<Self>) {
        self.alive[self.rank].store(false, Ordering::SeqCst);
    }
}

const SIZE: usize = 3;

/// Runs the search of a folder in several threads, each until its own number of children of all; one that has `None` dies before its third round. Says which were lost, as the first sees it.
fn together(folder: &Path, children: [Option<u64>; SIZE], late: &[u64]) -> Vec<usize> {
    let alive: Arc<Vec<AtomicBool>> = Arc::new((0..SIZE).map(|_| AtomicBool::new(true)).collect());
    let (to, from): (Vec<_>, Vec<_>) = (0..SIZE).map(|_| mpsc::channel()).unzip();
    let work = |rank: usize, from| {
        let post = Channels { rank, to: to.clone(), from, alive: alive.clone(), late: late.to_vec(), looked: 0 };
        let (folder, of, alive) = (folder.to_path_buf(), children[rank], alive.clone());
        std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
            let file = folder.join("s.opt");
            let messages = optc::messages::Messages::new(&optc::cli::Cli::parse_from(["optc", "show", "std"]));
            let session = optc::Session::open(&file, &[], &messages).unwrap_or_else(|_| panic!("a spec"));
            let spec = block::read(&session, block::blocks(&session)[0]).unwrap_or_else(|_| panic!("a search"));
            let own = of_rank(&folder.join("out.sqlite"), rank);
            let archive = if own.exists() {
                Archive::open(&own)
            } else {
                let row = RunRow { spec: file.display().to_string(), spec_text: session.text.clone(), name: spec.name.clone() };
                Archive::create(&own, &row).and_then(|mut a| {
                    a.set("rank", &rank.to_string())?;
                    a.set("ranks", &SIZE.to_string())?;
                    Ok(a)
                })
            };
            let archive = archive.expect("an archive");
            let held = archive.run().expect("a run").1;
            let islands = spec.strategy.islands;
            let mut hunt = Hunt::new(spec, &file, archive, &held, 1).unwrap_or_else(|_| panic!("a search that begins"));
            hunt.begin_at(rank * islands);
            let mut ring = Ring::new(Box::new(post));
            ring.meet("this", Ok((hunt.archived(), &hunt.arms))).expect("all meet");
            let Some(of) = of else {
                // Two rounds, without a word at the end.
                let budget = Budget::Children(hunt.counters().children * SIZE as u64 + 300 * SIZE as u64);
                hunt.run(budget, Some(&mut ring), |_, _, _| {}).expect("it runs");
                alive[rank].store(false, Ordering::SeqCst);
                return Vec::new();
            };
            hunt.run(Budget::Children(of), Some(&mut ring), |_, _, _| {}).expect("it runs");
            let writes = ring.through(true);
            let lost = ring.lost();
            ring.leave(writes);
            lost
        })
    };
    let threads: Vec<_> = from.into_iter().enumerate().map(|(rank, from)| work(rank, from).expect("a thread")).collect();
    let mut all: Vec<Vec<usize>> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
    all.remove(0)
}

fn archives(folder: &Path) -> Vec<Vec<String>> {
    (0..SIZE).map(|r| contents(&of_rank(&folder.join("out.sqlite"), r))).collect()
}

fn count(path: &Path, query: &str) -> i64 {
    Connection::open(path).expect("an archive").query_row(query, [], |r| r.get(0)).expect("a number")
}

#[test]
fn what_processes_find_does_not_depend_on_timing() {
    let [calm, late, killed] = [folder(SPEC), folder(SPEC), folder(SPEC)];
    let whole = [Some(1440); SIZE];
    assert!(together(calm.path(), whole, &[]).is_empty());
    together(late.path(), whole, &[0, 30, 5, 0, 60]);
    let expected = archives(calm.path());
    assert!(expected == archives(late.path()));
    // Processes that ended in different rounds go on as if nothing had been.
    together(killed.path(), [Some(360), Some(1080), Some(720)], &[]);
    let rounds = |folder: &Path| -> Vec<i64> {
        let query = "SELECT json_extract(state, '$[0].rounds') FROM run";
        (0..SIZE).map(|r| count(&of_rank(&folder.join("out.sqlite"), r), query)).collect()
    };
    let stopped = rounds(killed.path());
    assert!(stopped.iter().any(|r| *r != stopped[0]) && stopped.iter().all(|r| *r < rounds(calm.path())[0]), "{stopped:?}");
    together(killed.path(), whole, &[20, 0]);
    assert!(expected == archives(killed.path()));
    // The processes differ, and programs moved between them: some parent was run elsewhere.
    assert!(expected[0] != expected[1]);
    let path = of_rank(&calm.path().join("out.sqlite"), 1);
    let foreign = "SELECT COUNT(*) FROM child WHERE parent <> zeroblob(16) AND parent NOT IN (SELECT hash FROM program)";
    assert!(count(&path, foreign) > 0);
}

#[test]
fn a_process_that_is_lost_leaves_the_others_and_its_archive() {
    let spec = folder(SPEC);
    assert_eq!(together(spec.path(), [Some(2160), None, Some(2160)], &[]), [1]);
    let part = |r: usize| of_rank(&spec.path().join("out.sqlite"), r).display().to_string();
    let made = "SELECT SUM(json_extract(value, '$.counters[0]')) FROM run, json_each(run.state, '$[0].islands')";
    let of = |r: usize| count(Path::new(&part(r)), made);
    assert!(of(0) == of(2) && of(0) >= 720 && of(1) < of(0) && of(1) > 0, "{} {} {}", of(0), of(1), of(2));
    // Merged, nothing is lost, whatever the order.
    let (a, b, c) = (part(0), part(1), part(2));
    let told = ok(optc(spec.path(), &["search", "merge", &c, &a, &b, "-o", "all.sqlite"]));
    assert!(told.contains("3 archives"), "{told}");
    ok(optc(spec.path(), &["search", "merge", &a, &b, &c, "-o", "again.sqlite"]));
    let all = spec.path().join("all.sqlite");
    assert_eq!(contents(&all), contents(&spec.path().join("again.sqlite")));
    assert_eq!(count(&all, made), of(0) + of(1) + of(2));
    let programs: std::collections::BTreeSet<String> = archives(spec.path())
        .into_iter()
        .flatten()
        .filter(|l| l.starts_with("X'") && l.contains("def train"))
        .map(|l| l[..35].to_string())
        .collect();
    assert_eq!(count(&all, "SELECT COUNT(*) FROM program"), programs.len() as i64);
    assert_eq!(count(&all, "SELECT COUNT(DISTINCT island) FROM child"), 6);
    // Without one of them the others keep their numbers.
    ok(optc(spec.path(), &["search", "merge", &a, &c, "-o", "two.sqlite"]));
    assert_eq!(count(&spec.path().join("two.sqlite"), "SELECT MAX(island) FROM child"), 5);
    // One process goes on with all islands; not with the archive of one process.
    let more = (count(&all, made) + 60).to_string();
    ok(optc(spec.path(), &["search", "resume", "all.sqlite", "--children", &more, "-q"]));
    assert!(count(&all, made) > of(0) + of(1) + of(2));
    let alone = optc(spec.path(), &["search", "resume", &a, "--children", "9999", "-q"]);
    assert!(String::from_utf8_lossy(&alone.stderr).contains("one of 3 processes"));
    // What is there already is not merged over, nor anything twice.
    let twice = optc(spec.path(), &["search", "merge", &a, "all.sqlite", "-o", "twice.sqlite"]);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("is there twice") && !spec.path().join("twice.sqlite").exists());
    assert!(!optc(spec.path(), &["search", "merge", &a, &b, "-o", "all.sqlite"]).status.success());
}

#[test]
fn searches_of_several_seeds_merge_and_openings_add_up() {
    let held = SPEC.replace("  seed     3", "  held_out [run descend with { steps = 20 }]\n  seed     3");
    let other = held.replace("  seed     3", "  seed     4");
    let (a, b) = (folder(&held), folder(&other));
    for f in [&a, &b] {
        ok(optc(f.path(), &["search", "s.opt", "--children", "60", "-q"]));
    }
    std::fs::write(b.path().join("s.opt"), other.replace("steps = 20", "steps = 25")).expect("written");
    ok(optc(b.path(), &["search", "resume", "out.sqlite", "--children", "60", "-q"]));
    let (first, second) = (a.path().join("out.sqlite"), b.path().join("out.sqlite"));
    let arguments = ["search", "merge", &first.display().to_string(), &second.display().to_string(), "-o", "both.sqlite"];
    let told = ok(optc(a.path(), &arguments));
    assert!(told.contains("go on from their own archives"), "{told}");
    let both = a.path().join("both.sqlite");
    for query in [
        "SELECT COUNT(*) FROM child WHERE arm <> 'emitted'",
        "SELECT COUNT(DISTINCT arm || '/' || island) FROM child WHERE arm <> 'emitted'",
        "SELECT MAX(opened) FROM held_out",
    ] {
        assert_eq!(count(&both, query), count(&first, query) + count(&second, query), "{query}");
    }
    assert_eq!(count(&both, "SELECT MAX(opened) FROM held_out"), 3);
    assert!(ok(optc(a.path(), &["search", "report", "both.sqlite"])).contains("3. time"));
    let resumed = optc(a.path(), &["search", "resume", "both.sqlite", "--children", "90", "-q"]);
    assert!(String::from_utf8_lossy(&resumed.stderr).contains("merged from several searches"));
    // Other tasks are no such thing.
    let longer = folder(&held.replace("steps 60", "steps 50"));
    ok(optc(longer.path(), &["search", "s.opt", "--children", "60", "-q"]));
    let path = longer.path().join("out.sqlite").display().to_string();
    let refused = optc(a.path(), &["search", "merge", "out.sqlite", &path, "-o", "none.sqlite"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not comparable"));
}
