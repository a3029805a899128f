//! The update of a leaf as Python source over arrays: readable, for any device and shape.

use super::rule::{Built, Contribution};
use optc_abi::DType;
use optc_ir::graph::{Node, NodeId, NodeTy, Op, ReduceOp};
use optc_ir::{Graph, ScalarOp};
use rustc_hash::FxHashMap;
use std::fmt::Write;

/// Whose arrays the source works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `torch`: hyperparameters and the step are Python numbers.
    Torch,
    /// `jax.numpy`: everything may be traced.
    Jax,
}

/// The number of steps made before, as an expression of `t`, the number of the coming one.
pub const STEPS_BEFORE: &str = "(t - 1)";

/// The number of elements of a leaf, among names of inputs.
pub const LENGTH: &str = "length";

/// What Python's array libraries call an element type.
pub fn dtype(d: DType) -> &'static str {
    match d {
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::U32 => "uint32",
        DType::U8 => "uint8",
        DType::Bool => "bool",
    }
}

/// A truth value in Python.
pub fn truth(b: bool) -> &'static str {
    if b { "True" } else { "False" }
}

/// A tuple in Python, of one element too.
pub fn tuple(items: &[String]) -> String {
    match items {
        [one] => format!("({one},)"),
        _ => format!("({})", items.join(", ")),
    }
}

/// Longest expression that stands inside another.
const LONGEST: usize = 60;

/// The statements that compute a graph's outputs, each line indented by four spaces, and an expression for each output. Inputs have the given names; the variable `dtype` holds the type that
/// the update is computed in.
///
/// # Errors
/// An operation that has no elementwise form, by name.
pub fn source(graph: &Graph, inputs: &[String], dialect: Dialect) -> Result<(String, Vec<String>), String> {
    let mut writer =
        Writer { graph, dialect, text: String::new(), values: FxHashMap::default(), tuples: FxHashMap::default(), next: 0, indent: 1 };
    for (input, name) in graph.inputs.iter().zip(inputs) {
        let number = dialect == Dialect::Torch && (name == STEPS_BEFORE || name == LENGTH || name.starts_with("h_"));
        let text = match dialect {
            _ if name != LENGTH => name.clone(),
            Dialect::Torch => "w.numel()".to_string(),
            Dialect::Jax => "w.size".to_string(),
        };
        writer.values.insert(input.node, Value { text, atom: true, product: false, number });
    }
    writer.nodes()?;
    let results = graph.outputs.iter().map(|o| writer.values[o].text.clone()).collect();
    Ok((writer.text, results))
}

/// Functions that give what a leaf contributes to numbers that are combined over all leaves, `_parts_0`, `_parts_1`, … by rounds; a list of them, each with the places of what it gives; how each number
/// is combined.
///
/// # Errors
/// As [`source`].
pub fn contributions(built: &Built, dialect: Dialect) -> Result<(String, String, String), String> {
    let (mut text, mut list, mut combine) = (String::new(), Vec::new(), Vec::new());
    for (round, Contribution { graph, folds }) in built.source.rounds.iter().enumerate() {
        let (body, results) = source(graph, &built.source.inputs, dialect)?;
        let arguments = built.rule_arguments().join(", ");
        let _ = write!(
            text,
            "def _parts_{round}(t, dtype, {arguments}, folds):\n    \"\"\"What a leaf contributes to numbers that all leaves share.\"\"\"\n{body}    return {}\n\n\n",
            tuple(&results)
        );
        let places: Vec<String> = folds.iter().map(|f| f.0.to_string()).collect();
        list.push(format!("(_parts_{round}, {})", tuple(&places)));
        for &(place, op) in folds {
            let lib = if dialect == Dialect::Jax { "jnp" } else { "torch" };
            let how = match op {
                ScalarOp::Mul => "operator.mul".to_string(),
                ScalarOp::And => "operator.and_".to_string(),
                ScalarOp::Or => "operator.or_".to_string(),
                ScalarOp::Max => format!("{lib}.maximum"),
                ScalarOp::Min => format!("{lib}.minimum"),
                _ => "operator.add".to_string(),
            };
            combine.push((place, how));
        }
    }
    combine.sort();
    let combine: Vec<String> = combine.into_iter().map(|c| c.1).collect();
    Ok((text, format!("[{}]", list.join(", ")), format!("[{}]", combine.join(", "))))
}

#[derive(Clone)]
struct Value {
    text: String,
    /// It needs no parentheses.
    atom: bool,
    /// It is a product or quotient.
    product: bool,
    /// It is a Python number rather than an array.
    number: bool,
}

struct Writer<'g> {
    graph: &'g Graph,
    dialect: Dialect,
    text: String,
    values: FxHashMap<NodeId, Value>,
    /// Results of conditions.
    tuples: FxHashMap<NodeId, Vec<Value>>,
    next: usize,
    indent: usize,
}

impl Writer<'_> {
    /// Writes what the outputs need, in order.
    fn nodes(&mut self) -> Result<(), String> {
        let graph = self.graph;
        let live = graph.live();
        let mut uses: FxHashMap<NodeId, usize> = FxHashMap::default();
        let operands = graph.ids().filter(|id| live[id.index()]).flat_map(|id| graph.node(id).operands.iter().copied());
        for id in operands.chain(graph.outputs.iter().copied()) {
            *uses.entry(id).or_default() += 1;
        }
        for id in graph.ids().filter(|id| live[id.index()]) {
            if self.values.contains_key(&id) {
                continue;
            }
            let node = graph.node(id);
            if let Op::Cond { then, otherwise } = &node.op {
                let results = self.condition(node, then, otherwise)?;
                self.tuples.insert(id, results);
                continue;
            }
            let value = self.value(id)?;
            let shared = uses.get(&id).copied().unwrap_or(0) > 1;
            let value = if !value.atom && (shared || value.text.len() > LONGEST) { self.bind(value) } else { value };
            self.values.insert(id, value);
        }
        Ok(())
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}{text}", "    ".repeat(self.indent));
    }

    /// One side of a condition or the other: a statement where the condition is a number, else both are computed and one is taken.
    fn condition(&mut self, node: &Node, then: &Graph, otherwise: &Graph) -> Result<Vec<Value>, String> {
        let pred = self.values[&node.operands[0]].clone();
        let arguments: Vec<Value> = node.operands[1..].iter().map(|o| self.values[o].clone()).collect();
        let names: Vec<String> = then.outputs.iter().map(|_| self.fresh()).collect();
        let mut sides: Vec<Vec<Value>> = Vec::new();
        for (k, side) in [then, otherwise].into_iter().enumerate() {
            if pred.number {
                let head = if k == 0 { format!("if {}:", pred.text) } else { "else:".to_string() };
                self.line(&head);
            }
            let deeper = usize::from(pred.number);
            let values = side.inputs.iter().zip(&arguments).map(|(i, v)| (i.node, v.clone())).collect();
            let text = std::mem::take(&mut self.text);
            let mut inner = Writer {
                graph: side,
                dialect: self.dialect,
                text,
                values,
                tuples: FxHashMap::default(),
                next: self.next,
                indent: self.indent + deeper,
            };
            inner.nodes()?;
            let results: Vec<Value> = side.outputs.iter().map(|o| inner.values[o].clone()).collect();
            (self.next, self.text) = (inner.next, inner.text);
            if pred.number {
                self.indent += 1;
                for (name, value) in names.iter().zip(&results) {
                    self.line(&format!("{name} = {}", value.text));
                }
                self.indent -= 1;
            }
            sides.push(results);
        }
        let mut out = Vec::new();
        for (k, name) in names.into_iter().enumerate() {
            let (a, b) = (&sides[0][k], &sides[1][k]);
            if !pred.number {
                let lib = if self.dialect == Dialect::Jax { "jnp" } else { "torch" };
                self.line(&format!("{name} = {lib}.where({}, {}, {})", pred.text, a.text, b.text));
            }
            out.push(Value { text: name, atom: true, product: false, number: pred.number && a.number && b.number });
        }
        Ok(out)
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("x{}", self.next - 1)
    }

    fn bind(&mut self, value: Value) -> Value {
        let name = self.fresh();
        self.line(&format!("{name} = {}", value.text));
        Value { text: name, atom: true, product: false, number: value.number }
    }

    fn operand(&self, id: NodeId) -> Value {
        let v = self.values[&id].clone();
        Value { text: if v.atom { v.text } else { format!("({})", v.text) }, atom: true, product: false, number: v.number }
    }

    fn value(&self, id: NodeId) -> Result<Value, String> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Const(tensor) => {
                let first =
                    tensor.len() == 1 || tensor.bytes().chunks(tensor.dtype.size()).all(|x| x == &tensor.bytes()[..tensor.dtype.size()]);
                if !first {
                    return Err("a table".to_string());
                }
                let x = tensor.get_f64(0);
                let text = match tensor.dtype {
                    DType::Bool => truth(x != 0.0).to_string(),
                    d if !d.is_float() => format!("{x:.0}"),
                    _ if x.is_nan() => "float(\"nan\")".to_string(),
                    _ if x.is_infinite() => format!("float(\"{x}\")"),
                    // The shortest that is the number in its own type, so that other types have what was written.
                    DType::F32 => format!("{:?}", x as f32),
                    _ => format!("{x:?}"),
                };
                let atom = !text.starts_with('-');
                Ok(Value { text, atom, product: false, number: true })
            }
            Op::Broadcast { .. } | Op::Reshape | Op::StopGradient => Ok(self.values[&node.operands[0]].clone()),
            Op::Cast => Ok(self.cast(node)),
            Op::Reduce { kind, .. } => {
                let lib = if self.dialect == Dialect::Jax { "jnp" } else { "torch" };
                let name = match kind {
                    ReduceOp::Sum => "sum",
                    ReduceOp::Prod => "prod",
                    ReduceOp::Max => "max",
                    ReduceOp::Min => "min",
                    ReduceOp::And => "all",
                    ReduceOp::Or => "any",
                };
                Ok(call(&format!("{lib}.{name}"), &[&self.values[&node.operands[0]].text]))
            }
            Op::Map(op) => self.map(*op, node),
            Op::Result { index } if self.tuples.contains_key(&node.operands[0]) => Ok(self.tuples[&node.operands[0]][*index].clone()),
            other => {
                let shown = format!("{other:?}");
                Err(shown.split([' ', '(', '{']).next().unwrap_or_default().to_string())
            }
        }
    }

    fn cast(&self, node: &Node) -> Value {
        let x = self.operand(node.operands[0]);
        let to = if let NodeTy::Array(ty) = &node.ty { ty.dtype } else { DType::F32 };
        if x.number {
            return self.values[&node.operands[0]].clone();
        }
        let kind = match to {
            // Scalars are computed as precisely as there are numbers, arrays in the type of the update.
            DType::F64 if self.dialect == Dialect::Jax => return call("jnp.asarray", &[&x.text, "float"]),
            DType::F32 | DType::F64 => "dtype",
            narrow => dtype(narrow),
        };
        match self.dialect {
            Dialect::Torch => {
                let kind = if kind == "dtype" { kind.to_string() } else { format!("torch.{kind}") };
                Value { text: format!("{}.to({kind})", x.text), atom: true, product: false, number: false }
            }
            Dialect::Jax => {
                let kind = if kind == "dtype" { kind.to_string() } else { format!("jnp.{kind}") };
                call("jnp.asarray", &[&x.text, &kind])
            }
        }
    }

    fn map(&self, op: ScalarOp, node: &Node) -> Result<Value, String> {
        use ScalarOp::*;
        let x: Vec<Value> = node.operands.iter().map(|&o| self.operand(o)).collect();
        let number = x.iter().all(|v| v.number) && (self.dialect == Dialect::Torch || node.operands.is_empty());
        let t: Vec<&str> = x.iter().map(|v| v.text.as_str()).collect();
        let float = self.graph.ty(node.operands[0]).dtype.is_float();
        let infix = |sign: &str| {
            // Products stand in sums, and at the left of products, without parentheses.
            let own = [0, 1].map(|k| self.values[&node.operands[k]].clone());
            let bare = |k: usize| match sign {
                "+" | "-" => own[k].product,
                "*" => k == 0 && own[k].product,
                _ => false,
            };
            let side = |k: usize| if bare(k) { own[k].text.clone() } else { t[k].to_string() };
            Value { text: format!("{} {sign} {}", side(0), side(1)), atom: false, product: matches!(sign, "*" | "/"), number }
        };
        let prefix = |sign: &str| Value { text: format!("{sign}{}", t[0]), atom: false, product: false, number };
        let lib = match (self.dialect, number) {
            (Dialect::Jax, _) => "jnp",
            (Dialect::Torch, true) => "math",
            (Dialect::Torch, false) => "torch",
        };
        let of = |name: &str| Value { number, ..call(&format!("{lib}.{name}"), &t) };
        let helper = |name: &str| Value { number, ..call(name, &t) };
        Ok(match op {
            Add if t[0] == STEPS_BEFORE && t[1] == "1" => Value { text: "t".to_string(), atom: true, product: false, number },
            Add => infix("+"),
            Sub => infix("-"),
            Mul => infix("*"),
            Div => infix("/"),
            FloorDiv => infix("//"),
            Rem => infix("%"),
            Pow => infix("**"),
            Eq => infix("=="),
            Ne => infix("!="),
            Lt => infix("<"),
            Le => infix("<="),
            And => infix("&"),
            Or => infix("|"),
            Xor => infix("^"),
            Shl => infix("<<"),
            Shr => infix(">>"),
            Not if number => prefix("not "),
            Not => prefix("~"),
            Neg => prefix("-"),
            Min | Max => {
                let name = if op == Min { "min" } else { "max" };
                match (self.dialect, number) {
                    (Dialect::Jax, _) => of(&format!("{name}imum")),
                    (_, true) => Value { number, ..call(name, &t) },
                    _ if x[1].number => {
                        Value { number, ..call("torch.clamp", &[t[0], &format!("{}={}", if op == Min { "max" } else { "min" }, t[1])]) }
                    }
                    _ if x[0].number => {
                        Value { number, ..call("torch.clamp", &[t[1], &format!("{}={}", if op == Min { "max" } else { "min" }, t[0])]) }
                    }
                    _ => of(&format!("{name}imum")),
                }
            }
            Abs if number => Value { number, ..call("abs", &t) },
            Abs => of("abs"),
            Sign if number => Value { text: format!("({0} > 0) - ({0} < 0)", t[0]), atom: false, product: false, number },
            Rsqrt if number => Value { text: format!("1.0 / math.sqrt({})", t[0]), atom: false, product: false, number },
            Rsqrt if lib == "jnp" => Value { text: format!("1.0 / jnp.sqrt({})", t[0]), atom: false, product: false, number },
            Round if number => helper("round"),
            Cbrt if lib == "torch" => {
                Value { text: format!("torch.sign({0}) * torch.abs({0}) ** (1.0 / 3.0)", t[0]), atom: false, product: false, number }
            }
            Sigmoid if lib == "jnp" => helper("jax.nn.sigmoid"),
            Sigmoid if number => Value { text: format!("1.0 / (1.0 + math.exp(-{}))", t[0]), atom: false, product: false, number },
            Softplus if lib == "jnp" => helper("jax.nn.softplus"),
            Softplus if number => {
                Value { text: format!("max({0}, 0.0) + math.log1p(math.exp(-abs({0})))", t[0]), atom: false, product: false, number }
            }
            Softplus => Value { text: format!("torch.logaddexp({0}, torch.zeros_like({0}))", t[0]), atom: true, product: false, number },
            Erf if lib == "jnp" => helper("jax.scipy.special.erf"),
            IsFinite => of("isfinite"),
            IsNan => of("isnan"),
            Select if number => Value { text: format!("{} if {} else {}", t[1], t[0], t[2]), atom: false, product: false, number },
            Select if self.dialect == Dialect::Torch && x[0].number => {
                Value { text: format!("{} if {} else {}", t[1], t[0], t[2]), atom: false, product: false, number: false }
            }
            Select => of("where"),
            Fma => Value { text: format!("{} * {} + {}", t[0], t[1], t[2]), atom: false, product: false, number },
            Trunc | Floor | Ceil | Sqrt | Exp | Exp2 | Expm1 | Log | Log1p | Log2 | Sin | Cos | Tan | Sinh | Cosh | Tanh | Cbrt | Sign
            | Round | Rsqrt | Sigmoid | Erf => of(op.name()),
            Asin | Acos | Atan | Asinh | Acosh | Atanh if float => {
                let name = op.name();
                of(&if number || lib == "torch" { name.to_string() } else { name.replacen('a', "arc", 1) })
            }
            Atan2 => of(if lib == "jnp" { "arctan2" } else { "atan2" }),
            Asin | Acos | Atan | Asinh | Acosh | Atanh => return Err(op.name().to_string()),
        })
    }
}

fn call(name: &str, arguments: &[&str]) -> Value {
    // Arguments that are in parentheses already do not need them here.
    let bare: Vec<&str> = arguments.iter().map(|a| unwrapped(a)).collect();
    Value { text: format!("{name}({})", bare.join(", ")), atom: true, product: false, number: false }
}

/// `(a + b)` without its parentheses, if they belong together.
fn unwrapped(text: &str) -> &str {
    let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) else { return text };
    let mut depth = 0i32;
    for c in inner.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth < 0 {
            return text;
        }
    }
    inner
}
