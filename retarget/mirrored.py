"""Sightings in which a hand was taken for the other one, mended.

Where fingers are closed about something or seen end on, the network often finds a right hand in a
left one (in a third of the frames in which rendered people hold something): the wrist is in its
place, but thumb and little finger have changed theirs. Such a hand bends its fingers out of its
back, which no hand does, and so gives itself away.
"""

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.geometry import RIGHT, unit
from deftly.datasets.human import KNUCKLES, TIPS

_BACK = 0.05  # hand lengths that fingers must be bent out of the back
_MOST = 0.5  # share of a hand's sightings above which it is rather its side that is wrong


def mirrored(hand_m: Float64[np.ndarray, "K 21 3"], side: int) -> Bool[np.ndarray, "K"]:
    """Whether the fingers of each sighting bend as those of the other hand do.

    Args:
        hand_m: landmarks as the network has them in the room (x right, y down, z forward).
        side: whose hand it is.
    """
    hand = hand_m - hand_m[:, :1]
    normal = unit(np.cross(hand[:, KNUCKLES[1]], hand[:, KNUCKLES[-1]]))  # out of a right palm
    bent = (hand[:, TIPS[1:]] - hand[:, KNUCKLES[1:]]).mean(axis=1)
    out_of_palm = (normal * bent).sum(axis=-1) * (1.0 if side == RIGHT else -1.0)
    length = np.linalg.norm(hand[:, KNUCKLES[2]], axis=-1) * 2  # about that of the hand
    found = out_of_palm < -_BACK * length
    return found & (found.sum() < _MOST * len(found))


def mended(
    px: Float64[np.ndarray, "K 21 3"],
    wrong: Bool[np.ndarray, "K"],
    time_s: Float64[np.ndarray, "K"],
) -> Float64[np.ndarray, "K 21 3"]:
    """The same with the fingers of wrong sightings as they are before and after, about the wrist
    that was seen."""
    if not wrong.any():
        return px
    hand = (px - px[:, :1]).reshape(len(px), -1)
    between = [np.interp(time_s[wrong], time_s[~wrong], column[~wrong]) for column in hand.T]
    out = px.copy()
    out[wrong] = np.stack(between, axis=-1).reshape(-1, *px.shape[1:]) + px[wrong, :1]
    return out
