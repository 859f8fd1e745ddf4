"""Fixtures of several of these files."""

from __future__ import annotations

import pytest

from tests.support.train_command import TrainCommand


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> TrainCommand:
    return TrainCommand(capfd, monkeypatch)
