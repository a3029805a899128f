//! How a convolution is computed: the method, the parts it is cut into and the scratch memory they need, all by shape alone.

use crate::plan::{ConvDims, ConvKind};

/// Elements of a patch matrix that are made and used at a time, so that they are still in the second-level cache when multiplied.
const PATCH_BLOCK: usize = 64 * 1024;
/// Parts a convolution is cut into at most.
const MAX_PARTS: usize = 8;
/// Columns that a panel of a Winograd product may have; extents of its second operand are rounded up to it.
pub const PANEL: usize = 16;
/// Rows of a Winograd operand begin at multiples of this many elements.
pub const LANES: usize = 8;
/// Channel pairs from which the transformed filter is much larger than the second-level cache.
const LARGE_FILTER: usize = 64 * 1024;
/// Tiles that a part has at least, where there are several parts.
const PART_TILES: usize = 96;
/// Tiles from which transforming the filter pays.
const MIN_TILES: usize = 32;

/// The work of one map of a convolution: what is done in which parts, depending on the shape only, so that results do not depend on the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvWork {
    /// How the map is computed.
    pub method: ConvMethod,
    /// Independent parts: ranges of images or tiles. Partial filter gradients are combined in their order.
    pub parts: usize,
    /// Elements of scratch memory used by all parts.
    pub shared_len: usize,
    /// Elements of scratch memory of each part.
    pub part_len: usize,
}

/// A way to compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvMethod {
    /// Matrix products with unfolded patches, parts being ranges of images.
    Patches {
        /// Output positions (whole lines of the last axis) whose patches are made at a time.
        block: usize,
        /// Elements of their patches; a partial filter gradient follows them.
        patch_len: usize,
    },
    /// Winograd's minimal filtering F(2x2, 3x3), parts being ranges of tiles.
    Winograd(Tiling),
}

/// The tiles of Winograd's method: squares of 2 x 2 elements of the result (of dy in the gradient of the filter), numbered image by image in row-major order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Tiles along the two axes of an image.
    pub grid: [usize; 2],
    /// Tiles that are transformed at a time.
    pub block: usize,
    /// Channels per group of the array read in tiles of 4 x 4 and of the one in tiles of 2 x 2.
    pub channels: [usize; 2],
}

impl Tiling {
    /// The second of the channel counts rounded up to whole panels.
    pub fn columns(&self) -> usize {
        self.channels[1].next_multiple_of(PANEL)
    }
    /// Elements between rows of transformed 4 x 4 tiles.
    pub fn row(&self) -> usize {
        self.channels[0].next_multiple_of(LANES)
    }
    /// Elements between the 16 planes of a block's transformed 4 x 4 tiles.
    pub fn source_plane(&self) -> usize {
        spread(self.block * self.row())
    }
    /// Elements between the 16 planes of a block's 2 x 2 tiles: of one panel of the result's, or of all of dy's.
    pub fn result_plane(&self, kind: ConvKind) -> usize {
        spread(self.block * if kind == ConvKind::FilterGrad { self.columns() } else { PANEL })
    }
    /// Elements of one group's transformed filter or filter gradient.
    pub fn filter_len(&self) -> usize {
        16 * self.channels[0] * self.columns()
    }
}

/// A distance of at least `len` elements between planes used together: an odd multiple of a cache line, so that they do not fall into the same sets.
fn spread(len: usize) -> usize {
    (len.div_ceil(PANEL) | 1) * PANEL
}

impl ConvDims {
    /// Decides how a map is computed.
    pub fn work(&self, kind: ConvKind) -> ConvWork {
        self.winograd(kind).unwrap_or_else(|| self.patches(kind))
    }

    /// Elements of scratch memory a map needs.
    pub fn scratch_len(&self, kind: ConvKind) -> usize {
        let work = self.work(kind);
        work.shared_len + work.parts * work.part_len
    }

    fn patches(&self, kind: ConvKind) -> ConvWork {
        let positions: usize = self.output.iter().product();
        let cols = self.filter.iter().product::<usize>() * (self.in_channels / self.groups);
        let line = self.output.last().copied().unwrap_or(1).max(1);
        let block = (PATCH_BLOCK / (line * cols).max(1)).max(1) * line;
        let patch_len = block.min(positions) * cols;
        let partial = if kind == ConvKind::FilterGrad { self.filter_len() } else { 0 };
        let method = ConvMethod::Patches { block, patch_len };
        ConvWork { method, parts: self.batch.clamp(1, MAX_PARTS), shared_len: 0, part_len: patch_len + partial }
    }

    /// Winograd's method, where it can be used and is faster.
    fn winograd(&self, kind: ConvKind) -> Option<ConvWork> {
        let plain = self.filter == [3, 3] && self.stride == [1, 1] && self.dilation == [1, 1];
        let (group_in, group_out) = (self.in_channels / self.groups, self.out_channels / self.groups);
        // Measured: patches that are copied whole are faster up to so many channels; those of groups and of padded images never are.
        let copied = self.groups == 1 && self.pad_lo.iter().chain(&self.pad_hi).all(|&p| p == 0);
        let few = if kind == ConvKind::InputGrad { 5 } else { 3 };
        if !plain || (copied && group_in <= few) {
            return None;
        }
        let (channels, extents) =
            if kind == ConvKind::InputGrad { ([group_out, group_in], &self.input) } else { ([group_in, group_out], &self.output) };
        let grid = [extents[0].div_ceil(2), extents[1].div_ceil(2)];
        let tiles = self.batch * grid[0] * grid[1];
        if tiles < MIN_TILES {
            return None;
        }
        // Filters that leave the second-level cache are read, and their gradients written, once per block.
        let block = if channels[0] * channels[1] > LARGE_FILTER { 48 } else { 24 };
        let tiling = Tiling { grid, block, channels };
        let parts = (tiles / PART_TILES).clamp(1, MAX_PARTS);
        let filters = self.groups * tiling.filter_len();
        let (shared_len, own) = if kind == ConvKind::FilterGrad { (0, filters) } else { (filters, 0) };
        let part_len = 16 * (tiling.source_plane() + tiling.result_plane(kind)) + own;
        Some(ConvWork { method: ConvMethod::Winograd(tiling), parts, shared_len, part_len })
    }
}
