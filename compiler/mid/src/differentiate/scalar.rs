//! The derivative table: one row per scalar operation.
//!
//! # Gradient at kinks
//! `abs` and `sign` give 0 at 0; `min` and `max` share equally at a tie; `pow` is finite at a zero base where its limit is (`x^0`
//! has slope 0, and the slope in the exponent is 0 at a zero base); rounding operations and comparisons give 0; `x mod y` has
//! slope 1 in x and `-floor(x / y)` in y; `select` passes to the chosen side. `sqrt` at 0 gives infinity.

use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, NodeId, Op, Origin};

/// A partial derivative of a scalar operation, as the map it applies to a tangent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// 0
    Zero,
    /// t
    One,
    /// -t
    MinusOne,
    /// t * f
    Factor(NodeId),
    /// t / d
    Over(NodeId),
}

/// Whether an operation has a derivative that is not zero everywhere, in the operand at `position`.
pub fn has_partial(op: ScalarOp, position: usize) -> bool {
    use ScalarOp::*;
    match op {
        FloorDiv | Sign | Floor | Ceil | Round | Trunc | And | Or | Xor | Not | Shl | Shr | Eq | Ne | Lt | Le | IsFinite | IsNan => false,
        Select => position > 0,
        _ => true,
    }
}

/// The partial derivative of `z = op(x)` in operand `position`, built in `g` from the operands `x` and the result `z`.
/// [`ScalarOp::Select`] is not a product with a factor and has no row here.
pub fn partial(g: &mut Graph, op: ScalarOp, x: &[NodeId], z: NodeId, position: usize, origin: Origin) -> Partial {
    use Partial::{Factor, MinusOne, One, Over, Zero};
    use ScalarOp::*;
    if !has_partial(op, position) {
        return Zero;
    }
    let mut e = Expr { g, origin, like: z };
    match (op, position) {
        (Add, _) | (Sub, 0) | (Rem, 0) | (Fma, 2) => One,
        (Sub, _) | (Neg, _) => MinusOne,
        (Mul, _) | (Fma, _) => Factor(x[1 - position]),
        (Div, 0) => Over(x[1]),
        (Div, _) => {
            let quotient = e.map(Div, &[z, x[1]]);
            Factor(e.map(Neg, &[quotient]))
        }
        (Rem, _) => {
            let quotient = e.map(FloorDiv, x);
            Factor(e.map(Neg, &[quotient]))
        }
        (Min, _) | (Max, _) => {
            let (mine, other) = (x[position], x[1 - position]);
            let wins = if op == Max { e.map(Lt, &[other, mine]) } else { e.map(Lt, &[mine, other]) };
            let (tie, half, zero, one) = (e.map(Eq, x), e.c(0.5), e.c(0.0), e.c(1.0));
            let rest = e.map(Select, &[tie, half, zero]);
            Factor(e.map(Select, &[wins, one, rest]))
        }
        (Pow, 0) => power(&mut e, x[0], x[1]),
        (Pow, _) => {
            let (zero, one) = (e.c(0.0), e.c(1.0));
            let at_zero = e.map(Eq, &[x[0], zero]);
            let base = e.map(Select, &[at_zero, one, x[0]]);
            let log = e.map(Log, &[base]);
            Factor(e.map(Mul, &[z, log]))
        }
        (Atan2, _) => {
            let (yy, xx) = (e.map(Mul, &[x[0], x[0]]), e.map(Mul, &[x[1], x[1]]));
            let square = e.map(Add, &[yy, xx]);
            let top = if position == 0 { x[1] } else { e.map(Neg, &[x[0]]) };
            Factor(e.map(Div, &[top, square]))
        }
        (Abs, _) => Factor(e.map(Sign, x)),
        (Sqrt, _) => Over(e.map(Add, &[z, z])),
        (Rsqrt, _) => {
            let cube = e.map(Mul, &[z, z]);
            let cube = e.map(Mul, &[cube, z]);
            Factor(e.scaled(-0.5, cube))
        }
        (Cbrt, _) => {
            let square = e.map(Mul, &[z, z]);
            Over(e.scaled(3.0, square))
        }
        (Exp, _) => Factor(z),
        (Exp2, _) => Factor(e.scaled(std::f64::consts::LN_2, z)),
        (Expm1, _) => Factor(e.plus(1.0, z)),
        (Log, _) => Over(x[0]),
        (Log1p, _) => Over(e.plus(1.0, x[0])),
        (Log2, _) => Over(e.scaled(std::f64::consts::LN_2, x[0])),
        (Sin, _) => Factor(e.map(Cos, x)),
        (Cos, _) => {
            let sine = e.map(Sin, x);
            Factor(e.map(Neg, &[sine]))
        }
        (Tan, _) => {
            let square = e.map(Mul, &[z, z]);
            Factor(e.plus(1.0, square))
        }
        (Asin, _) | (Acos, _) => {
            let rest = e.one_minus_square(x[0]);
            let slope = e.map(Rsqrt, &[rest]);
            Factor(if op == Asin { slope } else { e.map(Neg, &[slope]) })
        }
        (Atan, _) => {
            let square = e.map(Mul, &[x[0], x[0]]);
            Over(e.plus(1.0, square))
        }
        (Sinh, _) => Factor(e.map(Cosh, x)),
        (Cosh, _) => Factor(e.map(Sinh, x)),
        (Tanh, _) => Factor(e.one_minus_square(z)),
        (Asinh, _) => {
            let square = e.map(Mul, &[x[0], x[0]]);
            let sum = e.plus(1.0, square);
            Factor(e.map(Rsqrt, &[sum]))
        }
        (Acosh, _) => {
            // (x - 1)(x + 1) keeps its digits near 1 where x^2 - 1 loses them.
            let (low, high) = (e.plus(-1.0, x[0]), e.plus(1.0, x[0]));
            let product = e.map(Mul, &[low, high]);
            Factor(e.map(Rsqrt, &[product]))
        }
        (Atanh, _) => Over(e.one_minus_square(x[0])),
        (Sigmoid, _) => {
            let one = e.c(1.0);
            let rest = e.map(Sub, &[one, z]);
            Factor(e.map(Mul, &[z, rest]))
        }
        (Softplus, _) => Factor(e.map(Sigmoid, &[x[0]])),
        (Erf, _) => {
            let square = e.map(Mul, &[x[0], x[0]]);
            let minus = e.map(Neg, &[square]);
            let bell = e.map(Exp, &[minus]);
            Factor(e.scaled(std::f64::consts::FRAC_2_SQRT_PI, bell))
        }
        (
            FloorDiv | Sign | Floor | Ceil | Round | Trunc | And | Or | Xor | Not | Shl | Shr | Eq | Ne | Lt | Le | IsFinite | IsNan
            | Select,
            _,
        ) => {
            panic!("compiler bug: no derivative row for {}", op.name())
        }
    }
}

/// y x^(y-1), with the small constant exponents that occur in practice spelled out.
fn power(e: &mut Expr, x: NodeId, y: NodeId) -> Partial {
    use ScalarOp::*;
    match constant_value(e.g, y) {
        Some(0.0) => Partial::Zero,
        Some(1.0) => Partial::One,
        Some(2.0) => Partial::Factor(e.scaled(2.0, x)),
        Some(3.0) => {
            let square = e.map(Mul, &[x, x]);
            Partial::Factor(e.scaled(3.0, square))
        }
        Some(n) => {
            let less = e.c(n - 1.0);
            let power = e.map(Pow, &[x, less]);
            Partial::Factor(e.scaled(n, power))
        }
        None => {
            // At y = 0 the slope is 0 whatever x is; the inner select keeps x^-1 = inf away from the product.
            let (zero, one) = (e.c(0.0), e.c(1.0));
            let flat = e.map(Eq, &[y, zero]);
            let less = e.map(Sub, &[y, one]);
            let exponent = e.map(Select, &[flat, one, less]);
            let power = e.map(Pow, &[x, exponent]);
            Partial::Factor(e.map(Mul, &[y, power]))
        }
    }
}

/// The value of a node whose elements are all one literal.
pub fn constant_value(g: &Graph, id: NodeId) -> Option<f64> {
    let node = g.node(id);
    match &node.op {
        Op::Const(t) if t.len() == 1 => Some(t.get_f64(0)),
        Op::Broadcast { .. } | Op::Reshape => constant_value(g, node.operands[0]),
        Op::Cast => {
            let (from, to) = (g.ty(node.operands[0]).dtype, g.ty(id).dtype);
            let exact = to.is_float() && (from.is_int() || (from.is_float() && from.size() <= to.size()));
            if exact { constant_value(g, node.operands[0]) } else { None }
        }
        _ => None,
    }
}

/// Builds expressions of one array type.
struct Expr<'g> {
    g: &'g mut Graph,
    origin: Origin,
    /// A node of the type.
    like: NodeId,
}

impl Expr<'_> {
    fn map(&mut self, op: ScalarOp, x: &[NodeId]) -> NodeId {
        self.g.map(op, x, self.origin)
    }
    /// An array full of `value`.
    fn c(&mut self, value: f64) -> NodeId {
        let ty = self.g.ty(self.like).clone();
        self.g.splat(&ty, value, self.origin)
    }
    fn scaled(&mut self, factor: f64, x: NodeId) -> NodeId {
        let factor = self.c(factor);
        self.map(ScalarOp::Mul, &[x, factor])
    }
    fn plus(&mut self, term: f64, x: NodeId) -> NodeId {
        let term = self.c(term);
        self.map(ScalarOp::Add, &[x, term])
    }
    fn one_minus_square(&mut self, x: NodeId) -> NodeId {
        let square = self.map(ScalarOp::Mul, &[x, x]);
        let one = self.c(1.0);
        self.map(ScalarOp::Sub, &[one, square])
    }
}
