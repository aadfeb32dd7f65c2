"""Pictures of evaluation episodes, with what is completed so far written below them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from rllib_spirl.envs.rollout import EpisodeResult, run_episode
from rllib_spirl.evaluation.pictures import (
    VIDEO_FORMATS,
    Picture,
    captioned,
    output_file,
    rendered,
    suffix_of,
    video_writer,
)
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.progress import stage


def record_video(
    checkpoint: str,
    output: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    every: int | None = None,
    speed: float = 2.0,
    width: int | None = None,
    show_progress: bool = True,
) -> list[EpisodeResult]:
    """Run episodes of a checkpoint's policy on seeds ``seed``, ``seed`` + 1, … and film them: as `evaluate_checkpoint`.

    Args:
        checkpoint: See `restore.load_policy`, whose warning holds here too.
        output: An .mp4 or .gif file; replaced when all is done.
        episodes: How many.
        seed: Of the first episode.
        every: Low-level steps per picture; by default 2 for .mp4 and 3 for .gif.
        speed: Of the video; 1 plays the environment's ``metadata["render_fps"]`` low-level steps per second.
        width: Of the video in pixels; by default what the environment renders for .mp4, and at most 320 for .gif.
        show_progress: Whether to tell how far it is.

    Raises:
        UserError: If the checkpoint cannot be restored, the environment has no pictures, ``rllib_spirl[video]`` is not
            installed, or the file cannot be written.
    """
    path = Path(output)
    suffix = suffix_of(path, VIDEO_FORMATS)
    kind = VIDEO_FORMATS[suffix]
    writer = video_writer(suffix)
    every = every or kind.every
    restored = load_policy(checkpoint)
    low_level = restored.make_low_level_env(render_mode="rgb_array")
    rate = speed * float(low_level.metadata.get("render_fps") or 12) / every
    film = Film(low_level, every, width or kind.width, kind.colours)
    env = restored.with_skills(film)
    results: list[EpisodeResult] = []
    try:
        with (
            output_file(path) as file,
            stage("filming episodes", episodes, into=path, show=show_progress) as progress,
            writer(file, rate) as append,
        ):

            def add(picture: Picture) -> None:
                append(picture)
                progress.set(progress.done, f"{film.title}, step {film.steps}")

            film.append = add
            for episode_seed in range(seed, seed + episodes):
                film.title = f"seed {episode_seed}"
                results.append(run_episode(env, restored.policy_of_evaluations(episode_seed), episode_seed))
                film.hold(round(rate))
                progress.advance()
    finally:
        env.close()
    return results


class Film(gym.Wrapper):
    """Hands every ``every``-th picture of an environment to ``append``, with a caption below it."""

    def __init__(self, env: gym.Env, every: int = 1, width: int | None = None, colours: int | None = None) -> None:
        super().__init__(env)
        self.every, self.width, self.colours = every, width, colours
        self.append: Callable[[Picture], Any] = lambda picture: None
        self.title = ""
        self.steps, self._return = 0, 0.0
        self._first: Picture | None = None
        self._last: Picture | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.steps, self._return = 0, 0.0
        # Captioned with the first step, when all environments tell the subtasks: every picture must have one size.
        self._first = rendered(self.env)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        subtasks: dict[str, bool] = info.get("subtasks", {})
        if self._first is not None:
            self._add(self._first, dict.fromkeys(subtasks, False))
            self._first = None
        self.steps += 1
        self._return += float(reward)
        if self.steps % self.every == 0 or terminated or truncated:
            self._add(rendered(self.env), subtasks)
        return observation, reward, terminated, truncated, info

    def hold(self, pictures: int) -> None:
        """Repeat the last picture, so that the end of an episode can be seen."""
        for _ in range(pictures):
            if self._last is not None:
                self.append(self._last)

    def _add(self, picture: Picture, subtasks: Mapping[str, bool]) -> None:
        status = f"{self.title}   step {self.steps}" + ("" if subtasks else f"   return {self._return:.1f}")
        self._last = captioned(picture, subtasks, status.strip(), self.width, self.colours)
        self.append(self._last)
