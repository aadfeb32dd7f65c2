"""Episodic control over skills: in a new task, the episode that earned most is followed, without gradient steps.

Skills that led somewhere once lead there again from states like those, for their decoder sees the states. So one good
episode is enough to repeat it (Blundell et al. 2016), and what lies behind it is looked for where it ends: first
return, then explore (Ecoffet et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.tasks import canonical
from rllib_spirl.meta.adaptation import Acquaintance
from rllib_spirl.meta.beliefs import Array, recorded
from rllib_spirl.meta.task_rl_module import TaskRLModule

# After so many skills without a reward an exploring episode draws skills from the prior.
PATIENCE = 5
# How far from the skills of the followed episode its own are, in the prior's standard deviations.
SPREAD = 0.2
# To a remembered episode's returns so many of the policy's mean return are added, so that luck counts less.
WEIGHT_OF_POLICY = 0.5
# Nothing is explored where the episode that is followed solves the task in such a share of its repetitions.
RELIABLE = 0.8


class EpisodicControl:
    """Runs further episodes in a task by those that were run in it before.

    An episode is either the policy's, or it follows the remembered one whose mean return is greatest, over itself and
    all that followed it: in each state it takes the skill of the nearest state in which as much had been earned, each
    of these skills once. Where there is none left, the policy acts.

    Every second episode explores: half of these follow and half are the policy's, and where the followed one has
    nothing more to earn, or `PATIENCE` skills have earned nothing, skills are drawn from the prior. An episode of a
    greater return than the greatest mean so far is remembered.

    It is for rewards that are not negative and come seldom; of others nothing can be followed.

    Args:
        met: What is known of the task. Its episodes so far are remembered.
        gamma: Discount per skill of the returns, by which of two episodes that earn the same the faster counts more.
    """

    def __init__(self, met: Acquaintance, gamma: float) -> None:
        self._met, self._gamma = met, gamma
        self._by_policy = _Returns()
        self._remembered: list[_Remembered] = []
        self._number = len(met.episodes)
        for number, transitions in enumerate(met.episodes):
            if met.known is not None or number >= met.exploring_episodes:
                self._by_policy.add(transitions, gamma)
            self._remember(transitions)

    def run(self, seed: int) -> EpisodeResult:
        """The next episode."""
        met, rng = self._met, skill_random(seed)
        self._number += 1
        e = met.embedding(rng)
        best = self._best()
        returns = self._by_policy if best is None else best.returns
        greatest = returns.mean
        explores = self._number % 2 == 1 and not returns.reliable
        followed = None if explores and rng.random() < 0.5 else best
        steps = None if followed is None else followed.steps()

        def act(state: NDArray[np.floating], rewards: Sequence[float]) -> Array:
            followed_z = None if steps is None else steps.next(_normalized(met.module, state), sum(rewards))
            if followed_z is not None:
                return followed_z + SPREAD * self._prior_draw(state, rng)[1]
            if explores and ((steps is not None and steps.at_end(sum(rewards))) or _unrewarded(rewards) >= PATIENCE):
                mean, deviation = self._prior_draw(state, rng)
                return mean + deviation
            return met.policy.best(np.concatenate([state, e]), rng)

        canonical(met.env, met.task)
        result, transitions = recorded(met.env, act, seed)
        (self._by_policy if followed is None else followed.returns).add(transitions, self._gamma)
        if followed is None:  # the encoder has learned from the policy's episodes
            met.episodes.append(transitions)
        if _discounted(transitions, self._gamma) > greatest:
            self._remember(transitions)
        return result

    def _remember(self, transitions: Batch) -> None:
        if transitions["rewards"].sum() > 0:
            self._remembered.append(_Remembered(self._met.module, transitions, self._gamma))

    def _best(self) -> "_Remembered | None":
        """The remembered episode with the greatest mean return; None if the policy's is as great."""
        usual = self._by_policy.mean
        best = max(self._remembered, key=lambda each: each.returns.mean_with(usual), default=None)
        return best if best is not None and best.returns.mean_with(usual) > usual else None

    @torch.no_grad()
    def _prior_draw(self, state: NDArray[np.floating], rng: np.random.Generator) -> tuple[Array, Array]:
        """The mean (Z,) of what the policy is regularised to, and how far a draw of it is from there, (Z,)."""
        prior = self._met.module.reference(torch.as_tensor(np.asarray(state, np.float32))[None])
        mean, stddev = prior.mean[0].numpy(), prior.stddev[0].numpy()
        return mean, stddev * rng.standard_normal(mean.shape, np.float32)


@dataclass
class _Returns:
    """Discounted returns of the episodes that were run in one way, and how many of these solved the task."""

    episodes: int = 0
    total: float = 0.0
    solved: int = 0

    def add(self, transitions: Batch, gamma: float) -> None:
        self.episodes += 1
        self.total += _discounted(transitions, gamma)
        self.solved += bool(transitions["terminated"][-1])

    @property
    def mean(self) -> float:
        return self.total / self.episodes if self.episodes else 0.0

    def mean_with(self, usual: float) -> float:
        """The mean, with `WEIGHT_OF_POLICY` more episodes of a usual return."""
        return (self.total + WEIGHT_OF_POLICY * usual) / (self.episodes + WEIGHT_OF_POLICY)

    @property
    def reliable(self) -> bool:
        return self.episodes > 1 and self.solved >= RELIABLE * self.episodes


class _Remembered:
    """An episode of N skills, and the returns of itself and of those that followed it."""

    def __init__(self, module: TaskRLModule, transitions: Batch, gamma: float) -> None:
        with torch.no_grad():
            self.states: Array = module.normalized(transitions["states"]).numpy()
        self.z: Array = transitions["z"].numpy()
        rewards = transitions["rewards"].numpy().astype(np.float64)
        self.earned = np.cumsum(rewards) - rewards
        """What had been earned before each skill, (N,)."""
        self.total = float(rewards.sum())
        self.returns = _Returns()
        self.returns.add(transitions, gamma)

    def steps(self) -> "_Steps":
        return _Steps(self)


class _Steps:
    """What is left of a remembered episode while another one follows it."""

    def __init__(self, followed: _Remembered) -> None:
        self._followed = followed
        self._left = np.ones(len(followed.z), bool)

    def at_end(self, earned: float) -> bool:
        """Whether as much has been earned as in the followed episode."""
        return earned >= self._followed.total or bool(np.isclose(earned, self._followed.total))

    def next(self, state: Array, earned: float) -> Array | None:
        """The skill (Z,) taken in the nearest of the normalised states where as much had been earned; None without."""
        if self.at_end(earned):
            return None
        (there,) = np.nonzero(self._left & np.isclose(self._followed.earned, earned))
        if not len(there):
            return None
        nearest = there[np.square(self._followed.states[there] - state).sum(-1).argmin()]
        self._left[nearest] = False
        return self._followed.z[nearest]


def _discounted(transitions: Batch, gamma: float) -> float:
    rewards = transitions["rewards"].numpy()
    return float(rewards @ gamma ** np.arange(len(rewards)))


def _unrewarded(rewards: Sequence[float]) -> int:
    """How many skills the last ones without a reward are."""
    return next((count for count, reward in enumerate(reversed(rewards)) if reward > 0), len(rewards))


@torch.no_grad()
def _normalized(module: TaskRLModule, state: NDArray[np.floating]) -> Array:
    return module.normalized(torch.as_tensor(np.asarray(state, np.float32))).numpy()
