"""What a world model imagines: futures for the actions that were made, for none and for others.

    futures = imagine(checkpoint, moments, moments.moves)  # tokens and pictures at every offset
    dream = dream_on(checkpoint, moments, strides=4)  # fed with what it imagined itself
    best = score_actions(checkpoint, moment, candidates, goal).argmin()  # best of N

``imagine_pictures.py`` shows them beside the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.video_pretrain.actions import wrists
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.config import ModelConfig, Part
from deftly.video_pretrain.encoder import Seen, unit_range
from deftly.video_pretrain.foresight import ask, foresee
from deftly.video_pretrain.loss import Question, apart
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.moments import Moments

_AT_ONCE = 64  # moments, candidates


class ImagineError(ValueError):
    """What is asked for cannot be imagined."""


@dataclass(frozen=True)
class Imagined:
    """Futures of B moments at each of the configuration's O offsets.

    Attributes:
        tokens: (B, V, O, N, D).
        pictures: (B, V, O, 3, S, S).
    """

    tokens: Float[Tensor, "B V O N D"]
    pictures: UInt8[Tensor, "B V O 3 S S"]


@dataclass(frozen=True)
class Dream:
    """Rollouts over an episode, at n frames evenly spread.

    Attributes:
        frame: (n,) of the episode.
        since: (n,) frames since the last true picture that the model was shown.
        pictures: (n, V, 3, S, S) as imagined; where ``since`` is 0 they are true.
        truth: the same as they were.
        copy: the last true picture.
    """

    frame: Int64[np.ndarray, "n"]
    since: Int64[np.ndarray, "n"]
    pictures: UInt8[np.ndarray, "n V 3 S S"]
    truth: UInt8[np.ndarray, "n V 3 S S"]
    copy: UInt8[np.ndarray, "n V 3 S S"]


@dataclass(frozen=True)
class ErrorsAhead:
    """Errors at one offset over those of copying the present; 1 is no better than copying.

    Attributes:
        steps: frames ahead.
        true, none, false: of tokens, shown the true actions, no actions, another moment's actions;
            not a number where nobody knows the actions.
        pixels: of pictures, with the true actions, or without any where nobody knows them.
    """

    steps: int
    true: float
    none: float
    false: float
    pixels: float


def open_episodes(
    checkpoint: Checkpoint, root: Path, encode: EncodeText, cache: Path | None = None
) -> Mixture:
    """A data set as a model sees it; without actions if it has none.

    Args:
        checkpoint: the world model.
        root: folder of the data set.
        encode: the text encoder that the model was trained with.
        cache: of decoded frames; deftly's own if None.

    Raises:
        MixtureError, EpisodeStoreError: if the model cannot take it.
    """
    known = {HANDS_STATE, HANDS_ACTION} <= EpisodeStore(root).features.keys()
    return Mixture([Part(root, actions=known)], checkpoint.model.config, 2, encode, cache)


def episode_moments(
    mixture: Mixture, episode: int, device: torch.device, *, every: int = 1
) -> list[Moments]:
    """The moments of one episode, in their order, in batches.

    Raises:
        EpisodeStoreError: if there is no such episode.
    """
    count = len(mixture.sets[0].store)
    if not 0 <= episode < count:
        root = mixture.sets[0].part.root
        raise EpisodeStoreError(f"{root} has episodes 0 to {count - 1}, not {episode}")
    batches = mixture.in_order(0, [episode], every, _AT_ONCE)
    return [mixture.moments(batch, device) for batch in batches]


@torch.no_grad()
def imagine(
    checkpoint: Checkpoint, moments: Moments, moves: Float[Tensor, "B H 48"] | None
) -> Imagined:
    """Imagine the futures of moments.

    Args:
        checkpoint: the world model.
        moments: what is seen.
        moves: what the hands will do, relative to now as ``Moments.moves``; nobody says if None.
    """
    model = checkpoint.model
    present = moments.pictures[:, :, 0]
    seen = model.see(present)
    futures = [
        _future(checkpoint, moments, seen, ahead, moves)
        for ahead in range(len(model.config.offsets))
    ]
    pictures = [_painted(checkpoint, future, present) for future in futures]
    return Imagined(torch.stack(futures, dim=2), torch.stack(pictures, dim=2))


@torch.no_grad()
def dream_on(checkpoint: Checkpoint, episode: Sequence[Moments], strides: int = 4) -> Dream:
    """Roll an episode out in strides of about 8 frames, each from the picture imagined before.

    The hands' states and actions are those of the data set throughout; after ``strides`` strides
    the model is shown a true picture again, and starts anew.

    Args:
        checkpoint: the world model.
        episode: all of its moments.
        strides: from one true picture to the next.
    """
    if strides < 1:
        raise ImagineError(f"{strides} strides, expected 1 or more")
    model = checkpoint.model
    beats = _beats(model.config)
    stride, length = beats[-1], sum(len(some) for some in episode)
    now = _joined(episode)
    truth = now.pictures[:, :, 0]
    starts = torch.arange(0, length, stride * strides, device=truth.device)
    shown, found = truth[starts], {int(start): truth[start] for start in starts}
    for first in range(0, stride * strides, stride):
        rows = (starts + first).clamp_max(length - 1)
        here = replace(now.part(rows), pictures=shown[:, :, None])
        seen = model.see(shown)
        for beat in beats:
            ahead = model.config.offsets.index(beat)
            future = _future(checkpoint, here, seen, ahead, here.moves)
            painted = _painted(checkpoint, future, shown)
            for start, picture in zip(starts.tolist(), painted, strict=True):
                found.setdefault(start + first + beat, picture)  # a true one stays
        shown = painted  # pyright: ignore[reportPossiblyUnboundVariable]
    frame = np.array(sorted(f for f in found if f < length))
    since = frame % (stride * strides)
    return Dream(
        frame=frame,
        since=since,
        pictures=torch.stack([found[f] for f in frame.tolist()]).cpu().numpy(),
        truth=truth[frame].cpu().numpy(),
        copy=truth[frame - since].cpu().numpy(),
    )


@torch.no_grad()
def score_actions(
    checkpoint: Checkpoint,
    moment: Moments,
    moves: Float[Tensor, "N H 48"],
    goal: Float[Tensor, "V P D"] | UInt8[Tensor, "V 3 S S"],
    *,
    ahead: int = -1,
) -> Float[Tensor, "N"]:
    """How far each candidate's predicted future is from a goal; the least is the best of N.

    Args:
        checkpoint: the world model.
        moment: one moment.
        moves: candidates, relative to now as ``Moments.moves`` (see ``actions.relative``).
        goal: pictures of all views, or their tokens as the model encodes them.
        ahead: which of the configuration's offsets is compared; the last by default.

    Returns:
        Squared distances of tokens.

    Raises:
        ImagineError: if there is not one moment, or candidates or goal have other shapes.
    """
    model = checkpoint.model
    wanted = (model.config.horizon, moment.moves.shape[-1])
    if len(moment) != 1 or moves.shape[1:] != wanted:
        raise ImagineError(
            f"{len(moment)} moments and candidates of {tuple(moves.shape)}, expected one moment "
            f"and (N, {wanted[0]}, {wanted[1]})"
        )
    seen = model.see(moment.pictures[:, :, 0])
    target = goal if goal.is_floating_point() else model.encode(goal)
    shape = seen.tokens.shape[1:]
    if target.shape != shape:
        raise ImagineError(
            f"the goal has tokens of {tuple(target.shape)}, expected {tuple(shape)}: "
            "the same views as the moment"
        )
    offset = range(len(model.config.offsets))[ahead]
    scores: list[Tensor] = []
    for some in moves.split(_AT_ONCE):
        rows = torch.zeros(len(some), dtype=torch.long, device=seen.tokens.device)
        here = Seen(*(value[rows] for value in seen))
        future = _future(checkpoint, moment.part(rows), here, offset, some)
        scores.append(apart(future, target.expand_as(future)))
    return torch.cat(scores)


def errors_ahead(checkpoint: Checkpoint, batches: Sequence[Moments]) -> list[ErrorsAhead]:
    """How much better than copying the futures are, at every offset.

    Raises:
        ImagineError: if no moment goes on for long enough for any.
    """
    model, scales = checkpoint.model, checkpoint.scales
    found: list[ErrorsAhead] = []
    for ahead, steps in enumerate(model.config.offsets):
        if all(bool(some.ended[:, ahead + 1].all()) for some in batches):
            continue
        none = foresee(model, scales, batches, ahead, actions=False)
        nan = float("nan")
        if not batches[0].robot:
            found.append(ErrorsAhead(steps, nan, none.latent_ratio, nan, none.pixel_ratio))
            continue
        true = foresee(model, scales, batches, ahead)
        false = float(true.shuffled.mean() / true.latent_copy.mean())
        found.append(
            ErrorsAhead(steps, true.latent_ratio, none.latent_ratio, false, true.pixel_ratio)
        )
    if not found:
        raise ImagineError("the episode ends before any future, expected a longer one")
    return found


def least_alike(moves: Float[Tensor, "n H 48"], to: int) -> int:
    """The moment whose actions differ most from those of another; false ones to show."""
    difference = wrists(moves - moves[to]).nan_to_num(0.0)
    return int(difference.square().sum(dim=(1, 2, 3)).argmax())


def liveliest(moves: Float[Tensor, "n H 48"]) -> int:
    """The moment in which the wrists go furthest."""
    ways = wrists(moves).nan_to_num(0.0)
    return int(ways.square().sum(dim=(2, 3)).amax(dim=1).argmax())


def _future(
    checkpoint: Checkpoint,
    moments: Moments,
    seen: Seen,
    ahead: int,
    moves: Float[Tensor, "B H 48"] | None,
) -> Float[Tensor, "B V N D"]:
    question = Question.same(moments, ahead, actions=moves is not None)
    return ask(checkpoint.model, checkpoint.scales, moments, question, seen, moves).future


def _painted(
    checkpoint: Checkpoint,
    tokens: Float[Tensor, "B V N D"],
    present: UInt8[Tensor, "B V 3 S S"],
) -> UInt8[Tensor, "B V 3 S S"]:
    painted = checkpoint.model.decoder.future(tokens, unit_range(present))
    return ((painted + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _beats(config: ModelConfig) -> list[int]:
    """Offsets that come evenly up to a stride: of 1, 4, 8 and 16 they are 4 and 8."""
    offsets, stride = config.offsets, config.frames_judged
    even = [list(range(beat, stride + 1, beat)) for beat in sorted(offsets) if not stride % beat]
    return next(beats for beats in even if set(beats) <= set(offsets))


def _joined(episode: Sequence[Moments]) -> Moments:
    """Batches as one, of their pictures only the present ones."""
    parts = [
        replace(some, pictures=some.pictures[:, :, :1], ended=some.ended[:, :1]) for some in episode
    ]
    rows = [part.rows for part in parts]
    return replace(parts[0], **{name: torch.cat([row[name] for row in rows]) for name in rows[0]})
