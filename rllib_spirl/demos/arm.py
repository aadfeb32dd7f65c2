"""Controls the kitchen's arm: inverse kinematics, and actions that make the joints go where they should in one step.

Lengths in metres, angles in radians, world frame of the scene. The tool point lies between the finger tips.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from rllib_spirl.demos.kinematics import Array, SerialArm
from rllib_spirl.envs.kitchen import CTRL_HIGH, CTRL_LOW, SUBSTEPS, KitchenEnv
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
        self.data, self._env = env.data, env
        self._fastest = _FASTEST * pace
        self._low = np.maximum(model.jnt_range[:7, 0], CTRL_LOW[:7]) + _MARGIN
        self._high = np.minimum(model.jnt_range[:7, 1], CTRL_HIGH[:7]) - _MARGIN
        self._gain, self._damping = model.actuator_gainprm[:7, 0], model.dof_damping[:7]
        # The diagonal of the mass matrix. MuJoCo 3.3.0, which Meta-World needs, keeps the matrix in another array.
        old = not hasattr(model, "M_rowadr")
        self._mass = env.data.qM if old else env.data.M
        self._diagonal = (model.dof_Madr if old else model.M_rowadr + model.M_rownnz - 1)[:7]
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
        inertia = self._mass[self._diagonal]
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
        count, start = len(options), self.joints
        # Each option twice: its inverse kinematics from where the arm is, and from the rest posture.
        points, turns = (np.array([[pose[i] for pose in poses] for poses in options] * 2) for i in range(2))
        stops, missed = [np.tile(start, (2 * count, 1))], np.zeros(2 * count)
        q = np.repeat([start, _REST], count, axis=0)
        for k in range(points.shape[1]):
            q = self.solve(points[:, k], turns[:, k], q, iterations=8 if k else 20)
            stops.append(q)
            missed += self._missed(q, points[:, k], turns[:, k])
        ways = np.stack(stops, axis=1)
        after = self._steps(ways[:, 1:]) + missed + [self._collisions(way) for way in ways[:, 1:3]]
        ways = ways[:, :2]
        best, chosen, route = self._cheapest(ways, after)
        direct = self._steps(ways) + after
        hindered = [i for i in np.argsort(direct)[:_DETOURED] if direct[i] + 1.0 < best]
        if hindered:
            which, offsets = np.repeat(hindered, len(_DETOURS)), np.tile(_DETOURS, (len(hindered), 1))
            middle = (self.tool + points[which, 0]) / 2 + offsets
            via = self.solve(middle, turns[which, 0], ways[which].mean(1), iterations=11)
            cost, i, detour = self._cheapest(np.insert(ways[which], 1, via, axis=1), after[which], best)
            if cost < best:
                chosen, route = int(which[i]), detour
        for way_point in route[1:-1]:
            yield from self._go(way_point, fingers, tolerance=2.0)
        yield from self._go(route[-1], fingers, tolerance=1.0)
        return chosen % count

    def _cheapest(self, ways: Array, after: Array, limit: float = np.inf) -> tuple[float, int, Array]:
        """Of ways (W, stops, 7) the one that costs the fewest steps and collisions, with ``after`` (W,) added.

        Its cost, its index and itself; any of them with the cost ``limit`` if none costs less. They are taken in order
        of their steps, so that few are searched for collisions, which takes the longest.
        """
        best, chosen, costs = limit, 0, self._steps(ways) + after
        for i in np.argsort(costs):
            if costs[i] >= best:
                break
            cost = costs[i] + self._collisions(ways[i], best - costs[i])
            if cost < best:
                best, chosen = float(cost), int(i)
        return best, chosen, ways[chosen]

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

    def _collisions(self, way: Array, limit: float = np.inf) -> float:
        """Cost, in steps, of coming too near to things on a way (stops, 7); above ``limit``, that of its first part."""
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
            q = self.joints
            dq = self._differential(q, *pose, reach=speed * _STEP, turn=2.5 * _STEP, pull=0.02)
            slower = max(1.0, (np.abs(dq) / (hurry * self._fastest)).max())
            yield q + dq / slower, fingers() if callable(fingers) else fingers

    def solve(self, position: Array, orientation: Array, start: Array, iterations: int = 20) -> Array:
        """Joints (..., 7) for tool poses (..., 3) and (..., 3, 3), near those of ``start`` (..., 7).

        The nearest ones found if a pose is out of reach. All but the last iterations approach the rest posture too.
        """
        q = start
        for left in reversed(range(iterations)):
            q = q + self._differential(q, position, orientation, reach=0.15, turn=0.6, pull=0.15 if left > 2 else 0.0)
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
