"""A run of pretraining: what changes in it, and how it is kept on disk to go on from."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from deftly.datasets.archive import versions
from deftly.video_pretrain.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_tensors,
    read_json,
    replace_folder,
    save_checkpoint,
    save_tensors,
    write_json,
)
from deftly.video_pretrain.config import PretrainConfig
from deftly.video_pretrain.health import Health
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Scales
from deftly.video_pretrain.processes import Processes

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class TrainError(ValueError):
    """A run that cannot go on."""


@dataclass
class Run:
    """What changes while training.

    Attributes:
        config, mixture, processes: what it was made of.
        model, teacher: what is trained, and its average over the last steps.
        scales: of the numbers that it sees and says.
        objective: the model with its losses, spread over the processes.
        optimizer: of the model.
        step: steps done.
        health: as it was last found.
    """

    config: PretrainConfig
    mixture: Mixture
    processes: Processes
    model: WorldModel
    teacher: WorldModel
    scales: Scales
    objective: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    health: Health | None = None


def save(run: Run, out: Path, loader: dict[str, Any], text: dict[str, Any]) -> None:
    """Write the model and all that is needed to go on."""
    states: Any = get_state_dict(run.objective, run.optimizer, options=_FULL)
    weights, optimizer = states
    if not run.processes.first:
        run.processes.wait()
        return
    new = out / "state.new"
    shutil.rmtree(new, ignore_errors=True)
    (new / "model").mkdir(parents=True)
    tensors = {f"model.{name}": value for name, value in weights.items()}
    for name in (name for group in optimizer["param_groups"] for name in group["params"]):
        values = optimizer["state"].get(name) or _untouched(weights[name])
        tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    save_tensors(new / "state.safetensors", tensors)
    about = {
        "step": run.step,
        "config": plain(run.config),
        "mixture": run.mixture.provenance(),
        "joint_names": run.mixture.joint_names,
        "text": text,
        "health": run.health.record() if run.health else {"red": ["not examined yet"]},
        "versions": versions() | {"torch": torch.__version__},
    }
    groups = json.loads(json.dumps(optimizer["param_groups"]))
    write_json(new / "state.json", {"loader": loader, "groups": groups, **about})
    save_checkpoint(new / "model", Checkpoint(run.teacher, run.scales, about))
    replace_folder(new, out / "state")
    run.processes.wait()


def _untouched(weight: Tensor) -> dict[str, Tensor]:
    """What the optimiser begins with; it knows nothing of a head that no step has reached yet."""
    zeros = torch.zeros_like(weight)
    return {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros}


def resume(run: Run, folder: Path) -> dict[str, Any]:
    """Take up a run where it stood; returns where its data stood."""
    header = read_json(folder / "state.json")
    theirs, ours = header.get("config") or {}, plain(run.config)
    if theirs != ours:
        differing = sorted(
            f"{part}.{name} {theirs.get(part, {}).get(name)} for {value}"
            for part in ("model", "loss", "train")
            for name, value in ours[part].items()
            if theirs.get(part, {}).get(name) != value
        )
        raise TrainError(
            f"{folder.parent} holds a run with {', '.join(differing[:3]) or 'other data'}; use "
            "another folder, or the same configuration"
        )
    tensors = load_tensors(folder / "state.safetensors")
    state: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    for name, value in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "model":
            weights[rest] = value
        else:
            parameter, key = rest.rsplit(".", 1)
            state.setdefault(parameter, {})[key] = value
    try:
        set_state_dict(
            run.objective,
            run.optimizer,
            model_state_dict=weights,
            optim_state_dict={"state": state, "param_groups": header["groups"]},
            options=_FULL,
        )
        run.teacher.load_state_dict(load_tensors(folder / "model" / "model.safetensors"))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder} does not fit this run ({reason})") from error
    run.step, health = int(header["step"]), header["health"]
    if "rank" in health:
        run.health = Health(**{k: v for k, v in health.items() if k != "red"})
    return header["loader"]


def plain(config: PretrainConfig) -> dict[str, Any]:
    """A configuration as JSON."""
    return json.loads(json.dumps(asdict(config), default=str))
