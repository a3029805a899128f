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
            if let Trip::Run(count) = trip {
                visit(count);
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

/// Offsets of all arena buffers and the arena's size. Buffers never used get none.
pub(crate) fn place(store: &Store, code: &mut [Instr]) -> (Vec<Option<usize>>, usize) {
    let mut lives = Lives { store, spans: vec![None; store.buffers.len()], time: 0, loops: Vec::new() };
    lives.code(code);
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (buffer, span) in lives.spans.iter().enumerate() {
        if let (Some(span), None) = (span, store.buffers[buffer].place) {
            starts.push((span.0, buffer));
        }
    }
    // Longer-lived and larger first among those that start together, so that they settle at the bottom.
    let size = |b: usize| aligned((store.buffers[b].len * store.buffers[b].dtype.size()).max(1));
    starts.sort_unstable_by_key(|&(start, b)| (start, std::cmp::Reverse(size(b)), b));
    let mut offsets = vec![None; store.buffers.len()];
    let mut free: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ends: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut top = 0;
    for (start, buffer) in starts {
        while let Some((&end, _)) = ends.first_key_value().filter(|(end, _)| **end < start) {
            for gone in ends.remove(&end).into_iter().flatten() {
                let offset: usize = offsets[gone].expect("placed before it ends");
                release(&mut free, offset, size(gone));
            }
        }
        let wanted = size(buffer);
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
        let (_, end) = lives.spans[buffer].expect("a used buffer");
        ends.entry(end).or_default().push(buffer);
    }
    (offsets, top)
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
