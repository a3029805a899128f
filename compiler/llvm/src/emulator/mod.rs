//! GPU kernels on this computer: threads, barriers, shuffles and shared memory for code that `simt.rs` makes for [`crate::machine::Machine::Emulated`].
//!
//! A launch runs its blocks one after the other and each thread of a block as a coroutine on a small stack of its own, on the host thread that made the launch; several host threads may launch at once. Threads change places
//! only where they wait for each other. `OPTC_SIMT_ORDER` says who goes first: `forward` (the default: the lowest block, and of the threads that can run the lowest), `reverse`, or `random:SEED`. A kernel is right only
//! if no order changes what it does.
//!
//! # What a kernel may rely on
//! - **Order of accesses.** A barrier orders what all threads of the block did before it with what they do after it. A shuffle or a synchronization of a warp does the same for the 32 threads of the warp. Nothing else orders
//!   two threads, and nothing at all two blocks of a launch; that a warp runs in step is nothing to rely on. Two accesses to the same byte that are not ordered, at least one of them a write, are a race, in shared and in global memory.
//! - **Barriers.** All threads of the block come to each barrier, those that have ended included: none may have. At a shuffle or synchronization of a warp all its lanes come together, with the same operation and the same mask.
//! - **Copies to shared memory** (`cp.async`) have happened when their thread has waited for them, and for others when a barrier has followed; they may happen at any time before.
//! - **Matrices.** Operations of a warp on matrices of bf16 take all its 32 lanes; sums of products are rounded to f32 once, which hardware may do several times.
//! - **Partial warps.** If the number of threads is no multiple of 32, the last warp has fewer lanes. It may synchronize; a shuffle there is a fault, since it names lanes that do not exist.
//! - **Shared memory** begins with every byte 0xFF (a NaN, an index out of range). A byte that no thread of the block has written is not read. Accesses stay within it: a mebibyte on both sides belongs to it
//!   as far as its bounds are checked, and to nobody else.
//! - **Global memory** is used within the buffers of the launch, where whoever launches says what they are.
//! - **A thread's stack** is its own, whoever announces accesses to it.
//! - **Launches** have 1 to 1024 threads, at least one block and at most 227 KiB of shared memory, as the largest GPUs have.
//!
//! Whatever breaks a rule is a [`Fault`]. Races and reads of unwritten memory are not looked for with `OPTC_SIMT_CHECK=off`, for runs that would take too long or too much memory (24 bytes for each word that a launch touches).
//! Atomic operations of generated code need no announcement: they race nothing.
//!
//! # Generated code
//! Switching keeps the registers that a C function keeps; all vector and mask registers are the caller's own to save around any call. Stacks are aligned to 16 bytes where a function is called, as the convention has it, and code
//! that wants more aligns its frame itself. A stack has a guard page below it. Nothing ever unwinds through generated code: threads that will not go on are forgotten where they wait.

mod faults;
mod launch;
mod matrices;
mod order;
mod shadow;
mod shared;
#[cfg(test)]
mod tests;

pub use faults::{Fault, FaultKind, Space, collect, take_faults};

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use launch::{Launch, WORDS, Wait};
pub use order::Order;

use order::Chooser;
use shadow::Shadow;
use shared::Shared;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::OnceLock;

/// Threads of a warp.
const WARP: u32 = 32;
/// Threads that a block may have.
const THREADS: i32 = 1024;
/// Shared memory that a block may have, in bytes.
const SHARED: i64 = 227 << 10;
/// Bytes of a thread's stack; what is not touched takes no memory.
const STACK: usize = 256 << 10;

/// What a kernel is called with; its own business.
pub(crate) type Args = c_void;
/// One thread of a kernel.
pub(crate) type Thread = unsafe extern "C" fn(*const Args);

/// How launches run.
#[derive(Clone, Copy, Debug)]
struct Options {
    order: Order,
    /// Whether races and reads of unwritten memory are looked for.
    check: bool,
    /// Whether the launch ends with its first fault.
    first_only: bool,
}

/// What the environment says, read once; a mistake there ends the process.
fn options() -> Options {
    static READ: OnceLock<(Order, bool)> = OnceLock::new();
    let &(order, check) = READ.get_or_init(|| match settings(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())) {
        Ok(settings) => settings,
        Err(words) => {
            eprintln!("error: {words}");
            std::process::exit(1);
        }
    });
    Options { order, check, first_only: !faults::collecting() }
}

fn settings(variable: impl Fn(&str) -> Option<String>) -> Result<(Order, bool), String> {
    let order = match variable("OPTC_SIMT_ORDER") {
        None => Order::default(),
        Some(text) => Order::parse(&text)
            .ok_or_else(|| format!("OPTC_SIMT_ORDER is `{text}`; it may be forward, reverse or random:SEED, SEED a number"))?,
    };
    let check = match variable("OPTC_SIMT_CHECK").as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(text) => return Err(format!("OPTC_SIMT_CHECK is `{text}`; it may be on or off")),
    };
    Ok((order, check))
}

/// Memory that a host thread keeps from launch to launch.
#[derive(Default)]
struct Room {
    stacks: Vec<DefaultStack>,
    shadow: Shadow,
    shared: Option<Shared>,
}

thread_local! {
    /// The launch that runs on this host thread.
    static CURRENT: Cell<*mut Launch> = const { Cell::new(std::ptr::null_mut()) };
    static ROOM: RefCell<Option<Room>> = const { RefCell::new(None) };
    /// The buffers of the next launch, if they are known.
    static MEMORY: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    /// What [`observe`] has asked for.
    static OBSERVED: RefCell<Option<(Order, Vec<Fault>)>> = const { RefCell::new(None) };
}

/// The launch of the thread that calls.
fn current() -> *mut Launch {
    let launch = CURRENT.get();
    if launch.is_null() {
        eprintln!("error: compiler bug: a function of GPU threads was called outside of a launch");
        std::process::exit(1);
    }
    launch
}

/// Leaves the thread's coroutine until its turn comes.
///
/// # Safety
/// `launch` is that of the thread that calls, and no reference into it is alive.
unsafe fn wait(launch: *mut Launch, what: Wait) {
    // SAFETY: as above; the yielder lives on the stack of the coroutine that runs.
    unsafe {
        let yielder = {
            let launch = &mut *launch;
            let lane = &mut launch.lanes[launch.thread];
            lane.wait = what;
            lane.yielder
        };
        (*yielder).suspend(());
    }
}

/// The number of the thread within its block.
pub(crate) extern "C" fn optc_simt_thread() -> i32 {
    // SAFETY: alive while its threads run.
    unsafe { (*current()).thread as i32 }
}

/// The number of the block.
pub(crate) extern "C" fn optc_simt_block() -> i32 {
    // SAFETY: as above.
    unsafe { (*current()).block }
}

/// How many blocks there are.
pub(crate) extern "C" fn optc_simt_blocks() -> i32 {
    // SAFETY: as above.
    unsafe { (*current()).blocks }
}

/// The block's shared memory, aligned to 128 bytes.
pub(crate) extern "C" fn optc_simt_shared() -> *mut u8 {
    // SAFETY: as above.
    unsafe { (*current()).shared.base() }
}

/// Waits for all threads of the block.
pub(crate) extern "C" fn optc_simt_barrier() {
    // SAFETY: as above, and no reference is kept.
    unsafe { wait(current(), Wait::Barrier) }
}

/// Waits for all threads of the warp.
pub(crate) extern "C" fn optc_simt_warp_sync() {
    // SAFETY: as above.
    unsafe { wait(current(), Wait::Warp) }
}

/// Gives words to an operation of the warp, and what it gives back.
fn together(given: &[u32], what: Wait) -> [u32; WORDS] {
    let launch = current();
    // SAFETY: as above; the pointer outlives the switch, the place is read anew.
    unsafe {
        let thread = (*launch).thread;
        (&mut (*launch).lanes)[thread].words[..given.len()].copy_from_slice(given);
        wait(launch, what);
        (&(*launch).lanes)[thread].words
    }
}

/// What lane `lane ^ xor_mask` of the warp gives: `shfl.sync.bfly.b32` of all lanes.
pub(crate) extern "C" fn optc_simt_shuffle(bits: i32, xor_mask: i32) -> i32 {
    together(&[bits as u32], Wait::Shuffle { mask: xor_mask as u32 % WARP })[0] as i32
}

/// `ldmatrix.sync.aligned.m8n8.x4.shared.b16`, transposed or not, of the row that this lane names; four words to `result`.
pub(crate) extern "C" fn optc_simt_matrices(row: *const u8, transposed: i32, result: *mut u32) {
    let address = row as u64;
    let words = together(&[address as u32, (address >> 32) as u32], Wait::Matrices { transposed: transposed != 0 });
    // SAFETY: room for four words.
    unsafe { std::slice::from_raw_parts_mut(result, 4).copy_from_slice(&words[..4]) };
}

/// `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`, or that of f16: words of a (4), b (2), c (4); the result replaces the first four.
pub(crate) extern "C" fn optc_simt_product(words: *mut u32, f16: i32) {
    // SAFETY: ten words.
    let all = unsafe { std::slice::from_raw_parts_mut(words, WORDS) };
    let results = together(all, Wait::Product { f16: f16 != 0 });
    all[..4].copy_from_slice(&results[..4]);
}

/// `cp.async` of `bytes` bytes, of which the first `real` are copied and the others become zero.
pub(crate) extern "C" fn optc_simt_copy(to: *mut u8, from: *const u8, bytes: i32, real: i32) {
    let launch = current();
    // SAFETY: as above; the reference ends before the switch.
    unsafe {
        (*launch).copy(to as usize, from as usize, bytes as usize, real as usize);
        if (*launch).over {
            wait(launch, Wait::No);
        }
    }
}

/// `cp.async.commit_group`.
pub(crate) extern "C" fn optc_simt_copies_end() {
    // SAFETY: as above.
    unsafe { (*current()).close_copies() }
}

/// `cp.async.wait_group`.
pub(crate) extern "C" fn optc_simt_copies_wait(but: i32) {
    let launch = current();
    // SAFETY: as above; the reference ends before the switch.
    unsafe {
        (*launch).await_copies(but as u32);
        if (*launch).over {
            wait(launch, Wait::No);
        }
    }
}

/// Before a load of `bytes` bytes of shared or global memory.
pub(crate) extern "C" fn optc_simt_read(address: *const u8, bytes: i64) {
    access(address as usize, bytes, false);
}

/// Before a store of `bytes` bytes to shared or global memory.
pub(crate) extern "C" fn optc_simt_write(address: *mut u8, bytes: i64) {
    access(address as usize, bytes, true);
}

fn access(address: usize, bytes: i64, write: bool) {
    let launch = current();
    // SAFETY: as above; the reference ends before the switch.
    unsafe {
        (*launch).access(address, bytes, write);
        if (*launch).over {
            wait(launch, Wait::No);
        }
    }
}

/// Says what global memory the next launch on this host thread may use.
pub(crate) fn memory(ranges: Vec<Range<usize>>) {
    MEMORY.set(ranges);
}

/// The same from generated code: `count` pairs of where a buffer begins and ends.
///
/// # Safety
/// The list has that many.
pub(crate) unsafe extern "C" fn optc_simt_memory(list: *const usize, count: i64) {
    // SAFETY: as the caller promises.
    let list = unsafe { std::slice::from_raw_parts(list, 2 * count as usize) };
    memory(list.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect());
}

/// Runs `thread(args)` for every thread of every block. The first fault ends the process, unless faults are collected.
///
/// # Safety
/// `thread` can be called with `args`, and calls what is in [`symbols`] only.
pub(crate) unsafe extern "C" fn optc_simt_launch(thread: Thread, args: *const Args, threads: i32, blocks: i32, shared_bytes: i64) {
    let observed = OBSERVED.with_borrow(|o| o.as_ref().map(|o| o.0));
    let options = observed.map_or_else(options, |order| Options { order, check: true, first_only: false });
    // SAFETY: as above.
    let faults = unsafe { launch(options, thread, args, threads, blocks, shared_bytes) };
    match observed {
        Some(_) => OBSERVED.with_borrow_mut(|o| o.iter_mut().for_each(|o| o.1.extend(faults.iter().cloned()))),
        None => faults::deliver(faults),
    }
}

/// Runs something whose launches on this host thread take an order of their own, and gives their faults, which go nowhere else. For tests.
pub fn observe(order: Order, run: impl FnOnce()) -> Vec<Fault> {
    let before = OBSERVED.replace(Some((order, Vec::new())));
    run();
    OBSERVED.replace(before).map(|o| o.1).unwrap_or_default()
}

/// Runs a launch and says what was wrong with it.
///
/// # Safety
/// As [`optc_simt_launch`].
unsafe fn launch(options: Options, thread: Thread, args: *const Args, threads: i32, blocks: i32, shared_bytes: i64) -> Vec<Fault> {
    if !(1..=THREADS).contains(&threads) || blocks < 1 || !(0..=SHARED).contains(&shared_bytes) {
        let words = format!(
            "{blocks} blocks of {threads} threads with {shared_bytes} bytes of shared memory; a GPU takes at least one block, 1 to {THREADS} threads and up to {SHARED} bytes"
        );
        return vec![Fault { kind: FaultKind::Launch, block: 0, threads: Vec::new(), space: None, offset: 0, words }];
    }
    let shared_bytes = shared_bytes as usize;
    let Room { mut stacks, shadow, shared } = ROOM.take().unwrap_or_default();
    let shared = shared.filter(|s| s.room() >= shared_bytes).unwrap_or_else(|| Shared::new(shared_bytes));
    let mut choose = Chooser::new(options.order);
    let order = choose.blocks(blocks);
    let state = Box::into_raw(Box::new(Launch::new(options, threads as usize, blocks, (shared, shared_bytes), shadow, MEMORY.take())));
    let before = CURRENT.replace(state);
    let mut routines: Vec<Option<Coroutine<(), (), ()>>> = Vec::new();
    routines.resize_with(threads as usize, || None);
    for block in order {
        // SAFETY: no thread runs.
        unsafe { (*state).begin_block(block) };
        // SAFETY: the state is alive and no reference into it is kept over a switch.
        if !unsafe { run_block(state, &mut choose, &mut routines, &mut stacks, thread, args) } {
            break;
        }
    }
    for routine in &mut routines {
        if let Some(mut routine) = routine.take() {
            // SAFETY: generated code has nothing on its stack that wants to be dropped.
            unsafe { routine.force_reset() };
            stacks.push(routine.into_stack());
        }
    }
    CURRENT.set(before);
    // SAFETY: made above; its threads are gone.
    let done = unsafe { Box::from_raw(state) };
    let Launch { mut shadow, shared, faults, .. } = *done;
    shadow.clear();
    stacks.truncate(THREADS as usize);
    ROOM.set(Some(Room { stacks, shadow, shared: Some(shared) }));
    faults
}

/// Runs the threads of a block until all have ended or the launch is over; whether it goes on.
///
/// # Safety
/// As [`launch`], and `state` is alive, without references into it.
unsafe fn run_block(
    state: *mut Launch,
    choose: &mut Chooser,
    routines: &mut [Option<Coroutine<(), (), ()>>],
    stacks: &mut Vec<DefaultStack>,
    thread: Thread,
    args: *const Args,
) -> bool {
    loop {
        // SAFETY: as above; the references end before the switch.
        let next = unsafe { choose.thread(&(*state).ready) };
        let Some(t) = next else {
            // SAFETY: as above.
            let launch = unsafe { &mut *state };
            if launch.ended == launch.threads {
                return true;
            }
            launch.stuck();
            return false;
        };
        let routine = routines[t].get_or_insert_with(|| {
            let stack = stacks.pop().unwrap_or_else(new_stack);
            // SAFETY: as above.
            unsafe { (&mut (*state).lanes)[t].stack = (stack.limit().get(), stack.base().get()) };
            Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
                // SAFETY: the state outlives its threads.
                unsafe {
                    (&mut (*state).lanes)[t].yielder = yielder;
                    thread(args);
                }
            })
        });
        // SAFETY: as above.
        unsafe {
            (*state).thread = t;
            (*state).stack = (&(*state).lanes)[t].stack;
        }
        let ended = matches!(routine.resume(()), CoroutineResult::Return(()));
        if ended && let Some(routine) = routines[t].take() {
            stacks.push(routine.into_stack());
        }
        // SAFETY: as above.
        let launch = unsafe { &mut *state };
        if launch.over {
            return false;
        }
        if ended {
            launch.lanes[t].wait = Wait::Ended;
        }
        launch.arrived(t);
        if launch.over {
            return false;
        }
    }
}

fn new_stack() -> DefaultStack {
    DefaultStack::new(STACK).unwrap_or_else(|e| {
        eprintln!("error: no memory for the stack of a GPU thread under emulation: {e}");
        std::process::exit(1);
    })
}

/// What generated code calls, by name.
pub(crate) fn symbols() -> Vec<(String, usize)> {
    let all: [(&str, *const ()); 16] = [
        ("optc_simt_memory", optc_simt_memory as *const ()),
        ("optc_simt_launch", optc_simt_launch as *const ()),
        ("optc_simt_thread", optc_simt_thread as *const ()),
        ("optc_simt_block", optc_simt_block as *const ()),
        ("optc_simt_blocks", optc_simt_blocks as *const ()),
        ("optc_simt_shared", optc_simt_shared as *const ()),
        ("optc_simt_barrier", optc_simt_barrier as *const ()),
        ("optc_simt_warp_sync", optc_simt_warp_sync as *const ()),
        ("optc_simt_shuffle", optc_simt_shuffle as *const ()),
        ("optc_simt_matrices", optc_simt_matrices as *const ()),
        ("optc_simt_product", optc_simt_product as *const ()),
        ("optc_simt_copy", optc_simt_copy as *const ()),
        ("optc_simt_copies_end", optc_simt_copies_end as *const ()),
        ("optc_simt_copies_wait", optc_simt_copies_wait as *const ()),
        ("optc_simt_read", optc_simt_read as *const ()),
        ("optc_simt_write", optc_simt_write as *const ()),
    ];
    all.into_iter().map(|(name, address)| (name.to_string(), address as usize)).collect()
}
