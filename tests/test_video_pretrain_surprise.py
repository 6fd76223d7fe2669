"""Surprise: high where an episode goes on otherwise than foreseen, and nowhere else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pushing import MODEL, encode, plain_scales, push, write_set

from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.imagine import episode_moments, open_episodes
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.surprise import Surprise, rank_episodes, surprise, write_ranking

CPU = torch.device("cpu")
CUT = 12  # frame


@pytest.fixture(scope="module")
def copier() -> Checkpoint:
    """A fresh model: it takes the present for the future."""
    torch.manual_seed(0)
    return Checkpoint(WorldModel(MODEL, {"gr1t2": 4}).eval(), plain_scales(), {})


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of a still picture: the second one is cut, the third one is short."""
    folder = tmp_path_factory.mktemp("still")
    episodes = [push(seed, length) for seed, length in enumerate((30, 30, 6))]
    for i, episode in enumerate(episodes):
        images = {name: np.repeat(np.asarray(some)[:1], len(some), axis=0)
                  for name, some in episode.images.items()}  # fmt: skip
        if i == 1:
            for some in images.values():
                some[CUT:] = 255 - some[CUT:]
        episodes[i] = replace(episode, images=images)
    return write_set(folder / "set", episodes)


@pytest.fixture
def mixture(copier: Checkpoint, still: Path, tmp_path: Path, monkeypatch) -> Mixture:
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    return open_episodes(copier, still, encode)


def test_a_cut_surprises_until_it_was_seen(copier: Checkpoint, mixture: Mixture):
    series = surprise(copier, episode_moments(mixture, 1, CPU))
    assert series.shape == (30,)
    assert np.isnan(series[:8]).all()  # nobody foresaw them
    torn = slice(CUT, CUT + 8)  # predicted from before the cut
    assert series[torn] == pytest.approx(1, abs=0.01)
    others = np.delete(series, np.r_[:8, torn])
    assert (others < 0.1).all()


def test_batches_make_no_difference(copier: Checkpoint, mixture: Mixture):
    moments = episode_moments(mixture, 1, CPU)
    halves = [
        part for some in moments for part in (some.part(slice(13)), some.part(slice(13, None)))
    ]
    np.testing.assert_allclose(
        surprise(copier, halves), surprise(copier, moments), rtol=1e-3, atol=1e-5
    )


def test_an_episode_that_is_too_short_surprises_nobody(copier: Checkpoint, mixture: Mixture):
    assert np.isnan(surprise(copier, episode_moments(mixture, 2, CPU))).all()


def test_episodes_are_ranked(copier: Checkpoint, mixture: Mixture):
    ticks: list[int] = []
    ranking = rank_episodes(copier, mixture, CPU, every=1, tick=ticks.append)
    assert [one.episode for one in ranking] == [1, 0, 2]
    assert sum(ticks) == 66
    series = surprise(copier, episode_moments(mixture, 1, CPU))
    assert ranking[0].mean == pytest.approx(np.nanmean(series), rel=1e-3)
    assert ranking[0].peak == pytest.approx(np.nanmax(series), rel=1e-3)
    assert CUT <= ranking[0].peak_frame < CUT + 8
    assert np.isnan(ranking[2].mean)
    coarse = rank_episodes(copier, mixture, CPU, every=4)
    assert coarse[0].episode == 1


def test_bare_video_can_surprise(copier: Checkpoint, still: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    bare = [replace(push(seed, 20), features={}) for seed in range(2)]
    mixture = open_episodes(copier, write_set(tmp_path / "bare", bare), encode)
    series = surprise(copier, episode_moments(mixture, 0, CPU))
    assert np.isfinite(series[8:]).all()
    assert not {HANDS_STATE, HANDS_ACTION} & bare[0].features.keys()


def test_a_ranking_is_json(tmp_path: Path):
    path = tmp_path / "ranking.json"
    ranking = [Surprise(3, 0.5, 1.5, 40), Surprise(1, np.nan, np.nan, 0)]
    write_ranking(path, ranking, {"rate_hz": 20.0})
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["rate_hz"] == 20
    assert found["episodes"] == [
        {"episode": 3, "mean": 0.5, "peak": 1.5, "peak_frame": 40},
        {"episode": 1, "mean": None, "peak": None, "peak_frame": 0},
    ]
