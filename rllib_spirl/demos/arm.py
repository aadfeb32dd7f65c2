"""Controls the kitchen's arm: inverse kinematics, and actions that make the joints go where they should in one step.

Lengths in metres, angles in radians, world frame of the scene. The tool point lies between the finger tips.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from rllib_spirl.demos.kinematics import Array, SerialArm, cross
from rllib_spirl.envs.kitchen import SUBSTEPS, KitchenEnv
from rllib_spirl.envs.rendering import mujoco

OPEN, CLOSED = 1.0, -1.0
Pose = tuple[Array, Array]  # tool point (3,) and orientation (3, 3)
Motion = Iterator[tuple[Array, float]]  # wanted arm joints (7,) after the step, fingers OPEN or CLOSED

_STEP = 0.08  # seconds
_TOOL_OFFSET = 0.035  # tool point, along the hand's axis from the model's end_effector site
_REST = np.array([-0.9, -1.25, 1.6, -2.2, 0.1, 1.3, 1.2])
_FASTEST = np.array([0.080, 0.066, 0.072, 0.080, 0.100, 0.100, 0.100])  # rad a step that the servos reach
_DAMPING = 1e-4 * np.eye(6)
_WEIGHTS = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])  # of translation and rotation
_CLEARANCE = 0.02
_DETOURED = 3  # poses for which way-points are tried
_COLLISION_COST = 150.0  # steps per metre of intrusion, at each second step
_MISS_COST = 300.0  # steps per metre
# From half-way between here and there, for way-points around obstacles: nearer the robot, lower, higher, to the sides.
_DETOURS = np.array([(0, -1, 0), (0, -2, 0), (0, -3, 0), (0, -1, 1.2), (0, 0, 2), (0, -1, -1.2), (0, -2, -2)]) / 10
_DETOURS = np.concatenate((_DETOURS, np.array([(-12, -10, 0), (12, -10, 0), (12, -20, -15)]) / 100))
_MARGIN = 0.02  # kept from joint limits


def hand(yaw: float, pitch: float, roll: float = 0.0) -> Array:
    """Orientation (3, 3) of a hand that points forward (+y), turned by yaw (left), pitch (down), and roll.

    Columns: the hand's up, the direction in which the fingers open (horizontal without roll), and where it points.
    """
    opening = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    pointing = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    up = cross(opening, pointing)
    opening = np.cos(roll) * opening + np.sin(roll) * up
    return np.stack((cross(opening, pointing), opening, pointing), axis=1)


@functools.cache
def _widened(model: mujoco.MjModel) -> mujoco.MjModel:
    """The model for planning: contacts are those of the robot with other things, from CLEARANCE on."""
    wide = copy.copy(model)
    robot = np.array([model.body(body).name.startswith("panda0_") for body in model.geom_bodyid])
    wide.geom_margin[robot] = _CLEARANCE
    wide.geom_contype[:], wide.geom_conaffinity[:] = robot, ~robot
    return wide


@functools.cache
def _kinematics(model: mujoco.MjModel) -> SerialArm:
    return SerialArm(model, "end_effector", joints=7, offset=_TOOL_OFFSET)


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
        self._kinematics = _kinematics(model)
        self._wide = _widened(model)
        self._wide_data = mujoco.MjData(self._wide)
        self._ctrl_step = 2.0 * model.opt.timestep * SUBSTEPS

    @property
    def joints(self) -> Array:
        return self.data.qpos[:7].copy()

    @property
    def tool(self) -> Array:
        """Where the tool point is, (3,)."""
        return self._kinematics.pose(self.data.qpos[:7])[0]

    def action(self, wanted: Array, fingers: float) -> Array:
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

    def approach(self, options: Sequence[Sequence[Pose]], fingers: float) -> Generator[tuple[Array, float], None, int]:
        """Go to the first pose of one of the options, which is to be followed by its other poses.

        Takes the option, and the way-point to it, that cost the fewest steps and collisions; returns its index.
        Collisions count as far as the second pose, after which things are moved.
        """
        start = self.joints
        points, turns = (np.array([[pose[i] for pose in poses] for poses in options] * 2) for i in range(2))
        q = np.repeat([start, _REST], len(options), axis=0)
        stops, missed = [np.broadcast_to(start, q.shape)], 0.0
        for point, turn in zip(points.swapaxes(0, 1), turns.swapaxes(0, 1), strict=True):
            q = self.solve(point, turn, q, pulls=5 if len(stops) > 1 else 25)
            stops.append(q)
            missed = missed + self._missed(q, point, turn)
        ways = np.stack(stops, axis=1)
        costs = self._steps(ways) + missed + [self._collisions(way, np.inf) for way in ways[:, 1:3]]
        best, chosen = self._cheapest(ways[:, :2], costs, np.inf)
        route = ways[chosen, 1:2]
        hindered = [i for i in np.argsort(costs)[:_DETOURED] if costs[i] + 1.0 < best]
        if hindered:
            which = np.repeat(hindered, len(_DETOURS))
            offsets = np.tile(_DETOURS, (len(hindered), 1))
            via = self.solve(
                (self.tool + points[which, 0]) / 2 + offsets, turns[which, 0], ways[which, :2].mean(1), pulls=8
            )
            longer = np.insert(ways[which, :2], 1, via, axis=1)
            extra = self._steps(longer) - self._steps(ways[which, :2])
            best, i = self._cheapest(longer, costs[which] + extra, best)
            if i is not None:
                chosen, route = which[i], longer[i, 1:]
        for way_point in route[:-1]:
            yield from self._go(way_point, fingers, tolerance=2.0)
        yield from self._go(route[-1], fingers, tolerance=1.0)
        return chosen % len(options)

    def _cheapest(self, ways: Array, costs: Array, best: float) -> tuple[float, int | None]:
        """The least of ``costs`` (W,) plus collisions along ``ways`` (W, stops, 7), and whose it is.

        ``best`` and None if none is less than that. In order of costs, so that few ways are searched for collisions,
        which takes the longest.
        """
        chosen = None
        for i in np.argsort(costs):
            if costs[i] >= best:
                break
            cost = costs[i] + self._collisions(ways[i], best - costs[i])
            if cost < best:
                best, chosen = cost, int(i)
        return best, chosen

    def _go(self, goal: Array, fingers: float, tolerance: float) -> Motion:
        """Straight in joint space until ``tolerance`` steps before the goal, or until the arm is stuck."""
        past: list[float] = []
        for _ in range(80):
            rest = goal - self.joints
            steps = float(np.max(np.abs(rest) / self._fastest))
            past.append(steps)
            if steps < tolerance or (len(past) > 6 and past[-7] - steps < 0.5):
                return
            yield self.joints + rest / max(steps, 1.0), fingers

    def _missed(self, q: Array, position: Array, orientation: Array) -> Array:
        """Costs (...), in steps, of poses that joints ``q`` (..., 7) do not quite reach."""
        point, turn = self._kinematics.pose(q)
        far = np.linalg.norm(position - point, axis=-1) + 0.1 * np.linalg.norm(orientation - turn, axis=(-2, -1))
        return _MISS_COST * far

    def _steps(self, ways: Array) -> Array:
        """How many steps ways (..., stops, 7) take (...)."""
        return (np.abs(np.diff(ways, axis=-2)) / self._fastest).max(-1).sum(-1)

    def _collisions(self, way: Array, limit: float) -> float:
        """Cost, in steps, of coming too near to things on a way (stops, 7), straight between stops.

        Of a way that costs more than ``limit`` only the first part counts.
        """
        model, data, total = self._wide, self._wide_data, 0.0
        data.qpos[:] = self.data.qpos
        for a, b in itertools.pairwise(way):
            count = int(np.ceil(self._steps(np.stack((a, b))) / 2)) + 1
            for part in np.linspace(0, 1, count)[1:]:
                data.qpos[:7] = a + part * (b - a)
                mujoco.mj_kinematics(model, data)
                mujoco.mj_collision(model, data)
                total += _COLLISION_COST * float((_CLEARANCE - data.contact.dist).sum())
                if total > limit:
                    return total
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

    def solve(self, position: Array, orientation: Array, start: Array, pulls: int = 25) -> Array:
        """Joints (..., 7) for tool poses (..., 3) and (..., 3, 3), near those of ``start`` (..., 7).

        Those of the nearest pose found if it is out of reach. The first ``pulls`` iterations also approach the rest
        posture.
        """
        q = start
        for i in range(pulls + 8):
            dq = self._differential(q, position, orientation, reach=0.15, turn=0.6, pull=0.1 if i < pulls else 0.0)
            q = q + dq
            if i >= pulls and np.abs(dq).max() < 1e-3:
                break
        return q

    def _differential(
        self, q: Array, position: Array, orientation: Array, reach: float, turn: float, pull: float
    ) -> Array:
        """Damped least squares steps (..., 7) towards poses, with what freedom is left going to the rest posture."""
        point, now, jacobian = self._kinematics.jacobian(q)
        between = orientation @ now.swapaxes(-1, -2)
        rotation = 0.5 * (between[..., [2, 0, 1], [1, 2, 0]] - between[..., [1, 2, 0], [2, 0, 1]])
        error = np.concatenate((_at_most(reach, position - point), _at_most(turn, rotation)), axis=-1) * _WEIGHTS
        jacobian *= _WEIGHTS[:, None]
        low, high = self._low - q, self._high - q
        free, j = np.ones(q.shape, bool), jacobian
        given = pull * (_REST - q)  # the freedom that is left, and what the joints that stopped at a limit still move
        for _ in range(3):
            transpose = j.swapaxes(-1, -2)
            rest = error[..., None] - jacobian @ given[..., None]
            wanted = given + (transpose @ np.linalg.solve(j @ transpose + _DAMPING, rest))[..., 0]
            dq = np.minimum(np.maximum(wanted, low), high)
            outside = free & (dq != wanted)
            if not outside.any():
                break
            given = np.where(outside, dq, given)
            free &= ~outside
            j = jacobian * free[..., None, :]
        return dq


def _at_most(length: float, vectors: Array) -> Array:
    """Vectors (..., 3), the longer ones shortened."""
    return vectors * np.minimum(1.0, length / (np.sqrt((vectors * vectors).sum(-1, keepdims=True)) + 1e-9))
