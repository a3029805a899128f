//! A whole short training run as one plan: for all seeds and learning rates, all steps of a task with the candidate's kernel behind each, and the task's metric at the end.
//! The plan is compiled once; a candidate is the address of its kernel in it.

mod conditions;

pub use conditions::{Conditions, TURNED, rotation};

use crate::kernel::{Leaves, buffer};
use optc_abi::DType;
use optc_abi::plan::{BufRef, BufferDecl, BufferId, Instr, KernelCall, LoopId, MatRef, Place, Plan, SlotDecl, Trip};
use optc_ir::ScalarOp;
use optc_ir::kernel::{Access, BufferParam, Expr, Index, Kernel, Literal, Stmt};

/// What an input of a compiled part of a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// A weight leaf.
    Weight(usize),
    /// A buffer of the model (running statistics), by number.
    Buffer(usize),
    /// A field of the batch, or of the examples the metric sees.
    Field(usize),
    /// The run's key.
    Key,
    /// The key of the last step, for a metric.
    StepKey,
    /// The key of the part of the examples that a metric is at.
    PartKey,
    /// The number of steps made before.
    Step,
    /// A scalar of zeros.
    Zero,
}

/// What an output of a compiled part of a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// The gradient of a leaf.
    Gradient(usize),
    /// A buffer of the model anew.
    Buffer(usize),
    /// The loss.
    Loss,
    /// The metric's sum or value.
    Sum,
    /// The number of examples in it.
    Count,
}

/// A compiled part of a task: its plan, with what goes in and out.
#[derive(Clone, Debug)]
pub struct Part {
    /// The plan; its kernels are numbers in `kernels`.
    pub plan: Plan,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// What its inputs are.
    pub given: Vec<Given>,
    /// What its outputs are.
    pub results: Vec<Result>,
}

/// The metric of a task: parts of the examples it sees, one after another.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The part for `chunk` examples.
    pub whole: Part,
    /// How often it runs.
    pub times: usize,
    /// The part for what is left.
    pub rest: Option<Part>,
    /// Bytes of `chunk` examples, by field.
    pub chunk_bytes: Vec<usize>,
    /// The shape of each field, all examples.
    pub fields: Vec<(DType, Vec<usize>)>,
}

/// What is trained how often.
#[derive(Clone, Debug)]
pub struct Extents {
    /// Elements of each weight leaf.
    pub leaves: Vec<usize>,
    /// Type and elements of each buffer of the model.
    pub buffers: Vec<(DType, usize)>,
    /// Type and shape of each field of a batch.
    pub fields: Vec<(DType, Vec<usize>)>,
    /// Seeds.
    pub seeds: usize,
    /// Learning rates.
    pub rates: usize,
    /// Most steps of a run.
    pub steps: usize,
    /// States a candidate may have.
    pub states: usize,
    /// What is different from a search's own runs.
    pub conditions: Conditions,
}

/// Inputs of the whole plan, in order; fields of the batches follow, then fields of the metric, then first buffers.
pub mod input {
    /// f32[seeds, padded]: weights before the first step.
    pub const WEIGHTS: usize = 0;
    /// f32[states, padded]: states before the first step.
    pub const STATES: usize = 1;
    /// f64[rates]
    pub const RATES: usize = 2;
    /// u32[seeds, 2]
    pub const KEYS: usize = 3;
    /// f32[steps]: a run ends where its loss is above.
    pub const LIMITS: usize = 4;
    /// u32[seeds, 1 + chunks, 2]: keys of the metric, that of the last step and those of the chunks.
    pub const METRIC_KEYS: usize = 5;
    /// The first field.
    pub const FIELDS: usize = 6;
}

/// Outputs of the whole plan.
pub mod output {
    /// f32[seeds, rates, steps]
    pub const LOSSES: usize = 0;
    /// i32[seeds, rates]: steps that were made, counted from 0, of which the last is here.
    pub const LAST: usize = 1;
    /// f64[seeds, rates, chunks, 2]: sum and count of the metric, if there is one.
    pub const METRIC: usize = 2;
}

/// The whole run.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The plan.
    pub plan: Plan,
    /// Its kernels; that of the candidate is a stand-in that does nothing.
    pub kernels: Vec<Kernel>,
    /// The number of the candidate's kernel.
    pub candidate: usize,
    /// Where each leaf lies among the weights, each filled up to whole vectors.
    pub leaves: Leaves,
    /// Chunks of the metric.
    pub chunks: usize,
}

/// Elements that leaves are filled up to a multiple of, so that vector loops have no rest and each leaf starts at a line of the cache.
const FILL: usize = 16;
/// Bytes that arrays in the arena start at a multiple of.
const LINE: usize = optc_abi::tensor::ALIGN;

struct Maker {
    plan: Plan,
    kernels: Vec<Kernel>,
    loops: LoopId,
    /// Bytes of the arena that parts use in turn.
    shared: usize,
    /// The end of what is ours behind them.
    end: usize,
}

impl Maker {
    fn buffer(&mut self, dtype: DType, len: usize, place: Place) -> BufferId {
        self.plan.buffers.push(BufferDecl { dtype, len, place });
        self.plan.buffers.len() - 1
    }

    /// Memory of our own in the arena.
    fn own(&mut self, dtype: DType, len: usize) -> (BufferId, usize) {
        let at = self.end;
        self.end = (at + len * dtype.size()).next_multiple_of(LINE);
        (self.buffer(dtype, len, Place::Arena(at)), at)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        self.plan.inputs.push(SlotDecl { name: name.to_string(), dtype, shape: shape.to_vec(), alias: None });
        let k = self.plan.inputs.len() - 1;
        self.buffer(dtype, shape.iter().product(), Place::Input(k))
    }

    fn output(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        self.plan.outputs.push(SlotDecl { name: name.to_string(), dtype, shape: shape.to_vec(), alias: None });
        let k = self.plan.outputs.len() - 1;
        self.buffer(dtype, shape.iter().product(), Place::Output(k))
    }

    fn kernel(&mut self, kernel: Kernel, buffers: Vec<BufRef>) -> Instr {
        self.kernels.push(kernel);
        let call = KernelCall { buffers, sizes: Vec::new(), range: 1, grain: 1 };
        Instr::Kernel { kernel: self.kernels.len() - 1, calls: vec![call] }
    }

    /// The code of a part, its inputs and outputs at these places.
    fn part(&mut self, part: &Part, inputs: &[BufRef], outputs: &[BufRef]) -> Vec<Instr> {
        let places: Vec<BufRef> = part
            .plan
            .buffers
            .iter()
            .map(|decl| match decl.place {
                Place::Arena(_) => BufRef::whole(self.buffer(decl.dtype, decl.len, decl.place)),
                Place::Input(k) => inputs[k].clone(),
                Place::Output(k) => match part.plan.outputs[k].alias {
                    Some(input) => inputs[input].clone(),
                    None => outputs[k].clone(),
                },
                Place::Constant(k) => {
                    self.plan.constants.push(part.plan.constants[k].clone());
                    let k = self.plan.constants.len() - 1;
                    BufRef::whole(self.buffer(decl.dtype, decl.len, Place::Constant(k)))
                }
            })
            .collect();
        let moved = Moved { places: &places, loops: self.loops, kernels: self.kernels.len(), origins: self.plan.origins.len() as u32 };
        self.kernels.extend(part.kernels.iter().map(|k| moved.kernel(k)));
        self.plan.origins.extend(&part.plan.origins);
        let mut loops = 0;
        part.plan.walk(&mut |instr| {
            if let Instr::Loop { id, .. } = instr {
                loops = loops.max(id + 1);
            }
        });
        let code = part.plan.code.iter().filter_map(|i| moved.instr(i)).collect();
        self.loops += loops;
        code
    }
}

/// Where things of a part are in the whole.
struct Moved<'a> {
    places: &'a [BufRef],
    loops: LoopId,
    kernels: usize,
    origins: u32,
}

impl Moved<'_> {
    fn at(&self, r: &BufRef) -> BufRef {
        let mut out = self.places[r.buffer].clone();
        out.offset += r.offset;
        out.steps.extend(r.steps.iter().map(|(id, bytes)| (id + self.loops, *bytes)));
        out
    }

    fn mat(&self, m: &MatRef) -> MatRef {
        MatRef { data: self.at(&m.data), ..m.clone() }
    }

    fn instr(&self, instr: &Instr) -> Option<Instr> {
        let all = |code: &[Instr]| code.iter().filter_map(|i| self.instr(i)).collect::<Vec<_>>();
        Some(match instr {
            Instr::Kernel { kernel, calls } => {
                let call = |c: &KernelCall| KernelCall { buffers: c.buffers.iter().map(|b| self.at(b)).collect(), ..c.clone() };
                Instr::Kernel { kernel: kernel + self.kernels, calls: calls.iter().map(call).collect() }
            }
            Instr::Gemm(g) => Instr::Gemm(optc_abi::plan::Gemm { a: self.mat(&g.a), b: self.mat(&g.b), c: self.mat(&g.c), ..g.clone() }),
            Instr::Conv(c) => {
                let (lhs, rhs) = (self.at(&c.lhs), self.at(&c.rhs));
                Instr::Conv(optc_abi::plan::Conv { lhs, rhs, out: self.at(&c.out), scratch: self.at(&c.scratch), ..c.clone() })
            }
            Instr::Copy { src, dst, bytes } => Instr::Copy { src: self.at(src), dst: self.at(dst), bytes: *bytes },
            Instr::Lib { op, dtype, buffers } => {
                Instr::Lib { op: op.clone(), dtype: *dtype, buffers: buffers.iter().map(|b| self.at(b)).collect() }
            }
            Instr::Loop { id, trip, reverse, counter, body } => {
                let trip = match trip {
                    Trip::Const(n) => Trip::Const(*n),
                    Trip::Run(at) => Trip::Run(self.at(at)),
                    Trip::While { go, most } => Trip::While { go: self.at(go), most: self.at(most) },
                };
                Instr::Loop { id: id + self.loops, trip, reverse: *reverse, counter: self.at(counter), body: all(body) }
            }
            Instr::Cond { pred, then, otherwise } => Instr::Cond { pred: self.at(pred), then: all(then), otherwise: all(otherwise) },
            // A loss that is not finite ends the run it belongs to, not the whole plan.
            Instr::Guard { .. } => return None,
        })
    }

    /// A kernel whose reports refer to the origins of the whole.
    fn kernel(&self, kernel: &Kernel) -> Kernel {
        fn go(body: &mut [Stmt], by: u32) {
            for stmt in body {
                match stmt {
                    Stmt::For { body, .. } => go(body, by),
                    Stmt::Let { expr: Expr::CheckedIndex { origin, .. }, .. } => *origin += by,
                    _ => {}
                }
            }
        }
        let mut out = kernel.clone();
        go(&mut out.body, self.origins);
        out
    }
}

/// A kernel that says whether the run goes on: the loss is finite and not above the limit of the step.
fn goes_on() -> Kernel {
    let scalar = |dtype, access| BufferParam { dtype, access };
    let load = |buffer| Expr::Load { buffer, index: Index::default(), guard: None };
    let mut body = Vec::new();
    for (value, buffer) in [(0, 0), (1, 1)] {
        body.push(Stmt::Let { value, dtype: DType::F32, expr: load(buffer) });
    }
    // False for NaN too.
    body.push(Stmt::Let { value: 2, dtype: DType::Bool, expr: Expr::Map(ScalarOp::Le, vec![0, 1]) });
    body.push(Stmt::Store { buffer: 2, index: Index::default(), value: 2 });
    let buffers = vec![scalar(DType::F32, Access::Read), scalar(DType::F32, Access::Read), scalar(DType::Bool, Access::Write)];
    Kernel { buffers, values: 3, body, ..Kernel::default() }
}

/// A kernel that sets the flag of a run that begins.
fn begins() -> Kernel {
    let body = vec![
        Stmt::Let { value: 0, dtype: DType::Bool, expr: Expr::Const(Literal::Int(1)) },
        Stmt::Store { buffer: 0, index: Index::default(), value: 0 },
    ];
    Kernel { buffers: vec![BufferParam { dtype: DType::Bool, access: Access::Write }], values: 1, body, ..Kernel::default() }
}

/// A kernel with a candidate's buffers that does nothing.
fn stand_in(states: usize) -> Kernel {
    let mut buffers: Vec<BufferParam> =
        [DType::F32, DType::F32, DType::F64, DType::I32].map(|dtype| BufferParam { dtype, access: Access::Read }).into();
    buffers.extend((0..states).map(|_| BufferParam { dtype: DType::F32, access: Access::Read }));
    Kernel { buffers, ..Kernel::default() }
}

/// A kernel that casts the loss to f32, where it is f64.
fn narrowed() -> Kernel {
    let body = vec![
        Stmt::Let { value: 0, dtype: DType::F64, expr: Expr::Load { buffer: 0, index: Index::default(), guard: None } },
        Stmt::Let { value: 1, dtype: DType::F32, expr: Expr::Cast(0) },
        Stmt::Store { buffer: 1, index: Index::default(), value: 1 },
    ];
    let buffers = vec![BufferParam { dtype: DType::F64, access: Access::Read }, BufferParam { dtype: DType::F32, access: Access::Write }];
    Kernel { buffers, values: 2, body, ..Kernel::default() }
}

/// A place that moves with loops.
fn moving(buffer: BufferId, offset: usize, steps: &[(LoopId, usize)]) -> BufRef {
    BufRef { buffer, offset: offset as i64, steps: steps.iter().map(|(id, bytes)| (*id, *bytes as i64)).collect() }
}

const SEED: LoopId = 0;
const RATE: LoopId = 1;
const STEP: LoopId = 2;
const CHUNK: LoopId = 3;

/// The plan of all runs of a task.
pub fn whole(task: &Part, metric: Option<&Metric>, extents: &Extents) -> Whole {
    let Extents { leaves, buffers, fields, seeds, rates, steps, states, conditions } = extents;
    let (seeds, rates, steps, states) = (*seeds, *rates, *steps, *states);
    let parts = || [task].into_iter().chain(metric.iter().flat_map(|m| [&m.whole].into_iter().chain(&m.rest)));
    let shared = parts().map(|p| p.plan.arena_bytes).max().unwrap_or(0).next_multiple_of(LINE);
    let mut m = Maker { plan: Plan::default(), kernels: Vec::new(), loops: CHUNK + 1, shared, end: shared };
    let mut offsets = Vec::new();
    let mut padded = 0;
    for leaf in leaves {
        offsets.push(padded);
        padded += leaf.next_multiple_of(FILL);
    }
    let first_weights = m.input("weights", DType::F32, &[seeds, padded]);
    let first_states = m.input("states", DType::F32, &[states, padded]);
    let all_rates = m.input("rates", DType::F64, &[rates]);
    let keys = m.input("keys", DType::U32, &[seeds, 2]);
    let limits = m.input("limits", DType::F32, &[steps]);
    let chunks = metric.map_or(0, |metric| metric.times + usize::from(metric.rest.is_some()));
    let metric_keys = m.input("metric_keys", DType::U32, &[seeds, 1 + chunks, 2]);
    let batches: Vec<(BufferId, usize)> = fields
        .iter()
        .enumerate()
        .map(|(k, (dtype, shape))| {
            let whole: Vec<usize> = [seeds, steps].into_iter().chain(shape.iter().copied()).collect();
            (m.input(&format!("field.{k}"), *dtype, &whole), shape.iter().product::<usize>() * dtype.size())
        })
        .collect();
    let seen: Vec<BufferId> = metric.map_or(Vec::new(), |metric| {
        metric.fields.iter().enumerate().map(|(k, (dtype, shape))| m.input(&format!("seen.{k}"), *dtype, shape)).collect()
    });
    let first_buffers: Vec<BufferId> =
        buffers.iter().enumerate().map(|(k, (dtype, len))| m.input(&format!("buffer.{k}"), *dtype, &[seeds, *len])).collect();
    let losses = m.output("losses", DType::F32, &[seeds, rates, steps]);
    let last = m.output("last", DType::I32, &[seeds, rates]);
    let sums = metric.map(|_| m.output("metric", DType::F64, &[seeds, rates, chunks, 2]));
    let weights = m.own(DType::F32, padded);
    let gradients = m.own(DType::F32, padded);
    let state_memory: Vec<BufferId> = (0..states).map(|_| m.own(DType::F32, padded).0).collect();
    let own_buffers: Vec<BufferId> = buffers.iter().map(|(dtype, len)| m.own(*dtype, *len).0).collect();
    let scalars = [DType::F64, DType::I32, DType::I32, DType::I32, DType::I32, DType::Bool, DType::F32, DType::I32, DType::F64]
        .map(|dtype| m.own(dtype, 1).0);
    let [rate, seed_at, rate_at, step_at, chunk_at, go, loss, most, zero] = scalars;
    let loss_dtype = task.results.iter().position(|r| *r == Result::Loss).map_or(DType::F32, |k| task.plan.outputs[k].dtype);
    let wide_loss = if loss_dtype == DType::F64 { Some(m.own(DType::F64, 1).0) } else { None };
    let leaf = |m: &mut Maker, at: (BufferId, usize), k: usize| {
        let place = Place::Arena(at.1 + offsets[k] * DType::F32.size());
        BufRef::whole(m.buffer(DType::F32, leaves[k], place))
    };
    let weight_leaves: Vec<BufRef> = (0..leaves.len()).map(|k| leaf(&mut m, weights, k)).collect();
    let gradient_leaves: Vec<BufRef> = (0..leaves.len()).map(|k| leaf(&mut m, gradients, k)).collect();
    let given = |given: Given, fields: &dyn Fn(usize) -> BufRef| match given {
        Given::Weight(k) => weight_leaves[k].clone(),
        Given::Buffer(k) => BufRef::whole(own_buffers[k]),
        Given::Field(k) => fields(k),
        Given::Key => moving(keys, 0, &[(SEED, 8)]),
        Given::StepKey => moving(metric_keys, 0, &[(SEED, 8 * (1 + chunks))]),
        // That of the first chunk; the others lie behind it.
        Given::PartKey => moving(metric_keys, 8, &[(SEED, 8 * (1 + chunks))]),
        Given::Step => BufRef::whole(step_at),
        Given::Zero => BufRef::whole(zero),
    };
    // A step.
    let batch = |k: usize| {
        let (buffer, bytes) = batches[k];
        moving(buffer, 0, &[(SEED, bytes * steps), (STEP, bytes)])
    };
    let inputs: Vec<BufRef> = task.given.iter().map(|g| given(*g, &batch)).collect();
    let outputs: Vec<BufRef> = task
        .results
        .iter()
        .map(|r| match r {
            Result::Gradient(k) => gradient_leaves[*k].clone(),
            Result::Buffer(k) => BufRef::whole(own_buffers[*k]),
            _ => BufRef::whole(wide_loss.unwrap_or(loss)),
        })
        .collect();
    let mut step = m.part(task, &inputs, &outputs);
    if let Some(wide) = wide_loss {
        let narrow = m.kernel(narrowed(), vec![BufRef::whole(wide), BufRef::whole(loss)]);
        step.push(narrow);
    }
    let row = rates * steps * 4;
    step.push(Instr::Copy { src: BufRef::whole(loss), dst: moving(losses, 0, &[(SEED, row), (RATE, steps * 4), (STEP, 4)]), bytes: 4 });
    step.push(Instr::Copy { src: BufRef::whole(step_at), dst: moving(last, 0, &[(SEED, rates * 4), (RATE, 4)]), bytes: 4 });
    let own = conditions::Seen { weights, gradients, step: step_at };
    let of = conditions::Of { own, states: &state_memory, first_states, leaves, offsets: &offsets, padded };
    let conditions = conditions::code(&mut m, of, *conditions);
    step.extend(conditions.before);
    let mut candidate_buffers: Vec<BufRef> = Vec::new();
    let optimizer_sees = &conditions.seen;
    for at in [optimizer_sees.weights.0, optimizer_sees.gradients.0, rate, optimizer_sees.step] {
        candidate_buffers.push(BufRef::whole(at));
    }
    debug_assert_eq!(candidate_buffers.len(), buffer::STATES);
    candidate_buffers.extend(state_memory.iter().map(|s| BufRef::whole(*s)));
    let instr = m.kernel(stand_in(states), candidate_buffers);
    let candidate = m.kernels.len() - 1;
    step.push(instr);
    step.extend(conditions.behind);
    let check = m.kernel(goes_on(), vec![BufRef::whole(loss), moving(limits, 0, &[(STEP, 4)]), BufRef::whole(go)]);
    step.push(check);
    // A run.
    let bytes = padded * 4;
    let mut run = vec![Instr::Copy { src: moving(first_weights, 0, &[(SEED, bytes)]), dst: BufRef::whole(weights.0), bytes }];
    for (k, state) in state_memory.iter().enumerate() {
        run.push(Instr::Copy { src: moving(first_states, k * bytes, &[]), dst: BufRef::whole(*state), bytes });
    }
    for (k, (dtype, len)) in buffers.iter().enumerate() {
        let bytes = len * dtype.size();
        run.push(Instr::Copy { src: moving(first_buffers[k], 0, &[(SEED, bytes)]), dst: BufRef::whole(own_buffers[k]), bytes });
    }
    run.push(Instr::Copy { src: moving(all_rates, 0, &[(RATE, 8)]), dst: BufRef::whole(rate), bytes: 8 });
    run.extend(conditions.begin);
    let begin = m.kernel(begins(), vec![BufRef::whole(go)]);
    run.push(begin);
    let trip = Trip::While { go: BufRef::whole(go), most: BufRef::whole(most) };
    run.push(Instr::Loop { id: STEP, trip, reverse: false, counter: BufRef::whole(step_at), body: step });
    if let (Some(metric), Some(sums)) = (metric, sums) {
        let each = chunks * 16;
        let result = |chunk: &[(LoopId, usize)], first: usize| {
            let steps: Vec<(LoopId, usize)> = [(SEED, rates * each), (RATE, each)].into_iter().chain(chunk.iter().copied()).collect();
            move |k: usize| moving(sums, first + 8 * k, &steps)
        };
        let place = |r: &Result, at: &dyn Fn(usize) -> BufRef| at(usize::from(*r == Result::Count));
        let whole_fields = |k: usize| moving(seen[k], 0, &[(CHUNK, metric.chunk_bytes[k])]);
        let mut inputs: Vec<BufRef> = metric.whole.given.iter().map(|g| given(*g, &whole_fields)).collect();
        for (input, _) in inputs.iter_mut().zip(&metric.whole.given).filter(|(_, g)| **g == Given::PartKey) {
            input.steps.push((CHUNK, 8));
        }
        let at = result(&[(CHUNK, 16)], 0);
        let outputs: Vec<BufRef> = metric.whole.results.iter().map(|r| place(r, &at)).collect();
        let body = m.part(&metric.whole, &inputs, &outputs);
        run.push(Instr::Loop { id: CHUNK, trip: Trip::Const(metric.times), reverse: false, counter: BufRef::whole(chunk_at), body });
        if let Some(rest) = &metric.rest {
            let rest_fields = |k: usize| moving(seen[k], metric.times * metric.chunk_bytes[k], &[]);
            let mut inputs: Vec<BufRef> = rest.given.iter().map(|g| given(*g, &rest_fields)).collect();
            for (input, _) in inputs.iter_mut().zip(&rest.given).filter(|(_, g)| **g == Given::PartKey) {
                input.offset += 8 * metric.times as i64;
            }
            let at = result(&[], metric.times * 16);
            let outputs: Vec<BufRef> = rest.results.iter().map(|r| place(r, &at)).collect();
            let code = m.part(rest, &inputs, &outputs);
            run.extend(code);
        }
    }
    let runs = Instr::Loop { id: RATE, trip: Trip::Const(rates), reverse: false, counter: BufRef::whole(rate_at), body: run };
    let all = Instr::Loop { id: SEED, trip: Trip::Const(seeds), reverse: false, counter: BufRef::whole(seed_at), body: vec![runs] };
    m.plan.constants.push(optc_abi::Tensor::scalar(steps as i32));
    let steps_constant = m.plan.constants.len() - 1;
    let steps_constant = m.buffer(DType::I32, 1, Place::Constant(steps_constant));
    m.plan.code = vec![Instr::Copy { src: BufRef::whole(steps_constant), dst: BufRef::whole(most), bytes: 4 }, all];
    debug_assert!(m.shared <= m.end);
    m.plan.arena_bytes = m.end;
    let leaves = Leaves { offsets, lens: leaves.clone(), padded };
    Whole { plan: m.plan, kernels: m.kernels, candidate, leaves, chunks }
}
