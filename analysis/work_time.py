"""The time that a run has worked, from the times of its events."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sparse_rcnn.rundir.run_progress import seconds_of

Points = list[float | None]

# An evaluation logs nothing and may be long; what is longer than this, somebody's computer was asleep.
MAX_GAP_SECONDS = 1800.0


def wall_seconds(times: Sequence[float | None], started: float | None, resumed: Sequence[float]) -> Points:
    """Seconds of work until each event, with the time between an interruption and its resume taken out.

    An interruption counts as one usual gap between two events.

    Args:
        times: of the events in the order of their steps, in seconds since 1970; None stays None.
        started: when the first process started.
        resumed: when later processes started.
    """
    known = [time for time in times if time is not None]
    gaps = [b - a for a, b in pairwise(known) if b > a]
    usual = statistics.median(gaps) if gaps else 0.0
    seconds: Points = []
    total, last = 0.0, started
    for time in times:
        if time is None:
            seconds.append(None)
            continue
        gap = usual if last is None else time - last
        is_interrupted = last is not None and any(last < moment <= time for moment in resumed)
        total += usual if is_interrupted or gap > MAX_GAP_SECONDS else max(0.0, gap)
        seconds.append(round(total, 3))
        last = time
    return seconds


def resume_moments(meta: Mapping[str, Any]) -> list[float]:
    """When later processes of a run started, in seconds since 1970, from its meta.json."""
    resumes = meta.get("resumes")
    items = [item for item in (resumes if isinstance(resumes, list) else []) if isinstance(item, dict)]
    return [second for item in items if (second := seconds_of(item.get("resumed_at"))) is not None]
