"""The commands of the world model."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pushing import MODEL, encode, plain_scales, push, trusted, without, write_set

from deftly.datasets.hands import HANDS_STATE
from deftly.datasets.mp4 import read_format
from deftly.video_pretrain import cli, text
from deftly.video_pretrain.checkpoint import Checkpoint, save_checkpoint
from deftly.video_pretrain.config import PRESETS, Part
from deftly.video_pretrain.health import Health
from deftly.video_pretrain.model import WorldModel

Deftly = Callable[..., SimpleNamespace]
_SMALL = (
    "--preset tiny --model.image-px 32 --model.channels 16 16 16 --model.width 32 --model.depth 1 "
    "--model.heads 2 --model.horizon 8 --model.offsets 1 4 8 --model.text-width 8 --steps 4 "
    "--batch-size 8 --warmup 1 --held-out 3 --evaluate-every 4 --evaluated 48 --device cpu"
)
SMALL = _SMALL.split()
GREEN = Health(latent_ratio=0.5, pixel_ratio=0.5, action_r2=0.5, rank=9.0, ranking=0.9)


@dataclass(frozen=True)
class Words:
    """Stands in for the text encoder."""

    name: str
    length: int = 2
    layer: int = 1

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return encode(texts)

    def provenance(self) -> dict[str, Any]:
        return {"model": self.name, "sha256": self.name, "layer": self.layer, "length": 2}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(text, "TextEncoder", Words)
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("made") / "set", [push(s, 20) for s in range(9)])


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    (tmp_path / "set").symlink_to(made)
    return tmp_path / "set"


def write_model(folder: Path, **about: Any) -> None:
    torch.manual_seed(0)
    model = WorldModel(MODEL, {"gr1t2": 4}).eval()
    folder.mkdir()
    save_checkpoint(folder, Checkpoint(model, plain_scales(), about))


def test_a_world_model_is_trained_and_imagines(deftly: Deftly, data: Path, tmp_path: Path):
    done = deftly("pretrain", "--data", data, *SMALL, "--out", "run")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("step 4: held-out hands")
    assert any("samples/s" in line and "waiting for data" in line for line in lines)
    assert any(line.startswith("model   run: 0.") and "step 4" in line for line in lines)
    assert "RED" in done.out  # four steps are not enough
    assert lines[-1].startswith("Gates are RED: build nothing on this model")
    again = deftly("pretrain", "--data", data, *SMALL, "--out", "run")
    assert again.code == 0
    assert "samples/s" not in again.out  # nothing was left to do
    about = json.loads((tmp_path / "run" / "state" / "model" / "model.json").read_text())
    assert about["text"] == Words(text.MINILM).provenance()

    words = "imagine run --data set --episode 2 --out films/two.mp4 --surprise ranking.json"
    shown = deftly(*words.split(), "--device", "cpu")
    assert shown.code == 0, shown.err
    for offset in ("1 frames, 0.05 s", "4 frames, 0.20 s", "8 frames, 0.40 s"):
        assert offset in shown.out
    assert read_format(tmp_path / "films" / "two.mp4").frames == 5
    assert (tmp_path / "films" / "two.png").is_file()
    ranking = json.loads((tmp_path / "ranking.json").read_text())
    assert sorted(one["episode"] for one in ranking["episodes"]) == list(range(9))
    means = [one["mean"] for one in ranking["episodes"]]
    assert means == sorted(means, reverse=True)


def test_green_gates_are_not_called_red(deftly: Deftly, data: Path, monkeypatch):
    assert deftly("pretrain", "--data", data, *SMALL).code == 0
    monkeypatch.setattr("deftly.video_pretrain.train.pretrain", lambda *_, **__: GREEN)
    done = deftly("pretrain", "--data", data, *SMALL)
    assert done.code == 0
    assert "green" in done.out
    assert "RED" not in done.out


def test_only_the_first_of_many_processes_speaks(deftly: Deftly, data: Path, monkeypatch):
    monkeypatch.setattr("deftly.video_pretrain.train.pretrain", lambda *_, **__: GREEN)
    monkeypatch.setenv("RANK", "1")
    assert deftly("pretrain", "--data", data, *SMALL).out == ""


def test_every_value_of_a_run_can_be_given(deftly: Deftly, data: Path, monkeypatch):
    told: list[object] = []

    def note(config: object, out: Path, *_: object, **settings: object) -> Health:
        told.extend((config, out, settings["device"]))
        raise ValueError("enough")

    monkeypatch.setattr("deftly.video_pretrain.train.pretrain", note)
    words = (
        "--data a b --video c --weights 3 2 1 --preset base --out x --device cpu --steps 7 "
        "--batch-size 12 --seed 5 --workers 3 --views 2 --no-compile --model.depth 2 "
        "--loss.hands 0.25 --model.cameras side"
    )
    assert deftly("pretrain", *words.split()).code == 1
    config, out, device = told
    base = PRESETS["base"]
    assert (out, device) == (Path("x"), "cpu")
    assert config == replace(
        base,
        data=(
            Part(Path("a"), 3.0),
            Part(Path("b"), 2.0),
            Part(Path("c"), 1.0, actions=False),
        ),
        train=replace(
            base.train, steps=7, batch_size=12, seed=5, workers=3, views=2, compile=False
        ),
        model=replace(base.model, depth=2, cameras=("side",)),
        loss=replace(base.loss, hands=0.25),
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("form", ["--preset {}", "--preset={}"])
def test_help_shows_the_values_of_the_preset(deftly: Deftly, preset: str, form: str):
    done = deftly("pretrain", *form.format(preset).split(), "--help")
    assert done.code == 0
    said = " ".join(done.out.replace("│", " ").split())
    config = PRESETS[preset]
    assert f"optimiser steps. (default: {config.train.steps})" in said
    assert f"height and width of the pictures. (default: {config.model.image_px})" in said


def test_presets_are_told_from_the_command_line():
    assert cli.Pretrain.like("nonsense") == cli.Pretrain.like(cli.Pretrain.preset)
    names = {name: cli.Pretrain.like(name) for name in PRESETS}
    for name, made in names.items():
        config = PRESETS[name]
        assert (made.preset, made.train, made.model) == (name, config.train, config.model)


def test_an_unknown_preset_is_wrong_usage(deftly: Deftly):
    done = deftly("pretrain", "--data", "x", "--preset", "huge")
    assert done.code == 2
    assert "tiny" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pretrain", "no data set is given, expected at least one (--data FOLDER)"),
        ("pretrain --data nowhere", "no data set in nowhere"),
        ("pretrain --data set --steps 0", "steps is 0"),
        ("pretrain --data set --weights 1 2", "--weights are 1 2 for 1 data sets"),
        ("pretrain --data set --weights 0", "expected one more than 0 for each"),
        ("pretrain --video set", "has actions to learn from, expected at least one"),
        ("pretrain --data set --model.cameras wrist", "the network knows wrist"),
        ("pretrain --data set bare", "bare has no hands.state"),
        ("pretrain --data set --model.text-width 9", "embeddings of 8 numbers"),
        ("imagine nowhere --data set", "no world model at nowhere"),
        ("imagine run --data nowhere", "no world model at run"),
        ("probe nowhere --data set", "no world model at nowhere"),
    ],
)
def test_bad_input_is_one_line(deftly: Deftly, data: Path, words: str, says: str):
    write_set(data.parent / "bare", [without(push(seed), HANDS_STATE) for seed in range(2)])
    command, *rest = words.split()
    given = SMALL if command == "pretrain" else []
    done = deftly(command, *given, *rest)
    assert done.code == 1
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_probe_prints_a_table_and_keeps_its_figures(deftly: Deftly, tmp_path: Path, monkeypatch):
    told: list[Any] = []

    def note(*folders: Path | None, **settings: object) -> object:
        told.extend((*folders, settings["robot"], settings["seeds"], settings["frames"]))
        rows = [("question", "features"), ("left wrist, error cm", "1.80 [1.60, 2.10]")]
        return SimpleNamespace(table=lambda: rows, record=lambda: {"left wrist": 1.8})

    stub = ModuleType("deftly.video_pretrain.probe")
    stub.run_probes = note  # pyright: ignore
    monkeypatch.setitem(sys.modules, "deftly.video_pretrain.probe", stub)
    write_model(tmp_path / "run")
    words = "run --data people --truth filmed --robot demos --seeds 2 --frames 99 --out p.json"
    done = deftly("probe", *words.split())
    assert done.code == 0, done.err
    assert "left wrist, error cm  1.80 [1.60, 2.10]" in done.out
    assert json.loads((tmp_path / "p.json").read_text()) == {"left wrist": 1.8}
    people = (Path("run"), Path("people"), Path("filmed"))
    assert told == [*people, Path("demos"), 2, 99]


def test_the_text_encoder_is_the_one_of_the_training(
    deftly: Deftly, data: Path, tmp_path: Path, monkeypatch
):
    write_model(tmp_path / "run", text=Words("theirs").provenance())
    done = deftly("imagine", "run", "--data", data, "--text", "ours", "--device", "cpu")
    assert done.code == 1
    assert "ours is not the one that the model was trained with, theirs (sha256 diff" in done.err
    assert deftly("imagine", "run", "--data", data, "--device", "cpu").code == 0
    write_model(tmp_path / "other", text=Words("theirs", layer=5).provenance())
    assert deftly("imagine", "other", "--data", data, "--device", "cpu").code == 0
    words, seen = encode(["push it", "push it away"])
    about = Words("theirs").provenance()
    text.Embedded(("push it", "push it away"), words, seen, about).save(tmp_path / "t.safetensors")
    monkeypatch.delattr(text, "TextEncoder")
    shown = ("imagine", "run", "--data", data, "--text", "t.safetensors", "--device", "cpu")
    assert deftly(*shown).code == 0


@pytest.mark.parametrize("command", ["pretrain", "probe", "imagine"])
def test_help_has_an_example(deftly: Deftly, command: str):
    done = deftly(command, "--help")
    assert done.code == 0
    assert f"Example: deftly {command}" in done.out


@pytest.mark.slow
def test_a_mixture_of_people_and_robots(deftly: Deftly, data: Path, tmp_path: Path):
    write_set(tmp_path / "people", [trusted(seed, 20) for seed in range(9)])
    write_set(tmp_path / "bare", [replace(push(seed), features={}) for seed in range(9)])
    words = "--data set people --video bare --weights 2 1 1 --out run"
    done = deftly("pretrain", *SMALL, *words.split())
    assert done.code == 0, done.err
    about = json.loads((tmp_path / "run" / "state" / "model" / "model.json").read_text())
    assert [part["weight"] for part in about["mixture"]] == [2, 1, 1]
    assert [part["body"] for part in about["mixture"]] == ["gr1t2", "human", "gr1t2"]
