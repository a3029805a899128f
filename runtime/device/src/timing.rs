//! How long each instruction of a run takes: marks with times around what it queues.
//!
//! A GPU is faster than the computer that tells it what to do, and would wait between two marks for the next launch. So everything is held up by a function of the computer's until it is queued,
//! some instructions at a time, and the marks see the GPU's time alone. Two marks with nothing between them say what a mark takes itself, which is taken off.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::stream::{Stream, TimedEvent};
use optc_exec::Spent;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Instructions that are held up together. A driver takes about a thousand launches and marks before it makes the caller wait.
const HELD: usize = 64;
/// The longest that a stream is held up, should the caller be made to wait all the same.
const LONGEST: Duration = Duration::from_millis(20);

/// Marks of a run, and what the runs so far came to.
pub(crate) struct Timing {
    gpu: Arc<Gpu>,
    /// Marks in use are those of the list; the others are from runs before.
    marks: Vec<TimedEvent>,
    /// The instruction of each pair of marks; the first pair is around nothing.
    list: Vec<usize>,
    /// Streams that are held up until a flag is set.
    holds: Vec<Arc<AtomicBool>>,
    /// Whether the plan may be held up: nobody waits for a value of it while it is queued.
    holding: bool,
    spent: Vec<Spent>,
}

/// Waits for a flag.
///
/// # Safety
/// `data` is the address of one.
unsafe extern "C" fn hold(data: *mut c_void) {
    // SAFETY: as the caller promises.
    let open = unsafe { &*data.cast::<AtomicBool>() };
    let start = Instant::now();
    while !open.load(Ordering::Acquire) && start.elapsed() < LONGEST {
        std::hint::spin_loop();
    }
}

impl Timing {
    /// For a plan with so many instructions.
    pub(crate) fn new(gpu: &Arc<Gpu>, instructions: usize, holding: bool) -> Timing {
        let spent = vec![Spent::default(); instructions];
        Timing { gpu: gpu.clone(), marks: Vec::new(), list: Vec::new(), holds: Vec::new(), holding, spent }
    }

    fn mark(&mut self, n: usize, stream: &Stream) -> Result<()> {
        while self.marks.len() <= n {
            self.marks.push(TimedEvent::new(&self.gpu)?);
        }
        stream.record_time(&self.marks[n])
    }

    /// A run begins.
    pub(crate) fn begin(&mut self, stream: &Stream) -> Result<()> {
        self.list.clear();
        self.hold_up(stream)?;
        self.before(usize::MAX, stream)?;
        self.after(stream)
    }

    fn hold_up(&mut self, stream: &Stream) -> Result<()> {
        self.open();
        if !self.holding {
            return Ok(());
        }
        self.holds.push(Arc::default());
        let flag = self.holds.last().map_or(std::ptr::null(), Arc::as_ptr);
        // SAFETY: flags live until the stream has been waited for.
        unsafe { stream.call(hold, flag.cast_mut().cast()) }
    }

    /// What is held up goes on.
    pub(crate) fn open(&self) {
        self.holds.iter().for_each(|open| open.store(true, Ordering::Release));
    }

    /// What comes next belongs to an instruction.
    pub(crate) fn before(&mut self, instruction: usize, stream: &Stream) -> Result<()> {
        if self.list.len() % HELD == HELD - 1 {
            self.hold_up(stream)?;
        }
        self.list.push(instruction);
        self.mark(2 * self.list.len() - 2, stream)
    }

    /// It is queued.
    pub(crate) fn after(&mut self, stream: &Stream) -> Result<()> {
        self.mark(2 * self.list.len() - 1, stream)
    }

    /// Waits for the run and adds its times up.
    pub(crate) fn end(&mut self, stream: &Stream) -> Result<()> {
        self.open();
        stream.wait()?;
        self.holds.clear();
        let mut mark = Duration::ZERO;
        for (n, &instruction) in self.list.iter().enumerate() {
            let took = self.marks[2 * n].until(&self.marks[2 * n + 1])?;
            match self.spent.get_mut(instruction) {
                None => mark = took,
                Some(spent) => {
                    spent.runs += 1;
                    spent.time += took.saturating_sub(mark);
                }
            }
        }
        Ok(())
    }

    /// What the instructions took so far.
    pub(crate) fn spent(&self) -> Vec<Spent> {
        self.spent.clone()
    }
}
