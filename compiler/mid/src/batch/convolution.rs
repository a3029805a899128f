//! Batching of convolutions: where the filter is shared, the batch joins the convolution's own; else it becomes groups of channels.

use super::{Batcher, Val};
use optc_abi::plan::ConvDims;
use optc_ir::graph::{ConvKind, NodeId, Op, Origin, Ty};

impl Batcher {
    /// A convolution or one of its transposes with a batched operand.
    pub(super) fn conv(&mut self, kind: ConvKind, dims: &ConvDims, ty: &Ty, [a, b]: [Val; 2], o: Origin) -> NodeId {
        if self.size == 0 {
            return self.g.splat(ty, 0.0, o);
        }
        if kind != ConvKind::FilterGrad && !b.batched {
            let images = self.images_joined(a.node, o);
            let dims = ConvDims { batch: dims.batch * self.size, ..dims.clone() };
            let out = self.g.op(Op::Conv { kind, dims }, &[images, b.node], o);
            return self.g.reshape(out, &ty.shape, o);
        }
        let (a, b) = (self.spread(a, o).node, self.spread(b, o).node);
        let (a, b) = (self.channels_joined(a, o), self.channels_joined(b, o));
        let dims = ConvDims {
            groups: dims.groups * self.size,
            in_channels: dims.in_channels * self.size,
            out_channels: dims.out_channels * self.size,
            ..dims.clone()
        };
        let out = self.g.op(Op::Conv { kind, dims }, &[a, b], o);
        let last = ty.rank() - 2;
        let shape: Vec<usize> = ty.shape[1..=last].iter().copied().chain([self.size, ty.shape[last + 1]]).collect();
        let apart = self.g.reshape(out, &shape, o);
        self.brought_forward(apart, last, 1, o)
    }

    /// The batch joined to the images.
    fn images_joined(&mut self, x: NodeId, o: Origin) -> NodeId {
        let shape = self.g.ty(x).shape.clone();
        let joint: Vec<usize> = std::iter::once(shape[0] * shape[1]).chain(shape[2..].iter().copied()).collect();
        self.g.reshape(x, &joint, o)
    }

    /// The batch joined to the last axis, the channels, as the slower of the two.
    fn channels_joined(&mut self, x: NodeId, o: Origin) -> NodeId {
        let rank = self.g.ty(x).rank();
        let x = self.put_behind(x, rank - 2, 1, o);
        let shape = self.g.ty(x).shape.clone();
        let joint: Vec<usize> = shape[..rank - 2].iter().copied().chain([shape[rank - 2] * shape[rank - 1]]).collect();
        self.g.reshape(x, &joint, o)
    }
}
