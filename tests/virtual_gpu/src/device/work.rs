//! Pieces of work, and how they are done.

use super::code::{Answer, Code};
use super::collective::{self, Meet};
use super::memory::{View, host_of};
use super::product::Product;
use super::state::{Held, Node};
use crate::exec::program::Program;
use crate::exec::{Chance, FaultKind, Launch, run};
use crate::options::{Order, options};
use std::cell::Cell;
use std::sync::Arc;

/// A function of the host.
pub type HostFn = unsafe extern "C" fn(*mut std::ffi::c_void);

thread_local! {
    /// Whether this thread runs a host function of a stream, which must not call the driver.
    pub static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// A kernel with what it is launched with.
pub struct Kernel {
    pub program: Arc<Program>,
    pub alive: Arc<std::sync::atomic::AtomicBool>,
    /// Lines of the PTX text, for messages.
    pub text: Arc<str>,
    pub params: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic: usize,
    pub cooperative: bool,
}

/// One end of a copy.
#[derive(Clone)]
pub enum End {
    Device(u64),
    /// Memory of the program, looked at when the copy is made.
    Host(usize),
    /// Bytes that were taken when the copy was asked for.
    Staged(Arc<Vec<u8>>),
}

impl End {
    fn kind(&self) -> &'static str {
        match self {
            End::Device(_) => "device",
            _ => "host",
        }
    }
}

/// A piece of work.
#[derive(Clone)]
pub enum Work {
    Kernel(Arc<Kernel>),
    Copy {
        to: End,
        from: End,
        bytes: u64,
    },
    Set {
        to: u64,
        pattern: u32,
        width: u8,
        count: u64,
    },
    Host {
        f: HostFn,
        data: usize,
    },
    /// The event of this handle has been reached, if it was not recorded again.
    Record(u64),
    Graph(Arc<Vec<Node>>),
    Product(Arc<Product>),
    /// A device's part in sums over devices: in a graph, where it comes to them; and, of all together, the sums.
    Meet(Arc<Meet>),
    AddUp(Arc<Vec<Arc<Meet>>>),
    /// A device that has not yet come to where others wait for it.
    Absent,
    /// Memory of a stream begins or ends to be.
    Open(u64),
    Free(u64),
    Nothing,
}

/// Where bytes lie, if they may be touched.
fn place(address: u64, bytes: u64, devices: u64, what: &str) -> Answer<*mut u8> {
    if bytes == 0 {
        return Ok(std::ptr::dangling_mut());
    }
    host_of(address, bytes, devices).ok_or_else(|| {
        let why = crate::exec::Fabric::explain(&View { devices, launch: 0 }, address, bytes);
        eprintln!("virtual GPU: {what} at {address:#x}: {why}");
        Code::ILLEGAL_ADDRESS
    })
}

/// Does a piece of work of a device; the lock is released meanwhile.
pub fn perform(state: &mut Held, work: &Work, device: usize) -> Answer {
    let devices = state.reach(device);
    match work {
        Work::Nothing => Ok(()),
        Work::Meet(_) | Work::Absent => Err(Code::LAUNCH_FAILED),
        Work::AddUp(meets) => {
            let meets = meets.clone();
            state.log.added_up(&meets);
            state.released(|| collective::add_up(&meets))
        }
        Work::Record(event) => {
            if let Some(event) = state.events.get_mut(event) {
                event.time = Some(std::time::Instant::now());
            }
            Ok(())
        }
        Work::Open(address) => {
            state.heap.open(*address);
            Ok(())
        }
        Work::Free(address) => {
            let owner = super::memory::piece(*address).map_or(device, |p| p.2);
            let len = state.heap.len(*address).unwrap_or(0);
            match state.heap.free(*address) {
                Some(remains) => {
                    state.remains.push(remains);
                    state.devices[owner].used -= len;
                    Ok(())
                }
                None => Err(Code::ILLEGAL_ADDRESS),
            }
        }
        Work::Copy { to, from, bytes } => {
            state.log.copied(from.kind(), to.kind(), *bytes);
            let n = *bytes as usize;
            // Copies between devices need no access of one to the other.
            let devices = u64::MAX;
            state.released(|| {
                let source: *const u8 = match from {
                    End::Device(address) => place(*address, *bytes, devices, "a copy from")?,
                    End::Host(at) => *at as *const u8,
                    End::Staged(data) => data.as_ptr(),
                };
                let target: *mut u8 = match to {
                    End::Device(address) => place(*address, *bytes, devices, "a copy to")?,
                    End::Host(at) => *at as *mut u8,
                    End::Staged(_) => return Err(Code::INVALID_VALUE),
                };
                // SAFETY: device memory is checked; for memory of the program the caller vouches until the copy is made.
                unsafe { std::ptr::copy(source, target, n) };
                Ok(())
            })
        }
        Work::Set { to, pattern, width, count } => {
            state.log.set(count * u64::from(*width));
            state.released(|| {
                let at = place(*to, count * u64::from(*width), devices, "a memset")?;
                let bytes = pattern.to_le_bytes();
                for n in 0..*count as usize * *width as usize {
                    // SAFETY: checked.
                    unsafe { *at.add(n) = bytes[n % *width as usize] };
                }
                Ok(())
            })
        }
        Work::Host { f, data } => {
            state.log.host_functions += 1;
            let (f, data) = (*f, *data);
            state.released(|| {
                IN_HOST_FUNCTION.set(true);
                // SAFETY: the program has given the function and its argument for this.
                unsafe { f(data as *mut std::ffi::c_void) };
                IN_HOST_FUNCTION.set(false);
            });
            Ok(())
        }
        Work::Kernel(kernel) => {
            let seed = match options().order {
                Order::Random(_) => state.chance.as_mut().map(|c| c.below(u64::MAX)),
                _ => None,
            };
            let kernel = kernel.clone();
            let outcome = state.released(|| launch(&kernel, devices, seed));
            state.log.instructions += outcome?;
            Ok(())
        }
        Work::Product(product) => {
            let product = product.clone();
            state.released(|| product.perform(devices))
        }
        Work::Graph(nodes) => {
            for n in order(state, nodes) {
                if let Work::Kernel(kernel) = &nodes[n].work {
                    state.log.node_kernel(&kernel.program.name);
                }
                if matches!(nodes[n].work, Work::Product(_)) {
                    state.log.node_kernel("cublasLtMatmul");
                }
                state.log.graph_nodes += 1;
                perform(state, &nodes[n].work, device)?;
            }
            Ok(())
        }
    }
}

/// An order in which nodes may be done: as they were captured, by chance, or, when lazy, others as long as possible before the first ones.
pub fn order(state: &mut Held, nodes: &[Node]) -> Vec<usize> {
    let order = options().order;
    if order == Order::Eager {
        return (0..nodes.len()).collect();
    }
    let mut open: Vec<usize> = nodes.iter().map(|n| n.deps.len()).collect();
    let mut after = vec![Vec::new(); nodes.len()];
    for (n, node) in nodes.iter().enumerate() {
        node.deps.iter().for_each(|d| after[*d].push(n));
    }
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|n| open[*n] == 0).collect();
    let mut all = Vec::new();
    while !ready.is_empty() {
        let at = match (&order, &mut state.chance) {
            (Order::Random(_), Some(chance)) => chance.below(ready.len() as u64) as usize,
            _ => ready.len() - 1,
        };
        let n = ready.swap_remove(at);
        all.push(n);
        for &next in &after[n] {
            open[next] -= 1;
            if open[next] == 0 {
                ready.push(next);
            }
        }
    }
    all
}

fn launch(kernel: &Kernel, devices: u64, seed: Option<u64>) -> Answer<u64> {
    if !kernel.alive.load(std::sync::atomic::Ordering::Relaxed) {
        eprintln!("virtual GPU: kernel `{}`: its module was unloaded before it ran", kernel.program.name);
        return Err(Code::LAUNCH_FAILED);
    }
    let (apart, hosts, watched) = {
        let options = options();
        (options.apart, options.hosts, options.races)
    };
    let view = View { devices, launch: if watched { super::races::next_launch() } else { 0 } };
    let launch = Launch {
        program: &kernel.program,
        params: &kernel.params,
        grid: kernel.grid,
        block: kernel.block,
        dynamic: kernel.dynamic,
        fabric: &view,
        watched,
        apart,
        seed,
        cooperative: kernel.cooperative,
        hosts,
        multiprocessors: crate::api::attribute::MULTIPROCESSORS,
    };
    match run(&launch) {
        Ok(outcome) => Ok(outcome.steps),
        Err(fault) => {
            let ([bx, by, bz], [tx, ty, tz]) = (fault.block, fault.thread);
            let source = kernel.text.lines().nth((fault.line as usize).saturating_sub(1)).unwrap_or("").trim();
            eprintln!(
                "virtual GPU: kernel `{}`, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}), PTX line {}: {}\n    {source}",
                kernel.program.name, fault.line, fault.words
            );
            Err(match fault.kind {
                FaultKind::IllegalAddress => Code::ILLEGAL_ADDRESS,
                FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
                FaultKind::Failed | FaultKind::Trap => Code::LAUNCH_FAILED,
                FaultKind::Stack => Code::HARDWARE_STACK_ERROR,
                FaultKind::Timeout => Code::LAUNCH_TIMEOUT,
            })
        }
    }
}

/// Numbers for an order by chance.
pub fn chance() -> Option<Chance> {
    match options().order {
        Order::Random(seed) => Some(Chance(seed)),
        _ => None,
    }
}
