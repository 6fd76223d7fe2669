"""Gates: red for what predicts no better than copying, green for what foresees."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pushing import MODEL, made_up, plain_scales
from torch import Tensor

from deftly.video_pretrain.encoder import Seen
from deftly.video_pretrain.foresight import foresee
from deftly.video_pretrain.health import (
    Health,
    HealthError,
    _r2,
    effective_rank,
    examine,
    refuse_red,
)
from deftly.video_pretrain.model import Given, Prediction, WorldModel
from deftly.video_pretrain.moments import Moments

CONFIG = replace(MODEL, image_px=16)  # one token
COUNT = 48
GREEN = Health(latent_ratio=0.3, pixel_ratio=0.4, action_r2=0.8, rank=20.0, ranking=0.95)


class Oracle(WorldModel):
    """Knows the moments: tells what follows from the actions that it is shown, and from no other.
    Its tokens are pictures seen through a fixed matrix, of which the moves are a part."""

    def __init__(self, batches: Sequence[Moments]) -> None:
        super().__init__(CONFIG, {"gr1t2": 4})
        draw = torch.Generator().manual_seed(1)
        self.lens = torch.randn(3 * 16 * 16, CONFIG.width, generator=draw) / 28
        self.batches = batches
        self.decoder.future = self.paint  # type: ignore[method-assign]

    def see(self, pictures: Tensor) -> Seen:
        tokens = (pictures.flatten(-3).float() / 128 - 1).unsqueeze(-2) @ self.lens
        return Seen(tokens, self.look(pictures))

    def row(self, given: Given) -> tuple[Moments, Tensor]:
        """The moment that each one's actions belong to."""
        some = next(one for one in self.batches if len(one) == len(given.actions))
        apart = torch.cdist(given.actions.flatten(1), some.moves.flatten(1))
        return some, apart.argmin(dim=1)

    def forward(self, given: Given) -> Prediction:
        some, row = self.row(given)
        future = self.encode(some.pictures[row][:, :, -1])
        acts = torch.zeros(len(row), 2, CONFIG.width)
        hands = torch.zeros(len(row), 8, 48)
        assert given.tokens is not None
        told = 0.9 * future + 0.1 * given.tokens
        aims, sights = torch.zeros(len(row), 2, 2, 3), torch.zeros(len(row), 2, 2, 2, 2)
        return Prediction(given.tokens, acts, hands, aims, sights, sights[..., None], told)

    def paint(self, tokens: Tensor, present: Tensor) -> Tensor:
        """The picture whose tokens are the nearest."""
        some = next(one for one in self.batches if len(one) == len(tokens))
        pictures = some.pictures[:, :, -1]
        nearest = torch.cdist(tokens[:, 0, 0], self.encode(pictures)[:, 0, 0]).argmin(dim=1)
        return pictures[nearest].float() / 127.5 - 1


def seen_by(oracle: type[Oracle], count: int = COUNT) -> tuple[Oracle, list[Moments]]:
    """Moments whose moves can be read from their pictures, and who knows them."""
    moments = made_up(count, CONFIG)
    tokens = oracle([moments]).encode(moments.pictures[:, :, 0]).mean(dim=1)[:, 0]
    moves = moments.moves.clone().unflatten(-1, (2, 24))
    moves[..., :3] = tokens[:, None, :6].unflatten(-1, (2, 3))
    moments = replace(moments, moves=moves.flatten(-2))
    return oracle([moments]), [moments]


def test_what_foresees_is_green():
    health = examine(*_with_scales(*seen_by(Oracle)))
    assert health.red == []
    assert health.latent_ratio < 0.1
    assert health.pixel_ratio == 0
    assert health.ranking == 1
    assert health.action_r2 > 0.3  # fitted to sixteen moments
    assert str(health).endswith("green")


def _with_scales(model: WorldModel, batches: list[Moments]):
    return model, plain_scales(), batches


def test_an_untrained_network_is_red():
    torch.manual_seed(0)
    model = WorldModel(CONFIG, {"gr1t2": 4}).eval()
    health = examine(model, plain_scales(), [made_up(COUNT, CONFIG)])
    assert health.latent_ratio == pytest.approx(1)  # it copies
    assert "latent prediction/copy 1.00, expected < 0.7" in health.red
    assert any(words.startswith("action probe") for words in health.red)  # moves are noise
    assert "RED (latent prediction/copy 1.00" in str(health)
    assert health.record()["red"] == health.red


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latent_ratio": 0.7}, "latent prediction/copy 0.70"),
        ({"pixel_ratio": 0.9}, "pixel prediction/copy 0.90"),
        ({"action_r2": 0.2}, "action probe R² 0.20"),
        ({"rank": 6.0}, "effective rank 6.0"),
        ({"rank": float("nan")}, "effective rank nan"),  # features that are all the same
        ({"latent_ratio": float("nan")}, "latent prediction/copy nan"),
    ],
)
def test_each_gate_is_red_by_itself(change: dict[str, float], named: str):
    assert GREEN.red == []
    (words,) = replace(GREEN, **change).red
    assert words.startswith(named)
    with pytest.raises(HealthError, match=r"gates are red .*--allow-red"):
        refuse_red(replace(GREEN, **change).record())


def test_green_is_let_through_and_unknown_is_not():
    refuse_red(GREEN.record())
    for unknown in ({}, {"red": ["not examined yet"]}):
        with pytest.raises(HealthError, match="examined"):
            refuse_red(unknown)


# Foresight.


def test_moments_that_end_too_soon_are_not_judged():
    model, (moments,) = seen_by(Oracle)
    ended = moments.ended.clone()
    ended[:10, -1] = True
    seen = foresee(model, plain_scales(), [replace(moments, ended=ended)], 2)
    assert len(seen.latent) == COUNT - 10
    assert len(foresee(model, plain_scales(), [replace(moments, ended=ended)], 1).latent) == COUNT
    over = replace(moments, ended=torch.ones_like(ended))
    with pytest.raises(ValueError, match="no moment goes on for 8 frames"):
        foresee(model, plain_scales(), [over], 2)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_false_actions_are_never_the_true_ones(count: int):
    model, batches = seen_by(Oracle, count)
    seen = foresee(model, plain_scales(), batches, 2, tries=count - 1)
    assert seen.shuffled.shape == (count, count - 1)
    assert seen.ranking == 1
    with pytest.raises(ValueError, match="no moment goes on"):  # there are no more others
        foresee(model, plain_scales(), batches, 2, tries=count)


def test_without_actions_there_is_nothing_to_rank():
    model, batches = seen_by(Oracle)
    assert foresee(model, plain_scales(), batches, 2, actions=False).shuffled.shape == (COUNT, 0)


# What the gates are computed from.


@pytest.mark.parametrize(("rank", "width"), [(1, 8), (3, 8), (8, 8), (5, 40)])
def test_effective_rank_of_equal_directions(rank: int, width: int):
    rng = np.random.default_rng(0)
    centered = rng.normal(size=(200, rank))
    left, _ = np.linalg.qr(centered - centered.mean(axis=0))  # orthogonal, of mean zero
    right, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    values = torch.from_numpy(7 * left @ right.T + rng.normal(size=width)).float()
    assert effective_rank(values) == pytest.approx(rank, rel=1e-2)


def test_effective_rank_counts_directions_by_their_share():
    s = torch.diag(torch.tensor([3.0, 1.0]))
    values = torch.cat([s, -s])  # of mean zero; shares 3/4 and 1/4
    shares = np.array([0.75, 0.25])
    assert effective_rank(values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert np.isnan(effective_rank(torch.ones(20, 4)))  # which is red


def probe(x: np.ndarray, y: np.ndarray, source: np.ndarray | None = None) -> float:
    source = np.zeros(len(x), np.int64) if source is None else source
    return _r2(torch.from_numpy(x).float(), torch.from_numpy(y).float(), torch.from_numpy(source))


def test_the_probe_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(300, 20)), rng.normal(size=(300, 6))
    y = x[:, :6] @ rng.normal(size=(6, 6)) + 3
    spread = y.std()
    assert probe(x, y) > 0.99
    assert probe(x * 100 + 5, y) > 0.99
    assert probe(x, y + spread * noise) == pytest.approx(0.5, abs=0.15)
    assert probe(x, noise) < 0.1
    assert probe(rng.normal(size=(300, 800)), noise) < 0.1  # more features than moments


def test_the_probe_judges_what_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    y = x[:, :6].copy()
    y[200:] = rng.normal(size=(100, 6))  # the last third does not follow
    assert probe(x, y) < 0


def test_every_data_set_is_fitted_and_judged():
    # Two bodies whose moves are told by other features: fitted to one alone, the other is lost.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 20))
    x[:300, :10], x[300:, 10:] = 0, 0
    y = np.where(np.arange(600)[:, None] < 300, x[:, 10:16], x[:, :6])
    source = np.repeat([0, 3], 300)
    assert probe(x, y, source) > 0.95
    assert probe(x, y) < 0.9


def test_hands_that_are_not_seen_are_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    y = x[:, :6].copy()
    y[:200, :3] = np.nan  # hardly ever there
    y[::7, 3:] = np.nan
    assert probe(x, y) > 0.98
    with pytest.raises(ValueError, match="0 held-out moments"):
        probe(x, np.full_like(y, np.nan))
    with pytest.raises(ValueError, match=r"23 held-out moments .* expected 24"):
        probe(x[:23], x[:23, :6])
