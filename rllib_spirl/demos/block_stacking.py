"""A scripted demonstrator for block stacking: two-block stacks, one after the other, by disturbed way-points.

Some motions go wrong and are mended: a hand that closed on nothing opens again, a block held beside its place is moved
there. Skills learned from motions that never fail do not know how to go on where they do. For the same reason the hand
leaves the last stack too: an open hand above a block just stacked looks much like one about to take it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.episode import Episode
from rllib_spirl.demos.recorder import Recorder
from rllib_spirl.envs.block_stacking import (
    BLOCK,
    FINGER_RADIUS,
    HIGHEST,
    LOWEST,
    OPENING,
    REACH,
    SPEED,
    STEP,
    BlockStackingEnv,
    held,
    levels,
    pictures,
    split,
)

# Part of every recipe's hash: raise it when the same seed gives another demonstration.
VERSION = 5

Motion = Iterator[NDArray[np.float64]]  # actions (3,)

OPEN, CLOSED = 1.0, -1.0
_TRIES = 3  # for one stack
_STEPS = 10  # at most, for a way to a point, beyond those that its length takes
_CLEARANCE = 0.02  # between what is carried and what it passes over
_ROOM = OPENING + 2 * FINGER_RADIUS + BLOCK / 2 + 0.005  # between the centres of blocks, for a finger
_FUMBLED, _MISPLACED = 0.1, 0.35  # share of grasps that close too early, and of blocks first held beside their place


@dataclass(frozen=True)
class Demonstration:
    """A demonstration and facts about it."""

    episode: Episode  # states (T+1, 6 + 6 blocks) float32, actions (T, 3) float64
    completed: list[str]  # "block 3 on block 0" for each stack made, in order
    success: bool  # as many stacks as asked for
    tries: int  # motions from a block to a stack, failed ones included
    start: dict[str, float]  # the environment's reset options


class Demonstrator:
    """Motions of the gripper of one environment, with jitter from ``rng``."""

    def __init__(self, env: BlockStackingEnv, rng: np.random.Generator) -> None:
        self.env, self.rng = env, rng
        self.pace = self.u(0.7, 1.0)

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    @property
    def here(self) -> NDArray[np.float64]:
        """The grasp point (2,)."""
        return self.env.data.qpos[:2].copy()

    def block(self, index: int) -> NDArray[np.float64]:
        """A block's centre (2,)."""
        return self.env.data.qpos[4 + 3 * index : 6 + 3 * index].copy()

    def choose(self) -> tuple[int, int] | None:
        """A block to take and one to put it on, both alone on the floor with room for the fingers."""
        level = levels(self.env.state())
        centres = np.array([self.block(i) for i in range(self.env.blocks)])
        offset = centres - centres[:, None]  # [i, j]: from i to j
        in_the_way = (np.abs(offset[..., 0]) < _ROOM) & (offset[..., 1] > -0.8 * BLOCK)
        np.fill_diagonal(in_the_way, False)
        alone = np.flatnonzero((level == 0) & ~in_the_way.any(1) & (np.abs(centres[:, 0]) < REACH)).tolist()
        pairs = [(top, base) for top in alone for base in alone if top != base]
        return pairs[self.rng.integers(len(pairs))] if pairs else None

    def toward(self, point: NDArray[np.float64], fingers: float, limit: float) -> NDArray[np.float64]:
        """The action that brings the grasp point to ``point`` in one step, or as far as ``limit`` lets it."""
        return np.array([*np.clip((point - self.here) / (SPEED * STEP), -limit, limit), fingers])

    def go(self, point: NDArray[np.float64], fingers: float, near: float, speed: float = 1.0) -> Motion:
        """To a point, until ``near`` it, or as good as there."""
        limit = speed * self.pace
        longest = _STEPS + int(np.abs(point - self.here).max() / (limit * SPEED * STEP))
        for _ in range(longest):
            if np.abs(point - self.here).max() < near:
                return
            yield self.toward(point, fingers, limit)

    def stay(self, steps: int, fingers: float) -> Motion:
        here = self.here
        for _ in range(steps):
            yield self.toward(here, fingers, 1.0)

    def cross(self, point: NDArray[np.float64], fingers: float) -> Motion:
        """Up, over whatever lies in between, and to just above ``point``."""
        passed = [self.block(i) for i in np.flatnonzero(~held(self.env.state())).tolist()]
        low, high = sorted((self.here[0], point[0]))
        heights = [z for y, z in passed if low - 2 * BLOCK < y < high + 2 * BLOCK]
        # A carried block's centre is near the grasp point, and the empty fingers reach no lower than it would.
        height = min(max([point[1], *heights]) + BLOCK + _CLEARANCE + 0.4 * self.u(0.0, 1.0) ** 2, HIGHEST)
        jitter = self.rng.normal(0.0, 0.012, 2)
        if self.here[1] < height - BLOCK:
            yield from self.go(np.array([self.here[0] + jitter[0], height]), fingers, near=self.u(0.005, 0.02))
        yield from self.go(np.array([point[0] + jitter[1], height]), fingers, near=self.u(0.01, 0.03))

    def stack(self, block: int, base: int) -> Motion:
        """Take ``block`` and put it on ``base``."""
        yield from self.cross(self.block(block), OPEN)
        grip = _moved(self.block(block), self.u(-0.004, 0.004), self.u(-0.002, 0.012))
        grip[1] = max(grip[1], LOWEST + 0.002)
        above = _moved(grip, 0.0, BLOCK + self.u(0.0, 0.02))
        yield from self.go(above, OPEN, near=0.008)
        if self.u(0.0, 1.0) < _FUMBLED:
            yield from self.stay(int(self.rng.integers(3, 7)), CLOSED)
            yield from self.go(_moved(above, self.u(-0.1, 0.1), self.u(0.0, 0.15)), CLOSED, near=0.02)
            yield from self.go(above, OPEN, near=0.008)
        yield from self.go(grip, OPEN, near=0.004, speed=self.u(0.5, 0.9))
        yield from self.stay(int(self.rng.integers(3, 6)), CLOSED)
        yield from self.cross(_moved(self.block(base), 0.0, BLOCK), CLOSED)
        in_hand = self.here - self.block(block)
        place = _moved(self.block(base) + in_hand, self.u(-0.008, 0.008), BLOCK + 0.002)
        if self.u(0.0, 1.0) < _MISPLACED:
            beside = _moved(place, self.u(-0.045, 0.045), self.u(0.0, 0.02))
            yield from self.go(beside, CLOSED, near=0.008)
            yield from self.go(_moved(beside, 0.0, self.u(0.02, 0.04)), CLOSED, near=0.01)
        yield from self.go(_moved(place, 0.0, self.u(0.02, 0.04)), CLOSED, near=0.006)
        yield from self.go(place, CLOSED, near=0.003, speed=self.u(0.3, 0.6))
        yield from self.stay(int(self.rng.integers(2, 5)), OPEN)
        yield from self.go(_moved(self.here, 0.0, BLOCK + self.u(0.0, 0.05)), OPEN, near=0.02)

    def leave(self) -> Motion:
        """Away from what was stacked last, as if there were more to do."""
        side = 1.0 if self.here[0] < 0 else -1.0
        away = np.array([self.here[0] + side * self.u(0.2, 0.6), BLOCK / 2])
        yield from self.cross(away, OPEN)


def _moved(point: NDArray[np.float64], right: float, up: float) -> NDArray[np.float64]:
    return point + np.array([right, up])


def demonstrate(blocks: int, stacks: int, seed: int, noise: float = 0.05, images: bool = False) -> Demonstration:
    """Make stacks of two, one after the other, each up to three times. The same arguments give the same result.

    Stacks that were made are left alone: skills learned from this take none apart.

    Args:
        blocks: In the scene.
        stacks: How many to make.
        seed: Of the scene, the choice of blocks, the jitter of the motions and the action noise.
        noise: Standard deviation of the Ornstein-Uhlenbeck noise added to the actions, for diversity. The recorded
            actions hold it.
        images: Whether the episode has the pictures of its states.

    Returns:
        The demonstration, successful or not. Rewards are the dense ones.
    """
    env = BlockStackingEnv(blocks=blocks, reward="dense", max_episode_steps=10**6)
    rng = np.random.default_rng([seed, 1])
    # Few blocks, and yet what it is like among many; a hand that has been closed, or not.
    start = {"crowding": float(rng.uniform()), "opening": float(rng.uniform()) if rng.uniform() < 0.5 else 1.0}
    recorder = Recorder(env, rng, noise, seed=seed, options=start)
    states = recorder.states
    demonstrator = Demonstrator(env, rng)
    completed: list[str] = []
    tries = 0
    while len(completed) < stacks and tries < _TRIES * stacks:
        pair = demonstrator.choose()
        if pair is None:
            break
        tries += 1
        for wanted in demonstrator.stack(*pair):
            recorder.step(wanted)
        if levels(states[-1]).max() > 1:
            break  # by accident; higher towers are what is to be learned
        block, base = pair
        centres = split(states[-1])[1]
        if levels(states[-1])[block] == 1 and abs(centres[block, 0] - centres[base, 0]) < BLOCK:
            completed.append(f"block {block} on block {base}")
    if len(completed) == stacks:
        for wanted in demonstrator.leave():
            recorder.step(wanted)
    episode = recorder.episode(
        terminated=False,
        truncated=True,
        task="stacks of two blocks",
        images=pictures(np.array(states[:-1])) if images and recorder.actions else None,
    )
    return Demonstration(episode, completed, len(completed) == stacks, tries, start)
