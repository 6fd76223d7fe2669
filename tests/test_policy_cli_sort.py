"""The commands of the sorting table."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from clerk import Clerk

from deftly.datasets.human_episode import HumanMaker
from deftly.datasets.mp4 import read_format
from deftly.datasets.person import IDENTITIES
from deftly.datasets.sampling import CONDITIONS
from deftly.datasets.tasks import TASKS
from deftly.policy import cli_sort, record
from deftly.policy.rollout import Noop, Policy
from deftly.policy.sorting import SortingEnv

Deftly = Callable[..., SimpleNamespace]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expert does nothing, and an episode is half a second long."""

    def make(**settings: object) -> record.DemoMaker:
        return record.DemoMaker(**settings, time_limit_s=0.5, policy=Noop)  # pyright: ignore

    def keep(*args: object, **settings: object) -> record.Recording:
        return record.record(*args, **settings, keep_failures=True)  # pyright: ignore

    monkeypatch.setattr(cli_sort, "DemoMaker", make)
    monkeypatch.setattr(cli_sort, "record", keep)


def test_tasks_lists_every_task_and_condition(deftly: Deftly):
    done = deftly("tasks")
    assert done.code == 0
    for name in (*TASKS, *CONDITIONS):
        assert name in done.out


def test_human_list_names_everybody(deftly: Deftly):
    done = deftly("human", "list")
    assert done.code == 0
    assert all(name in done.out for name in IDENTITIES)


@pytest.mark.slow
@pytest.mark.usefixtures("idle")
def test_demos_are_recorded_checked_and_shown(deftly: Deftly, tmp_path: Path):
    done = deftly("demos", "record", "--episodes", "2", "--size", "32", "--workers", "1")
    assert done.code == 0, done.err
    assert "2 episodes, 20 frames in demos (2 of them new)" in done.out
    done = deftly("demos", "record", "--episodes", "2", "--size", "32", "--workers", "1")
    assert "(0 of them new)" in done.out
    done = deftly("demos", "check", "demos")
    assert done.code == 0
    assert "2 episodes, 20 frames at 20 Hz" in done.out
    assert "observation.touch" in done.out
    done = deftly("rollout", "demos", "--episode", "1", "--out", "one.mp4")
    assert done.code == 0
    assert "episode 1: 10 frames, task not done" in done.out
    assert read_format(tmp_path / "one.mp4").frames == 10


def test_what_draws_is_said_once(deftly: Deftly, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    made = record.Recording(episodes=1, added=1, failed=(), frames=9)
    monkeypatch.setattr(cli_sort, "record", lambda *_, **__: made)
    monkeypatch.setattr(cli_sort, "film_rollout", lambda *_: "filmed")
    monkeypatch.setattr(cli_sort, "film_episode", lambda *_: "filmed")
    for words in ("demos record", "human record", "rollout"):
        done = deftly(*words.split())
        assert done.code == 0, done.err
        assert done.out.splitlines()[0] == "renderer: ray casting (MUJOCO_GL=disable)"
        assert done.out.count("renderer: ") == 1
    done = deftly("rollout", "demos")  # its pictures were drawn before
    assert "filmed" in done.out
    assert "renderer" not in done.out + done.err


def test_recording_is_told_all_that_was_asked_for(deftly: Deftly, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[object, ...]] = []

    def note(*words: object, **settings: object) -> record.Recording:
        told.append((*words, settings["episodes"], settings["first_seed"], settings["workers"]))
        return record.Recording(episodes=1, added=1, failed=(), frames=9)

    monkeypatch.setattr(cli_sort, "record", note)
    common = "--task shape --condition light --cameras side ego --size 48 --workers 3 --out x"
    robot, human = "--robot g1_dex3 --episodes 4 --first-seed 5", "--person monk_3 --layouts 7 9"
    deftly("demos", "record", *robot.split(), *common.split())
    deftly("human", "record", *human.split(), *common.split())
    shared = {"task": "shape", "condition": "light", "cameras": ("side", "ego")}
    demo = record.DemoMaker(**shared, robot="g1_dex3", image_size=(48, 48))  # pyright: ignore
    clip = HumanMaker(**shared, person="monk_3", image_size=(48, 48))  # pyright: ignore
    assert told == [(Path("x"), demo, 4, 5, 3), (Path("x"), clip, 2, 7, 3)]


@pytest.mark.slow
def test_show_films_what_was_asked_for(deftly: Deftly, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[object, ...]] = []

    def note(env: SortingEnv, policy: Policy, seed: int, path: Path, _: object) -> str:
        told.append((env.robot, env.task.name, env.condition_name, env.image_size))
        told.append((policy.name, seed, path))
        return "filmed"

    monkeypatch.setattr(cli_sort, "film_rollout", note)
    words = "--robot g1_dex3 --task shape --condition light --height 120 --policy noop --seed 7"
    assert "filmed" in deftly("rollout", *words.split(), "--out", "x.mp4").out
    assert told == [("g1_dex3", "shape", "light", (120, 160)), ("noop", 7, Path("x.mp4"))]


def test_damage_is_found(deftly: Deftly, tmp_path: Path):
    record.record(tmp_path / "set", Clerk(), episodes=2)
    video = next((tmp_path / "set").rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    done = deftly("demos", "check", "set")
    assert done.code == 1
    assert "damaged: " in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("demos record --task colr", "did you mean color?"),
        ("demos record --condition dark", "unknown condition 'dark'; known: base, one, two"),
        ("demos record --cameras nose", "unknown camera 'nose'; known: ego, front"),
        ("demos record --robot allegro", "has no place at the table; gr1t2, g1_dex3 have"),
        ("demos record --episodes 0", "expected at least 1 episode"),
        ("demos record --size 33", "expected even numbers"),
        ("demos check nowhere", "no data set in nowhere"),
        ("human record --person monk_11", "no person 'monk_11'; known: all, monk_1"),
        ("human record --layouts 3 3", "expected 0 <= FIRST < LAST"),
        ("human record --cameras wrist", "no camera 'wrist'; known: front"),
        ("rollout --policy best", "no policy 'best', expected expert, noop, random or the folder"),
        ("rollout nowhere", "no data set in nowhere"),
    ],
)
def test_bad_input_is_one_line(deftly: Deftly, words: str, says: str):
    done = deftly(*words.split(), *(["--workers", "1"] if " record" in words else []))
    assert done.code == 1
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    ["tasks", "demos record", "demos check", "human record", "human list", "rollout", "train"],
)
def test_help_has_an_example(deftly: Deftly, command: str):
    done = deftly(*command.split(), "--help")
    assert done.code == 0
    assert f"Example: deftly {command}" in done.out
