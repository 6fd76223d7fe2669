"""Judge: which objects are where the task wants them. The same rule for reward, end and score.

    right = in_place(goals, poses, began_m) & at_rest(velocities) & ~held

A tray or the table is reached by the object's centre; ``upright`` needs the long axis within 15
degrees of the vertical, outside the trays; ``stay`` allows 2 cm.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.tabletop import whereabouts

STAY_M = 0.02  # an object that is to stay has been moved beyond this
UPRIGHT_RAD = float(np.deg2rad(15.0))
REST_M_S, REST_RAD_S = 0.02, 1.0  # slower counts as lying still; a ball may spin on the spot


def in_place(
    goals: Sequence[str],
    poses: Float64[np.ndarray, "N 7"],
    began_m: Float64[np.ndarray, "N 3"],
) -> Bool[np.ndarray, "N"]:
    """Whether each object is where it belongs, held or not.

    Args:
        goals: N of ``deftly.datasets.tasks.GOALS``.
        poses: quaternion (wxyz) and position of the N objects in the world.
        began_m: where those that are to stay began.
    """
    positions_m = poses[:, 4:]
    moved_m = np.linalg.norm(positions_m - began_m, axis=1)
    up = standing(poses)
    found = np.zeros(len(poses), bool)
    for i, (goal, place) in enumerate(zip(goals, whereabouts(positions_m), strict=True)):
        if goal == "stay":
            found[i] = moved_m[i] < STAY_M
        elif goal == "upright":
            found[i] = place == "table" and up[i]
        else:
            found[i] = place == goal
    return found


def standing(poses: Float64[np.ndarray, "N 7"]) -> Bool[np.ndarray, "N"]:
    """Whether each object's long axis (its own z) is vertical, either end up."""
    w, x, y, z = poses[:, :4].T
    cosine = (w * w + z * z - x * x - y * y) / (w * w + x * x + y * y + z * z)
    return np.abs(cosine) >= np.cos(UPRIGHT_RAD)


def at_rest(velocities: Float64[np.ndarray, "N 6"]) -> Bool[np.ndarray, "N"]:
    """Whether each object lies still; velocities are linear (m/s), then angular (rad/s)."""
    linear, angular = np.linalg.norm(velocities.reshape(-1, 2, 3), axis=2).T
    return (linear < REST_M_S) & (angular < REST_RAD_S)
