//! The loss of a row out of a computation that the compiler made: elementwise in the prediction and the target, or the mean or sum of such over the rows.

use super::formula::{Formula, Token};
use crate::fun::Fun;
use optc_abi::DType;
use optc_ir::graph::{Graph, NodeId, Op, ReduceOp};
use optc_ir::scalar::ScalarOp;
use rustc_hash::FxHashMap;

/// Most tokens of a loss.
const LARGEST: usize = 1000;

/// The loss of one row as a formula of the graph's inputs, by number; these and what is computed from them have `rows` rows.
///
/// # Errors
/// Why it is none, in words.
pub fn row_loss(graph: &Graph, rows: usize) -> Result<Formula, String> {
    let mut root = *graph.outputs.first().ok_or("it gives nothing")?;
    let mut factor = 1.0;
    let single = |id: NodeId| graph.ty(id).len() == 1;
    // Down to the sum over rows.
    while single(root) {
        let node = graph.node(root);
        let number = |id: NodeId| optc_mid::differentiate::scalar::constant_value(graph, id);
        root = match &node.op {
            Op::Reduce { kind: ReduceOp::Sum, .. } if graph.ty(node.operands[0]).len() == rows => {
                let each = Maker { graph, rows, made: FxHashMap::default() }.formula(node.operands[0])?;
                // The mean over rows is taken anyway; a sum differs from it by a number that changes nothing.
                let share = factor * rows as f64;
                let scaled = factor != 1.0 && (share - 1.0).abs() > 1e-12;
                return Ok(if scaled { Formula::call(Fun::Plain(ScalarOp::Mul), &[&Formula::constant(share), &each]) } else { each });
            }
            Op::Map(ScalarOp::Div) if number(node.operands[1]).is_some() => {
                factor /= number(node.operands[1]).unwrap_or(1.0);
                node.operands[0]
            }
            Op::Map(ScalarOp::Mul) if number(node.operands[1]).is_some() => {
                factor *= number(node.operands[1]).unwrap_or(1.0);
                node.operands[0]
            }
            Op::Map(ScalarOp::Mul) if number(node.operands[0]).is_some() => {
                factor *= number(node.operands[0]).unwrap_or(1.0);
                node.operands[1]
            }
            Op::Cast | Op::Reshape | Op::StopGradient => node.operands[0],
            _ => return Err("it is neither elementwise nor the mean or sum of the losses of rows".to_string()),
        };
    }
    Maker { graph, rows, made: FxHashMap::default() }.formula(root)
}

struct Maker<'a> {
    graph: &'a Graph,
    rows: usize,
    made: FxHashMap<NodeId, Formula>,
}

impl Maker<'_> {
    fn formula(&mut self, id: NodeId) -> Result<Formula, String> {
        if let Some(made) = self.made.get(&id) {
            return Ok(made.clone());
        }
        if let Some(number) = optc_mid::differentiate::scalar::constant_value(self.graph, id) {
            return Ok(Formula::constant(number));
        }
        let node = self.graph.node(id);
        let len = self.graph.ty(id).len();
        let made = match &node.op {
            Op::Input { index } => Formula::var(u16::try_from(*index).map_err(|_| "it has too many inputs".to_string())?),
            Op::Map(op) => {
                let truth = self.graph.ty(node.operands[0]).dtype == DType::Bool;
                let x = node.operands.iter().map(|o| self.formula(*o)).collect::<Result<Vec<_>, _>>()?;
                // Truths are 1 and 0.
                let op = match op {
                    ScalarOp::And if truth => ScalarOp::Min,
                    ScalarOp::Or if truth => ScalarOp::Max,
                    ScalarOp::Xor if truth => ScalarOp::Ne,
                    ScalarOp::Not if truth => {
                        let zero = Formula::constant(0.0);
                        let made = Formula::call(Fun::Plain(ScalarOp::Eq), &[&x[0], &zero]);
                        self.made.insert(id, made.clone());
                        return Ok(made);
                    }
                    ScalarOp::And | ScalarOp::Or | ScalarOp::Xor | ScalarOp::Not | ScalarOp::Shl | ScalarOp::Shr => {
                        return Err(format!("it uses `{}` of integers", op.name()));
                    }
                    other => *other,
                };
                Formula::call(Fun::Plain(op), &x.iter().collect::<Vec<_>>())
            }
            Op::Cast | Op::Reshape | Op::StopGradient | Op::Broadcast { .. } if self.graph.ty(node.operands[0]).len() == len => {
                self.formula(node.operands[0])?
            }
            Op::Broadcast { .. } if self.graph.ty(node.operands[0]).len() == 1 && len == self.rows => self.formula(node.operands[0])?,
            _ => return Err("the loss of a row depends on other rows, or on more than the prediction and the target".to_string()),
        };
        if made.tokens.len() > LARGEST {
            return Err(format!("written out it has more than {LARGEST} operations"));
        }
        debug_assert!(made.tokens.iter().all(|t| !matches!(t, Token::Var(k) if *k > 1)), "two inputs");
        self.made.insert(id, made.clone());
        Ok(made)
    }
}
