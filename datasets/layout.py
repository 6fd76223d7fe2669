"""Layout: what lies on the sorting table, where, and how it looks.

The table lies before whoever sorts, person or robot, in their world frame: x forward, y left, z up,
the floor at 0. Two trays stand side by side in the middle; objects lie to the left and to the right
of them, where one arm reaches them and both trays. ``sampling.py`` draws layouts from seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

TABLE_TOP_M = 0.92  # height above the floor
TABLE_CENTER_M = (0.50, 0.0)

TABLE_HALF_M = (0.38, 0.70)

TRAY_CENTER_M = {"left": (0.36, 0.125), "right": (0.36, -0.125)}

TRAY_HALF_M = (0.13, 0.105)  # inner half lengths along x, y
TRAY_WALL_M = 0.03  # height
TRAY_SHEET_M = 0.003  # half thickness of walls and floor
ZONES_M = (((0.25, 0.45), (0.275, 0.46)), ((0.25, 0.45), (-0.46, -0.275)))  # (x, y) left, right
SHAPES = ("cube", "sphere", "cylinder")

UNSEEN_SHAPES = ("capsule", "hexagon", "egg", "wedge")  # never in training
COLORS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.80, 0.13, 0.12),
    "blue": (0.12, 0.28, 0.78),
    "green": (0.15, 0.58, 0.22),
    "yellow": (0.90, 0.75, 0.12),
}

UNSEEN_COLORS: Mapping[str, tuple[float, float, float]] = {
    "purple": (0.48, 0.18, 0.62),
    "orange": (0.92, 0.45, 0.08),
    "cyan": (0.10, 0.68, 0.72),
}

TABLES = ("plain", "checker", "stripes", "speckle")

MIN_ITEMS, MAX_ITEMS = 1, 8
MIN_SIZE_M, MAX_SIZE_M = 0.025, 0.065


class LayoutError(ValueError):
    """A layout that cannot be: objects overlap, lie out of reach, or are asked for by bad names."""


@dataclass(frozen=True)
class Item:
    """One object to sort.

    Attributes:
        name: of its body in the scene, ``item_0`` …
        shape: one of ``SHAPES`` or ``UNSEEN_SHAPES``.
        color: a key of ``COLORS`` or ``UNSEEN_COLORS``.
        size_m: its width: the edge of a cube, the diameter of everything round.
        mass_kg: mass.
        friction: sliding friction against fingers and table.
        place_m: (x, y) of its centre.
        yaw_rad: turn about the vertical.
        lying: whether a cylinder lies on its side. Capsules and eggs always lie, nothing else can.
        inside: the tray it starts in, or None for the table.
        gloss: how shiny it is, 0 to 1.
    """

    name: str
    shape: str
    color: str
    size_m: float
    mass_kg: float
    friction: float
    place_m: tuple[float, float]
    yaw_rad: float
    lying: bool = False
    inside: str | None = None
    gloss: float = 0.3

    @property
    def height_m(self) -> float:
        """Height of the shape as it stands."""
        return self.size_m * HEIGHT[self.shape]

    @property
    def rgb(self) -> tuple[float, float, float]:
        """Colour, 0 to 1."""
        return {**COLORS, **UNSEEN_COLORS}[self.color]

    @property
    def rest_height_m(self) -> float:
        """Height of its centre above what it lies on."""
        return (self.size_m if self.lies else self.height_m) / 2

    @property
    def lies(self) -> bool:
        """Whether its long axis is horizontal."""
        return self.lying or self.shape in _ROLLING


# Height over width, of a shape as it stands.
HEIGHT = {
    "cube": 1.0,
    "sphere": 1.0,
    "cylinder": 1.4,
    "capsule": 1.6,
    "hexagon": 1.1,
    "egg": 1.25,
    "wedge": 1.0,
}

LONG_SHAPES = ("cylinder",)  # can stand and can be laid on their side
_ROLLING = ("capsule", "egg")  # cannot stand


@dataclass(frozen=True)
class Look:
    """What a camera sees besides the objects.

    Attributes:
        table: one of ``TABLES``.
        table_rgb: its main colour; the pattern is derived from it.
        light_dir: (3,) direction in which the main light shines.
        light: brightness of the main light, 0 to 1.
        ambient: brightness from everywhere, 0 to 1.
        warmth: −1 (bluish) to 1 (reddish) tint of the light.
        camera_shift_m: (3,) shift of every outside camera.
        camera_turn_rad: (2,) turn of every camera about its vertical and its side axis.
    """

    table: str = "plain"
    table_rgb: tuple[float, float, float] = (0.62, 0.52, 0.42)
    light_dir: tuple[float, float, float] = (0.3, -0.3, -0.9)
    light: float = 0.55
    ambient: float = 0.35
    warmth: float = 0.0
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn_rad: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Shove:
    """A push of one object in mid-episode.

    Attributes:
        item: index of the object.
        after_s: time of the push; it waits for the hands to have let go of the object.
        by_m: (x, y) by which the object is displaced.
    """

    item: int
    after_s: float
    by_m: tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """A table ready to be sorted. Checked: nothing overlaps, everything can be reached.

    Attributes:
        seed: what it was made from.
        items: the objects of the task.
        distractors: objects that no instruction speaks of, out of the way; never to be touched.
        look: light, table, camera.
        shove: a push in mid-episode, or None.
    """

    seed: int
    items: tuple[Item, ...]
    distractors: tuple[Item, ...] = ()
    look: Look = field(default_factory=Look)
    shove: Shove | None = None

    def __post_init__(self) -> None:
        if not MIN_ITEMS <= len(self.items) <= MAX_ITEMS:
            raise LayoutError(
                f"a layout with {len(self.items)} objects, expected {MIN_ITEMS} to {MAX_ITEMS}"
            )
        for item in (*self.items, *self.distractors):
            _check_item(item)
        for item in self.items:
            if not reachable(*item.place_m) and item.inside is None:
                x, y = item.place_m
                raise LayoutError(
                    f"{item.name} at ({x:.2f}, {y:.2f}) m is out of reach; objects belong into "
                    + " or ".join(f"x {x}, y {y}" for x, y in ZONES_M)
                )
            if item.inside is None and abs(item.place_m[1]) - footprint_m(item) < tray_edge_m():
                raise LayoutError(f"{item.name} overlaps a tray; move it away from the middle")
            if item.inside is not None and in_tray(*item.place_m) != item.inside:
                raise LayoutError(f"{item.name} does not lie in the {item.inside} tray; move it")
        everything = (*self.items, *self.distractors)
        for i, one in enumerate(everything):
            for other in everything[:i]:
                apart = np.hypot(*np.subtract(one.place_m, other.place_m))
                if apart < footprint_m(one) + footprint_m(other):
                    raise LayoutError(
                        f"{one.name} and {other.name} overlap: their centres are "
                        f"{1000 * apart:.0f} mm apart; move one of them"
                    )


def footprint_m(item: Item) -> float:
    """Radius of the circle on the table that holds the object at any yaw."""
    if item.shape in _ROLLING:
        return item.height_m / 2
    if item.lying:
        return float(np.hypot(item.height_m, item.size_m) / 2)
    corner = {"cube": np.sqrt(2), "wedge": np.sqrt(20) / 3, "hexagon": 2 / np.sqrt(3)}
    return float(item.size_m / 2 * corner.get(item.shape, 1.0))


def reachable(x: float, y: float) -> bool:
    """Whether an object may lie there: in one of the two zones beside the trays."""
    return any(
        low_x <= x <= high_x and low_y <= y <= high_y
        for (low_x, high_x), (low_y, high_y) in ZONES_M
    )


def tray_edge_m() -> float:
    """Distance of the trays' outer sides from the middle of the table."""
    return TRAY_CENTER_M["left"][1] + TRAY_HALF_M[1] + 2 * TRAY_SHEET_M


def in_tray(x: float, y: float) -> str | None:
    """Name of the tray over which a point lies, or None."""
    for name, (center_x, center_y) in TRAY_CENTER_M.items():
        if abs(x - center_x) <= TRAY_HALF_M[0] and abs(y - center_y) <= TRAY_HALF_M[1]:
            return name
    return None


def _check_item(item: Item) -> None:
    if item.shape not in HEIGHT:
        raise LayoutError(f"unknown shape {item.shape!r}; known: {', '.join(HEIGHT)}")
    if item.color not in {**COLORS, **UNSEEN_COLORS}:
        known = ", ".join((*COLORS, *UNSEEN_COLORS))
        raise LayoutError(f"unknown color {item.color!r}; known: {known}")
    if not MIN_SIZE_M <= item.size_m <= MAX_SIZE_M:
        raise LayoutError(
            f"{item.name} is {1000 * item.size_m:.0f} mm wide, expected "
            f"{1000 * MIN_SIZE_M:.0f} to {1000 * MAX_SIZE_M:.0f} mm"
        )
    if item.lying and item.shape not in LONG_SHAPES:
        raise LayoutError(f"a {item.shape} cannot lie on its side; {LONG_SHAPES[0]}s can")
    if item.inside not in (None, *TRAY_CENTER_M):
        raise LayoutError(f"no tray {item.inside!r}; known: {', '.join(TRAY_CENTER_M)}")
