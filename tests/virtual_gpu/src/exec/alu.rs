//! Instructions that only compute, made from functions of one thread.

use super::program::{ALL, Alu, Ins, Lanes, WARP};

/// The function that a type without data stands for.
#[inline(always)]
fn function<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: a type without bytes has one value.
    unsafe { std::mem::transmute_copy(&()) }
}

/// Instructions that are met so seldom that they need no code of their own for whole warps.
pub mod seldom {
    use super::*;
    macro_rules! seldom {
        ($name:ident($($field:ident),+); $bound:path) => {
            /// As the function of this name outside.
            pub fn $name<F: $bound + Copy>(_: F) -> Alu {
                unsafe fn run<F: $bound + Copy>(lanes: &Lanes, ins: &Ins, mask: u32) {
                    let f = function::<F>();
                    let mut rest = mask;
                    while rest != 0 {
                        let l = rest.trailing_zeros() as usize;
                        rest &= rest - 1;
                        // SAFETY: operands are of the frame.
                        unsafe { *lanes.target(ins.d).add(l) = f($(*lanes.source(ins.$field).add(l)),+) };
                    }
                }
                run::<F>
            }
        };
    }
    seldom!(one(a); Fn(u64) -> u64);
    seldom!(two(a, b); Fn(u64, u64) -> u64);
    seldom!(three(a, b, c); Fn(u64, u64, u64) -> u64);
}

macro_rules! maker {
    ($(#[$doc:meta])* $name:ident($($field:ident),+) -> $($out:ident),+; $bound:path) => {
        $(#[$doc])*
        pub fn $name<F: $bound + Copy>(_: F) -> Alu {
            unsafe fn run<F: $bound + Copy>(lanes: &Lanes, ins: &Ins, mask: u32) {
                let f = function::<F>();
                // SAFETY: operands are of the frame; rows that are the same are read before they are written.
                unsafe {
                    $(let $field = lanes.source(ins.$field).cast::<[u64; WARP]>();)+
                    maker!(@run lanes ins mask f [$($field),+] $($out),+);
                }
            }
            run::<F>
        }
    };
    (@run $lanes:ident $ins:ident $mask:ident $f:ident [$($field:ident),+] $d:ident) => {
        let to = $lanes.target($ins.$d).cast::<[u64; WARP]>();
        if $mask == ALL {
            $(let $field = *$field;)+
            let mut out = [0; WARP];
            for l in 0..WARP {
                out[l] = $f($($field[l]),+);
            }
            *to = out;
        } else {
            let mut rest = $mask;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                (*to)[l] = $f($((*$field)[l]),+);
            }
        }
    };
    (@run $lanes:ident $ins:ident $mask:ident $f:ident [$($field:ident),+] $d:ident, $e:ident) => {
        let (to, also) = ($lanes.target($ins.$d).cast::<[u64; WARP]>(), $lanes.target($ins.$e).cast::<[u64; WARP]>());
        let mut rest = $mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let (x, y) = $f($((*$field)[l]),+);
            (*to)[l] = x;
            (*also)[l] = y;
        }
    };
}

maker! {
    /// `d = f(a)`.
    one(a) -> d; Fn(u64) -> u64
}
maker! {
    /// `d = f(a, b)`.
    two(a, b) -> d; Fn(u64, u64) -> u64
}
maker! {
    /// `d = f(a, b, c)`.
    three(a, b, c) -> d; Fn(u64, u64, u64) -> u64
}
maker! {
    /// `d, e = f(a, b, c)`.
    pair(a, b, c) -> d, e; Fn(u64, u64, u64) -> (u64, u64)
}
maker! {
    /// `d = f(a, b, c, e)`, where `e` is a source.
    four(a, b, c, e) -> d; Fn(u64, u64, u64, u64) -> u64
}
