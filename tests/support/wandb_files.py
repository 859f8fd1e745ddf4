"""Trainings that write to W&B's own files, offline, and what is in these files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking.wandb_history import history, wandb_files

WANDB = ("log=wandb", "log.writers.wandb.mode=offline", "+log.writers.wandb.settings.x_disable_stats=true")
BLOCK, HEADER = 32768, 7  # of LevelDB's log: a record is cut where a block ends
WHOLE, LAST = 1, 4


def hide_keys(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Whoever runs the tests may be logged in; nothing of it may leave this machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def records(path: Path, kind: str) -> list[Any]:
    """The records of one kind in a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for content in contents(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == kind:
            found.append(getattr(record, kind))
    return found


def contents(data: bytes) -> Iterator[bytes]:
    """The whole records of a file, read a second time and without a look at the program's own reader."""
    parts = b""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        if start == 0:
            block = block[HEADER:]  # of the file
        while len(block) > HEADER:
            length, kind = int.from_bytes(block[4:6], "little"), block[6]
            parts += block[HEADER : HEADER + length]
            if len(block) < HEADER + length:
                return
            block = block[HEADER + length :]
            if kind in (WHOLE, LAST):
                yield parts
                parts = b""


def settle(path: Path) -> None:
    """Wait for the end of a file: W&B's process may write it a moment after ``finish`` has returned."""
    deadline = time.monotonic() + 20
    while not records(path, "exit"):
        assert time.monotonic() < deadline, f"{path} does not come to its end"
        time.sleep(0.02)


def rows_of(run: Path) -> list[dict]:
    return [row for path in wandb_files(run / "wandb", run.name) for row in history(path)]
