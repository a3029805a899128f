//! Loops over rows shorter than a register: sixteen rows go side by side, a lane for each, instead of a few elements of one row after the other. Softmax over ten classes is one.
//!
//! Where the rows lie one behind the other, registers take four neighboring elements of each of several rows, and shuffles make columns of them and rows again. What is written is kept
//! until the end of the pass, so that what is written twice is stored once, and what is read again is not loaded.

use super::asm;
use super::program::{Inst, Kind, Place, Program, V};
use super::select::{Constants, Narrow, Selector, literal_bits};
use crate::hoist::Node;
use optc_abi::DType;
use optc_ir::kernel::{AccId, AccOp, AxisId, BufferId, Expr, Extent, Index, Kernel, LANES, LOCAL, LoopKind, Stmt, combine_op, identity};
use rustc_hash::FxHashMap;

/// Elements of a row: shorter ones are not worth the shuffles, longer ones fill registers of their own.
const LENGTHS: std::ops::RangeInclusive<i64> = 4..=24;
/// Statements of a pass, at most: the code grows with them.
const MOST_STATEMENTS: i64 = 1000;
/// Neighboring elements that are moved at once.
const PIECE: i64 = 4;

/// The part of a row that the loop reads or writes in a buffer.
struct Segment {
    buffer: BufferId,
    /// Where rows begin: the index without the inner axis, whose offset is that of the first column.
    base: Index,
    /// Columns.
    columns: i64,
    /// Elements from row to row; 0 of a local array, which has no memory here.
    stride: i64,
    pointer: usize,
    written: bool,
    /// The columns as they are, of the group under way.
    values: Vec<Option<V>>,
    /// Columns that memory has otherwise.
    changed: Vec<bool>,
}

/// An accumulator of each row.
struct RowAcc {
    /// Its value before the loop at hand.
    before: V,
    /// The virtual lanes of a vector loop, as far as they were reached.
    lanes: [Option<V>; LANES],
}

/// What a selection over rows knows beside that of one loop.
#[derive(Default)]
pub(super) struct Rows {
    /// Whether the loop begins at the first row: positions are counted from there.
    pub(super) whole: bool,
    /// The loop under way within the row, and its position.
    inner: Option<(AxisId, i64)>,
    segments: Vec<Segment>,
    accs: FxHashMap<AccId, RowAcc>,
}

/// An access of the body: buffer, index, the axis within the row with its length, and whether it writes.
struct Reach<'k> {
    buffer: BufferId,
    index: &'k Index,
    inner: Option<(AxisId, i64)>,
    writes: bool,
}

/// The program of a loop over rows with this body, on registers of this many lanes; its pointers keep the loop's axis, which stands at the first row of the loop. `whole`: that is the first of all.
///
/// # Errors
/// If some part has no such form, or rows may depend on each other.
pub(crate) fn rows<'k>(
    width: usize,
    kernel: &'k Kernel,
    dtypes: &'k [DType],
    constants: &'k Constants,
    axis: AxisId,
    whole: bool,
    body: &[Node],
) -> Result<Program, Narrow> {
    let mut reaches = Vec::new();
    shape(body, &mut reaches)?;
    let mut s = Selector::new(width, kernel, dtypes, constants, axis, None);
    let mut rows = Rows { whole, segments: segments(&s, &reaches)?, ..Rows::default() };
    for segment in rows.segments.iter_mut().filter(|s| s.stride > 0) {
        segment.pointer = s.program.pointers.len();
        s.program.pointers.push((segment.buffer, Index { offset: 0, ..segment.base.clone() }));
        s.program.steps.push(i32::try_from(segment.stride * LANES as i64 * 4).map_err(|_| Narrow)?);
    }
    s.rows = Some(rows);
    private(kernel, axis, body)?;
    for group in 0..s.program.groups() {
        s.group = group;
        s.forget();
        for node in body {
            match node {
                Node::Leaf(stmt) => s.stmt(stmt)?,
                Node::For { axis, extent: Extent::Const(n), before, body, .. } => {
                    before.iter().try_for_each(|stmt| s.stmt(stmt))?;
                    for k in 0..*n {
                        s.at(Some((*axis, k)));
                        for node in body {
                            let Node::Leaf(stmt) = node else { return Err(Narrow) };
                            s.stmt(stmt)?;
                        }
                    }
                    s.at(None);
                    s.close_row_accs()?;
                }
                Node::For { .. } => return Err(Narrow),
            }
        }
        s.store_rows()?;
    }
    s.finish()
}

/// Whether the body is plain statements and vector loops of short known lengths, and what it reaches.
fn shape<'k>(body: &'k [Node], reaches: &mut Vec<Reach<'k>>) -> Result<(), Narrow> {
    let (mut statements, mut loops) = (0, 0);
    for node in body {
        match node {
            Node::Leaf(stmt) => {
                statements += 1;
                reach(stmt, None, reaches)?;
            }
            Node::For { axis, extent: Extent::Const(n), kind: LoopKind::Vector, before, body } => {
                if !(1..=*LENGTHS.end()).contains(n) {
                    return Err(Narrow);
                }
                loops += i64::from(LENGTHS.contains(n));
                statements += n * body.len() as i64 + before.len() as i64;
                before.iter().try_for_each(|stmt| reach(stmt, None, reaches))?;
                for node in body {
                    let Node::Leaf(stmt) = node else { return Err(Narrow) };
                    reach(stmt, Some((*axis, *n)), reaches)?;
                }
            }
            Node::For { .. } => return Err(Narrow),
        }
    }
    if loops > 0 && statements <= MOST_STATEMENTS { Ok(()) } else { Err(Narrow) }
}

fn reach<'k>(stmt: &'k Stmt, inner: Option<(AxisId, i64)>, reaches: &mut Vec<Reach<'k>>) -> Result<(), Narrow> {
    match stmt {
        Stmt::Let { expr: Expr::Load { buffer, index, .. }, .. } => reaches.push(Reach { buffer: *buffer, index, inner, writes: false }),
        Stmt::Store { buffer, index, .. } => reaches.push(Reach { buffer: *buffer, index, inner, writes: true }),
        Stmt::Init { .. } if inner.is_some() => return Err(Narrow),
        _ => {}
    }
    Ok(())
}

/// The stride of an axis.
fn stride(index: &Index, axis: AxisId) -> i64 {
    index.axes.iter().find(|(a, _)| *a == axis).map_or(0, |(_, s)| *s)
}

/// The parts of rows that lie apart in memory, or in local arrays. No row may reach what another writes.
fn segments(s: &Selector<'_>, reaches: &[Reach<'_>]) -> Result<Vec<Segment>, Narrow> {
    let mut all: Vec<Segment> = Vec::new();
    let written = |buffer: BufferId| reaches.iter().any(|r| r.writes && r.buffer == buffer);
    for r in reaches {
        let apart = stride(r.index, s.axis);
        let (inner, within) = r.inner.map_or((None, 0), |(axis, _)| (Some(axis), stride(r.index, axis)));
        let last = r.inner.map_or(0, |(_, n)| (n - 1) * within);
        let local = r.buffer >= LOCAL && written(r.buffer);
        if written(r.buffer) && s.kernel.dtype(r.buffer).size() < 4 && reaches.iter().any(|o| !o.writes && o.buffer == r.buffer) {
            // Such stores wait for those of the other rows of a pass.
            return Err(Narrow);
        }
        if apart == 1 && written(r.buffer) {
            // An element for each row, always the same one.
            let same = |o: &&Reach<'_>| o.buffer != r.buffer || o.index == r.index;
            if within != 0 || !reaches.iter().all(|o| same(&o)) {
                return Err(Narrow);
            }
            continue;
        }
        if matches!(apart, 0 | 1) && !local {
            if written(r.buffer) {
                return Err(Narrow);
            }
            continue;
        }
        if local == (apart != 0) || !matches!(within, 0 | 1) || s.kernel.dtype(r.buffer).size() != 4 {
            return Err(Narrow);
        }
        if !r.index.sized.is_empty() || !r.index.values.is_empty() {
            return Err(Narrow);
        }
        let base = Index { axes: r.index.axes.iter().copied().filter(|(a, _)| Some(*a) != inner).collect(), ..r.index.clone() };
        let same = |o: &Segment| o.buffer == r.buffer && Index { offset: base.offset, ..o.base.clone() } == base;
        match all.iter_mut().find(|o| same(o)) {
            Some(known) => {
                let low = known.base.offset.min(base.offset);
                let high = (known.base.offset + known.columns).max(base.offset + last + 1);
                (known.base.offset, known.columns) = (low, high - low);
                known.written |= r.writes;
            }
            None => all.push(Segment {
                buffer: r.buffer,
                base,
                columns: last + 1,
                stride: apart,
                pointer: 0,
                written: r.writes,
                values: Vec::new(),
                changed: Vec::new(),
            }),
        }
    }
    for segment in &all {
        // Rows that overlap could reach each other, and so could two segments of a buffer.
        let alone = !segment.written || all.iter().filter(|o| o.buffer == segment.buffer).count() == 1;
        let apart = segment.stride == 0 || (PIECE..=segment.stride).contains(&segment.columns);
        if !alone || !apart || segment.columns > *LENGTHS.end() {
            return Err(Narrow);
        }
    }
    Ok(all)
}

/// Whether accumulators that the body changes, and local arrays that it writes, are used in the loop alone. Those that a row does not set itself are set before the loop.
fn private(kernel: &Kernel, axis: AxisId, body: &[Node]) -> Result<(), Narrow> {
    fn leaves<'k>(nodes: &'k [Node], out: &mut Vec<&'k Stmt>) {
        for node in nodes {
            match node {
                Node::Leaf(stmt) => out.push(stmt),
                Node::For { before, body, .. } => {
                    out.extend(before);
                    leaves(body, out);
                }
            }
        }
    }
    fn outside(stmts: &[Stmt], axis: AxisId, used: &mut dyn FnMut(&Stmt)) {
        for stmt in stmts {
            match stmt {
                Stmt::For { axis: a, .. } if *a == axis => {}
                Stmt::For { body, .. } => outside(body, axis, used),
                _ => used(stmt),
            }
        }
    }
    let mut own = Vec::new();
    leaves(body, &mut own);
    let accs: Vec<AccId> =
        own.iter().filter_map(|s| if let Stmt::Update { acc, .. } | Stmt::Init { acc, .. } = s { Some(*acc) } else { None }).collect();
    let locals: Vec<BufferId> =
        own.iter().filter_map(|s| if let Stmt::Store { buffer, .. } = s { Some(*buffer).filter(|b| *b >= LOCAL) } else { None }).collect();
    let mut shared = false;
    outside(&kernel.body, axis, &mut |stmt| {
        shared |= match stmt {
            Stmt::Init { acc, .. } | Stmt::Update { acc, .. } | Stmt::Let { expr: Expr::Acc(acc), .. } => accs.contains(acc),
            Stmt::Store { buffer, .. } | Stmt::Let { expr: Expr::Load { buffer, .. }, .. } => locals.contains(buffer),
            _ => false,
        }
    });
    if shared { Err(Narrow) } else { Ok(()) }
}

impl Selector<'_> {
    /// Begins a group of rows.
    fn forget(&mut self) {
        self.values.clear();
        let Some(rows) = &mut self.rows else { return };
        rows.accs.clear();
        for segment in &mut rows.segments {
            segment.values = vec![None; segment.columns as usize];
            segment.changed = vec![false; segment.columns as usize];
        }
    }

    fn at(&mut self, inner: Option<(AxisId, i64)>) {
        if let Some(rows) = &mut self.rows {
            rows.inner = inner;
        }
    }

    /// The position of a loop within the row.
    pub(super) fn inner(&self) -> Option<(AxisId, i64)> {
        self.rows.as_ref().and_then(|r| r.inner)
    }

    /// The segment and column of an access, if it is to one.
    pub(super) fn column(&self, buffer: BufferId, index: &Index) -> Option<(usize, usize)> {
        let rows = self.rows.as_ref()?;
        let (axis, k) = rows.inner.map_or((None, 0), |(a, k)| (Some(a), k));
        let within = axis.map_or(0, |a| stride(index, a));
        let base = Index { axes: index.axes.iter().copied().filter(|(a, _)| Some(*a) != axis).collect(), ..index.clone() };
        let at = rows.segments.iter().position(|s| s.buffer == buffer && Index { offset: base.offset, ..s.base.clone() } == base)?;
        let column = index.offset + within * k - rows.segments[at].base.offset;
        Some((at, usize::try_from(column).ok()?))
    }

    /// Four neighboring columns from memory, as registers of four elements of each of several rows.
    fn piece(&self, segment: &Segment, first: usize, row: i64) -> Result<Place, Narrow> {
        let row = row + (self.group * self.program.width) as i64;
        let offset = segment.base.offset + first as i64 + row * segment.stride;
        // Displacements of a register's pieces in bytes, each of the fourth row behind the one before, have 32 bits.
        let last = offset.abs() + (self.program.width as i64 - PIECE) * segment.stride;
        let offset = i32::try_from(offset).ok().filter(|_| last < 1 << 28).ok_or(Narrow)?;
        Ok(Place { pointer: segment.pointer, offset, kind: Kind::Word, moves: false })
    }

    /// Four rows of four as four columns of four, in each of the pieces of a register; the other way round it is the same.
    fn turned(&mut self, [a, b, c, d]: [V; 4]) -> [V; 4] {
        let mut two = |op, x, y, how| self.program.push(Inst::Binary(op, x, y, how));
        let (low, other_low) = (two(asm::UNPACK_LOW, a, b, None), two(asm::UNPACK_LOW, c, d, None));
        let (high, other_high) = (two(asm::UNPACK_HIGH, a, b, None), two(asm::UNPACK_HIGH, c, d, None));
        [(low, other_low, 0x44), (low, other_low, 0xEE), (high, other_high, 0x44), (high, other_high, 0xEE)]
            .map(|(x, y, how)| two(asm::SHUFFLE_TWO, x, y, Some(how)))
    }

    /// The first column of the four that a column is moved with.
    fn first_of(columns: i64, column: usize) -> usize {
        (column / PIECE as usize * PIECE as usize).min((columns - PIECE) as usize)
    }

    pub(super) fn load_column(&mut self, at: usize, column: usize) -> Result<V, Narrow> {
        let segment = &self.rows.as_ref().ok_or(Narrow)?.segments[at];
        if let Some(v) = segment.values[column] {
            return Ok(v);
        }
        if segment.stride == 0 {
            return Err(Narrow);
        }
        let (first, stride) = (Self::first_of(segment.columns, column), i32::try_from(4 * segment.stride).map_err(|_| Narrow)?);
        let mut pieces = [0; 4];
        for (row, piece) in pieces.iter_mut().enumerate() {
            let place = self.piece(&self.rows.as_ref().ok_or(Narrow)?.segments[at], first, row as i64)?;
            *piece = self.program.push(Inst::Rows(place, stride));
        }
        let columns = self.turned(pieces);
        let segment = &mut self.rows.as_mut().ok_or(Narrow)?.segments[at];
        for (k, v) in columns.into_iter().enumerate() {
            // What was written stays.
            segment.values[first + k].get_or_insert(v);
        }
        segment.values[column].ok_or(Narrow)
    }

    pub(super) fn store_column(&mut self, at: usize, column: usize, x: V) -> Result<(), Narrow> {
        let segment = &mut self.rows.as_mut().ok_or(Narrow)?.segments[at];
        segment.values[column] = Some(x);
        segment.changed[column] = true;
        Ok(())
    }

    /// Stores what was written, in columns of four; what lies between is stored as it was.
    fn store_rows(&mut self) -> Result<(), Narrow> {
        let count = self.rows.as_ref().map_or(0, |r| r.segments.len());
        for at in 0..count {
            let segment = &self.rows.as_ref().ok_or(Narrow)?.segments[at];
            let (columns, stride) = (segment.columns, i32::try_from(4 * segment.stride).map_err(|_| Narrow)?);
            if stride == 0 {
                continue;
            }
            let firsts: std::collections::BTreeSet<usize> =
                (0..columns as usize).filter(|k| segment.changed[*k]).map(|k| Self::first_of(columns, k)).collect();
            for first in firsts {
                let mut four = [0; 4];
                for (k, v) in four.iter_mut().enumerate() {
                    *v = self.load_column(at, first + k)?;
                }
                let pieces = self.turned(four);
                for (row, x) in pieces.into_iter().enumerate() {
                    let place = self.piece(&self.rows.as_ref().ok_or(Narrow)?.segments[at], first, row as i64)?;
                    self.program.push(Inst::StoreRows(place, stride, x));
                }
            }
        }
        Ok(())
    }

    pub(super) fn init_row_acc(&mut self, acc: AccId, before: V) -> Result<(), Narrow> {
        self.rows.as_mut().ok_or(Narrow)?.accs.insert(acc, RowAcc { before, lanes: [None; LANES] });
        Ok(())
    }

    /// The value of an accumulator of the row; none if it is another's.
    pub(super) fn row_acc(&self, acc: AccId) -> Option<V> {
        self.rows.as_ref().and_then(|r| r.accs.get(&acc)).map(|a| a.before)
    }

    pub(super) fn update_row_acc(&mut self, acc: AccId, x: V) -> Result<(), Narrow> {
        let dtype = self.kernel.accs[acc].dtype;
        let AccOp::Reduce(op) = self.kernel.accs[acc].op else { return Err(Narrow) };
        let lane = self.inner().map(|(_, k)| k as usize % LANES);
        let known = self.rows.as_ref().and_then(|r| r.accs.get(&acc)).ok_or(Narrow)?;
        let old = match lane {
            None => known.before,
            Some(lane) => match known.lanes[lane] {
                Some(v) => v,
                None => self.program.push(Inst::Const(literal_bits(dtype, identity(op, dtype)))),
            },
        };
        let new = self.map(combine_op(op), dtype, &[old, x])?;
        let known = self.rows.as_mut().and_then(|r| r.accs.get_mut(&acc)).ok_or(Narrow)?;
        match lane {
            None => known.before = new,
            Some(lane) => known.lanes[lane] = Some(new),
        }
        Ok(())
    }

    /// Combines the virtual lanes pairwise and the result with the value before, as every vector loop does. Lanes that were not reached hold the identity, which changes nothing that has been
    /// combined with it before.
    fn close_row_accs(&mut self) -> Result<(), Narrow> {
        let mut open: Vec<AccId> =
            self.rows.iter().flat_map(|r| &r.accs).filter(|(_, a)| a.lanes[0].is_some()).map(|(acc, _)| *acc).collect();
        open.sort_unstable();
        for acc in open {
            let dtype = self.kernel.accs[acc].dtype;
            let AccOp::Reduce(op) = self.kernel.accs[acc].op else { return Err(Narrow) };
            let RowAcc { before, lanes } = &self.rows.as_ref().ok_or(Narrow)?.accs[&acc];
            let (before, mut level) = (*before, lanes.to_vec());
            while level.len() > 1 {
                let half = level.len() / 2;
                let mut next = Vec::with_capacity(half);
                for i in 0..half {
                    next.push(match (level[i], level[i + half]) {
                        (Some(a), Some(b)) => Some(self.map(combine_op(op), dtype, &[a, b])?),
                        (one, None) => one,
                        (None, Some(_)) => return Err(Narrow),
                    });
                }
                level = next;
            }
            let whole = level[0].ok_or(Narrow)?;
            let new = self.map(combine_op(op), dtype, &[before, whole])?;
            self.init_row_acc(acc, new)?;
        }
        Ok(())
    }
}
