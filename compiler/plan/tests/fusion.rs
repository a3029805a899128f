//! How many kernels well-known computations take.

mod common;
use common::{O, check, check_with, counts, input, inputs, map, text, with};
use optc_abi::plan::{Instr, Place};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, ReduceOp, ScatterMode, Ty};
use optc_ir::{Graph, NodeId, ScalarOp};
use optc_plan::{Config, plan};

const F: DType = DType::F32;

fn shape(g: &Graph, x: NodeId) -> Vec<usize> {
    g.ty(x).shape.to_vec()
}

/// Reduction of the last axis, repeated along it.
fn row(g: &mut Graph, kind: ReduceOp, x: NodeId) -> NodeId {
    let to = shape(g, x);
    let last = to.len() - 1;
    let r = g.reduce(kind, x, &[last], O);
    let dims: Vec<usize> = (0..last).collect();
    g.broadcast(r, &dims, &to, O)
}

fn softmax(g: &mut Graph, x: NodeId) -> NodeId {
    let m = row(g, ReduceOp::Max, x);
    let d = map(g, ScalarOp::Sub, &[x, m]);
    let e = map(g, ScalarOp::Exp, &[d]);
    let s = row(g, ReduceOp::Sum, e);
    map(g, ScalarOp::Div, &[e, s])
}

fn layer_norm(g: &mut Graph, x: NodeId, gain: NodeId, bias: NodeId) -> NodeId {
    let to = shape(g, x);
    let n = *to.last().unwrap() as f64;
    let s = row(g, ReduceOp::Sum, x);
    let mean = with(g, ScalarOp::Mul, s, 1.0 / n);
    let d = map(g, ScalarOp::Sub, &[x, mean]);
    let q = map(g, ScalarOp::Mul, &[d, d]);
    let v = row(g, ReduceOp::Sum, q);
    let v = with(g, ScalarOp::Mul, v, 1.0 / n);
    let v = with(g, ScalarOp::Add, v, 1e-5);
    let r = map(g, ScalarOp::Rsqrt, &[v]);
    let y = map(g, ScalarOp::Mul, &[d, r]);
    let (gain, bias) = (g.broadcast_to(gain, &to, O), g.broadcast_to(bias, &to, O));
    let y = map(g, ScalarOp::Mul, &[y, gain]);
    map(g, ScalarOp::Add, &[y, bias])
}

#[test]
fn softmax_is_one_kernel() {
    for dims in [&[5, 7][..], &[64, 33], &[2, 3, 4, 40], &[10], &[3, 1], &[40, 300]] {
        let mut g = Graph::new();
        let x = input(&mut g, dims);
        g.outputs = vec![softmax(&mut g, x)];
        let planned = check(&g);
        assert_eq!(counts(&planned).0, 1, "{}", text(&planned));
    }
}

#[test]
fn layer_norm_is_one_kernel() {
    for dims in [&[5, 7][..], &[64, 33], &[4, 16, 40]] {
        let mut g = Graph::new();
        let x = input(&mut g, dims);
        let (gain, bias) = (input(&mut g, &dims[dims.len() - 1..]), input(&mut g, &dims[dims.len() - 1..]));
        let h = map(&mut g, ScalarOp::Tanh, &[x]);
        let h = map(&mut g, ScalarOp::Add, &[h, x]);
        let y = layer_norm(&mut g, h, gain, bias);
        g.outputs = vec![y, h];
        let planned = check(&g);
        assert_eq!(counts(&planned).0, 1, "{}", text(&planned));
    }
}

#[test]
fn cross_entropy_and_its_derivative_are_one_kernel_and_a_mean() {
    let mut g = Graph::new();
    let x = input(&mut g, &[64, 10]);
    let label = g.input("label", Ty::new(DType::I32, [64]), O);
    let m = row(&mut g, ReduceOp::Max, x);
    let d = map(&mut g, ScalarOp::Sub, &[x, m]);
    let e = map(&mut g, ScalarOp::Exp, &[d]);
    let s = g.reduce(ReduceOp::Sum, e, &[1], O);
    let l = map(&mut g, ScalarOp::Log, &[s]);
    let classes = g.iota(DType::I32, &[64, 10], 1, O);
    let labels = g.broadcast(label, &[0], &[64, 10], O);
    let hot = map(&mut g, ScalarOp::Eq, &[classes, labels]);
    let hot = g.cast(hot, F, O);
    let picked = map(&mut g, ScalarOp::Mul, &[hot, d]);
    let picked = g.reduce(ReduceOp::Sum, picked, &[1], O);
    let loss = map(&mut g, ScalarOp::Sub, &[l, picked]);
    let loss = g.reduce(ReduceOp::Sum, loss, &[0], O);
    let loss = with(&mut g, ScalarOp::Mul, loss, 1.0 / 64.0);
    let s = g.broadcast(s, &[0], &[64, 10], O);
    let p = map(&mut g, ScalarOp::Div, &[e, s]);
    let dx = map(&mut g, ScalarOp::Sub, &[p, hot]);
    let dx = with(&mut g, ScalarOp::Mul, dx, 1.0 / 64.0);
    let db = g.reduce(ReduceOp::Sum, dx, &[0], O);
    g.outputs = vec![loss, dx, db];
    let planned = check(&g);
    assert_eq!(counts(&planned).0, 1, "{}", text(&planned));
}

/// One AdamW step over leaves of these shapes; returns the aliases.
fn adamw(g: &mut Graph, leaves: &[Vec<usize>], clip: bool) -> Vec<(usize, usize)> {
    let t = g.input("t", Ty::scalar(DType::I32), O);
    let one = g.scalar(DType::I32, 1.0, O);
    let t1 = map(g, ScalarOp::Add, &[t, one]);
    let tf = g.cast(t1, F, O);
    let correction = |g: &mut Graph, beta: f64| {
        let b = g.scalar(F, beta, O);
        let p = map(g, ScalarOp::Pow, &[b, tf]);
        let one = g.scalar(F, 1.0, O);
        map(g, ScalarOp::Sub, &[one, p])
    };
    let (c1, c2) = (correction(g, 0.9), correction(g, 0.999));
    let grads: Vec<NodeId> = leaves.iter().map(|l| input(g, l)).collect();
    let mut scale = None;
    if clip {
        let mut total: Option<NodeId> = None;
        for &x in &grads {
            let q = map(g, ScalarOp::Mul, &[x, x]);
            let axes: Vec<usize> = (0..g.ty(x).rank()).collect();
            let s = g.reduce(ReduceOp::Sum, q, &axes, O);
            total = Some(match total {
                Some(sum) => map(g, ScalarOp::Add, &[sum, s]),
                None => s,
            });
        }
        let norm = map(g, ScalarOp::Sqrt, &[total.unwrap()]);
        let one = g.scalar(F, 1.0, O);
        let ratio = map(g, ScalarOp::Div, &[one, norm]);
        scale = Some(map(g, ScalarOp::Min, &[ratio, one]));
    }
    let mut alias = vec![(0, 0)];
    g.outputs.push(t1);
    for (leaf, &grad) in leaves.iter().zip(&grads) {
        let first = g.inputs.len();
        let (w, m, v) = (input(g, leaf), input(g, leaf), input(g, leaf));
        let v = map(g, ScalarOp::Abs, &[v]);
        let mut grad = grad;
        if let Some(s) = scale {
            let s = g.broadcast(s, &[], leaf, O);
            grad = map(g, ScalarOp::Mul, &[grad, s]);
        }
        let ema = |g: &mut Graph, old: NodeId, new: NodeId, beta: f64| {
            let a = with(g, ScalarOp::Mul, old, beta);
            let b = with(g, ScalarOp::Mul, new, 1.0 - beta);
            map(g, ScalarOp::Add, &[a, b])
        };
        let m1 = ema(g, m, grad, 0.9);
        let q = map(g, ScalarOp::Mul, &[grad, grad]);
        let v1 = ema(g, v, q, 0.999);
        let c1 = g.broadcast(c1, &[], leaf, O);
        let c2 = g.broadcast(c2, &[], leaf, O);
        let mh = map(g, ScalarOp::Div, &[m1, c1]);
        let vh = map(g, ScalarOp::Div, &[v1, c2]);
        let root = map(g, ScalarOp::Sqrt, &[vh]);
        let root = with(g, ScalarOp::Add, root, 1e-8);
        let step = map(g, ScalarOp::Div, &[mh, root]);
        let step = with(g, ScalarOp::Mul, step, 1e-3);
        let w1 = map(g, ScalarOp::Sub, &[w, step]);
        for (k, out) in [w1, m1, v1].into_iter().enumerate() {
            alias.push((g.outputs.len(), first + k));
            g.outputs.push(out);
        }
    }
    alias
}

#[test]
fn an_optimizer_step_is_one_instruction_and_its_scalars() {
    let leaves = vec![vec![64, 32], vec![32], vec![32, 10], vec![10], vec![7, 3, 5], vec![130, 130]];
    let mut g = Graph::new();
    let alias = adamw(&mut g, &leaves, false);
    let planned = check_with(&g, &Config { alias, guards: Vec::new(), ..Config::default() }, &inputs(&g));
    assert_eq!(counts(&planned), (2, 2, 0), "{}", text(&planned));
    let Instr::Kernel { calls, .. } = &planned.plan.code[1] else { panic!("no kernel") };
    assert_eq!(calls.len(), leaves.len() + 1, "one argument set each, two for the leaf of more than one chunk");
    assert!(planned.plan.buffers.iter().filter(|b| matches!(b.place, Place::Arena(_))).map(|b| b.len).sum::<usize>() < 8);
}

#[test]
fn clipping_passes_over_memory_twice() {
    let leaves = vec![vec![200, 200], vec![190, 200], vec![40_001]];
    let mut g = Graph::new();
    let alias = adamw(&mut g, &leaves, true);
    let planned = check_with(&g, &Config { alias, guards: Vec::new(), ..Config::default() }, &inputs(&g));
    assert_eq!(counts(&planned), (3, 3, 0), "{}", optc_plan::print(&planned));
}

#[test]
fn a_guard_stands_before_every_write_to_an_input() {
    let mut g = Graph::new();
    let x = input(&mut g, &[40]);
    let w = input(&mut g, &[40]);
    let p = map(&mut g, ScalarOp::Mul, &[x, w]);
    let loss = g.reduce(ReduceOp::Sum, p, &[0], O);
    let w1 = map(&mut g, ScalarOp::Sub, &[w, x]);
    g.outputs = vec![w1, loss];
    let config = Config { alias: vec![(0, 1)], guards: vec![1], ..Config::default() };
    check_with(&g, &config, &inputs(&g));
    let planned = plan(&g, &config);
    let mut bad = inputs(&g);
    bad[0].set_f64(3, f64::NAN);
    let before = bad[1].clone();
    assert!(optc_plan::reference::run(&planned, &mut bad).is_err());
    // The executor hands memory back only at the end, so look at the plan as well.
    assert_eq!(bad[1], before);
    let guard = planned.plan.code.iter().position(|i| matches!(i, Instr::Guard { .. })).expect("a guard");
    let writes = planned.plan.code.iter().position(|i| match i {
        Instr::Kernel { kernel, calls } => calls.iter().any(|c| {
            c.buffers
                .iter()
                .zip(&planned.kernels[*kernel].kernel.buffers)
                .any(|(b, p)| p.access != optc_ir::kernel::Access::Read && planned.plan.buffers[b.buffer].place == Place::Input(1))
        }),
        Instr::Copy { dst, .. } => planned.plan.buffers[dst.buffer].place == Place::Input(1),
        _ => false,
    });
    assert!(guard < writes.expect("a write"), "{}", text(&planned));
}

#[test]
fn several_guards_stand_before_every_write() {
    // The second guarded scalar is read off the new value of the first input, which must then wait in memory of its own.
    let mut g = Graph::new();
    let x = input(&mut g, &[40]);
    let w = input(&mut g, &[40]);
    let w1 = map(&mut g, ScalarOp::Sub, &[w, x]);
    let loss = g.reduce(ReduceOp::Sum, w, &[0], O);
    let after = g.reduce(ReduceOp::Sum, w1, &[0], O);
    g.outputs = vec![w1, loss, after];
    let config = Config { alias: vec![(0, 1)], guards: vec![1, 2], ..Config::default() };
    check_with(&g, &config, &inputs(&g));
    let planned = plan(&g, &config);
    let guards: Vec<usize> =
        planned.plan.code.iter().enumerate().filter(|(_, i)| matches!(i, Instr::Guard { .. })).map(|(k, _)| k).collect();
    assert_eq!(guards.len(), 2, "{}", text(&planned));
    let writes = planned.plan.code.iter().position(|i| match i {
        Instr::Kernel { kernel, calls } => calls.iter().any(|c| {
            let params = &planned.kernels[*kernel].kernel.buffers;
            let written = c.buffers.iter().zip(params).filter(|(_, p)| p.access != optc_ir::kernel::Access::Read);
            written.into_iter().any(|(b, _)| planned.plan.buffers[b.buffer].place == Place::Input(1))
        }),
        Instr::Copy { dst, .. } => planned.plan.buffers[dst.buffer].place == Place::Input(1),
        _ => false,
    });
    assert!(guards[1] < writes.expect("a write"), "{}", text(&planned));
    let mut bad = inputs(&g);
    bad[0].set_f64(3, f64::INFINITY);
    let before = bad[1].clone();
    assert!(optc_plan::reference::run(&planned, &mut bad).is_err());
    assert_eq!(bad[1], before);
}

#[test]
fn aliases_that_conflict_are_copied() {
    // New a from old b and new b from old a, elementwise and not; and a plain swap.
    let mut g = Graph::new();
    let (a, b, c, d) = (input(&mut g, &[6]), input(&mut g, &[6]), input(&mut g, &[6]), input(&mut g, &[6]));
    let rev = g.op(optc_ir::Op::Flip { axes: [0].as_slice().into() }, &[b], O);
    let a1 = map(&mut g, ScalarOp::Add, &[a, rev]);
    let b1 = map(&mut g, ScalarOp::Sub, &[b, a]);
    g.outputs = vec![a1, b1, d, c];
    let alias = vec![(0, 0), (1, 1), (2, 2), (3, 3)];
    check_with(&g, &Config { alias, guards: Vec::new(), ..Config::default() }, &inputs(&g));
    // The new value is used by something that also needs the old one.
    let mut g = Graph::new();
    let (w, x) = (input(&mut g, &[6, 6]), input(&mut g, &[6, 6]));
    let w1 = map(&mut g, ScalarOp::Add, &[w, x]);
    let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let y = g.dot(w, w1, dims.clone(), O);
    let z = g.dot(w1, x, dims, O);
    g.outputs = vec![w1, y, z];
    check_with(&g, &Config { alias: vec![(0, 0)], guards: Vec::new(), ..Config::default() }, &inputs(&g));
}

/// A two-layer classifier's training step: forward, backward, SGD.
fn mlp(batch: usize, sizes: [usize; 3]) -> (Graph, Vec<(usize, usize)>) {
    let [i, h, o] = sizes;
    let mut g = Graph::new();
    let x = input(&mut g, &[batch, i]);
    let hot = input(&mut g, &[batch, o]);
    let (w1, b1, w2, b2) = (input(&mut g, &[i, h]), input(&mut g, &[h]), input(&mut g, &[h, o]), input(&mut g, &[o]));
    let nn = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let tn = DotDims { lhs_contract: [0].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let nt = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [1].as_slice().into(), ..DotDims::default() };
    let a = g.dot(x, w1, nn.clone(), O);
    let b = g.broadcast(b1, &[1], &[batch, h], O);
    let a = map(&mut g, ScalarOp::Add, &[a, b]);
    let zero = g.splat(&Ty::new(F, [batch, h]), 0.0, O);
    let hidden = map(&mut g, ScalarOp::Max, &[a, zero]);
    let y = g.dot(hidden, w2, nn, O);
    let b = g.broadcast(b2, &[1], &[batch, o], O);
    let y = map(&mut g, ScalarOp::Add, &[y, b]);
    let p = softmax(&mut g, y);
    let l = map(&mut g, ScalarOp::Log, &[p]);
    let l = map(&mut g, ScalarOp::Mul, &[l, hot]);
    let loss = g.reduce(ReduceOp::Sum, l, &[0, 1], O);
    let dy = map(&mut g, ScalarOp::Sub, &[p, hot]);
    let dw2 = g.dot(hidden, dy, tn.clone(), O);
    let db2 = g.reduce(ReduceOp::Sum, dy, &[0], O);
    let dh = g.dot(dy, w2, nt, O);
    let on = map(&mut g, ScalarOp::Lt, &[zero, a]);
    let da = map(&mut g, ScalarOp::Select, &[on, dh, zero]);
    let dw1 = g.dot(x, da, tn, O);
    let db1 = g.reduce(ReduceOp::Sum, da, &[0], O);
    g.outputs.push(loss);
    let mut alias = Vec::new();
    for (k, (w, d)) in [(w1, dw1), (b1, db1), (w2, dw2), (b2, db2)].into_iter().enumerate() {
        let step = with(&mut g, ScalarOp::Mul, d, 0.01);
        let new = map(&mut g, ScalarOp::Sub, &[w, step]);
        alias.push((g.outputs.len(), 2 + k));
        g.outputs.push(new);
    }
    (g, alias)
}

#[test]
fn a_small_training_step_has_few_instructions() {
    let (g, alias) = mlp(16, [12, 20, 9]);
    let planned = check_with(&g, &Config { alias, guards: vec![0], ..Config::default() }, &inputs(&g));
    // Five products, three kernels between them, the update, the guard.
    assert!(counts(&planned).0 <= 10, "{}", text(&planned));
    assert_eq!(counts(&planned).2, 0, "{}", text(&planned));
}

#[test]
fn scatter_into_zeros_and_update() {
    let mut g = Graph::new();
    let table = input(&mut g, &[30, 8]);
    let ids = g.input("ids", Ty::new(DType::I32, [12]), O);
    let x = g.gather(table, ids, 0, O);
    let y = map(&mut g, ScalarOp::Tanh, &[x]);
    let zeros = g.splat(&Ty::new(F, [30, 8]), 0.0, O);
    let d = g.scatter(zeros, ids, y, 0, ScatterMode::Add, O);
    let step = with(&mut g, ScalarOp::Mul, d, 0.1);
    let new = map(&mut g, ScalarOp::Sub, &[table, step]);
    g.outputs = vec![new];
    let planned = check_with(&g, &Config { alias: vec![(0, 0)], guards: Vec::new(), ..Config::default() }, &inputs(&g));
    assert_eq!(counts(&planned).2, 0, "{}", text(&planned));
}

#[test]
fn planning_is_quick_and_linear() {
    let time = |n: usize| {
        let mut g = Graph::new();
        let mut x = input(&mut g, &[32, 32]);
        let w = input(&mut g, &[32, 32]);
        let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
        for k in 0..n {
            x = match k % 8 {
                0 => g.dot(x, w, dims.clone(), O),
                1 => softmax(&mut g, x),
                2 => g.permute(x, &[1, 0], O),
                _ => map(&mut g, ScalarOp::Sin, &[x]),
            };
        }
        g.outputs = vec![x];
        let start = std::time::Instant::now();
        plan(&g, &Config::default());
        (start.elapsed(), g.len())
    };
    let _warm = time(100);
    let (elapsed, nodes) = time(6000);
    assert!(elapsed.as_secs_f64() < 2.0, "{nodes} nodes in {elapsed:?}");
}

#[test]
fn results_do_not_depend_on_leftover_memory() {
    let (g, alias) = mlp(5, [3, 4, 2]);
    let config = Config { alias, guards: Vec::new(), ..Config::default() };
    let planned = plan(&g, &config);
    let mut first = inputs(&g);
    let mut second = inputs(&g);
    let a: Vec<Tensor> = optc_plan::reference::run(&planned, &mut first).unwrap();
    let b: Vec<Tensor> = optc_plan::reference::run(&planned, &mut second).unwrap();
    assert_eq!((a, first), (b, second));
}

#[test]
fn the_exponentials_of_a_softmax_are_computed_once() {
    let mut g = Graph::new();
    let x = input(&mut g, &[64, 40]);
    g.outputs = vec![softmax(&mut g, x)];
    let planned = check(&g);
    assert_eq!(text(&planned).matches("= exp(").count(), 1, "{}", text(&planned));
}

#[test]
fn what_two_loops_of_a_row_need_waits_in_a_local_array() {
    let mut g = Graph::new();
    let (x, y) = (input(&mut g, &[64, 256]), input(&mut g, &[64, 256]));
    // ((0.9 x + 0.1 y) y + x) y over its largest magnitude in the row
    let (a, b) = (with(&mut g, ScalarOp::Mul, x, 0.9), with(&mut g, ScalarOp::Mul, y, 0.1));
    let sum = map(&mut g, ScalarOp::Add, &[a, b]);
    let product = map(&mut g, ScalarOp::Mul, &[sum, y]);
    let sum = map(&mut g, ScalarOp::Add, &[product, x]);
    let value = map(&mut g, ScalarOp::Mul, &[sum, y]);
    let size = map(&mut g, ScalarOp::Abs, &[value]);
    let most = row(&mut g, ReduceOp::Max, size);
    g.outputs = vec![map(&mut g, ScalarOp::Div, &[value, most])];
    let planned = check(&g);
    let text = text(&planned);
    assert!(text.contains("local l0: f32[256]"), "{text}");
    assert_eq!(text.matches("= add(").count(), 2, "{text}");
}

#[test]
fn attention_takes_two_products_and_a_softmax() {
    let mut g = Graph::new();
    let x = input(&mut g, &[2, 6, 24]);
    let w = input(&mut g, &[8, 11]);
    let part = |g: &mut Graph, k: usize| {
        let s = g.slice_axis(x, 2, k * 8, (k + 1) * 8, O);
        let s = g.reshape(s, &[2, 6, 2, 4], O);
        g.permute(s, &[0, 2, 1, 3], O)
    };
    let (q, k, v) = (part(&mut g, 0), part(&mut g, 1), part(&mut g, 2));
    let dims = |l: usize, r: usize| DotDims {
        lhs_batch: [0, 1].as_slice().into(),
        rhs_batch: [0, 1].as_slice().into(),
        lhs_contract: [l].as_slice().into(),
        rhs_contract: [r].as_slice().into(),
    };
    let s = g.dot(q, k, dims(3, 3), O);
    let p = softmax(&mut g, s);
    let o = g.dot(p, v, dims(3, 2), O);
    let o = g.permute(o, &[0, 2, 1, 3], O);
    let o = g.reshape(o, &[2, 6, 8], O);
    let d = DotDims { lhs_contract: [2].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    g.outputs = vec![g.dot(o, w, d, O)];
    let planned = check(&g);
    assert_eq!(counts(&planned).0, 4, "{}", text(&planned));
}

/// A chain of elementwise operations with a reduction of each link: every reduction has a loop of its own.
fn chain(links: usize) -> Graph {
    let mut g = Graph::default();
    let x = input(&mut g, &[6, 16]);
    let mut h = x;
    for _ in 0..links {
        let w = input(&mut g, &[16]);
        let w = g.broadcast(w, &[1], &[6, 16], O);
        let p = map(&mut g, ScalarOp::Mul, &[h, w]);
        let t = map(&mut g, ScalarOp::Tanh, &[p]);
        h = map(&mut g, ScalarOp::Add, &[t, x]);
        let r = g.reduce(ReduceOp::Sum, h, &[0], O);
        g.outputs.push(r);
    }
    g
}

#[test]
fn what_many_loops_need_is_computed_once() {
    let lines = |links: usize| {
        let g = chain(links);
        let given = inputs(&g);
        text(&check_with(&g, &Config::default(), &given)).lines().count()
    };
    let (short, long) = (lines(12), lines(48));
    assert!(long < 5 * short, "a kernel of 12 links has {short} lines, one of 48 has {long}");
}

#[test]
fn equal_small_kernels_are_one_with_many_argument_sets() {
    let mut g = Graph::new();
    let sums: Vec<NodeId> = (0..6)
        .map(|_| {
            let x = input(&mut g, &[16, 24]);
            g.reduce(ReduceOp::Sum, x, &[0], O)
        })
        .collect();
    g.outputs = sums;
    let planned = check(&g);
    let most = planned.plan.code.iter().map(|i| if let Instr::Kernel { calls, .. } = i { calls.len() } else { 0 }).max();
    assert_eq!(most, Some(6), "{}", text(&planned));
}

#[test]
fn the_order_of_operands_that_may_change_places_makes_no_new_kernel() {
    let mut g = Graph::new();
    let (x, y) = (input(&mut g, &[40_000]), input(&mut g, &[40_000]));
    let (z, w) = (input(&mut g, &[50_000]), input(&mut g, &[50_000]));
    let s = map(&mut g, ScalarOp::Add, &[x, y]);
    let a = map(&mut g, ScalarOp::Mul, &[x, s]);
    let s = map(&mut g, ScalarOp::Add, &[z, w]);
    let b = map(&mut g, ScalarOp::Mul, &[s, z]);
    g.outputs = vec![a, b];
    let planned = check(&g);
    assert_eq!(planned.kernels.len(), 1, "{}", text(&planned));
}

/// Leaves cut into rows with one scale each, as 8-bit states are: largest magnitudes, and elements divided by them with a pattern of positions added.
fn leaves_by_rows(g: &mut Graph, leaves: usize) -> Vec<(usize, usize)> {
    let mut outputs = Vec::new();
    for _ in 0..leaves {
        let x = input(g, &[32, 1024]);
        let size = map(g, ScalarOp::Abs, &[x]);
        let most = row(g, ReduceOp::Max, size);
        let part = map(g, ScalarOp::Div, &[x, most]);
        // Equal nodes for all leaves, as they have one shape.
        let column = g.iota(DType::I32, &[32, 1024], 1, O);
        let half = with(g, ScalarOp::And, column, 7.0);
        let pattern = g.cast(half, F, O);
        outputs.push(map(g, ScalarOp::Add, &[part, pattern]));
    }
    g.outputs = outputs;
    (0..leaves).map(|k| (k, k)).collect()
}

#[test]
fn a_pattern_of_positions_does_not_tie_leaves_together() {
    for leaves in [2, 5, 120] {
        let mut g = Graph::new();
        let alias = leaves_by_rows(&mut g, leaves);
        let config = Config { alias, ..Config::default() };
        let planned = if leaves < 100 { check_with(&g, &config, &inputs(&g)) } else { plan(&g, &config) };
        assert_eq!(planned.kernels.len(), 1, "{}", text(&planned));
        let calls: usize = planned.plan.code.iter().map(|i| if let Instr::Kernel { calls, .. } = i { calls.len() } else { 0 }).sum();
        assert_eq!(calls, leaves, "{}", text(&planned));
    }
}
