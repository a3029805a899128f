"""Optax transformations that `optc build --emit jax` writes; the environment variable OPTC names the binary. Skipped without it, or without JAX and Optax."""

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


# What is built: name of the module's function, rule.
RULES = {
    "adamw": "adamw(weight_decay = 1e-4)",
    "lion": "lion()",
    "momentum": "sgd(momentum = 0.9, nesterov = true)",
    "rmsprop": "rmsprop(momentum = 0.9)",
    "adagrad": "adagrad()",
    "averaged": "schedule_free(adamw())",
}


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
@unittest.skipIf(missing("jax") or missing("optax"), "JAX or Optax is not installed")
class Transformations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import jax
        import jax.numpy as jnp
        import optax

        cls.jax, cls.jnp, cls.optax = jax, jnp, optax
        cls.folder = tempfile.TemporaryDirectory()
        for name, rule in RULES.items():
            dtypes = "f32,f64" if name == "averaged" else "f32,f64,bf16"
            command = [os.environ["OPTC"], "build", "--optimizer", rule, "--name", name, "--emit", "jax", "--dtype", dtypes, "-o", cls.folder.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sys.path.insert(0, cls.folder.name)
        modules = {name: importlib.import_module(f"{name}_optax") for name in RULES}
        cls.rules = {name: getattr(module, name) for name, module in modules.items()}
        cls.steps = {name: getattr(module, f"{name}_step") for name, module in modules.items()}
        draw = np.random.RandomState(0)
        cls.params = {"a": jnp.asarray(draw.randn(300, 17), jnp.float32), "b": [jnp.ones((5,)), None, jnp.float32(2.0)]}

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()

    def run_steps(self, tx, steps=50, params=None, jit=True):
        """Weights after some steps on gradients that depend on them."""
        params = self.params if params is None else params
        state = tx.init(params)

        def step(params, state, t):
            gradients = self.jax.tree.map(lambda p: self.jnp.cos(3 * p + t), params)
            updates, state = tx.update(gradients, state, params)
            return self.optax.apply_updates(params, updates), state

        if jit:
            step = self.jax.jit(step)
        for t in range(steps):
            params, state = step(params, state, float(t))
        return params

    def near(self, a, b, within):
        for x, y in zip(self.jax.tree.leaves(a), self.jax.tree.leaves(b), strict=True):
            self.assertEqual(x.dtype, y.dtype)
            self.assertLessEqual(float(self.jnp.max(self.jnp.abs(x - y))), within)

    def test_against_optax(self):
        # Optax forms 1 - beta^t in f32, hence 1e-5 of a step.
        optax, rules = self.optax, self.rules
        for theirs, ours in [
            (optax.adamw(1e-2), rules["adamw"](1e-2)),
            (optax.adamw(1e-2, b1=0.8, weight_decay=0.1), rules["adamw"](1e-2, b1=0.8, weight_decay=0.1)),
            (optax.sgd(1e-2, momentum=0.9, nesterov=True), rules["momentum"](1e-2)),
            (optax.rmsprop(1e-3, momentum=0.9), rules["rmsprop"](1e-3)),
            (optax.adagrad(1e-2), rules["adagrad"](1e-2)),
        ]:
            self.near(self.run_steps(theirs), self.run_steps(ours), 3e-6)

    def test_the_library_and_the_written_rule_agree(self):
        for name, rule in self.rules.items():
            with self.subTest(name):
                signs = 2.1e-3 if name == "lion" else 3e-6
                self.near(self.run_steps(rule(1e-3, native=True)), self.run_steps(rule(1e-3, native=False)), signs)
                self.near(self.run_steps(rule(1e-3), jit=False), self.run_steps(rule(1e-3)), signs)

    def test_whole_steps(self):
        # Weights and states in place: what `update` and `apply_updates` do.
        jax, jnp = self.jax, self.jnp
        for name in ("adamw", "momentum", "averaged"):
            for native in (True, False):
                with self.subTest(name, native=native):
                    tx, step = self.rules[name](1e-3), jax.jit(self.steps[name](1e-3, native=native), donate_argnums=(0, 2))
                    params = jax.tree.map(lambda p: jnp.array(p, copy=True), self.params)
                    state = tx.init(params)
                    for t in range(20):
                        gradients = jax.tree.map(lambda p: jnp.cos(3 * p + t), params)
                        params, state = step(params, gradients, state)
                    self.near(params, self.run_steps(tx, 20), 3e-6)
                    self.assertEqual(int(state.count), 20)

    def test_signs(self):
        # A sign may flip where its argument is within rounding of 0: few do, and each is one step of 2 lr.
        ours, theirs = self.run_steps(self.rules["lion"](1e-3), 1), self.run_steps(self.optax.lion(1e-3, weight_decay=0), 1)
        self.near(ours, theirs, 1e-7)
        ours, theirs = self.run_steps(self.rules["lion"](1e-3))["a"], self.run_steps(self.optax.lion(1e-3, weight_decay=0))["a"]
        apart = int(self.jnp.sum(self.jnp.abs(ours - theirs) > 1e-5))
        self.assertLessEqual(apart, 5)

    def test_chain_schedules_and_injected_hyperparameters(self):
        optax, adamw = self.optax, self.rules["adamw"]
        clip = optax.clip_by_global_norm(1.0)
        self.near(self.run_steps(optax.chain(clip, optax.adamw(1e-2))), self.run_steps(optax.chain(clip, adamw(1e-2))), 3e-6)
        schedule = optax.cosine_decay_schedule(1e-2, 50)
        theirs = self.run_steps(optax.adamw(schedule))
        self.near(theirs, self.run_steps(adamw(schedule)), 3e-6)
        self.near(theirs, self.run_steps(optax.inject_hyperparams(adamw)(learning_rate=schedule)), 3e-6)
        masked = optax.masked(adamw(1e-2), {"a": True, "b": [False, None, True]})
        self.near(self.run_steps(optax.masked(optax.adamw(1e-2), {"a": True, "b": [False, None, True]})), self.run_steps(masked), 3e-6)

    def test_a_schedule_compiles_once(self):
        compiled = 0
        tx = self.rules["adamw"](self.optax.cosine_decay_schedule(1e-2, 1000))
        params = self.params["a"]
        state = tx.init(params)

        @self.jax.jit
        def step(params, state):
            nonlocal compiled
            compiled += 1
            updates, state = tx.update(self.jnp.cos(params), state, params)
            return params + updates, state

        for _ in range(1000):
            params, state = step(params, state)
        self.assertEqual((compiled, int(state.count)), (1, 1000))

    def test_vmap(self):
        jax, jnp = self.jax, self.jnp

        def steps(p, lr):
            tx = self.rules["adamw"](lr)
            state = tx.init(p)
            for t in range(5):
                updates, state = tx.update(jnp.cos(3 * p + t), state, p)
                p = p + updates
            return p

        p = self.params["a"]
        many = jnp.stack([p, 2 * p, 3 * p])
        self.near(jax.jit(jax.vmap(lambda p: steps(p, 1e-2)))(many), jnp.stack([steps(x, 1e-2) for x in many]), 2e-6)
        rates = jnp.array([1e-2, 1e-3])
        self.near(jax.vmap(lambda lr: steps(p, lr))(rates), jnp.stack([steps(p, lr) for lr in rates]), 2e-6)

    def test_shard_map(self):
        jax, jnp = self.jax, self.jnp
        if len(jax.devices()) < 2:
            self.skipTest("JAX was started with one device")
        from jax.sharding import Mesh, PartitionSpec as P

        mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
        tx = self.rules["adamw"](1e-2)
        p = self.params["a"]
        state = tx.init(p)
        spec = type(state)(P(), *(P("d") for _ in state[1:]))

        def step(p, state, g):
            updates, state = tx.update(g, state, p)
            return p + updates, state

        split = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P("d"), spec, P("d")), out_specs=(P("d"), spec)))
        # XLA may join a product and a sum in one of them: the last bit of weights below 4.
        self.near(split(p, state, jnp.cos(p)), step(p, state, jnp.cos(p)), 3e-7)

    def test_a_gradient_from_outside_is_not_copied(self):
        # Where the change is a function of the new states, XLA adds it to the weights as it computes it.
        jax, jnp = self.jax, self.jnp
        for name in ("adamw", "momentum", "rmsprop", "adagrad"):
            with self.subTest(name):
                tx = self.rules[name](1e-3)

                def step(params, state, gradients):
                    updates, state = tx.update(gradients, state, params)
                    return self.optax.apply_updates(params, updates), state

                p = jnp.ones((1 << 16,))
                found = jax.jit(step, donate_argnums=(0, 1)).lower(p, tx.init(p), p).compile().memory_analysis()
                self.assertLess(found.temp_size_in_bytes, p.nbytes)

    def test_narrow_and_wide_weights(self):
        jax, jnp = self.jax, self.jnp
        p = self.params["a"].astype(jnp.bfloat16)
        tx = self.rules["adamw"](1e-2)
        state = tx.init(p)
        updates, state = tx.update(p, state, p)
        self.assertEqual((updates.dtype, state.mu.dtype), (jnp.bfloat16, jnp.float32))
        with jax.enable_x64(True):
            p = jnp.asarray(np.random.RandomState(1).randn(50, 3))
            self.near(self.run_steps(self.rules["adamw"](1e-2), params=p), self.run_steps(self.optax.adamw(1e-2), params=p), 1e-13)
            self.near(self.run_steps(self.rules["adamw"](1e-2, native=False), params=p), self.run_steps(self.optax.adamw(1e-2), params=p), 1e-13)

    def test_stablehlo(self):
        # Parsed and verified by jaxlib, then compiled and run as it is.
        jax, jnp = self.jax, self.jnp
        from jax._src.interpreters import mlir
        from jaxlib import _jax
        from jaxlib.mlir import ir

        command = [os.environ["OPTC"], "build", "--optimizer", "adamw", "--emit", "stablehlo", "-o", self.folder.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(self.folder.name, "adamw.mlir")) as file:
            text = file.read()
        with mlir.make_ir_context():
            module = ir.Module.parse(text)
            self.assertTrue(module.operation.verify())
            types = [str(t) for t in module.body.operations[0].type.inputs]
        self.assertEqual(types[:2] + types[-1:], ["tensor<i32>", "tensor<f64>", types[-2]])
        n = int(types[-1].split("<")[1].split("x")[0])
        draw = np.random.RandomState(3)
        w, g, zero = draw.randn(n).astype(np.float32), draw.randn(n).astype(np.float32), np.zeros(n, np.float32)
        hyper = [1e-3, 0.9, 0.999, 1e-8, 1e-4, 0.0]
        with jax.enable_x64(True):
            arguments = [jax.device_put(a) for a in [np.int32(1), *map(np.float64, hyper), w, zero, zero, g]]
            client = jax.devices()[0].client
            program = client.compile_and_load(text.encode(), _jax.DeviceList(tuple(client.local_devices()[:1])), _jax.CompileOptions())
            change = np.asarray(program.execute(arguments)[0])
        theirs = self.optax.adamw(1e-3)
        expected, _ = theirs.update(jnp.asarray(g), theirs.init(jnp.asarray(w)), jnp.asarray(w))
        self.assertLessEqual(float(np.max(np.abs(change - np.asarray(expected)))), 1e-8)

    def test_wrong_values_are_errors(self):
        p = self.params["a"]
        tx = self.rules["adamw"](-1.0)
        with self.assertRaisesRegex(Exception, "learning_rate|lr must be >= 0"):
            self.jax.block_until_ready(tx.update(p, tx.init(p), p))
        with self.assertRaises(ValueError):
            tx.update(p, tx.init(p))


if __name__ == "__main__":
    unittest.main()
