"""Which of MuJoCo's ways to draw pictures without a screen there is on this machine."""

import ctypes.util
import os
import sys

# MUJOCO_GL value -> (shared library it needs, system package that brings it)
BACKENDS = {"egl": ("EGL", "libegl1"), "osmesa": ("OSMesa", "libosmesa6")}


def installed() -> str | None:
    """The first back end whose library is there."""
    return next((name for name, (library, _) in BACKENDS.items() if ctypes.util.find_library(library)), None)


def prepare() -> None:
    """On a machine without a screen, set MUJOCO_GL to a back end that is installed, unless it is set.

    Gymnasium's own MuJoCo environments want a screen otherwise. They look at it when they draw their first picture.
    """
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not screen and "MUJOCO_GL" not in os.environ and (found := installed()):
        os.environ["MUJOCO_GL"] = found
