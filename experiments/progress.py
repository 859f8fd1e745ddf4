"""How the runs of a sweep stand, read from their directories while jobs write them; reads only, holds nothing up."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from analysis.runs import NewerSchemaError, Run, RunError
from experiments.run_lock import is_held
from sparse_rcnn.errors import UserError

UNREADABLE = "unreadable"
DEAD_AFTER = 60.0  # seconds without an update; the lock decides, this only spares runs that start or stop now
SILENT_AFTER = 600.0  # seconds; an evaluation writes no status, and may be long
TAIL_BYTES = 64 * 1024
RATE_EVENTS = 20


@dataclass
class RunStatus:
    """One run as it is now. Times are in seconds, AP is a fraction; None is what cannot be known."""

    path: str
    run_id: str
    experiment: str | None
    seed: int | None
    recipe: str | None
    state: str
    step: int | None
    num_steps: int | None
    epoch: float | None
    ap: float | None
    images_per_second: float | None
    eta: float | None
    age: float | None
    host: str | None
    device: str | None
    error: str | None


@dataclass
class Sweep:
    """The runs under some roots, the folders that are none, and those that a newer program wrote."""

    runs: list[RunStatus] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)


def read_sweep(roots: Sequence[str | Path], now: float | None = None) -> Sweep:
    """The state of all runs under `roots`; may be called while they are written, created and deleted.

    Args:
        roots: folders of runs, of one experiment, or single runs.
        now: seconds since 1970, for tests.

    Raises:
        UserError: a root is not a folder, or cannot be read.
    """
    sweep = Sweep()
    seen = set()
    for path in (path for root in roots for path in _candidates(Path(root))):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            sweep.runs.append(read_status(Run(path), time.time() if now is None else now))
        except NewerSchemaError:
            sweep.newer.append(str(path))
        except (RunError, OSError):
            if os.path.isdir(path):  # else it vanished since it was listed
                sweep.foreign.append(str(path))
    return sweep


def read_status(run: Run, now: float) -> RunStatus:
    """What a run directory says of its progress; `now` in seconds since 1970.

    Raises:
        RunError: it vanished in between.
    """
    meta, problem = run.meta, None
    status: dict[str, Any] = {}
    results: dict[str, Any] | None = None
    try:
        status, results = run.status, run.results
    except (RunError, OSError) as error:
        if not os.path.isdir(run.path):
            raise RunError(f"{run.path} vanished") from error
        problem = str(error)
    # What a resume, perhaps on another machine, does not say stands where the run was created.
    resumes = [item for item in meta.get("resumes") or [] if isinstance(item, dict)]
    origin = {**meta, **{key: value for item in resumes for key, value in item.items() if value is not None}}
    events = read_tail(run.path / "metrics.jsonl")
    # Of this process only: before a resume the speed is another one's, and the pause is no progress.
    resumed_at = _seconds(origin.get("resumed_at")) or 0.0
    train = [event for event in events if event["event"] == "train" and event["time"] >= resumed_at]
    step = _largest(_number(status.get("step")), *(event["step"] for event in train))
    num_steps = _number(status.get("num_steps"))
    updated = _largest(
        _seconds(status.get("updated_at")), _seconds(origin.get("created_at")), *(event["time"] for event in events)
    )
    age = None if updated is None else max(0.0, now - updated)
    host = status.get("host") or origin.get("host")
    state = UNREADABLE if problem or not isinstance(status.get("state"), str) else status["state"]
    if state == "running":
        state = _running_or_gone(run.path, host, math.inf if age is None else age)
    error = problem or status.get("error") or None
    if state == "finished" and results is None:
        error = "results.json is missing"
    speeds = [_number(event["metrics"].get("train/speed/images_per_second")) for event in train[-1:]]
    return RunStatus(
        path=str(run.path),
        run_id=run.run_id,
        experiment=meta.get("experiment") or run.path.parent.name,
        seed=meta.get("seed"),
        recipe=origin.get("recipe"),
        state=state,
        step=step,
        num_steps=num_steps,
        epoch=_largest(_number(status.get("epoch")), *(_number(event.get("epoch")) for event in train)),
        ap=_last_ap(run.path, results, events),
        images_per_second=_largest(*speeds),
        eta=_eta(train, step, num_steps) if state == "running" else None,
        age=age,
        host=host,
        device=origin.get("device"),
        error=next(iter(str(error).splitlines()), None) if error else None,
    )


def read_tail(path: Path, num_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The last events of a metrics.jsonl in the order of writing; empty where there are none.

    Args:
        num_bytes: how much of the end of the file is read; the line it cuts into is left out.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(start)
            lines = file.read(num_bytes).split(b"\n")[start > 0 :]
    except OSError:  # not there yet, or not any more
        return []
    return [event for line in lines if (event := _parse_event(line)) is not None]


def _parse_event(line: bytes) -> dict[str, Any] | None:
    try:
        item = json.loads(line)
    except ValueError:  # torn
        return None
    valid = isinstance(item, dict) and isinstance(item.get("event"), str) and isinstance(item.get("metrics"), dict)
    return item if valid and type(item.get("step")) is int and _number(item.get("time")) is not None else None


def _eta(train: list[dict[str, Any]], step: float | None, num_steps: float | None) -> float | None:
    """Seconds to the last training step at the speed of the last events, evaluations between them included."""
    recent = train[-RATE_EVENTS:]
    if len(recent) < 2 or step is None or num_steps is None:
        return None
    steps, seconds = recent[-1]["step"] - recent[0]["step"], recent[-1]["time"] - recent[0]["time"]
    return max(0.0, num_steps - step) * seconds / steps if steps > 0 and seconds > 0 else None


def _last_ap(path: Path, results: dict[str, Any] | None, events: list[dict[str, Any]]) -> float | None:
    metrics = results or next((event["metrics"] for event in reversed(events) if event["event"] == "eval"), None)
    if metrics is None:  # longer ago than the tail
        with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
            newest = sorted((path / "eval").glob("step_*.json"), key=lambda file: (len(file.name), file.name))[-1]
            metrics = json.loads(newest.read_bytes()).get("metrics")
    return _number(metrics.get("val/bbox/AP")) if isinstance(metrics, dict) else None


def _running_or_gone(path: Path, host: Any, age: float) -> str:
    held = is_held(path) if host == socket.gethostname() and age > DEAD_AFTER else None
    if held is False:
        return "dead"
    return "silent" if held is None and age > SILENT_AFTER else "running"


def _candidates(root: Path) -> Iterator[Path]:
    """The places of runs under a root: itself, its folders with meta.json, and the folders in its other folders."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}; give the runs_root of the sweep as argument")
    try:
        folders = [root] if (root / "meta.json").is_file() else _folders(root)
    except OSError as error:
        raise UserError(f"{root}: cannot be read: {error.strerror}") from error
    for folder in folders:
        try:
            yield from [folder] if (folder / "meta.json").is_file() else _folders(folder)
        except OSError:  # vanished, or someone else's
            if folder.is_dir():
                yield folder


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _seconds(text: Any) -> float | None:
    """Seconds since 1970 of a time as the run directory writes it."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
