"""Optimizer steps over lists of arrays."""

import gc
import os
import re
import tempfile
import unittest

import numpy as np

import optc

SHAPES = [(8, 6), (6,), (), (3, 4, 2), (8, 6)]

TRAIN = """
data nothing {{ x = zeros([1, 1]) }}
model leaves() {{
{params}
  {{ {fields} }}
}}
fn along(p) = {terms}
fn slopes(p: tree) = value_and_grad(p -> along(p))(p)
loss of_leaves(p, x: f32[B, 1]) -> f32 = along(p) + 0 * sum(x)
train t {{
  data nothing, batch = 1
  model net = leaves()
  loss of_leaves(net(), x)
  optimizer {rule}
  steps 4
  seed 3
}}
"""


#: What parameters without a default may be.
ARGUMENTS = {
    "inner": "sgd(lr = 0.01)", "outer": "sgd(lr = 0.5)", "prox": "(w, lr) -> w / (1 + lr)", "onto": "w -> maximum(w, -1)", "vertex": "g -> -sign(g)", "value": "0.5",
    "factor": "0.5", "when": "true",
}


def completed(rule, error):
    """The rule with what it lacks: an argument without a default, or a rule that changes weights behind it; none where that is not what the error says."""
    if "only changes gradients" in str(error):
        return f"{rule}{'' if '(' in rule else '()'} |> sgd(lr = 0.01)"
    needs = re.search(r"^error\[E0331\]: `(\w+)` needs `(\w+)`", str(error))
    if needs is None or needs[2] not in ARGUMENTS or f"{needs[2]} =" in rule:
        return None
    given = f"{needs[2]} = {ARGUMENTS[needs[2]]}"
    return f"{rule[:-1]}, {given})" if rule.endswith(")") else f"{rule}({given})"


def random(shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=s), dtype) for s in shapes]


def adamw(w, g, state, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=1e-4):
    """AdamW (Loshchilov and Hutter 2019), in f64."""
    m, v = state
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return w - lr * (m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + decay * w), (m, v)


class Optimizers(unittest.TestCase):
    def test_adamw_against_numpy(self):
        for dtype, close in [(np.float32, 1e-6), (np.float64, 1e-13)]:
            o = optc.optimizer("adamw(lr = 0.01)", SHAPES, dtype)
            w = random(SHAPES, dtype)
            want = [(np.array(x, np.float64), (0.0, 0.0)) for x in w]
            states = o.init(w)
            for t in range(1, 8):
                g = random(SHAPES, dtype, seed=t)
                lr = 0.01 / t
                o.step(w, g, states, lr=lr)
                want = [adamw(x, np.float64(d), s, t, lr) for (x, s), d in zip(want, g)]
                for a, (b, _) in zip(w, want):
                    np.testing.assert_allclose(a, b, rtol=close, atol=close)
            self.assertEqual(states.shared["step"], 7)
            self.assertEqual(states.shared["step"].dtype, np.int32)

    def as_in_a_train(self, rule, known):
        """Four steps of a rule are those of a train whose gradients are the weights, bit for bit, draws included. False where the rule cannot run alone."""
        shapes = [(8, 6), (6,), (8, 6), (5, 3)]
        names = [f"w{k}" for k in range(len(shapes))]
        try:
            o = optc.optimizer(rule, shapes, names=names, total_steps=4, examples=1)
        except (optc.SpecError, ValueError) as error:
            fuller = completed(rule, error)
            return self.as_in_a_train(fuller, known) if fuller else False
        used = sorted({n for n in known if re.search(rf"\b{n}\b", rule)})
        imports = "".join(f"import std.optim.{n}\n" for n in used) + ("import std.schedule.cosine\n" if "cosine(" in rule else "")
        spec = imports + TRAIN.format(
            params="\n".join(f"  param {n}: f32[{', '.join(map(str, s))}] = 0.5" for n, s in zip(names, shapes)),
            fields=", ".join(f"{n} = {n}" for n in names), terms=" + ".join(f"0.5 * sum(p.{n} * p.{n})" for n in names),
            rule=rule if "(" in rule or "{" in rule else f"{rule}()",
        )
        m = optc.compile(spec)
        want = m.train(seed=3)

        def along(params):
            value, slopes = m.slopes(dict(zip(names, params)))
            return value, [slopes[n] for n in names]

        # The Hessian is the identity, and the batch one example, so that the closure is the loss of the train.
        closure = optc.Closure(along, hvp=lambda params, directions: directions, grad_each=lambda params: [x[None] for x in along(params)[1]])
        w = [np.full(s, 0.5, np.float32) for s in shapes]
        states = o.init(w, grads=[x.copy() for x in w], seed=3)
        for loss in want.series["loss"].values:
            o.step(w, [x.copy() for x in w], states, seed=3, loss=loss if o.needs_loss else None, closure=closure if o.asks else None)
        for n, x in zip(names, w):
            np.testing.assert_array_equal(x, want.slots[f"net.{n}"], err_msg=f"{rule}: {n}")
        for n, x, y in zip(names, o.weights(w, states), w):
            np.testing.assert_array_equal(x, want.params["net"][n], err_msg=f"{rule}: weights of {n}")
        return True

    def test_a_step_is_that_of_a_train(self):
        known = optc.list_optimizers()
        for rule in [
            "adamw(lr = 0.01)", "clip_by_global_norm(1.0) |> sgd(lr = 0.1, momentum = 0.9)", "lookahead(inner = adam(lr = 0.01), k = 2)", "add_noise() |> sgd(lr = 0.1)",
            '{ "*1": none, ndim >= 2: sgd(lr = 0.1), _: adam(lr = cosine(0.1, total = total_steps)) }',
        ]:
            with self.subTest(rule=rule):
                self.assertTrue(self.as_in_a_train(rule, known))

    def test_every_rule_of_the_library(self):
        known = optc.list_optimizers()
        alone = 0
        for rule in known:
            with self.subTest(rule=rule):
                alone += self.as_in_a_train(rule, known)
        self.assertEqual(alone, len(known))

    def test_one_value_for_all_leaves_takes_no_hyperparameter_of_one(self):
        shapes = [(3, 4), (4,)]
        o = optc.optimizer("sam(sgd(lr = 0.1), rho = if ndim(w) < 2 { 0.5 } else { 1.0 })", shapes)
        self.assertEqual((o.hyperparameters["rho"], o.hyperparameters["rho.1"]), (1.0, 0.5))
        with self.assertRaisesRegex(optc.SpecError, r"E0542(.|\n)*`shrink` belongs to one leaf"):
            optc.optimizer("backtracking(shrink = if ndim(w) < 2 { 0.5 } else { 0.6 })", shapes)

    def test_steps_changes_and_updates_agree(self):
        o = optc.optimizer("clip_by_global_norm(1.0) |> adamw(lr = 0.1)", SHAPES)
        w, g = random(SHAPES), random(SHAPES, seed=1)
        stepped, held = [x.copy() for x in w], o.init(w)
        changed, kept = [x.copy() for x in w], o.init(w)
        functional, states = [x.copy() for x in w], o.init(w)
        for _ in range(3):
            o.step(stepped, g, held)
            changes = o.delta(changed, g, kept)
            changed = [x + d for x, d in zip(changed, changes)]
            before = {n: x.copy() for n, x in states.leaves[0].items()}
            updates, after = o.update(functional, g, states)
            for n, x in states.leaves[0].items():
                np.testing.assert_array_equal(x, before[n])
            functional, states = [x + d for x, d in zip(functional, updates)], after
        for a, b, c in zip(stepped, changed, functional):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(b, c)
        self.assertEqual([s.shared["step"] for s in (held, kept, states)], [3, 3, 3])
        out = [np.empty(s, np.float32) for s in SHAPES]
        got = o.delta(functional, g, states, out=out)
        self.assertIs(got[0], out[0])

    def test_outputs_in_the_first_axis(self):
        shapes = [(4, 3), (2, 3, 5), (4,)]
        last = [np.moveaxis(np.empty(s), 0, -1).shape for s in shapes]
        first, other = optc.optimizer("adafactor(lr = 0.1)", shapes, outputs_first=True), optc.optimizer("adafactor(lr = 0.1)", last)
        w = random(shapes)
        v = [np.moveaxis(x, 0, -1).copy() for x in w]
        s, t = first.init(w), other.init(v)
        for k in range(3):
            g = random(shapes, seed=k + 1)
            first.step(w, g, s)
            other.step(v, [np.moveaxis(x, 0, -1) for x in g], t)
        for x, y in zip(w, v):
            # Sums over other axes are taken in another order.
            np.testing.assert_allclose(np.moveaxis(x, 0, -1), y, rtol=1e-5, atol=1e-6)
        self.assertEqual(first.states, other.states)

    def test_a_bound_step(self):
        o = optc.optimizer("sgd(lr = 0.5, momentum = 0.9)", SHAPES)
        w, g = random(SHAPES), random(SHAPES, seed=1)
        other = [x.copy() for x in w]
        a, b = o.init(w), o.init(w)
        step = o.bind(w, g, a)
        for lr in (0.5, 0.25):
            step.set(lr=lr)
            step()
            o.step(other, g, b, lr=lr)
        for x, y in zip(w, other):
            np.testing.assert_array_equal(x, y)

    def test_states_and_hyperparameters(self):
        o = optc.optimizer("adam(lr = 0.1) |> sgd(lr = 0.5)", [(4, 3), (3,)], names=["a.w", "a.b"])
        self.assertEqual(o.hyperparameters["adam.lr"], 0.1)
        self.assertEqual(o.hyperparameters["sgd.lr"], 0.5)
        self.assertEqual(o.hyperparameters["beta1"], 0.9)
        self.assertEqual(o.states.leaves[0], {"m": ((4, 3), "f32"), "v": ((4, 3), "f32")})
        self.assertEqual(o.states.shared["step"], ((), "i32"))
        w, g = random([(4, 3), (3,)]), random([(4, 3), (3,)], seed=1)
        o.step(w, g, o.init(w), **{"sgd.lr": 0.1, "adam.lr": 0.2})
        with self.assertRaisesRegex(TypeError, "no hyperparameter `lr`"):
            o.step(w, g, o.init(w), lr=0.1)
        with self.assertRaisesRegex(ValueError, "`beta1` is 1.5, but must be less than 1"):
            o.step(w, g, o.init(w), beta1=1.5)
        # States given back in another order, as something that saves them may do.
        s = o.init(w)
        s = optc.States([dict(reversed(leaf.items())) for leaf in s.leaves], s.shared)
        o.step(w, g, s)
        with self.assertRaisesRegex(ValueError, "the states lack '[mv]'"):
            o.step(w, g, optc.States([{"m": s.leaves[0]["m"]}, {}], s.shared))

    def test_weights_for_evaluation(self):
        o = optc.optimizer("schedule_free(inner = sgd(lr = 0.1))", [(5,)])
        w = [np.zeros(5, np.float32)]
        s = o.init(w)
        self.assertTrue(o.has_weights)
        for _ in range(3):
            o.step(w, [np.ones(5, np.float32)], s)
        np.testing.assert_allclose(o.weights(w, s)[0], s.leaves[0]["x"])
        self.assertFalse(np.array_equal(o.weights(w, s)[0], w[0]))
        plain = optc.optimizer("sgd(lr = 0.1)", [(5,)])
        self.assertIs(plain.weights(w, plain.init(w))[0], w[0])

    def test_a_rule_of_the_users_own(self):
        rule = "optimizer scaled(lr: float = 0.1) {\n  w <- w - lr * g * loss\n}\n"
        m = optc.compile(rule)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "own.opt")
            with open(path, "w") as f:
                f.write(rule)
            for o in (m.optimizer("scaled(lr = 0.5)", [(2,)]), optc.optimizer("scaled(lr = 0.5)", [(2,)], file=path)):
                w = [np.float32([1, 2])]
                s = o.init(w)
                self.assertTrue(o.needs_loss)
                o.step(w, [np.float32([1, 1])], s, loss=2.0)
                np.testing.assert_array_equal(w[0], [0, 1])
                with self.assertRaisesRegex(ValueError, "needs the loss"):
                    o.step(w, [np.float32([1, 1])], s)

    def test_mistakes(self):
        def wrong(error, words, f):
            with self.assertRaisesRegex(error, words):
                f()

        wrong(ValueError, "only changes gradients", lambda: optc.optimizer("clip_by_global_norm(1.0)", [(3,)]))
        wrong(optc.SpecError, "unknown name `adamww`", lambda: optc.optimizer("adamww", [(3,)]))
        wrong(optc.SpecError, "nobody has said how many steps", lambda: optc.optimizer("sgd(lr = cosine(1e-3, total = total_steps))", [(3,)]))
        wrong(optc.SpecError, "must be at least 0", lambda: optc.optimizer("sgd(lr = -1)", [(3,)]))
        wrong(ValueError, "an optimizer needs leaves", lambda: optc.optimizer("sgd", []))
        wrong(ValueError, "two leaves are called `a`", lambda: optc.optimizer("sgd", [(1,), (2,)], names=["a", "a"]))
        wrong(ValueError, "floats", lambda: optc.optimizer("sgd", [(1,)], "int32"))
        o = optc.optimizer("sgd(lr = 0.5 - 0.4 * t)", [(3,)])
        w, g = [np.ones(3, np.float32)], [np.ones(3, np.float32)]
        s = o.init(w)
        o.step(w, g, s)
        before = w[0].copy()
        wrong(optc.SpecError, r"step 2: `lr` of `sgd` is -0.3, but must be at least 0", lambda: o.step(w, g, s))
        np.testing.assert_array_equal(w[0], before)
        self.assertEqual(s.shared["step"], 1)
        wrong(ValueError, "2 parameters for 1 leaves", lambda: o.step(w + w, g, s))
        wrong(ValueError, r"gradient of `w0` is f64\[3\], not f32\[3\]", lambda: o.step(w, [np.ones(3)], s))
        wrong(ValueError, "must be contiguous", lambda: o.step([np.ones(6, np.float32)[::2]], g, s))
        frozen = np.ones(3, np.float32)
        frozen.flags.writeable = False
        wrong(ValueError, "must be writable", lambda: o.step([frozen], g, s))

    def test_gradients_are_let_go_and_looked_at_again(self):
        o = optc.optimizer("sgd(lr = 1)", [(4,)])
        w = [np.zeros(4, np.float32)]
        s = o.init(w)
        for k in range(1, 5):
            g = [np.full(4, k, np.float32)]
            o.step(w, g, s)
            del g
            gc.collect()
        np.testing.assert_array_equal(w[0], np.full(4, -10))
        wide = np.ones((4, 2), np.float32)
        o.step(w, [wide[:, 0]], s)
        np.testing.assert_array_equal(w[0], np.full(4, -11))

    def test_results_do_not_depend_on_threads(self):
        shapes = [(300, 200), (200,)]
        before = optc.threads()
        found = []
        o = optc.optimizer("clip_by_global_norm(1.0) |> adamw(lr = 0.1)", shapes)
        try:
            for n in (1, 2, 4):
                optc.set_threads(n)
                w, g = random(shapes), random(shapes, seed=1)
                s = o.init(w)
                for _ in range(3):
                    o.step(w, g, s)
                found.append(w)
        finally:
            optc.set_threads(before)
        for other in found[1:]:
            for a, b in zip(found[0], other):
                np.testing.assert_array_equal(a, b)

    def test_the_library_says_what_it_has(self):
        known = optc.list_optimizers()
        self.assertIn("adamw", known)
        self.assertIn("AdamW", known["adamw"])
        self.assertIn("optimizer lion(", optc.show("lion"))
        with self.assertRaisesRegex(ValueError, "did you mean `lion`"):
            optc.show("lionn")


if __name__ == "__main__":
    unittest.main()
