"""Runs in a report's curves.json: reports can be compared, or extended, when their runs are long gone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from rllib_spirl.errors import UserError, unreadable
from rllib_spirl.evaluation.curve import Array, Curve

CURVES = "curves.json"
Finite = Annotated[float, Field(allow_inf_nan=False)]
Series = list[Finite | None]
Steps = list[Annotated[Finite, Field(ge=0)]]
_EVALUATED = ("seconds", "episodes")
_TRAINED = ("kl", "alpha")


class _Run(BaseModel):
    """A run, with null for nan."""

    trial: str
    seed: int | None = None
    skill_checkpoint: str = ""
    env: str = ""
    task: str = ""
    rule: str = ""
    data: str = ""
    explores: bool = False
    target_divergence: float | None = None
    prior_alone: tuple[float | None, float | None] = (None, None)
    env_steps: Steps
    seconds: Series = []
    episodes: Series = []
    scores: dict[str, Series]
    subtask_rate: dict[str, Series] = {}
    train_steps: Steps = []
    kl: Series = []
    alpha: Series = []
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _as_long(self) -> "_Run":
        evaluated = {name: getattr(self, name) for name in _EVALUATED} | self.scores | self.subtask_rate
        trained = {name: getattr(self, name) for name in _TRAINED}
        for steps, all_series in ((self.env_steps, evaluated), (self.train_steps, trained)):
            if steps != sorted(steps):
                raise ValueError("steps that go back")
            for name, series in all_series.items():
                if series and len(series) != len(steps):
                    raise ValueError(f"{name} has {len(series)} values for {len(steps)} steps")
        return self


class _Method(BaseModel):
    runs: list[_Run]


class _Report(BaseModel):
    methods: dict[str, _Method] = Field(min_length=1)


def record(run: Curve) -> dict[str, Any]:
    """What curves.json says of a run; no path of this machine."""
    skills = Path(run.skill_checkpoint).name
    if skills != run.skill_checkpoint:  # two folders may have one name
        skills += f"-{hashlib.sha256(run.skill_checkpoint.encode()).hexdigest()[:8]}"
    return {
        "trial": run.trial.name,
        "seed": run.seed,
        "skill_checkpoint": skills,
        "env": run.env,
        "task": run.task,
        "rule": run.rule,
        "data": run.data,
        "explores": run.explores,
        "target_divergence": numbers([run.target_divergence])[0],
        "prior_alone": numbers(run.prior_alone),
        **{name: numbers(getattr(run, name)) for name in ("env_steps", *_EVALUATED)},
        "scores": {name: numbers(score) for name, score in run.scores.items()},
        "subtask_rate": {name: numbers(rate) for name, rate in run.subtask_rate.items()},
        **{name: numbers(getattr(run, name)) for name in ("train_steps", *_TRAINED)},
        "notes": [note.replace(str(run.trial), run.trial.name) for note in run.notes],
    }


def numbers(values: Any) -> Series:
    """Whole numbers, six digits of others, null for nan."""
    return [None if not np.isfinite(v) else float(v) if v == round(v) else float(f"{v:.6g}") for v in values]


def find(path: Path) -> Path | None:
    """The curves.json that a path is or holds."""
    file = path if path.name == CURVES else path / CURVES
    return file if file.is_file() else None


def load(file: Path) -> list[Curve]:
    """The runs of a report, as far as they had been evaluated.

    Raises:
        UserError: If the file is not one that a report has written.
    """
    try:
        report = _Report.model_validate_json(file.read_bytes())
        return [_curve(run, name, file) for name, method in report.methods.items() for run in method.runs]
    except (OSError, ValidationError) as error:
        raise UserError(f"{file} is not the {CURVES} of a report: {unreadable(error)}. Make the report anew.") from None


def _curve(run: _Run, method: str, file: Path) -> Curve:
    def series(values: Series, steps: Steps) -> Array:
        return _array(values) if values else np.full(len(steps), np.nan)

    values: dict[str, Any] = run.model_dump(
        include={"seed", "skill_checkpoint", "env", "task", "rule", "data", "explores", "notes"}
    )
    values |= {name: series(getattr(run, name), run.env_steps) for name in _EVALUATED}
    values |= {name: series(getattr(run, name), run.train_steps) for name in _TRAINED}
    return Curve(
        method=method,
        trial=file.parent / run.trial,
        target_divergence=_number(run.target_divergence),
        prior_alone=(_number(run.prior_alone[0]), _number(run.prior_alone[1])),
        env_steps=_array(run.env_steps),
        train_steps=_array(run.train_steps),
        scores={name: series(score, run.env_steps) for name, score in run.scores.items()},
        subtask_rate={name: series(rate, run.env_steps) for name, rate in run.subtask_rate.items()},
        **values,
    )


def _array(values: Sequence[float | None]) -> Array:
    return np.array([_number(value) for value in values])


def _number(value: float | None) -> float:
    return np.nan if value is None else value
