//! Patterns of the rule table: reading, matching, building.

use super::rules::{Kind, RULES, Rule};
use optc_abi::DType;
use optc_ir::graph::{Graph, NodeId, Op, Origin, Ty};
use optc_ir::scalar::{Class, ScalarOp, TABLE};
use std::sync::OnceLock;

/// Number of variables: a b c p q k l.
pub const VARS: usize = 7;
const NAMES: [&str; VARS] = ["a", "b", "c", "p", "q", "k", "l"];

/// A tree of scalar operations over variables and literals.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// A variable, by its place in `a b c p q k l`.
    Var(usize),
    /// A literal; truth values are 1 and 0.
    Literal(f64),
    /// An operation.
    Map(ScalarOp, Vec<Pattern>),
}

/// What the variables stand for.
pub type Bindings = [Option<NodeId>; VARS];

/// Whether a variable stands only for literals.
pub fn is_literal_var(var: usize) -> bool {
    var >= 5
}

impl Pattern {
    /// Reads `mul(a, 1)`. Panics on a mistake in the table (a compiler bug).
    pub fn parse(text: &str) -> Pattern {
        let (pattern, rest) = Self::parse_prefix(text.trim());
        assert!(rest.trim().is_empty(), "compiler bug: `{rest}` after a pattern");
        pattern
    }

    fn parse_prefix(text: &str) -> (Pattern, &str) {
        let end = text.find(['(', ')', ',']).unwrap_or(text.len());
        let (word, rest) = (text[..end].trim(), &text[end..]);
        if let Some(mut rest) = rest.strip_prefix('(') {
            let op = ScalarOp::parse(word).unwrap_or_else(|| panic!("compiler bug: `{word}` in a pattern"));
            let mut operands = Vec::new();
            loop {
                let (operand, after) = Self::parse_prefix(rest);
                operands.push(operand);
                match after.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => {
                        let rest = after.strip_prefix(')').expect("compiler bug: `)` missing in a pattern");
                        assert_eq!(operands.len(), op.arity(), "compiler bug: operands of `{word}` in a pattern");
                        return (Pattern::Map(op, operands), rest);
                    }
                }
            }
        }
        let leaf = match word {
            "true" => Pattern::Literal(1.0),
            "false" => Pattern::Literal(0.0),
            _ => match NAMES.iter().position(|n| *n == word) {
                Some(var) => Pattern::Var(var),
                None => Pattern::Literal(word.parse().unwrap_or_else(|_| panic!("compiler bug: `{word}` in a pattern"))),
            },
        };
        (leaf, rest)
    }

    /// Whether the node has this form; variables are bound, equal ones to the same node.
    pub fn matches(&self, graph: &Graph, id: NodeId, bound: &mut Bindings) -> bool {
        match self {
            Pattern::Var(var) => match bound[*var] {
                Some(node) => node == id,
                None => {
                    let fits = !is_literal_var(*var) || splat_value(graph, id).is_some();
                    if fits {
                        bound[*var] = Some(id);
                    }
                    fits
                }
            },
            Pattern::Literal(want) => splat_value(graph, id).is_some_and(|v| {
                let float = graph.ty(id).dtype.is_float();
                if float { v.to_bits() == want.to_bits() } else { v == *want && !(*want == 0.0 && want.is_sign_negative()) }
            }),
            Pattern::Map(op, patterns) => {
                let node = graph.node(id);
                if !matches!(&node.op, Op::Map(o) if o == op) {
                    return false;
                }
                let operands = &node.operands;
                let saved = *bound;
                if patterns.iter().zip(operands).all(|(p, &o)| p.matches(graph, o, bound)) {
                    return true;
                }
                *bound = saved;
                if is_commutative(*op) && patterns[0].matches(graph, operands[1], bound) && patterns[1].matches(graph, operands[0], bound) {
                    return true;
                }
                *bound = saved;
                false
            }
        }
    }

    /// Whether the operands of a node about to be made have the form of this pattern's.
    pub fn matches_operands(&self, graph: &Graph, operands: &[NodeId], bound: &mut Bindings) -> bool {
        let Pattern::Map(op, patterns) = self else { return false };
        if patterns.iter().zip(operands).all(|(p, &o)| p.matches(graph, o, bound)) {
            return true;
        }
        *bound = [None; VARS];
        is_commutative(*op) && patterns[0].matches(graph, operands[1], bound) && patterns[1].matches(graph, operands[0], bound)
    }

    /// Builds the pattern; `ty` is the type of the result, `main` the element type of `a b c k l`.
    pub fn build(&self, to: &mut impl Emit, bound: &Bindings, ty: &Ty, main: DType, origin: Origin) -> NodeId {
        match self {
            Pattern::Var(var) => bound[*var].expect("compiler bug: a variable of the replacement is not in the pattern"),
            Pattern::Literal(value) => to.emit_splat(ty, *value, origin),
            Pattern::Map(op, patterns) => {
                let operands: Vec<NodeId> = patterns
                    .iter()
                    .enumerate()
                    .map(|(i, p)| {
                        let dtype = match op.row().class {
                            Class::Compare | Class::Test => main,
                            Class::Select if i == 0 => DType::Bool,
                            _ => ty.dtype,
                        };
                        p.build(to, bound, &ty.with_dtype(dtype), main, origin)
                    })
                    .collect();
                to.emit_map(*op, &operands, origin)
            }
        }
    }
}

/// Where patterns are built.
pub trait Emit {
    /// An elementwise operation.
    fn emit_map(&mut self, op: ScalarOp, operands: &[NodeId], origin: Origin) -> NodeId;
    /// An array of equal elements.
    fn emit_splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> NodeId;
}

impl Emit for Graph {
    fn emit_map(&mut self, op: ScalarOp, operands: &[NodeId], origin: Origin) -> NodeId {
        self.map(op, operands, origin)
    }
    fn emit_splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> NodeId {
        self.splat(ty, value, origin)
    }
}

/// Whether the operands may be swapped (payloads of NaN aside).
pub fn is_commutative(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(op, Add | Mul | Min | Max | And | Or | Xor | Eq | Ne)
}

/// The value of a literal scalar or a broadcast one.
pub fn splat_value(graph: &Graph, id: NodeId) -> Option<f64> {
    let node = graph.node(id);
    let id = match &node.op {
        Op::Broadcast { dims } if dims.is_empty() => node.operands[0],
        _ => id,
    };
    match &graph.node(id).op {
        Op::Const(t) if t.shape.is_empty() => Some(t.get_f64(0)),
        _ => None,
    }
}

/// A rule with its patterns read.
pub struct Compiled {
    /// The row.
    pub rule: &'static Rule,
    /// What it finds.
    pub pattern: Pattern,
    /// What it puts there.
    pub replacement: Pattern,
}

/// The rules by the operation at the root of their patterns, in the order of the table.
pub fn rules_of(op: ScalarOp) -> &'static [Compiled] {
    static ALL: OnceLock<Vec<Vec<Compiled>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut all: Vec<Vec<Compiled>> = TABLE.iter().map(|_| Vec::new()).collect();
        for rule in RULES {
            let (pattern, replacement) = (Pattern::parse(rule.pattern), Pattern::parse(rule.replacement));
            let Pattern::Map(op, _) = &pattern else { panic!("compiler bug: rule `{}` matches everything", rule.name) };
            let op = *op;
            all[op as usize].push(Compiled { rule, pattern, replacement });
        }
        all
    });
    &all[op as usize]
}

impl Kind {
    /// Whether the rule holds for this type.
    pub fn fits(self, dtype: DType) -> bool {
        match self {
            Kind::Float => dtype.is_float(),
            Kind::Int => dtype.is_int(),
            Kind::Signed => dtype.is_float() || matches!(dtype, DType::I32 | DType::I64),
            Kind::Number => dtype != DType::Bool,
            Kind::Bool => dtype == DType::Bool,
            Kind::Any => true,
        }
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
