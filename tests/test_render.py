"""Pictures of demonstrations: what is drawn and written below it, and one clear line where nothing can be drawn."""

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.envs.kitchen import SUBTASKS, KitchenEnv
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.demonstrations import environment_of, render_demonstrations
from tests.point import PointEnv
from tests.sets import opened

GREEN = (74, 222, 128)
KITCHEN = "rllib_spirl/Kitchen-v0"
STEPS = (20, 3)


class DrawnPoint(PointEnv):
    """The point mass as a square that brightens as the first number of its state grows."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own form)
    drawn: ClassVar[list[float]] = []

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        assert render_mode == "rgb_array"

    def render_state(self, state: Any) -> Any:
        self.drawn.append(float(state[0]))
        return np.full((64, 96, 3), int(state[0]), np.uint8)

    def subtasks_along(self, states: Any, task: str) -> dict[str, Any]:
        return {name: np.arange(len(states)) == len(states) - 1 for name in task.split("; ")}


class Undrawn(PointEnv):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()


@pytest.fixture(autouse=True)
def environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    gym.register("Drawn-v0", entry_point=DrawnPoint)
    gym.register("Undrawn-v0", entry_point=Undrawn)
    monkeypatch.setattr(DrawnPoint, "drawn", [])


def write(path: Path, env: str | None, width: int = 3, steps: tuple[int, ...] = STEPS) -> Path:
    """Episodes whose states are 100 * episode + step in all dimensions; the second has more subtasks."""
    with TrajectoryWriter(path, fps=12, env=env) as writer:
        for i, count in enumerate(steps):
            states = np.repeat(100.0 * i + np.arange(count + 1)[:, None], width, axis=1)
            task = "push; pull" if i == 0 else "; ".join(f"push it {'far ' * n}" for n in range(9))
            writer.add(Episode(states, np.zeros((count, 2)), np.zeros(count), True, False, task))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "set", "Drawn-v0")


def test_contact_sheet(data: Path, tmp_path: Path) -> None:
    made = render_demonstrations(opened(data), tmp_path / "new" / "sheet.PNG")
    assert [d.index for d in made] == [0, 1]
    assert made[0].title == "Episode 0:  push › pull  (20 steps)"
    # Evenly spaced steps with the first and the last; never one twice.
    assert DrawnPoint.drawn == [0, 3, 6, 9, 11, 14, 17, 20, 100, 101, 102, 103]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sheet.PNG"]
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.PNG"))
    grey = [(sheet == value).all(-1) for value in DrawnPoint.drawn]
    corners = [tuple(np.argwhere(g & (np.cumsum(g, axis=1) > 200))[0]) for g in grey]
    rows, columns = np.array(corners).T
    assert len(set(rows[:8])) == len(set(rows[8:])) == 1
    assert rows[8] > rows[0]
    assert set(np.diff(columns[:8])) == {256 + 8}
    green = np.argwhere((sheet == GREEN).all(-1))
    # Only below the last picture of each row.
    first_row = green[green[:, 0] < rows[8]]
    assert first_row[:, 1].min() > columns[6] + 60
    assert len(green) > len(first_row) > 0


def test_some_episodes_only(data: Path, tmp_path: Path) -> None:
    made = render_demonstrations(opened(data), tmp_path / "sheet.png", episodes=5, first=1)
    assert [d.index for d in made] == [1]
    with pytest.raises(UserError, match="has 2 episodes; choose the first from 0 to 1"):
        render_demonstrations(opened(data), tmp_path / "none.png", first=2)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_video(data: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("imageio_ffmpeg" if suffix == ".mp4" else "imageio")
    output = tmp_path / f"film{suffix}"
    render_demonstrations(opened(data), output)
    rate = 2 * 12 // (every := 2 if suffix == ".mp4" else 3)
    pictures = sum(len([*range(0, steps, every), steps]) + rate for steps in STEPS)
    if suffix == ".gif":
        with Image.open(output) as gif:
            durations = []
            for index in range(gif.n_frames):
                gif.seek(index)
                durations.append(gif.info["duration"])
        assert sum(durations) == pytest.approx(pictures * 1000 / rate, rel=0.05)
    else:
        assert importlib.import_module("imageio_ffmpeg").count_frames_and_secs(str(output))[0] == pictures


def test_which_environment() -> None:
    assert environment_of({"rllib_spirl": {"env": "Mine-v0"}}) == "Mine-v0"
    assert environment_of({"robot_type": "so100", "rllib_spirl": {"source": {"recipe": "x"}}}) is None
    assert environment_of({}) is None


@pytest.fixture
def spirl(spirl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "home"))
    return spirl


def test_recipe_is_built_first(spirl, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"source": "lerobot", "path": str(data)}))
    result = spirl("render", "mine.yaml", "--episodes", 1)
    assert (result.code, result.out) == (0, "mine.png\n"), result.err
    assert (tmp_path / "mine.png").exists()
    (built,) = (tmp_path / "home" / "data").iterdir()
    # The imported data set says what the one it comes from said.
    assert json.loads((built / "meta" / "info.json").read_text())["rllib_spirl"]["env"] == "Drawn-v0"
    result = spirl("render", "mine.yaml", "--set", "env=Undrawn-v0", "-o", "sheet.png")
    assert (result.code, "Undrawn-v0 cannot draw recorded states" in result.err) == (1, True)


def test_errors_are_one_line_and_exit_1(spirl, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    unknown, kitchen = write(tmp_path / "unknown", None), write(tmp_path / "kitchen", KITCHEN)
    (tmp_path / "file").write_text("mine")
    before = {path.name for path in tmp_path.iterdir()}
    for arguments, words in (
        ((unknown,), "name it, e.g. --env rllib_spirl/Kitchen-v0"),
        ((unknown, "--env", "Kitchn-v0"), "environment Kitchn-v0 cannot be made here"),
        ((data, "--env", "Undrawn-v0"), "cannot draw recorded states"),
        ((data, "--env", "CartPole-v1"), "cannot draw recorded states"),
        ((kitchen,), "these have 3. Import it again"),
        ((data, "-o", "sheet.jpg"), "must end in .png, .mp4 or .gif"),
        ((data, "-o", tmp_path / "file" / "sheet.png"), "cannot be written"),
        ((data, "--first", 2), "has 2 episodes"),
        (("none.yaml",), "does not exist"),
        (("none",), "no such directory"),
    ):
        result = spirl("render", *arguments)
        assert result.code == 1, arguments
        assert result.err.startswith("error: "), result.err
        assert result.err.count("\n") == 1, result.err
        assert words in result.err, result.err
    assert {path.name for path in tmp_path.iterdir()} == before
    assert spirl("render", data, "--episodes", 0).code == 2


def test_d4rl_data_can_be_given_an_environment(spirl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 3), np.float32), np.zeros((6, 2), np.float32)
        file["rewards"], file["terminals"] = np.zeros(6, np.float32), np.zeros(6, bool)
    assert spirl("import-d4rl", "x.hdf5", "-o", "d4rl", "--env", "Drawn-v0").code == 0
    assert environment_of(opened(tmp_path / "d4rl").info) == "Drawn-v0"


def test_a_missing_package_for_opengl_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    data = write(tmp_path / "set", KITCHEN, width=30)
    with pytest.raises(UserError, match="apt-get install libegl1"):
        render_demonstrations(opened(data), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_kitchen_subtasks_along_an_episode() -> None:
    env = KitchenEnv()
    start, _ = env.reset(seed=0)
    states = np.repeat(start[None], 4, axis=0)
    for step, name in ((1, "kettle"), (2, "microwave"), (3, "microwave")):
        states[step, SUBTASKS[name].indices] = SUBTASKS[name].goal
    # The kettle is back where it began at step 2, and stays completed.
    done = env.subtasks_along(states, "microwave; kettle")
    assert list(done) == ["microwave", "kettle"]
    assert done["microwave"].tolist() == [False, False, True, True]
    assert done["kettle"].tolist() == [False, True, True, True]
    everything = env.subtasks_along(states, "kitchen_mixed-v0")
    assert list(everything) == list(SUBTASKS)
    assert [name for name, along in everything.items() if along.any()] == ["microwave", "kettle"]


def test_kitchen_draws_recorded_states(tmp_path: Path) -> None:
    env = KitchenEnv(render_mode="rgb_array", width=64, height=64)
    env.reset(seed=0)
    try:
        start = env.render()
    except UserError as error:
        pytest.skip(str(error))
    recorded = env.data.qpos.copy()
    for _ in range(3):
        env.step(np.ones(9))
    moved = env.render()
    assert np.abs(moved.astype(int) - start).max() > 50
    np.testing.assert_array_equal(env.render_state(recorded), start)
    assert not np.array_equal(env.data.qpos, recorded), "the episode stays as it is"
    env.close()

    with TrajectoryWriter(tmp_path / "set", fps=12.5, env="FrankaKitchen-v1") as writer:
        writer.add(Episode(np.stack([recorded] * 2), np.zeros((1, 9)), np.zeros(1), True, False, "microwave"))
    render_demonstrations(opened(tmp_path / "set"), tmp_path / "sheet.png")
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 20
