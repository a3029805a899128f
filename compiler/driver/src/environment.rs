//! What the environment says about the compiler, looked at once before anything is done: a setting that is none would change nothing, and nobody would notice.

use optc_train::TrainError;
use std::ffi::OsString;

/// What an environment variable holds.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Checks the variables that optc reads, besides those that name a back end, a device and a processor.
///
/// # Errors
/// One has a value that means nothing (`R0137`).
pub fn check() -> Result<(), TrainError> {
    checked(&|name| std::env::var_os(name))?;
    #[cfg(feature = "llvm")]
    optc_llvm::check_passes().map_err(|e| {
        TrainError::new("R0137", e.to_string()).help("passes are written as for LLVM's `opt -passes=`; unset it for optc's own")
    })?;
    Ok(())
}

fn checked(variable: Variable<'_>) -> Result<(), TrainError> {
    let wrong = |name: &str, help: String| -> TrainError {
        let value = variable(name).unwrap_or_default();
        TrainError::new("R0137", format!("{name} is `{}`", value.to_string_lossy())).help(help)
    };
    let text = |name: &str| variable(name).map(|v| v.to_string_lossy().into_owned());
    // An empty one counts as none, but where it would name a program.
    let some = |name: &str| text(name).filter(|v| !v.is_empty());
    if let Some(cache) = some("OPTC_CACHE")
        && cache != "off"
        && ["off", "none", "no", "false", "0", "on", "yes", "true", "1"].contains(&cache.to_lowercase().as_str())
    {
        return Err(wrong("OPTC_CACHE", format!("`off` keeps nothing; everything else is a folder, this one as `./{cache}`")));
    }
    if some("OPTC_CACHE_MB").is_some_and(|v| v.parse::<u64>().is_err()) {
        return Err(wrong("OPTC_CACHE_MB", "it may be a whole number of megabytes; 256 if it is not set".to_string()));
    }
    if some("OPTC_VECTORS").is_some_and(|v| !["128", "256", "512"].contains(&v.as_str())) {
        return Err(wrong(
            "OPTC_VECTORS",
            "it may be 128, 256 or 512, the bits of the widest registers that Cranelift's code may use".to_string(),
        ));
    }
    if some("OPTC_CUBLAS").is_some_and(|v| v != "off" && v != "on") {
        return Err(wrong(
            "OPTC_CUBLAS",
            "`off` leaves products to optc's own kernels; `on`, or nothing, takes cuBLASLt where it is installed".to_string(),
        ));
    }
    if text("OPTC_PTXAS").is_some_and(|v| v.trim().is_empty()) {
        return Err(wrong(
            "OPTC_PTXAS",
            "it names NVIDIA's assembler, as /usr/local/cuda/bin/ptxas; unset it to take `ptxas` from the path".to_string(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<(), TrainError> {
        checked(&|asked| (asked == name).then(|| value.into()))
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let wrong = [
            ("OPTC_CACHE", "OFF"),
            ("OPTC_CACHE", "none"),
            ("OPTC_CACHE", "0"),
            ("OPTC_CACHE_MB", "abc"),
            ("OPTC_CACHE_MB", "-1"),
            ("OPTC_VECTORS", "64"),
            ("OPTC_VECTORS", "avx2"),
            ("OPTC_CUBLAS", "0"),
            ("OPTC_PTXAS", ""),
        ];
        for (name, value) in wrong {
            let error = with(name, value).expect_err("refused");
            assert!(error.code == "R0137" && error.message.contains(&format!("{name} is `{value}`")) && error.help.is_some(), "{error:?}");
        }
        let right = [
            ("OPTC_CACHE", "off"),
            ("OPTC_CACHE", ""),
            ("OPTC_CACHE", "./none"),
            ("OPTC_CACHE", "/var/cache/optc"),
            ("OPTC_CACHE_MB", "0"),
            ("OPTC_VECTORS", "256"),
            ("OPTC_CUBLAS", "off"),
            ("OPTC_PTXAS", "/opt/ptxas"),
        ];
        for (name, value) in right {
            with(name, value).expect("a setting");
        }
    }
}
