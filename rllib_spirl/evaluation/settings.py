"""The settings that hold in an algorithm's evaluations."""

from collections.abc import Mapping
from typing import Any


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with ``changes``; mappings in both are merged key by key, at any depth, as RLlib does."""
    result = dict(settings)
    for key, value in changes.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def in_evaluation(config: Mapping[str, Any]) -> dict[str, Any]:
    """An algorithm's configuration with its ``evaluation_config`` in force."""
    changes = config.get("evaluation_config")
    return merged(config, changes if isinstance(changes, Mapping) else {})
