"""The documentation as a reader follows it: each page's commands and programs in their order.

What takes hours as written is given settings with which it takes seconds. Not run are installations, the trainings of
the benchmarks' page, and the commands of a cluster, for which see `test_cluster`.
"""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from minari.data_collector.episode_buffer import EpisodeBuffer

from rllib_spirl import Episode, TrajectoryWriter
from rllib_spirl.data import recipe as recipes
from tests.documentation import PAGES, ROOT, Reader, blocks, lines, reader
from tests.test_ogbench import arrays

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

AGENT = [
    "compile_updates=false",
    "num_env_runners=0",
    "warmup_steps=8",
    "offline_updates=2",
    "min_sample_timesteps_per_iteration=40",
    "evaluation_interval=1",
    "evaluation_duration=1",
    "policy_hidden=16",
    "critic_hidden=16",
]
SKILLS = ["updates=20", "report_every=20", "hidden=16"]
KITCHEN = [
    *(f"--set=config.{each}" for each in AGENT),
    *(f"--set=skills.pretrain.{each}" for each in SKILLS),
    "--set=skills.rollouts=1",
    "--set=skills.data=kitchen-human",
    "--stop=training_iteration=2",
]
# By the beginning of a command, the first that fits: what makes it small.
SMALL = {
    "rllib train file tuned_examples/kitchen.yaml --resume": [
        *KITCHEN[:-1],
        "--stop=training_iteration=3",
        "--set=config.target_divergence=2",  # "with the same --set" as the command before it
    ],
    "rllib train file tuned_examples/kitchen": KITCHEN,
    "rllib train file tuned_examples/ogbench": [
        *KITCHEN[:-2],
        "--stop=training_iteration=1",
        "--set=skills.data=scene-play",
        "--only=scene_task1",
    ],
    "rllib train file tuned_examples/pendulum": ["--stop=training_iteration=1", "--set=config.evaluation_interval=1"],
    "rllib train file robot.yaml": [*KITCHEN[:-3], "--stop=training_iteration=2"],
    "rllib evaluate": ["--episodes=1"],
    "spirl adapt": ["--episodes=2"],
    "spirl pretrain": [*(f"--set={each}" for each in SKILLS), "--rollouts=1"],
    "spirl data build offline_data/kitchen": ["--set=demonstrations=3"],
    "spirl data render offline_data/kitchen": ["--set=demonstrations=3"],
    "spirl data build offline_data/ogbench": ["--set=episodes=2", "--set=steps=30"],
    "spirl data build offline_data/metaworld": ["--set=episodes=1", "--set=tasks=[drawer-close-v3]"],
}
NEEDS = {"ogbench": "ogbench", "metaworld": "metaworld", "--wandb": "wandb", "--mlflow": "mlflow"}
NOT_RUN = ("make", "pip", "rllib train file kitchen_smoke", "rllib train file tuned_examples/metaworld")


def follower(folder: Path, library: Path) -> Reader:
    return Reader(
        folder,
        MINARI_DATASETS_PATH=str(library / "minari"),
        WANDB_MODE="offline",
        MLFLOW_ALLOW_FILE_STORE="true",
        MLFLOW_TRACKING_URI=f"file://{folder / 'mlruns'}",
    )


def small(command: str) -> str:
    added = next((more for beginning, more in SMALL.items() if command.startswith(beginning)), [])
    return f"{command} {shlex.join(added)}"


def demonstrations(folder: Path) -> Iterator[Episode]:
    """Three of the kitchen's scripted ones, with velocities: 59 numbers in a state, as in the human ones."""
    recipe = ROOT / "offline_data" / "kitchen_mixed_velocities.yaml"
    return recipes.build(recipe, output=folder, overrides={"demonstrations": 3}).episodes()


def write_minari(root: Path, episodes: list[Episode]) -> None:
    """What stands in for the human demonstrations."""
    buffers = [
        EpisodeBuffer(
            id=index,
            observations={"observation": episode.states},
            actions=episode.actions,
            rewards=list(episode.rewards),
            terminations=[False] * len(episode),
            truncations=[False] * (len(episode) - 1) + [True],
            infos=None,
        )
        for index, episode in enumerate(episodes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        minari.create_dataset_from_buffers(
            "D4RL/kitchen/complete-v2",
            buffers,
            observation_space=Dict({"observation": Box(-np.inf, np.inf, (59,), np.float64)}),
            action_space=Box(-1, 1, (9,), np.float64),
            **dict.fromkeys(("author", "author_email", "code_permalink", "algorithm_name", "description"), "x"),
        )


def write_d4rl(file: Path, episodes: list[Episode]) -> None:
    with h5py.File(file, "w") as written:
        written["observations"] = np.concatenate([each.states[:-1] for each in episodes])
        written["actions"] = np.concatenate([each.actions for each in episodes])
        written["rewards"] = np.concatenate([each.rewards for each in episodes])
        written["terminals"] = np.zeros(len(written["rewards"]), bool)
        written["timeouts"] = np.concatenate([np.arange(len(each)) == len(each) - 1 for each in episodes])


def write_arm(folder: Path) -> None:
    """Recordings of an arm of six joints that goes to where its actions say, after some detours to the same posture."""
    rng = np.random.default_rng(0)
    goal = np.array([0.4, -0.3, 0.6, 0.1, -0.5, 0.2])
    with TrajectoryWriter(folder, fps=30) as writer:
        for _ in range(10):
            states, actions = [np.zeros(6)], []
            for step in range(90):
                target = goal if step >= 45 else np.clip(goal + rng.normal(0, 0.3, 6), -0.9, 0.9)
                actions.append(np.clip(target + rng.normal(0, 0.02, 6), -0.95, 0.95))
                states.append(states[-1] + 0.3 * (actions[-1] - states[-1]))
            writer.add(Episode(np.array(states), np.array(actions), np.zeros(90), False, True, "reach"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take to be there."""
    folder = tmp_path_factory.mktemp("library")
    episodes = list(demonstrations(folder / "scripted"))
    write_minari(folder / "minari", episodes)
    write_d4rl(folder / "kitchen_mixed-v0.hdf5", episodes)
    np.savez_compressed(folder / "scene-play-v0.npz", **arrays(rows=30))
    write_arm(folder / "path" / "to" / "lerobot-dataset")
    here = follower(folder, folder)
    here.run("spirl data import-minari D4RL/kitchen/complete-v2 --output kitchen-human --state-columns 0:9,18:39")
    (folder / "DATA").symlink_to("kitchen-human")
    (folder / "PATH").symlink_to("kitchen-human")
    here.run(small("spirl pretrain kitchen-human --output skills/human"))
    (folder / "skills" / "kitchen").symlink_to("human")
    rng = np.random.default_rng(0)
    with TrajectoryWriter(folder / "my-data", fps=10) as writer:
        for _ in range(5):
            actions = rng.uniform(-1, 1, (50, 2))
            writer.add(Episode(rng.normal(size=(51, 4)), actions, np.zeros(50), False, True, "wander"))
    return folder


@pytest.fixture(scope="module")
def trained(library: Path) -> None:
    """An agent of the kitchen: its run and its checkpoint are in the library."""
    here = follower(library, library)
    here.run(f"rllib train file {ROOT}/tuned_examples/kitchen.yaml --set storage_path=runs {shlex.join(KITCHEN)}")
    (library / "RUN").symlink_to("runs/kitchen")
    (library / "ray_results").mkdir()
    (library / "ray_results" / "kitchen").symlink_to(library / "runs" / "kitchen")
    (library / "CHECKPOINT").symlink_to(next((library / "runs" / "kitchen").glob("SPiRL_*/checkpoint_*")))


@pytest.fixture(scope="module")
def met(library: Path) -> None:
    """An agent of many tasks of the kitchen."""
    here = follower(library, library)
    here.run(f"rllib train file {ROOT}/tuned_examples/kitchen_meta.yaml --set storage_path=runs {shlex.join(KITCHEN)}")
    (library / "MANY").symlink_to(next((library / "runs" / "kitchen_meta").glob("MetaSPiRL_*/checkpoint_*")))


LIBRARY = ("kitchen-human", "my-data", "skills/human", "skills/kitchen", "DATA", "PATH", "RUN", "CHECKPOINT", "MANY")
LIBRARY += ("ray_results/kitchen", "path/to/lerobot-dataset", "kitchen_mixed-v0.hdf5", "scene-play-v0.npz")
OUTPUT = re.compile(r"(?:--output|-o) (\S+)")
FOLLOWED = [
    page
    for page in PAGES
    if page.parent.name == "docs" and page.stem not in ("cluster", "new_tasks", "your_environment")
    if list(blocks(page))
]


@pytest.mark.parametrize("page", [ROOT / "README.md", *FOLLOWED], ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, library: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    reader(page, tmp_path)
    here = follower(tmp_path, library)

    def fetch(text: str) -> str:
        """Bring what a command reads from the library, unless the page has made it."""
        if re.search(r"CHECKPOINT|RUN|ray_results", text):
            request.getfixturevalue("met" if "spirl adapt" in text else "trained")
        text = text.replace("CHECKPOINT", "MANY") if "spirl adapt" in text else text
        made = OUTPUT.findall(text)
        for name in LIBRARY:
            if name in text and name not in made and not (tmp_path / name).exists():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).symlink_to(library / name)
        return text

    for index, (language, block) in enumerate(blocks(page)):
        if language == "python" and "def " not in block:
            (tmp_path / f"program{index}.py").write_text(fetch(block))
            here.run(f"python program{index}.py")
        for command in lines(block) if language == "" else ():
            missing = [package for word, package in NEEDS.items() if word in command and find_spec(package) is None]
            if not command.startswith(NOT_RUN) and not missing:
                here.run(fetch(small(command)))
                for output in OUTPUT.findall(command):
                    assert (tmp_path / output).exists()
