"""Episodic control: of the episodes in a new task, the one that earned most is followed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_spirl import MetaSPiRL, MetaSPiRLConfig
from rllib_spirl.algorithm.replay_buffer import Batch, successive
from rllib_spirl.envs.point_tasks import PointTasksEnv
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.evaluation import adapting
from rllib_spirl.meta import episodic_control
from rllib_spirl.meta.adaptation import Acquaintance
from rllib_spirl.meta.beliefs import recorded
from rllib_spirl.meta.episodic_control import EpisodicControl
from rllib_spirl.skills.chunks import chunk_config, save_chunks
from tests.commands import run

WAY = [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 4
"""Of each skill the action that both of its steps take: by the first post to the second."""


class Posts(PointTasksEnv):
    """A point that earns 1 where it first comes to (0.6, 0), then at (0.6, 0.8), which ends the episode."""

    def __init__(self) -> None:
        super().__init__(max_episode_steps=20)

    def reset(self, **options: Any) -> Any:
        self._reached = 0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, _, _, truncated, info = super().step(action)
        there = np.linalg.norm(observation - [(0.6, 0.0), (0.6, 0.8)][self._reached]) < 0.15
        self._reached += bool(there)
        return observation, float(there), self._reached == 2, truncated, info


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Chunks of two actions."""
    return str(save_chunks(tmp_path_factory.mktemp("chunks"), chunk_config(2, 2, horizon=2)))


@pytest.fixture(scope="module")
def algorithm(skills: str, ray_session: None) -> Iterator[MetaSPiRL]:
    """It has not learned anything."""
    built = (
        MetaSPiRLConfig()
        .environment("rllib_spirl/PointTasks-v0", env_config={"max_episode_steps": 20})
        .training(
            skill_checkpoint=skills,
            training_tasks=[10, 90],
            test_tasks=[50],
            context_dim=2,
            policy_hidden=16,
            critic_hidden=16,
            exploring_episodes=1,
        )
        .debugging(log_level="ERROR")
        .build_algo()
    )
    yield built
    built.stop()


@pytest.fixture
def env(skills: str) -> SkillEnv:
    return SkillEnv(Posts(), skills)


@pytest.fixture
def met(algorithm: MetaSPiRL, env: SkillEnv, monkeypatch: pytest.MonkeyPatch) -> Acquaintance:
    """Of a policy that goes where nothing is earned, and of a prior that stands still."""
    found = Acquaintance(env, algorithm.env_runner.module, 50.0, exploring_episodes=1, context_size=20)
    monkeypatch.setattr(found.policy, "best", lambda *_: np.tile(np.float32([-1, -1]), 2))
    monkeypatch.setattr(
        found.module, "reference", lambda states: torch.distributions.Normal(torch.zeros(1, 4), 1e-6 * torch.ones(1, 4))
    )
    return found


def episode(env: SkillEnv, skills: list[tuple[float, float]], seed: int = 0) -> Batch:
    """Skills one after the other, then none."""
    left = iter(skills)
    return recorded(env, lambda *_: np.tile(np.float32(next(left, (0, 0))), 2), seed)[1]


def test_what_earned_most_is_followed_and_behind_it_is_explored(env: SkillEnv, met: Acquaintance) -> None:
    met.episodes += [episode(env, WAY[:3]), episode(env, [])]  # of which the second counts as the policy's
    control = EpisodicControl(met, gamma=0.9)
    returns = [control.run(seed).episode_return for seed in range(3, 11)]
    # Where an episode follows, it comes as far as the one that it follows. Every second one may be the policy's.
    assert returns[1::2] == [1.0] * 4
    assert set(returns[::2]) == {0.0, 1.0}
    assert len(met.episodes) == 2 + returns.count(0.0)  # the policy's alone tell the task

    met.episodes[0] = episode(env, WAY)
    assert met.episodes[0]["terminated"][-1]
    control = EpisodicControl(met, gamma=0.9)
    assert [control.run(seed).episode_return for seed in range(3, 11)][1:] == [2.0] * 7  # solved, so none explores


def test_skills_from_the_prior_find_what_lies_behind(
    env: SkillEnv, met: Acquaintance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they have, that is followed too; until then the policy goes away from where the episode ends."""
    met.episodes += [episode(env, WAY[:3]), episode(env, [])]
    north = torch.distributions.Normal(torch.tensor([[0.0, 1, 0, 1]]), 1e-6 * torch.ones(1, 4))
    monkeypatch.setattr(met.module, "reference", lambda states: north)
    control = EpisodicControl(met, gamma=0.9)
    returns = [control.run(seed).episode_return for seed in range(3, 23)]
    found = returns.index(2.0)
    assert found % 2 == 0  # the first of them is the third episode in the task
    assert set(returns[:found]) <= {0.0, 1.0}
    assert returns[found + 1 :: 2] == [2.0] * len(returns[found + 1 :: 2])


def test_the_policy_acts_where_it_does_as_well(env: SkillEnv, met: Acquaintance) -> None:
    met.episodes += [episode(env, [(0, 1)] * 3), episode(env, WAY)]
    control = EpisodicControl(met, gamma=0.9)
    remembered = control._remembered
    assert [each.total for each in remembered] == [2.0]  # without a reward there is nothing to follow
    control._by_policy.total += 10
    assert control._best() is None
    control._by_policy.total -= 10.1
    assert control._best() is remembered[0]
    # One episode of 0.9² + 0.9⁶, and half of one of the policy's mean.
    usual = control._by_policy.mean
    assert usual == pytest.approx(0.9**2 + 0.9**6 - 0.1)
    assert remembered[0].returns.mean_with(usual) == pytest.approx((0.9**2 + 0.9**6 + 0.5 * usual) / 1.5)


def test_the_nearest_state_in_which_as_much_was_earned_tells_the_skill(algorithm: MetaSPiRL) -> None:
    states = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    z = torch.arange(12.0).reshape(3, 4)
    transitions = successive(states, z, torch.tensor([0.0, 1, 0]), False)
    module = algorithm.env_runner.module
    remembered = episodic_control._Remembered(module, transitions, 0.9)
    where = [module.normalized(state[None])[0].numpy() for state in states]
    steps = remembered.steps()
    assert steps.next(where[2], 0.0) == pytest.approx(z[1])  # the third was taken when 1 had been earned
    assert steps.next(where[2], 0.0) == pytest.approx(z[0])  # each once
    assert steps.next(where[0], 0.0) is None
    assert steps.next(where[0], 0.5) is None
    assert not steps.at_end(0.0)
    assert steps.at_end(1.0)
    assert steps.next(where[2], 1.0) is None  # nothing was earned from there on


@pytest.mark.parametrize(
    ("rewards", "unrewarded"), [([], 0), ([0.0, 0.0], 2), ([1.0, 0.0, 0.0], 2), ([0.0, 1.0], 0), ([1.0, -1.0], 1)]
)
def test_skills_since_the_last_reward_are_counted(rewards: list[float], unrewarded: int) -> None:
    assert episodic_control._unrewarded(rewards) == unrewarded


def test_a_command_follows_after_the_episodes_that_are_asked_for(
    algorithm: MetaSPiRL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    followed: list[int] = []
    by_control = EpisodicControl.run

    def noted(control: EpisodicControl, seed: int) -> Any:
        followed.append(control._number + 1)
        return by_control(control, seed)

    monkeypatch.setattr(EpisodicControl, "run", noted)
    command = ["spirl", "adapt", saved, "--episodes", "5", "--output", str(tmp_path / "adaptation")]
    assert run([*command, "--follow-after", "3"], monkeypatch) == 0
    assert followed == [4, 5]
    capsys.readouterr()
    plain = adapting.adapt(adapting.adaptable(saved), [50.0], episodes=3)["50.0"]
    following = adapting.adapt(adapting.adaptable(saved), [50.0], episodes=4, follow_after=3)["50.0"]
    assert following[:3] == plain

    for options, message in (
        (["--follow-after", "5"], "--follow-after 5: there are 5 episodes in all; ask for more --episodes"),
        (["--follow-after", "3", "--fine-tune-after", "3"], "leave --fine-tune-after out"),
    ):
        assert run([*command, *options], monkeypatch) == 1
        assert message in capsys.readouterr().err
