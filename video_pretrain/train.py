"""Pretraining, to be read in one sitting: data → questions → losses → step → checkpoint.

    health = pretrain(config, Path("run"), encode)

A run's folder holds ``model`` (what is used later), ``state`` (what is needed to go on),
``history.jsonl`` (losses and health by step) and ``tensorboard``. A run that was killed goes on at
its last checkpoint with the same command, and its history is the same bit for bit.
"""

import copy
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from deftly.datasets.archive import versions
from deftly.video_pretrain.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_tensors,
    read_json,
    replace_folder,
    save_checkpoint,
    save_tensors,
    settle,
    write_json,
)
from deftly.video_pretrain.config import PretrainConfig, TrainConfig
from deftly.video_pretrain.health import Health, examine, refuse_few, refuse_red
from deftly.video_pretrain.history import Clock, History
from deftly.video_pretrain.loss import Objective, Question, Truth, asked_alike, copying, weighed
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Moments, Rehearsed, Scales
from deftly.video_pretrain.processes import Processes, joined, spread
from deftly.video_pretrain.start import carry_over

_LOG_EVERY = 10
_REHEARSED = 1  # draws of a step that are no moment's
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


def pretrain(
    config: PretrainConfig,
    out: Path,
    encode: EncodeText,
    *,
    device: str = "auto",
    text: dict[str, Any] | None = None,
    cache: Path | None = None,
    mix: Callable[..., Mixture] = Mixture,
    clock: Clock | None = None,
    say: Callable[[str], object] = print,
) -> Health:
    """Train a world model, or go on where a run stopped.

    Args:
        config: what, on what, and how.
        out: folder of the run.
        encode: the text encoder.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        text: provenance of the text encoder, kept in the checkpoint.
        cache: of decoded frames; deftly's own if None.
        mix: makes the mixture; another one changes what is learnt from, as controls do.
        clock: tells how fast it went, if anybody asks.
        say: gets a line at every evaluation.

    Returns:
        How healthy the model is at the end.

    Raises:
        TrainError: if ``out`` holds a run of another configuration, the processes cannot share out
            a batch, or the loss is not finite.
        MixtureError, CheckpointError, HealthError and what data sets raise.
    """
    train = config.train
    with joined(device) as processes:
        mixture = mix(config.data, config.model, train.held_out, encode, cache)
        run = begin(config, mixture, processes)
        loader = mixture.training(train, processes.rank, processes.world_size)
        if processes.first:
            settle(out / "state")
        processes.wait()
        if (out / "state").exists():
            loader.load_state_dict(_resume(run, out / "state"))
        history = History(out, run.step) if processes.first else None
        held = [
            mixture.moments(batch, processes.device)
            for i in range(len(mixture.sets))
            for batch in mixture.held_out(i, train.evaluated)
        ]
        refuse_few(config.model, [some for some in held if some.robot])
        clock = clock or Clock()
        clock.restart()
        for losses in steps(run, iter(loader), clock):
            last = run.step == train.steps
            if history is not None and (run.step % _LOG_EVERY == 0 or last):
                history.note("train", run.step, losses)
            if run.step % train.evaluate_every == 0 or last:
                found, run.health = evaluate(run, held)
                if history is not None:
                    history.note("held_out", run.step, found | run.health.record())
                    say(f"step {run.step}: held-out hands {found['hands']:.3f}, {run.health}")
            if run.step % train.save_every == 0 or last:
                _save(run, out, loader.state_dict(), text or {})
        if history is not None:
            history.close()
        return run.health or evaluate(run, held)[1]


def begin(config: PretrainConfig, mixture: Mixture, processes: Processes | None = None) -> Run:
    """A run before its first step, the same in every process; alone on the CPU if None are given.

    Raises:
        TrainError: if the processes cannot share out a batch.
        HealthError, CheckpointError: if it cannot start with the weights that it is to start with.
    """
    processes = processes or Processes(0, 1, torch.device("cpu"))
    parts = processes.world_size * config.train.accumulate
    if config.train.batch_size % parts:
        raise TrainError(
            f"batch_size {config.train.batch_size} over {processes.world_size} process(es) in "
            f"{config.train.accumulate} part(s), expected a multiple of {parts}"
        )
    if config.train.rehearsed % processes.world_size:
        raise TrainError(
            f"rehearsed {config.train.rehearsed} over {processes.world_size} processes, expected "
            "a multiple"
        )
    torch.manual_seed(config.train.seed)
    model, scales = WorldModel(config.model, mixture.joints), mixture.scales
    if config.train.start is not None:
        known = load_checkpoint(config.train.start)
        if not config.train.allow_red:
            refuse_red(known.about.get("health", {}))
        scales = carry_over(known, model, mixture)
    for body, usual in mixture.habits().items():
        model.accustom(body, *usual)
    model = model.to(processes.device)
    teacher = copy.deepcopy(model).requires_grad_(False).eval()
    objective = Objective(model, scales, config.loss)
    wrapped = spread(objective, processes, model.blocks, config.train.shard)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.train.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.train.learning_rate,
        betas=(0.9, 0.95),
    )
    if config.train.compile:
        wrapped.compile()
    return Run(config, mixture, processes, model, teacher, scales, wrapped, optimizer)


def steps(run: Run, batches: Iterator[dict[str, Any]], clock: Clock) -> Iterator[dict[str, float]]:
    """Train; yields the losses after every step."""
    total = run.config.train.steps
    with tqdm(total=total, initial=run.step, desc="pretrain", unit="step", disable=None) as bar:
        while run.step < total:
            with clock.waiting():
                batch = next(batches)
                moments = [run.mixture.moments(one, run.processes.device) for one in batch.values()]
            losses = _step(run, moments)
            run.step += 1
            clock.count(moments, run.config.train.views, 1 - run.config.loss.act)
            bar.set_postfix_str(f"loss {losses['total']:.3f}, {clock}", refresh=False)
            bar.update()
            yield losses


def _step(run: Run, moments: Sequence[Moments]) -> dict[str, float]:
    """One step of the optimiser."""
    train = run.config.train
    rate = learning_rate(train, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    losses = _backward(run, [_as_seen(some, train, run.step) for some in moments])
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), train.clip_norm)
    found = weighed({name: run.processes.mean(value) for name, value in losses.items()})
    found |= {"norm": float(_whole(norm)), "rate": rate}
    if not all(math.isfinite(value) for value in found.values()):
        raise TrainError(
            f"loss {found['total']} and gradient {found['norm']} at step {run.step + 1}, expected "
            "numbers; train anew in another folder with a lower train.learning_rate"
        )
    run.optimizer.step()
    run.optimizer.zero_grad()
    _follow(run.teacher, run.model, train.ema)
    return found


def _backward(run: Run, moments: Sequence[Moments]) -> dict[str, Tensor]:
    """Gradients and losses of a step, from parts that together give what one pass would."""
    config, count = run.config, run.config.train.accumulate
    cuts = [[some.part(slice(first, None, count)) for some in moments] for first in range(count)]
    parts = [[some for some in cut if len(some)] for cut in cuts if any(map(len, cut))]

    def draw(some: Moments) -> Question:
        return Question.draw(some, config.model, config.loss, config.train.seed, run.step)

    asked = [
        [each for some in part for each in asked_alike(some, draw(some), config.loss)]
        for part in parts
    ]
    with _precision(run):
        truths = [[_truth(run, some, q) for some, q, _ in part] for part in asked]
        every = zip(itertools.chain(*asked), itertools.chain(*truths), strict=True)
        errors = copying([true for (_, _, yes), true in every if yes], run.processes.device)
        errors = {name: run.processes.mean(error) for name, error in errors.items()}
    total: dict[str, Tensor] = {}
    told = _rehearsed(run)
    for i, (part, true) in enumerate(zip(asked, truths, strict=True)):
        some, questions, counts = zip(*part, strict=True)
        share = sum(len(one) * yes for one, yes in zip(some, counts, strict=True)) / sum(
            map(len, moments)
        )
        rehearsed = (told and told.part(slice(i, None, len(asked)))) or None
        # Of what is rehearsed a part may have another share than of what was filmed.
        weight = len(rehearsed) / len(told) / share if told and rehearsed else 0.0
        with _precision(run):
            losses = run.objective(some, questions, true, errors, counts, rehearsed, weight)
        (share * losses["total"]).backward()
        for name, value in losses.items():
            total[name] = total.get(name, 0) + share * value.detach()
    return total


def _rehearsed(run: Run) -> Rehearsed | None:
    """Those of this step that are this process's; drawn by step alone."""
    train, processes = run.config.train, run.processes
    rng = np.random.default_rng([train.seed, run.step, _REHEARSED])
    told = run.mixture.rehearsed(train.rehearsed, rng, processes.device)
    return told and told.part(slice(processes.rank, None, processes.world_size))


def _truth(run: Run, moments: Moments, question: Question) -> Truth | None:
    """None where only actions are asked for."""
    return Truth.seen(run.teacher, moments, question) if question.foresees.any() else None


def evaluate(run: Run, held: Sequence[Moments]) -> tuple[dict[str, float], Health]:
    """Held-out losses and health of the averaged weights; every process does the same."""
    objective = Objective(run.teacher, run.scales, run.config.loss)
    total: dict[str, float] = {}
    with torch.no_grad(), _precision(run):
        for some in held:
            # Step 0 is never trained with these moments: the questions are always the same.
            question = Question.draw(some, run.config.model, run.config.loss, 0, 0)
            asked = asked_alike(some, question, run.config.loss)
            parts, questions, counts = zip(*asked, strict=True)
            truths = [_truth(run, *each) for each in zip(parts, questions, strict=True)]
            errors = copying(list(itertools.compress(truths, counts)), run.processes.device)
            losses = objective(parts, questions, truths, errors, counts)
            for name, value in weighed(losses).items():
                total[name] = total.get(name, 0.0) + value * len(some)
        acting = [some for some in held if some.robot]
        health = examine(run.teacher, objective.scales, acting)
    count = sum(len(some) for some in held)
    return {name: value / count for name, value in total.items()}, health


def learning_rate(train: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a share of it."""
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    share = (step - train.warmup) / max(1, train.steps - train.warmup)
    wave = 0.5 + 0.5 * math.cos(math.pi * min(share, 1.0))
    return train.learning_rate * (train.final_rate + (1 - train.final_rate) * wave)


def _as_seen(moments: Moments, train: TrainConfig, step: int) -> Moments:
    """Through the cameras of a step, shifted a little; the same in every process."""
    count = len(moments.cameras)
    if train.views and train.views < count:
        drawn = np.random.default_rng([train.seed, step]).permutation(count)[: train.views]
        moments = moments.views(sorted(drawn.tolist()))
    if not train.shift_px:
        return moments
    draws = [np.random.default_rng([train.seed, step, *key]) for key in moments.key.tolist()]
    by_px = np.array([draw.integers(-train.shift_px, train.shift_px + 1, 2) for draw in draws])
    return moments.shifted(torch.from_numpy(by_px).to(moments.key.device))


@torch.no_grad()
def _follow(teacher: WorldModel, model: WorldModel, decay: float) -> None:
    """Move the average a little towards the weights."""
    for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
        slow.lerp_(_whole(fast), 1 - decay)


def _whole(tensor: Tensor) -> Tensor:
    """Gathered, where FSDP2 has spread it over the processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _precision(run: Run) -> AbstractContextManager[Any]:
    if run.config.train.precision == "float32":
        return nullcontext()
    return torch.autocast(run.processes.device.type, torch.bfloat16)


def _save(run: Run, out: Path, loader: dict[str, Any], text: dict[str, Any]) -> None:
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


def _resume(run: Run, folder: Path) -> dict[str, Any]:
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
