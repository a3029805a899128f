"""Rules that look at the loss at other weights as optimizers of torch; skipped where torch is not installed."""

import copy
import importlib.util
import io
import pickle
import unittest
import warnings

import optc

if importlib.util.find_spec("torch") is None:
    raise unittest.SkipTest("torch is not installed")

import torch

import optc.torch as ot

from .test_optimizers import completed
from .test_torch import apart, data, net


def closure_of(model, optimizer, dtype=torch.float32, called=None):
    x, y = data(dtype)

    def closure(create_graph=False, backward=True):
        if called is not None:
            called.append("value" if not backward else "graph" if create_graph else "gradient")
        loss = (model(x) - y).square().mean()
        if backward:
            optimizer.zero_grad()
            with warnings.catch_warnings():
                # That such a graph has to be freed, which the optimizer does.
                warnings.simplefilter("ignore")
                loss.backward(create_graph=create_graph)
        return loss

    return closure


def example_gradients(model, dtype=torch.float32):
    """Gradients of each example's loss by `torch.func`, in the order of the parameters."""
    x, y = data(dtype)

    def loss(params, x, y):
        return (torch.func.functional_call(model, params, (x[None],)) - y).square().mean()

    def grad_each():
        params = {n: p.detach() for n, p in model.named_parameters()}
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, x, y)
        return [each[n] for n, _ in model.named_parameters()]

    return grad_each


def gradients(model, dtype=torch.float64):
    x, y = data(dtype)
    return torch.autograd.grad((model(x) - y).square().mean(), list(model.parameters()))


def moved(model, by):
    with torch.no_grad():
        for p, d in zip(model.parameters(), by):
            p.add_(d)


class Beside(unittest.TestCase):
    def sam(self, model, base, steps, rho=0.05, adaptive=False, sign=1.0):
        """Sharpness-aware minimization by hand (Foret et al. 2021; Kwon et al. 2021)."""
        for _ in range(steps):
            params = list(model.parameters())
            g = [sign * x for x in gradients(model)]
            with torch.no_grad():
                if adaptive:
                    norm = torch.sqrt(sum(((p * x) ** 2).sum() for p, x in zip(params, g)))
                    e = [rho * p * p * x / (norm + 1e-12) for p, x in zip(params, g)]
                else:
                    norm = torch.sqrt(sum((x**2).sum() for x in g))
                    e = [rho * x / (norm + 1e-12) for x in g]
            before = [p.detach().clone() for p in params]
            moved(model, e)
            for p, x in zip(params, gradients(model)):
                p.grad = x
            with torch.no_grad():
                for p, w in zip(params, before):
                    p.copy_(w)
            base.step()

    def test_sam(self):
        for rule, adaptive, base in [
            ("sam(sgd(lr = 0.1, momentum = 0.9))", False, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
            ("asam(adamw(lr = 0.01, weight_decay = 0.1), rho = 0.05)", True, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
            ("sam(muon(lr = 0.02))", False, lambda p: ot.Optimizer(p, "muon(lr = 0.02)")),
        ]:
            with self.subTest(rule=rule):
                a, b = net(dtype=torch.float64), net(dtype=torch.float64)
                self.sam(a, base(a.parameters()), 10, adaptive=adaptive)
                o = ot.Optimizer(b.parameters(), rule)
                called = []
                for _ in range(10):
                    o.step(closure_of(b, o, torch.float64, called))
                self.assertEqual(called, ["gradient"] * 20)
                self.assertGreater(apart(a, net(dtype=torch.float64)), 1e-2)
                self.assertLess(apart(a, b), 1e-12)

    def test_maximize(self):
        a, b = net(dtype=torch.float64), net(dtype=torch.float64)
        self.sam(a, torch.optim.SGD(a.parameters(), lr=0.01, maximize=True), 5, sign=-1.0)
        o = ot.Optimizer(b.parameters(), "sam(sgd(lr = 0.01))", maximize=True)
        for _ in range(5):
            o.step(closure_of(b, o, torch.float64))
        self.assertGreater(apart(a, net(dtype=torch.float64)), 1e-3)
        self.assertLess(apart(a, b), 1e-12)

    def test_line_searches_go_down(self):
        """As far as torch's own L-BFGS with a line search goes, which chooses other points."""
        for rule in ("lbfgs", "nonlinear_cg", "lbfgs_direction |> backtracking", "damped_newton"):
            with self.subTest(rule=rule):
                a = net(dtype=torch.float64)
                o = ot.Optimizer(a.parameters(), rule if "|>" not in rule else "lbfgs_direction() |> backtracking()")
                losses = [float(o.step(closure_of(a, o, torch.float64)).detach()) for _ in range(40)]
                self.assertTrue(all(x > y for x, y in zip(losses, losses[1:])), losses)
                b = net(dtype=torch.float64)
                theirs = torch.optim.LBFGS(b.parameters(), max_iter=40, line_search_fn="strong_wolfe")
                theirs.step(closure_of(b, theirs, torch.float64))
                x, y = data(torch.float64)
                self.assertLess(losses[-1], 2 * float((b(x) - y).square().mean().detach()))

    def test_products_with_the_hessian(self):
        """Newton's step on a quadratic is the solution; the products come from the graph of the gradients, or from a function."""
        torch.manual_seed(0)
        x, y = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
        want = torch.linalg.lstsq(x, y).solution[:, 0]

        def loss(model):
            return (model(x) - y).square().mean()

        def made():
            return torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)

        for way in ("closure builds the graph always", "closure is told", "hvp"):
            with self.subTest(way=way):
                model = made()
                o = ot.Optimizer(model.parameters(), "newton(iters = 30, tol = 1e-14)")

                def always():
                    o.zero_grad()
                    value = loss(model)
                    value.backward(create_graph=way != "hvp")
                    return value

                def told(create_graph=False):
                    o.zero_grad()
                    value = loss(model)
                    value.backward(create_graph=create_graph)
                    return value

                def hvp(directions):
                    g = torch.autograd.grad(loss(model), list(model.parameters()), create_graph=True)
                    return torch.autograd.grad(g, list(model.parameters()), directions)

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    o.step(told if way == "closure is told" else always, hvp=hvp if way == "hvp" else None)
                self.assertLess(float((model.weight[0] - want).abs().max().detach()), 1e-9)
                self.assertFalse(model.weight.grad.requires_grad)

    def test_sophia_and_adahessian_on_a_diagonal_hessian(self):
        torch.manual_seed(0)
        c = torch.rand(6, 3, dtype=torch.float64) + 0.5
        for rule, draws in [("adahessian", "gggggg"), ("sophia", "g")]:
            w = torch.nn.Parameter(torch.rand(6, 3, dtype=torch.float64) + 0.5)
            start, products = w.detach().clone(), 0
            o = ot.Optimizer([w], rule)

            def closure(create_graph=False):
                nonlocal products
                products += create_graph
                o.zero_grad()
                value = (c * w**4).sum()
                value.backward(create_graph=create_graph)
                return value

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(6):
                    o.step(closure)
            self.assertEqual(products, len(draws))
            m = v = torch.zeros_like(start)
            p = start
            for t in range(1, 7):
                g, h = 4 * c * p**3, 12 * c * p**2
                if rule == "adahessian":
                    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * h**2
                    p = p - 0.1 * (m / (1 - 0.9**t)) / (torch.sqrt(v / (1 - 0.999**t)) + 1e-16)
                else:
                    m, before = 0.965 * m + 0.035 * g, v
                    v = 0.99 * v + 0.01 * h if t == 1 else v
                    p = p - 1e-3 * ((m / (1 - 0.965**t) / (0.01 * before).clamp(min=1e-8)).clamp(-1, 1) + 1e-4 * p)
            self.assertGreater(float((p - start).abs().max()), 1e-3)
            self.assertLess(float((p - w).abs().max().detach()), 1e-12)


class Closures(unittest.TestCase):
    def test_every_rule_of_the_library(self):
        """Each can be had and makes a step on a net of torch; rules that need an argument, or another rule behind them, with that."""
        for rule in optc.list_optimizers():
            with self.subTest(rule=rule), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = net()
                text = rule
                while True:
                    try:
                        o = ot.Optimizer(model.named_parameters(), text, total_steps=10)
                        break
                    except (optc.SpecError, ValueError) as error:
                        text = completed(text, error)
                        if text is None:
                            raise
                x, _ = data()
                each = example_gradients(model) if "grad_each_at" in o._asks else None
                loss = o.step(closure_of(model, o), grad_each=each)
                self.assertGreater(float(loss.detach()), 0)
                self.assertTrue(torch.isfinite(model(x)).all())

    def test_gradients_of_examples(self):
        """Batches of several sizes; a limit that clips nothing gives the mean of the gradients."""
        a, b = net(dtype=torch.float64), net(dtype=torch.float64)
        o = ot.Optimizer(a.parameters(), "per_example_clip(max_norm = 1e6) |> sgd(lr = 0.1)")
        theirs = torch.optim.SGD(b.parameters(), lr=0.1)
        x, y = data(torch.float64)
        for size in (8, 8, 5, 8):

            def loss(params, x, y):
                return (torch.func.functional_call(a, params, (x[None],)) - y).square().mean()

            def grad_each():
                params = {n: p.detach() for n, p in a.named_parameters()}
                each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, x[:size], y[:size])
                return list(each.values())

            def closure():
                o.zero_grad()
                value = (a(x[:size]) - y[:size]).square().mean()
                value.backward()
                return value

            o.step(closure, grad_each=grad_each)
            theirs.zero_grad()
            (b(x[:size]) - y[:size]).square().mean().backward()
            theirs.step()
        self.assertLess(apart(a, b), 1e-12)

    def test_an_error_in_the_closure(self):
        """It is the step's; parameters and states are as before, and going on gives what would have come without it."""

        class Own(Exception):
            pass

        for rule in ("lbfgs", "sam(adamw(lr = 0.01))", "damped_newton"):
            with self.subTest(rule=rule), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                a, b = net(dtype=torch.float64), net(dtype=torch.float64)
                one, other = ot.Optimizer(a.parameters(), rule), ot.Optimizer(b.parameters(), rule)
                failed = 0
                for k in range(6):
                    left = k % 3
                    plain = closure_of(a, one, torch.float64)

                    def failing(create_graph=False):
                        nonlocal left
                        left -= 1
                        if left < 0:
                            raise Own
                        return plain(create_graph=create_graph)

                    before, states = [p.detach().clone() for p in a.parameters()], copy.deepcopy(one.state_dict())
                    try:
                        one.step(failing)
                    except Own:
                        failed += 1
                        self.assertTrue(all(torch.equal(p, w) for p, w in zip(a.parameters(), before)))
                        now = one.state_dict()
                        for x, y in zip(states["state"].values(), now["state"].values()):
                            self.assertTrue(all(torch.equal(x[n], y[n]) for n in x))
                        one.step(closure_of(a, one, torch.float64))
                    other.step(closure_of(b, other, torch.float64))
                self.assertGreaterEqual(failed, 4)
                self.assertEqual(apart(a, b), 0)

    def test_what_is_missing_is_said(self):
        a = net()
        o = ot.Optimizer(a.parameters(), "sam(sgd(lr = 0.1))")
        closure_of(a, o)()
        with self.assertRaisesRegex(ValueError, "asks for gradients at other weights: give `step` a closure"):
            o.step()
        with self.assertRaisesRegex(ValueError, "give `step` a closure"):
            o.step(loss=1.0)
        with self.assertRaisesRegex(ValueError, "the closure has to return it"):
            o.step(lambda: None)
        newton = ot.Optimizer(a.parameters(), "newton")
        plain = closure_of(a, newton)
        before = [p.detach().clone() for p in a.parameters()]
        with self.assertRaisesRegex(ValueError, r"newton asks for products with the Hessian.*create_graph=True"):
            newton.step(lambda: plain())
        self.assertTrue(all(torch.equal(p, w) for p, w in zip(a.parameters(), before)))
        private = ot.Optimizer(a.parameters(), "per_example_clip() |> sgd(lr = 0.1)")
        with self.assertRaisesRegex(ValueError, "the gradient of each example: `step.closure, grad_each=….`"):
            private.step(closure_of(a, private))

        def again():
            loss = closure_of(a, o)()
            o.step(closure_of(a, o))
            return loss

        first = True

        def stepping():
            nonlocal first
            if first:
                first = False
                return closure_of(a, o)()
            return again()

        with self.assertRaisesRegex(RuntimeError, "steps the same optimizer"):
            o.step(stepping)
        o.step(closure_of(a, o))
        with self.assertRaisesRegex(ValueError, "groups differ in `grow`, but backtracking has one value for all"):
            groups = [{"params": a[0].parameters(), "grow": 2.0}, {"params": a[2].parameters()}]
            o = ot.Optimizer(groups, "backtracking")
            o.step(closure_of(a, o))

    def test_resumed_to_the_same_bits(self):
        for rule in ("sam(adamw(lr = 0.01))", "lbfgs", "adahessian", "looksam(sgd(lr = 0.1, momentum = 0.9), k = 3)", "bsam"):
            with self.subTest(rule=rule), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                a = net()
                o = ot.Optimizer(a.parameters(), rule)

                def five(model, optimizer):
                    for _ in range(5):
                        optimizer.step(closure_of(model, optimizer))

                five(a, o)
                file = io.BytesIO()
                torch.save(o.state_dict(), file)
                file.seek(0)
                b, (c, copied) = copy.deepcopy(a), copy.deepcopy((a, o))
                resumed = ot.Optimizer(b.parameters(), rule)
                resumed.load_state_dict(torch.load(file))
                d, pickled = pickle.loads(pickle.dumps((a, o)))
                for model, optimizer in ((a, o), (b, resumed), (c, copied), (d, pickled)):
                    five(model, optimizer)
                self.assertEqual([apart(a, other) for other in (b, c, d)], [0, 0, 0])

    def test_gradients_that_are_not_there_and_groups(self):
        """Frozen parameters keep their values while others are moved about; groups make one step."""
        a, b = net(dtype=torch.float64), net(dtype=torch.float64)
        for model in (a, b):
            model[0].bias.requires_grad_(False)
        frozen = a[0].bias.detach().clone()
        rule = "sam(sgd(lr = 0.1))"
        one = ot.Optimizer(a.parameters(), rule)
        other = ot.Optimizer([{"params": [b[0].weight, b[0].bias]}, {"params": b[2].parameters()}], rule)
        for _ in range(4):
            one.step(closure_of(a, one, torch.float64))
            other.step(closure_of(b, other, torch.float64))
        self.assertTrue(torch.equal(a[0].bias, frozen))
        self.assertLess(apart(a, b), 1e-14)

    def test_groups_that_differ(self):
        """One norm over all parameters, weight decay and rates by groups."""
        a, b = net(dtype=torch.float64), net(dtype=torch.float64)

        def groups(model):
            return [{"params": [model[0].weight, model[2].weight]}, {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0, "lr": 0.03}]

        o = ot.Optimizer(groups(a), "sam(adamw(lr = 0.01, weight_decay = 0.1))")
        self.assertEqual(o.param_groups[0]["lr"], 0.01)
        base = torch.optim.AdamW(groups(b), lr=0.01, weight_decay=0.1)
        for _ in range(6):
            o.step(closure_of(a, o, torch.float64))
            params = list(b.parameters())
            g = gradients(b)
            norm = torch.sqrt(sum((d**2).sum() for d in g))
            before = [p.detach().clone() for p in params]
            moved(b, [0.05 * d / (norm + 1e-12) for d in g])
            for p, d in zip(params, gradients(b)):
                p.grad = d
            with torch.no_grad():
                for p, w in zip(params, before):
                    p.copy_(w)
            base.step()
        self.assertLess(apart(a, b), 1e-12)

    def test_narrow_parameters(self):
        a = net(dtype=torch.bfloat16)
        o = ot.Optimizer(a.parameters(), "sam(adamw(lr = 0.01))")
        losses = [float(o.step(closure_of(a, o, torch.bfloat16)).detach()) for _ in range(10)]
        self.assertLess(losses[-1], losses[0])
        self.assertIs(a[0].weight.dtype, torch.bfloat16)

    def test_all_calls_of_a_step_draw_the_same(self):
        """Dropout and a random batch, against SAM by hand with the state of the generator."""

        def made():
            torch.manual_seed(1)
            return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 4)).to(torch.float64)

        x, y = data(torch.float64)

        def loss(model):
            rows = torch.randint(0, 32, (8,))
            return (model(x[rows]) - y[rows]).square().mean()

        a, b = made(), made()
        o = ot.Optimizer(a.parameters(), "sam(sgd(lr = 0.1))")

        def closure():
            o.zero_grad()
            value = loss(a)
            value.backward()
            return value

        torch.manual_seed(5)
        ours = [float(o.step(closure).detach()) for _ in range(4)]
        torch.manual_seed(5)
        for want in ours:
            params, draws = list(b.parameters()), torch.get_rng_state()
            value = loss(b)
            self.assertAlmostEqual(float(value.detach()), want, places=12)
            g = torch.autograd.grad(value, params)
            norm = torch.sqrt(sum((d**2).sum() for d in g))
            before = [p.detach().clone() for p in params]
            moved(b, [0.05 * d / (norm + 1e-12) for d in g])
            torch.set_rng_state(draws)
            g = torch.autograd.grad(loss(b), params)
            with torch.no_grad():
                for p, w, d in zip(params, before, g):
                    p.copy_(w - 0.1 * d)
        self.assertEqual(len(set(ours)), 4)
        self.assertLess(apart(a, b), 1e-12)

    def test_gradients_that_are_cleared_in_place(self):
        a, b = net(dtype=torch.float64), net(dtype=torch.float64)
        x, y = data(torch.float64)
        for model, to_none in ((a, True), (b, False)):
            o = ot.Optimizer(model.parameters(), "sam(sgd(lr = 0.1, momentum = 0.9))")

            def closure():
                o.zero_grad(set_to_none=to_none)
                loss = (model(x) - y).square().mean()
                loss.backward()
                return loss

            for _ in range(5):
                o.step(closure)
        self.assertEqual(apart(a, b), 0)


if __name__ == "__main__":
    unittest.main()
