"""The optimizer step alone, PyTorch: fused, foreach, for-loop and compiled. Arguments: NAME/LAYOUT to run only those (adamw-fused/one, ...)."""
import os
import sys
import time

import torch

from common import THREADS, bench, emit_optimizer

torch.set_num_threads(THREADS)
N = int(os.environ.get("N", 50_000_000))
ONLY = sys.argv[1:]
lr, wd = 1e-3, 1e-2


def make(layout):
    count = 1 if layout == "one" else 1000
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(N // count)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def wanted(name, layout):
    return not ONLY or f"{name}/{layout}" in ONLY


def report(name, layout, bytes_per_parameter, once):
    start = time.perf_counter()
    once()
    first = time.perf_counter() - start
    emit_optimizer(f"torch/{name}/{layout}", bench(once, blocks=11, block_s=0.3, warm=2), bytes_per_parameter, N, first_call_s=first)


@torch.no_grad()
def lion(params, grads, momenta, lr, beta1, beta2, wd):
    update = torch._foreach_lerp(grads, momenta, beta1)  # beta1 m + (1 - beta1) g
    torch._foreach_sign_(update)
    torch._foreach_mul_(params, 1 - lr * wd)
    torch._foreach_add_(params, update, alpha=-lr)
    torch._foreach_lerp_(momenta, grads, 1 - beta2)


def clipped(params, optimizer):
    def once():
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()

    return once


KINDS = {"fused": dict(fused=True), "foreach": dict(foreach=True), "forloop": dict(foreach=False)}
for layout in ("one", "1000x"):
    for kind, options in KINDS.items():
        if wanted(f"adamw-{kind}", layout):
            params = make(layout)
            report(f"adamw-{kind}", layout, 28, torch.optim.AdamW(params, lr=lr, weight_decay=wd, **options).step)
        if kind == "fused" and wanted("clip+adamw-fused", layout):
            params = make(layout)
            report("clip+adamw-fused", layout, 32, clipped(params, torch.optim.AdamW(params, lr=lr, weight_decay=wd, **options)))
        if layout == "one" and wanted(f"sgdm-{kind}", layout):
            params = make(layout)
            report(f"sgdm-{kind}", layout, 20, torch.optim.SGD(params, lr=lr, momentum=0.9, **options).step)
    if layout != "one":
        continue
    if wanted("lion-foreach", layout):
        params = make(layout)
        grads, momenta = [p.grad for p in params], [torch.zeros_like(p) for p in params]
        report("lion-foreach", layout, 20, lambda: lion(params, grads, momenta, 1e-4, 0.9, 0.99, wd))
    if wanted("lion-compiled", layout):
        params = make(layout)
        grads, momenta, plain = [p.grad for p in params], [torch.zeros_like(p) for p in params], [p.detach() for p in params]
        compiled = torch.compile(lion)
        report("lion-compiled", layout, 20, lambda: compiled(plain, grads, momenta, 1e-4, 0.9, 0.99, wd))
    if wanted("adamw-compiled", layout):
        params = make(layout)
        optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=wd, foreach=True)
        report("adamw-compiled", layout, 28, torch.compile(lambda: optimizer.step()))
        torch._dynamo.reset()
    if wanted("clip+adamw-compiled", layout):
        params = make(layout)
        report("clip+adamw-compiled", layout, 32, torch.compile(clipped(params, torch.optim.AdamW(params, lr=lr, weight_decay=wd, foreach=True))))
        torch._dynamo.reset()
