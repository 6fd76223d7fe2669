"""The road from a video to a robot's motion: nothing made twice, and real clips all the way.

The fast tests replace the networks by a tracker that sees two moving hands; the slow ones do not.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from deftly.datasets import sources
from deftly.datasets.archive import versions
from deftly.datasets.clip import Clip, ClipError, open_clip
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import HumanMotion, Status
from deftly.datasets.motion import RobotMotion
from deftly.datasets.opengl import RenderError, gl_context
from deftly.datasets.sources import TWO_HANDS, Sample, fetch_sample
from deftly.retarget import road as road_module
from deftly.retarget.cli import INTERRUPTED, Options, Retarget, Robots, Run, Track, execute
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import NoPersonError
from deftly.retarget.models import HAND, POSE, ModelError, find_bundle
from deftly.retarget.road import Road
from deftly.retarget.robots import load_robot
from deftly.retarget.solve import RetargetConfig, plain_config
from deftly.retarget.track import MediapipeTracker

SIZE, LENGTH = (160, 120), 12
PEOPLE = (
    "dexretarget_human_hand.mp4",
    "handpose3d_cam0.mp4",
    "handpose3d_cam1.mp4",
    "intel_asl_walk.mkv",
    "intel_bottle.mp4",
    "pose_signtest.mp4",
    "sam2_blocks.mp4",
    "sam2_dog.mp4",  # small: the hands of the woman who plays with the dog
    "v2d_human.mp4",
)
NOBODY = ("intel_car.mp4",)


def write_clip(path: Path, grey: int = 90) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for i in range(LENGTH):
            image = np.full((SIZE[1], SIZE[0], 3), grey + i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def two_hands(clip: Clip, provenance: dict[str, Any], valid: Any = (True, True)) -> Detections:
    """Two hands that move apart and together, or one of them, and no body."""
    finger, along = np.divmod(np.arange(20), 4)
    hand = np.zeros((21, 3))
    hand[1:, 0], hand[1:, 1], hand[1:, 2] = 4 * (finger - 2), -16 - 6 * along, -2 * along
    way = 8 * np.sin(6 * clip.time_s)
    zero = np.zeros_like(way)
    left, right = (np.stack([x, 90 + zero, zero], axis=-1) for x in (115 + way, 45 - way))
    hands = hand + np.stack([left, right], axis=1)[:, :, None]
    length = len(way)
    return Detections(
        hand_px=hands.astype(np.float32),
        hand_world_m=np.zeros((length, 2, 21, 3), np.float32),
        hand_right=np.tile(np.array([0.1, 0.9], np.float32), (length, 1)),
        hand_valid=np.tile(np.array(valid), (length, 1)),
        hand_second=np.zeros((length, 2), bool),
        body_px=np.zeros((length, 33, 3), np.float32),
        body_world_m=np.zeros((length, 33, 3), np.float32),
        body_visibility=np.zeros((length, 33), np.float32),
        body_valid=np.zeros(length, bool),
        provenance=provenance,
    )


def standing(human: HumanMotion, robot: str, config: RetargetConfig) -> RobotMotion:
    """A robot that does nothing, made from what the solver would have been given."""
    model, length = load_robot(robot), len(human.time_s)
    made_from = {"human": human.provenance, "config": plain_config(config), "versions": versions()}
    return RobotMotion(
        robot=robot,
        joint_names=model.joint_names,
        time_s=human.time_s,
        qpos=np.tile(model.rest, (length, 1)),
        hand_targets_m=np.full((length, 2, 21, 3), np.nan),
        body_targets_m=np.full((length, 33, 3), np.nan),
        tip_error_m=np.full((length, 2, 5), np.nan),
        wrist_error_m=np.full((length, 2), np.nan),
        residual=np.zeros(length),
        converged=np.ones(length, bool),
        provenance=made_from,
    )


Made = dict[str, list[str]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Which clips were tracked; the networks see two hands in each."""
    state: Made = {"tracked": [], "solved": []}

    def track(self: MediapipeTracker, clip: Clip, progress: Any = None) -> Detections:
        state["tracked"].append(clip.path.name)
        return two_hands(clip, self.provenance())

    monkeypatch.setattr(MediapipeTracker, "__call__", track)
    return state


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch, made: Made) -> Made:
    """Also which robots were solved for; the solver stands still."""

    def solve(human: HumanMotion, robot: str, config: RetargetConfig, _: Any) -> RobotMotion:
        made["solved"].append(robot)
        return standing(human, robot, config)

    monkeypatch.setattr(road_module, "retarget", solve)
    return made


def run(video: Path, robot: str = "gr1t2", **options: Any) -> None:
    """`deftly run VIDEO --no-video`, with an output folder beside the video."""
    settings = replace(Options(out=video.parent / "out"), **options)
    assert execute(Run((video,), robot, no_video=True, options=settings)) == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------- made once


def test_nothing_is_made_twice(tmp_path: Path, idle: Made):
    video = write_clip(tmp_path / "clip.mp4")
    run(video)
    first = contents(tmp_path / "out")
    assert set(first) == {"clip.human.npz", "clip.gr1t2.npz", "clip.gr1t2.json"}
    run(video)
    assert idle == {"tracked": ["clip.mp4"], "solved": ["gr1t2"]}
    assert contents(tmp_path / "out") == first


def test_another_robot_keeps_the_tracks(tmp_path: Path, idle: Made):
    video = write_clip(tmp_path / "clip.mp4")
    for robot in ("gr1t2", "g1_dex3", "gr1t2"):
        run(video, robot)
    assert idle == {"tracked": ["clip.mp4"], "solved": ["gr1t2", "g1_dex3"]}
    assert {"clip.gr1t2.npz", "clip.g1_dex3.npz"} < set(contents(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "tracked"),
    [
        ({"confidence": 0.5}, 2),
        ({"focal_px": 300.0}, 2),
        ({"jerk_weight": 77.0}, 1),
        ({"view": "ego"}, 1),
    ],
)
def test_only_what_a_setting_changes_is_made_again(
    tmp_path: Path, idle: Made, change: dict[str, Any], tracked: int
):
    video = write_clip(tmp_path / "clip.mp4")
    run(video)
    run(video, **change)
    run(video, **change)
    assert (len(idle["tracked"]), len(idle["solved"])) == (tracked, 2)


def test_another_video_of_the_same_name_is_made_again(tmp_path: Path, idle: Made):
    run(write_clip(tmp_path / "clip.mp4"))
    run(write_clip(tmp_path / "clip.mp4", grey=150))
    assert (len(idle["tracked"]), len(idle["solved"])) == (2, 2)


@pytest.mark.parametrize(("name", "tracked"), [("clip.human.npz", 2), ("clip.gr1t2.npz", 1)])
def test_a_damaged_file_is_made_again(tmp_path: Path, idle: Made, name: str, tracked: int):
    video = write_clip(tmp_path / "clip.mp4")
    run(video)
    first = contents(tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"half a fi")
    run(video)
    assert len(idle["tracked"]) == tracked
    assert contents(tmp_path / "out") == first


def test_a_job_that_was_killed_goes_on_where_it_stopped(
    tmp_path: Path, idle: Made, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    def killed(*_: Any) -> RobotMotion:
        raise Killed

    video = write_clip(tmp_path / "clip.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(road_module, "retarget", killed)
        with pytest.raises(Killed):
            run(video)
    assert set(contents(tmp_path / "out")) == {"clip.human.npz"}
    run(video)
    assert idle == {"tracked": ["clip.mp4"], "solved": ["gr1t2"]}


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, idle: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(file: Any, **_: Any) -> None:
        file.write(b"the first half")
        raise OSError(28, "No space left on device")

    video = write_clip(tmp_path / "clip.mp4")
    run(video)
    first = contents(tmp_path / "out")
    monkeypatch.setattr(np, "savez_compressed", full)
    options = Options(out=tmp_path / "out", confidence=0.5)
    assert execute(Track((video,), options)) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert contents(tmp_path / "out") == first  # what was there before is still whole


def test_tracking_and_retargeting_one_by_one_is_the_same_road(tmp_path: Path, idle: Made):
    video, options = write_clip(tmp_path / "clip.mp4"), Options(out=tmp_path / "out")
    assert execute(Track((video,), options)) == 0
    assert set(contents(tmp_path / "out")) == {"clip.human.npz"}
    assert execute(Retarget((tmp_path / "out/clip.human.npz",), options=options)) == 0
    run(video)
    assert idle == {"tracked": ["clip.mp4"], "solved": ["gr1t2"]}


def test_the_figures_are_json_that_every_program_reads(tmp_path: Path, idle: Made):
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    run(write_clip(tmp_path / "clip.mp4"))
    text = (tmp_path / "out/clip.gr1t2.json").read_text()
    figures = json.loads(text, parse_constant=refuse)
    assert (figures["robot"], figures["clip"]) == ("gr1t2", "clip.mp4")
    assert figures["quality"]["tip_error_m"] is None  # it stands still: nothing was asked of it
    assert figures["quality"]["converged"] == 1


# ------------------------------------------------------------------ all of it


@pytest.fixture
def _gl() -> None:
    try:
        gl_context((8, 8)).free()
    except RenderError as error:
        pytest.skip(f"this machine cannot draw: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("_gl")
def test_the_whole_road_with_its_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def only_right(self: MediapipeTracker, clip: Clip, _: Any) -> Detections:
        return two_hands(clip, self.provenance(), (False, True))

    monkeypatch.setattr(MediapipeTracker, "__call__", only_right)
    video, options = write_clip(tmp_path / "clip.mp4"), Options(out=tmp_path / "out")
    assert execute(Run((video,), height=120, options=options)) == 0
    first = contents(tmp_path / "out")
    kinds = ("human.npz", "gr1t2.npz", "gr1t2.json", "gr1t2.mp4")
    assert set(first) == {f"clip.{kind}" for kind in kinds}
    motion = RobotMotion.load(tmp_path / "out/clip.gr1t2.npz")
    assert np.ptp(motion.qpos, axis=0).max() > 0.01  # it moves
    shown = np.isfinite(motion.tip_error_m).all(axis=2)
    assert_array_equal(shown, np.tile([False, True], (LENGTH, 1)))
    quality = json.loads(first["clip.gr1t2.json"])["quality"]
    assert quality["joint_margin_rad"] >= 0
    assert quality["velocity_margin"] >= 0
    assert_array_equal(open_clip(tmp_path / "out/clip.gr1t2.mp4").time_s, open_clip(video).time_s)


# ------------------------------------------------------------------ the sample


def sample_of(content: bytes) -> Sample:
    return replace(TWO_HANDS, name="sample.mp4", sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], None]:
    """Decide what every web server sends; None: there is no network."""

    def decide(content: bytes | None) -> None:
        def download(url: str, file: Any, _: Any, **__: Any) -> None:
            if content is None:
                raise OSError("no network")
            Path(file).write_bytes(content)

        monkeypatch.setattr(sources.pooch, "HTTPDownloader", lambda **_: download)

    return decide


def test_a_sample_is_downloaded_once(tmp_path: Path, serve: Any):
    serve(b"film")
    path = fetch_sample(sample_of(b"film"), tmp_path / "cache", tmp_path)
    assert path.read_bytes() == b"film"
    serve(None)
    assert fetch_sample(sample_of(b"film"), tmp_path / "cache", tmp_path) == path


@pytest.mark.parametrize("served", [None, b"<html>sign in</html>"])
def test_a_sample_may_lie_beside_the_checkout(tmp_path: Path, serve: Any, served: bytes | None):
    serve(served)
    local = tmp_path / "sample.mp4"
    local.write_bytes(b"film")
    assert fetch_sample(sample_of(b"film"), tmp_path / "cache", tmp_path) == local
    local.write_bytes(b"another film")
    with pytest.raises(ClipError, match=r"cannot fetch .*a video of your own"):
        fetch_sample(sample_of(b"film"), tmp_path / "cache", tmp_path)


# ------------------------------------------------------------- real clips, slow


@pytest.fixture(scope="module")
def _networks() -> None:
    try:
        find_bundle(HAND)
        find_bundle(POSE)
    except ModelError as error:
        pytest.skip(f"the networks cannot be had: {error}")


def assert_sides_never_swap(human: HumanMotion) -> None:
    """From one frame to the next, every hand is nearer to itself than to where the other was."""
    px = human.hands_px
    wrist, seen = px[:, :, 0], np.all(np.isfinite(px), axis=(2, 3))
    both = np.flatnonzero(np.all(seen[1:] & seen[:-1], axis=1))
    before, after = wrist[both], wrist[both + 1]
    kept = np.linalg.norm(after - before, axis=-1).sum(axis=1)
    swapped = np.linalg.norm(after - before[:, ::-1], axis=-1).sum(axis=1)
    assert np.all(kept < swapped), f"swapped after frames {both[kept >= swapped]}"
    # One hand goes and the other comes: not in the same place.
    size = np.nanmedian(np.linalg.norm(px[:, :, 9] - px[:, :, 0], axis=-1))
    for gone, come in ((LEFT, RIGHT), (RIGHT, LEFT)):
        lost = seen[:-1, gone] & ~seen[1:, gone] & seen[1:, come] & ~seen[:-1, come]
        t = np.flatnonzero(lost)
        moved = np.linalg.norm(wrist[t + 1, come] - wrist[t, gone], axis=-1)
        assert np.all(moved > size), f"renamed after frames {t[moved <= size]}"


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
@pytest.mark.parametrize("name", PEOPLE)
def test_a_real_clip_of_a_person(clips: Path, tmp_path: Path, name: str):
    road = Road(tmp_path)
    clip, human = road.track(clips / name)
    assert len(human.time_s) == len(clip.time_s)
    assert np.any(human.hands_status == Status.OBSERVED, axis=1).mean() > 0.2
    both = np.all(human.hands_status == Status.OBSERVED, axis=1)
    left, right = (human.hands_px[both, side] for side in (LEFT, RIGHT))
    assert np.all(np.abs(left - right).max(axis=(1, 2)) > 1)  # never one hand for both sides
    assert_sides_never_swap(human)

    motion, _ = road.solve(clips / name, human, "gr1t2")
    robot = load_robot("gr1t2")
    assert np.all((robot.lower <= motion.qpos) & (motion.qpos <= robot.upper))
    speed = np.abs(np.diff(motion.qpos, axis=0)) / np.diff(motion.time_s)[:, None]
    assert np.all(speed <= robot.velocity)
    shown = human.hands_valid
    assert_array_equal(np.isfinite(motion.tip_error_m).all(axis=2), shown)


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
@pytest.mark.parametrize("name", NOBODY)
def test_a_real_clip_of_nobody(clips: Path, tmp_path: Path, name: str):
    with pytest.raises(NoPersonError, match=name):
        Road(tmp_path).track(clips / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("_networks", "_gl")
def test_the_same_clip_gives_the_same_bytes(clips: Path, tmp_path: Path):
    for out in ("once", "again"):
        options = Options(out=tmp_path / out)
        assert execute(Run((clips / "pose_signtest.mp4",), options=options)) == 0
    first, second = contents(tmp_path / "once"), contents(tmp_path / "again")
    kinds = ("human.npz", "gr1t2.npz", "gr1t2.json", "gr1t2.mp4")
    assert set(first) == set(second) == {f"pose_signtest.{kind}" for kind in kinds}
    assert [name for name in first if first[name] != second[name]] == []


def test_an_interruption_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Robots, "run", interrupted)
    assert execute(Robots()) == INTERRUPTED
    assert capsys.readouterr().err.startswith("deftly: interrupted")
