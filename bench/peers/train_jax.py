"""Training throughput, JAX: one jit call per step with donated state (`jax-jit/MODEL`), and lax.scan of several steps in one call (`jax-scan/MODEL`). Arguments: patterns of these names."""
import time

import jax
import jax.numpy as jnp
import optax
from jax import lax

from common import Contender, contest, emit_training
from models_jax import MODELS, make_step

tx = optax.adamw(1e-3)
SCAN = {"mlp784": 20, "cnn": 2, "gpt": 4, "digits": 500}


def per_step(name):
    params, loss, (x, y) = MODELS[name]()
    f = jax.jit(make_step(loss, tx), donate_argnums=(0, 1))
    box, count = [params, tx.init(params)], sum(a.size for a in jax.tree.leaves(params))
    del params
    calls = 50 if name == "digits" else 1

    def run():
        # As a user's loop would: no synchronization between the steps, only after the last.
        for _ in range(calls):
            box[0], box[1], value = f(box[0], box[1], x, y)
        jax.block_until_ready((value, box[0]))

    start = time.perf_counter()
    run()
    return Contender(run, calls, dict(params=count, first_call_s=time.perf_counter() - start))


def scanned(name):
    params, loss, (x, y) = MODELS[name]()
    step = make_step(loss, tx)

    def many(params, state, x, y):
        def body(carry, _):
            a, b, value = step(*carry, x, y)
            return (a, b), value

        (params, state), values = lax.scan(body, (params, state), None, length=SCAN[name])
        return params, state, values

    g = jax.jit(many, donate_argnums=(0, 1))
    box = [params, tx.init(params)]
    del params

    def run():
        box[0], box[1], values = g(box[0], box[1], x, y)
        jax.block_until_ready((values, box[0]))

    run()
    return Contender(run, SCAN[name])


def report(name, timing, contender):
    extra = dict(tokens_per_step=2048) if name.endswith("/gpt") else {}
    emit_training(name, timing, per=contender.per, **contender.facts, **extra)


cases = {}
for model in MODELS:
    cases[f"jax-jit/{model}"] = lambda model=model: per_step(model)
    cases[f"jax-scan/{model}"] = lambda model=model: scanned(model)
contest(cases, report)
