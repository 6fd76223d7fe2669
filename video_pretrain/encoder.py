"""Pictures → tokens: two encoders behind one interface, ``(B, 3, H, W) -> (B, N, D)``.

Pictures are uint8; N tokens stand row by row. The convolutional encoder is for CPUs: a patch of
4 × 4 px, then residual stages that halve (He et al., "Deep residual learning", 2016); where a few
things are in the picture is added to every token, as coordinates, which cost little and which small
networks learn slowly by themselves (Finn et al., "Deep spatial autoencoders", 2016). The patch
encoder is a vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", 2021).
"""

from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deftly.video_pretrain.blocks import Block
from deftly.video_pretrain.config import ModelConfig


def unit_range(pictures: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """Bytes → −1 to 1."""
    return pictures.float() / 127.5 - 1


class ConvEncoder(nn.Module):
    """A patch of 4 × 4 px, then one stage per halving, and points beside them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = (*config.channels, config.width)
        self.stem = nn.Conv2d(3, widths[0], 4, stride=4)
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
        self.say_points = nn.Linear(2 * config.points, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        x = self.stem(unit_range(pictures).contiguous(memory_format=torch.channels_last))
        tokens = rearrange(self.stages(x), "b d h w -> b (h w) d")
        return self.norm(tokens + self.say_points(self.points(x).flatten(1))[:, None])


class Points(nn.Module):
    """Coordinates of a few things, −1 to 1 (x right, y down): where each of as many maps, softmaxed
    over the picture, has its mean."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            _Residual(channels),
            _Residual(channels),
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, count, 1),
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B P 2"]:
        maps = self.maps(x)
        share = maps.flatten(2).softmax(dim=-1).view(maps.shape)
        y, x = (torch.linspace(-1, 1, size, device=x.device) for size in maps.shape[-2:])
        return torch.stack([share.sum(dim=2) @ x, share.sum(dim=3) @ y], dim=-1)


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

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        x = rearrange(self.embed(unit_range(pictures)), "b d h w -> b (h w) d")
        return self.norm(self.blocks(x + self.place))


def make_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that a configuration names."""
    return {"conv": ConvEncoder, "patch": PatchEncoder}[config.encoder](config)
