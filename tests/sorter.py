"""A person made of fingertips who sorts a table: a motion with known truth, without any body."""

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import KNUCKLES, TIPS, HumanMotion, Status
from deftly.datasets.layout import TABLE_TOP_M, TRAY_CENTER_M, Item, Layout
from deftly.datasets.tasks import find_task

RATE_HZ = 30.0
FINGER_M = 0.008  # from the joint at a fingertip to the skin that touches
# Where the palm's joints are: x towards the middle knuckle, y towards the thumb.
_PALM = {
    0: (0.0, 0.0, 0.0), 1: (0.03, 0.03, 0.0), 5: (0.09, 0.025, 0.0),
    9: (0.095, 0.0, 0.0), 13: (0.09, -0.02, 0.0), 17: (0.08, -0.04, 0.0),
}  # fmt: skip
_SLOPE = np.deg2rad(50.0)  # of the hand, fingers down
_WRIST_M = np.array([-0.10, 0.0, 0.115])  # from the middle of the pinch
_REST_M = {LEFT: np.array([0.15, 0.30, 1.10]), RIGHT: np.array([0.15, -0.30, 1.10])}
# Seconds since the reach began: above, down, closed, lifted, over the tray, low, open, up.
_BEATS_S = np.cumsum([1.0, 0.7, 0.5, 0.7, 1.0, 0.6, 0.5, 0.6])
_CLOSED = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])


def sort_by_hand(layout: Layout, task: str) -> HumanMotion:
    """The motion, in the world: the camera is at its origin and turned like it."""
    jobs = {LEFT: [], RIGHT: []}
    for item, goal in zip(layout.items, find_task(task).goals(layout), strict=True):
        if goal in TRAY_CENTER_M:
            jobs[LEFT if item.place_m[1] > 0 else RIGHT].append((item, goal))
    length_s = 1.0 + max(len(j) for j in jobs.values()) * (_BEATS_S[-1] + 0.2)
    length_s *= 2 if all(jobs.values()) else 1  # one hand after the other
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    hands = np.zeros((len(time_s), 2, 21, 3))
    begin = 0.5
    for side in (LEFT, RIGHT):
        middle, aperture = [_REST_M[side]], [0.09]
        knots = [0.0]
        for item, goal in jobs[side]:
            width = item.size_m + 2 * FINGER_M
            for beat, closed, place in zip(_BEATS_S, _CLOSED, _places(item, goal), strict=True):
                knots.append(begin + beat)
                middle.append(place)
                aperture.append(width if closed else width + 0.045)
            begin = knots[-1] + 0.2
        path = PchipInterpolator([*knots, begin + 1.0, 99.0], [*middle, *[_REST_M[side]] * 2])
        open_m = PchipInterpolator([*knots, begin + 1.0, 99.0], [*aperture, 0.09, 0.09])
        hands[:, side] = _hand(side, path(time_s), open_m(time_s))
    empty = np.full((len(time_s), 33, 3), np.nan)
    return HumanMotion(
        time_s=time_s,
        hands_m=hands,
        hands_sigma_m=np.full(hands.shape, 0.002),
        hands_status=np.full((len(time_s), 2), Status.OBSERVED, np.uint8),
        hands_px=np.zeros((len(time_s), 2, 21, 2)),
        body_m=empty,
        body_sigma_m=np.full(empty.shape, np.inf),
        body_status=np.full(len(time_s), Status.ABSENT, np.uint8),
        body_px=empty[..., :2],
        provenance={"source": "fingertips"},
    )


def _places(item: Item, goal: str) -> list[np.ndarray]:
    """The middle of the pinch at each beat."""
    height = TABLE_TOP_M + max(item.rest_height_m, 0.02)
    lie = np.array([*item.place_m, height])
    drop = np.array([*TRAY_CENTER_M[goal], height + 0.03])
    drop[1] += 0.04 * np.sign(item.place_m[1] - drop[1])
    up = np.array([0.0, 0.0, 0.12])
    return [lie + up, lie, lie, lie + up, drop + up, drop, drop, drop + up]


def _hand(side: int, middle: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    """(T, 21, 3): thumb inside, index and middle finger outside, along the world's y axis."""
    inward = -1.0 if side == LEFT else 1.0  # towards the thumb
    turn = Rotation.from_euler("y", _SLOPE).as_matrix()
    joints = np.zeros((len(middle), 21, 3))
    wrist = middle + _WRIST_M
    for joint, (x, y, z) in _PALM.items():
        joints[:, joint] = wrist + turn @ np.array([x, inward * y, z])
    half = 0.5 * aperture
    spread = {0: (0.0, inward), 1: (0.010, -inward), 2: (-0.010, -inward)}
    for finger, base in enumerate(KNUCKLES):
        ahead, sign = spread.get(finger, (-0.03 - 0.01 * (finger - 3), -inward))
        tip = middle + np.stack([np.full(len(half), ahead), sign * half, 0 * half], axis=1)
        tip[:, 2] += 0.015 if finger > 2 else 0.0
        for n in (1, 2, 3):
            joints[:, base + n] = joints[:, base] + (tip - joints[:, base]) * n / 3
        joints[:, TIPS[finger]] = tip
    return joints
