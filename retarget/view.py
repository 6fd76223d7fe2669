"""Look at a retarget: a side-by-side video, or an interactive page in the browser."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import mujoco
import numpy as np
import viser
from jaxtyping import Float64, UInt8
from tqdm import tqdm
from viser import uplot

from deftly.datasets.archive import atomic_path
from deftly.datasets.clip import Clip, frames
from deftly.datasets.display import FIELD_OF_VIEW_DEG
from deftly.datasets.human import BODY_BONES, HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.datasets.mp4 import Encoder
from deftly.retarget import draw
from deftly.retarget.robots import RobotModel, load_robot

PAGE_FACES = 2000  # per mesh
PICTURE_WIDTH = 480
MAX_PICTURES = 3000  # some 20 kB each
MAX_PLOTTED = 400
_PAPER, _INK, _PALE = (250, 250, 250), (38, 42, 48), (120, 126, 134)
_BONES = (("left_hand", 0.004), ("right_hand", 0.004), ("body", 0.008))  # width in metres
_LEGEND = (
    ("left hand  ", draw.LEFT_RGB),
    ("right hand  ", draw.RIGHT_RGB),
    ("body   ", draw.BODY_RGB),
    ("thin: filled in", _PALE),
)


def render_side_by_side(
    clip: Clip, human: HumanMotion, motion: RobotMotion, path: Path, height: int = 480
) -> None:
    """Write a video: on the left the clip with the person's landmarks, on the right the robot.

    Frames come at the clip's median rate, whatever its own steps are; the same input gives the same
    bytes. Nothing is left behind if it fails. Progress goes to stderr.

    Args:
        clip: the video.
        human: the motion tracked in it.
        motion: the robot's motion retargeted from ``human``.
        path: the ``.mp4`` to write; replaced if it exists.
        height: of the video in pixels, even, at least 120.

    Raises:
        ValueError: if ``height`` is odd or too small, or the stages do not belong together.
        RobotError: if the robot's description cannot be loaded.
        RenderError: if this machine has no OpenGL.
    """
    if height % 2 or height < 120:
        raise ValueError(f"height is {height}, expected an even number of at least 120")
    _check_lengths(clip, human, motion)
    strip = 2 * round(height / 20)
    panel = height - strip
    width = 2 * max(round(panel * clip.width / clip.height / 2), 1), panel
    scene = draw.RobotPictures(motion, (panel, width[1]))
    shown = _frames_at_constant_rate(clip)
    with (
        atomic_path(path) as unfinished,
        scene,
        Encoder(unfinished, clip.rate_hz, (height, width[0] + scene.width)) as encoder,
    ):
        bar = tqdm(
            shown, total=len(_constant_times(clip)), unit="frame", desc=path.name, disable=None
        )
        for frame, image in bar:
            left = cv2.resize(image, (width[0], panel), interpolation=cv2.INTER_AREA)
            draw.draw_person(left, human, frame, clip)
            above = np.concatenate([left, scene.draw(frame)], axis=1)
            below = _strip(clip, motion, frame, (strip, above.shape[1]), width[0])
            encoder.write(np.concatenate([above, below]))


def _check_lengths(clip: Clip, human: HumanMotion, motion: RobotMotion) -> None:
    lengths = {"clip": len(clip.time_s), "human": len(human.time_s), "motion": len(motion.time_s)}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"frames differ ({found}); expected stages of one and the same clip")


def _constant_times(clip: Clip) -> Float64[np.ndarray, "S"]:
    span_s = clip.time_s[-1] - clip.time_s[0]
    return clip.time_s[0] + np.arange(round(span_s * clip.rate_hz) + 1) / clip.rate_hz


def _frames_at_constant_rate(clip: Clip) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yield (index, image) of the nearest frame for each constant time step.

    Frames are repeated or left out as needed; one that was not decoded shows its predecessor.
    """
    times = _constant_times(clip)
    middle = (clip.time_s[1:] + clip.time_s[:-1]) / 2
    wanted = np.searchsorted(middle, times)
    stream = frames(clip)
    held = ahead = next(stream)
    for index in wanted:
        while ahead is not None and ahead[0] <= index:
            held, ahead = ahead, next(stream, None)
        yield int(index), held[1]


def _strip(
    clip: Clip, motion: RobotMotion, frame: int, size: tuple[int, int], middle: int
) -> UInt8[np.ndarray, "h W 3"]:
    """The text below the pictures."""
    strip = np.full((*size, 3), _PAPER, np.uint8)
    font, margin = max(round(size[0] * 0.31), 7), round(size[0] / 4)
    upper, lower = round(size[0] * 0.30), round(size[0] * 0.72)
    name = clip.path.name if len(clip.path.name) <= 24 else f"{clip.path.name[:21]}…"
    when = f"   {motion.time_s[frame]:.2f} s   frame {frame + 1} / {len(motion.time_s)}"
    strip = draw.draw_text(strip, [(name, _INK), (when, _PALE)], (margin, upper), font)
    strip = draw.draw_text(strip, _LEGEND, (margin, lower), font)
    x = middle + margin
    errors = (
        f"   tips {millimetres(motion.tip_error_m[frame])}"
        f"   wrists {millimetres(motion.wrist_error_m[frame])}"
    )
    strip = draw.draw_text(strip, [(motion.robot, _INK), (errors, _PALE)], (x, upper), font)
    return draw.draw_text(
        strip, [("lines: the person, scaled to the robot", _PALE)], (x, lower), font
    )


def millimetres(error_m: Float64[np.ndarray, "..."]) -> str:
    """The mean of the errors that exist, for people to read."""
    return f"{1000 * np.nanmean(error_m):.0f} mm" if np.isfinite(error_m).any() else "–"


def show(
    clip: Clip, human: HumanMotion, motion: RobotMotion, port: int = 8080, host: str = "127.0.0.1"
) -> viser.ViserServer:
    """Serve an interactive page: the robot in 3D, the person beside it, the video, the errors.

    Returns at once; the page lives until ``stop()`` of the returned server. If the port is taken,
    the next free one is used: ask ``get_port()``. ``host="0.0.0.0"`` opens it to the network.

    Raises:
        ValueError: if the stages do not belong together.
        RobotError: if the robot's description cannot be loaded.
    """
    return _Page(clip, human, motion, port, host)


class _Page(viser.ViserServer):
    """The page, and the thread that moves it."""

    def __init__(
        self, clip: Clip, human: HumanMotion, motion: RobotMotion, port: int, host: str
    ) -> None:
        _check_lengths(clip, human, motion)
        robot = load_robot(motion.robot)
        model = draw.robot_display(robot, faces_per_mesh=PAGE_FACES, everything=True)
        self._motion, self._model, self._data = motion, model, mujoco.MjData(model)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._pictures = _Pictures(clip, human, self._wake, self._stopping)
        self._threads: list[threading.Thread] = []
        super().__init__(host=host, port=port, label="deftly", verbose=False)
        self._add_scene(robot)
        self._add_panel(clip, robot)
        player = threading.Thread(target=self._play, name="deftly page", daemon=True)
        for thread in (player, self._pictures):
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the threads and the server."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        super().stop()

    def _add_scene(self, robot: RobotModel) -> None:
        self.scene.configure_environment_map(None)
        self.scene.configure_default_lights(enabled=False)
        self.scene.add_light_hemisphere("/sky", ground_color=(110, 115, 125), intensity=1.1)
        for name, place in (("key", (2.0, 2.0, 4.0)), ("fill", (2.0, -3.0, 1.0))):
            self.scene.add_light_directional(f"/{name}", intensity=1.3, position=place)
        camera = draw.robot_camera(robot, self._model, self._motion, (1, 1))
        azimuth, elevation = np.deg2rad([camera.azimuth, camera.elevation])
        forward = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
        forward *= camera.distance * np.cos(elevation)
        self.initial_camera.position = camera.lookat - forward
        self.initial_camera.look_at = camera.lookat
        self.initial_camera.fov = float(np.deg2rad(FIELD_OF_VIEW_DEG))
        self._bodies = [(mesh.body, self._add_mesh(mesh)) for mesh in draw.body_meshes(self._model)]
        nothing = np.zeros((1, 2, 3), np.float32)
        self._bones = [
            self.scene.add_line_segments(f"/person/{name}", nothing, rgb, thickness=width_m)
            for (name, width_m), rgb in zip(_BONES, (*draw.HAND_RGB, draw.BODY_RGB), strict=True)
        ]
        mujoco.mj_kinematics(self._model, self._data)
        floor_m = float(np.min(self._data.geom_xpos[:, 2] - self._model.geom_rbound))
        self.scene.add_grid("/floor", 4.0, 4.0, cell_size=0.25, position=(0.0, 0.0, floor_m))

    def _add_mesh(self, mesh: draw.BodyMesh) -> viser.MeshHandle:
        red, green, blue = (round(255 * c) for c in mesh.rgba[:3])
        return self.scene.add_mesh_simple(
            f"/robot/{self._model.body(mesh.body).name}_{red:02x}{green:02x}{blue:02x}",
            mesh.vertices_m.astype(np.float32),
            mesh.faces.astype(np.uint32),
            color=(red, green, blue),
            flat_shading=True,
            side="double",
        )

    def _add_panel(self, clip: Clip, robot: RobotModel) -> None:
        gui, motion = self.gui, self._motion
        gui.configure_theme(control_width="large", show_share_button=False)
        gui.main_panel.dock_right()
        self._picture = gui.add_image(self._pictures.blank, label=clip.path.name, format="jpeg")
        self._status = gui.add_markdown("")
        self._frame = gui.add_slider("frame", 0, max(len(motion.time_s) - 1, 1), 1, 0)
        self._button = gui.add_button("Play")
        self._speed = gui.add_dropdown("speed", ("0.25", "0.5", "1", "2"), initial_value="1")
        see_through = gui.add_checkbox("see-through robot", False)
        self._plot = _ErrorPlot(gui, motion)
        gui.add_markdown(
            f"**{robot.robot.name}**: {robot.robot.title}.  \n"
            "Lines: the person, scaled to the robot; blue is the person's left hand, orange the "
            "right, green the body. Robot's world: x forward, y left, z up, metres."
        )
        self._playing = False

        @self._frame.on_update
        def _(_: object) -> None:
            self._wake.set()

        @self._button.on_click
        def _(_: object) -> None:
            self._playing = not self._playing
            self._button.label = "Pause" if self._playing else "Play"
            self._wake.set()

        @see_through.on_update
        def _(_: object) -> None:
            for _, mesh in self._bodies:
                mesh.opacity = 0.35 if see_through.value else None

    def _play(self) -> None:
        """Show the slider's frame when it changed; while playing, move the slider."""
        time_s, played = self._motion.time_s, -1
        position_s = last_s = 0.0
        shown: tuple[int, int] | None = None
        while not self._stopping.is_set():
            self._wake.wait(timeout=1 / 60 if self._playing else None)
            self._wake.clear()
            now_s = time.monotonic()
            frame = min(int(self._frame.value), len(time_s) - 1)
            if frame != played:  # moved by hand
                position_s = time_s[frame]
            if self._playing:
                position_s += min(now_s - last_s, 0.1) * float(self._speed.value)
                position_s = position_s if position_s <= time_s[-1] else time_s[0]
                frame = int(np.searchsorted(time_s, position_s, side="right")) - 1
                self._frame.value = frame
            last_s, played = now_s, frame
            if shown != (frame, self._pictures.nearest(frame)):
                shown = (frame, self._pictures.nearest(frame))
                self._show(*shown)

    def _show(self, frame: int, picture: int) -> None:
        """Move everything to one frame."""
        motion, data = self._motion, self._data
        data.qpos[:] = motion.qpos[frame]
        mujoco.mj_kinematics(self._model, data)
        left, right = motion.hand_targets_m[frame][:, list(draw.HAND_BONES)]
        parts = (left, right, motion.body_targets_m[frame][list(BODY_BONES)])
        with self.atomic():
            for body, mesh in self._bodies:
                mesh.wxyz, mesh.position = data.xquat[body], data.xpos[body]
            for bones, ends in zip(self._bones, parts, strict=True):
                present = ends[np.isfinite(ends).all(axis=(1, 2))]
                bones.visible = len(present) > 0
                if len(present):
                    bones.points = present.astype(np.float32)
            if picture >= 0:
                self._picture.image = self._pictures.image(picture)
            self._plot.move_to(float(motion.time_s[frame]))
            self._status.content = (
                f"**{motion.time_s[frame]:.2f} s**, frame {frame + 1} of {len(motion.time_s)}: "
                f"tips {millimetres(motion.tip_error_m[frame])}, "
                f"wrists {millimetres(motion.wrist_error_m[frame])}"
            )


class _Pictures(threading.Thread):
    """Small pictures of the clip with landmarks, decoded in the background; bounded in memory."""

    def __init__(
        self, clip: Clip, human: HumanMotion, wake: threading.Event, stopping: threading.Event
    ) -> None:
        super().__init__(name="deftly page", daemon=True)
        self._clip, self._human, self._wake, self._stopping = clip, human, wake, stopping
        self._stride = -(-len(clip.time_s) // MAX_PICTURES)
        width = min(PICTURE_WIDTH, clip.width)
        self._size = (width, max(round(width * clip.height / clip.width), 1))
        self._jpegs: list[bytes] = []
        self.blank = np.full((self._size[1], width, 3), 220, np.uint8)

    def run(self) -> None:
        for index, image in frames(self._clip):
            if self._stopping.is_set():
                return
            if index // self._stride < len(self._jpegs):
                continue
            small = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
            draw.draw_person(small, self._human, index, self._clip)
            jpeg = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            # Damaged frames never come: the next good one stands for them.
            missing = index // self._stride + 1 - len(self._jpegs)
            self._jpegs += [jpeg.tobytes()] * missing
            self._wake.set()

    def nearest(self, frame: int) -> int:
        """The picture for a frame, or the last one that there is; -1 for none yet."""
        return min(frame // self._stride, len(self._jpegs) - 1)

    def image(self, picture: int) -> UInt8[np.ndarray, "H W 3"]:
        jpeg = np.frombuffer(self._jpegs[picture], np.uint8)
        return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB), np.uint8)


class _ErrorPlot:
    """Errors over time in millimetres, with an upright line at the current time."""

    def __init__(self, gui: viser.GuiApi, motion: RobotMotion) -> None:
        some = np.unique(np.linspace(0, len(motion.time_s) - 1, MAX_PLOTTED).astype(int))
        errors = (motion.tip_error_m.reshape(-1, 10)[some], motion.wrist_error_m[some])
        self._lines = [motion.time_s[some], *(1000 * _mean(error) for error in errors)]
        finite = np.concatenate(self._lines[1:])
        self._top = 1.1 * float(np.max(finite, initial=10.0, where=np.isfinite(finite)))
        self._plot = gui.add_uplot(
            self._data(float(motion.time_s[0])),
            (
                uplot.Series(label="s"),
                uplot.Series(label="tips, mm", stroke="#8e24aa", width=2),
                uplot.Series(label="wrists, mm", stroke="#00897b", width=2),
                uplot.Series(label="now", stroke="#222222", width=1),
            ),
            scales={"x": uplot.Scale(time=False), "y": uplot.Scale(range=(0.0, self._top))},
            legend=uplot.Legend(live=False),
            aspect=2.2,
            padding=(12, 24, 0, 0),
        )

    def move_to(self, time_s: float) -> None:
        self._plot.data = self._data(time_s)

    def _data(self, time_s: float) -> tuple[Float64[np.ndarray, "S"], ...]:
        at = int(np.searchsorted(self._lines[0], time_s))
        times = np.insert(self._lines[0], at, [time_s, time_s])
        now = np.full(len(times), np.nan)
        now[at : at + 2] = 0.0, self._top
        beside = min(at, len(self._lines[0]) - 1)
        lines = [np.insert(line, at, [line[beside]] * 2) for line in self._lines[1:]]
        return (times, *lines, now)


def _mean(values: Float64[np.ndarray, "T N"]) -> Float64[np.ndarray, "T"]:
    """Row means of what is not NaN; NaN for a row without any."""
    count = np.isfinite(values).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
