"""@DOC@

`@FUNCTION@` is an Optax transformation, to be used in `optax.chain`, under `jit`, `scan`, `vmap` and `shard_map` like any other. On the CPU all leaves of
@DTYPES@ are updated by @LIBRARY@, which lies beside this file, through XLA's foreign function interface: states in place, if they
are donated. Elsewhere, and with `native=False`, the same rule runs as it is written out below in `jax.numpy`. Generated: change the spec, not this file.
"""

import ctypes
import functools  # noqa: F401 (the rule may use it)
import operator  # noqa: F401 (the rule may use it)
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["@FUNCTION@", "@FUNCTION@_step", "@CLASS@State"]

_LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).with_name("@LIBRARY@")))
_TARGETS = {}
for _suffix, _dtype in @SUFFIXES@:
    for _kind in (@KINDS@):
        _TARGETS[jnp.dtype(_dtype), _kind] = f"optc_@NAME@_{_suffix}_{_kind}_@FINGERPRINT@"
        jax.ffi.register_ffi_target(_TARGETS[jnp.dtype(_dtype), _kind], jax.ffi.pycapsule(getattr(_LIBRARY, f"@NAME@_{_suffix}_{_kind}_xla")), platform="cpu")

# Whether each state is one number for the whole leaf.
_SINGLE = @SINGLE@
# Element types of the states, by that of the weights.
_KEPT = {jnp.dtype(_of): tuple(jnp.dtype(k) for k in _kept) for _of, _kept in @KEPT@}
_NEEDS_WEIGHTS = @NEEDS_WEIGHTS@
_CHANGE_IN_PLACE = @IN_PLACE@
# Whether the change of a weight is a function of the new states (`_change`): then the library makes these in place, and what XLA adds to the weights is no array.
_APART = @APART@
# Whether elements of a leaf, or leaves, are combined.
_REDUCES = @REDUCES@


class @CLASS@State(NamedTuple):
    """How many steps were made, and for each state a tree like that of the weights."""

    count: jax.Array
@FIELDS@

@PARTS@def _rule(t, dtype, @RULE_ARGS@, folds=()):
    """The rule in `jax.numpy`: the change of the weight, and the states, after step `t`."""
@RULE@


@CHANGE@# What leaves contribute to numbers that all share, by rounds, and how each is combined.
_PARTS, _COMBINE = @PARTS_LIST@, @COMBINE@


def _initial(w):
    """Fresh states of a leaf."""
    dtype = jnp.promote_types(w.dtype, jnp.float32)  # noqa: F841 (the states may ask for it)
@INITIAL@

def _kept(dtype):
    """Element types of the states of a leaf."""
    known = _KEPT.get(jnp.dtype(dtype))
    if known is not None:
        return known
    return tuple(jnp.promote_types(dtype, k) if jnp.issubdtype(k, jnp.floating) else k for k in _KEPT[jnp.dtype(jnp.float32)])


def _rounded(like, results, states):
    """The results in the types that they are kept in."""
    return (results[0].astype(like.dtype), *(jnp.broadcast_to(r, s.shape).astype(s.dtype) for r, s in zip(results[1:], states)))


def _written_out(kind, t, hyper, leaves):
    """The rule on all leaves, as `jax.numpy` has it: each leaf is (weight, gradient, states …). Gives the change (or the weight after it, for `step`; neither for `moments`) and the states."""
    folds = [None] * len(_COMBINE)
    for parts, places in _PARTS:
        for w, g, *states in leaves:
            given = parts(t, jnp.promote_types(g.dtype, jnp.float32), w, g, *states, *hyper, folds=folds)
            for k, part in zip(places, given):
                folds[k] = part if folds[k] is None else _COMBINE[k](folds[k], part)
    out = []
    for w, g, *states in leaves:
        dtype = jnp.promote_types(g.dtype, jnp.float32)
        change, *kept = _rule(t, dtype, w, g, *states, *hyper, folds=folds)
        results = _rounded(w, (w + change, *kept), states) if kind == "step" else _rounded(g, (change, *kept), states)
        out.append(results[1:] if kind == "moments" else results)
    return out


def _pairs(hyper):
    """Each number as its f32 and what that leaves over, so that f64 gets through where JAX has only f32."""
    parts = []
    for x in hyper:
        if isinstance(x, (int, float)):
            high = np.float32(x)
            parts += [high, np.float32(float(x) - float(high) if np.isfinite(high) else 0.0)]
        else:
            x = jnp.asarray(x)
            high = x.astype(jnp.float32)
            parts += [high, jnp.where(jnp.isfinite(high), (x - high.astype(x.dtype)).astype(jnp.float32), 0.0)]
    return jnp.stack([jnp.asarray(p, jnp.float32).reshape(()) for p in parts])


def _call(kind, dtype, t, pairs, leaves):
    """One call of the library for all leaves of one type."""
    operands, results, aliases = [jnp.asarray(t, jnp.int32), pairs], [], {}
    for w, g, *states in leaves:
        first = len(operands)
        operands += [w, g, *states]
        if kind == "step":
            aliases[first] = len(results)
        elif kind == "delta" and _CHANGE_IN_PLACE:
            aliases[first + 1] = len(results)
        made = () if kind == "moments" else (g,)
        for k in range(len(states)):
            aliases[first + 2 + k] = len(results) + len(made) + k
        results += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*made, *states)]
    flat = jax.ffi.ffi_call(_TARGETS[jnp.dtype(dtype), kind], results, input_output_aliases=aliases)(*operands)
    each = len(_SINGLE) + (kind != "moments")
    return [tuple(flat[k : k + each]) for k in range(0, len(flat), each)]


def _by_library(kind, dtype, hyper_count):
    """`_call` with a rule for `vmap`: where elements are independent, a batch is one more axis, unless steps or hyperparameters differ in it."""

    @jax.custom_batching.custom_vmap
    def call(t, pairs, leaves):
        return _call(kind, dtype, t, pairs, leaves)

    @call.def_vmap
    def batched(size, is_batched, t, pairs, leaves):
        t_batched, pairs_batched, leaves_batched = is_batched
        if t_batched or pairs_batched or _REDUCES or any(_SINGLE):

            def one(t, pairs, leaves):
                hyper = [pairs[2 * k] + pairs[2 * k + 1] for k in range(hyper_count)]
                return _written_out(kind, t, hyper, leaves)

            axes = jax.tree.map(lambda b: 0 if b else None, (t_batched, pairs_batched, leaves_batched))
            out = jax.vmap(one, in_axes=axes, axis_size=size)(t, pairs, leaves)
        else:
            whole = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), leaves, leaves_batched)
            out = call(t, pairs, whole)
        return out, jax.tree.map(lambda _: True, out)

    return call


def _init(params):
    leaves, tree = jax.tree.flatten(params)
    kept = [[s.astype(k) for s, k in zip(_initial(w), _kept(w.dtype))] for w in leaves]
    return @CLASS@State(jnp.zeros((), jnp.int32), *(tree.unflatten([states[k] for states in kept]) for k in range(len(_SINGLE))))


def _run(kind, given, native, gradients, state, params):
    """One step on trees: the changes, or the weights after them, and the new state."""
    flat, tree = jax.tree.flatten(gradients)
    weights = tree.flatten_up_to(params) if params is not None else flat
    states = [tree.flatten_up_to(s) for s in state[1:]]
    leaves = list(zip(weights, flat, *states))
    count = optax.safe_increment(state.count)
    hyper = [x(state.count) if callable(x) else x for x in given]
    use = jax.default_backend() == "cpu" if native is None else native
    out = [None] * len(leaves)
    groups = {}
    for k, (w, g, *_) in enumerate(leaves):
        dtype = jnp.dtype(g.dtype)
        ours = use and dtype in _KEPT and w.dtype == dtype and all(s[k].dtype == kept for s, kept in zip(states, _KEPT[dtype]))
        groups.setdefault(dtype if ours else None, []).append(k)
    if _PARTS and len(groups) > 1:
        # Leaves have numbers in common, so that all go one way.
        groups = {None: list(range(len(leaves)))}
    for dtype, where in groups.items():
        part = [leaves[k] for k in where]
        if dtype is None:
            results = _written_out(kind, count, hyper, part)
        elif kind == "delta" and _APART:
            new = _by_library("moments", dtype, len(hyper))(count, _pairs(hyper), part)
            wide = jnp.promote_types(dtype, jnp.float32)
            results = [_rounded(g, (_change(count, wide, w, g, *kept, *hyper), *kept), kept) for (w, g, *_), kept in zip(part, new)]
        else:
            results = _by_library(kind, dtype, len(hyper))(count, _pairs(hyper), part)
        for k, r in zip(where, results):
            out[k] = r
    trees = [tree.unflatten([r[k] for r in out]) for k in range(1 + len(_SINGLE))]
    return trees[0], @CLASS@State(count, *trees[1:])


def @FUNCTION@(@ARGS@*, native=None):
    """@SUMMARY@

    Hyperparameters are numbers, arrays (also traced ones, as from `optax.inject_hyperparams`) or functions of the number of steps made before.
    `native`: whether the library is called; by default where JAX runs on the CPU.

    The weights must be given to `update` (`params`)@NEEDS@.
    """
    given = tuple([@VALUES@])

    def update(updates, state, params=None, **extra):
        del extra
        if _NEEDS_WEIGHTS and params is None:
            raise ValueError(optax.NO_PARAMS_MSG if hasattr(optax, "NO_PARAMS_MSG") else "`params` must be given")
        return _run("delta", given, native, updates, state, params)

    return optax.GradientTransformationExtraArgs(_init, update)


def @FUNCTION@_step(@ARGS@*, native=None):
    """The whole step in one pass: a function of (weights, gradients, state) that gives the new weights and the new state, both in place if they are donated.

    It saves what `update` and `optax.apply_updates` need beside: an array of the size of the weights, written and read again. The state is that of `@FUNCTION@(…).init`.
    """
    given = tuple([@VALUES@])

    def step(params, gradients, state):
        return _run("step", given, native, gradients, state, params)

    return step
