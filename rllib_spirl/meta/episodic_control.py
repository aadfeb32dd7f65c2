"""Episodic control over skills: in a new task, the best episode so far is followed, without gradient steps.

A skill that led somewhere leads there again from a state like the one in which it was chosen, the more so where its
decoder sees the states on the way. So one good episode can be repeated (Blundell et al. 2016), and what more there is
to earn is looked for where it ends: first return, then explore (Ecoffet et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.tasks import Task
from rllib_spirl.errors import UserError
from rllib_spirl.meta.adaptation import Acquaintance
from rllib_spirl.meta.advantages import discounted
from rllib_spirl.meta.beliefs import Array, by_belief
from rllib_spirl.meta.task_rl_module import TaskRLModule

# An episode that explores draws skills from the prior after so many in a row that earned nothing.
PATIENCE = 5
# The noise in skills that are followed, in standard deviations of the prior.
SPREAD = 0.2
# The weight of the policy's mean return in that of a remembered episode, in episodes, so that luck counts less.
WEIGHT_OF_POLICY = 0.5
# No episode explores where those that are run in the best way solve the task in such a share.
RELIABLE = 0.8


class EpisodicControl:
    """Runs further episodes in a task with the help of those that were run in it before.

    An episode is the policy's, or it follows a remembered one: in each state it takes the skill that this one took in
    the nearest state in which as many skills had earned something, with a little noise, and each of these skills
    once. Where none is left, the policy acts. What is followed is the remembered episode with the greatest mean of
    discounted returns, of itself and of all that followed it, together with `WEIGHT_OF_POLICY` of the policy's
    own mean; or the policy, if its mean is greater.

    Every second episode explores: half of these are the policy's, and skills are drawn from the prior where
    the followed episode earned no more, and where no skill is left to follow and `PATIENCE` skills have earned nothing.
    An episode whose return is greater than the mean of the best way is remembered. An episode that ends
    by itself is taken to have solved the task; where that is reliable, none explores any more.

    Args:
        met: What is known of the task. Its episodes so far are remembered.
        gamma: The discount of returns per skill. Of two episodes that earn the same, the faster has the greater return.

    Raises:
        UserError: If a reward is negative: there is nothing to follow where each step costs something.
    """

    def __init__(self, met: Acquaintance, gamma: float) -> None:
        self._met, self._gamma = met, gamma
        self._by_policy = _Returns()
        self._remembered: list[_Remembered] = []
        self._number = len(met.episodes)
        for number, transitions in enumerate(met.episodes):
            check_rewards(met.task, transitions)
            if not met.explores(number):
                self._by_policy.add(transitions, gamma)
            self._remember(transitions)

    def run(self, seed: int, *, last: bool = False) -> EpisodeResult:
        """The next episode. The last one does not explore, for no other could follow what it finds."""
        met, rng = self._met, skill_random(seed)
        self._number += 1
        e = met.embedding(rng)
        best = self._best()
        returns = self._by_policy if best is None else best.returns
        greatest = returns.mean
        explores = self._number % 2 == 1 and not last and not returns.reliable
        followed = None if explores and rng.random() < 0.5 else best
        steps = None if followed is None else _Steps(followed)
        by_policy = by_belief(met.policy, e, rng, explore=False)

        def act(state: NDArray[np.floating], rewards: Sequence[float]) -> Array:
            earned = sum(reward > 0 for reward in rewards)
            z = None if steps is None else steps.next(_normalized(met.module, state), earned)
            if z is not None:
                return z + SPREAD * self._prior_draw(state, rng)[1]
            if explores and ((steps is not None and steps.at_end(earned)) or _unrewarded(rewards) >= PATIENCE):
                mean, deviation = self._prior_draw(state, rng)
                return mean + deviation
            return by_policy(state, rewards)

        # The encoder has not learned from episodes that follow others.
        result, transitions = met.run_by(act, seed, tells=followed is None)
        check_rewards(met.task, transitions)
        (self._by_policy if followed is None else followed.returns).add(transitions, self._gamma)
        if _return(transitions, self._gamma) > greatest:
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
        """The mean (Z,) of the prior in a state, or of what else regularises the policy, and a draw minus this mean."""
        prior = self._met.module.reference(torch.as_tensor(np.asarray(state, np.float32))[None])
        mean, stddev = prior.mean[0].numpy(), prior.stddev[0].numpy()
        return mean, stddev * rng.standard_normal(mean.shape, np.float32)


@dataclass
class _Returns:
    """Discounted returns of the episodes that were run in one way, and how many of these ended by themselves."""

    episodes: int = 0
    total: float = 0.0
    solved: int = 0

    def add(self, transitions: Batch, gamma: float) -> None:
        self.episodes += 1
        self.total += _return(transitions, gamma)
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
        self.states = _normalized(module, transitions["states"])
        self.z: Array = transitions["z"].numpy()
        rewarded = (transitions["rewards"] > 0).numpy()
        self.earned = np.cumsum(rewarded) - rewarded
        """How many skills had earned something before each skill, (N,)."""
        self.total = int(rewarded.sum())
        """How many did in all."""
        self.returns = _Returns()
        self.returns.add(transitions, gamma)


class _Steps:
    """What is left of a remembered episode while another one follows it."""

    def __init__(self, followed: _Remembered) -> None:
        self._followed = followed
        self._left = np.ones(len(followed.z), bool)

    def at_end(self, earned: int) -> bool:
        """Whether as many skills have earned something as in the followed episode."""
        return earned >= self._followed.total

    def next(self, state: Array, earned: int) -> Array | None:
        """The skill (Z,) that was taken in the nearest of the normalised states in which as many had earned something.

        None if no such skill is left, or if the followed episode earned nothing from there on.
        """
        if self.at_end(earned):
            return None
        (there,) = np.nonzero(self._left & (self._followed.earned == earned))
        if not len(there):
            return None
        nearest = there[np.square(self._followed.states[there] - state).sum(-1).argmin()]
        self._left[nearest] = False
        return self._followed.z[nearest]


def check_rewards(task: Task, transitions: Batch) -> None:
    """Raise a UserError where an episode in a task has negative rewards."""
    if (transitions["rewards"] < 0).any():
        raise UserError(
            f"--follow-after: the task {task} has negative rewards, so there is no episode that earned something to "
            "follow; leave it out."
        )


def _return(transitions: Batch, gamma: float) -> float:
    return float(discounted(transitions["rewards"].double().numpy(), gamma)[0])


def _unrewarded(rewards: Sequence[float]) -> int:
    """How many skills there have been since the last one that earned something."""
    return next((count for count, reward in enumerate(reversed(rewards)) if reward > 0), len(rewards))


@torch.no_grad()
def _normalized(module: TaskRLModule, states: torch.Tensor | NDArray[np.floating]) -> Array:
    return module.normalized(torch.as_tensor(states, dtype=torch.float32)).numpy()
