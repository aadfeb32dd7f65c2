"""Pictures of evaluation episodes, with what is completed so far written below them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym

from rllib_spirl.envs.rollout import EpisodeResult, run_episode, subtasks_in
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

    Raises:
        UserError: If the checkpoint cannot be restored, the environment has no pictures, ``rllib_spirl[video]`` is not
            installed, or the file cannot be written.
    """
    check_film(output)
    restored = load_policy(checkpoint)
    low_level = restored.make_low_level_env(render_mode="rgb_array")
    results: list[EpisodeResult] = []
    with (
        filming(low_level, output, every=every, speed=speed, width=width) as film,
        stage("filming episodes", episodes, into=Path(output)) as progress,
    ):
        env, append = restored.with_skills(film), film.append

        def add(picture: Picture) -> None:
            append(picture)
            progress.set(progress.done, f"{film.title}, step {film.steps}")

        film.append = add
        for episode_seed in range(seed, seed + episodes):
            film.title = f"seed {episode_seed}"
            results.append(run_episode(env, restored.policy_of_evaluations(episode_seed), episode_seed))
            film.hold()
            progress.advance()
    return results


def check_film(output: str | Path) -> None:
    """Raise UserError if no film can be written to a file that is called so, or what writes it is not installed."""
    video_writer(suffix_of(Path(output), VIDEO_FORMATS))


@contextmanager
def filming(
    env: gym.Env, output: str | Path, *, every: int | None = None, speed: float = 2.0, width: int | None = None
) -> Iterator["Film"]:
    """An environment with pictures whose episodes are filmed; it is closed, and the file there, when all is done.

    Args:
        env: Made with ``render_mode="rgb_array"``.
        output, every, speed, width: As for `record_video`.

    Raises:
        UserError: As `record_video`.
    """
    path = Path(output)
    suffix = suffix_of(path, VIDEO_FORMATS)
    kind = VIDEO_FORMATS[suffix]
    every = every or kind.every
    rate = speed * float(env.metadata.get("render_fps") or 12) / every
    film = Film(env, every, width or kind.width, kind.colours, held=round(rate))
    try:
        with output_file(path) as file, video_writer(suffix)(file, rate) as append:
            film.append = append
            yield film
    finally:
        film.close()


class Film(gym.Wrapper):
    """Hands every ``every``-th picture of an environment to ``append``, with a caption below it.

    While it is not ``running``, which is to be told between episodes, there are none.
    """

    def __init__(
        self, env: gym.Env, every: int = 1, width: int | None = None, colours: int | None = None, *, held: int = 0
    ) -> None:
        super().__init__(env)
        self.every, self.width, self.colours, self.held = every, width, colours, held
        self.append: Callable[[Picture], Any] = lambda picture: None
        self.running = True
        self.title = ""
        self.steps, self._return = 0, 0.0
        self._first: Picture | None = None
        self._last: Picture | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.steps, self._return = 0, 0.0
        # Captioned with the first step, when all environments tell the subtasks: every picture must have one size.
        self._first = rendered(self.env) if self.running else None
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        subtasks = subtasks_in(info)
        if self._first is not None:
            self._add(self._first, dict.fromkeys(subtasks, False))
            self._first = None
        self.steps += 1
        self._return += float(reward)
        if self.running and (self.steps % self.every == 0 or terminated or truncated):
            self._add(rendered(self.env), subtasks)
        return observation, reward, terminated, truncated, info

    def hold(self) -> None:
        """Repeat the last picture ``held`` times, so that the end of an episode can be seen."""
        for _ in range(self.held):
            if self._last is not None:
                self.append(self._last)

    def _add(self, picture: Picture, subtasks: Mapping[str, bool]) -> None:
        status = f"{self.title}   step {self.steps}" + ("" if subtasks else f"   return {self._return:.1f}")
        self._last = captioned(picture, subtasks, status.strip(), self.width, self.colours)
        self.append(self._last)
