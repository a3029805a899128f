//! Matrix products in object files, to the bit, on this processor and on others where there are emulators.

use super::arm::{ARM, CC, EMULATOR, there};
use optc_abi::DType;
use optc_abi::plan::{BufRef, BufferDecl, Gemm, Instr, MatRef, Place, Plan};
use optc_cranelift::object::{self, Given, Library, Whole};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lies {
    /// Rows in order, with room between them.
    Rows(i64),
    /// Columns in order.
    Columns,
    /// Neither: every second element.
    Apart,
}

#[derive(Clone, Debug)]
struct Case {
    dtype: DType,
    extents: [usize; 3],
    batch: usize,
    lies: [Lies; 3],
    accumulate: bool,
    symmetric: bool,
}

impl Case {
    fn gemm(&self) -> Gemm {
        let [m, n, k] = self.extents;
        let mat = |buffer: usize, rows: usize, cols: usize, lies: Lies| {
            let (row_stride, col_stride) = match lies {
                Lies::Rows(more) => (cols as i64 + more, 1),
                Lies::Columns => (1, rows as i64),
                Lies::Apart => (2 * cols as i64, 2),
            };
            let step = (rows as i64 - 1) * row_stride + (cols as i64 - 1) * col_stride + 1;
            let batch_strides = if self.batch > 1 { vec![step] } else { Vec::new() };
            MatRef { data: BufRef::whole(buffer), row_stride, col_stride, batch_strides }
        };
        let (a, mut b, c) = (mat(0, m, k, self.lies[0]), mat(1, k, n, self.lies[1]), mat(2, m, n, self.lies[2]));
        if self.symmetric {
            b = MatRef { data: BufRef::whole(1), row_stride: a.col_stride, col_stride: a.row_stride, ..a.clone() };
        } else {
            // One right operand for all.
            b.batch_strides.fill(0);
        }
        let batch = if self.batch > 1 { vec![self.batch] } else { Vec::new() };
        Gemm { dtype: self.dtype, m, n, k, batch, a, b, c, accumulate: self.accumulate, symmetric: self.symmetric }
    }

    fn whole(&self) -> Whole {
        let buffer = |place: Place| BufferDecl { dtype: self.dtype, len: 1, place };
        let plan = Plan {
            buffers: vec![buffer(Place::Input(0)), buffer(Place::Input(1)), buffer(Place::Output(0))],
            code: vec![Instr::Gemm(self.gemm())],
            ..Plan::default()
        };
        let (inputs, outputs) = (vec![Given::Array(0), Given::Array(1)], vec![Given::Array(2)]);
        Whole { name: "run", plan, kernels: Vec::new(), inputs, outputs, stepping: false, seeded: false }
    }
}

/// Extents below and above those of tiles, blocks and passes; all layouts; sums in one and several chunks.
fn cases() -> Vec<Case> {
    use Lies::{Apart, Columns, Rows};
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let plain = Case { dtype, extents: [0; 3], batch: 1, lies: [Rows(0); 3], accumulate: false, symmetric: false };
        for extents in [[4, 4, 260], [17, 33, 9], [40, 24, 300], [149, 530, 3], [1100, 6, 5], [5, 7, 3]] {
            cases.push(Case { extents, ..plain.clone() });
        }
        cases.push(Case { extents: [17, 40, 270], lies: [Columns, Columns, Rows(3)], accumulate: true, ..plain.clone() });
        for a in [Rows(2), Columns, Apart] {
            for b in [Rows(5), Columns, Apart] {
                let c = if a == b { Columns } else { Rows(1) };
                cases.push(Case { extents: [29, 35, 22], lies: [a, b, c], accumulate: b == Columns, ..plain.clone() });
            }
        }
        cases.push(Case { extents: [20, 20, 20], lies: [Rows(0), Rows(0), Apart], ..plain.clone() });
        for (side, k, lies) in [
            (16, 20, [Rows(0); 3]),
            (37, 290, [Columns, Rows(0), Columns]),
            (37, 30, [Rows(1), Rows(0), Rows(2)]),
            (150, 7, [Rows(0); 3]),
            (530, 2, [Rows(0); 3]),
            (20, 20, [Columns, Rows(0), Apart]),
        ] {
            cases.push(Case { extents: [side, side, k], lies, symmetric: true, accumulate: side == 37, ..plain.clone() });
        }
        cases.push(Case { extents: [20, 30, 40], batch: 3, ..plain.clone() });
        cases.push(Case { extents: [40, 40, 30], batch: 2, symmetric: true, ..plain });
    }
    cases
}

/// The table of products for `products.c`.
fn table(cases: &[(String, Vec<Whole>, Case)]) -> String {
    let mut text = String::from("#include <stddef.h>\n#include <stdint.h>\n");
    for (name, ..) in cases {
        let _ = writeln!(text, "int32_t {name}_run(void *const *arrays, void *work);");
    }
    text.push_str("struct product { int32_t (*run)(void *const *, void *); int kind; long m, n, k, batch, a[3], b[3], c[3]; int accumulate, symmetric; size_t work; const char *what; };\n");
    text.push_str("static const struct product products[] = {\n");
    for (name, functions, case) in cases {
        let gemm = case.gemm();
        let kind = [DType::F32, DType::F64, DType::BF16].iter().position(|d| *d == case.dtype).expect("one of them");
        let strides = |m: &MatRef| format!("{{{}, {}, {}}}", m.row_stride, m.col_stride, m.batch_strides.first().unwrap_or(&0));
        let ([m, n, k], [a, b, c]) = (case.extents, [&gemm.a, &gemm.b, &gemm.c].map(strides));
        let (add, same, work) = (u8::from(case.accumulate), u8::from(case.symmetric), functions[0].work());
        let _ =
            writeln!(text, "  {{{name}_run, {kind}, {m}, {n}, {k}, {}, {a}, {b}, {c}, {add}, {same}, {work}, \"{case:?}\"}},", case.batch);
    }
    text.push_str("};\n");
    text
}

#[test]
fn products_are_exact_on_all_processors() {
    let cases: Vec<(String, Vec<Whole>, Case)> =
        cases().into_iter().enumerate().map(|(k, case)| (format!("p{k}"), vec![case.whole()], case)).collect();
    let rules: Vec<(String, Vec<Whole>)> = cases.iter().map(|(name, functions, _)| (name.clone(), functions.clone())).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("cases.h"), table(&cases)).expect("it is written");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/build/products.c");
    let library = Library { name: "products".to_string(), ..Library::default() };
    let made = |target: Option<&str>, cc: &str, name: &str| {
        let object = object::fixed(&library, &rules, target).expect("an object");
        std::fs::write(at(&format!("{name}.o")), object).expect("it is written");
        let mut command = Command::new(cc);
        command.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-I"]).arg(folder.path()).arg(&source);
        let output = command.arg(at(&format!("{name}.o"))).args(["-lm", "-o"]).arg(at(name)).output().expect("a C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let agree = |mut command: Command| {
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{command:?}: {}{}", output.status, String::from_utf8_lossy(&output.stdout));
    };
    made(None, "cc", "here");
    agree(Command::new(at("here")));
    let nm = Command::new("nm").arg("-u").arg(at("here.o")).output().expect("binutils");
    let undefined = String::from_utf8_lossy(&nm.stdout).into_owned();
    assert!(undefined.split_whitespace().all(|w| ["U", "fmaf", "fma"].contains(&w)), "{undefined}");
    if cfg!(target_arch = "x86_64") && there("qemu-x86_64") {
        // Neither AVX nor fused multiply-adds.
        let mut old = Command::new("qemu-x86_64");
        old.args(["-cpu", "Nehalem"]).arg(at("here"));
        agree(old);
    }
    if there(CC) && there(EMULATOR) {
        made(Some(ARM), CC, "arm");
        let mut arm = Command::new(EMULATOR);
        arm.arg(at("arm"));
        agree(arm);
    }
}
