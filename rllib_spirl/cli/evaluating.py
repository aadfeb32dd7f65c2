"""``rllib evaluate``: deterministic episodes with the policy of a checkpoint."""

import json
import pickle
from typing import Any

import numpy as np
from pyarrow import fs
from ray.rllib.algorithms import Algorithm, AlgorithmConfig

from rllib_spirl.cli import session
from rllib_spirl.cli.experiment import storage
from rllib_spirl.errors import UserError

MARKER = "rllib_checkpoint.json"
_ARGUMENTS = "class_and_ctor_args.pkl"


def evaluate(checkpoint: str, *, episodes: int, seed: int) -> dict[str, Any]:
    """Run deterministic episodes and report what they returned.

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
    path = storage(checkpoint)
    filesystem, inner = _find(path, checkpoint)
    import rllib_spirl  # noqa: F401 - registers the environments

    try:
        with filesystem.open_input_stream(f"{inner}/{_ARGUMENTS}") as stream:
            made_by = pickle.load(stream)
        kind, state = made_by["class"], made_by["ctor_args_and_kwargs"][0][0]
    except (OSError, EOFError, pickle.UnpicklingError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{checkpoint}: {_ARGUMENTS} is missing or damaged ({error}); use another checkpoint") from None
    except (ImportError, AttributeError) as error:
        raise UserError(f"{checkpoint} was made by code that is not installed here: {error}") from None
    session.start(None, None, None, 0)
    if kind.__name__ == "SPiRL":
        from rllib_spirl.evaluation.restore import evaluate_checkpoint

        return evaluate_checkpoint(path, episodes=episodes, seed=seed)
    return _evaluate(path, checkpoint, state, episodes, seed)


def _find(path: str, shown: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it of a directory that holds an RLlib checkpoint."""
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
        kind = filesystem.get_file_info(inner).type
        if kind == fs.FileType.NotFound:
            raise UserError(f"{shown} does not exist")
        if kind == fs.FileType.File:
            raise UserError(f"{shown} is a file; name the checkpoint's directory")
        if filesystem.get_file_info(f"{inner}/{MARKER}").type == fs.FileType.File:
            with filesystem.open_input_stream(f"{inner}/{MARKER}") as stream:
                json.loads(stream.read())
            return filesystem, inner
        below = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read as a checkpoint: {error}") from None
    nested = [info for info in below if info.base_name == MARKER]
    newest = max(nested, key=lambda info: (info.mtime_ns or 0, info.path), default=None)
    hint = f"; did you mean {newest.path.rpartition('/')[0]}?" if newest else f" (no {MARKER} in it)"
    raise UserError(f"{shown} is not a checkpoint of rllib train{hint}")


def _evaluate(path: str, shown: str, state: dict[str, Any], episodes: int, seed: int) -> dict[str, Any]:
    collected: list[Any] = []

    def sample(algorithm: Any, runners: Any) -> tuple[dict[str, Any], int, int]:
        # Called by `Algorithm.evaluate` when the evaluation env runner has the weights and connector states.
        collected.extend(runners.local_env_runner.sample(num_episodes=episodes, explore=False)[:episodes])
        return {}, sum(len(e) for e in collected), sum(len(e) for e in collected)

    config = AlgorithmConfig.from_state(state)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1)
    config.learners(num_learners=0, num_gpus_per_learner=0)
    config.evaluation(
        evaluation_interval=1,
        evaluation_num_env_runners=0,
        evaluation_parallel_to_training=False,
        custom_evaluation_function=sample,
    )
    config.debugging(seed=seed)
    config.evaluation_config = {**(config.evaluation_config or {}), "explore": False, "seed": seed}
    try:
        algorithm = Algorithm.from_checkpoint(path, config=config)
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{shown} cannot be restored: {reason}") from None
    try:
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
