"""Checks of what the package's environments have in common among their arguments."""

from typing import Any

import numpy as np

from rllib_spirl.errors import UserError


def check_whole(environment: str, **numbers: Any) -> None:
    """Raise a UserError unless these arguments are whole numbers from 1 on. ``environment`` is what the error calls it.

    Such are the steps of an episode, and the pixels of a picture.
    """
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise UserError(f"{environment}: {name} must be a whole number, not {number!r}.")
        if number < 1:
            raise UserError(f"{environment}: {name} must be at least 1, not {number}; give a positive number.")


def check_flags(environment: str, **flags: Any) -> None:
    """Raise a UserError unless these arguments are true or false: a text such as 'false' would count as true."""
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise UserError(f"{environment}: {name} must be true or false, not {flag!r}.")


def check_reward(environment: str, reward: str) -> None:
    """Raise a UserError unless the reward is dense or sparse."""
    if reward not in ("dense", "sparse"):
        raise UserError(f"{environment}: reward is '{reward}'; choose 'dense' or 'sparse'.")


def check_render_mode(environment: str, render_mode: str | None) -> None:
    """Raise a UserError unless there are pictures as arrays, or none."""
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"{environment}: render_mode is '{render_mode}'; choose 'rgb_array' or None.")
