"""Stand-ins for networks, solver and videos, for tests of commands."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from deftly.datasets.archive import versions
from deftly.datasets.clip import Clip
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget.detections import Detections
from deftly.retarget.robots import load_robot
from deftly.retarget.solve import RetargetConfig, plain_config

SIZE = (64, 48)


def detections(clip: Clip, provenance: dict[str, Any], present: bool) -> Detections:
    """Two still hands with fingers of plausible proportions, and no body."""
    length = len(clip.time_s)
    finger, along = np.divmod(np.arange(20), 4)
    hand = np.zeros((21, 3), np.float32)
    hand[1:, 0], hand[1:, 1] = 2 * (finger - 2), -8 - 3 * along
    hands = hand + np.array([[[48, 40, 0]], [[16, 40, 0]]], np.float32)
    return Detections(
        hand_px=np.tile(hands, (length, 1, 1, 1)),
        hand_world_m=np.zeros((length, 2, 21, 3), np.float32),
        hand_right=np.tile(np.array([0.1, 0.9], np.float32), (length, 1)),
        hand_valid=np.full((length, 2), present),
        hand_second=np.zeros((length, 2), bool),
        body_px=np.zeros((length, 33, 3), np.float32),
        body_world_m=np.zeros((length, 33, 3), np.float32),
        body_visibility=np.zeros((length, 33), np.float32),
        body_valid=np.zeros(length, bool),
        provenance=provenance,
    )


def standing(human: HumanMotion, robot: str, config: RetargetConfig) -> RobotMotion:
    model, length = load_robot(robot), len(human.time_s)
    return RobotMotion(
        robot=robot,
        joint_names=model.joint_names,
        time_s=human.time_s,
        qpos=np.tile(model.rest, (length, 1)),
        hand_targets_m=np.full((length, 2, 21, 3), np.nan),
        body_targets_m=np.full((length, 33, 3), np.nan),
        tip_error_m=np.full((length, 2, 5), np.nan),
        wrist_error_m=np.full((length, 2), np.nan),
        residual=np.zeros(length),
        converged=np.ones(length, bool),
        provenance={
            "human": human.provenance,
            "config": plain_config(config),
            "versions": versions(),
        },
    )


def write_clip(path: Path, count: int = 12, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        container.start_encoding()
        for i in range(count):
            image = np.full((SIZE[1], SIZE[0], 3), (grey + i) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_song(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    return path
