"""Kinematics of a serial arm in closed form, for any number of joint positions at once."""

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.rendering import mujoco

Array = NDArray[np.float64]
_NEXT, _LAST = [1, 2, 0], [2, 0, 1]


def cross(a: Array, b: Array) -> Array:
    """Cross products of vectors (..., 3); NumPy's own takes several times as long on a few of them."""
    return a[..., _NEXT] * b[..., _LAST] - a[..., _LAST] * b[..., _NEXT]


def hand(yaw: float, pitch: float, roll: float = 0.0) -> Array:
    """Orientation (3, 3) of a hand that points forward (+y), turned by yaw (left), pitch (down), and roll.

    Columns: the hand's up, the direction in which the fingers open (horizontal without roll), and where it points.
    """
    opening = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    pointing = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    up = cross(opening, pointing)
    opening = np.cos(roll) * opening + np.sin(roll) * up
    return np.stack((cross(opening, pointing), opening, pointing), axis=1)


class SerialArm:
    """The pose of a point of the hand as a product of exponentials, read once from a model of hinge joints.

    With all joints at the model's reference, joint i turns about a line in the world with direction a_i through p_i.
    At joints q the hand is at T_1(q_1) ... T_n(q_n) M: T_i turns about that line by q_i, and M is the hand's pose at
    the reference. Arguments may have leading axes, "...", which the results have too.

    Args:
        model: Its first ``joints`` joints are hinges, one after the other from the world to the hand.
        site: Of the hand; its axes are those of the pose.
        joints: How many.
        offset: Of the point from the site, along the site's third axis, in metres.
    """

    def __init__(self, model: mujoco.MjModel, site: str, joints: int, offset: float) -> None:
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        axes, anchors = data.xaxis[:joints].copy(), data.xanchor[:joints]
        self._reference = model.qpos0[:joints].copy()
        self._hand = np.eye(4)
        self._hand[:3, :3] = data.site(site).xmat.reshape(3, 3)
        self._hand[:3, 3] = data.site(site).xpos + offset * self._hand[:3, 2]
        # Rodrigues' formula: a turn is still + cos(angle) * even + sin(angle) * odd.
        along = axes[:, :, None] * axes[:, None, :]
        turns = np.zeros((3, joints, 4, 4))
        turns[:, :, :3, :3] = along, np.eye(3) - along, np.cross(axes[:, None, :], np.eye(3)).swapaxes(1, 2)
        turns[:, :, :3, 3] = -np.einsum("knij,nj->kni", turns[:, :, :3, :3], anchors)
        turns[0, :, :3, 3] += anchors
        turns[0, :, 3, 3] = 1.0
        self._still, self._even, self._odd = turns
        self._lines = np.zeros((joints, 4, 2))
        self._lines[:, :3, 0], self._lines[:, :3, 1], self._lines[:, 3, 1] = axes, anchors, 1.0

    def pose(self, q: Array) -> tuple[Array, Array]:
        """Where the point is (..., 3), and the orientation (..., 3, 3), at joints (..., n)."""
        point, turn, _ = self._chain(q)
        return point, turn

    def jacobian(self, q: Array) -> tuple[Array, Array, Array]:
        """The pose as from `pose`, and the velocity (..., 6, n), first linear and then angular, per joint velocity."""
        point, turn, frames = self._chain(q)
        lines = frames @ self._lines
        axes = lines[..., :3, 0]
        linear = cross(axes, point[..., None, :] - lines[..., :3, 1])
        return point, turn, np.concatenate((linear, axes), axis=-1).swapaxes(-1, -2)

    def _chain(self, q: Array) -> tuple[Array, Array, Array]:
        """Point, orientation, and T_1 ... T_i (..., n, 4, 4) for each joint i; T_i leaves its line in place."""
        angle = (q - self._reference)[..., None, None]
        frames = self._still + np.cos(angle) * self._even + np.sin(angle) * self._odd
        for i in range(1, frames.shape[-3]):
            frames[..., i, :, :] = frames[..., i - 1, :, :] @ frames[..., i, :, :]
        hand = frames[..., -1, :, :] @ self._hand
        return hand[..., :3, 3], hand[..., :3, :3], frames
