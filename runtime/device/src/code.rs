//! A plan's code as the driver has compiled it.

use crate::blas::Blas;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::stream::{Entry, Module};
use crate::utilities;
use optc_abi::DType;
use optc_abi::device::{Argument, DeviceCode, Work};
use std::sync::Arc;

/// A kernel that can be launched.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) one: Entry,
    pub(crate) many: Option<Entry>,
    pub(crate) threads: u32,
    pub(crate) units: i64,
    /// Pieces of a unit that are work for blocks.
    pub(crate) pieces: i64,
}

/// A launch of a [`Work`].
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) entry: Entry,
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    pub(crate) arguments: Vec<Argument>,
}

/// What runs an instruction.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) launches: Vec<Launch>,
    pub(crate) scratch: usize,
}

impl Ready {
    /// Nothing is written behind an error: every launch looks at the status.
    pub(crate) fn is_guarded(&self) -> bool {
        self.launches.iter().all(|l| l.arguments.contains(&Argument::Status))
    }
}

/// A plan's code on a GPU, shared by all programs of the plan.
pub struct Code {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) gemms: Vec<Option<Ready>>,
    pub(crate) convs: Vec<Option<Ready>>,
    pub(crate) libs: Vec<Option<Ready>>,
    /// NVIDIA's library of products, where it is installed.
    pub(crate) blas: Option<Arc<Blas>>,
    pub(crate) begin: Entry,
    pub(crate) copy: Entry,
    pub(crate) gate: Entry,
    pub(crate) join: Entry,
    pub(crate) raise: Entry,
    pub(crate) adopt: Entry,
    guards: Vec<(DType, Entry)>,
    _modules: [Module; 2],
}

impl Code {
    /// Has the driver compile a plan's code.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn load(gpu: &Arc<Gpu>, code: &DeviceCode) -> Result<Code> {
        let module = Module::load(gpu, &code.text)?;
        let utilities = Module::load(gpu, &utilities::text())?;
        let kernels = code.kernels.iter().map(|k| {
            let many = k.many.as_ref().map(|name| module.entry(name, 0)).transpose()?;
            Ok(Kernel { one: module.entry(&k.one, 0)?, many, threads: k.threads, units: k.units.max(1), pieces: k.pieces.max(1) })
        });
        let kernels = kernels.collect::<Result<_>>()?;
        let ready = |work: &Option<Work>| -> Result<Option<Ready>> {
            let Some(work) = work else { return Ok(None) };
            let launches = work.launches.iter().map(|l| {
                let entry = module.entry(&l.entry, l.shared)?;
                Ok(Launch { entry, blocks: l.blocks, threads: l.threads, shared: l.shared, arguments: l.arguments.clone() })
            });
            Ok(Some(Ready { launches: launches.collect::<Result<_>>()?, scratch: work.scratch }))
        };
        let all = |works: &[Option<Work>]| works.iter().map(ready).collect::<Result<Vec<_>>>();
        let guards = [DType::F32, DType::F64, DType::BF16, DType::F16].into_iter();
        let guards = guards.filter_map(|ty| utilities::guard(ty).map(|name| Ok((ty, utilities.entry(name, 0)?))));
        Ok(Code {
            gpu: gpu.clone(),
            kernels,
            gemms: all(&code.gemms)?,
            convs: all(&code.convs)?,
            libs: all(&code.libs)?,
            blas: if code.gemms.is_empty() { None } else { Blas::open(gpu) },
            begin: utilities.entry(utilities::BEGIN, 0)?,
            copy: utilities.entry(utilities::COPY, 0)?,
            gate: utilities.entry(utilities::GATE, 0)?,
            join: utilities.entry(utilities::JOIN, 0)?,
            raise: utilities.entry(utilities::RAISE, 0)?,
            adopt: utilities.entry(utilities::ADOPT, 0)?,
            guards: guards.collect::<Result<_>>()?,
            _modules: [module, utilities],
        })
    }

    /// What looks at a scalar of a type.
    pub(crate) fn guard(&self, dtype: DType) -> Entry {
        self.guards.iter().find(|g| g.0 == dtype).expect("compiler bug: a guarded scalar that is no float").1
    }
}
