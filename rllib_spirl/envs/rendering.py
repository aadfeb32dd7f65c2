"""Off-screen pictures of a MuJoCo scene, on machines without a screen."""

import atexit
import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rllib_spirl.envs.headless import BACKENDS, installed
from rllib_spirl.errors import UserError


def _unusable(backend: str, error: Exception) -> UserError:
    library, package = BACKENDS.get(backend, ("glfw", "libglfw3"))
    return UserError(
        f"Rendering with MUJOCO_GL={backend} failed ({type(error).__name__}: {error}); install lib{library} "
        f"(Debian/Ubuntu: apt-get install {package}) or choose another back end with MUJOCO_GL."
    )


try:
    import mujoco  # loads the back end that MUJOCO_GL names, so environments import mujoco from here
except (AttributeError, ImportError, RuntimeError) as error:
    if "MUJOCO_GL" in os.environ:
        raise _unusable(os.environ["MUJOCO_GL"], error) from error
    raise


def camera(settings: Mapping[str, Any]) -> mujoco.MjvCamera:
    """A camera with these of its attributes: ``lookat``, ``distance`` and so on."""
    made = mujoco.MjvCamera()
    for name, value in settings.items():
        setattr(made, name, value)
    return made


class OffscreenRenderer:
    """Renders uint8 (height, width, 3) pictures of one model.

    Uses the back end named in the environment variable MUJOCO_GL (egl, osmesa or glfw), else EGL or OSMesa,
    whichever is installed.

    Raises:
        UserError: No OpenGL back end works; names the system package to install.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, camera: mujoco.MjvCamera) -> None:
        backend = _backend()
        try:
            module = importlib.import_module(f"mujoco.{backend}")
            self._gl = module.GLContext(width, height)
            self._gl.make_current()
            # MjrContext takes the size of its picture buffer from the model.
            model.vis.global_.offwidth, model.vis.global_.offheight = width, height
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each back end fails in its own way: AttributeError, ImportError, RuntimeError, ...
            raise _unusable(backend, error) from error
        atexit.register(self.close)  # a context freed later than that prints errors
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._model, self._camera = model, camera
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._options, self._view = mujoco.MjvOption(), mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """One picture, (height, width, 3) uint8, of the state in ``data`` (whose positions are up to date)."""
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._view, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._view, self._context)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        """Free the OpenGL context. The renderer cannot be used afterwards."""
        atexit.unregister(self.close)
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _backend() -> str:
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in (*BACKENDS, "glfw"):
        return chosen
    if chosen:
        raise UserError(f"MUJOCO_GL={chosen} is no back end; set it to egl, osmesa or glfw, or unset it.")
    if found := installed():
        return found
    raise UserError(
        "Rendering needs EGL or OSMesa and neither is installed; "
        "on Debian/Ubuntu: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)."
    )
