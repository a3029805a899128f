//! Static memory: when each buffer is alive, and its place in the arena.

use crate::block::aligned;
use crate::store::Store;
use optc_abi::plan::{BufRef, Instr, LoopId, Trip};
use std::collections::BTreeMap;

/// Calls `visit` on every memory reference of an instruction, not of those inside it.
pub(crate) fn references<'a>(instr: &'a mut Instr, visit: &mut dyn FnMut(&'a mut BufRef)) {
    match instr {
        Instr::Kernel { calls, .. } => calls.iter_mut().flat_map(|c| &mut c.buffers).for_each(visit),
        Instr::Gemm(g) => {
            visit(&mut g.a.data);
            visit(&mut g.b.data);
            visit(&mut g.c.data);
        }
        Instr::Conv(c) => {
            visit(&mut c.lhs);
            visit(&mut c.rhs);
            visit(&mut c.out);
            visit(&mut c.scratch);
        }
        Instr::Copy { src, dst, .. } => {
            visit(src);
            visit(dst);
        }
        Instr::Lib { buffers, .. } => buffers.iter_mut().for_each(visit),
        Instr::Loop { trip, counter, .. } => {
            visit(counter);
            match trip {
                Trip::Const(_) => {}
                Trip::Run(count) => visit(count),
                Trip::While { go, most } => {
                    visit(go);
                    visit(most);
                }
            }
        }
        Instr::Cond { pred, .. } => visit(pred),
        Instr::Guard { value, .. } => visit(value),
    }
}

/// Replaces every reference by the memory it means, and drops copies of a place to itself.
pub(crate) fn resolve(store: &Store, code: &mut Vec<Instr>) {
    for instr in code.iter_mut() {
        references(instr, &mut |place| *place = store.resolve(place));
        match instr {
            Instr::Loop { body, .. } => resolve(store, body),
            Instr::Cond { then, otherwise, .. } => {
                resolve(store, then);
                resolve(store, otherwise);
            }
            _ => {}
        }
    }
    code.retain(|instr| !matches!(instr, Instr::Copy { src, dst, bytes } if src == dst || *bytes == 0));
}

/// First and last time of use.
struct Lives<'a> {
    store: &'a Store,
    spans: Vec<Option<(usize, usize)>>,
    time: usize,
    /// Open loops with the buffers used in them so far, outermost first.
    loops: Vec<(LoopId, usize, Vec<usize>)>,
}

impl Lives<'_> {
    fn touch(&mut self, buffer: usize) {
        let at = self.time;
        let span = self.spans[buffer].get_or_insert((at, at));
        span.1 = at;
        // What lives outside a loop and is used inside lives until the loop's end.
        let within = self.store.buffers[buffer].within;
        let outside = match within.and_then(|l| self.loops.iter().position(|o| o.0 == l)) {
            Some(inner) => inner + 1,
            None => 0,
        };
        if let Some(open) = self.loops.get_mut(outside) {
            span.0 = span.0.min(open.1);
            open.2.push(buffer);
        }
    }

    fn code(&mut self, code: &mut [Instr]) {
        for instr in code {
            self.time += 1;
            let mut used = Vec::new();
            references(instr, &mut |place| used.push(place.buffer));
            used.into_iter().for_each(|b| self.touch(b));
            match instr {
                Instr::Loop { id, body, counter, .. } => {
                    let counter = counter.buffer;
                    self.loops.push((*id, self.time, vec![counter]));
                    self.code(body);
                    self.time += 1;
                    let (_, _, used) = self.loops.pop().expect("pushed above");
                    for buffer in used {
                        if let Some(span) = &mut self.spans[buffer] {
                            span.1 = span.1.max(self.time);
                        }
                    }
                }
                Instr::Cond { then, otherwise, .. } => {
                    self.code(then);
                    self.code(otherwise);
                }
                _ => {}
            }
        }
    }
}

/// A buffer in need of a place.
#[derive(Clone, Copy, Debug)]
struct Item {
    buffer: usize,
    /// First and last time of use.
    span: (usize, usize),
    size: usize,
}

/// Bytes from which a buffer is placed with an eye on all others.
const LARGE: usize = 1 << 16;
/// Most buffers placed so: the effort grows with the square of their number.
const MOST_LARGE: usize = 1 << 11;

/// Offsets of all arena buffers and the arena's size. Buffers never used get none.
pub(crate) fn place(store: &Store, code: &mut [Instr]) -> (Vec<Option<usize>>, usize) {
    let mut lives = Lives { store, spans: vec![None; store.buffers.len()], time: 0, loops: Vec::new() };
    lives.code(code);
    let mut items: Vec<Item> = Vec::new();
    for (buffer, span) in lives.spans.iter().enumerate() {
        if let (Some(span), None) = (*span, store.buffers[buffer].place) {
            let size = aligned((store.buffers[buffer].len * store.buffers[buffer].dtype.size()).max(1));
            items.push(Item { buffer, span, size });
        }
    }
    let mut offsets = vec![None; store.buffers.len()];
    let top = sweep(&items, 0, &mut offsets);
    let (large, small): (Vec<Item>, Vec<Item>) = items.iter().copied().partition(|i| i.size >= LARGE);
    if large.is_empty() || large.len() > MOST_LARGE {
        return (offsets, top);
    }
    let mut other = vec![None; store.buffers.len()];
    let below = by_size(large, &mut other);
    let other_top = sweep(&small, below, &mut other);
    if other_top < top { (other, other_top) } else { (offsets, top) }
}

/// Places the largest first, each in the tightest gap between those alive at the same time, else at the lowest place above them. Returns the end.
fn by_size(mut items: Vec<Item>, offsets: &mut [Option<usize>]) -> usize {
    items.sort_unstable_by_key(|i| (std::cmp::Reverse(i.size), i.span, i.buffer));
    // In the order of offsets.
    let mut placed: Vec<(usize, Item)> = Vec::with_capacity(items.len());
    let mut top = 0;
    for item in items {
        let (mut at, mut best) = (0, None);
        for &(offset, other) in placed.iter().filter(|(_, o)| o.span.0 <= item.span.1 && item.span.0 <= o.span.1) {
            if offset >= at + item.size && best.is_none_or(|(gap, _)| offset - at < gap) {
                best = Some((offset - at, at));
            }
            at = at.max(offset + other.size);
        }
        let offset = best.map_or(at, |(_, offset)| offset);
        offsets[item.buffer] = Some(offset);
        top = top.max(offset + item.size);
        placed.insert(placed.partition_point(|p| p.0 <= offset), (offset, item));
    }
    top
}

/// Places buffers from `bottom` on in the order in which they come to life, each in the tightest gap. Returns the end.
fn sweep(items: &[Item], bottom: usize, offsets: &mut [Option<usize>]) -> usize {
    let mut starts = items.to_vec();
    // Larger first among those that start together, so that they settle at the bottom.
    starts.sort_unstable_by_key(|i| (i.span.0, std::cmp::Reverse(i.size), i.buffer));
    let mut free: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ends: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    let mut top = bottom;
    for Item { buffer, span, size: wanted } in starts {
        while let Some((&end, _)) = ends.first_key_value().filter(|(end, _)| **end < span.0) {
            for (offset, size) in ends.remove(&end).into_iter().flatten() {
                release(&mut free, offset, size);
            }
        }
        let best = free.iter().filter(|(_, len)| **len >= wanted).min_by_key(|(offset, len)| (**len, **offset)).map(|(o, l)| (*o, *l));
        let offset = match best {
            Some((offset, len)) => {
                free.remove(&offset);
                if len > wanted {
                    free.insert(offset + wanted, len - wanted);
                }
                offset
            }
            None => {
                // Grow from the last gap if it touches the end.
                let offset = match free.last_key_value().map(|(o, l)| (*o, *l)) {
                    Some((o, l)) if o + l == top => {
                        free.remove(&o);
                        o
                    }
                    _ => top,
                };
                top = offset + wanted;
                offset
            }
        };
        offsets[buffer] = Some(offset);
        ends.entry(span.1).or_default().push((offset, wanted));
    }
    top
}

/// Returns a gap, united with its neighbors.
fn release(free: &mut BTreeMap<usize, usize>, mut offset: usize, mut len: usize) {
    if let Some((&o, &l)) = free.range(..offset).next_back()
        && o + l == offset
    {
        free.remove(&o);
        (offset, len) = (o, len + l);
    }
    if let Some(l) = free.remove(&(offset + len)) {
        len += l;
    }
    free.insert(offset, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(list: &[(usize, usize, usize)]) -> Vec<Item> {
        list.iter().enumerate().map(|(buffer, &(first, last, size))| Item { buffer, span: (first, last), size }).collect()
    }

    fn apart(items: &[Item], offsets: &[Option<usize>]) {
        for (k, a) in items.iter().enumerate() {
            for b in &items[..k] {
                let (x, y) = (offsets[a.buffer].unwrap(), offsets[b.buffer].unwrap());
                let together = a.span.0 <= b.span.1 && b.span.0 <= a.span.1;
                assert!(!together || x + a.size <= y || y + b.size <= x, "{a:?} at {x} and {b:?} at {y}");
            }
        }
    }

    #[test]
    fn what_lives_together_lies_apart() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % n) as usize
        };
        for _ in 0..50 {
            let list: Vec<_> = (0..40)
                .map(|_| {
                    let start = next(30);
                    (start, start + next(12), 64 * (1 + next(20)))
                })
                .collect();
            let items = items(&list);
            let live = |t: usize| items.iter().filter(|i| i.span.0 <= t && t <= i.span.1).map(|i| i.size).sum::<usize>();
            let least = (0..42).map(live).max().unwrap();
            let mut offsets = vec![None; items.len()];
            let top = by_size(items.clone(), &mut offsets);
            apart(&items, &offsets);
            assert!(top >= least && top <= least * 3 / 2, "{top} for {least}");
            let top = sweep(&items, 64, &mut offsets);
            apart(&items, &offsets);
            assert!(top >= least + 64 && offsets.iter().all(|o| o.unwrap() >= 64));
        }
    }

    #[test]
    fn a_long_lived_small_buffer_does_not_split_the_place_of_a_large_one() {
        // In order of time the second settles above the first, and the third finds no gap; by size it takes the place of the first.
        let items = items(&[(0, 1, 100), (1, 9, 10), (2, 9, 105)]);
        let mut offsets = vec![None; 3];
        assert_eq!(sweep(&items, 0, &mut offsets), 215);
        assert_eq!(by_size(items.clone(), &mut offsets), 115);
        apart(&items, &offsets);
    }
}
