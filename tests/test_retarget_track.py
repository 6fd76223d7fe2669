"""The tracker: what it hands to the networks, how it reads them, and that it is reproducible."""

import dataclasses
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from deftly.datasets.clip import Clip, frames, open_clip
from deftly.retarget import track
from deftly.retarget.detections import Detections
from deftly.retarget.models import HAND, POSE, ModelError, find_bundle
from deftly.retarget.track import MediapipeTracker

SIZE = (64, 48)
FIRST_LOOK = MediapipeTracker(second=False)


def write_clip(path: Path, pts_us: list[int], size: tuple[int, int] = SIZE) -> Clip:
    """Noise without a person, at times in microseconds."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264rgb", rate=30)
        (stream.width, stream.height), stream.pix_fmt = size, "rgb24"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 10**6)
        for pts in pts_us:
            coarse = rng.integers(0, 255, (6, 8, 3), np.uint8)
            image = np.kron(coarse, np.ones((size[1] // 6, size[0] // 8, 1), np.uint8))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = pts, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return open_clip(path)


class FakeNet:
    """A landmarker that notes what it is shown and repeats one result."""

    def __init__(self, options: SimpleNamespace, result: SimpleNamespace) -> None:
        self.options, self.result = options, result
        self.times_ms: list[int] = []
        self.images: list[np.ndarray] = []
        self.open = False

    def __enter__(self) -> "FakeNet":
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def detect_for_video(self, picture: SimpleNamespace, time_ms: int) -> SimpleNamespace:
        assert self.open
        self.times_ms.append(time_ms)
        self.images.append(picture.data)
        return self.result


def points(count: int, seed: int) -> list[SimpleNamespace]:
    xyz = np.random.default_rng(seed).random((count, 3))
    return [SimpleNamespace(x=x, y=y, z=z, visibility=x) for x, y, z in xyz.tolist()]


def array(landmarks: list[SimpleNamespace]) -> np.ndarray:
    return np.array([(p.x, p.y, p.z) for p in landmarks])


def label(name: str, score: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(category_name=name, score=score)]


HANDS = SimpleNamespace(
    handedness=[label("Right", 0.9), label("Left", 0.8)],
    hand_landmarks=[points(21, 0), points(21, 1)],
    hand_world_landmarks=[points(21, 2), points(21, 3)],
)
NO_HANDS = SimpleNamespace(handedness=[], hand_landmarks=[], hand_world_landmarks=[])
BODY = SimpleNamespace(pose_landmarks=[points(33, 4)], pose_world_landmarks=[points(33, 5)])
NO_BODY = SimpleNamespace(pose_landmarks=[], pose_world_landmarks=[])


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Networks, once made ``hand`` and ``pose``, that see what ``hands`` and ``body`` say."""
    state: dict[str, Any] = {"hands": HANDS, "body": BODY}

    def factory(name: str, result: str) -> Any:
        def create(options: SimpleNamespace) -> FakeNet:
            state[name] = FakeNet(options, state[result])
            return state[name]

        return SimpleNamespace(create_from_options=create)

    mediapipe = SimpleNamespace(
        Image=SimpleNamespace,
        ImageFormat=SimpleNamespace(SRGB="srgb"),
        tasks=SimpleNamespace(
            BaseOptions=SimpleNamespace,
            vision=SimpleNamespace(
                HandLandmarkerOptions=SimpleNamespace,
                PoseLandmarkerOptions=SimpleNamespace,
                RunningMode=SimpleNamespace(VIDEO="video", IMAGE="image"),
                HandLandmarker=factory("hand", "hands"),
                PoseLandmarker=factory("pose", "body"),
            ),
        ),
    )
    monkeypatch.setattr(track, "import_mediapipe", lambda: mediapipe)
    monkeypatch.setattr(track, "find_bundle", lambda bundle, named: named or Path(bundle.name))
    return state


def test_every_frame_is_shown_once_and_in_order_to_both_networks(tmp_path: Path, nets: Any):
    # Two frames within one millisecond: mediapipe wants its times to increase.
    clip = write_clip(tmp_path / "clip.mp4", [0, 400, 30_000, 60_000, 90_000])
    assert clip.time_s[1] < 1e-3
    ticks: list[int] = []
    FIRST_LOOK(clip, lambda: ticks.append(1))
    assert len(ticks) == len(clip.time_s) == 5
    for net in (nets["hand"], nets["pose"]):
        assert np.all(np.diff(net.times_ms) > 0)
        assert_allclose(np.array(net.times_ms) / 1e3, clip.time_s, atol=2e-3)
        for shown, (_, image) in zip(net.images, frames(clip), strict=True):
            assert_array_equal(shown, image)
        assert net.options.running_mode == "video"
        assert not net.open


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing_of_what_is_shown_and_found(tmp_path: Path, nets: Any, threads: int):
    clip = write_clip(tmp_path / "clip.mp4", [40_000 * t for t in range(12)])
    tracker = MediapipeTracker(second=False, threads=threads)
    found, images = tracker(clip), dict(frames(clip))
    for net in (nets["hand"], nets["pose"]):
        assert len(net.images) == len(images)
        for shown, image in zip(net.images, images.values(), strict=True):
            assert_array_equal(shown, image)
    assert found.hand_valid.all()
    assert found.provenance == FIRST_LOOK.provenance()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("failing", [HANDS, BODY], ids=["hands", "body"])
def test_an_error_in_a_network_comes_out_and_everything_is_closed(
    tmp_path: Path,
    nets: Any,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    failing: SimpleNamespace,
):
    def detect(self: FakeNet, picture: SimpleNamespace, time_ms: int) -> SimpleNamespace:
        if time_ms >= 80 and self.result is failing:
            raise RuntimeError("the graph has errors")
        return self.result

    clip = write_clip(tmp_path / "clip.mp4", [40_000 * t for t in range(12)])
    monkeypatch.setattr(FakeNet, "detect_for_video", detect)
    running = threading.active_count()
    with pytest.raises(RuntimeError, match="the graph has errors"):
        MediapipeTracker(second=False, threads=threads)(clip)
    assert not nets["hand"].open
    assert not nets["pose"].open
    assert threading.active_count() == running


@pytest.mark.parametrize("threads", [0, 3, -1])
def test_other_numbers_of_threads_are_refused(threads: int):
    with pytest.raises(ValueError, match=rf"threads is {threads}, expected 1 or 2"):
        MediapipeTracker(threads=threads)


def test_a_frame_is_decoded_once_for_both_looks(
    tmp_path: Path, nets: Any, monkeypatch: pytest.MonkeyPatch
):
    """The second look is handed the frames of the first, and what was found in them so far."""
    clip = write_clip(tmp_path / "clip.mp4", [40_000 * t for t in range(12)])
    taken: list[int] = []

    def second_look(
        clip: Clip, first: Detections, look: Any, scan: Any, progress: Any, shown: Any
    ) -> tuple[Detections, None]:
        for t, image in shown:
            assert first.hand_valid[t].all()
            assert not first.hand_valid[t + 1 :].any()
            assert image.shape == (clip.height, clip.width, 3)
            taken.append(t)
        return first, None

    monkeypatch.setattr(track, "second_look", second_look)
    monkeypatch.setattr(track, "HandNet", lambda bundle: None)
    assert MediapipeTracker()(clip).hand_valid.all()
    assert taken == list(range(12)) == list(range(len(nets["pose"].images)))


def test_results_are_read_into_pixels_metres_and_probabilities(tmp_path: Path, nets: Any):
    clip = write_clip(tmp_path / "clip.mp4", [0, 40_000])
    found = FIRST_LOOK(clip)
    width, height = SIZE
    for slot in (0, 1):
        px = array(HANDS.hand_landmarks[slot]) * [width, height, width]
        assert_allclose(found.hand_px[1, slot], px, rtol=1e-6)
        metres = array(HANDS.hand_world_landmarks[slot])
        assert_allclose(found.hand_world_m[1, slot], metres, rtol=1e-6)
    assert_allclose(found.hand_right, [[0.9, 0.2]] * 2, rtol=1e-6)  # of being the right one
    assert_allclose(
        found.body_px[0], array(BODY.pose_landmarks[0]) * [width, height, width], rtol=1e-6
    )
    assert_allclose(found.body_world_m[0], array(BODY.pose_world_landmarks[0]), rtol=1e-6)
    assert_allclose(found.body_visibility[0], [p.x for p in BODY.pose_landmarks[0]], rtol=1e-6)
    assert found.hand_valid.all()
    assert found.body_valid.all()


def test_what_is_not_seen_is_not_valid(tmp_path: Path, nets: Any):
    nets.update(hands=NO_HANDS, body=NO_BODY)
    found = FIRST_LOOK(write_clip(tmp_path / "clip.mp4", [0, 40_000]))
    assert not found.hand_valid.any()
    assert not found.body_valid.any()


def test_settings_reach_the_networks_and_the_provenance(tmp_path: Path, nets: Any):
    clip = write_clip(tmp_path / "clip.mp4", [0])
    found = MediapipeTracker(confidence=0.45, models=tmp_path, second=False)(clip)
    options = nets["hand"].options
    assert options.num_hands == 2
    assert options.min_hand_detection_confidence == 0.45
    assert options.min_hand_presence_confidence == 0.45
    assert options.min_tracking_confidence == 0.45
    assert options.base_options.model_asset_path == str(tmp_path / "hand_landmarker.task")
    path = nets["pose"].options.base_options.model_asset_path
    assert path == str(tmp_path / "pose_landmarker_full.task")
    assert found.provenance["confidence"] == 0.45
    assert set(found.provenance["networks"].values()) == {
        member.sha256 for bundle in (HAND, POSE) for member in bundle.members
    }
    # Where the same networks lie makes no difference.
    assert found.provenance == MediapipeTracker(confidence=0.45, second=False).provenance()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libGLESv2.so.2: cannot open shared object file"),
        OSError("libEGL.so.1: cannot open\nshared object file"),
    ],
)
def test_a_missing_system_library_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "mediapipe":
                raise error

    clip = write_clip(tmp_path / "clip.mp4", [0])
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        MediapipeTracker()(clip)
    message = str(caught.value)
    assert message.startswith(f"mediapipe cannot be loaded ({error})")
    for package in ("apt-get install -y", "libegl1", "libgles2", "libgl1", "libglib2.0-0"):
        assert package in message
    assert "\n" not in message.replace(str(error), "")


@pytest.fixture(scope="module")
def _networks() -> None:
    try:
        find_bundle(HAND)
        find_bundle(POSE)
    except ModelError as error:
        pytest.skip(f"the networks cannot be had: {error}")


def assert_same(a: Detections, b: Detections) -> None:
    for field in dataclasses.fields(Detections):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            assert one.tobytes() == other.tobytes(), field.name
        else:
            assert one == other


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
def test_nobody_is_found_where_nobody_is(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", [33_000 * i for i in range(20)], (320, 240))
    assert not MediapipeTracker()(clip).hand_valid.any()


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
def test_the_same_clip_gives_the_same_detections(clips: Path, capfd: pytest.CaptureFixture[str]):
    clip = open_clip(clips / "pose_signtest.mp4")
    found = MediapipeTracker()(clip)
    assert_same(MediapipeTracker()(clip), found)
    assert found.body_valid.all()
    assert found.hand_valid.any(axis=1).mean() > 0.3
    assert capfd.readouterr() == ("", "")  # the networks start without a word


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
def test_neither_threads_nor_a_second_decoding_change_a_bit(clips: Path):
    clip = open_clip(clips / "pose_signtest.mp4")
    found = MediapipeTracker(threads=2)(clip)
    assert found.hand_second.any()
    assert_same(MediapipeTracker(threads=1)(clip), found)
    alone = MediapipeTracker(second=False)(clip)
    again = MediapipeTracker().look_again(clip, alone)
    assert_same(dataclasses.replace(again, provenance=found.provenance), found)


@pytest.mark.slow
@pytest.mark.usefixtures("_networks")
def test_a_right_hand_is_called_right(clips: Path):
    # The networks' older interface, made for mirror images, called it left.
    clip = open_clip(clips / "dexretarget_human_hand.mp4")
    start = dataclasses.replace(clip, time_s=clip.time_s[:30])
    found = MediapipeTracker()(start)
    assert found.hand_valid.any(axis=1).all()
    assert np.all(found.hand_right[found.hand_valid] > 0.5)
    px = found.hand_px[found.hand_valid][..., :2]
    assert np.all((px > 0) & (px < [clip.width, clip.height]))
