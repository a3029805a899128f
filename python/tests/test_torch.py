"""Rules of the language as optimizers of torch; skipped where torch is not installed."""

import copy
import importlib.util
import io
import pickle
import tempfile
import unittest
import warnings

import optc

if importlib.util.find_spec("torch") is None:
    raise unittest.SkipTest("torch is not installed")

import torch

import optc.torch as ot


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).to(dtype)


def data(dtype=torch.float32):
    made = torch.Generator().manual_seed(7)
    return torch.randn(32, 8, generator=made).to(dtype), torch.randn(32, 4, generator=made).to(dtype)


def train(model, optimizer, steps=30, each=None, dtype=torch.float32):
    x, y = data(dtype)
    for k in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        if each is not None:
            each(k)
    return float(loss.detach())


def apart(a, b):
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters()))


class Beside(unittest.TestCase):
    """The optimizers of torch and the rules that `docs/reference/torch.md` names for them."""

    CASES = [
        ("AdamW", {}, "adamw", dict(weight_decay=1e-2)),
        ("AdamW", dict(amsgrad=True, lr=1e-2), "adamw", dict(lr=1e-2, weight_decay=1e-2, amsgrad=True, variant="torch")),
        ("AdamW", dict(maximize=True), "adamw", dict(weight_decay=1e-2, maximize=True)),
        ("Adam", dict(betas=(0.8, 0.99), eps=1e-6), "adam", dict(betas=(0.8, 0.99), eps=1e-6)),
        ("SGD", dict(lr=0.1), "sgd", dict(lr=0.1)),
        ("SGD", dict(lr=0.01, maximize=True), "sgd", dict(lr=0.01, maximize=True)),
        ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True), "sgd", dict(lr=0.1, momentum=0.9, nesterov=True)),
        ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-2), "sgd", dict(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-2, variant="torch")),
        ("RMSprop", {}, "rmsprop", dict(lr=1e-2, decay=0.99, eps_in_sqrt=False, lr_in_momentum=False)),
        ("Adagrad", {}, "adagrad", dict(lr=1e-2, initial=0.0, eps=1e-10, variant="torch")),
        ("Adafactor", {}, "adafactor", dict(lr=1e-2, variant="torch")),
        ("NAdam", {}, "nadam", dict(lr=2e-3)),
        ("RAdam", {}, "radam", dict(lr=1e-3, variant="torch")),
        ("Adamax", {}, "adamax", dict(lr=2e-3)),
        ("Adadelta", {}, "adadelta", dict(lr=1.0)),
    ]

    def test_thirty_steps(self):
        for name, theirs, rule, ours in self.CASES:
            for dtype, close in [(torch.float32, 2e-5), (torch.float64, 1e-9)]:
                with self.subTest(name=name, options=theirs, dtype=dtype):
                    a, b = net(dtype=dtype), net(dtype=dtype)
                    before = copy.deepcopy(a)
                    train(a, getattr(torch.optim, name)(a.parameters(), **theirs), dtype=dtype)
                    train(b, ot.Optimizer(b.parameters(), rule, **ours), dtype=dtype)
                    self.assertGreater(apart(a, before), 1e-3)
                    self.assertLess(apart(a, b), close)

    def test_muon(self):
        if not hasattr(torch.optim, "Muon"):
            self.skipTest("this torch has no Muon")
        start, a, b = net(), net(), net()
        for model in (start, a, b):
            model[0].bias = model[2].bias = None
        train(a, torch.optim.Muon(a.parameters(), lr=0.02, weight_decay=0.1), steps=8)
        train(b, ot.Optimizer(b.parameters(), "muon", lr=0.02, weight_decay=0.1), steps=8)
        # torch multiplies in bfloat16.
        for p, q, x in zip(a.parameters(), b.parameters(), start.parameters()):
            self.assertLess(float(((p - q).norm() / (p - x).norm()).detach()), 0.05)

    def test_clipping_is_over_all_parameters(self):
        x, y = data()
        a, b = net(), net()
        theirs = torch.optim.AdamW(a.parameters(), lr=1e-2)
        ours = ot.Optimizer(b.parameters(), "clip_by_global_norm(0.05) |> adamw(weight_decay = 0.01)", lr=1e-2)
        for _ in range(10):
            for model, o in ((a, theirs), (b, ours)):
                o.zero_grad()
                (model(x) - y).square().mean().backward()
                if o is theirs:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                o.step()
        self.assertLess(apart(a, b), 1e-5)


class Saving(unittest.TestCase):
    RULES = [
        ("adamw", {}), ("muon", {}), ("shampoo", {}), ("soap", {}), ("lamb", {}), ("adafactor", {}), ("prodigy", {}), ("adamw8bit", {}), ("lion", {}), ("nadam", {}), ("apollo", {}),
        ("clip_by_global_norm(1.0) |> adamw(lr = 1e-2)", {}), ("schedule_free(inner = adamw(lr = 1e-2))", {}), ("lookahead(inner = adam(lr = 1e-2), k = 2)", {}),
        ("sgd", dict(momentum=0.9)), ("add_noise() |> sgd(lr = 0.1)", {}),
    ]

    def test_resumed_to_the_same_bits(self):
        for rule, options in self.RULES:
            with self.subTest(rule=rule):
                a = net()
                o = ot.Optimizer(a.parameters(), rule, **options)
                train(a, o, steps=5)
                file = io.BytesIO()
                torch.save(o.state_dict(), file)
                file.seek(0)
                b, (c, copied) = copy.deepcopy(a), copy.deepcopy((a, o))
                resumed = ot.Optimizer(b.parameters(), rule, **options)
                resumed.load_state_dict(torch.load(file))
                d, pickled = pickle.loads(pickle.dumps((a, o)))
                itself = o.state_dict()
                o.load_state_dict(itself)
                for model, optimizer in ((a, o), (b, resumed), (c, copied), (d, pickled)):
                    train(model, optimizer, steps=5)
                self.assertEqual([apart(a, other) for other in (b, c, d)], [0, 0, 0])
                self.assertNotEqual(apart(a, net()), 0)
                for want, have in zip(o.state_dict()["state"].values(), resumed.state_dict()["state"].values()):
                    self.assertEqual(want.keys(), have.keys())
                    for n in want:
                        self.assertTrue(torch.equal(want[n], have[n]), n)
                    self.assertEqual(float(have["step"]), 10)

    def test_loading_copies(self):
        a, b = net(), net()
        one, other = (ot.Optimizer(m.parameters(), "adamw") for m in (a, b))
        train(a, one, steps=2)
        other.load_state_dict(one.state_dict())
        before = copy.deepcopy(one.state_dict())
        train(b, other, steps=2)
        for want, have in zip(before["state"].values(), one.state_dict()["state"].values()):
            for n in want:
                self.assertTrue(torch.equal(want[n], have[n]), n)

    def test_states_keep_their_element_types(self):
        a = net(dtype=torch.bfloat16)
        o = ot.Optimizer(a.parameters(), "adamw8bit", lr=1e-2)
        train(a, o, steps=4, dtype=torch.bfloat16)
        kinds = [{n: x.dtype for n, x in own.items()} for own in o.state.values()]
        other = ot.Optimizer(copy.deepcopy(a).parameters(), "adamw8bit", lr=1e-2)
        other.load_state_dict(o.state_dict())
        self.assertEqual(kinds, [{n: x.dtype for n, x in own.items()} for own in other.state.values()])
        self.assertTrue(all(d != torch.bfloat16 for own in kinds for d in own.values()))

    def test_pre_hooks_change_what_is_loaded(self):
        a = net()
        o = ot.Optimizer(a.parameters(), "sgd", lr=0.1, momentum=0.9)
        train(a, o, steps=2)
        saved = o.state_dict()

        def zeroed(_, found):
            return {**found, "state": {k: {n: torch.zeros_like(x) for n, x in own.items()} for k, own in found["state"].items()}}

        o.register_load_state_dict_pre_hook(zeroed)
        o.load_state_dict(saved)
        self.assertTrue(all(not x.any() for own in o.state.values() for x in own.values()))

    def test_a_state_that_is_missing_is_an_error(self):
        a = net()
        o = ot.Optimizer(a.parameters(), "lamb")
        train(a, o, steps=2)
        saved = copy.deepcopy(o.state_dict())
        gone = next(n for n in saved["state"][1] if n != "step")
        del saved["state"][1][gone]
        o.load_state_dict(saved)
        with self.assertRaisesRegex(ValueError, f"the states of `w1` lack `{gone}`"):
            train(a, o, steps=1)
        saved = copy.deepcopy(saved)
        saved["state"][1][gone] = torch.zeros(3)
        o.load_state_dict(saved)
        with self.assertRaisesRegex(ValueError, f"state `{gone}` of `w1` has the shape"):
            train(a, o, steps=1)


class Protocols(unittest.TestCase):
    def test_schedulers(self):
        for make in (
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=40),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40),
        ):
            a, b = net(), net()
            theirs, ours = torch.optim.AdamW(a.parameters(), lr=0.01), ot.Optimizer(b.parameters(), "adamw", lr=0.01, weight_decay=1e-2)
            schedules = make(theirs), make(ours)
            train(a, theirs, each=lambda _: schedules[0].step())
            train(b, ours, each=lambda _: schedules[1].step())
            self.assertEqual(theirs.param_groups[0]["lr"], ours.param_groups[0]["lr"])
            self.assertEqual(theirs.param_groups[0]["betas"], ours.param_groups[0]["betas"])
            self.assertLess(apart(a, b), 2e-5)

    def test_what_is_known_at_compile_time_may_change(self):
        """Momentum decides what there is in `sgd`, so that each of its values is compiled for."""
        a, b = net(), net()
        theirs = torch.optim.SGD(a.parameters(), lr=0.1, momentum=0.9)
        ours = ot.Optimizer(b.parameters(), "sgd", lr=0.1, momentum=0.9)
        for o in (theirs, ours):
            model = a if o is theirs else b
            schedule = torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12)
            train(model, o, steps=10, each=lambda _: schedule.step())
        self.assertLess(apart(a, b), 1e-5)

    def test_learning_rates_that_are_tensors(self):
        a, b = net(), net()
        theirs = torch.optim.AdamW(a.parameters(), lr=0.01)
        rate = torch.tensor(0.01)
        ours = ot.Optimizer(b.parameters(), "adamw", lr=rate, weight_decay=1e-2)
        train(a, theirs, steps=5)
        train(b, ours, steps=5)
        rate.fill_(0.002)
        theirs.param_groups[0]["lr"] = 0.002
        train(a, theirs, steps=5)
        train(b, ours, steps=5)
        self.assertIs(ours.param_groups[0]["lr"], rate)
        self.assertLess(apart(a, b), 1e-5)

    def test_one_factor_for_several_learning_rates(self):
        a = net()
        names = '{ "*.bias": sgd(lr = 0.5), _: adamw(lr = 0.01) }'
        o = ot.Optimizer(a.named_parameters(), names)
        group = o.param_groups[0]
        self.assertEqual((group["lr"], group["sgd.lr"], group["adamw.lr"]), (1.0, 0.5, 0.01))
        b = copy.deepcopy(a)
        half = ot.Optimizer(b.named_parameters(), '{ "*.bias": sgd(lr = 0.25), _: adamw(lr = 0.005) }')
        schedule = torch.optim.lr_scheduler.LambdaLR(o, lambda k: 0.5)
        train(a, o, steps=3, each=lambda _: schedule.step())
        train(b, half, steps=3)
        self.assertEqual(apart(a, b), 0)
        bias, weight = o.state[a[0].bias], o.state[a[0].weight]
        self.assertEqual(list(bias), ["step"])
        self.assertEqual(len(weight), 3)

    def test_grad_scaler(self):
        a, b = net(), net()
        theirs, ours = torch.optim.AdamW(a.parameters()), ot.Optimizer(b.parameters(), "adamw", weight_decay=1e-2)
        x, y = data()
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

    def test_closures_and_hooks(self):
        a = net()
        o = ot.Optimizer(a.parameters(), "momo", lr=1.0)
        x, y = data()
        seen = []
        o.register_step_pre_hook(lambda *_: seen.append("before"))
        o.register_step_post_hook(lambda *_: seen.append("after"))

        def closure():
            self.assertTrue(torch.is_grad_enabled())
            o.zero_grad()
            loss = (a(x) - y).square().mean()
            loss.backward()
            return loss

        losses = [float(o.step(closure).detach()) for _ in range(5)]
        self.assertLess(losses[-1], losses[0])
        self.assertEqual(seen, ["before", "after"] * 5)
        with self.assertRaisesRegex(ValueError, "momo looks at the loss"):
            o.step()
        o.step(loss=closure().detach())

    def test_compiled_models_and_loops(self):
        a, b = net(), net()
        x, y = data()
        theirs, ours = ot.Optimizer(a.parameters(), "adamw"), ot.Optimizer(b.parameters(), "adamw")
        compiled = torch.compile(b, backend="eager")

        @torch.compile(backend="eager")
        def one():
            ours.zero_grad()
            (compiled(x) - y).square().mean().backward()
            ours.step()

        train(a, theirs, steps=5)
        for _ in range(5):
            one()
        self.assertEqual(apart(a, b), 0)

    def test_autograd_sees_new_values(self):
        w = torch.ones(3, requires_grad=True)
        o = ot.Optimizer([w], "sgd", lr=0.1)
        loss = (w * w).sum()
        w.grad = torch.ones(3)
        o.step()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    def test_weights_for_evaluation(self):
        a = net()
        o = ot.Optimizer(a.parameters(), "schedule_free(inner = sgd(lr = 0.1))")
        train(a, o, steps=5)
        before = [p.detach().clone() for p in a.parameters()]
        with o.evaluation():
            for p in a.parameters():
                self.assertTrue(torch.equal(p, o.state[p]["x"]))
        self.assertTrue(all(torch.equal(p, w) for p, w in zip(a.parameters(), before)))
        train(a, o, steps=1)


class Groups(unittest.TestCase):
    def groups(self, model):
        return [{"params": [model[0].weight, model[2].weight], "lr": 0.02}, {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0, "betas": (0.8, 0.9)}]

    def test_hyperparameters_of_their_own(self):
        a, b = net(), net()
        train(a, torch.optim.AdamW(self.groups(a), lr=0.01))
        train(b, ot.Optimizer(self.groups(b), "adamw", lr=0.01, weight_decay=1e-2))
        self.assertLess(apart(a, b), 2e-5)

    def test_rules_over_all_leaves(self):
        for rule in ("clip_by_global_norm(0.1) |> adamw()", "prodigy"):
            a, b = net(), net()
            equal = [{"params": g["params"]} for g in self.groups(a)]
            o, one = ot.Optimizer(equal, rule, weight_decay=0.0), ot.Optimizer([p for g in self.groups(b) for p in g["params"]], rule, weight_decay=0.0)
            train(a, o, steps=5)
            train(b, one, steps=5)
            self.assertEqual(apart(a, b), 0)

    def test_rules_over_all_leaves_with_groups_that_differ(self):
        """Clipping over all parameters, and hyperparameters and schedules by groups, beside torch."""
        x, y = data()
        a, b = net(), net()
        theirs = torch.optim.AdamW(self.groups(a), lr=1e-2, weight_decay=0.1)
        ours = ot.Optimizer(self.groups(b), "clip_by_global_norm(0.05) |> adamw(weight_decay = 0.1)", lr=1e-2)
        schedules = [torch.optim.lr_scheduler.LambdaLR(o, [lambda k: 0.9**k, lambda k: 1.0]) for o in (theirs, ours)]
        for _ in range(10):
            for model, o, schedule in zip((a, b), (theirs, ours), schedules):
                o.zero_grad()
                (model(x) - y).square().mean().backward()
                if o is theirs:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                o.step()
                schedule.step()
        self.assertLess(apart(a, b), 1e-5)
        self.assertGreater(apart(a, net()), 1e-2)
        # What was one step with equal values goes on with others.
        ours.param_groups[1]["betas"] = theirs.param_groups[1]["betas"] = (0.5, 0.99)
        for model, o in ((a, theirs), (b, ours)):
            o.zero_grad()
            (model(x) - y).square().mean().backward()
            if o is theirs:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            o.step()
        self.assertLess(apart(a, b), 1e-5)

    def test_groups_that_must_not_differ(self):
        a = net()
        o = ot.Optimizer([{"params": g["params"]} for g in self.groups(a)], "prodigy")
        o.param_groups[1]["lr"] = 0.5
        before = [p.detach().clone() for p in a.parameters()]
        with self.assertRaisesRegex(ValueError, r"groups differ in `lr`, but prodigy has one value for all(.|\n)*belongs to one leaf"):
            train(a, o, steps=1)
        self.assertTrue(all(torch.equal(p, w) for p, w in zip(a.parameters(), before)))
        o.param_groups[1]["lr"] = 1.0
        o.param_groups[1]["weight_decay"] = 0.1
        train(a, o, steps=3)
        apart_at_compile_time = ot.Optimizer([{"params": a[0].parameters()}, {"params": a[2].parameters(), "bias_correction": True}], "prodigy", bias_correction=False)
        with self.assertRaisesRegex(ValueError, "differ in `bias_correction` .False, True., which is known at compile time"):
            train(a, apart_at_compile_time, steps=1)

    def test_leaves_depend_on_each_other_only_where_they_do(self):
        model = net()
        for rule, coupled in [
            ("adamw", False), ("muon", False), ("lamb", False), ("nadam", False), ("prodigy", True), ("clip_by_global_norm(1.0) |> sgd()", True), ("adafactor", False),
            ("lookahead(inner = adam(), k = 2)", False), ("apply_if_finite(inner = adam())", True), ("mechanic(inner = adam())", True),
        ]:
            with self.subTest(rule=rule):
                self.assertEqual(optc.optimizer(rule, list(model.parameters())).couples_leaves, coupled)

    def test_a_group_that_joins(self):
        for rule, options in [("adamw", dict(weight_decay=1e-2)), ("nadam", {}), ("clip_by_global_norm(1.0) |> adamw()", {})]:
            a, b = net(), net()
            theirs = torch.optim.AdamW(a[0].parameters(), lr=0.01)
            ours = ot.Optimizer(b[0].parameters(), rule, lr=0.01, **options)
            train(a, theirs, steps=4)
            train(b, ours, steps=4)
            theirs.add_param_group({"params": a[2].parameters()})
            ours.add_param_group({"params": b[2].parameters()})
            train(a, theirs, steps=4)
            train(b, ours, steps=4)
            if rule == "adamw":
                self.assertLess(apart(a, b), 1e-5)
                self.assertEqual([float(own["step"]) for own in ours.state.values()], [8, 8, 4, 4])
            if rule.startswith("clip"):
                self.assertEqual([float(own["step"]) for own in ours.state.values()], [8, 8, 8, 8])

    def test_a_part_of_the_rule_that_joins(self):
        a, b = net(), net()
        rule = "{ ndim >= 2: sgd(lr = 0.1), _: adamw(lr = 0.01) }"
        late, whole = ot.Optimizer([a[0].bias], rule), ot.Optimizer([b[0].bias, b[0].weight], rule)
        late.add_param_group({"params": [a[0].weight], "sgd.lr": 0.2})
        for group in whole.param_groups:
            group["sgd.lr"] = 0.2
        train(a, late, steps=3)
        train(b, whole, steps=3)
        self.assertEqual(apart(a, b), 0)

    def test_gradients_that_are_not_there(self):
        """Each parameter has its own count of steps, as in torch."""
        a, b = net(), net()
        theirs, ours = torch.optim.AdamW(a.parameters(), lr=0.01), ot.Optimizer(b.parameters(), "adamw", lr=0.01, weight_decay=1e-2)
        x, y = data()
        drawn = torch.Generator().manual_seed(3)
        for _ in range(25):
            kept = torch.rand(4, generator=drawn) < 0.6
            for model, o in ((a, theirs), (b, ours)):
                o.zero_grad()
                (model(x) - y).square().mean().backward()
                for p, k in zip(model.parameters(), kept):
                    if not k:
                        p.grad = None
                o.step()
        self.assertLess(apart(a, b), 2e-5)
        for p, q in zip(a.parameters(), b.parameters()):
            self.assertEqual(float(theirs.state[p]["step"]), float(ours.state[q]["step"]))
        # At first each set is compiled for, then each parameter once.
        self.assertLess(len(ours._store), 16)

    def test_axes(self):
        """States have the axes of their parameters; only rules that tell these apart have them stored otherwise (Adafactor does in matrices of 128 and more)."""
        for rule, apart in [("adamw", False), ("muon", True), ("shampoo", True), ("came", True), ("amos", True), ("adafactor", False), ("clip_by_global_norm(1.0) |> sgd()", False), ("lamb", False)]:
            a = net()
            o = ot.Optimizer(a.parameters(), rule)
            self.assertEqual(o._first, apart, rule)
            train(a, o, steps=1)
            if rule in ("adamw", "muon", "lamb"):
                own = next(x for n, x in o.state[a[0].weight].items() if n != "step")
                self.assertEqual((own.shape, own.is_contiguous()), (a[0].weight.shape, not apart))

    def test_rules_by_name_for_some_of_the_parameters(self):
        """A set of parameters may lack those that a group of the rule is for, whatever that does to names of states and hyperparameters."""
        rule = '{ "*.bias": sgd(lr = 0.5), "2.*": adamw(lr = 0.01), _: muon(lr = 0.02) }'
        x, y = data()
        a, b = net(), net()
        one = ot.Optimizer(a.named_parameters(), rule)
        two = ot.Optimizer([{"params": [(n, p) for n, p in b.named_parameters() if n.startswith(k)]} for k in ("0", "2")], rule)
        for o in (one, two):
            for group in o.param_groups:
                self.assertIn("sgd.lr", group)
                group["sgd.lr"] = 0.25
        for k in range(8):
            for model, o in ((a, one), (b, two)):
                o.zero_grad()
                (model(x) - y).square().mean().backward()
                if k % 2:
                    model[0].bias.grad = model[2].bias.grad = None
                if k % 4 == 3:
                    model[2].weight.grad = None
                o.step()
        self.assertEqual(apart(a, b), 0)
        self.assertEqual([float(one.state[p]["step"]) for p in a.parameters()], [8, 4, 6, 4])

    def test_names(self):
        a = net()
        o = ot.Optimizer(a.named_parameters(), '{ "0.*": none, _: sgd(lr = 0.1) }')
        first = a[0].weight.detach().clone()
        train(a, o, steps=2)
        self.assertTrue(torch.equal(a[0].weight, first))
        self.assertEqual(o.state_dict()["param_groups"][0]["param_names"], ["0.weight", "0.bias", "2.weight", "2.bias"])


class Refused(unittest.TestCase):
    def wrong(self, error, words, f):
        with self.assertRaisesRegex(error, words):
            f()

    def test_tensors_out_of_reach(self):
        meta = torch.nn.Parameter(torch.empty(3, device="meta"))
        self.wrong(ValueError, "is on meta; optc.torch updates parameters on the CPU", lambda: ot.Optimizer([meta], "sgd"))
        self.wrong(TypeError, "complex64", lambda: ot.Optimizer([torch.zeros(3, dtype=torch.complex64, requires_grad=True)], "sgd"))
        strided = torch.ones(4, 3).T.requires_grad_()
        self.wrong(ValueError, "is not contiguous", lambda: ot.Optimizer([strided], "sgd"))
        o = ot.Optimizer([torch.ones(3, requires_grad=True)], "sgd")
        self.wrong(ValueError, "on meta", lambda: o.add_param_group({"params": [meta]}))
        self.assertEqual(len(o.param_groups), 1)
        w = torch.ones(4, requires_grad=True)
        o = ot.Optimizer([w], "sgd")
        w.grad = torch.sparse_coo_tensor([[1]], [1.0], (4,))
        self.wrong(RuntimeError, "sparse gradients", o.step)

    def test_rules(self):
        w = [torch.ones(3, requires_grad=True)]
        self.wrong(optc.SpecError, "unknown name", lambda: ot.Optimizer(w, "adamww"))
        self.wrong(optc.SpecError, "must be at least 0", lambda: ot.Optimizer(w, "adamw", lr=-1.0))
        self.wrong(TypeError, "sgd has no hyperparameter `momentun`; there are lr, dampening, momentum", lambda: ot.Optimizer(w, "sgd", momentun=0.9))
        self.wrong(TypeError, "has no hyperparameter `momentum`", lambda: ot.Optimizer(w, "adam() |> sgd()", momentum=0.9))
        self.wrong(ValueError, "only changes gradients", lambda: ot.Optimizer(w, "clip_by_global_norm(1.0)"))
        o = ot.Optimizer(w, "adamw")
        w[0].grad = torch.ones(3)
        o.param_groups[0]["betas"] = (1.5, 0.9)
        self.wrong(ValueError, "`beta1` is 1.5, but must be less than 1", o.step)
        self.assertTrue(torch.equal(w[0].detach(), torch.ones(3)))


class Classes(unittest.TestCase):
    def test_a_class_of_a_rule(self):
        muon = ot.optimizer_class("muon", weight_decay=0.1)
        self.assertIs(muon, ot.optimizer_class("muon", weight_decay=0.1))
        self.assertEqual((muon.__name__, ot.optimizer_class("adamw").__name__), ("Muon", "AdamW"))
        self.assertTrue(issubclass(muon, torch.optim.Optimizer))
        self.assertIn("orthogonalized", muon.__doc__)
        a, b = net(), net()
        one, other = muon(a.parameters(), 0.01), ot.Optimizer(b.parameters(), "muon", lr=0.01, weight_decay=0.1)
        self.assertEqual(one.param_groups[0]["weight_decay"], 0.1)
        train(a, one, steps=3)
        train(b, other, steps=3)
        self.assertEqual(apart(a, b), 0)
        c, again = pickle.loads(pickle.dumps((a, one)))
        self.assertIs(type(again), muon)
        train(a, one, steps=2)
        train(c, again, steps=2)
        self.assertEqual(apart(a, c), 0)

    def test_states_of_torch(self):
        """What torch's optimizers save goes on here, and there again; states have torch's names."""
        adamw, momentum = ot.optimizer_class("adamw"), ot.optimizer_class("sgd", momentum=0.9, variant="torch")
        for theirs, ours in [(torch.optim.AdamW, adamw), (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, dampening=0.2), lambda p, lr: momentum(p, lr, dampening=0.2))]:
            a = net()
            first = theirs(a.parameters(), lr=0.01)
            train(a, first, steps=5)
            b = copy.deepcopy(a)
            second = ours(b.parameters(), lr=0.01)
            second.load_state_dict(first.state_dict())
            train(a, first, steps=5)
            train(b, second, steps=5)
            self.assertLess(apart(a, b), 1e-5)
            c = copy.deepcopy(b)
            third = theirs(c.parameters(), lr=0.01)
            third.load_state_dict(copy.deepcopy(second.state_dict()))
            train(a, first, steps=5)
            train(c, third, steps=5)
            self.assertLess(apart(a, c), 1e-5)
        self.assertEqual(adamw([torch.zeros(1)]).defaults["weight_decay"], 0.01)
        self.assertEqual(list(second.state[b[0].weight]), ["momentum_buffer", "step"])

    def test_a_rule_in_a_file_and_names_of_torch(self):
        rule = """
        ## Momentum of one's own.
        ##
        ## # torch
        ## b = momentum_buffer, nothing = False
        optimizer own(lr: float >= 0 = 0.1, momentum: float in [0, 1) = 0.9, double: bool = false) {
          state b = 0
          b <- momentum * b + g
          w <- w - (if double { 2 } else { 1 }) * lr * b
        }
        """
        with tempfile.NamedTemporaryFile("w", suffix=".opt") as file:
            file.write("\n".join(line.removeprefix("        ") for line in rule.splitlines()))
            file.flush()
            own = ot.optimizer_class("own", file=file.name)
            self.assertEqual(own.__name__, "Own")
            a, b = net(), net()
            theirs = torch.optim.SGD(a.parameters(), lr=0.1, momentum=0.9)
            ours = own(b.parameters(), double=True, lr=0.05)
            train(a, theirs, steps=5)
            train(b, ours, steps=5)
            self.assertLess(apart(a, b), 1e-6)
            # What torch saved goes on here.
            ours.load_state_dict(theirs.state_dict())
            ours.param_groups[0]["lr"] = 0.05
            b.load_state_dict(a.state_dict())
            train(a, theirs, steps=5)
            train(b, ours, steps=5)
            self.assertLess(apart(a, b), 1e-6)
            self.assertEqual(list(ours.state[b[0].weight]), ["momentum_buffer", "step"])


class Threads(unittest.TestCase):
    def test_results_do_not_depend_on_threads(self):
        before = optc.threads()
        found = []
        try:
            for n in (1, 2):
                optc.set_threads(n)
                torch.manual_seed(0)
                w = [torch.randn(300, 200).requires_grad_(), torch.randn(200).requires_grad_()]
                o = ot.Optimizer(w, "clip_by_global_norm(1.0) |> muon(lr = 0.02)")
                for _ in range(3):
                    for p in w:
                        p.grad = torch.sin(p.detach())
                    o.step()
                found.append(w)
        finally:
            optc.set_threads(before)
        for a, b in zip(*found):
            self.assertTrue(torch.equal(a, b))


if __name__ == "__main__":
    warnings.simplefilter("error")
    unittest.main()
