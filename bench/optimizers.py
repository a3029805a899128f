#!/usr/bin/env python3
"""A step of every common optimizer: optc beside Optax, torch and pytorch_optimizer, as one table.

    bench/peers/setup.sh VENV torch                       once: the peers' Python environment
    VENV/bin/pip install pytorch_optimizer==4.1.0
    cargo build --release
    VENV/bin/python bench/optimizers.py [--only adam,adamw] [--markdown] [--state FILE] [--budget 420]

Rules that go element by element, and those with norms, run on 10 M f32 parameters in one tensor and in 100; rules of matrices on four of 512 x 512. All have given gradients: what is timed is
the update alone, weights and states in place. In every row the contenders take turns, A B C A B C, and a figure is the median of its turns; all run on one pinned core (`--threads`).

With `--state FILE` each row is written down when it is done, and a later call with the same file goes on behind it; after `--budget` seconds no further row is begun. A peer that takes longer
than `--limit` seconds for a turn, or fails, has an empty cell and stops nobody.
"""
import argparse
import json
import os
import sys
import time

from tables import RULES, SECTIONS, Section, show
from turns import PEERS, ROOT, Machine, OnDemand, Scores

sys.path.insert(0, PEERS)
from common import leaf_shapes  # noqa: E402

SPEC = os.path.join(ROOT, "bench", "specs", "optimizers.opt")
# Title, and what is asked of optc; hyperparameters that change the work of a step are those of the peers (peers/opt_jax.py, peers/opt_torch.py).
VECTORS = {
    "sgd": ("SGD", "sgd(lr = 1e-3)"),
    "sgdm": (RULES["sgdm"], "sgd_momentum"),
    "nesterov": ("SGD, Nesterov", "sgd(lr = 1e-3, momentum = 0.9, nesterov = true)"),
    "adagrad": ("Adagrad", "adagrad(lr = 1e-3)"),
    "adadelta": ("Adadelta", "adadelta(lr = 1e-3)"),
    "rmsprop": ("RMSProp", "rmsprop(lr = 1e-3)"),
    "adam": ("Adam", "adam(lr = 1e-3)"),
    "adamw": (RULES["adamw"], "adamw"),
    "amsgrad": ("AMSGrad", "amsgrad(lr = 1e-3)"),
    "adamax": ("Adamax", "adamax(lr = 1e-3)"),
    "nadam": ("NAdam", "nadam(lr = 1e-3)"),
    "radam": ("RAdam", "radam(lr = 1e-3)"),
    "adabelief": ("AdaBelief", "adabelief(lr = 1e-3)"),
    "yogi": ("Yogi", "yogi(lr = 1e-3)"),
    "adan": ("Adan", "adan(lr = 1e-3)"),
    "lion": (RULES["lion"], "lion"),
    "signum": ("Signum", "signum(lr = 1e-3)"),
    "lamb": ("LAMB", "lamb(lr = 1e-3)"),
    "lars": ("LARS", "lars(lr = 1e-3)"),
    "novograd": ("NovoGrad", "novograd(lr = 1e-3)"),
    "adafactor": ("Adafactor", "adafactor(lr = 1e-3)"),
    "sm3": ("SM3", "sm3(lr = 1e-3)"),
    "ademamix": ("AdEMAMix", "ademamix(lr = 1e-3)"),
    "adopt": ("ADOPT", "adopt(lr = 1e-3)"),
    "prodigy": ("Prodigy", "prodigy()"),
    "dadapt_adam": ("D-Adaptation, Adam", "dadapt_adam()"),
    "schedule_free_adamw": ("schedule-free AdamW", "schedule_free_adamw(lr = 1e-3)"),
    "adamp": ("AdamP", "adamp(lr = 1e-3)"),
    "clip+adamw": (RULES["clip+adamw"], "clip_adamw"),
    "adamw-bf16": (RULES["adamw-bf16"] + " (Optax: the first)", "adamw_bf16"),
    "adamw-8bit": (RULES["adamw-8bit"], "adamw_8bit"),
    "lion-8bit": (RULES["lion-8bit"], "lion_8bit"),
}
MATRICES = {
    "adafactor": ("Adafactor", "adafactor(lr = 1e-3)"),
    "sm3": ("SM3", "sm3(lr = 1e-3)"),
    # Optax iterates in f32, torch and pytorch_optimizer in bf16.
    "muon": ("Muon in f32", "muon(lr = 1e-3)"),
    "muon-bf16": ("Muon, iteration in bf16", 'muon(lr = 1e-3, precision = "bf16")'),
    "kron": ("PSGD Kron, a new preconditioner in every step", "kron(lr = 1e-3)"),
    "soap": ("SOAP, new bases in every step", "soap(lr = 1e-3, interval = 1)"),
    "shampoo": ("Shampoo, new roots in every step", "shampoo(lr = 1e-3, interval = 1)"),
}
LAYOUTS = ["one", "100x", "4x512x512"]
ROWS = {f"{rule}/{layout}": of[rule] for of, layouts in ((VECTORS, LAYOUTS[:2]), (MATRICES, LAYOUTS[2:])) for rule in of for layout in layouts}
KINDS = ["fused", "foreach", "eager", "compiled"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", help="rules, separated by commas: " + ", ".join(dict.fromkeys([*VECTORS, *MATRICES])))
    p.add_argument("--layouts", default=",".join(LAYOUTS), help="which of " + ", ".join(LAYOUTS))
    p.add_argument("--parameters", type=int, default=10_000_000, help="parameters of the vectors")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--cores", help="which cores, as taskset takes them (default: the last one, or the first ones)")
    p.add_argument("--rounds", type=int, default=2, help="turns of each contender in each row")
    p.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    p.add_argument("--limit", type=float, default=30.0, help="seconds after which a peer's turn is given up")
    p.add_argument("--budget", type=float, default=420.0, help="seconds after which no further row is begun")
    p.add_argument("--state", help="file that keeps the rows that are done, one a line")
    p.add_argument("--markdown", action="store_true", help="print the table as the documents hold it")
    args = p.parse_args()
    for name, chosen, known in [("--only", args.only, [*VECTORS, *MATRICES]), ("--layouts", args.layouts, LAYOUTS)]:
        unknown = [c for c in (chosen or known[0]).split(",") if c not in known]
        if unknown:
            p.error(f"{name}: {', '.join(unknown)} is none of {', '.join(dict.fromkeys(known))}")
    return args


def title(row):
    rule, layout = row.split("/")
    return ROWS[row][0] + {"one": "", "100x": ", 100 tensors"}.get(layout, ", 4 of 512 x 512")


def timed(machine, peers, row, args):
    """The turns of a row: milliseconds of a step by contender."""
    rule, layout = row.split("/")
    shapes = leaf_shapes(layout, args.parameters)
    size = ["--size", str(args.parameters)] if layout in ("one", "100x") else ["--shape", "x".join(map(str, shapes[0]))]
    contenders = {"jax.jit(optax)": ("opt_jax.py", f"jax/{row}")}
    contenders |= {f"torch {kind}": ("opt_torch.py", f"torch/{rule}-{kind}/{layout}") for kind in KINDS}
    contenders["pytorch_optimizer"] = ("opt_torch.py", f"pytorch_optimizer/{row}")
    found = {}
    for _ in range(args.rounds):
        report = machine.optc(SPEC, "--optimizer", ROWS[row][1], *size, "--tensors", str(len(shapes)), "--seconds", str(args.seconds))
        if report:
            found.setdefault("optc", []).append(report["ms"]["median"])
        for contender, (script, case) in contenders.items():
            seconds = peers[script].turn(case, args.seconds)
            if seconds is not None:
                found.setdefault(contender, []).append(seconds * 1e3)
    for peer in peers.values():
        peer.forget()
    return found


def kept(path):
    """The rows that a file of states holds."""
    if not path or not os.path.exists(path):
        return {}
    with open(path) as f:
        lines = [json.loads(line) for line in f if line.endswith("\n")]
    return {line["row"]: line["ms"] for line in lines}


def main():
    args, start = arguments(), time.monotonic()
    chosen = [row for row in ROWS if row.split("/")[1] in args.layouts.split(",") and (not args.only or row.split("/")[0] in args.only.split(","))]
    done, left = kept(args.state), []
    machine = Machine(args.threads, args.cores)
    machine.env["N"] = str(args.parameters)
    with OnDemand(machine, "opt_jax.py", args.limit) as jax, OnDemand(machine, "opt_torch.py", args.limit) as torch:
        for row in chosen:
            if row in done:
                continue
            if time.monotonic() - start > args.budget:
                left.append(row)
                continue
            print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.2f}  {row}", file=sys.stderr, flush=True)
            done[row] = timed(machine, {"opt_jax.py": jax, "opt_torch.py": torch}, row, args)
            if args.state:
                with open(args.state, "a") as f:
                    f.write(json.dumps({"row": row, "ms": done[row]}) + "\n")
    scores = Scores()
    for row in chosen:
        for contender, values in done.get(row, {}).items():
            for value in values:
                scores.add("rules", row, contender, value)
    million = f"{args.parameters / 1e6:g} M f32 parameters" if args.parameters >= 1e6 else f"{args.parameters} f32 parameters"
    SECTIONS["rules"] = Section(f"A step, {million}", "ms", False, {row: title(row) for row in chosen})
    print(show(scores, args.markdown))
    if left:
        print(f"{len(left)} rows are left" + (": the same call goes on with them" if args.state else ", `--state FILE` lets a later call go on") + f" ({', '.join(left)})", file=sys.stderr)


if __name__ == "__main__":
    main()
