"""Proposes prompts in place of a language model: edits of the prompts it is shown, the better ones more often.

One JSON object a line. {"seed", "step", "n", "memory": {"text": [...], "score": [...], "loss": [...]}}, the memory in ascending order, is answered by n prompts,
each a list of words, {"prompt"} by the words of the prompt, {} by the list of all words. What is drawn depends on the seed and the step only.
"""
import json
import math
import random
import sys

WORDS = """amber ash bark bay birch blue bright clay clear cloud cold coral crisp dark dawn deep dim dry dusk faint fern flat fog frost glass gold grain gray hazy iron
ivory lace leaf lime mist moss mute night oak pale pearl pine plain plum quiet rain red rough rust sand sharp silk slate snow soft steel still stone warm wide""".split()


def edit(rng, memory, weights):
    def parent():
        return rng.choices(memory, weights)[0].split()

    words = parent()
    op = rng.choice(["add", "drop", "swap", "cross"])
    if op == "cross":
        both = words + parent()
        words = [w for w in both if rng.random() < 0.5]
    if op in ("drop", "swap") and words:
        words.remove(rng.choice(words))
    if op in ("add", "swap"):
        words.append(rng.choice(WORDS))
    words = sorted(set(words))
    return words if len(words) <= 4 else sorted(rng.sample(words, 4))


for line in sys.stdin:
    request = json.loads(line)
    if "prompt" in request:
        print(json.dumps([w for w in request["prompt"].split() if w in WORDS]), flush=True)
        continue
    if not request:
        print(json.dumps(WORDS), flush=True)
        continue
    rng = random.Random("{seed} {step}".format(**request))
    memory = request["memory"]["text"]
    last = len(memory) - 1
    weights = [math.exp(-3 + 3 * i / last) if last else 1 for i in range(len(memory))]
    print(json.dumps([edit(rng, memory, weights) for _ in range(request["n"])]), flush=True)
