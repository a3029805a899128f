//! Queueing a plan's steps: on one GPU, or on several in step, so that each meets the others where they add something up.

use crate::error::{DeviceError, Result};
use crate::memory::Memory;
use crate::plan::DevicePlan;
use crate::steps::{Branch, Detour, Part, Step, is_closed, run_job};
use crate::stream::Entry;
use crate::team::{Sum, Team};
use crate::utilities::COPY_THREADS;
use optc_abi::device::Argument;
use optc_abi::plan::{BufRef, KernelCall, Status, Trip};
use std::ffi::c_void;

/// Where in the plan something is queued.
#[derive(Clone)]
pub(crate) struct Env {
    /// Positions of the loops that are running.
    pub(crate) loops: Vec<(usize, i64)>,
    /// The status of the run, or of the innermost branch.
    pub(crate) status: u64,
}

/// Queues a run: as it is the first time, from then on as a recorded graph of each GPU. All plans are those of one plan on the GPUs of a team.
pub(crate) fn run(plans: &mut [&mut DevicePlan], team: Option<&Team>) -> Result<()> {
    let again = plans.iter().all(|p| p.flows && p.runs > 0 && p.timing.borrow().is_none());
    if again && plans.iter().any(|p| p.graph.is_none()) {
        record(plans, team)?;
    }
    plans.iter_mut().for_each(|p| p.runs += 1);
    if !again {
        let done = all(plans, team);
        let ended = plans.iter().try_for_each(|p| p.timing.borrow_mut().as_mut().map_or(Ok(()), |t| t.end(&p.stream)));
        return done.and(ended);
    }
    plans.iter().try_for_each(|p| {
        p.gpu.enter()?;
        p.graph.as_ref().map_or(Ok(()), |graph| p.stream.replay(graph))
    })
}

fn record(plans: &mut [&mut DevicePlan], team: Option<&Team>) -> Result<()> {
    let mut begun = 0;
    let mut done = plans.iter().try_for_each(|p| {
        p.gpu.enter()?;
        p.stream.begin_recording()?;
        begun += 1;
        Ok(())
    });
    done = done.and_then(|()| all(plans, team));
    for p in plans.iter_mut().take(begun) {
        p.gpu.enter()?;
        let graph = p.stream.end_recording();
        if done.is_ok() {
            match graph {
                Ok(graph) => p.graph = Some(graph),
                Err(e) => done = Err(e),
            }
        }
    }
    done
}

fn all(plans: &[&mut DevicePlan], team: Option<&Team>) -> Result<()> {
    let plans: Vec<&DevicePlan> = plans.iter().map(|p| &**p).collect();
    let walk = Walk { plans: &plans, team };
    walk.each(|_, p| {
        let mut status = [p.status.address()];
        // SAFETY: the entry takes the status.
        unsafe { p.stream.launch(&p.code.begin, [1; 3], 1, 0, &mut status) }?;
        p.timing.borrow_mut().as_mut().map_or(Ok(()), |t| t.begin(&p.stream))
    })?;
    let steps: Vec<&[Step]> = plans.iter().map(|p| &p.steps[..]).collect();
    let mut envs: Vec<Env> = plans.iter().map(|p| p.outside()).collect();
    walk.steps(&steps, &mut envs, 0)
}

/// Instructions of the plan that a step was made of.
fn size(step: &Step) -> usize {
    let all = |body: &[Step]| body.iter().map(size).sum::<usize>();
    match step {
        Step::Loop { body, .. } => 1 + all(body),
        Step::Cond { then, otherwise, .. } => 1 + all(&then.body) + all(&otherwise.body),
        Step::AllReduce { sums } => sums.len(),
        _ => 1,
    }
}

/// Plans that are queued together.
struct Walk<'a> {
    plans: &'a [&'a DevicePlan],
    team: Option<&'a Team>,
}

impl Walk<'_> {
    /// Does something for every GPU, which is the current one meanwhile.
    fn each(&self, mut work: impl FnMut(usize, &DevicePlan) -> Result<()>) -> Result<()> {
        self.plans.iter().enumerate().try_for_each(|(k, p)| {
            if self.plans.len() > 1 {
                p.gpu.enter()?;
            }
            work(k, p)
        })
    }

    /// Queues steps, each on all GPUs before the next.
    ///
    /// `number` is that of the first one's instruction, in the order of the plan, by which instructions are timed.
    fn steps(&self, steps: &[&[Step]], envs: &mut [Env], mut number: usize) -> Result<()> {
        (0..steps[0].len()).try_for_each(|n| {
            let at = number;
            number += size(&steps[0][n]);
            self.step(steps, n, envs, at)
        })
    }

    fn step(&self, steps: &[&[Step]], n: usize, envs: &mut [Env], number: usize) -> Result<()> {
        match &steps[0][n] {
            Step::Loop { id, trip, reverse, .. } => {
                let parts = steps.iter().map(|s| match &s[n] {
                    Step::Loop { body, counter, .. } => (&body[..], counter),
                    _ => panic!("compiler bug: GPUs with different plans"),
                });
                let (bodies, counters): (Vec<&[Step]>, Vec<&BufRef>) = parts.unzip();
                self.repeat((*id, trip, *reverse), &counters, &bodies, envs, number + 1)
            }
            Step::Cond { .. } => {
                let parts = steps.iter().map(|s| match &s[n] {
                    Step::Cond { pred, then, otherwise } => (pred, [then, otherwise]),
                    _ => panic!("compiler bug: GPUs with different plans"),
                });
                let (preds, branches): (Vec<&BufRef>, Vec<[&Branch; 2]>) = parts.unzip();
                self.branches(&preds, &branches, envs, number + 1)
            }
            Step::AllReduce { sums } => self.add_up(sums, envs),
            _ => self.each(|k, p| {
                if let Some(timing) = p.timing.borrow_mut().as_mut() {
                    timing.before(number, &p.stream)?;
                }
                p.queue(&steps[k][n], &envs[k])?;
                p.timing.borrow_mut().as_mut().map_or(Ok(()), |timing| timing.after(&p.stream))
            }),
        }
    }

    /// Both branches are queued; of the one that is not taken every launch finds its status closed.
    fn branches(&self, preds: &[&BufRef], branches: &[[&Branch; 2]], envs: &mut [Env], mut number: usize) -> Result<()> {
        self.each(|k, p| {
            let [then, otherwise] = branches[k].map(|b| b.status.address());
            let mut parameters = [p.address(preds[k], &envs[k]), envs[k].status, then, otherwise];
            // SAFETY: a flag and three statuses.
            unsafe { p.stream.launch(&p.code.gate, [1; 3], 1, 0, &mut parameters) }
        })?;
        for side in 0..2 {
            let mut inside = envs.to_vec();
            inside.iter_mut().zip(branches).for_each(|(env, b)| env.status = b[side].status.address());
            let bodies: Vec<&[Step]> = branches.iter().map(|b| &b[side].body[..]).collect();
            self.steps(&bodies, &mut inside, number)?;
            number += bodies[0].iter().map(size).sum::<usize>();
            self.each(|k, p| {
                let mut parameters = [branches[k][side].status.address(), envs[k].status];
                // SAFETY: two statuses.
                unsafe { p.stream.launch(&p.code.join, [1; 3], 1, 0, &mut parameters) }
            })?;
        }
        Ok(())
    }

    fn repeat(
        &self,
        (id, trip, reverse): (usize, &Trip, bool),
        counters: &[&BufRef],
        bodies: &[&[Step]],
        envs: &mut [Env],
        number: usize,
    ) -> Result<()> {
        // What decides is the same on all GPUs; one of them that has failed makes its passes like the others, as they wait for it.
        let first = self.plans[0];
        let look = |envs: &[Env], n: &BufRef| -> Result<Option<i64>> {
            if self.plans.len() > 1 {
                first.gpu.enter()?;
            }
            Ok(first.read::<i32>(first.address(n, &envs[0]), envs[0].status)?.map(|n| i64::from(n).max(0)))
        };
        let most = match trip {
            Trip::Const(n) => Some(*n as i64),
            Trip::Run(n) | Trip::While { most: n, .. } => look(envs, n)?,
        };
        // Nothing that follows a failure matters.
        let Some(n) = most else { return Ok(()) };
        for pass in 0..n {
            if let Trip::While { go, .. } = trip {
                if self.plans.len() > 1 {
                    first.gpu.enter()?;
                }
                if first.read::<u8>(first.address(go, &envs[0]), envs[0].status)?.is_none_or(|go| go == 0) {
                    break;
                }
            }
            let at = if reverse { n - 1 - pass } else { pass };
            // SAFETY: a counter is a word in the arena.
            self.each(|k, p| unsafe { p.stream.set(p.address(counters[k], &envs[k]), at as i32 as u32) })?;
            envs.iter_mut().for_each(|env| env.loops.push((id, at)));
            let done = self.steps(bodies, envs, number);
            envs.iter_mut().for_each(|env| {
                env.loops.pop();
            });
            done?;
        }
        Ok(())
    }

    /// Adds up arrays over all GPUs, and with them whether one has failed: then none goes on.
    fn add_up(&self, sums: &[Sum], envs: &[Env]) -> Result<()> {
        let Some(team) = self.team else { return Err(DeviceError::refused("compiler bug: sums over GPUs on one")) };
        let raised = |p: &DevicePlan| p.raised.as_ref().map_or(0, Memory::address);
        self.each(|k, p| {
            let mut parameters = [envs[k].status, raised(p)];
            // SAFETY: a status and a word.
            unsafe { p.stream.launch(&p.code.raise, [1; 3], 1, 0, &mut parameters) }
        })?;
        team.together(|| {
            self.each(|k, p| {
                sums.iter().try_for_each(|sum| team.add_up(k, p.address(&sum.place, &envs[k]), sum.dtype, sum.len, &p.stream))?;
                team.any(k, raised(p), &p.stream)
            })
        })?;
        self.each(|k, p| {
            let mut parameters = [raised(p), envs[k].status];
            // SAFETY: as above.
            unsafe { p.stream.launch(&p.code.adopt, [1; 3], 1, 0, &mut parameters) }
        })
    }
}

impl DevicePlan {
    fn queue(&self, step: &Step, env: &Env) -> Result<()> {
        let status = env.status;
        match step {
            Step::Kernel { kernel, table: Some(t), .. } => {
                let kernel = &self.code.kernels[*kernel];
                let (Some(entry), Some((memory, table))) = (&kernel.many, &self.tables[*t]) else {
                    return Err(DeviceError::refused("compiler bug: a launch without its table"));
                };
                let mut parameters = [memory.address(), memory.address() + table.items as u64, table.count as u64, status];
                // SAFETY: the parameters are those of the entry, over memory of this plan.
                unsafe { self.stream.launch(entry, [table.blocks, 1, 1], kernel.threads, 0, &mut parameters) }
            }
            Step::Kernel { kernel, calls, table: None } => calls.iter().try_for_each(|call| self.launch(*kernel, call, env)),
            Step::Work { work, places, scratch, detours } => self.around(detours, places, env, |places| {
                work.launches.iter().try_for_each(|l| {
                    let parameter = |a: &Argument| match *a {
                        Argument::Buffer(b) => places[b],
                        Argument::Scratch(offset) => scratch.as_ref().map_or(0, Memory::address) + offset as u64,
                        Argument::Number(n) => n as u64,
                        Argument::Status => status,
                    };
                    let mut parameters: Vec<u64> = l.arguments.iter().map(parameter).collect();
                    // SAFETY: whoever made the work has stated its parameters.
                    unsafe { self.stream.launch(&l.entry, l.blocks, l.threads, l.shared, &mut parameters) }
                })
            }),
            Step::Product { product, places, detours } => self.around(detours, places, env, |places| {
                // SAFETY: the places are those of the instruction that the product was made of.
                unsafe { product.queue(&self.stream, [places[0], places[1], places[2]]) }
            }),
            Step::Host { job, parts, detours } => {
                let places: Vec<BufRef> = parts.iter().map(|p| p.place.clone()).collect();
                self.around(detours, &places, env, |places| {
                    // SAFETY: the job's memory holds all parts, and lives as long as this plan.
                    unsafe {
                        for (Part { at, bytes, .. }, from) in parts.iter().zip(places).filter(|(p, _)| p.read) {
                            self.stream.fetch(*at, *from, *bytes)?;
                        }
                        self.stream.fetch(job.status(), status, size_of::<Status>())?;
                        self.stream.call(run_job, std::ptr::from_ref(&**job).cast_mut().cast::<c_void>())?;
                        parts.iter().zip(places).filter(|(p, _)| p.write).try_for_each(|(p, to)| self.stream.send(*to, p.at, p.bytes))
                    }
                })
            }
            Step::Copy { from, to, bytes } => self.copy(self.address(to, env), self.address(from, env), *bytes, status),
            Step::Swap { place, slot, bytes, out } => {
                let (there, here) = (self.address(place, env), self.swapped[*slot].at(0));
                // SAFETY: both have that many bytes.
                unsafe { if *out { self.stream.fetch(here, there, *bytes) } else { self.stream.send(there, here, *bytes) } }
            }
            Step::Guard { value, dtype } => {
                let mut parameters = [self.address(value, env), status];
                // SAFETY: a scalar of the type, and the status.
                unsafe { self.stream.launch(&self.code.guard(*dtype), [1; 3], 1, 0, &mut parameters) }
            }
            Step::Loop { .. } | Step::Cond { .. } | Step::AllReduce { .. } => Err(DeviceError::refused("compiler bug: a step of several")),
        }
    }

    fn launch(&self, kernel: usize, call: &KernelCall, env: &Env) -> Result<()> {
        let kernel = &self.code.kernels[kernel];
        let range = call.range.max(0);
        if range == 0 {
            return Ok(());
        }
        let mut parameters: Vec<u64> = call.buffers.iter().map(|b| self.address(b, env)).collect();
        parameters.extend(call.sizes.iter().map(|&s| s as u64));
        parameters.extend([0, range as u64, env.status]);
        let blocks = ((range * kernel.pieces) as u64).div_ceil(kernel.units as u64).min(u64::from(self.at_once(kernel.threads))) as u32;
        // SAFETY: the parameters are those of the kernel, over memory of this plan.
        unsafe { self.stream.launch(&kernel.one, [blocks, 1, 1], kernel.threads, 0, &mut parameters) }
    }

    /// Copies unless the run has failed, or the branch is not taken.
    fn copy(&self, to: u64, from: u64, bytes: usize, status: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut parameters = [to, from, bytes as u64, status];
        let pieces = bytes.div_ceil(16 * COPY_THREADS as usize).min(self.at_once(COPY_THREADS) as usize) as u32;
        let entry: &Entry = &self.code.copy;
        // SAFETY: both stretches have that many bytes.
        unsafe { self.stream.launch(entry, [pieces.max(1), 1, 1], COPY_THREADS, 0, &mut parameters) }
    }

    /// Queues work on the addresses of places, of which some may be other arrays first.
    fn around(&self, detours: &[Detour], places: &[BufRef], env: &Env, work: impl FnOnce(&[u64]) -> Result<()>) -> Result<()> {
        let mut addresses: Vec<u64> = places.iter().map(|p| self.address(p, env)).collect();
        for d in detours {
            let place = std::mem::replace(&mut addresses[d.which], d.memory.address());
            if d.read {
                self.copy(d.memory.address(), place, d.bytes, env.status)?;
            }
        }
        work(&addresses)?;
        detours.iter().try_for_each(|d| self.copy(self.address(&places[d.which], env), d.memory.address(), d.bytes, env.status))
    }

    /// Waits for a value; `None` if the run has failed, or the branch is not taken.
    fn read<T: Copy>(&self, at: u64, status: u64) -> Result<Option<T>> {
        // SAFETY: room for a status and a value; the copies are waited for.
        unsafe {
            self.stream.fetch(self.word.at(0), status, size_of::<Status>())?;
            self.stream.fetch(self.word.at(size_of::<Status>()), at, size_of::<T>())?;
            self.stream.wait()?;
            let found = self.word.at(0).cast::<Status>().read();
            Ok((!is_closed(&found)).then(|| self.word.at(size_of::<Status>()).cast::<T>().read_unaligned()))
        }
    }
}
