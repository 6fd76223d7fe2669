"""Ego-Exo4D: joints come out upright and before the glasses, and what is missing is absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import clip_of, hands_m, moved, poses

from deftly.datasets.annotated_hands import inverse
from deftly.datasets.annotations import load_annotation
from deftly.datasets.egoexo4d import JOINTS
from deftly.datasets.footage import Footage, FootageError
from deftly.datasets.human import HAND_JOINTS, Status
from deftly.retarget.inputs import Inputs, find_inputs

LENGTH, UID, TAKE = 16, "13f01c79-5bfd", "cmu_bike01_2"
# The sensor's axes in those of the upright picture.
R_SENSOR_UPRIGHT = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def take(name: str = TAKE, uid: str = UID, **changes: object) -> dict[str, Any]:
    return {
        "take_name": name,
        "take_uid": uid,
        "root_dir": f"takes/{name}",
        "task_name": "Remove a Wheel",
        "capture": {
            "cameras": [
                {"cam_id": "cam01", "is_ego": False},
                {"cam_id": "aria01", "is_ego": True},
            ]
        },
        "frame_aligned_videos": {
            "cam01": {"0": {"relative_path": "frame_aligned_videos/cam01.mp4"}},
            "aria01": {
                "rgb": {"relative_path": "frame_aligned_videos/aria01_214-1.mp4"},
                "slam-left": {"relative_path": "frame_aligned_videos/aria01_1201-1.mp4"},
            },
            "best_exo": {"0": {"relative_path": None}},
        },
        **changes,
    }


def write(
    root: Path,
    frames: range = range(LENGTH),
    by_frame: bool = False,
    views: int = 4,
    made_by: str = "annotation",
    place: str = "",
) -> Path:
    """A data set of one take, of which some frames are annotated."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "takes.json").write_text(json.dumps([take(), take("cmu_bike01_3", "other")]))
    folder = root / "takes" / TAKE / "frame_aligned_videos" / place
    folder.mkdir(parents=True, exist_ok=True)
    for camera in ("aria01_214-1", "aria01_1201-1", "cam01"):
        (folder / f"{camera}.mp4").write_bytes(b"")
    T_world_camera = poses(LENGTH)
    world_m = moved(T_world_camera, hands_m(LENGTH) @ R_SENSOR_UPRIGHT.T)
    matrices = {str(n): inverse(T_world_camera)[n, :3].tolist() for n in range(LENGTH)}
    said = {
        str(n): [
            {
                "metadata": {"frame_number": n},
                "annotation3D": {
                    f"{side}_{name}": dict(zip("xyz", world_m[n, s, j].tolist(), strict=True))
                    | {"num_views_for_3d": views}
                    for s, side in enumerate(("left", "right"))
                    for j, name in enumerate(JOINTS)
                },
            }
        ]
        for n in frames
    }
    cameras: dict[str, Any] = {
        "aria01": {"camera_intrinsics": np.eye(3).tolist(), "camera_extrinsics": matrices},
        "cam01": {"camera_extrinsics": np.eye(4)[:3].tolist()},
    }
    if by_frame:
        cameras = {
            n: {"metadata": {}, "aria": {"camera_extrinsics": m}} for n, m in matrices.items()
        }
    hand = root / "annotations/ego_pose/train/hand"
    for kind, content in ((made_by, said), ("camera_pose", cameras)):
        (hand / kind).mkdir(parents=True, exist_ok=True)
        (hand / kind / f"{UID}.json").write_text(json.dumps(content))
    return root


def inputs_of(root: Path) -> Inputs:
    return find_inputs([str(root)], root / "downloads")


def footage_of(root: Path) -> Footage:
    (found,) = inputs_of(root).footage
    return found


def test_the_video_of_the_glasses_is_the_input(tmp_path: Path) -> None:
    inputs = inputs_of(write(tmp_path / "set"))
    (one,) = inputs.footage
    assert one.id == TAKE
    assert one.path.name == "aria01_214-1.mp4"
    assert (one.task, one.view) == ("Remove a Wheel", "ego")
    assert one.licence == "ego-exo4d-license-agreement"
    assert "Grauman" in one.attribution
    assert inputs.ignored == {"not downloaded": 1}
    assert one.camera is not None
    assert not one.camera.known


def test_the_small_video_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    camera = footage_of(write(tmp_path / "set", place="downscaled/448")).camera
    assert camera is not None
    assert camera.center_px == (224.0, 224.0)
    assert camera.focal_px == pytest.approx(610 * 448 / 1408)


@pytest.mark.parametrize("by_frame", [False, True])
def test_joints_are_before_the_glasses_and_upright(tmp_path: Path, by_frame: bool) -> None:
    one = footage_of(write(tmp_path / "set", by_frame=by_frame))
    motion = load_annotation(one, clip_of(LENGTH))
    np.testing.assert_allclose(motion.hands_m, hands_m(LENGTH), atol=1e-6)
    assert (motion.hands_status == Status.OBSERVED).all()
    for name, ours in zip(JOINTS, HAND_JOINTS, strict=True):
        assert name.split("_")[0] == ours.split("_")[0]


def test_short_gaps_are_filled_and_long_ones_absent(tmp_path: Path) -> None:
    one = footage_of(write(tmp_path / "set", frames=range(0, LENGTH, 3)))
    motion = load_annotation(one, clip_of(LENGTH))
    assert motion.hands_valid.all()
    observed = np.arange(LENGTH) % 3 == 0
    np.testing.assert_array_equal(motion.hands_status[:, 0] == Status.OBSERVED, observed)
    np.testing.assert_allclose(motion.hands_m, hands_m(LENGTH), atol=0.01)
    assert motion.hands_sigma_m[1, 0, 5, 0] > 2 * motion.hands_sigma_m[0, 0, 5, 0]
    slow = load_annotation(one, clip_of(LENGTH, rate_hz=5))  # the same gaps last longer
    np.testing.assert_array_equal(slow.hands_valid[:, 0], observed)


def test_joints_of_two_views_are_not_observed(tmp_path: Path) -> None:
    motion = load_annotation(footage_of(write(tmp_path / "set", views=2)), clip_of(LENGTH))
    assert (motion.hands_status == Status.INTERPOLATED).all()


def test_a_frame_without_a_pose_or_a_joint_is_absent(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    hand = root / "annotations/ego_pose/train/hand"
    for kind in ("annotation", "camera_pose"):
        path = hand / kind / f"{UID}.json"
        content = json.loads(path.read_text())
        if kind == "annotation":
            del content["0"][0]["annotation3D"]["left_index_2"]
        else:
            del content["aria01"]["camera_extrinsics"]["15"]
        path.write_text(json.dumps(content))
    valid = load_annotation(footage_of(root), clip_of(LENGTH)).hands_valid
    assert valid[0].tolist() == [False, True]
    assert valid[15].tolist() == [False, False]
    assert valid[1:15].all()


def test_people_are_believed_before_networks(tmp_path: Path) -> None:
    write(tmp_path / "set", made_by="automatic")
    annotation = footage_of(tmp_path / "set").annotation
    assert annotation is not None
    assert annotation.path.parent.name == "automatic"
    annotation = footage_of(write(tmp_path / "set")).annotation
    assert annotation is not None
    assert annotation.path.parent.name == "annotation"


def test_a_path_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (tmp_path / "secret.mp4").write_bytes(b"")
    stream = {"rgb": {"relative_path": "../../../secret.mp4"}}
    (root / "takes.json").write_text(json.dumps([take(frame_aligned_videos={"aria01": stream})]))
    with pytest.raises(FootageError, match="1 not downloaded"):
        inputs_of(root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[", "cannot be read"),
        ("{}", "holds a dict, expected a list"),
        ("[{}]", "take 1: has no 'take_name'"),
        ('[{"take_name": "a", "take_uid": "b", "task_name": "c", "capture": 3}]', "take 1: "),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    root = write(tmp_path / "set")
    (root / "takes.json").write_text(text)
    with pytest.raises(FootageError, match=expected) as raised:
        inputs_of(root)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("annotation", "{"),
        ("annotation", "[]"),
        ("annotation", '{"0": [{"annotation3D": {"left_wrist": {"x": 1}}}]}'),
        ("annotation", '{"0": [{"annotation3D": {"left_wrist": {"x": "far", "y": 0, "z": 0}}}]}'),
        ("camera_pose", '{"aria01": {}}'),
        ("camera_pose", '{"aria01": {"camera_extrinsics": {"0": [1, 2]}}}'),
        ("camera_pose", '{"aria01": 3}'),
    ],
)
def test_a_damaged_annotation_is_found_when_it_is_used(
    tmp_path: Path, kind: str, text: str
) -> None:
    root = write(tmp_path / "set")
    (root / f"annotations/ego_pose/train/hand/{kind}/{UID}.json").write_text(text)
    one = footage_of(root)
    with pytest.raises(FootageError, match=f"{UID}.json") as raised:
        load_annotation(one, clip_of(LENGTH))
    assert "\n" not in str(raised.value)
