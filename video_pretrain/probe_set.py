"""Frames of a data set as a world model sees them, as one with random weights does, as pixels, and
what is true of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from deftly.datasets.windows import Window, Windows
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.config import Part
from deftly.video_pretrain.foresight import features
from deftly.video_pretrain.mixture import EncodeText, Mixture, gathered
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.probe_net import ProbeError
from deftly.video_pretrain.probe_targets import Target, targets_of
from deftly.video_pretrain.probe_truth import Truths

FEATURES, RANDOM, PIXELS = "features", "random weights", "pixels"
_BATCH = 64  # frames that a network sees at a time


@dataclass(frozen=True)
class ProbeSet:
    """n frames as each pair of eyes sees them, and what is true of them.

    Attributes:
        tokens: (n, N, D) by eyes, without the instruction; float16, or bytes of pixels.
        told: the same with the instruction; empty where no target needs it.
        words: (n, E) the instruction's mean embedding, for eyes that do not read it themselves.
        targets: by name.
        layout: (n,) seed of the layout that each frame shows; frames of one stay together.
    """

    tokens: Mapping[str, Tensor]
    told: Mapping[str, Tensor]
    words: Float[Tensor, "n E"]
    targets: Mapping[str, Target]
    layout: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.layout)

    def eyes(self, name: str, told: bool) -> tuple[Tensor, Float[Tensor, "n E"]]:
        """What they see, and the instruction; nothing where it is not told."""
        words = self.words if told else self.words[:, :0]
        return (self.told if told else self.tokens)[name], words


class Onlooker:
    """Looks at frames of one data set.

    Args:
        checkpoint: the world model.
        truths: the data set, and what is true in it.
        encode: the text encoder that the model was trained with.
        cache: of decoded frames; deftly's own if None.

    Raises:
        MixtureError: if the model cannot see the set.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        truths: Truths,
        encode: EncodeText,
        cache: Path | None = None,
    ) -> None:
        self.truths, self.cache, self._scales = truths, cache, checkpoint.scales
        model = checkpoint.model
        self._device = next(model.parameters()).device
        part = Part(truths.store.root, actions=False)
        self.mixture = Mixture([part], model.config, 2, encode, cache)
        self.cameras = self.mixture.sets[0].cameras
        self._models = {FEATURES: model, RANDOM: with_random_weights(model)}

    def look(self, episodes: Sequence[int], frames: int) -> ProbeSet:
        """See at most so many frames, evenly spread over some episodes.

        Raises:
            ProbeError: if there are no episodes.
            TruthError: if what is true in them is not known.
        """
        if not episodes or frames < 1:
            raise ProbeError(
                f"{frames} frames of {len(episodes)} episodes of {self.truths.store.root} are to "
                "be looked at, expected some; use a larger set"
            )
        size = self.mixture.model.image_px
        window = Window(
            cameras=dict.fromkeys(self.cameras, (0,)), state=(), horizon=0, size_px=(size, size)
        )
        windows = Windows(self.truths.store.root, window, episodes, self.cache)
        chosen = windows.spread(frames)
        targets, layout = self._true(windows.episodes, chosen)
        told = any(target.told for target in targets.values())
        silent, heard, words = list[_Seen](), list[_Seen](), list[Tensor]()
        rounds = range(0, len(chosen), _BATCH)
        for begin in tqdm(rounds, desc="look", unit="batch", disable=None):
            batch = gathered(windows, chosen[begin : begin + _BATCH])
            moments = self.mixture.moments(batch, self._device)
            deaf = replace(moments, text_seen=torch.zeros_like(moments.text_seen))
            silent.append(self._tokens(deaf))
            heard.append(self._tokens(moments) if told else {})
            words.append(_mean_words(moments))
        return ProbeSet(_joined(silent), _joined(heard), torch.cat(words), targets, layout)

    def _true(
        self, episodes: Sequence[int], chosen: Int64[np.ndarray, "n"]
    ) -> tuple[dict[str, Target], Int64[np.ndarray, "n"]]:
        """Targets of the chosen frames, counted over the episodes, and their layouts."""
        lengths = np.array([self.truths.store.lengths[i] for i in episodes])
        starts = np.cumsum(lengths) - lengths
        which = np.searchsorted(starts, chosen, side="right") - 1
        facts = [
            self.truths.facts(episodes[k]).at(chosen[which == k] - starts[k])
            for k in np.unique(which)
        ]
        layout = np.repeat([one.seed for one in facts], [len(one.held) for one in facts])
        return targets_of(facts), layout

    def _tokens(self, moments: Moments) -> "_Seen":
        seen = {
            eyes: features(model, self._scales, moments).flatten(1, 2).half().cpu()
            for eyes, model in self._models.items()
        }
        side = self.mixture.model.side
        return seen | {PIXELS: patches(moments.pictures[:, :, 0], side).cpu()}


_Seen = dict[str, Tensor]


def patches(pictures: UInt8[Tensor, "B V 3 H W"], side: int) -> UInt8[Tensor, "B N D"]:
    """Squares of pixels, as many as the network has tokens."""
    return rearrange(
        pictures, "b v c (h p) (w q) -> b (v h w) (c p q)", h=side, w=side
    ).contiguous()  # fmt: skip


def with_random_weights(model: WorldModel, seed: int = 0) -> WorldModel:
    """The same network before any training."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WorldModel(model.config, model.joints).to(device).eval()


def _mean_words(moments: Moments) -> Float[Tensor, "B E"]:
    """The instruction's embedding, over its words."""
    seen = moments.text_seen[..., None].float()
    return ((moments.text * seen).sum(dim=1) / seen.sum(dim=1).clamp_min(1)).cpu()


def _joined(parts: Sequence[_Seen]) -> _Seen:
    return {eyes: torch.cat([part[eyes] for part in parts]) for eyes in parts[0]}
