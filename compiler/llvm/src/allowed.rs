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
    "llvm.nvvm.read.ptx.sreg.ctaid.x",
    "llvm.nvvm.read.ptx.sreg.nctaid.x",
    "llvm.nvvm.read.ptx.sreg.tid.x",
    "llvm.nvvm.shfl.sync.bfly.i32",
];

/// Whether an intrinsic is in the list.
pub(crate) fn intrinsic(name: &str) -> bool {
    INTRINSICS.contains(&name)
}
