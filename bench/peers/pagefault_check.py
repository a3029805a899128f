"""Why Lion and clipping in JAX and foreach in torch are slow on one tensor of 50 M: user and system time and minor page faults per step.
Argument: jax-lion | jax-adamw | jax-clip+adamw | torch-fused | torch-foreach."""
import resource
import sys

from common import emit

N, K, which = 50_000_000, 10, sys.argv[1]
if which.startswith("jax"):
    import jax
    import jax.numpy as jnp
    import optax

    tx = {
        "jax-lion": optax.lion(1e-4),
        "jax-adamw": optax.adamw(1e-3),
        "jax-clip+adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    }[which]
    params = jnp.ones(N)
    grads, state = params * 0.3, tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    f = jax.jit(step, donate_argnums=(0, 1))
    box = [params, state]
    del params, state

    def once():
        box[:] = f(box[0], box[1], grads)
        jax.block_until_ready(box)
else:
    import torch

    torch.set_num_threads(1)
    p = torch.nn.Parameter(torch.ones(N))
    p.grad = torch.ones(N)
    once = torch.optim.AdamW([p], foreach=which == "torch-foreach", fused=which == "torch-fused").step
for _ in range(3):
    once()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(K):
    once()
after = resource.getrusage(resource.RUSAGE_SELF)
emit("x-pagefault", which, user_ms=(after.ru_utime - before.ru_utime) / K * 1e3, sys_ms=(after.ru_stime - before.ru_stime) / K * 1e3,
     minflt=(after.ru_minflt - before.ru_minflt) / K)
