"""RLlib's configuration, with settings that are taken and checked in one place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
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

    def _whole(self, *names: str, least: int) -> None:
        """Raise ValueError unless settings are whole numbers of at least so much."""
        self._require(names, lambda x: is_whole(x) and x >= least, f"be a whole number, at least {least}")

    def _positive(self, *names: str, none: str = "") -> None:
        """Raise ValueError unless settings are finite numbers greater than 0; ``none`` as in `_require`."""
        self._require(names, lambda x: is_finite(x) and x > 0, "be a number greater than 0", none=none)

    def _not_negative(self, *names: str) -> None:
        """Raise ValueError unless settings are finite numbers of at least 0."""
        self._require(names, lambda x: is_finite(x) and x >= 0, "be a number, at least 0")

    def _share(self, *names: str, none: str = "") -> None:
        """Raise ValueError unless settings are in [0, 1]; ``none`` as in `_require`."""
        self._require(names, lambda x: is_finite(x) and 0 <= x <= 1, "be in [0, 1]", none=none)

    def _one_of(self, *names: str, of: Sequence[str]) -> None:
        """Raise ValueError unless settings are among these."""
        *others, last = map(repr, of)
        self._require(names, lambda x: x in of, f"be {', '.join(others)} or {last}")

    def _check_runners(self) -> None:
        """Raise ValueError unless RLlib's numbers of env runners and the like are numbers that can be."""
        self._whole("num_env_runners", least=0)
        self._whole("num_envs_per_env_runner", least=1)
        what = "be a whole number, at least"
        self._require(["rollout_fragment_length"], lambda x: x == "auto" or (is_whole(x) and x >= 1), f"{what} 1")
        self._require(["seed", "evaluation_interval"], lambda x: x is None or (is_whole(x) and x >= 0), f"{what} 0")

    def _check_evaluation(self) -> None:
        """Raise ValueError unless evaluations are of a number of episodes."""
        if self.evaluation_duration == "auto" or self.evaluation_duration_unit != "episodes":
            self._value_error("Evaluations are of so many episodes: set `evaluation_duration` to a number of them.")

    def _check_not_used(self, remedies: Mapping[str, str]) -> None:
        """Raise ValueError if one of RLlib's settings was changed of which nothing would come.

        Args:
            remedies: Their names, and what to do instead, as in "set `tasks_per_step`".
        """
        if self.in_evaluation:  # RLlib sets some of its own there
            return
        for name in self._changed(remedies):
            kind = self.algo_class.__name__ if self.algo_class else type(self).__name__
            self._value_error(f"{kind} has no use for `{name.strip('_')}`: {remedies[name]}.")

    def _changed(self, names: Iterable[str]) -> list[str]:
        """Those of some settings that are not the defaults."""
        fresh = type(self)()
        return [name for name in names if getattr(self, name) != getattr(fresh, name)]

    def _require(self, names: Sequence[str], fits: Callable[[Any], bool], what: str, *, none: str = "") -> None:
        """Raise ValueError unless settings fit.

        Args:
            names: The settings'.
            fits: Whether a value does.
            what: What each must, for the error, as in "be at least 1".
            none: What None is called there, as in "null for none", where a setting may be that too.
        """
        for name in names:
            value = getattr(self, name)
            if not (fits(value) or (none and value is None)):
                self._value_error(f"`{name}` must {what}{f', or {none};' if none else ','} got {value!r}.")


def is_finite(value: Any) -> bool:
    """Whether a setting is a number, and not an infinite one."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a setting counts something: 2 does, 2.5, 2.0 and True do not."""
    return isinstance(value, Integral) and not isinstance(value, bool)
