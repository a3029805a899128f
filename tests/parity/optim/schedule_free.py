"""Schedule-free averaging: the weights at which gradients are taken, and the average that is evaluated."""
import optax
import pytorch_optimizer as po
from optax import contrib

from .common import Case, optax_walk, torch_walk


def average(beta):
    """The average x of the points z, from z and the weights y."""
    return lambda optimizer, params: [(p.detach() - (1 - beta) * optimizer.state[p]["z"]) / beta for p in params]


CASES = [
    Case("wrapper", "schedule_free(adamw(lr = 0.01, beta1 = 0, weight_decay = 0.1), beta = 0.8)",
         optax_walk(lambda: contrib.schedule_free(optax.adamw(0.01, b1=0, weight_decay=0.1), 0.01, b1=0.8)), "Optax contrib.schedule_free(adamw(0.01, b1=0, weight_decay=0.1), b1=0.8)",
         tolerance=1e-8),
    Case("sgd", "schedule_free_sgd(lr = 0.1, weight_decay = 0.1)", optax_walk(lambda: contrib.schedule_free_sgd(0.1, weight_decay=0.1)), "Optax contrib.schedule_free_sgd(0.1, weight_decay=0.1)",
         problem="bowl"),
    Case("sgd_warmup", "schedule_free_sgd(lr = 0.1, warmup_steps = 20, weight_decay = 0.1)",
         torch_walk(lambda p: po.ScheduleFreeSGD(p, 0.1, momentum=0.9, warmup_steps=20, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer ScheduleFreeSGD(0.1, warmup_steps=20, weight_decay=0.1)", problem="bowl"),
    Case("sgd_average", "schedule_free_sgd(lr = 0.1, warmup_steps = 20, r = 1.0)",
         torch_walk(lambda p: po.ScheduleFreeSGD(p, 0.1, momentum=0.9, warmup_steps=20, r=1.0, foreach=False), read=average(0.9)),
         "pytorch_optimizer ScheduleFreeSGD(0.1, warmup_steps=20, r=1), evaluated", problem="bowl", evaluated=True),
    Case("adamw", "schedule_free_adamw(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: contrib.schedule_free_adamw(0.01, weight_decay=0.1)),
         "Optax contrib.schedule_free_adamw(0.01, weight_decay=0.1)"),
    Case("adamw_warmup", "schedule_free_adamw(lr = 0.01, eps = 1e-3, warmup_steps = 20, weight_decay = 0.1)",
         torch_walk(lambda p: po.ScheduleFreeAdamW(p, 0.01, eps=1e-3, warmup_steps=20, weight_decay=0.1, foreach=False), read=average(0.9)),
         "pytorch_optimizer ScheduleFreeAdamW(0.01, eps=1e-3, warmup_steps=20), evaluated; it adds 1e-15 under the root", evaluated=True, tolerance=1e-6),
    Case("radam", "schedule_free_radam(lr = 0.01, eps = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.ScheduleFreeRAdam(p, 0.01, eps=1e-3, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer ScheduleFreeRAdam(0.01, eps=1e-3, weight_decay=0.1)"),
    Case("adamw_decoupled", "schedule_free_adamw(lr = 0.01, eps = 1e-3, decoupling = 20.0)",
         torch_walk(lambda p: po.ScheduleFreeAdamW(p, 0.01, eps=1e-3, decoupling_c=20, foreach=False), read=average(0.9)),
         "pytorch_optimizer ScheduleFreeAdamW(0.01, eps=1e-3, decoupling_c=20), evaluated; it adds 1e-15 under the root", evaluated=True, tolerance=1e-6),
]
