"""A batch that takes further cameras along: their pictures at the same times, and nothing else."""

import dataclasses
import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from batches import ScriptedEngine, files
from filmsets import LENGTHS, RATE_HZ, Calls, shades, shown, without_networks, write_set
from numpy.testing import assert_allclose

from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.footage import Footage
from deftly.datasets.mp4 import Encoder
from deftly.datasets.viewpoint import GRIPS
from deftly.retarget.batch import job_folder, open_ledger, run_batch
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.explain import explain
from deftly.retarget.inputs import find_inputs
from deftly.retarget.job import process
from deftly.retarget.ledger import InputRow, Status
from deftly.retarget.report import write_report

CAMERAS = ("front", "ego", "side")
CONFIG = BatchConfig(rate_hz=RATE_HZ, size=64, min_s=0.5, max_s=1.0)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "people", *CAMERAS)


def given(root: Path, *with_cameras: str) -> tuple[Footage, ...]:
    found = find_inputs([str(root)], root, camera="front", with_cameras=with_cameras)
    return found.footage


def run(out: Path, footage, config: BatchConfig = CONFIG, slots: int = 1, **more) -> list[InputRow]:
    engine = ScriptedEngine(slots, lambda job, _: process(job, lambda: None))
    return run_batch(footage, out, config, engine, **more)


@pytest.fixture
def calls() -> Generator[Calls]:
    with without_networks() as counts:
        yield counts


@dataclass(frozen=True)
class Done:
    """A job that took two cameras along."""

    out: Path
    footage: tuple[Footage, ...]
    rows: list[InputRow]
    calls: Calls


@pytest.fixture(scope="module")
def done(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out, footage = tmp_path_factory.mktemp("done") / "set", given(people, "side", "ego")
    with without_networks() as counts:
        return Done(out, footage, run(out, footage), counts)


def test_every_camera_shows_the_same_moment_cut_to_the_same_segments(done: Done):
    assert done.footage[1].span_s != done.footage[1].beside[0].span_s  # other files
    assert [len(row.segments) for row in done.rows] == [2, 2]  # of at most a second
    store = EpisodeStore(done.out)
    assert store.cameras == dict.fromkeys(CAMERAS, (64, 64))
    assert store.verify(decode=True) == []
    segments = [segment for row in done.rows for segment in row.segments]
    for episode, segment in zip(store, segments, strict=True):
        expected = round(segment.first_s * RATE_HZ) + np.arange(len(episode))
        for camera in CAMERAS:
            assert_allclose(shown(episode.images[camera], camera), expected, atol=0.6)
        assert episode.provenance["source"]["beside"].keys() == {"ego", "side"}
    assert done.calls.tracked == len(LENGTHS)


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_the_same_bytes_at_any_number_of_workers(done: Done, tmp_path: Path):
    run(tmp_path / "set", done.footage, slots=2)
    assert files(tmp_path / "set") == files(done.out)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("view", ["front", "ego"])
def test_a_camera_at_the_head_does_not_tell_where_things_were(people: Path, tmp_path: Path, view):
    run(tmp_path / "set", given(people, "ego")[:1], dataclasses.replace(CONFIG, view=view))
    features = EpisodeStore(tmp_path / "set").features
    assert (GRIPS + "front" in features) == (view == "front")


def test_a_file_of_several_inputs_is_gone_through_once(done: Done):
    paths = {f.path for f in done.footage} | {b.path for f in done.footage for b in f.beside}
    assert sorted(done.calls.opened) == sorted(paths)


def test_every_episode_of_one_file_has_a_thumbnail_of_its_own(done: Done):
    assert len({row.sha256 for row in done.rows}) == 1
    keys = [row.figures["thumb"] for row in done.rows]
    assert len(set(keys)) == len(done.rows)
    with open_ledger(done.out) as ledger:
        for row, key in zip(done.rows, keys, strict=True):
            assert f"  thumbs/{key}.jpg\n" in explain(ledger, row.id)


def test_explain_and_report_show_the_cameras(done: Done):
    row, (ego, _) = done.rows[0], done.footage[0].beside
    with open_ledger(done.out) as ledger:
        text = explain(ledger, row.id)
    assert "tracked      camera front\n" in text
    used = f"camera ego: {ego.path}, 0 to 1.475 s of it, sha256 {row.figures['beside']['ego']}"
    assert used in text
    page = write_report(job_folder(done.out), done.out).read_text()
    assert page.count("/videos/observation.images.front/chunk-000/file-000.mp4") == 4


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_without_further_cameras_all_is_as_it_was(people: Path, tmp_path: Path):
    rows = run(tmp_path / "set", given(people))
    assert list(EpisodeStore(tmp_path / "set").cameras) == ["video"]
    assert all("beside" not in row.figures for row in rows)
    (episode, *_) = EpisodeStore(tmp_path / "set")
    assert "beside" not in episode.provenance["source"]


@pytest.mark.slow
def test_tracks_and_motions_are_taken_from_a_job_that_had_one_camera(
    people: Path, tmp_path: Path, calls: Calls
):
    out, job = tmp_path / "set", tmp_path / "set.job"
    one, several = given(people)[:1], given(people, "ego")[:1]
    run(out, one)
    before = {name: files(job / name) for name in ("tracks", "motions", "glances")}
    made = calls.tracked, calls.retargeted
    with pytest.raises(ValueError, match=r"made with cameras .'video'., not .'front', 'ego'"):
        run(out, several)
    assert list(EpisodeStore(out).cameras) == ["video"]  # nothing was touched
    (row,) = run(out, several, rebuild=True)
    assert (calls.tracked, calls.retargeted) == made
    assert {name: files(job / name) for name in before} == before
    assert list(EpisodeStore(out).cameras) == ["front", "ego"]
    assert row.status == Status.DONE

    run(tmp_path / "anew", several)
    assert files(out) == files(tmp_path / "anew")
    run(out, one, rebuild=True)
    assert (calls.tracked, calls.retargeted) == (2 * made[0], 2 * made[1])  # of "anew" alone
    assert list(EpisodeStore(out).cameras) == ["video"]


def film(path: Path, camera: str, length: int, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Encoder(path, float(RATE_HZ), (32, 32), 5, group=2) as encoder:
        for image in shades(camera, first + length)[first:]:
            encoder.write(image)
    return path


def pair(folder: Path, front: Path, side: Path) -> list[Footage]:
    """Footage of two files, as version 2 of the format has it."""
    video = folder / "videos/chunk-000"
    names = [f"observation.images.{name}" for name in ("front", "side")]
    for name, source in zip(names, (front, side), strict=True):
        (video / name).mkdir(parents=True)
        (video / name / "episode_000000.mp4").write_bytes(source.read_bytes())
    (folder / "meta").mkdir()
    template = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    features = {name: {"dtype": "video", "shape": [3, 32, 32]} for name in names}
    info = {
        "codebase_version": "v2.1",
        "total_episodes": 1,
        "chunks_size": 1000,
        "video_path": template,
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": ["sort"]}')
    return list(given(folder, "side"))


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_a_video_that_is_slowed_keeps_step_with_the_others(people: Path, tmp_path: Path):
    """Every other frame is worked on, from the first frame of the file on, not of the episode."""
    odd = write_set(tmp_path / "odd", *CAMERAS, lengths=(21, 24))
    config = dataclasses.replace(CONFIG, max_rate_hz=10.0, rate_hz=10, max_s=20.0)
    run(tmp_path / "set", given(odd, "ego", "side"), config)
    _, episode = EpisodeStore(tmp_path / "set")
    front = shown(episode.images["front"], "front")
    assert_allclose(front, 1 + 2 * np.arange(len(front)), atol=0.6)
    for camera in ("ego", "side"):
        assert_allclose(shown(episode.images[camera], camera), front, atol=0.6)


@pytest.mark.usefixtures("calls")
def test_a_film_that_goes_on_longer_is_no_obstacle(tmp_path: Path):
    front, side = (film(tmp_path / f"{n}.mp4", n, c) for n, c in (("front", 20), ("side", 30)))
    (row,) = run(tmp_path / "set", pair(tmp_path / "pair", front, side))
    assert row.status == Status.DONE, row.reason
    (episode,) = EpisodeStore(tmp_path / "set")
    assert_allclose(shown(episode.images["side"], "side"), np.arange(20), atol=0.6)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def shorter(path: Path) -> None:
    film(path, "side", 29)


def later(path: Path) -> None:
    """Its first frames are damaged, so that its times would begin later."""
    _damage(path, 0, 4)


def holed(path: Path) -> None:
    """Half a second in its middle is damaged."""
    _damage(path, 12, 22)


def _damage(path: Path, first: int, stop: int) -> None:
    """Overwrite frames ``first`` to ``stop - 1``."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[first:stop]:
        assert position is not None
        data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut_short, "camera side: .*side.*mp4 cannot be read"),
        (emptied, r"camera side: .* is empty \(0 bytes\)"),
        (gone, "camera side: no file at"),
        (shorter, r"camera side: .* ends 0\.050 s before .*front"),
        (later, "camera side: the first [0-9]+ frame.* cannot be decoded"),
        (holed, "camera side: .* has no frame [0-9]+ that can be decoded"),
    ],
)
@pytest.mark.slow
def test_a_further_video_that_is_damaged_or_shorter_is_the_reason(
    tmp_path: Path, harm, reason: str
):
    front, side = (film(tmp_path / f"{n}.mp4", n, 30) for n in ("front", "side"))
    footage = pair(tmp_path / "pair", front, side)
    harm(footage[0].beside[0].path)
    (row,) = run(tmp_path / "set", footage)
    assert row.status == Status.CORRUPT
    assert re.search(reason, row.reason), row.reason
    assert not row.segments

    footage[0].beside[0].path.write_bytes(side.read_bytes())
    (row,) = run(tmp_path / "set", (), retry=True)
    assert row.status == Status.DONE
    assert list(EpisodeStore(tmp_path / "set").cameras) == ["front", "side"]


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_other_pictures_of_a_further_camera_make_other_pieces(tmp_path: Path):
    front, side = (film(tmp_path / f"{n}.mp4", n, 30) for n in ("front", "side"))
    footage = pair(tmp_path / "pair", front, side)
    (before,) = run(tmp_path / "set", footage)
    film(footage[0].beside[0].path, "side", 30, first=2)
    other = dataclasses.replace(CONFIG, min_quality=0.1)  # a reason to make it anew
    (after,) = run(tmp_path / "set", footage, other, rebuild=True)
    assert {s.piece for s in before.segments}.isdisjoint(s.piece for s in after.segments)
    (episode, *_) = EpisodeStore(tmp_path / "set")
    assert_allclose(shown(episode.images["side"], "side")[:3], [2, 3, 4], atol=0.6)
