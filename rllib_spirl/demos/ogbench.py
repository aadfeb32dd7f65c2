"""Play as in OGBench's data: its own scripted oracles reach random goals, one after the other."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_spirl.data.episode import Episode
from rllib_spirl.envs.ogbench import make_benchmark, reset_benchmark, split
from rllib_spirl.envs.outside import FAMILIES
from rllib_spirl.extras import optional

# Part of every recipe's hash: raise it when the same seed gives another episode.
VERSION = 1

_GOALS = ("cube", "button", "drawer", "window")  # kinds of goals, each with an oracle of its own
# Of a scene's cube, in metres: it is hidden beyond the first two, unless it lies in the drawer, at these heights.
_LEFT, _RIGHT, _IN_DRAWER = -0.3, 0.29, (0.06, 0.08)


@dataclass(frozen=True)
class Play:
    """One episode, and whether its cubes stayed where a camera sees them."""

    episode: Episode  # states (T+1, S) float32, actions (T, 5) float32, rewards of 0
    visible: bool
    goals: list[str]  # the kinds of goals reached or tried, in order


def demonstrate(
    environment: str, steps: int, smoothing: float, stacking: tuple[float, float], seed: int, noise: float
) -> Play:
    """Play for some steps. The same arguments give the same result.

    Args:
        environment: A scene, such as cube-double.
        steps: Of the episode.
        smoothing: How slowly the noise of the motions changes, as in OGBench.
        stacking: Between these, the probability that a cube is put on another one.
        seed: Of the scene, the goals and the noise.
        noise: Of the motions, in units of the largest action.
    """
    env = _environment(environment)
    with _global_seed(seed):
        oracles = _oracles(env, noise, smoothing, closed="puzzle" in environment)
        share = np.random.uniform(*stacking)
        observation, info = reset_benchmark(env, seed)
        goals = [str(info["privileged/target_task"])]
        oracle = oracles[goals[-1]]
        oracle.reset(observation, info)
        states, actions = [observation], []
        for _ in range(steps):
            actions.append(np.clip(oracle.select_action(observation, info), -1, 1))
            observation, _, _, _, info = env.step(actions[-1])
            states.append(observation)
            if oracle.done:
                aimed = env.set_new_target(p_stack=share)
                goals.append(str(aimed[1]["privileged/target_task"]))
                oracle = oracles[goals[-1]]
                oracle.reset(*aimed)
    episode = Episode(
        states=np.array(states, np.float32),
        actions=np.array(actions, np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
        task="play",
    )
    return Play(episode, environment != "scene" or _visible(episode.states), goals)


def _visible(states: np.ndarray) -> bool:
    cubes = split(states, FAMILIES["scene"])[0]
    y, z = cubes[..., 1], cubes[..., 2]
    hidden = (y <= _LEFT) & ((z < _IN_DRAWER[0]) | (z > _IN_DRAWER[1]))
    return not bool((hidden | (y >= _RIGHT)).any())


@functools.cache
def _environment(name: str) -> Any:
    """The environment of the benchmark's own data. Building one takes a second, so each process keeps its own."""
    return make_benchmark(f"{name}-v0", mode="data_collection", terminate_at_goal=False)


def _oracles(env: Any, noise: float, smoothing: float, closed: bool) -> dict[str, Any]:
    """A scripted oracle for each kind of goal; ``closed``: it presses buttons with closed fingers throughout."""
    oracles = {}
    for goal in _GOALS:
        module = optional(f"ogbench.manipspace.oracles.plan.{goal}_plan", "ogbench")
        settings = {"gripper_always_closed": closed} if goal == "button" else {}
        kind = getattr(module, f"{goal.capitalize()}PlanOracle")
        oracles[goal] = kind(env=env, noise=noise, noise_smoothing=smoothing, **settings)
    return oracles


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, which the oracles draw from, and leaves it as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
