//! From a vector loop of the kernel IR to the program of a wide loop, where all of it has wide instructions.

use super::asm::{self, Opcode};
use super::program::{Inst, Kind, Place, Program, Source, V};
use super::rows::Rows;
use optc_abi::DType;
use optc_ir::kernel::{
    Acc, AccId, AccOp, AxisId, BufferId, Expr, Index, Kernel, LANES, LOCAL, Literal, Stmt, ValueId, combine_op, identity,
};
use optc_ir::lanes::{Lanes, Rare};
use optc_ir::scalar::ScalarOp;
use rustc_hash::FxHashMap;

/// Predicates of comparisons; those of ordered comparisons are false for NaN.
pub(super) const EQUAL: u8 = 0x00;
pub(super) const UNORDERED: u8 = 0x03;
pub(super) const NOT_EQUAL: u8 = 0x04;
pub(super) const ORDERED: u8 = 0x07;
pub(super) const DIFFERS: u8 = 0x0C;
pub(super) const LESS: u8 = 0x11;
pub(super) const LESS_OR_EQUAL: u8 = 0x12;
pub(super) const AT_LEAST: u8 = 0x1D;

/// Why a loop stays narrow: some part has no wide form.
pub(crate) struct Narrow;

/// Constants of a kernel by value.
pub(crate) type Constants = FxHashMap<ValueId, Literal>;

/// Finds the constants of a kernel.
pub(crate) fn constants(body: &[Stmt], found: &mut Constants) {
    for stmt in body {
        match stmt {
            Stmt::For { body, .. } => constants(body, found),
            Stmt::Let { value, expr: Expr::Const(literal), .. } => {
                found.insert(*value, *literal);
            }
            _ => {}
        }
    }
}

pub(super) struct Selector<'k> {
    pub(super) kernel: &'k Kernel,
    dtypes: &'k [DType],
    constants: &'k Constants,
    pub(super) axis: AxisId,
    /// Where the rows that the loop goes over lie one behind the other and are worth asking for beforehand: elements of a row.
    row: Option<i64>,
    pub(super) program: Program,
    /// Values defined in the body, of the group under way.
    pub(super) values: FxHashMap<ValueId, V>,
    /// Accumulators as they stand in the group under way.
    accs: FxHashMap<AccId, V>,
    pub(super) group: usize,
    /// Stores of bytes and halves, which wait for those of the other groups: place of the first group, values of all.
    pub(super) bytes: Vec<(Place, Vec<V>)>,
    /// Something without a wide form was met.
    failed: bool,
    /// Where the lanes are rows, each of which a loop goes over.
    pub(super) rows: Option<Rows>,
}

/// The program of a vector loop with this body, which holds plain statements only, on registers of this many lanes.
pub(crate) fn select<'k>(
    width: usize,
    kernel: &'k Kernel,
    dtypes: &'k [DType],
    constants: &'k Constants,
    axis: AxisId,
    row: Option<i64>,
    body: &[&Stmt],
) -> Result<Program, Narrow> {
    let mut s = Selector::new(width, kernel, dtypes, constants, axis, row);
    for stmt in body {
        if let Stmt::Update { acc, .. } = stmt
            && !s.program.accs.contains(acc)
        {
            s.program.accs.push(*acc);
            let Acc { dtype, op } = &kernel.accs[*acc];
            let AccOp::Reduce(op) = op else { return Err(Narrow) };
            s.program.starts.push(literal_bits(*dtype, identity(*op, *dtype)));
        }
    }
    for group in 0..s.program.groups() {
        s.group = group;
        s.values.clear();
        s.accs.clear();
        for stmt in body {
            s.stmt(stmt)?;
        }
        for (at, acc) in s.program.accs.clone().into_iter().enumerate() {
            let now = s.accs[&acc];
            s.program.push(Inst::AccOut(at, group, now));
        }
    }
    s.finish()
}

impl<'k> Selector<'k> {
    pub(super) fn new(
        width: usize,
        kernel: &'k Kernel,
        dtypes: &'k [DType],
        constants: &'k Constants,
        axis: AxisId,
        row: Option<i64>,
    ) -> Selector<'k> {
        Selector {
            kernel,
            dtypes,
            constants,
            axis,
            row,
            program: Program::new(width),
            values: FxHashMap::default(),
            accs: FxHashMap::default(),
            group: 0,
            bytes: Vec::new(),
            failed: false,
            rows: None,
        }
    }

    /// The program, once all groups of lanes have been selected.
    pub(super) fn finish(mut self) -> Result<Program, Narrow> {
        self.store_bytes();
        self.program.prune();
        if self.failed { Err(Narrow) } else { Ok(self.program) }
    }
}

impl Selector<'_> {
    pub(super) fn stmt(&mut self, stmt: &Stmt) -> Result<(), Narrow> {
        match stmt {
            Stmt::Let { value, dtype, expr } => {
                let v = self.expr(*dtype, expr)?;
                self.values.insert(*value, v);
            }
            Stmt::Update { acc, value } => {
                let AccOp::Reduce(op) = self.kernel.accs[*acc].op else { return Err(Narrow) };
                let dtype = self.kernel.accs[*acc].dtype;
                if dtype.size() == 8 || dtype == DType::U8 {
                    return Err(Narrow);
                }
                if self.rows.is_some() {
                    let x = self.value(*value)?;
                    return self.update_row_acc(*acc, x);
                }
                let at = self.program.accs.iter().position(|a| a == acc).ok_or(Narrow)?;
                let old = match self.accs.get(acc) {
                    Some(&v) => v,
                    None => self.program.push(Inst::AccIn(at, self.group)),
                };
                let x = self.value(*value)?;
                let new = self.map(combine_op(op), dtype, &[old, x])?;
                self.accs.insert(*acc, new);
            }
            Stmt::Store { buffer, index, value } => {
                let x = self.value(*value)?;
                let dtype = self.kernel.dtype(*buffer);
                if let Some((segment, column)) = self.column(*buffer, index) {
                    return self.store_column(segment, column, x);
                }
                let place = self.place(*buffer, index)?;
                if !place.moves {
                    return Err(Narrow);
                }
                let x = match dtype {
                    DType::BF16 => self.round_bfloat(x),
                    DType::Bool => {
                        let one = self.i(1);
                        self.and(x, one)
                    }
                    _ => x,
                };
                if matches!(place.kind, Kind::Byte | Kind::Halves) {
                    let before = (self.program.width * self.group) as i32;
                    match self
                        .bytes
                        .iter_mut()
                        .find(|(p, xs)| p.pointer == place.pointer && xs.len() == self.group && p.offset + before == place.offset)
                    {
                        Some((_, values)) if self.group > 0 => values.push(x),
                        _ if self.group == 0 => self.bytes.push((place, vec![x])),
                        _ => return Err(Narrow),
                    }
                    return Ok(());
                }
                self.program.push(Inst::Store(place, x));
            }
            Stmt::Init { acc, value } if self.rows.is_some() => {
                let x = self.value(*value)?;
                self.init_row_acc(*acc, x)?;
            }
            Stmt::For { .. } | Stmt::Init { .. } => return Err(Narrow),
        }
        Ok(())
    }

    /// A value of the body, or one from outside it.
    fn value(&mut self, id: ValueId) -> Result<V, Narrow> {
        if let Some(&v) = self.values.get(&id) {
            return Ok(v);
        }
        let dtype = self.dtypes[id];
        if dtype.size() == 8 {
            return Err(Narrow);
        }
        if let Some(&literal) = self.constants.get(&id) {
            return Ok(self.program.push(Inst::Const(literal_bits(dtype, literal))));
        }
        Ok(self.uniform(Source::Value(id)))
    }

    fn uniform(&mut self, source: Source) -> V {
        let at = self.program.uniforms.iter().position(|&u| u == source).unwrap_or_else(|| {
            self.program.uniforms.push(source);
            self.program.uniforms.len() - 1
        });
        self.program.push(Inst::Uniform(at))
    }

    fn place(&mut self, buffer: BufferId, index: &Index) -> Result<Place, Narrow> {
        let kind = match self.kernel.dtype(buffer) {
            DType::F32 | DType::I32 | DType::U32 => Kind::Word,
            DType::BF16 => Kind::Halves,
            DType::F16 if super::half_floats() => Kind::Half,
            DType::U8 | DType::Bool => Kind::Byte,
            _ => return Err(Narrow),
        };
        let along = |axis: AxisId| index.axes.iter().find(|(a, _)| *a == axis).map_or(0, |(_, s)| *s);
        let (stride, inner) = (along(self.axis), self.inner());
        let varies = |v: &(ValueId, i64)| self.values.contains_key(&v.0);
        let sized = |axis: AxisId| index.sized.iter().any(|(a, ..)| *a == axis);
        if !matches!(stride, 0 | 1) || sized(self.axis) || inner.is_some_and(|(a, _)| sized(a)) || index.values.iter().any(varies) {
            return Err(Narrow);
        }
        // Pointers of a loop over rows stand at its first row.
        let stays = |a: AxisId| (self.rows.is_some() || a != self.axis) && inner.is_none_or(|(i, _)| i != a);
        let base = Index { offset: 0, axes: index.axes.iter().copied().filter(|(a, _)| stays(*a)).collect(), ..index.clone() };
        let found = self.program.pointers.iter().position(|(b, i)| *b == buffer && *i == base);
        let pointer = found.unwrap_or_else(|| {
            self.program.pointers.push((buffer, base));
            self.program.pointers.len() - 1
        });
        let moves = stride == 1;
        let within = inner.map_or(0, |(a, k)| along(a) * k);
        let offset = index.offset + within + if moves { (self.group * self.program.width) as i64 } else { 0 };
        // The displacement in bytes has 32 bits.
        let offset = i32::try_from(offset).ok().filter(|o| o.abs() < 1 << 28).ok_or(Narrow)?;
        Ok(Place { pointer, offset, kind, moves })
    }

    fn expr(&mut self, dtype: DType, expr: &Expr) -> Result<V, Narrow> {
        if dtype.size() == 8 {
            return Err(Narrow);
        }
        Ok(match expr {
            Expr::Const(literal) => self.program.push(Inst::Const(literal_bits(dtype, *literal))),
            Expr::Axis(axis) if *axis == self.axis => {
                if self.rows.as_ref().is_some_and(|r| !r.whole) {
                    return Err(Narrow);
                }
                let start = self.program.push(Inst::Start(1));
                let width = self.program.width;
                let first = self.group * width;
                let lanes = self.program.push(Inst::Lanes(std::array::from_fn(|lane| (first + lane % width) as u32)));
                let at = self.iadd(start, lanes);
                match dtype {
                    DType::F32 => self.float_of_int(at),
                    DType::I32 | DType::U32 => at,
                    _ => return Err(Narrow),
                }
            }
            Expr::Axis(axis) if self.inner().is_some_and(|(a, _)| a == *axis) => {
                let k = self.inner().map_or(0, |(_, k)| k);
                self.program.push(Inst::Const(literal_bits(dtype, Literal::Int(k))))
            }
            Expr::Axis(_) | Expr::CheckedIndex { .. } => return Err(Narrow),
            Expr::Acc(acc) => match self.row_acc(*acc) {
                Some(v) => v,
                None => self.uniform(Source::Acc(*acc)),
            },
            Expr::Load { buffer, index, guard } => self.load(*buffer, index, *guard)?,
            Expr::Map(op, x) => {
                let operand = self.dtypes[x[usize::from(*op == ScalarOp::Select)]];
                let x = x.iter().map(|&v| self.value(v)).collect::<Result<Vec<V>, Narrow>>()?;
                self.map(*op, operand, &x)?
            }
            Expr::Cast(x) => {
                let (from, x) = (self.dtypes[*x], self.value(*x)?);
                self.cast(from, dtype, x)?
            }
            Expr::Bitcast(x) if self.dtypes[*x].size() == 4 && dtype.size() == 4 => self.value(*x)?,
            Expr::Bitcast(_) => return Err(Narrow),
            Expr::Philox { key, counter, word } => {
                let mut words = [0; 6];
                for (word, &v) in words.iter_mut().zip(key.iter().chain(counter)) {
                    *word = self.value(v)?;
                }
                let [k0, k1, counter @ ..] = words;
                self.philox([k0, k1], counter, *word)
            }
        })
    }

    fn load(&mut self, buffer: BufferId, index: &Index, guard: Option<(ValueId, ValueId)>) -> Result<V, Narrow> {
        if let Some((segment, column)) = self.column(buffer, index) {
            // What is guarded may not be there.
            return if guard.is_some() { Err(Narrow) } else { self.load_column(segment, column) };
        }
        let place = self.place(buffer, index)?;
        if !place.moves && place.kind != Kind::Word {
            return Err(Narrow);
        }
        if let Some((condition, otherwise)) = guard {
            if place.kind != Kind::Word || !place.moves {
                return Err(Narrow);
            }
            let (condition, otherwise) = (self.value(condition)?, self.value(otherwise)?);
            let x = self.program.push(Inst::MaskLoad(condition, place));
            // Lanes that are not loaded are 0 already.
            return Ok(if self.program.bits(otherwise) == Some(0) { x } else { self.select(condition, x, otherwise) });
        }
        let x = self.program.push(Inst::Load(place));
        if let Some(row) = self.row.filter(|&row| self.group == 0 && buffer < LOCAL && index.axes.iter().any(|a| a.1 == row)) {
            // The first group's place is that of a whole pass.
            let offset =
                i32::try_from(row).ok().and_then(|row| place.offset.checked_add(row)).filter(|o| o.abs() < 1 << 28).ok_or(Narrow)?;
            self.program.push(Inst::Ahead(Place { offset, ..place }));
        }
        Ok(match self.kernel.dtype(buffer) {
            DType::BF16 => self.shl(x, 16),
            DType::Bool => {
                let zero = self.i(0);
                self.isub(zero, x)
            }
            _ => x,
        })
    }

    pub(super) fn binary(&mut self, op: Opcode, a: V, b: V) -> V {
        self.folded(op, a, b).unwrap_or_else(|| self.program.push(Inst::Binary(op, a, b, None)))
    }

    /// Constant lanes as one value.
    pub(super) fn constant(&mut self, lanes: [u32; LANES]) -> V {
        let same = lanes.iter().all(|x| *x == lanes[0]);
        self.program.push(if same { Inst::Const(lanes[0]) } else { Inst::Lanes(lanes) })
    }

    /// What an operation on integers becomes where operands are constant, or positions of a pass, which are multiples of the number of lanes.
    pub(super) fn folded(&mut self, op: Opcode, a: V, b: V) -> Option<V> {
        let apply: fn(u32, u32) -> u32 = match op {
            asm::IADD => u32::wrapping_add,
            asm::IMUL => u32::wrapping_mul,
            asm::AND => |x, y| x & y,
            asm::XOR => |x, y| x ^ y,
            asm::OR => |x, y| x | y,
            _ => return None,
        };
        let (left, right) = (self.program.lanes(a), self.program.lanes(b));
        if let (Some(x), Some(y)) = (left, right) {
            return Some(self.constant(std::array::from_fn(|i| apply(x[i], y[i]))));
        }
        let (a, y) = if let Some(y) = right { (a, y) } else { (b, left?) };
        let low = LANES as u32 - 1;
        match (op, self.program.insts[a as usize]) {
            (asm::IADD, _) if y == [0; LANES] => Some(a),
            (asm::IMUL, Inst::Start(by)) if y == [y[0]; LANES] => Some(self.program.push(Inst::Start(by.wrapping_mul(y[0])))),
            (asm::AND, Inst::Start(_)) if y.iter().all(|m| m | low == u32::MAX) => Some(a),
            (asm::AND, Inst::Start(_)) if y.iter().all(|m| m & !low == 0) => Some(self.constant([0; LANES])),
            // The position's last bits are 0, so those of the lane stand there alone.
            (asm::AND, Inst::Binary(asm::IADD, start, lane, _)) if matches!(self.program.insts[start as usize], Inst::Start(1)) => {
                let lane = self.program.lanes(lane).filter(|l| l.iter().all(|x| *x <= low))?;
                let (high, rest) = (y.map(|m| m & !low), y.map(|m| m & low));
                if high != [0; LANES] && high != [!low; LANES] {
                    return None;
                }
                let rest = self.constant(std::array::from_fn(|i| lane[i] & rest[i]));
                Some(if high == [0; LANES] { rest } else { self.iadd(start, rest) })
            }
            _ => None,
        }
    }

    /// Lanes shifted by a constant.
    pub(super) fn shifted(&mut self, digit: u8, a: V, by: u8) -> V {
        match self.program.insts[a as usize] {
            Inst::Start(times) if digit == asm::SHIFT_LEFT && by < 32 => self.program.push(Inst::Start(times << by)),
            Inst::Shift(asm::SHIFT, asm::SHIFT_LEFT, x, 24) if digit == asm::SHIFT_ARITHMETIC && by == 24 => {
                match self.program.insts[x as usize] {
                    Inst::Load(place) if place.kind == Kind::Byte && place.moves => {
                        self.program.push(Inst::Load(Place { kind: Kind::SignedByte, ..place }))
                    }
                    _ => self.program.push(Inst::Shift(asm::SHIFT, digit, a, by)),
                }
            }
            _ => self.program.push(Inst::Shift(asm::SHIFT, digit, a, by)),
        }
    }
    pub(super) fn compare(&mut self, predicate: u8, a: V, b: V) -> V {
        self.program.push(Inst::Binary(asm::CMP, a, b, Some(predicate)))
    }
    pub(super) fn round(&mut self, mode: u8, a: V) -> V {
        self.program.push(Inst::Unary(asm::ROUND, a, Some(mode)))
    }
    pub(super) fn not(&mut self, a: V) -> V {
        let ones = self.i(-1);
        self.xor(a, ones)
    }
}

/// A literal as it lies in a lane.
pub(super) fn literal_bits(dtype: DType, literal: Literal) -> u32 {
    match (literal, dtype) {
        (Literal::Float(x), DType::F32) => (x as f32).to_bits(),
        (Literal::Int(n), DType::F32) => (n as f32).to_bits(),
        (Literal::Int(n), DType::Bool) => u32::from(n != 0).wrapping_neg(),
        (Literal::Int(n), _) => n as u32,
        (Literal::Float(x), _) => x as i64 as u32,
    }
}

macro_rules! binaries {
    ($($name:ident $op:ident)*) => { $(
        fn $name(&mut self, a: V, b: V) -> V {
            self.binary(asm::$op, a, b)
        }
    )* };
}

impl Lanes for Selector<'_> {
    type V = V;
    fn f(&mut self, x: f32) -> V {
        self.program.push(Inst::Const(x.to_bits()))
    }
    fn i(&mut self, x: i32) -> V {
        self.program.push(Inst::Const(x as u32))
    }
    binaries! { add ADD sub SUB mul MUL div DIV iadd IADD isub ISUB and AND or OR xor XOR ieq IEQ }
    fn sqrt(&mut self, a: V) -> V {
        self.program.push(Inst::Unary(asm::SQRT, a, None))
    }
    fn fma(&mut self, a: V, b: V, c: V) -> V {
        self.program.push(Inst::Fma(a, b, c))
    }
    fn trunc(&mut self, a: V) -> V {
        self.round(11, a)
    }
    fn nearest(&mut self, a: V) -> V {
        self.round(8, a)
    }
    fn shl(&mut self, a: V, bits: u8) -> V {
        self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_LEFT, a, bits))
    }
    fn sar(&mut self, a: V, bits: u8) -> V {
        self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_ARITHMETIC, a, bits))
    }
    fn lt(&mut self, a: V, b: V) -> V {
        self.compare(LESS, a, b)
    }
    fn eq(&mut self, a: V, b: V) -> V {
        self.compare(EQUAL, a, b)
    }
    fn select(&mut self, mask: V, a: V, b: V) -> V {
        // The first bit of each lane decides: below 0 is that of the number.
        let mask = match self.program.insts[mask as usize] {
            Inst::Binary(asm::IGT, zero, x, _) if self.program.bits(zero) == Some(0) => x,
            _ => mask,
        };
        self.program.push(Inst::Blend(mask, a, b))
    }
    // The second operand of the instruction is its result where one is NaN.
    fn at_least(&mut self, x: V, bound: V) -> V {
        self.binary(asm::MAX, bound, x)
    }
    fn at_most(&mut self, x: V, bound: V) -> V {
        self.binary(asm::MIN, bound, x)
    }
    fn float_of_int(&mut self, a: V) -> V {
        self.program.push(Inst::Unary(asm::FLOAT_OF_INT, a, None))
    }
    fn int_of_float(&mut self, a: V) -> V {
        self.program.push(Inst::Unary(asm::INT_OF_FLOAT, a, None))
    }
    fn is_below(&self, x: V, bound: f32) -> bool {
        self.program.most(x).is_some_and(|most| most < f64::from(bound))
    }
    fn patch(&mut self, _: V, value: V, _: V, _: Rare) -> V {
        self.failed = true;
        value
    }
}
