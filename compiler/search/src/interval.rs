//! Bounds of what a program computes: intervals of all its values, for gradients, weights, learning rates and steps within limits. A program whose updates and states are bounded gives no infinity and no
//! NaN; one that is not known to be bounded may still be.
//!
//! Values are those of f32 arrays, so a bound above the largest f32 is infinite. Infinities in between are allowed where the result does not show them (the factor of a clipping is 1 at a norm of 0).

use crate::dag::{Builder, Dag, Input, Node, NodeId};
use crate::fun::{Fun, Ty};
use optc_ir::eval::eval_float;
use optc_ir::scalar::ScalarOp;

/// What programs are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// Largest |g| and |w|.
    pub size: f64,
    /// Largest learning rate.
    pub rate: f64,
    /// Most steps.
    pub steps: f64,
    /// Most elements of all leaves together.
    pub elements: f64,
}

impl Default for Given {
    fn default() -> Given {
        Given { size: 1e6, rate: 10.0, steps: 1e6, elements: 1e9 }
    }
}

/// All numbers between two, and whether NaN is among the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The least.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// Whether some value is no number.
    pub nan: bool,
    /// Whether some value may be -0, whose reciprocal is the other infinity.
    pub minus: bool,
}

/// All numbers, infinities and NaN.
pub const ALL: Interval = Interval { low: f64::NEG_INFINITY, high: f64::INFINITY, nan: true, minus: true };

impl Interval {
    fn new(low: f64, high: f64) -> Interval {
        if low.is_nan() || high.is_nan() { ALL } else { Interval { low, high, nan: false, minus: low <= 0.0 && high >= 0.0 } }
    }
    /// One number.
    pub fn point(x: f64) -> Interval {
        Interval::new(x, x)
    }
    /// Whether every value is a finite number.
    pub fn finite(self) -> bool {
        !self.nan && self.low.is_finite() && self.high.is_finite()
    }
    fn holds(self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
    fn within(self, other: Interval) -> bool {
        other.low <= self.low && self.high <= other.high && (other.nan || !self.nan) && (other.minus || !self.minus)
    }
    fn infinite(self) -> bool {
        self.low == f64::NEG_INFINITY || self.high == f64::INFINITY
    }
    fn join(self, other: Interval) -> Interval {
        Interval {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            nan: self.nan || other.nan,
            minus: self.minus || other.minus,
        }
    }
    fn with_nan(self, nan: bool) -> Interval {
        Interval { nan: self.nan || nan, ..self }
    }
    fn with_minus(self, minus: bool) -> Interval {
        Interval { minus: minus && self.holds(0.0), ..self }
    }
    /// As an f32: the nearest, infinite where it is too large, 0 where it is too small.
    fn narrowed(self) -> Interval {
        Interval { low: f64::from(self.low as f32), high: f64::from(self.high as f32), ..self }
    }
    /// With what rounding to f32 may move its ends by.
    fn blurred(self) -> Interval {
        Interval { low: self.low - ROUNDING * self.low.abs(), high: self.high + ROUNDING * self.high.abs(), ..self }
    }
}

/// More than an operation of f32 is wrong by, relatively.
const ROUNDING: f64 = 1e-6;

/// Whether results are exact, or have bounds that rounding does not pass.
fn exact(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(
        op,
        Min | Max
            | Neg
            | Abs
            | Sign
            | Floor
            | Ceil
            | Round
            | Trunc
            | Tanh
            | Sigmoid
            | Erf
            | Sin
            | Cos
            | Eq
            | Ne
            | Lt
            | Le
            | IsFinite
            | IsNan
            | Select
    )
}

/// The hull of products of ends; 0 times infinity is 0 here, as the ends of intervals are limits.
fn corners(a: Interval, b: Interval, of: impl Fn(f64, f64) -> f64) -> Interval {
    let all = [(a.low, b.low), (a.low, b.high), (a.high, b.low), (a.high, b.high)].map(|(x, y)| of(x, y));
    all.iter().fold(Interval::point(all[0]), |hull, x| hull.join(Interval::point(*x)))
}

fn product(x: f64, y: f64) -> f64 {
    if x == 0.0 || y == 0.0 { 0.0 } else { x * y }
}

fn mul(a: Interval, b: Interval) -> Interval {
    let nan = a.infinite() && b.holds(0.0) || b.infinite() && a.holds(0.0);
    corners(a, b, product).with_nan(nan)
}

fn square(a: Interval) -> Interval {
    let (x, y) = (a.low.abs(), a.high.abs());
    Interval::new(if a.holds(0.0) { 0.0 } else { x.min(y).powi(2) }, x.max(y).powi(2))
}

fn div(a: Interval, b: Interval) -> Interval {
    if b.low > 0.0 || b.high < 0.0 {
        let quotient = |x: f64, y: f64| if y.is_infinite() { 0.0 } else { x / y };
        return corners(a, b, quotient).with_nan(a.infinite() && b.infinite());
    }
    let nan = a.holds(0.0) || a.infinite() && b.infinite();
    if b.low == 0.0 && !b.minus && b.high > 0.0 && a.low >= 0.0 {
        return Interval::new(if b.high.is_infinite() { 0.0 } else { a.low / b.high }, f64::INFINITY).with_nan(nan);
    }
    Interval::new(f64::NEG_INFINITY, f64::INFINITY).with_nan(nan)
}

/// A function that rises on the part of its domain between two numbers, outside of which it has no value.
fn rising(op: ScalarOp, a: Interval, domain: (f64, f64)) -> Interval {
    if a.high < domain.0 || a.low > domain.1 {
        return ALL;
    }
    let at = |x: f64| eval_float(op, &[x.clamp(domain.0, domain.1)]);
    Interval::new(at(a.low), at(a.high)).with_nan(a.low < domain.0 || a.high > domain.1)
}

fn power(a: Interval, b: Interval) -> Interval {
    if a.low >= 0.0 && (a.low > 0.0 || b.low > 0.0) {
        return corners(a, b, f64::powf);
    }
    if b.low == b.high && b.low.fract() == 0.0 && b.low >= 0.0 {
        let ends = corners(a, b, f64::powf);
        return if a.holds(0.0) { ends.join(Interval::point(0.0)) } else { ends };
    }
    ALL
}

/// The values of an operation on values within intervals.
fn map(op: ScalarOp, x: &[Interval], same: bool) -> Interval {
    use ScalarOp::*;
    const EVERY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);
    let nan = x.iter().any(|i| i.nan);
    let (a, b) = (x[0], x[x.len().min(2) - 1]);
    let between = |low: f64, high: f64| Interval::new(low, high);
    let found = match op {
        Add => between(a.low + b.low, a.high + b.high)
            .with_nan(a.high == f64::INFINITY && b.low == f64::NEG_INFINITY || a.low == f64::NEG_INFINITY && b.high == f64::INFINITY),
        Sub if same => Interval::point(0.0).with_nan(a.infinite()),
        Sub => between(a.low - b.high, a.high - b.low)
            .with_nan(a.high == f64::INFINITY && b.high == f64::INFINITY || a.low == f64::NEG_INFINITY && b.low == f64::NEG_INFINITY),
        Mul if same => square(a),
        Mul => mul(a, b),
        Div => div(a, b),
        Min => between(a.low.min(b.low), a.high.min(b.high)),
        Max => between(a.low.max(b.low), a.high.max(b.high)),
        Pow => power(a, b),
        Atan2 => between(-std::f64::consts::PI, std::f64::consts::PI),
        Neg => between(-a.high, -a.low),
        Abs => between(if a.holds(0.0) { 0.0 } else { a.low.abs().min(a.high.abs()) }, a.low.abs().max(a.high.abs())),
        Sign | Floor | Ceil | Round | Trunc | Cbrt | Exp | Exp2 | Expm1 | Atan | Sinh | Tanh | Asinh | Sigmoid | Softplus | Erf => {
            rising(op, a, EVERY)
        }
        Sqrt | Log | Log2 => rising(op, a, (0.0, f64::INFINITY)),
        Log1p => rising(op, a, (-1.0, f64::INFINITY)),
        Asin | Atanh => rising(op, a, (-1.0, 1.0)),
        Acosh => rising(op, a, (1.0, f64::INFINITY)),
        Acos => between(0.0, std::f64::consts::PI).with_nan(a.low < -1.0 || a.high > 1.0),
        Rsqrt => div(Interval::point(1.0), rising(Sqrt, a, (0.0, f64::INFINITY))),
        Cosh => {
            let size = map(Abs, &[a], false);
            rising(Exp, size, EVERY).join(Interval::point(1.0))
        }
        Sin | Cos => between(-1.0, 1.0).with_nan(a.infinite()),
        Tan if a.low.abs().max(a.high.abs()) < std::f64::consts::FRAC_PI_2 => rising(op, a, EVERY),
        Eq | Ne | Lt | Le | IsFinite | IsNan => return between(0.0, 1.0),
        Select => return x[1].join(x[2]),
        FloorDiv | Rem | Tan | And | Or | Xor | Not | Shl | Shr | Fma => return ALL,
    };
    let minus = match op {
        // A sum is -0 only where both are.
        Add => a.minus && b.minus,
        Sub | Sqrt => a.minus,
        Min | Max => a.minus || b.minus,
        Mul => !same,
        Abs | Exp | Exp2 | Cosh | Sigmoid | Softplus => false,
        _ => true,
    };
    found.with_nan(nan).with_minus(minus)
}

/// The intervals of all nodes where those of states are these.
fn nodes(dag: &Dag, given: &Given, states: &[Interval]) -> Vec<Interval> {
    let mut out: Vec<Interval> = Vec::with_capacity(dag.nodes.len());
    // Numbers that depend on no sum are f64.
    let mut wide: Vec<bool> = Vec::with_capacity(dag.nodes.len());
    for id in dag.ids() {
        let node = dag.node(id);
        let f64s = dag.ty(id) == Ty::Scalar && !matches!(node, Node::Total(_)) && node.operands().iter().all(|x| wide[x.0 as usize]);
        let at = |x: NodeId| if f64s { out[x.0 as usize] } else { out[x.0 as usize].narrowed() };
        let found = match *node {
            Node::Input(input) => of_input(input, given, states),
            Node::Const(bits) => Interval::point(f64::from_bits(bits)),
            Node::Map(op, x) => {
                let operands: Vec<Interval> = x[..op.arity()].iter().map(|x| at(*x)).collect();
                let found = map(op, &operands, op.arity() == 2 && x[0] == x[1]);
                if f64s || exact(op) { found } else { found.blurred() }
            }
            Node::Sum(x) | Node::Total(x) => mul(at(x), Interval::new(1.0, given.elements)).with_minus(at(x).minus).blurred(),
        };
        out.push(if f64s { found } else { found.narrowed() });
        wide.push(f64s);
    }
    out
}

/// The bounds that are tried for a state, beside its first value.
const BOUNDS: [f64; 14] = [0.0, 1e-3, 1.0, 10.0, 1e3, 1e6, 1e7, 1e8, 1e9, 1e12, 1e15, 1e18, 1e24, 1e30];

/// The least of the bounds at or above a number, times what rounding may add.
fn rounded_up(x: f64) -> f64 {
    BOUNDS.iter().copied().find(|b| x <= *b).map_or(f64::INFINITY, |b| b * (1.0 + 1e-5))
}

/// For a state that only adds something to itself what it adds.
fn added(dag: &Dag, state: usize) -> Option<NodeId> {
    let own = |id: NodeId| *dag.node(id) == Node::Input(Input::State(state as u8));
    match *dag.node(dag.states[state].next) {
        Node::Map(ScalarOp::Add, [a, b, _]) if own(a) => Some(b),
        Node::Map(ScalarOp::Add, [a, b, _]) if own(b) => Some(a),
        _ => None,
    }
}

/// Bounds of states that hold at all steps, as far as intervals tell; `None` where there are none that are finite.
fn steady(dag: &Dag, given: &Given) -> Option<Vec<Interval>> {
    let mut states: Vec<Interval> = dag.states.iter().map(|s| Interval::point(s.init)).collect();
    for _ in 0..4 * BOUNDS.len() * (1 + states.len()) {
        let all = nodes(dag, given, &states);
        let mut steady = true;
        for (k, state) in dag.states.iter().enumerate() {
            let next = match added(dag, k) {
                // So often as there are steps.
                Some(term) => {
                    let term = mul(all[term.0 as usize], Interval::new(0.0, given.steps));
                    map(ScalarOp::Add, &[Interval::point(state.init), term], false).narrowed()
                }
                None => all[state.next.0 as usize].narrowed(),
            };
            if next.within(states[k]) {
                continue;
            }
            steady = false;
            let wider = states[k].join(next);
            let low = if wider.low < states[k].low { -rounded_up(-wider.low) } else { states[k].low };
            let high = if wider.high > states[k].high { rounded_up(wider.high) } else { states[k].high };
            states[k] = Interval { low: low.min(states[k].low), high, nan: wider.nan, minus: wider.minus };
        }
        if states.iter().any(|s| !s.finite()) {
            return None;
        }
        if steady {
            return Some(states);
        }
    }
    None
}

/// Whether updates and states of a program stay finite, as far as intervals tell.
pub fn finite(dag: &Dag, given: &Given) -> bool {
    steady(dag, given).is_some_and(|states| nodes(dag, given, &states)[dag.update.0 as usize].narrowed().finite())
}

/// The values that states of a program may have: all numbers, and NaN, where intervals find no bounds.
pub fn of_states(dag: &Dag, given: &Given) -> Vec<Interval> {
    steady(dag, given).unwrap_or_else(|| vec![ALL; dag.states.len()])
}

/// The values of an input where those of states are these.
pub fn of_input(input: Input, given: &Given, states: &[Interval]) -> Interval {
    match input {
        Input::W | Input::G => Interval::new(-given.size, given.size),
        Input::Lr => Interval::new(0.0, given.rate),
        Input::T => Interval::new(1.0, given.steps),
        Input::State(k) => states.get(usize::from(k)).copied().unwrap_or(ALL),
    }
}

/// The values of a function on values within intervals, all of them arrays in f32.
pub fn of_function(fun: Fun, x: &[Interval], given: &Given) -> Interval {
    let mut b = Builder::default();
    let args: Vec<NodeId> = (0..x.len()).map(|k| b.input(Input::State(k as u8))).collect();
    let update = fun.expand(&mut b, &args);
    let dag = b.bare(update);
    nodes(&dag, given, x)[dag.update.0 as usize].narrowed()
}

#[cfg(test)]
mod tests {
    use super::{Given, finite};
    use crate::tests::{ADAM, RAW_LION, read};

    fn is(text: &str) -> bool {
        finite(&read(text).dag().expect("a program"), &Given::default())
    }

    #[test]
    fn known_optimizers_are_bounded() {
        assert!(is(ADAM));
        assert!(is(
            "def train(w, g, m, lr):\n  c = interpolate(g, m, 0.9)\n  update = sign(c)\n  update = update * lr\n  m = interpolate(g, m, 0.99)\n  return update, m"
        ));
        assert!(is("def train(w, g, m, lr):\n  m = m * 0.9\n  m = m + g\n  update = m * lr\n  return update, m"));
        // Adagrad: bounded by the number of steps.
        assert!(is(
            "def train(w, g, v, lr):\n  q = square(g)\n  v = v + q\n  d = sqrt(v)\n  update = g / d\n  update = update * lr\n  return update, v"
        ));
        assert!(is("def train(w, g, lr):\n  g = clip_by_global_norm(g, 1.0)\n  update = g * lr\n  return update"));
    }

    #[test]
    fn what_may_fail_is_not() {
        // Infinite at a gradient of 0, no number there, overflow, outside of the domain, growth.
        assert!(!is("def train(w, g, lr):\n  u = reciprocal(g)\n  update = u * lr\n  return update"));
        assert!(!is("def train(w, g, lr):\n  n = global_norm(g)\n  u = raw_div(g, n)\n  update = u * lr\n  return update"));
        assert!(!is("def train(w, g, lr):\n  u = exp(g)\n  update = u * lr\n  return update"));
        assert!(!is("def train(w, g, lr):\n  u = arcsin(g)\n  update = u * lr\n  return update"));
        assert!(!is("def train(w, g, lr):\n  u = log(g)\n  update = u * lr\n  return update"));
        assert!(!is("def train(w, g, m, lr):\n  m = m * 1.01\n  m = m + g\n  update = m * lr\n  return update, m"));
        // Rounding: an average of signs may be above 1. A number that f32 does not hold is 0.
        assert!(!is(
            "def train(w, g, m, lr):\n  s = sign(g)\n  m = interpolate(m, s, 0.1)\n  u = arcsin(m)\n  update = u * lr\n  return update, m"
        ));
        assert!(!is("def train(w, g, lr):\n  a = abs(g)\n  a = a + 1e-60\n  u = reciprocal(a)\n  update = u * lr\n  return update"));
        assert!(is("def train(w, g, lr):\n  a = abs(g)\n  a = a + 1e-6\n  u = reciprocal(a)\n  update = u * lr\n  return update"));
        // In f32 1 + 1e-8 is 1; the negative of 0 is -0, and the reciprocal of that far below 1; a square may come to 0.
        assert!(!is(
            "def train(w, g, lr):\n  a = 1.0 + 1e-8\n  s = sign(g)\n  c = a - s\n  u = reciprocal(c)\n  update = u * lr\n  return update"
        ));
        assert!(!is(
            "def train(w, g, lr):\n  p = min(g, 0.0)\n  d = negative(p)\n  r = raw_div(1.0, d)\n  u = min(1.0, r)\n  update = u * lr\n  return update"
        ));
        assert!(!is("def train(w, g, lr):\n  q = g * g\n  d = q + 1e-50\n  u = raw_div(1.0, d)\n  update = u * lr\n  return update"));
        // m can be 1e-8 where it is negative, so that the protected divisor is 0.
        assert!(!is("def train(w, g, lr):\n  u = w / g\n  update = u * lr\n  return update"));
        // cosh is dead in Lion's raw form, and the sine's inverse is of a clipped gradient, whose elements no interval knows to be small.
        assert!(!is(RAW_LION));
    }
}
