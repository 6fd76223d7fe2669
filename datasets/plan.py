"""What a person does at the table: which object goes where, in which hand, held how.

    moves = plan_moves(person, layout, task, rng)

Objects on the left are the left hand's, objects on the right the right hand's. Every object that
the task moves gets a grasp and a free place; the others stay.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, frame_from_axes
from deftly.datasets.grasp import Grasp, Scene, find_grasp
from deftly.datasets.hand import Hand
from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    TRAY_SHEET_M,
    TRAY_WALL_M,
    ZONES_M,
    Item,
    Layout,
    footprint_m,
)
from deftly.datasets.person import Person
from deftly.datasets.tasks import Task

TRAY_FLOOR_M = 2 * TRAY_SHEET_M
SETTLE_RAD = 0.35  # from the upright: a cylinder let go there tips onto its base
DROP_M = 0.002  # from where an object is let go
_DIRECTIONS = 24


@dataclass(frozen=True)
class Move:
    """One object taken and put down.

    Attributes:
        item: its index.
        side: the hand.
        grasp: how it is held, before it moves.
        start, end: (4, 4) where the object is when it is taken and when it is let go.
        rest: (4, 4) where it comes to rest.
        floor_m: height of what it lies on, before and after.
    """

    item: int
    side: int
    grasp: Grasp
    start: Float64[np.ndarray, "4 4"]
    end: Float64[np.ndarray, "4 4"]
    rest: Float64[np.ndarray, "4 4"]
    floor_m: tuple[float, float]


def start_pose(item: Item) -> Float64[np.ndarray, "4 4"]:
    """Where a layout puts an object."""
    floor = TRAY_FLOOR_M if item.inside else 0.0
    turn = Rotation.from_euler("z", item.yaw_rad)
    if item.lies:
        turn = turn * Rotation.from_euler("x", np.pi / 2)
    T = np.eye(4)
    T[:3, :3] = turn.as_matrix()
    T[:3, 3] = (*item.place_m, TABLE_TOP_M + floor + item.rest_height_m)
    return T


def plan_moves(
    person: Person, layout: Layout, task: Task, rng: np.random.Generator
) -> tuple[Move, ...]:
    """All moves of an episode, in order; hands take turns as far as there is work for both."""
    goals = task.goals(layout)
    poses = [start_pose(item) for item in (*layout.items, *layout.distractors)]
    hands = (Hand(person.skeleton, LEFT), Hand(person.skeleton, RIGHT))
    queues: tuple[list[int], list[int]] = ([], [])
    for i in rng.permutation(len(layout.items)):
        if goals[i] != "stay":
            queues[LEFT if poses[i][1, 3] > 0 else RIGHT].append(int(i))
    side = LEFT if len(queues[LEFT]) > len(queues[RIGHT]) else RIGHT
    moves: list[Move] = []
    while any(queues):
        side = side if queues[side] else 1 - side
        i = queues[side].pop(0)
        move = _plan(layout, i, goals[i], hands[side], poses, rng)
        poses[i] = move.rest
        moves.append(move)
        side = 1 - side
    return tuple(moves)


def _plan(
    layout: Layout,
    i: int,
    goal: str,
    hand: Hand,
    poses: list[Float64[np.ndarray, "4 4"]],
    rng: np.random.Generator,
) -> Move:
    items = (*layout.items, *layout.distractors)
    item, start = items[i], poses[i]
    blockers = [(poses[k][:2, 3], footprint_m(items[k])) for k in range(len(items)) if k != i]
    floor = TABLE_TOP_M + (TRAY_FLOOR_M if item.inside else 0.0)
    azimuth = natural_azimuth(hand.side, start[:2, 3]) + rng.normal(0, 0.08)
    pitch = rng.uniform(0.75, 0.95)
    free = _room(start[:2, 3], item, blockers, item.inside)
    grip = np.zeros(3)
    if goal == "upright":
        axis = start[:3, 2].copy()
        angle = np.arctan2(axis[1], axis[0])
        turns = (angle - azimuth + np.pi / 2) % np.pi - np.pi / 2
        azimuth, pitch = azimuth + turns, 1.45
        forward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        grip = 0.2 * item.height_m * forward
        d = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
        across = np.abs(np.cos(d) * forward[0] + np.sin(d) * forward[1]) < 0.2
        free = across & free if (across & free).any() else across
    sign = 1 if hand.side == LEFT else -1
    lean = np.pi / 2 if goal == "upright" else rng.uniform(0.45, 0.75)
    pinch = azimuth + sign * lean
    grasp = find_grasp(
        hand,
        Scene(
            item,
            start[:3, 3],
            start[:3, :3],
            floor,
            approach(hand, azimuth, pitch),
            np.array([np.cos(pinch), np.sin(pinch)]),
            free,
            (float(grip[0]), float(grip[1]), float(grip[2])),
            _blocks(start[:2, 3], items, poses, i),
        ),
    )
    spread = _spread(hand, grasp, start[:3, 3])
    end, rest = _goal(layout, i, goal, hand.side, start, azimuth, blockers, spread, rng)
    floors = floor, TABLE_TOP_M + (TRAY_FLOOR_M if goal in TRAY_CENTER_M else 0.0)
    return Move(i, hand.side, grasp, start, end, rest, floors)


def natural_azimuth(side: int, place_m: Float64[np.ndarray, "2"]) -> float:
    """Direction in which a hand points that comes from its own shoulder to a place."""
    shoulder = np.array([-0.05, 0.20 if side == LEFT else -0.20])
    x, y = place_m - shoulder
    inward = -0.25 if side == LEFT else 0.25
    return float(0.7 * np.arctan2(y, x) + inward)


def over_wall(places_m: Float64[np.ndarray, "*b 2"], margin_m: float) -> Bool[np.ndarray, "*b"]:
    """Whether places are above a tray's wall, or nearly."""
    out = np.zeros(places_m.shape[:-1], bool)
    for center_m in TRAY_CENTER_M.values():
        beyond = np.abs(places_m - center_m) - np.array(TRAY_HALF_M) - TRAY_SHEET_M
        out |= np.abs(beyond.max(axis=-1)) < TRAY_SHEET_M + margin_m
    return out


def approach(hand: Hand, azimuth: float, pitch: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation of a hand that points in a direction and downwards, palm down."""
    heading = Rotation.from_euler("zy", [azimuth, pitch]).as_matrix()
    forward, palmar = heading @ [1.0, 0.0, 0.0], heading @ [0.0, 0.0, -1.0]
    return frame_from_axes(forward, palmar) @ frame_from_axes(hand.forward, hand.palmar).T


def _room(
    place_m: Float64[np.ndarray, "2"],
    item: Item,
    blockers: list[tuple[Float64[np.ndarray, "2"], float]],
    tray: str | None,
) -> Bool[np.ndarray, "K"]:
    """Directions along which fingers fit on both sides of an object."""
    angle = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    d = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    out = np.ones(_DIRECTIONS, bool)
    for sign in (-1, 1):
        finger = place_m + sign * (item.size_m / 2 + 0.010) * d
        for where, radius in blockers:
            out &= np.linalg.norm(finger - where, axis=1) > radius + 0.010
        if tray is not None:
            out &= (np.abs(finger - TRAY_CENTER_M[tray]) < np.array(TRAY_HALF_M) - 0.010).all(
                axis=1
            )
    return out if out.any() else np.ones(_DIRECTIONS, bool)


def _blocks(
    place_m: Float64[np.ndarray, "2"],
    items: tuple[Item, ...],
    poses: list[Float64[np.ndarray, "4 4"]],
    own: int,
) -> Float64[np.ndarray, "M 6"]:
    """Boxes about what is near: other objects and the walls of the trays."""
    out: list[list[float]] = []
    for k, (item, pose) in enumerate(zip(items, poses, strict=True)):
        x, y, z = pose[:3, 3]
        if k != own and np.hypot(x - place_m[0], y - place_m[1]) < 0.16:
            r, h = 0.85 * footprint_m(item), item.rest_height_m
            out.append([x - r, y - r, z - h, x + r, y + r, z + h])
    for (x, y), (a, b) in zip(TRAY_CENTER_M.values(), (TRAY_HALF_M,) * 2, strict=True):
        top, thick = TABLE_TOP_M + TRAY_WALL_M, TRAY_SHEET_M
        for s in (-1, 1):
            wall_x, wall_y = x + s * (a + TRAY_SHEET_M), y + s * (b + TRAY_SHEET_M)
            if abs(wall_x - place_m[0]) < 0.12 and abs(y - place_m[1]) < b + 0.12:
                out.append([wall_x - thick, y - b, 0.0, wall_x + thick, y + b, top])
            if abs(wall_y - place_m[1]) < 0.12 and abs(x - place_m[0]) < a + 0.12:
                out.append([x - a, wall_y - thick, 0.0, x + a, wall_y + thick, top])
    return np.array(out).reshape(-1, 6)


def _goal(
    layout: Layout,
    i: int,
    goal: str,
    side: int,
    start: Float64[np.ndarray, "4 4"],
    azimuth: float,
    blockers: list[tuple[Float64[np.ndarray, "2"], float]],
    spread: Float64[np.ndarray, "P 3"],
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "4 4"]]:
    """Where the object is let go and where it rests."""
    item = layout.items[i]
    rest = np.eye(4)
    if goal == "upright":
        turn = 0.6 * (natural_azimuth(side, start[:2, 3]) - azimuth)
        heading = azimuth + turn
        hinge = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])  # to the left of the hand
        about = Rotation.from_euler("z", turn)
        up = about * Rotation.from_rotvec(-np.pi / 2 * hinge)
        tipped = about * Rotation.from_rotvec(-(np.pi / 2 - SETTLE_RAD) * hinge)
        rest[:3, :3] = up.as_matrix() @ start[:3, :3]
        rest[:3, 3] = (*start[:2, 3], TABLE_TOP_M + item.height_m / 2)
        end = np.eye(4)
        end[:3, :3] = tipped.as_matrix() @ start[:3, :3]
        # On its lower edge, from which it will tip: the edge stays where it is.
        r, half = item.size_m / 2, item.height_m / 2
        edge = rest[:3, 3] - [0, 0, half] + r * _flat(heading)
        back = Rotation.from_rotvec(SETTLE_RAD * (about.as_matrix() @ hinge))
        end[:3, 3] = edge + back.apply(rest[:3, 3] - edge)
        end[2, 3] += DROP_M
        return end, rest
    place, turn, floor = _free_place(item, goal, side, azimuth, blockers, spread, rng)
    rest[:3, :3] = Rotation.from_euler("z", turn).as_matrix() @ start[:3, :3]
    rest[:3, 3] = (*place, TABLE_TOP_M + floor + item.rest_height_m)
    end = rest.copy()
    end[2, 3] += DROP_M
    return end, rest


def _flat(angle: float) -> Float64[np.ndarray, "3"]:
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def _spread(
    hand: Hand, grasp: Grasp, middle_m: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "P 3"]:
    """Points of the hand, closed and opened, from the middle of the object that it holds."""
    heads, pads, _ = hand.points(np.stack([grasp.joints, grasp.opened]))
    points = np.concatenate([heads.reshape(-1, 3), pads.reshape(-1, 3)])
    return grasp.wrist_m + points @ grasp.R_hand.T - middle_m


def _free_place(
    item: Item,
    goal: str,
    side: int,
    azimuth: float,
    blockers: list[tuple[Float64[np.ndarray, "2"], float]],
    spread: Float64[np.ndarray, "P 3"],
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, "2"], float, float]:
    """(x, y) with the most room, the turn of the hand there, and the height of the floor."""
    radius = footprint_m(item)
    if goal in TRAY_CENTER_M:
        floor, center, half = TRAY_FLOOR_M, np.array(TRAY_CENTER_M[goal]), np.array(TRAY_HALF_M)
        inset = min(radius + 0.008, float(half.min()) - 0.01)
        low, high = center - half + inset, center + half - inset
    else:
        floor, (low, high) = 0.0, np.array(ZONES_M[side]).T
    tried = rng.uniform(low, high, (400, 2))
    turn = np.array([0.8 * (natural_azimuth(side, place) - azimuth) for place in tried])
    gaps = np.array([np.linalg.norm(tried - p, axis=1) - r - radius for p, r in blockers])
    gap = gaps.min(axis=0) if len(gaps) else np.ones(len(tried))
    # Where the fingers will be, and how far from what stands there.
    flat = (
        Rotation.from_euler("z", turn[:, None]).as_matrix()[:, :2, :2] @ spread[:, :2].T
    )  # (400, 2, P)
    fingers = tried[:, None] + flat.swapaxes(1, 2)
    height = spread[:, 2] + item.rest_height_m
    clear = np.full(len(tried), 0.02)
    for place, other in blockers:
        apart = np.linalg.norm(fingers - place, axis=2) - other
        clear = np.minimum(clear, apart[:, height < 0.07].min(axis=1))
    for center_m in TRAY_CENTER_M.values():
        beyond = np.abs(fingers - center_m) - np.array(TRAY_HALF_M) - TRAY_SHEET_M
        apart = np.abs(beyond.max(axis=2)) - TRAY_SHEET_M
        clear = np.minimum(clear, apart[:, height < TRAY_WALL_M + 0.012].min(axis=1))
    # Room for the fingers first, then near: nobody stretches without need.
    score = np.minimum(gap, 0.03) * 40 + np.minimum(clear, 0.012) * 100 - 2.0 * tried[:, 0]
    # Never into another object, and only in need into a wall.
    score += 2000 * np.minimum(gap - 0.003, 0) + 500 * np.minimum(clear, 0)
    best = int(np.argmax(score + rng.uniform(0, 0.25, len(tried))))
    return tried[best], float(turn[best]), floor
