"""Checks of what the package's environments have in common among their arguments."""

from rllib_spirl.errors import UserError


def check_limit(environment: str, max_episode_steps: int) -> None:
    """Raise a UserError unless an episode may last a step. ``environment`` is what the error calls it."""
    if max_episode_steps < 1:
        raise UserError(f"{environment}: max_episode_steps must be at least 1.")


def check_reward(environment: str, reward: str) -> None:
    """Raise a UserError unless the reward is dense or sparse."""
    if reward not in ("dense", "sparse"):
        raise UserError(f"{environment}: reward is '{reward}'; choose 'dense' or 'sparse'.")


def check_render_mode(environment: str, render_mode: str | None) -> None:
    """Raise a UserError unless there are pictures as arrays, or none."""
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"{environment}: render_mode is '{render_mode}'; choose 'rgb_array' or None.")
