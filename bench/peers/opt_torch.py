"""The optimizer step alone, PyTorch: fused, foreach, for-loop and compiled, on one tensor and on 1000. Arguments: patterns of names (`torch/adamw-fused/one`, `torch/*-compiled/*`)."""
import os
import time

import torch

from common import THREADS, Contender, contest, emit_optimizer

torch.set_num_threads(THREADS)
N = int(os.environ.get("N", 50_000_000))
lr, wd = 1e-3, 1e-2
BYTES = {"adamw": 28, "sgdm": 20, "lion": 20, "clip+adamw": 32}
KINDS = {"fused": dict(fused=True), "foreach": dict(foreach=True), "forloop": dict(foreach=False)}


def make(layout):
    count = 1 if layout == "one" else 1000
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(N // count)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@torch.no_grad()
def lion(params, grads, momenta, lr, beta1, beta2, wd):
    update = torch._foreach_lerp(grads, momenta, beta1)  # beta1 m + (1 - beta1) g
    torch._foreach_sign_(update)
    torch._foreach_mul_(params, 1 - lr * wd)
    torch._foreach_add_(params, update, alpha=-lr)
    torch._foreach_lerp_(momenta, grads, 1 - beta2)


def step_of(rule, kind, params):
    """The step of a rule; compiled ones are compiled at the first call."""
    options = KINDS.get(kind, KINDS["foreach"])
    if rule == "lion":
        grads, momenta, plain = [p.grad for p in params], [torch.zeros_like(p) for p in params], [p.detach() for p in params]
        f = torch.compile(lion) if kind == "compiled" else lion
        return lambda: f(plain, grads, momenta, 1e-4, 0.9, 0.99, wd)
    if rule == "sgdm":
        optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, **options)
    else:
        optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=wd, **options)

    def step():
        if rule == "clip+adamw":
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()

    return torch.compile(step) if kind == "compiled" else step


def prepared(rule, kind, layout):
    params = make(layout)
    step = step_of(rule, kind, params)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    return Contender(step, facts=dict(first_call_s=first))


def report(name, timing, contender):
    emit_optimizer(name, timing, BYTES[name.split("/")[1].rsplit("-", 1)[0]], N, **contender.facts)


# PyTorch has no fused Lion, and clipping alone does not tell the kinds apart; a thousand tensors are a minute of compiling.
PAIRS = [("adamw", k) for k in KINDS] + [("sgdm", k) for k in KINDS] + [("lion", "foreach"), ("clip+adamw", "fused")]
cases = {f"torch/{rule}-{kind}/{layout}": lambda rule=rule, kind=kind, layout=layout: prepared(rule, kind, layout) for layout in ("one", "1000x") for rule, kind in PAIRS}
for rule in ("adamw", "lion", "clip+adamw"):
    cases[f"torch/{rule}-compiled/one"] = lambda rule=rule: prepared(rule, "compiled", "one")
contest(cases, report)
