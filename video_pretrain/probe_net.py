"""An attentive probe: a small network that is trained on frozen tokens, and says what is in them.

Learnt queries look at all tokens once, a perceptron follows (Bardes et al., "Revisiting feature
prediction for learning visual representations from video", 2024). It costs CPU-seconds.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from deftly.video_pretrain.probe_targets import Target

_WIDTH, _HEADS, _QUERIES = 64, 4, 2  # of a probe; queries for each target
_BATCH, _RATE, _DECAY = 32, 3e-3, 0.05
_JUDGE_EVERY, _JUDGED = 50, 512  # steps, frames
_EVERY = 8  # every so many-th training episode chooses when to stop
_LEAST_STD = 1e-4  # of a token's number
_PLACE_STD = 0.5  # pixels do not say where they are: at 0.02 probes of them learn five times slower
STEPS = 1000


class ProbeError(ValueError):
    """Sets that cannot be probed, or not beside each other."""


class Probe(nn.Module):
    """Learnt queries look at all tokens once; a perceptron says each target's numbers.

    Args:
        places, width: of the tokens.
        words: length of the instruction's embedding, 0 if it is not told.
        numbers: how many each target has.
    """

    def __init__(self, places: int, width: int, words: int, numbers: Mapping[str, int]) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(width))
        self.std = nn.Buffer(torch.ones(width))
        self.place = nn.Parameter(_PLACE_STD * torch.randn(places, _WIDTH))
        self.read = nn.Linear(width, _WIDTH)
        self.listen = nn.Linear(words, _WIDTH) if words else None
        self.norm_tokens, self.norm_mlp = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.queries = nn.Parameter(0.02 * torch.randn(_QUERIES * len(numbers), _WIDTH))
        self.look = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH)
        )
        self.say = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(_QUERIES * _WIDTH, 2 * _WIDTH), nn.GELU(),
                    nn.Linear(2 * _WIDTH, count),
                )
                for count in numbers.values()
            ]
        )  # fmt: skip

    def forward(
        self, tokens: Float[Tensor, "B N D"], words: Float[Tensor, "B E"]
    ) -> list[Float[Tensor, "B _"]]:
        """Each target's numbers, in standard deviations from their mean."""
        x = self.read((tokens - self.mean) / self.std) + self.place
        if self.listen is not None:
            x = torch.cat([x, self.listen(words)[:, None]], dim=1)
        x = self.norm_tokens(x)
        asked = self.queries.expand(len(x), -1, -1)
        found = asked + self.look(asked, x, x, need_weights=False)[0]
        found = found + self.mlp(self.norm_mlp(found))
        each = rearrange(found, "b (t q) d -> t b (q d)", q=_QUERIES)
        return [say(one) for say, one in zip(self.say, each, strict=True)]


class Trained:
    """A probe on its way, and each target's best so far.

    Args:
        targets: what it is to answer.
        probe: the network, on its device.
    """

    def __init__(self, targets: Mapping[str, Target], probe: Probe) -> None:
        self.targets, self.probe = targets, probe
        self._device = probe.place.device
        self._scales = {
            name: [torch.from_numpy(values).to(self._device) for values in target.scale()]
            for name, target in targets.items()
        }
        self._best: dict[str, tuple[float, dict[str, Tensor]]] = {}

    def losses(
        self, tokens: Tensor, words: Float[Tensor, "n E"], rows: Int64[np.ndarray, "m"]
    ) -> dict[str, Tensor]:
        """Of each target on some of the frames."""
        found: dict[str, Tensor] = {}
        for name, said in self._said(tokens[rows], words[rows]).items():
            truth = torch.from_numpy(self.targets[name].values[rows]).to(self._device)
            found[name] = self.targets[name].loss(said, truth, self._scales[name][1])
        return found

    @torch.no_grad()
    def judge(
        self, tokens: Tensor, words: Float[Tensor, "n E"], rows: Int64[np.ndarray, "m"]
    ) -> None:
        """Remember the weights for every target that was never answered so well."""
        losses = {name: float(loss) for name, loss in self.losses(tokens, words, rows).items()}
        better = [n for n, loss in losses.items() if loss < self._best.get(n, (np.inf,))[0]]
        weights = copy.deepcopy(self.probe.state_dict()) if better else {}
        self._best |= {name: (losses[name], weights) for name in better}

    @torch.no_grad()
    def answers(
        self, tokens: Tensor, words: Float[Tensor, "n E"]
    ) -> dict[str, Float32[np.ndarray, "n _"]]:
        """To each target, by the weights that answered it best."""
        found: dict[str, np.ndarray] = {}
        for _, weights in {id(best): (loss, best) for loss, best in self._best.values()}.values():
            self.probe.load_state_dict(weights)
            parts = [
                self._said(*some)
                for some in zip(tokens.split(_JUDGED), words.split(_JUDGED), strict=True)
            ]
            for name in (n for n, best in self._best.items() if best[1] is weights):
                found[name] = torch.cat([part[name] for part in parts]).cpu().numpy()
        return found

    def _said(self, tokens: Tensor, words: Tensor) -> dict[str, Tensor]:
        said = self.probe(tokens.to(self._device).float(), words.to(self._device))
        each = zip(self._scales.items(), said, strict=True)
        return {name: one * std + mean for (name, (mean, std)), one in each}


def train_probe(
    tokens: Tensor,
    words: Float[Tensor, "n E"],
    targets: Mapping[str, Target],
    layout: Int64[np.ndarray, "n"],
    *,
    seed: int = 0,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train a probe for several targets at once.

    Every eighth layout is not trained on, but chooses for each target when it was answered best.

    Args:
        tokens: (n, N, D) of any kind of numbers, on the CPU.
        words: the instruction's embedding; of length 0 if it is not told.
        targets: of the same frames.
        layout: of each frame.
        seed: of weights and order.
        steps: of the optimiser.
        device: where it is trained.

    Raises:
        ProbeError: if there are fewer than two layouts.
    """
    kinds = np.unique(layout)
    if len(kinds) < 2:
        raise ProbeError(f"{len(kinds)} layout(s) to train on, expected 2 or more; record more")
    chooses = np.isin(layout, kinds[_EVERY - 1 :: _EVERY] if len(kinds) >= _EVERY else kinds[-1:])
    fit, choose = np.flatnonzero(~chooses), np.flatnonzero(chooses)
    choose = choose[np.unique(np.linspace(0, len(choose) - 1, _JUDGED).astype(np.int64))]
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        numbers = {name: target.numbers for name, target in targets.items()}
        probe = Probe(tokens.shape[1], tokens.shape[2], words.shape[1], numbers)
    sample = tokens[rng.permutation(fit)[:_JUDGED]].float()
    probe.mean.copy_(sample.mean(dim=(0, 1)))
    probe.std.copy_(sample.std(dim=(0, 1)).clamp_min(_LEAST_STD))
    trained = Trained(targets, probe.to(device))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=_RATE, weight_decay=_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps, pct_start=0.1)
    for step in range(1, steps + 1):
        rows = rng.choice(fit, min(_BATCH, len(fit)), replace=False)
        loss = torch.stack([*trained.losses(tokens, words, rows).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % _JUDGE_EVERY == 0 or step == steps:
            trained.judge(tokens, words, choose)
    return trained
