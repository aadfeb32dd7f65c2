"""Temporal abstraction: an environment whose action is a skill."""

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, flatdim
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_spirl.data.recording import state_part
from rllib_spirl.envs import headless
from rllib_spirl.envs.seeing import PictureWrapper
from rllib_spirl.errors import UserError, foreign
from rllib_spirl.skills.checkpoint import SkillSource, load_skills
from rllib_spirl.skills.decoder import SkillDecoder
from rllib_spirl.skills.model import SkillModelConfig, SkillPrior
from rllib_spirl.yaml_text import did_you_mean

LOW_LEVEL = "low_level"
"""In infos, where skills are chunks of several actions: what its low-level steps led to, see `SkillEnv`."""
_KNOWN_WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)
Environment = gym.Env | VectorEnv
"""One environment, or copies of one side by side, of which each has the space that is meant."""


class SkillEnv(gym.Wrapper[NDArray[np.floating], NDArray[np.float32], NDArray[np.floating], NDArray[np.floating]]):
    """One step runs one skill: the frozen decoder acts for up to H low-level steps.

    Action: the latent z, (Z,), or u with z = skill_bound·tanh(u). Reward: the sum over the skill's low-level steps.
    Observation: the wrapped environment's, after the last of them; so the observation a policy chose z in is the one
    before its first action.
    With skills whose prior sees pictures, the wrapped environment observes a dict of "state" (S,) and "images"
    (2, 32, 32, 3) uint8, before and after the step; this one then observes (S + 2 Z,): the state, and the mean and
    deviation of what the prior says of the pictures, see `rllib_spirl.skills.model.SkillPrior`.
    A skill ends early when the episode does; terminated and truncated are the last low-level step's.
    ``info["low_level_steps"]`` counts the steps taken, T, and the rest of ``info`` is the last step's. Where skills are
    chunks of H > 1 actions, ``info["low_level"]`` has "states" (T, S) after each step, "rewards" (T,) and "horizon".

    Args:
        env: Flat Box observations (S,), or a dict of them and pictures, and Box actions (A,), see `ActionBounds`.
        skill_checkpoint: Folder or URI of a skill checkpoint, or its files.
        skill_bound: Largest z there is, with actions u in place of z; None for no bound.

    Raises:
        UserError: If the checkpoint's dimensions are not the environment's.
    """

    def __init__(self, env: gym.Env, skill_checkpoint: SkillSource, skill_bound: float | None = None) -> None:
        super().__init__(env)
        self._skill_bound = skill_bound
        model, card = load_skills(skill_checkpoint)
        check_skills(env, skill_checkpoint, card.model)
        self.horizon = card.model.horizon
        self.observation_space, self.action_space = skill_spaces(env, card.model)
        self._prior = model.prior if card.model.prior_images else None
        self._painter = None if self._prior is None else painter(env)
        self._state_shape = state_space(env, images=self._prior is not None).shape
        self._executed = ActionBounds(env)
        self._decoder = SkillDecoder(model)
        self._tells_steps = tells_steps(card.model)
        self._observation: Any = None  # the wrapped environment's last

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        if np.shape(self._state()) != self._state_shape:
            raise UserError(
                f"{name_of(self.env)}: an observation is of shape {np.shape(self._state())}, but the observation space "
                f"says {self._state_shape}. Mend the environment."
            )
        check_finite(self.env, self._state(), 0.0)
        self._decoder.seed(seed)
        return self._observe(), info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        self._decoder.start(bounded(action, self._skill_bound))
        total, steps = 0.0, 0
        terminated = truncated = False
        info: dict[str, Any] = {}
        states, rewards = [], []
        while steps < self.horizon and not (terminated or truncated):
            low_level = self._executed(self._decoder.act(self._state()))
            self._observation, reward, terminated, truncated, info = self.env.step(low_level)
            total += float(reward)
            steps += 1
            if self._tells_steps:
                states.append(np.array(self._observation))  # the environment may go on writing into its own
                rewards.append(float(reward))
        check_finite(self.env, self._state(), total)
        info = {**info, "low_level_steps": steps}
        if self._tells_steps:
            info[LOW_LEVEL] = skill_steps(np.stack(states), np.array(rewards), self.horizon)
        return self._observe(), total, terminated, truncated, info

    def _state(self) -> NDArray[np.floating]:
        return self._observation if self._prior is None else self._observation["state"]

    def _observe(self) -> NDArray[np.floating]:
        if self._prior is None:
            return self._observation
        images = self._painter.paint() if self._painter else self._observation["images"]
        return with_said(self._prior, self._state(), images)

    def get_state(self) -> dict[str, Any] | None:
        """What `set_state` needs to go on between two skills; None if there is no `env_state`."""
        state = env_state(self.env)
        if state is None:
            return None
        return {"observation": self._observation, "decoder": self._decoder.get_state(), **state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was, after a reset: Gymnasium's wrappers want to have seen one."""
        set_env_state(self.env, state)
        self._observation = state["observation"]
        self._decoder.set_state(state["decoder"])


class ActionBounds:
    """The actions of an environment (..., A) that those of skills, within [-1, 1], stand for.

    Data hold actions mapped from an action space's bounds to [-1, 1], see `rllib_spirl.data.importing.scale_actions`;
    this maps them back. A dimension without finite bounds has the values of the data, within what bounds there are.
    """

    def __init__(self, env: Environment) -> None:
        space = action_space(env)
        assert isinstance(space, Box)
        self._low, self._high = space.low, space.high
        self._whole = np.issubdtype(space.low.dtype, np.integer)
        low, high = space.low.astype(float), space.high.astype(float)
        finite = np.isfinite(low) & np.isfinite(high)
        self._least, self._greatest = np.where(finite, -1, space.low), np.where(finite, 1, space.high)
        self._middle, self._half = np.where(finite, (low + high) / 2, 0), np.where(finite, (high - low) / 2, 1)
        self._same = not self._whole and bool((self._middle == 0).all() and (self._half == 1).all())

    def __call__(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        clipped = np.clip(actions, self._least, self._greatest)
        if self._same:
            return clipped
        # Rounding must not lead out of the space: there are environments that assert its bounds.
        mapped = self._middle + self._half * clipped
        mapped = np.rint(mapped) if self._whole else mapped
        return np.clip(mapped.astype(self._low.dtype), self._low, self._high)


def check_finite(env: Environment, states: NDArray[np.floating], rewards: Any) -> None:
    """Raise a UserError if an environment has observed or earned something that no network can learn from."""
    for what, values in (("observation", states), ("reward", rewards)):
        if not np.isfinite(values).all():
            raise UserError(f"{name_of(env)}: the environment's {what} is not finite: {values}. Mend it there.")


def bounded(action: NDArray[np.float32], skill_bound: float | None) -> NDArray[np.float32]:
    """z, (..., Z), of actions (..., Z) of an environment of skills."""
    return action if skill_bound is None else np.float32(skill_bound) * np.tanh(action)


def tells_steps(model: SkillModelConfig) -> bool:
    """Whether what happens within a skill is told, of which more transitions can be made."""
    return model.decoder == "identity" and model.horizon > 1 and not model.prior_images


def skill_steps(states: NDArray[np.floating], rewards: NDArray[np.floating], horizon: int) -> dict[str, Any]:
    """What `LOW_LEVEL` names: states (T, S) after each of a skill's T ≤ H low-level steps, and their rewards (T,)."""
    return {"states": states, "rewards": rewards, "horizon": horizon}


def skill_spaces(env: Environment, model: SkillModelConfig) -> tuple[gym.Space, Box]:
    """The spaces of one environment of skills: its observations, see `SkillEnv`, and z, (Z,)."""
    bound = np.full(model.latent_dim, np.inf, np.float32)
    observations = state_space(env, images=model.prior_images)
    if model.prior_images:
        observations = Box(-np.inf, np.inf, (flatdim(observations) + 2 * model.latent_dim,), np.float32)
    return observations, Box(-bound, bound)


def with_said(prior: SkillPrior, state: NDArray[np.floating], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What is observed where the prior sees pictures, (S + 2 Z,): a state (S,), and what it says of its pictures."""
    states = torch.as_tensor(state, dtype=torch.float32)[None]
    return prior.observe(states, torch.as_tensor(images)[None])[0].numpy()


def painter(env: gym.Env) -> Any:
    """What paints an environment's pictures on demand, by ``paint()``, from now on; None if it paints all of them.

    Only the pictures between two skills are needed. Behind a wrapper that is not known, what it does to the pictures
    is not known either.
    """
    if not hasattr(env.unwrapped, "paint_on_demand") or not all_known(env):
        return None
    env.unwrapped.paint_on_demand = True
    return env.unwrapped


def env_state(env: gym.Env) -> dict[str, Any] | None:
    """What `set_env_state` needs for an environment to go on.

    None if the environment has no ``get_state`` or no ``set_state``, or is in a wrapper other than those that
    ``gym.make`` adds: what such a wrapper remembers is unknown.
    """
    if not (hasattr(env.unwrapped, "get_state") and hasattr(env.unwrapped, "set_state")) or not all_known(env):
        return None
    limits = [w._elapsed_steps for w in _wrappers(env) if isinstance(w, TimeLimit)]
    return {"env": env.unwrapped.get_state(), "time_limits": limits}


def set_env_state(env: gym.Env, state: dict[str, Any]) -> None:
    """Let an environment that has been reset go on where that of `env_state` was.

    Raises:
        UserError: Where its ``set_state`` does not take what its ``get_state`` gave.
    """
    with foreign(f"{name_of(env)}: set_state of what get_state returned"):
        env.unwrapped.set_state(state["env"])  # type: ignore[attr-defined]
    limits = (w for w in _wrappers(env) if isinstance(w, TimeLimit))
    for limit, elapsed in zip(limits, state["time_limits"], strict=True):
        limit._elapsed_steps = elapsed


def _wrappers(env: gym.Env) -> list[gym.Wrapper]:
    """From the outermost inwards."""
    found = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found


def all_known(env: gym.Env) -> bool:
    """Whether there are no wrappers but those that ``gym.make`` adds."""
    return all(isinstance(wrapper, _KNOWN_WRAPPERS) for wrapper in _wrappers(env))


def state_space(env: Environment, *, images: bool) -> gym.Space:
    """The space of an environment's states (S,): its observations or, with ``images``, a part of them.

    Raises:
        UserError: If with ``images`` the observations are not a dict of "state" and "images".
    """
    space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    if not images:
        return space
    states = state_part(space)
    if states is None:
        raise UserError(
            f"{name_of(env)}: observations are {type(space).__name__}, but the skills' prior sees pictures. Set in "
            "env_config images: true for an environment that has them, else images: METHOD, its method that returns a "
            "picture around the agent, e.g. render."
        )
    return states


def action_space(env: Environment) -> gym.Space:
    """The space of an environment's actions (A,)."""
    return env.single_action_space if isinstance(env, VectorEnv) else env.action_space


def name_of(env: Environment) -> str:
    """What an error calls an environment."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def check_skills(env: Environment, checkpoint: SkillSource, model: SkillModelConfig) -> None:
    """Raise a UserError unless the environment's states and actions have the dimensions of a checkpoint's skills."""
    remedy = "Use skills pretrained on this environment's data."
    check_dimensions(env, model, f"the skills in {checkpoint} were trained on", remedy)


def check_dimensions(env: Environment, model: SkillModelConfig, others: str, remedy: str) -> None:
    """Raise a UserError unless the environment's states and actions have the skill model's dimensions.

    Args:
        env: The environment.
        model: The skill model, which may still have to be trained.
        others: What has other dimensions than the environment, with a verb, for the error: "the skills in ... have".
        remedy: What to do then, for the error.
    """
    name, state, action = name_of(env), state_space(env, images=model.prior_images), action_space(env)
    for what, space in (("observations", state), ("actions", action)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise UserError(f"{name}: {what} are {space}, but skills need a flat Box. Wrap the environment.")
    states, actions = flatdim(state), flatdim(action)
    for what, found, wanted, fits in (
        ("observations", states, model.state_dim, model.fits(states)),
        ("actions", actions, model.action_dim, actions == model.action_dim),
    ):
        if not fits:
            raise UserError(f"{name} has {found}-dimensional {what}, but {others} {wanted}. {remedy}")


def make_env(env: Any, env_config: dict[str, Any]) -> gym.Env:
    """The low-level environment, as RLlib would make it.

    Args:
        env: A name registered with Ray Tune or Gymnasium, ``module:Name-v0``, where the module registers it, or a class
            taking a config dict, or ``package.module.Class``.
        env_config: The config dict, or the keywords of one that is registered with Gymnasium.
    """
    made = create(env, env_config)
    if isinstance(made, VectorEnv):
        raise UserError(f"{env} makes {made.num_envs} copies; without num_envs in its config it must make one.")
    return made


def create(env: Any, env_config: dict[str, Any]) -> Environment:
    """What `make_env` makes, or the many environments at once that the same name may stand for."""
    env_config = context(env_config)  # its own, to be changed
    method = env_config.get("images")
    if isinstance(method, str):
        return _with_pictures(env, env_config, method)
    if env_config.get("render_mode") is not None:
        headless.prepare()
    if not isinstance(env, str):
        return env(env_config)
    if _global_registry.contains(ENV_CREATOR, env):
        return _global_registry.get(ENV_CREATOR, env)(env_config)
    if "." in env and ":" not in env and env not in gym.registry:
        return pkgutil.resolve_name(env)(env_config)
    return gym.make(env, **env_config)


def context(env_config: Mapping[str, Any], **known: Any) -> EnvContext:
    """A copy of a config dict as RLlib gives it to environments, which may ask it for their ``worker_index``.

    Args:
        env_config: The dict, or the context that it is already.
        **known: What else is known: worker_index, vector_index, num_workers.
    """
    given = env_config if isinstance(env_config, EnvContext) else EnvContext(dict(env_config), worker_index=0)
    return given.copy_with_overrides(**known)


def _with_pictures(env: Any, env_config: EnvContext, method: str) -> PictureWrapper:
    del env_config["images"]
    if method == "render":
        env_config.setdefault("render_mode", "rgb_array")
    return PictureWrapper(make_env(env, env_config), method)


def try_env(env: Any, env_config: dict[str, Any]) -> gym.Env:
    """`make_env`, for a look at the environment before a run, which must not be the first to find that it cannot be.

    Raises:
        UserError: Whatever is wrong, in one line.
    """
    with foreign(f"{env} cannot be made"):
        try:
            made = make_env(env, env_config)
        except TypeError:
            if unknown := _unknown_keys(env, env_config):
                raise UserError(f"{env} cannot be made: {unknown}") from None
            raise
    if not isinstance(made, gym.Env):
        raise UserError(f"{env} makes {type(made).__name__}, which is no gymnasium.Env: derive it from that class.")
    return made


def _unknown_keys(env: Any, env_config: dict[str, Any]) -> str:
    """The first key that is no argument of an environment registered with Gymnasium, as an error tells it, or ""."""
    spec = gym.registry.get(env) if isinstance(env, str) else None
    if spec is None or spec.entry_point is None:
        return ""
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    parameters = inspect.signature(creator).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ""
    # The last three are not for the environment itself.
    known = {*parameters, "images", "max_episode_steps", "disable_env_checker"}
    unknown = [key for key in env_config if key not in known]
    return f"unknown key '{unknown[0]}'{did_you_mean(unknown[0], list(parameters))}" if unknown else ""


def make_skill_env(config: dict[str, Any]) -> SkillEnv:
    """`SkillEnv` from {"env", "env_config", "skill_checkpoint", "skill_bound"}, as Ray Tune's registry makes it."""
    env = make_env(config["env"], config["env_config"])
    return SkillEnv(env, config["skill_checkpoint"], config.get("skill_bound"))
