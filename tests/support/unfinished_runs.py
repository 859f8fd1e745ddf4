"""Runs in any state, as a process leaves them in its middle, and what is read of their progress at a given time."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.run_progress import RunProgress, read_progress
from tests.support.runs import write_run

NOW = 1_800_000_000.0
HERE = socket.gethostname()


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def run_in_state(
    root: Path, name: str = "base", seed: int = 0, meta: dict[str, Any] | None = None, **state: Any
) -> Path:
    """A run directory; `state` goes to status.json, which is absent without any."""
    first = {"experiment": name, "seed": seed, "recipe": "mini", "created_at": at(NOW - 1000)}
    first |= {"host": HERE, "device": "cpu", "resumes": []}
    base = {"step": 50, "num_steps": 100, "epoch": 2.0, "updated_at": at(NOW - 5), "host": HERE, "error": None}
    return write_run(
        root / name / f"0123456789ab-seed{seed}",
        {**first, **(meta or {})},
        status={**base, **state} if state else None,
    )


def train_line(step: int, when: float, speed: float | None = 8.0) -> str:
    metrics = {"train/speed/images_per_second": speed}
    event = {"event": "train", "step": step, "epoch": step / 25, "time": when, "metrics": metrics}
    return json.dumps(event) + "\n"


def eval_line(step: int, when: float, ap: float | None) -> str:
    metrics = {"val/bbox/AP": ap}
    return json.dumps({"event": "eval", "step": step, "epoch": 1.0, "time": when, "metrics": metrics}) + "\n"


def read(path: Path, now: float = NOW) -> RunProgress:
    return read_progress(Run(path), now)
