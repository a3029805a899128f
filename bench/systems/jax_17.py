"""System 17, weight matching and linear mode connectivity, as one would write it in JAX: the experiment of examples/systems/17-linear-mode-connectivity, seconds printed.

    python bench/systems/jax_17.py [WIDTH:PAIRS ...]        # default 64:3 512:3
"""
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from scipy.optimize import linear_sum_assignment

DEPTH, STEPS, BATCH = 2, 1500, 128
table = np.loadtxt(Path(__file__).parents[2] / "examples/data/digits.csv", delimiter=",", dtype=np.float32)
order = np.random.default_rng(0).permutation(len(table))
table = table[order]
cut = round(0.7 * len(table))
x, y = jnp.array(table[:, :64] / 16), jnp.array(table[:, 64], jnp.int32)
x_train, y_train, x_test, y_test = x[:cut], y[:cut], x[cut:], y[cut:]


def init(key, width, depth=DEPTH):
    sizes = [64] + [width] * depth + [10]
    keys = jax.random.split(key, depth + 1)
    return [dict(w=jax.random.normal(k, (i, o)) * jnp.sqrt(2 / i), b=jnp.zeros(o)) for k, i, o in zip(keys, sizes, sizes[1:])]


def apply(p, x):
    for layer in p[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ p[-1]["w"] + p[-1]["b"]


def loss(p, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(apply(p, x), y).mean()


tx = optax.adam(optax.cosine_decay_schedule(1e-3, STEPS))


@partial(jax.jit, static_argnums=(1,))
def train(key, width):
    def step(carry, key):
        p, state = carry
        pick = jax.random.choice(key, cut, (BATCH,), replace=False)
        updates, state = tx.update(jax.grad(loss)(p, x_train[pick], y_train[pick]), state)
        return (optax.apply_updates(p, updates), state), None

    start, run = jax.random.split(key)
    p = init(start, width)
    (p, _), _ = lax.scan(step, (p, tx.init(p)), jax.random.split(run, STEPS))
    return p


@partial(jax.jit, static_argnums=(2,))
def scores(a, b, layer, perms):
    """C[i, j]: how well unit i of layer `layer` of a goes with unit j of b."""
    rows = perms[layer - 1] if layer > 0 else jnp.arange(a[0]["w"].shape[0])
    columns = perms[layer + 1] if layer + 1 < len(perms) else jnp.arange(a[layer + 1]["w"].shape[1])
    return (
        a[layer]["w"].T @ b[layer]["w"][rows]
        + jnp.outer(a[layer]["b"], b[layer]["b"])
        + a[layer + 1]["w"] @ b[layer + 1]["w"][:, columns].T
    )


def weight_matching(a, b, rng):
    perms = [np.arange(l["w"].shape[1]) for l in a[:-1]]
    for sweep in range(100):
        progress = False
        for l in rng.permutation(len(perms)):
            c = np.asarray(scores(a, b, int(l), perms), np.float64)
            _, found = linear_sum_assignment(c, maximize=True)
            progress |= c[np.arange(len(c)), found].sum() > c[np.arange(len(c)), perms[l]].sum() + 1e-12
            perms[l] = found
        if not progress:
            break
    return perms, sweep + 1


def permuted(p, perms):
    rows = [jnp.arange(p[0]["w"].shape[0])] + [jnp.array(q) for q in perms]
    columns = rows[1:] + [jnp.arange(p[-1]["w"].shape[1])]
    return [dict(w=l["w"][r][:, c], b=l["b"][c]) for l, r, c in zip(p, rows, columns)]


def between(a, b, t):
    return jax.tree.map(lambda a, b: (1 - t) * a + t * b, a, b)


@jax.jit
def path(a, b):
    return jax.vmap(lambda t: loss(between(a, b, t), x_test, y_test))(jnp.linspace(0, 1, 11))


def barrier(a, b):
    l = path(a, b)
    t = jnp.linspace(0, 1, 11)
    return jnp.max(l - (1 - t) * l[0] - t * l[-1])


@jax.jit
def accuracy(p):
    return jnp.mean(jnp.argmax(apply(p, x_test), 1) == y_test)


def distance(a, b):
    return jnp.sqrt(sum(jnp.sum((u - v) ** 2) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b))))


def factors(p):
    return [jnp.linalg.svd(l["w"], full_matrices=False) for l in p]


@partial(jax.jit, static_argnums=(2,))
def alignment(fa, fb, g):
    total = kept = 0
    for (ua, sa, va), (ub, sb, vb) in zip(fa, fb):
        ka, kb = sa >= g * sa[0], sb >= g * sb[0]
        total += jnp.sum((ua.T @ ub) * (va @ vb.T) * ka[:, None] * kb[None, :])
        kept += jnp.minimum(ka.sum(), kb.sum())
    return total / kept


def identity_error(a, b, fa, fb):
    worst = 0
    for la, lb, (ua, sa, va), (ub, sb, vb) in zip(a, b, fa, fb):
        direct = jnp.sum((la["w"] - lb["w"]) ** 2)
        cross = jnp.sum(jnp.outer(sa, sb) * (ua.T @ ub) * (va @ vb.T))
        worst = max(worst, abs(float((jnp.sum(sa**2) + jnp.sum(sb**2) - 2 * cross) / direct - 1)))
    return worst


def compare(width, seed, seconds):
    clock = time.perf_counter()
    a, b = jax.block_until_ready([train(jax.random.key(1000 * s + seed), width) for s in (1, 2)])
    seconds["training"] += time.perf_counter() - clock

    clock = time.perf_counter()
    perms, sweeps = weight_matching(a, b, np.random.default_rng(seed))
    seconds["matching"] += time.perf_counter() - clock
    c = permuted(b, perms)

    clock = time.perf_counter()
    fa, fb, fc = jax.block_until_ready([factors(a), factors(b), factors(c)])
    seconds["svd"] += time.perf_counter() - clock
    row = dict(
        width=width, seed=seed, sweeps=sweeps, accuracy=[float(accuracy(a)), float(accuracy(b))],
        naive=float(barrier(a, b)), matched=float(barrier(a, c)),
        midpoint=[float(accuracy(between(a, b, 0.5))), float(accuracy(between(a, c, 0.5)))],
        reduction=float(1 - distance(a, c) / distance(a, b)),
        R=[float(alignment(fa, f, g)) for f in (fb, fc) for g in (0.3, 0.0)],
        same_function=float(jnp.max(jnp.abs(apply(b, x_test) - apply(c, x_test)))),
        singular_values=max(float(jnp.max(jnp.abs(u[1] - v[1]))) for u, v in zip(fb, fc)),
        identity=identity_error(a, c, fa, fc),
    )
    print({k: np.round(v, 7).tolist() if not isinstance(v, int) else v for k, v in row.items()}, flush=True)
    return row


def main():
    start = time.perf_counter()
    seconds = dict(training=0.0, matching=0.0, svd=0.0)
    for what in sys.argv[1:] or ["64:3", "512:3"]:
        width, pairs = map(int, what.split(":"))
        for seed in range(pairs):
            compare(width, seed, seconds)
    print({k: round(v, 1) for k, v in seconds.items()}, f"total {time.perf_counter() - start:.1f} s (imports apart)")


main()
