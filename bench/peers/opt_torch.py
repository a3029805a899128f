"""The optimizer step alone, PyTorch (fused, foreach, for-loop and compiled) and pytorch_optimizer, on one tensor, on 100, on 1000 and on matrices.
Arguments: patterns of names (`torch/adamw-fused/one`, `torch/*-compiled/*`, `pytorch_optimizer/adan/one`)."""
import os
import time

import torch

from common import THREADS, Contender, contest, emit_optimizer, leaf_shapes

torch.set_num_threads(THREADS)
N = int(os.environ.get("N", 50_000_000))
lr, wd = 1e-3, 1e-2
BYTES = {"adamw": 28, "sgdm": 20, "lion": 20, "clip+adamw": 32}
KINDS = {"fused": dict(fused=True), "foreach": dict(foreach=True), "forloop": dict(foreach=False), "eager": {}}
LAYOUTS = ["one", "100x", "1000x", "4x512x512"]
# What torch has, with the settings of the other contenders.
OWN = {
    "sgd": ("SGD", dict(lr=lr)),
    "sgdm": ("SGD", dict(lr=lr, momentum=0.9)),
    "nesterov": ("SGD", dict(lr=lr, momentum=0.9, nesterov=True)),
    "adagrad": ("Adagrad", dict(lr=lr)),
    "adadelta": ("Adadelta", dict(lr=lr)),
    "rmsprop": ("RMSprop", dict(lr=lr)),
    "adam": ("Adam", dict(lr=lr)),
    "adamw": ("AdamW", dict(lr=lr, weight_decay=wd)),
    "clip+adamw": ("AdamW", dict(lr=lr, weight_decay=wd)),
    "amsgrad": ("Adam", dict(lr=lr, amsgrad=True)),
    "adamax": ("Adamax", dict(lr=lr)),
    "nadam": ("NAdam", dict(lr=lr)),
    "radam": ("RAdam", dict(lr=lr)),
    "adafactor": ("Adafactor", dict(lr=lr)),
    "muon-bf16": ("Muon", dict(lr=lr)),
}
HAS_FUSED = ["SGD", "Adam", "AdamW", "Adagrad"]
HAS_FOREACH = ["SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "RMSprop", "Adamax", "NAdam", "RAdam"]
# pytorch_optimizer's rules are eager. Intervals and probabilities are 1, so that every step does the same.
MORE = {
    "adabelief": ("AdaBelief", dict(lr=lr)),
    "yogi": ("Yogi", dict(lr=lr)),
    "adan": ("Adan", dict(lr=lr)),
    "lion": ("Lion", dict(lr=1e-4, weight_decay=wd)),
    "signum": ("SignSGD", dict(lr=lr, momentum=0.9)),
    "lamb": ("Lamb", dict(lr=lr)),
    "lars": ("LARS", dict(lr=lr, momentum=0.9)),
    "novograd": ("NovoGrad", dict(lr=lr)),
    "adafactor": ("AdaFactor", dict(lr=lr, betas=(None, 0.999))),
    "sm3": ("SM3", dict(lr=lr, momentum=0.9)),
    "ademamix": ("AdEMAMix", dict(lr=lr)),
    "adopt": ("ADOPT", dict(lr=lr)),
    "prodigy": ("Prodigy", dict(lr=1.0)),
    "dadapt_adam": ("DAdaptAdam", dict(lr=1.0)),
    "schedule_free_adamw": ("ScheduleFreeAdamW", dict(lr=lr)),
    "muon-bf16": ("Muon", dict(lr=lr)),
    "shampoo": ("ScalableShampoo", dict(lr=lr, preconditioning_compute_steps=1, start_preconditioning_step=1)),
    "soap": ("SOAP", dict(lr=lr, precondition_frequency=1)),
    "kron": ("Kron", dict(lr=lr, pre_conditioner_update_probability=1.0)),
    "adamp": ("AdamP", dict(lr=lr)),
}


def make(layout):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in leaf_shapes(layout, N)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@torch.no_grad()
def lion(params, grads, momenta, lr, beta1, beta2, wd):
    update = torch._foreach_lerp(grads, momenta, beta1)  # beta1 m + (1 - beta1) g
    torch._foreach_sign_(update)
    torch._foreach_mul_(params, 1 - lr * wd)
    torch._foreach_add_(params, update, alpha=-lr)
    torch._foreach_lerp_(momenta, grads, 1 - beta2)


def step_of(rule, kind, params):
    """The step of a rule; compiled ones are compiled at the first call."""
    if rule == "lion":
        grads, momenta, plain = [p.grad for p in params], [torch.zeros_like(p) for p in params], [p.detach() for p in params]
        f = torch.compile(lion) if kind == "compiled" else lion
        return lambda: f(plain, grads, momenta, 1e-4, 0.9, 0.99, wd)
    name, settings = OWN[rule]
    optimizer = getattr(torch.optim, name)(params, **settings, **KINDS.get(kind, KINDS["foreach"]))

    def step():
        if rule == "clip+adamw":
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()

    return torch.compile(step) if kind == "compiled" else step


def eager_step(rule, params):
    """The step of a rule of pytorch_optimizer."""
    import pytorch_optimizer

    name, settings = MORE[rule]
    groups = [dict(params=params, use_muon=True)] if name == "Muon" else params
    optimizer = getattr(pytorch_optimizer, name)(groups, **settings)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer.step


def prepared(rule, kind, layout):
    params = make(layout)
    step = eager_step(rule, params) if kind == "pytorch_optimizer" else step_of(rule, kind, params)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    return Contender(step, facts=dict(first_call_s=first))


def report(name, timing, contender):
    emit_optimizer(name, timing, BYTES.get(name.split("/")[1].rsplit("-", 1)[0]), N, **contender.facts)


def kinds(rule, name):
    """How torch runs a rule. Clipping alone does not tell the kinds apart."""
    if rule == "clip+adamw":
        return ["fused"]
    return ["fused"] * (name in HAS_FUSED) + (["foreach", "forloop"] if name in HAS_FOREACH else ["eager"])


# PyTorch has no fused Lion; a thousand tensors are a minute of compiling.
PAIRS = [(rule, kind) for rule, (name, _) in OWN.items() for kind in kinds(rule, name)] + [("lion", "foreach")]
cases = {f"torch/{rule}-{kind}/{layout}": lambda rule=rule, kind=kind, layout=layout: prepared(rule, kind, layout) for layout in LAYOUTS for rule, kind in PAIRS}
for rule in ("sgdm", "adam", "adamw", "lion", "clip+adamw"):
    cases[f"torch/{rule}-compiled/one"] = lambda rule=rule: prepared(rule, "compiled", "one")
for rule in MORE:
    for layout in LAYOUTS:
        cases[f"pytorch_optimizer/{rule}/{layout}"] = lambda rule=rule, layout=layout: prepared(rule, "pytorch_optimizer", layout)
contest(cases, report)
