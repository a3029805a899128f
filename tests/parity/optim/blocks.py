"""Rules with one number for a block, a row or a leaf, and rules in bases of eigenvectors."""
import numpy as np
import pytorch_optimizer as po

from .common import ALL, STEPS, Case, leaf_walk, torch_walk, tree_walk, turned_walk, wide


def adam_mini(blocks, axis=-1):
    """Zhang et al. 2024, algorithm 1, over equal runs of an axis."""

    def rule(w, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-8, wd=0.1):
        s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
        g2 = g**2
        if w.ndim:
            front = np.moveaxis(g2, axis, 0)
            n = blocks or front.shape[0]
            means = front.reshape(n, -1).mean(1)
            runs = np.repeat(means, front.shape[0] // n)
            g2 = np.moveaxis(np.broadcast_to(runs.reshape(-1, *[1] * (w.ndim - 1)), front.shape), 0, axis)
        s["v"] = b2 * s.get("v", 0) + (1 - b2) * g2
        return (1 - lr * wd) * w - lr * s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)

    return leaf_walk(rule)


def splus(problem, lr=0.5, b1=0.9, b2=0.99, wd=0.1, decay=0.9, interval=5, other=0.02, longest=5, seen=False):
    """Frans, Levine and Abbeel 2025, algorithm 1, with the constants of pytorch_optimizer."""
    out = []

    def rule(w, g, s, t):
        s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
        c, u = lr * other, np.sign(s["m"])
        if w.ndim == 2:
            if max(w.shape) <= longest:
                c = lr * 2 / sum(w.shape)
            sides = [n < longest for n in w.shape]
            q = s.setdefault("q", [np.eye(n) for n in w.shape])
            a = s.setdefault("a", [np.zeros((n, n)) for n in w.shape])
            turn = [q[i] if sides[i] else np.eye(w.shape[i]) for i in range(2)]
            u = turn[0] @ np.sign(turn[0].T @ s["m"] @ turn[1]) @ turn[1].T
            for i, x in enumerate((g, g.T)):
                a[i] = b2 * a[i] + (1 - b2) * x @ x.T
                if t == 1 or t % interval == 0:
                    q[i] = np.linalg.eigh(a[i])[1]
        moved = w - c * u
        s["e"] = decay * s.get("e", 0) + (1 - decay) * moved
        return (1 - c * wd) * moved, s["e"] / (1 - decay**t)

    w, states = dict(problem.start), {k: {} for k in problem.leaves}
    for k in range(STEPS):
        g = problem.gradient(k, w)
        both = {n: rule(w[n], g[n], states[n], k + 1) for n in w}
        w = {n: np.asarray(x) for n, (x, _) in both.items()}
        out.append({n: np.asarray(e) for n, (_, e) in both.items()} if seen else dict(w))
    return out


def alice(w, g, s, t, _, lr=0.05, b1=0.9, b2=0.9, b3=0.99, alpha=0.3, missed=0.4, rank=3, interval=6, gamma=1.01, eps=1e-8, wd=0.1):
    """Gong et al. 2025, algorithms 2 to 4, all of the basis kept by the iteration."""
    new = {}
    for k in w:
        x = g[k].reshape(-1, w[k].shape[-1]).T
        rows, columns = x.shape
        r = min(rank, rows)
        st = s.setdefault(k, {"p": np.zeros((rows, r)), "q": np.zeros((r, r)), "m": np.zeros((r, columns)), "v": np.zeros((r, columns)), "d": np.zeros(columns), "n": 0.0})
        if (t - 1) % interval == 0:
            h = b3 * st["p"] @ st["q"] @ st["p"].T + (1 - b3) * x @ x.T
            if t == 1:
                st["p"] = np.linalg.eigh(h)[1][:, ::-1][:, :r]
            else:
                u = np.linalg.qr(h @ st["p"])[0]
                u = u @ np.linalg.eigh(u.T @ h @ u)[1][:, ::-1]
                st["p"] = u * np.where(np.sum(u * st["p"], 0) < 0, -1, 1)
        p = st["p"]
        c = p.T @ x
        st["q"] = b3 * st["q"] + (1 - b3) * c @ c.T
        st["m"] = b1 * st["m"] + (1 - b1) * c
        st["v"] = b2 * st["v"] + (1 - b2) * c**2
        st["d"] = np.maximum(b1 * st["d"] + (1 - b1) * (np.sum(x**2, 0) - np.sum(c**2, 0)), 1e-8)
        e = np.sqrt(rows - r) * (x - p @ c) / np.sqrt(st["d"])
        size = np.sqrt(np.sum(e**2))
        limiter = gamma / max(size / st["n"], gamma) if st["n"] > 0 else 1.0
        st["n"] = limiter * size
        u = p @ (st["m"] / (np.sqrt(st["v"]) + eps)) + missed * limiter * e
        new[k] = (1 - lr * wd) * w[k] - lr * alpha * u.T.reshape(w[k].shape)
    return new


CASES = [
    Case("adam_mini", "adam_mini(lr = 0.01, beta2 = 0.99, weight_decay = 0.1)", adam_mini(0), "the paper's algorithm in NumPy, a block for each output channel", leaves=ALL),
    Case("adam_mini_rows", "adam_mini(lr = 0.01, beta2 = 0.99, weight_decay = 0.1, axis = 0)", adam_mini(0, 0), "the paper's algorithm in NumPy, a block for each row", leaves=ALL),
    Case("adam_mini_heads", "adam_mini(lr = 0.01, beta2 = 0.99, weight_decay = 0.1, blocks = 2, axis = -2)", adam_mini(2, -2), "the paper's algorithm in NumPy, two heads", leaves="fhi"),
    Case("adam_mini_leaf", "adam_mini(lr = 0.01, beta2 = 0.99, weight_decay = 0.1, blocks = 1)", adam_mini(1), "the paper's algorithm in NumPy, the leaf as a block", leaves=ALL),
    Case("came", "came(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: po.CAME(p, 0.01, weight_decay=0.1, foreach=False)), "pytorch_optimizer CAME(0.01, weight_decay=0.1)", leaves=ALL,
         problem="bowl"),
    Case("came_clipped", "came(lr = 0.01, beta2 = 0.9, beta3 = 0.95, clipping = 0.5)", torch_walk(lambda p: po.CAME(p, 0.01, betas=(0.9, 0.9, 0.95), clip_threshold=0.5, foreach=False)),
         "pytorch_optimizer CAME(0.01, betas=(0.9, 0.9, 0.95), clip_threshold=0.5)", leaves="abdfhi", problem="bowl"),
    Case("adams", "adams(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: po.AdamS(p, 0.01, weight_decay=0.1, foreach=False)), "pytorch_optimizer AdamS(0.01, weight_decay=0.1)"),
    Case("adagc", "adagc(lr = 0.01, warmup = 10)", wide(torch_walk(lambda p: po.AdaGC(p, 0.01, warmup_steps=10, foreach=False))),
         "pytorch_optimizer AdaGC(0.01, warmup_steps=10), whose global norm is in f32", tolerance=1e-7),
    Case("racs", "racs(lr = 0.02, alpha = 0.5, weight_decay = 0.1)", turned_walk(lambda p: po.RACS(p, 0.02, alpha=0.5, weight_decay=0.1)),
         "pytorch_optimizer RACS(0.02, alpha=0.5, weight_decay=0.1)", leaves="adfhi"),
    Case("alice", "alice(lr = 0.05, beta3 = 0.99, rank = 3, interval = 6, weight_decay = 0.1)", tree_walk(alice), "the paper's algorithms 2 to 4 in NumPy", leaves="adfhi", problem="bowl",
         tolerance=1e-8),
    Case("splus", "splus(lr = 0.5, beta2 = 0.99, weight_decay = 0.1, decay = 0.9, interval = 5, other = 0.02, longest = 5)", splus, "the paper's algorithm 1 in NumPy", leaves="abdhi",
         problem="bowl", signs=0.01),
    Case("splus_average", "splus(lr = 0.5, beta2 = 0.99, weight_decay = 0.1, decay = 0.9, interval = 5, other = 0.02, longest = 5)", lambda p: splus(p, seen=True),
         "the paper's algorithm 1 in NumPy, evaluated", leaves="abdhi", problem="bowl", evaluated=True, signs=0.01),
]
