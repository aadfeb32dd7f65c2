"""RLlib's configuration, with settings that are taken and checked in one place."""

from collections.abc import Callable, Sequence
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided


class CheckedConfig(AlgorithmConfig):
    """What the configurations of this package's algorithms share."""

    @property
    def vectorize_mode(self) -> str:
        """`gym_env_vectorize_mode` as a name."""
        return str(getattr(self.gym_env_vectorize_mode, "value", self.gym_env_vectorize_mode)).lower()

    def _take(self, arguments: dict[str, Any]) -> Self:
        """Set what was given of the arguments of a ``training``, which are its locals."""
        for name, value in arguments.items():
            if name not in ("self", "kwargs", "__class__") and value is not NotProvided:
                setattr(self, name, value)
        return self

    def _require(self, names: Sequence[str], fits: Callable[[Any], bool], what: str) -> None:
        """Raise ValueError unless settings fit; ``what`` says what each must, as in "be at least 1"."""
        for name in names:
            if not fits(getattr(self, name)):
                self._value_error(f"`{name}` must {what}, got {getattr(self, name)}.")
