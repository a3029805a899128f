//! Every scalar operation, compiled in a vector loop and as scalar code, against its meaning on f64.

mod common;

use common::{at, bind, load, read, run_compiled, write};
use optc_abi::{DType, Tensor};
use optc_ir::eval::eval_float;
use optc_ir::kernel::{Expr, Extent, Kernel, LoopKind, Stmt};
use optc_ir::scalar::{Class, ScalarOp, TABLE};

/// y = op(x...) over n elements.
fn kernel(op: ScalarOp, dtype: DType, n: usize, kind: LoopKind) -> Kernel {
    let arity = op.arity();
    let mut body: Vec<Stmt> = (0..arity).map(|i| bind(i, dtype, load(i, at(&[(0, 1)])))).collect();
    body.push(bind(arity, dtype, Expr::Map(op, (0..arity).collect())));
    body.push(Stmt::Store { buffer: arity, index: at(&[(0, 1)]), value: arity });
    let mut buffers = vec![read(dtype); arity];
    buffers.push(write(dtype));
    Kernel {
        buffers,
        axes: 1,
        values: arity + 1,
        body: vec![Stmt::For { axis: 0, extent: Extent::Const(n as i64), kind, body }],
        ..Kernel::default()
    }
}

fn samples() -> Vec<f64> {
    let mut x: Vec<f64> = vec![0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -3.0, 1e-40, 1e10, -1e10, 88.5, -103.0, 1e30, 0.999];
    x.extend([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
    x.extend((0..400).map(|i| (i as f64 - 200.0) * 0.0731));
    x.extend((0..200).map(|i| 10f64.powf((i as f64 - 100.0) * 0.35) * if i % 2 == 0 { 1.0 } else { -1.0 }));
    x.iter().map(|&v| f64::from(v as f32)).collect()
}

/// Error in units in the last place of the result's type.
fn error(dtype: DType, got: f64, exact: f64) -> f64 {
    let rounded = if dtype == DType::F32 { f64::from(exact as f32) } else { exact };
    if got == rounded || got.is_nan() && rounded.is_nan() {
        return 0.0;
    }
    let ulp = match dtype {
        DType::F32 => 2.0f64.powi(((rounded.abs() as f32).max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 150),
        _ => rounded.abs().max(f64::MIN_POSITIVE) * f64::EPSILON,
    };
    (got - exact).abs() / ulp
}

#[test]
fn every_float_operation_keeps_its_budget() {
    let x = samples();
    for row in TABLE.iter().filter(|r| matches!(r.class, Class::Float | Class::Number)) {
        for dtype in [DType::F32, DType::F64] {
            let mut columns: Vec<Vec<f64>> = Vec::new();
            for i in 0..row.arity as usize {
                columns.push(if i == 0 { x.clone() } else { (0..x.len()).map(|j| x[(j * (31 * i + 6) + 5 * i) % x.len()]).collect() });
            }
            let mut tensors: Vec<Tensor> = columns.iter().map(|c| Tensor::from_f64(dtype, &[c.len()], c)).collect();
            tensors.push(Tensor::zeros(dtype, &[x.len()]));
            let mut results = Vec::new();
            for kind in [LoopKind::Vector, LoopKind::Serial] {
                let mut t = tensors.clone();
                run_compiled(&kernel(row.op, dtype, x.len(), kind), &mut t, &[], 1).expect("runs");
                results.push(t.pop().expect("a result"));
            }
            assert!(common::same(&results[0], &results[1]), "{} of {dtype}: scalar and vector code differ", row.name);
            for j in 0..x.len() {
                let operands: Vec<f64> = columns.iter().map(|c| c[j]).collect();
                let (got, exact) = (results[0].get_f64(j), eval_float(row.op, &operands));
                // One rounding of an exact f64 fma is not always that of the f32 instruction.
                let budget = if row.op == ScalarOp::Fma { 0.51 } else { f64::from(row.ulp) };
                let e = error(dtype, got, exact);
                assert!(
                    e <= budget || dtype == DType::F64 && e <= 1.0,
                    "{}({operands:?}) of {dtype}: {got}, not {exact}: {e} ulp",
                    row.name
                );
            }
        }
    }
}
