#!/usr/bin/env python3
"""Runs optc and its peers in turns and prints the tables of docs/performance.md.

    bench/peers/setup.sh VENV [torch]        once: the peers' Python environment
    cargo build --release
    VENV/bin/python bench/compare.py [--torch] [--llvm] [--threads 1] [--rounds 3] [--only train,compile,optimizers,loops,memory,start] [--models digits,gpt] [--markdown]

In every row the contenders take turns, A B C A B C, as often as `--rounds` says, so that drift of the machine hits all of them alike; a figure is the median of its turns. Peers are prepared
once per row and stay alive between their turns, optc starts anew each time. All are pinned to as many cores as `--threads` says. What is measured:

    train       steps per second: optc, JAX step by step and in a scan, PyTorch eager and compiled
    compile     from the text of the spec, or the Python functions, to the end of the first step, in a fresh process whose start is not counted
    optimizers  one step of an optimizer on 50 M parameters, in one tensor and in 1000, beside a loop in C; with smaller states beside the same rule with states in f32
    loops       functions with loops (training by hand, a population, Lanczos, conjugate gradients, Newton, ADMM): a call, and the first result
    memory      the most memory a fresh process ever held that compiles and makes a few steps; for peers also that of importing them alone
    start       from nothing to a process that can begin: `optc --version`, `import jax`, `import torch`
"""
import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time

from tables import show
from turns import OPTC, PEERS, ROOT, Live, Machine, Scores

SPECS = os.path.join(ROOT, "bench", "specs")
MODELS = ["digits", "mlp784", "gpt", "cnn"]
OPTIMIZERS = {
    "adamw": "adamw",
    "sgdm": "sgd_momentum",
    "lion": "lion",
    "clip+adamw": "clip_adamw",
    "adamw-bf16": "adamw_bf16",
    "adamw-8bit": "adamw_8bit",
    "lion-bf16": "lion_bf16",
    "lion-8bit": "lion_8bit",
}
# Rules with smaller states, and the rule with states in f32 that takes turns with each.
SMALLER = {"adamw-bf16": "adamw", "adamw-8bit": "adamw", "lion-bf16": "lion", "lion-8bit": "lion"}
PARAMETERS = 50_000_000
LOOPS = ["adam_loop", "population", "lanczos_loop", "cg_loop", "newton_loop", "admm_loop"]
SECTIONS = ["train", "compile", "optimizers", "loops", "memory", "start"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--cores", help="which cores, as taskset takes them (default: the last one, or the first ones)")
    p.add_argument("--rounds", type=int, default=3, help="turns of each contender in each row")
    p.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    p.add_argument("--only", default=",".join(SECTIONS), help="sections to run")
    p.add_argument("--models", default=",".join(MODELS))
    p.add_argument("--rules", default=",".join(OPTIMIZERS), help="optimizers to time alone")
    p.add_argument("--llvm", action="store_true", help="optc's back end LLVM too, and its time to the first step with kernels kept on disk; an optc built with `--features llvm`")
    p.add_argument("--torch", action="store_true", help="PyTorch too, eager and compiled")
    p.add_argument("--markdown", action="store_true", help="print the tables as the documents hold them")
    p.add_argument("--json", help="also write all values to this file")
    args = p.parse_args()
    for name, chosen, known in [("--only", args.only, SECTIONS), ("--models", args.models, MODELS), ("--rules", args.rules, OPTIMIZERS)]:
        unknown = [c for c in chosen.split(",") if c not in known]
        if unknown:
            p.error(f"{name}: {', '.join(unknown)} is none of {', '.join(known)}")
    return args


def spec(model):
    return os.path.join(SPECS, f"{model}.opt")


def said(text):
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.2f}  {text}", file=sys.stderr, flush=True)


def backends(args):
    """The names under which optc runs, and its back ends."""
    return {"optc": "cranelift"} | ({"optc, LLVM": "llvm"} if args.llvm else {})


def train(machine, args, scores):
    for model in args.models.split(","):
        said(f"train {model}")
        # A scan over convolutions is twenty times slower than a step in JAX on a CPU: not a contender.
        jax = {"jax step": f"jax-jit/{model}"} | ({} if model == "cnn" else {"jax scan": f"jax-scan/{model}"})
        torch = {"torch eager": f"torch-eager/{model}", "torch compiled": f"torch-compile/{model}"} if args.torch else {}
        with Live(machine, "train_jax.py", [*jax.values()]) as with_jax, Live(machine, "train_torch.py", [*torch.values()]) as with_torch:
            for _ in range(args.rounds):
                for contender, backend in backends(args).items():
                    report = machine.optc(spec(model), "--seconds", str(args.seconds), backend=backend)
                    scores.add("train", model, contender, report["trains"][0]["steps_per_second"]["median"] if report else None)
                for live, cases in ((with_jax, jax), (with_torch, torch)):
                    for contender, case in cases.items():
                        seconds = live.turn(case, args.seconds)
                        scores.add("train", model, contender, seconds and 1 / seconds)


def compile_time(machine, args, scores):
    for model in args.models.split(","):
        said(f"compile {model}")
        for _ in range(args.rounds):
            for contender, backend in backends(args).items():
                report = machine.optc(spec(model), "--seconds", "0", backend=backend)
                scores.add("compile", model, contender, report["trains"][0]["ms"]["to_first_step"] if report else None)
            if args.llvm:
                with tempfile.TemporaryDirectory() as kept:
                    report = [machine.optc(spec(model), "--seconds", "0", backend="llvm", cache=kept) for _ in range(2)][1]
                    scores.add("compile", model, "optc, LLVM, kernels kept", report["trains"][0]["ms"]["to_first_step"] if report else None)
            for contender, script in [("jax.jit", "compile_jax.py")] + ([("torch.compile", "compile_torch.py")] if args.torch else []):
                done = machine.python(script, model)
                scores.add("compile", model, contender, done and done.rows()[0]["first_ms"])


def optimizers(machine, args, scores):
    with tempfile.TemporaryDirectory() as folder:
        loop = os.path.join(folder, "roofline")
        subprocess.run(["gcc", "-O3", "-march=native", "-ffast-math", "-fopenmp", os.path.join(PEERS, "roofline.c"), "-o", loop, "-lm"], check=True)
        for rule in args.rules.split(","):
            for layout, tensors in (("one", 1), ("1000x", 1000)):
                said(f"optimizers {rule}/{layout}")
                optimizer_row(machine, args, scores, rule, layout, tensors, loop)


def optimizer_row(machine, args, scores, rule, layout, tensors, loop):
    row = f"{rule}/{layout}"
    if rule in SMALLER:
        return smaller_row(machine, args, scores, rule, row, tensors, loop)
    kinds = {"lion": ["foreach", "compiled"], "clip+adamw": ["fused", "compiled"], "sgdm": ["fused", "foreach"], "adamw": ["fused", "foreach", "compiled"]}[rule]
    torch = {f"torch {k}": f"torch/{rule}-{k}/{layout}" for k in kinds if k != "compiled" or layout == "one"} if args.torch else {}
    with Live(machine, "opt_jax.py", [f"jax/{row}"]) as with_jax, Live(machine, "opt_torch.py", [*torch.values()]) as with_torch:
        for _ in range(args.rounds):
            for contender, backend in backends(args).items():
                report = machine.optc(os.path.join(SPECS, "optimizers.opt"), "--optimizer", OPTIMIZERS[rule], "--size", str(PARAMETERS), "--tensors", str(tensors), "--seconds", str(args.seconds), backend=backend)
                scores.add("optimizers", row, contender, report["ms"]["median"] if report else None)
            if layout == "one":
                done = machine.run([loop, str(PARAMETERS), rule])
                scores.add("optimizers", row, "C loop", done and done.rows()[0]["ms"])
            for live, cases in ((with_jax, {"jax.jit(optax)": f"jax/{row}"}), (with_torch, torch)):
                for contender, case in cases.items():
                    seconds = live.turn(case, args.seconds)
                    scores.add("optimizers", row, contender, seconds and seconds * 1e3)


def smaller_row(machine, args, scores, rule, row, tensors, loop):
    """A rule with smaller states beside the same rule with states in f32, and that one's loop in C."""
    for _ in range(args.rounds):
        for contender, name in (("optc", OPTIMIZERS[rule]), ("optc f32", SMALLER[rule])):
            report = machine.optc(os.path.join(SPECS, "optimizers.opt"), "--optimizer", name, "--size", str(PARAMETERS), "--tensors", str(tensors), "--seconds", str(args.seconds))
            scores.add("optimizers", row, contender, report["ms"]["median"] if report else None)
        if tensors == 1:
            done = machine.run([loop, str(PARAMETERS), SMALLER[rule]])
            scores.add("optimizers", row, "C loop", done and done.rows()[0]["ms"])


def loops(machine, args, scores):
    """A call of each function, and the time from the text to its first result; both sides are given their arguments computed."""
    with Live(machine, "loops_jax.py", LOOPS) as live:
        for name in LOOPS:
            said(f"loops {name}")
            for _ in range(args.rounds):
                report = machine.optc(spec("loops"), name, "--seconds", str(args.seconds))
                scores.add("loops", name, "optc", report["ms_per_call"]["median"] if report else None)
                scores.add("loops first", name, "optc", report["ms"]["to_first_result"] if report else None)
                seconds = live.turn(name, args.seconds)
                scores.add("loops", name, "jax.jit", seconds and seconds * 1e3)
                done = machine.python("loops_jax.py", name)
                scores.add("loops first", name, "jax.jit", done and done.rows()[0]["first_ms"])


def memory(machine, args, scores):
    peers = {"jax": ("train_jax.py", "jax-jit", "import jax, optax")} | ({"torch": ("train_torch.py", "torch-eager", "import torch")} if args.torch else {})
    for _ in range(args.rounds):
        said("memory")
        for contender, (_, _, code) in peers.items():
            done = machine.run([sys.executable, "-c", f"{code}, common; print(common.peak_mb())"])
            scores.add("memory", "import", contender, done and float(done.text))
        for model in args.models.split(","):
            # A few steps; the peak comes with the first.
            report = machine.optc(spec(model), "--seconds", "0.01")
            scores.add("memory", model, "optc", report["peak_bytes"] / 1e6 if report else None)
            for contender, (script, kind, _) in peers.items():
                case = f"{kind}/{model}"
                with Live(machine, script, [case]) as live:
                    for _ in range(3):
                        live.turn(case, 0)
                    scores.add("memory", model, contender, live.peak_mb)


def start(machine, args, scores):
    commands = {"optc": [OPTC, "--version"], "jax": [sys.executable, "-c", "import jax, optax"]}
    if args.torch:
        commands["torch"] = [sys.executable, "-c", "import torch"]
    said("start")
    # The first round brings the files into the page cache.
    for count in range(args.rounds + 1):
        for contender, command in commands.items():
            done = machine.run(command)
            if count > 0 and done:
                scores.add("start", "to a process that can begin", contender, done.seconds * 1e3)


def version(package):
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def circumstances(args, machine, load):
    """What a figure has to be read with: commit, processor, versions, how busy the machine was."""
    git = lambda *a: subprocess.run(["git", "-C", ROOT, *a], capture_output=True, text=True).stdout.strip()
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    with open("/proc/cpuinfo") as f:
        facts = dict(line.split(":", 1) for line in f.read().split("\n\n")[0].splitlines() if ":" in line)
    facts = {k.strip(): v.strip() for k, v in facts.items()}
    wide = "AVX-512" if "avx512f" in facts.get("flags", "") else "AVX2" if "avx2" in facts.get("flags", "") else "no AVX2"
    versions = ", ".join(version(p) for p in ["jax", "optax", *(["torch"] if args.torch else [])])
    return (f"Commit {commit}; {facts.get('model name', 'unknown processor')} ({wide}), {args.threads} thread{'s' * (args.threads > 1)} on core{'s' * (args.threads > 1)} {machine.pin[-1]}; "
            f"{versions}; {args.rounds} turn{'s' * (args.rounds > 1)} of {args.seconds:g} s each; load {load:.2f} at the start, {os.getloadavg()[0]:.2f} at the end.\n\n    VENV/bin/python bench/compare.py {' '.join(sys.argv[1:])}\n")


def main():
    args = arguments()
    machine, scores, load = Machine(args.threads, args.cores), Scores(), os.getloadavg()[0]
    run = {"train": train, "compile": compile_time, "optimizers": optimizers, "loops": loops, "memory": memory, "start": start}
    for section in args.only.split(","):
        run[section](machine, args, scores)
        if args.json:
            with open(args.json, "w") as f:
                json.dump(scores.flat(), f, indent=1)
    print(circumstances(args, machine, load))
    print(show(scores, args.markdown))


if __name__ == "__main__":
    main()
