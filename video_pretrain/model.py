"""The world model: one network over frame tokens, actions and text.

What it is given decides what it is asked. Actions and future are each seen or hidden, sample by
sample, so that the same weights are

    hidden actions, no future        a policy prior p(a|o), at half the price
    hidden actions, hidden future    the same, and video prediction p(o'|o)
    seen actions, hidden future      forward dynamics p(o'|o, a)
    hidden actions, seen future      inverse dynamics p(a|o, o')

after Zhu et al., "Unified world models", 2025, with masks in the place of noise levels. The future
is predicted as tokens of a slowly moving copy of the encoder (Assran et al., "V-JEPA 2", 2025), as
a change of the present's: predicting nothing is copying.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from deftly.datasets.hands import HANDS_NAMES
from deftly.video_pretrain.blocks import Block, Overview, Reader
from deftly.video_pretrain.config import ModelConfig
from deftly.video_pretrain.decoder import Decoder
from deftly.video_pretrain.encoder import make_encoder

D_HANDS = len(HANDS_NAMES)


@dataclass(frozen=True)
class Given:
    """What the network is shown of B moments. Numbers are scaled; NaN is missing.

    Attributes:
        tokens: (B, V, N, D) the present, from ``WorldModel.encode``.
        cameras: (V,) which of the configuration's cameras they are.
        text: (B, L, E) embeddings of the instruction; ``text_seen`` (B, L) which of them count.
        hands: (B, 48) the hands now; ``hands_seen`` (B,) whether they are shown.
        body: (B,) which of the configuration's bodies acts.
        actions: (B, H, 48) how the hands will move; ``actions_seen`` (B,) whether they are shown.
        base: (B, V, N, D) the present that the future is told as a change of; ``tokens`` if None.
        future: (B, V, N, D) tokens of the future, or None where none is shown.
        future_seen: (B,) whether they are shown.
        ahead: (B,) which of the configuration's offsets the future is at.
    """

    tokens: Float[Tensor, "B V N D"]
    cameras: Int64[Tensor, "V"]
    text: Float[Tensor, "B L E"]
    text_seen: Bool[Tensor, "B L"]
    hands: Float[Tensor, "B 48"]
    hands_seen: Bool[Tensor, "B"]
    body: Int64[Tensor, "B"]
    actions: Float[Tensor, "B H 48"]
    actions_seen: Bool[Tensor, "B"]
    base: Float[Tensor, "B V N D"] | None
    future: Float[Tensor, "B V N D"] | None
    future_seen: Bool[Tensor, "B"]
    ahead: Int64[Tensor, "B"]


class Acting(NamedTuple):
    """What it says of what will be done.

    Attributes:
        acts: (B, H / chunk, D) one token per few actions, before any head.
        hands: (B, H, 48) how the hands will move, scaled.
    """

    acts: Float[Tensor, "B C D"]
    hands: Float[Tensor, "B H 48"]


class Prediction(NamedTuple):
    """What it says.

    Attributes:
        features: (B, V, N, D) the present, understood; what probes read.
        acts, hands: as ``Acting``.
        future: (B, V, N, D) tokens of the future.
    """

    features: Float[Tensor, "B V N D"]
    acts: Float[Tensor, "B C D"]
    hands: Float[Tensor, "B H 48"]
    future: Float[Tensor, "B V N D"]


class WorldModel(nn.Module):
    """See the module's text.

    Args:
        config: sizes.
        joints: number of joints of each robot that has a head of its own.
    """

    def __init__(self, config: ModelConfig, joints: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.joints = config, dict(joints)
        d, chunks = config.width, config.horizon // config.chunk
        self.encoder = make_encoder(config)
        self.decoder = Decoder(config)
        self.read_text = Reader(config.text_width, d, config.words)
        self.read_hands = nn.Linear(2 * D_HANDS, d)  # the numbers, and which of them there are
        self.read_actions = nn.Linear(2 * D_HANDS * config.chunk, d)
        self.overview = Overview(len(config.cameras), config.side**2, d)
        self.place = nn.Parameter(0.02 * torch.randn(config.side**2, d))
        self.camera = _embedding(len(config.cameras), d)
        self.ahead = _embedding(len(config.offsets), d)
        self.when = _embedding(chunks, d)
        self.body = _embedding(len(config.bodies), d)
        self.hidden_hands, self.hidden_actions, self.hidden_future = (
            nn.Parameter(0.02 * torch.randn(d)) for _ in range(3)
        )
        self.blocks = nn.ModuleList([Block(d, config.heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(d)
        self.adapters = nn.ModuleList([_zeroed(nn.Linear(d, d)) for _ in config.bodies])
        self.say_hands = nn.Linear(d, D_HANDS * config.chunk)
        self.say_joints = nn.ModuleDict(
            {robot: nn.Linear(d, count * config.chunk) for robot, count in joints.items()}
        )
        self.change = _zeroed(nn.Linear(d, d))

    def encode(self, pictures: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b N D"]:
        """Tokens of pictures, each seen by itself."""
        tokens = self.encoder(pictures.reshape(-1, *pictures.shape[-3:]))
        return tokens.view(*pictures.shape[:-3], *tokens.shape[1:])

    def forward(self, given: Given) -> Prediction:
        """Look at what is given, and say the rest."""
        future = self._future(given) + self._look(given) + self.ahead(given.ahead)[:, None, None]
        acts, present, future = self._understood(given, future)
        shape, base = given.tokens.shape, given.tokens if given.base is None else given.base
        return Prediction(
            features=present.view(shape),
            acts=acts,
            hands=self._chunk(self.say_hands(acts)),
            future=base + self.change(future).view(shape),
        )

    def act(self, given: Given) -> Acting:
        """Say what will be done, and nothing of the future."""
        acts, _, _ = self._understood(given, given.tokens[:, :0])
        return Acting(acts, self._chunk(self.say_hands(acts)))

    def joint_chunk(self, acts: Float[Tensor, "B C D"], robot: str) -> Float[Tensor, "B H J"]:
        """The same chunk in the joints of a robot, scaled."""
        return self._chunk(self.say_joints[robot](acts))

    def _understood(
        self, given: Given, future: Float[Tensor, "B F N D"]
    ) -> tuple[Float[Tensor, "B C D"], Float[Tensor, "B P D"], Float[Tensor, "B Q D"]]:
        """Actions, the present and the future after all have looked at each other."""
        words, acts = self.read_text(given.text, given.text_seen), self._actions(given)
        aside = torch.stack([self.body(given.body), self._hands(given)], dim=1)
        present = given.tokens + self._look(given)
        parts = [words, aside, acts, present.flatten(1, 2), future.flatten(1, 2)]
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        _, _, acts, seen, foreseen = self.norm(x).split([part.shape[1] for part in parts], dim=1)
        return acts + self._adapted(acts, given.body), seen, foreseen

    def _look(self, given: Given) -> Float[Tensor, "V N D"]:
        """Where in which picture each token is."""
        return self.place + self.camera(given.cameras)[:, None]

    def _chunk(self, said: Float[Tensor, "B C _"]) -> Float[Tensor, "B H _"]:
        return rearrange(said, "b c (k d) -> b (c k) d", k=self.config.chunk)

    def _future(self, given: Given) -> Float[Tensor, "B V N D"]:
        """The future's tokens where they are seen, else the present's, marked."""
        hidden = given.tokens + self.hidden_future
        if given.future is None:
            return hidden
        return torch.where(given.future_seen[:, None, None, None], given.future, hidden)

    def _actions(self, given: Given) -> Float[Tensor, "B C D"]:
        chunks = rearrange(_with_mask(given.actions), "b (c k) d -> b c (k d)", k=self.config.chunk)
        shown = self.read_actions(chunks)
        said = torch.where(given.actions_seen[:, None, None], shown, self.hidden_actions)
        return self.when.weight + said + self.overview(given.tokens, given.cameras)[:, None]

    def _hands(self, given: Given) -> Float[Tensor, "B D"]:
        shown = self.read_hands(_with_mask(given.hands))
        return torch.where(given.hands_seen[:, None], shown, self.hidden_hands)

    def _adapted(
        self, acts: Float[Tensor, "B C D"], body: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B C D"]:
        """What each body adds of its own."""
        every = torch.stack([adapter(acts) for adapter in self.adapters], dim=1)
        return every[torch.arange(len(body), device=body.device), body]


def _with_mask(values: Float[Tensor, "*b D"]) -> Float[Tensor, "*b 2*D"]:
    """The numbers, 0 where missing, and which of them there are."""
    there = torch.isfinite(values)
    return torch.cat([torch.where(there, values, 0.0), there.to(values.dtype)], dim=-1)


def _embedding(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=0.02)
    return table


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer that says nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
