//! Kernels for GPUs.

use crate::body::Body;
use crate::ins::V;
use optc_ir::kernel::{AxisId, Extent, Stmt};

/// How threads share a kernel's work.
pub(crate) struct Simt {
    pub(crate) store_by: Option<V>,
}

impl Body<'_> {
    pub(crate) fn units(&mut self, _axis: AxisId, _body: &[Stmt]) {
        panic!("compiler bug: threads where there are none")
    }
    pub(crate) fn shared_loop(&mut self, _axis: AxisId, _extent: Extent, _n: V, _body: &[Stmt]) {
        panic!("compiler bug: threads where there are none")
    }
    pub(crate) fn report_simt(&mut self, _index: V, _extent: i64, _origin: u32) {
        panic!("compiler bug: threads where there are none")
    }
}
