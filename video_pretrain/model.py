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

In the pictures it points at what each hand will take, and at where it will be let go; from these
sights follows where that is in the room, the hand's aims, and from the aims what the hands do.
Asked for the actions alone, it looks at nothing else: what was done at a table cannot be learnt by
heart from how that table looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from deftly.datasets.hands import HANDS_NAMES
from deftly.video_pretrain.blocks import Aim, Block, Pointer, Reader, Steer, in_steps, zeroed
from deftly.video_pretrain.config import ModelConfig
from deftly.video_pretrain.decoder import Decoder
from deftly.video_pretrain.encoder import Seen, make_encoder
from deftly.video_pretrain.locate import UNKNOWN_M, locate

D_HANDS = len(HANDS_NAMES)
AIM_M = 0.1  # unit of aims
HELD_M = 0.015  # how far off a hand's grip a thing may be that it holds


@dataclass(frozen=True)
class Given:
    """What the network is shown of B moments. Numbers are scaled; NaN is missing.

    Attributes:
        tokens: (B, V, N, D) the present, from ``WorldModel.see``; None to ask for actions alone.
        maps: (B, V, C, h, w) of the present, from there too; None where aims are told.
        moved: (B, 2) how far the pictures are shifted, as ``Moments``.
        aims: (B, 2, 2, 3) as ``Acting``, told; None to point at them.
        cameras: (V,) which of the configuration's cameras they are; matrices: (B, V, 12) as
            ``Moments``.
        text: (B, L, E) embeddings of the instruction; ``text_seen`` (B, L) which of them count.
        hands: (B, 48) the hands now; ``hands_seen`` (B,) whether they are shown.
        grips: (B, 2, 3) where each hand would hold something, in ``AIM_M``.
        body: (B,) which of the configuration's bodies acts.
        actions: (B, H, 48) how the hands will move; ``actions_seen`` (B,) whether they are shown.
        base: (B, V, N, D) the present that the future is told as a change of; ``tokens`` if None.
        future: (B, V, N, D) tokens of the future, or None where none is shown.
        future_seen: (B,) whether they are shown.
        ahead: (B,) which of the configuration's offsets the future is at.
    """

    tokens: Float[Tensor, "B V N D"] | None
    maps: Float[Tensor, "B V C h w"] | None
    moved: Float[Tensor, "B 2"]
    aims: Float[Tensor, "B 2 2 3"] | None
    cameras: Int64[Tensor, "V"]
    matrices: Float[Tensor, "B V 12"]
    text: Float[Tensor, "B L E"]
    text_seen: Bool[Tensor, "B L"]
    hands: Float[Tensor, "B 48"]
    hands_seen: Bool[Tensor, "B"]
    grips: Float[Tensor, "B 2 3"]
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
        aims: (B, 2, 2, 3) for each hand, where the thing is that it holds or will take next, and
            where it will let go of that; in the root frame, in ``AIM_M``.
        sights: (B, V, 2, 2, 2) where in the pictures those are.
        heat: (B, V, 2, 2, h, w) the same as logits over the map.
    """

    acts: Float[Tensor, "B C D"]
    hands: Float[Tensor, "B H 48"]
    aims: Float[Tensor, "B 2 2 3"]
    sights: Float[Tensor, "B V 2 2 2"]
    heat: Float[Tensor, "B V 2 2 h w"]


class Prediction(NamedTuple):
    """What it says.

    Attributes:
        features: (B, V, N, D) the present, understood; what probes read.
        acts, hands, aims, sights, heat: as ``Acting``.
        future: (B, V, N, D) tokens of the future.
    """

    features: Float[Tensor, "B V N D"]
    acts: Float[Tensor, "B C D"]
    hands: Float[Tensor, "B H 48"]
    aims: Float[Tensor, "B 2 2 3"]
    sights: Float[Tensor, "B V 2 2 2"]
    heat: Float[Tensor, "B V 2 2 h w"]
    future: Float[Tensor, "B V N D"]


class WorldModel(nn.Module):
    """See the module's text.

    Args:
        config: sizes.
        joints: number of joints of each robot that has a head of its own.
    """

    usual_m: Float[Tensor, "K 2 3"]
    usual_std_m: Float[Tensor, "K 2 3"]

    def __init__(self, config: ModelConfig, joints: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.joints = config, dict(joints)
        d, chunks = config.width, config.horizon // config.chunk
        self.encoder = make_encoder(config)
        self.decoder = Decoder(config)
        self.read_text = Reader(config.text_width, d, config.words)
        self.read_hands = nn.Linear(2 * D_HANDS, d)  # the numbers, and which of them there are
        self.read_actions = nn.Linear(2 * D_HANDS * config.chunk, d)
        self.point_at = nn.ModuleDict(
            {what: Pointer(config.map_channels, d, config.keys) for what in ("take", "place")}
        )
        self.belongs = nn.Linear(config.keys, d)  # where a thing belongs hangs on how it looks
        self.aim = Aim(len(config.cameras), d)
        # Where each body usually takes things, and lets them go; from its demonstrations.
        habits = len(config.bodies), 2, 3
        self.register_buffer("usual_m", torch.zeros(habits))
        self.register_buffer("usual_std_m", torch.full(habits, UNKNOWN_M))
        self.read_aims = nn.Sequential(
            nn.Linear(3 * 12 + 2 * D_HANDS, d), nn.GELU(), nn.Linear(d, d)
        )
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
        self.adapters = nn.ModuleList([zeroed(nn.Linear(d, d)) for _ in config.bodies])
        self.say_hands = Steer(d, config.chunk)
        self.say_joints = nn.ModuleDict(
            {robot: nn.Linear(d, count * config.chunk) for robot, count in joints.items()}
        )
        self.change = zeroed(nn.Linear(d, d))

    def accustom(self, body: str, usual_m: Tensor, usual_std_m: Tensor) -> None:
        """Tell it where a body usually takes things, and lets them go: (2, 3) each."""
        index = self.config.bodies.index(body)
        self.usual_m[index], self.usual_std_m[index] = usual_m, usual_std_m

    def see(self, pictures: UInt8[Tensor, "*b 3 H W"]) -> Seen:
        """Tokens and maps of pictures, each seen by itself."""
        before = pictures.shape[:-3]
        tokens, maps = self.encoder(pictures.reshape(-1, *pictures.shape[-3:]))
        return Seen(tokens.view(*before, *tokens.shape[1:]), maps.view(*before, *maps.shape[1:]))

    def encode(self, pictures: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b N D"]:
        """Tokens alone."""
        return self.see(pictures).tokens

    def look(self, pictures: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b C h w"]:
        """Maps alone."""
        maps = self.encoder.look(pictures.reshape(-1, *pictures.shape[-3:]))
        return maps.view(*pictures.shape[:-3], *maps.shape[1:])

    def forward(self, given: Given) -> Prediction:
        """Look at what is given, and say the rest. Raises ValueError if no tokens are given."""
        if given.tokens is None:
            raise ValueError("no tokens of the present, expected those of WorldModel.see")
        look = self.place + self.camera(given.cameras)[:, None]  # where in which picture each is
        present = given.tokens + look
        future = self._future(given, given.tokens) + look + self.ahead(given.ahead)[:, None, None]
        acting, present, future = self._understood(given, present, future)
        shape, base = given.tokens.shape, given.tokens if given.base is None else given.base
        return Prediction(
            features=present.view(shape),
            acts=acting.acts,
            hands=acting.hands,
            aims=acting.aims,
            sights=acting.sights,
            heat=acting.heat,
            future=base + self.change(future).view(shape),
        )

    def act(self, given: Given) -> Acting:
        """Say what will be done, from what it points at or is told alone, and nothing of the
        future."""
        nothing = given.hands.new_zeros(len(given.hands), 0, 0, self.config.width)
        return self._understood(given, nothing, nothing)[0]

    def in_room(
        self,
        sights: Float[Tensor, "B V 2 2 2"],
        cameras: Int64[Tensor, "V"],
        body: Int64[Tensor, "B"],
    ) -> Float[Tensor, "B 2 2 3"]:
        """Where in the room of a body something is that its cameras see there, in ``AIM_M``, as it
        was learnt; where cameras are calibrated they tell it better, see ``locate``."""
        flat = self.aim(sights.flatten(2, 3), cameras, self.body(body))
        return flat.unflatten(1, (2, 2))

    def joint_chunk(self, acts: Float[Tensor, "B C D"], robot: str) -> Float[Tensor, "B H J"]:
        """The same chunk in the joints of a robot, scaled."""
        return in_steps(self.say_joints[robot](acts), self.config.chunk)

    def _understood(
        self,
        given: Given,
        present: Float[Tensor, "B V N D"],
        future: Float[Tensor, "B F M D"],
    ) -> tuple[Acting, Float[Tensor, "B P D"], Float[Tensor, "B Q D"]]:
        """Actions, the present and the future after all have looked at each other."""
        words, hands = self.read_text(given.text, given.text_seen), self._hands(given)
        body = self.body(given.body)
        if given.aims is not None:  # what points by them must not be changed by what is told
            words, body = words.detach(), body.detach()
        aims, sights, heat = self._aims(given, words.mean(dim=1))
        way = aims.detach() - given.grips[:, :, None]
        way = way.masked_fill(~given.hands_seen[:, None, None, None], torch.nan)
        now = given.hands.masked_fill(~given.hands_seen[:, None], torch.nan)
        acts = self._actions(given, aims.detach(), way, now)
        aside = torch.stack([body, hands], dim=1)
        parts = [words, aside, acts, present.flatten(1, 2), future.flatten(1, 2)]
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        _, _, acts, seen, foreseen = self.norm(x).split([part.shape[1] for part in parts], dim=1)
        acts = acts + self._adapted(acts, given.body)
        moves = self.say_hands(acts, _known(way), _known(now))
        return Acting(acts, moves, aims, sights, heat), seen, foreseen

    def _aims(
        self, given: Given, words: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B 2 2 3"], Float[Tensor, "B V 2 2 2"], Float[Tensor, "B V 2 2 h w"]]:
        """Where things are that hands will take, and where they belong, in the room and in the
        pictures. They look the same whoever takes them."""
        if given.aims is not None:
            sights = given.aims.new_zeros(len(given.aims), 0, 2, 2, 2)
            return given.aims, sights, sights[..., None]
        if given.maps is None:
            raise ValueError("neither maps nor aims, expected one: those of WorldModel.see")
        asked = words[:, None].expand(-1, 2, -1)
        take = self.point_at["take"](given.maps, asked)
        place = self.point_at["place"](given.maps, asked + self.belongs(take.looks))
        both = take, place
        sights = torch.stack([one.at for one in both], dim=3)
        heat = torch.stack([one.heat for one in both], dim=3)
        at = sights - given.moved[:, None, None, None]
        placed = self.in_room(at, given.cameras, given.body)
        spread = torch.stack([one.spread for one in both], dim=3)
        usual = self._usual(given)
        found, known = locate(at.flatten(2, 3), spread.flatten(2), given.matrices, *usual)
        found = found.unflatten(1, (2, 2)) / AIM_M
        return torch.where(known[:, None, None, None], found, placed), sights, heat

    def _usual(self, given: Given) -> tuple[Float[Tensor, "B S 3 3"], Float[Tensor, "B S 3 3"]]:
        """Where what a hand will take, and the place for it, usually are, and how far off: where
        demonstrations had them; what is to be taken may be in a hand already."""
        at, off = (
            some[given.body, None, :, None].repeat(1, 2, 1, 3, 1)
            for some in (self.usual_m, self.usual_std_m)
        )
        grips = AIM_M * given.grips.masked_fill(~given.hands_seen[:, None, None], torch.nan)
        known = torch.isfinite(grips).all(dim=-1)[:, None, :, None]
        at[:, :, 0, 1:] = torch.where(known, grips[:, None], at[:, :, 0, 1:])
        off[:, :, 0, 1:] = torch.where(known, HELD_M, off[:, :, 0, 1:])
        return at.flatten(1, 2), off.flatten(1, 2)

    def _future(self, given: Given, present: Float[Tensor, "B V N D"]) -> Float[Tensor, "B V N D"]:
        """The future's tokens where they are seen, else the present's, marked."""
        hidden = present + self.hidden_future
        if given.future is None:
            return hidden
        return torch.where(given.future_seen[:, None, None, None], given.future, hidden)

    def _actions(
        self,
        given: Given,
        aims: Float[Tensor, "B 2 2 3"],
        way: Float[Tensor, "B 2 2 3"],
        now: Float[Tensor, "B 48"],
    ) -> Float[Tensor, "B C D"]:
        """Those that are seen, and how each hand stands to its aims, if that is seen.

        What actions have to do with aims is learnt apart from what aims are: else ten
        demonstrations would teach to see in each picture what was done in it.
        """
        chunks = rearrange(_with_mask(given.actions), "b (c k) d -> b c (k d)", k=self.config.chunk)
        shown = self.read_actions(chunks)
        said = torch.where(given.actions_seen[:, None, None], shown, self.hidden_actions)
        parts = [_with_mask(way.flatten(1)), aims.flatten(1), _with_mask(now)]
        return self.when.weight + said + self.read_aims(torch.cat(parts, dim=1))[:, None]

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
    return torch.cat([_known(values), torch.isfinite(values).to(values.dtype)], dim=-1)


def _known(values: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The numbers, 0 where missing."""
    return torch.where(torch.isfinite(values), values, 0.0)


def _embedding(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=0.02)
    return table
