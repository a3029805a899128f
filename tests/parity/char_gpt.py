#!/usr/bin/env python3
"""Trains `small` of examples/char_gpt.opt with optc and with JAX and Optax, from the same initial weights on the same batches, and prints both loss curves.

    cargo build --release
    VENV/bin/python tests/parity/char_gpt.py [--steps 1200] [--seed 0] [--f64]      (VENV: the environment of bench/peers/setup.sh)

optc saves its initial weights and its losses; the split and the batches are drawn here again, from the generator optc uses. Nothing else is shared: the model is written in JAX
(`models.py`), the optimizer is Optax's. `--f64` trains a third time, in JAX in f64, which shows how far rounding alone carries a run. The exit status is 1 if a bound below is exceeded.
"""
import argparse
import os
import subprocess
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import joined, permutation, rise, train, transformer

jax.config.update("jax_enable_x64", True)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OPTC = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "optc")
TEXT = os.path.join(ROOT, "examples", "data", "shakespeare.txt")
# What `small` of examples/char_gpt.opt says.
CONTEXT, BATCH, DEPTH, HEADS, WARMUP, PEAK = 64, 16, 2, 4, 100, 3e-3
# The first losses agree within EARLY; the mean of the last 50 losses and the validation loss within LATE.
EARLY_STEPS, EARLY, LATE = 20, 1e-5, 1e-3

SPEC = """\
import "{example}"

experiment compare {{
  let start = run small with {{ steps = 0, seed = {seed} }}
  save "{folder}/start.npz", start.net.params
  let r = run small with {{ steps = {steps}, seed = {seed} }}
  save "{folder}/loss.npy", r.loss
  save "{folder}/validation.npy", [r.validation.last]
}}
"""


def optc(steps, seed):
    """Initial weights, losses and the last validation loss of optc."""
    with tempfile.TemporaryDirectory() as folder:
        spec = os.path.join(folder, "compare.opt")
        with open(spec, "w") as f:
            f.write(SPEC.format(example=os.path.join(ROOT, "examples", "char_gpt.opt"), folder=folder, steps=steps, seed=seed))
        subprocess.run([OPTC, "run", spec, "compare", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        load = lambda name: np.load(os.path.join(folder, name))
        return dict(load("start.npz")), load("loss.npy").astype(np.float64), float(load("validation.npy")[0])


def passages():
    """The text in passages of CONTEXT characters with their targets, split as the example does: training, validation."""
    with open(TEXT, newline="") as f:
        chars = f.read()
    vocabulary = sorted(set(chars))
    ids = np.array([vocabulary.index(c) for c in chars], np.int32)
    n = (len(ids) - 1) // CONTEXT
    x, y = ids[:n * CONTEXT].reshape(n, CONTEXT), ids[1:n * CONTEXT + 1].reshape(n, CONTEXT)
    order, cut = permutation(n, 0), int(n * 0.9 + 0.5)
    return [(x[rows], y[rows]) for rows in (order[:cut], order[cut:])]


def batches(data, steps, seed):
    x, y = data
    per_epoch = len(x) // BATCH
    for k in range(steps):
        if k % per_epoch == 0:
            order = permutation(len(x), seed, k // per_epoch)
        rows = order[k % per_epoch * BATCH:][:BATCH]
        yield x[rows], y[rows]


def jax_run(start, steps, seed, dtype):
    """Losses and the last validation loss of JAX."""
    training, (x, y) = passages()
    loss = transformer(HEADS, DEPTH, "transformer_block.{}", "layer_norm", "projection")
    # The schedule of the example is made for as many steps as it says, whatever `steps` is here.
    rate = joined((0, rise(PEAK, WARMUP)), (WARMUP, optax.cosine_decay_schedule(PEAK, 1200 - WARMUP)))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.1))
    with jax.enable_x64(dtype == np.float64):
        params, (losses, _) = train(loss, {k: jnp.asarray(v, dtype) for k, v in start.items()}, batches(training, steps, seed), tx)
        return losses, float(jax.jit(loss)(params, x, y))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=1200)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f64", action="store_true", help="train a third time, in JAX in f64")
    args = p.parse_args()
    start, losses, validation = optc(args.steps, args.seed)
    runs = {"optc": (losses, validation), "JAX": jax_run(start, args.steps, args.seed, np.float32)}
    if args.f64:
        runs["JAX in f64"] = jax_run(start, args.steps, args.seed, np.float64)
    print(f"examples/char_gpt.opt, `small`, seed {args.seed}, {args.steps} steps; {sum(v.size for v in start.values()):,} parameters; JAX {jax.__version__}, Optax {optax.__version__}\n")
    print("| step | " + " | ".join(runs) + " | optc less JAX |")
    print("|---" * (len(runs) + 2) + "|")
    row = lambda name, values: print(f"| {name} | " + " | ".join(f"{v:.6f}" for v in values) + f" | {values[0] - values[1]:+.1e} |")
    for step in [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 400, 600, 800, 1000, 1200) if k <= args.steps]:
        row(step, [l[step - 1] for l, _ in runs.values()])
    level = [l[-50:].mean() for l, _ in runs.values()]
    row("mean of the last 50", level)
    row("validation", [v for _, v in runs.values()])
    early = np.abs(runs["optc"][0] - runs["JAX"][0])[:EARLY_STEPS].max()
    late = max(abs(level[0] - level[1]), abs(validation - runs["JAX"][1]))
    good = early <= EARLY and late <= LATE
    print(f"\nlargest difference of the first {EARLY_STEPS} losses {early:.1e} (bound {EARLY:.0e}), of the levels at the end {late:.1e} (bound {LATE}): {'agree' if good else 'DISAGREE'}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
