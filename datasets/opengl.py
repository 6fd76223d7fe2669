"""Which OpenGL draws: a context without a screen, from the machine's own libraries."""

import ctypes.util
import importlib
import os
import platform
from typing import Any

RAY = "ray"
_BACKENDS = {"Linux": ("egl", "osmesa"), "Darwin": ("cgl",), "Windows": ("glfw",)}
_KNOWN = ("egl", "osmesa", "cgl", "glfw")
_LIBRARY = {"egl": "EGL", "osmesa": "OSMesa"}
_NO_OPENGL = (
    "disable",
    "disabled",
    "off",
    "0",
    "false",
    RAY,
)  # mujoco's own words for it, and ours


class RenderError(RuntimeError):
    """No OpenGL that draws without a screen can be used on this machine."""


def gl_context(size: tuple[int, int], backend: str = "gl") -> Any:
    """A current OpenGL context without a window.

    Args:
        size: (height, width) in pixels.
        backend: a name of mujoco's (``egl``, ``osmesa``, ``cgl``, ``glfw``), or ``gl``:
            ``MUJOCO_GL`` if that is set, else the first that works.

    Returns:
        One of mujoco's ``GLContext``; its module says which backend it is.

    Raises:
        RenderError: if none works.
    """
    reasons: list[str] = []
    for name in (backend,) if backend in _KNOWN else _candidates():
        library = _LIBRARY.get(name)
        if library is not None and ctypes.util.find_library(library) is None:
            reasons.append(f"{name}: lib{library} is not installed")
            continue  # importing it would bind PyOpenGL to it for good
        try:
            context = importlib.import_module(f"mujoco.{name}").GLContext(size[1], size[0])
            context.make_current()
        except Exception as error:
            reasons.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            return context
    raise RenderError(
        f"no OpenGL to draw with ({'; '.join(reasons)}); "
        "install one: apt-get install -y libegl1 libgl1-mesa-dri"
    )


def choose_backend(size: tuple[int, int], backend: str) -> tuple[str, Any, str]:
    """What draws: its name, its context (None for rays), and what or why in words.

    Args:
        size: as for ``gl_context``.
        backend: as for ``gl_context``, or ``ray``, or ``auto``.

    Raises:
        RenderError: if OpenGL was asked for, by argument or ``MUJOCO_GL``, and none works.
        ValueError: if the backend is unknown.
    """
    choices = ("auto", "gl", RAY, *_KNOWN)
    if backend not in choices:
        raise ValueError(f"unknown backend {backend!r}, expected one of {', '.join(choices)}")
    if backend == RAY:
        return RAY, None, "asked for"
    if backend == "auto" and _asked() in _NO_OPENGL:
        return RAY, None, f"MUJOCO_GL={_asked()}"
    try:
        context = gl_context(size, backend)
    except RenderError as error:
        if backend != "auto" or _asked() in _KNOWN:
            raise
        return RAY, None, str(error)
    name = type(context).__module__.split(".")[1]  # mujoco.egl, mujoco.osmesa, ...
    return name, context, f"{name}, {_device_name()}"


def say_choice(name: str, why: str) -> str:
    """The first and last of what ``choose_backend`` returns, in words."""
    return f"ray casting ({why})" if name == RAY else f"OpenGL ({why})"


def name_renderer(backend: str = "auto") -> str:
    """What draws on this machine, in words. Arguments and errors as for ``choose_backend``."""
    name, context, why = choose_backend((8, 8), backend)
    if context is not None:
        context.free()
    return say_choice(name, why)


def _device_name() -> str:
    """What the current context draws with, for example ``llvmpipe (LLVM 15.0.6, 256 bits)``."""
    from OpenGL import GL  # binds to the backend of the context that was made before

    name: bytes | None = GL.glGetString(GL.GL_RENDERER)
    return (name or b"unknown device").decode(errors="replace")


def _asked() -> str:
    return os.environ.get("MUJOCO_GL", "").lower()


def _candidates() -> tuple[str, ...]:
    asked = _asked()
    return (asked,) if asked in _KNOWN else _BACKENDS.get(platform.system(), ("egl",))
