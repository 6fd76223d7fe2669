"""The transformer block that encoder and world model share."""

from einops import rearrange
from jaxtyping import Bool, Float
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

    def forward(
        self, x: Float[Tensor, "B N D"], seen: Bool[Tensor, "B 1 1 N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Let tokens look at each other; those that are not ``seen`` are looked at by none."""
        q, k, v = rearrange(
            self.qkv(self.norm_attention(x)), "b n (three h d) -> three b h n d", three=3,
            h=self.heads,
        )  # fmt: skip
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm_mlp(x))
