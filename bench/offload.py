#!/usr/bin/env python3
"""AdamW on arrays four times larger than the memory it may use, beside a sequential reader and writer of the same disk.

    python3 bench/offload.py --optc target/release/optc [--limit-mib 256] [--dir out/offload] [--rounds 3] [--steps 6]

Each round runs, one after the other,
  - a reader and a writer at the same time, each sequential in blocks of 4 MiB past the page cache, over as many bytes as a step reads and writes;
  - `optc run` with moments *and* weights in files under a limit of memory (moments alone are four times the limit).
Rates are bytes read and written over seconds; medians over the rounds are compared. At the end the same training runs in memory, without a limit, and every
array is compared bit for bit.

The limit is a memory cgroup (version 2 or 1, where this user may make one), in which the page cache counts, else `systemd-run --user`, else RLIMIT_DATA, which
limits private memory only; what was used is printed.
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time

MIB = 1 << 20
BLOCK = 4 * MIB
LEAVES = 16

SPEC = """\
import std.optim.adamw

layer part(n: int) -> f32 {{
  param w: f32[n] ~ random.normal() * 0.02
  mean((w - 0.5)^2)
}}

model field(n: int, leaves: int) -> f32 {{
  var s = 0.0
  for i in 0..leaves {{ s <- s + part(n) }}
  s
}}

train fit {{
  model     net = field(n = {n}, leaves = {leaves})
  loss      net()
  optimizer adamw(lr = 1e-3)
  steps     {steps}
  {offload}
}}

experiment measure {{
  let r = run fit
  {report}
}}
"""
REPORT = 'print "moved seconds={r.offload.stepping} read={r.offload.read} written={r.offload.written} peak={r.offload.peak} waiting={r.offload.waiting}"'


class Limit:
    """Something that keeps a child process from using more than `bytes` of memory."""

    def __init__(self, bytes_):
        self.bytes, self.group, self.prefix, self.how = bytes_, None, [], None
        if self.cgroup2() or self.cgroup1() or self.systemd():
            return
        self.how = "RLIMIT_DATA (private memory; the page cache is not limited)"

    def make(self, parent, files):
        group = os.path.join(parent, f"optc-offload-{os.getpid()}")
        try:
            os.mkdir(group)
            for name, value in files:
                with open(os.path.join(group, name), "w") as f:
                    f.write(str(value))
        except OSError:
            if os.path.isdir(group):
                os.rmdir(group)
            return False
        self.group = group
        return True

    def cgroup2(self):
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            try:
                if "memory" not in open(f"{root}/cgroup.controllers").read().split():
                    continue
                own = next(line.split("::")[1].strip() for line in open("/proc/self/cgroup") if line.startswith("0::"))
            except (OSError, StopIteration):
                continue
            if self.make(root + own, [("memory.max", self.bytes), ("memory.swap.max", 0)]):
                self.how = "memory cgroup, version 2"
                return True
        return False

    def cgroup1(self):
        root = "/sys/fs/cgroup/memory"
        if os.path.exists(f"{root}/memory.limit_in_bytes") and self.make(root, [("memory.limit_in_bytes", self.bytes)]):
            self.how = "memory cgroup, version 1"
            return True
        return False

    def systemd(self):
        prefix = ["systemd-run", "--user", "--scope", "--quiet", "-p", f"MemoryMax={self.bytes}", "-p", "MemorySwapMax=0"]
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, timeout=20).returncode == 0:
                self.prefix, self.how = prefix, "systemd scope"
                return True
        except (OSError, subprocess.TimeoutExpired):
            pass
        return False

    def enter(self):
        if self.group:
            with open(os.path.join(self.group, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))
        elif not self.prefix:
            resource.setrlimit(resource.RLIMIT_DATA, (self.bytes, self.bytes))

    def peak(self):
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if self.group and os.path.exists(f"{self.group}/{name}"):
                return int(open(f"{self.group}/{name}").read())
        return None

    def close(self):
        if self.group:
            os.rmdir(self.group)


def sequential(path, read, written):
    """Seconds to read `read` bytes from and write `written` bytes to files beside `path`, at the same time."""
    direct = getattr(os, "O_DIRECT", 0)
    source, target = path + ".source", path + ".target"
    blocks_read, blocks_written = read // BLOCK, written // BLOCK
    memory = [mmap.mmap(-1, BLOCK) for _ in range(2)]
    memory[1].write(os.urandom(BLOCK))
    for name, blocks in ((source, blocks_read), (target, blocks_written)):
        if not os.path.exists(name) or os.path.getsize(name) != blocks * BLOCK:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | direct)
            for k in range(blocks):
                os.pwrite(fd, memory[1], k * BLOCK)
            os.close(fd)

    def reader():
        fd = os.open(source, os.O_RDONLY | direct)
        for k in range(blocks_read):
            os.preadv(fd, [memory[0]], k * BLOCK)
        os.close(fd)

    def writer():
        fd = os.open(target, os.O_WRONLY | direct)
        for k in range(blocks_written):
            os.pwrite(fd, memory[1], k * BLOCK)
        os.close(fd)

    threads = [threading.Thread(target=f) for f in (reader, writer)]
    start = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.perf_counter() - start


def arrays(path):
    """Names and places (file, offset, bytes) of the arrays of a safetensors file."""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
    header.pop("__metadata__", None)
    return {name: (path, 8 + n + t["data_offsets"][0], t["data_offsets"][1] - t["data_offsets"][0]) for name, t in header.items()}


def same(a, b):
    """Whether two ranges of files hold the same bytes."""
    (pa, oa, na), (pb, ob, nb) = a, b
    if na != nb:
        return False
    with open(pa, "rb") as fa, open(pb, "rb") as fb:
        fa.seek(oa)
        fb.seek(ob)
        left = na
        while left:
            n = min(left, BLOCK)
            if fa.read(n) != fb.read(n):
                return False
            left -= n
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optc", default="target/release/optc")
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--dir", default="out/offload")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--chunk-mib", type=int, default=8)
    parser.add_argument("--depth", type=int, default=4)
    args = parser.parse_args()
    limit = Limit(args.limit_mib * MIB)
    # Two moments of four bytes: four times the limit. The weights come on top.
    n = 4 * args.limit_mib * MIB // 8 // LEAVES
    os.makedirs(args.dir, exist_ok=True)
    options = f'offload "states", weights = true, chunk = {args.chunk_mib}MiB, depth = {args.depth}'
    for name, offload, report in (
        ("files", options, REPORT),
        ("memory", f'checkpoint "kept" every {args.steps}, keep = 1', 'print "{r.seconds}"'),
    ):
        with open(os.path.join(args.dir, f"{name}.opt"), "w") as f:
            f.write(SPEC.format(n=n, leaves=LEAVES, steps=args.steps, offload=offload, report=report))

    def optc(name, limited):
        command = [os.path.abspath(args.optc), "run", f"{name}.opt", "measure", "--threads", str(args.threads)]
        command = limit.prefix + command if limited else command
        done = subprocess.run(command, cwd=args.dir, capture_output=True, text=True, preexec_fn=limit.enter if limited else None)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ends with {done.returncode}:\n{done.stderr}{done.stdout}")
        return done.stdout

    print(f"limit {args.limit_mib} MiB ({limit.how}); moments {8 * n * LEAVES // MIB} MiB, weights {4 * n * LEAVES // MIB} MiB, {args.steps} steps")
    ours, disks = [], []
    try:
        per_step = None
        for k in range(args.rounds):
            line = next(x for x in optc("files", True).splitlines() if x.startswith("moved "))
            r = {name: float(value) for name, value in (part.split("=") for part in line.split()[1:])}
            per_step = (int(r["read"]) // args.steps, int(r["written"]) // args.steps)
            seconds = sequential(os.path.join(args.dir, "plain"), *per_step)
            disks.append(sum(per_step) / seconds / 1e9)
            ours.append((r["read"] + r["written"]) / r["seconds"] / 1e9)
            print(
                f"round {k + 1}: step {r['seconds'] / args.steps:.3f} s, {ours[-1]:.2f} GB/s; disk {disks[-1]:.2f} GB/s; "
                f"ratio {ours[-1] / disks[-1]:.2f}; chunks in memory {r['peak'] / MIB:.0f} MiB"
            )
        peak = limit.peak()
        if peak:
            print(f"most memory of the group {peak / MIB:.0f} MiB")
    finally:
        limit.close()
    print(f"AdamW {statistics.median(ours):.2f} GB/s, disk {statistics.median(disks):.2f} GB/s, ratio {statistics.median(a / b for a, b in zip(ours, disks)):.2f}")
    optc("memory", False)
    kept = os.path.join(args.dir, "kept")
    memory = arrays(os.path.join(kept, sorted(os.listdir(kept))[-1]))
    compared = 0
    for name, place in memory.items():
        path = os.path.join(args.dir, "states", f"{name}.npy")
        if os.path.exists(path):
            compared += place[2]
            if not same(place, (path, 4096, place[2])):
                sys.exit(f"{name} differs from the run in memory")
    print(f"identical bits: {compared // MIB} MiB of weights and moments")
    for path in ("kept", "states"):
        shutil.rmtree(os.path.join(args.dir, path))
    for name in ("plain.source", "plain.target"):
        os.remove(os.path.join(args.dir, name))


main()
