//! Attention and its derivatives on the emulator, by PTX and on the host against sums in f64, and as the assembler sees them.

use crate::common::{alone, as_recorded, assembled, memory, no_faults, on_host};
use crate::gpu;
use optc_abi::plan::{Attention, AttentionKind, BufRef, BufferDecl, Instr, LibOp, Place, Plan, SlotDecl, Status, Strides};
use optc_abi::{DType, Tensor};
use optc_ir::interp::attention;
use optc_llvm::{Cache, DeviceConfig, Emulated, device_code, device_code_cut, device_code_for};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// How an array of batch (two extents), rows and columns lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// In that order.
    Plain,
    /// The second extent of the batch behind rows, as heads are.
    Heads,
    /// Columns before rows.
    Turned,
    /// Every second element, from an odd one on.
    Apart,
    /// The same for all of the batch.
    Shared,
}
use Lies::{Apart, Heads, Plain, Shared, Turned};

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: DType,
    queries: usize,
    keys: usize,
    width: usize,
    out_width: usize,
    batch: [usize; 2],
    causal: Option<i64>,
    /// How a mask lies, if there is one.
    mask: Option<Lies>,
    bias: Option<Lies>,
    hidden: f64,
    lies: Lies,
    gpu: &'static str,
    cut: Option<[i64; 3]>,
}

fn case(queries: usize, keys: usize, width: usize) -> Case {
    let (dtype, hidden) = (DType::F32, f64::NEG_INFINITY);
    let (causal, mask, bias) = (None, None, None);
    Case { dtype, queries, keys, width, out_width: width, batch: [1, 2], causal, mask, bias, hidden, lies: Plain, gpu: "sm_90", cut: None }
}

/// Strides, the first element, and how many elements there are in memory.
fn laid(lies: Lies, [outer, inner]: [usize; 2], rows: usize, columns: usize) -> (Strides, i64, usize) {
    let [o, n, r, c] = [outer, inner, rows, columns].map(|n| n as i64);
    let (row, column, batch, first) = match lies {
        Plain => (c, 1, [n * r * c, r * c], 0),
        Heads => (n * c, 1, [r * n * c, c], 0),
        Turned => (1, r, [n * r * c, r * c], 0),
        Apart => (2 * c + 3, 2, [n * r * (2 * c + 3), r * (2 * c + 3)], 1),
        Shared => (c, 1, [0, 0], 0),
    };
    let strides = Strides { row, column, batch: batch.to_vec() };
    let len = strides.reach(&[outer, inner], rows, columns) as i64 + first;
    debug_assert!(o >= 0);
    (strides, first, len as usize)
}

struct Made {
    plan: Plan,
    what: Attention,
    lens: Vec<usize>,
    strides: Vec<Strides>,
    first: Vec<i64>,
    shapes: Vec<(Vec<usize>, DType)>,
    operands: usize,
}

fn plan_of(t: Case, kind: AttentionKind) -> Made {
    let what = Attention {
        kind,
        batch: t.batch.to_vec(),
        queries: t.queries,
        keys: t.keys,
        width: t.width,
        out_width: t.out_width,
        scale: (1.0 / (t.width as f64).sqrt()).into(),
        causal: t.causal,
        mask: t.mask.is_some(),
        bias: t.bias.is_some(),
        hidden: t.hidden.into(),
    };
    let operands = what.operands(t.dtype);
    let count = operands.len();
    let shapes: Vec<_> = operands.into_iter().chain(what.results(t.dtype)).collect();
    let mask = t.mask.map(|_| 3);
    let bias = t.bias.map(|_| 3 + usize::from(t.mask.is_some()));
    let (mut strides, mut first, mut lens) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (shape, ty)) in shapes.iter().enumerate() {
        let lies = match n {
            _ if Some(n) == mask => t.mask.expect("there is one"),
            _ if Some(n) == bias => t.bias.expect("there is one"),
            _ if shape[1] == 2 && *ty == Attention::sums(t.dtype) && shape[0] == t.queries => Plain,
            // Keys turned where the others lie as heads, so that operands differ.
            1 if t.lies == Apart => Turned,
            _ => t.lies,
        };
        let (s, f, len) = laid(lies, t.batch, shape[0], shape[1]);
        strides.push(s);
        first.push(f);
        lens.push(len);
    }
    let decl = |n: usize| BufferDecl { dtype: shapes[n].1, len: lens[n], place: Place::Input(n) };
    let slot = |n: usize| SlotDecl { name: String::new(), dtype: shapes[n].1, shape: vec![lens[n]], alias: None };
    let buffers = (0..shapes.len()).map(|n| BufRef { offset: first[n] * shapes[n].1.size() as i64, ..BufRef::whole(n) }).collect();
    let op = LibOp::Attention { attention: what.clone(), strides: strides.clone() };
    let plan = Plan {
        buffers: (0..shapes.len()).map(decl).collect(),
        arena_bytes: 64,
        inputs: (0..shapes.len()).map(slot).collect(),
        code: vec![Instr::Lib { op, dtype: t.dtype, buffers }],
        ..Plan::default()
    };
    Made { plan, what, lens, strides, first, shapes, operands: count }
}

fn numbers(len: usize, seed: usize) -> Vec<f64> {
    (0..len).map(|i| (((i * 2_654_435_761 + seed * 40_503) >> 5) % 4001) as f64 / 1000.0 - 2.0).collect()
}

impl Made {
    /// Where each element of array `n` lies, in the order of batch, rows and columns.
    fn places(&self, n: usize) -> Vec<usize> {
        let (shape, s) = (&self.shapes[n].0, &self.strides[n]);
        let problems: usize = self.what.batch.iter().product();
        let place = |p: usize, i: usize, j: usize| self.first[n] + s.of_batch(&self.what.batch, p) + i as i64 * s.row + j as i64 * s.column;
        (0..problems)
            .flat_map(|p| (0..shape[0]).flat_map(move |i| (0..shape[1]).map(move |j| (p, i, j))))
            .map(|(p, i, j)| place(p, i, j) as usize)
            .collect()
    }

    /// Array `n` in that order, as f64 where it is of floats.
    fn dense(&self, n: usize, memory: &Tensor) -> Tensor {
        let values = memory.to_f64();
        let (shape, ty) = &self.shapes[n];
        let whole: Vec<usize> = self.what.batch.iter().chain(shape).copied().collect();
        let dtype = if ty.is_float() { DType::F64 } else { *ty };
        Tensor::from_f64(dtype, &whole, &self.places(n).iter().map(|&p| values[p]).collect::<Vec<_>>())
    }

    /// What memory of array `n` holds if it is to be this.
    fn scattered(&self, n: usize, dense: &Tensor) -> Tensor {
        let mut memory = Tensor::zeros(self.shapes[n].1, &[self.lens[n]]);
        self.places(n).into_iter().zip(dense.to_f64()).for_each(|(p, x)| memory.set_f64(p, x));
        memory
    }

    fn given(&self) -> Vec<Tensor> {
        let one = |n: usize| {
            let ty = self.shapes[n].1;
            let values = numbers(self.lens[n], n);
            let values = if ty == DType::Bool { values.iter().map(|&x| f64::from(x > -1.0)).collect() } else { values };
            Tensor::from_f64(ty, &[self.lens[n]], &values)
        };
        (0..self.shapes.len()).map(one).collect()
    }
}

/// How far a result may be from the exact one, against the largest element of it.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        DType::BF16 => 2e-2,
        _ => 1e-5,
    }
}

#[track_caller]
fn agrees(what: &str, dtype: DType, got: &[f64], want: &[f64]) {
    // Where all that is added up cancels, it is numbers of about 1 that do.
    let large = want.iter().filter(|x| x.is_finite()).fold(0.1f64, |m, x| m.max(x.abs()));
    for (n, (x, y)) in got.iter().zip(want).enumerate() {
        // One over no exponentials at all may be infinite.
        let same = x == y || (!x.is_finite() && y.is_nan()) || (x - y).abs() <= tolerance(dtype) * large;
        assert!(same, "{what}: element {n} of {}: {x} and {y}, the largest {large}", want.len());
    }
}

fn run(t: Case, m: &Made, inputs: &[Tensor], want: &[Tensor]) {
    let name = format!("{t:?}");
    let device = Emulated::like(&[], &m.plan, t.gpu, t.cut).expect("LLVM compiles");
    let work = device.code.libs[0].as_ref().unwrap_or_else(|| panic!("{name}: no entry"));
    let mut results = Vec::new();
    for _ in 0..2 {
        let got = inputs.to_vec();
        let start = |n: usize| got[n].as_ptr().wrapping_offset((m.first[n] * m.shapes[n].1.size() as i64) as isize);
        let buffers: Vec<*mut u8> = (0..got.len()).map(start).collect();
        // SAFETY: the buffers of the plan's only call.
        unsafe { device.work(work, &buffers, &mut Status::default(), &memory(&got)) };
        no_faults(&name);
        results.push(got);
    }
    let host = on_host(&[], &m.plan, inputs);
    for (n, want) in (m.operands..m.shapes.len()).zip(want) {
        assert!(results[0][n].bytes() == results[1][n].bytes(), "{name}: two runs");
        let want = want.to_f64();
        agrees(&format!("{name}, result {n}"), t.dtype, &m.dense(n, &results[0][n]).to_f64(), &want);
        agrees(&format!("{name}, result {n}, the host's"), t.dtype, &m.dense(n, &host[n]).to_f64(), &want);
        // Nothing else is written.
        let mine: std::collections::HashSet<usize> = m.places(n).into_iter().collect();
        let (before, after) = (inputs[n].to_f64(), results[0][n].to_f64());
        (0..after.len()).filter(|p| !mine.contains(p)).for_each(|p| assert!(before[p] == after[p], "{name}: element {p} of memory"));
    }
    let code = match t.cut {
        None => device_code(&[], &m.plan, t.gpu),
        Some(cut) => device_code_cut(&[], &m.plan, t.gpu, cut),
    }
    .expect("LLVM makes PTX");
    let places: Vec<(usize, i64)> = (0..inputs.len()).map(|n| (n, m.first[n] * m.shapes[n].1.size() as i64)).collect();
    let ptx = gpu::work(&code, code.libs[0].as_ref().expect("an entry"), inputs, &places);
    for n in m.operands..m.shapes.len() {
        let mut memory = inputs[n].clone();
        memory.bytes_mut().copy_from_slice(&ptx[n]);
        let emulated = m.dense(n, &results[0][n]).to_f64();
        agrees(&format!("{name}, result {n}, PTX"), t.dtype, &m.dense(n, &memory).to_f64(), &emulated);
    }
}

/// Both passes of a case. The backward one is given what the exact forward one gives.
fn check(t: Case) {
    let forward = plan_of(t, AttentionKind::Forward);
    let inputs = forward.given();
    let dense: Vec<Tensor> = (0..forward.operands).map(|n| forward.dense(n, &inputs[n])).collect();
    let want = attention(&forward.what, &dense.iter().collect::<Vec<_>>());
    run(t, &forward, &inputs, &want);
    let backward = plan_of(t, AttentionKind::Backward);
    let mut inputs = backward.given();
    inputs[..forward.operands].clone_from_slice(&forward.given()[..forward.operands]);
    for (n, exact) in want.iter().enumerate() {
        inputs[forward.operands + n] = backward.scattered(forward.operands + n, exact);
    }
    let dense: Vec<Tensor> = (0..backward.operands).map(|n| backward.dense(n, &inputs[n])).collect();
    let want = attention(&backward.what, &dense.iter().collect::<Vec<_>>());
    run(t, &backward, &inputs, &want);
}

#[test]
fn lengths_and_widths_of_all_kinds() {
    let _alone = alone();
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        for (n, &(queries, keys)) in [(1, 1), (7, 7), (33, 33), (65, 65), (130, 130), (7, 40), (66, 19)].iter().enumerate() {
            if dtype == DType::F64 && n % 3 != 0 {
                continue;
            }
            let width = [8, 16, 24, 32, 5, 64, 40][n];
            let causal = (n % 2 == 1).then_some(keys as i64 - queries as i64);
            let lies = [Plain, Heads, Turned, Heads, Apart, Plain, Heads][n];
            check(Case { dtype, causal, lies, ..case(queries, keys, width) });
        }
    }
    check(Case { out_width: 48, causal: Some(0), ..case(40, 40, 128) });
    check(Case { dtype: DType::BF16, out_width: 128, lies: Heads, ..case(70, 40, 64) });
    check(Case { dtype: DType::F64, out_width: 8, ..case(20, 40, 64) });
}

#[test]
fn masks_and_what_is_added() {
    let _alone = alone();
    for dtype in [DType::F32, DType::BF16] {
        check(Case { dtype, mask: Some(Plain), ..case(33, 50, 16) });
        check(Case { dtype, mask: Some(Shared), bias: Some(Shared), causal: Some(0), lies: Heads, ..case(40, 40, 8) });
        check(Case { dtype, bias: Some(Apart), ..case(20, 70, 24) });
        // A number that is not infinite, and queries that see nothing and so everything.
        check(Case { dtype, causal: Some(-5), hidden: -1e4, ..case(36, 36, 16) });
        // Some see nothing, and are not numbers.
        check(Case { dtype, causal: Some(-3), ..case(20, 20, 16) });
        // Keys that nobody sees.
        check(Case { dtype, causal: Some(2), ..case(9, 90, 16) });
    }
}

#[test]
fn tiles_of_every_size() {
    let _alone = alone();
    for (n, &rows) in [16, 32, 64].iter().enumerate() {
        for columns in [16, 32, 64] {
            let t = Case { cut: Some([rows, columns, 1]), causal: (n == 1).then_some(10), ..case(rows as usize + 20, 90, 32) };
            check(if n == 1 && columns > 16 { Case { dtype: DType::F64, width: 24, out_width: 24, ..t } } else { t });
            check(Case { dtype: DType::BF16, ..t });
        }
    }
    check(Case { gpu: "sm_70", causal: Some(0), ..case(40, 40, 16) });
    check(Case { gpu: "sm_75", dtype: DType::BF16, lies: Heads, ..case(30, 40, 24) });
}

/// The GPU at hand may have less shared memory than the one that code is named after.
#[test]
fn tiles_fit_the_shared_memory_at_hand() {
    let t = Case { causal: Some(0), batch: [4, 12], ..case(2048, 2048, 128) };
    for kind in [AttentionKind::Forward, AttentionKind::Backward] {
        let m = plan_of(t, kind);
        let most = |shared: Option<u32>| {
            let config = DeviceConfig { gpu: "sm_90", shared, cache: None };
            let (code, _) = device_code_for(&[], &m.plan, &config).expect("LLVM makes PTX");
            code.libs[0].as_ref().expect("an entry").launches.iter().map(|l| l.shared).max().expect("launches")
        };
        let (whole, less) = (most(None), most(Some(99 << 10)));
        assert!(whole > 99 << 10 && less <= 99 << 10, "{whole} and {less}");
        // More than the name's is no more.
        assert_eq!(most(Some(1 << 20)), whole);
    }
}

/// Code is found again for the same plan, GPU and shared memory, and only then.
#[test]
fn code_for_a_gpu_is_made_once() {
    let cache: Arc<Kept> = Arc::default();
    let made = |width: usize, gpu: &str, shared: Option<u32>| {
        let m = plan_of(case(40, 40, width), AttentionKind::Forward);
        let config = DeviceConfig { gpu, shared, cache: Some(cache.clone()) };
        device_code_for(&[], &m.plan, &config).expect("LLVM makes PTX")
    };
    let (first, hit) = made(16, "sm_90", None);
    assert!(!hit);
    assert_eq!(made(16, "sm_90", None), (first.clone(), true));
    assert_eq!(first, device_code(&[], &plan_of(case(40, 40, 16), AttentionKind::Forward).plan, "sm_90").expect("LLVM makes PTX"));
    assert!(!made(24, "sm_90", None).1 && !made(16, "sm_80", None).1 && !made(16, "sm_90", Some(64 << 10)).1);
    assert_eq!(cache.0.lock().expect("no panic").len(), 4);
    // What is damaged is made anew.
    cache.0.lock().expect("no panic").values_mut().for_each(|v| v.truncate(v.len() / 2));
    assert_eq!(made(16, "sm_90", None), (first, false));
}

/// A cache in memory.
#[derive(Debug, Default)]
struct Kept(Mutex<HashMap<[u8; 32], Vec<u8>>>);

impl Cache for Kept {
    fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.lock().expect("no panic").get(key).cloned()
    }
    fn put(&self, key: &[u8; 32], object: &[u8]) {
        self.0.lock().expect("no panic").insert(*key, object.to_vec());
    }
}

/// Tiles, registers and spills, for the record.
#[test]
fn attention_spills_nothing() {
    let shapes = [
        ("head of 32", case(128, 128, 32)),
        ("head of 64, causal", Case { causal: Some(0), ..case(2048, 2048, 64) }),
        ("head of 128, causal", Case { causal: Some(0), ..case(2048, 2048, 128) }),
        ("head of 64, mask and bias", Case { mask: Some(Plain), bias: Some(Plain), ..case(1000, 1000, 64) }),
        ("any strides", Case { lies: Apart, ..case(512, 512, 40) }),
    ];
    let (mut report, mut wrong) = (String::new(), Vec::new());
    // Kernels fill the registers; other versions than the one of the snapshots (12.9, which torch brings) may be a value or two short.
    let most_spilled = if as_recorded() { 0 } else { 16 };
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        for (name, t) in &shapes {
            let width = if dtype == DType::F64 { t.width.min(64) } else { t.width };
            let t = Case { dtype, width, out_width: width, batch: [4, 12], ..*t };
            for kind in [AttentionKind::Forward, AttentionKind::Backward] {
                let m = plan_of(t, kind);
                let gpus: &[&str] = if dtype == DType::F32 { &["sm_80", "sm_90"] } else { &["sm_90"] };
                for &gpu in gpus {
                    let code = device_code(&[], &m.plan, gpu).expect("LLVM makes PTX");
                    let work = code.libs[0].as_ref().expect("an entry");
                    let Some(said) = assembled(&code.text, gpu) else { return };
                    for launch in &work.launches {
                        let entry = said.iter().find(|e| e.name == launch.entry).expect("the entry is assembled");
                        let pass = launch.entry.strip_prefix("call_0").map_or("", |s| if s.is_empty() { " forward" } else { s });
                        report.push_str(&format!(
                            "{dtype} {name}{}, {gpu}: {} blocks of {} threads, {} registers, {} bytes spilled, {} bytes shared\n",
                            pass.replace('_', " "),
                            launch.blocks[0],
                            launch.threads,
                            entry.registers,
                            entry.spilled,
                            entry.shared + launch.shared
                        ));
                        if entry.spilled > most_spilled {
                            wrong.push(format!("{dtype} {name}, {gpu}: {entry:?}"));
                        }
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
