"""Controls the kitchen's arm: inverse kinematics, and actions that make the joints go where they should in one step.

Lengths in metres, angles in radians, world frame of the scene. The tool point lies between the finger tips.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.kitchen import SUBSTEPS, KitchenEnv
from rllib_spirl.envs.rendering import mujoco

OPEN, CLOSED = 1.0, -1.0
Pose = tuple[NDArray[np.float64], NDArray[np.float64]]  # tool point (3,) and orientation (3, 3)
Motion = Iterator[tuple[NDArray[np.float64], float]]  # wanted arm joints (7,) after the step, fingers OPEN or CLOSED

_STEP = 0.08  # seconds
_TOOL_OFFSET = 0.035  # tool point, along the hand's axis from the model's end_effector site
_REST = np.array([-0.9, -1.25, 1.6, -2.2, 0.1, 1.3, 1.2])
_FASTEST = np.array([0.080, 0.066, 0.072, 0.080, 0.100, 0.100, 0.100])  # rad a step that the servos reach
_DAMPING, _ROTATION_WEIGHT = 1e-4, 0.3
_CLEARANCE = 0.02
_COLLISION_COST = 150.0  # steps per metre of intrusion, at each second step
_MISS_COST = 300.0  # steps per metre
# From half-way between here and there, for way-points around obstacles: nearer the robot, lower, higher, to the sides.
_DETOURS = np.array([(0, -1, 0), (0, -2, 0), (0, -3, 0), (0, -1, 1.2), (0, 0, 2), (0, -1, -1.2), (0, -2, -2)]) / 10
_DETOURS = np.concatenate((_DETOURS, np.array([(-12, -10, 0), (12, -10, 0), (12, -20, -15)]) / 100))
_MARGIN = 0.02  # kept from joint limits


def hand(yaw: float, pitch: float, roll: float = 0.0) -> NDArray[np.float64]:
    """Orientation (3, 3) of a hand that points forward (+y), turned by yaw (left), pitch (down), and roll.

    Columns: the hand's up, the direction in which the fingers open (horizontal without roll), and where it points.
    """
    opening = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    pointing = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    up = np.cross(opening, pointing)
    opening = np.cos(roll) * opening + np.sin(roll) * up
    return np.stack((np.cross(opening, pointing), opening, pointing), axis=1)


def _robot_geoms(model: mujoco.MjModel) -> NDArray[np.bool_]:
    return np.array([model.body(body).name.startswith("panda0_") for body in model.geom_bodyid])


@functools.cache
def _widened(model: mujoco.MjModel) -> mujoco.MjModel:
    """The model for planning: the robot's geoms report contacts from CLEARANCE on."""
    wide = copy.copy(model)
    wide.geom_margin[_robot_geoms(model)] = _CLEARANCE
    return wide


class Arm:
    """The arm of one KitchenEnv. ``pace`` scales free motions; 1 is as fast as the servos allow."""

    def __init__(self, env: KitchenEnv, pace: float) -> None:
        model = env.model
        self.data, self._env, self._model = env.data, env, model
        self._fastest = _FASTEST * pace
        self._low = np.maximum(model.jnt_range[:7, 0], [-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9]) + _MARGIN
        self._high = np.minimum(model.jnt_range[:7, 1], [2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9]) - _MARGIN
        self._gain, self._damping = model.actuator_gainprm[:7, 0], model.dof_damping[:7]
        self._inertia_index = (model.M_rowadr + model.M_rownnz - 1)[:7]  # diagonal of the mass matrix
        self._site = model.site("end_effector").id
        self._body = model.site_bodyid[self._site]
        self._scratch = mujoco.MjData(model)
        self._wide = _widened(model)
        self._wide_data = mujoco.MjData(self._wide)
        self._is_robot = _robot_geoms(model)
        self._jacobian = np.zeros((2, 3, model.nv))
        self._ctrl_step = 2.0 * model.opt.timestep * SUBSTEPS

    @property
    def joints(self) -> NDArray[np.float64]:
        return self.data.qpos[:7].copy()

    @property
    def tool(self) -> NDArray[np.float64]:
        """Where the tool point is, (3,)."""
        return self._forward(self.data.qpos[:7])[0]

    def action(self, wanted: NDArray[np.float64], fingers: float) -> NDArray[np.float64]:
        """The action (9,) after which the joints are at ``wanted`` (7,): the servos' response inverted, joint by joint.

        Each servo with its joint's inertia and damping is a linear system of second order with two real decay rates;
        gravity shifts its target, and the target starts from the observed position, noise included.
        """
        q, velocity = self.data.qpos[:7], self.data.qvel[:7]
        inertia = self.data.M[self._inertia_index]
        root = np.sqrt(np.maximum(self._damping**2 - 4 * inertia * self._gain, 1e-6))
        slow, quick = (-self._damping + root) / (2 * inertia), (-self._damping - root) / (2 * inertia)
        e_slow, e_quick = np.exp(slow * _STEP), np.exp(quick * _STEP)
        stay = (slow * e_quick - quick * e_slow) / (slow - quick)
        drift = (e_slow - e_quick) / (slow - quick)
        target = (wanted - stay * q - drift * velocity) / (1 - stay) + self.data.qfrc_bias[:7] / self._gain
        return np.append((target - self._env.observed_joints[:7]) / self._ctrl_step, (fingers, fingers))

    def approach(
        self, options: Sequence[Sequence[Pose]], fingers: float
    ) -> Generator[tuple[NDArray[np.float64], float], None, int]:
        """Go to the first pose of one of the options, which is to be followed by its other poses.

        Takes the option, and the way-point to it, that cost the fewest steps and collisions; returns its index.
        Collisions count as far as the second pose, after which things are moved.
        """
        start = self.joints
        ranked = []
        for (index, poses), seed in itertools.product(enumerate(options), (start, _REST)):
            stops = [seed]
            for position, orientation in poses:
                stops.append(self.solve(position, orientation, stops[-1]))
            stops[0] = start
            after = self._steps(stops[1:]) + self._collisions(stops[1:3])
            after += sum(self._missed(q, *pose) for q, pose in zip(stops[1:], poses, strict=True))
            ranked.append((self._steps(stops[:2]) + self._collisions(stops[:2]) + after, after, index, stops[1]))
        ranked.sort(key=lambda r: r[0])
        best, chosen, route = ranked[0][0], ranked[0][2], [ranked[0][3]]
        tool = self._forward(start)[0]
        for _, after, index, goal in ranked[:2]:
            position, orientation = options[index][0]
            if best < 1.0 + self._steps([start, goal]) + after:
                continue
            for offset in _DETOURS:
                via = self.solve((tool + position) / 2 + offset, orientation, (start + goal) / 2)
                cost = self._steps([start, via, goal]) + self._collisions([start, via, goal]) + after
                if cost < best:
                    best, chosen, route = cost, index, [via, goal]
        for goal in route:
            yield from self._go(goal, fingers, 1.0 if goal is route[-1] else 2.0)
        return chosen

    def _go(self, goal: NDArray[np.float64], fingers: float, tolerance: float) -> Motion:
        """Straight in joint space until ``tolerance`` steps before the goal, or until the arm is stuck."""
        past: list[float] = []
        for _ in range(80):
            rest = goal - self.joints
            steps = float(np.max(np.abs(rest) / self._fastest))
            past.append(steps)
            if steps < tolerance or (len(past) > 6 and past[-7] - steps < 0.5):
                return
            yield self.joints + rest / max(steps, 1.0), fingers

    def _missed(self, q: NDArray[np.float64], position: NDArray[np.float64], orientation: NDArray[np.float64]) -> float:
        """Cost, in steps, of a pose that joints ``q`` do not quite reach."""
        point, turn = self._forward(q)
        return float(_MISS_COST * (np.linalg.norm(position - point) + 0.1 * np.linalg.norm(orientation - turn)))

    def _steps(self, stops: Sequence[NDArray[np.float64]]) -> float:
        return sum(float(np.max(np.abs(b - a) / self._fastest)) for a, b in itertools.pairwise(stops))

    def _collisions(self, stops: Sequence[NDArray[np.float64]]) -> float:
        """Cost, in steps, of coming too near to things on the straight ways between joint positions."""
        model, data, total = self._wide, self._wide_data, 0.0
        data.qpos[:] = self.data.qpos
        for a, b in itertools.pairwise(stops):
            count = int(np.ceil(self._steps([a, b]) / 2)) + 1
            for part in np.linspace(0, 1, count)[1:]:
                data.qpos[:7] = a + part * (b - a)
                mujoco.mj_kinematics(model, data)
                mujoco.mj_collision(model, data)
                if not data.ncon:
                    continue
                contact = data.contact
                robot = self._is_robot[contact.geom]
                allowed = np.where(robot.all(1), 0.0, _CLEARANCE)
                total += _COLLISION_COST * (np.maximum(allowed - contact.dist, 0.0) * robot.any(1)).sum()
        return total

    def follow(
        self,
        path: Callable[[], Pose | None],
        fingers: float | Callable[[], float],
        speed: float,
        hurry: float = 0.9,
        steps: int = 60,
    ) -> Motion:
        """Chase the pose that ``path`` gives each step with the tool, until it gives None.

        The tool moves at most at ``speed`` m/s and the joints at the fraction ``hurry`` of the free pace.
        """
        for _ in range(steps):
            pose = path()
            if pose is None:
                return
            dq = self._differential(self.joints, *pose, reach=speed * _STEP, turn=2.5 * _STEP, pull=0.02)
            yield (
                self.joints + dq / max(1.0, np.max(np.abs(dq) / (hurry * self._fastest))),
                fingers() if callable(fingers) else fingers,
            )

    def solve(
        self, position: NDArray[np.float64], orientation: NDArray[np.float64], start: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Joints (7,) for a tool pose, near those of ``start``; the nearest pose found if it is out of reach."""
        q = start
        for i in range(60):
            dq = self._differential(q, position, orientation, reach=0.15, turn=0.6, pull=0.1 if i < 25 else 0.0)
            q = q + dq
            if i > 25 and np.abs(dq).max() < 1e-3:
                break
        return q

    def _forward(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        self._scratch.qpos[:7] = q
        mujoco.mj_kinematics(self._model, self._scratch)
        turn = self._scratch.site_xmat[self._site].reshape(3, 3)
        return self._scratch.site_xpos[self._site] + _TOOL_OFFSET * turn[:, 2], turn

    def _differential(
        self,
        q: NDArray[np.float64],
        position: NDArray[np.float64],
        orientation: NDArray[np.float64],
        reach: float,
        turn: float,
        pull: float,
    ) -> NDArray[np.float64]:
        """Damped least squares step (7,) towards a pose, with what freedom is left going to the rest posture."""
        point, now = self._forward(q)
        mujoco.mj_comPos(self._model, self._scratch)
        mujoco.mj_jac(self._model, self._scratch, self._jacobian[0], self._jacobian[1], point, self._body)
        shift = position - point
        shift *= min(1.0, reach / float(np.linalg.norm(shift) + 1e-9))
        rotation = 0.5 * np.cross(now.T, orientation.T).sum(0)
        rotation *= min(1.0, turn / float(np.linalg.norm(rotation) + 1e-9))
        error = np.concatenate((shift, _ROTATION_WEIGHT * rotation))
        jacobian = np.concatenate((self._jacobian[0, :, :7], _ROTATION_WEIGHT * self._jacobian[1, :, :7]))
        free = np.ones(7, bool)
        fixed = np.zeros(7)  # what the joints that stopped at a limit still move
        for _ in range(3):
            j = jacobian * free
            inverse = j.T @ np.linalg.inv(j @ j.T + _DAMPING * np.eye(6))
            away = pull * (_REST - q) * free
            dq = fixed + inverse @ (error - jacobian @ fixed) + away - inverse @ (j @ away)
            outside = free & ((q + dq < self._low) | (q + dq > self._high))
            if not outside.any():
                break
            fixed[outside] = np.clip(q + dq, self._low, self._high)[outside] - q[outside]
            free &= ~outside
        return np.clip(q + dq, self._low, self._high) - q
