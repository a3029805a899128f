//! Sums over devices: each comes to them in its own streams, and they are made when all have come.

use super::code::{Answer, Code};
use super::drain::{enqueue, everything, wait_for};
use super::memory::host_of;
use super::state::{Held, Node, Op, OpId};
use super::work::{Work, order};
use crate::exec::num::{BF16, F16, Round};
use crate::options::{Order, options};
use std::collections::HashMap;
use std::sync::Arc;

/// Types of elements, as the library numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    U8,
    I32,
    U32,
    I64,
    F16,
    F32,
    F64,
    BF16,
}

impl Element {
    /// That with a number.
    pub fn parse(n: i32) -> Option<Element> {
        Some(match n {
            1 => Element::U8,
            2 => Element::I32,
            3 => Element::U32,
            4 => Element::I64,
            6 => Element::F16,
            7 => Element::F32,
            8 => Element::F64,
            9 => Element::BF16,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub fn bytes(self) -> u64 {
        match self {
            Element::U8 => 1,
            Element::F16 | Element::BF16 => 2,
            Element::I32 | Element::U32 | Element::F32 => 4,
            Element::I64 | Element::F64 => 8,
        }
    }
}

/// One array of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub from: u64,
    pub to: u64,
    pub count: u64,
    pub element: Element,
    /// The largest, instead of the sum.
    pub largest: bool,
}

/// A device's part in a meeting.
#[derive(Clone, Debug)]
pub struct Meet {
    pub clique: u64,
    pub rank: usize,
    pub device: usize,
    pub parts: Vec<Part>,
}

/// Devices that add up together.
pub struct Clique {
    pub devices: Vec<usize>,
    /// How many meetings each has come to.
    next: Vec<u64>,
    /// Those to which not all have come, by their number.
    open: HashMap<u64, Meeting>,
}

struct Meeting {
    /// The work that stands for each device's coming.
    coming: Vec<OpId>,
    came: Vec<Option<Arc<Meet>>>,
    sums: OpId,
}

impl Clique {
    pub fn new(devices: Vec<usize>) -> Clique {
        let next = vec![0; devices.len()];
        Clique { devices, next, open: HashMap::new() }
    }
}

fn new_op(state: &mut Held, device: usize, deps: Vec<OpId>, work: Work) -> OpId {
    state.next_op += 1;
    let id = state.next_op;
    state.ops.insert(id, Op { device, deps, work, running: false });
    id
}

/// A stream has come to a meeting: what follows in it waits for the sums, and these for all other devices.
pub fn come(state: &mut Held, stream: u64, meet: &Arc<Meet>) -> Answer {
    let (clique, rank) = (meet.clique, meet.rank);
    let known = state.cliques.get_mut(&clique).ok_or(Code::INVALID_HANDLE)?;
    let number = known.next[rank];
    known.next[rank] += 1;
    let devices = known.devices.clone();
    if !known.open.contains_key(&number) {
        let coming: Vec<OpId> = devices.iter().map(|&device| new_op(state, device, Vec::new(), Work::Absent)).collect();
        let sums = new_op(state, devices[0], coming.clone(), Work::Absent);
        let meeting = Meeting { coming, came: vec![None; devices.len()], sums };
        state.cliques.get_mut(&clique).ok_or(Code::INVALID_HANDLE)?.open.insert(number, meeting);
    }
    let known = state.cliques.get_mut(&clique).ok_or(Code::INVALID_HANDLE)?;
    let meeting = known.open.get_mut(&number).ok_or(Code::LAUNCH_FAILED)?;
    meeting.came[rank] = Some(meet.clone());
    let (own, sums) = (meeting.coming[rank], meeting.sums);
    let all: Option<Vec<Arc<Meet>>> = meeting.came.iter().cloned().collect();
    if all.is_some() {
        known.open.remove(&number);
    }
    let before = state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?.tail.clone();
    if let Some(op) = state.ops.get_mut(&own) {
        (op.deps, op.work) = (before, Work::Nothing);
    }
    let complete = all.is_some();
    if let (Some(all), Some(op)) = (all, state.ops.get_mut(&sums)) {
        op.work = Work::AddUp(Arc::new(all));
    }
    let left = new_op(state, meet.device, vec![sums], Work::Nothing);
    state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.tail = vec![left];
    if complete && options().order == Order::Eager {
        let all = everything(state);
        wait_for(state, &all);
    }
    Ok(())
}

/// Launches a graph in which devices meet: the pieces between the meetings are work of their own. Gives the last.
pub fn launch(state: &mut Held, stream: u64, nodes: &[Node], after: &[OpId]) -> Answer<Option<OpId>> {
    if state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?.capture.is_some() {
        return Err(Code::NOT_SUPPORTED);
    }
    enqueue(state, stream, Work::Nothing, after)?;
    let mut piece: Vec<usize> = Vec::new();
    for n in order(state, nodes) {
        let Work::Meet(meet) = &nodes[n].work else {
            piece.push(n);
            continue;
        };
        flush(state, stream, nodes, &mut piece)?;
        come(state, stream, meet)?;
    }
    flush(state, stream, nodes, &mut piece)?;
    Ok(state.streams[&stream].tail.first().copied())
}

fn flush(state: &mut Held, stream: u64, nodes: &[Node], piece: &mut Vec<usize>) -> Answer {
    if piece.is_empty() {
        return Ok(());
    }
    let place = |d: &usize| piece.iter().position(|p| p == d);
    let own = piece.iter().map(|&n| Node { work: nodes[n].work.clone(), deps: nodes[n].deps.iter().filter_map(place).collect() });
    let own: Vec<Node> = own.collect();
    piece.clear();
    enqueue(state, stream, Work::Graph(Arc::new(own)), &[]).map(drop)
}

/// All arrays of all devices, in the order of the ranks.
pub fn add_up(meets: &[Arc<Meet>]) -> Answer {
    let first = &meets[0].parts;
    let alike = |a: &Part, b: &Part| (a.count, a.element, a.largest) == (b.count, b.element, b.largest);
    if meets.iter().any(|m| m.parts.len() != first.len() || m.parts.iter().zip(first).any(|(a, b)| !alike(a, b))) {
        eprintln!("virtual GPU: devices add up arrays that are not alike");
        return Err(Code::LAUNCH_FAILED);
    }
    for (n, part) in first.iter().enumerate() {
        let bytes = part.count * part.element.bytes();
        let at = |meet: &Meet, address: u64| {
            // Each device reads and writes its own memory.
            host_of(address, bytes, 1 << meet.device).ok_or_else(|| {
                eprintln!("virtual GPU: {bytes} bytes at {address:#x} that are added up are no memory of device {}", meet.device);
                Code::ILLEGAL_ADDRESS
            })
        };
        if bytes == 0 {
            continue;
        }
        let mut arrays = Vec::new();
        for meet in meets {
            let from = at(meet, meet.parts[n].from)?;
            // SAFETY: checked.
            arrays.push(unsafe { std::slice::from_raw_parts(from, bytes as usize) }.to_vec());
        }
        let size = part.element.bytes() as usize;
        let mut result = Vec::with_capacity(bytes as usize);
        for k in (0..bytes as usize).step_by(size) {
            let elements: Vec<&[u8]> = arrays.iter().map(|a| &a[k..k + size]).collect();
            result.extend(combined(part, &elements));
        }
        for meet in meets {
            let to = at(meet, meet.parts[n].to)?;
            // SAFETY: checked.
            unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), to, result.len()) };
        }
    }
    Ok(())
}

fn combined(part: &Part, elements: &[&[u8]]) -> Vec<u8> {
    let bits = |e: &[u8]| e.iter().rev().fold(0u64, |all, b| all << 8 | u64::from(*b));
    let size = part.element.bytes() as usize;
    let all = elements.iter().map(|e| bits(e));
    let float = |from: fn(u64) -> f64, to: fn(f64) -> u64| -> u64 {
        let numbers = elements.iter().map(|e| from(bits(e)));
        // As each device would by itself: rounded at every addition.
        numbers.map(to).reduce(|a, b| if part.largest { to(from(a).max(from(b))) } else { to(from(a) + from(b)) }).unwrap_or(0)
    };
    let result = match part.element {
        Element::F32 => float(|b| f32::from_bits(b as u32).into(), |x| (x as f32).to_bits().into()),
        Element::F64 => float(f64::from_bits, f64::to_bits),
        Element::F16 => float(|b| F16.decode(b as _), |x| F16.encode(x, Round::Nearest, false)),
        Element::BF16 => float(|b| BF16.decode(b as _), |x| BF16.encode(x, Round::Nearest, false)),
        Element::I32 if part.largest => all.map(|b| b as u32 as i32).max().map_or(0, |x| x as u32 as u64),
        Element::I64 if part.largest => all.map(|b| b as i64).max().unwrap_or(0) as u64,
        Element::U8 | Element::U32 if part.largest => all.max().unwrap_or(0),
        Element::U8 | Element::I32 | Element::U32 | Element::I64 => all.fold(0, u64::wrapping_add),
    };
    result.to_le_bytes()[..size].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_combined_in_their_type() {
        let part = |element, largest| Part { from: 0, to: 0, count: 1, element, largest };
        let f = |x: f32| x.to_le_bytes();
        let sum = combined(&part(Element::F32, false), &[&f(1e8), &f(3.0), &f(3.0)]);
        assert_eq!(sum, (1e8f32 + 3.0 + 3.0).to_le_bytes());
        assert_eq!(combined(&part(Element::U8, false), &[&[250], &[10]]), [4]);
        assert_eq!(combined(&part(Element::I32, true), &[&(-5i32).to_le_bytes(), &(-7i32).to_le_bytes()]), (-5i32).to_le_bytes());
        assert_eq!(combined(&part(Element::BF16, false), &[&[0x80, 0x3F], &[0x80, 0x3F]]), [0x00, 0x40]);
    }
}
