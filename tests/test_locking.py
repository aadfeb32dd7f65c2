"""One process at a time."""

import errno
import os
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from rllib_spirl import locking
from rllib_spirl.errors import UserError
from rllib_spirl.locking import sole, sole_if_free, sole_writer


def test_a_second_user_waits_and_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locking, "PATIENCE_S", 0.01)
    order: list[str] = []

    def second() -> None:
        with sole(tmp_path / "lock", "baking"):
            order.append("second")

    with sole(tmp_path / "lock", "baking"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "Another process is baking in" in capfd.readouterr().err


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError), sole(tmp_path / "lock", "baking"):
        raise ValueError
    with sole(tmp_path / "lock", "baking"):
        pass


@pytest.mark.parametrize(("number", "refused"), [(errno.EACCES, True), (errno.EROFS, True), (errno.ENOLCK, False)])
def test_a_place_that_cannot_be_locked(
    number: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locking.FileLock, "acquire", fail)
    outcome = pytest.raises(UserError, match=f"{tmp_path} cannot be written to") if refused else nullcontext()
    ran = False
    with outcome, sole(tmp_path / "lock", "baking"):
        ran = True
    assert ran != refused


def test_one_at_most_has_a_place_that_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path))
    with (
        sole_if_free(tmp_path / "a") as first,
        sole_if_free(tmp_path / "a") as again,
        sole_if_free(tmp_path / "b") as b,
    ):
        assert (first, again, b) == (True, False, True)
    with sole_if_free(tmp_path / "a") as later:
        assert later


def test_a_home_that_is_none_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "file"))
    with (
        pytest.raises(UserError, match=r"cannot be made: .*; set RLLIB_SPIRL_HOME to a folder of yours"),
        sole_writer(tmp_path / "data", "baking"),
    ):
        pass
