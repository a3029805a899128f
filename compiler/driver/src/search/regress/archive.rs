//! The state of a symbolic regression as text, and its formulas in the archive.

use super::super::archive::{Archive, Done, words};
use optc_search::regress::control::{Control, Sampled};
use optc_search::regress::evolve::{Counters, Island, Member, State, Whole};
use optc_search::regress::formula::Formula;
use rusqlite::params;
use serde_json::{Value, json};

/// A formula of the archive: one of which none smaller is as good.
#[derive(Clone, Debug, PartialEq)]
pub struct FormulaRow {
    /// Its nodes.
    pub size: i64,
    /// In postfix form, with variables by number.
    pub postfix: String,
    /// As an expression of the language.
    pub expression: String,
    /// Its loss on the rows it was fitted on.
    pub loss: f64,
    /// That as a share of the loss of the best number for all rows.
    pub unexplained: f64,
    /// Its loss on the rows that were held out.
    pub held_out: Option<f64>,
    /// The island and child that found it.
    pub island: i64,
    /// See `island`.
    pub child: i64,
}

/// The tables of formulas.
const FOUND: &str = "formula";
const CONTROL: &str = "formula_control";

fn bits(x: f64) -> String {
    format!("{:016x}", x.to_bits())
}

fn counted(c: &Counters) -> Value {
    json!([c.children, c.invalid, c.known, c.evaluated, c.fitted])
}

/// The state as text that reads back bit for bit.
pub fn state(state: &State) -> String {
    let member = |m: &Member| json!([m.formula.text(), bits(m.left)]);
    let islands: Vec<Value> = state
        .islands
        .iter()
        .map(|i| {
            json!({
                "lens": i.lens,
                "population": i.population.iter().map(member).collect::<Vec<_>>(),
                "best": i.best.iter().map(|m| m.as_ref().map(member)).collect::<Vec<_>>(),
                "best_at": i.best_at,
                "restarts": i.restarts,
                "counters": counted(&i.counters),
            })
        })
        .collect();
    let whole = |w: &Whole| json!([w.formula.text(), bits(w.loss), w.island, w.child]);
    let halls = |hall: &[Option<Whole>]| hall.iter().map(|w| w.as_ref().map_or(Value::Null, whole)).collect::<Vec<_>>();
    let control = state.control.as_ref().map(|c| {
        let view = |v: &Sampled| json!({ "least": v.least.iter().map(|x| bits(*x)).collect::<Vec<_>>(), "counters": counted(&v.counters) });
        json!({ "views": c.views.iter().map(view).collect::<Vec<_>>(), "hall": halls(&c.hall) })
    });
    json!({ "islands": islands, "hall": halls(&state.hall), "rounds": state.rounds, "reached": state.reached, "control": control })
        .to_string()
}

/// The state of a text.
///
/// # Errors
/// If it is none, in words.
pub fn read(text: &str) -> Done<State> {
    let broken = || "the state of the search is damaged".to_string();
    let value: Value = serde_json::from_str(text).map_err(|e| format!("the state of the search is damaged: {e}"))?;
    let number = |v: &Value| v.as_u64().ok_or_else(broken);
    let float = |v: &Value| u64::from_str_radix(v.as_str().unwrap_or(""), 16).map(f64::from_bits).map_err(|_| broken());
    let formula = |v: &Value| v.as_str().and_then(Formula::parse).ok_or_else(broken);
    let list = |v: &Value| v.as_array().cloned().ok_or_else(broken);
    let member = |v: &Value| -> Done<Member> { Ok(Member { formula: formula(&v[0])?, left: float(&v[1])? }) };
    let maybe = |v: &Value| -> Done<Option<Member>> { if v.is_null() { Ok(None) } else { member(v).map(Some) } };
    let counters = |c: &Value| -> Done<Counters> {
        Ok(Counters {
            children: number(&c[0])?,
            invalid: number(&c[1])?,
            known: number(&c[2])?,
            evaluated: number(&c[3])?,
            fitted: number(&c[4])?,
        })
    };
    let island = |v: &Value| -> Done<Island> {
        Ok(Island {
            lens: number(&v["lens"])? as usize,
            population: list(&v["population"])?.iter().map(member).collect::<Done<_>>()?,
            best: list(&v["best"])?.iter().map(maybe).collect::<Done<_>>()?,
            best_at: number(&v["best_at"])?,
            counters: counters(&v["counters"])?,
            restarts: number(&v["restarts"])?,
        })
    };
    let whole = |v: &Value| -> Done<Option<Whole>> {
        if v.is_null() {
            return Ok(None);
        }
        Ok(Some(Whole { formula: formula(&v[0])?, loss: float(&v[1])?, island: number(&v[2])? as usize, child: number(&v[3])? }))
    };
    let reached = &value["reached"];
    let sampled = |v: &Value| -> Done<Sampled> {
        Ok(Sampled { least: list(&v["least"])?.iter().map(float).collect::<Done<_>>()?, counters: counters(&v["counters"])? })
    };
    let control = |v: &Value| -> Done<Control> {
        let views = list(&v["views"])?.iter().map(sampled).collect::<Done<_>>()?;
        Ok(Control { views, hall: list(&v["hall"])?.iter().map(whole).collect::<Done<_>>()? })
    };
    Ok(State {
        islands: list(&value["islands"])?.iter().map(island).collect::<Done<_>>()?,
        hall: list(&value["hall"])?.iter().map(whole).collect::<Done<_>>()?,
        rounds: number(&value["rounds"])?,
        reached: if reached.is_null() { None } else { Some(number(reached)?) },
        control: if value["control"].is_null() { None } else { Some(control(&value["control"])?) },
    })
}

impl Archive {
    /// Writes the formulas of a search and of its control in place of those before, and the state it goes on from, all or nothing.
    ///
    /// # Errors
    /// In words.
    pub fn commit_formulas(&mut self, rows: &[FormulaRow], control: &[FormulaRow], state: &str) -> Done<()> {
        let tx = self.db.transaction().map_err(words)?;
        for (table, rows) in [(FOUND, rows), (CONTROL, control)] {
            tx.execute(&format!("DELETE FROM {table}"), []).map_err(words)?;
            for r in rows {
                tx.execute(
                    &format!("INSERT INTO {table} VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
                    params![r.size, r.postfix, r.expression, r.loss, r.unexplained, r.held_out, r.island, r.child],
                )
                .map_err(words)?;
            }
        }
        tx.execute("UPDATE run SET state = ?1 WHERE id = 1", params![state]).map_err(words)?;
        tx.commit().map_err(words)
    }

    /// The formulas of a search, the smallest first; none where it is one for optimizers.
    ///
    /// # Errors
    /// In words.
    pub fn formulas(&self) -> Done<Vec<FormulaRow>> {
        self.formulas_of(FOUND)
    }

    /// The random formulas of which none smaller is as good, the smallest first; none without a control.
    ///
    /// # Errors
    /// In words.
    pub fn random_formulas(&self) -> Done<Vec<FormulaRow>> {
        self.formulas_of(CONTROL)
    }

    fn formulas_of(&self, table: &str) -> Done<Vec<FormulaRow>> {
        let text = format!("SELECT size, postfix, expression, loss, unexplained, held_out, island, child FROM {table} ORDER BY size");
        // An archive without the table is one for optimizers.
        let Ok(mut query) = self.db.prepare(&text) else { return Ok(Vec::new()) };
        let row = |r: &rusqlite::Row<'_>| {
            Ok(FormulaRow {
                size: r.get(0)?,
                postfix: r.get(1)?,
                expression: r.get(2)?,
                loss: r.get(3)?,
                unexplained: r.get(4)?,
                held_out: r.get(5)?,
                island: r.get(6)?,
                child: r.get(7)?,
            })
        };
        query.query_map([], row).map_err(words)?.collect::<Result<Vec<_>, _>>().map_err(words)
    }
}
