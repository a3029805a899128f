"""Writes `losses.opt` and `data/losses.npz`: value and gradient of every loss of the library in f64, from Optax, torch, pytorch_optimizer, scikit-learn and SciPy, or NumPy where none has it.

    python tests/parity/losses.py          (the environment of bench/peers/setup.sh with torch and pytorch_optimizer)
"""
import importlib.metadata
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytorch_optimizer.loss as po
import scipy.optimize
import torch
import torch.nn.functional as F
from pytorch_optimizer.loss.bi_tempered import bi_tempered_logistic_loss, exp_t, log_t, tempered_softmax
from sklearn.metrics import mean_pinball_loss

from optc_literals import literal

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
HERE = os.path.dirname(os.path.abspath(__file__))


def exact(x):
    """Rounded to 1/1024, so that f32 and f64 hold the same numbers."""
    return np.round(np.asarray(x, np.float64) * 1024) / 1024


def inputs():
    rng = np.random.default_rng(21)
    n = rng.standard_normal
    dense = exact(rng.dirichlet(np.ones(5), 4))
    dense[0] = [0, 0, 1, 0, 0]
    dense[np.arange(4), dense.argmax(1)] += 1 - dense.sum(1)
    classes = np.array([[0, 2, 1, 0, 2, 2], [1, 1, 0, 2, 0, 1]])
    x = dict(
        z=exact(n((4, 5)) * 3),
        target=exact(n((4, 5))),
        dense=dense,
        yes=np.round(rng.random((4, 5))),
        soft=exact(rng.random((4, 5))),
        variance=exact(0.1 + rng.random((4, 5)) * 2) * (rng.random((4, 5)) > 0.1),
        counts=np.floor(rng.random((4, 5)) * 6),
        labels=np.array([3, 0, 4, 1]),
        many=np.array([120.0, 7.0, 900.0, 33.0, 2.0]),
        # Segmentation: 2 examples of 6 places and 3 classes.
        pixels=exact(n((2, 6, 3)) * 2),
        regions=np.eye(3)[classes],
        overlapping=np.round(rng.random((2, 6, 3))),
        # Embeddings of 6 examples, and what they should be like and unlike.
        anchors=exact(n((6, 4))),
        positives=exact(n((6, 4))),
        negatives=exact(n((6, 4))),
        kinds=np.array([0, 1, 0, 2, 1, 0]),
        signs=np.array([1.0, -1.0, -1.0, 1.0, 1.0, -1.0]),
        kept=np.array([[1, 1, 0, 1, 1], [1] * 5, [0] * 5, [0, 1, 1, 0, 1]]),
        # Sequences: 3 of up to 8 inputs, 4 classes, up to 3 labels.
        heard=exact(n((3, 8, 4)) * 2),
        words=np.array([[1, 2, 2], [3, 1, 0], [2, 0, 0]]),
        heard_lengths=np.array([8, 6, 4]),
        word_lengths=np.array([3, 2, 1]),
        costs=exact(rng.random((4, 6)) * 9),
    )
    x["overlapping"][..., 2] = 0
    x["mixed"] = np.concatenate([1 - x["yes"][:1], x["soft"][1:]])
    x["close"] = exact(n((4, 5)) * 0.6)
    return x


X = inputs()


def by_jax(f):
    return lambda z: [np.asarray(v) for v in jax.value_and_grad(lambda z: jnp.mean(f(z)))(jnp.asarray(z))]


def by_torch(f):
    def run(z):
        z = torch.tensor(z, requires_grad=True)
        value = f(z).mean()
        value.backward()
        return [value.detach().numpy(), z.grad.numpy()]

    return run


def by_numpy(f, gradient):
    return lambda z: [np.float64(f(z)), gradient(z)]


T = {k: torch.tensor(v) for k, v in X.items()}
J = X
one_hot = np.eye(5)[X["labels"]]
sign = 2 * X["yes"] - 1
tsign = torch.tensor(sign)
first = lambda x: x.movedim(-1, 1)
paddings = lambda lengths, n: (np.arange(n) >= lengths[:, None]).astype(np.float64)
heard_pad, word_pad = paddings(X["heard_lengths"], 8), paddings(X["word_lengths"], 3)


def optax_log_cosh(z):
    return optax.log_cosh(z, J["target"])


def assigned(z):
    rows, cols = scipy.optimize.linear_sum_assignment(z)
    taken = np.zeros_like(z)
    taken[rows, cols] = 1
    return taken


def agreeing(value, f32):
    """`value`, which a class of pytorch_optimizer that works in f32 gives within its rounding."""
    assert abs(float(value.detach()) / float(f32.detach()) - 1) < 1e-5
    return value


def lovasz(z):
    """`LovaszHingeLoss` in f64."""
    rows = []
    for p, y in zip(z, T["yes"]):
        errors, order = torch.sort(1 - p * (2 * y - 1), descending=True)
        y = y[order]
        jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        rows.append(torch.relu(errors) @ jaccard)
    return agreeing(torch.stack(rows).mean(), po.LovaszHingeLoss()(z, T["yes"]))


def ldam(z):
    """`LDAMLoss` in f64."""
    rare = T["many"] ** -0.25
    margins = 0.5 * rare / rare.max()
    value = F.cross_entropy(30 * (z - margins * torch.tensor(one_hot)), T["labels"])
    return agreeing(value, po.LDAMLoss(X["many"].tolist())(z, T["labels"]))


def tempered(t1, t2, smooth=0.0, scale=1.0):
    return lambda z: bi_tempered_logistic_loss(scale * z, T["labels"], t1, t2, smooth, num_iters=50)


def soft_f1(z, beta):
    """`SoftF1Loss` in f64."""
    y = T["yes"]
    tp, fp, fn = (y * z).sum(), ((1 - y) * z).sum(), (y * (1 - z)).sum()
    p, r = tp / (tp + fp + 1e-6), tp / (tp + fn + 1e-6)
    return agreeing(1 - (1 + beta**2) * (p * r) / (beta**2 * p + r + 1e-6), po.SoftF1Loss(beta)(z, y))


# Gradients of saturated probabilities are differences of numbers thousands of times larger.
IN_F32 = {"bi_tempered_large": 5e-4, "dice_large": 1e-2}

# name, optc source in z, input z, what it is compared with, reference
CASES = [
    # regression
    ("mse", "mse(z, target as f32)", "z", "Optax squared_error", by_jax(lambda z: optax.squared_error(z, J["target"]))),
    ("l2", "mse(z, target as f32) / 2", "z", "Optax l2_loss", by_jax(lambda z: optax.l2_loss(z, J["target"]))),
    ("l1", "l1(z, target as f32)", "z", "torch l1_loss", by_torch(lambda z: F.l1_loss(z, T["target"]))),
    ("huber", "huber(z, target as f32, delta = 1.5)", "z", "Optax huber_loss", by_jax(lambda z: optax.huber_loss(z, J["target"], delta=1.5))),
    ("huber_torch", "huber(z, target as f32, delta = 0.5)", "z", "torch huber_loss", by_torch(lambda z: F.huber_loss(z, T["target"], delta=0.5))),
    ("smooth_l1", "smooth_l1(z, target as f32, beta = 1.5)", "z", "torch smooth_l1_loss", by_torch(lambda z: F.smooth_l1_loss(z, T["target"], beta=1.5))),
    ("log_cosh", "log_cosh(z, target as f32)", "z", "Optax log_cosh", by_jax(optax_log_cosh)),
    ("log_cosh_large", "log_cosh(1e4 * z, target as f32)", "z", "Optax log_cosh", by_jax(lambda z: optax_log_cosh(1e4 * z))),
    ("quantile", "quantile(z, target as f32, q = 0.2)", "z", "scikit-learn mean_pinball_loss", by_numpy(
        lambda z: mean_pinball_loss(J["target"].reshape(-1), z.reshape(-1), alpha=0.2), lambda z: np.where(J["target"] > z, -0.2, 0.8) / z.size)),
    ("gaussian_nll", "gaussian_nll(z, target as f32, variance as f32)", "z", "torch gaussian_nll_loss", by_torch(lambda z: F.gaussian_nll_loss(z, T["target"], T["variance"]))),
    ("gaussian_nll_variance", "gaussian_nll(target as f32, soft as f32, z, full = true)", "variance", "torch gaussian_nll_loss in the variance, some of them 0",
     by_torch(lambda z: F.gaussian_nll_loss(T["target"], T["soft"], z, full=True))),
    ("poisson_nll", "poisson_nll(z, counts as f32)", "z", "torch poisson_nll_loss", by_torch(lambda z: F.poisson_nll_loss(z, T["counts"]))),
    ("poisson_nll_full", "poisson_nll(z, counts as f32, full = true)", "z", "torch poisson_nll_loss", by_torch(lambda z: F.poisson_nll_loss(z, T["counts"], full=True))),
    ("poisson_nll_rate", "poisson_nll(z, counts as f32, log_input = false)", "soft", "torch poisson_nll_loss", by_torch(lambda z: F.poisson_nll_loss(z, T["counts"], log_input=False))),
    ("cosine_similarity", "mean(cosine_similarity(z, target as f32))", "z", "Optax cosine_similarity", by_jax(lambda z: optax.cosine_similarity(z, J["target"]))),
    ("cosine_distance", "cosine_distance(z, target as f32)", "z", "Optax cosine_distance", by_jax(lambda z: optax.cosine_distance(z, J["target"]))),
    # cross entropy
    ("cross_entropy", "cross_entropy(z, labels)", "z", "Optax softmax_cross_entropy_with_integer_labels", by_jax(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, J["labels"]))),
    ("cross_entropy_torch", "cross_entropy(z, labels, smoothing = 0.1)", "z", "torch cross_entropy", by_torch(lambda z: F.cross_entropy(z, T["labels"], label_smoothing=0.1))),
    ("cross_entropy_large", "cross_entropy(200.0 * z, labels)", "z", "Optax softmax_cross_entropy_with_integer_labels",
     by_jax(lambda z: optax.softmax_cross_entropy_with_integer_labels(200.0 * z, J["labels"]))),
    ("cross_entropy_dense", "cross_entropy_dense(z, dense as f32)", "z", "Optax softmax_cross_entropy", by_jax(lambda z: optax.softmax_cross_entropy(z, J["dense"]))),
    ("cross_entropy_dense_smooth", "cross_entropy_dense(z, dense as f32, smoothing = 0.2)", "z", "Optax softmax_cross_entropy, smooth_labels",
     by_jax(lambda z: optax.softmax_cross_entropy(z, optax.smooth_labels(jnp.asarray(J["dense"]), 0.2)))),
    ("cross_entropy_target", "cross_entropy_dense(target as f32, z)", "dense", "Optax softmax_cross_entropy in the target", by_jax(lambda z: optax.softmax_cross_entropy(J["target"], z))),
    ("cross_entropy_ruled_out", "cross_entropy_dense(where(dense == 0, -inf, z), dense as f32)", "z", "Optax safe_softmax_cross_entropy, logits -infinity",
     by_jax(lambda z: optax.losses.safe_softmax_cross_entropy(jnp.where(J["dense"] == 0, -jnp.inf, z), J["dense"]))),
    ("smooth_labels", "sum(z * smooth_labels(z, 0.3))", "dense", "Optax smooth_labels", by_jax(lambda z: jnp.sum(z * optax.smooth_labels(z, 0.3)))),
    ("cross_entropy_weights", "sum((soft as f32)[0][labels] * vmap(cross_entropy)(z, labels)) / sum((soft[0] as f32)[labels])", "z", "torch cross_entropy with weights of classes",
     by_torch(lambda z: F.cross_entropy(z, T["labels"], weight=T["soft"][0]))),
    ("cross_entropy_ignored", "sum(where(labels != 4, vmap(cross_entropy)(z, labels), 0)) / sum((labels != 4) as f32)", "z", "torch cross_entropy with ignore_index",
     by_torch(lambda z: F.cross_entropy(z, T["labels"], ignore_index=4))),
    ("cross_entropy_sum", "sum((soft as f32)[:, 0] * vmap(cross_entropy)(z, labels))", "z", "torch cross_entropy, example by example (reduction none)",
     by_torch(lambda z: (T["soft"][:, 0] * F.cross_entropy(z, T["labels"], reduction="none")).sum())),
    ("binary_cross_entropy_positive", "mean(3.0 * (yes as f32) * softplus(-z) + (1 - (yes as f32)) * softplus(z))", "z", "torch binary_cross_entropy_with_logits with pos_weight",
     by_torch(lambda z: F.binary_cross_entropy_with_logits(z, T["yes"], pos_weight=torch.tensor(3.0)))),
    ("poly_cross_entropy", "poly_cross_entropy(z, dense as f32, epsilon = 1.5)", "z", "Optax poly_loss_cross_entropy",
     by_jax(lambda z: optax.losses.poly_loss_cross_entropy(z, J["dense"], epsilon=1.5))),
    ("poly_cross_entropy_large", "poly_cross_entropy(1e3 * z, dense as f32)", "z", "Optax poly_loss_cross_entropy", by_jax(lambda z: optax.losses.poly_loss_cross_entropy(1e3 * z, J["dense"]))),
    ("nll", "nll(z, labels)", "z", "torch nll_loss", by_torch(lambda z: F.nll_loss(z, T["labels"]))),
    ("binary_cross_entropy", "binary_cross_entropy(z, yes as f32)", "z", "Optax sigmoid_binary_cross_entropy", by_jax(lambda z: optax.sigmoid_binary_cross_entropy(z, J["yes"]))),
    ("binary_cross_entropy_large", "binary_cross_entropy(100.0 * z, yes as f32)", "z", "Optax sigmoid_binary_cross_entropy", by_jax(lambda z: optax.sigmoid_binary_cross_entropy(100.0 * z, J["yes"]))),
    ("binary_cross_entropy_torch", "binary_cross_entropy(z, soft as f32)", "z", "torch binary_cross_entropy_with_logits", by_torch(lambda z: F.binary_cross_entropy_with_logits(z, T["soft"]))),
    ("bce", "bce(z, yes as f32)", "soft", "torch binary_cross_entropy", by_torch(lambda z: F.binary_cross_entropy(z, T["yes"]))),
    ("bce_smooth", "bce(z, yes as f32, smoothing = 0.1)", "mixed", "pytorch_optimizer BCELoss, some probabilities 0 and 1", by_torch(lambda z: po.BCELoss(label_smooth=0.1)(z, T["yes"]))),
    ("focal", "focal(z, yes as f32)", "z", "Optax sigmoid_focal_loss", by_jax(lambda z: optax.losses.sigmoid_focal_loss(z, J["yes"]))),
    ("focal_alpha", "focal(z, yes as f32, alpha = 0.25, gamma = 0.5)", "z", "Optax sigmoid_focal_loss", by_jax(lambda z: optax.losses.sigmoid_focal_loss(z, J["yes"], alpha=0.25, gamma=0.5))),
    ("focal_soft", "focal(z, soft as f32, gamma = 1.5)", "z", "Optax sigmoid_focal_loss", by_jax(lambda z: optax.losses.sigmoid_focal_loss(z, J["soft"], gamma=1.5))),
    ("focal_large", "focal(1e3 * z, yes as f32, gamma = 0.5)", "z", "Optax sigmoid_focal_loss", by_jax(lambda z: optax.losses.sigmoid_focal_loss(1e3 * z, J["yes"], gamma=0.5))),
    ("focal_torch", "focal(z, yes as f32)", "z", "pytorch_optimizer FocalLoss", by_torch(lambda z: po.FocalLoss()(z, T["yes"]))),
    ("focal_probabilities", "focal(z, yes as f32, alpha = 0.25)", "z", "pytorch_optimizer BCEFocalLoss of sigmoid(z)", by_torch(lambda z: po.BCEFocalLoss(eps=1e-12)(torch.sigmoid(z), T["yes"]))),
    ("kl_divergence", "kl_divergence(log_softmax(z, axis = -1), dense as f32)", "z", "Optax kl_divergence", by_jax(lambda z: optax.kl_divergence(jax.nn.log_softmax(z), J["dense"]))),
    ("kl_divergence_torch", "kl_divergence(z, dense as f32)", "z", "torch kl_div", by_torch(lambda z: F.kl_div(z, T["dense"], reduction="batchmean"))),
    ("kl_divergence_log", "kl_divergence_log(log_softmax(z, axis = -1), log_softmax(target as f32, axis = -1))", "z", "Optax kl_divergence_with_log_targets",
     by_jax(lambda z: optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(z), jax.nn.log_softmax(J["target"])))),
    ("kl_divergence_log_target", "kl_divergence_log(target as f32, z)", "z", "torch kl_div with log_target", by_torch(lambda z: F.kl_div(T["target"], z, reduction="batchmean", log_target=True))),
    ("generalized_kl", "generalized_kl(z, dense as f32)", "z", "Optax generalized_kl_divergence", by_jax(lambda z: optax.losses.generalized_kl_divergence(z, J["dense"]))),
    ("ldam", "ldam(z, labels, many as f32)", "z", "pytorch_optimizer LDAMLoss", by_torch(lambda z: ldam(z))),
    ("bi_tempered", "bi_tempered(z, one_hot(labels, 5) as f32)", "z", "pytorch_optimizer bi_tempered_logistic_loss, t1 0.8, t2 1.2", by_torch(tempered(0.8, 1.2))),
    ("bi_tempered_smooth", "bi_tempered(z, one_hot(labels, 5) as f32, t1 = 0.5, t2 = 2.0, smoothing = 0.1)", "z", "pytorch_optimizer bi_tempered_logistic_loss", by_torch(tempered(0.5, 2.0, 0.1))),
    ("bi_tempered_light", "bi_tempered(z, one_hot(labels, 5) as f32, t1 = 0.6, t2 = 0.7)", "close", "pytorch_optimizer bi_tempered_logistic_loss, t2 below 1", by_torch(tempered(0.6, 0.7))),
    ("bi_tempered_t1", "bi_tempered(z, one_hot(labels, 5) as f32, t1 = 1.0, t2 = 1.3)", "z", "pytorch_optimizer bi_tempered_logistic_loss", by_torch(tempered(1.0, 1.3))),
    ("bi_tempered_plain", "bi_tempered(z, one_hot(labels, 5) as f32, t1 = 1.0, t2 = 1.0)", "z", "pytorch_optimizer bi_tempered_logistic_loss", by_torch(tempered(1.0, 1.0))),
    ("bi_tempered_large", "bi_tempered(100.0 * z, one_hot(labels, 5) as f32)", "z", "pytorch_optimizer bi_tempered_logistic_loss", by_torch(tempered(0.8, 1.2, scale=100.0))),
    ("bi_tempered_binary", "bi_tempered(stack([-z, z], axis = -1), stack([1 - (yes as f32), yes as f32], axis = -1), iterations = 5)", "z",
     "pytorch_optimizer BinaryBiTemperedLogisticLoss, which iterates 5 times",
     by_torch(lambda z: po.BinaryBiTemperedLogisticLoss(0.8, 1.2)(z[:, None], T["yes"][:, None]))),
    ("tempered_softmax", "sum(dense as f32 * tempered_softmax(z, 1.5))", "z", "pytorch_optimizer tempered_softmax", by_torch(lambda z: (T["dense"] * tempered_softmax(z, 1.5, 50)).sum())),
    ("log_t", "sum(dense as f32 * log_t(z + 0.1, 0.7))", "soft", "pytorch_optimizer log_t", by_torch(lambda z: (T["dense"] * log_t(z + 0.1, 0.7)).sum())),
    ("exp_t", "sum(dense as f32 * exp_t(z, 0.7))", "z", "pytorch_optimizer exp_t", by_torch(lambda z: (T["dense"] * exp_t(z, 0.7)).sum())),
    # margins
    ("hinge", "hinge(z, 2 * (yes as f32) - 1)", "z", "Optax hinge_loss", by_jax(lambda z: optax.hinge_loss(z, sign))),
    ("perceptron", "perceptron(z, 2 * (yes as f32) - 1)", "z", "Optax perceptron_loss", by_jax(lambda z: optax.losses.perceptron_loss(z, sign))),
    ("multiclass_hinge", "multiclass_hinge(z, labels)", "z", "Optax multiclass_hinge_loss", by_jax(lambda z: optax.losses.multiclass_hinge_loss(z, J["labels"]))),
    ("multiclass_perceptron", "multiclass_perceptron(z, labels)", "z", "Optax multiclass_perceptron_loss", by_jax(lambda z: optax.losses.multiclass_perceptron_loss(z, J["labels"]))),
    ("multi_margin", "multi_margin(z, labels)", "z", "torch multi_margin_loss", by_torch(lambda z: F.multi_margin_loss(z, T["labels"]))),
    ("multi_margin_squared", "multi_margin(z, labels, p = 2, margin = 0.5)", "z", "torch multi_margin_loss", by_torch(lambda z: F.multi_margin_loss(z, T["labels"], p=2, margin=0.5))),
    ("multilabel_margin", "multilabel_margin(z, yes as f32)", "z", "torch multilabel_margin_loss",
     by_torch(lambda z: F.multilabel_margin_loss(z, torch.tensor([(np.flatnonzero(r).tolist() + [-1] * 5)[:5] for r in X["yes"]])))),
    ("soft_margin", "soft_margin(z, 2 * (yes as f32) - 1)", "z", "torch soft_margin_loss", by_torch(lambda z: F.soft_margin_loss(z, tsign))),
    ("soft_margin_large", "soft_margin(300.0 * z, 2 * (yes as f32) - 1)", "z", "torch binary_cross_entropy_with_logits", by_torch(lambda z: F.binary_cross_entropy_with_logits(300 * z, T["yes"]))),
    ("multilabel_soft_margin", "binary_cross_entropy(z, yes as f32)", "z", "torch multilabel_soft_margin_loss", by_torch(lambda z: F.multilabel_soft_margin_loss(z, T["yes"]))),
    ("margin_ranking", "margin_ranking(z, target as f32, 2 * (yes as f32) - 1, margin = 0.5)", "z", "torch margin_ranking_loss",
     by_torch(lambda z: F.margin_ranking_loss(z, T["target"], tsign, margin=0.5))),
    ("hinge_embedding", "hinge_embedding(z, 2 * (yes as f32) - 1, margin = 2.0)", "z", "torch hinge_embedding_loss", by_torch(lambda z: F.hinge_embedding_loss(z, tsign, margin=2.0))),
    # sparsemax, Fenchel-Young
    ("sparsemax_loss", "sparsemax_loss(z, labels)", "close", "Optax multiclass_sparsemax_loss", by_jax(lambda z: optax.losses.multiclass_sparsemax_loss(z, J["labels"]))),
    ("sparsemax_loss_large", "sparsemax_loss(1e3 * z, labels)", "z", "Optax multiclass_sparsemax_loss", by_jax(lambda z: optax.losses.multiclass_sparsemax_loss(1e3 * z, J["labels"]))),
    ("sparsemax", "sum(target as f32 * sparsemax(z))", "close", "Optax projection_simplex", by_jax(lambda z: jnp.sum(J["target"] * jax.vmap(optax.projections.projection_simplex)(z)))),
    ("binary_sparsemax_loss", "binary_sparsemax_loss(z, yes as f32)", "target", "Optax sparsemax_loss", by_jax(lambda z: optax.losses.sparsemax_loss(z, J["yes"] > 0))),
    ("binary_sparsemax_loss_large", "binary_sparsemax_loss(1e4 * z, yes as f32)", "z", "Optax sparsemax_loss", by_jax(lambda z: optax.losses.sparsemax_loss(1e4 * z, J["yes"] > 0))),
    ("fenchel_young", "fenchel_young(s -> logsumexp(s, axis = -1))(z, dense as f32)", "z", "Optax make_fenchel_young_loss",
     by_jax(lambda z: optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(z, J["dense"]))),
    ("fenchel_young_max", "fenchel_young(s -> max(s, axis = -1))(z, dense as f32)", "z", "Optax make_fenchel_young_loss",
     by_jax(lambda z: optax.losses.make_fenchel_young_loss(jnp.max)(z, J["dense"]))),
    # segmentation
    ("dice", "dice(z, regions as f32)", "pixels", "Optax dice_loss", by_jax(lambda z: optax.losses.dice_loss(z, J["regions"]))),
    ("dice_weights", "dice(z, regions as f32, weights = [1.0, 0.5, 2.0], alpha = 0.3, beta = 0.7, smooth = 0.1, background = false)", "pixels", "Optax dice_loss",
     by_jax(lambda z: optax.losses.dice_loss(z, J["regions"], class_weights=jnp.array([1.0, 0.5, 2.0]), alpha=0.3, beta=0.7, smooth=0.1, ignore_background=True))),
    ("dice_large", "dice(30.0 * z, regions as f32)", "pixels", "Optax dice_loss", by_jax(lambda z: optax.losses.dice_loss(30.0 * z, J["regions"]))),
    ("binary_dice", "binary_dice(z, yes as f32)", "z", "Optax binary_dice_loss", by_jax(lambda z: optax.losses.binary_dice_loss(z, J["yes"]))),
    ("generalized_dice", "generalized_dice(z, regions as f32)", "pixels", "Optax multiclass_generalized_dice_loss", by_jax(lambda z: optax.losses.multiclass_generalized_dice_loss(z, J["regions"]))),
    ("batch_dice", "batch_dice(z, regions as f32, smooth = 0.5)", "pixels", "pytorch_optimizer DiceLoss, multiclass",
     by_torch(lambda z: po.DiceLoss("multiclass", label_smooth=0.5)(first(z), T["regions"].argmax(-1)))),
    ("batch_dice_multilabel", "batch_dice(z, overlapping as f32, exclusive = false)", "pixels", "pytorch_optimizer DiceLoss, multilabel, a class absent",
     by_torch(lambda z: po.DiceLoss("multilabel")(first(z), first(T["overlapping"])))),
    ("batch_dice_log", "batch_dice(z, regions as f32, log_loss = true)", "pixels", "pytorch_optimizer DiceLoss, log_loss",
     by_torch(lambda z: po.DiceLoss("multiclass", log_loss=True)(first(z), T["regions"].argmax(-1)))),
    ("batch_dice_binary", "batch_dice(z[..., none], yes[..., none] as f32, exclusive = false)", "z", "pytorch_optimizer DiceLoss, binary",
     by_torch(lambda z: po.DiceLoss("binary")(z[:, None], T["yes"][:, None]))),
    ("jaccard", "jaccard(z, regions as f32, smooth = 0.5)", "pixels", "pytorch_optimizer JaccardLoss, multiclass",
     by_torch(lambda z: po.JaccardLoss("multiclass", label_smooth=0.5)(first(z), T["regions"].argmax(-1)))),
    ("jaccard_multilabel", "jaccard(z, overlapping as f32, exclusive = false)", "pixels", "pytorch_optimizer JaccardLoss, multilabel, a class absent",
     by_torch(lambda z: po.JaccardLoss("multilabel")(first(z), first(T["overlapping"])))),
    ("jaccard_log", "jaccard(z, regions as f32, log_loss = true)", "pixels", "pytorch_optimizer JaccardLoss, log_loss",
     by_torch(lambda z: po.JaccardLoss("multiclass", log_loss=True)(first(z), T["regions"].argmax(-1)))),
    ("tversky", "tversky(z, yes as f32, alpha = 0.3, beta = 0.7)", "z", "pytorch_optimizer TverskyLoss", by_torch(lambda z: po.TverskyLoss(0.3, 0.7)(z, T["yes"]))),
    ("focal_tversky", "focal_tversky(z, yes as f32, alpha = 0.3, beta = 0.7, gamma = 0.75)", "z", "pytorch_optimizer FocalTverskyLoss",
     by_torch(lambda z: po.FocalTverskyLoss(0.3, 0.7, 0.75)(z, T["yes"]))),
    ("soft_f1", "soft_f1(z, yes as f32, beta = 2.0)", "soft", "pytorch_optimizer SoftF1Loss", by_torch(lambda z: soft_f1(z, 2.0))),
    ("lovasz_hinge", "lovasz_hinge(z, yes as f32)", "z", "pytorch_optimizer LovaszHingeLoss", by_torch(lovasz)),
    ("lovasz_hinge_large", "lovasz_hinge(1e4 * z, yes as f32)", "z", "pytorch_optimizer LovaszHingeLoss", by_torch(lambda z: lovasz(1e4 * z))),
    # embeddings, rankings, sets
    ("ntxent", "ntxent(z, kinds)", "anchors", "Optax ntxent", by_jax(lambda z: optax.losses.ntxent(z, jnp.asarray(J["kinds"])))),
    ("ntxent_cold", "ntxent(z, kinds, temperature = 0.002)", "anchors", "Optax ntxent", by_jax(lambda z: optax.losses.ntxent(z, jnp.asarray(J["kinds"]), temperature=0.002))),
    ("triplet", "triplet(z, positives as f32, negatives as f32)", "anchors", "Optax triplet_margin_loss", by_jax(lambda z: optax.losses.triplet_margin_loss(z, J["positives"], J["negatives"]))),
    ("triplet_torch", 'triplet(z, positives as f32, negatives as f32, margin = 0.5, degree = 3.0, swap = true, variant = "torch")', "anchors", "torch triplet_margin_loss",
     by_torch(lambda z: F.triplet_margin_loss(z, T["positives"], T["negatives"], margin=0.5, p=3.0, swap=True))),
    ("triplet_distance", "mean(maximum(0, vmap(cosine_distance)(z, positives as f32) - vmap(cosine_distance)(z, negatives as f32) + 0.5))", "anchors", "torch triplet_margin_with_distance_loss",
     by_torch(
        lambda z: F.triplet_margin_with_distance_loss(z, T["positives"], T["negatives"], margin=0.5, distance_function=lambda a, b: 1 - F.cosine_similarity(a, b)))),
    ("cosine_embedding", "cosine_embedding(z, positives as f32, signs as f32, margin = 0.1)", "anchors", "torch cosine_embedding_loss",
     by_torch(lambda z: F.cosine_embedding_loss(z, T["positives"], T["signs"], margin=0.1))),
    ("focal_cosine", "focal_cosine(z, labels)", "z", "pytorch_optimizer FocalCosineLoss", by_torch(lambda z: po.FocalCosineLoss()(z, T["labels"]))),
    ("ranking_softmax", "ranking_softmax(z, counts as f32)", "z", "Optax ranking_softmax_loss", by_jax(lambda z: optax.losses.ranking_softmax_loss(z, J["counts"]))),
    ("ranking_softmax_masked", "ranking_softmax(z, counts as f32, mask = kept == 1, weights = soft as f32)", "z", "Optax ranking_softmax_loss with a mask and weights",
     by_jax(lambda z: optax.losses.ranking_softmax_loss(z, J["counts"], where=jnp.asarray(J["kept"] == 1), weights=J["soft"]))),
    ("matching", "matching(z)", "costs", "SciPy linear_sum_assignment", by_numpy(lambda z: (assigned(z) * z).sum() / 4, lambda z: assigned(z) / 4)),
    ("matching_optax", "matching(z)", "costs", "Optax hungarian_algorithm", by_jax(lambda z: jnp.mean(z[optax.assignment.hungarian_algorithm(jnp.asarray(X["costs"]))]))),
    # sequences
    ("ctc", "ctc(z, words, heard_lengths, word_lengths)", "heard", "torch ctc_loss", by_torch(
        lambda z: F.ctc_loss(z.log_softmax(-1).transpose(0, 1), T["words"], T["heard_lengths"], T["word_lengths"], reduction="none"))),
    ("ctc_per_label", "ctc(z, words, heard_lengths, word_lengths, per_label = true)", "heard", "torch ctc_loss, its mean", by_torch(
        lambda z: F.ctc_loss(z.log_softmax(-1).transpose(0, 1), T["words"], T["heard_lengths"], T["word_lengths"]))),
    ("ctc_optax", "ctc(z, words, heard_lengths, word_lengths)", "heard", "Optax ctc_loss", by_jax(lambda z: optax.ctc_loss(z, heard_pad, J["words"], word_pad))),
    ("ctc_large", "ctc(100.0 * z, words, heard_lengths, word_lengths)", "heard", "torch ctc_loss", by_torch(
        lambda z: F.ctc_loss((100 * z).log_softmax(-1).transpose(0, 1), T["words"], T["heard_lengths"], T["word_lengths"], reduction="none"))),
    ("ctc_blank", "ctc(z, words, heard_lengths - 1, word_lengths, blank = 0, zero_infinity = true)", "heard", "torch ctc_loss, the third sequence too short", by_torch(
        lambda z: F.ctc_loss(z.log_softmax(-1).transpose(0, 1), T["words"], T["heard_lengths"] - 1, T["word_lengths"], reduction="none", zero_infinity=True))),
]

def main():
    items = set()
    folder = os.path.join(HERE, "../../stdlib/loss")
    for file in os.listdir(folder):
        with open(os.path.join(folder, file)) as f:
            items |= set(re.findall(r"^(?:loss|fn) ([a-z]\w*)", f.read(), re.M))
    used = {w for c in CASES for w in re.findall(r"\b[a-z]\w*\b", c[1]) if w in items}
    print("not tested:", sorted(items - used))
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("optax", "torch", "pytorch_optimizer", "scikit-learn", "scipy"))
    text = f"""## Generated by tests/parity/losses.py ({versions}): do not edit.
## Value and gradient of every loss of the library in f64 within 1e-10 of the reference's largest entry, and in f32 within 2e-6. All inputs are multiples of 1/1024.
import std.loss.{{{", ".join(sorted(used))}}}

"""
    for k, v in X.items():
        text += f"const {k} = {literal(v, 17)}\n"
    text += """
## What a loss and its gradient are off, each relative to the largest entry of the reference: value, then gradient.
fn off(f: fn, z: float[...], theirs: float[N]) -> float {
  let (value, gradient) = value_and_grad(f)(z)
  maximum(abs(value - theirs[0]) / abs(theirs[0]), max(abs(reshape(gradient, -1) - theirs[1:])) / max(abs(theirs[1:])))
}
"""
    data = {}
    for name, source, given, against, reference in CASES:
        value, gradient = reference(X[given])
        data[name] = np.concatenate([np.reshape(value, 1), np.reshape(gradient, -1)]).astype(np.float64)
        assert np.isfinite(data[name]).all(), name
        text += f"""
experiment {name}_agrees {{
  let (f, theirs) = (z -> {source}, npz("data/losses.npz", "{name}"))
  check (with precision = f64 {{ off(f, {given} as f32, theirs) }}) <= 1e-10, "{name}: {against}"
  check off(f, {given} as f32, theirs as f32) <= {literal(IN_F32.get(name, 2e-6))}, "{name}: in f32"
}}
"""
    np.savez(os.path.join(HERE, "data/losses.npz"), **data)
    with open(os.path.join(HERE, "losses.opt"), "w") as f:
        f.write(text)
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()
