"""``python -m experiments.train`` in this process, where it has to fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

import experiments.train


class TrainCommand:
    """Runs ``python -m experiments.train`` in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def fails(self, arguments: list[str]) -> str:
        """The one line on stderr of a command that has to fail, without its ``error: ``."""
        self.monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        self.capfd.readouterr()
        try:
            experiments.train.main()
        except SystemExit as error:
            code = error.code
        else:
            raise AssertionError("the command does not fail")
        finally:
            HydraConfig.instance().cfg = None
        out, err = self.capfd.readouterr()
        assert isinstance(code, int)
        assert code != 0
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("error: "), err
        return err.removeprefix("error: ").rstrip("\n")


def contents(root: Path) -> set[Path]:
    return set(root.rglob("*"))
