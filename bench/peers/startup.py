"""Start-up wall time of the peers, median of five with a warm page cache."""
import resource
import statistics
import subprocess
import sys
import time

from common import emit, others_now

CASES = [
    ("python -c pass", "pass"),
    ("import numpy", "import numpy"),
    ("import jax", "import jax"),
    ("jax first op", "import jax.numpy as j; j.ones(3).block_until_ready()"),
    ("import jax, optax", "import jax, optax"),
    ("import torch", "import torch"),
    ("torch first op", "import torch; torch.ones(3)+1"),
]
for name, code in CASES:
    walls, cpus = [], []
    for _ in range(6):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    emit("5-startup", name, s_med=statistics.median(walls[1:]), s_min=min(walls[1:]), s_first=walls[0], cpu_s_med=statistics.median(cpus[1:]), others=others_now())
