"""Derives the coefficients and constants of src/vecmath64: interpolation at Chebyshev nodes in 60 digits, within a factor of two of the minimax error.

Needs mpmath. Prints Rust arrays, highest coefficient first, and above each the largest error after rounding to f64, relative to the function it serves.
"""

import mpmath as mp

mp.mp.dps = 60


def fit(name, g, lo, hi, count, weight, points=2000):
    """Polynomial with `count` coefficients for g on lo..hi; `weight(z)` turns its error into an error relative to the result."""
    lo, hi = mp.mpf(lo), mp.mpf(hi)
    nodes = [(lo + hi) / 2 + (hi - lo) / 2 * mp.cos((2 * i + 1) * mp.pi / (2 * count)) for i in range(count)]
    matrix = mp.matrix(count, count)
    for i, z in enumerate(nodes):
        for j in range(count):
            matrix[i, j] = z**j
    solution = mp.lu_solve(matrix, mp.matrix([g(z) for z in nodes]))
    coefficients = [float(c) for c in solution]
    worst = mp.mpf(0)
    for i in range(points):
        z = lo + (hi - lo) * (i + mp.mpf(1) / 2) / points
        error = sum(mp.mpf(c) * z**j for j, c in enumerate(coefficients)) - g(z)
        worst = max(worst, abs(error * weight(z)))
    print(f"/// {name}: 2^{float(mp.log(worst, 2)):.1f}.")
    print(f"const {name}: [f64; {count}] = [{', '.join(repr(c) for c in reversed(coefficients))}];")


def parts(name, value, count, bits=53):
    """A constant as an unevaluated sum of f64; the first part has `bits` bits."""
    rest, out = value, []
    for i in range(count):
        if i == 0 and bits < 53:
            scale = mp.mpf(2) ** (bits - int(mp.floor(mp.log(rest, 2))) - 1)
            part = float(mp.floor(rest * scale) / scale)
        else:
            part = float(rest)
        out.append(part)
        rest -= mp.mpf(part)
    print(f"{name}: {', '.join(repr(p) for p in out)}")


def root(f):
    return lambda z: f(mp.sqrt(z))


e = mp.mpf("0.12014") * mp.mpf("1.002")
fit("COSH", root(lambda r: (mp.cosh(r) - 1 - r**2 / 2) / r**4), 0, e, 5, lambda z: z * z)
fit("SINH", root(lambda r: (mp.sinh(r) / r - 1) / r**2), 0, e, 6, lambda z: z)

s = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)
fit("LOG", root(lambda r: (2 * mp.atanh(r) / r - 2) / r**2), 0, s * s, 7, lambda z: z / 2)
fit("LOG_LONG", root(lambda r: ((2 * mp.atanh(r) / r - 2) / r**2 - mp.mpf(2) / 3) / r**2), 0, s * s, 9, lambda z: z * z / 2)

a = (mp.pi / 4) ** 2 * mp.mpf("1.0001")
fit("SIN", root(lambda r: (mp.sin(r) / r - 1) / r**2), 0, a, 7, lambda z: z)
fit("COS", root(lambda r: (mp.cos(r) - 1 + r**2 / 2) / r**4), 0, a, 6, lambda z: z * z * mp.sqrt(2))

fit("ASIN", root(lambda r: (mp.asin(r) / r - 1) / r**2), 0, "0.25", 13, lambda z: z)
fit("ATAN", root(lambda r: (mp.atan(r) / r - 1) / r**2), 0, "0.1717", 12, lambda z: z)

fit("ERF", root(lambda r: mp.erf(r) / r - 1), 0, 1, 14, lambda z: 1)
# erfc(x) e^(x^2) in t = (x - 2) / (x + 2) for x in 1..6.
fit("ERFC", lambda t: mp.erfc(2 * (1 + t) / (1 - t)) * mp.exp((2 * (1 + t) / (1 - t)) ** 2), mp.mpf(-1) / 3, "0.5", 17,
    lambda t: mp.exp(-((2 * (1 + t) / (1 - t)) ** 2)))
fit("CBRT", lambda m: m ** (-mp.mpf(1) / 3), 1, 2, 7, lambda m: m ** (mp.mpf(1) / 3))

parts("LN2", mp.log(2), 2, 42)
parts("LN2 53", mp.log(2), 2)
parts("LOG2_E", 1 / mp.log(2), 2)
parts("PI_2", mp.pi / 2, 3)
parts("PI_4", mp.pi / 4, 2)
parts("PI", mp.pi, 2)
parts("2^(1/3)", mp.mpf(2) ** (mp.mpf(1) / 3), 2)
parts("2^(2/3)", mp.mpf(2) ** (mp.mpf(2) / 3), 2)
parts("2/3", mp.mpf(2) / 3, 2)
parts("2/sqrt(pi) - 1", 2 / mp.sqrt(mp.pi) - 1, 1)

# 2 / pi in groups of 48 bits.
mp.mp.dps = 420
bits = int(mp.floor(2 / mp.pi * mp.mpf(2) ** (48 * 25)))
print("const TWO_OVER_PI: [u64; 25] = [" + ", ".join(hex((bits >> (48 * (24 - i))) & (2**48 - 1)) for i in range(25)) + "];")
