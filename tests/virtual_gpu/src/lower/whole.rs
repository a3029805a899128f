//! Instructions on whole numbers and bits.

use super::{Compute, Mods};
use crate::exec::alu::{four, one, pair, three, two};
use crate::exec::program::Alu;
use crate::ptx::Ty;

/// A whole number in a register.
pub trait Bits: Copy {
    /// The low bits of a register.
    fn get(x: u64) -> Self;
    /// The register with zeros above.
    fn put(self) -> u64;
}
macro_rules! bits {
    ($($t:ty: $u:ty),*) => {$(impl Bits for $t {
        #[inline(always)]
        fn get(x: u64) -> $t { x as $t }
        #[inline(always)]
        fn put(self) -> u64 { self as $u as u64 }
    })*};
}
bits!(u8: u8, u16: u16, u32: u32, u64: u64, i8: u8, i16: u16, i32: u32, i64: u64);

impl Bits for bool {
    #[inline(always)]
    fn get(x: u64) -> bool {
        x & 1 != 0
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(self)
    }
}

/// The same body for each type of whole numbers.
macro_rules! each {
    ($ty:expr, [$($t:ident),*], $make:ident $a:tt $e:expr) => {
        match $ty {
            $(each!(@pattern $t) => Some(each!(@closure $make, $t, $a, $e)),)*
            _ => None,
        }
    };
    (@closure $make:ident, $t:ident, ($($a:ident),*), $e:expr) => {
        $make(|$($a: u64),*| {
            $(let $a = <each!(@type $t) as $crate::lower::whole::Bits>::get($a);)*
            $crate::lower::whole::Bits::put($e)
        })
    };
    (@pattern B16) => { Ty::B16 };
    (@pattern B32) => { Ty::B32 };
    (@pattern B64) => { Ty::B64 };
    (@pattern Pred) => { Ty::Pred };
    (@pattern U8) => { Ty::U8 };
    (@pattern U16) => { Ty::U16 };
    (@pattern U32) => { Ty::U32 };
    (@pattern U64) => { Ty::U64 };
    (@pattern S8) => { Ty::S8 };
    (@pattern S16) => { Ty::S16 };
    (@pattern S32) => { Ty::S32 };
    (@pattern S64) => { Ty::S64 };
    (@type B16) => { u16 };
    (@type B32) => { u32 };
    (@type B64) => { u64 };
    (@type Pred) => { bool };
    (@type U8) => { u8 };
    (@type U16) => { u16 };
    (@type U32) => { u32 };
    (@type U64) => { u64 };
    (@type S8) => { i8 };
    (@type S16) => { i16 };
    (@type S32) => { i32 };
    (@type S64) => { i64 };
}
pub(super) use each;

macro_rules! numbers {
    ($ty:expr, $make:ident $a:tt $e:expr) => { each!($ty, [U16, U32, U64, S16, S32, S64], $make $a $e) };
}
macro_rules! words {
    ($ty:expr, $make:ident $a:tt $e:expr) => { each!($ty, [B16, B32, B64], $make $a $e) };
}

/// Twice as wide.
fn wide(ty: Ty) -> Option<Ty> {
    Some(match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        Ty::S32 => Ty::S64,
        _ => return None,
    })
}

fn high(a: i128, b: i128, bits: u32) -> u64 {
    ((a.wrapping_mul(b)) >> bits) as u64
}

/// Bits `start..start + len`, with the sign bit of the field above if `signed`.
fn field(a: u64, start: u64, len: u64, bits: u64, signed: bool) -> u64 {
    let (start, len) = (start & 0xFF, len & 0xFF);
    let sign = match () {
        () if !signed || len == 0 => 0,
        () => a >> (start + len - 1).min(bits - 1) & 1,
    };
    let mut result = 0;
    for n in 0..bits {
        let bit = if n < len && start + n < bits { a >> (start + n) & 1 } else { sign };
        result |= bit << n;
    }
    result
}

fn insert(a: u64, b: u64, start: u64, len: u64, bits: u64) -> u64 {
    let (start, len) = (start & 0xFF, len & 0xFF);
    let mut result = b;
    for n in 0..len.min(bits.saturating_sub(start)) {
        result = result & !(1 << (start + n)) | (a >> n & 1) << (start + n);
    }
    result
}

/// Two halves of a word, each by itself.
fn halves(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16 | u64::from(f(a as u16, b as u16))
}

/// `n` bits from `start` on.
fn ones(start: u64, n: u64) -> u64 {
    if start > 31 { 0 } else { (u64::MAX >> (64 - n.clamp(1, 32)) & if n == 0 { 0 } else { u64::MAX }) << start & 0xFFFF_FFFF }
}

fn permute(a: u64, b: u64, selection: u64) -> u64 {
    let bytes = (b & 0xFFFF_FFFF) << 32 | a & 0xFFFF_FFFF;
    (0..4).fold(0, |all, n| {
        let choice = selection >> (4 * n) & 0xF;
        let byte = bytes >> (8 * (choice & 7)) & 0xFF;
        let byte = if choice & 8 != 0 { if byte & 0x80 != 0 { 0xFF } else { 0 } } else { byte };
        all | byte << (8 * n)
    })
}

/// Modes of `prmt` as selections, by the last two bits of `c`.
fn permute_mode(a: u64, b: u64, c: u64, table: [u64; 4]) -> u64 {
    permute(a, b, table[(c & 3) as usize])
}

/// The position of the highest bit that differs from the sign, or all ones.
fn find(a: u64, bits: u32, signed: bool) -> u64 {
    let a = if signed && a >> (bits - 1) & 1 == 1 { !a & (u64::MAX >> (64 - bits)) } else { a };
    if a == 0 { 0xFFFF_FFFF } else { u64::from(63 - a.leading_zeros()) }
}

/// What an instruction of this module computes; none if it is none of them.
pub(super) fn compute(op: &str, mods: &mut Mods) -> Option<Compute> {
    let carry = mods.take("cc");
    let mode = mods.choose(&["lo", "hi", "wide", "wrap", "clamp", "shiftamt", "sat", "relu", "b4e", "f4e", "rc8", "ecl", "ecr", "rc16"]);
    let direction = if op == "shf" { mods.choose(&["l", "r"]) } else { None };
    let types = mods.types();
    let ty = *types.last()?;
    let same = |alu: Option<Alu>, n: usize| alu.map(|alu| Compute::new(alu, ty, vec![ty; n]));
    let to = |alu: Option<Alu>, d: Ty, sources: Vec<Ty>| alu.map(|alu| Compute::new(alu, d, sources));
    if ty.float() {
        return None;
    }
    match (op, mode) {
        ("add", None) if carry => carried(ty, |t| match t {
            Ty::B32 => pair(|a, b, _| ((a as u32).wrapping_add(b as u32).into(), u64::from((a as u32).overflowing_add(b as u32).1))),
            _ => pair(|a, b, _| (a.wrapping_add(b), u64::from(a.overflowing_add(b).1))),
        }),
        ("sub", None) if carry => carried(ty, |t| match t {
            Ty::B32 => pair(|a, b, _| ((a as u32).wrapping_sub(b as u32).into(), u64::from((a as u32) < b as u32))),
            _ => pair(|a, b, _| (a.wrapping_sub(b), u64::from(a < b))),
        }),
        ("add" | "min" | "max", None) if matches!(ty, Ty::U16x2 | Ty::S16x2) => {
            let alu = match (op, ty) {
                ("add", _) => two(|a, b| halves(a, b, |x, y| x.wrapping_add(y))),
                ("min", Ty::U16x2) => two(|a, b| halves(a, b, |x, y| x.min(y))),
                ("max", Ty::U16x2) => two(|a, b| halves(a, b, |x, y| x.max(y))),
                ("min", _) => two(|a, b| halves(a, b, |x, y| (x as i16).min(y as i16) as u16)),
                _ => two(|a, b| halves(a, b, |x, y| (x as i16).max(y as i16) as u16)),
            };
            same(Some(alu), 2)
        }
        ("bmsk", Some(mode @ ("clamp" | "wrap"))) if ty == Ty::B32 => {
            let alu = match mode {
                "clamp" => two(|a, b| ones(a & 0xFFFF_FFFF, b & 0xFFFF_FFFF)),
                _ => two(|a, b| ones(a & 31, b & 31)),
            };
            to(Some(alu), ty, vec![Ty::U32, Ty::U32])
        }
        ("szext", Some(mode @ ("clamp" | "wrap"))) => {
            let alu = match (ty, mode) {
                (Ty::U32, "clamp") => two(|a, b| field(a & 0xFFFF_FFFF, 0, (b & 0xFFFF_FFFF).min(32), 32, false)),
                (Ty::S32, "clamp") => two(|a, b| field(a & 0xFFFF_FFFF, 0, (b & 0xFFFF_FFFF).min(32), 32, true)),
                (Ty::U32, _) => two(|a, b| field(a & 0xFFFF_FFFF, 0, b & 31, 32, false)),
                (Ty::S32, _) => two(|a, b| field(a & 0xFFFF_FFFF, 0, b & 31, 32, true)),
                _ => return None,
            };
            to(Some(alu), ty, vec![ty, Ty::U32])
        }
        ("addc", None) => carried(ty, |t| match t {
            Ty::B32 => pair(|a, b, c| {
                let sum = (a & 0xFFFF_FFFF) + (b & 0xFFFF_FFFF) + (c & 1);
                (sum & 0xFFFF_FFFF, sum >> 32)
            }),
            _ => pair(|a, b, c| {
                let sum = u128::from(a) + u128::from(b) + u128::from(c & 1);
                (sum as u64, (sum >> 64) as u64)
            }),
        })
        .map(|c| Compute { keeps_carry: !carry, ..c }),
        ("subc", None) => carried(ty, |t| match t {
            Ty::B32 => pair(|a, b, c| {
                let difference = i128::from(a as u32) - i128::from(b as u32) - i128::from(c & 1);
                (difference as u32 as u64, u64::from(difference < 0))
            }),
            _ => pair(|a, b, c| {
                let difference = i128::from(a) - i128::from(b) - i128::from(c & 1);
                (difference as u64, u64::from(difference < 0))
            }),
        })
        .map(|c| Compute { keeps_carry: !carry, ..c }),
        _ if carry => None,
        ("add", None) => same(numbers!(ty, two (a, b) a.wrapping_add(b)), 2),
        ("sub", None) => same(numbers!(ty, two (a, b) a.wrapping_sub(b)), 2),
        ("add", Some("sat")) => same(each!(ty, [S32], two (a, b) a.saturating_add(b)), 2),
        ("sub", Some("sat")) => same(each!(ty, [S32], two (a, b) a.saturating_sub(b)), 2),
        ("mul", Some("lo")) => same(numbers!(ty, two (a, b) a.wrapping_mul(b)), 2),
        ("mul", Some("hi")) => same(multiply_high(ty), 2),
        ("mul", Some("wide")) => to(multiply_wide(ty), wide(ty)?, vec![ty; 2]),
        ("mad", Some("lo")) => same(numbers!(ty, three (a, b, c) a.wrapping_mul(b).wrapping_add(c)), 3),
        ("mad", Some("hi")) => same(multiply_high_add(ty), 3),
        ("mad", Some("wide")) => to(multiply_wide_add(ty), wide(ty)?, vec![ty, ty, wide(ty)?]),
        ("mul24", Some("lo")) => same(
            match ty {
                Ty::U32 => Some(two(|a, b| ((a & 0xFF_FFFF) * (b & 0xFF_FFFF)) as u32 as u64)),
                Ty::S32 => Some(two(|a, b| i64::from((a as i32) << 8 >> 8).wrapping_mul(i64::from((b as i32) << 8 >> 8)) as u32 as u64)),
                _ => None,
            },
            2,
        ),
        ("sad", None) => same(numbers!(ty, three (a, b, c) c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) })), 3),
        ("div", None) => same(divide(ty), 2),
        ("rem", None) => same(remainder(ty), 2),
        ("abs", None) => same(each!(ty, [S16, S32, S64], one (a) a.wrapping_abs()), 1),
        ("neg", None) => same(each!(ty, [S16, S32, S64], one (a) a.wrapping_neg()), 1),
        ("min", None) => same(numbers!(ty, two (a, b) a.min(b)), 2),
        ("max", None) => same(numbers!(ty, two (a, b) a.max(b)), 2),
        ("max", Some("relu")) => same(each!(ty, [S32], two (a, b) a.max(b).max(0)), 2),
        ("min", Some("relu")) => same(each!(ty, [S32], two (a, b) a.min(b).max(0)), 2),
        ("and", None) => same(each!(ty, [Pred, B16, B32, B64], two (a, b) a & b), 2),
        ("or", None) => same(each!(ty, [Pred, B16, B32, B64], two (a, b) a | b), 2),
        ("xor", None) => same(each!(ty, [Pred, B16, B32, B64], two (a, b) a ^ b), 2),
        ("not", None) => same(each!(ty, [Pred, B16, B32, B64], one (a) !a), 1),
        ("cnot", None) => same(words!(ty, one (a) u64::from(a == 0)), 1),
        ("shl", None) => to(
            match ty {
                Ty::B16 => Some(two(|a, b| if b as u32 > 15 { 0 } else { (a << (b as u32)) & 0xFFFF })),
                Ty::B32 => Some(two(|a, b| if b as u32 > 31 { 0 } else { (a << (b as u32)) & 0xFFFF_FFFF })),
                Ty::B64 => Some(two(|a, b| if b as u32 > 63 { 0 } else { a << (b as u32) })),
                _ => None,
            },
            ty,
            vec![ty, Ty::U32],
        ),
        ("shr", None) => to(shift_right(ty), ty, vec![ty, Ty::U32]),
        ("shf", Some(mode)) => {
            let alu = match (direction?, mode) {
                ("l", "wrap") => three(|a, b, c| ((((b & 0xFFFF_FFFF) << 32 | a & 0xFFFF_FFFF) << (c & 31)) >> 32) & 0xFFFF_FFFF),
                ("l", "clamp") => {
                    three(|a, b, c| ((((b & 0xFFFF_FFFF) << 32 | a & 0xFFFF_FFFF) << (c as u32).min(32)) >> 32) & 0xFFFF_FFFF)
                }
                ("r", "wrap") => three(|a, b, c| (((b & 0xFFFF_FFFF) << 32 | a & 0xFFFF_FFFF) >> (c & 31)) & 0xFFFF_FFFF),
                ("r", "clamp") => three(|a, b, c| (((b & 0xFFFF_FFFF) << 32 | a & 0xFFFF_FFFF) >> (c as u32).min(32)) & 0xFFFF_FFFF),
                _ => return None,
            };
            to((ty == Ty::B32).then_some(alu), ty, vec![ty, ty, Ty::U32])
        }
        ("prmt", mode) => {
            let alu = match mode {
                None => three(permute),
                Some("f4e") => three(|a, b, c| permute_mode(a, b, c, [0x3210, 0x4321, 0x5432, 0x6543])),
                Some("b4e") => three(|a, b, c| permute_mode(a, b, c, [0x5670, 0x6701, 0x7012, 0x0123])),
                Some("rc8") => three(|a, b, c| permute_mode(a, b, c, [0x0000, 0x1111, 0x2222, 0x3333])),
                Some("ecl") => three(|a, b, c| permute_mode(a, b, c, [0x3210, 0x3211, 0x3222, 0x3333])),
                Some("ecr") => three(|a, b, c| permute_mode(a, b, c, [0x0000, 0x1110, 0x2210, 0x3210])),
                Some("rc16") => three(|a, b, c| permute_mode(a, b, c, [0x1010, 0x3232, 0x1010, 0x3232])),
                _ => return None,
            };
            same((ty == Ty::B32).then_some(alu), 3)
        }
        ("bfe", None) => to(
            match ty {
                Ty::U32 => Some(three(|a, b, c| field(a & 0xFFFF_FFFF, b, c, 32, false))),
                Ty::S32 => Some(three(|a, b, c| field(a & 0xFFFF_FFFF, b, c, 32, true))),
                Ty::U64 => Some(three(|a, b, c| field(a, b, c, 64, false))),
                Ty::S64 => Some(three(|a, b, c| field(a, b, c, 64, true))),
                _ => None,
            },
            ty,
            vec![ty, Ty::U32, Ty::U32],
        ),
        ("bfi", None) => to(
            match ty {
                Ty::B32 => Some(four(|a, b, c, e| insert(a & 0xFFFF_FFFF, b & 0xFFFF_FFFF, c, e, 32))),
                Ty::B64 => Some(four(|a, b, c, e| insert(a, b, c, e, 64))),
                _ => None,
            },
            ty,
            vec![ty, ty, Ty::U32, Ty::U32],
        ),
        ("bfind", mode @ (None | Some("shiftamt"))) => {
            let alu = match (ty, mode.is_some()) {
                (Ty::U32, false) => one(|a| find(a & 0xFFFF_FFFF, 32, false)),
                (Ty::S32, false) => one(|a| find(a & 0xFFFF_FFFF, 32, true)),
                (Ty::U64, false) => one(|a| find(a, 64, false)),
                (Ty::S64, false) => one(|a| find(a, 64, true)),
                (Ty::U32, true) => one(|a| if a as u32 == 0 { 0xFFFF_FFFF } else { 31 - find(a & 0xFFFF_FFFF, 32, false) }),
                (Ty::U64, true) => one(|a| if a == 0 { 0xFFFF_FFFF } else { 63 - find(a, 64, false) }),
                _ => return None,
            };
            to(Some(alu), Ty::U32, vec![ty])
        }
        ("brev", None) => same(words!(ty, one (a) a.reverse_bits()), 1),
        ("popc", None) => to(words!(ty, one (a) a.count_ones()), Ty::U32, vec![ty]),
        ("clz", None) => to(words!(ty, one (a) a.leading_zeros()), Ty::U32, vec![ty]),
        ("lop3", None) => {
            let alu = four(|a, b, c, table| {
                (0..8).fold(0, |all, n| {
                    let pick = |x: u64, bit: u64| if n & bit != 0 { x } else { !x };
                    all | if table >> n & 1 != 0 { pick(a, 4) & pick(b, 2) & pick(c, 1) & 0xFFFF_FFFF } else { 0 }
                })
            });
            to((ty == Ty::B32).then_some(alu), ty, vec![ty, ty, ty, Ty::U32])
        }
        ("dp4a", None) => {
            let alu = match (types.first()?, ty) {
                (Ty::U32, Ty::U32) => three(|a, b, c| dot(a, b, c, false, false)),
                (Ty::U32, Ty::S32) => three(|a, b, c| dot(a, b, c, false, true)),
                (Ty::S32, Ty::U32) => three(|a, b, c| dot(a, b, c, true, false)),
                (Ty::S32, Ty::S32) => three(|a, b, c| dot(a, b, c, true, true)),
                _ => return None,
            };
            same(Some(alu), 3)
        }
        _ => None,
    }
}

fn dot(a: u64, b: u64, c: u64, a_signed: bool, b_signed: bool) -> u64 {
    let byte = |x: u64, n: usize, signed: bool| {
        let byte = (x >> (8 * n)) as u8;
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    };
    let sum: i64 = (0..4).map(|n| byte(a, n, a_signed) * byte(b, n, b_signed)).sum();
    (sum as u32).wrapping_add(c as u32).into()
}

/// An instruction that sets the carry flag, and may read it.
fn carried(ty: Ty, make: impl Fn(Ty) -> Alu) -> Option<Compute> {
    let bits = match ty {
        Ty::U32 | Ty::S32 | Ty::B32 => Ty::B32,
        Ty::U64 | Ty::S64 | Ty::B64 => Ty::B64,
        _ => return None,
    };
    Some(Compute { carry: true, ..Compute::new(make(bits), ty, vec![ty; 2]) })
}

fn shift_right(ty: Ty) -> Option<Alu> {
    Some(match ty {
        Ty::B16 | Ty::U16 => two(|a, b| if b as u32 > 15 { 0 } else { (a & 0xFFFF) >> (b as u32) }),
        Ty::B32 | Ty::U32 => two(|a, b| if b as u32 > 31 { 0 } else { (a & 0xFFFF_FFFF) >> (b as u32) }),
        Ty::B64 | Ty::U64 => two(|a, b| if b as u32 > 63 { 0 } else { a >> (b as u32) }),
        Ty::S16 => two(|a, b| (a as i16 >> (b as u32).min(15)) as u16 as u64),
        Ty::S32 => two(|a, b| (a as i32 >> (b as u32).min(31)) as u32 as u64),
        Ty::S64 => two(|a, b| (a as i64 >> (b as u32).min(63)) as u64),
        _ => return None,
    })
}

fn divide(ty: Ty) -> Option<Alu> {
    // A division by zero has all bits set, as devices have it.
    match ty {
        Ty::U16 | Ty::U32 | Ty::U64 => each!(ty, [U16, U32, U64], two (a, b) a.checked_div(b).unwrap_or(!b)),
        _ => each!(ty, [S16, S32, S64], two (a, b) if b == 0 { !b } else { a.wrapping_div(b) }),
    }
}

fn remainder(ty: Ty) -> Option<Alu> {
    match ty {
        Ty::U16 | Ty::U32 | Ty::U64 => each!(ty, [U16, U32, U64], two (a, b) a.checked_rem(b).unwrap_or(a)),
        _ => each!(ty, [S16, S32, S64], two (a, b) if b == 0 { a } else { a.wrapping_rem(b) }),
    }
}

fn multiply_high(ty: Ty) -> Option<Alu> {
    Some(match ty {
        Ty::U16 => two(|a, b| high((a as u16).into(), (b as u16).into(), 16) & 0xFFFF),
        Ty::S16 => two(|a, b| high((a as i16).into(), (b as i16).into(), 16) & 0xFFFF),
        Ty::U32 => two(|a, b| ((a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)) >> 32),
        Ty::S32 => two(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32 as u64),
        Ty::U64 => two(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Ty::S64 => two(|a, b| high((a as i64).into(), (b as i64).into(), 64)),
        _ => return None,
    })
}

fn multiply_high_add(ty: Ty) -> Option<Alu> {
    Some(match ty {
        Ty::U32 => three(|a, b, c| (((a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)) >> 32).wrapping_add(c) & 0xFFFF_FFFF),
        Ty::S32 => three(|a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u64).wrapping_add(c) & 0xFFFF_FFFF),
        Ty::U64 => three(|a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        Ty::S64 => three(|a, b, c| high((a as i64).into(), (b as i64).into(), 64).wrapping_add(c)),
        _ => return None,
    })
}

fn multiply_wide(ty: Ty) -> Option<Alu> {
    Some(match ty {
        Ty::U16 => two(|a, b| (a & 0xFFFF) * (b & 0xFFFF)),
        Ty::S16 => two(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 as u64),
        Ty::U32 => two(|a, b| (a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)),
        Ty::S32 => two(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        _ => return None,
    })
}

fn multiply_wide_add(ty: Ty) -> Option<Alu> {
    Some(match ty {
        Ty::U16 => three(|a, b, c| (((a & 0xFFFF) * (b & 0xFFFF)) as u32).wrapping_add(c as u32).into()),
        Ty::S16 => three(|a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c as u32).into()),
        Ty::U32 => three(|a, b, c| ((a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)).wrapping_add(c)),
        Ty::S32 => three(|a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)),
        _ => return None,
    })
}
