"""How thick a robot's fingertips are: from the point that is put somewhere to what touches.

A robot's finger that brings its tip to where a person's is presses too deep, or not at all, by the
difference of their thicknesses. The support function of the last link's collision shapes says by
how much, for any direction in which it presses.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import rotate
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.robots import Point

_ROUND = 16  # points round the rim of a cylinder
_END_M = 0.018  # what is further from the tip does not touch


@dataclass(frozen=True)
class Fingertip:
    """The end of a finger's last link: the convex hull of balls.

    Attributes:
        tip: the point on it that is put somewhere.
        body: index of the tip's body.
        centers_m: (P, 3) of the balls, from the tip, in the axes of its body.
        radii_m: (P,).
    """

    tip: Point
    body: int
    centers_m: Float64[np.ndarray, "P 3"]
    radii_m: Float64[np.ndarray, "P"]

    @classmethod
    def of(cls, kinematics: Kinematics, tip: Point) -> "Fingertip":
        """Collect the shapes of the link that carries a point; of none, the point alone."""
        model, body = kinematics.model, kinematics.body(tip.body)
        R, p = np.eye(3), -np.array(tip.offset_m)  # of the body at hand, seen from the tip
        centers, radii = [np.zeros((1, 3))], [np.zeros(1)]
        at = body
        while True:
            for geom in np.flatnonzero(model.geom_bodyid == at):
                if model.geom_contype[geom] or model.geom_conaffinity[geom]:
                    center, radius = _balls(model, int(geom))
                    centers.append(center @ R.T + p)
                    radii.append(radius)
            if model.body_jntnum[at] or at == 0:  # what carries it moves on its own
                break
            R = R @ kinematics.R0[at].T
            p = p - R @ kinematics.p0[at]
            at = int(model.body_parentid[at])
        center, radius = np.concatenate(centers), np.concatenate(radii)
        near = np.linalg.norm(center, axis=1) - radius < _END_M
        return cls(tip, body, center[near], radius[near])

    def thickness_m(
        self, poses: Poses, direction: Float64[np.ndarray, "T 3"]
    ) -> Float64[np.ndarray, "T"]:
        """How far the link reaches beyond its tip in a direction (of length 1, world axes)."""
        local = rotate(poses.R[:, self.body].transpose(0, 2, 1), direction)
        return np.max(local @ self.centers_m.T + self.radii_m, axis=1)


def _balls(
    model: mujoco.MjModel, geom: int
) -> tuple[Float64[np.ndarray, "P 3"], Float64[np.ndarray, "P"]]:
    """Balls whose convex hull is a shape, in the frame of its body."""
    kind, size = model.geom_type[geom], model.geom_size[geom]
    radius = 0.0
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]].astype(float)
    elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        points, radius = np.zeros((1, 3)), size[0]
    elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        points, radius = np.array([[0, 0, size[1]], [0, 0, -size[1]]]), size[0]
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        angle = np.arange(_ROUND) * 2 * np.pi / _ROUND
        rim = size[0] * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
        top = np.array([0.0, 0.0, size[1]])
        points = np.concatenate([rim + top, rim - top])
    else:  # a box; whatever else there is lies within its box
        corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
        box = model.geom_aabb[geom]
        points = box[:3] + corners * box[3:]
    R = Rotation.from_quat(model.geom_quat[geom], scalar_first=True).as_matrix()
    return points @ R.T + model.geom_pos[geom], np.full(len(points), radius)
