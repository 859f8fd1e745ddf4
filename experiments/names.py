"""The experiments that a run is: equal configurations are one run, whatever they are called."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.build import build_dashboards
from experiments.deviations import deviations
from sparse_rcnn.errors import RunError, UserError
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.writer import RunDirectory

TELLING_SECONDS = 15.0


def add_names(path: Path, configs: Iterable[dict[str, Any]]) -> None:
    """Note in a run's directory that it is the experiments of these configurations, which lead to it."""
    directory = RunDirectory(path)
    for config in configs:
        if not directory.has_name(config["experiment_name"]):
            directory.add_name(config["experiment_name"], deviations(config))


def tell_names(paths: Iterable[Path]) -> None:
    """Tell the names of finished runs to the dashboards of their own configurations, as far as `TELLING_SECONDS` go.

    A run that still trains tells them itself. What fails is a line on stderr, and tried again the next time.
    """
    end = time.monotonic() + TELLING_SECONDS
    # In any order: one that never succeeds does not hold up the same others every time.
    for path in sorted(paths, key=lambda _: random.random()):
        directory = RunDirectory(path)
        if not directory.is_finished:
            continue
        try:
            for dashboard in build_dashboards(directory.config, path, directory.meta["run_id"]):
                if (left := end - time.monotonic()) > 0:
                    dashboard.renamed(Run(path).results or {}, left)
        except (UserError, RunError, TypeError, AttributeError) as error:  # the configuration of another version
            print(f"the names of {path} are not told: {str(error).splitlines()[0]}", file=sys.stderr)
