"""Models, training loop and random permutations shared by the scripts of this folder: the same computations as the `.opt` side makes, in JAX and NumPy."""
import jax
import jax.numpy as jnp
import numpy as np
import optax


def pattern(shape, salt, scale):
    """Weights both sides can make exactly: integers modulo 251, shifted and scaled. Integers, so no rounding; squares, so no low rank."""
    i = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    h = (i * i % 251 * 7 + i * 31 + salt) % 251
    return ((h.astype(np.float32) - np.float32(125)) / np.float32(125) * np.float32(scale)).reshape(shape).astype(np.float32)


def xent(z, y):
    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


def layer_norm(x, scale, bias):
    d = x - x.mean(-1, keepdims=True)
    return d * jax.lax.rsqrt((d * d).mean(-1, keepdims=True) + 1e-5) * scale + bias


def transformer(heads, depth, block, norm, head):
    """The loss of the character transformer, `loss(p, ids, targets)`, over a dictionary of leaves.

    Leaves are named as optc names them; `block` (a path with `{}` for the number of the block), `norm` and `head` are how the paths of blocks, of the last normalization and of the
    last matrix begin, and the two matrices of attention are found with or without `attention.` in front."""

    def loss(p, x, y):
        batch, length = x.shape
        h = p["tok"][x] + p["pos"]
        width = h.shape[-1] // heads
        causal = jnp.tril(jnp.ones((length, length), bool))
        for b in range(depth):
            at = block.format(b)
            q = lambda k: p[f"{at}.{k}"] if f"{at}.{k}" in p else p[f"{at}.attention.{k}"]
            a = layer_norm(h, q("norm1.scale"), q("norm1.bias")) @ q("qkv.w") + q("qkv.b")
            qq, kk, vv = [t.reshape(batch, length, heads, width).transpose(0, 2, 1, 3) for t in jnp.split(a, 3, -1)]
            s = jnp.where(causal, qq @ kk.transpose(0, 1, 3, 2) / np.sqrt(width).astype(h.dtype), -jnp.inf)
            o = (jax.nn.softmax(s, -1) @ vv).transpose(0, 2, 1, 3).reshape(h.shape)
            h = h + o @ q("out.w") + q("out.b")
            m = jax.nn.gelu(layer_norm(h, q("norm2.scale"), q("norm2.bias")) @ q("up.w") + q("up.b"), approximate=True)
            h = h + m @ q("down.w") + q("down.b")
        return xent(layer_norm(h, p[f"{norm}.scale"], p[f"{norm}.bias"]) @ p[f"{head}.w"], y)

    return loss


def train(loss, params, batches, tx):
    """Trains on the batches in turn: the last parameters, and per step loss and norm of the gradient, `[2, steps]`."""
    state, out = tx.init(params), []

    @jax.jit
    def step(params, state, x, y):
        value, g = jax.value_and_grad(loss)(params, x, y)
        u, state = tx.update(g, state, params)
        return optax.apply_updates(params, u), state, value, optax.global_norm(g)

    for x, y in batches:
        params, state, value, norm = step(params, state, jnp.asarray(x), jnp.asarray(y))
        out.append((value, norm))
    return params, np.array(out, np.float64).T


def rise(peak, warmup):
    """(step + 1) / warmup of the peak: Optax's linear schedule, one step earlier."""
    return optax.linear_schedule(peak / warmup, peak, warmup - 1)


def joined(*parts):
    """Schedules one after another, from `(first step, schedule)`."""
    return optax.join_schedules([s for _, s in parts], [b for b, _ in parts[1:]])


def philox(key, counter):
    """Philox 4x32-10 (Salmon et al. 2011) for arrays of counters `[..., 4]`: four words each."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = [counter[..., i].astype(np.uint64) for i in range(4)]
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], -1)


def permutation(n, seed, epoch=None):
    """How optc orders `n` examples (`runtime/train/src/split.rs`): for a split (no epoch), or for the batches of an epoch."""
    blocks = (n + 2) // 4
    counter = np.zeros((blocks, 4), np.uint64)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1:] = [0, 0, 2] if epoch is None else [epoch & 0xFFFFFFFF, epoch >> 32, 3]
    words = philox((seed & 0xFFFFFFFF, seed >> 32), counter).reshape(-1)
    order = list(range(n))
    for k, i in enumerate(range(n - 1, 0, -1)):
        j = int(words[k]) * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return np.array(order)
