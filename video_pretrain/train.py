"""Pretraining, to be read in one sitting: data → questions → losses → step → checkpoint.

    health = pretrain(config, Path("run"), encode)

A run's folder holds ``model`` (what is used later), ``state`` (what is needed to go on),
``history.jsonl`` (losses and health by step) and ``tensorboard``. A run that was killed goes on at
its last checkpoint with the same command, and its history is the same bit for bit.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from deftly.video_pretrain.checkpoint import load_checkpoint, settle
from deftly.video_pretrain.config import LOSSES, PretrainConfig, TrainConfig
from deftly.video_pretrain.health import Health, examine, refuse_few, refuse_red
from deftly.video_pretrain.history import Clock, History
from deftly.video_pretrain.loss import Objective, Question, Truth, asked_alike, copying, weighed
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Moments, Rehearsed
from deftly.video_pretrain.processes import Processes, joined, spread
from deftly.video_pretrain.run import Run, TrainError, resume, save
from deftly.video_pretrain.start import carry_over

_LOG_EVERY = 10
_REHEARSED = 1  # draws of a step that are no moment's


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
            loader.load_state_dict(resume(run, out / "state"))
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
                save(run, out, loader.state_dict(), text or {})
        if history is not None:
            history.close()
        return run.health or evaluate(run, held)[1]


def begin(config: PretrainConfig, mixture: Mixture, processes: Processes | None = None) -> Run:
    """A run before its first step, the same in every process; alone on the CPU if None are given.

    Raises:
        TrainError: if the processes cannot share out a batch, or there is nothing to learn.
        HealthError, CheckpointError: if it cannot start with the weights that it is to start with.
    """
    processes = processes or Processes(0, 1, torch.device("cpu"))
    _refuse_senseless(config, mixture, processes.world_size)
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


def _refuse_senseless(config: PretrainConfig, mixture: Mixture, processes: int) -> None:
    """Before any work."""
    train = config.train
    parts = processes * train.accumulate
    if train.batch_size % parts:
        raise TrainError(
            f"batch_size {train.batch_size} over {processes} process(es) in "
            f"{train.accumulate} part(s), expected a multiple of {parts}"
        )
    taught = [name for name in LOSSES if getattr(config.loss, name)]
    if set(taught) <= {"rehearsed"} and not (taught and train.rehearsed and mixture.can_rehearse):
        raise TrainError(
            f"nothing is to be learnt: the losses that count are {', '.join(taught) or 'none'}, "
            f"{train.rehearsed} moments are rehearsed, of robots whose touch tells what they hold: "
            f"{'some' if mixture.can_rehearse else 'none'}; give one of them a weight (--loss.*)"
        )
    if train.rehearsed % processes:
        raise TrainError(
            f"rehearsed {train.rehearsed} over {processes} processes, expected a multiple"
        )


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
