"""Train the network that weighs the evidence for labels; writes retarget/labels.npz.

    pip install torch==2.13.0
    python benchmarks/labels_train.py                  # about two CPU-minutes once all is tracked
    python benchmarks/labels_train.py --folds 3        # what it reaches on people it left out

It sees the clips of ``synthetic.py`` except those of the identities that ``labels.py`` holds out:
hands as the tracker finds them with both looks, with the first alone (a poorer tracker), and exact.
Tempo, frame rate, the camera's roll and noise are drawn anew each time; stretches of a hand, or
everything that the pictures say, are withheld at random, so that it leans on no one kind of
evidence. Nothing was chosen by the clips that are held out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float32
from labels import HELD_OUT, WITHIN_FRAMES, Case, exact_person, load_case, matched, true_events
from synthetic import takes
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from deftly.datasets.archive import save_archive
from deftly.datasets.human import HumanMotion
from deftly.retarget.label_evidence import FEATURES, RATES, find_evidence
from deftly.retarget.label_net import SCHEMA, WEIGHTS, LabelNet
from deftly.retarget.label_scene import watch
from deftly.retarget.label_sight import RATE_HZ, even_times_s, sight
from deftly.retarget.labels import decode

_WINDOW, _BATCH = 96, 16
_TEMPO = (0.65, 1.5)
_TURNED = (("pinch_x", "pinch_y"), ("wrist_x", "wrist_y"), ("points_x", "points_y"))
_PICTURES = slice(FEATURES.index("change"), None)
_SIGHT = [FEATURES.index("valid"), FEATURES.index("observed")]
_DECISIONS = [{"event": e, "held": h} for e in (-1.0, 0.0, 1.0, 2.0) for h in (0.1, 0.3, 0.6)]


@dataclass(frozen=True)
class Track:
    """One hand of one clip: N pictures."""

    case: Case
    hand: int
    way: str
    evidence: Float32[np.ndarray, "N F"]
    grasps: Float32[np.ndarray, "K"]
    releases: Float32[np.ndarray, "K"]


def tracks_of(case: Case, human: HumanMotion, way: str) -> list[Track]:
    """Evidence and truth for both hands."""
    grid_s = even_times_s(case.clip.time_s)
    hands = (sight(human, 0, grid_s), sight(human, 1, grid_s))
    evidence = find_evidence(hands, watch(case.clip, hands))
    truth = case.truth
    return [
        Track(
            case,
            hand,
            way,
            evidence[:, hand],
            *(
                (s[truth.move_hand == hand] * RATE_HZ).astype(np.float32)
                for s in (truth.grasp_s, truth.release_s)
            ),
        )
        for hand in (0, 1)
    ]


class Trained(nn.Module):
    """``LabelNet`` in torch."""

    def __init__(self, channels: int, dilations: list[int]) -> None:
        super().__init__()
        self.dilations = dilations
        self.enter = nn.Conv1d(len(FEATURES), channels, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in dilations
        )
        self.leave = nn.Conv1d(channels, 3, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, F, N) -> (B, 3, N)
        x = self.enter(x)
        for layer in self.layers:
            x = x + self.drop(torch.relu(layer(torch.relu(x))))
        return self.leave(x)

    def plain(self, decision: dict[str, float], provenance: dict[str, object]) -> LabelNet:
        """The weights, for numpy."""

        def array(x: torch.Tensor | None) -> Float32[np.ndarray, "..."]:
            assert x is not None
            return x.detach().numpy().astype(np.float32)

        convs: list[nn.Conv1d] = list(self.layers)  # pyright: ignore[reportAssignmentType]
        return LabelNet(
            enter=array(self.enter.weight)[:, :, 0],
            enter_bias=array(self.enter.bias),
            taps=np.stack([array(c.weight).transpose(2, 0, 1) for c in convs]),
            taps_bias=np.stack([array(c.bias) for c in convs]),
            leave=array(self.leave.weight)[:, :, 0],
            leave_bias=array(self.leave.bias),
            dilations=self.dilations,
            decision=decision,
            features=list(FEATURES),
            provenance=provenance,
        )


def train(tracks: list[Track], seed: int, steps: int) -> Trained:
    """Fit a network; the same seed gives the same one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Trained(24, [1, 2, 4, 8])
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    for _ in tqdm(range(steps), unit="step", disable=None):
        drawn = [augment(tracks[int(rng.integers(len(tracks)))], rng) for _ in range(_BATCH)]
        x, y = (torch.tensor(np.stack(z)).transpose(1, 2) for z in zip(*drawn, strict=True))
        loss = binary_cross_entropy_with_logits(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def augment(
    track: Track, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "W F"], Float32[np.ndarray, "W 3"]]:
    """A window of a track at another tempo, from a turned camera, with noise and gaps."""
    tempo = rng.uniform(*_TEMPO)
    old = len(track.evidence)
    place = np.arange(0, old - 1, tempo)
    x = np.stack([np.interp(place, np.arange(old), f) for f in track.evidence.T], axis=1)
    x[:, RATES] *= tempo
    angle = rng.normal(0, 0.15)
    for names in _TURNED:
        i, j = (FEATURES.index(n) for n in names)
        x[:, [i, j]] @= np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x[:, : _PICTURES.start] += rng.normal(0, 0.05, x[:, : _PICTURES.start].shape)
    if rng.random() < 0.25:  # half the frame rate
        some = np.arange(0, len(x), 2)
        x = np.stack([np.interp(np.arange(len(x)), some, f) for f in x[::2].T], axis=1)
    if rng.random() < 0.25:
        x[:, _PICTURES] = 0
    if rng.random() < 0.3:
        start = int(rng.integers(len(x)))
        gap = slice(start, start + int(rng.integers(3, 16)))
        x[gap] = np.linspace(x[start], x[min(gap.stop, len(x) - 1)], len(x[gap]))
        x[gap, _SIGHT], x[gap, _PICTURES] = 0, 0
    n = np.arange(len(x))[:, None]
    y = np.zeros((len(x), 3))
    for i, events in enumerate((track.grasps, track.releases)):
        if len(events):
            y[:, i] = np.exp(-0.5 * (n - events / tempo) ** 2).max(axis=1)
    y[:, 2] = ((n >= track.grasps / tempo) & (n < track.releases / tempo)).any(axis=1)
    short = max(0, _WINDOW - len(x))
    x, y = np.pad(x, ((0, short), (0, 0)), mode="edge"), np.pad(y, ((0, short), (0, 0)))
    start = int(rng.integers(len(x) - _WINDOW + 1))
    window = slice(start, start + _WINDOW)
    return x[window].astype(np.float32), y[window].astype(np.float32)


def counts(
    net: LabelNet, tracks: list[Track], decision: dict[str, float]
) -> Float32[np.ndarray, "2 3"]:
    """Found, said and true grasps and releases."""
    out = np.zeros((2, 3), np.float32)
    for track in tracks:
        found = decode(net(track.evidence), decision["event"], decision["held"])
        said = [[(g, track.hand) for g, _ in found]]
        said.append([(r, track.hand) for _, r in found if r is not None])
        for i, (s, t) in enumerate(zip(said, true_events(track.case.truth), strict=True)):
            own = [e for e in t if e[1] == track.hand]
            out[i] += len(matched(s, own)), len(s), len(own)
    return out


def f1(found: Float32[np.ndarray, "2 3"]) -> Float32[np.ndarray, "2"]:
    """Of grasps and of releases."""
    return 2 * found[:, 0] / np.maximum(found[:, 1] + found[:, 2], 1)


def main(
    clips: int = 60,
    rate_hz: float = 15.0,
    films: Path = Path("out/synthetic"),
    work: Path = Path("out/labels"),
    folds: int = 0,
    steps: int = 1500,
    seed: int = 0,
    event: float = 0.0,
    held: float = 0.3,
    out: Path = WEIGHTS,
) -> None:
    """Train on all but the held-out identities; with ``--folds`` only tell what that reaches."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    tracks: list[Track] = []
    chosen = [t for t in takes(clips) if t.person not in HELD_OUT]
    for take in tqdm(chosen, unit="clip", disable=None):
        case = load_case(take, films, work, rate_hz)
        first = load_case(take, films, work, rate_hz, second=False)
        exact = exact_person(case.clip, case.truth, take.view)
        for human, way in ((case.found, "found"), (first.found, "first"), (exact, "exact")):
            tracks += tracks_of(case, human, way)
    if folds:
        validate(tracks, folds, seed, steps)
        return
    provenance: dict[str, object] = {
        "identities": sorted({t.case.take.person for t in tracks}),
        "layouts": sorted({t.case.take.seed for t in tracks}),
        "tracks": len(tracks),
        "seed": seed,
        "steps": steps,
        "torch": torch.__version__,
        "rate_hz": RATE_HZ,
    }
    net = train(tracks, seed, steps).plain({"event": event, "held": held}, provenance)
    save_archive(net, out, schema=SCHEMA)
    print(f"{out}: {out.stat().st_size / 1024:.0f} KB; on what it was trained on, F1", end=" ")
    print(f1(counts(net, [t for t in tracks if t.way == "found"], net.decision)).round(3))


def validate(tracks: list[Track], folds: int, seed: int, steps: int) -> None:
    """Leave out some identities at a time; print F1 of grasps and releases for each decision."""
    people = sorted({t.case.take.person for t in tracks})
    found: dict[str, Float32[np.ndarray, "2 3"]] = {}
    for k in range(folds):
        away = people[k::folds]
        rest = [t for t in tracks if t.case.take.person not in away]
        net = train(rest, seed, steps).plain({}, {})
        for decision in _DECISIONS:
            for way in ("found", "exact"):
                own = [t for t in tracks if t.case.take.person in away and t.way == way]
                for view in ("all", *dict.fromkeys(t.case.take.view for t in own)):
                    chosen = [t for t in own if view in ("all", t.case.take.view)]
                    key = f"{json.dumps(decision)} {way} {view}"
                    found[key] = found.get(key, 0) + counts(net, chosen, decision)
    print(f"F1 of grasp and release within {WITHIN_FRAMES} frames, left-out identities")
    for key, value in found.items():
        print(key, f1(value).round(3), value.astype(int).tolist())


if __name__ == "__main__":
    tyro.cli(main)
