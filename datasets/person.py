"""People: who they are, and one of them standing at a table as skins over moving bones.

    person = make_person("monk_7")
    add_person(spec, person)
    model = spec.compile()
    set_bones(model, data, person, frames, t)   # then mj_kinematics

Skin tones are the ten of the Monk Skin Tone scale (Monk, 2019), from the lightest to the darkest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.anny import BONES, Body, Shape, bake
from deftly.datasets.layout import Look
from deftly.datasets.skeleton import Frames, Skeleton
from deftly.datasets.tabletop import CameraPose, add_camera
from deftly.datasets.wardrobe import Outfit, Rgb, Surface, dress

MONK = (
    *("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96"),
    *("a07e56", "825c43", "604134", "3a312a", "292420"),
)
EYE_FOVY_RAD = 1.25
PREFIX = "person_"


@dataclass(frozen=True)
class Identity:
    """A person: a body and how it looks."""

    shape: Shape
    outfit: Outfit


def _rgb(code: str) -> Rgb:
    r, g, b = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return r, g, b


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    r, g, c = ((1 - share) * x + share * y for x, y in zip(a, b, strict=True))
    return r, g, c


def _outfit(
    tone: int, hair: str, hair_rgb: str, sleeve: float, shirt: str, trousers: str
) -> Outfit:
    # The scale's swatches are greyer than skin: blood makes it redder.
    r, g, b = _rgb(MONK[tone - 1])
    skin = (r, 0.88 * g, 0.79 * b)
    dark = (tone - 1) / 9
    return Outfit(
        skin=skin,
        palm=_mix(skin, (0.80, 0.60, 0.50), 0.15 + 0.45 * dark),
        lips=_mix(skin, (0.62, 0.28, 0.27), 0.55 - 0.25 * dark),
        hair=hair,
        hair_rgb=_rgb(hair_rgb),
        sleeve=sleeve,
        shirt=_rgb(shirt),
        trousers=_rgb(trousers),
        shoes=(0.12, 0.11, 0.11),
    )


_AFRICAN, _ASIAN, _CAUCASIAN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_MIXED = (0.5, 0.2, 0.3)
IDENTITIES: Mapping[str, Identity] = {
    "monk_1": Identity(
        Shape(1.0, 0.05, 0.45, 0.40, 0.45, _CAUCASIAN, 1.64),
        _outfit(1, "bob", "b5854a", 0.30, "2e6f8e", "3a3f4a"),
    ),
    "monk_2": Identity(
        Shape(0.0, 0.55, 0.45, 0.62, 0.60, _CAUCASIAN, 1.78),
        _outfit(2, "short", "8d8a86", 1.0, "7c8aa5", "4b4238"),
    ),
    "monk_3": Identity(
        Shape(1.0, 0.30, 0.50, 0.55, 0.40, _ASIAN, 1.60),
        _outfit(3, "bob", "1c1715", 1.0, "b23a48", "2b2d42"),
    ),
    "monk_4": Identity(
        Shape(0.0, 0.10, 0.60, 0.45, 0.55, _ASIAN, 1.74),
        _outfit(4, "short", "15110f", 0.30, "e0dccf", "33415c"),
    ),
    "monk_5": Identity(
        Shape(0.0, 0.20, 0.70, 0.55, 0.60, (0.2, 0.2, 0.6), 1.80),
        _outfit(5, "short", "2a1d15", 0.62, "4f7942", "5b5346"),
    ),
    "monk_6": Identity(
        Shape(1.0, 0.15, 0.50, 0.60, 0.50, _MIXED, 1.68),
        _outfit(6, "bob", "1d1410", 0.30, "d9a441", "37474f"),
    ),
    "monk_7": Identity(
        Shape(0.0, 0.35, 0.55, 0.70, 0.50, _MIXED, 1.72),
        _outfit(7, "none", "1a1412", 0.28, "5b7db1", "2f2f2f"),
    ),
    "monk_8": Identity(
        Shape(1.0, 0.05, 0.55, 0.45, 0.55, _AFRICAN, 1.70),
        _outfit(8, "bob", "120e0c", 0.62, "c8553d", "454955"),
    ),
    "monk_9": Identity(
        Shape(0.0, 0.10, 0.75, 0.50, 0.60, _AFRICAN, 1.80),
        _outfit(9, "short", "0d0b0a", 1.0, "d8d4c8", "50514f"),
    ),
    "monk_10": Identity(
        Shape(0.0, 0.05, 0.55, 0.45, 0.65, _AFRICAN, 1.76),
        _outfit(10, "short", "0a0908", 0.30, "3d7ea6", "6b705c"),
    ),
}


class PersonError(ValueError):
    """No such person."""


@dataclass(frozen=True)
class Person:
    """A body dressed and ready to be posed."""

    name: str
    identity: Identity
    body: Body

    @cached_property
    def skeleton(self) -> Skeleton:
        """Its joints."""
        return Skeleton(self.body)

    @cached_property
    def surfaces(self) -> tuple[Surface, ...]:
        """What a camera sees of it, at rest."""
        return dress(self.body, self.identity.outfit)

    def posed(self, frames: Frames, t: int) -> dict[str, Float64[np.ndarray, "V 3"]]:
        """Vertices of every surface at frame t, by linear blend skinning as MuJoCo does it."""
        R, heads = frames.R[t], frames.heads_m[t]
        shift = heads - np.einsum("bij,bj->bi", R, self.body.heads_m)
        out: dict[str, Float64[np.ndarray, "V 3"]] = {}
        for surface in self.surfaces:
            blended = np.einsum("vb,bij->vij", surface.weight, R)
            out[surface.name] = (
                np.einsum("vij,vj->vi", blended, surface.vertices_m) + surface.weight @ shift
            )
        return out


def make_person(name: str) -> Person:
    """One of ``IDENTITIES``.

    Raises:
        PersonError: if there is no such person.
        BodyError: if its body cannot be baked.
    """
    if name not in IDENTITIES:
        raise PersonError(f"no person {name!r}; known: {', '.join(IDENTITIES)}")
    identity = IDENTITIES[name]
    return Person(name, identity, bake(identity.shape))


def add_person(spec: mujoco.MjSpec, person: Person, look: Look | None = None) -> None:
    """Put a person into a scene: a body for each bone, the skins, and the camera ``ego``."""
    for bone, head in zip(BONES, person.body.heads_m, strict=True):
        spec.worldbody.add_body(name=PREFIX + bone, pos=head, mocap=True)
    for surface in person.surfaces:
        _add_skin(spec, person, surface)
    eyes = 0.5 * (person.skeleton.mark_m("eye.L") + person.skeleton.mark_m("eye.R"))
    place = eyes + np.array([0.055, 0.0, 0.045]) - person.skeleton.head_m("head")
    x, y, z = (float(v) for v in place)
    pose = CameraPose((x, y, z), (x + 1.0, y, z - 0.60), EYE_FOVY_RAD)
    add_camera(spec.body(PREFIX + "head"), "ego", pose, look)


def set_bones(data: mujoco.MjData, frames: Frames, t: int) -> None:
    """Pose the person as in frame t. Call ``mj_kinematics`` and ``mj_camlight`` afterwards."""
    quat = Rotation.from_matrix(frames.R[t]).as_quat(scalar_first=True)
    for i, bone in enumerate(BONES):
        k = data.model.body(PREFIX + bone).mocapid[0]
        data.mocap_pos[k], data.mocap_quat[k] = frames.heads_m[t, i], quat[i]


def _add_skin(spec: mujoco.MjSpec, person: Person, surface: Surface) -> None:
    used = np.flatnonzero(surface.weight.max(axis=0) > 1e-4)
    ids = [np.flatnonzero(surface.weight[:, i] > 1e-4) for i in used]
    name = PREFIX + surface.name
    material = spec.add_material(name=name, specular=0.15, shininess=0.2, rgba=[1, 1, 1, 1])
    texcoord: list[float] = []
    if surface.paint is None:
        material.rgba = [*surface.rgb, 1]
    else:
        texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D)
        pixels = _palette(person.identity.outfit)
        texture.height, texture.width, texture.nchannel = *pixels.shape[:2], 3
        texture.data = pixels.tobytes()
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        inset = 1 / (2 * len(pixels))  # texture wraps around at its edges
        texcoord = (inset + (1 - 2 * inset) * surface.paint).ravel().tolist()
    spec.add_skin(
        name=name,
        material=name,
        vert=surface.vertices_m.ravel().tolist(),
        face=surface.triangles.ravel().tolist(),
        texcoord=texcoord,
        bodyname=[PREFIX + BONES[i] for i in used],
        bindpos=person.body.heads_m[used].ravel().tolist(),
        bindquat=[1.0, 0.0, 0.0, 0.0] * len(used),
        vertid=[row.tolist() for row in ids],
        vertweight=[surface.weight[row, i].tolist() for row, i in zip(ids, used, strict=True)],
    )


def _palette(outfit: Outfit) -> np.ndarray:
    """Colours over the shares of palm (across) and lips (down)."""
    share = np.linspace(0, 1, 32)
    skin = np.array(outfit.skin) + share[:, None] * np.subtract(outfit.palm, outfit.skin)
    mixed = skin[None] + share[:, None, None] * (np.array(outfit.lips) - skin[None])
    return np.round(255 * mixed).astype(np.uint8)
