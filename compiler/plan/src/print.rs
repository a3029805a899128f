//! The text of a plan, for people.

use crate::Planned;
use optc_abi::DType;
use optc_abi::offload::Touch;
use optc_abi::plan::{Attention, BufRef, Instr, LibOp, MatRef, Place, Plan, Strides, Trip};
use std::fmt::Write;

/// The plan as text: slots, memory, and instructions with the places of their operands. Kernels are named, not printed.
pub fn print(planned: &Planned) -> String {
    let plan = &planned.plan;
    let mut out = String::new();
    for (k, slot) in plan.inputs.iter().enumerate() {
        let _ = writeln!(out, "input {k} {}: {}{:?}", slot.name, slot.dtype, slot.shape);
    }
    for (k, slot) in plan.outputs.iter().enumerate() {
        let alias = slot.alias.map_or(String::new(), |i| format!(" in place of input {i}"));
        let _ = writeln!(out, "output {k} {}: {}{:?}{alias}", slot.name, slot.dtype, slot.shape);
    }
    for (k, constant) in plan.constants.iter().enumerate() {
        let _ = writeln!(out, "constant {k}: {}{:?}", constant.dtype, constant.shape);
    }
    let _ = writeln!(out, "arena: {} bytes", plan.arena_bytes);
    let _ = writeln!(out, "kernels: {}", planned.kernels.len());
    let mut count = 0;
    plan.walk(&mut |_| count += 1);
    let _ = writeln!(out, "instructions: {count}");
    code(&mut out, planned, &plan.code, 1);
    plan.offload.iter().for_each(|t| files(&mut out, t));
    out
}

/// What an instruction does with inputs that live in files.
fn files(out: &mut String, touch: &Touch) {
    let mut streams: Vec<(usize, bool)> = Vec::new();
    for r in touch.calls.iter().flatten() {
        if !streams.contains(&(r.input, r.writes)) {
            streams.push((r.input, r.writes));
        }
    }
    let list = |all: &[(usize, bool)]| -> String {
        all.iter().map(|(k, writes)| format!(" in{k}{}", if *writes { " (written)" } else { "" })).collect::<Vec<_>>().join(",")
    };
    let _ = write!(out, "files: instruction {}", touch.instr);
    if !streams.is_empty() {
        let _ = write!(out, " streams{}", list(&streams));
    }
    if !touch.anywhere.is_empty() {
        let _ = write!(out, " maps{}", list(&touch.anywhere));
    }
    out.push('\n');
}

fn place(plan: &Plan, r: &BufRef) -> String {
    let mut text = match plan.buffers[r.buffer].place {
        Place::Arena(offset) => format!("arena+{}", offset as i64 + r.offset),
        Place::Input(k) => format!("in{k}{}", shift(r.offset)),
        Place::Output(k) => format!("out{k}{}", shift(r.offset)),
        Place::Constant(k) => format!("const{k}{}", shift(r.offset)),
    };
    for (id, step) in &r.steps {
        let _ = write!(text, "+L{id}*{step}");
    }
    text
}

fn shift(offset: i64) -> String {
    if offset == 0 { String::new() } else { format!("+{offset}") }
}

fn places(plan: &Plan, list: &[BufRef]) -> String {
    list.iter().map(|r| place(plan, r)).collect::<Vec<_>>().join(", ")
}

fn matrix(plan: &Plan, m: &MatRef) -> String {
    format!("{} by {}, {}, {:?}", place(plan, &m.data), m.row_stride, m.col_stride, m.batch_strides)
}

/// Attention, with the strides of its operands and results.
fn attended(a: &Attention, strides: &[Strides], dtype: DType) -> String {
    let causal = a.causal.map_or(String::new(), |offset| format!(" causal {offset}"));
    let hidden = if a.causal.is_some() || a.mask { format!(" hidden {:?}", a.hidden) } else { String::new() };
    let extra: String = [(a.mask, " mask"), (a.bias, " bias")].iter().filter(|(there, _)| *there).map(|(_, word)| *word).collect();
    let by: Vec<String> = strides.iter().map(|s| format!("{}, {}, {:?}", s.row, s.column, s.batch)).collect();
    let (name, scale) = (a.name(), a.scale);
    let shape = format!("{}x{}x{}x{} batch {:?}", a.queries, a.keys, a.width, a.out_width, a.batch);
    format!("{name} {dtype} {shape} scale {scale:?}{causal}{hidden}{extra} by [{}]", by.join("; "))
}

fn code(out: &mut String, planned: &Planned, list: &[Instr], depth: usize) {
    let plan = &planned.plan;
    let pad = "  ".repeat(depth);
    for instr in list {
        let _ = match instr {
            Instr::Kernel { kernel, calls } => {
                let _ = writeln!(out, "{pad}kernel {kernel} {}", planned.kernels[*kernel].name);
                for call in calls {
                    let sizes = if call.sizes.is_empty() { String::new() } else { format!(" sizes {:?}", call.sizes) };
                    let _ = writeln!(out, "{pad}  range {} grain {}{sizes}: {}", call.range, call.grain, places(plan, &call.buffers));
                }
                Ok(())
            }
            Instr::Gemm(g) => {
                let sign = if g.accumulate { "+=" } else { "=" };
                let shape = if g.symmetric { " symmetric" } else { "" };
                let _ = writeln!(out, "{pad}gemm {} {}x{}x{} batch {:?}{shape}", g.dtype, g.m, g.n, g.k, g.batch);
                writeln!(out, "{pad}  [{}] {sign} [{}] [{}]", matrix(plan, &g.c), matrix(plan, &g.a), matrix(plan, &g.b))
            }
            Instr::Conv(c) => {
                let _ = writeln!(out, "{pad}conv {:?} {} {:?}", c.kind, c.dtype, c.dims);
                writeln!(out, "{pad}  {} = {}, {}", place(plan, &c.out), place(plan, &c.lhs), place(plan, &c.rhs))
            }
            Instr::Copy { src, dst, bytes } => writeln!(out, "{pad}copy {bytes} bytes {} to {}", place(plan, src), place(plan, dst)),
            Instr::Lib { op, dtype, buffers } => {
                let what = match op {
                    LibOp::ArgSort { rows, n, descending } => format!("argsort {dtype} {rows}x{n} descending {descending}"),
                    LibOp::RandomBits { start, len, skips: false } => format!("random_bits {len} from {start}"),
                    LibOp::RandomBits { start, len, skips: true } => format!("random_bits {len} from {start} behind others"),
                    LibOp::RandomFold { place, number: Some(number) } => format!("random_fold place {place} number {number}"),
                    LibOp::RandomFold { place, number: None } => format!("random_fold place {place}"),
                    LibOp::SwapOut { slot, bytes } => format!("swap_out {slot} of {bytes} bytes"),
                    LibOp::SwapIn { slot, bytes } => format!("swap_in {slot} of {bytes} bytes"),
                    LibOp::Callback { function } => format!("callback {function}"),
                    LibOp::Attention { attention, strides } => attended(attention, strides, *dtype),
                    LibOp::AllReduce { len } => format!("all_reduce {dtype} {len}"),
                    LibOp::Call { call, dims } => {
                        let flags: String = call.flags().into_iter().map(|(name, value)| format!(" {name} {value}")).collect();
                        format!("{} {dtype} {}x{} batch {}{flags}", call.name(), dims.m, dims.n, dims.batch)
                    }
                };
                writeln!(out, "{pad}{what}: {}", places(plan, buffers))
            }
            Instr::Loop { id, trip, reverse, counter, body } => {
                let trip = match trip {
                    Trip::Const(n) => n.to_string(),
                    Trip::Run(r) => place(plan, r),
                    Trip::While { go, most } => format!("while {} at most {}", place(plan, go), place(plan, most)),
                };
                let down = if *reverse { " down" } else { "" };
                let _ = writeln!(out, "{pad}loop L{id} {trip}{down} counter {}", place(plan, counter));
                code(out, planned, body, depth + 1);
                Ok(())
            }
            Instr::Cond { pred, then, otherwise } => {
                let _ = writeln!(out, "{pad}if {}", place(plan, pred));
                code(out, planned, then, depth + 1);
                let _ = writeln!(out, "{pad}else");
                code(out, planned, otherwise, depth + 1);
                Ok(())
            }
            Instr::Guard { value, dtype } => writeln!(out, "{pad}guard {dtype} {}", place(plan, value)),
        };
    }
}
