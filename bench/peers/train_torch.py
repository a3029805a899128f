"""Training throughput, PyTorch: `torch-eager/MODEL` (fused AdamW), `torch-default/MODEL` (its default AdamW), `torch-compile/MODEL` (forward and backward through torch.compile, fused AdamW).
Arguments: patterns of these names."""
import time

import torch
import torch.nn.functional as F

from common import THREADS, Contender, contest, emit_training
from models_torch import get

torch.set_num_threads(THREADS)
torch.set_num_interop_threads(1)


def trained(mode, name):
    model, x, y = get(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=None if mode == "default" else True)

    def loss_of(x, y):
        return F.cross_entropy(model(x), y)

    loss = torch.compile(loss_of) if mode == "compile" else loss_of

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss(x, y).backward()
        optimizer.step()

    start = time.perf_counter()
    run()
    return Contender(run, facts=dict(first_call_s=time.perf_counter() - start))


def report(name, timing, contender):
    emit_training(name, timing, **contender.facts, **(dict(tokens_per_step=2048) if name.endswith("/gpt") else {}))


cases = {f"torch-{mode}/{name}": lambda mode=mode, name=name: trained(mode, name) for mode in ("eager", "default", "compile") for name in ("mlp784", "cnn", "gpt", "digits")}
contest(cases, report)
