"""What skills alone achieve: episodes in which z comes from the prior, before any reinforcement learning."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from rllib_spirl.envs.rollout import EpisodeResult, run_episode, summarize
from rllib_spirl.envs.skill_env import make_skill_env
from rllib_spirl.files import replacing
from rllib_spirl.progress import stage, tell
from rllib_spirl.ray_start import ensure_ray
from rllib_spirl.skills.advice import stuck_warning
from rllib_spirl.skills.checkpoint import PRIOR_METRICS, load_skills
from rllib_spirl.skills.model import SkillPrior


def prior_policy(prior: SkillPrior, generator: torch.Generator, sample: bool) -> Callable[[Any], NDArray[np.float32]]:
    """From an observation of an environment of skills to z, sampled from the prior, or its mean."""

    def policy(observation: Any) -> NDArray[np.float32]:
        with torch.inference_mode():
            z = prior.at(torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0))
            noise = torch.randn(z.mean.shape, generator=generator) if sample else 0
            return (z.mean + z.stddev * noise)[0].numpy()

    return policy


def prior_episode(
    skill_checkpoint: str, env: str, env_config: dict[str, Any], seed: int, sample: bool
) -> tuple[EpisodeResult, float]:
    """One episode on ``seed`` with z sampled from the prior, or its mean, and how far states came in a step.

    The latter as `SkillPrior.pace` has it; nan where the episode had but one skill.
    """
    torch.set_num_threads(1)
    prior = load_skills(skill_checkpoint)[0].prior
    choose = prior_policy(prior, torch.Generator().manual_seed(seed), sample)
    skill_env = make_skill_env({"env": env, "env_config": env_config, "skill_checkpoint": skill_checkpoint})
    observations: list[Any] = []

    def policy(observation: Any) -> NDArray[np.float32]:
        observations.append(observation)
        return choose(observation)

    try:
        result = run_episode(skill_env, policy, seed)
        states = prior.states(torch.from_numpy(np.array(observations, np.float32)))
        return result, float(prior.pace(states, skill_env.horizon).mean())
    finally:
        skill_env.close()


*_SCORES, _PACE, _EPISODES = PRIOR_METRICS


def prior_scores(metrics: Mapping[str, float], env: str, env_config: Mapping[str, Any]) -> tuple[float, float] | None:
    """What a card's metrics say of skills from the prior in a task, its mean and sampled; None if not tried there."""
    of_task = [f"{name} {_task_key(env, env_config)}" for name in _SCORES]
    return (metrics[of_task[0]], metrics[of_task[1]]) if all(name in metrics for name in of_task) else None


def prior_episodes(metrics: Mapping[str, float], env: str, env_config: Mapping[str, Any]) -> float:
    """Of how many episodes `prior_scores` tells."""
    return metrics.get(f"{_EPISODES} {_task_key(env, env_config)}", 0)


def _task_key(env: str, env_config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([env, env_config], sort_keys=True, default=str).encode()).hexdigest()[:8]


def report_prior(
    card: Path, env: str, env_config: dict[str, Any], episodes: int, *, seed: int = 20_000
) -> dict[str, float]:
    """Run ``episodes`` with sampled skills, as many with the prior's mean, in parallel; add the scores to the card.

    Beside them the card gets ``prior_pace``: how far states come in a step with sampled skills, as a share of what
    they do in the data. It is below 1 where skills get stuck, which scores of rare rewards do not show.
    """
    ensure_ray()
    run = ray.remote(num_cpus=1)(prior_episode)
    jobs = {
        run.remote(str(card.parent), env, env_config, seed + i, sample): sample
        for sample in (False, True)
        for i in range(episodes)
    }
    results: dict[bool, list[EpisodeResult]] = {False: [], True: []}
    paces: list[float] = []  # of sampled skills
    with stage("episodes with skills from the prior", len(jobs)) as progress:
        waiting = list(jobs)
        while waiting:
            (ready,), waiting = ray.wait(waiting)
            result, pace = ray.get(ready)
            results[jobs[ready]].append(result)
            if jobs[ready] and np.isfinite(pace):
                paces.append(pace)
            progress.advance()
    scores: dict[str, float] = {}
    for sample, name in zip((False, True), _SCORES, strict=True):
        summary = summarize(results[sample])
        scores[name] = summary.get("completed_subtasks", summary["episode_return"])
    content = json.loads(card.read_text())
    metrics, key = content["metrics"], _task_key(env, env_config)
    metrics.update({f"{name} {key}": score for name, score in scores.items()} | {f"{_EPISODES} {key}": episodes})
    recorded = metrics.get("validation_pace", 0.0)
    relative = float(np.mean(paces)) / recorded if paces and recorded > 0 else None
    if relative is not None:
        metrics[f"{_PACE} {key}"] = relative
    with replacing(card) as file:
        file.write_text(json.dumps(content, indent=2) + "\n")
    mean, sampled = scores["prior_mean"], scores["prior_sampled"]
    moving = "" if relative is None else f"; states change {relative:.2f} times as fast as in the data"
    print(f"skills from the prior alone: {mean:.2f} (its mean), {sampled:.2f} (sampled){moving}")
    if relative is not None:
        model, training = content["model"], content.get("training", {})
        dropout = training.get("state_dropout", 0) if model["decoder"] == "closed_loop" else None
        if stuck := stuck_warning(relative, metrics, model.get("action_std", 0), dropout):
            tell(f"warning: {stuck}")
    return scores
