"""Writes `minimize.opt`: the functions of std.minimize against SciPy, and against the papers' algorithms in NumPy on draws that both sides make.

    python tests/parity/minimize.py          (NumPy and SciPy)
"""
import os

import numpy as np
import scipy
from scipy.optimize import least_squares, minimize, rosen, rosen_der, rosen_hess

HERE = os.path.dirname(os.path.abspath(__file__))


def literal(x):
    x = np.asarray(x, np.float64)
    if x.ndim:
        return "[" + ", ".join(literal(v) for v in x) + "]"
    mantissa, _, exponent = f"{float(x):.15g}".partition("e")
    return (mantissa if "." in mantissa else mantissa + ".0") + (f"e{int(exponent)}" if exponent else "")


def wave(shape, k, salt=0.0):
    """Numbers between -1 and 1 that both sides make alike."""
    return np.sin((1.0 + salt + k + np.arange(int(np.prod(shape)))) ** 2).reshape(shape)


def hilly(x):
    return np.sum(x**2 + 2 * np.sin(3 * x + np.arange(len(x))))


def cma_es(f, x0, sigma, iters):
    """Hansen 2016, figure 6 and table 1, positive weights."""
    n = len(x0)
    lam = 4 + int(np.floor(3 * np.log(n)))
    half = lam // 2
    raw = np.log((lam + 1) / 2) - np.log(1 + np.arange(half))
    w = raw / raw.sum()
    mu = 1 / np.sum(w**2)
    cs = (mu + 2) / (n + mu + 5)
    ds = 1 + 2 * max(0, np.sqrt((mu - 1) / (n + 1)) - 1) + cs
    cc = (4 + mu / n) / (n + 4 + 2 * mu / n)
    c1 = 2 / ((n + 1.3) ** 2 + mu)
    cmu = min(1 - c1, 2 * (0.25 + mu + 1 / mu - 2) / ((n + 2) ** 2 + mu))
    length = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    m, c, p, q = x0.copy(), np.eye(n), np.zeros(n), np.zeros(n)
    best, value = x0, f(x0)
    for k in range(iters):
        values, vectors = np.linalg.eigh(c)
        root = vectors * np.sqrt(values) @ vectors.T
        y = 1.4 * wave((lam, n), k) @ root
        fs = np.array([f(m + sigma * v) for v in y])
        order = np.argsort(fs)
        if fs[order[0]] < value:
            best, value = m + sigma * y[order[0]], fs[order[0]]
        top = y[order[:half]]
        step = w @ top
        m = m + sigma * step
        p = (1 - cs) * p + np.sqrt(cs * (2 - cs) * mu) * np.linalg.inv(root) @ step
        h = np.linalg.norm(p) / np.sqrt(1 - (1 - cs) ** (2 * (k + 1))) < (1.4 + 2 / (n + 1)) * length
        q = (1 - cc) * q + h * np.sqrt(cc * (2 - cc) * mu) * step
        c = (1 - c1 - cmu + (1 - h) * c1 * cc * (2 - cc)) * c + c1 * np.outer(q, q) + cmu * sum(a * np.outer(v, v) for a, v in zip(w, top))
        sigma = sigma * np.exp(cs / ds * (np.linalg.norm(p) / length - 1))
    return best, value, m, sigma, c


def swarm(f, low, high, count, iters, inertia=0.7298, own=1.49618, others=1.49618):
    """Kennedy and Eberhart 1995 with the constants of Clerc and Kennedy 2002; particles stop at the sides of the box."""
    n, span = len(low), high - low
    draw = lambda k: 0.5 + 0.5 * wave((count, n), k)
    x, v = low + span * draw(0), (draw(1) - 0.5) * span
    bests, values = x.copy(), np.array([f(a) for a in x])
    for k in range(iters):
        leader = bests[np.argmin(values)]
        v = inertia * v + own * draw(2 * k + 2) * (bests - x) + others * draw(2 * k + 3) * (leader - x)
        moved = x + v
        x = np.clip(moved, low, high)
        v = np.where(moved == x, v, 0)
        fs = np.array([f(a) for a in x])
        better = fs < values
        bests[better], values[better] = x[better], fs[better]
    return bests[np.argmin(values)], values.min()


def annealing(f, x0, size, temperature, cooling, iters):
    """Kirkpatrick, Gelatt and Vecchi 1983."""
    x, value = x0, f(x0)
    best, least, taken = x, value, 0
    for k in range(iters):
        y = x + size * wave(x0.shape, k)
        v = f(y)
        chance = 0.5 + 0.5 * wave((1,), k, 0.5)[0]
        if v <= value or chance < np.exp((value - v) / (temperature * cooling**k)):
            x, value, taken = y, v, taken + 1
        if v < least:
            best, least = y, v
    return best, least, x, taken / iters


def main():
    start = np.array([-1.2, 1.0, 0.5, 0.3])
    valley = minimize(rosen, start, jac=rosen_der, method="BFGS", options=dict(gtol=1e-10))
    i = np.arange(12)
    times, counts = i / 4, 2.5 * np.exp(-0.7 * i / 4) + 0.5 + 0.05 * np.sin(5.0 * i)
    fit = least_squares(lambda p: p[0] * np.exp(-p[1] * times) + p[2] - counts, [1.0, 1.0, 0.0], method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    simplex = minimize(rosen, start, method="Nelder-Mead", options=dict(maxiter=101, xatol=0, fatol=0))
    newton = minimize(rosen, start, jac=rosen_der, hess=rosen_hess, method="trust-ncg", options=dict(gtol=1e-10))
    low, high = [-0.5, -np.inf, 0.4, -1.0], [0.8, 0.5, np.inf, 0.2]
    boxed = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", bounds=list(zip(low, high)), options=dict(ftol=0, gtol=1e-12))
    rows, columns = np.meshgrid(np.arange(12), np.arange(8), indexing="ij")
    a, b = np.sin(1.0 + rows * columns + 3 * columns), np.cos(1.0 * np.arange(12))

    def parts(z):
        r = a @ (z[:8] - z[8:]) - b
        g = a.T @ r
        return 0.5 * r @ r + 0.7 * z.sum(), np.concatenate([g + 0.7, 0.7 - g])

    lasso = minimize(parts, np.full(16, 0.1), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 16, options=dict(ftol=0, gtol=1e-13, maxiter=10000, maxfun=100000))
    sparse = lasso.x[:8] - lasso.x[8:]
    es = cma_es(rosen, np.array([0.5, -0.3, 0.8]), 0.4, 40)
    ps = swarm(hilly, np.array([-4.0, -3.0, -2.0]), np.array([4.0, 5.0, 6.0]), 7, 25)
    sa = annealing(hilly, np.array([2.0, -2.0, 1.0]), 0.7, 2.0, 0.97, 120)
    text = f"""## Generated by tests/parity/minimize.py (SciPy {scipy.__version__}, NumPy {np.__version__}): do not edit.
## The functions of std.minimize against SciPy's results, and against the papers' algorithms in NumPy on the same draws.
import std.minimize.{{bfgs, bounded_lbfgs, cma_es, levenberg_marquardt, nelder_mead, owl_qn, particle_swarm, simulated_annealing, trust_region}}

fn rosen(x: float[N]) -> float = sum(100 * (x[1:] - x[:-1]^2)^2 + (1 - x[:-1])^2)

fn hilly(x: float[N]) -> float = sum(x^2 + 2 * sin(3 * x + iota(N) as float))

# Numbers between -1 and 1 that both sides make alike.
fn wave(dims, k, salt: float = 0.0) = reshape(sin(((1 + k + iota(prod(dims))) as f32 + salt)^2), dims)

experiment bfgs_agrees {{
  with precision = f64 {{
    let r = bfgs(rosen, {literal(start)}, iters = 200, tol = 1e-10)
    check r.x ~= {literal(valley.x)} within 1e-8, "the minimum of SciPy's BFGS"
    check r.slope < 1e-9 and r.steps < {2 * valley.nit}, "in about as many steps ({valley.nit} there)"
    let flat = bfgs(x -> 0.5 * sum(x^2), ones([3]))
    check flat.steps <= 2 and flat.value < 1e-12, "a bowl in two steps"
  }}
}}

experiment nelder_mead_agrees {{
  with precision = f64 {{
    let r = nelder_mead(rosen, {literal(start)}, iters = 100, tol = 0)
    check r.x ~= {literal(simplex.x)} within 1e-9, "the best corner of SciPy's simplex after 100 steps"
    check r.value ~= {literal(simplex.fun)} within 1e-10, "its value"
    let kink = nelder_mead(x -> sum(abs(x - [1.0, 2.0])), zeros([2]))
    check kink.x ~= [1.0, 2.0] within 1e-7, "a kink"
  }}
}}

experiment trust_region_agrees {{
  with precision = f64 {{
    let r = trust_region(rosen, {literal(start)}, tol = 1e-10)
    check r.x ~= {literal(newton.x)} within 1e-8, "the minimum of SciPy's trust-ncg"
    check r.slope <= 1e-10 and r.steps < {2 * newton.nit}, "in about as many steps ({newton.nit} there)"
    let saddle = trust_region(x -> x[0]^4 / 4 - x[0]^2 / 2 + x[1]^2, [0.0, 1.0] + 1e-3)
    check abs(saddle.x[0]) ~= 1 within 1e-6, "away from a saddle"
  }}
}}

experiment bounded_lbfgs_agrees {{
  with precision = f64 {{
    let r = bounded_lbfgs(rosen, {literal(start)}, low = {literal(low).replace("-inf.0", "-inf")}, high = {literal(high).replace("inf.0", "inf")}, tol = 1e-10)
    check r.x ~= {literal(boxed.x)} within 1e-8, "the minimum of SciPy's L-BFGS-B"
    check r.value ~= {literal(boxed.fun)} within 1e-10 and r.slope <= 1e-6, "and its value"
  }}
}}

experiment owl_qn_agrees {{
  with precision = f64 {{
    let a[i < 12, j < 8] = sin(1.0 + i * j + 3 * j)
    let b = cos(iota(12) as f32)
    let r = owl_qn(x -> 0.5 * sum((a @ x - b)^2), 0.1 * ones([8]), weight = 0.7, tol = 1e-10)
    check r.x ~= {literal(sparse)} within 1e-7, "the lasso of SciPy's L-BFGS-B on both signs"
    check sum(r.x == 0) == {int(np.sum(np.abs(sparse) < 1e-9))}, "with as many zeros, exact ones"
  }}
}}

experiment levenberg_marquardt_agrees {{
  with precision = f64 {{
    let times = iota(12) as f32 / 4
    let counts = 2.5 * exp(-0.7 * times) + 0.5 + 0.05 * sin(5 * iota(12) as f32)
    let r = levenberg_marquardt(p -> p[0] * exp(-p[1] * times) + p[2] - counts, [1.0, 1.0, 0.0], tol = 1e-13)
    check r.x ~= {literal(fit.x)} within 1e-9, "the fit of SciPy's MINPACK"
    check r.value ~= {literal(fit.cost)} within 1e-12, "and its cost"
    let bend = levenberg_marquardt(p -> [10 * (p[1] - p[0]^2), 1 - p[0]], [-1.2, 1.0], tol = 1e-13)
    check bend.x ~= [1.0, 1.0] within 1e-9, "the valley as squares"
  }}
}}

experiment cma_es_agrees {{
  with precision = f64 {{
    let r = cma_es(rosen, [0.5, -0.3, 0.8], sigma = 0.4, iters = 40, draw = ((dims, k) -> 1.4 * wave(dims, k)))
    check r.x ~= {literal(es[0])} within 1e-9 relative, "the best point after 40 generations"
    check r.value ~= {literal(es[1])} within 1e-9, "its value"
    check r.mean ~= {literal(es[2])} within 1e-9 relative, "the mean"
    check r.sigma ~= {literal(es[3])} within 1e-9 relative, "the step size"
    check r.covariance ~= {literal(es[4])} within 1e-8 relative, "the covariance"
    let found = cma_es(rosen, zeros([4]), iters = 500)
    check found.x ~= ones([4]) within 1e-6, "with draws of its own it finds the minimum"
  }}
}}

experiment particle_swarm_agrees {{
  with precision = f64 {{
    let r = particle_swarm(hilly, [-4.0, -3.0, -2.0], [4.0, 5.0, 6.0], particles = 7, iters = 25, draw = ((dims, k) -> 0.5 + 0.5 * wave(dims, k)))
    check r.x ~= {literal(ps[0])} within 1e-9 relative, "the best point after 25 passes"
    check r.value ~= {literal(ps[1])} within 1e-9, "its value"
    let found = particle_swarm(hilly, -5 * ones([3]), 5 * ones([3]))
    check found.value < {literal(ps[1])} + 1e-9, "with draws of its own it finds as deep a hollow"
  }}
}}

experiment simulated_annealing_agrees {{
  with precision = f64 {{
    let r = simulated_annealing(hilly, [2.0, -2.0, 1.0], size = 0.7, temperature = 2.0, cooling = 0.97, iters = 120, draw = ((dims, k) -> wave(dims, k)), chance = (k -> 0.5 + 0.5 * wave([1], k, 0.5)[0]))
    check r.x ~= {literal(sa[0])} within 1e-9 relative, "the best point after 120 passes"
    check r.last ~= {literal(sa[2])} within 1e-9 relative, "the last one"
    check r.taken ~= {literal(sa[3])} within 1e-9, "how many steps were taken"
    let found = simulated_annealing(hilly, [2.0, -2.0, 1.0], temperature = 4.0, iters = 5000)
    check found.value < {literal(sa[1])}, "with draws of its own it finds a deeper hollow"
  }}
}}
"""
    with open(os.path.join(HERE, "minimize.opt"), "w") as out:
        out.write(text)


if __name__ == "__main__":
    main()
