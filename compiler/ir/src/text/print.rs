//! The printer of graphs.

use crate::graph::{Graph, Guard, NodeTy, Op, ReduceOp, ScatterMode};
use optc_abi::plan::ConvKind;
use optc_abi::{DType, Tensor};
use std::fmt::Write;

/// What a printed graph shows.
#[derive(Clone, Copy, Debug)]
pub struct PrintOptions {
    /// Constants of more elements are abbreviated (and the text cannot be read back).
    pub max_elements: usize,
    /// Show where nodes come from, as comments.
    pub origins: bool,
}

/// For people: constants of more than 16 elements are abbreviated.
pub fn print(graph: &Graph) -> String {
    print_with(graph, PrintOptions { max_elements: 16, origins: false })
}

/// Without loss: [`super::read`] gives the same graph.
pub fn print_full(graph: &Graph) -> String {
    print_with(graph, PrintOptions { max_elements: usize::MAX, origins: false })
}

/// As the options say.
pub fn print_with(graph: &Graph, options: PrintOptions) -> String {
    let mut out = String::from("graph ");
    block(graph, options, 0, &mut out);
    out.push('\n');
    out
}

fn block(graph: &Graph, options: PrintOptions, indent: usize, out: &mut String) {
    out.push_str("{\n");
    let margin = "  ".repeat(indent + 1);
    for id in graph.ids() {
        let node = graph.node(id);
        let _ = write!(out, "{margin}%{} = ", id.index());
        head(graph, &node.op, options, out);
        for (i, operand) in node.operands.iter().enumerate() {
            let _ = write!(out, "{}%{}", if i == 0 { " " } else { ", " }, operand.index());
        }
        let _ = match &node.ty {
            NodeTy::Array(ty) => write!(out, " : {ty}"),
            NodeTy::Tuple(types) => write!(out, " : ({})", types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ")),
        };
        let subs: &[(&str, &Graph)] = &match &node.op {
            Op::Loop(l) => vec![("body", &*l.body)],
            Op::Cond { then, otherwise } => vec![("then", &**then), ("else", &**otherwise)],
            Op::Call(c) => {
                let mut subs = vec![("body", &*c.body)];
                subs.extend(c.vjp.as_deref().map(|v| ("vjp", v)));
                subs
            }
            _ => Vec::new(),
        };
        for (name, sub) in subs {
            let _ = write!(out, " {name} ");
            block(sub, options, indent + 1, out);
        }
        let origin = graph.origin(id);
        if options.origins && (origin.span.end > 0 || !origin.via.is_empty()) {
            let _ = write!(out, "  # {}:{}..{} {}", origin.span.source.0, origin.span.start, origin.span.end, origin.via);
        }
        out.push('\n');
    }
    let outputs: Vec<String> = graph.outputs.iter().map(|o| format!("%{}", o.index())).collect();
    let _ = writeln!(out, "{margin}return {}", outputs.join(", "));
    let _ = write!(out, "{}}}", "  ".repeat(indent));
}

/// Name of a reduction in text.
pub(super) fn reduce_name(kind: ReduceOp) -> &'static str {
    match kind {
        ReduceOp::Sum => "sum",
        ReduceOp::Prod => "prod",
        ReduceOp::Max => "max",
        ReduceOp::Min => "min",
        ReduceOp::And => "and",
        ReduceOp::Or => "or",
    }
}

/// Name of a convolution's map in text.
pub(super) fn conv_name(kind: ConvKind) -> &'static str {
    match kind {
        ConvKind::Forward => "forward",
        ConvKind::InputGrad => "input_grad",
        ConvKind::FilterGrad => "filter_grad",
    }
}

/// Name and attributes.
fn head(graph: &Graph, op: &Op, options: PrintOptions, out: &mut String) {
    let _ = match op {
        Op::Input { index } => write!(out, "input {:?}", graph.inputs[*index as usize].name),
        Op::Const(t) => {
            out.push_str("const ");
            constant(t, options, out);
            Ok(())
        }
        Op::Iota { axis } => write!(out, "iota axis={axis}"),
        Op::Map(s) => write!(out, "{}", s.name()),
        Op::Cast => write!(out, "cast"),
        Op::Bitcast => write!(out, "bitcast"),
        Op::Reshape => write!(out, "reshape"),
        Op::StopGradient => write!(out, "stop_gradient"),
        Op::Swap => write!(out, "swap"),
        Op::RandomBits { start } => write!(out, "random_bits start={start}"),
        Op::RandomFold { place } => write!(out, "random_fold place={place}"),
        Op::Reduce { kind, axes } => write!(out, "reduce kind={} axes={axes:?}", reduce_name(*kind)),
        Op::Scan { kind, axis, reverse } => write!(out, "scan kind={} axis={axis} reverse={reverse}", reduce_name(*kind)),
        Op::ArgReduce { max, axis } => write!(out, "arg_reduce max={max} axis={axis}"),
        Op::ArgSort { axis, descending } => write!(out, "arg_sort axis={axis} descending={descending}"),
        Op::Dot(d) => write!(
            out,
            "dot lhs_batch={:?} rhs_batch={:?} lhs_contract={:?} rhs_contract={:?}",
            d.lhs_batch, d.rhs_batch, d.lhs_contract, d.rhs_contract
        ),
        Op::Attention(attention) => {
            let a = &attention.what;
            let _ = write!(
                out,
                "{} batch={:?} queries={} keys={} width={} out_width={} scale=\"{:?}\" hidden=\"{:?}\" mask={} bias={}",
                a.name(),
                a.batch,
                a.queries,
                a.keys,
                a.width,
                a.out_width,
                a.scale,
                a.hidden,
                a.mask,
                a.bias
            );
            let causal = a.causal.map_or(Ok(()), |offset| write!(out, " causal=\"{offset}\""));
            causal.and_then(|()| write!(out, " turned={:?}", attention.turned.concat()))
        }
        Op::Conv { kind, dims: d } => write!(
            out,
            "conv kind={} batch={} in_channels={} out_channels={} groups={} input={:?} filter={:?} output={:?} stride={:?} dilation={:?} \
             pad_lo={:?} pad_hi={:?}",
            conv_name(*kind),
            d.batch,
            d.in_channels,
            d.out_channels,
            d.groups,
            d.input,
            d.filter,
            d.output,
            d.stride,
            d.dilation,
            d.pad_lo,
            d.pad_hi
        ),
        Op::Broadcast { dims } => write!(out, "broadcast dims={dims:?}"),
        Op::Permute { perm } => write!(out, "permute perm={perm:?}"),
        Op::Slice { start, stop, step } => write!(out, "slice start={start:?} stop={stop:?} step={step:?}"),
        Op::Pad { lo, hi, interior } => write!(out, "pad lo={lo:?} hi={hi:?} interior={interior:?}"),
        Op::Flip { axes } => write!(out, "flip axes={axes:?}"),
        Op::Concat { axis } => write!(out, "concat axis={axis}"),
        Op::Window { axis, size, stride, dilation } => write!(out, "window axis={axis} size={size} stride={stride} dilation={dilation}"),
        Op::Gather { axis } => write!(out, "gather axis={axis}"),
        Op::Scatter { axis, mode } => {
            write!(out, "scatter axis={axis} mode={}", if *mode == ScatterMode::Add { "add" } else { "set" })
        }
        Op::Lib(call) => {
            out.push_str(call.name());
            call.flags().into_iter().try_for_each(|(name, value)| write!(out, " {name}={value}"))
        }
        Op::AllReduce => write!(out, "all_reduce"),
        Op::Callback { function, .. } => write!(out, "callback function={function}"),
        Op::Loop(l) => {
            out.push_str("loop");
            if let Some(trip) = l.trip {
                let _ = write!(out, " trip={trip}");
            }
            match l.guard {
                Some(Guard { most: Some(most) }) => {
                    let _ = write!(out, " guard={most}");
                }
                Some(Guard { most: None }) => out.push_str(" guard=open"),
                None => {}
            }
            write!(out, " reverse={} carried={} scanned={}", l.reverse, l.carried, l.scanned)
        }
        Op::Cond { .. } => write!(out, "cond"),
        Op::Call(c) => write!(out, "call name={:?}", c.name),
        Op::Result { index } => write!(out, "result index={index}"),
    };
}

fn constant(t: &Tensor, options: PrintOptions, out: &mut String) {
    out.push('(');
    let shown = if t.len() > options.max_elements { 4.min(t.len()) } else { t.len() };
    for i in 0..shown {
        if i > 0 {
            out.push_str(", ");
        }
        element(t, i, out);
    }
    out.push_str(if shown < t.len() { ", …)" } else { ")" });
}

/// The shortest decimal that reads back to the same bits; NaN with its bits unless it is the usual one.
fn element(t: &Tensor, i: usize, out: &mut String) {
    let _ = match t.dtype {
        DType::I64 => write!(out, "{}", t.as_slice::<i64>()[i]),
        DType::Bool => write!(out, "{}", t.as_slice::<u8>()[i] != 0),
        DType::I32 | DType::U32 | DType::U8 => write!(out, "{}", t.get_f64(i)),
        DType::F64 => {
            let v = t.as_slice::<f64>()[i];
            if v.is_nan() { write!(out, "nan:{:#x}", v.to_bits()) } else { write!(out, "{v:?}") }
        }
        DType::F32 => {
            let v = t.as_slice::<f32>()[i];
            if v.is_nan() { write!(out, "nan:{:#x}", v.to_bits()) } else { write!(out, "{v:?}") }
        }
        DType::BF16 | DType::F16 => {
            let v = t.get_f64(i) as f32;
            let at = i * 2;
            let bits = u16::from_le_bytes([t.bytes()[at], t.bytes()[at + 1]]);
            if v.is_nan() { write!(out, "nan:{bits:#x}") } else { write!(out, "{v:?}") }
        }
    };
}
