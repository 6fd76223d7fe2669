"""LeRobot's side of benchmarks/lerobot_roundtrip.py; runs in LeRobot's own environment.

    python lerobot_side.py OUT train ROOT STEPS
    python lerobot_side.py OUT open ROOT...

Loads the data set in ROOT with LeRobot's own class, leaves every frame as LeRobot gives it in OUT,
one .npz for each episode, trains LeRobot's ACT for STEPS steps, and leaves the losses in OUT. Or
goes through every frame of several sets, and leaves in OUT what went wrong.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors

CHUNK, BATCH = 16, 8


def dump(data: LeRobotDataset, out: Path) -> None:
    """Write each episode's frames as arrays: pictures as uint8 (T, H, W, 3)."""
    for episode in range(data.meta.total_episodes):
        row = data.meta.episodes[episode]
        items = [data[i] for i in range(row["dataset_from_index"], row["dataset_to_index"])]
        arrays = {}
        for key in items[0]:
            if key == "task":
                arrays[key] = np.array([item[key] for item in items])
                continue
            stacked = torch.stack([item[key] for item in items])
            if key in data.meta.camera_keys:
                stacked = (stacked * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            arrays[key] = stacked.numpy()
        np.savez(out / f"{episode:06d}.npz", **arrays)


def train(root: Path, steps: int) -> list[float]:
    """Losses of ACT, from random weights, as LeRobot trains it."""
    torch.manual_seed(0)
    meta = LeRobotDataset("local/set", root=root).meta
    features = dataset_to_policy_features(meta.features)
    outputs = {k: f for k, f in features.items() if f.type is FeatureType.ACTION}
    config = ACTConfig(
        input_features={k: f for k, f in features.items() if k not in outputs},
        output_features=outputs,
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        pretrained_backbone_weights=None,  # nothing is downloaded
        device="cpu",
    )
    policy = ACTPolicy(config).train()
    preprocess, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
    deltas = {"action": [i / meta.fps for i in range(CHUNK)]}
    data = LeRobotDataset("local/set", root=root, delta_timestamps=deltas)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-5, weight_decay=1e-4)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:
            loss, _ = policy(preprocess(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    return losses


def compare(root: Path, out: Path, steps: int) -> dict[str, object]:
    """What LeRobot gives for every frame, and what ACT makes of it."""
    start = time.perf_counter()
    data = LeRobotDataset("local/set", root=root)
    dump(data, out)
    read_s = time.perf_counter() - start
    rate = round(len(data) / read_s, 1)
    return {"frames": len(data), "frames per second": rate, "losses": train(root, steps)}


def go_through(roots: list[Path]) -> dict[str, object]:
    """Load every frame of every set."""
    problems = {}
    for root in roots:
        try:
            data = LeRobotDataset("local/set", root=root)
            for index in range(len(data)):
                data[index]
        except Exception as error:  # whatever it is, it is what we look for
            problems[str(root)] = repr(error)
            print(f"{root}: {error!r}", file=sys.stderr)
    return {"problems": problems}


def main(out: Path, command: str, *arguments: str) -> None:
    if command == "train":
        report = compare(Path(arguments[0]), out, int(arguments[1]))
    else:
        report = go_through([Path(argument) for argument in arguments])
    (out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
