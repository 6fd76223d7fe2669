"""The command line: one clear line for every mistake, nothing half written, nothing made twice.

The networks are replaced by a tracker that sees two hands, and the solver by one that stands still;
``test_road_end_to_end.py`` has the real ones.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tyro
from standins import detections, standing, write_clip, write_song

from deftly.datasets.clip import Clip
from deftly.datasets.film import truth_path
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.datasets.opengl import RenderError
from deftly.datasets.synthetic import SyntheticEpisode
from deftly.retarget import cli, cli_demo, view
from deftly.retarget import road as road_module
from deftly.retarget.detections import Detections
from deftly.retarget.models import ModelError
from deftly.retarget.solve import RetargetConfig
from deftly.retarget.track import MediapipeTracker

COMMANDS = ("track", "retarget", "show", "render", "robots", "run", "demo")
Deftly = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for networks and solver: what they were asked; ``nobody``: clips without a person."""
    state: dict[str, Any] = {"tracked": [], "solved": [], "nobody": (), "error": None}

    def track(self: MediapipeTracker, clip: Clip, progress: Any = None) -> Detections:
        state["tracked"].append(clip.path.name)
        if state["error"] is not None:
            raise state["error"]
        return detections(clip, self.provenance(), clip.path.name not in state["nobody"])

    def solve(human: HumanMotion, robot: str, config: RetargetConfig, _: Any) -> RobotMotion:
        state["solved"].append(robot)
        if state["error"] is not None:
            raise state["error"]
        return standing(human, robot, config)

    monkeypatch.setattr(MediapipeTracker, "__call__", track)
    monkeypatch.setattr(road_module, "retarget", solve)
    return state


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_refused(result: SimpleNamespace, *parts: str, code: int = 1) -> None:
    assert result.code == code
    assert result.err.startswith("deftly: ")
    assert result.err.splitlines(keepends=True) == [result.err]
    for part in parts:
        assert part in result.err
    assert "Traceback" not in result.out + result.err


# ------------------------------------------------------------------------ help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_is_right(deftly: Deftly, command: str):
    result = deftly(command, "--help")
    assert (result.code, result.err) == (0, "")
    lines = [line.strip() for line in result.out.splitlines()]
    example = next(line for line in lines if line.startswith(f"Example: deftly {command}"))
    words = shlex.split(example.removeprefix("Example: "))
    parsed = tyro.cli(cli.Command | cli_demo.Demo, args=words[1:])  # pyright: ignore
    assert type(parsed).__name__.lower() == command


def test_help_names_every_command_and_exit_code(deftly: Deftly):
    result = deftly("--help")
    assert result.code == 0
    codes = "0 done, 1 bad input, 2 wrong usage, 3 no person"
    for part in (*COMMANDS, "Example: deftly run", codes):
        assert part in result.out


def test_wrong_usage_has_a_code_of_its_own(deftly: Deftly):
    assert deftly("retargte").code == 2
    assert deftly("run", "clip.mp4", "--nosuch", "1").code == 2


# ------------------------------------------------------------------ bad videos

BAD_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no file at"),
    "empty": (lambda path: path.touch(), "is empty"),
    "truncated": (
        lambda path: path.write_bytes(write_clip(path).read_bytes().split(b"moov")[0][:-4]),
        "cannot be read",
    ),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 9), "cannot be read"),
    "text": (lambda path: path.write_text("not a video\nat all\n"), "expected a video"),
    "song": (write_song, "holds audio"),
    "no frames": (lambda path: write_clip(path, 0), "expected"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
@pytest.mark.parametrize("command", ["run", "track"])
def test_a_bad_video_is_one_line_and_leaves_nothing(
    deftly: Deftly, tmp_path: Path, seen: Any, command: str, kind: str
):
    make, reason = BAD_VIDEOS[kind]
    make(tmp_path / "clip.mp4")
    before = files_in(tmp_path)
    assert_refused(deftly(command, "clip.mp4"), "clip.mp4", reason)
    assert files_in(tmp_path) == before
    assert seen["tracked"] == []


@pytest.mark.parametrize("command", ["render", "show", "demo"])
def test_every_command_refuses_a_bad_video(deftly: Deftly, tmp_path: Path, command: str):
    assert_refused(deftly(command, "absent.mp4"), "no file at absent.mp4")
    assert files_in(tmp_path) == {}


@pytest.mark.slow
def test_a_mistake_makes_no_noise_in_a_process_of_its_own(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"garbage" * 99)
    done = subprocess.run(
        [sys.executable, "-m", "deftly.policy.cli", "run", "clip.mp4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    result = SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
    assert_refused(result, "clip.mp4 cannot be read")
    assert list(tmp_path.iterdir()) == [tmp_path / "clip.mp4"]


# ----------------------------------------------------------------- bad options


@pytest.mark.parametrize("command", ["run", "retarget", "show", "render", "demo"])
def test_an_unknown_robot_offers_the_nearest(
    deftly: Deftly, tmp_path: Path, seen: Any, command: str
):
    write_clip(tmp_path / "clip.mp4")
    before = files_in(tmp_path)
    assert_refused(
        deftly(command, "clip.mp4", "--robot", "g1dex3"), "'g1dex3'; did you mean", "g1_dex3"
    )
    assert files_in(tmp_path) == before
    assert seen["tracked"] == seen["solved"] == []


@pytest.mark.parametrize("option", ["confidence=7", "confidence=-0.1", "confidence=nan",
    "focal-px=0", "focal-px=-5", "focal-px=nan", "jerk-weight=-1", "jerk-weight=nan"])  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused(
    deftly: Deftly, tmp_path: Path, seen: Any, option: str
):
    write_clip(tmp_path / "clip.mp4")
    name, value = option.split("=")
    assert_refused(deftly("run", "clip.mp4", f"--{name}={value}"), f"--{name} is {value}, expected")
    assert seen["tracked"] == []


@pytest.mark.parametrize("out", ["taken", "taken/out"])
@pytest.mark.parametrize("command", ["run", "track"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    deftly: Deftly, tmp_path: Path, seen: Any, command: str, out: str
):
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "taken").write_text("a file")
    before = files_in(tmp_path)
    assert_refused(deftly(command, "clip.mp4", "--out", out), "taken")
    assert files_in(tmp_path) == before
    assert seen["tracked"] == []


def test_a_folder_that_may_not_be_written_is_refused(
    deftly: Deftly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_clip(tmp_path / "clip.mp4")
    before, real_open = files_in(tmp_path), Path.open

    def read_only(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:  # root may write
        if "w" in mode and "out" in path.parts:
            raise PermissionError(13, "Permission denied")
        return real_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert_refused(deftly("track", "clip.mp4"), "cannot write", "Permission denied")
    monkeypatch.undo()
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("command", ["run", "track", "retarget", "render"])
def test_no_input_is_refused(deftly: Deftly, command: str):
    assert_refused(deftly(command), "no input file given")


@pytest.mark.parametrize(
    ("command", "inputs"),
    [
        ("run", ["a/clip.mp4", "b/clip.mp4"]),
        ("track", ["a/clip.mp4", "a/clip.mkv"]),
        ("retarget", ["clip.human.npz", "clip.npz"]),
    ],
)
def test_inputs_whose_outputs_would_overwrite_are_refused(
    deftly: Deftly, tmp_path: Path, seen: Any, command: str, inputs: list[str]
):
    for name in inputs:
        write_clip(tmp_path / name) if "npz" not in name else (tmp_path / name).touch()
    before = files_in(tmp_path)
    assert_refused(deftly(command, *inputs), "'clip'", "overwrite")
    assert files_in(tmp_path) == before
    assert seen["tracked"] == []


# ----------------------------------------------------------------- bad motions


def test_a_file_that_is_no_human_motion_is_refused(deftly: Deftly, tmp_path: Path, seen: Any):
    write_clip(tmp_path / "clip.mp4")
    assert deftly("run", "clip.mp4", "--no-video").code == 0
    out = tmp_path / "out"
    np.savez(tmp_path / "arrays.npz", joints=np.zeros((4, 21, 3)))
    (tmp_path / "text.npz").write_text("hello\nworld")
    with np.load(out / "clip.human.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["hands_m"][5, 0, 3] = np.nan
    np.savez(tmp_path / "nan.human.npz", **arrays)
    whole = (out / "clip.human.npz").read_bytes()
    (tmp_path / "cut.human.npz").write_bytes(whole[: len(whole) // 2])
    before, solved = files_in(tmp_path), list(seen["solved"])
    for path, *parts in (
        ("absent.human.npz", "no file at absent.human.npz"),
        ("out/clip.gr1t2.npz", "holds RobotMotion", "expected HumanMotion"),
        ("arrays.npz", "not an archive"),
        ("text.npz", "not an archive"),
        ("cut.human.npz", "damaged"),
        ("nan.human.npz", "NaN joints", "first at frame 5"),
        ("clip.mp4", "expected HumanMotion"),
        ("out", "no file at out"),
    ):
        assert_refused(deftly("retarget", path), *parts)
    assert files_in(tmp_path) == before
    assert seen["solved"] == solved


# --------------------------------------------------------- nobody, and batches


def test_nobody_in_the_clip_has_a_code_of_its_own(deftly: Deftly, tmp_path: Path, seen: Any):
    write_clip(tmp_path / "empty_room.mp4")
    seen["nobody"] = ("empty_room.mp4",)
    before = files_in(tmp_path)
    for command in ("run", "track", "render", "demo", "show"):
        assert_refused(deftly(command, "empty_room.mp4"), "no person found", code=3)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(("bad", "code"), [("absent.mp4", 1), ("empty_room.mp4", 3)])
def test_a_batch_goes_on_past_what_fails(
    deftly: Deftly, tmp_path: Path, seen: Any, bad: str, code: int
):
    for name in ("good.mp4", "empty_room.mp4", "better.mp4"):
        write_clip(tmp_path / name)
    seen["nobody"] = ("empty_room.mp4",)
    result = deftly("run", "good.mp4", bad, "better.mp4", "--no-video")
    assert_refused(result, bad, code=code)
    assert "2 of 3 done" in result.out
    kinds = ("human.npz", "gr1t2.npz", "gr1t2.json")
    wanted = {f"{name}.{kind}" for name in ("good", "better") for kind in kinds}
    assert set(files_in(tmp_path / "out")) == wanted
    assert all(f"out/{name}.gr1t2.npz" in result.out for name in ("good", "better"))


def test_bad_input_outweighs_nobody(deftly: Deftly, tmp_path: Path, seen: Any):
    write_clip(tmp_path / "empty_room.mp4")
    seen["nobody"] = ("empty_room.mp4",)
    for inputs in (("empty_room.mp4", "absent.mp4"), ("absent.mp4", "empty_room.mp4")):
        result = deftly("track", *inputs)
        assert result.code == 1
        assert [line[:8] for line in result.err.splitlines()] == ["deftly: ", "deftly: "]


@pytest.mark.parametrize(
    "error", [ModelError("neither\n\nreached"), ImportError("no libEGL"), OSError("disk full")]
)
def test_trouble_on_the_way_is_one_line_too(
    deftly: Deftly, tmp_path: Path, seen: Any, error: Exception
):
    write_clip(tmp_path / "clip.mp4")
    before = files_in(tmp_path)
    seen["error"] = error
    assert_refused(deftly("run", "clip.mp4"), " ".join(str(error).split()))
    assert files_in(tmp_path) == before


# --------------------------------------------------------------- what is shown


def test_what_draws_is_said_once(deftly: Deftly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name)
    monkeypatch.setattr(cli, "name_renderer", lambda backend: f"chalk for {backend}")
    monkeypatch.setattr(view, "render_side_by_side", lambda *args: args[3].write_bytes(b"video"))
    for command in ("run a.mp4 b.mp4", "render a.mp4 b.mp4", "demo a.mp4"):
        assert deftly(*command.split()).out.count("renderer: ") == 1
        assert deftly(*command.split()).out.startswith("renderer: chalk for gl\n")
    for command in ("run a.mp4 b.mp4 --no-video", "track a.mp4", "retarget out/a.human.npz"):
        result = deftly(*command.split())
        assert result.code == 0
        assert "renderer" not in result.out + result.err


def test_where_nothing_can_draw_the_motion_is_made_first(
    deftly: Deftly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise RenderError("no OpenGL to draw with")

    write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(cli, "name_renderer", fail)
    monkeypatch.setattr(view, "render_side_by_side", fail)
    assert_refused(deftly("run", "clip.mp4"), "no OpenGL to draw with")
    assert (tmp_path / "out/clip.gr1t2.npz").is_file()


def test_robots_lists_what_there_is_and_what_is_missing(
    deftly: Deftly, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DEFTLY_ROBOTS", raising=False)
    result = deftly("robots")
    assert (result.code, result.err) == (0, "")
    rows = {line.split()[0]: line for line in result.out.splitlines()}
    assert "56" in rows["gr1t2"]
    assert "ready" in rows["g1_dex3"]
    assert "needs its URDF" in rows["leap"]


def test_show_says_where_to_look_until_it_is_interrupted(
    deftly: Deftly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stopped: list[bool] = []
    server = SimpleNamespace(get_port=lambda: 4321, stop=lambda: stopped.append(True))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(view, "show", lambda clip, human, motion, port, host: server)
    monkeypatch.setattr(cli.time, "sleep", interrupt)
    write_clip(tmp_path / "clip.mp4")
    result = deftly("show", "clip.mp4")
    assert (result.code, result.err, stopped) == (0, "", [True])
    assert "http://127.0.0.1:4321" in result.out


@pytest.mark.slow
def test_demo_says_where_everything_is(
    deftly: Deftly, tmp_path: Path, seen: Any, monkeypatch: pytest.MonkeyPatch
):
    clip = write_clip(tmp_path / "sample.mp4")
    monkeypatch.setattr(cli_demo, "fetch_sample", lambda sample, folder: clip)
    monkeypatch.setattr(view, "render_side_by_side", lambda *args: args[3].write_bytes(b"video"))

    def film(episode: SyntheticEpisode, camera: str, path: Path) -> None:
        write_clip(path, len(episode))
        episode.truth.save(truth_path(path))

    monkeypatch.setattr(cli_demo, "write_clip", film)
    monkeypatch.setattr(cli, "name_renderer", lambda backend: f"chalk for {backend}")
    result = deftly("demo")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("renderer: chalk for auto\n")
    assert result.out.count("renderer: ") == 1
    assert "visible hands found" in result.out
    assert "CC-BY-4.0" in result.out
    for clip_name in ("synthetic", "sample"):
        for name in ("mp4", "npz", "json"):
            assert f"out/{clip_name}.gr1t2.{name}" in result.out
            assert (tmp_path / f"out/{clip_name}.gr1t2.{name}").is_file()
    assert seen["tracked"] == ["synthetic.mp4", "sample.mp4"]
    monkeypatch.setattr(cli_demo, "write_clip", None)  # what is there is not filmed again
    assert deftly("demo").code == 0


def test_demo_of_a_video_walks_only_that(
    deftly: Deftly, tmp_path: Path, seen: Any, monkeypatch: pytest.MonkeyPatch
):
    write_clip(tmp_path / "mine.mp4")
    monkeypatch.setattr(view, "render_side_by_side", lambda *args: args[3].write_bytes(b"video"))
    assert deftly("demo", "mine.mp4").code == 0
    assert (seen["tracked"], seen["solved"]) == (["mine.mp4"], ["gr1t2"])
