//! Instructions on floating-point numbers.

use super::{Compute, Mods};
use crate::exec::alu::{one, seldom, three, two};
use crate::exec::num::*;
use crate::exec::program::Alu;
use crate::ptx::Ty;

/// What modifiers ask of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    Flush,
    Saturate,
    FlushSaturate,
}

/// One body for f32 with and without flushing to zero and saturation.
macro_rules! singles {
    ($after:expr, $make:ident |$($a:ident),*| $e:expr) => {
        match $after {
            After::Nothing => $make(|$($a: u64),*| { $(let $a = f($a);)* fr($e) }),
            After::Flush => seldom::$make(|$($a: u64),*| { $(let $a = flush(f($a));)* fr(flush($e)) }),
            After::Saturate => seldom::$make(|$($a: u64),*| { $(let $a = f($a);)* fr(saturate($e)) }),
            After::FlushSaturate => seldom::$make(|$($a: u64),*| { $(let $a = flush(f($a));)* fr(saturate(flush($e))) }),
        }
    };
}

/// One body for f64.
macro_rules! doubles {
    ($make:ident |$($a:ident),*| $e:expr) => { $make(|$($a: u64),*| { $(let $a = d($a);)* dr($e) }) };
}

/// One body for the four types of sixteen bits; computed in f64, rounded once.
macro_rules! halves {
    ($ty:expr, $make:ident |$($a:ident),*| $e:expr) => {
        match $ty {
            Ty::F16 => seldom::$make(|$($a: u64),*| { $(let $a = f64::from(h($a));)* hr($e) }),
            Ty::BF16 => seldom::$make(|$($a: u64),*| { $(let $a = f64::from(b($a));)* br($e) }),
            Ty::F16x2 => seldom::$make(|$($a: u64),*| {
                let low = { $(let $a = f64::from(h($a));)* hr($e) };
                let high = { $(let $a = f64::from(h($a >> 16));)* hr($e) };
                high << 16 | low
            }),
            Ty::BF16x2 => seldom::$make(|$($a: u64),*| {
                let low = { $(let $a = f64::from(b($a));)* br($e) };
                let high = { $(let $a = f64::from(b($a >> 16));)* br($e) };
                high << 16 | low
            }),
            _ => return None,
        }
    };
}

/// The larger or smaller number; a NaN only if both are, or, with `nan`, if one is. −0 lies below +0.
macro_rules! extreme {
    ($a:expr, $b:expr, $larger:expr, $nan:expr, $t:ident) => {{
        let (a, b) = ($a, $b);
        if a.is_nan() || b.is_nan() {
            if $nan || (a.is_nan() && b.is_nan()) {
                $t::NAN
            } else if a.is_nan() {
                b
            } else {
                a
            }
        } else if a == b {
            let first = a.is_sign_negative() != $larger;
            if first { a } else { b }
        } else if (a > b) == $larger {
            a
        } else {
            b
        }
    }};
}

fn ex2(x: f32) -> f32 {
    f64::from(x).exp2() as f32
}
fn relu(x: f64) -> f64 {
    if x > 0.0 || x.is_nan() { x } else { 0.0 }
}

/// The larger or smaller of two, with the sign of their product.
fn with_sign(x: f32, a: f32, b: f32) -> f32 {
    if x.is_nan() { x } else { x.abs().copysign(f32::from_bits(a.to_bits() ^ b.to_bits())) }
}

const DIRECTIONS: &[&str] = &["rn", "rz", "rm", "rp", "rna"];

/// The rounding that a modifier names.
pub(super) fn rounding(name: Option<&str>) -> Option<Round> {
    Some(match name? {
        "rn" | "rni" => Round::Nearest,
        "rna" => Round::Away,
        "rz" | "rzi" => Round::Zero,
        "rm" | "rmi" => Round::Down,
        "rp" | "rpi" => Round::Up,
        _ => return None,
    })
}

/// What an instruction of this module computes; none if it is none of them.
pub(super) fn compute(op: &str, mods: &mut Mods) -> Option<Compute> {
    let ftz = mods.take("ftz");
    let sat = mods.take("sat");
    let nan = mods.take("NaN");
    let sign = mods.take("xorsign");
    if sign && !mods.take("abs") {
        return None;
    }
    let rectified = mods.take("relu");
    let kind = mods.choose(&["approx", "full"]);
    let round = mods.choose(DIRECTIONS);
    let test = mods.choose(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    let types = mods.types();
    let ty = *types.first()?;
    if types.len() != 1 || !ty.float() || (rectified && !matches!(ty.bits(), 16) && !matches!(ty, Ty::F16x2 | Ty::BF16x2)) {
        return None;
    }
    let after = match (ftz, sat) {
        (false, false) => After::Nothing,
        (true, false) => After::Flush,
        (false, true) => After::Saturate,
        (true, true) => After::FlushSaturate,
    };
    if test.is_some() != (op == "testp") {
        return None;
    }
    let same = |alu: Alu, n: usize| Some(Compute::new(alu, ty, vec![ty; n]));
    if op == "testp" {
        let alu = testp(ty, test?)?;
        return Some(Compute::new(alu, Ty::Pred, vec![ty]));
    }
    match ty {
        Ty::F32 => single(op, after, kind, round, nan, sign).and_then(|(alu, n)| same(alu, n)),
        Ty::F64 if after == After::Nothing => double(op, kind, round).and_then(|(alu, n)| same(alu, n)),
        Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 => half(op, ty, after, kind, round, nan, rectified).and_then(|(alu, n)| same(alu, n)),
        _ => None,
    }
}

fn testp(ty: Ty, test: &str) -> Option<Alu> {
    macro_rules! test {
        ($f:expr) => {
            match ty {
                Ty::F32 => one(|a| u64::from($f(f64::from(f(a)), f(a).is_subnormal()))),
                Ty::F64 => one(|a| u64::from($f(d(a), d(a).is_subnormal()))),
                _ => return None,
            }
        };
    }
    Some(match test {
        "finite" => test!(|x: f64, _: bool| x.is_finite()),
        "infinite" => test!(|x: f64, _: bool| x.is_infinite()),
        "number" => test!(|x: f64, _: bool| !x.is_nan()),
        "notanumber" => test!(|x: f64, _: bool| x.is_nan()),
        "normal" => test!(|x: f64, low: bool| x.is_finite() && x != 0.0 && !low),
        _ => test!(|_: f64, low: bool| low),
    })
}

fn single(op: &str, after: After, kind: Option<&str>, round: Option<&str>, nan: bool, sign: bool) -> Option<(Alu, usize)> {
    // Sums and products without a rounding are rounded to the nearest.
    let round = match round {
        None => None,
        some => Some(rounding(some)?),
    };
    let nearest = matches!(round, None | Some(Round::Nearest));
    let exact = round == Some(Round::Nearest) && kind.is_none();
    let approximate = kind.is_some() && round.is_none();
    Some(match op {
        "add" if nearest && kind.is_none() => (singles!(after, two | a, b | a + b), 2),
        "sub" if nearest && kind.is_none() => (singles!(after, two | a, b | a - b), 2),
        "mul" if nearest && kind.is_none() => (singles!(after, two | a, b | a * b), 2),
        "fma" | "mad" if exact => (singles!(after, three | a, b, c | a.mul_add(b, c)), 3),
        "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt" if kind.is_none() && after == After::Nothing && !nearest => {
            return directed_single(op, round?);
        }
        "div" if exact || approximate => (singles!(after, two | a, b | a / b), 2),
        "rcp" if exact || approximate => (singles!(after, one | a | 1.0 / a), 1),
        "sqrt" if exact || approximate => (singles!(after, one | a | a.sqrt()), 1),
        "rsqrt" if approximate => (singles!(after, one | a | (1.0 / f64::from(a).sqrt()) as f32), 1),
        "sin" if approximate => (singles!(after, one | a | f64::from(a).sin() as f32), 1),
        "cos" if approximate => (singles!(after, one | a | f64::from(a).cos() as f32), 1),
        "lg2" if approximate => (singles!(after, one | a | f64::from(a).log2() as f32), 1),
        "ex2" if approximate => (singles!(after, one | a | ex2(a)), 1),
        "tanh" if approximate => (singles!(after, one | a | f64::from(a).tanh() as f32), 1),
        _ if round.is_some() || kind.is_some() => return None,
        "neg" if after == After::Nothing => (one(|a| (a ^ 1 << 31) & 0xFFFF_FFFF), 1),
        "abs" if after == After::Nothing => (one(|a| a & 0x7FFF_FFFF), 1),
        "neg" => (singles!(after, one | a | -a), 1),
        "abs" => (singles!(after, one | a | a.abs()), 1),
        "copysign" => (two(|a, b| a & 1 << 31 | b & 0x7FFF_FFFF), 2),
        "min" if sign && nan => (singles!(after, two | a, b | with_sign(extreme!(a.abs(), b.abs(), false, true, f32), a, b)), 2),
        "max" if sign && nan => (singles!(after, two | a, b | with_sign(extreme!(a.abs(), b.abs(), true, true, f32), a, b)), 2),
        "min" if sign => (singles!(after, two | a, b | with_sign(extreme!(a.abs(), b.abs(), false, false, f32), a, b)), 2),
        "max" if sign => (singles!(after, two | a, b | with_sign(extreme!(a.abs(), b.abs(), true, false, f32), a, b)), 2),
        "min" if nan => (singles!(after, two | a, b | extreme!(a, b, false, true, f32)), 2),
        "max" if nan => (singles!(after, two | a, b | extreme!(a, b, true, true, f32)), 2),
        "min" => (singles!(after, two | a, b | extreme!(a, b, false, false, f32)), 2),
        "max" => (singles!(after, two | a, b | extreme!(a, b, true, false, f32)), 2),
        _ => return None,
    })
}

/// f32 in a direction: through f64 that is odd where it is not exact, rounded once more.
fn directed_single(op: &str, round: Round) -> Option<(Alu, usize)> {
    macro_rules! all {
        ($make:ident |$($a:ident),*| $e:expr) => {
            match round {
                Round::Zero => seldom::$make(|$($a: u64),*| { $(let $a = f64::from(f($a));)* F32.encode($e, Round::Zero, false) }),
                Round::Down => seldom::$make(|$($a: u64),*| { $(let $a = f64::from(f($a));)* F32.encode($e, Round::Down, false) }),
                Round::Up => seldom::$make(|$($a: u64),*| { $(let $a = f64::from(f($a));)* F32.encode($e, Round::Up, false) }),
                _ => return None,
            }
        };
    }
    Some(match op {
        "add" => (all!(two | a, b | add_odd(a, b)), 2),
        "sub" => (all!(two | a, b | add_odd(a, -b)), 2),
        "mul" => (all!(two | a, b | a * b), 2),
        "fma" | "mad" => (all!(three | a, b, c | fma_odd(a, b, c)), 3),
        "div" => (all!(two | a, b | divide_odd(a, b)), 2),
        "rcp" => (all!(one | a | divide_odd(1.0, a)), 1),
        "sqrt" => (all!(one | a | odd(a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a))), 1),
        _ => return None,
    })
}

fn divide_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    odd(q, if b < 0.0 { -rest } else { rest })
}

fn double(op: &str, kind: Option<&str>, round: Option<&str>) -> Option<(Alu, usize)> {
    let round = match round {
        None => None,
        some => Some(rounding(some)?),
    };
    let nearest = matches!(round, None | Some(Round::Nearest));
    let exact = round == Some(Round::Nearest) && kind.is_none();
    Some(match op {
        "add" if nearest && kind.is_none() => (doubles!(two | a, b | a + b), 2),
        "sub" if nearest && kind.is_none() => (doubles!(two | a, b | a - b), 2),
        "mul" if nearest && kind.is_none() => (doubles!(two | a, b | a * b), 2),
        "fma" | "mad" if exact => (doubles!(three | a, b, c | a.mul_add(b, c)), 3),
        "div" if exact => (doubles!(two | a, b | a / b), 2),
        "rcp" if exact => (doubles!(one | a | 1.0 / a), 1),
        "sqrt" if exact => (doubles!(one | a | a.sqrt()), 1),
        "add" | "sub" | "mul" | "div" | "rcp" | "sqrt" if kind.is_none() && !nearest => return directed_double(op, round?),
        _ if round.is_some() || kind.is_some() => return None,
        "neg" => (one(|a| a ^ 1 << 63), 1),
        "abs" => (one(|a| a & !(1 << 63)), 1),
        "copysign" => (two(|a, b| a & 1 << 63 | b & !(1 << 63)), 2),
        "min" => (doubles!(two | a, b | extreme!(a, b, false, false, f64)), 2),
        "max" => (doubles!(two | a, b | extreme!(a, b, true, false, f64)), 2),
        _ => return None,
    })
}

fn directed_double(op: &str, round: Round) -> Option<(Alu, usize)> {
    macro_rules! all {
        ($make:ident |$($a:ident),*| $value:expr, $error:expr) => {
            match round {
                Round::Zero => doubles!($make |$($a),*| directed($value, $error, Round::Zero)),
                Round::Down => doubles!($make |$($a),*| directed($value, $error, Round::Down)),
                Round::Up => doubles!($make |$($a),*| directed($value, $error, Round::Up)),
                _ => return None,
            }
        };
    }
    Some(match op {
        "add" => (all!(two | a, b | a + b, sum_error(a, b)), 2),
        "sub" => (all!(two | a, b | a - b, sum_error(a, -b)), 2),
        "mul" => (all!(two | a, b | a * b, a.mul_add(b, -(a * b))), 2),
        "div" => (all!(two | a, b | a / b, (-(a / b)).mul_add(b, a) * b.signum()), 2),
        "rcp" => (all!(one | a | 1.0 / a, (-(1.0 / a)).mul_add(a, 1.0) * a.signum()), 1),
        "sqrt" => (all!(one | a | a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a)), 1),
        _ => return None,
    })
}

fn sum_error(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    (a - (sum - part)) + (b - part)
}

fn half(op: &str, ty: Ty, after: After, kind: Option<&str>, round: Option<&str>, nan: bool, rectified: bool) -> Option<(Alu, usize)> {
    let round = match round {
        None => Round::Nearest,
        some => rounding(some)?,
    };
    if round != Round::Nearest {
        return None;
    }
    let plain = after == After::Nothing && !rectified;
    // Subnormal inputs and results of sixteen bits are flushed where asked; those of bf16 cannot be.
    let flushed = matches!(after, After::Flush);
    let sat = after == After::Saturate && matches!(ty, Ty::F16 | Ty::F16x2);
    macro_rules! with {
        ($make:ident |$($a:ident),*| $e:expr) => {
            match () {
                () if plain => halves!(ty, $make |$($a),*| $e),
                () if rectified && after == After::Nothing => halves!(ty, $make |$($a),*| relu($e)),
                () if sat => halves!(ty, $make |$($a),*| saturate64($e)),
                () if flushed && matches!(ty, Ty::F16 | Ty::F16x2) => halves!(ty, $make |$($a),*| { $(let $a = flush_half($a);)* flush_half($e) }),
                () => return None,
            }
        };
    }
    Some(match (op, kind) {
        ("add", None) => (with!(two | a, b | add_odd(a, b)), 2),
        ("sub", None) => (with!(two | a, b | add_odd(a, -b)), 2),
        ("mul", None) => (with!(two | a, b | a * b), 2),
        ("fma", None) => (with!(three | a, b, c | fma_odd(a, b, c)), 3),
        ("neg", None) if plain => {
            (if ty.bits() == 16 { one(|a| (a ^ 0x8000) & 0xFFFF) } else { one(|a| (a ^ 0x8000_8000) & 0xFFFF_FFFF) }, 1)
        }
        ("abs", None) if plain => (if ty.bits() == 16 { one(|a| a & 0x7FFF) } else { one(|a| a & 0x7FFF_7FFF) }, 1),
        ("min", None) if nan => (with!(two | a, b | extreme!(a, b, false, true, f64)), 2),
        ("max", None) if nan => (with!(two | a, b | extreme!(a, b, true, true, f64)), 2),
        ("min", None) => (with!(two | a, b | extreme!(a, b, false, false, f64)), 2),
        ("max", None) => (with!(two | a, b | extreme!(a, b, true, false, f64)), 2),
        ("ex2", Some("approx")) => (halves!(ty, one | a | a.exp2()), 1),
        ("tanh", Some("approx")) => (halves!(ty, one | a | a.tanh()), 1),
        _ => return None,
    })
}

fn flush_half(x: f64) -> f64 {
    if x.abs() < 6.103_515_625e-5 { 0f64.copysign(x) } else { x }
}
