"""Optimizers of torch for given shapes (`optc build --shapes … --emit torch`); the environment variable OPTC names the binary. Skipped without it, or without torch."""

import copy
import importlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import unittest

if "OPTC" not in os.environ:
    raise unittest.SkipTest("OPTC does not name the binary")
if importlib.util.find_spec("torch") is None:
    raise unittest.SkipTest("torch is not installed")

import torch

SHAPES = "48x8,48,40x48,40"
# Rule, element types; the bias of the last layer is in no state of 8 bits.
RULES = {
    "adafactor": ('adafactor(variant = "torch")', "f32,f64"),
    "optax_adafactor": ("adafactor(min_factored = 8, momentum = 0.9)", "f32"),
    "adamw8bit": ("adamw8bit(weight_decay = 0.01, block = 64, small = 48)", "f32,bf16"),
    "lion8bit": ("lion8bit(small = 48)", "f32"),
    "sm3": ("sm3()", "f32"),
}


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 48), torch.nn.Tanh(), torch.nn.Linear(48, 40)).to(dtype)


def train(model, optimizer, steps=30, start=0):
    dtype = next(model.parameters()).dtype
    losses = []
    for k in range(start, start + steps):
        made = torch.Generator().manual_seed(k % 3)
        x, y = torch.randn(32, 8, generator=made).to(dtype), torch.randn(32, 40, generator=made).to(dtype)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def apart(a, b):
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters()))


def build(folder, name, rule, dtypes="f32", shapes=SHAPES, check=True):
    command = [os.environ["OPTC"], "build", "--optimizer", rule, "--name", name, "--emit", "torch", "--dtype", dtypes, "--shapes", shapes, "-o", folder]
    return subprocess.run(command, check=check, capture_output=True, text=True)


class OfGivenShapes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name, (rule, dtypes) in RULES.items():
            build(cls.folder.name, name, rule, dtypes)
        sys.path.insert(0, cls.folder.name)
        modules = {name: importlib.import_module(f"{name}_torch") for name in RULES}
        cls.classes = {name: getattr(module, module.__all__[0]) for name, module in modules.items()}
        cls.Adafactor, cls.EightBit = cls.classes["adafactor"], cls.classes["adamw8bit"]

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()

    def test_adafactor_is_that_of_torch(self):
        for dtype, within in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
            for arguments in ({}, dict(lr=0.05, beta2_decay=-0.6, eps=(1e-6, 1e-2), d=1.5, weight_decay=0.1), dict(maximize=True)):
                with self.subTest(dtype=dtype, **arguments):
                    ours, theirs = net(dtype), net(dtype)
                    train(ours, self.Adafactor(ours.parameters(), **arguments))
                    train(theirs, torch.optim.Adafactor(theirs.parameters(), **arguments))
                    self.assertLess(apart(ours, theirs), within)
                    self.assertGreater(apart(ours, net(dtype)), 1e-3)

    def test_groups_have_the_keys_of_torch(self):
        ours, theirs = self.Adafactor(net().parameters()), torch.optim.Adafactor(net().parameters())
        for key, value in theirs.defaults.items():
            self.assertEqual(ours.defaults[key], value, key)

    def test_checkpoints_of_adafactor_go_both_ways(self):
        for first, second in ((self.Adafactor, torch.optim.Adafactor), (torch.optim.Adafactor, self.Adafactor)):
            with self.subTest(first=first):
                model = net(torch.float64)
                optimizer = first(model.parameters(), lr=0.02)
                train(model, optimizer, 10)
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                twin = copy.deepcopy(model)
                other = second(twin.parameters())
                other.load_state_dict(torch.load(file))
                self.assertEqual(other.param_groups[0]["lr"], 0.02)
                train(model, optimizer, 10, 10)
                train(twin, other, 10, 10)
                self.assertLess(apart(model, twin), 1e-12)

    def test_eight_bits_follow_adamw(self):
        ours, theirs = net(), net()
        arguments = dict(lr=1e-3, weight_decay=0.01)
        mine, plain = self.EightBit(ours.parameters(), **arguments), torch.optim.AdamW(theirs.parameters(), **arguments)
        train(ours, mine, 1)
        train(theirs, plain, 1)
        # A step uses the moments before they are rounded: the first one is that of AdamW.
        self.assertLess(apart(ours, theirs), 2e-7)
        train(ours, mine, 29, 1)
        train(theirs, plain, 29, 1)
        # 30 steps of at most about the learning rate.
        self.assertLess(apart(ours, theirs), 0.3 * 30e-3)
        kinds = {x.dtype for kept in mine.state.values() for x in kept.values()}
        self.assertEqual(kinds, {torch.uint8, torch.float32})
        bytes_of = [sum(x.nbytes for x in mine.state[p].values()) / p.numel() for p in ours.parameters() if p.numel() > 1000]
        self.assertLess(max(bytes_of), 2.2)

    def test_resumed_to_the_same_bits(self):
        for name in RULES:
            with self.subTest(name):
                model = net()
                optimizer = self.classes[name](model.parameters())
                train(model, optimizer, 7)
                twin = copy.deepcopy(model)
                other = self.classes[name](twin.parameters())
                other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                train(model, optimizer, 7, 7)
                train(twin, other, 7, 7)
                self.assertEqual(apart(model, twin), 0)

    def test_seeds_and_threads(self):
        def after(threads=1, **arguments):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                model = net()
                optimizer = self.EightBit(model.parameters(), **arguments)
                train(model, optimizer, 10)
                optimizer.zero_grad()
                return model
            finally:
                torch.set_num_threads(before)

        self.assertEqual(apart(after(), after(2)), 0)
        self.assertEqual(apart(after(seed=3), after(seed=3)), 0)
        self.assertGreater(apart(after(seed=3), after(seed=4)), 0)

    def test_all_learn(self):
        for name in RULES:
            with self.subTest(name):
                model = net()
                losses = train(model, self.classes[name](model.parameters()), 60)
                self.assertLess(sum(losses[-3:]), sum(losses[:3]))

    def test_layouts_gradients_and_closures(self):
        # Weights that lie otherwise in memory make the same steps; parameters without gradients none.
        plain, turned = net(), net()
        turned[0].weight = torch.nn.Parameter(turned[0].weight.detach().t().contiguous().t())
        mine = [self.Adafactor(m.parameters()) for m in (plain, turned)]
        for m, o in zip((plain, turned), mine):
            m[2].bias.requires_grad_(False)
            train(m, o, 5)
        self.assertLess(apart(plain, turned), 1e-6)
        self.assertNotIn(plain[2].bias, mine[0].state)
        model = net()
        optimizer = self.Adafactor(model.parameters())

        def closure():
            optimizer.zero_grad()
            loss = model(torch.ones(4, 8)).square().mean()
            loss.backward()
            return loss

        first, second = (float(optimizer.step(closure).detach()) for _ in range(2))
        self.assertGreater(first, second)

    def test_what_is_wrong_is_said(self):
        other = torch.nn.Parameter(torch.ones(3, 3))
        other.grad = torch.ones(3, 3)
        with self.assertRaisesRegex(RuntimeError, r"not \[3, 3\]"):
            self.Adafactor([other]).step()
        model = net()
        optimizer = self.Adafactor(model.parameters(), d=-1.0)
        with self.assertRaisesRegex(ValueError, "clipping must be > 0"):
            train(model, optimizer, 1)
        refused = build(self.folder.name, "clipped", "clip_by_global_norm(1.0) |> adafactor()", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("its leaves have numbers in common", refused.stderr)


if __name__ == "__main__":
    unittest.main()
