"""Arrays as `.opt` literals."""
import numpy as np


def literal(x, digits=9):
    """An array as an .opt literal: always with a point or exponent where it holds floats, so that they are floats."""
    x = np.asarray(x)
    if x.ndim:
        return "[" + ", ".join(literal(v, digits) for v in x) + "]"
    if x.dtype.kind == "b":
        return "true" if x else "false"
    if x.dtype.kind in "iu":
        return str(int(x))
    s = f"{float(x):.{digits}g}"
    if "e" in s:
        mantissa, exponent = s.split("e")
        return f"{mantissa}e{int(exponent)}"
    return s if "." in s else s + ".0"
