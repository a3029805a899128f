"""Update rules that Optax lacks, written as Optax transformations: AdamP, and the average of a rule's weights."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


def adamp(lr, b1=0.9, b2=0.999, eps=1e-8, wd=0.0, delta=0.1, ratio=0.1):
    """The authors' code (clovaai/AdamP, adamp.py) with the output channel as the last axis."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, zeros, jnp.zeros((), jnp.int32)

    def project(p, g, u):
        def view(axes):
            along = jnp.abs(jnp.sum(g * p, axes, keepdims=True))
            lengths = jnp.sqrt(jnp.sum(g * g, axes, keepdims=True)) * jnp.sqrt(jnp.sum(p * p, axes, keepdims=True))
            cosine = (along / jnp.maximum(lengths, eps)).max()
            row = np.prod([p.shape[i] for i in axes])
            unit = p / (jnp.sqrt(jnp.sum(p * p, axes, keepdims=True)) + eps)
            return cosine < delta / np.sqrt(row), u - unit * jnp.sum(unit * u, axes, keepdims=True)

        hit, by_channel = view(tuple(range(p.ndim - 1)))
        all_hit, by_leaf = view(tuple(range(p.ndim)))
        return jnp.where(hit, by_channel, jnp.where(all_hit, by_leaf, u)), jnp.where(hit | all_hit, ratio, 1.0)

    def update(grads, state, params):
        m, v, t = state
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, grads)

        def leaf(p, g, m, v):
            u, r = m / (jnp.sqrt(v) / jnp.sqrt(1 - b2 ** t.astype(p.dtype)) + eps), 1.0
            if p.ndim > 1:
                u, r = project(p, g, u)
            return (-lr * wd * r * p - lr / (1 - b1 ** t.astype(p.dtype)) * u).astype(p.dtype)

        return jax.tree.map(leaf, params, grads, m, v), (m, v, t)

    return optax.GradientTransformation(init, update)


class Averaged(NamedTuple):
    """The state of `averaged`: that of the rule, the average of the weights, the number of steps."""

    rule: Any
    weights: Any
    count: Any


def averaged(rule, decay):
    """A rule whose weights are averaged by Optax's `incremental_update`, from the initial weights on; `decay` is a function of the step, counted from 1."""

    def init(params):
        return Averaged(rule.init(params), params, jnp.zeros((), jnp.int32))

    def update(grads, state, params):
        updates, inner = rule.update(grads, state.rule, params)
        t = state.count + 1
        new = optax.apply_updates(params, updates)
        return updates, Averaged(inner, optax.incremental_update(new, state.weights, 1 - decay(t)), t)

    return optax.GradientTransformation(init, update)
