//! Several GPUs that run one plan together.

use crate::error::{DeviceError, Result};
use crate::gpu::Gpu;
use crate::nccl::{Communicator, MAX, Nccl, SUM};
use crate::stream::Stream;
use optc_abi::DType;
use optc_abi::plan::BufRef;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// An array that is added up over all GPUs.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    pub(crate) place: BufRef,
    pub(crate) dtype: DType,
    pub(crate) len: usize,
}

/// GPUs that know each other.
pub struct Team {
    gpus: Vec<Arc<Gpu>>,
    nccl: &'static Nccl,
    /// One for each; none any more when they have been told to give up.
    communicators: Mutex<Vec<Communicator>>,
}

// SAFETY: communicators may be used by any thread, one at a time.
unsafe impl Send for Team {}
// SAFETY: as above; they are behind a lock.
unsafe impl Sync for Team {}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.gpus).finish()
    }
}

static OPEN: Mutex<Vec<Arc<Team>>> = Mutex::new(Vec::new());

impl Team {
    /// Brings the GPUs with these numbers together; the same team for the whole process.
    ///
    /// # Errors
    /// There is no driver, no NCCL or no such GPU, or they are not all alike.
    pub fn open(ordinals: &[u32]) -> Result<Arc<Team>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(team) = open.iter().find(|t| t.gpus.iter().map(|g| g.ordinal()).eq(ordinals.iter().copied())) {
            return Ok(team.clone());
        }
        let gpus: Vec<Arc<Gpu>> = ordinals.iter().map(|&n| Gpu::open(n)).collect::<Result<_>>()?;
        // Every GPU makes the optimizer's step by itself, and all must come to the same bits.
        let (first, rest) = gpus.split_first().ok_or_else(|| DeviceError::refused("a team of no GPUs"))?;
        let kind = |gpu: &Gpu| (gpu.properties().name.clone(), gpu.properties().capability, gpu.properties().processors);
        if let Some(other) = rest.iter().find(|gpu| kind(gpu) != kind(first)) {
            let one = |gpu: &Gpu| format!("cuda:{} is `{}`", gpu.ordinal(), gpu.properties().name);
            let message = format!("GPUs that train together must be alike: {}, {}", one(first), one(other));
            return Err(DeviceError::absent(message, "name GPUs of one kind, or one alone; `nvidia-smi -L` lists them"));
        }
        let nccl = Nccl::open()?;
        let communicators = Mutex::new(nccl.communicators(ordinals)?);
        let team = Arc::new(Team { gpus, nccl, communicators });
        open.push(team.clone());
        Ok(team)
    }

    /// Its GPUs.
    pub fn gpus(&self) -> &[Arc<Gpu>] {
        &self.gpus
    }

    /// What `work` asks of the GPUs is one meeting of theirs.
    pub(crate) fn together(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.nccl.together(work)
    }

    fn communicator(&self, rank: usize) -> Result<Communicator> {
        let all = self.communicators.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(rank).copied().ok_or_else(|| DeviceError::refused("GPUs of which one has failed work together no more"))
    }

    /// Puts the sum of all GPUs in the place of an array of one, within [`Team::together`].
    pub(crate) fn add_up(&self, rank: usize, address: u64, dtype: DType, len: usize, stream: &Stream) -> Result<()> {
        // SAFETY: the array is a part of a plan's memory on that GPU, like the stream.
        unsafe { self.nccl.combine(self.communicator(rank)?, address, (dtype, len), SUM, stream.raw().cast()) }
    }

    /// Sets a word that is set on any of the GPUs, within [`Team::together`].
    pub(crate) fn any(&self, rank: usize, address: u64, stream: &Stream) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.nccl.combine(self.communicator(rank)?, address, (DType::U32, 1), MAX, stream.raw().cast()) }
    }

    /// One of the GPUs has gone: none waits for it any longer, and the team is none any more.
    pub(crate) fn give_up(&self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).retain(|team| !std::ptr::eq(&**team, self));
        for communicator in self.communicators.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: nobody gets it any more.
            unsafe { self.nccl.abort(communicator) };
        }
    }
}
