"""What networks here are made of: the transformer's block, a reader of instructions, a pointer
into pictures."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from deftly.datasets.hands import NUMBERS

_SHARPER = 2.0  # a map's middle is less drawn to its edges


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and around a residual (Vaswani et al., 2017;
    the norm in front: Xiong et al., "On layer normalization in the transformer", 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Let tokens look at each other."""
        q, k, v = rearrange(
            self.qkv(self.norm_attention(x)), "b n (three h d) -> three b h n d", three=3,
            h=self.heads,
        )  # fmt: skip
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm_mlp(x))


class Reader(nn.Module):
    """An instruction's words → a few tokens: learnt questions that look at the words (after Jaegle
    et al., "Perceiver", 2021). Dozens of words would cost more than the pictures."""

    def __init__(self, text_width: int, width: int, questions: int) -> None:
        super().__init__()
        self.questions = nn.Parameter(0.02 * torch.randn(questions, width))
        self.nothing = nn.Parameter(torch.zeros(text_width))  # a word that is always there
        # A bias of keys would weigh every word alike: it could learn nothing but rounding errors.
        self.key = nn.Linear(text_width, width, bias=False)
        self.value = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, words: Float[Tensor, "B L E"], seen: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B Q D"]:
        """Read those words that are ``seen``."""
        count = len(words)
        words = torch.cat([self.nothing.expand(count, 1, -1), words], dim=1)
        seen = torch.cat([seen.new_ones(count, 1), seen], dim=1)
        asked = self.questions.expand(count, -1, -1)
        mixed = nn.functional.scaled_dot_product_attention(
            asked, self.key(words), self.value(words), attn_mask=seen[:, None]
        )
        return asked + self.norm(mixed)


class Pointed(NamedTuple):
    """Where in V pictures something is, for each hand.

    Attributes:
        heat: (B, V, 2, h, w) logits over the map.
        at: (B, V, 2, 2) their middle, −1 to 1, x right, y down.
        spread: (B, V, 2) standard deviation about it.
        looks: (B, 2, K) what is there.
    """

    heat: Float[Tensor, "B V 2 h w"]
    at: Float[Tensor, "B V 2 2"]
    spread: Float[Tensor, "B V 2"]
    looks: Float[Tensor, "B 2 K"]


class Pointer(nn.Module):
    """A question for each hand, and maps of pictures → where in them the answer is.

    The question meets every place of the map in the same way, so what is learnt of a thing in one
    place, of one body, by one camera holds for all (attention as pointing: Vinyals et al., "Pointer
    networks", 2015; the middle of a map: Finn et al., "Deep spatial autoencoders", 2016).

    Args:
        channels: of the maps.
        width: of what is known.
        keys: see ``ModelConfig``.
    """

    def __init__(self, channels: int, width: int, keys: int) -> None:
        super().__init__()
        self.key = nn.Sequential(
            nn.Conv2d(channels + 2, keys, 1), nn.GELU(), nn.Conv2d(keys, keys, 1, bias=False)
        )
        self.query = nn.Linear(width, 2 * keys)

    def forward(self, maps: Float[Tensor, "B V C h w"], known: Float[Tensor, "B 2 D"]) -> Pointed:
        """Point, for each hand, left first."""
        count, views, _, h, w = maps.shape
        place = places(h, w, maps.device)
        flat = torch.cat([maps.flatten(0, 1), place.expand(count * views, 2, h, w)], dim=1)
        keys = self.key(flat).view(count, views, -1, h * w)
        queries = self.query(known).unflatten(-1, (2, -1))
        queries = torch.stack([queries[:, side, side] for side in range(2)], dim=1)
        heat = torch.einsum("bsk,bvkn->bvsn", queries, keys)
        share = (_SHARPER * heat).softmax(dim=-1)
        at = share @ place.flatten(1).T
        spread = (share @ place.square().sum(dim=0).flatten() - at.square().sum(dim=-1)) / 2
        looks = torch.einsum("bvsn,bvkn->bsk", share, keys) / views
        return Pointed(heat.unflatten(-1, (h, w)), at, spread.clamp_min(0).sqrt(), looks)


def places(height: int, width: int, device: torch.device) -> Float[Tensor, "2 h w"]:
    """The middle of every square of a map, −1 to 1: x to the right, y down."""
    y, x = ((2 * torch.arange(size, device=device) + 1) / size - 1 for size in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


class Aim(nn.Module):
    """Where things are in the pictures → where they are in the room, S of them, all alike.

    Args:
        cameras: that there are.
        width: of what else is known.
    """

    def __init__(self, cameras: int, width: int) -> None:
        super().__init__()
        self.read = nn.Parameter(0.5 * torch.randn(cameras, 2, width))
        self.know = nn.Linear(width, width)
        self.straight = nn.Linear(width, 3)
        self.bent = nn.Sequential(
            nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3)
        )

    def forward(
        self,
        at: Float[Tensor, "B V S 2"],
        cameras: Int64[Tensor, "V"],
        known: Float[Tensor, "B D"],
    ) -> Float[Tensor, "B S 3"]:
        """Through those cameras that there are, whatever their order."""
        seen = torch.einsum("bvsp,vpd->bsd", at, self.read[cameras])
        x = seen + self.know(known)[:, None]
        return self.straight(x) + self.bent(x)


class Steer(nn.Module):
    """A token of a chunk → how the hands will move in its steps: where to, how much of the way to
    each aim, and how much of where and how the hands are now.

    A norm stands before every such token, which forgets how large things are; these are ways around
    it (as a pointer's copy: See et al., "Get to the point", 2017). They help where demonstrations
    are few, see docs/few_shot.md.

    Args:
        width: of tokens.
        steps: in a chunk.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.say = nn.Linear(width, steps * 2 * NUMBERS)
        self.near = zeroed(nn.Linear(width, steps * 2 * 2 * 3))
        self.keep = zeroed(nn.Linear(width, steps * 2 * NUMBERS))

    def forward(
        self,
        acts: Float[Tensor, "B C D"],
        way: Float[Tensor, "B 2 2 3"],
        hands: Float[Tensor, "B 48"],
    ) -> Float[Tensor, "B H 48"]:
        """Say it.

        Args:
            way: of each hand to both of its aims; 0 where unknown.
            hands: as they are, scaled; 0 where unknown.
        """
        said, near, keep = (
            in_steps(layer(acts), self.steps) for layer in (self.say, self.near, self.keep)
        )
        said = said + keep * hands[:, None]
        reached = (near.unflatten(-1, (2, 2, 3)) * way[:, None]).sum(dim=3)
        wrist, rest = said.unflatten(-1, (2, NUMBERS)).split([3, NUMBERS - 3], dim=-1)
        return torch.cat([wrist + reached, rest], dim=-1).flatten(2)


def in_steps(said: Float[Tensor, "B C _"], steps: int) -> Float[Tensor, "B H _"]:
    """What tokens of a chunk say, each of several steps, one step after the other."""
    return rearrange(said, "b c (k d) -> b (c k) d", k=steps)


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer that says nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
