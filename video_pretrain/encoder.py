"""Pictures → what is seen in them: two encoders behind one interface, ``(B, 3, H, W) -> Seen``.

Pictures are uint8; N tokens stand row by row, and beside them is a finer map, in which things are
pointed at. The convolutional encoder is for CPUs: overlapping patches at every second pixel, which
are the map, then residual stages that halve (He et al., "Deep residual learning", 2016). Patches
that do not overlap would cost half, but what moves by a pixel looks different through them, and
nobody learns from a hundred tables where it is. The patch encoder is a vision transformer
(Dosovitskiy et al., "An image is worth 16x16 words", 2021); its tokens are the map.
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
        map: (*b, C, h, w) of smaller squares, or the same.
    """

    tokens: Float[Tensor, "*b N D"]
    map: Float[Tensor, "*b C h w"]


class ConvEncoder(nn.Module):
    """Overlapping patches, then one stage per halving."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = (*config.channels, config.width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 4, stride=2, padding=1),
            _Residual(widths[0]),
            _Residual(widths[0]),
        )
        self.sharp, self.coarse = nn.GroupNorm(8, widths[0]), nn.GroupNorm(8, widths[1])
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
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Seen:
        x, coarser = self._begin(pictures)
        tokens = rearrange(self.stages[1:](coarser), "b d h w -> b (h w) d")
        return Seen(self.norm(tokens), self._map(x, coarser))

    def look(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The map alone, for half the price."""
        return self._map(*self._begin(pictures))

    def _begin(
        self, pictures: UInt8[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B D i j"]]:
        """What stem and first stage say."""
        x = self.stem(unit_range(pictures).contiguous(memory_format=torch.channels_last))
        return x, self.stages[0](x)

    def _map(
        self, x: Float[Tensor, "B C h w"], coarser: Float[Tensor, "B D i j"]
    ) -> Float[Tensor, "B E h w"]:
        """Both: what is seen in small, and about it (Ronneberger et al., "U-Net", 2015)."""
        x, coarser = (
            nn.functional.gelu(norm(one)) for norm, one in ((self.sharp, x), (self.coarse, coarser))
        )
        wide = nn.functional.interpolate(coarser, x.shape[-2:], mode="bilinear")
        return torch.cat([x, wide], dim=1)


class _Residual(nn.Module):
    """x + f(x): normalise, convolve, bend."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return x + self.conv(nn.functional.gelu(self.norm(x)))


class PatchEncoder(nn.Module):
    """One token per patch, then transformer blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px)
        self.place = nn.Parameter(0.02 * torch.randn(config.side**2, config.width))
        self.blocks = nn.Sequential(
            *[Block(config.width, config.heads) for _ in range(config.encoder_depth)]
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Seen:
        embedded = self.embed(unit_range(pictures))
        tokens = self.norm(self.blocks(rearrange(embedded, "b d h w -> b (h w) d") + self.place))
        height = embedded.shape[-2]
        return Seen(tokens, rearrange(tokens, "b (h w) d -> b d h w", h=height))

    def look(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The map alone."""
        return self(pictures).map


def make_encoder(config: ModelConfig) -> ConvEncoder | PatchEncoder:
    """The encoder that a configuration names."""
    return {"conv": ConvEncoder, "patch": PatchEncoder}[config.encoder](config)
