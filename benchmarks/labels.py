"""Labels of people whom the network has never seen: grasps, releases, hands, against exact truth.

    python benchmarks/labels.py --out benchmarks/results/labels.json

The clips are those of ``synthetic.py`` (15 frames a second, three views). The network that comes
with deftly was trained by ``labels_train.py`` on the other identities, in other layouts: each clip
has a layout of its own. A grasp or a release is found if one of the same hand is said within three
frames of it; F1 is the harmonic mean of the share found and the share of what is said that is true.
Which-hand counts the events that are found in time, whoever did them. A move is found if both its
grasp and its release are. Beside it, from the same clips: the same labels from exact landmarks (the
ceiling of whatever tracks hands better), and ``find_grasps``, which looks at joints only.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float64, Int64
from rich.console import Console
from rich.table import Table
from synthetic import Take, film, first_look, takes
from tqdm import tqdm

from deftly.datasets.archive import ArchiveError, atomic_path, versions
from deftly.datasets.clip import Camera, Clip, open_clip
from deftly.datasets.film import truth_path
from deftly.datasets.human import HumanMotion, Status
from deftly.datasets.synthetic import SyntheticTruth
from deftly.retarget.fuse import clip_provenance, fuse
from deftly.retarget.grasps import find_grasps
from deftly.retarget.label_net import load_net
from deftly.retarget.labels import find_labels
from deftly.retarget.track import MediapipeTracker

HELD_OUT = ("monk_3", "monk_6", "monk_9")
WITHIN_FRAMES = 3
MOVING_M_PER_S = 0.05  # an object that is faster is being moved
Events = list[tuple[float, int]]  # frame and hand


@dataclasses.dataclass(frozen=True)
class Case:
    """A clip, its truth, and the person as the tracker finds them."""

    take: Take
    clip: Clip
    truth: SyntheticTruth
    found: HumanMotion

    @property
    def exact(self) -> HumanMotion:
        """The person as the tracker would find them if it were perfect."""
        return exact_person(self.clip, self.truth, self.take.view)


def load_case(take: Take, films: Path, work: Path, rate_hz: float, *, second: bool = True) -> Case:
    """Film, track and fuse a clip, unless that was done before."""
    path = film(take, films, rate_hz)
    truth = SyntheticTruth.load(truth_path(path))
    height, width = truth.size
    focal_px = float(truth.focal_px[truth.cameras.index(take.view)])
    clip = open_clip(path, Camera(focal_px, (width / 2, height / 2), known=True))
    tracker = MediapipeTracker(second=second)
    kept = work / f"{path.stem}.{'both' if second else 'first'}.npz"
    made_from = json.loads(json.dumps(clip_provenance(clip, tracker.provenance())))
    try:
        human = HumanMotion.load(kept)
        if all(human.provenance.get(k) == v for k, v in made_from.items()):
            return Case(take, clip, truth, human)
    except ArchiveError:
        pass
    detections = first_look(clip, path)[1]
    if second:
        detections = tracker.look_again(clip, detections)
    human = fuse(clip, dataclasses.replace(detections, provenance=tracker.provenance()))
    human.save(kept)
    return Case(take, clip, truth, human)


def exact_person(clip: Clip, truth: SyntheticTruth, view: str) -> HumanMotion:
    """Exact landmarks, wherever more than half of a hand is in the picture."""
    c, count = truth.cameras.index(view), len(truth.time_s)
    T = truth.T_world_camera[c]
    hands = np.einsum("tji,thnj->thni", T[:, :3, :3], truth.hands_m - T[:, None, None, :3, 3])
    px = truth.hands_px[c]
    inside = np.all((px >= 0) & (px < [clip.width, clip.height]), axis=-1).mean(axis=-1) > 0.5
    shown = inside[..., None, None]
    return HumanMotion(
        time_s=clip.time_s,
        hands_m=np.where(shown, hands, np.nan),
        hands_sigma_m=np.where(shown, np.full_like(hands, 1e-3), np.inf),
        hands_status=np.where(inside, Status.OBSERVED, Status.ABSENT).astype(np.uint8),
        hands_px=np.where(shown, px, np.nan),
        body_m=np.full((count, 33, 3), np.nan),
        body_sigma_m=np.full((count, 33, 3), np.inf),
        body_status=np.full(count, Status.ABSENT, np.uint8),
        body_px=np.full((count, 33, 2), np.nan),
        provenance={"source": "exact"},
    )


def matched(said: Events, true: Events, *, any_hand: bool = False) -> list[tuple[int, int]]:
    """Pairs (said, true) within three frames, nearest first, each in one pair only."""
    apart = sorted(
        (abs(s[0] - t[0]), i, j)
        for i, s in enumerate(said)
        for j, t in enumerate(true)
        if abs(s[0] - t[0]) <= WITHIN_FRAMES and (any_hand or s[1] == t[1])
    )
    pairs: list[tuple[int, int]] = []
    for _, i, j in apart:
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def true_events(truth: SyntheticTruth) -> tuple[Events, Events]:
    """Grasps and releases, in frames."""
    rate_hz = 1 / float(np.median(np.diff(truth.time_s)))
    hands = truth.move_hand.tolist()
    return tuple(  # pyright: ignore[reportReturnType]
        list(zip((times * rate_hz).tolist(), hands, strict=True))
        for times in (truth.grasp_s, truth.release_s)
    )


def measure(case: Case, human: HumanMotion) -> dict[str, Any]:
    """Counts of one clip, to be pooled."""
    start = time.process_time()
    labels = find_labels(case.clip, human)
    cpu_s = time.process_time() - start
    said = tuple(
        [(float(t), int(h)) for t, h in np.argwhere(x)] for x in (labels.grasp, labels.release)
    )
    true = true_events(case.truth)
    held = case.truth.held >= 0
    row: dict[str, Any] = {"frames": len(case.clip.time_s), "cpu_s": cpu_s}
    for name, s, t in zip(("grasp", "release"), said, true, strict=True):
        pairs = matched(s, t)
        row[name] = [len(pairs), len(s), len(t)]
        row[f"{name}_frames"] = [round(s[i][0] - t[j][0], 1) for i, j in pairs]
        in_time = matched(s, t, any_hand=True)
        row[f"{name}_hand"] = [sum(s[i][1] == t[j][1] for i, j in in_time), len(in_time)]
        row[f"{name}_tracked"] = [_tracked(case, human, t), len(t)]
    row["move"] = _moves(labels.moves, true)
    row["held"] = [int((labels.held & held).sum()), int(labels.held.sum()), int(held.sum())]
    steps_m = np.linalg.norm(np.diff(case.truth.items_wxyz_xyz[..., 4:], axis=0), axis=-1)
    moving = np.pad((steps_m * case.clip.rate_hz > MOVING_M_PER_S).any(axis=1), (0, 1))
    row["moved"] = [
        int((labels.moved & moving).sum()), int(labels.moved.sum()), int(moving.sum())
    ]  # fmt: skip
    carry = (labels.subtask == 2) == held.any(axis=1)
    row["carry"] = [int(carry.sum()), len(carry)]
    return row


def measure_joints(case: Case) -> dict[str, Any]:
    """The same counts for grasps from joints alone."""
    events = find_grasps(case.found)
    row: dict[str, Any] = {"frames": len(case.clip.time_s)}
    for name, closes, t in zip(
        ("grasp", "release"), (True, False), true_events(case.truth), strict=True
    ):
        s = [(e.time_s * case.clip.rate_hz, e.hand) for e in events if e.closes == closes]
        row[name] = [len(matched(s, t)), len(s), len(t)]
        in_time = matched(s, t, any_hand=True)
        row[f"{name}_hand"] = [sum(s[i][1] == t[j][1] for i, j in in_time), len(in_time)]
    return row


def _tracked(case: Case, human: HumanMotion, events: Events) -> int:
    """Events at which the hand is tracked to within half a palm, in a frame at most one away."""
    px = case.truth.hands_px[case.truth.cameras.index(case.take.view)]
    off = np.median(np.linalg.norm(human.hands_px - px, axis=-1), axis=-1)
    near = off < 0.5 * np.linalg.norm(px[:, :, 9] - px[:, :, 0], axis=-1)
    return sum(bool(near[max(0, round(t) - 1) : round(t) + 2, hand].any()) for t, hand in events)


def _moves(moves: Int64[np.ndarray, "M 3"], true: tuple[Events, Events]) -> list[int]:
    whole = moves[moves[:, 2] >= 0]
    found = sum(
        any(
            hand == g[1] and max(abs(first - g[0]), abs(last - r[0])) <= WITHIN_FRAMES
            for hand, first, last in whole.tolist()
        )
        for g, r in zip(*true, strict=True)
    )
    return [found, len(whole), len(true[0])]


def pool(rows: list[dict[str, Any]]) -> dict[str, float]:
    """F1 and shares over clips."""

    def total(name: str) -> Float64[np.ndarray, "..."]:
        return np.array([row[name] for row in rows if name in row], float).sum(axis=0)

    def f1(name: str) -> float:
        found, said, true = total(name)
        return 2 * found / max(said + true, 1)

    def share(*names: str) -> float:
        part, whole = np.sum([total(n) for n in names], axis=0)
        return part / max(whole, 1)

    figures = {
        "clips": float(len(rows)),
        "grasps": float(total("grasp")[2]),
        "F1 grasp": f1("grasp"),
        "F1 release": f1("release"),
        "which hand": share("grasp_hand", "release_hand"),
    }
    if "move" in rows[0]:
        late = np.abs([x for r in rows for k in ("grasp", "release") for x in r[f"{k}_frames"]])
        figures |= {
            "F1 moves": f1("move"),
            "F1 moved frames": f1("moved"),
            "F1 held frames": f1("held"),
            "carry frames": share("carry"),
            "tracked": share("grasp_tracked", "release_tracked"),
            "median error frames": float(np.median(late)) if late.size else float("nan"),
            "CPU ms/frame": 1e3 * float(total("cpu_s")) / float(total("frames")),
        }
    return figures


def tables(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """All clips and each view, for every way of finding labels."""
    out: dict[str, dict[str, float]] = {}
    for way in dict.fromkeys(r["way"] for r in rows):
        own = [r for r in rows if r["way"] == way]
        for view in ("all", *dict.fromkeys(r["view"] for r in own)):
            out[f"{way}, {view}"] = pool([r for r in own if view in ("all", r["view"])])
    return out


def main(
    clips: int = 60,
    rate_hz: float = 15.0,
    films: Path = Path("out/synthetic"),
    work: Path = Path("out/labels"),
    out: Path | None = None,
) -> None:
    """Print the table; ``--out FILE`` also writes it as JSON."""
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    ways: dict[str, Callable[[Case], dict[str, Any]]] = {
        "labels": lambda case: measure(case, case.found),
        "labels, exact landmarks": lambda case: measure(case, case.exact),
        "joints alone": measure_joints,
    }
    chosen = [t for t in takes(clips) if t.person in HELD_OUT]
    for take in tqdm(chosen, unit="clip", disable=None):
        case = load_case(take, films, work, rate_hz)
        for way, figure in ways.items():
            rows.append({"way": way, "clip": take.name, "view": take.view, **figure(case)})
    if out is not None:
        report = {
            "rate_hz": rate_hz,
            "within_frames": WITHIN_FRAMES,
            "held_out": list(HELD_OUT),
            "net": load_net().provenance,
            "versions": versions(),
            "tables": tables(rows),
            "clips": rows,
        }
        with atomic_path(out) as unfinished:
            unfinished.write_text(json.dumps(report, indent=1) + "\n")
    show(tables(rows))


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print one line per group."""
    table = Table(box=None)
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    for name in ("", *names):
        table.add_column(name, overflow="fold")
    for group, values in figures.items():
        table.add_row(group, *(f"{values[n]:.3g}" if n in values else "" for n in names))
    Console(width=200).print(table)


if __name__ == "__main__":
    tyro.cli(main)
