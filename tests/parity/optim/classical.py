"""Methods older than deep learning, on functions and on sets."""
import numpy as np

from .common import Case, leaf_walk, tree_walk


def dot(a, b):
    return sum(np.sum(a[k] * b[k]) for k in a)


def conjugate(kind, lr=0.05, restart=0):
    """Nocedal and Wright 2006, section 5.2; Hager and Zhang 2006, table 1."""

    def rule(w, g, s, t, _):
        u, last = s.get("u"), s.get("last")
        beta = 0.0
        if t > 1 and not (restart and (t - 1) % restart == 0):
            y = {k: g[k] - last[k] for k in g}
            d = {k: -u[k] for k in u}
            beta = {
                "pr": lambda: max(dot(g, y) / dot(last, last), 0),
                "fr": lambda: dot(g, g) / dot(last, last),
                "hs": lambda: max(dot(g, y) / dot(d, y), 0),
                "dy": lambda: dot(g, g) / dot(d, y),
            }[kind]()
        u = {k: g[k] + beta * u[k] if t > 1 else g[k] for k in g}
        s["u"] = u if dot(u, g) > 0 else g
        s["last"] = g
        return {k: w[k] - lr * s["u"][k] for k in w}

    return tree_walk(rule)


def newton(damping, lr):
    """The system solved exactly: the Hessian is diagonal."""
    return tree_walk(lambda w, g, s, t, problem: {k: w[k] - lr * g[k] / (problem.curvature[k] + damping) for k in w})


def damped(w, g, s, t, problem):
    """Newton's direction, halved until Armijo's condition holds."""
    d = {k: g[k] / (problem.curvature[k] + 0.5) for k in w}
    a, f, slope = 1.0, problem.loss(t - 1, w), -dot(g, d)
    while problem.loss(t - 1, {k: w[k] - a * d[k] for k in w}) > f + 0.6 * a * slope:
        a *= 0.5
    return {k: w[k] - a * d[k] for k in w}


def mirror(w, g, s, t, lr=0.3):
    if w.ndim == 0:
        return w
    u = w * np.exp(-lr * g)
    return u * w.sum(-1, keepdims=True) / u.sum(-1, keepdims=True)


def frank_wolfe(vertex):
    return leaf_walk(lambda w, g, s, t: w + 2 / (t + 1) * (vertex(g) - w))


def corner_of_l1(g):
    x = np.zeros(g.size)
    i = np.argmax(np.abs(g))
    x[i] = -2 * np.sign(g.reshape(-1)[i])
    return x.reshape(g.shape)


def corner_of_simplex(g):
    x = np.zeros(g.size)
    x[np.argmin(g)] = 2
    return x.reshape(g.shape)


def corner_of_nuclear(g):
    u, _, vt = np.linalg.svd(g)
    return -2 * np.outer(u[:, 0], vt[0])


def soft(x, c):
    return np.sign(x) * np.maximum(np.abs(x) - c, 0)


def hard(x, c):
    return np.where(np.abs(x) <= np.sqrt(2 * c), 0, x)


def shorten(x, c, axis=None):
    length = np.sqrt(np.sum(x**2, axis=axis, keepdims=axis is not None))
    return x * np.maximum(1 - c / length, 0)


def proximal(prox, lr=0.08):
    return leaf_walk(lambda w, g, s, t: prox(w - lr * g, 0.3 * lr))


def fista(restart=False, seen=False, lr=0.08):
    """Beck and Teboulle 2009, equations 4.1 to 4.3."""

    def rule(w, g, s, t, _):
        x, m = s.get("x", w), s.get("m", 1.0)
        new = {k: soft(w[k] - lr * g[k], 0.3 * lr) for k in w}
        moved = {k: new[k] - x[k] for k in w}
        if restart and dot({k: w[k] - new[k] for k in w}, moved) > 0:
            m = 1.0
        s["m"] = (1 + np.sqrt(1 + 4 * m**2)) / 2
        s["x"] = new
        y = {k: new[k] + (m - 1) / s["m"] * moved[k] for k in w}
        return (y, new) if seen else y

    return tree_walk(rule)


def extragradient(w, g, s, t, problem, lr=0.1):
    ahead = problem.gradient(t - 1, {k: w[k] - lr * g[k] for k in w})
    return {k: w[k] - lr * ahead[k] for k in w}


def fixed(shape, k=0):
    return np.sin((1.0 + k + np.arange(int(np.prod(shape)))) ** 2).reshape(shape)


def psgld(w, g, s, t, lr=0.01, temperature=0.1, decay=0.9, eps=1e-3):
    s["v"] = decay * s.get("v", 0) + (1 - decay) * g**2
    d = 1 / (np.sqrt(s["v"]) + eps)
    return w - lr * d * g + np.sqrt(2 * lr * temperature * d) * fixed(w.shape)


def evolution(w, g, s, t, problem, lr=0.05, sigma=0.1, pairs=3):
    total = {k: 0 for k in w}
    for i in range(pairs):
        e = {k: fixed(w[k].shape, i) for k in w}
        f = [problem.loss(t - 1, {k: w[k] + c * sigma * e[k] for k in w}) for c in (1, -1)]
        total = {k: total[k] + (f[0] - f[1]) * e[k] for k in w}
    return {k: w[k] - lr * total[k] / (2 * pairs * sigma) for k in w}


def spsa(w, g, s, t, problem, size=0.1):
    c = size / t**0.101
    e = {k: np.sign(fixed(w[k].shape)) for k in w}
    f = [problem.loss(t - 1, {k: w[k] + x * c * e[k] for k in w}) for x in (1, -1)]
    return {k: w[k] - 0.01 / (t + 5) ** 0.602 * (f[0] - f[1]) / (2 * c) * e[k] for k in w}


DRAW = "sin(((1 + iota(prod(dims)))^2) as f32)"
CASES = [
    Case("conjugate_pr", "conjugate_direction() |> sgd(lr = 0.05)", conjugate("pr"), "Polak and Ribiere's beta in NumPy", problem="bowl"),
    Case("conjugate_fr", 'conjugate_direction("fletcher_reeves", restart = 6) |> sgd(lr = 0.05)', conjugate("fr", restart=6), "Fletcher and Reeves' beta in NumPy, restarts every 6 steps", problem="bowl"),
    Case("conjugate_hs", 'conjugate_direction("hestenes_stiefel") |> sgd(lr = 0.05)', conjugate("hs"), "Hestenes and Stiefel's beta in NumPy", problem="bowl"),
    Case("conjugate_dy", 'conjugate_direction("dai_yuan") |> sgd(lr = 0.02)', conjugate("dy", lr=0.02), "Dai and Yuan's beta in NumPy", problem="bowl"),
    Case("newton", "newton(lr = 0.3, damping = 0.1, iters = 200, tol = 1e-13)", newton(0.1, 0.3), "the system solved exactly in NumPy", problem="bowl"),
    Case("damped_newton", "damped_newton(damping = 0.5, iters = 200, tol = 1e-13, decrease = 0.6)", tree_walk(damped), "exact directions with Armijo's condition in NumPy", problem="bowl"),
    Case("mirror_descent", "mirror_descent(lr = 0.3)", leaf_walk(mirror), "exponentiated gradients in NumPy", leaves="bce", problem="bowl"),
    Case("frank_wolfe_l1", "frank_wolfe(x -> l1_vertex(x, 2.0))", frank_wolfe(corner_of_l1), "Jaggi 2013, algorithm 1 in NumPy, the ball of the 1-norm", leaves="abcd", problem="bowl"),
    Case("frank_wolfe_simplex", "frank_wolfe(x -> simplex_vertex(x, 2.0))", frank_wolfe(corner_of_simplex), "Jaggi 2013, algorithm 1 in NumPy, the simplex", leaves="abcd", problem="bowl"),
    Case("frank_wolfe_l2", "frank_wolfe(x -> l2_vertex(x, 2.0))", frank_wolfe(lambda g: -2 * g / np.sqrt(np.sum(g**2))), "Jaggi 2013, algorithm 1 in NumPy, the ball", leaves="abcd", problem="bowl"),
    Case("frank_wolfe_linf", "frank_wolfe(x -> linf_vertex(x, 0.5))", frank_wolfe(lambda g: -0.5 * np.sign(g)), "Jaggi 2013, algorithm 1 in NumPy, the box", leaves="abcd", problem="bowl"),
    Case("frank_wolfe_nuclear", "frank_wolfe(x -> nuclear_vertex(x, 2.0))", frank_wolfe(corner_of_nuclear), "Jaggi 2013, algorithm 1 in NumPy, the ball of the nuclear norm", leaves="ahi", problem="bowl"),
    Case("ista", "proximal_gradient((x, c) -> soft_threshold(x, 0.3 * c), lr = 0.08)", leaf_walk(lambda w, g, s, t: soft(w - 0.08 * g, 0.3 * 0.08)), "Beck and Teboulle 2009, equation 3.1 in NumPy", problem="bowl"),
    Case("fista", "fista((x, c) -> soft_threshold(x, 0.3 * c), lr = 0.08)", fista(), "Beck and Teboulle 2009, equations 4.1 to 4.3 in NumPy", problem="bowl"),
    Case("fista_restarted", "fista((x, c) -> soft_threshold(x, 0.3 * c), lr = 0.08, restart = true)", fista(True, True), "the same with O'Donoghue and Candes' restarts, evaluated", problem="bowl", evaluated=True),
    Case("extragradient", "extragradient(lr = 0.1)", tree_walk(extragradient), "Korpelevich 1976 in NumPy", problem="bowl"),
    Case("sgld", f"sgld(lr = 0.01, temperature = 0.1, draw = (dims -> reshape({DRAW}, dims)))", leaf_walk(lambda w, g, s, t: w - 0.01 * g + np.sqrt(2 * 0.01 * 0.1) * fixed(w.shape)), "Welling and Teh 2011 in NumPy, on fixed draws"),
    Case("psgld", f"psgld(lr = 0.01, temperature = 0.1, decay = 0.9, eps = 1e-3, draw = (dims -> reshape({DRAW}, dims)))", leaf_walk(psgld), "Li et al. 2016, algorithm 1 in NumPy, on fixed draws"),
    Case("evolution_gradient", "evolution_gradient(sigma = 0.1, pairs = 3, draw = ((dims, k) -> reshape(sin(((1 + k + iota(prod(dims)))^2) as f32), dims))) |> sgd(lr = 0.05)", tree_walk(evolution),
         "Salimans et al. 2017 in NumPy, on fixed draws", problem="bowl", tolerance=1e-8),
    Case("spsa", f"spsa_gradient(size = 0.1, draw = (dims -> sign(reshape({DRAW}, dims)))) |> sgd(lr = spsa_rate(0.01, stability = 5.0))", tree_walk(spsa), "Spall 1998 in NumPy, on fixed draws", problem="bowl", tolerance=1e-8),
    Case("hard_threshold", "proximal_gradient((x, c) -> hard_threshold(x, 0.3 * c), lr = 0.08)", proximal(hard), "the thresholds in NumPy", problem="bowl"),
    Case("shorten", "proximal_gradient((x, c) -> shorten(x, 0.3 * c), lr = 0.08)", proximal(shorten), "the leaf shortened in NumPy", problem="bowl"),
    Case("shorten_rows", "proximal_gradient((x, c) -> shorten(x, 0.3 * c, whole = false), lr = 0.08)", proximal(lambda x, c: shorten(x, c, -1)), "rows shortened in NumPy", leaves="abdhi", problem="bowl"),
    Case("shrink_elastic", "proximal_gradient((x, c) -> shrink_elastic(x, 0.3 * c, 2.0), lr = 0.08)", proximal(lambda x, c: soft(x, c) / (1 + 2 * c)), "the elastic net in NumPy", problem="bowl"),
]
