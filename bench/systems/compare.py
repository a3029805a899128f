#!/usr/bin/env python3
"""Times published systems beside straightforward JAX versions of the same experiments, in turns, whole processes.

    bench/peers/setup.sh VENV
    cargo build --release
    VENV/bin/python bench/systems/compare.py [--rounds 1] [--cores 1] [--only 26,30]

A turn of optc is `optc test SPEC`: everything from the text of the spec on, all checks included. A turn of JAX is the script of that number here; seconds until its imports are done are taken off, as
`import jax` is not part of the experiment. Both are pinned to the same cores. A figure is the median of its turns.
"""
import argparse
import glob
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from turns import OPTC, ROOT, Machine

# Arguments of each JAX script that make it the experiment the spec runs.
SYSTEMS = {"01": ["3000", "1"], "17": [], "26": [], "30": [], "31": []}


def seconds(machine, command):
    start = time.perf_counter()
    done = subprocess.run(machine.pin + command, env=machine.env, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--cores", type=int, default=1)
    p.add_argument("--only", default=",".join(SYSTEMS))
    args = p.parse_args()
    machine = Machine(args.cores)
    imports = statistics.median(seconds(machine, [sys.executable, "-c", "import jax, optax, numpy, scipy.optimize, sklearn.datasets"]) for _ in range(3))
    print(f"load {os.getloadavg()[0]:.2f}; imports {imports:.1f} s, taken off\n\n| system | optc, s | JAX, s | JAX / optc |\n|---|---|---|---|", flush=True)
    for number in args.only.split(","):
        (spec,) = glob.glob(os.path.join(ROOT, "examples", "systems", f"{number}-*", "*.opt"))
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(seconds(machine, [OPTC, "test", spec, "--threads", str(args.cores)]))
            theirs.append(seconds(machine, [sys.executable, os.path.join(HERE, f"jax_{number}.py"), *SYSTEMS[number]]) - imports)
        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"| {number} | {a:.1f} | {b:.1f} | {b / a:.2f} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.2f} at the end")


if __name__ == "__main__":
    main()
