//! Convolutions on the emulator against their definition and the runtime's.

use crate::common::{alone, assembled, memory, no_faults, on_host};
use crate::gpu;
use optc_abi::plan::{BufRef, BufferDecl, Conv, ConvDims, ConvKind, Instr, Place, Plan, SlotDecl, Status};
use optc_abi::{DType, Tensor};
use optc_llvm::{Emulated, device_code, device_code_cut};

const KINDS: [ConvKind; 3] = [ConvKind::Forward, ConvKind::InputGrad, ConvKind::FilterGrad];

/// Each axis as extent, filter, stride, dilation, zeros before and after.
fn dims(batch: usize, channels: [usize; 2], groups: usize, axes: &[[usize; 6]]) -> ConvDims {
    let each = |n: usize| axes.iter().map(|a| a[n]).collect::<Vec<_>>();
    let output = axes.iter().map(|&[s, k, stride, dilation, lo, hi]| (s + lo + hi - dilation * (k - 1) - 1) / stride + 1).collect();
    ConvDims {
        batch,
        in_channels: channels[0],
        out_channels: channels[1],
        groups,
        input: each(0),
        filter: each(1),
        output,
        stride: each(2),
        dilation: each(3),
        pad_lo: each(4),
        pad_hi: each(5),
    }
}

fn product(list: &[usize]) -> usize {
    list.iter().product()
}

/// Elements of x, w and y.
fn lens(d: &ConvDims) -> [usize; 3] {
    [
        d.batch * product(&d.input) * d.in_channels,
        product(&d.filter) * d.in_channels / d.groups * d.out_channels,
        d.batch * product(&d.output) * d.out_channels,
    ]
}

fn unravel(mut n: usize, extents: &[usize]) -> Vec<usize> {
    let mut at = Vec::new();
    for &e in extents.iter().rev() {
        at.push(n % e);
        n /= e;
    }
    at.reverse();
    at
}

/// Every term of the definition: places in x, w and y.
fn terms(d: &ConvDims, mut term: impl FnMut(usize, usize, usize)) {
    let (cg, og) = (d.in_channels / d.groups, d.out_channels / d.groups);
    for n in 0..d.batch {
        for t in 0..product(&d.output) {
            let place = unravel(t, &d.output);
            for k in 0..product(&d.filter) {
                let tap = unravel(k, &d.filter);
                let mut pixel = Some(0);
                for a in 0..d.input.len() {
                    let s = (place[a] * d.stride[a] + tap[a] * d.dilation[a]).checked_sub(d.pad_lo[a]).filter(|&s| s < d.input[a]);
                    pixel = pixel.zip(s).map(|(p, s)| p * d.input[a] + s);
                }
                let Some(pixel) = pixel else { continue };
                for g in 0..d.groups {
                    for c in 0..cg {
                        for o in 0..og {
                            let x = (n * product(&d.input) + pixel) * d.in_channels + g * cg + c;
                            let w = (k * cg + c) * d.out_channels + g * og + o;
                            let y = (n * product(&d.output) + t) * d.out_channels + g * og + o;
                            term(x, w, y);
                        }
                    }
                }
            }
        }
    }
}

/// A plan of one convolution: operands, result and the host's scratch.
fn plan_of(d: &ConvDims, kind: ConvKind, dtype: DType) -> (Plan, [usize; 3]) {
    let [x, w, y] = lens(d);
    let sizes = match kind {
        ConvKind::Forward => [x, w, y],
        ConvKind::InputGrad => [y, w, x],
        ConvKind::FilterGrad => [x, y, w],
    };
    let scratch = d.scratch_len(kind).max(1);
    let decl = |place, len| BufferDecl { dtype, len, place };
    let mut buffers: Vec<BufferDecl> = (0..3).map(|k| decl(Place::Input(k), sizes[k])).collect();
    buffers.push(decl(Place::Arena(0), scratch));
    let inputs = sizes.iter().map(|&n| SlotDecl { name: String::new(), dtype, shape: vec![n], alias: None }).collect();
    let at = BufRef::whole;
    let conv = Conv { dtype, kind, dims: d.clone(), lhs: at(0), rhs: at(1), out: at(2), scratch: at(3) };
    let arena_bytes = (scratch * dtype.size()).next_multiple_of(64);
    (Plan { buffers, arena_bytes, inputs, code: vec![Instr::Conv(conv)], ..Plan::default() }, sizes)
}

fn numbers(len: usize, seed: usize, whole: bool) -> Vec<f64> {
    let number = |i: usize| {
        let n = (i * 2_654_435_761 + seed * 40_503) >> 5;
        if whole { (n % 7) as f64 - 3.0 } else { ((n % 4001) as f64 - 2000.0) / 1999.0 }
    };
    (0..len).map(number).collect()
}

fn check(d: &ConvDims, cut: Option<[i64; 3]>) {
    for dtype in [DType::F32, DType::F64] {
        for kind in KINDS {
            let (plan, sizes) = plan_of(d, kind, dtype);
            let device = Emulated::like(&[], &plan, "sm_90", cut).expect("LLVM compiles");
            let work = device.code.convs[0].as_ref().expect("there is an entry for every convolution");
            for whole in [true, false] {
                let inputs: Vec<Tensor> =
                    sizes.iter().enumerate().map(|(k, &n)| Tensor::from_f64(dtype, &[n], &numbers(n, k, whole))).collect();
                let got = inputs.clone();
                let mut status = Status::default();
                let buffers = [got[0].as_ptr(), got[1].as_ptr(), got[2].as_ptr(), std::ptr::null_mut()];
                // SAFETY: the buffers of the plan's only convolution; its scratch is not used.
                unsafe { device.work(work, &buffers, &mut status, &memory(&got)) };
                no_faults(&format!("{kind:?} {d:?}"));
                let (a, b) = (inputs[0].to_f64(), inputs[1].to_f64());
                let (mut want, mut large) = (vec![0.0; sizes[2]], vec![0.0; sizes[2]]);
                terms(d, |x, w, y| {
                    let (p, q, to) = match kind {
                        ConvKind::Forward => (x, w, y),
                        ConvKind::InputGrad => (y, w, x),
                        ConvKind::FilterGrad => (x, y, w),
                    };
                    want[to] += a[p] * b[q];
                    large[to] += (a[p] * b[q]).abs();
                });
                let unit = if dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
                for (n, x) in got[2].to_f64().into_iter().enumerate() {
                    let allowed = if whole { 0.0 } else { 16.0 * unit * large[n] };
                    assert!((x - want[n]).abs() <= allowed, "{kind:?} {dtype} {d:?}, element {n}: {x} and {}", want[n]);
                }
                if whole {
                    let code = cut.map_or_else(|| device_code(&[], &plan, "sm_80"), |cut| device_code_cut(&[], &plan, "sm_80", cut));
                    let code = code.expect("LLVM makes PTX");
                    let ptx = gpu::work(&code, code.convs[0].as_ref().expect("an entry"), &inputs, &[(0, 0), (1, 0), (2, 0)]);
                    assert!(ptx[2] == got[2].bytes(), "{kind:?} {dtype} {d:?}: PTX");
                }
                // The host may use Winograd's method, whose errors are those of the largest term.
                for (n, x) in on_host(&[], &plan, &inputs)[2].to_f64().into_iter().enumerate() {
                    assert!(
                        (x - want[n]).abs() <= 200.0 * unit * large[n].max(9.0),
                        "the host's {kind:?}, element {n}: {x} and {}",
                        want[n]
                    );
                }
            }
        }
    }
}

#[test]
fn convolutions_follow_the_definition() {
    let _alone = alone();
    // Extent, filter, stride, dilation, zeros before and after.
    check(&dims(2, [3, 5], 1, &[[6, 3, 1, 1, 1, 1], [5, 3, 1, 1, 1, 1]]), None);
    check(&dims(1, [4, 8], 2, &[[7, 3, 2, 1, 1, 0], [6, 2, 3, 2, 0, 2]]), None);
    check(&dims(3, [4, 4], 4, &[[9, 4, 2, 2, 3, 1]]), None);
    check(&dims(2, [8, 16], 1, &[[1, 1, 1, 1, 0, 0], [4, 1, 1, 1, 0, 0]]), None);
    check(&dims(1, [2, 3], 1, &[[3, 2, 1, 1, 1, 0], [4, 3, 2, 1, 2, 1], [3, 2, 2, 1, 0, 1]]), None);
    check(&dims(2, [1, 1], 1, &[[5, 3, 1, 1, 0, 0]]), None);
}

#[test]
fn large_tiles_and_sums_in_parts_of_convolutions() {
    let _alone = alone();
    let d = dims(2, [4, 8], 1, &[[9, 3, 2, 1, 1, 1], [8, 3, 1, 2, 2, 2]]);
    check(&d, Some([64, 32, 3]));
    check(&d, Some([32, 16, 2]));
}

#[test]
fn convolutions_spill_nothing() {
    for (name, d) in [
        ("3 x 3", dims(64, [32, 64], 1, &[[26, 3, 1, 1, 1, 1], [26, 3, 1, 1, 1, 1]])),
        ("strided", dims(64, [64, 128], 1, &[[56, 3, 2, 1, 1, 1], [56, 3, 2, 1, 1, 1]])),
        ("by channel", dims(64, [64, 64], 64, &[[28, 3, 1, 1, 1, 1], [28, 3, 1, 1, 1, 1]])),
    ] {
        for (kind, gpu) in KINDS.iter().flat_map(|&k| [(k, "sm_80"), (k, "sm_90")]) {
            let (plan, _) = plan_of(&d, kind, DType::F32);
            let code = device_code(&[], &plan, gpu).expect("LLVM makes PTX");
            let Some(said) = assembled(&code.text, gpu) else { return };
            for entry in said {
                assert!(entry.spilled == 0 && entry.registers <= 128, "{name}, {kind:?}, {gpu}: {entry:?}");
            }
        }
    }
}
