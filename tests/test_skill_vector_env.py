"""Many environments of skills side by side do what each of them would do alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from ray.tune.registry import register_env

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner
from rllib_spirl.envs.block_stacking import BlockStackingEnv
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.skill_vector_env import SkillVectorEnv, make_vector_env
from rllib_spirl.errors import UserError
from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.decoder import SkillDecoder
from rllib_spirl.skills.model import SkillModel, SkillModelConfig, StateSet
from tests.point import PointEnv, PointsEnv

pytestmark = pytest.mark.usefixtures("ray_session")
LIMIT = 23
"""No multiple of the horizon: the last skill of an episode is short."""


def points(config: dict[str, Any]) -> PointEnv | PointsEnv:
    """Many where it is asked for them, as Ray Tune's registry is to make them."""
    return PointsEnv(config) if "num_envs" in config else PointEnv(config)


@pytest.fixture
def config(point_settings: dict[str, Any]) -> SPiRLConfig:
    register_env("points", points)
    return (
        SPiRLConfig()
        .environment("points", env_config={"limit": LIMIT})
        .training(**point_settings)
        .env_runners(num_envs_per_env_runner=6, gym_env_vectorize_mode="vector_entry_point", rollout_fragment_length=4)
        .reporting(min_sample_timesteps_per_iteration=24)
        .debugging(seed=3, log_level="ERROR")
    )


@pytest.mark.parametrize("decoder", ["closed_loop", "open_loop", "identity"])
def test_skills_decoded_together_are_those_decoded_alone(decoder: Any) -> None:
    torch.manual_seed(0)
    latent_dim = 6 if decoder == "identity" else 4
    shape = SkillModelConfig(state_dim=3, action_dim=2, horizon=3, latent_dim=latent_dim, decoder=decoder)
    model = SkillModel(shape).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    z, states = rng.normal(size=(5, latent_dim)).astype(np.float32), rng.normal(size=(4, 5, 3))
    together, alone = SkillDecoder(model), [SkillDecoder(model) for _ in z]
    together.start(z)
    for decoder_of_one, its in zip(alone, z, strict=True):
        decoder_of_one.start(its)
    for step, at in enumerate(states):
        if step == 2:  # two of them begin others, in the middle of those of the rest
            due = np.array([True, False, False, True, False])
            together.start(z[::-1], due)
            for index in np.flatnonzero(due):
                alone[index].start(z[::-1][index])
        if step == 3:  # the skills of the rest are over
            together.start(z, ~due)
            for index in np.flatnonzero(~due):
                alone[index].start(z[index])
        wanted = [one.act(state) for one, state in zip(alone, at, strict=True)]
        np.testing.assert_allclose(together.act(at), wanted, atol=1e-5)


def test_skills_chosen_together_are_those_chosen_alone(config: SPiRLConfig, built: Callable[[SPiRL], SPiRL]) -> None:
    algorithm = built(config.build_algo())
    algorithm.train()
    policy = ActingPolicy(algorithm.env_runner.module)
    states = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    for together, alone in zip(policy._skills(states), zip(*map(policy._skills, states), strict=True), strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(policy.best(states), [policy.best(state) for state in states], atol=1e-5)
    assert policy.sample(states, np.random.default_rng(0)).shape == (7, 2)


def _episodes(env: SkillVectorEnv, z: Any, wanted: int) -> list[list[list[Any]]]:
    """Of each environment the first episodes, as (state, z, reward, steps, next state, terminated, truncated)."""
    episodes: list[list[list[Any]]] = [[[]] for _ in range(env.num_envs)]
    taken = np.zeros(env.num_envs, int)
    shown, infos = env.reset(seed=7)
    assert infos["begun"].all()
    chosen_in, chosen = shown.copy(), np.zeros((env.num_envs, 2), np.float32)
    while min(map(len, episodes)) <= wanted:
        due = env.due
        chosen_in[due] = shown[due]
        for index in np.flatnonzero(due):
            chosen[index] = z[index, taken[index]]
            taken[index] += 1
        shown, rewards, terminated, truncated, infos = env.step(chosen)
        assert infos["ended"].any() or infos["begun"].any()
        assert not rewards[~infos["ended"]].any()
        for index in np.flatnonzero(infos["ended"]):
            step = [chosen_in[index].copy(), chosen[index].copy(), rewards[index], infos["low_level_steps"][index]]
            step += [infos["final_obs"][index].copy(), terminated[index], truncated[index]]
            episodes[index][-1].append(step)
            assert set(infos["last"][index]["subtasks"]) == {"right", "up"}
            if terminated[index] or truncated[index]:
                episodes[index].append([])
    return [of_one[:wanted] for of_one in episodes]


def _check_against(alone: SkillEnv, episode: list[Any]) -> None:
    """The environment goes through a recorded episode, if it begins where that began."""
    state = episode[0][0]
    np.testing.assert_allclose(alone.env.unwrapped.position, state, atol=1e-6)  # type: ignore[attr-defined]
    for index, (before, z, reward, steps, after, terminated, truncated) in enumerate(episode):
        np.testing.assert_allclose(before, state, atol=1e-4)
        state, its_reward, its_end, its_limit, info = alone.step(z)
        assert (its_reward, info["low_level_steps"], its_end, its_limit) == (reward, steps, terminated, truncated)
        np.testing.assert_allclose(after, state, atol=1e-4)
        assert (terminated or truncated) == (index == len(episode) - 1)


@pytest.mark.parametrize("bound", [None, 2.0])
def test_copies_of_an_environment_do_what_each_would_alone(point_skills: str, bound: float | None) -> None:
    copies = make_vector_env(PointEnv, {"limit": LIMIT}, 3, batched=False)
    z = np.random.default_rng(0).normal(size=(3, 40, 2)).astype(np.float32)
    recorded = _episodes(SkillVectorEnv(copies, point_skills, bound), z, wanted=3)
    for index, episodes in enumerate(recorded):
        alone = SkillEnv(PointEnv({"limit": LIMIT}), point_skills, bound)
        alone.reset(seed=7 + index)
        for episode in episodes:
            assert sum(step[3] for step in episode) == LIMIT or episode[-1][5]
            _check_against(alone, episode)
            alone.reset()


@pytest.mark.parametrize("same_step", [False, True])
def test_an_environment_that_is_many_does_what_one_would(point_skills: str, same_step: bool) -> None:
    count = 1024
    many = PointsEnv({"num_envs": count, "limit": LIMIT, "same_step": same_step})
    z = np.random.default_rng(0).normal(size=(count, 40, 2)).astype(np.float32)
    recorded = _episodes(SkillVectorEnv(many, point_skills), z, wanted=2)
    for index in range(0, count, 97):
        for episode in recorded[index]:
            alone = SkillEnv(PointEnv({"limit": LIMIT}), point_skills)
            alone.reset()
            alone.unwrapped.position[:] = episode[0][0]  # type: ignore[attr-defined]
            alone._observation = episode[0][0]
            _check_against(alone, episode)


@pytest.mark.parametrize("same_step", [False, True])
def test_it_is_sampled_as_others_are(config: SPiRLConfig, same_step: bool) -> None:
    config.env_config["same_step"] = same_step
    runner = SkillEnvRunner(config=config, worker_index=0)
    pieces: dict[str, list[Any]] = {}
    for _ in range(8):
        for piece in runner.sample():
            pieces.setdefault(piece.id_, []).append(piece)
    whole = [episode for episode in pieces.values() if episode[-1].is_done]
    assert len(whole) > 6
    for episode in whole:
        infos = [info for piece in episode for info in piece.get_infos(slice(-len(piece), None))]
        assert sum(info["low_level_steps"] for info in infos) == LIMIT or episode[-1].is_terminated
        assert set(infos[-1]["subtasks"]) == {"right", "up"}
    runner.stop()


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_training_with_many_environments(
    config: SPiRLConfig, mode: str, built: Callable[[SPiRL], SPiRL], tmp_path: Path
) -> None:
    config.env_runners(gym_env_vectorize_mode=mode)
    if mode == "sync":
        config.environment(PointEnv)
    config.environment(env_config={"limit": LIMIT})
    algorithm = built(config.build_algo())
    result = [algorithm.train() for _ in range(2)][-1]
    assert result["updates"] > 10
    assert 0 <= result["completed_subtasks"] <= 2
    if mode == "sync":  # the state of its environments is known: a run goes on as if it had not stopped
        restored = built(SPiRL.from_checkpoint(algorithm.save_to_path(str(tmp_path / "checkpoint"))))
        random = torch.get_rng_state()  # which both draw from
        first = algorithm.train()
        torch.set_rng_state(random)
        assert restored.train()["env_steps"] == first["env_steps"]
        weights = [each.learner_group._learner.module["default_policy"].state_dict() for each in (algorithm, restored)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("decoder", ["open_loop", "identity"])
def test_skills_that_are_known_at_their_start_run_side_by_side(decoder: Any, tmp_path: Path) -> None:
    """Episodes end with, within and beside skills of three steps, so that in some steps none is due."""
    shape = SkillModelConfig(
        state_dim=2, action_dim=2, horizon=3, latent_dim=6, decoder=decoder, hidden=8, layers=1, prior_layers=1
    )
    skills = str(save_skills(tmp_path, SkillModel(shape), SkillCard(model=shape)))
    envs = [lambda limit=limit: PointEnv({"limit": limit}) for limit in (6, 7)]
    env = SkillVectorEnv(SyncVectorEnv(envs), skills)
    env.reset(seed=0)
    steps = np.zeros(2, int)
    for _ in range(20):
        *_, info = env.step(np.full((2, 6), 0.1, np.float32))
        steps += info["low_level_steps"]
    assert (steps > 20).all()


def test_gymnasiums_own_way_of_many_is_taken() -> None:
    gym.register(
        "Points-v0", entry_point=PointEnv, vector_entry_point=lambda num_envs: PointsEnv({"num_envs": num_envs})
    )
    try:
        assert isinstance(make_vector_env("Points-v0", {}, 4, batched=True).unwrapped, PointsEnv)
        assert isinstance(make_vector_env("Points-v0", {}, 4, batched=False), SyncVectorEnv)
    finally:
        del gym.registry["Points-v0"]


def test_skills_over_sets_run_side_by_side(tmp_path: Path) -> None:
    """All episodes end in the same step, after which no environment is due."""
    state_set = StateSet(own=BlockStackingEnv.GRIPPER_DIM, item=BlockStackingEnv.BLOCK_DIM)
    shape = SkillModelConfig(state_dim=state_set.own + 2 * state_set.item, action_dim=3, horizon=4, state_set=state_set)
    save_skills(tmp_path, SkillModel(shape), SkillCard(model=shape, data="none", training={}, metrics={}))
    config = (
        SPiRLConfig()
        .environment("rllib_spirl/BlockStacking-v0", env_config={"blocks": 2, "max_episode_steps": 12})
        .training(skill_checkpoint=str(tmp_path))
        .env_runners(num_envs_per_env_runner=2, rollout_fragment_length=8)
        .debugging(seed=0, log_level="ERROR")
    )
    runner = SkillEnvRunner(config=config, worker_index=0)
    try:
        episodes = [episode for _ in range(2) for episode in runner.sample()]
    finally:
        runner.stop()
    assert sum(episode.is_done for episode in episodes) >= 2


@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_finite_is_told(point_skills: str, first: bool) -> None:
    class Diverging(PointsEnv):
        """Its states are NaN at the start, or at the end of an episode."""

        def reset(self, **arguments: Any) -> Any:
            observations, info = super().reset(**arguments)
            return observations * (np.nan if first else 1), info

        def step(self, actions: Any) -> Any:
            *result, infos = super().step(actions)
            if "final_obs" in infos:
                infos["final_obs"] = infos["final_obs"] * np.nan
            return *result, infos

    env = SkillVectorEnv(Diverging({"num_envs": 2, "limit": LIMIT, "same_step": True}), point_skills)

    def run() -> None:
        env.reset()
        for _ in range(10):
            env.step(np.zeros((2, 2), np.float32))

    with pytest.raises(UserError, match="observation is not finite"):
        run()


def test_the_environment_of_evaluations_is_closed(config: SPiRLConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[PointEnv] = []
    monkeypatch.setattr(PointEnv, "close", lambda self: closed.append(self))
    runner = SkillEnvRunner(config=config, worker_index=0)
    runner.run_episodes([0])
    assert not closed
    runner.stop()
    assert len(closed) == 1


def test_what_is_no_environment_of_many_is_refused(point_skills: str) -> None:
    with pytest.raises(UserError, match="makes a PointEnv, but gym_env_vectorize_mode 'vector_entry_point'"):
        make_vector_env(PointEnv, {}, 4, batched=True)
    with pytest.raises(UserError, match="makes 3 copies"):
        make_vector_env(lambda config: PointsEnv({"num_envs": 3}), {}, 4, batched=True)
    disabled: VectorEnv = SyncVectorEnv([PointEnv] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(UserError, match="autoreset_mode"):
        SkillVectorEnv(disabled, point_skills)
