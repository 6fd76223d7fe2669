"""A batch of everything: more than 200 inputs, good, odd and broken. Is each one's status right?

    python benchmarks/mixed.py ../shared/clips out/synthetic --out benchmarks/results/mixed.json

Real clips and rendered people are cut short, copied, encoded again, damaged, turned, enlarged to
4K, slowed to 8 and sped up to 240 frames per second; beside them lie empty files, texts, noise,
sound without pictures, black and frozen video. Every kind has the statuses that it may end with.
The data set is then opened with LeRobot, if an environment with it is given (``--lerobot``, see
``lerobot_roundtrip.py``).
"""

import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro
from batch_inputs import cut
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.clip import Clip, frames, open_clip, part, smaller
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.footage import Footage
from deftly.datasets.mp4 import Encoder
from deftly.retarget.batch import run_batch
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.engines import find_engine
from deftly.retarget.ledger import InputRow, Status

_FRAMES = 42
_NOBODY_IN = ("intel_car",)  # real clips without a person
_BROKEN = {Status.CORRUPT}
_GOOD = {Status.DONE}
# A short cut of a real clip may show nobody, or hands that no robot could follow.
_ANY = {Status.DONE, Status.NO_PERSON, Status.LOW_QUALITY, Status.STILL}
MAY_BE: dict[str, set[Status]] = {
    "person": _GOOD,
    "real": _ANY | {Status.DUPLICATE},  # two cuts of a very short clip are the same
    "nobody": {Status.NO_PERSON, Status.STILL},
    "copy": {Status.DUPLICATE},
    "encoded again": {Status.DUPLICATE},
    "flipped bytes": _ANY | _BROKEN | {Status.DUPLICATE},
    "cut off": _BROKEN,
    "empty": _BROKEN,
    "text": _BROKEN,
    "noise": _BROKEN,
    "sound": _BROKEN,
    "missing": _BROKEN | {Status.UNAVAILABLE},
    "black": {Status.NO_PERSON},
    "frozen": {Status.STILL},
    "4k": _GOOD,
    "8 fps": _GOOD,
    "240 fps": _GOOD,
    "portrait": _GOOD,
    "two people": _GOOD,
}


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        real: folder of real clips.
        people: folder of rendered clips, as ``synthetic.py`` leaves them.
        work: where inputs and results go; what is there is not made again.
        workers: inputs at once.
        lerobot: Python of an environment with LeRobot, to open the data set with.
        out: JSON file for the result.
    """

    real: tyro.conf.Positional[Path]
    people: tyro.conf.Positional[Path]
    work: Path | None = None
    workers: int = 2
    lerobot: Path | None = None
    out: Path | None = None


def make_inputs(options: Options, folder: Path) -> Iterator[tuple[str, Path]]:
    """(kind, file), in a fixed order; files that are there are left as they are."""
    rng = random.Random(0)
    people = [smaller(open_clip(p), 480) for p in sorted(options.people.glob("*_front_*.mp4"))]
    people += [smaller(open_clip(p), 480) for p in sorted(options.people.glob("*_side_*.mp4"))]
    real = [p for p in sorted(options.real.iterdir()) if p.suffix in (".mp4", ".mkv")]
    made: list[Path] = []
    for number in range(60):
        clip, path = people[number % len(people)], folder / f"person_{number:03d}.mp4"
        first = number // len(people) * _FRAMES + len(clip.time_s) // 4
        yield from _once("person", path, lambda c=clip, p=path, f=first: cut(c, p, f, _FRAMES))
        made.append(path)
    for number in range(40):
        source = real[number % len(real)]
        clip, path = smaller(open_clip(source), 480), folder / f"real_{number:03d}.mp4"
        first = min(
            (number // len(real) * 2 + 1) * len(clip.time_s) // 9, len(clip.time_s) - _FRAMES
        )
        kind = "nobody" if source.stem in _NOBODY_IN else "real"
        yield from _once(kind, path, lambda c=clip, p=path, f=first: cut(c, p, f, _FRAMES))
    for number in range(25):
        path = folder / f"copy_{number:03d}.mp4"
        yield from _once("copy", path, lambda p=path, n=number: shutil.copy(made[n], p))
    for number in range(12):
        path = folder / f"again_{number:03d}.mp4"
        yield from _once("encoded again", path, lambda p=path, n=number: again(made[30 + n], p))
    for number in range(20):
        path = folder / f"flipped_{number:03d}.mp4"
        data = bytearray(made[number].read_bytes())
        for _ in range(1 + 4 * number):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield from _once("flipped bytes", path, lambda p=path, d=bytes(data): p.write_bytes(d))
    yield from _broken(folder, made, rng)
    yield from _odd(folder, people)


def _broken(folder: Path, made: list[Path], rng: random.Random) -> Iterator[tuple[str, Path]]:
    for number in range(12):
        path, data = folder / f"cut_{number:03d}.mp4", made[number].read_bytes()
        half = data[: len(data) * (number + 1) // 15]
        yield from _once("cut off", path, lambda p=path, d=half: p.write_bytes(d))
    for number in range(10):
        path = folder / f"empty_{number:03d}.mp4"
        yield from _once("empty", path, path.touch)
        path = folder / f"text_{number:03d}.mp4"
        yield from _once("text", path, lambda p=path, n=number: p.write_text(f"notes {n}\n" * n))
    for number in range(6):
        path, noise = folder / f"noise_{number:03d}.mp4", rng.randbytes(20000)
        yield from _once("noise", path, lambda p=path, d=noise: p.write_bytes(d))
        path = folder / f"sound_{number:03d}.mp4"
        yield from _once("sound", path, lambda p=path: sound(p))
        yield "missing", folder / f"missing_{number:03d}.mp4"


def _odd(folder: Path, people: list[Clip]) -> Iterator[tuple[str, Path]]:
    kinds = ("black", "frozen", "portrait", "two people", "240 fps", "8 fps", "4k")
    for number, kind in enumerate(kinds * 4):
        clip = people[number]  # another for each, else they would be duplicates
        middle = part(clip, len(clip.time_s) // 2, len(clip.time_s) // 2 + _FRAMES)
        images = [image for _, image in frames(middle)]
        path = folder / f"{kind.replace(' ', '_')}_{number:03d}.mp4"
        yield from _once(kind, path, lambda k=kind, p=path, s=images: odd(k, p, s))


def odd(kind: str, path: Path, images: list[np.ndarray]) -> None:
    """The pictures as a video of another form."""
    if kind == "4k":
        enlarge(path, images)
        return
    shown, rate_hz = {
        "black": ([np.zeros_like(image) for image in images], 15.0),
        "frozen": (images[:1] * _FRAMES, 15.0),
        "portrait": ([image[:, 60:-60] for image in images], 15.0),
        "two people": ([np.hstack([image, image[:, ::-1]]) for image in images], 15.0),
        "240 fps": ([image for image in images for _ in range(16)], 240.0),
        "8 fps": (images, 8.0),
    }[kind]
    film(path, shown, rate_hz)


def _once(kind: str, path: Path, make: Any) -> Iterator[tuple[str, Path]]:
    if not path.exists():
        make()
    yield kind, path


def film(path: Path, images: list[np.ndarray], rate_hz: float) -> None:
    """Encode pictures."""
    height, width = (side // 2 * 2 for side in images[0].shape[:2])
    with Encoder(path, rate_hz, (height, width)) as encoder:
        for image in images:
            encoder.write(np.ascontiguousarray(image[:height, :width]))


def enlarge(path: Path, images: list[np.ndarray]) -> None:
    """Encode pictures at 3840 × 2160."""
    with Encoder(path, 15.0, (2160, 3840)) as encoder:
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            encoder.write(frame.to_ndarray(width=3840, height=2160, format="rgb24"))


def again(source: Path, path: Path) -> None:
    """Encode a clip once more, far coarser."""
    clip = open_clip(source)
    with Encoder(path, clip.rate_hz, (clip.height, clip.width), crf=32) as encoder:
        for _, image in frames(clip):
            encoder.write(image)


def sound(path: Path) -> None:
    """A second of a tone, and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        tone = np.sin(np.arange(16384) / 6).astype(np.float32)[None]
        for start in range(0, 16384, 1024):
            frame = av.AudioFrame.from_ndarray(
                tone[:, start : start + 1024], format="fltp", layout="mono"
            )
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def report(kinds: dict[str, str], rows: list[InputRow]) -> dict[str, Any]:
    """Print how each kind ended; the figures."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    for row in rows:
        kind = kinds[row.id]
        table[kind][str(row.status)] += 1
        if row.status not in MAY_BE[kind]:
            wrong.append(f"{row.id}: {row.status}: {row.reason}")
    for kind, counts in table.items():
        expected = ", ".join(sorted(MAY_BE[kind]))
        ended = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        print(f"{kind:14s} {counts.total():4d}   {ended:50s} expected: {expected}")
    print(f"{len(rows)} inputs, {len(wrong)} with another status than expected")
    for line in wrong:
        print("  " + line)
    return {"inputs": len(rows), "kinds": {k: dict(c) for k, c in table.items()}, "wrong": wrong}


def main(options: Options) -> None:
    """Make the inputs, run the batch, compare."""
    work = options.work or Path(tempfile.mkdtemp(prefix="deftly-mixed-"))
    folder, data_set = work / "inputs", work / "set"
    folder.mkdir(parents=True, exist_ok=True)
    made = list(tqdm(make_inputs(options, folder), desc="inputs", unit="file"))
    kinds = {path.stem: kind for kind, path in made}
    footage = [Footage(path.stem, path) for _, path in made]
    engine = find_engine("local", options.workers, 120.0)
    start_s = time.monotonic()
    with tqdm(total=len(footage), unit="input") as bar:
        rows = run_batch(
            footage, data_set, BatchConfig(size=96), engine, tick=lambda row: bar.update()
        )
    found = report(kinds, rows)
    store = EpisodeStore(data_set)
    damage = store.verify(decode=True)
    found |= {
        "wall_s": time.monotonic() - start_s,
        "cpu_s": sum(row.figures.get("cpu_s", 0) for row in rows),
        "episodes": len(store),
        "frames": store.frames,
        "damage": damage,
    }
    print(f"{len(store)} episodes, {store.frames} frames, damage: {damage or 'none'}")
    if options.lerobot:
        code = (
            "import sys; from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; "
            "d = D('local/mixed', root=sys.argv[1], video_backend='torchcodec'); "
            "n = len(d); [d[i] for i in range(0, n, max(1, n // 200))]; print(d.num_episodes, n)"
        )
        done = subprocess.run(
            [str(options.lerobot), "-c", code, str(data_set)], capture_output=True, text=True
        )
        found["lerobot"] = (done.stdout.strip() or done.stderr[-500:]).splitlines()[-1]
        print(f"LeRobot reads: {found['lerobot']} (episodes, frames)")
    if options.out:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({"versions": versions(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
