"""Navigation in mazes, after Pertsch et al. 2020: a point mass with momentum, a goal far away, a view around it.

Lengths are in squares of the maze, which is a grid of walls and free squares. x points right, y up; a square (i, j) is
the area from (i, j) to (i + 1, j + 1).
"""

import functools
import math
import operator
from typing import Any

import gymnasium as gym
import networkx as nx
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_flags, check_render_mode, check_whole
from rllib_spirl.envs.seeing import SeeingEnv
from rllib_spirl.errors import UserError

Square = tuple[int, int]

LEAST, MOST = 10, 40  # sizes of mazes
SPEED = 0.2  # squares a step for an action of 1
RESPONSE = 0.3  # share of the difference to the wanted velocity that a step makes up for
HALF_WIDTH = 0.25  # of the agent, which is a square itself: it slides along walls
GOAL_RADIUS = 0.5
LOOPS = 0.15  # share of the walls between neighbouring cells that are left out of a maze without loops
PICTURE, PIXEL = 32, 0.25  # pixels along a view's edge, and their own edge
_TOUCH = 1e-6  # between the agent and a wall that it leans on
_WALL, _FREE = np.array([0.25, 0.3, 0.4]), np.array([0.96, 0.95, 0.92])
_SHADES = np.rint(255 * (_FREE + np.linspace(0, 1, 256)[:, None] * (_WALL - _FREE))).astype(np.uint8)  # by coverage
_SEEN = int(PICTURE * PIXEL) + 1  # squares of which a view may have a part, along an edge
_AHEAD = np.arange(_SEEN)
_PIXELS, _SQUARES = np.float32(PIXEL) * np.arange(PICTURE, dtype=np.float32)[:, None], _AHEAD.astype(np.float32)
_AGENT, _GOAL = (214, 69, 65), (60, 160, 90)


@functools.lru_cache(maxsize=64)  # demonstrations are of hundreds of mazes
def graph(size: int, maze: int) -> nx.Graph:
    """The free squares of a maze, joined where one leads to another. The same numbers give the same maze anywhere.

    Every second square is a cell. A random tree joins all of them, so that each can be reached from each, and a few of
    the walls that it leaves are opened as well, so that there are several ways.
    """
    rng = np.random.default_rng([size, maze])
    cells = nx.grid_2d_graph((size - 1) // 2, (size - 1) // 2)
    for _, _, edge in cells.edges(data=True):
        edge["weight"] = rng.uniform()
    tree = nx.minimum_spanning_tree(cells)
    tree.add_edges_from(edge for edge in cells.edges if not tree.has_edge(*edge) and rng.uniform() < LOOPS)
    free: nx.Graph = nx.Graph()
    for (i, j), (k, m) in tree.edges:
        between = (i + k + 1, j + m + 1)
        free.add_edge((2 * i + 1, 2 * j + 1), between)
        free.add_edge(between, (2 * k + 1, 2 * m + 1))
    return free


@functools.lru_cache(maxsize=64)
def walls(size: int, maze: int) -> NDArray[np.bool_]:
    """Which squares [x, y] of a maze are walls: (size, size). To be treated as read-only."""
    solid = np.ones((size, size), bool)
    solid[tuple(np.array(list(graph(size, maze))).T)] = False
    return solid


def way(size: int, maze: int, start: Square, goal: Square) -> list[Square]:
    """A shortest way between two free squares, both included, found by A*."""
    found: list[Square] = nx.astar_path(graph(size, maze), start, goal, lambda a, b: math.dist(a, b))
    return found


def pictures(solid: NDArray[np.bool_], positions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Agent-centred views (..., 32, 32, 3) uint8 RGB at positions (..., 2) in a maze; the first row is the uppermost.

    Eight squares are seen along an edge. A pixel takes of the walls' colour what they cover of it, so that views show
    motions smaller than a pixel. Beyond the maze all is wall. Neither the agent, always in the middle, nor the goal is
    drawn: what is seen is what skills have in common.
    """
    corners = np.asarray(positions, np.float32) - PICTURE * PIXEL / 2
    first = np.floor(corners)
    # How much of each pixel lies in each square along each axis, (..., 2, 32, SEEN); then in walls, (..., 32, 32).
    begin = (corners - first)[..., None, None] + _PIXELS - _SQUARES
    shares = np.minimum(begin + PIXEL, 1) - np.maximum(begin, 0)
    shares = np.maximum(shares / PIXEL, 0)
    padded = np.pad(solid, _SEEN, constant_values=True).astype(np.float32)
    low = first.astype(np.intp) + _SEEN
    seen = padded[low[..., 0, None, None] + _AHEAD[:, None], low[..., 1, None, None] + _AHEAD]
    covered = shares[..., 1, ::-1, :] @ (shares[..., 0, :, :] @ seen).swapaxes(-1, -2)
    return _SHADES[np.rint(255 * covered).astype(np.uint8)]


def relabel(states: NDArray[np.floating], goal: Square) -> tuple[NDArray[np.float64], int | None]:
    """Rewards (T,) of recorded states (T+1, 4), and the step after which the goal was reached, or None.

    Rewards after that step, where the environment would have terminated, are 0.
    """
    reached = np.flatnonzero(_at_goal(np.asarray(states[1:], np.float32), goal))
    rewards = np.zeros(len(states) - 1)
    if not len(reached):
        return rewards, None
    rewards[reached[0]] = 1.0
    return rewards, int(reached[0])


def _at_goal(states: NDArray[np.float32], goal: Square) -> NDArray[np.bool_]:
    return np.hypot(states[..., 0] - (goal[0] + 0.5), states[..., 1] - (goal[1] + 0.5)) < GOAL_RADIUS


class MazeEnv(SeeingEnv):
    """A point mass in a maze, ``rllib_spirl/Maze-v0``: from one corner to a goal, by default the opposite corner.

    A task is the free square [x, y] where the goal is. The observation does not tell it.

    Observation (4,): position and velocity (squares, and squares a step). With ``images`` there are the agent-centred
    `pictures` as well, see `SeeingEnv`.

    Action (2,) in [-1, 1], clipped: the wanted velocity in units of 0.2 squares a step. The velocity follows with
    momentum; walls take the part of it that points into them, and nothing passes through them.
    Reward: 1 for reaching the goal, else 0. Terminated: within half a square of it. Truncated: after
    ``max_episode_steps``.
    Info: ``measures``, with ``success``, 1 once the goal is reached.
    Reset option ``start``: a free square [x, y] to begin in, instead of the one at the lower left corner.

    Args:
        size: Squares along an edge, walls included; 10 to 40.
        maze: Which of the mazes of this size.
        goal: The free square [x, y] of the goal; None for the one at the upper right corner.
        images: Observe pictures too.
        max_episode_steps: Steps until truncation.
        render_mode: None or "rgb_array".

    Raises:
        UserError: On bad arguments, or a start or goal that is no free square.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        size: int = 40,
        maze: int = 0,
        goal: list[int] | None = None,
        images: bool = False,
        max_episode_steps: int = 2000,
        render_mode: str | None = None,
    ) -> None:
        if not LEAST <= size <= MOST:
            raise UserError(f"Maze: size is {size}; choose from {LEAST} to {MOST}.")
        if maze < 0:
            raise UserError(f"Maze: maze is {maze}; it is a number from 0 on.")
        check_whole("Maze", max_episode_steps=max_episode_steps)
        check_flags("Maze", images=images)
        check_render_mode("Maze", render_mode)
        super().__init__(4, images)
        self.size, self.maze, self.max_episode_steps = size, maze, max_episode_steps
        self.render_mode = render_mode
        self.walls = walls(size, maze)
        # Looked at several times a step: lists are faster than arrays there.
        self._columns, self._rows = self.walls.tolist(), self.walls.T.tolist()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        corner = 2 * ((size - 1) // 2) - 1
        self.set_task([corner, corner] if goal is None else goal)
        self.goal = self._task
        self._position, self._velocity = (1.5, 1.5), (0.0, 0.0)
        self._steps = 0

    def sample_tasks(self, n_tasks: int) -> list[list[int]]:
        """Free squares drawn uniformly, but the start."""
        squares = sorted(set(graph(self.size, self.maze)) - {(1, 1)})
        return [list(squares[i]) for i in self.np_random.integers(len(squares), size=n_tasks)]

    def set_task(self, task: list[int]) -> None:
        """Make it the goal from the next reset on. Raises UserError unless it is a free square."""
        self._task = self._free_square(task, "a task")

    def get_task(self) -> list[int]:
        return list(self._task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        x, y = self._free_square((options or {}).get("start", (1, 1)), "the option 'start'")
        self.goal = self._task
        # Anywhere in the square, and at rest.
        room = 0.5 - HALF_WIDTH
        self._position = (x + 0.5 + self.np_random.uniform(-room, room), y + 0.5 + self.np_random.uniform(-room, room))
        self._velocity = (0.0, 0.0)
        self._steps = 0
        return self._observe_first(self.state()), {"measures": {"success": 0.0}}

    def step(self, action: NDArray[np.floating]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        (x, y), (vx, vy) = self._position, self._velocity
        right, up = (min(max(value, -1.0), 1.0) for value in np.asarray(action, np.float64).tolist())
        vx += RESPONSE * (SPEED * right - vx)
        vy += RESPONSE * (SPEED * up - vy)
        new_x = _slide(self._columns, x, y, vx)
        new_y = _slide(self._rows, y, new_x, vy)
        if new_x != x + vx:
            vx = 0.0
        if new_y != y + vy:
            vy = 0.0
        self._position, self._velocity = (new_x, new_y), (vx, vy)
        self._steps += 1
        state = self.state()
        # From the (float32) observation, so that recorded states tell the rewards.
        reached = bool(_at_goal(state, self.goal))
        truncated = not reached and self._steps >= self.max_episode_steps
        return self._observe(state), float(reached), reached, truncated, {"measures": {"success": float(reached)}}

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        return {
            "motion": (self._position, self._velocity),
            "goals": (self.goal, self._task),
            "steps": self._steps,
            "seen": list(self._last_two),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was."""
        self._position, self._velocity = map(tuple, state["motion"])
        self.goal, self._task = map(tuple, state["goals"])
        self._steps, self._last_two = state["steps"], list(state["seen"])
        self.np_random.bit_generator.state = state["random"]

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], int | None]:
        """`relabel` for this environment's goal: what recorded states would have earned here."""
        return relabel(states, self._task)

    def state(self) -> NDArray[np.float32]:
        """The flat observation of the moment."""
        return np.array((*self._position, *self._velocity), np.float32)

    def pictured(self, states: NDArray[np.floating]) -> NDArray[np.uint8]:
        return pictures(self.walls, states[..., :2])

    def render(self) -> Any:
        """A picture (H, W, 3) uint8 of the whole maze, or None without ``render_mode="rgb_array"``."""
        return None if self.render_mode is None else self.render_state(self.state())

    def render_state(self, state: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The same of a recorded state (4,); nothing else changes. Raises UserError on a state of another size."""
        if np.shape(state) != (4,):
            raise UserError(f"A state of the maze has 4 numbers; this one has the shape {np.shape(state)}.")
        scale = 480 // self.size
        colours = np.rint(255 * np.where(self.walls.T[::-1, :, None], _WALL, _FREE)).astype(np.uint8)
        picture = colours.repeat(scale, 0).repeat(scale, 1)
        middles = (np.arange(len(picture)) + 0.5) / scale
        x, y = middles, self.size - middles[:, None]
        picture[np.hypot(x - self.goal[0] - 0.5, y - self.goal[1] - 0.5) < GOAL_RADIUS] = _GOAL
        picture[np.maximum(np.abs(x - state[0]), np.abs(y - state[1])) < HALF_WIDTH] = _AGENT
        return picture

    def subtasks_along(self, states: NDArray[np.floating], task: str) -> dict[str, NDArray[np.bool_]]:
        """Navigation has no subtasks. Raises UserError on states (T+1, 4) of another maze than this one."""
        squares = np.floor(np.asarray(states)[:, :2]).astype(int)
        inside = ((squares >= 0) & (squares < self.size)).all(1)
        if not inside.all() or self.walls[tuple(squares.T)].any():
            raise UserError(
                f"Some positions are in walls of maze {self.maze} (size {self.size}) or beyond it: they are of another "
                "maze, and each episode may be of its own."
            )
        return {}

    def _free_square(self, square: Any, what: str) -> Square:
        try:
            x, y = (operator.index(value) for value in square)
        except (TypeError, ValueError):
            raise UserError(f"Maze: {what} is a free square [x, y], not {square!r}.") from None
        if not (0 <= x < self.size and 0 <= y < self.size) or self.walls[x, y]:
            raise UserError(
                f"Maze: {what} is a free square [x, y], but {[x, y]} is a wall of maze {self.maze} (size {self.size}) "
                "or beyond it. Squares with two odd numbers, but the last ones of an even size, are free in each."
            )
        return x, y


def _slide(solid: list[list[bool]], along: float, across: float, motion: float) -> float:
    """Where the agent's middle comes to that moves along one axis, ``solid[along][across]``, until a wall stops it."""
    ahead = HALF_WIDTH if motion > 0 else -HALF_WIDTH
    first, last = math.floor(across - HALF_WIDTH), math.floor(across + HALF_WIDTH)
    here, there = math.floor(along + ahead), math.floor(along + motion + ahead)
    step = 1 if motion > 0 else -1
    for square in range(here + step, there + step, step):
        if solid[square][first] or solid[square][last]:
            edge = square if motion > 0 else square + 1
            return edge - ahead - step * _TOUCH
    return along + motion
