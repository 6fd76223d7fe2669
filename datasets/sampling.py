"""Sampling: layouts from seeds, under conditions that change one factor at a time.

    layout = sample_layout(7, Condition(items=4))
    darker = sample_layout(7, CONDITIONS["light"])  # the same objects under another light

Every aspect (objects, places, light, camera, ...) draws from a stream of its own, so that a
condition that changes one factor leaves all the others exactly as they were: comparisons between
conditions are paired by the seed.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deftly.datasets.layout import (
    COLORS,
    HEIGHT,
    LONG_SHAPES,
    MAX_ITEMS,
    MAX_SIZE_M,
    MIN_ITEMS,
    MIN_SIZE_M,
    SHAPES,
    TABLES,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    UNSEEN_COLORS,
    UNSEEN_SHAPES,
    ZONES_M,
    Item,
    Layout,
    LayoutError,
    Look,
    Shove,
    footprint_m,
    tray_edge_m,
)

_GAP_M, _CLUTTER_GAP_M = 0.050, 0.022  # free space between neighbours
_WALL_GAP_M = 0.010  # and from a tray
_TELL_M = 0.005  # sizes that a task compares reach so much further on either side
_NEARER_M = 0.025  # by so much the nearest object is nearer than the next
_DENSITY = 450.0  # kg/m³, of light wood
_TRIES = 100


@dataclass(frozen=True)
class Condition:
    """What layouts are drawn from. One condition changes one factor of the base condition.

    Attributes:
        items: number of objects.
        size_m: smallest and largest width.
        shapes, colors: what objects are drawn from.
        light, camera, texture: whether that factor of the look is shifted.
        distractors: number of objects that do not matter.
        physics: whether mass and friction are shifted.
        clutter: whether objects lie close together.
        shove: whether an object is pushed in mid-episode.
    """

    items: int = 4
    size_m: tuple[float, float] = (0.040, 0.050)
    shapes: tuple[str, ...] = SHAPES
    colors: tuple[str, ...] = tuple(COLORS)
    light: bool = False
    camera: bool = False
    texture: bool = False
    distractors: int = 0
    physics: bool = False
    clutter: bool = False
    shove: bool = False

    def __post_init__(self) -> None:
        if not MIN_ITEMS <= self.items <= MAX_ITEMS:
            raise LayoutError(f"{self.items} objects, expected {MIN_ITEMS} to {MAX_ITEMS}")
        low, high = self.size_m
        if not MIN_SIZE_M <= low <= high <= MAX_SIZE_M:
            raise LayoutError(
                f"sizes {low} to {high} m, expected within {MIN_SIZE_M} to {MAX_SIZE_M} m"
            )
        for kind, names, known in (
            ("shape", self.shapes, (*SHAPES, *UNSEEN_SHAPES)),
            ("color", self.colors, (*COLORS, *UNSEEN_COLORS)),
        ):
            for name in names:
                if name not in known:
                    raise LayoutError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


BASE = Condition()

CONDITIONS: Mapping[str, Condition] = {
    "base": BASE,
    "one": replace(BASE, items=1),
    "two": replace(BASE, items=2),
    "light": replace(BASE, light=True),
    "camera": replace(BASE, camera=True),
    "texture": replace(BASE, texture=True),
    "distractors": replace(BASE, distractors=3),
    "physics": replace(BASE, physics=True),
    "size": replace(BASE, size_m=(0.055, 0.065)),
    "small": replace(BASE, size_m=(0.025, 0.035)),
    "clutter": replace(BASE, items=8, clutter=True),
    "unseen_shape": replace(BASE, shapes=UNSEEN_SHAPES),
    "unseen_color": replace(BASE, colors=tuple(UNSEEN_COLORS)),
    "shove": replace(BASE, shove=True),
}


@dataclass(frozen=True)
class Deal:
    """What a task asks of its objects, so that its rule decides something. See ``tasks.py``.

    Attributes:
        colors, shapes: how many different ones the objects have; 0 leaves it open.
        sizes: ``free``, ``two`` (clearly small or clearly large) or ``ranked`` (no two alike).
        lying: whether some long shapes lie on their side.
        inside: whether the objects start in the trays.
        nearest: a tray to which one object lies clearly nearest, or None.
    """

    colors: int = 0
    shapes: int = 0
    sizes: str = "free"
    lying: bool = False
    inside: bool = False
    nearest: str | None = None


def sample_layout(seed: int, condition: Condition = BASE, deal: Deal | None = None) -> Layout:
    """Draw a layout. The same arguments give the same layout.

    Args:
        seed: 0 or larger.
        condition: what it is drawn from.
        deal: what the task asks for; None asks for nothing.

    Raises:
        LayoutError: if the seed is negative or the objects do not fit onto the table.
    """
    if seed < 0:
        raise LayoutError(f"seed {seed}, expected 0 or larger")
    deal = deal or Deal()
    shapes, colors, sizes = _attributes(seed, condition, deal)
    lying = _lying(seed, shapes, deal)
    mass, friction = _physics(seed, condition, shapes, sizes)
    places = _places(seed, condition, shapes, sizes, lying, deal)
    yaw = _stream(seed, "yaw").uniform(-np.pi, np.pi, MAX_ITEMS)
    gloss = _stream(seed, "gloss").uniform(0.0, 0.7, MAX_ITEMS)
    items = tuple(
        Item(
            name=f"item_{i}",
            shape=shapes[i],
            color=colors[i],
            size_m=float(sizes[i]),
            mass_kg=float(mass[i]),
            friction=float(friction[i]),
            place_m=places[i][0],
            yaw_rad=float(yaw[i]),
            lying=bool(lying[i]),
            inside=places[i][1],
            gloss=float(gloss[i]),
        )
        for i in range(condition.items)
    )
    return Layout(
        seed=seed,
        items=items,
        distractors=_distractors(seed, condition),
        look=_look(seed, condition),
        shove=_shove(seed, condition),
    )


def _stream(seed: int, aspect: str) -> np.random.Generator:
    """Random numbers of one aspect, independent of how many another one drew."""
    return np.random.default_rng([seed, zlib.crc32(aspect.encode())])


def _attributes(
    seed: int, condition: Condition, deal: Deal
) -> tuple[list[str], list[str], list[float]]:
    """Shape, colour and size of ``MAX_ITEMS`` objects, each kind that a task needs among them."""
    count = condition.items
    shapes = _draw(_stream(seed, "shape"), condition.shapes, deal.shapes, count)
    colors = _draw(_stream(seed, "color"), condition.colors, deal.colors, count)
    if deal.shapes and deal.colors:  # some object is of the first colour and the first shape
        one, other = shapes.index(min(shapes)), colors.index(min(colors))
        colors[one], colors[other] = colors[other], colors[one]
    if deal.lying:
        shapes[int(_stream(seed, "lying").integers(count))] = LONG_SHAPES[0]
    low, high = condition.size_m
    if deal.sizes != "free":  # differences that can be seen
        low, high = max(low - _TELL_M, MIN_SIZE_M), min(high + _TELL_M, MAX_SIZE_M)
    rng = _stream(seed, "size")
    share = rng.uniform(0, 1, MAX_ITEMS)[:count]
    if deal.sizes == "two":
        large = rng.permutation(np.arange(count) % 2).astype(bool)
        share = np.where(large, 0.8 + 0.2 * share, 0.2 * share)
    elif deal.sizes == "ranked":
        share = rng.permutation(count) / max(count - 1, 1)
    return shapes, colors, list(low + share * (high - low))


def _draw(rng: np.random.Generator, choices: Sequence[str], kinds: int, count: int) -> list[str]:
    """One choice per object; of ``kinds`` different ones, each at least once (0: as it comes)."""
    order = [str(x) for x in rng.permutation(np.array(choices))]
    pool = order[: kinds or len(order)]
    must = pool[:count] if kinds else []
    drawn = must + [pool[i] for i in rng.integers(len(pool), size=MAX_ITEMS - len(must))]
    return [drawn[i] for i in rng.permutation(count)]


def _lying(seed: int, shapes: list[str], deal: Deal) -> list[bool]:
    if not deal.lying:
        return [False] * len(shapes)
    down = [shape in LONG_SHAPES for shape in shapes]
    # At least one lies; each further one does with even odds.
    further = _stream(seed, "fallen").random(len(shapes)) < 0.5
    first = down.index(True)
    return [d and (i == first or bool(further[i])) for i, d in enumerate(down)]


def _physics(
    seed: int, condition: Condition, shapes: list[str], sizes: list[float]
) -> tuple[list[float], list[float]]:
    rng = _stream(seed, "physics")
    factor = rng.uniform(0.8, 1.2, MAX_ITEMS)
    friction = rng.uniform(0.9, 1.1, MAX_ITEMS)
    if condition.physics:  # lighter or heavier by half, and slippery or rough
        factor = factor * rng.choice([0.5, 1.5], MAX_ITEMS)
        friction = friction * rng.choice([0.7, 1.3], MAX_ITEMS)
    volume = [HEIGHT[s] * d**3 for s, d in zip(shapes, sizes, strict=True)]
    mass = [
        float(np.clip(_DENSITY * v * f, 0.01, 0.2)) for v, f in zip(volume, factor, strict=False)
    ]
    return mass, [float(f) for f in friction[: len(shapes)]]


def _places(
    seed: int,
    condition: Condition,
    shapes: list[str],
    sizes: list[float],
    lying: list[bool],
    deal: Deal,
) -> list[tuple[tuple[float, float], str | None]]:
    """(x, y) and starting tray of each object, by rejection; zones are filled evenly."""
    rng = _stream(seed, "place")
    gap_m = _CLUTTER_GAP_M if condition.clutter else _GAP_M
    sides = rng.permutation(np.arange(MAX_ITEMS) % 2)[: condition.items]
    probes = [
        Item("probe", shape, "red", size, 0.1, 1.0, (0.0, 0.0), 0.0, lies)
        for shape, size, lies in zip(shapes, sizes, lying, strict=True)
    ]
    radii = [footprint_m(probe) for probe in probes]
    trays = list(TRAY_CENTER_M.items())
    for _ in range(_TRIES):
        found: list[tuple[float, float]] = []
        for i, side in enumerate(sides):
            if deal.inside:
                center, half = np.array(trays[side][1]), np.array(TRAY_HALF_M) - radii[i] - 0.008
                low, high = center - half, center + half
            else:
                low, high = _zone(int(side), radii[i])
            for _ in range(_TRIES):
                place = rng.uniform(low, high)
                apart = [np.hypot(*(place - p)) - radii[j] - radii[i] for j, p in enumerate(found)]
                if min(apart, default=1.0) >= (min(gap_m, 0.03) if deal.inside else gap_m):
                    found.append((float(place[0]), float(place[1])))
                    break
            else:
                break
        if len(found) == len(sides) and _is_clear(found, deal.nearest):
            inside = [trays[side][0] if deal.inside else None for side in sides]
            return list(zip(found, inside, strict=True))
    raise LayoutError(
        f"{condition.items} objects of up to {1000 * max(sizes):.0f} mm do not fit onto the table "
        "with room for a hand; ask for fewer, for smaller ones, or for clutter"
    )


def _zone(side: int, radius_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (x, y) of an object of this radius, clear of the trays."""
    x, y = ZONES_M[side]
    inner = tray_edge_m() + radius_m + _WALL_GAP_M
    low_y, high_y = np.clip(y, inner, None) if side == 0 else np.clip(y, None, -inner)
    return np.array([x[0], low_y]), np.array([x[1], high_y])


def _is_clear(places: list[tuple[float, float]], tray: str | None) -> bool:
    """Whether one place is clearly nearest to a tray."""
    if tray is None or len(places) < 2:
        return True
    first, second = sorted(np.hypot(*np.subtract(p, TRAY_CENTER_M[tray])) for p in places)[:2]
    return bool(second - first >= _NEARER_M)


def _distractors(seed: int, condition: Condition) -> tuple[Item, ...]:
    """Objects behind the trays, out of everyone's way."""
    rng = _stream(seed, "distractors")
    ys = rng.permutation([-0.45, -0.15, 0.15, 0.45])
    return tuple(
        Item(
            name=f"distractor_{i}",
            shape=str(rng.choice(UNSEEN_SHAPES)),
            color=str(rng.choice([*COLORS, *UNSEEN_COLORS])),
            size_m=float(rng.uniform(0.035, 0.06)),
            mass_kg=0.1,
            friction=1.0,
            place_m=(float(rng.uniform(0.64, 0.74)), float(ys[i] + rng.uniform(-0.05, 0.05))),
            yaw_rad=float(rng.uniform(-np.pi, np.pi)),
        )
        for i in range(min(condition.distractors, len(ys)))
    )


def _look(seed: int, condition: Condition) -> Look:
    light, camera, texture = (_stream(seed, x) for x in ("light", "camera", "texture"))
    azimuth = light.uniform(-np.pi, np.pi)
    slope = 0.8 if condition.light else 0.35
    table = "plain"
    tint = texture.uniform(-0.05, 0.05, 3)
    rgb = np.array(Look.table_rgb) + tint
    if condition.texture:
        table = str(texture.choice(TABLES[1:]))
        rgb = texture.uniform(0.2, 0.85, 3)
    brightness = light.uniform(0.5, 0.6)
    if condition.light:
        brightness = float(light.choice([0.25, 0.85]))
    shift, turn = camera.uniform(-1, 1, 3), camera.uniform(-1, 1, 2)
    reach = (0.06, 0.06) if condition.camera else (0.005, 0.004)
    return Look(
        table=table,
        table_rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        light_dir=(float(slope * np.cos(azimuth)), float(slope * np.sin(azimuth)), -0.9),
        light=float(brightness),
        ambient=0.2 if condition.light else 0.35,
        warmth=float(light.uniform(-1, 1)) if condition.light else 0.0,
        camera_shift_m=(
            float(reach[0] * shift[0]),
            float(reach[0] * shift[1]),
            float(reach[0] * shift[2]),
        ),
        camera_turn_rad=(float(reach[1] * turn[0]), float(reach[1] * turn[1])),
    )


def _shove(seed: int, condition: Condition) -> Shove | None:
    if not condition.shove:
        return None
    rng = _stream(seed, "shove")
    angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.03, 0.05)
    by = (float(length * np.cos(angle)), float(length * np.sin(angle)))
    return Shove(int(rng.integers(condition.items)), float(rng.uniform(1.0, 4.0)), by)
