"""The optimizer step alone, JAX and Optax with donated buffers, on one tensor, on 100, on 1000 and on matrices. Arguments: patterns of names (`jax/adamw/one`, `jax/lion/*`)."""
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import Contender, contest, emit_optimizer, leaf_shapes

N = int(os.environ.get("N", 50_000_000))
b1, b2, lr, wd, eps = 0.9, 0.999, 1e-3, 1e-2, 1e-8


def make(layout):
    rng = np.random.default_rng(0)

    def draw():
        return [jnp.asarray(rng.standard_normal(s, dtype=np.float32)) for s in leaf_shapes(layout, N)]

    return draw(), draw()


def stepped(tx, layout):
    params, grads = make(layout)
    # States that begin as the weights (Prodigy) share their buffers, which cannot be given away twice.
    state = jax.tree.map(jnp.copy, tx.init(params))

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    f = jax.jit(step, donate_argnums=(0, 1))
    box = [params, state]
    del params, state

    def run():
        box[:] = f(box[0], box[1], grads)
        jax.block_until_ready(box)

    start = time.perf_counter()
    run()
    return Contender(run, facts=dict(first_call_s=time.perf_counter() - start))


def handwritten_adamw():
    """AdamW as one expression per leaf, with the bias corrections as factors: what XLA fuses best."""

    def init(p):
        return jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), jnp.zeros((), jnp.float32)

    def update(g, state, p):
        m, v, t = state
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
        c1, c2 = 1 / (1 - b1**t), 1 / (1 - b2**t)
        return jax.tree.map(lambda p, m, v: -lr * (m * c1 / (jnp.sqrt(v * c2) + eps) + wd * p), p, m, v), (m, v, t)

    return optax.GradientTransformation(init, update)


RULES = {
    "adamw": (optax.adamw(lr, weight_decay=wd), 28),
    "adamw_handwritten": (handwritten_adamw(), 28),
    "sgdm": (optax.sgd(lr, momentum=0.9), 20),
    "lion": (optax.lion(1e-4, weight_decay=wd), 20),
    "clip+adamw": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr, weight_decay=wd)), 32),
    "sgd": (optax.sgd(lr), 12),
    "nesterov": (optax.sgd(lr, momentum=0.9, nesterov=True), 20),
    "adagrad": (optax.adagrad(lr), 20),
    "adadelta": (optax.adadelta(lr), 28),
    "rmsprop": (optax.rmsprop(lr), 20),
    "adam": (optax.adam(lr), 28),
    "amsgrad": (optax.amsgrad(lr), 36),
    "adamax": (optax.adamax(lr), 28),
    "nadam": (optax.nadam(lr), 28),
    "radam": (optax.radam(lr), 28),
    "adabelief": (optax.adabelief(lr), 28),
    "yogi": (optax.yogi(lr), 28),
    "adan": (optax.adan(lr), 44),
    "signum": (optax.signum(lr), 20),
    "lamb": (optax.lamb(lr), None),
    "lars": (optax.lars(lr), None),
    "novograd": (optax.novograd(lr), None),
    "adafactor": (optax.adafactor(lr), None),
    "sm3": (optax.sm3(lr), None),
    "ademamix": (optax.contrib.ademamix(lr), 36),
    "adopt": (optax.contrib.adopt(lr), 28),
    "prodigy": (optax.contrib.prodigy(1.0), None),
    "dadapt_adam": (optax.contrib.dadapt_adamw(1.0), None),
    "schedule_free_adamw": (optax.contrib.schedule_free_adamw(lr), None),
    "muon": (optax.contrib.muon(lr), None),
    "adamw-bf16": (optax.adamw(lr, weight_decay=wd, mu_dtype=jnp.bfloat16), None),
}
LAYOUTS = ["one", "100x", "1000x", "4x512x512"]


def report(name, timing, contender):
    emit_optimizer(name, timing, RULES[name.split("/")[1]][1], N, **contender.facts)


contest({f"jax/{rule}/{layout}": lambda tx=tx, layout=layout: stepped(tx, layout) for layout in LAYOUTS for rule, (tx, _) in RULES.items()}, report)
