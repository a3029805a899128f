//! What the tests of the planner share: plans run by the reference executor, compared with the interpreter of graphs.
#![allow(dead_code)]

use optc_abi::plan::Instr;
use optc_abi::{DType, Tensor};
use optc_ir::{Graph, NodeId, Origin, ScalarOp, Ty, interpret};
use optc_plan::{Config, Planned, plan, reference};

pub const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

/// An f32 input.
pub fn input(g: &mut Graph, shape: &[usize]) -> NodeId {
    let name = format!("x{}", g.inputs.len());
    g.input(name, Ty::new(DType::F32, shape.iter().copied()), O)
}

pub fn map(g: &mut Graph, op: ScalarOp, x: &[NodeId]) -> NodeId {
    g.map(op, x, O)
}

/// `op` of x and a number.
pub fn with(g: &mut Graph, op: ScalarOp, x: NodeId, number: f64) -> NodeId {
    let ty = g.ty(x).clone();
    let c = g.splat(&ty, number, O);
    g.map(op, &[x, c], O)
}

/// Numbers without pattern, in -2..2.
pub fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
        })
        .collect()
}

/// Inputs for a graph: floats without pattern, small integers.
pub fn inputs(graph: &Graph) -> Vec<Tensor> {
    graph
        .input_types()
        .iter()
        .enumerate()
        .map(|(k, ty)| {
            let values = noise(k as u64 + 1, ty.len());
            let values: Vec<f64> = match ty.dtype {
                DType::Bool => values.iter().map(|v| f64::from(*v > 0.0)).collect(),
                d if d.is_int() => values.iter().map(|v| ((v + 2.0) * 0.75).floor()).collect(),
                _ => values,
            };
            Tensor::from_f64(ty.dtype, &ty.shape, &values)
        })
        .collect()
}

/// Whether two tensors agree up to rounding.
pub fn close(a: &Tensor, b: &Tensor) -> bool {
    let tolerance = match a.dtype {
        DType::F32 => 2e-5,
        DType::F64 => 1e-9,
        DType::BF16 => 0.04,
        DType::F16 => 4e-3,
        _ => 0.0,
    };
    a.dtype == b.dtype
        && a.shape == b.shape
        && a.to_f64()
            .iter()
            .zip(b.to_f64())
            .all(|(x, y)| *x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance * (1.0 + x.abs().max(y.abs())))
}

/// Plans, runs and compares with the interpreter.
pub fn check_with(graph: &Graph, config: &Config, given: &[Tensor]) -> Planned {
    optc_ir::verify(graph).expect("a valid graph");
    let planned = plan(graph, config);
    let wanted = interpret(graph, given).expect("interpreted");
    let mut changed = given.to_vec();
    let results = reference::run(&planned, &mut changed).unwrap_or_else(|f| panic!("{f:?}\n{}", text(&planned)));
    let mut results = results.into_iter();
    for (k, want) in wanted.iter().enumerate() {
        let have = match config.alias.iter().find(|a| a.0 == k) {
            Some(&(_, input)) => changed[input].clone(),
            None => results.next().expect("a result"),
        };
        assert!(close(&have, want), "output {k}: {have:?}\nwanted {want:?}\n{}", text(&planned));
    }
    for (k, tensor) in given.iter().enumerate() {
        if !config.alias.iter().any(|a| a.1 == k) {
            assert_eq!(tensor, &changed[k], "input {k} changed\n{}", text(&planned));
        }
    }
    planned
}

pub fn check(graph: &Graph) -> Planned {
    check_with(graph, &Config::default(), &inputs(graph))
}

pub fn text(planned: &Planned) -> String {
    let mut out = optc_plan::print(planned);
    for kernel in &planned.kernels {
        out.push_str(&optc_ir::text::print_kernel(&kernel.name, &kernel.kernel));
    }
    out
}

/// Instructions in all, kernels among them, and copies.
pub fn counts(planned: &Planned) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    planned.plan.walk(&mut |instr| {
        counts.0 += 1;
        counts.1 += usize::from(matches!(instr, Instr::Kernel { .. }));
        counts.2 += usize::from(matches!(instr, Instr::Copy { .. }));
    });
    counts
}
