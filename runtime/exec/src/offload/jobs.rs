//! A step's use of offloaded arrays, cut into chunks: which bytes are read, which passes of which kernel run on them, which bytes are written, and what waits for what.
//!
//! Chunks begin and end where passes of a kernel do, files are read and written in whole blocks. A block that two neighboring chunks share is written by the second
//! one only, which takes over the part that the first has computed ([`Window::carried`], [`Window::carries`]).

use super::disk::{BLOCK, SECTOR};
use optc_abi::offload::{Reach, Touch};
use optc_abi::plan::{Instr, Plan};
use std::collections::BTreeMap;

/// Bytes of one array in one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The plan's input.
    pub input: usize,
    /// First byte and end, from the start of the array.
    pub begin: u64,
    pub end: u64,
    /// Whole blocks that hold them.
    pub blocks: (u64, u64),
    /// Blocks to write back: fewer at the end if the last one goes on in the next chunk; none if the array is only read.
    pub written: (u64, u64),
    /// Where block `blocks.0` lies in the chunk's memory.
    pub at: usize,
    /// The first block begins with bytes that the chunk before has computed.
    pub carried: bool,
    /// The last block goes on in the next chunk.
    pub carries: bool,
}

/// Passes of one call of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which call of the instruction.
    pub call: usize,
    /// Its passes.
    pub begin: i64,
    pub end: i64,
    /// The windows it works on, of the job's.
    pub windows: std::ops::Range<usize>,
}

/// What is done at one time: a chunk, or a whole instruction that uses arrays in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Entry of [`Plan::offload`].
    pub touch: usize,
    /// What runs; empty for an instruction as a whole.
    pub parts: Vec<Part>,
    pub windows: Vec<Window>,
    /// Bytes of memory for the windows.
    pub bytes: usize,
    /// Nothing is read before this many jobs are done with all their writing.
    pub after: usize,
}

/// All jobs of a step in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Jobs {
    pub list: Vec<Job>,
    /// Jobs of each entry of [`Plan::offload`].
    pub of: Vec<std::ops::Range<usize>>,
    /// Bytes of the largest job.
    pub largest: usize,
    /// Bytes read and written through windows in a step.
    pub read: u64,
    pub written: u64,
}

fn down(x: u64) -> u64 {
    x / BLOCK as u64 * BLOCK as u64
}
fn up(x: u64) -> u64 {
    x.next_multiple_of(BLOCK as u64)
}

/// Bytes of an array that passes `begin..end` touch.
fn range(r: &Reach, begin: i64, end: i64, bytes: u64) -> (u64, u64) {
    // What a guarded load would reach beyond the array is not loaded.
    let clip = |x: i64| u64::try_from(x).unwrap_or(0).min(bytes);
    (clip(r.first + r.step * begin), clip(r.last + r.step * (end - 1)))
}

/// Cuts the step of a plan into chunks of about `chunk` bytes. `bytes` gives the size of an offloaded input.
pub(crate) fn cut(plan: &Plan, chunk: usize, bytes: &dyn Fn(usize) -> u64) -> Jobs {
    let mut jobs = Jobs::default();
    for (number, touch) in plan.offload.iter().enumerate() {
        let first = jobs.list.len();
        match chunks(plan, touch, number, chunk, bytes) {
            Some(mut list) => jobs.list.append(&mut list),
            None => jobs.list.push(Job { touch: number, ..Job::default() }),
        }
        jobs.of.push(first..jobs.list.len());
    }
    order(plan, &mut jobs.list, bytes);
    for window in jobs.list.iter().flat_map(|j| &j.windows) {
        jobs.read += window.blocks.1 - window.blocks.0;
        jobs.written += window.written.1 - window.written.0;
    }
    jobs.largest = jobs.list.iter().map(|j| j.bytes).max().unwrap_or(0);
    jobs
}

/// The chunks of a kernel instruction; none if one of its passes alone needs more memory than a chunk. Passes are independent: between which of them a chunk ends
/// changes nothing.
fn chunks(plan: &Plan, touch: &Touch, number: usize, chunk: usize, bytes: &dyn Fn(usize) -> u64) -> Option<Vec<Job>> {
    if touch.calls.is_empty() {
        return None;
    }
    let Instr::Kernel { calls, .. } = &plan.code[touch.position] else { return None };
    let mut list = Vec::new();
    let mut job = Job { touch: number, ..Job::default() };
    for (c, (call, reaches)) in calls.iter().zip(&touch.calls).enumerate() {
        let mut at = 0;
        while at < call.range {
            // As many passes as fit.
            let needs = |end: i64| -> usize { reaches.iter().map(|r| need(range(r, at, end, bytes(r.input)))).sum() };
            let one = needs(at + 1);
            if one > chunk {
                return None;
            }
            if job.bytes + one > chunk {
                list.push(std::mem::replace(&mut job, Job { touch: number, ..Job::default() }));
            }
            let (mut end, mut too_far) = (at + 1, call.range + 1);
            while too_far - end > 1 {
                let middle = end + (too_far - end) / 2;
                if job.bytes + needs(middle) <= chunk { end = middle } else { too_far = middle }
            }
            let first = job.windows.len();
            for (k, reach) in reaches.iter().enumerate() {
                let (begin, stop) = range(reach, at, end, bytes(reach.input));
                let blocks = (down(begin), up(stop.max(begin)));
                // Arrays that a loop walks through side by side must not begin at the same place of a page: a load would wait for an earlier store to such an address.
                let place = job.bytes + (k * SECTOR) % BLOCK;
                let written = if reach.writes { blocks } else { (blocks.0, blocks.0) };
                job.windows.push(Window {
                    input: reach.input,
                    begin,
                    end: stop,
                    blocks,
                    written,
                    at: place,
                    carried: false,
                    carries: false,
                });
                job.bytes += need((begin, stop));
            }
            job.parts.push(Part { call: c, begin: at, end, windows: first..job.windows.len() });
            at = end;
        }
    }
    if !job.parts.is_empty() {
        list.push(job);
    }
    carry(&mut list);
    Some(list)
}

/// Memory for a window, with room to begin at some place of a page.
fn need((begin, end): (u64, u64)) -> usize {
    (up(end.max(begin)) - down(begin)) as usize + BLOCK
}

/// Finds blocks that go on in the next window of an array.
fn carry(list: &mut [Job]) {
    // The last window of each array so far: job, position, end.
    let mut last: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for j in 0..list.len() {
        for w in 0..list[j].windows.len() {
            let Window { input, begin, written, .. } = list[j].windows[w];
            if written.0 == written.1 {
                continue;
            }
            if let Some(&(pj, pw)) = last.get(&input) {
                let before = &mut list[pj].windows[pw];
                if before.end == begin && !begin.is_multiple_of(BLOCK as u64) {
                    before.carries = true;
                    before.written.1 = down(before.end);
                    list[j].windows[w].carried = true;
                }
            }
            last.insert(input, (j, w));
        }
    }
}

/// Finds what each job has to wait for: writes, by jobs before it in the step, of blocks that it reads or writes.
fn order(plan: &Plan, list: &mut [Job], bytes: &dyn Fn(usize) -> u64) {
    // Latest writes of each array: begin -> (end, number of the job after).
    let mut writes: BTreeMap<usize, BTreeMap<u64, (u64, usize)>> = BTreeMap::new();
    for (j, job) in list.iter_mut().enumerate() {
        let mut uses: Vec<(usize, (u64, u64), (u64, u64))> = job.windows.iter().map(|w| (w.input, w.blocks, w.written)).collect();
        let touch = &plan.offload[job.touch];
        let whole = |input: usize| (0, up(bytes(input)));
        uses.extend(touch.anywhere.iter().map(|&(input, writes)| (input, whole(input), if writes { whole(input) } else { (0, 0) })));
        if job.parts.is_empty() {
            let reaches = touch.calls.iter().flatten();
            uses.extend(reaches.map(|r| (r.input, whole(r.input), if r.writes { whole(r.input) } else { (0, 0) })));
        }
        for &(input, (begin, end), _) in &uses {
            let Some(known) = writes.get(&input) else { continue };
            for (_, &(_, after)) in known.range(..end).rev().take_while(|(_, (e, _))| *e > begin) {
                job.after = job.after.max(after);
            }
        }
        for (input, _, (begin, end)) in uses {
            if begin == end {
                continue;
            }
            overwrite(writes.entry(input).or_default(), begin, end, j + 1);
        }
    }
}

/// Enters a write among disjoint ones.
fn overwrite(known: &mut BTreeMap<u64, (u64, usize)>, begin: u64, end: u64, after: usize) {
    let met: Vec<(u64, u64, usize)> =
        known.range(..end).rev().take_while(|(_, (e, _))| *e > begin).map(|(&b, &(e, after))| (b, e, after)).collect();
    for (b, e, older) in met {
        known.remove(&b);
        if b < begin {
            known.insert(b, (begin, older));
        }
        if e > end {
            known.insert(end, (e, older));
        }
    }
    known.insert(begin, (end, after));
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::{BufRef, KernelCall};

    fn plan(touches: Vec<Touch>, ranges: &[(i64, i64)]) -> Plan {
        let call = |&(range, grain): &(i64, i64)| KernelCall { buffers: vec![BufRef::whole(0)], sizes: vec![], range, grain };
        let calls: Vec<KernelCall> = ranges.iter().map(call).collect();
        let code = touches.iter().map(|_| Instr::Kernel { kernel: 0, calls: calls.clone() }).collect();
        Plan { code, offload: touches, ..Plan::default() }
    }

    fn reach(input: usize, writes: bool, step: i64) -> Reach {
        Reach { input, writes, first: 0, last: step, step }
    }

    #[test]
    fn chunks_cover_every_pass_once_and_every_written_byte_is_written_once() {
        // Rows of 1000 and 3000 bytes: no chunk ends at a block.
        let touch = Touch { instr: 0, position: 0, calls: vec![vec![reach(0, true, 1000), reach(1, false, 3000)]], anywhere: vec![] };
        let jobs = cut(&plan(vec![touch], &[(100, 3)]), 40_000, &|k| [100_000, 300_000][k]);
        let passes: Vec<i64> = jobs.list.iter().flat_map(|j| &j.parts).flat_map(|p| p.begin..p.end).collect();
        assert_eq!(passes, (0..100).collect::<Vec<_>>());
        assert!(jobs.list.len() > 5 && jobs.largest <= 40_000);
        let mut end = 0;
        for w in jobs.list.iter().flat_map(|j| &j.windows).filter(|w| w.input == 0) {
            assert_eq!(w.written.0, end, "writes meet without overlapping");
            end = w.written.1;
            assert_eq!(w.carried, w.begin % BLOCK as u64 != 0);
        }
        assert_eq!(end, up(100_000));
        assert!(jobs.list.iter().all(|j| j.after == 0), "neighbors do not wait for each other");
    }

    #[test]
    fn the_latest_writer_of_each_byte_is_known() {
        let mut known = BTreeMap::new();
        for (begin, end, after) in [(0, 100, 1), (10, 20, 2), (15, 30, 3), (90, 120, 4), (200, 210, 5)] {
            overwrite(&mut known, begin, end, after);
        }
        let all: Vec<_> = known.into_iter().map(|(b, (e, a))| (b, e, a)).collect();
        assert_eq!(all, [(0, 10, 1), (10, 15, 2), (15, 30, 3), (30, 90, 1), (90, 120, 4), (200, 210, 5)]);
    }

    #[test]
    fn a_second_pass_waits_for_the_writes_of_the_first_and_large_passes_run_whole() {
        let touch = |instr, writes| Touch { instr, position: instr, calls: vec![vec![reach(0, writes, 4096)]], anywhere: vec![] };
        let p = plan(vec![touch(0, true), touch(1, false)], &[(8, 1)]);
        let jobs = cut(&p, 12_288 + 100, &|_| 8 * 4096);
        assert_eq!(jobs.of, [0..4, 4..8]);
        assert_eq!(jobs.list.iter().map(|j| j.after).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2, 3, 4]);
        let whole = cut(&p, 4096, &|_| 8 * 4096);
        assert_eq!(whole.list.iter().map(|j| (j.parts.len(), j.after)).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    }
}
