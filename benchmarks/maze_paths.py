"""Where agents go: paths of several episodes over the maze, one panel for each way to act. The last line is JSON.

Random actions, skills drawn from N(0, I), skills drawn from the prior, and the policy of a checkpoint; as in figure 4
of the paper, for the maze of the checkpoint. ``success`` is the share of episodes that reach the goal, ``visited`` the
share of the free squares that the episodes came to, together.

python benchmarks/maze_paths.py CHECKPOINT --output maze_paths.png
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import typer
from common import report
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rllib_spirl.envs.maze import MazeEnv
from rllib_spirl.envs.rollout import run_episode
from rllib_spirl.evaluation.prior import prior_policy
from rllib_spirl.evaluation.restore import Restored, load_policy
from rllib_spirl.progress import track

Policy = Callable[[Any], Any]


class Path2D(gym.Wrapper):
    """Keeps the positions of an episode, from its reset on."""

    def reset(self, **kwargs: Any) -> Any:
        self.positions: list[NDArray[np.float32]] = []
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.positions.append(self.env.unwrapped.state()[:2])
        return result


def ways_to_act(restored: Restored, seed: int) -> dict[str, tuple[bool, Policy]]:
    """Names of policies, whether they choose skills, and themselves."""
    prior, rng = restored.module.prior, np.random.default_rng(seed)
    return {
        "random actions": (False, lambda _: rng.uniform(-1, 1, 2)),
        "skills, no prior": (True, lambda _: rng.standard_normal(prior.said // 2, np.float32)),
        "skills from the prior": (True, prior_policy(prior, torch.Generator().manual_seed(seed), sample=True)),
        "policy": (True, restored.policy_of_evaluations(seed)),
    }


def main(
    checkpoint: str = typer.Argument(help="Of maze.yaml. Restoring runs code: trust it first."),
    episodes: int = 20,
    output: Path = Path("maze_paths.png"),
    seed: int = 0,
) -> None:
    """Run them and draw."""
    restored = load_policy(checkpoint)
    low_level = Path2D(restored.make_low_level_env())
    maze = low_level.unwrapped
    assert isinstance(maze, MazeEnv)
    skilled = restored.with_skills(low_level)
    ways = ways_to_act(restored, seed)
    figure = Figure(figsize=(4 * len(ways), 4.6), layout="constrained")
    panels = figure.subplots(1, len(ways))
    results = {}
    for panel, (name, (skills, policy)) in zip(
        panels, track(ways.items(), "ways to act", total=len(ways)), strict=True
    ):
        panel.imshow(maze.walls.T, origin="lower", extent=(0, maze.size, 0, maze.size), cmap="Greys")
        reached, visited = [], set()
        for episode in range(seed, seed + episodes):
            outcome = run_episode(skilled if skills else low_level, policy, episode)
            positions = np.array(low_level.positions)
            reached.append(outcome.measures["success"])
            visited |= set(map(tuple, np.floor(positions).astype(int).tolist()))
            panel.plot(*positions.T, linewidth=0.7)
        panel.plot(maze.goal[0] + 0.5, maze.goal[1] + 0.5, "*", color="tab:green", markersize=14)
        results[name] = {
            "success": round(float(np.mean(reached)), 3),
            "visited": round(len(visited) / int((~maze.walls).sum()), 3),
        }
        panel.set(title=f"{name}\nsuccess {results[name]['success']:.2f}", xticks=[], yticks=[])
    figure.savefig(output, dpi=110, bbox_inches="tight")
    report({"name": "paths in a maze", "maze": maze.maze, "size": maze.size, "episodes": episodes, **results})


if __name__ == "__main__":
    typer.run(main)
