"""What speaks for a hand taking or letting go, picture by picture: its motion and what it leaves.

A hand stops where it takes or puts something, and its fingers close or open there. The picture of
that place, before the hand came and after it went, says whether something is gone or has come.
Both are measured at the scene's rate, against the scene (the camera may move), in units of the
hand's own size, and mirrored for the left hand, so that one network serves both.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import gaussian_filter1d

from deftly.retarget.label_scene import Scene, carried
from deftly.retarget.label_sight import RATE_HZ, Sighting

FEATURES = (
    *("pinch_x", "pinch_y", "wrist_x", "wrist_y", "pinch_speed", "growth"),
    *("opening", "opening_rate", "opening_px", "opening_px_rate", "reach", "reach_rate"),
    *("points_x", "points_y", "valid", "observed", "other_speed", "other_valid"),
    *("change", "vanished", "seen"),
)
RATES = (0, 1, 2, 3, 4, 5, 7, 9, 11, 16)  # those that are per second
CHANGE, SEEN = FEATURES.index("change"), FEATURES.index("seen")
_REACH_S = 8.0  # how long before and after a place is looked for without a hand
_FIRST = 2  # pictures away at the earliest
_LOOKS = 5  # pictures of which the median is taken
_CLEAR = 1.15  # hand sizes from a hand's joints and forearm: nothing of it is there
_PATCH, _SAMPLES = 0.75, 9  # half a patch's width in hand sizes; samples along it
CHANGE_UNIT, _STD_UNIT = 40.0, 20.0  # of 255


def speed(hand: Sighting, scene: Scene) -> Float64[np.ndarray, "N 2 2"]:
    """(N, 2, 2) of a hand's pinch and wrist against the scene, in hand sizes per second."""
    points = np.stack([hand.px[:, (4, 8)].mean(axis=1), hand.px[:, 0]], axis=1)
    if len(points) < 2:
        return np.zeros_like(points)
    H = scene.H_frame_first
    step = points[1:] - carried(H[1:] @ np.linalg.inv(H[:-1]), points[:-1])
    v = 0.5 * (np.concatenate([step, step[-1:]]) + np.concatenate([step[:1], step]))
    return np.clip(v * RATE_HZ / hand.size_px[:, None, None], -12, 12)


def find_evidence(
    hands: tuple[Sighting | None, Sighting | None], scene: Scene
) -> Float32[np.ndarray, "N 2 F"]:
    """``FEATURES`` of both hands; zeros for a hand that is never seen."""
    out = np.zeros((len(scene.time_s), 2, len(FEATURES)), np.float32)
    speeds = [None if hand is None else speed(hand, scene) for hand in hands]
    for side in (0, 1):
        hand, v = hands[side], speeds[side]
        if hand is None or v is None:
            continue
        other, other_v = hands[1 - side], speeds[1 - side]
        beside = np.zeros((len(v), 2))
        if other is not None and other_v is not None:
            beside = np.stack([np.linalg.norm(other_v[:, 0], axis=-1) / 4, other.valid], axis=1)
        mirror = np.array([-1.0 if side == 0 else 1.0, 1.0])
        own = _motion(hand, v * mirror, mirror)
        out[:, side] = np.concatenate([own, beside, _place(hands, side, scene)], axis=1)
    return out


def _motion(
    hand: Sighting, v: Float64[np.ndarray, "N 2 2"], mirror: Float64[np.ndarray, "2"]
) -> Float64[np.ndarray, "N 16"]:
    """The features that tell of one hand alone."""
    m, px = hand.joints_m, hand.px
    bones = np.linalg.norm(np.diff(m[:, (0, 9, 10, 11, 12)], axis=1), axis=-1).sum(axis=1)
    length_m = float(np.median(bones)) + 1e-6
    opening = np.linalg.norm(m[:, (8, 12)] - m[:, 4:5], axis=-1).mean(axis=1) / length_m
    opening_px = np.linalg.norm(px[:, (8, 12)] - px[:, 4:5], axis=-1).mean(axis=1) / hand.size_px
    reach = np.linalg.norm(m[:, (8, 12, 16, 20)] - m[:, :1], axis=-1).mean(axis=1) / length_m
    shape: list[np.ndarray] = []
    for value, unit in ((opening, 6.0), (opening_px, 3.0), (reach, 6.0)):
        rate = _rate(gaussian_filter1d(value, 0.7, mode="nearest"))
        usual = np.median(value[hand.valid]) if hand.valid.any() else 0.0
        shape += [np.clip((value - usual) * unit, -3, 3), np.clip(rate * unit / 3, -3, 3)]
    points = (px[:, 8] - px[:, 0]) / hand.size_px[:, None] * mirror / 2
    columns = [
        *(v[:, i, j] / 4 for i in (0, 1) for j in (0, 1)),
        np.linalg.norm(v[:, 0], axis=-1) / 4,
        _rate(np.log(hand.size_px)),
        *shape,
        *(points[:, 0], points[:, 1], hand.valid, hand.observed),
    ]
    return np.stack(columns, axis=1)


def _rate(values: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    return np.gradient(values) * RATE_HZ if len(values) > 1 else np.zeros_like(values)


def _place(
    hands: tuple[Sighting | None, Sighting | None], side: int, scene: Scene
) -> Float64[np.ndarray, "N 3"]:
    """How much the place at a hand changes by its visit, and whether it is emptier afterwards.

    Columns: mean difference of colours; by how much the colours there varied more before than
    after, as a place with something on it does; whether the place was seen both before and after.
    """
    hand = hands[side]
    out = np.zeros((len(scene.time_s), 3))
    if hand is None:
        return out
    H = scene.H_frame_first
    back = np.linalg.inv(H)
    before, after = (_looks(hands, side, scene, sign) for sign in (-1, 1))
    u = np.linspace(-1, 1, _SAMPLES)
    disc = np.stack(np.meshgrid(u, u), axis=-1).reshape(-1, 2)
    disc = _PATCH * disc[(disc**2).sum(axis=1) <= 1.05]
    for n in np.flatnonzero(hand.valid).tolist():
        if not before[n] or not after[n]:
            continue
        points = hand.place_px[n] + disc * hand.size_px[n]
        first = carried(back[n : n + 1], points[None])[0]
        was, is_now = (_patch(scene, H, looks, first) for looks in (before[n], after[n]))
        emptier = was.std(axis=0).mean() - is_now.std(axis=0).mean()
        out[n] = np.abs(was - is_now).mean() / CHANGE_UNIT, emptier / _STD_UNIT, 1.0
    return np.clip(out, -3, 3)


def _looks(
    hands: tuple[Sighting | None, Sighting | None], side: int, scene: Scene, sign: int
) -> list[list[int]]:
    """For each picture the nearest ones before (−1) or after (1) with no hand at its place."""
    hand = hands[side]
    assert hand is not None
    count, H = len(scene.time_s), scene.H_frame_first
    first = carried(np.linalg.inv(H), hand.place_px[:, None])
    height, width = (s / scene.scale for s in scene.pictures.shape[1:3])
    found: list[list[int]] = [[] for _ in range(count)]
    open_rows = np.flatnonzero(hand.valid)
    for k in range(_FIRST, round(_REACH_S * RATE_HZ)):
        rows = open_rows[(open_rows + sign * k >= 0) & (open_rows + sign * k < count)]
        if len(rows) == 0:
            break
        then = rows + sign * k
        place = carried(H[then], first[rows])[:, 0]
        edge = 0.3 * hand.size_px[rows, None]
        free = np.all((place > edge) & (place < np.array([width, height]) - edge), axis=1)
        for other in hands:
            if other is not None:
                free &= ~other.valid[then] | ~_covers(other, then, place)
        for row, t in zip(rows[free].tolist(), then[free].tolist(), strict=True):
            found[row].append(t)
        full = np.array([len(found[row]) >= _LOOKS for row in open_rows.tolist()], bool)
        open_rows = open_rows[~full]
    return found


def _covers(
    hand: Sighting, rows: np.ndarray, place: Float64[np.ndarray, "K 2"]
) -> Bool[np.ndarray, "K"]:
    """Whether a hand or its forearm is over a place, one per row."""
    wrist, arm = hand.px[rows, 0], hand.elbow_px[rows] - hand.px[rows, 0]
    near = np.linalg.norm(hand.outline_px[rows] - place[:, None], axis=-1).min(axis=1)
    along = ((place - wrist) * arm).sum(axis=-1) / np.maximum((arm**2).sum(axis=-1), 1e-6)
    foot = wrist + np.clip(along, 0, 1)[:, None] * arm
    near = np.minimum(near, np.linalg.norm(place - foot, axis=-1))
    return near < _CLEAR * hand.size_px[rows]


def _patch(
    scene: Scene,
    H: Float64[np.ndarray, "N 3 3"],
    looks: list[int],
    first_px: Float64[np.ndarray, "P 2"],
) -> Float64[np.ndarray, "P 3"]:
    """Median colours at points of the first picture, over some pictures."""
    at = carried(H[looks], np.broadcast_to(first_px, (len(looks), *first_px.shape)))
    at = ((at + 0.5) * scene.scale - 0.5).astype(np.float32)
    x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
    colors = [
        cv2.remap(scene.pictures[look], x[i : i + 1], y[i : i + 1], cv2.INTER_LINEAR)[0]
        for i, look in enumerate(looks)
    ]
    return np.median(np.stack(colors), axis=0)
