//! Live progress: a bar on a terminal, now and then a line elsewhere, or nothing.

use crate::table::DIGITS;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use optc_abi::number::shown;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How progress is shown; all on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A bar that is redrawn in place.
    Bar,
    /// A line at the start of ever longer intervals.
    Plain,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// `Quiet` if asked for, else what suits standard error.
    pub fn detect(quiet: bool) -> Mode {
        if quiet {
            Mode::Quiet
        } else if std::io::stderr().is_terminal() {
            Mode::Bar
        } else {
            Mode::Plain
        }
    }
}

/// Shows how far a train is. Asking [`Progress::due`] each step costs a counter; the clock is looked at now and then.
pub struct Progress {
    name: String,
    mode: Mode,
    bar: ProgressBar,
    first: u64,
    total: u64,
    start: Instant,
    next: Instant,
    interval: Duration,
    /// Steps between looks at the clock, adapted to the speed.
    stride: u64,
    calls: u64,
    looked: Instant,
    /// Step and time of the last report, and the smoothed speed.
    last: (u64, Instant),
    speed: f64,
}

const BAR_INTERVAL: Duration = Duration::from_millis(100);

impl Progress {
    /// Progress of `name` from step `first` to step `total`.
    pub fn new(name: &str, first: u64, total: u64, mode: Mode) -> Self {
        let bar = if mode == Mode::Bar { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if mode == Mode::Bar {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(20));
            let style =
                ProgressStyle::with_template("{prefix:.bold} {bar:20.cyan/dim} {pos}/{len}  {wide_msg}").expect("the template is valid");
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_prefix(name.to_string());
            bar.set_position(first);
        }
        let now = Instant::now();
        let interval = if mode == Mode::Bar { BAR_INTERVAL } else { Duration::from_secs(2) };
        Progress {
            name: name.to_string(),
            mode,
            bar,
            first,
            total,
            start: now,
            next: now + interval,
            interval,
            stride: 1,
            calls: 0,
            looked: now,
            last: (first, now),
            speed: 0.0,
        }
    }
    /// Whether it is time to report. Call it after each step; if it says yes, call [`Progress::report`].
    #[inline]
    pub fn due(&mut self) -> bool {
        if self.mode == Mode::Quiet {
            return false;
        }
        self.calls += 1;
        if self.calls < self.stride {
            return false;
        }
        self.look_at_clock()
    }
    #[cold]
    fn look_at_clock(&mut self) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.looked);
        // Aims at a look every 5 to 10 ms.
        if passed < Duration::from_millis(5) {
            self.stride = (self.stride * 2).min(1024);
        } else if passed > Duration::from_millis(10) {
            self.stride = (self.stride / 2).max(1);
        }
        self.looked = now;
        self.calls = 0;
        now >= self.next
    }
    /// Shows the step reached and the newest values.
    pub fn report(&mut self, step: u64, values: &[(&str, f64)]) {
        let now = Instant::now();
        let passed = now.duration_since(self.last.1).as_secs_f64();
        if passed > 0.0 && step > self.last.0 {
            let speed = (step - self.last.0) as f64 / passed;
            self.speed = if self.speed == 0.0 { speed } else { 0.7 * self.speed + 0.3 * speed };
            self.last = (step, now);
        }
        let message = self.message(step, values);
        match self.mode {
            Mode::Bar => {
                self.bar.set_position(step);
                self.bar.set_message(message);
            }
            Mode::Plain => {
                let _ = writeln!(std::io::stderr(), "{} {step}/{}  {message}", self.name, self.total);
                // A long run should not fill a log file.
                self.interval = (self.interval * 3 / 2).min(Duration::from_secs(60));
            }
            Mode::Quiet => {}
        }
        self.next = now + self.interval;
    }
    fn message(&self, step: u64, values: &[(&str, f64)]) -> String {
        let mut parts: Vec<String> = values.iter().map(|(name, v)| format!("{name} {}", shown(*v, DIGITS))).collect();
        if self.speed > 0.0 {
            parts.push(speed(self.speed));
            if step < self.total {
                parts.push(format!("{} left", duration((self.total - step) as f64 / self.speed)));
            }
        }
        parts.join(" · ")
    }
    /// Prints a line above the bar, or plainly to standard output; also when quiet, since the spec asked for it.
    pub fn println(&self, line: &str) {
        if self.mode == Mode::Bar {
            self.bar.suspend(|| println!("{line}"));
        } else {
            println!("{line}");
        }
    }
    /// Ends the display with a line that says how long it took, the mean speed and the last values.
    pub fn finish(&mut self, step: u64, values: &[(&str, f64)]) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        if self.mode == Mode::Quiet {
            return;
        }
        let mean = if seconds > 0.0 { (step - self.first.min(step)) as f64 / seconds } else { 0.0 };
        let mut parts: Vec<String> = values.iter().map(|(name, v)| format!("{name} {}", shown(*v, DIGITS))).collect();
        parts.push(format!("{} steps in {}", step - self.first.min(step), duration(seconds)));
        if mean > 0.0 {
            parts.push(speed(mean));
        }
        let _ = writeln!(std::io::stderr(), "{}  {}", self.name, parts.join(" · "));
    }
}

/// A leftover bar is cleared, so that an error message starts on a clean line.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `12.3k steps/s`, or seconds per step when slow.
pub fn speed(steps_per_second: f64) -> String {
    match steps_per_second {
        s if s >= 1e6 => format!("{:.2}M steps/s", s / 1e6),
        s if s >= 1e4 => format!("{:.1}k steps/s", s / 1e3),
        s if s >= 100.0 => format!("{s:.0} steps/s"),
        s if s >= 1.0 => format!("{s:.1} steps/s"),
        s => format!("{} a step", duration(1.0 / s)),
    }
}

/// `340 µs`, `1.5 s`, `2 min 05 s`, `3 h 10 min`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() || s >= 1e9 => "—".to_string(),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 59.95 => format!("{s:.1} s"),
        s if s < 3599.5 => {
            let s = s.round() as u64;
            format!("{} min {:02} s", s / 60, s % 60)
        }
        s => {
            let minutes = (s / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_speeds_read_well() {
        let d: Vec<String> = [0.00034, 0.25, 1.5, 59.99, 125.0, 11400.0].into_iter().map(duration).collect();
        assert_eq!(d, ["340 µs", "250 ms", "1.5 s", "1 min 00 s", "2 min 05 s", "3 h 10 min"]);
        let s: Vec<String> = [1.5e6, 92200.0, 640.0, 3.25, 0.5].into_iter().map(speed).collect();
        assert_eq!(s, ["1.50M steps/s", "92.2k steps/s", "640 steps/s", "3.2 steps/s", "2.0 s a step"]);
    }

    #[test]
    fn quiet_is_never_due_and_plain_is_after_its_interval() {
        assert!(!Progress::new("t", 0, 10, Mode::Quiet).due());
        let mut p = Progress::new("t", 0, 10, Mode::Plain);
        assert!(!p.due());
        p.next = Instant::now();
        p.calls = p.stride;
        assert!(p.due());
        p.speed = 100.0;
        assert_eq!(p.message(5, &[("loss", 0.5)]), "loss 0.5 · 100 steps/s · 50 ms left");
    }

    #[test]
    fn fast_steps_still_see_the_clock_in_time() {
        let mut p = Progress::new("t", 0, u64::MAX, Mode::Plain);
        p.next = Instant::now() + Duration::from_millis(20);
        let start = Instant::now();
        while !p.due() {
            assert!(start.elapsed() < Duration::from_secs(2));
        }
        assert!(p.stride > 1);
    }
}
