//! What can go wrong with a GPU.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;
use optc_exec::Trouble;
use std::fmt;

/// A trouble with a GPU or its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError {
    /// `R0138`: there is no driver or no such GPU; `R0139`: the driver has refused something.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, DeviceError>;

impl DeviceError {
    pub(crate) fn absent(message: impl Into<String>, help: impl Into<String>) -> Self {
        DeviceError { code: "R0138", message: message.into(), help: Some(help.into()) }
    }
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        DeviceError { code: "R0139", message: message.into(), help: None }
    }
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        DeviceError { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeviceError {}

impl From<DeviceError> for Trouble {
    fn from(e: DeviceError) -> Trouble {
        Trouble { code: e.code, message: e.message, help: e.help }
    }
}

/// The driver's own words for a result.
pub(crate) fn words(error: DriverError) -> String {
    let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(words), Some(name)) => format!("{words} ({name})"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// Says what was being done when the driver refused it.
pub(crate) trait While<T> {
    fn when(self, doing: &str) -> Result<T>;
}

impl<T> While<T> for std::result::Result<T, DriverError> {
    fn when(self, doing: &str) -> Result<T> {
        self.map_err(|e| {
            let error = DeviceError::refused(format!("the GPU's driver, {doing}: {}", words(e)));
            match e.0 {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    error.help("a smaller batch, `accumulate`, or states in a narrower type take less memory")
                }
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
                | CUresult::CUDA_ERROR_INVALID_PTX => error.help("the driver is too old for this GPU's code: update it"),
                _ => error,
            }
        })
    }
}
