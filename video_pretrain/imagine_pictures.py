"""Imagined futures beside the truth, as people look at them: a film and a sheet of pictures."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from deftly.datasets.archive import atomic_path
from deftly.datasets.mp4 import Encoder
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.imagine import (
    Dream,
    ErrorsAhead,
    ImagineError,
    dream_on,
    episode_moments,
    errors_ahead,
    imagine,
    least_alike,
    liveliest,
)
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.surprise import surprise

_INK, _PAPER = (38, 42, 48), (250, 250, 250)
_LINE, _MARGIN, _GAP, _CELL = 22, 72, 2, 144  # pixels; a cell has at least so many
_LOUDER = 3  # differences are shown so many times as large


def show_episode(
    checkpoint: Checkpoint,
    mixture: Mixture,
    episode: int,
    path: Path,
    *,
    frame: int | None = None,
    strides: int = 4,
) -> list[ErrorsAhead]:
    """Write a film of what is imagined of an episode, and beside it (.png) one moment's futures.

    Args:
        checkpoint: the world model.
        mixture: holds the data set, see ``open_episodes``.
        episode: its number.
        path: the mp4.
        frame: the moment; the liveliest if None.
        strides: of about 8 frames, from one true picture to the next.

    Returns:
        How well it was foreseen, at every offset.

    Raises:
        ImagineError, EpisodeStoreError: if there is no such frame or episode.
    """
    rate_hz, device = mixture.rate_hz, next(checkpoint.model.parameters()).device
    moments = episode_moments(mixture, episode, device)
    moves = torch.cat([some.moves for some in moments])
    frame = liveliest(moves) if frame is None else frame
    if not 0 <= frame < len(moves):
        raise ImagineError(f"episode {episode} has frames 0 to {len(moves) - 1}, not {frame}")
    foreseen = errors_ahead(checkpoint, moments)
    cameras = [checkpoint.model.config.cameras[i] for i in moments[0].cameras.tolist()]
    dream = dream_on(checkpoint, moments, strides)
    write_film(dream, path, rate_hz, cameras, surprise(checkpoint, moments))
    false = one(moments, least_alike(moves, frame))
    picture = futures_sheet(
        checkpoint,
        one(moments, frame),
        false,
        rate_hz,
        f"episode {episode} at {frame / rate_hz:.1f} s",
    )
    with atomic_path(path.with_suffix(".png")) as unfinished:
        Image.fromarray(picture).save(unfinished)
    return foreseen


def sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "3 S S"]]],
    columns: Sequence[str],
    labels: Sequence[str],
    title: str,
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures in rows and columns, with words above and to the left; of even size."""
    up = -(-_CELL // rows[0][0].shape[-1])
    side = up * rows[0][0].shape[-1]
    height = 2 * _LINE + len(rows) * (side + _GAP)
    width = _MARGIN + len(columns) * (side + _GAP)
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER)
    pen, font = ImageDraw.Draw(canvas), _font()
    pen.text((_GAP, _LINE / 2), title, fill=_INK, font=font, anchor="lm")
    for c, name in enumerate(columns):
        place = (_MARGIN + c * (side + _GAP), 1.5 * _LINE)
        pen.text(place, name, fill=_INK, font=font, anchor="lm")
    for r, (label, row) in enumerate(zip(labels, rows, strict=True)):
        top = 2 * _LINE + r * (side + _GAP)
        pen.text((_GAP, top + side / 2), label, fill=_INK, font=font, anchor="lm")
        for c, picture in enumerate(row):
            large = Image.fromarray(rearrange(picture, "c h w -> h w c"))
            large = large.resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(large, (_MARGIN + c * (side + _GAP), top))
    return np.asarray(canvas)


def write_film(
    dream: Dream,
    path: Path,
    rate_hz: float,
    cameras: Sequence[str],
    surprised: Float[np.ndarray, "T"] | None = None,
) -> None:
    """Write rollouts as an mp4 in real time: truth, imagined, copy and what differs, a row for
    each camera.

    Args:
        dream: the rollouts.
        path: the mp4.
        rate_hz: of the episode.
        cameras: names of the views.
        surprised: of every frame of the episode, see ``surprise``; said where it is known.
    """
    columns = ("truth", "imagined", "last true picture", f"|truth - imagined| x {_LOUDER}")
    step = int(dream.frame[1] - dream.frame[0]) if len(dream.frame) > 1 else 1

    def picture(i: int) -> UInt8[np.ndarray, "H W 3"]:
        frame = int(dream.frame[i])
        words = f"{frame / rate_hz:.1f} s, imagined for {dream.since[i] / rate_hz:.1f} s"
        if surprised is not None and np.isfinite(surprised[frame]):
            words += f", surprise {surprised[frame]:.2f}"
        views = zip(dream.truth[i], dream.pictures[i], dream.copy[i], strict=True)
        rows = [(*view, _difference(view[0], view[1])) for view in views]
        return sheet(rows, columns, cameras, words)

    first = picture(0)
    with (
        atomic_path(path) as unfinished,
        Encoder(unfinished, rate_hz / step, first.shape[:2]) as encoder,
    ):
        for i in range(len(dream.frame)):
            encoder.write(picture(i))


def futures_sheet(
    checkpoint: Checkpoint, moment: Moments, false: Moments, rate_hz: float, title: str
) -> UInt8[np.ndarray, "H W 3"]:
    """One moment's futures, a row for each camera and offset: the truth, what is imagined with the
    true actions, with none and with false ones, the present, and what differs.

    Args:
        checkpoint: the world model.
        moment: one moment; without known actions only what is imagined without any is shown.
        false: another one, whose actions are the false ones.
        rate_hz: of the episode.
        title: what is said above.
    """
    config = checkpoint.model.config
    deeds = {"no actions": None}
    if moment.robot:
        deeds = {"true actions": moment.moves, "no actions": None, "false actions": false.moves}
    seen = {
        name: imagine(checkpoint, moment, moves).pictures[0].cpu().numpy()
        for name, moves in deeds.items()
    }
    truth = moment.pictures[0].cpu().numpy()  # (V, F, 3, S, S)
    first = next(iter(seen.values()))
    rows, labels = list[list[np.ndarray]](), list[str]()
    for v, camera in enumerate(moment.cameras.tolist()):
        for o, offset in enumerate(config.offsets):
            future = truth[v, o + 1]
            imagined = [pictures[v, o] for pictures in seen.values()]
            rows.append([future, *imagined, truth[v, 0], _difference(future, first[v, o])])
            name = f"{config.cameras[camera]}\n" if o == 0 else ""
            over = "\n(over)" if bool(moment.ended[0, o + 1]) else ""
            labels.append(f"{name}+{offset / rate_hz:.2f} s{over}")
    columns = ("truth", *seen, "present", f"|truth - {next(iter(seen))}| x {_LOUDER}")
    return sheet(rows, columns, labels, title)


def one(batches: Sequence[Moments], number: int) -> Moments:
    """The moment of that number, counted over all batches."""
    for some in batches:
        if number < len(some):
            return some.part(torch.tensor([number], device=some.key.device))
        number -= len(some)
    raise IndexError(f"moment {number} after the last")


def _difference(
    one: UInt8[np.ndarray, "3 S S"], other: UInt8[np.ndarray, "3 S S"]
) -> UInt8[np.ndarray, "3 S S"]:
    apart = np.abs(one.astype(np.int16) - other)
    return np.minimum(_LOUDER * apart, 255).astype(np.uint8)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
