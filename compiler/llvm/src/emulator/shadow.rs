//! What is remembered of accesses to memory, and whether two of them are ordered.
//!
//! A record says who touched a place when: the interval between two barriers (numbered through the whole launch, block after block, so that the number alone tells whether it was in this
//! block), the thread, and how many synchronizations its warp has had in the interval. Of each place the last write is kept and up to two reads. Two suffice: reads of two warps, of two threads of a warp with
//! no synchronization between, or of another block each leave no thread that could write without racing one of them; and a read of a thread after which its warp has synchronized stands for those before.
//! A write that is ordered after all reads stands for them. So every place where two unordered accesses meet, one of them a write, is found, whatever the order in which threads ran.

use rustc_hash::FxHashMap;

/// Bits of a record for synchronizations of a warp within an interval; counted modulo their number.
const SYNC_BITS: u32 = 22;
/// Bits of a record for the thread: a block has at most 1024.
const THREAD_BITS: u32 = 10;

/// Who touched a place when; 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(u64);

impl Record {
    const NONE: Record = Record(0);

    /// `interval` counts from 1.
    pub(super) fn new(interval: u32, thread: u32, syncs: u32) -> Record {
        let syncs = u64::from(syncs & ((1 << SYNC_BITS) - 1));
        Record(u64::from(interval) << 32 | u64::from(thread) << SYNC_BITS | syncs)
    }
    pub(super) fn interval(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub(super) fn thread(self) -> u32 {
        (self.0 >> SYNC_BITS) as u32 & ((1 << THREAD_BITS) - 1)
    }
    fn warp(self) -> u32 {
        self.thread() / super::WARP
    }
    fn syncs(self) -> u32 {
        self.0 as u32 & ((1 << SYNC_BITS) - 1)
    }
}

/// What is remembered of a place: four bytes, or one where accesses are not whole words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    write: Record,
    reads: [Record; 2],
}

const EMPTY: Cell = Cell { write: Record::NONE, reads: [Record::NONE; 2] };

/// An access under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) me: Record,
    /// The first interval of this block.
    pub(super) first: u32,
    /// Memory of a block alone, whose earlier users are of no concern.
    pub(super) shared: bool,
    pub(super) write: bool,
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No order between it and that of a record, which was a write or a read.
    Race { other: Record, wrote: bool },
    /// Nothing has been written there.
    Unwritten,
}

impl Access {
    fn ordered(&self, r: Record) -> bool {
        if r.interval() != self.me.interval() {
            return self.shared || r.interval() >= self.first || r == Record::NONE;
        }
        r.thread() == self.me.thread() || (r.warp() == self.me.warp() && r.syncs() != self.me.syncs())
    }

    fn of_this_block(&self, r: Record) -> bool {
        r.interval() >= self.first
    }

    /// Looks at a cell and leaves the access there.
    fn touch(&self, cell: &mut Cell) -> Option<Trouble> {
        let mut trouble = None;
        if !self.ordered(cell.write) {
            trouble = Some(Trouble::Race { other: cell.write, wrote: true });
        }
        if self.write {
            for r in cell.reads {
                if trouble.is_none() && !self.ordered(r) {
                    trouble = Some(Trouble::Race { other: r, wrote: false });
                }
            }
            *cell = Cell { write: self.me, ..EMPTY };
        } else {
            if self.shared && !self.of_this_block(cell.write) {
                trouble = Some(Trouble::Unwritten);
            }
            self.remember_read(&mut cell.reads);
        }
        trouble
    }

    fn remember_read(&self, reads: &mut [Record; 2]) {
        let (me, [a, b]) = (self.me, *reads);
        if a == me {
            return;
        }
        // A read of another block races every write there may still be.
        if a != Record::NONE && !self.shared && !self.of_this_block(a) {
            return;
        }
        let alone = [me, Record::NONE];
        *reads = if a.interval() != me.interval() {
            alone
        } else if a.warp() == me.warp() {
            match (b == Record::NONE || b.warp() == a.warp(), a.syncs() == me.syncs()) {
                (true, false) => alone,
                (true, true) if b == Record::NONE => [a, me],
                _ => return,
            }
        } else if b == Record::NONE || b.warp() == a.warp() {
            [a, me]
        } else {
            return;
        };
    }
}

/// Cells of a stretch of memory, by words until an access is to less than a word.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    cells: Vec<Cell>,
    words: bool,
}

impl Stretch {
    pub(super) fn new(bytes: usize) -> Stretch {
        Stretch { cells: vec![EMPTY; bytes.div_ceil(4)], words: true }
    }

    /// Bytes `from..to`; the first trouble with the byte where it is.
    pub(super) fn touch(&mut self, from: usize, to: usize, access: &Access) -> Option<(usize, Trouble)> {
        if self.words && !(from | to).is_multiple_of(4) {
            self.cells = self.cells.iter().flat_map(|&c| [c; 4]).collect();
            self.words = false;
        }
        let step = if self.words { 4 } else { 1 };
        let mut first = None;
        for (n, cell) in self.cells[from / step..to / step].iter_mut().enumerate() {
            let trouble = access.touch(cell);
            if first.is_none()
                && let Some(trouble) = trouble
            {
                first = Some((from + n * step, trouble));
            }
        }
        first
    }
}

const PAGE: usize = 4096;
const RECENT: usize = 64;
/// Pages that are kept for the next launch.
const SPARE: usize = 1024;

/// Cells of all memory, by pages.
pub(super) struct Shadow {
    places: FxHashMap<usize, usize>,
    pages: Vec<Stretch>,
    spare: Vec<Stretch>,
    recent: [(usize, usize); RECENT],
}

impl Default for Shadow {
    fn default() -> Shadow {
        Shadow { places: FxHashMap::default(), pages: Vec::new(), spare: Vec::new(), recent: [(usize::MAX, 0); RECENT] }
    }
}

impl Shadow {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.recent = [(usize::MAX, 0); RECENT];
        let room = SPARE.saturating_sub(self.spare.len());
        self.spare.extend(self.pages.drain(..).filter(|p| p.words).take(room));
        self.pages.clear();
    }

    fn page(&mut self, number: usize) -> &mut Stretch {
        // Arrays often lie at the same place within large blocks of memory, so the number alone would collide.
        let slot = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) % RECENT;
        if self.recent[slot].0 != number {
            let place = *self.places.entry(number).or_insert_with(|| {
                let page = self.spare.pop().map_or_else(
                    || Stretch::new(PAGE),
                    |mut page| {
                        page.cells.fill(EMPTY);
                        page
                    },
                );
                self.pages.push(page);
                self.pages.len() - 1
            });
            self.recent[slot] = (number, place);
        }
        &mut self.pages[self.recent[slot].1]
    }

    /// Bytes from an address on; the first trouble with the address where it is.
    pub(super) fn touch(&mut self, address: usize, bytes: usize, access: &Access) -> Option<(usize, Trouble)> {
        let (mut from, end) = (address, address + bytes);
        let mut first = None;
        while from < end {
            let number = from / PAGE;
            let to = end.min((number + 1) * PAGE);
            let found = self.page(number).touch(from - number * PAGE, to - number * PAGE, access);
            first = first.or(found.map(|(at, trouble)| (number * PAGE + at, trouble)));
            from = to;
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shadow says against all pairs of accesses, over random programs of one place.
    #[test]
    fn the_shadow_agrees_with_all_pairs() {
        let mut seed = 9u64;
        let mut draw = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut racing = 0;
        for case in 0..20_000 {
            let shared = case % 2 == 0;
            let writes = 1 + draw(12);
            let mut place = Stretch::new(4);
            let mut past: Vec<(u64, u32, u64, u64, bool)> = Vec::new();
            let (mut block, mut interval, mut first, mut syncs) = (0u64, 1u32, 1u32, [0u64; 2]);
            let mut found = false;
            let mut wanted = false;
            for _ in 0..10 {
                match draw(10) {
                    0 => (block, interval, first, syncs) = (block + 1, interval + 1, interval + 1, [0; 2]),
                    1 => (interval, syncs) = (interval + 1, [0; 2]),
                    2 | 3 => syncs[draw(2) as usize] += 1,
                    _ => {
                        let thread = draw(3) + 32 * draw(2);
                        let warp = thread / 32;
                        let write = draw(12) < writes && draw(3) == 0;
                        let me = Record::new(interval, thread as u32, syncs[warp as usize] as u32);
                        let trouble = place.touch(0, 4, &Access { me, first, shared, write });
                        found |= matches!(trouble, Some((0, Trouble::Race { .. })));
                        let unordered = |&(b, i, t, s, w): &(u64, u32, u64, u64, bool)| {
                            let ordered = if b != block {
                                shared
                            } else {
                                i != interval || t == thread || (t / 32 == warp && s != syncs[warp as usize])
                            };
                            !ordered && (w || write)
                        };
                        wanted |= past.iter().any(unordered);
                        past.push((block, interval, thread, syncs[warp as usize], write));
                        assert_eq!(found, wanted, "case {case}: {past:?}");
                        if found {
                            racing += 1;
                            break;
                        }
                    }
                }
            }
        }
        assert!((2_000..18_000).contains(&racing), "{racing} of the programs race");
    }
}
