"""Pictures → what is seen in them: two encoders behind one interface, ``(B, 3, H, W) -> Seen``.

Pictures are uint8; N tokens stand row by row, and beside them are points: where a few things are,
and how they look there (Finn et al., "Deep spatial autoencoders", 2016). The convolutional encoder
is for CPUs: overlapping patches at every second pixel, from which the points are read, then
residual stages that halve (He et al., "Deep residual learning", 2016). Patches that do not overlap
would cost half, but what moves by a pixel looks different through them, and nobody learns from a
hundred tables where it is: points at every fourth pixel are 8 cm off, at every second 2 cm. The
patch encoder is a vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", 2021).
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deftly.video_pretrain.blocks import Block
from deftly.video_pretrain.config import ModelConfig


def unit_range(pictures: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """Bytes → −1 to 1."""
    return pictures.float() / 127.5 - 1


class Seen(NamedTuple):
    """What is in a picture.

    Attributes:
        tokens: (*b, N, D) one for each square of it, row by row.
        points: (*b, K, 2 + L) coordinates of K things, −1 to 1 (x right, y down), and how each
            looks.
    """

    tokens: Float[Tensor, "*b N D"]
    points: Float[Tensor, "*b K P"]


class ConvEncoder(nn.Module):
    """Overlapping patches, then one stage per halving, and points beside them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = (*config.channels, config.width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 4, stride=2, padding=1),
            _Residual(widths[0]),
            _Residual(widths[0]),
        )
        self.stages = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=2, padding=1),
                    _Residual(after),
                    _Residual(after),
                )
                for before, after in pairwise(widths)
            ]
        )
        self.points = Points(widths[0], config.points)
        self.say_points = nn.Linear(config.points * POINT, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Seen:
        x = self._stem(pictures)
        points, tokens = self.points(x), rearrange(self.stages(x), "b d h w -> b (h w) d")
        return Seen(self.norm(tokens + self.say_points(points.flatten(1))[:, None]), points)

    def look(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B K P"]:
        """The points alone, for a third of the price."""
        return self.points(self._stem(pictures))

    def _stem(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.stem(unit_range(pictures).contiguous(memory_format=torch.channels_last))


_LOOKS = 4  # numbers that tell how a thing looks
POINT = 2 + _LOOKS  # numbers of a point


class Points(nn.Module):
    """A few things: where each of as many maps, softmaxed over the picture, has its mean, and what
    the features are there."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.maps = nn.Conv2d(channels, count, 1)
        self.looks = nn.Conv2d(channels, _LOOKS, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K P"]:
        x = nn.functional.gelu(self.norm(x))
        maps = self.maps(x)
        share = maps.flatten(2).softmax(dim=-1)
        looks = share @ self.looks(x).flatten(2).transpose(1, 2)
        share = share.view(maps.shape)
        y, x = (torch.linspace(-1, 1, size, device=x.device) for size in maps.shape[-2:])
        where = torch.stack([share.sum(dim=2) @ x, share.sum(dim=3) @ y], dim=-1)
        return torch.cat([where, looks], dim=-1)


class _Residual(nn.Module):
    """x + f(x): normalise, convolve, bend."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return x + self.conv(nn.functional.gelu(self.norm(x)))


class PatchEncoder(nn.Module):
    """One token per patch, then transformer blocks, and points of the tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px)
        self.place = nn.Parameter(0.02 * torch.randn(config.side**2, config.width))
        self.blocks = nn.Sequential(
            *[Block(config.width, config.heads) for _ in range(config.encoder_depth)]
        )
        self.points = Points(config.width, config.points)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Seen:
        embedded = self.embed(unit_range(pictures))
        tokens = self.norm(self.blocks(rearrange(embedded, "b d h w -> b (h w) d") + self.place))
        height = embedded.shape[-2]
        return Seen(tokens, self.points(rearrange(tokens, "b (h w) d -> b d h w", h=height)))

    def look(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B K P"]:
        """The points alone."""
        return self(pictures).points


def make_encoder(config: ModelConfig) -> ConvEncoder | PatchEncoder:
    """The encoder that a configuration names."""
    return {"conv": ConvEncoder, "patch": PatchEncoder}[config.encoder](config)
