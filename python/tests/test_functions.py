"""Functions of specs on NumPy arrays."""

import gc
import threading
import unittest

import numpy as np

import optc

SPEC = """
import std.nn.linear

const base = 3

## Multiplies.
fn scaled(x: float[N], by: float >= 0 = 2) -> float[N] = by * x
fn parts(x: f32[A, B], k: int = 1) = { s = sum(x), parts = (x[0] * k, mean(x, axis = 0)), k = k, name = "rows" }
fn at(i: i32, x: f32[N]) -> f32 = x[i]
fn plus(x, y) = x + y
fn count(b: bool[N]) = sum(b as i32)
fn wide(x: i64[N]) = x * x
fn doubled(p: tree) = tree.map(x -> 2 * x, p)
fn pick(x: f32[N], squared: bool = false) = if squared { x^2 } else { x }
fn same(x: f32[N]) = x
fn constant() = base
fn slope(w: f32[N], x: f32[N]) = grad(v -> sum(v * v * x))(w)
fn product(a: f32[A, B], b: f32[B, C]) = a @ b
fn noise(x: f32[N]) = random.normal([N]) + 0 * x
loss squares(p, y: f32[N]) -> f32 = mean((p.w - y)^2)
model net(x: f32[B, N], out: int = 2) = linear(x, out)
"""


class Functions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.m = optc.compile(SPEC)

    def test_arguments_and_defaults(self):
        m = self.m
        for dtype in (np.float32, np.float64):
            x = np.arange(3, dtype=dtype)
            for got, want in [(m.scaled(x), 2 * x), (m.scaled(x, 3), 3 * x), (m.scaled(by=0.5, x=x), x / 2), (m.scaled(x, by=np.float32(0.25)), x / 4)]:
                self.assertEqual(got.dtype, dtype)
                np.testing.assert_array_equal(got, want)
        self.assertEqual(m.constant(), 3)
        self.assertEqual(m.at(1, np.float32([1, 2, 3])), 2.0)
        np.testing.assert_array_equal(m.wide(np.array([2**40 // 2**20, -3])), [2**40, 9])
        self.assertEqual(m.count(np.array([True, False, True])), 2)

    def test_results_are_trees_of_arrays_and_numbers(self):
        x = np.float32([[1, 2], [3, 4]])
        got = self.m.parts(x, k=3)
        self.assertEqual((got["s"], got["k"], got["name"]), (10.0, 3, "rows"))
        self.assertIsInstance(got["s"], float)
        self.assertIsInstance(got["parts"], tuple)
        np.testing.assert_array_equal(got["parts"][0], [3, 6])
        np.testing.assert_array_equal(got["parts"][1], [2, 3])

    def test_trees_as_arguments(self):
        got = self.m.doubled({"a": np.ones(2), "b": [np.zeros(1), (np.full(3, 2.0), 4.0)]})
        np.testing.assert_array_equal(got["a"], [2, 2])
        self.assertEqual(got["b"][1][1], 8.0)
        np.testing.assert_array_equal(got["b"][1][0], [4, 4, 4])
        self.assertAlmostEqual(self.m.squares({"w": np.float32([1, 2])}, np.float32([0, 0])), 2.5, places=6)

    def test_numbers_are_known_when_the_code_runs(self):
        m = self.m
        self.assertAlmostEqual(m.plus(0.1, 0.2), 0.1 + 0.2, places=15)
        x = np.ones(3)
        before = len(m["scaled"]._compiled)
        for by in np.linspace(0.5, 5, 20):
            np.testing.assert_array_equal(m.scaled(x, by), by * x)
        self.assertLessEqual(len(m["scaled"]._compiled), before + 1)
        np.testing.assert_array_equal(m.pick(np.float32([3]), squared=True), [9])

    def test_arrays_that_are_not_contiguous_are_copied(self):
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        np.testing.assert_array_equal(self.m.scaled(x[:, 1]), 2 * x[:, 1])
        np.testing.assert_array_equal(self.m.scaled(x[0, ::-1]), 2 * x[0, ::-1])
        np.testing.assert_array_equal(self.m.scaled(x.ravel()[1:]), 2 * x.ravel()[1:])
        swapped = np.arange(3, dtype=np.float32).astype(">f4")
        np.testing.assert_array_equal(self.m.scaled(swapped), 2 * swapped)
        frozen = np.ones(3)
        frozen.flags.writeable = False
        np.testing.assert_array_equal(self.m.scaled(frozen), [2, 2, 2])

    def test_a_result_is_memory_of_its_own(self):
        x = np.float32([1, 2])
        got = self.m.same(x)
        got[0] = 5
        self.assertEqual(x[0], 1)

    def test_any_array_that_has_dlpack(self):
        class Foreign:
            def __init__(self, array):
                self.array = array

            def __dlpack__(self, **kwargs):
                return self.array.__dlpack__()

            def __dlpack_device__(self):
                return self.array.__dlpack_device__()

        x = np.float32([1, 2])
        np.testing.assert_array_equal(self.m.scaled(Foreign(x)), [2, 4])

    def test_derivatives_and_products(self):
        rng = np.random.default_rng(0)
        w, x = rng.normal(size=(2, 7)).astype(np.float32)
        np.testing.assert_allclose(self.m.slope(w, x), 2 * w * x, rtol=1e-6)
        a, b = rng.normal(size=(17, 33)).astype(np.float32), rng.normal(size=(33, 9)).astype(np.float32)
        np.testing.assert_allclose(self.m.product(a, b), a @ b, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(self.m.noise(x), self.m.noise(2 * x))

    def test_mistakes_are_errors_with_a_place(self):
        with self.assertRaises(optc.SpecError) as caught:
            optc.compile("fn f(x: f32[N]) = y + 1\n")
        self.assertIn("unknown name `y`", str(caught.exception))
        found = caught.exception.diagnostics[0]
        self.assertEqual((found["code"], found["primary"]["line"], found["primary"]["column"]), ("E0220", 1, 19))
        for call, words in [
            (lambda: self.m.scaled(np.ones((2, 2))), "scaled(f64[2, 2])"),
            (lambda: self.m.scaled(np.ones(2), bye=1), "did you mean `by`"),
            (lambda: self.m.scaled(), "needs the argument `x`"),
            (lambda: self.m.at(5, np.float32([1])), "outside an axis of 1 elements"),
        ]:
            with self.assertRaises(optc.SpecError) as caught:
                call()
            self.assertIn(words, str(caught.exception))
        with self.assertRaisesRegex(ValueError, "`by` of `scaled` is -1, but must be at least 0"):
            self.m.scaled(np.ones(2), by=-1)
        with self.assertRaisesRegex(AttributeError, "the spec has no `nothing`"):
            self.m.nothing
        with self.assertRaisesRegex(KeyError, "is a model, no function"):
            self.m["net"]
        with self.assertRaises(optc.SpecError) as caught:
            optc.load("no/such/file.opt")
        self.assertEqual(caught.exception.diagnostics[0]["code"], "R0101")
        with self.assertRaises(TypeError):
            self.m.scaled(np.array(["a"]))
        with self.assertRaises(TypeError):
            self.m.scaled(object())

    def test_a_function_outlives_its_module(self):
        f = optc.compile(SPEC).scaled
        gc.collect()
        np.testing.assert_array_equal(f(np.ones(2)), [2, 2])

    def test_what_is_known_of_a_function(self):
        self.assertIn("Multiplies.", self.m.scaled.__doc__)
        self.assertEqual(list(self.m.scaled.__signature__.parameters), ["x", "by"])
        self.assertIn("scaled", dir(self.m))
        self.assertIn("net", list(self.m))

    def test_threads_call_one_function_at_once(self):
        x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        want = self.m.product(x, x)
        wrong = []

        def work(k):
            y = x + k
            for _ in range(20):
                if not np.array_equal(self.m.product(y, y), wants[k]):
                    wrong.append(k)

        wants = [self.m.product(x + k, x + k) for k in range(4)]
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(wrong, [])
        before = optc.threads()
        try:
            for n in (1, 3):
                optc.set_threads(n)
                self.assertEqual(optc.threads(), n)
                np.testing.assert_array_equal(self.m.product(x, x), want)
        finally:
            optc.set_threads(before)


if __name__ == "__main__":
    unittest.main()
