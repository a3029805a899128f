"""The trajectory of Prodigy that docs/guide/from_a_paper.md compares with: the equations in NumPy and f64, sharing nothing with the spec.

    python tests/parity/prodigy.py          (needs NumPy alone)

Mishchenko and Defazio 2023 (arXiv 2306.06101), algorithm 4, constant step size 1, on a least-squares problem with a vector and a scalar.
"""
import numpy as np

i, j = np.meshgrid(np.arange(8), np.arange(3), indexing="ij")
A = np.sin(1.0 + i + 2 * j)
y = np.cos(np.arange(8.0))


def gradients(a, b):
    residual = A @ a + b - y
    return 0.5 * np.mean(residual**2), A.T @ residual / 8, np.mean(residual)


def prodigy(steps, beta1=0.9, beta2=0.999, eps=1e-8, d0=1e-6):
    x = np.zeros(4)  # the three weights, then the offset
    x0, m, v, s = x.copy(), np.zeros(4), np.zeros(4), np.zeros(4)
    r, d, beta3 = 0.0, d0, np.sqrt(beta2)
    losses = []
    for _ in range(steps):
        loss, ga, gb = gradients(x[:3], x[3])
        losses.append(loss)
        g = np.append(ga, gb)
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d**2 * g**2
        r = beta3 * r + (1 - beta3) * d**2 * np.dot(g, x0 - x)
        s = beta3 * s + (1 - beta3) * d**2 * g
        estimate = r / np.sum(np.abs(s))
        x = x - d * m / (np.sqrt(v) + d * eps)
        d = max(d, estimate)
    return np.array(losses), x, d


if __name__ == "__main__":
    losses, x, d = prodigy(200)
    print("d after 20, 50, 100, 200 steps:", [float(prodigy(n)[2]) for n in (20, 50, 100, 200)])
    print("loss at steps 1, 50, 100, 200: ", [float(losses[n - 1]) for n in (1, 50, 100, 200)])
    print("weights after 200 steps:       ", [float(v) for v in x])
