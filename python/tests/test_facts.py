"""What is said of rules as a whole, beside what they do."""

import os
import unittest

import numpy as np

import optc
from optc._optimizer import Optimizer

SHAPES = [(6, 4), (4,), (6, 4), (5, 3, 2)]
RULES = [
    "adamw", "lamb", "lion", "adafactor", "prodigy", "dog", "muon", "shampoo", "adam_mini", "novograd", "nadam", "yogi", "sm3", "came", "adagc", "clip_by_global_norm(1.0) |> sgd(lr = 0.1)",
    "normalize() |> sgd(lr = 0.1)", "lookahead(inner = adam(), k = 2)", "apply_if_finite(inner = sgd(lr = 0.1))", "schedule_free(inner = adam())", "radam", "centralize() |> sgd(lr = 0.1)",
    "adaptive_grad_clip(0.01) |> sgd(lr = 0.1)", '{ "w0": clip_by_global_norm(0.1) |> sgd(lr = 0.1), _: sgd(lr = 0.1) }', "adanorm", "nero",
]


def arrays(shapes, seed):
    made = np.random.default_rng(seed)
    return [np.asarray(made.normal(size=s), np.float64) for s in shapes]


def steps(rule, shapes, numbers, first, names):
    """Weights after four steps, and the states before; gradients go by the leaf's number."""
    o = Optimizer(rule, shapes, np.float64, outputs_first=first, names=names, total_steps=10, _part=len(shapes) < len(SHAPES), _axes=True)
    w = [arrays(SHAPES, 0)[k] for k in numbers]
    kept = o.init(w, [arrays(SHAPES, 1)[k] for k in numbers])
    begun = [{names[n]: x.copy() for n, x in own.items()} for names, own in zip(o._short, kept.leaves)]
    for t in range(4):
        o.step(w, [arrays(SHAPES, 1 + t)[k] for k in numbers], kept, **({"loss": 1.0 / (1 + t)} if o.needs_loss else {}))
    return o, w, begun


class Facts(unittest.TestCase):
    def test_leaves_that_depend_on_each_other_and_axes_that_are_told_apart(self):
        rules = RULES
        if os.environ.get("OPTC_ALL_RULES"):
            rules = list(optc.list_optimizers())
        names = [f"w{k}" for k in range(len(SHAPES))]
        found = {"coupled": 0, "apart": 0, "axes": 0}
        for rule in rules:
            with self.subTest(rule=rule):
                try:
                    o, w, begun = steps(rule, SHAPES, range(4), False, names)
                except (ValueError, optc.SpecError):
                    # Rules of no weights, that need others, or the loss elsewhere.
                    self.assertNotIn(rule, RULES)
                    continue
                found["coupled"] += o.couples_leaves
                if not o.couples_leaves:
                    for numbers in ([0], [1, 3], [2]):
                        _, alone, first = steps(rule, [SHAPES[k] for k in numbers], numbers, False, [names[k] for k in numbers])
                        # What is drawn goes by the number of the leaf.
                        if o.draws or not all(np.array_equal(x, begun[k][n]) for k, own in zip(numbers, first) for n, x in own.items()):
                            continue
                        found["apart"] += 1
                        for k, x in zip(numbers, alone):
                            np.testing.assert_allclose(x, w[k], rtol=1e-12, atol=1e-14)
                if o._blind_to_axes:
                    found["axes"] += 1
                    for x, y in zip(steps(rule, SHAPES, range(4), True, names)[1], w):
                        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
        self.assertTrue(all(n >= 4 for n in found.values()), found)


if __name__ == "__main__":
    unittest.main()
