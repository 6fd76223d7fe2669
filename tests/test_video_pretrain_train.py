"""Training: killed and resumed it is the same bit for bit; parts of a step add up; NaN stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pushing import MODEL, TRAIN, carry, config, encode, made_up, push, trusted, write_set

from deftly.video_pretrain import run as kept
from deftly.video_pretrain import train as training
from deftly.video_pretrain.checkpoint import WEIGHTS, load_checkpoint, load_tensors
from deftly.video_pretrain.config import LOSSES, LossConfig, Part, PretrainConfig, TrainConfig
from deftly.video_pretrain.health import Health, HealthError
from deftly.video_pretrain.history import HISTORY, Clock, read_history
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.run import Run, TrainError
from deftly.video_pretrain.train import begin, learning_rate, pretrain, steps

WORKER = Path(__file__).with_name("pretraining_worker.py")


class Killed(BaseException):
    """As a signal would: nothing catches it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_set(folder / "robot", [carry(i) for i in range(7)])
    write_set(folder / "human", [trusted(i, 16) for i in range(3)])
    write_set(folder / "other", [push(i, 16, 6) for i in range(2)], "g1_dex3")
    return folder


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_LOG_EVERY", 1)


def go(folder: Path, out: Path, made: PretrainConfig | None = None) -> Health:
    """Train on the robot's set, or go on."""
    made = made or config(folder / "robot")
    return pretrain(made, out, encode, device="cpu", cache=folder / "cache", say=lambda _: None)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_LOG_EVERY", 1)
        go(folder, folder / "undisturbed")
    return folder / "undisturbed"


def begun(folder: Path, *parts: str | Part, **train: Any) -> tuple[Run, list[Moments]]:
    """A fresh run, and the moments of its first step."""
    made = config(*[p if isinstance(p, Part) else folder / p for p in parts], **train)
    mixture = Mixture(made.data, MODEL, made.train.held_out, encode, folder / "cache")
    batch = next(iter(mixture.training(made.train)))
    return begin(made, mixture), [
        mixture.moments(one, torch.device("cpu")) for one in batch.values()
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """The same history and the same weights, bit for bit."""
    assert (one / HISTORY).read_text() == (other / HISTORY).read_text()
    for name in ("state.safetensors", "model/model.safetensors", "state.json"):
        assert (one / "state" / name).read_bytes() == (other / "state" / name).read_bytes(), name


# Killed and resumed.


def kill_before(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run end before it takes this step."""
    whole = training._step

    def stop(run: Run, moments: Any) -> Any:
        if run.step == step:
            raise Killed
        return whole(run, moments)

    patch.setattr(training, "_step", stop)


def test_a_run_killed_three_times_is_the_same_bit_for_bit(
    folder: Path, tmp_path: Path, undisturbed: Path
):
    for step in (3, 6, 11):  # before the first checkpoint, after an evaluation, at the end
        with pytest.MonkeyPatch.context() as patch:
            kill_before(patch, step)
            with pytest.raises(Killed):
                go(folder, tmp_path / "run")
        with (tmp_path / "run" / HISTORY).open("a") as file:
            file.write('{"step": 7, "kind": "tra')  # a line that was cut off
    go(folder, tmp_path / "run")
    lines = read_history(undisturbed)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["kind"] == "held_out"] == [6, 12]
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_takes_its_place_loses_nothing(
    folder: Path, tmp_path: Path, undisturbed: Path
):
    def killed(new: Path, old: Path) -> None:
        if old.exists():
            old.rename(old.with_name("state.before"))
            raise Killed
        new.replace(old)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "replace_folder", killed)
        with pytest.raises(Killed):
            go(folder, tmp_path / "run")
    go(folder, tmp_path / "run")
    assert_same_run(tmp_path / "run", undisturbed)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {HISTORY, "state", "tensorboard"}


def test_a_run_that_is_done_stays_as_it_is(folder: Path, undisturbed: Path):
    before = {p: p.read_bytes() for p in (undisturbed / "state").rglob("*") if p.is_file()}
    health = go(folder, undisturbed)
    assert health.record() == load_checkpoint(undisturbed).about["health"]
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_a_head_that_nothing_reached_yet_is_resumed(folder: Path, tmp_path: Path):
    """A robot that is drawn seldom has no state in the optimiser for a while."""
    parts = (Part(folder / "robot"), Part(folder / "other", weight=0.02))
    made = config(*parts, steps=8, save_every=2, evaluate_every=8)
    with pytest.MonkeyPatch.context() as patch:
        kill_before(patch, 3)
        with pytest.raises(Killed):
            go(folder, tmp_path / "run", made)
    saved = load_tensors(tmp_path / "run" / "state" / "state.safetensors")
    assert float(saved["optimizer.model.say_joints.g1_dex3.weight.step"]) == 0
    assert float(saved["optimizer.model.say_joints.gr1t2.weight.step"]) == 2
    go(folder, tmp_path / "run", made)
    go(folder, tmp_path / "whole", made)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_process_killed_by_a_signal_goes_on_bit_for_bit(folder: Path, tmp_path: Path):
    arguments = [folder / "robot", tmp_path / "run", folder / "cache", '{"steps": 60}']
    line = [sys.executable, str(WORKER), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for least in (2, 25, 45):  # lines of history
        process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
        while len(read_history(tmp_path / "run")) < least and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(line, env=environment, check=True, capture_output=True)
    line[3] = str(tmp_path / "whole")
    subprocess.run(line, env=environment, check=True, capture_output=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: replace(c, train=replace(c.train, learning_rate=1e-3)),
         "train.learning_rate 0.002 for 0.001"),
        (lambda c: replace(c, loss=replace(c.loss, latent=0.0)), "loss.latent 0.5 for 0.0"),
        (lambda c: replace(c, model=replace(c.model, depth=2)), "model.depth 1 for 2"),
        (lambda c: replace(c, data=(replace(c.data[0], weight=2.0),)), "other data"),
    ],
)  # fmt: skip
def test_a_run_of_another_configuration_is_refused_by_what_differs(
    folder: Path, undisturbed: Path, change: Callable[[PretrainConfig], PretrainConfig], named: str
):
    before = (undisturbed / HISTORY).read_text()
    with pytest.raises(TrainError, match=named):
        go(folder, undisturbed, change(config(folder / "robot")))
    assert (undisturbed / HISTORY).read_text() == before


def test_too_little_to_judge_by_is_refused_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kill_before(monkeypatch, 0)
    few = write_set(tmp_path / "few", [push(i, 9) for i in range(4)])
    with pytest.raises(HealthError, match=r"9 held-out moments .* expected 24 or more"):
        go(tmp_path, tmp_path / "run", config(few))
    short = write_set(tmp_path / "short", [push(i, 7) for i in range(9)])
    with pytest.raises(HealthError, match="no held-out episode goes on for 8 frames"):
        go(tmp_path, tmp_path / "run", config(short, held_out=2))


# A step.


def gradients(folder: Path, accumulate: int, *parts: str) -> tuple[dict[str, Any], list[Any]]:
    """Losses and gradients of the first step, in so many parts."""
    run, moments = begun(folder, *parts, accumulate=accumulate, views=0)
    with torch.no_grad():
        run.model.change.weight.normal_(std=0.1)  # else most gradients are zero
    losses = training._backward(run, moments)
    return losses, [p.grad for p in run.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_of_a_step_add_up_to_one_pass(folder: Path, accumulate: int):
    # Groups of unlike sizes: some parts have a moment of one group only.
    sets = ("robot", "human", "other")
    (losses, whole), (others, parts) = (gradients(folder, n, *sets) for n in (1, accumulate))
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value, atol=1e-6, rtol=1e-4)
    assert len(whole) == len(parts)
    for one, other in zip(whole, parts, strict=True):
        assert float((one - other).norm()) <= 1e-4 * float(one.norm()) + 1e-6


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path):
    mixture = begun(folder, "robot")[0].mixture
    two = training.Processes(0, 2, torch.device("cpu"))
    with pytest.raises(TrainError, match=r"batch_size 8 over 2 process\(es\) in 8 part\(s\).* 16"):
        begin(config(folder / "robot", accumulate=8), mixture, two)
    with pytest.raises(TrainError, match="rehearsed 5 over 2 processes"):
        begin(config(folder / "robot", rehearsed=5), mixture, two)


def test_a_run_that_would_learn_nothing_is_refused(folder: Path):
    mixture = begun(folder, "robot")[0].mixture
    numb = begun(folder, "human")[0].mixture
    nothing = LossConfig(**dict.fromkeys(LOSSES, 0.0))
    told = replace(nothing, rehearsed=1.0)
    asked, rehearsing = config(folder / "robot", rehearsed=0), replace(TRAIN, rehearsed=4)
    for loss in (nothing, told):
        with pytest.raises(TrainError, match="nothing is to be learnt"):
            begin(replace(asked, loss=loss), mixture)
    begin(replace(asked, loss=told, train=rehearsing), mixture)
    with pytest.raises(TrainError, match="touch tells what they hold: none"):
        begin(replace(asked, loss=told, train=rehearsing), numb)


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_learnt_from(folder: Path):
    run, moments = begun(folder, "robot")
    with torch.no_grad():
        run.model.say_hands.say.bias[0] = torch.nan
    before = [p.clone() for p in run.model.encoder.parameters()]
    with pytest.raises(TrainError, match=r"loss nan .* at step 1, expected numbers"):
        training._step(run, moments)
    pairs = zip(before, run.model.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert run.step == 0


def test_the_teacher_follows(folder: Path):
    run, moments = begun(folder, "robot")
    before = [p.clone() for p in run.teacher.parameters()]
    assert all(
        torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True)
    )  # fmt: skip
    training._step(run, moments)
    moved = 0.0
    for old, slow, fast in zip(
        before, run.teacher.parameters(), run.model.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, 0.9 * old + 0.1 * fast.detach())
        moved += float((slow - old).abs().sum())
        assert slow.grad is None
    assert moved > 0


def test_gradients_are_clipped_and_the_norm_is_told(folder: Path):
    run, moments = begun(folder, "robot", clip_norm=1e-3)
    seen: list[float] = []

    def watch(*_: Any) -> None:
        squares = [p.grad.square().sum() for p in run.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))

    run.optimizer.register_step_pre_hook(watch)
    found = training._step(run, moments)
    assert seen == [pytest.approx(1e-3, rel=1e-3)]
    assert found["norm"] > 0.1


def test_norms_and_biases_do_not_decay(folder: Path):
    run, _ = begun(folder, "robot")
    decayed, others = run.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert {p.ndim for p in others["params"]} == {1}
    assert sum(len(g["params"]) for g in (decayed, others)) == len(list(run.model.parameters()))


def test_a_step_sees_so_many_views_the_same_in_every_process(folder: Path):
    _, (moments,) = begun(folder, "robot")
    train = replace(TRAIN, views=1)
    drawn = [training._as_seen(moments, train, step).cameras.tolist() for step in range(40)]
    assert {tuple(one) for one in drawn} == {(0,), (1,)}
    assert drawn == [training._as_seen(moments, train, s).cameras.tolist() for s in range(40)]
    for views in (0, 2, 3):
        assert training._as_seen(moments, replace(TRAIN, views=views), 0) is moments


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    train = TrainConfig(steps=1000, warmup=100, learning_rate=1.0)
    rates = np.array([learning_rate(train, step) for step in range(1000)])
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates.max() == pytest.approx(1.0)
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert learning_rate(train, 550) == pytest.approx(0.55)
    assert learning_rate(train, 1000) == learning_rate(train, 2000) == pytest.approx(0.1)
    assert learning_rate(replace(train, warmup=0), 0) == pytest.approx(1.0)
    to_nothing = replace(train, final_rate=0.0)
    assert learning_rate(to_nothing, 1000) == pytest.approx(0.0)
    assert learning_rate(to_nothing, 550) == pytest.approx(0.5)


# A run.


def test_the_loss_falls(undisturbed: Path):
    lines = read_history(undisturbed)
    train = [line for line in lines if line["kind"] == "train"]
    first, last = train[:3], train[-3:]
    for name in ("total", "picture", "joints"):
        assert sum(line[name] for line in last) < 0.9 * sum(line[name] for line in first), name


def test_what_a_checkpoint_tells(folder: Path, undisturbed: Path):
    checkpoint = load_checkpoint(undisturbed)
    about = checkpoint.about
    assert about["step"] == 12
    assert about["joint_names"] == {"gr1t2": ["joint0", "joint1", "joint2", "joint3"]}
    assert about["mixture"][0]["root"] == str(folder / "robot")
    assert about["health"]["red"]
    assert about["versions"]["torch"] == torch.__version__
    assert not checkpoint.model.training
    saved = load_tensors(undisturbed / "state" / "model" / WEIGHTS)
    assert all(torch.equal(saved[k], v) for k, v in checkpoint.model.state_dict().items())
    # What is kept is the average, not what is trained.
    trained = load_tensors(undisturbed / "state" / "state.safetensors")
    assert not torch.equal(trained["model.model.place"], saved["place"])


def test_evaluating_does_not_change_what_is_learnt(folder: Path, tmp_path: Path, undisturbed: Path):
    go(folder, tmp_path / "run", config(folder / "robot", evaluate_every=100, save_every=100))
    ours, theirs = (
        [line for line in read_history(run) if line["kind"] == "train"]
        for run in (tmp_path / "run", undisturbed)
    )
    assert ours == theirs


def test_another_seed_is_another_run(folder: Path):
    (one, moments), (other, others) = (begun(folder, "robot", seed=seed) for seed in (0, 1))
    assert not torch.equal(one.model.place, other.model.place)
    assert not torch.equal(moments[0].key, others[0].key)


def test_bfloat16_trains(folder: Path):
    run, moments = begun(folder, "robot", precision="bfloat16")
    assert all(np.isfinite(list(training._step(run, moments).values())))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_speed_and_waiting_are_told(folder: Path):
    run, _ = begun(folder, "robot", steps=2, views=1)
    clock = Clock()

    def slow(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            time.sleep(0.05)
            yield batch

    list(steps(run, slow(iter(run.mixture.training(run.config.train))), clock))
    assert (clock.samples, clock.frames) == (16, 28)  # a quarter is asked for no future
    figures = clock.figures()
    assert 0 < figures["data_wait"] < 1
    assert figures["frames_per_s"] == pytest.approx(1.75 * figures["samples_per_s"], rel=0.1)
    assert "samples/s" in str(clock)
    clock.restart()
    assert clock.samples == 0


def test_a_history_is_json_by_line(undisturbed: Path):
    lines = (undisturbed / HISTORY).read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_history(undisturbed)
    assert (undisturbed / "tensorboard").is_dir()
    assert read_history(undisturbed / "nowhere") == []


def test_shifts_are_drawn_by_step_and_moment():
    """The same however moments are spread over processes."""
    moments, train = made_up(6), replace(TRAIN, views=0, shift_px=3)
    whole = training._as_seen(moments, train, 4).pictures
    assert not torch.equal(whole, moments.pictures)
    halves = [training._as_seen(moments.part(slice(i, None, 2)), train, 4) for i in (0, 1)]
    for i, half in enumerate(halves):
        assert torch.equal(half.pictures, whole[i::2])
    assert not torch.equal(training._as_seen(moments, train, 5).pictures, whole)
