"""Videos: what is in the pictures, and that the files hold them. Only the kitchen's needs OpenGL."""

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from rllib_spirl.algorithm.spirl_rl_module import SkillPriorRLModule
from rllib_spirl.envs.skill_env import make_env
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import pictures, video
from rllib_spirl.evaluation.pictures import captioned
from rllib_spirl.evaluation.restore import Restored
from rllib_spirl.evaluation.video import Film, record_video
from tests.point import PointEnv

GREEN = np.array([74, 222, 128])


class PicturedPoint(PointEnv):
    """The point mass as a white square that brightens as it moves right."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def render(self) -> Any:
        return np.full((64, 96, 3), int(100 * np.clip(self.position[0], 0, 1)), np.uint8)


@pytest.fixture
def restored(point_skills: str, monkeypatch: pytest.MonkeyPatch) -> Restored:
    """What `load_policy` returns: an untrained policy in an environment with pictures."""
    env = PicturedPoint()
    module = SkillPriorRLModule(
        observation_space=env.observation_space,
        action_space=gym.spaces.Box(-np.inf, np.inf, (2,)),
        inference_only=True,
        model_config={
            "skill_checkpoint": point_skills,
            "policy": "residual",
            "regularize_to": "prior",
            "policy_hidden": 8,
            "policy_layers": 1,
            "critic_hidden": 8,
            "critic_layers": 1,
            "critic_members": 2,
            "critic_layer_norm": True,
            "initial_alpha": 0.1,
            "skill_candidates": 4,
            "exploring_candidates": 1,
            "prior_spread": 1.0,
            "log_std_bound": 2.0,
            "skill_bound": None,
            "initial_value": 0.0,
        },
    )
    made = Restored(module, PicturedPoint, {"limit": 20}, point_skills)
    monkeypatch.setattr(video, "load_policy", lambda checkpoint: made)
    return made


def has_green(picture: np.ndarray) -> bool:
    return bool((picture == GREEN).all(-1).any())


def test_caption_is_below_the_picture_and_green_where_done() -> None:
    scene = np.full((64, 96, 3), 200, np.uint8)
    none, one = (captioned(scene, {"microwave": done, "kettle": False}, "step 3", 320) for done in (False, True))
    assert none.shape == one.shape
    assert one.shape[1] == 320
    assert one.shape[0] % 16 == 0
    scene_height = 320 * 64 // 96
    np.testing.assert_array_equal(one[:scene_height], np.full((scene_height, 320, 3), 200))
    assert has_green(one[scene_height:])
    assert not has_green(none)


def test_many_subtasks_are_broken_into_lines() -> None:
    scene = np.zeros((64, 320, 3), np.uint8)
    few, many = (captioned(scene, {f"subtask number {i}": False for i in range(n)}, "") for n in (2, 7))
    assert many.shape[0] > few.shape[0]


def test_film_takes_every_nth_step_and_the_last() -> None:
    film = Film(PicturedPoint({"limit": 8}), every=3, held=2)
    pictures: list[np.ndarray] = []
    film.append = pictures.append
    film.reset(seed=0)
    assert pictures == []
    for _ in range(8):
        film.step(np.array([1.0, 0.0]))
    assert [int(p[0, 0, 0]) // 10 for p in pictures] == [0, 3, 6, 8]
    film.hold()
    assert len(pictures) == 6
    film.running = False
    film.reset(seed=0)
    for _ in range(8):
        film.step(np.array([1.0, 0.0]))
    assert len(pictures) == 6


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_records_episodes(restored: Restored, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("imageio_ffmpeg" if suffix == ".mp4" else "imageio")
    output = tmp_path / "new" / f"video{suffix}"
    results = record_video("checkpoint", output, episodes=2, seed=5, every=4, speed=1.0, width=128)
    assert [r.seed for r in results] == [5, 6]
    assert [p.name for p in output.parent.iterdir()] == [output.name]
    # Per episode the first picture, every fourth step, the last step, and the last again for about a second.
    expected = sum(1 + -(-r.low_level_steps // 4) + 2 for r in results)
    if suffix == ".gif":
        with Image.open(output) as gif:
            assert gif.size[0] == 128
            # Equal pictures in a row are merged into one that is shown for longer.
            durations = []
            for index in range(gif.n_frames):
                gif.seek(index)
                durations.append(gif.info["duration"])
        assert sum(durations) == pytest.approx(400 * expected)
    else:
        count = importlib.import_module("imageio_ffmpeg").count_frames_and_secs(str(output))[0]
        assert count == expected


def test_errors_name_what_is_missing(restored: Restored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"must end in \.mp4 or \.gif"):
        record_video("checkpoint", tmp_path / "video.avi")
    monkeypatch.setattr(PicturedPoint, "render", lambda self: None)
    with pytest.raises(UserError, match="has no pictures"):
        record_video("checkpoint", tmp_path / "video.gif")
    assert list(tmp_path.iterdir()) == []

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(pictures.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'rllib_spirl\[video\]'"):
        record_video("checkpoint", tmp_path / "video.gif")


def test_kitchen_has_pictures() -> None:
    env = gym.make("rllib_spirl/Kitchen-v0", render_mode="rgb_array", width=64, height=64)
    film = Film(env)
    pictures: list[np.ndarray] = []
    film.append = pictures.append
    try:
        film.reset(seed=0)
        film.step(np.zeros(9, np.float32))
    except UserError as error:
        pytest.skip(str(error))
    film.close()
    assert pictures[0].shape[1] == 64
    assert pictures[0].std() > 10


def test_gymnasiums_own_environments_are_drawn_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    env = make_env("Reacher-v5", {"render_mode": "rgb_array"})
    env.reset(seed=0)
    picture = env.render()
    env.close()
    assert picture.ndim == 3
    assert picture.std() > 10
