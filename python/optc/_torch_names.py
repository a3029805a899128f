"""What torch calls the states and hyperparameters of a rule."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from . import _arrays, _lib

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_KNOWN = {
    "adamw": "AdamW", "sgd": "SGD", "sgdw": "SGDW", "rmsprop": "RMSprop", "nadam": "NAdam", "nadamw": "NAdamW", "radam": "RAdam", "asgd": "ASGD", "soap": "SOAP", "lamb": "LAMB",
    "lars": "LARS",
}


def class_name(rule: str) -> str:
    """``prodigy`` is ``Prodigy``; an expression is an ``Optimizer``."""
    if not _NAME.fullmatch(rule):
        return "Optimizer"
    last = rule.rsplit(".", 1)[-1]
    return _KNOWN.get(last) or "".join(word[:1].upper() + word[1:] for word in last.split("_"))


def keys(names: list[str]) -> dict[str, tuple[str, int | None]]:
    """For each hyperparameter the key of a group that has it, and its place there: ``beta1``, ``beta2``, … are together ``betas`` where there are at least two."""
    betas = [n for n in names if re.fullmatch(r"beta\d+", n)]
    together = len(betas) >= 2 and betas == [f"beta{k + 1}" for k in range(len(betas))]
    return {n: ("betas", betas.index(n)) if together and n in betas else (n, None) for n in names}


def _said(name: str, file: str | None) -> tuple[str, list[str]]:
    """The documentation of a rule and the names of its parameters; nothing of what is no rule."""
    if file is not None:
        opened = _lib.request(do="open", path=file, text=None)
        _lib.Handle(opened["module"])
        for item in opened["items"]:
            if item["name"] == name and item["kind"] == "optimizer":
                return item["doc"], [p["name"] for p in item["params"]]
    try:
        text: str = _lib.request(do="show", path=name)
    except ValueError:
        return "", []
    found = re.search(rf"^optimizer {re.escape(name.rsplit('.', 1)[-1])}\(", text, re.MULTILINE)
    if not found:
        return "", []
    doc = "\n".join(line[2:].removeprefix(" ") for line in text[: found.start()].splitlines() if line.startswith("##"))
    head = re.split(r"\)\s*(?:=|\{)\s*$", text[found.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    return doc, re.findall(r"(?:^|,)\s*(?:const\s+)?([a-z]\w*)\s*:", head, re.IGNORECASE)


def base(full: str) -> str:
    """The whole name of a hyperparameter without the number that values for some leaves have (``0.adamw.lr.1``)."""
    return re.sub(r"\.\d+$", "", full)


def of_group(name: str, full: str, written: float, known: dict[str, tuple[str, float]]) -> tuple[str, int | None]:
    """What groups call a hyperparameter, and the group whose own it is (``0.adamw.lr@1``)."""
    found = re.search(r"@(\d+)", full)
    if found is None:
        return known.get(full, (name, written))[0], None
    whole = base(full.replace(found.group(), ""))
    same = [(n, value) for other, (n, value) in known.items() if base(other) == whole]
    return next((n for n, value in same if value == written), same[0][0]), int(found[1])


class Rule:
    """A rule as it was asked for."""

    def __init__(self, text: str, file: str | None):
        self.text, self.file = text.strip(), file
        self.single = bool(_NAME.fullmatch(self.text))
        #: What a single rule takes.
        self.parameters: list[str] = []
        self.doc = ""
        #: Defaults that torch has for these.
        self.defaults: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        mentioned = [self.text] if self.single else dict.fromkeys(m.group() for m in _NAME.finditer(re.sub(r'"[^"]*"', "", self.text)))
        for name in mentioned:
            doc, parameters = _said(name, file)
            if self.single:
                self.doc, self.parameters = doc, parameters
            for left, right in _section(doc):
                if _NAME.fullmatch(right) and right not in ("True", "False", "None"):
                    # What two rules call differently keeps its own name.
                    self._states[left] = left if self._states.get(left, right) != right else right
                elif left in self.parameters:
                    self.defaults[left] = ast.literal_eval(right)

    def takes(self, name: str) -> bool:
        """Whether a keyword is an argument of the rule, to be written in its expression."""
        return self.single and "." not in name and (name in self.parameters or not self.parameters)

    def state(self, name: str) -> str:
        """What torch calls a state."""
        return self._states.get(name, name)

    def written(self, arguments: dict[str, Any]) -> str:
        """The expression with these arguments."""
        if not arguments:
            return self.text
        return f"{self.text}({', '.join(f'{n} = {_literal(x)}' for n, x in arguments.items())})"


def _section(doc: str) -> list[tuple[str, str]]:
    """The entries of the section `# torch` of a documentation: `m = exp_avg, weight_decay = 1e-2`."""
    lines = doc.splitlines()
    for k, line in enumerate(lines):
        if line.strip() == "# torch":
            rest = []
            for line in lines[k + 1 :]:
                if line.startswith("# "):
                    break
                rest.append(line)
            pairs = [entry.split("=", 1) for entry in " ".join(rest).split(",") if "=" in entry]
            return [(left.strip(), right.strip()) for left, right in pairs]
    return []


def _literal(x: Any) -> str:
    if x is None:
        return "none"
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, str):
        return json.dumps(x, ensure_ascii=False)
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(_literal, x))}]"
    if isinstance(x, (int, float)):
        return repr(x)
    if hasattr(x, "item") and getattr(x, "shape", None) in ((), (1,)):
        return repr(x.item())
    try:
        return _arrays.dtype_name(x)
    except TypeError:
        raise TypeError(f"{x!r} cannot be an argument of a rule") from None
