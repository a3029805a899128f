//! Where the time of a step goes: the kernels, products, convolutions and copies of a plan, dearest first.

use indexmap::IndexMap;
use optc_abi::DType;
use optc_abi::number::shown;
use optc_abi::plan::{BufRef, Conv, ConvKind, Gemm, Instr, LibOp, MatRef, Plan};
use optc_base::SourceMap;
use optc_exec::Spent;
use optc_ir::kernel::NamedKernel;
use optc_train::table::{Cell, DIGITS, Table};
use serde_json::{Value, json};

/// Instructions that are the same but for their operands.
struct Row {
    what: String,
    place: String,
    /// Instructions of the plan.
    instructions: usize,
    runs: u64,
    seconds: f64,
    /// Arithmetic and memory of all runs.
    flop: f64,
    bytes: f64,
}

/// The profile of a program that ran `steps` times.
pub struct Profile {
    rows: Vec<Row>,
    steps: f64,
    /// Seconds that all steps took, with what lies outside the plan.
    wall: f64,
    /// What lies outside.
    outside: &'static str,
}

impl Profile {
    /// Sums up what [`optc_exec::Program::take_profile`] gave. `kernels` are those of the plan; `wall` is the time in seconds of all `steps`.
    pub fn new(plan: &Plan, kernels: &[NamedKernel], spent: &[Spent], sources: &SourceMap, steps: u64, wall: f64) -> Profile {
        let mut rows: IndexMap<String, Row> = IndexMap::new();
        let mut at = 0;
        plan.walk(&mut |instr| {
            let spent = spent[at];
            at += 1;
            if spent.runs == 0 {
                return;
            }
            let (what, flop, bytes) = describe(plan, kernels, instr);
            let place = match instr {
                Instr::Kernel { kernel, .. } => place_of(sources, &kernels[*kernel]),
                _ => String::new(),
            };
            let key = match instr {
                Instr::Kernel { kernel, .. } => format!("kernel {kernel}"),
                _ => what.clone(),
            };
            let row = rows.entry(key).or_insert(Row { what, place, instructions: 0, runs: 0, seconds: 0.0, flop: 0.0, bytes: 0.0 });
            row.instructions += 1;
            row.runs += spent.runs;
            row.seconds += spent.time.as_secs_f64();
            row.flop += flop * spent.runs as f64;
            row.bytes += bytes * spent.runs as f64;
        });
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Profile { rows, steps: steps.max(1) as f64, wall, outside: "outside the plan" }
    }

    /// The same on a device, where steps are timed twice: as they are, and instruction by instruction. Between instructions it waits for launches, and for data.
    #[must_use]
    pub fn on_device(self) -> Profile {
        Profile { outside: "between launches", ..self }
    }

    /// The seconds of the instructions.
    fn inside(&self) -> f64 {
        self.rows.iter().map(|r| r.seconds).sum()
    }

    /// For people: one line per kind of instruction, then what lies outside the plan (batches, counting).
    pub fn text(&self) -> String {
        let mut table = Table::new(["", "ms a step", "share %", "runs a step", "GFLOP/s", "GB/s", "where"]);
        let share = |seconds: f64| Cell::Text(format!("{:.1}", 100.0 * seconds / self.wall.max(1e-12)));
        let rate = |amount: f64, seconds: f64| if amount > 0.0 { Cell::Number(amount / seconds.max(1e-12) / 1e9) } else { Cell::Empty };
        for r in &self.rows {
            table.push([
                r.what.clone().into(),
                (r.seconds * 1e3 / self.steps).into(),
                share(r.seconds),
                (r.runs as f64 / self.steps).into(),
                rate(r.flop, r.seconds),
                rate(r.bytes, r.seconds),
                r.place.clone().into(),
            ]);
        }
        let outside = (self.wall - self.inside()).max(0.0);
        table.push([
            self.outside.into(),
            (outside * 1e3 / self.steps).into(),
            share(outside),
            Cell::Empty,
            Cell::Empty,
            Cell::Empty,
            Cell::Empty,
        ]);
        let products: (f64, f64) = self.rows.iter().filter(|r| r.flop > 0.0).fold((0.0, 0.0), |(s, f), r| (s + r.seconds, f + r.flop));
        let mut text = table.text();
        if products.0 > 0.0 {
            text.push_str(&format!(
                "\nproducts and convolutions: {:.1} % of the time, {} GFLOP a step at {} GFLOP/s",
                100.0 * products.0 / self.wall.max(1e-12),
                shown(products.1 / self.steps / 1e9, DIGITS),
                shown(products.1 / products.0 / 1e9, DIGITS)
            ));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|r| {
            json!({
                "what": r.what, "where": r.place, "instructions": r.instructions, "runs_per_step": r.runs as f64 / self.steps,
                "ms_per_step": r.seconds * 1e3 / self.steps, "flop_per_step": r.flop / self.steps, "bytes_per_step": r.bytes / self.steps,
            })
        });
        json!({
            "ms_per_step": self.wall * 1e3 / self.steps, "inside_ms_per_step": self.inside() * 1e3 / self.steps,
            "outside_share": ((self.wall - self.inside()) / self.wall.max(1e-12)).max(0.0), "outside": self.outside, "rows": rows.collect::<Vec<_>>(),
        })
    }
}

/// Source and line of a kernel's main result.
fn place_of(sources: &SourceMap, kernel: &NamedKernel) -> String {
    let span = kernel.origin.span;
    let Some(source) = sources.get(span.source) else { return String::new() };
    let name = source.name.rsplit('/').next().unwrap_or(&source.name);
    let via = if kernel.origin.via.is_empty() { String::new() } else { format!(" ({})", kernel.origin.via) };
    format!("{name}:{}{via}", sources.line_column(span).0)
}

/// What an instruction is, its arithmetic (products and convolutions only) and the bytes of its operands, each counted once.
fn describe(plan: &Plan, kernels: &[NamedKernel], instr: &Instr) -> (String, f64, f64) {
    let bytes = |r: &BufRef| (plan.buffers[r.buffer].len * plan.buffers[r.buffer].dtype.size()) as f64;
    let all = |list: &[&BufRef]| list.iter().map(|r| bytes(r)).sum::<f64>();
    match instr {
        Instr::Kernel { kernel, calls } => {
            let mut total = 0.0;
            for call in calls {
                let mut seen: Vec<&BufRef> = Vec::new();
                for b in &call.buffers {
                    if !seen.contains(&b) {
                        seen.push(b);
                    }
                }
                total += all(&seen);
            }
            (format!("kernel {kernel} {}", kernels[*kernel].name), 0.0, total)
        }
        // Of a symmetric result half is computed.
        Instr::Gemm(g) => {
            (product(g), if g.symmetric { 1.0 } else { 2.0 } * (g.m * g.n * g.k * g.batch.iter().product::<usize>()) as f64, {
                let each = (g.m * g.k + g.k * g.n + g.m * g.n) * g.batch.iter().product::<usize>();
                (each * g.dtype.size()) as f64
            })
        }
        Instr::Conv(c) => (convolution(c), 2.0 * (c.dims.output_len() * c.dims.filter_len() / c.dims.out_channels) as f64, {
            all(&[&c.lhs, &c.rhs, &c.out])
        }),
        Instr::Copy { bytes, .. } => (format!("copy of {bytes} bytes"), 0.0, 2.0 * *bytes as f64),
        Instr::Lib { op, buffers, .. } => {
            let name = match op {
                LibOp::ArgSort { rows, n, .. } => format!("sort {rows}x{n}"),
                LibOp::RandomBits { len, .. } => format!("random bits {len}"),
                LibOp::RandomFold { .. } => "random key".to_string(),
                LibOp::SwapOut { bytes, .. } => format!("swap out {bytes} bytes"),
                LibOp::SwapIn { bytes, .. } => format!("swap in {bytes} bytes"),
                LibOp::Attention { attention: a, .. } => {
                    let heads: usize = a.batch.iter().product();
                    format!("{} {heads} of {}x{}, {} and {} wide", a.name(), a.queries, a.keys, a.width, a.out_width)
                }
                LibOp::AllReduce { len } => format!("sums over devices {len}"),
                LibOp::Callback { function } => format!("callback {function}"),
                LibOp::Call { call, dims } => format!("{} {} of {}x{}", call.name(), dims.batch, dims.m, dims.n),
            };
            let operations = if let LibOp::Attention { attention, .. } = op { attention.operations() } else { 0.0 };
            (name, operations, all(&buffers.iter().collect::<Vec<_>>()))
        }
        Instr::Guard { .. } => ("guard".to_string(), 0.0, 0.0),
        Instr::Loop { .. } | Instr::Cond { .. } => ("control".to_string(), 0.0, 0.0),
    }
}

fn product(g: &Gemm) -> String {
    let layout = |m: &MatRef| match (m.row_stride, m.col_stride) {
        (_, 1) => "",
        (1, _) => "'",
        _ => "*",
    };
    let batch: String = g.batch.iter().map(|n| format!("{n}x")).collect();
    let dots = if batch.is_empty() { String::new() } else { format!("{} of ", batch.trim_end_matches('x')) };
    let plus = if g.accumulate { " added" } else { "" };
    let kind = match (g.symmetric, g.dtype) {
        (false, DType::F32 | DType::F64) => String::new(),
        (false, dtype) => format!("{dtype} "),
        (true, DType::F32 | DType::F64) => "symmetric ".to_string(),
        (true, dtype) => format!("symmetric {dtype} "),
    };
    format!("{kind}product {dots}{}x{}x{} c{} = a{} b{}{plus}", g.m, g.n, g.k, layout(&g.c), layout(&g.a), layout(&g.b))
}

fn convolution(c: &Conv) -> String {
    let list = |extents: &[usize]| extents.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let kind = match c.kind {
        ConvKind::Forward => "convolution",
        ConvKind::InputGrad => "convolution, gradient of x,",
        ConvKind::FilterGrad => "convolution, gradient of w,",
    };
    let d = &c.dims;
    let groups = if d.groups > 1 { format!(" in {} groups", d.groups) } else { String::new() };
    format!("{kind} {} of {}x{} by {} to {}{groups}", d.batch, list(&d.input), d.in_channels, list(&d.filter), d.out_channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::{BufferDecl, Place};
    use std::time::Duration;

    #[test]
    fn equal_products_are_one_row_and_the_dearest_comes_first() {
        let mat = |row_stride, col_stride| MatRef { data: BufRef::whole(0), row_stride, col_stride, batch_strides: vec![] };
        let (a, b, c) = (mat(3, 1), mat(1, 3), mat(4, 1));
        let gemm = Instr::Gemm(Gemm { dtype: DType::F32, m: 2, n: 4, k: 3, batch: vec![], a, b, c, accumulate: false, symmetric: false });
        let copy = Instr::Copy { src: BufRef::whole(0), dst: BufRef::whole(0), bytes: 8 };
        let buffers = vec![BufferDecl { dtype: DType::F32, len: 12, place: Place::Arena(0) }];
        let plan = Plan { buffers, code: vec![gemm.clone(), copy, gemm], ..Plan::default() };
        let spent = [1, 5, 2].map(|ms| Spent { runs: 2, time: Duration::from_millis(ms) });
        let profile = Profile::new(&plan, &[], &spent, &SourceMap::default(), 2, 0.01);
        let names: Vec<&str> = profile.rows.iter().map(|r| r.what.as_str()).collect();
        assert_eq!(names, ["copy of 8 bytes", "product 2x4x3 c = a b'"]);
        assert_eq!((profile.rows[1].runs, profile.rows[1].flop), (4, 4.0 * 48.0));
        let text = profile.text();
        assert!(text.contains("outside the plan") && text.contains("30.0 % of the time"), "{text}");
        assert_eq!(profile.json()["rows"][0]["ms_per_step"], 2.5);
    }
}
