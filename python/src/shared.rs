//! The compiler that all specs of a process share: one pool of threads, one cache of code.

use crate::{Fault, wrong};
use optc::cache::Compiler;
use optc::pipeline::CompileOptions;
use optc_exec::Program;
use optc_ir::Graph;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

static COMPILER: LazyLock<Mutex<Compiler>> = LazyLock::new(|| Mutex::new(Compiler::new(0)));
/// Counts changes of the number of threads: code is made for one number.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Also where a panic ended the last use: what is behind the lock is whole at every moment a panic can come.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that programs run on.
pub fn threads() -> usize {
    locked(&COMPILER).pool().threads()
}

/// From now on programs run on so many threads (0: all cores).
pub fn set_threads(n: usize) {
    let mut compiler = locked(&COMPILER);
    let new = Compiler::new(n);
    if new.pool().threads() != compiler.pool().threads() {
        *compiler = new;
        EPOCH.fetch_add(1, Ordering::SeqCst);
    }
}

/// A program that is compiled when it is first needed, and anew when the number of threads has changed.
pub struct Lazy {
    graph: Graph,
    options: CompileOptions,
    program: Option<(Program, u64)>,
}

impl Lazy {
    /// Of a graph.
    pub fn new(graph: Graph, options: CompileOptions) -> Lazy {
        Lazy { graph, options, program: None }
    }
    /// The program, and whether it was made just now, so that nothing is bound.
    ///
    /// # Errors
    /// What the back end cannot do.
    pub fn get(&mut self) -> Result<(&mut Program, bool), Fault> {
        let epoch = EPOCH.load(Ordering::SeqCst);
        let fresh = self.program.as_ref().is_none_or(|(_, made)| *made != epoch);
        if fresh {
            let (graph, options) = (&self.graph, &self.options);
            let made = crate::on_a_deep_stack(|| {
                locked(&COMPILER)
                    .program(graph, options)
                    .map_err(|why| wrong(format!("{why}; this is a compiler bug unless the machine is not supported")))
            })?;
            self.program = Some((made, epoch));
        }
        let (program, _) = self.program.as_mut().ok_or_else(|| wrong("nothing was compiled"))?;
        Ok((program, fresh))
    }
}
