"""Starting Ray on a busy machine, with what Ray then says."""

from typing import Any

import pytest
import ray

from rllib_spirl.cli.session import ray_session
from rllib_spirl.errors import UserError
from rllib_spirl.ray_start import ensure_ray, start_local
from rllib_spirl.skills.pretrain import check_workers
from rllib_spirl.skills.training import PretrainConfig

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


def test_a_cluster_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"RAY_ADDRESS 127.0.0.1:1: no Ray cluster can be reached there"):
        ensure_ray()


@pytest.mark.usefixtures("no_ray")
def test_an_error_names_what_the_address_was_given_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for given, named in ((None, "RAY_ADDRESS"), ("127.0.0.1:2", "--ray-address")):
        with pytest.raises(UserError, match=f"^{named} 127.0.0.1:"), ray_session(given):
            pass
    with pytest.raises(UserError, match="the cluster of RAY_ADDRESS has its own"), ray_session(None, 2):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 4}, "4 workers of 1 threads do not fit on 2 CPUs: lower num_workers to 2"),
        ({"num_workers": 2, "threads_per_worker": 2}, "2 workers of 2 threads do not fit .* to 1, or threads"),
        ({"use_gpu": True}, "1 workers with use_gpu: true need as many GPUs, and there are 0"),
    ],
)
def test_workers_that_will_never_start(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check_workers(PretrainConfig(threads_per_worker=8))  # as many as there are
    check_workers(PretrainConfig(num_workers=2, threads_per_worker=1))
    with monkeypatch.context() as with_gpus:
        with_gpus.setattr("torch.cuda.device_count", lambda: 2)
        check_workers(PretrainConfig(num_workers=2, threads_per_worker=2))  # each has a GPU, and one CPU
    with pytest.raises(UserError, match=message):
        check_workers(PretrainConfig(**{"threads_per_worker": 1} | settings))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_workers(PretrainConfig(**settings))  # a cluster may grow
