"""Programs in Hero's form: what `optc search import-hero` makes of them, beside their own text evaluated by JAX with the functions as Chen et al. 2023 define them.

The environment variable OPTC names the binary. Skipped without it, or without JAX.
"""

import importlib.util
import os
import subprocess
import tempfile
import unittest

import numpy as np

import optc

# The program that Lion was simplified from (Chen et al. 2023, program 4).
RAW_LION = """
def train(w, g, m, v, lr):
  g = clip(g, lr)
  g = arcsin(g)
  m = interp(g, v, 0.899)
  m2 = m * m
  v = interp(g, m, 1.109)
  abs_m = sqrt(m2)
  update = m / abs_m
  wd = w * 0.4602
  update = update + wd
  lr = lr * 0.0002
  m = cosh(update)
  update = update * lr
  return update, m, v
"""

# AdamW without bias correction, from which the search began.
START = """
def train(w, g, m, v, lr):
  m = interpolate(m, g, 0.1)
  g2 = square(g)
  v = interpolate(v, g2, 0.001)
  d = sqrt(v)
  update = m / d
  decay = w * 0.01
  update = update + decay
  update = update * lr
  return update, m, v
"""

# Norms of leaves and of all leaves, numbers that are made of arrays, and results that change places.
COUPLED = """
def train(w, g, a, b, lr):
  n = norm(g)
  u = g / n
  size = global_norm(a)
  part = dot(g, b)
  angle = cosine_sim(w, g)
  a = interpolate(a, u, 0.3)
  b = interpolate(b, g, 0.2)
  c = clip_by_global_norm(b, 0.5)
  size = tanh(size)
  part = arctan(part)
  u = u * size
  v = c * part
  update = u + v
  decay = w * angle
  update = update + decay
  update = update * lr
  return update, a, b
"""

UNARY = (
    "abs cos sin tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh exp exp2 exp10 expm1 log log10 log2 log1p square sqrt cube cbrt sign reciprocal norm invert negative"
).split()
BINARY = "power cosine_sim dot clip_by_global_norm max min".split()
# Of random programs: none whose value jumps, or has a slope without bound, where rounding would tell two right answers apart.
SMOOTH = "abs cos sin arctan tanh arcsinh expm1 square invert negative".split()


def one_function(name, arguments):
    return f"def train(w, g, m, lr):\n  update = {name}({arguments})\n  m = interpolate(m, update, 0.5)\n  update = update * lr\n  return update, m\n"


def random_program(seed):
    draw = np.random.default_rng(seed)
    names = ["w", "g", "m", "v"]
    lines = []
    for k in range(14):
        new = f"x{k}" if draw.random() < 0.7 else str(draw.choice(["m", "v"]))
        a, b = (str(draw.choice(names)) for _ in range(2))
        kind = draw.integers(5)
        if kind == 0:
            value = f"{draw.choice(SMOOTH)}({a})"
        elif kind == 1:
            value = f"interpolate({a}, {b}, {draw.uniform(0.05, 0.95):.4f})"
        elif kind == 2:
            value = f"{a} {draw.choice(['+', '-', '*'])} {b}"
        elif kind == 3:
            value = f"{a} * {draw.uniform(-1, 1):.4f}"
        else:
            value = f"{draw.choice(['max', 'min', 'clip_by_global_norm'])}({a}, {draw.uniform(0.2, 2):.3f})"
        lines.append(f"  {new} = {value}")
        # Values stay of the order of one, whatever is made of them.
        lines.append(f"  {new} = arctan({new})")
        names.append(new)
    return "def train(w, g, m, v, lr):\n" + "\n".join(lines) + f"\n  update = {names[-1]} * lr\n  return update, m, v\n"


def jax_functions():
    """Hero's functions over lists of leaves, by JAX. Protected as Chen et al. 2023 say: x / (y + 1e-8); sqrt and logarithms of |x|."""
    import jax.numpy as jnp

    class Leaves:
        def __init__(self, leaves):
            self.leaves = leaves

        def __add__(self, other):
            return both(jnp.add, self, other)

        def __radd__(self, other):
            return both(jnp.add, other, self)

        def __sub__(self, other):
            return both(jnp.subtract, self, other)

        def __rsub__(self, other):
            return both(jnp.subtract, other, self)

        def __mul__(self, other):
            return both(jnp.multiply, self, other)

        __rmul__ = __mul__

        def __truediv__(self, other):
            return both(lambda a, b: a / (b + 1e-8), self, other)

        def __rtruediv__(self, other):
            return both(lambda a, b: a / (b + 1e-8), other, self)

    def both(f, a, b):
        if isinstance(a, Leaves) and isinstance(b, Leaves):
            return Leaves([f(x, y) for x, y in zip(a.leaves, b.leaves, strict=True)])
        if isinstance(a, Leaves):
            return Leaves([f(x, b) for x in a.leaves])
        if isinstance(b, Leaves):
            return Leaves([f(a, y) for y in b.leaves])
        return f(jnp.float64(a), jnp.float64(b))

    def each(f):
        return lambda a: Leaves([f(x) for x in a.leaves]) if isinstance(a, Leaves) else f(jnp.float64(a))

    def total(a):
        return sum(jnp.sum(x) for x in a.leaves) if isinstance(a, Leaves) else jnp.float64(a)

    def dot(a, b):
        return total(both(jnp.multiply, a, b))

    def global_norm(a):
        return jnp.sqrt(dot(a, a))

    def clip(a, c):
        return both(jnp.multiply, a, jnp.minimum(1.0, c / global_norm(a)))

    plain = "abs cos sin tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh exp exp2 expm1 square cbrt sign negative".split()
    functions = {name: each(getattr(jnp, name)) for name in plain}
    functions |= {
        "exp10": each(lambda x: jnp.power(10.0, x)),
        "log": each(lambda x: jnp.log(jnp.abs(x))),
        "log10": each(lambda x: jnp.log10(jnp.abs(x))),
        "log2": each(lambda x: jnp.log2(jnp.abs(x))),
        "log1p": each(lambda x: jnp.log(jnp.abs(1 + x))),
        "sqrt": each(lambda x: jnp.sqrt(jnp.abs(x))),
        "cube": each(lambda x: x * x * x),
        "reciprocal": each(lambda x: 1 / x),
        "invert": each(lambda x: 1 - x),
        "norm": each(lambda x: jnp.sqrt(jnp.sum(x * x))),
        "global_norm": global_norm,
        "dot": dot,
        "cosine_sim": lambda a, b: dot(a, b) / (global_norm(a) * global_norm(b) + 1e-8),
        "clip_by_global_norm": clip,
        "clip": clip,
        "power": lambda a, b: both(jnp.power, a, b),
        "max": lambda a, b: both(jnp.maximum, a, b),
        "min": lambda a, b: both(jnp.minimum, a, b),
    }
    functions["interpolate"] = functions["interp"] = lambda x, y, a: both(jnp.add, both(jnp.multiply, 1 - a, x), both(jnp.multiply, a, y))
    return Leaves, functions


@unittest.skipIf("OPTC" not in os.environ, "OPTC does not name the binary")
@unittest.skipIf(importlib.util.find_spec("jax") is None, "JAX is not installed")
class HeroPrograms(unittest.TestCase):
    STEPS = 10
    LR = 0.3

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        draw = np.random.default_rng(5)
        cls.shapes = [(3, 4), (5,), (1,)]
        cls.start = [draw.normal(size=s) for s in cls.shapes]
        cls.gradients = [[draw.normal(size=s) * 0.6 for s in cls.shapes] for _ in range(cls.STEPS)]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def by_jax(self, text):
        """Weights after each step, of the text as Python."""
        import jax

        with jax.enable_x64(True):
            leaves, functions = jax_functions()
            made = dict(functions)
            exec(text, made)  # noqa: S102 - the programs are ours
            states = [leaves([np.zeros(s) for s in self.shapes]) for _ in range(text.split(")")[0].count(",") - 2)]
            w = leaves([jax.numpy.asarray(x) for x in self.start])
            rows = []
            for g in self.gradients:
                update, *states = made["train"](w, leaves([jax.numpy.asarray(x) for x in g]), *states, self.LR)
                w = w - update
                rows.append([np.asarray(x) for x in w.leaves])
            return rows

    def by_optc(self, text, name):
        """Weights after each step, of the program as it is imported."""
        source = os.path.join(self.folder.name, f"{name}.py")
        spec = os.path.join(self.folder.name, f"{name}.opt")
        with open(source, "w") as file:
            file.write(text.replace("def train", f"def {name}", 1))
        subprocess.run([os.environ["OPTC"], "search", "import-hero", source, "-o", spec], check=True, stdout=subprocess.DEVNULL)
        step = optc.optimizer(f"{name}(lr = {self.LR})", self.shapes, np.float64, file=spec)
        w = [x.copy() for x in self.start]
        states = step.init(w)
        rows = []
        for g in self.gradients:
            step.step(w, [x.copy() for x in g], states)
            rows.append([x.copy() for x in w])
        return rows

    def compare(self, text, name, tolerance=1e-12):
        for k, (want, got) in enumerate(zip(self.by_jax(text), self.by_optc(text, name), strict=True)):
            for leaf, (a, b) in enumerate(zip(want, got, strict=True)):
                np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=f"{name}, step {k + 1}, leaf {leaf}\n{text}")

    def test_published_programs(self):
        self.compare(RAW_LION, "raw_lion")
        self.compare(START, "start")
        self.compare(COUPLED, "coupled")

    def test_every_function(self):
        for name in UNARY:
            argument = {"arccosh": "w"}.get(name, "g")
            with self.subTest(name):
                self.compare(one_function(name, argument), f"f_{name}")
        for name in BINARY:
            with self.subTest(name):
                self.compare(one_function(name, "w, g" if name not in ("clip_by_global_norm", "power") else "w, 0.7"), f"f_{name}")

    def test_random_programs(self):
        for seed in range(12):
            with self.subTest(seed):
                self.compare(random_program(seed), f"random_{seed}", 1e-11)


if __name__ == "__main__":
    unittest.main()
