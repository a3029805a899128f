//! Vector loops in 256-bit registers. Cranelift's vectors have 128 bits, so the whole passes of a vector loop become a function of our own where the
//! processor has AVX2 and FMA; Cranelift's code calls it and does the rest of the loop.
//!
//! Both ways give the same bits (of a NaN only that it is one): the order of a reduction is that of its sixteen virtual lanes, and the math functions are the same polynomials.

mod asm;
mod emit;
mod program;
mod select;
pub(crate) mod tile;

pub(crate) use emit::{Arguments, emit, fits};
pub(crate) use program::{Program, Source};
pub(crate) use select::{Constants, constants, select};

/// Whether this processor runs wide loops.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
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
