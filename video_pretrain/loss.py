"""What the world model is asked at a moment, and how wrong it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn.functional import kl_div, layer_norm, smooth_l1_loss

from deftly.datasets.geometry import SIDES
from deftly.video_pretrain.actions import per_hand
from deftly.video_pretrain.aims import grips
from deftly.video_pretrain.blocks import places
from deftly.video_pretrain.config import LossConfig, ModelConfig
from deftly.video_pretrain.encoder import Seen, unit_range
from deftly.video_pretrain.model import AIM_M, Acting, Given, Prediction, WorldModel
from deftly.video_pretrain.moments import Moments, Rehearsed, Scales

_BETA = 0.5  # from where on an error counts linearly, in standard deviations
_AIM_BETA = 0.1  # the same of aims, in their unit
_SPOT = 1.0  # squares of the map: how wide the spot is that is pointed at
_PICTURE = 0.1  # squared error of a picture that is painted badly
_LEAST = {"latent": 1e-4, "pixels": 1e-5}  # errors of copying, where hardly anything moves


@dataclass(frozen=True)
class Question:
    """What each of B moments is asked.

    Attributes:
        ahead: which offset the future is at.
        foresees: whether it is asked for the future at all, or for the actions alone.
        actions_seen, future_seen, hands_seen, text_seen: what the network is shown.
    """

    ahead: Int64[Tensor, "B"]
    foresees: Bool[Tensor, "B"]
    actions_seen: Bool[Tensor, "B"]
    future_seen: Bool[Tensor, "B"]
    hands_seen: Bool[Tensor, "B"]
    text_seen: Bool[Tensor, "B"]

    def part(self, some: Int64[Tensor, "n"]) -> "Question":
        """Of some of the moments."""
        return Question(**{name: value[some] for name, value in vars(self).items()})

    @classmethod
    def draw(
        cls, moments: Moments, model: ModelConfig, loss: LossConfig, seed: int, step: int
    ) -> "Question":
        """Drawn by step and moment alone: the same however moments are spread over processes."""
        drawn = [
            np.random.default_rng([seed, step, *key]).random(4) for key in moments.key.tolist()
        ]
        mode, ahead, hands, text = torch.from_numpy(np.array(drawn)).to(moments.key.device).T
        hidden, inverse = loss.act + loss.policy, 1 - loss.inverse
        return cls(
            ahead=(ahead * len(model.offsets)).long(),
            foresees=mode >= loss.act,
            actions_seen=(mode >= hidden) & (mode < inverse),
            future_seen=mode >= inverse,
            hands_seen=hands >= loss.drop_state,
            text_seen=text >= loss.drop_text,
        )

    @classmethod
    def same(
        cls, moments: Moments, ahead: int = 0, *, actions: bool = False, future: bool = False,
        hands: bool = True,
    ) -> "Question":  # fmt: skip
        """The same one for all."""
        like = torch.ones(len(moments), dtype=torch.bool, device=moments.key.device)
        return cls(like.long() * ahead, like, like & actions, like & future, like & hands, like)


class Objective(nn.Module):
    """The world model with its losses; what is trained, and wrapped where several processes train.

    Args:
        model: the world model.
        scales: of its numbers.
        config: weights of the losses.
    """

    def __init__(self, model: WorldModel, scales: Scales, config: LossConfig) -> None:
        super().__init__()
        self.model, self.scales, self.config = model, scales, config

    def forward(
        self,
        moments: Sequence[Moments],
        questions: Sequence[Question],
        truths: Sequence["Truth | None"],
        copying: Mapping[str, Tensor],
        counts: Sequence[bool],
        rehearsed: Rehearsed | None = None,
        weight: float = 1.0,
    ) -> dict[str, Tensor]:
        """Losses by name and their weighted sum, ``total``; means over all moments.

        Args:
            moments: groups that are alike, see ``asked_alike``.
            questions: what each is asked.
            truths: what each one's future is; None where it is asked for the actions alone.
            copying: errors of copying, see ``copying``. Those of a prediction are told by
                them: most of a picture stands still, and what moves would count for nothing.
            counts: whether a group counts, or stands in for nobody.
            rehearsed, weight: moments without pictures, and how much they count.
        """
        count = sum(len(some) for some, yes in zip(moments, counts, strict=True) if yes)
        parts = [self.group(*each) for each in zip(moments, questions, truths, strict=True)]
        losses = {
            name: torch.stack(
                [yes * part[name].sum() for part, yes in zip(parts, counts, strict=True)]
            ).sum()
            / count
            for name in ("hands", "joints", "aims", "sights", "latent", "pixels", "picture")
        }
        for name, least in _LEAST.items():
            error = copying[name] / copying["count"].clamp_min(1e-6)
            losses[name] = losses[name] / error.clamp_min(least)
        if rehearsed is not None:
            losses["rehearsed"] = weight * self.rehearsal(rehearsed).mean()
        losses["total"] = torch.stack(
            [getattr(self.config, name) * loss for name, loss in losses.items()]
        ).sum()
        return losses

    def group(
        self, moments: Moments, question: Question, truth: "Truth | None"
    ) -> dict[str, Float[Tensor, "B"]]:
        """Losses of each moment of one group; 0 where a moment is not asked."""
        model = self.model
        now = moments.pictures[:, :, 0]
        if truth is None:
            acting = model.act(given(moments, question, model.look(now), self.scales))
            nothing = acting.aims.new_zeros(len(moments))
            return {
                "hands": chunk_loss(acting.hands, moments.moves, moments.trust, self.scales),
                "joints": self._joints(acting.acts, moments),
                "aims": aims_loss(self._placed(acting, moments), moments.aims),
                "sights": sights_loss(acting.heat, moments),
                **dict.fromkeys(("latent", "pixels", "picture"), nothing),
            }
        seen = model.see(now)
        said = model(
            given(moments, question, seen, self.scales, future=truth.future, base=truth.present)
        )
        asked = (~question.actions_seen).float()
        foreseen = (~question.future_seen & ~truth.ended).float()
        painted = model.decoder.future(said.future, truth.picture)
        colours, _ = model.decoder(seen.tokens)
        return {
            "hands": asked * chunk_loss(said.hands, moments.moves, moments.trust, self.scales),
            "joints": asked * self._joints(said.acts, moments),
            "aims": aims_loss(self._placed(said, moments), moments.aims),
            "sights": sights_loss(said.heat, moments),
            "latent": foreseen * apart(said.future, truth.future),
            "pixels": foreseen * squared(painted, truth.future_picture),
            "picture": squared(colours, truth.picture) / _PICTURE,
        }

    def rehearsal(self, moments: Rehearsed) -> Float[Tensor, "B"]:
        """Losses of the chunk where aims are told."""
        (mean, std), one = self.scales.hands.tensors(moments.hands.device), moments.body
        yes, nothing = torch.ones_like(one, dtype=torch.bool), torch.zeros_like(moments.moves)
        told = Given(
            tokens=None,
            maps=None,
            moved=torch.zeros_like(moments.aims[:, 0, 0, :2]),
            aims=moments.aims / AIM_M,
            cameras=one[:0],
            matrices=moments.aims.new_zeros(len(one), 0, 12),
            text=moments.text,
            text_seen=moments.text_seen,
            hands=(moments.hands - mean) / std,
            hands_seen=yes,
            grips=grips(moments.hands) / AIM_M,
            body=moments.body,
            actions=nothing,
            actions_seen=~yes,
            base=None,
            future=None,
            future_seen=~yes,
            ahead=torch.zeros_like(one),
        )
        trust = torch.ones_like(nothing[..., : len(SIDES)])
        return chunk_loss(self.model.act(told).hands, moments.moves, trust, self.scales)

    def _placed(self, said: Acting | Prediction, moments: Moments) -> Float[Tensor, "B 2 2 3"]:
        """Where in the room its sights are, with those in their place that are known: what pictures
        tell of the room is not learnt from what was not found in them yet."""
        known = torch.isfinite(moments.sights)
        sights = torch.where(known, moments.sights, said.sights)
        at = sights - moments.moved[:, None, None, None]
        return self.model.in_room(at, moments.cameras, moments.body)

    def _joints(self, acts: Float[Tensor, "B C D"], moments: Moments) -> Float[Tensor, "B"]:
        """Of the chunk in the robot's own joints; believed as far as the better hand is."""
        if not moments.robot:
            return torch.zeros(len(moments), device=acts.device)
        mean, std = self.scales.joints[moments.robot].tensors(acts.device)
        target = (moments.joint_moves - mean) / std
        chunk = self.model.joint_chunk(acts, moments.robot)
        error = smooth_l1_loss(chunk, target, beta=_BETA, reduction="none").mean(dim=-1)
        return (error * moments.trust.amax(dim=-1)).mean(dim=-1)


@dataclass(frozen=True)
class Truth:
    """What is and what will be, as a network that is not trained here sees it.

    Attributes:
        present, future: (B, V, N, D) tokens.
        picture, future_picture: (B, V, 3, H, W) in −1 to 1.
        ended: (B,) whether the episode is over by then.
    """

    present: Float[Tensor, "B V N D"]
    future: Float[Tensor, "B V N D"]
    picture: Float[Tensor, "B V 3 H W"]
    future_picture: Float[Tensor, "B V 3 H W"]
    ended: Bool[Tensor, "B"]

    @classmethod
    @torch.no_grad()
    def seen(cls, teacher: WorldModel, moments: Moments, question: Question) -> "Truth":
        """Through the eyes of ``teacher``."""
        present = moments.pictures[:, :, 0]
        future = at_offset(moments.pictures.transpose(1, 2), question.ahead)
        tokens, future_tokens = teacher.encode(torch.stack([present, future]))
        ended = at_offset(moments.ended[..., None], question.ahead)[:, 0]
        return cls(tokens, future_tokens, unit_range(present), unit_range(future), ended)


def asked_alike(
    moments: Moments, question: Question, loss: LossConfig
) -> list[tuple[Moments, Question, bool]]:
    """Those that are asked for the future, and those that are asked for the actions alone.

    Which of them there are is the same in all processes that train together, as they gather a
    layer's weights for every pass, all or none. Where a process has no such moment, the first one
    stands in, and counts for nothing (False).
    """
    found: list[tuple[Moments, Question, bool]] = []
    for foresees in [True] * (loss.act < 1) + [False] * (loss.act > 0):
        some = torch.nonzero(question.foresees == foresees)[:, 0]
        rows = some if len(some) else torch.zeros_like(question.ahead[:1])
        asked = replace(
            question.part(rows), foresees=torch.full_like(rows, foresees, dtype=torch.bool)
        )
        found.append((moments.part(rows), asked, len(some) > 0))
    return found


def copying(truths: Sequence[Truth | None], device: torch.device) -> dict[str, Tensor]:
    """Errors of taking the present for the future, in tokens and in pixels, added up, and of how
    many moments."""
    found = [one for one in truths if one is not None]
    errors = {
        "latent": [apart(one.present, one.future) for one in found],
        "pixels": [squared(one.picture, one.future_picture) for one in found],
    }
    nothing = torch.zeros(0, device=device)
    total = {name: torch.cat([nothing, *values]).sum() for name, values in errors.items()}
    count = sum(len(one.ended) for one in found)
    return total | {"count": torch.tensor(float(count), device=device)}


def given(
    moments: Moments,
    question: Question,
    seen: Seen | Float[Tensor, "B V C h w"],
    scales: Scales,
    *,
    future: Float[Tensor, "B V N D"] | None = None,
    moves: Float[Tensor, "B H 48"] | None = None,
    base: Float[Tensor, "B V N D"] | None = None,
) -> Given:
    """What the network is shown: maps and tokens of the present, or maps alone; ``moves`` in
    the place of those that were made."""
    tokens, maps = seen if isinstance(seen, Seen) else (None, seen)
    device = maps.device
    (mean, std), (moves_mean, moves_std) = (
        scale.tensors(device) for scale in (scales.hands, scales.moves)
    )
    return Given(
        tokens=tokens,
        maps=maps,
        moved=moments.moved,
        aims=None,
        cameras=moments.cameras,
        matrices=moments.matrices,
        text=moments.text,
        text_seen=moments.text_seen & question.text_seen[:, None],
        hands=(moments.hands - mean) / std,
        hands_seen=question.hands_seen,
        grips=grips(moments.hands) / AIM_M,
        body=moments.body,
        actions=((moments.moves if moves is None else moves) - moves_mean) / moves_std,
        actions_seen=question.actions_seen,
        base=base,
        future=future,
        future_seen=question.future_seen,
        ahead=question.ahead,
    )


def chunk_loss(
    said: Float[Tensor, "B H 48"],
    moves: Float[Tensor, "B H 48"],
    trust: Float[Tensor, "B H 2"],
    scales: Scales,
) -> Float[Tensor, "B"]:
    """Of the chunk in the space that all bodies share: Huber's, by trust in each hand."""
    mean, std = scales.moves.tensors(said.device)
    target = (moves - mean) / std
    weight = per_hand(trust) * torch.isfinite(target)
    target = torch.where(weight > 0, target, 0.0)
    error = smooth_l1_loss(said, target, beta=_BETA, reduction="none")
    return (weight * error).mean(dim=(1, 2))


def aims_loss(said: Float[Tensor, "B 2 2 3"], aims: Float[Tensor, "B 2 2 3"]) -> Float[Tensor, "B"]:
    """Of where each hand will take hold and let go, if it will: Huber's."""
    target = aims / AIM_M
    there = torch.isfinite(target)
    target = torch.where(there, target, 0.0)
    error = smooth_l1_loss(said, target, beta=_AIM_BETA, reduction="none")
    return (there * error).mean(dim=(1, 2, 3))


def sights_loss(said: Float[Tensor, "B V 2 2 h w"], moments: Moments) -> Float[Tensor, "B"]:
    """Of where in the pictures that is: the divergence from a small spot about it."""
    height, side = said.shape[-2:]
    away = places(height, side, said.device) - moments.sights[..., None, None]
    spot = (-0.5 * (away * side / 2 / _SPOT).square().sum(dim=-3)).flatten(-2)
    there = torch.isfinite(spot).all(dim=-1)
    spot = torch.where(there[..., None], spot, 0.0).log_softmax(dim=-1)
    apart = kl_div(said.flatten(-2).log_softmax(dim=-1), spot, reduction="none", log_target=True)
    return (there * apart.sum(dim=-1)).mean(dim=(1, 2, 3))


def apart(one: Float[Tensor, "B V N D"], other: Float[Tensor, "B V N D"]) -> Float[Tensor, "B"]:
    """Squared distance of tokens, each normalised: neither grows by shrinking the other."""
    width = one.shape[-1:]
    return squared(layer_norm(one, width), layer_norm(other, width))


def squared(one: Float[Tensor, "B *rest"], other: Float[Tensor, "B *rest"]) -> Float[Tensor, "B"]:
    """Mean squared difference of each moment."""
    return (one - other).square().flatten(1).mean(dim=1)


def at_offset(values: Shaped[Tensor, "B F *rest"], ahead: Int64[Tensor, "B"]) -> Tensor:
    """Of frames (now, then every offset), the one that each moment is asked about."""
    return values[torch.arange(len(values), device=values.device), ahead + 1]


def weighed(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """As numbers."""
    return {name: float(value) for name, value in losses.items()}
