//! Queues: work comes in, and is done when it must be.

use super::capture;
use super::code::{Answer, Code};
use super::state::{Held, Node, Op, OpId};
use super::work::{Work, perform};
use crate::options::{Order, options};

/// Puts work into a stream, or into the graph that the stream is recorded for. `also`: other work that it waits for.
pub fn enqueue(state: &mut Held, stream: u64, work: Work, also: &[OpId]) -> Answer<Option<OpId>> {
    let s = state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
    let device = s.device;
    if s.capture.is_some() {
        let capture = capture::usable(state, stream)?;
        let s = state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        let deps = std::mem::take(&mut s.nodes);
        let graph = state.captures.get_mut(&capture).ok_or(Code::ILLEGAL_STATE)?;
        graph.nodes.push(Node { work, deps });
        let n = graph.nodes.len() - 1;
        state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.nodes = vec![n];
        return Ok(None);
    }
    let blocking = s.blocking;
    let null = state.devices[device].null;
    if stream == null {
        capture::implicit(state, device)?;
    }
    let mut deps = state.streams[&stream].tail.clone();
    if blocking {
        // The null stream and the others wait for each other.
        let others = state.streams.iter().filter(|(h, s)| s.device == device && s.blocking && (stream == null) != (**h == null));
        deps.extend(others.flat_map(|(_, s)| &s.tail));
    }
    deps.extend(also);
    deps.sort_unstable();
    deps.dedup();
    deps.retain(|d| state.ops.contains_key(d));
    state.next_op += 1;
    let id = state.next_op;
    state.ops.insert(id, Op { device, deps, work, running: false });
    state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.tail = vec![id];
    let order = options().order;
    match order {
        Order::Lazy => {}
        Order::Eager => wait_for(state, &[id]),
        Order::Random(_) => {
            for _ in 0..3 {
                let go = state.chance.as_mut().is_some_and(|c| c.below(2) == 0);
                if go {
                    progress(state, None);
                }
            }
        }
    }
    Ok(Some(id))
}

/// Does one piece of work, which waits for nothing.
fn run(state: &mut Held, id: OpId) {
    let Some(op) = state.ops.get_mut(&id) else { return };
    op.running = true;
    let (work, device) = (op.work.clone(), op.device);
    if state.devices[device].sticky.is_none() {
        state.running += 1;
        let result = perform(state, &work, device);
        state.running -= 1;
        if let Err(code) = result {
            state.devices[device].sticky.get_or_insert(code);
            state.log.faults += 1;
        }
    }
    state.ops.remove(&id);
    if state.running == 0 {
        state.remains.clear();
    }
    state.changed();
}

/// Does work until all of these are done, and what they wait for, and nothing else.
pub fn wait_for(state: &mut Held, targets: &[OpId]) {
    // What they wait for, each after what it waits for itself; not what waits for a device that has not come.
    let mut order = Vec::new();
    let mut held_up = std::collections::HashSet::new();
    let mut seen = std::collections::HashSet::new();
    let mut stack: Vec<(OpId, bool)> = targets.iter().map(|t| (*t, false)).collect();
    while let Some((id, left)) = stack.pop() {
        if left {
            let Some(op) = state.ops.get(&id) else { continue };
            if matches!(op.work, Work::Absent) || op.deps.iter().any(|d| held_up.contains(d)) {
                held_up.insert(id);
            } else {
                order.push(id);
            }
        } else if seen.insert(id)
            && let Some(op) = state.ops.get(&id)
        {
            stack.push((id, true));
            stack.extend(op.deps.iter().map(|d| (*d, false)));
        }
    }
    for id in order {
        while let Some(op) = state.ops.get(&id) {
            // Another thread may be at it, or at what it waits for.
            if op.running || op.deps.iter().any(|d| state.ops.contains_key(d)) {
                state.wait();
            } else {
                run(state, id);
            }
        }
    }
}

/// Does one piece of work that is ready, of those that a target waits for if there is one; which one is a matter of chance.
pub fn progress(state: &mut Held, target: Option<OpId>) {
    let mut needed = std::collections::BTreeSet::new();
    if let Some(target) = target {
        let mut stack = vec![target];
        while let Some(id) = stack.pop() {
            if let Some(op) = state.ops.get(&id)
                && needed.insert(id)
            {
                stack.extend(&op.deps);
            }
        }
    }
    let ready = |(id, op): &(&OpId, &Op)| {
        !op.running
            && !matches!(op.work, Work::Absent)
            && (target.is_none() || needed.contains(id))
            && !op.deps.iter().any(|d| state.ops.contains_key(d))
    };
    let ready: Vec<OpId> = state.ops.iter().filter(ready).map(|(id, _)| *id).collect();
    if ready.is_empty() {
        return;
    }
    let n = match &mut state.chance {
        Some(chance) => chance.below(ready.len() as u64) as usize,
        None => 0,
    };
    run(state, ready[n]);
}

/// All that is queued.
pub fn everything(state: &Held) -> Vec<OpId> {
    state.ops.keys().copied().collect()
}

/// All that is queued for a device.
pub fn all_of(state: &Held, device: usize) -> Vec<OpId> {
    state.ops.iter().filter(|(_, op)| op.device == device).map(|(id, _)| *id).collect()
}

/// What the next work in a stream would wait for.
pub fn tail(state: &Held, stream: u64) -> Vec<OpId> {
    let Some(s) = state.streams.get(&stream) else { return Vec::new() };
    let null = state.devices[s.device].null;
    let mut all = s.tail.clone();
    if stream == null {
        // The null stream is done when all that wait for it are.
        all.extend(state.streams.values().filter(|o| o.device == s.device && o.blocking).flat_map(|o| &o.tail));
    }
    all.retain(|id| state.ops.contains_key(id));
    all
}

/// A call that waits: does the work, and answers the device's fault if there was one.
pub fn block_on(state: &mut Held, call: &'static str, device: usize, targets: &[OpId]) -> Answer {
    let pending = targets.iter().any(|t| state.ops.contains_key(t));
    state.log.waited(call, pending);
    wait_for(state, targets);
    let mut left = targets.iter().copied().filter(|t| state.ops.get(t).is_some_and(|op| !op.running));
    if let Some(id) = left.find(|&id| is_held_up(state, id)) {
        eprintln!("virtual GPU: {call} waits for work {id} of device {device}, which waits for a device that never comes to add up");
        state.devices[device].sticky.get_or_insert(Code::LAUNCH_TIMEOUT);
        state.log.faults += 1;
    }
    state.devices[device].sticky.map_or(Ok(()), Err)
}

/// Whether work waits for a device that has not come to where others wait for it.
fn is_held_up(state: &Held, id: OpId) -> bool {
    let mut seen = std::collections::HashSet::new();
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        let Some(op) = state.ops.get(&id).filter(|_| seen.insert(id)) else { continue };
        if matches!(op.work, Work::Absent) {
            return true;
        }
        stack.extend(&op.deps);
    }
    false
}
