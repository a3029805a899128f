"""Loops that a researcher writes, each one jitted function: the computations of bench/specs/loops.opt.

    loops_jax.py NAME            one row: milliseconds to the first result in this process, imports not counted, and the numbers that it gave
    loops_jax.py --serve NAME…   takes turns (peers/common.py)
"""
import json
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

import common


def scattered(n, m):
    i, j = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    return np.sin((i * m + j + 1).astype(np.float64) * 12.9898 + (i * j).astype(np.float64) * 78.233)


def positive(n):
    a = scattered(n, n)
    return a @ a.T / n + np.eye(n)


def weights(sizes):
    return [{"w": (scattered(a, b).astype(np.float32) * math.sqrt(2 / a)).astype(np.float32), "b": np.zeros(b, np.float32)} for a, b in zip(sizes, sizes[1:])]


def mlp(layers, x):
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return (x @ layers[-1]["w"] + layers[-1]["b"])[:, 0]


def trained(x, p, lr, steps):
    y = jnp.sum(x, axis=1)
    rule = optax.adam(lr)
    loss = lambda p: jnp.mean((mlp(p, x) - y) ** 2)

    def step(carry, _):
        p, s = carry
        value, g = jax.value_and_grad(loss)(p)
        u, s = rule.update(g, s, p)
        return (optax.apply_updates(p, u), s), value

    return jax.lax.scan(step, (p, rule.init(p)), None, length=steps)[1][-1]


def adam_loop(x, p):
    return trained(x, p, 1e-3, 2000)


def population(x, p, rates):
    return jax.vmap(lambda lr: trained(x, p, lr, 500))(rates)


def lanczos_loop(a, v):
    def step(j, carry):
        basis, q, alphas = carry
        basis = basis.at[j].set(q)
        w = a @ q
        r = w - basis.T @ (basis @ w)
        r = r - basis.T @ (basis @ r)
        beta = jnp.linalg.norm(r)
        return basis, r / beta, alphas.at[j].set(q @ w)

    return jax.lax.fori_loop(0, 60, step, (jnp.zeros((60, len(v))), v / jnp.linalg.norm(v), jnp.zeros(60)))[2]


def cg_loop(a, b):
    def go(carry):
        i, _, _, _, rr = carry
        return (i < 500) & (rr > 1e-20 * (b @ b))

    def step(carry):
        i, x, r, p, rr = carry
        ap = a @ p
        c = rr / (p @ ap)
        x, r = x + c * p, r - c * ap
        new = r @ r
        return i + 1, x, r, r + new / rr * p, new

    return jax.lax.while_loop(go, step, (0, jnp.zeros_like(b), b, b, b @ b))[1]


def newton_loop(x):
    y = jnp.where(jnp.sum(x[:, :5], axis=1) > 0, 1.0, -1.0)
    f = lambda w: jnp.mean(jax.nn.softplus(-y * (x @ w))) + 0.005 * (w @ w)
    return jax.lax.fori_loop(0, 12, lambda _, w: w - jnp.linalg.solve(jax.hessian(f)(w), jax.grad(f)(w)), jnp.zeros(x.shape[1]))


def admm_loop(x):
    rho, penalty, d = 1.0, 4.0, x.shape[1]
    y = jnp.sum(x[:, :5], axis=1)
    l = jnp.linalg.cholesky(x.T @ x + rho * jnp.eye(d))
    q = x.T @ y

    def step(_, carry):
        z, u = carry
        v = jax.scipy.linalg.cho_solve((l, True), q + rho * (z - u))
        z = jnp.sign(v + u) * jnp.maximum(jnp.abs(v + u) - penalty / rho, 0)
        return z, u + v - z

    return jax.lax.fori_loop(0, 1000, step, (jnp.zeros(d), jnp.zeros(d)))[0]


def small(n, m):
    return scattered(n, m).astype(np.float32)


CASES = {
    "adam_loop": lambda: (adam_loop, (small(128, 8), weights([8, 32, 32, 1]))),
    "population": lambda: (population, (small(64, 8), weights([8, 16, 1]), (np.exp2(np.arange(32) * -0.25) * 0.01).astype(np.float32))),
    "lanczos_loop": lambda: (lanczos_loop, (positive(400), scattered(1, 400)[0])),
    "cg_loop": lambda: (cg_loop, (positive(500), scattered(1, 500)[0])),
    "newton_loop": lambda: (newton_loop, (scattered(500, 30),)),
    "admm_loop": lambda: (admm_loop, (scattered(200, 100),)),
}


def prepared(name):
    f, args = CASES[name]()
    args = jax.device_put(args)
    jax.block_until_ready(args)
    return jax.jit(f), args


def contender(name):
    f, args = prepared(name)
    f(*args).block_until_ready()
    return common.Contender(lambda: f(*args).block_until_ready())


def first(name):
    f, args = prepared(name)
    start = time.perf_counter()
    value = np.asarray(f(*args))
    ms = (time.perf_counter() - start) * 1e3
    print(json.dumps({"name": name, "first_ms": ms, "sum": float(value.sum()), "first": float(value.ravel()[0]), "last": float(value.ravel()[-1])}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in CASES:
        first(sys.argv[1])
    else:
        common.contest({name: lambda name=name: contender(name) for name in CASES}, lambda name, r, c: common.emit("loops", name, ms=r["med"] * 1e3))
