//! What kernels do with inputs that live in files: which bytes a pass touches; and rings of kernels that wait for each other.

mod common;

use common::{O, check_with, input, inputs, map, with};
use optc_abi::DType;
use optc_abi::offload::Reach;
use optc_abi::plan::Instr;
use optc_ir::graph::ReduceOp;
use optc_ir::{Graph, ScalarOp, Ty};
use optc_plan::{Config, plan};

/// Elements of a pass of an elementwise kernel.
const PASS: i64 = 4 * (1 << 14);

#[test]
fn an_update_streams_and_a_gather_maps() {
    let mut g = Graph::new();
    let w = input(&mut g, &[40_000]);
    let m = input(&mut g, &[40_000]);
    let table = input(&mut g, &[5_000, 8]);
    let ids = g.input("ids", Ty::new(DType::I32, [3]), O);
    let half = with(&mut g, ScalarOp::Mul, m, 0.5);
    let new = map(&mut g, ScalarOp::Add, &[half, w]);
    let rows = g.gather(table, ids, 0, O);
    let total = g.reduce(ReduceOp::Sum, rows, &[0, 1], O);
    g.outputs = vec![new, total];
    let planned = plan(&g, &Config { alias: vec![(0, 1)], offload: vec![0, 1, 2], ..Config::default() });
    let touch = |k: usize| planned.plan.offload.iter().find(|t| t.calls.iter().flatten().any(|r| r.input == k));
    let update = touch(1).expect("the update streams");
    assert!(matches!(planned.plan.code[update.position], Instr::Kernel { .. }));
    // Two whole passes in one call, what is left of the array in another.
    let reach = |input, writes, first, last| Reach { input, writes, first, last, step: PASS };
    assert_eq!(update.calls[0], [reach(0, false, 0, PASS), reach(1, true, 0, PASS)]);
    let rest = (2 * PASS, 4 * 40_000);
    assert_eq!(update.calls[1], [reach(0, false, rest.0, rest.1), reach(1, true, rest.0, rest.1)]);
    assert!(touch(2).is_none());
    let maps: Vec<_> = planned.plan.offload.iter().flat_map(|t| &t.anywhere).copied().collect();
    assert_eq!(maps, [(2, false)]);
}

/// A small result that overwrites an input and is made by the kernel that also makes the guarded scalar cannot be in place; the large updates stay so.
#[test]
fn one_claim_of_a_ring_is_given_up_and_no_other() {
    let mut g = Graph::new();
    let large = input(&mut g, &[40_000]);
    let small = input(&mut g, &[4]);
    let total = g.reduce(ReduceOp::Sum, small, &[0], O);
    let less = with(&mut g, ScalarOp::Mul, small, 0.5);
    let spread = g.broadcast_to(total, &[40_000], O);
    let next = map(&mut g, ScalarOp::Sub, &[large, spread]);
    g.outputs = vec![next, less, total];
    let config = Config { alias: vec![(0, 0), (1, 1)], guards: vec![2], ..Config::default() };
    let planned = check_with(&g, &config, &inputs(&g));
    let copies: Vec<usize> =
        planned.plan.code.iter().filter_map(|i| if let Instr::Copy { bytes, .. } = i { Some(*bytes) } else { None }).collect();
    assert!(copies.iter().all(|bytes| *bytes == 16), "{copies:?}");
}
