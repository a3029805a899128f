//! Moves loop-invariant definitions out of loops, to just before the outermost loop they do not depend on.

use optc_abi::DType;
use optc_ir::kernel::{Access, AxisId, Expr, Extent, Index, Kernel, LoopKind, Stmt, ValueId};

/// A statement with hoisted definitions attached to its loops.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A loop; `before` runs once, if the loop has any pass.
    For { axis: AxisId, extent: Extent, kind: LoopKind, before: Vec<Stmt>, body: Vec<Node> },
    /// Any other statement.
    Leaf(Stmt),
}

/// A kernel's statements after hoisting, and the types of its values.
pub(crate) struct Hoisted {
    pub(crate) body: Vec<Node>,
    pub(crate) dtypes: Vec<DType>,
}

struct Hoister<'k> {
    kernel: &'k Kernel,
    /// Loop depth at which a value or axis becomes known; 0 is outside all loops.
    values: Vec<usize>,
    axes: Vec<usize>,
    dtypes: Vec<DType>,
    /// Definitions hoisted to before the loop at each depth, of the loops now open.
    before: Vec<Vec<Stmt>>,
}

/// Hoists.
pub(crate) fn hoist(kernel: &Kernel) -> Hoisted {
    let mut h = Hoister {
        kernel,
        values: vec![0; kernel.values],
        axes: vec![0; kernel.axes],
        dtypes: vec![DType::F32; kernel.values],
        before: Vec::new(),
    };
    let body = h.block(&kernel.body);
    Hoisted { body, dtypes: h.dtypes }
}

impl Hoister<'_> {
    fn block(&mut self, body: &[Stmt]) -> Vec<Node> {
        let mut nodes = Vec::new();
        for stmt in body {
            match stmt {
                Stmt::For { axis, extent, kind, body } => {
                    self.before.push(Vec::new());
                    self.axes[*axis] = self.before.len();
                    let body = self.block(body);
                    let before = self.before.pop().unwrap_or_default();
                    nodes.push(Node::For { axis: *axis, extent: *extent, kind: *kind, before, body });
                }
                Stmt::Let { value, dtype, expr } => {
                    self.dtypes[*value] = *dtype;
                    let here = self.before.len();
                    let depth = self.depth(expr).unwrap_or(here);
                    self.values[*value] = depth;
                    if depth < here {
                        self.before[depth].push(stmt.clone());
                    } else {
                        nodes.push(Node::Leaf(stmt.clone()));
                    }
                }
                _ => nodes.push(Node::Leaf(stmt.clone())),
            }
        }
        nodes
    }

    /// The innermost loop an expression depends on; none if it must stay where it is.
    fn depth(&self, expr: &Expr) -> Option<usize> {
        let of = |values: &[ValueId]| values.iter().map(|&v| self.values[v]).max().unwrap_or(0);
        Some(match expr {
            Expr::Const(_) => 0,
            Expr::Axis(a) => self.axes[*a],
            Expr::Load { buffer, index, guard } => {
                if self.kernel.buffers.get(*buffer).is_none_or(|b| b.access != Access::Read) {
                    return None;
                }
                let guard = guard.map_or(0, |(c, o)| of(&[c, o]));
                guard.max(self.index_depth(index))
            }
            Expr::Map(_, x) => of(x),
            Expr::Cast(x) | Expr::Bitcast(x) => of(&[*x]),
            Expr::Acc(_) => return None,
            Expr::Philox { key, counter, .. } => of(key).max(of(counter)),
            Expr::CheckedIndex { index, .. } => of(&[*index]),
        })
    }

    fn index_depth(&self, index: &Index) -> usize {
        let axes = index.axes.iter().map(|&(a, _)| self.axes[a]);
        let values = index.values.iter().map(|&(v, _)| self.values[v]);
        let sized = index.sized.iter().map(|&(a, _, _)| self.axes[a]);
        axes.chain(values).chain(sized).max().unwrap_or(0)
    }
}
