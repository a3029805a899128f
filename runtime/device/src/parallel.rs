//! A plan on several GPUs, each with its part of the batch.

use crate::code::Code;
use crate::error::{DeviceError, Result};
use crate::plan::{DevicePlan, Share};
use crate::steps::is_closed;
use crate::team::Team;
use crate::walk;
use optc_abi::plan::{Plan, Status, status};
use optc_exec::{Pool, Remote, Spent, Trouble};
use std::sync::Arc;
use std::time::Duration;

/// How often a run is asked for without a pause: short ones are over by then, and of the others the processor has its time for itself.
const LOOKS: u32 = 300;
/// The pause between two looks after that, of which a step that takes long loses next to nothing.
const NAP: Duration = Duration::from_micros(50);

/// A plan that was made for each of several GPUs: its last input is the number of the GPU. To the caller it is the plan for the whole batch.
pub struct TeamPlan {
    plans: Vec<DevicePlan>,
    /// The number of each GPU, where the plan reads it.
    ranks: Vec<i32>,
    /// Which input that is.
    rank: usize,
    /// Dropped last: the others' work uses it.
    team: Arc<Team>,
}

impl TeamPlan {
    /// Prepares a plan on all GPUs of a team; `codes` has the code on each. `split`: inputs of which every GPU has a part, and the axis along which the caller's array,
    /// as many times as long there as the plan's, is cut.
    ///
    /// # Errors
    /// Not enough memory on a GPU; an instruction that needs the caller.
    pub fn new(plan: &Arc<Plan>, codes: &[Arc<Code>], team: &Arc<Team>, split: &[(usize, usize)], pool: &Arc<Pool>) -> Result<TeamPlan> {
        let plans = codes.iter().enumerate().map(|(rank, code)| {
            let share = Share { rank, parts: codes.len(), split: split.to_vec() };
            DevicePlan::shared(plan.clone(), code.clone(), pool, Some(&share))
        });
        let plans = plans.collect::<Result<Vec<_>>>()?;
        let ranks = (0..plans.len()).map(|rank| rank as i32).collect();
        Ok(TeamPlan { plans, ranks, rank: plan.inputs.len() - 1, team: team.clone() })
    }

    /// # Safety
    /// As [`Remote::submit`].
    unsafe fn queue(&mut self, bases: &[*mut u8]) -> Result<()> {
        let own: Vec<Vec<*mut u8>> = self
            .ranks
            .iter_mut()
            .map(|rank| {
                let mut own = bases.to_vec();
                own[1 + self.rank] = std::ptr::from_mut(rank).cast();
                own
            })
            .collect();
        // SAFETY: as the caller promises; the numbers are this value's own.
        self.plans.iter_mut().zip(&own).try_for_each(|(plan, own)| unsafe { plan.before(own) })?;
        walk::run(&mut self.plans.iter_mut().collect::<Vec<_>>(), Some(&self.team))?;
        // SAFETY: as above.
        self.plans.iter_mut().zip(&own).try_for_each(|(plan, own)| unsafe { plan.after(own) })
    }

    /// Waits until all GPUs have done the oldest run, or one of them has failed.
    fn wait(&self) -> Result<()> {
        let mut looks = 0;
        loop {
            let mut done = true;
            for plan in &self.plans {
                plan.gpu.enter()?;
                done &= plan.ring.is_done()?;
            }
            if done {
                return Ok(());
            }
            looks += 1;
            if looks < LOOKS { std::thread::yield_now() } else { std::thread::sleep(NAP) }
        }
    }

    fn collect_all(&mut self) -> Result<Status> {
        self.wait()?;
        let mut statuses = Vec::new();
        for plan in &mut self.plans {
            plan.gpu.enter()?;
            statuses.push(plan.ring.collect()?);
        }
        let closed = statuses.iter().any(is_closed);
        self.plans.iter_mut().for_each(|plan| plan.failed |= closed);
        // The one that knows what has happened tells it.
        let telling = statuses.iter().find(|s| is_closed(s) && s.code != status::PEER);
        Ok(*telling.or(statuses.iter().find(|s| s.code != status::OK)).unwrap_or(&statuses[0]))
    }

    /// After an error of a driver the others would wait for ever.
    fn ended<T>(&mut self, result: Result<T>) -> std::result::Result<T, Trouble> {
        result.map_err(|e| {
            self.team.give_up();
            self.plans.iter_mut().for_each(|plan| plan.ring.clear());
            e.into()
        })
    }
}

impl Remote for TeamPlan {
    unsafe fn submit(&mut self, bases: &[*mut u8]) -> std::result::Result<(), Trouble> {
        // SAFETY: as the caller promises.
        let queued = unsafe { self.queue(bases) };
        self.ended(queued)
    }

    fn collect(&mut self) -> std::result::Result<Status, Trouble> {
        let collected = self.collect_all();
        self.ended(collected)
    }

    fn time_instructions(&mut self, on: bool) -> std::result::Result<(), Trouble> {
        match on {
            false => Ok(()),
            true => Err(DeviceError::refused("instructions are timed on one GPU, not on several together")
                .help("name one GPU: `cuda:0`")
                .into()),
        }
    }

    fn times(&self) -> Vec<Spent> {
        Vec::new()
    }

    fn in_flight(&self) -> usize {
        self.plans[0].in_flight()
    }

    fn capacity(&self) -> usize {
        self.plans.iter().map(Remote::capacity).min().unwrap_or(1)
    }

    fn bytes(&self) -> usize {
        self.plans.iter().map(Remote::bytes).sum()
    }
}
