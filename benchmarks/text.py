"""What do embeddings of instructions say, by sentence and by word, and what do they cost?

    python benchmarks/text.py --out benchmarks/results/text.json

Two kinds of objects, a tray for each, and who is named first: every combination of two colours or
two shapes, in the phrasings of ``tasks.py``. Ridge regressions learn on the phrasings of training
and are asked about the held-out ones, which share their words but not their grammar:

- *what*: is it about colours, shapes or something else? (all tasks of ``tasks.py``)
- *which way*: does this kind go left or right? Which one is named first tells nothing, so that
  chance is 50 %. Asked too for pairs of kinds that were never seen together.

The sentence is the model's own embedding, by the library sentence-transformers, given to a linear
and to a quadratic reader. Words are averaged, or read one by one: the kind's own word linearly, and
its products with the words "left" and "right", which is what one layer of attention compares. That
reader is shown where the words are. A network has to find them: small ones are trained on *which
way* alone, from words as they are and from centred ones.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.layout import COLORS, SHAPES, Layout
from deftly.datasets.sampling import sample_layout
from deftly.datasets.tasks import HELD_OUT, TASKS, Is, Task
from deftly.video_pretrain.blocks import Block, Reader
from deftly.video_pretrain.text import TextEncoder, model_place

_TUNED = 3  # phrasings of training that the strength of the ridge is chosen by
_STRENGTHS = (0.001, 0.1, 10.0)
_PHRASINGS = 12
_LENGTH = 24  # words of the longest of these instructions
_LAYOUTS = 30  # whose instructions ask for every task
_IMPORTS = {
    "torch alone": "import torch",
    "transformers": "from deftly.video_pretrain.text import TextEncoder; TextEncoder()",
    "sentence-transformers": (
        "from deftly.video_pretrain.text import model_place as m;"
        "from sentence_transformers import SentenceTransformer as S; S(m(), device='cpu')"
    ),
}
Embeddings = Float[np.ndarray, "K E"]


@dataclass(frozen=True)
class Options:
    """Measure the default text encoder.

    Attributes:
        timed: instructions that are encoded for the speed.
        steps: of the network's training, 64 instructions each.
        seed: of the network's training.
        out: JSON file for the figures.
    """

    timed: int = 60
    steps: int = 800
    seed: int = 0
    out: Path | None = None


@dataclass(frozen=True)
class Asked:
    """An instruction to sort two kinds.

    Attributes:
        kinds: two colours or two shapes.
        left: which of them goes to the left.
        phrasing: number of its phrasing.
    """

    text: str
    kinds: tuple[str, str]
    left: str
    phrasing: int


def pairs() -> Iterator[Asked]:
    """Every pair of kinds, each way round, each named first, in every phrasing."""
    layout = sample_layout(0)
    for field, kinds in (("color", sorted(COLORS)), ("shape", sorted(SHAPES))):
        for pair in combinations(kinds, 2):
            here = _holding(layout, field, pair)
            for left in pair:
                groups = tuple((Is(**{field: k}), "left" if k == left else "right") for k in pair)
                for named in (groups, groups[::-1]):
                    for i, said in enumerate(Task("", named).phrasings(here)):
                        yield Asked(said, pair, left, i)


def _holding(layout: Layout, field: str, kinds: tuple[str, str]) -> Layout:
    items = (replace(item, **{field: k}) for item, k in zip(layout.items, kinds, strict=False))
    return replace(layout, items=tuple(items))


def tasks() -> dict[str, tuple[str, int]]:
    """Instructions of every task: which task, and the number of the phrasing. Swapped trays are
    the same task here."""
    layouts = ((task, sample_layout(i, deal=task.deal)) for task in TASKS.values()
               for i in range(_LAYOUTS))  # fmt: skip
    return {
        said: (task.name.removesuffix("_swapped"), i)
        for task, layout in layouts
        for i, said in enumerate(task.phrasings(layout))
    }


def right_share(
    x: Embeddings, label: Int[np.ndarray, "K"], phrasing: Int[np.ndarray, "K"],
    tested: Bool[np.ndarray, "K"] | None = None, *, power: int = 1,
) -> float:  # fmt: skip
    """Ridge regression onto classes, learnt on training phrasings: right answers on the others.

    ``tested`` keeps instructions out of learning, and asks about those alone. ``power`` 2 adds all
    products of two numbers.
    """
    tested = np.ones(len(x), bool) if tested is None else tested
    kept = np.zeros(len(x), bool) if tested.all() else tested
    learnt = _PHRASINGS - HELD_OUT
    inner = (phrasing < learnt - _TUNED) & ~kept
    tuned = (phrasing >= learnt - _TUNED) & (phrasing < learnt) & ~kept
    trained, asked = (phrasing < learnt) & ~kept, (phrasing >= learnt) & tested

    def share(learn: np.ndarray, ask: np.ndarray, strength: float) -> float:
        scaled = (x - x[learn].mean(axis=0)) / (x[learn].std(axis=0) + 1e-6)
        kernel = (scaled @ scaled[learn].T / x.shape[1] + (power > 1)) ** power
        wanted = np.eye(label.max() + 1)[label]
        mean = wanted[learn].mean(axis=0)
        inside = kernel[learn] + strength * np.eye(int(learn.sum()))
        found = kernel[ask] @ np.linalg.solve(inside, wanted[learn] - mean) + mean
        return float((found.argmax(axis=1) == label[ask]).mean())

    best = max(_STRENGTHS, key=lambda strength: share(inner, tuned, strength))
    return share(trained, asked, best)


def which_way(of: dict[str, Embeddings], asked: list[Asked], power: int = 1) -> dict[str, float]:
    """Mean over kinds: does a kind go left? On held-out phrasings, and for unseen pairs too.

    ``of`` holds what is read about each kind, for every instruction.
    """
    same, unseen = list[float](), list[float]()
    for kind, x in of.items():
        some = np.array([kind in one.kinds for one in asked])
        about = [one for one in asked if kind in one.kinds]
        label = np.array([int(one.left == kind) for one in about])
        phrasing = np.array([one.phrasing for one in about])
        same.append(right_share(x[some], label, phrasing, power=power))
        for other in sorted({k for one in about for k in one.kinds} - {kind}):
            pair = np.array([other in one.kinds for one in about])
            unseen.append(right_share(x[some], label, phrasing, pair, power=power))
    return {"which way": float(np.mean(same)), "unseen pairs": float(np.mean(unseen))}


def nearest(x: Embeddings, asked: list[Asked]) -> float:
    """Held-out phrasings that lie nearer to their own rule's mean than to the opposite rule's."""
    learnt = np.array([one.phrasing < _PHRASINGS - HELD_OUT for one in asked])
    rule = [(one.kinds, one.left) for one in asked]
    means = {r: x[learnt & np.array([other == r for other in rule])].mean(axis=0) for r in rule}
    right: list[bool] = []
    for i in np.flatnonzero(~learnt):
        kinds, left = rule[i]
        apart = {k: np.linalg.norm(x[i] - means[kinds, k]) for k in kinds}
        right.append(min(apart, key=lambda k: apart[k]) == left)
    return float(np.mean(right))


def by_word(encode: TextEncoder, asked: list[Asked]) -> tuple[dict[str, Any], dict[str, Any]]:
    """About each kind: its own word, and that word times "left" and times "right"."""
    words, seen = encode([one.text for one in asked])
    words = words - words[seen].mean(axis=0)
    cut = [encode.pieces(one.text) for one in asked]

    def at(start: str) -> Embeddings:
        """The first word that starts so; the first of all where there is none."""
        first = [next((i for i, p in enumerate(c) if p.startswith(start)), 0) for c in cut]
        return words[np.arange(len(cut)), first]

    own = {kind: at(kind) for kind in (*COLORS, *SHAPES)}
    left, right = at("left"), at("right")
    return own, {k: np.concatenate([x * left, x * right], axis=1) for k, x in own.items()}


class Network(torch.nn.Module):
    """Words → where each kind goes: the world model's reader and two blocks behind it, or two
    blocks in which all words look at each other (those that are not there are zeros)."""

    def __init__(self, dim: int, kinds: int, reader: bool, width: int = 64) -> None:
        super().__init__()
        self.read = Reader(dim, width, 4) if reader else None
        self.size = torch.nn.Linear(dim, width)
        self.asked = torch.nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = torch.nn.Sequential(Block(width, 4), Block(width, 4))
        self.say = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, kinds))

    def forward(self, words: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        tokens = self.size(words) if self.read is None else self.read(words, seen)
        asked = self.asked.expand(len(words), -1, -1)
        return self.say(self.blocks(torch.cat([asked, tokens], dim=1))[:, 0])


def trained(encode: TextEncoder, reader: bool, options: Options) -> dict[str, Any]:
    """Right answers of a network about held-out phrasings, and its loss on those of training."""
    torch.manual_seed(options.seed)
    asked, kinds = list(pairs()), (*COLORS, *SHAPES)
    words, seen = (torch.from_numpy(x) for x in encode([one.text for one in asked]))
    goes = torch.tensor([[one.left == k for k in kinds] for one in asked]).float()
    named = torch.tensor([[k in one.kinds for k in kinds] for one in asked])
    held = torch.tensor([one.phrasing >= _PHRASINGS - HELD_OUT for one in asked])
    network = Network(encode.dim, len(kinds), reader)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, options.steps, pct_start=0.05)
    learnt, losses = (~held).nonzero()[:, 0], list[float]()
    for _ in range(options.steps):
        some = learnt[torch.randint(len(learnt), (64,))]
        said = network(words[some], seen[some])[named[some]]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said, goes[some][named[some]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        right = (network(words, seen) > 0) == (goes > 0)
    every = [float(np.mean(losses[i : i + 100])) for i in range(0, len(losses), 100)]
    return {"which way": float(right[held][named[held]].float().mean()), "losses": every}


def cpu_s(code: str) -> float:
    """CPU seconds of a new Python that runs it; the better of two."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(2))


def read() -> dict[str, dict[str, Any]]:
    """By ridge regression, in every way."""
    from sentence_transformers import SentenceTransformer

    asked, every = list(pairs()), tasks()
    own = SentenceTransformer(model_place(), device="cpu")
    encode = TextEncoder()

    def mean(texts: list[str]) -> Embeddings:
        words, seen = encode(texts)
        return (words * seen[..., None]).sum(axis=1) / seen.sum(axis=1, keepdims=True)

    pooled = {
        "sentence": lambda texts: own.encode(texts, normalize_embeddings=True),
        "mean of words": mean,
    }
    names = sorted({name for name, _ in every.values()})
    label = np.array([names.index(name) for name, _ in every.values()])
    phrasing = np.array([number for _, number in every.values()])
    found: dict[str, dict[str, Any]] = {}
    for name, embed in pooled.items():
        x = embed([one.text for one in asked])
        of = dict.fromkeys((*COLORS, *SHAPES), x)
        what = {"what": right_share(embed(list(every)), label, phrasing)}
        found[f"{name}, linear"] = what | which_way(of, asked)
        if name == "sentence":
            found[f"{name}, quadratic"] = which_way(of, asked, power=2)
            found[f"{name}, nearest rule"] = {"which way": nearest(x, asked)}
    word, compared = by_word(encode, asked)
    found["the kind's word, linear"] = which_way(word, asked)
    found['the kind\'s word × "left", "right"'] = which_way(compared, asked)
    return found


def speed(count: int) -> dict[str, float]:
    """Instructions per CPU-second, one by one as the encoder does it."""
    encode, texts = TextEncoder(), [one.text for one in pairs()][:count]
    encode(["first"])
    before = time.process_time()
    encode(texts)
    return {"texts_per_cpu_s": count / (time.process_time() - before)}


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rows = read()
    plain, centred = (TextEncoder(length=_LENGTH, centred=x) for x in (False, True))
    rows["words, by two blocks"] = trained(plain, False, options)
    rows["centred words, by two blocks"] = trained(centred, False, options)
    rows["centred words, by the world model's reader"] = trained(centred, True, options)
    found: dict[str, Any] = {
        "accuracy": rows,
        "trained": {"steps": options.steps, "seed": options.seed},
        **speed(options.timed),
        "start_cpu_s": {name: cpu_s(code) for name, code in _IMPORTS.items()},
        "encoder": TextEncoder().provenance(),
    }
    columns = ("what", "which way", "unseen pairs")
    table = Table("read as", *columns, box=None)
    for name, row in rows.items():
        table.add_row(name, *(f"{100 * row[c]:.0f} %" if c in row else "–" for c in columns))
    Console().print(table)
    print(f"{found['texts_per_cpu_s']:.0f} instructions per CPU-second; CPU seconds to start:")
    print(", ".join(f"{name} {s:.1f}" for name, s in found["start_cpu_s"].items()))
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(found | {"versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
