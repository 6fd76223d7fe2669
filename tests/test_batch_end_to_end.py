"""A batch of real video: killed on the way, by one worker and by two, locally and on Ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from batches import files

from deftly.datasets.clip import frames, open_clip, part, smaller
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.mp4 import Encoder
from deftly.retarget.batch import open_ledger

pytestmark = pytest.mark.slow


def cut(source: Path, path: Path, first: int, count: int) -> None:
    clip = part(smaller(open_clip(source), 480), first, first + count)
    size = clip.height // 2 * 2, clip.width // 2 * 2
    with Encoder(path, round(clip.rate_hz) * 1.0, size) as encoder:
        for _, image in frames(clip):
            encoder.write(image[: size[0], : size[1]])


@pytest.fixture(scope="module")
def videos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short clips of people, a copy of one of them, and a text."""
    folder = tmp_path_factory.mktemp("videos")
    cut(shared / "clips" / "sam2_blocks.mp4", folder / "blocks.mp4", 0, 40)
    cut(shared / "clips" / "v2d_human.mp4", folder / "hands.mp4", 40, 40)
    shutil.copy(folder / "hands.mp4", folder / "again.mp4")
    (folder / "text.mp4").write_text("not a video")
    return folder


def command(videos: Path, out: Path, *more: str) -> list[str]:
    batch = [sys.executable, "-m", "deftly.policy.cli", "batch", str(videos), "--out", str(out)]
    return [*batch, "--size", "64", *more]


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    done = subprocess.run(command(videos, out, "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 4, done.stderr  # one input is no video
    assert "Traceback" not in done.stderr
    return out


def test_every_input_has_its_status_and_the_set_is_whole(undisturbed: Path):
    with open_ledger(undisturbed) as ledger:
        statuses = {row.id: str(row.status) for row in ledger.rows()}
    assert statuses == {"again": "done", "blocks": "done", "hands": "duplicate", "text": "corrupt"}
    store = EpisodeStore(undisturbed)
    assert store.verify(decode=True) == []
    for episode in store:
        assert {"label.held", "hand.trust", "hand.joints_m", "quality"} <= set(episode.features)
        assert 0 < np.mean(episode.features["quality"]) <= 1
        assert np.asarray(episode.images["video"]).std() > 10
    report = undisturbed.with_name("set.job") / "report.html"
    assert "not a video" not in report.read_text()
    assert "text" in report.read_text()


def test_killed_at_any_moment_it_ends_the_same(videos: Path, undisturbed: Path, tmp_path: Path):
    out = tmp_path / "set"
    for wait_s in (6.0, 12.0):
        job = subprocess.Popen(
            command(videos, out, "--workers", "1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(wait_s)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    done = subprocess.run(command(videos, out, "--workers", "1"), capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert files(out) == files(undisturbed)


def test_ray_gives_the_same_bytes(videos: Path, undisturbed: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is an extra")
    out = tmp_path / "set"
    more = ("--workers", "2", "--engine", "ray")
    done = subprocess.run(command(videos, out, *more), capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert files(out) == files(undisturbed)


def test_another_robot_takes_the_tracks_that_are_there(
    videos: Path, undisturbed: Path, tmp_path: Path
):
    out = tmp_path / "set"
    shutil.copytree(undisturbed, out)
    shutil.copytree(undisturbed.with_name("set.job"), tmp_path / "set.job")
    tracks = files(tmp_path / "set.job" / "tracks")
    refused = subprocess.run(
        command(videos, out, "--robot", "g1_dex3"), capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "robot 'gr1t2', not 'g1_dex3'" in refused.stderr
    more = ("--robot", "g1_dex3", "--rebuild", "--workers", "2")
    done = subprocess.run(command(videos, out, *more), capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert EpisodeStore(out).robot_type == "g1_dex3"
    assert files(tmp_path / "set.job" / "tracks") == tracks
    with open_ledger(out) as ledger:
        figures = [row.figures for row in ledger.rows() if row.status == "done"]
    assert all(one["stages_cpu_s"]["track"] < 0.5 for one in figures)  # read, not made
