//! An assembler for what wide loops need: vector instructions on 256-bit registers (VEX) or 512-bit ones (EVEX), and a handful of integer instructions.
//!
//! Encodings after the Intel 64 manual, volume 2 (section 2.3, VEX; 2.7, EVEX; opcode tables of each instruction).

use optc_ir::kernel::LANES;
use std::fmt::Write;

/// General registers by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gpr(pub(crate) u8);

pub(crate) const RAX: Gpr = Gpr(0);
pub(crate) const RCX: Gpr = Gpr(1);
pub(crate) const RDX: Gpr = Gpr(2);
pub(crate) const RBX: Gpr = Gpr(3);
pub(crate) const RSP: Gpr = Gpr(4);
pub(crate) const RBP: Gpr = Gpr(5);
pub(crate) const RSI: Gpr = Gpr(6);
pub(crate) const RDI: Gpr = Gpr(7);

impl Gpr {
    fn name(self) -> String {
        const NAMES: [&str; 8] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
        NAMES.get(usize::from(self.0)).map_or_else(|| format!("r{}", self.0), |n| (*n).to_string())
    }
}

/// A vector register.
pub(crate) type Vector = u8;

/// A register of masks, one bit for each lane; 1 to 7 may stand as the mask of an instruction.
pub(crate) type Mask = u8;

/// What an instruction on 512-bit registers does with the lanes whose bit in the mask is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// There is no mask.
    All,
    /// They keep what was there; of a blend, the first operand.
    Keep(Mask),
    /// They become 0.
    Zero(Mask),
}

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mem {
    /// base + displacement.
    At(Gpr, i32),
    /// base + index * 2^scale + displacement.
    Indexed(Gpr, Gpr, u8, i32),
    /// This many bytes into the pool of constants behind the code.
    Pool(usize),
}

/// A register or a place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    Reg(Vector),
    Mem(Mem),
}

/// A vector instruction's opcode: mandatory prefix (0 none, 1 66, 2 F3, 3 F2), opcode map (1 0F, 2 0F38, 3 0F3A), opcode byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Opcode {
    pub(crate) name: &'static str,
    pub(crate) prefix: u8,
    pub(crate) map: u8,
    pub(crate) byte: u8,
}

macro_rules! opcodes {
    ($($constant:ident $name:literal $prefix:literal $map:literal $byte:literal;)*) => {
        $(pub(crate) const $constant: Opcode = Opcode { name: $name, prefix: $prefix, map: $map, byte: $byte };)*
    };
}

opcodes! {
    ADD "vaddps" 0 1 0x58;
    MUL "vmulps" 0 1 0x59;
    SUB "vsubps" 0 1 0x5C;
    MIN "vminps" 0 1 0x5D;
    DIV "vdivps" 0 1 0x5E;
    MAX "vmaxps" 0 1 0x5F;
    SQRT "vsqrtps" 0 1 0x51;
    AND "vandps" 0 1 0x54;
    OR "vorps" 0 1 0x56;
    XOR "vxorps" 0 1 0x57;
    CMP "vcmpps" 0 1 0xC2;
    FLOAT_OF_INT "vcvtdq2ps" 0 1 0x5B;
    INT_OF_FLOAT "vcvttps2dq" 2 1 0x5B;
    ROUND "vroundps" 1 3 0x08;
    BLENDV "vblendvps" 1 3 0x4A;
    BROADCAST "vbroadcastss" 1 2 0x18;
    BROADCAST_FOUR "vbroadcastf32x4" 1 2 0x1A;
    INSERT_FOUR "vinsertf32x4" 1 3 0x18;
    EXTRACT_FOUR "vextractf32x4" 1 3 0x19;
    UNPACK_LOW "vunpcklps" 0 1 0x14;
    UNPACK_HIGH "vunpckhps" 0 1 0x15;
    SHUFFLE_TWO "vshufps" 0 1 0xC6;
    BROADCAST_DOUBLE "vbroadcastsd" 1 2 0x19;
    ADD_DOUBLES "vaddpd" 1 1 0x58;
    LOAD "vmovups" 0 1 0x10;
    STORE "vmovups" 0 1 0x11;
    MOVE "vmovaps" 0 1 0x28;
    MASK_LOAD "vmaskmovps" 1 2 0x2C;
    IADD "vpaddd" 1 1 0xFE;
    ISUB "vpsubd" 1 1 0xFA;
    IMUL "vpmulld" 1 2 0x40;
    MUL_EVEN "vpmuludq" 1 1 0xF4;
    IEQ "vpcmpeqd" 1 1 0x76;
    IGT "vpcmpgtd" 1 1 0x66;
    IABS "vpabsd" 1 2 0x1E;
    SMIN "vpminsd" 1 2 0x39;
    UMIN "vpminud" 1 2 0x3B;
    SMAX "vpmaxsd" 1 2 0x3D;
    UMAX "vpmaxud" 1 2 0x3F;
    SHL_VAR "vpsllvd" 1 2 0x47;
    SHR_VAR "vpsrlvd" 1 2 0x45;
    SAR_VAR "vpsravd" 1 2 0x46;
    SHIFT "vpshiftd" 1 1 0x72;
    SHIFT_LONG "vpshiftq" 1 1 0x73;
    BLEND_WORDS "vpblendd" 1 3 0x02;
    WIDEN_BYTES "vpmovzxbd" 1 2 0x31;
    WIDEN_SIGNED "vpmovsxbd" 1 2 0x21;
    WIDEN_HALVES "vpmovzxwd" 1 2 0x33;
    UPPER "vextracti128" 1 3 0x39;
    PACK_UNSIGNED "vpackusdw" 1 2 0x2B;
    PACK_BYTES "vpackuswb" 1 1 0x67;
    PACK_SIGNED "vpackssdw" 1 1 0x6B;
    SHUFFLE "vpshufd" 1 1 0x70;
    PERMUTE "vpermd" 1 2 0x36;
    GIVE_SIGN "vpsignd" 1 2 0x0A;
    STORE_LOW "vmovq" 1 1 0xD6;
    OF_HALF "vcvtph2ps" 1 2 0x13;
    TO_HALF "vcvtps2ph" 1 3 0x1D;
    FMA132 "vfmadd132ps" 1 2 0x98;
    FMA213 "vfmadd213ps" 1 2 0xA8;
    FMA231 "vfmadd231ps" 1 2 0xB8;
    FMS132 "vfmsub132ps" 1 2 0x9A;
    FMS213 "vfmsub213ps" 1 2 0xAA;
    FMS231 "vfmsub231ps" 1 2 0xBA;
    BLEND_MASK "vblendmps" 1 2 0x65;
    TO_MASK "vpmovd2m" 2 2 0x39;
    OF_MASK "vpmovm2d" 2 2 0x38;
    STORE_HALVES "vpmovdw" 2 2 0x33;
    STORE_BYTES "vpmovdb" 2 2 0x31;
    STORE_SATURATED "vpmovusdb" 2 2 0x11;
    MASK_AND "kandw" 0 1 0x41;
    MASK_NOT "knotw" 0 1 0x44;
    MASK_OR "korw" 0 1 0x45;
    MASK_XOR "kxorw" 0 1 0x47;
    MASK_MOVE "kmovw" 0 1 0x92;
}

impl Opcode {
    /// Whether the form for 512-bit registers says that lanes have 64 bits.
    fn long_lanes(self) -> bool {
        matches!(self, MUL_EVEN | SHIFT_LONG)
    }

    /// Bytes in memory that the form for 512-bit registers reads or writes; short displacements count them.
    fn bytes(self) -> i32 {
        match self {
            BROADCAST => 4,
            WIDEN_BYTES | WIDEN_SIGNED | STORE_BYTES | STORE_SATURATED | BROADCAST_FOUR | INSERT_FOUR | EXTRACT_FOUR => 16,
            WIDEN_HALVES | OF_HALF | TO_HALF | STORE_HALVES => 32,
            _ => 64,
        }
    }
}

/// Digits of the /digit forms of shifts by a constant.
pub(crate) const SHIFT_RIGHT: u8 = 2;
pub(crate) const SHIFT_ARITHMETIC: u8 = 4;
pub(crate) const SHIFT_LEFT: u8 = 6;

/// A place in the code to jump to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label(usize);

/// Code under construction.
pub(crate) struct Assembler {
    /// Vector registers have 512 bits, otherwise 256.
    long: bool,
    bytes: Vec<u8>,
    pool: Vec<u8>,
    /// Displacements to the pool: where they stand, where their instruction ends, the offset in the pool.
    fixes: Vec<(usize, usize, usize)>,
    /// The code as text, if wanted.
    listing: Option<String>,
}

impl Assembler {
    pub(crate) fn new(long: bool, listing: bool) -> Self {
        Assembler { long, bytes: Vec::new(), pool: Vec::new(), fixes: Vec::new(), listing: listing.then(String::new) }
    }

    /// Bytes of a vector register.
    fn width(&self) -> usize {
        if self.long { 64 } else { 32 }
    }

    /// Puts a vector of these 32 bits in every lane into the pool, or finds it there.
    pub(crate) fn constant(&mut self, bits: u32) -> Mem {
        self.vector(&[bits; LANES])
    }

    /// Puts a vector into the pool, or finds it there; of the lanes, as many as a register has.
    pub(crate) fn vector(&mut self, lanes: &[u32]) -> Mem {
        let width = self.width();
        let bytes: Vec<u8> = lanes[..width / 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let found = self.pool.chunks(width).position(|c| c == bytes);
        Mem::Pool(found.map_or_else(
            || {
                self.pool.extend_from_slice(&bytes);
                self.pool.len() - width
            },
            |i| width * i,
        ))
    }

    fn say(&mut self, text: impl FnOnce(&Self) -> String) {
        if let Some(mut listing) = self.listing.take() {
            let _ = writeln!(listing, "  {}", text(self));
            self.listing = Some(listing);
        }
    }

    /// ModRM, SIB and displacement; `after` bytes follow them in the instruction. Short displacements count this many bytes.
    fn address(&mut self, reg: u8, rm: Operand, after: usize, unit: i32) {
        let reg = (reg & 7) << 3;
        match rm {
            Operand::Reg(r) => self.bytes.push(0xC0 | reg | (r & 7)),
            Operand::Mem(Mem::Pool(offset)) => {
                self.bytes.push(reg | 5);
                let at = self.bytes.len();
                self.bytes.extend_from_slice(&[0; 4]);
                self.fixes.push((at, at + 4 + after, offset));
            }
            Operand::Mem(Mem::At(base, disp)) => {
                let needs_sib = base.0 & 7 == 4;
                let short = i8::try_from(disp / unit).ok().filter(|_| disp % unit == 0);
                self.bytes.push(if short.is_some() { 0x40 } else { 0x80 } | reg | if needs_sib { 4 } else { base.0 & 7 });
                if needs_sib {
                    self.bytes.push(0x24);
                }
                self.displacement(disp, short);
            }
            Operand::Mem(Mem::Indexed(base, index, scale, disp)) => {
                let short = i8::try_from(disp / unit).ok().filter(|_| disp % unit == 0);
                self.bytes.push(if short.is_some() { 0x40 } else { 0x80 } | reg | 4);
                self.bytes.push(scale << 6 | (index.0 & 7) << 3 | (base.0 & 7));
                self.displacement(disp, short);
            }
        }
    }

    fn displacement(&mut self, disp: i32, short: Option<i8>) {
        match short {
            Some(d) => self.bytes.push(d as u8),
            None => self.bytes.extend_from_slice(&disp.to_le_bytes()),
        }
    }

    fn extension_bits(rm: Operand) -> (bool, bool) {
        match rm {
            Operand::Reg(r) => (false, r >= 8),
            Operand::Mem(Mem::At(base, _)) => (false, base.0 >= 8),
            Operand::Mem(Mem::Indexed(base, index, ..)) => (index.0 >= 8, base.0 >= 8),
            Operand::Mem(Mem::Pool(_)) => (false, false),
        }
    }

    fn vex(&mut self, op: Opcode, long: bool, reg: u8, second: u8, rm: Operand, immediate: Option<u8>) {
        let (x, b) = Self::extension_bits(rm);
        let r = reg >= 8;
        let last = (!second & 15) << 3 | u8::from(long) << 2 | op.prefix;
        if op.map == 1 && !x && !b {
            self.bytes.extend_from_slice(&[0xC5, u8::from(!r) << 7 | last]);
        } else {
            self.bytes.extend_from_slice(&[0xC4, u8::from(!r) << 7 | u8::from(!x) << 6 | u8::from(!b) << 5 | op.map, last]);
        }
        self.bytes.push(op.byte);
        self.address(reg, rm, immediate.iter().len(), 1);
        self.bytes.extend(immediate);
    }

    fn evex(&mut self, op: Opcode, reg: u8, second: u8, rm: Operand, immediate: Option<u8>, lanes: Lanes) {
        let (x, b) = match rm {
            Operand::Reg(r) => (r >= 16, r & 8 != 0),
            mem => Self::extension_bits(mem),
        };
        let clear = |bit: bool, at: u8| u8::from(!bit) << at;
        let (zero, mask) = match lanes {
            Lanes::All => (false, 0),
            Lanes::Keep(k) => (false, k),
            Lanes::Zero(k) => (true, k),
        };
        self.bytes.extend_from_slice(&[
            0x62,
            clear(reg & 8 != 0, 7) | clear(x, 6) | clear(b, 5) | clear(reg >= 16, 4) | op.map,
            u8::from(op.long_lanes()) << 7 | (!second & 15) << 3 | 4 | op.prefix,
            u8::from(zero) << 7 | 2 << 5 | clear(second >= 16, 3) | mask,
        ]);
        self.bytes.push(op.byte);
        self.address(reg, rm, immediate.iter().len(), op.bytes());
        self.bytes.extend(immediate);
    }

    /// An instruction on whole registers.
    fn vector_op(&mut self, op: Opcode, reg: u8, second: u8, rm: Operand, immediate: Option<u8>) {
        if self.long {
            self.evex(op, reg, second, rm, immediate, Lanes::All);
        } else {
            self.vex(op, true, reg, second, rm, immediate);
        }
    }

    fn name(&self, r: Vector) -> String {
        format!("{}mm{r}", if self.long { 'z' } else { 'y' })
    }

    fn show(&self, rm: Operand) -> String {
        match rm {
            Operand::Reg(r) => self.name(r),
            Operand::Mem(Mem::At(base, disp)) => format!("[{}{disp:+}]", base.name()),
            Operand::Mem(Mem::Indexed(base, index, scale, disp)) => format!("[{} + {}*{}{disp:+}]", base.name(), 1 << scale, index.name()),
            Operand::Mem(Mem::Pool(offset)) => format!("[pool + {offset}]"),
        }
    }

    fn show_immediate(immediate: Option<u8>) -> String {
        immediate.map_or_else(String::new, |i| format!(", {i}"))
    }

    /// dest = op(a, b).
    pub(crate) fn three(&mut self, op: Opcode, dest: Vector, a: Vector, b: Operand, immediate: Option<u8>) {
        self.vector_op(op, dest, a, b, immediate);
        self.say(|s| format!("{} {}, {}, {}{}", op.name, s.name(dest), s.name(a), s.show(b), Self::show_immediate(immediate)));
    }

    /// dest += a * b in lanes of 64 bits, which VEX.W says.
    pub(crate) fn fused_doubles(&mut self, dest: Vector, a: Vector, b: Vector) {
        let at = self.bytes.len();
        self.vex(FMA231, true, dest, a, Operand::Reg(b), None);
        self.bytes[at + 2] |= 0x80;
        self.say(|_| format!("vfmadd231pd ymm{dest}, ymm{a}, ymm{b}"));
    }

    /// dest = op(source).
    pub(crate) fn two(&mut self, op: Opcode, dest: Vector, source: Operand, immediate: Option<u8>) {
        self.vector_op(op, dest, 0, source, immediate);
        self.say(|s| format!("{} {}, {}{}", op.name, s.name(dest), s.show(source), Self::show_immediate(immediate)));
    }

    /// dest = op(a, b) on 512-bit registers, where the mask is set; `a` is the register 0 of instructions with one operand.
    pub(crate) fn masked(&mut self, op: Opcode, dest: Vector, a: Vector, b: Operand, lanes: Lanes) {
        self.evex(op, dest, a, b, None, lanes);
        self.say(|s| {
            let (k, zero) = match lanes {
                Lanes::All => (0, ""),
                Lanes::Keep(k) => (k, ""),
                Lanes::Zero(k) => (k, "{z}"),
            };
            format!("{} {}{{k{k}}}{zero}, {}, {}", op.name, s.name(dest), s.name(a), s.show(b))
        });
    }

    /// mask = op(a, b) on 512-bit registers: a comparison.
    pub(crate) fn compare_lanes(&mut self, op: Opcode, mask: Mask, a: Vector, b: Operand, immediate: Option<u8>) {
        self.evex(op, mask, a, b, immediate, Lanes::All);
        self.say(|s| format!("{} k{mask}, {}, {}{}", op.name, s.name(a), s.show(b), Self::show_immediate(immediate)));
    }

    /// The sign bits of a vector's lanes.
    pub(crate) fn signs(&mut self, mask: Mask, source: Vector) {
        self.evex(TO_MASK, mask, 0, Operand::Reg(source), None, Lanes::All);
        self.say(|s| format!("{} k{mask}, {}", TO_MASK.name, s.name(source)));
    }

    /// Lanes of ones where the mask is set, of zeros elsewhere.
    pub(crate) fn spread(&mut self, dest: Vector, mask: Mask) {
        self.evex(OF_MASK, dest, 0, Operand::Reg(mask), None, Lanes::All);
        self.say(|s| format!("{} {}, k{mask}", OF_MASK.name, s.name(dest)));
    }

    /// dest = op(a, b) of masks; [`MASK_NOT`] takes `b` alone.
    pub(crate) fn masks(&mut self, op: Opcode, dest: Mask, a: Mask, b: Mask) {
        let (long, second) = if op == MASK_NOT { (false, 0) } else { (true, a) };
        self.vex(op, long, dest, second, Operand::Reg(b), None);
        self.say(|_| format!("{} k{dest}, k{a}, k{b}", op.name));
    }

    /// A constant mask; the general register is overwritten.
    pub(crate) fn constant_mask(&mut self, dest: Mask, bits: u16, through: Gpr) {
        self.clear(through);
        self.add(through, i32::from(bits));
        self.vex(MASK_MOVE, false, dest, 0, Operand::Reg(through.0), None);
        self.say(|_| format!("{} k{dest}, {}", MASK_MOVE.name, through.name()));
    }

    /// An instruction on the lower 128 bits: dest = op(a, b).
    pub(crate) fn three_low(&mut self, op: Opcode, dest: Vector, a: Vector, b: Vector) {
        self.vex(op, false, dest, a, Operand::Reg(b), None);
        self.say(|_| format!("{} xmm{dest}, xmm{a}, xmm{b}", op.name));
    }

    /// An instruction on the lower 128 bits: dest = op(source).
    pub(crate) fn two_low(&mut self, op: Opcode, dest: Vector, source: Vector, immediate: u8) {
        self.vex(op, false, dest, 0, Operand::Reg(source), Some(immediate));
        self.say(|_| format!("{} xmm{dest}, xmm{source}, {immediate}", op.name));
    }

    /// Stores a register, or what the instruction makes of it, by an instruction whose register field is the source.
    pub(crate) fn store(&mut self, op: Opcode, to: Operand, source: Vector, immediate: Option<u8>) {
        self.vector_op(op, source, 0, to, immediate);
        self.say(|s| format!("{} {}, {}", op.name, s.show(to), s.name(source)));
    }

    /// Stores the lower 128 bits, or some of them.
    pub(crate) fn store_low(&mut self, op: Opcode, to: Operand, source: Vector) {
        self.vex(op, false, source, 0, to, None);
        self.say(|s| format!("{} {}, xmm{source}", op.name, s.show(to)));
    }

    /// Shifts each lane by a constant; `digit` says how.
    pub(crate) fn shift(&mut self, op: Opcode, digit: u8, dest: Vector, source: Vector, bits: u8) {
        self.vector_op(op, digit, dest, Operand::Reg(source), Some(bits));
        self.say(|s| format!("{}/{digit} {}, {}, {bits}", op.name, s.name(dest), s.name(source)));
    }

    /// Asks for a line of memory in the second cache.
    pub(crate) fn prefetch(&mut self, from: Mem) {
        let (x, b) = Self::extension_bits(Operand::Mem(from));
        self.bytes.extend_from_slice(&[0x40 | u8::from(x) << 1 | u8::from(b), 0x0F, 0x18]);
        self.address(2, Operand::Mem(from), 0, 1);
        self.say(|s| format!("prefetcht1 {}", s.show(Operand::Mem(from))));
    }

    pub(crate) fn zero_upper(&mut self) {
        self.bytes.extend_from_slice(&[0xC5, 0xF8, 0x77]);
        self.say(|_| "vzeroupper".to_string());
    }

    /// A 64-bit integer instruction with ModRM.
    fn integer(&mut self, opcode: u8, reg: u8, rm: Operand) {
        let (x, b) = Self::extension_bits(rm);
        self.bytes.extend_from_slice(&[0x48 | u8::from(reg >= 8) << 2 | u8::from(x) << 1 | u8::from(b), opcode]);
        self.address(reg, rm, 0, 1);
    }

    pub(crate) fn load_gpr(&mut self, dest: Gpr, from: Mem) {
        self.integer(0x8B, dest.0, Operand::Mem(from));
        self.say(|s| format!("mov {}, {}", dest.name(), s.show(Operand::Mem(from))));
    }

    pub(crate) fn move_gpr(&mut self, dest: Gpr, from: Gpr) {
        self.integer(0x8B, dest.0, Operand::Reg(from.0));
        self.say(|_| format!("mov {}, {}", dest.name(), from.name()));
    }

    pub(crate) fn lea(&mut self, dest: Gpr, from: Mem) {
        self.integer(0x8D, dest.0, Operand::Mem(from));
        self.say(|s| format!("lea {}, {}", dest.name(), s.show(Operand::Mem(from))));
    }

    /// dest = 0.
    pub(crate) fn clear(&mut self, dest: Gpr) {
        self.integer(0x31, dest.0, Operand::Reg(dest.0));
        self.say(|_| format!("xor {0}, {0}", dest.name()));
    }

    pub(crate) fn add(&mut self, dest: Gpr, by: i32) {
        self.integer(0x81, 0, Operand::Reg(dest.0));
        self.bytes.extend_from_slice(&by.to_le_bytes());
        self.say(|_| format!("add {}, {by}", dest.name()));
    }

    /// dest &= mask (sign-extended).
    pub(crate) fn and(&mut self, dest: Gpr, mask: i8) {
        self.integer(0x83, 4, Operand::Reg(dest.0));
        self.bytes.push(mask as u8);
        self.say(|_| format!("and {}, {mask}", dest.name()));
    }

    /// Compares for a following jump.
    pub(crate) fn compare(&mut self, a: Gpr, b: Gpr) {
        self.integer(0x3B, a.0, Operand::Reg(b.0));
        self.say(|_| format!("cmp {}, {}", a.name(), b.name()));
    }

    pub(crate) fn push(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.bytes.push(0x41);
        }
        self.bytes.push(0x50 | (r.0 & 7));
        self.say(|_| format!("push {}", r.name()));
    }

    pub(crate) fn pop(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.bytes.push(0x41);
        }
        self.bytes.push(0x58 | (r.0 & 7));
        self.say(|_| format!("pop {}", r.name()));
    }

    /// The top of a loop, on a line of the instruction cache.
    pub(crate) fn loop_head(&mut self) -> Label {
        const NOPS: [&[u8]; 9] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0F, 0x1F, 0x00],
            &[0x0F, 0x1F, 0x40, 0x00],
            &[0x0F, 0x1F, 0x44, 0x00, 0x00],
            &[0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00],
            &[0x0F, 0x1F, 0x80, 0, 0, 0, 0],
            &[0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0],
        ];
        let mut missing = self.bytes.len().next_multiple_of(32) - self.bytes.len();
        while missing > 0 {
            let n = missing.min(NOPS.len());
            self.bytes.extend_from_slice(NOPS[n - 1]);
            missing -= n;
        }
        self.say(|_| "loop:".to_string());
        Label(self.bytes.len())
    }

    /// Jumps back if the last comparison found less (signed).
    pub(crate) fn loop_while_less(&mut self, to: Label) {
        self.bytes.extend_from_slice(&[0x0F, 0x8C]);
        let distance = to.0 as i64 - (self.bytes.len() as i64 + 4);
        self.bytes.extend_from_slice(&(distance as i32).to_le_bytes());
        self.say(|_| "jl loop".to_string());
    }

    pub(crate) fn ret(&mut self) {
        self.bytes.push(0xC3);
        self.say(|_| "ret".to_string());
    }

    /// The bytes, to be placed on a multiple of 64, and the text if it was wanted.
    pub(crate) fn finish(mut self) -> (Vec<u8>, String) {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0xCC);
        for (at, end, offset) in std::mem::take(&mut self.fixes) {
            let distance = (self.bytes.len() + offset - end) as i32;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.bytes.extend_from_slice(&self.pool);
        (self.bytes, self.listing.unwrap_or_default())
    }
}
