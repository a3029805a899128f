//! Random small programs, planned and compared with the interpreter of graphs.

mod common;
use common::{O, check_with, inputs};
use optc_abi::DType;
use optc_ir::graph::{DotDims, LoopOp, ReduceOp, ScatterMode, Ty};
use optc_ir::{Graph, NodeId, Op, ScalarOp};
use optc_plan::Config;
use std::sync::Arc;

/// A small source of choices.
struct Dice {
    state: u64,
    /// Extents of axes.
    extents: &'static [usize],
    /// Elements of the largest array.
    most: usize,
}

impl Dice {
    fn new(seed: u64, large: bool) -> Dice {
        let extents: &[usize] = if large { &[1, 3, 8, 16, 24, 32, 48, 60, 64] } else { &[1, 2, 3, 4, 5, 8, 12, 16, 20] };
        Dice { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, extents, most: if large { 60_000 } else { 4000 } }
    }
    fn roll(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 20) % n as u64) as usize
    }
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())]
    }
}

const F: DType = DType::F64;

fn shape(dice: &mut Dice) -> Vec<usize> {
    let rank = if dice.most > 4000 { 2 + dice.roll(2) } else { dice.roll(4) };
    (0..rank).map(|_| dice.pick(dice.extents)).collect()
}

/// Keeps values tame: sin of anything.
fn tame(g: &mut Graph, x: NodeId) -> NodeId {
    g.map(ScalarOp::Sin, &[x], O)
}

/// Appends one random operation on earlier float nodes.
fn grow(g: &mut Graph, dice: &mut Dice, pool: &mut Vec<NodeId>, ids: NodeId) {
    let x = pool[dice.roll(pool.len())];
    let dims = g.ty(x).shape.to_vec();
    let rank = dims.len();
    let made = match dice.roll(19) {
        0 => g.map(dice.pick(&[ScalarOp::Sin, ScalarOp::Tanh, ScalarOp::Neg, ScalarOp::Abs, ScalarOp::Sigmoid]), &[x], O),
        1..4 => {
            // A partner of the same shape, broadcast if need be.
            let mut y = pool[dice.roll(pool.len())];
            let theirs = g.ty(y).shape.to_vec();
            let fits = theirs.len() <= rank && theirs.iter().rev().zip(dims.iter().rev()).all(|(a, b)| a == b || *a == 1);
            y = if fits { g.broadcast_to(y, &dims, O) } else { x };
            let s = g.map(dice.pick(&[ScalarOp::Add, ScalarOp::Sub, ScalarOp::Mul, ScalarOp::Max]), &[x, y], O);
            tame(g, s)
        }
        4 | 5 if rank > 0 => {
            let mask = 1 + dice.roll((1 << rank) - 1);
            let axes: Vec<usize> = (0..rank).filter(|a| mask >> a & 1 == 1).collect();
            let r = g.reduce(dice.pick(&[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]), x, &axes, O);
            let r = tame(g, r);
            if dice.roll(2) == 0 {
                // Back over the reduced axes, as normalizations do.
                let kept: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).collect();
                let b = g.broadcast(r, &kept, &dims, O);
                let s = g.map(ScalarOp::Sub, &[x, b], O);
                tame(g, s)
            } else {
                r
            }
        }
        6 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, dice.roll(i + 1));
            }
            g.permute(x, &perm, O)
        }
        7 => {
            let n: usize = dims.iter().product();
            let mut to = Vec::new();
            let mut rest = n;
            for f in [2, 3, 4, 5] {
                if rest.is_multiple_of(f) && dice.roll(2) == 0 {
                    to.push(f);
                    rest /= f;
                }
            }
            to.insert(dice.roll(to.len() + 1), rest);
            g.reshape(x, &to, O)
        }
        8 if rank > 0 => {
            let (mut start, mut stop, mut step) = (vec![], vec![], vec![]);
            for &d in &dims {
                let a = dice.roll(d);
                start.push(a);
                stop.push(a + 1 + dice.roll(d - a));
                step.push(1 + dice.roll(2));
            }
            g.slice(x, &start, &stop, &step, O)
        }
        9 if rank > 0 => g.op(Op::Flip { axes: [dice.roll(rank)].as_slice().into() }, &[x], O),
        10 if rank > 0 => {
            let value = g.scalar(F, 0.5, O);
            let of = |dice: &mut Dice| (0..rank).map(|_| dice.roll(3)).collect::<Vec<_>>();
            let (lo, hi, interior) = (of(dice), of(dice), (0..rank).map(|_| dice.roll(2)).collect::<Vec<_>>());
            g.pad(x, value, &lo, &hi, &interior, O)
        }
        11 if rank > 0 => {
            let axis = dice.roll(rank);
            let y = tame(g, x);
            g.concat(&[x, y, x], axis, O)
        }
        12 if rank > 0 => {
            let axis = dice.roll(rank);
            let size = 1 + dice.roll(dims[axis]);
            g.op(Op::Window { axis, size, stride: 1 + dice.roll(2), dilation: 1 }, &[x], O)
        }
        13 if rank > 0 => g.op(Op::Scan { kind: ReduceOp::Sum, axis: dice.roll(rank), reverse: dice.roll(2) == 0 }, &[x], O),
        14 if rank > 0 && dims[0] >= 3 => g.gather(x, ids, 0, O),
        15 if rank > 0 => {
            let axis = dice.roll(rank);
            if dims[axis] < 3 {
                return;
            }
            let u = g.gather(x, ids, axis, O);
            let u = tame(g, u);
            let mode = if dice.roll(2) == 0 { ScatterMode::Add } else { ScatterMode::Set };
            g.scatter(x, ids, u, axis, mode, O)
        }
        16 if rank == 2 => {
            let w = g.permute(x, &[1, 0], O);
            let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
            let d = g.dot(x, w, dims, O);
            tame(g, d)
        }
        17 if rank == 3 => {
            let b = [0].as_slice().into();
            let c = [2].as_slice().into();
            let y = tame(g, x);
            let dims = DotDims { lhs_batch: b, rhs_batch: [0].as_slice().into(), lhs_contract: c, rhs_contract: [2].as_slice().into() };
            let d = g.dot(x, y, dims, O);
            tame(g, d)
        }
        18 if rank > 0 => {
            let a = g.op(Op::ArgReduce { max: dice.roll(2) == 0, axis: dice.roll(rank) }, &[x], O);
            g.cast(a, F, O)
        }
        _ => return,
    };
    if g.ty(made).len() <= dice.most {
        pool.push(made);
    }
}

fn program(dice: &mut Dice, size: usize) -> Graph {
    let mut g = Graph::new();
    let ids = g.input("ids", Ty::new(DType::I32, [4]), O);
    let mut pool: Vec<NodeId> = Vec::new();
    for k in 0..2 + dice.roll(2) {
        let s = shape(dice);
        pool.push(g.input(format!("x{k}"), Ty::new(F, s), O));
    }
    for _ in 0..size {
        grow(&mut g, dice, &mut pool, ids);
    }
    let from = pool.len().saturating_sub(3);
    g.outputs = pool[from..].to_vec();
    for _ in 0..2 {
        g.outputs.push(pool[dice.roll(pool.len())]);
    }
    g
}

/// Outputs that may take the place of an input of their type.
fn aliases(g: &Graph, dice: &mut Dice) -> Vec<(usize, usize)> {
    let (ins, outs) = (g.input_types(), g.output_types());
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (o, ty) in outs.iter().enumerate() {
        for (i, input) in ins.iter().enumerate() {
            if ty == input && !out.iter().any(|a| a.0 == o || a.1 == i) && dice.roll(2) == 0 {
                out.push((o, i));
            }
        }
    }
    out
}

fn run(seeds: std::ops::Range<u64>, size: usize, large: bool) {
    for seed in seeds {
        let mut dice = Dice::new(seed, large);
        let g = program(&mut dice, size);
        let alias = aliases(&g, &mut dice);
        let given = inputs(&g);
        let done = std::panic::catch_unwind(|| {
            drop(check_with(&g, &Config { alias: alias.clone(), guards: Vec::new(), ..Config::default() }, &given))
        });
        assert!(done.is_ok(), "seed {seed}, aliases {alias:?}\n{}", optc_ir::text::print(&g));
    }
}

#[test]
fn short_programs() {
    run(0..300, 5, false);
}

#[test]
fn longer_programs() {
    run(1000..1200, 20, false);
}

#[test]
fn programs_on_larger_arrays() {
    run(2000..2030, 7, true);
}

#[test]
fn bodies_of_loops() {
    for seed in 0..100u64 {
        let mut dice = Dice::new(seed + 5000, false);
        // A program whose float inputs are carried; outputs of fitting types are fed back.
        let inner = program(&mut dice, 8);
        let mut body = Graph::new();
        let _ = body.input("i", Ty::scalar(DType::I32), O);
        let types = inner.input_types();
        let args: Vec<NodeId> =
            types[1..].iter().chain(&types[..1]).enumerate().map(|(k, t)| body.input(format!("a{k}"), t.clone(), O)).collect();
        let carried = types.len() - 1;
        let mut fed: Vec<NodeId> = vec![args[carried]];
        fed.extend(&args[..carried]);
        let results = body.inline(&inner, &fed, "");
        let mut outputs: Vec<NodeId> = args[..carried].to_vec();
        for (slot, ty) in outputs.iter_mut().zip(&types[1..]) {
            if let Some(&r) = results.iter().find(|&&r| body.ty(r) == ty && r != *slot) {
                *slot = r;
            }
        }
        outputs.push(results[0]);
        body.outputs = outputs;
        let op = LoopOp { trip: Some(3), reverse: seed % 2 == 1, carried, scanned: 0, guard: None, body: Arc::new(body) };
        let mut g = Graph::new();
        let args: Vec<NodeId> =
            types[1..].iter().chain(&types[..1]).enumerate().map(|(k, t)| g.input(format!("a{k}"), t.clone(), O)).collect();
        g.outputs = g.loop_results(op, &args, O);
        let alias: Vec<(usize, usize)> = (0..carried).filter(|_| dice.roll(2) == 0).map(|k| (k, k)).collect();
        let given = inputs(&g);
        let done = std::panic::catch_unwind(|| {
            drop(check_with(&g, &Config { alias: alias.clone(), guards: Vec::new(), ..Config::default() }, &given))
        });
        assert!(done.is_ok(), "seed {seed}, aliases {alias:?}\n{}", optc_ir::text::print_full(&g));
    }
}
