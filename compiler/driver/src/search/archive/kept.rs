//! What an archive keeps beside programs: how the search is set, its first programs, the Pareto front, and what came out at its end.

use super::{Archive, Done, EvalRow, ProgramRow, finite, hash_of, key, program_row, put_program, words};
use crate::search::after::FOUND;
use crate::search::block::SearchSpec;
use crate::search::emit::Winner;
use crate::search::funnel::Passed;
use crate::search::hunt::Start;
use optc_search::dag::Dag;
use optc_search::evolve::{Found, Kind, measured};
use optc_search::hash::keys;
use optc_search::live::without_dead_code;
use optc_search::pareto::{self, Axis, Front, Point};
use optc_search::text;
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use std::path::Path;

/// A first program.
#[derive(Clone, Debug, PartialEq)]
pub struct StartRow {
    /// The expression, or `empty`.
    pub expression: String,
    /// Its identity; 0 for the empty program.
    pub program: u128,
    /// Its fitness.
    pub fitness: f64,
}

/// A rung of a funnel, as it is kept.
pub type RungRow = Passed;

/// The best program of a search that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct WinnerRow {
    /// The program it was made from, and that program's fitness.
    pub program: u128,
    /// See `program`.
    pub from: f64,
    /// Its text, simplified.
    pub text: String,
    /// Its fitness.
    pub fitness: f64,
    /// Its fitness on further seeds, on the last rung of a funnel.
    pub again: Option<f64>,
}

/// Two programs beside each other on a task that was held out.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRow {
    /// The task.
    pub task: String,
    /// The first program.
    pub program: String,
    /// The second.
    pub beside: String,
    /// The median of the difference, first minus second, its 95 % interval, and p.
    pub difference: [f64; 4],
    /// Seeds on which the first is better, and on which it is worse.
    pub wins: (i64, i64),
}

/// Keeps comparisons with others than the first program of a task.
pub(super) fn keep_pairs(tx: &rusqlite::Transaction<'_>, opened: i64, v: &crate::search::judge::Verdict) -> Done<()> {
    for (n, pair) in v.pairs.iter().enumerate() {
        let b = pair.beside;
        tx.execute(
            "INSERT INTO held_out_pair VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                opened,
                v.task,
                n as i64,
                v.rows[pair.row].name,
                v.rows[pair.with].name,
                finite(b.median),
                finite(b.interval.0),
                finite(b.interval.1),
                b.wins as i64,
                b.losses as i64,
                finite(pair.p)
            ],
        )
        .map_err(words)?;
    }
    Ok(())
}

/// What a program is measured by, apart from its speed: a value for each axis.
pub fn measures(axes: &[Axis], fitness: f64, statements: usize, dag: &Dag, ns: Option<f64>) -> Vec<f64> {
    let of = |axis: &Axis| match axis {
        Axis::Fitness => fitness,
        Axis::StateBytes => state_bytes(dag.states.len()),
        Axis::Statements => statements as f64,
        Axis::Flops => f64::from(dag.cost().0),
        Axis::Ns => ns.unwrap_or(f64::NAN),
    };
    axes.iter().map(of).collect()
}

/// Bytes of so many states of a parameter.
fn state_bytes(states: usize) -> f64 {
    (states * size_of::<f32>()) as f64
}

/// What stands for an arm where a program was made by none: it was written at the end.
pub const EMITTED: &str = "emitted";

/// Takes out what was written at an end.
fn forget_emitted(tx: &Transaction<'_>) -> Done<()> {
    let alone = "DELETE FROM program WHERE hash IN (SELECT program FROM child WHERE arm = ?1)
                 AND NOT EXISTS (SELECT 1 FROM child c WHERE c.program = program.hash AND c.arm <> ?1)";
    if tx.query_row("SELECT EXISTS(SELECT 1 FROM child WHERE arm = ?1)", params![EMITTED], |r| r.get::<_, bool>(0)).map_err(words)? {
        tx.execute(alone, params![EMITTED]).map_err(words)?;
        tx.execute("DELETE FROM child WHERE arm = ?1", params![EMITTED]).map_err(words)?;
    }
    Ok(())
}

/// Takes out what came of an end, where a search goes on behind it: it is found anew.
pub(super) fn forget_end(tx: &Transaction<'_>) -> Done<()> {
    forget_emitted(tx)?;
    for table in ["winner", "funnel"] {
        tx.execute(&format!("DELETE FROM {table}"), []).map_err(words)?;
    }
    Ok(())
}

/// A number of the database; null is infinite.
fn number(x: Option<f64>) -> f64 {
    x.unwrap_or(f64::INFINITY)
}

impl Archive {
    /// Programs by their fitness, of one arm or of all, each once: from this place, so many.
    ///
    /// # Errors
    /// In words.
    pub fn ranked(&self, arm: Option<Kind>, (from, n): (usize, usize)) -> Done<Vec<ProgramRow>> {
        let text = "SELECT p.hash, p.text, MIN(c.fitness), c.arm, c.island, c.n, c.parent, p.n_live, p.states FROM child c JOIN program p ON p.hash = c.program
                    WHERE c.fitness IS NOT NULL AND (?1 IS NULL OR c.arm = ?1) GROUP BY p.hash ORDER BY MIN(c.fitness), p.hash LIMIT ?2 OFFSET ?3";
        let mut query = self.db.prepare(text).map_err(words)?;
        let rows = query.query_map(params![arm.map(Kind::name), n as i64, from as i64], program_row).map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// What results call the best of each arm, and how many programs the arm ran.
    ///
    /// # Errors
    /// In words.
    pub fn examined(&self) -> Done<Vec<(&'static str, u64)>> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let (run, _) = self.arm(kind)?;
            if run > 0 {
                all.push((if kind == Kind::Evolution { FOUND } else { kind.name() }, run.max(0) as u64));
            }
        }
        Ok(all)
    }

    /// What the search found beside its controls on tasks that were held out, as it was last looked at.
    ///
    /// # Errors
    /// In words.
    pub fn held_out_pairs(&self) -> Done<Vec<PairRow>> {
        let text = "SELECT task, program, beside, difference, low, high, p, wins, losses FROM held_out_pair WHERE opened = (SELECT MAX(opened) FROM held_out) ORDER BY task, n";
        let mut query = self.db.prepare(text).map_err(words)?;
        let number = |r: &rusqlite::Row<'_>, k| Ok::<f64, rusqlite::Error>(r.get::<_, Option<f64>>(k)?.unwrap_or(f64::NAN));
        let rows = query.query_map([], |r| {
            let difference = [number(r, 3)?, number(r, 4)?, number(r, 5)?, number(r, 6)?];
            Ok(PairRow { task: r.get(0)?, program: r.get(1)?, beside: r.get(2)?, difference, wins: (r.get(7)?, r.get(8)?) })
        });
        rows.map_err(words)?.collect::<Result<_, _>>().map_err(words)
    }

    /// Keeps how the search is set, and its first programs.
    ///
    /// # Errors
    /// In words.
    pub fn keep_settings(&mut self, spec: &SearchSpec, starts: &[Start]) -> Done<()> {
        let axes: Vec<&str> = spec.pareto.iter().map(|a| a.name()).collect();
        self.set("pareto", &axes.join(","))?;
        self.set("seed", &spec.seed.to_string())?;
        let tx = self.db.transaction().map_err(words)?;
        tx.execute("DELETE FROM start", []).map_err(words)?;
        for (n, s) in starts.iter().enumerate() {
            let program = s.genome.dag().ok().filter(|_| !s.genome.body.is_empty()).map_or(0, |d| keys(&d).exact);
            tx.execute("INSERT INTO start VALUES(?1, ?2, ?3, ?4)", params![n as i64, s.expression, key(program), finite(s.fitness)])
                .map_err(words)?;
        }
        tx.commit().map_err(words)
    }

    /// Sets a value by name.
    ///
    /// # Errors
    /// In words.
    pub fn set(&mut self, name: &str, value: &str) -> Done<()> {
        self.db.execute("INSERT OR REPLACE INTO setting VALUES(?1, ?2)", params![name, value]).map(|_| ()).map_err(words)
    }

    /// A value by name.
    ///
    /// # Errors
    /// In words.
    pub fn setting(&self, name: &str) -> Done<Option<String>> {
        self.db.query_row("SELECT value FROM setting WHERE name = ?1", params![name], |r| r.get(0)).optional().map_err(words)
    }

    /// First programs.
    ///
    /// # Errors
    /// In words.
    pub fn starts(&self) -> Done<Vec<StartRow>> {
        let mut query = self.db.prepare("SELECT expression, program, fitness FROM start ORDER BY n").map_err(words)?;
        let row = |r: &rusqlite::Row<'_>| {
            let hash: Vec<u8> = r.get(1)?;
            Ok(StartRow { expression: r.get(0)?, program: hash_of(&hash), fitness: number(r.get(2)?) })
        };
        let rows = query.query_map([], row).map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// The axes of its Pareto front.
    ///
    /// # Errors
    /// In words.
    pub fn axes(&self) -> Done<Vec<Axis>> {
        let text = self.setting("pareto")?.unwrap_or_default();
        let axes: Vec<Axis> = text.split(',').filter_map(Axis::named).collect();
        Ok(if axes.is_empty() { pareto::DEFAULT.to_vec() } else { axes })
    }

    /// All programs with what they are measured by, each as its arms and islands ran it.
    ///
    /// # Errors
    /// In words.
    pub fn points(&self, axes: &[Axis], mut each: impl FnMut(Point)) -> Done<()> {
        let text = "SELECT p.hash, c.arm, c.fitness, p.n_live, p.states, p.cost, s.ns FROM child c JOIN program p ON p.hash = c.program
                    LEFT JOIN speed s ON s.program = p.hash WHERE c.fitness IS NOT NULL";
        let mut query = self.db.prepare(text).map_err(words)?;
        let mut rows = query.query([]).map_err(words)?;
        while let Some(r) = rows.next().map_err(words)? {
            let read = || -> rusqlite::Result<(Vec<u8>, String, f64, i64, i64, i64, Option<f64>)> {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?))
            };
            let (hash, arm, fitness, statements, states, cost, ns) = read().map_err(words)?;
            let of = |axis: &Axis| match axis {
                Axis::Fitness => fitness,
                Axis::StateBytes => state_bytes(states.max(0) as usize),
                Axis::Statements => statements as f64,
                Axis::Flops => cost as f64,
                Axis::Ns => ns.unwrap_or(f64::NAN),
            };
            if let Some(arm) = Kind::named(&arm) {
                each(Point { key: hash_of(&hash), arm, values: axes.iter().map(of).collect() });
            }
        }
        Ok(())
    }

    /// The Pareto front over all programs.
    ///
    /// # Errors
    /// In words.
    pub fn front(&self, axes: &[Axis]) -> Done<Front> {
        let mut front = Front::new(axes);
        self.points(axes, |point| {
            front.insert(point);
        })?;
        Ok(front)
    }

    /// Seconds that the search has gone on.
    ///
    /// # Errors
    /// In words.
    pub fn elapsed(&self) -> Done<f64> {
        Ok(self.setting("elapsed")?.and_then(|s| s.parse().ok()).unwrap_or(0.0))
    }

    /// Keeps how many seconds the search has gone on.
    ///
    /// # Errors
    /// In words.
    pub fn set_elapsed(&mut self, seconds: f64) -> Done<()> {
        self.set("elapsed", &seconds.to_string())
    }

    /// Keeps another text of the spec, which steers the search as the one before did.
    ///
    /// # Errors
    /// In words.
    pub fn keep_spec(&mut self, text: &str) -> Done<()> {
        self.db.execute("UPDATE run SET spec_text = ?1 WHERE id = 1", params![text]).map(|_| ()).map_err(words)
    }

    /// Keeps the scores of a rung of the funnel, counted from 0, in place of what was kept of it before.
    ///
    /// # Errors
    /// In words.
    pub fn keep_rung(&mut self, rung: usize, evals: &[EvalRow]) -> Done<()> {
        let (tx, number) = (self.db.transaction().map_err(words)?, rung as i64 + 1);
        tx.execute("DELETE FROM eval WHERE rung = ?1", params![number]).map_err(words)?;
        for e in evals {
            let status = if e.score.is_finite() { "ok" } else { "nan" };
            let row = params![key(e.program), number, e.task, e.seed as i64, e.rate, finite(e.score), status];
            tx.execute("INSERT OR IGNORE INTO eval VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)", row).map_err(words)?;
        }
        tx.commit().map_err(words)
    }

    /// What a program scored in the search itself: task, seed, learning rate, score; NaN where a run did not get to its end.
    ///
    /// # Errors
    /// In words.
    pub fn scores(&self, program: u128) -> Done<Vec<EvalRow>> {
        let text = "SELECT task, seed, lr, score FROM eval WHERE program = ?1 AND rung = 0 ORDER BY task, seed, lr";
        let mut query = self.db.prepare(text).map_err(words)?;
        let row = |r: &rusqlite::Row<'_>| {
            let score = r.get::<_, Option<f64>>(3)?.unwrap_or(f64::NAN);
            Ok(EvalRow { program, task: r.get(0)?, seed: r.get::<_, i64>(1)?.max(0) as u64, rate: r.get(2)?, score })
        };
        let rows = query.query_map(params![key(program)], row).map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// Keeps the program that was written, as a child of the one it was made from, which is found by its hash from then on; in place of the one before. So is one of a round that was not ended.
    ///
    /// # Errors
    /// In words.
    pub fn keep_emitted(&mut self, winner: &Winner, unfinished: Option<&Found>, children: u64) -> Done<()> {
        let tx = self.db.transaction().map_err(words)?;
        forget_emitted(&tx)?;
        let own = winner.genome.dag().ok().map(|dag| (&winner.genome, keys(&dag), winner.key, winner.fitness));
        let own = own.filter(|(_, keys, parent, _)| keys.exact != *parent);
        let all = own.into_iter().chain(unfinished.map(|f| (&f.genome, f.keys, f.parent, f.fitness)));
        for (genome, keys, parent, fitness) in all {
            if put_program(&tx, &without_dead_code(genome), keys)? {
                let (hash, kept) = (key(keys.exact), Some(fitness).filter(|x| measured(*x)));
                let row = params![EMITTED, children as i64, hash, key(parent), kept, fitness.to_bits().cast_signed()];
                tx.execute("INSERT OR IGNORE INTO child VALUES(?1, 0, ?2, ?3, ?4, ?5, ?6)", row).map_err(words)?;
            }
        }
        tx.commit().map_err(words)
    }

    /// Keeps the rungs of a funnel and the best program, in place of what was kept before.
    ///
    /// # Errors
    /// In words.
    pub fn keep_end(&mut self, rungs: &[Passed], winner: Option<&Winner>) -> Done<()> {
        let tx = self.db.transaction().map_err(words)?;
        tx.execute("DELETE FROM funnel", []).map_err(words)?;
        tx.execute("DELETE FROM winner", []).map_err(words)?;
        for (n, rung) in rungs.iter().enumerate() {
            let beat: Vec<Value> = rung.baselines.iter().map(|(name, fitness)| json!([name, finite(*fitness)])).collect();
            tx.execute(
                "INSERT INTO funnel VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    n as i64,
                    rung.steps.map(|s| s as i64),
                    rung.entered as i64,
                    rung.kept as i64,
                    finite(rung.best),
                    finite(rung.again),
                    Value::Array(beat).to_string()
                ],
            )
            .map_err(words)?;
        }
        if let Some(w) = winner {
            let again = w.again.and_then(finite);
            tx.execute(
                "INSERT INTO winner VALUES(1, ?1, ?2, ?3, ?4)",
                params![key(w.key), text::write(&w.genome), finite(w.fitness), again],
            )
            .map_err(words)?;
        }
        tx.commit().map_err(words)
    }

    /// The rungs of its funnel.
    ///
    /// # Errors
    /// In words.
    pub fn funnel(&self) -> Done<Vec<RungRow>> {
        let text = "SELECT steps, entered, kept, best, again, beat FROM funnel ORDER BY rung";
        let mut query = self.db.prepare(text).map_err(words)?;
        let rows = query
            .query_map([], |r| {
                let beat: String = r.get(5)?;
                let beat: Value = serde_json::from_str(&beat).unwrap_or_default();
                let baseline = |v: &Value| Some((v[0].as_str()?.to_string(), number(v[1].as_f64())));
                Ok(Passed {
                    steps: r.get::<_, Option<i64>>(0)?.map(|s| s.max(0) as u64),
                    entered: r.get::<_, i64>(1)?.max(0) as usize,
                    kept: r.get::<_, i64>(2)?.max(0) as usize,
                    best: number(r.get(3)?),
                    again: number(r.get(4)?),
                    baselines: beat.as_array().into_iter().flatten().filter_map(baseline).collect(),
                })
            })
            .map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// How the best of an arm came about: the number of programs run, and the fitness, of each that was better than all before; and the last program. Programs of islands count in the order of their children.
    ///
    /// # Errors
    /// In words.
    pub fn progress(&self, kind: Kind) -> Done<Vec<(u64, f64)>> {
        let mut query = self.db.prepare("SELECT fitness FROM child WHERE arm = ?1 ORDER BY n, island, program").map_err(words)?;
        let mut rows = query.query(params![kind.name()]).map_err(words)?;
        let (mut out, mut run, mut best) = (Vec::new(), 0, f64::INFINITY);
        while let Some(r) = rows.next().map_err(words)? {
            let fitness = number(r.get(0).map_err(words)?);
            run += 1;
            if fitness < best {
                best = fitness;
                out.push((run, best));
            }
        }
        if out.last().is_some_and(|(n, _)| *n < run) {
            out.push((run, best));
        }
        Ok(out)
    }

    /// The best program of an arm.
    ///
    /// # Errors
    /// In words.
    pub fn top_of(&self, kind: Kind) -> Done<Option<ProgramRow>> {
        let text = "SELECT p.hash, p.text, c.fitness, c.arm, c.island, c.n, c.parent, p.n_live, p.states FROM child c JOIN program p ON p.hash = c.program
                    WHERE c.arm = ?1 AND c.fitness IS NOT NULL ORDER BY c.fitness, p.hash LIMIT 1";
        self.db.query_row(text, params![kind.name()], program_row).optional().map_err(words)
    }

    /// How many programs the arms have run.
    ///
    /// # Errors
    /// In words.
    pub fn programs(&self) -> Done<i64> {
        let text = "SELECT (SELECT COUNT(*) FROM program) - (SELECT COUNT(*) FROM child a WHERE a.arm = ?1
                      AND NOT EXISTS (SELECT 1 FROM child b WHERE b.program = a.program AND b.arm <> ?1))";
        self.db.query_row(text, params![EMITTED], |r| r.get(0)).map_err(words)
    }

    /// Sets the state from which the search goes on.
    ///
    /// # Errors
    /// In words.
    pub fn keep_state(&mut self, state: &str) -> Done<()> {
        self.db.execute("UPDATE run SET state = ?1 WHERE id = 1", params![state]).map(|_| ()).map_err(words)
    }

    /// Takes in what another archive holds, all or nothing; its islands are counted on from `island`. Programs and scores are known by their identity. How often what was held out was looked at adds up.
    ///
    /// # Errors
    /// In words.
    pub fn take_in(&mut self, path: &Path, island: usize) -> Done<()> {
        self.db.execute("ATTACH ?1 AS part", params![path.to_string_lossy()]).map_err(words)?;
        let tx = self.db.transaction().map_err(words)?;
        let island = island as i64;
        forget_end(&tx)?;
        let all = || {
            tx.execute_batch(
                // One program may be written in several ways: which is kept does not depend on the order of archives.
                "INSERT OR REPLACE INTO program SELECT * FROM part.program AS p
                   WHERE NOT EXISTS (SELECT 1 FROM main.program AS m WHERE m.hash = p.hash AND m.text <= p.text)
                     AND p.hash NOT IN (SELECT a.program FROM part.child a WHERE a.arm = 'emitted'
                       AND NOT EXISTS (SELECT 1 FROM part.child b WHERE b.program = a.program AND b.arm <> 'emitted'));
                 INSERT OR IGNORE INTO eval SELECT * FROM part.eval WHERE rung = 0;
                 INSERT OR IGNORE INTO fp SELECT * FROM part.fp;
                 INSERT OR IGNORE INTO speed SELECT * FROM part.speed;
                 INSERT OR IGNORE INTO start SELECT * FROM part.start;
                 INSERT OR IGNORE INTO a_a SELECT * FROM part.a_a WHERE NOT EXISTS (SELECT 1 FROM a_a);
                 INSERT OR IGNORE INTO setting SELECT * FROM part.setting WHERE name IN ('pareto', 'seed');",
            )?;
            let child =
                "INSERT OR IGNORE INTO child SELECT arm, island + ?1, n, program, parent, fitness, bits FROM part.child WHERE arm <> ?2";
            tx.execute(child, params![island, EMITTED])?;
            let opened: i64 = tx.query_row("SELECT COALESCE(MAX(opened), 0) FROM main.held_out", [], |r| r.get(0))?;
            let held_out = "INSERT INTO held_out SELECT opened + ?1, task, n, program, text, lr, median, failed, difference, low, high, p FROM part.held_out";
            tx.execute(held_out, params![opened])
        };
        all().map_err(words)?;
        tx.commit().map_err(words)?;
        self.db.execute("DETACH part", []).map(|_| ()).map_err(words)
    }

    /// What left for islands of other processes from a round on, as text, by round.
    ///
    /// # Errors
    /// In words.
    pub fn sent(&self, kind: Kind, from: u64) -> Done<Vec<(u64, String)>> {
        let text = "SELECT round, member FROM sent WHERE arm = ?1 AND round >= ?2 ORDER BY round";
        let mut query = self.db.prepare(text).map_err(words)?;
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?.max(0) as u64, r.get(1)?));
        let rows = query.query_map(params![kind.name(), from as i64], row).map_err(words)?;
        rows.collect::<Result<_, _>>().map_err(words)
    }

    /// The best program, if the search has come to an end.
    ///
    /// # Errors
    /// In words.
    pub fn winner(&self) -> Done<Option<WinnerRow>> {
        let row = |r: &rusqlite::Row<'_>| {
            let hash: Vec<u8> = r.get(0)?;
            Ok(WinnerRow { program: hash_of(&hash), from: f64::INFINITY, text: r.get(1)?, fitness: number(r.get(2)?), again: r.get(3)? })
        };
        let found = self.db.query_row("SELECT program, text, fitness, again FROM winner", [], row).optional().map_err(words)?;
        let Some(winner) = found else { return Ok(None) };
        let from = self.program(winner.program)?.map_or(f64::INFINITY, |p| p.fitness);
        Ok(Some(WinnerRow { from, ..winner }))
    }
}
