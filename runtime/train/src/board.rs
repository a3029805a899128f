//! A few lines about something under way: redrawn in place on a terminal, a line now and then elsewhere, or nothing.

use crate::progress::Mode;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// Lines on standard error.
pub struct Board {
    mode: Mode,
    bar: ProgressBar,
    next: Instant,
    interval: Duration,
}

/// Redraws a second on a terminal, at most.
const HZ: u8 = 8;

impl Board {
    /// An empty board.
    pub fn new(mode: Mode) -> Board {
        let bar = if mode == Mode::Bar { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if mode == Mode::Bar {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(HZ));
            bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is valid"));
        }
        Board { mode, bar, next: Instant::now(), interval: Duration::from_secs(1) }
    }

    /// Shows what `lines` says in place of what was there; where there is no terminal, `line` at the start of ever longer intervals.
    pub fn show(&mut self, lines: impl FnOnce() -> String, line: impl FnOnce() -> String) {
        match self.mode {
            Mode::Bar => self.bar.set_message(lines()),
            Mode::Plain => {
                let now = Instant::now();
                if now >= self.next {
                    // Nobody is left to tell if standard error is closed.
                    let _ = writeln!(std::io::stderr(), "{}", line());
                    self.next = now + self.interval;
                    // A long run should not fill a log file.
                    self.interval = (self.interval * 3 / 2).min(Duration::from_secs(60));
                }
            }
            Mode::Quiet => {}
        }
    }
}

/// What was on a terminal is cleared.
impl Drop for Board {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_shown_is_made() {
        let mut quiet = Board::new(Mode::Quiet);
        quiet.show(|| unreachable!("nothing is shown"), || unreachable!("nothing is shown"));
        let mut plain = Board::new(Mode::Plain);
        let mut made = 0;
        for _ in 0..100 {
            plain.show(
                || unreachable!("there is no terminal"),
                || {
                    made += 1;
                    String::new()
                },
            );
        }
        assert_eq!(made, 1);
    }
}
