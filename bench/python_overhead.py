"""What a call from Python costs beside the work: a small function, a step of 100 leaves, `torch.optim.AdamW` beside it where torch is installed. Microseconds, the best of fifteen."""

import importlib.util
import timeit

import numpy as np

import optc

SPEC = "fn scaled(x: float[N], by: float = 2) -> float[N] = by * x"
LEAVES = 100


def best(f, number=200, repeat=15):
    return min(timeit.repeat(f, number=number, repeat=repeat)) / number * 1e6


def say(what, microseconds):
    print(f"{what:<60}{microseconds:10.1f}")


def main():
    torch = None
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
    optc.set_threads(1)
    m = optc.compile(SPEC)
    x = np.arange(4, dtype=np.float32)
    say("a function, NumPy", best(lambda: m.scaled(x), 2000))
    say("a function and a number, NumPy", best(lambda: m.scaled(x, 3.0), 2000))
    if torch:
        t = torch.arange(4.0)
        say("a function, torch", best(lambda: m.scaled(t), 2000))
    for shape in [(4,), (64, 64)]:
        shapes = [shape] * LEAVES
        o = optc.optimizer("adamw(lr = 0.01)", shapes)
        w, g = [np.zeros(s, np.float32) for s in shapes], [np.ones(s, np.float32) for s in shapes]
        s = o.init(w)
        what = f"AdamW, {LEAVES} leaves of {' x '.join(map(str, shape))}"
        say(f"{what}: step, NumPy", best(lambda: o.step(w, g, s)))
        say(f"{what}: bound, NumPy", best(o.bind(w, g, s)))
        if torch:
            p, d = [torch.zeros(s) for s in shapes], [torch.ones(s) for s in shapes]
            held = o.init(p)
            say(f"{what}: step, torch", best(lambda: o.step(p, d, held)))
            say(f"{what}: bound, torch", best(o.bind(p, d, held)))
            for name in ("fused", "foreach"):
                q = [x.clone().requires_grad_() for x in p]
                for x, y in zip(q, d):
                    x.grad = y.clone()
                say(f"{what}: torch.optim.AdamW({name}=True)", best(torch.optim.AdamW(q, lr=0.01, **{name: True}).step, 20, 15))


if __name__ == "__main__":
    main()
