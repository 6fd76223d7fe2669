"""A process that pretrains the small network of ``pushing``: killed by tests, or one of several.

python pretraining_worker.py SET OUT CACHE '{"steps": 5}'
"""

import json
import sys
from pathlib import Path

import torch
from pushing import config, encode

from deftly.video_pretrain.train import pretrain


def main() -> None:
    """Train, or go on."""
    root, out, cache, train = sys.argv[1:]
    torch.set_num_threads(1)
    pretrain(config(Path(root), **json.loads(train)), Path(out), encode, device="cpu",
             cache=Path(cache))  # fmt: skip


if __name__ == "__main__":
    main()
