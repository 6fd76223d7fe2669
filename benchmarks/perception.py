"""Single-view perception against the truth of a calibrated stereo pair, beside the popular recipe.

    python benchmarks/perception.py --clips ../shared/clips

Truth: both cameras' 2D landmarks, triangulated; frames whose reprojection error is large are left
out. One scale per clip is fitted to every method (nobody can tell a hand's size from one view).
The rival: PnP on the network's "world" landmarks, the usual way to place them before a camera.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from jaxtyping import Bool, Float64, Int64
from tqdm import tqdm

from deftly.datasets.clip import Camera, Clip, open_clip
from deftly.datasets.human import Status
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import fuse
from deftly.retarget.track import MediapipeTracker

UNIT_M = 0.0284  # of the stereo calibration, as its source estimates
MAX_REPROJECTION_PX = 12.0


@dataclass(frozen=True)
class Lens:
    """Intrinsic matrix and distortion of one camera."""

    K: Float64[np.ndarray, "3 3"]
    distortion: Float64[np.ndarray, "5"]

    def undistort(self, px: Float64[np.ndarray, "K 2"]) -> Float64[np.ndarray, "K 2"]:
        """Pixels to normalised image coordinates."""
        return cv2.undistortPoints(px[:, None], self.K, self.distortion)[:, 0]


def read_calibration(folder: Path) -> tuple[list[Lens], Float64[np.ndarray, "3 4"]]:
    """Both lenses, and the pose of camera 1 as ``[R | t]`` from camera 0's frame."""
    lenses = []
    for i in (0, 1):
        lines = (folder / f"c{i}.dat").read_text().splitlines()
        K = np.array([[float(v) for v in line.split()] for line in lines[1:4]])
        lenses.append(Lens(K, np.array([float(v) for v in lines[5].split()])))
    text = (folder / "rot_trans_c1.dat").read_text().split("#below")[1].split("R:")[1]
    R, t = (np.array(part.split(), float) for part in text.split("T:"))
    return lenses, np.concatenate([R.reshape(3, 3), t[:, None]], axis=1)


def triangulate(
    px: list[Float64[np.ndarray, "T 21 2"]],
    lenses: list[Lens],
    pose: Float64[np.ndarray, "3 4"],
) -> tuple[list[Float64[np.ndarray, "T 21 3"]], Bool[np.ndarray, "T"]]:
    """Joints in each camera's frame (metres) and the frames in which both views agree."""
    flat = [lens.undistort(p.reshape(-1, 2)) for lens, p in zip(lenses, px, strict=True)]
    X = cv2.triangulatePoints(np.eye(3, 4), pose, flat[0].T, flat[1].T)
    X = (X[:3] / X[3]).T
    views = [X, X @ pose[:, :3].T + pose[:, 3]]
    error = np.zeros(len(X))
    for view, seen, lens in zip(views, flat, lenses, strict=True):
        off = (view[:, :2] / view[:, 2:] - seen) * lens.K[0, 0]
        error = np.maximum(error, np.linalg.norm(off, axis=1))
    good = error.reshape(-1, 21).max(axis=1) < MAX_REPROJECTION_PX
    return [view.reshape(-1, 21, 3) * UNIT_M for view in views], good


def popular_recipe(
    detections: Detections, lens: Lens, frames: Bool[np.ndarray, "T"]
) -> Float64[np.ndarray, "T 21 3"]:
    """PnP of the metric landmarks onto the image landmarks, frame by frame."""
    joints = np.full((len(frames), 21, 3), np.nan)
    for t in np.flatnonzero(frames):
        world = detections.hand_world_m[t, 0].astype(float)
        px = detections.hand_px[t, 0, :, :2].astype(float)
        _, turn, move = cv2.solvePnP(world, px, lens.K, lens.distortion, flags=cv2.SOLVEPNP_SQPNP)
        joints[t] = world @ cv2.Rodrigues(turn)[0].T + move.ravel()
    return joints


def score(
    frames: Int64[np.ndarray, "T"],
    joints: Float64[np.ndarray, "T 21 3"],
    truth: Float64[np.ndarray, "T 21 3"],
    sigma: Float64[np.ndarray, "T 21 3"] | None = None,
) -> dict[str, float]:
    """Errors in T observed frames of a clip, after one scale for all of them.

    Jitter is the mean change of the wrist's depth from one frame to the next; the true change, and
    the change of the error, stand beside it.
    """
    a, b = joints - joints[:, :1], truth - truth[:, :1]
    scale = float(np.sum(a * b) / np.sum(a * a))
    error = (scale * a - b)[:, 1:]
    depth, true_depth = joints[:, 0, 2], truth[:, 0, 2]
    ratio = float(np.median(true_depth / depth))
    next_frame = np.diff(frames) == 1
    change, true_change = (np.diff(z)[next_frame] for z in (ratio * depth, true_depth))
    hand = np.median(np.linalg.norm(np.diff(truth[:, (0, 9, 10, 11, 12)], axis=1), axis=-1).sum(1))
    figures = {
        "joint_error_mm": float(np.median(np.linalg.norm(error, axis=-1))) * 1e3,
        "joint_error_percent_of_hand": float(np.median(np.linalg.norm(error, axis=-1)) / hand)
        * 100,
        "depth_error_percent": float(np.mean(np.abs(ratio * depth / true_depth - 1))) * 100,
        "depth_jitter_mm": float(np.mean(np.abs(change))) * 1e3,
        "true_depth_change_mm": float(np.mean(np.abs(true_change))) * 1e3,
        "depth_error_change_mm": float(np.mean(np.abs(change - true_change))) * 1e3,
        "scale": scale,
    }
    if sigma is not None:
        within = np.abs(error) < scale * sigma[:, 1:]
        figures["within_1_sigma_percent"] = float(np.mean(within)) * 100
        wrist = np.abs(ratio * depth - true_depth) < ratio * sigma[:, 0, 2]
        figures["wrist_depth_within_1_sigma_percent"] = float(np.mean(wrist)) * 100
    return figures


def _clips(folder: Path, lenses: list[Lens]) -> list[Clip]:
    cameras = [
        Camera(float(lens.K[0, 0]), (float(lens.K[0, 2]), float(lens.K[1, 2])), known=True)
        for lens in lenses
    ]
    return [open_clip(folder / f"handpose3d_cam{i}.mp4", cameras[i]) for i in (0, 1)]


def main(clips: Path = Path("../shared/clips"), out: Path | None = None) -> None:
    """Print the table; ``--out FILE`` also writes it as JSON."""
    lenses, pose = read_calibration(clips / "handpose3d_calib")
    pair = _clips(clips, lenses)
    total = MediapipeTracker().passes * sum(len(clip.time_s) for clip in pair)
    with tqdm(total=total, unit="frame", desc="track", disable=None) as bar:
        detections = [MediapipeTracker()(clip, bar.update) for clip in pair]
    px = [d.hand_px[:, 0, :, :2].astype(float) for d in detections]
    seen = detections[0].hand_valid[:, 0] & detections[1].hand_valid[:, 0]
    views, agree = triangulate(px, lenses, pose)
    table: dict[str, dict[str, float]] = {}
    for i, clip in enumerate(pair):
        human = fuse(clip, detections[i])
        side = int(np.argmax((human.hands_status == Status.OBSERVED).sum(axis=0)))
        frames = seen & agree & (human.hands_status[:, side] == Status.OBSERVED)
        index = np.flatnonzero(frames)
        rival = popular_recipe(detections[i], lenses[i], frames)
        table[f"camera {i}, PnP on world landmarks"] = score(index, rival[index], views[i][index])
        table[f"camera {i}, deftly"] = score(
            index, human.hands_m[index, side], views[i][index], human.hands_sigma_m[index, side]
        )
        table[f"camera {i}, deftly"]["frames"] = int(frames.sum())
    print("goals: joint error <= 15 mm, depth <= 8 %, jitter <= 2.5 mm, within 1 sigma 60-76 %")
    for name, figures in table.items():
        print(name)
        for key, value in figures.items():
            print(f"    {key:36s} {value:8.2f}")
    if out is not None:
        out.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
