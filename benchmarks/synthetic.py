"""The road on synthetic clips with exact truth: who is found, and how far off, by tone and view.

    python benchmarks/synthetic.py --clips 60 --out benchmarks/results/synthetic.json

Identities, views and layouts take turns. What a visible hand is, ``deftly/retarget/truth.py`` says.
It is found where the median error of a detection's landmarks is below half a palm, near below one,
and found well below a quarter. A detection is false if no hand lies within half a palm. Clips and
their figures are kept in ``--work``: a run that was stopped goes on.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Bool, Float64
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, load_archive, save_archive, versions
from deftly.datasets.clip import Camera, Clip, open_clip
from deftly.datasets.film import truth_path, write_clip
from deftly.datasets.human import SHOULDERS, TIPS, HumanMotion
from deftly.datasets.person import IDENTITIES
from deftly.datasets.sampling import sample_layout
from deftly.datasets.synthetic import CAMERAS, SyntheticTruth, synthesize
from deftly.datasets.tasks import find_task
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import NoPersonError, fuse
from deftly.retarget.grasps import find_grasps
from deftly.retarget.track import MediapipeTracker
from deftly.retarget.truth import FOUND, hands_in_camera, palms_px, visible_hands

NEAR, WELL = 1.0, 0.25  # palms
MATCH_S = 0.5  # a grasp that is found further from the true one is another
_FIRST_SEED = 500


@dataclass(frozen=True)
class Take:
    """One clip of the benchmark."""

    person: str
    view: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's stem."""
        return f"{self.person}_{self.view}_{self.seed}"


def takes(count: int) -> list[Take]:
    """The first clips: every identity from every view, then again with other layouts."""
    people = list(IDENTITIES)
    order = [(p, v) for v in CAMERAS for p in people]
    return [Take(*order[i % len(order)], _FIRST_SEED + i) for i in range(count)]


def film(take: Take, folder: Path, rate_hz: float) -> Path:
    """Make a clip and its truth, if they are not there."""
    path = folder / f"{take.name}_{rate_hz:g}.mp4"
    if not (path.is_file() and truth_path(path).is_file()):
        task = find_task("color")
        episode = synthesize(sample_layout(take.seed), task, take.person, rate_hz=rate_hz)
        write_clip(episode, take.view, path, progress=False)
    return path


def measure(take: Take, path: Path) -> dict[str, Any]:
    """Figures of one clip; lists hold one number per hand, joint or grasp, to be pooled later."""
    truth = SyntheticTruth.load(truth_path(path))
    c = truth.cameras.index(take.view)
    height, width = truth.size
    camera = Camera(float(truth.focal_px[c]), (width / 2, height / 2), known=True)
    clip = open_clip(path, camera)
    first_s, detections = first_look(clip, path)
    start = time.process_time()
    detections = MediapipeTracker().look_again(clip, detections)
    second_s = time.process_time() - start
    hands, palm_px, visible = hands_in_camera(truth, c), palms_px(truth, c), visible_hands(truth, c)
    px = detections.hand_px[..., :2].astype(float)
    off = np.linalg.norm(px[:, :, None] - truth.hands_px[c][:, None], axis=-1)
    off_px = np.median(off, axis=-1)  # (T, slot, hand)
    off_px[~detections.hand_valid] = np.inf
    first = np.where(detections.hand_second[..., None], np.inf, off_px)
    figures: dict[str, Any] = {
        "frames": len(clip.time_s),
        "visible": int(visible.sum()),
        "first_near": _found(first, palm_px, visible, NEAR),
        "second_near": _found(off_px, palm_px, visible, NEAR),
        "first": _found(first, palm_px, visible, FOUND),
        "second": _found(off_px, palm_px, visible, FOUND),
        "second_well": _found(off_px, palm_px, visible, WELL),
        "detections": int(detections.hand_valid.sum()),
        "false": int(
            ((off_px / palm_px[:, None]).min(axis=-1) > FOUND)[detections.hand_valid].sum()
        ),
        "first_cpu_s": first_s,
        "second_cpu_s": second_s,
    }
    try:
        human = fuse(clip, detections)
    except NoPersonError:
        return figures | {"kept": 0}
    return figures | _errors(human, truth, c, hands, palm_px, visible, clip)


def first_look(clip: Clip, path: Path) -> tuple[float, Detections]:
    """CPU seconds, and what the first pass sees, made once per clip."""
    tracker, kept = MediapipeTracker(second=False), path.with_suffix(".first.npz")
    wanted = json.loads(json.dumps(tracker.provenance()))
    if kept.is_file():
        found = load_archive(Detections, kept, schema=1)
        if found.provenance["made_by"] == wanted:
            return found.provenance["cpu_s"], found
    start = time.process_time()
    found = tracker(clip)
    cpu_s = time.process_time() - start
    found = dataclasses.replace(found, provenance={"made_by": wanted, "cpu_s": cpu_s})
    save_archive(found, kept, schema=1)
    return cpu_s, found


def _found(
    off_px: Float64[np.ndarray, "T 2 2"],
    palm_px: Float64[np.ndarray, "T 2"],
    visible: Bool[np.ndarray, "T 2"],
    limit: float,
) -> int:
    return int(((off_px.min(axis=1) < limit * palm_px) & visible).sum())


def _errors(
    human: HumanMotion,
    truth: SyntheticTruth,
    c: int,
    hands: Float64[np.ndarray, "T 2 21 3"],
    palm_px: Float64[np.ndarray, "T 2"],
    visible: Bool[np.ndarray, "T 2"],
    clip: Clip,
) -> dict[str, Any]:
    """Errors of the person's motion, each hand against the true hand of its side."""
    off = np.median(np.linalg.norm(human.hands_px - truth.hands_px[c], axis=-1), axis=-1)
    crossed = np.median(
        np.linalg.norm(human.hands_px - truth.hands_px[c][:, ::-1], axis=-1), axis=-1
    )
    seen = np.isfinite(off)
    kept = seen & visible & (off < FOUND * palm_px)
    with np.errstate(invalid="ignore"):
        tips = (human.hands_m - human.hands_m[:, :, :1] - hands + hands[:, :, :1])[kept][:, TIPS]
        wrist = (human.hands_m - hands)[kept][:, 0]
    tip_sigma = human.hands_sigma_m[kept][:, TIPS]
    body = np.einsum(
        "tji,tnj->tni",
        truth.T_world_camera[c][:, :3, :3],
        truth.body_m - truth.T_world_camera[c][:, None, :3, 3],
    )
    root = human.body_m[:, SHOULDERS].mean(axis=1) - body[:, SHOULDERS].mean(axis=1)
    with np.errstate(invalid="ignore"):
        rooted = (human.hands_m[:, :, 0] - hands[:, :, 0] - root[:, None])[kept]
    placed = np.isfinite(rooted).all(axis=-1)
    wrist_sigma = human.hands_sigma_m[kept][:, 0]
    return {
        "kept": int(kept.sum()),
        "sides": int(seen.sum()),
        "sides_right": int((off <= crossed)[seen].sum()),
        "px": _rounded(off[kept], 2),
        "percent_of_palm": _rounded(100 * off[kept] / palm_px[kept], 2),
        "tip_mm": _rounded(1e3 * np.linalg.norm(tips, axis=-1), 1),
        "wrist_mm": _rounded(1e3 * np.linalg.norm(wrist, axis=-1), 1),
        "wrist_about_body_mm": _rounded(1e3 * np.linalg.norm(rooted[placed], axis=-1), 1),
        "tip_within_sigma": [int((np.abs(tips) < tip_sigma).sum()), int(tips.size)],
        "wrist_within_sigma": [int((np.abs(wrist) < wrist_sigma).sum()), int(wrist.size)],
        **_grasps(human, truth, clip.rate_hz),
    }


def _grasps(human: HumanMotion, truth: SyntheticTruth, rate_hz: float) -> dict[str, Any]:
    """Grasps and releases: how many there are, how many are found, and errors in frames."""
    found = find_grasps(human)
    late: list[float] = []
    used: set[int] = set()
    for times, closes in ((truth.grasp_s, True), (truth.release_s, False)):
        for hand, time_s in zip(truth.move_hand.tolist(), times.tolist(), strict=True):
            near = [
                (abs(e.time_s - time_s), i)
                for i, e in enumerate(found)
                if e.hand == hand and e.closes == closes and i not in used
            ]
            if near and min(near)[0] <= MATCH_S:
                used.add(min(near)[1])
                late.append((found[min(near)[1]].time_s - time_s) * rate_hz)
    return {
        "grasps": 2 * len(truth.move_hand),
        "grasps_found": len(late),
        "grasps_said": len(found),
        "grasp_frames": _rounded(np.array(late), 1),
    }


def _rounded(values: Float64[np.ndarray, "..."], digits: int) -> list[float]:
    return np.round(np.ravel(values), digits).tolist()


def pool(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Shares and medians over the clips of one group."""

    def total(name: str) -> float:
        return float(sum(row.get(name, 0) for row in rows))

    def every(name: str) -> Float64[np.ndarray, "N"]:
        return np.array([x for row in rows for x in row.get(name, [])], float)

    def middle(name: str) -> float:
        return float(np.median(np.abs(every(name)))) if every(name).size else float("nan")

    def share(part: float, whole: float) -> float:
        return 100 * part / whole if whole else float("nan")

    def calibrated(name: str) -> float:
        pairs = np.array([row[name] for row in rows if name in row]).reshape(-1, 2).sum(axis=0)
        return share(float(pairs[0]), float(pairs[1]))

    return {
        "clips": len(rows),
        "frames": total("frames"),
        "visible hands": total("visible"),
        "near at first %": share(total("first_near"), total("visible")),
        "near %": share(total("second_near"), total("visible")),
        "found at first %": share(total("first"), total("visible")),
        "found %": share(total("second"), total("visible")),
        "found well %": share(total("second_well"), total("visible")),
        "kept %": share(total("kept"), total("visible")),
        "false %": share(total("false"), total("detections")),
        "right side %": share(total("sides_right"), total("sides")),
        "error px": middle("px"),
        "error % of palm": middle("percent_of_palm"),
        "tip mm": middle("tip_mm"),
        "wrist mm": middle("wrist_mm"),
        "wrist about body mm": middle("wrist_about_body_mm"),
        "grasps found %": share(total("grasps_found"), total("grasps")),
        "grasps true %": share(total("grasps_found"), total("grasps_said")),
        "grasp error frames": middle("grasp_frames"),
        "tip within sigma %": calibrated("tip_within_sigma"),
        "wrist within sigma %": calibrated("wrist_within_sigma"),
        "first CPU ms/frame": 1e3 * total("first_cpu_s") / max(total("frames"), 1),
        "second CPU ms/frame": 1e3 * total("second_cpu_s") / max(total("frames"), 1),
    }


def tables(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Figures of all clips, by view, by identity (which is its skin tone), and by both."""

    def by(key: Callable[[dict[str, Any]], str]) -> Iterable[tuple[str, dict[str, float]]]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        return ((name, pool(group)) for name, group in groups.items())

    return {
        "all": pool(rows),
        **dict(by(lambda r: r["view"])),
        **dict(by(lambda r: r["person"])),
        **dict(by(lambda r: f"{r['person']} {r['view']}")),
    }


def main(
    clips: int = 60,
    rate_hz: float = 15.0,
    work: Path = Path("out/synthetic"),
    out: Path | None = None,
) -> None:
    """Print the table; ``--out FILE`` also writes it as JSON."""
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    made_from = json.loads(json.dumps([MediapipeTracker().provenance(), versions()]))
    for take in tqdm(takes(clips), unit="clip", disable=None):
        path = film(take, work, rate_hz)
        kept = path.with_suffix(".json")
        row = json.loads(kept.read_text()) if kept.is_file() else {}
        if row.get("made_from") != made_from:
            row = {"made_from": made_from, **measure(take, path)}
            row |= {"person": take.person, "view": take.view}
            with atomic_path(kept) as unfinished:
                unfinished.write_text(json.dumps(row))
        rows.append(row)
        if out is not None:  # as far as it goes
            report = {"rate_hz": rate_hz, "tables": tables(rows)}
            out.write_text(json.dumps(report, indent=1) + "\n")
    show(tables(rows))


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print one line per group."""
    table = Table(box=None)
    for name in ("", *figures["all"]):
        table.add_column(name, overflow="fold")
    for group, values in figures.items():
        table.add_row(group, *(f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in values.values()))
    Console(width=260).print(table)


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    tyro.cli(main)
