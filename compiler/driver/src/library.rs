//! What the standard library offers: its public items with their documentation, and what its optimizers cost.

use crate::commands::explain::find_optimizer_step;
use crate::cost::{self, Cost};
use crate::session::{kind, params};
use crate::stages::{Signature, signature};
use crate::synthetic::{self, Stored};
use optc_base::{Severity, SourceMap};
use optc_front::std_lib;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A public item of the standard library.
pub struct Entry {
    /// Its folder: `std.optim`.
    pub folder: &'static str,
    /// Its name.
    pub name: String,
    /// Its keyword: `optimizer`, `fn`.
    pub kind: &'static str,
    /// How it is called.
    pub signature: Signature,
    /// Its documentation, in Markdown but for indented equations.
    pub doc: String,
    /// Whether it takes an optimizer.
    pub wraps: bool,
}

impl Entry {
    /// `std.optim.lion`
    pub fn path(&self) -> String {
        format!("{}.{}", self.folder, self.name)
    }
    /// The first line of its documentation.
    pub fn summary(&self) -> &str {
        self.doc.lines().next().unwrap_or("")
    }
}

/// The public items of a folder, sorted by name.
pub fn entries(folder: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    for file in std_lib::std_files().iter().filter(|f| f.folder == folder) {
        let mut sources = SourceMap::default();
        let source = sources.add(file.name, file.text);
        let (tree, _) = optc_front::parse(source, file.text);
        for item in &tree.items {
            let Some(signature) = signature(&sources, item) else { continue };
            let name = item.name().map_or(String::new(), |n| n.text.to_string());
            if !name.starts_with('_') {
                let wraps = params(item).iter().any(synthetic::is_optimizer);
                found.push(Entry { folder: file.folder, name, kind: kind(item), signature, doc: item.doc.clone(), wraps });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The leaf that costs are found on. Figures are per parameter: only what rules keep for rows, columns or blocks depends on it.
pub const LEAF: [usize; 2] = [512, 512];

/// What an optimizer costs, called like this.
pub struct Costed {
    /// The call: with gradient descent where an optimizer is needed, 1 where a number is, as in the documentation's example where something else is.
    pub call: String,
    /// Whether it only changes gradients, so that gradient descent follows it.
    pub transform: bool,
    /// The cost of a step on one leaf of f32, or why there is none.
    pub cost: Result<Cost, String>,
}

fn costed(name: &str) -> Costed {
    let call = synthetic::completed(name, None);
    match find_optimizer_step(name, None, &[LEAF.to_vec()], Stored::F32, 1) {
        Ok((program, _, transform)) => Costed { call, transform, cost: Ok(cost::cost(&program)) },
        Err(session) => {
            let first = session.diagnostics.iter().find(|d| d.severity == Severity::Error);
            Costed { call, transform: false, cost: Err(first.map_or_else(String::new, |d| d.message.clone())) }
        }
    }
}

/// Memory for one thread's recursion; reserved, not used, until it is needed.
const STACK: usize = 256 << 20;

/// The costs of optimizers, in their order, found on all cores. `progress` is told how many are done.
pub fn costs(optimizers: &[&Entry], progress: impl Fn(usize) + Sync) -> Vec<Costed> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new(Vec::with_capacity(optimizers.len()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = optimizers.get(at) else { break };
            let one = costed(&entry.name);
            found.lock().expect("no thread panics while it adds").push((at, one));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).expect("a thread can be started");
        }
    });
    let mut found = found.into_inner().expect("all threads have ended");
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, one)| one).collect()
}
