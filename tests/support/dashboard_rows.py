"""A run as a row of the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.dashboard.collect import collect
from analysis.dashboard.record import read_record
from tests.support.runs import START

NOW = START + 1000


def row_of(path: Path) -> dict[str, Any]:
    """The row of a run in a folder of an experiment."""
    return collect([read_record(path, path.parent.parent)], "runs", NOW)["runs"][0]
