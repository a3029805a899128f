//! The straight-line program of one pass of a wide loop, in single-assignment form.

use super::asm::{self, Opcode};
use optc_ir::kernel::{AccId, BufferId, Index, ValueId};
use rustc_hash::FxHashMap;

/// Lanes of one register.
pub(crate) const WIDTH: usize = 8;

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
}

impl Kind {
    /// Logarithm of the bytes of an element.
    pub(crate) fn scale(self) -> u8 {
        match self {
            Kind::Word => 2,
            Kind::Halves | Kind::Half => 1,
            Kind::Byte => 0,
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

/// One instruction. All but the last two define a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Inst {
    /// The same bits in every lane.
    Const(u32),
    /// first, first + 1, …
    Lanes(u32),
    /// A value that is the same for the whole loop; position in [`Program::uniforms`].
    Uniform(usize),
    /// The pass's first position, in every lane.
    Start,
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
    /// Where the mask is set the second, else the third.
    Blend(V, V, V),
    /// The lanes of an accumulator (position in [`Program::accs`]) at the start of a group.
    AccIn(usize, usize),
    /// Sets these lanes.
    AccOut(usize, usize, V),
    /// Stores to a buffer.
    Store(Place, V),
}

impl Inst {
    /// The values it needs.
    pub(crate) fn operands(&self) -> impl Iterator<Item = V> + use<> {
        let all = match *self {
            Inst::Const(_) | Inst::Lanes(_) | Inst::Uniform(_) | Inst::Start | Inst::Load(_) | Inst::AccIn(..) => [None; 3],
            Inst::Unary(_, a, _) | Inst::Shift(_, _, a, _) | Inst::MaskLoad(a, _) | Inst::AccOut(_, _, a) | Inst::Store(_, a) => {
                [Some(a), None, None]
            }
            Inst::Binary(_, a, b, _) => [Some(a), Some(b), None],
            Inst::Fma(a, b, c) | Inst::Blend(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        all.into_iter().flatten()
    }

    /// Whether the value depends on the operands alone.
    fn pure(&self) -> bool {
        !matches!(self, Inst::Load(_) | Inst::MaskLoad(..) | Inst::AccIn(..) | Inst::AccOut(..) | Inst::Store(..))
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) insts: Vec<Inst>,
    /// Whether a value is the same in every pass.
    pub(crate) invariant: Vec<bool>,
    /// Elements at which places start, for the loop's first pass: buffer and index without the loop's axis.
    pub(crate) pointers: Vec<(BufferId, Index)>,
    pub(crate) uniforms: Vec<Source>,
    pub(crate) accs: Vec<AccId>,
    known: FxHashMap<Inst, V>,
}

impl Program {
    /// Adds an instruction, or finds the value where the same one gives it already.
    pub(crate) fn push(&mut self, inst: Inst) -> V {
        if let Some(&v) = self.known.get(&inst) {
            return v;
        }
        let v = self.insts.len() as V;
        let invariant = inst.pure() && inst != Inst::Start && inst.operands().all(|x| self.invariant[x as usize]);
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

    /// The bits of a constant.
    pub(crate) fn bits(&self, v: V) -> Option<u32> {
        match self.insts[v as usize] {
            Inst::Const(bits) => Some(bits),
            _ => None,
        }
    }
}
