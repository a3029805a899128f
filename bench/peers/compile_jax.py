"""Time to the first step, JAX, in a fresh process; a trivial operation runs first, so that starting the back end is not counted.
Argument: adamw1 | mlp784 | gpt | cnn | digits."""
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax

from common import emit
from models_jax import MODELS, make_step

name = sys.argv[1]
tx = optax.adamw(1e-3)
jax.block_until_ready(jax.jit(lambda x: x * 2)(jnp.ones(3)))
if name == "adamw1":
    params = jnp.ones(1_000_000)

    def step(params, state, grads, _):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    args = params, tx.init(params), params * 0.1, 0
else:
    params, loss, (x, y) = MODELS[name]()
    step, args = make_step(loss, tx), (params, tx.init(params), x, y)
jax.block_until_ready(args)


def timed(f):
    wall, cpu = time.perf_counter(), time.process_time()
    value = f()
    return value, time.perf_counter() - wall, time.process_time() - cpu


fresh = jax.jit(lambda *a: step(*a))
_, first, first_cpu = timed(lambda: jax.block_until_ready(fresh(*args)))
steady = statistics.median(timed(lambda: jax.block_until_ready(fresh(*args)))[1] for _ in range(5))
# Stage by stage, another time; what JAX remembers of the first is in its favor.
traced, _, c0 = timed(lambda: jax.jit(step).trace(*args))
lowered, lower_s, c1 = timed(traced.lower)
_, compile_s, c2 = timed(lowered.compile)
emit("2-compile", f"jax/{name}", first_ms=first * 1e3, first_minus_steady_ms=(first - steady) * 1e3, aot_total_cpu_ms=(c0 + c1 + c2) * 1e3, lower_ms=lower_s * 1e3,
     compile_ms=compile_s * 1e3, first_cpu_ms=first_cpu * 1e3)
