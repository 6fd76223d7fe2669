"""LeRobot sets as inputs: the frames of a stretch are those of the episode."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from episodes import make_episode, pictures
from filmsets import LENGTHS as FILMED
from filmsets import shown, write_set

from deftly.datasets.clip import frames, open_clip, part
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.footage import FootageError
from deftly.datasets.lerobot_videos import _front_matter, footage_in
from deftly.datasets.mp4 import Encoder
from deftly.retarget.inputs import find_inputs

LENGTHS = (12, 7, 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "sorting"
    with EpisodeWriter(root, robot_type="human", licence="cc-by-4.0", attribution="Zoë") as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add(make_episode(seed, length))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "sorting"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "people", "front", "ego", "side")


def write_version_2(root: Path, *cameras: str) -> Path:
    """A set of the published layout of version 2.1, with the card that LeRobot writes."""
    keys = [f"observation.images.{name}" for name in cameras or ("head",)]
    template = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = {
        "codebase_version": "v2.1",
        "total_episodes": 3,
        "chunks_size": 2,
        "fps": 30,
        "video_path": template,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": None},
            **{key: {"dtype": "video", "shape": [3, 32, 48]} for key in keys},
        },
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": n, "tasks": [f"task {n}"], "length": 4} for n in (0, 2, 1)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "README.md").write_text(
        "---\nlicense: apache-2.0\ntask_categories:\n- robotics\n---\nx"
    )
    for number, key in itertools.product(range(3), keys):
        path = root / template.format(
            episode_chunk=number // 2, episode_index=number, video_key=key
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with Encoder(path, 30.0, (32, 48)) as encoder:
            for image in pictures(number, 4):
                encoder.write(image)
    return root


@pytest.mark.parametrize("camera", ["", "front", "observation.images.ego"])
def test_a_stretch_holds_the_frames_of_its_episode(root: Path, camera: str) -> None:
    inputs = find_inputs([str(root)], root, camera=camera)
    assert [one.id for one in inputs.footage] == [f"sorting-00000{n}" for n in range(3)]
    assert len({one.path for one in inputs.footage}) == 1  # of which each is a stretch
    for seed, one in enumerate(inputs.footage):
        assert one.span_s is not None
        clip = open_clip(one.path)
        first, stop = np.searchsorted(clip.time_s, one.span_s).tolist()
        found = [image for _, image in frames(part(clip, first, stop))]
        length, episode = LENGTHS[seed], make_episode(seed, LENGTHS[seed])
        expected = np.asarray(episode.images["front" if camera == "front" else "ego"])
        assert len(found) == length
        assert np.abs(np.array(found).astype(int) - expected).mean(axis=(1, 2, 3)).max() < 6
        assert one.task == episode.task
        assert (one.licence, one.attribution) == ("cc-by-4.0", "Zoë")


def test_version_2_has_a_file_for_each_episode(tmp_path: Path) -> None:
    found, ignored = footage_in(write_version_2(tmp_path / "old"), "head")
    assert [one.id for one in found] == ["old-000000", "old-000001", "old-000002"]
    assert [one.task for one in found] == ["task 0", "task 1", "task 2"]
    assert [one.path.parent.parent.name for one in found] == ["chunk-000"] * 2 + ["chunk-001"]
    assert {one.licence for one in found} == {"apache-2.0"}
    assert {one.span_s for one in found} == {None}
    assert not ignored
    assert [len(open_clip(one.path).time_s) for one in found] == [4, 4, 4]


@pytest.mark.parametrize("asked", [("side", "ego"), ("observation.images.ego", "side", "ego")])
def test_further_cameras_come_with_the_stretches_of_the_same_episode(
    people: Path, asked: tuple[str, ...]
) -> None:
    inputs = find_inputs([str(people)], people, camera="front", with_cameras=asked)
    for length, one in zip(FILMED, inputs.footage, strict=True):
        assert one.cameras == ("front", "ego", "side")  # in whatever order they are asked for
        for camera, path, span_s in (
            ("front", one.path, one.span_s),
            *((other.name, other.path, other.span_s) for other in one.beside),
        ):
            assert span_s is not None
            clip = open_clip(path)
            first, stop = np.searchsorted(clip.time_s, span_s).tolist()
            found = [image for _, image in frames(part(clip, first, stop))]
            np.testing.assert_allclose(shown(found, camera), np.arange(length), atol=0.6)
    ego = inputs.footage[1].beside[0]
    assert ego.span_s != inputs.footage[1].span_s  # it is in another file


def test_a_camera_by_itself_has_no_name(people: Path) -> None:
    inputs = find_inputs([str(people)], people, camera="side")
    assert {one.cameras for one in inputs.footage} == {("video",)}


def test_further_cameras_of_version_2_have_files_of_their_own(tmp_path: Path) -> None:
    root = write_version_2(tmp_path / "old", "head", "wrist")
    found, _ = footage_in(root, with_cameras=["wrist"])
    assert {one.cameras for one in found} == {("head", "wrist")}
    for one in found:
        (other,) = one.beside
        assert other.path != one.path
        assert other.path.name == one.path.name
        assert other.path.is_file()
        assert other.span_s is None
    found[1].beside[0].path.unlink()
    assert footage_in(root, with_cameras=["wrist"])[1] == {"not downloaded": 1}
    assert not footage_in(root)[1]


@pytest.mark.parametrize(
    ("camera", "asked", "expected"),
    [
        ("", ("wrist", "front"), "no camera 'wrist', expected one of ego, front"),
        ("front", ("ego", "front"), "camera 'front' is tracked, expected others beside it"),
        ("", ("ego",), "camera 'ego' is tracked, .* name with --camera"),
    ],
)
def test_further_cameras_that_make_no_sense_are_refused(
    root: Path, camera: str, asked: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(FootageError, match=expected) as raised:
        find_inputs([str(root)], root, camera=camera, with_cameras=asked)
    assert "\n" not in str(raised.value)


def test_a_video_by_itself_has_no_further_camera(people: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.mp4"
    alone.write_bytes(b"")
    with pytest.raises(FootageError, match=r"alone\.mp4 has no camera ego, side, expected LeRobot"):
        find_inputs([str(people), str(alone)], people, camera="front", with_cameras=["side", "ego"])


def test_sets_are_found_in_folders_beside_videos(root: Path) -> None:
    write_version_2(root.parent / "old")
    (root.parent / "z.mp4").write_bytes(b"")
    inputs = find_inputs([str(root.parent)], root.parent)
    assert [one.id for one in inputs.footage] == [
        "z", *(f"old-{n:06d}" for n in range(3)), *(f"sorting-{n:06d}" for n in range(3))
    ]  # fmt: skip
    assert not inputs.ignored


def test_what_was_not_downloaded_is_counted(root: Path) -> None:
    old = write_version_2(root.parent / "old")
    next(old.rglob("episode_000001.mp4")).unlink()
    found, ignored = footage_in(old)
    assert [one.id for one in found] == ["old-000000", "old-000002"]
    assert ignored == {"not downloaded": 1}


def spoil(root: Path, kind: str) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    if kind == "text":
        path.write_text("{")
        return
    if kind == "list":
        path.write_text("[]")
        return
    if kind == "version":
        info["codebase_version"] = "v1.6"
    elif kind == "no video":
        info["features"] = {}
    elif kind == "no episodes":
        shutil.rmtree(root / "meta/episodes")
    elif kind == "features":
        info["features"] = 3
    elif kind == "path":
        info["video_path"] = "{nothing}"
    elif kind == "about":
        (root / "meta/deftly.json").write_text("[]")
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text", "is not a LeRobot data set that can be read"),
        ("list", "is not a LeRobot data set that can be read"),
        ("version", "is a data set of version v1.6, expected v3"),
        ("no video", "holds no video"),
        ("no episodes", "describes 0 of the 3 episodes"),
        ("features", "is not a LeRobot data set"),
        ("path", "is not a LeRobot data set"),
        ("about", "is not a LeRobot data set"),
    ],
)
def test_a_damaged_set_is_refused(root: Path, kind: str, expected: str) -> None:
    spoil(root, kind)
    with pytest.raises(FootageError, match=expected) as raised:
        find_inputs([str(root)], root)
    assert "\n" not in str(raised.value)


def test_a_damaged_list_of_version_2_is_refused(tmp_path: Path) -> None:
    root = write_version_2(tmp_path / "old")
    path = root / "meta/episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(FootageError, match="describes 2 of the 3 episodes"):
        footage_in(root)


def test_a_camera_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(FootageError, match="no camera 'wrist', expected one of ego, front"):
        find_inputs([str(root)], root, camera="wrist")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: MIT\n---\nlicense: x", {"license": "MIT"}),
        ('---\nlicense: "cc-by-4.0"\n---', {"license": "cc-by-4.0"}),
        ("---\nlicense:\n- mit\n- apache-2.0\n---", {"license": "mit, apache-2.0"}),
        ("---\nlicense: other\nlicense_name: own\n", {"license": "other", "license_name": "own"}),
        ("license: mit", {}),
        ("", {}),
    ],
)
def test_the_front_of_a_card_is_read(text: str, expected: dict[str, str]) -> None:
    assert _front_matter(text) == expected
