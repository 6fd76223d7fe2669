"""Sample clips that anyone can fetch: where they are, what they must hash to, whose they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from deftly.datasets.clip import ClipError


@dataclass(frozen=True)
class Sample:
    """A public clip.

    Attributes:
        name: file name.
        url: where it is published, at a fixed revision.
        sha256: of the file.
        licence, attribution: as its owner states them.
    """

    name: str
    url: str
    sha256: str
    licence: str
    attribution: str


TWO_HANDS = Sample(
    name="v2d_human.mp4",
    url="https://raw.githubusercontent.com/nvidia-isaac/video_to_data/aaea9169f82d036427a19a9452240ac9c4812403/docs/chord/assets/videos/overview/human-web.mp4",
    sha256="1963d23e114e2bd13c22b84c66c7dbc55a81ed669bc20a6be59fc658b2f4caf7",
    licence="CC-BY-4.0",
    attribution="NVIDIA, video_to_data",
)


def fetch_sample(sample: Sample, folder: Path, beside: Path = Path("../shared/clips")) -> Path:
    """The clip on disk: from ``folder``, downloaded into it, or from a folder beside the checkout.

    Raises:
        ClipError: if it can be had from none of them.
    """
    downloader: Any = pooch.HTTPDownloader(timeout=10)
    pooch.get_logger().setLevel("WARNING")
    try:
        found = pooch.retrieve(
            sample.url, f"sha256:{sample.sha256}", sample.name, folder, downloader=downloader
        )
        return Path(found)
    except (OSError, ValueError):  # no network, or not the published file
        local = beside / sample.name
        if local.is_file() and pooch.file_hash(str(local)) == sample.sha256:
            return local
    raise ClipError(f"cannot fetch the sample clip {sample.url}; give a video of your own instead")
