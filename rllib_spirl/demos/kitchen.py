"""A scripted demonstrator for the kitchen: all seven subtasks in any order, without learning."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.episode import Episode
from rllib_spirl.demos.arm import CLOSED, OPEN, Arm, Motion, Pose
from rllib_spirl.demos.kinematics import hand
from rllib_spirl.demos.recorder import Recorder
from rllib_spirl.envs.kitchen import SUBTASKS, KitchenEnv, Progress, check_tasks, positions_of

# Part of every recipe's hash: raise it when the same seed gives another demonstration.
VERSION = 3

Turn = tuple[float, float, float]  # yaw, pitch and roll of the hand
Steered = Generator[tuple[NDArray[np.float64], float], None, Turn]

_OPTIONS = 4  # orientations compared before each approach
_TRIES = 4
_AFTER = 5  # steps recorded after the last completion
_KETTLE_NEAR = 0.12  # metres from its goal within which the kettle is left alone
_DEEPER = 0.012  # metres that a grip reaches beyond a handle's middle


@dataclass(frozen=True)
class Demonstration:
    """A demonstration and facts about it."""

    episode: Episode  # float64; states (T+1, 30), or 59 with velocities, actions (T, 9)
    completed: list[str]  # subtasks of the order that were completed, in that order
    happened: list[str]  # all subtasks that were completed, by accident too, as they came
    steps: dict[str, int]  # after how many steps each of them was completed
    still_completed: list[str]  # those whose object was at its goal in the last state too
    kettle_distance: float  # metres from the kettle's goal to where it stands at the end

    @property
    def success(self) -> bool:
        return self.episode.terminated


class Demonstrator:
    """Motions for every subtask of one environment, with jitter from ``rng``."""

    def __init__(self, env: KitchenEnv, rng: np.random.Generator) -> None:
        self.env, self.rng, self.data = env, rng, env.data
        self.arm = Arm(env, pace=rng.uniform(0.88, 1.0))
        self.motions: dict[str, Callable[[], Motion]] = {
            "microwave": self.microwave,
            "kettle": self.kettle,
            "bottom burner": lambda: self.burner(11, "knob2_site", (-0.3, 0.4)),
            "top burner": lambda: self.burner(15, "knob4_site", (-0.7, 0.3)),
            "light switch": self.light_switch,
            "slide cabinet": self.slide_cabinet,
            "hinge cabinet": self.hinge_cabinet,
        }

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def site(self, name: str) -> NDArray[np.float64]:
        return self.data.site(name).xpos.copy()

    def rest(self, steps: int) -> Motion:
        """Stay for some steps."""
        here = self.arm.joints
        for _ in range(steps):
            yield here, OPEN

    def choose(
        self, poses: Callable[[NDArray[np.float64]], Sequence[Pose]], fingers: float, turns: list[Turn]
    ) -> Steered:
        """Go to the first of ``poses(turn)`` with the best of the hand's orientations; returns that one."""
        options = [poses(hand(*turn)) for turn in turns]
        index = yield from self.arm.approach(options, fingers)
        return turns[index]

    def turns(self, yaw: tuple[float, float], pitch: tuple[float, float], roll: float = 0.0) -> list[Turn]:
        """Hand orientations to choose from, yaw and pitch sampled from their ranges."""
        return [(self.u(*yaw), self.u(*pitch), roll) for _ in range(_OPTIONS)]

    def microwave(self) -> Motion:
        up = np.array([0, 0, self.u(0.0, 0.08)])
        goal = -self.u(0.55, 0.72)
        pivot = np.array([-1.1276, 0.4549])
        handle = self.site("microhandle_site") + up
        yaw, pitch, _ = yield from self.choose(
            lambda t: [(handle - 0.08 * t[:, 2], t), (handle, t)], OPEN, self.turns((0.2, 0.6), (0.5, 0.85))
        )
        turn = hand(yaw, pitch)
        yield from self.grasp(lambda: self.site("microhandle_site") + up, turn)
        yield from self.swing(22, goal, "microhandle_site", pivot, up, lambda angle: turn)
        yield from self.back_off(-turn[:, 2], 0.10, turn)

    def hinge_cabinet(self) -> Motion:
        up = np.array([0, 0, -self.u(0.0, 0.08)])
        goal = self.u(1.3, 1.4)
        pivot = np.array([-0.224, 0.71])
        handle = self.site("hinge_site2") + up
        yaw, pitch, _ = yield from self.choose(
            lambda t: [(handle - 0.08 * t[:, 2], t), (handle, t)], OPEN, self.turns((-0.1, 0.2), (-0.2, 0.2))
        )
        turn = hand(yaw, pitch)
        yield from self.grasp(lambda: self.site("hinge_site2") + up, turn)
        yield from self.swing(21, goal, "hinge_site2", pivot, up, lambda angle: hand(yaw - 0.3 * angle, pitch))
        door = self.site("hinge_site2")[:2] - pivot
        door /= np.linalg.norm(door)
        turn = hand(yaw - 0.3 * goal, pitch)
        yield from self.back_off(np.array([door[0], door[1], -0.3]), 0.10, turn)
        yield from self.back_off(np.array([0, 0, -1.0]), 0.15, turn)

    def grasp(self, handle: Callable[[], NDArray[np.float64]], turn: NDArray[np.float64]) -> Motion:
        """Go straight to a handle and close the fingers on it, a little beyond its middle so that it does not slip."""
        closing: list[Pose] = []

        def path() -> Pose | None:
            pose = (handle() + _DEEPER * turn[:, 2], turn)
            if closing or np.linalg.norm(pose[0] - self.arm.tool) < 0.03:
                closing.append(closing[0] if closing else pose)  # what can move is not to be chased
            return None if len(closing) > 4 else closing[0] if closing else pose

        yield from self.arm.follow(path, lambda: CLOSED if closing else OPEN, speed=0.6, steps=16)

    def swing(
        self,
        index: int,
        goal: float,
        site: str,
        pivot: NDArray[np.float64],
        up: NDArray[np.float64],
        turn: Callable[[float], NDArray[np.float64]],
    ) -> Motion:
        """Pull a held handle along its arc until joint ``index`` is at ``goal``."""
        sign = np.sign(goal)
        lost: list[bool] = []

        def path() -> Pose | None:
            angle = self.data.qpos[index]
            grip = self.site(site) + up
            lost.append(bool(np.linalg.norm(self.arm.tool - grip) > 0.06))
            if sign * angle > abs(goal) or sum(lost) > 3:
                return None
            ahead = 0.25 * sign
            c, s = np.cos(ahead), np.sin(ahead)
            arc = np.array([[c, -s], [s, c]]) @ (grip[:2] - pivot) + pivot
            now = turn(angle)
            return np.array([*arc, grip[2]]) + _DEEPER * now[:, 2], now

        yield from self.arm.follow(path, CLOSED, speed=0.7, steps=40)

    def back_off(self, direction: NDArray[np.float64], distance: float, turn: NDArray[np.float64]) -> Motion:
        start = self.arm.tool
        goal = start + distance * direction / np.linalg.norm(direction)

        def path() -> Pose | None:
            return None if np.linalg.norm(goal - self.arm.tool) < 0.03 else (goal, turn)

        yield from self.arm.follow(path, OPEN, speed=0.8, steps=10)

    def kettle(self) -> Motion:
        """Carry it: the closed fingers reach under its handle, and it hangs on them."""
        handle = np.array([self.u(-0.02, 0.02), 0.0, 0.2585])
        goal = np.array([-self.u(0.21, 0.26), self.u(0.66, 0.72)])
        below, lift = self.u(0.055, 0.065), self.u(0.05, 0.07)
        body = self.data.body("kettleroot")

        def under(turn: NDArray[np.float64]) -> NDArray[np.float64]:
            return body.xpos + body.xmat.reshape(3, 3) @ handle + 0.02 * turn[:, 2] - [0, 0, below]

        def poses(turn: NDArray[np.float64]) -> list[Pose]:
            start = under(turn)
            end = start + np.array([*(goal - body.xpos[:2]), lift])
            return [(start - 0.12 * turn[:, 2], turn), (start, turn), (end, turn)]

        turn = hand(*(yield from self.choose(poses, CLOSED, self.turns((-0.6, 0.2), (-0.3, 0.1)))))
        start = under(turn)
        yield from self.line(start, turn, near=0.02)
        tried: list[bool] = []

        def carry() -> Pose | None:
            rest = goal - body.xpos[:2]
            tried.append(bool(body.xpos[2] < 1.625))
            if np.linalg.norm(rest) < 0.03 or (len(tried) > 9 and tried[-1]):
                return None
            pace = 0.0 if len(tried) < 2 else 1.0
            return np.array([*(self.arm.tool[:2] + pace * np.clip(rest, -0.06, 0.08)), start[2] + lift]), turn

        yield from self.arm.follow(carry, CLOSED, speed=0.8, steps=40)
        down = np.array([*self.arm.tool[:2], start[2] - 0.01])
        yield from self.line(down, turn, near=0.03)
        yield from self.back_off(-turn[:, 2] * [1, 1, 0], 0.14, turn)

    def kettle_distance(self) -> float:
        """Metres from the kettle to its goal. The subtask counts from 0.3 m on, which leaves it beside its burner."""
        kettle = SUBTASKS["kettle"]
        return float(np.linalg.norm(self.data.qpos[kettle.indices[:3]] - kettle.goal[:3]))

    def burner(self, index: int, site: str, pitch: tuple[float, float]) -> Motion:
        goal = self.u(0.75, 0.92)
        lever, gap, depth = self.u(0.036, 0.046), 0.03, -self.u(0.004, 0.014)

        def contact(angle: float, gap: float) -> NDArray[np.float64]:
            bar = np.array([np.sin(angle), 0, np.cos(angle)])
            right = np.array([np.cos(angle), 0, -np.sin(angle)])
            return self.site(site) + lever * bar - gap * right + np.array([0, depth, 0])

        start = contact(0, 0.04)
        turns = self.turns((-0.35, 0.0), pitch)
        turn = hand(*(yield from self.choose(lambda t: [(start - [0, 0.08, 0], t), (start, t)], CLOSED, turns)))
        yield from self.line(start, turn)
        past: list[float] = []

        def path() -> Pose | None:
            angle = -self.data.qpos[index]
            past.append(angle)
            if angle > goal or (len(past) > 8 and angle - past[-8] < 0.05):
                return None
            return contact(angle + 0.9, gap - 0.015), turn

        yield from self.arm.follow(path, CLOSED, speed=0.8, hurry=1.4, steps=30)
        yield from self.back_off(-turn[:, 2], 0.07, turn)

    def line(self, goal: NDArray[np.float64], turn: NDArray[np.float64], near: float = 0.015) -> Motion:
        """Go straight with closed fingers until ``near`` the goal, or no nearer than four steps ago."""
        past: list[float] = []

        def path() -> Pose | None:
            past.append(float(np.linalg.norm(goal - self.arm.tool)))
            stuck = len(past) > 4 and past[-5] - past[-1] < 0.01
            return None if past[-1] < near or stuck else (goal, turn)

        yield from self.arm.follow(path, CLOSED, speed=0.6, steps=12)

    def light_switch(self) -> Motion:
        start = self.site("light_site") + np.array([0.062, self.u(0.004, 0.014), self.u(-0.01, 0.01)])
        end = np.array([-self.u(0.58, 0.66), start[1], start[2]])
        turns = self.turns((-0.2, 0.2), (0.0, 0.4))
        turn = hand(
            *(yield from self.choose(lambda t: [(start + np.array([0.01, -0.07, 0.0]), t), (start, t)], CLOSED, turns))
        )
        yield from self.line(start, turn, near=0.02)

        def path() -> Pose | None:
            done = self.data.qpos[17] < -0.6 or self.arm.tool[0] < end[0] + 0.01
            return None if done else (end, turn)

        yield from self.arm.follow(path, CLOSED, speed=0.5, steps=15)
        yield from self.back_off(np.array([0, -1.0, 0]), 0.06, turn)

    def slide_cabinet(self) -> Motion:
        up = -self.u(0.06, 0.12)
        goal = self.u(0.14, 0.24)
        start = self.site("slide_site") + np.array([-0.058, 0.01, up])
        if self.data.qpos[21] > 0.5:  # beside the open hinge door: on edge, from the right
            turns = self.turns((0.2, 0.7), (-0.4, 0.2), -np.pi / 2)
        else:
            turns = self.turns((-0.3, 0.2), (-0.6, 0.2))
        turn = hand(*(yield from self.choose(lambda t: [(start - 0.08 * t[:, 2], t), (start, t)], CLOSED, turns)))
        yield from self.line(start, turn, near=0.025)

        def path() -> Pose | None:
            if self.data.qpos[19] > goal:
                return None
            return np.array([self.arm.tool[0] + 0.1, start[1], start[2]]), turn

        yield from self.arm.follow(path, CLOSED, speed=0.7, steps=25)
        yield from self.back_off(np.array([-0.3, -1.0, 0]), 0.06, turn)


def demonstrate(order: Sequence[str], seed: int, noise: float = 0.05, velocities: bool = False) -> Demonstration:
    """Do the subtasks in ``order``, each up to four times until it works. The same arguments give the same result.

    Args:
        order: Names from SUBTASKS, each once.
        seed: Of the environment's noise, the jitter of the motions and the action noise.
        noise: Standard deviation of the Ornstein-Uhlenbeck noise added to the actions, for diversity. The recorded
            actions hold it.
        velocities: Whether the states hold them too. It is the same demonstration otherwise.

    Returns:
        The demonstration, successful or not. It ends at least five steps after the last completion.

    Raises:
        UserError: On an unknown subtask or one given twice.
    """
    order = check_tasks(order)
    env = KitchenEnv(tasks=order, ordered=True, velocities=velocities, max_episode_steps=10_000)
    rng = np.random.default_rng([seed, 1])
    recorder = Recorder(env, rng, noise, seed=seed)
    demonstrator = Demonstrator(env, rng)
    every = Progress(list(SUBTASKS), ordered=False)
    first_done: dict[str, int] = {}

    def play(motion: Motion) -> None:
        for wanted, fingers in motion:
            recorder.step(np.clip(demonstrator.arm.action(wanted, fingers), -1, 1))
        within = every.within(positions_of(np.array(recorder.states)))
        first_done.update({n: int(w.argmax()) for n, w in zip(every.tasks, within.T, strict=True) if w.any()})

    for name in order:
        for _ in range(_TRIES):
            if name in first_done and (name != "kettle" or demonstrator.kettle_distance() < _KETTLE_NEAR):
                break
            play(demonstrator.motions[name]())
    taken = len(recorder.actions)
    late = first_done.get(order[-1], taken) + _AFTER - taken
    play(demonstrator.rest(late))
    last = positions_of(recorder.states[-1])
    at_end = dict(zip(every.tasks, every.within(last), strict=True))
    completed = [n for n in order if n in first_done]
    success = len(completed) == len(order)
    kettle = SUBTASKS["kettle"]
    return Demonstration(
        episode=recorder.episode(
            terminated=success,
            truncated=not success,
            task="; ".join(order),
        ),
        completed=completed,
        happened=sorted(first_done, key=lambda name: first_done[name]),
        steps={n: first_done[n] for n in completed},
        still_completed=[n for n in completed if at_end[n]],
        kettle_distance=float(np.linalg.norm(last[kettle.indices[:3]] - kettle.goal[:3])),
    )
