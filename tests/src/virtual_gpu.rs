//! The compiler's binary on the virtual GPU.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder in which the driver's name is the virtual GPU's.
pub struct VirtualGpu {
    folder: tempfile::TempDir,
}

/// Where cargo has put the library: beside the running test, or one folder up.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the running test");
    let beside = test.parent().expect("a folder");
    let places = [beside.join("libvirtual_cuda.so"), beside.join("../libvirtual_cuda.so")];
    let found = places.iter().find(|p| p.exists()).unwrap_or_else(|| panic!("there is no {}", places[0].display()));
    found.canonicalize().expect("a path")
}

impl Default for VirtualGpu {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::os::unix::fs::symlink(library(), folder.path().join(name)).expect("a link");
        }
        VirtualGpu { folder }
    }
}

impl VirtualGpu {
    /// The name under which the virtual GPU is also the library of matrix products.
    pub fn with_products(self) -> Self {
        std::os::unix::fs::symlink(library(), self.folder.path().join("libcublasLt.so")).expect("a link");
        self
    }

    /// The name under which the virtual GPU is also the library of sums over devices.
    pub fn with_sums(self) -> Self {
        std::os::unix::fs::symlink(library(), self.folder.path().join("libnccl.so.2")).expect("a link");
        self
    }

    /// A command that finds the virtual GPU in place of a driver, and nothing of the machine's own settings.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for variable in ["OPTC_DEVICE", "OPTC_BACKEND", "OPTC_CUBLAS", "OPTC_VGPU_ORDER", "OPTC_VGPU_DEVICES", "OPTC_VGPU_MEMORY"] {
            command.env_remove(variable);
        }
        command.env("LD_LIBRARY_PATH", self.folder.path()).env("OPTC_VGPU_LOG", self.log());
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log.json")
    }

    /// What the last command has asked of the GPU.
    pub fn counts(&self) -> String {
        std::fs::read_to_string(self.log()).expect("a log")
    }
}

/// What a command wrote to both streams.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
