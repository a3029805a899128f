"""Rules with norms of leaves or of all leaves, as `optc build --emit torch,jax` writes them; the environment variable OPTC names the binary. Skipped without it."""

import copy
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

# What is built: name of the module's function, rule.
RULES = {
    "clipped": "clip_by_global_norm(1.0) |> adamw(weight_decay = 1e-4)",
    "lamb": "lamb(weight_decay = 0.1)",
    "lars": "lars(weight_decay = 0.01)",
    "prodigy": "prodigy",
    "novograd": "novograd",
    "careful": "apply_if_finite(sgd(lr = 1e-3, momentum = 0.9))",
}


def missing(name):
    return importlib.util.find_spec(name) is None


class Built(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if cls is Built:
            raise unittest.SkipTest("the classes below have the tests")
        cls.folder = tempfile.TemporaryDirectory()
        for name, rule in RULES.items():
            command = [os.environ["OPTC"], "build", "--optimizer", rule, "--name", name, "--emit", cls.EMIT, "--dtype", "f32,f64", "-o", cls.folder.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sys.path.insert(0, cls.folder.name)
        cls.modules = {name: importlib.import_module(f"{name}_{'torch' if cls.EMIT == 'torch' else 'optax'}") for name in RULES}

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
@unittest.skipIf(missing("torch"), "torch is not installed")
class Torch(Built):
    EMIT = "torch"

    def start(self, strided=False, dtype=None):
        """Weights of several shapes; strided ones go by torch's operations."""
        import torch

        made = torch.Generator().manual_seed(0)
        shapes = [(40, 1001), (7,), (33, 5), (1,)]
        w = [torch.randn(s, generator=made, dtype=dtype or torch.float32) for s in shapes]
        if strided:
            w = [torch.stack([x, x], -1)[..., 0] for x in w]
        return [x.requires_grad_() for x in w]

    def steps(self, w, optimizer, count=8, first=0):
        import torch

        for k in range(first, first + count):
            for i, p in enumerate(w):
                p.grad = torch.sin(3 * p.detach() + k + i)
            optimizer.step()

    def optimizer(self, name, w, **more):
        module = self.modules[name]
        return getattr(module, module.__all__[0])(w, **more)

    def near(self, a, b, within):
        for x, y in zip(a, b, strict=True):
            self.assertLessEqual(float((x.detach() - y.detach()).abs().max()), within)

    def test_the_library_and_the_written_rule_agree(self):
        import torch

        for name in RULES:
            for dtype, within in ((torch.float32, 2e-5), (torch.float64, 1e-10)):
                with self.subTest(name, dtype=dtype):
                    a, b, before = self.start(dtype=dtype), self.start(True, dtype), self.start(dtype=dtype)
                    self.steps(a, self.optimizer(name, a))
                    self.steps(b, self.optimizer(name, b))
                    self.near(a, b, within)
                    self.assertGreater(float((a[0] - before[0]).detach().abs().max()), 1e-7)

    def test_clipping_is_over_all_groups(self):
        import torch

        groups = lambda w: [{"params": w[:2], "weight_decay": 0.1}, {"params": w[2:], "lr": 0.01}]
        for strided in (False, True):
            a, b = self.start(), self.start(strided)
            theirs, ours = torch.optim.AdamW(groups(a), weight_decay=1e-4), self.optimizer("clipped", groups(b))
            for k in range(6):
                for i, (p, q) in enumerate(zip(a, b)):
                    p.grad = torch.sin(3 * p.detach() + k + i)
                    q.grad = torch.sin(3 * q.detach() + k + i)
                torch.nn.utils.clip_grad_norm_(a, 1.0)
                theirs.step()
                ours.step()
            self.near(a, b, 3e-6)

    def test_one_strided_weight_among_others(self):
        a, b = self.start(), self.start()
        b[1] = self.start(True)[1]
        self.steps(a, self.optimizer("clipped", a))
        optimizer = self.optimizer("clipped", b)
        self.steps(b, optimizer)
        self.near(a, b, 2e-6)
        self.assertEqual({float(own["step"]) for own in optimizer.state.values()}, {8.0})

    def test_resumed_to_the_same_bits(self):
        import torch

        for name in RULES:
            with self.subTest(name):
                a = self.start()
                first = self.optimizer(name, a)
                self.steps(a, first, 4)
                b = [p.detach().clone().requires_grad_() for p in a]
                second = self.optimizer(name, b)
                second.load_state_dict(copy.deepcopy(first.state_dict()))
                self.steps(a, first, 4, 4)
                self.steps(b, second, 4, 4)
                self.assertTrue(all(torch.equal(p, q) for p, q in zip(a, b)))

    def test_results_do_not_depend_on_threads(self):
        import torch

        before, found = torch.get_num_threads(), []
        try:
            for n in (1, 3):
                torch.set_num_threads(n)
                w = [torch.cos(torch.arange(300_001.0)).requires_grad_(), *self.start()]
                for name in ("clipped", "lamb"):
                    self.steps(w, self.optimizer(name, w), 2)
                found.append(w)
        finally:
            torch.set_num_threads(before)
        self.assertTrue(all(torch.equal(p, q) for p, q in zip(*found)))

    def test_the_functional_form(self):
        import torch

        a, b = self.start(), self.start()
        optimizer = self.optimizer("clipped", a)
        m, v, t = [torch.zeros_like(x) for x in b], [torch.zeros_like(x) for x in b], [torch.tensor(0.0) for _ in b]
        values = {name: optimizer.defaults[name] for name in ("max_norm", "lr", "eps", "weight_decay", "eps_root")}
        values["beta1"], values["beta2"] = optimizer.defaults["betas"]
        for k in range(3):
            self.steps(a, optimizer, 1, k)
            self.modules["clipped"].clipped(b, [torch.sin(3 * p.detach() + k + i) for i, p in enumerate(b)], m, v, t, **values)
        self.assertTrue(all(torch.equal(p, q) for p, q in zip(a, b)))

    def test_gradients_that_are_not_finite_are_passed_over(self):
        import torch

        a = self.start()
        optimizer = self.optimizer("careful", a)
        self.steps(a, optimizer, 2)
        before = [p.detach().clone() for p in a]
        a[2].grad[3, 1] = float("nan")
        optimizer.step()
        self.assertTrue(all(torch.equal(p, q) for p, q in zip(a, before)))


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
@unittest.skipIf(missing("jax") or missing("optax"), "JAX or Optax is not installed")
class Jax(Built):
    EMIT = "jax"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        import jax.numpy as jnp

        draw = np.random.RandomState(0)
        cls.params = {"a": jnp.asarray(draw.randn(300, 170), jnp.float32), "b": [jnp.ones((5,)), None, jnp.float32(2.0)]}

    def run_steps(self, tx, steps=20):
        import jax
        import jax.numpy as jnp
        import optax

        @jax.jit
        def step(params, state, t):
            updates, state = tx.update(jax.tree.map(lambda p: jnp.cos(3 * p + t), params), state, params)
            return optax.apply_updates(params, updates), state

        params, state = self.params, tx.init(self.params)
        for t in range(steps):
            params, state = step(params, state, float(t))
        return params

    def near(self, a, b, within):
        import jax
        import jax.numpy as jnp

        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            self.assertLessEqual(float(jnp.max(jnp.abs(x - y))), within)

    def rule(self, name, **more):
        return getattr(self.modules[name], name)(**more)

    def test_against_optax(self):
        import optax

        clip = optax.clip_by_global_norm(1.0)
        for theirs, name, more in [
            (optax.chain(clip, optax.adamw(1e-2)), "clipped", {"learning_rate": 1e-2}),
            (optax.lamb(1e-2, weight_decay=0.1), "lamb", {"learning_rate": 1e-2}),
            (optax.contrib.prodigy(), "prodigy", {}),
        ]:
            with self.subTest(name):
                ours = self.run_steps(self.rule(name, **more))
                self.near(self.run_steps(theirs), ours, 3e-6 if name != "prodigy" else 1e-4)

    def test_the_library_and_the_written_rule_agree(self):
        for name in RULES:
            with self.subTest(name):
                self.near(self.run_steps(self.rule(name, native=True)), self.run_steps(self.rule(name, native=False)), 3e-6)

    def test_whole_steps(self):
        import jax
        import jax.numpy as jnp

        for name in RULES:
            with self.subTest(name):
                step = jax.jit(getattr(self.modules[name], f"{name}_step")(), donate_argnums=(0, 2))
                params = jax.tree.map(lambda p: jnp.array(p, copy=True), self.params)
                state = self.rule(name).init(params)
                for t in range(5):
                    params, state = step(params, jax.tree.map(lambda p: jnp.cos(3 * p + t), params), state)
                self.near(params, self.run_steps(self.rule(name), 5), 3e-6)

    def test_a_batch_has_norms_of_its_own(self):
        import jax
        import jax.numpy as jnp

        def steps(p):
            tx = self.rule("clipped", learning_rate=1e-2)
            state = tx.init(p)
            for t in range(3):
                updates, state = tx.update(10 * jnp.cos(3 * p + t), state, p)
                p = p + updates
            return p

        p = self.params["a"][:50]
        many = jnp.stack([p, 2 * p, 3 * p])
        self.near(jax.jit(jax.vmap(steps))(many), jnp.stack([steps(x) for x in many]), 2e-6)

    def test_several_types_have_one_norm(self):
        import jax
        import jax.numpy as jnp
        import optax

        params = {"a": jnp.ones((50,), jnp.float32), "b": jnp.ones((60,), jnp.bfloat16)}
        tx = self.rule("clipped", learning_rate=1e-2)
        gradients = jax.tree.map(lambda p: 3 * jnp.ones_like(p), params)
        updates, state = tx.update(gradients, tx.init(params), params)
        # The first moment tells by what gradients were multiplied.
        factor = 1 / optax.global_norm(jax.tree.map(lambda g: g.astype(jnp.float32), gradients))
        self.near(state.m["a"], 0.1 * factor * gradients["a"], 1e-6)


if __name__ == "__main__":
    unittest.main()
