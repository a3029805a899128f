//! The archive of a search: an SQLite database with every program that was run, its scores, where it came from, and the state from which the search goes on.

mod kept;

pub use kept::{EMITTED, PairRow, RungRow, StartRow, WinnerRow, measures};

use super::after::Noise;
use super::judge::Verdict;
use optc_search::evolve::{Arm, Counters, Found, Island, Kind, Member, Memory, measured};
use optc_search::fingerprint::{SHAPE, mark};
use optc_search::genome::Genome;
use optc_search::hash::Keys;
use optc_search::live::without_dead_code;
use optc_search::novelty::{Cell, Elites};
use optc_search::{text, traits};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use std::path::Path;

/// A score of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalRow {
    /// The program.
    pub program: u128,
    /// The task.
    pub task: String,
    /// The seed.
    pub seed: u64,
    /// The learning rate.
    pub rate: f64,
    /// Lower is better; NaN where the run did not get to its end.
    pub score: f64,
}

/// What a run was started with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// The spec's path.
    pub spec: String,
    /// Its text.
    pub spec_text: String,
    /// The search's name.
    pub name: String,
}

/// A program of the archive.
#[derive(Clone, Debug)]
pub struct ProgramRow {
    /// Its identity.
    pub hash: u128,
    /// Its text.
    pub text: String,
    /// Its best fitness.
    pub fitness: f64,
    /// The arm, island and child that found it.
    pub arm: String,
    /// See `arm`.
    pub island: i64,
    /// See `arm`.
    pub child: i64,
    /// Its parent's identity; 0 for a first program.
    pub parent: u128,
    /// Statements without dead code.
    pub statements: i64,
    /// States.
    pub states: i64,
}

/// A program on a task that was held out.
#[derive(Clone, Debug)]
pub struct HeldOutRow {
    /// The task.
    pub task: String,
    /// What the program is called.
    pub program: String,
    /// The learning rate that was chosen.
    pub rate: f64,
    /// The median of its scores.
    pub median: f64,
    /// Runs that did not get to their end.
    pub failed: i64,
    /// Beside the first of the task: the median of the difference, its interval, and p; nothing for the first itself.
    pub beside: Option<[f64; 4]>,
}

/// What a round of an arm gave.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// The arm.
    pub kind: Kind,
    /// Programs that were run for the first time.
    pub found: &'a [Found],
    /// Their scores.
    pub evals: &'a [EvalRow],
    /// Nanoseconds a parameter, where they were measured.
    pub speeds: &'a [(u128, f64)],
    /// The round and what left for islands of other processes, as text.
    pub sent: Option<(u64, &'a str)>,
    /// From what the search goes on.
    pub state: &'a str,
    /// Seconds that it has gone on.
    pub elapsed: f64,
}

/// Rounds for which what left for other processes is kept.
const SENT: i64 = 1000;

/// An open archive.
pub struct Archive {
    pub(super) db: Connection,
}

const TABLES: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS run(
  id INTEGER PRIMARY KEY, spec TEXT NOT NULL, spec_text TEXT NOT NULL, name TEXT NOT NULL, code_version TEXT NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS program(
  hash BLOB PRIMARY KEY, family BLOB NOT NULL, text TEXT NOT NULL, n_stmt INTEGER NOT NULL, n_live INTEGER NOT NULL, states INTEGER NOT NULL,
  scale_deg_g REAL, parity INTEGER NOT NULL, cost INTEGER NOT NULL, transc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS child(
  arm TEXT NOT NULL, island INTEGER NOT NULL, n INTEGER NOT NULL, program BLOB NOT NULL, parent BLOB NOT NULL, fitness REAL, bits INTEGER NOT NULL,
  PRIMARY KEY(arm, island, program)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS child_fitness ON child(fitness);
CREATE TABLE IF NOT EXISTS eval(
  program BLOB NOT NULL, rung INTEGER NOT NULL, task TEXT NOT NULL, seed INTEGER NOT NULL, lr REAL NOT NULL, score REAL, status TEXT NOT NULL,
  PRIMARY KEY(program, rung, task, seed, lr)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fp(program BLOB NOT NULL, shape TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY(program, shape)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS a_a(n INTEGER PRIMARY KEY, program TEXT NOT NULL, first REAL, second REAL);
CREATE TABLE IF NOT EXISTS held_out(
  opened INTEGER NOT NULL, task TEXT NOT NULL, n INTEGER NOT NULL, program TEXT NOT NULL, text TEXT NOT NULL, lr REAL NOT NULL, median REAL, failed INTEGER NOT NULL,
  difference REAL, low REAL, high REAL, p REAL, PRIMARY KEY(opened, task, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held_out_pair(
  opened INTEGER NOT NULL, task TEXT NOT NULL, n INTEGER NOT NULL, program TEXT NOT NULL, beside TEXT NOT NULL, difference REAL, low REAL, high REAL,
  wins INTEGER NOT NULL, losses INTEGER NOT NULL, p REAL, PRIMARY KEY(opened, task, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS validation(
  n INTEGER PRIMARY KEY, children INTEGER NOT NULL, program BLOB NOT NULL, text TEXT NOT NULL, fitness REAL NOT NULL, score REAL);
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS start(n INTEGER PRIMARY KEY, expression TEXT NOT NULL, program BLOB NOT NULL, fitness REAL);
CREATE TABLE IF NOT EXISTS funnel(
  rung INTEGER PRIMARY KEY, steps INTEGER, entered INTEGER NOT NULL, kept INTEGER NOT NULL, best REAL, again REAL, beat TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS winner(id INTEGER PRIMARY KEY, program BLOB NOT NULL, text TEXT NOT NULL, fitness REAL, again REAL);
CREATE TABLE IF NOT EXISTS sent(arm TEXT NOT NULL, round INTEGER NOT NULL, member TEXT NOT NULL, PRIMARY KEY(arm, round)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS speed(program BLOB PRIMARY KEY, ns REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS formula(
  size INTEGER PRIMARY KEY, postfix TEXT NOT NULL, expression TEXT NOT NULL, loss REAL NOT NULL, unexplained REAL NOT NULL, held_out REAL,
  island INTEGER NOT NULL, child INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS formula_control(
  size INTEGER PRIMARY KEY, postfix TEXT NOT NULL, expression TEXT NOT NULL, loss REAL NOT NULL, unexplained REAL NOT NULL, held_out REAL,
  island INTEGER NOT NULL, child INTEGER NOT NULL);
";

/// What this program writes; another's archive is not gone on with.
pub const VERSION: &str = concat!("optc ", env!("CARGO_PKG_VERSION"), ", archive 3");

pub(super) type Done<T> = Result<T, String>;

/// What tells an archive from all others.
fn identity(path: &Path) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let text = format!("{now} {} {}", std::process::id(), path.display());
    optc_train::report::sha256(text.as_bytes())[..16].to_string()
}

pub(super) fn words(e: rusqlite::Error) -> String {
    e.to_string()
}

fn key(hash: u128) -> Vec<u8> {
    hash.to_be_bytes().to_vec()
}

fn hash_of(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).fold(0, |h, b| (h << 8) | u128::from(*b))
}

/// A number as a database keeps it: NaN and infinities are null.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

impl Archive {
    /// A new archive.
    ///
    /// # Errors
    /// In words; an archive that is there already is not overwritten.
    pub fn create(path: &Path, run: &RunRow) -> Done<Archive> {
        if path.exists() {
            return Err(format!("{} is there already", path.display()));
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        }
        let db = Connection::open(path).map_err(words)?;
        db.execute_batch(TABLES).map_err(words)?;
        db.execute(
            "INSERT INTO run(id, spec, spec_text, name, code_version, state) VALUES(1, ?1, ?2, ?3, ?4, '')",
            params![run.spec, run.spec_text, run.name, VERSION],
        )
        .map_err(words)?;
        let mut archive = Archive { db };
        archive.set("id", &identity(path))?;
        Ok(archive)
    }

    /// An archive in memory that nothing is kept of.
    ///
    /// # Errors
    /// In words.
    pub fn none() -> Done<Archive> {
        let db = Connection::open_in_memory().map_err(words)?;
        db.execute_batch(TABLES).map_err(words)?;
        Ok(Archive { db })
    }

    /// An archive that is there.
    ///
    /// # Errors
    /// In words.
    pub fn open(path: &Path) -> Done<Archive> {
        if !path.exists() {
            return Err("there is no such file".to_string());
        }
        let db = Connection::open(path).map_err(words)?;
        let version: String = db
            .query_row("SELECT code_version FROM run WHERE id = 1", [], |r| r.get(0))
            .map_err(|e| format!("this is no archive of a search: {e}"))?;
        if version != VERSION {
            return Err(format!("it was written by {version}, this is {VERSION}"));
        }
        // Tables that it was made without.
        db.execute_batch(TABLES).map_err(words)?;
        Ok(Archive { db })
    }

    /// What the run was started with, and its state, empty before the first round.
    ///
    /// # Errors
    /// In words.
    pub fn run(&self) -> Done<(RunRow, String)> {
        let row = |r: &rusqlite::Row<'_>| Ok((RunRow { spec: r.get(0)?, spec_text: r.get(1)?, name: r.get(2)? }, r.get(3)?));
        self.db.query_row("SELECT spec, spec_text, name, state FROM run WHERE id = 1", [], row).map_err(words)
    }

    /// Writes what a round found and the state behind it, all or nothing.
    ///
    /// # Errors
    /// In words.
    pub fn commit(&mut self, made: &Made<'_>) -> Done<()> {
        let Made { kind, found, evals, speeds, sent, state, elapsed } = *made;
        let tx = self.db.transaction().map_err(words)?;
        // A search that goes on has no end yet.
        kept::forget_end(&tx)?;
        {
            let mut child = tx.prepare_cached("INSERT OR IGNORE INTO child VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)").map_err(words)?;
            for f in found {
                if !put_program(&tx, &f.genome, f.keys)? {
                    continue;
                }
                child
                    .execute(params![
                        kind.name(),
                        f.island as i64,
                        f.child as i64,
                        key(f.keys.exact),
                        key(f.parent),
                        Some(f.fitness).filter(|x| measured(*x)),
                        f.fitness.to_bits().cast_signed()
                    ])
                    .map_err(words)?;
            }
            let mut fp = tx.prepare_cached("INSERT OR IGNORE INTO fp VALUES(?1, ?2, ?3)").map_err(words)?;
            for f in found {
                fp.execute(params![key(f.keys.exact), SHAPE, f.print]).map_err(words)?;
            }
            let mut eval = tx.prepare_cached("INSERT OR IGNORE INTO eval VALUES(?1, 0, ?2, ?3, ?4, ?5, ?6)").map_err(words)?;
            for e in evals {
                let status = if e.score.is_finite() { "ok" } else { "nan" };
                eval.execute(params![key(e.program), e.task, e.seed as i64, e.rate, finite(e.score), status]).map_err(words)?;
            }
            for (program, ns) in speeds {
                tx.execute("INSERT OR IGNORE INTO speed VALUES(?1, ?2)", params![key(*program), ns]).map_err(words)?;
            }
            if let Some((round, member)) = sent {
                tx.execute("INSERT OR REPLACE INTO sent VALUES(?1, ?2, ?3)", params![kind.name(), round as i64, member]).map_err(words)?;
                tx.execute("DELETE FROM sent WHERE arm = ?1 AND round + ?2 < ?3", params![kind.name(), SENT, round as i64])
                    .map_err(words)?;
            }
            tx.execute("UPDATE run SET state = ?1 WHERE id = 1", params![state]).map_err(words)?;
            tx.execute("INSERT OR REPLACE INTO setting VALUES('elapsed', ?1)", params![elapsed.to_string()]).map_err(words)?;
        }
        tx.commit().map_err(words)
    }

    /// Keeps what a program scored beside itself, in place of what was kept before.
    ///
    /// # Errors
    /// In words.
    pub fn keep_noise(&mut self, noise: &Noise) -> Done<()> {
        let tx = self.db.transaction().map_err(words)?;
        tx.execute("DELETE FROM a_a", []).map_err(words)?;
        for (n, (first, second)) in noise.pairs.iter().enumerate() {
            tx.execute("INSERT INTO a_a VALUES(?1, ?2, ?3, ?4)", params![n as i64, noise.name, finite(*first), finite(*second)])
                .map_err(words)?;
        }
        tx.commit().map_err(words)
    }

    /// What was kept of a program beside itself.
    ///
    /// # Errors
    /// In words.
    pub fn noise(&self) -> Done<Option<Noise>> {
        let mut query = self.db.prepare("SELECT program, first, second FROM a_a ORDER BY n").map_err(words)?;
        let number = |r: &rusqlite::Row<'_>, k| Ok::<f64, rusqlite::Error>(r.get::<_, Option<f64>>(k)?.unwrap_or(f64::INFINITY));
        let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, (number(r, 1)?, number(r, 2)?)))).map_err(words)?;
        let rows: Vec<(String, (f64, f64))> = rows.collect::<Result<_, _>>().map_err(words)?;
        let name = rows.first().map(|r| r.0.clone());
        Ok(name.map(|name| Noise { name, pairs: rows.into_iter().map(|r| r.1).collect() }))
    }

    /// Keeps what programs scored on tasks that were held out. How often that has been looked at, this time included.
    ///
    /// # Errors
    /// In words.
    pub fn keep_held_out(&mut self, verdicts: &[Verdict], programs: &[(String, String)]) -> Done<i64> {
        let tx = self.db.transaction().map_err(words)?;
        let before: i64 = tx.query_row("SELECT COALESCE(MAX(opened), 0) FROM held_out", [], |r| r.get(0)).map_err(words)?;
        for v in verdicts {
            kept::keep_pairs(&tx, before + 1, v)?;
            for (n, row) in v.rows.iter().enumerate() {
                let text = programs.iter().find(|p| p.0 == row.name).map_or("", |p| p.1.as_str());
                let (of, low, high, p) = match row.beside {
                    Some(b) => (finite(b.median), finite(b.interval.0), finite(b.interval.1), finite(row.p)),
                    None => (None, None, None, None),
                };
                tx.execute(
                    "INSERT INTO held_out VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                    params![
                        before + 1,
                        v.task,
                        n as i64,
                        row.name,
                        text,
                        row.rate,
                        finite(row.median),
                        row.failed as i64,
                        of,
                        low,
                        high,
                        p
                    ],
                )
                .map_err(words)?;
            }
        }
        tx.commit().map_err(words)?;
        Ok(before + 1)
    }

    /// What programs scored on tasks that were held out, as it was last looked at, and how often that was.
    ///
    /// # Errors
    /// In words.
    pub fn held_out(&self) -> Done<(i64, Vec<HeldOutRow>)> {
        let opened: i64 = self.db.query_row("SELECT COALESCE(MAX(opened), 0) FROM held_out", [], |r| r.get(0)).map_err(words)?;
        let text = "SELECT task, program, lr, median, failed, difference, low, high, p FROM held_out WHERE opened = ?1 ORDER BY task, n";
        let mut query = self.db.prepare(text).map_err(words)?;
        let rows = query
            .query_map(params![opened], |r| {
                Ok(HeldOutRow {
                    task: r.get(0)?,
                    program: r.get(1)?,
                    rate: r.get(2)?,
                    median: r.get::<_, Option<f64>>(3)?.unwrap_or(f64::INFINITY),
                    failed: r.get(4)?,
                    beside: match (r.get(5)?, r.get(6)?, r.get(7)?, r.get(8)?) {
                        (Some(of), Some(low), Some(high), Some(p)) => Some([of, low, high, p]),
                        _ => None,
                    },
                })
            })
            .map_err(words)?;
        Ok((opened, rows.collect::<Result<_, _>>().map_err(words)?))
    }

    /// What an arm has run.
    ///
    /// # Errors
    /// In words.
    pub fn memory(&self, kind: Kind) -> Done<Memory> {
        let text = "SELECT c.program, c.bits, f.bytes FROM child c JOIN fp f ON f.program = c.program AND f.shape = ?2 WHERE c.arm = ?1";
        let mut query = self.db.prepare(text).map_err(words)?;
        let rows = query
            .query_map(params![kind.name(), SHAPE], |r| {
                let (hash, bits, print): (Vec<u8>, i64, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
                Ok((hash_of(&hash), f64::from_bits(bits.cast_unsigned()), mark(&print)))
            })
            .map_err(words)?;
        let mut memory = Memory::default();
        for row in rows {
            let (hash, fitness, mark) = row.map_err(words)?;
            memory.insert(hash, fitness, mark);
        }
        Ok(memory)
    }

    /// The best programs, each once.
    ///
    /// # Errors
    /// In words.
    pub fn top(&self, n: usize) -> Done<Vec<ProgramRow>> {
        self.ranked(None, (0, n))
    }

    /// The programs whose hash begins with these hexadecimal digits.
    ///
    /// # Errors
    /// In words.
    pub fn find(&self, prefix: &str) -> Done<Vec<ProgramRow>> {
        let text = "SELECT p.hash, p.text, c.fitness, c.arm, c.island, c.n, c.parent, p.n_live, p.states FROM child c JOIN program p ON p.hash = c.program
                    WHERE lower(hex(p.hash)) LIKE ?1 || '%' GROUP BY p.hash ORDER BY p.hash LIMIT 3";
        let mut query = self.db.prepare(text).map_err(words)?;
        let rows = query.query_map(params![prefix.to_lowercase()], program_row).map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// A program by its hash, as the first of its arms and islands found it.
    ///
    /// # Errors
    /// In words.
    pub fn program(&self, hash: u128) -> Done<Option<ProgramRow>> {
        let text = "SELECT p.hash, p.text, c.fitness, c.arm, c.island, c.n, c.parent, p.n_live, p.states FROM child c JOIN program p ON p.hash = c.program
                    WHERE p.hash = ?1 ORDER BY c.n LIMIT 1";
        self.db.query_row(text, params![key(hash)], program_row).optional().map_err(words)
    }

    /// Programs run in an arm, and its least fitness.
    ///
    /// # Errors
    /// In words.
    pub fn arm(&self, kind: Kind) -> Done<(i64, Option<f64>)> {
        let text = "SELECT COUNT(*), MIN(fitness) FROM child WHERE arm = ?1";
        self.db.query_row(text, params![kind.name()], |r| Ok((r.get(0)?, r.get(1)?))).map_err(words)
    }
}

/// Puts a program, without dead code, into its table. False if it means nothing.
fn put_program(tx: &Transaction<'_>, genome: &Genome, keys: Keys) -> Done<bool> {
    let Ok(dag) = genome.dag() else { return Ok(false) };
    let (seen, (cost, transc)) = (traits::traits(&dag), dag.cost());
    let live = without_dead_code(genome);
    let mut program = tx.prepare_cached("INSERT OR IGNORE INTO program VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)").map_err(words)?;
    let row = params![
        key(keys.exact),
        key(keys.family),
        text::write(genome),
        genome.body.len() as i64,
        live.body.len() as i64,
        dag.states.len() as i64,
        seen.degree,
        seen.parity,
        cost,
        transc
    ];
    program.execute(row).map(|_| true).map_err(words)
}

fn program_row(r: &rusqlite::Row<'_>) -> rusqlite::Result<ProgramRow> {
    let (hash, parent): (Vec<u8>, Vec<u8>) = (r.get(0)?, r.get(6)?);
    Ok(ProgramRow {
        hash: hash_of(&hash),
        text: r.get(1)?,
        fitness: r.get::<_, Option<f64>>(2)?.unwrap_or(f64::INFINITY),
        arm: r.get(3)?,
        island: r.get(4)?,
        child: r.get(5)?,
        parent: hash_of(&parent),
        statements: r.get(7)?,
        states: r.get(8)?,
    })
}

fn broken() -> String {
    "the state of the search is damaged".to_string()
}

/// A program with its score as a value.
pub fn member_value(m: &Member) -> Value {
    let bits = |x: f64| format!("{:016x}", x.to_bits());
    json!({ "text": text::write(&m.genome), "fitness": bits(m.fitness), "rank": bits(m.rank), "key": format!("{:032x}", m.key) })
}

/// The program of a value.
///
/// # Errors
/// If it is none, in words.
pub fn member_of(v: &Value) -> Done<Member> {
    let program = v["text"].as_str().ok_or_else(broken)?;
    let genome: Genome = text::read(Default::default(), program).map_err(|d| d.message)?.genome;
    let bits = |name: &str| u64::from_str_radix(v[name].as_str().unwrap_or(""), 16).map(f64::from_bits).map_err(|_| broken());
    let key = u128::from_str_radix(v["key"].as_str().unwrap_or(""), 16).map_err(|_| broken())?;
    Ok(Member { genome, fitness: bits("fitness")?, rank: bits("rank")?, key })
}

/// The arms of a search as text.
pub fn state(arms: &[Arm]) -> String {
    let member = member_value;
    let island = |i: &Island| {
        let c = &i.counters;
        json!({
            "population": i.population.iter().map(member).collect::<Vec<_>>(),
            "best": i.best.as_ref().map(member),
            "best_at": i.best_at,
            "restarts": i.restarts,
            "elites": i.elites.cells.iter().map(|(c, m)| json!([c.states, c.degree, c.length, member(m)])).collect::<Vec<_>>(),
            "tuned": format!("{:032x}", i.tuned),
            "counters": [c.children, c.invalid, c.known, c.evaluated, c.tuned, c.fp_hit, c.fp_wrong],
        })
    };
    let arms: Vec<Value> = arms
        .iter()
        .map(|a| json!({ "kind": a.kind.name(), "rounds": a.rounds, "islands": a.islands.iter().map(island).collect::<Vec<_>>() }))
        .collect();
    Value::Array(arms).to_string()
}

/// The arms of a text.
///
/// # Errors
/// If it is none, in words.
pub fn arms(state: &str) -> Done<Vec<Arm>> {
    let value: Value = serde_json::from_str(state).map_err(|e| format!("the state of the search is damaged: {e}"))?;
    let number = |v: &Value| v.as_u64().ok_or_else(broken);
    let hash = |v: &Value| u128::from_str_radix(v.as_str().unwrap_or(""), 16).map_err(|_| broken());
    let small = |v: &Value| number(v).and_then(|n| u8::try_from(n).map_err(|_| broken()));
    let elite = |v: &Value| -> Done<(Cell, Member)> {
        let degree = if v[1].is_null() { None } else { Some(v[1].as_i64().and_then(|d| i8::try_from(d).ok()).ok_or_else(broken)?) };
        Ok((Cell { states: small(&v[0])?, degree, length: small(&v[2])? }, member_of(&v[3])?))
    };
    let island = |v: &Value| -> Done<Island> {
        let c = &v["counters"];
        let counters = Counters {
            children: number(&c[0])?,
            invalid: number(&c[1])?,
            known: number(&c[2])?,
            evaluated: number(&c[3])?,
            tuned: number(&c[4])?,
            fp_hit: number(&c[5])?,
            fp_wrong: number(&c[6])?,
        };
        let population = v["population"].as_array().ok_or_else(broken)?.iter().map(member_of).collect::<Done<_>>()?;
        let best = if v["best"].is_null() { None } else { Some(member_of(&v["best"])?) };
        let elites = Elites { cells: v["elites"].as_array().ok_or_else(broken)?.iter().map(elite).collect::<Done<_>>()? };
        let (best_at, restarts) = (number(&v["best_at"])?, number(&v["restarts"])?);
        Ok(Island { population, best, best_at, counters, restarts, elites, tuned: hash(&v["tuned"])? })
    };
    value
        .as_array()
        .ok_or_else(broken)?
        .iter()
        .map(|v| {
            let kind = v["kind"].as_str().and_then(Kind::named).ok_or_else(broken)?;
            let islands = v["islands"].as_array().ok_or_else(broken)?.iter().map(island).collect::<Done<_>>()?;
            Ok(Arm { kind, islands, rounds: number(&v["rounds"])? })
        })
        .collect()
}
