"""``rllib evaluate``: episodes with the policy of a checkpoint."""

from typing import Any

import numpy as np
from ray.rllib.algorithms import AlgorithmConfig

from rllib_spirl.cli.session import ray_session
from rllib_spirl.evaluation.checkpoints import locate, made_by, restored_here
from rllib_spirl.progress import stage


def evaluate(checkpoint: str, *, episodes: int, seed: int) -> dict[str, Any]:
    """Run episodes and report what they returned.

    They are with the deterministic policy; of SPiRL as in training's evaluations, which may draw skills from it.

    RLlib stores the class and config of an algorithm with pickle: evaluate only checkpoints you trust.

    Args:
        checkpoint: directory or URI of an RLlib checkpoint.
        episodes: how many.
        seed: of the first environment reset.

    Returns:
        Numbers (and lists of one number per episode) by name; for SPiRL those of its own evaluation.

    Raises:
        UserError: there is no complete checkpoint.
    """
    from rllib_spirl import MAML, SPiRL

    kind, state = made_by(*locate(checkpoint), checkpoint)
    if issubclass(kind, SPiRL | MAML):  # which is told there what to use instead
        from rllib_spirl.evaluation.restore import evaluate_policy, load_policy

        restored = load_policy(checkpoint)
        restored.make_env().close()  # before Ray is started, which takes long: what is wrong shows here
        with ray_session():
            return evaluate_policy(restored, episodes=episodes, seed=seed)
    with ray_session():
        return _evaluate(checkpoint, kind, state, episodes, seed)


def _evaluate(checkpoint: str, kind: type, state: dict[str, Any], episodes: int, seed: int) -> dict[str, Any]:
    collected: list[Any] = []

    def sample(algorithm: Any, runners: Any) -> tuple[dict[str, Any], int, int]:
        # Called by `Algorithm.evaluate` when the evaluation env runner has the weights and connector states.
        collected.extend(runners.local_env_runner.sample(num_episodes=episodes, explore=False)[:episodes])
        return {}, sum(len(e) for e in collected), sum(len(e) for e in collected)

    def change(config: AlgorithmConfig) -> None:
        config.env_runners(num_envs_per_env_runner=1)
        config.evaluation(evaluation_interval=1, custom_evaluation_function=sample)
        config.debugging(seed=seed)
        config.evaluation_config = {**(config.evaluation_config or {}), "explore": False, "seed": seed}

    algorithm = restored_here(kind, state, checkpoint, change)
    try:
        with stage("evaluation episodes"):
            algorithm.evaluate()
    finally:
        algorithm.stop()
    returns = np.array([episode.get_return() for episode in collected], dtype=float)
    lengths = np.array([len(episode) for episode in collected])
    return {
        "episodes": len(collected),
        "episode_return_mean": float(returns.mean()),
        "episode_return_std": float(returns.std()),
        "episode_return_min": float(returns.min()),
        "episode_return_max": float(returns.max()),
        "episode_len_mean": float(lengths.mean()),
        "episode_returns": returns.tolist(),
        "seed": seed,
    }
