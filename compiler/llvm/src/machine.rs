//! What code is made for.

/// A kind of machine, as far as code before LLVM's back end depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// This computer's processor.
    Host {
        /// It multiplies and adds with one rounding.
        fma: bool,
    },
    /// An NVIDIA GPU.
    Nvptx,
    /// The same kernels on this computer, threads one after the other.
    Emulated {
        /// As above.
        fma: bool,
    },
}

impl Machine {
    pub(crate) fn fma(self) -> bool {
        match self {
            Machine::Host { fma } | Machine::Emulated { fma } => fma,
            Machine::Nvptx => true,
        }
    }
    /// Whether kernels are written for one thread of many.
    pub(crate) fn simt(self) -> bool {
        !matches!(self, Machine::Host { .. })
    }
}
