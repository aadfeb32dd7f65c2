"""Starting Ray on a busy machine, with what Ray then says."""

from typing import Any

import pytest
import ray

from rllib_spirl.errors import UserError
from rllib_spirl.ray_start import start_local

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


def failing(times: int, words: str) -> tuple[list[dict[str, Any]], Any]:
    """What ``ray.init`` was called with, and an ``ray.init`` that fails so many times."""
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) <= times:
            raise Exception(words)

    return calls, init


def test_a_late_start_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls, init = failing(1, LATE)
    monkeypatch.setattr(ray, "init", init)
    start_local(num_cpus=2)
    assert calls == [{"address": "local", "include_dashboard": False, "num_cpus": 2}] * 2
    assert "trying once more" in capsys.readouterr().err


def test_then_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, init = failing(2, LATE)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="did not come up"):
        start_local()
    assert len(calls) == 2


def test_other_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, init = failing(1, "no space left")
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Exception, match="no space left"):
        start_local()
    assert len(calls) == 1
