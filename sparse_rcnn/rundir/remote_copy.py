"""The part of a run directory that a service such as W&B keeps a copy of, under flat keys."""

from __future__ import annotations

from typing import Any

from sparse_rcnn.rundir.reader import RunSource

PREFIX = "run_directory"
META, STATUS, RESULTS = f"{PREFIX}/meta", f"{PREFIX}/status", f"{PREFIX}/results"
EXPERIMENTS, DEVIATIONS = f"{PREFIX}/experiments", f"{PREFIX}/deviations"


def copy_of(run: RunSource) -> dict[str, Any]:
    """The copy of a run's directory, from which a reader of the service makes a `RunSource` again."""
    return {
        META: run.meta,
        STATUS: run.status,
        RESULTS: run.results,
        EXPERIMENTS: run.experiments,
        DEVIATIONS: run.deviations,
    }
