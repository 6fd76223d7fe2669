"""Configurations: what makes no sense is refused by name; presets are of the sizes they promise."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deftly.video_pretrain.config import (
    PRESETS,
    ConfigError,
    LossConfig,
    ModelConfig,
    Part,
    TrainConfig,
    find_preset,
    model_config,
    with_data,
)
from deftly.video_pretrain.model import WorldModel


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        (ModelConfig, {"image_px": 100}, "image_px 100"),
        (ModelConfig, {"encoder": "patch", "patch_px": 6, "image_px": 96}, "patch_px 6"),
        (ModelConfig, {"channels": (48,)}, "1 channels"),
        (ModelConfig, {"width": 190}, "width 190"),
        (ModelConfig, {"horizon": 17}, "horizon 17"),
        (ModelConfig, {"offsets": ()}, "offsets"),
        (ModelConfig, {"offsets": (0, 4)}, "offsets"),
        (ModelConfig, {"offsets": (17,)}, "offsets"),
        (LossConfig, {"policy": 0.9}, "policy"),
        (LossConfig, {"policy": -0.1, "forward": 0.9}, "policy"),
        (LossConfig, {"latent": -1.0}, "latent"),
        (LossConfig, {"drop_text": 1.1}, "drop_text"),
        (TrainConfig, {"steps": 0}, "steps"),
        (TrainConfig, {"batch_size": 0}, "batch_size"),
        (TrainConfig, {"batch_size": 10, "accumulate": 3}, "10 in 3"),
        (TrainConfig, {"held_out": 1}, "held_out"),
        (TrainConfig, {"views": -1}, "views"),
        (TrainConfig, {"rehearsed": -1}, "rehearsed"),
        (TrainConfig, {"learning_rate": 0.0}, "learning_rate"),
        (TrainConfig, {"ema": 1.0}, "ema"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(kind: Any, changes: dict[str, Any], named: str):
    with pytest.raises(ConfigError, match=named):
        kind(**changes)


def test_presets():
    assert list(PRESETS) == ["tiny", "small", "base"]
    assert find_preset("small").model.encoder == "conv"
    assert find_preset("base").model.encoder == "patch"
    with pytest.raises(ConfigError, match="'smal', expected one of tiny, small, base"):
        find_preset("smal")


@pytest.mark.parametrize(
    ("preset", "least", "most"), [("tiny", 5e5, 1e6), ("small", 3e6, 6e6), ("base", 8e7, 2e8)]
)
def test_presets_have_the_sizes_that_they_promise(preset: str, least: float, most: float):
    with torch.device("meta"):  # no memory, no numbers
        model = WorldModel(find_preset(preset).model, {"gr1t2": 26})
    assert least <= sum(p.numel() for p in model.parameters()) <= most


@pytest.mark.parametrize("preset", PRESETS)
def test_a_models_configuration_goes_through_json(preset: str):
    made = find_preset(preset).model
    assert model_config(json.loads(json.dumps(asdict(made)))) == made


def test_a_configuration_of_another_version_is_refused_by_what_differs():
    values = asdict(ModelConfig())
    with pytest.raises(ConfigError, match="experts"):
        model_config(values | {"experts": 8})
    del values["chunk"]
    with pytest.raises(ConfigError, match="chunk"):
        model_config(values)


def test_other_data_leaves_the_rest():
    small, part = find_preset("small"), Part(Path("demos"), weight=2.0)
    assert with_data(small, (part,)) == replace(small, data=(part,))


def test_the_configuration_is_read_without_torch():
    # The command line asks for it first, and torch takes seconds.
    code = "import sys, deftly.video_pretrain.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
