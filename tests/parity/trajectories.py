"""Fifty steps of every optimizer of the library against a reference in f64.

    python tests/parity/trajectories.py                      every family: `optim_FAMILY.opt` and `data/optim_FAMILY.npz`
    python tests/parity/trajectories.py adam sgd             some of them
    python tests/parity/trajectories.py --table OPTC         runs `OPTC test` on them and writes what it measured to docs/optimizers.md; every example of a docstring has to be a case

Families are the modules of `optim/`; the environment is that of `bench/peers/setup.sh` with torch and pytorch_optimizer.
"""
import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "data")
ROOT = os.path.join(HERE, "../..")


def problem():
    """The numbers of all problems: written once, because every reference depends on them."""
    from optim.common import SHAPES, STEPS

    rng = np.random.default_rng(50)
    size = sum(int(np.prod(s)) for s in SHAPES.values())
    gradients = []
    for s in SHAPES.values():
        # Of very different sizes; single entries, whole rows and whole leaves are 0, as of words that a batch does not hold.
        g = rng.standard_normal((STEPS, *s)) * 10.0 ** rng.uniform(-3, 1, (STEPS, *s)) * (rng.random((STEPS, *s)) > 0.05)
        if len(s) > 1:
            g *= (rng.random((STEPS, s[0])) > 0.15).reshape(STEPS, s[0], *[1] * (len(s) - 1))
        # Not in the first steps, where most rules take the scale of a leaf.
        g *= (rng.random(STEPS) > np.where(np.arange(STEPS) < 3, 0, 0.06)).reshape(STEPS, *[1] * len(s))
        gradients.append(g.reshape(STEPS, -1))
    numbers = dict(
        start=rng.standard_normal(size),
        gradients=np.concatenate(gradients, 1),
        curvature=10.0 ** rng.uniform(-1, 1, size),
        target=0.3 * rng.standard_normal((STEPS, size)),
    )
    np.savez(os.path.join(DATA, "optim_problem.npz"), **{k: v.astype(np.float32) for k, v in numbers.items()})


def families():
    return sorted(m.name for m in pkgutil.iter_modules([os.path.join(HERE, "optim")]) if m.name != "common")


def items():
    """The items of the standard library that a rule may be made of, with the module they are imported from."""
    found = {}
    for part in ("optim", "schedule"):
        folder = os.path.join(ROOT, "stdlib", part)
        for file in sorted(os.listdir(folder)):
            with open(os.path.join(folder, file)) as f:
                found |= {name: part for name in re.findall(r"^(?:optimizer|schedule|fn) ([a-z]\w*)", f.read(), re.M)}
    return found


# Operations of the language that functions given to a rule are made of.
BUILT_IN = {"abs", "cos", "exp", "iota", "ndim", "maximum", "minimum", "prod", "reshape", "shape", "sign", "sin", "size", "sqrt", "sum"}


def examples():
    """The rules that docstrings of `stdlib/optim` give as examples, by item."""
    found = {}
    folder = os.path.join(ROOT, "stdlib/optim")
    for file in sorted(os.listdir(folder)):
        with open(os.path.join(folder, file)) as f:
            for doc, name in re.findall(r"((?:^##.*\n)+)^optimizer (\w+)", f.read(), re.M):
                part = doc.partition("## # Example\n")[2].partition("## #")[0]
                found |= {rule: name for rule in re.findall(r"`([^`]+)`", part)}
    return found


def imports(rules):
    known = items()
    used = {n for rule in rules for n in re.findall(r"([a-z]\w*)\(", rule)} - BUILT_IN
    if missing := used - known.keys():
        sys.exit(f"not in the standard library: {', '.join(sorted(missing))}")
    lines = []
    for part in ("optim", "schedule"):
        names = sorted(n for n in used if known[n] == part)
        if names:
            lines.append(f"import std.{part}.{{{', '.join(names)}}}\n")
    return "".join(lines)


def leaves_of(letters):
    """The functions that make the leaves of these letters of a vector of all numbers, and a vector of the leaves."""
    from optim.common import SHAPES

    fields, parts, at = [], [], 0
    for k, s in SHAPES.items():
        n = int(np.prod(s))
        if k in letters:
            part = f"x[{at}]" if s == () else f"x[{at}:{at + n}]"
            fields.append(f"{k} = {part if len(s) < 2 else f'reshape({part}, ' + ', '.join(map(str, s)) + ')'}")
            parts.append(f"p.{k}" if len(s) == 1 else f"reshape(p.{k}, {n})")
        at += n
    return f"""
fn {letters}(x) = {{ {", ".join(fields)} }}
fn flat_{letters}(p) = concat([{", ".join(parts)}])
"""


def walk_of(letters, kind, evaluated):
    """The function that walks a rule on a problem: the weights after the steps that are kept, one row each."""
    from optim.common import SHAPES

    size = sum(int(np.prod(s)) for s in SHAPES.values())
    step = f"g = {letters}(gradients[k])" if kind == "given" else f"p -> 0.5 * sum(flat_{letters}({letters}(curvature)) * (flat_{letters}(p) - flat_{letters}({letters}(target[k])))^2)"
    more = f"gradients: f32[50, {size}]" if kind == "given" else f"curvature: f32[{size}], target: f32[50, {size}]"
    return f"""
fn walk_{letters}_{kind}{"_evaluated" if evaluated else ""}(rule: optimizer, start: f32[{size}], {more}) {{
  var o = rule.start({letters}(start), total_steps = 50)
  let path = for k in 0..50 {{
    o <- o.step({step})
    yield flat_{letters}({"o.eval" if evaluated else "o.w"})
  }}
  path[kept]
}}
"""


def write(family):
    from optim.common import KEPT, STEPS, Problem

    module = importlib.import_module(f"optim.{family}")
    cases = module.CASES
    assert len({c.name for c in cases}) == len(cases), "names are there twice"
    rows = {}
    for c in cases:
        assert set(c.leaves) <= set("abcdefhi")
        walk = c.reference(Problem(c.leaves, c.problem))
        assert len(walk) == STEPS
        rows[c.name] = np.stack([np.concatenate([np.asarray(walk[k - 1][n], np.float64).reshape(-1) for n in c.leaves]) for k in KEPT])
        assert np.isfinite(rows[c.name]).all(), f"{c.name}: the reference is not finite"
    np.savez(os.path.join(DATA, f"optim_{family}.npz"), **rows)
    size = os.path.getsize(os.path.join(DATA, f"optim_{family}.npz"))
    assert size < 1 << 20, f"{family}: {size} bytes"
    text = f"""## Generated by tests/parity/trajectories.py {family}: do not edit.
## {module.__doc__.splitlines()[0]} Fifty steps in f64; `optim/{family}.py` holds the references.
{imports([c.rule for c in cases])}
const kept = {[k - 1 for k in KEPT]}

## The largest difference of a step relative to its largest weight, over all steps that are kept.
fn distance(ours: f64[S, N], theirs: f64[S, N]) -> f64 = max(max(abs(ours - theirs), axis = 1) / max(abs(theirs), axis = 1))
"""
    if any(c.signs for c in cases):
        text += """
## How many weights a flipped sign has moved by the last step.
fn flipped(ours: f64[S, N], theirs: f64[S, N], lr: f64) -> i32 = sum(abs(ours[-1] - theirs[-1]) > 0.5 * lr)
"""
    for letters in dict.fromkeys(c.leaves for c in cases):
        text += leaves_of(letters)
    for walk in dict.fromkeys((c.leaves, c.problem, c.evaluated) for c in cases):
        text += walk_of(*walk)
    for c in cases:
        numbers = "p.gradients as f64" if c.problem == "given" else "p.curvature as f64, p.target as f64"
        walk = f"walk_{c.leaves}_{c.problem}{'_evaluated' if c.evaluated else ''}"
        flips = f" flips {{flipped(ours, theirs, {c.signs})}}" if c.signs else ""
        tolerance = re.sub(r"e-0*", "e-", f"{c.tolerance:g}")
        text += f"""
experiment {c.name}_agrees {{
  let p = npz("data/optim_problem.npz")
  let theirs = npz("data/optim_{family}.npz", "{c.name}")
  let ours = with precision = f64 {{ {walk}({c.rule}, p.start as f64, {numbers}) }}
  print "{c.name}: {{distance(ours, theirs):.2e}}{flips}"
  check distance(ours, theirs) <= {tolerance}, "{c.against.replace('"', "'")}"
}}
"""
    with open(os.path.join(HERE, f"optim_{family}.opt"), "w") as f:
        f.write(text)
    print(f"{family}: {len(cases)} cases, {size // 1024} KiB")


def table(optc):
    """Runs the specs and writes what they measured, rule by rule."""
    version = {"torch": "torch", "optax": "optax", "pytorch_optimizer": "pytorch_optimizer"}
    version = {k: importlib.metadata.version(v) for k, v in version.items()}
    text = f"""# Optimizers and their references

Generated by `tests/parity/trajectories.py --table`. Each row is 50 steps in f64 on leaves of several shapes, from gradients over four decades that are partly 0 (or a quadratic loss where the rule needs one), against
Optax {version["optax"]}, torch {version["torch"]}, pytorch_optimizer {version["pytorch_optimizer"]}, or an independent transcription of the paper in NumPy. The difference is the largest of a step relative to its
largest weight, over all steps, as measured by `optc test tests/parity/optim_FAMILY.opt`; it is checked to be at most the tolerance. Flips are weights that a sign which rounding has turned has moved.
"""
    modules = {family: importlib.import_module(f"optim.{family}") for family in families()}
    tested = {c.rule for m in modules.values() for c in m.CASES}
    if missing := {rule: name for rule, name in examples().items() if rule not in tested}:
        sys.exit("examples that no case tests: " + ", ".join(f"{rule} ({name})" for rule, name in missing.items()))
    count = 0
    for family, module in modules.items():
        path = os.path.join(HERE, f"optim_{family}.opt")
        run = subprocess.run([optc, "test", path], capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{path} does not pass:\n{run.stdout}{run.stderr}")
        worst = dict(re.findall(r"^(\w+): (\S+(?: flips \d+)?)$", run.stdout, re.M))
        text += f"\n## {family}\n{module.__doc__.splitlines()[0]}\n\n| rule | reference | worst difference | tolerance | flips |\n|---|---|---|---|---|\n"
        for c in module.CASES:
            where = ", on the loss" if c.problem == "bowl" else ""
            seen, _, flips = worst[c.name].partition(" flips ")
            text += f"| `{c.rule.replace('|', chr(92) + '|')}` | {c.against}{where} | {seen} | {c.tolerance:g} | {flips} |\n"
            count += 1
    text += f"\n{count} trajectories.\n"
    with open(os.path.join(ROOT, "docs/optimizers.md"), "w") as f:
        f.write(text)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    if sys.argv[1:2] == ["--table"]:
        table(sys.argv[2])
    elif sys.argv[1:2] == ["--problem"]:
        problem()
    else:
        if not os.path.exists(os.path.join(DATA, "optim_problem.npz")):
            problem()
        for name in sys.argv[1:] or families():
            write(name)
