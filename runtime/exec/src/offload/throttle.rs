//! The pace of reading and writing, where it is limited.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit in bytes a second, each way, that all who move arrays share.
#[derive(Default)]
pub(crate) struct Throttle {
    limit: Option<f64>,
    /// Of reading and writing.
    paces: [Mutex<Pace>; 2],
}

impl Throttle {
    /// No limit unless it is positive.
    pub fn new(limit: Option<f64>) -> Throttle {
        Throttle { limit: limit.filter(|t| *t > 0.0), paces: Default::default() }
    }

    /// Waits until a transfer that began at `start` may end.
    pub fn wait(&self, writing: bool, start: Instant, bytes: u64) {
        let Some(limit) = self.limit else { return };
        let pace = || self.paces[usize::from(writing)].lock().unwrap_or_else(PoisonError::into_inner);
        let due = pace().due(start, bytes, limit);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        pace().awake = Some(Instant::now());
    }
}

/// When the next transfer may end.
#[derive(Default)]
struct Pace {
    /// When the last one should have ended.
    due: Option<Instant>,
    /// When whoever waited for that woke up: waking up late is made up for, being idle is not.
    awake: Option<Instant>,
}

/// Most time that is made up for.
const MADE_UP: Duration = Duration::from_millis(10);
/// Time between two transfers up to which the second one follows the first.
const FOLLOWS: Duration = Duration::from_millis(1);

impl Pace {
    /// When a transfer that began at `start` should end.
    fn due(&mut self, start: Instant, bytes: u64, limit: f64) -> Instant {
        let follows = self.awake.is_some_and(|awake| start.saturating_duration_since(awake) < FOLLOWS);
        let begin = match self.due {
            Some(due) if follows => due.max(start - MADE_UP),
            Some(due) => due.max(start),
            None => start,
        };
        let due = begin + Duration::from_secs_f64(bytes as f64 / limit);
        self.due = Some(due);
        due
    }
}
