"""Episodic control: of the episodes in a new task, the one that earned most is followed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_spirl import MetaSPiRL, MetaSPiRLConfig, UserError
from rllib_spirl.algorithm.replay_buffer import Batch, successive
from rllib_spirl.envs.point_tasks import PointTasksEnv
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.evaluation import adapting
from rllib_spirl.meta import episodic_control
from rllib_spirl.meta.adaptation import Acquaintance
from rllib_spirl.meta.beliefs import recorded
from rllib_spirl.meta.episodic_control import EpisodicControl
from rllib_spirl.meta.meeting import check_ways, meet
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
        .environment("rllib_spirl/PointTasks-v0", env_config={"max_episode_steps": 20, "sparse": True})
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


def test_the_last_episode_does_not_explore(env: SkillEnv, met: Acquaintance) -> None:
    met.episodes += [episode(env, WAY[:3]), episode(env, [])]
    for seed in range(8):  # else every second one would be the policy's, which earns nothing
        assert EpisodicControl(met, gamma=0.9).run(seed, last=True).episode_return == 1.0


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


def test_a_lucky_episode_is_left_for_a_steadier_one(env: SkillEnv, met: Acquaintance) -> None:
    met.episodes += [episode(env, WAY), episode(env, WAY[:3]), episode(env, [])]
    control = EpisodicControl(met, gamma=0.9)
    lucky, steady = control._remembered
    assert control._best() is lucky
    lucky.returns.episodes += 2  # which earned nothing
    assert lucky.returns.mean == pytest.approx((0.9**2 + 0.9**6) / 3)
    assert control._best() is steady


@pytest.mark.parametrize(("failed", "reliable"), [(0, True), (1, True), (2, False)])
def test_four_of_five_are_reliable(failed: int, reliable: bool) -> None:
    returns = episodic_control._Returns(episodes=5, solved=5 - failed)
    assert returns.reliable == reliable
    assert not episodic_control._Returns(episodes=1, solved=1).reliable


def test_exploring_begins_after_five_skills_that_earned_nothing(
    env: SkillEnv, met: Acquaintance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every second episode. The policy stands still here, and the prior goes east."""
    monkeypatch.setattr(met.policy, "best", lambda *_: np.zeros(4, np.float32))
    east = torch.distributions.Normal(torch.tensor([[1.0, 0, 1, 0]]), 1e-6 * torch.ones(1, 4))
    monkeypatch.setattr(met.module, "reference", lambda states: east)
    met.episodes += [episode(env, []), episode(env, [])]
    control = EpisodicControl(met, gamma=0.9)
    assert control.run(3).episode_return == 1.0
    found = met.episodes[-1]
    assert found["z"][:, 0].round(decimals=2).tolist() == [0.0] * 5 + [1.0] * 3 + [0.0] * 2  # 0.2 a skill, to 0.6
    assert control.run(4).episode_return == 1.0  # which follows that one


def test_followed_skills_have_a_fifth_of_the_noise_of_the_prior(
    env: SkillEnv, met: Acquaintance, monkeypatch: pytest.MonkeyPatch
) -> None:
    met.episodes += [episode(env, WAY), episode(env, [])]
    wide = torch.distributions.Normal(torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.5, 0.5]]))
    monkeypatch.setattr(met.module, "reference", lambda states: wide)
    control = EpisodicControl(met, gamma=0.9)
    followed = control._remembered[0]
    noise: list[torch.Tensor] = []
    run_by = met.run_by

    def noted(*arguments: Any, **named: Any) -> Any:
        result, transitions = run_by(*arguments, **named)
        count = min(len(transitions["z"]), 3)  # before the first reward
        noise.append(transitions["z"][:count] - torch.from_numpy(followed.z[:count]))
        return result, transitions

    monkeypatch.setattr(met, "run_by", noted)
    monkeypatch.setattr(control, "_best", lambda: followed)
    for seed in range(100):
        control._number = 3  # so that none explores
        control.run(seed)
    spread = torch.cat(noise).square().mean(0).sqrt()
    assert spread.numpy() == pytest.approx([0.2, 0.2, 0.1, 0.1], rel=0.15)


def test_with_the_prior_of_skills_it_runs(env: SkillEnv, algorithm: MetaSPiRL) -> None:
    met = Acquaintance(env, algorithm.env_runner.module, 50.0, exploring_episodes=1, context_size=20)
    met.episodes += [episode(env, WAY[:3]), episode(env, [])]
    control = EpisodicControl(met, gamma=0.9)
    returns = [control.run(seed).episode_return for seed in range(6)]
    assert set(returns) <= {0.0, 1.0, 2.0}
    assert len(met.episodes) >= 2


def test_where_steps_cost_something_nothing_can_be_followed(algorithm: MetaSPiRL, skills: str) -> None:
    met = Acquaintance(
        SkillEnv(PointTasksEnv(), skills), algorithm.env_runner.module, 50.0, exploring_episodes=1, context_size=20
    )
    met.run(0)
    with pytest.raises(UserError, match=r"--follow-after: the task 50.0 has negative rewards"):
        EpisodicControl(met, gamma=0.9)
    # It is said with the first episode.
    with pytest.raises(UserError, match=r"--follow-after: the task 90.0 has negative rewards"):
        next(meet(algorithm, SkillEnv(PointTasksEnv(), skills), 90.0, episodes=4, follow_after=3))


def test_the_nearest_state_in_which_as_many_had_earned_something_tells_the_skill(algorithm: MetaSPiRL) -> None:
    states = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    z = torch.arange(12.0).reshape(3, 4)
    transitions = successive(states, z, torch.tensor([0.0, 0.7, 0]), False)
    module = algorithm.env_runner.module
    remembered = episodic_control._Remembered(module, transitions, 0.9)
    where = [module.normalized(state[None])[0].numpy() for state in states]
    steps = episodic_control._Steps(remembered)
    assert steps.next(where[2], 0) == pytest.approx(z[1])  # the third was taken after a reward
    assert steps.next(where[2], 0) == pytest.approx(z[0])  # each once
    assert steps.next(where[0], 0) is None
    assert not steps.at_end(0)
    assert steps.at_end(1)
    assert steps.next(where[2], 1) is None  # nothing was earned from there on


@pytest.mark.parametrize(
    ("rewards", "unrewarded"), [([], 0), ([0.0, 0.0], 2), ([1.0, 0.0, 0.0], 2), ([0.0, 1.0], 0), ([1.0, -1.0], 1)]
)
def test_skills_since_the_last_reward_are_counted(rewards: list[float], unrewarded: int) -> None:
    assert episodic_control._unrewarded(rewards) == unrewarded


def test_a_command_follows_after_the_episodes_that_are_asked_for(
    algorithm: MetaSPiRL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    ran: list[tuple[int, float]] = []
    by_control = EpisodicControl.run

    last: list[bool] = []

    def noted(control: EpisodicControl, seed: int, **options: Any) -> Any:
        result = by_control(control, seed, **options)
        ran.append((control._number, control._gamma))
        last.append(options["last"])
        return result

    monkeypatch.setattr(EpisodicControl, "run", noted)
    command = ["spirl", "adapt", saved, "--episodes", "5", "--output", str(tmp_path / "adaptation")]
    assert run([*command, "--follow-after", "3"], monkeypatch) == 0
    assert ran == [(4, algorithm.config.gamma), (5, algorithm.config.gamma)]
    assert last == [False, True]
    capsys.readouterr()
    plain = adapting.adapt(adapting.adaptable(saved), [50.0], episodes=3)["50.0"]
    following = adapting.adapt(adapting.adaptable(saved), [50.0], episodes=4, follow_after=3)["50.0"]
    assert following[:3] == plain

    for options, message in (
        (["--follow-after", "5"], "--follow-after 5: there are 5 episodes in all; ask for more --episodes"),
        (["--follow-after", "3", "--fine-tune-after", "3"], "leave one way out"),
        (["--follow-after", "2", "--exploring", "2"], "the first 2 episodes explore, and one more at least shows"),
    ):
        assert run([*command, *options], monkeypatch) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="--follow-after 0: must be at least 1"):
        check_ways(None, 0, 5)
