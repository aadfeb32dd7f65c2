"""Trials of RL²: what a recurrent policy is told, and that it remembers through a trial and not beyond."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from rllib_spirl.envs.skill_env import try_env
from rllib_spirl.envs.trials import TrialEnv
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import adapting
from tests.commands import run

POINT = "rllib_spirl/PointTasks-v0"
STEPS = 4
FAMILY = {"env": POINT, "env_config": {"max_episode_steps": STEPS}}


def trials(**arguments: Any) -> TrialEnv:
    return TrialEnv(
        **{"env": POINT, "env_config": {"max_episode_steps": STEPS}, "tasks": [0, 90], "episodes": 3} | arguments
    )


def test_a_trial_is_several_episodes_of_one_task() -> None:
    env = trials()
    rng = np.random.default_rng(0)
    seen = set()
    for seed in range(6):
        observation, _ = env.reset(seed=seed)
        task = env.family.get_task()
        seen.add(task)
        assert observation.tolist() == [0] * 6
        returns = []
        for step in range(1, 3 * STEPS + 1):
            action = rng.uniform(-2, 2, 2)
            observation, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_allclose(observation[2:4], action.clip(-1, 1), rtol=1e-6)
            assert observation[4] == pytest.approx(reward)
            first = step % STEPS == 0  # of the next episode, or the end of the trial
            assert observation[5] == first
            if first and step < 3 * STEPS:
                assert observation[:2].tolist() == [0, 0]
            assert (terminated, truncated) == (False, step == 3 * STEPS)
            assert env.family.get_task() == task
            returns = [*returns, reward] if step % STEPS == 1 else [*returns[:-1], returns[-1] + reward]
        assert info["measures"] == pytest.approx({f"episode_{i}": value for i, value in enumerate(returns, 1)})
    assert seen == {0.0, 90.0}


def test_a_task_can_be_asked_for_and_drawn_by_the_environment() -> None:
    env = trials(tasks=None)
    env.reset(seed=0, options={"task": 45})
    assert env.family.get_task() == 45
    drawn = []
    for _ in range(5):
        env.reset()
        drawn.append(env.family.get_task())
    assert len(set(drawn)) == 5
    again = []
    for each in (env, trials(tasks=None)):
        each.reset(seed=3)
        again.append(each.family.get_task())
    assert again[0] == again[1], "a seed decides the task too"
    check_env(trials(), skip_render_check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1, not 0"),
        ({"episodes": 2.5}, "episodes must be a whole number, not 2.5"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": None, "in_turn": True}, "in_turn is of tasks that are named"),
        ({"in_turn": "yes"}, "in_turn must be true or false, not 'yes'"),
        ({"tasks": [200]}, "a task is a direction from 0 to 180 degrees, not 200"),
        ({"env": "Pendulum-v1", "env_config": {}}, "Pendulum-v1 has one task only"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        trials(**arguments)
    assert "\n" not in str(caught.value)


def test_tasks_can_come_in_turn() -> None:
    env = trials(tasks=[0, 45, 90], in_turn=True)
    met = []
    for seed in (7, None, None, 7, 7):  # RLlib resets with the same seed whenever it samples whole episodes
        env.reset(seed=seed)
        met.append(env.family.get_task())
    assert met == [0, 45, 90, 0, 45]


def test_the_limit_of_episodes_is_the_inner_environments() -> None:
    with pytest.raises(UserError, match="max_episode_steps is one of the episodes that make a trial"):
        try_env("rllib_spirl/Trials-v0", {"env": "rllib_spirl/PointTasks-v0", "max_episode_steps": 30})
    inner = {"env": "rllib_spirl/PointTasks-v0", "env_config": {"max_episode_steps": 7}}
    with closing(try_env("rllib_spirl/Trials-v0", inner)) as env:
        env.reset()
        ends = [env.step(np.zeros(2))[3] for _ in range(14)]
    assert ends == [False] * 13 + [True]


def recurrent(**env_config: Any) -> PPOConfig:
    """RL² in miniature, in trials of two episodes."""
    return (
        PPOConfig()
        .environment("rllib_spirl/Trials-v0", env_config=FAMILY | env_config)
        .env_runners(num_env_runners=0, rollout_fragment_length=2 * STEPS)
        .rl_module(model_config=DefaultModelConfig(use_lstm=True, lstm_cell_size=8, max_seq_len=2 * STEPS))
        .debugging(seed=0, log_level="ERROR")
    )


def test_the_hidden_state_survives_episodes_and_not_trials(ray_session: None) -> None:
    algorithm = recurrent().build_algo()
    try:
        runner = algorithm.env_runner
        episodes = runner.sample(num_episodes=2, explore=False)
        assert [len(episode) for episode in episodes] == [2 * STEPS] * 2

        def after(state: dict[str, Any] | None, observation: Any) -> dict[str, torch.Tensor]:
            start = runner.module.get_initial_state() if state is None else state
            batch = {Columns.OBS: torch.as_tensor(observation)[None, None]}
            batch[Columns.STATE_IN] = {name: torch.as_tensor(np.asarray(value))[None] for name, value in start.items()}
            out = runner.module.forward_inference(batch)[Columns.STATE_OUT]
            return {name: value[0].detach() for name, value in out.items()}

        for episode in episodes:
            observations = episode.get_observations()
            states = [episode.get_extra_model_outputs(Columns.STATE_OUT, t) for t in range(2 * STEPS)]

            def equal(state: dict[str, Any], expected: dict[str, torch.Tensor]) -> bool:
                return all(np.allclose(state[name], expected[name], atol=1e-5) for name in expected)

            assert equal(states[0], after(None, observations[0])), "a trial begins with a new state"
            assert observations[STEPS][-1] == 1, "an episode has ended here"
            assert equal(states[STEPS], after(states[STEPS - 1], observations[STEPS]))
            assert not equal(states[STEPS], after(None, observations[STEPS])), "it would have forgotten"
    finally:
        algorithm.stop()


def test_a_recurrent_policy_meets_a_new_task_in_one_trial(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recurrent(tasks=[0, 90])
    algorithm = config.evaluation(evaluation_config={"env_config": FAMILY | {"tasks": [0, 45]}}).build_algo()
    saved = str(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    algorithm.stop()
    source = adapting.adaptable(saved)
    assert (source.method, source.trained_on, source.test_tasks) == ("RL²", [0, 90], [45])
    with pytest.raises(UserError, match=r"'90.0' is a task that .* was trained on"):
        adapting.check_tasks(source, [90])
    curves = adapting.adapt(source, adapting.check_tasks(source, [45, 135]), episodes=5)
    assert {task: [episode for episode, _ in curve] for task, curve in curves.items()} == {
        "45.0": [1, 2],
        "135.0": [1, 2],
    }, "its trials have two episodes"
    aside = replace(source, config=source.config | {"gym_env_vectorize_mode": gym.VectorizeMode.ASYNC})
    shorter = adapting.adapt(aside, [45.0], episodes=1)
    assert shorter["45.0"] == curves["45.0"][:1]
    with pytest.raises(UserError, match="of RL²: leave --exploring out"):
        adapting.adapt(source, [45.0], episodes=1, exploring_episodes=1)
    command = ["spirl", "adapt", saved, "--task", "45", "--episodes", "5", "--output", str(tmp_path / "adapted")]
    assert run(command, monkeypatch) == 0
    assert f"{saved} is of trials of 2 episodes: there are no more in a task" in capsys.readouterr().out
    assert run([*command, "--resume"], monkeypatch) == 0
    assert f"{tmp_path / 'adapted'} has 1 of 1 tasks already" in capsys.readouterr().out
