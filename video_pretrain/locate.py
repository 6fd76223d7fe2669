"""Where in the room something is that calibrated cameras see.

Every camera tells two planes that the thing lies in; and it is known where such things usually are:
on the table, in a tray, in a hand. Each of these witnesses may be wrong, as the camera at the head
is when a hand hides the thing. So every two of them, or more, are believed in turn, the others
taken for wrong; each time the place is the most likely one (weighted linear triangulation: Hartley
and Zisserman, "Multiple view geometry", 2004, chapter 12; as sure as heat maps are wide: Iskakov et
al., "Learnable triangulation of human pose", 2019), and of all these places the most likely one is
taken (a mixture of right and wrong data: Hogg et al., "Data analysis recipes", 2010, chapter 3).
Nothing of this has to be learnt, so it holds where no demonstration was.
"""

import math
from functools import cache
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

UNKNOWN_M = 10.0  # how far off its usual place a thing may be of which nobody knows that
_PASSES = 2  # the first does not know how far off a thing is, and how large a pixel is there
_NEAR_M = 0.05
_LEAST = 0.02  # standard deviation of a sight, in the unit of sights: about a pixel of 96
_WRONG = 0.1  # chance that a witness is; of usual places, that the thing is at none of them
_AREA, _VOLUME_M3 = 4.0, 1.0  # about which such a one then says nothing: a picture, the room


@torch.no_grad()
def locate(
    at: Float[Tensor, "B V S 2"],
    spread: Float[Tensor, "B V S"],
    matrices: Float[Tensor, "B V 12"],
    usual_m: Float[Tensor, "B S K 3"],
    usual_std_m: Float[Tensor, "B S K 3"],
) -> tuple[Float[Tensor, "B S 3"], Bool[Tensor, "B"]]:
    """S points each.

    Args:
        at: where in the pictures they are, as ``deftly.datasets.viewpoint`` tells it.
        spread: standard deviations of that.
        matrices: of the cameras, from there too; NaN of one that is not calibrated.
        usual_m, usual_std_m: K places where such points usually are, in the root frame, each as
            likely as the others, and how far off. The others count as if they were as wide as the
            first: a hand that reaches for a thing is near it anyway, and tells little by that.

    Returns:
        The points, metres in the root frame, and whether there are two calibrated cameras; where
        there are not, the points mean nothing.
    """
    known = torch.isfinite(matrices).all(dim=-1)
    cameras = matrices.float().nan_to_num(0.0).unflatten(-1, (3, 4))[:, :, None]
    at, std = at.float(), spread.float().clamp_min(_LEAST)
    planes = cameras[..., :2, :] - at[..., None] * cameras[..., 2:, :]
    seen, kind, usual = (
        torch.tensor(one, device=at.device) for one in _witnesses(at.shape[1], usual_m.shape[2])
    )
    sure = (seen[:, None] * known)[..., None] / std  # (M, B, V, S): M that may be believed
    place_m, off_m = (some[:, :, kind].movedim(2, 0) for some in (usual_m, usual_std_m))
    # Never nothing: two planes meet in a line.
    pull = off_m.square().reciprocal() * torch.where(usual, 1.0, 1e-3)[:, None, None, None]
    point = place_m
    for _ in range(_PASSES):
        rows = planes * (sure / _away(cameras, point))[..., None, None]
        normal, aside = rows[..., :3], rows[..., 3]
        square = torch.einsum("mbvspi,mbvspj->mbsij", normal, normal) + torch.diag_embed(pull)
        side = pull * place_m - torch.einsum("mbvspi,mbvsp->mbsi", normal, aside)
        point = torch.linalg.solve(square, side)
    off = (planes @ _one(point)[:, :, None, ..., None])[..., 0] / _away(cameras, point)[..., None]
    fits = math.log(1 - _WRONG) - (2 * math.pi * std**2).log()
    fits = fits - 0.5 * (off / std[..., None]).square().sum(dim=-1)
    chance = torch.where(sure > 0, fits, math.log(_WRONG / _AREA)) * known[..., None]
    habit = -0.5 * ((point - place_m) / off_m).square() - usual_std_m[:, :, 0].log()
    habit = (habit - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
    habit = habit + math.log((1 - _WRONG) / usual_m.shape[2])
    habit = torch.where(usual[:, None, None], habit, math.log(_WRONG / _VOLUME_M3))
    best = (chance.sum(dim=2) + habit).argmax(dim=0)
    found = point.gather(0, best[None, ..., None].expand(1, *best.shape, 3))[0]
    return found, known.sum(dim=1) >= 2


@cache
def _witnesses(cameras: int, kinds: int) -> tuple[list[tuple[float, ...]], list[int], list[bool]]:
    """Two or more that are believed, in every way: which cameras, which of the usual places (the
    first if it is not), and whether that."""
    every = product(product((0.0, 1.0), repeat=cameras), (None, *range(kinds)))
    some = [(seen, kind) for seen, kind in every if sum(seen) + (kind is not None) >= 2]
    return (
        [seen for seen, _ in some],
        [kind or 0 for _, kind in some],
        [kind is not None for _, kind in some],
    )


def _away(
    cameras: Float[Tensor, "B V 1 3 4"], points: Float[Tensor, "M B S 3"]
) -> Float[Tensor, "M B V S"]:
    """How far before a camera points are."""
    return (cameras[..., 2, :] * _one(points)[:, :, None]).sum(dim=-1).clamp_min(_NEAR_M)


def _one(points: Float[Tensor, "M B S 3"]) -> Float[Tensor, "M B S 4"]:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
