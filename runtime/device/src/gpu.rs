//! One GPU: its context, what it is, and the arrays of this computer that have a copy there.

use crate::driver;
use crate::error::{DeviceError, Result, While};
use crate::memory::Memory;
use crate::stream::Stream;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Its compute capability (9, 0 for an H200).
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Shared memory that a block may ask for.
    pub shared: u32,
    /// The newest CUDA that the driver knows, as 1000 times the major and 10 times the minor version.
    pub driver: u32,
}

/// A GPU in use by this process.
pub struct Gpu {
    ordinal: u32,
    context: sys::CUcontext,
    properties: Properties,
    mirrors: Mutex<HashMap<usize, Arc<Memory>>>,
    /// Changes when a mirror comes or goes.
    generation: AtomicU64,
}

// SAFETY: a context may be used by any thread that makes it its current one.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} {:?}", self.ordinal, self.properties)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many GPUs there are.
///
/// # Errors
/// There is no driver, it is too old, or it does not start.
pub fn count() -> Result<u32> {
    driver::present()?;
    let none = |e: result::DriverError| match e.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => DeviceError::absent(
            "there is an NVIDIA driver but no GPU that it can use",
            "leave `device` out to run on the processor; CUDA_VISIBLE_DEVICES may hide a GPU",
        ),
        _ => DeviceError::absent(format!("the NVIDIA driver does not start: {}", crate::error::words(e)), "`nvidia-smi` says more"),
    };
    result::init().map_err(none)?;
    let count = result::device::get_count().map_err(none)?;
    Ok(count.max(0) as u32)
}

impl Gpu {
    /// Opens the GPU with this number; the same one for the whole process.
    ///
    /// # Errors
    /// There is no driver or no such GPU; the driver refuses.
    pub fn open(ordinal: u32) -> Result<Arc<Gpu>> {
        static OPEN: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
        let mut open = locked(&OPEN);
        if let Some(gpu) = open.iter().find(|g| g.ordinal == ordinal) {
            return Ok(gpu.clone());
        }
        let count = count()?;
        if ordinal >= count {
            let all = if count == 1 {
                "there is one GPU, cuda:0".to_string()
            } else {
                format!("there are {count} GPUs, cuda:0 to cuda:{}", count.max(1) - 1)
            };
            return Err(DeviceError::absent(format!("there is no GPU cuda:{ordinal}"), all));
        }
        let device = result::device::get(ordinal as i32).when("looking for a GPU")?;
        let properties = properties(device)?;
        // SAFETY: the device exists; the context is kept as long as the process lives.
        let context = unsafe { result::primary_ctx::retain(device) }.when("opening the GPU")?;
        let gpu = Arc::new(Gpu { ordinal, context, properties, mirrors: Mutex::default(), generation: AtomicU64::new(1) });
        open.push(gpu.clone());
        Ok(gpu)
    }

    /// Its number.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Makes it the calling thread's.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }.when("choosing the GPU")
    }

    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        result::mem_get_info().when("asking for the GPU's memory")
    }

    /// Gives an array of this computer a copy on the GPU. Programs that are bound to the array use the copy, and neither read nor write the array, until the mirror is dropped.
    ///
    /// # Errors
    /// No memory on the GPU.
    ///
    /// # Safety
    /// `bytes` bytes at `address` are valid now; the memory is not used for another array while there is the mirror.
    pub unsafe fn mirror(self: &Arc<Gpu>, address: *mut u8, bytes: usize) -> Result<Mirror> {
        let memory = Arc::new(Memory::new(self, bytes)?);
        let mirror = Mirror { gpu: self.clone(), address, memory };
        // SAFETY: as the caller promises.
        unsafe { mirror.send()? };
        locked(&self.mirrors).insert(address as usize, mirror.memory.clone());
        self.generation.fetch_add(1, Ordering::Release);
        Ok(mirror)
    }

    /// The copy of the array at an address.
    pub(crate) fn mirrored(&self, address: *mut u8) -> Option<Arc<Memory>> {
        locked(&self.mirrors).get(&(address as usize)).cloned()
    }

    /// A number that changes with the mirrors.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// What was queued has failed.
    pub fn synchronize(&self) -> Result<()> {
        self.enter()?;
        result::ctx::synchronize().when("waiting for the GPU")
    }

    /// A stream of work.
    pub(crate) fn stream(self: &Arc<Gpu>) -> Result<Stream> {
        Stream::new(self)
    }
}

fn properties(device: sys::CUdevice) -> Result<Properties> {
    use sys::CUdevice_attribute as A;
    let ask = |attribute: A| -> Result<u32> {
        // SAFETY: the device exists.
        let value = unsafe { result::device::get_attribute(device, attribute) }.when("asking what the GPU is")?;
        Ok(value.max(0) as u32)
    };
    let mut driver = 0;
    // SAFETY: the place is valid.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().when("asking for its version")?;
    Ok(Properties {
        name: result::device::get_name(device).when("asking for the GPU's name")?,
        capability: (ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?),
        processors: ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
        // SAFETY: the device exists.
        memory: unsafe { result::device::total_mem(device) }.when("asking for the GPU's memory")?,
        shared: ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver: driver.max(0) as u32,
    })
}

/// A copy on a GPU that stands for an array of this computer; see [`Gpu::mirror`].
pub struct Mirror {
    gpu: Arc<Gpu>,
    address: *mut u8,
    memory: Arc<Memory>,
}

// SAFETY: the address is used only where the owner of the memory promises that it is valid.
unsafe impl Send for Mirror {}

impl Mirror {
    /// Copies the array to the GPU, behind everything queued so far.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Safety
    /// The array is valid.
    pub unsafe fn send(&self) -> Result<()> {
        self.gpu.synchronize()?;
        // SAFETY: as the caller promises.
        unsafe { self.memory.write_now(self.address) }
    }

    /// Copies what is on the GPU to the array, when everything queued so far is done.
    ///
    /// # Errors
    /// What was queued has failed.
    ///
    /// # Safety
    /// The array is valid and nobody else uses it.
    pub unsafe fn fetch(&self) -> Result<()> {
        self.gpu.synchronize()?;
        // SAFETY: as the caller promises.
        unsafe { self.memory.read_now(self.address) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        locked(&self.gpu.mirrors).remove(&(self.address as usize));
        self.gpu.generation.fetch_add(1, Ordering::Release);
    }
}
