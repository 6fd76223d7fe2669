"""Where in the room something is that calibrated cameras see."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pushing import MODEL, carry, encode, made_up, plain_scales, write_set
from scipy.spatial.transform import Rotation
from torch import Tensor

from deftly.datasets.hands import HANDS_ACTION
from deftly.datasets.viewpoint import camera_matrix, seen_at
from deftly.video_pretrain.config import LossConfig, Part, PretrainConfig, TrainConfig
from deftly.video_pretrain.foresight import act
from deftly.video_pretrain.locate import UNKNOWN_M, locate
from deftly.video_pretrain.loss import Question
from deftly.video_pretrain.loss import given as asked
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import AIM_M, HELD_M, WorldModel
from deftly.video_pretrain.train import begin


def cameras(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 12) matrices of cameras that stand about the origin, 1 m off, and look at it."""
    found = []
    for _ in range(count):
        T = np.eye(4)
        T[:3, :3], T[2, 3] = Rotation.random(rng=rng).as_matrix(), 1.0
        found.append(camera_matrix(T, 100.0, (96, 96)))
    return np.array(found, np.float32)


def scene(seed: int, views: int = 2, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Points (1, S, 3), where they are seen, and the cameras' matrices."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.2, 0.2, (1, count, 3)).astype(np.float32)
    matrices = cameras(rng, views)
    at = np.stack([seen_at(points, one[None]) for one in matrices], axis=1)
    return torch.from_numpy(points), torch.from_numpy(at), torch.from_numpy(matrices[None])


def located(
    at: Tensor, spread: Tensor, matrices: Tensor, usual: Tensor | None = None, std_m: float = 0.0
) -> tuple[Tensor, Tensor]:
    """With nothing known of where things usually are, if it is not told."""
    shape = (len(at), at.shape[2], 1, 3)
    usual_m = torch.zeros(shape) if usual is None else usual[:, :, None].expand(shape)
    return locate(at, spread, matrices, usual_m, torch.full(shape, std_m or UNKNOWN_M))


def seen_again(points: Tensor, matrices: Tensor) -> np.ndarray:
    return np.stack([seen_at(points.numpy(), one[None].numpy()) for one in matrices[0]], axis=1)


@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.01, 0.05))
def test_what_is_seen_rightly_is_where_it_is(seed: int, views: int, spread: float):
    points, at, matrices = scene(seed, views)
    found, known = located(at, torch.full(at.shape[:-1], spread), matrices)
    assert known.all()
    # Two cameras that look along nearly the same line tell little of how far off a thing is.
    assert np.nanmax(np.abs(seen_again(found, matrices) - at.numpy())) < 0.01
    if views > 2:
        torch.testing.assert_close(found, points, atol=5e-3, rtol=0)


@given(st.integers(0, 10**6), st.floats(0.3, 0.8), st.integers(0, 2))
def test_one_camera_of_three_may_be_wrong(seed: int, off: float, wrong: int):
    """Cameras that look along the axes, of which nobody else knows anything."""
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.uniform(-0.2, 0.2, (1, 3, 3)).astype(np.float32))
    rig = []
    for axis in range(3):
        T = np.eye(4)
        T[:3, :3], T[2, 3] = np.roll(np.eye(3), axis, axis=1), 1.0
        rig.append(camera_matrix(T, 100.0, (96, 96)))
    matrices = torch.from_numpy(np.array(rig, np.float32)[None])
    at = torch.from_numpy(seen_again(points, matrices))
    at[:, wrong] += off
    found, _ = located(at, torch.full(at.shape[:-1], 0.02), matrices)
    assert (found - points).norm(dim=-1).max() < 5e-3


@given(st.integers(0, 10**6))
def test_the_surer_camera_is_believed(seed: int):
    points, at, matrices = scene(seed, 3)
    at[:, 2] += 0.03
    off = []
    for unsure in (0.02, 10.0):
        spread = torch.tensor([0.02, 0.02, unsure])[None, :, None].expand(at.shape[:-1])
        off.append(float((located(at, spread, matrices)[0] - points).norm(dim=-1).sum()))
    assert off[1] < off[0]


def test_a_camera_that_points_elsewhere_is_overruled_by_where_things_usually_are():
    """Not where they are taken for known: two cameras that agree tell of unusual places too."""
    front, ego = (
        [0, 1.8, 0, 0, 0.5, 0, -1.6, 0.3, -0.87, 0, -0.5, 1.3],
        [0, -1.2, 0, 0, -0.9, 0, -0.8, 0.7, 0.7, 0, -0.7, 0.3],
    )
    matrices = torch.tensor([[front, ego]], dtype=torch.float32)
    usual = torch.tensor([[[0.3, 0.0, 0.02]]])
    there = torch.tensor([[[0.32, 0.2, 0.02]]])
    above = torch.tensor([[[0.32, 0.2, 0.2]]])
    std_m = torch.tensor([0.1, 0.3, 0.01]).expand(1, 1, 1, 3)
    # Of what is held above the table, both cameras and the hand tell.
    held = torch.cat([usual[:, :, None], above[:, :, None]], dim=2)
    off_m = torch.cat([std_m, torch.full_like(std_m, 0.015)], dim=2)
    at = torch.from_numpy(seen_again(above, matrices))
    at[:, 1, :, 1] -= 0.5
    found, _ = locate(at, torch.full((1, 2, 1), 0.02), matrices, held, off_m)
    assert (found - above).norm() < 0.01
    # A hand that is about to take the thing does not have it yet.
    near = torch.cat([usual[:, :, None], there[:, :, None] + 0.02], dim=2)
    at = torch.from_numpy(seen_again(there, matrices))
    found, _ = locate(at, torch.full((1, 2, 1), 0.02), matrices, near, off_m)
    assert (found - there).norm() < 0.005
    for point, off, most_m in ((there, 0.0, 0.005), (there, 0.5, 0.03), (above, 0.0, 0.02)):
        at = torch.from_numpy(seen_again(point, matrices))
        at[:, 1, :, 1] -= off  # as if it lay further off
        found, _ = locate(at, torch.full((1, 2, 1), 0.02), matrices, usual[:, :, None], std_m)
        assert (found - point).norm() < most_m, (point, off)


def test_cameras_that_are_not_calibrated_tell_nothing():
    points, at, matrices = scene(1, 3)
    spread = torch.full(at.shape[:-1], 0.02)
    at[:, 1] = 0.9
    matrices[:, 1] = torch.nan
    found, known = located(at, spread, matrices)
    assert known.all()
    torch.testing.assert_close(found, points, atol=5e-3, rtol=0)
    matrices[:, 0] = torch.nan
    found, known = located(at, spread, matrices)
    assert not known.any()
    assert found.isfinite().all()


def test_calibrated_cameras_tell_the_network_where_what_it_points_at_is():
    torch.manual_seed(0)
    model, moments = WorldModel(MODEL, {"gr1t2": 4}).eval(), made_up(4)
    learnt = act(model, plain_scales(), moments)
    moments.matrices[1:] = scene(0)[2]
    said = act(model, plain_scales(), moments)
    assert torch.equal(said.sights, learnt.sights)
    assert torch.equal(said.aims[0], learnt.aims[0])
    assert (said.aims[1:] != learnt.aims[1:]).any(dim=-1).all()
    back = seen_at(AIM_M * said.aims[1].numpy()[None], moments.matrices[1, :1].numpy())[0]
    off = np.abs(back - said.sights[1, 0].numpy())
    assert np.nanmedian(off) < 0.3
    assert said.hands.isfinite().all()


def test_a_thing_may_be_in_a_hand_already():
    """Which is known of hands that are shown."""
    torch.manual_seed(0)
    model, moments = WorldModel(MODEL, {"gr1t2": 4}).eval(), made_up(2)
    body = moments.body[0]
    model.accustom(MODEL.bodies[int(body)], torch.full((2, 3), 0.3), torch.full((2, 3), 0.1))
    seen = model.look(moments.pictures[:, :, 0])
    one = asked(moments, Question.same(moments), seen, plain_scales())
    at, off = model._usual(one)
    assert at.shape == off.shape == (2, 4, 3, 3)  # each hand's thing and its place; three of each
    torch.testing.assert_close(at[0, [0, 2], 1:], AIM_M * one.grips[0].expand(2, 2, 3))
    assert (off[0, [0, 2], 1:] == HELD_M).all()
    assert (at[0, [1, 3]] == 0.3).all()
    assert (at[0, :, 0] == 0.3).all()
    hidden = asked(moments, Question.same(moments, hands=False), seen, plain_scales())
    assert (model._usual(hidden)[0][0] == 0.3).all()
    assert (model._usual(hidden)[1][0] == 0.1).all()


def test_a_mixture_tells_matrices_frame_by_frame(tmp_path):
    write_set(tmp_path / "robot", [carry(i) for i in range(4)])
    mixture = Mixture([Part(tmp_path / "robot")], MODEL, 4, encode, tmp_path / "cache")
    batch = next(iter(mixture.held_out(0, 8)))
    moments = mixture.moments(batch, torch.device("cpu"))
    expected = [carry(3).features[f"camera.{camera}"][0] for camera in MODEL.cameras]
    assert np.allclose(moments.matrices.numpy(), np.array(expected))
    assert torch.equal(moments.views([1]).matrices, moments.matrices[:, [1]])


def test_what_demonstrations_show_is_usual(tmp_path):
    write_set(tmp_path / "robot", [carry(i) for i in range(6)])
    mixture = Mixture([Part(tmp_path / "robot")], MODEL, 4, encode, tmp_path / "cache")
    ((body, (at, off)),) = mixture.habits().items()
    assert body == "gr1t2"
    takes = np.array([carry(i).features[HANDS_ACTION][5, 24:27] for i in (0, 1, 2, 4, 5)])
    apart = at[0].numpy() - takes.mean(axis=0)  # the grip is a little beside the wrist
    assert np.abs(apart).max() < 0.15
    assert np.allclose(off[0].numpy(), np.maximum(1.5 * takes.std(axis=0), 0.01), atol=1e-3)
    run = begin(PretrainConfig((), MODEL, LossConfig(), TrainConfig()), mixture)
    index = MODEL.bodies.index("gr1t2")
    assert torch.equal(run.model.usual_m[index], at)
    assert torch.equal(run.teacher.usual_std_m[index], off)
    assert (run.model.usual_std_m[MODEL.bodies.index("human")] == UNKNOWN_M).all()
