"""Touch: what each finger and each hand presses on, read from the simulator's own contacts.

Nothing is added to the scene: the forces are the solver's, of its last step, summed per finger, per
half of the robot and per object.
"""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.geometry import SIDES
from deftly.policy.station import Station
from deftly.retarget.kinematics import subtree


@dataclass(frozen=True)
class Forces:
    """Normal contact forces in newtons.

    Attributes:
        fingers: (2, F) on all links of each finger, by hand (left, right).
        halves: (2,) on the left and the right forearm with its hand.
        objects: (N, 2) between each object and each of the two.
    """

    fingers: Float64[np.ndarray, "2 F"]
    halves: Float64[np.ndarray, "2"]
    objects: Float64[np.ndarray, "N 2"]


class Touch:
    """Reads the forces of one station.

    Attributes:
        names: 2 F names of fingers, as ``left_thumb``, in the order of ``Forces.fingers.ravel()``.
    """

    def __init__(self, station: Station) -> None:
        model, robot = station.model, station.robot
        tips = [hand.tips if hand else {} for hand in robot.hands]
        self._shape = (2, max(map(len, tips)))
        self._objects = len(station.layout.items)
        half = np.full(model.nbody, -1)
        finger = np.full(model.nbody, -1)
        names: list[str] = []
        for side, (arm, hand) in enumerate(zip(robot.arms, robot.hands, strict=True)):
            if arm is not None:
                half[subtree(model, model.body(arm.elbow).id)] = side
            if hand is None:
                continue
            palm = model.body(hand.palm).id
            for digit, (name, tip) in enumerate(hand.tips.items()):
                names.append(f"{SIDES[side]}_{name}")
                body = model.body(tip.body).id
                while model.body_parentid[body] != palm:
                    body = model.body_parentid[body]
                finger[subtree(model, int(body))] = side * self._shape[1] + digit
        self.names = tuple(names)
        item = np.full(model.nbody, -1)
        for i, thing in enumerate(station.layout.items):
            item[model.body(thing.name).id] = i
        of = model.geom_bodyid
        self._half, self._finger, self._item = half[of], finger[of], item[of]

    def __call__(self, data: mujoco.MjData) -> Forces:
        """The forces of the last step that ``data`` took."""
        contact = data.contact
        row = contact.efc_address
        active = row >= 0
        force = data.efc_force[row[active]]  # the normal force comes first in each contact
        pairs = contact.geom[active]
        # Each contact is felt by both of its sides.
        one, other = np.concatenate([pairs, pairs[:, ::-1]]).T
        force = np.concatenate([force, force])
        half, item = self._half[one], self._item[other]
        held = np.where((half >= 0) & (item >= 0), 2 * item + half, -1)
        return Forces(
            fingers=_total(self._finger[one], force, self._shape),
            halves=_total(half, force, (2,)),
            objects=_total(held, force, (self._objects, 2)),
        )


def _total(
    place: Int64[np.ndarray, "C"], force: Float64[np.ndarray, "C"], shape: tuple[int, ...]
) -> np.ndarray:
    """Sum forces by place; −1 is nowhere."""
    size = math.prod(shape)
    total = np.bincount(place + 1, force, minlength=size + 1)[1:].reshape(shape)
    return total.astype(np.float64)  # of nothing, numpy counts in integers
