//! Random well-typed graphs: simplification changes no bit in exact mode, and the text form reads back.

use optc_abi::{DType, Tensor};
use optc_ir::graph::{Axes, CallOp, DotDims, Graph, LoopOp, NodeId, Op, Origin, ReduceOp, ScatterMode, Ty};
use optc_ir::scalar::{Class, ScalarOp, TABLE};
use optc_ir::text::{print_full, read, same_graph};
use optc_ir::{interpret, verify};
use optc_mid::differentiate::vjp;
use optc_mid::simplify::{Config, Exactness, simplify};
use proptest::prelude::*;
use std::sync::Arc;

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };
const ORDINARY: [f64; 12] = [1.0, -1.0, 2.0, 0.5, -3.25, 0.1, 7.0, -0.3, 1.5, 10.0, -12.0, 0.75];
const AWKWARD: [f64; 7] = [0.0, -0.0, 1e-40, 1e30, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];

/// A stream of decisions.
struct Dice<'a> {
    numbers: &'a [u32],
    at: usize,
}

impl Dice<'_> {
    fn below(&mut self, n: usize) -> usize {
        let number = self.numbers.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        number as usize % n.max(1)
    }
    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }
    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
    fn done(&self) -> bool {
        self.at >= self.numbers.len()
    }
    fn shape(&mut self) -> Vec<usize> {
        let rank = self.below(4);
        (0..rank).map(|_| self.pick(&[1, 2, 3, 5, 1, 8, 3, 4, 2, 9, 3, 6, 0])).collect()
    }
    fn value(&mut self, dtype: DType) -> f64 {
        match dtype {
            DType::Bool => self.below(2) as f64,
            d if d.is_int() => self.pick(&[0.0, 1.0, 2.0, 3.0, 7.0, 100.0]),
            _ if self.below(5) > 0 => self.pick(&ORDINARY),
            _ => self.pick(&AWKWARD),
        }
    }
    fn tensor(&mut self, ty: &Ty) -> Tensor {
        let values: Vec<f64> = (0..ty.len()).map(|_| self.value(ty.dtype)).collect();
        Tensor::from_f64(ty.dtype, &ty.shape, &values)
    }
}

const DTYPES: [DType; 9] = [DType::F32, DType::F32, DType::F32, DType::F32, DType::F32, DType::I32, DType::Bool, DType::BF16, DType::U8];

/// Adds one node, if the dice find a fitting one. `nodes` holds what may be used.
fn grow(g: &mut Graph, nodes: &mut Vec<NodeId>, dice: &mut Dice, depth: usize) {
    // Mostly recent nodes, so that chains grow that rules can see.
    let recent = if dice.below(4) == 0 { nodes.len() } else { nodes.len().min(3) };
    let x = nodes[nodes.len() - 1 - dice.below(recent)];
    let ty = g.ty(x).clone();
    let rank = ty.rank();
    let axis = dice.below(rank);
    let new = match dice.below(27) {
        0..=6 => {
            let op = dice.pick(TABLE).op;
            let fits = match op.row().class {
                Class::Float | Class::Test => ty.dtype.is_float(),
                Class::Number => ty.dtype != DType::Bool,
                Class::Bits => ty.dtype.is_int() || (ty.dtype == DType::Bool && !matches!(op, ScalarOp::Shl | ScalarOp::Shr)),
                Class::Compare | Class::Select => true,
            };
            if !fits {
                return;
            }
            let mut operands = Vec::new();
            if op.row().class == Class::Select {
                operands.push(partner(g, nodes, dice, &ty.with_dtype(DType::Bool)));
            }
            operands.push(x);
            while operands.len() < op.arity() {
                let other = partner(g, nodes, dice, &ty);
                if dice.flip() { operands.push(other) } else { operands.insert(operands.len() - 1, other) }
            }
            let types = |ids: &[NodeId]| ids.iter().map(|&i| g.ty(i).dtype).collect::<Vec<_>>();
            if op.row().class == Class::Select && types(&operands)[0] != DType::Bool {
                operands.reverse();
                if types(&operands)[0] != DType::Bool {
                    return;
                }
            }
            g.map(op, &operands, O)
        }
        7 => {
            let dtype = dice.pick(&DTYPES);
            g.cast(x, dtype, O)
        }
        8 => {
            let mut shape: Vec<usize> = ty.shape.to_vec();
            match dice.below(3) {
                0 => shape = vec![ty.len()],
                1 => shape.retain(|&n| n != 1),
                _ => shape.insert(dice.below(rank + 1), 1),
            }
            g.reshape(x, &shape, O)
        }
        9 | 10 => {
            let at = dice.below(rank + 1);
            let mut shape: Vec<usize> = ty.shape.to_vec();
            for n in shape.iter_mut().filter(|n| **n == 1) {
                *n = 1 + dice.below(2);
            }
            shape.insert(at, 1 + dice.below(3));
            let dims: Axes = (0..rank).map(|a| a + usize::from(a >= at)).collect();
            if rank > 3 {
                return;
            }
            g.broadcast(x, &dims, &shape, O)
        }
        11 => {
            let mut perm: Axes = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, dice.below(i + 1));
            }
            g.op(Op::Permute { perm }, &[x], O)
        }
        12 | 13 => {
            let start: Axes = ty.shape.iter().map(|&n| dice.below(n / 2 + 1)).collect();
            let stop: Axes = ty.shape.iter().zip(&start).map(|(&n, &s)| n - dice.below((n - s) / 2 + 1)).collect();
            let step: Axes = ty.shape.iter().map(|_| 1 + dice.below(3)).collect();
            g.op(Op::Slice { start, stop, step }, &[x], O)
        }
        14 | 15 => {
            let mut amount = |_: &usize| dice.pick(&[0, 0, 1, 2]);
            let lo: Axes = ty.shape.iter().map(&mut amount).collect();
            let hi: Axes = ty.shape.iter().map(&mut amount).collect();
            let interior: Axes = ty.shape.iter().map(|_| usize::from(dice.below(4) == 3)).collect();
            let value = if dice.flip() { 0.0 } else { dice.value(ty.dtype) };
            let value = g.scalar(ty.dtype, value, O);
            g.op(Op::Pad { lo, hi, interior }, &[x, value], O)
        }
        16 if rank > 0 => {
            let axes: Axes = (0..rank).filter(|_| dice.flip()).collect();
            g.op(Op::Flip { axes }, &[x], O)
        }
        17 if rank > 0 => {
            let other = partner(g, nodes, dice, &ty);
            let third = partner(g, nodes, dice, &ty);
            g.op(Op::Concat { axis }, &[x, other, third], O)
        }
        18 | 19 if rank > 0 => {
            let logic = ty.dtype == DType::Bool;
            let kinds: &[ReduceOp] = if logic {
                &[ReduceOp::And, ReduceOp::Or]
            } else {
                &[ReduceOp::Sum, ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod]
            };
            let kind = dice.pick(kinds);
            if dice.below(4) == 0 && !logic {
                g.op(Op::Scan { kind, axis, reverse: dice.flip() }, &[x], O)
            } else {
                let axes: Vec<usize> = (0..rank).filter(|_| dice.flip()).collect();
                g.reduce(kind, x, &axes, O)
            }
        }
        20 if rank > 0 && ty.shape[axis] > 0 => match dice.below(3) {
            0 => g.op(Op::ArgReduce { max: dice.flip(), axis }, &[x], O),
            1 => g.op(Op::ArgSort { axis, descending: dice.flip() }, &[x], O),
            _ => g.op(Op::Window { axis, size: 1, stride: 1 + dice.below(2), dilation: 1 }, &[x], O),
        },
        21 if rank > 0 && ty.shape[axis] > 0 => {
            let ids: Vec<i32> = (0..2).map(|_| dice.below(ty.shape[axis]) as i32).collect();
            let ids = g.constant(Tensor::from_slice(&[2], &ids), O);
            let rows = g.gather(x, ids, axis, O);
            if dice.flip() && ty.dtype != DType::Bool {
                let mode = dice.pick(&[ScatterMode::Add, ScatterMode::Set]);
                g.scatter(x, ids, rows, axis, mode, O)
            } else {
                rows
            }
        }
        22 if rank == 2 && ty.dtype.is_float() => {
            let other = partner(g, nodes, dice, &ty);
            let both = dice.below(2);
            let batched = dice.flip();
            let batch: Axes = if batched { [1 - both][..].into() } else { Axes::new() };
            let contract: Axes = [both][..].into();
            let dims = DotDims { lhs_batch: batch.clone(), rhs_batch: batch, lhs_contract: contract.clone(), rhs_contract: contract };
            g.dot(x, other, dims, O)
        }
        23 if depth > 0 => {
            // A loop that carries x, scans another array if there is one, and uses a third.
            let trip = dice.below(4);
            let mut scan = nodes.iter().copied().find(|&n| g.ty(n).shape.first() == Some(&trip));
            if dice.below(3) == 0 {
                let shape: Vec<usize> = std::iter::once(trip).chain(ty.shape.iter().copied()).collect();
                let dims: Axes = (1..shape.len()).collect();
                scan = Some(g.broadcast(x, &dims, &shape, O));
            }
            let free = nodes[dice.below(nodes.len())];
            let mut body = Graph::new();
            let mut inner = vec![body.input("i", Ty::scalar(DType::I32), O), body.input("c", ty.clone(), O)];
            let mut operands = vec![x];
            if let Some(scan) = scan {
                let row = g.ty(scan).clone();
                inner.push(body.input("row", Ty::new(row.dtype, row.shape[1..].iter().copied()), O));
                operands.push(scan);
            }
            let free_ty = g.ty(free).clone();
            inner.push(body.input("k", free_ty, O));
            operands.push(free);
            for _ in 0..dice.below(5) {
                grow(&mut body, &mut inner, dice, depth - 1);
            }
            let next = inner.iter().rev().copied().find(|&n| *body.ty(n) == ty).expect("the carried input");
            let stack = inner[dice.below(inner.len())];
            body.outputs = vec![next, stack];
            let op = LoopOp {
                trip: Some(trip),
                reverse: dice.flip(),
                carried: 1,
                scanned: usize::from(scan.is_some()),
                guard: None,
                body: Arc::new(body),
            };
            let results = g.loop_results(op, &operands, O);
            nodes.push(results[0]);
            results[1]
        }
        24 if depth > 0 => {
            let other = nodes[dice.below(nodes.len())];
            let other_ty = g.ty(other).clone();
            let branch = |dice: &mut Dice| {
                let mut body = Graph::new();
                let mut inner = vec![body.input("x", ty.clone(), O), body.input("y", other_ty.clone(), O)];
                for _ in 0..dice.below(4) {
                    grow(&mut body, &mut inner, dice, depth - 1);
                }
                let out = inner.iter().rev().copied().find(|&n| *body.ty(n) == ty).expect("the first input");
                body.outputs = vec![out, inner[1]];
                Arc::new(body)
            };
            let then = branch(dice);
            if dice.flip() {
                let call = g.op(Op::Call(CallOp { name: "f".into(), body: then, vjp: None }), &[x, other], O);
                g.result(call, 0, O)
            } else {
                let otherwise = branch(dice);
                let pred = partner(g, nodes, dice, &Ty::scalar(DType::Bool));
                let results = g.cond_results(pred, then, otherwise, &[x, other], O);
                nodes.push(results[1]);
                results[0]
            }
        }
        25 if rank > 0 && rank < 4 => {
            // A view of a view, of the kinds that gradients make.
            let zero = g.scalar(ty.dtype, 0.0, O);
            let n = ty.shape[axis];
            let (from, to) = (dice.below(n / 2 + 1), n - dice.below(n / 2 + 1));
            let part = g.slice_axis(x, axis, from.min(to), to.max(from), O);
            let mut lo: Axes = ty.shape.iter().map(|_| 0).collect();
            let (none, mut hi) = (lo.clone(), lo.clone());
            (lo[axis], hi[axis]) = (dice.below(3), dice.below(3));
            let padded = g.pad(part, zero, &lo, &hi, &none, O);
            (lo[axis], hi[axis]) = (dice.below(3), dice.below(3));
            let other = g.pad(part, zero, &lo, &hi, &none, O);
            nodes.push(padded);
            if ty.dtype != DType::Bool && g.ty(other) == g.ty(padded) { g.map(ScalarOp::Add, &[padded, other], O) } else { other }
        }
        _ => {
            let shape = dice.shape();
            match dice.below(3) {
                0 if !shape.is_empty() => g.iota(DType::I32, &shape, 0, O),
                1 => {
                    let key = g.constant(Tensor::from_slice(&[2], &[1u32, 2]), O);
                    g.op_as(Op::RandomBits { start: 3 }, &[key], Ty::new(DType::U32, shape), O)
                }
                _ => {
                    let dtype = dice.pick(&DTYPES);
                    let value = dice.tensor(&Ty::new(dtype, shape));
                    g.constant(value, O)
                }
            }
        }
    };
    if g.ty(new).len() <= 400 && g.ty(new).rank() <= 5 {
        nodes.push(new);
    }
}

/// A node of this type: one that exists, or a literal.
fn partner(g: &mut Graph, nodes: &[NodeId], dice: &mut Dice, ty: &Ty) -> NodeId {
    let fitting: Vec<NodeId> = nodes.iter().copied().filter(|&n| g.ty(n) == ty).collect();
    if !fitting.is_empty() && dice.below(4) != 0 {
        return dice.pick(&fitting);
    }
    let value = dice.value(ty.dtype);
    g.splat(ty, value, O)
}

fn random_graph(numbers: &[u32]) -> (Graph, Vec<Tensor>) {
    let mut dice = Dice { numbers, at: 0 };
    let mut g = Graph::new();
    let mut inputs = Vec::new();
    let pred = Ty::scalar(DType::Bool);
    inputs.push(dice.tensor(&pred));
    let mut nodes = vec![g.input("p", pred, O)];
    for i in 0..1 + dice.below(4) {
        let dtype = if i == 0 { DType::F32 } else { dice.pick(&DTYPES) };
        let ty = Ty::new(dtype, dice.shape());
        inputs.push(dice.tensor(&ty));
        nodes.push(g.input(format!("x{i}"), ty, O));
    }
    while !dice.done() && g.len() < 60 {
        grow(&mut g, &mut nodes, &mut dice, 2);
    }
    // The last ones, and some on the way.
    g.outputs = nodes.iter().rev().enumerate().filter(|(i, _)| *i < 3 || i % 4 == 3).map(|(_, &n)| n).collect();
    (g, inputs)
}

/// Bits, but one NaN is as good as another.
fn canonical(t: &Tensor) -> (DType, Vec<usize>, Vec<u64>) {
    let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
    (t.dtype, t.shape.clone(), t.to_f64().into_iter().map(bits).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exact_simplification_keeps_every_bit(numbers in prop::collection::vec(any::<u32>(), 40..300)) {
        let (g, inputs) = random_graph(&numbers);
        verify(&g).map_err(TestCaseError::fail)?;
        let want = interpret(&g, &inputs).map_err(|e| TestCaseError::fail(e.message))?;
        let small = simplify(g.clone(), &Config { exactness: Exactness::Exact, ..Config::default() });
        verify(&small).map_err(|e| TestCaseError::fail(format!("{e}\n{}\n{}", print_full(&g), print_full(&small))))?;
        let got = interpret(&small, &inputs).map_err(|e| TestCaseError::fail(e.message))?;
        for (a, b) in want.iter().zip(&got) {
            prop_assert_eq!(canonical(a), canonical(b), "{}\n{}", print_full(&g), print_full(&small));
        }
        for exactness in [Exactness::Budget, Exactness::Fast] {
            let small = simplify(g.clone(), &Config { exactness, ..Config::default() });
            verify(&small).map_err(TestCaseError::fail)?;
            prop_assert_eq!(small.output_types(), g.output_types());
        }
    }

    #[test]
    fn text_reads_back(numbers in prop::collection::vec(any::<u32>(), 40..300)) {
        let (g, _) = random_graph(&numbers);
        let text = print_full(&g);
        let back = read(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert!(same_graph(&g, &back), "{}", text);
    }

    #[test]
    fn gradients_keep_every_bit(numbers in prop::collection::vec(any::<u32>(), 40..200)) {
        let (g, mut inputs) = random_graph(&numbers);
        let floats = |types: &[Ty]| -> Vec<usize> { (0..types.len()).filter(|&i| types[i].dtype.is_float()).collect() };
        let Ok(grad) = vjp(&g, &floats(&g.input_types())) else { return Ok(()) };
        verify(&grad).map_err(TestCaseError::fail)?;
        let mut dice = Dice { numbers: &numbers, at: 0 };
        for k in floats(&g.output_types()) {
            inputs.push(dice.tensor(&g.output_types()[k]));
        }
        let want = interpret(&grad, &inputs).map_err(|e| TestCaseError::fail(e.message))?;
        let small = simplify(grad.clone(), &Config { exactness: Exactness::Exact, ..Config::default() });
        verify(&small).map_err(TestCaseError::fail)?;
        let got = interpret(&small, &inputs).map_err(|e| TestCaseError::fail(e.message))?;
        for (a, b) in want.iter().zip(&got) {
            prop_assert_eq!(canonical(a), canonical(b), "{}\n{}", print_full(&grad), print_full(&small));
        }
    }
}
