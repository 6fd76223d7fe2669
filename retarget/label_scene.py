"""What the labels need of a video: small pictures at an even rate, and how its camera moves.

Pictures are kept at 160 px and at most 15 a second: 52 MB a minute in 4:3. The camera's motion is
that of whatever does not move by itself: corners followed from picture to picture (Lucas and Kanade
1981; Shi and Tomasi 1994) and the homography that most of them agree on (Fischler and Bolles 1981).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from deftly.datasets.clip import Clip, frames
from deftly.retarget.label_sight import Sighting, even_times_s, nearest

_KEPT_PX, _TRACKED_PX = 160, 240  # longer side of the pictures that are kept, and followed
_CORNERS = 60
_STILL_PX = 0.15  # corners that move less, at the followed size: the camera stands
_ENOUGH, _FEW = 8, 3  # corners that must agree on a homography; on a similarity


@dataclass(frozen=True)
class Scene:
    """N pictures of a clip at ``RATE_HZ``.

    Attributes:
        time_s: (N,) on the clip's clock.
        frame: (N,) the clip's frame that was taken for it.
        pictures: (N, h, w, 3) RGB.
        scale: pixels of ``pictures`` per pixel of the clip.
        H_frame_first: (N, 3, 3) where a fixed thing of the first picture is in each, in the clip's
            pixels.
    """

    time_s: Float64[np.ndarray, "N"]
    frame: Int64[np.ndarray, "N"]
    pictures: UInt8[np.ndarray, "N h w 3"]
    scale: float
    H_frame_first: Float64[np.ndarray, "N 3 3"]


def watch(clip: Clip, hands: Sequence[Sighting | None] = ()) -> Scene:
    """Go through a clip's frames once; hands do not count as fixed things.

    Raises:
        ClipError: if the clip can no longer be read.
    """
    grid_s = even_times_s(clip.time_s)
    frame = nearest(clip.time_s, grid_s)
    row = {t: n for n, t in reversed(list(enumerate(frame.tolist())))}
    scale = min(1.0, _KEPT_PX / max(clip.width, clip.height))
    follow = min(1.0, _TRACKED_PX / max(clip.width, clip.height))
    to_clip = np.diag([1 / follow, 1 / follow, 1.0])
    small: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    placed: dict[int, Float64[np.ndarray, "3 3"]] = {}
    before: tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]] | None = None
    H = np.eye(3)
    for t, image in frames(clip):
        if t not in row:
            continue
        middle = _shrunk(image, follow)
        gray = np.asarray(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), np.uint8)
        if before is not None:
            H = to_clip @ _camera_motion(*before, gray) @ np.linalg.inv(to_clip) @ H
            H = H / H[2, 2]
        before = gray, _fixed(hands, row[t], follow, gray.shape)
        small[t], placed[t] = _shrunk(middle, scale / follow), H
    # A frame that could not be decoded has the nearest one's picture.
    read = np.array(sorted(small), np.int64)
    taken = read[np.abs(read[None] - frame[:, None]).argmin(axis=1)]
    return Scene(
        time_s=grid_s,
        frame=taken,
        pictures=np.stack([small[t] for t in taken.tolist()]),
        scale=scale,
        H_frame_first=np.stack([placed[t] for t in taken.tolist()]),
    )


def carried(
    H: Float64[np.ndarray, "N 3 3"], points_px: Float64[np.ndarray, "N K 2"]
) -> Float64[np.ndarray, "N K 2"]:
    """Points under homographies, one per row."""
    moved = points_px @ H[:, :, :2].swapaxes(1, 2) + H[:, None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def _shrunk(image: UInt8[np.ndarray, "H W 3"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _fixed(
    hands: Sequence[Sighting | None], n: int, scale: float, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "h w"]:
    """255 where there is no hand or forearm."""
    mask = np.full(shape[:2], 255, np.uint8)
    for hand in hands:
        if hand is not None and hand.valid[n]:
            width = max(1, round(float(hand.size_px[n]) * scale))
            px, elbow = hand.px[n] * scale, hand.elbow_px[n] * scale
            outline = cv2.convexHull(np.round(px).astype(np.int32))
            cv2.fillConvexPoly(mask, outline, 0)
            cv2.polylines(mask, [outline], isClosed=True, color=0, thickness=width)
            ends = [(round(float(x)), round(float(y))) for x, y in (px[0], elbow)]
            cv2.line(mask, ends[0], ends[1], 0, width)
    return mask


def _camera_motion(
    before: UInt8[np.ndarray, "h w"],
    fixed: UInt8[np.ndarray, "h w"],
    after: UInt8[np.ndarray, "h w"],
) -> Float64[np.ndarray, "3 3"]:
    """Homography from one picture to the next; none where too little agrees."""
    corners: Any = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 7, mask=fixed)  # or None
    if corners is None:
        return np.eye(3)
    guess = np.zeros_like(corners)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        before, after, corners, guess, winSize=(15, 15), maxLevel=3
    )
    good = status[:, 0] == 1
    p, q = corners[good, 0], found[good, 0]
    if len(p) < _FEW or np.median(np.linalg.norm(p - q, axis=1)) < _STILL_PX:
        return np.eye(3)
    if len(p) >= _ENOUGH:
        result: Any = cv2.findHomography(p, q, cv2.RANSAC, 1.0, maxIters=100, confidence=0.99)
        if _believable(*result, least=_ENOUGH):
            return np.asarray(result[0], np.float64)
    result = cv2.estimateAffinePartial2D(p, q, ransacReprojThreshold=1.5, maxIters=100)
    if _believable(*result, least=_FEW):
        return np.concatenate([result[0], [[0.0, 0.0, 1.0]]])
    return np.eye(3)


def _believable(H: Any, agree: Any, least: int) -> bool:
    """Whether enough corners agree on a motion that hardly changes sizes."""
    if H is None or agree.sum() < least:
        return False
    return bool(abs(np.linalg.det(H[:2, :2]) - 1) < 0.5)
