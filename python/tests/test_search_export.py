"""What a search finds, exported: torch, Optax and C beside the reference interpreter, ten steps in f64, zero and NaN gradients, scalars and empty arrays included.

The environment variable OPTC names the binary. Skipped without it.
"""

import ctypes
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

from tests.test_hero import RAW_LION, START

# Of Lion's raw program what works element by element.
ELEMENTWISE = RAW_LION.replace("  g = clip(g, lr)\n", "").replace("arcsin", "arctan")
# It has a norm over all leaves, so one NaN would be everywhere.
COUPLED = "imported_raw_lion"

SEARCH = """
import std.optim.{sgd, adamw}

model point() { param x: f32[16] = 0; x }
loss bowl(x: f32[16]) -> f32 {
  let c = exp2(iota(16) as f32 * 0.4 - 3)
  mean(c * (x - cos(iota(16) as f32))^2)
}
train descend { model p = point(); loss bowl(p()); optimizer sgd(lr = 0.1); steps 60 }

search found {
  start    [adamw]
  space    { statements <= 32, states <= 2 }
  task     descend
  fitness  median(loss) over seed in 0..1, lr in [0.03, 0.3]
  strategy regularized_evolution { islands = 1, population = 30, tournament = 3, round = 100 }
  control  none
  archive  "found.sqlite"
  emit     "found.opt"
}
"""

SHAPES = [(3, 4), (5,), (), (0,), (2, 33)]
STEPS = 10

# Steps of the reference interpreter, in a process of its own: the back end is chosen once.
INTERPRETER = """
import sys, numpy as np, optc
rule, spec, given, out = sys.argv[1:]
data = np.load(given)
count, steps = int(data["count"]), int(data["steps"])
w = [data[f"w{i}"] for i in range(count)]
step = optc.optimizer(rule, [x.shape for x in w], np.float64, file=spec)
states, kept = step.init(w), {}
for t in range(steps):
    step.step(w, [data[f"g{t}.{i}"] for i in range(count)], states)
    kept |= {f"{t}.{i}": x.copy() for i, x in enumerate(w)}
np.savez(out, **kept)
"""


def load(name):
    importlib.invalidate_caches()
    return importlib.import_module(name)


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
class Finds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory()
        folder = cls.folder = cls.place.name
        cls.specs = {}
        optc = os.environ["OPTC"]
        for name, text in ((COUPLED, RAW_LION), ("imported_lion", ELEMENTWISE), ("imported_start", START)):
            source, spec = os.path.join(folder, f"{name}.py"), os.path.join(folder, f"{name}.opt")
            with open(source, "w") as file:
                file.write(text.replace("def train", f"def {name}", 1))
            subprocess.run([optc, "search", "import-hero", source, "-o", spec], check=True, stdout=subprocess.DEVNULL)
            cls.specs[name] = spec
        with open(os.path.join(folder, "search.opt"), "w") as file:
            file.write(SEARCH)
        subprocess.run([optc, "search", "search.opt", "--children", "400", "-q"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        cls.specs["found"] = os.path.join(folder, "found.opt")
        emitted = ["cdylib"] + [e for e, needs in (("torch", "torch"), ("jax", "jax")) if importlib.util.find_spec(needs)]
        for name, spec in cls.specs.items():
            command = [optc, "build", spec, "--optimizer", name, "--name", name, "--emit", ",".join(emitted), "--dtype", "f64", "-o", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        draw = np.random.default_rng(3)
        cls.start = [draw.normal(size=s) for s in SHAPES]
        cls.gradients = {name: [] for name in cls.specs}
        for t in range(STEPS):
            leaves = [np.asarray(draw.normal(size=s) * 0.5) for s in SHAPES]
            leaves[4][0] = 0
            if t == 3:
                leaves[1][:] = 0
            for name, kept in cls.gradients.items():
                own = [g.copy() for g in leaves]
                if t >= 6 and name != COUPLED:
                    own[4][1, 5:9] = np.nan
                kept.append(own)
        sys.path.insert(0, folder)
        cls.wanted = {name: cls.by_interpreter(name) for name in cls.specs}

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder)
        cls.place.cleanup()

    @classmethod
    def by_interpreter(cls, name):
        given, out = (os.path.join(cls.folder, f"{name}.{part}.npz") for part in ("given", "steps"))
        arrays = {f"w{i}": x for i, x in enumerate(cls.start)}
        arrays |= {f"g{t}.{i}": g for t, leaves in enumerate(cls.gradients[name]) for i, g in enumerate(leaves)}
        np.savez(given, count=len(SHAPES), steps=STEPS, **arrays)
        environment = os.environ | {"OPTC_BACKEND": "interpreter"}
        subprocess.run([sys.executable, "-c", INTERPRETER, name, cls.specs[name], given, out], check=True, env=environment)
        kept = np.load(out)
        return [[kept[f"{t}.{i}"] for i in range(len(SHAPES))] for t in range(STEPS)]

    def compare(self, name, steps):
        for t, (want, got) in enumerate(zip(self.wanted[name], steps, strict=True)):
            for i, (a, b) in enumerate(zip(want, got, strict=True)):
                np.testing.assert_allclose(np.asarray(b), a, rtol=1e-12, atol=1e-12, equal_nan=True, err_msg=f"{name}, step {t + 1}, leaf {i}")

    def test_the_reference_steps(self):
        for name in self.specs:
            last = self.wanted[name][-1]
            self.assertEqual(np.isnan(last[4][1, 5:9]).all(), name != COUPLED)
            self.assertTrue(np.isfinite(last[4][1, :5]).all() and np.isfinite(last[0]).all())
            self.assertTrue((last[0] != self.start[0]).all())

    def test_torch(self):
        if importlib.util.find_spec("torch") is None:
            self.skipTest("torch is not installed")
        import torch

        for name in self.specs:
            made = load(f"{name}_torch")
            optimizer = getattr(made, "".join(part.title() for part in name.split("_")))
            for native in (True, False):
                with self.subTest(name, native=native):
                    w = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in map(np.asarray, self.start)]
                    rule, steps = optimizer(w, native=native), []
                    for leaves in self.gradients[name]:
                        for p, g in zip(w, leaves):
                            p.grad = torch.from_numpy(g.copy())
                        rule.step()
                        steps.append([p.detach().numpy().copy() for p in w])
                    self.compare(name, steps)

    def test_optax(self):
        if importlib.util.find_spec("jax") is None:
            self.skipTest("JAX is not installed")
        import jax
        import optax

        with jax.enable_x64(True):
            for name in self.specs:
                made = load(f"{name}_optax")
                for native in (True, False):
                    with self.subTest(name, native=native):
                        rule, steps = getattr(made, name)(native=native), []
                        w = [jax.numpy.asarray(x) for x in self.start]
                        state = rule.init(w)
                        for leaves in self.gradients[name]:
                            updates, state = rule.update([jax.numpy.asarray(g) for g in leaves], state, w)
                            w = optax.apply_updates(w, updates)
                            steps.append([np.asarray(x) for x in w])
                        self.compare(name, steps)

    def test_c(self):
        for name, spec in self.specs.items():
            with self.subTest(name), open(spec) as source:
                count = sum(line.strip().startswith("state ") for line in source)
                library = ctypes.CDLL(os.path.join(self.folder, f"lib{name}.so"))
                hyper = ctypes.create_string_buffer(256)
                getattr(library, f"{name}_defaults")(hyper)
                start, step = getattr(library, f"{name}_f64_init"), getattr(library, f"{name}_f64_step_many")
                w = [np.array(x, copy=True) for x in self.start]
                states = [[np.full(x.shape, 7.0) for _ in range(count)] for x in w]
                steps = []
                for x, kept in zip(w, states):
                    self.assertEqual(start(ctypes.c_int64(x.size), *(ctypes.c_void_p(a.ctypes.data) for a in (x, *kept))), 0)
                for t, leaves in enumerate(self.gradients[name]):
                    # A leaf is a structure of its length and the addresses of its arrays.
                    words = [word for x, g, kept in zip(w, leaves, states) for word in (x.size, *(a.ctypes.data for a in (x, g, *kept)))]
                    table = (ctypes.c_int64 * len(words))(*words)
                    self.assertEqual(step(ctypes.c_int64(len(w)), table, ctypes.c_int32(t + 1), hyper), 0)
                    steps.append([x.copy() for x in w])
                self.compare(name, steps)


if __name__ == "__main__":
    unittest.main()
