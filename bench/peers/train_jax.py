"""Training throughput, JAX: one jit call per step with donated state, and lax.scan of several steps in one call. Arguments: model names (default: all)."""
import sys
import time

import jax
import jax.numpy as jnp
import optax
from jax import lax

from common import bench, emit_training
from models_jax import MODELS, make_step

tx = optax.adamw(1e-3)
SCAN = {"mlp784": 20, "cnn": 2, "gpt": 4, "digits": 500}
for name in sys.argv[1:] or MODELS:
    params, loss, (x, y) = MODELS[name]()
    state, step = tx.init(params), make_step(loss, tx)
    count = sum(a.size for a in jax.tree.leaves(params))
    extra = dict(tokens_per_step=2048) if name == "gpt" else {}
    f = jax.jit(step, donate_argnums=(0, 1))
    box = [jax.tree.map(jnp.copy, params), tx.init(params)]
    wall, cpu = time.perf_counter(), time.process_time()
    f.lower(params, state, x, y).compile()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    calls = 50 if name == "digits" else 1

    def per_step():
        # As a user's loop would: no synchronization between the steps, only after the last.
        for _ in range(calls):
            box[0], box[1], value = f(box[0], box[1], x, y)
        jax.block_until_ready((value, box[0]))

    emit_training(f"jax-jit/{name}", bench(per_step), per=calls, params=count, compile_s=wall, compile_cpu_s=cpu, **extra)

    def many(params, state, x, y):
        def body(carry, _):
            a, b, value = step(*carry, x, y)
            return (a, b), value

        (params, state), values = lax.scan(body, (params, state), None, length=SCAN[name])
        return params, state, values

    g = jax.jit(many, donate_argnums=(0, 1))
    box = [jax.tree.map(jnp.copy, params), tx.init(params)]

    def scanned():
        box[0], box[1], values = g(box[0], box[1], x, y)
        jax.block_until_ready((values, box[0]))

    emit_training(f"jax-scan/{name}", bench(scanned, blocks=7, warm=1, force=1 if name == "cnn" else None), per=SCAN[name], **extra)
