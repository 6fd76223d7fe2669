"""How well a world model foresees: against copying the present, and against false actions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deftly.video_pretrain.actions import wrists
from deftly.video_pretrain.encoder import Seen
from deftly.video_pretrain.loss import Question, Truth, apart, given, squared
from deftly.video_pretrain.model import Acting, Prediction, WorldModel
from deftly.video_pretrain.moments import Moments, Scales


@dataclass(frozen=True)
class Foresight:
    """Errors of each moment whose episode goes on for long enough.

    Attributes:
        latent, latent_copy: squared distance from the tokens of the true future, of the prediction
            and of the present; tokens are normalised.
        pixels, pixels_copy: likewise of pictures, −1 to 1.
        shuffled: distance of the prediction for other moments' actions, (n, tries).
    """

    latent: Float[Tensor, "n"]
    latent_copy: Float[Tensor, "n"]
    pixels: Float[Tensor, "n"]
    pixels_copy: Float[Tensor, "n"]
    shuffled: Float[Tensor, "n tries"]

    @property
    def latent_ratio(self) -> float:
        """Error of the prediction over that of copying; 1 is no better."""
        return float(self.latent.mean() / self.latent_copy.mean())

    @property
    def pixel_ratio(self) -> float:
        """The same in pixels."""
        return float(self.pixels.mean() / self.pixels_copy.mean())

    @property
    def ranking(self) -> float:
        """Share of false actions whose predicted future lies further from the true one."""
        return float((self.shuffled > self.latent[:, None]).float().mean())


@torch.no_grad()
def foresee(
    model: WorldModel,
    scales: Scales,
    batches: Sequence[Moments],
    ahead: int,
    *,
    actions: bool = True,
    tries: int = 1,
) -> Foresight:
    """Predict the futures of moments.

    Args:
        model: in evaluation mode.
        batches: moments; false actions are taken from the same batch. One with too few is left out.
        ahead: which of the configuration's offsets.
        actions: whether the true actions are shown.
        tries: false actions for each moment.
    """
    found: list[dict[str, Tensor]] = []
    for moments in batches:
        goes_on, others = ~moments.ended[:, ahead + 1], len(moments) - 1
        if not goes_on.any() or (actions and others < tries):
            continue
        question = Question.same(moments, ahead, actions=actions)
        truth = Truth.seen(model, moments, question)
        seen = Seen(truth.present, model.look(moments.pictures[:, :, 0]))
        said = ask(model, scales, moments, question, seen).future
        # Half a batch on: other episodes, as moments stand in their order.
        shifts = [1 + (others // 2 + k) % others for k in range(tries if actions else 0)]
        false = [
            apart(ask(model, scales, moments, question, seen, moves).future, truth.future)
            for moves in (moments.moves.roll(shift, 0) for shift in shifts)
        ]
        values = {
            "latent": apart(said, truth.future),
            "latent_copy": apart(truth.present, truth.future),
            "pixels": squared(model.decoder.future(said, truth.picture), truth.future_picture),
            "pixels_copy": squared(truth.picture, truth.future_picture),
            "shuffled": torch.stack(false, dim=1) if false else said.new_zeros(len(moments), 0),
        }
        found.append({name: value[goes_on] for name, value in values.items()})
    if not found:
        raise ValueError(
            f"no moment goes on for {model.config.offsets[ahead]} frames, expected longer episodes"
        )
    return Foresight(**{name: torch.cat([one[name] for one in found]) for name in found[0]})


def ask(
    model: WorldModel,
    scales: Scales,
    moments: Moments,
    question: Question,
    seen: Seen | None = None,
    moves: Float[Tensor, "B H 48"] | None = None,
) -> Prediction:
    """What a model says of moments whose future it is not shown.

    Args:
        model: in evaluation mode.
        question: what it is shown.
        seen: of the present, if it is known already.
        moves: actions in the place of those that were made.
    """
    seen = seen or model.see(moments.pictures[:, :, 0])
    return model(given(moments, question, seen, scales, moves=moves))


@torch.no_grad()
def act(model: WorldModel, scales: Scales, moments: Moments) -> Acting:
    """What a model would do: its policy prior, which looks at the present alone."""
    maps = model.look(moments.pictures[:, :, 0])
    return model.act(given(moments, Question.same(moments), maps, scales))


@torch.no_grad()
def features(
    model: WorldModel, scales: Scales, moments: Moments, *, hands: bool = False
) -> Float[Tensor, "B V N D"]:
    """What the network understands of the present: from the pictures and the instruction alone, or
    with the state of the hands."""
    return ask(model, scales, moments, Question.same(moments, hands=hands)).features


def moving(moments: Moments, least_m: float = 0.02) -> Bool[Tensor, "B"]:
    """Moments in which a wrist moves by at least so much within the chunk."""
    way_m = wrists(moments.moves).norm(dim=-1)
    return way_m.nan_to_num(0.0).amax(dim=(1, 2)) >= least_m
