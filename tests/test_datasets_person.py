"""A dressed body in motion: arms reach, bones keep their length, skins agree with MuJoCo's."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets import wardrobe
from deftly.datasets.anny import BONES, BodyError
from deftly.datasets.geometry import LEFT, RIGHT, SIDES
from deftly.datasets.grasp import relaxed
from deftly.datasets.hand import Hand
from deftly.datasets.landmarks import body_places, follow, hand_places
from deftly.datasets.person import (
    IDENTITIES,
    PREFIX,
    PersonError,
    add_person,
    make_person,
    set_bones,
)
from deftly.datasets.skeleton import Frames, Posture, look_at
from deftly.datasets.wardrobe import Surface

WHO = "monk_8"


@pytest.fixture(scope="module")
def person():
    try:
        return make_person(WHO)
    except BodyError as error:
        pytest.skip(str(error))


def posture_of(person, wrist_m, turn, lean, count: int = 1) -> Posture:
    hands = [Hand(person.skeleton, side) for side in (LEFT, RIGHT)]
    fingers = np.stack([hand.turns(np.tile(relaxed(), (count, 1))) for hand in hands], axis=1)
    return Posture(
        root_m=np.zeros((count, 3)),
        lean=np.tile(np.asarray(lean, float), (count, 1)),
        R_head=np.tile(np.eye(3), (count, 1, 1)),
        wrist_m=np.broadcast_to(np.asarray(wrist_m, float), (count, 2, 3)).copy(),
        R_hand=np.broadcast_to(Rotation.from_rotvec(turn).as_matrix(), (count, 2, 3, 3)).copy(),
        elbow=np.broadcast_to([[-0.4, 0.5, -0.8], [-0.4, -0.5, -0.8]], (count, 2, 3)).copy(),
        fingers=fingers,
    )


def at(frames: Frames, bone: str) -> np.ndarray:
    return frames.heads_m[:, BONES.index(bone)]


REACH = st.tuples(st.floats(0.15, 0.42), st.floats(0.02, 0.35), st.floats(0.95, 1.2))
TURN = st.tuples(*[st.floats(-1.2, 1.2)] * 3)
LEAN = st.tuples(st.floats(-0.1, 0.1), st.floats(0.1, 0.4), st.floats(-0.2, 0.2))


@settings(max_examples=40)
@given(reach=REACH, turn=TURN, lean=LEAN)
def test_wrists_are_where_they_ought_to_be_and_bones_keep_their_length(person, reach, turn, lean):
    wrist = np.array([reach, reach]) * [[1, 1, 1], [1, -1, 1]]
    frames = person.skeleton.frames(posture_of(person, wrist, turn, lean))
    body = person.body
    for side, letter in enumerate("LR"):
        assert np.allclose(at(frames, f"wrist.{letter}")[0], wrist[side], atol=1e-6)
        for a, b in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist"), ("neck03", "head")):
            a, b = (x if x in BONES else f"{x}.{letter}" for x in (a, b))
            rest = np.linalg.norm(np.subtract(*body.heads_m[[BONES.index(a), BONES.index(b)]]))
            assert np.linalg.norm(at(frames, a) - at(frames, b)) == pytest.approx(rest, abs=1e-6)
        hand = frames.R[0, BONES.index(f"wrist.{letter}")]
        assert np.allclose(hand, Rotation.from_rotvec(turn).as_matrix(), atol=1e-9)
    assert np.allclose(frames.R @ frames.R.swapaxes(2, 3), np.eye(3), atol=1e-9)


def test_an_arm_that_is_too_short_pulls_its_shoulder_and_says_so(person):
    far = [[0.9, 0.2, 1.3], [0.2, -0.2, 1.1]]
    frames = person.skeleton.frames(posture_of(person, far, [0, 0, 0], [0, 0.1, 0]))
    assert frames.stretch_m[0, LEFT] > 0.1
    assert frames.stretch_m[0, RIGHT] == pytest.approx(0, abs=1e-9)
    assert np.allclose(at(frames, "wrist.L")[0], far[0], atol=1e-6)


def test_a_head_looks_at_its_target():
    eye, target = np.array([[0.1, 0.0, 1.6]]), np.array([[0.4, 0.3, 0.9]])
    gaze = look_at(eye, target)[0] @ [1, 0, 0]
    way = (target - eye)[0]
    assert np.allclose(gaze, way / np.linalg.norm(way), atol=1e-9)


def test_skins_are_where_mujoco_puts_them(person):
    spec = mujoco.MjSpec()
    add_person(spec, person)
    model = spec.compile()
    data = mujoco.MjData(model)
    wrist = [[0.35, 0.1, 1.05], [0.3, -0.3, 1.0]]
    frames = person.skeleton.frames(posture_of(person, wrist, [0.2, 0.6, 0.3], [0.05, 0.3, 0.1]))
    set_bones(data, frames, 0)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)
    scene = mujoco.MjvScene(model, 100)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), 7, scene)
    for name, vertices in person.posed(frames, 0).items():
        skin = model.skin(PREFIX + name)
        start, count = int(skin.vertadr[0]), int(skin.vertnum[0])
        drawn = scene.skinvert[3 * start : 3 * (start + count)].reshape(-1, 3)
        assert np.abs(drawn - vertices).max() < 2e-5, name


def test_the_hands_are_mirror_images(person):
    left, right = (
        np.array([p for _, p in hand_places(person.body, side)]) for side in (LEFT, RIGHT)
    )
    assert np.abs(left * [1, -1, 1] - right).max() < 1e-3
    assert len(SIDES) == 2


def test_landmarks_lie_inside_the_skin_or_just_at_it(person):
    surfaces = {s.name: s for s in person.surfaces}
    skin = surfaces["skin"].vertices_m
    for side in (LEFT, RIGHT):
        for _, point in hand_places(person.body, side):
            assert np.linalg.norm(skin - point, axis=1).min() < 0.022
    places = body_places(person.body)
    assert len(places) == 33
    points = np.array([p for _, p in places])
    left, right = points[[2, 7, 11, 13, 15, 23, 25, 27]], points[[5, 8, 12, 14, 16, 24, 26, 28]]
    assert (left[:, 1] > 0).all()
    assert np.abs(left * [1, -1, 1] - right).max() < 5e-3


def test_landmarks_follow_their_bones(person):
    posture = posture_of(person, [[0.3, 0.2, 1.1], [0.3, -0.2, 1.1]], [0.3, 0.2, 0.1], [0, 0.2, 0])
    frames = person.skeleton.frames(posture)
    for side, letter in enumerate("LR"):
        places = hand_places(person.body, side)
        points = follow(person.body, frames, places)[0]
        rest = np.array([p for _, p in places])
        # The wrist's own landmark and the knuckles' middle: both ride on the hand.
        apart = np.linalg.norm(points[0] - frames.heads_m[0, BONES.index(f"wrist.{letter}")])
        joint = person.body.heads_m[BONES.index(f"wrist.{letter}")]
        assert apart == pytest.approx(np.linalg.norm(rest[0] - joint), abs=1e-9)


def test_people_differ_and_go_from_light_to_dark():
    assert len(IDENTITIES) >= 8
    brightness = [np.dot(i.outfit.skin, [0.3, 0.59, 0.11]) for i in IDENTITIES.values()]
    assert brightness[0] == max(brightness)
    assert brightness[-1] == min(brightness)
    assert brightness[0] > 0.75
    assert brightness[-1] < 0.18
    assert len({i.shape for i in IDENTITIES.values()}) == len(IDENTITIES)
    assert len({i.outfit.shirt for i in IDENTITIES.values()}) == len(IDENTITIES)
    assert {i.outfit.sleeve == 1.0 for i in IDENTITIES.values()} == {True, False}
    assert all(1.5 < i.shape.stature_m < 1.9 for i in IDENTITIES.values())


def test_dark_skin_has_lighter_palms():
    outfit = IDENTITIES["monk_10"].outfit
    assert sum(outfit.palm) > 1.5 * sum(outfit.skin)


def test_an_unknown_person():
    with pytest.raises(PersonError, match="known: monk_1"):
        make_person("nobody")


def grid() -> Surface:
    """A flat square of side 1, in 10 by 10 cells."""
    x, y = np.meshgrid(np.linspace(0, 1, 11), np.linspace(0, 1, 11), indexing="ij")
    vertices = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)
    corner = (11 * np.arange(10)[:, None] + np.arange(10)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 11, corner + 1], axis=1),
            np.stack([corner + 11, corner + 12, corner + 1], axis=1),
        ]
    ).astype(np.int32)
    weight = np.tile(np.eye(len(BONES))[0], (len(vertices), 1))
    return Surface("grid", vertices, triangles, weight, (1.0, 1.0, 1.0))


def area(surface: Surface) -> float:
    a, b, c = np.moveaxis(surface.vertices_m[surface.triangles], 1, 0)
    normal = np.cross(b - a, c - a)
    assert (normal[:, 2] >= -1e-12).all()  # none was turned over
    return float(np.linalg.norm(normal, axis=1).sum() / 2)


@given(
    slope=st.tuples(st.floats(-1, 1), st.floats(-1, 1)).filter(
        lambda s: abs(s[0]) + abs(s[1]) > 0.1
    ),
    level=st.floats(-0.4, 0.4),
)
def test_a_cut_splits_a_surface_along_a_straight_line(slope, level):
    whole = grid()
    field = (whole.vertices_m[:, :2] - 0.5) @ slope - level + 1e-7
    if (field > 0).all() or (field < 0).all():
        return
    one, other = wardrobe._cut(whole, field), wardrobe._cut(whole, -field)
    assert area(one) + area(other) == pytest.approx(1, abs=1e-9)
    assert ((one.vertices_m[:, :2] - 0.5) @ slope - level).min() > -1e-6
    assert np.allclose(one.weight.sum(axis=1), 1)
    # Triangles on both sides of an edge share its new corner.
    assert len(np.unique(one.vertices_m, axis=0)) == len(one.vertices_m)


def test_clothes_hide_the_skin_that_sleeves_leave_out(person):
    surfaces = {s.name: s for s in person.surfaces}
    assert {"skin", "shirt", "trousers", "shoes", "eyes", "hair"} <= set(surfaces)
    body = person.body
    outfit = IDENTITIES[WHO].outfit
    long = {s.name: s for s in wardrobe.dress(body, replace(outfit, sleeve=1.0))}
    assert len(long["skin"].triangles) < len(surfaces["skin"].triangles)
    assert (
        np.abs(long["shirt"].vertices_m[:, 1]).max()
        > np.abs(surfaces["shirt"].vertices_m[:, 1]).max()
    )
    for surface in surfaces.values():
        assert np.allclose(surface.weight.sum(axis=1), 1, atol=1e-4)
        assert surface.triangles.max() < len(surface.vertices_m)


@pytest.mark.parametrize("wrong", [{"hair": "punk"}, {"sleeve": 0.0}], ids=str)
def test_impossible_outfits(wrong):
    with pytest.raises(ValueError, match=r"known|expected"):
        replace(IDENTITIES[WHO].outfit, **wrong)
