"""What an experiment asks of RLlib, checked before anything starts: algorithm, environment, config keys and types.

``AlgorithmConfig.update_from_dict`` takes any key, so a typo would silently train something else.
"""

import dataclasses
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from rllib_spirl.cli import tasks
from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.cli.levels import hint
from rllib_spirl.envs import our_name
from rllib_spirl.errors import UserError, at, one_line
from rllib_spirl.yaml_text import did_you_mean

# Keys of RLlib's old API stack that old files still have, and what to use now.
OLD_KEYS = {
    "model": "use 'model_config'",
    "num_workers": "use 'num_env_runners'",
    "num_rollout_workers": "use 'num_env_runners'",
    "num_envs_per_worker": "use 'num_envs_per_env_runner'",
    "sgd_minibatch_size": "use 'minibatch_size'",
    "num_sgd_iter": "use 'num_epochs'",
    "evaluation_num_workers": "use 'evaluation_num_env_runners'",
    "exploration_config": "exploration is part of the algorithm's RLModule now",
    "multiagent": "use 'policies' and 'policy_mapping_fn' from Python",
}
STACK_SWITCHES = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2", "_enable_new_api_stack")
PATHS = {"skill_checkpoint", "offline_data"}
"""Keys of the config that name what is there already."""
# Of a search space with more points, the first ones: a look is to take seconds.
_MOST_VARIANTS = 20
# `model_config` has no setter; this is the attribute that `.rl_module(model_config=...)` fills.
MODEL_CONFIG = "_model_config"


def names() -> list[str]:
    """The names that ``run:`` may have."""
    from ray.rllib.algorithms.registry import ALGORITHMS

    return sorted({*ALGORITHMS, *_ours()})


def _ours() -> dict[str, Any]:
    """This package's algorithms by name. Tune's registry forgets them when Ray is started a second time."""
    from rllib_spirl.algorithm import SPiRL
    from rllib_spirl.meta import MAML, MetaSPiRL

    return {kind.__name__: kind for kind in (SPiRL, MetaSPiRL, MAML)}


def algorithm_class(experiment: Experiment) -> Any:
    """The ``Algorithm`` subclass behind ``run:``.

    Raises:
        UserError: no such algorithm.
    """
    from ray.tune.registry import get_trainable_cls

    if experiment.run not in names():
        raise UserError(
            f"{experiment.where}: unknown algorithm run: '{experiment.run}'{did_you_mean(experiment.run, names())}"
        )
    if experiment.run in _ours():
        return _ours()[experiment.run]
    try:
        return get_trainable_cls(experiment.run)
    except ImportError as error:
        raise UserError(f"{experiment.where}: run: {experiment.run} cannot be imported: {error}") from None


def uses_skills(experiment: Experiment) -> bool:
    """Whether the algorithm chooses skills, as SPiRL does."""
    return "skill_checkpoint" in config_keys(experiment.run)


def uses_tasks(experiment: Experiment) -> bool:
    """Whether the algorithm learns from many tasks, as MetaSPiRL and MAML do."""
    return "training_tasks" in config_keys(experiment.run)


def default(experiment: Experiment, key: str) -> Any:
    """The algorithm's default of a key of ``config``; None where there is no such key."""
    return getattr(algorithm_class(experiment).get_default_config(), key, None)


def config_keys(run: str) -> tuple[str, ...]:
    """The keys that ``config`` may have for an algorithm; none for one that is not there."""
    from ray.tune.registry import get_trainable_cls

    if run not in names():
        return ()
    try:
        kind = _ours().get(run) or get_trainable_cls(run)
    except ImportError:
        return ()
    return tuple(key for key in _defaults(kind.get_default_config()) if not key.startswith("_"))


def variants(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The first points of a search space, as many as can be looked at in seconds."""
    from ray.tune.search.variant_generator import generate_variants

    for _, found in islice(generate_variants(dict(space)), _MOST_VARIANTS):
        yield found


def param_space(experiment: Experiment) -> dict[str, Any]:
    """The Tuner's ``param_space``: the experiment's config, checked key by key, search spaces kept.

    Raises:
        UserError: unknown algorithm, environment or key, or a value of the wrong type.
    """
    from rllib_spirl.algorithm import SPiRL
    from rllib_spirl.algorithm.episode_end import EpisodeEnd

    kind = algorithm_class(experiment)
    default = kind.get_default_config()
    where = f"{experiment.where}: config"
    space: dict[str, Any] = _check_keys(experiment.config, _defaults(default), where, experiment.run)
    if isinstance(space.get("evaluation_config"), dict):
        space["evaluation_config"] = _check_keys(
            space["evaluation_config"], _defaults(default), f"{where}.evaluation_config", experiment.run
        )
    if MODEL_CONFIG in space:
        _check_model_config(space[MODEL_CONFIG], default, f"{where}.model_config")
    if experiment.tasks is not None:
        if not uses_tasks(experiment):
            raise UserError(
                f"{experiment.where}: 'tasks' is for algorithms that learn from many tasks (MetaSPiRL, MAML), not "
                f"{experiment.run}"
            )
        space |= tasks.settings(experiment)
    if experiment.env is not None:
        space["env"] = experiment.env
    for key in PATHS & space.keys():
        space[key] = experiment.found(space[key])
    if experiment.num_samples != 1 and "seed" not in space:
        from ray import tune

        space["seed"] = tune.randint(0, 2**31 - 1)  # else all trials would begin with the same networks
    _check_env(experiment, space)
    if not issubclass(kind, SPiRL):  # it logs how episodes end itself
        space["callbacks_class"] = [EpisodeEnd, *_callbacks(space, where)]
    return space


def validate(experiment: Experiment, space: Mapping[str, Any], *, without_skills: bool = False) -> Any:
    """The config of the first point of the search space; see `validated`."""
    return validated(experiment, space, without_skills=without_skills)[0]


def validated(experiment: Experiment, space: Mapping[str, Any], *, without_skills: bool = False) -> list[Any]:
    """Build the ``AlgorithmConfig`` of the first points of the search space and let RLlib validate them.

    Args:
        experiment: for messages.
        space: from ``param_space``.
        without_skills: the skills may not be where the config says: they are not made yet, or are in the checkpoints
            of a run to resume.

    Returns:
        The validated configs.

    Raises:
        UserError: what RLlib says about the config, in one line.
    """
    return [_validated(experiment, point, without_skills) for point in variants(space)]


def _validated(experiment: Experiment, settings: dict[str, Any], without_skills: bool) -> Any:
    from rllib_spirl.algorithm import SPiRLConfig

    config = algorithm_class(experiment).get_default_config()
    try:
        config.update_from_dict(settings)
        config.validate()
        if isinstance(config, SPiRLConfig) and not without_skills:
            config.check_skills()
    except UserError as error:  # of the skills
        raise UserError(f"{experiment.where}: config.skill_checkpoint: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, AssertionError, ImportError, NotImplementedError) as error:
        text = one_line(error).partition(" To suppress all validation errors")[0]  # not to be had in a file
        if without_skills and "skill_checkpoint" in text:
            return config
        raise UserError(f"{experiment.where}: config: {text}") from None
    return config


def _defaults(config: Any) -> dict[str, Any]:
    """Every key that a file may set, with its default."""
    from ray._common.deprecation import DEPRECATED_VALUE

    known = {k: v for k, v in config.to_dict().items() if not (isinstance(v, int) and v == DEPRECATED_VALUE)}
    for alias in ("lambda_", "input_", "framework_str", "callbacks_class"):
        if hasattr(config, alias):
            known[alias] = getattr(config, alias)
    known["train_batch_size_per_learner"] = config._train_batch_size_per_learner or config.train_batch_size
    known["model_config"] = {}
    return known


def _callbacks(space: dict[str, Any], where: str) -> list[Any]:
    """Takes the given callbacks out of the config: names of classes to classes."""
    from ray.rllib.utils import force_list

    found = []
    # RLlib knows both names.
    for name in force_list(space.pop("callbacks", None)) + force_list(space.pop("callbacks_class", None)):
        try:
            found.append(pkgutil.resolve_name(name) if isinstance(name, str) else name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(f"{where}.callbacks: '{name}' cannot be imported: {error}") from None
        if not isinstance(found[-1], type):
            raise UserError(f"{where}.callbacks: '{name}' is no class")
    return found


def check_names(names: Iterable[str], experiment: Experiment, where: str) -> None:
    """Raise a UserError unless these are settings of the experiment's algorithm."""
    known = _defaults(algorithm_class(experiment).get_default_config())
    for name in names:
        if name not in known:
            hinted = hint(name, "config", experiment.run)
            raise UserError(f"{experiment.where}: scheduler_config.{where}: unknown key '{name}'{hinted}")


def _check_keys(given: Mapping[str, Any], known: Mapping[str, Any], where: str, run: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for key, value in given.items():
        if key in OLD_KEYS:
            raise UserError(f"{where}: '{key}' belongs to RLlib's old API stack; {OLD_KEYS[key]}")
        if key in STACK_SWITCHES and value is not True:
            raise UserError(f"{where}: '{key}: {value}' asks for RLlib's old API stack; remove it")
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{hint(key, 'config', run)}")
        value = _fit_type(value, known[key], f"{where}.{key}")
        space[MODEL_CONFIG if key == "model_config" else key] = value
    return space


def _fit_type(value: Any, default: Any, where: str) -> Any:
    """The value as the default's type where no meaning is lost; a clear error where it cannot be meant."""
    from ray.tune.search.sample import Domain

    if value is None or isinstance(value, Domain):
        return value
    if isinstance(value, dict) and set(value) == {"grid_search"}:
        return {"grid_search": [_fit_type(v, default, where) for v in value["grid_search"]]}
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where} must be true or false, not '{value}'")
    elif isinstance(default, int | float):
        if isinstance(value, str) and value != "auto":
            try:
                value = float(value.replace("_", ""))
            except ValueError:
                raise UserError(f"{where} must be a number (default {default}), not '{value}'") from None
        if isinstance(value, bool | dict):
            raise UserError(f"{where} must be a number (default {default}), not '{value}'")
        if isinstance(default, int) and isinstance(value, float) and value.is_integer():
            value = int(value)
    elif isinstance(default, dict):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a mapping, not '{value}'")
        value = {k: _fit_type(v, default[k], f"{where}.{k}") if k in default else v for k, v in value.items()}
    return value


def _check_model_config(given: Mapping[str, Any], default: Any, where: str) -> None:
    """Only for RLlib's own networks: other algorithms may read whatever keys their modules know."""
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    if not type(default).__module__.startswith("ray.rllib.algorithms."):
        return
    known = [f.name for f in dataclasses.fields(DefaultModelConfig)] + list(default.model_config)
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{did_you_mean(key, known)}")


def _check_env(experiment: Experiment, space: Mapping[str, Any]) -> None:
    env = space.get("env")
    if env is None:
        if space.get("input", space.get("input_")) is None:
            raise UserError(f"{experiment.where}: 'env' is missing (the id of an environment)")
        return
    candidates = env["grid_search"] if isinstance(env, dict) else [env]
    with at(experiment.where):
        for candidate in candidates:
            check_env_name(candidate, with_skills=uses_skills(experiment))


def check_env_name(env: Any, *, with_skills: bool) -> None:
    """Raise a UserError unless an environment of that name is registered or can be imported.

    Args:
        env: The name.
        with_skills: Whether it is for skills, for which the kitchens of others, whose observations are not flat, are
            of no use.
    """
    known = _environments()
    ours = our_name(str(env).rpartition(":")[2])
    if (env in known or _importable(env)) and not (ours and with_skills):
        return
    if ours:
        raise UserError(f"env: '{env}' is '{ours}' here, and its subtasks are env_config's 'tasks'")
    short = {name.rpartition("/")[2]: name for name in known}  # "Kitchen-v0" -> "rllib_spirl/Kitchen-v0"
    nearest = f"; did you mean '{short[env]}'?" if env in short else did_you_mean(env, known)
    raise UserError(f"unknown environment env: '{env}'{nearest}")


def _environments() -> list[str]:
    import gymnasium
    from ray.tune.registry import ENV_CREATOR, _global_registry

    waiting = {key for category, key in _global_registry._to_flush if category == ENV_CREATOR}
    flushed = {key for category, key in _global_registry._registered if category == ENV_CREATOR}
    return sorted({*gymnasium.registry, *waiting, *flushed})


def _importable(env: Any) -> bool:
    """Whether the name is ``module:EnvId-v0`` (gymnasium imports it) or ``package.module.Class`` (RLlib does)."""
    if not isinstance(env, str):
        return False
    module = env.partition(":")[0] if ":" in env else env.rpartition(".")[0]
    try:
        return bool(module) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
