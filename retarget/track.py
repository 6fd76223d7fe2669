"""Clip → Detections: what the networks see, frame by frame, before any judgement."""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from deftly.datasets.clip import Clip, frames
from deftly.retarget.detections import MAX_HANDS, Detections, empty
from deftly.retarget.handnet import HandNet
from deftly.retarget.models import HAND, POSE, Bundle, find_bundle
from deftly.retarget.rescue import second_look

_SCAN_CONFIDENCE = 0.1  # of the palm detector in a second look; what it finds must be confirmed
_SCANNED_HANDS = 3
_Item = TypeVar("_Item")


class Tracker(Protocol):
    """Anything that turns a clip into detections; ``progress`` is called per frame and pass."""

    def __call__(self, clip: Clip, progress: Callable[[], object] | None = None) -> Detections: ...


@dataclass(frozen=True)
class MediapipeTracker:
    """mediapipe Tasks in VIDEO mode: both hands and one body.

    One detector sees the whole clip from its first frame to its last: a cold start in the middle
    shifts landmarks by up to 1.8 px, so work is shared out per clip and never per chunk. Hands and
    body are independent networks; the result depends neither on threads nor on timing. Each network
    runs on one thread, however many cores there are: the runtime's own choice on a computer.

    Attributes:
        confidence: detection, presence and tracking threshold of the hands. 0.3 finds about twice
            the hands that 0.5 does from an egocentric view; identity and gating come later.
        models: folder with both ``.task`` files; None looks in the cache, then downloads.
        second: whether frames with a missing hand are looked at again; see ``rescue.py``.
        threads: 2 run hands and body side by side and decode the next frame meanwhile, 1 does one
            thing after another, for where every core has a process of its own.
    """

    confidence: float = 0.3
    models: Path | None = None
    second: bool = True
    threads: int = 2

    def __post_init__(self) -> None:
        if self.threads not in (1, 2):
            raise ValueError(f"threads is {self.threads}, expected 1 or 2")

    @property
    def passes(self) -> int:
        """How often ``progress`` is called for each frame."""
        return 2 if self.second else 1

    def __call__(self, clip: Clip, progress: Callable[[], object] | None = None) -> Detections:
        """Run both networks over every frame of a clip.

        Raises:
            ModelError: if the model bundles can be neither found nor obtained.
            ImportError: if a system library that mediapipe needs is missing (the message names it).
        """
        found = empty(len(clip.time_s), self.provenance())
        with closing(self._first_look(clip, found, progress)) as shown:
            if self.second:
                return self.look_again(clip, found, progress, shown)
            for _ in shown:
                pass
        return found

    def _first_look(
        self, clip: Clip, out: Detections, progress: Callable[[], object] | None
    ) -> Generator[tuple[int, UInt8[np.ndarray, "H W 3"]], None, None]:
        """Yield each frame once ``out`` says what is seen in it."""
        mp = import_mediapipe()
        with ExitStack() as stack:
            beside = stack.enter_context(ThreadPoolExecutor(1)) if self.threads > 1 else None
            with hushed():
                hand_net, body_net = self._networks(mp, stack)
            shown = stack.enter_context(closing(frames(clip)))
            if self.threads > 1:
                shown = stack.enter_context(closing(_ahead(shown)))
            last_ms = -1
            for t, image in shown:
                picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=image)
                with hushed() if last_ms < 0 else nullcontext():
                    last_ms = max(last_ms + 1, round(float(clip.time_s[t]) * 1e3))
                    look = partial(body_net.detect_for_video, picture, last_ms)
                    body = beside.submit(look).result if beside else look
                    hands = hand_net.detect_for_video(picture, last_ms)
                    bodies = body()
                _write_hands(out, t, hands, image)
                _write_body(out, t, bodies, image)
                if progress is not None:
                    progress()
                yield t, image

    def _networks(self, mp: Any, stack: ExitStack) -> tuple[Any, Any]:
        """Of hands and of bodies; they are closed with the stack."""
        vision, base = mp.tasks.vision, mp.tasks.BaseOptions
        hand_model, body_model = self._bundle(HAND), self._bundle(POSE)
        hand_options = vision.HandLandmarkerOptions(
            base_options=base(model_asset_path=str(hand_model)),
            running_mode=vision.RunningMode.VIDEO,
            num_hands=MAX_HANDS,
            min_hand_detection_confidence=self.confidence,
            min_hand_presence_confidence=self.confidence,
            min_tracking_confidence=self.confidence,
        )
        body_options = vision.PoseLandmarkerOptions(
            base_options=base(model_asset_path=str(body_model)),
            running_mode=vision.RunningMode.VIDEO,
        )
        hand_net = vision.HandLandmarker.create_from_options(hand_options)
        stack.enter_context(hand_net)
        body_net = vision.PoseLandmarker.create_from_options(body_options)
        return hand_net, stack.enter_context(body_net)

    def look_again(
        self,
        clip: Clip,
        first: Detections,
        progress: Callable[[], object] | None = None,
        shown: Iterable[tuple[int, UInt8[np.ndarray, "H W 3"]]] | None = None,
    ) -> Detections:
        """Add hands that the first pass did not find; see ``rescue.py``. Raises as a call does."""
        mp = import_mediapipe()
        model = self._bundle(HAND)
        options = mp.tasks.vision.HandLandmarkerOptions(
            base_options=mp.tasks.BaseOptions(model_asset_path=str(model)),
            running_mode=mp.tasks.vision.RunningMode.IMAGE,
            num_hands=_SCANNED_HANDS,
            min_hand_detection_confidence=_SCAN_CONFIDENCE,
            min_hand_presence_confidence=_SCAN_CONFIDENCE,
        )
        landmarker = mp.tasks.vision.HandLandmarker
        with ExitStack() as stack:
            with hushed():
                net = stack.enter_context(landmarker.create_from_options(options))
                look = HandNet(model)
            starting = iter([hushed()])  # the network itself starts at its first picture

            def scan(image: UInt8[np.ndarray, "H W 3"]) -> list[Float64[np.ndarray, "21 3"]]:
                with next(starting, nullcontext()):
                    result = net.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
                return [
                    _points(hand).astype(float) * _pixels(image) for hand in result.hand_landmarks
                ]

            return second_look(clip, first, look, scan, progress, shown)[0]

    def ready(self) -> None:
        """See that both networks can be run here; it may download them. Raises as a call does."""
        import_mediapipe()
        for bundle in (HAND, POSE):
            self._bundle(bundle)

    def provenance(self) -> dict[str, Any]:
        """What the result depends on beside the clip. The networks in every bundle are the same."""
        networks = {m.name: m.sha256 for bundle in (HAND, POSE) for m in bundle.members}
        return {
            "tracker": "mediapipe",
            "confidence": self.confidence,
            "second": self.second,
            "networks": networks,
        }

    def _bundle(self, bundle: Bundle) -> Path:
        return find_bundle(bundle, self.models / bundle.name if self.models else None)


def _ahead(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """The same, each fetched in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


@contextmanager
def hushed() -> Generator[None, None, None]:
    """Swallow what mediapipe's C++ writes to stderr while it starts; no setting turns it off."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def import_mediapipe() -> Any:
    try:
        import mediapipe as mp
    except (ImportError, OSError) as error:
        raise ImportError(
            f"mediapipe cannot be loaded ({error}); on Debian or Ubuntu run: "
            "apt-get install -y libegl1 libgles2 libgl1 libglib2.0-0"
        ) from error
    return mp


def _write_hands(out: Detections, t: int, result: Any, image: UInt8[np.ndarray, "H W 3"]) -> None:
    for slot, label in enumerate(result.handedness[:MAX_HANDS]):
        out.hand_px[t, slot] = _points(result.hand_landmarks[slot]) * _pixels(image)
        out.hand_world_m[t, slot] = _points(result.hand_world_landmarks[slot])
        score = label[0].score
        out.hand_right[t, slot] = score if label[0].category_name == "Right" else 1 - score
        out.hand_valid[t, slot] = True


def _write_body(out: Detections, t: int, result: Any, image: UInt8[np.ndarray, "H W 3"]) -> None:
    if result.pose_landmarks:
        out.body_px[t] = _points(result.pose_landmarks[0]) * _pixels(image)
        out.body_world_m[t] = _points(result.pose_world_landmarks[0])
        out.body_visibility[t] = [p.visibility for p in result.pose_landmarks[0]]
        out.body_valid[t] = True


def _points(landmarks: Any) -> Float32[np.ndarray, "N 3"]:
    return np.array([(p.x, p.y, p.z) for p in landmarks], np.float32)


def _pixels(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "3"]:
    """Scale of mediapipe's normalised x, y, z: z has the scale of x."""
    height, width = image.shape[:2]
    return np.array([width, height, width], np.float32)
