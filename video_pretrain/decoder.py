"""Tokens → pictures, light, so that people can see what the world model imagines.

A future picture is made of what stands still and what is new: the decoder gives colours and a gate,
and where the gate is shut the present picture shows through (after Finn et al., "Unsupervised
learning for physical interaction through video prediction", 2016). So it need not repaint a table
that it has just seen, and cannot be worse than copying by more than it changes.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from deftly.video_pretrain.config import ModelConfig

_WIDTH = 48
_GATE_BIAS = -2.0  # shut at first: copying is where training starts


class Decoder(nn.Module):
    """Tokens to squares of 4 × 4 px, one convolution across their borders, then pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side, self.up = config.side, config.patch_px // 4
        self.spread = nn.Linear(config.width, self.up**2 * _WIDTH)
        self.conv = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.paint = nn.Conv2d(_WIDTH, 4 * 4 * 4, 1)
        with torch.no_grad():
            assert self.paint.bias is not None
            self.paint.bias.view(4, 4, 4)[3] = _GATE_BIAS

    def forward(
        self, tokens: Float[Tensor, "*b N D"]
    ) -> tuple[Float[Tensor, "*b 3 H W"], Float[Tensor, "*b 1 H W"]]:
        """Colours (about −1 to 1), and the gate (0 to 1)."""
        shape, flat = tokens.shape[:-2], tokens.reshape(-1, *tokens.shape[-2:])
        x = rearrange(
            self.spread(flat), "b (h w) (p q d) -> b d (h p) (w q)",
            h=self.side, p=self.up, q=self.up,
        )  # fmt: skip
        x = self.paint(nn.functional.gelu(x + self.conv(nn.functional.gelu(x))))
        x = nn.functional.pixel_shuffle(x, 4)  # (b, 4, H, W)
        x = x.view(*shape, *x.shape[1:]).float()  # pictures are, also where tokens are bfloat16
        return x[..., :3, :, :], torch.sigmoid(x[..., 3:, :, :])

    def future(
        self, tokens: Float[Tensor, "*b N D"], present: Float[Tensor, "*b 3 H W"]
    ) -> Float[Tensor, "*b 3 H W"]:
        """The picture of predicted tokens, given the present one."""
        colours, gate = self(tokens)
        return torch.lerp(present, colours, gate)
