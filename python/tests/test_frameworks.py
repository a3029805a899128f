"""Arrays of torch and JAX; skipped where they are not installed."""

import importlib.util
import unittest

import numpy as np

import optc

SPEC = """
fn scaled(x: float[N], by: float = 2) -> float[N] = by * x
fn both(x: f32[A, B], y: f32[B, C]) = { y = x @ y, s = sum(x @ y) }
fn narrow(x: bf16[N]) = x * 2
"""


def missing(name):
    return importlib.util.find_spec(name) is None


@unittest.skipIf(missing("torch"), "torch is not installed")
class Torch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import torch

        cls.torch, cls.m = torch, optc.compile(SPEC)

    def test_functions(self):
        torch = self.torch
        got = self.m.scaled(torch.arange(4.0))
        self.assertIsInstance(got, torch.Tensor)
        self.assertTrue(torch.equal(got, 2 * torch.arange(4.0)))
        wide = torch.arange(8.0).reshape(4, 2)
        self.assertTrue(torch.equal(self.m.scaled(wide[:, 1]), 2 * wide[:, 1]))
        got = self.m.narrow(torch.ones(3, dtype=torch.bfloat16))
        self.assertEqual(got.dtype, torch.bfloat16)
        self.assertTrue(torch.equal(got, torch.full((3,), 2, dtype=torch.bfloat16)))
        both = self.m.both(torch.ones(2, 3), np.ones((3, 4), np.float32))
        self.assertIsInstance(both["y"], torch.Tensor)
        self.assertEqual(both["s"], 24.0)

    def test_adamw_beside_torch(self):
        torch = self.torch
        for dtype, close in [(torch.float32, 2e-6), (torch.float64, 1e-14)]:
            torch.manual_seed(0)
            w = [torch.randn(s, dtype=dtype).requires_grad_() for s in [(16, 8), (8,), ()]]
            v = [p.detach().clone().requires_grad_() for p in w]
            ours = optc.optimizer("adamw(lr = 0.01, weight_decay = 0.01)", w)
            states = ours.init(w)
            theirs = torch.optim.AdamW(v, lr=0.01, weight_decay=0.01)
            for _ in range(10):
                for p, q in zip(w, v):
                    p.grad = torch.randn_like(p)
                    q.grad = p.grad.clone()
                version = w[0]._version
                ours.step(w, [p.grad for p in w], states)
                self.assertGreater(w[0]._version, version)
                theirs.step()
            for p, q in zip(w, v):
                torch.testing.assert_close(p, q, rtol=close, atol=close)
            self.assertIsInstance(states.leaves[0]["m"], torch.Tensor)

    def test_muon_beside_torch(self):
        torch = self.torch
        if not hasattr(torch.optim, "Muon") or "muon" not in optc.list_optimizers():
            self.skipTest("there is no Muon")
        torch.manual_seed(0)
        w = [torch.randn(24, 16).requires_grad_(), torch.randn(16, 24).requires_grad_()]
        v = [p.detach().clone().requires_grad_() for p in w]
        start = [p.detach().clone() for p in w]
        ours = optc.optimizer("muon(lr = 0.02, weight_decay = 0.1)", w, outputs_first=True)
        theirs = torch.optim.Muon(v, lr=0.02, weight_decay=0.1)
        states = ours.init(w)
        for _ in range(5):
            for p, q in zip(w, v):
                p.grad = torch.randn_like(p)
                q.grad = p.grad.clone()
            ours.step(w, [p.grad for p in w], states)
            theirs.step()
        # torch multiplies in bfloat16.
        for p, q, x in zip(w, v, start):
            self.assertLess(float(((p - q).norm() / (q - x).norm()).detach()), 0.05)

    def test_what_torch_moves_is_found_again(self):
        torch = self.torch
        w = [torch.zeros(4)]
        o = optc.optimizer("sgd(lr = 1)", w)
        s = o.init(w)
        o.step(w, [torch.ones(4)], s)
        old = w[0].data
        w[0].data = torch.full((4,), 5.0)
        o.step(w, [torch.ones(4)], s)
        self.assertTrue(torch.equal(w[0], torch.full((4,), 4.0)))
        self.assertTrue(torch.equal(old, torch.full((4,), -1.0)))
        o.step(w, [torch.ones(4, 2)[:, 0]], s)
        self.assertTrue(torch.equal(w[0], torch.full((4,), 3.0)))
        with self.assertRaisesRegex(ValueError, "must be contiguous"):
            o.step([torch.ones(4, 2)[:, 0]], [torch.ones(4)], s)

    def test_bfloat16_weights(self):
        torch = self.torch
        w = [torch.ones(5, dtype=torch.bfloat16)]
        o = optc.optimizer("sgd(lr = 0.25)", w)
        o.step(w, [torch.ones(5, dtype=torch.bfloat16)], o.init(w))
        self.assertTrue(torch.equal(w[0], torch.full((5,), 0.75, dtype=torch.bfloat16)))
        mixed = optc.optimizer("sgd(lr = 0.25)", [(5,)], "bfloat16", grad_dtype="float32")
        mixed.step(w, [torch.ones(5)], mixed.init(w))
        self.assertTrue(torch.equal(w[0], torch.full((5,), 0.5, dtype=torch.bfloat16)))


@unittest.skipIf(missing("jax"), "jax is not installed")
class Jax(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import jax

        jax.config.update("jax_platforms", "cpu")
        cls.jax, cls.m = jax, optc.compile(SPEC)

    def test_functions(self):
        jnp = self.jax.numpy
        got = self.m.scaled(jnp.arange(4.0))
        self.assertIsInstance(got, self.jax.Array)
        np.testing.assert_array_equal(got, [0, 2, 4, 6])
        got = self.m.narrow(jnp.ones(3, jnp.bfloat16))
        self.assertEqual(got.dtype, jnp.bfloat16)
        np.testing.assert_array_equal(got.astype(np.float32), [2, 2, 2])
        both = self.m.both(jnp.ones((2, 3)), jnp.ones((3, 4)))
        np.testing.assert_array_equal(both["y"], np.full((2, 4), 3.0))

    def test_large_results_are_not_copied(self):
        from optc import _arrays

        x, address = _arrays.empty((1024, 1024), "f32", "jax")
        x[...] = 1
        got = _arrays.finish(x, "f32", "jax")
        self.assertEqual(got.unsafe_buffer_pointer(), address)

    def test_updates(self):
        jax, jnp = self.jax, self.jax.numpy
        o = optc.optimizer("adamw(lr = 0.01, weight_decay = 0)", [(5,), (2, 3)])
        w = [jnp.zeros(5), jnp.ones((2, 3))]
        s = jax.tree.map(jnp.asarray, o.init(w))
        plain = [np.asarray(x).copy() for x in w]
        held = o.init(plain)
        for k in range(4):
            g = [jnp.full(5, k + 1.0), jnp.full((2, 3), -1.0)]
            updates, s = o.update(w, g, s)
            self.assertIsInstance(updates[0], jax.Array)
            w = [a + b for a, b in zip(w, updates)]
            o.step(plain, [np.asarray(x) for x in g], held)
        for a, b in zip(w, plain):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        self.assertIsInstance(s.leaves[0]["m"], jax.Array)
        self.assertEqual(int(s.shared["step"]), 4)
        with self.assertRaisesRegex(ValueError, "use `update`"):
            o.step(w, w, held)

    def test_adamw_beside_optax(self):
        if missing("optax"):
            self.skipTest("optax is not installed")
        import optax

        jnp = self.jax.numpy
        rng = np.random.default_rng(0)
        w = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(5,), (2, 3)]]
        v = list(w)
        o, theirs = optc.optimizer("adamw(lr = 0.01)", w), optax.adamw(0.01)
        s, t = o.init(w), theirs.init(v)
        for _ in range(5):
            g = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in w]
            updates, s = o.update(w, g, s)
            w = optax.apply_updates(w, updates)
            updates, t = theirs.update(g, t, v)
            v = optax.apply_updates(v, updates)
        for a, b in zip(w, v):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
