//! The intrinsics that are used: LLVM ends the process when a target cannot do one, so nothing else may be asked for.

/// All of them, by their names without types; [`crate::ins::Ins::intrinsic`] refuses others.
pub(crate) const INTRINSICS: &[&str] = &[
    "llvm.abs",
    "llvm.ceil",
    "llvm.fabs",
    "llvm.floor",
    "llvm.fma",
    "llvm.fptosi.sat",
    "llvm.fptoui.sat",
    "llvm.masked.gather",
    "llvm.masked.load",
    "llvm.masked.scatter",
    "llvm.masked.store",
    "llvm.maximum",
    "llvm.minimum",
    "llvm.roundeven",
    "llvm.smax",
    "llvm.smin",
    "llvm.sqrt",
    "llvm.trunc",
    "llvm.umax",
    "llvm.umin",
    "llvm.vector.reduce.or",
    "llvm.nvvm.barrier.cta.sync.aligned.all",
    "llvm.nvvm.bar.warp.sync",
    "llvm.nvvm.cp.async.ca.shared.global.4.s",
    "llvm.nvvm.cp.async.ca.shared.global.8.s",
    "llvm.nvvm.cp.async.cg.shared.global.16.s",
    "llvm.nvvm.cp.async.commit.group",
    "llvm.nvvm.cp.async.wait.group",
    "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16",
    "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16",
    "llvm.nvvm.mma.m16n8k16.row.col.bf16",
    "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
    "llvm.nvvm.read.ptx.sreg.ctaid.x",
    "llvm.nvvm.read.ptx.sreg.nctaid.x",
    "llvm.nvvm.read.ptx.sreg.tid.x",
    "llvm.nvvm.shfl.sync.bfly.i32",
];

/// Whether an intrinsic is in the list.
pub(crate) fn intrinsic(name: &str) -> bool {
    INTRINSICS.contains(&name)
}
