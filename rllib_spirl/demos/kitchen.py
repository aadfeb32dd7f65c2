"""A scripted demonstrator for the kitchen: all seven subtasks in any order, without learning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.episode import Episode
from rllib_spirl.demos.arm import CLOSED, OPEN, Arm, Motion, hand
from rllib_spirl.envs.kitchen import SUBTASKS, KitchenEnv, Progress, check_tasks

_TRIES = 3
_AFTER = 5  # steps recorded after the last completion
_NOISE_PULL = 0.25  # of the Ornstein-Uhlenbeck noise towards zero, per step


@dataclass(frozen=True)
class Demonstration:
    """A demonstration and facts about it."""

    episode: Episode  # float64; states (T+1, 30), actions (T, 9)
    completed: list[str]  # subtasks of the order that were completed, in that order
    steps: dict[str, int]  # steps from the end of the subtask before to the completion of each completed subtask
    still_completed: list[str]  # those whose object was at its goal in the last state too
    kettle_distance: float  # metres from the kettle's goal to where it stands at the end

    @property
    def success(self) -> bool:
        return self.episode.terminated


class Demonstrator:
    """Motions for every subtask of one environment, with jitter from ``rng``."""

    def __init__(self, env: KitchenEnv, rng: np.random.Generator) -> None:
        self.env, self.rng, self.data = env, rng, env.data
        self.arm = Arm(env, pace=rng.uniform(0.9, 1.05))
        self.motions: dict[str, Callable[[], Motion]] = {
            "microwave": self.microwave,
            "kettle": self.kettle,
            "bottom burner": lambda: self.burner(11, "knob2_site"),
            "top burner": lambda: self.burner(15, "knob4_site"),
            "light switch": self.light_switch,
            "slide cabinet": self.slide_cabinet,
            "hinge cabinet": self.hinge_cabinet,
        }

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def site(self, name: str) -> NDArray[np.float64]:
        return self.data.site(name).xpos.copy()

    def microwave(self) -> Motion:
        turn = hand(self.u(0.3, 0.55), self.u(0.65, 0.85))
        up = np.array([0, 0, self.u(0.0, 0.08)])
        goal = -self.u(0.55, 0.72)
        pivot = np.array([-1.1276, 0.4549])
        handle = self.site("microhandle_site") + up
        yield from self.arm.move(handle - 0.10 * turn[:, 2], turn, OPEN)
        yield from self.grasp(lambda: self.site("microhandle_site") + up, turn)
        yield from self.swing(22, goal, "microhandle_site", pivot, up, lambda angle: turn)
        yield from self.back_off(-turn[:, 2], 0.10, turn)

    def hinge_cabinet(self) -> Motion:
        yaw, pitch = self.u(-0.1, 0.1), self.u(-0.1, 0.2)
        turn = hand(yaw, pitch)
        up = np.array([0, 0, -self.u(0.0, 0.08)])
        goal = self.u(1.25, 1.35)
        pivot = np.array([-0.224, 0.71])
        handle = self.site("hinge_site2") + up
        yield from self.arm.move(handle - 0.10 * turn[:, 2], turn, OPEN)
        yield from self.grasp(lambda: self.site("hinge_site2") + up, turn)
        yield from self.swing(21, goal, "hinge_site2", pivot, up, lambda angle: hand(yaw - 0.3 * angle, pitch))
        door = self.site("hinge_site2")[:2] - pivot
        door /= np.linalg.norm(door)
        turn = hand(yaw - 0.3 * goal, pitch)
        yield from self.back_off(np.array([door[0], door[1], -0.3]), 0.10, turn)
        yield from self.back_off(np.array([0, 0, -1.0]), 0.15, turn)

    def grasp(self, handle: Callable[[], NDArray[np.float64]], turn: NDArray[np.float64]) -> Motion:
        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            return None if np.linalg.norm(handle() - self.arm.tool) < 0.015 else (handle(), turn)

        yield from self.arm.follow(path, OPEN, speed=0.5, steps=12)
        yield from self.arm.follow(lambda: (handle(), turn), CLOSED, speed=0.4, steps=4)

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
        slack = self.arm.tool - self.site(site) - up
        lost = [0]

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            angle = self.data.qpos[index]
            grip = self.site(site) + up
            lost[0] += np.linalg.norm(self.arm.tool - grip) > 0.06
            if sign * angle > abs(goal) or lost[0] > 3:
                return None
            ahead = 0.25 * sign
            c, s = np.cos(ahead), np.sin(ahead)
            arc = np.array([[c, -s], [s, c]]) @ (grip[:2] - pivot) + pivot
            return np.array([*arc, grip[2]]) + 0.5 * slack, turn(angle)

        yield from self.arm.follow(path, CLOSED, speed=0.5, steps=40)

    def back_off(self, direction: NDArray[np.float64], distance: float, turn: NDArray[np.float64]) -> Motion:
        start = self.arm.tool
        goal = start + distance * direction / np.linalg.norm(direction)

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            return None if np.linalg.norm(goal - self.arm.tool) < 0.03 else (goal, turn)

        yield from self.arm.follow(path, OPEN, speed=0.8, limit=0.07, steps=10)

    def kettle(self) -> Motion:
        turn = hand(self.u(-0.1, 0.1), self.u(0.95, 1.1))
        low, stop, side = self.u(1.66, 1.69), self.u(0.62, 0.67), self.u(-0.01, 0.01)
        x, y = self.data.qpos[23:25]
        yield from self.arm.move(np.array([x + side, y - 0.20, low + 0.04]), turn, OPEN)

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            x, y = self.data.qpos[23:25]
            if y > stop:
                return None
            q = self.data.qpos[26:30] / np.linalg.norm(self.data.qpos[26:30])
            yaw = 2 * np.arctan2(q[3], q[0])
            return np.array([x + side - 0.3 * yaw, max(self.arm.tool[1] + 0.05, y - 0.10), low]), turn

        yield from self.arm.follow(path, OPEN, speed=0.5)
        yield from self.back_off(np.array([0, -0.5, 1.0]), 0.15, turn)

    def burner(self, index: int, site: str) -> Motion:
        turn = hand(-self.u(0.1, 0.3), self.u(0.1, 0.3))
        goal = self.u(0.75, 0.92)
        lever, gap, depth = self.u(0.03, 0.04), 0.03, self.u(-0.005, 0.01)

        def contact(angle: float, gap: float) -> NDArray[np.float64]:
            bar = np.array([np.sin(angle), 0, np.cos(angle)])
            right = np.array([np.cos(angle), 0, -np.sin(angle)])
            return self.site(site) + lever * bar - gap * right + np.array([0, depth, 0])

        yield from self.arm.move(contact(0, 0.05) - 0.06 * turn[:, 2], turn, CLOSED)
        yield from self.line(contact(0, 0.045), turn)
        past: list[float] = []

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            angle = -self.data.qpos[index]
            past.append(angle)
            if angle > goal or (len(past) > 8 and angle - past[-8] < 0.05):
                return None
            return contact(angle + 0.5, gap - 0.01), turn

        yield from self.arm.follow(path, CLOSED, speed=0.4, steps=40)
        yield from self.back_off(-turn[:, 2], 0.07, turn)

    def line(self, goal: NDArray[np.float64], turn: NDArray[np.float64], near: float = 0.015) -> Motion:
        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            return None if np.linalg.norm(goal - self.arm.tool) < near else (goal, turn)

        yield from self.arm.follow(path, CLOSED, speed=0.6, steps=12)

    def light_switch(self) -> Motion:
        turn = hand(self.u(-0.1, 0.15), self.u(0.1, 0.3))
        start = self.site("light_site") + np.array([0.062, self.u(0.004, 0.014), self.u(-0.01, 0.01)])
        end = np.array([-self.u(0.58, 0.66), start[1], start[2]])
        yield from self.arm.move(start + [0.01, -0.07, 0], turn, CLOSED)
        yield from self.line(start, turn, near=0.02)

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            done = self.data.qpos[17] < -0.6 or self.arm.tool[0] < end[0] + 0.01
            return None if done else (end, turn)

        yield from self.arm.follow(path, CLOSED, speed=0.5, steps=15)
        yield from self.back_off(np.array([0, -1.0, 0]), 0.06, turn)

    def slide_cabinet(self) -> Motion:
        turn = hand(self.u(-0.2, 0.0), self.u(-0.1, 0.2))
        up = -self.u(0.02, 0.1)
        goal = self.u(0.18, 0.30)
        start = self.site("slide_site") + np.array([-0.075, 0.01, up])
        yield from self.arm.move(start + [-0.01, -0.07, 0], turn, CLOSED)
        yield from self.line(start, turn, near=0.025)

        def path() -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
            if self.data.qpos[19] > goal:
                return None
            return np.array([self.arm.tool[0] + 0.1, start[1], start[2]]), turn

        yield from self.arm.follow(path, CLOSED, speed=0.6, steps=25)
        yield from self.back_off(np.array([-0.3, -1.0, 0]), 0.06, turn)


def demonstrate(order: Sequence[str], seed: int, noise: float = 0.05) -> Demonstration:
    """Do the subtasks in ``order``, each up to three times until it works. The same arguments give the same result.

    Args:
        order: Names from SUBTASKS, each once.
        seed: Of the environment's noise, the jitter of the motions and the action noise.
        noise: Scale of the Ornstein-Uhlenbeck noise added to the actions, for diversity. Recorded actions hold it.

    Returns:
        The demonstration, successful or not. It ends five steps after the last completion.

    Raises:
        UserError: On an unknown subtask or one given twice.
    """
    order = check_tasks(order)
    env = KitchenEnv(tasks=order, ordered=True, max_episode_steps=10_000)
    states, actions, rewards = [env.reset(seed=seed)[0]], [], []
    rng = np.random.default_rng([seed, 1])
    demonstrator = Demonstrator(env, rng)
    every = Progress(list(SUBTASKS), ordered=False)
    names = every.tasks
    disturbance = np.zeros(9)
    first_done: dict[str, int] = {}

    def play(motion: Motion, stop_after: int | None = None) -> None:
        nonlocal disturbance
        for wanted, fingers in motion:
            disturbance += noise * rng.standard_normal(9) - _NOISE_PULL * disturbance
            action = np.clip(np.clip(demonstrator.arm.action(wanted, fingers), -1, 1) + disturbance, -1, 1)
            observation, reward, *_ = env.step(action)
            states.append(observation)
            actions.append(action)
            rewards.append(reward)
            for name, near in zip(names, every.within(observation), strict=True):
                if near:
                    first_done.setdefault(name, len(actions))
            if stop_after is not None and order[-1] in first_done and len(actions) >= first_done[order[-1]] + stop_after:
                return

    starts: dict[str, int] = {}
    for name in order:
        starts[name] = len(actions)
        for _ in range(_TRIES):
            if name in first_done:
                break
            play(demonstrator.motions[name](), _AFTER if name == order[-1] else None)
    at_end = dict(zip(names, every.within(states[-1]), strict=True))
    completed = [n for n in order if n in first_done]
    success = len(completed) == len(order)
    kettle = SUBTASKS["kettle"]
    return Demonstration(
        episode=Episode(
            states=np.array(states),
            actions=np.array(actions).reshape(-1, 9),
            rewards=np.array(rewards),
            terminated=success,
            truncated=not success,
            task="; ".join(order),
        ),
        completed=completed,
        steps={n: max(first_done[n] - starts[n], 0) for n in completed},
        still_completed=[n for n in completed if at_end[n]],
        kettle_distance=float(np.linalg.norm(states[-1][kettle.indices[:3]] - kettle.goal[:3])),
    )
