//! An assembler for what wide loops need: VEX-encoded vector instructions on 256-bit registers and a handful of integer instructions.
//!
//! Encodings after the Intel 64 manual, volume 2 (section 2.3, VEX; opcode tables of each instruction).

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
pub(crate) type Ymm = u8;

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
    Reg(Ymm),
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
    bytes: Vec<u8>,
    pool: Vec<u8>,
    /// Displacements to the pool: where they stand, where their instruction ends, the offset in the pool.
    fixes: Vec<(usize, usize, usize)>,
    /// The code as text, if wanted.
    listing: Option<String>,
}

impl Assembler {
    pub(crate) fn new(listing: bool) -> Self {
        Assembler { bytes: Vec::new(), pool: Vec::new(), fixes: Vec::new(), listing: listing.then(String::new) }
    }

    /// Puts eight copies of these 32 bits into the pool, or finds them there.
    pub(crate) fn constant(&mut self, bits: u32) -> Mem {
        self.vector([bits; 8])
    }

    /// Puts a vector into the pool, or finds it there.
    pub(crate) fn vector(&mut self, lanes: [u32; 8]) -> Mem {
        let bytes: Vec<u8> = lanes.iter().flat_map(|x| x.to_le_bytes()).collect();
        let found = self.pool.chunks(32).position(|c| c == bytes);
        Mem::Pool(found.map_or_else(
            || {
                self.pool.extend_from_slice(&bytes);
                self.pool.len() - 32
            },
            |i| 32 * i,
        ))
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(listing) = &mut self.listing {
            let _ = writeln!(listing, "  {}", text());
        }
    }

    /// ModRM, SIB and displacement; `after` bytes follow them in the instruction.
    fn address(&mut self, reg: u8, rm: Operand, after: usize) {
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
                let short = i8::try_from(disp).ok();
                self.bytes.push(if short.is_some() { 0x40 } else { 0x80 } | reg | if needs_sib { 4 } else { base.0 & 7 });
                if needs_sib {
                    self.bytes.push(0x24);
                }
                self.displacement(disp, short);
            }
            Operand::Mem(Mem::Indexed(base, index, scale, disp)) => {
                let short = i8::try_from(disp).ok();
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
        self.address(reg, rm, immediate.iter().len());
        self.bytes.extend(immediate);
    }

    fn show(rm: Operand) -> String {
        match rm {
            Operand::Reg(r) => format!("ymm{r}"),
            Operand::Mem(Mem::At(base, disp)) => format!("[{}{disp:+}]", base.name()),
            Operand::Mem(Mem::Indexed(base, index, scale, disp)) => format!("[{} + {}*{}{disp:+}]", base.name(), 1 << scale, index.name()),
            Operand::Mem(Mem::Pool(offset)) => format!("[pool + {offset}]"),
        }
    }

    /// dest = op(a, b).
    pub(crate) fn three(&mut self, op: Opcode, dest: Ymm, a: Ymm, b: Operand, immediate: Option<u8>) {
        self.vex(op, true, dest, a, b, immediate);
        self.say(|| {
            format!("{} ymm{dest}, ymm{a}, {}{}", op.name, Self::show(b), immediate.map_or_else(String::new, |i| format!(", {i}")))
        });
    }

    /// dest += a * b in lanes of 64 bits, which VEX.W says.
    pub(crate) fn fused_doubles(&mut self, dest: Ymm, a: Ymm, b: Ymm) {
        let at = self.bytes.len();
        self.vex(FMA231, true, dest, a, Operand::Reg(b), None);
        self.bytes[at + 2] |= 0x80;
        self.say(|| format!("vfmadd231pd ymm{dest}, ymm{a}, ymm{b}"));
    }

    /// dest = op(source).
    pub(crate) fn two(&mut self, op: Opcode, dest: Ymm, source: Operand, immediate: Option<u8>) {
        self.vex(op, true, dest, 0, source, immediate);
        self.say(|| format!("{} ymm{dest}, {}{}", op.name, Self::show(source), immediate.map_or_else(String::new, |i| format!(", {i}"))));
    }

    /// An instruction on the lower 128 bits: dest = op(a, b).
    pub(crate) fn three_low(&mut self, op: Opcode, dest: Ymm, a: Ymm, b: Ymm) {
        self.vex(op, false, dest, a, Operand::Reg(b), None);
        self.say(|| format!("{} xmm{dest}, xmm{a}, xmm{b}", op.name));
    }

    /// An instruction on the lower 128 bits: dest = op(source).
    pub(crate) fn two_low(&mut self, op: Opcode, dest: Ymm, source: Ymm, immediate: u8) {
        self.vex(op, false, dest, 0, Operand::Reg(source), Some(immediate));
        self.say(|| format!("{} xmm{dest}, xmm{source}, {immediate}", op.name));
    }

    /// Stores a register, or its lower part, by an instruction whose register field is the source.
    pub(crate) fn store(&mut self, op: Opcode, long: bool, to: Operand, source: Ymm, immediate: Option<u8>) {
        self.vex(op, long, source, 0, to, immediate);
        self.say(|| format!("{} {}, {}mm{source}", op.name, Self::show(to), if long { 'y' } else { 'x' }));
    }

    /// Shifts each lane by a constant; `digit` says how.
    pub(crate) fn shift(&mut self, op: Opcode, digit: u8, dest: Ymm, source: Ymm, bits: u8) {
        self.vex(op, true, digit, dest, Operand::Reg(source), Some(bits));
        self.say(|| format!("{}/{digit} ymm{dest}, ymm{source}, {bits}", op.name));
    }

    /// Asks for a line of memory in the second cache.
    pub(crate) fn prefetch(&mut self, from: Mem) {
        let (x, b) = Self::extension_bits(Operand::Mem(from));
        self.bytes.extend_from_slice(&[0x40 | u8::from(x) << 1 | u8::from(b), 0x0F, 0x18]);
        self.address(2, Operand::Mem(from), 0);
        self.say(|| format!("prefetcht1 {}", Self::show(Operand::Mem(from))));
    }

    pub(crate) fn zero_upper(&mut self) {
        self.bytes.extend_from_slice(&[0xC5, 0xF8, 0x77]);
        self.say(|| "vzeroupper".to_string());
    }

    /// A 64-bit integer instruction with ModRM.
    fn integer(&mut self, opcode: u8, reg: u8, rm: Operand) {
        let (x, b) = Self::extension_bits(rm);
        self.bytes.extend_from_slice(&[0x48 | u8::from(reg >= 8) << 2 | u8::from(x) << 1 | u8::from(b), opcode]);
        self.address(reg, rm, 0);
    }

    pub(crate) fn load_gpr(&mut self, dest: Gpr, from: Mem) {
        self.integer(0x8B, dest.0, Operand::Mem(from));
        self.say(|| format!("mov {}, {}", dest.name(), Self::show(Operand::Mem(from))));
    }

    pub(crate) fn move_gpr(&mut self, dest: Gpr, from: Gpr) {
        self.integer(0x8B, dest.0, Operand::Reg(from.0));
        self.say(|| format!("mov {}, {}", dest.name(), from.name()));
    }

    pub(crate) fn lea(&mut self, dest: Gpr, from: Mem) {
        self.integer(0x8D, dest.0, Operand::Mem(from));
        self.say(|| format!("lea {}, {}", dest.name(), Self::show(Operand::Mem(from))));
    }

    /// dest = 0.
    pub(crate) fn clear(&mut self, dest: Gpr) {
        self.integer(0x31, dest.0, Operand::Reg(dest.0));
        self.say(|| format!("xor {0}, {0}", dest.name()));
    }

    pub(crate) fn add(&mut self, dest: Gpr, by: i32) {
        self.integer(0x81, 0, Operand::Reg(dest.0));
        self.bytes.extend_from_slice(&by.to_le_bytes());
        self.say(|| format!("add {}, {by}", dest.name()));
    }

    /// dest &= mask (sign-extended).
    pub(crate) fn and(&mut self, dest: Gpr, mask: i8) {
        self.integer(0x83, 4, Operand::Reg(dest.0));
        self.bytes.push(mask as u8);
        self.say(|| format!("and {}, {mask}", dest.name()));
    }

    /// Compares for a following jump.
    pub(crate) fn compare(&mut self, a: Gpr, b: Gpr) {
        self.integer(0x3B, a.0, Operand::Reg(b.0));
        self.say(|| format!("cmp {}, {}", a.name(), b.name()));
    }

    pub(crate) fn push(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.bytes.push(0x41);
        }
        self.bytes.push(0x50 | (r.0 & 7));
        self.say(|| format!("push {}", r.name()));
    }

    pub(crate) fn pop(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.bytes.push(0x41);
        }
        self.bytes.push(0x58 | (r.0 & 7));
        self.say(|| format!("pop {}", r.name()));
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
        self.say(|| "loop:".to_string());
        Label(self.bytes.len())
    }

    /// Jumps back if the last comparison found less (signed).
    pub(crate) fn loop_while_less(&mut self, to: Label) {
        self.bytes.extend_from_slice(&[0x0F, 0x8C]);
        let distance = to.0 as i64 - (self.bytes.len() as i64 + 4);
        self.bytes.extend_from_slice(&(distance as i32).to_le_bytes());
        self.say(|| "jl loop".to_string());
    }

    pub(crate) fn ret(&mut self) {
        self.bytes.push(0xC3);
        self.say(|| "ret".to_string());
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
