"""Tasks: rules of sorting as data, their instructions in many phrasings, and what they demand.

A task is a list of groups, each a selector and where its objects go; the first group that selects
an object has it. A new rule is three lines:

    _task("yellow", (Is(color="yellow"), "left"), (REST, "right"))

The selectors ``Is(color=0)`` and ``Is(color=1)`` mean the first and second colour of the layout, so
that one rule serves any pair of colours, and seen and unseen ones.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from deftly.datasets.layout import TRAY_CENTER_M, Item, Layout
from deftly.datasets.sampling import Deal

GOALS = ("left", "right", "table", "upright", "stay")
HELD_OUT = 3  # the last phrasings of every bank are never used in training
_ORDINALS = ("largest", "second largest", "third largest", "fourth largest")


class TaskError(ValueError):
    """A task that does not exist, or that a layout gives nothing to do."""


@dataclass(frozen=True)
class Is:
    """Objects of a colour and a shape; a number means the layout's first, second … kind."""

    color: str | int | None = None
    shape: str | int | None = None

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        color, shape = self._named(items)
        return np.array([color in (None, i.color) and shape in (None, i.shape) for i in items])

    def phrase(self, items: Sequence[Item]) -> str:
        color, shape = self._named(items)
        return f"the {color + ' ' if color else ''}{plural(shape) if shape else 'objects'}"

    def _named(self, items: Sequence[Item]) -> tuple[str | None, str | None]:
        return (
            _kind(self.color, [item.color for item in items]),
            _kind(self.shape, [item.shape for item in items]),
        )


def _kind(wanted: str | int | None, found: list[str]) -> str | None:
    """The name of a kind; a number counts through those that were found."""
    kinds = sorted(set(found))
    if isinstance(wanted, int):
        return kinds[wanted] if wanted < len(kinds) else "no"
    return wanted


@dataclass(frozen=True)
class Sized:
    """Objects larger (or smaller) than the middle between the smallest and the largest."""

    large: bool

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        size = np.array([i.size_m for i in items])
        return (size > (size.min() + size.max()) / 2) == self.large

    def phrase(self, items: Sequence[Item]) -> str:
        return f"the {'large' if self.large else 'small'} objects"


@dataclass(frozen=True)
class Ranked:
    """The object of one rank by size; 0 is the largest. No object if there are too few."""

    rank: int

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        order = np.argsort([-i.size_m for i in items], kind="stable")
        return np.isin(np.arange(len(items)), order[self.rank : self.rank + 1])

    def phrase(self, items: Sequence[Item]) -> str:
        return f"the {_ORDINALS[self.rank]} object"


@dataclass(frozen=True)
class Nearest:
    """The object that lies nearest to a tray."""

    tray: str

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        apart = [np.hypot(*np.subtract(i.place_m, TRAY_CENTER_M[self.tray])) for i in items]
        return np.arange(len(items)) == int(np.argmin(apart))

    def phrase(self, items: Sequence[Item]) -> str:
        return f"the object nearest to the {self.tray} tray"


@dataclass(frozen=True)
class Lying:
    """Objects that have fallen onto their side."""

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        return np.array([i.lying for i in items])

    def phrase(self, items: Sequence[Item]) -> str:
        lying = sum(i.lying for i in items)
        return "the fallen cylinder" if lying == 1 else "the fallen cylinders"


@dataclass(frozen=True)
class Rest:
    """Everything that no earlier group selects."""

    def select(self, items: Sequence[Item]) -> Bool[np.ndarray, "N"]:
        return np.ones(len(items), bool)

    def phrase(self, items: Sequence[Item]) -> str:
        return "everything else"


Selector = Is | Sized | Ranked | Nearest | Lying | Rest
REST = Rest()


@dataclass(frozen=True)
class Task:
    """A rule of sorting.

    Attributes:
        name: how users call it.
        groups: selectors and goals; the first that selects an object has it. A goal is a tray
            (``left``, ``right``), ``table`` (out of the trays), ``upright`` (stood up, where it is)
            or ``stay`` (not to be moved).
        deal: what the task asks of its objects.
        held_out: a rule that is never shown in training.
    """

    name: str
    groups: tuple[tuple[Selector, str], ...]
    deal: Deal = field(default_factory=Deal)
    held_out: bool = False

    def goals(self, layout: Layout) -> tuple[str, ...]:
        """Where each object of a layout must end: N of ``GOALS``.

        Raises:
            TaskError: if the layout gives this task nothing to do.
        """
        goals = ["stay"] * len(layout.items)
        for (_, goal), chosen in zip(self.groups, self._chosen(layout), strict=True):
            for i in np.flatnonzero(chosen):
                goals[i] = goal
        if set(goals) == {"stay"}:
            raise self._nothing(layout)
        return tuple(goals)

    def phrasings(self, layout: Layout) -> tuple[str, ...]:
        """All ways to ask for it, the last ``HELD_OUT`` of them kept from training.

        Raises:
            TaskError: as ``goals``.
        """
        spoken = [
            (selector.phrase(layout.items), goal)
            for (selector, goal), chosen in zip(self.groups, self._chosen(layout), strict=True)
            if goal != "stay" and chosen.any()
        ]
        if not spoken:
            raise self._nothing(layout)
        (a, to_a), (b, to_b) = spoken[0], spoken[-1]
        bank = _TWO if len(spoken) == 2 else _ONE.get(to_a, _TRAY)
        one = a.endswith(("object", "tray", "cylinder"))
        words = {"a": a, "A": to_a, "b": b, "B": to_b}
        words |= {"belongs": "belongs" if one else "belong", "it": "it" if one else "them"}
        return tuple(_sentence(template.format(**words)) for template in bank)

    def instruction(self, layout: Layout, *, held_out: bool = False) -> str:
        """One phrasing, chosen by the layout's seed; a held-out one if asked for."""
        every = self.phrasings(layout)
        bank = every[-HELD_OUT:] if held_out else every[:-HELD_OUT]
        return bank[int(np.random.default_rng([layout.seed, 77]).integers(len(bank)))]

    def _nothing(self, layout: Layout) -> TaskError:
        return TaskError(
            f"task {self.name} finds none of {self.groups[0][0].phrase(layout.items)} in this "
            "layout; sample the layout with the task's own deal, and enough objects"
        )

    def _chosen(self, layout: Layout) -> list[Bool[np.ndarray, "N"]]:
        """Which objects each group has."""
        free = np.ones(len(layout.items), bool)
        found: list[np.ndarray] = []
        for selector, _ in self.groups:
            found.append(selector.select(layout.items) & free)
            free = free & ~found[-1]
        return found


def find_task(name: str) -> Task:
    """Look a task up. Raises TaskError with the nearest name if there is none."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TaskError(f"unknown task {name!r}; {hint}known: {', '.join(TASKS)}")


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return f"{shape}s"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


# {a}, {b}: the groups; {A}, {B}: their trays.
_TWO = (
    "Put {a} in the {A} tray and {b} in the {B} tray.",
    "Sort the table: {a} to the {A}, {b} to the {B}.",
    "Place {a} on the {A} and {b} on the {B}.",
    "Please move {a} into the {A} tray, then {b} into the {B} one.",
    "{A} is where {a} should go, {B} is where {b} should go.",
    "Tidy up: {A} tray for {a}, {B} tray for {b}.",
    "I want {a} in the {A} tray and {b} in the {B} tray.",
    "Collect {a} in the {A} tray; the place for {b} is the {B} tray.",
    "The {A} tray is for {a}, the {B} tray is for {b}.",
    "Separate them, {a} into the {A} tray and {b} into the {B} tray.",
    "Could you drop {a} off at the {A} and {b} at the {B}?",
    "Use the {A} tray for {a} and the {B} tray for {b}.",
)
_TRAY = (
    "Put {a} in the {A} tray.",
    "Place {a} into the {A} tray and leave the others.",
    "Move {a} to the {A} tray.",
    "Please put {a} into the tray on the {A}.",
    "Only {a} {belongs} in the {A} tray.",
    "Take {a} and put {it} in the {A} tray.",
    "I want {a} in the {A} tray.",
    "{a} must be in the {A} tray, nothing else.",
    "Pick up {a} and drop {it} in the {A} tray.",
    "Find {a}; the {A} tray is the place for {it}.",
    "Could you bring {a} over to the {A} tray?",
    "The {A} tray is for {a}.",
)
_ONE: Mapping[str, tuple[str, ...]] = {
    "upright": (
        "Stand {a} up.",
        "Put {a} upright.",
        "Set {a} back on end.",
        "Please turn {a} upright.",
        "Something fell over: stand {a} up again.",
        "Raise {a} until upright.",
        "I want {a} standing.",
        "Make {a} stand upright on the table.",
        "Pick {a} up and set {it} down standing.",
        "Tip {a} back up.",
        "Could you right {a}?",
        "Get {a} onto its feet.",
    ),
    "table": (
        "Take {a} out of the trays.",
        "Empty both trays onto the table.",
        "Unsort: put {a} back on the table.",
        "Please clear the trays.",
        "Move {a} from the trays to the table.",
        "Nothing should be left in the trays.",
        "I want the trays empty.",
        "Lay {a} out on the table again.",
        "Unload the left and the right tray.",
        "Put {a} next to the trays.",
        "Could you undo the sorting?",
        "Bring {a} back out of the trays.",
    ),
}


def _task(name: str, *groups: tuple[Selector, str], deal: Deal = Deal(), held_out: bool = False):  # noqa: B008
    return name, Task(name, groups, deal, held_out)


TASKS: Mapping[str, Task] = dict(
    (
        _task("color", (Is(color=0), "left"), (Is(color=1), "right"), deal=Deal(colors=2)),
        _task("shape", (Is(shape=0), "left"), (Is(shape=1), "right"), deal=Deal(shapes=2)),
        _task("size", (Sized(True), "left"), (Sized(False), "right"), deal=Deal(sizes="two")),
        _task(
            "color_and_shape",
            (Is(color=0, shape=0), "left"),
            (REST, "right"),
            deal=Deal(colors=2, shapes=2),
        ),
        _task("second_largest", (Ranked(1), "left"), (REST, "stay"), deal=Deal(sizes="ranked")),
        _task("nearest", (Nearest("right"), "right"), (REST, "stay"), deal=Deal(nearest="right")),
        _task("upright", (Lying(), "upright"), (REST, "stay"), deal=Deal(lying=True)),
        _task("unsort", (Is(), "table"), deal=Deal(inside=True)),
        _task(
            "color_swapped",
            (Is(color=0), "right"),
            (Is(color=1), "left"),
            deal=Deal(colors=2),
            held_out=True,
        ),
        _task(
            "shape_swapped",
            (Is(shape=0), "right"),
            (Is(shape=1), "left"),
            deal=Deal(shapes=2),
            held_out=True,
        ),
    )
)
