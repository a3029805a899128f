"""The four models of the benchmarks in JAX: each is a function that returns parameters, a loss and one batch. optc's side is in ../specs."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax


def dense_init(key, inputs, outputs):
    return {"w": jax.random.normal(key, (inputs, outputs)) * (2.0 / inputs) ** 0.5, "b": jnp.zeros(outputs)}


def xent(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def mlp(sizes, batch, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    params = [dense_init(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:])]

    def loss(p, x, y):
        for layer in p[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return xent(x @ p[-1]["w"] + p[-1]["b"], y)

    r = np.random.default_rng(seed)
    return params, loss, (jnp.asarray(r.standard_normal((batch, sizes[0]), dtype=np.float32)), jnp.asarray(r.integers(0, sizes[-1], batch)))


def cnn(batch=64):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "c1": jax.random.normal(keys[0], (3, 3, 1, 32)) * 0.2, "b1": jnp.zeros(32),
        "c2": jax.random.normal(keys[1], (3, 3, 32, 64)) * 0.08, "b2": jnp.zeros(64),
        "f1": dense_init(keys[2], 12 * 12 * 64, 128), "f2": dense_init(keys[3], 128, 10),
    }

    def conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(p, x, y):
        x = jax.nn.relu(conv(x, p["c1"]) + p["b1"])
        x = jax.nn.relu(conv(x, p["c2"]) + p["b2"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").reshape(x.shape[0], -1)
        x = jax.nn.relu(x @ p["f1"]["w"] + p["f1"]["b"])
        return xent(x @ p["f2"]["w"] + p["f2"]["b"], y)

    r = np.random.default_rng(0)
    return params, loss, (jnp.asarray(r.standard_normal((batch, 28, 28, 1), dtype=np.float32)), jnp.asarray(r.integers(0, 10, batch)))


def gpt(V=65, D=128, L=4, H=4, T=128, B=16):
    keys = iter(jax.random.split(jax.random.key(0), 64))

    def normal(*shape):
        return jax.random.normal(next(keys), shape) * 0.02

    def unit():
        return {"g": jnp.ones(D), "b": jnp.zeros(D)}

    def block():
        return {"ln1": unit(), "qkv": normal(D, 3 * D), "qkvb": jnp.zeros(3 * D), "o": normal(D, D), "ob": jnp.zeros(D), "ln2": unit(),
                "f1": normal(D, 4 * D), "f1b": jnp.zeros(4 * D), "f2": normal(4 * D, D), "f2b": jnp.zeros(D)}

    params = {"wte": normal(V, D), "wpe": normal(T, D), "lnf": unit(), "head": normal(D, V), "blocks": [block() for _ in range(L)]}
    mask = jnp.tril(jnp.ones((T, T), bool))

    def norm(x, q):
        m = x.mean(-1, keepdims=True)
        v = ((x - m) ** 2).mean(-1, keepdims=True)
        return (x - m) * lax.rsqrt(v + 1e-5) * q["g"] + q["b"]

    def loss(p, x, y):
        h = p["wte"][x] + p["wpe"]
        for b in p["blocks"]:
            a = norm(h, b["ln1"]) @ b["qkv"] + b["qkvb"]
            q, k, v = [t.reshape(B, T, H, D // H).transpose(0, 2, 1, 3) for t in jnp.split(a, 3, -1)]
            s = jnp.where(mask, q @ k.transpose(0, 1, 3, 2) * (D // H) ** -0.5, -1e30)
            o = (jax.nn.softmax(s, -1) @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
            h = h + o @ b["o"] + b["ob"]
            h = h + jax.nn.gelu(norm(h, b["ln2"]) @ b["f1"] + b["f1b"]) @ b["f2"] + b["f2b"]
        return xent(norm(h, p["lnf"]) @ p["head"], y)

    r = np.random.default_rng(0)
    return params, loss, (jnp.asarray(r.integers(0, V, (B, T))), jnp.asarray(r.integers(0, V, (B, T))))


def digits_mlp():
    from sklearn.datasets import load_digits

    d = load_digits()
    params, loss, _ = mlp((64, 32, 10), 64)
    return params, loss, (jnp.asarray((d.data[:64] / 16).astype(np.float32)), jnp.asarray(d.target[:64]))


MODELS = {"mlp784": lambda: mlp((784, 256, 256, 10), 128), "cnn": cnn, "gpt": gpt, "digits": digits_mlp}


def make_step(loss, tx):
    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step
