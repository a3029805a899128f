//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of one array element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// bfloat16.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit unsigned integer.
    U32,
    /// 8-bit unsigned integer.
    U8,
    /// Truth value, stored as one byte 0 or 1.
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 9] =
        [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U32, DType::U8, DType::Bool];
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }
    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::BF16 | DType::F16)
    }
    /// Whether it is an integer type (`bool` is not).
    pub const fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::I64 | DType::U32 | DType::U8)
    }
    /// The name in the language: `f32`, `bool`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }
    /// The type with this name.
    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bf16 nearest to a number, ties to even. (`half`'s own conversion forgets the lower half of the number and takes what is just above a tie for one.)
pub fn to_bf16(v: f64) -> half::bf16 {
    half::bf16::from_f32(odd_f32(v))
}

/// The f16 nearest to a number, ties to even; as [`to_bf16`].
pub fn to_f16(v: f64) -> half::f16 {
    half::f16::from_f32(odd_f32(v))
}

/// An f32 that rounds to any type of at most 22 bits of precision as the number itself does: cut off, and odd where something was cut (rounding to odd; Boldo
/// and Melquiond, 2008).
fn odd_f32(v: f64) -> f32 {
    let near = v as f32;
    let back = f64::from(near);
    if back == v || !near.is_finite() {
        return near;
    }
    let bits = near.to_bits();
    f32::from_bits(if back.abs() > v.abs() { bits - 1 } else { bits } | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bit_floats_are_rounded_once() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(to_bf16(x.into()), half::bf16::from_f32(x), "{x:e}");
                assert_eq!(to_f16(x.into()), half::f16::from_f32(x), "{x:e}");
            }
        }
        // Just above a tie by the last bit of an f32, and by less than that; the tie itself.
        assert_eq!(to_bf16(f32::from_bits(0xEFCA_8001).into()).to_bits(), 0xEFCB);
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(
            [to_bf16(tie), to_bf16(tie + 2f64.powi(-45)), to_bf16(tie - 2f64.powi(-45))].map(half::bf16::to_bits),
            [0x3F80, 0x3F81, 0x3F80]
        );
        let tie = 1.0 + 3.0 * 2f64.powi(-11);
        assert_eq!(
            [to_f16(tie), to_f16(tie + 2f64.powi(-45)), to_f16(tie - 2f64.powi(-45))].map(half::f16::to_bits),
            [0x3C02, 0x3C02, 0x3C01]
        );
    }
}
