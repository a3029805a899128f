//! A small thread pool: workers spin briefly, then sleep; units of work are handed out one by one.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Passes of the waiting loop before a worker goes to sleep; some tens of microseconds.
const SPINS: u32 = 20_000;

type Unit = unsafe fn(*const (), usize);

/// The low half of `next` while a job is being set up: no total reaches it, so no unit can be claimed.
const CLOSED: u64 = 0xFFFF_FFFF;

/// State shared by the threads. `next` packs the job's generation (high half) and the next unit (low half), so that a worker that
/// wakes late cannot take a unit of a newer job with an older job's function; it is closed while the other fields change, so that
/// it cannot take a unit of an older job with the newer job's total either.
struct Shared {
    next: AtomicU64,
    total: AtomicUsize,
    remaining: AtomicUsize,
    unit: AtomicPtr<()>,
    data: AtomicPtr<()>,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    gate: Mutex<()>,
    wake: Condvar,
}

/// Threads that run units of work. Cloning shares them; the last clone's drop joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: Mutex<()>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool that uses `threads` threads in all, the caller's included; 0 means one per available core.
    pub fn new(threads: usize) -> Arc<Pool> {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            total: AtomicUsize::new(0),
            remaining: AtomicUsize::new(0),
            unit: AtomicPtr::new(std::ptr::null_mut()),
            data: AtomicPtr::new(std::ptr::null_mut()),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            gate: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                // A machine that refuses another thread still works, with fewer.
                std::thread::Builder::new().name(format!("optc-{i}")).spawn(move || work(&shared)).ok()
            })
            .collect();
        Arc::new(Pool { shared, workers, busy: Mutex::new(()) })
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `unit(i)` once for each `i` below `total`, on any thread and in any order, and returns when all are done.
    /// Calls from inside a unit, or while another caller uses the pool, run on the calling thread.
    pub fn run<F: Fn(usize) + Sync>(&self, total: usize, unit: &F) {
        unsafe fn trampoline<F: Fn(usize) + Sync>(data: *const (), i: usize) {
            // SAFETY: `data` is the `&F` of the `run` call that is still waiting for this unit.
            unsafe { (*data.cast::<F>())(i) }
        }
        let guard = if total > 1 && !self.workers.is_empty() && !INSIDE.get() { self.busy.try_lock().ok() } else { None };
        if guard.is_none() || total as u64 > CLOSED {
            (0..total).for_each(unit);
            return;
        }
        let s = &*self.shared;
        let generation = (s.next.fetch_or(CLOSED, Ordering::Relaxed) >> 32).wrapping_add(1) & 0xFFFF_FFFF;
        // Released after the closing, so that whoever reads one of them here finds the older job closed.
        s.unit.store(trampoline::<F> as Unit as *mut (), Ordering::Release);
        s.data.store(std::ptr::from_ref(unit).cast_mut().cast(), Ordering::Release);
        s.total.store(total, Ordering::Release);
        s.remaining.store(total, Ordering::Relaxed);
        s.next.store(generation << 32, Ordering::SeqCst);
        if s.sleeping.load(Ordering::SeqCst) > 0 {
            // Taking the gate orders this wake-up after a worker's last look at `next`.
            drop(s.gate.lock());
            s.wake.notify_all();
        }
        INSIDE.set(true);
        take_units(s, generation);
        INSIDE.set(false);
        let mut spins = 0u32;
        while s.remaining.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
            spins += 1;
            if spins > SPINS {
                std::thread::yield_now();
            }
        }
    }
}

/// Runs units of the job with this generation until none is left or a newer job has begun.
fn take_units(s: &Shared, generation: u64) {
    // Read before a unit is claimed: the claim succeeds only if all of these still belong to this generation.
    let total = s.total.load(Ordering::Acquire) as u64;
    let unit = s.unit.load(Ordering::Acquire);
    let data = s.data.load(Ordering::Acquire).cast_const();
    let mut seen = s.next.load(Ordering::Acquire);
    loop {
        if seen >> 32 != generation || seen & CLOSED >= total {
            return;
        }
        match s.next.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: the pointer was made from a `Unit` in `run`, whose caller waits until `remaining` is 0.
                unsafe { std::mem::transmute::<*mut (), Unit>(unit)(data, (seen & CLOSED) as usize) };
                s.remaining.fetch_sub(1, Ordering::Release);
                seen = s.next.load(Ordering::Acquire);
            }
            Err(now) => seen = now,
        }
    }
}

fn work(s: &Shared) {
    INSIDE.set(true);
    let mut done = 0;
    loop {
        let mut spins = 0;
        let generation = loop {
            let generation = s.next.load(Ordering::Acquire) >> 32;
            if generation != done || s.stop.load(Ordering::Relaxed) {
                break generation;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            let Ok(gate) = s.gate.lock() else { return };
            s.sleeping.fetch_add(1, Ordering::SeqCst);
            if s.next.load(Ordering::SeqCst) >> 32 == done && !s.stop.load(Ordering::SeqCst) {
                drop(s.wake.wait(gate));
            }
            s.sleeping.fetch_sub(1, Ordering::SeqCst);
            spins = 0;
        };
        if s.stop.load(Ordering::Relaxed) {
            return;
        }
        take_units(s, generation);
        done = generation;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.gate.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics; if one did there is nothing left to save here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_unit_runs_exactly_once() {
        // More threads than cores, and jobs that grow: a thread that is held up for a while finds the next job with a larger total.
        for threads in [1, 2, 3, 5, 8] {
            let pool = Pool::new(threads);
            for round in 0..10_000 {
                let n = round % 37;
                let counts: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
                pool.run(n, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn workers_wake_after_sleep_and_nested_runs_are_inline() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let sum = AtomicU32::new(0);
            pool.run(8, &|i| {
                pool.run(4, &|j| {
                    sum.fetch_add((i * 4 + j) as u32, Ordering::Relaxed);
                })
            });
            assert_eq!(sum.load(Ordering::Relaxed), 31 * 32 / 2);
        }
    }
}
