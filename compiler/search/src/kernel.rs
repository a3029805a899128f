//! What a program computes as one fused kernel over flat arrays of all leaves: weights and states are updated in place.
//!
//! Numbers for all leaves are computed in f64 before the loop and rounded to f32 where they meet arrays, as in compiled optimizers; arrays are f32.

mod coupled;

pub use coupled::{Leaves, of};

use crate::dag::{Dag, Input, Node, NodeId};
use crate::fun::Ty;
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::kernel::{Access, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt, ValueId};
use optc_ir::scalar::Class;

/// Numbers of the kernel's buffers; states follow.
pub mod buffer {
    /// Weights.
    pub const WEIGHT: usize = 0;
    /// Gradient.
    pub const GRADIENT: usize = 1;
    /// The learning rate, one f64.
    pub const RATE: usize = 2;
    /// Steps made before, one i32.
    pub const STEP: usize = 3;
    /// The first state.
    pub const STATES: usize = 4;
}

/// A value in the loop, or before it.
#[derive(Clone, Copy)]
struct Made {
    value: ValueId,
    /// It is a bool.
    truth: bool,
}

struct Maker<'a> {
    dag: &'a Dag,
    out: Vec<Stmt>,
    values: usize,
    /// f64 values of numbers.
    scalars: Vec<Option<Made>>,
    /// f32 values.
    floats: Vec<Option<Made>>,
}

/// The kernel of a program for arrays of `len` elements, with buffers for `states` states. `None` if elements depend on others ([`of`] is for those too).
pub fn kernel(dag: &Dag, len: usize, states: usize) -> Option<Kernel> {
    if !dag.elementwise() || dag.states.len() > states {
        return None;
    }
    let count = dag.nodes.len();
    let mut maker = Maker { dag, out: Vec::new(), values: 0, scalars: vec![None; count], floats: vec![None; count] };
    for id in dag.ids().filter(|id| dag.ty(*id) == Ty::Scalar) {
        maker.scalar(id);
    }
    // Numbers that arrays meet, or that are results, in f32 before the loop.
    for id in dag.ids() {
        let users = dag.ids().filter(|u| dag.ty(*u) == Ty::Leaf).any(|u| dag.node(u).operands().contains(&id));
        let result = id == dag.update || dag.states.iter().any(|s| s.next == id);
        if dag.ty(id) == Ty::Scalar && (users || result) {
            maker.rounded(id);
        }
    }
    let before = std::mem::take(&mut maker.out);
    for id in dag.ids().filter(|id| dag.ty(*id) == Ty::Leaf) {
        maker.element(id);
    }
    let weight = maker.load(buffer::WEIGHT);
    let update = maker.float(dag.update);
    let moved = maker.push(DType::F32, Expr::Map(ScalarOp::Sub, vec![weight, update]));
    let next: Vec<ValueId> = dag.states.iter().map(|s| maker.float(s.next)).collect();
    let at = element_index();
    for (k, value) in next.into_iter().enumerate() {
        maker.out.push(Stmt::Store { buffer: buffer::STATES + k, index: at.clone(), value });
    }
    maker.out.push(Stmt::Store { buffer: buffer::WEIGHT, index: at, value: moved });
    let body = std::mem::take(&mut maker.out);
    let array = |access| BufferParam { dtype: DType::F32, access };
    let one = |dtype| BufferParam { dtype, access: Access::Read };
    let mut buffers = vec![array(Access::ReadWrite), array(Access::Read), one(DType::F64), one(DType::I32)];
    buffers.extend((0..states).map(|_| array(Access::ReadWrite)));
    let mut whole = before;
    whole.push(Stmt::For { axis: 0, extent: Extent::Const(len as i64), kind: LoopKind::Vector, body });
    Some(Kernel { buffers, axes: 1, values: maker.values, body: whole, ..Kernel::default() })
}

fn element_index() -> Index {
    Index { axes: vec![(0, 1)], ..Index::default() }
}

impl Maker<'_> {
    fn push(&mut self, dtype: DType, expr: Expr) -> ValueId {
        let value = self.values;
        self.values += 1;
        self.out.push(Stmt::Let { value, dtype, expr });
        value
    }

    fn load(&mut self, buffer: usize) -> ValueId {
        self.push(DType::F32, Expr::Load { buffer, index: element_index(), guard: None })
    }

    fn scalar(&mut self, id: NodeId) {
        let made = match *self.dag.node(id) {
            Node::Const(bits) => self.plain(DType::F64, Expr::Const(Literal::Float(f64::from_bits(bits)))),
            Node::Input(Input::T) => {
                let load = Expr::Load { buffer: buffer::STEP, index: Index::default(), guard: None };
                let before = self.push(DType::I32, load);
                let before = self.push(DType::F64, Expr::Cast(before));
                let one = self.push(DType::F64, Expr::Const(Literal::Float(1.0)));
                self.plain(DType::F64, Expr::Map(ScalarOp::Add, vec![before, one]))
            }
            Node::Input(_) => self.plain(DType::F64, Expr::Load { buffer: buffer::RATE, index: Index::default(), guard: None }),
            Node::Map(op, x) => {
                let operands: Vec<Made> =
                    x[..op.arity()].iter().map(|x| self.scalars[x.0 as usize].expect("operands come first")).collect();
                self.map(op, &operands, DType::F64)
            }
            Node::Sum(_) | Node::Total(_) => unreachable!("elementwise"),
        };
        self.scalars[id.0 as usize] = Some(made);
    }

    fn plain(&mut self, dtype: DType, expr: Expr) -> Made {
        Made { value: self.push(dtype, expr), truth: false }
    }

    /// A number as f32.
    fn rounded(&mut self, id: NodeId) {
        let made = match (*self.dag.node(id), self.scalars[id.0 as usize]) {
            (Node::Const(bits), _) => self.plain(DType::F32, Expr::Const(Literal::Float(f64::from_bits(bits)))),
            (_, Some(made)) if made.truth => made,
            (_, Some(made)) => self.plain(DType::F32, Expr::Cast(made.value)),
            (_, None) => unreachable!("numbers are made first"),
        };
        self.floats[id.0 as usize] = Some(made);
    }

    fn element(&mut self, id: NodeId) {
        let made = match *self.dag.node(id) {
            Node::Input(Input::W) => Made { value: self.load(buffer::WEIGHT), truth: false },
            Node::Input(Input::G) => Made { value: self.load(buffer::GRADIENT), truth: false },
            Node::Input(Input::State(k)) => Made { value: self.load(buffer::STATES + k as usize), truth: false },
            Node::Map(op, x) => {
                let operands: Vec<Made> = x[..op.arity()].iter().map(|x| self.floats[x.0 as usize].expect("operands come first")).collect();
                self.map(op, &operands, DType::F32)
            }
            _ => unreachable!("numbers are no arrays"),
        };
        self.floats[id.0 as usize] = Some(made);
    }

    /// A truth as a number.
    fn as_float(&mut self, made: Made, dtype: DType) -> ValueId {
        if made.truth { self.push(dtype, Expr::Cast(made.value)) } else { made.value }
    }

    fn float(&mut self, id: NodeId) -> ValueId {
        let made = self.floats[id.0 as usize].expect("every result has been made");
        self.as_float(made, DType::F32)
    }

    fn map(&mut self, op: ScalarOp, operands: &[Made], dtype: DType) -> Made {
        if op == ScalarOp::Select {
            let condition = if operands[0].truth {
                operands[0].value
            } else {
                let zero = self.push(dtype, Expr::Const(Literal::Float(0.0)));
                self.push(DType::Bool, Expr::Map(ScalarOp::Ne, vec![operands[0].value, zero]))
            };
            let (a, b) = (self.as_float(operands[1], dtype), self.as_float(operands[2], dtype));
            return self.plain(dtype, Expr::Map(op, vec![condition, a, b]));
        }
        let x: Vec<ValueId> = operands.iter().map(|o| self.as_float(*o, dtype)).collect();
        if matches!(op.row().class, Class::Compare | Class::Test) {
            return Made { value: self.push(DType::Bool, Expr::Map(op, x)), truth: true };
        }
        self.plain(dtype, Expr::Map(op, x))
    }
}
