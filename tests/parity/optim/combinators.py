"""Transforms of gradients and of steps, chains, groups, conditions, averages of weights and scheduled hyperparameters."""
import functools

import jax.numpy as jnp
import numpy as np
import optax
import torch
from pytorch_optimizer import Lookahead
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

from .common import STEPS, Case, optax_walk, torch_walk, tree_walk

chain, adam, sgd = optax.chain, optax.adam, optax.sgd
adam_directions = optax.scale_by_adam


def wide(schedule):
    """A schedule in f64: Optax makes most of them in f32 where the counter is an i32."""
    return lambda count: schedule(jnp.asarray(count, jnp.float64))


falling = optax.cosine_decay_schedule(1.0, 50)
nans = optax.scale_by_schedule(lambda c: jnp.where(c % 3 == 1, jnp.nan, 1.0))
NAN = "scale(if step % 3 == 1 { nan } else { 1.0 })"
even = lambda step: step % 2 == 0
matrices = lambda tree: {k: v.ndim >= 2 for k, v in tree.items()}


def multi(inner, k, **settings):
    return lambda: optax.MultiSteps(inner, k, accumulator_dtype=jnp.float64, **settings).gradient_transformation()


def averaged(make, average):
    """The weights of an Optax rule after each step, and what `average(step, weights, average before)` makes of them; the average starts at the initial weights."""

    def walk(problem):
        rows, seen = [], {k: np.array(v) for k, v in problem.start.items()}
        for k, w in enumerate(optax_walk(make)(problem)):
            seen = {n: np.asarray(v) for n, v in average(k + 1, w, seen).items()}
            rows.append(seen)
        return rows

    return walk


def projected(make, f):
    """An Optax rule whose weights are projected after each step, leaf by leaf."""

    def walk(problem):
        tx, rows = make(), []
        p = {k: jnp.asarray(v) for k, v in problem.start.items()}
        state = tx.init(p)
        for k in range(STEPS):
            updates, state = tx.update({n: jnp.asarray(g) for n, g in problem.gradient(k, p).items()}, state, p)
            p = {n: f(v) for n, v in optax.apply_updates(p, updates).items()}
            rows.append({n: np.asarray(v) for n, v in p.items()})
        return rows

    return walk


def sharp(rho):
    """SAM in NumPy with a radius that changes: gradient descent on the gradient at the worst point within rho(step)."""

    def rule(w, g, s, t, problem):
        length = np.sqrt(sum((np.asarray(v) ** 2).sum() for v in g.values()))
        far = problem.gradient(t - 1, {k: w[k] + rho(t - 1) * np.asarray(g[k]) / (length + 1e-12) for k in w})
        return {k: w[k] - 0.05 * np.asarray(far[k]) for k in w}

    return tree_walk(rule)


# A loss that falls, stands still, falls again and stands still: multiples of 1/1024.
VALUES = [round(1024 * v) / 1024 for v in np.concatenate([np.linspace(4, 2, 10), 2 + 0.01 * np.sin(np.arange(15)), np.linspace(1.9, 1, 8), np.full(17, 1.0)])]


def plateau(lr, **settings):
    """torch's SGD under ReduceLROnPlateau, which is shown the value of a step before it is made."""

    def walk(problem):
        params = [torch.nn.Parameter(torch.from_numpy(np.array(v))) for v in problem.start.values()]
        o = torch.optim.SGD(params, lr)
        schedule, rows = torch.optim.lr_scheduler.ReduceLROnPlateau(o, **settings), []
        for k in range(STEPS):
            schedule.step(VALUES[k])
            for p, g in zip(params, problem.gradient(k, {n: p.detach() for n, p in zip(problem.leaves, params)}).values()):
                p.grad = g.clone()
            o.step()
            rows.append({n: p.detach().numpy().copy() for n, p in zip(problem.leaves, params)})
        assert o.param_groups[0]["lr"] == 0.1 * settings["min_lr"] / 0.1, "all reductions are made"
        return rows

    return walk


def averaged_model(avg_fn, start=0, every=1):
    """torch's AveragedModel of SGD, updated in steps start + 1, start + 1 + every, …; before that the weights."""

    def walk(problem):
        rows, model, steps = [], None, torch_walk(lambda p: torch.optim.SGD(p, 0.1))(problem)
        for k, w in enumerate(steps):
            module = torch.nn.ParameterDict({n: torch.nn.Parameter(torch.from_numpy(np.array(v))) for n, v in w.items()})
            if k >= start and (k - start) % every == 0:
                model = model or AveragedModel(module, avg_fn=avg_fn)
                model.update_parameters(module)
            rows.append(w if model is None else {n: p.detach().numpy().copy() for n, p in model.module.items()})
        return rows

    return walk


CASES = [
    # Parts of chains
    Case("identity", "identity() |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.identity(), sgd(0.1))), "Optax identity"),
    Case("set_to_zero", "sgd(lr = 0.1, momentum = 0.9) |> set_to_zero() |> sgd(lr = 0.1)", optax_walk(lambda: sgd(0.1, 0.9)), "Optax sgd; the second stage adds 0 times the gradient"),
    Case("zeroed", "set_to_zero() |> adam(lr = 0.01)", optax_walk(lambda: chain(optax.set_to_zero(), adam(0.01))), "Optax set_to_zero, adam"),
    Case("scale", "scale(2.5) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.scale(2.5), sgd(0.1))), "Optax scale"),
    Case("scale_scheduled", "scale(cosine(peak = 1.0, total = 50)) |> adam(lr = 0.01)", optax_walk(lambda: chain(optax.scale_by_schedule(falling), adam(0.01))), "Optax scale_by_schedule, adam"),
    Case("sign", "sign_of_gradient() |> trace(0.9) |> sgd(lr = 0.01)", optax_walk(lambda: chain(optax.scale_by_sign(), optax.trace(0.9), optax.scale(-0.01))), "Optax scale_by_sign, trace"),
    Case("trace", "trace(0.9) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.trace(0.9), optax.scale(-0.1))), "Optax trace"),
    Case("trace_nesterov", "trace(0.8, nesterov = true) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.trace(0.8, True), optax.scale(-0.1))), "Optax trace(nesterov=True)"),
    Case("ema_of_gradient", "ema_of_gradient(0.9) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.ema(0.9), optax.scale(-0.1))), "Optax ema"),
    Case("ema_of_gradient_raw", "ema_of_gradient(0.8, debias = false) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.ema(0.8, debias=False), optax.scale(-0.1))), "Optax ema(debias=False)"),
    Case("normalize", "normalize(0.7) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.normalize_by_update_norm(0.7), sgd(0.1))), "Optax normalize_by_update_norm(0.7)"),
    Case("normalize_plain", "normalize(eps = 0.0) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.contrib.normalize(), sgd(0.1))), "Optax contrib.normalize", problem="bowl"),
    Case("zero_nans", f"{NAN} |> zero_nans() |> adam(lr = 0.01)", optax_walk(lambda: chain(nans, optax.zero_nans(), adam(0.01))), "Optax zero_nans, every third gradient NaN"),
    Case("clip", "clip(0.5) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.clip(0.5), sgd(0.1))), "Optax clip"),
    Case("clip_by_leaf_rms", "clip_by_leaf_rms(0.5) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.clip_by_block_rms(0.5), sgd(0.1))), "Optax clip_by_block_rms"),
    Case("clip_by_global_norm", "clip_by_global_norm(1.0) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.clip_by_global_norm(1.0), sgd(0.1))), "Optax clip_by_global_norm"),
    Case("scale_by_leaf_norm", "scale_by_leaf_norm() |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.scale_by_param_block_norm(), sgd(0.1))), "Optax scale_by_param_block_norm"),
    Case("scale_by_leaf_rms", "scale_by_leaf_rms(0.5) |> sgd(lr = 0.1)", optax_walk(lambda: chain(optax.scale_by_param_block_rms(0.5), sgd(0.1))), "Optax scale_by_param_block_rms(0.5)"),
    Case("scale_by_trust_ratio", "scale_by_trust_ratio() |> sgd(lr = 0.01)",
     optax_walk(lambda: chain(optax.scale_by_trust_ratio(), sgd(0.01))), "Optax scale_by_trust_ratio; leaves of the gradient are 0"),
    Case("scale_by_trust_ratio_bounded", "scale_by_trust_ratio(least = 0.3, coefficient = 0.5, eps = 1e-3) |> sgd(lr = 0.01)",
     optax_walk(lambda: chain(optax.scale_by_trust_ratio(0.3, 0.5, 1e-3), sgd(0.01))),
         "Optax scale_by_trust_ratio(0.3, 0.5, 1e-3)"),
    Case("apply_every", "apply_every(4) |> adam(lr = 0.01)", optax_walk(lambda: chain(optax.apply_every(4), adam(0.01))), "Optax apply_every, adam"),
    Case("add_decayed_weights_scheduled", "add_decayed_weights(cosine(peak = 1.0, total = 50)) |> sgd(lr = 0.1)",
     optax_walk(lambda: chain(optax.add_decayed_weights(falling), sgd(0.1))), "Optax add_decayed_weights of a schedule"),
    # Behind a rule
    Case("scale_by_learning_rate", "on_updates(adam(lr = 1.0), sgd(lr = cosine(peak = 1.0, total = 50)))", optax_walk(lambda: chain(adam_directions(), optax.scale_by_learning_rate(falling))),
         "Optax scale_by_adam, scale_by_learning_rate"),
    Case("clipped_updates", "on_updates(adam(lr = 1.0), clip(0.3) |> sgd(lr = 0.1))", optax_walk(lambda: chain(adam_directions(), optax.clip(0.3), sgd(0.1))), "Optax scale_by_adam, clip"),
    Case("global_norm_of_updates", "on_updates(adam(lr = 1.0), clip_by_global_norm(0.5) |> sgd(lr = 0.1))",
     optax_walk(lambda: chain(adam_directions(), optax.clip_by_global_norm(0.5), sgd(0.1))), "Optax scale_by_adam, clip_by_global_norm"),
    Case("lamb_of_parts", "on_updates(adam(lr = 1.0, eps = 1e-6), add_decayed_weights(0.1) |> scale_by_trust_ratio() |> sgd(lr = 0.01))",
     optax_walk(lambda: optax.lamb(0.01, weight_decay=0.1)), "Optax lamb"),
    Case("adafactor_like", "on_updates(rmsprop(lr = 1.0), clip_by_leaf_rms(1.0) |> scale_by_leaf_rms() |> sgd(lr = 0.1))",
         optax_walk(lambda: chain(optax.scale_by_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms(), sgd(0.1))), "Optax scale_by_rms, clip_by_block_rms, scale_by_param_block_rms"),
    Case("apply_every_behind", "on_updates(adam(lr = 0.01), apply_every(4) |> sgd(lr = 1.0))", optax_walk(lambda: chain(adam(0.01), optax.apply_every(4))), "Optax adam, apply_every"),
    Case("ema_of_updates", "on_updates(adam(lr = 0.01), ema_of_gradient(0.7) |> sgd(lr = 1.0))", optax_walk(lambda: chain(adam(0.01), optax.ema(0.7))), "Optax adam, ema"),
    Case("optimistic_adam_first_form", "on_updates(adam(lr = 1.0, nesterov = true), optimistic_gradient_descent(lr = 1.0, alpha = 0.01, beta = 0.01))",
         optax_walk(lambda: optax.optimistic_adam(0.01)), "Optax optimistic_adam(0.01)"),
    Case("nested", "on_updates(on_updates(adam(lr = 1.0), trace(0.5) |> sgd(lr = 1.0)), clip(0.3) |> sgd(lr = 0.1))",
     optax_walk(lambda: chain(adam_directions(), optax.trace(0.5), optax.clip(0.3), sgd(0.1))),
         "Optax scale_by_adam, trace, clip"),
    Case("keep_nonnegative", "adam(lr = 0.1) |> keep_nonnegative()", optax_walk(lambda: chain(adam(0.1), optax.keep_params_nonnegative())), "Optax keep_params_nonnegative"),
    Case("projected", "sgd(lr = 0.01) |> projected(x -> project_l2_ball(x, 1.5))",
     projected(lambda: sgd(0.01), lambda x: optax.projections.projection_l2_ball(x, 1.5)), "Optax sgd, projection_l2_ball"),
    Case("lookahead", "lookahead(sgd(lr = 0.1, momentum = 0.9), k = 5, alpha = 0.5)", torch_walk(lambda p: Lookahead(torch.optim.SGD(p, 0.1, 0.9), k=5, alpha=0.5)), "pytorch_optimizer Lookahead"),
    # Groups and masks
    Case("masked", "{ ndim >= 2: clip(0.3), _: identity() } |> adam(lr = 0.01)", optax_walk(lambda: chain(optax.masked(optax.clip(0.3), matrices), adam(0.01))), "Optax masked(clip)"),
    Case("masked_norm", "{ ndim >= 2: clip_by_global_norm(0.5), _: identity() } |> sgd(lr = 0.1)",
     optax_walk(lambda: chain(optax.masked(optax.clip_by_global_norm(0.5), matrices), sgd(0.1))), "Optax masked(clip_by_global_norm)"),
    Case("partition", '{ "a" | "d": adam(lr = 0.01), "b": sgd(lr = 0.1, momentum = 0.9), _: lion(lr = 0.01) }',
         optax_walk(lambda: optax.partition({"x": adam(0.01), "y": sgd(0.1, 0.9), "z": optax.lion(0.01, weight_decay=0)}, {"a": "x", "b": "y", "c": "z", "d": "x", "e": "z"})), "Optax partition"),
    Case("freeze", '{ "b" | "d": none, _: adam(lr = 0.01) }',
     optax_walk(lambda: optax.transforms.selective_transform(adam(0.01), freeze_mask={k: k in "bd" for k in "abcde"})), "Optax selective_transform, freeze"),
    Case("decay_mask", "adamw(lr = 0.01, weight_decay = if ndim(w) < 2 { 0.0 } else { 0.1 })", optax_walk(lambda: optax.adamw(0.01, weight_decay=0.1, mask=matrices)), "Optax adamw(mask)"),
    Case("flatten", "adam(lr = 0.01)", optax_walk(lambda: optax.flatten(adam(0.01))), "Optax flatten(adam)"),
    # Conditions
    Case("conditionally_mask", "conditionally(adam(lr = 0.01), when = step % 2 == 0)", optax_walk(lambda: optax.transforms.conditionally_mask(adam(0.01), even)), "Optax conditionally_mask"),
    Case("conditionally_transform", "conditionally(trace(0.9) |> scale(0.5), when = step % 2 == 0) |> sgd(lr = 0.1)",
         optax_walk(lambda: chain(optax.transforms.conditionally_transform(chain(optax.trace(0.9), optax.scale(0.5)), even), sgd(0.1))), "Optax conditionally_transform"),
    Case("apply_if_finite", f"{NAN} |> apply_if_finite(adam(lr = 0.01))", optax_walk(lambda: chain(nans, optax.apply_if_finite(adam(0.01), 5))), "Optax apply_if_finite, every third gradient NaN"),
    Case("skip_large_updates", "skip_large_updates(adam(lr = 0.01), max_norm = 15.0)",
         optax_walk(multi(adam(0.01), 1, should_skip_update_fn=functools.partial(optax.skip_large_updates, max_squared_norm=225.0))), "Optax MultiSteps with skip_large_updates"),
    Case("skip_not_finite", f"{NAN} |> skip_large_updates(adam(lr = 0.01), max_norm = inf)",
         optax_walk(lambda: chain(nans, multi(adam(0.01), 1, should_skip_update_fn=optax.skip_not_finite)())), "Optax MultiSteps with skip_not_finite"),
    Case("multi_steps", "multi_steps(adam(lr = 0.01), k = 4)", optax_walk(multi(adam(0.01), 4)), "Optax MultiSteps"),
    Case("multi_steps_growing", "multi_steps(adam(lr = 0.01), k = if step < 12 { 3 } else { 5 })", optax_walk(multi(adam(0.01), lambda n: jnp.where(n < 4, 3, 5))),
         "Optax MultiSteps, k a function of the steps taken: 3 in the first four, then 5"),
    Case("multi_steps_sum", "multi_steps(adam(lr = 0.01), k = 4, average = false)", optax_walk(multi(adam(0.01), 4, use_grad_mean=False)), "Optax MultiSteps(use_grad_mean=False)"),
    # Hyperparameters
    Case("scheduled", "adamw(lr = cosine(peak = 0.02, total = 50), beta1 = linear(start = 0.85, end = 0.95, steps = 30), beta2 = linear(start = 0.9, end = 0.999, steps = 50), "
         "eps = exponential(start = 1e-2, rate = 0.5, steps = 5), weight_decay = linear(start = 0.0, end = 0.2, steps = 50))",
         optax_walk(lambda: optax.inject_hyperparams(optax.adamw)(
             *map(wide, (optax.cosine_decay_schedule(0.02, 50), optax.linear_schedule(0.85, 0.95, 30), optax.linear_schedule(0.9, 0.999, 50), optax.exponential_decay(1e-2, 5, 0.5))),
             weight_decay=wide(optax.linear_schedule(0.0, 0.2, 50)))),
         "Optax inject_hyperparams(adamw)"),
    Case("momentum_warmup", "trace(linear(start = 0.5, end = 0.95, steps = 30)) |> sgd(lr = 0.05)",
         optax_walk(lambda: chain(optax.inject_hyperparams(optax.trace)(wide(optax.linear_schedule(0.5, 0.95, 30))), optax.scale(-0.05))), "Optax inject_hyperparams(trace)"),
    Case("radius_by_rate", "sam(sgd(lr = 0.05), rho = proportion(cosine(peak = 1.0, total = 50), from_high = 1.0, high = 0.2, low = 0.02))",
         sharp(lambda step: 0.02 + 0.18 * 0.5 * (1 + np.cos(np.pi * step / 50))), "the papers in NumPy: SAM, its radius in proportion to a rate", problem="bowl"),
    Case("plateau", f"reduce_on_plateau(sgd(lr = 0.1), value = from_table({VALUES}), factor = 0.5, patience = 4, rtol = 1e-2, cooldown = 2, min_scale = 0.1)",
         plateau(0.1, factor=0.5, patience=3, threshold=1e-2, cooldown=2, min_lr=0.01), "torch ReduceLROnPlateau(factor=0.5, patience=3, threshold=1e-2, cooldown=2, min_lr=0.01)"),
    # Averages of weights
    Case("ema", "sgd(lr = 0.1) |> ema(0.9)", averaged(lambda: sgd(0.1), lambda t, w, a: optax.incremental_update(w, a, 0.1)), "Optax incremental_update", evaluated=True),
    Case("periodic_update", "sgd(lr = 0.1) |> periodic_update(7)", averaged(lambda: sgd(0.1), lambda t, w, a: optax.periodic_update(w, a, jnp.asarray(t), 7)), "Optax periodic_update", evaluated=True),
    Case("swa", "sgd(lr = 0.1) |> swa()", averaged_model(get_swa_avg_fn()), "torch AveragedModel", evaluated=True),
    Case("swa_later", "sgd(lr = 0.1) |> swa(start = 10, every = 3)", averaged_model(get_swa_avg_fn(), 10, 3), "torch AveragedModel from step 11 on, every third", evaluated=True),
    Case("swa_ema", "sgd(lr = 0.1) |> swa(start = 10, decay = 0.8)", averaged_model(get_ema_avg_fn(0.8), 10), "torch AveragedModel(avg_fn=get_ema_avg_fn(0.8))", evaluated=True),
]
