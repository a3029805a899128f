//! The transforms of tiles in Winograd's F(2x2, 3x3), on vectors of channels.

use crate::simd::{Float, Vector};

/// Writes a transformed tile, its elements a plane apart.
#[inline(always)]
pub(super) unsafe fn store_planes<V: Vector>(tile: [[V; 4]; 4], to: *mut V::Element, plane_len: usize) {
    for r in 0..4 {
        for s in 0..4 {
            // SAFETY: the caller's block has the planes.
            unsafe { tile[r][s].store(to.add((4 * r + s) * plane_len)) };
        }
    }
}

/// Applies a map of columns to the columns, then to the rows, of a square: `F d F'`.
#[inline(always)]
pub(super) unsafe fn both<V: Vector, const I: usize, const O: usize>(d: [[V; I]; I], map: impl Fn([V; I]) -> [V; O]) -> [[V; O]; O] {
    // SAFETY: forwarded.
    unsafe {
        let mut half = [[V::splat(V::Element::ZERO); I]; O];
        for s in 0..I {
            let mut column = [d[0][s]; I];
            for r in 1..I {
                column[r] = d[r][s];
            }
            let column = map(column);
            for r in 0..O {
                half[r][s] = column[r];
            }
        }
        let mut whole = [[half[0][0]; O]; O];
        for r in 0..O {
            whole[r] = map(half[r]);
        }
        whole
    }
}

/// `B' d`.
#[inline(always)]
pub(super) fn source_1d<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
    // SAFETY: called where the vector's instructions are enabled, as all functions below.
    unsafe { [a.sub(c), b.add(c), c.sub(b), b.sub(d)] }
}

/// `A' m`.
#[inline(always)]
pub(super) fn result_1d<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 2] {
    // SAFETY: as above.
    unsafe { [a.add(b).add(c), b.sub(c).sub(d)] }
}

/// `A y`.
#[inline(always)]
pub(super) fn gradient_1d<V: Vector>([a, b]: [V; 2]) -> [V; 4] {
    // SAFETY: as above.
    unsafe { [a, a.add(b), a.sub(b), V::splat(V::Element::ZERO).sub(b)] }
}

/// `G g`.
#[inline(always)]
pub(super) fn filter_1d<V: Vector>([a, b, c]: [V; 3]) -> [V; 4] {
    // SAFETY: as above.
    unsafe { [a, a.add(c).add(b).half(), a.add(c).sub(b).half(), c] }
}

/// `G' m`.
#[inline(always)]
pub(super) fn filter_gradient_1d<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 3] {
    // SAFETY: as above.
    unsafe {
        let half = b.add(c).half();
        [a.add(half), b.sub(c).half(), half.add(d)]
    }
}
