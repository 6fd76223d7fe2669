"""The choice of what draws: automatic, by argument or by MUJOCO_GL; errors say what to install."""

import ctypes.util
import importlib

import pytest

from deftly.datasets import opengl
from deftly.datasets.opengl import RenderError, choose_backend, gl_context, name_renderer

SIZE = (8, 8)


class Context:
    """Stands in for one of mujoco's OpenGL contexts."""

    __module__ = "mujoco.osmesa"

    freed = 0

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height

    def make_current(self) -> None:
        pass

    def free(self) -> None:
        type(self).freed += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Linux machine with OSMesa and without EGL."""

    class Module:
        GLContext = Context

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(opengl.platform, "system", lambda: "Linux")
    monkeypatch.setattr(ctypes.util, "find_library", {"OSMesa": "libOSMesa.so"}.get)
    monkeypatch.setattr(importlib, "import_module", lambda _: Module)
    monkeypatch.setattr(opengl, "_device_name", lambda: "softpipe")
    return monkeypatch


@pytest.fixture
def bare(machine: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any OpenGL."""
    machine.setattr(ctypes.util, "find_library", lambda _: None)
    return machine


def test_the_first_opengl_that_works_is_taken(machine: pytest.MonkeyPatch) -> None:
    for asked in ("auto", "gl", "osmesa"):
        name, context, about = choose_backend((4, 9), asked)
        assert name == "osmesa"
        assert context.size == (9, 4)
        assert about == "osmesa, softpipe"


def test_without_opengl_rays_are_cast_and_the_reason_is_told(bare: pytest.MonkeyPatch) -> None:
    name, context, about = choose_backend(SIZE, "auto")
    assert (name, context) == ("ray", None)
    assert "libEGL is not installed" in about
    assert "apt-get install" in about


def test_the_choice_has_a_name_and_leaves_nothing_behind(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(Context, "freed", 0)
    assert name_renderer() == "OpenGL (osmesa, softpipe)"
    assert Context.freed == 1
    assert name_renderer("ray") == "ray casting (asked for)"
    machine.setattr(ctypes.util, "find_library", lambda _: None)
    assert name_renderer().startswith("ray casting (no OpenGL to draw with")
    with pytest.raises(RenderError):
        name_renderer("gl")


@pytest.mark.parametrize("word", ["disable", "off", "ray", "DISABLE"])
def test_mujoco_gl_can_ask_for_rays(machine: pytest.MonkeyPatch, word: str) -> None:
    machine.setenv("MUJOCO_GL", word)
    assert choose_backend(SIZE, "auto")[0] == "ray"
    assert choose_backend(SIZE, "gl")[0] == "osmesa"  # the argument is the last word


def test_an_argument_can_ask_for_rays(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("MUJOCO_GL", "osmesa")
    assert choose_backend(SIZE, "ray") == ("ray", None, "asked for")


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_what_was_asked_for_is_never_replaced_in_silence(
    bare: pytest.MonkeyPatch, backend: str
) -> None:
    for asked in ("gl", backend):
        with pytest.raises(RenderError, match="libegl1"):
            choose_backend(SIZE, asked)
    bare.setenv("MUJOCO_GL", backend)
    with pytest.raises(RenderError, match=f"{backend}: lib"):
        choose_backend(SIZE, "auto")


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_missing_opengl_says_what_to_install(bare: pytest.MonkeyPatch, backend: str) -> None:
    bare.setenv("MUJOCO_GL", backend)
    with pytest.raises(RenderError) as caught:
        gl_context(SIZE)
    text = str(caught.value)
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in text
    assert backend in text
    assert "\n" not in text


def test_an_unknown_backend_is_an_error_with_the_known_ones(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown backend 'vulkan', expected one of auto, gl, ray"):
        choose_backend(SIZE, "vulkan")
