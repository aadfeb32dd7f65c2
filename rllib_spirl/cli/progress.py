"""What a person sees of a training run: a line per training iteration and trial, and a table at the end."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray.train._internal.storage import get_fs_and_path
from ray.tune import Callback, Stopper
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rllib_spirl.cli.metrics import ALIASES, lookup, missing
from rllib_spirl.errors import UserError, raised
from rllib_spirl.evaluation.aggregate import OF_TASKS
from rllib_spirl.locations import addressed
from rllib_spirl.progress import heard

# The metrics by which a line tells an evaluation, in order of preference, and what the line calls them.
EVALUATION = {
    f"evaluation/{place}{metric}": OF_TASKS.get(metric, "evaluation")
    for place, returned in (("", "episode_return"), ("env_runners/", "episode_return_mean"))
    for metric in (*OF_TASKS, returned)
}
LINE_EVERY_S = 1.0


class StopAt(Stopper):
    """Ends a trial when one of its metrics reaches its value.

    Unlike Tune's own mapping it bears metrics that are missing from some results (an evaluation, the return before the
    first episode ends), and it takes ``env_steps`` for every algorithm.

    Tune pickles the stopper into its state and brings the old one back when a run is resumed, so a pickled ``StopAt``
    is only a name: unpickled where a newer one of that name exists (a resumed run), it is that one.

    Args:
        criteria: Values by metric.
        where: File and experiment, for an error.
        name: The experiment's.
        checked: Whether it is known that results have these metrics, though perhaps not all of them; see
            `check_metrics`.
    """

    _newest: ClassVar[dict[str, "StopAt"]] = {}

    def __init__(self, criteria: Mapping[str, float], where: str, name: str, checked: bool = False) -> None:
        self.criteria = dict(criteria)
        self.where = where
        self.mistake: str | None = None
        self._name = name
        self._checked = checked
        self._newest[name] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_stop, (self.criteria, self.where, self._name, self._checked)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial has reached one of its values.

        Unless it was checked before, a top-level metric that the first result lacks ends everything (``mistake`` says
        so): a typo would train for ever.
        """
        if not self._checked:
            self._checked = True
            for metric in self.criteria:
                if "/" not in metric and lookup(result, metric) is None and metric not in ALIASES:
                    known = ("env_steps", *(k for k, v in result.items() if isinstance(v, int | float)))
                    self.mistake = missing(f"{self.where}: stop", metric, known)
        values = ((lookup(result, metric), at) for metric, at in self.criteria.items())
        return any(value is not None and value >= at for value, at in values)

    def stop_all(self) -> bool:
        """Only after a mistake: otherwise each trial ends by itself."""
        return self.mistake is not None


def _unpickle_stop(criteria: dict[str, float], where: str, name: str, checked: bool) -> StopAt:
    return StopAt._newest.get(name) or StopAt(criteria, where, name, checked)


class Progress(Callback):
    """Prints one line per result and, at the end, the table; also puts env steps on TensorBoard's x-axis."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: dict[str, tuple[float, float]] = {}  # trial id -> (env steps, seconds) at its last result
        self._printed: dict[str, float] = {}
        self.trials: list[Any] = []

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """One line; results that come faster than one a second share it, unless they carry an evaluation."""
        steps = lookup(result, "env_steps")
        if steps is not None and not result.get("timesteps_total"):
            result["timesteps_total"] = int(steps)  # the x-axis of Tune's TensorBoard files
        seconds = float(result.get("time_total_s") or 0.0)
        before = self._last.get(trial.trial_id)
        self._last[trial.trial_id] = (steps or 0.0, seconds)
        evaluated = any(lookup(result, metric) is not None for metric in EVALUATION)
        now = time.monotonic()
        if not (evaluated or result.get("done")) and now - self._printed.get(trial.trial_id, -9.0) < LINE_EVERY_S:
            return
        self._printed[trial.trial_id] = now
        line = f"[bold]{escape(self.label(trial, trials))}[/]  iter {result.get('training_iteration', 0)}"
        if steps is not None:
            line += f"  env_steps {steps:,.0f}"
        line += f"  return {_number(lookup(result, 'episode_return_mean'))}"
        for metric, called in EVALUATION.items():
            if (value := lookup(result, metric)) is not None:
                line += f"  [green]{called} {_number(value)}[/]"
                break
        line += f"  {_clock(seconds)}"
        if before and steps is not None and seconds > before[1]:
            line += f"  {(steps - before[0]) / (seconds - before[1]):,.0f} steps/s"
        console().print(line, soft_wrap=True, highlight=False)
        heard()

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """Keep the trials for the summary."""
        self.trials = list(trials)

    def label(self, trial: Any, trials: Sequence[Any]) -> str:
        """The experiment's name, with what distinguishes the trial where there are several."""
        if len(trials) <= 1 and not trial.evaluated_params:
            return self._name
        return f"{self._name}/{trial.trial_id[-5:]} {_parameters(trial)}".rstrip()


def console() -> Console:
    """Where progress goes: stdout, as wide as the terminal (callbacks are pickled, so they cannot hold one)."""
    return Console()


def summary(progress: Progress, name: str, directory: str) -> int:
    """Print the table of an experiment's trials, their checkpoints and errors.

    Args:
        progress: Of the run.
        name: The experiment's.
        directory: Where its results are: a path or URI.

    Returns:
        The number of trials that failed.
    """
    out, trials = console(), progress.trials
    table = Table(title=escape(f"{name}  {directory}"), title_justify="left", title_style="bold")
    for column in ("trial", "status", "iter", "env steps", "return", "evaluation", "time"):
        table.add_column(column, justify="left" if column in ("trial", "status") else "right")
    for trial in trials:
        result = trial.last_result or {}
        evaluation = next((v for m in EVALUATION if (v := lookup(result, m)) is not None), None)
        table.add_row(
            escape(progress.label(trial, trials)),
            # Tune marks interrupted trials TERMINATED as well.
            "[red]failed[/]" if trial.status == "ERROR" else "done" if result.get("done") else "interrupted",
            str(result.get("training_iteration", 0)),
            _number(lookup(result, "env_steps"), "{:,.0f}"),
            _number(lookup(result, "episode_return_mean")),
            _number(evaluation),
            _clock(float(result.get("time_total_s") or 0.0)),
        )
    out.print(table)
    inner = get_fs_and_path(directory)[1]
    failed = 0
    for trial in trials:
        label = progress.label(trial, trials) + ": " if len(trials) > 1 else ""
        place = addressed(trial.path, directory, inner)
        if trial.checkpoint:
            _line(out, f"{label}checkpoint  {addressed(trial.checkpoint.path, directory, inner)}")
        _line(out, f"{label}TensorBoard  tensorboard --logdir {place}")
        if trial.status == "ERROR":
            failed += 1
            name, message = _raised(trial.error_file)
            mistake = name == UserError.__name__
            told = f"{name}: {message}" if name and not mistake else message or "see the trial's directory"
            _line(out, f"{label}failed: {told}", style="red")
            if trial.error_file and not mistake:
                # `error_file` lies in Ray's session directory, which is temporary; Tune copies it to the trial's.
                _line(out, f"{label}full traceback  {place}/error.txt")
    return failed


def _line(out: Console, text: str, style: str | None = None) -> None:
    out.print(escape(text), soft_wrap=True, highlight=False, style=style)


def _raised(path: str | None) -> tuple[str, str]:
    """The name and message of the exception that ended a trial."""
    try:
        return raised(Path(path or "").read_text(errors="replace"))
    except OSError:
        return "", ""


def _parameters(trial: Any) -> str:
    return ",".join(
        f"{key.rpartition('/')[2]}={value:.4g}" if isinstance(value, float) else f"{key.rpartition('/')[2]}={value}"
        for key, value in (trial.evaluated_params or {}).items()
    )


def _number(value: float | None, form: str = "{:.3g}") -> str:
    return "-" if value is None else form.format(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
