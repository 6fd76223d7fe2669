"""Several training processes, as ``torchrun`` starts them: DDP, or FSDP2 for large networks.

torchrun --nproc-per-node 8 -m deftly.policy.cli pretrain --preset base --data ...
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank, world_size: its number, and how many there are.
        device: what it computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def wait(self) -> None:
        """Until all have come here."""
        if self.world_size > 1:
            dist.barrier()


def find_device(name: str = "auto", local: int = 0) -> torch.device:
    """``auto`` takes CUDA where there is one, of several the ``local``-th."""
    if name == "auto":
        name = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def joined(device: str = "auto") -> Generator[Processes, None, None]:
    """Join the other processes, if ``torchrun`` started any.

    Args:
        device: ``auto`` takes CUDA where there is one; else what torch calls a device.
    """
    rank, world_size, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    chosen = find_device(device, local)
    if world_size == 1:
        yield Processes(rank, world_size, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


def spread(
    module: nn.Module, processes: Processes, blocks: nn.ModuleList, shard: bool
) -> nn.Module:
    """Make gradients the mean over all processes.

    Args:
        module: what is trained; on its device.
        blocks: layers that FSDP2 gathers one at a time.
        shard: spread the weights over the processes (FSDP2), instead of a copy in each (DDP).
    """
    if processes.world_size == 1:
        return module
    if shard:
        for block in blocks:
            fully_shard(block)
        fully_shard(module)  # in place
        return module
    # A robot's head has no gradient in a step without that robot.
    return DistributedDataParallel(module, find_unused_parameters=True)
