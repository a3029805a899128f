//! Vectors of floats that numeric code is written in once: AVX2 registers, or plain arrays that the compiler turns into what the machine has.

use std::ops::AddAssign;

/// Instructions that vectors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every machine has.
    Plain,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    /// The best this machine has.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
        Level::Plain
    }
}

/// A float type convolutions run in.
pub(crate) trait Float: Copy + Send + Sync + 'static + AddAssign {
    const ZERO: Self;
    const ONE: Self;
    /// Its vector on any machine.
    type Plain: Vector<Element = Self>;
    /// Its vector on machines with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<Element = Self>;
}
impl Float for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    type Plain = Plain<f32, 8>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = avx2::F32x8;
}
impl Float for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    type Plain = Plain<f64, 4>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = avx2::F64x4;
}

/// Some floats that are computed with at once.
///
/// Code generic over it is inlined into functions that enable the instructions of the vector at hand, hence `inline(always)` on all of it.
pub(crate) trait Vector: Copy {
    type Element: Float;
    /// How many.
    const LANES: usize;
    /// All lanes the same.
    ///
    /// # Safety
    /// As for all functions here: the machine must have the vector's instructions.
    unsafe fn splat(x: Self::Element) -> Self;
    /// Reads all lanes.
    ///
    /// # Safety
    /// There must be as many elements at `from`.
    unsafe fn load(from: *const Self::Element) -> Self;
    /// Writes all lanes.
    ///
    /// # Safety
    /// There must be as many elements at `to`.
    unsafe fn store(self, to: *mut Self::Element);
    /// Lanewise sum.
    ///
    /// # Safety
    /// See [`Vector::splat`].
    unsafe fn add(self, other: Self) -> Self;
    /// Lanewise difference.
    ///
    /// # Safety
    /// See [`Vector::splat`].
    unsafe fn sub(self, other: Self) -> Self;
    /// Lanewise half.
    ///
    /// # Safety
    /// See [`Vector::splat`].
    unsafe fn half(self) -> Self;
    /// `self + a * b`, rounded once where the machine can.
    ///
    /// # Safety
    /// See [`Vector::splat`].
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;

    /// Reads the first `n` lanes, the others being zero.
    ///
    /// # Safety
    /// There must be `n` elements at `from`, at most as many as lanes.
    unsafe fn load_first(from: *const Self::Element, n: usize) -> Self;
    /// Writes the first `n` lanes.
    ///
    /// # Safety
    /// There must be `n` elements at `to`, at most as many as lanes.
    unsafe fn store_first(self, to: *mut Self::Element, n: usize);
}

/// Lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct Plain<T, const N: usize>([T; N]);

macro_rules! plain {
    ($float:ty, $lanes:literal) => {
        impl Vector for Plain<$float, $lanes> {
            type Element = $float;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(x: $float) -> Self {
                Plain([x; $lanes])
            }
            #[inline(always)]
            unsafe fn load(from: *const $float) -> Self {
                // SAFETY: forwarded.
                Plain(unsafe { from.cast::<[$float; $lanes]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $float) {
                // SAFETY: forwarded.
                unsafe { to.cast::<[$float; $lanes]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            unsafe fn load_first(from: *const $float, n: usize) -> Self {
                // SAFETY: forwarded.
                Plain(std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $float, n: usize) {
                for i in 0..n.min($lanes) {
                    // SAFETY: forwarded.
                    unsafe { *to.add(i) = self.0[i] }
                }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                Plain(std::array::from_fn(|i| self.0[i] + other.0[i]))
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                Plain(std::array::from_fn(|i| self.0[i] - other.0[i]))
            }
            #[inline(always)]
            unsafe fn half(self) -> Self {
                Plain(self.0.map(|x| 0.5 * x))
            }
            #[inline(always)]
            unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                Plain(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
            }
        }
    };
}
plain!(f32, 8);
plain!(f64, 4);

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The vectors of AVX2 with FMA.

    use super::Vector;
    use std::arch::x86_64::*;

    /// Eight lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct F32x8(__m256);
    /// Four lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct F64x4(__m256d);

    macro_rules! vector {
        ($name:ident, $float:ty, $lanes:literal, $mask:ident, $splat:ident, $load:ident, $store:ident, $load_first:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident) => {
            impl Vector for $name {
                type Element = $float;
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn splat(x: $float) -> Self {
                    // SAFETY: the machine has the instructions, as for all functions here.
                    $name(unsafe { $splat(x) })
                }
                #[inline(always)]
                unsafe fn load(from: *const $float) -> Self {
                    // SAFETY: as above; the elements are there.
                    $name(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $float) {
                    // SAFETY: as above; the elements are there.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn load_first(from: *const $float, n: usize) -> Self {
                    // SAFETY: as above; lanes outside the mask are not read.
                    $name(unsafe { $load_first(from, mask(&$mask, n)) })
                }
                #[inline(always)]
                unsafe fn store_first(self, to: *mut $float, n: usize) {
                    // Pieces of constant length: masked stores are slow on some processors.
                    let mut line = [0.0; $lanes];
                    let mut done = 0;
                    // SAFETY: as above; the pieces sum to `n`.
                    unsafe {
                        self.store(line.as_mut_ptr());
                        for piece in [8, 4, 2, 1] {
                            if piece <= $lanes && n & piece != 0 {
                                std::ptr::copy_nonoverlapping(line.as_ptr().add(done), to.add(done), piece);
                                done += piece;
                            }
                        }
                    }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $add(self.0, other.0) })
                }
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $sub(self.0, other.0) })
                }
                #[inline(always)]
                unsafe fn half(self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $mul(self.0, $splat(0.5)) })
                }
                #[inline(always)]
                unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $fma(a.0, b.0, self.0) })
                }
            }
        };
    }
    vector!(
        F32x8,
        f32,
        8,
        MASK32,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_maskload_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps
    );
    vector!(
        F64x4,
        f64,
        4,
        MASK64,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_maskload_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_fmadd_pd
    );

    /// Ones, then zeros: a mask of the first lanes begins as many before the middle.
    static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

    /// The mask of the first `n` lanes, at most half the words' number.
    #[inline(always)]
    unsafe fn mask<T, const N: usize>(words: &[T; N], n: usize) -> __m256i {
        // SAFETY: the machine has the instruction; at most half the words lie before the middle, and a vector is as long as half of them.
        unsafe { _mm256_loadu_si256(words.as_ptr().add(N / 2 - n).cast()) }
    }
}
