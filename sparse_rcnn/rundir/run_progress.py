"""The progress of runs while jobs write them, and whether they live; reads only, and holds nothing up."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.find import find_places
from sparse_rcnn.rundir.json_files import read_sealed_object
from sparse_rcnn.rundir.lock import is_held
from sparse_rcnn.rundir.reader import Run, parse_event
from sparse_rcnn.rundir.summary import RunSummary, finite_numbers, summarise

# States that nothing writes: what is known of a run that says it is running, or of a damaged one.
DEAD, SILENT, UNREADABLE = "dead", "silent", "unreadable"
DEAD_AFTER = 60.0  # seconds without an update; the lock decides, this only spares runs that start or stop now
SILENT_AFTER = 600.0  # seconds; an evaluation writes no status, and may be long
TAIL_BYTES = 64 * 1024
RATE_EVENTS = 20


@dataclass(frozen=True)
class RunProgress:
    """A run as it is now. Times are in seconds, AP is a fraction; None is what cannot be known.

    Attributes:
        summary: of the run.
        state: as status.json has it, or what is known of a run that does not write any more.
        recipe, device, host: of its latest process.
        step, epoch: as far as any file shows them.
        ap: of the final results or the newest evaluation.
        eta: until its last training step, at the speed of the last events.
        age: since the last sign of life.
        error: the first line of what went wrong.
    """

    summary: RunSummary
    path: Path
    state: str
    recipe: str | None
    device: str | None
    host: str | None
    step: float | None
    num_steps: float | None
    epoch: float | None
    ap: float | None
    images_per_second: float | None
    eta: float | None
    age: float | None
    error: str | None


@dataclass
class Overview:
    """The runs under some roots, the folders that are none, and those that a newer program wrote."""

    runs: list[RunProgress] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)


def read_overview(roots: Sequence[str | Path], now: float | None = None) -> Overview:
    """The progress of all runs under ``roots``; may be called while they are written, created and deleted.

    Args:
        roots: as `find_places` takes them; each run is read once.
        now: seconds since 1970; None for the present.

    Raises:
        RunError: a root is not a folder, or cannot be read.
    """
    overview = Overview()
    seen: set[Path] = set()
    for root in roots:
        places = find_places(root)
        for path in sorted([*places.runs, *places.foreign]):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _add(overview, path, time.time() if now is None else now)
    return overview


def _add(overview: Overview, path: Path, now: float) -> None:
    try:
        overview.runs.append(read_progress(Run(path), now))
    except NewerSchemaError:
        overview.newer.append(str(path))
    except (RunError, OSError):
        if os.path.isdir(path):  # else it vanished since it was listed
            overview.foreign.append(str(path))


def read_progress(run: Run, now: float) -> RunProgress:
    """The progress of a run, read from its directory; ``now`` in seconds since 1970.

    Raises:
        RunError: it vanished in between.
    """
    status: dict[str, Any] = {}
    results: dict[str, Any] | None = None
    summary = summarise(run)
    with contextlib.suppress(RunError):  # then the summary names the problem
        status, results = run.status, run.results
    if not os.path.isdir(run.path):
        raise RunError(f"{run.path} vanished")
    # What a resume, perhaps on another machine, does not say stands where the run was created.
    resumes = [item for item in run.meta.get("resumes") or [] if isinstance(item, dict)]
    origin = {**run.meta, **{key: value for item in resumes for key, value in item.items() if value is not None}}
    events = read_tail(run.path / layout.METRICS)
    # Of this process only: before a resume the speed is another one's, and the pause is no progress.
    resumed_at = seconds_of(origin.get("resumed_at")) or 0.0
    train = [event for event in events if event["event"] == "train" and event["time"] >= resumed_at]
    step = _largest(_number(status.get("step")), *(event["step"] for event in train))
    num_steps = _number(status.get("num_steps"))
    last_sign = last_sign_of_life(status, origin, events)
    age = None if last_sign is None else max(0.0, now - last_sign)
    host = status.get("host") or origin.get("host")
    unreadable = summary.problem is not None or not isinstance(status.get("state"), str)
    state = UNREADABLE if unreadable else status["state"]
    if state == layout.RUNNING:
        state = running_or_gone(run.path, host, age)
    error = summary.problem or status.get("error") or None
    if state == layout.FINISHED and results is None:
        error = f"{layout.RESULTS} is missing"
    speeds = [_number(event["metrics"].get(metric_keys.IMAGES_PER_SECOND)) for event in train[-1:]]
    return RunProgress(
        summary=summary,
        path=run.path,
        state=state,
        recipe=origin.get("recipe"),
        device=origin.get("device"),
        host=host,
        step=step,
        num_steps=num_steps,
        epoch=_largest(_number(status.get("epoch")), *(_number(event.get("epoch")) for event in train)),
        ap=_last_ap(run.path, results, events),
        images_per_second=_largest(*speeds),
        eta=_eta(train, step, num_steps) if state == layout.RUNNING else None,
        age=age,
        error=next(iter(str(error).splitlines()), None) if error else None,
    )


def last_sign_of_life(
    status: Mapping[str, Any], meta: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> float | None:
    """When anything was last written of a run, in seconds since 1970; None where no file has a time."""
    moments = (seconds_of(status.get("updated_at")), seconds_of(meta.get("created_at")))
    return _largest(*moments, *(_number(event.get("time")) for event in events))


def read_tail(path: Path, num_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The last events of a metrics.jsonl in the order of writing; empty where there are none.

    Args:
        path: of the file.
        num_bytes: how much of the end of the file is read; the line it cuts into is left out.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(start)
            lines = file.read(num_bytes).split(b"\n")[start > 0 :]
    except OSError:  # not there yet, or not any more
        return []
    events = [event for line in lines if (event := parse_event(line)) is not None]
    return [e for e in events if isinstance(e.get("metrics"), dict) and _number(e.get("time")) is not None]


def seconds_of(text: Any) -> float | None:
    """Seconds since 1970 of an ISO 8601 time, UTC where it names no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (AttributeError, TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


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
        with contextlib.suppress(OSError, IndexError, RunError):
            files = (path / layout.EVALUATIONS).glob("step_*.json")
            newest = sorted(files, key=lambda file: (len(file.name), file.name))[-1]
            metrics = read_sealed_object(newest).get("metrics")
    return _number(metrics.get(metric_keys.AP)) if isinstance(metrics, dict) else None


def running_or_gone(path: Path, host: Any, age: float | None) -> str:
    """The state of a run whose status is running: `layout.RUNNING`, or that it is `DEAD` or `SILENT`.

    Args:
        path: of the run.
        host: that it runs on; its lock tells the truth on that host alone.
        age: seconds since its last sign of life; None for none.
    """
    age = math.inf if age is None else age
    held = is_held(path) if host == socket.gethostname() and age > DEAD_AFTER else None
    if held is False:
        return DEAD
    return SILENT if held is None and age > SILENT_AFTER else layout.RUNNING


def _number(value: Any) -> float | None:
    return value if finite_numbers({"": value}) else None


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
