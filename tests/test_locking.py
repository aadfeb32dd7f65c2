"""One process at a time."""

import threading
from pathlib import Path

import pytest

from rllib_spirl import locking
from rllib_spirl.locking import sole


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
