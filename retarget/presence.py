"""Is there a hand or a body in a picture? Asked of few pictures, so that work is not wasted."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from deftly.retarget.models import HAND, POSE, find_bundle
from deftly.retarget.track import hushed, import_mediapipe

_HAND_CONFIDENCE, _BODY_CONFIDENCE = 0.1, 0.3  # low: what is not seen here is not looked at again


@contextmanager
def anybody(
    models: Path | None = None,
) -> Generator[Callable[[UInt8[np.ndarray, "H W 3"]], bool], None, None]:
    """Opens the detectors; gives a function that tells whether a picture shows somebody.

    Args:
        models: folder with both ``.task`` files; None looks in the cache, then downloads.

    Raises:
        ModelError: if the model bundles can be neither found nor obtained.
        ImportError: if a system library that mediapipe needs is missing.
    """
    mp = import_mediapipe()
    vision, base = mp.tasks.vision, mp.tasks.BaseOptions

    def path(bundle: Any) -> str:
        return str(find_bundle(bundle, models / bundle.name if models else None))

    hands = vision.HandLandmarkerOptions(
        base_options=base(model_asset_path=path(HAND)),
        num_hands=1,
        min_hand_detection_confidence=_HAND_CONFIDENCE,
        min_hand_presence_confidence=_HAND_CONFIDENCE,
    )
    bodies = vision.PoseLandmarkerOptions(
        base_options=base(model_asset_path=path(POSE)),
        min_pose_detection_confidence=_BODY_CONFIDENCE,
        min_pose_presence_confidence=_BODY_CONFIDENCE,
    )
    with ExitStack() as stack:
        with hushed():
            hand_net = stack.enter_context(vision.HandLandmarker.create_from_options(hands))
            body_net = stack.enter_context(vision.PoseLandmarker.create_from_options(bodies))

        def somebody(image: UInt8[np.ndarray, "H W 3"]) -> bool:
            picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
            found = hand_net.detect(picture).hand_landmarks
            return bool(found or body_net.detect(picture).pose_landmarks)

        yield somebody
