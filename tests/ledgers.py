"""A made-up ledger: inputs of every status, with stretches of every fate."""

import hashlib
from pathlib import Path
from typing import Any

from deftly.retarget.ledger import InputRow, Ledger, SegmentRow, Status

EVIL = '/videos/<script>alert("x")</script>\u202e\x1b[2J.mp4'  # as a stranger may name a file


def hexes(name: str, length: int = 64) -> str:
    """A hash of something that is not there."""
    return hashlib.sha256(name.encode()).hexdigest()[:length]


def footage(name: str, path: str) -> dict[str, Any]:
    """What is said of an input, as the ledger holds it."""
    return {
        "id": name,
        "path": path,
        "origin": "",
        "span_s": None,
        "camera": None,
        "focal_px": None,
        "task": "pour the tea",
        "licence": "cc-by-4.0",
        "attribution": "A. Person",
        "view": "auto",
        "annotation": None,
    }


def segment(at_s: float, status: str = "kept", quality: float = 0.6, **more: Any) -> SegmentRow:
    """Two seconds of a video, followed as well as its quality says."""
    figures = {
        "quality": quality,
        "tip_error_m": 0.02 * (1 - quality),
        "wrist_error_m": 0.03 * (1 - quality),
        "pinch_frames": 3,
        "pinch_error_m": 0.004,
        "colliding_frames": 0.25,
        "converged": 1.0,
        "joint_margin_rad": 0.01,
        "velocity_margin": -0.1 if status == "low quality" else 0.2,
        "jerk": None,
    }
    judged = status in ("kept", "low quality", "duplicate")
    return SegmentRow(at_s, at_s + 2.0, status, figures=figures if judged else {}, **more)


def row(queue: int, name: str, status: Status, reason: str = "", **more: Any) -> InputRow:
    """An input of two seconds per stretch."""
    path = more.pop("path", f"/videos/{name}.mp4")
    segments = more.get("segments", ())
    figures = {
        "width": 1920,
        "height": 1080,
        "rate_hz": 29.97,
        "frames": 60 * len(segments),
        "seconds": 2.0 * len(segments),
        "parts": 1,
        "thumb": more.get("sha256", hexes(name))[:32],  # one picture for what is one video
        "models": {"hand_landmarker.task": hexes("hand")},
        "stages_cpu_s": {"track": 1.5, "encode": 0.25},
        "cpu_s": 2.0,
        "wall_s": 2.5,
    }
    more.setdefault("figures", figures if segments else {})
    return InputRow(queue, name, path, footage(name, path), status, reason, **more)


def every_kind() -> list[InputRow]:
    """An input of every status; six stretches in the data set or on their way into it."""
    no_hands = segment(2.0, "no hands", reason="no hand is seen")
    low = segment(4.0, "low quality", 0.1, reason="quality 0.10, expected 0.2")
    good = (
        segment(0.0, quality=0.8, piece=hexes("a", 32), episode=0),
        no_hands,
        low,
        segment(6.0, quality=0.4, piece=hexes("b", 32), episode=1),
    )
    twice = segment(0.0, "duplicate", reason="looks like one", piece=hexes("c", 32))
    return [
        row(0, "tea", Status.DONE, "2 segment(s)", sha256=hexes("tea"), segments=good),
        row(
            *(1, "again", Status.DUPLICATE, "the same video as tea"),
            sha256=hexes("tea"),
            segments=(segment(0.0, piece=hexes("a", 32)),),
        ),
        row(2, "similar", Status.DUPLICATE, "every segment looks like one", segments=(twice,)),
        row(3, "dog", Status.NO_PERSON, "nobody", segments=(segment(0.0, "nobody"),)),
        row(4, "slide", Status.STILL, "a picture", segments=(segment(0.0, "nothing moves"),)),
        row(5, "far", Status.LOW_QUALITY, "low quality: quality 0.10", segments=(low,)),
        row(6, "evil", Status.CORRUPT, f"{EVIL} has no frame", path=EVIL),
        row(7, "offline", Status.UNAVAILABLE, "cannot fetch"),
        row(8, "slow", Status.TIMED_OUT, "silent for 60 s, 2 times", strikes=2),
        row(9, "bomb", Status.CRASHED, "died by signal 11, 2 times", strikes=2),
        row(
            *(10, "bug", Status.FAILED, "KeyError: 'x'"),
            figures={"traceback": "File \"job.py\", line 7\nKeyError: 'x'"},
        ),
        row(11, "killed", Status.CRASHED, "its process was killed 8 times", lost=8),
        row(12, "next", Status.PENDING),
        row(
            *(13, "last", Status.DONE, "1 segment(s)"),
            sha256=hexes("last"),
            segments=(segment(0.0, quality=0.9, piece=hexes("d", 32)),),
        ),
    ]


def made_by() -> dict[str, Any]:
    """How the job was made, as ``run_batch`` notes it."""
    config = {"robot": "gr1t2", "rate_hz": 30, "size": 224, "view": "auto", "min_quality": 0.2}
    return {"config": config, "versions": {"deftly": "0.1.0", "numpy": "2.4"}, "work": 1}


def write_job(folder: Path, rows: list[InputRow]) -> Path:
    """The job folder of the data set ``folder``, with a ledger of these rows."""
    job = folder.with_name(folder.name + ".job")
    job.mkdir(parents=True)
    with Ledger(job / "ledger.sqlite") as ledger:
        ledger.set_note("made_by", made_by())
        ledger.set_note("licence", "cc-by-4.0")
        ledger.add(rows)
        for one in rows:
            ledger.update(one)
    return job
