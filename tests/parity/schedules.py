"""Writes `schedules.opt` and `data/schedules.npz`: the first values of every schedule of the library in f64, from Optax, torch.optim.lr_scheduler and pytorch_optimizer, or NumPy where none has it.

    python tests/parity/schedules.py          (the environment of bench/peers/setup.sh with torch and pytorch_optimizer)
"""
import importlib.metadata
import math
import os
import re
import types
import warnings

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import numpy as np
import optax
import pytorch_optimizer as po
import torch
import torch.optim.lr_scheduler as lrs
from pytorch_optimizer.lr_scheduler.chebyshev import get_chebyshev_lr_lambda
from pytorch_optimizer.lr_scheduler.proportion import ProportionScheduler
from pytorch_optimizer.lr_scheduler.wsd import get_wsd_scheduler_lambda
from pytorch_optimizer.optimizer.ademamix import AdEMAMix
from torch.optim.swa_utils import SWALR

from models import joined, rise
from optc_literals import literal

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 60


def by_torch(make, lr=1.0, key="lr", **settings):
    """The values a torch scheduler gives a group, before each step."""
    o = torch.optim.SGD([torch.zeros(1)], lr=lr, **settings)
    s, out = make(o), []
    for _ in range(COUNT):
        out.append(float(o.param_groups[0][key]))
        o.step()
        s.step()
    return lambda i: out[int(i)]


def chained(o):
    return lrs.ChainedScheduler([lrs.ConstantLR(o, factor=0.25, total_iters=7), lrs.ExponentialLR(o, gamma=0.9)])


def sequential(o):
    return lrs.SequentialLR(o, [lrs.ConstantLR(o, factor=0.1, total_iters=100), lrs.ExponentialLR(o, gamma=0.9)], milestones=[9])


def restarts(**settings):
    o = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    s, out = po.CosineAnnealingWarmupRestarts(o, **settings), []
    for _ in range(COUNT):
        out.append(float(s.get_lr()[0]))
        s.step()
    return lambda i: out[int(i)]


def rex(i):
    s = po.REXScheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0), total_steps=50, max_lr=1.0, min_lr=0.1)
    s.step_t = int(i)
    return s.get_linear_lr()


def proportion(i):
    group = types.SimpleNamespace(last_lr=[float(optax.cosine_decay_schedule(1.0, 50)(i))])
    return ProportionScheduler(group, max_lr=1.0, min_lr=0.2, max_value=0.5, min_value=0.1).step()


def wsd(shape):
    return joined((0, rise(1.0, 8)), (8, lambda i: get_wsd_scheduler_lambda(
        int(i), num_warmup_steps=0, num_stable_steps=22, num_decay_steps=20, min_lr_ratio=0.0, num_cycles=0.5, cooldown_type=shape)))


def noam(i):
    return 0.5 * 64**-0.5 * min((i + 1) ** -0.5, (i + 1) * 10**-1.5)


def tanh_decay(i):
    p = min(i, 50) / 50
    return 0.1 + 0.9 / 2 * (1 - math.tanh(-6 + 9 * p))


def one_cycle(three_phase=False, shape="cos", key="lr"):
    return by_torch(lambda o: lrs.OneCycleLR(o, max_lr=1.0, total_steps=COUNT + 1, pct_start=19 / 61, anneal_strategy=shape, three_phase=three_phase, div_factor=10.0, final_div_factor=50.0),
                    key=key, momentum=0.9)


def cyclic(mode, key="lr"):
    return by_torch(lambda o: lrs.CyclicLR(o, 0.1, 1.0, step_size_up=7, step_size_down=11, mode=mode, gamma=0.97), lr=0.1, key=key, momentum=0.9)


half = optax.cosine_decay_schedule
warm_cosine = lambda init, peak, warm, total, end: optax.warmup_cosine_decay_schedule(init, peak, warm, total, end)

# name, optc source, reference, what it is
CASES = [
    ("constant", "constant(0.3)", optax.constant_schedule(0.3), "Optax constant_schedule"),
    ("linear", "linear(start = 1.0, end = 0.1, steps = 25, begin = 5)", optax.linear_schedule(1.0, 0.1, 25, 5), "Optax linear_schedule"),
    ("linear_torch", "linear(start = 0.2, end = 0.9, steps = 25)", by_torch(lambda o: lrs.LinearLR(o, 0.2, 0.9, 25)), "torch LinearLR"),
    ("polynomial", "polynomial(start = 1.0, end = 0.1, power = 2.5, steps = 25, begin = 5)", optax.polynomial_schedule(1.0, 0.1, 2.5, 25, 5), "Optax polynomial_schedule"),
    ("polynomial_torch", "polynomial(start = 1.0, end = 0.0, power = 2.0, steps = 25)", by_torch(lambda o: lrs.PolynomialLR(o, 25, 2.0)), "torch PolynomialLR"),
    ("exponential", "exponential(start = 1.0, rate = 0.5, steps = 7, begin = 3)", optax.exponential_decay(1.0, 7, 0.5, 3), "Optax exponential_decay"),
    ("exponential_staircase", "exponential(start = 1.0, rate = 0.5, steps = 7, staircase = true, end = 0.2)", optax.exponential_decay(1.0, 7, 0.5, 0, True, 0.2), "Optax exponential_decay"),
    ("exponential_growth", "exponential(start = 0.1, rate = 2.0, steps = 7, end = 0.9)", optax.exponential_decay(0.1, 7, 2.0, end_value=0.9), "Optax exponential_decay"),
    ("exponential_torch", "exponential(start = 1.0, rate = 0.9, steps = 1)", by_torch(lambda o: lrs.ExponentialLR(o, 0.9)), "torch ExponentialLR"),
    ("step_decay", "step_decay(start = 1.0, factor = 0.3, every = 9)", by_torch(lambda o: lrs.StepLR(o, 9, 0.3)), "torch StepLR"),
    ("piecewise_constant", "piecewise_constant(1.0, [(10, 0.5), (30, 0.1)])", optax.piecewise_constant_schedule(1.0, {10: 0.5, 30: 0.1}), "Optax piecewise_constant_schedule"),
    ("multi_step", "piecewise_constant(1.0, [(10, 0.3), (30, 0.3), (40, 0.3)])", by_torch(lambda o: lrs.MultiStepLR(o, [10, 30, 40], 0.3)), "torch MultiStepLR"),
    ("constant_torch", "piecewise_constant(0.25, [(7, 4.0)])", by_torch(lambda o: lrs.ConstantLR(o, 0.25, 7)), "torch ConstantLR"),
    ("piecewise_linear", "piecewise_interpolate(1.0, [(10, 0.5), (30, 3.0), (45, 0.1)])", optax.piecewise_interpolate_schedule("linear", 1.0, {10: 0.5, 30: 3.0, 45: 0.1}),
     "Optax piecewise_interpolate_schedule"),
    ("piecewise_cosine", 'piecewise_interpolate(1.0, [(10, 0.5), (30, 3.0), (45, 0.1)], shape = "cosine")', optax.piecewise_interpolate_schedule("cosine", 1.0, {10: 0.5, 30: 3.0, 45: 0.1}),
     "Optax piecewise_interpolate_schedule"),
    ("cosine", "cosine(peak = 1.0, total = 50, floor = 0.1)", half(1.0, 50, 0.1), "Optax cosine_decay_schedule"),
    ("cosine_power", "cosine(peak = 1.0, total = 50, floor = 0.1, power = 1.7)", half(1.0, 50, 0.1, 1.7), "Optax cosine_decay_schedule"),
    ("cosine_wave", "cosine_wave(peak = 1.0, half = 13, floor = 0.1)", by_torch(lambda o: lrs.CosineAnnealingLR(o, 13, 0.1)), "torch CosineAnnealingLR"),
    ("cosine_restarts", "cosine_restarts(peak = 1.0, first = 8, floor = 0.1)", by_torch(lambda o: lrs.CosineAnnealingWarmRestarts(o, 8, 1, 0.1)), "torch CosineAnnealingWarmRestarts"),
    ("cosine_restarts_longer", "cosine_restarts(peak = 1.0, first = 6, floor = 0.1, stretch = 2)",
     by_torch(lambda o: lrs.CosineAnnealingWarmRestarts(o, 6, 2, 0.1)), "torch CosineAnnealingWarmRestarts"),
    ("cosine_restarts_decaying", "cosine_restarts(peak = 1.0, first = 12, floor = 0.1, stretch = 1.3, decay = 0.7, warmup = 3)",
     restarts(first_cycle_steps=12, cycle_mult=1.3, max_lr=1.0, min_lr=0.1, warmup_steps=3, gamma=0.7), "pytorch_optimizer CosineAnnealingWarmupRestarts"),
    ("cosine_restarts_equal", "cosine_restarts(peak = 1.0, first = 12, floor = 0.1, decay = 0.7, warmup = 3)",
     restarts(first_cycle_steps=12, max_lr=1.0, min_lr=0.1, warmup_steps=3, gamma=0.7), "pytorch_optimizer CosineAnnealingWarmupRestarts"),
    ("sgdr", "join([(0, join([(0, linear(0.1, 1.0, 4)), (4, cosine(1.0, 16, 0.05))])), (20, join([(0, linear(0.05, 0.6, 5)), (5, cosine(0.6, 20))]))])",
     optax.sgdr_schedule([dict(init_value=0.1, peak_value=1.0, warmup_steps=4, decay_steps=20, end_value=0.05), dict(init_value=0.05, peak_value=0.6, warmup_steps=5, decay_steps=25, end_value=0.0)]),
     "Optax sgdr_schedule"),
    ("warmup", "warmup(8)", rise(1.0, 8), "Optax linear_schedule from the second value on"),
    ("warmup_constant", "warmup_constant(peak = 1.0, warmup = 8)", rise(1.0, 8), "Optax warmup_constant_schedule from the second value on"),
    ("warmup_constant_optax", "linear(start = 0.2, end = 1.0, steps = 8)", optax.warmup_constant_schedule(0.2, 1.0, 8), "Optax warmup_constant_schedule"),
    ("warmup_linear", "warmup_linear(peak = 1.0, warmup = 8, total = 50, floor = 0.05)", joined((0, rise(1.0, 8)), (8, optax.linear_schedule(1.0, 0.05, 42))), "Optax linear_schedule, joined"),
    ("warmup_cosine", "warmup_cosine(peak = 1.0, warmup = 8, total = 50, floor = 0.05)", joined((0, rise(1.0, 8)), (8, half(1.0, 42, 0.05))), "Optax cosine_decay_schedule, joined"),
    ("warmup_cosine_power", "warmup_cosine(peak = 1.0, warmup = 8, total = 50, power = 2.0)", joined((0, rise(1.0, 8)), (8, half(1.0, 42, 0.0, 2.0))), "Optax cosine_decay_schedule, joined"),
    ("warmup_cosine_optax", "join([(0, linear(0.1, 1.0, 8)), (8, cosine(1.0, 42, 0.05))])", warm_cosine(0.1, 1.0, 8, 50, 0.05), "Optax warmup_cosine_decay_schedule"),
    ("warmup_exponential", "warmup_exponential(peak = 1.0, warmup = 8, rate = 0.5, steps = 6, floor = 0.1)", joined((0, rise(1.0, 8)), (8, optax.exponential_decay(1.0, 6, 0.5, end_value=0.1))),
     "Optax exponential_decay, joined"),
    ("warmup_exponential_optax", "join([(0, linear(0.1, 1.0, 8)), (8, exponential(1.0, 0.5, 6, begin = 2, staircase = true, end = 0.1))])",
     optax.warmup_exponential_decay_schedule(0.1, 1.0, 8, 6, 0.5, 2, True, 0.1), "Optax warmup_exponential_decay_schedule"),
    ("warmup_log", "warmup_log(start = 0.01, peak = 1.0, warmup = 30)", optax.exponential_decay(0.01, 30, 100.0, end_value=1.0), "Optax exponential_decay upward"),
    ("warmup_stable_decay", "warmup_stable_decay(peak = 1.0, warmup = 8, decay = 10, total = 50, floor = 0.1)",
     joined((0, rise(1.0, 8)), (8, optax.constant_schedule(1.0)), (40, optax.linear_schedule(1.0, 0.1, 10))), "Optax linear_schedule, joined"),
    *[("warmup_stable_decay_" + n, f'warmup_stable_decay(peak = 1.0, warmup = 8, decay = 20, total = 50, shape = "{s}")', wsd(s), "pytorch_optimizer get_wsd_schedule")
      for n, s in (("linear", "linear"), ("cosine", "cosine"), ("sqrt", "1-sqrt"), ("square", "1-square"))],
    ("one_cycle", "one_cycle(peak = 1.0, warmup = 12, total = 50)", optax.cosine_onecycle_schedule(50, 1.0, 12 / 50 + 1e-9), "Optax cosine_onecycle_schedule"),
    ("one_cycle_torch", "one_cycle(peak = 1.0, warmup = 18, total = 60, div = 10.0, final_div = 50.0)", one_cycle(), "torch OneCycleLR"),
    ("one_cycle_linear", 'one_cycle(peak = 1.0, warmup = 18, total = 60, div = 10.0, final_div = 50.0, shape = "linear")', one_cycle(shape="linear"), "torch OneCycleLR, linear"),
    ("one_cycle_momentum", "rise_and_fall(0.95, 0.85, 0.95, 18, 60)", one_cycle(key="momentum"), "torch OneCycleLR, its momentum"),
    ("three_phase_cycle", "three_phase_cycle(peak = 1.0, warmup = 15, down = 42, total = 50, final_div = 1e3)", optax.linear_onecycle_schedule(50, 1.0, 0.3 + 1e-9, 0.84 + 1e-9, 25.0, 1e3),
     "Optax linear_onecycle_schedule"),
    ("three_phase_cycle_torch", 'three_phase_cycle(peak = 1.0, warmup = 18, down = 36, total = 60, div = 10.0, final_div = 50.0, shape = "cosine")', one_cycle(three_phase=True),
     "torch OneCycleLR, three_phase"),
    ("cyclic", "cyclic(0.1, 1.0, up = 7, down = 11)", cyclic("triangular"), "torch CyclicLR, triangular"),
    ("cyclic_halving", 'cyclic(0.1, 1.0, up = 7, down = 11, mode = "triangular2")', cyclic("triangular2"), "torch CyclicLR, triangular2"),
    ("cyclic_exponential", 'cyclic(0.1, 1.0, up = 7, down = 11, mode = "exp_range", gamma = 0.97)', cyclic("exp_range"), "torch CyclicLR, exp_range"),
    ("cyclic_momentum", 'cyclic(0.9, 0.8, up = 7, down = 11, mode = "triangular2")', cyclic("triangular2", "momentum"), "torch CyclicLR, its momentum"),
    ("cyclic_even", "cyclic(0.1, 1.0, up = 7)", by_torch(lambda o: lrs.CyclicLR(o, 0.1, 1.0, step_size_up=7, cycle_momentum=False), lr=0.1), "torch CyclicLR"),
    ("inverse_sqrt", "inverse_sqrt(peak = 1.0, warmup = 8)", lambda i: np.minimum((i + 1) / 8, np.sqrt(8 / (i + 1))), "the paper in NumPy"),
    ("noam", "noam(64, 10, factor = 0.5)", noam, "the paper in NumPy"),
    ("rex", "rex(peak = 1.0, total = 50, floor = 0.1)", rex, "pytorch_optimizer REXScheduler"),
    ("tanh_decay", "tanh_decay(peak = 1.0, total = 50, floor = 0.1)", tanh_decay, "the paper in NumPy"),
    ("range_test", "range_test(1e-3, 1.0, 50)", optax.exponential_decay(1e-3, 50, 1e3, end_value=1.0), "Optax exponential_decay upward"),
    ("range_test_linear", "range_test(1e-3, 1.0, 50, linear = true)", optax.linear_schedule(1e-3, 1.0, 50), "Optax linear_schedule"),
    ("swalr", "anneal(1.0, 0.05, 20)", by_torch(lambda o: SWALR(o, 0.05, 20)), "torch SWALR"),
    ("swalr_linear", 'anneal(1.0, 0.05, 20, shape = "linear")', by_torch(lambda o: SWALR(o, 0.05, 20, "linear")), "torch SWALR, linear"),
    ("anneal_later", 'anneal(1.0, 0.05, 20, begin = 5, shape = "cosine")', joined((0, optax.constant_schedule(1.0)), (5, half(1.0, 20, 0.05))), "Optax cosine_decay_schedule, joined"),
    ("chebyshev", "chebyshev(0.01, 40)", lambda i: 0.01 * get_chebyshev_lr_lambda(int(i) + 2, 40), "pytorch_optimizer get_chebyshev_schedule"),
    ("chebyshev_power", "chebyshev(0.01, 32)", lambda i: 0.01 * get_chebyshev_lr_lambda(int(i) + 2, 32), "pytorch_optimizer get_chebyshev_schedule"),
    ("explore_exploit", "explore_exploit(peak = 1.0, explore = 20, total = 50, warmup = 8)", joined((0, rise(1.0, 8)), (8, optax.constant_schedule(1.0)), (28, optax.linear_schedule(1.0, 0.0, 22))),
     "Optax linear_schedule, joined"),
    ("proportion", "proportion(cosine(1.0, 50), from_high = 1.0, from_low = 0.2, high = 0.5, low = 0.1)", proportion, "pytorch_optimizer ProportionScheduler"),
    ("multiplicative", "multiplicative(1.0, i -> 1 - 1 / (i + 9))", by_torch(lambda o: lrs.MultiplicativeLR(o, lambda i: 1 - 1 / (i + 9))), "torch MultiplicativeLR"),
    ("lambda", "0.5^(constant(0.0) + linear(0.0, 3.0, 30))", by_torch(lambda o: lrs.LambdaLR(o, lambda i: 0.5 ** (min(i, 30) / 10))), "torch LambdaLR"),
    ("chained", "piecewise_constant(0.25, [(7, 4.0)]) * exponential(1.0, 0.9, 1)", by_torch(chained), "torch ChainedScheduler"),
    ("product", "warmup(5) * cosine(peak = 1.0, total = 50)", lambda i: min(1.0, (i + 1) / 5) * half(1.0, 50)(i), "Optax cosine_decay_schedule times a warm-up"),
    ("join", "join([(0, linear(start = 0.1, end = 1.0, steps = 9)), (10, cosine(peak = 1.0, total = 20)), (32, constant(0.2))])",
     optax.join_schedules([optax.linear_schedule(0.1, 1.0, 9), half(1.0, 20), optax.constant_schedule(0.2)], [10, 32]), "Optax join_schedules"),
    ("sequential", "join([(0, constant(0.1)), (9, exponential(1.0, 0.9, 1))])", by_torch(sequential), "torch SequentialLR"),
    ("from_table", "from_table([0.3, 0.1, 0.7])", lambda i: [0.3, 0.1, 0.7][min(int(i), 2)], "a table"),
    ("ademamix_alpha", "ademamix_alpha(8.0, warmup = 40)", lambda i: AdEMAMix.schedule_alpha(40, int(i) + 1, 8.0), "pytorch_optimizer AdEMAMix"),
    ("ademamix_beta3", "ademamix_beta3(0.9999, 0.9, warmup = 40)", lambda i: AdEMAMix.schedule_beta3(40, int(i) + 1, 0.9, 0.9999), "pytorch_optimizer AdEMAMix"),
]


def main():
    items = set()
    folder = os.path.join(HERE, "../../stdlib/schedule")
    for file in os.listdir(folder):
        with open(os.path.join(folder, file)) as f:
            items |= set(re.findall(r"^(?:schedule|fn) ([a-z]\w*)", f.read(), re.M))
    used = {w for c in CASES for w in re.findall(r"([a-z]\w*)\(", c[1]) if w in items} | {"falling", "layer_decay"}
    print("not tested:", sorted(items - used))
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("optax", "torch", "pytorch_optimizer"))
    text = f"""## Generated by tests/parity/schedules.py ({versions}): do not edit.
## The first {COUNT} values of every schedule of the library in f64 within 1e-10 of the largest, and as learning rates in f32: the loss is the parameter itself, its gradient 1, so that after
## k steps of gradient descent the loss is minus the sum of the first k of them.
import std.optim.sgd
import std.schedule.{{{", ".join(sorted(used))}}}

model place() -> f32 {{
  param x: f32 = 0.0
  x
}}

train descend {{
  model     net = place()
  loss      net()
  optimizer sgd(lr = 0.0)
  steps     {COUNT + 1}
  seed      0
}}
"""
    data = {}
    for name, source, f, against in CASES:
        data[name] = np.array([float(f(np.int64(i))) for i in range(COUNT)])
        text += f"""
experiment {name}_agrees {{
  let theirs = npz("data/schedules.npz", "{name}")
  let ours = with precision = f64 {{ stack([({source})(k) for k in 0..{COUNT}]) }}
  check ours ~= theirs within 1e-10 relative, "{name}: {against}"
  let r = run descend with {{ optimizer = sgd(lr = {source}) }}
  check r.loss[1:] ~= -cumsum(theirs) as f32 within 3e-6 relative, "{name}: as a learning rate"
}}
"""
    p = 0.3
    curves = [1 - p, (1 + math.cos(math.pi * p)) / 2, 1 - math.sqrt(p), 1 - p * p]
    layers, decay = 12, 0.75
    text += f"""
experiment falling_agrees {{
  let ours = with precision = f64 {{ stack([falling(0.3, shape) for shape in ["linear", "cosine", "1-sqrt", "1-square"]]) }}
  check ours ~= {literal(curves, 17)} within 1e-12 relative, "falling: NumPy"
}}

layer block(x: f32[B, D]) -> f32[B, D] {{
  param w: f32[D] = 0
  x + w
}}

model deep(x: f32[B, D]) -> f32[B, D] {{
  param embedding: f32[D] = 0
  var h = x + embedding
  for i in 0..{layers} {{ h <- block(h) }}
  param head: f32[D] = 0
  h + head
}}

data rows {{
  x = generate(1) {{ i -> ones([2]) }}
}}

train scales {{
  data      rows, batch = 1
  model     net = deep()
  loss      sum(net(x))
  optimizer sgd(lr = cosine(1.0, 10) * layer_decay(name, {layers}, decay = {decay}))
  steps     1
}}

experiment layer_decay_agrees {{
  let p = (run scales).net.params
  let ours = -concat([p.embedding[0:1], stack([p.block[i].w[0] for i in 0..{layers}]), p.head[0:1]])
  check ours ~= {literal([decay ** (layers + 1 - i) for i in range(layers + 2)], 17)} within 1e-6 relative, "layer_decay: decay^(layers + 1 - id) of BEiT"
}}
"""
    np.savez(os.path.join(HERE, "data/schedules.npz"), **data)
    with open(os.path.join(HERE, "schedules.opt"), "w") as f:
        f.write(text)
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()
