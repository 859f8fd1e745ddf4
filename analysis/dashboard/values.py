"""Values of a run's files as the page can show them: finite numbers, short texts, AP in percent."""

from __future__ import annotations

import math
from typing import Any

from sparse_rcnn.rundir.metric_keys import AP_NAMES

MAX_TEXT = 300


def number(value: Any, digits: int = 6) -> float | None:
    """A finite number to so many significant digits; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """An integer; None for anything else."""
    return value if type(value) is int and abs(value) < 2**53 else None


def percent(fraction: Any) -> float | None:
    """A fraction in percent; None for COCO's -1, which stands for no ground truth."""
    value = number(fraction, 12)
    return None if value is None or value < 0 else round(100 * value, 4)


def text(value: Any, default: str | None = None) -> str | None:
    """A text, cut where it is too long for a cell; the default for None."""
    if value is None:
        return default
    content = value if isinstance(value, str) else repr(value)
    return content if len(content) <= MAX_TEXT else content[: MAX_TEXT - 1] + "…"


def ap_values(metrics: dict[str, Any], prefix: str) -> list[float | None] | None:
    """The six AP numbers under `prefix/`, in percent; None where there is no AP."""
    if f"{prefix}/AP" not in metrics:
        return None
    return [percent(metrics.get(f"{prefix}/{name}")) for name in AP_NAMES]
