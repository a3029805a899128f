//! What all blocks of a plan share: buffers before they have a place, kernels, constants, origins.

use crate::emit::Origins;
use optc_abi::plan::{BufRef, KernelCall, LoopId, Place};
use optc_abi::{DType, Tensor};
use optc_ir::Origin;
use optc_ir::kernel::{Kernel, NamedKernel};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A buffer of the plan to be.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub dtype: DType,
    pub len: usize,
    /// Where it must be; the arena if nothing is said.
    pub place: Option<Place>,
    /// Memory it is part of instead of having its own.
    pub forward: Option<BufRef>,
    /// The loop in whose body it lives; it keeps nothing from pass to pass.
    pub within: Option<LoopId>,
}

/// Estimated time of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// Of any use.
    Fixed(f64),
    /// Per element of a flat kernel.
    Element(f64),
}

impl Cost {
    /// Nanoseconds of one argument set.
    pub fn of(self, call: &KernelCall) -> f64 {
        match self {
            Cost::Fixed(ns) => ns,
            Cost::Element(ns) => ns * call.sizes.first().map_or(1, |s| s * call.range) as f64,
        }
    }
}

/// The collection.
#[derive(Default)]
pub(crate) struct Store {
    pub buffers: Vec<Buffer>,
    pub constants: Vec<Tensor>,
    known_constants: FxHashMap<Arc<Tensor>, usize>,
    pub kernels: Vec<NamedKernel>,
    pub costs: Vec<Cost>,
    known_kernels: FxHashMap<Kernel, usize>,
    pub origins: Origins,
    /// Arrays that leave memory, by the nodes of the outermost block that say so.
    pub swapped: Vec<usize>,
    loops: usize,
}

impl Store {
    pub fn buffer(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// A buffer in the arena.
    pub fn temporary(&mut self, dtype: DType, len: usize, within: Option<LoopId>) -> usize {
        self.buffer(Buffer { dtype, len, place: None, forward: None, within })
    }

    pub fn constant(&mut self, tensor: &Arc<Tensor>) -> usize {
        if let Some(&buffer) = self.known_constants.get(tensor) {
            return buffer;
        }
        let place = Some(Place::Constant(self.constants.len()));
        self.constants.push((**tensor).clone());
        let buffer = self.buffer(Buffer { dtype: tensor.dtype, len: tensor.len(), place, forward: None, within: None });
        self.known_constants.insert(tensor.clone(), buffer);
        buffer
    }

    /// The number of a kernel; `ns` is its time, for a flat kernel on arrays of `flat` elements.
    pub fn kernel(&mut self, kernel: Kernel, name: String, origin: Origin, ns: f64, flat: usize) -> usize {
        if let Some(&k) = self.known_kernels.get(&kernel) {
            return k;
        }
        self.kernels.push(NamedKernel { name, kernel: kernel.clone(), origin });
        self.costs.push(if flat > 0 { Cost::Element(ns / flat as f64) } else { Cost::Fixed(ns) });
        self.known_kernels.insert(kernel, self.kernels.len() - 1);
        self.kernels.len() - 1
    }

    pub fn new_loop(&mut self) -> LoopId {
        self.loops += 1;
        self.loops - 1
    }

    /// The memory a reference means after all forwarding.
    pub fn resolve(&self, place: &BufRef) -> BufRef {
        let mut out = place.clone();
        while let Some(next) = &self.buffers[out.buffer].forward {
            out.buffer = next.buffer;
            out.offset += next.offset;
            out.steps.extend(next.steps.iter().copied());
        }
        out
    }
}
