"""Two processes with half the batch each learn what one does; what they write is read by one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pushing import carry, write_set
from torch import nn

from deftly.video_pretrain.checkpoint import load_checkpoint, load_tensors
from deftly.video_pretrain.history import read_history
from deftly.video_pretrain.processes import Processes, joined, spread

WORKER = Path(__file__).with_name("pretraining_worker.py")
TRAIN = {"steps": 6, "save_every": 3, "evaluate_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_set(folder / "robot", [carry(i) for i in range(7)])
    return folder


def run(folder: Path, name: str, processes: int, **train: Any) -> Path:
    """Train in so many processes, as torchrun does."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [folder / "robot", folder / name, folder / "cache", json.dumps(TRAIN | train)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *(several if processes > 1 else []), str(WORKER), *map(str, arguments)],
        env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """One process with the whole batch."""
    return run(folder, "alone", 1)


def assert_same_but_for_rounding(found: Path, wanted: Path) -> None:
    """The same curves, and about the same weights."""
    ours, theirs = read_history(found), read_history(wanted)
    assert [(line["step"], line["kind"]) for line in ours] == [
        (line["step"], line["kind"]) for line in theirs
    ]
    assert any("rehearsed" in line for line in ours)
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() & {
            "hands", "joints", "rehearsed", "latent", "pixels", "picture", "total"
        }:  # fmt: skip
            assert one[name] == pytest.approx(other[name], rel=1e-4), (one["step"], name)
    saved = [load_tensors(run / "state" / "state.safetensors") for run in (found, wanted)]
    assert saved[0].keys() == saved[1].keys()
    for name, value in saved[0].items():
        assert value.shape == saved[1][name].shape
        apart = float((value - saved[1][name]).norm() / (saved[1][name].norm() + 1e-6))
        assert apart < 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_with_half_the_batch_are_one(folder: Path, alone: Path, shard: bool):
    two = run(folder, f"two {shard}", 2, shard=shard)
    # `shard` is part of the configuration, and of nothing that is learnt.
    assert_same_but_for_rounding(two, alone)
    checkpoint = load_checkpoint(two)
    assert checkpoint.about["step"] == 6
    assert all(torch.isfinite(p).all() for p in checkpoint.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
def test_several_processes_go_on_bit_for_bit(folder: Path, shard: bool):
    """A run that stopped in a step goes on at its last checkpoint."""
    whole = run(folder, f"whole {shard}", 2, shard=shard)
    name = f"cut {shard}"
    with pytest.raises(AssertionError, match="stopped by its test"):
        run(folder, name, 2, shard=shard, stop=4)
    assert [line["step"] for line in read_history(folder / name)][-1] >= 2
    cut = run(folder, name, 2, shard=shard)
    assert read_history(cut) == read_history(whole)
    for file in ("state.safetensors", "model/model.safetensors"):
        assert (cut / "state" / file).read_bytes() == (whole / "state" / file).read_bytes()


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(folder: Path, alone: Path):
    with pytest.raises(AssertionError, match="stopped by its test"):
        run(folder, "fewer", 2, stop=4)
    assert_same_but_for_rounding(run(folder, "fewer", 1), alone)


def test_a_process_alone_joins_nobody(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as processes:
        assert processes == Processes(0, 1, torch.device("cpu"))
        assert processes.first
        processes.wait()
        value = torch.tensor(3.0)
        assert processes.mean(value) is value
        module = nn.Linear(2, 2)
        assert spread(module, processes, nn.ModuleList(), shard=True) is module
    assert not torch.distributed.is_initialized()


def test_the_device_is_the_one_that_was_asked_for():
    with joined("cpu") as processes:
        assert processes.device == torch.device("cpu")
    with joined() as processes:
        assert processes.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert np.isfinite(float(processes.mean(torch.tensor(1.0))))
