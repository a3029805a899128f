//! Products, convolutions and library calls by themselves, for whoever runs a plan elsewhere and leaves some of its instructions to this processor.

use crate::gemm::PreparedGemm;
use crate::pool::Pool;
use crate::{conv, lib_call};
use optc_abi::DType;
use optc_abi::plan::{Conv, Instr, LibOp};

/// One instruction, prepared.
pub struct HostCall(What);

enum What {
    Gemm(Box<PreparedGemm>),
    Conv(Box<Conv>),
    Lib(LibOp, DType),
}

impl HostCall {
    /// Prepares an instruction; `None` for those that need a program around them.
    pub fn new(instr: &Instr) -> Option<HostCall> {
        Some(HostCall(match instr {
            Instr::Gemm(g) => What::Gemm(Box::new(PreparedGemm::new(g))),
            Instr::Conv(c) => What::Conv(Box::new(c.clone())),
            Instr::Lib { op: LibOp::SwapOut { .. } | LibOp::SwapIn { .. } | LibOp::Callback { .. } | LibOp::AllReduce { .. }, .. } => {
                return None;
            }
            Instr::Lib { op, dtype, .. } => What::Lib(op.clone(), *dtype),
            _ => return None,
        }))
    }

    /// Runs it on the memory that [`optc_abi::extent::spans`] lists, in that order.
    ///
    /// # Safety
    /// Each address is valid for its span; what is written overlaps nothing else.
    pub unsafe fn run(&self, pool: &Pool, addresses: &[*mut u8]) {
        // SAFETY: as the caller promises.
        unsafe {
            match &self.0 {
                What::Gemm(g) => g.run(pool, addresses[0], addresses[1], addresses[2]),
                What::Conv(c) => conv::run(pool, c, addresses[0], addresses[1], addresses[2], addresses[3]),
                What::Lib(op, dtype) => lib_call::run(pool, op, *dtype, addresses.as_ptr()),
            }
        }
    }
}
