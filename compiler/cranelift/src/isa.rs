//! The machine code is made for: this one, with the instructions it has.

use crate::Error;
use crate::effort::Effort;
use cranelift_codegen::isa::{OwnedTargetIsa, TargetFrontendConfig};
use cranelift_codegen::settings::{self, Configurable};
use std::sync::OnceLock;

/// What the emitter must know of the instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    /// What the builder of functions must know of the target.
    pub(crate) frontend: TargetFrontendConfig,
    /// x86-64 rather than another architecture.
    pub(crate) x86: bool,
    /// Rounding and blending instructions (always, except on old x86).
    pub(crate) sse41: bool,
    /// Fused multiply-add.
    pub(crate) fma: bool,
    /// 256-bit registers for whole passes of vector loops.
    pub(crate) wide: bool,
}

/// The target at each effort, and its features.
#[derive(Clone)]
pub(crate) struct Target {
    once: OwnedTargetIsa,
    around: OwnedTargetIsa,
    loops: OwnedTargetIsa,
    /// What the machine has.
    pub(crate) features: Features,
}

impl Target {
    /// The target as functions of this effort see it.
    pub(crate) fn isa(&self, effort: Effort) -> &OwnedTargetIsa {
        match effort {
            Effort::Once => &self.once,
            Effort::Around => &self.around,
            Effort::Loops => &self.loops,
        }
    }
}

/// The target and its features, detected at run time, once.
pub(crate) fn target() -> Result<Target, Error> {
    static TARGET: OnceLock<Result<Target, Error>> = OnceLock::new();
    TARGET.get_or_init(detect).clone()
}

fn isa(effort: Effort) -> Result<OwnedTargetIsa, Error> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", if effort == Effort::Once { "none" } else { "speed" }),
        ("regalloc_algorithm", if effort == Effort::Loops { "backtracking" } else { "single_pass" }),
        ("is_pic", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        ("enable_alias_analysis", "false"),
    ] {
        flags.set(name, value).map_err(|e| Error(format!("Cranelift setting {name}: {e}")))?;
    }
    let builder = cranelift_native::builder().map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))?;
    builder.finish(settings::Flags::new(flags)).map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))
}

fn detect() -> Result<Target, Error> {
    let (once, around, loops) = (isa(Effort::Once)?, isa(Effort::Around)?, isa(Effort::Loops)?);
    let has = |name: &str| loops.isa_flags().iter().any(|f| f.name == name && f.as_bool().unwrap_or(false));
    let x86 = cfg!(target_arch = "x86_64");
    let features = Features {
        frontend: loops.frontend_config(),
        x86,
        sse41: !x86 || has("has_sse41") && has("has_ssse3"),
        fma: !x86 || has("has_fma") && has("has_avx"),
        wide: crate::wide::available(),
    };
    if !features.sse41 {
        return Err(Error("this processor lacks SSE4.1, which compiled programs need".to_string()));
    }
    Ok(Target { once, around, loops, features })
}
