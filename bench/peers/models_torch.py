"""The four models of the benchmarks in PyTorch, with one batch each. optc's side is in ../specs."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class GPT(nn.Module):
    def __init__(self, V=65, D=128, L=4, H=4, T=128):
        super().__init__()
        self.heads = H
        self.wte = nn.Embedding(V, D)
        self.wpe = nn.Parameter(torch.randn(T, D) * 0.02)
        self.blocks = nn.ModuleList([
            nn.ModuleDict(dict(ln1=nn.LayerNorm(D), qkv=nn.Linear(D, 3 * D), o=nn.Linear(D, D), ln2=nn.LayerNorm(D), f1=nn.Linear(D, 4 * D), f2=nn.Linear(4 * D, D)))
            for _ in range(L)
        ])
        self.lnf = nn.LayerNorm(D)
        self.head = nn.Linear(D, V, bias=False)

    def forward(self, x):
        B, T = x.shape
        h = self.wte(x) + self.wpe
        for b in self.blocks:
            q, k, v = [t.view(B, T, self.heads, -1).transpose(1, 2) for t in b["qkv"](b["ln1"](h)).chunk(3, -1)]
            h = h + b["o"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, -1))
            h = h + b["f2"](F.gelu(b["f1"](b["ln2"](h)), approximate="tanh"))
        return self.head(self.lnf(h)).flatten(0, 1)


def mlp(*sizes):
    layers = []
    for i, o in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def get(name):
    torch.manual_seed(0)
    if name == "mlp784":
        return mlp(784, 256, 256, 10), torch.randn(128, 784), torch.randint(0, 10, (128,))
    if name == "digits":
        from sklearn.datasets import load_digits

        d = load_digits()
        return mlp(64, 32, 10), torch.tensor(d.data[:64] / 16, dtype=torch.float32), torch.tensor(d.target[:64])
    if name == "cnn":
        model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))
        return model, torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    return GPT(), torch.randint(0, 65, (16, 128)), torch.randint(0, 65, (2048,))
