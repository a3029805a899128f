"""System 01, an energy-based transformer, as one would write it in JAX: the experiment of examples/systems/01-energy-based-transformers, seconds printed.

    python bench/systems/jax_01.py [STEPS [SEEDS]]        # 3000 steps and 2 seeds are the described size
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

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
SEEDS = int(sys.argv[2]) if len(sys.argv) > 2 else 2
D, HEADS, DEPTH, HIDDEN, K, BATCH = 32, 2, 2, 64, 2, 64

table = np.loadtxt(Path(__file__).parents[2] / "examples/data/digits.csv", delimiter=",", dtype=np.float32)
images = jnp.array(table[np.random.default_rng(0).permutation(len(table)), :64].reshape(-1, 8, 8) / 8 - 1)
train, test = images[:1400], images[1400:]
c_test, y_test = test[:, :4], test[:, 4:]


def glorot(key, i, o):
    return jax.random.uniform(key, (i, o), minval=-1, maxval=1) * jnp.sqrt(6 / (i + o))


def init(key, outputs):
    keys = iter(jax.random.split(key, 64))
    block = lambda: dict(
        norm1=jnp.ones(D), q=glorot(next(keys), D, D), k=glorot(next(keys), D, D), v=glorot(next(keys), D, D), out=glorot(next(keys), D, D),
        norm2=jnp.ones(D), up=glorot(next(keys), D, 2 * HIDDEN), down=glorot(next(keys), HIDDEN, D),
    )
    embed = lambda: dict(w=jax.random.normal(next(keys), (8, D)) * jnp.sqrt(2 / 8), b=jnp.zeros(D))
    return dict(
        alpha=jnp.float32(30), time=0.02 * jax.random.normal(next(keys), (K, D)), position=0.02 * jax.random.normal(next(keys), (8, D)),
        context=embed(), candidate=embed(), blocks=[block() for _ in range(DEPTH)], norm=jnp.ones(D), head=glorot(next(keys), D, outputs),
    )


def rms_norm(x, scale):
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def body(p, tokens):
    h = tokens
    for b in p["blocks"]:
        n = rms_norm(h, b["norm1"])
        q, k, v = (jnp.reshape(n @ b[m], (*n.shape[:2], HEADS, D // HEADS)) for m in "qkv")
        a = jax.nn.softmax(jnp.einsum("bihe,bjhe->bhij", q, k) / np.sqrt(D // HEADS))
        h = h + jnp.reshape(jnp.einsum("bhij,bjhe->bihe", a, v), n.shape) @ b["out"]
        gate, up = jnp.split(rms_norm(h, b["norm2"]) @ b["up"], 2, -1)
        h = h + (jax.nn.silu(gate) * up) @ b["down"]
    return rms_norm(h, p["norm"])


def rows(p, c, y):
    return jnp.concatenate([c @ p["context"]["w"] + p["context"]["b"], y @ p["candidate"]["w"] + p["candidate"]["b"]], 1) + p["position"]


def energy(p, c, y, i):
    first = jnp.broadcast_to(p["time"][jnp.minimum(i, K - 1)], (len(c), 1, D))
    h = body(p, jnp.concatenate([first, rows(p, c, y)], 1))
    return jnp.sum(h[:, 5:] @ p["head"], (1, 2))


def think(p, c, y, steps=K):
    path = []
    for i in range(steps):
        y = lax.stop_gradient(y)
        y = y - jnp.maximum(p["alpha"], 1e-4) * jax.grad(lambda y: jnp.sum(energy(p, c, y, i)))(y)
        path.append(y)
    return jnp.stack(path)


def ebt_loss(p, key, c, y):
    return jnp.mean((think(p, c, jax.random.normal(key, y.shape)) - y) ** 2)


def feed_forward(p, c):
    return body(p, rows(p, c, jnp.zeros_like(c)))[:, 4:] @ p["head"]


def ff_loss(p, key, c, y):
    return jnp.mean((feed_forward(p, c) - y) ** 2)


@partial(jax.jit, static_argnums=(1, 2))
def fit(key, loss, outputs):
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, 100, STEPS, 2e-4)
    tx = optax.chain(optax.clip_by_global_norm(1), optax.adamw(rate, weight_decay=0.01))

    def step(carry, key):
        p, state = carry
        pick, noise = jax.random.split(key)
        batch = train[jax.random.choice(pick, len(train), (BATCH,), replace=False)]
        value, g = jax.value_and_grad(loss)(p, noise, batch[:, :4], batch[:, 4:])
        updates, state = tx.update(g, state, p)
        updates["alpha"] *= 100
        return (optax.apply_updates(p, updates), state), value

    start, run = jax.random.split(key)
    p = init(start, outputs)
    (p, _), losses = lax.scan(step, (p, tx.init(p)), jax.random.split(run, STEPS))
    return p, losses


@jax.jit
def evaluate(p, c, key):
    """MSE after 1..6 steps; energies at 0, 1, 2 steps; MSE of the candidate of least energy. All of 8 starts per image."""
    def one(y0):
        path = think(p, c, y0, 6)
        return path, jnp.stack([energy(p, c, y, 1) for y in (y0, path[0], path[1])])

    paths, energies = lax.map(one, jax.random.normal(key, (8, *y_test.shape)))
    error = jnp.mean((paths - y_test) ** 2, (3, 4))                       # start, step, image
    chosen = jnp.take_along_axis(error[:, 1], jnp.argmin(energies[:, 2], 0)[None], 0)
    return error.mean((0, 2)), energies.mean((0, 2)), chosen.mean()


def main():
    start = time.perf_counter()
    seconds = dict(ebt=0.0, feed_forward=0.0, evaluation=0.0)
    for seed in range(SEEDS):
        clock = time.perf_counter()
        p, losses = jax.block_until_ready(fit(jax.random.key(seed), ebt_loss, 1))
        seconds["ebt"] += time.perf_counter() - clock
        clock = time.perf_counter()
        q, _ = jax.block_until_ready(fit(jax.random.key(seed), ff_loss, 8))
        seconds["feed_forward"] += time.perf_counter() - clock
        clock = time.perf_counter()
        noise = 0.5 * jax.random.normal(jax.random.key(99), c_test.shape)
        for name, c in dict(test=c_test, ood=c_test + noise).items():
            error, energies, chosen = jax.block_until_ready(evaluate(p, c, jax.random.key(7)))
            ff = float(jnp.mean((feed_forward(q, c) - y_test) ** 2))
            print(seed, name, "steps", np.round(error, 4).tolist(), "best of 8", round(float(chosen), 4), "energies", np.round(energies, 3).tolist(), "ff", round(ff, 4),
                  "alpha", round(float(p["alpha"]), 2), "ratio", round(float(error[1] / error[0]), 4), round(float(error[1]) / ff, 4), flush=True)
        seconds["evaluation"] += time.perf_counter() - clock
    print({k: round(v, 1) for k, v in seconds.items()}, f"total {time.perf_counter() - start:.1f} s (imports apart)")


main()
