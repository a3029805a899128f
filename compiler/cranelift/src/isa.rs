//! The machine code is made for: this one, with the instructions it has.

use crate::Error;
use crate::effort::Effort;
use crate::wide::Vectors;
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
    /// Registers for whole passes of vector loops.
    pub(crate) vectors: Vectors,
    /// Functions are called by name, not by address: the code goes to an object file.
    pub(crate) object: bool,
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

fn flags(effort: Effort, object: bool) -> Result<settings::Flags, Error> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", if effort == Effort::Once { "none" } else { "speed" }),
        ("regalloc_algorithm", if effort == Effort::Loops { "backtracking" } else { "single_pass" }),
        ("is_pic", if object { "true" } else { "false" }),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        ("enable_alias_analysis", "false"),
    ] {
        flags.set(name, value).map_err(|e| Error(format!("Cranelift setting {name}: {e}")))?;
    }
    Ok(settings::Flags::new(flags))
}

fn isa(effort: Effort) -> Result<OwnedTargetIsa, Error> {
    let builder = cranelift_native::builder().map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))?;
    builder.finish(flags(effort, false)?).map_err(|e| Error(format!("Cranelift does not support this machine: {e}")))
}

/// The targets that an object file for this triple is made for, the plainest first: x86-64 as of 2008 (v2), with AVX2 and FMA (v3), with
/// AVX-512 (v4; see [`Vectors::Bits512`]); any 64-bit ARM.
/// Without a triple: this machine's architecture and system.
///
/// # Errors
/// Another architecture, or a triple that is none.
pub(crate) fn of_triple(triple: Option<&str>) -> Result<Vec<Target>, Error> {
    use cranelift_codegen::isa::lookup;
    use target_lexicon::{Architecture, Triple};
    let triple = match triple {
        Some(text) => text.parse::<Triple>().map_err(|e| Error(format!("`{text}` is no target: {e}")))?,
        None => Triple::host(),
    };
    let x86 = triple.architecture == Architecture::X86_64;
    if !x86 && !matches!(triple.architecture, Architecture::Aarch64(_)) {
        return Err(Error(format!("object files can be made for x86_64 and aarch64, not for {}", triple.architecture)));
    }
    let v2 = ["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
    let v3 = ["has_avx", "has_avx2", "has_fma", "has_bmi1", "has_bmi2", "has_lzcnt"];
    let v3 = [v2.as_slice(), &v3].concat();
    let x86_levels = [(v2.to_vec(), Vectors::Bits128), (v3.clone(), Vectors::Bits256), (v3, Vectors::Bits512)];
    let levels: &[(Vec<&str>, Vectors)] = if x86 { &x86_levels } else { &[(Vec::new(), Vectors::Bits128)] };
    let mut targets = Vec::new();
    for (settings, vectors) in levels {
        let make = |effort| {
            let mut builder = lookup(triple.clone()).map_err(|e| Error(format!("no code can be made for {triple}: {e}")))?;
            for name in settings {
                builder.enable(name).map_err(|e| Error(format!("Cranelift setting {name}: {e}")))?;
            }
            builder.finish(flags(effort, true)?).map_err(|e| Error(format!("no code can be made for {triple}: {e}")))
        };
        let (once, around, loops) = (make(Effort::Once)?, make(Effort::Around)?, make(Effort::Loops)?);
        let features = Features {
            frontend: loops.frontend_config(),
            x86,
            sse41: true,
            fma: !x86 || *vectors > Vectors::Bits128,
            vectors: *vectors,
            object: true,
        };
        targets.push(Target { once, around, loops, features });
    }
    Ok(targets)
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
        vectors: crate::wide::available(),
        object: false,
    };
    if !features.sse41 {
        return Err(Error("this processor lacks SSE4.1, which compiled programs need".to_string()));
    }
    Ok(Target { once, around, loops, features })
}
