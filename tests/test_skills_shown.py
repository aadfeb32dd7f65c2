"""What is shown of a library of skills: a card, what its dimensions tell, a map, and what its prior does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.cli.spirl import app
from rllib_spirl.data import DataSet, Episode, TrajectoryWriter
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.skill_map import plane, skills_used
from rllib_spirl.evaluation.skills_shown import show_skills

PICTURED = "tests.test_video.PicturedPoint"


def test_the_plane_is_that_of_the_greatest_spread() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 4)) * [0.1, 3.0, 0.1, 1.0] + [5, 0, 0, 0]
    mean, directions = plane(z)
    assert directions.shape == (4, 2)
    np.testing.assert_allclose(np.abs(directions[1, 0]), 1, atol=0.01)
    np.testing.assert_allclose(np.abs(directions[3, 1]), 1, atol=0.01)
    np.testing.assert_allclose(((z - mean) @ directions).std(0), [3.0, 1.0], rtol=0.1)
    assert plane(z[:, :1])[1].shape == (1, 1)


def test_a_library_with_its_data_and_an_environment(point_skills: str, point_data: Path, tmp_path: Path) -> None:
    shown = show_skills(point_skills, tmp_path, data=DataSet.open(point_data), env=PICTURED, states=2, draws=3)
    assert [picture.name for picture in shown.pictures] == ["dimensions.png", "map.png", "drawn.png"]
    for picture in shown.pictures:
        assert imread(picture).std() > 0.01
    assert len(shown.divergence) == 2
    assert shown.used == 2, "the point mass goes in two directions, and z has two dimensions"
    assert np.mean(shown.divergence) > 0.3


def test_what_is_drawn_is_the_same_again(point_skills: str, point_data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        show_skills(point_skills, tmp_path / name, data=DataSet.open(point_data), env=PICTURED, states=1, draws=2)
    for file in ("map.png", "drawn.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_file_of_episodes_that_are_all_shorter_than_a_skill_is_passed_over(
    point_skills: str, point_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TrajectoryWriter(tmp_path / "short", fps=10) as writer:
        writer.add(Episode(np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(2), terminated=False, truncated=True, task="x"))
    files = [part for data in (tmp_path / "short", point_data) for part in DataSet.open(data).stream()]
    monkeypatch.setattr(DataSet, "stream", lambda *_, **__: iter(files))
    assert show_skills(point_skills, tmp_path, data=DataSet.open(point_data)).used == 2


def test_data_of_another_environment_is_one_line(point_skills: str, tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data", fps=10) as writer:
        writer.add(Episode(np.zeros((9, 3)), np.zeros((8, 2)), np.zeros(8), terminated=False, truncated=True, task="x"))
    with pytest.raises(UserError, match=r"has states of 3 and actions of 2 .* the skills were trained on 2 and 2"):
        show_skills(point_skills, tmp_path, data=DataSet.open(tmp_path / "data"))


def test_the_command_finds_the_skills_in_a_checkpoint(point_skills: str, point_data: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "skills").symlink_to(point_skills)
    command = ["skills", "show", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "out")]
    alone = CliRunner().invoke(app, command)
    assert alone.exit_code == 0, alone.output
    assert "The skills' data is not where it was" in alone.output
    assert json.loads((Path(point_skills) / "skill.json").read_text())["model"]["horizon"] == 5
    with_data = CliRunner().invoke(app, [*command, "--data", str(point_data)])
    assert with_data.exit_code == 0, with_data.output
    assert "dimensions in use: 2 of 2" in with_data.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["dimensions.png", "map.png"]


def test_data_of_an_environment_that_cannot_run_the_skills(point_skills: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with TrajectoryWriter(path, fps=10, env="FrankaKitchen-v1") as writer:
        writer.add(Episode(np.zeros((9, 2)), np.zeros((8, 2)), np.zeros(8), terminated=False, truncated=True, task="x"))
    command = ["skills", "show", point_skills, "--output", str(tmp_path / "out"), "--data", str(path)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "dimensions in use" in shown.output
    assert "No skills are run in the data's environment: " in shown.output
    assert "FrankaKitchen" not in shown.output, "ours takes the place of others' kitchens"


def test_the_skills_of_a_replay_the_oldest_first(tmp_path: Path) -> None:
    def save(name: str, capacity: int, count: int) -> None:
        replay = SkillReplay(capacity, 3, 1)
        for index in range(count):
            columns = {"states": torch.randn(1, 3), "next_states": torch.randn(1, 3), "z": torch.full((1, 1), index)}
            replay.add(columns | {"rewards": torch.zeros(1), "terminated": torch.zeros(1)})
        replay.save(tmp_path / name)

    save("demonstrations.safetensors", 50, 50)
    assert skills_used(tmp_path) == []
    save("replay.safetensors", 50, 80)  # the ring has begun anew
    demonstrations, first, last = skills_used(tmp_path)
    assert len(demonstrations.z) == 50
    assert first.z[:, 0].tolist() == list(range(30, 40))
    assert last.z[:, 0].tolist() == list(range(70, 80))
