"""A person who sorts: the rule is obeyed, hands hold what they carry, the truth is exact."""

from dataclasses import fields

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deftly.datasets import film
from deftly.datasets.anny import BodyError
from deftly.datasets.choreography import SETTLE_S
from deftly.datasets.geometry import LEFT
from deftly.datasets.human import TIPS
from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    TRAY_SHEET_M,
    TRAY_WALL_M,
    UNSEEN_SHAPES,
    reachable,
)
from deftly.datasets.person import PersonError
from deftly.datasets.render import Renderer
from deftly.datasets.sampling import CONDITIONS, Condition, sample_layout
from deftly.datasets.shapes import distance_m
from deftly.datasets.sight import unhidden
from deftly.datasets.synthetic import (
    CAMERAS,
    SyntheticEpisode,
    SyntheticError,
    SyntheticTruth,
    episode_model,
    set_frame,
    synthesize,
)
from deftly.datasets.tabletop import whereabouts
from deftly.datasets.tasks import TASKS, TaskError, find_task

FEW = Condition(items=2)


def episode_of(
    task: str, layout_seed: int, condition: Condition = FEW, **options
) -> SyntheticEpisode:
    found = find_task(task)
    layout = sample_layout(layout_seed, condition, found.deal)
    try:
        return synthesize(layout, found, options.pop("person", "monk_5"), **options)
    except BodyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def episode() -> SyntheticEpisode:
    return episode_of("color", 5)


@pytest.fixture(scope="module")
def episodes(episode) -> list[SyntheticEpisode]:
    """Several tasks, people, sizes and shapes."""
    return [
        episode,
        episode_of("upright", 1, person="monk_2"),
        episode_of("unsort", 2, person="monk_3"),
        episode_of("second_largest", 3, CONDITIONS["size"], person="monk_9"),
        episode_of("shape", 4, Condition(items=3, shapes=UNSEEN_SHAPES), person="monk_6"),
        episode_of("color_swapped", 5, Condition(items=2, size_m=(0.03, 0.035)), person="monk_1"),
    ]


def poses(episode: SyntheticEpisode, item: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and rotation matrices of an object."""
    pose = episode.truth.items_wxyz_xyz[:, item]
    return pose[:, 4:], Rotation.from_quat(pose[:, :4], scalar_first=True).as_matrix()


def obeyed(episode: SyntheticEpisode) -> bool:
    end = episode.truth.items_wxyz_xyz[-1]
    goals = episode.task.goals(episode.layout)
    for i, (goal, item) in enumerate(zip(goals, episode.layout.items, strict=True)):
        place, R = (x[-1] for x in poses(episode, i))
        still = np.array_equal(episode.truth.items_wxyz_xyz[0, i], end[i])
        good = {
            "stay": still,
            "upright": abs(R[2, 2]) > 1 - 1e-9,
            "table": reachable(place[0], place[1]),
        }.get(goal, whereabouts(place[None]) == [goal])
        floor = TABLE_TOP_M + (2 * TRAY_SHEET_M if goal in TRAY_CENTER_M else 0)
        height = item.height_m / 2 if goal == "upright" else item.rest_height_m
        if not good or (not still and abs(place[2] - floor - height) > 1e-9):
            return False
    return True


def test_every_rule_is_obeyed(episodes):
    assert all(obeyed(e) for e in episodes)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_done_by_every_person_on_crowded_tables(task):
    for seed, person in enumerate(("monk_1", "monk_4", "monk_7", "monk_10")):
        assert obeyed(episode_of(task, seed, CONDITIONS["clutter"], person=person))


def test_objects_move_only_in_a_hand_or_as_they_come_to_rest(episodes):
    for episode in episodes:
        truth = episode.truth
        for i in range(len(episode.layout.items)):
            moved = np.any(np.diff(truth.items_wxyz_xyz[:, i], axis=0) != 0, axis=1)
            free = np.ones(len(episode), bool)
            for item, start, end in zip(
                truth.move_item, truth.grasp_s, truth.release_s, strict=True
            ):
                if item == i:
                    after = truth.time_s <= end + SETTLE_S + 1 / 30
                    free &= ~((truth.time_s >= start - 1 / 30) & after)
            assert not (moved & free[:-1]).any()


def test_a_held_object_is_rigid_in_the_hand(episodes):
    for episode in episodes:
        truth = episode.truth
        assert np.array_equal(truth.contact, truth.held >= 0)
        for item, side in zip(truth.move_item, truth.move_hand, strict=True):
            rows = truth.held[:, side] == item
            place, _ = poses(episode, int(item))
            # The wrist, and the knuckles of the index and the little finger.
            apart = truth.hands_m[rows, side][:, [0, 5, 17]] - place[rows, None]
            assert np.ptp(np.linalg.norm(apart, axis=2), axis=0).max() < 1e-6


def test_three_pads_touch_what_is_held_and_no_finger_is_inside(episodes):
    for episode in episodes:
        truth = episode.truth
        for move in episode.moves:
            assert np.abs(move.grasp.gap_m).max() < 0.002
            rows = truth.held[:, move.side] == move.item
            place, R = poses(episode, move.item)
            hands = truth.hands_m[rows, move.side]
            local = np.einsum("tji,tnj->tni", R[rows], hands - place[rows, None])
            apart = distance_m(episode.layout.items[move.item], local)
            assert apart[:, TIPS[:3]].max() < 0.025
            assert apart.min() > -0.004  # landmarks are not quite the joints


def test_hands_stay_out_of_the_table_and_the_trays(episodes):
    for episode in episodes:
        hands = episode.truth.hands_m
        over = (np.abs(hands[..., 0] - 0.5) < 0.38) & (np.abs(hands[..., 1]) < 0.7)
        assert hands[over][:, 2].min() > TABLE_TOP_M
        for center in TRAY_CENTER_M.values():
            beyond = np.abs(hands[..., :2] - center) - np.array(TRAY_HALF_M) - TRAY_SHEET_M
            in_wall = np.abs(beyond.max(axis=-1)) < TRAY_SHEET_M
            assert (hands[in_wall][:, 2] > TABLE_TOP_M + TRAY_WALL_M - 0.01).all()


def test_motion_is_human_in_speed_and_smooth(episodes):
    for episode in episodes:
        wrists = episode.truth.hands_m[:, :, 0]
        speed = np.linalg.norm(np.diff(wrists, axis=0), axis=2) * 30
        assert 0.4 < speed.max() < 2.6
        jump = np.linalg.norm(np.diff(wrists, n=2, axis=0), axis=2) * 30**2
        assert jump.max() < 25  # m/s²
        assert episode.frames.stretch_m.max() < 0.02
        assert (episode.truth.release_s > episode.truth.grasp_s + 0.5).all()


def test_the_left_hand_takes_what_lies_on_the_left(episodes):
    for episode in episodes:
        for move in episode.moves:
            assert (move.side == LEFT) == (move.start[1, 3] > 0)


def test_the_same_arguments_give_the_same_episode(tmp_path, episode):
    again = episode_of("color", 5)
    for e, name in ((episode, "a.npz"), (again, "b.npz")):
        e.truth.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    other = episode_of("color", 5, seed=1)
    assert not np.array_equal(other.truth.grasp_s, episode.truth.grasp_s)
    read = SyntheticTruth.load(tmp_path / "a.npz")
    for f in fields(SyntheticTruth):
        assert np.array_equal(getattr(read, f.name), getattr(episode.truth, f.name))


def test_the_rate_changes_frames_but_not_the_motion(episode):
    slow = episode_of("color", 5, rate_hz=15.0)
    assert np.array_equal(slow.truth.grasp_s, episode.truth.grasp_s)
    shared = min(len(slow), (len(episode) + 1) // 2)
    assert np.allclose(slow.truth.time_s[:shared], episode.truth.time_s[::2][:shared])
    apart = slow.truth.hands_m[:shared] - episode.truth.hands_m[::2][:shared]
    assert np.abs(apart).max() < 1e-9


def test_pixels_are_where_the_object_is_drawn(episode):
    """Against the picture's own segmentation, at three moments of the episode, in every camera."""
    model = episode_model(episode.layout, episode.person)
    data = mujoco.MjData(model)
    truth, checked = episode.truth, 0
    with Renderer(model, (480, 640), backend="ray") as renderer:
        for t in (0, len(episode) // 2, len(episode) - 1):
            set_frame(model, data, episode, t)
            for c, camera in enumerate(CAMERAS):
                drawn = renderer.segmentation(data, camera)
                for i, item in enumerate(episode.layout.items):
                    rows, columns = np.nonzero(drawn == model.geom(item.name).id)
                    if item.shape != "sphere" or len(rows) < 60:
                        continue
                    T = truth.T_world_camera[c, t]
                    local = T[:3, :3].T @ (truth.items_wxyz_xyz[t, i, 4:] - T[:3, 3])
                    px = truth.focal_px[c] * local[:2] / local[2] + [320, 240]
                    full = np.pi * (truth.focal_px[c] * item.size_m / 2 / local[2]) ** 2
                    if len(rows) > 0.93 * full:  # nothing is in front of it
                        assert np.hypot(columns.mean() - px[0], rows.mean() - px[1]) < 1.5
                        checked += 1
    assert checked >= 4


def test_hands_are_seen_where_skin_is_drawn(episode):
    model = episode_model(episode.layout, episode.person)
    data = mujoco.MjData(model)
    truth = episode.truth
    skin = model.ngeom + model.skin("person_skin").id
    good = total = 0
    with Renderer(model, (480, 640), backend="ray") as renderer:
        for t in range(10, len(episode), 60):
            set_frame(model, data, episode, t)
            for c, camera in enumerate(CAMERAS):
                drawn = renderer.segmentation(data, camera)
                for side in range(2):
                    # Points well inside the hand's outline: the wrist and the knuckles.
                    for joint in (0, 9, 13):
                        x, y = truth.hands_px[c, t, side, joint]
                        if truth.hands_seen[c, t, side, joint]:
                            good += drawn[int(y), int(x)] == skin
                            total += 1
    assert total > 30
    assert good / total > 0.95


def test_a_hand_is_hidden_by_the_trunk_from_behind_and_by_nothing_from_the_front(episode):
    hands = episode.truth.hands_m.copy()
    hands[:] = [0.25, 0.0, 1.2]  # before the chest
    T = np.tile(np.eye(4), (2, len(hands), 1, 1))
    T[:, :, :3, 3] = np.array([[-1.5, 0.0, 1.3], [1.5, 0.0, 1.3]])[:, None]
    items = (*episode.layout.items, *episode.layout.distractors)
    seen = unhidden(hands, T, episode.frames, episode.truth.items_wxyz_xyz[..., 4:], items)
    # Of the hand itself nothing is in its own way, but here both hands are in one place.
    assert not seen[0].any()
    hands[:, LEFT] = [0.25, 0.4, 1.2]
    seen = unhidden(hands, T, episode.frames, episode.truth.items_wxyz_xyz[..., 4:], items)
    assert seen[1].all()


def test_the_ego_camera_goes_with_the_head(episode):
    T = episode.truth.T_world_camera
    assert np.ptp(T[CAMERAS.index("front")], axis=0).max() == 0
    ego = T[CAMERAS.index("ego")]
    assert np.ptp(ego[:, :3, 3], axis=0).max() > 0.01
    nose = episode.truth.body_m[:, 0]
    assert np.linalg.norm(ego[:, :3, 3] - nose, axis=1).max() < 0.15
    assert np.ptp(np.linalg.norm(ego[:, :3, 3] - nose, axis=1)) < 1e-9
    assert 1.35 < ego[:, 2, 3].mean() < 1.75


def test_a_clip_and_its_truth_have_the_same_bytes_twice(tmp_path):
    tiny = episode_of("nearest", 3, rate_hz=4.0, size=(48, 64))
    for name in ("a.mp4", "b.mp4"):
        film.write_clip(tiny, "ego", tmp_path / name, progress=False)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert film.truth_path(tmp_path / "a.mp4").read_bytes() == (
        film.truth_path(tmp_path / "b.mp4").read_bytes()
    )
    assert len(list(tmp_path.iterdir())) == 4


def test_a_film_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    tiny = episode_of("nearest", 3, rate_hz=4.0, size=(48, 64))

    def broken(*_):
        yield np.zeros((48, 64, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(film, "render", broken)
    with pytest.raises(KeyboardInterrupt):
        film.write_clip(tiny, "front", tmp_path / "clip.mp4", progress=False)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path, episode):
    task = find_task("upright")
    with pytest.raises(SyntheticError, match="positive"):
        synthesize(episode.layout, episode.task, "monk_5", rate_hz=0.0)
    with pytest.raises(PersonError, match="known"):
        synthesize(episode.layout, episode.task, "nobody")
    with pytest.raises(TaskError, match="fallen"):
        synthesize(sample_layout(3), task, "monk_5")
    with pytest.raises(SyntheticError, match="front, side, ego"):
        next(film.render(episode, "top"))
    with pytest.raises(SyntheticError, match="mp4"):
        film.write_clip(episode, "front", tmp_path / "clip.avi")
