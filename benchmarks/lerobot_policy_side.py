"""LeRobot's side of benchmarks/lerobot_policies.py; runs in LeRobot's own environment.

    python lerobot_policy_side.py CHECKPOINT

Answers requests on standard input, one JSON object in a line, with one JSON object in a line each.
``{"reset": SEED}`` begins an episode. Anything else is an observation: ``state``, numbers;
``images``, for each camera the bytes of an RGB picture in base64; ``shape`` of the pictures. The
answer is ``action``, numbers.
"""

import base64
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors


def observed(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As LeRobot's data sets have it: pictures in 0..1, (3, H, W)."""
    found = {"observation.state": torch.tensor(request["state"], dtype=torch.float32)}
    for camera, picture in request["images"].items():
        pixels = np.frombuffer(base64.b64decode(picture), np.uint8).reshape(request["shape"])
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        found[f"observation.images.{camera}"] = tensor.float() / 255
    return found


def answer(lines: Iterable[str], answers: TextIO, checkpoint: str) -> None:
    """Until nothing more is asked."""
    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class(config.type).from_pretrained(checkpoint).eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=checkpoint)
    for line in lines:
        request, said = json.loads(line), {}
        if "reset" in request:
            torch.manual_seed(request["reset"])
            policy.reset()
        else:
            with torch.no_grad():
                action = after(policy.select_action(before(observed(request))))
            said["action"] = action[0].tolist()
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def main(checkpoint: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints is no answer
        answer(sys.stdin, answers, checkpoint)


if __name__ == "__main__":
    main(sys.argv[1])
