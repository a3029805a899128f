"""Trains and experiments."""

import os
import signal
import tempfile
import threading
import time
import unittest

import numpy as np

import optc

SPEC = """
import std.nn.linear
import std.optim.adamw
import std.optim.sgd

const width = 3

data line {
  x = reshape(iota(32) as f32 / 32, 32, 1)
  y = 3 * reshape(iota(32) as f32 / 32, 32, 1) - 1
}

model net(x: f32[B, 1], hidden: int = 4) {
  linear(tanh(linear(x, hidden)), 1)
}

loss squares(p, y: f32[B, 1]) -> f32 = mean((p - y)^2)

fn forward(p: tree, x: f32[B, 1]) = net().with(p)(x)

train fit {
  data line, batch = 8
  model f = net()
  loss squares(f(x), y)
  optimizer adamw(lr = 0.05)
  metric error = mean((f(x) - y)^2) on line every 5
  steps 20
}

experiment compare {
  let a = run fit
  let b = run fit with { seed = 1 }
  print "trained", 2
  table [{ name = "a", loss = a.loss.last }, { name = "b", loss = b.loss.last }]
  check a.loss.last < a.loss.first, "it learns"
  check a.loss.last < 0, "it is below zero"
}

experiment again(by: float = 2) {
  print by
  check by == width
}
"""


class Runs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.m = optc.compile(SPEC)

    def test_a_train(self):
        run = self.m.train("fit", set={"steps": 10}, seed=2)
        self.assertEqual((run.steps, run.name), (10, "fit"))
        self.assertEqual(len(run.series["loss"].values), 10)
        np.testing.assert_array_equal(run.series["error"].steps, [5, 10])
        self.assertEqual(run.loss, run.series["loss"].values[-1])
        self.assertEqual(run.log[0].keys(), {"step", "loss"})
        self.assertEqual(run.log[4].keys(), {"step", "loss", "error"})
        x = np.arange(32, dtype=np.float32).reshape(32, 1) / 32
        y = 3 * x - 1
        got = self.m.forward(run.params["f"], x)
        self.assertAlmostEqual(float(np.mean((got - y) ** 2)), run.metrics["error"], places=5)
        self.assertEqual(run.slots["step"], 10)
        self.assertEqual(set(run.as_dict()), {"name", "steps", "seconds", "loss", "metrics", "log", "params", "slots"})
        again = self.m.train("fit", set={"steps": 10}, seed=2)
        for name, array in run.slots.items():
            np.testing.assert_array_equal(array, again.slots[name])

    def test_overrides(self):
        run = self.m.train(set={"steps": 3, "f.hidden": 7, "optimizer": "sgd(lr = 0.1)"})
        shapes = sorted(a.shape for a in run.slots.values())
        self.assertIn((1, 7), shapes)
        self.assertEqual(len(run.series["loss"].values), 3)
        with self.assertRaises(optc.SpecError) as caught:
            self.m.train(set={"stepz": 3})
        self.assertEqual(caught.exception.diagnostics[0]["code"], "E0520")

    def test_an_experiment(self):
        got = self.m.run("compare")
        self.assertFalse(got["passed"])
        self.assertEqual([c["passed"] for c in got["checks"]], [True, False])
        self.assertEqual(got["checks"][0]["claim"], "it learns")
        self.assertEqual([row["name"] for row in got["tables"][0]], ["a", "b"])
        self.assertEqual(got["printed"], ["trained 2"])
        self.assertEqual(got["tables"][0][0]["loss"], got["runs"][0]["series"]["loss"].last)
        self.assertNotEqual(got["runs"][0]["seed"], got["runs"][1]["seed"])
        self.assertTrue(self.m.run("again", set={"by": 3})["passed"])
        self.assertTrue(self.m.run("again", set={"by": 5, "width": 5})["passed"])
        self.assertFalse(self.m.run("again")["passed"])

    def test_mistakes(self):
        with self.assertRaisesRegex(ValueError, "no train `fitt`; it has fit"):
            self.m.train("fitt")
        with self.assertRaisesRegex(ValueError, "name the experiment"):
            self.m.run()
        with self.assertRaises(optc.SpecError) as caught:
            self.m.train(set={"optimizer": "sgd(lr = 1e30)", "steps": 50})
        self.assertEqual(caught.exception.diagnostics[0]["code"], "R0202")

    def test_files_lie_beside_the_spec(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "main.opt")
            np.save(os.path.join(folder, "x.npy"), np.arange(4, dtype=np.float32))
            with open(path, "w") as f:
                f.write('experiment e {\n  let x = npy("x.npy")\n  save "out/twice.npy", 2 * x\n  plot { curve = x }\n  check sum(x) == 6\n}\n')
            got = optc.load(path).run()
            self.assertTrue(got["passed"])
            self.assertEqual(got["saved"], ["out/twice.npy"])
            np.testing.assert_array_equal(np.load(os.path.join(folder, "out", "twice.npy")), [0, 2, 4, 6])
            self.assertEqual(got["plots"][0]["curves"][0]["name"], "curve")
            self.assertTrue(os.path.exists(os.path.join(folder, "out", "e.png")))

    def test_ctrl_c_ends_a_run(self):
        # A shell's background processes begin with Ctrl-C ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        start = time.monotonic()
        timer.start()
        try:
            with self.assertRaises(KeyboardInterrupt):
                self.m.train(set={"steps": 2_000_000_000})
        finally:
            timer.cancel()
        self.assertLess(time.monotonic() - start, 20)
        # What comes later runs.
        self.assertEqual(self.m.train(set={"steps": 2}).steps, 2)


if __name__ == "__main__":
    unittest.main()
