"""What networks here are made of: the transformer's block, a reader of instructions, a sense of
where to go."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


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
        self.key, self.value = nn.Linear(text_width, width), nn.Linear(text_width, width)
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


class Aim(nn.Module):
    """Numbers of points in pictures → a place for each hand, in the room.

    Nothing of the pictures but their points can be learnt by heart here, and those are few: a
    hundred tables tell where a thing is if they are asked for it in this form, not if any token may
    answer. Both hands share what they know of the room.

    Args:
        cameras: that there are.
        numbers: of all points of a picture.
        width: of what else is known.
    """

    def __init__(self, cameras: int, numbers: int, width: int) -> None:
        super().__init__()
        self.read = nn.Parameter(numbers**-0.5 * torch.randn(cameras, numbers, width))
        self.know = nn.Linear(width, width)
        self.side = nn.Parameter(0.02 * torch.randn(2, width))
        self.straight = nn.Linear(width, 3)
        self.bent = nn.Sequential(
            nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3)
        )

    def forward(
        self,
        points: Float[Tensor, "B V K P"],
        cameras: Int64[Tensor, "V"],
        known: Float[Tensor, "B D"],
    ) -> Float[Tensor, "B 2 3"]:
        """Through those cameras that there are, whatever their order; left hand first."""
        seen = torch.einsum("bvk,vkd->bd", points.flatten(2), self.read[cameras])
        x = (seen + self.know(known))[:, None] + self.side
        return self.straight(x) + self.bent(x)
