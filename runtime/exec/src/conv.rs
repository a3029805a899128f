//! Convolutions and their transposes: patches of one image at a time, then a matrix product, or Winograd's method where it is faster.

use crate::gemm::Address;
use crate::pool::Pool;
use crate::simd::{Float, Level};
use crate::winograd;
use gemm::Parallelism;
use optc_abi::DType;
use optc_abi::conv::ConvMethod;
use optc_abi::plan::{Conv, ConvDims, ConvKind};
use std::ops::Range;

/// Runs a convolution call.
///
/// # Safety
/// The addresses must be valid for the operands, result and scratch of the call; result and scratch overlap nothing else.
pub unsafe fn run(pool: &Pool, conv: &Conv, lhs: *const u8, rhs: *const u8, out: *mut u8, scratch: *mut u8) {
    match conv.dtype {
        // SAFETY: forwarded.
        DType::F64 => unsafe { run_typed::<f64>(pool, conv, Level::best(), lhs.cast(), rhs.cast(), out.cast(), scratch.cast()) },
        // SAFETY: forwarded.
        _ => unsafe { run_typed::<f32>(pool, conv, Level::best(), lhs.cast(), rhs.cast(), out.cast(), scratch.cast()) },
    }
}

/// The parts' common facts: extents of one image.
struct Geometry<'a> {
    d: &'a ConvDims,
    /// Elements of one image of x and y, and columns of the patch matrix of one group.
    x_image: usize,
    y_image: usize,
    cols: usize,
    group_in: usize,
    group_out: usize,
}

unsafe fn run_typed<T: Float>(pool: &Pool, conv: &Conv, level: Level, lhs: *const T, rhs: *const T, out: *mut T, scratch: *mut T) {
    let d = &conv.dims;
    let work = d.work(conv.kind);
    let (block, patch_len) = match work.method {
        // SAFETY: forwarded.
        ConvMethod::Winograd(tiling) => return unsafe { winograd::run(pool, conv, level, work, tiling, lhs, rhs, out, scratch) },
        ConvMethod::Patches { block, patch_len } => (block, patch_len),
    };
    let positions: usize = d.output.iter().product();
    let taps: usize = d.filter.iter().product();
    let g = Geometry {
        d,
        x_image: d.input.iter().product::<usize>() * d.in_channels,
        y_image: positions * d.out_channels,
        cols: taps * (d.in_channels / d.groups),
        group_in: d.in_channels / d.groups,
        group_out: d.out_channels / d.groups,
    };
    let parts = work.parts;
    let part_len = work.part_len;
    let (lhs, rhs, result, scratch) = (Address(lhs.cast_mut()), Address(rhs.cast_mut()), Address(out), Address(scratch));
    pool.run(parts, &|part| {
        let images = part * d.batch / parts..(part + 1) * d.batch / parts;
        // SAFETY: each part has its own scratch and its own images of the result (or its own partial filter gradient).
        unsafe {
            let patches = scratch.at((part * part_len) as isize);
            let partial = patches.add(patch_len);
            if conv.kind == ConvKind::FilterGrad {
                std::slice::from_raw_parts_mut(partial, d.filter_len()).fill(T::ZERO);
            }
            for n in images {
                let (x_at, y_at) = ((n * g.x_image) as isize, (n * g.y_image) as isize);
                if conv.kind == ConvKind::InputGrad {
                    std::slice::from_raw_parts_mut(result.at(x_at), g.x_image).fill(T::ZERO);
                }
                for first in (0..positions).step_by(block) {
                    let rows = first..(first + block).min(positions);
                    // Of y or dy, the block's first row.
                    let y_at = y_at + (first * d.out_channels) as isize;
                    for group in 0..d.groups {
                        let out = group * g.group_out;
                        match conv.kind {
                            ConvKind::Forward => {
                                unfold(&g, group, rows.clone(), lhs.at(x_at), patches);
                                let (w, y) = (rhs.at(out as isize), result.at(y_at).add(out));
                                let (w_row, m) = (d.out_channels, rows.len());
                                product(patches, g.cols, 1, w, w_row, 1, y, d.out_channels, m, g.group_out, g.cols, false);
                            }
                            ConvKind::FilterGrad => {
                                unfold(&g, group, rows.clone(), lhs.at(x_at), patches);
                                let (dy, dw) = (rhs.at(y_at).add(out), partial.add(out));
                                let (dy_row, k) = (d.out_channels, rows.len());
                                product(patches, 1, g.cols, dy, dy_row, 1, dw, d.out_channels, g.cols, g.group_out, k, true);
                            }
                            ConvKind::InputGrad => {
                                let (dy, w) = (lhs.at(y_at).add(out), rhs.at(out as isize));
                                let (dy_row, m) = (d.out_channels, rows.len());
                                product(dy, dy_row, 1, w, 1, d.out_channels, patches, g.cols, m, g.cols, g.group_out, false);
                                let dx = std::slice::from_raw_parts_mut(result.at(x_at), g.x_image);
                                fold(&g, group, rows.clone(), patches, dx);
                            }
                        }
                    }
                }
            }
        }
    });
    if conv.kind == ConvKind::FilterGrad {
        // SAFETY: all parts are done; partial results are combined in their order.
        let dw = unsafe { std::slice::from_raw_parts_mut(out, d.filter_len()) };
        dw.fill(T::ZERO);
        for part in 0..parts {
            // SAFETY: as above.
            let partial = unsafe { std::slice::from_raw_parts(scratch.at((part * part_len + patch_len) as isize), d.filter_len()) };
            dw.iter_mut().zip(partial).for_each(|(total, &x)| *total += x);
        }
    }
}

/// `c (+)= a b` with `a` m x k (strides ar, ac), `b` k x n (strides br, bc), `c` m x n (row stride cr, column stride 1).
unsafe fn product<T: Float>(
    a: *const T,
    ar: usize,
    ac: usize,
    b: *const T,
    br: usize,
    bc: usize,
    c: *mut T,
    cr: usize,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's matrices have these extents.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            cr as isize,
            accumulate,
            a,
            ac as isize,
            ar as isize,
            b,
            bc as isize,
            br as isize,
            if accumulate { T::ONE } else { T::ZERO },
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        )
    }
}

/// Visits every (patch row, tap, first element of x or none) of some rows of one image: `visit(row, tap, Some(offset of the pixel))`.
fn taps(d: &ConvDims, rows: Range<usize>, visit: &mut dyn FnMut(usize, usize, Option<usize>)) {
    let spatial = d.input.len();
    let filter: usize = d.filter.iter().product();
    let (mut t, mut k) = (vec![0usize; spatial], vec![0usize; spatial]);
    for row in rows {
        unravel(row, &d.output, &mut t);
        for tap in 0..filter {
            unravel(tap, &d.filter, &mut k);
            let mut pixel = Some(0);
            for axis in 0..spatial {
                let at = (t[axis] * d.stride[axis] + k[axis] * d.dilation[axis]).checked_sub(d.pad_lo[axis]);
                pixel = match (pixel, at) {
                    (Some(p), Some(i)) if i < d.input[axis] => Some(p * d.input[axis] + i),
                    _ => None,
                };
            }
            visit(row, tap, pixel);
        }
    }
}

fn unravel(mut i: usize, extents: &[usize], out: &mut [usize]) {
    for axis in (0..extents.len()).rev() {
        out[axis] = i % extents[axis];
        i /= extents[axis];
    }
}

/// Writes some rows (whole lines) of the patch matrix of one image and group: a row per output position, `taps * channels` columns.
unsafe fn unfold<T: Float>(g: &Geometry<'_>, group: usize, rows: Range<usize>, x: *const T, patches: *mut T) {
    let (channels, first) = (g.group_in, group * g.group_in);
    let d = g.d;
    if let Some(run) = fast_run(d) {
        // Along the last spatial axis the taps of a row of the filter are neighbors in memory: one copy for all of them.
        let width = d.input[1] * channels;
        for row in rows.start / d.output[1]..rows.end / d.output[1] {
            for col in 0..d.output[1] {
                for tap_row in 0..d.filter[0] {
                    // SAFETY: without padding every tap lies inside the image, and the patch row has room for all taps.
                    unsafe {
                        let from = x.add((row * d.stride[0] + tap_row * d.dilation[0]) * width + col * d.stride[1] * channels);
                        let to = patches.add((row * d.output[1] + col - rows.start) * g.cols + tap_row * run);
                        std::ptr::copy_nonoverlapping(from, to, run);
                    }
                }
            }
        }
        return;
    }
    let start = rows.start;
    taps(d, rows, &mut |row, tap, pixel| {
        // SAFETY: the patch matrix has rows * cols elements and a pixel lies inside the image.
        unsafe {
            let to = patches.add((row - start) * g.cols + tap * channels);
            match pixel {
                Some(p) => std::ptr::copy_nonoverlapping(x.add(p * d.in_channels + first), to, channels),
                None => std::slice::from_raw_parts_mut(to, channels).fill(T::ZERO),
            }
        }
    });
}

/// Elements that are contiguous in x and in a patch row, for plain two-dimensional convolutions without padding.
fn fast_run(d: &ConvDims) -> Option<usize> {
    let plain = d.input.len() == 2 && d.groups == 1 && d.dilation[1] == 1 && d.pad_lo.iter().chain(&d.pad_hi).all(|&p| p == 0);
    plain.then(|| d.filter[1] * d.in_channels)
}

/// Adds a patch matrix back into an image: the transpose of [`unfold`].
unsafe fn fold<T: Float>(g: &Geometry<'_>, group: usize, rows: Range<usize>, patches: *const T, dx: &mut [T]) {
    let (channels, first) = (g.group_in, group * g.group_in);
    let d = g.d;
    let mut add = |at: usize, from: usize, len: usize| {
        // SAFETY: the patch matrix has rows * cols elements.
        let from = unsafe { std::slice::from_raw_parts(patches.add(from), len) };
        dx[at..at + len].iter_mut().zip(from).for_each(|(total, &x)| *total += x);
    };
    if let Some(run) = fast_run(d) {
        let width = d.input[1] * channels;
        for row in rows.start / d.output[1]..rows.end / d.output[1] {
            for col in 0..d.output[1] {
                for tap_row in 0..d.filter[0] {
                    let at = (row * d.stride[0] + tap_row * d.dilation[0]) * width + col * d.stride[1] * channels;
                    add(at, (row * d.output[1] + col - rows.start) * g.cols + tap_row * run, run);
                }
            }
        }
        return;
    }
    let start = rows.start;
    taps(d, rows, &mut |row, tap, pixel| {
        if let Some(p) = pixel {
            add(p * d.in_channels + first, (row - start) * g.cols + tap * channels, channels);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::BufRef;

    fn dims(
        batch: usize,
        channels: (usize, usize, usize),
        size: [usize; 2],
        filter: [usize; 2],
        stride: usize,
        dilation: usize,
        pad: usize,
    ) -> ConvDims {
        let out = |s: usize, k: usize| (s + 2 * pad - dilation * (k - 1) - 1) / stride + 1;
        ConvDims {
            batch,
            in_channels: channels.0,
            out_channels: channels.1,
            groups: channels.2,
            input: size.to_vec(),
            filter: filter.to_vec(),
            output: vec![out(size[0], filter[0]), out(size[1], filter[1])],
            stride: vec![stride; 2],
            dilation: vec![dilation; 2],
            pad_lo: vec![pad; 2],
            pad_hi: vec![pad; 2],
        }
    }

    /// The definition, term by term: calls `term(y, x, w)` with element offsets.
    fn terms(d: &ConvDims, mut term: impl FnMut(usize, usize, usize)) {
        let (gi, go) = (d.in_channels / d.groups, d.out_channels / d.groups);
        for n in 0..d.batch {
            taps(d, 0..d.output.iter().product(), &mut |row, tap, pixel| {
                let Some(p) = pixel else { return };
                for o in 0..d.out_channels {
                    for c in 0..gi {
                        let y = (n * d.output.iter().product::<usize>() + row) * d.out_channels + o;
                        let x = (n * d.input.iter().product::<usize>() + p) * d.in_channels + (o / go) * gi + c;
                        term(y, x, (tap * gi + c) * d.out_channels + o);
                    }
                }
            });
        }
    }

    /// Runs all maps in one type with all instructions, on one thread and on three, and compares with the definition: an element may differ by `tolerance` times the sum of the absolute values
    /// of its terms (with Winograd's method: the largest such sum).
    fn check_in<T: Float + From<f32> + Into<f64>>(d: &ConvDims, dtype: DType, tolerance: f64) {
        let value = |i: usize| ((i * 29 % 53) as f32 - 26.0) / 17.0;
        let x: Vec<T> = (0..d.input_len()).map(|i| value(i).into()).collect();
        let w: Vec<T> = (0..d.filter_len()).map(|i| value(i * 3 + 1).into()).collect();
        let dy: Vec<T> = (0..d.output_len()).map(|i| value(i * 5 + 2).into()).collect();
        for kind in [ConvKind::Forward, ConvKind::InputGrad, ConvKind::FilterGrad] {
            let (lhs, rhs, len) = match kind {
                ConvKind::Forward => (&x, &w, d.output_len()),
                ConvKind::InputGrad => (&dy, &w, d.input_len()),
                ConvKind::FilterGrad => (&x, &dy, d.filter_len()),
            };
            let mut want = vec![(0.0f64, 0.0f64); len];
            terms(d, |y, ix, iw| {
                let (to, a, b): (_, f64, f64) = match kind {
                    ConvKind::Forward => (y, x[ix].into(), w[iw].into()),
                    ConvKind::InputGrad => (ix, dy[y].into(), w[iw].into()),
                    ConvKind::FilterGrad => (iw, x[ix].into(), dy[y].into()),
                };
                want[to].0 += a * b;
                want[to].1 += (a * b).abs();
            });
            if matches!(d.work(kind).method, ConvMethod::Winograd(_)) {
                // The rounding of a whole tile reaches all of its elements, also those at the border of the image that have few terms.
                let largest = want.iter().fold(0.0, |m, w| w.1.max(m));
                want.iter_mut().for_each(|w| w.1 = largest);
            }
            let whole = || BufRef::whole(0);
            let conv = Conv { dtype, kind, dims: d.clone(), lhs: whole(), rhs: whole(), out: whole(), scratch: whole() };
            for level in [Level::best(), Level::Plain] {
                let mut first: Option<Vec<f64>> = None;
                for threads in [1, 3] {
                    let mut got: Vec<T> = vec![f32::NAN.into(); len];
                    let mut scratch: Vec<T> = vec![f32::NAN.into(); d.scratch_len(kind)];
                    let (pool, scratch) = (Pool::new(threads), scratch.as_mut_ptr());
                    // SAFETY: the vectors have the lengths the call states.
                    unsafe { run_typed(&pool, &conv, level, lhs.as_ptr(), rhs.as_ptr(), got.as_mut_ptr(), scratch) };
                    let got: Vec<f64> = got.into_iter().map(Into::into).collect();
                    for (i, (a, (b, scale))) in got.iter().zip(&want).enumerate() {
                        assert!((a - b).abs() <= tolerance * scale, "{dtype:?} {kind:?} {d:?}, element {i}: {a} and {b}, scale {scale}");
                    }
                    assert!(first.get_or_insert_with(|| got.clone()).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
        }
    }

    fn check(d: ConvDims) {
        check_in::<f64>(&d, DType::F64, 3e-15);
        check_in::<f32>(&d, DType::F32, 3e-7);
    }

    #[test]
    fn all_three_maps_follow_the_definition() {
        check(dims(2, (3, 4, 1), [6, 5], [3, 2], 1, 1, 0));
        check(dims(9, (1, 2, 1), [7, 7], [3, 3], 2, 1, 0));
        check(dims(2, (40, 3, 1), [20, 19], [3, 3], 1, 1, 0));
        check(dims(1, (40, 2, 2), [20, 19], [3, 3], 1, 1, 1));
        check(dims(1, (2, 2, 1), [8, 7], [3, 3], 1, 2, 2));
        check(dims(3, (4, 6, 2), [5, 5], [3, 3], 2, 1, 1));
        check(dims(1, (6, 4, 2), [7, 8], [5, 3], 1, 1, 2));
    }

    fn is_winograd(d: &ConvDims) -> bool {
        let kinds = [ConvKind::Forward, ConvKind::InputGrad, ConvKind::FilterGrad];
        kinds.iter().all(|&kind| matches!(d.work(kind).method, ConvMethod::Winograd(_)))
    }

    #[test]
    fn winograd_follows_the_definition() {
        // Even and odd extents, without padding and with more than the filter needs, channels that fill vectors and panels and such that do not, groups,
        // several parts and blocks.
        for d in [
            dims(2, (32, 40, 1), [10, 10], [3, 3], 1, 1, 0),
            dims(2, (24, 16, 1), [9, 14], [3, 3], 1, 1, 1),
            dims(3, (16, 24, 1), [13, 7], [3, 3], 1, 1, 0),
            dims(1, (17, 19, 1), [11, 15], [3, 3], 1, 1, 1),
            dims(2, (13, 11, 1), [9, 8], [3, 3], 1, 1, 3),
            dims(1, (24, 40, 2), [11, 12], [3, 3], 1, 1, 1),
            dims(2, (6, 12, 6), [10, 9], [3, 3], 1, 1, 1),
            dims(2, (1, 3, 1), [8, 9], [3, 3], 1, 1, 1),
            dims(3, (8, 8, 1), [24, 23], [3, 3], 1, 1, 1),
        ] {
            assert!(is_winograd(&d), "{d:?}");
            check(d);
        }
        // Different padding on all sides.
        let mut d = dims(3, (20, 24, 1), [11, 12], [3, 3], 1, 1, 1);
        (d.pad_lo, d.pad_hi, d.output) = (vec![0, 2], vec![3, 1], vec![12, 13]);
        assert!(is_winograd(&d));
        check(d);
    }

    #[test]
    fn winograd_is_left_where_it_is_slower_or_impossible() {
        assert!(!is_winograd(&dims(64, (1, 32, 1), [28, 28], [3, 3], 1, 1, 0)));
        assert!(!is_winograd(&dims(64, (32, 64, 1), [28, 28], [3, 3], 2, 1, 0)));
        assert!(!is_winograd(&dims(64, (32, 64, 1), [28, 28], [3, 3], 1, 2, 0)));
        assert!(!is_winograd(&dims(64, (32, 64, 1), [28, 28], [5, 5], 1, 1, 0)));
        assert!(!is_winograd(&dims(1, (32, 64, 1), [8, 8], [3, 3], 1, 1, 0)));
    }
}
