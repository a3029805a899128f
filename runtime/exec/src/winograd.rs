//! Winograd's minimal filtering F(2x2, 3x3) for all three maps of a convolution (Lavin and Gray 2016, arXiv 1509.09308).
//!
//! A tile of 2 x 2 results of a 3 x 3 filter g over a 4 x 4 tile d of the source is `A' [(G g G') * (B' d B)] A`: 16 products per channel pair instead of 36. Over the
//! channels and tiles these are 16 matrix products. The gradient of x is the same map of dy with the filter turned and its channels exchanged; that of the filter is the
//! transpose, `G' [(A dy A') * (B' x B)] G` summed over the tiles. Tiles are taken in blocks that stay in the second-level cache.

mod transform;

use crate::gemm::Address;
use crate::pool::Pool;
use crate::simd::{Float, Level, Vector};
use optc_abi::conv::{ConvWork, Tiling};
use optc_abi::plan::{Conv, ConvDims, ConvKind};
use std::ops::Range;
use transform::{both, filter_1d, filter_gradient_1d, gradient_1d, result_1d, source_1d, store_planes};

/// Elements of a filter that are transformed, or of a filter gradient that are combined, in one unit.
const FILTER_UNIT: usize = 1 << 14;

/// Extents and addresses of one map, seen as a map between a source read in 4 x 4 tiles and an image read or written in 2 x 2 tiles.
struct Job<'a, T> {
    d: &'a ConvDims,
    kind: ConvKind,
    level: Level,
    tiling: Tiling,
    work: ConvWork,
    /// Extents of an image of the source, its channels in all groups; zeros before its first element.
    source: [usize; 2],
    source_channels: usize,
    lo: [isize; 2],
    /// The same for the image of 2 x 2 tiles.
    image: [usize; 2],
    image_channels: usize,
    lhs: Address<T>,
    rhs: Address<T>,
    out: Address<T>,
    scratch: Address<T>,
}

/// What one unit of the pool does.
enum Step {
    /// Transforms the filter for these channels of the source (of all groups).
    Filter(Range<usize>),
    /// Does one part's tiles.
    Part(usize),
    /// Adds up the parts' filter gradients and transforms them, for these channels of the source.
    Combine(Range<usize>),
}

/// Runs a convolution call whose shape [`ConvDims::work`] gives to Winograd's method.
///
/// # Safety
/// As for [`crate::conv::run`], with elements of the call's type; the machine must have the level's instructions.
pub(crate) unsafe fn run<T: Float>(
    pool: &Pool,
    conv: &Conv,
    level: Level,
    work: ConvWork,
    tiling: Tiling,
    lhs: *const T,
    rhs: *const T,
    out: *mut T,
    scratch: *mut T,
) {
    let d = &conv.dims;
    let pair = |extents: &[usize]| [extents[0], extents[1]];
    let lo = [d.pad_lo[0] as isize, d.pad_lo[1] as isize];
    let (x, y) = ((pair(&d.input), d.in_channels), (pair(&d.output), d.out_channels));
    let (source, image, lo) = if conv.kind == ConvKind::InputGrad { (y, x, lo.map(|p| 2 - p)) } else { (x, y, lo) };
    let job = Job {
        d,
        kind: conv.kind,
        level,
        tiling,
        work,
        source: source.0,
        source_channels: source.1,
        lo,
        image: image.0,
        image_channels: image.1,
        lhs: Address(lhs.cast_mut()),
        rhs: Address(rhs.cast_mut()),
        out: Address(out),
        scratch: Address(scratch),
    };
    let channels = source.1;
    let units = (channels * tiling.columns() / FILTER_UNIT).clamp(1, channels);
    let unit = |i: usize| i * channels / units..(i + 1) * channels / units;
    // SAFETY: units of one step write disjoint elements, and each step starts after the one before.
    unsafe {
        if conv.kind != ConvKind::FilterGrad {
            pool.run(units, &|i| job.step(Step::Filter(unit(i))));
        }
        pool.run(work.parts, &|part| job.step(Step::Part(part)));
        if conv.kind == ConvKind::FilterGrad {
            pool.run(units, &|i| job.step(Step::Combine(unit(i))));
        }
    }
}

/// Where a tile begins: its image, and the row and column of its first element.
#[derive(Clone, Copy)]
struct Corner {
    n: usize,
    y: usize,
    x: usize,
}

impl Corner {
    /// The corner of the next tile.
    #[inline(always)]
    fn next(self, [rows, cols]: [usize; 2]) -> Self {
        let Corner { n, y, x } = self;
        if x + 2 < 2 * cols {
            Corner { n, y, x: x + 2 }
        } else if y + 2 < 2 * rows {
            Corner { n, y: y + 2, x: 0 }
        } else {
            Corner { n: n + 1, y: 0, x: 0 }
        }
    }
}

impl<T: Float> Job<'_, T> {
    /// Does a step.
    unsafe fn step(&self, step: Step) {
        // SAFETY: the machine has the instructions of the level; for the rest, forwarded.
        unsafe {
            match self.level {
                Level::Plain => self.step_with::<T::Plain>(step),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => self.step_avx2(step),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn step_avx2(&self, step: Step) {
        // SAFETY: forwarded.
        unsafe { self.step_with::<T::Avx2>(step) }
    }

    #[inline(always)]
    unsafe fn step_with<V: Vector<Element = T>>(&self, step: Step) {
        // SAFETY: forwarded.
        unsafe {
            match step {
                Step::Filter(channels) => self.filter::<V>(channels),
                Step::Part(part) if self.kind == ConvKind::FilterGrad => self.gradient_part::<V>(part),
                Step::Part(part) => self.image_part::<V>(part),
                Step::Combine(channels) => self.combine::<V>(channels),
            }
        }
    }

    /// The tiles of a part.
    #[inline(always)]
    fn tiles(&self, part: usize) -> Range<usize> {
        let tiles = self.d.batch * self.tiling.grid[0] * self.tiling.grid[1];
        part * tiles / self.work.parts..(part + 1) * tiles / self.work.parts
    }

    #[inline(always)]
    fn corner(&self, tile: usize) -> Corner {
        let [rows, cols] = self.tiling.grid;
        let (line, col) = (tile / cols, tile % cols);
        Corner { n: line / rows, y: 2 * (line % rows), x: 2 * col }
    }

    /// A part's scratch memory.
    #[inline(always)]
    unsafe fn own(&self, part: usize) -> *mut T {
        // SAFETY: the scratch has the length the work states.
        unsafe { self.scratch.at((self.work.shared_len + part * self.work.part_len) as isize) }
    }

    /// `[group][panel][16][channel of the source][lane]`: the offset of a transformed filter's row, its planes being `channels[0]` rows apart.
    #[inline(always)]
    fn filter_at<V: Vector>(&self, group: usize, panel: usize, channel: usize) -> usize {
        group * self.tiling.filter_len() + (panel * 16 * self.tiling.channels[0] + channel) * 2 * V::LANES
    }

    /// Offset in w of tap 0 of a channel of the source within its group and the image's channel `b` of the group, and the distance of the image's channels.
    #[inline(always)]
    fn weight_at(&self, group: usize, channel: usize, b: usize) -> (usize, usize) {
        let [group_source, group_image] = self.tiling.channels;
        match self.kind {
            ConvKind::InputGrad => (b * self.d.out_channels + group * group_source + channel, self.d.out_channels),
            _ => (channel * self.d.out_channels + group * group_image + b, 1),
        }
    }

    /// `G g G'` of the filter.
    #[inline(always)]
    unsafe fn filter<V: Vector<Element = T>>(&self, channels: Range<usize>) {
        let [group_source, group_image] = self.tiling.channels;
        let width = 2 * V::LANES;
        let tap_len = self.d.in_channels / self.d.groups * self.d.out_channels;
        // SAFETY: all offsets lie within w and the scratch.
        unsafe {
            for row in channels {
                let (group, channel) = (row / group_source, row % group_source);
                for b in (0..group_image).step_by(V::LANES) {
                    let (first, distance) = self.weight_at(group, channel, b);
                    let lanes = (group_image - b).min(V::LANES);
                    let mut g = [[V::splat(T::ZERO); 3]; 3];
                    for tap in 0..9 {
                        let from = self.rhs.at((first + tap * tap_len) as isize);
                        let mut line = [T::ZERO; 16];
                        for lane in 0..lanes {
                            line[lane] = *from.add(lane * distance);
                        }
                        // The gradient of x is a convolution with the filter turned.
                        let tap = if self.kind == ConvKind::InputGrad { 8 - tap } else { tap };
                        g[tap / 3][tap % 3] = V::load(line.as_ptr());
                    }
                    let u = both(g, filter_1d);
                    let to = self.scratch.at((self.filter_at::<V>(group, b / width, channel) + b % width) as isize);
                    store_planes(u, to, group_source * width);
                }
            }
        }
    }

    /// The forward map or gradient of x for one part's tiles.
    #[inline(always)]
    unsafe fn image_part<V: Vector<Element = T>>(&self, part: usize) {
        let t = &self.tiling;
        let [group_source, group_image] = t.channels;
        let width = 2 * V::LANES;
        let (source_plane, result_plane) = (t.source_plane(), t.result_plane(self.kind));
        let all = self.tiles(part);
        // SAFETY: the scratch holds a block's transformed tiles and one panel of its results; tiles are disjoint.
        unsafe {
            let source = self.own(part);
            let result = source.add(16 * source_plane);
            for first in all.clone().step_by(t.block) {
                let tiles = first..(first + t.block).min(all.end);
                for group in 0..self.d.groups {
                    self.source_tiles::<V>(group, tiles.clone(), source);
                    for b in (0..group_image).step_by(width) {
                        let vectors = if group_image - b > V::LANES { 2 } else { 1 };
                        for plane in 0..16 {
                            let filter =
                                self.scratch.at((self.filter_at::<V>(group, b / width, 0) + plane * group_source * width) as isize);
                            let (a, c) = (source.add(plane * source_plane), result.add(plane * result_plane));
                            product::<V>(
                                Product { m: tiles.len(), k: group_source, a_row: t.row(), a_col: 1, vectors, accumulate: false },
                                a,
                                filter,
                                c,
                            );
                        }
                        self.result_tiles::<V>(group * group_image + b, group_image - b, tiles.clone(), result);
                    }
                }
            }
        }
    }

    /// `B' d B` of some tiles of a group: `[16][tile][channel]`.
    #[inline(always)]
    unsafe fn source_tiles<V: Vector<Element = T>>(&self, group: usize, tiles: Range<usize>, to: *mut T) {
        let channels = self.tiling.channels[0];
        let (row, plane_len) = (self.tiling.row(), self.tiling.source_plane());
        let [height, width] = self.source;
        let (down, next) = (width * self.source_channels, self.source_channels);
        let mut corner = self.corner(tiles.start);
        for i in 0..tiles.len() {
            let (y, x) = (corner.y as isize - self.lo[0], corner.x as isize - self.lo[1]);
            // SAFETY: only elements inside the image are read, and the block has room for the tiles.
            unsafe {
                let image = self.lhs.at((corner.n * height * down + group * channels) as isize);
                let inside = y >= 0 && x >= 0 && y + 4 <= height as isize && x + 4 <= width as isize;
                let to = to.add(i * row);
                let mut c = 0;
                if inside {
                    let first = image.add(y as usize * down + x as usize * next);
                    while c + V::LANES <= channels {
                        let mut d = [[V::splat(T::ZERO); 4]; 4];
                        for r in 0..4 {
                            for s in 0..4 {
                                d[r][s] = V::load(first.add(r * down + s * next + c));
                            }
                        }
                        store_planes(both(d, source_1d), to.add(c), plane_len);
                        c += V::LANES;
                    }
                }
                if c < channels {
                    // Of pixels outside the image no lanes are read.
                    let mut pixels = [[(image.cast_const(), 0); 4]; 4];
                    for r in 0..4 {
                        for s in 0..4 {
                            let (py, px) = (y + r as isize, x + s as isize);
                            if (0..height as isize).contains(&py) && (0..width as isize).contains(&px) {
                                pixels[r][s] = (image.add(py as usize * down + px as usize * next), V::LANES);
                            }
                        }
                    }
                    for c in (c..channels).step_by(V::LANES) {
                        let mut d = [[V::splat(T::ZERO); 4]; 4];
                        for r in 0..4 {
                            for s in 0..4 {
                                let (pixel, lanes) = pixels[r][s];
                                d[r][s] = V::load_first(pixel.wrapping_add(c), lanes.min(channels - c));
                            }
                        }
                        store_planes(both(d, source_1d), to.add(c), plane_len);
                    }
                }
            }
            corner = corner.next(self.tiling.grid);
        }
    }

    /// `A' m A` of some tiles of a panel into at most so many channels of the result from the one given.
    #[inline(always)]
    unsafe fn result_tiles<V: Vector<Element = T>>(&self, channel: usize, channels: usize, tiles: Range<usize>, from: *const T) {
        let plane_len = self.tiling.result_plane(self.kind);
        let [height, width] = self.image;
        let (down, next) = (width * self.image_channels, self.image_channels);
        let mut corner = self.corner(tiles.start);
        for i in 0..tiles.len() {
            let Corner { n, y, x } = corner;
            // SAFETY: the panel holds the tiles, and only elements inside the image are written.
            unsafe {
                let to = self.out.at(((n * height + y) * down + x * next + channel) as isize);
                for c in (0..channels.min(2 * V::LANES)).step_by(V::LANES) {
                    let from = from.add(i * 2 * V::LANES + c);
                    let mut m = [[V::splat(T::ZERO); 4]; 4];
                    for plane in 0..16 {
                        m[plane / 4][plane % 4] = V::load(from.add(plane * plane_len));
                    }
                    let tile = both(m, result_1d);
                    let (to, lanes) = (to.add(c), (channels - c).min(V::LANES));
                    if lanes == V::LANES && y + 2 <= height && x + 2 <= width {
                        tile[0][0].store(to);
                        tile[0][1].store(to.add(next));
                        tile[1][0].store(to.add(down));
                        tile[1][1].store(to.add(down + next));
                    } else {
                        for r in 0..(height - y).min(2) {
                            for s in 0..(width - x).min(2) {
                                tile[r][s].store_first(to.add(r * down + s * next), lanes);
                            }
                        }
                    }
                }
            }
            corner = corner.next(self.tiling.grid);
        }
    }

    /// The transformed gradient of the filter, summed over one part's tiles: laid out as a transformed filter.
    #[inline(always)]
    unsafe fn gradient_part<V: Vector<Element = T>>(&self, part: usize) {
        let t = &self.tiling;
        let [group_source, group_image] = t.channels;
        let width = 2 * V::LANES;
        let (source_plane, result_plane) = (t.source_plane(), t.result_plane(self.kind));
        let all = self.tiles(part);
        // SAFETY: the scratch holds a block's transformed tiles on both sides and the sum.
        unsafe {
            let source = self.own(part);
            let result = source.add(16 * source_plane);
            let sum = result.add(16 * result_plane);
            for first in all.clone().step_by(t.block) {
                let tiles = first..(first + t.block).min(all.end);
                for group in 0..self.d.groups {
                    self.source_tiles::<V>(group, tiles.clone(), source);
                    self.gradient_tiles::<V>(group, tiles.clone(), result);
                    for plane in 0..16 {
                        for b in (0..group_image).step_by(width) {
                            let vectors = if group_image - b > V::LANES { 2 } else { 1 };
                            let c = sum.add(self.filter_at::<V>(group, b / width, 0) + plane * group_source * width);
                            let (a, dy) = (source.add(plane * source_plane), result.add(plane * result_plane + b * t.block));
                            let shape = Product {
                                m: group_source,
                                k: tiles.len(),
                                a_row: 1,
                                a_col: t.row(),
                                vectors,
                                accumulate: first > all.start,
                            };
                            product::<V>(shape, a, dy, c);
                        }
                    }
                }
            }
        }
    }

    /// `A dy A'` of some tiles of a group: `[16][panel][tile][lane]`.
    #[inline(always)]
    unsafe fn gradient_tiles<V: Vector<Element = T>>(&self, group: usize, tiles: Range<usize>, to: *mut T) {
        let channels = self.tiling.channels[1];
        let (panel, plane_len) = (2 * V::LANES, self.tiling.result_plane(self.kind));
        let [height, width] = self.image;
        let mut corner = self.corner(tiles.start);
        for i in 0..tiles.len() {
            let Corner { n, y, x } = corner;
            // SAFETY: only elements inside the image are read, and the block has room for the tiles.
            unsafe {
                let first = self.rhs.at((((n * height + y) * width + x) * self.image_channels + group * channels) as isize);
                let (down, next) = (width * self.image_channels, self.image_channels);
                let inside = y + 2 <= height && x + 2 <= width;
                for c in (0..channels).step_by(V::LANES) {
                    let lanes = (channels - c).min(V::LANES);
                    let mut dy = [[V::splat(T::ZERO); 2]; 2];
                    if inside && lanes == V::LANES {
                        for r in 0..2 {
                            for s in 0..2 {
                                dy[r][s] = V::load(first.add(r * down + s * next + c));
                            }
                        }
                    } else {
                        for r in 0..(height - y).min(2) {
                            for s in 0..(width - x).min(2) {
                                dy[r][s] = V::load_first(first.add(r * down + s * next + c), lanes);
                            }
                        }
                    }
                    let to = to.add((c / panel * self.tiling.block + i) * panel + c % panel);
                    store_planes(both(dy, gradient_1d), to, plane_len);
                }
            }
            corner = corner.next(self.tiling.grid);
        }
    }

    /// The parts' sums in order, then `G' (...) G` into the filter gradient.
    #[inline(always)]
    unsafe fn combine<V: Vector<Element = T>>(&self, channels: Range<usize>) {
        let [group_source, group_image] = self.tiling.channels;
        let width = 2 * V::LANES;
        let tap_len = group_source * self.d.out_channels;
        let sums = 16 * (self.tiling.source_plane() + self.tiling.result_plane(self.kind));
        // SAFETY: all offsets lie within the parts' sums and dw.
        unsafe {
            for row in channels {
                let (group, channel) = (row / group_source, row % group_source);
                for b in (0..group_image).step_by(V::LANES) {
                    let at = sums + self.filter_at::<V>(group, b / width, channel) + b % width;
                    let mut m = [[V::splat(T::ZERO); 4]; 4];
                    for part in 0..self.work.parts {
                        let from = self.own(part).add(at);
                        for plane in 0..16 {
                            let m = &mut m[plane / 4][plane % 4];
                            *m = m.add(V::load(from.add(plane * group_source * width)));
                        }
                    }
                    let dw = both(m, filter_gradient_1d);
                    let lanes = (group_image - b).min(V::LANES);
                    for tap in 0..9 {
                        let to = self.out.at((self.weight_at(group, channel, b).0 + tap * tap_len) as isize);
                        dw[tap / 3][tap % 3].store_first(to, lanes);
                    }
                }
            }
        }
    }
}

/// `c (+)= a b`: a is m x k, b and c have rows of two vectors, of which `vectors` are used.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    k: usize,
    a_row: usize,
    a_col: usize,
    vectors: usize,
    accumulate: bool,
}

/// Rows that are computed together, at most: with two vectors each, what 16 registers hold.
const ROWS: usize = 6;

#[inline(always)]
unsafe fn product<V: Vector>(p: Product, a: *const V::Element, b: *const V::Element, c: *mut V::Element) {
    // Chunks as equal as possible: a remainder of one or two rows would be bound by the latency of its few sums.
    let chunks = p.m.div_ceil(ROWS).max(1);
    let (short, long) = (p.m / chunks, p.m % chunks);
    let (mut a, mut c) = (a, c);
    for chunk in 0..chunks {
        let count = short + usize::from(chunk < long);
        // SAFETY: the caller's matrices have these rows.
        unsafe {
            match (count, p.vectors) {
                (6, 2) => rows::<V, 6, 2>(p, a, b, c),
                (5, 2) => rows::<V, 5, 2>(p, a, b, c),
                (4, 2) => rows::<V, 4, 2>(p, a, b, c),
                (3, 2) => rows::<V, 3, 2>(p, a, b, c),
                (2, 2) => rows::<V, 2, 2>(p, a, b, c),
                (_, 2) => rows::<V, 1, 2>(p, a, b, c),
                (6, _) => rows::<V, 6, 1>(p, a, b, c),
                (5, _) => rows::<V, 5, 1>(p, a, b, c),
                (4, _) => rows::<V, 4, 1>(p, a, b, c),
                (3, _) => rows::<V, 3, 1>(p, a, b, c),
                (2, _) => rows::<V, 2, 1>(p, a, b, c),
                _ => rows::<V, 1, 1>(p, a, b, c),
            }
            a = a.wrapping_add(count * p.a_row);
            c = c.wrapping_add(count * 2 * V::LANES);
        }
    }
}

/// `R` rows of `N` vectors, their sums in registers.
#[inline(always)]
unsafe fn rows<V: Vector, const R: usize, const N: usize>(p: Product, a: *const V::Element, b: *const V::Element, c: *mut V::Element) {
    let width = 2 * V::LANES;
    // SAFETY: forwarded.
    unsafe {
        let mut sums = [[V::splat(V::Element::ZERO); N]; R];
        if p.accumulate {
            for r in 0..R {
                for j in 0..N {
                    sums[r][j] = V::load(c.add(r * width + j * V::LANES));
                }
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..p.k {
            let mut line = [V::splat(V::Element::ZERO); N];
            for j in 0..N {
                line[j] = V::load(b.add(j * V::LANES));
            }
            for r in 0..R {
                let x = V::splat(*a.add(r * p.a_row));
                for j in 0..N {
                    sums[r][j] = sums[r][j].plus_product(x, line[j]);
                }
            }
            a = a.wrapping_add(p.a_col);
            b = b.wrapping_add(width);
        }
        for r in 0..R {
            for j in 0..N {
                sums[r][j].store(c.add(r * width + j * V::LANES));
            }
        }
    }
}
