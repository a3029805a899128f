"""Writes `data/line_search.npz`: steps of Optax's L-BFGS and line searches in f64, which `line_search.opt` compares with."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402

STEPS = 25


def rosenbrock(p):
    x = jnp.concatenate([p["a"], p["b"]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def logistic_data():
    """Rows and labels from a formula in integers, the same on both sides."""
    i = np.arange(60)[:, None]
    j = np.arange(5)[None, :]
    x = ((i * 37 + j * 61 + i * j * 17) % 101) / 50.0 - 1.0
    y = ((i[:, 0] * 53) % 97 > 48).astype(np.float64)
    return x, y


def logistic(p):
    x, y = logistic_data()
    z = x @ p["w"] + p["c"]
    return jnp.mean(jax.nn.softplus(z) - y * z) + 0.05 * jnp.sum(p["w"] ** 2)


def walk(solver, f, p, steps):
    """The parameters after each step, flat, the first row before all."""
    state = solver.init(p)
    value_and_grad = jax.jit(jax.value_and_grad(f))

    @jax.jit
    def step(p, state):
        value, grad = value_and_grad(p)
        updates, state = solver.update(grad, state, p, value=value, grad=grad, value_fn=f)
        return optax.apply_updates(p, updates), state

    rows = []
    for _ in range(steps):
        rows.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p)]))
        p, state = step(p, state)
    rows.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p)]))
    return np.stack(rows)


def main():
    folder = Path(__file__).parent / "data"
    hill = {"a": jnp.array([-1.2, 1.0, 0.5]), "b": jnp.array([-0.7, 0.3, 1.4])}
    plane = {"c": jnp.array(0.5), "w": jnp.array([1.0, -2.0, 0.0, 3.0, -1.0])}
    descent = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=30))
    zoomed = optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one"))
    armijo = optax.chain(
        optax.scale_by_lbfgs(memory_size=4), optax.scale(-1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=30)
    )
    solvers = {"lbfgs": optax.lbfgs(), "backtracking": descent, "wolfe": zoomed, "lbfgs_armijo": armijo}
    out = {}
    for name, solver in solvers.items():
        out[f"rosenbrock_{name}"] = walk(solver, rosenbrock, hill, STEPS)
        out[f"logistic_{name}"] = walk(solver, logistic, plane, STEPS)
    for name, rows in out.items():
        print(name, rows.shape, rows[-1], file=sys.stderr)
    np.savez(folder / "line_search.npz", **out)


if __name__ == "__main__":
    main()
