"""Tables of scores: aligned for a terminal, or Markdown for the documents."""
import statistics
from typing import NamedTuple


class Section(NamedTuple):
    """How a section is shown: title, unit, whether more is better, and what rows are called."""

    title: str
    unit: str
    higher: bool
    rows: dict = {}
    # A contender that is a limit and not a peer, and so not among those optc is compared with.
    limit: str = ""
    # What the best peer is divided by, or divides: the heading of that column.
    ratio: str = "optc against the best peer"


MODELS = {"digits": "digits MLP 64-32-10, batch 64", "mlp784": "MLP 784-256-256-10, batch 128", "gpt": "character GPT, 826 k parameters, 2048 tokens", "cnn": "CNN 28x28, batch 64"}
# optc with each of its back ends; what is compared is the first.
OURS = ("optc", "optc, LLVM", "optc, LLVM, kernels kept")
RULES = {
    "adamw": "AdamW",
    "sgdm": "SGD, momentum",
    "lion": "Lion",
    "clip+adamw": "global clip + AdamW",
    "adamw-bf16": "AdamW, moments in bf16",
    "adamw-8bit": "AdamW, moments in 8 bits",
    "lion-bf16": "Lion, momentum in bf16",
    "lion-8bit": "Lion, momentum in 8 bits",
}
LAYOUTS = {"one": "", "1000x": ", 1000 tensors"}
LOOPS = {
    "adam_loop": "2000 steps of Adam, MLP 8-32-32-1",
    "population": "32 trainings under `vmap`, 500 steps",
    "lanczos_loop": "Lanczos, 60 steps, 400 rows",
    "cg_loop": "conjugate gradients, 500 rows",
    "newton_loop": "Newton with `hessian`, 30 unknowns",
    "admm_loop": "ADMM for the lasso, 1000 passes",
}
SECTIONS = {
    "train": Section("Training", "steps/s, AdamW", True, MODELS),
    "compile": Section("Time to the first step", "ms", False, MODELS),
    "optimizers": Section("Optimizer step, 50 M f32 parameters", "ms", False, {f"{r}/{k}": RULES[r] + LAYOUTS[k] for r in RULES for k in LAYOUTS}, limit="C loop"),
    "loops": Section("Functions with loops, a call", "ms", False, LOOPS),
    "loops first": Section("Functions with loops, from the text to the first result", "ms", False, LOOPS),
    "memory": Section("Peak memory of the process", "MB", False, MODELS | {"import": "import alone"}),
    "start": Section("Start of the process", "ms", False),
}


def number(x):
    """Three significant digits, more where they are whole."""
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def cells(section, rows):
    """The table of a section as lists of texts, the heading first."""
    contenders = []
    for row in rows.values():
        contenders += [c for c in row if c not in contenders]
    contenders.sort(key=lambda c: (c not in OURS, c != section.limit))
    peers = [c for c in contenders if c not in (*OURS, section.limit)]
    heading = ["", *contenders]
    if section.limit in contenders:
        heading.append(f"{section.limit} / optc")
    if peers:
        heading.append(section.ratio)
    out = [heading]
    for name, row in rows.items():
        medians = {c: statistics.median(v) for c, v in row.items()}
        line = [section.rows.get(name, name), *(number(medians[c]) if c in medians else "" for c in contenders)]

        def against(others, ours=medians.get("optc")):
            if not others or ours is None:
                return ""
            return f"{ours / max(others) if section.higher else min(others) / ours:.2f}"

        if section.limit in contenders:
            line.append(against([medians[section.limit]] if section.limit in medians else []))
        if peers:
            line.append(against([medians[c] for c in peers if c in medians]))
        out.append(line)
    return out


def spread(rows):
    """The widest spread among a section's medians: (largest - least) / median over the turns of one contender."""
    widest = [(max(v) - min(v)) / statistics.median(v) for row in rows.values() for v in row.values() if len(v) > 1]
    return max(widest, default=None)


def show(scores, markdown):
    """All tables as one text."""
    out = []
    for key, section in SECTIONS.items():
        rows = scores.values.get(key)
        if not rows:
            continue
        table = cells(section, rows)
        title = f"{section.title} ({section.unit}; {'higher' if section.higher else 'lower'} is better)"
        if markdown:
            out.append(f"## {title}\n")
            out.append("| " + " | ".join(table[0]) + " |")
            out.append("|---" * len(table[0]) + "|")
            out += ["| " + " | ".join(line) + " |" for line in table[1:]]
        else:
            out.append(title)
            widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
            out += ["  " + "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths))) for line in table]
        widest = spread(rows)
        if widest is not None:
            # Markdown ends a table with an empty line.
            out += [""] * markdown + [f"Turns of one contender lie up to {100 * widest:.0f} % of their median apart."]
        out.append("")
    return "\n".join(out)
