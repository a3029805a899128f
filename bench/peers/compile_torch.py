"""Time to the first step, torch.compile (inductor, C++), caches off, in a fresh process; forward and backward are compiled, the optimizer is not, except in adamw1.
Argument: adamw1 | mlp784 | gpt | cnn | digits."""
import os
import resource
import statistics
import sys
import time

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
import torch
import torch.nn.functional as F

from common import THREADS, emit, others_now
from models_torch import get

torch.set_num_threads(THREADS)
name = sys.argv[1]
if name == "adamw1":
    p = torch.nn.Parameter(torch.ones(1_000_000))
    p.grad = torch.ones_like(p)
    optimizer = torch.optim.AdamW([p], foreach=True)
    optimizer.step()
    run = torch.compile(lambda: optimizer.step())
else:
    model, x, y = get(name)
    F.cross_entropy(model(x), y).backward()
    loss = torch.compile(lambda x, y: F.cross_entropy(model(x), y))

    def run():
        loss(x, y).backward()


def cpu_seconds():
    both = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both)


def wall_of(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


before = cpu_seconds()
first = wall_of(run)
first_cpu = cpu_seconds() - before
steady = statistics.median(wall_of(run) for _ in range(5))
emit("2-compile", f"torch.compile/{name}", first_ms=first * 1e3, first_minus_steady_ms=(first - steady) * 1e3, first_cpu_ms=first_cpu * 1e3, others=others_now())
