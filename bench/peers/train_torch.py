"""Training throughput, PyTorch: `eager` (fused AdamW), `default` (its default AdamW), `compile` (forward and backward through torch.compile, fused AdamW).
Arguments: modes, then model names (default: all)."""
import sys
import time

import torch
import torch.nn.functional as F

from common import THREADS, bench, emit_training
from models_torch import get

torch.set_num_threads(THREADS)
torch.set_num_interop_threads(1)
MODES = ("eager", "default", "compile")
modes = [a for a in sys.argv[1:] if a in MODES] or MODES
names = [a for a in sys.argv[1:] if a not in MODES] or ["mlp784", "cnn", "gpt", "digits"]
for mode in modes:
    for name in names:
        model, x, y = get(name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=None if mode == "default" else True)

        def loss_of(x, y):
            return F.cross_entropy(model(x), y)

        loss = torch.compile(loss_of) if mode == "compile" else loss_of

        def once():
            optimizer.zero_grad(set_to_none=True)
            loss(x, y).backward()
            optimizer.step()

        start = time.perf_counter()
        once()
        first = time.perf_counter() - start
        emit_training(f"torch-{mode}/{name}", bench(once), first_call_s=first, **(dict(tokens_per_step=2048) if name == "gpt" else {}))
        torch._dynamo.reset()
