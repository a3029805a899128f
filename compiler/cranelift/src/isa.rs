//! The machine code is made for: this one, with the instructions it has.

use crate::Error;
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

/// The target and its features, detected at run time, once.
pub(crate) fn target() -> Result<(OwnedTargetIsa, Features), Error> {
    static TARGET: OnceLock<Result<(OwnedTargetIsa, Features), Error>> = OnceLock::new();
    TARGET.get_or_init(detect).clone()
}

fn detect() -> Result<(OwnedTargetIsa, Features), Error> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("is_pic", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        ("enable_alias_analysis", "false"),
    ] {
        flags.set(name, value).map_err(|e| Error(format!("Cranelift setting {name}: {e}")))?;
    }
    let builder = cranelift_native::builder().map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))?;
    let isa = builder.finish(settings::Flags::new(flags)).map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))?;
    let has = |name: &str| isa.isa_flags().iter().any(|f| f.name == name && f.as_bool().unwrap_or(false));
    let x86 = cfg!(target_arch = "x86_64");
    let features = Features {
        frontend: isa.frontend_config(),
        x86,
        sse41: !x86 || has("has_sse41") && has("has_ssse3"),
        fma: !x86 || has("has_fma") && has("has_avx"),
        wide: crate::wide::available(),
    };
    if !features.sse41 {
        return Err(Error("this processor lacks SSE4.1, which compiled programs need".to_string()));
    }
    Ok((isa, features))
}
