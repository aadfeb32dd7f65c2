"""Temporal abstraction for copies of an environment side by side: policy and decoder run once for all of them."""

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_spirl.envs.skill_env import (
    LOW_LEVEL,
    ActionBounds,
    Environment,
    bounded,
    check_finite,
    check_skills,
    context,
    create,
    env_state,
    make_env,
    painter,
    set_env_state,
    skill_spaces,
    skill_steps,
    tells_steps,
    with_said,
)
from rllib_spirl.errors import UserError
from rllib_spirl.skills.checkpoint import SkillSource, load_skills
from rllib_spirl.skills.decoder import SkillDecoder

Mask = NDArray[np.bool_]


class SkillVectorEnv(VectorEnv[Any, Any, Any]):
    """K environments whose actions are skills. Each has a clock of its own: where an episode ends early, so does the
    skill, and those of the others go on.

    A step takes the skills z (K, Z), or u with z = skill_bound·tanh(u), of the environments whose turn it is, which are
    ``due``: all after a reset, then those in ``infos["due"]``; other rows are ignored. It runs low-level steps, each in
    all environments at once, until it is an environment's turn again. What it returns is, in rows (K, ...):

    - observations: as `SkillEnv`'s; of environments that are not due, the last that a skill was to be chosen in;
    - rewards: the sum over the skill that has ended, and 0 where none has;
    - terminated, truncated: of episodes that have ended with the skill;
    - infos: masks (K,) of the environments that are ``due``; whose skill has ``ended``; and whose episode has
      ``begun``, its first observation being that in observations. ``final_obs`` (K, ...) has the observations in which
      skills have ended, and ``low_level_steps`` (K,) their lengths. ``last`` has the infos of their last low-level
      steps, by the environment's index; and of chunks of actions what happened within, see `SkillEnv`.

    Args:
        env: With flat Box observations (K, S), or dicts of them and pictures, and Box actions (K, A). It begins the
            next episode itself, in the same step or the next one (Gymnasium's ``autoreset_mode``).
        skill_checkpoint: Folder or URI of a skill checkpoint, or its files.
        skill_bound: Largest z there is, with actions u in place of z; None for no bound.

    Raises:
        UserError: If the checkpoint's dimensions are not the environment's, or it begins no episodes.
    """

    def __init__(self, env: VectorEnv, skill_checkpoint: SkillSource, skill_bound: float | None = None) -> None:
        self.env, self.num_envs, self.spec = env, env.num_envs, env.spec
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._resets_later = mode == AutoresetMode.NEXT_STEP
        if mode == AutoresetMode.DISABLED:
            raise UserError("An environment that is many must begin each one's next episode itself (autoreset_mode).")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._skill_bound = skill_bound
        model, card = load_skills(skill_checkpoint)
        check_skills(env, skill_checkpoint, card.model)
        self.horizon = card.model.horizon
        self.single_observation_space, self.single_action_space = skill_spaces(env, card.model)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._prior = model.prior if card.model.prior_images else None
        self._painters: list[Any] = []
        if self._prior is not None and isinstance(env, SyncVectorEnv):
            self._painters = [painter(each) for each in env.envs]
        self._executed = ActionBounds(env)
        self._decoder = SkillDecoder(model)
        # What happened in each low-level step of the skills that are going on, where that is told.
        self._tells_steps = tells_steps(card.model)
        told = self.horizon if self._tells_steps else 0
        self._states_after = np.zeros((self.num_envs, told, *(self.single_observation_space.shape or ())), np.float32)
        self._rewards_of = np.zeros((self.num_envs, told))
        self._observations: Any = None  # the wrapped environment's last
        self._shown = np.zeros(self.observation_space.shape or (), self.single_observation_space.dtype)
        self._clear()

    def _clear(self) -> None:
        self.due = np.ones(self.num_envs, bool)
        self._over = np.zeros(self.num_envs, bool)  # the next low-level step begins their next episode
        self._steps, self._rewards = np.zeros(self.num_envs, int), np.zeros(self.num_envs)
        self._decoder.start(np.zeros(self.action_space.shape or (), np.float32))  # rows to be replaced

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._observations, _ = self.env.reset(seed=seed, options=options)
        check_finite(self.env, self._states(), 0.0)
        self._decoder.seed(seed)
        self._clear()
        self._show(self.due)
        return self._shown.copy(), {"due": self.due.copy(), "begun": self.due.copy()}

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Mask, Mask, dict[str, Any]]:
        self._decoder.start(bounded(np.asarray(actions, np.float32), self._skill_bound), self.due)
        self._steps[self.due], self._rewards[self.due] = 0, 0.0
        while True:
            low_level = self._executed(self._decoder.act(self._states()))
            self._observations, rewards, terminated, truncated, infos = self.env.step(low_level)
            ran = ~self._over
            self._steps += ran
            self._rewards += np.where(ran, rewards, 0.0)
            if self._tells_steps:
                self._states_after[ran, self._steps[ran] - 1] = self._observations[ran]
                self._rewards_of[ran, self._steps[ran] - 1] = rewards[ran]
            over = ran & (terminated | truncated)
            ended = over | (ran & (self._steps == self.horizon))
            begun = self._over if self._resets_later else over
            self._over = over if self._resets_later else self._over
            self.due = begun | (ended & ~over)
            if (ended | begun).any():
                break
        gone = np.zeros_like(over) if self._resets_later else over  # their last observations are among the infos
        self._show(self.due | (ended & ~gone))
        check_finite(self.env, self._states(), self._rewards)
        final = self._shown.copy()
        for index in np.flatnonzero(gone).tolist():
            final[index] = self._observe(_row(infos["final_obs"], index, self.num_envs))
        check_finite(self.env, final[gone], 0.0)
        last = {index: _row(infos, index, self.num_envs) for index in np.flatnonzero(ended).tolist()}
        last = {index: info.get("final_info", info) for index, info in last.items()}
        if self._tells_steps:
            for index, info in last.items():
                states = self._states_after[index, : self._steps[index]].copy()
                states[-1] = final[index]  # where the next episode has begun in the same step, not its first state
                rewards_of = self._rewards_of[index, : self._steps[index]].copy()
                last[index] = {**info, LOW_LEVEL: skill_steps(states, rewards_of, self.horizon)}
        return (
            self._shown.copy(),
            np.where(ended, self._rewards, 0.0),
            over & terminated,
            over & truncated,
            {
                "due": self.due.copy(),
                "ended": ended,
                "begun": begun,
                "final_obs": final,
                "low_level_steps": np.where(ended, self._steps, 0),
                "last": last,
            },
        )

    def close(self, **kwargs: Any) -> None:
        self.env.close(**kwargs)

    def _states(self) -> NDArray[np.floating]:
        return self._observations if self._prior is None else self._observations["state"]

    def _show(self, rows: Mask) -> None:
        """Observe the rows' present states."""
        if self._prior is None:
            self._shown[rows] = self._observations[rows]
            return
        images = self._observations["images"]
        for index in np.flatnonzero(rows):
            painter_of = self._painters[index] if self._painters else None  # None too where all pictures are painted
            painted = images[index] if painter_of is None else painter_of.paint()
            self._shown[index] = with_said(self._prior, self._states()[index], painted)

    def _observe(self, observation: Any) -> NDArray[np.floating]:
        """What is observed of one environment's observation."""
        if self._prior is None:
            return observation
        return with_said(self._prior, observation["state"], observation["images"])

    def get_state(self) -> dict[str, Any] | None:
        """What `set_state` needs to go on, in the middle of skills; None if an environment cannot tell its state."""
        envs = [env_state(env) for env in self.env.envs] if isinstance(self.env, SyncVectorEnv) else [None]
        if any(env is None for env in envs):
            return None
        own = {name: copy.deepcopy(getattr(self, name)) for name in _STATE}
        return {"envs": envs, "decoder": self._decoder.get_state(), **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was, after a reset: Gymnasium's wrappers want to have seen one."""
        assert isinstance(self.env, SyncVectorEnv)
        for env, its in zip(self.env.envs, state["envs"], strict=True):
            set_env_state(env, its)
        self.env._autoreset_envs = state["_over"].copy()
        self._decoder.set_state(state["decoder"])
        for name in _STATE:
            setattr(self, name, copy.deepcopy(state[name]))


_STATE = ("due", "_over", "_steps", "_rewards", "_states_after", "_rewards_of", "_observations", "_shown")


def _row(infos: Any, index: int, count: int) -> Any:
    """One environment's part of the infos of ``count``: arrays and dicts of them, with masks as Gymnasium has them."""
    if not isinstance(infos, dict):
        return infos[index] if len(np.shape(infos)) and len(infos) == count else infos
    return {
        name: _row(value, index, count)
        for name, value in infos.items()
        if not name.startswith("_") and (f"_{name}" not in infos or infos[f"_{name}"][index])
    }


def make_vector_env(env: Any, env_config: dict[str, Any], num_envs: int, *, batched: bool) -> VectorEnv:
    """Copies of the low-level environment, see `make_env`.

    Args:
        batched: Whether the environment itself is many: with Gymnasium it is registered with a ``vector_entry_point``,
            and what is registered with Ray Tune, or a class, gets ``num_envs`` in its config and makes a `VectorEnv`.

    Raises:
        UserError: If it then makes something else.
    """
    if not batched:
        makes = [partial(make_env, env, context(env_config, vector_index=index)) for index in range(num_envs)]
        return SyncVectorEnv(makes, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    if isinstance(env_config.get("images"), str):
        raise UserError(f"images: {env} makes {num_envs} copies at once, which have no pictures of their own.")
    if isinstance(env, str) and not _global_registry.contains(ENV_CREATOR, env) and env in gym.registry:
        made: Environment = gym.make_vec(
            env, num_envs, vectorization_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT, **env_config
        )
    else:
        many = context(env_config)
        many["num_envs"] = num_envs
        made = create(env, many)
    if not isinstance(made, VectorEnv) or made.num_envs != num_envs:
        found = f"{made.num_envs} copies" if isinstance(made, VectorEnv) else f"a {type(made).__name__}"
        raise UserError(
            f"{env} makes {found}, but gym_env_vectorize_mode 'vector_entry_point' needs a gymnasium.vector.VectorEnv "
            f"of num_envs_per_env_runner ({num_envs}) copies. Use 'sync' for single environments."
        )
    return made


def make_skill_vector_env(config: dict[str, Any]) -> SkillVectorEnv:
    """`SkillVectorEnv` from the settings of `make_skill_env`, ``num_envs`` and ``batched``."""
    envs = make_vector_env(
        config["env"], config["env_config"], config["num_envs"], batched=config.get("batched", False)
    )
    return SkillVectorEnv(envs, config["skill_checkpoint"], config.get("skill_bound"))
