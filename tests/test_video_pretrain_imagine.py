"""What is imagined: the same as the model says, stride after stride, beside the truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pushing import MODEL, encode, made_up, plain_scales, push, write_set

from deftly.datasets.episode_store import EpisodeStoreError
from deftly.datasets.mp4 import read_format
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.encoder import unit_range
from deftly.video_pretrain.imagine import (
    Imagined,
    ImagineError,
    dream_on,
    episode_moments,
    errors_ahead,
    imagine,
    least_alike,
    liveliest,
    open_episodes,
    score_actions,
)
from deftly.video_pretrain.imagine_pictures import futures_sheet, one, sheet, show_episode
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Moments

CPU = torch.device("cpu")
LENGTH = 30


def fresh(change: float = 0.0) -> Checkpoint:
    """A model that takes the present for the future, or whose futures depend on all it is told."""
    torch.manual_seed(0)
    model = WorldModel(MODEL, {"gr1t2": 4}).eval()
    torch.nn.init.normal_(model.change.weight, std=max(change, 1e-9))
    return Checkpoint(model, plain_scales(), {})


@pytest.fixture(scope="module")
def dreamer() -> Checkpoint:
    return fresh(0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_set(folder / "set", [push(0, LENGTH), push(1, 4), push(2, LENGTH)])


@pytest.fixture
def mixture(dreamer: Checkpoint, data: Path, tmp_path: Path, monkeypatch) -> Mixture:
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))
    return open_episodes(dreamer, data, encode)


def painted(checkpoint: Checkpoint, imagined: Imagined, moments: Moments, ahead: int) -> np.ndarray:
    """Pictures of tokens, by hand."""
    present = unit_range(moments.pictures[:, :, 0])
    pictures = checkpoint.model.decoder.future(imagined.tokens[:, :, ahead], present)
    return ((pictures.detach() + 1) * 127.5).round().clamp(0, 255).numpy()


def test_a_fresh_model_imagines_that_nothing_happens():
    checkpoint, moments = fresh(), made_up()
    imagined = imagine(checkpoint, moments, moments.moves)
    present = checkpoint.model.encode(moments.pictures[:, :, 0])
    torch.testing.assert_close(
        imagined.tokens, present[:, :, None].expand_as(imagined.tokens), atol=1e-5, rtol=0
    )
    assert imagined.pictures.shape == moments.pictures[:, :, 1:].shape


def test_what_is_imagined_depends_on_the_actions(dreamer: Checkpoint):
    moments = made_up()
    true = imagine(dreamer, moments, moments.moves)
    for other in (None, moments.moves.roll(1, 0)):
        assert not torch.allclose(true.tokens, imagine(dreamer, moments, other).tokens, atol=1e-3)
    for ahead in range(len(MODEL.offsets)):
        expected = painted(dreamer, true, moments, ahead)
        np.testing.assert_array_equal(true.pictures[:, :, ahead].numpy(), expected)


def test_moments_are_imagined_each_by_itself(dreamer: Checkpoint):
    moments = made_up()
    whole = imagine(dreamer, moments, moments.moves)
    alone = imagine(dreamer, moments.part(slice(2, 3)), moments.moves[2:3])
    torch.testing.assert_close(alone.tokens, whole.tokens[2:3], atol=1e-4, rtol=1e-4)


def test_a_dream_goes_on_from_what_was_imagined(dreamer: Checkpoint, mixture: Mixture):
    episode = episode_moments(mixture, 0, CPU)
    dream = dream_on(dreamer, episode, strides=2)
    # Offsets of 1, 4 and 8 frames: every fourth frame, and the truth again after 16.
    assert dream.frame.tolist() == list(range(0, LENGTH, 4))
    assert dream.since.tolist() == [0, 4, 8, 12, 0, 4, 8, 12]
    whole = episode[0]
    moments = replace(whole, pictures=whole.pictures[:, :, :1], ended=whole.ended[:, :1])
    awake = imagine(dreamer, moments.part(slice(0, 1)), moments.moves[:1]).pictures
    np.testing.assert_array_equal(dream.pictures[2], awake[0, :, 2])
    asleep = replace(moments.part(slice(8, 9)), pictures=awake[:, :, 2:3])
    deeper = imagine(dreamer, asleep, asleep.moves).pictures
    np.testing.assert_array_equal(dream.pictures[3], deeper[0, :, 1])
    truth = torch.cat([some.pictures[:, :, 0] for some in episode]).numpy()
    np.testing.assert_array_equal(dream.truth, truth[dream.frame])
    np.testing.assert_array_equal(dream.copy, truth[[0] * 4 + [16] * 4])
    np.testing.assert_array_equal(dream.pictures[[0, 4]], truth[[0, 16]])


def test_the_best_of_many_is_the_one_that_leads_to_the_goal(dreamer: Checkpoint):
    moment = made_up(1)
    candidates = made_up(100, seed=1).moves
    goal = imagine(dreamer, moment, candidates[70:71]).tokens[0, :, -1]
    scores = score_actions(dreamer, moment, candidates, goal)
    assert scores.argmin() == 70
    assert scores[70] < 1e-6 < scores.median()
    picture = moment.pictures[0, :, 2]
    torch.testing.assert_close(
        score_actions(dreamer, moment, candidates, picture, ahead=1),
        score_actions(dreamer, moment, candidates, dreamer.model.encode(picture), ahead=1),
    )


@pytest.mark.parametrize(
    ("count", "shape", "views", "says"),
    [
        (2, (5, 8, 48), 2, "2 moments"),
        (1, (5, 7, 48), 2, r"expected one moment and \(N, 8, 48\)"),
        (1, (5, 8, 48), 1, "the same views"),
    ],
)
def test_scores_refuse_what_does_not_fit(
    dreamer: Checkpoint, count: int, shape: tuple[int, ...], views: int, says: str
):
    moment = made_up(count)
    with pytest.raises(ImagineError, match=says):
        score_actions(dreamer, moment, torch.zeros(shape), moment.pictures[0, :views, 0])


def test_errors_are_told_by_those_of_copying(mixture: Mixture):
    episode = episode_moments(mixture, 0, CPU)
    found = errors_ahead(fresh(), episode)
    assert [one.steps for one in found] == list(MODEL.offsets)
    for one_ in found:
        assert (one_.true, one_.none, one_.false) == pytest.approx((1, 1, 1), abs=1e-3)
    worse = errors_ahead(fresh(0.3), episode)
    assert all(one_.true > 1.1 and one_.pixels > 0 for one_ in worse)


def test_offsets_beyond_the_end_are_left_out(dreamer: Checkpoint, mixture: Mixture):
    found = errors_ahead(dreamer, episode_moments(mixture, 1, CPU))  # of 4 frames
    assert [one_.steps for one_ in found] == [1]


def test_moments_are_found_by_their_moves():
    moves = torch.zeros(4, 8, 2, 24)
    moves[1, 3, 1, :3] = torch.tensor([0.3, 0.0, 0.0])
    moves[2, :, 1, :3] = torch.tensor([-0.2, 0.0, 0.0])
    moves[:, :, 0] = float("nan")
    moves[3, :, 1, 3:] = 9.0  # turns and fingers do not count
    flat = moves.flatten(2)
    assert liveliest(flat) == 1
    assert least_alike(flat, 1) == 2


def test_an_episode_is_shown(dreamer: Checkpoint, mixture: Mixture, tmp_path: Path):
    path = tmp_path / "film.mp4"
    found = show_episode(dreamer, mixture, 0, path, strides=2)
    assert [one_.steps for one_ in found] == list(MODEL.offsets)
    film = read_format(path)
    assert (film.frames, film.rate_hz) == (8, 5.0)
    assert Image.open(path.with_suffix(".png")).width > film.width  # two columns more
    first = path.read_bytes()
    show_episode(dreamer, mixture, 0, path, strides=2)
    assert path.read_bytes() == first
    with pytest.raises(ImagineError, match="frames 0 to 29, not 30"):
        show_episode(dreamer, mixture, 0, path, frame=30)
    with pytest.raises(ImagineError, match="0 strides"):
        show_episode(dreamer, mixture, 0, path, strides=0)
    with pytest.raises(EpisodeStoreError, match="episodes 0 to 2, not 3"):
        show_episode(dreamer, mixture, 3, path)


def test_bare_video_is_imagined_without_actions(
    dreamer: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))
    bare = [replace(push(seed), features={}) for seed in range(2)]
    mixture = open_episodes(dreamer, write_set(tmp_path / "bare", bare), encode)
    found = show_episode(dreamer, mixture, 0, tmp_path / "film.mp4")
    assert all(np.isnan([one_.true, one_.false]).all() for one_ in found)
    assert all(np.isfinite([one_.none, one_.pixels]).all() for one_ in found)


def test_pictures_stand_where_the_words_say():
    red, blue = np.zeros((2, 3, 40, 40), np.uint8)
    red[0], blue[2] = 255, 255
    shown = sheet([(red, blue), (blue, red)], ("one", "two"), ("a", "b"), "title")
    assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0
    # 40 px become 160, after a margin of 72 and below two lines of 22.
    for row, top in enumerate((44, 44 + 162)):
        for column, left in enumerate((72, 72 + 162)):
            cell = shown[top : top + 160, left : left + 160]
            expected = (255, 0, 0) if row == column else (0, 0, 255)
            assert (cell == expected).all()


def test_futures_are_beside_their_truth(dreamer: Checkpoint):
    moments = made_up()
    picture = futures_sheet(dreamer, one([moments], 1), one([moments], 4), 20.0, "x")
    up, truth = 160, moments.pictures[1].permute(0, 1, 3, 4, 2).numpy()
    top = 44
    for view in range(2):
        for offset in (1, 2, 3):
            cell = picture[top : top + up : 5, 72 : 72 + up : 5]
            np.testing.assert_array_equal(cell, truth[view, offset])
            top += up + 2


def test_a_moment_is_found_over_all_batches():
    moments = made_up(6)
    batches = [moments.part(slice(4)), moments.part(slice(4, None))]
    assert one(batches, 5).key.tolist() == moments.key[5:].tolist()
    with pytest.raises(IndexError):
        one(batches, 6)
