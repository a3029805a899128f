#!/usr/bin/env python3
"""Time and memory of compiling against the size of the graph.

    cargo build --release
    python3 bench/compile_growth.py [--rounds 3] [--families mlp,gpt] [--largest 20000] [--json FILE] [--check]

Each family is a training whose graph grows with one number. Per size, optc runs in a fresh process, pinned to one core, up to its first step. `CPU ms` is the user and system time of the
whole process, which does not depend on what else runs; the stages are wall times (`initialize` compiles and draws the initial values). The table gives the round with the least CPU time, the
peak memory of the process, and the exponent k of the fit `time ~ nodes^k` over the sizes of at least 1,000 nodes: 1 is linear. With --check the exit status is 1 if a family needs more than
a second for 10,000 nodes or grows faster than nodes^1.15. Needs no Python package.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OPTC = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "optc")
STAGES = ["load_and_check", "lower", "initialize", "simplify", "plan", "codegen"]
LIMIT_MS, LIMIT_EXPONENT, SIZE = 1000.0, 1.15, 10_000

SPEC = """\
import std.optim.{{adamw, clip_by_global_norm, sgd}}
import std.nn.{{linear, transformer_block}}
import std.loss.mse

data noise {{
  x = generate(4) {{ i -> random.normal([{shape}]) }}
}}

{model}

train grow {{
  data      noise, batch = 4
  model     net = net()
  loss      mse(net(x), x)
  optimizer {optimizer}
  steps     1
  seed      0
}}
"""

DEEP = """\
model net(x: f32[B, {dims}], depth: int = 4) -> f32[B, {dims}] {{
  var h = x
  for i in 0..depth {{ h <- {turn} }}
  h
}}"""
# Per family: what grows, shape of an example, the model, the optimizer, nodes that one more turn adds (about).
FAMILIES = {
    "mlp": ("layers of a perceptron, AdamW", "8", DEEP.format(dims="D", turn="relu(linear(h, D))"), "adamw(lr = 1e-3)", 49),
    "gpt": ("transformer blocks, clipping and AdamW", "6, 8", DEEP.format(dims="T, D", turn="transformer_block(h, 2)"), "clip_by_global_norm(1.0) |> adamw(lr = 1e-3)", 458),
    "chain": ("elementwise operations in a row, each with a parameter", "8", "layer turn(h: f32[B, D], x: f32[B, D]) -> f32[B, D] {\n  param w: f32[D] = 0.5\n  tanh(h * w) + x\n}\n\n"
              + DEEP.format(dims="D", turn="turn(h, x)"), "sgd(lr = 0.1)", 13),
    "wide": ("independent branches that are summed, each with two parameters", "8", DEEP.format(dims="D", turn="h + tanh(linear(x, D))"), "sgd(lr = 0.1, momentum = 0.9)", 24),
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--families", default=",".join(FAMILIES))
    p.add_argument("--largest", type=int, default=20_000, help="about how many nodes the largest graph has")
    p.add_argument("--core", default="1")
    p.add_argument("--json", help="also write all rows to this file")
    p.add_argument("--check", action="store_true", help="fail if a bound is exceeded")
    return p.parse_args()


def measure(spec, depth, core):
    """One process: the graph's nodes, its time in ms, milliseconds by stage, peak memory in MB."""
    command = ["taskset", "-c", core, OPTC, "bench", spec, "grow", "--json", "--seconds", "0", "--threads", "1", "--set", f"net.depth={depth}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    report = json.loads(text)
    train = report["trains"][0]
    return train["nodes"], (usage.ru_utime + usage.ru_stime) * 1e3, {s: train["ms"][s] for s in STAGES}, report["peak_bytes"] / 1e6


def exponent(points):
    """The slope of log(time) over log(nodes), by least squares."""
    logs = [(math.log(n), math.log(t)) for n, t in points]
    mx, my = (sum(c) / len(logs) for c in zip(*logs))
    return sum((x - mx) * (y - my) for x, y in logs) / sum((x - mx) ** 2 for x, _ in logs)


def family(name, args):
    """Measures a family and prints its table; the rows, and whether they keep the bounds."""
    what, shape, model, optimizer, per_turn = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        spec = os.path.join(folder, "grow.opt")
        with open(spec, "w") as f:
            f.write(SPEC.format(shape=shape, model=model, optimizer=optimizer))
        sizes = [args.largest >> k for k in range(5, -1, -1)]
        depths = [max(1, n // per_turn) for n in sizes]
        best = {}
        for _ in range(args.rounds):
            for depth in depths:
                row = measure(spec, depth, args.core)
                if depth not in best or row[1] < best[depth][1]:
                    best[depth] = row
        rows = [dict(family=name, depth=d, nodes=n, total=cpu, memory_mb=m, **ms) for d, (n, cpu, ms, m) in best.items()]
    print(f"\n### {name}: {what}\n")
    print("| nodes | CPU ms | " + " | ".join(s.replace("_", " ") for s in STAGES) + " | peak MB |")
    print("|---" * (len(STAGES) + 3) + "|")
    for r in rows:
        print(f"| {r['nodes']:,} | {r['total']:.0f} | " + " | ".join(f"{r[s]:.1f}" for s in STAGES) + f" | {r['memory_mb']:.0f} |")
    large = [r for r in rows if r["nodes"] >= 1000]
    if len(large) < 2:
        sys.exit("--largest is too small for a fit")
    fits = {c: exponent([(r["nodes"], r[c]) for r in large]) for c in ["total", *STAGES[1:], "memory_mb"]}
    print("| exponent | " + " | ".join(f"{fits[c]:.2f}" if c in fits else "" for c in ["total", *STAGES, "memory_mb"]) + " |")
    # Per node at the nearest size.
    near = min(rows, key=lambda r: abs(r["nodes"] - SIZE))
    at = near["total"] * SIZE / near["nodes"]
    good = at <= LIMIT_MS and fits["total"] <= LIMIT_EXPONENT
    print(f"\n{SIZE:,} nodes take {at:.0f} ms; time grows as nodes^{fits['total']:.2f}, memory as nodes^{fits['memory_mb']:.2f}: {'within' if good else 'BEYOND'} the bounds")
    return rows, good


def main():
    args = arguments()
    print(f"{args.rounds} rounds, load {os.getloadavg()[0]:.2f}")
    results = [family(name, args) for name in args.families.split(",")]
    if args.json:
        with open(args.json, "w") as f:
            json.dump([r for rows, _ in results for r in rows], f, indent=1)
    sys.exit(args.check and not all(good for _, good in results))


if __name__ == "__main__":
    main()
