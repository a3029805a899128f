//! Attention whose threads do not wait where they should: each wait is taken out in turn, and the emulator says what is wrong, or the result does.

use crate::device::Emulated;
use crate::emulator::observe;
use crate::mutants::{ORDERS, waits};
use optc_abi::plan::{Attention, AttentionKind, BufRef, BufferDecl, Instr, LibOp, Place, Plan, Status, Strides};
use optc_abi::{DType, Tensor};

fn plan(dtype: DType, kind: AttentionKind, queries: usize, keys: usize, width: usize) -> Plan {
    let attention = Attention {
        kind,
        batch: vec![1],
        queries,
        keys,
        width,
        out_width: width,
        scale: 0.5.into(),
        causal: None,
        mask: false,
        bias: false,
        hidden: f64::NEG_INFINITY.into(),
    };
    let shapes: Vec<_> = attention.operands(dtype).into_iter().chain(attention.results(dtype)).collect();
    let dense = |shape: &[usize]| Strides { row: shape[1] as i64, column: 1, batch: vec![(shape[0] * shape[1]) as i64] };
    let strides = shapes.iter().map(|(shape, _)| dense(shape)).collect();
    let decl =
        |(n, (shape, ty)): (usize, &(Vec<usize>, DType))| BufferDecl { dtype: *ty, len: shape.iter().product(), place: Place::Input(n) };
    let buffers = shapes.iter().enumerate().map(decl).collect();
    let call = Instr::Lib { op: LibOp::Attention { attention, strides }, dtype, buffers: (0..shapes.len()).map(BufRef::whole).collect() };
    Plan { buffers, code: vec![call], ..Plan::default() }
}

#[test]
fn every_wait_of_attention_is_missed() {
    use AttentionKind::{Backward, Forward};
    // Copies of 16 bytes, registers on their way, matrices of bf16; more than one tile, so that the next one is under way.
    for (dtype, kind, gpu, cut) in [
        (DType::F32, Forward, "sm_80", [16, 16, 1]),
        (DType::F32, Backward, "sm_80", [16, 16, 1]),
        (DType::F32, Forward, "sm_70", [16, 16, 1]),
        (DType::BF16, Forward, "sm_80", [32, 16, 1]),
        (DType::BF16, Backward, "sm_80", [32, 16, 1]),
    ] {
        let plan = plan(dtype, kind, 40, 50, 8);
        let start: Vec<Tensor> = plan
            .buffers
            .iter()
            .enumerate()
            .map(|(n, b)| {
                let values: Vec<f64> = (0..b.len).map(|i| ((i * 37 + n) % 7) as f64 / 4.0 - 0.75).collect();
                Tensor::from_f64(b.dtype, &[b.len], &values)
            })
            .collect();
        let run = |device: &Emulated, order| {
            let got = start.to_vec();
            let buffers: Vec<*mut u8> = got.iter().map(Tensor::as_ptr).collect();
            let work = device.code.libs[0].as_ref().expect("an entry");
            // SAFETY: the arrays of the plan's only call.
            let faults = observe(order, || unsafe { device.work(work, &buffers, &mut Status::default(), &[]) });
            (faults, got.iter().map(|t| t.bytes().to_vec()).collect::<Vec<_>>())
        };
        let mut count = 0;
        let whole = Emulated::changed(&[], &plan, gpu, Some(cut), |module| count = waits(module).len()).expect("compiles");
        let (faults, want) = run(&whole, ORDERS[0]);
        assert_eq!(faults, []);
        for order in ORDERS {
            assert!(run(&whole, order) == (Vec::new(), want.clone()), "{dtype} {kind:?}: another order of threads");
        }
        assert!(count > 0, "{dtype} {kind:?} waits");
        for without in 0..count {
            let change = |module: &inkwell::module::Module<'_>| {
                waits(module)[without].erase_from_basic_block();
            };
            let device = Emulated::changed(&[], &plan, gpu, Some(cut), change).expect("compiles");
            let noticed = ORDERS.iter().any(|&order| {
                let (faults, got) = run(&device, order);
                !faults.is_empty() || got != want
            });
            assert!(noticed, "{dtype} {kind:?} on {gpu}: nobody misses wait {without} of {count}");
        }
    }
}
