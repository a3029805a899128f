"""Optax transformations for given shapes (`optc build --shapes … --emit jax`); the environment variable OPTC names the binary. Skipped without it, or without JAX and Optax."""

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np


def missing(name):
    return importlib.util.find_spec(name) is None


RULES = {
    "adafactor": ("adafactor(min_factored = 8)", "f32,f64"),
    "adamw8bit": ("adamw8bit(block = 64, small = 48)", "f32,bf16"),
    "lion8bit": ("lion8bit(small = 48)", "f32"),
    "muon": ("muon(lr = 0.01)", "f32"),
}


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
@unittest.skipIf(missing("jax") or missing("optax"), "JAX or Optax is not installed")
class OfGivenShapes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import jax
        import jax.numpy as jnp
        import optax

        cls.jax, cls.jnp, cls.optax = jax, jnp, optax
        cls.folder = tempfile.TemporaryDirectory()
        for name, (rule, dtypes) in RULES.items():
            command = [os.environ["OPTC"], "build", "--optimizer", rule, "--name", name, "--emit", "jax", "--dtype", dtypes, "--shapes", "48x24,40", "-o", cls.folder.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sys.path.insert(0, cls.folder.name)
        modules = {name: importlib.import_module(f"{name}_optax") for name in RULES}
        cls.rules = {name: getattr(module, name) for name, module in modules.items()}
        cls.steps = {name: getattr(module, f"{name}_step") for name, module in modules.items()}
        draw = np.random.RandomState(0)
        cls.params = {"a": jnp.asarray(draw.randn(48, 24), jnp.float32), "b": [jnp.asarray(draw.randn(40), jnp.float32), None, jnp.asarray(draw.randn(48, 24), jnp.float32)]}

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()

    def run_steps(self, tx, steps=30, params=None, jit=True):
        params = self.params if params is None else params
        state = tx.init(params)

        def step(params, state, t):
            gradients = self.jax.tree.map(lambda p: self.jnp.cos(3 * p + t), params)
            updates, state = tx.update(gradients, state, params)
            return self.optax.apply_updates(params, updates), state

        if jit:
            step = self.jax.jit(step, donate_argnums=(1,))
        for t in range(steps):
            params, state = step(params, state, float(t))
        return params

    def near(self, a, b, within):
        for x, y in zip(self.jax.tree.leaves(a), self.jax.tree.leaves(b), strict=True):
            self.assertEqual(x.dtype, y.dtype)
            self.assertLessEqual(float(self.jnp.max(self.jnp.abs(x - y))), within)

    def test_adafactor_is_that_of_optax(self):
        for ours, theirs in (({}, {}), (dict(learning_rate=0.05, decay_rate=0.6, clipping=0.5), dict(learning_rate=0.05, decay_rate=0.6, clipping_threshold=0.5))):
            theirs = self.optax.adafactor(**({"learning_rate": 0.01} | theirs), min_dim_size_to_factor=8)
            self.near(self.run_steps(theirs), self.run_steps(self.rules["adafactor"](**ours)), 5e-6)
        with self.jax.enable_x64(True):
            wide = self.jax.tree.map(lambda p: p.astype(self.jnp.float64), self.params)
            # Optax forms 1 - t^-0.8 in f32.
            theirs = self.optax.adafactor(0.01, min_dim_size_to_factor=8)
            self.near(self.run_steps(theirs, params=wide), self.run_steps(self.rules["adafactor"](), params=wide), 5e-9)

    def test_eight_bits_follow_adamw(self):
        theirs = self.optax.adamw(1e-3, weight_decay=1e-4)
        # A step uses the moments before they are rounded: the first one is that of AdamW.
        self.near(self.run_steps(theirs, 1), self.run_steps(self.rules["adamw8bit"](), 1), 5e-7)
        self.near(self.run_steps(theirs), self.run_steps(self.rules["adamw8bit"]()), 0.3 * 30e-3)
        tx = self.rules["adamw8bit"](seed=1)
        state = tx.init(self.params)
        self.assertEqual({x.dtype for x in self.jax.tree.leaves(state[1:])}, {self.jnp.dtype("uint8"), self.jnp.dtype("float32")})
        self.near(self.run_steps(tx), self.run_steps(tx), 0)
        with self.assertRaises(AssertionError):
            self.near(self.run_steps(tx), self.run_steps(self.rules["adamw8bit"](seed=2)), 0)

    def test_whole_steps_and_eager_ones(self):
        jax, jnp = self.jax, self.jnp
        for name in RULES:
            with self.subTest(name):
                tx, step = self.rules[name](), jax.jit(self.steps[name](), donate_argnums=(0, 2))
                params = jax.tree.map(lambda p: jnp.array(p, copy=True), self.params)
                state = tx.init(params)
                for t in range(10):
                    gradients = jax.tree.map(lambda p: jnp.cos(3 * p + t), params)
                    params, state = step(params, gradients, state)
                self.near(params, self.run_steps(tx, 10), 3e-5)
                self.near(self.run_steps(tx, 10, jit=False), self.run_steps(tx, 10), 3e-5)
                self.assertEqual(int(state.count), 10)

    def test_chains_schedules_and_vmap(self):
        optax, rule = self.optax, self.rules["adafactor"]
        clip = optax.clip_by_global_norm(1.0)
        schedule = optax.cosine_decay_schedule(1e-2, 50)
        theirs = self.run_steps(optax.chain(clip, optax.adafactor(schedule, min_dim_size_to_factor=8)))
        self.near(theirs, self.run_steps(optax.chain(clip, rule(schedule))), 5e-6)

        def change(w):
            tx = rule()
            return tx.update(self.jnp.cos(w), tx.init(w), w)[0]

        many = self.jnp.stack([self.params["a"], 2 * self.params["a"]])
        self.near(self.jax.jit(self.jax.vmap(change))(many), self.jnp.stack([change(w) for w in many]), 1e-7)

    def test_what_is_wrong_is_said(self):
        tx = self.rules["adafactor"](clipping=-1.0)
        with self.assertRaisesRegex(Exception, "clipping must be > 0"):
            self.jax.block_until_ready(self.run_steps(tx, 1))
        with self.assertRaisesRegex(ValueError, r"not \[3, 3\]"):
            self.rules["adafactor"]().init(self.jnp.ones((3, 3)))


if __name__ == "__main__":
    unittest.main()
