//! The straight-line program of one pass of a wide loop, in single-assignment form.

use super::asm::{self, Opcode};
use optc_ir::kernel::{AccId, BufferId, Index, LANES, ValueId};
use rustc_hash::FxHashMap;

/// A vector value: the instruction that defines it.
pub(crate) type V = u32;

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// 32 bits.
    Word,
    /// 16 bits, widened with zeros.
    Halves,
    /// f16, converted.
    Half,
    /// 8 bits, widened with zeros.
    Byte,
    /// 8 bits, widened with their sign; only loaded.
    SignedByte,
}

impl Kind {
    /// Logarithm of the bytes of an element.
    pub(crate) fn scale(self) -> u8 {
        match self {
            Kind::Word => 2,
            Kind::Halves | Kind::Half => 1,
            Kind::Byte | Kind::SignedByte => 0,
        }
    }
}

/// Neighboring elements, or one for all lanes, relative to a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Position in [`Program::pointers`].
    pub(crate) pointer: usize,
    /// Elements from there.
    pub(crate) offset: i32,
    /// Element type.
    pub(crate) kind: Kind,
    /// Whether the place moves with the loop; otherwise it is one element.
    pub(crate) moves: bool,
}

/// One instruction. All but those that act ([`Inst::acts`]) define a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Inst {
    /// The same bits in every lane.
    Const(u32),
    /// Constant lanes; a register of eight has the first half, which the other repeats.
    Lanes([u32; LANES]),
    /// A value that is the same for the whole loop; position in [`Program::uniforms`].
    Uniform(usize),
    /// The pass's first position times this, in every lane.
    Start(u32),
    /// Elements of a buffer.
    Load(Place),
    /// Elements of a buffer where the mask is set, 0 elsewhere.
    MaskLoad(V, Place),
    /// op(a)
    Unary(Opcode, V, Option<u8>),
    /// op(a, b)
    Binary(Opcode, V, V, Option<u8>),
    /// A shift by a constant.
    Shift(Opcode, u8, V, u8),
    /// a * b + c
    Fma(V, V, V),
    /// a * b - c
    Fms(V, V, V),
    /// Where the mask is set the second, else the third.
    Blend(V, V, V),
    /// The lanes of an accumulator (position in [`Program::accs`]) at the start of a group.
    AccIn(usize, usize),
    /// Sets these lanes.
    AccOut(usize, usize, V),
    /// Stores to a buffer.
    Store(Place, V),
    /// Stores both groups' values of 16 bits (of 256-bit registers, which hold half a pass).
    Halves(Place, [V; 2]),
    /// Stores both groups' bytes: of values in the range of 16 bits the last eight, or (saturated) the nearest number a byte holds.
    Bytes(Place, [V; 2], Pack),
    /// Such stores to two buffers.
    TwoBytes([Place; 2], [[V; 2]; 2], [Pack; 2]),
    /// Stores the bytes of values that are not negative, 255 for those above (512-bit registers).
    Saturated(Place, V),
    /// Asks for elements that a later loop of the same kind reads.
    Ahead(Place),
    /// Four neighboring elements of each fourth row, from a place on; bytes from row to row.
    Rows(Place, i32),
    /// Stores them.
    StoreRows(Place, i32, V),
}

/// How values of 16 bits become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pack {
    Last,
    Saturated,
}

impl Inst {
    /// The values it needs.
    pub(crate) fn operands(&self) -> impl Iterator<Item = V> + Clone + use<> {
        let all = match *self {
            Inst::Const(_)
            | Inst::Lanes(_)
            | Inst::Uniform(_)
            | Inst::Start(_)
            | Inst::Load(_)
            | Inst::AccIn(..)
            | Inst::Ahead(_)
            | Inst::Rows(..) => [None; 4],
            Inst::Unary(_, a, _)
            | Inst::Shift(_, _, a, _)
            | Inst::MaskLoad(a, _)
            | Inst::AccOut(_, _, a)
            | Inst::Store(_, a)
            | Inst::StoreRows(_, _, a)
            | Inst::Saturated(_, a) => [Some(a), None, None, None],
            Inst::Binary(_, a, b, _) | Inst::Bytes(_, [a, b], _) | Inst::Halves(_, [a, b]) => [Some(a), Some(b), None, None],
            Inst::Fma(a, b, c) | Inst::Fms(a, b, c) | Inst::Blend(a, b, c) => [Some(a), Some(b), Some(c), None],
            Inst::TwoBytes(_, [[a, b], [c, d]], _) => [Some(a), Some(b), Some(c), Some(d)],
        };
        all.into_iter().flatten()
    }

    /// Whether the value depends on the operands alone.
    fn pure(&self) -> bool {
        !matches!(self, Inst::Load(_) | Inst::MaskLoad(..) | Inst::Rows(..) | Inst::AccIn(..)) && !self.acts()
    }

    /// Whether it changes memory or an accumulator.
    fn acts(&self) -> bool {
        matches!(
            self,
            Inst::AccOut(..)
                | Inst::Store(..)
                | Inst::StoreRows(..)
                | Inst::Halves(..)
                | Inst::Bytes(..)
                | Inst::TwoBytes(..)
                | Inst::Saturated(..)
                | Inst::Ahead(_)
        )
    }

    /// Replaces the values it needs.
    fn rename(&mut self, name: &[V]) {
        let new = |v: &mut V| *v = name[*v as usize];
        match self {
            Inst::Const(_)
            | Inst::Lanes(_)
            | Inst::Uniform(_)
            | Inst::Start(_)
            | Inst::Load(_)
            | Inst::AccIn(..)
            | Inst::Ahead(_)
            | Inst::Rows(..) => {}
            Inst::Unary(_, a, _)
            | Inst::Shift(_, _, a, _)
            | Inst::MaskLoad(a, _)
            | Inst::AccOut(_, _, a)
            | Inst::Store(_, a)
            | Inst::StoreRows(_, _, a)
            | Inst::Saturated(_, a) => new(a),
            Inst::Binary(_, a, b, _) => [a, b].into_iter().for_each(new),
            Inst::Bytes(_, parts, _) | Inst::Halves(_, parts) => parts.iter_mut().for_each(new),
            Inst::Fma(a, b, c) | Inst::Fms(a, b, c) | Inst::Blend(a, b, c) => [a, b, c].into_iter().for_each(new),
            Inst::TwoBytes(_, parts, _) => parts.iter_mut().flatten().for_each(new),
        }
    }
}

/// Whether the operands of a binary instruction may be exchanged.
pub(crate) fn commutes(op: Opcode) -> bool {
    [
        asm::ADD,
        asm::MUL,
        asm::AND,
        asm::OR,
        asm::XOR,
        asm::IADD,
        asm::IMUL,
        asm::MUL_EVEN,
        asm::IEQ,
        asm::SMIN,
        asm::UMIN,
        asm::SMAX,
        asm::UMAX,
    ]
    .contains(&op)
}

/// A value of the surrounding code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A value of the kernel.
    Value(ValueId),
    /// An accumulator the loop does not update.
    Acc(AccId),
}

/// What a wide loop does in one pass, and what it needs from its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Lanes of a register: 8, and a pass has two groups of them, or 16.
    pub(crate) width: usize,
    pub(crate) insts: Vec<Inst>,
    /// Whether a value is the same in every pass.
    pub(crate) invariant: Vec<bool>,
    /// Elements at which places start, for the loop's first pass: buffer and index without the loop's axis; of a loop over rows, with it.
    pub(crate) pointers: Vec<(BufferId, Index)>,
    /// Bytes by which the first pointers move on from pass to pass.
    pub(crate) steps: Vec<i32>,
    pub(crate) uniforms: Vec<Source>,
    pub(crate) accs: Vec<AccId>,
    /// The lanes of each before the loop.
    pub(crate) starts: Vec<u32>,
    known: FxHashMap<Inst, V>,
}

impl Program {
    pub(crate) fn new(width: usize) -> Self {
        Program {
            width,
            insts: Vec::new(),
            invariant: Vec::new(),
            pointers: Vec::new(),
            steps: Vec::new(),
            uniforms: Vec::new(),
            accs: Vec::new(),
            starts: Vec::new(),
            known: FxHashMap::default(),
        }
    }

    /// Groups of lanes of a pass.
    pub(crate) fn groups(&self) -> usize {
        LANES / self.width
    }

    /// Adds an instruction, or finds the value where the same one gives it already.
    pub(crate) fn push(&mut self, inst: Inst) -> V {
        if let Some(&v) = self.known.get(&inst) {
            return v;
        }
        let v = self.insts.len() as V;
        let invariant = inst.pure() && !matches!(inst, Inst::Start(_)) && inst.operands().all(|x| self.invariant[x as usize]);
        self.insts.push(inst);
        self.invariant.push(invariant);
        if inst.pure() {
            self.known.insert(inst, v);
        }
        v
    }

    /// A bound of the magnitude of a float, rounding included, where the instructions show one: random words become numbers of known range.
    pub(crate) fn most(&self, v: V) -> Option<f64> {
        let rounded = |x: f64| x * (1.0 + f64::from(f32::EPSILON));
        match self.insts[v as usize] {
            Inst::Const(bits) => Some(f64::from(f32::from_bits(bits).abs())).filter(|x| x.is_finite()),
            Inst::Unary(asm::FLOAT_OF_INT, a, _) => self.most_integer(a).map(rounded),
            Inst::Binary(asm::MUL, a, b, _) => Some(rounded(self.most(a)? * self.most(b)?)),
            Inst::Binary(asm::ADD | asm::SUB, a, b, _) => Some(rounded(self.most(a)? + self.most(b)?)),
            _ => None,
        }
    }

    /// A bound of an integer that is not negative.
    fn most_integer(&self, v: V) -> Option<f64> {
        match self.insts[v as usize] {
            Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, _, by) if (1..32).contains(&by) => Some(f64::from(u32::MAX >> by)),
            Inst::Binary(asm::SHR_VAR, _, by, _) => self.bits(by).filter(|by| (1..32).contains(by)).map(|by| f64::from(u32::MAX >> by)),
            _ => None,
        }
    }

    /// Least and greatest value of 32-bit integers with a sign, where the instructions show bounds.
    pub(crate) fn range(&self, v: V) -> Option<(i64, i64)> {
        let constant = |v: V| self.bits(v).map(|b| i64::from(b as i32));
        let both = |a: V, b: V| Some((self.range(a)?, self.range(b)?));
        let inside = |low: i64, high: i64| (low >= i64::from(i32::MIN) && high <= i64::from(i32::MAX)).then_some((low, high));
        match self.insts[v as usize] {
            Inst::Const(bits) => Some((i64::from(bits as i32), i64::from(bits as i32))),
            Inst::Load(Place { kind: Kind::Byte, .. }) => Some((0, 255)),
            Inst::Load(Place { kind: Kind::SignedByte, .. }) => Some((-128, 127)),
            Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, _, by) if (1..32).contains(&by) => Some((0, i64::from(u32::MAX >> by))),
            Inst::Shift(asm::SHIFT, asm::SHIFT_ARITHMETIC, _, by) if by < 32 => {
                Some((i64::from(i32::MIN >> by), i64::from(i32::MAX >> by)))
            }
            Inst::Binary(asm::AND, a, b, _) => constant(b).or_else(|| constant(a)).filter(|m| *m >= 0).map(|m| (0, m)),
            Inst::Binary(asm::IADD, a, b, _) => both(a, b).and_then(|(a, b)| inside(a.0 + b.0, a.1 + b.1)),
            Inst::Binary(asm::ISUB, a, b, _) => both(a, b).and_then(|(a, b)| inside(a.0 - b.1, a.1 - b.0)),
            Inst::Binary(asm::IMUL, a, b, _) => both(a, b).and_then(|(a, b)| {
                let products = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
                inside(products.into_iter().min().unwrap_or(0), products.into_iter().max().unwrap_or(0))
            }),
            // One bound is enough: a value between constants may be anything before.
            Inst::Binary(asm::SMIN, a, b, _) if constant(b).is_some() || constant(a).is_some() => {
                let any = (i64::from(i32::MIN), i64::from(i32::MAX));
                let (a, b) = (self.range(a).unwrap_or(any), self.range(b).unwrap_or(any));
                Some((a.0.min(b.0), a.1.min(b.1)))
            }
            Inst::Binary(asm::SMAX, a, b, _) if constant(b).is_some() || constant(a).is_some() => {
                let any = (i64::from(i32::MIN), i64::from(i32::MAX));
                let (a, b) = (self.range(a).unwrap_or(any), self.range(b).unwrap_or(any));
                Some((a.0.max(b.0), a.1.max(b.1)))
            }
            Inst::Binary(asm::SMIN, a, b, _) => both(a, b).map(|(a, b)| (a.0.min(b.0), a.1.min(b.1))),
            Inst::Binary(asm::SMAX, a, b, _) => both(a, b).map(|(a, b)| (a.0.max(b.0), a.1.max(b.1))),
            Inst::Binary(asm::GIVE_SIGN, a, _, _) => self.range(a).map(|(low, high)| (low.min(-high), high.max(-low))),
            Inst::Blend(_, a, b) => both(a, b).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1))),
            _ => None,
        }
    }

    /// Removes what nothing needs.
    pub(crate) fn prune(&mut self) {
        let mut needed: Vec<bool> = self.insts.iter().map(Inst::acts).collect();
        for i in (0..self.insts.len()).rev() {
            if needed[i] {
                self.insts[i].operands().for_each(|v| needed[v as usize] = true);
            }
        }
        let mut name = vec![0; needed.len()];
        let (mut insts, mut invariant) = (Vec::new(), Vec::new());
        for (i, inst) in std::mem::take(&mut self.insts).into_iter().enumerate().filter(|(i, _)| needed[*i]) {
            let mut inst = inst;
            inst.rename(&name);
            name[i] = insts.len() as V;
            insts.push(inst);
            invariant.push(self.invariant[i]);
        }
        (self.insts, self.invariant) = (insts, invariant);
        self.known.clear();
    }

    /// Constant lanes, and whether they are all the same.
    pub(crate) fn lanes(&self, v: V) -> Option<[u32; LANES]> {
        match self.insts[v as usize] {
            Inst::Const(bits) => Some([bits; LANES]),
            Inst::Lanes(lanes) => Some(lanes),
            _ => None,
        }
    }

    /// The bits of a constant.
    pub(crate) fn bits(&self, v: V) -> Option<u32> {
        match self.insts[v as usize] {
            Inst::Const(bits) => Some(bits),
            _ => None,
        }
    }
}
