"""A run with W&B's files, and no key of W&B's."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.tracking.wandb_history import wandb_files
from tests.support import training
from tests.support.wandb_files import WANDB, hide_keys, settle


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    hide_keys(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two evaluations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        path = training.train(training.overrides(tmp_path_factory.mktemp("wandb"), *WANDB, "eval.every_epochs=1"))
    settle(wandb_files(path / "wandb", path.name)[0])
    return path
