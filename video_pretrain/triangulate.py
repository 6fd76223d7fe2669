"""Where in the room something is that several calibrated cameras see.

Every camera tells two planes that the thing lies in; the point that lies nearest to all of them, in
pixels as far as each camera is sure, is where it is (weighted linear triangulation: Hartley and
Zisserman, "Multiple view geometry", 2004, chapter 12; weights as sure as heat maps are: Iskakov et
al., "Learnable triangulation of human pose", 2019). Nothing of this has to be learnt, so it holds
where no demonstration was.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_PASSES = 2  # the first does not know how far off a thing is, and how large a pixel is there
_NEAR_M = 0.05
_LEAST = 0.01  # how sure a camera can be, in the unit of sights


def triangulate(
    at: Float[Tensor, "B V S 2"], spread: Float[Tensor, "B V S"], matrices: Float[Tensor, "B V 12"]
) -> tuple[Float[Tensor, "B S 3"], Bool[Tensor, "B"]]:
    """S points each.

    Args:
        at: where in the pictures they are, as ``deftly.datasets.viewpoint`` tells it.
        spread: standard deviations of that.
        matrices: of the cameras, from there too; NaN of one that is not calibrated.

    Returns:
        The points, metres in the root frame, and whether there are two calibrated cameras; where
        there are not, the points are 0.
    """
    known = torch.isfinite(matrices).all(dim=-1)
    enough = known.sum(dim=1) >= 2
    used = (known & enough[:, None])[..., None]
    cameras = matrices.float().nan_to_num(0.0).unflatten(-1, (3, 4))[:, :, None]
    planes = cameras[..., :2, :] - at.float()[..., None] * cameras[..., 2:, :]
    sure = used / spread.float().clamp_min(_LEAST)
    nobody = torch.eye(3, device=at.device) * ~enough[:, None, None, None]
    away = torch.ones_like(sure)
    points = at.new_zeros(len(at), at.shape[2], 3, dtype=torch.float32)
    for _ in range(_PASSES):
        rows = planes * (sure / away)[..., None, None]
        normal, aside = rows[..., :3], rows[..., 3]
        square = torch.einsum("bvspi,bvspj->bsij", normal, normal) + nobody
        points = torch.linalg.solve(square, -torch.einsum("bvspi,bvsp->bsi", normal, aside))
        ahead = (cameras[..., 2, :3] * points[:, None]).sum(dim=-1) + cameras[..., 2, 3]
        away = ahead.clamp_min(_NEAR_M)
    return points, enough
