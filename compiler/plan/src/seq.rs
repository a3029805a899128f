//! Small kernels that follow each other become one kernel: a call costs more than the work of many of them.

use crate::store::Store;
use optc_abi::plan::{BufRef, Instr, KernelCall};
use optc_ir::Origin;
use optc_ir::kernel::{Access, BufferId, Expr, Extent, Index, Kernel, LOCAL, LoopKind, Stmt};
use rustc_hash::FxHashMap;

/// Nanoseconds up to which a kernel counts as small, and a joint one may grow.
pub(crate) const SMALL_NS: f64 = 15_000.0;
const JOINT_NS: f64 = 40_000.0;
/// Values of a joint kernel: code generators take more than linear time.
const MOST_VALUES: usize = 1500;

/// Uses of one small kernel from which on its code is not repeated in a joint one.
const MANY: usize = 4;

/// A kernel that grows.
struct Joint {
    kernel: Kernel,
    buffers: Vec<BufRef>,
    ns: f64,
    names: Vec<String>,
    origin: Origin,
}

/// Joins neighbors in a list of instructions and inside its loops and branches. References must be resolved.
pub(crate) fn join(store: &mut Store, code: &mut Vec<Instr>) {
    let mut out: Vec<Instr> = Vec::with_capacity(code.len());
    // Small kernels since the last other instruction.
    let mut run: Vec<Instr> = Vec::new();
    for mut instr in std::mem::take(code) {
        match &mut instr {
            Instr::Loop { body, .. } => join(store, body),
            Instr::Cond { then, otherwise, .. } => {
                join(store, then);
                join(store, otherwise);
            }
            _ => {}
        }
        if small(store, &instr).is_some() {
            run.push(instr);
        } else {
            flush(store, &mut run, &mut out);
            out.push(instr);
        }
    }
    flush(store, &mut run, &mut out);
    *code = out;
}

/// The estimated time of an instruction that is one small kernel.
fn small(store: &Store, instr: &Instr) -> Option<f64> {
    let Instr::Kernel { kernel, calls } = instr else { return None };
    let [call] = &calls[..] else { return None };
    let ns = store.costs[*kernel].of(call);
    (ns <= SMALL_NS && store.kernels[*kernel].kernel.values <= MOST_VALUES / 2).then_some(ns)
}

/// Makes one instruction with several argument sets of a kernel that occurs many times, as far as its uses do not depend on each other or on what
/// runs between: its code is made once.
fn gather(store: &Store, run: &mut Vec<Instr>) {
    let mut uses: FxHashMap<usize, usize> = FxHashMap::default();
    for instr in run.iter() {
        if let Instr::Kernel { kernel, .. } = instr {
            *uses.entry(*kernel).or_default() += 1;
        }
    }
    if uses.values().all(|&n| n < MANY) {
        return;
    }
    let mut out: Vec<Instr> = Vec::with_capacity(run.len());
    // Where in `out` the latest use of a kernel is, and the latest write and access of a buffer.
    let mut latest: FxHashMap<usize, usize> = FxHashMap::default();
    let mut touched: FxHashMap<usize, (Option<usize>, Option<usize>)> = FxHashMap::default();
    for instr in run.drain(..) {
        let Instr::Kernel { kernel, calls } = &instr else { continue };
        let kernel = *kernel;
        let accesses: Vec<(usize, bool)> = store.kernels[kernel]
            .kernel
            .buffers
            .iter()
            .zip(&calls[0].buffers)
            .map(|(param, place)| (place.buffer, param.access != Access::Read))
            .collect();
        // The last instruction that must run before.
        let after = accesses.iter().filter_map(|&(b, writes)| touched.get(&b).and_then(|t| if writes { t.1 } else { t.0 })).max();
        let home = latest.get(&kernel).copied().filter(|&at| uses[&kernel] >= MANY && after.is_none_or(|a| at > a));
        let at = home.unwrap_or(out.len());
        for (b, writes) in accesses {
            let t = touched.entry(b).or_default();
            t.1 = t.1.max(Some(at));
            if writes {
                t.0 = t.0.max(Some(at));
            }
        }
        latest.insert(kernel, at);
        match (out.get_mut(at), instr) {
            (Some(Instr::Kernel { calls, .. }), Instr::Kernel { calls: more, .. }) => calls.extend(more),
            (_, instr) => out.push(instr),
        }
    }
    *run = out;
}

fn flush(store: &mut Store, run: &mut Vec<Instr>, out: &mut Vec<Instr>) {
    gather(store, run);
    let mut joint: Option<(Joint, Instr)> = None;
    let mut parts = 0;
    for instr in run.drain(..) {
        let Instr::Kernel { kernel, calls } = &instr else { continue };
        if calls.len() > 1 {
            if let Some(done) = joint.take() {
                close(store, done, parts, out);
            }
            out.push(instr);
            continue;
        }
        let (named, ns) = (&store.kernels[*kernel], store.costs[*kernel].of(&calls[0]));
        if let Some((open, _)) = &mut joint
            && open.ns + ns <= JOINT_NS
            && open.kernel.values + named.kernel.values <= MOST_VALUES
            && (named.kernel.locals.is_empty() || open.kernel.locals.is_empty())
            && open.append(&named.kernel, &calls[0])
        {
            open.ns += ns;
            open.names.push(named.name.clone());
            parts += 1;
            continue;
        }
        if let Some(done) = joint.take() {
            close(store, done, parts, out);
        }
        let named = &store.kernels[*kernel];
        let (names, origin) = (vec![named.name.clone()], named.origin);
        let mut fresh = Joint { kernel: Kernel::default(), buffers: Vec::new(), ns, names, origin };
        if fresh.append(&named.kernel, &calls[0]) {
            joint = Some((fresh, instr));
            parts = 1;
        } else {
            out.push(instr);
        }
    }
    if let Some(done) = joint.take() {
        close(store, done, parts, out);
    }
}

/// Puts out a joint kernel, or the original if nothing was joined to it.
fn close(store: &mut Store, (joint, original): (Joint, Instr), parts: usize, out: &mut Vec<Instr>) {
    if parts == 1 {
        out.push(original);
        return;
    }
    let shown = joint.names.len().min(3);
    let mut name = joint.names[..shown].join("+");
    if joint.names.len() > shown {
        name.push_str(&format!("+{}", joint.names.len() - shown));
    }
    let kernel = store.kernel(joint.kernel, name, joint.origin, joint.ns, 0);
    let call = KernelCall { buffers: joint.buffers, sizes: Vec::new(), range: 1, grain: 1 };
    out.push(Instr::Kernel { kernel, calls: vec![call] });
}

impl Joint {
    /// Adds a kernel's statements; not if its memory overlaps that of the others in part or under another type.
    fn append(&mut self, kernel: &Kernel, call: &KernelCall) -> bool {
        let mut params: Vec<usize> = Vec::with_capacity(kernel.buffers.len());
        let (count, old) = (self.buffers.len(), self.kernel.buffers.clone());
        for (param, place) in kernel.buffers.iter().zip(&call.buffers) {
            let mut found = None;
            for (k, other) in self.buffers.iter().enumerate() {
                if other.buffer != place.buffer {
                    continue;
                }
                let theirs = &self.kernel.buffers[k];
                if other == place && theirs.dtype == param.dtype {
                    found = Some(k);
                } else if theirs.access != Access::Read || param.access != Access::Read {
                    self.buffers.truncate(count);
                    self.kernel.buffers = old;
                    return false;
                }
            }
            let k = found.unwrap_or_else(|| {
                self.buffers.push(place.clone());
                self.kernel.buffers.push(param.clone());
                self.buffers.len() - 1
            });
            if self.kernel.buffers[k].access != param.access {
                self.kernel.buffers[k].access = Access::ReadWrite;
            }
            params.push(k);
        }
        let mut body = kernel.body.clone();
        let Kernel { values, axes, .. } = self.kernel;
        let (accs, locals) = (self.kernel.accs.len(), self.kernel.locals.len());
        let shift = Shift { params: &params, sizes: &call.sizes, values, axes, accs, locals };
        shift.block(&mut body);
        self.kernel.body.extend(body);
        self.kernel.values += kernel.values;
        self.kernel.axes += kernel.axes;
        self.kernel.accs.extend(kernel.accs.iter().cloned());
        self.kernel.locals.extend(kernel.locals.iter().cloned());
        true
    }
}

/// Renumbering of a kernel that is appended to another.
struct Shift<'a> {
    params: &'a [usize],
    sizes: &'a [i64],
    values: usize,
    axes: usize,
    accs: usize,
    locals: usize,
}

impl Shift<'_> {
    fn buffer(&self, buffer: BufferId) -> BufferId {
        if buffer >= LOCAL { buffer + self.locals } else { self.params[buffer] }
    }

    fn index(&self, index: &mut Index) {
        index.axes.iter_mut().for_each(|(a, _)| *a += self.axes);
        index.values.iter_mut().for_each(|(v, _)| *v += self.values);
        for (axis, stride, size) in std::mem::take(&mut index.sized) {
            index.axes.push((axis + self.axes, stride * self.sizes[size]));
        }
    }

    fn expr(&self, expr: &mut Expr) {
        let v = self.values;
        match expr {
            Expr::Const(_) => {}
            Expr::Axis(a) => *a += self.axes,
            Expr::Load { buffer, index, guard } => {
                *buffer = self.buffer(*buffer);
                self.index(index);
                if let Some((g, o)) = guard {
                    (*g, *o) = (*g + v, *o + v);
                }
            }
            Expr::Map(_, operands) => operands.iter_mut().for_each(|o| *o += v),
            Expr::Cast(x) | Expr::Bitcast(x) | Expr::CheckedIndex { index: x, .. } => *x += v,
            Expr::Acc(acc) => *acc += self.accs,
            Expr::Philox { key, counter, .. } => key.iter_mut().chain(counter).for_each(|x| *x += v),
        }
    }

    fn block(&self, body: &mut [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { axis, extent, kind, body } => {
                    *axis += self.axes;
                    if let Extent::Size(s) = extent {
                        *extent = Extent::Const(self.sizes[*s]);
                    }
                    if *kind == LoopKind::Parallel {
                        *kind = LoopKind::Serial;
                    }
                    self.block(body);
                }
                Stmt::Let { value, expr, .. } => {
                    *value += self.values;
                    self.expr(expr);
                }
                Stmt::Init { acc, value } | Stmt::Update { acc, value } => {
                    *acc += self.accs;
                    *value += self.values;
                }
                Stmt::Store { buffer, index, value } => {
                    *buffer = self.buffer(*buffer);
                    self.index(index);
                    *value += self.values;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::DType;
    use optc_ir::kernel::BufferParam;

    /// Instructions of one kernel that reads one buffer and writes another, and the pairs of buffers in which they run after [`gather`].
    fn gathered(pairs: &[(usize, usize)]) -> Vec<Vec<(usize, usize)>> {
        let mut store = Store::default();
        let param = |access| BufferParam { dtype: DType::F32, access };
        let kernel = Kernel { buffers: vec![param(Access::Read), param(Access::Write)], ..Kernel::default() };
        let kernel = store.kernel(kernel, String::new(), Origin::default(), 1.0, 0);
        let call = |&(a, b): &(usize, usize)| KernelCall {
            buffers: vec![BufRef::whole(a), BufRef::whole(b)],
            sizes: Vec::new(),
            range: 1,
            grain: 1,
        };
        let mut run: Vec<Instr> = pairs.iter().map(|p| Instr::Kernel { kernel, calls: vec![call(p)] }).collect();
        gather(&store, &mut run);
        run.iter()
            .map(|i| match i {
                Instr::Kernel { calls, .. } => calls.iter().map(|c| (c.buffers[0].buffer, c.buffers[1].buffer)).collect(),
                _ => panic!("{i:?}"),
            })
            .collect()
    }

    #[test]
    fn uses_that_depend_on_each_other_stay_apart() {
        assert_eq!(gathered(&[(0, 1), (2, 3), (4, 5), (6, 7)]), [vec![(0, 1), (2, 3), (4, 5), (6, 7)]]);
        // Reads what the first writes.
        assert_eq!(gathered(&[(0, 1), (2, 3), (1, 4), (5, 6)]), [vec![(0, 1), (2, 3)], vec![(1, 4), (5, 6)]]);
        // Overwrites what the first reads, and what the second writes.
        assert_eq!(gathered(&[(0, 1), (2, 3), (5, 0), (6, 3)]), [vec![(0, 1), (2, 3)], vec![(5, 0), (6, 3)]]);
        // Too few.
        assert_eq!(gathered(&[(0, 1), (2, 3), (4, 5)]), [vec![(0, 1)], vec![(2, 3)], vec![(4, 5)]]);
    }
}
