"""torch's side of `bench/gpu.py`: `probe`, `step RULE PARAMETERS TENSORS SECONDS`, `train MODEL SECONDS`. Prints one JSON object; times are those of the GPU's own clock."""
import json
import os
import statistics
import sys

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


def main():
    what, *more = sys.argv[1:]
    if what == "probe":
        torch.zeros(1, device="cuda")
        found = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)}
    elif what == "step":
        found = step(more[0], int(more[1]), int(more[2]), float(more[3]))
    else:
        found = train(more[0], float(more[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
