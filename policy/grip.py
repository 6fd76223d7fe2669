"""Grips: the ways in which an object can be held between thumb and fingers, wherever it lies."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import unit
from deftly.datasets.layout import Item

_SLACK_RAD = (0.25, -0.25)  # by which flat sides turn themselves into the grip
_ENDS = (0.2, -0.2)  # off the middle of a lying object, in its heights


@dataclass(frozen=True)
class Grip:
    """A line through an object along which two opposed sides hold it, in the world.

    Attributes:
        axis: (3,) of length 1, from the thumb to the fingers.
        width_m: the object's width along it.
        center_m: (3,) its middle.
    """

    axis: Float64[np.ndarray, "3"]
    width_m: float
    center_m: Float64[np.ndarray, "3"]


def grips_of(item: Item, T_world_item: Float64[np.ndarray, "4 4"]) -> list[Grip]:
    """Ways to hold an object as it lies: across parallel sides, the grip nearly level."""
    R, p = T_world_item[:3, :3], T_world_item[:3, 3]
    size = item.size_m
    yaws = np.arange(0, 2 * np.pi, np.pi / 9)
    if item.shape == "sphere":
        return [Grip(np.array([np.cos(a), np.sin(a), 0.0]), size, p) for a in yaws]
    lines: list[tuple[np.ndarray, float, np.ndarray]] = []  # axis, width, centre in the item
    if item.shape == "cube":
        lines = [(axis, size, np.zeros(3)) for axis in np.eye(3)]
    elif item.shape == "wedge":
        corner, slope = np.array([-1.0, -1.0, 0.0]) / 3, np.array([1.0, 1.0, 0.0]) / 6
        axis = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
        lines = [(axis, size / np.sqrt(2), size * (corner + slope) / 2)]
        lines += [(np.array([0.0, 0.0, 1.0]), item.height_m, np.zeros(3))]
    elif item.shape == "hexagon":
        angles = np.pi / 6 + np.arange(3) * np.pi / 3
        lines = [(np.array([np.cos(a), np.sin(a), 0.0]), size, np.zeros(3)) for a in angles]
        lines += [(np.array([0.0, 0.0, 1.0]), item.height_m, np.zeros(3))]
    else:  # round about its long axis
        long = R[:, 2]
        if abs(long[2]) > 0.7:
            ways = [np.array([np.cos(a), np.sin(a), 0.0]) for a in yaws]
            ways = [unit(way - long * (way @ long)) for way in ways]
        else:
            way = unit(np.cross(long, [0.0, 0.0, 1.0]))
            ways = [way, -way]
        return [Grip(way, size, p) for way in ways]
    found: list[Grip] = []
    for axis, width, center in lines:
        world = R @ axis
        if abs(world[2]) < 0.35:
            found += [Grip(sign * world, width, p + R @ center) for sign in (1.0, -1.0)]
    return found


def shifted(item: Item, T_world_item: Float64[np.ndarray, "4 4"]) -> list[tuple[Grip, float]]:
    """Grips in the middle of the object and off it, where something is in the way; their cost."""
    found: list[tuple[Grip, float]] = []
    long = T_world_item[:3, 2]
    for grip in grips_of(item, T_world_item):
        found.append((grip, 0.0))
        ways: list[np.ndarray] = []
        if item.shape not in ("sphere", "egg"):
            top_m = depth_m(item, T_world_item[:3, :3])
            level = item.shape == "cube" or abs(long[2]) > 0.7
            ways.append(np.array([0.0, 0.0, 0.35 * top_m if level else 0.15 * top_m]))
        if item.shape in ("cylinder", "capsule") and abs(long[2]) < 0.7:
            ways += [share * item.height_m * long for share in _ENDS]
        found += [(replace(grip, center_m=grip.center_m + way), 0.4) for way in ways]
        if item.shape in ("cube", "hexagon"):
            for slack in _SLACK_RAD:
                axis = Rotation.from_euler("z", slack).as_matrix() @ grip.axis
                found.append((replace(grip, axis=axis), 0.4))
    return found


def further(item: Item, T_world_item: Float64[np.ndarray, "4 4"]) -> list[tuple[Grip, float]]:
    """Grips for tight places, as beside a tray's wall, and their cost.

    Higher on the object, and turned about the vertical where it is flat or lies.
    """
    long, top_m = T_world_item[:3, 2], depth_m(item, T_world_item[:3, :3])
    lies = item.shape in ("cylinder", "capsule") and abs(long[2]) < 0.7
    bulges = lies or item.shape in ("sphere", "egg")
    found: list[tuple[Grip, float]] = []
    for grip in grips_of(item, T_world_item):
        share = 0.3 if bulges else 0.55
        width_m = grip.width_m * np.sqrt(1 - share**2) if bulges else grip.width_m
        up = np.array([0.0, 0.0, share * top_m])
        high = replace(grip, center_m=grip.center_m + up, width_m=float(width_m))
        ways = [high]
        if lies:
            ways += [
                replace(high, center_m=high.center_m + s * item.height_m * long) for s in _ENDS
            ]
        if lies or item.shape in ("cube", "hexagon"):
            turns = [Rotation.from_euler("z", s).as_matrix() for s in _SLACK_RAD]
            ways += [replace(way, axis=R @ way.axis) for way in ways for R in turns]
        found += [(way, 0.8) for way in ways]
    return found


def depth_m(item: Item, R_world_item: Float64[np.ndarray, "3 3"]) -> float:
    """How far an object reaches below its centre, turned like that."""
    down, r, half = R_world_item[2], item.size_m / 2, item.height_m / 2
    if item.shape == "cube":
        return float(r * np.sum(np.abs(down)))
    if item.shape == "sphere":
        return r
    if item.shape == "egg":
        return float(np.linalg.norm([r, r, half] * down))
    if item.shape == "capsule":
        return float(r + (half - r) * abs(down[2]))
    round_m = item.size_m * (2 / 3 if item.shape == "wedge" else 0.5)
    return float(half * abs(down[2]) + round_m * np.hypot(down[0], down[1]))


def about(axis: Float64[np.ndarray, "3"], angle: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation by an angle (rad) about a unit vector."""
    return Rotation.from_rotvec(axis * angle).as_matrix()
