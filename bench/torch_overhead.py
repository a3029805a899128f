"""What a step costs besides arithmetic: AdamW over many small tensors, by `optc.torch`, by the module of `optc build --emit torch`, and by torch.

    OPTC_LIBRARY=target/release/liboptc_python.so PYTHONPATH=python VENV/bin/python bench/torch_overhead.py [--optc target/release/optc]

Least time of 40 steps with gradients in new memory each time, one thread; then the time to make the optimizer and that of its first step, which compiles.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time

import torch

import optc
import optc.torch


def measure(make, count, shape):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    start = time.perf_counter()
    optimizer = make(params)
    made = time.perf_counter()
    optimizer.step()
    first = time.perf_counter()
    best = float("inf")
    for _ in range(40):
        for p in params:
            p.grad = p.grad.clone()
        began = time.perf_counter()
        optimizer.step()
        best = min(best, time.perf_counter() - began)
    return best * 1e3, made - start, first - made


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--optc", help="the binary; without it there is no exported module")
    asked = asked.parse_args()
    torch.set_num_threads(1)
    optc.set_threads(1)
    contenders = {
        "optc.torch adamw": lambda p: optc.torch.Optimizer(p, "adamw", weight_decay=0.01),
        "optc.torch clip |> adamw": lambda p: optc.torch.Optimizer(p, "clip_by_global_norm(1.0) |> adamw(weight_decay = 0.01)"),
        "torch fused": lambda p: torch.optim.AdamW(p, fused=True),
        "torch foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        if asked.optc:
            subprocess.run([asked.optc, "build", "--optimizer", "adamw", "--emit", "torch", "-o", folder], check=True, stdout=subprocess.DEVNULL)
            sys.path.insert(0, folder)
            contenders["exported"] = importlib.import_module("adamw_torch").AdamW
        for shape in [(64,), (64, 64)]:
            for count in (100, 1000):
                for name, make in contenders.items():
                    step, made, first = measure(make, count, shape)
                    print(f"{count:5} tensors of {list(shape)}  {name:25} {step:8.3f} ms a step   made in {made:.2f} s, first step {first:.2f} s", flush=True)


if __name__ == "__main__":
    main()
