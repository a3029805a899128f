//! Work in order: streams, events between them, and graphs of recorded work.

use crate::error::{DeviceError, Result, While};
use crate::gpu::Gpu;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

/// A queue of work for a GPU.
pub(crate) struct Stream {
    gpu: Arc<Gpu>,
    stream: sys::CUstream,
}

// SAFETY: used by one thread at a time.
unsafe impl Send for Stream {}

impl Stream {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Stream> {
        gpu.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).when("making a stream")?;
        Ok(Stream { gpu: gpu.clone(), stream })
    }

    /// The driver's handle, for its libraries.
    pub(crate) fn raw(&self) -> sys::CUstream {
        self.stream
    }

    /// Launches a kernel with parameters of eight bytes each.
    ///
    /// # Safety
    /// They are what the entry asks for.
    pub(crate) unsafe fn launch(&self, entry: &Entry, blocks: [u32; 3], threads: u32, shared: u32, parameters: &mut [u64]) -> Result<()> {
        let mut list: [*mut c_void; MOST_PARAMETERS] = [std::ptr::null_mut(); MOST_PARAMETERS];
        let many: Vec<*mut c_void>;
        let list = if parameters.len() <= MOST_PARAMETERS {
            list.iter_mut().zip(parameters).for_each(|(to, p)| *to = std::ptr::from_mut(p).cast());
            list.as_mut_ptr()
        } else {
            many = parameters.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
            many.as_ptr().cast_mut()
        };
        let [x, y, z] = blocks;
        // SAFETY: as the caller promises.
        unsafe { sys::cuLaunchKernel(entry.function, x, y, z, threads, 1, 1, shared, self.stream, list, std::ptr::null_mut()) }
            .result()
            .when("launching a kernel")
    }

    /// Calls a function of this computer when everything before is done, and holds up what comes after until it returns. It may not use the driver.
    ///
    /// # Safety
    /// `data` is what `function` asks for, as long as the work may run.
    pub(crate) unsafe fn call(&self, function: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { sys::cuLaunchHostFunc(self.stream, Some(function), data) }.result().when("queueing work of the processor")
    }

    /// Copies from memory that does not move.
    ///
    /// # Safety
    /// Both stretches are valid until the copy is done.
    pub(crate) unsafe fn send(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.stream) }.result().when("copying to the GPU")
    }

    /// Copies to memory that does not move.
    ///
    /// # Safety
    /// As [`Stream::send`].
    pub(crate) unsafe fn fetch(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.stream) }.result().when("copying from the GPU")
    }

    /// Copies within the GPU's memory.
    ///
    /// # Safety
    /// As [`Stream::send`].
    pub(crate) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream) }.result().when("copying on the GPU")
    }

    /// Writes one word.
    ///
    /// # Safety
    /// The address is valid, a multiple of four.
    pub(crate) unsafe fn set(&self, to: u64, word: u32) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemsetD32Async(to, word, 1, self.stream) }.result().when("writing a word on the GPU")
    }

    /// Fills bytes.
    ///
    /// # Safety
    /// The stretch is valid.
    pub(crate) unsafe fn fill(&self, to: u64, byte: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemsetD8Async(to, byte, bytes, self.stream) }.result().when("filling memory of the GPU")
    }

    /// Waits until everything queued is done.
    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: alive.
        unsafe { result::stream::synchronize(self.stream) }.when("running a plan")
    }

    /// Marks the place in the queue.
    pub(crate) fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { result::event::record(event.event, self.stream) }.when("marking a place in a stream")
    }

    /// Marks the place in the queue, with the time.
    pub(crate) fn record_time(&self, event: &TimedEvent) -> Result<()> {
        self.record(&event.0)
    }

    /// What comes next waits for a mark in another stream.
    pub(crate) fn after(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(self.stream, event.event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .when("ordering two streams")
    }

    /// From now on what is queued here is recorded instead.
    pub(crate) fn begin_recording(&self) -> Result<()> {
        // SAFETY: alive; whoever begins ends it.
        unsafe { result::stream::begin_capture(self.stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }
            .when("recording a plan")
    }

    /// What was recorded.
    pub(crate) fn end_recording(&self) -> Result<Graph> {
        // SAFETY: begun before.
        let graph = unsafe { result::stream::end_capture(self.stream) }.when("recording a plan")?;
        if graph.is_null() {
            return Err(DeviceError::refused("the GPU's driver has recorded nothing of a plan"));
        }
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just made, and is not needed once it is instantiated.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result();
            let _ = result::graph::destroy(graph);
            made
        };
        made.when("preparing a recorded plan")?;
        Ok(Graph { gpu: self.gpu.clone(), executable })
    }

    /// Runs recorded work.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: alive; what it touches is its owner's.
        unsafe { result::graph::launch(graph.executable, self.stream) }.when("running a recorded plan")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made by `new`.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
        }
    }
}

/// Parameters of a launch that need no list on the heap.
const MOST_PARAMETERS: usize = 32;

/// A mark in a stream.
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: used by one thread at a time.
unsafe impl Send for Event {}

impl Event {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Event> {
        gpu.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).when("making a mark")?;
        Ok(Event { gpu: gpu.clone(), event })
    }

    /// Waits until the stream has come to the mark.
    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: alive.
        unsafe { result::event::synchronize(self.event) }.when("running a plan")
    }
}

impl Event {
    /// Whether the stream has come to the mark.
    pub(crate) fn is_reached(&self) -> Result<bool> {
        // SAFETY: alive.
        match unsafe { result::event::query(self.event) } {
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.when("running a plan").map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made by `new`.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// A mark in a stream that knows when the stream came to it.
pub(crate) struct TimedEvent(Event);

impl TimedEvent {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<TimedEvent> {
        gpu.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).when("making a mark")?;
        Ok(TimedEvent(Event { gpu: gpu.clone(), event }))
    }

    /// The time from this mark to a later one, when the stream has come to both.
    pub(crate) fn until(&self, later: &TimedEvent) -> Result<Duration> {
        let mut milliseconds = 0f32;
        // SAFETY: both are alive.
        unsafe { sys::cuEventElapsedTime(&mut milliseconds, self.0.event, later.0.event) }.result().when("timing a plan")?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

/// Recorded work.
pub(crate) struct Graph {
    gpu: Arc<Gpu>,
    executable: sys::CUgraphExec,
}

// SAFETY: used by one thread at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made by `end_recording`; owners wait for it before they drop it.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// Code on a GPU.
pub(crate) struct Module {
    gpu: Arc<Gpu>,
    module: sys::CUmodule,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Where a kernel begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    function: sys::CUfunction,
}

// SAFETY: as for modules.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// Bytes of the driver's messages that are kept.
const LOG: usize = 4096;

impl Module {
    /// Has the driver compile PTX.
    pub(crate) fn load(gpu: &Arc<Gpu>, text: &str) -> Result<Module> {
        gpu.enter()?;
        let text = CString::new(text).map_err(|_| DeviceError::refused("compiler bug: code for a GPU holds a zero"))?;
        let mut log = vec![0u8; LOG];
        let mut module = std::ptr::null_mut();
        let mut options = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        // SAFETY: a text that ends with zero, and a buffer of the size that is said.
        let loaded =
            unsafe { sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) }.result();
        if let Err(error) = loaded.when("compiling kernels") {
            let words = String::from_utf8_lossy(&log[..log.iter().position(|&b| b == 0).unwrap_or(LOG)]).trim().to_string();
            let message = if words.is_empty() { error.message.clone() } else { format!("{}: {words}", error.message) };
            return Err(DeviceError { message, ..error });
        }
        Ok(Module { gpu: gpu.clone(), module })
    }

    /// An entry by name, which may ask for this much shared memory when it is launched.
    pub(crate) fn entry(&self, name: &str, shared: u32) -> Result<Entry> {
        self.gpu.enter()?;
        let name_ = CString::new(name).map_err(|_| DeviceError::refused("compiler bug: the name of a kernel holds a zero"))?;
        // SAFETY: the module is alive.
        let function = unsafe { result::module::get_function(self.module, name_) }.when(&format!("looking for the kernel {name}"))?;
        if shared > 48 << 10 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: as above.
            unsafe { result::function::set_function_attribute(function, attribute, shared as i32) }.when("asking for shared memory")?;
        }
        Ok(Entry { function })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: loaded above; programs that use it have ended.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
