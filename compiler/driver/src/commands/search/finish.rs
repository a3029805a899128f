//! The end of a search: what was found is told and written, what is owed is measured.

use super::hunt::{print_trouble, trouble};
use super::judge::show;
use super::live::front;
use crate::commands::say;
use crate::messages::Messages;
use crate::search::after::{After, Reached};
use crate::search::emit::{emit, noise_line, rounded, rung_line, validation_line};
use crate::search::hunt::Hunt;
use crate::search::judge::{examined, held_out_pairs, held_out_table};
use crate::search::report;
use crate::session::Failed;
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Programs of the front that a search tells at its end, at most.
const SHOWN: usize = 12;

/// The command that goes on with a search.
pub(super) fn resuming(processes: usize, archive: &Path) -> String {
    let launcher = if processes > 1 { format!("mpirun --enable-recovery -n {processes} ") } else { String::new() };
    format!("{launcher}optc search resume {}", archive.display())
}

/// Tells what was found, measures what is owed if the search has ended, and writes the best.
pub(super) fn finish(
    mut hunt: Hunt,
    file: &Path,
    archive: &Path,
    processes: usize,
    spent: Duration,
    ended: bool,
    messages: &Messages,
) -> Result<(), Failed> {
    say(&table(&hunt));
    say(front(hunt.front(), SHOWN).trim_end());
    let counters = hunt.counters();
    let all: u64 = hunt.arms.iter().map(|a| a.counters().evaluated).sum();
    say(&format!(
        "{} children of evolution, {} programs run in all arms, {:.0} s; archive {}",
        counters.children,
        all,
        spent.as_secs_f64(),
        archive.display()
    ));
    let beyond = hunt.beyond_ops();
    if !beyond.is_empty() {
        say(&format!("first programs have {}, which mutations do not draw: they stay until one takes them away", beyond.join(", ")));
    }
    if let Some(line) = validation_line(hunt.curve()) {
        say(&line);
    }
    if hunt.turned() {
        say(&format!(
            "validation found nothing better in {} measurements, so the search ended before its budget was spent",
            hunt.spec.patience
        ));
    }
    if counters.fp_hit > 0 {
        say(&format!(
            "fingerprints: {} new programs had that of another; {}",
            counters.fp_hit,
            if hunt.spec.strategy.skip {
                "they were not run".to_string()
            } else {
                format!("{} of them score otherwise", counters.fp_wrong)
            }
        ));
    }
    if hunt.cut() {
        let best = if hunt.unfinished().is_some() { ", but for the best of it, which is the best so far" } else { "" };
        say(&format!("the round that was not ended is left out{best}; a search that goes on makes it again"));
    }
    let after = if ended {
        // Whatever becomes of the rest, the best is there.
        if let Some(first) = After::before(&mut hunt) {
            let to = hand_out(&mut hunt, &first, file, messages)?;
            if let (Some(to), Reached::Owing(what)) = (to, &first.reached) {
                say(&format!(
                    "the best so far: {}; still to be measured: {}; an interrupt (Ctrl-C) leaves that out",
                    to.display(),
                    what.join(", ")
                ));
            }
        }
        hunt.after(file).map_err(|t| print_trouble(t, messages))?
    } else {
        say(&format!(
            "stopped before the budget was spent: what is owed at the end has not been measured; `{}` goes on",
            resuming(processes, archive)
        ));
        After::stopped(&mut hunt)
    };
    for (k, rung) in after.funnel.iter().enumerate() {
        say(&rung_line(k, rung));
    }
    if let Some(noise) = &after.noise {
        say(&noise_line(noise, counters.evaluated));
    }
    let held_out = &after.held_out;
    for verdict in &held_out.fresh {
        say("");
        show(verdict, hunt.spec.rates.len());
    }
    if !held_out.rows.is_empty() {
        let kept = held_out.fresh.is_empty();
        if kept {
            say(&held_out_table(&held_out.rows).text());
            say(&held_out_pairs(&hunt.archived().held_out_pairs().map_err(|why| trouble(&why, None, messages))?).text());
        }
        say(&examined(&hunt.archived().examined().map_err(|why| trouble(&why, None, messages))?));
        say(&format!("held out: {}{}", opened(held_out.opened), if kept { " (not again now: nothing has changed since)" } else { "" }));
    }
    if let Reached::Owing(what) = &after.reached {
        say(&format!("stopped at its end; not measured: {}; `{}` measures it", what.join(", "), resuming(processes, archive)));
    }
    after.winner.iter().flat_map(|w| &w.notes).for_each(|note| say(note));
    let beside = report::beside_controls(hunt.archived()).map_err(|why| trouble(&why, None, messages))?;
    beside.iter().for_each(|words| say(words));
    match hand_out(&mut hunt, &after, file, messages)? {
        Some(to) => say(&format!("the best: {}", to.display())),
        None if hunt.spec.emit.is_some() => say("no program has got to the end of its runs: nothing is emitted"),
        None => {}
    }
    Ok(())
}

/// Writes the best program, and keeps it in the archive; where it is then.
fn hand_out(hunt: &mut Hunt, after: &After, file: &Path, messages: &Messages) -> Result<Option<PathBuf>, Failed> {
    hunt.keep_emitted(after).map_err(|why| trouble(&why, None, messages))?;
    let (Some(to), Some(text)) = (hunt.spec.emit.clone(), emit(hunt, after)) else { return Ok(None) };
    write_emitted(file, &to, &text, messages).map(Some)
}

/// Writes what a search emits, relative to the folder of its spec; where it is then.
pub(super) fn write_emitted(file: &Path, to: &Path, text: &str, messages: &Messages) -> Result<PathBuf, Failed> {
    let to = crate::host_env::folder_of(file).join(to);
    let written = to.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&to, text));
    written.map_err(|e| cannot_write(&to, &e, messages))?;
    Ok(to)
}

/// How often tasks that were held out have been looked at.
pub(super) fn opened(times: i64) -> String {
    match times {
        1 => "measured for the first time in this archive; no score of these tasks selected a program".to_string(),
        n => format!("measured for the {n}. time: what was learnt from them before may have selected what is measured now"),
    }
}

/// Says that a file cannot be written.
pub(super) fn cannot_write(to: &Path, e: &std::io::Error, messages: &Messages) -> Failed {
    messages.error("R0102", &format!("cannot write {}: {e}", to.display()), None);
    Failed
}

/// First programs and arms with their scores.
fn table(hunt: &Hunt) -> String {
    let mut table = Table::new(["", "fitness", "programs run", "statements", "states"]);
    let text = |t: &str| Cell::Text(t.to_string());
    for s in &hunt.starts {
        let states = s.genome.states.len();
        table.push([
            text(&s.expression),
            text(&rounded(s.fitness)),
            text("1"),
            text(&s.genome.body.len().to_string()),
            text(&states.to_string()),
        ]);
    }
    for arm in &hunt.arms {
        let best = arm.best().map(|b| optc_search::live::without_dead_code(&b.genome));
        let (statements, states) = best.map_or((0, 0), |b| (b.body.len(), b.states.len()));
        let fitness = arm.best().map_or("-".to_string(), |b| rounded(b.fitness));
        let run = arm.counters().evaluated.to_string();
        table.push([text(arm.kind.name()), text(&fitness), text(&run), text(&statements.to_string()), text(&states.to_string())]);
    }
    table.text()
}
