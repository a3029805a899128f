"""The experiments of examples/systems/30-two-layer-relu-global-admm in JAX: ADMM on the convex program of a two-layer ReLU network, Adam on the network.

Prints the seconds of each part; compilation and imports count.
"""
import time

start = time.time()
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.linalg import cho_solve, cholesky

jax.config.update("jax_enable_x64", True)
BETA = 1e-3
INPUTS = np.loadtxt(Path(__file__).parents[2] / "examples/systems/30-two-layer-relu-global-admm/inputs.csv", delimiter=",")


def problem(seed):
    x = INPUTS[:, seed]
    return jnp.stack([x, np.ones(20)], 1), jnp.asarray(np.sin(4 * x) + 0.3 * np.sign(np.sin(9 * x)))


def all_patterns(X):
    x = X[:, 0]
    up = x[None] >= x[:, None]
    return jnp.concatenate([up, ~up]).astype(float)


def blocks(X, D):
    F = D[:, :, None] * X
    G = (2 * D - 1)[:, :, None] * X
    return jnp.concatenate([F, -F]), jnp.concatenate([G, G])


def objective(F, y, beta, u):
    return 0.5 * jnp.sum((jnp.einsum("pnd,pd->n", F, u) - y) ** 2) + beta * jnp.sum(jnp.linalg.norm(u, axis=1))


@partial(jax.jit, static_argnames="steps")
def admm(X, D, y, beta, rho, steps):
    F, G = blocks(X, D)
    P, n, d = F.shape
    flat = F.transpose(1, 0, 2).reshape(n, P * d)
    GtG = jnp.einsum("pq,pna,pnb->paqb", jnp.eye(P), G, G).reshape(P * d, P * d)
    L = cholesky(jnp.eye(P * d) + flat.T @ flat / rho + GtG, lower=True)
    Fy = jnp.einsum("pnd,n->pd", F, y) / rho

    def step(carry, _):
        v, s, lam, nu = carry
        u = cho_solve((L, True), (Fy + v - lam + jnp.einsum("pnd,pn->pd", G, s - nu)).ravel()).reshape(P, d)
        z = u + lam
        v = jnp.maximum(0, 1 - beta / (rho * jnp.linalg.norm(z, axis=1, keepdims=True))) * z
        Gu = jnp.einsum("pnd,pd->pn", G, u)
        s = jnp.maximum(Gu + nu, 0)
        return (v, s, lam + u - v, nu + Gu - s), (objective(F, y, beta, v), jnp.linalg.norm(u - v))

    zero = jnp.zeros((P, d)), jnp.zeros((P, n))
    (v, s, lam, nu), path = jax.lax.scan(step, (zero[0], zero[1], zero[0], zero[1]), None, length=steps)
    return v, path, jnp.max(-jnp.minimum(jnp.einsum("pnd,pd->pn", G, v), 0))


def network(v):
    size = jnp.sqrt(jnp.linalg.norm(v, axis=1))
    half = len(v) // 2
    sign = jnp.where(jnp.arange(len(v)) < half, 1.0, -1.0)
    return {"w": (v / jnp.where(size > 0, size, 1)[:, None]).T, "a": sign * size}


def risk(p, X, y, beta):
    out = jax.nn.relu(X @ p["w"]) @ p["a"]
    return 0.5 * jnp.sum((out - y) ** 2) + beta / 2 * (jnp.sum(p["w"] ** 2) + jnp.sum(p["a"] ** 2))


@partial(jax.jit, static_argnames=("width", "steps"))
@partial(jax.vmap, in_axes=(0, None, None, None, None, None))
def adam(key, X, y, width, beta, steps):
    kw, ka = jax.random.split(key)
    p = {"w": jax.random.normal(kw, (X.shape[1], width)) / np.sqrt(X.shape[1]), "a": jax.random.normal(ka, (width,)) / np.sqrt(width)}
    opt = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def step(carry, _):
        p, state = carry
        updates, state = opt.update(jax.grad(risk)(p, X, y, beta), state)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.lax.scan(step, (p, opt.init(p)), None, length=steps)
    return risk(p, X, y, beta)


@jax.jit
def lower_bound(X, D, y, r, beta):
    q = (D * r) @ X
    side = (2 * D - 1) * (q @ X.T)
    inside = jnp.all(side >= 0, 1) | jnp.all(side <= 0, 1)
    edges = jnp.stack([-X[:, 1], X[:, 0]]) / jnp.linalg.norm(X, axis=1)
    along = jnp.abs(r @ jax.nn.relu(X @ jnp.concatenate([edges, -edges], 1)))
    m = jnp.maximum(jnp.max(jnp.where(inside, jnp.linalg.norm(q, axis=1), 0)), along.max())
    c = jnp.minimum(beta / m, r @ y / (r @ r))
    return c * (r @ y) - 0.5 * c**2 * (r @ r)


@partial(jax.jit, static_argnames="steps")
def relaxed(F, y, beta, steps):
    lr = 1 / jnp.linalg.eigvalsh(jnp.einsum("pnd,pmd->nm", F, F))[-1]

    def step(carry, _):
        v, z, m = carry
        z = z - lr * jnp.einsum("pnd,n->pd", F, jnp.einsum("pnd,pd->n", F, z) - y)
        ahead = jnp.maximum(0, 1 - beta * lr / jnp.linalg.norm(z, axis=1, keepdims=True)) * z
        m_next = (1 + jnp.sqrt(1 + 4 * m**2)) / 2
        return (ahead, ahead + (m - 1) / m_next * (ahead - v), m_next), None

    zero = jnp.zeros(F.shape[::2])
    return jax.lax.scan(step, (zero, zero, 1.0), None, length=steps)[0][0]


for seed in range(3):
    X, y = problem(seed)
    D = all_patterns(X)
    t = time.time()
    v, (path, residual), violation = admm(X, D, y, BETA, 0.01, 4000)
    net = risk(network(v), X, y, BETA)
    loose = admm(X, D, y, BETA, 0.1, 4000)[1][0][-1]
    F, _ = blocks(X, D)
    far = admm(X, D, y, BETA, 0.01, 20_000)[0]
    bound = lower_bound(X, D, y, y - jnp.einsum("pnd,pd->n", F, far), BETA)
    print(f"problem {seed}: ADMM {path[-1]:.6f}, network {net:.6f}, bound {bound:.6f}, residual {residual[-1]:.1e}, violation {violation:.1e}; rho = 0.1: {loose:.6f}; {time.time() - t:.1f} s")
    t = time.time()
    for width in [4, 8, 16, 64]:
        runs = adam(jax.random.split(jax.random.key(seed), 6), X, y, width, BETA, 10_000)
        print(f"  Adam, width {width}: best {runs.min():.4f}, median {jnp.median(runs):.4f}")
    print(f"  {time.time() - t:.1f} s")

for seed in range(2):
    t = time.time()
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.standard_normal((60, 3)), np.ones((60, 1))], 1)
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]
    D = np.unique((rng.standard_normal((30, 4)) @ X.T >= 0).astype(float), axis=0)
    v, (path, _), violation = admm(X, D, y, 0.01, 0.01, 4000)
    net = risk(network(v), X, y, 0.01)
    runs = adam(jax.random.split(jax.random.key(seed), 6), X, y, 40, 0.01, 10_000)
    print(f"sampled {seed}: ADMM {path[-1]:.4f}, network {net:.4f}, violation {violation:.1e}; Adam {runs.min():.4f} to {runs.max():.4f}")
    F = blocks(X, D)[0][: len(D)]
    for beta in [0.01, 1.0]:
        print(f"  relaxed, beta = {beta}: {objective(F, y, beta, relaxed(F, y, beta, 20_000)):.4f}")
    print(f"  {time.time() - t:.1f} s")
print(f"{time.time() - start:.1f} s in all")
