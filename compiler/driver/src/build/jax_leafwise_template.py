"""@DOC@

`@FUNCTION@` is an Optax transformation for CPU leaves of the shapes in `_FORMS`, any number of each, in any order: the rule has to know shapes, and @LIBRARY@, which lies beside this file, has functions for
these, called through XLA's foreign function interface. States are updated in place, if they are donated. Generated: change the spec, not this file.
"""

import ctypes
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["@FUNCTION@", "@FUNCTION@_step", "@CLASS@State"]

_LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).with_name("@LIBRARY@")))
# By element type and shape: prefix of the functions; of each state type and shape, or None where such a leaf lacks it; bytes of memory.
_FORMS = {
@FORMS@}
_FORMS = {(jnp.dtype(dtype), shape): form for (dtype, shape), form in _FORMS.items()}
for _prefix, _, _ in _FORMS.values():
    for _kind in ("step", "init"):
        jax.ffi.register_ffi_target(f"optc_{_prefix}_{_kind}_@FINGERPRINT@", jax.ffi.pycapsule(getattr(_LIBRARY, f"{_prefix}_{_kind}_xla")), platform="cpu")


class @CLASS@State(NamedTuple):
    """How many steps were made, and for each state a tree like that of the weights; leaves that lack it have one zero there."""

    count: jax.Array
@FIELDS@

def _form(w):
    form = _FORMS.get((jnp.dtype(w.dtype), tuple(w.shape)))
    if form is None:
        known = ", ".join(f"{list(shape)} of {dtype}" for dtype, shape in _FORMS)
        raise ValueError(f"@FUNCTION@ was built for {known}, not {list(w.shape)} of {w.dtype}; `optc build --shapes` takes more shapes")
    return form


def _seed(seed, place):
    """A seed for each leaf, two words."""
    x = (int(seed) + 0x9E3779B97F4A7C15 * (place + 1)) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    x ^= x >> 31
    return np.array([x & 0xFFFFFFFF, x >> 32], np.uint32)


def _pairs(hyper):
    """Each number as its f32 and what that leaves over, so that f64 gets through where JAX has only f32."""
    parts = [jnp.zeros((), jnp.float32)] * (not hyper)
    for x in hyper:
        if isinstance(x, (int, float)):
            high = np.float32(x)
            parts += [high, np.float32(float(x) - float(high) if np.isfinite(high) else 0.0)]
        else:
            x = jnp.asarray(x)
            high = x.astype(jnp.float32)
            parts += [high, jnp.where(jnp.isfinite(high), (x - high.astype(x.dtype)).astype(jnp.float32), 0.0)]
    return jnp.stack([jnp.asarray(p, jnp.float32).reshape(()) for p in parts])


def _memory(work):
    return jax.ShapeDtypeStruct((max(work, 1),), jnp.uint8)


def _initial(w, seed):
    """Fresh states of a leaf."""
    prefix, states, work = _form(w)
    made = [jax.ShapeDtypeStruct(s[1], jnp.dtype(s[0])) for s in states if s]
    call = jax.ffi.ffi_call(f"optc_{prefix}_init_@FINGERPRINT@", [*made, _memory(work)], vmap_method="sequential")
    made = iter(call(seed, w))
    return [next(made) if s else jnp.zeros((1,), jnp.float32) for s in states]


def _leaf(t, pairs, seed, in_place, w, g, kept):
    """The weight and the states of a leaf after step `t`."""
    prefix, states, work = _form(w)
    present = [x for s, x in zip(states, kept) if s]
    for s, x in zip(states, kept):
        if s and (tuple(x.shape), x.dtype) != (s[1], jnp.dtype(s[0])):
            raise ValueError(f"a state has the shape {list(x.shape)} and type {x.dtype}, not {list(s[1])} and {s[0]}")
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (w, *present)]
    aliases = {5 + k: 1 + k for k in range(len(present))} | ({3: 0} if in_place else {})
    call = jax.ffi.ffi_call(f"optc_{prefix}_step_@FINGERPRINT@", [*results, _memory(work)], input_output_aliases=aliases, vmap_method="sequential")
    new, *made = call(seed, jnp.asarray(t, jnp.int32), pairs, w, g.astype(w.dtype), *present)
    made = iter(made)
    return new, [next(made) if s else x for s, x in zip(states, kept)]


def _init(params, seed):
    leaves, tree = jax.tree.flatten(params)
    kept = [_initial(w, _seed(seed, k)) for k, w in enumerate(leaves)]
    return @CLASS@State(jnp.zeros((), jnp.int32), *(tree.unflatten([states[k] for states in kept]) for k in range(@STATES@)))


def _run(given, seed, in_place, gradients, state, params):
    """One step on trees: the new weights and the new state."""
    flat, tree = jax.tree.flatten(gradients)
    weights = tree.flatten_up_to(params)
    states = [tree.flatten_up_to(s) for s in state[1:]]
    count = optax.safe_increment(state.count)
    pairs = _pairs([x(state.count) if callable(x) else x for x in given])
    out = [_leaf(count, pairs, _seed(seed, k), in_place, w, g, [s[k] for s in states]) for k, (w, g) in enumerate(zip(weights, flat))]
    new = tree.unflatten([w for w, _ in out])
    return new, @CLASS@State(count, *(tree.unflatten([kept[k] for _, kept in out]) for k in range(@STATES@)))


def @FUNCTION@(@ARGS@*, seed=0):
    """@SUMMARY@

    Hyperparameters are numbers, arrays (also traced ones, as from `optax.inject_hyperparams`) or functions of the number of steps made before.
    `seed`: what random numbers depend on, beside the step and the place of the leaf; without meaning where the rule draws none.

    The weights must be given to `update` (`params`).
    """
    given = tuple([@VALUES@])

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG if hasattr(optax, "NO_PARAMS_MSG") else "`params` must be given")
        new, state = _run(given, seed, False, updates, state, params)
        return jax.tree.map(lambda a, b: a - b, new, params), state

    return optax.GradientTransformationExtraArgs(lambda params: _init(params, seed), update)


def @FUNCTION@_step(@ARGS@*, seed=0):
    """The whole step: a function of (weights, gradients, state) that gives the new weights and the new state, both in place if they are donated. The state is that of `@FUNCTION@(…).init`."""
    given = tuple([@VALUES@])

    def step(params, gradients, state):
        return _run(given, seed, True, gradients, state, params)

    return step
