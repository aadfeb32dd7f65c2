"""What the benchmarks share: skills to run, interleaved rounds, and the closing JSON line."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.algorithm.spirl import SPiRL
from rllib_spirl.algorithm.spirl_config import SPiRLConfig
from rllib_spirl.data import DataSet, Episode, TrajectoryWriter
from rllib_spirl.envs.kitchen import KitchenEnv
from rllib_spirl.progress import track
from rllib_spirl.ray_start import start_local
from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.model import SkillModel, SkillModelConfig

Long = Annotated[bool, typer.Option("--long", help="Take the time for the careful figure.")]
# So many seconds of rounds unless a benchmark is called with --long: its line then comes within three minutes.
SHORT_S = 75.0

TASK = {"tasks": ["microwave", "kettle", "bottom burner", "light switch"], "ordered": True}


def kitchen_skills(decoder: Literal["closed_loop", "open_loop"] = "closed_loop", seed: int = 0) -> str:
    """A checkpoint of untrained skills for Kitchen-v0, as large as trained ones: they take the same time."""
    torch.manual_seed(seed)
    model = SkillModel(SkillModelConfig(state_dim=30, action_dim=9, decoder=decoder))
    folder = Path(tempfile.mkdtemp(prefix="skills-"))
    return str(save_skills(folder, model, SkillCard(model=model.config, data="none")))


def kitchen_config(skills: str, **training: Any) -> SPiRLConfig:
    """The kitchen experiment with given skills and no demonstrations."""
    config = SPiRLConfig().environment("rllib_spirl/Kitchen-v0", env_config=TASK)
    return config.training(skill_checkpoint=skills, target_bounds=(0, 4), **training).debugging(seed=0)


def start_ray(cpus: int = 2) -> None:
    """A local Ray without its own output."""
    start_local(num_cpus=cpus, log_to_driver=False, logging_level=logging.ERROR)


def synthetic_data(path: Path, transitions: int, seed: int = 0) -> DataSet:
    """A data set of smooth random episodes of 200 steps as wide as the kitchen's, made unless it is there."""
    if path.exists():
        return DataSet.open(path)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((4_000_000,), np.float32)
    with TrajectoryWriter(path, fps=12.5, source={"source": "synthetic"}) as writer:
        for _ in track(range(transitions // 200), "making data", total=transitions // 200):
            at, where = rng.integers(3_980_000, size=2)
            steps = noise[at : at + 201 * 30].reshape(201, 30)
            actions = np.tanh(noise[where : where + 200 * 9]).reshape(200, 9)
            writer.add(Episode(np.cumsum(0.1 * steps, axis=0), actions, np.zeros(200, np.float32), False, True, "none"))
    return writer.data_set


def low_level_steps(episodes: Iterable[SingleAgentEpisode]) -> int:
    """How many there are in pieces of episodes, each step of which is a skill."""
    return sum(info["low_level_steps"] for e in episodes for info in e.get_infos(slice(-len(e), None)))


def random_transitions(count: int) -> dict[str, torch.Tensor]:
    """Columns for a `SkillReplay` as wide as the kitchen's."""
    return {
        "states": torch.randn(count, 30),
        "z": torch.randn(count, 10),
        "rewards": (torch.rand(count) > 0.9).float(),
        "next_states": torch.randn(count, 30),
        "terminated": (torch.rand(count) > 0.98).float(),
    }


def warm(algorithm: SPiRL) -> SPiRL:
    """The algorithm past its warm-up, with random demonstrations."""
    algorithm.offline = SkillReplay(20_000, 30, 10)
    algorithm.offline.add(random_transitions(20_000))
    algorithm._warm = True
    return algorithm


class RecordedKitchen(KitchenEnv):
    """Keeps what physics was asked for, so that bare MuJoCo can be asked the same."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(**config)
        self.targets: list[np.ndarray | None] = []  # None where an episode began
        self.initial_positions = np.empty(0)

    def reset(self, **kwargs: Any) -> Any:
        self.targets.append(None)
        result = super().reset(**kwargs)
        self.initial_positions = self.data.qpos.copy()
        return result

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self.targets.append(self.data.ctrl.copy())
        return result


def rounds(
    runs: Mapping[str, Callable[[], float]], count: int, seconds: float | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Call each of ``runs`` once per round in random order, after a first call to warm up; their rates, (rounds,).

    There are ``count`` rounds, but none begins after ``seconds`` where these are given, except the first.
    """
    rng = np.random.default_rng(seed)
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    start = time.monotonic()
    for done in track(range(count), "measuring", total=count):
        if done > 0 and seconds is not None and time.monotonic() - start > seconds:
            break
        for name in rng.permutation(list(runs)):
            rates[name].append(runs[name]())
    return {name: np.array(values) for name, values in rates.items()}


def compare(name: str, rates: Mapping[str, np.ndarray], ours: str, reference: str, unit: str) -> dict[str, Any]:
    """The figures of one bar: medians, and the median and quartiles of the ratio within each round."""
    ratio = rates[ours] / rates[reference]
    return {
        "name": name,
        "ours": round(float(np.median(rates[ours])), 2),
        "reference": round(float(np.median(rates[reference])), 2),
        "unit": unit,
        "ratio": round(float(np.median(ratio)), 3),
        "rounds": len(ratio),
        "spread": [round(float(quartile), 3) for quartile in np.quantile(ratio, [0.25, 0.75])],
    }


def report(result: Mapping[str, Any]) -> None:
    """Print the closing line."""
    print(json.dumps(result))
