"""The experiments of examples/systems/26-hessian-overparametrized in JAX: spectra of the Hessian of small classifiers, the line between two solutions.

Prints the seconds of each part; compilation and imports count.
"""
import time

start = time.time()
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

jax.config.update("jax_enable_x64", True)
D, LR = 10, 0.1


def mixture(key, k, sep, n):
    kc, kx = jax.random.split(key)
    centres = jnp.linalg.qr(jax.random.normal(kc, (D, k)))[0].T
    y = jnp.arange(n) % k
    return sep * centres[y] + jax.random.normal(kx, (n, D)), y


def init(key, widths):
    keys = jax.random.split(key, len(widths) - 1)
    return [(jax.random.normal(q, (i, o)) / np.sqrt(i), jnp.zeros(o)) for q, i, o in zip(keys, widths[:-1], widths[1:])]


def net(p, x):
    for w, b in p[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = p[-1]
    return x @ w + b


def loss(p, x, y):
    z = net(p, x)
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])


@partial(jax.jit, static_argnames="steps")
def train(p, x, y, steps):
    return jax.lax.scan(lambda p, _: (jax.tree.map(lambda w, g: w - LR * g, p, jax.grad(loss)(p, x, y)), None), p, None, length=steps)[0]


def flat(p):
    w, unravel = ravel_pytree(p)
    return w, unravel


@jax.jit
def spectrum(p, x, y):
    w, unravel = flat(p)
    return jnp.linalg.eigvalsh(jax.hessian(lambda w: loss(unravel(w), x, y))(w))[::-1]


@jax.jit
def split(p, x, y):
    """H, G and R, each from its own definition."""
    w, unravel = flat(p)
    H = jax.hessian(lambda w: loss(unravel(w), x, y))(w)
    J = jax.vmap(lambda x: jax.jacobian(lambda w: net(unravel(w), x))(w))(x)
    prob = jax.nn.softmax(net(p, x))
    S = jax.vmap(jnp.diag)(prob) - prob[:, :, None] * prob[:, None]
    G = jnp.einsum("icm,icd,idl->ml", J, S, J) / len(x)
    r = prob - jax.nn.one_hot(y, prob.shape[1])
    R = jax.hessian(lambda w: jnp.sum(r * net(unravel(w), x)) / len(x))(w)
    return H, G, R


@jax.jit
def hvp(p, x, y, v):
    w, unravel = flat(p)
    return jax.jvp(jax.grad(lambda w: loss(unravel(w), x, y)), (w,), (v,))[1]


@jax.jit
def hutchinson(p, x, y, probes):
    return jax.vmap(lambda z: z @ hvp(p, x, y, z))(probes)


@partial(jax.jit, static_argnames="steps")
def lanczos(p, x, y, v, steps):
    def step(carry, j):
        basis, q = carry
        basis = basis.at[j].set(q)
        w = hvp(p, x, y, q)
        r = w - basis.T @ (basis @ w)
        r = r - basis.T @ (basis @ r)
        beta = jnp.linalg.norm(r)
        return (basis, r / beta), (q @ w, beta)

    _, (alpha, beta) = jax.lax.scan(step, (jnp.zeros((steps, len(v))), v / jnp.linalg.norm(v)), jnp.arange(steps))
    return jnp.linalg.eigvalsh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))[::-1]


def outliers(e, k):
    return int(jnp.argmax(e[: 2 * k] / e[1 : 2 * k + 1])) + 1


rows = {}
for seed in range(3):
    good = 0
    for k in [2, 4, 6]:
        for sep in [2.0, 4.0]:
            kd, ki = jax.random.split(jax.random.key(seed))
            x, y = mixture(kd, k, sep, 600)
            for h in [10, 40]:
                p = init(ki, [D, h, k])
                for T in [200, 2000] if sep == 2 else [200]:
                    p = train(p, x, y, T if T == 200 else 1800)
                    e = spectrum(p, x, y)
                    rows[seed, k, sep, h, T] = e, p, x, y
                    good += h == 40 and sep == 2 and outliers(e, k) == k - 1
    print(f"seed {seed}: outliers = k - 1 in {good} of 6")
print(f"grid {time.time() - start:.1f} s")
for (seed, k, sep, h, T), (e, *_) in rows.items():
    if seed == 0:
        print(f"k {k} sep {sep:.0f} h {h} T {T}: outliers {outliers(e, k)}, small {float(jnp.mean(jnp.abs(e) < 0.01 * e[0])):.3f}, above .1 {int(jnp.sum(e > 0.1 * e[0]))}, " + " ".join(f"{float(v):.2f}" for v in e[: k]))

part = time.time()
for k in [2, 4, 6]:
    for h in [10, 40]:
        e, p, x, y = rows[0, k, 2.0, h, 200]
        H, G, R = split(p, x, y)
        v = jax.random.normal(jax.random.key(1), (len(H),))
        q = hutchinson(p, x, y, jax.random.rademacher(jax.random.key(2), (200, len(H)), dtype=float))
        top = lanczos(p, x, y, v, 80)[:k]
        print(
            f"k {k} h {h}: H - H^T {jnp.abs(H - H.T).max():.1e}, products {jnp.abs(hvp(p, x, y, v) - H @ v).max():.1e}, H - G - R {jnp.abs(H - G - R).max():.1e}, "
            f"least of G {jnp.linalg.eigvalsh(G)[0]:.1e}, Hutchinson {(q.mean() - jnp.trace(H)) / (q.std() / np.sqrt(200)):.1f} standard errors, Lanczos {jnp.abs(top - e[:k]).max():.1e}"
        )
    kd, ki = jax.random.split(jax.random.key(0))
    x, y = mixture(kd, k, 2.0, 600)
    H, G, R = split(train(init(ki, [D, k]), x, y, 200), x, y)
    e = jnp.linalg.eigvalsh(H)[::-1]
    print(f"linear, k {k}: R {jnp.abs(R).max():.1e}, eigenvalues beyond the rank {jnp.abs(e[(k - 1) * (D + 1):]).max():.1e}")
print(f"exact {time.time() - part:.1f} s")
part = time.time()


@partial(jax.jit, static_argnames=("steps", "batch"))
def train_batches(p, x, y, key, steps, batch):
    per = len(x) // batch

    def epoch(p, key):
        order = jax.random.permutation(key, len(x)).reshape(per, batch)
        return jax.lax.scan(lambda p, i: (jax.tree.map(lambda w, g: w - LR * g, p, jax.grad(loss)(p, x[i], y[i])), None), p, order)[0], None

    return jax.lax.scan(epoch, p, jax.random.split(key, -(-steps // per)))[0]


for seed in range(3):
    kd, ki = jax.random.split(jax.random.key(seed))
    x, y = mixture(kd, 3, 2.0, 300)
    p = init(ki, [D, 40, 3])
    large = train(p, x, y, 8000)
    small = train_batches(p, x, y, jax.random.key(3), 8000, 10)
    line = jnp.stack([loss(jax.tree.map(lambda a, b: (1 - t) * a + t * b, large, small), x, y) for t in np.linspace(0, 1, 21)])
    dist = jnp.linalg.norm(flat(large)[0] - flat(small)[0])
    print(f"basin, seed {seed}: large {line[0]:.4f}, small {line[-1]:.4f}, most {line.max():.4f}, barrier {line.max() - max(line[0], line[-1]):.4f}, distance {dist:.2f}, from init {jnp.linalg.norm(flat(large)[0] - flat(p)[0]):.1f}")
print(f"basin {time.time() - part:.1f} s")
print(f"{time.time() - start:.1f} s in all")
