//! `cvt`.

use super::float::rounding;
use super::{Compute, Mods};
use crate::exec::alu;
use crate::exec::alu::seldom::{one, two};
use crate::exec::num::*;
use crate::exec::program::Alu;
use crate::ptx::Ty;

const ROUNDINGS: &[&str] = &["rni", "rzi", "rmi", "rpi", "rna", "rn", "rz", "rm", "rp"];

/// One body for each of the four directions.
macro_rules! directions {
    ($round:expr, $make:ident |$($a:ident),*| $r:ident => $e:expr) => {
        match $round {
            Round::Nearest => $make(|$($a: u64),*| { const $r: Round = Round::Nearest; $e }),
            Round::Zero => $make(|$($a: u64),*| { const $r: Round = Round::Zero; $e }),
            Round::Down => $make(|$($a: u64),*| { const $r: Round = Round::Down; $e }),
            Round::Up => $make(|$($a: u64),*| { const $r: Round = Round::Up; $e }),
            Round::Away => $make(|$($a: u64),*| { const $r: Round = Round::Away; $e }),
        }
    };
}

/// What `cvt` computes.
pub(super) fn compute(mods: &mut Mods) -> Option<Compute> {
    let round = mods.choose(ROUNDINGS);
    let integral = round.is_some_and(|r| r.ends_with('i'));
    let ftz = mods.take("ftz");
    let sat = mods.take("sat");
    let finite = mods.take("satfinite");
    let rectified = mods.take("relu");
    let types = mods.types();
    let [to, from] = types[..] else { return None };
    let round = match round {
        None => None,
        some => Some(rounding(some)?),
    };
    let make = |alu: Alu| Some(Compute { loose: true, ..Compute::new(alu, to, vec![from]) });
    if finite || rectified || matches!(to, Ty::F16x2 | Ty::BF16x2 | Ty::E4M3x2 | Ty::E5M2x2 | Ty::TF32) {
        return narrow(to, from, round, finite, rectified);
    }
    match (to.float(), from.float()) {
        (false, false) if round.is_none() && !ftz => make(whole_to_whole(to, from, sat)?),
        (true, false) if !integral && !ftz && !sat => make(whole_to_float(to, from, round?)?),
        (false, true) if integral => make(float_to_whole(to, from, round?, ftz)?),
        (true, true) => make(float_to_float(to, from, round, integral, ftz, sat)?),
        _ => None,
    }
}

/// Conversions that make less of numbers, two at a time or with limits.
fn narrow(to: Ty, from: Ty, round: Option<Round>, finite: bool, rectified: bool) -> Option<Compute> {
    // One function for each case, since functions of instructions carry no data.
    macro_rules! cases {
        ($make:ident |$($a:ident),*| $x:ident => $body:expr) => {
            match (rectified, finite) {
                (false, false) => $make(|$($a: u64),*| { let $x = |v: u64, g: &Format, r: Round| g.encode(f64::from(f(v)), r, false); $body }),
                (false, true) => $make(|$($a: u64),*| { let $x = |v: u64, g: &Format, r: Round| g.encode(f64::from(f(v)), r, true); $body }),
                (true, false) => $make(|$($a: u64),*| { let $x = |v: u64, g: &Format, r: Round| g.encode(rectify(f64::from(f(v))), r, false); $body }),
                (true, true) => $make(|$($a: u64),*| { let $x = |v: u64, g: &Format, r: Round| g.encode(rectify(f64::from(f(v))), r, true); $body }),
            }
        };
    }
    fn rectify(x: f64) -> f64 {
        if x > 0.0 || x.is_nan() { x } else { 0.0 }
    }
    if from != Ty::F32 {
        let alu = match (from, to, rectified) {
            (Ty::E4M3x2, Ty::F16x2, false) => one(|a| hr(E4M3.decode(a >> 8 & 0xFF)) << 16 | hr(E4M3.decode(a & 0xFF))),
            (Ty::E5M2x2, Ty::F16x2, false) => one(|a| hr(E5M2.decode(a >> 8 & 0xFF)) << 16 | hr(E5M2.decode(a & 0xFF))),
            (Ty::F16x2, Ty::E4M3x2, false) if finite => one(|a| {
                let byte = |x: u64| E4M3.encode(f64::from(h(x)), Round::Nearest, true);
                byte(a >> 16) << 8 | byte(a)
            }),
            (Ty::F16x2, Ty::E5M2x2, false) if finite => one(|a| {
                let byte = |x: u64| E5M2.encode(f64::from(h(x)), Round::Nearest, true);
                byte(a >> 16) << 8 | byte(a)
            }),
            _ => return None,
        };
        return (round? == Round::Nearest).then(|| Compute::new(alu, to, vec![from]));
    }
    let (alu, n) = match (to, round?) {
        (Ty::F16, Round::Nearest) => (cases!(one |a| x => x(a, &F16, Round::Nearest)), 1),
        (Ty::F16, Round::Zero) => (cases!(one |a| x => x(a, &F16, Round::Zero)), 1),
        (Ty::BF16, Round::Nearest) => (cases!(one |a| x => x(a, &BF16, Round::Nearest)), 1),
        (Ty::BF16, Round::Zero) => (cases!(one |a| x => x(a, &BF16, Round::Zero)), 1),
        (Ty::F16x2, Round::Nearest) => (cases!(two |a, b| x => x(a, &F16, Round::Nearest) << 16 | x(b, &F16, Round::Nearest)), 2),
        (Ty::F16x2, Round::Zero) => (cases!(two |a, b| x => x(a, &F16, Round::Zero) << 16 | x(b, &F16, Round::Zero)), 2),
        (Ty::BF16x2, Round::Nearest) => (cases!(two |a, b| x => x(a, &BF16, Round::Nearest) << 16 | x(b, &BF16, Round::Nearest)), 2),
        (Ty::BF16x2, Round::Zero) => (cases!(two |a, b| x => x(a, &BF16, Round::Zero) << 16 | x(b, &BF16, Round::Zero)), 2),
        (Ty::E4M3x2, Round::Nearest) if finite => {
            (cases!(two |a, b| x => x(a, &E4M3, Round::Nearest) << 8 | x(b, &E4M3, Round::Nearest)), 2)
        }
        (Ty::E5M2x2, Round::Nearest) if finite => {
            (cases!(two |a, b| x => x(a, &E5M2, Round::Nearest) << 8 | x(b, &E5M2, Round::Nearest)), 2)
        }
        // In the place that single precision has.
        (Ty::TF32, Round::Away) => (cases!(one |a| x => x(a, &TF32, Round::Away) << 13), 1),
        (Ty::TF32, Round::Nearest) => (cases!(one |a| x => x(a, &TF32, Round::Nearest) << 13), 1),
        (Ty::TF32, Round::Zero) => (cases!(one |a| x => x(a, &TF32, Round::Zero) << 13), 1),
        _ => return None,
    };
    Some(Compute::new(alu, to, vec![Ty::F32; n]))
}

/// A whole number of a type, with its sign.
macro_rules! sourced {
    ($from:expr, |$x:ident| $e:expr) => {
        match $from {
            Ty::U8 => one(|a| {
                let $x = i128::from(a as u8);
                $e
            }),
            Ty::U16 => one(|a| {
                let $x = i128::from(a as u16);
                $e
            }),
            Ty::U32 => one(|a| {
                let $x = i128::from(a as u32);
                $e
            }),
            Ty::U64 => one(|a| {
                let $x = i128::from(a);
                $e
            }),
            Ty::S8 => one(|a| {
                let $x = i128::from(a as i8);
                $e
            }),
            Ty::S16 => one(|a| {
                let $x = i128::from(a as i16);
                $e
            }),
            Ty::S32 => one(|a| {
                let $x = i128::from(a as i32);
                $e
            }),
            Ty::S64 => one(|a| {
                let $x = i128::from(a as i64);
                $e
            }),
            _ => return None,
        }
    };
}

fn whole_to_whole(to: Ty, from: Ty, sat: bool) -> Option<Alu> {
    // The common ones without a detour.
    match (to, from, sat) {
        (Ty::U64 | Ty::S64, Ty::U32, false) => return Some(alu::one(|a| a & 0xFFFF_FFFF)),
        (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64, false) => return Some(alu::one(|a| a & 0xFFFF_FFFF)),
        (Ty::U64 | Ty::S64, Ty::S32, false) => return Some(alu::one(|a| a as i32 as i64 as u64)),
        _ => {}
    }
    Some(match (to, sat) {
        (Ty::U8, false) => sourced!(from, |x| x as u8 as u64),
        (Ty::U16, false) => sourced!(from, |x| x as u16 as u64),
        (Ty::U32, false) => sourced!(from, |x| x as u32 as u64),
        (Ty::U64, false) => sourced!(from, |x| x as u64),
        // The register may be wider than the type: it gets the sign too, and is cut to its width.
        (Ty::S8, false) => sourced!(from, |x| x as i8 as i64 as u64),
        (Ty::S16, false) => sourced!(from, |x| x as i16 as i64 as u64),
        (Ty::S32, false) => sourced!(from, |x| x as i32 as i64 as u64),
        (Ty::S64, false) => sourced!(from, |x| x as u64),
        (Ty::U8, true) => sourced!(from, |x| x.clamp(0, u8::MAX.into()) as u64),
        (Ty::U16, true) => sourced!(from, |x| x.clamp(0, u16::MAX.into()) as u64),
        (Ty::U32, true) => sourced!(from, |x| x.clamp(0, u32::MAX.into()) as u64),
        (Ty::U64, true) => sourced!(from, |x| x.clamp(0, u64::MAX.into()) as u64),
        (Ty::S8, true) => sourced!(from, |x| x.clamp(i8::MIN.into(), i8::MAX.into()) as u64),
        (Ty::S16, true) => sourced!(from, |x| x.clamp(i16::MIN.into(), i16::MAX.into()) as u64),
        (Ty::S32, true) => sourced!(from, |x| x.clamp(i32::MIN.into(), i32::MAX.into()) as u64),
        (Ty::S64, true) => sourced!(from, |x| x.clamp(i64::MIN.into(), i64::MAX.into()) as u64),
        _ => return None,
    })
}

/// A whole number of at most 64 bits as f64 that is odd where it is not exact.
fn near(x: i128) -> f64 {
    let rounded = x as f64;
    odd(rounded, (x - rounded as i128) as f64)
}

fn whole_to_float(to: Ty, from: Ty, round: Round) -> Option<Alu> {
    if round == Round::Nearest {
        match (to, from) {
            (Ty::F32, Ty::U32) => return Some(alu::one(|a| fr(a as u32 as f32))),
            (Ty::F32, Ty::S32) => return Some(alu::one(|a| fr(a as i32 as f32))),
            (Ty::F64, Ty::U64) => return Some(alu::one(|a| dr(a as f64))),
            (Ty::F64, Ty::S64) => return Some(alu::one(|a| dr(a as i64 as f64))),
            _ => {}
        }
    }
    macro_rules! rounded {
        ($format:expr) => {
            match round {
                Round::Nearest => sourced!(from, |x| $format.encode(near(x), Round::Nearest, false)),
                Round::Zero => sourced!(from, |x| $format.encode(near(x), Round::Zero, false)),
                Round::Down => sourced!(from, |x| $format.encode(near(x), Round::Down, false)),
                Round::Up => sourced!(from, |x| $format.encode(near(x), Round::Up, false)),
                Round::Away => return None,
            }
        };
    }
    Some(match to {
        Ty::F16 => rounded!(F16),
        Ty::BF16 => rounded!(BF16),
        Ty::F32 => rounded!(F32),
        Ty::F64 => match round {
            Round::Nearest => sourced!(from, |x| dr(x as f64)),
            Round::Zero => sourced!(from, |x| dr(directed(x as f64, (x - x as f64 as i128) as f64, Round::Zero))),
            Round::Down => sourced!(from, |x| dr(directed(x as f64, (x - x as f64 as i128) as f64, Round::Down))),
            Round::Up => sourced!(from, |x| dr(directed(x as f64, (x - x as f64 as i128) as f64, Round::Up))),
            Round::Away => return None,
        },
        _ => return None,
    })
}

fn float_to_whole(to: Ty, from: Ty, round: Round, ftz: bool) -> Option<Alu> {
    // A NaN becomes 0, or the lowest bit pattern with the sign bit set where f64 or 64 bits take part.
    macro_rules! to {
        ($t:ty, $u:ty, $decode:expr, $double:expr) => {
            directions!(round, one |a| R => {
                let x: f64 = $decode(a);
                if x.is_nan() {
                    if $double || <$t>::BITS == 64 { 1u64 << (<$t>::BITS - 1) } else { 0 }
                } else {
                    whole(x, R) as $t as $u as u64
                }
            })
        };
    }
    macro_rules! all {
        ($decode:expr, $double:expr) => {
            match to {
                Ty::U8 => to!(u8, u8, $decode, $double),
                Ty::U16 => to!(u16, u16, $decode, $double),
                Ty::U32 => to!(u32, u32, $decode, $double),
                Ty::U64 => to!(u64, u64, $decode, $double),
                Ty::S8 => to!(i8, i64, $decode, $double),
                Ty::S16 => to!(i16, i64, $decode, $double),
                Ty::S32 => to!(i32, i64, $decode, $double),
                Ty::S64 => to!(i64, i64, $decode, $double),
                _ => return None,
            }
        };
    }
    Some(match (from, ftz) {
        (Ty::F16, false) => all!(|a| f64::from(h(a)), false),
        (Ty::BF16, false) => all!(|a| f64::from(b(a)), false),
        (Ty::F32, false) => all!(|a| f64::from(f(a)), false),
        (Ty::F32, true) => all!(|a| f64::from(flush(f(a))), false),
        (Ty::F64, false) => all!(d, true),
        _ => return None,
    })
}

fn float_to_float(to: Ty, from: Ty, round: Option<Round>, integral: bool, ftz: bool, sat: bool) -> Option<Alu> {
    // A value as f64 (exact), flushed and limited, then rounded.
    let narrower = to.bits() < from.bits() || to.bits() == from.bits() && to != from;
    if narrower != (round.is_some() && !integral) || integral && to != from {
        return None;
    }
    let round = round.unwrap_or(Round::Nearest);
    macro_rules! decoded {
        ($after:expr) => {
            decoded!($after, |x: f64| x)
        };
        ($after:expr, $change:expr) => {
            match (from, ftz) {
                (Ty::F16, false) => directions!(round, one |a| R => $after($change(f64::from(h(a))), R)),
                (Ty::BF16, false) => directions!(round, one |a| R => $after($change(f64::from(b(a))), R)),
                (Ty::F32, false) => directions!(round, one |a| R => $after($change(f64::from(f(a))), R)),
                (Ty::F32, true) => directions!(round, one |a| R => $after($change(f64::from(flush(f(a)))), R)),
                (Ty::F64, _) => directions!(round, one |a| R => $after($change(d(a)), R)),
                _ => return None,
            }
        };
    }
    if integral {
        return Some(match (to, sat) {
            (Ty::F32, false) => decoded!(|x: f64, r| fr(whole(x, r) as f32)),
            (Ty::F32, true) => decoded!(|x: f64, r| fr(saturate(whole(x, r) as f32))),
            (Ty::F64, false) if !ftz => decoded!(|x: f64, r| dr(whole(x, r))),
            (Ty::F16, false) if !ftz => decoded!(|x: f64, r| F16.encode(whole(x, r), Round::Nearest, false)),
            (Ty::BF16, false) if !ftz => decoded!(|x: f64, r| BF16.encode(whole(x, r), Round::Nearest, false)),
            _ => return None,
        });
    }
    if to == Ty::F32 && from == Ty::F64 && round == Round::Nearest && !ftz && !sat {
        return Some(alu::one(|a| fr(d(a) as f32)));
    }
    Some(match (to, sat) {
        (Ty::F16, false) => decoded!(|x, r| F16.encode(x, r, false)),
        (Ty::F16, true) => decoded!(|x, r| F16.encode(x, r, false), saturate64),
        (Ty::BF16, false) => decoded!(|x, r| BF16.encode(x, r, false)),
        (Ty::BF16, true) => decoded!(|x, r| BF16.encode(x, r, false), saturate64),
        (Ty::F32, false) if !ftz => decoded!(|x, r| F32.encode(x, r, false)),
        (Ty::F32, false) => decoded!(|x, r| fr(flush(f(F32.encode(x, r, false))))),
        (Ty::F32, true) => decoded!(|x, r| fr(flush(f(F32.encode(x, r, false)))), saturate64),
        (Ty::F64, false) => decoded!(|x, _| dr(x)),
        (Ty::F64, true) => decoded!(|x, _| dr(x), saturate64),
        _ => return None,
    })
}
