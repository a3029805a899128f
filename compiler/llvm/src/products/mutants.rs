//! Products whose threads do not wait where they should: each wait is taken out in turn, and the emulator says what is wrong, or the result does.

use crate::device::Emulated;
use crate::emulator::observe;
use crate::mutants::{ORDERS, waits};
use optc_abi::plan::{BufRef, BufferDecl, Gemm, Instr, MatRef, Place, Plan, Status};
use optc_abi::{DType, Tensor};

fn plan(dtype: DType, m: usize, n: usize, k: usize) -> Plan {
    let matrix = |buffer, columns: usize| MatRef {
        data: BufRef::whole(buffer),
        row_stride: columns as i64,
        col_stride: 1,
        batch_strides: Vec::new(),
    };
    let gemm =
        Gemm { dtype, m, n, k, batch: Vec::new(), a: matrix(0, k), b: matrix(1, n), c: matrix(2, n), accumulate: false, symmetric: false };
    let buffers = [m * k, k * n, m * n].into_iter().enumerate().map(|(b, len)| BufferDecl { dtype, len, place: Place::Input(b) }).collect();
    Plan { buffers, code: vec![Instr::Gemm(gemm)], ..Plan::default() }
}

#[test]
fn every_wait_of_a_product_is_missed() {
    // Copies of 16 bytes and of words, registers, matrices of bf16, sums by blocks and by lanes.
    for (dtype, m, n, k, gpu, cut) in [
        (DType::F32, 32, 32, 96, "sm_80", Some([32, 32, 1])),
        (DType::F32, 20, 20, 50, "sm_70", Some([16, 16, 1])),
        (DType::BF16, 32, 32, 256, "sm_80", Some([32, 32, 1])),
        (DType::BF16, 30, 31, 70, "sm_80", Some([32, 32, 1])),
        (DType::F32, 3, 1, 5000, "sm_80", None),
        (DType::F32, 1, 40, 300, "sm_80", None),
    ] {
        let plan = plan(dtype, m, n, k);
        let tensor = |len: usize, seed: usize| {
            let values: Vec<f64> = (0..len).map(|i| ((i * 37 + seed) % 7) as f64 - 3.0).collect();
            Tensor::from_f64(dtype, &[len], &values)
        };
        let start = [tensor(m * k, 1), tensor(k * n, 2), Tensor::zeros(dtype, &[m * n])];
        let run = |device: &Emulated, order| {
            let got = start.to_vec();
            let buffers: Vec<*mut u8> = got.iter().map(Tensor::as_ptr).collect();
            let work = device.code.gemms[0].as_ref().expect("an entry");
            // SAFETY: the arrays of the plan's product.
            let faults = observe(order, || unsafe { device.work(work, &buffers, &mut Status::default(), &[]) });
            (faults, got[2].clone())
        };
        let mut count = 0;
        let whole = Emulated::changed(&[], &plan, gpu, cut, |module| count = waits(module).len()).expect("compiles");
        let (faults, want) = run(&whole, ORDERS[0]);
        assert_eq!(faults, []);
        assert!(count > 0, "{dtype} {m} x {n} x {k} waits");
        for without in 0..count {
            let change = |module: &inkwell::module::Module<'_>| {
                waits(module)[without].erase_from_basic_block();
            };
            let device = Emulated::changed(&[], &plan, gpu, cut, change).expect("compiles");
            let noticed = ORDERS.iter().any(|&order| {
                let (faults, got) = run(&device, order);
                !faults.is_empty() || got.bytes() != want.bytes()
            });
            assert!(noticed, "{dtype} {m} x {n} x {k} on {gpu}: nobody misses wait {without} of {count}");
        }
    }
}
