"""torch's side of `bench/gpu.py`: `probe`, `step RULE PARAMETERS TENSORS SECONDS`, `train MODEL SECONDS`, `attention WIDTH TYPE SECONDS`, `export FOLDER RULE PARAMETERS TENSORS SECONDS`. Prints one JSON object; times are those of the GPU's own clock."""
import importlib
import json
import os
import statistics
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"))


def milliseconds(run, seconds):
    """Median of the milliseconds of a call: warm-up, then blocks of calls between two events."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()

    def block(n):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / n

    once = block(1)
    n = max(1, int(50 / max(once, 1e-3)))
    blocks = max(5, int(seconds * 1e3 / max(once * n, 1e-3)))
    return statistics.median(block(n) for _ in range(min(blocks, 200)))


def copy_bandwidth(seconds):
    """GB/s of a copy within the GPU's memory, read and write counted."""
    size = min(1 << 30, torch.cuda.mem_get_info()[0] // 16)
    a, b = torch.empty(size, device="cuda"), torch.empty(size, device="cuda")
    return 8 * size / milliseconds(lambda: b.copy_(a), seconds) / 1e6


def compiled_lion(parameters, lr=1e-4, beta1=0.9, beta2=0.99, decay=1e-2):
    moments = [torch.zeros_like(p) for p in parameters]

    @torch.compile
    def update(weights, gradients, moments):
        for w, g, m in zip(weights, gradients, moments):
            c = beta1 * m + (1 - beta1) * g
            w.sub_(lr * (c.sign() + decay * w))
            m.mul_(beta2).add_(g, alpha=1 - beta2)

    return lambda: update(parameters, [p.grad for p in parameters], moments)


def step(rule, count, tensors, seconds):
    cuts = [count * k // tensors for k in range(tensors + 1)]
    leaves = [torch.full((b - a,), 0.5, device="cuda") for a, b in zip(cuts, cuts[1:])]
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, 0.1)
    ms = {}
    with torch.no_grad():
        if rule in ("adamw", "clip+adamw"):
            for form in ("fused", "foreach"):
                optimizer = torch.optim.AdamW(leaves, lr=1e-3, weight_decay=1e-2, **{form: True})

                def run():
                    if rule == "clip+adamw":
                        torch.nn.utils.clip_grad_norm_(leaves, 1.0, foreach=True)
                    optimizer.step()

                ms[form] = milliseconds(run, seconds)
                del optimizer
        if rule == "lion" and tensors == 1:
            ms["compiled"] = milliseconds(compiled_lion(leaves), seconds)
    for leaf in leaves:
        leaf.grad = None
    leaves.clear()
    torch.cuda.empty_cache()
    return {"ms": ms, "copy_gb_per_second": copy_bandwidth(seconds)}


def train(name, seconds):
    import torch.nn.functional as F
    from models_torch import get

    rates = {}
    for mode in ("eager", "compile"):
        model, x, y = get(name)
        model, x, y = model.cuda(), x.cuda(), y.cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def loss_of(x, y, model=model):
            return F.cross_entropy(model(x), y)

        # `reduce-overhead` records the step as a graph, as optc does.
        loss = torch.compile(loss_of, mode="reduce-overhead") if mode == "compile" else loss_of

        def run():
            optimizer.zero_grad(set_to_none=True)
            loss(x, y).backward()
            optimizer.step()

        rates[mode] = 1e3 / milliseconds(run, seconds)
    return {"steps_per_second": rates}


def attention(width, dtype, seconds):
    """Steps per second of what `bench/specs/attention.opt` does: scaled_dot_product_attention and its backward pass over q, k and v of [2, 16, 2048, width], and their update."""
    import torch.nn.functional as F

    narrow = torch.bfloat16 if dtype == "bf16" else torch.float32
    rates = {}
    for mode in ("eager", "compile"):
        leaves = [torch.randn(2, 16, 2048, width, device="cuda", requires_grad=True) for _ in range(3)]
        optimizer = torch.optim.SGD(leaves, lr=1e-3, fused=True)

        def loss_of(q, k, v):
            q, k, v = (x.to(narrow) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()

        loss = torch.compile(loss_of) if mode == "compile" else loss_of

        def run():
            optimizer.zero_grad(set_to_none=True)
            loss(*leaves).backward()
            optimizer.step()

        rates[mode] = 1e3 / milliseconds(run, seconds)
    return {"steps_per_second": rates}


def generated(folder, rule):
    """The optimizer that `optc build --emit torch` has written for a rule."""
    sys.path.insert(0, folder)
    module = importlib.import_module(f"{rule}_torch")
    return getattr(module, module.__all__[0])


def filled(sizes, device, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=made).to(device) for n in sizes]


def agreement(make, theirs, device, steps=8):
    """How far weights are after some steps from those that the library for the processor makes, and from torch's optimizer (largest difference); also where steps are recorded, scaled or not made."""
    sizes = [1, 7, 1000, 4097, 100_003]
    here, there, other = (filled(sizes, d) for d in ("cpu", device, device))
    for leaf in here + there + other:
        leaf.requires_grad_()
    ours, reference = make(there, lr=1e-2, capturable=True), make(here, lr=1e-2)
    peer = theirs(other) if theirs else None
    for k in range(steps):
        for p, q, r in zip(here, there, other):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1000 * k + p.numel()))
            q.grad, r.grad = p.grad.to(device), p.grad.to(device)
        skipped = k == 3
        if k in (2, 3):
            # What GradScaler sets.
            for q in there:
                q.grad *= 8.0
            ours.grad_scale, ours.found_inf = torch.tensor(8.0, device=device), torch.tensor([float(skipped)], device=device)
        ours.step()
        ours.grad_scale = ours.found_inf = None
        if not skipped:
            reference.step()
            if peer:
                peer.step()
    if device != "cpu":
        # Recorded once, run three times.
        fixed = [p.grad.clone() for p in here]
        for q, g in zip(there, fixed):
            q.grad.copy_(g)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ours.step()
        for _ in range(3):
            graph.replay()
            reference.step()
            if peer:
                peer.step()
        # And one that is not.
        ours.step()
        reference.step()
        if peer:
            peer.step()
    apart = lambda a, b: max(float((p.detach().cpu() - q.detach().cpu()).abs().max()) for p, q in zip(a, b))
    return {"from_the_library": apart(here, there), "from_torch": apart(there, other) if peer else None}


def export(folder, rule, count, tensors, seconds):
    make = generated(folder, rule)
    theirs = (lambda p: torch.optim.AdamW(p, lr=1e-2)) if rule == "adamw" else None
    found = {"agreement": agreement(make, theirs, "cuda"), "ms": {}}
    native = sys.modules[f"{rule}_torch"]._gpu(torch.device("cuda", 0)) is not None
    found["native"] = native
    cuts = [count * k // tensors for k in range(tensors + 1)]
    leaves = [torch.full((b - a,), 0.5, device="cuda") for a, b in zip(cuts, cuts[1:])]
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, 0.1)
    forms = {"generated": lambda: make(leaves, lr=1e-3, capturable=True)}
    if rule == "adamw":
        forms["fused"] = lambda: torch.optim.AdamW(leaves, lr=1e-3, fused=True, capturable=True)
        forms["foreach"] = lambda: torch.optim.AdamW(leaves, lr=1e-3, foreach=True, capturable=True)
    for name, form in forms.items():
        optimizer = form()
        found["ms"][name] = milliseconds(optimizer.step, seconds)
        started = time.perf_counter()
        for _ in range(20):
            optimizer.step()
        # What the computer has to do for a step, if the GPU is not behind.
        found["ms"][f"{name}, host"] = 1e3 * (time.perf_counter() - started) / 20
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        found["ms"][f"{name}, recorded"] = milliseconds(graph.replay, seconds)
        del graph, optimizer
        torch.cuda.empty_cache()
    if rule == "lion" and tensors == 1:
        with torch.no_grad():
            found["ms"]["compiled"] = milliseconds(compiled_lion(leaves), seconds)
    return found


def main():
    what, *more = sys.argv[1:]
    if what == "probe":
        torch.zeros(1, device="cuda")
        found = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)}
    elif what == "step":
        found = step(more[0], int(more[1]), int(more[2]), float(more[3]))
    elif what == "attention":
        found = attention(int(more[0]), more[1], float(more[2]))
    elif what == "export":
        found = export(more[0], more[1], int(more[2]), int(more[3]), float(more[4]))
    else:
        found = train(more[0], float(more[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
