"""A demonstrator for mazes: it plans a way between two random squares and follows it with a disturbed controller."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.episode import Episode
from rllib_spirl.demos.recorder import Recorder
from rllib_spirl.envs.maze import SPEED, MazeEnv, Square, graph, way

# Part of every recipe's hash: raise it when the same seed gives another demonstration.
VERSION = 1

_SHORTEST = 10  # squares; shorter ways are not demonstrated
_NEAR = 0.35  # a square whose middle is nearer is passed
_PATIENCE = 30  # steps for each square of the way, at most


@dataclass(frozen=True)
class Demonstration:
    """A demonstration and facts about it."""

    episode: Episode  # states (T+1, 4) float32, actions (T, 2) float64
    squares: int  # length of the planned way
    success: bool  # whether the goal was reached


def demonstrate(size: int, maze: int, seed: int, noise: float = 0.2, images: bool = False) -> Demonstration:
    """Go from one square to another, both drawn at random. The same arguments give the same result.

    Args:
        size: Of the maze.
        maze: Which one.
        seed: Of the squares, the jitter of the controller and the action noise.
        noise: Standard deviation of the Ornstein-Uhlenbeck noise added to the actions. The recorded actions hold it.
        images: Whether the episode has the pictures of its states.

    Returns:
        The demonstration, successful or not. Its rewards are those of reaching its own goal.
    """
    rng = np.random.default_rng([seed, 1])
    squares = sorted(graph(size, maze))
    path: list[Square] = []
    while len(path) <= _SHORTEST:
        start, goal = (squares[i] for i in rng.integers(len(squares), size=2))
        path = way(size, maze, start, goal)
    env = MazeEnv(size=size, maze=maze, goal=list(goal), max_episode_steps=10**6)
    recorder = Recorder(env, rng, noise, seed=seed, options={"start": start})
    pace = rng.uniform(0.7, 1.0)
    patience = _PATIENCE * len(path)
    middles = [np.array(square) + 0.5 for square in path[1:]]
    targets = [middle + rng.normal(0.0, 0.05, 2) for middle in middles[:-1]] + middles[-1:]
    while patience > 0 and not any(recorder.rewards[-1:]):
        if len(targets) > 1 and np.abs(targets[0] - recorder.states[-1][:2]).max() < _NEAR:
            targets.pop(0)
        recorder.step(_toward(targets[0], recorder.states[-1], pace))
        patience -= 1
    episode = recorder.episode(
        terminated=False,
        truncated=True,
        task="reach a square",
        images=env.pictured(np.array(recorder.states[:-1])) if images else None,
    )
    return Demonstration(episode, len(path) - 1, any(recorder.rewards[-1:]))


def _toward(target: NDArray[np.float64], state: NDArray[np.float32], pace: float) -> NDArray[np.float64]:
    """The action (2,) that leads from a state (4,) to a point, as fast as ``pace`` lets it."""
    offset = target - state[:2]
    return offset * pace / max(float(np.abs(offset).max()), 2 * SPEED)
