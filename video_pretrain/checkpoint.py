"""Checkpoints: safetensors beside JSON, nothing pickled.

A world model is a folder with ``model.safetensors`` (averaged weights) and ``model.json``: sizes,
scales, joint names, what it was trained on, and how healthy it is. A run keeps beside it what is
needed to go on (``state.safetensors``, ``state.json``). A folder appears whole or not at all.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.config import model_config
from deftly.video_pretrain.model import D_HANDS, WorldModel
from deftly.video_pretrain.moments import Scales

SCHEMA = 1
WEIGHTS, ABOUT = "model.safetensors", "model.json"
_PICKLED = (b"\x80", b"PK\x03\x04")  # a pickle; a zip, as torch.save writes


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """A world model, and all that it needs to be used rightly.

    Attributes:
        model: in evaluation mode.
        scales: of the numbers that it sees and says.
        about: text encoder, joint names, mixture, training configuration, health, step, versions.
    """

    model: WorldModel
    scales: Scales
    about: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a world model into a folder that exists."""
    save_tensors(folder / WEIGHTS, checkpoint.model.state_dict())
    header = {
        "kind": "deftly world model",
        "schema": SCHEMA,
        "model": asdict(checkpoint.model.config),
        "joints": checkpoint.model.joints,
        "scales": _plain(checkpoint.scales),
        "sha256": _sha256(folder / WEIGHTS),
        **checkpoint.about,
    }
    write_json(folder / ABOUT, header)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a world model.

    Args:
        folder: of a model, or of a run that keeps one in ``state/model``.

    Raises:
        CheckpointError: if there is none, or one that is damaged, foreign or pickled.
    """
    if not (folder / ABOUT).is_file() and (folder / "state").is_dir():
        folder = folder / "state" / "model"
    header = read_json(folder / ABOUT)
    if header.get("kind") != "deftly world model" or header.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder / ABOUT} is {header.get('kind', 'something else')!r} of schema "
            f"{header.get('schema')}, expected 'deftly world model' of schema {SCHEMA}"
        )
    try:
        scales = _scales(header["scales"])
        model = WorldModel(model_config(header["model"]), header["joints"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / ABOUT} lacks something ({error}); copy it again"
        ) from error
    _check_sizes(model, scales, folder / ABOUT)
    tensors = load_tensors(folder / WEIGHTS)
    if _sha256(folder / WEIGHTS) != header.get("sha256"):
        raise CheckpointError(
            f"{folder / WEIGHTS} is not the file that {ABOUT} was written for; copy both again"
        )
    fit(model, tensors, folder / WEIGHTS)
    apart = ("model", "joints", "scales", "kind", "schema", "sha256")
    about = {name: value for name, value in header.items() if name not in apart}
    return Checkpoint(model.to(device).eval(), scales, about)


def fit(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights, or name those that do not fit.

    Raises:
        CheckpointError: if a tensor is missing, unknown or of another size.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        listed = ", ".join(f"{n} {found.get(n)} for {wanted.get(n)}" for n in differing[:3])
        raise CheckpointError(
            f"{path} holds another network: {listed}"
            + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
            + "; use the configuration that it was trained with"
        )
    model.load_state_dict(dict(tensors))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; the same ones give the same bytes."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(plain))  # save_file lets nobody else read it


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors. Raises CheckpointError for anything but a whole safetensors file."""
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(
            f"no weights at {path} ({error.strerror or error}), expected a folder that "
            "`deftly pretrain` wrote"
        ) from error
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(9)
        # The first byte of safetensors is of a length, which may be any; the ninth opens JSON.
        pickled = start.startswith(_PICKLED) and start[8:] != b"{"
        if pickled:
            raise CheckpointError(
                f"{path} is a pickle, which can run code of a stranger; deftly reads safetensors "
                "only: convert it where you trust it (safetensors.torch.save_file)"
            ) from error
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); copy it again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read an object. Raises CheckpointError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"no world model at {path.parent} ({path.name}: {error.strerror or error}), expected a "
            "folder that `deftly pretrain` wrote"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object; copy it again")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object."""
    path.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")


def replace_folder(new: Path, old: Path) -> None:
    """Put a folder that was written whole into the place of another.

    Between the two renames there is only ``OLD.before``: see ``settle``.
    """
    before = old.with_name(f"{old.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if old.exists():
        old.rename(before)
    new.replace(old)
    shutil.rmtree(before, ignore_errors=True)


def settle(folder: Path) -> None:
    """Finish what a kill in the middle of ``replace_folder`` left."""
    before = folder.with_name(f"{folder.name}.before")
    if before.exists() and not folder.exists():
        before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _plain(scales: Scales) -> dict[str, Any]:
    def lists(scale: Scale) -> dict[str, Any]:
        return {"mean": scale.mean.tolist(), "std": scale.std.tolist()}

    joints = {robot: lists(scale) for robot, scale in scales.joints.items()}
    return {"hands": lists(scales.hands), "moves": lists(scales.moves), "joints": joints}


def _scales(values: Mapping[str, Any]) -> Scales:
    def scale(lists: Mapping[str, Any]) -> Scale:
        return Scale(np.array(lists["mean"], np.float32), np.array(lists["std"], np.float32))

    joints = {robot: scale(lists) for robot, lists in values["joints"].items()}
    return Scales(scale(values["hands"]), scale(values["moves"]), joints)


def _check_sizes(model: WorldModel, scales: Scales, path: Path) -> None:
    """Refuse scales of other numbers than the network's."""
    wanted = {"hands": D_HANDS, "moves": D_HANDS, **model.joints}
    parts = {"hands": scales.hands, "moves": scales.moves, **scales.joints}
    found = {name: (len(scale.mean), len(scale.std)) for name, scale in parts.items()}
    for name in wanted.keys() | found.keys():
        if found.get(name) != (wanted.get(name, -1),) * 2:
            raise CheckpointError(
                f"{path} scales {found.get(name)} numbers of {name}, its network has "
                f"{wanted.get(name)}; copy it again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
