"""The env runner: RLlib's own, around the user's environment with skills for actions."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import ENV_CREATOR, _global_registry, register_env

from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.evaluation.rollout import EpisodeResult, run_episode

SKILL_ENV = "rllib_spirl/SkillEnv"


def make_env(env: Any, env_config: dict[str, Any]) -> gym.Env:
    """The low-level environment: a name registered with Ray Tune or Gymnasium, or a class taking a config dict."""
    if not isinstance(env, str):
        return env(env_config)
    if _global_registry.contains(ENV_CREATOR, env):
        return _global_registry.get(ENV_CREATOR, env)(env_config)
    return gym.make(env, **env_config)


def make_skill_env(env_config: dict[str, Any]) -> SkillEnv:
    """`SkillEnv` from {"env", "env_config", "skill_checkpoint"}."""
    return SkillEnv(make_env(env_config["env"], dict(env_config["env_config"])), env_config["skill_checkpoint"])


register_env(SKILL_ENV, make_skill_env)


class SkillEnvRunner(SingleAgentEnvRunner):
    """Steps skills. Also runs whole evaluation episodes on given seeds."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        skill_config = {
            "env": config.env,
            "env_config": dict(config.env_config),
            "skill_checkpoint": config.skill_checkpoint,
        }
        inner = config.copy(copy_frozen=False).environment(env=SKILL_ENV, env_config=skill_config)
        super().__init__(config=inner, **kwargs)

    @cached_property
    def _evaluation_env(self) -> SkillEnv:
        return make_skill_env(self.config.env_config)

    def run_episodes(self, seeds: Sequence[int]) -> list[EpisodeResult]:
        """One episode per seed with the policy's mean skills. Independent of sampling: it has an environment of its own."""
        module = self.module

        def policy(observation: Any) -> Any:
            states = torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0)
            with torch.inference_mode():
                return module.skills(states)[0].mean[0].numpy()

        return [run_episode(self._evaluation_env, policy, seed) for seed in seeds]
