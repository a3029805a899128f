//! Vector loops in registers of 256 or 512 bits. Cranelift's vectors have 128 bits, so the whole passes of a vector loop become a function of our own where the
//! processor has AVX2 and FMA, or AVX-512; Cranelift's code calls it and does the rest of the loop.
//!
//! All ways give the same bits (of a NaN only that it is one): the order of a reduction is that of its sixteen virtual lanes, and the math functions are the same polynomials.

mod asm;
mod emit;
mod masks;
mod ops;
mod packing;
mod program;
mod rows;
mod select;
mod stores;
pub(crate) mod tile;

pub(crate) use emit::{Arguments, emit, fits};
pub(crate) use program::{Program, Source};
pub(crate) use rows::rows;
pub(crate) use select::{Constants, constants, select};

/// Registers that the whole passes of vector loops use. Results are the same bits, NaN for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vectors {
    /// Those of every processor.
    Bits128,
    /// AVX2 and FMA.
    Bits256,
    /// AVX-512 of the kind that does not slow the processor down (F, BW, DQ, VL and VBMI2: since Ice Lake and Zen 4).
    Bits512,
}

impl Vectors {
    /// 32-bit lanes of a register, if loops are functions of our own.
    pub(crate) fn lanes(self) -> Option<usize> {
        match self {
            Vectors::Bits128 => None,
            Vectors::Bits256 => Some(8),
            Vectors::Bits512 => Some(16),
        }
    }
}

/// The widest registers for wide loops that this processor has, or those that `OPTC_VECTORS` (128, 256) allows.
pub(crate) fn available() -> Vectors {
    let most = match std::env::var("OPTC_VECTORS").as_deref() {
        Ok("128") => Vectors::Bits128,
        Ok("256") => Vectors::Bits256,
        _ => Vectors::Bits512,
    };
    most.min(widest())
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn widest() -> Vectors {
    use std::is_x86_feature_detected as has;
    if !has!("avx2") || !has!("fma") {
        Vectors::Bits128
    } else if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vbmi2") {
        Vectors::Bits512
    } else {
        Vectors::Bits256
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn widest() -> Vectors {
    Vectors::Bits128
}

/// Whether this processor converts f16.
fn half_floats() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}
