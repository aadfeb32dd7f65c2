"""The env runner: RLlib's own, around the user's environment with skills for actions."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import register_env

from rllib_spirl.envs.skill_env import SkillEnv, make_skill_env
from rllib_spirl.evaluation.rollout import EpisodeResult, run_episode

SKILL_ENV = "rllib_spirl/SkillEnv"


class SkillEnvRunner(SingleAgentEnvRunner):
    """Steps skills. Also runs whole evaluation episodes on given seeds."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        skill_config = {
            "env": config.env,
            "env_config": dict(config.env_config),
            "skill_checkpoint": config.skill_checkpoint,
        }
        register_env(SKILL_ENV, make_skill_env)  # here, not at import: it lasts as long as the connected cluster
        inner = config.copy(copy_frozen=False).environment(env=SKILL_ENV, env_config=skill_config)
        super().__init__(config=inner, **kwargs)

    @cached_property
    def _evaluation_env(self) -> SkillEnv:
        return make_skill_env(self.config.env_config)

    def run_episodes(self, seeds: Sequence[int]) -> list[EpisodeResult]:
        """One episode per seed with the deterministic policy, in an environment of its own."""
        module = self.module

        def policy(observation: Any) -> Any:
            states = torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0)
            with torch.inference_mode():
                return module.best_skills(states)[0].numpy()

        return [run_episode(self._evaluation_env, policy, seed) for seed in seeds]
