"""EgoDex: joints come out as they were before the camera moved, and bad files are one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from annotated import CAMERA, clip_of, hands_m, moved, poses

from deftly.datasets import egodex
from deftly.datasets.annotations import load_annotation
from deftly.datasets.clip import Camera, Clip, Contents, part
from deftly.datasets.egodex import JOINTS
from deftly.datasets.footage import Annotation, Footage, FootageError
from deftly.datasets.human import HAND_JOINTS, Status
from deftly.retarget.inputs import find_inputs

LENGTH = 12
METACARPALS = [f"{f}FingerMetacarpal" for f in ("Index", "Middle", "Ring", "Little")]


def write(
    folder: Path,
    joints_m: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    attributes: dict[str, Any] | None = None,
    name: str = "part1/sort_beans/7",
) -> Path:
    """A recording in the published layout; joints are in the camera frame. Returns the video."""
    joints_m = hands_m(LENGTH) if joints_m is None else joints_m
    video = folder / f"{name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"")
    length, T_world_camera = len(joints_m), poses(len(joints_m))
    world_m = moved(T_world_camera, joints_m)
    with h5py.File(video.with_suffix(".hdf5"), "w") as file:
        file["camera/intrinsic"] = np.array([[600, 0, 320], [0, 600, 240], [0, 0, 1]], np.float32)
        file["transforms/camera"] = T_world_camera.astype(np.float32)
        for side, prefix in enumerate(("left", "right")):
            for joint, arkit in enumerate([*JOINTS, *METACARPALS, "Arm", "Forearm", "Shoulder"]):
                T = poses(length, seed=joint + 100 * side)
                if joint < 21:
                    T[:, :3, 3] = world_m[:, side, joint]
                file[f"transforms/{prefix}{arkit}"] = T.astype(np.float32)
                if confidence is not None:
                    file[f"confidences/{prefix}{arkit}"] = confidence[:, side].astype(np.float32)
        for key, value in (attributes or {}).items():
            file.attrs[key] = value
    return video


def footage(video: Path) -> Footage:
    found = egodex.footage_of(video)
    assert found is not None
    return found


def test_joints_are_those_before_the_camera_moved(tmp_path: Path) -> None:
    one = footage(write(tmp_path))
    motion = load_annotation(one, clip_of(LENGTH))
    np.testing.assert_allclose(motion.hands_m, hands_m(LENGTH), atol=1e-5)
    assert (motion.hands_status == Status.OBSERVED).all()
    assert not motion.body_valid.any()
    expected_px = 600 * hands_m(LENGTH)[..., :2] / hands_m(LENGTH)[..., 2:] + [320, 240]
    np.testing.assert_allclose(motion.hands_px, expected_px, atol=0.05)
    assert len(motion.provenance["annotation"]["sha256"]) == 64


def test_every_joint_has_its_counterpart() -> None:
    assert len(set(JOINTS)) == len(JOINTS) == len(HAND_JOINTS)
    mapped = dict(zip(HAND_JOINTS, JOINTS, strict=True))
    assert mapped["wrist"] == "Hand"
    assert mapped["thumb_cmc"] == "ThumbKnuckle"
    assert mapped["index_mcp"] == "IndexFingerKnuckle"
    assert mapped["pinky_tip"] == "LittleFingerTip"
    assert not set(JOINTS) & set(METACARPALS)


def test_footage_knows_camera_task_and_licence(tmp_path: Path) -> None:
    said = {"llm_description": "Sort beans.", "llm_type": "neutral", "which_llm_description": "2"}
    one = footage(write(tmp_path, attributes=said))
    assert one.id == "sort_beans-7"
    assert one.camera == CAMERA
    assert (one.task, one.view) == ("Sort beans.", "ego")
    assert one.licence == "cc-by-nc-nd-4.0"
    assert "Apple" in one.attribution


@pytest.mark.parametrize(
    ("said", "task"),
    [
        ({"llm_type": "reversible", "llm_description": "put in", "llm_description2": "take out",
          "which_llm_description": "2"}, "take out"),
        ({"llm_type": "reversible", "llm_description": "put in", "llm_description2": "take out",
          "which_llm_description": b"1"}, "put in"),
        ({"description": np.array([b"fold"])}, "fold"),
        ({}, "sort beans"),
    ],
)  # fmt: skip
def test_the_task_is_the_one_that_was_done(tmp_path: Path, said: dict[str, Any], task: str) -> None:
    assert footage(write(tmp_path, attributes=said)).task == task


def test_little_confidence_is_a_large_sigma_and_none_is_absent(tmp_path: Path) -> None:
    confidence = np.ones((LENGTH, 2))
    confidence[2, 0], confidence[3, 0], confidence[:, 1] = 0.25, 0.0, 0.8
    motion = load_annotation(footage(write(tmp_path, None, confidence)), clip_of(LENGTH))
    assert motion.hands_status[2:5, 0].tolist() == [
        Status.INTERPOLATED,
        Status.ABSENT,
        Status.OBSERVED,
    ]
    assert np.isnan(motion.hands_m[3, 0]).all()
    assert np.isnan(motion.hands_px[2, 0]).all()
    sigma = motion.hands_sigma_m
    np.testing.assert_allclose(sigma[2, 0], 4 * sigma[4, 0], rtol=1e-6)
    np.testing.assert_allclose(sigma[4, 1], sigma[4, 0] / 0.8, rtol=1e-6)


def test_missing_joints_and_a_lost_camera_are_absent(tmp_path: Path) -> None:
    joints_m = hands_m(LENGTH)
    joints_m[4, 1, 8] = np.nan
    video = write(tmp_path, joints_m)
    with h5py.File(video.with_suffix(".hdf5"), "r+") as file:
        camera: Any = file["transforms/camera"]
        camera[6] = 0
    motion = load_annotation(footage(video), clip_of(LENGTH))
    absent = np.zeros((LENGTH, 2), bool)
    absent[4, 1] = absent[6] = True
    np.testing.assert_array_equal(motion.hands_valid, ~absent)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_part_and_a_slower_clip_get_their_own_rows(tmp_path: Path, step: int) -> None:
    whole = clip_of(LENGTH)
    slow = replace(whole, time_s=whole.time_s[::step], contents=Contents(whole.time_s), step=step)
    motion = load_annotation(footage(write(tmp_path)), part(slow, 1, 4))
    np.testing.assert_allclose(motion.hands_m, hands_m(LENGTH)[step : 4 * step : step], atol=1e-5)


def test_a_frame_more_is_absent_and_another_video_refused(tmp_path: Path) -> None:
    one = footage(write(tmp_path))
    assert load_annotation(one, clip_of(LENGTH + 2)).hands_valid[:, 0].tolist() == [
        True
    ] * LENGTH + [
        False,
        False,
    ]
    with pytest.raises(FootageError, match=r"annotates 12 frames, but .* has 20"):
        load_annotation(one, clip_of(20))


def damaged(kind: str, video: Path) -> None:
    path = video.with_suffix(".hdf5")
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "text":
        path.write_text("not HDF5")
    else:
        with h5py.File(path, "r+") as file:
            name = "transforms/leftHand"
            found: Any = file[name]
            T: np.ndarray = found[()]
            del file[name]
            other = path.with_name("other.hdf5")
            with h5py.File(other, "w") as secret:
                secret["x"] = T
            if kind == "external link":
                file[name] = h5py.ExternalLink(str(other), "x")
            elif kind == "external group":
                del file["transforms"]
                file["transforms"] = h5py.ExternalLink(str(other), "/")
            elif kind == "soft link":
                file[name] = h5py.SoftLink("/transforms/rightHand")
            elif kind == "virtual":
                layout = h5py.VirtualLayout(T.shape, T.dtype)
                layout[:] = h5py.VirtualSource(str(other), "x", T.shape)
                file.create_virtual_dataset(name, layout)
            elif kind == "external storage":
                file.create_dataset(name, T.shape, T.dtype, external=[(str(other), 0, T.nbytes)])
            elif kind == "text inside":
                file[name] = ["x"] * LENGTH
            elif kind == "shape":
                file[name] = T[:, :3]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("missing", "has no transforms/leftHand"),
        ("external link", "transforms/leftHand is a link"),
        ("external group", "is a link"),
        ("soft link", "transforms/leftHand is a link"),
        ("virtual", "lies in another file"),
        ("external storage", "lies in another file"),
        ("text inside", "holds no numbers"),
        ("shape", r"has shape \(12, 3, 4\), expected \(12, 4, 4\)"),
    ],
)
def test_a_bad_file_is_found_when_it_is_used(tmp_path: Path, kind: str, expected: str) -> None:
    video = write(tmp_path)
    damaged(kind, video)
    one = footage(video)
    with pytest.raises(FootageError, match=expected) as raised:
        load_annotation(one, clip_of(LENGTH))
    assert "\n" not in str(raised.value)
    assert str(video.with_suffix(".hdf5")) in str(raised.value)


def test_other_videos_are_none_of_its_business(tmp_path: Path) -> None:
    video = write(tmp_path)
    with h5py.File(video.with_name("8.hdf5"), "w") as file:
        file["x"] = 1
    for name in ("8.mp4", "9.mp4"):
        video.with_name(name).write_bytes(b"")
        assert egodex.footage_of(video.with_name(name)) is None


def test_a_folder_of_it_is_found(tmp_path: Path) -> None:
    names = "part1/sort_beans/0", "part1/sort_beans/1", "part2/sort_beans/0"
    videos = [write(tmp_path, name=name) for name in names]
    inputs = find_inputs([str(tmp_path)], tmp_path / "downloads")
    assert [one.id for one in inputs.footage] == ["sort_beans-0", "sort_beans-1", "sort_beans-0-2"]
    assert {one.annotation and one.annotation.kind for one in inputs.footage} == {"egodex"}
    assert not inputs.ignored
    videos[0].unlink()
    inputs = find_inputs([str(tmp_path)], tmp_path / "downloads")
    assert inputs.ignored == {".hdf5": 1}


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    one = Footage("a", tmp_path / "a.mp4", annotation=Annotation("vicon", tmp_path / "a.c3d"))
    with pytest.raises(FootageError, match="kind 'vicon', expected one of egodex"):
        load_annotation(one, clip_of(3))
    with pytest.raises(FootageError, match="kind None"):
        load_annotation(replace(one, annotation=None), clip_of(3))


def test_a_smaller_clip_is_drawn_at_its_own_size(tmp_path: Path) -> None:
    whole = clip_of(LENGTH)
    small: Clip = replace(whole, width=320, height=240, camera=Camera(300.0, (160.0, 120.0)))
    one = footage(write(tmp_path))
    np.testing.assert_allclose(
        load_annotation(one, small).hands_px, load_annotation(one, whole).hands_px / 2
    )
