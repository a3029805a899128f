"""A real training script of JAX with `optax.adamw` and with the transformation that `optc build --emit jax` writes in its place.

    VENV/bin/python bench/optax_swap.py --optc target/release/optc [--steps 300] [--rounds 3] [--markdown]

A perceptron on the digits, one jitted and donated training step with `optax.chain(clip_by_global_norm, adamw)` and a schedule; a training step of one large layer, whose update is most of it; and the update
alone on 20 million parameters, with a gradient that comes from outside. Contenders take turns. With `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the environment the arrays that XLA makes
anew in every call lie behind large pages.
"""

import argparse
import importlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optc", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    for rule in ("adamw", "lion"):
        subprocess.run([args.optc, "build", "--optimizer", rule, "--emit", "jax", "-o", folder], check=True, stdout=subprocess.DEVNULL)
    sys.path.insert(0, folder)
    modules = {rule: importlib.import_module(f"{rule}_optax") for rule in ("adamw", "lion")}
    adamw, lion = modules["adamw"].adamw, modules["lion"].lion

    table = np.loadtxt(ROOT / "examples/data/digits.csv", delimiter=",", dtype=np.float32)
    x, y = jnp.asarray(table[:, :64] / 16), jnp.asarray(table[:, 64], jnp.int32)
    draw = np.random.RandomState(0)
    sizes = [64, 512, 512, 10]
    start = [{"w": draw.randn(a, b).astype(np.float32) * a**-0.5, "b": np.zeros(b, np.float32)} for a, b in zip(sizes, sizes[1:])]

    def loss(params, x, y):
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        logits = x @ params[-1]["w"] + params[-1]["b"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    schedule = optax.warmup_cosine_decay_schedule(0, 1e-3, 50, args.steps)
    contenders = {
        "optax": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01)),
        "optc": optax.chain(optax.clip_by_global_norm(1.0), adamw(schedule, weight_decay=0.01)),
        "optc, written out": optax.chain(optax.clip_by_global_norm(1.0), adamw(schedule, weight_decay=0.01, native=False)),
    }
    compiled = {}
    for name, tx in contenders.items():

        def step(params, state, k, tx=tx):
            rows = (jnp.arange(64) + 64 * k) % len(x)
            value, gradients = jax.value_and_grad(loss)(params, x[rows], y[rows])
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        compiled[name] = jax.jit(step, donate_argnums=(0, 1))
    curves, times = {}, {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, tx in contenders.items():
            params = jax.tree.map(jnp.array, start)
            state = tx.init(params)
            curve = []
            for k in range(args.steps):
                begin = time.perf_counter()
                params, state, value = compiled[name](params, state, k)
                value.block_until_ready()
                if k >= 5:
                    times[name].append(time.perf_counter() - begin)
                curve.append(float(value))
            curves[name] = curve
    rows = []
    for name in contenders:
        apart = max(abs(a - b) for a, b in zip(curves[name], curves["optax"]))
        rows.append((f"{name}: training step, digits", curves[name][-1], apart, 1e3 * statistics.median(times[name])))

    side, batch = 4472, 8
    x, y = (jnp.asarray(draw.randn(batch, side).astype(np.float32)) for _ in range(2))

    def of_layer(w, x, y):
        return jnp.mean(jnp.square(x @ w - y))

    for rule, pair in {"adamw": (optax.adamw(1e-3), adamw(1e-3)), "lion": (optax.lion(1e-4), lion(1e-4))}.items():
        whole = getattr(modules[rule], f"{rule}_step")(1e-3 if rule == "adamw" else 1e-4)
        made = {}
        for name, tx in (*zip(("optax", "optc"), pair), ("optc, whole step", None)):

            def update(w, state, x, y, tx=tx, whole=whole):
                slope = jax.grad(of_layer)(w, x, y)
                if tx is None:
                    return whole(w, slope, state)
                updates, state = tx.update(slope, state, w)
                return optax.apply_updates(w, updates), state

            w = jnp.zeros((side, side))
            made[name] = [jax.jit(update, donate_argnums=(0, 1)), w, (tx or pair[1]).init(w), []]
        for _ in range(4 * args.rounds):
            for name, entry in made.items():
                for _ in range(3):
                    begin = time.perf_counter()
                    entry[1], entry[2] = entry[0](entry[1], entry[2], x, y)
                    jax.block_until_ready(entry[1])
                    entry[3].append(time.perf_counter() - begin)
        for name, entry in made.items():
            apart = float(jnp.max(jnp.abs(made["optax"][1] - entry[1])))
            rows.append((f"{name}: training step, a layer of 20 M, {rule}", float(of_layer(entry[1], x, y)), apart, 1e3 * statistics.median(entry[3][3:])))

    n = 20_000_000
    gradient = jnp.asarray(draw.randn(n).astype(np.float32))
    for rule, pair in {"adamw": (optax.adamw(1e-3), adamw(1e-3)), "lion": (optax.lion(1e-4), lion(1e-4))}.items():
        made = {}
        for name, tx in zip(("optax", "optc"), pair):

            def update(params, state, gradient, tx=tx):
                updates, state = tx.update(gradient, state, params)
                return optax.apply_updates(params, updates), state

            params = jnp.ones(n)
            made[name] = [jax.jit(update, donate_argnums=(0, 1)), params, tx.init(params), []]
        whole = getattr(modules[rule], f"{rule}_step")(1e-3 if rule == "adamw" else 1e-4)
        params = jnp.ones(n)
        made["optc, whole step"] = [jax.jit(lambda p, s, g, whole=whole: whole(p, g, s), donate_argnums=(0, 1)), params, pair[1].init(params), []]
        for _ in range(4 * args.rounds):
            for name, entry in made.items():
                for _ in range(3):
                    begin = time.perf_counter()
                    entry[1], entry[2] = entry[0](entry[1], entry[2], gradient)
                    jax.block_until_ready(entry[1])
                    entry[3].append(time.perf_counter() - begin)
        apart = float(jnp.max(jnp.abs(made["optax"][1] - made["optc"][1])))
        for name, entry in made.items():
            rows.append((f"{name}: {rule} alone on 20 M", float("nan"), apart if name != "optax" else 0.0, 1e3 * statistics.median(entry[3][3:])))
    head = ["what", "last loss", "most apart from Optax", "ms"]
    if args.markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for what, last, apart, ms in rows:
        cells = [what, "" if last != last else f"{last:.6f}", f"{apart:.1e}", f"{ms:.2f}"]
        print("| " + " | ".join(cells) + " |" if args.markdown else "  ".join(c.ljust(32) for c in cells))


if __name__ == "__main__":
    main()
