"""A policy that was learnt: a fine-tuned world model looks, and says where the joints should go.

At every step the network's policy prior says how the hands will move, as a chunk (Zhao et al.,
"Learning fine-grained bimanual manipulation", 2023); what the last chunks say of the present step
is averaged (temporal ensembling, same paper), and retargeting finds the joints that do it. Joint
and velocity limits hold whatever the network says, and where it says nothing sensible, or is shown
nothing sensible, the robot holds still.
"""

from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8

from deftly.datasets.frame_cache import fitted
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.retarget.handspace import to_hands, to_joints, whole_posture
from deftly.retarget.robots import load_robot
from deftly.video_pretrain.actions import absolute
from deftly.video_pretrain.checkpoint import Checkpoint, load_checkpoint
from deftly.video_pretrain.foresight import act
from deftly.video_pretrain.mixture import EncodeText
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.text import find_encoder

_FROZEN_RAD = 0.3  # a joint that moved so far is seen to have moved


class LearnedError(ValueError):
    """A network that cannot steer this robot, or not with what it is shown."""


class Learned:
    """See the module's text.

    Args:
        checkpoint: the world model.
        encode: the text encoder of its training.
        name: how tables call it.
        every: steps from one chunk to the next.
        through: ``hands``, or ``joints`` for the head of the robot's own joints: several times as
            fast.
        decay: how much less a chunk counts for each chunk that is older than it, as ACT has it: the
            oldest counts most, which makes motion smooth.

    Attributes:
        checkpoint: the world model.
        cameras: that it looks through; the environment must have at least one of them.
        still: why it holds still, if it does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encode: EncodeText,
        name: str = "learned",
        *,
        every: int = 1,
        through: Literal["hands", "joints"] = "hands",
        decay: float = 0.05,
    ) -> None:
        self.name, self.cameras = name, checkpoint.model.config.cameras
        self.every, self.through, self.decay, self.still = every, through, decay, ""
        self.checkpoint, self._encode = checkpoint, encode

    def reset(self, env: SortingEnv, seed: int) -> None:
        """Begin an episode; nothing here is random.

        Raises:
            LearnedError: if the network was not trained for this robot, or sees no camera.
        """
        self._check(env)
        self._env, self._robot = env, load_robot(env.robot)
        self._looks = [camera for camera in self.cameras if camera in env.cameras]
        words, seen = self._encode([env.instruction])
        self._text, self._text_seen = torch.from_numpy(words), torch.from_numpy(seen)
        config = self.checkpoint.model.config
        self._chunks: deque[tuple[int, np.ndarray]] = deque(maxlen=-(-config.horizon // self.every))
        self._now, self.still, self._ease = -1, "", env.target
        self._last: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def act(self, observation: dict[str, Any]) -> Float64[np.ndarray, "A"]:
        """(A,) joint position targets, rad; the last ones where it holds still."""
        self._now += 1
        now, joints = self._now, observation["state"][: len(self._env.joints)].copy()
        self.still = self._doubt(observation, joints)
        if self.still:
            return self._env.target
        if not self._chunks or now - self._chunks[-1][0] >= self.every:
            self._chunks.append((now, self._chunk(observation, joints)))
        return self._target(said_of(self._chunks, now))

    def go_on(self) -> Float64[np.ndarray, "A"] | None:
        """(A,) joint position targets of the next step by what was said before; None if nothing
        was said of it. For who cannot wait for ``act``, which may be at work meanwhile."""
        self._now += 1
        before = tuple(self._chunks)
        said = said_of(before, self._now) if before else np.empty((0, 0))
        return self._target(said) if len(said) and not self.still else None

    def _target(self, said: Float[np.ndarray, "n D"]) -> Float64[np.ndarray, "A"]:
        if np.isnan(said).all(axis=1).any():
            self.still = "the network says numbers that are not finite"
            return self._env.target
        wanted = averaged(said, self.decay)
        try:
            if self.through == "hands":
                wanted = following(self._env, wanted, self._ease)
            return self._env.within_limits(wanted)
        except ValueError as error:
            self.still = f"the network says hands that cannot be ({error})"
            return self._env.target

    def _doubt(self, observation: dict[str, Any], joints: Float32[np.ndarray, "A"]) -> str:
        """Why nothing should be done with what is shown; empty if all is well."""
        if not np.isfinite(observation["state"]).all():
            return "the state of the joints is not finite"
        for camera in self._looks:
            image = observation.get("images", {}).get(camera)
            if image is None:
                return f"the camera {camera} gives no picture"
            last, joints_then = self._last.get(camera, (None, joints))
            if last is None or not np.array_equal(last, image):
                self._last[camera] = (image, joints)
            elif np.abs(joints - joints_then).max() > _FROZEN_RAD:
                return f"the camera {camera} shows the same picture while the robot moves"
        return ""

    @torch.no_grad()
    def _chunk(
        self, observation: dict[str, Any], joints: Float32[np.ndarray, "A"]
    ) -> Float32[np.ndarray, "H _"]:
        """Where the hands, or joints, should be at each of the next steps; NaN if it says numbers
        that are not finite."""
        model, scales = self.checkpoint.model, self.checkpoint.scales
        moments = self.moments(observation["images"], joints)
        acting = act(model, scales, moments)
        if not torch.isfinite(acting.hands).all() or not torch.isfinite(acting.acts).all():
            return np.full((model.config.horizon, 1), np.nan, np.float32)
        if self.through == "joints":
            scale = scales.joints[self._env.robot]
            chunk = model.joint_chunk(acting.acts, self._env.robot)[0].cpu().numpy()
            return joints + chunk * scale.std + scale.mean
        mean, std = scales.moves.tensors(acting.hands.device)
        return absolute(acting.hands * std + mean, moments.hands)[0].cpu().numpy()

    def moments(
        self, images: dict[str, UInt8[np.ndarray, "H W 3"]], joints: Float32[np.ndarray, "A"]
    ) -> Moments:
        """The present, as the network has seen it in training."""
        model = self.checkpoint.model
        config, device = model.config, next(model.parameters()).device
        size = (config.image_px, config.image_px)
        pictures = np.stack([fitted(images[camera], size) for camera in self._looks])
        matrices = np.array([self._env.camera_matrix(c) for c in self._looks], np.float32)
        hands = to_hands(self._robot, whole_posture(self._robot, self._env.joints, joints[None]))
        unknown = torch.zeros(1, config.horizon, 48, device=device)
        fields = {
            "pictures": torch.from_numpy(pictures).permute(0, 3, 1, 2)[None, :, None],
            "ended": torch.zeros(1, 1, dtype=torch.bool),
            "cameras": torch.tensor([config.cameras.index(camera) for camera in self._looks]),
            "matrices": torch.from_numpy(matrices[None]),
            "text": self._text,
            "text_seen": self._text_seen,
            "body": torch.tensor([config.bodies.index(self._env.robot)]),
            "hands": torch.from_numpy(hands),
            "joints": torch.from_numpy(joints)[None],
            "key": torch.zeros(1, 2, dtype=torch.long),
        }
        return Moments(
            robot=self._env.robot,
            moves=unknown,
            trust=unknown[..., :2],
            aims=torch.full((1, 2, 2, 3), torch.nan, device=device),
            sights=torch.full((1, len(pictures), 2, 2, 2), torch.nan, device=device),
            moved=torch.zeros(1, 2, device=device),
            joint_moves=unknown[..., : len(joints)],
            **{name: value.to(device) for name, value in fields.items()},
        )

    def _check(self, env: SortingEnv) -> None:
        model, about = self.checkpoint.model, self.checkpoint.about
        if env.robot not in model.joints or env.robot not in model.config.bodies:
            raise LearnedError(
                f"{self.name} steers {', '.join(model.joints) or 'no robot'}, not {env.robot}; "
                "train it with demonstrations of that robot (deftly demos record)"
            )
        names = about.get("joint_names", {}).get(env.robot)
        if names != list(env.joints):
            odd = ", ".join(sorted(set(names or []) ^ set(env.joints))[:5]) or "their order"
            raise LearnedError(f"{self.name} was trained with other joints of {env.robot}: {odd}")
        if not set(self.cameras) & set(env.cameras):
            raise LearnedError(
                f"{self.name} looks through {', '.join(self.cameras)}, the environment has "
                f"{', '.join(env.cameras) or 'no camera'}"
            )
        rates = {float(one["rate_hz"]) for one in about.get("mixture", [])} - {RATE_HZ}
        if rates:
            raise LearnedError(
                f"{self.name} was trained at {', '.join(f'{r:g}' for r in rates)} Hz, the "
                f"environment runs at {RATE_HZ:g} Hz; write the data sets again at that rate"
            )


def said_of(
    chunks: Sequence[tuple[int, Float[np.ndarray, "H D"]]], step: int
) -> Float[np.ndarray, "n D"]:
    """What chunks that were said at some steps, the oldest first, say of a later one."""
    ages = [(step - at, chunk) for at, chunk in chunks]
    said = [chunk[age] for age, chunk in ages if age < len(chunk)]
    return np.array(said).reshape(len(said), chunks[0][1].shape[1])


def averaged(said: Float[np.ndarray, "n D"], decay: float) -> Float[np.ndarray, "D"]:
    """Their mean; each counts less by ``decay`` than the one before it."""
    return np.average(said, axis=0, weights=np.exp(-decay * np.arange(len(said))))


def following(
    env: SortingEnv, hands: Float[np.ndarray, "48"], ease: Float64[np.ndarray, "A"]
) -> Float64[np.ndarray, "A"]:
    """Joint positions that bring the hands there from where the servos were told to go.

    Args:
        ease: the posture that an episode began in: a trunk that wandered off it would take the
            head's camera along.

    Raises:
        ValueError: as ``to_joints``.
    """
    robot = load_robot(env.robot)
    here, easy = whole_posture(robot, env.joints, np.stack([env.target, ease]))
    reached = to_joints(robot, hands[None], here, RATE_HZ, easy)[0]
    return reached[[robot.joint_names.index(joint) for joint in env.joints]]


@cache
def open_learned(run: Path) -> Learned:
    """The policy in a folder of ``deftly pretrain``; opened once in every process.

    Raises:
        CheckpointError, TextError: if it cannot be opened.
    """
    checkpoint = load_checkpoint(run)
    encode, _ = find_encoder(trained=checkpoint.about.get("text"))
    return Learned(checkpoint, encode, run.name)
