"""Meta-World: environments by name, experts that are recorded, and what is said of bad input."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_spirl import UserError
from rllib_spirl.cli.experiment import load as load_experiments
from rllib_spirl.data import recipe as recipes
from rllib_spirl.demos.outside import MetaWorldRecipe
from rllib_spirl.envs.outside import METAWORLD, METAWORLD_LIMIT
from tests.sets import fingerprint, load
from tests.test_ogbench import experiment, refusal, save

ROOT = Path(__file__).resolve().parents[1]
CLOSE = "metaworld/drawer-close-v3"
EXPERTS = {"source": "metaworld", "tasks": ["drawer-close-v3", "door-close-v3"], "episodes": 2}


def given(tmp_path: Path, **config: Any) -> Path:
    skills = {"data": str(save(tmp_path / "experts.yaml", EXPERTS))}
    return experiment(tmp_path, env=CLOSE, skills=skills, config={"env_config": {"reward": "sparse"}} | config)


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    misspelt = experiment(tmp_path, env="metaworld/drawr-close-v3")
    assert f"did you mean '{CLOSE}'?" in refusal(misspelt, monkeypatch, capfd)
    for tasks, words in (
        (["drawr-open-v3"], "'drawr-open-v3' is no task of Meta-World; did you mean 'drawer-open-v3'?"),
        (["reach-v3", "reach-v3"], "a task is named twice"),
        ([], "tasks = "),
    ):
        with pytest.raises(UserError) as caught:
            recipes.read_recipe(save(tmp_path / "bad.yaml", EXPERTS | {"tasks": tasks}))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "metaworld", None)
    line = refusal(given(tmp_path), monkeypatch, capfd)
    assert "metaworld is not installed: pip install 'rllib_spirl[metaworld]'" in line


def test_shipped_files() -> None:
    recipe = recipes.read_recipe(ROOT / "offline_data" / "metaworld.yaml")
    assert isinstance(recipe, MetaWorldRecipe)
    assert len(recipe.tasks) == 10
    for example in load_experiments(ROOT / "tuned_examples" / "metaworld.yaml"):
        task = str(example.env).removeprefix("metaworld/")
        assert task in set(METAWORLD) - set(recipe.tasks)


@pytest.fixture(scope="module")
def drawer() -> Any:
    pytest.importorskip("metaworld")
    return gym.make(CLOSE, reward="sparse", disable_env_checker=True)


def test_names_are_the_benchmarks() -> None:
    names = pytest.importorskip("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    assert set(METAWORLD) == set(names)
    assert {kind.max_path_length for kind in names.values()} == {METAWORLD_LIMIT}


def test_demonstrations_cannot_be_replayed(
    drawer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refusal(given(tmp_path), monkeypatch, capfd)
    assert f"config.offline_fraction: {CLOSE} cannot label demonstrations for its task; set it to 0" in line
    with pytest.raises(UserError, match="set offline_fraction to 0"):
        drawer.unwrapped.relabel(np.zeros((3, 39)))


def test_other_data_than_the_environments(
    drawer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kitchen = {"source": "scripted", "environment": "kitchen", "demonstrations": 1, "order_length": 1}
    data = save(tmp_path / "kitchen.yaml", kitchen | {"subtasks": ["kettle"]})
    path = experiment(tmp_path, env=CLOSE, skills={"data": str(data)}, config={"offline_fraction": 0})
    words = "39-dimensional observations, but the data of the kitchen's demonstrations has 30"
    assert words in refusal(path, monkeypatch, capfd)


def test_the_environment_is_one(drawer: Any) -> None:
    check_env(drawer.unwrapped, skip_render_check=True)
    assert drawer.spec.max_episode_steps == METAWORLD_LIMIT
    assert drawer.reset(seed=0)[1]["measures"] == {"success": 0.0}


def test_goes_on_where_it_was(drawer: Any) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 4))
    drawer.reset(seed=3)
    for action in actions[:10]:
        drawer.step(action)
    state = drawer.unwrapped.get_state()
    expected = [drawer.step(action)[0] for action in actions[10:]]
    drawer.reset(seed=4)
    drawer.step(actions[0])
    drawer.unwrapped.set_state(state)
    np.testing.assert_array_equal([drawer.step(action)[0] for action in actions[10:]], expected)


def test_an_expert_succeeds_and_dense_rewards_are_the_benchmarks(drawer: Any) -> None:
    from rllib_spirl.demos.metaworld import demonstrate

    found = demonstrate("drawer-close-v3", steps=200, seed=5, noise=0.1)
    episode = found.episode
    assert found.success
    assert episode.terminated
    assert episode.rewards.tolist() == [0.0] * (len(episode) - 1) + [1.0]
    env: Any = gym.make(CLOSE, reward="dense", disable_env_checker=True)
    states, rewards = [env.reset(seed=5)[0]], []
    for action in episode.actions:
        state, reward, terminated, _, info = env.step(action)
        states.append(state)
        rewards.append(reward)
        assert not terminated
    np.testing.assert_array_equal(states, episode.states)
    assert info["measures"] == {"success": 1.0}
    assert 0 < max(rewards) <= 10
    assert demonstrate("drawer-close-v3", steps=3, seed=5, noise=0.1).success is False


def test_experts_are_the_same_for_any_number_of_workers(drawer: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "experts.yaml", EXPERTS)
    sets = [recipes.build(path, output=tmp_path / str(n), workers=n) for n in (1, 2)]
    assert fingerprint(sets[0]) == fingerprint(sets[1])
    frames = load(sets[0])
    assert sorted(frames.episode(i).task for i in range(4)) == ["door-close-v3"] * 2 + ["drawer-close-v3"] * 2
    assert (sets[0].state_dim, sets[0].action_dim, sets[0].ours["env"]) == (39, 4, CLOSE)
