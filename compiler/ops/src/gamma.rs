//! Draws of the gamma distribution, and their derivative in its shape parameter.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::random::{box_muller, uniforms, wide};
use crate::value::Array;
use optc_abi::DType;
use optc_ir::graph::{CallOp, Graph, Guard, LoopOp, NodeId, Op, Origin, ReduceOp};
use optc_ir::{ScalarOp, Ty};
use std::sync::Arc;

/// Tries of the rejection method.
const TRIES: usize = 6;
/// From this shape parameter on the derivative is taken from the Cornish-Fisher expansion.
const LARGE: f64 = 1000.0;
/// Most terms of the series below it: `x` at most 10 standard deviations above `LARGE` needs fewer.
const TERMS: usize = 2000;

/// Draws with shape parameter `a` (of type `wide(dtype)`, of the shape of the result) and rate 1: Marsaglia and Tsang 2000, "A simple method for generating gamma
/// variables", with 6 tries, each refused with probability below 0.05; the last one is taken. For `a < 1` a draw for `a + 1` is multiplied by `u^(1/a)`.
///
/// # Gradient
/// In `a` along the quantile: the implicit derivative `dx/da = -(dP(a, x)/da) / p(x; a)` of Figurnov, Mohamed, Mnih 2018, section 3. (That of the operations above
/// would leave out how acceptance depends on `a`.)
pub(crate) fn standard_gamma(cx: &mut Cx, key: &Array, a: &Array, shape: &[Dim]) -> Array {
    let inner = wide(a.dtype);
    let one = cx.splat(inner, shape, 1.0);
    let small = cx.map(ScalarOp::Lt, &[a, &one]);
    let boosted = cx.map(ScalarOp::Add, &[a, &one]);
    let b = cx.select(&small, &boosted, a);
    let d = cx.with_const(ScalarOp::Sub, &b, 1.0 / 3.0);
    let nine = cx.with_const(ScalarOp::Mul, &d, 9.0);
    let root = cx.map(ScalarOp::Sqrt, &[&nine]);
    let c = cx.map(ScalarOp::Div, &[&one, &root]);
    let u = uniforms(cx, key, 3 * TRIES + 1, shape, inner);
    let mut result: Option<Array> = None;
    for t in (0..TRIES).rev() {
        let x = box_muller(cx, &u[3 * t], &u[3 * t + 1]);
        let cx_x = cx.map(ScalarOp::Mul, &[&c, &x]);
        let base = cx.map(ScalarOp::Add, &[&one, &cx_x]);
        let square = cx.map(ScalarOp::Mul, &[&base, &base]);
        let v = cx.map(ScalarOp::Mul, &[&square, &base]);
        let v = cx.with_const(ScalarOp::Max, &v, 1e-30);
        let value = cx.map(ScalarOp::Mul, &[&d, &v]);
        result = Some(match result {
            None => value,
            Some(later) => {
                // log(1 - u) < x^2 / 2 + d - d v + d log v
                let rest = cx.map(ScalarOp::Sub, &[&one, &u[3 * t + 2]]);
                let log_u = cx.map(ScalarOp::Log, &[&rest]);
                let x2 = cx.map(ScalarOp::Mul, &[&x, &x]);
                let half = cx.with_const(ScalarOp::Mul, &x2, 0.5);
                let log_v = cx.map(ScalarOp::Log, &[&v]);
                let dlog = cx.map(ScalarOp::Mul, &[&d, &log_v]);
                let sum = cx.map(ScalarOp::Add, &[&half, &d]);
                let sum = cx.map(ScalarOp::Sub, &[&sum, &value]);
                let sum = cx.map(ScalarOp::Add, &[&sum, &dlog]);
                let taken = cx.map(ScalarOp::Lt, &[&log_u, &sum]);
                cx.select(&taken, &value, &later)
            }
        });
    }
    let g = result.expect("compiler bug: no tries");
    let rest = cx.map(ScalarOp::Sub, &[&one, &u[3 * TRIES]]);
    let inverse = cx.map(ScalarOp::Div, &[&one, a]);
    let factor = cx.map(ScalarOp::Pow, &[&rest, &inverse]);
    let factor = cx.select(&small, &factor, &one);
    let x = cx.map(ScalarOp::Mul, &[&g, &factor]);
    cx.build(inner, shape.to_vec(), &[&x, a], |e| {
        let ty = Ty::new(inner, e.shape.iter().copied());
        let x = e.graph.op(Op::StopGradient, &[e.x[0]], e.origin);
        let call = e.graph.op(Op::Call(drawn_call(&ty, e.origin)), &[x, e.x[1]], e.origin);
        e.graph.result(call, 0, e.origin)
    })
}

/// The draw as it is, as a function of the draw and `a` whose derivative in `a` is the implicit one.
fn drawn_call(ty: &Ty, o: Origin) -> CallOp {
    let mut body = Graph::new();
    let x = body.input("x", ty.clone(), o);
    body.input("a", ty.clone(), o);
    body.outputs = vec![x];
    let mut rule = Graph::new();
    rule.input("x", ty.clone(), o);
    let a = rule.input("a", ty.clone(), o);
    let x = rule.input("drawn", ty.clone(), o);
    let ct = rule.input("ct", ty.clone(), o);
    let slope = implicit_slope(&mut rule, a, x, o);
    let by_a = rule.map(ScalarOp::Mul, &[ct, slope], o);
    let zeros = rule.splat(ty, 0.0, o);
    rule.outputs = vec![zeros, by_a];
    CallOp { name: "gamma".into(), body: Arc::new(body), vjp: Some(Arc::new(rule)) }
}

/// `-(dP(a, x)/da) / p(x; a)` of the regularized lower incomplete gamma function `P` and its density `p`, computed in f64.
///
/// Below `LARGE` by the series `P = x^a e^-x / Γ(a) S` with `S = sum_n t_n`, `t_n = x^n / (a (a + 1) … (a + n))` (DLMF 8.7.1), whose derivative in `a` term by term gives
/// `-x (S (ln x - ψ(a)) - sum_n t_n (1/a + … + 1/(a + n)))`. From `LARGE` on by the Cornish-Fisher expansion of the quantile (Abramowitz and Stegun 26.2.49), whose
/// error is below `10 a^-2.5`.
fn implicit_slope(g: &mut Graph, a: NodeId, x: NodeId, o: Origin) -> NodeId {
    let narrow = g.ty(a).dtype;
    let (a, x) = (g.cast(a, DType::F64, o), g.cast(x, DType::F64, o));
    let mut m = Math { ty: g.ty(a).clone(), g, o };
    // A draw may round to zero, where the derivative is zero in the limit.
    let tiny = m.number(1e-300);
    let x = m.map(ScalarOp::Max, &[x, tiny]);
    let (one, bound) = (m.number(1.0), m.number(LARGE));
    let large = m.map(ScalarOp::Le, &[bound, a]);
    // Where the other formula holds each is evaluated at a harmless point.
    let (a_small, x_small) = (m.map(ScalarOp::Select, &[large, one, a]), m.map(ScalarOp::Select, &[large, one, x]));
    let (a_large, x_large) = (m.map(ScalarOp::Select, &[large, a, bound]), m.map(ScalarOp::Select, &[large, x, bound]));
    let by_series = m.series(a_small, x_small);
    let by_expansion = m.expansion(a_large, x_large);
    let slope = m.map(ScalarOp::Select, &[large, by_expansion, by_series]);
    g.cast(slope, narrow, o)
}

/// Elementwise arithmetic on f64 arrays of one shape.
struct Math<'g> {
    g: &'g mut Graph,
    ty: Ty,
    o: Origin,
}

impl Math<'_> {
    fn number(&mut self, x: f64) -> NodeId {
        self.g.splat(&self.ty, x, self.o)
    }
    fn map(&mut self, op: ScalarOp, x: &[NodeId]) -> NodeId {
        self.g.map(op, x, self.o)
    }
    fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Add, &[a, b])
    }
    fn sub(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Sub, &[a, b])
    }
    fn mul(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Mul, &[a, b])
    }
    fn div(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Div, &[a, b])
    }
    fn scaled(&mut self, a: NodeId, by: f64) -> NodeId {
        let by = self.number(by);
        self.mul(a, by)
    }
    fn shifted(&mut self, a: NodeId, by: f64) -> NodeId {
        let by = self.number(by);
        self.add(a, by)
    }
    /// `c0 + y (c1 + y (…))`
    fn polynomial(&mut self, y: NodeId, coefficients: &[f64]) -> NodeId {
        let (last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
        let mut p = self.number(*last);
        for &c in rest.iter().rev() {
            let product = self.mul(p, y);
            p = self.shifted(product, c);
        }
        p
    }
    /// The digamma function for positive arguments: the asymptotic series (DLMF 5.11.2) at `a + 10`, then the recurrence.
    fn digamma(&mut self, a: NodeId) -> NodeId {
        let one = self.number(1.0);
        let y = self.shifted(a, 10.0);
        let inverse = self.div(one, y);
        let square = self.mul(inverse, inverse);
        let tail = self.polynomial(square, &[1.0 / 12.0, -1.0 / 120.0, 1.0 / 252.0, -1.0 / 240.0, 1.0 / 132.0, -691.0 / 32760.0]);
        let tail = self.mul(tail, square);
        let log = self.map(ScalarOp::Log, &[y]);
        let half = self.scaled(inverse, 0.5);
        let mut psi = self.sub(log, half);
        psi = self.sub(psi, tail);
        for k in (0..10).rev() {
            let at = self.shifted(a, f64::from(k));
            let part = self.div(one, at);
            psi = self.sub(psi, part);
        }
        psi
    }
    fn series(&mut self, a: NodeId, x: NodeId) -> NodeId {
        let o = self.o;
        let one = self.number(1.0);
        // Carried: whether any term still counts; term, harmonic sum, sum, weighted sum.
        let mut body = Graph::new();
        let n = body.input("n", Ty::scalar(DType::I32), o);
        body.input("go", Ty::scalar(DType::Bool), o);
        let before: Vec<NodeId> = (0..4).map(|k| body.input(format!("sum.{k}"), self.ty.clone(), o)).collect();
        let (a_in, x_in) = (body.input("a", self.ty.clone(), o), body.input("x", self.ty.clone(), o));
        let n = body.cast(n, DType::F64, o);
        let n = body.broadcast(n, &[], &self.ty.shape, o);
        let mut m = Math { g: &mut body, ty: self.ty.clone(), o };
        let n = m.shifted(n, 1.0);
        let at = m.add(a_in, n);
        let inverse = {
            let one = m.number(1.0);
            m.div(one, at)
        };
        let factor = m.mul(x_in, inverse);
        let term = m.mul(before[0], factor);
        let harmonic = m.add(before[1], inverse);
        let sum = m.add(before[2], term);
        let part = m.mul(term, harmonic);
        let weighted = m.add(before[3], part);
        let least = m.scaled(weighted, 1e-17);
        let counts = m.map(ScalarOp::Lt, &[least, part]);
        let axes: Vec<usize> = (0..self.ty.rank()).collect();
        let go = if axes.is_empty() { counts } else { body.reduce(ReduceOp::Or, counts, &axes, o) };
        body.outputs = vec![go, term, harmonic, sum, weighted];
        let first = self.div(one, a);
        let square = self.mul(first, first);
        let go = self.g.scalar(DType::Bool, 1.0, o);
        let limit = self.g.scalar(DType::I32, TERMS as f64, o);
        let op =
            LoopOp { trip: None, reverse: false, carried: 5, scanned: 0, guard: Some(Guard { most: Some(TERMS) }), body: Arc::new(body) };
        let sums = self.g.loop_results(op, &[limit, go, first, first, first, square, a, x], o);
        let psi = self.digamma(a);
        let log = self.map(ScalarOp::Log, &[x]);
        let distance = self.sub(log, psi);
        let product = self.mul(sums[3], distance);
        let rest = self.sub(sums[4], product);
        self.mul(x, rest)
    }
    fn expansion(&mut self, a: NodeId, x: NodeId) -> NodeId {
        let one = self.number(1.0);
        let root = self.map(ScalarOp::Sqrt, &[a]);
        let e = self.div(one, root);
        let e2 = self.mul(e, e);
        let e3 = self.mul(e2, e);
        let gap = self.sub(x, a);
        let y = self.mul(gap, e);
        // x = a + sqrt(a) z + (z^2 - 1) / 3 + (z^3 - 7 z) / (36 sqrt(a)) - (3 z^4 + 7 z^2 - 16) / (810 a) + …
        let terms = |m: &mut Self, z: NodeId| {
            let first = m.polynomial(z, &[-1.0 / 3.0, 0.0, 1.0 / 3.0]);
            let second = m.polynomial(z, &[0.0, -7.0 / 36.0, 0.0, 1.0 / 36.0]);
            let third = m.polynomial(z, &[16.0 / 810.0, 0.0, -7.0 / 810.0, 0.0, -3.0 / 810.0]);
            (first, second, third)
        };
        let mut z = y;
        for _ in 0..12 {
            let (first, second, third) = terms(self, z);
            let parts = [self.mul(first, e), self.mul(second, e2), self.mul(third, e3)];
            z = parts.into_iter().fold(y, |z, part| self.sub(z, part));
        }
        let (_, second, third) = terms(self, z);
        let half = self.scaled(z, 0.5);
        let half = self.mul(half, e);
        let second = self.scaled(second, -0.5);
        let second = self.mul(second, e3);
        let e4 = self.mul(e2, e2);
        let third = self.scaled(third, -1.0);
        let third = self.mul(third, e4);
        let slope = self.add(one, half);
        let slope = self.add(slope, second);
        self.add(slope, third)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::Tensor;
    use optc_ir::interp::interpret;

    /// Shape parameter, draw, derivative: from central differences of the quantile in 50 digits (mpmath 1.3).
    const KNOWN: &[(f64, f64, f64)] = &[
        (0.01, 1e-40, 9.154251826189316e-37),
        (0.01, 0.001, 0.6354138007185822),
        (0.01, 0.5, 46.67927940515068),
        (0.3, 0.001, 0.022481140914591292),
        (0.3, 0.1, 0.7894044031182721),
        (0.3, 1.5, 3.2130227806903227),
        (0.3, 6.0, 4.92295534454489),
        (1.0, 0.05, 0.1759137411081552),
        (1.0, 1.0, 1.1735630272247268),
        (1.0, 8.0, 2.768936845834868),
        (2.5, 0.2, 0.23139441752889153),
        (2.5, 2.3, 1.024601874770876),
        (2.5, 12.0, 2.110481520182),
        (20.0, 8.0, 0.6158237308806624),
        (20.0, 20.0, 1.008373788363406),
        (20.0, 45.0, 1.4716566271929012),
        (150.0, 105.0, 0.8331628405803777),
        (150.0, 150.0, 1.0011118490229753),
        (150.0, 230.0, 1.2302598070902924),
        (900.0, 780.0, 0.9303276349000006),
        (900.0, 900.0, 1.0001852057482472),
        (900.0, 1060.0, 1.084245526664637),
        (1500.0, 1330.0, 0.9411668751652046),
        (1500.0, 1500.0, 1.000111118515696),
        (1500.0, 1720.0, 1.070108796015095),
        (40000.0, 39000.0, 0.9873986254533544),
        (40000.0, 40000.0, 1.0000041666770831),
        (40000.0, 41100.0, 1.0136298866720688),
    ];

    #[test]
    fn slopes_follow_the_quantiles() {
        let o = Origin::default();
        let ty = Ty::new(DType::F64, [KNOWN.len()]);
        let mut g = Graph::new();
        let (a, x) = (g.input("a", ty.clone(), o), g.input("x", ty, o));
        g.outputs = vec![implicit_slope(&mut g, a, x, o)];
        let column =
            |f: fn(&(f64, f64, f64)) -> f64| Tensor::from_f64(DType::F64, &[KNOWN.len()], &KNOWN.iter().map(f).collect::<Vec<_>>());
        let found = interpret(&g, &[column(|k| k.0), column(|k| k.1)]).expect("no error").remove(0).to_f64();
        for ((a, x, want), found) in KNOWN.iter().zip(found) {
            // More than five deviations above the mean seven to nine digits of `1 - P` are lost.
            let tolerance = if *x > a + 5.0 * a.sqrt() { 1e-6 } else { 1e-9 };
            let tolerance = if *a < LARGE { tolerance } else { 1e-7 };
            assert!((found - want).abs() <= tolerance * want.abs().max(1e-3), "a = {a}, x = {x}: {found} is not {want}");
        }
    }
}
