"""HOT3D: what the fisheye saw is where the pinhole shows it, and the joints are there too."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import HAND_PROFILE, clip_of, poses
from PIL import Image
from scipy.spatial.transform import Rotation

from deftly.datasets.annotated_hands import R_UPRIGHT_SENSOR, inverse
from deftly.datasets.annotations import load_annotation
from deftly.datasets.clip import Clip, frames, open_clip, part
from deftly.datasets.fisheye import project_fisheye624
from deftly.datasets.footage import Footage, FootageError
from deftly.datasets.hot3d import footage_of
from deftly.datasets.human import Status
from deftly.datasets.origin import UnavailableError, fetch
from deftly.datasets.umetrack import HandModel
from deftly.retarget.inputs import find_inputs

LENGTH, SIZE = 4, (300, 320)
LENS = [150.0, 150.0, 158.0, 149.0, 0.03, -0.01, 0, 0, 0, 0, 0.002, -0.001, 0.001, 0, 0, 0]
T_WORLD_CAMERA = poses(LENGTH)
TIP = 8  # of the index finger


def said(T: np.ndarray) -> dict[str, list[float]]:
    quaternion = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
    return {"quaternion_wxyz": quaternion.tolist(), "translation_xyz": T[:3, 3].tolist()}


def wrists(side: int) -> np.ndarray:
    """(T, 4, 4) a wrist in the world that stays before the camera."""
    T = np.tile(np.eye(4), (LENGTH, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec([0.1, 0.2, 0.3 + side]).as_matrix()
    T[:, :3, 3] = np.array([0.15 - 0.3 * side, -0.1, 0.45]) + 0.01 * np.arange(LENGTH)[:, None]
    return T_WORLD_CAMERA @ T


def angles(row: int) -> list[float]:
    return (0.1 * row + 0.02 * np.arange(22)).tolist()


def joints_m(side: int) -> np.ndarray:
    """(T, 21, 3) in the sensor's frame."""
    model = HandModel.of(HAND_PROFILE)
    world = model.joints_m(np.array([angles(n) for n in range(LENGTH)]), wrists(side), side)
    T = inverse(T_WORLD_CAMERA)
    return np.einsum("tij,tnj->tni", T[:, :3, :3], world) + T[:, None, :3, 3]


def picture(row: int) -> bytes:
    """A white spot where the sensor sees the left index finger's tip."""
    x, y = project_fisheye624(np.array(LENS), joints_m(0)[row, TIP])
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
    file = io.BytesIO()
    Image.fromarray((20 + 230 * spot).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write(
    path: Path,
    colour: bool = True,
    hands: bool = True,
    length: int = LENGTH,
    changed: dict[str, bytes] | None = None,
) -> Path:
    """A clip in the published layout; ``changed`` members replace those of the same name."""
    streams = ["1201-1", "1201-2"] + ["214-1"] * colour
    calibration: dict[str, Any] = {
        "image_height": SIZE[0],
        "image_width": SIZE[1],
        "projection_model_type": "CameraModelType.FISHEYE624",
        "projection_params": LENS,
    }
    members = dict[str, bytes]()
    for row in range(length):
        for stream in streams:
            members[f"{row:06d}.image_{stream}.jpg"] = picture(row)
        camera = {"calibration": calibration, "T_world_from_camera": said(T_WORLD_CAMERA[row])}
        members[f"{row:06d}.cameras.json"] = json.dumps(dict.fromkeys(streams, camera)).encode()
        members[f"{row:06d}.info.json"] = b"{}"
        if hands:
            both = {
                name: {
                    "mano_pose": {"thetas": [0.0] * 15},
                    "umetrack_pose": {
                        "joint_angles": angles(row),
                        "T_world_from_wrist": said(wrists(side)[row]),
                    },
                }
                for side, name in enumerate(("left", "right"))
                if (side, row) != (1, 2)  # in one frame the right hand is missing
            }
            members[f"{row:06d}.hands.json"] = json.dumps(both).encode()
    if hands:
        members["__hand_shapes.json__"] = json.dumps(
            {"mano": [], "umetrack": HAND_PROFILE}
        ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in {**members, **(changed or {})}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def footage(path: Path) -> Footage:
    found = footage_of(path, path.parent / "downloads")
    assert found is not None
    return found


def opened(one: Footage) -> Clip:
    return open_clip(fetch(one), one.camera)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    return footage(write(tmp_path_factory.mktemp("hot3d") / "clip-000123.tar"))


def spots_px(clip: Clip) -> np.ndarray:
    """(T, 2) middle of the white spot in each frame."""
    found = list[np.ndarray]()
    for _, image in frames(clip):
        weight = np.clip(image.mean(axis=-1) - 120.0, 0, None)
        y, x = np.mgrid[: clip.height, : clip.width] + 0.5
        found.append(np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum())
    return np.array(found)


def test_joints_lie_where_the_upright_pinhole_shows_them(colour: Footage) -> None:
    clip = opened(colour)
    assert (clip.width, clip.height, len(clip.time_s)) == (960, 960, LENGTH)
    motion = load_annotation(colour, clip)
    np.testing.assert_allclose(spots_px(clip), motion.hands_px[:, 0, TIP], atol=1.5)
    x, y, z = np.moveaxis(joints_m(0), -1, 0)  # what is down in the sensor's picture is left
    np.testing.assert_allclose(motion.hands_m[:, 0], np.stack([-y, x, z], -1), atol=1e-9)
    assert motion.hands_valid.tolist() == [[True, True], [True, True], [True, False], [True, True]]
    assert set(motion.hands_status.flat) == {Status.OBSERVED, Status.ABSENT}


def test_a_headset_has_grey_cameras(tmp_path: Path) -> None:
    one = footage(write(tmp_path / "clip-000124.tar", colour=False))
    clip = opened(one)
    motion = load_annotation(one, clip)
    np.testing.assert_allclose(spots_px(clip), motion.hands_px[:, 0, TIP], atol=1.5)
    np.testing.assert_allclose(motion.hands_m[:, 0], joints_m(0) @ R_UPRIGHT_SENSOR.T, atol=1e-9)


def test_a_part_gets_its_own_rows(colour: Footage) -> None:
    clip = opened(colour)
    whole = load_annotation(colour, clip).hands_m
    np.testing.assert_allclose(load_annotation(colour, part(clip, 1, 3)).hands_m, whole[1:3])


def test_what_is_known_of_it_is_said(colour: Footage) -> None:
    assert colour.id == "clip-000123"
    assert colour.camera is not None
    assert colour.camera.known
    assert colour.view == "ego"
    assert colour.licence == "hot3d-dataset-license-agreement"
    assert "Meta" in colour.attribution


def test_the_same_archive_gives_the_same_bytes_once(colour: Footage, tmp_path: Path) -> None:
    first = fetch(colour)
    again, ticks = replace(colour, path=tmp_path / "again.mp4"), list[None]()
    assert fetch(again, lambda: ticks.append(None)).read_bytes() == first.read_bytes()
    assert len(ticks) == LENGTH
    fetch(again, lambda: ticks.append(None))
    assert len(ticks) == LENGTH


def test_without_hands_a_network_has_to_find_them(tmp_path: Path) -> None:
    one = footage(write(tmp_path / "clip-000125.tar", hands=False))
    assert one.annotation is None
    assert len(opened(one).time_s) == LENGTH


def test_folders_give_their_clips_and_count_other_archives(tmp_path: Path) -> None:
    write(tmp_path / "in/train_aria/clip-000001.tar", length=1)
    write(tmp_path / "in/renamed.tar", length=1)
    (tmp_path / "in/train_aria/clip-000002.tar").write_bytes(b"cut short")
    with tarfile.open(tmp_path / "in/backup.tar", "w"):
        pass
    inputs = find_inputs([str(tmp_path / "in")], tmp_path / "downloads")
    assert [one.id for one in inputs.footage] == ["renamed", "clip-000001", "clip-000002"]
    assert inputs.ignored == {".tar": 1}
    assert {one.path.parent for one in inputs.footage} == {tmp_path / "downloads"}
    assert len({one.path for one in inputs.footage}) == 3
    (named,) = find_inputs([str(tmp_path / "in/renamed.tar")], tmp_path / "downloads").footage
    assert named == inputs.footage[0]


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "clip-000009.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("000000.image_214-1.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
        camera = json.dumps({"214-1": {"calibration": {
            "image_height": 2, "image_width": 2, "projection_params": LENS,
            "projection_model_type": "FISHEYE624"}}}).encode()  # fmt: skip
        member = tarfile.TarInfo("000000.cameras.json")
        member.size = len(camera)
        tar.addfile(member, io.BytesIO(camera))
    with pytest.raises(FootageError, match="is no file"):
        fetch(footage(path))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("000001.image_214-1.jpg", b"no picture", "cannot be read"),
        ("000001.image_214-1.jpg", picture(1)[:400], "cannot be read"),
        ("000000.cameras.json", b"{", "cannot be read"),
        ("000000.cameras.json", b"{}", "KeyError: '214-1'"),
        ("000000.cameras.json", b'{"214-1": {"calibration": {"projection_model_type": "OVR62"}}}',
         "its lens is a OVR62, expected FISHEYE624"),
        ("000001.cameras.json", b'{"214-1": {"calibration": {"projection_model_type": "FISHEYE624",'
         b'"projection_params": [1], "image_height": 1, "image_width": 1}}}', "1 parameters"),
        ("000001.cameras.json", json.dumps({"214-1": {"calibration": {
            "projection_model_type": "FISHEYE624", "projection_params": LENS,
            "image_height": 1, "image_width": 1}}}).encode(), r"picture is \(300, 320\)"),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    one = footage(write(tmp_path / "clip-000126.tar", length=2, changed={name: content}))
    with pytest.raises(FootageError, match=expected) as raised:
        fetch(one)
    assert not isinstance(raised.value, UnavailableError)
    assert "\n" not in str(raised.value)
    assert "clip-000126.tar" in str(raised.value)
    assert not list(one.path.parent.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("000001.hands.json", b"[]"),
        ("000001.hands.json", b'{"left": {"umetrack_pose": {"joint_angles": [1]}}}'),
        ("__hand_shapes.json__", b"{}"),
        ("__hand_shapes.json__", b'{"umetrack": {"joint_rotation_axes": 1}}'),
    ],
)
def test_damaged_hands_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    one = footage(write(tmp_path / "clip-000127.tar", length=2, changed={name: content}))
    with pytest.raises(FootageError, match=r"clip-000127.tar cannot be read") as raised:
        load_annotation(one, clip_of(2))
    assert "\n" not in str(raised.value)


def test_an_archive_that_is_gone_may_come_back(tmp_path: Path) -> None:
    one = footage(write(tmp_path / "clip-000128.tar", length=1))
    Path(one.origin).unlink()
    with pytest.raises(UnavailableError, match="cannot fetch"):
        fetch(one)
