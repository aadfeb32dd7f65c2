"""The policy in a SPiRL checkpoint, on its own: no algorithm, no env runners, no learner."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.core import (
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.util import ActorPool

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.checkpoint_files import kept_skills
from rllib_spirl.algorithm.spirl_rl_module import SkillPriorRLModule
from rllib_spirl.envs.rollout import EpisodeResult, run_episode, summarize
from rllib_spirl.envs.skill_env import SkillEnv, try_env
from rllib_spirl.errors import UserError, one_line
from rllib_spirl.evaluation.checkpoints import UNREADABLE, locate, made_by
from rllib_spirl.evaluation.settings import in_evaluation
from rllib_spirl.meta import MAML, MetaSPiRL
from rllib_spirl.progress import stage
from rllib_spirl.ray_start import ensure_ray
from rllib_spirl.skills.checkpoint import SkillSource

# Fewer than these take longer to hand to another process than to run.
EPISODES_PER_PROCESS = 10
_MODULE = PurePosixPath(COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID)


@dataclass(frozen=True)
class Restored:
    """A trained policy and what it was trained in."""

    module: SkillPriorRLModule
    """Inference only, on the CPU."""
    env: Any
    """A registered name or an environment class."""
    env_config: dict[str, Any]
    skill_checkpoint: SkillSource
    skill_bound: float | None = None
    explores: bool = False
    """Whether training's evaluations drew skills from the policy, with ``evaluation_config: {explore: true}``."""

    def policy(self, observation: Any) -> Any:
        """Observation (S,) to the deterministic policy's z, (Z,) float32."""
        return self._acting.best(observation)

    def policy_of_evaluations(self, seed: int) -> Callable[[Any], Any]:
        """The policy in the evaluation episode with this seed, as training's evaluations have it."""
        return self._acting.in_episode(seed, self.explores)

    @cached_property
    def _acting(self) -> ActingPolicy:
        return ActingPolicy(self.module)

    def make_env(self, **env_config: Any) -> SkillEnv:
        """The environment of evaluations with skills for actions; ``env_config`` adds to its own.

        Raises:
            UserError: If the environment cannot be made here.
        """
        return self.with_skills(self.make_low_level_env(**env_config))

    def with_skills(self, env: gym.Env) -> SkillEnv:
        """``env`` with skills for actions, as the policy chooses them."""
        return SkillEnv(env, self.skill_checkpoint, self.skill_bound)

    def make_low_level_env(self, **env_config: Any) -> gym.Env:
        """The environment alone, with its own actions.

        Raises:
            UserError: If it cannot be made, with these arguments or at all.
        """
        try:
            return try_env(self.env, {**self.env_config, **env_config})
        except UserError as error:
            raise UserError(f"The environment {self.env} cannot be made here: {error}") from None


def load_policy(checkpoint: str) -> Restored:
    """Restore the policy of a SPiRL checkpoint.

    RLlib stores classes, configs and weights with pickle: load only checkpoints you trust.

    Args:
        checkpoint: Directory or URI, as `SPiRL.save_to_path` or Ray Tune leaves it.

    Raises:
        UserError: If it is not there, not SPiRL's, incomplete or damaged.
    """
    filesystem, inner = locate(checkpoint)
    kind, config = made_by(filesystem, inner, checkpoint)
    named = config.get("skill_checkpoint")
    if issubclass(kind, MetaSPiRL | MAML):
        raise UserError(f"{checkpoint} is a checkpoint of {kind.__name__}, of many tasks: use `spirl adapt`.")
    if not named:
        raise UserError(f"{checkpoint} is a checkpoint of {kind.__name__}; expected one of SPiRL.")
    kept = kept_skills(checkpoint)
    try:
        module = RLModule.from_checkpoint(f"{inner}/{_MODULE}", filesystem=filesystem, skills=kept)
    except UNREADABLE as error:
        raise UserError(f"{checkpoint}: its policy cannot be restored: {one_line(error)}") from None
    assert isinstance(module, SkillPriorRLModule)
    for name in module.get_non_inference_attributes():
        delattr(module, name)
    module.eval()
    there = in_evaluation(config)  # training's evaluations may be in another environment
    explores = bool((config.get("evaluation_config") or {}).get("explore"))
    skills = kept or str(named)
    return Restored(module, there["env"], there.get("env_config") or {}, skills, config.get("skill_bound"), explores)


def evaluate_checkpoint(checkpoint: str, *, episodes: int, seed: int) -> dict[str, Any]:
    """Run episodes on the seeds ``seed``, ``seed`` + 1, …, in parallel where Ray has several CPUs.

    They are with the deterministic policy, or with draws from it where training's evaluations drew. The result depends
    on the seeds only, not on the number of processes.

    Returns:
        `rllib_spirl.envs.rollout.summarize` of the episodes, and the first seed.

    Raises:
        UserError: As `load_policy`, or if the environment cannot be made.
    """
    return evaluate_policy(load_policy(checkpoint), episodes=episodes, seed=seed)


def evaluate_policy(restored: Restored, *, episodes: int, seed: int) -> dict[str, Any]:
    """`evaluate_checkpoint` of a checkpoint that is loaded already."""
    with closing(restored.make_env()) as env:  # Before any process is started: what is wrong shows here, in one line.
        return _evaluate(restored, env, episodes, seed)


def _evaluate(restored: Restored, env: gym.Env, episodes: int, seed: int) -> dict[str, Any]:
    ensure_ray()
    workers = max(1, min(episodes // EPISODES_PER_PROCESS, int(ray.cluster_resources().get("CPU", 1))))
    seeds = list(range(seed, seed + episodes))
    results: list[EpisodeResult] = []
    with stage("evaluation episodes", episodes) as progress:
        if workers == 1:
            for episode_seed in seeds:
                results.append(run_episode(env, restored.policy_of_evaluations(episode_seed), episode_seed))
                progress.advance()
        else:
            reference = ray.put(restored)
            actors = [ray.remote(num_cpus=1)(_Evaluator).remote(reference) for _ in range(workers)]
            for result in ActorPool(actors).map_unordered(lambda actor, s: actor.run.remote(s), seeds):
                results.append(result)
                progress.advance()
    return {**summarize(sorted(results, key=lambda r: r.seed)), "seed": seed}


class _Evaluator:
    """A process with the policy and an environment."""

    def __init__(self, restored: Restored) -> None:
        torch.set_num_threads(1)
        self.restored, self.env = restored, restored.make_env()

    def run(self, seed: int) -> EpisodeResult:
        return run_episode(self.env, self.restored.policy_of_evaluations(seed), seed)
