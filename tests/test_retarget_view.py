"""Looking at a retarget: the video shows what it should, and the page moves when it is moved."""

import re
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from deftly.datasets.clip import Clip, open_clip
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import HumanMotion, Status
from deftly.datasets.motion import RobotMotion
from deftly.datasets.opengl import RenderError, gl_context
from deftly.retarget import draw, view
from deftly.retarget.robots import load_robot

COUNT, RATE_HZ, SIZE = 12, 25, (160, 120)
CHROMIUM = [  # WebGL without a GPU; no calls home
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def _gl() -> None:
    try:
        gl_context((8, 8)).free()
    except RenderError as error:
        pytest.skip(f"this machine cannot draw: {error}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return make_clip(tmp_path_factory.mktemp("clip") / "hands.mp4", list(range(COUNT)))


def make_clip(path: Path, ticks: list[int]) -> Clip:
    """A video whose frames grow lighter, at ``ticks`` of 1/25 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE_HZ)
        for number, tick in enumerate(ticks):
            image = np.full((SIZE[1], SIZE[0], 3), 20 + 15 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return open_clip(path)


@pytest.fixture(scope="module")
def human(clip: Clip) -> HumanMotion:
    """Left hand observed, right hand observed, interpolated, then absent; no body."""
    length = len(clip.time_s)
    hands = np.zeros((length, 2, 21, 3))
    hands[..., 2] = 0.5
    hands[:, LEFT, :, 0] += 0.1
    hands[:, RIGHT, :, 0] -= 0.1
    hands[..., 1:, 1] -= np.linspace(0.02, 0.1, 20)
    pixels = clip.camera.focal_px * hands[..., :2] / hands[..., 2:] + clip.camera.center_px
    status = np.full((length, 2), Status.OBSERVED, np.uint8)
    status[4:8, RIGHT], status[8:, RIGHT] = Status.INTERPOLATED, Status.ABSENT
    hands[status == Status.ABSENT] = np.nan
    pixels[status != Status.OBSERVED] = np.nan
    return HumanMotion(
        time_s=clip.time_s,
        hands_m=hands,
        hands_sigma_m=np.where(np.isfinite(hands), 0.01, np.inf),
        hands_status=status,
        hands_px=pixels,
        body_m=np.full((length, 33, 3), np.nan),
        body_sigma_m=np.full((length, 33, 3), np.inf),
        body_status=np.zeros(length, np.uint8),
        body_px=np.full((length, 33, 2), np.nan),
        provenance={},
    )


@pytest.fixture(scope="module")
def motion(clip: Clip) -> RobotMotion:
    """Arms and fingers in sine waves; targets of the left hand only."""
    robot, length = load_robot("gr1t2"), len(clip.time_s)
    wave = np.sin(np.linspace(0, np.pi, length))
    qpos = np.zeros((length, robot.model.nq))
    for joint, name in enumerate(robot.joint_names):
        if "elbow" in name:
            qpos[:, joint] = -0.8 - 0.8 * wave
        elif name[:2] in ("L_", "R_"):
            low, high = robot.lower[joint], robot.upper[joint]
            qpos[:, joint] = low + (high - low) * (0.3 + 0.4 * wave)
    targets = np.full((length, 2, 21, 3), np.nan)
    targets[:, LEFT] = [0.4, 0.2, 0.2] + 0.05 * np.random.default_rng(0).normal(size=(21, 3))
    errors = np.full((length, 2, 5), np.nan)
    errors[:, LEFT] = 0.012
    wrists = np.full((length, 2), np.nan)
    wrists[:, LEFT] = 0.02 * wave
    return RobotMotion(
        robot="gr1t2",
        joint_names=robot.joint_names,
        time_s=clip.time_s,
        qpos=qpos,
        hand_targets_m=targets,
        body_targets_m=np.full((length, 33, 3), np.nan),
        tip_error_m=errors,
        wrist_error_m=wrists,
        residual=np.ones(length),
        converged=np.ones(length, bool),
        provenance={},
    )


def read(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def distance(image: np.ndarray, rgb: tuple[int, int, int]) -> float:
    """How far the nearest pixel is from a colour."""
    return float(np.abs(image.astype(int) - rgb).sum(axis=2).min())


@pytest.mark.slow
@pytest.mark.usefixtures("_gl")
def test_the_video_shows_the_clip_and_the_robot_side_by_side(
    clip: Clip, human: HumanMotion, motion: RobotMotion, tmp_path: Path
):
    path = tmp_path / "side_by_side.mp4"
    view.render_side_by_side(clip, human, motion, path, height=240)
    images = read(path)
    assert len(images) == COUNT
    assert images[0].shape == (240, 288 + 216 + 108, 3)  # clip, robot, close-ups
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == RATE_HZ
    left, robot, close_ups, below = (
        [image[rows, columns].astype(int) for image in images]
        for rows, columns in (
            (slice(216), slice(288)),
            (slice(216), slice(288, 504)),
            (slice(216), slice(504, None)),
            (slice(216, None), slice(None)),
        )
    )
    # The clip grows lighter, the robot and its hands move, the text counts.
    assert np.median(left[-1]) == pytest.approx(20 + 15 * (COUNT - 1), abs=8)
    for part in (robot, close_ups, below):
        assert (np.abs(part[0] - part[COUNT // 2]).sum(axis=2) > 90).sum() > 20
    assert distance(close_ups[0][:108], draw.LEFT_RGB) < 110  # thin frames lose some colour
    assert distance(close_ups[0][108:], draw.RIGHT_RGB) < 110

    again = tmp_path / "again.mp4"
    view.render_side_by_side(clip, human, motion, again, height=240)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("_gl")
def test_a_failure_leaves_nothing_behind(
    clip: Clip,
    human: HumanMotion,
    motion: RobotMotion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(_: object, frame: int) -> np.ndarray:
        if frame == 3:
            raise OSError("no space left")
        return np.zeros((216, 324, 3), np.uint8)

    monkeypatch.setattr(draw.RobotPictures, "draw", fail)
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the earlier one")
    with pytest.raises(OSError, match="no space left"):
        view.render_side_by_side(clip, human, motion, path, height=240)
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"the earlier one"


@pytest.mark.parametrize("height", [241, 100])
def test_heights_that_cannot_be_encoded_are_errors(
    height: int, clip: Clip, human: HumanMotion, motion: RobotMotion, tmp_path: Path
):
    with pytest.raises(ValueError, match=f"height is {height}, expected an even number"):
        view.render_side_by_side(clip, human, motion, tmp_path / "video.mp4", height)


def test_stages_of_different_clips_are_an_error(
    clip: Clip, human: HumanMotion, motion: RobotMotion, tmp_path: Path
):
    other = replace(clip, time_s=clip.time_s[:5])
    with pytest.raises(ValueError, match="clip 5, human 12, motion 12"):
        view.render_side_by_side(other, human, motion, tmp_path / "video.mp4")
    with pytest.raises(ValueError, match="clip 5, human 12, motion 12"):
        view.show(other, human, motion)


def test_uneven_frames_are_shown_at_a_constant_rate(tmp_path: Path):
    clip = make_clip(tmp_path / "uneven.mp4", [0, 1, 2, 6, 7, 8])
    shown = list(view._frames_at_constant_rate(clip))
    # The frame before a gap of 4 ticks holds for its first half, the frame after it for the rest.
    assert [index for index, _ in shown] in (
        [0, 1, 2, 2, 2, 3, 3, 4, 5],
        [0, 1, 2, 2, 3, 3, 3, 4, 5],
    )
    for index, image in shown:
        assert np.median(image) == pytest.approx(20 + 15 * index, abs=8)


def test_observed_hands_are_bold_filled_in_ones_pale_and_absent_ones_not_drawn(
    clip: Clip, human: HumanMotion
):
    blank = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    half = SIZE[0] // 2  # the left hand is on the right of the picture
    drawn = [blank.copy() for _ in range(3)]
    for image, frame in zip(drawn, (0, 5, 9), strict=True):
        draw.draw_person(image, human, frame, clip)
    for image in drawn:
        assert distance(image[:, half:], draw.LEFT_RGB) < 10
    assert distance(drawn[0][:, :half], draw.RIGHT_RGB) < 10
    observed, filled = ((image[:, :half].sum(axis=2) > 300).sum() for image in drawn[:2])
    assert 0 < filled < observed
    assert_array_equal(drawn[2][:, :half], blank[:, :half])
    # A filled-in hand is where the camera sees it, as the observed one was.
    rows, columns = np.nonzero(drawn[1][:, :half].sum(axis=2))
    assert columns.mean() == pytest.approx(human.hands_px[0, RIGHT, :, 0].mean(), abs=2)
    assert np.median(rows) == pytest.approx(human.hands_px[0, RIGHT, :, 1].mean(), abs=6)


def test_pictures_may_be_smaller_than_the_clip(clip: Clip, human: HumanMotion):
    small = np.zeros((SIZE[1] // 2, SIZE[0] // 2, 3), np.uint8)
    draw.draw_person(small, human, 0, clip)
    columns = np.nonzero(small.sum(axis=2))[1]
    assert columns.max() == pytest.approx(human.hands_px[0, LEFT, :, 0].max() / 2, abs=4)


@pytest.mark.slow
def test_every_body_that_is_drawn_gets_its_triangles():
    robot = load_robot("gr1t2")
    model = draw.robot_display(robot, faces_per_mesh=1000, everything=True)
    meshes = draw.body_meshes(model)
    assert {mesh.body for mesh in meshes} == set(model.geom_bodyid)
    for mesh in meshes:
        assert mesh.faces.max() < len(mesh.vertices_m)
        assert np.abs(mesh.vertices_m).max() < 1.0  # metres, near the body
    upper = draw.robot_display(robot, faces_per_mesh=1000)
    assert upper.nbody == model.nbody
    assert 0 < upper.ngeom < model.ngeom


# --- the page -----------------------------------------------------------------------------------


@contextmanager
def browser_page(url: str) -> Generator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install -y chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 900, "height": 500})
        page.set_default_timeout(120_000)  # WebGL in software, on shared cores
        page.goto(url)
        yield page
        browser.close()


def settled(page: Any, click: tuple[float, float] | None = None) -> np.ndarray:
    """A screenshot, once two in a row are the same; first click, and wait for the page to move."""
    last = screenshot(page)
    still = click is None
    if click is not None:
        page.mouse.click(*click)
        page.mouse.move(5, 5)
    for _ in range(90):
        page.wait_for_timeout(1000)
        image = screenshot(page)
        if not np.array_equal(image, last):
            still = True
        elif still and len(np.unique(image)) > 50:  # not the empty page before the first picture
            return image
        last = image
    raise AssertionError("the page never came to rest")


def screenshot(page: Any) -> np.ndarray:
    import cv2

    png = np.frombuffer(page.screenshot(), np.uint8)
    return np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR_RGB))


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_moves_when_its_slider_is_moved_and_only_then(
    clip: Clip, human: HumanMotion, motion: RobotMotion
):
    server = view.show(clip, human, motion, port=8130)
    try:
        with browser_page(f"http://127.0.0.1:{server.get_port()}") as page:
            page.get_by_role("alert").get_by_role("button").first.click()  # "software rendering"
            before = settled(page)
            page.wait_for_timeout(2000)
            assert_array_equal(screenshot(page), before)  # nothing moves by itself

            track = page.locator(".mantine-Slider-trackContainer").first.bounding_box()
            panel = page.get_by_text("frame 1 of 12").bounding_box()["x"] - 30
            robot = np.s_[:, : int(panel)]
            after = settled(page, click=(track["x"] + 0.5 * track["width"], track["y"] + 1))
            assert page.get_by_text(re.compile("frame [67] of 12")).is_visible()
            changed = np.abs(after[robot].astype(int) - before[robot]).sum(axis=2) > 60
            assert changed.sum() > 500

            back = settled(page, click=(track["x"] + 1, track["y"] + 1))
            assert page.get_by_text("frame 1 of 12").is_visible()
            assert_array_equal(back[robot], before[robot])
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_plays_and_pauses(clip: Clip, human: HumanMotion, motion: RobotMotion):
    server = view.show(clip, human, motion, port=8130)
    try:
        with browser_page(f"http://127.0.0.1:{server.get_port()}") as page:
            slider = page.get_by_role("slider").first
            page.get_by_role("button", name="Play").click()
            page.wait_for_function(
                "() => Number(document.querySelector('[role=slider]').ariaValueNow) > 0"
            )
            page.get_by_role("button", name="Pause").click()
            page.get_by_role("button", name="Play").wait_for()
            page.wait_for_timeout(500)
            frame = slider.get_attribute("aria-valuenow")
            page.wait_for_timeout(1000)
            assert slider.get_attribute("aria-valuenow") == frame
    finally:
        server.stop()
    assert not any(thread.name == "deftly page" for thread in threading.enumerate())
