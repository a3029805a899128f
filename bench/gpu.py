#!/usr/bin/env python3
"""What `bench/gpu.sh` runs: correctness on a GPU, then speed beside torch, as JSON and a table. Needs Python alone; torch where it is to be beside.

optc and torch take turns, A B A B, each turn a process of its own on an otherwise idle GPU; a figure is the median of the turns.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TORCH = os.path.join(ROOT, "bench", "gpu_torch.py")
# Name, what optc is asked for, and the bytes that a step has to move per parameter (f32: weights read and written, gradients read, states read and written).
RULES = [("adamw", "adamw", 28), ("lion", "lion", 20), ("clip+adamw", "clip_adamw", 32)]
TENSORS = (1, 1000)
TRAINS = ("digits", "mlp784", "cnn", "gpt")
# Trains of `bench/specs/attention.opt`: columns of a head and element type.
HEADS = ((64, "f32"), (128, "f32"), (64, "bf16"), (128, "bf16"))
# The example that is run beside the cases.
DIGITS = "digits"
# Trains whose steps several GPUs share out.
SHARED = ("mlp784", "gpt")


def run(command, cwd=ROOT, **more):
    start = time.perf_counter()
    done = subprocess.run(command, text=True, capture_output=True, cwd=cwd, **more)
    return done, time.perf_counter() - start


def report(command):
    """The last JSON object that a command prints, or what it complained of."""
    done, _ = run(command)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failed": (done.stderr or done.stdout).strip()[-2000:]}
    return json.loads(lines[-1])


def first_line(command):
    try:
        return run(command)[0].stdout.strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def machine(optc):
    gpu = first_line(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return {"gpu": gpu, "optc": first_line([optc, "--version"]), "date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}


def not_on_a_gpu():
    """Cases that are refused on a GPU, with the words."""
    with open(os.path.join(ROOT, "tests", "cases", "not_on_gpu.txt")) as f:
        lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


def cases(optc, only):
    """Every case of tests/cases/run and the first example on the GPU, or those of them that are named."""
    refused = not_on_a_gpu()
    source = os.path.join(ROOT, "tests", "cases", "run")
    every = sorted(name[:-4] for name in os.listdir(source) if name.endswith(".opt"))
    wanted = [name for name in every if only is None or name in only]
    unknown = sorted(set(only or ()) - set(every) - {DIGITS})
    if unknown:
        sys.exit(f"there are no cases {', '.join(unknown)} in {source}")
    skipped = [{"case": name, "why": refused[name]} for name in wanted if name in refused]
    with tempfile.TemporaryDirectory() as folder:
        # Runs write checkpoints and logs beside the specs, or where they are started.
        copy = os.path.join(folder, "run")
        shutil.copytree(source, copy)
        for name in set(every) - set(wanted) | set(refused):
            os.remove(os.path.join(copy, f"{name}.opt"))
        done, seconds = run([optc, "--color", "never", "--device", "cuda", "test", copy, "--quiet"])
        digits = None
        if only is None or DIGITS in only:
            digits, _ = run([optc, "--device", "cuda", "run", os.path.join(ROOT, "examples", "digits.opt")], cwd=folder)
    text = done.stdout + done.stderr
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (experiments? passed|failed|skipped|checks|files with errors)", text)}
    trouble = [line for line in text.splitlines() if re.match(r"(FAIL|error|skipped)", line)]
    found = {
        "status": done.returncode, "files": len(wanted) - len(skipped), "skipped": skipped, "summary": text.strip().splitlines()[-1] if text.strip() else "", "counts": counts,
        "seconds": seconds, "trouble": trouble[:40],
    }
    if digits is not None:
        found["status"] = found["status"] or digits.returncode
        found["digits"] = digits.stdout.strip().splitlines()[-4:] if digits.returncode == 0 else digits.stderr.strip()[-2000:]
    return found


def median(values):
    return statistics.median(values) if values else None


def gaps(found):
    """The part of a step, as a recorded graph, in which no kernel runs: what is left of its time without those of its instructions, one by one."""
    return found.get("profile", {}).get("outside_share")


def percent(values):
    values = [x for x in values if x is not None]
    return f"{100 * statistics.median(values):.1f}" if values else ""


def steps(optc, parameters, turns, seconds, torch):
    """Optimizer steps alone, in milliseconds and as a part of the bandwidth of a copy."""
    rows, copies = [], []
    for name, asked, moved in RULES:
        for tensors in TENSORS:
            row = {"rule": name, "tensors": tensors, "optc_ms": [], "gaps": [], "torch_ms": {}, "trouble": []}
            for _ in range(turns):
                ours = report([optc, "--device", "cuda", "bench", "bench/specs/optimizers.opt", "--optimizer", asked, "--size", str(parameters),
                               "--tensors", str(tensors), "--seconds", str(seconds), "--profile", "--json"])
                if "failed" in ours:
                    row["trouble"].append(ours["failed"])
                    break
                row["optc_ms"].append(ours["ms"]["median"])
                row["gaps"].append(gaps(ours))
                if torch:
                    theirs = report([sys.executable, TORCH, "step", name, str(parameters), str(tensors), str(seconds)])
                    if "failed" in theirs:
                        row["trouble"].append(theirs["failed"])
                        torch = torch and "out of memory" in theirs["failed"]
                        continue
                    copies.append(theirs["copy_gb_per_second"])
                    for form, ms in theirs["ms"].items():
                        row["torch_ms"].setdefault(form, []).append(ms)
            row["gb_per_second"] = moved * parameters / median(row["optc_ms"]) / 1e6 if row["optc_ms"] else None
            rows.append(row)
            print(f"{name}, {tensors} tensors: {row}", file=sys.stderr)
    return {"parameters": parameters, "copy_gb_per_second": median(copies), "rows": rows}


def training(optc, turns, seconds, torch):
    """Whole training steps."""
    rows = []
    for name in TRAINS:
        row = {"train": name, "optc": [], "gaps": [], "torch": {}, "trouble": []}
        for _ in range(turns):
            ours = report([optc, "--device", "cuda", "bench", f"bench/specs/{name}.opt", "--seconds", str(seconds), "--profile", "--json"])
            if "failed" in ours:
                row["trouble"].append(ours["failed"])
                break
            trains = ours.get("trains", [ours])
            row["optc"].append(trains[0].get("steps_per_second", {}).get("median"))
            row["gaps"].append(gaps(trains[0]))
            if torch:
                theirs = report([sys.executable, TORCH, "train", name, str(seconds)])
                if "failed" in theirs:
                    row["trouble"].append(theirs["failed"])
                    continue
                for form, rate in theirs["steps_per_second"].items():
                    row["torch"].setdefault(form, []).append(rate)
        rows.append(row)
        print(f"{name}: {row}", file=sys.stderr)
    return rows


def attention(optc, turns, seconds, torch):
    """Attention and its backward pass alone, beside torch's scaled_dot_product_attention, in steps per second."""
    rows = []
    for width, dtype in HEADS:
        name = f"of_{width}" + ("" if dtype == "f32" else f"_{dtype}")
        row = {"width": width, "dtype": dtype, "optc": [], "gaps": [], "torch": {}, "trouble": []}
        for _ in range(turns):
            ours = report([optc, "--device", "cuda", "bench", "bench/specs/attention.opt", name, "--seconds", str(seconds), "--profile", "--json"])
            if "failed" in ours:
                row["trouble"].append(ours["failed"])
                break
            row["optc"].append(ours.get("trains", [ours])[0].get("steps_per_second", {}).get("median"))
            row["gaps"].append(gaps(ours.get("trains", [ours])[0]))
            if torch:
                theirs = report([sys.executable, TORCH, "attention", str(width), dtype, str(seconds)])
                if "failed" in theirs:
                    row["trouble"].append(theirs["failed"])
                    continue
                for form, rate in theirs["steps_per_second"].items():
                    row["torch"].setdefault(form, []).append(rate)
        # Products of a causal forward and backward pass, of which half is not looked at.
        rate = median([x for x in row["optc"] if x])
        row["tflops"] = 0.5 * 2 * 7 * 2 * 16 * 2048 * 2048 * width * rate / 1e12 if rate else None
        rows.append(row)
        print(f"attention, {width} columns of {dtype}: {row}", file=sys.stderr)
    return rows


def gpus():
    """How many GPUs the driver shows."""
    try:
        return len([line for line in run(["nvidia-smi", "-L"])[0].stdout.splitlines() if line.startswith("GPU ")])
    except OSError:
        return 0


def scaling(optc, count, turns, seconds):
    """Steps per second on 1, 2, 4, … GPUs that share out the same batch, and what they add up."""
    if count < 2:
        return {"skipped": f"there is {count or 'no'} GPU: several are needed to see how steps scale"}
    rows = []
    numbers = [n for n in (1, 2, 4, 8, 16) if n <= count]
    for name in SHARED:
        spec = os.path.join(ROOT, "bench", "specs", f"{name}.opt")
        for n in numbers:
            device = "cuda:0" if n == 1 else f"cuda:0-{n - 1}"
            row = {"train": name, "gpus": n, "steps_per_second": [], "meetings": 0, "bytes": 0, "trouble": []}
            told = run([optc, "--device", device, "explain", spec])[0].stdout
            found = re.search(r"arrays of (\d+) bytes added up in (\d+) meetings?", told)
            if found:
                row["bytes"], row["meetings"] = int(found.group(1)), int(found.group(2))
            for _ in range(turns):
                ours = report([optc, "--device", device, "bench", spec, "--seconds", str(seconds), "--json"])
                if "failed" in ours:
                    row["trouble"].append(ours["failed"])
                    break
                row["steps_per_second"].append(ours.get("trains", [ours])[0].get("steps_per_second", {}).get("median"))
            rate = median([x for x in row["steps_per_second"] if x])
            row["gb_per_second"] = row["bytes"] * rate / 1e9 if rate else None
            rows.append(row)
            print(f"{name} on {n} GPUs: {row}", file=sys.stderr)
    return {"gpus": count, "rows": rows}


def exports(folder, parameters, turns, seconds):
    """The optimizers for torch on CUDA tensors. Their modules are made where there is a linker; nothing is built here."""
    rows = []
    for rule in ("adamw", "lion"):
        if not os.path.exists(os.path.join(folder, f"{rule}_torch.py")):
            rows.append({"rule": rule, "trouble": [f"there is no {folder}/{rule}_torch.py: optc build --optimizer {rule} --emit torch -o {folder}"]})
            continue
        for tensors in TENSORS:
            row = {"rule": rule, "tensors": tensors, "ms": {}, "agreement": None, "native": None, "trouble": []}
            for _ in range(turns):
                found = report([sys.executable, TORCH, "export", folder, rule, str(parameters), str(tensors), str(seconds)])
                if "failed" in found:
                    row["trouble"].append(found["failed"])
                    break
                row["agreement"], row["native"] = found["agreement"], found["native"]
                for form, ms in found["ms"].items():
                    row["ms"].setdefault(form, []).append(ms)
            rows.append(row)
            print(f"{rule}, {tensors} tensors: {row}", file=sys.stderr)
    return rows


def shown(value, digits=3):
    return "" if value is None else f"{value:.{digits}g}"


def table(found):
    lines = [f"{found['machine']['gpu']}; {found['machine']['optc']}; {found['machine']['date']}", ""]
    if "cases" in found:
        c = found["cases"]
        lines += [f"{c['files']} file{'' if c['files'] == 1 else 's'} of tests/cases/run on the GPU: {c['summary']}"]
        lines += [f"skipped: {s['case']}, {s['why']}" for s in c["skipped"]] + [""]
    if "steps" in found:
        s = found["steps"]
        copy = s["copy_gb_per_second"]
        lines += [f"{s['parameters']} f32 parameters; a copy moves {shown(copy, 4)} GB/s", "", "| rule | tensors | optc, ms | GB/s | part of a copy | gaps, % | torch, ms |", "|---|---|---|---|---|---|---|"]
        for r in s["rows"]:
            part = r["gb_per_second"] / copy if copy and r["gb_per_second"] else None
            theirs = ", ".join(f"{form} {shown(median(ms), 4)}" for form, ms in r["torch_ms"].items())
            lines.append(f"| {r['rule']} | {r['tensors']} | {shown(median(r['optc_ms']), 4)} | {shown(r['gb_per_second'], 4)} | {shown(part)} | {percent(r['gaps'])} | {theirs} |")
        lines.append("")
    if "training" in found:
        lines += ["| train | optc, steps/s | gaps between launches, % | torch, steps/s |", "|---|---|---|---|"]
        for r in found["training"]:
            theirs = ", ".join(f"{form} {shown(median(rates), 4)}" for form, rates in r["torch"].items())
            lines.append(f"| {r['train']} | {shown(median([x for x in r['optc'] if x]), 4)} | {percent(r['gaps'])} | {theirs} |")
        lines.append("")
    if "attention" in found:
        lines += ["| attention, forward and backward: 2 x 16 heads of 2048, causal | optc, steps/s | TFLOP/s | gaps, % | torch, steps/s |", "|---|---|---|---|---|"]
        for r in found["attention"]:
            theirs = ", ".join(f"{form} {shown(median(rates), 4)}" for form, rates in r["torch"].items())
            lines.append(f"| {r['width']} columns, {r['dtype']} | {shown(median([x for x in r['optc'] if x]), 4)} | {shown(r['tflops'])} | {percent(r['gaps'])} | {theirs} |")
        lines.append("")
    if "skipped" in found.get("scaling", {}):
        lines += [f"scaling: {found['scaling']['skipped']}", ""]
    elif "scaling" in found:
        lines += ["| train | GPUs | optc, steps/s | of one GPU's | added up in a step, bytes | in meetings | GB/s |", "|---|---|---|---|---|---|---|"]
        alone = {}
        for r in found["scaling"]["rows"]:
            rate = median([x for x in r["steps_per_second"] if x])
            alone.setdefault(r["train"], rate)
            times = rate / alone[r["train"]] if rate and alone[r["train"]] else None
            lines.append(f"| {r['train']} | {r['gpus']} | {shown(rate, 4)} | {shown(times)} | {r['bytes']} | {r['meetings']} | {shown(r['gb_per_second'])} |")
        lines.append("")
    if "exports" in found:
        lines += ["| optimizer for torch | tensors | kernels | from the processor's | from torch's | ms |", "|---|---|---|---|---|---|"]
        for r in found["exports"]:
            if not r.get("agreement"):
                lines.append(f"| {r['rule']} | {r.get('tensors', '')} | | | | {(r['trouble'] or [''])[-1].splitlines()[-1]} |")
                continue
            ms = ", ".join(f"{form} {shown(median(times), 4)}" for form, times in r["ms"].items())
            apart = r["agreement"]
            lines.append(f"| {r['rule']} | {r['tensors']} | {'yes' if r['native'] else 'no'} | {shown(apart['from_the_library'])} | {shown(apart['from_torch'])} | {ms} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optc", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--only", required=True)
    parser.add_argument("--gpus", type=int, help="how many GPUs to share steps out to, instead of what nvidia-smi counts")
    parser.add_argument("--cases", help="only these of tests/cases/run, and of them `digits`, the example, with commas between")
    parser.add_argument("--exports", help="folder with the optimizers for torch (default: optimizers in that of --out)")
    options = parser.parse_args()
    optc = os.path.abspath(options.optc)
    parts = options.only.split(",")
    found = {"machine": machine(optc)}
    probe = report([sys.executable, TORCH, "probe"])
    torch = "failed" not in probe
    found["machine"]["torch"] = probe.get("torch") if torch else None

    def keep():
        with open(os.path.join(options.out, "gpu.json"), "w") as f:
            json.dump(found, f, indent=1)
        with open(os.path.join(options.out, "gpu.md"), "w") as f:
            f.write(table(found))

    if "cases" in parts:
        found["cases"] = cases(optc, options.cases.split(",") if options.cases else None)
        keep()
    if "steps" in parts:
        found["steps"] = steps(optc, options.parameters, options.turns, options.seconds, torch)
        keep()
    if "training" in parts:
        found["training"] = training(optc, options.turns, options.seconds, torch)
        keep()
    if "attention" in parts:
        found["attention"] = attention(optc, options.turns, options.seconds, torch)
        keep()
    if "scaling" in parts:
        count = gpus() if options.gpus is None else options.gpus
        found["scaling"] = scaling(optc, count, options.turns, options.seconds)
        keep()
    if "exports" in parts and torch:
        found["exports"] = exports(options.exports or os.path.join(options.out, "optimizers"), options.parameters, options.turns, options.seconds)
    keep()
    print(table(found))
    return 1 if found.get("cases", {}).get("status") else 0


if __name__ == "__main__":
    sys.exit(main())
