//! Library calls on the emulator against the runtime's.

use crate::common::{alone, assembled, memory, no_faults, on_host};
use crate::gpu;
use optc_abi::plan::{BufRef, BufferDecl, Instr, LibOp, Place, Plan, SlotDecl, Status};
use optc_abi::{DType, Tensor};
use optc_llvm::{Emulated, device_code};

fn plan_of(op: LibOp, dtype: DType, tensors: &[Tensor]) -> Plan {
    let decl = |(k, t): (usize, &Tensor)| BufferDecl { dtype: t.dtype, len: t.len(), place: Place::Input(k) };
    let slot = |t: &Tensor| SlotDecl { name: String::new(), dtype: t.dtype, shape: t.shape.clone(), alias: None };
    Plan {
        buffers: tensors.iter().enumerate().map(decl).collect(),
        arena_bytes: 64,
        inputs: tensors.iter().map(slot).collect(),
        code: vec![Instr::Lib { op, dtype, buffers: (0..tensors.len()).map(BufRef::whole).collect() }],
        ..Plan::default()
    }
}

/// The same bits as on the host.
fn check(op: LibOp, dtype: DType, tensors: &[Tensor]) {
    let plan = plan_of(op.clone(), dtype, tensors);
    let device = Emulated::new(&[], &plan).expect("LLVM compiles");
    let work = device.code.libs[0].as_ref().expect("an entry");
    let got = tensors.to_vec();
    let buffers: Vec<*mut u8> = got.iter().map(Tensor::as_ptr).collect();
    // SAFETY: the buffers of the plan's only call.
    unsafe { device.work(work, &buffers, &mut Status::default(), &memory(&got)) };
    no_faults(&format!("{op:?}"));
    let want = on_host(&[], &plan, tensors);
    for (n, (x, y)) in got.iter().zip(&want).enumerate() {
        assert!(x.bytes() == y.bytes(), "{op:?} of {dtype}: array {n}");
    }
    let code = device_code(&[], &plan, "sm_80").expect("LLVM makes PTX");
    let places: Vec<(usize, i64)> = (0..tensors.len()).map(|n| (n, 0)).collect();
    let ptx = gpu::work(&code, code.libs[0].as_ref().expect("an entry"), tensors, &places);
    assert!(ptx.iter().zip(&want).all(|(x, y)| x == y.bytes()), "{op:?} of {dtype}: PTX");
}

#[test]
fn calls_spill_nothing() {
    let tensors = |n: usize, dtype| [Tensor::zeros(dtype, &[2, n]), Tensor::zeros(DType::I32, &[2, n])];
    let sort = |n, dtype| (LibOp::ArgSort { rows: 2, n, descending: true }, dtype, tensors(n, dtype));
    let key = Tensor::zeros(DType::U32, &[2]);
    let draw = (LibOp::RandomBits { start: 3, len: 1000, skips: false }, DType::U32, [key, Tensor::zeros(DType::U32, &[1000])]);
    for (op, dtype, tensors) in [sort(300, DType::F32), sort(9000, DType::BF16), sort(9000, DType::F64), draw] {
        let plan = plan_of(op.clone(), dtype, &tensors);
        for gpu in ["sm_80", "sm_90"] {
            let code = device_code(&[], &plan, gpu).expect("LLVM makes PTX");
            for entry in assembled(&code.text, gpu).unwrap_or_default() {
                assert!(entry.spilled == 0 && entry.registers <= 64, "{op:?}: {entry:?}");
            }
        }
    }
}

#[test]
fn random_words_are_those_of_the_generator() {
    let _alone = alone();
    let key = Tensor::from_slice(&[2], &[0xDEAD_BEEFu32, 17]);
    for (start, len) in [(0, 1), (0, 4096), (3, 2), (5, 1003), ((1 << 34) - 6, 700), (2, 300_000)] {
        check(LibOp::RandomBits { start, len, skips: false }, DType::U32, &[key.clone(), Tensor::zeros(DType::U32, &[len])]);
    }
    for (skipped, start, len) in [(0u32, 0, 1), (u32::MAX, 3, 1001), (6, 4, 4096), (13, 0, 300)] {
        let number = Tensor::from_slice(&[1], &[skipped]);
        check(LibOp::RandomBits { start, len, skips: true }, DType::U32, &[key.clone(), number, Tensor::zeros(DType::U32, &[len])]);
    }
    let result = Tensor::zeros(DType::U32, &[2]);
    check(LibOp::RandomFold { place: 9, number: Some(u32::MAX) }, DType::U32, &[key.clone(), result.clone()]);
    let number = Tensor::from_slice(&[1], &[123_456u32]);
    check(LibOp::RandomFold { place: u32::MAX, number: None }, DType::U32, &[key, number, result]);
}

#[test]
fn rows_are_sorted_as_on_the_host() {
    let _alone = alone();
    for dtype in DType::ALL {
        for (rows, n) in [(1, 1), (3, 2), (5, 37), (2, 300)] {
            for descending in [false, true] {
                sorted(dtype, rows, n, descending);
            }
        }
    }
}

#[test]
fn long_rows_are_sorted_in_chunks() {
    let _alone = alone();
    sorted(DType::F32, 1, 2048, false);
    sorted(DType::F32, 2, 2049, true);
    sorted(DType::F64, 1, 9000, false);
    sorted(DType::I32, 1, 5000, true);
}

fn sorted(dtype: DType, rows: usize, n: usize, descending: bool) {
    let special = [f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN];
    let value = |i: usize| {
        let x = (i * 2_654_435_761) >> 7;
        // Many ties.
        if dtype.is_float() && x.is_multiple_of(11) {
            special[x / 11 % 6]
        } else {
            (x % 61) as f64 - if dtype == DType::U8 { 0.0 } else { 30.0 }
        }
    };
    let values: Vec<f64> = (0..rows * n).map(value).collect();
    let x = Tensor::from_f64(dtype, &[rows, n], &values);
    check(LibOp::ArgSort { rows, n, descending }, dtype, &[x, Tensor::zeros(DType::I32, &[rows, n])]);
}
