//! NVIDIA's library of sums over GPUs, NCCL, loaded when several GPUs are first asked for.

use crate::error::{DeviceError, Result};
use optc_abi::DType;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// Names under which it is looked for.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// What it answers when all is well, and when it goes on by itself.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
/// Its numbers of ways to combine.
pub(crate) const SUM: c_int = 0;
pub(crate) const MAX: c_int = 2;

/// A GPU's place among those that add up together.
pub(crate) type Communicator = *mut c_void;

/// The functions in use.
pub(crate) struct Nccl {
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    init_all: unsafe extern "C" fn(*mut Communicator, c_int, *const c_int) -> c_int,
    abort: unsafe extern "C" fn(Communicator) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Communicator, *mut c_void) -> c_int,
    /// Dropped last: the functions are its.
    _library: libloading::Library,
}

/// The library's number of a type.
fn number(dtype: DType) -> Option<c_int> {
    Some(match dtype {
        DType::U8 => 1,
        DType::I32 => 2,
        DType::U32 => 3,
        DType::I64 => 4,
        DType::F16 => 6,
        DType::F32 => 7,
        DType::F64 => 8,
        DType::BF16 => 9,
        DType::Bool => return None,
    })
}

impl Nccl {
    /// The library.
    ///
    /// # Errors
    /// It is not installed, or lacks a function.
    pub(crate) fn open() -> Result<&'static Nccl> {
        static LOADED: OnceLock<Result<Nccl>> = OnceLock::new();
        LOADED.get_or_init(Nccl::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Nccl> {
        let missing = |what: String| {
            DeviceError::absent(
                format!("several GPUs add up with NVIDIA's library NCCL, {what}"),
                "install NCCL (`libnccl2`), name its folder in LD_LIBRARY_PATH, or train on one GPU: `cuda:0`",
            )
        };
        // SAFETY: the library runs nothing of its own when it is loaded.
        let library = NAMES.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
        let Some(library) = library else { return Err(missing(format!("and {} cannot be loaded", NAMES[0]))) };
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this type since NCCL 2.4.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| missing(format!("which lacks `{}`", $name)))?
            };
        }
        Ok(Nccl {
            error: function!("ncclGetErrorString"),
            init_all: function!("ncclCommInitAll"),
            abort: function!("ncclCommAbort"),
            group_start: function!("ncclGroupStart"),
            group_end: function!("ncclGroupEnd"),
            all_reduce: function!("ncclAllReduce"),
            _library: library,
        })
    }

    fn when(&self, result: c_int, doing: &str) -> Result<()> {
        if result == SUCCESS || result == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: it gives a text of its own for every number.
        let words = unsafe { (self.error)(result) };
        let words = if words.is_null() {
            format!("error {result}")
        } else {
            // SAFETY: a text that ends with zero.
            unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
        };
        Err(DeviceError::refused(format!("NCCL, {doing}: {words}")).help("`NCCL_DEBUG=WARN` says more"))
    }

    /// The places of GPUs, by their numbers, among each other.
    pub(crate) fn communicators(&self, ordinals: &[u32]) -> Result<Vec<Communicator>> {
        let devices: Vec<c_int> = ordinals.iter().map(|&n| n as c_int).collect();
        let mut made = vec![std::ptr::null_mut(); devices.len()];
        // SAFETY: as many places as devices.
        let result = unsafe { (self.init_all)(made.as_mut_ptr(), devices.len() as c_int, devices.as_ptr()) };
        self.when(result, "bringing GPUs together")?;
        Ok(made)
    }

    /// What `work` asks for belongs together.
    pub(crate) fn together(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        // SAFETY: ended below.
        self.when(unsafe { (self.group_start)() }, "adding up")?;
        let done = work();
        // SAFETY: begun above.
        let ended = self.when(unsafe { (self.group_end)() }, "adding up");
        done.and(ended)
    }

    /// Combines an array with those of the other GPUs, in its place, in a stream.
    ///
    /// # Safety
    /// `len` elements at `address` are memory of the communicator's GPU, and the stream is one of it.
    pub(crate) unsafe fn combine(
        &self,
        communicator: Communicator,
        address: u64,
        (dtype, len): (DType, usize),
        how: c_int,
        stream: *mut c_void,
    ) -> Result<()> {
        let ty = number(dtype).ok_or_else(|| DeviceError::refused("compiler bug: truth values are added up over GPUs"))?;
        let at = address as *mut c_void;
        // SAFETY: as the caller promises.
        let result = unsafe { (self.all_reduce)(at, at, len, ty, how, communicator, stream) };
        self.when(result, "adding up")
    }

    /// Ends whatever waits for the other GPUs.
    ///
    /// # Safety
    /// The communicator is used no more.
    pub(crate) unsafe fn abort(&self, communicator: Communicator) {
        // SAFETY: as the caller promises.
        let _ = unsafe { (self.abort)(communicator) };
    }
}
