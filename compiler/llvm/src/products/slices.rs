//! Slices of operands on their way to shared memory: `depth` columns of a tile's rows at a time, several of them under way while one is multiplied.

use super::WARP;
use super::source::{Part, Source};
use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, T, V};
use optc_abi::DType;

/// How elements get to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Asynchronous copies of 16 bytes.
    Chunks,
    /// Asynchronous copies of single elements.
    Words,
    /// Through registers.
    Registers,
}

/// An operand's slices in shared memory.
pub(crate) struct Slices<'s> {
    source: &'s Source,
    /// Type of elements there.
    held: DType,
    /// Rows of a tile, columns of a slice.
    rows: i64,
    depth: i64,
    how: How,
    /// Neighboring threads take neighboring columns.
    columns_run: bool,
    /// Columns lie together in shared memory, else rows do.
    pub(crate) columns_together: bool,
    /// Elements from one line there to the next: a few more than it has, so that threads meet different banks.
    pub(crate) line: i64,
    threads: i64,
    /// All columns of all slices are there.
    whole: bool,
    moves: Vec<Move>,
}

/// What a thread moves each time.
struct Move {
    row: Part,
    /// Number of the column within the slice, and how many more.
    column: (V, i64),
    /// Numbers of the row and of the column.
    at: [V; 2],
    /// Where there are more threads than elements: whether this one moves something.
    mine: Option<V>,
    /// Where a value waits in a register.
    waits: Option<V>,
}

/// What an operand's slices are like.
pub(crate) struct Form {
    pub(crate) held: DType,
    pub(crate) rows: i64,
    pub(crate) depth: i64,
    pub(crate) threads: i64,
    /// The operand's columns.
    pub(crate) columns: i64,
    /// Columns may lie together in shared memory; else rows do.
    pub(crate) either: bool,
    /// There are asynchronous copies.
    pub(crate) copies: bool,
}

impl<'s> Slices<'s> {
    pub(crate) fn new(source: &'s Source, f: &Form) -> Slices<'s> {
        let columns_run = source.columns_run();
        let columns_together = f.either && columns_run;
        let size = f.held.size() as i64;
        let width = 16 / size;
        let same = f.copies && source.dtype == f.held;
        let how = if same && columns_run == columns_together && source.in_chunks(columns_run, width) {
            How::Chunks
        } else if same && size >= 4 {
            How::Words
        } else {
            How::Registers
        };
        let line = if columns_together { f.depth } else { f.rows } + width;
        Slices {
            source,
            held: f.held,
            rows: f.rows,
            depth: f.depth,
            how,
            columns_run,
            columns_together,
            line,
            threads: f.threads,
            whole: f.columns % f.depth == 0,
            moves: Vec::new(),
        }
    }

    /// Type of elements in shared memory.
    pub(crate) fn held(&self) -> DType {
        self.held
    }

    /// Bytes of a slice in shared memory.
    pub(crate) fn bytes(&self) -> i64 {
        self.line * if self.columns_together { self.rows } else { self.depth } * self.held.size() as i64
    }

    /// Whether it is copied asynchronously.
    pub(crate) fn copied(&self) -> bool {
        self.how != How::Registers
    }

    /// Says what this thread moves; `first` is the tile's first row, `covered` whether all its rows are there.
    pub(crate) fn open(&mut self, e: &Emit, thread: V, first: V, covered: bool) {
        let i = &e.i;
        let width = if self.how == How::Chunks { 16 / self.held.size() as i64 } else { 1 };
        let (fast, slow) = if self.columns_run { (self.depth, self.rows) } else { (self.rows, self.depth) };
        let fast = fast / width;
        let each = (fast * slow + self.threads - 1) / self.threads;
        for n in 0..each {
            // Powers of two all of them, so that a thread's elements differ by constants.
            let (f, s) = if fast <= self.threads {
                let (f, s) = (i.op2(Opcode::LLVMURem, thread, i.i32(fast)), i.op2(Opcode::LLVMUDiv, thread, i.i32(fast)));
                ((f, 0), (s, n * (self.threads / fast)))
            } else {
                let rounds = fast / self.threads;
                ((thread, n % rounds * self.threads), (i.i32(0), n / rounds))
            };
            let f = if width > 1 { (i.times(f.0, i.i32(width)), f.1 * width) } else { f };
            let (row, column) = if self.columns_run { (s, f) } else { (f, s) };
            let mine = (fast * slow < self.threads).then(|| i.icmp(IntCC::LLVMIntULT, thread, i.i32(fast * slow)));
            let part = self.source.part(e, false, i.add_up(first, row.0), row.1, covered);
            let waits = (!self.copied()).then(|| i.stack(self.waiting(e), 8));
            let at = [row, column].map(|(x, n)| i.add_up(x, i.i32(n)));
            self.moves.push(Move { row: part, column, at, mine, waits });
        }
    }

    /// Address of an element of a slice in shared memory.
    pub(crate) fn place(&self, e: &Emit, slice: V, row: V, column: V) -> V {
        let i = &e.i;
        let (line, within) = if self.columns_together { (row, column) } else { (column, row) };
        let at = i.add_up(i.times(line, i.i32(self.line)), within);
        i.element(e.memory_type(self.held), slice, i.cast(Opcode::LLVMZExt, at, i.int_type(64)))
    }

    /// Begins to move slice `number`.
    pub(crate) fn begin(&self, e: &mut Emit, base: V, number: V, slice: V) {
        let first = e.i.times(number, e.i.i32(self.depth));
        for m in &self.moves {
            let column = self.source.part(e, true, e.i.add_up(first, m.column.0), m.column.1, self.whole);
            let (from, real) = self.source.element(e, base, &m.row, &column);
            let bytes = if self.how == How::Chunks { 16 } else { self.held.size() as i64 };
            if let Some(waits) = m.waits {
                let load = |e: &mut Emit| {
                    let x = self.fetch(e, from, real);
                    e.i.store(x, waits, 8);
                };
                match m.mine {
                    Some(mine) => e.when(mine, load),
                    None => load(e),
                }
                continue;
            }
            let to = self.place(e, slice, m.at[0], m.at[1]);
            match m.mine {
                Some(mine) => e.when(mine, |e| e.copy_async(to, from, bytes, real)),
                None => e.copy_async(to, from, bytes, real),
            }
        }
    }

    /// The type of what waits in registers: memory's where that is what shared memory holds.
    fn waiting(&self, e: &Emit) -> T {
        if self.source.dtype == self.held { e.memory_type(self.held) } else { e.i.scalar(self.held) }
    }

    /// An element on its way through registers.
    fn fetch(&self, e: &Emit, from: V, real: Option<V>) -> V {
        let dtype = self.source.dtype;
        e.noted_read(from, dtype.size() as i64);
        let x = e.i.load(e.memory_type(dtype), from, dtype.size() as u32);
        e.i.invariant(x);
        let x = if dtype == self.held { x } else { e.widen(dtype, x) };
        match real {
            Some(real) => e.i.select(real, x, e.i.null(e.i.type_of(x))),
            None => x,
        }
    }

    /// Puts what waits in registers to its place.
    pub(crate) fn finish(&self, e: &mut Emit, slice: V) {
        for m in &self.moves {
            let Some(waits) = m.waits else { continue };
            let to = self.place(e, slice, m.at[0], m.at[1]);
            let put = |e: &mut Emit| {
                let x = e.i.load(self.waiting(e), waits, 8);
                e.noted_write(to, self.held.size() as i64);
                e.i.store(x, to, self.held.size() as u32);
            };
            match m.mine {
                Some(mine) => e.when(mine, put),
                None => put(e),
            }
        }
    }
}

/// A loop over slices with those of the next passes under way.
pub(crate) struct Flow<'f> {
    pub(crate) operands: [(&'f Slices<'f>, V); 2],
    /// Slices of each operand in shared memory.
    pub(crate) stages: i64,
    pub(crate) shared: V,
    /// The first slice, and the one after the last.
    pub(crate) range: (V, V),
}

impl Flow<'_> {
    /// Bytes of shared memory.
    pub(crate) fn bytes(operands: [&Slices<'_>; 2], stages: i64) -> i64 {
        stages * (operands[0].bytes() + operands[1].bytes())
    }

    /// Where the slices of a stage are.
    fn stage(&self, e: &Emit, number: V) -> [V; 2] {
        let i = &e.i;
        let sizes = self.operands.map(|o| o.0.bytes());
        let at = i.mul(i.cast(Opcode::LLVMZExt, number, i.int_type(64)), i.i64(sizes[0] + sizes[1]));
        let first = i.element(i.int_type(8), self.shared, at);
        [first, i.element(i.int_type(8), first, i.i64(sizes[0]))]
    }

    fn begin(&self, e: &mut Emit, number: V, stage: [V; 2]) {
        for ((slices, base), slice) in self.operands.iter().zip(stage) {
            slices.begin(e, *base, number, slice);
        }
    }

    fn finish(&self, e: &mut Emit, stage: [V; 2]) {
        for ((slices, _), slice) in self.operands.iter().zip(stage) {
            slices.finish(e, slice);
        }
    }

    /// Runs `multiply` on every slice of both operands, with its number, in order.
    pub(crate) fn run(&self, e: &mut Emit, mut multiply: impl FnMut(&mut Emit, V, [V; 2])) {
        let (from, to) = self.range;
        let word = e.i.int_type(32);
        let copied = self.operands.iter().any(|o| o.0.copied());
        for ahead in 0..self.stages - 1 {
            let number = e.i.add(from, e.i.i32(ahead));
            let there = e.i.icmp(IntCC::LLVMIntSLT, number, to);
            e.when(there, |e| {
                let stage = self.stage(e, e.i.i32(ahead));
                self.begin(e, number, stage);
                self.finish(e, stage);
            });
            if copied {
                e.end_copies();
            }
        }
        let (reads, writes) = (e.i.stack(word, 4), e.i.stack(word, 4));
        e.i.store(e.i.i32(0), reads, 4);
        e.i.store(e.i.i32(self.stages - 1), writes, 4);
        let one = e.i.i32(1);
        e.looped(from, to, one, |e, number| {
            if copied {
                e.wait_copies(self.stages - 2);
            }
            // All of this slice has come, and nobody reads the one before any more.
            e.block_barrier();
            let (r, w) = (e.i.load(word, reads, 4), e.i.load(word, writes, 4));
            let (here, there) = (self.stage(e, r), self.stage(e, w));
            let ahead = e.i.add(number, e.i.i32(self.stages - 1));
            let more = e.i.icmp(IntCC::LLVMIntSLT, ahead, to);
            e.when(more, |e| self.begin(e, ahead, there));
            if copied {
                e.end_copies();
            }
            multiply(e, number, here);
            e.when(more, |e| self.finish(e, there));
            for (slot, x) in [(reads, r), (writes, w)] {
                let next = e.i.add(x, e.i.i32(1));
                let last = e.i.icmp(IntCC::LLVMIntEQ, next, e.i.i32(self.stages));
                e.i.store(e.i.select(last, e.i.i32(0), next), slot, 4);
            }
        });
    }
}

/// The number of the thread's warp and its lane there.
pub(crate) fn warp_and_lane(e: &Emit, thread: V) -> (V, V) {
    (e.i.op2(Opcode::LLVMUDiv, thread, e.i.i32(WARP)), e.i.op2(Opcode::LLVMURem, thread, e.i.i32(WARP)))
}
