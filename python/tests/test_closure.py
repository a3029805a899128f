"""Rules that look at the loss at other weights, with closures: of NumPy and JAX here, of torch in `test_torch_closure`."""

import importlib.util
import threading
import unittest

import numpy as np

import optc

ROSENBROCK = """
import std.optim.lbfgs
import std.optim.nonlinear_cg
import std.optim.backtracking
import std.optim.damped_newton
import std.optim.sam
import std.optim.sgd
fn f(p: tree) = {
  let c = 1 + reshape(cumsum(zeros_like(reshape(p.x, -1)) + 1) - 1, 4, 3) / 12
  sum(c * (1 - p.x)^2) + 10 * sum((p.y - p.x^2)^2)
}
fn slopes(p: tree) = value_and_grad(p -> f(p))(p)
data nothing { z = zeros([1, 1]) }
model leaves() {
  param x: f32[4, 3] = 0.3
  param y: f32[4, 3] = 0.9
  { x = x, y = y }
}
loss of_leaves(p, z: f32[B, 1]) -> f32 = f(p) + 0 * sum(z)
train t {
  data nothing, batch = 1
  model net = leaves()
  loss of_leaves(net(), z)
  optimizer RULE
  steps 12
  precision f64
}
"""
C = 1 + np.arange(12.0).reshape(4, 3) / 12


def start():
    return [np.full((4, 3), 0.3), np.full((4, 3), 0.9)]


def value_and_grad(params):
    x, y = params
    r = y - x**2
    return np.sum(C * (1 - x) ** 2) + 10 * np.sum(r**2), [-2 * C * (1 - x) - 40 * x * r, 20 * r]


def product(params, directions):
    (x, y), (u, v) = params, directions
    return [(2 * C - 40 * (y - x**2) + 80 * x**2) * u - 40 * x * v, -40 * x * u + 20 * v]


CLOSURE = optc.Closure(value_and_grad, hvp=product)


class Numpy(unittest.TestCase):
    def test_steps_are_those_of_a_train(self):
        """Line searches, conjugate gradients in a loop, two gradients: a closure in NumPy against the loss lowered into the step."""
        for rule in ("lbfgs()", "nonlinear_cg()", "backtracking()", "damped_newton()", "sam(sgd(lr = 0.002), rho = 0.1)"):
            with self.subTest(rule=rule):
                want = optc.compile(ROSENBROCK.replace("RULE", rule)).train("t").params["net"]
                w = start()
                o = optc.optimizer(rule, w)
                states = o.init(w)
                for _ in range(12):
                    o.step(w, None, states, closure=CLOSURE)
                self.assertLess(value_and_grad(w)[0], value_and_grad(start())[0])
                for a, b in zip(w, (want["x"], want["y"])):
                    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)

    def test_functions_of_a_spec_as_closures(self):
        """What is called back may run compiled code itself, on the same threads."""
        m = optc.compile(ROSENBROCK.replace("RULE", "lbfgs()"))

        def closure(params):
            value, slopes = m.slopes(dict(zip("xy", params)))
            return value, list(slopes.values())

        o, w, v = optc.optimizer("lbfgs()", start()), start(), start()
        one, other = o.init(w), o.init(v)
        for _ in range(6):
            o.step(w, None, one, closure=closure)
            o.step(v, None, other, closure=CLOSURE)
        for a, b in zip(w, v):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)

    def test_derivatives_of_the_loss_at_other_weights(self):
        """Along a line, by the gradient and by the Hessian, also in a loop; and a batch of points."""
        m = optc.compile("""
        optimizer along() {
          shared state first: float = 0
          shared state second: float = 0
          shared state twice: float = 0
          shared state values: float[3] = 0
          shared let slope = grad(a -> loss_at(w - a * g))(0.01)
          shared let bend = grad(grad(a -> loss_at(w - a * g)))(0.01)
          shared let three = vmap(a -> loss_at(w - a * g))([0.0, 0.01, 0.02])
          shared var sum = 0.0
          shared var n = 0
          while n < 2 {
            sum <- sum + grad(a -> loss_at(w - a * g))(0.01)
            n <- n + 1
          }
          first <- slope
          second <- bend
          twice <- sum
          values <- three
          w <- w - 0 * g
        }
        """)
        w = start()
        o = m.optimizer("along()", w)
        self.assertEqual(o.asks, ("loss_at", "grad_at", "hvp_at"))
        states = o.init(w)
        o.step(w, None, states, closure=CLOSURE)
        loss, g = value_and_grad(w)

        def moved(a):
            return [x - a * d for x, d in zip(w, g)]

        def dot(a, b):
            return sum(float(np.sum(x * y)) for x, y in zip(a, b))

        slope = -dot(value_and_grad(moved(0.01))[1], g)
        for name, want in [("first", slope), ("twice", 2 * slope), ("second", dot(product(moved(0.01), g), g)), ("values", [value_and_grad(moved(a))[0] for a in (0, 0.01, 0.02)])]:
            np.testing.assert_allclose(states.shared[name], want, rtol=1e-12, err_msg=name)

    def test_diagonal_hessians_against_numpy(self):
        """z (H z) is the diagonal where H is diagonal, whatever is drawn: AdaHessian and Sophia, transcribed."""
        c = np.random.default_rng(1).uniform(0.5, 2, size=(5, 4))
        closure = optc.Closure(lambda p: (np.sum(c * p[0] ** 4), [4 * c * p[0] ** 3]), hvp=lambda p, v: [12 * c * p[0] ** 2 * v[0]])
        first = np.random.default_rng(2).uniform(0.5, 1.5, size=(5, 4))

        def adahessian(w, s, t, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-16):
            m = beta1 * s[0] + (1 - beta1) * 4 * c * w**3
            v = beta2 * s[1] + (1 - beta2) * (12 * c * w**2) ** 2 if (t - 1) % 2 == 0 else s[1]
            return w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps), (m, v)

        def sophia(w, s, t, lr=0.05, beta1=0.965, beta2=0.99, gamma=0.01, eps=1e-8, decay=1e-4):
            m, before = beta1 * s[0] + (1 - beta1) * 4 * c * w**3, s[1]
            h = beta2 * before + (1 - beta2) * 12 * c * w**2 if (t - 1) % 2 == 0 else before
            return w - lr * (np.clip(m / (1 - beta1**t) / np.maximum(gamma * before, eps), -1, 1) + decay * w), (m, h)

        for rule, reference in [("adahessian(interval = 2)", adahessian), ("sophia(lr = 0.05, interval = 2)", sophia)]:
            with self.subTest(rule=rule):
                o = optc.optimizer(rule, [first])
                self.assertEqual(o.asks, ("hvp_at",))
                w, state, got = first, (0.0, 0.0), [first.copy()]
                states = o.init(got)
                for t in range(1, 8):
                    w, state = reference(w, state, t)
                    o.step(got, None, states, closure=closure)
                    np.testing.assert_allclose(got[0], w, rtol=1e-12, atol=1e-12)

    def test_gradients_of_examples(self):
        """Clipping each example's gradient, against NumPy."""
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(6, 3)), rng.normal(size=6)

        def each(params):
            r = x @ params[0] + params[1] - y
            return [2 * r[:, None] * x, 2 * r]

        def mean(params):
            r = x @ params[0] + params[1] - y
            return np.mean(r**2), [g.mean(axis=0) for g in each(params)]

        w = [rng.normal(size=3), np.asarray(0.2)]
        o = optc.optimizer("per_example_clip(max_norm = 1.0) |> sgd(lr = 0.1)", w, examples=6)
        g = each(w)
        norms = np.sqrt(np.sum(g[0] ** 2, axis=1) + g[1] ** 2)
        scale = np.minimum(1, 1 / norms)
        want = [w[0] - 0.1 * np.mean(scale[:, None] * g[0], axis=0), w[1] - 0.1 * np.mean(scale * g[1])]
        o.step(w, None, o.init(w), closure=optc.Closure(mean, grad_each=each))
        for a, b in zip(w, want):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        with self.assertRaisesRegex(optc.SpecError, r"E0542(.|\n)*examples=32"):
            optc.optimizer("per_example_clip() |> sgd(lr = 0.1)", w)

    def test_step_changes_and_update_agree(self):
        o = optc.optimizer("lbfgs()", start())
        a, b, c = start(), start(), start()
        one, two, three = o.init(a), o.init(b), o.init(c)
        for _ in range(4):
            o.step(a, None, one, closure=CLOSURE)
            b = [x + d for x, d in zip(b, o.delta(b, None, two, closure=CLOSURE))]
            changes, three = o.update(c, value_and_grad(c)[1], three, loss=value_and_grad(c)[0], closure=CLOSURE)
            c = [x + d for x, d in zip(c, changes)]
        for x, y, z in zip(a, b, c):
            np.testing.assert_allclose(x, y, rtol=1e-9)
            np.testing.assert_allclose(x, z, rtol=1e-9)

    def test_nothing_is_changed_where_the_closure_raises(self):
        """At whatever call: the error is the closure's, parameters and states are those from before, and the step can be made again."""

        class Own(Exception):
            pass

        for rule in ("lbfgs(memory = 3)", "nonlinear_cg()", "damped_newton()", "sam(adam(lr = 0.01))", "lookahead(sam(sgd(lr = 0.01)), k = 2)"):
            o = optc.optimizer(rule, start())
            w = start()
            states = o.init(w)
            for _ in range(3):
                o.step(w, None, states, closure=CLOSURE)
            asked = 0

            def failing(at, f):
                def called(*args):
                    nonlocal asked
                    asked += 1
                    if asked == at:
                        raise Own(f"call {at}")
                    return f(*args)

                return called

            def copied():
                return [x.copy() for x in (*w, *(s for leaf in states.leaves for s in leaf.values()), *states.shared.values())]

            calls = 0
            for at in range(1, 30):
                before, asked = copied(), 0
                loss, grads = value_and_grad(w)
                try:
                    o.step(w, grads, states, loss=loss, closure=optc.Closure(failing(at, value_and_grad), hvp=failing(at, product)))
                except Own as error:
                    calls += 1
                    self.assertEqual(str(error), f"call {at}")
                    for x, y in zip(before, copied()):
                        np.testing.assert_array_equal(x, y, err_msg=rule)
                else:
                    break
            self.assertGreaterEqual(calls, 1, rule)
            self.assertEqual(states.shared["step"], 4)

    def test_what_is_missing_is_said(self):
        w = start()
        sam = optc.optimizer("sam(sgd(lr = 0.1))", w)
        grads = value_and_grad(w)[1]
        with self.assertRaisesRegex(ValueError, r"sam.* asks for gradients at other weights.*closure="):
            sam.step(w, grads, sam.init(w))
        with self.assertRaisesRegex(ValueError, "needs gradients, or a `closure`"):
            sam.step(w, None, sam.init(w))
        with self.assertRaisesRegex(ValueError, "`step` with a `closure`"):
            sam.bind(w, grads, sam.init(w))
        newton = optc.optimizer("newton()", w)
        with self.assertRaisesRegex(ValueError, r"newton\(\) asks for products with the Hessian: `closure=optc.Closure\(value_and_grad, hvp=…\)`"):
            newton.step(w, None, newton.init(w), closure=value_and_grad)
        with self.assertRaisesRegex(ValueError, "the gradient of `w1` is f32.4, 3., not f64"):
            sam.step(w, grads, sam.init(w), closure=lambda p: (0.0, [p[0], np.float32(p[1])]))
        with self.assertRaisesRegex(ValueError, "a list with the gradient of each of the 2 parameters, not 1 of them"):
            sam.step(w, grads, sam.init(w), closure=lambda p: (0.0, p[:1]))
        states = sam.init(w)

        def again(p):
            sam.step(p, p, states, closure=value_and_grad)
            return value_and_grad(p)

        with self.assertRaisesRegex(RuntimeError, "steps the same optimizer"):
            sam.step(w, grads, states, closure=again)
        for x, y in zip(w, start()):
            np.testing.assert_array_equal(x, y)

    def test_rules_that_ask_for_nothing_take_a_closure_too(self):
        a, b = start(), start()
        o = optc.optimizer("adamw(lr = 0.1)", a)
        one, other = o.init(a), o.init(b)
        o.step(a, None, one, closure=value_and_grad)
        o.step(b, value_and_grad(b)[1], other)
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)

    def test_threads_take_turns(self):
        o = optc.optimizer("lbfgs()", start())
        results = []

        def work():
            w = start()
            states = o.init(w)
            for _ in range(5):
                o.step(w, None, states, closure=CLOSURE)
            results.append(w)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(results), 4)
        for w in results[1:]:
            np.testing.assert_array_equal(w[0], results[0][0])


@unittest.skipUnless(importlib.util.find_spec("jax"), "JAX is not installed")
class Jax(unittest.TestCase):
    def test_updates(self):
        import jax
        import jax.numpy as jnp

        def f(p):
            return jnp.sum(C * (1 - p[0]) ** 2) + 10 * jnp.sum((p[1] - p[0] ** 2) ** 2)

        closure = optc.Closure(jax.jit(jax.value_and_grad(f)), hvp=jax.jit(lambda p, v: jax.jvp(jax.grad(f), (p,), (v,))[1]))
        for rule in ("lbfgs()", "damped_newton()"):
            with self.subTest(rule=rule):
                params = [jnp.asarray(x, jnp.float32) for x in start()]
                o = optc.optimizer(rule, params)
                states = o.init(params)
                w = [np.asarray(x, np.float32) for x in start()]
                held = o.init(w)
                as_f32 = optc.Closure(lambda p: (value_and_grad(p)[0], [np.float32(g) for g in value_and_grad(p)[1]]), hvp=lambda p, v: [np.float32(x) for x in product(p, v)])
                for _ in range(3):
                    changes, states = o.update(params, None, states, closure=closure)
                    params = [p + d for p, d in zip(params, changes)]
                    o.step(w, None, held, closure=as_f32)
                for a, b in zip(params, w):
                    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
                self.assertLess(f(params), f([jnp.asarray(x) for x in start()]))


if __name__ == "__main__":
    unittest.main()
