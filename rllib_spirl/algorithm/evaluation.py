"""Evaluation during training: episodes that are dealt out to env runners, and their place among the results."""

from collections.abc import Callable, Sequence
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import EVALUATION_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_spirl.algorithm.remote import Failure, attempt, result_of
from rllib_spirl.envs.rollout import EpisodeResult, summarize


def evaluate_skill_policy(algorithm: Algorithm, env_runners: Any) -> tuple[dict[str, Any], int, int]:
    """RLlib's `custom_evaluation_function`: `evaluation_duration` deterministic episodes on fixed seeds.

    With ``evaluation_config={"explore": True}`` the policy's skills are drawn, from the same random numbers every time.
    The seeds are dealt out to the evaluation env runners, so the result does not depend on their number.
    """
    config = algorithm.config
    seeds = [config.eval_seed + i for i in range(int(config.evaluation_duration))]
    explore = bool((config.evaluation_config or {}).get("explore", False))
    results = dealt_out(algorithm, env_runners, seeds, lambda runner, share: runner.run_episodes(share, explore))
    episodes = sorted(results, key=lambda e: e.seed)
    return evaluated(algorithm, summarize(episodes), episodes)


def dealt_out(
    algorithm: Algorithm, env_runners: Any, work: Sequence[Any], call: Callable[[Any, Sequence[Any]], list[Any]]
) -> list[Any]:
    """The results of work that is dealt out to the evaluation env runners; without any, the local one does it all.

    The share of an env runner that dies goes to the others, or to those that take the place of dead ones.

    Args:
        algorithm, env_runners: Of a `custom_evaluation_function`.
        work: What there is to do.
        call: What an env runner makes of its share of the work: a result for each part. It is pickled.

    Raises:
        RuntimeError: If env runners have died three times in a row; or what the call raises.
    """
    if env_runners is None or env_runners.num_remote_env_runners() == 0:
        return call(algorithm.env_runner if env_runners is None else env_runners.local_env_runner, work)

    def numbered(share: Sequence[int]) -> Callable[[Any], tuple[Sequence[int], list[Any] | Failure]]:
        parts = [work[place] for place in share]
        return lambda runner: (share, attempt(lambda: call(runner, parts)))

    found: dict[int, Any] = {}
    for _ in range(3):
        if env_runners.num_healthy_remote_env_runners() == 0:
            algorithm.restore_env_runners(env_runners)
        ids = env_runners.healthy_env_runner_ids()
        missing = [place for place in range(len(work)) if place not in found]
        calls = [numbered(missing[i :: len(ids)]) for i in range(min(len(ids), len(missing)))]
        results = env_runners.foreach_env_runner(calls, local_env_runner=False, remote_worker_ids=ids[: len(calls)])
        for share, values in results:
            found.update(zip(share, result_of(values), strict=True))
        if len(found) == len(work):
            return [found[place] for place in range(len(work))]
    raise RuntimeError("The evaluation's env runners died three times; see their errors above.")


def evaluated(
    algorithm: Any, summary: dict[str, Any], episodes: Sequence[EpisodeResult]
) -> tuple[dict[str, Any], int, int]:
    """Put an evaluation among the algorithm's results; what a `custom_evaluation_function` returns."""
    steps = int(sum(episode.low_level_steps for episode in episodes))
    log = MetricsLogger(root=False)
    log.log_dict(summary, window=1)
    algorithm.metrics.aggregate([log.reduce()], key=EVALUATION_RESULTS)
    algorithm._evaluated = True
    return summary, steps, steps


def evaluated_once(algorithm: Any, result: dict[str, Any]) -> dict[str, Any]:
    """An iteration's result, with an evaluation only if there was one in it, see `evaluated`.

    RLlib repeats an evaluation in the results of later iterations, as NaN; a curve needs each one once.
    """
    if not algorithm._evaluated:
        result.pop(EVALUATION_RESULTS, None)
    algorithm._evaluated = False
    return result
