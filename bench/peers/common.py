"""Timing shared by all scripts: blocks of calls, medians of wall and CPU time per call, and how busy the rest of the machine was.

THREADS is set by run.sh, which also pins. On a shared machine with one thread the CPU time (`cpu_med`) is the figure to trust: it leaves out what the scheduler gave to others. `cpu_wall`
near 1 means that the wall time was undisturbed.
"""
import fnmatch
import gc
import json
import os
import statistics
import sys
import time
from typing import Any, Callable, NamedTuple

THREADS = int(os.environ.get("THREADS", "1"))
OUT = os.environ.get("OUT", "results.jsonl")
OTHERS = None


def _busy():
    """CPU seconds that all processes have used since boot."""
    with open("/proc/stat") as f:
        fields = list(map(int, f.readline().split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _others(busy, own, wall):
    return max(0.0, (_busy() - busy - (time.process_time() - own)) / (time.perf_counter() - wall))


def others_now(seconds=0.5):
    """Cores that other processes use right now."""
    marks = _busy(), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    return _others(*marks)


def bench(fn, **kwargs):
    """Times `fn`; repeats for at most GATE_S seconds until other processes used less than GATE cores meanwhile, and keeps the quietest result."""
    global OTHERS
    gate, end, best = float(os.environ.get("GATE", "9")), time.time() + float(os.environ.get("GATE_S", "20")), None
    while True:
        while others_now() > gate and time.time() < end:
            pass
        marks = _busy(), time.process_time(), time.perf_counter()
        row = _bench(fn, **kwargs)
        row["others"] = round(_others(*marks), 2)
        if best is None or row["others"] < best["others"]:
            best = row
        OTHERS = best["others"]
        if best["others"] < gate or time.time() > end:
            return best


def _cpu_of(fn, n):
    start = time.process_time()
    for _ in range(n):
        fn()
    return (time.process_time() - start) / n


def _bench(fn, blocks=9, block_s=0.4, min_iters=1, warm=3, force=None):
    """`fn()` must block until its work is done. Seconds per call, from `blocks` blocks of about `block_s` seconds each."""
    blocks = force or int(os.environ.get("BLOCKS", blocks))
    block_s = float(os.environ.get("BLOCK_S", block_s))
    for _ in range(warm):
        fn()
    iters = max(min_iters, int(block_s / max(_cpu_of(fn, 1), 1e-7)))
    if iters > 50:
        iters = max(min_iters, int(block_s / max(_cpu_of(fn, 20), 1e-7)))
    walls, cpus = [], []
    cpu0, wall0 = time.process_time(), time.perf_counter()
    for _ in range(blocks):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(iters):
            fn()
        walls.append((time.perf_counter() - wall) / iters)
        cpus.append((time.process_time() - cpu) / iters)
    busy = (time.process_time() - cpu0) / (time.perf_counter() - wall0)
    return dict(med=statistics.median(walls), min=min(walls), cpu_med=statistics.median(cpus), cpu_min=min(cpus), iters=iters, blocks=blocks, cpu_wall=round(busy, 2))


def emit(section, name, **fields):
    with open("/proc/loadavg") as f:
        load = float(f.read().split()[0])
    row = dict(section=section, name=name, threads=THREADS, others=fields.pop("others", OTHERS), load=load, **fields)
    row = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
    with open(OUT, "a") as f:
        f.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def emit_optimizer(name, r, bytes_per_parameter, count, **fields):
    """`bytes_per_parameter`: what a step has to move, where it is known."""
    if bytes_per_parameter:
        nominal = bytes_per_parameter * count / 1e9
        fields |= dict(gbs=nominal / r["med"], gbs_cpu=nominal / r["cpu_med"], bpp=bytes_per_parameter)
    emit("1-opt", name, ms=r["med"] * 1e3, ms_min=r["min"] * 1e3, cpu_ms=r["cpu_med"] * 1e3, cpu_ms_min=r["cpu_min"] * 1e3, cpu_wall=r["cpu_wall"], **fields)


def emit_training(name, r, per=1, **fields):
    """`per`: training steps that one timed call makes."""
    emit("3-train", name, steps_s=per / r["med"], steps_s_best=per / r["min"], steps_per_cpu_s=per / r["cpu_med"], cpu_wall=r["cpu_wall"], **fields)


def peak_mb():
    """The most memory this process has held so far, in MB. Not `ru_maxrss`, which begins with what the parent held."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) * 1024 / 1e6


class Contender(NamedTuple):
    """What is timed: `run()` blocks until its work, `per` steps, is done. `facts` go into its row."""

    run: Callable[[], Any]
    per: int = 1
    facts: dict = {}


def contest(cases, report):
    """Times contenders. `cases` maps names to functions that prepare one; arguments of the script are patterns of names (`*/gpt`), none means all.

    Each in turn is prepared, timed and handed to `report(name, timing, contender)`. With `--serve` among the arguments all are prepared first and then timed on demand, so that the contenders
    of several processes can take turns: see `serve`. With `--serve --lazily` each is prepared when its first turn comes."""
    patterns = [a for a in sys.argv[1:] if not a.startswith("--")] or ["*"]
    chosen = {name: prepare for name, prepare in cases.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    if not chosen:
        sys.exit(f"no case is called {' or '.join(patterns)}; there are {', '.join(cases)}")
    if "--lazily" in sys.argv:
        return serve_lazily(chosen)
    if "--serve" in sys.argv:
        return serve({name: prepare() for name, prepare in chosen.items()})
    for name, prepare in chosen.items():
        contender = prepare()
        report(name, bench(contender.run), contender)


def serve(contenders):
    """Says on standard output, in one line of JSON, that all are ready; then for each line `NAME SECONDS` of standard input runs that contender for about so long (one call at least) and
    answers with the seconds one step took, and the most memory the process has held so far. Ends with standard input."""
    print(json.dumps({"ready": {name: c.facts for name, c in contenders.items()}}), flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        print(json.dumps(one_turn(contenders[name], float(seconds))), flush=True)


def one_turn(contender, seconds):
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        contender.run()
        calls += 1
    return {"seconds": (time.perf_counter() - start) / (calls * contender.per), "peak_mb": peak_mb()}


def serve_lazily(cases):
    """As `serve`, but what is ready are names only: a case is prepared when it is first named, outside the time that is taken, and kept until a line `forget`. One that fails answers with its
    error, and the others go on."""
    print(json.dumps({"ready": {name: {} for name in cases}}), flush=True)
    ready = {}
    for line in sys.stdin:
        if line.strip() == "forget":
            ready.clear()
            gc.collect()
            continue
        name, seconds = line.split()
        try:
            if name not in ready:
                ready[name] = cases[name]()
            answer = one_turn(ready[name], float(seconds))
        except Exception as error:  # whatever a peer raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), flush=True)


def leaf_shapes(layout, count):
    """Shapes of the leaves that hold about `count` parameters: one vector, so many vectors (`100x`), or so many matrices (`4x512x512`, whatever `count` is)."""
    if layout == "one":
        return [(count,)]
    times, *matrix = layout.split("x")
    return [tuple(map(int, matrix)) if matrix != [""] else (count // int(times),)] * int(times)
