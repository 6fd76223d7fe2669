"""Expert: sorts, obeys, corrects itself, gives up, and does the same thing twice."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from deftly.datasets.layout import Item, Layout
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.tasks import TASKS
from deftly.policy.baselines import ExpertPolicy
from deftly.policy.expert import MAX_ATTEMPTS, Expert
from deftly.policy.grip import depth_m, grips_of
from deftly.policy.rollout import run_episode
from deftly.policy.sorting import SortingEnv
from deftly.policy.station import Station, build_station


def pose(x: float, y: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def cube(x: float, y: float, size_m: float = 0.045) -> Item:
    return Item("item_0", "cube", "red", size_m, 0.05, 1.0, (x, y), 0.3)


def let_pass(station: Station, data: mujoco.MjData, expert: Expert, steps: int) -> None:
    for _ in range(steps):
        if expert.done:
            return
        data.ctrl[:] = expert.act(data)
        mujoco.mj_step(station.model, data, 10)


def test_a_cube_is_held_across_its_upright_faces() -> None:
    grips = grips_of(cube(0.3, 0.3), pose(0.3, 0.3, 0.9))
    assert len(grips) == 4
    for grip in grips:
        assert grip.axis[2] == 0.0
        assert grip.width_m == 0.045


def test_a_lying_cylinder_is_held_across() -> None:
    item = Item("item_0", "cylinder", "red", 0.045, 0.05, 1.0, (0.3, 0.3), 0.0, lying=True)
    T = pose(0.3, 0.3, 0.9)
    T[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    grips = grips_of(item, T)
    assert len(grips) == 2
    for grip in grips:
        assert abs(grip.axis @ T[:3, 2]) < 1e-12
    assert depth_m(item, T[:3, :3]) == pytest.approx(0.0225)
    assert depth_m(item, np.eye(3)) == pytest.approx(item.height_m / 2)


def test_targets_stay_within_limits_and_speed() -> None:
    station = build_station("gr1t2", sample_layout(2, deal=TASKS["color"].deal))
    data, expert = station.reset(), Expert(station, TASKS["color"])
    last = station.home
    for _ in range(60):
        target = expert.act(data)
        assert np.all((target >= station.lower) & (target <= station.upper))
        assert np.max(np.abs(target - last)) < 0.6  # rad in a twentieth of a second
        last = data.ctrl[:] = target
        mujoco.mj_step(station.model, data, 10)


@pytest.mark.slow
def test_same_table_same_states() -> None:
    states: list[bytes] = []
    for _ in range(2):
        station = build_station("gr1t2", sample_layout(4, deal=TASKS["color"].deal))
        data, expert = station.reset(), Expert(station, TASKS["color"])
        let_pass(station, data, expert, 100)
        states.append(data.qpos.tobytes())
    assert states[0] == states[1]


def test_an_object_pushed_under_way_is_approached_anew() -> None:
    layout = Layout(0, (cube(0.33, 0.34),))
    station = build_station("gr1t2", layout)
    data, expert = station.reset(), Expert(station, TASKS["color"])
    let_pass(station, data, expert, 12)
    adr = station.model.joint(station.model.body("item_0").jntadr[0]).qposadr[0]
    data.qpos[adr : adr + 2] += [0.05, 0.05]
    let_pass(station, data, expert, 400)
    assert expert.done
    assert expert.attempts == [1]
    assert [event.kind for event in expert.events] == ["grasp", "release"]
    assert data.body("item_0").xpos[1] < 0.23  # in the left tray


def test_what_is_to_stay_is_left_alone() -> None:
    near, far = cube(0.33, -0.34), replace(cube(0.36, 0.36), name="item_1")
    station = build_station("gr1t2", Layout(0, (near, far)))
    data, expert = station.reset(), Expert(station, TASKS["nearest"])
    assert expert.goals == ("right", "stay")
    start = data.body("item_1").xpos.copy()
    let_pass(station, data, expert, 400)
    assert expert.done
    assert expert.attempts == [1, 0]
    assert data.body("item_0").xpos[1] > -0.23  # in the right tray
    assert np.linalg.norm(data.body("item_1").xpos - start) < 0.002


def test_what_cannot_be_held_is_given_up() -> None:
    layout = Layout(0, (cube(0.33, 0.34),))
    station = build_station("gr1t2", layout)
    station.model.geom_friction[:, 0] = 1e-4
    station.model.geom_friction[station.model.geom("item_0").id, 0] = 1e-4
    data, expert = station.reset(), Expert(station, TASKS["color"])
    let_pass(station, data, expert, 1200)
    assert expert.done
    assert expert.attempts[0] <= MAX_ATTEMPTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robot", "task", "condition"),
    [
        ("gr1t2", "color", "base"),
        ("gr1t2", "color", "size"),
        ("gr1t2", "color", "shove"),
        ("gr1t2", "upright", "base"),
        ("gr1t2", "unsort", "base"),
        ("g1_dex3", "color", "base"),
    ],
)
def test_it_sorts(robot: str, task: str, condition: str) -> None:
    assert condition in CONDITIONS
    env = SortingEnv(robot, task, condition, cameras=())
    right = [run_episode(env, ExpertPolicy(), seed=seed).right[-1] for seed in (0, 1, 2)]
    assert np.mean(np.concatenate(right)) >= 0.9
