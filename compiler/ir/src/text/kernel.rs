//! Kernels as pseudo code.

use crate::kernel::{AccOp, Access, BufferId, Expr, Extent, Index, Kernel, LOCAL, Literal, LoopKind, Stmt};
use crate::text::print::reduce_name;
use std::fmt::Write;

/// The kernel as indented pseudo code: `b` buffers, `l` local arrays, `n` sizes, `i` loop variables, `v` values, `a` accumulators.
pub fn print_kernel(name: &str, kernel: &Kernel) -> String {
    let mut params: Vec<String> = Vec::new();
    for (i, b) in kernel.buffers.iter().enumerate() {
        let access = match b.access {
            Access::Read => "in",
            Access::Write => "out",
            Access::ReadWrite => "inout",
        };
        params.push(format!("{access} b{i}: {}", b.dtype));
    }
    params.extend((0..kernel.sizes).map(|i| format!("n{i}")));
    let mut out = format!("kernel {name}({})\n", params.join(", "));
    for (i, local) in kernel.locals.iter().enumerate() {
        let _ = writeln!(out, "  local l{i}: {}[{}]", local.dtype, local.len);
    }
    for (i, acc) in kernel.accs.iter().enumerate() {
        let how = match acc.op {
            AccOp::Reduce(kind) => reduce_name(kind),
            AccOp::Assign => "assign",
        };
        let _ = writeln!(out, "  acc a{i}: {} by {how}", acc.dtype);
    }
    block(kernel, &kernel.body, 1, &mut out);
    out
}

fn block(kernel: &Kernel, body: &[Stmt], indent: usize, out: &mut String) {
    let margin = "  ".repeat(indent);
    for stmt in body {
        let _ = match stmt {
            Stmt::For { axis, extent, kind, body } => {
                let extent = match extent {
                    Extent::Const(n) => n.to_string(),
                    Extent::Size(s) => format!("n{s}"),
                };
                let kind = match kind {
                    LoopKind::Serial => "",
                    LoopKind::Vector => " vector",
                    LoopKind::Parallel => " parallel",
                };
                let _ = writeln!(out, "{margin}for i{axis} in 0..{extent}{kind}");
                block(kernel, body, indent + 1, out);
                Ok(())
            }
            Stmt::Let { value, dtype, expr } => writeln!(out, "{margin}v{value}: {dtype} = {}", expression(expr)),
            Stmt::Init { acc, value } => writeln!(out, "{margin}a{acc} := v{value}"),
            Stmt::Update { acc, value } => match kernel.accs[*acc].op {
                AccOp::Reduce(kind) => writeln!(out, "{margin}a{acc} {}= v{value}", reduce_name(kind)),
                AccOp::Assign => writeln!(out, "{margin}a{acc} := v{value}"),
            },
            Stmt::Store { buffer, index, value } => writeln!(out, "{margin}{}[{}] = v{value}", name(*buffer), place(index)),
        };
    }
}

/// A parameter or a local array.
fn name(buffer: BufferId) -> String {
    match buffer.checked_sub(LOCAL) {
        Some(local) => format!("l{local}"),
        None => format!("b{buffer}"),
    }
}

fn expression(expr: &Expr) -> String {
    let all = |ids: &[usize]| ids.iter().map(|v| format!("v{v}")).collect::<Vec<_>>().join(", ");
    match expr {
        Expr::Const(Literal::Float(v)) => format!("{v:?}"),
        Expr::Const(Literal::Int(v)) => v.to_string(),
        Expr::Axis(axis) => format!("i{axis}"),
        Expr::Load { buffer, index, guard: None } => format!("{}[{}]", name(*buffer), place(index)),
        Expr::Load { buffer, index, guard: Some((guard, otherwise)) } => {
            format!("if v{guard} then {}[{}] else v{otherwise}", name(*buffer), place(index))
        }
        Expr::Map(op, ids) => format!("{}({})", op.name(), all(ids)),
        Expr::Cast(v) => format!("cast(v{v})"),
        Expr::Bitcast(v) => format!("bitcast(v{v})"),
        Expr::Acc(acc) => format!("a{acc}"),
        Expr::Philox { key, counter, word } => format!("philox(key = [{}], counter = [{}]).{word}", all(key), all(counter)),
        Expr::CheckedIndex { index, extent, origin } => format!("checked(v{index}, 0..{extent}, origin {origin})"),
    }
}

/// `64*i0 + i1 + 3`.
fn place(index: &Index) -> String {
    let scaled = |stride: i64, name: String| match stride {
        1 => name,
        -1 => format!("-{name}"),
        _ => format!("{stride}*{name}"),
    };
    let mut terms: Vec<String> = index.axes.iter().map(|&(axis, stride)| scaled(stride, format!("i{axis}"))).collect();
    terms.extend(index.sized.iter().map(|&(axis, stride, size)| scaled(stride, format!("n{size}*i{axis}"))));
    terms.extend(index.values.iter().map(|&(value, stride)| scaled(stride, format!("v{value}"))));
    if index.offset != 0 || terms.is_empty() {
        terms.push(index.offset.to_string());
    }
    let mut out = terms[0].clone();
    for term in &terms[1..] {
        match term.strip_prefix('-') {
            Some(positive) => out.push_str(&format!(" - {positive}")),
            None => out.push_str(&format!(" + {term}")),
        }
    }
    out
}
