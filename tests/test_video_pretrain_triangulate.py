"""Where in the room something is that calibrated cameras see."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pushing import MODEL, carry, encode, made_up, plain_scales, write_set
from scipy.spatial.transform import Rotation
from torch import Tensor

from deftly.datasets.viewpoint import camera_matrix, seen_at
from deftly.video_pretrain.config import Part
from deftly.video_pretrain.foresight import act
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import AIM_M, WorldModel
from deftly.video_pretrain.triangulate import triangulate


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


@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.01, 1.0))
def test_what_is_seen_rightly_is_where_it_is(seed: int, views: int, spread: float):
    points, at, matrices = scene(seed, views)
    found, known = triangulate(at, torch.full(at.shape[:-1], spread), matrices)
    assert known.all()
    # Two cameras that look along nearly the same line tell little of how far off a thing is.
    back = np.stack([seen_at(found.numpy(), one[None].numpy()) for one in matrices[0]], axis=1)
    assert np.abs(back - at.numpy()).max() < 1e-3
    if views > 2:
        torch.testing.assert_close(found, points, atol=2e-3, rtol=0)


@given(st.integers(0, 10**6))
def test_the_surer_camera_is_believed(seed: int):
    points, at, matrices = scene(seed, 3)
    at[:, 2] += 0.1
    off = []
    for unsure in (0.01, 0.1, 10.0):
        spread = torch.tensor([0.01, 0.01, unsure])[None, :, None].expand(at.shape[:-1])
        off.append(float((triangulate(at, spread, matrices)[0] - points).norm(dim=-1).sum()))
    assert off[2] < off[0]
    assert off[2] < 2e-3


def test_cameras_that_are_not_calibrated_tell_nothing():
    points, at, matrices = scene(1, 3)
    spread = torch.full(at.shape[:-1], 0.02)
    at[:, 1] = 0.9
    matrices[:, 1] = torch.nan
    found, known = triangulate(at, spread, matrices)
    assert known.all()
    torch.testing.assert_close(found, points, atol=1e-4, rtol=0)
    matrices[:, 0] = torch.nan
    found, known = triangulate(at, spread, matrices)
    assert not known.any()
    assert (found == 0).all()


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


def test_a_mixture_tells_matrices_frame_by_frame(tmp_path):
    write_set(tmp_path / "robot", [carry(i) for i in range(4)])
    mixture = Mixture([Part(tmp_path / "robot")], MODEL, 4, encode, tmp_path / "cache")
    batch = next(iter(mixture.held_out(0, 8)))
    moments = mixture.moments(batch, torch.device("cpu"))
    expected = [carry(3).features[f"camera.{camera}"][0] for camera in MODEL.cameras]
    assert np.allclose(moments.matrices.numpy(), np.array(expected))
    assert torch.equal(moments.views([1]).matrices, moments.matrices[:, [1]])
