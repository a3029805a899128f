//! An elementwise update as StableHLO text: a module with the function that gives the change of the weight and the new states.

use super::rule::{Built, Graphs};
use super::source::STEPS_BEFORE;
use optc_abi::DType;
use optc_ir::graph::{Node, NodeId, NodeTy, Op, Ty};
use optc_ir::{Graph, ScalarOp};
use rustc_hash::FxHashMap;
use std::fmt::Write;

fn element(d: DType) -> &'static str {
    match d {
        DType::U32 => "ui32",
        DType::U8 => "ui8",
        DType::Bool => "i1",
        signed => signed.name(),
    }
}

fn tensor(ty: &Ty) -> String {
    let dims: String = ty.shape.iter().map(|d| format!("{d}x")).collect();
    format!("tensor<{dims}{}>", element(ty.dtype))
}

/// The module's text, for a leaf of the length that the rule was lowered for. Arguments: the number of the coming step, hyperparameters (f64), weight, states, gradient; results: the change, the states.
///
/// # Errors
/// An operation that StableHLO does not have.
pub fn module(built: &Built) -> Result<String, String> {
    let Graphs { inputs, delta, .. } = &built.source;
    let mut writer = Writer { graph: delta, text: String::new(), values: FxHashMap::default(), next: 0, indent: 2 };
    let mut arguments = vec!["%t: tensor<i32>".to_string()];
    let mut head = String::new();
    for group in ["h_", ""] {
        for (input, name) in delta.inputs.iter().zip(inputs) {
            if name.starts_with("h_") != (group == "h_") || name == "None" {
                continue;
            }
            let ty = delta.ty(input.node);
            let value = if name == STEPS_BEFORE { "%before".to_string() } else { format!("%{name}") };
            if name == STEPS_BEFORE {
                head.push_str(
                    "    %one = stablehlo.constant dense<1> : tensor<i32>\n    %before = stablehlo.subtract %t, %one : tensor<i32>\n",
                );
            } else if name == "g" {
                // A batch of one gradient.
                let flat = Ty::new(ty.dtype, [ty.len()]);
                arguments.push(format!("%g: {}", tensor(&flat)));
                let _ = writeln!(head, "    %g_row = stablehlo.reshape %g : ({}) -> {}", tensor(&flat), tensor(ty));
                writer.values.insert(input.node, "%g_row".to_string());
                continue;
            } else {
                arguments.push(format!("%{name}: {}", tensor(ty)));
            }
            writer.values.insert(input.node, value);
        }
    }
    writer.text = head;
    writer.nodes()?;
    let types: Vec<String> = delta.outputs.iter().map(|&o| tensor(delta.ty(o))).collect();
    let results: Vec<&str> = delta.outputs.iter().map(|o| writer.values[o].as_str()).collect();
    Ok(format!(
        "// Made by optc {} from `{}`.\nmodule @{} {{\n  func.func public @main({}) -> ({}) {{\n{}    return {} : {}\n  }}\n}}\n",
        env!("CARGO_PKG_VERSION"),
        built.expression,
        built.library.name,
        arguments.join(", "),
        types.join(", "),
        writer.text,
        results.join(", "),
        types.join(", ")
    ))
}

struct Writer<'g> {
    graph: &'g Graph,
    text: String,
    values: FxHashMap<NodeId, String>,
    next: usize,
    indent: usize,
}

impl Writer<'_> {
    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%v{}", self.next - 1)
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}{text}", "  ".repeat(self.indent));
    }

    fn nodes(&mut self) -> Result<(), String> {
        let graph = self.graph;
        let live = graph.live();
        for id in graph.ids().filter(|id| live[id.index()]) {
            if self.values.contains_key(&id) {
                continue;
            }
            let node = graph.node(id);
            match (&node.op, &node.ty) {
                (Op::Cond { then, otherwise }, NodeTy::Tuple(types)) => {
                    let name = self.fresh();
                    self.condition(&name, node, then, otherwise, types)?;
                    self.values.insert(id, name);
                }
                (Op::Result { index }, _) => {
                    let name = format!("{}#{index}", self.values[&node.operands[0]]);
                    self.values.insert(id, name);
                }
                (_, NodeTy::Array(ty)) => {
                    let text = self.value(node, ty)?;
                    let name = self.fresh();
                    self.line(&format!("{name} = {text}"));
                    self.values.insert(id, name);
                }
                _ => return Err("a tuple".to_string()),
            }
        }
        Ok(())
    }

    fn condition(&mut self, name: &str, node: &Node, then: &Graph, otherwise: &Graph, types: &[Ty]) -> Result<(), String> {
        let pred = self.values[&node.operands[0]].clone();
        let arguments: Vec<String> = node.operands[1..].iter().map(|o| self.values[o].clone()).collect();
        self.line(&format!("{name}:{} = \"stablehlo.if\"({pred}) ({{", types.len()));
        let listed: Vec<String> = types.iter().map(tensor).collect();
        for (k, side) in [then, otherwise].into_iter().enumerate() {
            let values = side.inputs.iter().zip(&arguments).map(|(i, v)| (i.node, v.clone())).collect();
            let mut inner = Writer { graph: side, text: std::mem::take(&mut self.text), values, next: self.next, indent: self.indent + 1 };
            inner.nodes()?;
            let results: Vec<&str> = side.outputs.iter().map(|o| inner.values[o].as_str()).collect();
            let last = format!("stablehlo.return {} : {}", results.join(", "), listed.join(", "));
            inner.line(&last);
            (self.next, self.text) = (inner.next, inner.text);
            let end = if k == 0 { "}, {".to_string() } else { format!("}}) : (tensor<i1>) -> ({})", listed.join(", ")) };
            self.line(&end);
        }
        Ok(())
    }

    fn value(&self, node: &Node, ty: &Ty) -> Result<String, String> {
        let x: Vec<&str> = node.operands.iter().map(|o| self.values[o].as_str()).collect();
        let from = || tensor(self.graph.ty(node.operands[0]));
        let to = tensor(ty);
        Ok(match &node.op {
            Op::Const(data) => {
                let width = data.dtype.size();
                if data.bytes().chunks(width).any(|e| e != &data.bytes()[..width]) {
                    return Err("a table".to_string());
                }
                let v = data.get_f64(0);
                let shown = match data.dtype {
                    DType::Bool => if v != 0.0 { "true" } else { "false" }.to_string(),
                    d if !d.is_float() => format!("{v:.0}"),
                    DType::F32 if !v.is_finite() => format!("0x{:08X}", (v as f32).to_bits()),
                    _ if !v.is_finite() => format!("0x{:016X}", v.to_bits()),
                    _ => format!("{v:e}").replace('e', if format!("{v:e}").contains('.') { "E" } else { ".0E" }),
                };
                format!("stablehlo.constant dense<{shown}> : {to}")
            }
            Op::Broadcast { dims } => {
                let dims: Vec<String> = dims.iter().map(|d| d.to_string()).collect();
                format!("stablehlo.broadcast_in_dim {}, dims = [{}] : ({}) -> {to}", x[0], dims.join(", "), from())
            }
            Op::Reshape => format!("stablehlo.reshape {} : ({}) -> {to}", x[0], from()),
            Op::Cast => format!("stablehlo.convert {} : ({}) -> {to}", x[0], from()),
            Op::Map(op) => self.map(*op, node, &x, &to)?,
            other => {
                let shown = format!("{other:?}");
                return Err(shown.split([' ', '(', '{']).next().unwrap_or_default().to_string());
            }
        })
    }

    fn map(&self, op: ScalarOp, node: &Node, x: &[&str], to: &str) -> Result<String, String> {
        use ScalarOp::*;
        let name = match op {
            Add => "add",
            Sub => "subtract",
            Mul => "multiply",
            Div => "divide",
            Min => "minimum",
            Max => "maximum",
            Pow => "power",
            Atan2 => "atan2",
            Neg => "negate",
            Abs => "abs",
            Sign => "sign",
            Floor => "floor",
            Ceil => "ceil",
            Round => "round_nearest_even",
            Sqrt => "sqrt",
            Rsqrt => "rsqrt",
            Cbrt => "cbrt",
            Exp => "exponential",
            Expm1 => "exponential_minus_one",
            Log => "log",
            Log1p => "log_plus_one",
            Sin => "sine",
            Cos => "cosine",
            Tan => "tan",
            Tanh => "tanh",
            Sigmoid => "logistic",
            And => "and",
            Or => "or",
            Xor => "xor",
            Not => "not",
            IsFinite => {
                let of = tensor(self.graph.ty(node.operands[0]));
                return Ok(format!("stablehlo.is_finite {} : ({of}) -> {to}", x[0]));
            }
            Eq | Ne | Lt | Le | IsNan => {
                let of = self.graph.ty(node.operands[0]);
                let kind = match of.dtype {
                    d if d.is_float() => "FLOAT",
                    DType::U32 | DType::U8 | DType::Bool => "UNSIGNED",
                    _ => "SIGNED",
                };
                let (direction, second) = match op {
                    Eq => ("EQ", x[1]),
                    Ne => ("NE", x[1]),
                    Lt => ("LT", x[1]),
                    Le => ("LE", x[1]),
                    _ => ("NE", x[0]),
                };
                let of = tensor(of);
                return Ok(format!("stablehlo.compare {direction}, {}, {second}, {kind} : ({of}, {of}) -> {to}", x[0]));
            }
            Select => {
                let pred = tensor(self.graph.ty(node.operands[0]));
                return Ok(format!("stablehlo.select {}, {}, {} : {pred}, {to}", x[0], x[1], x[2]));
            }
            _ => return Err(op.name().to_string()),
        };
        Ok(format!("stablehlo.{name} {} : {to}", x.join(", ")))
    }
}
