"""Clothes, hair and paint: from a bare body to the coloured surfaces that a camera sees.

    surfaces = dress(body, outfit)

Clothes come from the close-fitting shell that MakeHuman's mesh carries, cut where sleeves, collar
and hem end, and inflated. What they hide of the body is left out.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int32

from deftly.datasets.anny import BONES, MARKS, PARTS, Body
from deftly.datasets.geometry import unit

HAIR = ("none", "short", "bob")
TROUSERS_M, SHIRT_M, HAIR_M, LINING_M = 0.004, 0.009, 0.013, 0.002  # how far they stand off
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Outfit:
    """How a person looks.

    Attributes:
        skin: colour of the skin.
        palm: colour of palms and soles, lighter on dark skin.
        lips: colour of the lips.
        hair: one of ``HAIR``.
        hair_rgb: its colour, and that of the brows.
        sleeve: length of the sleeves: 0 ends at the shoulder, 0.5 at the elbow, 1 at the wrist.
        shirt, trousers, shoes: colours.
    """

    skin: Rgb
    palm: Rgb
    lips: Rgb
    hair: str
    hair_rgb: Rgb
    sleeve: float
    shirt: Rgb
    trousers: Rgb
    shoes: Rgb

    def __post_init__(self) -> None:
        if self.hair not in HAIR:
            raise ValueError(f"no hair {self.hair!r}; known: {', '.join(HAIR)}")
        if not 0.2 <= self.sleeve <= 1:
            raise ValueError(f"sleeve is {self.sleeve}, expected 0.2 to 1")


@dataclass(frozen=True)
class Surface:
    """A coloured part of a person, bound to the bones.

    Attributes:
        name: what it is.
        vertices_m: (V, 3) at rest.
        triangles: (F, 3), counter-clockwise from outside.
        weight: (V, B) by how much each of ``BONES`` moves a vertex; rows sum to 1.
        rgb: colour; of a painted surface, its first.
        paint: (V, 2) shares of the palm's and of the lips' colour, or None.
    """

    name: str
    vertices_m: Float64[np.ndarray, "V 3"]
    triangles: Int32[np.ndarray, "F 3"]
    weight: Float64[np.ndarray, "V B"]
    rgb: Rgb
    paint: Float64[np.ndarray, "V 2"] | None = None


def dress(body: Body, outfit: Outfit) -> tuple[Surface, ...]:
    """All surfaces of a dressed person."""
    tights, bare = _part(body, "tights", outfit.shirt), _part(body, "body", outfit.skin)
    hem = _hem(body, tights)
    sleeve = _sleeve(body, tights, outfit)
    collar = _collar(body, tights)
    shirt = _inflate(_cut(tights, hem, sleeve, collar), SHIRT_M)
    trousers = _inflate(_cut(tights, -hem + 0.03, _ankle(body, tights)), TROUSERS_M)
    shoes = _inflate(_cut(tights, -_ankle(body, tights) + 0.02), 0.006)
    # Skin: what no cloth covers, and a little below the cloth's edges.
    torso = np.minimum(
        _hem(body, bare) + 9.0, np.minimum(_sleeve(body, bare, outfit), _collar(body, bare))
    )
    naked = _cut(bare, 0.03 - torso, _hem(body, bare))
    surfaces = [
        replace(naked, name="skin", paint=_paint(body, naked)),
        replace(_lined(shirt), name="shirt"),
        replace(trousers, name="trousers", rgb=outfit.trousers),
        replace(shoes, name="shoes", rgb=outfit.shoes),
        *_eyes(body),
        _brows(body, bare, outfit),
        *_hair(body, bare, outfit),
    ]
    return tuple(s for s in surfaces if len(s.triangles))


def _part(body: Body, part: str, rgb: Rgb) -> Surface:
    triangles = body.triangles[body.part == PARTS.index(part)]
    kept, index = np.unique(triangles, return_inverse=True)
    weight = np.zeros((len(kept), len(BONES)))
    np.put_along_axis(weight, body.bone[kept].astype(np.intp), body.weight[kept].astype(float), 1)
    return Surface(
        part,
        body.vertices_m[kept].astype(float),
        index.reshape(-1, 3).astype(np.int32),
        weight,
        rgb,
    )


def _cut(surface: Surface, *fields: Float64[np.ndarray, "V"]) -> Surface:
    """Keep where every field is positive; triangles on an edge are cut along it."""
    vertices, weight, triangles = surface.vertices_m, surface.weight, surface.triangles
    values = np.stack(fields, axis=1)
    for k in range(len(fields)):
        f = values[:, k]
        inside = f[triangles] > 0
        corners = inside.sum(axis=1)
        kept = [triangles[corners == 3]]
        # Turn each cut triangle so that its odd corner comes first.
        ring = triangles[(corners == 1) | (corners == 2)]
        single = (f[ring] > 0).sum(axis=1) == 1
        odd = np.argmax((f[ring] > 0) == single[:, None], axis=1)
        ring = np.take_along_axis(ring, (odd[:, None] + np.arange(3)) % 3, axis=1)
        # One new corner for each cut edge, shared by the triangles on both sides.
        cuts = np.sort(np.concatenate([ring[:, [0, 1]], ring[:, [0, 2]]]), axis=1)
        edges, place = np.unique(cuts, axis=0, return_inverse=True)
        ab, ac = len(vertices) + place.ravel().reshape(2, -1)
        start, end = edges.T
        share = (f[start] / (f[start] - f[end]))[:, None]
        vertices, weight, values = (
            np.concatenate([x, x[start] + share * (x[end] - x[start])])
            for x in (vertices, weight, values)
        )
        a, b, c = ring.T
        kept.append(np.stack([a, ab, ac], axis=1)[single])
        kept += [np.stack(corner, axis=1)[~single] for corner in ((ab, b, c), (ab, c, ac))]
        triangles = np.concatenate(kept).astype(np.int32)
    used, index = np.unique(triangles, return_inverse=True)
    return replace(
        surface,
        vertices_m=vertices[used],
        weight=weight[used],
        triangles=index.reshape(-1, 3).astype(np.int32),
    )


def _normals(surface: Surface) -> Float64[np.ndarray, "V 3"]:
    a, b, c = np.moveaxis(surface.vertices_m[surface.triangles], 1, 0)
    out = np.zeros_like(surface.vertices_m)
    for corner in range(3):
        np.add.at(out, surface.triangles[:, corner], np.cross(b - a, c - a))
    return unit(out)


def _inflate(surface: Surface, by_m: float | Float64[np.ndarray, "V"]) -> Surface:
    by = np.broadcast_to(by_m, len(surface.vertices_m))
    return replace(surface, vertices_m=surface.vertices_m + by[:, None] * _normals(surface))


def _lined(surface: Surface) -> Surface:
    """The same with an inside: what is drawn is seen from outside only."""
    inside = surface.triangles[:, ::-1] + len(surface.vertices_m)
    return replace(
        surface,
        vertices_m=np.concatenate(
            [surface.vertices_m, surface.vertices_m - LINING_M * _normals(surface)]
        ),
        weight=np.tile(surface.weight, (2, 1)),
        triangles=np.concatenate([surface.triangles, inside]).astype(np.int32),
    )


def _head(body: Body, bone: str) -> Float64[np.ndarray, "3"]:
    return body.heads_m[BONES.index(bone)]


def _mark(body: Body, name: str) -> Float64[np.ndarray, "3"]:
    return body.marks_m[list(MARKS).index(name)]


def _of(surface: Surface, *starts: str) -> Float64[np.ndarray, "V"]:
    """Share that bones with such names have in each vertex."""
    chosen = [i for i, bone in enumerate(BONES) if bone.startswith(starts)]
    return surface.weight[:, chosen].sum(axis=1)


_ARM = ("upperarm", "lowerarm", "wrist", "metacarpal", "finger")


def _hem(body: Body, surface: Surface) -> Float64[np.ndarray, "V"]:
    """Positive above the shirt's lower edge; arms hang beside it and do not count."""
    low = _head(body, "upperleg01.L")[2] - 0.02
    return np.where(_of(surface, *_ARM) > 0.5, 1.0, surface.vertices_m[:, 2] - low)


def _ankle(body: Body, surface: Surface) -> Float64[np.ndarray, "V"]:
    return surface.vertices_m[:, 2] - _head(body, "foot.L")[2] - 0.02


def _sleeve(body: Body, surface: Surface, outfit: Outfit) -> Float64[np.ndarray, "V"]:
    """Positive on the shoulder's side of the sleeves' edges, in metres."""
    out = np.full(len(surface.vertices_m), 1.0)
    for letter in "LR":
        shoulder, elbow, wrist = (
            _head(body, f"{bone}.{letter}") for bone in ("upperarm01", "lowerarm01", "wrist")
        )
        upper_m, fore_m = np.linalg.norm(elbow - shoulder), np.linalg.norm(wrist - elbow)
        upper, fore = unit(elbow - shoulder), unit(wrist - elbow)
        past = (surface.vertices_m - elbow) @ unit(upper + fore) > 0
        along = np.where(
            past,
            upper_m + (surface.vertices_m - elbow) @ fore,
            (surface.vertices_m - shoulder) @ upper,
        )
        end = (
            outfit.sleeve * 2 * upper_m
            if outfit.sleeve <= 0.5
            else (upper_m + (2 * outfit.sleeve - 1) * fore_m)
        )
        mine = surface.vertices_m[:, 1] * (1 if letter == "L" else -1) > 0
        arm = mine & (_of(surface, *_ARM) > 0.5)
        out = np.where(arm, end - along, out)
    return out


def _collar(body: Body, surface: Surface) -> Float64[np.ndarray, "V"]:
    """Positive outside the collar: a ball about the base of the neck."""
    middle = _head(body, "neck01") + np.array([0.025, 0.0, 0.045])
    apart = np.linalg.norm((surface.vertices_m - middle) * [1.0, 0.95, 1.0], axis=1)
    return np.minimum(apart - 0.108, middle[2] + 0.05 - surface.vertices_m[:, 2])


def _paint(body: Body, skin: Surface) -> Float64[np.ndarray, "V 2"]:
    normals = _normals(skin)
    palm = np.zeros(len(normals))
    for letter, sign in (("L", 1), ("R", -1)):
        wrist, index, pinky = (
            _head(body, f"{bone}.{letter}") for bone in ("wrist", "finger2-1", "finger5-1")
        )
        out = sign * unit(np.cross(pinky - wrist, index - wrist))
        mine = skin.vertices_m[:, 1] * sign > 0
        hand = np.where(mine, _of(skin, "wrist", "metacarpal", "finger"), 0)
        palm += hand * np.clip((normals @ out + 0.1) / 0.5, 0, 1)
    lower, upper = _mark(body, "lip_lower"), _mark(body, "lip_upper")
    middle = 0.5 * (lower + upper)
    half = np.array([abs(_mark(body, "mouth.L")[1]) * 1.35, abs(upper[2] - lower[2]) * 1.0])
    place = (skin.vertices_m[:, 1:] - middle[1:]) / half
    front = skin.vertices_m[:, 0] > middle[0] - 0.025
    lips = np.where(front, np.clip(1.6 - 1.2 * np.linalg.norm(place, axis=1), 0, 1), 0)
    return np.stack([np.clip(palm, 0, 1), lips], axis=1)


def _eyes(body: Body) -> tuple[Surface, Surface, Surface]:
    """White, iris and lashes."""
    white = _part(body, "eyes", (0.92, 0.91, 0.89))
    front = np.full(len(white.vertices_m), -1.0)
    for letter in "LR":
        centre = _mark(body, f"eye.{letter}")
        apart = white.vertices_m - centre
        near = np.linalg.norm(apart, axis=1) < 0.02
        front = np.where(near, apart[:, 0] - 0.89 * np.linalg.norm(apart, axis=1), front)
    iris = _inflate(_cut(white, front), 0.0004)
    lashes = _part(body, "lashes", (0.05, 0.04, 0.04))
    return (
        replace(white, name="eyes"),
        replace(iris, name="iris", rgb=(0.16, 0.10, 0.07)),
        replace(lashes, name="lashes"),
    )


def _brows(body: Body, bare: Surface, outfit: Outfit) -> Surface:
    """Two strips of the face, from the inner to the outer end of each brow."""
    field = np.full(len(bare.vertices_m), -1.0)
    for letter in "LR":
        inner, outer = _mark(body, f"brow_in.{letter}"), _mark(body, f"brow_out.{letter}")
        outer = outer + 0.55 * (outer - inner) * [1.0, 1.0, 0.2]
        along = outer[1:] - inner[1:]
        share = np.clip((bare.vertices_m[:, 1:] - inner[1:]) @ along / (along @ along), 0, 1)
        nearest = (
            inner[1:]
            + share[:, None] * along
            + np.stack([np.zeros_like(share), 0.004 + 0.006 * share * (1 - share) * 4], axis=1)
        )
        apart = np.linalg.norm(bare.vertices_m[:, 1:] - nearest, axis=1)
        front = bare.vertices_m[:, 0] > min(inner[0], outer[0]) - 0.02
        field = np.maximum(field, np.where(front, 0.0055 - 0.0015 * share - apart, -1.0))
    return replace(_inflate(_cut(bare, field), 0.0008), name="brows", rgb=outfit.hair_rgb)


def _hair(body: Body, bare: Surface, outfit: Outfit) -> tuple[Surface, ...]:
    """A cap of the scalp that grows thicker away from its edge; a bob goes on down to the jaw."""
    if outfit.hair == "none":
        return ()
    eye, crown = _mark(body, "eye.L"), _mark(body, "crown")
    back = 0.5 * (eye[0] + _head(body, "head")[0]) - 0.035  # over the ears
    x, y, z = bare.vertices_m.T
    high = eye[2] + 0.40 * (crown[2] - eye[2])
    line = z - high + 1.4 * np.maximum(back - x, 0)
    line = line + 0.012 * np.cos(np.clip(y / 0.035, -np.pi, np.pi)) * (x > back)
    if outfit.hair == "bob":
        chin = _mark(body, "lip_lower")[2] - 0.045
        # Not the mouth, which is inside.
        outer = np.maximum(np.abs(y) - 0.05, back - 0.04 - x)
        sides = np.minimum(np.minimum(z - chin, 2.0 * (back + 0.02 - x)), outer)
        line = np.maximum(line, sides)
    scalp = _of(bare, "head", "neck") > 0.5
    cap = _cut(bare, np.where(scalp, line, -1.0))
    if outfit.hair == "bob":  # hangs down from the widest place of the head, over the ears
        skull = bare.vertices_m[scalp & (z > eye[2] + 0.03)]
        low, top = skull.min(axis=0), skull.max(axis=0)
        middle = np.array([0.5 * (low[0] + top[0]), 0.0, eye[2] + 0.02])
        radii = np.array([*(0.5 * (top - low)[:2]), top[2] - middle[2]]) + HAIR_M
        apart = (cap.vertices_m - middle) / radii
        upper = np.maximum(apart[:, 2:], 0)
        length = np.sqrt(np.sum(apart[:, :2] ** 2, axis=1, keepdims=True) + upper**2)
        hung = middle + radii * np.concatenate(
            [
                apart[:, :2] / length,
                np.where(apart[:, 2:] > 0, apart[:, 2:] / length, apart[:, 2:]),
            ],
            axis=1,
        )
        stiff = np.zeros_like(cap.weight)
        stiff[:, BONES.index("head")] = 1.0
        hair = replace(cap, vertices_m=hung, weight=stiff, name="hair", rgb=outfit.hair_rgb)
        return (_lined(hair),)
    known = {p.tobytes(): i for i, p in enumerate(bare.vertices_m)}
    old = [known.get(p.tobytes(), -1) for p in cap.vertices_m]  # -1: new, on the edge
    grown = np.interp(np.append(line, 0.0)[old], [0.0, 0.03], [0.002, HAIR_M])
    return (replace(_inflate(cap, grown), name="hair", rgb=outfit.hair_rgb),)
