//! The reader of graphs: a hand-written scanner and a recursive descent over one node a line.

use super::print::{conv_name, reduce_name};
use crate::graph::{
    Attention, AttentionKind, AttentionOp, Axes, CallOp, DotDims, Graph, Guard, LibCall, LoopOp, NodeId, NodeTy, Op, Origin, ReduceOp,
    ScatterMode, Shape, Ty,
};
use crate::infer::infer;
use crate::scalar::ScalarOp;
use optc_abi::plan::{ConvDims, ConvKind};
use optc_abi::{DType, Tensor};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}
impl std::error::Error for ReadError {}

/// Reads a graph printed by [`super::print_full`]. Every node's type is checked.
///
/// # Errors
/// The first mistake, with its line.
pub fn read(text: &str) -> Result<Graph, ReadError> {
    let mut reader = Reader { tokens: scan(text)?, at: 0, depth: 0 };
    reader.word("graph")?;
    let graph = reader.block()?;
    if reader.at < reader.tokens.len() {
        return Err(reader.error("text after the graph"));
    }
    Ok(graph)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Number(String),
    Text(String),
    Node(String),
    Mark(char),
}

fn scan(text: &str) -> Result<Vec<(usize, Token)>, ReadError> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let split = |pred: &dyn Fn(char) -> bool, from: usize| {
                rest[from..].find(|c: char| !pred(c)).map_or((&rest[from..], ""), |end| (&rest[from..from + end], &rest[from + end..]))
            };
            let numeric = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
            let (token, after) = match first {
                '#' => break,
                c if c.is_whitespace() => {
                    rest = rest.trim_start();
                    continue;
                }
                '"' => match text_literal(rest) {
                    Some((value, after)) => (Token::Text(value), after),
                    None => return Err(ReadError { line: line_number, message: "a text without end".into() }),
                },
                '%' => {
                    let (digits, after) = split(&|c| c.is_ascii_digit(), 1);
                    (Token::Node(digits.to_string()), after)
                }
                c if c.is_ascii_digit() || c == '-' => {
                    let (number, after) = split(&numeric, 0);
                    (Token::Number(number.to_string()), after)
                }
                c if c.is_ascii_alphabetic() || c == '_' => {
                    let (word, after) = split(&|c| c.is_ascii_alphanumeric() || c == '_', 0);
                    (Token::Word(word.to_string()), after)
                }
                c => (Token::Mark(c), &rest[c.len_utf8()..]),
            };
            tokens.push((line_number, token));
            rest = after;
        }
    }
    Ok(tokens)
}

/// A text in double quotes with the escapes of Rust's debug form, and what follows it.
fn text_literal(source: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = source.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &source[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                '0' => value.push('\0'),
                'u' => {
                    let mut code = 0u32;
                    chars.next().filter(|(_, c)| *c == '{')?;
                    loop {
                        match chars.next()?.1 {
                            '}' => break,
                            c => code = code.checked_mul(16)?.checked_add(c.to_digit(16)?)?,
                        }
                    }
                    value.push(char::from_u32(code)?);
                }
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

/// The value of an attribute.
enum Value {
    Word(String),
    Int(usize),
    List(Vec<usize>),
    Text(String),
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

type Res<T> = Result<T, ReadError>;

/// Sub-graphs nest no deeper, so that no text overflows the stack.
const MAX_DEPTH: usize = 64;

impl Reader {
    fn error(&self, message: impl Into<String>) -> ReadError {
        self.error_at(self.at, message)
    }
    fn error_at(&self, at: usize, message: impl Into<String>) -> ReadError {
        let line = self.tokens.get(at.min(self.tokens.len().saturating_sub(1))).map_or(1, |t| t.0);
        ReadError { line, message: message.into() }
    }
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.1)
    }
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).map(|t| t.1.clone())
    }
    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }
    fn accept(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }
    fn mark(&mut self, mark: char) -> Res<()> {
        if self.accept(mark) { Ok(()) } else { Err(self.error(format!("`{mark}` expected"))) }
    }
    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(w)) if w == word)
    }
    fn word(&mut self, word: &str) -> Res<()> {
        if self.is_word(word) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(format!("`{word}` expected")))
    }
    fn any_word(&mut self) -> Res<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => Err(self.error("a name expected")),
        }
    }
    fn int(&mut self) -> Res<usize> {
        let value = match self.peek() {
            Some(Token::Number(n)) => n.parse().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| self.error("a number expected"))?;
        self.at += 1;
        Ok(value)
    }

    /// Items up to `close`, separated by commas.
    fn list<T>(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Res<T>) -> Res<Vec<T>> {
        let mut items = Vec::new();
        while !self.accept(close) {
            if !items.is_empty() {
                self.mark(',')?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn ty(&mut self) -> Res<Ty> {
        let name = self.any_word()?;
        let dtype = DType::parse(&name).ok_or_else(|| self.error(format!("`{name}` is no element type")))?;
        let shape = if self.accept('[') { self.list(']', Self::int)? } else { Vec::new() };
        let size = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).filter(|&n| n <= isize::MAX as usize / 2);
        size.ok_or_else(|| self.error("an array too large for any memory"))?;
        Ok(Ty::new(dtype, shape))
    }

    fn node_id(&mut self, ids: &FxHashMap<String, NodeId>) -> Res<NodeId> {
        let id = match self.peek() {
            Some(Token::Node(name)) => {
                ids.get(name).copied().ok_or_else(|| self.error(format!("%{name} is not defined before its use")))?
            }
            _ => return Err(self.error("a node such as `%0` expected")),
        };
        self.at += 1;
        Ok(id)
    }

    fn block(&mut self) -> Res<Graph> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("sub-graphs nest too deep"));
        }
        self.mark('{')?;
        let mut graph = Graph::new();
        let mut ids = FxHashMap::default();
        while !self.is_word("return") {
            let Some(Token::Node(name)) = self.next() else {
                self.at -= 1;
                return Err(self.error("a node or `return` expected"));
            };
            self.mark('=')?;
            let id = self.node(&mut graph, &ids)?;
            if ids.insert(name.clone(), id).is_some() {
                return Err(self.error(format!("%{name} is defined twice")));
            }
        }
        self.word("return")?;
        while !self.accept('}') {
            if !graph.outputs.is_empty() {
                self.mark(',')?;
            }
            let output = self.node_id(&ids)?;
            if let NodeTy::Tuple(_) = graph.node(output).ty {
                return Err(self.error("a tuple is no output"));
            }
            graph.outputs.push(output);
        }
        self.depth -= 1;
        Ok(graph)
    }

    fn node(&mut self, graph: &mut Graph, ids: &FxHashMap<String, NodeId>) -> Res<NodeId> {
        let start = self.at;
        let name = self.any_word()?;
        let mut input_name = None;
        let mut elements = None;
        if name == "input" {
            match self.next() {
                Some(Token::Text(text)) => input_name = Some(text),
                _ => return Err(self.error("the input's name expected")),
            }
        }
        if name == "const" {
            self.mark('(')?;
            elements = Some(self.list(')', Self::element)?);
        }
        let mut attributes = Vec::new();
        while let (Some(Token::Word(key)), Some((_, Token::Mark('=')))) = (self.peek(), self.tokens.get(self.at + 1)) {
            let key = key.clone();
            self.at += 2;
            let value = match self.peek() {
                Some(Token::Number(_)) => Value::Int(self.int()?),
                Some(Token::Text(text)) => {
                    let text = text.clone();
                    self.at += 1;
                    Value::Text(text)
                }
                Some(Token::Mark('[')) => {
                    self.at += 1;
                    Value::List(self.list(']', Self::int)?)
                }
                _ => Value::Word(self.any_word()?),
            };
            attributes.push((key, value));
        }
        let mut operands: SmallVec<[NodeId; 3]> = SmallVec::new();
        while !self.is_mark(':') {
            if !operands.is_empty() {
                self.mark(',')?;
            }
            operands.push(self.node_id(ids)?);
        }
        self.mark(':')?;
        let ty = if self.accept('(') { NodeTy::Tuple(self.list(')', Self::ty)?) } else { NodeTy::Array(self.ty()?) };
        let mut subs = Vec::new();
        while matches!(self.tokens.get(self.at + 1), Some((_, Token::Mark('{')))) {
            let key = self.any_word()?;
            subs.push((key, Some(Arc::new(self.block()?))));
        }
        if let (Some(name), NodeTy::Array(ty)) = (&input_name, &ty) {
            return Ok(graph.input(name.clone(), ty.clone(), Origin::default()));
        }
        let op = match (&elements, &ty) {
            (Some(elements), NodeTy::Array(ty)) => {
                Op::Const(Arc::new(tensor(ty, elements).map_err(|message| self.error_at(start, message))?))
            }
            _ => complete(&name, &mut Parts { attributes, subs }, &ty).map_err(|message| self.error_at(start, message))?,
        };
        let types: Vec<&NodeTy> = operands.iter().map(|&o| &graph.node(o).ty).collect();
        let found = infer(&op, &types, Some(&ty)).map_err(|message| self.error_at(start, message))?;
        if found != ty {
            return Err(self.error_at(start, format!("type {ty:?} where {found:?} follows")));
        }
        Ok(graph.push(op, operands, ty, Origin::default()))
    }

    /// An element of a constant, as text.
    fn element(&mut self) -> Res<String> {
        match self.next() {
            Some(Token::Number(n)) => Ok(n),
            Some(Token::Word(w)) if w == "nan" && self.accept(':') => match self.next() {
                Some(Token::Number(bits)) => Ok(format!("nan:{bits}")),
                _ => Err(self.error("the bits of a NaN expected")),
            },
            Some(Token::Word(w)) => Ok(w),
            Some(Token::Mark('…')) => Err(self.error("this constant is abbreviated and cannot be read")),
            _ => Err(self.error("an element expected")),
        }
    }
}

fn tensor(ty: &Ty, elements: &[String]) -> Result<Tensor, String> {
    if elements.len() != ty.len() {
        return Err(format!("{} elements for a constant of type {ty}", elements.len()));
    }
    let mut t = Tensor::zeros(ty.dtype, &ty.shape);
    let width = ty.dtype.size();
    for (cell, text) in t.bytes_mut().chunks_exact_mut(width).zip(elements) {
        let bits = element_bits(ty.dtype, text).ok_or_else(|| format!("`{text}` is no {}", ty.dtype))?;
        cell.copy_from_slice(&bits.to_le_bytes()[..width]);
    }
    Ok(t)
}

/// The operation, if nothing is missing and nothing is left over.
fn complete(name: &str, parts: &mut Parts, ty: &NodeTy) -> Result<Op, String> {
    let found = build(name, parts, ty)?;
    if let Some((key, _)) = parts.attributes.first() {
        return Err(format!("`{name}` has no attribute `{key}`"));
    }
    if parts.subs.iter().any(|(_, sub)| sub.is_some()) {
        return Err(format!("a sub-graph too many in `{name}`"));
    }
    Ok(found)
}

fn element_bits(dtype: DType, text: &str) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("nan:0x") {
        return u64::from_str_radix(bits, 16).ok().filter(|_| dtype.is_float());
    }
    Some(match dtype {
        DType::F32 => u64::from(text.parse::<f32>().ok()?.to_bits()),
        DType::F64 => text.parse::<f64>().ok()?.to_bits(),
        DType::BF16 => u64::from(half::bf16::from_f32(text.parse().ok()?).to_bits()),
        DType::F16 => u64::from(half::f16::from_f32(text.parse().ok()?).to_bits()),
        DType::I32 => text.parse::<i32>().ok()? as u64,
        DType::I64 => text.parse::<i64>().ok()? as u64,
        DType::U32 => u64::from(text.parse::<u32>().ok()?),
        DType::U8 => u64::from(text.parse::<u8>().ok()?),
        DType::Bool => u64::from(text.parse::<bool>().ok()?),
    })
}

/// Attributes and sub-graphs of a node, taken one by one.
struct Parts {
    attributes: Vec<(String, Value)>,
    subs: Vec<(String, Option<Arc<Graph>>)>,
}

impl Parts {
    fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.attributes.iter().position(|(k, _)| k == key)?;
        Some(self.attributes.remove(at).1)
    }
    fn int(&mut self, key: &str) -> Result<usize, String> {
        match self.take(key) {
            Some(Value::Int(n)) => Ok(n),
            _ => Err(format!("number `{key}` expected")),
        }
    }
    fn list(&mut self, key: &str) -> Result<Vec<usize>, String> {
        match self.take(key) {
            Some(Value::List(items)) => Ok(items),
            _ => Err(format!("list `{key}` expected")),
        }
    }
    fn axes(&mut self, key: &str) -> Result<Axes, String> {
        self.list(key).map(Shape::from)
    }
    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<T, String> {
        match self.take(key) {
            Some(Value::Word(word)) => {
                choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| format!("`{word}` is no {key}"))
            }
            _ => Err(format!("word `{key}` expected")),
        }
    }
    fn flag(&mut self, key: &str) -> Result<bool, String> {
        self.choice(key, &[("true", true), ("false", false)])
    }
    /// A number that is written as text, as those with sign or point are.
    fn written<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(text)) => text.parse().map(Some).map_err(|_| format!("`{text}` is no {key}")),
            Some(_) => Err(format!("text `{key}` expected")),
        }
    }
    fn reduce(&mut self) -> Result<ReduceOp, String> {
        let all = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min, ReduceOp::And, ReduceOp::Or];
        self.choice("kind", &all.map(|kind| (reduce_name(kind), kind)))
    }
    fn sub(&mut self, key: &str) -> Result<Arc<Graph>, String> {
        self.subs.iter_mut().find(|(k, _)| k == key).and_then(|(_, sub)| sub.take()).ok_or_else(|| format!("sub-graph `{key}` expected"))
    }
}

fn build(name: &str, p: &mut Parts, ty: &NodeTy) -> Result<Op, String> {
    if let Some(op) = ScalarOp::parse(name) {
        return Ok(Op::Map(op));
    }
    if let Some(call) = LibCall::parse(name, |flag| p.flag(flag))? {
        return Ok(Op::Lib(call));
    }
    Ok(match name {
        "iota" => Op::Iota { axis: p.int("axis")? },
        "cast" => Op::Cast,
        "bitcast" => Op::Bitcast,
        "reshape" => Op::Reshape,
        "stop_gradient" => Op::StopGradient,
        "swap" => Op::Swap,
        "random_bits" => Op::RandomBits { start: p.int("start")? as u64 },
        "random_fold" => Op::RandomFold { place: u32::try_from(p.int("place")?).map_err(|e| e.to_string())? },
        "reduce" => Op::Reduce { kind: p.reduce()?, axes: p.axes("axes")? },
        "scan" => Op::Scan { kind: p.reduce()?, axis: p.int("axis")?, reverse: p.flag("reverse")? },
        "arg_reduce" => Op::ArgReduce { max: p.flag("max")?, axis: p.int("axis")? },
        "arg_sort" => Op::ArgSort { axis: p.int("axis")?, descending: p.flag("descending")? },
        "dot" => Op::Dot(DotDims {
            lhs_batch: p.axes("lhs_batch")?,
            rhs_batch: p.axes("rhs_batch")?,
            lhs_contract: p.axes("lhs_contract")?,
            rhs_contract: p.axes("rhs_contract")?,
        }),
        "attention" | "attention_grad" => {
            let kind = if name == "attention" { AttentionKind::Forward } else { AttentionKind::Backward };
            let what = Attention {
                kind,
                batch: p.list("batch")?,
                queries: p.int("queries")?,
                keys: p.int("keys")?,
                width: p.int("width")?,
                out_width: p.int("out_width")?,
                scale: p.written::<f64>("scale")?.ok_or("`scale` expected")?.into(),
                hidden: p.written::<f64>("hidden")?.ok_or("`hidden` expected")?.into(),
                mask: p.flag("mask")?,
                bias: p.flag("bias")?,
                causal: p.written("causal")?,
            };
            let rank = what.batch.len() + 2;
            let turned = p.list("turned")?.chunks(rank).map(Axes::from).collect();
            Op::Attention(Arc::new(AttentionOp { what, turned }))
        }
        "conv" => Op::Conv {
            kind: p.choice("kind", &[ConvKind::Forward, ConvKind::InputGrad, ConvKind::FilterGrad].map(|k| (conv_name(k), k)))?,
            dims: ConvDims {
                batch: p.int("batch")?,
                in_channels: p.int("in_channels")?,
                out_channels: p.int("out_channels")?,
                groups: p.int("groups")?.max(1),
                input: p.list("input")?,
                filter: p.list("filter")?,
                output: p.list("output")?,
                stride: p.list("stride")?,
                dilation: p.list("dilation")?,
                pad_lo: p.list("pad_lo")?,
                pad_hi: p.list("pad_hi")?,
            },
        },
        "broadcast" => Op::Broadcast { dims: p.axes("dims")? },
        "permute" => Op::Permute { perm: p.axes("perm")? },
        "slice" => Op::Slice { start: p.axes("start")?, stop: p.axes("stop")?, step: p.axes("step")? },
        "pad" => Op::Pad { lo: p.axes("lo")?, hi: p.axes("hi")?, interior: p.axes("interior")? },
        "flip" => Op::Flip { axes: p.axes("axes")? },
        "concat" => Op::Concat { axis: p.int("axis")? },
        "window" => Op::Window { axis: p.int("axis")?, size: p.int("size")?, stride: p.int("stride")?, dilation: p.int("dilation")? },
        "gather" => Op::Gather { axis: p.int("axis")? },
        "scatter" => Op::Scatter { axis: p.int("axis")?, mode: p.choice("mode", &[("add", ScatterMode::Add), ("set", ScatterMode::Set)])? },
        "all_reduce" => Op::AllReduce,
        "callback" => Op::Callback {
            function: u32::try_from(p.int("function")?).map_err(|e| e.to_string())?,
            results: match ty {
                NodeTy::Tuple(results) => results.as_slice().into(),
                NodeTy::Array(_) => return Err("a callback gives a tuple".into()),
            },
        },
        "loop" => Op::Loop(LoopOp {
            trip: match p.take("trip") {
                Some(Value::Int(n)) => Some(n),
                Some(_) => return Err("number `trip` expected".into()),
                None => None,
            },
            reverse: p.flag("reverse")?,
            carried: p.int("carried")?,
            scanned: p.int("scanned")?,
            guard: match p.take("guard") {
                Some(Value::Int(most)) => Some(Guard { most: Some(most) }),
                Some(Value::Word(word)) if word == "open" => Some(Guard { most: None }),
                Some(_) => return Err("a number or `open` expected as `guard`".into()),
                None => None,
            },
            body: p.sub("body")?,
        }),
        "cond" => Op::Cond { then: p.sub("then")?, otherwise: p.sub("else")? },
        "call" => Op::Call(CallOp {
            name: match p.take("name") {
                Some(Value::Text(name)) => name,
                _ => return Err("text `name` expected".into()),
            },
            body: p.sub("body")?,
            vjp: p.sub("vjp").ok(),
        }),
        "result" => Op::Result { index: p.int("index")? },
        _ => return Err(format!("`{name}` is no operation")),
    })
}
