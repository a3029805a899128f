"""Real training scripts of torch with `torch.optim.AdamW` (fused, foreach) and with the optimizer that `optc build --emit torch` writes in its place.

    VENV/bin/python bench/torch_swap.py --optc target/release/optc [--threads 1] [--steps 200] [--markdown]

Two models on real data: a perceptron on the digits, a transformer of two blocks on text. Contenders train in turns from the same weights on the same batches. Printed are the losses beside those of fused
AdamW, the time of `optimizer.step()` (median), of a whole step, and the most memory that the process had. A checkpoint is written by one and read by the other, both ways.
"""

import argparse
import importlib
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent


def perceptron():
    table = np.loadtxt(ROOT / "examples/data/digits.csv", delimiter=",", dtype=np.float32)
    x, y = torch.from_numpy(table[:, :64] / 16), torch.from_numpy(table[:, 64]).long()
    net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    def loss(net, step):
        rows = torch.arange(step * 64, step * 64 + 64) % len(x)
        return F.cross_entropy(net(x[rows]), y[rows])

    return net, loss


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(self.n1(x)).split(d, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self, symbols, width=128, length=64):
        super().__init__()
        self.token, self.place = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.token(ids) + self.place.weight[: ids.shape[1]])))


def transformer():
    text = next(p for p in sorted((ROOT / "examples/data").rglob("*.txt")) if p.stat().st_size > 50_000).read_text()
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(c) for c in text])
    net = Transformer(len(symbols))

    def loss(net, step):
        starts = torch.arange(16) * 1009 + step * 64
        rows = (starts[:, None] + torch.arange(65)) % (len(ids) - 1)
        part = ids[rows]
        return F.cross_entropy(net(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())

    return net, loss


def train(make, optimizer, steps, first=0, net=None, opt=None):
    """Losses, seconds of each `step()`, seconds of each whole step, and what was trained."""
    torch.manual_seed(0)
    made, loss = make()
    net = net or made
    opt = opt or optimizer(net.parameters())
    losses, own, whole = [], [], []
    for k in range(first, first + steps):
        begin = time.perf_counter()
        opt.zero_grad(set_to_none=True)
        value = loss(net, k)
        value.backward()
        before = time.perf_counter()
        opt.step()
        after = time.perf_counter()
        losses.append(value.item())
        own.append(after - before)
        whole.append(after - begin)
    return losses, own, whole, net, opt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optc", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one contender alone, for its memory (used by the script itself)")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.folder or tempfile.mkdtemp()
    if not args.folder:
        subprocess.run([args.optc, "build", "--optimizer", "adamw", "--emit", "torch", "-o", folder], check=True, stdout=subprocess.DEVNULL)
    sys.path.insert(0, folder)
    ours = importlib.import_module("adamw_torch").AdamW
    settings = dict(lr=3e-4, weight_decay=0.01)
    contenders = {
        "torch fused": lambda p: torch.optim.AdamW(p, fused=True, **settings),
        "torch foreach": lambda p: torch.optim.AdamW(p, foreach=True, **settings),
        "optc": lambda p: ours(p, **settings),
    }
    models = {"perceptron, digits": perceptron, "transformer, text": transformer}
    if args.only:
        model, name = args.only.split("/")
        train(models[model], contenders[name], 20)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    rows = []
    for model, make in models.items():
        results = {name: ([], [], []) for name in contenders}
        for _ in range(args.rounds):
            for name, optimizer in contenders.items():
                losses, own, whole, _, _ = train(make, optimizer, args.steps)
                for all_, new in zip(results[name], (losses, own[5:], whole[5:])):
                    all_.extend(new)
        base = results["torch fused"][0][: args.steps]
        for name, (losses, own, whole) in results.items():
            command = [sys.executable, __file__, "--optc", args.optc, "--threads", str(args.threads), "--folder", folder, "--only", f"{model}/{name}"]
            memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            apart = max(abs(a - b) for a, b in zip(losses, base))
            rows.append((model, name, losses[args.steps - 1], apart, 1e6 * statistics.median(own), 1e3 * statistics.median(whole), memory))
    head = ["model", "optimizer", "last loss", "most apart from fused", "step() in us", "whole step in ms", "peak memory in MB"]
    if args.markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        cells = [row[0], row[1], f"{row[2]:.6f}", f"{row[3]:.1e}", f"{row[4]:.0f}", f"{row[5]:.2f}", f"{row[6]:.0f}"]
        print("| " + " | ".join(cells) + " |" if args.markdown else "  ".join(c.ljust(22) for c in cells))

    # A checkpoint of one, read by the other: the second half is that of the one that went on.
    for a, b in [("torch fused", "optc"), ("optc", "torch fused")]:
        _, _, _, net, opt = train(perceptron, contenders[a], 50)
        with tempfile.TemporaryDirectory() as place:
            path = pathlib.Path(place) / "checkpoint.pt"
            torch.save({"net": net.state_dict(), "optimizer": opt.state_dict()}, path)
            saved = torch.load(path)
        other = perceptron()[0]
        other.load_state_dict(saved["net"])
        second = contenders[b](other.parameters())
        second.load_state_dict(saved["optimizer"])
        went_on = train(perceptron, None, 50, 50, net, opt)[0]
        changed = train(perceptron, None, 50, 50, other, second)[0]
        apart = max(abs(x - y) for x, y in zip(went_on, changed))
        print(f"checkpoint of {a}, read by {b}: losses of the next 50 steps at most {apart:.1e} apart")
        assert apart < 1e-4


if __name__ == "__main__":
    main()
