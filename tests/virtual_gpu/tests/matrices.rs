//! `ldmatrix` and `mma.sync` against products as one writes them down.

mod common;

use common::*;

/// Small whole numbers, so that every sum is exact.
fn number(n: usize) -> f64 {
    ((n * 7 + n / 5) % 11) as f64 - 5.0
}

fn product(a: &[Vec<f64>], b: &[Vec<f64>], c: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (m, k, n) = (a.len(), b.len(), b[0].len());
    (0..m).map(|i| (0..n).map(|j| (0..k).map(|l| a[i][l] * b[l][j]).sum::<f64>() + c[i][j]).collect()).collect()
}

fn matrix(rows: usize, columns: usize, shift: usize) -> Vec<Vec<f64>> {
    (0..rows).map(|i| (0..columns).map(|j| number(i * columns + j + shift)).collect()).collect()
}

/// One shape: element types of the text, and where PTX says that element `i` of a lane's fragment stands.
struct Shape {
    name: &'static str,
    types: &'static str,
    m: usize,
    k: usize,
    /// Elements in a register of `a` and `b`, of `c` and `d`.
    packed: (usize, usize),
    a: fn(usize, usize) -> (usize, usize),
    b: fn(usize, usize) -> (usize, usize),
}

/// Row and column of element `i` of the sums.
fn sum_at(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2)
}

fn encode(types: &str, x: f64) -> u64 {
    match types {
        "bf16" => u64::from((x as f32).to_bits() >> 16),
        // Whole numbers up to 2048 in f16.
        "f16" => {
            let bits = (x as f32).to_bits();
            let exponent = (bits >> 23 & 0xFF) as i32 - 127 + 15;
            u64::from(bits >> 31 << 15 | if x == 0.0 { 0 } else { (exponent as u32) << 10 | bits >> 13 & 0x3FF })
        }
        "f64" => x.to_bits(),
        _ => u64::from((x as f32).to_bits()),
    }
}

fn check_shape(gpu: &Gpu, shape: &Shape) {
    let (a, b, c) = (matrix(shape.m, shape.k, 0), matrix(shape.k, 8, 3), matrix(shape.m, 8, 8));
    let [td, ta, _, tc]: [&str; 4] = shape.types.split('.').collect::<Vec<_>>().try_into().unwrap();
    let double = ta == "f64";
    let pack = |parts: Vec<u64>| parts.iter().enumerate().fold(0, |all, (n, x)| all | x << (16 * n));
    let (na, nb, nc) = (shape.m * shape.k / 32 / shape.packed.0, shape.k * 8 / 32 / shape.packed.0, shape.m * 8 / 32 / shape.packed.1);
    let mut input = Vec::new();
    for lane in 0..32 {
        let mut registers = |n: usize, packed: usize, element: &dyn Fn(usize) -> u64| {
            for r in 0..n {
                input.push(pack((0..packed).map(|p| element(r * packed + p)).collect()));
            }
        };
        registers(na, shape.packed.0, &|i| {
            let (row, column) = (shape.a)(lane, i);
            encode(ta, a[row][column])
        });
        registers(nb, shape.packed.0, &|i| {
            let (row, column) = (shape.b)(lane, i);
            encode(ta, b[row][column])
        });
        registers(nc, shape.packed.1, &|i| {
            let (row, column) = sum_at(lane, i);
            encode(tc, c[row][column])
        });
    }
    let all = na + nb + nc;
    let mut body = format!(
        "mul.wide.u32 %rd2, %r0, {};\nadd.s64 %rd2, %rd0, %rd2;\nmul.wide.u32 %rd3, %r0, {};\nadd.s64 %rd3, %rd1, %rd3;\n",
        8 * all,
        8 * nc
    );
    let name = |n: usize| if double { format!("%fd{n}") } else { format!("%r{}", n + 8) };
    for n in 0..all {
        if double {
            body += &format!("ld.global.f64 %fd{n}, [%rd2+{}];\n", 8 * n);
        } else {
            body += &format!("ld.global.b32 %r{}, [%rd2+{}];\n", n + 8, 8 * n);
        }
    }
    // Sums of f32 are registers of that type.
    let sums_single = tc == "f32";
    let sum = |n: usize, d: bool| {
        if sums_single {
            format!("%f{}", n + if d { 16 } else { 0 })
        } else if d {
            if double { format!("%fd{}", n + 24) } else { format!("%r{}", n + 40) }
        } else {
            name(na + nb + n)
        }
    };
    if sums_single {
        for n in 0..nc {
            body += &format!("mov.b32 %f{n}, {};\n", name(na + nb + n));
        }
    }
    let list = |from: usize, n: usize| format!("{{{}}}", (from..from + n).map(name).collect::<Vec<_>>().join(", "));
    let sums = |d: bool| format!("{{{}}}", (0..nc).map(|n| sum(n, d)).collect::<Vec<_>>().join(", "));
    body += &format!(
        "mma.sync.aligned.{}.row.col.{} {}, {}, {}, {};\n",
        shape.name,
        shape.types,
        sums(true),
        list(0, na),
        list(na, nb),
        sums(false)
    );
    for n in 0..nc {
        body += &format!("st.global.{} [%rd3+{}], {};\n", if double { "f64" } else { "b32" }, 8 * n, sum(n, true));
    }
    let kernel = gpu.kernel(gpu.load(&text(&body)), "k");
    let (from, to) = (gpu.upload(&input), gpu.upload(&vec![0u64; 32 * nc]));
    gpu.run(kernel, 1, 32, &[Arg::U64(from), Arg::U64(to)]);
    let out: Vec<u64> = gpu.download(to, 32 * nc);
    let wanted = product(&a, &b, &c);
    for lane in 0..32 {
        for i in 0..nc * shape.packed.1 {
            let (row, column) = sum_at(lane, i);
            let word = out[lane * nc + i / shape.packed.1] >> (16 * (i % shape.packed.1));
            let word = if shape.packed.1 == 2 { word & 0xFFFF } else { word };
            assert_eq!(word, encode(td, wanted[row][column]), "{} {}: row {row}, column {column}", shape.name, shape.types);
        }
    }
}

#[test]
fn products() {
    let gpu = Gpu::new();
    let packed_a = |lane: usize, i: usize| (lane / 4 + 8 * (i / 2 % 2), 2 * (lane % 4) + i % 2 + 8 * (i / 4));
    let packed_b = |lane: usize, i: usize| (2 * (lane % 4) + i % 2 + 8 * (i / 2), lane / 4);
    let plain_a = |lane: usize, i: usize| (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2));
    let plain_b = |lane: usize, i: usize| (lane % 4 + 4 * i, lane / 4);
    let shape = |name, types, m, k, packed, a, b| Shape { name, types, m, k, packed, a, b };
    for shape in [
        shape("m16n8k16", "f32.bf16.bf16.f32", 16, 16, (2, 1), packed_a, packed_b),
        shape("m16n8k8", "f32.bf16.bf16.f32", 16, 8, (2, 1), packed_a, packed_b),
        shape("m16n8k16", "f32.f16.f16.f32", 16, 16, (2, 1), packed_a, packed_b),
        shape("m16n8k8", "f32.f16.f16.f32", 16, 8, (2, 1), packed_a, packed_b),
        shape("m16n8k16", "f16.f16.f16.f16", 16, 16, (2, 2), packed_a, packed_b),
        shape("m16n8k8", "f32.tf32.tf32.f32", 16, 8, (1, 1), plain_a, plain_b),
        shape("m16n8k4", "f32.tf32.tf32.f32", 16, 4, (1, 1), plain_a, plain_b),
        shape("m8n8k4", "f64.f64.f64.f64", 8, 4, (1, 1), |lane, _| (lane / 4, lane % 4), plain_b),
        shape("m16n8k8", "f64.f64.f64.f64", 16, 8, (1, 1), plain_a, plain_b),
        shape("m16n8k16", "f64.f64.f64.f64", 16, 16, (1, 1), plain_a, plain_b),
    ] {
        check_shape(&gpu, &shape);
    }
    // All lanes take part.
    let some =
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd0, %fd1}, {%fd2}, {%fd3}, {%fd0, %fd1};";
    assert_eq!(gpu.fails(32, some), 719);
}

#[test]
fn tensor_cores_see_nineteen_bits_of_single_precision() {
    let gpu = Gpu::new();
    let text = "mov.b32 %r1, 0x3F801FFF;\nmov.b32 %r2, 0x3F800000;\nmov.b32 %f1, 0f00000000;\n\
                mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r2}, {%f1, %f1, %f1, %f1};\nst.global.f32 [%rd1], %f2;";
    assert_eq!(f32::from_bits(gpu.body(&[], 1, 32, text)[0]), 4.0);
}

#[test]
fn matrices_of_shared_memory() {
    let gpu = Gpu::new();
    // 32 rows of 8 elements, element e of row r is 8 r + e; lane l gives the address of row l.
    let fill = ".shared .align 16 .b8 tile[512];\nmov.b64 %rd5, tile;\nmul.wide.u32 %rd6, %r0, 16;\nadd.s64 %rd7, %rd5, %rd6;\nmov.u32 %r1, 0;\nshl.b32 %r2, %r0, 3;\nmov.b64 %rd8, %rd7;\n\
                again:\ncvt.u16.u32 %rs1, %r2;\nst.shared.b16 [%rd8], %rs1;\nadd.u32 %r2, %r2, 1;\nadd.u32 %r1, %r1, 1;\n\
                add.s64 %rd8, %rd8, 2;\nsetp.lt.u32 %p1, %r1, 8;\n@%p1 bra again;\nbar.warp.sync -1;\n";
    let store = "mul.wide.u32 %rd9, %r0, 16;\nadd.s64 %rd9, %rd1, %rd9;\nst.global.v4.b32 [%rd9], {%r10, %r11, %r12, %r13};";
    for transposed in [false, true] {
        let mode = if transposed { ".trans" } else { "" };
        let load = format!("ldmatrix.sync.aligned.m8n8.x4{mode}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%rd7];\n");
        let out = gpu.body(&[], 128, 32, &format!("{fill}{load}{store}"));
        for lane in 0..32u32 {
            for n in 0..4u32 {
                let element = |i: u32| {
                    let (r, c) = (lane / 4, 2 * (lane % 4) + i);
                    let (r, c) = if transposed { (c, r) } else { (r, c) };
                    8 * (8 * n + r) + c
                };
                assert_eq!(out[(4 * lane + n) as usize], element(1) << 16 | element(0));
            }
        }
    }
    // Written back and read again.
    let round = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%rd7];\nstmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%rd7], {%r10, %r11, %r12, %r13};\n\
                 ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%rd7];\nsub.u32 %r10, %r10, %r14;\nsub.u32 %r11, %r11, %r15;\n";
    let out = gpu.body(&[], 128, 32, &format!("{fill}{round}{store}"));
    assert!((0..32).all(|l| out[4 * l] == 0 && out[4 * l + 1] == 0));
    let wrong = ".shared .align 16 .b8 tile[512];\nmov.b64 %rd5, tile;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%rd5+8];";
    assert_eq!(gpu.fails(32, wrong), 716);
}
