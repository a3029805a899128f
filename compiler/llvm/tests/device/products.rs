//! Matrix products on the emulator against the runtime's, and as the assembler sees them.

use crate::common::{alone, as_recorded, assembled, memory, no_faults, on_host};
use crate::gpu;
use optc_abi::device::DeviceCode;
use optc_abi::plan::{BufRef, BufferDecl, Gemm, Instr, MatRef, Place, Plan, SlotDecl, Status, WRITTEN_ORIGIN, status};
use optc_abi::{DType, Tensor};
use optc_llvm::{Emulated, device_code, device_code_cut};

/// How a matrix lies: rows together, columns together, or neither; the last also begins at an odd element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    Rows,
    Columns,
    Apart,
}
use Lies::{Apart, Columns, Rows};

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: DType,
    m: usize,
    n: usize,
    k: usize,
    batch: [usize; 2],
    lie: [Lies; 3],
    accumulate: bool,
    symmetric: bool,
    gpu: &'static str,
    cut: Option<[i64; 3]>,
}

fn case(m: usize, n: usize, k: usize) -> Case {
    let lie = [Rows; 3];
    Case { dtype: DType::F32, m, n, k, batch: [1, 1], lie, accumulate: false, symmetric: false, gpu: "sm_90", cut: None }
}

/// A matrix of this shape with its problems in memory, and how many elements that takes. The first batch extent moves nothing where `shared`.
fn laid(buffer: usize, rows: usize, columns: usize, lies: Lies, batch: [usize; 2], size: i64, shared: bool) -> (MatRef, usize) {
    let (r, c) = (rows as i64, columns as i64);
    let (row, col, start, len) = match lies {
        Rows => (c, 1, 0, r * c),
        Columns => (1, r, 0, r * c),
        Apart => (2 * c + 3, 2, 1, r * (2 * c + 3) + 1),
    };
    let [outer, inner] = batch.map(|n| n as i64);
    let strides = if shared { vec![0, len] } else { vec![inner * len, len] };
    let data = BufRef { offset: start * size, ..BufRef::whole(buffer) };
    let whole = if shared { inner * len } else { outer * inner * len };
    (MatRef { data, row_stride: row, col_stride: col, batch_strides: strides }, (whole + start) as usize)
}

fn at(m: &MatRef, size: usize, b: [usize; 2], i: usize, j: usize) -> usize {
    let step = |n: usize, s: i64| n as i64 * s;
    let batch = step(b[0], m.batch_strides[0]) + step(b[1], m.batch_strides[1]);
    (m.data.offset / size as i64 + batch + step(i, m.row_stride) + step(j, m.col_stride)) as usize
}

fn plan_of(t: Case) -> (Plan, [usize; 3], Gemm) {
    let size = t.dtype.size() as i64;
    let (a, a_len) = laid(0, t.m, t.k, t.lie[0], t.batch, size, false);
    let (b, b_len) = if t.symmetric {
        // The transpose of the left operand.
        let turned = MatRef { row_stride: a.col_stride, col_stride: a.row_stride, ..a.clone() };
        (MatRef { data: BufRef { buffer: 1, ..turned.data.clone() }, ..turned }, a_len)
    } else {
        laid(1, t.k, t.n, t.lie[1], t.batch, size, true)
    };
    let (c, c_len) = laid(2, t.m, t.n, t.lie[2], t.batch, size, false);
    let gemm =
        Gemm { dtype: t.dtype, m: t.m, n: t.n, k: t.k, batch: t.batch.to_vec(), a, b, c, accumulate: t.accumulate, symmetric: t.symmetric };
    let lens = [a_len, b_len, c_len];
    let buffers = (0..3).map(|k| BufferDecl { dtype: t.dtype, len: lens[k], place: Place::Input(k) }).collect();
    let inputs = lens.iter().map(|&n| SlotDecl { name: String::new(), dtype: t.dtype, shape: vec![n], alias: None }).collect();
    (Plan { buffers, arena_bytes: 64, inputs, code: vec![Instr::Gemm(gemm.clone())], ..Plan::default() }, lens, gemm)
}

/// Small whole numbers, whose products and sums are exact in every order, or fractions.
fn numbers(len: usize, seed: usize, whole: bool) -> Vec<f64> {
    let number = |i: usize| {
        let n = (i * 2_654_435_761 + seed * 40_503) >> 5;
        if whole { (n % 7) as f64 - 3.0 } else { ((n % 4001) as f64 - 2000.0) / 1999.0 }
    };
    (0..len).map(number).collect()
}

fn check(t: Case) {
    let (plan, lens, g) = plan_of(t);
    let device = Emulated::like(&[], &plan, t.gpu, t.cut).expect("LLVM compiles");
    let work = device.code.gemms[0].as_ref().expect("there is an entry for every product");
    let size = t.dtype.size();
    let all = |f: &mut dyn FnMut([usize; 2], usize, usize)| {
        for o in 0..t.batch[0] {
            for z in 0..t.batch[1] {
                (0..t.m).for_each(|i| (0..t.n).for_each(|j| f([o, z], i, j)));
            }
        }
    };
    for whole in [true, false] {
        let mut inputs: Vec<Tensor> =
            lens.iter().enumerate().map(|(k, &n)| Tensor::from_f64(t.dtype, &[n], &numbers(n, k, whole))).collect();
        if t.symmetric {
            inputs[1] = inputs[0].clone();
            let old = inputs[2].to_f64();
            // What is added to is symmetric.
            all(&mut |b, i, j| inputs[2].set_f64(at(&g.c, size, b, j.max(i), j.min(i)), old[at(&g.c, size, b, j.min(i), j.max(i))]));
            let old = inputs[2].to_f64();
            all(&mut |b, i, j| inputs[2].set_f64(at(&g.c, size, b, i.min(j), i.max(j)), old[at(&g.c, size, b, i.max(j), i.min(j))]));
        }
        let host = on_host(&[], &plan, &inputs);
        let mut results = Vec::new();
        for _ in 0..2 {
            let got = inputs.clone();
            let start = |x: &Tensor, m: &MatRef| x.as_ptr().wrapping_offset(m.data.offset as isize);
            let buffers = [start(&got[0], &g.a), start(&got[1], &g.b), start(&got[2], &g.c)];
            let mut status = Status { code: status::WRITTEN, origin: WRITTEN_ORIGIN as i32, ..Status::default() };
            // SAFETY: the buffers of the plan's only product.
            unsafe { device.work(work, &buffers, &mut status, &memory(&got)) };
            no_faults(&format!("{t:?}"));
            results.push(got);
        }
        assert!(results[0][2].bytes() == results[1][2].bytes(), "{t:?}: two runs");
        let (got, want) = (results[0][2].to_f64(), host[2].to_f64());
        if whole {
            let wrong = (0..got.len()).find(|&n| got[n] != want[n]);
            assert!(wrong.is_none(), "{t:?}: whole numbers, element {wrong:?}");
            // The same by PTX.
            let code = device_code_in(&plan, t.gpu, t.cut);
            let buffers = [(0, g.a.data.offset), (1, g.b.data.offset), (2, g.c.data.offset)];
            let work = code.gemms[0].as_ref().expect("an entry");
            let ptx = gpu::work(&code, work, &inputs, &buffers);
            assert!(ptx[2] == results[0][2].bytes(), "{t:?}: PTX");
            continue;
        }
        // Sums of k terms err by less than sqrt(k) units of their size; a bf16 or f16 by half of its own.
        let (a, b, c) = (inputs[0].to_f64(), inputs[1].to_f64(), inputs[2].to_f64());
        let unit = if t.dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let mut touched = vec![false; got.len()];
        all(&mut |z, i, j| {
            let to = at(&g.c, size, z, i, j);
            touched[to] = true;
            let term = |p: usize| a[at(&g.a, size, z, i, p)] * b[at(&g.b, size, z, p, j)];
            let start = if t.accumulate { c[to] } else { 0.0 };
            let exact = start + (0..t.k).map(term).sum::<f64>();
            let large = start.abs() + (0..t.k).map(|p| term(p).abs()).sum::<f64>();
            // Halfway beyond the last bit of an f16 there are numbers that are too small for it.
            let least = if t.dtype == DType::F16 { 2f64.powi(-25) } else { 0.0 };
            let allowed = unit * large * (2.0 + (t.k as f64).sqrt()) / 2.0 + exact.abs() * rounding(t.dtype) + least;
            assert!((got[to] - exact).abs() <= allowed, "{t:?} at {z:?} {i} {j}: {} and {exact}", got[to]);
            assert!((want[to] - exact).abs() <= allowed, "the host's: {t:?} at {z:?} {i} {j}: {} and {exact}", want[to]);
            if t.symmetric {
                assert_eq!(got[to].to_bits(), got[at(&g.c, size, z, j, i)].to_bits(), "{t:?}: mirrored");
            }
        });
        // Nothing else is written.
        (0..got.len()).filter(|&n| !touched[n]).for_each(|n| assert_eq!(got[n], c[n], "{t:?}: element {n}"));
    }
}

/// Code with tiles of a certain size.
fn device_code_in(plan: &Plan, gpu: &str, cut: Option<[i64; 3]>) -> DeviceCode {
    match cut {
        None => device_code(&[], plan, gpu),
        Some(cut) => device_code_cut(&[], plan, gpu, cut),
    }
    .expect("LLVM makes PTX")
}

const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

/// Of what is rounded to the type, the part that it may be off.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    }
}

const LAYOUTS: [[Lies; 3]; 6] =
    [[Rows; 3], [Columns, Rows, Rows], [Rows, Columns, Columns], [Columns; 3], [Apart; 3], [Apart, Columns, Rows]];

#[test]
fn products_of_all_layouts_are_the_hosts() {
    let _alone = alone();
    for dtype in TYPES {
        for (n, &lie) in LAYOUTS.iter().enumerate() {
            check(Case { dtype, lie, ..case(33, 29, 40 + n) });
            check(Case { dtype, lie, accumulate: true, batch: [2, 3], ..case(17, 24, 16) });
        }
        check(Case { dtype, ..case(3, 5, 1) });
        check(Case { dtype, ..case(64, 64, 64) });
        check(Case { dtype, batch: [1, 0], ..case(3, 5, 2) });
    }
}

#[test]
fn tiles_of_every_size_and_sums_in_parts_are_the_hosts() {
    let _alone = alone();
    for dtype in TYPES {
        let sides: &[i64] = if dtype == DType::F64 { &[16, 32, 64] } else { &[16, 32, 64, 128] };
        for (n, &rows) in sides.iter().enumerate() {
            for &columns in sides.iter().filter(|&&c| c >= 32 || !matches!(dtype, DType::BF16 | DType::F16)) {
                let lie = LAYOUTS[n % LAYOUTS.len()];
                let parts = 1 + (n as i64 + columns / 16) % 3;
                let (m, width) = (rows as usize + 16, columns as usize + 8);
                check(Case { dtype, lie, cut: Some([rows, columns, parts]), accumulate: n % 2 == 1, ..case(m, width, 72) });
            }
        }
    }
    check(Case { cut: Some([128, 128, 1]), ..case(256, 128, 16) });
    check(Case { dtype: DType::BF16, cut: Some([128, 128, 1]), lie: [Rows, Columns, Rows], ..case(128, 256, 160) });
    check(Case { dtype: DType::BF16, gpu: "sm_75", cut: Some([64, 64, 2]), ..case(70, 66, 50) });
    check(Case { dtype: DType::F16, gpu: "sm_75", cut: Some([64, 64, 2]), ..case(70, 66, 50) });
    check(Case { gpu: "sm_70", cut: Some([32, 64, 2]), lie: [Columns, Columns, Rows], ..case(70, 66, 50) });
}

#[test]
fn symmetric_products_are_mirrored() {
    let _alone = alone();
    for dtype in TYPES {
        for (cut, lie) in [(None, [Rows; 3]), (Some([32, 32, 1]), [Columns; 3]), (Some([32, 64, 3]), [Rows, Rows, Apart])] {
            check(Case { dtype, cut, lie, symmetric: true, ..case(70, 70, 33) });
            check(Case { dtype, cut, lie, symmetric: true, accumulate: true, batch: [1, 2], ..case(40, 40, 50) });
        }
    }
}

#[test]
fn rows_and_columns_are_the_hosts() {
    let _alone = alone();
    for dtype in TYPES {
        for &lie in &LAYOUTS {
            check(Case { dtype, lie, ..case(1, 70, 100) });
            check(Case { dtype, lie, accumulate: true, ..case(45, 1, 64) });
            check(Case { dtype, lie, batch: [2, 2], ..case(1, 1, 1030) });
        }
        check(Case { dtype, ..case(3, 1, 5000) });
        check(Case { dtype, lie: [Columns, Rows, Rows], ..case(40, 1, 1000) });
    }
}

/// Tiles, registers and spills of products as they are in models, for the record.
#[test]
fn products_spill_nothing() {
    let shapes = [
        ("square", Case { ..case(4096, 4096, 4096) }),
        ("square, transposed", Case { lie: [Columns, Columns, Rows], ..case(4096, 4096, 4096) }),
        ("linear layer", Case { ..case(2048, 384, 128) }),
        ("gradient of a weight", Case { lie: [Columns, Rows, Rows], ..case(128, 384, 2048) }),
        ("attention", Case { lie: [Rows, Columns, Rows], batch: [16, 4], ..case(128, 128, 32) }),
        ("classifier", Case { ..case(64, 10, 128) }),
        ("row", Case { ..case(1, 4096, 4096) }),
        ("column", Case { ..case(4096, 1, 4096) }),
        ("any strides", Case { lie: [Apart; 3], ..case(512, 512, 512) }),
        ("symmetric", Case { symmetric: true, ..case(1024, 1024, 1024) }),
    ];
    let (mut report, mut wrong) = (String::new(), Vec::new());
    for dtype in TYPES {
        for (name, t) in &shapes {
            let (plan, _, _) = plan_of(Case { dtype, ..*t });
            for gpu in ["sm_80", "sm_90"] {
                let code = device_code(&[], &plan, gpu).expect("LLVM makes PTX");
                let work = code.gemms[0].as_ref().expect("an entry");
                let Some(said) = assembled(&code.text, gpu) else { return };
                for launch in &work.launches {
                    let entry = said.iter().find(|e| e.name == launch.entry).expect("the entry is assembled");
                    let blocks = launch.blocks[0];
                    report.push_str(&format!(
                        "{dtype} {name}, {gpu}: {} of {} threads, {} registers, {} bytes spilled, {} bytes shared\n",
                        blocks,
                        launch.threads,
                        entry.registers,
                        entry.spilled,
                        entry.shared + launch.shared
                    ));
                    // Two blocks of 256 threads find room.
                    if entry.spilled > 0 || entry.registers > 128 {
                        wrong.push(format!("{dtype} {name}, {gpu}: {entry:?}"));
                    }
                }
            }
        }
    }
    if as_recorded() {
        insta::assert_snapshot!(report);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
