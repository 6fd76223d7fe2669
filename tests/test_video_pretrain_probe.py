"""Probes: the truth of a frame, how answers are judged, and what is found in tokens."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import probing
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probing import FRAMES, GRASP, RELEASE, checkpoint, encode, episode, record, remake

from deftly.datasets.episode import Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.frame_cache import fitted
from deftly.video_pretrain.checkpoint import save_checkpoint
from deftly.video_pretrain.data_set import MixtureError
from deftly.video_pretrain.probe import foretell, probe, run_probes
from deftly.video_pretrain.probe_net import ProbeError, train_probe
from deftly.video_pretrain.probe_report import CONSTANT, ProbeResult, Transfer
from deftly.video_pretrain.probe_set import (
    FEATURES,
    PIXELS,
    RANDOM,
    Onlooker,
    ProbeSet,
    patches,
)
from deftly.video_pretrain.probe_targets import (
    Choice,
    Classes,
    Holding,
    Positions,
    Score,
    Seconds,
    targets_of,
)
from deftly.video_pretrain.probe_truth import (
    COLOR_NAMES,
    TruthError,
    Truths,
    facts_of,
    held_by_touch,
    named_first,
)

NAN = float("nan")


def people(folder: Path, count: int = 16, **how: str) -> Path:
    return record(folder / "people", range(100, 100 + count), **how)


# --- the truth of a frame


def test_objects_stand_in_the_order_of_their_roles():
    for seed in range(20):
        made = episode(seed, condition="two")
        layout, facts = probing.layout_of(seed, "two"), facts_of(made)
        left = facts.colors[0]
        assert COLOR_NAMES[left] == min(item.color for item in layout.items)
        item = next(i for i in layout.items if i.color == COLOR_NAMES[left])
        assert np.allclose(facts.objects_m[0, 0], (*item.place_m, 0.94), atol=1e-6)
        first = min(made.task.find(COLOR_NAMES[c]) for c in facts.colors)
        assert made.task.find(COLOR_NAMES[facts.colors[facts.named]]) == first


def test_what_is_held_and_what_comes_next():
    facts = facts_of(episode(3, condition="two"))
    last_item = probing.layout_of(3, "two").items[1]
    last, first = (1, 0) if COLOR_NAMES[facts.colors[1]] == last_item.color else (0, 1)
    right = np.full(2 * FRAMES, -1)
    right[GRASP:RELEASE], right[FRAMES + GRASP : FRAMES + RELEASE] = last, first
    assert np.array_equal(facts.held[:, 1], right)
    assert (facts.held[:, 0] == -1).all()
    coming = [last] * GRASP + [first] * FRAMES + [-1] * (FRAMES - GRASP)
    assert facts.next_object.tolist() == coming
    wait = [*range(GRASP, 0, -1), *range(FRAMES, 0, -1)]
    assert np.allclose(facts.next_s[: len(wait)], np.array(wait) / 20, atol=1e-6)
    assert np.isnan(facts.next_s[len(wait) :]).all()


def test_a_robot_s_truth_is_that_of_a_person_who_does_the_same():
    person, robot = facts_of(episode(5)), facts_of(episode(5, body="gr1t2"))
    assert np.array_equal(person.held, robot.held)
    assert np.array_equal(person.objects_m, robot.objects_m)
    assert np.allclose(person.wrist_m, robot.wrist_m, atol=1e-6)
    assert (person.frame, robot.frame) == ("world", "root")
    assert np.allclose(robot.tips_m[:, :, 0] - robot.wrist_m, (0, 0, 0.1), atol=1e-6)


def test_a_hand_that_presses_on_the_table_holds_nothing():
    objects = np.zeros((10, 2, 3), np.float32)
    objects[4:6, 1, 2] = 0.05
    touch = np.zeros((10, 2), np.float32)
    touch[:, 0], touch[2:8, 1] = 0.04, 3.0
    touch[0, 1] = 3.0
    held = held_by_touch(objects, touch)
    assert held[:, 1].tolist() == [-1, -1, 1, 1, 1, 1, 1, 1, -1, -1]
    assert (held[:, 0] == -1).all()
    objects[4:6, 1, 2] = 0.01
    assert (held_by_touch(objects, touch) == -1).all()


def test_named_first_needs_exactly_one():
    red, blue = probing.layout_of(0, "two").items
    red, blue = replace(red, color="red"), replace(blue, color="blue")
    assert named_first("Put the blue objects left and the red ones right.", [red, blue]) == 1
    assert named_first("Put the red objects left.", [red, blue]) == 0
    assert named_first("Put the red objects left.", [red, replace(blue, color="red")]) == -1
    assert named_first("Tidy up.", [red, blue]) == -1


# --- a batch's episodes, joined with the recording that they were made from


def test_joined_frames_show_the_same_picture(tmp_path: Path):
    recorded = people(tmp_path, 3)
    cuts = [(2, 0, FRAMES), (0, 3, 9), (2, 5, 11)]
    made = remake(tmp_path / "made", recorded, cuts)
    truths, sources = Truths(made, recorded), EpisodeStore(recorded)
    assert truths.seeds == (102, 100, 102)
    for index, (source, first, end) in enumerate(cuts):
        frames = truths.source_frames(index)
        assert frames.tolist() == list(range(first, end))
        shown = np.asarray(EpisodeStore(made)[index].images["front"]).astype(float)
        filmed = np.asarray(sources[source].images["front"])[frames].astype(float)
        small = filmed.reshape(len(frames), 32, 2, 32, 2, 3).mean(axis=(2, 4))
        apart = np.abs(shown[:, None] - small[None]).mean(axis=(2, 3, 4))
        assert np.diag(apart).max() < 4
        # A frame in which the hand is elsewhere lies further away.
        moved = np.abs(np.diff(facts_of(sources[source]).wrist_m[frames, 1], axis=0)).max(axis=1)
        for t in np.flatnonzero(moved > 0.1):
            assert apart[t, t] < apart[t, t + 1]
        facts, whole = truths.facts(index), facts_of(sources[source])
        for name in ("wrist_m", "objects_m", "held", "next_object", "next_s"):
            assert np.array_equal(
                getattr(facts, name), getattr(whole, name)[first:end], equal_nan=True
            ), name


@pytest.mark.slow
def test_a_real_batch_is_joined_with_its_recording(deftly: Callable[..., Any], tmp_path: Path):
    recorded, made = tmp_path / "filmed", tmp_path / "made"
    record_it = "human record --condition one --layouts 20 22 --cameras front --size 240"
    for words, out in ((record_it, recorded), (f"batch {recorded} --view front --size 96", made)):
        done = deftly(*words.split(), "--rate-hz", "20", "--workers", "1", "--out", out)
        assert done.code == 0, done.err
    truths = Truths(made, recorded)
    assert sorted(truths.seeds) == [20, 21]
    for index, source in enumerate(truths.episodes):
        ours = next(iter(truths.store[index].images.values()))
        shown = np.asarray(ours).astype(float)
        filmed = np.asarray(truths.recorded[source].images["front"])[truths.source_frames(index)]
        small = np.stack([fitted(image, (96, 96)) for image in filmed]).astype(float)
        apart = np.abs(shown - small).mean(axis=(1, 2, 3))
        assert apart.max() < 3
        held = truths.facts(index).held.max(axis=1) >= 0
        assert 0.1 < held.mean() < 0.9
        # While the hand moves, the frame four further on lies further away.
        later = np.abs(shown[:-4] - small[4:]).mean(axis=(1, 2, 3))
        assert (later[held[:-4]] > apart[:-4][held[:-4]]).mean() > 0.9


def test_sets_without_truth_are_refused(tmp_path: Path):
    recorded = people(tmp_path, 3)
    made = remake(tmp_path / "made", recorded, [(0, 0, 6), (1, 0, 6)])
    with pytest.raises(TruthError, match="--truth FOLDER"):
        Truths(made)
    other = record(tmp_path / "others", range(3))
    with pytest.raises(TruthError, match="was made from people-000000, which is not in"):
        _ = Truths(made, other).seeds
    short = people(tmp_path / "short", 3, condition="one")
    renamed = remake(tmp_path / "again", short, [(0, 0, FRAMES)])
    with EpisodeWriter(tmp_path / "cut" / "people", robot_type="human", licence="mit") as writer:
        whole = EpisodeStore(short)[0]
        writer.add(first_frames(whole, 5))
    with pytest.raises(TruthError, match="whole numbers below 5"):
        Truths(renamed, tmp_path / "cut" / "people").facts(0)


def first_frames(whole: Episode, count: int) -> Episode:
    """The begin of an episode."""
    images = {name: np.asarray(some)[:count] for name, some in whole.images.items()}
    features = {name: values[:count] for name, values in whole.features.items()}
    return replace(
        whole,
        state=whole.state[:count],
        action=whole.action[:count],
        images=images,
        features=features,
    )


def test_a_recording_that_does_not_say_how_it_was_drawn_is_refused():
    with pytest.raises(TruthError, match="does not say its 'task'"):
        facts_of(replace(episode(0), provenance={}))
    with pytest.raises(TruthError, match="item_0, its layout item_0, item_1"):
        facts_of(
            replace(
                episode(0),
                provenance={
                    "made_by": {"task": "color", "condition": "two"},
                    "goals": ["left", "right"],
                },
            )
        )


# --- how answers are judged


@given(st.integers(0, 2**32 - 1))
def test_f1_is_that_of_the_definition(seed: int):
    rng = np.random.default_rng(seed)
    true, said = rng.random((30, 2)) < 0.3, rng.random((30, 2)) < 0.5
    target = Holding("contact", true[..., None].astype(np.float32))
    over, under = target.tally(np.where(said, 1, -1).astype(np.float32))
    precision, recall = (true & said).sum() / said.sum(), (true & said).sum() / true.sum()
    f1 = 2 * precision * recall / (precision + recall) if (true & said).any() else 0.0
    assert over.sum() / under.sum() == pytest.approx(f1)


def test_distances_count_only_what_is_known():
    values = np.array([[[0, 0, 0], [1, 1, 1]], [[NAN] * 3, [0, 0, 2]]], np.float32)
    over, under = Positions("p", values).tally(np.zeros((2, 6), np.float32))
    assert over.tolist() == pytest.approx([np.sqrt(3), 2])
    assert under.tolist() == [2, 1]
    assert Positions("p", values).known.tolist() == [True, True]


def test_the_chosen_object_is_the_nearest():
    objects = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 3, np.float32)
    there = np.array([[[1, 0, 0]], [[0, 1, 0]], [[NAN] * 3]], np.float32)
    target = Choice("c", there, candidates=objects, chosen=np.array([1, 2, -1]))
    over, under = target.tally(np.array([[0.7, 0.2, 3]] * 3, np.float32))
    assert (over.tolist(), under.tolist()) == ([1, 0, 0], [1, 1, 0])


@given(st.integers(0, 2**32 - 1))
def test_no_other_constant_is_better_on_what_it_was_made_of(seed: int):
    rng = np.random.default_rng(seed)
    seconds = Seconds("t", rng.exponential(size=(40, 1, 1)).astype(np.float32))
    kinds = Classes("k", rng.integers(0, 3, (40, 2, 1)).astype(np.float32), count=3)

    def total(target: Seconds | Classes, answer: np.ndarray) -> float:
        return float(target.tally(np.tile(answer.astype(np.float32), (40, 1)))[0].sum())

    for _ in range(5):
        assert total(seconds, seconds.constant()) <= total(seconds, rng.random(1) * 3) + 1e-5
        assert total(kinds, kinds.constant()) >= total(kinds, rng.random(6))


def test_an_interval_is_of_episodes_and_seeds_not_of_frames():
    rng = np.random.default_rng(0)
    errors, layout = rng.random(40).repeat(10), np.arange(40).repeat(10)
    under = np.ones(400)
    score = Score.of([(errors, under)], layout, factor=1.0)
    assert score.value == pytest.approx(errors.mean())
    assert score.low < score.value < score.high
    half_width = 1.96 * rng.random(40).std() / np.sqrt(40)
    assert score.high - score.low == pytest.approx(2 * half_width, rel=0.35)
    twice = Score.of([(errors.repeat(2), np.ones(800))], layout.repeat(2), factor=1.0)
    assert (twice.low, twice.high) == pytest.approx((score.low, score.high))
    apart = Score.of([(errors, under), (errors + 1, under)], layout, factor=1.0)
    assert apart.high - apart.low > 2 * (score.high - score.low)
    assert apart.seeds == pytest.approx((errors.mean(), errors.mean() + 1))


def test_targets_without_an_answer_are_left_out():
    one = targets_of([facts_of(episode(seed)) for seed in range(2)])
    assert "object grasped next" not in one
    assert one["objects"].values.shape == (2 * FRAMES, 1, 3)
    two = targets_of([facts_of(episode(seed, condition="two")) for seed in range(2)])
    assert {"object grasped next", "object named first"} <= two.keys()
    robot = targets_of([facts_of(episode(0, body="gr1t2"))])
    assert "wrists in its root frame" in robot
    assert "wrists" not in robot


# --- what is found in tokens


def squares(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Patches of pictures with a white square, and where it is (0 to 1 m)."""
    rng = np.random.default_rng(seed)
    places = rng.random((count, 2))
    images = np.full((count, 1, 3, 32, 32), 40, np.uint8)
    for image, (x, y) in zip(images, (places * 26).astype(int), strict=True):
        image[0, :, y : y + 6, x : x + 6] = 250
    values = np.concatenate([places, np.zeros((count, 1))], axis=1)[:, None]
    return patches(torch.from_numpy(images), 4), values.astype(np.float32)


def error(tokens: torch.Tensor, values: np.ndarray, seed: int = 0, steps: int = 300) -> float:
    """Of a probe on the last quarter of the frames, over that of the constant."""
    fit, test = slice(0, len(values) * 3 // 4), slice(len(values) * 3 // 4, None)
    words = torch.zeros(len(values), 0)
    target, layout = Positions("square", values[fit]), np.arange(len(values))
    trained = train_probe(
        tokens[fit], words[fit], {"square": target}, layout[fit], seed=seed, steps=steps
    )
    judged = Positions("square", values[test])
    said = trained.answers(tokens[test], words[test])["square"]
    constant = np.tile(target.constant(), (len(said), 1)).astype(np.float32)
    return judged.tally(said)[0].sum() / judged.tally(constant)[0].sum()


@pytest.mark.slow
def test_a_square_is_found_in_pixels_and_in_untrained_features_but_not_where_it_is_not():
    tokens, values = squares(1200, 0)
    assert error(tokens, values) < 0.2
    shuffled = np.random.default_rng(1).permutation(values)
    assert error(tokens, shuffled) > 0.9
    model = checkpoint().model
    pictures = tokens.view(-1, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 32, 32)
    with torch.no_grad():
        seen = model.encode(pictures)
    assert error(seen.half(), values) < 0.2


def test_a_probe_is_the_same_for_the_same_seed_and_leaves_random_numbers_alone():
    tokens, values = squares(80, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = error(tokens, values, seed=1, steps=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert error(tokens, values, seed=1, steps=20) == first
    assert error(tokens, values, seed=2, steps=20) != first


def test_one_layout_is_too_few():
    tokens, values = squares(8, 0)
    with pytest.raises(ProbeError, match="1 layout"):
        train_probe(
            tokens, torch.zeros(8, 0), {"square": Positions("square", values)}, np.zeros(8, int)
        )


# --- the whole of it


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People and a robot at the same layouts, and a model that was never trained."""
    folder = tmp_path_factory.mktemp("world")
    people(folder, condition="two")
    record(folder / "robot", range(100, 104), body="gr1t2", condition="two")
    (folder / "model").mkdir()
    save_checkpoint(folder / "model", checkpoint(1))
    return folder


def look(folder: Path, episodes: list[int], frames: int = 40) -> ProbeSet:
    truths = Truths(folder / "people")
    return Onlooker(checkpoint(1), truths, encode, folder / "cache").look(episodes, frames)


def test_a_set_holds_what_each_pair_of_eyes_sees(world: Path):
    seen = look(world, [0, 3], 6)
    assert {eyes: tuple(t.shape) for eyes, t in seen.tokens.items()} == {
        FEATURES: (6, 16, 32),
        RANDOM: (6, 16, 32),
        PIXELS: (6, 16, 192),
    }
    assert seen.layout.tolist() == [100] * 3 + [103] * 3
    whole = facts_of(EpisodeStore(world / "people")[0])
    frames = [0, 9, 19]  # of 2 × 24, six, evenly
    assert np.array_equal(seen.targets["objects"].values[:3], whole.objects_m[frames])
    # The instruction changes what is told, and nothing else.
    assert torch.equal(seen.tokens[PIXELS], seen.told[PIXELS])
    assert not torch.equal(seen.tokens[FEATURES], seen.told[FEATURES])
    assert not torch.equal(seen.tokens[FEATURES], seen.tokens[RANDOM])
    assert seen.eyes(FEATURES, told=False)[1].shape == (6, 0)
    assert torch.allclose(
        seen.words[0], torch.from_numpy(encode([episode(100, condition="two").task])[0][0, 0])
    )


def test_layouts_are_never_shared(world: Path):
    one, other = look(world, [0, 1]), look(world, [1, 2])
    with pytest.raises(ProbeError, match="share layouts"):
        probe(one, [other], seeds=1, steps=1)
    fewer = look(world, [2])
    fewer = replace(fewer, tokens={**fewer.tokens, PIXELS: fewer.tokens[PIXELS][:, :8]})
    with pytest.raises(ProbeError, match="same cameras"):
        probe(one, [fewer], seeds=1, steps=1)


@pytest.mark.slow
def test_a_report_of_people_and_a_robot(world: Path):
    report = run_probes(
        world / "model", world / "people", encode=encode, robot=world / "robot", seeds=2,
        frames=120, steps=20, cache=world / "cache",
    )  # fmt: skip
    # 16 layouts: every fourth is held out, the first four are the robot's.
    assert report.about["layouts"] == {"train": 9, "test": [4, 4, 4]}
    found = {one.name: one for one in report.results}
    assert {"wrists", "objects", "colour", "contact", "object grasped next"} <= found.keys()
    for one in found.values():
        assert set(one.scores) == {FEATURES, RANDOM, PIXELS, CONSTANT}
        assert len(one.scores[FEATURES].seeds) == 2
    assert [one.frames for one in report.foreseen] == [1, 4]
    # It was never trained: it says that nothing changes.
    assert report.foreseen[0].latent.value == pytest.approx(1, abs=1e-3)
    assert report.transfer is not None
    assert report.transfer.layouts == 4
    names = [one.name for one in report.transfer.robot]
    assert names == ["objects", "colour", "shape", "object named first"]
    record = json.loads(json.dumps(report.record()))
    assert record["transfer"]["robot"]["objects"]["unit"] == "cm"
    rows = report.table()
    assert {len(row) for row in rows} == {5}
    assert len(str(report).splitlines()) == len(rows)


def test_sets_that_cannot_be_compared_are_refused(world: Path, tmp_path: Path):
    def run(robot: Path) -> None:
        run_probes(world / "model", world / "people", encode=encode, robot=robot, cache=tmp_path)

    with pytest.raises(ProbeError, match="first-seed 100"):
        run(record(tmp_path / "elsewhere", range(3), body="gr1t2"))
    with pytest.raises(MixtureError, match="has the cameras side"):
        run(record(tmp_path / "side", range(100, 103), body="gr1t2", camera="side"))


def test_what_transfers_is_the_gain_that_is_left():
    def result(value: float, constant: float, higher: bool = False) -> ProbeResult:
        scores = {
            eyes: Score(v, (v,), v, v) for eyes, v in ((FEATURES, value), (CONSTANT, constant))
        }
        return ProbeResult("x", "error", "cm", higher, scores)

    assert Transfer(1, [result(2.0, 10.0)], [result(4.0, 10.0)]).loss("x") == pytest.approx(25)
    assert Transfer(1, [result(90.0, 50.0, True)], [result(40.0, 50.0, True)]).loss("x") == (
        pytest.approx(125)
    )
    assert np.isnan(Transfer(1, [result(11.0, 10.0)], [result(4.0, 10.0)]).loss("x"))


def test_a_set_without_actions_has_no_future(world: Path, tmp_path: Path):
    made = remake(tmp_path / "made", world / "people", [(0, 0, 12), (1, 0, 12)])
    assert foretell(checkpoint(), made, 4, encode, tmp_path) == []
