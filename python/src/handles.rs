//! The table of things that callers have numbers of.

use crate::call::Call;
use crate::module::Module;
use crate::step::Step;
use crate::{Fault, wrong};
use optc_abi::Tensor;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// What a number stands for.
pub enum Thing {
    /// A spec.
    Module(Arc<Module>),
    /// A compiled function.
    Call(Call),
    /// A compiled optimizer.
    Step(Step),
    /// An array that was handed out.
    Memory(#[expect(dead_code, reason = "keeps the array alive")] Arc<Tensor>),
}

static TABLE: LazyLock<RwLock<HashMap<u64, Arc<Thing>>>> = LazyLock::new(RwLock::default);

/// A number for a thing.
pub fn add(thing: Thing) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    TABLE.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(thing));
    number
}

/// The thing of a number.
///
/// # Errors
/// There is none.
pub fn get(number: u64) -> Result<Arc<Thing>, Fault> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    table.get(&number).cloned().ok_or_else(|| wrong("this was released"))
}

/// Forgets a number.
pub fn remove(number: u64) {
    let thing = TABLE.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    // Dropped after the table is free again.
    drop(thing);
}
