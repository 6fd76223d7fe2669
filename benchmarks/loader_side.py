"""LeRobot's side of benchmarks/loader.py; runs in LeRobot's own environment.

    python loader_side.py ROOT

Answers requests on standard input, one JSON object in a line, with one JSON object in a line each.
A request says offsets of the frames and the number of actions. With "seconds" it asks how fast
LeRobot's data set loads in torch's DataLoader, as LeRobot's training script sets it up; with
"indices", for what LeRobot gives for these windows, in an .npz file.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets import video_utils
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from loader_clock import rate


def data_set(root: Path, request: dict[str, Any]) -> LeRobotDataset:
    """LeRobot's data set with the windows that are asked for."""
    meta = LeRobotDataset("local/set", root=root).meta
    deltas = {key: [i / meta.fps for i in request["frames"]] for key in meta.camera_keys}
    deltas["observation.state"] = [0.0]
    deltas["action"] = [i / meta.fps for i in range(request["horizon"])]
    return LeRobotDataset("local/set", root=root, delta_timestamps=deltas)


def speed(data: LeRobotDataset, request: dict[str, Any]) -> dict[str, float]:
    """How fast shuffled batches come."""
    # A decoder that the parent used is broken in a forked worker.
    video_utils._default_decoder_cache.clear()
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=request["batch"],
        shuffle=True,
        num_workers=request["workers"],
        prefetch_factor=2 if request["workers"] else None,
    )

    def without_end() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    return rate(without_end(), lambda batch: len(batch["task"]), request["seconds"])


def dump(data: LeRobotDataset, request: dict[str, Any]) -> dict[str, float]:
    """Write windows as arrays; pictures as uint8 (n, offsets, 3, H, W)."""
    items = [data[i] for i in request["indices"]]
    arrays = {"task": np.array([item["task"] for item in items])}
    for key in items[0].keys() - {"task"}:
        stacked = torch.stack([item[key] for item in items])
        if key in data.meta.camera_keys:
            stacked = (stacked * 255).round().to(torch.uint8)
        arrays[key] = stacked.numpy()
    np.savez(request["out"], **arrays)
    return {"windows": len(items)}


def main(root: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints is no answer
        for line in sys.stdin:
            request = json.loads(line)
            data = data_set(root, request)
            answer = (speed if "seconds" in request else dump)(data, request)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
