#!/usr/bin/env python3
"""Runs optc and its peers alternately and prints the ratio tables of docs/performance.md.

    bench/peers/setup.sh VENV [torch]        once: the peers' Python environment
    cargo build --release
    VENV/bin/python bench/compare.py [--threads 1] [--rounds 3] [--only optimizers,train,compile] [--torch]

Every figure is the median over rounds; in each round every contender runs once, so that drift of the machine hits all of them alike.
With --threads 1 everything is pinned to one core (--core). Rows also state the load that others put on the machine.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEERS = os.path.join(ROOT, "bench", "peers")
OPTC = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "optc")
SPECS = os.path.join(ROOT, "bench", "specs")
MODELS = {"mlp784": "mlp784.opt", "cnn": "cnn.opt", "gpt": "gpt.opt", "digits": "digits.opt"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--core", default="1")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("--only", default="optimizers,compile,train")
    p.add_argument("--models", default=",".join(MODELS))
    p.add_argument("--torch", action="store_true", help="run the torch scripts too")
    p.add_argument("--json", help="also write all rows to this file")
    return p.parse_args()


class Runner:
    def __init__(self, args):
        self.args, self.rows = args, {}
        t = str(args.threads)
        self.env = dict(os.environ, THREADS=t, OMP_NUM_THREADS=t, MKL_NUM_THREADS=t, OPENBLAS_NUM_THREADS=t,
                        JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="", TORCHINDUCTOR_COMPILE_THREADS="1")
        self.pin = ["taskset", "-c", args.core] if args.threads == 1 else []

    def add(self, section, row, contender, value):
        if value is not None:
            self.rows.setdefault((section, row), {}).setdefault(contender, []).append(value)

    def run(self, command, **env):
        done = subprocess.run(self.pin + command, env=dict(self.env, **env), capture_output=True, text=True, cwd=PEERS)
        if done.returncode:
            print(f"  failed: {' '.join(command)}\n{done.stderr[-2000:]}", file=sys.stderr)
        return done.stdout

    def peer(self, script, *argv):
        """Rows that a peer's script prints as JSON lines."""
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            text = self.run([sys.executable, os.path.join(PEERS, script), *argv], OUT=out.name)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def optc(self, *argv):
        text = self.run([OPTC, "bench", *argv, "--json", "--threads", str(self.args.threads), "--seconds", str(self.args.seconds)])
        return json.loads(text) if text.strip() else {}


def optimizers(r, n=50_000_000):
    rules = {"adamw": "adamw", "sgdm": "sgd_momentum", "lion": "lion", "clip+adamw": "clip_adamw"}
    spec = os.path.join(SPECS, "optimizers.opt")
    binary = os.path.join(tempfile.gettempdir(), "optc-roofline")
    subprocess.run(["gcc", "-O3", "-march=native", "-ffast-math", "-fopenmp", os.path.join(PEERS, "roofline.c"), "-o", binary, "-lm"], check=True)
    for line in r.run([binary]).splitlines():
        try:
            row = json.loads(line)
            r.add("optimizer", row["name"].split("/")[-1].split("(")[0] + "/one", "C loop", row["ms"])
        except (ValueError, KeyError):
            pass
    for name, item in rules.items():
        for layout, tensors in (("one", 1), ("1000x", 1000)):
            out = r.optc(spec, "--optimizer", item, "--size", str(n), "--tensors", str(tensors))
            r.add("optimizer", f"{name}/{layout}", "optc", out.get("ms", {}).get("median"))
    for row in r.peer("opt_jax.py"):
        _, name, layout = (row["name"].split("/") + ["one"])[:3]
        r.add("optimizer", f"{name}/{layout}", "jax", row["ms"])
    if r.args.torch:
        for row in r.peer("opt_torch.py"):
            parts = row["name"].split("/")
            name, kind = parts[1].rsplit("-", 1) if "-" in parts[1] else (parts[1], "")
            r.add("optimizer", f"{name}/{parts[2]}", f"torch {kind}", row["ms"])


def compile_time(r):
    for model in r.args.models.split(","):
        out = (r.optc(os.path.join(SPECS, MODELS[model])).get("trains") or [{}])[0]
        r.add("compile", model, "optc", out.get("ms", {}).get("to_first_step"))
        r.add("train", model, "optc", out.get("steps_per_second", {}).get("median"))


def train(r):
    models = r.args.models.split(",")
    for row in r.peer("train_jax.py", *models):
        kind, model = row["name"].split("/")
        r.add("train", model, kind.replace("jax-jit", "jax step").replace("jax-scan", "jax scan"), row["steps_s"])
        if "compile_s" in row:
            r.add("compile", model, "jax.jit", row["compile_s"] * 1e3)
    if r.args.torch:
        for row in r.peer("train_torch.py", "eager", *models):
            r.add("train", row["name"].split("/")[1], "torch eager", row["steps_s"])


def table(rows, section, unit, higher):
    chosen = {row: c for (s, row), c in rows.items() if s == section}
    if not chosen:
        return
    print(f"\n### {section} ({unit}; {'higher' if higher else 'lower'} is better)\n")
    contenders = []
    for c in chosen.values():
        contenders += [x for x in c if x not in contenders]
    contenders.sort(key=lambda c: c != "optc")
    print("| | " + " | ".join(contenders) + " | optc against the best peer |")
    print("|---" * (len(contenders) + 2) + "|")
    for row, c in chosen.items():
        med = {k: statistics.median(v) for k, v in c.items()}
        peers = {k: v for k, v in med.items() if k not in ("optc", "C loop")}
        best = (max if higher else min)(peers.values()) if peers else None
        ratio = ""
        if best and "optc" in med:
            ratio = f"{(med['optc'] / best if higher else best / med['optc']):.2f}x"
        print(f"| {row} | " + " | ".join(f"{med[k]:.4g}" if k in med else "" for k in contenders) + f" | {ratio} |")


def main():
    args = arguments()
    r = Runner(args)
    wanted = args.only.split(",")
    load = os.getloadavg()[0]
    for round_ in range(args.rounds):
        print(f"round {round_ + 1} of {args.rounds}, {time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
        if "optimizers" in wanted:
            optimizers(r)
        if "compile" in wanted or "train" in wanted:
            compile_time(r)
        if "train" in wanted:
            train(r)
    print(f"threads {args.threads}, rounds {args.rounds}, load at start {load:.2f}")
    table(r.rows, "optimizer", "ms a step, 50 M f32 parameters", False)
    table(r.rows, "compile", "ms to the first step", False)
    table(r.rows, "train", "steps/s", True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump([dict(section=s, row=w, contender=c, values=v) for (s, w), cs in r.rows.items() for c, v in cs.items()], f, indent=1)


if __name__ == "__main__":
    main()
