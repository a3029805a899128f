"""Optimizers of torch that `optc build --emit torch` writes; the environment variable OPTC names the binary. Skipped without it, or without torch."""

import copy
import importlib
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tempfile
import unittest

if "OPTC" not in os.environ:
    raise unittest.SkipTest("OPTC does not name the binary")
if importlib.util.find_spec("torch") is None:
    raise unittest.SkipTest("torch is not installed")

import torch

# What is built: name of the module's function, rule.
RULES = {
    "adamw": "adamw",
    "momentum": 'sgd(momentum = 0.9, variant = "torch")',
    "plain": "sgd",
    "lion": "lion",
    "rmsprop": "rmsprop(eps_in_sqrt = false, lr_in_momentum = false)",
    "adagrad": 'adagrad(initial = 0, eps = 1e-10, variant = "torch")',
}


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).to(dtype)


def train(model, optimizer, steps=30, each=None, drop=None):
    made = torch.Generator().manual_seed(7)
    dtype = next(model.parameters()).dtype
    x, y = torch.randn(32, 8, generator=made).to(dtype), torch.randn(32, 4, generator=made).to(dtype)
    for k in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if drop is not None:
            drop(k, model)
        optimizer.step()
        if each is not None:
            each(k)
    return float(loss.detach())


def apart(a, b):
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters()))


class Exported(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name, rule in RULES.items():
            command = [os.environ["OPTC"], "build", "--optimizer", rule, "--name", name, "--emit", "torch", "--dtype", "f32,f64,bf16", "-o", cls.folder.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sys.path.insert(0, cls.folder.name)
        for name in RULES:
            module = importlib.import_module(f"{name}_torch")
            setattr(cls, name + "_", module)
        cls.AdamW, cls.Momentum, cls.Plain, cls.Lion = cls.adamw_.AdamW, cls.momentum_.Momentum, cls.plain_.Plain, cls.lion_.Lion
        cls.RMSprop, cls.Adagrad = cls.rmsprop_.Rmsprop if hasattr(cls.rmsprop_, "Rmsprop") else cls.rmsprop_.RMSprop, cls.adagrad_.Adagrad

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()

    def pairs(self):
        """Optimizers of torch and those that do the same."""
        o = torch.optim
        return {
            "AdamW": (lambda p: o.AdamW(p, lr=0.01), lambda p: self.AdamW(p, lr=0.01)),
            "AdamW maximize": (lambda p: o.AdamW(p, betas=(0.8, 0.9), maximize=True), lambda p: self.AdamW(p, betas=(0.8, 0.9), maximize=True)),
            "SGD momentum": (lambda p: o.SGD(p, lr=0.1, momentum=0.9, dampening=0.2), lambda p: self.Momentum(p, lr=0.1, dampening=0.2)),
            "SGD": (lambda p: o.SGD(p, lr=0.1), lambda p: self.Plain(p, lr=0.1)),
            "RMSprop": (lambda p: o.RMSprop(p, alpha=0.9), lambda p: self.RMSprop(p, lr=0.01)),
            "Adagrad": (lambda p: o.Adagrad(p, lr=0.1), lambda p: self.Adagrad(p, lr=0.1)),
        }

    def test_thirty_steps(self):
        for name, (theirs, ours) in self.pairs().items():
            for dtype, close in [(torch.float32, 2e-5), (torch.float64, 1e-12)]:
                with self.subTest(name=name, dtype=dtype):
                    a, b, before = net(dtype=dtype), net(dtype=dtype), net(dtype=dtype)
                    train(a, theirs(a.parameters()))
                    train(b, ours(b.parameters()))
                    self.assertGreater(apart(a, before), 1e-3)
                    self.assertLess(apart(a, b), close)

    def test_defaults_are_those_of_torch(self):
        theirs, ours = torch.optim.AdamW([torch.zeros(1)]).defaults, self.AdamW([torch.zeros(1)]).defaults
        self.assertEqual({n: x for n, x in theirs.items() if ours.get(n, x) != x}, {})
        self.assertEqual(self.Plain([torch.zeros(1)]).defaults["lr"], torch.optim.SGD([torch.zeros(1)]).defaults["lr"])

    def test_states_to_torch_and_back(self):
        for name, (theirs, ours) in self.pairs().items():
            with self.subTest(name=name):
                a = net()
                first = theirs(a.parameters())
                train(a, first, steps=7)
                b = copy.deepcopy(a)
                second = ours(b.parameters())
                second.load_state_dict(first.state_dict())
                train(a, first, steps=7)
                train(b, second, steps=7)
                self.assertLess(apart(a, b), 1e-5)
                if name in ("RMSprop", "Adagrad"):
                    continue  # torch's need keys of groups that the rule has other names for.
                c = copy.deepcopy(b)
                third = theirs(c.parameters())
                saved = copy.deepcopy(second.state_dict())
                saved["param_groups"] = third.state_dict()["param_groups"]
                third.load_state_dict(saved)
                train(a, first, steps=7)
                train(c, third, steps=7)
                self.assertLess(apart(a, c), 2e-5)

    def test_resumed_to_the_same_bits(self):
        for name, (_, ours) in self.pairs().items():
            with self.subTest(name=name):
                a = net()
                o = ours(a.parameters())
                train(a, o, steps=5)
                file = io.BytesIO()
                torch.save(o.state_dict(), file)
                file.seek(0)
                b = copy.deepcopy(a)
                resumed = ours(b.parameters())
                resumed.load_state_dict(torch.load(file))
                c, copied = copy.deepcopy((a, o))
                d, pickled = pickle.loads(pickle.dumps((a, o)))
                o.load_state_dict(o.state_dict())
                for model, optimizer in ((a, o), (b, resumed), (c, copied), (d, pickled)):
                    train(model, optimizer, steps=5)
                self.assertEqual([apart(a, other) for other in (b, c, d)], [0, 0, 0])

    def test_loading_copies_and_keeps_types(self):
        a, b = net(dtype=torch.bfloat16), net(dtype=torch.bfloat16)
        one, other = self.AdamW(a.parameters(), lr=0.01), self.AdamW(b.parameters(), lr=0.01)
        train(a, one, steps=3)
        self.assertEqual({x.dtype for own in one.state.values() for x in own.values()}, {torch.float32})
        b.load_state_dict(a.state_dict())
        other.load_state_dict(one.state_dict())
        before = copy.deepcopy(one.state_dict()["state"])
        train(b, other, steps=3)
        for want, have in zip(before.values(), one.state_dict()["state"].values()):
            self.assertTrue(all(torch.equal(want[n], have[n]) for n in want))
        train(a, one, steps=3)
        self.assertEqual(apart(a, b), 0)
        # Weights of another type get states of theirs.
        c = net(dtype=torch.float64)
        third = self.AdamW(c.parameters(), lr=0.01)
        third.load_state_dict(one.state_dict())
        train(c, third, steps=2)
        self.assertEqual({x.dtype for own in third.state.values() for n, x in own.items() if n != "step"}, {torch.float64})

    def test_pre_hooks_change_what_is_loaded(self):
        a = net()
        o = self.Momentum(a.parameters())
        train(a, o, steps=2)

        def zeroed(_, found):
            return {**found, "state": {k: {n: torch.zeros_like(x) for n, x in own.items()} for k, own in found["state"].items()}}

        o.register_load_state_dict_pre_hook(zeroed)
        o.load_state_dict(o.state_dict())
        self.assertTrue(all(not x.any() for own in o.state.values() for x in own.values()))

    def test_what_the_rule_has_not_is_refused(self):
        a = net()
        theirs = torch.optim.AdamW(a.parameters(), amsgrad=True)
        train(a, theirs, steps=1)
        o = self.AdamW(a.parameters())
        o.load_state_dict(theirs.state_dict())
        with self.assertRaisesRegex(ValueError, "built with amsgrad=False, but a parameter group says amsgrad=True"):
            train(a, o, steps=1)
        o = self.AdamW(a.parameters())
        o.load_state_dict({"state": {0: {"square_avg": torch.zeros(16, 8), "step": torch.tensor(3.0)}}, "param_groups": o.state_dict()["param_groups"]})
        with self.assertRaisesRegex(ValueError, "lack `exp_avg`; there are square_avg"):
            train(a, o, steps=1)
        with self.assertRaisesRegex(ValueError, "Invalid learning rate: -1"):
            self.AdamW(a.parameters(), lr=-1)
        with self.assertRaisesRegex(ValueError, "Invalid beta parameter at index 1: 1.0"):
            self.AdamW(a.parameters(), betas=(0.9, 1.0))
        o = self.AdamW(a.parameters())
        o.param_groups[0]["lr"] = -1.0
        before = copy.deepcopy(a)
        with self.assertRaisesRegex(ValueError, "lr"):
            train(a, o, steps=1)
        self.assertEqual(apart(a, before), 0)
        w = torch.ones(4, requires_grad=True)
        o = self.AdamW([w])
        w.grad = torch.sparse_coo_tensor([[1]], [1.0], (4,))
        with self.assertRaisesRegex(RuntimeError, "sparse"):
            o.step()

    def test_brain_floats(self):
        """Beside f32 arithmetic on weights that are rounded once a step."""
        torch.manual_seed(0)
        w = torch.randn(1000).bfloat16().requires_grad_()
        o = self.AdamW([w], lr=0.1, weight_decay=0.1)
        x, m, v = w.detach().float(), torch.zeros(1000), torch.zeros(1000)
        for t in range(1, 11):
            g = torch.randn(1000).bfloat16()
            w.grad = g
            o.step()
            m = 0.9 * m + 0.1 * g.float()
            v = 0.999 * v + 0.001 * g.float() ** 2
            x = (x - 0.1 * (m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8) + 0.1 * x)).bfloat16().float()
        # A rounding may fall to the other side.
        self.assertLess(float((w.detach().float() - x).abs().max()), 2e-2)
        self.assertGreater(float((w.detach().float() == x).float().mean()), 0.97)

    def test_layouts(self):
        """Weights and gradients that lie in other orders; both or one of them."""
        for kernel in (3, 1):
            for weights in (torch.contiguous_format, torch.channels_last):
                for slopes in (torch.contiguous_format, torch.channels_last):
                    with self.subTest(kernel=kernel, weights=weights, slopes=slopes):
                        torch.manual_seed(0)
                        start = torch.randn(8, 6, kernel, kernel)
                        a = start.clone().requires_grad_()
                        b = start.clone(memory_format=weights).requires_grad_()
                        theirs, ours = torch.optim.AdamW([a], lr=0.01), self.AdamW([b], lr=0.01)
                        for k in range(4):
                            g = torch.randn(8, 6, kernel, kernel)
                            a.grad, b.grad = g, g.clone(memory_format=slopes)
                            theirs.step()
                            ours.step()
                        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
                        own = ours.state[b]["exp_avg"]
                        self.assertTrue(own.is_contiguous(memory_format=weights))
                        # States of another layout are laid out anew.
                        saved = torch.optim.AdamW([a], lr=0.01)
                        saved.load_state_dict(theirs.state_dict())
                        ours.load_state_dict(saved.state_dict())
                        a.grad, b.grad = g, g.clone(memory_format=slopes)
                        theirs.step()
                        ours.step()
                        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        # What is strided goes by torch's operations.
        a, b = (torch.ones(4, 6).T.clone(memory_format=torch.preserve_format)[:, ::2].requires_grad_() for _ in range(2))
        theirs, ours = torch.optim.AdamW([a]), self.AdamW([b])
        for k in range(3):
            a.grad = torch.randn(6, 2)
            b.grad = a.grad.clone()
            theirs.step()
            ours.step()
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        self.assertEqual(float(ours.state[b]["step"]), 3)

    def test_a_mixture_of_types(self):
        kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
        w = [torch.ones(5, dtype=d, requires_grad=True) for d in kinds] + [torch.zeros(0, requires_grad=True), torch.tensor(1.0, requires_grad=True)]
        o = self.AdamW(w, lr=0.5, weight_decay=0)
        for _ in range(2):
            for p in w:
                p.grad = torch.ones_like(p)
            o.step()
        for p in w:
            self.assertTrue(torch.allclose(p.detach().float(), torch.zeros(()), atol=1e-2), p)

    def test_gradients_that_are_not_there(self):
        drawn = torch.rand(25, 4, generator=torch.Generator().manual_seed(3)) < 0.6

        def drop(k, model):
            for p, kept in zip(model.parameters(), drawn[k]):
                if not kept:
                    p.grad = None

        for name in ("AdamW", "SGD momentum"):
            theirs, ours = self.pairs()[name]
            a, b = net(), net()
            first, second = theirs(a.parameters()), ours(b.parameters())
            train(a, first, steps=25, drop=drop)
            train(b, second, steps=25, drop=drop)
            self.assertLess(apart(a, b), 2e-5)
            for p, q in zip(a.parameters(), b.parameters()):
                if "step" in first.state[p]:
                    self.assertEqual(float(first.state[p]["step"]), float(second.state[q]["step"]))

    def test_counts_that_someone_sets(self):
        a, b = net(), net()
        theirs, ours = torch.optim.AdamW(a.parameters(), lr=0.01), self.AdamW(b.parameters(), lr=0.01)
        train(a, theirs, steps=3)
        train(b, ours, steps=3)
        for o in (theirs, ours):
            for k, own in enumerate(o.state.values()):
                if k % 2:
                    own["step"].fill_(100.0)
                else:
                    own["exp_avg"] = torch.zeros_like(own["exp_avg"])
        train(a, theirs, steps=3)
        train(b, ours, steps=3)
        self.assertLess(apart(a, b), 1e-5)

    def test_groups_and_schedulers(self):
        def groups(m):
            return [{"params": m[0].parameters()}, {"params": [m[2].weight], "lr": 0.002, "betas": (0.8, 0.9)}]

        for make in (
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=60),
        ):
            a, b = net(), net()
            theirs, ours = torch.optim.AdamW(groups(a)), self.AdamW(groups(b))
            schedules = make(theirs), make(ours)
            for model, o, schedule in ((a, theirs, schedules[0]), (b, ours, schedules[1])):
                train(model, o, steps=10, each=lambda _: schedule.step())
                o.add_param_group({"params": [model[2].bias], "weight_decay": 0.5})
                train(model, o, steps=10)
            self.assertLess(apart(a, b), 2e-5)
            self.assertEqual([float(own["step"]) for own in ours.state.values()], [20, 20, 20, 10])

    def test_learning_rates_that_are_tensors(self):
        a, b = net(), net()
        rate = torch.tensor(0.01)
        ours = self.AdamW(a.parameters(), lr=rate)
        other = self.AdamW(b.parameters(), lr=0.01)
        train(a, ours, steps=3)
        train(b, other, steps=3)
        rate.fill_(0.5)
        other.param_groups[0]["lr"] = 0.5
        train(a, ours, steps=3)
        train(b, other, steps=3)
        self.assertEqual(apart(a, b), 0)

    def test_grad_scaler(self):
        a, b = net(), net()
        x, y = torch.randn(32, 8), torch.randn(32, 4)
        theirs, ours = torch.optim.AdamW(a.parameters()), self.AdamW(b.parameters())
        for model, o in ((a, theirs), (b, ours)):
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
            for k in range(10):
                o.zero_grad()
                loss = (model(x) - y).square().mean()
                scaler.scale(loss * (float("inf") if k == 4 else 1)).backward()
                if k % 3 == 2:
                    scaler.unscale_(o)
                scaler.step(o)
                scaler.update()
        self.assertLess(apart(a, b), 1e-6)
        self.assertEqual(float(ours.state[b[0].weight]["step"]), 9)

    def test_closures_hooks_and_compiled_loops(self):
        a, b = net(), net()
        x, y = torch.randn(32, 8), torch.randn(32, 4)
        one, other = self.AdamW(a.parameters()), self.AdamW(b.parameters())
        seen = []
        one.register_step_pre_hook(lambda *_: seen.append("before"))
        one.register_step_post_hook(lambda *_: seen.append("after"))

        def closure():
            self.assertTrue(torch.is_grad_enabled())
            one.zero_grad()
            loss = (a(x) - y).square().mean()
            loss.backward()
            return loss

        compiled = torch.compile(b, backend="eager")

        @torch.compile(backend="eager")
        def step():
            other.zero_grad()
            (compiled(x) - y).square().mean().backward()
            other.step()

        losses = [one.step(closure) for _ in range(4)]
        for _ in range(4):
            step()
        self.assertLess(float(losses[-1]), float(losses[0]))
        self.assertEqual(seen, ["before", "after"] * 4)
        self.assertEqual(apart(a, b), 0)

    def test_autograd_sees_new_values(self):
        w = torch.ones(3, requires_grad=True)
        o = self.Plain([w])
        loss = (w * w).sum()
        w.grad = torch.ones(3)
        o.step()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    def test_weights_that_are_moved(self):
        a, b = net(), net()
        theirs, ours = torch.optim.AdamW(a.parameters(), lr=0.01), self.AdamW(b.parameters(), lr=0.01)
        for _ in range(3):
            train(a, theirs, steps=2)
            train(b, ours, steps=2)
            for model in (a, b):
                model[0].weight.data = model[0].weight.data.clone()
        self.assertLess(apart(a, b), 1e-5)

    def test_results_do_not_depend_on_threads(self):
        before, found = torch.get_num_threads(), []
        try:
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                torch.manual_seed(0)
                w = [torch.randn(shape, requires_grad=True) for shape in [(123, 457), (300001,), (7,), (511, 513)]]
                o, lion = self.AdamW(w[:2], lr=0.01), self.Lion(w[2:], lr=0.01)
                for _ in range(3):
                    for p in w:
                        p.grad = torch.sin(3 * p.detach())
                    o.step()
                    lion.step()
                found.append(w)
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            self.assertTrue(all(torch.equal(p, q) for p, q in zip(found[0], other)))

    def test_lion(self):
        a = net()
        x = [p.detach().double() for p in a.parameters()]
        m = [torch.zeros_like(p) for p in x]
        o = self.Lion(a.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
        for k in range(10):
            grads = [torch.cos(3 * p + k) for p in x]
            for p, g in zip(a.parameters(), grads):
                p.grad = g.float()
            o.step()
            x = [p - 0.01 * (torch.sign(0.9 * s + 0.1 * g) + 0.1 * p) for p, s, g in zip(x, m, grads)]
            m = [0.99 * s + 0.01 * g for s, g in zip(m, grads)]
        # A sign may flip where its argument is within rounding of 0.
        far = torch.cat([(p.detach() - q).abs().flatten() for p, q in zip(a.parameters(), x)])
        self.assertLess(int((far > 1e-5).sum()), 3)
        self.assertEqual(list(o.state[a[0].weight]), ["exp_avg"])

    def test_the_functional_form(self):
        a, b = net(), net()
        o = self.AdamW(a.parameters(), lr=0.01)
        p = list(b.parameters())
        m, v, t = [torch.zeros_like(x) for x in p], [torch.zeros_like(x) for x in p], [torch.tensor(0.0) for _ in p]
        for k in range(3):
            for x, y in zip(a.parameters(), p):
                x.grad = torch.cos(x.detach() + k)
            self.adamw_.adamw(p, [torch.cos(y.detach() + k) for y in p], m, v, t, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2, eps_root=0.0)
            o.step()
        self.assertEqual(apart(a, b), 0)
        self.assertEqual(float(t[0]), 3)


if __name__ == "__main__":
    unittest.main()
