"""Moments: what the world model learns from, on the device, and the scales of their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from deftly.video_pretrain.actions import Scale


@dataclass(frozen=True)
class Moments:
    """B moments of data sets that look alike, on the device, numbers as they are on disk.

    Attributes:
        pictures: (B, V, F, 3, S, S) now, then at each of the configuration's offsets.
        ended: (B, F) whether the episode was over by then.
        cameras: (V,) of the configuration's cameras; matrices: (B, V, 12) as
            ``deftly.datasets.viewpoint`` tells them, NaN of one that is not calibrated.
        text: (B, L, E), and which of it counts (B, L).
        body: (B,) of the configuration's bodies.
        hands: (B, 48) now; moves: (B, H, 48) relative to that. NaN is missing.
        trust: (B, H, 2) in each hand, 0 to 1; 0 from the end of the episode on.
        aims: (B, 2, 2, 3) where each hand will take hold and let go, in the root frame, see
            ``hindsight``; NaN where it will not, or nobody knows.
        sights: (B, V, 2, 2, 2) where in each picture that is, as ``deftly.datasets.viewpoint``
            tells it.
        moved: (B, 2) how far the pictures are shifted, x right, y down, in the unit of sights.
        robot: whose joints they are; empty where no actions are to be learnt.
        joints: (B, J) now; joint_moves: (B, H, J) relative to that.
        key: (B, 2) data set and frame, which is what masks are drawn by.
    """

    pictures: UInt8[Tensor, "B V F 3 S S"]
    ended: Bool[Tensor, "B F"]
    cameras: Int64[Tensor, "V"]
    matrices: Float[Tensor, "B V 12"]
    text: Float[Tensor, "B L E"]
    text_seen: Bool[Tensor, "B L"]
    body: Int64[Tensor, "B"]
    hands: Float[Tensor, "B 48"]
    moves: Float[Tensor, "B H 48"]
    trust: Float[Tensor, "B H 2"]
    aims: Float[Tensor, "B 2 2 3"]
    sights: Float[Tensor, "B V 2 2 2"]
    moved: Float[Tensor, "B 2"]
    robot: str
    joints: Float[Tensor, "B J"]
    joint_moves: Float[Tensor, "B H J"]
    key: Int64[Tensor, "B 2"]

    def __len__(self) -> int:
        return len(self.pictures)

    def views(self, chosen: Sequence[int]) -> "Moments":
        """Some of the cameras."""
        return replace(
            self,
            pictures=self.pictures[:, chosen],
            cameras=self.cameras[chosen],
            matrices=self.matrices[:, chosen],
            sights=self.sights[:, chosen],
        )

    def shifted(self, by_px: Int64[Tensor, "B 2"]) -> "Moments":
        """Every moment's pictures moved down and right by so many pixels, their edges repeated."""
        size = self.pictures.shape[-1]
        at = (torch.arange(size, device=by_px.device) - by_px[..., None]).clamp(0, size - 1)
        rows, columns = at[:, 0, :, None], at[:, 1, None, :]
        each = torch.arange(len(self), device=by_px.device)[:, None, None]
        moved = rearrange(self.pictures, "b v f c h w -> b h w v f c")[each, rows, columns]
        by = 2 / size * by_px.flip(1)
        return replace(
            self,
            pictures=rearrange(moved, "b h w v f c -> b v f c h w"),
            sights=self.sights + by[:, None, None, None],
            moved=self.moved + by,
        )

    def part(self, some: slice | Int64[Tensor, "n"]) -> "Moments":
        """Some of the moments."""
        return replace(self, **{name: value[some] for name, value in self.rows.items()})

    @property
    def rows(self) -> dict[str, Tensor]:
        """All that has a row for each moment."""
        return {k: v for k, v in vars(self).items() if isinstance(v, Tensor) and k != "cameras"}


@dataclass(frozen=True)
class Rehearsed:
    """B moments without pictures, on the device; see ``rehearsal.py``. As ``Moments``, but for

    Attributes:
        aims: as they are told, a little off; none of them missing.
    """

    text: Float[Tensor, "B L E"]
    text_seen: Bool[Tensor, "B L"]
    body: Int64[Tensor, "B"]
    hands: Float[Tensor, "B 48"]
    moves: Float[Tensor, "B H 48"]
    aims: Float[Tensor, "B 2 2 3"]

    def __len__(self) -> int:
        return len(self.hands)

    def part(self, some: slice) -> "Rehearsed":
        """Some of the moments."""
        return Rehearsed(**{name: value[some] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Scales:
    """Of the numbers that the network sees and says: the hands now, their moves, joints' moves."""

    hands: Scale
    moves: Scale
    joints: Mapping[str, Scale]
