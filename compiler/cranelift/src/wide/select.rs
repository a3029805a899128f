//! From a vector loop of the kernel IR to the program of a wide loop, where all of it has wide instructions.

use super::asm::{self, Opcode};
use super::program::{Inst, Kind, Pack, Place, Program, Source, V};
use optc_abi::DType;
use optc_ir::kernel::{
    Acc, AccId, AccOp, AxisId, BufferId, Expr, Index, Kernel, LANES, LOCAL, Literal, Stmt, ValueId, combine_op, identity,
};
use optc_ir::lanes::{Lanes, Rare};
use optc_ir::scalar::ScalarOp;
use optc_ir::vecmath;
use rustc_hash::FxHashMap;

/// Predicates of comparisons; those of ordered comparisons are false for NaN.
const EQUAL: u8 = 0x00;
const UNORDERED: u8 = 0x03;
const NOT_EQUAL: u8 = 0x04;
const ORDERED: u8 = 0x07;
const DIFFERS: u8 = 0x0C;
const LESS: u8 = 0x11;
const LESS_OR_EQUAL: u8 = 0x12;
const AT_LEAST: u8 = 0x1D;

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

struct Selector<'k> {
    kernel: &'k Kernel,
    dtypes: &'k [DType],
    constants: &'k Constants,
    axis: AxisId,
    /// Where the rows that the loop goes over lie one behind the other and are worth asking for beforehand: elements of a row.
    row: Option<i64>,
    program: Program,
    /// Values defined in the body, of the group under way.
    values: FxHashMap<ValueId, V>,
    /// Accumulators as they stand in the group under way.
    accs: FxHashMap<AccId, V>,
    group: usize,
    /// Stores of bytes and halves, which wait for those of the other groups: place of the first group, values of all.
    bytes: Vec<(Place, Vec<V>)>,
    /// Something without a wide form was met.
    failed: bool,
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
    let mut s = Selector {
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
    };
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
    s.store_bytes();
    s.program.prune();
    if s.failed { Err(Narrow) } else { Ok(s.program) }
}

impl Selector<'_> {
    fn stmt(&mut self, stmt: &Stmt) -> Result<(), Narrow> {
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
            Stmt::For { .. } | Stmt::Init { .. } => return Err(Narrow),
        }
        Ok(())
    }

    /// Stores what waits for the groups of a pass to be packed together, bytes of two buffers at once.
    fn store_bytes(&mut self) {
        let mut waiting: Vec<(Place, [V; 2], Pack)> = Vec::new();
        for (place, values) in std::mem::take(&mut self.bytes) {
            if let [x] = values[..] {
                self.store_whole(place, x);
                continue;
            }
            if let ([a, b], Kind::Halves) = (&values[..], place.kind) {
                self.program.push(Inst::Halves(place, [*a, *b]));
                continue;
            }
            let forms: Vec<Option<(V, Pack)>> = values.iter().map(|&x| self.packable(x)).collect();
            match forms[..] {
                [Some((a, pack)), Some((b, other))] if pack == other => waiting.push((place, [a, b], pack)),
                _ => {
                    for (group, &x) in values.iter().enumerate() {
                        let place = Place { offset: place.offset + (self.program.width * group) as i32, ..place };
                        self.program.push(Inst::Store(place, x));
                    }
                }
            }
        }
        for pair in waiting.chunks(2) {
            self.program.push(match *pair {
                [(p, a, how), (q, b, other)] => Inst::TwoBytes([p, q], [a, b], [how, other]),
                [(p, a, how), ..] => Inst::Bytes(p, a, how),
                [] => return,
            });
        }
    }

    /// Stores the bytes or halves of a pass that is one register: the last bits of each lane.
    fn store_whole(&mut self, place: Place, x: V) {
        let inst = match self.packable(x).filter(|_| place.kind == Kind::Byte) {
            Some((y, Pack::Last)) => Inst::Store(place, y),
            Some((y, Pack::Saturated)) if self.program.range(y).is_some_and(|r| r.0 >= 0 && r.1 <= 255) => Inst::Store(place, y),
            Some((y, Pack::Saturated)) => {
                let zero = self.i(0);
                Inst::Saturated(place, self.binary(asm::SMAX, y, zero))
            }
            None => match self.program.insts[x as usize] {
                Inst::Binary(asm::AND, y, bits, _) if place.kind == Kind::Byte && self.program.bits(bits) == Some(0xFF) => {
                    Inst::Store(place, y)
                }
                _ => Inst::Store(place, x),
            },
        };
        self.program.push(inst);
    }

    /// The value whose packing into a byte gives the byte to be stored, if it has 16 bits.
    fn packable(&self, x: V) -> Option<(V, Pack)> {
        let p = &self.program;
        let word = |v: V| p.range(v).filter(|r| r.0 >= i64::from(i16::MIN) && r.1 <= i64::from(i16::MAX));
        let plain = |v: V| if p.range(v).is_some_and(|r| r.0 >= 0 && r.1 <= 255) { Pack::Saturated } else { Pack::Last };
        let operand = |v: V, op: Opcode, bits: u32| match p.insts[v as usize] {
            Inst::Binary(found, a, b, _) if found == op && p.bits(b) == Some(bits) => Some(a),
            Inst::Binary(found, a, b, _) if found == op && p.bits(a) == Some(bits) => Some(b),
            _ => None,
        };
        if let Some(y) = operand(x, asm::AND, 0xFF)
            && word(y).is_some()
        {
            let clamped = |y: V, first: (Opcode, u32), second: (Opcode, u32)| {
                operand(operand(y, first.0, first.1)?, second.0, second.1).filter(|&z| word(z).is_some())
            };
            let (low, high) = ((asm::SMAX, 0), (asm::SMIN, 255));
            let inner = clamped(y, high, low).or_else(|| clamped(y, low, high));
            return Some(inner.map_or((y, plain(y)), |z| (z, Pack::Saturated)));
        }
        word(x).map(|_| (x, plain(x)))
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
        let stride = index.axes.iter().find(|(a, _)| *a == self.axis).map_or(0, |(_, s)| *s);
        let varies = |v: &(ValueId, i64)| self.values.contains_key(&v.0);
        if !matches!(stride, 0 | 1) || index.sized.iter().any(|(a, ..)| *a == self.axis) || index.values.iter().any(varies) {
            return Err(Narrow);
        }
        let base = Index { offset: 0, axes: index.axes.iter().copied().filter(|(a, _)| *a != self.axis).collect(), ..index.clone() };
        let found = self.program.pointers.iter().position(|(b, i)| *b == buffer && *i == base);
        let pointer = found.unwrap_or_else(|| {
            self.program.pointers.push((buffer, base));
            self.program.pointers.len() - 1
        });
        let moves = stride == 1;
        let offset = index.offset + if moves { (self.group * self.program.width) as i64 } else { 0 };
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
            Expr::Axis(_) | Expr::CheckedIndex { .. } => return Err(Narrow),
            Expr::Acc(acc) => self.uniform(Source::Acc(*acc)),
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

    fn binary(&mut self, op: Opcode, a: V, b: V) -> V {
        self.folded(op, a, b).unwrap_or_else(|| self.program.push(Inst::Binary(op, a, b, None)))
    }

    /// Constant lanes as one value.
    fn constant(&mut self, lanes: [u32; LANES]) -> V {
        let same = lanes.iter().all(|x| *x == lanes[0]);
        self.program.push(if same { Inst::Const(lanes[0]) } else { Inst::Lanes(lanes) })
    }

    /// What an operation on integers becomes where operands are constant, or positions of a pass, which are multiples of the number of lanes.
    fn folded(&mut self, op: Opcode, a: V, b: V) -> Option<V> {
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
    fn shifted(&mut self, digit: u8, a: V, by: u8) -> V {
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
    fn compare(&mut self, predicate: u8, a: V, b: V) -> V {
        self.program.push(Inst::Binary(asm::CMP, a, b, Some(predicate)))
    }
    fn round(&mut self, mode: u8, a: V) -> V {
        self.program.push(Inst::Unary(asm::ROUND, a, Some(mode)))
    }
    fn not(&mut self, a: V) -> V {
        let ones = self.i(-1);
        self.xor(a, ones)
    }

    /// The larger or smaller of floats: NaN if either is, -0 below +0.
    fn extreme(&mut self, op: ScalarOp, a: V, b: V) -> V {
        let (code, max) = if op == ScalarOp::Max { (asm::MAX, true) } else { (asm::MIN, false) };
        let simple = |s: &Self, v: V| s.program.bits(v).is_some_and(|bits| !f32::from_bits(bits).is_nan());
        if let Some((x, bound)) = if simple(self, b) { Some((a, b)) } else { simple(self, a).then_some((b, a)) } {
            let bits = self.program.bits(bound).unwrap_or(0);
            // The second operand is the result for NaN and for equal operands, which differ only as zeros.
            let y = self.binary(code, bound, x);
            match (max, bits) {
                (true, 0) => return self.add(y, bound),
                (false, 0x8000_0000) => {}
                _ => return y,
            }
        }
        let (first, second) = (self.binary(code, a, b), self.binary(code, b, a));
        let both = if max { self.and(first, second) } else { self.or(first, second) };
        let (nan, sum) = (self.compare(UNORDERED, a, b), self.add(a, b));
        self.select(nan, sum, both)
    }

    fn map(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        if op == Select && dtype.size() <= 4 {
            return Ok(self.select(x[0], x[1], x[2]));
        }
        match dtype {
            DType::F32 => self.float_op(op, x),
            DType::I32 | DType::U32 | DType::Bool => self.bits_op(op, dtype, x),
            _ => Err(Narrow),
        }
    }

    fn float_op(&mut self, op: ScalarOp, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        Ok(match op {
            Add => self.add(x[0], x[1]),
            Sub => self.sub(x[0], x[1]),
            Mul => self.mul(x[0], x[1]),
            Div => self.div(x[0], x[1]),
            Min | Max => self.extreme(op, x[0], x[1]),
            Neg => {
                let sign = self.i(i32::MIN);
                self.xor(x[0], sign)
            }
            Abs => self.abs(x[0]),
            Floor => self.round(9, x[0]),
            Ceil => self.round(10, x[0]),
            Round => self.nearest(x[0]),
            Trunc => self.trunc(x[0]),
            Sqrt => self.sqrt(x[0]),
            Eq => self.compare(EQUAL, x[0], x[1]),
            Ne => self.compare(NOT_EQUAL, x[0], x[1]),
            Lt => self.compare(LESS, x[0], x[1]),
            Le => self.compare(LESS_OR_EQUAL, x[0], x[1]),
            IsNan => self.compare(UNORDERED, x[0], x[0]),
            IsFinite => {
                let (size, inf) = (self.abs(x[0]), self.f(f32::INFINITY));
                self.compare(LESS, size, inf)
            }
            Sign => {
                // Zeros and NaN stay.
                let (sign, one, zero) = (self.sign(x[0]), self.f(1.0), self.f(0.0));
                let (unit, other) = (self.or(sign, one), self.compare(DIFFERS, x[0], zero));
                self.select(other, unit, x[0])
            }
            Fma => match self.program.insts[x[2] as usize] {
                Inst::Binary(asm::XOR, c, sign, _) if self.program.bits(sign) == Some(1 << 31) => {
                    self.program.push(Inst::Fms(x[0], x[1], c))
                }
                _ => self.fma(x[0], x[1], x[2]),
            },
            Rsqrt => {
                let (root, one) = (self.sqrt(x[0]), self.f(1.0));
                self.div(one, root)
            }
            _ => vecmath::function(self, op, x).ok_or(Narrow)?,
        })
    }

    fn bits_op(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        let signed = dtype == DType::I32;
        if dtype == DType::Bool && !matches!(op, And | Or | Xor | Not | Eq | Ne) {
            return Err(Narrow);
        }
        Ok(match op {
            Add => self.iadd(x[0], x[1]),
            Sub => self.isub(x[0], x[1]),
            // A number times the sign of another is one instruction, and so is a sign.
            // 512-bit registers have no such instruction.
            Mul if self.program.width == LANES => self.binary(asm::IMUL, x[0], x[1]),
            Mul => match [(x[0], x[1]), (x[1], x[0])].map(|(a, b)| (a, self.program.insts[b as usize])) {
                [(a, Inst::Binary(asm::GIVE_SIGN, one, of, _)), _] | [_, (a, Inst::Binary(asm::GIVE_SIGN, one, of, _))]
                    if self.program.bits(one) == Some(1) =>
                {
                    self.binary(asm::GIVE_SIGN, a, of)
                }
                _ => self.binary(asm::IMUL, x[0], x[1]),
            },
            Sign if signed && self.program.width == LANES => {
                let (one, less) = (self.i(1), self.i(-1));
                let most = self.binary(asm::SMIN, x[0], one);
                self.binary(asm::SMAX, most, less)
            }
            Sign if signed => {
                let one = self.i(1);
                self.binary(asm::GIVE_SIGN, one, x[0])
            }
            Neg => {
                let zero = self.i(0);
                self.isub(zero, x[0])
            }
            And => self.and(x[0], x[1]),
            Or => self.or(x[0], x[1]),
            Xor => self.xor(x[0], x[1]),
            Not => self.not(x[0]),
            Abs if signed => self.program.push(Inst::Unary(asm::IABS, x[0], None)),
            Abs => x[0],
            Min => self.binary(if signed { asm::SMIN } else { asm::UMIN }, x[0], x[1]),
            Max => self.binary(if signed { asm::SMAX } else { asm::UMAX }, x[0], x[1]),
            Eq => self.ieq(x[0], x[1]),
            Ne => {
                let same = self.ieq(x[0], x[1]);
                self.not(same)
            }
            Lt => self.integer_less(signed, x[0], x[1]),
            Le => {
                let more = self.integer_less(signed, x[1], x[0]);
                self.not(more)
            }
            // Amounts of the width or more give what the table asks.
            Shl | Shr if self.program.bits(x[1]).is_some_and(|n| n < 32) => {
                let by = self.program.bits(x[1]).unwrap_or(0) as u8;
                let digit = match op {
                    Shl => asm::SHIFT_LEFT,
                    _ if signed => asm::SHIFT_ARITHMETIC,
                    _ => asm::SHIFT_RIGHT,
                };
                self.shifted(digit, x[0], by)
            }
            Shl => self.binary(asm::SHL_VAR, x[0], x[1]),
            Shr => self.binary(if signed { asm::SAR_VAR } else { asm::SHR_VAR }, x[0], x[1]),
            _ => return Err(Narrow),
        })
    }

    fn integer_less(&mut self, signed: bool, a: V, b: V) -> V {
        if signed {
            return self.binary(asm::IGT, b, a);
        }
        let flip = self.i(i32::MIN);
        let (a, b) = (self.xor(a, flip), self.xor(b, flip));
        self.binary(asm::IGT, b, a)
    }

    fn cast(&mut self, from: DType, to: DType, x: V) -> Result<V, Narrow> {
        Ok(match (from, to) {
            _ if from == to => x,
            (DType::F32, DType::I32) => {
                // Out of range the instruction gives the smallest number; NaN gives 0.
                let n = self.int_of_float(x);
                let most = self.f(2_147_483_648.0);
                let (above, number) = (self.compare(AT_LEAST, x, most), self.compare(ORDERED, x, x));
                let n = self.xor(n, above);
                self.and(n, number)
            }
            (DType::F32, DType::Bool) => {
                let zero = self.f(0.0);
                self.compare(NOT_EQUAL, x, zero)
            }
            (DType::I32 | DType::U8, DType::F32) => self.float_of_int(x),
            (DType::U32, DType::F32) => {
                // Two exact halves, rounded once when they are put together.
                let (low, shift) = (self.i(0xFFFF), self.f(65536.0));
                let (high, low) = (self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, x, 16)), self.and(x, low));
                let (high, low) = (self.float_of_int(high), self.float_of_int(low));
                self.fma(high, shift, low)
            }
            (DType::Bool, DType::F32) => {
                let one = self.f(1.0);
                self.and(x, one)
            }
            (DType::Bool, DType::I32 | DType::U32) => {
                let one = self.i(1);
                self.and(x, one)
            }
            (DType::I32 | DType::U32 | DType::U8, DType::Bool) => {
                let zero = self.i(0);
                let none = self.ieq(x, zero);
                self.not(none)
            }
            (DType::I32 | DType::U32 | DType::U8, DType::I32 | DType::U32) => x,
            (DType::I32 | DType::U32, DType::U8) => {
                let byte = self.i(0xFF);
                self.and(x, byte)
            }
            _ => return Err(Narrow),
        })
    }

    /// The bits of bf16 nearest to an f32 (ties to even), in the low half of each lane; one NaN for all.
    fn round_bfloat(&mut self, x: V) -> V {
        let high = self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, x, 16));
        let (one, most, quiet) = (self.i(1), self.i(0x7FFF), self.i(0x7FC0));
        let odd = self.and(high, one);
        let up = self.iadd(odd, most);
        let rounded = self.iadd(x, up);
        let rounded = self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, rounded, 16));
        let nan = self.compare(UNORDERED, x, x);
        self.select(nan, quiet, rounded)
    }

    /// High and low words of the products of u32 lanes with a constant.
    fn product_words(&mut self, x: V, by: u32) -> (V, V) {
        let by = self.i(by as i32);
        let long = |s: &mut Self, digit: u8, v: V| s.program.push(Inst::Shift(asm::SHIFT_LONG, digit, v, 32));
        let upper = long(self, asm::SHIFT_RIGHT, x);
        let (even, odd) = (self.binary(asm::MUL_EVEN, x, by), self.binary(asm::MUL_EVEN, upper, by));
        let (even_high, odd_low) = (long(self, asm::SHIFT_RIGHT, even), long(self, asm::SHIFT_LEFT, odd));
        let mix = |s: &mut Self, a: V, b: V| s.program.push(Inst::Binary(asm::BLEND_WORDS, a, b, Some(0xAA)));
        (mix(self, even_high, odd), mix(self, even, odd_low))
    }

    /// Word `word` of Philox4x32-10.
    fn philox(&mut self, key: [V; 2], counter: [V; 4], word: u8) -> V {
        let (mut k, mut c) = (key, counter);
        for round in 0..10 {
            if round > 0 {
                for (key, step) in k.iter_mut().zip([0x9E37_79B9u32, 0xBB67_AE85]) {
                    let step = self.i(step as i32);
                    *key = self.iadd(*key, step);
                }
            }
            let (h0, l0) = self.product_words(c[0], 0xD251_1F53);
            let (h1, l1) = self.product_words(c[2], 0xCD9E_8D57);
            let t = self.xor(h1, c[1]);
            let first = self.xor(t, k[0]);
            let t = self.xor(h0, c[3]);
            let third = self.xor(t, k[1]);
            c = [first, l1, third, l0];
        }
        c[word as usize]
    }
}

/// A literal as it lies in a lane.
fn literal_bits(dtype: DType, literal: Literal) -> u32 {
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
